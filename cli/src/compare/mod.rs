//! `quorate compare`: the same work for each protocol, checked and measured.
//!
//! | room | what is in it |
//! |---|---|
//! | `workload` | what the clients do, as a function of the seed |
//! | `measure` | driving a cluster, and the cost of a window of that |
//! | `recording` | what clients did and saw, and the history made of it |
//! | `checks` | whether what clients were told is true |
//! | `row` | what came out for one protocol, in figures |
//! | `report` | the tables, and JSON |
//! | `phases` | the same for each phase, where conflicts change meanwhile |
//! | `machine`, `progress` | what was measured on, and what is seen meanwhile |

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use clap::Args;
use quorate::{LocalCluster, ProtocolKind, TuningConfig};
use quorate_core::protocol::FaultModel;
use quorate_kv::Store;
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
mod workload;

use machine::Machine;
use measure::{Run, Times};
use progress::Progress;
use recording::Recording;
use report::{Report, Stated};
use row::{Checks, Row};
use workload::Workload;

/// Arguments of `quorate compare`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Protocols to compare, separated by commas; by default all that are compiled in
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = arguments::protocol())]
    protocol: Vec<ProtocolKind>,

    /// Replicas of each cluster; by default enough to survive one failure
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=64))]
    replicas: Option<u8>,

    #[command(flatten)]
    workload: Workload,

    /// How long to measure each protocol, at most 600
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = measured_time)]
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
    /// bytes; with several protocols, to a file each, which has the protocol in its name
    #[arg(long, value_name = "FILE")]
    history: Option<PathBuf>,

    /// Threads of the runtime that replicas and clients share
    #[arg(long, hide = true, default_value_t = 2)]
    workers: usize,
}

/// So long that memory for what was recorded stays bounded.
const LONGEST: Duration = Duration::from_secs(600);

fn measured_time(text: &str) -> Result<Duration, String> {
    let time = arguments::seconds(text)?;
    match time {
        time if time > LONGEST => Err(format!("at most {} s", LONGEST.as_secs())),
        time => Ok(time),
    }
}

/// Where results are written to, opened before any work is done.
struct Sinks {
    json: Option<(PathBuf, File)>,
    histories: Vec<Option<(PathBuf, File)>>,
}

impl Arguments {
    fn protocols(&self) -> Vec<ProtocolKind> {
        match self.protocol.is_empty() {
            true => ProtocolKind::ALL.to_vec(),
            false => self.protocol.clone(),
        }
    }

    fn sinks(&self, protocols: &[ProtocolKind]) -> Result<Sinks> {
        let create = |path: PathBuf| {
            let file = File::create(&path);
            let file = file.with_context(|| format!("cannot write {}", path.display()))?;
            Ok((path, file))
        };
        let json = self.json.clone().map(create).transpose()?;
        let history = |kind: &ProtocolKind| {
            let path = self.history.as_ref().map(|path| match protocols.len() {
                1 => path.clone(),
                _ => history_of(path, kind.name()),
            });
            path.map(create).transpose()
        };
        let histories = protocols.iter().map(history).collect::<Result<_>>()?;
        Ok(Sinks { json, histories })
    }

    fn replicas(&self, protocol: ProtocolKind) -> usize {
        match (self.replicas, protocol.faults()) {
            (Some(replicas), _) => usize::from(replicas),
            (None, FaultModel::Crash) => 3,
            (None, FaultModel::Byzantine) => 4,
        }
    }
}

/// `path` with the protocol's name before the extension.
fn history_of(path: &Path, protocol: &str) -> PathBuf {
    match path.extension() {
        Some(extension) => {
            let extension = extension.to_string_lossy();
            path.with_extension(format!("{protocol}.{extension}"))
        }
        None => path.with_extension(protocol),
    }
}

/// Compares.
pub(crate) fn run(arguments: &Arguments) -> Result<Ending> {
    arguments.workload.check()?;
    let tuning = arguments.tuning.as_ref().map(TuningConfig::load);
    let tuning = tuning.transpose()?;
    let protocols = arguments.protocols();
    let sinks = arguments.sinks(&protocols)?;
    let directory = match &arguments.data {
        Some(data) => TempDir::with_prefix_in("quorate-compare-", data)
            .with_context(|| format!("cannot make a directory in {}", data.display()))?,
        None => {
            TempDir::with_prefix("quorate-compare-").context("cannot make a temporary directory")?
        }
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(arguments.workers.max(1))
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let outcome = runtime.block_on(async {
        tokio::select! {
            outcome = compare(arguments, tuning, &protocols, sinks, directory.path()) => outcome,
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
    protocols: &[ProtocolKind],
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
    let mut rows = Vec::new();
    for (protocol, history) in protocols.iter().zip(sinks.histories) {
        let data = directory.join(protocol.name());
        let tuned = tuning.clone().unwrap_or_default();
        let row = one(arguments, tuned, *protocol, &data, history).await;
        rows.push(row.with_context(|| format!("{protocol}"))?);
        // What is not removed here is removed with the whole directory.
        drop(std::fs::remove_dir_all(&data));
    }
    let report = Report {
        machine,
        workload: Stated {
            workload: arguments.workload.clone(),
            warm_up_s: arguments.warm_up.as_secs_f64(),
            duration_s: arguments.duration.as_secs_f64(),
            tuning,
        },
        protocols: rows,
    };
    output::raw(report.text().as_bytes())?;
    if let Some((path, mut file)) = sinks.json {
        let written = serde_json::to_vec_pretty(&report).map(|mut text| {
            text.push(b'\n');
            file.write_all(&text)
        });
        written?.with_context(|| format!("cannot write {}", path.display()))?;
    }
    let mut ending = Ending::Done;
    for failure in report.failures() {
        eprintln!("check failed: {failure}");
        ending = Ending::Failed;
    }
    Ok(ending)
}

/// Runs, checks and measures one protocol.
async fn one(
    arguments: &Arguments,
    tuning: TuningConfig,
    protocol: ProtocolKind,
    data: &Path,
    history: Option<(PathBuf, File)>,
) -> Result<Row> {
    let (workload, replicas) = (&arguments.workload, arguments.replicas(protocol));
    let progress = Progress::new(protocol.name());
    progress.phase("starting");
    let TuningConfig {
        settings,
        protocols,
    } = tuning;
    let machine = Store::default;
    let started =
        LocalCluster::start_with(protocol, replicas, data, settings, protocols, machine).await;
    let cluster = started.context("the cluster does not start")?;
    let leader = measure::leader(&cluster).await?;
    let times = Times {
        warm_up: arguments.warm_up,
        duration: arguments.duration,
    };
    let mut measured = measure::measure(&cluster, leader, workload, times, &progress).await?;

    progress.phase("reading back what was acknowledged");
    let run = Run::new(workload, measured.origin);
    let read_back = checks::read_back(&cluster, run, &mut measured.recordings).await?;
    progress.phase("comparing the replicas' states");
    let equal_digests = checks::equal_digests(&cluster).await;
    cluster.shutdown().await?;

    let recordings = std::mem::take(&mut measured.recordings);
    let recordings = Arc::new(recordings);
    if let Some((path, file)) = history {
        progress.phase("writing the history");
        let written = recording::write(&recordings, BufWriter::new(file));
        written.with_context(|| format!("cannot write {}", path.display()))?;
    }
    progress.phase("checking whether the history is linearizable");
    let linearizable = linearizable(recordings.clone()).await?;
    let checks = Checks {
        acknowledged_read_back: read_back,
        equal_digests,
        linearizable,
    };
    measured.recordings = Arc::unwrap_or_clone(recordings);
    Row::new(protocol.name(), replicas, workload, &measured, &checks)
}

async fn linearizable(recordings: Arc<Vec<Recording>>) -> Result<checks::Check> {
    let check = tokio::task::spawn_blocking(move || checks::linearizable(&recordings));
    check.await.map_err(|_| anyhow!("the checker has panicked"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_protocol_has_a_history_of_its_own() {
        let named = |path: &str| history_of(Path::new(path), "raft");
        assert_eq!(named("a/h.jsonl"), Path::new("a/h.raft.jsonl"));
        assert_eq!(named("h"), Path::new("h.raft"));
    }
}
