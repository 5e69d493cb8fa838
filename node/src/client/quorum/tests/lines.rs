//! Connections that fail, close, or carry garbage.

use quorate_core::transport::ClientReplies;

use super::*;

impl World {
    fn calls(&self, replica: ReplicaId) -> u32 {
        let calls = self.stub.there(|there| there.calls.get(&replica).copied());
        calls.unwrap_or(0)
    }

    fn replies(&self, from: ReplicaId) -> Arc<dyn ClientReplies> {
        let replies = self.stub.there(|there| there.replies.get(&from).cloned());
        replies.unwrap()
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_ends_is_made_again_and_what_waits_is_asked_again() {
    let mut world = World::new(options());
    let answer = world.propose("+");
    let (_, first) = world.batch().await;
    world.replies(r(0)).closed(r(0));
    let (_, again) = world.batch().await;
    assert!(again.requests().eq(first.requests()));
    moment().await;
    assert_eq!(world.calls(r(0)), 2);
    world.believed(answer, &again).await;
}

#[tokio::test(start_paused = true)]
async fn garbage_from_a_replica_is_survived() {
    let mut world = World::new(options());
    let answer = world.propose("+");
    let (_, batch) = world.batch().await;
    for garbage in [&b""[..], b"\x00", b"\x01\xff\xff\xff\xff", b"\x07abc"] {
        let replies = world.replies(r(3));
        replies.deliver(r(3), Bytes::copy_from_slice(garbage));
        tokio::time::sleep(dial::BACK_OFF).await;
    }
    world.believed(answer, &batch).await;
    assert!(world.calls(r(3)) > 1);
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_floods_holds_up_only_itself() {
    let mut world = World::new(options());
    let answer = world.propose("+");
    let (_, batch) = world.batch().await;
    let replies = world.replies(r(3));
    let frame = client_wire::seal(&[Reply::Leader(r(3))]).unwrap().remove(0);
    let flood = tokio::spawn(async move {
        for _ in 0..1_000_000 {
            replies.deliver(r(3), frame.clone());
            replies.ready().await;
        }
    });
    world.believed(answer, &batch).await;
    let next = world.propose("+");
    let (_, batch) = world.batch().await;
    world.believed(next, &batch).await;
    assert_eq!(world.calls(r(3)), 1);
    // It has waited for the client, which is not to look at all of it before anything else.
    assert!(!flood.is_finished());
    flood.abort();
}

/// After none, and after 50, 100, 200, 400, 800, and 1600 ms, and after 2 s each.
#[tokio::test(start_paused = true)]
async fn a_replica_that_closes_every_connection_is_called_more_and_more_rarely() {
    // Whatever it says before.
    for greeting in [None, Some(Reply::Leader(r(0)))] {
        let there = There {
            closing: [r(3)].into_iter().collect(),
            greeting,
            ..There::default()
        };
        let options = ClientOptions {
            timeout: Duration::from_secs(60),
            ..options()
        };
        let mut world = World::with(options, there);
        let answer = world.propose("+");
        let (_, batch) = world.batch().await;
        for (seconds, calls) in [(4, 7), (10, 12), (20, 22)] {
            tokio::time::sleep(Duration::from_secs(seconds)).await;
            assert_eq!(world.calls(r(3)), calls);
        }
        world.believed(answer, &batch).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_lasted_is_made_again_at_once() {
    let there = There {
        closing: [r(3)].into_iter().collect(),
        ..There::default()
    };
    let options = ClientOptions {
        timeout: Duration::from_secs(60),
        ..options()
    };
    let mut world = World::with(options, there);
    let answer = world.propose("+");
    let (_, batch) = world.batch().await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    world.stub.there(|there| there.closing = ReplicaSet::EMPTY);
    tokio::time::sleep(2 * dial::BACK_OFF_MOST).await;
    let calls = world.calls(r(3));
    for more in [1, 2] {
        world.replies(r(3)).closed(r(3));
        tokio::time::sleep(2 * dial::BACK_OFF).await;
        assert_eq!(world.calls(r(3)), calls + more);
    }
    world.believed(answer, &batch).await;
}

#[tokio::test(start_paused = true)]
async fn what_a_replica_says_before_the_connection_is_known_to_be_up_counts() {
    let there = There {
        greeting: Some(Reply::Leader(r(2))),
        ..There::default()
    };
    let mut world = World::with(options(), there);
    let _answer = world.propose("+");
    let (to, _) = world.batch().await;
    assert_eq!(to, r(2));
}

#[tokio::test(start_paused = true)]
async fn a_primary_that_cannot_be_reached_is_passed_over() {
    let there = There {
        unreachable: [r(0)].into_iter().collect(),
        ..There::default()
    };
    let mut world = World::with(options(), there);
    world.silent.insert(r(0));
    let answer = world.propose("+");
    let (to, batch) = world.batch().await;
    assert_eq!(to, r(1));
    world.believed(answer, &batch).await;
}

#[tokio::test(start_paused = true)]
async fn where_nobody_can_be_reached_the_command_certainly_did_not_happen() {
    let there = There {
        unreachable: ReplicaId::all(N).collect(),
        ..There::default()
    };
    let outcome = World::with(options(), there).propose("+").await.unwrap();
    let Err(error @ ProposeError::Unreachable(_)) = outcome else {
        panic!("{outcome:?}");
    };
    assert!(!error.may_have_happened());
}

#[tokio::test(start_paused = true)]
async fn no_other_replica_answers_for_the_one_that_a_client_stays_with() {
    for (follow_leader, answered) in [(false, false), (true, true)] {
        let there = There {
            unreachable: [r(0)].into_iter().collect(),
            ..There::default()
        };
        let options = ClientOptions {
            first: Some(r(0)),
            follow_leader,
            ..options()
        };
        let mut world = World::with(options, there);
        let client = world.client.clone();
        let read = tokio::spawn(async move { client.read(bytes("?"), ReadLevel::Local).await });
        let mut asked = false;
        while let Some((_, ask)) = world.ask().await {
            asked |= matches!(ask, Ask::Read(..));
        }
        assert_eq!(asked, answered);
        for replica in [r(1), r(2), r(3)] {
            world.say(replica, &Reply::Read(0, Ok(bytes("x"))));
        }
        let read = read.await.unwrap();
        match answered {
            true => assert_eq!(read, Ok(bytes("x"))),
            false => assert!(matches!(read, Err(ReadError::Unreachable(_))), "{read:?}"),
        }
    }
}
