//! A client with a valid key that does what no client should, against real processes, while a
//! correct one writes.

#[path = "support/hostile.rs"]
mod hostile;
mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use hostile::{Writer, withstands};
use quorate::{ClientConfig, PublicKey, ReadLevel, ReplicaId};
use quorate_core::codec::{self, FORMAT_VERSION};
use quorate_core::request::{Batch, BatchBuilder, Operation, Request, SessionId};
use quorate_core::transport::{ClientReplies, Connector as _, FrameSink};
use quorate_kv::{Command, Query};
use quorate_transport_quic::{Peer, QuicConnector, Settings};
use serde::Serialize;
use support::Cluster;

/// The bounds of `docs/operations.md` that such a client can fill, with the state and what a process
/// has in any case.
const MOST: u64 = 1 << 30;

/// What a client asks, as it travels.
#[derive(Serialize)]
enum Ask {
    Propose(Batch),
    Read(u64, ReadLevel, Bytes),
    Status(u64, bool),
    #[allow(dead_code)]
    Follow(u64),
    Peek(u64, Bytes),
}

fn frame(asks: &[Ask]) -> Bytes {
    let mut frame = vec![FORMAT_VERSION];
    codec::encode_into(&asks, &mut frame).unwrap();
    frame.into()
}

/// Takes what comes, or nothing ever.
struct Ear {
    reads: bool,
}

#[async_trait]
impl ClientReplies for Ear {
    fn deliver(&self, _from: ReplicaId, _frame: Bytes) {}

    async fn ready(&self) {
        if !self.reads {
            std::future::pending::<()>().await;
        }
    }

    fn closed(&self, _from: ReplicaId) {}
}

#[derive(Clone)]
struct Hostile {
    connector: Arc<QuicConnector>,
    key: PublicKey,
    n: usize,
}

impl Hostile {
    fn new(config: &ClientConfig) -> Hostile {
        let key = quorate::load_key(&config.key_file).unwrap();
        let peers: Vec<Peer> = config.replicas.iter().map(Peer::from).collect();
        let settings = Settings::default();
        let connector = QuicConnector::new(&key, config.group, &peers, settings).unwrap();
        Hostile {
            connector: Arc::new(connector),
            key: key.public(),
            n: peers.len(),
        }
    }

    /// Sends frames to every replica over `connections` to each, as fast as they are taken.
    async fn flood(
        self,
        stop: Arc<AtomicBool>,
        (connections, reads): (usize, bool),
        frames: Arc<dyn Fn(u64) -> Bytes + Send + Sync>,
    ) {
        let mut floods = tokio::task::JoinSet::new();
        for to in ReplicaId::all(self.n) {
            for _ in 0..connections {
                let (own, stop, frames) = (self.clone(), stop.clone(), frames.clone());
                floods.spawn(async move { own.flood_one(to, &stop, reads, &*frames).await });
            }
        }
        floods.join_all().await;
    }

    async fn flood_one(
        &self,
        to: ReplicaId,
        stop: &AtomicBool,
        reads: bool,
        frames: &(dyn Fn(u64) -> Bytes + Send + Sync),
    ) {
        let (mut number, mut sink): (u64, Option<Arc<dyn FrameSink>>) = (0, None);
        while !stop.load(Ordering::Relaxed) {
            let Some(open) = &sink else {
                let ear = Arc::new(Ear { reads });
                sink = self.connector.connect(to, ear).await.ok();
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            };
            number += 1;
            if open.backlog() > 4 << 20 || !open.send(frames(number)) {
                if open.backlog() == 0 {
                    sink = None;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            tokio::task::yield_now().await;
        }
    }

    fn requests(&self, session: u64, count: u64, bytes: usize) -> Batch {
        let session = SessionId {
            client: self.key,
            number: session,
        };
        let put = Command::Put {
            key: "hostile".into(),
            value: vec![b'x'; bytes].into(),
        };
        let put = put.encode();
        let mut batch = BatchBuilder::default();
        for sequence in 1..=count {
            batch.push(Request {
                session,
                sequence,
                answered: 0,
                operation: Operation::Apply(&put),
            });
        }
        batch.finish()
    }
}

fn everything() -> Bytes {
    Query::prefix("".into(), u32::MAX).encode()
}

/// Some megabytes, so that what is asked of the whole state costs something.
fn fill(cluster: &Cluster, runtime: &tokio::runtime::Runtime) {
    let config = ClientConfig::load(cluster.path("client.toml")).unwrap();
    let client = quorate::connect(&config).unwrap();
    runtime.block_on(async {
        for number in 0..20 {
            let put = Command::Put {
                key: format!("large-{number}").into(),
                value: vec![b'x'; 500_000].into(),
            };
            client.propose(put.encode()).await.unwrap();
        }
    });
}

#[test]
fn a_client_with_a_valid_key_cannot_stop_the_service() {
    let mut cluster = Cluster::init(3);
    let other = cluster.admit_another();
    (0..3).for_each(|number| cluster.start_node(number));
    cluster.leader();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let _inside = runtime.enter();
    let config = ClientConfig::load(cluster.path("client.toml")).unwrap();
    fill(&cluster, &runtime);
    let writer = Writer::start(&runtime, &config);
    let hostile = Hostile::new(&ClientConfig::load(other).unwrap());
    let attack = |what: &str, connections, frames: Arc<dyn Fn(u64) -> Bytes + Send + Sync>| {
        let own = hostile.clone();
        withstands((&cluster, &runtime, &writer), (what, MOST), |stop| {
            own.flood(stop, connections, frames)
        });
    };
    attack(
        "garbage comes",
        (4, true),
        Arc::new(|number| {
            let mut garbage = vec![FORMAT_VERSION; 64];
            garbage.extend_from_slice(&number.to_le_bytes().repeat(8));
            garbage.into()
        }),
    );
    let stranger = Hostile {
        key: PublicKey([7; 32]),
        ..hostile.clone()
    };
    let of_another = frame(&[Ask::Propose(stranger.requests(1, 1, 1))]);
    attack(
        "requests come in another's name",
        (4, true),
        Arc::new(move |_| of_another.clone()),
    );
    attack(
        "the digest is asked for 2,000 times a frame",
        (2, true),
        Arc::new(|_| {
            let wishes: Vec<Ask> = (0..2000).map(|number| Ask::Status(number, true)).collect();
            frame(&wishes)
        }),
    );
    attack(
        "3,000 local reads come in a frame",
        (1, true),
        Arc::new(|_| {
            let read = |number| Ask::Read(number, ReadLevel::Local, everything());
            frame(&(0..3000).map(read).collect::<Vec<_>>())
        }),
    );
    attack(
        "answers are not read",
        (6, false),
        Arc::new(|number| {
            let read = Ask::Read(number, ReadLevel::Linearizable, everything());
            frame(&[read, Ask::Peek(number, everything())])
        }),
    );
    let own = hostile.clone();
    attack(
        "batches of 7 MiB come",
        (1, true),
        Arc::new(move |number| frame(&[Ask::Propose(own.requests(number, 7, 1 << 20))])),
    );
    let own = hostile.clone();
    attack(
        "small requests come",
        (2, true),
        Arc::new(move |number| frame(&[Ask::Propose(own.requests(number, 500, 1))])),
    );
    for number in 0..3 {
        let lines = cluster.log(number).lines().count();
        println!("node {number} has logged {lines} lines");
        assert!(lines < 2000, "the log of node {number} was flooded");
    }
}
