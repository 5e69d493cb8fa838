//! Bulk: a bidirectional stream a request, beside the frames.
//!
//! The request is all that comes until the stream's end. The answer is one byte, whether there
//! is one, and then all that comes until the end.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use quinn::{Connection, RecvStream, SendStream};
use quorate_core::id::ReplicaId;
use quorate_core::transport::{Service, TransportError};

use crate::close::{Close, to_transport_error, unreachable};
use crate::frame::FRAME_LIMIT;
use crate::tasks::Tasks;

/// The most bytes of an answer.
const ANSWER_LIMIT: usize = 1 << 30;

const REFUSED: u8 = 0;
const ANSWERED: u8 = 1;

/// Asks `to` on a stream of its own.
pub(crate) async fn ask(
    connection: &Connection,
    to: ReplicaId,
    request: Bytes,
) -> Result<Bytes, TransportError> {
    if request.len() > FRAME_LIMIT {
        let reason = format!("a request of {} bytes is over the limit", request.len());
        return Err(unreachable(to, reason));
    }
    let failed = |error: String| match connection.close_reason() {
        Some(reason) => to_transport_error(to, &reason),
        None => unreachable(to, error),
    };
    let (mut sending, mut receiving) = connection
        .open_bi()
        .await
        .map_err(|error| to_transport_error(to, &error))?;
    send_all(&mut sending, [request]).await.map_err(failed)?;
    let mut answer = read_all(&mut receiving, ANSWER_LIMIT + 1)
        .await
        .map_err(failed)?;
    match answer.first() {
        Some(&ANSWERED) => Ok(answer.split_off(1)),
        Some(&REFUSED) => Err(TransportError::Refused { to }),
        _ => Err(unreachable(to, "the answer is malformed")),
    }
}

/// Answers what `from` asks on `connection`, until that ends. How many requests run at a time is
/// bounded by the streams it may open.
pub(crate) async fn serve(
    tasks: Arc<Tasks>,
    service: Arc<dyn Service>,
    from: ReplicaId,
    connection: Connection,
) {
    while let Ok((sending, receiving)) = connection.accept_bi().await {
        let service = service.clone();
        tasks.spawn(async move {
            if let Err(reason) = answer(&*service, from, sending, receiving).await {
                tracing::debug!(%from, reason, "a bulk request failed");
            }
        });
    }
}

async fn answer(
    service: &dyn Service,
    from: ReplicaId,
    mut sending: SendStream,
    mut receiving: RecvStream,
) -> Result<(), String> {
    let request = read_all(&mut receiving, FRAME_LIMIT).await?;
    match service.bulk(from, request).await {
        Some(answer) if answer.len() > ANSWER_LIMIT => {
            tracing::warn!(%from, bytes = answer.len(), "a bulk answer is over the limit");
            send_all(&mut sending, [Bytes::from_static(&[REFUSED])]).await
        }
        Some(answer) => {
            let status = Bytes::from_static(&[ANSWERED]);
            send_all(&mut sending, [status, answer]).await
        }
        None => send_all(&mut sending, [Bytes::from_static(&[REFUSED])]).await,
    }
}

async fn send_all<const N: usize>(
    stream: &mut SendStream,
    mut chunks: [Bytes; N],
) -> Result<(), String> {
    let written = stream.write_all_chunks(&mut chunks).await;
    written.map_err(|error| error.to_string())?;
    stream.finish().map_err(|error| error.to_string())
}

/// All that comes until the end, in a buffer that grows with it.
async fn read_all(stream: &mut RecvStream, limit: usize) -> Result<Bytes, String> {
    let mut all = BytesMut::new();
    loop {
        let chunk = stream.read_chunk(usize::MAX, true).await;
        let Some(chunk) = chunk.map_err(|error| error.to_string())? else {
            return Ok(all.freeze());
        };
        if chunk.bytes.len() > limit - all.len() {
            // Fails only on a stream that has ended.
            let _ = stream.stop(Close::BadFrame.varint());
            return Err(format!("more than {limit} bytes came"));
        }
        all.extend_from_slice(&chunk.bytes);
    }
}
