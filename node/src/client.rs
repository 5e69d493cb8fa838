//! The client: finds a replica, sends again safely, says whether a failed command may have
//! happened.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quorate_core::consensus::{ProposeError, ReadError, ReadLevel};
use quorate_core::crypto::PublicKey;
use quorate_core::id::ReplicaId;
use quorate_core::transport::Connector;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

mod in_process;
mod link;
mod outstanding;

pub use crate::client_wire::Report;
pub(crate) use in_process::InProcess;

use link::Link;

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
}

impl Default for ClientOptions {
    fn default() -> Self {
        ClientOptions {
            timeout: Duration::from_secs(10),
            patience: Duration::from_secs(2),
            first: None,
            follow_leader: true,
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
}

impl Client {
    /// A client that reaches the replicas through `connector`, which proves `key`. It connects
    /// when it is first used, and must be made inside a tokio runtime.
    pub fn new(connector: Arc<dyn Connector>, key: PublicKey, options: ClientOptions) -> Self {
        let (calls, receiver) = mpsc::channel(CALLS);
        tokio::spawn(Link::new(connector, key, options).run(receiver));
        Client { calls }
    }

    /// Has `command` ordered and applied, once.
    pub async fn propose(&self, command: Bytes) -> Result<Bytes, ProposeError> {
        let (sender, answer) = oneshot::channel();
        let sent = self.calls.send(Call::Propose(command, sender)).await;
        let stopped = || ProposeError::Stopped(String::from("the client has stopped"));
        sent.map_err(|_| stopped())?;
        answer.await.unwrap_or(Err(ProposeError::Unknown))
    }

    /// Has `query` answered.
    pub async fn read(&self, query: Bytes, level: ReadLevel) -> Result<Bytes, ReadError> {
        self.ask(|sender| Call::Read(query, level, sender)).await
    }

    /// Where the replica stands that this client is connected to; with the digest of its whole
    /// state, if asked for.
    pub async fn status(&self, digest: bool) -> Result<Report, ReadError> {
        self.ask(|sender| Call::Status(digest, sender)).await
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
