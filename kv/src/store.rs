//! The state machine.

use std::collections::BTreeMap;
use std::io;
use std::ops::Bound;

use bytes::Bytes;
use quorate_core::machine::{Keys, RestoreError, StateMachine};

use crate::command::{Answer, Encoded, Entry, Query};
use crate::snapshot;

/// The bytes of keys and values after which a range is cut short; it always holds one entry if
/// there is one and the limit allows it. Far below what a reply may take.
pub const RANGE_BYTES: usize = 1 << 20;

/// A key's present value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Current {
    pub(crate) value: Bytes,
    pub(crate) revision: u64,
}

/// The key-value store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Store {
    entries: BTreeMap<Bytes, Current>,
}

impl Store {
    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no key.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn execute(&mut self, command: Encoded<'_>) -> Answer {
        match command {
            Encoded::Put { key, value } => Answer::Put {
                revision: self.put(key, value),
            },
            Encoded::Delete { key } => Answer::Delete {
                existed: self.entries.remove(key).is_some(),
            },
            Encoded::Cas {
                key,
                expected,
                value,
            } => {
                let current = self.entries.get(key);
                if current.map(|current| &current.value[..]) == expected {
                    let revision = self.put(key, value);
                    return Answer::Cas {
                        swapped: true,
                        revision,
                    };
                }
                Answer::Cas {
                    swapped: false,
                    revision: current.map_or(0, |current| current.revision),
                }
            }
        }
    }

    fn put(&mut self, key: &[u8], value: &[u8]) -> u64 {
        let value = Bytes::copy_from_slice(value);
        if let Some(current) = self.entries.get_mut(key) {
            current.value = value;
            current.revision = current.revision.saturating_add(1);
            return current.revision;
        }
        let revision = 1;
        let key = Bytes::copy_from_slice(key);
        self.entries.insert(key, Current { value, revision });
        revision
    }

    fn answer(&self, query: &Query) -> Answer {
        match query {
            Query::Get { key } => {
                let found = self.entries.get(key);
                Answer::Get {
                    found: found.map(|current| (current.value.clone(), current.revision)),
                }
            }
            Query::Range { start, end, limit } => self.range(start, end.as_ref(), *limit),
        }
    }

    fn range(&self, start: &Bytes, end: Option<&Bytes>, limit: u32) -> Answer {
        let mut entries = Vec::new();
        let mut size = 0;
        // `BTreeMap::range` panics on a range that ends before it starts.
        if end.is_some_and(|end| end <= start) {
            let more = false;
            return Answer::Range { entries, more };
        }
        let upper = end.map_or(Bound::Unbounded, Bound::Excluded);
        let mut rest = self
            .entries
            .range::<Bytes, _>((Bound::Included(start), upper));
        let more = loop {
            let Some((key, current)) = rest.next() else {
                break false;
            };
            size += key.len() + current.value.len();
            let full = size > RANGE_BYTES && !entries.is_empty();
            if full || entries.len() >= limit as usize {
                break true;
            }
            entries.push(Entry {
                key: key.clone(),
                value: current.value.clone(),
                revision: current.revision,
            });
        };
        Answer::Range { entries, more }
    }
}

impl StateMachine for Store {
    fn apply(&mut self, command: &[u8]) -> Bytes {
        let answer = match Encoded::decode(command) {
            Ok(command) => self.execute(command),
            Err(refusal) => Answer::Refused(refusal),
        };
        answer.encode()
    }

    fn query(&self, query: &[u8]) -> Bytes {
        let answer = match Query::decode(query) {
            Ok(query) => self.answer(&query),
            Err(refusal) => Answer::Refused(refusal),
        };
        answer.encode()
    }

    /// Also takes a query, whose encoding no command has. A range reads keys that cannot be
    /// listed, so it conflicts with everything; what is refused touches nothing.
    fn keys(&self, command: &[u8]) -> Keys {
        let key = Encoded::decode(command).map(|command| command.key());
        Keys::Some {
            reads: Vec::new(),
            writes: key.into_iter().map(Bytes::copy_from_slice).collect(),
        }
    }

    fn query_keys(&self, query: &[u8]) -> Keys {
        let reads = match Query::decode(query) {
            Ok(Query::Get { key }) => vec![key],
            Ok(Query::Range { .. }) => return Keys::All,
            Err(_) => Vec::new(),
        };
        Keys::Some {
            reads,
            writes: Vec::new(),
        }
    }

    fn snapshot(&self, to: &mut dyn io::Write) -> io::Result<()> {
        snapshot::write(&self.entries, to)
    }

    /// Replaces the state, or leaves it as it was if the snapshot is refused.
    fn restore(&mut self, from: &mut dyn io::Read) -> Result<(), RestoreError> {
        self.entries = snapshot::read(from)?;
        Ok(())
    }
}
