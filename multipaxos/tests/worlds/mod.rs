//! The worlds that Multi-Paxos is tried in.

use quorate_multipaxos::{Config, MultiPaxos, ReadMode};
use quorate_simulator::SimulationConfig;

/// Worlds in which promises come in parts, logs are trimmed and snapshots fetched often.
pub(crate) fn config(replicas: usize, reads: ReadMode) -> SimulationConfig<MultiPaxos> {
    let config = Config {
        reads,
        ..Config::cramped()
    };
    SimulationConfig::new(replicas, config)
}
