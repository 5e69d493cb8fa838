//! Snapshots under way: taken here, offered to peers, fetched from them.

use std::sync::Arc;

use bytes::Bytes;

use crate::frontier::Frontier;
use crate::protocol::Fetch;
use crate::storage::{Snapshot, Ticket};

/// How many snapshots of this replica's own wait for the protocol's word on them.
const KEPT: usize = 4;

#[derive(Debug, Default)]
pub(super) struct Snapshots {
    issued: Ticket,
    /// Taken, and held back until the records of what it holds are durable: an entry may be
    /// decided elsewhere and executed before it is durable here, and a snapshot must not survive
    /// a crash that its records do not survive. With the last append that it waits for, once that
    /// is known.
    held: Vec<(Option<Ticket>, Snapshot)>,
    saving: Vec<(Ticket, Snapshot, Origin)>,
    /// Durable, newest last; the protocol may offer any of them.
    saved: Vec<Snapshot>,
    fetching: Option<Fetch>,
}

/// Where a snapshot comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    Taken,
    Fetched,
}

impl Snapshots {
    /// What was on disk at the start.
    pub(super) fn recovered(snapshot: Option<Snapshot>) -> Self {
        Snapshots {
            saved: snapshot.into_iter().collect(),
            ..Snapshots::default()
        }
    }

    /// Whether a snapshot is being saved, or fetched and about to be.
    pub(super) fn is_busy(&self) -> bool {
        !self.held.is_empty() || !self.saving.is_empty() || self.fetching.is_some()
    }

    /// Whether a fetched snapshot is being saved: what is on disk is about to be replaced by it.
    pub(super) fn is_installing(&self) -> bool {
        self.saving
            .iter()
            .any(|(.., origin)| *origin == Origin::Fetched)
    }

    /// Holds a snapshot taken in this turn.
    pub(super) fn hold(&mut self, snapshot: Snapshot) {
        self.held.push((None, snapshot));
    }

    /// The turn ends, with `issued` as its last append: what was taken in it waits for that.
    pub(super) fn close_turn(&mut self, issued: Ticket) {
        for (waits_for, _) in &mut self.held {
            waits_for.get_or_insert(issued);
        }
    }

    /// Takes the snapshots that need not be held back any more, oldest first.
    pub(super) fn released(&mut self, is_durable: impl Fn(Ticket) -> bool) -> Vec<Snapshot> {
        let free = self
            .held
            .iter()
            .take_while(|(t, _)| t.is_some_and(&is_durable));
        let count = free.count();
        self.held
            .drain(..count)
            .map(|(_, snapshot)| snapshot)
            .collect()
    }

    /// Begins to save `snapshot`.
    pub(super) fn save(&mut self, snapshot: Snapshot, origin: Origin) -> (Ticket, Snapshot) {
        self.issued.0 += 1;
        self.saving.push((self.issued, snapshot.clone(), origin));
        (self.issued, snapshot)
    }

    /// Takes the snapshots that are durable, oldest first.
    pub(super) fn durable(&mut self, ticket: Ticket) -> Vec<(Snapshot, Origin)> {
        let count = self
            .saving
            .iter()
            .take_while(|(t, ..)| *t <= ticket)
            .count();
        let done = self.saving.drain(..count);
        done.map(|(_, snapshot, origin)| (snapshot, origin))
            .collect()
    }

    /// Keeps a durable snapshot until the protocol offers it.
    pub(super) fn keep(&mut self, snapshot: Snapshot) {
        self.saved.push(snapshot);
        if self.saved.len() > KEPT {
            self.saved.remove(0);
        }
    }

    /// The protocol vouches for the snapshot at `at`: gives it with its anchor, and forgets
    /// older ones.
    pub(super) fn offer(&mut self, at: &Frontier, anchor: Bytes) -> Option<Arc<Snapshot>> {
        let position = self.saved.iter().position(|s| s.id.at == *at)?;
        self.saved.drain(..position);
        let snapshot = self.saved.first_mut()?;
        snapshot.id.anchor = anchor;
        Some(Arc::new(snapshot.clone()))
    }

    /// Notes a wish to fetch; true if it is to be carried out now.
    pub(super) fn wish(&mut self, fetch: &Fetch) -> bool {
        if self.is_busy() {
            return false;
        }
        self.fetching = Some(fetch.clone());
        true
    }

    /// The fetch under way has ended.
    pub(super) fn fetched(&mut self) -> Option<Fetch> {
        self.fetching.take()
    }
}
