//! The requests that wait to be committed. All replicas have them, so that no leader can leave one
//! out for ever: the next leader proposes it.
//!
//! Each replica keeps a share of each other's, and its own: what its driver has under way. It tells the
//! others of the oldest of these, as many as a share has room for, and of the next as those are
//! committed: what is dropped for want of room would have to be told again, and find each place taken by
//! what came just then.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use quorate_core::crypto::Digest;
use quorate_core::id::{ReplicaId, Slot, Time};
use quorate_core::request::{Batch, SessionId};

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
    me: ReplicaId,
    own: Own,
    /// What was committed of late, and at which height last.
    committed: BTreeMap<Digest, Slot>,
    committed_order: VecDeque<Digest>,
}

/// What waits for this replica's own clients.
#[derive(Debug, Default)]
struct Own {
    order: BTreeMap<u64, Digest>,
    /// The requests of each batch that are not committed. A batch without any waits for nothing: its
    /// requests were ordered with others.
    requests: BTreeSet<(SessionId, u64, Digest)>,
    /// The batches that the others are to be told of, and whether they were here before.
    untold: BTreeMap<u64, bool>,
}

#[derive(Debug)]
struct Waiting {
    batch: Batch,
    origin: ReplicaId,
    number: u64,
    since: Time,
    /// When it was last told to others by this replica.
    told: Time,
    /// Of an own one, how many of its requests are not committed.
    left: usize,
}

impl Mempool {
    pub(crate) fn of(n: usize, me: ReplicaId) -> Mempool {
        Mempool {
            waiting: BTreeMap::new(),
            order: BTreeMap::new(),
            next: 0,
            shares: vec![(0, 0); n],
            me,
            own: Own::default(),
            committed: BTreeMap::new(),
            committed_order: VecDeque::new(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// How many batches of others wait, and their bytes.
    pub(crate) fn of_others(&self) -> (usize, usize) {
        let all = ReplicaId::all(self.shares.len()).zip(&self.shares);
        let others = all.filter(|(origin, _)| *origin != self.me);
        others.fold((0, 0), |sum, (_, share)| (sum.0 + share.0, sum.1 + share.1))
    }

    /// Keeps a batch unless it is here, another `origin` has too many here, or it was committed beyond the
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
        let Some((count, bytes)) = self.shares.get(origin.index()) else {
            return;
        };
        let size = *bytes + batch.size();
        // One always fits: else it would never be ordered, however often it is told.
        let full =
            *count >= config.max_waiting_batches || *count > 0 && size > config.max_waiting_bytes;
        let own = origin == self.me && !config.mutated(Mutant::OwnRequestsDropped);
        let full = full && !own;
        if done || full || self.waiting.contains_key(&digest) {
            return;
        }
        give(&mut self.shares, origin, batch.size());
        let waiting = Waiting {
            batch: batch.clone(),
            origin,
            number: self.next,
            since: now,
            told: now,
            left: match origin == self.me {
                true => self.own.add(self.next, &digest, batch),
                false => 0,
            },
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
        if waiting.origin == self.me {
            self.own.remove(waiting.number, digest, &waiting.batch);
        }
        take(&mut self.shares, waiting.origin, waiting.batch.size());
    }

    /// A batch is committed at `height`.
    pub(crate) fn committed(&mut self, (batch, digest): (&Batch, &Digest), height: Slot) {
        self.remove(digest);
        for request in batch.requests() {
            self.settle(request.session, request.sequence);
        }
        if self.committed.insert(*digest, height).is_none() {
            self.committed_order.push_back(*digest);
        }
        if self.committed_order.len() > REMEMBERED
            && let Some(oldest) = self.committed_order.pop_front()
        {
            self.committed.remove(&oldest);
        }
    }

    /// A request is committed, and is in own batches perhaps.
    fn settle(&mut self, session: SessionId, sequence: u64) {
        for digest in self.own.settle(session, sequence) {
            let Some(waiting) = self.waiting.get_mut(&digest) else {
                continue;
            };
            waiting.left = waiting.left.saturating_sub(1);
            if waiting.left == 0 {
                self.remove(&digest);
            }
        }
    }

    /// The others are to be told again of a batch that is here, as this replica's own; false if it is not
    /// here.
    pub(crate) fn tell_again(&mut self, digest: &Digest) -> bool {
        let Some(waiting) = self.waiting.get_mut(digest) else {
            return false;
        };
        let size = waiting.batch.size();
        if waiting.origin != self.me {
            waiting.left = self.own.add(waiting.number, digest, &waiting.batch);
            let before = std::mem::replace(&mut waiting.origin, self.me);
            take(&mut self.shares, before, size);
            give(&mut self.shares, self.me, size);
        }
        self.own.untold.insert(waiting.number, true);
        true
    }

    /// What the others are to be told of now: the oldest own batches, as many as they have room for; of
    /// those that are `proposed` just now they hear anyway, if they were not here before.
    pub(crate) fn take_untold(&mut self, proposed: &[Digest], config: &Config) -> Vec<Batch> {
        let Some((first, _)) = self.own.untold.first_key_value() else {
            return Vec::new();
        };
        let (mut told, mut room) = (Vec::new(), (config.max_waiting_batches, 0));
        let first = *first;
        for (number, digest) in &self.own.order {
            let Some(waiting) = self.waiting.get(digest) else {
                continue;
            };
            let bytes = room.1 + waiting.batch.size();
            if room.0 == 0 || room.1 > 0 && bytes > config.max_waiting_bytes {
                break;
            }
            room = (room.0 - 1, bytes.max(1));
            if *number >= first
                && let Some(again) = self.own.untold.remove(number)
                && (again || !proposed.contains(digest))
            {
                told.push(waiting.batch.clone());
            }
        }
        told
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

/// Counts a batch of so many bytes in a replica's share.
fn give(shares: &mut [(usize, usize)], origin: ReplicaId, size: usize) {
    if let Some((count, bytes)) = shares.get_mut(origin.index()) {
        (*count, *bytes) = (*count + 1, *bytes + size);
    }
}

/// Counts it no more.
fn take(shares: &mut [(usize, usize)], origin: ReplicaId, size: usize) {
    if let Some((count, bytes)) = shares.get_mut(origin.index()) {
        *count = count.saturating_sub(1);
        *bytes = bytes.saturating_sub(size);
    }
}

impl Own {
    /// Adds a batch: how many requests it has.
    fn add(&mut self, number: u64, digest: &Digest, batch: &Batch) -> usize {
        self.order.insert(number, *digest);
        self.untold.insert(number, false);
        let keys = batch.requests();
        let keys = keys.map(|request| (request.session, request.sequence, *digest));
        let before = self.requests.len();
        self.requests.extend(keys);
        self.requests.len() - before
    }

    fn remove(&mut self, number: u64, digest: &Digest, batch: &Batch) {
        self.order.remove(&number);
        self.untold.remove(&number);
        for request in batch.requests() {
            let key = (request.session, request.sequence, *digest);
            self.requests.remove(&key);
        }
    }

    /// Takes a request that is committed: the batches that had it.
    fn settle(&mut self, session: SessionId, sequence: u64) -> Vec<Digest> {
        let [first, last] = [0, u8::MAX].map(|byte| (session, sequence, Digest([byte; 32])));
        let found: Vec<_> = self.requests.range(first..=last).copied().collect();
        for key in &found {
            self.requests.remove(key);
        }
        found.into_iter().map(|(_, _, digest)| digest).collect()
    }
}
