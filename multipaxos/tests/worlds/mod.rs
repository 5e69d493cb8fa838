//! The worlds that Multi-Paxos is tried in.

#![allow(dead_code, reason = "each test file tries its own worlds")]

use quorate_multipaxos::{Config, MultiPaxos, ReadMode};
use quorate_simulator::SimulationConfig;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Worlds in which promises come in parts, logs are trimmed and snapshots fetched often.
pub(crate) fn config(replicas: usize, reads: ReadMode) -> SimulationConfig<MultiPaxos> {
    let config = Config {
        reads,
        ..Config::cramped()
    };
    SimulationConfig::new(replicas, config)
}

/// The world of a seed, with limits drawn by themselves, so that in some world each is smaller
/// than each other: what one lets pass must not be lost at the next.
pub(crate) fn with_drawn_limits(
    seed: u64,
    mut config: SimulationConfig<MultiPaxos>,
) -> SimulationConfig<MultiPaxos> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut draw = |values: &[usize]| values[random.random_range(0..values.len())];
    config.protocol = Config {
        max_window: draw(&[1, 2, 8, 64, 8_192]),
        max_message_bytes: draw(&[1, 500, 4_000, 1 << 20]),
        max_unchosen_bytes: draw(&[1, 2_000, 64 << 20]),
        retained_bytes: draw(&[0, 600, 8 << 20]),
        retained_entries: draw(&[0, 1, 5, 64, 16_384]),
        max_held_bytes: draw(&[0, 600, 10_000, 128 << 20]),
        max_pending_reads: draw(&[1, 4, 4_096]),
        ..config.protocol
    };
    config.settings.snapshot_every_bytes = draw(&[200, 1_500, 10_000, 64 << 20]) as u64;
    config.settings.max_batch_bytes = draw(&[1, 600, 256 << 10]);
    config.settings.max_batches_in_flight = [None, Some(1), Some(8)][draw(&[0, 1, 2])];
    config
}
