//! The worlds that EPaxos is tried in.

#![allow(dead_code, reason = "each test file tries its own worlds")]

use std::time::Duration;

use quorate_core::replica::Settings;
use quorate_epaxos::{Config, EPaxos};
use quorate_simulator::{Hardships, SimulationConfig, vary};
use rand_chacha::ChaCha8Rng;

/// Worlds in which instances are trimmed and snapshots fetched often.
pub(crate) fn config(replicas: usize) -> SimulationConfig<EPaxos> {
    SimulationConfig::new(replicas, Config::cramped())
}

/// Worlds with hardships besides.
pub(crate) fn hard(replicas: usize, hardships: Hardships) -> SimulationConfig<EPaxos> {
    SimulationConfig {
        hardships,
        limits: Some(limits),
        ..config(replicas)
    }
}

/// Draws each limit by itself, down to the smallest there is.
fn limits(random: &mut ChaCha8Rng, config: &mut Config, _settings: &mut Settings) {
    vary(random, &mut config.max_window, &[1, 2, 5, 4_096]);
    vary(random, &mut config.max_watched, &[1, 2, 3, 1_024]);
    vary(
        random,
        &mut config.max_answer_bytes,
        &[1, 100, 5_000, 1 << 20],
    );
    vary(random, &mut config.thrifty_after, &[0, 1, 20, u32::MAX]);
    let millis = |of: [u64; 4]| of.map(Duration::from_millis);
    vary(random, &mut config.patience, &millis([0, 40, 600, 10_000]));
    vary(random, &mut config.fast_wait, &millis([0, 1, 30, 100]));
    vary(random, &mut config.progress, &millis([5, 20, 100, 200]));
}
