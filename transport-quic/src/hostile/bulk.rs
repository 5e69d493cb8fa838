//! Members that take a request for bulk and do not answer, or ask and do not read.

use std::sync::atomic::{AtomicUsize, Ordering};

use quorate_core::transport::BULK_PROGRESS;

use super::*;

const PATIENCE: Duration = Duration::from_secs(1);

/// What the target gets that asks member 0, which answers like this; and how often it heard of
/// progress.
async fn asked<F, A>(answer: F) -> (Result<Bytes, TransportError>, usize)
where
    F: FnOnce(SendStream) -> A,
    A: Future<Output = ()> + Send + 'static,
{
    let world = World::new();
    let (connection, _opened) = world.dial(&key(0), Caller::Replica).await.unwrap();
    connected(&world.target, 0).await;
    let asked = world.target.clone();
    let heard = Arc::new(AtomicUsize::new(0));
    let count = heard.clone();
    let asking = tokio::spawn(async move {
        let heard = move || {
            count.fetch_add(1, Ordering::Relaxed);
        };
        asked
            .bulk(ReplicaId(0), Bytes::new(), PATIENCE, &heard)
            .await
    });
    let (sending, mut receiving) = connection.accept_bi().await.unwrap();
    receiving.read_to_end(10).await.unwrap();
    let answering = tokio::spawn(answer(sending));
    let outcome = asking.await.unwrap();
    answering.abort();
    (outcome, heard.load(Ordering::Relaxed))
}

/// One byte, that there is an answer, and then so many bytes at a time.
async fn trickle(mut sending: SendStream, bytes: usize, every: Duration, times: usize) {
    sending.write_all(&[1]).await.unwrap();
    for _ in 0..times {
        if sending.write_all(&vec![5; bytes]).await.is_err() {
            return;
        }
        tokio::time::sleep(every).await;
    }
    sending.finish().ok();
}

fn stalled(outcome: Result<Bytes, TransportError>) -> bool {
    let Err(TransportError::Unreachable { reason, .. }) = outcome else {
        return false;
    };
    reason.contains("no progress")
}

#[tokio::test]
async fn a_member_that_takes_a_request_and_never_answers_is_given_up() {
    let (outcome, heard) = asked(async |sending: SendStream| {
        let _sending = sending;
        std::future::pending::<()>().await;
    })
    .await;
    assert!(stalled(outcome));
    assert_eq!(heard, 0);
}

/// It sends a third of what is progress within the time, and would go on for ever.
#[tokio::test]
async fn a_member_that_trickles_is_given_up() {
    let (bytes, every) = (BULK_PROGRESS / 64, PATIENCE / 20);
    let (outcome, _) = asked(move |sending| trickle(sending, bytes, every, usize::MAX)).await;
    assert!(stalled(outcome));
}

/// It takes longer than the patience, all together, and makes progress within each.
#[tokio::test]
async fn a_member_that_makes_progress_is_waited_for() {
    let (bytes, every, times) = (BULK_PROGRESS, PATIENCE * 3 / 10, 5);
    let (outcome, heard) = asked(move |sending| trickle(sending, bytes, every, times)).await;
    assert_eq!(outcome.unwrap().len(), times * bytes);
    assert!(heard > 0);
}

/// The target would hold what it has to say, and a task, for as long as the connection lasts.
#[tokio::test]
async fn a_member_that_asks_and_does_not_read_is_given_up() {
    let world = World::new();
    let (connection, _opened) = world.dial(&key(0), Caller::Replica).await.unwrap();
    let mut streams = Vec::new();
    // As many as may be open at a time; the first of them is for frames.
    for _ in 0..8 {
        let (mut sending, receiving) = connection.open_bi().await.unwrap();
        sending.finish().unwrap();
        streams.push(receiving);
    }
    for receiving in &mut streams {
        let code = receiving.received_reset().await.unwrap();
        assert_eq!(code, Some(Close::SlowReader.varint()));
    }
}

#[tokio::test]
async fn a_member_that_does_not_end_its_request_is_given_up() {
    let world = World::new();
    let (connection, _opened) = world.dial(&key(0), Caller::Replica).await.unwrap();
    let (mut sending, mut receiving) = connection.open_bi().await.unwrap();
    sending.write_all(b"and ").await.unwrap();
    assert!(sending.stopped().await.is_ok());
    assert!(
        receiving
            .read_to_end(10)
            .await
            .is_ok_and(|all| all.is_empty())
    );
}
