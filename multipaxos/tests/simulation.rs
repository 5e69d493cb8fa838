//! Multi-Paxos in simulated worlds.

mod worlds;

use std::time::Duration;

use quorate_core::id::ReplicaId;
use quorate_multipaxos::{Config, MultiPaxos, QuorumRule, ReadMode};
use quorate_simulator::register::Change;
use quorate_simulator::{
    Conditions, Faults, Scenario, SimulationConfig, Summary, World, simulate,
};
use worlds::config;

/// How many seeds are tried for each size of cluster; `QUORATE_SEEDS` says another number.
fn seeds() -> u64 {
    let given = std::env::var("QUORATE_SEEDS").ok();
    given.and_then(|seeds| seeds.parse().ok()).unwrap_or(200)
}

fn pass(config: &SimulationConfig<MultiPaxos>, seeds: impl Iterator<Item = u64>) -> Summary {
    let mut sum = Summary::default();
    for seed in seeds {
        let report = simulate(seed, config);
        if let Some(failure) = report.failure {
            panic!("seed {seed}: {failure}");
        }
        sum.add(&report.summary);
    }
    println!(
        "{} replicas, reads by {:?}, faults {}: {sum}",
        config.replicas, config.protocol.reads, config.faults
    );
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
fn the_same_seed_gives_the_same_trace() {
    for reads in [ReadMode::Quorum, ReadMode::Lease, ReadMode::Log] {
        let config = config(3, reads);
        let runs = [(); 2].map(|()| simulate(4, &config));
        assert_eq!(runs[0].trace_hash, runs[1].trace_hash);
        assert_eq!(runs[0].history, runs[1].history);
        assert_ne!(runs[0].trace_hash, simulate(5, &config).trace_hash);
    }
}

#[test]
fn three_replicas_survive_all_faults() {
    assert_covered(&pass(&config(3, ReadMode::Quorum), 0..seeds()));
}

#[test]
fn five_replicas_survive_all_faults() {
    assert_covered(&pass(&config(5, ReadMode::Quorum), 0..seeds()));
}

#[test]
fn three_replicas_that_read_by_lease_survive_all_faults() {
    assert_covered(&pass(&config(3, ReadMode::Lease), 0..seeds()));
}

#[test]
fn five_replicas_that_read_by_lease_survive_all_faults() {
    assert_covered(&pass(&config(5, ReadMode::Lease), 0..seeds()));
}

#[test]
fn replicas_that_read_through_the_log_survive_all_faults() {
    for replicas in [3, 5] {
        assert_covered(&pass(&config(replicas, ReadMode::Log), 0..seeds() / 2));
    }
}
