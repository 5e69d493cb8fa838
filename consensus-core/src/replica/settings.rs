//! Limits and policies of the driver.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::epoch::Setting;
use crate::protocol::{FaultModel, Protocol};
use crate::request::{COMMAND_LIMIT, GROUP_BYTES};

/// Limits and policies of the driver core, the same for every protocol.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// The most bytes a command or query may have.
    pub max_command_bytes: usize,
    /// The most requests and reads that may be under way through this node; one more is refused. A
    /// client that has little under way is let in up to twice that, and so are the bytes.
    pub max_pending: usize,
    /// The most bytes of requests that may be under way through this node, and of reads.
    pub max_pending_bytes: usize,
    /// The most bytes of records that are written and not durable while new requests are taken.
    /// Beyond it the disk is too slow or hangs, and they are refused.
    pub max_unsynced_bytes: usize,
    /// When so many bytes of reads have been answered in a turn, the others are asked again in the
    /// next.
    pub max_read_bytes: usize,
    /// A batch is closed when it has reached this many bytes.
    pub max_batch_bytes: usize,
    /// How many batches this node has under way at most, while they are not full: what arrives
    /// meanwhile makes the next batch larger. By default what the protocol names
    /// ([`Protocol::BATCHES_IN_FLIGHT`]); if it names nothing 2, and 1 where replicas may lie, for
    /// there a batch costs so many messages and signatures that more requests should share it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_batches_in_flight: Option<usize>,
    /// After this long without being executed, a request is proposed again, and a read asked
    /// again. Must be well above a round trip: an answer to an earlier question may not count.
    #[serde(rename = "retry_after_ms", with = "crate::millis")]
    pub retry_after: Duration,
    /// A read that is under way for so long is given up: no quorum confirms it.
    #[serde(rename = "read_patience_ms", with = "crate::millis")]
    pub read_patience: Duration,
    /// A peer that was asked for a snapshot is given up after this long without progress, and another
    /// is asked.
    #[serde(rename = "fetch_patience_ms", with = "crate::millis")]
    pub fetch_patience: Duration,
    /// A snapshot is taken when this many bytes of batches have been executed since the last; not
    /// where replicas may lie, for there the protocol says when.
    pub snapshot_every_bytes: u64,
    /// The rule of the driver that is switched off, to show that the tests would notice.
    #[cfg(feature = "mutants")]
    #[serde(skip)]
    pub mutant: Option<Mutant>,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            max_command_bytes: 1 << 20,
            max_pending: 16_384,
            max_pending_bytes: 64 << 20,
            max_unsynced_bytes: 64 << 20,
            max_read_bytes: 2 << 20,
            max_batch_bytes: 256 << 10,
            max_batches_in_flight: None,
            retry_after: Duration::from_secs(1),
            read_patience: Duration::from_secs(30),
            fetch_patience: Duration::from_secs(1),
            snapshot_every_bytes: 64 << 20,
            #[cfg(feature = "mutants")]
            mutant: None,
        }
    }
}

impl Settings {
    /// What all replicas must have alike. A command that one of them takes and another one finds too
    /// large would be told not to have happened, by the second, when it has, through the first.
    pub fn agreed(&self) -> Vec<Setting> {
        let Settings {
            max_command_bytes,
            max_pending: _,
            max_pending_bytes: _,
            max_unsynced_bytes: _,
            max_read_bytes: _,
            max_batch_bytes: _,
            max_batches_in_flight: _,
            retry_after: _,
            read_patience: _,
            fetch_patience: _,
            snapshot_every_bytes: _,
            #[cfg(feature = "mutants")]
                mutant: _,
        } = self;
        vec![Setting::agreed("max_command_bytes", max_command_bytes)]
    }

    /// Says what cannot work, if anything.
    pub(super) fn validate(&self) -> Result<(), String> {
        // A batch is closed by the request that fills it. What is larger than a message could be
        // written but not read again, and not sent.
        let batch = self.max_batch_bytes.saturating_add(self.max_group_bytes());
        if batch > COMMAND_LIMIT {
            return Err(format!(
                "max_batch_bytes ({}) and max_command_bytes ({}) must together be at most {}, for a batch to fit into a record and a message",
                self.max_batch_bytes, self.max_command_bytes, COMMAND_LIMIT
            ));
        }
        let positive = [
            ("max_pending", self.max_pending > 0),
            ("max_pending_bytes", self.max_pending_bytes > 0),
            ("max_unsynced_bytes", self.max_unsynced_bytes > 0),
            ("max_read_bytes", self.max_read_bytes > 0),
            (
                "max_batches_in_flight",
                self.max_batches_in_flight != Some(0),
            ),
            ("retry_after_ms", !self.retry_after.is_zero()),
            ("read_patience_ms", !self.read_patience.is_zero()),
            ("fetch_patience_ms", !self.fetch_patience.is_zero()),
        ];
        match positive.iter().find(|(_, positive)| !positive) {
            Some((name, _)) => Err(format!("{name} must be above zero")),
            None => Ok(()),
        }
    }
}

/// How many bytes a request alone adds to its command.
const REQUEST_OVERHEAD: usize = 256;

impl Settings {
    /// These settings, with what is left to the protocol filled in.
    pub(super) fn of<P: Protocol>(mut self) -> Self {
        let suitable = P::BATCHES_IN_FLIGHT.unwrap_or(match P::FAULTS {
            FaultModel::Crash => 2,
            FaultModel::Byzantine => 1,
        });
        self.max_batches_in_flight.get_or_insert(suitable);
        self
    }

    pub(super) fn batches_in_flight(&self) -> usize {
        self.max_batches_in_flight.unwrap_or(1)
    }

    /// The most bytes that requests signed together may have.
    pub(super) fn max_group_bytes(&self) -> usize {
        let largest = self.max_command_bytes.max(GROUP_BYTES);
        largest.saturating_add(REQUEST_OVERHEAD)
    }
}

/// A rule of the driver that can be switched off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// Promises leave before the records they rest on are durable.
    PromiseBeforeSync,
    /// A snapshot holds the application's state without the sessions.
    SessionsLeftOutOfSnapshot,
    /// A request is executed without a look at the sessions.
    ExecuteRepeats,
    /// The state machine is told the agreed time as it was proposed, be it earlier than the last.
    AgreedTimeAsProposed,
    /// A peer that was asked for a snapshot is waited for for ever.
    FetchNeverGivenUp,
    /// While a peer's snapshot makes progress no other is asked.
    SlowFetchAlone,
    /// Where nobody has all that is wanted, nothing is taken.
    ShortAnswersForgotten,
    /// A snapshot that was taken before a fetched one is installed is saved after it.
    OlderSavedAfterFetched,
    /// What an installed state holds stays under way.
    InstalledNotSettled,
    /// What others bring is taken, and given to a disk that hangs, without end.
    HungDiskTakesAll,
    /// A read that nobody answers is under way for ever.
    ReadNeverGivenUp,
    /// A replica takes no snapshot of its own while it fetches one.
    NoSnapshotWhileFetching,
}

impl Settings {
    #[cfg(feature = "mutants")]
    pub(super) fn mutated(&self, mutant: Mutant) -> bool {
        self.mutant == Some(mutant)
    }

    #[cfg(not(feature = "mutants"))]
    pub(super) fn mutated(&self, _mutant: Mutant) -> bool {
        false
    }
}
