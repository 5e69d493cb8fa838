//! A driver whose replica hears nobody.

use std::io::{Read, Write};
use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use quorate_core::consensus::ReadLevel;
use quorate_core::crypto::{GroupId, Members, SecretKey, Signer, Verifier};
use quorate_core::id::{ReplicaSet, UnixTime};
use quorate_core::machine::RestoreError;
use quorate_core::protocol::Context;
use quorate_core::replica::Settings;
use quorate_core::storage::{MemoryStorage, Stored};
use quorate_core::transport::{FrameSink, TransportError};

use super::*;
use crate::client_wire;
use crate::lanes::LIMITS;

type Raft = quorate_raft::Raft;

struct Nothing;

impl StateMachine for Nothing {
    fn apply(&mut self, _: &[u8]) -> Bytes {
        Bytes::new()
    }

    fn query(&self, _: &[u8]) -> Bytes {
        Bytes::new()
    }

    fn snapshot(&self, _: &mut dyn Write) -> std::io::Result<()> {
        Ok(())
    }

    fn restore(&mut self, _: &mut dyn Read) -> Result<(), RestoreError> {
        Ok(())
    }
}

struct Nowhere;

#[async_trait]
impl Transport for Nowhere {
    fn send(&self, _: ReplicaId, _: Bytes) {}

    async fn bulk(
        &self,
        _: ReplicaId,
        _: Bytes,
        _: Duration,
        _: &(dyn Fn() + Send + Sync),
    ) -> Result<Bytes, TransportError> {
        Err(TransportError::Closed)
    }

    fn connected(&self) -> ReplicaSet {
        ReplicaSet::EMPTY
    }

    async fn shutdown(&self) {}
}

#[derive(Default)]
struct Heard(Mutex<Vec<Reply>>);

impl FrameSink for Heard {
    fn send(&self, frame: Bytes) -> bool {
        self.0
            .lock()
            .unwrap()
            .extend(client_wire::open::<Reply>(&frame).unwrap());
        true
    }
}

impl Heard {
    fn take(&self) -> Vec<Reply> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

fn driver() -> Driver<Raft, Nothing> {
    let keys = [0, 1, 2].map(|seed| SecretKey::from_seed([seed; 32]));
    let members = Members::new(GroupId(1), keys.each_ref().map(SecretKey::public));
    let [own, ..] = keys;
    let context = Context {
        me: ReplicaId(0),
        signer: Signer::new(own, GroupId(1)),
        verifier: Verifier::new(members.clone()),
        members,
        seed: [0; 32],
        wall_clock: UnixTime(0),
    };
    let config = quorate_raft::Config::default();
    let settings = Settings::default();
    let replica = Replica::recover(context, config, settings, Nothing, Stored::default()).unwrap();
    let status = watch::Sender::new(replica.status());
    let mut driver = Driver {
        replica,
        storage: Box::new(MemoryStorage::default()),
        transport: Arc::new(Nowhere),
        envelope: Envelope::new(GroupId(1), 0),
        completed: Arc::default(),
        inbox: Closing(Arc::new(Inbox::new(LIMITS))),
        offer: Arc::default(),
        status,
        replies: Replies::default(),
        digests: Digests::new(),
        postponed: VecDeque::new(),
        held: false,
        caught_up: CaughtUp::default(),
        origin: std::time::Instant::now(),
    };
    driver.replica.start(Time::ZERO);
    driver
}

const ID: ConnectionId = ConnectionId(7);

impl Driver<Raft, Nothing> {
    async fn happens(&mut self, happenings: impl IntoIterator<Item = Happening<Raft>>) {
        for happening in happenings {
            let brought = self.inbox.0.bring_now(Sender::Client(ID), happening);
            assert!(brought.is_ok());
        }
        let effects = self.turn(&mut Vec::new());
        self.carry_out(effects).await.unwrap();
    }

    async fn connects(&mut self) -> Arc<Heard> {
        let heard = Arc::new(Heard::default());
        self.happens([Happening::Connected(ID, heard.clone())])
            .await;
        heard
    }
}

/// It may know of another who leads, and lose no time with one that is cut off.
#[tokio::test]
async fn who_connects_is_told_that_no_leader_is_known() {
    let heard = driver().connects().await.take();
    assert!(matches!(heard[..], [Reply::Leaderless]), "{heard:?}");
}

/// It may have executed more before it started, and told clients of it.
#[tokio::test]
async fn a_replica_that_has_not_caught_up_since_it_started_answers_no_fast_read() {
    let mut driver = driver();
    let heard = driver.connects().await;
    heard.take();
    let peek = || [Happening::Peek(ID, 1, Bytes::new())];
    driver.happens(peek()).await;
    assert!(heard.take().is_empty());
    driver.caught_up = CaughtUp::Yes;
    driver.happens(peek()).await;
    let answered = heard.take();
    assert!(
        matches!(answered[..], [Reply::Peeked(1, ..)]),
        "{answered:?}"
    );
}

#[tokio::test]
async fn nothing_is_left_of_a_client_that_has_gone() {
    let mut driver = driver();
    driver.connects().await;
    let level = ReadLevel::Linearizable;
    driver
        .happens([Happening::Read(ID, 1, level, Bytes::new())])
        .await;
    assert_eq!(driver.replica.under_way(), 1);
    assert!(driver.digests.ask(Asker::Client(ID, 2)).is_ok());
    let gone = driver
        .inbox
        .0
        .leave(Sender::Client(ID), Happening::Disconnected(ID));
    assert!(gone.is_ok());
    driver.happens([]).await;
    assert_eq!(driver.replica.under_way(), 0);
    assert_eq!(driver.digests.due(), None);
    assert!(!driver.replies.is_connected(ID));
}
