//! Of which slots an acceptor has told a candidate. [Lamport01 §3]

use std::collections::BTreeMap;

use quorate_core::id::Slot;

/// The parts of one replica's promise that have come, in whatever order. Each is true for as long as
/// the promise is, so that none needs to be told twice.
#[derive(Clone, Debug)]
pub(crate) struct Told {
    /// The first slot that was not told of.
    next: Slot,
    /// Parts beyond that: where each begins and ends, and whether there is nothing after it.
    early: BTreeMap<Slot, (Slot, bool)>,
}

impl Told {
    /// Nothing was told from `first` on.
    pub(crate) fn before(first: Slot) -> Self {
        Told {
            next: first,
            early: BTreeMap::new(),
        }
    }

    /// The first slot that was not told of.
    pub(crate) fn next(&self) -> Slot {
        self.next
    }

    /// Notes a part; true if nothing is lacking now.
    pub(crate) fn tell(&mut self, from: Slot, through: Slot, last: bool) -> bool {
        let known = self.early.entry(from).or_default();
        *known = (through, last).max(*known);
        let mut all = false;
        while let Some(first) = self.early.first_entry()
            && *first.key() <= self.next
        {
            let (through, last) = first.remove();
            self.next = through.next().max(self.next);
            all |= last;
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_is_told_when_no_part_is_lacking() {
        let mut told = Told::before(Slot(3));
        let mut tell = |from, through, last| {
            let all = told.tell(Slot(from), Slot(through), last);
            (told.next().0, all)
        };
        assert_eq!(tell(9, 9, true), (3, false));
        assert_eq!(tell(5, 6, false), (3, false));
        assert_eq!(tell(3, 4, false), (7, false));
        assert_eq!(tell(3, 4, false), (7, false), "again");
        assert_eq!(tell(7, 7, false), (8, false));
        assert_eq!(tell(7, 8, false), (10, true), "another part from there on");
    }
}
