//! What is told beyond a bound is told again, or kept: nobody's place moves past it.
//! [Lamport01 §2.2, §3]

use quorate_core::id::Slot;
use quorate_core::protocol::Role;
use quorate_multipaxos::{Config, Message, Promise, QuorumRule, Record, Report, Timer};

use crate::common::{
    Ballot, Cluster, Node, PaxosCluster, PaxosNode, b, prepare, promise_from, proposal, r, records,
    value,
};

fn window_of(max_window: usize) -> Config {
    Config {
        max_window,
        ..Config::default()
    }
}

fn candidate(config: &Config) -> Node {
    let mut node = Node::with(0, 3, config, records(b(2, 1), &[]));
    node.wait_for_campaign();
    assert_eq!((node.role(), node.ballot()), (Role::Candidate, b(3, 0)));
    node
}

/// A part of a promise in ballot 3.0: its slots, whether it is the last, and what is known chosen.
fn part(told: &[(u64, Ballot, &str)], last: bool, chosen: u64) -> Message {
    let reports = told.iter().map(|(slot, ballot, text)| Report {
        slot: Slot(*slot),
        ballot: *ballot,
        batch: value(text),
    });
    Message::Promise(Promise {
        ballot: b(3, 0),
        from: Slot(told[0].0),
        through: Slot(told[told.len() - 1].0),
        last,
        accepted: reports.collect(),
        chosen: Slot(chosen),
        compacted: Slot::ZERO,
    })
}

fn proposed(node: &mut Node) -> Vec<(u64, String)> {
    node.proposed(r(2))
}

/// A candidate that lacks more than a window learns all that it is told is chosen, and proposes
/// beyond that. At the bound, and beyond it.
#[test]
fn a_candidate_more_than_a_window_behind_learns_all_that_is_chosen() {
    let told = ["a", "b", "c", "d", "e"];
    for window in [1, 4, 5, 6] {
        let mut node = candidate(&window_of(window));
        let slots = (1..).zip(told);
        let reports: Vec<_> = slots.map(|(slot, text)| (slot, b(1, 1), text)).collect();
        node.receive(r(1), promise_from(b(3, 0), 5, &reports));
        assert_eq!(node.role(), Role::Leader, "window {window}");
        assert_eq!(node.executed(), told, "window {window}");
        node.propose("new");
        assert_eq!(proposed(&mut node), [(6, String::from("new"))]);
    }
}

/// A part that comes too early, and is beyond the window, may not be once those before it have come:
/// it ends no campaign, and is told again. At the bound it is kept.
#[test]
fn an_early_part_beyond_the_window_is_told_again() {
    let first = part(&[(1, b(1, 1), "a"), (2, b(1, 1), "b")], false, 4);
    let second = part(&[(3, b(1, 1), "c"), (4, b(1, 1), "d")], true, 4);
    for window in [3, 4] {
        let mut node = candidate(&window_of(window));
        node.receive(r(1), second.clone());
        assert_eq!(node.role(), Role::Candidate, "window {window}");
        node.receive(r(1), first.clone());
        let leads = node.role() == Role::Leader;
        assert_eq!(leads, window == 4, "window {window}");
        node.take();
        if !leads {
            node.fire(Timer::Retransmit);
            let asked = node.take();
            assert!(asked.contains(&(r(1), prepare(b(3, 0), 3))), "{asked:?}");
            node.receive(r(1), second.clone());
        }
        assert_eq!(node.role(), Role::Leader, "window {window}");
        assert_eq!(node.executed(), ["a", "b", "c", "d"]);
    }
}

/// Between two parts of a promise the acceptor learns that more is chosen: what the second part
/// says is chosen does not follow what the candidate has learnt, and must be proposed again.
#[test]
fn an_acceptor_that_learns_between_two_parts_of_its_promise_is_heard_whole() {
    let mut node = candidate(&Config::default());
    let first = [(1, b(1, 1), "a"), (2, b(1, 1), "b")];
    let second = [(3, b(1, 1), "c"), (4, b(1, 1), "d"), (5, b(2, 1), "e")];
    node.receive(r(1), part(&first, false, 0));
    assert_eq!(node.role(), Role::Candidate);
    node.receive(r(1), part(&second, true, 4));
    assert_eq!(node.role(), Role::Leader);
    let values = ["a", "b", "c", "d", "e"].map(String::from);
    let all: Vec<_> = (1..).zip(values).collect();
    assert_eq!(proposed(&mut node), all);
}

/// What is said to be chosen beats whatever was accepted, whoever tells of it first; and it is
/// learnt as soon as what precedes it is.
#[test]
fn a_chosen_value_beats_one_of_any_ballot() {
    let rival = [(1, b(2, 2), "y"), (2, b(2, 2), "y")];
    let middle = [(2, b(1, 1), "b")];
    let early = [(1, b(1, 1), "a")];
    for chosen_first in [true, false] {
        let mut node = Node::with(0, 5, &Config::default(), records(b(2, 1), &[]));
        node.wait_for_campaign();
        let chosen = Message::Promise(Promise {
            ballot: b(3, 0),
            from: Slot(1),
            through: Slot(2),
            last: false,
            accepted: vec![Report {
                slot: Slot(2),
                ballot: middle[0].1,
                batch: value(middle[0].2),
            }],
            chosen: Slot(2),
            compacted: Slot::ZERO,
        });
        let rivals = part(&rival, true, 0);
        let (one, two) = match chosen_first {
            true => ((r(1), chosen), (r(2), rivals)),
            false => ((r(2), rivals), (r(1), chosen)),
        };
        node.receive(one.0, one.1);
        node.receive(two.0, two.1);
        assert!(node.executed().is_empty());
        node.receive(r(3), promise_from(b(3, 0), 1, &early));
        assert_eq!(node.executed(), ["a", "b"], "chosen first: {chosen_first}");
    }
}

/// Two choose alone for more than a window, their leader dies, and the three others come back:
/// one of them is preferred, and a window behind. [Howard16 §3]
#[test]
fn a_preferred_leader_a_window_behind_forgets_nothing_that_two_of_five_chose() {
    let config = Config {
        quorums: QuorumRule::Flexible { q1: 4, q2: 2 },
        preferred: Some(r(0)),
        ..window_of(3)
    };
    let mut cluster = Cluster::new(5, &config);
    cluster.elect(4);
    for away in [0, 1, 2] {
        cluster.isolate(away);
    }
    let chosen: Vec<String> = (0..10).map(|number| format!("put {number}")).collect();
    for text in &chosen {
        cluster.propose(4, text);
    }
    cluster.beat(4);
    assert_eq!(cluster.node(3).executed(), chosen);
    cluster.heal();
    cluster.isolate(4);
    cluster.elect(0);
    cluster.propose(0, "new");
    cluster.beat(0);
    let all = [chosen, vec![String::from("new")]].concat();
    for id in [0, 1, 2, 3] {
        assert_eq!(cluster.node(id).executed(), all, "at {id}");
    }
}

/// The watermark of slot 1 was not written when slot 2 was learnt; after a restart both are executed, and
/// the log is within its window: a candidate whose own log is not gives up each time.
#[test]
fn a_replica_that_has_learnt_a_slot_is_elected_after_a_restart() {
    let config = window_of(1);
    let mut past = records(b(1, 1), &[(1, b(1, 1), "a")]);
    past.push(Record::Chosen(vec![proposal(2, "b")]));
    let mut node = Node::with(0, 3, &config, past);
    assert_eq!(node.executed(), ["a", "b"]);
    node.wait_for_campaign();
    let ballot = node.ballot();
    node.receive(r(1), promise_from(ballot, 1, &[(1, b(1, 1), "a")]));
    assert_eq!(node.role(), Role::Leader);
}

/// What comes when the window is full waits for it to move, in the order in which it came: whoever
/// asks least is served like the others. [vanRenesse15 §2]
#[test]
fn requests_beyond_the_window_wait_in_order() {
    for window in [1, 2, 4] {
        let mut cluster = Cluster::led_by_0(3, &window_of(window));
        cluster.node(1).propose("forwarded");
        let forwarded = cluster.node(1).take();
        for text in ["a", "b"] {
            cluster.node(0).propose(text);
        }
        for (_, message) in forwarded {
            cluster.node(0).receive(r(1), message);
        }
        cluster.node(0).propose("c");
        cluster.deliver();
        cluster.beat(0);
        let all = ["a", "b", "forwarded", "c"];
        assert_eq!(cluster.node(0).executed(), all, "window {window}");
        assert_eq!(cluster.node(1).executed(), all, "window {window}");
    }
}

/// The bytes that a leader holds are bounded, but for a place that each replica has.
#[test]
fn requests_beyond_the_bytes_that_may_be_unchosen_are_dropped_but_for_one_of_each_replica() {
    let config = Config {
        max_unchosen_bytes: 1,
        ..Config::default()
    };
    let mut cluster = Cluster::led_by_0(3, &config);
    cluster.node(1).propose("forwarded");
    let forwarded = cluster.node(1).take();
    for text in ["under way", "waits", "dropped"] {
        cluster.node(0).propose(text);
    }
    for (_, message) in forwarded {
        cluster.node(0).receive(r(1), message);
    }
    cluster.deliver();
    let expected = ["under way", "waits", "forwarded"];
    assert_eq!(cluster.node(0).executed(), expected);
}

/// What is asked for again while it is proposed takes no other slot, whoever asks, and all who ask are
/// told when it is chosen, without waiting for a heartbeat. Once it is executed, it is proposed again:
/// drivers ask no more for what they have seen executed.
#[test]
fn what_is_proposed_takes_no_second_slot() {
    let mut cluster = Cluster::led_by_0(3, &Config::default());
    for id in [1, 2, 2, 1] {
        cluster.node(id).propose("x");
    }
    for _ in 0..3 {
        cluster.node(0).propose("x");
    }
    cluster.deliver();
    for id in [0, 1, 2] {
        assert_eq!(cluster.node(id).executed(), ["x"], "at {id}");
    }
    cluster.propose(0, "x");
    assert_eq!(cluster.node(0).executed(), ["x", "x"]);
}

/// The same of what a new leader has found in its election.
#[test]
fn what_a_leader_has_found_is_under_way() {
    let mut node = candidate(&Config::default());
    node.receive(r(1), part(&[(1, b(1, 1), "x")], true, 0));
    node.propose("x");
    assert_eq!(proposed(&mut node), [(1, String::from("x"))]);
}
