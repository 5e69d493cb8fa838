//! The worlds that Multi-Paxos is tried in.

#![allow(dead_code, reason = "each test file tries its own worlds")]

use quorate_core::replica::Settings;
use quorate_multipaxos::{Config, MultiPaxos, ReadMode};
use quorate_simulator::{Hardships, SimulationConfig, vary};
use rand_chacha::ChaCha8Rng;

/// Worlds in which promises come in parts, logs are trimmed and snapshots fetched often.
pub(crate) fn config(replicas: usize, reads: ReadMode) -> SimulationConfig<MultiPaxos> {
    let config = Config {
        reads,
        ..Config::cramped()
    };
    SimulationConfig::new(replicas, config)
}

/// The same with limits drawn by themselves for each seed, so that in some world each is smaller than
/// each other: what one lets pass must not be lost at the next.
pub(crate) fn with_drawn_limits(replicas: usize, reads: ReadMode) -> SimulationConfig<MultiPaxos> {
    SimulationConfig {
        hardships: Hardships {
            limits: true,
            ..Hardships::NONE
        },
        limits: Some(limits),
        ..config(replicas, reads)
    }
}

/// Draws each limit by itself, down to the smallest.
pub(crate) fn limits(random: &mut ChaCha8Rng, config: &mut Config, _: &mut Settings) {
    vary(random, &mut config.max_window, &[1, 2, 8, 8_192]);
    vary(random, &mut config.max_message_bytes, &[1, 4_000, 1 << 20]);
    vary(random, &mut config.max_unchosen_bytes, &[1, 2_000]);
    vary(random, &mut config.retained_bytes, &[0, 8 << 20]);
    vary(random, &mut config.retained_entries, &[0, 1, 64, 16_384]);
    vary(random, &mut config.max_held_bytes, &[0, 600, 128 << 20]);
    vary(random, &mut config.max_pending_reads, &[1, 4]);
}
