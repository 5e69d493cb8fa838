//! The `quorate` command: compares, simulates, runs and uses replicated clusters.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod arguments;
mod compare;
mod failure;
mod interruption;
mod logging;

use failure::Ending;

/// Consensus protocols behind one trait: compare them, simulate them, run a cluster, use it.
#[derive(Debug, Parser)]
#[command(name = "quorate", version, arg_required_else_help = true, after_help = STATUS_HELP)]
struct Arguments {
    /// Say more on standard error: -v for information, -vv for debugging, -vvv for all. The
    /// environment variable QUORATE_LOG (as in `quorate_node=debug,warn`) is more precise.
    #[arg(short, long, action = clap::ArgAction::Count, global = true)]
    verbose: u8,

    #[command(subcommand)]
    task: Task,
}

const STATUS_HELP: &str = "Exit status: 0 done; 1 failed, or a check failed; 2 wrong usage; \
3 the key is absent, or not as `cas` expected; 130 interrupted.";

#[derive(Debug, Subcommand)]
enum Task {
    /// Run a cluster of each protocol on this machine, drive it with clients, check and measure it
    Compare(compare::Arguments),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    logging::start(arguments.verbose, logging::Usual::Warnings);
    let outcome = match arguments.task {
        Task::Compare(arguments) => compare::run(&arguments),
    };
    match outcome {
        Ok(ending) => ending.into(),
        Err(error) => {
            failure::print(&error);
            Ending::Failed.into()
        }
    }
}
