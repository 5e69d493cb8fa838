//! `quorate node`: one replica of the key-value store, in a process of its own.

use std::path::PathBuf;

use anyhow::{Context as _, Result, anyhow};
use clap::Args;
use quorate::{Builder, NodeConfig, NodeError, StartError, StorageError};
use quorate_kv::Store;

use crate::failure::Ending;
use crate::interruption;

/// Arguments of `quorate node`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The replica's configuration, as `quorate init` writes it
    #[arg(long, value_name = "FILE")]
    config: PathBuf,

    /// The replica has never run: make its data directory, if `quorate init` has not made it here
    /// already. Never to be given again, for a replica that has lost its state must not go on
    /// without it
    #[arg(long)]
    first_start: bool,
}

/// Runs the replica until it is asked to end, or must.
pub(crate) fn run(arguments: &Arguments) -> Result<Ending> {
    let config = NodeConfig::load(&arguments.config)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(serve(config, arguments.first_start))
}

async fn serve(config: NodeConfig, first_start: bool) -> Result<Ending> {
    // Listened for from the start, so that a signal while it recovers ends it as well.
    let requested = interruption::requested();
    tokio::pin!(requested);
    let (me, protocol, n) = (config.me, config.protocol, config.replicas.len());
    let data = config.data.clone();
    let start = async {
        // Whoever commands is a client: nothing in this process does.
        let builder = Builder::from_config(config)?.replicas_propose(false);
        if first_start {
            builder.prepare()?;
        }
        let bound = builder.bind()?;
        let address = bound.address();
        let node = bound.start(Store::default()).await?;
        Ok::<_, StartError>((address, node))
    };
    let (address, node) = tokio::select! {
        started = start => {
            let started = started.map_err(with_remedy);
            started.with_context(|| format!("replica {me} does not start"))?
        }
        signal = &mut requested => return signal.map(|()| Ending::Done),
    };
    let data = data.display();
    tracing::info!(replica = me, of = n, %protocol, %address, %data, "ready");
    tokio::select! {
        ended = node.stopped() => {
            ended.with_context(|| format!("replica {me} has stopped by itself"))?;
        }
        signal = requested => {
            signal?;
            tracing::info!(replica = me, "asked to end");
            node.shutdown().await?;
            tracing::info!(replica = me, "ended");
        }
    }
    Ok(Ending::Done)
}

/// Says what to do about a data directory that cannot be used as it is.
fn with_remedy(error: StartError) -> anyhow::Error {
    let remedy = match &error {
        StartError::Node(NodeError::Storage(StorageError::Absent { .. })) => {
            "if this replica has never run, start it once with --first-start; if it has, its disk is missing, or `data` in its configuration is wrong: see docs/operations.md"
        }
        StartError::Node(NodeError::Storage(StorageError::Present { .. })) => {
            "start it without --first-start"
        }
        _ => return error.into(),
    };
    anyhow!("{error}; {remedy}")
}
