//! What a client asks, and what it is told.

use bytes::Bytes;
use quorate_core::codec::{self, DecodeError};
use serde::{Deserialize, Serialize};

/// The most bytes a key may have.
pub const KEY_LIMIT: usize = 4 << 10;

/// The most bytes a value may have.
pub const VALUE_LIMIT: usize = 1 << 20;

/// Changes the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Sets `key` to `value`. Gives [`Answer::Put`].
    Put {
        /// The key.
        key: Bytes,
        /// Its new value.
        value: Bytes,
    },
    /// Deletes `key`. Gives [`Answer::Delete`].
    Delete {
        /// The key.
        key: Bytes,
    },
    /// Sets `key` to `value` if it is as `expected`. Gives [`Answer::Cas`].
    Cas {
        /// The key.
        key: Bytes,
        /// The value that the key must have; `None`: the key must be absent.
        expected: Option<Bytes>,
        /// Its new value.
        value: Bytes,
    },
}

/// Reads the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Query {
    /// The value of `key`. Gives [`Answer::Get`].
    Get {
        /// The key.
        key: Bytes,
    },
    /// The keys from `start` (included) to `end` (excluded), in order. Gives [`Answer::Range`].
    Range {
        /// The first key.
        start: Bytes,
        /// The first key that is too far; `None`: there is none.
        end: Option<Bytes>,
        /// The most entries wanted.
        limit: u32,
    },
}

/// A key as a range shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The key.
    pub key: Bytes,
    /// Its value.
    pub value: Bytes,
    /// How many changes of the key led to this value, since it was created.
    pub revision: u64,
}

/// What a command or query gives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// The value was put.
    Put {
        /// The revision that this change made.
        revision: u64,
    },
    /// The key is absent now.
    Delete {
        /// Whether there was something to delete.
        existed: bool,
    },
    /// The comparison was made.
    Cas {
        /// Whether the key was as expected, and has the new value now.
        swapped: bool,
        /// The revision of the key now: the one this change made, or else the one that did not
        /// compare equal; 0 if the key is absent.
        revision: u64,
    },
    /// The value asked for.
    Get {
        /// The value and its revision; `None`: the key is absent.
        found: Option<(Bytes, u64)>,
    },
    /// A part of the range asked for, from its start.
    Range {
        /// The entries, in the order of their keys.
        entries: Vec<Entry>,
        /// Whether the range holds keys after these: more than the limit, or than
        /// [`RANGE_BYTES`](crate::RANGE_BYTES).
        more: bool,
    },
    /// Nothing was done.
    Refused(Refusal),
}

/// Why a command or query was refused. These are cases and not text, because all replicas, also
/// of later versions, must give equal answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// The bytes are not a command where a command is expected, or not a query.
    #[error("not a command or query of the key-value store")]
    Malformed,
    /// The key has more than [`KEY_LIMIT`] bytes.
    #[error("the key has more than {KEY_LIMIT} bytes")]
    KeyTooLong,
    /// The value has more than [`VALUE_LIMIT`] bytes.
    #[error("the value has more than {VALUE_LIMIT} bytes")]
    ValueTooLong,
}

/// The first byte of an encoded command. It differs from a query's, so that neither is ever
/// taken for the other.
const COMMAND: u8 = b'c';
const QUERY: u8 = b'q';

impl Command {
    /// The key that it changes.
    pub fn key(&self) -> &Bytes {
        match self {
            Command::Put { key, .. } | Command::Delete { key } | Command::Cas { key, .. } => key,
        }
    }

    /// The bytes to propose.
    pub fn encode(&self) -> Bytes {
        tagged(COMMAND, self)
    }

    /// Reads a command, and checks it against the limits.
    pub fn decode(bytes: &[u8]) -> Result<Command, Refusal> {
        Encoded::decode(bytes).map(Command::from)
    }
}

/// A command as it lies in its encoding: the same cases as of [`Command`], nothing copied.
#[derive(Clone, Copy, Debug, Deserialize)]
pub(crate) enum Encoded<'a> {
    Put {
        key: &'a [u8],
        value: &'a [u8],
    },
    Delete {
        key: &'a [u8],
    },
    Cas {
        key: &'a [u8],
        expected: Option<&'a [u8]>,
        value: &'a [u8],
    },
}

impl<'a> Encoded<'a> {
    pub(crate) fn decode(bytes: &'a [u8]) -> Result<Self, Refusal> {
        let command: Encoded<'_> = untagged(COMMAND, bytes)?;
        within(command.key(), KEY_LIMIT, Refusal::KeyTooLong)?;
        match command {
            Encoded::Put { value, .. } | Encoded::Cas { value, .. } => {
                within(value, VALUE_LIMIT, Refusal::ValueTooLong)?;
            }
            Encoded::Delete { .. } => {}
        }
        Ok(command)
    }

    pub(crate) fn key(&self) -> &'a [u8] {
        match self {
            Encoded::Put { key, .. } | Encoded::Delete { key } | Encoded::Cas { key, .. } => key,
        }
    }
}

impl From<Encoded<'_>> for Command {
    fn from(command: Encoded<'_>) -> Command {
        let owned = Bytes::copy_from_slice;
        match command {
            Encoded::Put { key, value } => Command::Put {
                key: owned(key),
                value: owned(value),
            },
            Encoded::Delete { key } => Command::Delete { key: owned(key) },
            Encoded::Cas {
                key,
                expected,
                value,
            } => Command::Cas {
                key: owned(key),
                expected: expected.map(owned),
                value: owned(value),
            },
        }
    }
}

impl Query {
    /// The range of all keys that begin with `prefix`.
    pub fn prefix(prefix: Bytes, limit: u32) -> Query {
        let end = after_prefix(&prefix);
        Query::Range {
            start: prefix,
            end,
            limit,
        }
    }

    /// The bytes to read with.
    pub fn encode(&self) -> Bytes {
        tagged(QUERY, self)
    }

    /// Reads a query, and checks it against the limits.
    pub fn decode(bytes: &[u8]) -> Result<Query, Refusal> {
        let query: Query = untagged(QUERY, bytes)?;
        if let Query::Get { key } = &query {
            within(key, KEY_LIMIT, Refusal::KeyTooLong)?;
        }
        Ok(query)
    }
}

impl Answer {
    /// The bytes to reply.
    pub fn encode(&self) -> Bytes {
        encode(Vec::new(), self)
    }

    /// Reads an answer.
    pub fn decode(bytes: &[u8]) -> Result<Answer, DecodeError> {
        codec::decode("key-value answer", bytes)
    }
}

/// The first key after all that begin with `prefix`, if there is one.
fn after_prefix(prefix: &[u8]) -> Option<Bytes> {
    let last = prefix.iter().rposition(|byte| *byte != u8::MAX)?;
    let mut end = prefix.get(..=last)?.to_vec();
    *end.last_mut()? += 1;
    Some(end.into())
}

fn within(bytes: &[u8], limit: usize, refusal: Refusal) -> Result<(), Refusal> {
    if bytes.len() > limit {
        return Err(refusal);
    }
    Ok(())
}

/// Room for most operations, so that few grow while they are written.
const OPERATION: usize = 384;

fn tagged<T: Serialize>(tag: u8, value: &T) -> Bytes {
    let mut bytes = Vec::with_capacity(OPERATION);
    bytes.push(tag);
    encode(bytes, value)
}

fn untagged<'a, T: Deserialize<'a>>(tag: u8, bytes: &'a [u8]) -> Result<T, Refusal> {
    match bytes.split_first() {
        Some((first, rest)) if *first == tag => {
            codec::decode_borrowed("key-value operation", rest).map_err(|_| Refusal::Malformed)
        }
        _ => Err(Refusal::Malformed),
    }
}

fn encode<T: Serialize>(mut buffer: Vec<u8>, value: &T) -> Bytes {
    // The codec fails only on sequences of unknown length, which none of these types has.
    match codec::encode_into(value, &mut buffer) {
        Ok(_) => buffer.into(),
        Err(_) => Bytes::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Bytes = Bytes::from_static(b"a");

    #[test]
    fn a_put_takes_little_more_than_its_key_and_value() {
        let put = Command::Put {
            key: A,
            value: Bytes::from(vec![7; 200]),
        };
        assert_eq!(put.encode().len(), 1 + 200 + 4);
        assert_eq!(Command::decode(&put.encode()), Ok(put));
    }

    #[test]
    fn the_encoding_stays_as_it_is() {
        let cas = Command::Cas {
            key: A,
            expected: None,
            value: Bytes::from_static(b"v"),
        };
        assert_eq!(&cas.encode()[..], b"c\x02\x01a\x00\x01v");
        let get = Query::Get { key: A };
        assert_eq!(&get.encode()[..], b"q\x00\x01a");
        let answer = Answer::Get {
            found: Some((A, 3)),
        };
        assert_eq!(&answer.encode()[..], b"\x03\x01\x01a\x03");
        assert_eq!(Answer::decode(&answer.encode()).unwrap(), answer);
    }

    #[test]
    fn commands_and_queries_are_not_taken_for_each_other() {
        let delete = Command::Delete { key: A }.encode();
        let get = Query::Get { key: A }.encode();
        assert_eq!(Query::decode(&delete), Err(Refusal::Malformed));
        assert_eq!(Command::decode(&get), Err(Refusal::Malformed));
        assert_eq!(Command::decode(&[]), Err(Refusal::Malformed));
        assert_eq!(Command::decode(&delete[..2]), Err(Refusal::Malformed));
    }

    #[test]
    fn long_keys_and_values_are_refused() {
        let key = Bytes::from(vec![0; KEY_LIMIT + 1]);
        let value = Bytes::from(vec![0; VALUE_LIMIT + 1]);
        let get = Query::Get { key: key.clone() };
        assert_eq!(Query::decode(&get.encode()), Err(Refusal::KeyTooLong));
        let delete = Command::Delete { key };
        assert_eq!(Command::decode(&delete.encode()), Err(Refusal::KeyTooLong));
        let put = Command::Put { key: A, value };
        assert_eq!(Command::decode(&put.encode()), Err(Refusal::ValueTooLong));
    }

    #[test]
    fn a_prefix_ends_where_the_next_begins() {
        assert_eq!(after_prefix(b"ab"), Some(Bytes::from_static(b"ac")));
        assert_eq!(after_prefix(b"a\xff\xff"), Some(Bytes::from_static(b"b")));
        assert_eq!(after_prefix(b"\xff"), None);
        assert_eq!(after_prefix(b""), None);
    }
}
