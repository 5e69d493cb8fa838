//! Requests under way in a leader's log.

use std::collections::{BTreeMap, VecDeque};

use crate::id::Slot;
use crate::request::{Batch, SessionId};

/// How many decided requests are remembered for those that have not seen them decided.
const REMEMBERED: usize = 16_384;

/// The requests in slots that are not decided yet, or that those who asked may not know to be. One
/// that is asked for again needs no other slot: where many are asked for sooner than they can be
/// decided or heard of, copies of them would be all there is.
#[derive(Clone, Debug, Default)]
pub struct UnderWay {
    /// The last slot that holds each.
    slots: BTreeMap<(SessionId, u64), Slot>,
    /// Those of them that are decided, the latest last.
    decided: VecDeque<((SessionId, u64), Slot)>,
}

impl UnderWay {
    /// `batch` is proposed in `slot`, the last so far.
    pub fn enter(&mut self, slot: Slot, batch: &Batch) {
        for request in batch.requests() {
            self.slots.insert((request.session, request.sequence), slot);
        }
    }

    /// `slot` is decided, with `batch`, and who asked for it knows.
    pub fn leave(&mut self, slot: Slot, batch: &Batch) {
        for request in batch.requests() {
            self.forget((request.session, request.sequence), slot);
        }
    }

    /// `slot` is decided, with `batch`, which others asked for: they may ask again before they know.
    pub fn remember(&mut self, slot: Slot, batch: &Batch) {
        for request in batch.requests() {
            let known = (request.session, request.sequence);
            self.decided.push_back((known, slot));
            if self.decided.len() > REMEMBERED
                && let Some((oldest, slot)) = self.decided.pop_front()
            {
                self.forget(oldest, slot);
            }
        }
    }

    fn forget(&mut self, known: (SessionId, u64), slot: Slot) {
        if self.slots.get(&known) == Some(&slot) {
            self.slots.remove(&known);
        }
    }

    /// If all of `batch` is in slots after `seen`, the last of them: who has seen what is decided
    /// through `seen` is going to see all of it decided.
    pub fn holding(&self, batch: &Batch, seen: Slot) -> Option<Slot> {
        let mut last = None;
        for request in batch.requests() {
            let slot = self.slots.get(&(request.session, request.sequence))?;
            if *slot <= seen {
                return None;
            }
            last = last.max(Some(*slot));
        }
        last
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::PublicKey;
    use crate::request::{BatchBuilder, Operation, Request};

    fn batch(sequences: &[u64]) -> Batch {
        let mut builder = BatchBuilder::default();
        for sequence in sequences {
            builder.push(Request {
                session: SessionId {
                    client: PublicKey([1; 32]),
                    number: 1,
                },
                sequence: *sequence,
                answered: 0,
                operation: Operation::Apply(b"x"),
            });
        }
        builder.finish()
    }

    #[test]
    fn a_batch_is_under_way_while_all_of_it_is() {
        let mut under_way = UnderWay::default();
        under_way.enter(Slot(4), &batch(&[1, 2]));
        under_way.enter(Slot(5), &batch(&[3]));
        for (sequences, slot) in [
            (&[1][..], Some(4)),
            (&[2, 3], Some(5)),
            (&[3, 1], Some(5)),
            (&[3, 4], None),
            (&[], None),
        ] {
            let holding = under_way.holding(&batch(sequences), Slot::ZERO);
            assert_eq!(holding, slot.map(Slot));
        }
        under_way.leave(Slot(4), &batch(&[1, 2]));
        assert_eq!(under_way.holding(&batch(&[2]), Slot::ZERO), None);
        assert_eq!(under_way.holding(&batch(&[3]), Slot::ZERO), Some(Slot(5)));
    }

    #[test]
    fn what_is_in_two_slots_is_under_way_until_the_later_is_decided() {
        let mut under_way = UnderWay::default();
        under_way.enter(Slot(4), &batch(&[1, 2]));
        under_way.enter(Slot(6), &batch(&[2, 3]));
        under_way.leave(Slot(4), &batch(&[1, 2]));
        assert_eq!(under_way.holding(&batch(&[2]), Slot::ZERO), Some(Slot(6)));
        under_way.leave(Slot(6), &batch(&[2, 3]));
        assert!(under_way.slots.is_empty());
    }

    #[test]
    fn what_is_decided_is_remembered_for_those_that_have_not_seen_it() {
        let mut under_way = UnderWay::default();
        under_way.enter(Slot(4), &batch(&[1]));
        under_way.remember(Slot(4), &batch(&[1]));
        let again = batch(&[1]);
        assert_eq!(under_way.holding(&again, Slot(3)), Some(Slot(4)));
        assert_eq!(under_way.holding(&again, Slot(4)), None, "it was in vain");
        under_way.enter(Slot(5), &again);
        assert_eq!(under_way.holding(&again, Slot(4)), Some(Slot(5)));
    }

    #[test]
    fn so_much_is_remembered_and_no_more() {
        let mut under_way = UnderWay::default();
        for number in 0..REMEMBERED as u64 {
            under_way.enter(Slot(number + 1), &batch(&[number]));
            under_way.remember(Slot(number + 1), &batch(&[number]));
        }
        let first = batch(&[0]);
        assert_eq!(under_way.holding(&first, Slot::ZERO), Some(Slot(1)));
        let next = Slot(REMEMBERED as u64 + 1);
        under_way.enter(next, &batch(&[REMEMBERED as u64]));
        under_way.remember(next, &batch(&[REMEMBERED as u64]));
        assert_eq!(under_way.holding(&first, Slot::ZERO), None);
        let sizes = (under_way.slots.len(), under_way.decided.len());
        assert_eq!(sizes, (REMEMBERED, REMEMBERED));
    }
}
