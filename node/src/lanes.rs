//! What waits for the driver, in a queue for each who brings something, of whom all have their
//! turn.
//!
//! Whoever brings more than its queue holds waits, and its stream is not read meanwhile: so a flood
//! holds up who sends it, and nobody else. Queues are bounded in bytes, each and, those of clients,
//! together; nothing that was brought is dropped.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use quorate_core::id::ReplicaId;
use tokio::sync::Notify;

use crate::replies::ConnectionId;

/// Who brings something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Sender {
    /// This node itself.
    Own,
    /// Another replica.
    Peer(ReplicaId),
    /// A client, by its connection.
    Client(ConnectionId),
}

/// How much may wait.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Of one sender, in items.
    pub(crate) items: usize,
    /// Of this node or one other replica, in bytes.
    pub(crate) peer_bytes: usize,
    /// Of one client, in bytes.
    pub(crate) client_bytes: usize,
    /// Of all clients together, in bytes; each may have one item all the same.
    pub(crate) clients_bytes: usize,
}

/// Chosen, not measured: many times what a batch or a message of a correct replica takes by default.
pub(crate) const LIMITS: Limits = Limits {
    items: 4096,
    peer_bytes: 32 << 20,
    client_bytes: 8 << 20,
    clients_bytes: 128 << 20,
};

/// How many items a sender may have taken before it is the next one's turn.
const SHARE_ITEMS: usize = 64;

/// How many bytes, likewise, but for a single larger item.
const SHARE_BYTES: usize = 1 << 20;

/// How many bytes are taken at a time, but for a single larger item.
const TAKEN_BYTES: usize = 32 << 20;

/// The driver has gone: nothing is taken any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Closed;

/// The queues of all senders.
pub(crate) struct Lanes<T> {
    limits: Limits,
    state: Mutex<State<T>>,
    /// Something waits that did not before.
    pub(crate) news: Notify,
}

struct State<T> {
    open: bool,
    lanes: BTreeMap<Sender, Lane<T>>,
    /// Those that have something, in the order of their turns.
    round: VecDeque<Sender>,
    /// The bytes of all clients.
    client_bytes: usize,
    /// Those that wait for room.
    waiting: Vec<Sender>,
}

struct Lane<T> {
    queue: VecDeque<(T, usize)>,
    bytes: usize,
    room: Arc<Notify>,
}

impl<T> Default for Lane<T> {
    fn default() -> Self {
        Lane {
            queue: VecDeque::new(),
            bytes: 0,
            room: Arc::default(),
        }
    }
}

impl<T> Lanes<T> {
    pub(crate) fn new(limits: Limits) -> Self {
        Lanes {
            limits,
            state: Mutex::new(State {
                open: true,
                lanes: BTreeMap::new(),
                round: VecDeque::new(),
                client_bytes: 0,
                waiting: Vec::new(),
            }),
            news: Notify::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn is_closed(&self) -> bool {
        !self.state().open
    }

    /// Queues an item; waits while there is no room. For one task a sender, but for
    /// [`Sender::Own`].
    pub(crate) async fn bring(&self, from: Sender, item: T, bytes: usize) -> Result<(), Closed> {
        loop {
            let room = {
                let mut state = self.state();
                if !state.open {
                    return Err(Closed);
                }
                if state.has_room(from, bytes, &self.limits) {
                    return self.queue(state, from, item, bytes);
                }
                state.waiting.push(from);
                state.lanes.entry(from).or_default().room.clone()
            };
            room.notified().await;
        }
    }

    /// Queues an item that is small and of a kind that a sender has few of.
    pub(crate) fn bring_now(&self, from: Sender, item: T) -> Result<(), Closed> {
        let state = self.state();
        match state.open {
            true => self.queue(state, from, item, 0),
            false => Err(Closed),
        }
    }

    fn queue(
        &self,
        mut state: MutexGuard<'_, State<T>>,
        from: Sender,
        item: T,
        bytes: usize,
    ) -> Result<(), Closed> {
        let lane = state.lanes.entry(from).or_default();
        let first = lane.queue.is_empty();
        lane.queue.push_back((item, bytes));
        lane.bytes += bytes;
        if let Sender::Client(_) = from {
            state.client_bytes += bytes;
        }
        if first {
            state.round.push_back(from);
            drop(state);
            self.news.notify_one();
        }
        Ok(())
    }

    /// Takes what waits, until `taken` has so many items: a share of each sender, in turn. `admit`
    /// says whether an item may be taken; if not, it and what its sender brought after it waits.
    ///
    /// True if something is left that could not be taken yet.
    pub(crate) fn take(
        &self,
        taken: &mut Vec<T>,
        limit: usize,
        mut admit: impl FnMut(&T) -> bool,
    ) -> bool {
        let mut state = self.state();
        let (mut held, mut bytes) = (Vec::new(), 0);
        while taken.len() < limit
            && bytes < TAKEN_BYTES
            && let Some(from) = state.round.pop_front()
        {
            let most = limit.min(taken.len() + SHARE_ITEMS);
            let (took, rest) = state.share(from, taken, most, &mut admit);
            bytes += took;
            match rest {
                Rest::Nothing => {}
                Rest::Waits => state.round.push_back(from),
                Rest::Held => held.push(from),
            }
        }
        let left = !state.round.is_empty() || !held.is_empty();
        if !state.round.is_empty() {
            self.news.notify_one();
        }
        state.round.extend(held);
        for from in std::mem::take(&mut state.waiting) {
            if let Some(lane) = state.lanes.get(&from) {
                lane.room.notify_one();
            }
        }
        left
    }

    /// A sender has gone: what it brought and was not taken is dropped, but for this last item.
    pub(crate) fn leave(&self, from: Sender, last: T) -> Result<(), Closed> {
        let mut state = self.state();
        if let Some(lane) = state.lanes.get_mut(&from) {
            let bytes = std::mem::take(&mut lane.bytes);
            lane.queue.clear();
            state.round.retain(|other| *other != from);
            if let Sender::Client(_) = from {
                state.client_bytes -= bytes;
            }
        }
        match state.open {
            true => self.queue(state, from, last, 0),
            false => Err(Closed),
        }
    }

    /// A sender has gone, whose last item has been taken.
    pub(crate) fn forget(&self, from: Sender) {
        let mut state = self.state();
        if state.lanes.get(&from).is_some_and(|l| l.queue.is_empty()) {
            state.lanes.remove(&from);
        }
    }

    /// Drops what waits, and refuses what comes.
    pub(crate) fn close(&self) {
        let mut state = self.state();
        state.open = false;
        state.round.clear();
        for lane in std::mem::take(&mut state.lanes).into_values() {
            lane.room.notify_one();
        }
    }

    /// How many bytes wait.
    #[cfg(test)]
    pub(crate) fn bytes(&self) -> usize {
        self.state().lanes.values().map(|lane| lane.bytes).sum()
    }
}

/// What a sender has left.
enum Rest {
    Nothing,
    Waits,
    Held,
}

impl<T> State<T> {
    fn has_room(&self, from: Sender, bytes: usize, limits: &Limits) -> bool {
        let Some(lane) = self.lanes.get(&from).filter(|lane| lane.bytes > 0) else {
            return true;
        };
        let is_client = matches!(from, Sender::Client(_));
        let most = match is_client {
            true => limits.client_bytes,
            false => limits.peer_bytes,
        };
        let together = !is_client || self.client_bytes + bytes <= limits.clients_bytes;
        lane.queue.len() < limits.items && lane.bytes + bytes <= most && together
    }

    /// Takes from one sender until `taken` has `most` items, and gives their bytes.
    fn share(
        &mut self,
        from: Sender,
        taken: &mut Vec<T>,
        most: usize,
        mut admit: impl FnMut(&T) -> bool,
    ) -> (usize, Rest) {
        let (mut share, mut rest) = (0, Rest::Nothing);
        let Some(lane) = self.lanes.get_mut(&from) else {
            return (share, rest);
        };
        while let Some((item, bytes)) = lane.queue.pop_front() {
            let admitted = taken.len() < most && share < SHARE_BYTES;
            if !admitted || !admit(&item) {
                rest = if admitted { Rest::Held } else { Rest::Waits };
                lane.queue.push_front((item, bytes));
                break;
            }
            taken.push(item);
            share += bytes;
        }
        lane.bytes -= share;
        if let Sender::Client(_) = from {
            self.client_bytes -= share;
        }
        (share, rest)
    }
}

#[cfg(test)]
mod tests;
