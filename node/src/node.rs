//! Starting a node, and the handle that the application holds.

use std::collections::VecDeque;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use bytes::Bytes;
use quorate_core::consensus::{Consensus, ProposeError, ReadError, ReadLevel, ShutdownError};
use quorate_core::crypto::{Digest, PublicKey};
use quorate_core::id::UnixTime;
use quorate_core::ledger::Ledger;
use quorate_core::machine::StateMachine;
use quorate_core::protocol::{Context, Protocol, Status};
use quorate_core::replica::{Halt, Replica, Settings};
use quorate_core::storage::{Completions, Storage, StorageError, Stored};
use quorate_core::transport::{Service, Transport, TransportError};
use quorate_core::wire::Envelope;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinError;

use crate::budget::{Budget, GATE};
use crate::client::{Client, ClientOptions, InProcess};
use crate::digests::Digests;
use crate::driver::{CaughtUp, Closing, Driver};
use crate::gate::{Gate, Offer};
use crate::inbox::{Completed, Happening, Inbox};
use crate::lanes::{LIMITS, Sender};
use crate::replies::Replies;

/// What a node is made of, besides storage and transport.
#[derive(Debug)]
pub struct Parts<P: Protocol, S> {
    /// Who this replica is, and among whom. Its verifier says which clients may connect; its wall
    /// clock is read when the node starts, whatever is given here.
    pub context: Context,
    /// The protocol's configuration.
    pub config: P::Config,
    /// The driver's limits and policies.
    pub settings: Settings,
    /// The application.
    pub machine: S,
    /// How this node's own requests are retried.
    pub client: ClientOptions,
}

/// Why a node did not start.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// Storage cannot be opened.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The network cannot be used.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// What storage holds does not make a replica.
    #[error("cannot recover: {0}")]
    Recover(#[from] Halt),
}

/// Why a node does not propose.
const NOT_ADMITTED: &str = "this replica's own key is not admitted as a client's; admit the replicas' keys on all nodes (`Builder::replicas_propose`), or propose through a client whose key is listed";

/// What the wall clock shows; a clock that is set before 1970 shows that.
fn unix_time() -> UnixTime {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    UnixTime::default() + since.unwrap_or(Duration::ZERO)
}

/// What a node stores with, and what was found there.
pub type Opened = (Box<dyn Storage>, Stored);

/// How a replica ended, once it has.
type Ended = watch::Receiver<Option<Result<(), String>>>;

/// A running replica. Dropping the handle stops it; [`Consensus::shutdown`] stops it and waits.
pub struct Node<P: Protocol> {
    key: PublicKey,
    client: Client,
    inbox: Arc<Inbox<P>>,
    status: watch::Receiver<Status>,
    stop: Mutex<Option<oneshot::Sender<()>>>,
    ended: Ended,
    /// Whether its own key is a client's as well.
    admitted: bool,
}

impl<P: Protocol> Node<P> {
    /// Recovers what `storage` opens, starts `transport`, and runs.
    ///
    /// Both are given as closures because both speak back: storage to the completions, transport
    /// to the service.
    pub async fn start<S: StateMachine>(
        parts: Parts<P, S>,
        storage: impl FnOnce(Arc<dyn Completions>) -> Result<Opened, StorageError>,
        transport: impl AsyncFnOnce(Arc<dyn Service>) -> Result<Arc<dyn Transport>, TransportError>,
    ) -> Result<Self, NodeError> {
        let completed = Arc::new(Completed::default());
        let (storage, stored) = storage(completed.clone())?;
        let origin = Instant::now();
        let context = Context {
            wall_clock: unix_time(),
            ..parts.context
        };
        let (me, signer) = (context.me, context.signer.clone());
        let key = signer.public();
        let admitted = context.verifier.admission().admits(key);
        let envelope = Envelope::new(context.members.group(), 0);
        let inbox = Arc::new(Inbox::new(LIMITS));
        let offer = Arc::new(Offer::default());
        let gate = Arc::new(Gate {
            envelope,
            verifier: context.verifier.clone(),
            own: key,
            inbox: inbox.clone(),
            offer: offer.clone(),
            connections: AtomicU64::new(0),
            peers: (0..context.n())
                .map(|_| Mutex::new(Budget::new(GATE)))
                .collect(),
        });
        let (config, settings) = (parts.config, parts.settings);
        let replica = Replica::recover(context, config, settings, parts.machine, stored)?;
        let (status, status_seen) = watch::channel(replica.status());
        let (stop, ended) = spawn(Driver {
            replica,
            storage,
            transport: transport(gate.clone()).await?,
            envelope,
            completed,
            inbox: Closing(inbox.clone()),
            offer,
            status,
            replies: Replies::default(),
            digests: Digests::new(),
            postponed: VecDeque::new(),
            held: false,
            caught_up: CaughtUp::default(),
            origin,
        });
        let own = InProcess::new(me, gate);
        Ok(Node {
            key,
            client: Client::in_process(own, signer, parts.client, P::FAULTS),
            inbox,
            status: status_seen,
            stop: Mutex::new(Some(stop)),
            ended,
            admitted,
        })
    }

    /// The node's public key.
    pub fn key(&self) -> PublicKey {
        self.key
    }

    /// Why the replica has stopped, once it has.
    async fn reason(&self) -> String {
        match outcome(self.ended.clone()).await {
            Err(reason) => reason,
            Ok(()) => String::from("it was shut down"),
        }
    }

    async fn ask<T>(
        &self,
        question: impl FnOnce(oneshot::Sender<T>) -> Happening<P>,
    ) -> Result<T, ReadError> {
        let (asker, answer) = oneshot::channel();
        let sent = self.inbox.bring_now(Sender::Own, question(asker));
        if sent.is_ok()
            && let Ok(answer) = answer.await
        {
            return Ok(answer);
        }
        Err(ReadError::Stopped(self.reason().await))
    }
}

/// Runs the driver, and gives what stops it and what will say how it ended.
fn spawn<P: Protocol, S: StateMachine>(driver: Driver<P, S>) -> (oneshot::Sender<()>, Ended) {
    let (stop, stopped) = oneshot::channel();
    let (end, ended) = watch::channel(None);
    tokio::spawn(async move {
        let transport = driver.transport.clone();
        // In a task of its own, so that a panic, which is the application's more often than not,
        // ends as a replica that has stopped by itself.
        let outcome = match tokio::spawn(driver.run(stopped)).await {
            Ok(outcome) => outcome.map_err(|halt| halt.to_string()),
            Err(error) => Err(abrupt(error)),
        };
        transport.shutdown().await;
        if let Err(reason) = &outcome {
            tracing::error!(reason, "the replica has stopped");
        }
        end.send_replace(Some(outcome));
    });
    (stop, ended)
}

/// What to say of a task that did not come to its end.
fn abrupt(error: JoinError) -> String {
    let Ok(panic) = error.try_into_panic() else {
        return String::from(CUT_OFF);
    };
    let said = match panic.downcast::<String>() {
        Ok(text) => *text,
        Err(panic) => match panic.downcast::<&'static str>() {
            Ok(text) => String::from(*text),
            Err(_) => String::from("it did not say why"),
        },
    };
    format!("the replica's task has panicked: {said}")
}

/// The runtime has dropped the task.
const CUT_OFF: &str = "the replica's task was cut off: its runtime has ended";

/// How the replica ended, once it has.
async fn outcome(mut ended: Ended) -> Result<(), String> {
    match ended.wait_for(Option::is_some).await.as_deref() {
        Ok(Some(outcome)) => outcome.clone(),
        _ => Err(String::from(CUT_OFF)),
    }
}

#[async_trait]
impl<P: Protocol> Consensus for Node<P> {
    async fn propose(&self, command: Bytes) -> Result<Bytes, ProposeError> {
        if self.inbox.is_closed() {
            return Err(ProposeError::Stopped(self.reason().await));
        }
        // Replicas that may lie would refuse it, and others would not: an application is to learn
        // it from whichever protocol it is tried with first.
        if !self.admitted {
            return Err(ProposeError::Refused(String::from(NOT_ADMITTED)));
        }
        self.client.propose(command).await
    }

    async fn read(&self, query: Bytes, level: ReadLevel) -> Result<Bytes, ReadError> {
        if self.inbox.is_closed() {
            return Err(ReadError::Stopped(self.reason().await));
        }
        self.client.read(query, level).await
    }

    fn status(&self) -> Status {
        self.status.borrow().clone()
    }

    async fn status_change(&self, seen: &Status) -> Status {
        let standing = |s: &Status| (s.role, s.regime, s.leader);
        let mut status = self.status.clone();
        let changed = status.wait_for(|s| standing(s) != standing(seen)).await;
        match changed {
            Ok(status) => status.clone(),
            Err(_) => self.status(),
        }
    }

    async fn ledger(&self) -> Result<Ledger, ReadError> {
        self.ask(Happening::Ledger).await
    }

    async fn digest(&self) -> Result<(u64, Digest), ReadError> {
        let digest = self.ask(Happening::Digest).await?;
        digest.map_err(|unwritten| ReadError::Refused(unwritten.to_string()))
    }

    async fn shutdown(&self) -> Result<(), ShutdownError> {
        let stop = self
            .stop
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(stop) = stop {
            // A driver that has stopped by itself does not listen any more.
            let _unheard = stop.send(());
        }
        self.stopped().await
    }

    async fn stopped(&self) -> Result<(), ShutdownError> {
        outcome(self.ended.clone()).await.map_err(ShutdownError)
    }
}
