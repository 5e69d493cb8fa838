//! Quorums of unlike size and shape. [Howard16 §3, §5]

use std::time::Duration;

use quorate_core::protocol::{Protocol, Recovered, Role};
use quorate_multipaxos::{Config, MultiPaxos, QuorumRule};

use crate::common::{Cluster, PaxosCluster, PaxosNode, context, r};

fn with(quorums: QuorumRule) -> Config {
    Config {
        quorums,
        ..Config::default()
    }
}

/// Only quorums of unlike phases need to intersect: with q2 below a majority, the leader goes on
/// while n - q2 acceptors are away. [Howard16 §3]
#[test]
fn flexible_quorums_keep_working_with_a_minority() {
    let config = with(QuorumRule::Flexible { q1: 4, q2: 2 });
    let mut cluster = Cluster::led_by_0(5, &config);
    for away in [2, 3, 4] {
        cluster.isolate(away);
    }
    cluster.propose(0, "a");
    cluster.propose(1, "b");
    assert_eq!(cluster.node(0).executed(), ["a", "b"]);
    assert_eq!(cluster.node(1).executed(), ["a", "b"]);
}

/// And they stay safe: whoever is elected has asked one of those who chose. [Howard16 §3]
#[test]
fn flexible_quorums_stay_safe() {
    let config = with(QuorumRule::Flexible { q1: 4, q2: 2 });
    let mut cluster = Cluster::led_by_0(5, &config);
    for away in [2, 3, 4] {
        cluster.isolate(away);
    }
    cluster.propose(0, "a");
    cluster.heal();
    cluster.isolate(0);
    cluster.isolate(1);
    cluster.node(4).wait_for_campaign();
    cluster.deliver();
    assert_eq!(cluster.node(4).role(), Role::Candidate, "three are too few");
    cluster.heal();
    cluster.isolate(0);
    cluster.node(4).fire(quorate_multipaxos::Timer::Retransmit);
    cluster.deliver();
    assert_eq!(cluster.node(4).role(), Role::Leader);
    cluster.propose(4, "b");
    assert_eq!(cluster.node(4).executed(), ["a", "b"]);
}

/// A quorum of one to choose, and all to elect: the fastest a leader can be.
#[test]
fn one_replica_may_choose_if_all_must_elect() {
    let config = with(QuorumRule::Flexible { q1: 3, q2: 1 });
    let mut cluster = Cluster::led_by_0(3, &config);
    cluster.isolate(1);
    cluster.isolate(2);
    cluster.propose(0, "a");
    assert_eq!(cluster.node(0).executed(), ["a"]);
}

/// q1 + q2 must exceed n, and a grid must be full.
#[test]
fn quorums_that_need_not_intersect_are_refused() {
    let start = |n, quorums| {
        let past = Recovered::nothing();
        MultiPaxos::recover(context(r(0), n, 0), with(quorums), past)
    };
    assert!(start(5, QuorumRule::Flexible { q1: 4, q2: 2 }).is_ok());
    let error = start(5, QuorumRule::Flexible { q1: 3, q2: 2 }).unwrap_err();
    assert!(error.reason.contains("sum must exceed 5"), "{error}");
    assert!(start(5, QuorumRule::Flexible { q1: 6, q2: 2 }).is_err());
    assert!(start(6, QuorumRule::Grid { rows: 2 }).is_ok());
    let error = start(5, QuorumRule::Grid { rows: 2 }).unwrap_err();
    assert!(error.reason.contains("do not fill 2 rows"), "{error}");
}

/// A grid of two rows and three columns: a row elects, and a column of two chooses. [Howard16 §5]
#[test]
fn in_a_grid_a_row_elects_and_a_column_chooses() {
    let config = with(QuorumRule::Grid { rows: 2 });
    let mut cluster = Cluster::new(6, &config);
    for away in [3, 4, 5] {
        cluster.isolate(away);
    }
    cluster.elect(0);
    cluster.propose(0, "a");
    assert_eq!(cluster.node(0).committed(), 0, "no column has accepted");
    cluster.heal();
    for away in [1, 2, 4, 5] {
        cluster.isolate(away);
    }
    cluster.node(0).pass(Duration::from_millis(200));
    cluster.deliver();
    assert_eq!(cluster.node(0).executed(), ["a"], "0 and 3 are a column");
    // The other row elects, and finds it in the place where row and column cross.
    cluster.heal();
    for away in [0, 1, 2] {
        cluster.isolate(away);
    }
    cluster.elect(5);
    cluster.heal();
    cluster.propose(5, "b");
    cluster.node(5).pass(Duration::from_millis(200));
    cluster.deliver();
    assert_eq!(cluster.node(5).executed(), ["a", "b"]);
}
