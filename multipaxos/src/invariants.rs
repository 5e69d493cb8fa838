//! What must hold in every replica after every step. The simulator and the driver ask.
//!
//! | rule | source |
//! |---|---|
//! | one value is chosen in a slot | [Lamport01 §2.2 P2] |
//! | nothing is accepted in a higher ballot than the one promised | [Lamport01 §2.2 P1a] |
//! | compacted ≤ snapshot ≤ executed | [Chandra07 §5.5] |
//! | what is executed and not compacted is held | [Lamport01 §3] |
//! | what is held and executed is known chosen | [Lamport01 §2.3] |
//! | a leader has proposed in all slots that it has found | [Lamport01 §3] |
//! | a candidate and a leader have promised their own ballot | [Lamport01 §2.5] |
//! | nobody follows itself, or a lower ballot than the one promised | [vanRenesse15 §2] |
//! | a leader holds a proposal of its own ballot in its last slot | [Lamport01 §2.2] |
//!
//! Each check looks at the ends of the log only: it runs after every step. What concerns several
//! replicas (one leader a ballot, equal executions) the simulator checks from outside.

use quorate_core::protocol::{Violation, invariant};

use crate::normal::Leader;
use crate::replica::{MultiPaxos, Role};

impl MultiPaxos {
    pub(crate) fn check_invariants(&self) -> Result<(), Violation> {
        invariant(
            "one value is chosen in a slot",
            self.conflict.is_none(),
            || format!("two values for slot {:?}", self.conflict),
        )?;
        self.check_slots()?;
        self.check_ballots()?;
        let own = self.promised.replica == self.me;
        match &self.role {
            Role::Follower(follower) => {
                let leader = follower.leader;
                let other = leader.is_none_or(|ballot| ballot.replica != self.me);
                invariant("a follower's leader is another", other, || {
                    format!("{} follows itself", self.me)
                })
            }
            Role::Candidate(_) => invariant("a candidate has promised its ballot", own, || {
                format!("{} campaigns in {}", self.me, self.promised)
            }),
            Role::Leader(leader) => {
                invariant("a leader has promised its ballot", own, || {
                    format!("{} leads in {}", self.me, self.promised)
                })?;
                self.check_leader(leader)
            }
        }
    }

    fn check_slots(&self) -> Result<(), Violation> {
        let compacted = self.log.compacted();
        invariant(
            "compacted <= snapshot <= executed",
            compacted <= self.snapshot && self.snapshot <= self.executed,
            || {
                format!(
                    "compacted {compacted}, snapshot {}, executed {}",
                    self.snapshot, self.executed
                )
            },
        )?;
        // Through the snapshot the log may end before it: the rest was fetched.
        let held = self.executed <= self.snapshot || self.log.is_chosen(self.executed);
        invariant("what is executed is held", held, || {
            format!("slot {} was executed, and is not held", self.executed)
        })?;
        // A Learn and a promise tell others that it is.
        let known = |slot| compacted >= slot || slot > self.executed || self.log.is_chosen(slot);
        let ends = [compacted.next(), self.executed];
        invariant(
            "what is held and executed is known chosen",
            ends.into_iter().all(known),
            || format!("of slots {ends:?} one was executed, and is not known chosen"),
        )
    }

    fn check_ballots(&self) -> Result<(), Violation> {
        let ends = [self.executed.next(), self.log.last()];
        for slot in ends {
            let Some(accepted) = self.log.accepted(slot) else {
                continue;
            };
            invariant(
                "nothing is accepted in a ballot higher than promised",
                accepted.ballot <= self.promised,
                || {
                    format!(
                        "slot {slot} was accepted in {}, and {} is promised",
                        accepted.ballot, self.promised
                    )
                },
            )?;
        }
        Ok(())
    }

    fn check_leader(&self, leader: &Leader) -> Result<(), Violation> {
        let last = leader.next.previous();
        let own = self.log.accepted(last).map(|held| held.ballot);
        let proposed = last <= self.executed || own == Some(self.promised);
        invariant(
            "a leader has accepted what it proposes",
            proposed || self.log.is_chosen(last),
            || format!("slot {last} holds a proposal of {own:?}"),
        )?;
        invariant(
            "a leader proposes beyond what is executed",
            leader.next > self.executed,
            || format!("next {}, executed {}", leader.next, self.executed),
        )?;
        invariant(
            "a leader has proposed in all slots that it has found",
            leader.next > leader.found,
            || format!("next {}, found {}", leader.next, leader.found),
        )
    }
}
