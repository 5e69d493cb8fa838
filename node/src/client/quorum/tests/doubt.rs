//! What is believed, and what is sent to whom.

use super::*;

#[tokio::test(start_paused = true)]
async fn one_reply_is_not_believed_and_two_equal_ones_are() {
    let mut world = World::new(options());
    let answer = world.propose("+");
    let (to, batch) = world.batch().await;
    assert_eq!(to, r(0));
    world.answer(r(3), &batch, Ok(bytes("a lie")));
    moment().await;
    world.answer(r(1), &batch, Ok(bytes("true")));
    moment().await;
    assert!(!answer.is_finished());
    world.answer(r(0), &batch, Ok(bytes("true")));
    assert_eq!(answer.await.unwrap(), Ok(bytes("true")));
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_repeats_itself_counts_once() {
    let mut world = World::new(options());
    let answer = world.propose("+");
    let (_, batch) = world.batch().await;
    for lie in ["a lie", "a lie", "another lie", "a lie"] {
        world.answer(r(3), &batch, Ok(bytes(lie)));
    }
    let refused = Err(ProposeError::Refused(String::from("a lie")));
    for error in [refused, Err(ProposeError::SessionExpired)] {
        world.answer(r(3), &batch, error.clone());
        world.answer(r(3), &batch, error);
    }
    moment().await;
    assert!(!answer.is_finished());
    world.believed(answer, &batch).await;
}

#[tokio::test(start_paused = true)]
async fn an_answer_for_another_session_or_sequence_is_passed_over() {
    let mut world = World::new(options());
    let answer = world.propose("+");
    let (_, batch) = world.batch().await;
    let request = batch.requests().last().unwrap();
    let (session, sequence) = (request.session.number, request.sequence);
    for (session, sequence) in [(session ^ 1, sequence), (session, sequence + 1)] {
        for replica in ReplicaId::all(N) {
            let result = Ok(bytes("not to this"));
            let other = Reply::Answer {
                session,
                sequence,
                result,
            };
            world.say(replica, &other);
        }
    }
    moment().await;
    assert!(!answer.is_finished());
    world.believed(answer, &batch).await;
}

#[tokio::test(start_paused = true)]
async fn a_refusal_too_needs_two() {
    let mut world = World::new(options());
    let answer = world.propose("+");
    let (_, batch) = world.batch().await;
    let refused = Err(ProposeError::Refused(String::from("not admitted")));
    world.answer(r(0), &batch, refused.clone());
    moment().await;
    assert!(!answer.is_finished());
    world.answer(r(1), &batch, refused.clone());
    assert_eq!(answer.await.unwrap(), refused);
}

#[tokio::test(start_paused = true)]
async fn a_query_is_ordered_like_a_command() {
    let mut world = World::new(options());
    let answer = world.read("?");
    let (_, batch) = world.batch().await;
    let asked = batch.requests().last().unwrap().operation;
    assert_eq!(asked, Operation::Query(b"?"));
    world.answer(r(0), &batch, Ok(bytes("old")));
    world.answer(r(1), &batch, Ok(bytes("new")));
    moment().await;
    assert!(!answer.is_finished());
    world.answer(r(2), &batch, Ok(bytes("new")));
    assert_eq!(answer.await.unwrap(), Ok(bytes("new")));
}

#[tokio::test(start_paused = true)]
async fn who_leads_is_believed_of_two_only() {
    let mut world = World::new(options());
    world.opened().await;
    for (liars, first) in [(1, r(0)), (2, r(3))] {
        for liar in 0..liars {
            world.say(r(3 - liar), &Reply::Leader(r(3)));
            world.say(r(3 - liar), &Reply::Leader(r(3)));
        }
        moment().await;
        let answer = world.propose("+");
        let (to, batch) = world.batch().await;
        assert_eq!(to, first, "{liars} say so");
        world.believed(answer, &batch).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_does_not_exist_is_survived() {
    let mut world = World::new(options());
    world.opened().await;
    world.say(r(2), &Reply::Leader(r(200)));
    world.say(r(3), &Reply::Leader(r(200)));
    moment().await;
    let answer = world.propose("+");
    let (_, batch) = world.batch().await;
    world.believed(answer, &batch).await;
}

/// Has replicas say how many sessions have been opened, in the order given, and gives what the
/// client says when it opens another.
async fn opens_after(counts: [(u8, u64); 3]) -> u64 {
    let mut world = World::new(options());
    let _answer = world.propose("+");
    while world.ask().await.is_some() {}
    for (replica, count) in counts {
        world.say(r(replica), &Reply::Opened(count));
        moment().await;
    }
    match world.ask().await {
        Some((_, Ask::Propose(batch))) if opens(&batch) => {
            batch.requests().last().unwrap().answered
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn no_single_replica_makes_up_how_many_sessions_there_were() {
    for lie in [u64::MAX, 0] {
        for first in 0..3 {
            let mut counts = [(0, 5), (1, 5), (2, 5)];
            counts[first].1 = lie;
            counts.swap(0, first);
            assert_eq!(opens_after(counts).await, 5, "{counts:?}");
        }
    }
    assert_eq!(opens_after([(0, 5), (1, 9), (2, 7)]).await, 7);
}

#[tokio::test(start_paused = true)]
async fn what_a_silent_primary_was_asked_is_asked_of_all() {
    let mut world = World::new(options());
    world.opened().await;
    let answer = world.propose("+");
    let (to, first) = world.batch().await;
    assert_eq!(to, r(0));
    let mut asked = ReplicaSet::EMPTY;
    while asked.len() < N {
        let (to, batch) = world.batch().await;
        assert!(batch.requests().eq(first.requests()));
        asked.insert(to);
    }
    assert!(!answer.is_finished());
    world.believed(answer, &first).await;
}

#[tokio::test(start_paused = true)]
async fn a_session_is_opened_without_the_primary() {
    let mut world = World::new(options());
    world.silent.insert(r(0));
    let answer = world.propose("+");
    let (_, batch) = world.batch().await;
    world.believed(answer, &batch).await;
}

#[tokio::test(start_paused = true)]
async fn what_nobody_answers_has_an_unknown_outcome_in_time() {
    let mut world = World::new(options());
    let start = Instant::now();
    let answer = world.propose("+");
    world.batch().await;
    assert_eq!(answer.await.unwrap(), Err(ProposeError::Unknown));
    // To the millisecond, the timer's own resolution apart.
    assert!(start.elapsed() <= options().timeout + MOMENT);
}

#[tokio::test(start_paused = true)]
async fn every_request_is_signed() {
    let members: Vec<_> = (0..4).map(|n| key(n).public()).collect();
    let verifier =
        Verifier::new(Members::new(GROUP, members)).admitting(Admission::of([key(100).public()]));
    let mut world = World::new(options());
    let _answers = (world.propose("+"), world.read("?"));
    let (mut openings, mut others) = (0, 0);
    while others < 2 {
        let (to, ask) = world.heard.recv().await.unwrap();
        match ask {
            Ask::Follow(_) => world.say(to, &Reply::Opened(0)),
            Ask::Propose(batch) => {
                assert_eq!(batch.verify(&verifier), Ok(()));
                match opens(&batch) {
                    true => openings += batch.len(),
                    false => others += batch.len(),
                }
                world.open(to, &batch);
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((openings, others), (1, 2));
}

#[tokio::test(start_paused = true)]
async fn calls_made_while_three_groups_are_unanswered_share_the_next() {
    let mut world = World::new(options());
    let first = world.propose("a");
    let (_, batch) = world.batch().await;
    assert_eq!(batch.len(), 1);
    let mut others = Vec::new();
    for command in ["b", "c"] {
        others.push(world.propose(command));
        assert_eq!(world.batch().await.1.len(), 1);
    }
    others.extend(["d", "e", "f"].map(|command| world.propose(command)));
    assert!(world.ask().await.is_none());
    world.answer(r(0), &batch, Ok(bytes("true")));
    assert!(world.ask().await.is_none());
    world.believed(first, &batch).await;
    let (to, batch) = world.batch().await;
    assert_eq!((to, batch.groups().count()), (r(0), 1));
    let operations = batch.requests().map(|request| request.operation);
    assert!(operations.eq([b"d", b"e", b"f"].map(|command| Operation::Apply(command))));
    assert!(batch.groups().all(|group| group.signature.is_some()));
    assert!(others.iter().all(|answer| !answer.is_finished()));
}

#[tokio::test(start_paused = true)]
async fn an_expired_session_is_replaced_if_two_say_so() {
    let mut world = World::new(options());
    let answer = world.propose("a");
    let (_, batch) = world.batch().await;
    let old = batch.requests().last().unwrap().session;
    for replica in [r(2), r(3)] {
        world.answer(replica, &batch, Err(ProposeError::SessionExpired));
    }
    assert_eq!(answer.await.unwrap(), Err(ProposeError::SessionExpired));
    let answer = world.propose("b");
    let (_, batch) = world.batch().await;
    assert_ne!(batch.requests().last().unwrap().session, old);
    world.believed(answer, &batch).await;
}
