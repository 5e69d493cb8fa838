//! The worlds that Raft is tried in.

#![allow(dead_code, reason = "each test file tries its own worlds")]

use std::time::Duration;

use quorate_core::replica::Settings;
use quorate_raft::{Config, Raft};
use quorate_simulator::{Hardships, SimulationConfig, vary};
use rand_chacha::ChaCha8Rng;

/// Worlds in which logs are trimmed and snapshots fetched often.
pub(crate) fn config(replicas: usize) -> SimulationConfig<Raft> {
    SimulationConfig::new(replicas, Config::cramped())
}

/// The same, with hardships besides the faults.
pub(crate) fn hard(replicas: usize, hardships: Hardships) -> SimulationConfig<Raft> {
    SimulationConfig {
        hardships,
        limits: Some(limits),
        ..config(replicas)
    }
}

/// Draws each limit of Raft by itself, so that in some world each is smaller than each other: what
/// one lets pass must not be lost at the next.
fn limits(random: &mut ChaCha8Rng, config: &mut Config, _: &mut Settings) {
    vary(
        random,
        &mut config.max_append_bytes,
        &[1, 300, 5_000, 1 << 20],
    );
    vary(
        random,
        &mut config.max_inflight_bytes,
        &[1, 300, 5_000, 8 << 20],
    );
    vary(random, &mut config.max_inflight_messages, &[1, 2, 16, 256]);
    vary(
        random,
        &mut config.max_uncommitted_bytes,
        &[1, 300, 5_000, 64 << 20],
    );
    vary(
        random,
        &mut config.retained_bytes,
        &[0, 300, 5_000, 8 << 20],
    );
    vary(random, &mut config.retained_entries, &[0, 1, 5, 16_384]);
    vary(
        random,
        &mut config.max_held_bytes,
        &[0, 300, 5_000, 128 << 20],
    );
    vary(random, &mut config.max_pending_reads, &[1, 2, 16, 4_096]);
    let timeouts = [60, 200, 1_000].map(Duration::from_millis);
    vary(random, &mut config.disk_timeout, &timeouts);
}
