//! Basic Paxos: one value, agreed on once. It is what happens in a single slot, and the seed from
//! which the rest grows. Told with the messages of Multi-Paxos, whose phase 1 covers all slots; here
//! only slot 1 matters. [Lamport01 §2]

mod common;

use common::{Node, PaxosNode, accept, accepted, b, heartbeat, prepare, promise, r, rejected};
use quorate_core::protocol::Role;

const A1: u8 = 0;
const A2: u8 = 1;
const A3: u8 = 2;

/// Lamport's scenario: a proposer comes with the number 42, and one of the acceptors that it asks
/// has accepted a value under the number 10. The proposer wants "x"; it must propose "v".
#[test]
fn prepare_42_meets_an_acceptance_at_10() {
    // Long ago the second replica had the number 10. It proposed "v", which only it and the third
    // have accepted: two of three, so that "v" is chosen, though nobody has noticed.
    let ten = b(10, A2);
    let mut second = Node::acceptor(A2, 3, ten, &[(1, ten, "v")]);
    let mut third = Node::acceptor(A3, 3, ten, &[(1, ten, "v")]);

    // Phase 1a. The first replica, which was asleep, has never heard of it. It picks the number
    // 42, writes it down, and asks all for a promise.
    let mut first = Node::acceptor(A1, 3, b(41, A1), &[]);
    first.wait_for_campaign();
    let forty_two = b(42, A1);
    let asked = first.take();
    assert_eq!(
        asked,
        [
            (r(A2), prepare(forty_two, 1)),
            (r(A3), prepare(forty_two, 1))
        ]
    );

    // Phase 1b. 42 is higher than 10: the second replica promises to accept nothing below 42 any
    // more, and tells what it has accepted.
    let answer = second.answer(r(A1), prepare(forty_two, 1));
    assert_eq!(answer, [promise(forty_two, &[(1, ten, "v")])]);
    assert_eq!(second.durable_promise(), forty_two, "before it says so");

    // From now on the number 10 is worth nothing there.
    let late = second.answer(r(A3), prepare(b(11, A3), 1));
    assert_eq!(late, [rejected(b(11, A3), forty_two)]);

    // Phase 2a. With its own promise that is a majority, and any value that may be chosen was
    // accepted by one of them. The proposer is not free: it proposes "v".
    first.receive(r(A2), answer[0].clone());
    assert_eq!(first.role(), Role::Leader);
    first.propose("x");
    let proposed = first.proposed(r(A3));
    assert_eq!(proposed[0], (1, String::from("v")));
    assert_eq!(
        proposed[1],
        (2, String::from("x")),
        "x has to take another slot"
    );

    // Phase 2b. The third replica was never asked for a promise. It accepts all the same, for it
    // has promised nothing higher, and accepting is a promise too.
    let proposal = accept(forty_two, &[(1, "v")], 0);
    let answer = third.answer(r(A1), proposal);
    assert_eq!(answer, [accepted(forty_two, &[1])]);
    let late = third.answer(r(A2), accept(ten, &[(1, "v")], 0));
    assert_eq!(late, [rejected(ten, forty_two)]);

    // The learner: two of three have accepted under 42. "v" was chosen before, and still is.
    first.receive(r(A3), answer[0].clone());
    assert_eq!(first.executed(), ["v"]);
    third.receive(r(A1), heartbeat(forty_two, 1, 1));
    assert_eq!(third.executed(), ["v"]);
}

/// The other way round: the number 10 comes after 42, and is refused. Its proposer has to try a
/// higher number, and then finds what 42 has proposed.
#[test]
fn prepare_10_meets_a_promise_of_42() {
    let forty_two = b(42, A2);
    let mut acceptor = Node::acceptor(A3, 3, forty_two, &[(1, forty_two, "v")]);
    let mut proposer = Node::candidate(3, 10, &[]);
    proposer.take();
    let answer = acceptor.answer(r(A1), prepare(b(10, A1), 1));
    assert_eq!(answer, [rejected(b(10, A1), forty_two)]);
    proposer.receive(r(A3), answer[0].clone());
    assert_eq!(proposer.role(), Role::Follower);

    proposer.wait_for_campaign();
    let next = b(43, A1);
    assert_eq!(proposer.ballot(), next);
    let answer = acceptor.answer(r(A1), prepare(next, 1));
    proposer.receive(r(A3), answer[0].clone());
    assert_eq!(proposer.proposed(r(A2))[0], (1, String::from("v")));
}

/// A proposer that finds nothing may propose what it likes.
#[test]
fn a_proposer_that_finds_nothing_is_free() {
    let mut proposer = Node::candidate(3, 1, &[]);
    proposer.receive(r(A2), promise(b(1, A1), &[]));
    proposer.propose("x");
    assert_eq!(proposer.proposed(r(A3)), [(1, String::from("x"))]);
}
