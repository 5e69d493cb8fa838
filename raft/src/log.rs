//! The log: entries in slots, the first of them compacted into a snapshot. [Ongaro14 §5.3, §7]

use std::fmt;

use quorate_core::id::Slot;
use quorate_core::request::Batch;
use quorate_core::window::Window;
use serde::{Deserialize, Serialize};

/// A term: time, as Raft counts it. [Ongaro14 §5.1]
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Term(pub u64);

impl Term {
    /// The term after this one.
    pub fn next(self) -> Term {
        Term(self.0.saturating_add(1))
    }
}

impl fmt::Debug for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "t{}", self.0)
    }
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A slot and the term of the entry in it. If two logs have the same position, they are equal up
/// to it: the Log Matching Property. The order is that of up-to-dateness: term first, then length.
/// [Ongaro14 §5.3, §5.4.1]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Position {
    /// The entry's term.
    pub term: Term,
    /// The entry's slot.
    pub slot: Slot,
}

/// What a slot holds: all requests of one proposal, and the term in which a leader took them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The term of the leader that put it into the log.
    pub term: Term,
    /// The requests; none in the entry with which a leader begins its term.
    pub batch: Batch,
}

/// What an entry takes besides its batch, at most: term, and length of the batch.
const OVERHEAD: usize = 16;

impl Entry {
    /// About how many bytes the entry takes in a message or record.
    pub fn size(&self) -> usize {
        self.batch.size() + OVERHEAD
    }
}

/// A replica's log.
#[derive(Clone, Debug, Default)]
pub(crate) struct Log {
    window: Window<Entry>,
    /// The term of the last compacted entry.
    compacted: Term,
}

impl Log {
    /// An empty log that goes on after `position`, which a snapshot holds.
    pub(crate) fn after(position: Position) -> Self {
        Log {
            window: Window::after(position.slot),
            compacted: position.term,
        }
    }

    /// The last entry that is no longer held.
    pub(crate) fn compacted(&self) -> Position {
        Position {
            term: self.compacted,
            slot: self.window.compacted(),
        }
    }

    /// The last entry.
    pub(crate) fn last(&self) -> Position {
        let slot = self.window.last();
        let held = self.window.slot(slot);
        Position {
            term: held.map_or(self.compacted, |entry| entry.term),
            slot,
        }
    }

    /// The term of the entry in `slot`, if that is still known.
    pub(crate) fn term_at(&self, slot: Slot) -> Option<Term> {
        match self.window.slot(slot) {
            Some(entry) => Some(entry.term),
            None => (slot == self.window.compacted()).then_some(self.compacted),
        }
    }

    /// The position of the entry in `slot`, if its term is still known.
    pub(crate) fn position(&self, slot: Slot) -> Option<Position> {
        let term = self.term_at(slot)?;
        Some(Position { term, slot })
    }

    /// Appends `entry`; returns its slot.
    pub(crate) fn push(&mut self, entry: Entry) -> Slot {
        self.window.push(entry)
    }

    /// Drops the entry in `slot` and all after it.
    pub(crate) fn cut_from(&mut self, slot: Slot) {
        self.window.cut_from(slot);
    }

    /// Drops all entries through `slot`, which must be held or compacted.
    pub(crate) fn compact_through(&mut self, slot: Slot) {
        if let Some(term) = self.term_at(slot) {
            self.compacted = term;
            self.window.compact_through(slot);
        }
    }

    /// The entries from `from` on that fit into `max_bytes`, but at least one if there is one,
    /// and how many bytes they take.
    pub(crate) fn entries(&self, from: Slot, max_bytes: usize) -> (Vec<Entry>, usize) {
        let mut bytes = 0;
        let fits = |(_, entry): &(Slot, &Entry)| {
            let first = bytes == 0;
            bytes += entry.size();
            first || bytes <= max_bytes
        };
        let held = self.window.iter_from(from).take_while(fits);
        let entries: Vec<Entry> = held.map(|(_, entry)| entry.clone()).collect();
        let taken = entries.iter().map(Entry::size).sum();
        (entries, taken)
    }

    /// All entries held from `from` on.
    pub(crate) fn iter_from(&self, from: Slot) -> impl Iterator<Item = (Slot, &Entry)> {
        self.window.iter_from(from)
    }

    /// The last slot, at `limit.slot` or before, whose entry is not of a later term than
    /// `limit.term`: the last at which this log may agree with one that has `limit` as its last
    /// position. A slot before the last compacted one if only those are left. [Ongaro14 §5.3]
    pub(crate) fn last_agreeable(&self, limit: Position) -> Slot {
        let compacted = self.window.compacted();
        let (mut low, mut high) = (compacted.0, limit.slot.min(self.window.last()).0);
        if self.compacted > limit.term || high < low {
            return limit.slot.min(compacted.previous());
        }
        // Terms never decrease along the log. Invariant: the term at `low` is small enough, those
        // beyond `high` are too large.
        while low < high {
            let middle = high - (high - low) / 2;
            let small = self.term_at(Slot(middle)).is_some_and(|t| t <= limit.term);
            (low, high) = if small {
                (middle, high)
            } else {
                (low, middle - 1)
            };
        }
        Slot(low)
    }

    /// How far the log may be compacted so that at most `entries` entries of together at most
    /// `bytes` bytes remain through `slot`.
    pub(crate) fn compactable(&self, slot: Slot, entries: usize, bytes: usize) -> Slot {
        let (mut through, mut count, mut size) = (slot, 0, 0);
        while let Some(entry) = self.window.slot(through) {
            count += 1;
            size += entry.size();
            if count > entries || size > bytes {
                break;
            }
            through = through.previous();
        }
        through
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A log whose entries have the terms given, after `compacted`.
    fn log(compacted: (u64, u64), terms: &[u64]) -> Log {
        let mut log = Log::after(position(compacted.0, compacted.1));
        for term in terms {
            log.push(Entry {
                term: Term(*term),
                batch: Batch::noop(),
            });
        }
        log
    }

    fn position(slot: u64, term: u64) -> Position {
        Position {
            term: Term(term),
            slot: Slot(slot),
        }
    }

    #[test]
    fn the_later_term_then_the_longer_log_is_more_up_to_date() {
        assert!(position(1, 3) > position(9, 2));
        assert!(position(5, 3) > position(4, 3));
    }

    #[test]
    fn positions_are_known_from_the_last_compacted_on() {
        let mut log = log((10, 2), &[2, 3, 3, 5]);
        assert_eq!(log.last(), position(14, 5));
        assert_eq!(log.term_at(Slot(9)), None);
        assert_eq!(log.term_at(Slot(10)), Some(Term(2)));
        assert_eq!(log.term_at(Slot(12)), Some(Term(3)));
        assert_eq!(log.term_at(Slot(15)), None);
        log.compact_through(Slot(13));
        assert_eq!(log.compacted(), position(13, 3));
        assert_eq!(log.last(), position(14, 5));
        log.cut_from(Slot(14));
        assert_eq!(log.last(), position(13, 3));
        log.compact_through(Slot(99));
        assert_eq!(log.compacted(), position(13, 3));
    }

    #[test]
    fn messages_are_filled_up_to_the_limit_but_never_empty() {
        let log = log((0, 0), &[1, 1, 1]);
        let count = |from, max| log.entries(Slot(from), max).0.len();
        assert_eq!(count(1, 0), 1);
        assert_eq!(count(1, 2 * OVERHEAD), 2);
        assert_eq!(count(1, 3 * OVERHEAD - 1), 2);
        assert_eq!(count(3, 1000), 1);
        assert_eq!(count(4, 1000), 0);
        assert_eq!(log.entries(Slot(1), 2 * OVERHEAD).1, 2 * OVERHEAD);
    }

    #[test]
    fn the_last_agreeable_slot_passes_over_whole_terms() {
        let log = log((10, 2), &[2, 4, 4, 4, 6, 6]);
        let agreeable = |slot, term| log.last_agreeable(position(slot, term)).0;
        assert_eq!(agreeable(99, 9), 16);
        assert_eq!(agreeable(15, 9), 15);
        assert_eq!(agreeable(16, 5), 14);
        assert_eq!(agreeable(13, 4), 13);
        assert_eq!(agreeable(16, 3), 11);
        assert_eq!(agreeable(10, 2), 10);
        assert_eq!(agreeable(16, 1), 9, "the compacted entry is too new");
        assert_eq!(agreeable(4, 2), 4, "compacted long ago");
    }

    #[test]
    fn the_last_agreeable_slot_is_that_of_a_linear_search() {
        let terms = [1, 1, 2, 5, 5, 5, 7, 9];
        let log = log((3, 1), &terms);
        for slot in 3..14 {
            for term in 1..11 {
                let fits = |s: &u64| log.term_at(Slot(*s)).is_some_and(|t| t.0 <= term);
                let linear = (3..=slot).rev().find(fits);
                assert_eq!(Some(log.last_agreeable(position(slot, term)).0), linear);
            }
        }
    }

    #[test]
    fn compaction_leaves_a_tail_of_limited_length_and_size() {
        let log = log((10, 1), &[1, 1, 1, 1, 1]);
        let through = |slot, entries, bytes| log.compactable(Slot(slot), entries, bytes).0;
        assert_eq!(through(14, 0, 1000), 14);
        assert_eq!(through(14, 2, 1000), 12);
        assert_eq!(through(14, 9, 1000), 10);
        assert_eq!(through(14, 9, 3 * OVERHEAD), 11);
    }
}
