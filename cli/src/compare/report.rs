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

    /// The whole report, to print: no line is wider than a terminal of 80 columns.
    pub(crate) fn text(&self) -> String {
        let mut text = self.head();
        text.push_str(&format!("{}\n", self.rates()));
        text.push_str("per commit, of all replicas together:\n");
        text.push_str(&format!("{}\n", self.costs()));
        for row in &self.protocols {
            text.push_str(&row.lines());
        }
        if self.workload.workload.conflicts.len() > 1 {
            for Row { turn, phases, .. } in &self.protocols {
                text.push_str(&format!("{turn}, phases:\n{}\n", phases::table(phases)));
            }
        }
        if !self.summary.is_empty() {
            text.push_str(&format!(
                "{} rounds: median (least–most)\n{}\n{}\n",
                self.workload.rounds,
                summary::rates(&self.summary),
                summary::latencies(&self.summary)
            ));
        }
        text
    }

    /// What was measured, and where.
    fn head(&self) -> String {
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
        format!(
            "machine:  {}\nclients:  {} on {} connections, {}\n\
             work:     {} B values, {} keys{}, {reads:.0} % reads, seed {}\n\
             measured: {duration_s} s after {warm_up_s} s of warm-up{repeated}{tuned}\n",
            self.machine,
            workload.clients,
            workload.connections(),
            workload.placement.told(),
            workload.value_size,
            workload.keys,
            conflicts(&workload.conflicts),
            workload.seed,
        )
    }

    fn rates(&self) -> Table {
        let header = ["n", "commits/s", "p50 ms", "p99 ms", "p99.9 ms", "checks"];
        self.table(&header, Row::rates)
    }

    fn costs(&self) -> Table {
        let header = ["messages", "bytes", "signed", "verified", "syncs"];
        self.table(&header, Row::costs)
    }

    /// A line for each turn, with these figures of it.
    fn table<const N: usize>(&self, header: &[&str; N], of: fn(&Row) -> [String; N]) -> Table {
        let mut table = Table::new();
        table.load_preset(presets::UTF8_FULL_CONDENSED);
        let rounds = self.workload.rounds > 1;
        let round = rounds.then_some("round");
        let first = ["protocol"].into_iter().chain(round);
        table.set_header(first.chain(header.iter().copied()));
        for row in &self.protocols {
            let round = rounds.then(|| row.turn.round.to_string());
            let first = [row.turn.label()].into_iter().chain(round);
            table.add_row(first.chain(of(row)));
        }
        for column in table.column_iter_mut().skip(1) {
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

    /// How fast it was.
    fn rates(&self) -> [String; 6] {
        let Latency { p50, p99, p999, .. } = self.latency_ms;
        [
            self.replicas.to_string(),
            format!("{:.0}", self.commits_per_s),
            format!("{p50:.2}"),
            format!("{p99:.2}"),
            format!("{p999:.2}"),
            String::from(match self.failures.is_empty() {
                true => "passed",
                false => "FAILED",
            }),
        ]
    }

    /// What a commit cost.
    fn costs(&self) -> [String; 5] {
        let PerCommit {
            messages,
            bytes,
            signatures_made,
            signatures_checked,
            syncs,
            ..
        } = self.per_commit;
        [
            format!("{messages:.3}"),
            format!("{bytes:.0}"),
            format!("{signatures_made:.2}"),
            format!("{signatures_checked:.2}"),
            format!("{syncs:.3}"),
        ]
    }

    /// What is told of a turn when it is over.
    pub(crate) fn told(&self) -> String {
        let [_, rate, p50, p99, _, checks] = self.rates();
        format!("{rate} commits/s, p50 {p50} ms, p99 {p99} ms, checks {checks}")
    }

    /// What the tables have no room for.
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
    use quorate::ProtocolKind::{EPaxos, MultiPaxos, Raft};

    use std::path::Path;

    use super::super::phases::PhaseRow;
    use super::super::turn::turns;
    use super::*;
    use clap::Parser as _;

    /// What is told of failures in the last turn of this many rounds.
    fn told(rounds: u32) -> Vec<String> {
        let last = turns(&[Raft, EPaxos], rounds).pop().unwrap();
        let mut row = Row::made_up(last, 100.0);
        row.failures = ["linearizable: no", "equal digests: no"]
            .map(String::from)
            .into();
        assert!(row.rates().contains(&String::from("FAILED")));
        row.failures_told().collect()
    }

    /// `compare` with these arguments, after something that names the program.
    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        arguments: super::super::Arguments,
    }

    #[test]
    fn a_report_fits_a_terminal_of_80_columns() {
        let line = ["compare", "--conflicts", "0,100", "--clients", "16384"];
        let workload = Line::parse_from(line).arguments.workload;
        let phase = || PhaseRow {
            share_of_first: Some(1.0),
            fast_path: Some(1.0),
            latency_ms: Latency::made_up(9_999.0),
            ..PhaseRow::made_up(123_456.0)
        };
        let row = |turn| Row {
            phases: vec![phase(), phase()],
            latency_ms: Latency::made_up(9_999.0),
            ..Row::made_up(turn, 123_456.0)
        };
        let turns = turns(&[MultiPaxos, EPaxos, MultiPaxos], 12).into_iter();
        let stated = Stated {
            workload,
            warm_up_s: 1.5,
            duration_s: 600.0,
            rounds: 12,
            tuning: Some(TuningConfig::default()),
        };
        let machine = Machine::this(Path::new("/"));
        let text = Report::new(machine, stated, turns.map(row).collect()).text();
        for line in text.lines().skip(2) {
            assert!(line.chars().count() <= 80, "{line}\n{text}");
        }
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
