//! The worlds that PBFT is tried in.
#![allow(dead_code, reason = "each test file uses its own part")]

use std::time::Duration;

use quorate_core::replica::Settings;
use quorate_pbft::{Config, Pbft};
use quorate_simulator::seeds::told;
use quorate_simulator::{Faults, Hardships, SimulationConfig, vary};
use rand_chacha::ChaCha8Rng;

/// How many seeds are tried for clusters of four; `QUORATE_PBFT_SEEDS` says another number than is
/// usual.
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

/// The same with hardships besides the faults.
pub(crate) fn hard(
    replicas: usize,
    (faults, hardships): (Faults, Hardships),
) -> SimulationConfig<Pbft> {
    SimulationConfig {
        hardships,
        limits: Some(limits),
        ..world(replicas, faults)
    }
}

/// Draws each limit by itself, down to the smallest there is.
fn limits(random: &mut ChaCha8Rng, config: &mut Config, _: &mut Settings) {
    vary(random, &mut config.checkpoint_every, &[1, 2, 5, 24]);
    let mut intervals = 2;
    vary(random, &mut intervals, &[2, 3, 7]);
    config.window = config.checkpoint_every * intervals;
    vary(random, &mut config.max_window_bytes, &[300, 3_000]);
    vary(random, &mut config.max_slots_under_way, &[1, 3]);
    vary(random, &mut config.max_queued_batches, &[1, 3]);
    vary(random, &mut config.max_queued_bytes, &[1, 700]);
    vary(random, &mut config.max_waiting_batches, &[1, 3]);
    vary(random, &mut config.max_waiting_bytes, &[1, 700]);
    vary(random, &mut config.max_early_messages, &[1, 4]);
    vary(random, &mut config.max_early_bytes, &[1, 700]);
    vary(random, &mut config.max_resent_slots, &[1, 4]);
    vary(random, &mut config.max_resent_bytes, &[1, 700]);
}
