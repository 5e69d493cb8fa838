//! Time-outs and limits, quorums, and how to read.

use std::fmt;
use std::time::Duration;

use quorate_core::codec::MESSAGE_LIMIT;
use quorate_core::config::above_zero;
use quorate_core::epoch::Setting;
use quorate_core::id::{ReplicaId, ReplicaSet};
use quorate_core::quorum::{Columns, Flexible, Grid, Majority, Quorum, Rows, Threshold};
use serde::{Deserialize, Serialize};

use crate::mutant::Mutant;
use crate::record::FARTHEST;

/// Time-outs, limits and options of a Multi-Paxos replica. All replicas of a cluster must have
/// the same quorums, reads, lease and window, and should have the same in all else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The shortest time without a leader after which a replica campaigns; each wait is drawn
    /// from this to twice this, and from a wider interval after campaigns that came to nothing.
    #[serde(rename = "election_timeout_ms", with = "quorate_core::millis")]
    pub election_timeout: Duration,
    /// How often a leader tells the others that it leads.
    #[serde(rename = "heartbeat_ms", with = "quorate_core::millis")]
    pub heartbeat: Duration,
    /// How long to wait for an answer before a message that matters is sent again.
    #[serde(rename = "retransmit_ms", with = "quorate_core::millis")]
    pub retransmit: Duration,
    /// Which replicas elect a leader, and which choose a value.
    pub quorums: QuorumRule,
    /// How linearizable reads are served.
    pub reads: ReadMode,
    /// How long an acceptor that has heard of its leader promises nothing to others, by its own
    /// clock. Only [`ReadMode::Lease`] has leases.
    #[serde(rename = "lease_ms", with = "quorate_core::millis")]
    pub lease: Duration,
    /// How far the rate of a clock may be from that of true time, in percent. Leases rest on it,
    /// and nothing else does.
    pub max_clock_drift_percent: u32,
    /// The replica that leads if it can. It campaigns sooner than the others, and a leader that
    /// it has caught up with hands over to it.
    pub preferred: Option<ReplicaId>,
    /// The most bytes of values in one message, if that is not less than one value.
    pub max_message_bytes: usize,
    /// How many slots may be under way beyond those executed.
    pub max_window: usize,
    /// The most bytes of values that a leader holds which are not chosen: it drops proposals
    /// beyond.
    pub max_unchosen_bytes: usize,
    /// The most bytes of values kept behind a snapshot, for peers that are a little behind.
    pub retained_bytes: usize,
    /// The most slots kept behind a snapshot.
    pub retained_entries: usize,
    /// The most bytes of values kept behind a snapshot for peers that are fetching an older one.
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
            retransmit: Duration::from_millis(150),
            quorums: QuorumRule::Majority,
            reads: ReadMode::Quorum,
            lease: Duration::from_millis(300),
            max_clock_drift_percent: 5,
            preferred: None,
            max_message_bytes: 1 << 20,
            max_window: 8_192,
            max_unchosen_bytes: 64 << 20,
            retained_bytes: 8 << 20,
            retained_entries: 16_384,
            max_held_bytes: 128 << 20,
            max_pending_reads: 4_096,
            #[cfg(feature = "mutants")]
            mutant: None,
        }
    }
}

/// Which replicas elect a leader (phase 1), and which choose a value (phase 2). Any two of unlike
/// kind have a replica in common; two of the same kind need not. [Howard16 §3]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum QuorumRule {
    /// More than half, for both.
    #[default]
    Majority,
    /// Any q1 replicas elect, any q2 choose; q1 + q2 must exceed the number of replicas.
    Flexible {
        /// How many elect.
        q1: usize,
        /// How many choose.
        q2: usize,
    },
    /// The replicas stand in rows, filled one after the other: a row elects, a column chooses.
    /// [Howard16 §5]
    Grid {
        /// How many rows there are; they must be of equal length.
        rows: usize,
    },
}

/// How linearizable reads are served.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReadMode {
    /// The leader answers by itself as long as it holds a lease: no messages, but only as right
    /// as the clocks. Others ask it. [Chandra07 §5.2]
    Lease,
    /// Any replica asks a phase 1 quorum for the last slot accepted, and waits until it has
    /// executed that: one round of messages, no assumption about clocks, no need of the leader.
    /// \[Charapko19\]
    #[default]
    Quorum,
    /// Reads are ordered like commands.
    Log,
}

impl fmt::Display for QuorumRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            QuorumRule::Majority => f.write_str("majority"),
            QuorumRule::Flexible { q1, q2 } => write!(f, "flexible q1 = {q1} q2 = {q2}"),
            QuorumRule::Grid { rows } => write!(f, "grid rows = {rows}"),
        }
    }
}

impl fmt::Display for ReadMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ReadMode::Lease => "lease",
            ReadMode::Quorum => "quorum",
            ReadMode::Log => "log",
        })
    }
}

/// The quorums of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Quorums {
    pub(crate) phase1: Rule,
    pub(crate) phase2: Rule,
}

/// One side of a pair of quorums.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rule {
    Majority(Majority),
    Threshold(Threshold),
    Row(Rows),
    Column(Columns),
}

impl Quorum for Rule {
    fn is_met(&self, replicas: ReplicaSet) -> bool {
        match self {
            Rule::Majority(quorum) => quorum.is_met(replicas),
            Rule::Threshold(quorum) => quorum.is_met(replicas),
            Rule::Row(quorum) => quorum.is_met(replicas),
            Rule::Column(quorum) => quorum.is_met(replicas),
        }
    }
}

impl Config {
    /// Limits so small that even a short run has promises in parts, trims logs and fetches
    /// snapshots: for simulation.
    pub fn cramped() -> Self {
        Config {
            max_message_bytes: 500,
            max_window: 64,
            retained_bytes: 600,
            retained_entries: 5,
            max_held_bytes: 3_000,
            ..Config::default()
        }
    }

    /// What must be the same in all replicas: what is chosen rests on the quorums, and what is read on
    /// the way of reading and its lease.
    pub(crate) fn agreed(&self) -> Vec<Setting> {
        let Config {
            election_timeout: _,
            heartbeat: _,
            retransmit: _,
            quorums,
            reads,
            lease,
            max_clock_drift_percent,
            preferred: _,
            max_message_bytes: _,
            max_window,
            max_unchosen_bytes: _,
            retained_bytes: _,
            retained_entries: _,
            max_held_bytes: _,
            max_pending_reads: _,
            #[cfg(feature = "mutants")]
                mutant: _,
        } = self;
        vec![
            Setting::fixed("quorums", quorums),
            Setting::agreed("reads", reads),
            Setting::agreed("lease_ms", lease.as_millis()),
            Setting::agreed("max_clock_drift_percent", max_clock_drift_percent),
            Setting::agreed("max_window", max_window),
        ]
    }

    /// Says what cannot work, if anything.
    pub(crate) fn validate(&self) -> Result<(), String> {
        self.validate_times()?;
        if self.max_message_bytes > MESSAGE_LIMIT / 2 {
            return Err(format!(
                "max_message_bytes ({}) must be at most {}, for a message to fit into a frame",
                self.max_message_bytes,
                MESSAGE_LIMIT / 2
            ));
        }
        // What a window lets in is written, and must be read again.
        if self.max_window as u64 > FARTHEST {
            return Err(format!(
                "max_window ({}) must be at most {FARTHEST}",
                self.max_window
            ));
        }
        above_zero(&[
            ("max_message_bytes", self.max_message_bytes),
            ("max_window", self.max_window),
            ("max_unchosen_bytes", self.max_unchosen_bytes),
            ("max_pending_reads", self.max_pending_reads),
        ])
    }

    fn validate_times(&self) -> Result<(), String> {
        // The preferred replica waits half as long as the others.
        let shortest = self.election_timeout / 2;
        if self.heartbeat.is_zero() || self.heartbeat >= shortest {
            return Err(format!(
                "heartbeat ({:?}) must be above zero and below half of election_timeout ({:?})",
                self.heartbeat, self.election_timeout
            ));
        }
        if self.retransmit.is_zero() {
            return Err(String::from("retransmit must be above zero"));
        }
        if self.lease.is_zero() || self.lease > self.election_timeout {
            return Err(format!(
                "lease ({:?}) must be above zero and at most election_timeout ({:?})",
                self.lease, self.election_timeout
            ));
        }
        if self.max_clock_drift_percent >= 50 {
            return Err(format!(
                "max_clock_drift_percent ({}) must be below 50, or no lease is left",
                self.max_clock_drift_percent
            ));
        }
        Ok(())
    }

    /// The quorums of `n` replicas; an error if they need not intersect.
    pub(crate) fn quorums(&self, n: usize) -> Result<Quorums, String> {
        let quorums = match self.quorums {
            QuorumRule::Majority => Quorums {
                phase1: Rule::Majority(Majority::of(n)),
                phase2: Rule::Majority(Majority::of(n)),
            },
            QuorumRule::Flexible { q1, q2 } => {
                let flexible = Flexible::new(n, q1, q2).map_err(|error| error.to_string())?;
                Quorums {
                    phase1: Rule::Threshold(flexible.phase1),
                    phase2: Rule::Threshold(flexible.phase2),
                }
            }
            QuorumRule::Grid { rows } => {
                let grid = Grid::new(n, rows).map_err(|error| error.to_string())?;
                Quorums {
                    phase1: Rule::Row(grid.phase1),
                    phase2: Rule::Column(grid.phase2),
                }
            }
        };
        if self.mutated(Mutant::QuorumsDoNotIntersect) {
            return Ok(Quorums {
                phase2: Rule::Majority(Majority::of(n.saturating_sub(2))),
                ..quorums
            });
        }
        Ok(quorums)
    }

    /// How much of its own time a leader may count on a lease, from when it sent the message that
    /// the lease was granted upon.
    ///
    /// The acceptor grants it later than that, until its clock has gone on by D. If that clock
    /// runs fast, D / (1 + drift) of true time have passed by then; if the leader's runs slowly,
    /// it shows D (1 - drift) / (1 + drift), which is more than D (1 - 2 drift). [Chandra07 §5.2]
    pub(crate) fn usable_lease(&self) -> Duration {
        if self.mutated(Mutant::LeaseIgnoresDrift) {
            return self.lease;
        }
        self.lease * 100u32.saturating_sub(2 * self.max_clock_drift_percent) / 100
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
