//! What it costs to commit 128-byte commands in one thread, without sockets and files: the
//! protocol bare, in the driver core, and with its messages encoded.

use std::hint::black_box;
use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use quorate_bench::{Bare, ByValue, Driven, Enclosure, Host, Load, OneThread, Sealed};
use quorate_core::crypto::GroupId;
use quorate_core::protocol::{FaultModel, Protocol};
use quorate_core::replica::Settings;
use quorate_core::request::Batch;
use quorate_core::wire::Envelope;
use quorate_epaxos::EPaxos;
use quorate_hotstuff::Hotstuff;
use quorate_multipaxos::MultiPaxos;
use quorate_pbft::Pbft;
use quorate_raft::Raft;

const COMMAND_BYTES: usize = 128;
const BATCHES: [usize; 2] = [64, 1];

fn every_protocol(c: &mut Criterion) {
    layers::<Raft>(c, &quorate_raft::Config::default());
    layers::<MultiPaxos>(c, &quorate_multipaxos::Config::default());
    layers::<EPaxos>(c, &quorate_epaxos::Config::default());
    layers::<Pbft>(c, &quorate_pbft::Config::default());
    layers::<Hotstuff>(c, &quorate_hotstuff::Config::default());
}

fn layers<P: Protocol>(c: &mut Criterion, config: &P::Config) {
    let mut group = c.benchmark_group(format!("protocol/{}", P::NAME));
    group
        .sample_size(20)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2));
    let sealed = Sealed(Envelope::new(GroupId(1), 0));
    for batch in BATCHES {
        group.throughput(Throughput::Elements(batch as u64));
        // Where replicas may lie, a batch proposed once more is the same batch and not another.
        let repeats = P::FAULTS == FaultModel::Crash;
        if repeats {
            bare::<P>(&mut group, "bare", config, (1, batch));
        }
        driven::<P, _>(&mut group, "driver", config, &ByValue, (1, batch));
        if batch > 1 && repeats {
            let name = "bare, an entry each";
            bare::<P>(&mut group, name, config, (batch, 1));
        }
        if batch > 1 {
            let name = "driver, a session each";
            driven::<P, _>(&mut group, name, config, &ByValue, (batch, batch));
        }
        driven::<P, _>(&mut group, "sealed", config, &sealed, (1, batch));
    }
    group.finish();
}

/// Proposes `batches` of `len` requests in a turn.
fn bare<P: Protocol>(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: &str,
    config: &P::Config,
    (batches, len): (usize, usize),
) {
    let snapshot_every = Settings::default().snapshot_every_bytes;
    let mut cluster = OneThread::<Bare<P>>::bare(config, snapshot_every);
    let mut load = Load::new(1, len as u64, COMMAND_BYTES, P::FAULTS);
    let requests: Vec<Batch> = (0..batches).map(|_| load.batch(len)).collect();
    let turn = batches * len;
    let mut proposed = 0;
    group.bench_function(format!("{name}/{turn}"), |b| {
        b.iter(|| {
            proposed += turn as u64;
            cluster.commit(black_box(&requests).iter().cloned());
        });
    });
    assert_eq!(cluster.proposer().executed(), proposed);
}

/// Proposes a batch of `batch` requests of `sessions` sessions in a turn.
fn driven<P: Protocol, E: Enclosure<P::Message> + Clone>(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: &str,
    config: &P::Config,
    enclosure: &E,
    (sessions, batch): (usize, usize),
) {
    let mut cluster = OneThread::<Driven<P, E>>::driven(config, &Settings::default(), enclosure);
    let mut load = Load::new(
        sessions,
        (batch / sessions) as u64,
        COMMAND_BYTES,
        P::FAULTS,
    );
    cluster.commit(&mut load, sessions);
    let mut proposed = 0;
    group.bench_function(format!("{name}/{batch}"), |b| {
        b.iter(|| {
            proposed += batch as u64;
            cluster.commit(&mut load, batch);
        });
    });
    assert_eq!(cluster.proposer().executed(), proposed);
}

criterion_group!(benches, every_protocol);
criterion_main!(benches);
