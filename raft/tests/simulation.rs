//! Raft in simulated worlds.

use std::time::Duration;

use quorate_core::id::ReplicaId;
use quorate_raft::{Config, Raft};
use quorate_simulator::{Faults, SimulationConfig, Summary, simulate};

/// How many seeds are tried for each size of cluster; `QUORATE_SEEDS` says another number.
fn seeds() -> u64 {
    let given = std::env::var("QUORATE_SEEDS").ok();
    given.and_then(|seeds| seeds.parse().ok()).unwrap_or(150)
}

/// Small limits, so that logs are trimmed and snapshots fetched often.
fn config(replicas: usize) -> SimulationConfig<Raft> {
    let config = Config {
        max_append_bytes: 500,
        max_inflight_bytes: 2_000,
        max_inflight_messages: 4,
        retained_bytes: 600,
        retained_entries: 5,
        ..Config::default()
    };
    SimulationConfig::new(replicas, config)
}

fn run(replicas: usize, faults: Faults, seeds: u64) -> Summary {
    let mut sum = Summary::default();
    let config = SimulationConfig {
        faults,
        ..config(replicas)
    };
    for seed in 0..seeds {
        let report = simulate(seed, &config);
        if let Some(failure) = report.failure {
            panic!("seed {seed}: {failure}");
        }
        sum.add(&report.summary);
    }
    println!("{replicas} replicas, faults {faults}, {seeds} seeds: {sum}");
    sum
}

fn assert_covered(sum: &Summary) {
    for (what, count) in [
        ("operations without an answer", sum.unknown),
        ("elections", sum.leaders),
        ("crashes with loss", sum.crashes_with_loss),
        ("torn writes", sum.torn_crashes),
        ("disk failures", sum.disk_failures),
        ("pauses", sum.pauses),
        ("partitions", sum.partitions),
        ("snapshots taken", sum.snapshots_taken),
        ("snapshots fetched", sum.snapshots_installed),
        ("restarts from snapshots", sum.snapshots_recovered),
        ("lost frames", sum.frames_lost),
        ("repeated frames", sum.frames_repeated),
    ] {
        assert!(count > 0, "the worlds saw no {what}: {sum}");
    }
}

#[test]
fn three_replicas_survive_all_faults() {
    assert_covered(&run(3, Faults::All, seeds()));
}

#[test]
fn five_replicas_survive_all_faults() {
    assert_covered(&run(5, Faults::All, seeds()));
}

#[test]
fn a_lone_replica_survives_crashes() {
    let sum = run(1, Faults::Crash, seeds() / 10 + 1);
    assert!(sum.crashes > 0 && sum.messages == 0);
}
