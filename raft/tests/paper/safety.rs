//! The election restriction, and commitment of earlier terms. [Ongaro14 §5.4]

use quorate_core::protocol::Role;
use quorate_raft::{Config, Message};

use crate::common::{
    Cluster, Node, RaftCluster, RaftNode, accepted, append, at, r, request_vote, vote,
};

/// "The RPC includes information about the candidate's log": the term and index of its last
/// entry. [§5.4.1]
#[test]
fn a_vote_request_carries_last_index_and_term() {
    for (log, last) in [
        (&[][..], at(0, 0)),
        (&[1], at(1, 1)),
        (&[1, 2], at(2, 2)),
        (&[1, 2, 2, 4], at(4, 4)),
    ] {
        let mut node = Node::candidate(3, 6, log);
        let asked = node.take();
        assert_eq!(asked[0], (r(1), request_vote(6, last)));
    }
}

/// "The voter denies its vote if its own log is more up-to-date than that of the candidate": the
/// later last term, or in the same term the longer log. [§5.4.1]
#[test]
fn a_voter_refuses_a_candidate_whose_log_is_older() {
    // The voter's log, the end of the candidate's, and the vote.
    let table = [
        (&[1][..], at(1, 1), true),
        (&[1], at(2, 1), true),
        (&[1, 1], at(1, 1), false),
        (&[1], at(1, 2), true),
        (&[1], at(2, 2), true),
        (&[1, 1], at(1, 2), true),
        (&[2], at(1, 1), false),
        (&[2], at(2, 1), false),
        (&[2, 2], at(9, 1), false),
        (&[], at(0, 0), true),
    ];
    for (log, last, granted) in table {
        let mut node = Node::follower(0, 3, 2, log);
        let answers = node.answer(r(1), request_vote(3, last));
        assert_eq!(answers, [vote(3, last, granted)], "{log:?}, {last:?}");
        let voted = granted.then_some(r(1));
        assert_eq!(node.durable_vote(), (3, voted));
    }
}

/// "Only log entries from the leader's current term are committed by counting replicas." [§5.4.2]
#[test]
fn only_entries_of_the_current_term_are_committed_by_counting() {
    let mut leader = Node::leader(3, 3, &[1, 2]);
    assert_eq!(leader.log_terms(), [1, 2, 3]);
    leader.receive(r(1), accepted(3, 1));
    leader.receive(r(1), accepted(3, 2));
    assert_eq!(
        leader.committed(),
        0,
        "a majority has entries of terms 1 and 2"
    );
    leader.receive(r(1), accepted(3, 3));
    assert_eq!(
        leader.committed(),
        3,
        "and now one of term 3, which commits them all"
    );
}

/// Figure 8: an entry of term 2 that reached a majority is overwritten all the same, because only
/// the leader of term 4 could have committed it, together with an entry of its own. [§5.4.2]
#[test]
fn figure_8_an_entry_of_an_earlier_term_on_a_majority_may_still_be_overwritten() {
    // (c): S1 leads term 4, and the entry of term 2 in slot 2 reaches S3.
    let mut s1 = Node::leader(5, 4, &[1, 2]);
    s1.receive(r(1), accepted(4, 2));
    s1.receive(r(2), accepted(4, 2));
    assert_eq!(s1.committed(), 0);
    // (d): S5, whose log ends with term 3, is elected by S2, S3 and S4, and overwrites it.
    let mut s3 = Node::follower(2, 5, 4, &[1, 2]);
    assert_eq!(
        s3.answer(r(4), request_vote(5, at(2, 3))),
        [vote(5, at(2, 3), true)]
    );
    s3.receive(r(4), append(5, at(1, 1), &[3, 5], 3));
    assert_eq!(s3.log_terms(), [1, 3, 5]);
    assert_eq!(s3.committed(), 3);
    // (e): had S1 replicated its entry of term 4 to a majority, S5 could not have won.
    s1.receive(r(1), accepted(4, 3));
    s1.receive(r(2), accepted(4, 3));
    assert_eq!(s1.committed(), 3);
    let mut s3 = Node::follower(2, 5, 4, &[1, 2, 4]);
    assert_eq!(
        s3.answer(r(4), request_vote(5, at(2, 3))),
        [vote(5, at(2, 3), false)]
    );
}

/// Leader Completeness: whoever is elected has all committed entries, here after the leader and
/// then its successor are cut off. [§5.4.3]
#[test]
fn a_new_leader_has_all_committed_entries() {
    let mut cluster = Cluster::led_by_0(5, &Config::default());
    cluster.propose(0, "first");
    cluster.isolate(0);
    cluster.node(0).propose("never committed");
    cluster.elect(1);
    cluster.propose(1, "second");
    cluster.isolate(1);
    cluster.elect(2);
    cluster.propose(2, "third");
    cluster.heal();
    cluster.beat(2);
    cluster.beat(2);
    for node in &cluster.nodes {
        assert_eq!(node.executed(), ["", "first", "", "second", "", "third"]);
        assert_eq!(node.role() == Role::Leader, node.me == r(2));
    }
}

/// A leader never overwrites or deletes entries of its own log: it appends only. [§5.3, figure 3]
#[test]
fn a_leader_only_appends() {
    let mut leader = Node::leader(3, 3, &[1, 2]);
    leader.receive(r(1), append(3, at(0, 0), &[3], 1));
    assert_eq!(leader.log_terms(), [1, 2, 3]);
    let answers = leader.answer(r(1), append(2, at(0, 0), &[2], 1));
    assert!(matches!(answers[..], [Message::Rejected { .. }]));
    assert_eq!(leader.log_terms(), [1, 2, 3]);
}
