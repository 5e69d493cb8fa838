//! The worlds that Multi-Paxos is tried in.

use quorate_multipaxos::{Config, MultiPaxos, ReadMode};
use quorate_simulator::SimulationConfig;

/// Small limits, so that promises come in parts, logs are trimmed and snapshots fetched often.
pub(crate) fn config(replicas: usize, reads: ReadMode) -> SimulationConfig<MultiPaxos> {
    let config = Config {
        reads,
        max_message_bytes: 500,
        max_window: 64,
        retained_bytes: 600,
        retained_entries: 5,
        ..Config::default()
    };
    SimulationConfig::new(replicas, config)
}
