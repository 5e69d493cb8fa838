//! Requests of clients, and the batches in which they are ordered.

use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::codec::DecodeError;
use crate::crypto::{Digest, PublicKey};

/// A session: one run of one client. The key proves who it is, the number tells apart the runs
/// and processes that share the key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SessionId {
    /// Drawn by the client when it starts. First, because it nearly always tells two sessions
    /// apart, and comparing it is cheap.
    pub number: u64,
    /// The client's key.
    pub client: PublicKey,
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}/{:x}", self.client, self.number)
    }
}

/// What a request asks the replicated service to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation<'a> {
    /// Begin the session. The first request of each, and the only one that may open it.
    Open,
    /// Apply a command of the application.
    Apply(&'a [u8]),
    /// Answer a query at this point of the order: a read through the log.
    Query(&'a [u8]),
}

/// A request: (session, sequence, operation).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Request<'a> {
    /// Whose request it is.
    pub session: SessionId,
    /// Its number in the session. A request that is sent again keeps it.
    pub sequence: u64,
    /// The client has the answers to all sequences below this one; they need not be kept. Of
    /// [`Operation::Open`], how many sessions the replica that took it had seen opened.
    pub answered: u64,
    /// What it asks for.
    pub operation: Operation<'a>,
}

impl fmt::Debug for Request<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, length) = match self.operation {
            Operation::Open => ("open", 0),
            Operation::Apply(command) => ("apply", command.len()),
            Operation::Query(query) => ("query", query.len()),
        };
        write!(f, "{:?}#{} {name}({length} B)", self.session, self.sequence)
    }
}

/// Requests ordered together: one immutable buffer, shared by log, messages, records and
/// execution. An empty batch is a no-op.
///
/// Layout: groups, each of one session's consecutive requests: key (32 bytes), session number
/// (8), count (4), then for each request sequence (8), answered (8), operation (1), length (4)
/// and payload; integers little-endian. A batch that came off the wire or the disk has been
/// checked once, when it was decoded.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Batch {
    bytes: Bytes,
    len: u32,
}

const GROUP_HEADER: usize = 32 + 8 + 4;
const REQUEST_HEADER: usize = 8 + 8 + 1 + 4;

const OPEN: u8 = 0;
const APPLY: u8 = 1;
const QUERY: u8 = 2;

impl Batch {
    /// The batch without requests.
    pub fn noop() -> Batch {
        Batch::default()
    }

    /// A batch of one request.
    pub fn of_one(request: Request<'_>) -> Batch {
        let mut builder = BatchBuilder::default();
        builder.push(request);
        builder.finish()
    }

    /// Reads a batch, checking its whole structure.
    pub fn parse(bytes: Bytes) -> Result<Batch, DecodeError> {
        let mut cursor = Cursor::new(&bytes);
        let mut len = 0u32;
        while !cursor.at_end() {
            let malformed = || DecodeError::new("batch", "a request is cut short or unknown");
            cursor.next().ok_or_else(malformed)?;
            len += 1;
        }
        Ok(Batch { bytes, len })
    }

    /// How many requests there are.
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether this is the no-op.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many bytes the batch takes, encoded.
    pub fn size(&self) -> usize {
        self.bytes.len()
    }

    /// The encoded batch.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The digest of the encoded batch.
    pub fn digest(&self) -> Digest {
        Digest::of(&self.bytes)
    }

    /// The requests, in order.
    pub fn requests(&self) -> impl Iterator<Item = Request<'_>> {
        Cursor::new(&self.bytes)
    }
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Batch({} requests, {} B)", self.len, self.bytes.len())
    }
}

impl Serialize for Batch {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.bytes.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Batch {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Batch::parse(Bytes::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

/// A batch in the making.
#[derive(Debug, Default)]
pub struct BatchBuilder {
    buffer: BytesMut,
    len: u32,
    open: Option<Group>,
}

#[derive(Debug)]
struct Group {
    session: SessionId,
    count_at: usize,
    count: u32,
}

impl BatchBuilder {
    /// How many requests there are.
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether there is no request yet.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many bytes the batch takes so far.
    pub fn size(&self) -> usize {
        self.buffer.len()
    }

    /// Adds a request. Those of one session are cheaper together.
    pub fn push(&mut self, request: Request<'_>) {
        let group = match &mut self.open {
            Some(group) if group.session == request.session => group,
            open => {
                self.buffer.put_slice(&request.session.client.0);
                self.buffer.put_u64_le(request.session.number);
                let count_at = self.buffer.len();
                self.buffer.put_u32_le(0);
                open.insert(Group {
                    session: request.session,
                    count_at,
                    count: 0,
                })
            }
        };
        group.count += 1;
        self.buffer[group.count_at..group.count_at + 4].copy_from_slice(&group.count.to_le_bytes());
        self.len += 1;
        let (tag, payload): (u8, &[u8]) = match request.operation {
            Operation::Open => (OPEN, &[]),
            Operation::Apply(command) => (APPLY, command),
            Operation::Query(query) => (QUERY, query),
        };
        self.buffer.put_u64_le(request.sequence);
        self.buffer.put_u64_le(request.answered);
        self.buffer.put_u8(tag);
        self.buffer.put_u32_le(payload.len() as u32);
        self.buffer.put_slice(payload);
    }

    /// The batch of all requests added, in order.
    pub fn finish(self) -> Batch {
        Batch {
            bytes: self.buffer.freeze(),
            len: self.len,
        }
    }
}

struct Cursor<'a> {
    rest: &'a [u8],
    session: Option<SessionId>,
    left_in_group: u32,
}

impl<'a> Cursor<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Cursor {
            rest: bytes,
            session: None,
            left_in_group: 0,
        }
    }

    fn at_end(&self) -> bool {
        self.rest.is_empty() && self.left_in_group == 0
    }

    fn group(&mut self) -> Option<SessionId> {
        let (header, rest) = self.rest.split_at_checked(GROUP_HEADER)?;
        self.rest = rest;
        self.left_in_group = u32::from_le_bytes(header[40..44].try_into().ok()?);
        if self.left_in_group == 0 {
            return None;
        }
        let client = PublicKey(header[..32].try_into().ok()?);
        let number = u64::from_le_bytes(header[32..40].try_into().ok()?);
        self.session = Some(SessionId { client, number });
        self.session
    }
}

impl<'a> Iterator for Cursor<'a> {
    type Item = Request<'a>;

    fn next(&mut self) -> Option<Request<'a>> {
        if self.at_end() {
            return None;
        }
        let session = match self.left_in_group {
            0 => self.group()?,
            _ => self.session?,
        };
        let (header, rest) = self.rest.split_at_checked(REQUEST_HEADER)?;
        let length = u32::from_le_bytes(header[17..21].try_into().ok()?);
        let (payload, rest) = rest.split_at_checked(usize::try_from(length).ok()?)?;
        self.rest = rest;
        self.left_in_group -= 1;
        Some(Request {
            session,
            sequence: u64::from_le_bytes(header[..8].try_into().ok()?),
            answered: u64::from_le_bytes(header[8..16].try_into().ok()?),
            operation: match header[16] {
                OPEN if payload.is_empty() => Operation::Open,
                APPLY => Operation::Apply(payload),
                QUERY => Operation::Query(payload),
                _ => return None,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(n: u8) -> SessionId {
        SessionId {
            client: PublicKey([n; 32]),
            number: u64::from(n),
        }
    }

    fn request(n: u8, sequence: u64, operation: Operation<'_>) -> Request<'_> {
        Request {
            session: session(n),
            sequence,
            answered: sequence / 2,
            operation,
        }
    }

    fn sample() -> (Vec<Request<'static>>, Batch) {
        let requests = vec![
            request(1, 1, Operation::Open),
            request(1, 2, Operation::Apply(b"put")),
            request(2, 9, Operation::Query(b"")),
            request(1, 3, Operation::Apply(b"")),
        ];
        let mut builder = BatchBuilder::default();
        for request in &requests {
            builder.push(*request);
        }
        (requests, builder.finish())
    }

    #[test]
    fn a_batch_gives_back_its_requests() {
        let (requests, batch) = sample();
        assert_eq!(batch.len(), 4);
        assert_eq!(batch.requests().collect::<Vec<_>>(), requests);
        let parsed = Batch::parse(batch.bytes().clone()).unwrap();
        assert_eq!(parsed, batch);
    }

    #[test]
    fn requests_of_one_session_share_a_header() {
        let mut builder = BatchBuilder::default();
        builder.push(request(1, 1, Operation::Apply(b"x")));
        let one = builder.size();
        builder.push(request(1, 2, Operation::Apply(b"x")));
        assert_eq!(builder.size() - one, one - GROUP_HEADER);
    }

    #[test]
    fn no_truncation_and_no_changed_tag_parses_as_the_same_batch() {
        let (_, batch) = sample();
        for cut in 1..batch.size() {
            let parsed = Batch::parse(batch.bytes().slice(..cut));
            assert!(parsed.is_err() || parsed.unwrap().len() < 4);
        }
        let mut bytes = batch.bytes().to_vec();
        bytes[GROUP_HEADER + 16] = 9;
        assert!(Batch::parse(bytes.into()).is_err());
    }

    #[test]
    fn an_empty_group_is_refused() {
        assert!(Batch::parse(Bytes::from(vec![0; GROUP_HEADER])).is_err());
        assert!(Batch::parse(Bytes::new()).unwrap().is_empty());
    }
}
