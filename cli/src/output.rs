//! Results, on standard output.

use std::fmt::Display;
use std::io::{self, Write as _};

use anyhow::{Context as _, Result};

/// Prints a result, and ends the line.
pub(crate) fn line(text: impl Display) -> Result<()> {
    let mut to = io::stdout().lock();
    writeln!(to, "{text}").context(FAILED)
}

/// Prints a result as it is.
pub(crate) fn raw(bytes: &[u8]) -> Result<()> {
    let mut to = io::stdout().lock();
    let written = to.write_all(bytes).and_then(|()| to.flush());
    written.context(FAILED)
}

const FAILED: &str = "cannot write to standard output";

/// Whether the error is only that nobody reads the output any more, as with `| head`.
pub(crate) fn is_closed(error: &anyhow::Error) -> bool {
    let mut causes = error.chain();
    causes.any(|cause| {
        let io = cause.downcast_ref::<io::Error>();
        io.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
    })
}
