//! The order of execution. [Ryabinin25; Moraru13 §4.3.2]

use std::time::Duration;

use bytes::Bytes;
use quorate_core::id::EntryId;
use quorate_core::protocol::{Event, Input};
use quorate_core::request::{Batch, Operation, Request, SessionId};
use quorate_core::session::{Sessions, WINDOW};
use quorate_epaxos::{Command, Config, Decision, Message, Value};
use quorate_simulator::harness::{command, signer};

use crate::common::{Cluster, EPaxosCluster as _, EPaxosNode as _, Node, id, r, set, writes};

fn commit(of: (u8, u64), dependencies: &[(u8, u64)]) -> Message {
    let name = format!("{}.{}", of.0, of.1);
    Message::Commit(Decision {
        id: id(of.0, of.1),
        value: Value::Command(Command::new(command(&name), &writes("k"))),
        dependencies: set(dependencies),
    })
}

/// Two cycles, one of which depends on the other, and a command that depends on both.
fn graph() -> Vec<Message> {
    vec![
        commit((0, 1), &[(1, 1)]),
        commit((1, 1), &[(2, 1)]),
        commit((2, 1), &[(0, 1)]),
        commit((0, 2), &[(0, 1), (1, 2)]),
        commit((1, 2), &[(0, 2), (1, 1)]),
        commit((2, 2), &[(0, 2), (2, 1)]),
    ]
}

/// Components in reverse topological order, inside one by id, whatever the order in which commits
/// are learnt of.
#[test]
fn the_order_of_execution_is_the_same_everywhere() {
    let expected = [(0, 1), (1, 1), (2, 1), (0, 2), (1, 2), (2, 2)].map(|(l, s)| id(l, s));
    // All rotations, forwards and backwards.
    for rotation in 0..6 {
        for backwards in [false, true] {
            let mut commits = graph();
            commits.rotate_left(rotation);
            if backwards {
                commits.reverse();
            }
            for me in 0..3 {
                let mut node = Node::fresh(me, 3, &Config::default());
                let from = r((me + 1) % 3);
                commits.iter().for_each(|c| node.receive(from, c.clone()));
                assert_eq!(node.order(), expected);
                let components = node.events.iter().filter_map(|event| match event {
                    Event::Component { size } => Some(*size),
                    _ => None,
                });
                assert_eq!(components.collect::<Vec<_>>(), [3, 2]);
            }
        }
    }
}

/// Nothing is executed before all that it depends on, transitively, is committed.
#[test]
fn nothing_is_executed_before_all_it_depends_on_is_committed() {
    let commits = graph();
    for missing in 0..3 {
        let mut node = Node::fresh(0, 3, &Config::default());
        let others = commits.iter().enumerate().filter(|(i, _)| *i != missing);
        others.for_each(|(_, c)| node.receive(r(1), c.clone()));
        assert_eq!(node.order(), [] as [EntryId; 0]);
        node.receive(r(1), commits[missing].clone());
        assert_eq!(node.order().len(), 6);
    }
}

/// A Nop is executed as nothing, and nothing waits for more than it.
#[test]
fn a_nop_is_executed_as_nothing() {
    let mut node = Node::fresh(0, 3, &Config::default());
    node.receive(r(1), commit((1, 2), &[(1, 1)]));
    let nop = Message::Commit(Decision {
        id: id(1, 1),
        value: Value::Nop,
        dependencies: set(&[]),
    });
    node.receive(r(1), nop);
    assert_eq!(node.executed(), ["", "1.2"]);
}

/// Two commands that were proposed at the same time, each preaccepted by a replica that knew the
/// other: all execute them in the same order.
#[test]
fn commands_that_meet_are_executed_in_one_order() {
    let mut cluster = Cluster::quiet(3, &Config::default());
    cluster.submit(0, "a", "k");
    cluster.submit(1, "b", "k");
    cluster.deliver();
    let orders: Vec<_> = cluster.nodes.iter().map(Node::order).collect();
    assert_eq!(orders[0].len(), 2);
    assert_eq!(
        orders,
        [orders[0].clone(), orders[0].clone(), orders[0].clone()]
    );
}

/// A chain longer than any stack.
#[test]
fn a_long_chain_is_executed_once_its_first_is_committed() {
    const LENGTH: u64 = 20_000;
    let mut node = Node::fresh(0, 3, &Config::default());
    for slot in (2..=LENGTH).rev() {
        let input = node.input(r(1), commit((1, slot), &[(1, slot - 1)]));
        node.step(input);
    }
    assert_eq!(node.order(), [] as [EntryId; 0]);
    node.receive(r(1), commit((1, 1), &[]));
    assert_eq!(node.order().len() as u64, LENGTH);
    assert_eq!(node.order().last(), Some(&id(1, LENGTH)));
}

fn session() -> SessionId {
    SessionId {
        number: 1,
        client: signer(0).public(),
    }
}

fn propose(node: &mut Node, sequence: u64, key: &str) {
    let batch = Batch::of_one(Request {
        session: session(),
        sequence,
        answered: sequence,
        operation: Operation::Apply(b"x"),
    });
    let keys = writes(key);
    node.turn(Input::Propose { batch, keys });
}

/// How many requests the table of sessions lets a replica execute.
fn executed_once(node: &Node) -> usize {
    let mut sessions = Sessions::default();
    assert!(sessions.open(session(), 0));
    let requests = node.commits.iter().flat_map(|commit| {
        let requests = commit.batch.requests();
        requests
            .map(|request| sessions.execute(&request, Bytes::new).is_ok())
            .collect::<Vec<_>>()
    });
    requests.filter(|executed| *executed).count()
}

/// A session holds what is a window behind its highest request for executed. A replica that missed
/// one, which the client has the answer to, must not execute one so far ahead before it.
#[test]
fn requests_of_a_session_a_window_apart_are_executed_in_one_order() {
    let mut cluster = Cluster::quiet(3, &Config::default());
    cluster.isolate(2);
    propose(cluster.node(0), 1, "a");
    cluster.deliver();
    assert!(cluster.all_decided(&[0, 1], id(0, 1)));
    cluster.heal();
    propose(cluster.node(0), WINDOW, "b");
    propose(cluster.node(0), 1 + WINDOW, "c");
    cluster.deliver();
    assert_eq!(
        cluster.node(2).order(),
        [id(0, 2)],
        "one is within the window"
    );
    cluster.pass_time(&[0, 1, 2], Duration::from_secs(5));
    let executed: Vec<_> = cluster.nodes.iter().map(executed_once).collect();
    assert_eq!(executed, [3, 3, 3]);
}
