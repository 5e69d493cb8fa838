//! `quorate keygen`: a key for a replica or a client.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::Args;

use crate::failure::Ending;
use crate::output;

/// Arguments of `quorate keygen`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The new file for the secret key, which only its owner may read
    #[arg(long, value_name = "FILE", default_value = "quorate.key")]
    out: PathBuf,
}

/// Writes a new secret key, and prints its public key.
pub(crate) fn run(arguments: &Arguments) -> Result<Ending> {
    let key = quorate::generate_key().context("no randomness from the system")?;
    quorate::save_key(&arguments.out, &key).context("the key is not saved")?;
    output::line(key.public())?;
    Ok(Ending::Done)
}
