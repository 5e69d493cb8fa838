//! `quorate put|get|delete|cas|range|status`: using a cluster of `quorate node`s.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Error, Result};
use bytes::Bytes;
use clap::{Args, Subcommand};
use quorate::{Client, ClientConfig, ReadLevel};
use quorate_kv::{Answer, Command, Entry, Query};
use serde_json::{Map, Value, json};

use crate::failure::Ending;
use crate::{arguments, output};

mod status;

/// What is asked of a cluster.
#[derive(Debug, Subcommand)]
pub(crate) enum Task {
    /// Set a key to a value, and print the key's revision
    Put {
        key: String,
        value: String,
        #[command(flatten)]
        reach: Reach,
    },
    /// Print the value of a key; exit status 3 if it is absent
    Get {
        key: String,
        #[command(flatten)]
        reach: Reach,
    },
    /// Delete a key; exit status 3 if it was absent
    Delete {
        key: String,
        #[command(flatten)]
        reach: Reach,
    },
    /// Set a key to a value if it has the value expected; exit status 3 if it has not
    #[command(
        override_usage = "quorate cas [OPTIONS] <KEY> <EXPECTED> <VALUE>\n       quorate cas [OPTIONS] --absent <KEY> <VALUE>"
    )]
    Cas {
        key: String,
        /// The value that the key must have; with --absent, the new value
        expected: String,
        /// The new value
        #[arg(required_unless_present = "absent", conflicts_with = "absent")]
        value: Option<String>,
        /// Set the key only if it is absent
        #[arg(long)]
        absent: bool,
        #[command(flatten)]
        reach: Reach,
    },
    /// Print keys and values, in the order of the keys, with a tab between
    Range {
        /// The first key
        start: Option<String>,
        /// The first key that is too far
        end: Option<String>,
        /// Only keys that begin so
        #[arg(long, conflicts_with_all = ["start", "end"])]
        prefix: Option<String>,
        /// The most keys wanted
        #[arg(long, value_name = "N", default_value_t = 100)]
        limit: u32,
        #[command(flatten)]
        reach: Reach,
    },
    /// Print where each replica stands
    Status {
        /// Also print the digest of each replica's state, and what it has sent
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        reach: Reach,
    },
}

/// How to reach the cluster, and how to print.
#[derive(Debug, Args)]
pub(crate) struct Reach {
    /// The client's configuration, as `quorate init` writes it
    #[arg(long, value_name = "FILE", default_value = "client.toml")]
    config: PathBuf,

    /// How long to wait for an answer; by default as configured, and 2 for the status
    #[arg(long, value_name = "SECONDS", value_parser = arguments::seconds)]
    timeout: Option<Duration>,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Reach {
    fn config(&self) -> Result<ClientConfig> {
        let mut config = ClientConfig::load(&self.config)?;
        if let Some(timeout) = self.timeout {
            config.options.timeout = timeout;
        }
        // Somebody is asked again before it is too late for an answer.
        config.options.patience = config.options.patience.min(config.options.timeout / 3);
        Ok(config)
    }

    fn connect(&self) -> Result<Client> {
        Ok(quorate::connect(&self.config()?)?)
    }

    /// Prints a result: as JSON, or as text.
    fn print(&self, json: &Value, text: &str) -> Result<()> {
        match self.json {
            true => output::line(json),
            false => output::line(text),
        }
    }

    async fn write(&self, what: String, command: &Command) -> Result<Answer> {
        let client = self.connect()?;
        let answer = client.propose(command.encode()).await;
        close(&client).await;
        match answer {
            Ok(answer) => understood(&answer).context(what),
            Err(error) => {
                let may_have_happened = error.may_have_happened();
                if self.json {
                    let reason = error.to_string();
                    output::line(
                        json!({ "error": reason, "may_have_happened": may_have_happened }),
                    )?;
                }
                status::tell_who_answers(&self.config()?).await?;
                Err(Error::new(error).context(match may_have_happened {
                    true => format!("{what}: it MAY have happened, or may still happen"),
                    false => format!("{what}: it certainly did not happen"),
                }))
            }
        }
    }

    async fn read(&self, what: String, query: &Query) -> Result<Answer> {
        let client = self.connect()?;
        let answer = client.read(query.encode(), ReadLevel::Linearizable).await;
        close(&client).await;
        match answer {
            Ok(answer) => understood(&answer).context(what),
            Err(error) => {
                if self.json {
                    output::line(json!({ "error": error.to_string() }))?;
                }
                status::tell_who_answers(&self.config()?).await?;
                Err(Error::new(error).context(what))
            }
        }
    }
}

/// How long to wait for the session to be closed: the answer is here, and a session that stays open
/// is forgotten some day.
const CLOSING: Duration = Duration::from_millis(200);

/// Tells the replicas that the session is not needed any more.
async fn close(client: &Client) {
    if let Ok(Err(error)) = tokio::time::timeout(CLOSING, client.close()).await {
        tracing::debug!(%error, "the session was not closed");
    }
}

/// The answer, unless the store refused.
fn understood(answer: &[u8]) -> Result<Answer> {
    match Answer::decode(answer).context("the answer cannot be read")? {
        Answer::Refused(refusal) => Err(refusal.into()),
        answer => Ok(answer),
    }
}

fn unexpected() -> Error {
    anyhow::anyhow!("the answer is not one to what was asked")
}

/// Asks, and prints the answer.
pub(crate) fn run(task: Task) -> Result<Ending> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(async {
        match task {
            Task::Put { key, value, reach } => put(&reach, key, value).await,
            Task::Get { key, reach } => get(&reach, key).await,
            Task::Delete { key, reach } => delete(&reach, key).await,
            Task::Cas {
                key,
                expected,
                value,
                reach,
                ..
            } => {
                let (expected, value) = match value {
                    Some(value) => (Some(expected), value),
                    None => (None, expected),
                };
                cas(&reach, key, expected, value).await
            }
            Task::Range {
                start,
                end,
                prefix,
                limit,
                reach,
            } => {
                let query = match prefix {
                    Some(prefix) => Query::prefix(prefix.into(), limit),
                    None => Query::Range {
                        start: start.unwrap_or_default().into(),
                        end: end.map(Bytes::from),
                        limit,
                    },
                };
                range(&reach, &query).await
            }
            Task::Status { all, reach } => status::run(&reach, all).await,
        }
    })
}

async fn put(reach: &Reach, key: String, value: String) -> Result<Ending> {
    let what = format!("put of `{key}`");
    let command = Command::Put {
        key: key.into(),
        value: value.into(),
    };
    let Answer::Put { revision } = reach.write(what, &command).await? else {
        return Err(unexpected());
    };
    let text = format!("revision {revision}");
    reach.print(&json!({ "revision": revision }), &text)?;
    Ok(Ending::Done)
}

async fn get(reach: &Reach, key: String) -> Result<Ending> {
    let what = format!("get of `{key}`");
    let query = Query::Get {
        key: key.clone().into(),
    };
    let Answer::Get { found } = reach.read(what, &query).await? else {
        return Err(unexpected());
    };
    match found {
        Some((value, revision)) if reach.json => {
            let key = Bytes::from(key);
            let object = object(&Entry {
                key,
                value,
                revision,
            });
            output::line(object)?;
            Ok(Ending::Done)
        }
        Some((value, _)) => {
            output::raw(&value)?;
            output::line("")?;
            Ok(Ending::Done)
        }
        None if reach.json => {
            output::line(json!({ "key": key, "value": null }))?;
            Ok(Ending::Absent)
        }
        None => {
            eprintln!("`{key}` is absent");
            Ok(Ending::Absent)
        }
    }
}

async fn delete(reach: &Reach, key: String) -> Result<Ending> {
    let what = format!("delete of `{key}`");
    let command = Command::Delete { key: key.into() };
    let Answer::Delete { existed } = reach.write(what, &command).await? else {
        return Err(unexpected());
    };
    let text = if existed { "deleted" } else { "was absent" };
    reach.print(&json!({ "existed": existed }), text)?;
    Ok(if existed {
        Ending::Done
    } else {
        Ending::Absent
    })
}

async fn cas(
    reach: &Reach,
    key: String,
    expected: Option<String>,
    value: String,
) -> Result<Ending> {
    let what = format!("cas of `{key}`");
    let command = Command::Cas {
        key: key.into(),
        expected: expected.map(Bytes::from),
        value: value.into(),
    };
    let Answer::Cas { swapped, revision } = reach.write(what, &command).await? else {
        return Err(unexpected());
    };
    let text = match (swapped, revision) {
        (true, _) => format!("swapped, revision {revision}"),
        (false, 0) => String::from("not swapped: the key is absent"),
        (false, _) => format!("not swapped: the value, of revision {revision}, is another"),
    };
    reach.print(&json!({ "swapped": swapped, "revision": revision }), &text)?;
    Ok(if swapped {
        Ending::Done
    } else {
        Ending::Absent
    })
}

async fn range(reach: &Reach, query: &Query) -> Result<Ending> {
    let Answer::Range { entries, more } = reach.read(String::from("range"), query).await? else {
        return Err(unexpected());
    };
    if reach.json {
        let entries: Vec<Value> = entries.iter().map(object).collect();
        output::line(json!({ "entries": entries, "more": more }))?;
        return Ok(Ending::Done);
    }
    for entry in &entries {
        output::raw(&entry.key)?;
        output::raw(b"\t")?;
        output::raw(&entry.value)?;
        output::line("")?;
    }
    if more {
        eprintln!("there are more keys: begin after the last one, or raise --limit");
    }
    Ok(Ending::Done)
}

/// A key, its value and its revision; what is not text is in hexadecimal digits.
fn object(entry: &Entry) -> Value {
    let mut object = Map::new();
    for (name, bytes) in [("key", &entry.key), ("value", &entry.value)] {
        match std::str::from_utf8(bytes) {
            Ok(text) => object.insert(String::from(name), json!(text)),
            Err(_) => object.insert(format!("{name}_hex"), json!(hex::encode(bytes))),
        };
    }
    object.insert(String::from("revision"), json!(entry.revision));
    Value::Object(object)
}
