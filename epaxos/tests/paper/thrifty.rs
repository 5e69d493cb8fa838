//! Whom a coordinator asks, and how it tells what was decided. \[Moraru13\]

use std::time::Duration;

use quorate_core::output::Output;
use quorate_core::protocol::{Dest, Input, Protocol as _};
use quorate_core::request::Batch;
use quorate_epaxos::{Ballot, Config, Decision, Message, Phase, Value};

use quorate_simulator::harness::command;

use crate::common::{Cluster, EPaxosCluster as _, EPaxosNode as _, Node, id, r, set, writes};

/// Asks a fast quorum only, from the first command or after one that met nothing.
fn thrifty(after: u32) -> Config {
    Config {
        thrifty_after: after,
        thrifty_requests: 1,
        ..Config::default()
    }
}

/// Which of the others a coordinator has asked about an instance since what it sent was taken.
fn asked(node: &Node, lane: u8, slot: u64) -> Vec<u8> {
    let about = |message: &Message| matches!(message, Message::PreAccept { id: of, .. } if *of == id(lane, slot));
    let sent = node.sent.iter().filter(|(_, message)| about(message));
    sent.map(|(to, _)| to.0).collect()
}

/// Those asked make a fast quorum with the coordinator. The others are told the command with the
/// decision.
#[test]
fn where_nothing_is_in_the_way_only_a_fast_quorum_is_asked() {
    for (n, expected) in [(3, vec![0]), (5, vec![3, 4]), (7, vec![3, 4, 5, 6])] {
        let mut cluster = Cluster::quiet(n, &thrifty(0));
        let at = 2;
        cluster.submit(at, "x", "k");
        assert_eq!(asked(cluster.node(at), at, 1), expected, "{n} replicas");
        cluster.deliver();
        assert_eq!(cluster.count("pre_accept"), expected.len());
        assert_eq!(cluster.count("learn"), 0);
        for node in &cluster.nodes {
            assert_eq!(node.decided(id(at, 1)), Some((Some("x".into()), set(&[]))));
            assert_eq!(node.executed(), ["x"]);
        }
    }
}

/// Only who was not asked is told the command once more.
#[test]
fn who_was_asked_is_not_told_the_command_again() {
    let mut cluster = Cluster::quiet(3, &thrifty(0));
    cluster.submit(0, "x", "k");
    cluster.pass(0, 1, "pre_accept");
    cluster.pass(1, 0, "pre_accept_ok");
    let told = cluster.node(0).take().into_iter();
    let told: Vec<(u8, bool)> = told
        .filter_map(|(to, message)| match message {
            Message::Commit(Decision { value, .. }) => {
                Some((to.0, matches!(value, Value::Command(_))))
            }
            _ => None,
        })
        .collect();
    assert_eq!(told, [(1, false), (2, true)]);
}

/// So many commands in a row must have met nothing.
#[test]
fn at_first_all_are_asked() {
    let mut cluster = Cluster::quiet(3, &thrifty(2));
    for slot in 1..=4 {
        cluster.submit(0, "x", "k");
        let expected: &[u8] = if slot <= 2 { &[1, 2] } else { &[1] };
        assert_eq!(asked(cluster.node(0), 0, slot), expected, "slot {slot}");
        cluster.deliver();
    }
}

/// Where few requests come together nothing is spared that anybody needs, and the first answer counts.
#[test]
fn about_a_request_alone_all_are_asked() {
    let config = Config {
        thrifty_after: 0,
        ..Config::default()
    };
    let mut cluster = Cluster::quiet(3, &config);
    cluster.submit(0, "x", "k");
    assert_eq!(asked(cluster.node(0), 0, 1), [1, 2]);
    let together = Batch::parse(
        [command("y"), command("z")]
            .map(|batch| batch.bytes().clone())
            .concat()
            .into(),
    );
    let batch = together.expect("two requests");
    let keys = writes("k");
    cluster.node(0).turn(Input::Propose { batch, keys });
    assert_eq!(asked(cluster.node(0), 0, 2), [1]);
}

/// Who does not answer costs a wait once, not once a command.
#[test]
fn if_those_asked_are_silent_the_others_are_asked_and_then_all() {
    let mut cluster = Cluster::quiet(3, &thrifty(2));
    for name in ["v", "w"] {
        cluster.submit(0, name, "k");
        cluster.deliver();
    }
    cluster.isolate(1);
    cluster.submit(0, "x", "k");
    cluster.deliver();
    assert_eq!(cluster.node(0).decided(id(0, 3)), None);
    let wait = Config::default().thrifty_wait;
    cluster.node(0).pass(wait - Duration::from_nanos(1));
    assert_eq!(asked(cluster.node(0), 0, 3), [0; 0]);
    cluster.node(0).pass(Duration::from_nanos(1));
    assert_eq!(asked(cluster.node(0), 0, 3), [1, 2]);
    cluster.deliver();
    cluster.submit(0, "y", "k");
    assert_eq!(asked(cluster.node(0), 0, 4), [1, 2]);
    cluster.deliver();
    assert_eq!(cluster.node(2).executed(), ["v", "w", "x", "y"]);
}

/// Where the fast quorum is the larger one, the answers that came are enough for the slow path: it is
/// not taken as long as those not asked could make the fast one.
#[test]
fn who_is_silent_does_not_cost_the_fast_path_where_it_needs_more_than_the_slow_one() {
    let five = Config {
        failures: Some(2),
        fast_failures: Some(1),
        ..thrifty(0)
    };
    for (n, config, rest) in [(7, thrifty(0), vec![1, 5, 6]), (5, five, vec![1, 4])] {
        let mut cluster = Cluster::quiet(n, &config);
        cluster.isolate(1);
        cluster.submit(0, "x", "k");
        cluster.deliver();
        assert_eq!(cluster.node(0).decided(id(0, 1)), None);
        cluster.node(0).pass(config.thrifty_wait);
        assert_eq!(asked(cluster.node(0), 0, 1), rest);
        cluster.deliver();
        assert_eq!(cluster.node(0).executed(), ["x"]);
        assert_eq!(cluster.count("accept"), 0);
    }
}

/// The others are asked too, and accept it if need be.
#[test]
fn a_command_is_committed_although_its_coordinators_disk_is_slow() {
    for n in [3, 5, 7] {
        let config = thrifty(0);
        let mut cluster = Cluster::quiet(n, &config);
        cluster.submit(0, "x", "k");
        cluster.deliver();
        cluster.node(0).syncs = false;
        cluster.submit(0, "y", "k");
        cluster.deliver();
        assert_eq!(cluster.node(0).decided(id(0, 2)), None);
        cluster.node(0).pass(config.thrifty_wait);
        cluster.deliver();
        cluster.node(0).pass(config.fast_wait);
        cluster.deliver();
        assert_eq!(cluster.node(0).executed(), ["x", "y"], "{n} replicas");
        assert_eq!(cluster.node(1).executed(), ["x", "y"]);
    }
}

/// As long as all are asked it is seen who answers before the decision; for equals it is the
/// successors.
#[test]
fn those_who_answer_in_time_are_asked() {
    for (late, expected) in [(None, [1, 2]), (Some(1), [2, 3]), (Some(4), [1, 2])] {
        let mut cluster = Cluster::quiet(5, &thrifty(4));
        for slot in 1..=4 {
            cluster.submit(0, "x", "k");
            assert_eq!(asked(cluster.node(0), 0, slot), [1, 2, 3, 4]);
            // Of the others each is among the first two in turn.
            let in_time = (0..4).map(|i| 1 + (i + slot as u8) % 4);
            for to in in_time.filter(|to| late != Some(*to)).chain(late) {
                cluster.pass(0, to, "pre_accept");
                cluster.pass(to, 0, "pre_accept_ok");
            }
            cluster.deliver();
        }
        cluster.submit(0, "y", "k");
        assert_eq!(asked(cluster.node(0), 0, 5), expected, "{late:?} is late");
    }
}

/// Who has become fast or slow meanwhile.
#[test]
fn after_a_while_all_are_asked_again() {
    let mut cluster = Cluster::quiet(3, &thrifty(1));
    let mut all = Vec::new();
    for slot in 1..=40 {
        cluster.submit(0, "x", "k");
        if asked(cluster.node(0), 0, slot) == [1, 2] {
            all.push(slot);
        }
        cluster.deliver();
    }
    assert_eq!(all, [1, 18, 35]);
}

/// Replicas each of which has had one command that met nothing, and asks a fast quorum from then on.
fn calm() -> Cluster {
    let mut cluster = Cluster::quiet(3, &thrifty(1));
    for at in 0..3 {
        cluster.submit(at, "first", "own");
        cluster.deliver();
    }
    cluster
}

/// It will have to be executed after that one, whose coordinator should not hold its decision back.
#[test]
fn a_command_that_names_an_undecided_one_of_another_coordinator_has_all_asked() {
    let mut cluster = calm();
    cluster.submit(2, "other", "k");
    cluster.pass(2, 0, "pre_accept");
    cluster.submit(0, "x", "k");
    assert_eq!(asked(cluster.node(0), 0, 2), [1, 2]);
}

/// Who is not asked cannot name the command, which costs its own commands the fast path.
#[test]
fn after_the_slow_path_all_are_asked() {
    let mut cluster = calm();
    cluster.submit(1, "other", "k");
    cluster.submit(0, "x", "k");
    assert_eq!(asked(cluster.node(0), 0, 2), [1]);
    cluster.pass(0, 1, "pre_accept");
    cluster.pass(1, 0, "pre_accept_ok");
    assert_eq!(cluster.node(0).phase(id(0, 2)), Phase::Accepted);
    cluster.deliver();
    cluster.submit(0, "y", "l");
    assert_eq!(asked(cluster.node(0), 0, 3), [1, 2]);
    cluster.deliver();
    cluster.submit(0, "z", "l");
    assert_eq!(asked(cluster.node(0), 0, 4), [1]);
}

/// Nobody waits for it; otherwise somebody may.
#[test]
fn decisions_linger_where_nothing_is_in_the_way() {
    for (after, at_once) in [(0, false), (u32::MAX, true)] {
        let mut node = Node::fresh(0, 3, &thrifty(after));
        node.propose_with("x", writes("k"));
        node.syncs = false;
        let answer = Message::PreAcceptOk {
            id: id(0, 1),
            dependencies: set(&[]),
        };
        node.receive(r(1), answer);
        let accepted = Message::AcceptOk {
            id: id(0, 1),
            ballot: Ballot::ZERO,
        };
        let input = node.input(r(0), accepted);
        let mut out = Output::default();
        node.protocol.step(node.now, input, &mut out);
        let commits = |messages: &[(Dest, Message)]| {
            let commits = messages
                .iter()
                .filter(|(_, m)| matches!(m, Message::Commit(_)));
            commits.count() > 0
        };
        assert_eq!(commits(out.sends()), at_once);
        assert_eq!(commits(out.news()), !at_once);
    }
}
