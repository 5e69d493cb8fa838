//! What an acceptor promises. [Lamport01 §2.2, §2.5]

use quorate_core::id::Slot;
use quorate_core::protocol::Role;
use quorate_multipaxos::{Config, Message, Timer};

use crate::common::{
    Node, PaxosNode, accept, accepted, b, command, heartbeat, prepare, promise, r, records,
    rejected,
};

/// "It responds to the request with a promise not to accept any more proposals numbered less than
/// n and with the highest-numbered proposal (if any) that it has accepted", for each slot.
/// [Lamport01 §2.2 phase 1b]
#[test]
fn an_acceptor_promises_a_higher_ballot_and_tells_what_it_has_accepted() {
    let held = [(1, b(1, 1), "a"), (3, b(2, 2), "c")];
    let mut node = Node::acceptor(0, 3, b(2, 2), &held);
    assert_eq!(
        node.answer(r(1), prepare(b(3, 1), 1)),
        [promise(b(3, 1), &held)]
    );
    assert_eq!(node.durable_promise(), b(3, 1));
    assert_eq!(
        node.answer(r(1), prepare(b(3, 1), 1)),
        [promise(b(3, 1), &held)],
        "the same again"
    );
}

/// An acceptor ignores, or here rejects, what has a lower ballot than the one promised.
/// [Lamport01 §2.2 P1a]
#[test]
fn an_acceptor_refuses_lower_ballots() {
    let mut node = Node::acceptor(0, 3, b(4, 1), &[]);
    let lower = [b(3, 2), b(4, 0)];
    for ballot in lower {
        let replica = ballot.replica;
        for message in [prepare(ballot, 1), accept(ballot, &[(1, "x")], 0)] {
            if replica != r(0) {
                let answers = node.answer(replica, message);
                assert_eq!(answers, [rejected(ballot, b(4, 1))]);
            }
        }
    }
    assert_eq!(node.durable_log(), []);
}

/// The promise survives a crash, however it was made: by answering a Prepare, a heartbeat or a
/// proposal. [Lamport01 §2.5]
#[test]
fn an_acceptor_refuses_lower_ballots_after_a_restart() {
    let promising = [
        prepare(b(5, 2), 1),
        heartbeat(b(5, 2), 0, 0),
        accept(b(5, 2), &[(1, "x")], 0),
    ];
    for message in promising {
        let mut node = Node::fresh(0, 3, &Config::default());
        node.receive(r(2), message);
        let mut node = node.crash(&Config::default());
        let answers = node.answer(r(1), prepare(b(4, 1), 1));
        assert_eq!(answers, [rejected(b(4, 1), b(5, 2))]);
        let answers = node.answer(r(1), accept(b(4, 1), &[(1, "y")], 0));
        assert_eq!(answers, [rejected(b(4, 1), b(5, 2))]);
    }
}

/// A proposal that is accepted raises the ballot promised. [vanRenesse15 §2]
#[test]
fn accepting_raises_the_promise() {
    let mut node = Node::acceptor(0, 3, b(1, 1), &[]);
    let answers = node.answer(r(2), accept(b(3, 2), &[(1, "x")], 0));
    assert_eq!(answers, [accepted(b(3, 2), &[1])]);
    assert_eq!(node.durable_promise(), b(3, 2));
    let answers = node.answer(r(1), accept(b(2, 1), &[(1, "y")], 0));
    assert_eq!(answers, [rejected(b(2, 1), b(3, 2))]);
    assert_eq!(node.durable_log(), [(1, b(3, 2), String::from("x"))]);
}

/// "An acceptor can accept a proposal numbered n iff it has not responded to a prepare request
/// having a number greater than n": so also one that it has not been asked about before, and
/// another after that. [Lamport01 §2.2 P1a]
#[test]
fn an_acceptor_takes_the_proposal_of_a_higher_ballot_instead() {
    let mut node = Node::fresh(0, 3, &Config::default());
    node.receive(r(1), accept(b(1, 1), &[(1, "x"), (2, "y")], 0));
    node.receive(r(2), accept(b(2, 2), &[(2, "z")], 0));
    let log = [(1, b(1, 1), "x"), (2, b(2, 2), "z")];
    let answers = node.answer(r(1), prepare(b(3, 1), 1));
    assert_eq!(answers, [promise(b(3, 1), &log)]);
}

/// An acceptor records its answer in stable storage before it sends it: nothing that promises
/// leaves before it is durable. [Lamport01 §2.5]
#[test]
fn nothing_is_promised_before_it_is_durable() {
    let mut node = Node::fresh(0, 3, &Config::default());
    node.syncs = false;
    for message in [prepare(b(1, 1), 1), accept(b(1, 1), &[(1, "x")], 0)] {
        assert_eq!(node.answer(r(1), message), []);
        node.sync();
        assert_eq!(node.take().len(), 1);
    }
    node.wait_for_campaign();
    assert_eq!(node.role(), Role::Candidate);
    assert_eq!(node.take(), [], "a campaign is a promise too");
    node.sync();
    assert_eq!(node.take().len(), 2);
}

/// "Different proposers choose their numbers from disjoint sets of numbers", and "each proposer
/// remembers (in stable storage) the highest-numbered proposal it has tried to issue".
/// [Lamport01 §2.5]
#[test]
fn a_ballot_is_never_used_again() {
    let mut node = Node::fresh(0, 3, &Config::default());
    let mut used = Vec::new();
    for _ in 0..5 {
        node.wait_for_campaign();
        assert!(!used.contains(&node.ballot()));
        used.push(node.ballot());
        node = node.crash(&Config::default());
        assert_eq!(node.role(), Role::Follower);
    }
    assert!(used.iter().all(|ballot| ballot.replica == r(0)));
    assert!(used.is_sorted());
}

/// A higher ballot that was only heard of is not promised: it ends a campaign, and the next one
/// goes beyond it, but only after a wait.
#[test]
fn a_ballot_is_not_raised_merely_because_a_higher_one_was_seen() {
    let mut node = Node::candidate(3, 2, &[]);
    node.take();
    node.receive(r(1), rejected(b(2, 0), b(9, 2)));
    assert_eq!((node.role(), node.ballot()), (Role::Follower, b(2, 0)));
    assert_eq!(node.durable_promise(), b(2, 0));
    assert_eq!(node.take(), [], "no campaign follows at once");
    let waited = node.wait_for_campaign();
    assert!(waited >= Config::default().election_timeout);
    assert_eq!(node.ballot(), b(10, 0));
}

/// A rejection of an earlier ballot says nothing about this one.
#[test]
fn a_late_rejection_is_ignored() {
    let mut node = Node::candidate(3, 5, &[]);
    node.receive(r(1), rejected(b(3, 0), b(4, 1)));
    assert_eq!((node.role(), node.ballot()), (Role::Candidate, b(5, 0)));
}

fn parts(node: &mut Node, from: u64) -> Vec<Message> {
    node.answer(r(1), prepare(b(7, 1), from))
}

/// One phase 1 covers all slots; the answer comes in parts of limited size, and counts when all
/// of them are there. [Lamport01 §3]
#[test]
fn a_promise_counts_when_all_its_parts_have_arrived() {
    let held = [1, 2, 3, 5].map(|slot| (slot, b(1, 2), "a value of some length"));
    let size = command("a value of some length").size();
    let config = Config {
        max_message_bytes: 2 * size + 60,
        ..Config::default()
    };
    let mut acceptor = Node::with(0, 3, &config, records(b(1, 2), &held));
    let all = parts(&mut acceptor, 1);
    assert_eq!(all.len(), 2);

    let candidate = || {
        let mut node = Node::with(1, 3, &config, records(b(6, 2), &[]));
        node.syncs = false;
        node.wait_for_campaign();
        assert_eq!(node.ballot(), b(7, 1));
        node.sync();
        node.end_turn();
        node.sync();
        node.end_turn();
        node.syncs = true;
        node.take();
        node
    };
    let mut in_order = candidate();
    in_order.receive(r(0), all[0].clone());
    assert_eq!(in_order.role(), Role::Candidate);
    in_order.receive(r(0), all[0].clone());
    assert_eq!(in_order.role(), Role::Candidate, "the first part twice");
    in_order.receive(r(0), all[1].clone());
    assert_eq!(in_order.role(), Role::Leader);
    let slots: Vec<u64> = in_order.proposed(r(2)).iter().map(|p| p.0).collect();
    assert_eq!(slots, [1, 2, 3, 4, 5]);

    let mut overtaken = candidate();
    overtaken.receive(r(0), all[1].clone());
    assert_eq!(overtaken.role(), Role::Candidate, "the last part alone");
    overtaken.receive(r(0), all[0].clone());
    assert_eq!(overtaken.role(), Role::Leader, "in whatever order");
    assert_eq!(overtaken.proposed(r(2)).len(), 5);
}

/// Parts that come before those which precede them are kept: who asked again for all that follows
/// the first gap would learn of one slot each time, where messages overtake each other.
#[test]
fn parts_of_a_promise_fit_together_in_whatever_order_they_come() {
    let held = [1, 2, 3, 4].map(|slot| (slot, b(1, 2), "value"));
    let config = Config {
        max_message_bytes: 1,
        ..Config::default()
    };
    let mut acceptor = Node::with(1, 3, &config, records(b(1, 2), &held));
    let all = acceptor.answer(r(0), prepare(b(2, 0), 1));
    assert_eq!(all.len(), 4);
    for order in [[3, 2, 1, 0], [1, 3, 0, 2]] {
        let mut node = Node::candidate(3, 2, &[]);
        for part in order {
            assert_eq!(node.role(), Role::Candidate);
            node.receive(r(1), all[part].clone());
        }
        assert_eq!(node.role(), Role::Leader, "{order:?}");
        assert_eq!(node.proposed(r(2)).len(), 4);
    }
    let mut node = Node::candidate(3, 2, &[]);
    for part in [3, 2, 0] {
        node.receive(r(1), all[part].clone());
    }
    node.take();
    node.fire(Timer::Retransmit);
    let asked = node.take();
    assert!(asked.contains(&(r(1), prepare(b(2, 0), 2))), "{asked:?}");
    node.receive(r(1), all[1].clone());
    assert_eq!(node.role(), Role::Leader, "the part that was lost");
}

/// What a candidate knows to be chosen it does not ask about. [Lamport01 §3]
#[test]
fn phase_1_begins_with_the_first_slot_that_is_not_known_chosen() {
    let mut node = Node::fresh(0, 3, &Config::default());
    node.receive(r(1), accept(b(1, 1), &[(1, "a"), (2, "b"), (3, "c")], 0));
    node.receive(r(1), heartbeat(b(1, 1), 2, 1));
    assert_eq!(node.executed(), ["a", "b"]);
    node.take();
    node.wait_for_campaign();
    let asked = node.take();
    assert!(asked.contains(&(r(2), prepare(b(2, 0), 3))), "{asked:?}");
    let Message::Prepare(asked) = &asked[0].1 else {
        panic!("{asked:?}");
    };
    assert_eq!(asked.from, Slot(3));
}
