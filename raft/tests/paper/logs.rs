//! The consistency check, and how logs are brought into line. [Ongaro14 §5.3]

use quorate_core::id::Slot;
use quorate_core::protocol::Role;
use quorate_raft::{Config, Message, Term, Timer};

use crate::common::{Cluster, Node, RaftCluster, RaftNode, accepted, append, at, heartbeat, r};

/// "If the follower does not find an entry in its log with the same index and term, then it
/// refuses the new entries." [§5.3]
#[test]
fn a_follower_checks_the_previous_entry() {
    // What the leader takes to be before, and whether a follower with terms 1, 2 finds it.
    for (previous, found) in [
        (at(0, 0), true),
        (at(1, 1), true),
        (at(2, 2), true),
        (at(1, 2), false),
        (at(2, 1), false),
        (at(3, 2), false),
    ] {
        let mut follower = Node::follower(0, 3, 2, &[1, 2]);
        let answers = follower.answer(r(1), heartbeat(3, previous, 0));
        let accepts = answers == [accepted(3, previous.slot.0)];
        assert_eq!(accepts, found, "{previous:?}: {answers:?}");
        if !found {
            assert!(matches!(answers[..], [Message::Rejected { .. }]));
        }
        assert_eq!(follower.log_terms(), [1, 2]);
    }
}

/// "If an existing entry conflicts with a new one (same index but different terms), delete the
/// existing entry and all that follow it. Append any new entries not already in the log."
/// [figure 2]
#[test]
fn a_follower_appends_and_overwrites() {
    // Where the leader's entries go, their terms, and what a log of terms 1, 2, 2 becomes.
    let table: [(_, &[u64], &[u64]); 7] = [
        (at(3, 2), &[3], &[1, 2, 2, 3]),
        (at(2, 2), &[3, 3], &[1, 2, 3, 3]),
        (at(1, 1), &[3], &[1, 3]),
        (at(0, 0), &[3], &[3]),
        (at(0, 0), &[1, 2, 3], &[1, 2, 3]),
        (at(1, 1), &[2], &[1, 2, 2]),
        (at(0, 0), &[1], &[1, 2, 2]),
    ];
    for (previous, terms, becomes) in table {
        let mut follower = Node::follower(0, 3, 3, &[1, 2, 2]);
        let answers = follower.answer(r(1), append(3, previous, terms, 0));
        let matched = previous.slot.0 + terms.len() as u64;
        assert_eq!(answers, [accepted(3, matched)]);
        assert_eq!(follower.log_terms(), becomes, "{previous:?}, {terms:?}");
    }
}

/// A message that was overtaken by later ones does not undo them. [figure 2]
#[test]
fn an_overtaken_message_cuts_nothing() {
    let mut follower = Node::follower(0, 3, 3, &[]);
    follower.receive(r(1), append(3, at(0, 0), &[3, 3, 3], 1));
    let answers = follower.answer(r(1), append(3, at(0, 0), &[3], 0));
    assert_eq!(answers, [accepted(3, 3)], "what was acknowledged stays so");
    follower.receive(r(1), heartbeat(3, at(1, 3), 0));
    assert_eq!(follower.log_terms(), [3, 3, 3]);
}

/// Figure 7: the leader of term 8, and six followers that lack entries (a, b), have uncommitted
/// ones more (c, d), or both (e, f).
const FIGURE_7_LEADER: &[u64] = &[1, 1, 1, 4, 4, 5, 5, 6, 6, 6];
const FIGURE_7: [(char, &[u64]); 6] = [
    ('a', &[1, 1, 1, 4, 4, 5, 5, 6, 6]),
    ('b', &[1, 1, 1, 4]),
    ('c', &[1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 6]),
    ('d', &[1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 7, 7]),
    ('e', &[1, 1, 1, 4, 4, 4, 4]),
    ('f', &[1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3]),
];

/// "The leader handles inconsistencies by forcing the followers' logs to duplicate its own."
/// [§5.3, figure 7]
#[test]
fn a_leader_brings_each_divergent_log_of_figure_7_into_line() {
    for (name, log) in FIGURE_7 {
        let mut leader = Node::follower(0, 3, 7, FIGURE_7_LEADER);
        leader.fire(Timer::Election);
        let follower = Node::follower(1, 3, 7, log);
        let mut cluster = Cluster::of(vec![leader, follower, Node::follower(2, 3, 7, &[])]);
        cluster.deliver();
        assert_eq!(
            cluster.node(0).role(),
            Role::Leader,
            "{name}: voted for by the third"
        );
        cluster.propose(0, "of term 8");
        cluster.beat(0);
        let expected = cluster.nodes[0].log();
        assert_eq!(cluster.nodes[0].log_terms().len(), 12);
        assert_eq!(cluster.nodes[1].log(), expected, "{name}");
        assert_eq!(
            cluster.nodes[1].executed(),
            cluster.nodes[0].executed(),
            "{name}"
        );
    }
}

/// "One AppendEntries RPC will be required for each term with conflicting entries, rather than
/// one RPC per entry." [§5.3]
#[test]
fn a_rejection_passes_over_a_whole_term() {
    // Follower f of figure 7: the leader asks about slots 10 and, after one refusal, 3.
    let (_, log) = FIGURE_7[5];
    let mut leader = Node::leader(3, 8, FIGURE_7_LEADER);
    let mut follower = Node::follower(1, 3, 8, log);
    let mut asked = Vec::new();
    while follower.log_terms() != leader.log_terms() {
        let appends = leader.appends(r(1));
        assert_eq!(appends.len(), 1, "one probe at a time");
        asked.push(appends[0].previous.slot);
        for answer in follower.answer(r(0), Message::AppendEntries(appends[0].clone())) {
            leader.receive(r(1), answer);
        }
    }
    assert_eq!(asked, [Slot(10), Slot(3)]);
}

/// Two logs that need a step a term: the refusals still end, at the last entry in common. [§5.3]
#[test]
fn rejections_find_the_last_common_entry_in_at_most_a_step_a_term() {
    let mut leader = Node::leader(3, 20, &[1, 3, 5, 7, 9, 11, 13]);
    let mut follower = Node::follower(1, 3, 20, &[1, 2, 4, 6, 8, 10, 12]);
    let mut probes = 0;
    while follower.log_terms() != leader.log_terms() {
        probes += 1;
        assert!(probes <= 7);
        let append = leader.appends(r(1)).remove(0);
        for answer in follower.answer(r(0), Message::AppendEntries(append)) {
            leader.receive(r(1), answer);
        }
    }
}

/// A follower keeps what it has acknowledged: a rejection that a later acknowledgement has
/// overtaken moves nothing back. [§5.3]
#[test]
fn a_late_rejection_is_ignored() {
    let mut leader = Node::leader(3, 2, &[1, 1]);
    leader.receive(r(1), accepted(2, 3));
    leader.take();
    leader.receive(
        r(1),
        Message::Rejected {
            term: Term(2),
            previous: Slot(2),
            hint: at(0, 0),
        },
    );
    leader.propose("x");
    let appends = leader.appends(r(1));
    assert_eq!((appends.len(), appends[0].previous), (1, at(3, 2)));
}

/// What is asked for again while it is in the leader's log and not committed is not appended again,
/// whoever asks, and all who ask learn at once when it is committed.
#[test]
fn what_is_in_the_log_and_not_committed_is_not_appended_again() {
    let mut cluster = Cluster::led_by_0(3, &Config::default());
    for id in [1, 2, 2, 1] {
        cluster.node(id).propose("x");
    }
    for _ in 0..3 {
        cluster.node(0).propose("x");
    }
    cluster.deliver();
    for id in [0, 1, 2] {
        assert_eq!(cluster.node(id).executed(), ["", "x"], "at {id}");
    }
    cluster.propose(0, "x");
    assert_eq!(
        cluster.node(0).executed(),
        ["", "x", "x"],
        "it was committed"
    );
}

/// The same of what a leader has from leaders before it.
#[test]
fn what_an_earlier_leader_has_appended_is_not_appended_again() {
    let mut leader = Node::leader(3, 2, &[1]);
    leader.propose("of term 1");
    assert_eq!(leader.log_terms(), [1, 2]);
    leader.propose("new");
    assert_eq!(leader.log_terms(), [1, 2, 2]);
}
