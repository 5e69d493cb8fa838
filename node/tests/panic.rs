//! What an application that fails leaves behind.

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use quorate_core::consensus::{Consensus as _, ReadError};
use quorate_core::crypto::{Admission, GroupId, Members, SecretKey, Signer, Verifier};
use quorate_core::id::{ReplicaId, ReplicaSet, UnixTime};
use quorate_core::machine::{RestoreError, StateMachine};
use quorate_core::protocol::Context;
use quorate_core::replica::Settings;
use quorate_core::storage::{Completions, MemoryStorage, StorageError, Stored};
use quorate_core::transport::{Transport, TransportError};
use quorate_node::node::Opened;
use quorate_node::{ClientOptions, Node, Parts};
use quorate_raft::Raft;

/// Applies nothing, and cannot be written.
struct Broken;

impl StateMachine for Broken {
    fn apply(&mut self, command: &[u8]) -> Bytes {
        panic!("cannot apply {command:?}");
    }

    fn query(&self, _query: &[u8]) -> Bytes {
        Bytes::new()
    }

    fn snapshot(&self, _to: &mut dyn Write) -> io::Result<()> {
        Err(io::Error::other("cannot be written"))
    }

    fn restore(&mut self, _from: &mut dyn Read) -> Result<(), RestoreError> {
        Ok(())
    }
}

/// The transport of a replica without peers, which remembers that it was shut down.
#[derive(Default)]
struct Nowhere {
    shut_down: AtomicBool,
}

#[async_trait]
impl Transport for Nowhere {
    fn send(&self, _to: ReplicaId, _frame: Bytes) {}

    async fn bulk(
        &self,
        from: ReplicaId,
        _request: Bytes,
        _patience: Duration,
        _heard: &(dyn Fn() + Send + Sync),
    ) -> Result<Bytes, TransportError> {
        unreachable!("{from} does not exist")
    }

    fn connected(&self) -> ReplicaSet {
        ReplicaSet::default()
    }

    async fn shutdown(&self) {
        self.shut_down.store(true, Ordering::SeqCst);
    }
}

fn storage(completions: Arc<dyn Completions>) -> Result<Opened, StorageError> {
    let storage = MemoryStorage::immediate(Stored::default(), completions);
    Ok((Box::new(storage), Stored::default()))
}

async fn started(transport: Arc<Nowhere>) -> Node<Raft> {
    let (group, key) = (GroupId(1), SecretKey::from_seed([1; 32]));
    let members = Members::new(group, [key.public()]);
    let admission = Admission::of([key.public()]);
    let context = Context {
        me: ReplicaId(0),
        signer: Signer::new(key, group),
        verifier: Verifier::new(members.clone()).admitting(admission),
        members,
        seed: [1; 32],
        wall_clock: UnixTime::default(),
    };
    let parts = Parts {
        context,
        config: quorate_raft::Config::default(),
        settings: Settings::default(),
        machine: Broken,
        client: ClientOptions::default(),
    };
    let connect = async |_| Ok(transport as Arc<dyn Transport>);
    Node::start(parts, storage, connect).await.unwrap()
}

#[tokio::test]
async fn a_state_that_cannot_be_written_has_no_digest_and_stops_nothing() {
    let node = started(Arc::new(Nowhere::default())).await;
    for _ in 0..2 {
        let refused = node.digest().await.unwrap_err();
        assert!(
            matches!(&refused, ReadError::Refused(reason) if reason.contains("cannot be written")),
            "{refused}"
        );
    }
    node.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_panic_is_told_and_the_transport_is_shut_down() {
    let transport = Arc::new(Nowhere::default());
    let node = Arc::new(started(transport.clone()).await);
    let caller = tokio::spawn({
        let node = node.clone();
        async move { node.propose(Bytes::from_static(&[9])).await }
    });
    let reason = node.stopped().await.unwrap_err().to_string();
    let expected = "the replica's task has panicked: cannot apply [9]";
    assert!(reason.contains(expected), "{reason}");
    assert!(transport.shut_down.load(Ordering::SeqCst));
    caller.abort();
}
