//! Two durable writes that belong together, and a crash between them. [Lamport01 §2.5;
//! Chandra07 §5.5]
//!
//! | the first | the second | a crash between them |
//! |---|---|---|
//! | a fetched snapshot | the rewrite of the log | what the log holds below the snapshot is vouched for only where the records say that it is chosen |
//! | an own snapshot | the rewrite of the log | the same |
//! | the rewrite of the log | what is accepted after it | the log as it was rewritten |
//! | a ballot promised | what is accepted in it | the promise holds |
//! | what is accepted | that it is chosen, with the next acceptance or the next value learnt | it is learnt again |

use bytes::Bytes;
use quorate_core::id::Slot;
use quorate_core::protocol::Role;
use quorate_multipaxos::{Config, Message, Record, Timer};

use crate::common::{
    Ballot, Cluster, Node, PaxosCluster, PaxosNode, accept, accepted, b, heartbeat, prepare,
    promise, promise_from, r, records, rejected, snapshot,
};

/// Keeps nothing behind a snapshot.
fn keeps_nothing() -> Config {
    Config {
        retained_entries: 0,
        ..Config::default()
    }
}

/// An old leader has accepted what was never chosen, fetches the snapshot that replaces it, and
/// crashes when that is saved and its log is not yet rewritten. What it tells a candidate then is
/// not taken for chosen.
#[test]
fn a_log_older_than_the_fetched_snapshot_is_not_vouched_for() {
    let config = Config::default();
    let mut cluster = Cluster::led_by_0(3, &config);
    cluster.isolate(0);
    for text in ["x1", "x2", "x3"] {
        cluster.node(0).propose(text);
    }
    cluster.node(0).take();
    cluster.elect(1);
    cluster.propose(1, "a1");
    cluster.propose(1, "a2");
    assert_eq!(cluster.node(1).executed(), ["a1", "a2"]);
    assert_eq!(cluster.node(2).executed(), ["a1"]);
    cluster.node(1).take_snapshot();
    cluster.node(0).saved = cluster.node(1).offered();
    cluster.restart(0, &config);
    assert_eq!(cluster.node(0).committed(), 2);
    cluster.heal();
    cluster.isolate(1);
    cluster.node(2).wait_for_campaign();
    cluster.deliver();
    assert_eq!(cluster.node(2).executed(), ["a1"], "the rest is in no log");
    cluster.fetch(2);
    cluster.fire(2, Timer::Retransmit);
    assert_eq!(cluster.node(2).role(), Role::Leader);
    cluster.propose(2, "new");
    cluster.heal();
    cluster.beat(2);
    cluster.beat(2);
    assert_eq!(cluster.node(1).executed(), ["a1", "a2", "x3", "new"]);
    let states = [0, 1, 2].map(|id| cluster.node(id).state);
    assert!(states.iter().all(|state| *state == states[0]));
}

/// The same, asked for by itself: a Learn is not answered from what was never chosen, and a
/// promise does not vouch for it.
#[test]
fn what_lies_below_a_fetched_snapshot_is_told_to_nobody() {
    let held = [(1, b(1, 0), "x1"), (2, b(1, 0), "x2"), (3, b(1, 0), "x3")];
    let mut node = Node::acceptor(0, 3, b(1, 0), &held);
    node.saved = Some(snapshot(2, Bytes::new()));
    let mut node = node.crash(&Config::default());
    let through = Slot(2);
    let answers = node.answer(r(2), Message::Learn { from: Slot(1) });
    assert_eq!(answers, [Message::SnapshotNeeded { through }]);
    let [Message::Promise(told)] = &node.answer(r(2), prepare(b(5, 2), 1))[..] else {
        panic!("no promise");
    };
    let slots: Vec<u64> = told.accepted.iter().map(|report| report.slot.0).collect();
    assert_eq!((told.compacted, slots), (Slot(2), vec![3]));
    assert!(node.durable.contains(&Record::Start(Slot(2))));
}

/// Where the records say that what they hold below the snapshot is chosen, it is kept: a peer a
/// little behind needs no snapshot.
#[test]
fn a_log_known_chosen_is_kept_below_a_snapshot() {
    let config = Config::default();
    let mut node = Node::fresh(0, 3, &config);
    node.receive(r(1), accept(b(1, 1), &[(1, "a"), (2, "b"), (3, "c")], 0));
    // Executed through 3, but the records say so through 2 only.
    node.receive(r(1), accept(b(1, 1), &[(4, "d")], 2));
    node.receive(r(1), accept(b(1, 1), &[(5, "e")], 2));
    node.receive(r(1), heartbeat(b(1, 1), 3, 1));
    assert_eq!(node.committed(), 3);
    for (saved, first_held) in [(2, 1), (3, 4)] {
        let mut past = Node::with(0, 3, &config, node.durable.clone());
        past.saved = Some(snapshot(saved, Bytes::new()));
        let mut again = past.crash(&config);
        let from = Slot(first_held);
        let answers = again.answer(r(2), Message::Learn { from: Slot(1) });
        match first_held {
            1 => assert!(matches!(&answers[..], [Message::Chosen { proposals }]
                if proposals.len() == 2)),
            _ => {
                let through = from.previous();
                assert_eq!(answers, [Message::SnapshotNeeded { through }]);
            }
        }
        again.receive(r(1), heartbeat(b(1, 1), 4, 2));
        assert_eq!(
            again.committed(),
            4,
            "what lies beyond is as good as before"
        );
    }
}

/// An own snapshot is saved, and the crash comes before the log is rewritten, or after.
#[test]
fn an_own_snapshot_is_good_with_the_log_from_before_and_after_it() {
    for rewritten in [false, true] {
        let mut node = Node::with(0, 3, &keeps_nothing(), Vec::new());
        node.receive(r(1), accept(b(1, 1), &[(1, "a"), (2, "b")], 0));
        node.receive(r(1), accept(b(1, 1), &[(4, "d")], 2));
        node.syncs = rewritten;
        node.take_snapshot();
        let mut node = node.crash(&keeps_nothing());
        assert_eq!(node.committed(), 2, "rewritten: {rewritten}");
        assert!(
            node.durable_log()
                .contains(&(4, b(1, 1), String::from("d")))
        );
        node.receive(r(1), accept(b(1, 1), &[(3, "c")], 4));
        assert_eq!(node.executed(), ["c", "d"], "rewritten: {rewritten}");
    }
}

/// What was accepted after a rewrite that is durable, and was not durable itself, was not
/// acknowledged.
#[test]
fn what_follows_a_rewrite_is_acknowledged_only_when_it_is_durable() {
    let mut node = Node::with(0, 3, &keeps_nothing(), Vec::new());
    node.receive(r(1), accept(b(1, 1), &[(1, "a")], 1));
    node.take_snapshot();
    node.syncs = false;
    assert_eq!(node.answer(r(1), accept(b(1, 1), &[(2, "b")], 1)), []);
    let mut node = node.crash(&keeps_nothing());
    assert_eq!((node.committed(), node.durable_log()), (1, Vec::new()));
    let answers = node.answer(r(2), prepare(b(2, 2), 2));
    assert_eq!(answers.len(), 1);
}

/// The promise of a ballot is durable, and what was accepted in it is not; or both are.
#[test]
fn a_promise_holds_whether_or_not_its_proposals_are_durable() {
    let mut node = Node::fresh(0, 3, &Config::default());
    node.receive(r(2), prepare(b(5, 2), 1));
    node.syncs = false;
    assert_eq!(node.answer(r(2), accept(b(5, 2), &[(1, "v")], 0)), []);
    let mut node = node.crash(&Config::default());
    let lower = accept(b(4, 1), &[(1, "w")], 0);
    assert_eq!(node.answer(r(1), lower), [rejected(b(4, 1), b(5, 2))]);
    assert_eq!(
        node.answer(r(2), prepare(b(6, 2), 1)),
        [promise(b(6, 2), &[])]
    );
}

/// What was accepted is durable, and that it is chosen is not: after the crash it is neither
/// executed nor told to others as chosen, until the leader says so again.
#[test]
fn what_is_chosen_is_learnt_again_if_that_was_not_durable() {
    let mut node = Node::fresh(0, 3, &Config::default());
    let answers = node.answer(r(1), accept(b(1, 1), &[(1, "a")], 0));
    assert_eq!(answers, [accepted(b(1, 1), &[1])]);
    node.receive(r(1), heartbeat(b(1, 1), 1, 1));
    assert_eq!(node.committed(), 1);
    let mut node = node.crash(&Config::default());
    assert_eq!(node.committed(), 0);
    assert_eq!(node.answer(r(2), Message::Learn { from: Slot(1) }), []);
    node.receive(r(1), heartbeat(b(1, 1), 1, 2));
    assert_eq!(node.executed(), ["a"]);
}

/// Records of a life in which a value was learnt after others of which a watermark said that they are
/// chosen, which is not written: a value is learnt only when all before it is executed, so that all is
/// known chosen, and told with the ballots in which it was accepted.
#[test]
fn a_value_that_was_learnt_vouches_for_those_before_it_after_a_crash() {
    let mut past = records(b(2, 1), &[(1, b(1, 1), "a"), (2, b(1, 1), "b")]);
    let learnt = crate::common::proposal(3, "c");
    past.push(Record::Chosen(vec![learnt]));
    let mut node = Node::with(0, 3, &Config::default(), past);
    assert_eq!(node.executed(), ["a", "b", "c"]);
    let told = [(1, b(1, 1), "a"), (2, b(1, 1), "b"), (3, Ballot::ZERO, "c")];
    let answers = node.answer(r(2), prepare(b(5, 2), 1));
    assert_eq!(answers, [promise_from(b(5, 2), 3, &told)]);
}
