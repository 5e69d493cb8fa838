//! What is said on standard error besides results.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

/// What is said without `-v`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Usual {
    /// Only what went wrong.
    Warnings,
    /// Also what happens, as of a process that runs for long.
    Information,
}

/// Starts logging to standard error: as QUORATE_LOG says, or else at the level that is usual,
/// raised once for each `-v`.
pub(crate) fn start(verbose: u8, usual: Usual) {
    let levels = ["warn", "info", "debug", "trace"];
    let base = match usual {
        Usual::Warnings => 0,
        Usual::Information => 1,
    };
    let level = levels.get(base + usize::from(verbose)).unwrap_or(&"trace");
    let asked = std::env::var("QUORATE_LOG").ok();
    let filter = match asked.as_deref().map(EnvFilter::try_new) {
        Some(Ok(filter)) => filter,
        Some(Err(error)) => {
            eprintln!("warning: QUORATE_LOG is not understood, and ignored: {error}");
            EnvFilter::new(*level)
        }
        None => EnvFilter::new(*level),
    };
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
}
