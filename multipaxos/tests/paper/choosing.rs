//! Which value is proposed, and when it is chosen. [Lamport01 §2.1, §2.2, §3]

use quorate_core::id::ReplicaId;
use quorate_core::protocol::{Recovered, Role};
use quorate_multipaxos::Config;

use crate::common::{
    Cluster, Node, PaxosCluster, PaxosNode, accept, accepted, b, context, promise, promise_from, r,
    text,
};

fn values(slots: &[(u64, String)]) -> Vec<(u64, &str)> {
    slots
        .iter()
        .map(|(slot, text)| (*slot, text.as_str()))
        .collect()
}

/// The value proposed "is the value of the highest-numbered proposal among the responses".
/// [Lamport01 §2.2 phase 2a]
#[test]
fn a_new_leader_proposes_the_value_of_the_highest_ballot() {
    // What this replica has accepted, what the other promises, and what is proposed.
    let table = [
        (&[][..], &[(1, b(3, 2), "x")][..], "x"),
        (&[(1, b(3, 2), "x")], &[], "x"),
        (&[(1, b(2, 1), "y")], &[(1, b(3, 2), "x")], "x"),
        (&[(1, b(3, 2), "x")], &[(1, b(2, 1), "y")], "x"),
        (&[(1, b(3, 1), "y")], &[(1, b(3, 2), "x")], "x"),
    ];
    for (own, other, value) in table {
        let mut node = Node::candidate(3, 5, own);
        node.receive(r(1), promise(b(5, 0), other));
        assert_eq!(node.role(), Role::Leader);
        let proposed = node.proposed(r(2));
        assert_eq!(values(&proposed), [(1, value)], "{own:?}, {other:?}");
    }
}

/// One phase 1 is executed for all instances; each slot has its own highest ballot.
/// [Lamport01 §3]
#[test]
fn each_slot_has_the_value_of_its_own_highest_ballot() {
    let own = [(1, b(3, 2), "a"), (2, b(1, 1), "old"), (4, b(3, 2), "d")];
    let other = [(1, b(2, 1), "old"), (2, b(2, 2), "b"), (4, b(4, 1), "new")];
    let mut node = Node::candidate(3, 5, &own);
    node.receive(r(1), promise(b(5, 0), &other));
    let proposed = node.proposed(r(2));
    assert_eq!(values(&proposed), [(1, "a"), (2, "b"), (3, ""), (4, "new")]);
}

/// A new leader is free to choose where "the responses reported no proposals", and fills gaps with
/// a "noop" there; a single report is enough against it. [Lamport01 §2.2, §3]
#[test]
fn a_gap_becomes_a_noop_only_if_no_quorum_could_have_chosen_otherwise() {
    let mut node = Node::candidate(5, 3, &[(1, b(2, 1), "a")]);
    node.receive(r(1), promise(b(3, 0), &[(5, b(2, 1), "e")]));
    assert_eq!(node.role(), Role::Candidate, "no quorum has promised");
    node.receive(r(2), promise(b(3, 0), &[(3, b(1, 4), "c")]));
    assert_eq!(node.role(), Role::Leader);
    let proposed = node.proposed(r(3));
    assert_eq!(
        values(&proposed),
        [(1, "a"), (2, ""), (3, "c"), (4, ""), (5, "e")]
    );
}

/// What a promise says is chosen needs no proposal: it is learnt. [Lamport01 §3]
#[test]
fn what_is_known_chosen_is_learnt_and_not_proposed_again() {
    let mut node = Node::candidate(3, 3, &[(1, b(1, 1), "lost")]);
    let told = [(1, b(2, 2), "a"), (2, b(2, 2), "b"), (3, b(2, 2), "c")];
    node.receive(r(2), promise_from(b(3, 0), 2, &told));
    assert_eq!(node.executed(), ["a", "b"]);
    let proposed = node.proposed(r(1));
    assert_eq!(values(&proposed), [(3, "c")]);
    node.propose("d");
    let proposed = node.proposed(r(1));
    assert_eq!(values(&proposed), [(4, "d")]);
}

/// A leader that finds nothing begins with the first slot, and with no entry of its own.
#[test]
fn a_leader_that_finds_nothing_proposes_nothing() {
    let mut node = Node::leader(3, 1);
    assert_eq!(node.proposed(r(1)), []);
    node.propose("x");
    let proposed = node.proposed(r(1));
    assert_eq!(values(&proposed), [(1, "x")]);
}

/// "The value is chosen when a large enough set of acceptors have accepted it": a quorum, the
/// leader included, each once. [Lamport01 §2.1]
#[test]
fn a_value_is_chosen_when_a_quorum_has_accepted_it() {
    let table: [(usize, &[u8], bool); 9] = [
        (1, &[], true),
        (3, &[], false),
        (3, &[1], true),
        (3, &[1, 2], true),
        (5, &[], false),
        (5, &[1], false),
        (5, &[1, 1], false),
        (5, &[1, 2], true),
        (5, &[1, 2, 3, 4], true),
    ];
    for (n, acceptors, chosen) in table {
        let past = Recovered::nothing();
        let mut leader = Node::recover(context(r(0), n, 0), Config::default(), past).unwrap();
        leader.wait_for_campaign();
        for peer in ReplicaId::all(n).skip(1) {
            leader.receive(peer, promise(b(1, 0), &[]));
        }
        leader.propose("x");
        for peer in acceptors {
            leader.receive(r(*peer), accepted(b(1, 0), &[1]));
        }
        let executed: &[&str] = if chosen { &["x"] } else { &[] };
        assert_eq!(leader.executed(), executed, "{n} replicas, {acceptors:?}");
    }
}

/// Acceptances are counted for each slot, and for no other ballot. [Lamport01 §2.2]
#[test]
fn acceptances_of_different_slots_or_ballots_do_not_add_up() {
    let mut leader = Node::leader(5, 2);
    leader.propose("a");
    leader.propose("b");
    leader.receive(r(1), accepted(b(2, 0), &[1]));
    leader.receive(r(2), accepted(b(2, 0), &[2]));
    leader.receive(r(3), accepted(b(1, 0), &[1, 2]));
    leader.receive(r(4), accepted(b(2, 1), &[1, 2]));
    assert_eq!(leader.committed(), 0);
    leader.receive(r(2), accepted(b(2, 0), &[1, 2]));
    assert_eq!(leader.executed(), ["a"]);
}

/// The leader's own acceptance counts when it is durable, and not before.
#[test]
fn a_leader_counts_its_own_acceptance_only_when_it_is_durable() {
    let mut leader = Node::leader(3, 1);
    leader.take();
    leader.syncs = false;
    leader.propose("x");
    let proposed = leader.proposed(r(1));
    assert_eq!(
        values(&proposed),
        [(1, "x")],
        "the others need not wait for that"
    );
    leader.receive(r(1), accepted(b(1, 0), &[1]));
    assert_eq!(leader.committed(), 0);
    leader.sync();
    leader.end_turn();
    assert_eq!(leader.committed(), 1);
    leader.propose("y");
    leader.receive(r(1), accepted(b(1, 0), &[2]));
    leader.receive(r(2), accepted(b(1, 0), &[2]));
    assert_eq!(leader.committed(), 2, "the others are a quorum without it");
}

/// A promise to an earlier ballot of the same candidate does not count. [Lamport01 §2.2]
#[test]
fn a_reply_to_an_older_prepare_is_not_counted() {
    let mut node = Node::candidate(3, 4, &[]);
    node.receive(r(1), promise(b(3, 0), &[]));
    node.receive(r(2), promise(b(2, 0), &[]));
    assert_eq!(node.role(), Role::Candidate);
    node.receive(r(1), promise(b(4, 0), &[]));
    assert_eq!(node.role(), Role::Leader);
}

/// "If a proposal with value v is chosen, then every higher-numbered proposal issued by any
/// proposer has value v." [Lamport01 §2.2 P2b]
#[test]
fn a_value_once_chosen_stays_chosen_in_every_higher_ballot() {
    let mut cluster = Cluster::led_by_0(5, &Config::default());
    cluster.node(0).propose("v");
    let proposal = cluster.node(0).take();
    for (to, message) in proposal.into_iter().take(2) {
        // Two of the four others accept it, and only the leader hears of that.
        let answers = cluster.node(to.0).answer(r(0), message);
        for answer in answers {
            cluster.node(0).receive(to, answer);
        }
    }
    assert_eq!(cluster.node(0).executed(), ["v"]);
    cluster.isolate(0);
    for id in [3, 4, 1, 2] {
        cluster.elect(id);
        assert_eq!(cluster.node(id).executed()[0], "v", "chosen again by {id}");
    }
    cluster.heal();
    cluster.elect(4);
    cluster.propose(4, "w");
    cluster.beat(4);
    cluster.beat(4);
    for node in &cluster.nodes {
        assert_eq!(node.executed(), ["v", "w"]);
    }
}

/// A value that was accepted by a minority may or may not be chosen later: whoever finds it
/// proposes it, and whoever does not may choose another. [Lamport01 §2.2]
#[test]
fn a_value_that_no_quorum_has_accepted_may_be_replaced() {
    let mut cluster = Cluster::led_by_0(3, &Config::default());
    cluster.isolate(0);
    cluster.propose(0, "lost");
    cluster.elect(1);
    cluster.propose(1, "found");
    cluster.heal();
    cluster.beat(1);
    cluster.beat(1);
    for node in &cluster.nodes {
        assert_eq!(node.executed(), ["found"]);
        assert_eq!(node.role() == Role::Leader, node.me == r(1));
    }
}

/// Any proposal that a leader of a lower ballot sends later is too late. [Lamport01 §2.2 P1a]
#[test]
fn a_deposed_leader_chooses_nothing() {
    let mut cluster = Cluster::led_by_0(3, &Config::default());
    cluster.isolate(0);
    cluster.elect(1);
    cluster.propose(1, "x");
    cluster.heal();
    cluster.propose(0, "y");
    assert_eq!(cluster.node(0).role(), Role::Follower, "it was rejected");
    cluster.beat(1);
    cluster.beat(1);
    for node in &cluster.nodes {
        assert_eq!(node.executed(), ["x"]);
    }
}

/// Safety for state machines: all replicas execute the same commands in the same order.
/// [Lamport01 §3]
#[test]
fn all_replicas_execute_the_same_commands_in_the_same_order() {
    let mut cluster = Cluster::led_by_0(5, &Config::default());
    for (round, text) in ["a", "b", "c", "d", "e"].into_iter().enumerate() {
        cluster.propose(round as u8, text);
    }
    cluster.beat(0);
    for node in &cluster.nodes {
        assert_eq!(node.executed(), ["a", "b", "c", "d", "e"]);
        assert!(
            node.commits
                .iter()
                .all(|commit| !text(&commit.batch).is_empty())
        );
    }
}

/// What is chosen here cannot be accepted otherwise; a peer that says so is in error, and this
/// replica stops. [Lamport01 §2.2 P2]
#[test]
fn a_second_value_for_a_chosen_slot_is_a_violation() {
    use quorate_core::output::Output;
    use quorate_core::protocol::Protocol as _;
    let mut node = Node::fresh(0, 3, &Config::default());
    node.receive(r(1), accept(b(1, 1), &[(1, "a")], 1));
    assert_eq!(node.executed(), ["a"]);
    let input = node.input(r(2), accept(b(2, 2), &[(1, "b")], 0));
    node.protocol.step(node.now, input, &mut Output::default());
    let violation = node.protocol.check().unwrap_err();
    assert_eq!(violation.rule, "one value is chosen in a slot");
}
