//! PBFT in simulated worlds, whose replicas crash and whose network is bad.

use std::time::Duration;

use quorate_core::replica::Mutant;
use quorate_pbft::{Config, Pbft};
use quorate_simulator::{Faults, Rule, SimulationConfig, Summary, simulate};

/// How many seeds are tried for each size of cluster; `QUORATE_PBFT_SEEDS` says another
/// number, for a world with signatures costs a hundred times one without.
#[expect(
    clippy::disallowed_methods,
    reason = "how long to test is the tester's"
)]
fn seeds() -> u64 {
    let given = std::env::var("QUORATE_PBFT_SEEDS").ok();
    given.and_then(|seeds| seeds.parse().ok()).unwrap_or(60)
}

/// Small windows, so that checkpoints are taken and states fetched often.
fn config(replicas: usize) -> SimulationConfig<Pbft> {
    let config = Config {
        request_timeout: Duration::from_millis(300),
        checkpoint_every: 8,
        window: 16,
        max_early_messages: 32,
        max_resent_slots: 8,
        max_resent_bytes: 600,
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
        ("view changes", sum.leaders),
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

/// Exactly once hangs on the sessions: a state that is transferred, or restarted from, without
/// them lets commands run twice, or makes replicas differ.
#[test]
fn states_without_their_sessions_do_harm() {
    let mut config = SimulationConfig {
        faults: Faults::All,
        liars: 0,
        shrink_runs: 0,
        ..config(4)
    };
    config.settings.mutant = Some(Mutant::SessionsLeftOutOfSnapshot);
    let mut broken = (0..60).filter_map(|seed| simulate(seed, &config).failure);
    let harm = [Rule::ExactlyOnce, Rule::EqualState];
    assert!(broken.any(|failure| harm.contains(&failure.broken.rule)));
}

#[test]
fn four_replicas_serve_without_faults() {
    run(4, Faults::None, seeds() / 10 + 1);
}

#[test]
fn four_replicas_survive_all_faults() {
    assert_covered(&run(4, Faults::All, seeds()));
}

#[test]
fn seven_replicas_survive_all_faults() {
    assert_covered(&run(7, Faults::All, seeds() / 3));
}
