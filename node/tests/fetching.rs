//! A replica that is far behind, among peers one of which takes its wish for a snapshot and never
//! answers: PBFT with four, over memory instead of sockets and disks.

mod common;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use common::{client_signer, key, number, prompt};
use quorate_core::consensus::Consensus as _;
use quorate_core::crypto::Admission;
use quorate_core::id::{ReplicaId, ReplicaSet};
use quorate_core::protocol::FaultModel;
use quorate_core::transport::{Transport, TransportError};
use quorate_node::ClientOptions;
use quorate_pbft::Pbft;

/// Whoever is asked first for bulk never answers, with a connection that is as good as ever.
struct FirstIsMute {
    transport: Arc<dyn Transport>,
    mute: Arc<OnceLock<ReplicaId>>,
}

#[async_trait]
impl Transport for FirstIsMute {
    fn send(&self, to: ReplicaId, frame: Bytes) {
        self.transport.send(to, frame);
    }

    async fn bulk(
        &self,
        from: ReplicaId,
        request: Bytes,
        patience: Duration,
        heard: &(dyn Fn() + Send + Sync),
    ) -> Result<Bytes, TransportError> {
        if *self.mute.get_or_init(|| from) == from {
            std::future::pending::<()>().await;
        }
        self.transport.bulk(from, request, patience, heard).await
    }

    fn connected(&self) -> ReplicaSet {
        self.transport.connected()
    }

    async fn shutdown(&self) {
        self.transport.shutdown().await;
    }
}

/// More than a window of slots: what comes later is proved by a checkpoint.
const COMMANDS: u64 = 600;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_catches_up_though_who_it_asks_first_never_answers_and_replaces_that_one() {
    let options = ClientOptions {
        faults: FaultModel::Byzantine,
        ..ClientOptions::default()
    };
    let nodes = (0..4).map(|me| key(me).public());
    let admission = Admission::of([client_signer().public()]).and(nodes);
    let mut cluster = common::Cluster::<Pbft>::with_up(admission, 4, 0..3, options.clone()).await;
    let client = cluster.client(options.clone());
    for _ in 0..COMMANDS {
        client.propose(Bytes::from_static(b"+")).await.unwrap();
    }
    let mute = Arc::new(OnceLock::new());
    let change = |transport| {
        let mute = mute.clone();
        Arc::new(FirstIsMute { transport, mute }) as Arc<dyn Transport>
    };
    let fourth = cluster.node_behind(3, options, prompt, change).await;
    cluster.nodes.push(fourth.unwrap());
    let caught_up = async {
        let (mut here, mut there) = (0, 1);
        while here < there {
            tokio::time::sleep(Duration::from_millis(20)).await;
            client.propose(Bytes::from_static(b"+")).await.unwrap();
            here = cluster.nodes[3].digest().await.unwrap().0;
            there = cluster.nodes[1].digest().await.unwrap().0.saturating_sub(2);
        }
    };
    let caught_up = tokio::time::timeout(Duration::from_secs(60), caught_up).await;
    assert!(caught_up.is_ok(), "it still waits");
    let mute = mute.get().expect("it has asked somebody");
    cluster.nodes[mute.index()].shutdown().await.unwrap();
    let count = client.propose(Bytes::from_static(b"+")).await.unwrap();
    assert!(number(&count) > COMMANDS);
}
