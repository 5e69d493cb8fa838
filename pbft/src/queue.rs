//! What waits at the primary for a slot, by who told it of it. Each has a share, and its turn: a liar
//! that forwards without end stands in nobody's way. [Clement09 §4]

use std::collections::{BTreeMap, VecDeque};

use quorate_core::crypto::Digest;
use quorate_core::id::{ReplicaId, Slot};
use quorate_core::request::Batch;

use crate::config::Config;

/// Who told the primary of a batch, and whether it passed on what yet another had told it: what a
/// liar has others pass on takes nothing of what their own clients have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Source {
    pub(crate) from: ReplicaId,
    pub(crate) relayed: bool,
}

impl Source {
    fn index(self) -> usize {
        self.from.index() * 2 + usize::from(self.relayed)
    }
}

/// What waits for a slot.
#[derive(Debug)]
pub(crate) struct Queue {
    shares: Vec<Share>,
    /// In which shares a batch is.
    places: BTreeMap<Digest, Vec<usize>>,
    /// Whose turn it is.
    turn: usize,
    /// Whose batches the slots hold that have been given out and not executed.
    given: BTreeMap<Slot, usize>,
}

#[derive(Clone, Debug, Default)]
struct Share {
    batches: VecDeque<(Digest, Batch)>,
    bytes: usize,
    /// How many slots hold batches of this share and have not been executed.
    under_way: usize,
}

impl Queue {
    pub(crate) fn of(n: usize) -> Queue {
        Queue {
            shares: vec![Share::default(); 2 * n],
            places: BTreeMap::new(),
            turn: 0,
            given: BTreeMap::new(),
        }
    }

    /// Queues a batch, unless its source has too many here. What another replica has passed on is
    /// queued once more where its own has told of it: it may have its turn sooner there.
    pub(crate) fn add(&mut self, source: Source, batch: Batch, config: &Config) {
        let index = source.index();
        let Some(share) = self.shares.get_mut(index) else {
            return;
        };
        let bytes = share.bytes + batch.size();
        let full = share.batches.len() >= config.max_queued_batches
            || share.bytes > 0 && bytes > config.max_queued_bytes;
        let digest = batch.digest();
        let known = match self.places.get(&digest) {
            Some(places) => source.relayed || places.contains(&index),
            None => false,
        };
        if !full && !known {
            self.places.entry(digest).or_default().push(index);
            share.bytes = bytes;
            share.batches.push_back((digest, batch));
        }
    }

    /// How many bytes the batch has whose turn it is, if there is one.
    pub(crate) fn next_size(&mut self, config: &Config) -> Option<usize> {
        let count = self.shares.len().max(1);
        let turns = (0..count).map(|step| (self.turn + step) % count);
        let ready = |index: &usize| {
            let share = self.shares.get(*index);
            share.is_some_and(|s| !s.batches.is_empty() && s.under_way < config.max_slots_under_way)
        };
        self.turn = turns.clone().find(ready)?;
        let (_, batch) = self.shares.get(self.turn)?.batches.front()?;
        Some(batch.size())
    }

    /// Takes the batch whose turn it is for `slot`.
    pub(crate) fn take_next(&mut self, slot: Slot) -> Option<Batch> {
        let share = self.shares.get_mut(self.turn)?;
        let (digest, batch) = share.batches.front().cloned()?;
        share.under_way += 1;
        for index in self.places.remove(&digest).unwrap_or_default() {
            if let Some(share) = self.shares.get_mut(index) {
                share.batches.retain(|(other, _)| *other != digest);
                share.bytes = share.bytes.saturating_sub(batch.size());
            }
        }
        self.given.insert(slot, self.turn);
        self.turn += 1;
        Some(batch)
    }

    /// All slots through this one are executed, here or in a state that was fetched.
    pub(crate) fn executed(&mut self, through: Slot) {
        let later = self.given.split_off(&through.next());
        for index in std::mem::replace(&mut self.given, later).into_values() {
            if let Some(share) = self.shares.get_mut(index) {
                share.under_way = share.under_way.saturating_sub(1);
            }
        }
    }

    pub(crate) fn clear(&mut self) {
        *self = Queue::of(self.shares.len() / 2);
    }
}

#[cfg(test)]
mod tests {
    use quorate_core::crypto::PublicKey;
    use quorate_core::request::{Operation, Request, SessionId};

    use super::*;

    fn batch(number: u64, bytes: usize) -> Batch {
        let session = SessionId {
            client: PublicKey([1; 32]),
            number,
        };
        Batch::of_one(Request {
            session,
            sequence: 1,
            answered: 0,
            operation: Operation::Apply(&vec![0; bytes]),
        })
    }

    fn source(from: u8, relayed: bool) -> Source {
        let from = ReplicaId(from);
        Source { from, relayed }
    }

    fn config() -> Config {
        Config {
            max_queued_batches: 3,
            max_queued_bytes: 2_000,
            max_slots_under_way: 2,
            ..Config::default()
        }
    }

    /// The numbers of the batches that get slots from `first` on.
    fn taken(queue: &mut Queue, config: &Config, first: u64) -> Vec<u64> {
        let mut numbers = Vec::new();
        while queue.next_size(config).is_some() {
            let slot = Slot(first + numbers.len() as u64);
            let batch = queue.take_next(slot).unwrap();
            numbers.extend(batch.requests().map(|request| request.session.number));
        }
        numbers
    }

    #[test]
    fn each_source_has_its_turn_however_many_one_has() {
        let (mut queue, config) = (Queue::of(4), config());
        for number in 0..100 {
            queue.add(source(3, false), batch(number, 1), &config);
            queue.add(source(1, true), batch(100 + number, 1), &config);
        }
        queue.add(source(1, false), batch(200, 1), &config);
        queue.add(source(2, false), batch(201, 1), &config);
        assert_eq!(taken(&mut queue, &config, 1), [200, 100, 201, 0, 101, 1]);
        assert_eq!(
            taken(&mut queue, &config, 7),
            [],
            "two of each are under way"
        );
        queue.executed(Slot(4));
        queue.executed(Slot(4));
        assert_eq!(
            taken(&mut queue, &config, 7),
            [102, 2],
            "no more than three waited"
        );
    }

    #[test]
    fn a_share_is_bounded_in_bytes_but_for_one_batch() {
        let (mut queue, config) = (Queue::of(4), config());
        queue.add(source(1, false), batch(0, 5_000), &config);
        queue.add(source(1, false), batch(1, 1), &config);
        queue.add(source(2, false), batch(2, 1_000), &config);
        queue.add(source(2, false), batch(3, 500), &config);
        queue.add(source(2, false), batch(4, 500), &config);
        assert_eq!(taken(&mut queue, &config, 1), [0, 2, 3]);
    }

    #[test]
    fn a_batch_is_queued_once_whoever_tells_of_it() {
        let (mut queue, config) = (Queue::of(4), config());
        for from in [1, 2, 1] {
            queue.add(source(from, false), batch(7, 1), &config);
        }
        assert_eq!(taken(&mut queue, &config, 1), [7]);
    }

    /// Passed on by another, it may stand behind all that this other has passed on.
    #[test]
    fn a_batch_has_its_turn_where_its_own_replica_told_of_it() {
        let (mut queue, config) = (Queue::of(4), config());
        for number in 0..3 {
            queue.add(source(3, true), batch(number, 1), &config);
        }
        queue.add(source(1, false), batch(2, 1), &config);
        queue.add(source(2, true), batch(2, 1), &config);
        assert_eq!(taken(&mut queue, &config, 1), [2, 0, 1]);
        queue.executed(Slot(3));
        queue.add(source(3, true), batch(4, 1), &config);
        assert_eq!(taken(&mut queue, &config, 4), [4], "nothing is left of it");
    }
}
