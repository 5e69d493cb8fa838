//! EPaxos in simulated worlds: safety after every step, and liveness once the faults have ended.

mod worlds;

use quorate_epaxos::EPaxos;
use quorate_simulator::{Faults, SimulationConfig, Summary, simulate};
use worlds::config;

/// How many seeds are tried for each size of cluster; `QUORATE_EPAXOS_SEEDS` says another number.
#[expect(
    clippy::disallowed_methods,
    reason = "how long to test is the tester's"
)]
fn seeds() -> u64 {
    let given = std::env::var("QUORATE_EPAXOS_SEEDS").ok();
    given.and_then(|seeds| seeds.parse().ok()).unwrap_or(60)
}

fn pass(config: &SimulationConfig<EPaxos>, seeds: impl Iterator<Item = u64>) -> Summary {
    let mut sum = Summary::default();
    for seed in seeds {
        let report = simulate(seed, config);
        if let Some(failure) = report.failure {
            panic!("seed {seed}: {failure}");
        }
        sum.add(&report.summary);
    }
    println!(
        "{} replicas, faults {}: {sum}",
        config.replicas, config.faults
    );
    sum
}

fn assert_covered(sum: &Summary) {
    for (what, count) in [
        ("operations without an answer", sum.unknown),
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
    let config = config(3);
    let runs = [(); 2].map(|()| simulate(4, &config));
    assert_eq!(runs[0].trace_hash, runs[1].trace_hash);
    assert_eq!(runs[0].history, runs[1].history);
    assert_ne!(runs[0].trace_hash, simulate(5, &config).trace_hash);
}

#[test]
fn three_replicas_survive_all_faults() {
    assert_covered(&pass(&config(3), 0..seeds()));
}

#[test]
fn five_replicas_survive_all_faults() {
    assert_covered(&pass(&config(5), 1_000_000..1_000_000 + seeds()));
}

#[test]
fn seven_replicas_survive_all_faults() {
    assert_covered(&pass(&config(7), 2_000_000..2_000_000 + seeds()));
}

#[test]
fn clusters_of_other_sizes_survive_the_faults_they_can() {
    for (replicas, faults) in [
        (1, Faults::Crash),
        (2, Faults::All),
        (4, Faults::All),
        (7, Faults::Network),
        (3, Faults::None),
    ] {
        let config = SimulationConfig {
            faults,
            ..config(replicas)
        };
        pass(&config, 0..seeds() / 10);
    }
}
