//! What wakes the driver.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use quorate_core::consensus::ReadLevel;
use quorate_core::crypto::Digest;
use quorate_core::id::ReplicaId;
use quorate_core::ledger::Ledger;
use quorate_core::protocol::{Protocol, Verified};
use quorate_core::replica::Halt;
use quorate_core::request::{Batch, Forged, SessionId};
use quorate_core::storage::{Completions, Snapshot, StorageError, Ticket};
use tokio::sync::{Notify, oneshot};

use crate::lanes::Lanes;
use crate::replies::ConnectionId;

/// One thing that happened.
pub(crate) enum Happening<P: Protocol> {
    /// A verified message came from a replica.
    Message(Verified<P::Message>),
    /// A client connected.
    Connected(ConnectionId, Arc<dyn quorate_core::transport::FrameSink>),
    /// A client's connection ended.
    Disconnected(ConnectionId),
    /// A client asks for requests to be ordered.
    Propose(ConnectionId, Batch),
    /// A client asks for requests that it may not ask for.
    Refused(ConnectionId, Batch, Forged),
    /// A client wants the answers to a session, and to know how many there have been.
    Follow(ConnectionId, SessionId),
    /// A client reads what has been executed.
    Peek(ConnectionId, u64, Bytes),
    /// A client reads.
    Read(ConnectionId, u64, ReadLevel, Bytes),
    /// A client asks where the replica stands, maybe with the digest of its state.
    Status(ConnectionId, u64, bool),
    /// A fetch from a peer makes progress.
    FetchProgressed(ReplicaId),
    /// A fetch from a peer has ended.
    Fetched(ReplicaId, Option<Snapshot>),
    /// The application asks what was spent.
    Ledger(oneshot::Sender<Ledger>),
    /// The application asks for the state's digest.
    Digest(oneshot::Sender<Result<(u64, Digest), Halt>>),
    /// The digest of the state is made, as it was when that began.
    Digested(Digest),
}

impl<P: Protocol> Happening<P> {
    /// Who wishes to be told something by it.
    pub(crate) fn wisher(&self) -> Option<ConnectionId> {
        match self {
            Happening::Peek(id, ..) | Happening::Read(id, ..) | Happening::Status(id, ..) => {
                Some(*id)
            }
            _ => None,
        }
    }

    /// How many bytes it takes while it waits, as sent.
    pub(crate) fn size(&self) -> usize {
        let bytes = match self {
            Happening::Propose(_, batch) | Happening::Refused(_, batch, _) => batch.size(),
            Happening::Peek(.., query) | Happening::Read(.., query) => query.len(),
            _ => 0,
        };
        OVERHEAD + bytes
    }

    /// Whether a client asks for requests to be ordered, which can wait for others of its kind.
    pub(crate) fn is_request(&self) -> bool {
        matches!(self, Happening::Propose(..))
    }
}

/// What happened and was not looked at yet.
pub(crate) type Inbox<P> = Lanes<Happening<P>>;

/// What a happening takes beside its bytes.
const OVERHEAD: usize = 64;

/// What storage has completed: each word replaces the one before, so that nothing queues.
#[derive(Debug, Default)]
pub(crate) struct Completed {
    durable: AtomicU64,
    saved: AtomicU64,
    failed: Mutex<Option<StorageError>>,
    short_of_room: AtomicBool,
    pub(crate) news: Notify,
}

impl Completed {
    pub(crate) fn durable_through(&self) -> Ticket {
        Ticket(self.durable.load(Ordering::Acquire))
    }

    pub(crate) fn saved_through(&self) -> Ticket {
        Ticket(self.saved.load(Ordering::Acquire))
    }

    pub(crate) fn is_short_of_room(&self) -> bool {
        self.short_of_room.load(Ordering::Acquire)
    }

    pub(crate) fn failure(&self) -> Option<StorageError> {
        let failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        failed.clone()
    }
}

impl Completions for Completed {
    fn durable(&self, ticket: Ticket) {
        self.durable.fetch_max(ticket.0, Ordering::Release);
        self.news.notify_one();
    }

    fn saved(&self, ticket: Ticket) {
        self.saved.fetch_max(ticket.0, Ordering::Release);
        self.news.notify_one();
    }

    fn failed(&self, error: StorageError) {
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        failed.get_or_insert(error);
        self.news.notify_one();
    }

    fn short_of_room(&self, short: bool) {
        self.short_of_room.store(short, Ordering::Release);
        self.news.notify_one();
    }
}
