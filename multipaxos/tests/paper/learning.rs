//! Slots in any order, the watermark, and learning what is chosen. [Lamport01 §2.3, §3;
//! vanRenesse15 §2, §2.3]

use std::time::Duration;

use quorate_core::id::Slot;
use quorate_multipaxos::{Config, Message, Timer};

use crate::common::{
    Cluster, Node, PaxosCluster, PaxosNode, accept, accepted, b, echo, heartbeat, proposal, r,
    records,
};

fn learn(from: u64) -> Message {
    Message::Learn { from: Slot(from) }
}

/// A leader may propose command 142 before it has learnt that its command 141 is chosen, and 142 may
/// be chosen first; it is executed after 141. [Lamport01 §3]
#[test]
fn slots_are_chosen_in_any_order_and_executed_in_theirs() {
    let mut leader = Node::leader(3, 1);
    for text in ["a", "b", "c"] {
        leader.propose(text);
    }
    leader.receive(r(1), accepted(b(1, 0), &[3]));
    leader.receive(r(2), accepted(b(1, 0), &[2]));
    assert_eq!(leader.committed(), 0, "2 and 3 are chosen");
    leader.receive(r(2), accepted(b(1, 0), &[1]));
    assert_eq!(leader.executed(), ["a", "b", "c"]);
    let slots: Vec<u64> = leader.slots();
    assert_eq!(slots, [1, 2, 3]);
}

/// An acceptor takes proposals in any order; one acknowledgement names them all.
#[test]
fn slots_are_accepted_in_any_order() {
    let mut node = Node::fresh(0, 3, &Config::default());
    let answers = node.answer(r(1), accept(b(1, 1), &[(3, "c"), (5, "e")], 0));
    assert_eq!(answers, [accepted(b(1, 1), &[3, 5])]);
    let first = node.input(r(1), accept(b(1, 1), &[(1, "a"), (2, "b")], 0));
    let second = node.input(r(1), accept(b(1, 1), &[(3, "c"), (4, "d")], 0));
    node.step(first);
    node.step(second);
    node.take();
    node.end_turn();
    let answers = node.take();
    assert_eq!(answers, [(r(1), accepted(b(1, 1), &[1, 2, 3, 4]))]);
    node.receive(r(1), heartbeat(b(1, 1), 5, 1));
    assert_eq!(node.executed(), ["a", "b", "c", "d", "e"]);
}

/// No more than so many slots are under way: α, or the window. [Lamport01 §3; vanRenesse15 §2]
#[test]
fn the_window_bounds_the_slots_under_way() {
    let config = Config {
        max_window: 2,
        ..Config::default()
    };
    let mut cluster = Cluster::led_by_0(3, &config);
    cluster.isolate(0);
    for text in ["a", "b", "waits"] {
        cluster.node(0).propose(text);
    }
    assert_eq!(cluster.node(0).proposed(r(1)).len(), 2);
    let mut node = Node::with(0, 3, &config, Vec::new());
    let answers = node.answer(r(1), accept(b(1, 1), &[(2, "b"), (3, "c")], 0));
    assert_eq!(answers, [accepted(b(1, 1), &[2])], "3 is beyond the window");
    node.receive(r(1), accept(b(1, 1), &[(1, "a")], 0));
    let answers = node.answer(r(1), accept(b(1, 1), &[(3, "c")], 1));
    assert_eq!(answers, [echo(b(1, 1), &[3], 0, 1)], "and now it is not");
}

/// Phase 1 is executed once; after that a command takes two message delays and 2(n - 1) messages,
/// and that it is chosen rides along with the next. [Lamport01 §3]
#[test]
fn in_steady_state_only_phase_2_is_executed() {
    let mut cluster = Cluster::led_by_0(5, &Config::default());
    cluster.rounds.clear();
    cluster.propose(0, "a");
    assert_eq!(
        cluster.delivered(),
        [["accept"; 4], ["accepted"; 4]].concat()
    );
    assert_eq!(cluster.node(0).executed(), ["a"]);
    assert_eq!(cluster.node(1).committed(), 0);
    cluster.propose(0, "b");
    assert_eq!(cluster.node(1).executed(), ["a"]);
    cluster.beat(0);
    assert_eq!(cluster.node(1).executed(), ["a", "b"]);
}

/// A follower whose clients wait is told at once that their requests are chosen.
#[test]
fn a_follower_that_forwarded_a_request_is_told_at_once() {
    let mut cluster = Cluster::led_by_0(3, &Config::default());
    cluster.rounds.clear();
    cluster.propose(1, "x");
    assert_eq!(cluster.node(1).executed(), ["x"]);
    assert_eq!(cluster.node(2).committed(), 0);
    let kinds = [
        "forward",
        "accept",
        "accept",
        "accepted",
        "accepted",
        "heartbeat",
    ];
    assert_eq!(cluster.delivered()[..6], kinds);
}

/// The watermark of a ballot says that what was accepted in this ballot is chosen. What was
/// accepted in another may be another value: the follower asks. [Lamport01 §2.2 P2c]
#[test]
fn the_watermark_does_not_confirm_what_was_accepted_in_an_older_ballot() {
    let held = [(1, b(1, 2), "not chosen"), (2, b(2, 1), "b")];
    let mut node = Node::acceptor(0, 3, b(2, 1), &held);
    let answers = node.answer(r(1), heartbeat(b(2, 1), 2, 1));
    assert_eq!(node.committed(), 0);
    assert_eq!(answers, [echo(b(2, 1), &[], 1, 0), learn(1)]);
    let proposals = vec![proposal(1, "a")];
    node.receive(r(1), Message::Chosen { proposals });
    assert_eq!(node.executed(), ["a", "b"]);
    let again = node.crash(&Config::default());
    assert!(
        again
            .durable_log()
            .contains(&(1, b(0, 0), String::from("a")))
    );
}

/// Whoever lacks chosen values asks for them, in batches, until it has all. [vanRenesse15 §4]
#[test]
fn missing_values_are_asked_for_in_batches() {
    let config = Config {
        max_message_bytes: 100,
        ..Config::default()
    };
    let mut cluster = Cluster::led_by_0(3, &config);
    cluster.isolate(2);
    for text in ["a", "b", "c", "d", "e"] {
        cluster.propose(0, text);
    }
    cluster.heal();
    cluster.rounds.clear();
    cluster.beat(0);
    assert_eq!(cluster.node(2).executed(), ["a", "b", "c", "d", "e"]);
    let count = |kind| cluster.delivered().iter().filter(|k| **k == kind).count();
    assert_eq!(count("learn"), 5, "one value fits into a message");
    assert_eq!(count("chosen"), 5);
}

/// A question that is lost is asked again, and not of the leader alone.
#[test]
fn learning_is_tried_again_and_from_others() {
    let mut node = Node::fresh(0, 3, &Config::default());
    assert_eq!(
        node.answer(r(1), heartbeat(b(1, 1), 3, 1)),
        [echo(b(1, 1), &[], 1, 0), learn(1)]
    );
    node.receive(r(1), heartbeat(b(1, 1), 3, 2));
    let sent = node.take();
    assert!(
        sent.iter().all(|(_, m)| *m != learn(1)),
        "not at each message"
    );
    let mut asked = Vec::new();
    for _ in 0..4 {
        node.fire(Timer::Retransmit);
        let learns = node.take().into_iter().filter(|(_, m)| *m == learn(1));
        asked.extend(learns.map(|(to, _)| to));
    }
    assert_eq!(asked, [r(1), r(1), r(2), r(1)]);
}

/// A proposal is sent again until it is chosen, to those who have not accepted it.
/// [Lamport01 §2.4]
#[test]
fn a_proposal_that_is_not_answered_is_sent_again() {
    let mut leader = Node::leader(5, 1);
    leader.propose("a");
    leader.propose("b");
    leader.receive(r(1), accepted(b(1, 0), &[1]));
    leader.take();
    leader.pass(Duration::from_millis(200));
    let sent = leader.take();
    let accepts = sent.iter().filter_map(|(to, message)| match message {
        Message::Accept(accept) if !accept.proposals.is_empty() => {
            let slots: Vec<u64> = accept.proposals.iter().map(|p| p.slot.0).collect();
            Some((to.0, slots))
        }
        _ => None,
    });
    let accepts: Vec<_> = accepts.collect();
    assert_eq!(
        accepts,
        [
            (1, vec![2]),
            (2, vec![1, 2]),
            (3, vec![1, 2]),
            (4, vec![1, 2])
        ]
    );
    leader.receive(r(2), accepted(b(1, 0), &[1, 2]));
    leader.receive(r(3), accepted(b(1, 0), &[2]));
    assert_eq!(leader.executed(), ["a", "b"]);
    leader.pass(Duration::from_millis(400));
    let again = leader.proposed(r(4));
    assert_eq!(again, [], "what is chosen they ask for themselves");
}

/// Every message may be lost: the next ones make up for it. [Lamport01 §2.3]
#[test]
fn lost_messages_cost_latency_only() {
    let mut cluster = Cluster::led_by_0(3, &Config::default());
    cluster.isolate(2);
    cluster.propose(0, "a");
    cluster.heal();
    cluster.propose(0, "b");
    assert_eq!(
        cluster.count("learn"),
        1,
        "the next proposal said that there is something to learn"
    );
    assert_eq!(cluster.node(2).executed(), ["a", "b"]);
}

/// A leader takes no other's word for what is chosen: what it says of its ballot must be its own.
#[test]
fn a_leader_learns_nothing_from_others() {
    let mut leader = Node::leader(3, 2);
    let proposals = vec![proposal(1, "x")];
    leader.receive(r(1), Message::Chosen { proposals });
    assert_eq!(leader.committed(), 0);
}

/// A restart executes again what it had known to be chosen, and asks nobody.
#[test]
fn a_restart_remembers_what_it_knew_to_be_chosen() {
    let mut node = Node::fresh(0, 3, &Config::default());
    node.receive(r(1), accept(b(1, 1), &[(1, "a"), (2, "b")], 0));
    node.receive(r(1), accept(b(1, 1), &[(3, "c")], 2));
    node.receive(r(1), accept(b(1, 1), &[(4, "d")], 3));
    let mut again = node.crash(&Config::default());
    assert_eq!(
        again.executed(),
        ["a", "b", "c"],
        "the last that was written with a proposal"
    );
    again.receive(r(1), heartbeat(b(1, 1), 4, 1));
    assert_eq!(again.executed(), ["a", "b", "c", "d"]);
    let unknown = Node::with(
        0,
        3,
        &Config::default(),
        records(b(1, 1), &[(1, b(1, 1), "a")]),
    );
    assert_eq!(unknown.committed(), 0);
}

/// A Learn is answered with what is known chosen, and with nothing beyond. [vanRenesse15 §4]
#[test]
fn a_learn_is_answered_with_what_is_chosen_and_no_more() {
    let mut node = Node::fresh(0, 3, &Config::default());
    node.receive(r(1), accept(b(1, 1), &[(1, "a"), (2, "b"), (3, "c")], 2));
    let proposals = vec![proposal(2, "b")];
    assert_eq!(node.answer(r(2), learn(2)), [Message::Chosen { proposals }]);
    assert_eq!(node.answer(r(2), learn(3)), []);
}

/// Values that do not follow what is executed are not learnt, and are asked for again.
#[test]
fn what_does_not_follow_is_not_learnt() {
    let mut node = Node::fresh(0, 3, &Config::default());
    node.receive(r(1), heartbeat(b(1, 1), 3, 1));
    let proposals = vec![proposal(2, "b"), proposal(3, "c")];
    node.receive(r(2), Message::Chosen { proposals });
    assert_eq!((node.committed(), node.durable_log()), (0, Vec::new()));
    let proposals = vec![proposal(1, "a"), proposal(3, "c")];
    let asked = node.answer_to(r(1), Message::Chosen { proposals }, r(1));
    assert_eq!(node.executed(), ["a"]);
    assert_eq!(asked, [learn(2)]);
}
