//! The failure-free path. \[Ryabinin25\]

use std::time::Duration;

use quorate_core::protocol::{Event, Path, Protocol as _, Role};
use quorate_core::request::Batch;
use quorate_epaxos::{Ballot, Command, Config, Message, Phase, Value};
use quorate_simulator::harness::{command, text};

use crate::scripts;

use crate::common::{
    Cluster, EPaxosCluster as _, EPaxosNode as _, Node, id, r, reads, set, writes,
};

fn paths(node: &Node) -> Vec<Path> {
    let events = node.events.iter();
    let paths = events.filter_map(|event| match event {
        Event::Decided { path } => Some(*path),
        _ => None,
    });
    paths.collect()
}

fn cluster(n: usize) -> Cluster {
    Cluster::quiet(n, &Config::default())
}

/// A command that conflicts with nothing known is committed in one round trip, and its commit
/// known everywhere in half another.
#[test]
fn without_conflicts_a_command_is_committed_in_one_round_trip() {
    for n in [3, 5, 7] {
        let mut cluster = cluster(n);
        cluster.submit(0, "x", "k");
        assert!(cluster.deliver_round());
        assert_eq!(cluster.node(0).executed(), [""; 0]);
        assert!(cluster.deliver_round());
        assert_eq!(cluster.node(0).executed(), ["x"]);
        assert_eq!(paths(cluster.node(0)), [Path::Fast]);
        cluster.deliver();
        for node in &cluster.nodes {
            assert_eq!(node.decided(id(0, 1)), Some((Some("x".into()), set(&[]))));
        }
    }
}

/// Even if e replicas are down. \[Ryabinin25\]
#[test]
fn the_fast_path_survives_exactly_e_crashes() {
    for (n, e) in [(3, 1), (5, 2), (7, 2)] {
        for down in [e, e + 1] {
            let mut cluster = cluster(n);
            (0..down).for_each(|gone| cluster.isolate((n - 1 - gone) as u8));
            cluster.submit(0, "x", "k");
            cluster.deliver();
            let expected: &[Path] = if down == e { &[Path::Fast] } else { &[] };
            assert_eq!(
                paths(cluster.node(0)),
                expected,
                "{n} replicas, {down} down"
            );
        }
    }
}

/// With f > e replicas down, the coordinator waits a little for a fast quorum, then goes on with a
/// slow one.
#[test]
fn with_more_than_e_and_at_most_f_crashes_commands_take_the_slow_path() {
    let mut cluster = cluster(7);
    (4..7).for_each(|gone| cluster.isolate(gone));
    cluster.submit(0, "x", "k");
    cluster.deliver();
    assert_eq!(cluster.node(0).phase(id(0, 1)), Phase::PreAccepted);
    let wait = Config::default().fast_wait;
    cluster.node(0).pass(wait - Duration::from_nanos(1));
    assert!(cluster.node(0).take().is_empty());
    cluster.node(0).pass(Duration::from_nanos(1));
    cluster.deliver();
    assert_eq!(paths(cluster.node(0)), [Path::Slow]);
    assert_eq!(cluster.node(3).executed(), ["x"]);
}

/// An acceptor answers with the coordinator's dependencies and the conflicts it knows; if that is
/// more than the coordinator knew, the union is accepted in a second round trip.
#[test]
fn a_conflict_that_the_coordinator_did_not_know_costs_a_second_round_trip() {
    let mut cluster = cluster(3);
    cluster.submit(2, "other", "k");
    cluster.pass(2, 1, "pre_accept");
    cluster.node(2).sent.clear();
    cluster.submit(0, "x", "k");
    assert_eq!(cluster.pass(0, 1, "pre_accept"), 1);
    assert_eq!(cluster.pass(1, 0, "pre_accept_ok"), 1);
    assert_eq!(cluster.node(0).phase(id(0, 1)), Phase::Accepted);
    assert_eq!(cluster.pass(0, 1, "accept"), 1);
    assert_eq!(cluster.node(0).decided(id(0, 1)), None);
    assert_eq!(cluster.pass(1, 0, "accept_ok"), 1);
    let decided = cluster.node(0).decided(id(0, 1));
    assert_eq!(decided, Some((Some("x".into()), set(&[(2, 1)]))));
    assert_eq!(paths(cluster.node(0)), [Path::Slow]);
    // It is not executed before what it depends on.
    assert_eq!(cluster.node(0).executed(), [""; 0]);
}

/// Coordinators know what they have heard of: later commands depend on it, and take the fast path.
#[test]
fn a_conflict_that_all_know_does_not_cost_the_fast_path() {
    let mut cluster = cluster(5);
    for (at, name) in [(0, "a"), (3, "b"), (0, "c")] {
        cluster.submit(at, name, "k");
        cluster.deliver();
    }
    assert_eq!(paths(cluster.node(0)), [Path::Fast; 2]);
    assert_eq!(paths(cluster.node(3)), [Path::Fast]);
    let decided = cluster.node(1).decided(id(0, 2)).expect("a decision");
    assert_eq!(decided.1, set(&[(0, 1), (3, 1)]));
    for node in &cluster.nodes {
        assert_eq!(node.executed(), ["a", "b", "c"]);
    }
}

/// Reads do not conflict with reads, and are ordered with writes.
#[test]
fn reads_do_not_depend_on_reads() {
    let mut cluster = cluster(3);
    for (at, name, keys) in [
        (0, "read", reads("k")),
        (1, "read again", reads("k")),
        (2, "write", writes("k")),
    ] {
        cluster.node(at).propose_with(name, keys);
        cluster.deliver();
    }
    let dependencies = |id| cluster.nodes[0].decided(id).expect("a decision").1;
    assert_eq!(dependencies(id(1, 1)), set(&[]));
    assert_eq!(dependencies(id(2, 1)), set(&[(0, 1), (1, 1)]));
}

/// A PreAccept counts only at ballot 0: not once a recovery was joined.
#[test]
fn a_replica_that_has_joined_a_recovery_preaccepts_nothing() {
    let mut node = Node::fresh(2, 3, &Config::default());
    let (id, ballot) = (
        id(0, 1),
        Ballot {
            round: 1,
            replica: r(1),
        },
    );
    node.receive(r(1), Message::Recover { id, ballot });
    let pre_accept = Message::PreAccept {
        id,
        command: Command::new(command("x"), &writes("k")),
        dependencies: set(&[]),
    };
    let answers = node.answer(r(0), pre_accept);
    assert_eq!(answers, [Message::Rejected { id, ballot }]);
    assert_eq!(node.phase(id), Phase::Initial);
}

/// Asked twice, an acceptor says the same, whatever it has heard of in between.
#[test]
fn a_preaccept_that_comes_again_is_answered_as_before() {
    let mut node = Node::fresh(2, 3, &Config::default());
    let pre_accept = |lane, name: &str| Message::PreAccept {
        id: id(lane, 1),
        command: Command::new(command(name), &writes("k")),
        dependencies: set(&[]),
    };
    let first = node.answer(r(0), pre_accept(0, "x"));
    node.receive(r(1), pre_accept(1, "y"));
    assert_eq!(node.answer(r(0), pre_accept(0, "x")), first);
}

/// Accept compares ballots with the one joined; an equal one is good.
#[test]
fn an_accept_is_taken_in_the_ballot_joined_and_no_lower_one() {
    let ballot = |round| Ballot {
        round,
        replica: r(1),
    };
    let accept = |round| Message::Accept {
        id: id(1, 1),
        ballot: ballot(round),
        value: Value::Nop,
        dependencies: set(&[]),
    };
    let mut node = Node::fresh(2, 3, &Config::default());
    let recover = Message::Recover {
        id: id(1, 1),
        ballot: ballot(2),
    };
    node.receive(r(1), recover);
    let rejected = Message::Rejected {
        id: id(1, 1),
        ballot: ballot(2),
    };
    assert_eq!(node.answer(r(1), accept(1)), [rejected]);
    let accepted = Message::AcceptOk {
        id: id(1, 1),
        ballot: ballot(2),
    };
    assert_eq!(node.answer(r(1), accept(2)), [accepted]);
    let view = node.protocol.instance(id(1, 1)).expect("it is known");
    assert_eq!((view.abal, view.nop), (ballot(2), true));
}

/// Those who lack the command that a commit speaks of ask for it.
#[test]
fn a_commit_without_its_preaccept_is_asked_for_in_full() {
    let mut cluster = cluster(3);
    cluster.lose(|_, to, message| to == r(2) && matches!(message, Message::PreAccept { .. }));
    cluster.submit(0, "x", "k");
    cluster.deliver();
    assert_eq!(cluster.count("learn"), 1);
    assert_eq!(cluster.node(2).executed(), ["x"]);
}

/// What was not answered is sent again.
#[test]
fn lost_messages_are_sent_again() {
    for lost in ["pre_accept", "pre_accept_ok", "accept", "accept_ok"] {
        let mut cluster = cluster(3);
        cluster.submit(2, "other", "k");
        cluster.node(2).sent.clear();
        cluster.isolate(2);
        cluster.node(2).propose_with("nobody hears", writes("k"));
        cluster.node(2).sent.clear();
        cluster.node(1).receive(
            r(2),
            Message::PreAccept {
                id: id(2, 1),
                command: Command::new(command("other"), &writes("k")),
                dependencies: set(&[]),
            },
        );
        cluster.node(1).sent.clear();
        cluster.lost.insert(lost);
        cluster.submit(0, "x", "k");
        cluster.deliver();
        assert_eq!(cluster.node(0).decided(id(0, 1)), None, "without {lost}");
        cluster.lost.clear();
        cluster.pass_time(&[0, 1], Duration::from_secs(1));
        let decided = cluster.node(0).decided(id(0, 1)).expect("a decision");
        assert_eq!(decided.1, set(&[(2, 1)]), "without {lost}");
    }
}

/// Its own answer is one of the quorum's like any other's, and counts when it is durable.
#[test]
fn a_coordinator_counts_itself_only_once_its_record_is_durable() {
    let mut cluster = cluster(3);
    cluster.node(0).syncs = false;
    cluster.submit(0, "x", "k");
    assert!(cluster.node(0).sent.is_empty(), "nothing leaves before");
    cluster.node(0).sync();
    cluster.node(0).end_turn();
    cluster.deliver();
    assert_eq!(cluster.node(0).executed(), ["x"]);
}

/// Execution behind by a window: what is proposed waits, in its order, and once though it is proposed again.
#[test]
fn a_coordinator_whose_commands_are_not_executed_takes_no_more() {
    let config = Config {
        max_window: 3,
        ..Config::default()
    };
    let mut cluster = Cluster::quiet(3, &config);
    (1..3).for_each(|gone| cluster.isolate(gone));
    for name in ["a", "b", "c", "d"] {
        cluster.submit(0, name, name);
    }
    assert_eq!(cluster.node(0).protocol.instances().count(), 3);
    cluster.heal();
    cluster.pass_time(&[0, 1, 2], Duration::from_secs(2));
    assert_eq!(cluster.node(1).executed(), ["a", "b", "c", "d"]);
    let executed = scripts::executed_of_a_full_window(&Config::default());
    assert_eq!(executed, ["a", "b", "c"]);
}

/// All replicas are equals.
#[test]
fn nobody_leads() {
    let cluster = cluster(3);
    for node in &cluster.nodes {
        assert_eq!((node.role(), node.known_leader()), (Role::Peer, None));
        assert_eq!(node.protocol.status().protocol, "epaxos");
    }
    assert_eq!(text(&Batch::noop()), "");
}

/// A driver proposes again what was not executed in time. That is one instance as long as it may still be; when it has
/// become a Nop, it is another.
#[test]
fn what_is_under_way_is_not_proposed_again() {
    let config = Config::default();
    assert_eq!(scripts::instances_of_one_command(&config), 1);
    let mut cluster = Cluster::quiet(3, &config);
    cluster.submit(0, "x", "k");
    cluster.node(0).sent.clear();
    cluster.node(2).recover_instance(id(0, 1));
    cluster.settle(&[0, 1, 2]);
    assert_eq!(cluster.node(0).decided(id(0, 1)), Some((None, set(&[]))));
    cluster.submit(0, "x", "k");
    cluster.deliver();
    assert_eq!(cluster.node(1).executed(), ["", "x"]);
}
