//! One connection's stream of frames, the same for peers and clients.
//!
//! The caller opens the connection's first bidirectional stream and sends a hello, which
//! announces the stream; whoever is called answers with a welcome, once it has decided to. So
//! the caller knows that it is accepted, which the TLS handshake alone does not tell it.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use quinn::{Connection, ConnectionError, ReadError, RecvStream, SendStream};

use crate::close::Close;
use crate::frame::{self, Decoder, Oversized};
use crate::outbox::{Dropped, Outbox, QueueLimit};
use crate::stats::Counters;

const HELLO: u8 = 1;
const WELCOME: u8 = 2;

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

/// Why no more frames come from a link.
#[derive(Debug)]
pub(crate) enum End {
    /// The connection has ended, or the stream.
    Closed(Option<ConnectionError>),
    /// The other end does not speak this protocol.
    Malformed(String),
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            End::Closed(Some(error)) => write!(f, "{error}"),
            End::Closed(None) => f.write_str("the other end has finished"),
            End::Malformed(reason) => f.write_str(reason),
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
}

impl Inlet {
    fn new(stream: RecvStream) -> Self {
        Inlet {
            stream,
            decoder: Decoder::default(),
            chunks: Default::default(),
            unread: 0..0,
        }
    }

    /// The next frame. Dropping the future loses nothing.
    pub(crate) async fn next(&mut self) -> Result<Bytes, End> {
        loop {
            if let Some(frame) = self.decoder.next()? {
                return Ok(frame);
            }
            let chunk = match self.unread.next().and_then(|i| self.chunks.get_mut(i)) {
                Some(chunk) => std::mem::take(chunk),
                None => {
                    let read = self.stream.read_chunks(&mut self.chunks).await?;
                    self.unread = 0..read.ok_or(End::Closed(None))?;
                    continue;
                }
            };
            self.decoder.feed(chunk);
        }
    }

    async fn expect(&mut self, byte: u8, what: &str) -> Result<(), End> {
        let mut read = [0];
        match self.stream.read(&mut read).await? {
            None => Err(End::Closed(None)),
            Some(_) if read == [byte] => Ok(()),
            Some(_) => Err(End::Malformed(format!("it does not begin with a {what}"))),
        }
    }
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

    /// Tells the caller that it is accepted.
    pub(crate) async fn welcome(&mut self) -> Result<(), End> {
        self.write(WELCOME).await
    }

    async fn write(&mut self, byte: u8) -> Result<(), End> {
        let written = self.sending.write_all(&[byte]).await;
        written.map_err(|_| End::Closed(None))
    }
}

/// Opens the link of a connection that was called; returns when the other end has accepted.
pub(crate) async fn open(connection: &Connection) -> Result<Opened, End> {
    let (sending, receiving) = connection
        .open_bi()
        .await
        .map_err(|error| End::Closed(Some(error)))?;
    let mut opened = Opened::new(sending, receiving);
    opened.write(HELLO).await?;
    opened.inlet.expect(WELCOME, "welcome").await?;
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
