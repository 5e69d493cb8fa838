//! `quorate compare`: the same work for each protocol, checked and measured.
//!
//! | room | what is in it |
//! |---|---|
//! | `turn` | which protocol is measured when |
//! | `trial` | one such turn: a cluster is started, driven, checked and stopped |
//! | `workload` | what the clients do, as a function of the seed |
//! | `measure` | driving a cluster, and the cost of a window of that |
//! | `recording` | what clients did and saw, and the history made of it |
//! | `checks` | whether what clients were told is true |
//! | `row` | what came out of one turn, in figures |
//! | `phases` | the same for each phase, where conflicts change meanwhile |
//! | `summary` | what came out for one protocol over several rounds |
//! | `report`, `sink` | the tables, and JSON; the files to write to |
//! | `machine`, `progress` | what was measured on, and what is seen meanwhile |

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Args;
use quorate::{ProtocolKind, TuningConfig};
use tempfile::TempDir;

use crate::failure::Ending;
use crate::{arguments, interruption, output};

mod checks;
mod machine;
mod measure;
mod phases;
mod progress;
mod recording;
mod report;
mod row;
mod sink;
mod summary;
mod trial;
mod turn;
mod workload;

use machine::Machine;
use progress::Left;
use report::{Report, Stated};
use sink::Sink;
use turn::Turn;
use workload::Workload;

/// Arguments of `quorate compare`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Protocols to compare, separated by commas; by default all that are compiled in. One that is
    /// named twice is measured twice
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = arguments::protocol())]
    protocol: Vec<ProtocolKind>,

    /// Replicas of each cluster; by default enough to survive one failure
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=64))]
    replicas: Option<u8>,

    #[command(flatten)]
    workload: Workload,

    /// How often to measure each protocol, at most 99
    ///
    /// A round measures every protocol once, each on a new cluster, and begins with the protocol after
    /// the one that the round before began with: with as many rounds as protocols, each has every place
    /// in the order once, so that none gains by its place while the machine drifts. The very first
    /// measurement, which is always the first-named protocol's, pays page faults that later ones do not:
    /// with three rounds or more the median does not hang on it. With several rounds a summary tells the
    /// median, the least and the most of each protocol's figures, and of its rate as a share of the
    /// first-named protocol's in the same round.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=99))]
    rounds: u32,

    /// How long to measure each protocol in a round, at most 600
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = measured_at_all)]
    duration: Duration,

    /// How long to run before measuring
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = measured_time)]
    warm_up: Duration,

    /// TOML file with the tables `settings` and `protocols` of a node's configuration, to compare
    /// a protocol's variants; by default what a node has by default
    #[arg(long, value_name = "FILE")]
    tuning: Option<PathBuf>,

    /// Where to make the temporary directory that the replicas write to; it chooses the disk
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,

    /// Write the results as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,

    /// Write the operations, one JSON object a line, with values shortened to their first 16
    /// bytes; with several measurements, to a file each, which has the protocol in its name, and the
    /// round if there are several (h.jsonl becomes h.raft.round-2.jsonl, and h.raft-2.round-2.jsonl for
    /// the second raft in `raft,raft`)
    #[arg(long, value_name = "FILE")]
    history: Option<PathBuf>,

    /// Threads of the runtime that replicas and clients share
    #[arg(long, hide = true, default_value_t = 2)]
    workers: usize,
}

/// So long that memory for what was recorded stays bounded.
const LONGEST: Duration = Duration::from_secs(600);

/// What starting, reading back and checking take beside, about.
const BESIDE: Duration = Duration::from_secs(2);

fn measured_time(text: &str) -> Result<Duration, String> {
    let time = arguments::seconds(text)?;
    match time {
        time if time > LONGEST => Err(format!("at most {} s", LONGEST.as_secs())),
        time => Ok(time),
    }
}

fn measured_at_all(text: &str) -> Result<Duration, String> {
    match measured_time(text)? {
        Duration::ZERO => Err(String::from("nothing can be measured in no time")),
        time => Ok(time),
    }
}

impl Arguments {
    fn turns(&self) -> Vec<Turn> {
        match self.protocol.is_empty() {
            true => turn::turns(ProtocolKind::ALL, self.rounds),
            false => turn::turns(&self.protocol, self.rounds),
        }
    }

    fn temporary_directory(&self) -> Result<TempDir> {
        const PREFIX: &str = "quorate-compare-";
        match &self.data {
            Some(data) => TempDir::with_prefix_in(PREFIX, data)
                .with_context(|| format!("cannot make a directory in {}", data.display())),
            None => TempDir::with_prefix(PREFIX).context("cannot make a temporary directory"),
        }
    }
}

/// Where results are written to.
struct Sinks {
    json: Option<Sink>,
    histories: Vec<Option<Sink>>,
}

/// Compares.
pub(crate) fn run(arguments: &Arguments) -> Result<Ending> {
    arguments.workload.check()?;
    let tuning = arguments.tuning.as_ref().map(TuningConfig::load);
    let tuning = tuning.transpose()?;
    let turns = arguments.turns();
    let sinks = Sinks {
        json: arguments.json.clone().map(Sink::open).transpose()?,
        histories: Sink::histories(arguments.history.as_deref(), &turns)?,
    };
    let directory = arguments.temporary_directory()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(arguments.workers.max(1))
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let outcome = runtime.block_on(async {
        tokio::select! {
            outcome = compare(arguments, tuning, turns, sinks, directory.path()) => outcome,
            signal = interruption::requested() => signal.map(|()| Ending::Interrupted),
        }
    });
    // The replicas must have stopped before their directory goes.
    runtime.shutdown_timeout(Duration::from_secs(5));
    let removed = directory
        .close()
        .context("cannot remove the replicas' data");
    let ending = outcome?;
    removed.map(|()| ending)
}

async fn compare(
    arguments: &Arguments,
    tuning: Option<TuningConfig>,
    turns: Vec<Turn>,
    sinks: Sinks,
    directory: &Path,
) -> Result<Ending> {
    let machine = Machine::this(directory);
    if machine.writes_to_memory() {
        eprintln!(
            "warning: the replicas write to {}, where nothing is durable and a sync is free; --data chooses another place",
            machine.file_system
        );
    }
    let tuned = tuning.clone().unwrap_or_default();
    let mut rows = Vec::with_capacity(turns.len());
    let each = arguments.warm_up + arguments.duration + BESIDE;
    let mut left = Left::of(turns.len(), each);
    for (turn, history) in turns.into_iter().zip(sinks.histories) {
        let (name, data) = (turn.to_string(), directory.join(turn.stem()));
        let row = trial::run(arguments, tuned.clone(), turn, &data, history).await;
        let row = row.with_context(|| name.clone())?;
        left.one_is_done(&name, &row.told());
        rows.push(row);
        // What is not removed here is removed with the whole directory.
        drop(std::fs::remove_dir_all(&data));
    }
    let stated = Stated {
        workload: arguments.workload.clone(),
        warm_up_s: arguments.warm_up.as_secs_f64(),
        duration_s: arguments.duration.as_secs_f64(),
        rounds: arguments.rounds,
        tuning,
    };
    tell(&Report::new(machine, stated, rows), sinks.json)
}

/// Prints the report, and writes it as JSON if that is wanted.
fn tell(report: &Report, json: Option<Sink>) -> Result<Ending> {
    output::raw(report.text().as_bytes())?;
    if let Some(sink) = json {
        sink.fill(|to| {
            serde_json::to_writer_pretty(&mut *to, report)?;
            to.write_all(b"\n")
        })?;
    }
    let mut ending = Ending::Done;
    for failure in report.failures() {
        eprintln!("check failed: {failure}");
        ending = Ending::Failed;
    }
    Ok(ending)
}
