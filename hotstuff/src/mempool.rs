//! The requests that wait to be committed. All replicas have them, so that no leader can leave one
//! out for ever: the next leader proposes it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use quorate_core::crypto::Digest;
use quorate_core::id::{ReplicaId, Slot, Time};
use quorate_core::request::Batch;

use crate::config::Config;
use crate::mutant::Mutant;

/// How many batches are remembered that were committed of late, for copies that come late.
const REMEMBERED: usize = 4096;

/// What waits, by digest and in the order in which it came.
#[derive(Debug)]
pub(crate) struct Mempool {
    waiting: BTreeMap<Digest, Waiting>,
    order: BTreeMap<u64, Digest>,
    next: u64,
    /// How many batches each replica has here, and their bytes.
    shares: Vec<(usize, usize)>,
    /// What was committed of late, and at which height last.
    committed: BTreeMap<Digest, Slot>,
    committed_order: VecDeque<Digest>,
}

#[derive(Debug)]
struct Waiting {
    batch: Batch,
    origin: ReplicaId,
    number: u64,
    since: Time,
    /// When it was last told to others by this replica.
    told: Time,
}

impl Mempool {
    pub(crate) fn of(n: usize) -> Mempool {
        Mempool {
            waiting: BTreeMap::new(),
            order: BTreeMap::new(),
            next: 0,
            shares: vec![(0, 0); n],
            committed: BTreeMap::new(),
            committed_order: VecDeque::new(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub(crate) fn contains(&self, digest: &Digest) -> bool {
        self.waiting.contains_key(digest)
    }

    /// How many batches wait, and their bytes.
    pub(crate) fn size(&self) -> (usize, usize) {
        let sum = |a: (usize, usize), b: &(usize, usize)| (a.0 + b.0, a.1 + b.1);
        self.shares.iter().fold((0, 0), sum)
    }

    /// Keeps a batch unless it is here, `origin` has too many here, or it was committed beyond the
    /// height through which who tells of it has `seen` what is: it will see that, or a state in
    /// which it is, and tell of it once more if it still wants it.
    pub(crate) fn add(
        &mut self,
        now: Time,
        origin: ReplicaId,
        (batch, digest): (&Batch, Digest),
        seen: Slot,
        config: &Config,
    ) {
        let unseen = |height: &Slot| *height > seen;
        let late = self.committed.get(&digest).is_some_and(unseen);
        let done = late && !config.mutated(Mutant::LateCopiesOrderedAgain);
        let Some((count, bytes)) = self.shares.get_mut(origin.index()) else {
            return;
        };
        let size = *bytes + batch.size();
        // One always fits: else it would never be ordered, however often it is told.
        let full =
            *count >= config.max_waiting_batches || *count > 0 && size > config.max_waiting_bytes;
        if done || full || self.waiting.contains_key(&digest) {
            return;
        }
        (*count, *bytes) = (*count + 1, size);
        let waiting = Waiting {
            batch: batch.clone(),
            origin,
            number: self.next,
            since: now,
            told: now,
        };
        self.order.insert(self.next, digest);
        self.next += 1;
        self.waiting.insert(digest, waiting);
    }

    fn remove(&mut self, digest: &Digest) {
        let Some(waiting) = self.waiting.remove(digest) else {
            return;
        };
        self.order.remove(&waiting.number);
        if let Some((count, bytes)) = self.shares.get_mut(waiting.origin.index()) {
            *count = count.saturating_sub(1);
            *bytes = bytes.saturating_sub(waiting.batch.size());
        }
    }

    /// A batch is committed at `height`.
    pub(crate) fn committed(&mut self, digest: &Digest, height: Slot) {
        self.remove(digest);
        if self.committed.insert(*digest, height).is_none() {
            self.committed_order.push_back(*digest);
        }
        if self.committed_order.len() > REMEMBERED
            && let Some(oldest) = self.committed_order.pop_front()
        {
            self.committed.remove(&oldest);
        }
    }

    /// What has been committed is not known any more: `me` keeps what its own clients wait for,
    /// and trusts the others to ask again for theirs.
    pub(crate) fn keep_own(&mut self, me: ReplicaId) {
        let others = self.waiting.iter().filter(|(_, w)| w.origin != me);
        let others: Vec<Digest> = others.map(|(digest, _)| *digest).collect();
        for digest in others {
            self.remove(&digest);
        }
    }

    fn in_order(&self) -> impl Iterator<Item = (&Digest, &Waiting)> {
        let digests = self.order.values();
        digests.filter_map(|digest| Some((digest, self.waiting.get(digest)?)))
    }

    /// What to propose on a branch that has the batches given: what has waited longest, as long as
    /// it is less than `max_bytes`.
    pub(crate) fn next_batches(&self, branch: &BTreeSet<Digest>, max_bytes: usize) -> Vec<Batch> {
        let (mut chosen, mut bytes) = (Vec::new(), 0);
        for (_, waiting) in self.in_order().filter(|(d, _)| !branch.contains(*d)) {
            bytes += waiting.batch.size();
            if bytes > max_bytes && !chosen.is_empty() {
                break;
            }
            chosen.push(waiting.batch.clone());
        }
        chosen
    }

    /// Whether something that a branch lacks has waited since before `limit`.
    pub(crate) fn is_left_out(&self, branch: &BTreeSet<Digest>, limit: Time) -> bool {
        let mut waiting = self.in_order().take_while(|(_, w)| w.since <= limit);
        waiting.any(|(digest, _)| !branch.contains(digest))
    }

    /// The batches to be told to all now, by whomever they came here: those that are not in the
    /// `branch` and have waited for `patience` since they were last told, as long as they are less
    /// than `max_bytes`.
    pub(crate) fn overdue(
        &mut self,
        now: Time,
        patience: Duration,
        branch: &BTreeSet<Digest>,
        max_bytes: usize,
    ) -> Vec<Batch> {
        let due = self.in_order().filter(|(_, w)| w.told + patience <= now);
        let due = due.filter(|(digest, _)| !branch.contains(*digest));
        let (mut bytes, mut digests) = (0, Vec::new());
        for (digest, waiting) in due {
            bytes += waiting.batch.size();
            if bytes > max_bytes && !digests.is_empty() {
                break;
            }
            digests.push(*digest);
        }
        let mut batches = Vec::new();
        for digest in digests {
            if let Some(waiting) = self.waiting.get_mut(&digest) {
                waiting.told = now;
                batches.push(waiting.batch.clone());
            }
        }
        batches
    }
}
