//! The log: what was accepted in each slot, in whatever order, the first slots of it compacted
//! into a snapshot. [Lamport01 §3; vanRenesse15 §2]

use std::fmt;

use quorate_core::id::{ReplicaId, Slot};
use quorate_core::request::Batch;
use quorate_core::window::Window;
use serde::{Deserialize, Serialize};

/// A ballot: a round, and the only replica that may propose in it. Raft's terms are shared by
/// all, and votes decide whose one is; a ballot has its owner in its name. The order is that of
/// rounds first. [vanRenesse15 §2; Lamport01 §2.2]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Ballot {
    /// The round. A replica uses each at most once.
    pub round: u64,
    /// Whose ballot it is.
    pub replica: ReplicaId,
}

impl Ballot {
    /// Before the first ballot: nothing was promised, nobody proposes in it.
    pub const ZERO: Ballot = Ballot {
        round: 0,
        replica: ReplicaId(0),
    };

    /// The ballot as one number, in the same order: there are at most 64 replicas.
    pub fn number(self) -> u64 {
        self.round << 6 | u64::from(self.replica.0 & 63)
    }
}

impl fmt::Debug for Ballot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "b{}.{}", self.round, self.replica.0)
    }
}

impl fmt::Display for Ballot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.round, self.replica.0)
    }
}

/// A value for a slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proposal {
    /// The slot.
    pub slot: Slot,
    /// The value: all requests of one proposal, or none.
    pub batch: Batch,
}

/// What an acceptor tells a candidate of a slot. [Lamport01 §2.2 phase 1b]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The slot.
    pub slot: Slot,
    /// The ballot in which the value was accepted.
    pub ballot: Ballot,
    /// The value.
    pub batch: Batch,
}

/// What a slot takes besides its batch, at most: slot, ballot, and length of the batch.
const OVERHEAD: usize = 24;

/// About how many bytes a slot with `batch` takes in a message or record.
pub(crate) fn size(batch: &Batch) -> usize {
    batch.size() + OVERHEAD
}

/// The last proposal that an acceptor has accepted in a slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Accepted {
    /// Its ballot.
    pub(crate) ballot: Ballot,
    /// Its value.
    pub(crate) batch: Batch,
}

/// What a slot holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Instance {
    /// The proposal accepted last, which is that of the highest ballot.
    pub(crate) accepted: Option<Accepted>,
    /// Its value is known to be chosen.
    pub(crate) chosen: bool,
}

/// A replica's log.
#[derive(Clone, Debug, Default)]
pub(crate) struct Log {
    window: Window<Instance>,
}

impl Log {
    /// An empty log that goes on after `slot`, which a snapshot holds.
    pub(crate) fn after(slot: Slot) -> Self {
        Log {
            window: Window::after(slot),
        }
    }

    /// The last slot that is no longer held.
    pub(crate) fn compacted(&self) -> Slot {
        self.window.compacted()
    }

    /// The last slot that holds anything.
    pub(crate) fn last(&self) -> Slot {
        self.window.last()
    }

    /// What was accepted in `slot`, if that is held.
    pub(crate) fn accepted(&self, slot: Slot) -> Option<&Accepted> {
        self.window.slot(slot)?.accepted.as_ref()
    }

    /// Whether the value that `slot` holds is known to be chosen.
    pub(crate) fn is_chosen(&self, slot: Slot) -> bool {
        self.window.slot(slot).is_some_and(|held| held.chosen)
    }

    /// Accepts a proposal, unless the slot is compacted or makes the log hold more than `limit`
    /// slots. What is known chosen is not replaced: any proposal would have the same value.
    pub(crate) fn accept(&mut self, ballot: Ballot, proposal: Proposal, limit: usize) -> bool {
        let Some(held) = self.window.entry(proposal.slot, limit) else {
            return false;
        };
        if !held.chosen {
            let batch = proposal.batch;
            held.accepted = Some(Accepted { ballot, batch });
        }
        true
    }

    /// Notes that the value which `slot` holds is chosen.
    pub(crate) fn choose(&mut self, slot: Slot) {
        if let Some(held) = self.window.slot_mut(slot) {
            held.chosen = held.accepted.is_some();
        }
    }

    /// Notes that `proposal` is chosen, which some other replica has said. What was accepted of
    /// the same ballot or a higher one has the same value, so the ballot stays.
    pub(crate) fn learn(&mut self, proposal: Proposal, limit: usize) -> bool {
        let Some(held) = self.window.entry(proposal.slot, limit) else {
            return false;
        };
        let ballot = held.accepted.as_ref().map_or(Ballot::ZERO, |a| a.ballot);
        let batch = proposal.batch;
        held.accepted = Some(Accepted { ballot, batch });
        held.chosen = true;
        true
    }

    /// Drops all slots through `slot`.
    pub(crate) fn compact_through(&mut self, slot: Slot) {
        self.window.compact_through(slot);
    }

    /// All slots from `from` on in which something was accepted.
    pub(crate) fn iter_from(&self, from: Slot) -> impl Iterator<Item = (Slot, &Accepted)> {
        let held = self.window.iter_from(from);
        held.filter_map(|(slot, held)| Some((slot, held.accepted.as_ref()?)))
    }

    /// What was accepted in the slots from `from` through `through`, as far as it fits into
    /// `max_bytes`, but at least one if there is one.
    pub(crate) fn proposals(&self, from: Slot, through: Slot, max_bytes: usize) -> Vec<Proposal> {
        let within = self
            .iter_from(from)
            .take_while(|(slot, _)| *slot <= through);
        let proposals = fitting(within, max_bytes).map(|(slot, accepted)| Proposal {
            slot,
            batch: accepted.batch.clone(),
        });
        proposals.collect()
    }

    /// What was accepted from `from` on, as far as it fits into `max_bytes`, but at least one if
    /// there is one; and whether that is all.
    pub(crate) fn reports(&self, from: Slot, max_bytes: usize) -> (Vec<Report>, bool) {
        let reports: Vec<Report> = fitting(self.iter_from(from), max_bytes)
            .map(|(slot, accepted)| Report {
                slot,
                ballot: accepted.ballot,
                batch: accepted.batch.clone(),
            })
            .collect();
        let next = reports.last().map_or(from, |last| last.slot.next());
        let all = self.iter_from(next).next().is_none();
        (reports, all)
    }

    /// How far the log may be compacted so that at most `entries` slots of together at most
    /// `bytes` bytes remain through `slot`.
    pub(crate) fn compactable(&self, slot: Slot, entries: usize, bytes: usize) -> Slot {
        let (mut through, mut count, mut taken) = (slot, 0, 0);
        while let Some(accepted) = self.accepted(through) {
            count += 1;
            taken += size(&accepted.batch);
            if count > entries || taken > bytes {
                break;
            }
            through = through.previous();
        }
        through
    }
}

fn fitting<'a>(
    slots: impl Iterator<Item = (Slot, &'a Accepted)>,
    max_bytes: usize,
) -> impl Iterator<Item = (Slot, &'a Accepted)> {
    let mut bytes = 0;
    slots.take_while(move |(_, accepted)| {
        let first = bytes == 0;
        bytes += size(&accepted.batch);
        first || bytes <= max_bytes
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ballot(round: u64, replica: u8) -> Ballot {
        Ballot {
            round,
            replica: ReplicaId(replica),
        }
    }

    fn proposal(slot: u64) -> Proposal {
        Proposal {
            slot: Slot(slot),
            batch: Batch::noop(),
        }
    }

    /// A log after slot 10 in which the slots given were accepted.
    fn log(slots: &[u64]) -> Log {
        let mut log = Log::after(Slot(10));
        for slot in slots {
            assert!(log.accept(ballot(1, 0), proposal(*slot), 100));
        }
        log
    }

    #[test]
    fn ballots_are_in_the_order_of_rounds_and_so_are_their_numbers() {
        let ordered = [
            Ballot::ZERO,
            ballot(1, 0),
            ballot(1, 63),
            ballot(2, 0),
            ballot(2, 1),
        ];
        for pair in ordered.windows(2) {
            assert!(pair[0] < pair[1]);
            assert!(pair[0].number() < pair[1].number());
        }
    }

    #[test]
    fn slots_are_accepted_in_any_order_within_the_limit() {
        let mut log = log(&[13, 11]);
        assert_eq!((log.compacted(), log.last()), (Slot(10), Slot(13)));
        assert!(log.accepted(Slot(12)).is_none());
        assert!(!log.accept(ballot(1, 0), proposal(10), 4), "compacted");
        assert!(!log.accept(ballot(1, 0), proposal(15), 4), "too far ahead");
        assert!(log.accept(ballot(2, 1), proposal(13), 4));
        assert_eq!(log.accepted(Slot(13)).unwrap().ballot, ballot(2, 1));
    }

    #[test]
    fn nothing_is_chosen_where_nothing_is_accepted() {
        let mut log = log(&[13]);
        log.choose(Slot(12));
        log.choose(Slot(13));
        assert!(!log.is_chosen(Slot(12)));
        assert!(log.is_chosen(Slot(13)));
    }

    #[test]
    fn learning_leaves_the_ballot_in_which_a_value_was_accepted() {
        let mut log = log(&[11]);
        assert!(log.learn(proposal(11), 100) && log.learn(proposal(12), 100));
        assert_eq!(log.accepted(Slot(11)).unwrap().ballot, ballot(1, 0));
        assert_eq!(log.accepted(Slot(12)).unwrap().ballot, Ballot::ZERO);
        assert!(log.accept(ballot(3, 0), proposal(12), 100));
        assert!(log.is_chosen(Slot(12)));
    }

    #[test]
    fn messages_are_filled_up_to_the_limit_but_never_empty() {
        let log = log(&[11, 12, 14, 15]);
        let slots = |from, through, max: usize| -> Vec<u64> {
            let proposals = log.proposals(Slot(from), Slot(through), max);
            proposals.iter().map(|proposal| proposal.slot.0).collect()
        };
        assert_eq!(slots(11, 15, 0), [11]);
        assert_eq!(slots(11, 15, 3 * OVERHEAD), [11, 12, 14]);
        assert_eq!(slots(12, 14, 1000), [12, 14]);
        assert_eq!(slots(16, 99, 1000), []);
        let reported = |from, max| {
            let (reports, all) = log.reports(Slot(from), max);
            (reports.len(), all)
        };
        assert_eq!(reported(1, 2 * OVERHEAD), (2, false));
        assert_eq!(reported(13, 2 * OVERHEAD), (2, true));
        assert_eq!(reported(16, 1), (0, true));
    }

    #[test]
    fn compaction_leaves_a_tail_of_limited_length_and_size() {
        let log = log(&[11, 12, 13, 14, 15]);
        let through = |slot, entries, bytes| log.compactable(Slot(slot), entries, bytes).0;
        assert_eq!(through(14, 0, 1000), 14);
        assert_eq!(through(14, 2, 1000), 12);
        assert_eq!(through(14, 9, 1000), 10);
        assert_eq!(through(14, 9, 3 * OVERHEAD), 11);
    }
}
