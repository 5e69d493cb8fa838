//! What it costs to send frames over QUIC, on loopback, with both ends in one thread.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use quorate_core::crypto::{GroupId, PublicKey, SecretKey};
use quorate_core::epoch::Epoch;
use quorate_core::id::ReplicaId;
use quorate_core::life::Forgetful;
use quorate_core::transport::{ClientService, FrameSink, Service, Transport};
use quorate_transport_quic::{Peer, QuicConfig, QuicEndpoint, QuicTransport, Settings};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{Notify, OnceCell};

const NEAR: ReplicaId = ReplicaId(0);
const FAR: ReplicaId = ReplicaId(1);
const GROUP: GroupId = GroupId(1);

/// How many bytes may be under way one way.
const WINDOW_BYTES: u64 = 8 << 20;

/// Counts frames, or sends them back.
#[derive(Default)]
struct Station {
    echo: OnceCell<Arc<QuicTransport>>,
    frames: AtomicU64,
    arrived: Notify,
}

#[async_trait]
impl Service for Station {
    async fn deliver(&self, from: ReplicaId, frame: Bytes) {
        if let Some(transport) = self.echo.get() {
            transport.send(from, frame);
            return;
        }
        self.frames.fetch_add(1, Ordering::Relaxed);
        self.arrived.notify_one();
    }

    async fn bulk(&self, _: ReplicaId, _: Bytes) -> Option<Vec<Bytes>> {
        None
    }

    fn client(&self, _: PublicKey, _: Arc<dyn FrameSink>) -> Option<Arc<dyn ClientService>> {
        None
    }
}

/// Two replicas, connected.
struct Pair {
    near: Arc<QuicTransport>,
    far: Arc<QuicTransport>,
    at_near: Arc<Station>,
    at_far: Arc<Station>,
}

fn key(id: ReplicaId) -> SecretKey {
    SecretKey::from_seed([id.0 + 1; 32])
}

fn bind(me: ReplicaId) -> QuicEndpoint {
    let bound = QuicTransport::bind(QuicConfig {
        me,
        key: key(me),
        group: GROUP,
        listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
        settings: Settings::default(),
    });
    bound.expect("a free port")
}

impl Pair {
    async fn connect() -> Pair {
        let (at_near, at_far) = (Arc::<Station>::default(), Arc::<Station>::default());
        let (near, far) = (bind(NEAR), bind(FAR));
        let peer = |(id, address): (ReplicaId, SocketAddr)| Peer {
            key: key(id).public(),
            address: address.to_string(),
        };
        let peers = [(NEAR, near.local_addr()), (FAR, far.local_addr())].map(peer);
        let keys = [NEAR, FAR].map(|id| key(id).public());
        let epoch = || Epoch::first(GROUP, "none", &keys);
        let forgetful = || Arc::new(Forgetful::default());
        let near = near.start(&peers, epoch(), forgetful(), at_near.clone());
        let near = near.expect("started");
        let far = far.start(&peers, epoch(), forgetful(), at_far.clone());
        let far = far.expect("started");
        while near.connected().is_empty() || far.connected().is_empty() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        // Until the packet size that the path takes has been found out.
        tokio::time::sleep(Duration::from_millis(500)).await;
        Pair {
            near,
            far,
            at_near,
            at_far,
        }
    }

    async fn round_trips(&self, frame: &Bytes, count: u64) -> Duration {
        let start = Instant::now();
        for _ in 0..count {
            self.near.send(FAR, frame.clone());
            self.at_near.arrived.notified().await;
        }
        start.elapsed()
    }

    async fn one_way(&self, frame: &Bytes, count: u64) -> Duration {
        let window = WINDOW_BYTES / frame.len() as u64;
        let before = self.at_far.frames.load(Ordering::Relaxed);
        let arrived = || self.at_far.frames.load(Ordering::Relaxed) - before;
        let start = Instant::now();
        for sent in 0..count {
            while sent - arrived() >= window {
                self.at_far.arrived.notified().await;
            }
            self.near.send(FAR, frame.clone());
            if sent % 64 == 63 {
                tokio::task::yield_now().await;
            }
        }
        while arrived() < count {
            self.at_far.arrived.notified().await;
        }
        start.elapsed()
    }

    async fn shutdown(self) {
        self.near.shutdown().await;
        self.far.shutdown().await;
    }
}

fn frames(c: &mut Criterion) {
    let runtime = Builder::new_current_thread().enable_all().build();
    let runtime: Runtime = runtime.expect("a runtime");
    let mut group = c.benchmark_group("quic");
    group
        .sample_size(10)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2));

    let pair = runtime.block_on(Pair::connect());
    pair.at_far.echo.set(pair.far.clone()).ok();
    let frame = Bytes::from(vec![7; 64]);
    group.bench_function("round trip/64 B", |b| {
        b.iter_custom(|count| runtime.block_on(pair.round_trips(&frame, count)));
    });
    runtime.block_on(pair.shutdown());

    let pair = runtime.block_on(Pair::connect());
    for size in [1 << 10, 16 << 10] {
        let frame = Bytes::from(vec![7; size]);
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function(format!("one way/{size} B"), |b| {
            b.iter_custom(|count| runtime.block_on(pair.one_way(&frame, count)));
        });
    }
    runtime.block_on(pair.shutdown());
    group.finish();
}

criterion_group!(benches, frames);
criterion_main!(benches);
