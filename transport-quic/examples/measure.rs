//! Measures the transport on loopback: latency of a ping-pong, throughput one way, and what
//! settings do to them.
//!
//! `cargo run --release -p quorate-transport-quic --example measure -- [RUNTIME] [SETTING=VALUE]...`
//!
//! `RUNTIME` is `one` (both replicas in one thread, the default), `two` (a thread each) or
//! `multi` (both in a runtime of two threads). Settings: `mtu`, `socket`, `keep_alive` (ms).

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use quorate_core::crypto::{GroupId, PublicKey, SecretKey};
use quorate_core::epoch::Epoch;
use quorate_core::id::ReplicaId;
use quorate_core::life::{Acquaintances, Forgetful};
use quorate_core::transport::{ClientService, FrameSink, Service, Transport};
use quorate_transport_quic::{Peer, QuicConfig, QuicEndpoint, QuicTransport, Settings};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{Notify, OnceCell};

const PINGS: usize = 20_000;
const BYTES: usize = 400 << 20;

/// Sends each frame back, or counts it.
struct Station {
    echo: OnceCell<Arc<QuicTransport>>,
    frames: AtomicUsize,
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

fn station() -> Arc<Station> {
    Arc::new(Station {
        echo: OnceCell::new(),
        frames: AtomicUsize::new(0),
        arrived: Notify::new(),
    })
}

fn key(id: u8) -> SecretKey {
    SecretKey::from_seed([id + 1; 32])
}

fn bind(id: u8, settings: &Settings) -> QuicEndpoint {
    let config = QuicConfig {
        me: ReplicaId(id),
        key: key(id),
        group: GroupId(1),
        listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
        settings: settings.clone(),
    };
    QuicTransport::bind(config).expect("a free port")
}

fn forgetful() -> Arc<dyn Acquaintances> {
    Arc::new(Forgetful::default())
}

fn epoch() -> Epoch {
    Epoch::first(GroupId(1), "none", &[key(0).public(), key(1).public()])
}

struct Pair {
    near: Arc<QuicTransport>,
    far: Arc<QuicTransport>,
    at_near: Arc<Station>,
    at_far: Arc<Station>,
}

async fn pair(settings: &Settings, far_runtime: Option<&Runtime>) -> Pair {
    let (at_near, at_far) = (station(), station());
    let near = bind(0, settings);
    let far = async { bind(1, settings) };
    let enter = |runtime: &Runtime| runtime.handle().clone();
    let far = match far_runtime.map(enter) {
        Some(handle) => {
            let settings = settings.clone();
            let bound = handle.spawn(async move { bind(1, &settings) });
            bound.await.expect("bound")
        }
        None => far.await,
    };
    let addresses = [near.local_addr(), far.local_addr()];
    let peers: Vec<Peer> = (0u8..)
        .zip(addresses)
        .map(|(id, address)| Peer {
            key: key(id).public(),
            address: address.to_string(),
        })
        .collect();
    let (listed, service) = (peers.clone(), at_far.clone());
    let start_far = async move {
        far.start(&listed, epoch(), forgetful(), service)
            .expect("started")
    };
    let far = match far_runtime.map(enter) {
        Some(handle) => handle.spawn(start_far).await.expect("started"),
        None => start_far.await,
    };
    let near = near
        .start(&peers, epoch(), forgetful(), at_near.clone())
        .expect("started");
    while near.connected().is_empty() || far.connected().is_empty() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    // Time for MTU discovery.
    tokio::time::sleep(Duration::from_millis(500)).await;
    Pair {
        near,
        far,
        at_near,
        at_far,
    }
}

async fn ping_pong(settings: &Settings, far_runtime: Option<&Runtime>) {
    let Pair {
        near,
        far,
        at_near,
        at_far,
    } = pair(settings, far_runtime).await;
    at_far.echo.set(far.clone()).ok();
    let frame = Bytes::from(vec![7; 64]);
    let mut trips = Vec::with_capacity(PINGS);
    for _ in 0..PINGS {
        let start = Instant::now();
        near.send(ReplicaId(1), frame.clone());
        at_near.arrived.notified().await;
        trips.push(start.elapsed());
    }
    trips.sort_unstable();
    let micros = |share: f64| trips[(share * (PINGS - 1) as f64) as usize].as_nanos() as f64 / 1e3;
    println!(
        "ping-pong 64 B: p50 {:.1} us, p90 {:.1} us, p99 {:.1} us",
        micros(0.5),
        micros(0.9),
        micros(0.99)
    );
    near.shutdown().await;
    far.shutdown().await;
}

async fn one_way(settings: &Settings, far_runtime: Option<&Runtime>, size: usize) {
    let Pair {
        near, far, at_far, ..
    } = pair(settings, far_runtime).await;
    let frame = Bytes::from(vec![7; size]);
    let total = (BYTES / size).min(1_000_000);
    let window = ((8 << 20) / size).min(32_768);
    let start = Instant::now();
    for sent in 0..total {
        while sent - at_far.frames.load(Ordering::Relaxed) >= window {
            at_far.arrived.notified().await;
        }
        near.send(ReplicaId(1), frame.clone());
        if sent % 64 == 63 {
            tokio::task::yield_now().await;
        }
    }
    while at_far.frames.load(Ordering::Relaxed) < total {
        at_far.arrived.notified().await;
    }
    let seconds = start.elapsed().as_secs_f64();
    let per_second = total as f64 / seconds;
    println!(
        "one way {size} B: {:.0} k frames/s, {:.0} MB/s, dropped {}",
        per_second / 1e3,
        per_second * size as f64 / 1e6,
        near.stats(ReplicaId(1)).dropped_full_frames
    );
    near.shutdown().await;
    far.shutdown().await;
}

fn main() {
    let mut settings = Settings::default();
    let mut runtime = String::from("one");
    for argument in std::env::args().skip(1) {
        match argument.split_once('=') {
            Some(("mtu", value)) => settings.mtu_upper_bound = value.parse().expect("bytes"),
            Some(("socket", value)) => settings.socket_buffer_bytes = value.parse().expect("bytes"),
            Some(("keep_alive", value)) => {
                settings.keep_alive = Duration::from_millis(value.parse().expect("milliseconds"));
            }
            Some((unknown, _)) => panic!("no setting is called {unknown}"),
            None => runtime = argument,
        }
    }
    let one_thread = || Builder::new_current_thread().enable_all().build();
    let (near, far) = match runtime.as_str() {
        "one" => (one_thread(), None),
        "two" => {
            let mut threaded = Builder::new_multi_thread();
            let far = threaded.worker_threads(1).enable_all().build();
            (one_thread(), far.ok())
        }
        "multi" => {
            let mut threaded = Builder::new_multi_thread();
            (threaded.worker_threads(2).enable_all().build(), None)
        }
        unknown => panic!("no runtime is called {unknown}"),
    };
    let near = near.expect("a runtime");
    println!("runtime {runtime}, {settings:?}");
    let measure = async move {
        for _ in 0..3 {
            ping_pong(&settings, far.as_ref()).await;
        }
        for size in [128, 1 << 10, 16 << 10] {
            one_way(&settings, far.as_ref(), size).await;
        }
        if let Some(far) = far {
            far.shutdown_background();
        }
    };
    if runtime == "multi" {
        near.block_on(async { near.spawn(measure).await.expect("measured") });
    } else {
        near.block_on(measure);
    }
}
