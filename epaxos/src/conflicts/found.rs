//! What one command is found to conflict with, while that is being gathered from many keys.

use quorate_core::id::{EntryId, Lane, Slot};

use super::EXACT;
use crate::dependencies::{Dependencies, Span, join};

/// How many spans beyond the contiguous ones are gathered before they are put in order.
const LARGE: usize = 64;

/// The union of spans, coarsened as they come ([`Dependencies::coarsen`]): sooner or later makes no
/// difference to what it becomes.
pub(super) struct Found<'a> {
    /// Whose conflicts these are: of its lane only lower slots are taken.
    id: EntryId,
    /// Named in any case.
    floor: &'a Dependencies,
    /// By lane.
    lanes: Vec<Reach>,
}

/// What was found in a lane.
#[derive(Default)]
struct Reach {
    /// All slots through this one.
    through: Slot,
    /// And these, beyond it, in no order.
    beyond: Vec<Span>,
}

impl<'a> Found<'a> {
    pub(super) fn new(id: EntryId, floor: &'a Dependencies) -> Self {
        let mut found = Found {
            id,
            floor,
            lanes: Vec::new(),
        };
        // What lies beyond a gap does not count among the exact ones of a lane.
        let contiguous = floor.spans().iter().filter(|span| span.first == Slot(1));
        contiguous.for_each(|span| found.add(*span));
        found
    }

    pub(super) fn add(&mut self, span: Span) {
        let last = match span.lane == self.id.lane {
            true => span.last.min(self.id.slot.previous()),
            false => span.last,
        };
        let lane = usize::from(span.lane.0);
        if self.lanes.len() <= lane {
            self.lanes.resize_with(lane + 1, Reach::default);
        }
        if let Some(reach) = self.lanes.get_mut(lane)
            && span.first <= last
        {
            reach.add(Span { last, ..span });
        }
    }

    pub(super) fn add_all(&mut self, set: &Dependencies) {
        set.spans().iter().for_each(|span| self.add(*span));
    }

    /// The set, the floor included.
    pub(super) fn finish(self) -> Dependencies {
        let mut spans = Vec::with_capacity(self.lanes.iter().map(|r| r.beyond.len() + 1).sum());
        for (lane, mut reach) in (0..).map(Lane).zip(self.lanes) {
            reach.settle();
            spans.push(Span {
                lane,
                first: Slot(1),
                last: reach.through,
            });
            spans.append(&mut reach.beyond);
        }
        let mut found = Dependencies::from_spans(spans);
        if !found.covers(self.floor) {
            let mut floor = self.floor.clone();
            floor.remove_from(self.id.lane, self.id.slot);
            found.union_with(&floor);
        }
        found
    }
}

impl Reach {
    fn add(&mut self, span: Span) {
        if span.first <= self.through.next() {
            self.through = self.through.max(span.last);
        } else if span.last > self.through && self.beyond.last() != Some(&span) {
            self.beyond.push(span);
            if self.beyond.len() >= LARGE {
                self.settle();
            }
        }
    }

    /// Puts what lies beyond in order, and keeps the highest slots exactly.
    fn settle(&mut self) {
        self.beyond.sort_unstable();
        join(&mut self.beyond);
        let mut joined = 0;
        while let Some(span) = self.beyond.get(joined)
            && span.first <= self.through.next()
        {
            self.through = self.through.max(span.last);
            joined += 1;
        }
        let mut above = 0;
        for (place, span) in self.beyond.iter().enumerate().skip(joined).rev() {
            above += span.count();
            if above > EXACT {
                self.through = span.last;
                joined = place + 1;
                break;
            }
        }
        self.beyond.drain(..joined);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{RngExt as _, SeedableRng as _};
    use rand_chacha::ChaCha8Rng;

    fn random_span(random: &mut ChaCha8Rng, slots: u64) -> Span {
        let last = random.random_range(1..=slots);
        let first = match random.random_range(0..4) {
            0 => 1,
            1 => random.random_range(1..=last),
            _ => last,
        };
        Span {
            lane: Lane(random.random_range(0..3)),
            first: Slot(first),
            last: Slot(last),
        }
    }

    #[test]
    fn it_is_the_union_coarsened_and_the_floor() {
        for seed in 0..2_000 {
            let mut random = ChaCha8Rng::seed_from_u64(seed);
            let slots = random.random_range(1..=400);
            let mut some = |most| -> Vec<Span> {
                let count = random.random_range(0..=most);
                (0..count)
                    .map(|_| random_span(&mut random, slots))
                    .collect()
            };
            let spans = some(200);
            let floor = Dependencies::from_spans(some(4));
            let id = EntryId {
                lane: Lane(1),
                slot: Slot(random.random_range(1..=slots)),
            };
            let mut expected = Dependencies::from_spans(spans.clone());
            expected.remove_from(id.lane, id.slot);
            expected.coarsen(EXACT);
            let mut lower = floor.clone();
            lower.remove_from(id.lane, id.slot);
            expected.union_with(&lower);
            let mut found = Found::new(id, &floor);
            spans.iter().for_each(|span| found.add(*span));
            assert_eq!(found.finish(), expected, "seed {seed}");
        }
    }
}
