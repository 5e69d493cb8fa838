//! Snapshots, and what is left after a crash. [Ongaro14 §7]

mod common;

use bytes::Bytes;
use common::{
    Cluster, Node, RaftCluster, RaftNode, accepted, append, at, context, entries, heartbeat, r,
    records, request_vote, snapshot, vote,
};
use quorate_core::codec;
use quorate_core::crypto::Verifier;
use quorate_core::frontier::Frontier;
use quorate_core::id::{EntryId, Lane, Slot};
use quorate_core::protocol::{Input, Protocol, Recovered, Role, SnapshotRef, Verified};
use quorate_raft::{Config, Message, Raft, Record, Term};

/// A configuration that keeps only so many entries behind a snapshot.
fn retaining(retained_entries: usize) -> Config {
    Config {
        retained_entries,
        ..Config::default()
    }
}

/// What a replica in term `vouched_in` says of a snapshot whose last entry is of term `last`.
fn anchor(last: u64, vouched_in: u64) -> Bytes {
    codec::encode(&(last, vouched_in)).unwrap().into()
}

fn recover(records: Vec<Record>, snapshot: Option<SnapshotRef>) -> Node {
    let past = Recovered { records, snapshot };
    Node::recover(context(r(0), 3, 0), Config::default(), past).unwrap()
}

fn refused(records: Vec<Record>, snapshot: Option<SnapshotRef>, reason: &str) {
    let past = Recovered { records, snapshot };
    let error = Raft::recover(context(r(0), 3, 0), Config::default(), past).unwrap_err();
    assert!(error.to_string().contains(reason), "{error}");
}

#[test]
fn a_snapshot_compacts_the_log_but_for_a_tail() {
    let mut cluster = Cluster::led_by_0(3, &retaining(2));
    for _ in 0..9 {
        cluster.propose(0, "x");
    }
    let before = cluster.node(0).durable_vote();
    cluster.node(0).take_snapshot();
    let (start, log) = cluster.node(0).log();
    assert_eq!((start, log.len()), (at(8, 1), 2));
    assert_eq!(cluster.node(0).durable[0], Record::Start(at(8, 1)));
    assert_eq!(cluster.node(0).durable_vote(), before);
    let offered = (Frontier::single(Slot(10)), anchor(1, 1));
    assert_eq!(cluster.node(0).offer, Some(offered));
    cluster.propose(0, "y");
    assert_eq!(cluster.node(0).log().1.len(), 3, "and the log goes on");
}

#[test]
fn a_follower_a_little_behind_needs_no_snapshot() {
    let mut cluster = Cluster::led_by_0(3, &retaining(5));
    cluster.isolate(1);
    for _ in 0..4 {
        cluster.propose(0, "x");
    }
    cluster.node(0).take_snapshot();
    cluster.heal();
    cluster.beat(0);
    cluster.beat(0);
    assert_eq!(cluster.node(1).fetch, None);
    assert_eq!(cluster.node(1).executed(), cluster.nodes[0].executed());
}

#[test]
fn a_follower_far_behind_fetches_a_snapshot_and_goes_on_from_it() {
    let mut cluster = Cluster::led_by_0(3, &retaining(2));
    cluster.isolate(1);
    for _ in 0..9 {
        cluster.propose(0, "x");
    }
    cluster.node(0).take_snapshot();
    cluster.heal();
    cluster.beat(0);
    cluster.beat(0);
    let fetch = cluster
        .node(1)
        .fetch
        .clone()
        .expect("a wish for a snapshot");
    assert_eq!(
        (fetch.from, fetch.at_least),
        (r(0), Frontier::single(Slot(8)))
    );
    cluster.transfer(0, 1);
    cluster.deliver();
    cluster.propose(0, "y");
    cluster.beat(0);
    assert_eq!(
        cluster.node(1).executed(),
        ["y"],
        "the rest came in the snapshot"
    );
    assert_eq!(cluster.node(1).fetch, None);
    assert_eq!(
        cluster.nodes[1].offer, cluster.nodes[0].offer,
        "it serves it too"
    );
    // Alone with the leader it makes a quorum.
    cluster.isolate(2);
    cluster.propose(0, "z");
    assert_eq!(cluster.node(0).executed().last().unwrap(), "z");
}

/// A peer that fetches a snapshot will need what follows it. At the bound all of that is kept; beyond
/// it the log is compacted, and the peer must fetch another.
#[test]
fn peers_that_fetch_hold_compaction_back_within_a_bound() {
    let entry = entries(&[1])[0].size();
    for (written, held) in [(9, true), (10, false)] {
        let config = Config {
            max_held_bytes: 9 * entry,
            ..retaining(2)
        };
        let mut cluster = Cluster::led_by_0(3, &config);
        cluster.isolate(1);
        (0..9).for_each(|_| cluster.propose(0, "of term 1"));
        cluster.node(0).take_snapshot();
        cluster.heal();
        cluster.beat(0);
        cluster.beat(0);
        assert!(cluster.node(1).fetch.is_some());
        (0..written).for_each(|_| cluster.propose(0, "of term 1"));
        cluster.node(0).take_snapshot();
        let (start, _) = cluster.node(0).log();
        let first = if held { 10 } else { 11 };
        assert_eq!(start, at(first, 1), "{written} entries");
    }
}

/// One that has fetched, or is not heard any more, holds nothing back.
#[test]
fn who_has_what_it_fetched_or_is_gone_holds_nothing_back() {
    for gone in [true, false] {
        let mut cluster = Cluster::led_by_0(3, &retaining(2));
        cluster.isolate(1);
        (0..9).for_each(|_| cluster.propose(0, "x"));
        cluster.node(0).take_snapshot();
        cluster.heal();
        cluster.beat(0);
        cluster.beat(0);
        match gone {
            true => cluster.isolate(1),
            false => cluster.transfer(0, 1),
        }
        cluster.deliver();
        cluster.beat(0);
        cluster.beat(0);
        (0..9).for_each(|_| cluster.propose(0, "y"));
        cluster.node(0).take_snapshot();
        assert_eq!(cluster.node(0).log().0, at(17, 1), "gone: {gone}");
    }
}

/// "If instead the follower receives a snapshot that describes a prefix of its log, then log
/// entries covered by the snapshot are deleted but entries following the snapshot are still valid
/// and must be retained." [§7]
#[test]
fn entries_after_an_installed_snapshot_are_kept_if_they_agree_with_it() {
    // A follower's log, where the snapshot ends, and what is left.
    let table: [(&[u64], _, &[u64]); 5] = [
        (&[1, 1, 2, 2], at(3, 2), &[2]),
        (&[1, 1, 2, 2], at(4, 2), &[]),
        (&[1, 1, 2, 2], at(2, 2), &[]),
        (&[1, 1, 2, 2], at(3, 1), &[]),
        (&[1], at(3, 2), &[]),
    ];
    for (log, end, left) in table {
        let mut node = Node::follower(0, 3, 3, log);
        node.turn(Input::Installed(snapshot(
            end.slot.0,
            anchor(end.term.0, 3),
        )));
        assert_eq!((node.log().0, node.log_terms()), (end, left.to_vec()));
        assert_eq!((node.committed(), node.commits.len()), (end.slot.0, 0));
        node.receive(r(1), append(3, end, &[3], end.slot.0 + 1));
        assert_eq!(node.executed(), ["of term 3"]);
    }
}

/// A snapshot may hold what was committed in a term that this replica has not yet heard of. Were
/// it to stay behind, it would tell the old leader that their logs agree where they do not.
#[test]
fn who_installs_a_snapshot_enters_the_term_in_which_it_was_vouched_for() {
    // Replica 1 leads term 2 with an entry in slot 2; term 5 has committed another there.
    let mut node = Node::follower(0, 3, 2, &[1]);
    node.turn(Input::Installed(snapshot(2, anchor(5, 5))));
    assert_eq!((node.term(), node.durable_vote()), (5, (5, None)));
    let answers = node.answer(r(1), append(2, at(1, 1), &[2], 0));
    assert!(matches!(
        answers[..],
        [Message::Rejected { term: Term(5), .. }]
    ));
    // An entry of an old term may have been committed in a later one.
    let mut node = Node::follower(0, 3, 2, &[1]);
    node.turn(Input::Installed(snapshot(2, anchor(1, 5))));
    assert_eq!(node.term(), 5);
}

#[test]
fn a_snapshot_of_what_is_executed_changes_nothing() {
    let mut node = Node::follower(0, 3, 1, &[1, 1, 1]);
    node.receive(r(1), heartbeat(1, at(3, 1), 3));
    node.turn(Input::Installed(snapshot(2, anchor(1, 9))));
    assert_eq!((node.term(), node.committed()), (1, 3));
    assert_eq!(node.log_terms(), [1, 1, 1]);
}

#[test]
fn a_candidate_that_installs_a_snapshot_follows() {
    let mut node = Node::candidate(3, 3, &[1]);
    node.turn(Input::Installed(snapshot(4, anchor(2, 3))));
    assert_eq!((node.role(), node.term()), (Role::Follower, 3));
    node.receive(r(1), vote(3, at(1, 1), true));
    assert_eq!(node.role(), Role::Follower);
    assert_eq!(node.durable_vote(), (3, Some(r(0))), "its vote is given");
}

#[test]
fn a_leader_that_installs_a_snapshot_of_its_own_log_leads_on() {
    let mut leader = Node::leader(3, 3, &[1, 2]);
    leader.turn(Input::Installed(snapshot(2, anchor(2, 2))));
    assert_eq!((leader.role(), leader.committed()), (Role::Leader, 2));
    leader.receive(r(1), accepted(3, 3));
    assert_eq!(leader.commits.len(), 1);
}

#[test]
fn only_snapshots_of_one_log_with_an_anchor_are_accepted() {
    let node = Node::follower(0, 3, 1, &[]);
    let accepts = |snapshot: &SnapshotRef| node.protocol.accepts(snapshot);
    assert!(accepts(&snapshot(4, anchor(2, 3))));
    assert!(
        !accepts(&snapshot(4, anchor(3, 2))),
        "an entry of a later term"
    );
    assert!(!accepts(&snapshot(4, Bytes::new())));
    assert!(!accepts(&snapshot(4, Bytes::from_static(b"garbage"))));
    let mut lanes = snapshot(4, anchor(2, 3));
    lanes.at.insert(EntryId {
        lane: Lane(1),
        slot: Slot(1),
    });
    assert!(!accepts(&lanes));
}

#[test]
fn after_a_restart_entries_after_the_snapshot_are_executed_again_and_none_before() {
    let mut cluster = Cluster::led_by_0(3, &retaining(2));
    for text in ["a", "b", "c"] {
        cluster.propose(0, text);
    }
    cluster.beat(0);
    cluster.node(1).take_snapshot();
    cluster.propose(0, "d");
    cluster.beat(0);
    let node = cluster.nodes.remove(1).crash(&retaining(2));
    assert_eq!((node.committed(), node.commits.len()), (4, 0));
    assert_eq!(node.offer, Some((Frontier::single(Slot(4)), anchor(1, 1))));
    cluster.nodes.insert(1, node);
    cluster.beat(0);
    assert_eq!(cluster.node(1).executed(), ["d"]);
}

#[test]
fn a_restart_keeps_term_vote_and_log() {
    let mut node = Node::follower(0, 3, 2, &[1, 2]);
    node.receive(r(1), request_vote(4, at(2, 2)));
    node.receive(r(1), append(4, at(2, 2), &[4, 4], 0));
    let mut node = node.crash(&Config::default());
    assert_eq!((node.term(), node.log_terms()), (4, vec![1, 2, 4, 4]));
    assert_eq!(
        node.answer(r(2), request_vote(4, at(9, 3))),
        [vote(4, at(9, 3), false)]
    );
}

#[test]
fn what_was_not_synced_was_not_promised() {
    let mut node = Node::follower(0, 3, 2, &[1, 2]);
    node.syncs = false;
    node.receive(r(1), append(4, at(2, 2), &[4, 4], 0));
    assert_eq!(node.take(), []);
    let node = node.crash(&Config::default());
    assert_eq!((node.term(), node.log_terms()), (2, vec![1, 2]));
}

/// The crash came after a fetched snapshot was saved, before the records said so.
#[test]
fn a_snapshot_ahead_of_the_records_replaces_the_log_that_does_not_agree() {
    let table: [(&[u64], _, &[u64]); 4] = [
        (&[1, 1, 2, 2], at(3, 2), &[1, 1, 2, 2]),
        (&[1, 1, 2, 2], at(4, 1), &[]),
        (&[1, 1], at(5, 2), &[]),
        (&[], at(5, 2), &[]),
    ];
    for (log, end, left) in table {
        let fetched = snapshot(end.slot.0, anchor(end.term.0, 3));
        let mut node = recover(records(3, log), Some(fetched));
        assert_eq!(node.log_terms(), left, "{log:?}, {end:?}");
        assert_eq!(node.committed(), end.slot.0);
        let term = 3 + u64::from(left.is_empty());
        node.receive(r(1), append(term, end, &[term], end.slot.0 + 1));
        assert_eq!(node.executed(), [format!("of term {term}")]);
        let again = node.crash(&Config::default());
        assert_eq!(again.term(), term, "the records fold again");
    }
}

/// The crash came after a snapshot of this replica's own was saved, before the log was written anew.
#[test]
fn a_snapshot_saved_before_the_log_was_compacted_leaves_the_whole_log() {
    let mut cluster = Cluster::led_by_0(3, &retaining(2));
    (0..9).for_each(|_| cluster.propose(0, "x"));
    cluster.node(0).syncs = false;
    cluster.node(0).take_snapshot();
    assert_eq!(cluster.node(0).log().0, at(8, 1));
    let node = cluster.nodes.remove(0).crash(&retaining(2));
    assert_eq!((node.log().0, node.log_terms().len()), (at(0, 0), 10));
    assert_eq!((node.committed(), node.commits.len()), (10, 0));
}

/// A term, a vote and entries that are written together: whatever a crash leaves of them, from the
/// first on, makes a replica that has promised nothing else.
#[test]
fn what_is_written_together_may_be_left_in_part() {
    let mut node = Node::follower(0, 3, 1, &[1, 1]);
    node.syncs = false;
    let vote_request = node.input(r(1), request_vote(3, at(2, 1)));
    node.step(vote_request);
    let entries = node.input(r(1), append(3, at(1, 1), &[3, 3], 0));
    node.step(entries);
    node.end_turn();
    let written: Vec<Record> = node.records().into_iter().cloned().collect();
    assert_eq!(node.take(), [], "nothing is promised");
    let logs: [&[u64]; 4] = [&[1, 1], &[1, 1], &[1, 1], &[1, 3, 3]];
    for (left, log) in logs.into_iter().enumerate() {
        let records = written[..2 + left].to_vec();
        let mut node = recover(records, None);
        assert_eq!(node.log_terms(), log, "{left} records");
        let voted = node.answer(r(2), request_vote(3, at(9, 1)));
        let free = left < 2;
        assert_eq!(voted, [vote(3, at(9, 1), free)], "{left} records");
    }
}

#[test]
fn a_snapshot_ahead_of_the_records_raises_the_term() {
    let mut records = records(3, &[1]);
    records.push(Record::Vote {
        term: Term(3),
        voted_for: Some(r(1)),
    });
    let mut node = recover(records.clone(), Some(snapshot(5, anchor(2, 6))));
    assert_eq!((node.term(), node.durable_vote()), (6, (6, None)));
    assert_eq!(
        node.answer(r(2), request_vote(6, at(5, 2))),
        [vote(6, at(5, 2), true)]
    );
    let mut node = recover(records, Some(snapshot(5, anchor(2, 3))));
    assert_eq!(
        node.answer(r(2), request_vote(3, at(5, 2))),
        [vote(3, at(5, 2), false)]
    );
}

#[test]
fn a_past_that_makes_no_replica_is_refused_with_the_reason() {
    let start = |slot, term| vec![Record::Start(at(slot, term))];
    refused(start(4, 1), None, "the log begins after slot 4");
    refused(
        start(4, 1),
        Some(snapshot(3, anchor(1, 1))),
        "the log begins after slot 4",
    );
    refused(
        records(1, &[1]),
        Some(snapshot(3, Bytes::new())),
        "no other replica vouched",
    );
    let garbage = snapshot(3, Bytes::from_static(b"garbage"));
    refused(records(1, &[1]), Some(garbage), "not one of a Raft log");
    let stranger = Record::Vote {
        term: Term(1),
        voted_for: Some(r(7)),
    };
    refused(vec![stranger], None, "a vote for r7");
    let gap = Record::Append {
        after: Slot(2),
        entries: entries(&[1]),
    };
    refused(vec![gap], None, "do not touch the log");
}

#[test]
fn a_configuration_that_cannot_work_is_refused_with_the_reason() {
    let refused = |config: Config, reason: &str| {
        let past = Recovered::nothing();
        let error = Raft::recover(context(r(0), 3, 0), config, past).unwrap_err();
        assert!(error.to_string().contains(reason), "{error}");
    };
    let good = Config::default;
    let heartbeat = good().election_timeout;
    refused(
        Config {
            heartbeat,
            ..good()
        },
        "below election_timeout",
    );
    let max_append_bytes = codec::MESSAGE_LIMIT;
    refused(
        Config {
            max_append_bytes,
            ..good()
        },
        "max_append_bytes",
    );
    let max_pending_reads = 0;
    refused(
        Config {
            max_pending_reads,
            ..good()
        },
        "max_pending_reads must be above zero",
    );
    let nobody = Raft::recover(context(r(3), 3, 0), good(), Recovered::nothing());
    assert!(nobody.unwrap_err().to_string().contains("r3 is not one of"));
}

#[test]
fn messages_that_no_replica_sends_are_invalid() {
    let verifier: Verifier = context(r(0), 3, 0).verifier;
    let valid = |message: Message| Verified::new(r(1), message, &verifier).is_ok();
    assert!(valid(append(3, at(1, 1), &[1, 2, 3], 0)));
    assert!(!valid(append(3, at(1, 1), &[2, 1], 0)), "terms decrease");
    assert!(!valid(append(3, at(1, 2), &[1], 0)), "terms decrease");
    assert!(
        !valid(append(3, at(1, 1), &[4], 0)),
        "a later term than the leader's"
    );
    assert!(!valid(heartbeat(u64::MAX, at(0, 0), 0)));
    assert!(!valid(heartbeat(1, at(u64::MAX, 1), 0)));
    assert!(!valid(accepted(1, u64::MAX)));
    assert!(
        !valid(request_vote(1, at(4, 1))),
        "a log of the term it asks for"
    );
}
