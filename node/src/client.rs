//! The client: finds a replica, sends again safely, says whether a failed command may have
//! happened.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quorate_core::consensus::{ProposeError, ReadError, ReadLevel};
use quorate_core::crypto::Signer;
use quorate_core::id::ReplicaId;
use quorate_core::protocol::FaultModel;
use quorate_core::request::COMMAND_LIMIT;
use quorate_core::transport::Connector;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

mod back_off;
mod command;
mod dial;
mod gathering;
mod in_process;
mod lateness;
mod link;
mod outstanding;
mod peeks;
mod questions;
mod quorum;
#[cfg(test)]
mod scripted;
mod unread;

pub use crate::client_wire::Report;
pub(crate) use in_process::{Host, InProcess};

use link::Link;
use quorum::QuorumLink;

/// How a client waits and retries.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClientOptions {
    /// How long a request may take before its outcome is reported as unknown.
    #[serde(rename = "timeout_ms", with = "quorate_core::millis")]
    pub timeout: Duration,
    /// How long a replica may be silent while a request waits before another one is asked.
    #[serde(rename = "patience_ms", with = "quorate_core::millis")]
    pub patience: Duration,
    /// The replica to ask first; by default the first that answers.
    pub first: Option<ReplicaId>,
    /// Whether to move to the leader when it is known.
    pub follow_leader: bool,
    /// Whether another replica is asked as well when an answer is late, and instead when the one
    /// that was asked is gone. Where replicas may lie, all are asked in any case.
    pub fail_over: bool,
    /// What the cluster's protocol survives: where replicas may lie, requests are signed, sent to
    /// all replicas if need be, and an answer counts when f + 1 replicas give it.
    pub faults: FaultModel,
    /// Where replicas may lie, whether a read is first asked of all replicas at once, and counts
    /// if 2f + 1 answer alike; if not, it is ordered like a command. Commands then need 2f + 1
    /// equal answers, so that reads see them: all clients of a cluster must agree on this.
    pub fast_reads: bool,
}

impl Default for ClientOptions {
    fn default() -> Self {
        ClientOptions {
            timeout: Duration::from_secs(10),
            patience: Duration::from_secs(2),
            first: None,
            follow_leader: true,
            fail_over: true,
            faults: FaultModel::Crash,
            fast_reads: false,
        }
    }
}

/// A client of a cluster. Cheap to clone; clones share one connection and one session, and their
/// requests travel together.
#[derive(Clone, Debug)]
pub struct Client {
    calls: mpsc::Sender<Call>,
}

/// How many calls may wait for the client's task; one more waits in the caller.
const CALLS: usize = 1024;

/// What is asked of the client's task.
#[derive(Debug)]
enum Call {
    Propose(Bytes, oneshot::Sender<Result<Bytes, ProposeError>>),
    Read(Bytes, ReadLevel, oneshot::Sender<Result<Bytes, ReadError>>),
    Status(bool, oneshot::Sender<Result<Report, ReadError>>),
    Close(oneshot::Sender<Result<Bytes, ProposeError>>),
}

impl Client {
    /// A client that reaches the replicas through `connector`, which proves the key of `signer`.
    /// It connects when it is first used, and must be made inside a tokio runtime.
    pub fn new(connector: Arc<dyn Connector>, signer: Signer, options: ClientOptions) -> Self {
        let (calls, receiver) = mpsc::channel(CALLS);
        match options.faults {
            FaultModel::Crash => {
                let link = Link::new(connector, signer.public(), None, options);
                tokio::spawn(link.run(receiver));
            }
            FaultModel::Byzantine => {
                tokio::spawn(QuorumLink::new(connector, signer, options).run(receiver));
            }
        }
        Client { calls }
    }

    /// A client of the node that it lives in, which it trusts, whatever the others may do.
    pub(crate) fn in_process(
        node: InProcess,
        signer: Signer,
        mut options: ClientOptions,
        faults: FaultModel,
    ) -> Self {
        let (calls, receiver) = mpsc::channel(CALLS);
        let key = signer.public();
        // There is no other within reach.
        options.first = Some(node.me());
        (options.follow_leader, options.fail_over) = (false, false);
        let signer = (faults == FaultModel::Byzantine).then_some(signer);
        let link = Link::new(Arc::new(node), key, signer, options);
        tokio::spawn(link.run(receiver));
        Client { calls }
    }

    /// Has `command` ordered and applied, once.
    pub async fn propose(&self, command: Bytes) -> Result<Bytes, ProposeError> {
        let (size, limit) = (command.len(), COMMAND_LIMIT);
        if size > limit {
            return Err(ProposeError::TooLarge { size, limit });
        }
        let (sender, answer) = oneshot::channel();
        let sent = self.calls.send(Call::Propose(command, sender)).await;
        let stopped = || ProposeError::Stopped(String::from("the client has stopped"));
        sent.map_err(|_| stopped())?;
        answer.await.unwrap_or(Err(ProposeError::Unknown))
    }

    /// Has `query` answered.
    pub async fn read(&self, query: Bytes, level: ReadLevel) -> Result<Bytes, ReadError> {
        let (size, limit) = (query.len(), COMMAND_LIMIT);
        if size > limit {
            return Err(ReadError::TooLarge { size, limit });
        }
        self.ask(|sender| Call::Read(query, level, sender)).await
    }

    /// Where the replica stands that this client is connected to; with the digest of its whole
    /// state, if asked for.
    pub async fn status(&self, digest: bool) -> Result<Report, ReadError> {
        self.ask(|sender| Call::Status(digest, sender)).await
    }

    /// Closes the session, so that replicas need not remember it: for a client that has the answers
    /// to all it asked, and asks nothing more. One that asks all the same opens another; while
    /// something waits for its answer nothing is closed.
    pub async fn close(&self) -> Result<(), ProposeError> {
        let (caller, closed) = oneshot::channel();
        let stopped = || ProposeError::Stopped(String::from("the client has stopped"));
        let sent = self.calls.send(Call::Close(caller)).await;
        sent.map_err(|_| stopped())?;
        closed.await.map_err(|_| stopped())?.map(drop)
    }

    async fn ask<T>(
        &self,
        call: impl FnOnce(oneshot::Sender<Result<T, ReadError>>) -> Call,
    ) -> Result<T, ReadError> {
        let (sender, answer) = oneshot::channel();
        let stopped = || ReadError::Stopped(String::from("the client has stopped"));
        let sent = self.calls.send(call(sender)).await;
        sent.map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?
    }
}
