//! The results, for people and for machines.

use comfy_table::{CellAlignment, Table, presets};
use quorate::TuningConfig;
use serde::Serialize;

use super::machine::Machine;
use super::phases;
use super::row::{Latency, Operations, PerCommit, Reads, Row};
use super::summary::{self, Summary};
use super::workload::Workload;

/// Everything, as `--json` writes it.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) machine: Machine,
    pub(crate) workload: Stated,
    /// In the order measured.
    pub(crate) protocols: Vec<Row>,
    /// Over all rounds, in the order named; empty if there was one round.
    pub(crate) summary: Vec<Summary>,
}

/// The work, as stated.
#[derive(Debug, Serialize)]
pub(crate) struct Stated {
    #[serde(flatten)]
    pub(crate) workload: Workload,
    pub(crate) warm_up_s: f64,
    pub(crate) duration_s: f64,
    pub(crate) rounds: u32,
    /// In full, if any was given.
    pub(crate) tuning: Option<TuningConfig>,
}

/// What is told of the rates of conflicts, if any were asked for.
fn conflicts(rates: &[u32]) -> String {
    let texts: Vec<String> = rates.iter().map(u32::to_string).collect();
    match texts.is_empty() {
        true => String::new(),
        false => format!(", {} % conflicts", texts.join(", then ")),
    }
}

impl Report {
    /// Of rows in the order measured.
    pub(crate) fn new(machine: Machine, workload: Stated, protocols: Vec<Row>) -> Self {
        let summary = summary::summaries(&protocols);
        Report {
            machine,
            workload,
            protocols,
            summary,
        }
    }

    /// What failed, by turn.
    pub(crate) fn failures(&self) -> impl Iterator<Item = String> + '_ {
        self.protocols.iter().flat_map(Row::failures_told)
    }

    /// The whole report, to print.
    pub(crate) fn text(&self) -> String {
        let Stated {
            workload,
            warm_up_s,
            duration_s,
            rounds,
            tuning,
        } = &self.workload;
        let repeated = match rounds {
            1 => String::new(),
            rounds => format!(", {rounds} rounds"),
        };
        let tuned = match tuning {
            Some(_) => ", tuned",
            None => "",
        };
        let reads = workload.read_share * 100.0;
        let mut text = format!(
            "machine:  {}\nworkload: clients {}, connections {}, {}, {} B values, {} keys{}, {reads:.0} % reads, \
             {duration_s} s after {warm_up_s} s of warm-up, seed {}{repeated}{tuned}\n{}\n",
            self.machine,
            workload.clients,
            workload.connections(),
            workload.placement.told(),
            workload.value_size,
            workload.keys,
            conflicts(&workload.conflicts),
            workload.seed,
            self.table()
        );
        for row in &self.protocols {
            text.push_str(&row.lines());
        }
        if self.workload.workload.conflicts.len() > 1 {
            let of = self.protocols.iter();
            let of = of.map(|row| (row.turn.to_string(), &row.phases[..]));
            text.push_str(&format!("{}\n", phases::table(of)));
        }
        if !self.summary.is_empty() {
            text.push_str(&format!(
                "{rounds} rounds: median (least–most)\n{}\n",
                summary::table(&self.summary)
            ));
        }
        text
    }

    fn table(&self) -> Table {
        let mut table = Table::new();
        table.load_preset(presets::UTF8_FULL_CONDENSED);
        let mut header = vec![
            "protocol",
            "replicas",
            "clients",
            "commits/s",
            "p50 ms",
            "p99 ms",
            "p99.9 ms",
            "messages",
            "bytes",
            "signatures",
            "syncs",
            "checks",
        ];
        if self.workload.rounds > 1 {
            header.insert(1, "round");
        }
        let figures = header.len() - 2;
        table.set_header(header);
        for row in &self.protocols {
            table.add_row(row.cells());
        }
        for column in table.column_iter_mut().skip(1).take(figures) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        table
    }
}

impl Row {
    fn failures_told(&self) -> impl Iterator<Item = String> + '_ {
        let turn = &self.turn;
        let said = self.failures.iter();
        said.map(move |failure| format!("{turn}: {failure}"))
    }

    fn cells(&self) -> Vec<String> {
        let PerCommit {
            messages,
            bytes,
            signatures_made,
            signatures_checked,
            syncs,
            ..
        } = self.per_commit;
        let mut cells = vec![
            self.turn.label(),
            self.replicas.to_string(),
            self.clients.to_string(),
            format!("{:.0}", self.commits_per_s),
            format!("{:.2}", self.latency_ms.p50),
            format!("{:.2}", self.latency_ms.p99),
            format!("{:.2}", self.latency_ms.p999),
            format!("{messages:.3}"),
            format!("{bytes:.0}"),
            format!("{signatures_made:.2}/{signatures_checked:.2}"),
            format!("{syncs:.3}"),
            String::from(match self.failures.is_empty() {
                true => "passed",
                false => "FAILED",
            }),
        ];
        if self.turn.rounds > 1 {
            cells.insert(1, self.turn.round.to_string());
        }
        cells
    }

    /// What the table has no room for.
    fn lines(&self) -> String {
        let mut lines = Vec::new();
        if let Some(seconds) = &self.commits_per_s_by_second {
            lines.push(format!(
                "commits in one second: {} to {}, median {}",
                seconds.min, seconds.max, seconds.median
            ));
        }
        if let Some(syncs) = self.per_commit.leader_syncs {
            lines.push(format!("syncs of the leader per commit: {syncs:.4}"));
        }
        if let Some(share) = self.fast_path {
            let percent = share * 100.0;
            lines.push(format!("instances on the fast path: {percent:.1} %"));
        }
        if let Some(Reads { per_s, latency_ms }) = &self.reads {
            let Latency { p50, p99, p999, .. } = latency_ms;
            lines.push(format!(
                "reads/s: {per_s:.0}, p50 {p50:.2} ms, p99 {p99:.2} ms, p99.9 {p999:.2} ms"
            ));
        }
        let Operations {
            failed, unknown, ..
        } = self.operations;
        if failed + unknown > 0 {
            lines.push(format!(
                "operations that did not happen: {failed}; of unknown outcome: {unknown}"
            ));
        }
        let prefixed = lines.iter().map(|line| format!("{}: {line}\n", self.turn));
        prefixed.collect()
    }
}

#[cfg(test)]
mod tests {
    use quorate::ProtocolKind::{EPaxos, Raft};

    use super::super::turn::turns;
    use super::*;

    /// What is told of failures in the last turn of this many rounds.
    fn told(rounds: u32) -> Vec<String> {
        let last = turns(&[Raft, EPaxos], rounds).pop().unwrap();
        let mut row = Row::made_up(last, 100.0);
        row.failures = ["linearizable: no", "equal digests: no"]
            .map(String::from)
            .into();
        assert!(row.cells().contains(&String::from("FAILED")));
        row.failures_told().collect()
    }

    #[test]
    fn what_failed_is_told_with_the_round_if_there_are_several() {
        let expected = ["epaxos: linearizable: no", "epaxos: equal digests: no"];
        assert_eq!(told(1), expected);
        let expected = [
            "raft, round 2 of 2: linearizable: no",
            "raft, round 2 of 2: equal digests: no",
        ];
        assert_eq!(told(2), expected);
    }
}
