//! Snapshots, compaction, and whoever is too far behind. [Chandra07 §5.5; vanRenesse15 §4]

use std::time::Duration;

use bytes::Bytes;
use quorate_core::frontier::Frontier;
use quorate_core::id::Slot;
use quorate_core::protocol::{Input, Protocol, Recovered, Role};
use quorate_multipaxos::{Config, Message, Promise, Record};

use crate::common::{
    Cluster, Node, PaxosCluster, PaxosNode, accept, accepted, b, command, context, heartbeat,
    promise, r, snapshot,
};

/// Keeps nothing behind a snapshot.
fn keeps_nothing() -> Config {
    Config {
        retained_entries: 0,
        ..Config::default()
    }
}

/// What a snapshot holds is dropped; what is accepted or chosen and not executed stays.
#[test]
fn compaction_never_removes_what_is_not_executed() {
    let mut node = Node::with(0, 3, &keeps_nothing(), Vec::new());
    node.receive(r(1), accept(b(1, 1), &[(1, "a"), (2, "b")], 0));
    // 3 is missing, 4 and 5 are accepted, and all is chosen.
    node.receive(r(1), accept(b(1, 1), &[(4, "d"), (5, "e")], 5));
    assert_eq!(node.committed(), 2);
    node.take_snapshot();
    let slots: Vec<u64> = node.durable_log().iter().map(|(slot, ..)| *slot).collect();
    assert_eq!(slots, [4, 5]);
    assert!(node.durable.contains(&Record::Start(Slot(2))));
    node.receive(r(1), accept(b(1, 1), &[(3, "c")], 5));
    assert_eq!(node.executed(), ["a", "b", "c", "d", "e"]);
}

/// A snapshot needs no anchor, and is offered as it is.
#[test]
fn a_snapshot_is_offered_without_an_anchor() {
    let mut node = Node::fresh(0, 3, &Config::default());
    node.receive(r(1), accept(b(1, 1), &[(1, "a")], 1));
    node.take_snapshot();
    assert_eq!(node.offer, Some((Frontier::single(Slot(1)), Bytes::new())));
    assert!(node.protocol.accepts(&snapshot(7, Bytes::new())));
    assert!(
        !node
            .protocol
            .accepts(&snapshot(7, Bytes::from_static(b"?")))
    );
}

/// Whoever lacks what its peers have compacted fetches a snapshot, and goes on from there.
#[test]
fn a_replica_too_far_behind_fetches_a_snapshot() {
    let mut cluster = Cluster::led_by_0(3, &keeps_nothing());
    cluster.isolate(2);
    for text in ["a", "b", "c"] {
        cluster.propose(0, text);
    }
    cluster.node(0).take_snapshot();
    cluster.propose(0, "d");
    cluster.heal();
    cluster.beat(0);
    let fetch = cluster.node(2).fetch.clone().expect("it wants a snapshot");
    assert_eq!((fetch.from, fetch.at_least.slot()), (r(0), Slot(3)));
    assert_eq!(cluster.node(2).committed(), 0);
    cluster.transfer(0, 2);
    cluster.beat(0);
    cluster.node(2).pass(Duration::from_millis(200));
    cluster.deliver();
    assert_eq!(cluster.node(2).committed(), 4);
    assert_eq!(
        cluster.node(2).executed(),
        ["d"],
        "the rest is in the snapshot"
    );
}

/// What was accepted beyond a snapshot that is installed is as good as before, and is still told
/// to candidates.
#[test]
fn what_lies_beyond_an_installed_snapshot_stays() {
    let mut node = Node::fresh(0, 3, &Config::default());
    node.receive(r(1), accept(b(1, 1), &[(2, "b"), (5, "e")], 0));
    node.turn(Input::Installed(snapshot(3, Bytes::new())));
    assert_eq!(node.committed(), 3);
    assert_eq!(node.durable_log(), [(5, b(1, 1), String::from("e"))]);
    assert_eq!(node.durable_promise(), b(1, 1));
    node.saved = Some(snapshot(3, Bytes::new()));
    let mut node = node.crash(&Config::default());
    assert_eq!(node.committed(), 3);
    node.receive(r(1), accept(b(1, 1), &[(4, "d")], 5));
    assert_eq!(node.executed(), ["d", "e"]);
}

/// The same, if the crash comes before the records are written that follow from the snapshot.
#[test]
fn a_snapshot_may_lie_ahead_of_the_records() {
    let mut node = Node::fresh(0, 3, &Config::default());
    node.receive(r(1), accept(b(1, 1), &[(1, "a"), (2, "b")], 2));
    node.saved = Some(snapshot(9, Bytes::new()));
    let mut node = node.crash(&Config::default());
    assert_eq!((node.committed(), node.durable_log()), (9, Vec::new()));
    assert_eq!(node.durable_promise(), b(1, 1));
    node.receive(r(1), accept(b(1, 1), &[(10, "j")], 10));
    assert_eq!(node.executed(), ["j"]);
}

/// Records that go on from a snapshot which is not there make no replica.
#[test]
fn records_without_their_snapshot_are_refused() {
    let past = Recovered {
        records: vec![Record::Start(Slot(4))],
        snapshot: Some(snapshot(3, Bytes::new())),
    };
    let error = Node::recover(context(r(0), 3, 0), Config::default(), past).unwrap_err();
    assert!(error.reason.contains("begins after slot 4"), "{error}");
}

/// The promise of a replica that has compacted what the candidate lacks does not say what was chosen
/// there. It counts once the snapshot is installed; meanwhile others may be quorum enough: all that is
/// chosen was accepted by one of them.
#[test]
fn a_promise_of_one_that_has_compacted_too_much_does_not_count() {
    let compacted = Message::Promise(Promise {
        ballot: b(2, 0),
        from: Slot(1),
        through: Slot(8),
        last: true,
        accepted: Vec::new(),
        chosen: Slot(8),
        compacted: Slot(6),
    });
    let asking = || {
        let mut node = Node::candidate(3, 2, &[]);
        node.receive(r(1), compacted.clone());
        assert_eq!(node.role(), Role::Candidate);
        let fetch = node.fetch.clone().expect("it wants a snapshot");
        assert_eq!((fetch.from, fetch.at_least.slot()), (r(1), Slot(6)));
        node
    };
    let mut node = asking();
    node.receive(r(2), promise(b(2, 0), &[(1, b(1, 1), "a")]));
    assert_eq!(node.role(), Role::Leader, "of the two that tell all");
    assert_eq!(node.proposed(r(2)), [(1, String::from("a"))]);

    let mut node = asking();
    node.turn(Input::Installed(snapshot(6, Bytes::new())));
    assert_eq!(node.role(), Role::Candidate);
    node.receive(r(1), compacted.clone());
    assert_eq!(node.role(), Role::Leader, "with the snapshot");
    node.propose("new");
    assert_eq!(node.proposed(r(2)), [(7, String::from("new"))]);
}

/// What a leader proposes in slots that a snapshot has overtaken is none of its own any more.
#[test]
fn a_leader_overtaken_by_a_snapshot_steps_down() {
    let mut leader = Node::leader(3, 1);
    leader.propose("a");
    leader.turn(Input::Installed(snapshot(3, Bytes::new())));
    assert_eq!((leader.role(), leader.committed()), (Role::Follower, 3));
    leader.receive(r(1), accepted(b(1, 0), &[1]));
    assert_eq!(leader.committed(), 3);
}

/// A tail of the log is kept behind a snapshot, for those who are a little behind.
#[test]
fn a_peer_a_little_behind_needs_no_snapshot() {
    let mut cluster = Cluster::led_by_0(3, &Config::default());
    cluster.isolate(2);
    for text in ["a", "b", "c"] {
        cluster.propose(0, text);
    }
    cluster.node(0).take_snapshot();
    cluster.heal();
    cluster.beat(0);
    assert_eq!(cluster.node(2).executed(), ["a", "b", "c"]);
    assert_eq!(cluster.node(2).fetch, None);
}

/// Asked for slots that are compacted, a replica says so.
#[test]
fn what_is_compacted_is_not_answered_from_what_is_left() {
    let mut node = Node::with(0, 3, &keeps_nothing(), Vec::new());
    node.receive(r(1), accept(b(1, 1), &[(1, "a"), (2, "b"), (3, "c")], 2));
    node.take_snapshot();
    node.receive(r(1), heartbeat(b(1, 1), 3, 1));
    let learn = |slot| Message::Learn { from: Slot(slot) };
    for slot in [1, 2] {
        let through = Slot(2);
        let answers = node.answer(r(2), learn(slot));
        assert_eq!(answers, [Message::SnapshotNeeded { through }]);
    }
    let answers = node.answer(r(2), learn(3));
    assert!(matches!(&answers[..], [Message::Chosen { proposals }] if proposals.len() == 1));
    assert_eq!(node.answer(r(2), learn(4)), []);
}

/// Replica 2 of three fetches the snapshot through 3 of 0 and saves it, while 0 chooses two more
/// values and takes a snapshot after each.
fn fetching(max_held_bytes: usize) -> Cluster {
    let config = Config {
        max_held_bytes,
        ..keeps_nothing()
    };
    let mut cluster = Cluster::led_by_0(3, &config);
    cluster.isolate(2);
    for text in ["a", "b", "c"] {
        cluster.propose(0, text);
    }
    cluster.node(0).take_snapshot();
    cluster.propose(0, "d");
    cluster.heal();
    cluster.beat(0);
    assert!(cluster.node(2).fetch.is_some());
    let fetched = cluster.node(0).offered().expect("a snapshot is offered");
    assert_eq!(fetched.at.slot(), Slot(3));
    for text in ["e", "f"] {
        cluster.propose(0, text);
        cluster.node(0).take_snapshot();
    }
    cluster.node(2).fetch = None;
    cluster.node(2).install(fetched);
    cluster.beat(0);
    cluster
}

/// A save may take longer than others need to compact past it: a peer that fetches holds them
/// back, until it has caught up.
#[test]
fn a_peer_that_fetches_holds_compaction_back() {
    let mut cluster = fetching(1 << 20);
    assert_eq!(cluster.node(2).fetch, None, "it needs no other");
    assert_eq!(cluster.node(2).executed(), ["d", "e", "f"]);
    cluster.propose(0, "g");
    cluster.beat(0);
    cluster.node(0).take_snapshot();
    assert!(
        cluster.node(0).durable_log().is_empty(),
        "nothing is kept any more"
    );
}

/// It holds back no more than so many bytes: then it must fetch a newer snapshot. At the bound,
/// and beyond it.
#[test]
fn a_peer_that_fetches_holds_back_no_more_than_a_bound() {
    let each = command("e").size() + 24;
    for (held, again) in [(3 * each, false), (3 * each - 1, true), (0, true)] {
        let mut cluster = fetching(held);
        let wanted = cluster.node(2).fetch.clone();
        assert_eq!(wanted.is_some(), again, "{held} bytes");
        if again {
            cluster.fetch(2);
            assert_eq!(cluster.node(2).committed(), 6);
        }
    }
}
