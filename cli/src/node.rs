//! `quorate node`: one replica of the key-value store, in a process of its own.

use std::path::PathBuf;

use anyhow::{Context as _, Result, anyhow};
use clap::Args;
use quorate::{Builder, Differences, Digest, NodeConfig, NodeError, StartError, StorageError};
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

    /// Go on under other settings than the data directory was last used under, which is said to be
    /// safe: all replicas have been ended, and all will be started so. The digest is the one that the
    /// refused start has named, the same on all replicas
    #[arg(long, value_name = "DIGEST", conflicts_with = "first_start")]
    accept_settings: Option<Digest>,
}

/// Runs the replica until it is asked to end, or must.
pub(crate) fn run(arguments: &Arguments) -> Result<Ending> {
    let config = NodeConfig::load(&arguments.config)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(serve(config, arguments))
}

async fn serve(config: NodeConfig, arguments: &Arguments) -> Result<Ending> {
    // Listened for from the start, so that a signal while it recovers ends it as well.
    let requested = interruption::requested();
    tokio::pin!(requested);
    let (me, protocol, n) = (config.me, config.protocol, config.replicas.len());
    let data = config.data.clone();
    let start = async {
        // Whoever commands is a client: nothing in this process does.
        let builder = Builder::from_config(config)?.replicas_propose(false);
        if arguments.first_start {
            builder.prepare()?;
        }
        if let Some(settings) = arguments.accept_settings {
            builder.accept_settings(settings)?;
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
        StartError::Node(NodeError::Storage(StorageError::Disagrees {
            differences,
            digest,
            ..
        })) => return anyhow!("{error}; {}", about_settings(differences, *digest)),
        _ => return error.into(),
    };
    anyhow!("{error}; {remedy}")
}

/// What to do about settings that are not those of the data directory.
fn about_settings(differences: &Differences, digest: Digest) -> String {
    match differences.may_be_accepted() {
        true => format!(
            "if they are to be changed, end all replicas, change the configuration of all alike, and start each once with --accept-settings {digest}"
        ),
        false => format!(
            "restore the configuration: what the log rests on can never be another: {}",
            differences.fixed()
        ),
    }
}
