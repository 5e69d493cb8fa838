//! The client against scripted replicas, of which one may lie, in virtual time.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use quorate_core::consensus::{ProposeError, ReadError};
use quorate_core::crypto::{Admission, GroupId, Members, SecretKey, Verifier};
use quorate_core::id::ReplicaSet;
use quorate_core::protocol::FaultModel;
use quorate_core::request::{Batch, Operation};
use quorate_core::transport::{ClientReplies, TransportError};
use tokio::task::JoinHandle;

use super::*;
use crate::client::Client;

mod doubt;
mod fast_reads;
mod lines;
mod repeats;

/// Four replicas, of which one may lie.
const N: usize = 4;

const GROUP: GroupId = GroupId(9);

fn key(n: u8) -> SecretKey {
    SecretKey::from_seed([n; 32])
}

fn r(n: u8) -> ReplicaId {
    ReplicaId(n)
}

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

/// What the client reaches instead of replicas.
struct Stub {
    heard: mpsc::UnboundedSender<(ReplicaId, Ask)>,
    there: Mutex<There>,
}

#[derive(Default)]
struct There {
    replies: BTreeMap<ReplicaId, Arc<dyn ClientReplies>>,
    /// How often each replica was connected to.
    calls: BTreeMap<ReplicaId, u32>,
    unreachable: ReplicaSet,
    /// Who closes each connection when it is made.
    closing: ReplicaSet,
    /// What every replica says before the client knows that it is connected.
    greeting: Option<Reply>,
}

impl Stub {
    fn there<T>(&self, with: impl FnOnce(&mut There) -> T) -> T {
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

struct Sink {
    to: ReplicaId,
    heard: mpsc::UnboundedSender<(ReplicaId, Ask)>,
}

impl FrameSink for Sink {
    fn send(&self, frame: Bytes) -> bool {
        let asks: Vec<Ask> = client_wire::open(&frame).unwrap();
        asks.into_iter()
            .all(|ask| self.heard.send((self.to, ask)).is_ok())
    }
}

fn deliver(replies: &Arc<dyn ClientReplies>, from: ReplicaId, reply: &Reply) {
    for frame in client_wire::seal(std::slice::from_ref(reply)).unwrap() {
        replies.deliver(from, frame);
    }
}

/// The replicas, spoken for by the test, and a client of theirs.
struct World {
    stub: Arc<Stub>,
    heard: mpsc::UnboundedReceiver<(ReplicaId, Ask)>,
    client: Client,
    /// Who answers nothing.
    silent: ReplicaSet,
}

/// Enough for everything that can happen without time passing, and for nothing else.
const MOMENT: Duration = Duration::from_millis(1);

fn options() -> ClientOptions {
    ClientOptions {
        faults: FaultModel::Byzantine,
        ..ClientOptions::default()
    }
}

fn fast_reads() -> ClientOptions {
    ClientOptions {
        fast_reads: true,
        ..options()
    }
}

impl World {
    fn new(options: ClientOptions) -> World {
        World::with(options, There::default())
    }

    fn with(options: ClientOptions, there: There) -> World {
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

    fn propose(&self, command: &str) -> JoinHandle<Result<Bytes, ProposeError>> {
        let (client, command) = (self.client.clone(), bytes(command));
        tokio::spawn(async move { client.propose(command).await })
    }

    fn read(&self, query: &str) -> JoinHandle<Result<Bytes, ReadError>> {
        let (client, query) = (self.client.clone(), bytes(query));
        tokio::spawn(async move { client.read(query, ReadLevel::Linearizable).await })
    }

    fn say(&self, from: ReplicaId, reply: &Reply) {
        let replies = self.stub.there(|there| there.replies.get(&from).cloned());
        deliver(&replies.unwrap(), from, reply);
    }

    /// Answers all of a batch's requests.
    fn answer_all(&self, from: ReplicaId, batch: &Batch, result: &Bytes) {
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
    async fn believed(&self, answer: JoinHandle<Result<Bytes, ProposeError>>, batch: &Batch) {
        self.answer(r(1), batch, Ok(bytes("true")));
        self.answer(r(2), batch, Ok(bytes("true")));
        assert_eq!(answer.await.unwrap(), Ok(bytes("true")));
    }

    /// Answers the last of a batch's requests.
    fn answer(&self, from: ReplicaId, batch: &Batch, result: Result<Bytes, ProposeError>) {
        let request = batch.requests().last().unwrap();
        let answer = Reply::Answer {
            session: request.session.number,
            sequence: request.sequence,
            result,
        };
        self.say(from, &answer);
    }

    /// What the client asks next; `None` if it asks nothing more while it is left alone.
    async fn ask(&mut self) -> Option<(ReplicaId, Ask)> {
        tokio::time::timeout(MOMENT, self.heard.recv())
            .await
            .ok()
            .flatten()
    }

    /// The next batch that is asked for once the session is open, however long it takes. What
    /// comes before is answered by all who are not silent.
    async fn batch(&mut self) -> (ReplicaId, Batch) {
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

    fn open(&self, to: ReplicaId, batch: &Batch) {
        if self.silent.contains(to) {
            return;
        }
        for replica in ReplicaId::all(N).filter(|replica| !self.silent.contains(*replica)) {
            self.answer(replica, batch, Ok(Bytes::new()));
        }
    }

    /// Opens the session, by a command that all replicas answer.
    async fn opened(&mut self) {
        let done = self.propose("first");
        let (_, batch) = self.batch().await;
        for replica in ReplicaId::all(N) {
            self.answer(replica, &batch, Ok(Bytes::new()));
        }
        done.await.unwrap().unwrap();
        while self.ask().await.is_some() {}
    }
}

fn opens(batch: &Batch) -> bool {
    let mut requests = batch.requests();
    requests.any(|request| request.operation == Operation::Open)
}

/// Lets all happen that does not need time to pass.
async fn moment() {
    tokio::time::sleep(MOMENT).await;
}
