//! The worlds that HotStuff is tried in.
#![allow(dead_code, reason = "each test file uses its own part")]

use std::time::Duration;

use quorate_hotstuff::{Config, Hotstuff, RuleSet};
use quorate_simulator::{Faults, SimulationConfig, Summary, simulate};

/// How many seeds are tried for a cluster of four; `QUORATE_HOTSTUFF_SEEDS` says another number, for
/// a world with signatures costs a hundred times one without.
#[expect(
    clippy::disallowed_methods,
    reason = "how long to test is the tester's"
)]
pub(crate) fn seeds() -> u64 {
    let given = std::env::var("QUORATE_HOTSTUFF_SEEDS").ok();
    given.and_then(|seeds| seeds.parse().ok()).unwrap_or(20)
}

/// The first seed; `QUORATE_FIRST_SEED` says another.
#[expect(
    clippy::disallowed_methods,
    reason = "how long to test is the tester's"
)]
pub(crate) fn first() -> u64 {
    let given = std::env::var("QUORATE_FIRST_SEED").ok();
    given.and_then(|seed| seed.parse().ok()).unwrap_or(0)
}

pub(crate) const VIEW_TIMEOUT: Duration = Duration::from_millis(150);

/// Checkpoints come often, and little is given at once.
pub(crate) fn config(rules: RuleSet) -> Config {
    Config {
        rules,
        view_timeout: VIEW_TIMEOUT,
        max_view_timeout: Duration::from_secs(3),
        ..Config::cramped()
    }
}

pub(crate) fn world(replicas: usize, rules: RuleSet, faults: Faults) -> SimulationConfig<Hotstuff> {
    SimulationConfig {
        faults,
        liar_patience: VIEW_TIMEOUT * 9 / 10,
        ..SimulationConfig::new(replicas, config(rules))
    }
}

pub(crate) fn survive(
    config: &SimulationConfig<Hotstuff>,
    seeds: impl Iterator<Item = u64>,
) -> Summary {
    let mut sum = Summary::default();
    for seed in seeds {
        let report = simulate(seed, config);
        if let Some(failure) = report.failure {
            panic!("seed {seed}: {failure}");
        }
        sum.add(&report.summary);
    }
    println!(
        "{} replicas, {:?}, faults {}: {sum}",
        config.replicas, config.protocol.rules, config.faults
    );
    sum
}
