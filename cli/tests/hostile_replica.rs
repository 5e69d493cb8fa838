//! A replica with a valid key that says what it likes at full speed, against the correct ones as
//! real processes, while a correct client writes.

#[path = "support/hostile.rs"]
mod hostile;
mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use hostile::{Writer, withstands};
use quorate::{Builder, Bytes, ClientConfig, Digest, NodeConfig, PublicKey, ReplicaId};
use quorate_core::crypto::Signer;
use quorate_core::id::Slot;
use quorate_core::life::Forgetful;
use quorate_core::request::{Batch, BatchBuilder, Operation, Request, SessionId};
use quorate_core::transport::{ClientService, FrameSink, Service, Transport};
use quorate_core::wire::Envelope;
use quorate_pbft::{Message, View};
use quorate_transport_quic::{Peer, QuicConfig, QuicTransport, Settings};
use support::Cluster;

/// The bounds of `docs/operations.md` that one replica can fill, with what a process has in any case.
const MOST: u64 = 1 << 30;

/// Which replica is the hostile one.
const ME: usize = 3;

/// Hears nothing, and takes every request for bulk without ever answering.
struct Mute;

#[async_trait]
impl Service for Mute {
    async fn deliver(&self, _: ReplicaId, _: Bytes) {}

    async fn bulk(&self, _: ReplicaId, _: Bytes) -> Option<Vec<Bytes>> {
        std::future::pending().await
    }

    fn client(&self, _: PublicKey, _: Arc<dyn FrameSink>) -> Option<Arc<dyn ClientService>> {
        None
    }
}

/// What a liar says, one after the other.
type Frames = Arc<dyn Fn(&Liar, u64) -> Bytes + Send + Sync>;

struct Liar {
    transport: Arc<QuicTransport>,
    signer: Signer,
    envelope: Envelope,
    elsewhere: Envelope,
}

impl Liar {
    fn start(config: &NodeConfig) -> Liar {
        let key = quorate::load_key(&config.key_file).unwrap();
        let peers: Vec<Peer> = config.replicas.iter().map(Peer::from).collect();
        let bound = QuicTransport::bind(QuicConfig {
            me: ReplicaId(config.me),
            key: key.clone(),
            group: config.group,
            listen: peers[ME].address.parse().unwrap(),
            settings: Settings::default(),
        });
        let epoch = Builder::from_config(config.clone()).unwrap();
        let epoch = epoch.replicas_propose(false).epoch();
        let started = bound.unwrap().start(
            &peers,
            epoch,
            Arc::new(Forgetful::default()),
            Arc::new(Mute),
        );
        Liar {
            transport: started.unwrap(),
            signer: Signer::new(key, config.group),
            envelope: Envelope::new(config.group, 0),
            elsewhere: Envelope::new(config.group, 7),
        }
    }

    /// Queries, which a replica may ask for itself, signed.
    fn batch(&self, number: u64, count: u64, bytes: usize) -> Batch {
        let session = SessionId {
            client: self.signer.public(),
            number,
        };
        let query = vec![b'x'; bytes];
        let mut batch = BatchBuilder::default();
        for sequence in 1..=count {
            batch.push(Request {
                session,
                sequence,
                answered: 0,
                operation: Operation::Query(&query),
            });
        }
        batch.finish().signed(&self.signer)
    }

    fn forward(&self, number: u64, count: u64, bytes: usize) -> Message {
        Message::Forward {
            batch: self.batch(number, count, bytes),
            relayed: false,
        }
    }

    /// Says to all, as fast as they take it, what `frames` gives.
    async fn flood(self: Arc<Liar>, stop: Arc<AtomicBool>, frames: Frames) {
        let mut number = 0;
        while !stop.load(Ordering::Relaxed) {
            let frame = frames(&self, number);
            let bytes = frame.len();
            for to in ReplicaId::all(ME) {
                self.transport.send(to, frame.clone());
            }
            number += 1;
            // What does not fit its queue is dropped: half a gigabyte a second is enough.
            match bytes {
                0..10_000 if !number.is_multiple_of(64) => tokio::task::yield_now().await,
                _ => tokio::time::sleep(Duration::from_millis(1 + (bytes >> 19) as u64)).await,
            }
        }
    }
}

#[test]
fn a_replica_with_a_valid_key_cannot_stop_the_service() {
    let mut cluster = Cluster::init_of("pbft", 4);
    (0..ME).for_each(|number| cluster.start_node(number));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let _inside = runtime.enter();
    let liar = Liar::start(&NodeConfig::load(cluster.config(ME)).unwrap());
    let liar = Arc::new(liar);
    let config = ClientConfig::load(cluster.path("client.toml")).unwrap();
    let writer = Writer::start(&runtime, &config);
    let attack = |what: &str, frames: Frames| {
        let own = liar.clone();
        withstands((&cluster, &runtime, &writer), (what, MOST), |stop| {
            own.flood(stop, frames)
        });
    };
    attack(
        "garbage comes",
        Arc::new(|_, number| number.to_le_bytes().repeat(16).into()),
    );
    attack(
        "frames of another epoch come",
        Arc::new(|liar, number| {
            let votes = vec![(Slot(number), Digest::of(b""))];
            let commit = Message::Commit {
                view: View(0),
                votes,
            };
            liar.elsewhere.seal(&commit).unwrap()
        }),
    );
    let replayed = liar.envelope.seal(&liar.forward(0, 1, 1)).unwrap();
    attack(
        "one frame is replayed",
        Arc::new(move |_, _| replayed.clone()),
    );
    attack(
        "far views and slots come",
        Arc::new(|liar, number| {
            let votes = (0..50)
                .map(|slot| (Slot(u64::MAX - slot), Digest::of(b"")))
                .collect();
            let commit = Message::Commit {
                view: View(u64::MAX - number),
                votes,
            };
            liar.envelope.seal(&commit).unwrap()
        }),
    );
    attack(
        "tiny batches are forwarded",
        Arc::new(|liar, number| liar.envelope.seal(&liar.forward(number, 1, 1)).unwrap()),
    );
    attack(
        "batches of 7 MiB are forwarded",
        Arc::new(|liar, number| {
            let batch = liar.forward(u64::MAX - number, 7, (1 << 20) - 200);
            liar.envelope.seal(&batch).unwrap()
        }),
    );
    for number in 0..ME {
        let lines = cluster.log(number).lines().count();
        println!("node {number} has logged {lines} lines");
        assert!(lines < 2000, "the log of node {number} was flooded");
    }
}
