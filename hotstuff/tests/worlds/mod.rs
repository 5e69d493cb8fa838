//! The worlds that HotStuff is tried in.
#![allow(dead_code, reason = "each test file uses its own part")]

use std::time::Duration;

use quorate_hotstuff::{Config, Hotstuff, RuleSet};
use quorate_simulator::seeds::{self, told};
use quorate_simulator::{Faults, Rule, SimulationConfig, Summary};

/// How many seeds are tried for a cluster of four; `QUORATE_HOTSTUFF_SEEDS` says another number.
pub(crate) fn seeds() -> u64 {
    told("QUORATE_HOTSTUFF_SEEDS").unwrap_or(20)
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

/// What harm is.
pub(crate) const HARM: [Rule; 5] = [
    Rule::Agreement,
    Rule::EqualState,
    Rule::Linearizability,
    Rule::Durability,
    Rule::Invariant,
];

pub(crate) fn survive(
    config: &SimulationConfig<Hotstuff>,
    seeds: impl IntoIterator<Item = u64>,
) -> Summary {
    println!("under the rules {:?}:", config.protocol.rules);
    seeds::survive(config, seeds)
}
