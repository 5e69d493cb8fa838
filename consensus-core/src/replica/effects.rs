//! What the pure driver asks its surroundings to do.

use std::sync::Arc;

use bytes::Bytes;

use crate::consensus::{ProposeError, ReadError};
use crate::machine::RestoreError;
use crate::protocol::{Commit, Dest, Event, Fetch, Protocol, RecoverError, Violation};
use crate::request::SessionId;
use crate::storage::{Append, Snapshot, StorageError, Ticket};

/// The effects of a turn.
#[derive(Debug)]
pub struct Effects<P: Protocol> {
    /// Messages that may leave now. None is for this replica itself.
    pub send: Vec<(Dest, P::Message)>,
    /// Records to be made durable.
    pub append: Option<Append>,
    /// Snapshots to be saved.
    pub save: Vec<(Ticket, Snapshot)>,
    /// Snapshots to be fetched, each from a peer: progress goes to
    /// [`Replica::fetch_progressed`](super::Replica::fetch_progressed), the result to
    /// [`Replica::fetched`](super::Replica::fetched).
    pub fetch: Vec<Fetch>,
    /// The snapshot that peers may fetch from now on.
    pub offer: Option<Arc<Snapshot>>,
    /// Answers to requests.
    pub answers: Vec<Answer>,
    /// Answers to reads.
    pub reads: Vec<(ReadToken, Result<Bytes, ReadError>)>,
    /// Entries executed, in order.
    pub executed: Vec<Commit>,
    /// What people and metrics want to know.
    pub events: Vec<Event>,
    /// The replica must stop, and has.
    pub halt: Option<Halt>,
}

impl<P: Protocol> Default for Effects<P> {
    fn default() -> Self {
        Effects {
            send: Vec::new(),
            append: None,
            save: Vec::new(),
            fetch: Vec::new(),
            offer: None,
            answers: Vec::new(),
            reads: Vec::new(),
            executed: Vec::new(),
            events: Vec::new(),
            halt: None,
        }
    }
}

/// The answer to a request that was proposed here; of a Byzantine protocol, to every request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Whose request it was.
    pub session: SessionId,
    /// Its number in the session.
    pub sequence: u64,
    /// The state machine's result.
    pub result: Result<Bytes, ProposeError>,
}

/// Names a read, as its asker chose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReadToken(pub u64);

/// Why a replica has stopped for good.
#[derive(Debug, thiserror::Error)]
pub enum Halt {
    /// An invariant does not hold.
    #[error("an invariant is broken, which is a defect in this program: {0}")]
    Violation(#[from] Violation),
    /// Storage has failed.
    #[error("storage failed, and nothing unsaved was acknowledged: {0}")]
    Storage(#[from] StorageError),
    /// The application cannot read a snapshot.
    #[error(transparent)]
    Restore(#[from] RestoreError),
    /// What storage gave back does not make a replica.
    #[error(transparent)]
    Recover(#[from] RecoverError),
    /// The replica was given limits that cannot work.
    #[error("the settings cannot work: {0}")]
    Settings(String),
    /// Something cannot be encoded.
    #[error("cannot write {0}")]
    Encode(String),
}
