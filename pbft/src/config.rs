//! Time-outs and limits.

use std::time::Duration;

use quorate_core::codec::MESSAGE_LIMIT;
use quorate_core::config::above_zero;
use quorate_core::epoch::Setting;
use quorate_core::quorum::Byzantine;
use serde::{Deserialize, Serialize};

use crate::mutant::Mutant;

/// The widest window that may be configured: what a message may speak of is bounded by it.
pub(crate) const MAX_WINDOW: usize = 1 << 12;

/// Time-outs and limits of a PBFT replica. `checkpoint_every`, `window` and `max_window_bytes` must be
/// the same in all replicas of a cluster; the rest should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// How long a backup waits for a request to be executed before it asks for another primary.
    /// Doubles with each view change that brings no progress. [Castro99 §4.5.2]
    #[serde(rename = "request_timeout_ms", with = "quorate_core::millis")]
    pub request_timeout: Duration,
    /// How often a replica tells the others what it has, for them to send again what it lacks.
    /// [Castro02 §5.2]
    #[serde(rename = "status_every_ms", with = "quorate_core::millis")]
    pub status_every: Duration,
    /// K: a checkpoint is taken each time this many slots have been executed. [Castro99 §4.3]
    pub checkpoint_every: u64,
    /// How many slots lie between the low and the high watermark: at least two checkpoints.
    /// [Castro99 §4.3]
    pub window: u64,
    /// How far a primary's clock may be from a backup's, either way, for the backup to accept the
    /// time that it gives a batch. To be well above what clocks differ by and batches are under
    /// way. [Castro99 §4.6]
    #[serde(rename = "max_clock_skew_ms", with = "quorate_core::millis")]
    pub max_clock_skew: Duration,
    /// The most bytes of batches that a primary lets stand between the watermarks, if that is not
    /// less than one; backups hold twice as much.
    pub max_window_bytes: usize,
    /// The most slots that a primary has under way with what one replica has told it of, and as many
    /// with what that replica has passed on.
    pub max_slots_under_way: usize,
    /// The most batches of one replica that a primary holds for which there is no slot yet, and as many
    /// that it has passed on; it drops those beyond, and who waits for them tells it again.
    pub max_queued_batches: usize,
    /// The most bytes of them, if that is not less than one.
    pub max_queued_bytes: usize,
    /// The most batches of one replica's clients that another waits for.
    pub max_waiting_batches: usize,
    /// The most bytes of them, if that is not less than one.
    pub max_waiting_bytes: usize,
    /// The most messages of one sender kept that came before their view or watermark.
    pub max_early_messages: usize,
    /// The most bytes of them.
    pub max_early_bytes: usize,
    /// The most slots sent again in answer to one status.
    pub max_resent_slots: usize,
    /// The most bytes of batches sent again in answer to one status, if that is not less than one.
    pub max_resent_bytes: usize,
    /// The rule that is switched off.
    #[cfg(feature = "mutants")]
    #[serde(skip)]
    pub mutant: Option<Mutant>,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            request_timeout: Duration::from_millis(500),
            status_every: Duration::from_millis(100),
            checkpoint_every: 256,
            window: 512,
            max_clock_skew: Duration::from_secs(5),
            max_window_bytes: 128 << 20,
            max_slots_under_way: 32,
            max_queued_batches: 256,
            max_queued_bytes: 16 << 20,
            max_waiting_batches: 256,
            max_waiting_bytes: 16 << 20,
            max_early_messages: 256,
            max_early_bytes: 4 << 20,
            max_resent_slots: 32,
            max_resent_bytes: 1 << 20,
            #[cfg(feature = "mutants")]
            mutant: None,
        }
    }
}

/// What a signature, its signer and a share of what it is on take in a message, at most.
const SIGNATURE_BYTES: usize = 96;

impl Config {
    /// Limits so small that even a short run has checkpoints and state transfers: for simulation.
    pub fn cramped() -> Self {
        Config {
            checkpoint_every: 8,
            window: 16,
            ..Config::default()
        }
    }

    /// What must be the same in all replicas: where checkpoints are, and how far beyond them slots may
    /// be, on which the log and view changes rest; and what a backup must hold of what a primary
    /// proposes.
    pub(crate) fn agreed(&self) -> Vec<Setting> {
        let Config {
            request_timeout: _,
            status_every: _,
            checkpoint_every,
            window,
            max_clock_skew: _,
            max_window_bytes,
            max_slots_under_way: _,
            max_queued_batches: _,
            max_queued_bytes: _,
            max_waiting_batches: _,
            max_waiting_bytes: _,
            max_early_messages: _,
            max_early_bytes: _,
            max_resent_slots: _,
            max_resent_bytes: _,
            #[cfg(feature = "mutants")]
                mutant: _,
        } = self;
        vec![
            Setting::fixed("checkpoint_every", checkpoint_every),
            Setting::fixed("window", window),
            Setting::agreed("max_window_bytes", max_window_bytes),
        ]
    }

    /// Says what cannot work among `n` replicas, if anything.
    pub(crate) fn validate(&self, n: usize) -> Result<(), String> {
        if self.checkpoint_every == 0 || self.window < self.checkpoint_every.saturating_mul(2) {
            return Err(format!(
                "checkpoint_every ({}) must be above zero, and window ({}) at least twice that",
                self.checkpoint_every, self.window
            ));
        }
        if self.window > MAX_WINDOW as u64 {
            return Err(format!(
                "window ({}) must be at most {MAX_WINDOW}",
                self.window
            ));
        }
        // A NEW-VIEW has a quorum of view changes, with a quorum of signatures for each slot.
        let quorum = Byzantine::of(n).strong().size();
        let new_view = quorum * (self.window as usize + 2) * (quorum + 1) * SIGNATURE_BYTES;
        if new_view > MESSAGE_LIMIT {
            return Err(format!(
                "window ({}) is too wide for {n} replicas: a new view may take {new_view} bytes, and no message may have more than {MESSAGE_LIMIT}",
                self.window
            ));
        }
        above_zero(&[
            ("request_timeout", self.request_timeout),
            ("status_every", self.status_every),
            ("max_clock_skew", self.max_clock_skew),
        ])?;
        above_zero(&[
            ("max_window_bytes", self.max_window_bytes),
            ("max_slots_under_way", self.max_slots_under_way),
            ("max_queued_batches", self.max_queued_batches),
            ("max_queued_bytes", self.max_queued_bytes),
            ("max_waiting_batches", self.max_waiting_batches),
            ("max_waiting_bytes", self.max_waiting_bytes),
            ("max_early_messages", self.max_early_messages),
            ("max_early_bytes", self.max_early_bytes),
            ("max_resent_slots", self.max_resent_slots),
            ("max_resent_bytes", self.max_resent_bytes),
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
