//! Catching up, snapshots and compaction. [Chandra07 §5.5; vanRenesse15 §4]
//!
//! Whoever lacks the values of a few chosen slots asks for them; whoever lacks more than others
//! still keep fetches a snapshot, which the driver takes, stores and transfers.

use quorate_core::frontier::Frontier;
use quorate_core::id::{ReplicaId, Slot, Time};
use quorate_core::protocol::{Dest, Fetch, SnapshotRef};
use quorate_core::request::Batch;

use crate::log::{Accepted, Ballot, Proposal};
use crate::message::Message;
use crate::mutant::Mutant;
use crate::record::{self, Record};
use crate::replica::{MultiPaxos, Out, Role, Timer};

/// Chosen values were asked for, and have not come.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Learning {
    /// From which slot on.
    from: Slot,
    /// When.
    asked: Time,
    /// How often in vain.
    tries: usize,
}

/// Whether `snapshot` is one of a single log. It needs no anchor: one replica's word is enough,
/// for all in it is chosen; and slots do not depend on those before them, so that a log goes on
/// after any snapshot.
pub(crate) fn is_acceptable(snapshot: &SnapshotRef) -> bool {
    Frontier::single(snapshot.at.slot()) == snapshot.at && snapshot.anchor.is_empty()
}

/// Catching up. [vanRenesse15 §4]
impl MultiPaxos {
    /// Asks for chosen values that did not come: the leader, and every other time another replica,
    /// one after the other.
    pub(crate) fn ask_for_missing(&mut self, now: Time, out: &mut Out) {
        let from = self.first_unchosen();
        let Role::Follower(follower) = &self.role else {
            return;
        };
        let Some(ballot) = follower.leader.filter(|_| follower.watermark >= from) else {
            self.learning = None;
            return;
        };
        let tries = match self.learning {
            Some(learning) if learning.from == from => {
                if now.since(learning.asked) < self.config.retransmit {
                    return;
                }
                learning.tries + 1
            }
            _ => 0,
        };
        let asked = now;
        self.learning = Some(Learning { from, asked, tries });
        let others = self.n.saturating_sub(1).max(1);
        let other = self.peers().nth(tries / 2 % others);
        let whom = other.filter(|_| tries % 2 == 1).unwrap_or(ballot.replica);
        out.send(Dest::One(whom), Message::Learn { from });
        out.arm(Timer::Retransmit, now + self.config.retransmit);
    }

    /// A peer lacks values that are chosen.
    pub(crate) fn learn(&mut self, peer: ReplicaId, from: Slot, out: &mut Out) {
        let compacted = self.log.compacted();
        if from <= compacted {
            if self.config.mutated(Mutant::CatchUpFromCompactedRange) {
                let batch = Batch::noop();
                let proposals = vec![Proposal { slot: from, batch }];
                return out.send(Dest::One(peer), Message::Chosen { proposals });
            }
            return self.send_to_fetch(peer, out);
        }
        self.has_come_to(peer, from.previous());
        let max_bytes = self.config.max_message_bytes;
        let through = match self.config.mutated(Mutant::LearnAnsweredWithUnchosen) {
            true => self.log.last(),
            false => self.executed,
        };
        let proposals = self.log.proposals(from, through, max_bytes);
        if !proposals.is_empty() {
            out.send(Dest::One(peer), Message::Chosen { proposals });
        }
    }

    /// Tells a peer that what it lacks is compacted, and keeps from now on what lies beyond the
    /// snapshot that it is to fetch.
    pub(crate) fn send_to_fetch(&mut self, peer: ReplicaId, out: &mut Out) {
        self.fetching.entry(peer).or_insert(self.snapshot);
        let through = self.log.compacted();
        out.send(Dest::One(peer), Message::SnapshotNeeded { through });
    }

    /// A peer has executed through `slot`: what precedes that is kept for it no longer.
    pub(crate) fn has_come_to(&mut self, peer: ReplicaId, slot: Slot) {
        if slot >= self.snapshot {
            self.fetching.remove(&peer);
        } else if let Some(held) = self.fetching.get_mut(&peer) {
            *held = slot.max(*held);
        }
    }

    /// How far the log may be compacted below the snapshot through `snapshot`, for the sake of peers that
    /// fetch an older one: a save may take longer than this replica needs for the next snapshot. Those
    /// who would need more than [`Config::max_held_bytes`](crate::Config::max_held_bytes) begin anew.
    fn compactable(&mut self, snapshot: Slot) -> Slot {
        let config = &self.config;
        let (entries, bytes) = (config.retained_entries, config.retained_bytes);
        let through = self.log.compactable(snapshot, entries, bytes);
        let held = match config.mutated(Mutant::HeldWithoutBound) {
            true => usize::MAX,
            false => config.max_held_bytes,
        };
        let farthest = self.log.compactable(snapshot, usize::MAX, held);
        self.fetching.retain(|_, held| *held >= farthest);
        let held = self.fetching.values().min().copied();
        let held = held.filter(|_| !self.config.mutated(Mutant::CompactPastFetches));
        through.min(held.unwrap_or(through))
    }

    /// Takes values that another replica knows to be chosen. A leader takes none: what it tells
    /// others is chosen must be what it has proposed itself, or has found in its election.
    pub(crate) fn chosen(&mut self, proposals: Vec<Proposal>, out: &mut Out) {
        if matches!(self.role, Role::Follower(_)) {
            self.learn_chosen(proposals, out);
        }
    }

    /// Takes values that are chosen, as far as they follow what is executed. They are executed at
    /// once, so that no window bounds them.
    pub(crate) fn learn_chosen(&mut self, proposals: Vec<Proposal>, out: &mut Out) {
        let mut next = self.first_unchosen();
        let mut learnt = Vec::new();
        for proposal in proposals {
            let slot = proposal.slot;
            let differs = |held: &Accepted| held.batch != proposal.batch;
            if slot < next {
                if self.log.accepted(slot).is_some_and(differs) {
                    self.conflict = Some(slot);
                }
            } else if slot == next && self.log.learn(proposal.clone(), usize::MAX) {
                next = next.next();
                learnt.push(proposal);
            }
        }
        if !learnt.is_empty() {
            out.persist(Record::Chosen(learnt));
        }
        self.advance(out);
    }

    /// What this replica lacks is compacted at a peer. Said again whenever it asks, until the
    /// snapshot is installed.
    pub(crate) fn snapshot_needed(&mut self, from: ReplicaId, through: Slot, out: &mut Out) {
        if through > self.executed {
            out.fetch(Fetch {
                from,
                at_least: Frontier::single(through),
            });
        }
    }
}

/// Snapshots. [Chandra07 §5.5]
impl MultiPaxos {
    /// A snapshot of this replica's is durable: compacts the log, but for a tail that spares
    /// peers that are a little behind the snapshot. What is not in it stays, chosen or not.
    pub(crate) fn snapshotted(&mut self, snapshot: &SnapshotRef, out: &mut Out) {
        let slot = snapshot.at.slot();
        if slot <= self.snapshot || slot > self.executed {
            return;
        }
        self.snapshot = slot;
        let mut through = self.compactable(slot);
        if self.config.mutated(Mutant::UnexecutedSlotsTrimmed) {
            through = through.max(self.known_chosen());
        }
        if through > self.log.compacted() {
            self.log.compact_through(through);
            self.rewrite(out);
        }
        self.offer_snapshot(out);
    }

    fn known_chosen(&self) -> Slot {
        match &self.role {
            Role::Follower(follower) => follower.watermark,
            Role::Candidate(_) | Role::Leader(_) => self.executed,
        }
    }

    /// The state machine now is a snapshot of another replica's. What was accepted in the slots
    /// beyond it is as good as before.
    pub(crate) fn installed(&mut self, now: Time, snapshot: &SnapshotRef, out: &mut Out) {
        let slot = snapshot.at.slot();
        if slot <= self.executed {
            return;
        }
        self.log.compact_through(slot);
        (self.executed, self.snapshot) = (slot, slot);
        // A leader tells others what is chosen of what it has proposed; of these slots it cannot
        // know any more.
        let leads = matches!(self.role, Role::Leader(_));
        if leads && !self.config.mutated(Mutant::InstalledLeaderLeadsOn) {
            self.give_up(now, out);
        }
        self.rewrite(out);
        self.offer_snapshot(out);
        self.advance(out);
        self.answer_reads(out);
    }

    /// Writes the whole durable state anew.
    pub(crate) fn rewrite(&mut self, out: &mut Out) {
        self.rewrite_due = false;
        let max = self.config.max_message_bytes;
        let promised = match self.config.mutated(Mutant::RewriteForgetsPromise) {
            true => Ballot::ZERO,
            false => self.promised,
        };
        let chosen = match self.config.mutated(Mutant::RewriteCallsAllChosen) {
            true => self.log.last(),
            false => self.executed,
        };
        let mut records = record::records(promised, chosen, &self.log, max);
        if self.config.mutated(Mutant::RewriteForgetsUnchosen) {
            records.retain(|record| !matches!(record, Record::Accepted { .. }));
        }
        out.rewrite(records);
    }

    /// Lets peers have the newest snapshot. All in it is chosen: one replica's word is enough.
    pub(crate) fn offer_snapshot(&self, out: &mut Out) {
        if self.snapshot > Slot::ZERO {
            out.offer(Frontier::single(self.snapshot), Default::default());
        }
    }
}
