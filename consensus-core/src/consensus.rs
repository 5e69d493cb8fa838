//! What an application calls.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::crypto::Digest;
use crate::ledger::Ledger;
use crate::protocol::Status;

/// A replicated service, whatever the protocol. Any node takes any request.
#[async_trait]
pub trait Consensus: Send + Sync + 'static {
    /// Has `command` ordered and applied, once, and gives the state machine's result. The command
    /// is this node's own: under every protocol it is [`ProposeError::Refused`] if the node's key
    /// is not admitted as a client's.
    async fn propose(&self, command: Bytes) -> Result<Bytes, ProposeError>;

    /// Has `query` answered.
    async fn read(&self, query: Bytes, level: ReadLevel) -> Result<Bytes, ReadError>;

    /// Where this node stands.
    fn status(&self) -> Status;

    /// Waits until role, regime or leader are not as in `seen`, and gives the new status; the
    /// last one if the node has stopped.
    async fn status_change(&self, seen: &Status) -> Status;

    /// What this node has spent since it started.
    async fn ledger(&self) -> Result<Ledger, ReadError>;

    /// The digest of sessions and application state, with the number of entries executed: equal
    /// numbers have equal digests on all nodes.
    async fn digest(&self) -> Result<(u64, Digest), ReadError>;

    /// Stops the node once what it has acknowledged is durable. Requests under way end with
    /// [`ProposeError::Unknown`].
    async fn shutdown(&self) -> Result<(), ShutdownError>;

    /// Waits until the node has stopped, and says why if it stopped by itself.
    async fn stopped(&self) -> Result<(), ShutdownError>;
}

/// A shared handle to a service.
pub type DynConsensus = Arc<dyn Consensus>;

/// How fresh a read must be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReadLevel {
    /// It sees every write that was acknowledged before it was asked.
    #[default]
    Linearizable,
    /// It sees what one node has executed, however old: this node, or the one that a remote client
    /// is connected to. Where replicas may lie it is that one's word and nothing more: no other is
    /// asked, and a liar may answer what it likes.
    Local,
}

/// Why there is no result. [`ProposeError::may_have_happened`] tells whether the command may
/// have been applied all the same.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum ProposeError {
    /// The node has as many requests under way as it will hold. The command did not happen: try
    /// again later.
    #[error("overloaded: the command was not proposed; try again later")]
    Overloaded,
    /// The node's disk is full, or so nearly that what is left is kept for what is under way. The
    /// command did not happen: make room, or try another node.
    #[error(
        "overloaded: the disk of this replica is full or nearly so; the command was not proposed"
    )]
    DiskFull,
    /// The command exceeds the limit. It did not happen.
    #[error("the command has {size} bytes, more than the limit of {limit}")]
    TooLarge {
        /// The command's bytes.
        size: usize,
        /// The most that is taken.
        limit: usize,
    },
    /// The request is not taken from this client: its key is not on the list, or it has not
    /// signed what must be signed where replicas may lie. The command did not happen.
    #[error("the request was refused: {0}")]
    Refused(String),
    /// The session is not known (any more): it was never opened, or so many others were opened
    /// since it was last used that it was forgotten. Whether the command happened earlier cannot
    /// be told.
    #[error("the session has expired: whether the command happened is unknown; open a new session")]
    SessionExpired,
    /// The client said that it has the answer to this sequence, or has gone on so far beyond it
    /// that the answer was dropped. The command may have happened, long ago.
    #[error("the answer is no longer kept: the command may have happened")]
    AnswerDropped,
    /// No answer within the time allowed, as when no quorum can be reached. The command may have
    /// happened, or may still happen.
    #[error("no answer in time: the command may have happened; is a quorum of replicas up?")]
    Unknown,
    /// No replica could be reached, or none answered before the command was sent. It did not
    /// happen.
    #[error("no replica answers, and the command was not proposed: {0}")]
    Unreachable(String),
    /// The node had stopped before it took the command. It did not happen.
    #[error("the node has stopped: {0}")]
    Stopped(String),
}

impl ProposeError {
    /// Whether the node takes no more for now, for whatever reason.
    pub fn is_overload(&self) -> bool {
        matches!(self, ProposeError::Overloaded | ProposeError::DiskFull)
    }

    /// Whether the command may have been applied: if not, it certainly was not and will not be.
    pub fn may_have_happened(&self) -> bool {
        match self {
            ProposeError::Overloaded
            | ProposeError::DiskFull
            | ProposeError::TooLarge { .. }
            | ProposeError::Refused(_)
            | ProposeError::Unreachable(_)
            | ProposeError::Stopped(_) => false,
            ProposeError::SessionExpired | ProposeError::AnswerDropped | ProposeError::Unknown => {
                true
            }
        }
    }
}

/// Why there is no answer to a read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum ReadError {
    /// The node has as many requests under way as it will hold.
    #[error("overloaded; try again later")]
    Overloaded,
    /// The query exceeds the limit.
    #[error("the query has {size} bytes, more than the limit of {limit}")]
    TooLarge {
        /// The query's bytes.
        size: usize,
        /// The most that is taken.
        limit: usize,
    },
    /// The query was to be ordered like a command, and that was refused: see
    /// [`ProposeError::Refused`]. Or the application cannot write the state whose digest was asked
    /// for.
    #[error("the query was refused: {0}")]
    Refused(String),
    /// No quorum confirmed the read within the time allowed.
    #[error("no answer in time; is a quorum of replicas up?")]
    Timeout,
    /// No replica could be reached.
    #[error("no replica answers: {0}")]
    Unreachable(String),
    /// The node has stopped.
    #[error("the node has stopped: {0}")]
    Stopped(String),
}

/// A node that could not stop cleanly.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the node did not stop cleanly: {0}")]
pub struct ShutdownError(pub String);
