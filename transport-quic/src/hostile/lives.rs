//! Members whose data directories were put back to older copies, or copied.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use quorate_core::life::{Life, Met, PAST, Position, Refusal};
use quorate_core::storage::StorageError;

use super::*;

/// A memory that lasts as long as the test.
struct Memory {
    own: Life,
    position: AtomicU64,
    met: Mutex<BTreeMap<ReplicaId, Met>>,
}

impl Memory {
    fn of(own: Life) -> Arc<Memory> {
        Arc::new(Memory {
            own,
            position: AtomicU64::new(own.start.0),
            met: Mutex::default(),
        })
    }

    fn known(&self, peer: ReplicaId) -> Option<Met> {
        self.met.lock().unwrap().get(&peer).copied()
    }
}

impl Acquaintances for Memory {
    fn own(&self) -> Life {
        self.own
    }

    fn position(&self) -> Position {
        Position(self.position.load(Ordering::Relaxed))
    }

    fn meet(&self, peer: ReplicaId, life: Life) -> Result<(), Refusal> {
        let met = Met::next(self.known(peer), life)?;
        self.met.lock().unwrap().insert(peer, met);
        Ok(())
    }

    fn told(&self, peer: ReplicaId, position: Position) {
        if let Some(met) = self.met.lock().unwrap().get_mut(&peer) {
            met.position = met.position.max(position);
        }
    }

    fn keep(&self) {}
}

fn life(number: u64, nonce: u64, start: u64) -> Life {
    Life {
        number,
        nonce,
        start: Position(start),
        past: [0; PAST],
    }
}

async fn comes(world: &World, id: u8, memory: Arc<Memory>) -> Result<(), TransportError> {
    let tls = world.tls(&key(id), &key(1), Caller::Replica, GROUP);
    let own = Credentials::new(epoch(), memory);
    world.dial_with(tls, Some(&own)).await.map(drop)
}

fn forgotten(outcome: Result<(), TransportError>) -> String {
    match outcome {
        Err(TransportError::Forgotten { to: ME, reason }) => reason,
        other => panic!("{other:?}"),
    }
}

/// Of a member that calls, and of one that asks to be called.
#[tokio::test]
async fn a_member_that_has_forgotten_what_it_said_is_refused_and_told_why() {
    for id in [0, 2] {
        let memory = Memory::of(life(1, 1, 0));
        let world = World::remembering(memory.clone());
        let met = Met {
            number: 5,
            nonce: 50,
            position: Position(500),
        };
        memory.met.lock().unwrap().insert(ReplicaId(id), met);
        for (life, said) in [
            (life(4, 40, 900), "number 4, and number 5 was met"),
            (life(5, 51, 900), "both made start number 5"),
            (
                life(6, 60, 499),
                "its log began at 0:499, and had been durable to 0:500",
            ),
        ] {
            let reason = forgotten(comes(&world, id, Memory::of(life)).await);
            assert!(reason.contains("it says of this replica"), "{reason}");
            assert!(reason.contains(said), "{reason}");
            assert_eq!(memory.known(ReplicaId(id)), Some(met));
            assert!(world.target.connected().is_empty());
        }
        // What is left out need not be known: a replica may have started without being heard.
        let outcome = comes(&world, id, Memory::of(life(8, 80, 500))).await;
        assert_eq!(
            outcome.is_ok(),
            id == 0,
            "who has to be called is called back: {outcome:?}"
        );
        assert_eq!(memory.known(ReplicaId(id)).unwrap().number, 8);
    }
}

#[tokio::test]
async fn who_is_called_is_refused_if_it_has_forgotten() {
    let world = World::remembering(Memory::of(life(3, 30, 10)));
    let own = Memory::of(life(1, 1, 0));
    let met = Met {
        number: 2,
        nonce: 20,
        position: Position(11),
    };
    own.met.lock().unwrap().insert(ME, met);
    let reason = forgotten(comes(&world, 0, own.clone()).await);
    assert!(reason.contains("its log began at 0:10"), "{reason}");
    assert!(!reason.contains("it says of this replica"), "{reason}");
    assert_eq!(own.known(ME), Some(met));
}

#[tokio::test]
async fn members_tell_each_other_how_far_their_logs_are_durable() {
    let (at_target, at_zero) = (Memory::of(life(1, 1, 7)), Memory::of(life(1, 2, 8)));
    let mut world = World::remembering(at_target.clone());
    let endpoint = world.others[0].take().unwrap();
    let (inbox, _frames) = inbox();
    let peers = peers(world.addresses);
    let zero = endpoint
        .start(&peers, epoch(), at_zero.clone(), inbox)
        .unwrap();
    connected(&zero, 1).await;
    at_target.position.store(70, Ordering::Relaxed);
    at_zero.position.store(80, Ordering::Relaxed);
    let reached = |memory: &Memory, peer, position| {
        let known = memory.known(peer).map(|met| met.position);
        known == Some(Position(position))
    };
    while !reached(&at_target, ReplicaId(0), 80) || !reached(&at_zero, ME, 70) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Whoever closes first, before the other has read why, or waits for the other for ever.
#[tokio::test]
async fn one_that_does_not_end_a_call_that_was_refused_is_told_why_it_is_ended() {
    let memory = Memory::of(life(1, 1, 0));
    let world = World::remembering(memory.clone());
    let met = Met::next(None, life(5, 50, 500)).unwrap();
    memory.met.lock().unwrap().insert(ReplicaId(0), met);
    let (connection, mut sending, _unread) = world.stream(0).await;
    let own = life(4, 40, 0);
    let numbers = [own.number, own.nonce, own.start.0].map(u64::to_be_bytes);
    let (digest, past) = (epoch().digest(), [0; 8 * PAST]);
    let hello = [&[1], &digest.0[..], numbers.as_flattened(), &past].concat();
    sending.write_all(&hello).await.unwrap();
    assert_eq!(close_of(&connection.closed().await), Close::Forgot);
}

/// A memory whose disk does not answer, or fails.
struct Stuck {
    own: Life,
    hangs: AtomicBool,
    waiting: AtomicU64,
    answers: Mutex<Result<(), Refusal>>,
}

impl Stuck {
    fn new() -> Arc<Stuck> {
        Arc::new(Stuck {
            own: life(1, 1, 0),
            hangs: AtomicBool::new(false),
            waiting: AtomicU64::new(0),
            answers: Mutex::new(Ok(())),
        })
    }
}

impl Acquaintances for Stuck {
    fn own(&self) -> Life {
        self.own
    }

    fn position(&self) -> Position {
        self.own.start
    }

    fn meet(&self, _: ReplicaId, _: Life) -> Result<(), Refusal> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        while self.hangs.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(1));
        }
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        self.answers.lock().unwrap().clone()
    }

    fn told(&self, _: ReplicaId, _: Position) {}

    fn keep(&self) {}
}

/// However often it calls, and whoever else does.
#[tokio::test]
async fn a_disk_that_does_not_answer_holds_one_thread_for_a_replica() {
    let memory = Stuck::new();
    let world = World::remembering(memory.clone());
    memory.hangs.store(true, Ordering::Relaxed);
    let patience = Duration::from_millis(100);
    for id in [0, 0, 0, 2, 2, 0] {
        let coming = comes(&world, id, Memory::of(life(1, 1, 0)));
        let _ = tokio::time::timeout(patience, coming).await;
    }
    let waiting = memory.waiting.load(Ordering::Relaxed);
    memory.hangs.store(false, Ordering::Relaxed);
    assert_eq!(waiting, 2);
    comes(&world, 0, Memory::of(life(1, 1, 0))).await.unwrap();
}

#[tokio::test]
async fn who_cannot_be_remembered_is_not_said_to_have_forgotten() {
    let memory = Stuck::new();
    let failed = StorageError::Io {
        action: "sync",
        path: String::from("lives"),
        reason: String::from("broken"),
    };
    *memory.answers.lock().unwrap() = Err(failed.into());
    let world = World::remembering(memory);
    for id in [0, 2] {
        let refused = comes(&world, id, Memory::of(life(1, 1, 0))).await;
        let Err(TransportError::Unreachable { reason, .. }) = refused else {
            panic!("{refused:?}");
        };
        assert!(reason.contains("cannot be remembered"), "{reason}");
    }
}
