//! The client against scripted replicas that crash, or are cut off, in virtual time.

use bytes::Bytes;
use quorate_core::consensus::ReadLevel;
use quorate_core::id::ReplicaSet;
use quorate_core::request::Batch;

use super::*;
use crate::client::lateness::SOONEST;
use crate::client::scripted::*;

const CRASH: ClientOptions = ClientOptions {
    timeout: std::time::Duration::from_secs(10),
    patience: std::time::Duration::from_secs(2),
    first: None,
    follow_leader: true,
    fail_over: true,
    faults: quorate_core::protocol::FaultModel::Crash,
    fast_reads: false,
};

impl World {
    /// The next batch that `from` is asked for, within a few round trips and no more; whatever is
    /// asked of others is left unanswered, and counted.
    async fn soon(&mut self, from: ReplicaId) -> (Batch, usize) {
        let mut others = 0;
        let asked = tokio::time::timeout(4 * SOONEST, async {
            loop {
                match self.heard.recv().await.unwrap() {
                    (to, Ask::Propose(batch)) if to == from => return batch,
                    _ => others += 1,
                }
            }
        });
        (asked.await.expect("it is asked too late"), others)
    }

    /// Opens the session at the replica that is asked, which leads, and gives which it is.
    async fn settled(&mut self) -> ReplicaId {
        let done = self.propose("first");
        let (mut to, mut batch) = self.proposed().await;
        self.say(to, &Reply::Leader(to));
        while opens(&batch) {
            self.answer(to, &batch, Ok(Bytes::new()));
            (to, batch) = self.proposed().await;
        }
        self.answer(to, &batch, Ok(Bytes::new()));
        done.await.unwrap().unwrap();
        moment().await;
        to
    }

    async fn proposed(&mut self) -> (ReplicaId, Batch) {
        match self.heard.recv().await.unwrap() {
            (to, Ask::Propose(batch)) => (to, batch),
            other => panic!("{other:?}"),
        }
    }

    fn answer_one(&self, from: ReplicaId, batch: &Batch) {
        self.answer(from, batch, Ok(bytes("done")));
    }
}

#[tokio::test(start_paused = true)]
async fn all_are_called_at_once_and_the_first_that_answers_is_asked() {
    let absent = ReplicaSet::from_iter([r(0), r(1)]);
    let there = There {
        absent,
        ..There::default()
    };
    let mut world = World::with(CRASH, there);
    let _done = world.propose("+");
    moment().await;
    assert_eq!(world.ask().await.map(|(to, _)| to), Some(r(2)));
}

#[tokio::test(start_paused = true)]
async fn who_knows_no_leader_is_passed_over_for_who_knows_one() {
    let mut world = World::new(CRASH);
    let _done = world.propose("+");
    let (first, _) = world.proposed().await;
    let other = r((first.0 + 2) % 4);
    for replica in ReplicaId::all(N).filter(|replica| *replica != other) {
        world.say(replica, &Reply::Leaderless);
    }
    let (batch, _) = world.soon(other).await;
    assert!(opens(&batch));
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_late_has_another_asked_and_then_the_next_one() {
    let mut world = World::new(CRASH);
    let leader = world.settled().await;
    let done = world.propose("+");
    assert_eq!(world.proposed().await.0, leader);
    let asked = Instant::now();
    let (second, _) = world.proposed().await;
    assert_ne!(second, leader);
    assert_eq!(asked.elapsed().as_millis(), SOONEST.as_millis());
    let (third, batch) = world.proposed().await;
    assert!(![leader, second].contains(&third));
    assert_eq!(asked.elapsed().as_millis(), 3 * SOONEST.as_millis());
    // Who answers is asked from then on, and only it.
    world.answer_one(third, &batch);
    assert_eq!(done.await.unwrap(), Ok(bytes("done")));
    while world.ask().await.is_some() {}
    let _next = world.propose("+");
    assert_eq!(world.proposed().await.0, third);
    assert!(world.ask().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_follow_the_leader_fails_over_too() {
    let options = ClientOptions {
        first: Some(r(1)),
        follow_leader: false,
        ..CRASH
    };
    let mut world = World::new(options);
    assert_eq!(world.settled().await, r(1));
    let done = world.propose("+");
    assert_eq!(world.proposed().await.0, r(1));
    let (other, batch) = world.proposed().await;
    assert_ne!(other, r(1));
    world.answer_one(other, &batch);
    assert_eq!(done.await.unwrap(), Ok(bytes("done")));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_must_not_fail_over_asks_one_replica_only() {
    let options = ClientOptions {
        first: Some(r(1)),
        follow_leader: false,
        fail_over: false,
        ..CRASH
    };
    let mut world = World::new(options);
    assert_eq!(world.settled().await, r(1));
    let _done = world.propose("+");
    let asked = tokio::time::timeout(CRASH.timeout / 2, async {
        loop {
            assert_eq!(world.heard.recv().await.unwrap().0, r(1));
        }
    });
    asked.await.unwrap_err();
}

/// What is sent twice is bounded: a wait in vain doubles until a round trip is measured, and the
/// measured one makes the wait long enough.
#[tokio::test(start_paused = true)]
async fn where_all_answers_are_slow_few_requests_are_sent_twice() {
    let mut world = World::new(CRASH);
    let leader = world.settled().await;
    let (requests, mut sent) = (100, 0);
    for _ in 0..requests {
        let done = world.propose("+");
        let slow = tokio::time::sleep(2 * SOONEST);
        tokio::pin!(slow);
        let mut last = None;
        loop {
            tokio::select! {
                () = &mut slow => break,
                asked = world.heard.recv() => {
                    let (to, ask) = asked.unwrap();
                    sent += 1;
                    if let (true, Ask::Propose(batch)) = (to == leader, ask) {
                        last = Some(batch);
                    }
                }
            }
        }
        world.answer_one(leader, &last.unwrap());
        done.await.unwrap().unwrap();
    }
    assert!(sent <= requests + 3, "{sent} for {requests}");
}

/// An answer to one says that the replica is alive, and nothing is sent to another meanwhile.
#[tokio::test(start_paused = true)]
async fn while_requests_are_answered_none_is_asked_elsewhere() {
    let mut world = World::new(CRASH);
    let leader = world.settled().await;
    let _unanswered = world.propose("one that waits");
    world.proposed().await;
    for _ in 0..20 {
        let done = world.propose("+");
        let (to, batch) = world.proposed().await;
        assert_eq!(to, leader);
        tokio::time::sleep(SOONEST / 2).await;
        world.answer_one(leader, &batch);
        done.await.unwrap().unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_loses_its_leader_is_not_waited_for() {
    let mut world = World::new(CRASH);
    let asked = world.settled().await;
    let done = world.propose("+");
    world.proposed().await;
    let before = Instant::now();
    world.say(asked, &Reply::Leaderless);
    let (other, batch) = world.proposed().await;
    assert_ne!(other, asked);
    assert!(before.elapsed() < SOONEST / 2);
    world.say(other, &Reply::Leader(other));
    world.answer_one(other, &batch);
    assert_eq!(done.await.unwrap(), Ok(bytes("done")));
}

#[tokio::test(start_paused = true)]
async fn a_read_that_is_late_is_asked_of_another_and_one_of_one_replica_is_not() {
    let mut world = World::new(CRASH);
    let leader = world.settled().await;
    let local = world.client.clone();
    let local = tokio::spawn(async move { local.read(bytes("?"), ReadLevel::Local).await });
    assert!(matches!(world.heard.recv().await, Some((to, Ask::Read(..))) if to == leader));
    let read = world.read("!");
    assert!(matches!(world.heard.recv().await, Some((to, Ask::Read(..))) if to == leader));
    let Some((other, Ask::Read(number, ReadLevel::Linearizable, query))) = world.heard.recv().await
    else {
        panic!("nobody else is asked");
    };
    assert_ne!(other, leader);
    assert_eq!(query, bytes("!"));
    world.say(other, &Reply::Read(number, Ok(bytes("there"))));
    assert_eq!(read.await.unwrap(), Ok(bytes("there")));
    assert!(!local.is_finished());
}
