//! Scripted replicas, for tests of the client in virtual time.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use quorate_core::consensus::{ProposeError, ReadError, ReadLevel};
use quorate_core::crypto::{GroupId, SecretKey, Signer};
use quorate_core::id::{ReplicaId, ReplicaSet};
use quorate_core::protocol::FaultModel;
use quorate_core::request::{Batch, Operation};
use quorate_core::transport::{ClientReplies, Connector, FrameSink, TransportError};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::{Client, ClientOptions};
use crate::client_wire::{self, Ask, Reply};

/// Four replicas.
pub(super) const N: usize = 4;

pub(super) const GROUP: GroupId = GroupId(9);

pub(super) fn key(n: u8) -> SecretKey {
    SecretKey::from_seed([n; 32])
}

pub(super) fn r(n: u8) -> ReplicaId {
    ReplicaId(n)
}

pub(super) fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

/// What the client reaches instead of replicas.
pub(super) struct Stub {
    pub(super) heard: mpsc::UnboundedSender<(ReplicaId, Ask)>,
    pub(super) there: Mutex<There>,
}

#[derive(Default)]
pub(super) struct There {
    pub(super) replies: BTreeMap<ReplicaId, Arc<dyn ClientReplies>>,
    /// How often each replica was connected to.
    pub(super) calls: BTreeMap<ReplicaId, u32>,
    pub(super) unreachable: ReplicaSet,
    /// Whose connections are never made: nobody says why.
    pub(super) absent: ReplicaSet,
    /// Who closes each connection when it is made.
    pub(super) closing: ReplicaSet,
    /// What every replica says before the client knows that it is connected.
    pub(super) greeting: Option<Reply>,
}

impl Stub {
    pub(super) fn there<T>(&self, with: impl FnOnce(&mut There) -> T) -> T {
        with(&mut self.there.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[async_trait]
impl Connector for Stub {
    fn n(&self) -> usize {
        N
    }

    async fn connect(
        &self,
        to: ReplicaId,
        replies: Arc<dyn ClientReplies>,
    ) -> Result<Arc<dyn FrameSink>, TransportError> {
        if self.there(|there| there.absent.contains(to)) {
            std::future::pending::<()>().await;
        }
        self.there(|there| {
            *there.calls.entry(to).or_default() += 1;
            if there.unreachable.contains(to) {
                let reason = String::from("it is not there");
                return Err(TransportError::Unreachable { to, reason });
            }
            if let Some(greeting) = &there.greeting {
                deliver(&replies, to, greeting);
            }
            there.replies.insert(to, replies.clone());
            if there.closing.contains(to) {
                replies.closed(to);
            }
            let heard = self.heard.clone();
            Ok(Arc::new(Sink { to, heard }) as Arc<dyn FrameSink>)
        })
    }
}

pub(super) struct Sink {
    pub(super) to: ReplicaId,
    pub(super) heard: mpsc::UnboundedSender<(ReplicaId, Ask)>,
}

impl FrameSink for Sink {
    fn send(&self, frame: Bytes) -> bool {
        let asks: Vec<Ask> = client_wire::open(&frame).unwrap();
        asks.into_iter()
            .all(|ask| self.heard.send((self.to, ask)).is_ok())
    }
}

pub(super) fn deliver(replies: &Arc<dyn ClientReplies>, from: ReplicaId, reply: &Reply) {
    for frame in client_wire::seal(std::slice::from_ref(reply)).unwrap() {
        replies.deliver(from, frame);
    }
}

/// The replicas, spoken for by the test, and a client of theirs.
pub(super) struct World {
    pub(super) stub: Arc<Stub>,
    pub(super) heard: mpsc::UnboundedReceiver<(ReplicaId, Ask)>,
    pub(super) client: Client,
    /// Who answers nothing.
    pub(super) silent: ReplicaSet,
}

/// Enough for everything that can happen without time passing, and for nothing else.
pub(super) const MOMENT: Duration = Duration::from_millis(1);

pub(super) fn options() -> ClientOptions {
    ClientOptions {
        faults: FaultModel::Byzantine,
        ..ClientOptions::default()
    }
}

pub(super) fn fast_reads() -> ClientOptions {
    ClientOptions {
        fast_reads: true,
        ..options()
    }
}

impl World {
    pub(super) fn new(options: ClientOptions) -> World {
        World::with(options, There::default())
    }

    pub(super) fn with(options: ClientOptions, there: There) -> World {
        let (sender, heard) = mpsc::unbounded_channel();
        let stub = Arc::new(Stub {
            heard: sender,
            there: Mutex::new(there),
        });
        let signer = Signer::new(key(100), GROUP);
        World {
            client: Client::new(stub.clone(), signer, options),
            stub,
            heard,
            silent: ReplicaSet::EMPTY,
        }
    }

    pub(super) fn propose(&self, command: &str) -> JoinHandle<Result<Bytes, ProposeError>> {
        let (client, command) = (self.client.clone(), bytes(command));
        tokio::spawn(async move { client.propose(command).await })
    }

    pub(super) fn read(&self, query: &str) -> JoinHandle<Result<Bytes, ReadError>> {
        let (client, query) = (self.client.clone(), bytes(query));
        tokio::spawn(async move { client.read(query, ReadLevel::Linearizable).await })
    }

    pub(super) fn say(&self, from: ReplicaId, reply: &Reply) {
        let replies = self.stub.there(|there| there.replies.get(&from).cloned());
        deliver(&replies.unwrap(), from, reply);
    }

    /// Answers all of a batch's requests.
    pub(super) fn answer_all(&self, from: ReplicaId, batch: &Batch, result: &Bytes) {
        for request in batch.requests() {
            let answer = Reply::Answer {
                session: request.session.number,
                sequence: request.sequence,
                result: Ok(result.clone()),
            };
            self.say(from, &answer);
        }
    }

    /// What two replicas say of the last of a batch's requests is believed.
    pub(super) async fn believed(
        &self,
        answer: JoinHandle<Result<Bytes, ProposeError>>,
        batch: &Batch,
    ) {
        self.answer(r(1), batch, Ok(bytes("true")));
        self.answer(r(2), batch, Ok(bytes("true")));
        assert_eq!(answer.await.unwrap(), Ok(bytes("true")));
    }

    /// Answers the last of a batch's requests.
    pub(super) fn answer(
        &self,
        from: ReplicaId,
        batch: &Batch,
        result: Result<Bytes, ProposeError>,
    ) {
        let request = batch.requests().last().unwrap();
        let answer = Reply::Answer {
            session: request.session.number,
            sequence: request.sequence,
            result,
        };
        self.say(from, &answer);
    }

    /// What the client asks next; `None` if it asks nothing more while it is left alone.
    pub(super) async fn ask(&mut self) -> Option<(ReplicaId, Ask)> {
        tokio::time::timeout(MOMENT, self.heard.recv())
            .await
            .ok()
            .flatten()
    }

    /// The next batch that is asked for once the session is open, however long it takes. What
    /// comes before is answered by all who are not silent.
    pub(super) async fn batch(&mut self) -> (ReplicaId, Batch) {
        loop {
            let (to, ask) = self.heard.recv().await.unwrap();
            match ask {
                Ask::Follow(_) if !self.silent.contains(to) => self.say(to, &Reply::Opened(0)),
                Ask::Propose(batch) if opens(&batch) => self.open(to, &batch),
                Ask::Propose(batch) => return (to, batch),
                _ => {}
            }
        }
    }

    pub(super) fn open(&self, to: ReplicaId, batch: &Batch) {
        if self.silent.contains(to) {
            return;
        }
        for replica in ReplicaId::all(N).filter(|replica| !self.silent.contains(*replica)) {
            self.answer(replica, batch, Ok(Bytes::new()));
        }
    }

    /// Opens the session, by a command that all replicas answer.
    pub(super) async fn opened(&mut self) {
        let done = self.propose("first");
        let (_, batch) = self.batch().await;
        for replica in ReplicaId::all(N) {
            self.answer(replica, &batch, Ok(Bytes::new()));
        }
        done.await.unwrap().unwrap();
        while self.ask().await.is_some() {}
    }
}

pub(super) fn opens(batch: &Batch) -> bool {
    let mut requests = batch.requests();
    requests.any(|request| request.operation == Operation::Open)
}

/// Lets all happen that does not need time to pass.
pub(super) async fn moment() {
    tokio::time::sleep(MOMENT).await;
}
