//! Requests under way in a leader's log.

use std::collections::BTreeMap;

use crate::id::Slot;
use crate::request::{Batch, SessionId};

/// The requests in slots that are not decided yet. One that is asked for again needs no other slot:
/// where many are asked for sooner than they can be decided, copies of them would be all there is.
#[derive(Clone, Debug, Default)]
pub struct UnderWay {
    /// The last slot that holds each.
    slots: BTreeMap<(SessionId, u64), Slot>,
}

impl UnderWay {
    /// `batch` is proposed in `slot`, the last so far.
    pub fn enter(&mut self, slot: Slot, batch: &Batch) {
        for request in batch.requests() {
            self.slots.insert((request.session, request.sequence), slot);
        }
    }

    /// `slot` is decided, with `batch`.
    pub fn leave(&mut self, slot: Slot, batch: &Batch) {
        for request in batch.requests() {
            let known = (request.session, request.sequence);
            if self.slots.get(&known) == Some(&slot) {
                self.slots.remove(&known);
            }
        }
    }

    /// If all of `batch` is under way, the slot with which the last of it is decided.
    pub fn holding(&self, batch: &Batch) -> Option<Slot> {
        let mut last = None;
        for request in batch.requests() {
            let slot = self.slots.get(&(request.session, request.sequence))?;
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
            assert_eq!(under_way.holding(&batch(sequences)), slot.map(Slot));
        }
        under_way.leave(Slot(4), &batch(&[1, 2]));
        assert_eq!(under_way.holding(&batch(&[2])), None);
        assert_eq!(under_way.holding(&batch(&[3])), Some(Slot(5)));
    }

    #[test]
    fn what_is_in_two_slots_is_under_way_until_the_later_is_decided() {
        let mut under_way = UnderWay::default();
        under_way.enter(Slot(4), &batch(&[1, 2]));
        under_way.enter(Slot(6), &batch(&[2, 3]));
        under_way.leave(Slot(4), &batch(&[1, 2]));
        assert_eq!(under_way.holding(&batch(&[2])), Some(Slot(6)));
        under_way.leave(Slot(6), &batch(&[2, 3]));
        assert!(under_way.slots.is_empty());
    }
}
