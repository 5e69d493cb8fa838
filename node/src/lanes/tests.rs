//! Shares, bounds and waits of the queues.

use super::*;

const LIMITS: Limits = Limits {
    items: 100,
    peer_bytes: 1000,
    client_bytes: 500,
    clients_bytes: 1200,
};

fn peer(number: u8) -> Sender {
    Sender::Peer(ReplicaId(number))
}

fn client(number: u64) -> Sender {
    Sender::Client(ConnectionId(number))
}

/// Brings for as long as there is room, and gives how many there was room for.
async fn fill(lanes: &Lanes<Sender>, from: Sender, bytes: usize) -> usize {
    for brought in 0.. {
        let full = tokio::select! {
            biased;
            outcome = lanes.bring(from, from, bytes) => outcome.is_err(),
            () = std::future::ready(()) => true,
        };
        if full {
            return brought;
        }
    }
    unreachable!("without end")
}

fn take(lanes: &Lanes<Sender>, limit: usize) -> Vec<Sender> {
    let mut taken = Vec::new();
    lanes.take(&mut taken, limit, |_| true);
    taken
}

#[tokio::test]
async fn who_floods_has_its_share_and_others_theirs() {
    let lanes = Lanes::new(super::LIMITS);
    for _ in 0..1000 {
        lanes.bring(peer(3), peer(3), 1).await.unwrap();
    }
    for from in [peer(0), client(7), Sender::Own] {
        for _ in 0..10 {
            lanes.bring(from, from, 1).await.unwrap();
        }
    }
    let taken = take(&lanes, SHARE_ITEMS + 30);
    let of = |from| taken.iter().filter(|other| **other == from).count();
    assert_eq!(of(peer(3)), SHARE_ITEMS);
    assert_eq!((of(peer(0)), of(client(7)), of(Sender::Own)), (10, 10, 10));
    // The rest is not lost, and is news.
    tokio::time::timeout(std::time::Duration::ZERO, lanes.news.notified())
        .await
        .unwrap();
    assert_eq!(take(&lanes, 2000).len(), 1000 - SHARE_ITEMS);
}

#[tokio::test]
async fn each_is_bounded_in_bytes_and_items_and_may_always_have_one() {
    let lanes = Lanes::new(LIMITS);
    assert_eq!(fill(&lanes, peer(0), 300).await, 3);
    assert_eq!(fill(&lanes, peer(1), 1000).await, 1);
    assert_eq!(fill(&lanes, peer(2), 5000).await, 1);
    assert_eq!(fill(&lanes, peer(3), 1).await, LIMITS.items);
    assert_eq!(fill(&lanes, client(0), 250).await, 2);
}

#[tokio::test]
async fn all_clients_together_are_bounded_and_each_may_have_one() {
    let lanes = Lanes::new(LIMITS);
    let mut brought = Vec::new();
    for number in 0..5 {
        brought.push(fill(&lanes, client(number), 100).await);
    }
    assert_eq!(brought, [5, 5, 2, 1, 1]);
    assert_eq!(lanes.bytes(), 1400);
    // Peers do not share their bound.
    assert_eq!(fill(&lanes, peer(0), 500).await, 2);
}

#[tokio::test]
async fn who_waits_for_room_is_woken() {
    let lanes = Arc::new(Lanes::new(LIMITS));
    fill(&lanes, client(0), 250).await;
    fill(&lanes, client(1), 250).await;
    fill(&lanes, client(2), 200).await;
    let bring = |from| {
        let lanes = lanes.clone();
        tokio::spawn(async move { lanes.bring(from, from, 200).await })
    };
    // One waits for room of its own, the other for that of all.
    let (own, all) = (bring(client(0)), bring(client(2)));
    tokio::task::yield_now().await;
    assert!(!own.is_finished() && !all.is_finished());
    while !own.is_finished() || !all.is_finished() {
        take(&lanes, 1);
        tokio::task::yield_now().await;
    }
    let waiting = bring(client(3));
    waiting.await.unwrap().unwrap();
    fill(&lanes, peer(0), 1000).await;
    let waiting = bring(peer(0));
    tokio::task::yield_now().await;
    lanes.close();
    assert_eq!(waiting.await.unwrap(), Err(Closed));
    assert_eq!(lanes.bring_now(peer(0), peer(0)), Err(Closed));
}

#[tokio::test]
async fn what_is_held_waits_with_all_behind_it_and_holds_up_nobody_else() {
    let lanes = Lanes::new(LIMITS);
    for from in [client(0), client(0), client(1), client(1)] {
        lanes.bring(from, from, 1).await.unwrap();
    }
    let mut taken = Vec::new();
    assert!(lanes.take(&mut taken, 10, |from| *from != client(0)));
    assert_eq!(taken, [client(1), client(1)]);
    assert!(!lanes.take(&mut taken, 10, |_| true));
    assert_eq!(taken.len(), 4);
    lanes.forget(client(0));
    assert_eq!(lanes.bytes(), 0);
}

#[tokio::test]
async fn what_one_brought_who_has_gone_is_dropped() {
    let lanes = Lanes::new(LIMITS);
    fill(&lanes, client(0), 100).await;
    lanes.bring(client(1), client(1), 1).await.unwrap();
    lanes.leave(client(0), Sender::Own).unwrap();
    assert_eq!(lanes.bytes(), 1);
    assert_eq!(take(&lanes, 10), [client(1), Sender::Own]);
    assert_eq!(fill(&lanes, client(2), 100).await, 5);
}
