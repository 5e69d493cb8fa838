//! The application that simulated worlds replicate: registers, and a memory of every command.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use bytes::Bytes;
use quorate_core::codec;
use quorate_core::crypto::{Digest, Digester};
use quorate_core::id::UnixTime;
use quorate_core::machine::{Keys, RestoreError, StateMachine};
use quorate_core::protocol::Agreed;
use serde::{Deserialize, Serialize};

/// Names a command; no two commands of a world share one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct CommandId(pub u64);

/// A command, by what it does to a register.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// Its name.
    pub id: CommandId,
    /// The register.
    pub key: u8,
    /// The change.
    pub change: Change,
}

/// A change to a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// It holds this value.
    Put(u64),
    /// It holds `value`, if it held `expected`.
    Cas {
        /// What it must hold; `None`: nothing.
        expected: Option<u64>,
        /// What it then holds.
        value: u64,
    },
    /// It holds nothing.
    Delete,
}

/// What a command answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// A put was done.
    Done,
    /// Whether a delete found something.
    Deleted(bool),
    /// Whether a compare-and-swap found what it expected.
    Swapped(bool),
    /// The bytes were no command.
    Malformed,
}

/// Registers with one-byte names. It remembers every command it has applied, in its state and so
/// in its snapshots, and notes a command that it is given twice: what the sessions are to prevent.
/// All that was agreed on besides is in its state too, so that replicas that were told different
/// times or nonces differ; a time that does not go on it notes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Register {
    values: BTreeMap<u8, u64>,
    applied: BTreeSet<CommandId>,
    /// The last time agreed on, and the digest of all that was.
    agreed: Option<(UnixTime, Digest)>,
    /// What is wrong with what was agreed on. Not part of the snapshot.
    #[serde(skip)]
    disorder: Option<String>,
    /// A command applied twice. Not part of the snapshot.
    #[serde(skip)]
    repeated: Option<CommandId>,
}

impl Register {
    /// Whether `command` has been applied.
    pub fn has_applied(&self, command: CommandId) -> bool {
        self.applied.contains(&command)
    }

    /// A command that was applied twice, if one was.
    pub fn repeated(&self) -> Option<CommandId> {
        self.repeated
    }

    /// The last time agreed on.
    pub fn agreed_time(&self) -> Option<UnixTime> {
        self.agreed.map(|(time, _)| time)
    }

    /// What is wrong with what was agreed on, if anything.
    pub(crate) fn disorder(&self) -> Option<&str> {
        self.disorder.as_deref()
    }

    fn change(&mut self, command: &Command) -> Outcome {
        match command.change {
            Change::Put(value) => {
                self.values.insert(command.key, value);
                Outcome::Done
            }
            Change::Delete => Outcome::Deleted(self.values.remove(&command.key).is_some()),
            Change::Cas { expected, value } => {
                let swaps = self.values.get(&command.key).copied() == expected;
                if swaps {
                    self.values.insert(command.key, value);
                }
                Outcome::Swapped(swaps)
            }
        }
    }
}

fn encoded(value: &impl Serialize) -> Bytes {
    // Only a value of unknown length cannot be encoded; an empty answer decodes as none.
    codec::encode(value).unwrap_or_default().into()
}

impl Command {
    /// The command as bytes.
    pub fn encode(&self) -> Bytes {
        encoded(self)
    }
}

impl Outcome {
    /// The answer as bytes.
    pub(crate) fn encode(&self) -> Bytes {
        encoded(self)
    }

    /// Reads an answer to a command.
    pub fn decode(answer: &[u8]) -> Option<Outcome> {
        codec::decode("outcome", answer).ok()
    }
}

/// The query for what `key` holds.
pub fn query(key: u8) -> Bytes {
    Bytes::copy_from_slice(&[key])
}

/// The answer to [`query`] for a register that holds nothing.
pub(crate) fn nothing() -> Bytes {
    encoded(&None::<u64>)
}

/// Reads an answer to [`query`].
pub fn decode_value(answer: &[u8]) -> Option<Option<u64>> {
    codec::decode("value", answer).ok()
}

impl StateMachine for Register {
    fn apply(&mut self, command: &[u8]) -> Bytes {
        let Ok(command) = codec::decode::<Command>("command", command) else {
            return encoded(&Outcome::Malformed);
        };
        if !self.applied.insert(command.id) {
            self.repeated = Some(command.id);
        }
        encoded(&self.change(&command))
    }

    fn agreed(&mut self, agreed: &Agreed) {
        let mut digester = Digester::default();
        if let Some((last, all)) = &self.agreed {
            if *last >= agreed.time {
                let disorder = format!("{:?} was agreed on after {last:?}", agreed.time);
                self.disorder.get_or_insert(disorder);
            }
            digester.update(&all.0);
        }
        digester.update(&agreed.time.0.to_le_bytes());
        digester.update(&agreed.nonce);
        self.agreed = Some((agreed.time, digester.finish()));
    }

    fn query(&self, query: &[u8]) -> Bytes {
        let value = query.first().and_then(|key| self.values.get(key).copied());
        encoded(&value)
    }

    fn keys(&self, command: &[u8]) -> Keys {
        let Ok(command) = codec::decode::<Command>("command", command) else {
            return Keys::none();
        };
        let key = vec![query(command.key)];
        Keys::Some {
            reads: match command.change {
                Change::Cas { .. } => key.clone(),
                Change::Put(_) | Change::Delete => Vec::new(),
            },
            writes: key,
        }
    }

    fn query_keys(&self, query: &[u8]) -> Keys {
        Keys::Some {
            reads: vec![Bytes::copy_from_slice(query)],
            writes: Vec::new(),
        }
    }

    fn snapshot(&self, to: &mut dyn io::Write) -> io::Result<()> {
        to.write_all(&encoded(self))
    }

    fn restore(&mut self, from: &mut dyn io::Read) -> Result<(), RestoreError> {
        let mut bytes = Vec::new();
        from.read_to_end(&mut bytes)?;
        let state: Register = codec::decode("registers", &bytes)
            .map_err(|error| RestoreError::new(error.to_string()))?;
        *self = Register {
            repeated: self.repeated,
            disorder: self.disorder.take(),
            ..state
        };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn apply(register: &mut Register, id: u64, change: Change) -> Option<Outcome> {
        let command = Command {
            id: CommandId(id),
            key: 7,
            change,
        };
        Outcome::decode(&register.apply(&command.encode()))
    }

    #[test]
    fn registers_change_as_told() {
        let mut register = Register::default();
        let read = |register: &Register| decode_value(&register.query(&query(7)));
        let cas = |expected, value| Change::Cas { expected, value };
        assert_eq!(
            apply(&mut register, 1, cas(None, 3)),
            Some(Outcome::Swapped(true))
        );
        assert_eq!(
            apply(&mut register, 2, cas(None, 4)),
            Some(Outcome::Swapped(false))
        );
        assert_eq!(read(&register), Some(Some(3)));
        assert_eq!(apply(&mut register, 3, Change::Put(5)), Some(Outcome::Done));
        assert_eq!(read(&register), Some(Some(5)));
        assert_eq!(
            apply(&mut register, 4, Change::Delete),
            Some(Outcome::Deleted(true))
        );
        assert_eq!(read(&register), Some(None));
        assert_eq!(
            Outcome::decode(&register.apply(b"")),
            Some(Outcome::Malformed)
        );
    }

    #[test]
    fn a_repeated_command_is_noticed_across_a_snapshot() {
        let mut register = Register::default();
        apply(&mut register, 1, Change::Put(1));
        let mut snapshot = Vec::new();
        register.snapshot(&mut snapshot).unwrap();
        let mut other = Register::default();
        other.restore(&mut snapshot.as_slice()).unwrap();
        assert_eq!(other, register);
        apply(&mut other, 2, Change::Put(1));
        assert_eq!(other.repeated(), None);
        apply(&mut other, 1, Change::Put(1));
        assert_eq!(other.repeated(), Some(CommandId(1)));
        assert!(other.has_applied(CommandId(2)));
    }
}
