//! What came out of one turn, in figures.

use std::collections::BTreeMap;
use std::ops::Range;

use anyhow::{Context as _, Result};
use hdrhistogram::Histogram;
use quorate_core::ledger::Ledger;
use serde::Serialize;

use super::checks::Check;
use super::measure::{Cost, Measured};
use super::phases::{self, PhaseRow};
use super::recording::{Done, End, Recording, What};
use super::turn::Turn;
use super::workload::Workload;

/// One turn's results.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    #[serde(flatten)]
    pub(crate) turn: Turn,
    pub(crate) replicas: usize,
    pub(crate) clients: u32,
    /// Acknowledged writes a second, over the whole measured window.
    pub(crate) commits_per_s: f64,
    /// Of its whole seconds; `None` if it has none.
    pub(crate) commits_per_s_by_second: Option<Seconds>,
    /// Of acknowledged writes.
    pub(crate) latency_ms: Latency,
    /// Of reads, if there were any.
    pub(crate) reads: Option<Reads>,
    pub(crate) per_commit: PerCommit,
    /// Of EPaxos: see [`phases::fast_path`].
    pub(crate) fast_path: Option<f64>,
    /// One for each rate of conflicts that was asked for.
    pub(crate) phases: Vec<PhaseRow>,
    pub(crate) operations: Operations,
    pub(crate) checks: Passed,
    /// What the checks that failed have found.
    pub(crate) failures: Vec<String>,
}

/// How even the rate was.
#[derive(Debug, Serialize)]
pub(crate) struct Seconds {
    pub(crate) min: u64,
    pub(crate) median: u64,
    pub(crate) max: u64,
}

/// In milliseconds; zero if nothing was measured.
#[derive(Debug, Serialize)]
pub(crate) struct Latency {
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) p999: f64,
    pub(crate) mean: f64,
    pub(crate) max: f64,
}

/// Reads, beside writes.
#[derive(Debug, Serialize)]
pub(crate) struct Reads {
    pub(crate) per_s: f64,
    pub(crate) latency_ms: Latency,
}

/// Of all replicas together, for each command executed in the window.
#[derive(Debug, Serialize)]
pub(crate) struct PerCommit {
    pub(crate) messages: f64,
    pub(crate) bytes: f64,
    pub(crate) signatures_made: f64,
    pub(crate) signatures_checked: f64,
    pub(crate) syncs: f64,
    /// `None` if there was no leader, or it changed.
    pub(crate) leader_syncs: Option<f64>,
    pub(crate) entries: f64,
    pub(crate) messages_by_kind: BTreeMap<&'static str, f64>,
}

/// How operations ended, warm-up and reading back included.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Operations {
    pub(crate) ok: u64,
    pub(crate) failed: u64,
    pub(crate) unknown: u64,
}

/// Which checks passed.
#[derive(Debug, Serialize)]
pub(crate) struct Passed {
    pub(crate) acknowledged_read_back: bool,
    pub(crate) equal_digests: bool,
    pub(crate) linearizable: bool,
}

/// The outcomes of all checks.
#[derive(Debug)]
pub(crate) struct Checks {
    pub(crate) acknowledged_read_back: Check,
    pub(crate) equal_digests: Check,
    pub(crate) linearizable: Check,
}

impl Checks {
    fn passed(&self) -> Passed {
        Passed {
            acknowledged_read_back: self.acknowledged_read_back.is_ok(),
            equal_digests: self.equal_digests.is_ok(),
            linearizable: self.linearizable.is_ok(),
        }
    }

    fn failures(&self) -> Vec<String> {
        let named = [
            (
                "acknowledged writes read back",
                &self.acknowledged_read_back,
            ),
            ("equal digests", &self.equal_digests),
            ("linearizable", &self.linearizable),
        ];
        let failed = named.into_iter().filter_map(|(name, check)| {
            let reason = check.as_ref().err()?;
            Some(format!("{name}: {reason}"))
        });
        failed.collect()
    }
}

impl Row {
    /// The results of a turn.
    pub(crate) fn new(
        turn: Turn,
        replicas: usize,
        workload: &Workload,
        measured: &Measured,
        checks: &Checks,
    ) -> Result<Row> {
        let (recordings, window) = (&measured.recordings, &measured.window);
        let (puts, gets) = (puts(recordings, window), gets(recordings, window));
        let mut failures = checks.failures();
        if puts.is_empty() && gets.is_empty() {
            failures.push(String::from("nothing was answered while it was measured"));
        }
        Ok(Row {
            turn,
            replicas,
            clients: workload.clients,
            commits_per_s: rate(&puts, window),
            commits_per_s_by_second: by_second(&puts, window),
            latency_ms: latency(&puts)?,
            reads: reads(&gets, window)?,
            per_commit: per_commit(&measured.cost),
            fast_path: phases::fast_path(&measured.cost.total),
            phases: phases::rows(&workload.conflicts, measured)?,
            operations: operations(recordings),
            checks: checks.passed(),
            failures,
        })
    }
}

/// How long it is.
pub(super) fn seconds(window: &Range<u64>) -> f64 {
    (window.end - window.start) as f64 / 1e9
}

/// How many a second.
pub(super) fn rate(done: &[Done], window: &Range<u64>) -> f64 {
    done.len() as f64 / seconds(window)
}

/// Acknowledged writes within the window.
pub(super) fn puts(recordings: &[Recording], window: &Range<u64>) -> Vec<Done> {
    in_window(recordings, window, |what| matches!(what, What::Put(_)))
}

/// Reads answered within the window.
pub(super) fn gets(recordings: &[Recording], window: &Range<u64>) -> Vec<Done> {
    in_window(recordings, window, |what| matches!(what, What::Get(_)))
}

/// What is told of reads, if there were any.
pub(super) fn reads(gets: &[Done], window: &Range<u64>) -> Result<Option<Reads>> {
    Ok(match gets.is_empty() {
        true => None,
        false => Some(Reads {
            per_s: rate(gets, window),
            latency_ms: latency(gets)?,
        }),
    })
}

/// What was answered within the window.
fn in_window(
    recordings: &[Recording],
    window: &Range<u64>,
    wanted: impl Fn(What) -> bool,
) -> Vec<Done> {
    let all = recordings.iter().flatten();
    let answered = all.filter(|done| done.end == End::Ok && window.contains(&done.returned));
    answered.filter(|done| wanted(done.what)).copied().collect()
}

fn by_second(done: &[Done], window: &Range<u64>) -> Option<Seconds> {
    const SECOND: u64 = 1_000_000_000;
    let whole = (window.end - window.start) / SECOND;
    let mut counts = vec![0_u64; whole as usize];
    for done in done {
        let second = (done.returned - window.start) / SECOND;
        if let Some(count) = counts.get_mut(second as usize) {
            *count += 1;
        }
    }
    counts.sort_unstable();
    Some(Seconds {
        min: *counts.first()?,
        median: *counts.get(counts.len() / 2)?,
        max: *counts.last()?,
    })
}

/// How long they took.
pub(super) fn latency(done: &[Done]) -> Result<Latency> {
    let mut histogram = Histogram::<u64>::new(3).context("no histogram")?;
    for done in done {
        histogram.record((done.returned - done.invoke).max(1))?;
    }
    let millis = |nanos: u64| nanos as f64 / 1e6;
    Ok(Latency {
        p50: millis(histogram.value_at_quantile(0.5)),
        p99: millis(histogram.value_at_quantile(0.99)),
        p999: millis(histogram.value_at_quantile(0.999)),
        mean: histogram.mean() / 1e6,
        max: millis(histogram.max()),
    })
}

fn per_commit(cost: &Cost) -> PerCommit {
    let Cost {
        commands,
        total,
        leader_syncs,
    } = cost;
    let each = |count: u64| match commands {
        0 => 0.0,
        commands => count as f64 / *commands as f64,
    };
    let sent = total.total_sent();
    let Ledger {
        signatures_made,
        signatures_checked,
        syncs,
        entries,
        ..
    } = *total;
    let kinds = total.sent.iter();
    PerCommit {
        messages: each(sent.messages),
        bytes: each(sent.bytes),
        signatures_made: each(signatures_made),
        signatures_checked: each(signatures_checked),
        syncs: each(syncs),
        leader_syncs: leader_syncs.map(each),
        entries: each(entries),
        messages_by_kind: kinds
            .map(|(kind, traffic)| (*kind, each(traffic.messages)))
            .collect(),
    }
}

fn operations(recordings: &[Recording]) -> Operations {
    let mut operations = Operations::default();
    for done in recordings.iter().flatten() {
        match done.end {
            End::Ok => operations.ok += 1,
            End::Fail => operations.failed += 1,
            End::Unknown => operations.unknown += 1,
        }
    }
    operations
}

#[cfg(test)]
impl Latency {
    /// Latencies that follow from a rate.
    pub(super) fn made_up(commits_per_s: f64) -> Latency {
        Latency {
            p50: commits_per_s / 100.0,
            p99: commits_per_s / 10.0,
            p999: 0.0,
            mean: 0.0,
            max: 0.0,
        }
    }
}

#[cfg(test)]
impl Row {
    /// A row with this rate, from which its other figures follow.
    pub(super) fn made_up(turn: Turn, commits_per_s: f64) -> Row {
        Row {
            turn,
            replicas: 3,
            clients: 64,
            commits_per_s,
            commits_per_s_by_second: None,
            latency_ms: Latency::made_up(commits_per_s),
            reads: None,
            per_commit: PerCommit {
                messages: commits_per_s + 1.0,
                bytes: 0.0,
                signatures_made: 0.0,
                signatures_checked: 0.0,
                syncs: commits_per_s + 2.0,
                leader_syncs: None,
                entries: 0.0,
                messages_by_kind: BTreeMap::new(),
            },
            fast_path: None,
            phases: Vec::new(),
            operations: Operations::default(),
            checks: Passed {
                acknowledged_read_back: true,
                equal_digests: true,
                linearizable: true,
            },
            failures: Vec::new(),
        }
    }
}
