//! `quorate node`: one replica of the key-value store, in a process of its own.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::Args;
use quorate::{Builder, NodeConfig};
use quorate_kv::Store;

use crate::failure::Ending;
use crate::interruption;

/// Arguments of `quorate node`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The replica's configuration, as `quorate init` writes it
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

/// Runs the replica until it is asked to end, or must.
pub(crate) fn run(arguments: &Arguments) -> Result<Ending> {
    let config = NodeConfig::load(&arguments.config)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(serve(config))
}

async fn serve(config: NodeConfig) -> Result<Ending> {
    // Listened for from the start, so that a signal while it recovers ends it as well.
    let requested = interruption::requested();
    tokio::pin!(requested);
    let (me, protocol, n) = (config.me, config.protocol, config.replicas.len());
    let data = config.data.clone();
    let start = async {
        let bound = Builder::from_config(config)?.bind()?;
        let address = bound.address();
        let node = bound.start(Store::default()).await?;
        Ok::<_, quorate::StartError>((address, node))
    };
    let (address, node) = tokio::select! {
        started = start => started.with_context(|| format!("replica {me} does not start"))?,
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
