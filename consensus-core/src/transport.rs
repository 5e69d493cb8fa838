//! How frames get from one replica, or client, to another.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use crate::crypto::PublicKey;
use crate::id::{ReplicaId, ReplicaSet};

/// How many bytes of a bulk answer are progress: who sends fewer for as long as the asker's patience
/// could go on for ever.
pub const BULK_PROGRESS: usize = 1 << 20;

/// A mutually authenticated network. A protocol takes loss, delay, reordering and repetition;
/// what it relies on is that `from` in [`Service`] is who holds the member's key.
#[async_trait]
pub trait Transport: Send + Sync + 'static {
    /// Queues `frame` for `to`, and returns at once. Frames to one replica arrive in order, or
    /// not at all: a bounded queue that is full drops the frame, so that a slow peer holds up
    /// neither the others nor memory. A frame to this replica itself is dropped.
    fn send(&self, to: ReplicaId, frame: Bytes);

    /// Asks `from`'s [`Service::bulk`], beside the frames: a large answer delays no frame.
    ///
    /// `from` is given up, whatever its connection says, when for as long as `patience` the answer
    /// has made no [`BULK_PROGRESS`]. `heard` is called now and then while it makes it.
    async fn bulk(
        &self,
        from: ReplicaId,
        request: Bytes,
        patience: Duration,
        heard: &(dyn Fn() + Send + Sync),
    ) -> Result<Bytes, TransportError>;

    /// The replicas that are connected now.
    fn connected(&self) -> ReplicaSet;

    /// Closes all connections, and returns when nothing is delivered any more.
    async fn shutdown(&self);
}

/// What a transport delivers to. Its methods run on the transport's tasks; one that waits slows
/// down that connection only.
#[async_trait]
pub trait Service: Send + Sync + 'static {
    /// A frame came from a member.
    async fn deliver(&self, from: ReplicaId, frame: Bytes);

    /// A member asks for something large, which is given in parts, to be sent one after the other:
    /// they need not be copied for each who asks. `None` refuses.
    async fn bulk(&self, from: ReplicaId, request: Bytes) -> Option<Vec<Bytes>>;

    /// A client has connected and proved `key`. `None` turns it away.
    fn client(&self, key: PublicKey, replies: Arc<dyn FrameSink>)
    -> Option<Arc<dyn ClientService>>;
}

/// What serves one client's connection; dropped when the connection ends.
#[async_trait]
pub trait ClientService: Send + Sync + 'static {
    /// A frame came from the client. Frames of one connection come one after the other.
    async fn deliver(&self, frame: Bytes);
}

/// Takes frames for the other end of a connection.
pub trait FrameSink: Send + Sync + 'static {
    /// Queues `frame`, and returns at once. False if it was dropped: the connection is closed, or
    /// its queue full.
    fn send(&self, frame: Bytes) -> bool;

    /// How many bytes are queued that the other end has not taken, as far as that is known.
    fn backlog(&self) -> usize {
        0
    }
}

/// How a client reaches the replicas.
#[async_trait]
pub trait Connector: Send + Sync + 'static {
    /// How many replicas there are.
    fn n(&self) -> usize;

    /// Connects to `to`, proving this client's key and demanding `to`'s. Frames from the replica
    /// go to `replies`, whose [`ClientReplies::closed`] is called when the connection ends. The
    /// connection closes when the sink given back is dropped.
    async fn connect(
        &self,
        to: ReplicaId,
        replies: Arc<dyn ClientReplies>,
    ) -> Result<Arc<dyn FrameSink>, TransportError>;
}

/// Takes what a replica sends to a client.
#[async_trait]
pub trait ClientReplies: Send + Sync + 'static {
    /// A frame came. Must not block.
    fn deliver(&self, from: ReplicaId, frame: Bytes);

    /// Waits until another frame is wanted. Who delivers frames that come over a network, and one
    /// task does so for each connection, waits for this before it takes the next: a replica that
    /// sends more than the client looks at is to fill its own connection, and not memory.
    async fn ready(&self) {}

    /// The connection has ended.
    fn closed(&self, from: ReplicaId);
}

/// What went wrong on the network.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransportError {
    /// The other end could not be reached.
    #[error("cannot reach {to}: {reason}")]
    Unreachable {
        /// Who was called.
        to: ReplicaId,
        /// Why it failed.
        reason: String,
    },
    /// The other end holds another key than the configuration says, or does not accept ours.
    #[error("{to} was not authenticated: {reason}")]
    NotAuthenticated {
        /// Who was called.
        to: ReplicaId,
        /// What did not match.
        reason: String,
    },
    /// The other end has other settings, and all replicas must have the same.
    #[error("{to} is configured otherwise: {differences}")]
    Disagrees {
        /// Who was called.
        to: ReplicaId,
        /// What differs, with both values.
        differences: String,
    },
    /// One of the two ends has lost what it had said to be durable.
    #[error("{to} and this replica do not work together: {reason}")]
    Forgotten {
        /// Who was called.
        to: ReplicaId,
        /// Which of the two, and what it has lost.
        reason: String,
    },
    /// The other end refused to answer.
    #[error("{to} refused the request")]
    Refused {
        /// Who was asked.
        to: ReplicaId,
    },
    /// The address cannot be used.
    #[error("cannot listen on {address}: {reason}")]
    Bind {
        /// The address asked for.
        address: String,
        /// What the system said.
        reason: String,
    },
    /// The transport has been shut down.
    #[error("the transport has been shut down")]
    Closed,
}
