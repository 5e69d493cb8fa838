//! What it costs to make records durable in the write-ahead log, with several appends under way.

use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use quorate_core::crypto::{GroupId, PublicKey};
use quorate_core::epoch::Epoch;
use quorate_core::id::ReplicaId;
use quorate_core::storage::{Completions, Records, Storage, StorageError, Ticket};
use quorate_storage_wal::{Identity, Wal, WalOptions};

/// After so many bytes the log is begun anew, as a replica does that has taken a snapshot.
const REWRITE_AFTER: usize = 64 << 20;

/// What has become durable.
#[derive(Default)]
struct Progress {
    through: Mutex<Ticket>,
    more: Condvar,
}

impl Progress {
    fn wait_for(&self, ticket: Ticket) {
        let through = self.through.lock().expect("the log does not panic");
        let behind = |through: &mut Ticket| *through < ticket;
        drop(self.more.wait_while(through, behind));
    }
}

struct Told(Arc<Progress>);

impl Completions for Told {
    fn durable(&self, ticket: Ticket) {
        let mut through = self.0.through.lock().expect("the bench does not panic");
        *through = ticket;
        self.0.more.notify_one();
    }

    fn saved(&self, _ticket: Ticket) {}

    fn failed(&self, error: StorageError) {
        eprintln!("the log has failed: {error}");
        std::process::exit(1);
    }

    fn short_of_room(&self, _: bool) {}
}

/// A log, and who appends to it.
struct Appender {
    wal: Wal,
    progress: Arc<Progress>,
    last: Ticket,
    since_rewrite: usize,
}

impl Appender {
    fn append(&mut self, record: &[u8]) {
        let mut records = Records::default();
        records.push(record);
        self.last.0 += 1;
        self.since_rewrite += record.len();
        let replaces = self.since_rewrite >= REWRITE_AFTER;
        if replaces {
            self.since_rewrite = 0;
        }
        self.wal.append(self.last, replaces, records);
    }

    /// Appends `record` `count` times, with at most `in_flight` not durable at any time, and
    /// gives how long it took until all are.
    fn run(&mut self, record: &[u8], count: u64, in_flight: u64) -> Duration {
        let start = Instant::now();
        for _ in 0..count {
            self.append(record);
            self.progress
                .wait_for(Ticket((self.last.0 + 1).saturating_sub(in_flight)));
        }
        self.progress.wait_for(self.last);
        start.elapsed()
    }
}

fn appends(c: &mut Criterion) {
    let mut group = c.benchmark_group("wal");
    group
        .sample_size(10)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2));
    let directory = tempfile::tempdir().expect("a temporary directory");
    let progress = Arc::new(Progress::default());
    let told = Told(progress.clone());
    let owner = Identity {
        group: GroupId(0),
        replica: ReplicaId(0),
        key: PublicKey([0; 32]),
        protocol: String::from("bench"),
    };
    Wal::prepare(directory.path(), &owner, None).expect("a prepared directory");
    let epoch = Epoch::first(owner.group, &owner.protocol, &[owner.key]);
    let opened = Wal::open(
        directory.path(),
        &owner,
        &epoch,
        &WalOptions::default(),
        told,
    );
    let (wal, _) = opened.expect("a new log");
    let mut appender = Appender {
        wal,
        progress,
        last: Ticket(0),
        since_rewrite: 0,
    };
    for record_bytes in [256, 16 << 10] {
        let record = vec![7; record_bytes];
        group.throughput(Throughput::Bytes(record_bytes as u64));
        for in_flight in [1, 16, 64] {
            let before = (appender.wal.syncs(), appender.last.0);
            let name = format!("{record_bytes} B, {in_flight} in flight");
            group.bench_function(&name, |b| {
                b.iter_custom(|count| appender.run(&record, count, in_flight));
            });
            let syncs = appender.wal.syncs() - before.0;
            let appends = appender.last.0 - before.1;
            if appends > 0 {
                let share = syncs as f64 / appends as f64;
                println!("{name}: {share:.3} syncs an append");
            }
        }
    }
    group.finish();
    appender.wal.close();
}

criterion_group!(benches, appends);
criterion_main!(benches);
