//! One connection's stream of frames, the same for peers and clients.
//!
//! The caller opens the connection's first bidirectional stream and sends a hello, which
//! announces the stream; whoever is called answers with a welcome, once it has decided to. So
//! the caller knows that it is accepted, which the TLS handshake alone does not tell it.
//!
//! A replica's hello has the digest of its [`Epoch`]. Where that is not the other's, the answer is
//! no welcome but the text of the other's epoch, to which the caller answers with its own: then both
//! know in what they differ, and the connection ends. It also has the [`Life`] that the replica is in,
//! and so has the welcome: each end lets the other in only if it has forgotten nothing.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use quinn::{Connection, ConnectionError, ReadError, ReadExactError, RecvStream, SendStream};
use quorate_core::crypto::Digest;
use quorate_core::epoch::{Epoch, TEXT_LIMIT};
use quorate_core::id::{MAX_REPLICAS, ReplicaId};
use quorate_core::life::{Acquaintances, Life, PAST, Position, Refusal};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout_at;

use crate::close::Close;
use crate::frame::{self, Decoder, FRAME_LIMIT, Oversized};
use crate::outbox::{Dropped, Outbox, QueueLimit, Together};
use crate::settings::Settings;
use crate::stats::Counters;

const HELLO: u8 = 1;
const WELCOME: u8 = 2;
const DIFFERS: u8 = 3;
const FORGOT: u8 = 4;

/// A life, as it is sent.
pub(crate) const LIFE_BYTES: usize = 8 * (3 + PAST);

/// The most bytes of what is said of one that was refused.
const REASON_LIMIT: usize = 512;

/// Frames go before bulk on the same connection.
const FRAME_PRIORITY: i32 = 1;

/// How many chunks are taken from QUIC at a time.
const CHUNKS: usize = 32;

/// The sending half of a link: a queue, and the connection it is written to for as long as that
/// lasts. Once it has ended nothing of QUIC is held, whoever still holds this.
#[derive(Debug)]
pub(crate) struct Outlet {
    outbox: Outbox,
    connection: Mutex<Option<Connection>>,
    since: Instant,
}

impl Outlet {
    pub(crate) fn new(connection: Connection, limit: QueueLimit) -> Self {
        Outlet {
            outbox: Outbox::new(limit),
            connection: Mutex::new(Some(connection)),
            since: Instant::now(),
        }
    }

    /// The half of a client's link, which shares a bound with those of other clients.
    pub(crate) fn sharing(
        connection: Connection,
        limit: QueueLimit,
        together: Arc<Together>,
    ) -> Self {
        Outlet {
            outbox: Outbox::sharing(limit, together),
            connection: Mutex::new(Some(connection)),
            since: Instant::now(),
        }
    }

    /// How many bytes wait to be written.
    pub(crate) fn backlog(&self) -> usize {
        self.outbox.backlog()
    }

    fn slot(&self) -> MutexGuard<'_, Option<Connection>> {
        self.connection
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn push(&self, frame: Bytes) -> Result<(), Dropped> {
        self.outbox.push(frame)
    }

    pub(crate) fn connection(&self) -> Option<Connection> {
        self.slot().clone()
    }

    /// When the link was made.
    pub(crate) fn since(&self) -> Instant {
        self.since
    }

    /// Ends the link, and tells the other end why. What is queued is dropped.
    pub(crate) fn close(&self, why: Close) {
        self.outbox.close();
        if let Some(connection) = self.slot().take() {
            why.apply(&connection);
        }
    }

    /// Writes what is queued, until the link ends. All that is ready goes into one write.
    pub(crate) async fn write_to(&self, mut stream: SendStream, counters: Option<&Counters>) {
        let mut frames = Vec::new();
        let mut chunks = Vec::new();
        while self.outbox.take(&mut frames).await.is_ok() {
            let sent = frames.len();
            let bytes = frames.iter().map(Bytes::len).sum();
            frame::encode(&mut frames, &mut chunks);
            if stream.write_all_chunks(&mut chunks).await.is_err() {
                self.close(Close::Done);
                return;
            }
            chunks.clear();
            if let Some(counters) = counters {
                counters.sent(sent, bytes);
            }
        }
    }
}

/// What a replica agrees on with those that it links to, ready to be told.
#[derive(Debug)]
pub(crate) struct Terms {
    epoch: Epoch,
    digest: Digest,
    text: String,
}

impl From<Epoch> for Terms {
    fn from(epoch: Epoch) -> Self {
        Terms {
            digest: epoch.digest(),
            text: epoch.to_string(),
            epoch,
        }
    }
}

impl Terms {
    /// What is told: all of it, or nothing if it is more than is taken.
    fn told(&self) -> &[u8] {
        Some(self.text.as_bytes())
            .filter(|text| text.len() <= TEXT_LIMIT)
            .unwrap_or_default()
    }

    /// In what the epoch of this text differs.
    fn differ(&self, theirs: &[u8]) -> End {
        let theirs = std::str::from_utf8(theirs).ok().and_then(Epoch::parse);
        End::Differs(match theirs {
            Some(theirs) => self.epoch.differences(&theirs).to_string(),
            None => String::from("the other end does not tell in what"),
        })
    }
}

/// Who this replica is to the others, and what it remembers of them.
pub(crate) struct Credentials {
    pub(crate) terms: Terms,
    acquaintances: Arc<dyn Acquaintances>,
    /// One for each replica, held while it is being met.
    meetings: Vec<Arc<Semaphore>>,
}

impl Credentials {
    pub(crate) fn new(epoch: Epoch, acquaintances: Arc<dyn Acquaintances>) -> Self {
        let meetings = (0..MAX_REPLICAS).map(|_| Arc::new(Semaphore::new(1)));
        Credentials {
            terms: Terms::from(epoch),
            acquaintances,
            meetings: meetings.collect(),
        }
    }

    pub(crate) fn acquaintances(&self) -> Arc<dyn Acquaintances> {
        self.acquaintances.clone()
    }

    /// Lets a replica in that comes in this life, unless it has forgotten something. What is
    /// remembered of it is durable then. A disk that does not answer keeps one thread for each
    /// replica, however often it comes.
    async fn meet(&self, peer: ReplicaId, life: Life) -> Result<(), End> {
        let meeting = self.meetings.get(peer.index()).cloned();
        let turn = meeting.ok_or(End::Closed(None))?.acquire_owned().await;
        let acquaintances = self.acquaintances.clone();
        let meeting = tokio::task::spawn_blocking(move || {
            let met = acquaintances.meet(peer, life);
            drop(turn);
            met
        });
        match meeting.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(refusal @ Refusal::Unwritable(_))) => Err(End::Unready(refusal.to_string())),
            Ok(Err(refusal)) => Err(End::Forgot(refusal.to_string())),
            Err(_) => Err(End::Closed(None)),
        }
    }
}

fn encode(life: Life) -> [u8; LIFE_BYTES] {
    let mut bytes = [0; LIFE_BYTES];
    let numbers = [life.number, life.nonce, life.start.0];
    let numbers = numbers.into_iter().chain(life.past);
    for (place, number) in bytes.chunks_mut(8).zip(numbers) {
        place.copy_from_slice(&number.to_be_bytes());
    }
    bytes
}

fn decode(bytes: [u8; LIFE_BYTES]) -> Life {
    let mut numbers = bytes.chunks(8).map(|number| {
        let bytes = number.iter();
        bytes.fold(0, |sum, byte| (sum << 8) | u64::from(*byte))
    });
    let mut next = || numbers.next().unwrap_or_default();
    Life {
        number: next(),
        nonce: next(),
        start: Position(next()),
        past: std::array::from_fn(|_| next()),
    }
}

/// Why no more frames come from a link.
#[derive(Debug)]
pub(crate) enum End {
    /// The connection has ended, or the stream.
    Closed(Option<ConnectionError>),
    /// The other end does not speak this protocol.
    Malformed(String),
    /// The other end has other settings, which must be the same.
    Differs(String),
    /// The other end has lost what it had said to be durable.
    Forgot(String),
    /// The other end says so of this one.
    Forgotten(String),
    /// Whoever comes cannot be remembered now: that is no fault of the other end's.
    Unready(String),
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            End::Closed(Some(error)) => write!(f, "{error}"),
            End::Closed(None) => f.write_str("the other end has finished"),
            End::Malformed(reason) => f.write_str(reason),
            End::Differs(what) => write!(f, "it is configured otherwise: {what}"),
            End::Forgot(what) | End::Unready(what) => f.write_str(what),
            End::Forgotten(what) => write!(f, "it says of this replica: {what}"),
        }
    }
}

impl From<ReadError> for End {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::ConnectionLost(error) => End::Closed(Some(error)),
            _ => End::Closed(None),
        }
    }
}

impl From<ReadExactError> for End {
    fn from(error: ReadExactError) -> Self {
        match error {
            ReadExactError::FinishedEarly(_) => End::Closed(None),
            ReadExactError::ReadError(error) => error.into(),
        }
    }
}

impl From<Oversized> for End {
    fn from(error: Oversized) -> Self {
        End::Malformed(error.to_string())
    }
}

/// The receiving half of a link.
pub(crate) struct Inlet {
    stream: RecvStream,
    decoder: Decoder,
    chunks: [Bytes; CHUNKS],
    unread: std::ops::Range<usize>,
    /// Room for large frames, if that is shared with others, and what this one has of it.
    room: Option<Room>,
    held: Option<Held>,
}

/// Frames up to this size need no room.
const SMALL: usize = 64 << 10;

/// Room for the large frames of many links together, and how long one may keep it.
#[derive(Clone, Debug)]
pub(crate) struct Room {
    kilobytes: Arc<Semaphore>,
    all: u32,
    limit: Duration,
}

struct Held {
    until: tokio::time::Instant,
    _permit: OwnedSemaphorePermit,
}

impl Room {
    pub(crate) fn new(settings: &Settings) -> Self {
        let all = settings.clients_frame_bytes.max(FRAME_LIMIT) >> 10;
        let all = u32::try_from(all).unwrap_or(u32::MAX);
        Room {
            kilobytes: Arc::new(Semaphore::new(all as usize)),
            all,
            limit: settings.frame_timeout,
        }
    }

    /// Waits until there is room for a frame.
    async fn hold(&self, bytes: usize) -> Option<Held> {
        let kilobytes = u32::try_from(bytes.div_ceil(1 << 10)).unwrap_or(self.all);
        let room = self.kilobytes.clone();
        let permit = room.acquire_many_owned(kilobytes.min(self.all)).await;
        Some(Held {
            until: tokio::time::Instant::now() + self.limit,
            _permit: permit.ok()?,
        })
    }
}

impl Inlet {
    fn new(stream: RecvStream) -> Self {
        Inlet {
            stream,
            decoder: Decoder::default(),
            chunks: Default::default(),
            unread: 0..0,
            room: None,
            held: None,
        }
    }

    /// From now on a large frame is read only when there is room for it.
    pub(crate) fn share(&mut self, room: Room) {
        self.room = Some(room);
    }

    /// The next frame. Dropping the future loses nothing.
    pub(crate) async fn next(&mut self) -> Result<Bytes, End> {
        if self.decoder.claimed().is_none() {
            self.held = None;
        }
        loop {
            if let Some(frame) = self.decoder.next()? {
                return Ok(frame);
            }
            if let (None, Some(room)) = (&self.held, &self.room)
                && let Some(claimed) = self.decoder.claimed().filter(|claimed| *claimed > SMALL)
            {
                self.held = room.hold(claimed).await;
            }
            let chunk = match self.unread.next().and_then(|i| self.chunks.get_mut(i)) {
                Some(chunk) => std::mem::take(chunk),
                None => {
                    self.unread = 0..self.read_chunks().await?;
                    continue;
                }
            };
            self.decoder.feed(chunk);
        }
    }

    async fn read<const N: usize>(&mut self) -> Result<[u8; N], End> {
        let mut bytes = [0; N];
        self.stream.read_exact(&mut bytes).await?;
        Ok(bytes)
    }

    async fn read_chunks(&mut self) -> Result<usize, End> {
        let reading = self.stream.read_chunks(&mut self.chunks);
        let read = match &self.held {
            None => reading.await?,
            Some(held) => match timeout_at(held.until, reading).await {
                Ok(read) => read?,
                Err(_) => return Err(End::Malformed(String::from("a large frame does not come"))),
            },
        };
        read.ok_or(End::Closed(None))
    }

    async fn expect(&mut self, byte: u8, what: &str) -> Result<(), End> {
        match self.read().await? {
            [read] if read == byte => Ok(()),
            _ => Err(unexpected(what)),
        }
    }

    /// A text of at most so many bytes.
    async fn text(&mut self, limit: usize) -> Result<Vec<u8>, End> {
        let length = u32::from_be_bytes(self.read().await?) as usize;
        if length > limit {
            let reason = format!("it announces a text of {length} bytes");
            return Err(End::Malformed(reason));
        }
        let mut text = vec![0; length];
        self.stream.read_exact(&mut text).await?;
        Ok(text)
    }

    async fn life(&mut self) -> Result<Life, End> {
        Ok(decode(self.read().await?))
    }
}

fn unexpected(what: &str) -> End {
    End::Malformed(format!("it does not begin with a {what}"))
}

/// The two halves of a new link, before it is welcome.
pub(crate) struct Opened {
    pub(crate) sending: SendStream,
    pub(crate) inlet: Inlet,
}

impl Opened {
    fn new(sending: SendStream, receiving: RecvStream) -> Self {
        // Fails only on a stream that is closed, which the first write tells.
        let _ = sending.set_priority(FRAME_PRIORITY);
        Opened {
            sending,
            inlet: Inlet::new(receiving),
        }
    }

    /// Tells a client that it is accepted.
    pub(crate) async fn welcome(&mut self) -> Result<(), End> {
        self.write(&[WELCOME]).await
    }

    /// Tells a replica that it is accepted, and in which life this one is.
    pub(crate) async fn welcome_as(&mut self, own: &Credentials) -> Result<(), End> {
        self.welcome().await?;
        self.write(&encode(own.acquaintances.own())).await
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<(), End> {
        let written = self.sending.write_all(bytes).await;
        written.map_err(|_| End::Closed(None))
    }

    async fn write_text(&mut self, text: &[u8]) -> Result<(), End> {
        self.write(&(text.len() as u32).to_be_bytes()).await?;
        self.write(text).await
    }

    /// Takes the digest of a caller's epoch, and its life. An error unless the digest is this
    /// replica's, once each end has told the other what it has instead, and the caller has
    /// forgotten nothing.
    pub(crate) async fn agree(&mut self, peer: ReplicaId, own: &Credentials) -> Result<(), End> {
        let digest = Digest(self.inlet.read().await?);
        if digest != own.terms.digest {
            self.write(&[DIFFERS]).await?;
            self.write_text(own.terms.told()).await?;
            self.inlet.life().await?;
            let theirs = self.inlet.text(TEXT_LIMIT).await?;
            return Err(own.terms.differ(&theirs));
        }
        let life = self.inlet.life().await?;
        let met = own.meet(peer, life).await;
        if let Err(End::Forgot(reason)) = &met {
            self.write(&[FORGOT]).await?;
            let said = reason.as_bytes();
            self.write_text(said.get(..REASON_LIMIT).unwrap_or(said))
                .await?;
        }
        met
    }
}

/// Opens the link of a client's connection; returns when the other end has accepted.
pub(crate) async fn open(connection: &Connection) -> Result<Opened, End> {
    let mut opened = begin(connection).await?;
    opened.inlet.expect(WELCOME, "welcome").await?;
    Ok(opened)
}

/// Opens the link of a connection to another replica; returns when each end has accepted the other.
pub(crate) async fn open_to(
    connection: &Connection,
    peer: ReplicaId,
    own: &Credentials,
) -> Result<Opened, End> {
    let mut opened = begin(connection).await?;
    opened.write(&own.terms.digest.0).await?;
    opened.write(&encode(own.acquaintances.own())).await?;
    match opened.inlet.read().await? {
        [WELCOME] => {
            let life = opened.inlet.life().await?;
            own.meet(peer, life).await?;
            Ok(opened)
        }
        [DIFFERS] => {
            let theirs = opened.inlet.text(TEXT_LIMIT).await?;
            opened.write_text(own.terms.told()).await?;
            // Were this end to close the connection, the other one might not have read it.
            connection.closed().await;
            Err(own.terms.differ(&theirs))
        }
        [FORGOT] => {
            let reason = opened.inlet.text(REASON_LIMIT).await?;
            Err(End::Forgotten(printable(&reason)))
        }
        _ => Err(unexpected("welcome")),
    }
}

/// What another end says, fit for a log.
fn printable(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    text.chars().filter(|c| !c.is_control()).collect()
}

async fn begin(connection: &Connection) -> Result<Opened, End> {
    let (sending, receiving) = connection
        .open_bi()
        .await
        .map_err(|error| End::Closed(Some(error)))?;
    let mut opened = Opened::new(sending, receiving);
    opened.write(&[HELLO]).await?;
    Ok(opened)
}

/// The link of a connection that has called; it is not yet welcome.
pub(crate) async fn accept(connection: &Connection) -> Result<Opened, End> {
    let (sending, receiving) = connection
        .accept_bi()
        .await
        .map_err(|error| End::Closed(Some(error)))?;
    let mut opened = Opened::new(sending, receiving);
    opened.inlet.expect(HELLO, "hello").await?;
    Ok(opened)
}
