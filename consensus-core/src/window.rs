//! The replicated log window: an indexed sequence with a compacted prefix.

use std::collections::VecDeque;

use crate::id::Slot;

/// The slots of one lane that are still held, each with a `T`; those through
/// [`Window::compacted`] are gone into a snapshot.
///
/// What a slot holds is the protocol's: a Raft entry, a Multi-Paxos acceptance, a PBFT
/// certificate in the making, an EPaxos instance. Protocols that fill slots out of order use
/// [`Window::entry`], which extends the window with defaults.
#[derive(Clone, Debug)]
pub struct Window<T> {
    compacted: Slot,
    slots: VecDeque<T>,
}

impl<T> Default for Window<T> {
    fn default() -> Self {
        Window::after(Slot::ZERO)
    }
}

impl<T> Window<T> {
    /// An empty window whose first slot will be the one after `compacted`.
    pub fn after(compacted: Slot) -> Self {
        Window {
            compacted,
            slots: VecDeque::new(),
        }
    }

    /// The last slot that is no longer held; [`Slot::ZERO`] if none was ever dropped.
    pub fn compacted(&self) -> Slot {
        self.compacted
    }

    /// The first slot that is held, or would be.
    pub fn first(&self) -> Slot {
        self.compacted.next()
    }

    /// The last slot that is held; [`Window::compacted`] if there is none.
    pub fn last(&self) -> Slot {
        Slot(self.compacted.0 + self.slots.len() as u64)
    }

    /// How many slots are held.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether no slot is held.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    fn index(&self, slot: Slot) -> Option<usize> {
        slot.0
            .checked_sub(self.compacted.0 + 1)
            .and_then(|index| usize::try_from(index).ok())
    }

    /// What `slot` holds; `None` if it is compacted or beyond the last.
    pub fn slot(&self, slot: Slot) -> Option<&T> {
        self.slots.get(self.index(slot)?)
    }

    /// What `slot` holds, to be changed.
    pub fn slot_mut(&mut self, slot: Slot) -> Option<&mut T> {
        let index = self.index(slot)?;
        self.slots.get_mut(index)
    }

    /// Appends after the last slot, and returns the slot taken.
    pub fn push(&mut self, value: T) -> Slot {
        self.slots.push_back(value);
        self.last()
    }

    /// What `slot` holds, with the window extended by defaults to reach it; `None` if it is
    /// compacted, or would make the window hold more than `limit` slots.
    pub fn entry(&mut self, slot: Slot, limit: usize) -> Option<&mut T>
    where
        T: Default,
    {
        let index = self.index(slot)?;
        if index >= limit.max(self.slots.len()) {
            return None;
        }
        if index >= self.slots.len() {
            self.slots.resize_with(index + 1, T::default);
        }
        self.slots.get_mut(index)
    }

    /// Drops `slot` and all after it.
    ///
    /// Compacted slots cannot be cut off; asking for it cuts all that is held.
    pub fn cut_from(&mut self, slot: Slot) {
        let keep = self.index(slot).unwrap_or(0);
        self.slots.truncate(keep);
    }

    /// Compacts: drops all slots through `slot`. Beyond the last slot the window is empty and
    /// goes on after `slot`.
    pub fn compact_through(&mut self, slot: Slot) {
        if slot <= self.compacted {
            return;
        }
        let count = usize::try_from(slot.0 - self.compacted.0).unwrap_or(usize::MAX);
        self.slots.drain(..count.min(self.slots.len()));
        self.compacted = slot;
    }

    /// The held slots from `from` on, with what they hold.
    pub fn iter_from(&self, from: Slot) -> impl Iterator<Item = (Slot, &T)> {
        let start = self.index(from).unwrap_or(0).min(self.slots.len());
        let first = self.first().0 + start as u64;
        (first..).map(Slot).zip(self.slots.range(start..))
    }

    /// All held slots, with what they hold.
    pub fn iter(&self) -> impl Iterator<Item = (Slot, &T)> {
        self.iter_from(self.first())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled() -> Window<u64> {
        let mut window = Window::after(Slot(10));
        for value in 11..=15 {
            assert_eq!(window.push(value), Slot(value));
        }
        window
    }

    #[test]
    fn slots_are_found_by_position() {
        let window = filled();
        assert_eq!(window.slot(Slot(10)), None);
        assert_eq!(window.slot(Slot(11)), Some(&11));
        assert_eq!(window.slot(Slot(15)), Some(&15));
        assert_eq!(window.slot(Slot(16)), None);
        let tail: Vec<_> = window.iter_from(Slot(14)).collect();
        assert_eq!(tail, [(Slot(14), &14), (Slot(15), &15)]);
        assert_eq!(window.iter_from(Slot(3)).count(), 5);
        assert_eq!(window.iter_from(Slot(99)).count(), 0);
    }

    #[test]
    fn cutting_and_compacting_meet() {
        let mut window = filled();
        window.cut_from(Slot(14));
        assert_eq!(window.last(), Slot(13));
        window.compact_through(Slot(12));
        assert_eq!((window.first(), window.last()), (Slot(13), Slot(13)));
        window.compact_through(Slot(12));
        window.compact_through(Slot(20));
        assert!(window.is_empty());
        assert_eq!(window.push(0), Slot(21));
        window.cut_from(Slot(1));
        assert_eq!(window.last(), Slot(20));
    }

    #[test]
    fn entries_out_of_order_extend_within_the_limit() {
        let mut window: Window<Option<u8>> = Window::after(Slot(4));
        *window.entry(Slot(7), 3).unwrap() = Some(7);
        assert_eq!(window.last(), Slot(7));
        assert_eq!(window.slot(Slot(5)), Some(&None));
        assert!(window.entry(Slot(8), 3).is_none());
        assert!(window.entry(Slot(4), 3).is_none());
    }
}
