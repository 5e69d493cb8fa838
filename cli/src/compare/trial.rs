//! One turn: a cluster is started, driven, checked and stopped.

use std::path::Path;

use anyhow::{Context as _, Result, anyhow};
use quorate::{LocalCluster, ProtocolKind, TuningConfig};
use quorate_core::protocol::FaultModel;
use quorate_kv::Store;

use super::Arguments;
use super::checks::{self, Check};
use super::measure::{self, Measured, Run, Times};
use super::progress::Progress;
use super::recording::{self, Recording};
use super::row::{Checks, Row};
use super::sink::Sink;
use super::turn::Turn;

/// Runs, checks and measures a protocol, whose replicas write to `data`.
pub(crate) async fn run(
    arguments: &Arguments,
    tuning: TuningConfig,
    turn: Turn,
    data: &Path,
    history: Option<Sink>,
) -> Result<Row> {
    let progress = Progress::new(turn.to_string());
    progress.phase("starting");
    let replicas = replicas(arguments.replicas, turn.protocol);
    let cluster = start(turn.protocol, replicas, tuning, data).await?;
    let mut measured = measure(&cluster, arguments, &progress).await?;

    progress.phase("reading back what was acknowledged");
    let run = Run::new(&arguments.workload, measured.origin);
    let acknowledged_read_back = checks::read_back(&cluster, run, &mut measured.recordings).await?;
    progress.phase("comparing the replicas' states");
    let equal_digests = checks::equal_digests(&cluster).await;
    cluster.shutdown().await?;

    if let Some(sink) = history {
        progress.phase("writing the history");
        sink.fill(|to| recording::write(&measured.recordings, to))?;
    }
    progress.phase("checking whether the history is linearizable");
    let checks = Checks {
        acknowledged_read_back,
        equal_digests,
        linearizable: linearizable(&mut measured.recordings).await?,
    };
    Row::new(turn, replicas, &arguments.workload, &measured, &checks)
}

/// As many as were asked for, or enough to survive one failure.
fn replicas(asked: Option<u8>, protocol: ProtocolKind) -> usize {
    match (asked, protocol.faults()) {
        (Some(replicas), _) => usize::from(replicas),
        (None, FaultModel::Crash) => 3,
        (None, FaultModel::Byzantine) => 4,
    }
}

async fn start(
    protocol: ProtocolKind,
    replicas: usize,
    tuning: TuningConfig,
    data: &Path,
) -> Result<LocalCluster> {
    let TuningConfig {
        settings,
        protocols,
    } = tuning;
    let machine = Store::default;
    let started =
        LocalCluster::start_with(protocol, replicas, data, settings, protocols, machine).await;
    started.context("the cluster does not start")
}

async fn measure(
    cluster: &LocalCluster,
    arguments: &Arguments,
    progress: &Progress,
) -> Result<Measured> {
    let leader = measure::leader(cluster).await?;
    let times = Times {
        warm_up: arguments.warm_up,
        duration: arguments.duration,
    };
    measure::measure(cluster, leader, &arguments.workload, times, progress).await
}

/// Checks on a thread that may be kept busy, and puts the recordings back.
async fn linearizable(recordings: &mut Vec<Recording>) -> Result<Check> {
    let taken = std::mem::take(recordings);
    let check = tokio::task::spawn_blocking(move || (checks::linearizable(&taken), taken));
    let (check, taken) = check
        .await
        .map_err(|_| anyhow!("the checker has panicked"))?;
    *recordings = taken;
    Ok(check)
}
