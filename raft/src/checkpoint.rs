//! Snapshots and log compaction. [Ongaro14 §7; OngaroThesis §5.1]
//!
//! The driver takes, stores and transfers snapshots. A follower fetches one when its leader tells
//! it to, instead of having it pushed by InstallSnapshot.

use quorate_core::codec;
use quorate_core::frontier::Frontier;
use quorate_core::id::{ReplicaId, Slot, Time};
use quorate_core::protocol::{Fetch, SnapshotRef};
use serde::{Deserialize, Serialize};

use crate::log::{Log, Position, Term};
use crate::message::HIGHEST;
use crate::mutant::Mutant;
use crate::record;
use crate::replica::{Out, Raft, Role};

/// What a snapshot must say besides its slot, for Raft to go on from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Anchor {
    /// The term of the last entry in the snapshot. [Ongaro14 §7 "last included term"]
    pub(crate) last: Term,
    /// The term of the replica that vouches for it, like the term of InstallSnapshot. Who installs
    /// the snapshot enters that term: a leader of an earlier one may not have what the snapshot
    /// holds, and must not be told that logs agree so far.
    pub(crate) vouched_in: Term,
}

impl Anchor {
    /// Reads the anchor of `snapshot`; an error says what is wrong with it.
    pub(crate) fn of(snapshot: &SnapshotRef) -> Result<Anchor, String> {
        let anchor: Anchor =
            codec::decode("anchor", &snapshot.anchor).map_err(|error| error.to_string())?;
        if anchor.last > anchor.vouched_in {
            return Err(format!(
                "an entry of term {} in a snapshot of term {}",
                anchor.last, anchor.vouched_in
            ));
        }
        if anchor.vouched_in.0 > HIGHEST || snapshot.at.slot().0 > HIGHEST {
            return Err(String::from("a term or slot is out of reach"));
        }
        Ok(anchor)
    }
}

/// Whether `snapshot` is one of a single log, with an anchor.
pub(crate) fn is_acceptable(snapshot: &SnapshotRef) -> bool {
    let single = Frontier::single(snapshot.at.slot()) == snapshot.at;
    single && Anchor::of(snapshot).is_ok()
}

impl Raft {
    /// A snapshot of this replica's is durable: compacts the log, but for a tail that spares
    /// peers that are a little behind the snapshot. [Ongaro14 §7; OngaroThesis §5.1]
    pub(crate) fn snapshotted(&mut self, snapshot: &SnapshotRef, out: &mut Out) {
        let slot = snapshot.at.slot();
        if slot <= self.snapshot || slot > self.commit {
            return;
        }
        self.snapshot = slot;
        let through = self.compactable(slot);
        if through > self.log.compacted().slot {
            self.log.compact_through(through);
            self.rewrite(out);
        }
        self.offer_snapshot(out);
    }

    /// How far the log may be compacted behind a snapshot that ends at `slot`.
    ///
    /// A peer that fetches a snapshot will need what follows it: were that gone by the time it has
    /// saved the snapshot, it would have to fetch another, and so for ever. So peers that fetch, and
    /// are heard, hold compaction back, but not beyond a bound.
    fn compactable(&self, slot: Slot) -> Slot {
        let config = &self.config;
        let tail = self
            .log
            .compactable(slot, config.retained_entries, config.retained_bytes);
        let Role::Leader(leader) = &self.role else {
            return tail;
        };
        let peers = ReplicaId::all(self.n).zip(&leader.progress);
        let heard = peers.filter(|(peer, _)| leader.tenure.hears(*peer));
        let first = heard.filter_map(|(_, progress)| progress.fetches()).min();
        match first {
            Some(first) if !config.mutated(Mutant::CompactPastFetches) => {
                let bound = self
                    .log
                    .compactable(slot, usize::MAX, config.max_held_bytes);
                tail.min(first.max(bound))
            }
            _ => tail,
        }
    }

    /// The leader no longer has what this replica lacks. Said again with each heartbeat, until
    /// the snapshot is installed.
    pub(crate) fn snapshot_needed(
        &mut self,
        now: Time,
        (from, heard): (ReplicaId, bool),
        (through, round): (Slot, u64),
        out: &mut Out,
    ) {
        if !self.follow(now, (from, heard), out) {
            return;
        }
        if let Role::Follower(follower) = &mut self.role {
            follower.hear_of(round);
            follower.owes = true;
        }
        if through > self.commit {
            out.fetch(Fetch {
                from,
                at_least: Frontier::single(through),
            });
        }
    }

    /// The state machine now is a snapshot of another replica's. "If instead the follower receives
    /// a snapshot that describes a prefix of its log, then log entries covered by the snapshot are
    /// deleted but entries following the snapshot are still valid and must be retained."
    /// [Ongaro14 §7]
    pub(crate) fn installed(&mut self, now: Time, snapshot: &SnapshotRef, out: &mut Out) {
        let slot = snapshot.at.slot();
        let Ok(anchor) = Anchor::of(snapshot) else {
            return;
        };
        if slot <= self.commit {
            return;
        }
        if anchor.vouched_in > self.term && !self.config.mutated(Mutant::SnapshotTermNotEntered) {
            self.adopt(anchor.vouched_in, out);
            self.become_follower(now, None, out);
        }
        let position = Position {
            term: anchor.last,
            slot,
        };
        let keeps =
            self.config.mutated(Mutant::LogKeptBehindSnapshot) && slot < self.log.last().slot;
        let kept = match keeps {
            true => {
                self.log.compact_through(slot);
                true
            }
            false => resume_after(&mut self.log, position),
        };
        (self.commit, self.snapshot) = (slot, slot);
        match &mut self.role {
            Role::Follower(follower) => follower.owes = true,
            // It asked for votes with a log that it no longer has.
            Role::PreCandidate(_) | Role::Candidate(_) => self.become_follower(now, None, out),
            // A leader has all that was committed in its term and before. [Ongaro14 §5.4.3]
            Role::Leader(leader) if kept => leader.skip_to(&self.log, slot),
            Role::Leader(_) => self.become_follower(now, None, out),
        }
        self.rewrite(out);
        self.offer_snapshot(out);
        self.answer_remote_reads(out);
    }

    /// Writes the whole durable state anew.
    pub(crate) fn rewrite(&mut self, out: &mut Out) {
        self.rewrite_due = false;
        let max = self.config.max_append_bytes;
        let voted_for = match self.config.mutated(Mutant::RewriteForgetsVote) {
            true => None,
            false => self.voted_for,
        };
        out.rewrite(record::records(self.term, voted_for, &self.log, max));
    }

    /// Lets peers have the newest snapshot. All in it is committed: one replica's word is enough.
    pub(crate) fn offer_snapshot(&self, out: &mut Out) {
        let Some(last) = self.log.term_at(self.snapshot) else {
            return;
        };
        let vouched_in = self.term;
        let anchor = Anchor { last, vouched_in };
        if let Ok(anchor) = codec::encode(&anchor)
            && self.snapshot > Slot::ZERO
        {
            out.offer(Frontier::single(self.snapshot), anchor.into());
        }
    }
}

/// Makes `log` one that goes on after a snapshot that ends at `position`: what it holds beyond is
/// kept if it has the same entry there, which is told. [Ongaro14 §7]
pub(crate) fn resume_after(log: &mut Log, position: Position) -> bool {
    let kept = log.term_at(position.slot) == Some(position.term);
    if kept {
        log.compact_through(position.slot);
    } else {
        *log = Log::after(position);
    }
    kept
}

#[cfg(test)]
mod tests {
    use quorate_core::crypto::Digest;

    use super::*;

    #[test]
    fn a_snapshot_with_a_slot_or_term_out_of_reach_is_not_acceptable() {
        let acceptable = |slot, term| {
            let anchor = Anchor {
                last: Term(1),
                vouched_in: Term(term),
            };
            is_acceptable(&SnapshotRef {
                at: Frontier::single(Slot(slot)),
                digest: Digest::of(b""),
                anchor: codec::encode(&anchor).unwrap().into(),
            })
        };
        assert!(acceptable(7, 2));
        assert!(!acceptable(u64::MAX, 2));
        assert!(!acceptable(7, u64::MAX));
    }
}
