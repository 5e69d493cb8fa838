//! What must hold in every replica after every step. The simulator and the driver ask.
//!
//! | rule | source |
//! |---|---|
//! | terms never decrease along the log, nor exceed the current term | [Ongaro14 §5.3] |
//! | compacted ≤ snapshot ≤ commit ≤ last | [Ongaro14 §7, figure 2] |
//! | a candidate and a leader have voted for themselves | [Ongaro14 §5.2] |
//! | nobody follows itself | [Ongaro14 §5.2] |
//! | matchIndex < nextIndex ≤ last + 1 | [Ongaro14 figure 2] |
//! | a leader that has committed by counting has committed an entry of its own | [Ongaro14 §5.4.2] |
//! | a leader's last entry is of its own term: it appends, and never overwrites | [Ongaro14 §5.3] |
//!
//! Each check looks at the ends of the log only: it runs after every step. What concerns several
//! replicas (one leader a term, equal logs, equal executions) the simulator checks from outside.

use quorate_core::id::{ReplicaId, Slot};
use quorate_core::protocol::{Violation, invariant};

use crate::normal::Leader;
use crate::replica::{Raft, Role};

impl Raft {
    pub(crate) fn check_invariants(&self) -> Result<(), Violation> {
        self.check_terms()?;
        self.check_indices()?;
        let voted_for_itself = self.voted_for == Some(self.me);
        match &self.role {
            Role::Follower(follower) => invariant(
                "a follower's leader is another",
                follower.leader != Some(self.me),
                || format!("{} follows itself", self.me),
            ),
            Role::PreCandidate(_) => Ok(()),
            Role::Candidate(_) => {
                invariant("a candidate votes for itself", voted_for_itself, || {
                    format!("{} voted for {:?}", self.me, self.voted_for)
                })
            }
            Role::Leader(leader) => {
                invariant("a leader voted for itself", voted_for_itself, || {
                    format!("{} voted for {:?}", self.me, self.voted_for)
                })?;
                self.check_leader(leader)
            }
        }
    }

    fn check_terms(&self) -> Result<(), Violation> {
        let (compacted, last) = (self.log.compacted(), self.log.last());
        let pairs = [
            (compacted.slot, compacted.slot.next()),
            (last.slot.previous(), last.slot),
        ];
        for (first, second) in pairs {
            let terms = (self.log.term_at(first), self.log.term_at(second));
            let (Some(before), Some(after)) = terms else {
                continue;
            };
            invariant(
                "terms never decrease along the log",
                before <= after,
                || format!("term {after} in slot {second} comes after term {before}"),
            )?;
        }
        invariant(
            "no entry is of a later term",
            last.term <= self.term,
            || format!("an entry of term {} in term {}", last.term, self.term),
        )
    }

    fn check_indices(&self) -> Result<(), Violation> {
        let (compacted, last) = (self.log.compacted().slot, self.log.last().slot);
        let ordered = compacted <= self.snapshot && self.snapshot <= self.commit;
        invariant(
            "compacted <= snapshot <= commit <= last",
            ordered && self.commit <= last,
            || {
                format!(
                    "compacted {compacted}, snapshot {}, commit {}, last {last}",
                    self.snapshot, self.commit
                )
            },
        )
    }

    fn check_leader(&self, leader: &Leader) -> Result<(), Violation> {
        let last = self.log.last();
        invariant(
            "a leader only appends",
            last.term == self.term && last.slot >= leader.first,
            || {
                format!(
                    "the log of the leader of term {} ends at {last:?}",
                    self.term
                )
            },
        )?;
        let counted = self.commit > leader.knew;
        invariant(
            "only entries of the current term are committed by counting",
            !counted || self.commit >= leader.first,
            || {
                format!(
                    "commit {}, {} when elected, own entries from {}",
                    self.commit, leader.knew, leader.first
                )
            },
        )?;
        let peers = leader.matched.iter().zip(&leader.progress);
        for (peer, (matched, progress)) in ReplicaId::all(self.n).zip(peers) {
            let ordered = *matched < progress.next && progress.next <= last.slot.next();
            invariant(
                "matchIndex < nextIndex <= last + 1",
                ordered || peer == self.me,
                || {
                    format!(
                        "{peer}: matched {matched}, next {}, last {}",
                        progress.next, last.slot
                    )
                },
            )?;
        }
        let known: Slot = leader.matched.iter().copied().max().unwrap_or_default();
        invariant(
            "nothing is acknowledged that was not sent",
            known <= last.slot,
            || {
                format!(
                    "slot {known} was acknowledged, the log ends at {}",
                    last.slot
                )
            },
        )
    }
}
