//! The worlds that EPaxos is tried in.

use quorate_epaxos::{Config, EPaxos};
use quorate_simulator::SimulationConfig;

/// Worlds in which instances are trimmed and snapshots fetched often.
pub(crate) fn config(replicas: usize) -> SimulationConfig<EPaxos> {
    SimulationConfig::new(replicas, Config::cramped())
}
