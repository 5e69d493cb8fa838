//! What a write costs in the whole system: clients, QUIC, replicas, logs that are synced, and
//! the key-value store.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use quorate::{Client, ClientOptions, LocalCluster, ProtocolKind};
use quorate_core::protocol::FaultModel;
use quorate_kv::{Answer, Command, Store};
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;

const CLIENTS: [usize; 3] = [1, 64, 256];
const CONNECTIONS: usize = 4;
const VALUE_BYTES: usize = 256;
const KEYS: u64 = 1_000;

/// Makes `count` writes, with `clients` under way at a time, and gives how long that took.
async fn writes(connections: &[Client], clients: usize, count: u64) -> Duration {
    let next = Arc::new(AtomicU64::new(0));
    let value = Bytes::from(vec![7; VALUE_BYTES]);
    let mut running = JoinSet::new();
    let start = Instant::now();
    for connection in connections.iter().cycle().take(clients) {
        let (connection, next, value) = (connection.clone(), next.clone(), value.clone());
        running.spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= count {
                    break;
                }
                write(&connection, number, value.clone()).await;
            }
        });
    }
    while let Some(ended) = running.join_next().await {
        ended.expect("the writer does not panic");
    }
    start.elapsed()
}

async fn write(connection: &Client, number: u64, value: Bytes) {
    let key = Bytes::from(format!("key-{}", number % KEYS));
    let put = Command::Put { key, value }.encode();
    let answer = connection.propose(put).await.expect("the write is done");
    let answer = Answer::decode(&answer).expect("an answer of the store");
    assert!(matches!(answer, Answer::Put { .. }), "{answer:?}");
}

fn protocol(c: &mut Criterion, runtime: &Runtime, kind: ProtocolKind) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let n = match kind.faults() {
        FaultModel::Crash => 3,
        FaultModel::Byzantine => 4,
    };
    let started = LocalCluster::start(kind, n, directory.path(), Store::default);
    let cluster = runtime.block_on(started).expect("the cluster starts");
    let connect = |_| {
        let client = cluster.client(ClientOptions::default());
        client.expect("a client")
    };
    let connections: Vec<Client> = {
        let _runtime = runtime.enter();
        (0..CONNECTIONS).map(connect).collect()
    };
    // The election, and the sessions' opening, are not measured.
    runtime.block_on(writes(&connections, CONNECTIONS, CONNECTIONS as u64));

    let mut group = c.benchmark_group(format!("cluster/{kind}"));
    group
        .sample_size(10)
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(3))
        .throughput(Throughput::Elements(1));
    for clients in CLIENTS {
        group.bench_function(format!("put/{clients} clients"), |b| {
            b.iter_custom(|count| runtime.block_on(writes(&connections, clients, count)));
        });
    }
    group.finish();
    drop(connections);
    runtime.block_on(cluster.shutdown()).expect("a clean stop");
}

fn every_protocol(c: &mut Criterion) {
    let runtime = Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.expect("a runtime");
    for kind in ProtocolKind::ALL {
        protocol(c, &runtime, *kind);
    }
}

criterion_group!(benches, every_protocol);
criterion_main!(benches);
