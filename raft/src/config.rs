//! Time-outs and limits.

use std::time::Duration;

use quorate_core::codec::MESSAGE_LIMIT;
use quorate_core::config::above_zero;
use quorate_core::epoch::Setting;
use serde::{Deserialize, Serialize};

use crate::mutant::Mutant;

/// Time-outs and limits of a Raft replica. All replicas of a cluster should have the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The shortest time without a leader after which a replica campaigns; each wait is drawn
    /// from this to twice this. Must be well above the time a message takes. [Ongaro14 §5.2, §9.3]
    #[serde(rename = "election_timeout_ms", with = "quorate_core::millis")]
    pub election_timeout: Duration,
    /// How often a leader that has nothing to send tells the others that it leads.
    #[serde(rename = "heartbeat_ms", with = "quorate_core::millis")]
    pub heartbeat: Duration,
    /// How long a leader whose own disk does not answer, while others have on theirs what it lacks
    /// on its own, leads on: then it hands over. Must be well above what a sync may take.
    #[serde(rename = "disk_timeout_ms", with = "quorate_core::millis")]
    pub disk_timeout: Duration,
    /// The most bytes of entries in one message, if that is not less than one entry.
    pub max_append_bytes: usize,
    /// The most bytes of entries sent to one peer and not acknowledged.
    pub max_inflight_bytes: usize,
    /// The most messages with entries sent to one peer and not acknowledged.
    pub max_inflight_messages: usize,
    /// The most bytes of entries that a leader holds uncommitted, and that it holds without having
    /// them on its own disk: it drops proposals beyond.
    pub max_uncommitted_bytes: usize,
    /// The most bytes of entries kept behind a snapshot, for peers that are a little behind.
    pub retained_bytes: usize,
    /// The most entries kept behind a snapshot.
    pub retained_entries: usize,
    /// The most bytes of entries that a leader keeps behind a snapshot for peers that fetch an older
    /// one: what is written while they fetch and save it must fit.
    pub max_held_bytes: usize,
    /// The most reads kept that wait for an answer; more are dropped, and asked again by the driver.
    pub max_pending_reads: usize,
    /// The rule that is switched off.
    #[cfg(feature = "mutants")]
    #[serde(skip)]
    pub mutant: Option<Mutant>,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            election_timeout: Duration::from_millis(300),
            heartbeat: Duration::from_millis(50),
            disk_timeout: Duration::from_secs(1),
            max_append_bytes: 1 << 20,
            max_inflight_bytes: 8 << 20,
            max_inflight_messages: 256,
            max_uncommitted_bytes: 64 << 20,
            retained_bytes: 8 << 20,
            retained_entries: 16_384,
            max_held_bytes: 128 << 20,
            max_pending_reads: 4_096,
            #[cfg(feature = "mutants")]
            mutant: None,
        }
    }
}

impl Config {
    /// Limits so small that even a short run fills pipelines, trims logs and fetches snapshots:
    /// for simulation.
    pub fn cramped() -> Self {
        Config {
            max_append_bytes: 500,
            max_inflight_bytes: 2_000,
            max_inflight_messages: 4,
            retained_bytes: 600,
            retained_entries: 5,
            max_held_bytes: 6_000,
            ..Config::default()
        }
    }

    /// Nothing that must be the same in all replicas: the rest is how soon and how much.
    pub(crate) fn agreed(&self) -> Vec<Setting> {
        let Config {
            election_timeout: _,
            heartbeat: _,
            disk_timeout: _,
            max_append_bytes: _,
            max_inflight_bytes: _,
            max_inflight_messages: _,
            max_uncommitted_bytes: _,
            retained_bytes: _,
            retained_entries: _,
            max_held_bytes: _,
            max_pending_reads: _,
            #[cfg(feature = "mutants")]
                mutant: _,
        } = self;
        Vec::new()
    }

    /// Says what cannot work, if anything.
    pub(crate) fn validate(&self) -> Result<(), String> {
        if self.heartbeat.is_zero() || self.heartbeat >= self.election_timeout {
            return Err(format!(
                "heartbeat ({:?}) must be above zero and below election_timeout ({:?})",
                self.heartbeat, self.election_timeout
            ));
        }
        if self.max_append_bytes > MESSAGE_LIMIT / 2 {
            return Err(format!(
                "max_append_bytes ({}) must be at most {}, for a message to fit into a frame",
                self.max_append_bytes,
                MESSAGE_LIMIT / 2
            ));
        }
        above_zero(&[
            ("max_append_bytes", self.max_append_bytes),
            ("max_inflight_bytes", self.max_inflight_bytes),
            ("max_inflight_messages", self.max_inflight_messages),
            ("max_uncommitted_bytes", self.max_uncommitted_bytes),
            ("max_pending_reads", self.max_pending_reads),
        ])
    }

    /// Whether the rule is switched off.
    #[cfg(feature = "mutants")]
    pub(crate) fn mutated(&self, mutant: Mutant) -> bool {
        self.mutant == Some(mutant)
    }

    /// Whether the rule is switched off: never, in a build that is not a test's.
    #[cfg(not(feature = "mutants"))]
    pub(crate) fn mutated(&self, _mutant: Mutant) -> bool {
        false
    }
}
