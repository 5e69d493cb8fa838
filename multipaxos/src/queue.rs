//! Requests that wait at a leader until its window has room for another slot.

use std::collections::{BTreeMap, VecDeque};

use quorate_core::id::ReplicaId;
use quorate_core::request::{Batch, Request, SessionId};

use crate::log::size;

/// Batches in the order in which they came, bounded in bytes; but each replica has a place, so that
/// none is kept from being served by those that ask more.
#[derive(Debug)]
pub(crate) struct Queue {
    batches: VecDeque<(ReplicaId, Batch)>,
    bytes: usize,
    /// How many are each replica's.
    places: Vec<usize>,
    /// The requests in them, with how many batches hold each: one that is proposed again while it
    /// waits takes no second place.
    requests: BTreeMap<(SessionId, u64), usize>,
}

impl Queue {
    /// An empty queue at one of `n` replicas.
    pub(crate) fn among(n: usize) -> Self {
        Queue {
            batches: VecDeque::new(),
            bytes: 0,
            places: vec![0; n],
            requests: BTreeMap::new(),
        }
    }

    /// Queues `batch`, unless all in it waits already, if that leaves the queue within `room` bytes,
    /// or is the only one of its proposer; false if it is dropped, and its driver must propose it
    /// again.
    pub(crate) fn push(&mut self, proposer: ReplicaId, batch: Batch, room: usize) -> bool {
        let Some(places) = self.places.get_mut(proposer.index()) else {
            return false;
        };
        let bytes = size(&batch);
        let waits = |request: Request<'_>| {
            let known = (request.session, request.sequence);
            self.requests.contains_key(&known)
        };
        if !batch.is_empty() && batch.requests().all(waits) {
            return true;
        }
        if *places > 0 && self.bytes.saturating_add(bytes) > room {
            return false;
        }
        *places += 1;
        self.bytes += bytes;
        for request in batch.requests() {
            let known = self.requests.entry((request.session, request.sequence));
            *known.or_default() += 1;
        }
        self.batches.push_back((proposer, batch));
        true
    }

    /// The batch that has waited longest.
    pub(crate) fn front(&self) -> Option<&(ReplicaId, Batch)> {
        self.batches.front()
    }

    /// Takes out the batch that has waited longest.
    pub(crate) fn pop(&mut self) {
        let Some((proposer, batch)) = self.batches.pop_front() else {
            return;
        };
        self.bytes = self.bytes.saturating_sub(size(&batch));
        if let Some(places) = self.places.get_mut(proposer.index()) {
            *places = places.saturating_sub(1);
        }
        for request in batch.requests() {
            let known = (request.session, request.sequence);
            if let Some(count) = self.requests.get_mut(&known) {
                *count -= 1;
                if *count == 0 {
                    self.requests.remove(&known);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use quorate_core::crypto::SecretKey;
    use quorate_core::request::{BatchBuilder, Operation};

    use super::*;

    const ONE: ReplicaId = ReplicaId(1);
    const TWO: ReplicaId = ReplicaId(2);

    fn order(queue: &mut Queue) -> Vec<ReplicaId> {
        let mut order = Vec::new();
        while let Some((proposer, _)) = queue.front().cloned() {
            order.push(proposer);
            queue.pop();
        }
        order
    }

    #[test]
    fn the_bound_is_met_and_each_replica_has_a_place_all_the_same() {
        let bytes = size(&Batch::noop());
        for (room, taken) in [(0, 1), (bytes, 1), (3 * bytes - 1, 2), (3 * bytes, 3)] {
            let mut queue = Queue::among(3);
            let pushed = (0..5).filter(|_| queue.push(ONE, Batch::noop(), room));
            assert_eq!(pushed.count(), taken, "room {room}");
            assert!(queue.push(TWO, Batch::noop(), room), "room {room}");
            assert!(!queue.push(TWO, Batch::noop(), room), "room {room}");
            let expected = [vec![ONE; taken], vec![TWO]].concat();
            assert_eq!(order(&mut queue), expected);
            assert!(queue.push(ONE, Batch::noop(), 0), "all is free again");
        }
    }

    #[test]
    fn what_waits_already_takes_no_second_place() {
        let batch = |sequences: &[u64]| {
            let mut builder = BatchBuilder::default();
            for sequence in sequences {
                builder.push(Request {
                    session: SessionId {
                        client: SecretKey::from_seed([1; 32]).public(),
                        number: 1,
                    },
                    sequence: *sequence,
                    answered: 0,
                    operation: Operation::Apply(b"x"),
                });
            }
            builder.finish()
        };
        let mut queue = Queue::among(3);
        for (sequences, waiting) in [
            (&[1][..], 1),
            (&[1], 1),
            (&[1, 2], 2),
            (&[2], 2),
            (&[2, 1], 2),
            (&[3], 3),
        ] {
            assert!(queue.push(ONE, batch(sequences), 10_000));
            assert_eq!(queue.batches.len(), waiting, "{sequences:?}");
        }
        queue.pop();
        assert!(queue.push(ONE, batch(&[1]), 10_000));
        assert_eq!(queue.batches.len(), 2, "another batch holds it");
        assert_eq!(order(&mut queue), [ONE; 2]);
        assert!(queue.requests.is_empty());
    }

    #[test]
    fn a_stranger_has_no_place() {
        assert!(!Queue::among(3).push(ReplicaId(3), Batch::noop(), 1_000));
    }
}
