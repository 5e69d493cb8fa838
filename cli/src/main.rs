//! The `quorate` command: compares, simulates, runs and uses replicated clusters.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod arguments;
mod check_history;
mod client;
mod compare;
mod failure;
mod init;
mod interruption;
mod keygen;
mod logging;
mod node;
mod output;
mod simulate;

use failure::Ending;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

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
    /// Run simulated worlds with faults, each of which follows from its seed
    Simulate(simulate::Arguments),
    /// Check whether the history in a file is linearizable
    CheckHistory(check_history::Arguments),
    /// Make a key for a replica or a client, and print its public key
    Keygen(keygen::Arguments),
    /// Write keys and configuration for a cluster and a client
    Init(init::Arguments),
    /// Run one replica of a key-value store
    Node(node::Arguments),
    #[command(flatten)]
    Client(client::Task),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let usual = match arguments.task {
        Task::Node(_) => logging::Usual::Information,
        _ => logging::Usual::Warnings,
    };
    logging::start(arguments.verbose, usual);
    let outcome = match arguments.task {
        Task::Compare(arguments) => compare::run(&arguments),
        Task::Simulate(arguments) => simulate::run(&arguments),
        Task::CheckHistory(arguments) => check_history::run(&arguments),
        Task::Keygen(arguments) => keygen::run(&arguments),
        Task::Init(arguments) => init::run(&arguments),
        Task::Node(arguments) => node::run(&arguments),
        Task::Client(task) => client::run(task),
    };
    match outcome {
        Ok(ending) => ending.into(),
        Err(error) if output::is_closed(&error) => Ending::Done.into(),
        Err(error) => {
            failure::print(&error);
            Ending::Failed.into()
        }
    }
}
