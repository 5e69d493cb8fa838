//! `quorate check-history`: the linearizability checker on its own.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use quorate_simulator::history::History;
use quorate_simulator::linearizability::{self, Bound};

use crate::failure::Ending;
use crate::output;

/// Arguments of `quorate check-history`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The history, one JSON object a line, as `quorate compare --history` writes it
    file: PathBuf,

    /// How many configurations to search through, for each key, before giving up
    #[arg(long, value_name = "N", default_value_t = Bound::default().configurations)]
    configurations: usize,
}

/// Checks the history.
pub(crate) fn run(arguments: &Arguments) -> Result<Ending> {
    let history = History::load(&arguments.file)?;
    let bound = Bound {
        configurations: arguments.configurations,
    };
    match linearizability::check(&history, bound) {
        Ok(summary) => {
            output::line(format_args!(
                "linearizable: {} operations on {} keys",
                summary.operations, summary.keys
            ))?;
            Ok(Ending::Done)
        }
        Err(failure) => {
            output::line(failure)?;
            Ok(Ending::Failed)
        }
    }
}
