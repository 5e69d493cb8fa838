//! Replication and commitment. [Ongaro14 §5.3]

use quorate_core::id::{ReplicaId, Slot};
use quorate_core::protocol::Recovered;
use quorate_raft::{Config, Timer};

use crate::common::{
    Cluster, Node, RaftCluster, RaftNode, accepted, append, at, context, heartbeat, r, text, vote,
};

/// A leader of three whose first entry, in slot 1, is known to all.
fn settled_leader() -> Node {
    let mut leader = Node::leader(3, 1, &[]);
    leader.receive(r(1), accepted(1, 1));
    leader.receive(r(2), accepted(1, 1));
    assert_eq!(leader.committed(), 1);
    leader.take();
    leader
}

/// "The leader appends the command to its log as a new entry, then issues AppendEntries RPCs in
/// parallel to each of the other servers to replicate the entry." [§5.3]
#[test]
fn a_leader_starts_replication() {
    let mut leader = settled_leader();
    leader.propose("x");
    assert_eq!(leader.log_terms(), [1, 1]);
    assert_eq!(leader.committed(), 1);
    let sent = leader.take();
    assert_eq!(sent.len(), 2);
    leader.sent = sent;
    for peer in [r(1), r(2)] {
        let sent = leader.sent.clone();
        let appends = leader.appends(peer);
        leader.sent = sent;
        assert_eq!(appends.len(), 1);
        assert_eq!(appends[0].previous, at(1, 1));
        assert_eq!(appends[0].entries.len(), 1);
        assert_eq!(text(&appends[0].entries[0].batch), "x");
    }
}

/// A leader begins its term with an entry without requests. [§8]
#[test]
fn a_leader_begins_its_term_with_an_entry_of_its_own() {
    let mut leader = Node::leader(3, 2, &[1]);
    assert_eq!(leader.log_terms(), [1, 2]);
    let appends = leader.appends(r(1));
    assert_eq!(appends[0].previous, at(1, 1));
    assert!(appends[0].entries[0].batch.is_empty());
}

/// "A log entry is committed once the leader that created the entry has replicated it on a
/// majority of the servers." [§5.3]
#[test]
fn a_leader_commits_on_a_quorum() {
    // Cluster size, who acknowledges, and whether that commits: with the leader's own copy.
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
    for (n, acknowledges, commits) in table {
        let past = Recovered::nothing();
        let mut leader = Node::recover(context(r(0), n, 0), Config::default(), past).unwrap();
        leader.wait_for_campaign();
        for voter in ReplicaId::all(n).skip(1) {
            leader.receive(voter, vote(1, at(0, 0), true));
        }
        leader.propose("x");
        for peer in acknowledges {
            leader.receive(r(*peer), accepted(1, 2));
        }
        let executed: &[&str] = if commits { &["", "x"] } else { &[] };
        assert_eq!(
            leader.executed(),
            executed,
            "{n} replicas, {acknowledges:?}"
        );
    }
}

/// The leader's own copy counts when it is durable, and not before. [OngaroThesis §10.2.1]
#[test]
fn a_leader_counts_its_own_copy_only_when_it_is_durable() {
    let mut leader = settled_leader();
    leader.syncs = false;
    leader.propose("x");
    assert_eq!(
        leader.appends(r(1)).len(),
        1,
        "the others need not wait for that"
    );
    leader.receive(r(1), accepted(1, 2));
    assert_eq!(leader.committed(), 1);
    leader.sync();
    leader.end_turn();
    assert_eq!(leader.committed(), 2);
    leader.propose("y");
    leader.receive(r(1), accepted(1, 3));
    leader.receive(r(2), accepted(1, 3));
    assert_eq!(leader.committed(), 3, "the others are a quorum without it");
}

/// "It includes that index in future AppendEntries RPCs (including heartbeats) so that the other
/// servers eventually find out." [§5.3]
#[test]
fn a_leader_acknowledges_the_commit_to_followers() {
    let mut leader = settled_leader();
    leader.propose("x");
    leader.receive(r(1), accepted(1, 2));
    leader.take();
    leader.fire(Timer::Heartbeat);
    let beats = leader.appends(r(2));
    assert_eq!(beats[0].commit, Slot(2));
    leader.propose("y");
    let appends = leader.appends(r(1));
    assert_eq!(appends[0].commit, Slot(2));
}

/// "This also commits all preceding entries in the leader's log, including entries created by
/// previous leaders." [§5.3]
#[test]
fn a_leader_commits_preceding_entries() {
    for log in [&[][..], &[2], &[1, 2], &[1]] {
        let mut leader = Node::leader(3, 3, log);
        leader.propose("x");
        let last = log.len() as u64 + 2;
        leader.receive(r(1), accepted(3, last));
        let slots: Vec<u64> = leader.slots();
        assert_eq!(slots, (1..=last).collect::<Vec<_>>());
        assert_eq!(leader.executed().last().map(String::as_str), Some("x"));
    }
}

/// "Once a follower learns that a log entry is committed, it applies the entry to its local state
/// machine (in log order)." [§5.3]
#[test]
fn a_follower_commits_what_it_is_told() {
    // What the leader has committed, and what the follower with entries 1 to 3 then executes.
    for (commit, through) in [(0, 0), (1, 1), (2, 2), (3, 3), (9, 3)] {
        let mut follower = Node::follower(0, 3, 1, &[]);
        follower.receive(r(1), append(1, at(0, 0), &[1, 1, 1], commit));
        let slots: Vec<u64> = follower.slots();
        assert_eq!(slots, (1..=through).collect::<Vec<_>>());
    }
}

/// `commitIndex = min(leaderCommit, index of last new entry)`: what lies beyond may not be the
/// leader's. [figure 2]
#[test]
fn a_follower_commits_nothing_that_it_has_not_compared() {
    let mut follower = Node::follower(0, 3, 2, &[1, 1, 1]);
    follower.receive(r(1), heartbeat(3, at(1, 1), 3));
    assert_eq!(follower.committed(), 1);
    follower.receive(r(1), append(3, at(1, 1), &[3], 3));
    assert_eq!(
        (follower.committed(), follower.log_terms()),
        (2, vec![1, 3])
    );
}

/// A command is executed by all replicas, in the order of the log, wherever it was proposed.
/// [§5.3, figure 3 "State Machine Safety"]
#[test]
fn all_replicas_execute_the_same_commands_in_the_same_order() {
    let mut cluster = Cluster::led_by_0(5, &Config::default());
    for (round, text) in ["a", "b", "c", "d", "e"].into_iter().enumerate() {
        cluster.propose(round as u8, text);
    }
    cluster.beat(0);
    for node in &cluster.nodes {
        assert_eq!(node.executed(), ["", "a", "b", "c", "d", "e"]);
    }
}
