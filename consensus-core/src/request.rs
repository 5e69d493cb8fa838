//! Requests of clients, and the batches in which they are ordered.

use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::codec::{DecodeError, MESSAGE_LIMIT};
use crate::crypto::{BadSignature, Digest, Domain, PublicKey, Signature, Signer, Verifier};

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
    /// End the session: the client has all answers.
    Close,
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
            Operation::Close => ("close", 0),
        };
        write!(f, "{:?}#{} {name}({length} B)", self.session, self.sequence)
    }
}

/// What a client signs: a group of its requests.
const REQUESTS: Domain = Domain("requests");

/// Requests ordered together: one immutable buffer, shared by log, messages, records and
/// execution. An empty batch is a no-op.
///
/// Layout: groups, each of one session's consecutive requests: key (32 bytes), session number
/// (8), count (4), with the highest bit set if a signature (64) follows, then for each request
/// sequence (8), answered (8), operation (1), length (4) and payload; integers little-endian. A
/// batch that came off the wire or the disk has been checked once, when it was decoded.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Batch {
    bytes: Bytes,
    len: u32,
}

const GROUP_HEADER: usize = 32 + 8 + 4;
const REQUEST_HEADER: usize = 8 + 8 + 1 + 4;
const SIGNATURE: usize = 64;
const SIGNED: u32 = 1 << 31;

const OPEN: u8 = 0;
const APPLY: u8 = 1;
const QUERY: u8 = 2;
const CLOSE: u8 = 3;

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

    /// The groups, in order.
    pub fn groups(&self) -> impl Iterator<Item = Group<'_>> {
        let mut cursor = Cursor::new(&self.bytes);
        std::iter::from_fn(move || cursor.whole_group())
    }

    /// The same requests, with those groups signed that are of the signer's sessions and have no
    /// signature yet.
    pub fn signed(&self, signer: &Signer) -> Batch {
        let key = signer.public();
        let mut builder = BatchBuilder::default();
        for group in self.groups() {
            let signature = match group.signature {
                None if group.session.client == key => {
                    Some(signer.sign(REQUESTS, &group.statement()))
                }
                signature => signature,
            };
            builder.push_group(&Group { signature, ..group });
        }
        builder.finish()
    }

    /// Checks that each request was signed by a client that is admitted. Replicas may ask queries
    /// even if they are not.
    pub fn verify(&self, verifier: &Verifier) -> Result<(), Forged> {
        let mut claims = Vec::new();
        for group in self.groups() {
            group.may_ask(verifier)?;
            let signature = group.signature.ok_or(Forged::NotSigned)?;
            claims.push((group.session.client, group.statement(), signature));
        }
        Ok(verifier.verify_clients(REQUESTS, &claims)?)
    }
}

/// Requests that must not be ordered where replicas may lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Forged {
    /// There is no signature.
    #[error("a request is not signed by its client")]
    NotSigned,
    /// The client's key is not on the list.
    #[error("a request comes from a client that is not admitted")]
    NotAdmitted,
    /// A signature does not match.
    #[error("a request is not what its client signed")]
    BadSignature(#[from] BadSignature),
}

/// Consecutive requests of one session, which their client may have signed together.
#[derive(Clone, Copy, Debug)]
pub struct Group<'a> {
    /// The session.
    pub session: SessionId,
    /// The client's signature on the session's number and the requests.
    pub signature: Option<Signature>,
    count: u32,
    /// The requests, encoded.
    bytes: &'a [u8],
}

/// No command or query has more bytes than this, whatever a replica's settings: what is larger than
/// a message could be written but not read again, and not sent.
pub const COMMAND_LIMIT: usize = MESSAGE_LIMIT / 2;

/// A client signs no more bytes of requests together, unless one request alone has more.
pub const GROUP_BYTES: usize = 64 << 10;

impl<'a> Group<'a> {
    /// How many requests there are; never zero.
    pub fn len(&self) -> usize {
        self.count as usize
    }

    /// Whether there is no request.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// How many bytes the group takes, encoded.
    pub fn size(&self) -> usize {
        let signature = self.signature.map_or(0, |_| SIGNATURE);
        GROUP_HEADER + signature + self.bytes.len()
    }

    /// Checks that a client that is admitted signed these requests, as [`Batch::verify`] does.
    ///
    /// For requests that come from their client: what passes alone passes in any batch, so that
    /// no client can make a replica propose what others reject.
    pub fn verify(&self, verifier: &Verifier) -> Result<(), Forged> {
        self.may_ask(verifier)?;
        let signature = self.signature.ok_or(Forged::NotSigned)?;
        let claim = (self.session.client, self.statement(), signature);
        Ok(verifier.verify_clients(REQUESTS, &[claim])?)
    }

    /// The requests, in order.
    pub fn requests(&self) -> impl Iterator<Item = Request<'a>> + use<'a> {
        Cursor {
            rest: self.bytes,
            session: Some(self.session),
            left_in_group: self.count,
            signature: None,
        }
    }

    fn statement(&self) -> Vec<u8> {
        [&self.session.number.to_le_bytes(), self.bytes].concat()
    }

    fn may_ask(&self, verifier: &Verifier) -> Result<(), Forged> {
        let client = self.session.client;
        let only_queries = || {
            let mut operations = self.requests().map(|request| request.operation);
            operations.all(|operation| matches!(operation, Operation::Query(_)))
        };
        let may = verifier.admission().admits(client)
            || (verifier.members().find(client).is_some() && only_queries());
        match may {
            true => Ok(()),
            false => Err(Forged::NotAdmitted),
        }
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
    open: Option<OpenGroup>,
}

#[derive(Debug)]
struct OpenGroup {
    session: SessionId,
    count_at: usize,
    count: u32,
}

impl BatchBuilder {
    /// With room for `bytes`.
    pub fn with_capacity(bytes: usize) -> Self {
        BatchBuilder {
            buffer: BytesMut::with_capacity(bytes),
            len: 0,
            open: None,
        }
    }

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
                open.insert(OpenGroup {
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
            Operation::Close => (CLOSE, &[]),
        };
        self.buffer.put_u64_le(request.sequence);
        self.buffer.put_u64_le(request.answered);
        self.buffer.put_u8(tag);
        self.buffer.put_u32_le(payload.len() as u32);
        self.buffer.put_slice(payload);
    }

    /// Adds a group as it is, with its signature.
    pub fn push_group(&mut self, group: &Group<'_>) {
        self.open = None;
        self.buffer.put_slice(&group.session.client.0);
        self.buffer.put_u64_le(group.session.number);
        match &group.signature {
            None => self.buffer.put_u32_le(group.count),
            Some(signature) => {
                self.buffer.put_u32_le(group.count | SIGNED);
                self.buffer.put_slice(&signature.to_bytes());
            }
        }
        self.buffer.put_slice(group.bytes);
        self.len += group.count;
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
    signature: Option<Signature>,
}

impl<'a> Cursor<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Cursor {
            rest: bytes,
            session: None,
            left_in_group: 0,
            signature: None,
        }
    }

    fn at_end(&self) -> bool {
        self.rest.is_empty() && self.left_in_group == 0
    }

    fn group(&mut self) -> Option<SessionId> {
        let (header, rest) = self.rest.split_at_checked(GROUP_HEADER)?;
        self.rest = rest;
        let count = u32::from_le_bytes(header[40..44].try_into().ok()?);
        self.left_in_group = count & !SIGNED;
        if self.left_in_group == 0 {
            return None;
        }
        self.signature = None;
        if count & SIGNED != 0 {
            let (signature, rest) = self.rest.split_at_checked(SIGNATURE)?;
            self.rest = rest;
            self.signature = Some(Signature::from_bytes(signature.try_into().ok()?));
        }
        let client = PublicKey(header[..32].try_into().ok()?);
        let number = u64::from_le_bytes(header[32..40].try_into().ok()?);
        self.session = Some(SessionId { client, number });
        self.session
    }

    fn whole_group(&mut self) -> Option<Group<'a>> {
        if self.at_end() {
            return None;
        }
        let session = self.group()?;
        let (start, count) = (self.rest, self.left_in_group);
        for _ in 0..count {
            self.next()?;
        }
        Some(Group {
            session,
            signature: self.signature,
            count,
            bytes: &start[..start.len() - self.rest.len()],
        })
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
                CLOSE if payload.is_empty() => Operation::Close,
                _ => return None,
            },
        })
    }
}

#[cfg(test)]
mod tests;
