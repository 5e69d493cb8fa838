//! A map by [`Mark`], which makes use of marks being spread evenly: each command of a busy key space
//! is looked up in it by each replica, and what that costs is cache misses, here one as a rule.

use crate::footprint::Mark;

/// How many places there are at least, once there is a value. A power of two, as are all sizes.
const FEWEST: usize = 1 << 10;

/// Values by mark: each at the place that the highest bits of its mark say, or at the next after it
/// that was vacant (*linear probing*). Marks that begin alike make a search long: whoever wants that
/// must find them, at a thousand digests each among a thousand places.
#[derive(Clone, Debug)]
pub(super) struct Marked<V> {
    places: Vec<Option<(Mark, V)>>,
    len: usize,
}

impl<V> Default for Marked<V> {
    fn default() -> Self {
        Marked {
            places: Vec::new(),
            len: 0,
        }
    }
}

impl<V: Default> Marked<V> {
    /// Makes room for those of the marks that are not there yet. To look all of them up before the
    /// first is changed costs less than to do so one by one: the processor waits for many places at once.
    pub(super) fn make_room(&mut self, marks: impl Iterator<Item = Mark>) {
        let vacant = |mark: &Mark| !matches!(self.places.get(self.place_of(*mark)), Some(Some(_)));
        let new = marks.filter(vacant).count();
        // At most three of four are taken, for beyond that many are far from where they belong.
        if 4 * (self.len + new) > 3 * self.places.len() {
            self.resize(self.len + new);
        }
    }

    /// Lets `change` have the value of a mark, which is the default if there was none. There must be
    /// room for it.
    pub(super) fn change(&mut self, mark: Mark, change: impl FnOnce(&mut V)) {
        debug_assert!(self.len < self.places.len(), "no room was made");
        let place = self.place_of(mark);
        if let Some(place) = self.places.get_mut(place) {
            self.len += usize::from(place.is_none());
            let (_, value) = place.get_or_insert_with(|| (mark, V::default()));
            change(value);
        }
    }

    pub(super) fn retain(&mut self, mut keep: impl FnMut(&V) -> bool) {
        for place in &mut self.places {
            *place = place.take().filter(|(_, value)| keep(value));
        }
        self.len = self.places.iter().flatten().count();
        self.resize(self.len);
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Where a mark is, or would be.
    fn place_of(&self, mark: Mark) -> usize {
        let last = self.places.len().wrapping_sub(1);
        let bits = self.places.len().trailing_zeros();
        let mut place = (mark.bits() >> (u64::BITS - bits)) as usize;
        while let Some(Some((other, _))) = self.places.get(place)
            && *other != mark
        {
            place = (place + 1) & last;
        }
        place
    }

    /// Puts all at their places, among twice as many as `len` or more.
    fn resize(&mut self, len: usize) {
        let size = (2 * len).next_power_of_two().max(FEWEST);
        let mut places = Vec::new();
        places.resize_with(size, || None);
        for (mark, value) in std::mem::replace(&mut self.places, places)
            .into_iter()
            .flatten()
        {
            let place = self.place_of(mark);
            if let Some(place) = self.places.get_mut(place) {
                *place = Some((mark, value));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    use rand::{RngExt as _, SeedableRng as _};
    use rand_chacha::ChaCha8Rng;

    #[test]
    fn it_holds_what_a_search_tree_holds() {
        let mut random = ChaCha8Rng::seed_from_u64(1);
        let mut marked: Marked<u32> = Marked::default();
        let mut tree: BTreeMap<Mark, u32> = BTreeMap::new();
        let keys: Vec<Mark> = (0..5_000u32)
            .map(|key| Mark::of(&key.to_be_bytes()))
            .collect();
        for _ in 0..5_000 {
            let count = random.random_range(0..=20);
            let some: Vec<Mark> = (0..count)
                .map(|_| keys[random.random_range(0..keys.len())])
                .collect();
            marked.make_room(some.iter().copied());
            for mark in some {
                marked.change(mark, |value| {
                    assert_eq!(*value, tree.get(&mark).copied().unwrap_or_default());
                    *value += 1;
                });
                *tree.entry(mark).or_default() += 1;
            }
            if random.random_ratio(1, 100) {
                let least = random.random_range(0..20);
                marked.retain(|value| *value >= least);
                tree.retain(|_, value| *value >= least);
            }
            assert_eq!(marked.len(), tree.len());
        }
        for (mark, expected) in tree {
            marked.change(mark, |value| assert_eq!(*value, expected));
        }
    }
}
