//! What clients of a key-value store did and saw, as JSON lines.
//!
//! One object a line, with these fields:
//!
//! | field | holds |
//! |---|---|
//! | `process` | number of the client that did it |
//! | `op` | `"put"`, `"get"`, `"delete"` or `"cas"` |
//! | `key` | text |
//! | `value` | text that a put or cas writes, else null |
//! | `expected` | text a cas compares with, null if it expects the key to be absent |
//! | `result` | of a get, the value or null if absent; of a cas, whether it swapped; of a delete, whether the key existed, or null if that is not known; else null |
//! | `invoke`, `return` | nanoseconds on one clock for all processes; `return` is null if there was none |
//! | `outcome` | `"ok"`; `"fail"`: certainly did not happen; `"info"`: may have happened, at any time since `invoke`, or may yet |

#![allow(
    clippy::disallowed_types,
    reason = "histories are files beside the simulated world, not in it"
)]

use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

/// What was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    /// Set the key to `value`.
    Put {
        /// The new value.
        value: String,
    },
    /// Read the key.
    Get,
    /// Make the key absent.
    Delete,
    /// Set the key to `value` if it is as `expected`.
    Cas {
        /// The value compared with; `None`: absent.
        expected: Option<String>,
        /// The new value.
        value: String,
    },
}

/// What an operation that returned said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Answer {
    /// Of a cas: whether it swapped. Of a delete: whether the key existed.
    Flag(bool),
    /// Of a get: the value, or `None` if the key was absent. Of a put, and of a delete that does
    /// not tell whether the key existed: `None`.
    Value(Option<String>),
}

/// How an operation ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It happened between its invocation and its return.
    Ok {
        /// When it returned, in nanoseconds.
        returned: u64,
        /// What it said.
        answer: Answer,
    },
    /// It certainly did not happen, and never will.
    Fail {
        /// When that was known, in nanoseconds.
        returned: Option<u64>,
    },
    /// It may have happened at any time since its invocation, and may yet.
    Info,
}

/// One operation of one client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Line", into = "Line")]
pub struct Operation {
    /// Who did it.
    pub process: u64,
    /// The key it is about.
    pub key: String,
    /// What was asked.
    pub call: Call,
    /// When it was invoked, in nanoseconds.
    pub invoke: u64,
    /// How it ended.
    pub outcome: Outcome,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}, ", self.invoke)?;
        match &self.outcome {
            Outcome::Ok { returned, .. } => write!(f, "{returned}]")?,
            Outcome::Fail { .. } => write!(f, "failed]")?,
            Outcome::Info => write!(f, "?]")?,
        }
        write!(f, " process {}: ", self.process)?;
        match &self.call {
            Call::Put { value } => write!(f, "put {value:?}")?,
            Call::Get => write!(f, "get")?,
            Call::Delete => write!(f, "delete")?,
            Call::Cas { expected, value } => {
                write!(f, "cas from {} to {value:?}", Shown(expected.as_deref()))?;
            }
        }
        match &self.outcome {
            Outcome::Ok { answer, .. } => match answer {
                Answer::Flag(flag) => write!(f, " gave {flag}"),
                Answer::Value(value) if self.call == Call::Get => {
                    write!(f, " gave {}", Shown(value.as_deref()))
                }
                Answer::Value(_) => Ok(()),
            },
            Outcome::Fail { .. } => Ok(()),
            Outcome::Info => write!(f, " got no answer"),
        }
    }
}

struct Shown<'a>(Option<&'a str>);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(value) => write!(f, "{value:?}"),
            None => write!(f, "absent"),
        }
    }
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    process: u64,
    op: Op,
    key: String,
    value: Option<String>,
    expected: Option<String>,
    // `Option<Answer>` would read null as no answer, but null is the answer of many.
    result: Answer,
    invoke: u64,
    #[serde(rename = "return")]
    returned: Option<u64>,
    outcome: Kind,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Op {
    Put,
    Get,
    Delete,
    Cas,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Ok,
    Fail,
    Info,
}

impl TryFrom<Line> for Operation {
    type Error = &'static str;

    fn try_from(line: Line) -> Result<Self, Self::Error> {
        let call = match (line.op, line.value, line.expected) {
            (Op::Put, Some(value), None) => Call::Put { value },
            (Op::Cas, Some(value), expected) => Call::Cas { expected, value },
            (Op::Get, None, None) => Call::Get,
            (Op::Delete, None, None) => Call::Delete,
            (Op::Put | Op::Cas, None, _) => return Err("a put or cas needs a `value`"),
            (_, _, Some(_)) => return Err("only a cas has an `expected` value"),
            (Op::Get | Op::Delete, Some(_), _) => return Err("a get or delete has no `value`"),
        };
        if line.returned.is_some_and(|returned| returned < line.invoke) {
            return Err("`return` is before `invoke`");
        }
        let outcome = match (line.outcome, line.returned) {
            (Kind::Ok, Some(returned)) => Outcome::Ok {
                returned,
                answer: answer(&call, line.result)?,
            },
            (Kind::Ok, None) => return Err("an operation that is ok needs a `return`"),
            (Kind::Info, Some(_)) => return Err("an operation with outcome info has no `return`"),
            (_, _) if line.result != Answer::Value(None) => {
                return Err("only an operation that is ok has a `result`");
            }
            (Kind::Fail, returned) => Outcome::Fail { returned },
            (Kind::Info, None) => Outcome::Info,
        };
        Ok(Operation {
            process: line.process,
            key: line.key,
            call,
            invoke: line.invoke,
            outcome,
        })
    }
}

fn answer(call: &Call, answer: Answer) -> Result<Answer, &'static str> {
    match (call, &answer) {
        (Call::Put { .. }, Answer::Value(None))
        | (Call::Get, Answer::Value(_))
        | (Call::Delete, Answer::Flag(_) | Answer::Value(None))
        | (Call::Cas { .. }, Answer::Flag(_)) => Ok(answer),
        (Call::Put { .. }, _) => Err("the `result` of a put is null"),
        (Call::Get, _) => Err("the `result` of a get is text or null"),
        (Call::Delete, _) => Err("the `result` of a delete is true, false or null"),
        (Call::Cas { .. }, _) => Err("the `result` of a cas is true or false"),
    }
}

impl From<Operation> for Line {
    fn from(operation: Operation) -> Self {
        let (op, value, expected) = match operation.call {
            Call::Put { value } => (Op::Put, Some(value), None),
            Call::Get => (Op::Get, None, None),
            Call::Delete => (Op::Delete, None, None),
            Call::Cas { expected, value } => (Op::Cas, Some(value), expected),
        };
        let (outcome, returned, result) = match operation.outcome {
            Outcome::Ok { returned, answer } => (Kind::Ok, Some(returned), answer),
            Outcome::Fail { returned } => (Kind::Fail, returned, Answer::Value(None)),
            Outcome::Info => (Kind::Info, None, Answer::Value(None)),
        };
        Line {
            process: operation.process,
            op,
            key: operation.key,
            value,
            expected,
            result,
            invoke: operation.invoke,
            returned,
            outcome,
        }
    }
}

/// Operations, in any order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    /// The operations.
    pub operations: Vec<Operation>,
}

/// A history that cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// The system refused.
    #[error("cannot {action} the history {path}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// A line is not an operation.
    #[error("{path}, line {line}: {reason}")]
    Malformed {
        /// The file.
        path: String,
        /// The number of the line, from 1.
        line: usize,
        /// What is wrong with it.
        reason: String,
    },
}

impl History {
    /// Reads the file at `path`. Empty lines are passed over.
    pub fn load(path: &Path) -> Result<History, HistoryError> {
        let failed = |source| HistoryError::Io {
            action: "read",
            path: path.display().to_string(),
            source,
        };
        let mut from = BufReader::new(File::open(path).map_err(failed)?);
        let mut history = History::default();
        let mut bytes = Vec::new();
        for line in 1.. {
            bytes.clear();
            if from.read_until(b'\n', &mut bytes).map_err(failed)? == 0 {
                break;
            }
            if bytes.trim_ascii().is_empty() {
                continue;
            }
            let malformed = |error: serde_json::Error| HistoryError::Malformed {
                path: path.display().to_string(),
                line,
                reason: reason(&error),
            };
            let operation = serde_json::from_slice(bytes.trim_ascii_end()).map_err(malformed)?;
            history.operations.push(operation);
        }
        Ok(history)
    }

    /// Writes the file at `path`, replacing what is there.
    pub fn save(&self, path: &Path) -> Result<(), HistoryError> {
        self.write_to(path).map_err(|source| HistoryError::Io {
            action: "write",
            path: path.display().to_string(),
            source,
        })
    }

    fn write_to(&self, path: &Path) -> io::Result<()> {
        let mut to = BufWriter::new(File::create(path)?);
        for operation in &self.operations {
            serde_json::to_writer(&mut to, operation)?;
            to.write_all(b"\n")?;
        }
        to.flush()
    }
}

/// The error without its own line number, which is 1 for every line of the file.
fn reason(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let place = format!(" at line {} column {}", error.line(), error.column());
    match text.strip_suffix(&place) {
        Some(reason) if error.column() > 0 => format!("column {}: {reason}", error.column()),
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Operation, String> {
        serde_json::from_str(line).map_err(|error| reason(&error))
    }

    const GET: &str = r#"{"process":1,"op":"get","key":"a","value":null,"expected":null,"result":"x","invoke":5,"return":9,"outcome":"ok"}"#;

    #[test]
    fn operations_are_written_as_specified() {
        let lines = [
            GET,
            r#"{"process":1,"op":"get","key":"a","value":null,"expected":null,"result":null,"invoke":5,"return":9,"outcome":"ok"}"#,
            r#"{"process":0,"op":"put","key":"","value":"x","expected":null,"result":null,"invoke":5,"return":9,"outcome":"ok"}"#,
            r#"{"process":0,"op":"put","key":"k","value":"x","expected":null,"result":null,"invoke":5,"return":null,"outcome":"info"}"#,
            r#"{"process":2,"op":"delete","key":"k","value":null,"expected":null,"result":null,"invoke":5,"return":5,"outcome":"ok"}"#,
            r#"{"process":2,"op":"delete","key":"k","value":null,"expected":null,"result":false,"invoke":5,"return":6,"outcome":"ok"}"#,
            r#"{"process":2,"op":"cas","key":"k","value":"y","expected":null,"result":true,"invoke":5,"return":6,"outcome":"ok"}"#,
            r#"{"process":2,"op":"cas","key":"k","value":"y","expected":"x","result":null,"invoke":5,"return":6,"outcome":"fail"}"#,
        ];
        for line in lines {
            let operation = parse(line).unwrap();
            assert_eq!(serde_json::to_string(&operation).unwrap(), line);
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_the_reason() {
        let broken = [
            (r#""get""#, r#""git""#, "unknown variant `git`"),
            (r#""value":null"#, r#""value":"v""#, "no `value`"),
            (r#""expected":null"#, r#""expected":"v""#, "only a cas"),
            (r#""result":"x""#, r#""result":true"#, "of a get is text"),
            (r#""result":"x""#, r#""result":7"#, "did not match"),
            (r#""return":9"#, r#""return":4"#, "before `invoke`"),
            (r#""return":9"#, r#""return":null"#, "needs a `return`"),
            (
                r#""return":9"#,
                r#""returned":9"#,
                "unknown field `returned`",
            ),
            (r#""ok""#, r#""info""#, "has no `return`"),
            (r#""ok""#, r#""fail""#, "only an operation that is ok"),
            (r#""process":1,"#, "", "missing field `process`"),
            (r#""invoke":5"#, r#""invoke":-5"#, "invalid value"),
            ("}", "", "column"),
        ];
        for (from, to, reason) in broken {
            let line = GET.replace(from, to);
            let error = parse(&line).unwrap_err();
            assert!(error.contains(reason), "{line}: {error}");
            assert!(!error.contains("at line"), "{error}");
        }
    }

    #[test]
    fn a_file_is_read_as_it_was_written_and_errors_name_the_line() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("history.jsonl");
        let history = History {
            operations: vec![parse(GET).unwrap(); 3],
        };
        history.save(&path).unwrap();
        assert_eq!(History::load(&path).unwrap(), history);

        std::fs::write(&path, format!("{GET}\n\n{GET}\n{{\"process\":")).unwrap();
        let error = History::load(&path).unwrap_err().to_string();
        assert!(error.contains("history.jsonl, line 4: column"), "{error}");
        std::fs::write(&path, b"\xff\n").unwrap();
        assert!(History::load(&path).is_err());
        let absent = History::load(&directory.path().join("absent")).unwrap_err();
        assert!(absent.to_string().contains("cannot read the history"));
    }
}
