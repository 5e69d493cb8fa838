//! What a recovery makes of what a quorum reports. \[Ryabinin25\]

use std::time::Duration;

use quorate_epaxos::{Ballot, Blocker, Command, Config, Message, Phase, Report, Timer, Value};
use quorate_simulator::harness::command;

use crate::common::{Cluster, EPaxosCluster as _, EPaxosNode as _, Node, id, r, set, writes};
use crate::scripts;

fn x() -> Command {
    Command::new(command("x"), &writes("k"))
}

/// Replica 4 of five, which recovers 0.1 in the ballot returned, and has heard only its own report.
fn recoverer() -> (Node, Ballot) {
    let mut node = Node::fresh(4, 5, &Config::default());
    node.recover_instance(id(0, 1));
    let asked = node.take();
    let ballot = match asked.first() {
        Some((_, Message::Recover { ballot, .. })) => *ballot,
        other => panic!("{other:?} is no Recover"),
    };
    assert_eq!(ballot.replica, r(4));
    (node, ballot)
}

fn report(phase: Phase, dependencies: &[(u8, u64)], initial: Option<&[(u8, u64)]>) -> Report {
    Report {
        abal: Ballot::ZERO,
        phase,
        value: match phase {
            Phase::Initial => Value::Nop,
            _ => Value::Command(x()),
        },
        dependencies: set(dependencies),
        initial: initial.map(set),
        doubtful: false,
    }
}

fn initial() -> Report {
    report(Phase::Initial, &[], None)
}

/// Preaccepted with the coordinator's dependencies, {2.1}.
fn unchanged() -> Report {
    report(Phase::PreAccepted, &[(2, 1)], Some(&[(2, 1)]))
}

/// Preaccepted with more.
fn changed() -> Report {
    report(Phase::PreAccepted, &[(2, 1), (3, 1)], Some(&[(2, 1)]))
}

/// What the recoverer does with these reports: the first message it sends.
fn outcome(reports: &[(u8, Report)]) -> Message {
    let (mut node, ballot) = recoverer();
    let id = id(0, 1);
    for (from, report) in reports {
        let report = report.clone();
        node.receive(r(*from), Message::RecoverOk { id, ballot, report });
    }
    node.take().remove(0).1
}

#[track_caller]
fn assert_accepts(message: Message, expected: (Value, &[(u8, u64)])) {
    match message {
        Message::Accept {
            value,
            dependencies,
            ..
        } => assert_eq!((value, dependencies), (expected.0, set(expected.1))),
        other => panic!("{other:?}"),
    }
}

/// Rule 1: who knows what is committed says so, and the recovery is over.
#[test]
fn what_is_committed_anywhere_in_the_quorum_is_committed() {
    let mut cluster = Cluster::quiet(3, &Config::default());
    cluster.submit(0, "x", "k");
    cluster.pass(0, 1, "pre_accept");
    cluster.pass(1, 0, "pre_accept_ok");
    cluster.pass(0, 1, "commit");
    cluster.node(0).sent.clear();
    cluster.node(2).recover_instance(id(0, 1));
    cluster.settle(&[1, 2]);
    assert_eq!(cluster.count("accept"), 0);
    assert_eq!(cluster.node(2).executed(), ["x"]);
}

/// Rule 2: what was accepted is accepted again, with its dependencies, whatever others
/// preaccepted.
#[test]
fn what_was_accepted_is_proposed_again() {
    let accepted = report(Phase::Accepted, &[(3, 1)], None);
    let message = outcome(&[(1, unchanged()), (2, accepted)]);
    assert_accepts(message, (Value::Command(x()), &[(3, 1)]));
}

/// Rule 2: of what was accepted in several ballots, that of the highest.
#[test]
fn the_highest_acceptance_wins() {
    let nop = Report {
        abal: Ballot {
            round: 3,
            replica: r(1),
        },
        phase: Phase::Accepted,
        ..initial()
    };
    let accepted = report(Phase::Accepted, &[(3, 1)], None);
    let message = outcome(&[(1, nop), (2, accepted)]);
    assert_accepts(message, (Value::Nop, &[]));
}

/// Rule 3: the initial coordinator, asked, will not commit any more, and has not.
#[test]
fn with_the_initial_coordinator_in_the_quorum_the_instance_is_nop() {
    let message = outcome(&[(0, unchanged()), (1, unchanged())]);
    assert_accepts(message, (Value::Nop, &[]));
}

/// Rule 4: at least |Q| - e = 1 of three preaccepted it as the coordinator proposed it.
#[test]
fn what_may_have_been_committed_on_the_fast_path_is_validated() {
    match outcome(&[(1, changed()), (2, unchanged())]) {
        Message::Validate {
            command,
            dependencies,
            ..
        } => assert_eq!((command, dependencies), (x(), set(&[(2, 1)]))),
        other => panic!("{other:?}"),
    }
}

/// Rule 5: otherwise the fast path was not taken.
#[test]
fn what_too_few_preaccepted_is_nop() {
    assert_accepts(
        outcome(&[(1, changed()), (2, initial())]),
        (Value::Nop, &[]),
    );
    assert_accepts(
        outcome(&[(1, initial()), (2, initial())]),
        (Value::Nop, &[]),
    );
}

/// A recoverer that was asked to validate, its own answer included.
fn validating(reports: [Report; 2]) -> (Node, Ballot) {
    let (mut node, ballot) = recoverer();
    let id = id(0, 1);
    for (from, report) in [1, 2].into_iter().zip(reports) {
        node.receive(r(from), Message::RecoverOk { id, ballot, report });
    }
    node.sent.clear();
    (node, ballot)
}

fn validated(node: &mut Node, ballot: Ballot, from: u8, blockers: &[((u8, u64), bool)]) {
    let blocker = |((lane, slot), committed): &((u8, u64), bool)| Blocker {
        id: id(*lane, *slot),
        committed: *committed,
    };
    let message = Message::ValidateOk {
        id: id(0, 1),
        ballot,
        blockers: blockers.iter().map(blocker).collect(),
        impossible: false,
    };
    node.receive(r(from), message);
}

/// Nothing speaks against the command: it is accepted as the coordinator proposed it.
#[test]
fn a_command_that_nothing_speaks_against_is_accepted() {
    let (mut node, ballot) = validating([unchanged(), initial()]);
    validated(&mut node, ballot, 1, &[]);
    assert!(node.sent.is_empty(), "not all of the quorum has answered");
    validated(&mut node, ballot, 2, &[]);
    assert_accepts(node.take().remove(0).1, (Value::Command(x()), &[(2, 1)]));
}

/// Something committed does not depend on it.
#[test]
fn a_command_that_something_committed_speaks_against_is_nop() {
    let (mut node, ballot) = validating([unchanged(), unchanged()]);
    validated(&mut node, ballot, 1, &[((3, 1), true)]);
    validated(&mut node, ballot, 2, &[]);
    assert_accepts(node.take().remove(0).1, (Value::Nop, &[]));
}

/// If only |Q| - e preaccepted it, all outside of Q would have had to; the coordinator of a
/// conflicting instance did not.
#[test]
fn with_the_least_votes_a_blocker_whose_coordinator_is_outside_makes_it_nop() {
    for (blocker, expect_nop) in [((3, 1), true), ((1, 1), false)] {
        let (mut node, ballot) = validating([unchanged(), initial()]);
        validated(&mut node, ballot, 1, &[(blocker, false)]);
        validated(&mut node, ballot, 2, &[]);
        match node.take().remove(0).1 {
            message if expect_nop => assert_accepts(message, (Value::Nop, &[])),
            message => assert!(matches!(message, Message::Waiting { .. })),
        }
    }
}

/// Validate lists what conflicts, is not among the dependencies, and is not known to depend on the
/// command.
#[test]
fn validate_names_what_would_be_in_no_order() {
    let mut node = Node::fresh(2, 5, &Config::default());
    let pre_accept = |lane, key: &str, dependencies: &[(u8, u64)]| Message::PreAccept {
        id: id(lane, 1),
        command: Command::new(command(&format!("of {lane}")), &writes(key)),
        dependencies: set(dependencies),
    };
    node.receive(r(1), pre_accept(1, "k", &[]));
    node.receive(r(3), pre_accept(3, "elsewhere", &[]));
    node.receive(r(4), pre_accept(4, "k", &[(0, 1)]));
    let ballot = Ballot {
        round: 1,
        replica: r(4),
    };
    let recover = Message::Recover {
        id: id(0, 1),
        ballot,
    };
    node.receive(r(4), recover);
    for (dependencies, expected) in [(set(&[]), vec![id(1, 1)]), (set(&[(1, 1)]), vec![])] {
        let validate = Message::Validate {
            id: id(0, 1),
            ballot,
            command: x(),
            dependencies,
        };
        match node.answer(r(4), validate).as_slice() {
            [Message::ValidateOk { blockers, .. }] => {
                let named: Vec<_> = blockers.iter().map(|b| (b.id, b.committed)).collect();
                let expected: Vec<_> = expected.into_iter().map(|id| (id, false)).collect();
                assert_eq!(named, expected);
            }
            other => panic!("{other:?}"),
        }
    }
    // From now on others are told to depend on it.
    let later = Message::PreAccept {
        id: id(1, 2),
        command: Command::new(command("later"), &writes("k")),
        dependencies: set(&[(1, 1)]),
    };
    match node.answer(r(1), later).as_slice() {
        [Message::PreAcceptOk { dependencies, .. }] => assert!(dependencies.contains(id(0, 1))),
        other => panic!("{other:?}"),
    }
}

/// A coordinator that was recovered from goes no further, whatever answers still come.
#[test]
fn a_coordinator_that_joins_a_recovery_gives_its_own_instance_up() {
    let mut cluster = Cluster::quiet(3, &Config::default());
    cluster.submit(0, "x", "k");
    cluster.pass(0, 1, "pre_accept");
    cluster.node(0).sent.clear();
    cluster.node(2).recover_instance(id(0, 1));
    cluster.pass(2, 0, "recover");
    cluster.pass(1, 0, "pre_accept_ok");
    assert_eq!(cluster.node(0).decided(id(0, 1)), None);
    cluster.settle(&[0, 1, 2]);
    let decided = cluster.node(1).decided(id(0, 1)).expect("a decision");
    assert_eq!(decided, (None, set(&[])));
    // Its driver proposes the command again: as another instance.
    cluster.submit(0, "x", "k");
    cluster.deliver();
    assert_eq!(cluster.node(2).executed(), ["", "x"]);
    assert!(cluster.node(2).decided(id(0, 2)).is_some());
}

/// What is wrong with one variable for two ballots, and right here. \[Sutra19\]
#[test]
fn ballots_joined_and_not_accepted_in_do_not_hide_an_acceptance() {
    let cluster = scripts::sutra(&Config::default());
    assert_eq!(cluster.breach(), None);
    let decided = cluster.nodes[1].decided(id(0, 1)).expect("a decision");
    assert_eq!(decided, (Some("command".into()), set(&[(1, 1)])));
}

/// Rivals draw apart, and one of them comes through.
#[test]
fn rival_recoveries_come_to_an_end() {
    for n in [3, 5] {
        let mut cluster = Cluster::quiet(n, &Config::default());
        cluster.submit(0, "x", "k");
        for to in 1..n as u8 {
            cluster.pass(0, to, "pre_accept");
        }
        cluster.isolate(0);
        let rest: Vec<u8> = (1..n as u8).collect();
        cluster.pass_time(&rest, Duration::from_secs(20));
        assert!(cluster.all_decided(&rest, id(0, 1)));
    }
}

/// An instance that nobody alive has heard of, but something depends on.
#[test]
fn an_unknown_instance_that_blocks_execution_is_recovered() {
    let mut cluster = Cluster::quiet(3, &Config::default());
    cluster.submit(0, "lost", "k");
    cluster.node(0).sent.clear();
    cluster.submit(0, "found", "k");
    cluster.pass(0, 1, "pre_accept");
    cluster.pass(1, 0, "pre_accept_ok");
    cluster.pass(0, 1, "commit");
    assert_eq!(cluster.node(1).executed(), [""; 0]);
    cluster.pass_time(&[1, 2], Duration::from_secs(5));
    for at in [1, 2] {
        assert_eq!(cluster.node(at).executed(), ["", "found"]);
    }
}

fn rejected(from: u8, node: &mut Node, ballot: Ballot) {
    let ballot = Ballot {
        round: ballot.round + 7,
        replica: r(from),
    };
    let id = id(0, 1);
    node.receive(r(from), Message::Rejected { id, ballot });
}

/// One that has joined a higher ballot is one less to answer, and no more: its disk may hang, so that nobody else ever
/// hears of that ballot.
#[test]
fn a_recovery_goes_on_without_those_that_have_joined_a_higher_ballot() {
    assert!(scripts::recovers_beside_one_whose_disk_hangs(
        &Config::default()
    ));
    let (mut node, ballot) = recoverer();
    for (from, left) in [(1, true), (2, true), (3, false)] {
        rejected(from, &mut node, ballot);
        assert_eq!(node.timers.contains_key(&Timer::Retransmit), left);
    }
}

/// If the others are too few, it begins anew in a higher one.
#[test]
fn a_recovery_that_was_rejected_and_gets_no_quorum_begins_anew() {
    let begun = scripts::begins_anew_in(&Config::default());
    assert!(begun.is_some_and(|round| round > 8), "{begun:?}");
}

/// The others may have lost a message: they are asked again first.
#[test]
fn a_recovery_that_was_rejected_asks_the_others_again() {
    let (mut node, ballot) = recoverer();
    rejected(3, &mut node, ballot);
    node.fire(Timer::Retransmit);
    let again = node.sent_to(r(1));
    assert!(matches!(again[..], [Message::Recover { ballot: b, .. }] if b == ballot));
}

/// Its waits for a fast quorum end with the slow path, whoever has rejected it.
#[test]
fn a_coordinator_that_one_has_rejected_takes_the_slow_path() {
    let mut cluster = Cluster::quiet(7, &Config::default());
    cluster.submit(0, "x", "k");
    for at in [1, 2, 3] {
        cluster.pass(0, at, "pre_accept");
        cluster.pass(at, 0, "pre_accept_ok");
    }
    let node = cluster.node(0);
    rejected(4, node, Ballot::ZERO);
    node.fire(Timer::Retransmit);
    let sent = node.sent_to(r(1));
    let accepts = |message: &Message| matches!(message, Message::Accept { .. });
    assert!(sent.iter().any(accepts), "{sent:?}");
}

/// One that is cut off from a quorum would only raise ballots. As soon as it is answered it is one of all again.
#[test]
fn one_whose_recoveries_no_quorum_answers_leaves_them_to_others() {
    let config = Config::default();
    let base = config.recover_after;
    let within = |unanswered, doublings: u32| {
        let waits = scripts::waits_after(unanswered, &config);
        let least = base * (1 << doublings);
        assert!(
            least <= waits && waits <= 2 * least,
            "{unanswered}: {waits:?}"
        );
    };
    within(0, 0);
    within(1, 1);
    within(3, 3);
    within(9, 3);
}

/// Recoveries of others that come to nothing put off its own turn only a little.
#[test]
fn one_that_alone_may_end_a_recovery_has_its_turn() {
    assert!(scripts::has_its_turn(&Config::default()));
}
