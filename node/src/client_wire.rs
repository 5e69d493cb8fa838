//! The frames between a client and a replica.

use std::fmt;

use bytes::Bytes;
use quorate_core::codec::{self, DecodeError, EncodeError, FORMAT_VERSION, MESSAGE_LIMIT};
use quorate_core::consensus::{ProposeError, ReadError, ReadLevel};
use quorate_core::crypto::Digest;
use quorate_core::id::ReplicaId;
use quorate_core::ledger::Traffic;
use quorate_core::protocol::Status;
use quorate_core::request::Batch;
use serde::de::{DeserializeOwned, Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

/// What a client asks of a replica.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Ask {
    /// Requests of the client's sessions, to be ordered.
    Propose(Batch),
    /// A query, with the number its answer is to carry.
    Read(u64, ReadLevel, Bytes),
    /// Where the replica stands; with the digest of its whole state, if asked for.
    Status(u64, bool),
    /// The answers to this session of the client's, whoever else it sends its requests to.
    Follow(u64),
    /// A query, to be answered at once from what has been executed, with the number that its
    /// answer is to carry.
    Peek(u64, Bytes),
}

/// What a replica tells a client.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Reply {
    /// The answer to a request.
    Answer {
        session: u64,
        sequence: u64,
        result: Result<Bytes, ProposeError>,
    },
    /// The answer to a query.
    Read(u64, Result<Bytes, ReadError>),
    /// The answer to a question for status.
    Status(u64, Box<Report>),
    /// The leader has changed: requests travel least when they go there.
    Leader(ReplicaId),
    /// How many sessions have been opened, to one who follows a session.
    Opened(u64),
    /// The answer to a query from what has been executed, and how many entries that is.
    Peeked(u64, u64, Bytes),
    /// No leader is known here, of whom there should be one: others may know better.
    Leaderless,
}

/// Where a replica stands, in full.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// What the protocol says.
    pub status: Status,
    /// How many entries have been executed.
    pub executed: u64,
    /// The digest of sessions and state after them, if it was asked for.
    pub digest: Option<Digest>,
    /// All messages sent to other replicas since the start.
    pub sent: Traffic,
}

/// The most bytes that several asks or replies share a frame for: well below what the other end
/// takes.
const FRAME_BYTES: usize = MESSAGE_LIMIT / 4;

/// The most asks or replies that share a frame. Some take a few bytes encoded, and many times that in
/// memory: the bytes of a frame do not bound what it is decoded to.
const FRAME_ITEMS: usize = 4096;

/// Encodes asks, or replies, in as few frames as their sizes allow.
pub(crate) fn seal<T: Serialize>(items: &[T]) -> Result<Vec<Bytes>, EncodeError> {
    if items.len() <= FRAME_ITEMS {
        let mut frame = vec![FORMAT_VERSION];
        codec::encode_into(&items, &mut frame)?;
        if frame.len() <= FRAME_BYTES || items.len() < 2 {
            return Ok(vec![frame.into()]);
        }
    }
    let (first, second) = items.split_at(items.len() / 2);
    let mut frames = seal(first)?;
    frames.extend(seal(second)?);
    Ok(frames)
}

/// Decodes a frame.
pub(crate) fn open<T: DeserializeOwned>(frame: &[u8]) -> Result<Vec<T>, DecodeError> {
    match frame.split_first() {
        Some((&FORMAT_VERSION, rest)) => {
            let items: Items<T> = codec::decode("client frame", rest)?;
            Ok(items.0)
        }
        Some((version, _)) => {
            let reason = format!("format {version}, where {FORMAT_VERSION} is spoken");
            Err(DecodeError::new("client frame", reason))
        }
        None => Err(DecodeError::new("client frame", "it is empty")),
    }
}

/// The items of a frame: no more than [`FRAME_ITEMS`].
struct Items<T>(Vec<T>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Items<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_seq(Items(Vec::new()))
    }
}

impl<'de, T: Deserialize<'de>> Visitor<'de> for Items<T> {
    type Value = Self;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at most {FRAME_ITEMS} items")
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut items: A) -> Result<Self, A::Error> {
        while let Some(item) = items.next_element()? {
            if self.0.len() == FRAME_ITEMS {
                return Err(A::Error::invalid_length(FRAME_ITEMS + 1, &self));
            }
            self.0.push(item);
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_frame_is_larger_than_the_other_end_takes() {
        let reply = |number| Reply::Read(number, Ok(Bytes::from(vec![7; 1 << 20])));
        let replies: Vec<Reply> = (0..40).map(reply).collect();
        let frames = seal(&replies).unwrap();
        let opened = frames.iter().flat_map(|f| open::<Reply>(f).unwrap());
        let numbers = opened.map(|reply| match reply {
            Reply::Read(number, _) => number,
            other => panic!("{other:?}"),
        });
        assert!(numbers.eq(0..40));
        assert_eq!(seal(&replies[..2]).unwrap().len(), 1);
    }

    #[test]
    fn a_frame_has_so_many_items_and_no_more() {
        let asks = |count: usize| vec![Ask::Status(7, false); count];
        let sealed = |count| {
            let mut frame = vec![FORMAT_VERSION];
            codec::encode_into(&asks(count), &mut frame).unwrap();
            frame
        };
        assert_eq!(
            open::<Ask>(&sealed(FRAME_ITEMS)).unwrap().len(),
            FRAME_ITEMS
        );
        assert!(open::<Ask>(&sealed(FRAME_ITEMS + 1)).is_err());
        // What a correct client has beyond that is in several frames.
        let frames = seal(&asks(3 * FRAME_ITEMS)).unwrap();
        let counts = frames.iter().map(|frame| open::<Ask>(frame).unwrap().len());
        assert_eq!(counts.sum::<usize>(), 3 * FRAME_ITEMS);
    }
}
