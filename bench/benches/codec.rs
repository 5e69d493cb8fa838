//! What it costs to encode and decode Raft's entries, batches and envelopes.

use std::hint::black_box;
use std::time::Duration;

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use quorate_bench::{Load, contexts};
use quorate_core::codec;
use quorate_core::crypto::GroupId;
use quorate_core::id::{ReplicaId, Slot};
use quorate_core::protocol::FaultModel;
use quorate_core::request::Batch;
use quorate_core::wire::Envelope;
use quorate_raft::{AppendEntries, Entry, Message, Position, Raft, Term};

const COMMANDS: usize = 64;
const COMMAND_BYTES: usize = 128;

/// The leader's message with `entries` entries, which have 64 commands together.
fn append_entries(entries: usize) -> Message {
    let mut load = Load::new(1, COMMANDS as u64, COMMAND_BYTES, FaultModel::Crash);
    load.request();
    let term = Term(3);
    let entry = |_| Entry {
        term,
        batch: load.batch(COMMANDS / entries),
    };
    Message::AppendEntries(AppendEntries {
        term,
        previous: Position {
            term,
            slot: Slot(1_000),
        },
        entries: (0..entries).map(entry).collect(),
        commit: Slot(999),
        round: 0,
        known: None,
        heard: true,
    })
}

fn messages(c: &mut Criterion) {
    let mut group = c.benchmark_group("codec");
    group
        .sample_size(20)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(2))
        .throughput(Throughput::Elements(COMMANDS as u64));
    let envelope = Envelope::new(GroupId(1), 0);
    let verifier = contexts::<Raft>()[0].verifier.clone();
    for (shape, entries) in [("1 entry of 64", 1), ("64 entries of 1", COMMANDS)] {
        let message = append_entries(entries);
        let encoded = codec::encode(&message).expect("a message can be encoded");
        let sealed = envelope.seal(&message).expect("a message can be sealed");
        let mut buffer = Vec::with_capacity(encoded.len());
        group.bench_function(format!("encode/{shape}"), |b| {
            b.iter(|| {
                buffer.clear();
                codec::encode_into(black_box(&message), &mut buffer).expect("encoded")
            });
        });
        group.bench_function(format!("decode/{shape}"), |b| {
            b.iter(|| codec::decode::<Message>("message", black_box(&encoded)).expect("decoded"));
        });
        group.bench_function(format!("seal/{shape}"), |b| {
            b.iter(|| envelope.seal(black_box(&message)).expect("sealed"));
        });
        group.bench_function(format!("open/{shape}"), |b| {
            b.iter(|| {
                let frame = black_box(&sealed);
                let opened = envelope.open::<Message>(ReplicaId(1), frame, &verifier);
                opened.expect("opened")
            });
        });
    }
    group.finish();
}

fn batches(c: &mut Criterion) {
    let mut group = c.benchmark_group("batch");
    group
        .sample_size(20)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(2))
        .throughput(Throughput::Elements(COMMANDS as u64));
    for sessions in [1, COMMANDS] {
        let mut load = Load::new(sessions, COMMANDS as u64, COMMAND_BYTES, FaultModel::Crash);
        for _ in 0..load.sessions() {
            load.request();
        }
        group.bench_function(format!("build/{sessions} sessions"), |b| {
            b.iter(|| load.batch(COMMANDS));
        });
        let bytes: Bytes = load.batch(COMMANDS).bytes().clone();
        group.bench_function(format!("parse/{sessions} sessions"), |b| {
            b.iter(|| Batch::parse(black_box(bytes.clone())).expect("parsed"));
        });
    }
    group.finish();
}

criterion_group!(benches, messages, batches);
criterion_main!(benches);
