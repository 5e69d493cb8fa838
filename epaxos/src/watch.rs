//! When to look at which instance again.

use std::collections::{BTreeMap, BTreeSet};

use quorate_core::id::{EntryId, Time};

/// Instances, each with the time at which it is due.
#[derive(Clone, Debug, Default)]
pub(crate) struct Deadlines {
    by_time: BTreeSet<(Time, EntryId)>,
    of: BTreeMap<EntryId, Time>,
}

impl Deadlines {
    /// `id` is due at `at`, and at no other time.
    pub(crate) fn set(&mut self, id: EntryId, at: Time) {
        if let Some(before) = self.of.insert(id, at) {
            self.by_time.remove(&(before, id));
        }
        self.by_time.insert((at, id));
    }

    /// `id` is not due any more.
    pub(crate) fn remove(&mut self, id: EntryId) {
        if let Some(at) = self.of.remove(&id) {
            self.by_time.remove(&(at, id));
        }
    }

    pub(crate) fn contains(&self, id: EntryId) -> bool {
        self.of.contains_key(&id)
    }

    /// When the first is due.
    pub(crate) fn first(&self) -> Option<Time> {
        self.by_time.first().map(|(at, _)| *at)
    }

    /// Takes those that are due.
    pub(crate) fn take_due(&mut self, now: Time) -> Vec<EntryId> {
        let mut due = Vec::new();
        while let Some((at, id)) = self.by_time.first().copied()
            && at <= now
        {
            self.remove(id);
            due.push(id);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_core::id::Slot;

    #[test]
    fn an_instance_is_due_once_and_when_it_was_last_said_to_be() {
        let id = |slot| EntryId::single(Slot(slot));
        let mut deadlines = Deadlines::default();
        deadlines.set(id(1), Time(5));
        deadlines.set(id(2), Time(6));
        deadlines.set(id(1), Time(9));
        assert_eq!(deadlines.first(), Some(Time(6)));
        assert_eq!(deadlines.take_due(Time(8)), [id(2)]);
        assert!(deadlines.contains(id(1)) && !deadlines.contains(id(2)));
        deadlines.remove(id(1));
        assert_eq!(deadlines.take_due(Time(9)), []);
    }
}
