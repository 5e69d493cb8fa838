//! A map by [`Mark`], which makes use of marks being spread evenly: each command of a busy key space
//! is looked up in it by each replica, and a search tree of such a size costs a cache miss a level.

use crate::footprint::Mark;

/// How many bits of a mark choose its bucket.
const BUCKET_BITS: u32 = 12;

/// Values by mark, in buckets that hold the marks of an interval each, in ascending order.
#[derive(Clone, Debug)]
pub(super) struct Marked<V> {
    /// None before the first value.
    buckets: Vec<Vec<(Mark, V)>>,
    len: usize,
}

impl<V> Default for Marked<V> {
    fn default() -> Self {
        Marked {
            buckets: Vec::new(),
            len: 0,
        }
    }
}

fn bucket(mark: Mark) -> usize {
    (mark.bits() >> (u64::BITS - BUCKET_BITS)) as usize
}

impl<V: Default> Marked<V> {
    /// Lets `change` have the value of a mark, which is the default if there was none.
    pub(super) fn change(&mut self, mark: Mark, change: impl FnOnce(&mut V)) {
        if self.buckets.is_empty() {
            self.buckets.resize_with(1 << BUCKET_BITS, Vec::new);
        }
        let Some(bucket) = self.buckets.get_mut(bucket(mark)) else {
            return;
        };
        let place = bucket.binary_search_by_key(&mark, |(mark, _)| *mark);
        let place = place.unwrap_or_else(|place| {
            bucket.insert(place, (mark, V::default()));
            self.len += 1;
            place
        });
        if let Some((_, value)) = bucket.get_mut(place) {
            change(value);
        }
    }

    pub(super) fn retain(&mut self, mut keep: impl FnMut(&V) -> bool) {
        for bucket in &mut self.buckets {
            bucket.retain(|(_, value)| keep(value));
        }
        self.len = self.buckets.iter().map(Vec::len).sum();
    }

    pub(super) fn len(&self) -> usize {
        self.len
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
        let keys: Vec<Mark> = (0..500u32)
            .map(|key| Mark::of(&key.to_be_bytes()))
            .collect();
        for _ in 0..5_000 {
            let mark = keys[random.random_range(0..keys.len())];
            marked.change(mark, |value| {
                assert_eq!(*value, tree.get(&mark).copied().unwrap_or_default());
                *value += 1;
            });
            *tree.entry(mark).or_default() += 1;
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
