//! The worlds that Raft is tried in.

use quorate_raft::{Config, Raft};
use quorate_simulator::SimulationConfig;

/// Worlds in which logs are trimmed and snapshots fetched often.
pub(crate) fn config(replicas: usize) -> SimulationConfig<Raft> {
    SimulationConfig::new(replicas, Config::cramped())
}
