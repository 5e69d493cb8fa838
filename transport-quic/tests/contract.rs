//! What every transport must do, held to QUIC and to memory alike.

mod network;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use network::{
    Memory, Network, Node, Quic, Recorder, Replies, ask, client_key, eventually, key, keys,
    not_authenticated, r,
};
use quorate_core::id::ReplicaSet;
use quorate_core::transport::TransportError;
use quorate_transport_quic::FRAME_LIMIT;

macro_rules! contract {
    ($($name:ident)*) => {
        mod quic {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $name() {
                    super::$name::<super::Quic>().await;
                }
            )*
        }

        mod memory {
            $(
                #[tokio::test]
                async fn $name() {
                    super::$name::<super::Memory>().await;
                }
            )*
        }
    };
}

contract! {
    frames_arrive_in_order_from_who_sent_them
    frames_of_every_size_arrive_whole
    a_frame_to_oneself_and_to_no_member_is_dropped
    a_frame_without_a_connection_is_dropped_and_counted
    a_slow_receiver_fills_its_own_queue_only
    an_oversized_frame_is_dropped_and_counted
    bulk_is_answered_or_refused
    frames_pass_while_bulk_waits
    fifty_megabytes_of_bulk_pass_while_frames_flow
    bulk_from_who_is_not_connected_fails
    bulk_that_is_taken_and_never_answered_is_given_up
    a_replica_that_restarts_is_connected_again
    a_shutdown_delivers_nothing_more
    a_client_is_answered
    a_replica_that_says_more_than_its_client_wants_waits_alone
    a_client_that_is_not_admitted_is_told_so
    a_client_demands_the_right_key
    a_client_is_told_when_its_replica_stops
    a_replica_is_told_when_its_client_goes
    a_client_cannot_reach_who_does_not_run
}

async fn pair<N: Network>() -> (N, Node, Node) {
    let network = N::new(2).await;
    let a = network.start(0, Recorder::new());
    let b = network.start(1, Recorder::new());
    a.connected_to(&[1]).await;
    b.connected_to(&[0]).await;
    (network, a, b)
}

async fn frames_arrive_in_order_from_who_sent_them<N: Network>() {
    let network = N::new(3).await;
    let nodes: Vec<Node> = (0..3)
        .map(|id| network.start(id, Recorder::new()))
        .collect();
    nodes[0].connected_to(&[1, 2]).await;
    nodes[1].connected_to(&[0, 2]).await;
    nodes[2].connected_to(&[0, 1]).await;
    for i in 0..500 {
        for from in 0..3u8 {
            for to in (0..3).filter(|to| *to != from) {
                nodes[usize::from(from)].send(to, &format!("{from} to {to}: {i}"));
            }
        }
    }
    for to in 0..3u8 {
        let recorder = &nodes[usize::from(to)].recorder;
        eventually("all frames", || recorder.len() == 1000).await;
        for from in (0..3).filter(|from| *from != to) {
            let sent: Vec<String> = (0..500).map(|i| format!("{from} to {to}: {i}")).collect();
            assert_eq!(recorder.from(from), sent);
        }
    }
}

async fn frames_of_every_size_arrive_whole<N: Network>() {
    let (_network, a, b) = pair::<N>().await;
    let lengths = [0, 1, 1199, 8191, 8192, 65_536, 1 << 20, 3 << 20];
    let frames: Vec<Bytes> = lengths
        .into_iter()
        .map(|length| (0..length).map(|i| (i * 7) as u8).collect())
        .collect();
    for (i, frame) in frames.iter().enumerate() {
        a.transport.send(r(1), frame.clone());
        eventually("the frame", || b.recorder.len() == i + 1).await;
    }
    assert!(b.recorder.from(0) == frames);
    let bytes: usize = lengths.iter().sum();
    assert_eq!(a.stats(1).sent_bytes, bytes as u64);
    assert_eq!(b.stats(0).received_frames, lengths.len() as u64);
}

async fn a_frame_to_oneself_and_to_no_member_is_dropped<N: Network>() {
    let (_network, a, b) = pair::<N>().await;
    a.send(0, "to myself");
    a.send(9, "to nobody");
    a.send(1, "to the other");
    eventually("the frame", || b.recorder.has(0, "to the other")).await;
    assert_eq!(a.recorder.len(), 0);
    assert_eq!(b.recorder.len(), 1);
}

async fn a_frame_without_a_connection_is_dropped_and_counted<N: Network>() {
    let network = N::new(2).await;
    let a = network.start(0, Recorder::new());
    a.send(1, "stale");
    assert_eq!(a.stats(1).dropped_unconnected_frames, 1);
    assert_eq!(a.transport.connected(), ReplicaSet::EMPTY);
    let b = network.start(1, Recorder::new());
    a.connected_to(&[1]).await;
    a.send(1, "fresh");
    eventually("the frame", || b.recorder.has(0, "fresh")).await;
    assert!(!b.recorder.has(0, "stale"));
}

async fn a_slow_receiver_fills_its_own_queue_only<N: Network>() {
    let network = N::new(3).await;
    let a = network.start(0, Recorder::new());
    let slow = network.start(1, Recorder::blocked());
    let quick = network.start(2, Recorder::new());
    a.connected_to(&[1, 2]).await;
    let padding = vec![0; 64 << 10];
    let mut sent = 0u32;
    while a.stats(1).dropped_full_frames == 0 {
        let frame = [&sent.to_be_bytes()[..], &padding].concat();
        a.transport.send(r(1), frame.into());
        sent += 1;
        tokio::task::yield_now().await;
    }
    a.send(2, "past the slow one");
    eventually("the frame", || quick.recorder.has(0, "past the slow one")).await;
    assert_eq!(slow.recorder.len(), 0);
    slow.recorder.let_frames_go_on();
    let kept = (sent - 1) as usize;
    eventually("all that was queued", || slow.recorder.len() == kept).await;
    let number = |frame: &Bytes| u32::from_be_bytes(frame[..4].try_into().unwrap());
    let numbers: Vec<u32> = slow.recorder.from(0).iter().map(number).collect();
    assert_eq!(numbers, (0..sent - 1).collect::<Vec<u32>>());
    a.send(1, "room again");
    eventually("the frame", || slow.recorder.has(0, "room again")).await;
}

async fn an_oversized_frame_is_dropped_and_counted<N: Network>() {
    let (_network, a, b) = pair::<N>().await;
    a.transport.send(r(1), vec![0; FRAME_LIMIT + 1].into());
    a.send(1, "after it");
    eventually("the frame", || b.recorder.has(0, "after it")).await;
    assert_eq!(a.stats(1).dropped_full_frames, 1);
    assert_eq!((a.stats(1).connects, b.recorder.len()), (1, 1));
}

async fn bulk_is_answered_or_refused<N: Network>() {
    let (_network, a, b) = pair::<N>().await;
    let answer = a.bulk(1, "1000").await.unwrap();
    let expected: Vec<u8> = (0..1000).map(|i| i as u8).collect();
    assert_eq!(answer, expected);
    let answer = b.bulk(0, "0").await.unwrap();
    assert!(answer.is_empty());
    let refused = b.bulk(0, "what?").await;
    assert_eq!(refused, Err(TransportError::Refused { to: r(0) }));
}

async fn frames_pass_while_bulk_waits<N: Network>() {
    let network = N::new(2).await;
    let a = network.start(0, Recorder::new());
    let b = network.start(1, Recorder::blocked());
    b.recorder.let_frames_go_on();
    a.connected_to(&[1]).await;
    b.connected_to(&[0]).await;
    let asking = ask(a.transport.clone(), 1, "5", Duration::from_secs(60));
    let asking = tokio::spawn(asking);
    a.send(1, "there");
    eventually("the frame", || b.recorder.has(0, "there")).await;
    b.send(0, "and back");
    eventually("the frame", || a.recorder.has(1, "and back")).await;
    assert!(!asking.is_finished());
    b.recorder.let_bulk_go_on();
    assert_eq!(asking.await.unwrap().unwrap().len(), 5);
}

async fn fifty_megabytes_of_bulk_pass_while_frames_flow<N: Network>() {
    let (_network, a, b) = pair::<N>().await;
    const LENGTH: usize = 50_000_000;
    let length = LENGTH.to_string();
    let asking = a.bulk(1, &length);
    let frames = async {
        for i in 0..200 {
            let text = format!("{i}");
            b.send(0, &text);
            eventually("the frame", || a.recorder.has(1, &text)).await;
        }
    };
    let (answer, ()) = tokio::join!(asking, frames);
    let answer = answer.unwrap();
    assert_eq!(answer.len(), LENGTH);
    assert!(answer.iter().enumerate().all(|(i, byte)| *byte == i as u8));
}

async fn bulk_from_who_is_not_connected_fails<N: Network>() {
    let network = N::new(2).await;
    let a = network.start(0, Recorder::new());
    for id in [0, 1, 9] {
        let outcome = a.bulk(id, "1").await;
        assert!(matches!(outcome, Err(TransportError::Unreachable { to, .. }) if to == r(id)));
    }
}

async fn bulk_that_is_taken_and_never_answered_is_given_up<N: Network>() {
    let network = N::new(2).await;
    let a = network.start(0, Recorder::new());
    let b = network.start(1, Recorder::blocked());
    a.connected_to(&[1]).await;
    b.connected_to(&[0]).await;
    let patience = Duration::from_millis(50);
    // More than may be open at a time.
    for _ in 0..12 {
        let outcome = ask(a.transport.clone(), 1, "5", patience).await;
        let Err(TransportError::Unreachable { reason, .. }) = outcome else {
            panic!("{outcome:?}");
        };
        assert!(reason.contains("no progress"), "{reason}");
    }
    b.recorder.let_bulk_go_on();
    assert_eq!(a.bulk(1, "5").await.unwrap().len(), 5);
}

async fn a_replica_that_restarts_is_connected_again<N: Network>() {
    let (network, mut a, mut b) = pair::<N>().await;
    for round in 0..2 {
        for restarted in [0, 1] {
            let (stays, restarts) = if restarted == 0 {
                (&b, &mut a)
            } else {
                (&a, &mut b)
            };
            restarts.transport.shutdown().await;
            stays.connected_to(&[]).await;
            *restarts = network.start(restarted, Recorder::new());
            restarts.connected_to(&[1 - restarted]).await;
            stays.connected_to(&[restarted]).await;
            let text = format!("round {round}, {restarted} restarted");
            restarts.send(1 - restarted, &text);
            eventually("a frame from it", || stays.recorder.has(restarted, &text)).await;
            stays.send(restarted, &text);
            let recorder = &restarts.recorder;
            eventually("a frame to it", || recorder.has(1 - restarted, &text)).await;
        }
    }
}

async fn a_shutdown_delivers_nothing_more<N: Network>() {
    let (_network, a, b) = pair::<N>().await;
    let sender = a.transport.clone();
    let sending = tokio::spawn(async move {
        loop {
            sender.send(r(1), Bytes::from_static(b"more"));
            tokio::time::sleep(Duration::from_micros(100)).await;
        }
    });
    eventually("frames flow", || b.recorder.len() > 10).await;
    b.transport.shutdown().await;
    let delivered = b.recorder.len();
    let dropped = a.stats(1).dropped_unconnected_frames;
    let noticed = || a.stats(1).dropped_unconnected_frames > dropped + 10;
    eventually("the sender has noticed", noticed).await;
    assert_eq!(b.recorder.len(), delivered);
    assert_eq!(b.transport.connected(), ReplicaSet::EMPTY);
    let answer = b.bulk(0, "1").await;
    assert!(answer.is_err());
    sending.abort();
}

async fn a_client_is_answered<N: Network>() {
    let (network, _a, _b) = pair::<N>().await;
    let connector = network.connector(&client_key(), &keys(2));
    assert_eq!(connector.n(), 2);
    let replies = Arc::new(Replies::default());
    let sink = connector.connect(r(1), replies.clone()).await.unwrap();
    let sent: Vec<(_, Bytes)> = (0..1000)
        .map(|i| (r(1), Bytes::from(format!("request {i}"))))
        .collect();
    for (_, frame) in &sent {
        assert!(sink.send(frame.clone()));
    }
    eventually("all answers", || replies.frames().len() == sent.len()).await;
    assert_eq!(replies.frames(), sent);
    assert!(replies.closed().is_empty());
    assert!(!sink.send(vec![0; FRAME_LIMIT + 1].into()));
}

async fn a_replica_that_says_more_than_its_client_wants_waits_alone<N: Network>() {
    let (network, a, _b) = pair::<N>().await;
    let connector = network.connector(&client_key(), &keys(2));
    let (flooded, other) = (Arc::new(Replies::wanting(10)), Arc::new(Replies::default()));
    let _sink = connector.connect(r(0), flooded.clone()).await.unwrap();
    let sink = connector.connect(r(1), other.clone()).await.unwrap();
    let sent: Vec<(_, Bytes)> = (0..1000)
        .map(|i| (r(0), Bytes::from(format!("frame {i}"))))
        .collect();
    eventually("connected", || a.recorder.clients().len() == 1).await;
    for (_, frame) in &sent {
        assert!(a.recorder.clients()[0].send(frame.clone()));
    }
    for _ in 0..100 {
        sink.send(Bytes::from_static(b"request"));
    }
    eventually("answers of the other", || other.frames().len() == 100).await;
    // One is taken before it is known whether another is wanted.
    eventually("the first frames", || flooded.frames().len() == 11).await;
    assert_eq!(flooded.frames(), sent[..11]);
    flooded.want_all();
    eventually("the others", || flooded.frames().len() == sent.len()).await;
    assert_eq!(flooded.frames(), sent);
    assert!(flooded.closed().is_empty());
}

async fn a_client_that_is_not_admitted_is_told_so<N: Network>() {
    let (network, _a, _b) = pair::<N>().await;
    let connector = network.connector(&key(77), &keys(2));
    let outcome = connector.connect(r(0), Arc::new(Replies::default())).await;
    assert!(not_authenticated(outcome).contains("not admitted"));
}

async fn a_client_demands_the_right_key<N: Network>() {
    let (network, _a, _b) = pair::<N>().await;
    let other = [key(0).public(), key(88).public()];
    let connector = network.connector(&client_key(), &other);
    let replies = Arc::new(Replies::default());
    assert!(connector.connect(r(0), replies.clone()).await.is_ok());
    let outcome = connector.connect(r(1), replies).await;
    assert!(not_authenticated(outcome).contains("holds"));
}

async fn a_client_is_told_when_its_replica_stops<N: Network>() {
    let (network, a, _b) = pair::<N>().await;
    let connector = network.connector(&client_key(), &keys(2));
    let replies = Arc::new(Replies::default());
    let sink = connector.connect(r(0), replies.clone()).await.unwrap();
    a.transport.shutdown().await;
    eventually("closed", || replies.closed() == [r(0)]).await;
    assert!(!sink.send(Bytes::from_static(b"too late")));
    let sinks = a.recorder.clients();
    assert_eq!(sinks.len(), 1);
    assert!(!sinks[0].send(Bytes::from_static(b"too late")));
    assert_eq!(a.recorder.clients_gone(), 1);
}

async fn a_replica_is_told_when_its_client_goes<N: Network>() {
    let (network, a, _b) = pair::<N>().await;
    let connector = network.connector(&client_key(), &keys(2));
    let replies = Arc::new(Replies::default());
    let sink = connector.connect(r(0), replies.clone()).await.unwrap();
    assert_eq!(a.recorder.clients_gone(), 0);
    drop(sink);
    eventually("the service is dropped", || a.recorder.clients_gone() == 1).await;
    eventually("closed", || replies.closed() == [r(0)]).await;
    assert!(!a.recorder.clients()[0].send(Bytes::from_static(b"too late")));
}

async fn a_client_cannot_reach_who_does_not_run<N: Network>() {
    let network = N::new(2).await;
    let connector = network.connector(&client_key(), &keys(2));
    for id in [1, 9] {
        let outcome = connector.connect(r(id), Arc::new(Replies::default())).await;
        let error = outcome.err();
        assert!(matches!(error, Some(TransportError::Unreachable { to, .. }) if to == r(id)));
    }
}
