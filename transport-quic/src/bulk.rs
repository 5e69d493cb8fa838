//! Bulk: a bidirectional stream a request, beside the frames.
//!
//! The request is all that comes until the stream's end. The answer is one byte, whether there
//! is one, and then all that comes until the end.
//!
//! Neither end waits for ever. Who asks gives up an answer that makes no progress, whatever the
//! connection says; who answers gives up one that does not send its request, or does not read.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use quinn::{Connection, RecvStream, SendStream};
use quorate_core::id::ReplicaId;
use quorate_core::transport::{BULK_PROGRESS, Service, TransportError};
use tokio::time::{Instant, timeout, timeout_at};

use crate::close::{Close, to_transport_error, unreachable};
use crate::frame::FRAME_LIMIT;
use crate::tasks::Tasks;

/// The most bytes of an answer.
const ANSWER_LIMIT: usize = 1 << 30;

/// How many bytes of an answer are written at a time.
const PART: usize = 64 << 10;

const REFUSED: u8 = 0;
const ANSWERED: u8 = 1;

/// Why an answer was given up.
pub(crate) const STALLED: &str = "the answer makes no progress";

/// How long an answer may make no progress, and who is told that it makes some.
type Pace<'a> = (Duration, &'a (dyn Fn() + Send + Sync));

/// Asks `to` on a stream of its own.
pub(crate) async fn ask(
    connection: &Connection,
    to: ReplicaId,
    request: Bytes,
    pace: Pace<'_>,
) -> Result<Bytes, TransportError> {
    if request.len() > FRAME_LIMIT {
        let reason = format!("a request of {} bytes is over the limit", request.len());
        return Err(unreachable(to, reason));
    }
    let failed = |error: String| match connection.close_reason() {
        Some(reason) => to_transport_error(to, &reason),
        None => unreachable(to, error),
    };
    // There may be as many streams open as the other end allows.
    let opened = timeout(pace.0, connection.open_bi()).await;
    let opened = opened.map_err(|_| unreachable(to, STALLED))?;
    let (mut sending, mut receiving) = opened.map_err(|error| to_transport_error(to, &error))?;
    let sent = send_all(&mut sending, [request], pace.0).await;
    sent.map_err(failed)?;
    let mut answer = read_all(&mut receiving, ANSWER_LIMIT + 1, BULK_PROGRESS, pace)
        .await
        .map_err(failed)?;
    match answer.first() {
        Some(&ANSWERED) => Ok(answer.split_off(1)),
        Some(&REFUSED) => Err(TransportError::Refused { to }),
        _ => Err(unreachable(to, "the answer is malformed")),
    }
}

/// Answers what `from` asks on `connection`, until that ends. How many requests run at a time is
/// bounded by the streams it may open, and how long it may leave one waiting by its patience.
pub(crate) async fn serve(
    tasks: Arc<Tasks>,
    service: Arc<dyn Service>,
    (from, patience): (ReplicaId, Duration),
    connection: Connection,
) {
    while let Ok((sending, receiving)) = connection.accept_bi().await {
        let service = service.clone();
        tasks.spawn(async move {
            if let Err(reason) = answer(&*service, (from, patience), sending, receiving).await {
                tracing::debug!(%from, reason, "a bulk request failed");
            }
        });
    }
}

async fn answer(
    service: &dyn Service,
    (from, patience): (ReplicaId, Duration),
    mut sending: SendStream,
    mut receiving: RecvStream,
) -> Result<(), String> {
    let request = read_all(&mut receiving, FRAME_LIMIT, PART, (patience, &|| {})).await?;
    let answer = service.bulk(from, request).await;
    let bytes = |parts: &Vec<Bytes>| parts.iter().map(Bytes::len).sum::<usize>();
    let over = answer.as_ref().map(bytes).filter(|b| *b > ANSWER_LIMIT);
    if let Some(bytes) = over {
        tracing::warn!(%from, bytes, "a bulk answer is over the limit");
    }
    let sent = match answer.filter(|_| over.is_none()) {
        Some(parts) => {
            let status = Bytes::from_static(&[ANSWERED]);
            send_all(&mut sending, [status].into_iter().chain(parts), patience).await
        }
        None => send_all(&mut sending, [Bytes::from_static(&[REFUSED])], patience).await,
    };
    if sent.is_err() {
        // Fails only on a stream that has ended. Otherwise what was written would go on to wait.
        let _ = sending.reset(Close::SlowReader.varint());
    }
    sent
}

/// Sends all of it, as long as the other end takes some of it within `patience`.
async fn send_all(
    stream: &mut SendStream,
    chunks: impl IntoIterator<Item = Bytes>,
    patience: Duration,
) -> Result<(), String> {
    for mut rest in chunks {
        while !rest.is_empty() {
            let part = rest.split_to(rest.len().min(PART));
            let written = timeout(patience, stream.write_chunk(part)).await;
            let written = written.map_err(|_| String::from("it is not read"))?;
            written.map_err(|error| error.to_string())?;
        }
    }
    stream.finish().map_err(|error| error.to_string())
}

/// All that comes until the end, in a buffer that grows with it, as long as `progress` bytes come
/// within each `patience`.
async fn read_all(
    stream: &mut RecvStream,
    limit: usize,
    progress: usize,
    (patience, heard): Pace<'_>,
) -> Result<Bytes, String> {
    let mut all = BytesMut::new();
    let (mut counted, mut since, mut told) = (0, Instant::now(), Instant::now());
    loop {
        let chunk = timeout_at(since + patience, stream.read_chunk(usize::MAX, true)).await;
        let chunk = chunk.map_err(|_| String::from(STALLED))?;
        let Some(chunk) = chunk.map_err(|error| error.to_string())? else {
            return Ok(all.freeze());
        };
        if chunk.bytes.len() > limit - all.len() {
            // Fails only on a stream that has ended.
            let _ = stream.stop(Close::BadFrame.varint());
            return Err(format!("more than {limit} bytes came"));
        }
        all.extend_from_slice(&chunk.bytes);
        if all.len() - counted < progress {
            continue;
        }
        (counted, since) = (all.len(), Instant::now());
        if since - told >= patience / 4 {
            told = since;
            heard();
        }
    }
}
