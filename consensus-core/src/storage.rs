//! What makes records and snapshots durable.

use std::sync::Arc;

use bytes::Bytes;

use crate::crypto::Digest;
use crate::epoch::Differences;
use crate::protocol::SnapshotRef;

pub mod conformance;
mod memory;

pub use memory::{MemoryStorage, Survival, Synced};

/// Names a piece of work given to storage, in the order in which it was given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// Records, encoded, one after the other in one buffer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Records {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Records {
    /// Adds a record by writing it to the buffer given.
    pub fn push_with<E>(
        &mut self,
        write: impl FnOnce(&mut Vec<u8>) -> Result<usize, E>,
    ) -> Result<(), E> {
        write(&mut self.bytes)?;
        self.ends.push(self.bytes.len());
        Ok(())
    }

    /// Adds a record.
    pub fn push(&mut self, record: &[u8]) {
        self.bytes.extend_from_slice(record);
        self.ends.push(self.bytes.len());
    }

    /// How many records there are.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The bytes of all of them.
    pub fn size(&self) -> usize {
        self.bytes.len()
    }

    /// Adds all of `other`'s records.
    pub fn extend(&mut self, other: &Records) {
        let shift = self.bytes.len();
        self.bytes.extend_from_slice(&other.bytes);
        self.ends.extend(other.ends.iter().map(|end| end + shift));
    }

    /// The records, in order.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts
            .zip(&self.ends)
            .map(|(start, end)| &self.bytes[start..*end])
    }
}

/// What is given to [`Storage::append`].
#[derive(Clone, Debug)]
pub struct Append {
    /// Names it.
    pub ticket: Ticket,
    /// Whether the records stand for all earlier ones.
    pub replaces: bool,
    /// The records.
    pub records: Records,
}

/// A snapshot with its body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// What identifies it.
    pub id: SnapshotRef,
    /// Sessions and application state; its digest is in `id`.
    pub body: Bytes,
}

/// What storage holds after a restart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stored {
    /// The records, from the last [`Storage::append`] that replaced all before it.
    pub records: Vec<Bytes>,
    /// The newest snapshot.
    pub snapshot: Option<Snapshot>,
}

/// A replica's durable memory. Each call returns at once, and what is done is said to the
/// [`Completions`] given when the storage was opened.
///
/// Appends are done in the order in which they are given, and so are saves; but an append does
/// not wait for a save before it, for snapshots are large. Whoever appends what holds only with a
/// snapshot (a rewrite without what the snapshot covers) waits for [`Completions::saved`] first.
///
/// After the first failure nothing is done any more: the replica must stop, and a restart finds
/// out what is durable. A failed sync is never tried again, for the system may have dropped what
/// it could not write \[Rebello20\].
pub trait Storage: Send + 'static {
    /// Appends `records`; if it `replaces`, they stand for all earlier ones, which are deleted
    /// once the new ones are durable: a crash leaves all of the old or all of the new. A crash
    /// may leave a prefix of the records of an append that replaces nothing.
    fn append(&mut self, ticket: Ticket, replaces: bool, records: Records);

    /// Saves `snapshot`, and deletes older ones once it is durable: a crash leaves one or the
    /// other, whole.
    fn save(&mut self, ticket: Ticket, snapshot: Snapshot);

    /// How many data syncs of the record log there have been since it was opened.
    fn syncs(&self) -> u64;
}

/// Told by storage what has become durable, in order, maybe from a thread of the storage's own.
pub trait Completions: Send + Sync + 'static {
    /// All appends through `ticket` are durable. A later call stands for earlier ones too.
    fn durable(&self, ticket: Ticket);

    /// The snapshot given with `ticket` is durable, or a later one in its place. A later call
    /// stands for earlier ones too.
    fn saved(&self, ticket: Ticket);

    /// Storage has failed, and does nothing any more: this is said once, and nothing after it.
    fn failed(&self, error: StorageError);

    /// There is no room for what storage will need next; or there is again. What is given meanwhile is
    /// still made durable as long as what there is suffices, and waits for room then. New commands
    /// should not be taken.
    fn short_of_room(&self, short: bool);
}

impl<C: Completions + ?Sized> Completions for Arc<C> {
    fn durable(&self, ticket: Ticket) {
        self.as_ref().durable(ticket);
    }

    fn saved(&self, ticket: Ticket) {
        self.as_ref().saved(ticket);
    }

    fn failed(&self, error: StorageError) {
        self.as_ref().failed(error);
    }

    fn short_of_room(&self, short: bool) {
        self.as_ref().short_of_room(short);
    }
}

/// Why storage cannot be opened, or has stopped.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StorageError {
    /// The system refused.
    #[error("cannot {action} {path}: {reason}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file or directory.
        path: String,
        /// What the system said.
        reason: String,
    },
    /// There is no room.
    #[error("cannot {action} {path}: no storage space is left")]
    Full {
        /// What was tried.
        action: &'static str,
        /// The file or directory.
        path: String,
    },
    /// A file holds what was never written to it. Nothing has been repaired.
    #[error(
        "{path} is damaged at byte {offset}: {reason}; nothing was changed; do not delete it, for a replica that forgets its promises endangers the whole cluster: recover the file, or retire this replica"
    )]
    Damaged {
        /// The file.
        path: String,
        /// Where in it.
        offset: u64,
        /// What does not fit.
        reason: String,
    },
    /// Another process has the directory open.
    #[error("{path} is in use by another process")]
    InUse {
        /// The directory.
        path: String,
    },
    /// No replica's state is there, and none was prepared: the path is wrong, or the disk is
    /// missing, or the replica is new. Nothing has been made.
    #[error(
        "{path} holds no replica's state, nor is it prepared for a replica that has never run; one that has run must not go on without its state, for it would break promises that it has forgotten"
    )]
    Absent {
        /// The directory.
        path: String,
    },
    /// A directory was to be prepared in which a replica has run already. Nothing was changed.
    #[error("{path} holds the state of a replica that has run already")]
    Present {
        /// The directory.
        path: String,
    },
    /// The directory is another replica's, or was written under another protocol. Nothing was
    /// changed.
    #[error(
        "{path} belongs to {owner}, but this is {own}; nothing was changed: give each replica the directory that was prepared for it"
    )]
    Foreign {
        /// The directory.
        path: String,
        /// Whose it is.
        owner: String,
        /// Who wants it.
        own: String,
    },
    /// The directory was last used under settings that all replicas must have alike, and they are
    /// others now. Nothing was changed.
    #[error(
        "{path} was last used under other settings: {differences} (here is this configuration, there the directory); nothing was changed: replicas that do not agree on them may lose what was acknowledged"
    )]
    Disagrees {
        /// The directory.
        path: String,
        /// What differs.
        differences: Differences,
        /// The digest of the settings now.
        digest: Digest,
    },
}
