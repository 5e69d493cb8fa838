//! What survives a crash, and what a replica that is back may do. The paper's replicas do not come
//! back: these rules are ours.

use std::time::Duration;

use quorate_epaxos::{Config, Message, Phase};

use crate::common::{Cluster, EPaxosCluster as _, EPaxosNode as _, id, set, writes};

fn config() -> Config {
    Config::default()
}

/// All that an answer rests on is durable before it leaves.
#[test]
fn what_was_answered_is_remembered() {
    let mut cluster = Cluster::quiet(3, &config());
    cluster.submit(1, "other", "k");
    cluster.node(1).sent.clear();
    cluster.submit(0, "x", "k");
    cluster.node(1).syncs = false;
    cluster.pass(0, 1, "pre_accept");
    assert_eq!(cluster.pass(1, 0, "pre_accept_ok"), 0, "not durable yet");
    cluster.node(1).syncs = true;
    cluster.node(1).end_turn();
    assert_eq!(cluster.pass(1, 0, "pre_accept_ok"), 1);
    let before = cluster.node(1).protocol.instance(id(0, 1));
    cluster.restart(1, &config());
    assert_eq!(cluster.node(1).protocol.instance(id(0, 1)), before);
    cluster.pass(0, 1, "accept");
    let before = cluster.node(1).protocol.instance(id(0, 1));
    cluster.restart(1, &config());
    assert_eq!(cluster.node(1).protocol.instance(id(0, 1)), before);
}

/// Commits are executed again from the records, in the same order.
#[test]
fn a_restart_executes_what_was_committed() {
    let mut cluster = Cluster::quiet(3, &config());
    for (at, name) in [(0, "a"), (1, "b"), (2, "c")] {
        cluster.submit(at, name, "k");
    }
    cluster.deliver();
    let order = cluster.node(1).order();
    assert_eq!(order.len(), 3);
    cluster.restart(1, &config());
    assert_eq!(cluster.node(1).order(), order);
    cluster.submit(1, "d", "k");
    cluster.deliver();
    assert!(cluster.node(0).decided(id(1, 2)).is_some());
}

/// The next slot of a replica's own lane is beyond all that it has used, and all that others have
/// heard of in it.
#[test]
fn a_restart_uses_no_slot_again() {
    let mut cluster = Cluster::quiet(3, &config());
    cluster.submit(0, "x", "k");
    cluster.node(0).sent.clear();
    cluster.restart(0, &config());
    cluster.submit(0, "y", "k");
    let sent = cluster.node(0).take();
    let ids = sent.iter().filter_map(|(_, message)| match message {
        Message::PreAccept { id, .. } => Some(*id),
        _ => None,
    });
    assert_eq!(ids.collect::<Vec<_>>(), [id(0, 2); 2]);
}

/// It may have committed what it had coordinated, and not remember. As long as it does not know,
/// it says nothing; the others find out without it.
#[test]
fn a_coordinator_that_is_back_stays_silent_about_what_it_may_have_committed() {
    let mut cluster = Cluster::quiet(3, &config());
    cluster.submit(0, "x", "k");
    cluster.pass(0, 1, "pre_accept");
    cluster.node(0).syncs = false;
    cluster.pass(1, 0, "pre_accept_ok");
    assert_eq!(cluster.node(0).executed(), ["x"]);
    cluster.restart(0, &config());
    cluster.node(1).sent.clear();
    cluster.node(0).sent.clear();
    cluster.node(2).recover_instance(id(0, 1));
    cluster.settle(&[0, 2]);
    assert_eq!(
        cluster.node(2).phase(id(0, 1)),
        Phase::Initial,
        "two of three are not enough"
    );
    // Also after another restart.
    cluster.restart(0, &config());
    cluster.pass_time(&[0, 2], Duration::from_secs(5));
    assert_eq!(cluster.node(2).phase(id(0, 1)), Phase::Initial);
    cluster.pass_time(&[0, 1, 2], Duration::from_secs(5));
    for node in &cluster.nodes {
        assert_eq!(node.decided(id(0, 1)), Some((Some("x".into()), set(&[]))));
    }
}

/// One that had joined the recovery in its earlier life had not committed before, and is sure.
#[test]
fn a_coordinator_that_joined_before_it_crashed_is_sure() {
    let mut cluster = Cluster::quiet(3, &config());
    cluster.submit(0, "x", "k");
    cluster.pass(0, 1, "pre_accept");
    cluster.node(0).sent.clear();
    cluster.node(2).recover_instance(id(0, 1));
    cluster.pass(2, 0, "recover");
    cluster.restart(0, &config());
    cluster.isolate(1);
    cluster.pass_time(&[0, 2], Duration::from_secs(5));
    let decided = cluster.node(2).decided(id(0, 1));
    assert_eq!(decided, Some((None, set(&[]))));
}

/// One replica alone remembers all that it committed.
#[test]
fn a_cluster_of_one_forgets_nothing() {
    let mut cluster = Cluster::quiet(1, &config());
    cluster.node(0).propose_with("x", writes("k"));
    assert_eq!(cluster.node(0).executed(), ["x"]);
    cluster.node(0).syncs = false;
    cluster.node(0).propose_with("y", writes("k"));
    cluster.node(0).sync();
    cluster.restart(0, &config());
    cluster.pass_time(&[0], Duration::from_secs(5));
    assert_eq!(cluster.node(0).executed(), ["x", "y"]);
}
