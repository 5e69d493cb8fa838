//! How far execution has come, over all lanes.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::id::{EntryId, Lane, Slot};

/// A set of executed entries: each lane contiguous through a slot, with exceptions beyond it.
/// A protocol with one log only ever fills [`Lane`] 0 contiguously; EPaxos executes across lanes
/// in dependency order and leaves holes that fill later.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frontier {
    lanes: BTreeMap<Lane, Reach>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Reach {
    through: Slot,
    beyond: BTreeSet<Slot>,
}

impl Frontier {
    /// The frontier of a single log executed through `slot`.
    pub fn single(slot: Slot) -> Frontier {
        let mut frontier = Frontier::default();
        if slot > Slot::ZERO {
            frontier.lanes.insert(
                Lane(0),
                Reach {
                    through: slot,
                    beyond: BTreeSet::new(),
                },
            );
        }
        frontier
    }

    /// Adds an entry; false if it was there already.
    pub fn insert(&mut self, entry: EntryId) -> bool {
        if entry.slot == Slot::ZERO {
            return false;
        }
        let reach = self.lanes.entry(entry.lane).or_default();
        if entry.slot <= reach.through {
            return false;
        }
        if entry.slot != reach.through.next() {
            return reach.beyond.insert(entry.slot);
        }
        reach.through = entry.slot;
        while reach.beyond.remove(&reach.through.next()) {
            reach.through = reach.through.next();
        }
        true
    }

    /// Adds all slots of `lane` through `slot`.
    pub fn complete(&mut self, lane: Lane, slot: Slot) {
        if slot <= self.through(lane) {
            return;
        }
        let reach = self.lanes.entry(lane).or_default();
        reach.through = slot;
        reach.beyond = reach.beyond.split_off(&slot.next());
        while reach.beyond.remove(&reach.through.next()) {
            reach.through = reach.through.next();
        }
    }

    /// Adds all that is in `other`.
    pub fn union_with(&mut self, other: &Frontier) {
        for (lane, through, beyond) in other.lanes() {
            self.complete(lane, through);
            for slot in beyond {
                self.insert(EntryId { lane, slot });
            }
        }
    }

    /// Without exceptions: each lane through where it is complete.
    pub fn complete_part(&self) -> Frontier {
        let mut part = Frontier::default();
        for (lane, through, _) in self.lanes() {
            part.complete(lane, through);
        }
        part
    }

    /// Whether `entry` is in the frontier.
    pub fn contains(&self, entry: EntryId) -> bool {
        self.lanes
            .get(&entry.lane)
            .is_some_and(|reach| entry.slot <= reach.through || reach.beyond.contains(&entry.slot))
    }

    /// The slot through which `lane` is complete.
    pub fn through(&self, lane: Lane) -> Slot {
        self.lanes.get(&lane).map_or(Slot::ZERO, |r| r.through)
    }

    /// The slot through which the only lane of a protocol with one log is complete.
    pub fn slot(&self) -> Slot {
        self.through(Lane(0))
    }

    /// The lanes, ascending, each with the slot through which it is complete and the slots beyond
    /// that are in the frontier too, ascending.
    pub fn lanes(&self) -> impl Iterator<Item = (Lane, Slot, impl Iterator<Item = Slot>)> {
        let lanes = self.lanes.iter();
        lanes.map(|(lane, reach)| (*lane, reach.through, reach.beyond.iter().copied()))
    }

    /// Whether every entry of `other` is in this frontier.
    pub fn covers(&self, other: &Frontier) -> bool {
        other.lanes.iter().all(|(lane, theirs)| {
            let contiguous = theirs.through <= self.through(*lane);
            contiguous
                && theirs.beyond.iter().all(|slot| {
                    self.contains(EntryId {
                        lane: *lane,
                        slot: *slot,
                    })
                })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(lane: u8, slot: u64) -> EntryId {
        EntryId {
            lane: Lane(lane),
            slot: Slot(slot),
        }
    }

    #[test]
    fn holes_close_when_they_fill() {
        let mut frontier = Frontier::default();
        assert!(frontier.insert(entry(1, 2)));
        assert_eq!(frontier.through(Lane(1)), Slot(0));
        assert!(frontier.contains(entry(1, 2)));
        assert!(frontier.insert(entry(1, 1)));
        assert_eq!(frontier.through(Lane(1)), Slot(2));
        assert!(!frontier.insert(entry(1, 2)));
    }

    #[test]
    fn lanes_are_told_with_their_exceptions() {
        let mut frontier = Frontier::single(Slot(3));
        frontier.insert(entry(2, 5));
        frontier.insert(entry(2, 4));
        let told = frontier.lanes();
        let told: Vec<_> = told
            .map(|(lane, through, beyond)| (lane.0, through.0, beyond.map(|s| s.0).collect()))
            .collect();
        assert_eq!(told, [(0, 3, vec![]), (2, 0, vec![4, 5])]);
    }

    #[test]
    fn a_union_closes_holes() {
        let mut frontier = Frontier::default();
        for slot in [2, 5, 6, 8] {
            frontier.insert(entry(1, slot));
        }
        frontier.complete(Lane(1), Slot(4));
        assert_eq!(frontier.through(Lane(1)), Slot(6));
        assert_eq!(frontier.complete_part().through(Lane(1)), Slot(6));
        let mut other = Frontier::single(Slot(2));
        other.insert(entry(1, 7));
        frontier.union_with(&other);
        assert!(frontier.covers(&other) && frontier.contains(entry(1, 5)));
        assert_eq!(frontier.through(Lane(1)), Slot(8));
        assert!(frontier.complete_part().covers(&frontier));
    }

    #[test]
    fn covering_is_containment() {
        let mut wide = Frontier::single(Slot(5));
        wide.insert(entry(1, 2));
        let narrow = Frontier::single(Slot(4));
        assert!(wide.covers(&narrow));
        assert!(!narrow.covers(&wide));
        assert!(wide.covers(&wide.clone()));
    }
}
