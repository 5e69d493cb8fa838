//! What an application implements.

use std::io;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::protocol::Agreed;

/// The application: a deterministic state machine.
///
/// The same commands in the same order give the same results and the same state on every
/// replica: no clock, no randomness, no iteration in hash order, no outside world.
///
/// A panic in any of its methods stops the replica, which says so
/// ([`Consensus::stopped`](crate::consensus::Consensus::stopped) gives the panic's message) and
/// acknowledges nothing more. One in `apply` stops all replicas, and again after each restart:
/// the command has been ordered, and each must apply it. Only another version of the application,
/// which gives a result, can go on.
pub trait StateMachine: Send + 'static {
    /// Changes the state by `command`, and gives the result. A command that makes no sense must
    /// give a result that says so: it has been ordered, and every replica gets it.
    fn apply(&mut self, command: &[u8]) -> Bytes;

    /// Is told what was agreed on with the commands that come next, until it is told something
    /// else: a time, strictly later than the last, and a nonce. The same on every replica, and
    /// so part of what may change the state. Protocols that survive crashes only never call it.
    fn agreed(&mut self, _agreed: &Agreed) {}

    /// Answers `query` from the state as it is.
    fn query(&self, query: &[u8]) -> Bytes;

    /// What `command` reads and writes: every key on which its result or its effect depends, and
    /// every key that it may change. Protocols that order only what conflicts (EPaxos) live on a
    /// narrow answer; [`Keys::All`], the default, degrades to a total order. An
    /// answer that leaves a key out makes replicas differ. Other protocols do not ask.
    fn keys(&self, _command: &[u8]) -> Keys {
        Keys::All
    }

    /// What `query` reads, likewise: with [`Keys::All`] it conflicts with every write.
    fn query_keys(&self, _query: &[u8]) -> Keys {
        Keys::All
    }

    /// Writes the whole state; equal states must give equal bytes. The replica does nothing else
    /// meanwhile, and peers can fetch 1 GiB at most: `docs/operations.md` has what follows.
    fn snapshot(&self, to: &mut dyn io::Write) -> io::Result<()>;

    /// Replaces the state by one that [`StateMachine::snapshot`] wrote.
    fn restore(&mut self, from: &mut dyn io::Read) -> Result<(), RestoreError>;
}

/// A snapshot that the application cannot read.
#[derive(Debug, thiserror::Error)]
#[error("the application cannot read its snapshot: {0}")]
pub struct RestoreError(String);

impl RestoreError {
    /// Says what is wrong with the snapshot.
    pub fn new(reason: impl Into<String>) -> Self {
        RestoreError(reason.into())
    }
}

impl From<io::Error> for RestoreError {
    fn from(error: io::Error) -> Self {
        RestoreError(error.to_string())
    }
}

/// What a command or query touches.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Keys {
    /// Everything: it conflicts with every other command.
    All,
    /// These keys only, in any order; naming one twice makes no difference.
    Some {
        /// Keys whose value it depends on.
        reads: Vec<Bytes>,
        /// Keys whose value it may change.
        writes: Vec<Bytes>,
    },
}

impl Keys {
    /// No keys: it conflicts with nothing but [`Keys::All`].
    pub fn none() -> Keys {
        Keys::Some {
            reads: Vec::new(),
            writes: Vec::new(),
        }
    }

    /// Takes in what `other` touches.
    pub fn merge(&mut self, other: Keys) {
        match (&mut *self, other) {
            (
                Keys::Some { reads, writes },
                Keys::Some {
                    reads: more_reads,
                    writes: more_writes,
                },
            ) => {
                reads.extend(more_reads);
                writes.extend(more_writes);
            }
            _ => *self = Keys::All,
        }
    }

    /// Whether the order of the two matters.
    pub fn conflicts(&self, other: &Keys) -> bool {
        match (self, other) {
            (
                Keys::Some { reads, writes },
                Keys::Some {
                    reads: their_reads,
                    writes: their_writes,
                },
            ) => {
                let meet = |one: &[Bytes], other: &[Bytes]| one.iter().any(|k| other.contains(k));
                meet(writes, their_writes) || meet(writes, their_reads) || meet(reads, their_writes)
            }
            _ => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(reads: &[&'static str], writes: &[&'static str]) -> Keys {
        let set = |keys: &[&'static str]| {
            let bytes = |key: &&'static str| Bytes::from_static(key.as_bytes());
            keys.iter().map(bytes).collect()
        };
        Keys::Some {
            reads: set(reads),
            writes: set(writes),
        }
    }

    #[test]
    fn reads_do_not_conflict_with_reads() {
        assert!(!keys(&["a"], &[]).conflicts(&keys(&["a"], &[])));
        assert!(keys(&["a"], &[]).conflicts(&keys(&[], &["a"])));
        assert!(keys(&[], &["a"]).conflicts(&keys(&[], &["a"])));
        assert!(!keys(&[], &["a"]).conflicts(&keys(&["b"], &["c"])));
        assert!(Keys::All.conflicts(&keys(&[], &[])));
    }
}
