//! What survives a crash, and what a replica that is back may do. The paper's replicas do not come
//! back: these rules are ours.

use std::time::Duration;

use quorate_epaxos::dependencies::Dependencies;
use quorate_epaxos::{Config, Phase, Record};

use crate::common::{Cluster, EPaxosCluster as _, EPaxosNode as _, Node, id, set, writes};
use crate::scripts::{
    accepted_before_a_nop, committed_against_one_in_doubt, restart_after_a_rewrite,
    restarted_alone, two_in_doubt,
};

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

/// The next slot of a replica's own lane is beyond all that it has used, all that others have
/// heard of in it, and the one that it may have asked about without remembering.
#[test]
fn a_restart_uses_no_slot_again() {
    let mut cluster = Cluster::quiet(3, &config());
    cluster.submit(0, "x", "k");
    cluster.restart(0, &config());
    cluster.submit(0, "y", "k");
    assert_eq!(cluster.node(0).asked(1), [id(0, 3)]);
}

/// Others are asked while a command is written, if it is the only one that is: a restart skips one
/// slot. The first of a life is not: another restart would skip the same one.
#[test]
fn one_command_at_a_time_is_asked_about_before_it_is_durable() {
    let mut cluster = Cluster::quiet(3, &config());
    for life in 0..2 {
        let first = 1 + 4 * life;
        let node = cluster.node(0);
        node.syncs = false;
        node.propose_with(&format!("first of {life}"), writes("a"));
        assert_eq!(node.asked(1), []);
        node.pass(Duration::from_secs(1));
        assert_eq!(node.asked(1), [], "nor again");
        node.sync();
        node.end_turn();
        assert_eq!(node.asked(1), [id(0, first)]);
        node.propose_with(&format!("second of {life}"), writes("b"));
        assert_eq!(node.asked(1), [id(0, first + 1)]);
        node.propose_with(&format!("third of {life}"), writes("c"));
        assert_eq!(node.asked(1), []);
        node.sync();
        node.end_turn();
        assert_eq!(node.asked(1), [id(0, first + 2)]);
        cluster.restart(0, &config());
    }
}

/// Before its own copy is durable, nobody hears of what others have answered.
#[test]
fn a_fast_quorum_has_the_coordinators_own_copy() {
    let mut cluster = Cluster::quiet(3, &config());
    cluster.submit(0, "earlier", "another");
    cluster.deliver();
    cluster.node(0).syncs = false;
    cluster.submit(0, "x", "k");
    for other in [1, 2] {
        cluster.pass(0, other, "pre_accept");
        cluster.pass(other, 0, "pre_accept_ok");
    }
    assert_eq!(cluster.node(0).decided(id(0, 2)), None);
    cluster.node(0).sync();
    cluster.node(0).end_turn();
    assert_eq!(cluster.node(0).decided(id(0, 2)), x());
}

/// What was asked about and forgotten is decided at once after a restart, as Nop, and what others
/// propose meanwhile comes after it.
#[test]
fn what_was_asked_about_and_forgotten_becomes_a_nop() {
    let mut cluster = Cluster::quiet(3, &config());
    cluster.submit(0, "earlier", "another");
    cluster.deliver();
    cluster.node(0).syncs = false;
    cluster.submit(0, "x", "k");
    cluster.pass(0, 1, "pre_accept");
    cluster.restart(0, &config());
    cluster.submit(2, "y", "other");
    cluster.pass(2, 0, "pre_accept");
    cluster.pass(0, 2, "pre_accept_ok");
    assert_eq!(cluster.node(2).decided(id(2, 1)), None, "answers differ");
    cluster.deliver();
    for at in 0..3 {
        let node = cluster.node(at);
        assert_eq!(node.decided(id(0, 2)), Some((None, set(&[]))));
        let (_, dependencies) = node.decided(id(2, 1)).expect("a decision");
        assert!(dependencies.contains(id(0, 2)));
        assert_eq!(node.executed().last().map(String::as_str), Some("y"));
    }
}

fn x() -> Option<(Option<String>, Dependencies)> {
    Some((Some("x".into()), set(&[])))
}

/// r0's command, which all of `voters` have answered; its own disk is slow from then on.
fn answered(n: usize, voters: &[u8]) -> Cluster {
    let mut cluster = Cluster::quiet(n, &config());
    cluster.submit(0, "x", "k");
    cluster.node(0).syncs = false;
    for voter in voters {
        assert_eq!(cluster.pass(0, *voter, "pre_accept"), 1);
        assert_eq!(cluster.pass(*voter, 0, "pre_accept_ok"), 1);
    }
    cluster
}

/// A fast quorum's answers are not acted on before they cannot be forgotten. [ADR 14]
#[test]
fn what_a_fast_quorum_has_answered_is_durable_before_anybody_hears_of_it() {
    for (n, voters) in [(3, vec![1]), (5, vec![1, 2]), (7, vec![1, 2, 3, 4])] {
        let mut cluster = answered(n, &voters);
        assert_eq!(cluster.node(0).decided(id(0, 1)), None, "{n} replicas");
        assert_eq!(cluster.pass(0, 1, "commit"), 0);
        cluster.node(0).sync();
        cluster.node(0).end_turn();
        assert_eq!(cluster.node(0).decided(id(0, 1)), x());
        assert_eq!(cluster.pass(0, 1, "commit"), 1);
        // Nobody else is asked to accept it.
        assert_eq!(cluster.pass(0, 1, "accept"), 0);
    }
}

/// What all have answered needs no memory of the coordinator's.
#[test]
fn what_all_have_answered_is_acted_on_at_once() {
    for n in [3, 5, 7] {
        let voters: Vec<u8> = (1..n).collect();
        let mut cluster = answered(usize::from(n), &voters);
        assert_eq!(cluster.node(0).executed(), ["x"], "{n} replicas");
        assert_eq!(cluster.pass(0, 1, "commit"), 1);
    }
}

/// The coordinator's disk hangs after it has heard from a fast quorum. Others accept what it has found, and
/// their disks do.
#[test]
fn a_disk_that_hangs_does_not_keep_what_a_fast_quorum_has_answered() {
    let mut cluster = answered(5, &[1, 2]);
    cluster.node(0).sent.clear();
    cluster.node(0).pass(config().fast_wait);
    for other in [2, 3, 4] {
        assert_eq!(cluster.pass(0, other, "accept"), 1);
        assert_eq!(cluster.pass(other, 0, "accept_ok"), 1);
    }
    assert_eq!(cluster.node(0).decided(id(0, 1)), x());
}

/// r0 has committed its command with the answers of both others, executed it, and does not remember; nobody
/// else has heard of the commit.
fn in_doubt() -> Cluster {
    let mut cluster = answered(3, &[1, 2]);
    assert_eq!(cluster.node(0).executed(), ["x"]);
    cluster.restart(0, &config());
    assert_eq!(cluster.node(0).phase(id(0, 1)), Phase::PreAccepted);
    for node in &mut cluster.nodes {
        node.sent.clear();
    }
    cluster
}

/// It may have committed what all had answered, and any quorum shows that they had.
#[test]
fn what_all_had_answered_is_decided_so_whoever_is_gone() {
    for (recoverer, among) in [
        (0, [0, 1]),
        (0, [0, 2]),
        (1, [0, 1]),
        (2, [0, 2]),
        (1, [1, 2]),
    ] {
        let mut cluster = in_doubt();
        // Also after another restart.
        cluster.restart(0, &config());
        cluster.node(recoverer).recover_instance(id(0, 1));
        cluster.settle(&among);
        for at in among {
            assert_eq!(cluster.node(at).decided(id(0, 1)), x());
        }
    }
}

/// One that has accepted what a fast quorum answered says so, and one that had not has done nothing that would
/// have to be kept: two of three decide either, without the third that had answered.
#[test]
fn what_a_fast_quorum_had_answered_is_decided_by_the_coordinator_and_another() {
    for durable in [false, true] {
        let mut cluster = answered(3, &[1]);
        if durable {
            cluster.node(0).sync();
        }
        cluster.restart(0, &config());
        cluster.node(2).recover_instance(id(0, 1));
        cluster.settle(&[0, 2]);
        let expected = if durable { x() } else { Some((None, set(&[]))) };
        for at in [0, 2] {
            assert_eq!(cluster.node(at).decided(id(0, 1)), expected);
        }
    }
}

/// What it was told last to be committed is in no record.
fn forget_commits(node: &mut Node) {
    node.durable
        .retain(|record| !matches!(record, Record::Committed { .. }));
}

/// A command of a coordinator that is down conflicts with one of a coordinator that is back. One of
/// them was committed, and two of three find out which.
#[test]
fn what_speaks_against_a_coordinator_that_is_back_is_decided_without_the_others() {
    for committed_first in [0, 1] {
        let mut cluster = Cluster::quiet(3, &config());
        cluster.submit(0, "of 0", "k");
        cluster.submit(1, "of 1", "k");
        cluster.pass(committed_first, 2, "pre_accept");
        cluster.pass(2, committed_first, "pre_accept_ok");
        cluster.pass(1, 0, "pre_accept");
        cluster.pass(0, 2, "pre_accept");
        let first = id(committed_first, 1);
        assert!(cluster.node(committed_first).decided(first).is_some());
        let before = cluster.node(committed_first).decided(first);
        forget_commits(cluster.node(0));
        cluster.restart(0, &config());
        for node in &mut cluster.nodes {
            node.sent.clear();
        }
        cluster.pass_time(&[0, 2], Duration::from_secs(10));
        assert_eq!(cluster.node(0).decided(first), before);
        assert_eq!(cluster.node(2).decided(first), before);
        assert_eq!(cluster.breach(), None);
    }
}

/// The command whose coordinator is down was committed, which none of the living knows; the other's coordinator
/// does not remember. It would if it had committed it.
#[test]
fn a_coordinator_that_is_back_is_sure_where_not_all_had_answered() {
    let mut cluster = committed_against_one_in_doubt(&config());
    cluster.pass_time(&[2, 3, 4], Duration::from_secs(5));
    for at in [2, 3, 4] {
        let node = cluster.node(at);
        assert_eq!(node.decided(id(0, 1)), Some((Some("one".into()), set(&[]))));
        assert_eq!(node.decided(id(4, 1)), Some((None, set(&[]))));
    }
    assert_eq!(cluster.breach(), None);
}

/// Neither coordinator can say at once that it has not committed. Whoever has not answered as it proposed can
/// say it for them.
#[test]
fn two_coordinators_that_are_back_do_not_wait_for_each_other() {
    let cluster = two_in_doubt(&config());
    let all = [0, 1, 2, 3, 4];
    assert!(cluster.all_decided(&all, id(1, 1)) && cluster.all_decided(&all, id(2, 1)));
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
    assert_eq!(cluster.node(0).executed(), ["x", "", "y"]);
}

/// What is decided says only "the command" where that is known: the records must still have it.
#[test]
fn a_command_outlives_the_nop_accepted_after_it_and_a_rewrite() {
    let node = restart_after_a_rewrite(&config()).expect("a good past");
    let (of, _) = accepted_before_a_nop();
    assert_eq!(node.decided(of), x());
}

/// The two are a majority, and nobody else knows more than they.
#[test]
fn a_majority_whose_members_restarted_alone_decides_everything() {
    let mut cluster = restarted_alone(&config());
    cluster.pass_time(&[1, 2], Duration::from_secs(5));
    cluster.submit(1, "later", "elsewhere");
    cluster.pass_time(&[1, 2], Duration::from_secs(5));
    for at in [1, 2] {
        for of in [id(1, 1), id(2, 1)] {
            assert!(cluster.all_decided(&[1, 2], of), "{of:?}");
        }
        let executed = cluster.node(at).executed();
        assert_eq!(executed.last().map(String::as_str), Some("later"));
    }
}
