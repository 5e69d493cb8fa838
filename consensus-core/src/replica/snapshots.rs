//! Snapshots that are saved, or about to be: taken here, or fetched from peers; and those offered to
//! them.

use std::sync::Arc;

use bytes::Bytes;

use crate::frontier::Frontier;
use crate::storage::{Snapshot, Ticket};

/// How many snapshots of this replica's own wait to be saved, and then for the protocol's word on them.
const KEPT: usize = 4;

#[derive(Debug, Default)]
pub(super) struct Snapshots {
    issued: Ticket,
    /// Taken, and not saved before the records of what they hold are durable: a replica that
    /// found a snapshot ahead of its records after a crash could not tell where it comes from.
    /// With the last append they wait for, once that has been given to storage.
    taken: Vec<(Option<Ticket>, Snapshot)>,
    saving: Vec<(Ticket, Snapshot, Origin)>,
    /// Durable, newest last; the protocol may offer any of them.
    saved: Vec<Snapshot>,
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

    /// Whether a snapshot is being saved, or was taken and is about to be.
    pub(super) fn is_busy(&self) -> bool {
        !self.taken.is_empty() || !self.saving.is_empty()
    }

    /// Whether so many wait to be saved that no other is to be taken: each is the whole state, and a
    /// disk may hang, or be full, for long.
    pub(super) fn are_many(&self) -> bool {
        self.taken.len() + self.saving.len() >= KEPT
    }

    /// Whether a snapshot was taken that is not being saved yet.
    pub(super) fn is_one_taken(&self) -> bool {
        !self.taken.is_empty()
    }

    /// Whether a fetched snapshot is being saved: what is on disk is about to be replaced by it.
    pub(super) fn is_installing(&self) -> bool {
        self.saving
            .iter()
            .any(|(.., origin)| *origin == Origin::Fetched)
    }

    /// Takes a snapshot of this replica's own, to be saved when [`Snapshots::due`] says so.
    pub(super) fn take(&mut self, snapshot: Snapshot) {
        self.taken.push((None, snapshot));
    }

    /// The snapshots taken whose records are durable, oldest first: appends have been given to
    /// storage through `issued`, and are durable through `durable`.
    pub(super) fn due(&mut self, issued: Ticket, durable: Ticket) -> Vec<Snapshot> {
        for (rests_on, _) in &mut self.taken {
            rests_on.get_or_insert(issued);
        }
        let ready = |(rests_on, _): &(Option<Ticket>, _)| rests_on.is_some_and(|t| t <= durable);
        let count = self.taken.iter().take_while(|taken| ready(taken)).count();
        self.taken.drain(..count).map(|(_, s)| s).collect()
    }

    /// Begins to save a fetched snapshot, which is ahead of all that were taken: those that are
    /// not yet being saved would replace it.
    pub(super) fn save_fetched(&mut self, snapshot: Snapshot) -> (Ticket, Snapshot) {
        self.taken.clear();
        self.save(snapshot, Origin::Fetched)
    }

    /// A fetched snapshot is durable and is the state. What was taken meanwhile holds less: saved now, it
    /// would be what a restart finds beside a log that goes on from the fetched one.
    pub(super) fn installed(&mut self, snapshot: Snapshot) {
        self.taken.clear();
        self.keep(snapshot);
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
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::Digest;
    use crate::id::Slot;
    use crate::protocol::SnapshotRef;

    fn snapshot(slot: u64) -> Snapshot {
        Snapshot {
            id: SnapshotRef {
                at: Frontier::single(Slot(slot)),
                digest: Digest::of(b""),
                anchor: Bytes::new(),
            },
            body: Bytes::new(),
        }
    }

    #[test]
    fn a_snapshot_waits_for_the_records_of_what_it_holds() {
        let mut snapshots = Snapshots::default();
        snapshots.take(snapshot(1));
        assert!(snapshots.is_busy());
        assert_eq!(snapshots.due(Ticket(3), Ticket(2)), []);
        snapshots.take(snapshot(2));
        assert_eq!(snapshots.due(Ticket(4), Ticket(3)), [snapshot(1)]);
        assert_eq!(snapshots.due(Ticket(9), Ticket(4)), [snapshot(2)]);
        assert!(!snapshots.is_busy());
    }

    #[test]
    fn a_fetched_snapshot_is_not_replaced_by_an_older_one() {
        let mut snapshots = Snapshots::default();
        snapshots.take(snapshot(1));
        snapshots.save_fetched(snapshot(5));
        assert_eq!(snapshots.due(Ticket(1), Ticket(1)), []);
        snapshots.take(snapshot(2));
        snapshots.installed(snapshot(5));
        assert_eq!(snapshots.due(Ticket(1), Ticket(1)), []);
    }
}
