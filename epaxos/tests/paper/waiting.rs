//! How the waiting of a recovery ends. \[Ryabinin25\]

use std::time::Duration;

use quorate_epaxos::{Ballot, Blocker, Command, Config, Decision, Message, Phase, Report, Value};
use quorate_simulator::harness::command;

use crate::common::{EPaxosCluster as _, EPaxosNode as _, Node, id, r, set, writes};
use crate::scripts;

/// Replica 4 of five, which recovers 0.1 and waits for 1.1; two of its quorum r1, r2, r4 had
/// preaccepted 0.1 as its coordinator proposed it, without dependencies.
fn waiting() -> (Node, Ballot) {
    let mut node = Node::fresh(4, 5, &Config::default());
    let of = id(0, 1);
    node.recover_instance(of);
    let Some((_, Message::Recover { ballot, .. })) = node.take().pop() else {
        panic!("it recovers");
    };
    for from in [1, 2] {
        let report = preaccepted();
        node.receive(
            r(from),
            Message::RecoverOk {
                id: of,
                ballot,
                report,
            },
        );
    }
    for from in [1, 2] {
        let blocker = Blocker {
            id: id(1, 1),
            committed: false,
        };
        let message = Message::ValidateOk {
            id: of,
            ballot,
            blockers: vec![blocker],
            impossible: false,
        };
        node.receive(r(from), message);
    }
    let sent = node.take();
    let told = sent.iter().filter(
        |(_, message)| matches!(message, Message::Waiting { id, preaccepted: 2 } if *id == of),
    );
    assert_eq!(told.count(), 4, "it tells all that it waits");
    (node, ballot)
}

fn preaccepted() -> Report {
    Report {
        abal: Ballot::ZERO,
        phase: Phase::PreAccepted,
        value: Value::Command(Command::new(command("x"), &writes("k"))),
        dependencies: set(&[]),
        initial: Some(set(&[])),
        doubtful: false,
    }
}

/// What is proposed: whether a command, and its dependencies.
fn proposed(node: &mut Node) -> Option<(bool, usize)> {
    node.take()
        .into_iter()
        .find_map(|(_, message)| match message {
            Message::Accept {
                value,
                dependencies,
                ..
            } => Some((value != Value::Nop, dependencies.iter().count())),
            _ => None,
        })
}

fn commit(dependencies: Option<&[(u8, u64)]>) -> Message {
    Message::Commit(Decision {
        id: id(1, 1),
        value: match dependencies {
            Some(_) => Value::Command(Command::new(command("other"), &writes("k"))),
            None => Value::Nop,
        },
        dependencies: set(dependencies.unwrap_or_default()),
    })
}

/// (a)
#[test]
fn a_blocker_committed_without_the_command_makes_it_nop() {
    let (mut node, _) = waiting();
    node.receive(r(1), commit(Some(&[])));
    assert_eq!(proposed(&mut node), Some((false, 0)));
}

/// (b)
#[test]
fn blockers_committed_as_nop_or_after_the_command_let_it_be_accepted() {
    for decision in [Some(&[(0, 1)][..]), None] {
        let (mut node, _) = waiting();
        node.receive(r(1), commit(decision));
        assert_eq!(proposed(&mut node), Some((true, 0)));
    }
}

/// (c): more than n - f - e = 1 had preaccepted the other.
#[test]
fn a_blocker_that_waits_with_enough_votes_makes_it_nop() {
    for (preaccepted, expected) in [(1, None), (2, Some((false, 0)))] {
        let (mut node, _) = waiting();
        let id = id(1, 1);
        node.receive(r(3), Message::Waiting { id, preaccepted });
        assert_eq!(proposed(&mut node), expected);
    }
}

/// (d)
#[test]
fn an_acceptance_reported_late_is_proposed_again() {
    let (mut node, ballot) = waiting();
    let report = Report {
        phase: Phase::Accepted,
        dependencies: set(&[(1, 1)]),
        initial: None,
        ..preaccepted()
    };
    let of = id(0, 1);
    node.receive(
        r(3),
        Message::RecoverOk {
            id: of,
            ballot,
            report,
        },
    );
    assert_eq!(proposed(&mut node), Some((true, 1)));
}

/// (d)
#[test]
fn a_late_report_of_the_initial_coordinator_makes_it_nop() {
    for (from, expected) in [(3, None), (0, Some((false, 0)))] {
        let (mut node, ballot) = waiting();
        let report = preaccepted();
        let of = id(0, 1);
        node.receive(
            r(from),
            Message::RecoverOk {
                id: of,
                ballot,
                report,
            },
        );
        assert_eq!(proposed(&mut node), expected);
    }
}

/// (d)
#[test]
fn a_commit_ends_the_waiting() {
    let (mut node, _) = waiting();
    let decision = Decision {
        id: id(0, 1),
        value: Value::Initial,
        dependencies: set(&[]),
    };
    node.receive(r(3), Message::Commit(decision));
    assert_eq!(node.executed(), ["x"]);
    node.sent.clear();
    node.pass(Duration::from_secs(1));
    assert_eq!(proposed(&mut node), None);
}

/// It gives up when it joins a higher ballot.
#[test]
fn a_higher_ballot_ends_the_waiting() {
    let (mut node, ballot) = waiting();
    let higher = Ballot {
        round: ballot.round + 1,
        replica: r(1),
    };
    let recover = Message::Recover {
        id: id(0, 1),
        ballot: higher,
    };
    node.receive(r(1), recover);
    node.receive(r(1), commit(Some(&[])));
    assert_eq!(proposed(&mut node), None);
}

/// The recoveries of two commands wait for each other, and hear of it. What deadlocks the
/// original ends here, even if nobody else takes over.
#[test]
fn two_recoveries_that_wait_for_each_other_both_end() {
    let mut cluster = scripts::mutual(&Config::default());
    scripts::only_send_again(&mut cluster, &[2, 3, 4], 10);
    let among = [2, 3, 4];
    assert!(cluster.all_decided(&among, id(0, 1)) && cluster.all_decided(&among, id(1, 1)));
    let decided = |of| cluster.nodes[3].decided(of).expect("a decision").0;
    assert_eq!(decided(id(0, 1)), Some("one".into()));
    assert_eq!(decided(id(1, 1)), None);
}
