//! The worlds that PBFT is tried in.
#![allow(dead_code, reason = "each test file uses its own part")]

use std::time::Duration;

use quorate_pbft::{Config, Pbft};
use quorate_simulator::seeds::told;
use quorate_simulator::{Faults, SimulationConfig};

/// How many seeds are tried for clusters of four; `QUORATE_PBFT_SEEDS` says another number than is
/// usual, for a world with signatures costs a hundred times one without.
pub(crate) fn seeds(usual: u64) -> u64 {
    told("QUORATE_PBFT_SEEDS").unwrap_or(usual)
}

pub(crate) const REQUEST_TIMEOUT: Duration = Duration::from_millis(300);

/// Small windows, so that checkpoints are taken and states fetched often.
pub(crate) fn world(replicas: usize, faults: Faults) -> SimulationConfig<Pbft> {
    let protocol = Config {
        request_timeout: REQUEST_TIMEOUT,
        checkpoint_every: 8,
        window: 16,
        max_early_messages: 32,
        max_resent_slots: 8,
        max_resent_bytes: 600,
        ..Config::default()
    };
    SimulationConfig {
        faults,
        ..SimulationConfig::new(replicas, protocol)
    }
}
