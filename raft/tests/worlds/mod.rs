//! The worlds that Raft is tried in.

use quorate_raft::{Config, Raft};
use quorate_simulator::SimulationConfig;

/// Small limits, so that logs are trimmed and snapshots fetched often.
pub(crate) fn config(replicas: usize) -> SimulationConfig<Raft> {
    let config = Config {
        max_append_bytes: 500,
        max_inflight_bytes: 2_000,
        max_inflight_messages: 4,
        retained_bytes: 600,
        retained_entries: 5,
        ..Config::default()
    };
    SimulationConfig::new(replicas, config)
}
