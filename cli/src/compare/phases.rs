//! What came out of each phase: a part of the measured time with a rate of conflicts of its own.
//!
//! An operation belongs to the phase in which it was answered. Those that were under way when a phase
//! began chose their keys at the rate before.

use anyhow::Result;
use comfy_table::{Cell, CellAlignment, Table, presets};
use quorate_core::ledger::Ledger;
use serde::Serialize;

use super::measure::{Measured, Phase};
use super::recording::Recording;
use super::row::{self, Latency, Reads};

/// One phase's results.
#[derive(Debug, Serialize)]
pub(crate) struct PhaseRow {
    /// How many of a hundred operations are on the key that all clients share.
    pub(crate) conflicts: u32,
    /// How long it was.
    pub(crate) seconds: f64,
    /// Acknowledged writes a second.
    pub(crate) commits_per_s: f64,
    /// Their rate as a share of the first phase's; `None` if that had none.
    pub(crate) share_of_first: Option<f64>,
    /// Of acknowledged writes.
    pub(crate) latency_ms: Latency,
    /// Of reads, if there were any.
    pub(crate) reads: Option<Reads>,
    /// Of EPaxos: see [`fast_path`].
    pub(crate) fast_path: Option<f64>,
}

/// The results of the phases, one for each of these rates of conflicts.
pub(crate) fn rows(conflicts: &[u32], measured: &Measured) -> Result<Vec<PhaseRow>> {
    let mut rows: Vec<PhaseRow> = Vec::with_capacity(conflicts.len());
    for (conflicts, phase) in conflicts.iter().zip(&measured.phases) {
        let mut row = row(*conflicts, phase, &measured.recordings)?;
        let first = rows.first().map_or(row.commits_per_s, |f| f.commits_per_s);
        row.share_of_first = (first > 0.0).then_some(row.commits_per_s / first);
        rows.push(row);
    }
    Ok(rows)
}

fn row(conflicts: u32, phase: &Phase, recordings: &[Recording]) -> Result<PhaseRow> {
    let window = &phase.window;
    let puts = row::puts(recordings, window);
    let gets = row::gets(recordings, window);
    let mut total = Ledger::default();
    phase.spent.iter().for_each(|ledger| total.add(ledger));
    Ok(PhaseRow {
        conflicts,
        seconds: row::seconds(window),
        commits_per_s: row::rate(&puts, window),
        share_of_first: None,
        latency_ms: row::latency(&puts)?,
        reads: row::reads(&gets, window)?,
        fast_path: fast_path(&total),
    })
}

/// Which share of EPaxos's instances, each a batch of commands, needed no Accept, to judge from the
/// messages that all replicas sent: both PreAccept and Accept go to all others. What is sent again,
/// and a recovery, count too. `None` for protocols that have no PreAccept.
pub(crate) fn fast_path(total: &Ledger) -> Option<f64> {
    let sent = |kind| total.sent.get(kind).map(|traffic| traffic.messages);
    let proposed = sent("pre_accept").filter(|proposed| *proposed > 0)?;
    let slow = sent("accept").unwrap_or_default().min(proposed);
    Some(1.0 - slow as f64 / proposed as f64)
}

/// The phases of one turn.
pub(crate) fn table(rows: &[PhaseRow]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_FULL_CONDENSED);
    table.set_header([
        "phase",
        "conflicts",
        "commits/s",
        "of the first",
        "p50 ms",
        "p99 ms",
        "fast path",
    ]);
    for (number, row) in rows.iter().enumerate() {
        table.add_row(row.cells(number + 1));
    }
    for column in table.column_iter_mut() {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

impl PhaseRow {
    fn cells(&self, number: usize) -> [Cell; 7] {
        let percent = |share: Option<f64>, digits| match share {
            Some(share) => format!("{:.digits$} %", share * 100.0),
            None => String::new(),
        };
        let texts = [
            number.to_string(),
            format!("{} %", self.conflicts),
            format!("{:.0}", self.commits_per_s),
            percent(self.share_of_first, 0),
            format!("{:.2}", self.latency_ms.p50),
            format!("{:.2}", self.latency_ms.p99),
            percent(self.fast_path, 1),
        ];
        texts.map(Cell::new)
    }
}

#[cfg(test)]
impl PhaseRow {
    /// A phase with this rate.
    pub(super) fn made_up(commits_per_s: f64) -> PhaseRow {
        PhaseRow {
            conflicts: 100,
            seconds: 1.0,
            commits_per_s,
            share_of_first: None,
            latency_ms: Latency::made_up(commits_per_s),
            reads: None,
            fast_path: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::ops::Range;
    use std::time::Instant;

    use super::super::measure::Cost;
    use super::super::recording::{Done, End, What};
    use super::super::workload::ValueId;
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    /// What one replica spent that sent so many messages.
    fn spent(pre_accepts: usize, accepts: usize) -> Vec<Ledger> {
        let mut ledger = Ledger::default();
        ledger.count_sent("pre_accept", 100, pre_accepts);
        ledger.count_sent("accept", 100, accepts);
        vec![ledger]
    }

    /// A client whose writes were answered at these times, after half a second each.
    fn measured(answered: &[u64], phases: [(Range<u64>, Vec<Ledger>); 2]) -> Measured {
        let done = |returned: &u64| Done {
            invoke: returned - SECOND / 2,
            returned: *returned,
            key: 0,
            what: What::Put(ValueId::new(0, 0)),
            end: End::Ok,
        };
        let phase = |(window, spent)| Phase { window, spent };
        Measured {
            recordings: vec![answered.iter().map(done).collect()],
            window: phases[0].0.start..phases[1].0.end,
            phases: phases.map(phase).into(),
            cost: Cost {
                commands: 0,
                total: Ledger::default(),
                leader_syncs: None,
            },
            origin: Instant::now(),
        }
    }

    #[test]
    fn an_operation_belongs_to_the_phase_in_which_it_was_answered() {
        let (first, second) = (2 * SECOND..4 * SECOND, 4 * SECOND..6 * SECOND);
        let answered = [1, 2, 3, 3, 3, 4, 6].map(|at| at * SECOND);
        let phases = [(first, spent(8, 0)), (second, spent(8, 6))];
        let rows = rows(&[0, 100], &measured(&answered, phases)).unwrap();
        let told = |row: &PhaseRow| (row.conflicts, row.seconds, row.commits_per_s);
        assert_eq!(told(&rows[0]), (0, 2.0, 2.0));
        assert_eq!(told(&rows[1]), (100, 2.0, 0.5));
        let shares: Vec<_> = rows.iter().map(|row| row.share_of_first).collect();
        assert_eq!(shares, [Some(1.0), Some(0.25)]);
        let fast: Vec<_> = rows.iter().map(|row| row.fast_path).collect();
        assert_eq!(fast, [Some(1.0), Some(0.25)]);
        assert!((rows[0].latency_ms.p50 - 500.0).abs() < 1.0);

        let text = table(&rows).to_string();
        let line = text.lines().find(|line| line.contains(" 25 %")).unwrap();
        let line: Vec<&str> = line.split(['│', '┆']).map(str::trim).collect();
        assert_eq!(line[1..5], ["2", "100 %", "0", "25 %"], "{text}");
    }

    #[test]
    fn nothing_is_a_share_of_nothing() {
        let phases = [(0..SECOND, Vec::new()), (SECOND..2 * SECOND, spent(0, 4))];
        let rows = rows(&[0, 0], &measured(&[SECOND], phases)).unwrap();
        assert!(rows.iter().all(|row| row.share_of_first.is_none()));
        assert!(rows.iter().all(|row| row.fast_path.is_none()));
    }
}
