//! Time-outs and limits, and the sizes of quorums.

use std::time::Duration;

use quorate_core::codec::MESSAGE_LIMIT;
use quorate_core::config::above_zero;
use quorate_core::epoch::Setting;
use quorate_core::quorum::Fast;
use serde::{Deserialize, Serialize};

use crate::mutant::Mutant;

/// Time-outs, limits and options of an EPaxos replica. All replicas of a cluster must have the
/// same failures, and should have the same in all else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// f: how many crashes are survived. Without it, as many as n = 2f + 1 allows.
    pub failures: Option<usize>,
    /// e ≤ f: how many crashes leave the fast path open. Without it, as many as
    /// n ≥ 2e + f - 1 allows.
    pub fast_failures: Option<usize>,
    /// How long a coordinator that could commit in two round trips waits for what would let it commit in
    /// one: answers, where the fast quorum is the larger one, and its own disk.
    #[serde(rename = "fast_wait_ms", with = "quorate_core::millis")]
    pub fast_wait: Duration,
    /// After how many commands in a row that met nothing a coordinator asks only as many others as make a
    /// fast quorum, and tells what is decided with its next messages; never with the largest number
    /// there is. It is in the way that a command takes the slow path, that it names another coordinator's
    /// that is not known to be decided, and that it must be asked about again. \[Moraru13\]
    pub thrifty_after: u32,
    /// How many requests a command must have for only a fast quorum to be asked. Where fewer come together
    /// replicas have time to spare, and the fastest answer is worth more than what one answer less saves.
    pub thrifty_requests: usize,
    /// How long a coordinator that asked only a fast quorum waits before it asks the others too.
    #[serde(rename = "thrifty_wait_ms", with = "quorate_core::millis")]
    pub thrifty_wait: Duration,
    /// How long to wait for an answer before a message that matters is sent again; doubled with
    /// each time, up to eight times this.
    #[serde(rename = "retransmit_ms", with = "quorate_core::millis")]
    pub retransmit: Duration,
    /// How long an instance may be known and not committed before others than its coordinator
    /// look after it. Each wait is drawn from this to twice this, and doubled after recoveries
    /// that came to nothing, up to eight times this. Must be well above a round trip.
    #[serde(rename = "recover_after_ms", with = "quorate_core::millis")]
    pub recover_after: Duration,
    /// How often a replica tells the others what it knows committed, while they differ in that.
    #[serde(rename = "progress_ms", with = "quorate_core::millis")]
    pub progress: Duration,
    /// For how long after it was heard of a replica that lags behind keeps the others from
    /// trimming what it lacks.
    #[serde(rename = "patience_ms", with = "quorate_core::millis")]
    pub patience: Duration,
    /// How many instances of its own a replica may have under way that are not executed; further
    /// requests wait until execution has caught up.
    pub max_window: usize,
    /// How many uncommitted instances of a lane a replica looks after at a time.
    pub max_watched: usize,
    /// The most bytes of committed instances sent in answer to one question.
    pub max_answer_bytes: usize,
    /// The rule that is switched off.
    #[cfg(feature = "mutants")]
    #[serde(skip)]
    pub mutant: Option<Mutant>,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            failures: None,
            fast_failures: None,
            fast_wait: Duration::from_millis(10),
            thrifty_after: 256,
            thrifty_requests: 2,
            thrifty_wait: Duration::from_millis(10),
            retransmit: Duration::from_millis(200),
            recover_after: Duration::from_millis(500),
            progress: Duration::from_millis(100),
            patience: Duration::from_secs(10),
            max_window: 4_096,
            max_watched: 1_024,
            max_answer_bytes: 1 << 20,
            #[cfg(feature = "mutants")]
            mutant: None,
        }
    }
}

/// The numbers that the rules speak of. \[Ryabinin25\]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sizes {
    /// How many replicas there are.
    pub(crate) n: usize,
    /// How many crashes are survived.
    pub(crate) f: usize,
    /// How many crashes leave the fast path open.
    pub(crate) e: usize,
    /// n - e and n - f.
    pub(crate) quorums: Fast,
    /// How many equal answers commit in one round trip: n - e.
    pub(crate) fast: usize,
}

impl Config {
    /// Limits so small that even a short run trims, fetches snapshots and runs into
    /// back-pressure: for simulation.
    pub fn cramped() -> Self {
        Config {
            recover_after: Duration::from_millis(150),
            thrifty_after: 2,
            thrifty_requests: 1,
            thrifty_wait: Duration::from_millis(30),
            retransmit: Duration::from_millis(60),
            progress: Duration::from_millis(40),
            patience: Duration::from_millis(150),
            max_window: 32,
            max_watched: 16,
            max_answer_bytes: 600,
            ..Config::default()
        }
    }

    /// What must be the same in all `n` replicas: what is decided rests on the quorums.
    pub(crate) fn agreed(&self, n: usize) -> Vec<Setting> {
        let Config {
            failures,
            fast_failures,
            fast_wait: _,
            thrifty_after: _,
            thrifty_requests: _,
            thrifty_wait: _,
            retransmit: _,
            recover_after: _,
            progress: _,
            patience: _,
            max_window: _,
            max_watched: _,
            max_answer_bytes: _,
            #[cfg(feature = "mutants")]
                mutant: _,
        } = self;
        // What is left out has a value all the same; what cannot work does not start.
        let sizes = self.sizes(n).ok();
        let failures = sizes.map_or(*failures, |sizes| Some(sizes.f));
        let fast_failures = sizes.map_or(*fast_failures, |sizes| Some(sizes.e));
        vec![
            Setting::fixed("failures", failures.unwrap_or_default()),
            Setting::fixed("fast_failures", fast_failures.unwrap_or_default()),
        ]
    }

    /// Says what cannot work, if anything.
    pub(crate) fn validate(&self) -> Result<(), String> {
        let times = [
            ("thrifty_wait_ms", self.thrifty_wait),
            ("retransmit_ms", self.retransmit),
            ("recover_after_ms", self.recover_after),
            ("progress_ms", self.progress),
        ];
        if let Some((name, _)) = times.iter().find(|(_, time)| time.is_zero()) {
            return Err(format!("{name} must be above zero"));
        }
        if self.max_answer_bytes > MESSAGE_LIMIT {
            return Err(format!(
                "max_answer_bytes ({}) must be at most {MESSAGE_LIMIT}",
                self.max_answer_bytes
            ));
        }
        above_zero(&[
            ("max_window", self.max_window),
            ("max_watched", self.max_watched),
            ("max_answer_bytes", self.max_answer_bytes),
        ])
    }

    /// The quorums of `n` replicas; an error if they are too few.
    pub(crate) fn sizes(&self, n: usize) -> Result<Sizes, String> {
        let f = self.failures.unwrap_or(n.saturating_sub(1) / 2);
        let largest = (n + 1).saturating_sub(f) / 2;
        let e = self.fast_failures.unwrap_or(f.min(largest));
        let quorums = Fast::new(n, f, e).map_err(|error| error.to_string())?;
        let fast = match self.mutated(Mutant::FastQuorumTooSmall) {
            true => quorums.fast.size() - 1,
            false => quorums.fast.size(),
        };
        Ok(Sizes {
            n,
            f,
            e,
            quorums,
            fast,
        })
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

#[cfg(test)]
mod tests {
    use super::*;

    fn sizes(n: usize) -> (usize, usize) {
        let sizes = Config::default().sizes(n).unwrap();
        (sizes.quorums.slow.size(), sizes.quorums.fast.size())
    }

    #[test]
    fn quorums_are_the_papers_where_nothing_else_is_asked_for() {
        let all: Vec<_> = (1..=9).map(sizes).collect();
        let expected = [
            (1, 1),
            (2, 2),
            (2, 2),
            (3, 3),
            (3, 3),
            (4, 4),
            (4, 5),
            (5, 5),
            (5, 6),
        ];
        assert_eq!(all, expected);
    }

    #[test]
    fn more_failures_than_the_replicas_bear_are_refused() {
        let refused = |n, failures, fast_failures| {
            let config = Config {
                failures: Some(failures),
                fast_failures: Some(fast_failures),
                ..Config::default()
            };
            config.sizes(n).is_err()
        };
        assert!(refused(7, 3, 3) && refused(4, 2, 1) && refused(5, 1, 2));
        assert!(!refused(7, 2, 2) && !refused(5, 2, 1));
    }
}
