//! Normal-case operation. [Castro99 §4.2]

use std::collections::BTreeSet;

use quorate_core::id::ReplicaId;
use quorate_core::protocol::Input;
use quorate_core::quorum::Byzantine;
use quorate_pbft::{Config, Message, Record, View};

use crate::common::{
    Cluster, Node, PbftNode, command, commit, config, digest_of, digest_voted, entry, kinds,
    pre_prepare, prepare, prepare_for, proposal_by, r, verify,
};

/// "They intersect in at least one correct replica": any two quorums of 2f + 1, with f liars
/// anywhere. [§4.2, §4.5.1]
#[test]
fn any_two_quorums_have_a_correct_replica_in_common() {
    let n = 7;
    let quorum = Byzantine::of(n).strong().size();
    let sets = |size: usize| (0u32..1 << n).filter(move |set| set.count_ones() as usize == size);
    for (one, other) in sets(quorum).flat_map(|one| sets(quorum).map(move |other| (one, other))) {
        let common = one & other;
        assert!(sets(Byzantine::of(n).faulty()).all(|liars| common & !liars != 0));
    }
}

/// "The primary of a view is replica p such that p = v mod |R|." [§4]
#[test]
fn views_have_primaries_in_turn() {
    let primaries = (0..6).map(|view| View(view).primary(4).0);
    assert_eq!(primaries.collect::<Vec<_>>(), [0, 1, 2, 3, 0, 1]);
}

/// "If backup i accepts the pre-prepare message, it enters the prepare phase by multicasting a
/// prepare message to all other replicas." [§4.2]
#[test]
fn a_backup_prepares_what_it_accepts() {
    let mut backup = Node::of_four(1, &config());
    for to in [0, 2, 3] {
        let mut backup = Node::of_four(1, &config());
        let answers = backup.answer_to(r(0), pre_prepare(0, 1, "x"), r(to));
        assert_eq!(kinds(&answers), ["prepare"]);
        assert_eq!(digest_voted(&answers, 1), Some(digest_of(1, "x")));
    }
    backup.receive(r(0), pre_prepare(0, 1, "x"));
    backup.take();
    backup.receive(r(0), pre_prepare(0, 1, "x"));
    assert!(backup.take().is_empty(), "it says so once");
}

/// "The signatures in the request and the pre-prepare message are correct and d is the digest for
/// m." [§4.2]
#[test]
fn a_pre_prepare_counts_only_with_the_signature_of_the_views_primary() {
    let by = |author, view| Message::PrePrepare {
        proposal: proposal_by(author, view, 1, digest_of(1, "x")),
        entry: entry(1, "x"),
    };
    assert!(verify(0, &by(0, 0)).is_ok());
    assert!(verify(2, &by(0, 0)).is_ok(), "anyone may show it");
    for (author, view) in [(1, 0), (2, 0), (0, 1), (0, 3)] {
        let error = verify(author, &by(author, view)).unwrap_err();
        assert!(error.reason.contains("signed by the primary"), "{error}");
    }
    let other_body = Message::PrePrepare {
        proposal: proposal_by(0, 0, 1, digest_of(1, "x")),
        entry: entry(1, "y"),
    };
    assert!(verify(0, &other_body).is_err());
}

/// "It has not accepted a pre-prepare message for view v and sequence number n containing a
/// different digest." [§4.2]
#[test]
fn a_backup_accepts_one_digest_for_a_view_and_slot() {
    let mut backup = Node::of_four(1, &config());
    backup.receive(r(0), pre_prepare(0, 1, "x"));
    let answers = backup.answer_to(r(0), pre_prepare(0, 1, "y"), r(2));
    assert!(answers.is_empty());
    // Nor does it help others to prepare the second.
    backup.receive(r(2), prepare(2, 0, 1, "y"));
    backup.receive(r(3), prepare(3, 0, 1, "y"));
    assert!(backup.take().is_empty());
}

/// "2f prepares from different backups that match the pre-prepare." [§4.2]
#[test]
fn a_batch_prepares_with_2f_matching_prepares_of_different_backups() {
    // Who prepares what besides this backup, and whether that is enough.
    let table: [(&[(u8, &str)], bool); 6] = [
        (&[], false),
        (&[(2, "y")], false),
        (&[(2, "x")], true),
        (&[(3, "x")], true),
        (&[(2, "y"), (2, "x")], false),
        (&[(2, "y"), (3, "x")], true),
    ];
    for (prepares, enough) in table {
        let mut backup = Node::of_four(1, &config());
        backup.receive(r(0), pre_prepare(0, 1, "x"));
        for (from, text) in prepares {
            backup.receive(r(*from), prepare(*from, 0, 1, text));
        }
        let commits = kinds(&backup.sent_to(r(2))).contains(&"commit");
        assert_eq!(commits, enough, "{prepares:?}");
    }
}

/// The pre-prepare is the primary's vote: a prepare of it is not another one. [§4.2]
#[test]
fn a_prepare_of_the_primary_does_not_count() {
    let mut backup = Node::of_four(1, &config());
    backup.receive(r(0), pre_prepare(0, 1, "x"));
    backup.receive(r(0), prepare(0, 0, 1, "x"));
    assert!(!kinds(&backup.sent_to(r(2))).contains(&"commit"));
}

/// "committed-local(m, v, n, i) is true if and only if prepared(m, v, n, i) is true and i has
/// accepted 2f + 1 commits (possibly including its own) from different replicas that match."
/// [§4.2]
#[test]
fn a_batch_commits_with_2f_plus_1_matching_commits() {
    let table: [(&[(u8, &str)], bool); 5] = [
        (&[(0, "x")], false),
        (&[(0, "x"), (0, "x")], false),
        (&[(0, "x"), (2, "y")], false),
        (&[(0, "x"), (2, "x")], true),
        (&[(2, "x"), (3, "x")], true),
    ];
    for (commits, enough) in table {
        let mut backup = Node::of_four(1, &config());
        backup.receive(r(0), pre_prepare(0, 1, "x"));
        backup.receive(r(2), prepare(2, 0, 1, "x"));
        for (from, text) in commits {
            backup.receive(r(*from), commit(0, 1, text));
        }
        let executed: &[&str] = if enough { &["x"] } else { &[] };
        assert_eq!(backup.executed(), executed, "{commits:?}");
    }
}

/// Commits match if they are of one view: those of two views need not be a quorum's in either.
/// [§4.2]
#[test]
fn commits_of_different_views_do_not_add_up() {
    let mut backup = Node::of_four(1, &config());
    backup.receive(r(0), pre_prepare(0, 1, "x"));
    backup.receive(r(0), commit(0, 1, "x"));
    backup.receive(r(2), commit(1, 1, "x"));
    backup.receive(r(3), commit(1, 1, "x"));
    assert!(backup.executed().is_empty());
    backup.receive(r(0), commit(1, 1, "x"));
    assert_eq!(backup.executed(), ["x"]);
}

/// What a quorum has committed is decided, also for a replica that was told another digest.
#[test]
fn a_replica_that_was_told_another_digest_learns_what_was_decided() {
    let mut backup = Node::of_four(1, &config());
    backup.receive(r(0), pre_prepare(0, 1, "y"));
    for from in [0, 2, 3] {
        backup.receive(r(from), commit(0, 1, "x"));
    }
    assert!(backup.executed().is_empty());
    let asked = kinds(&backup.sent_to(r(0)));
    assert!(asked.contains(&"fetch_bodies"), "{asked:?}");
    let slot = quorate_core::id::Slot(1);
    let forged = entry(1, "z");
    let forged = Message::Body {
        slot,
        entry: forged,
    };
    backup.receive(r(3), forged);
    assert!(backup.executed().is_empty());
    let entry = entry(1, "x");
    backup.receive(r(3), Message::Body { slot, entry });
    assert_eq!(backup.executed(), ["x"]);
}

/// "Message delays do not matter: [...] replicas execute in the order of the sequence numbers."
/// [§4.2]
#[test]
fn what_is_decided_out_of_order_is_executed_in_order() {
    let mut backup = Node::of_four(1, &config());
    for (slot, text) in [(3, "c"), (2, "b")] {
        backup.receive(r(0), pre_prepare(0, slot, text));
        for from in [0, 2, 3] {
            backup.receive(r(from), commit(0, slot, text));
        }
    }
    assert!(backup.executed().is_empty());
    backup.receive(r(0), pre_prepare(0, 1, "a"));
    for from in [0, 2, 3] {
        backup.receive(r(from), commit(0, 1, "a"));
    }
    assert_eq!(backup.executed(), ["a", "b", "c"]);
}

/// (n - 1) pre-prepares, (n - 1)² prepares, n(n - 1) commits, in three message delays. [§4.2]
#[test]
fn a_batch_costs_what_the_closed_form_says() {
    for n in [4, 7, 10] {
        let mut cluster = Cluster::new(n, &Config::default());
        cluster.propose(0, "x");
        let rounds = [
            vec!["pre_prepare"; n - 1],
            vec!["prepare"; (n - 1) * (n - 1)],
            vec!["commit"; n * (n - 1)],
        ];
        assert_eq!(cluster.rounds, rounds);
        assert!(cluster.nodes.iter().all(|node| node.executed() == ["x"]));
    }
}

/// One signature by each replica, and each prepare checked by all others: n made, and
/// n(n - 1) checked a batch; the rest of the path is authenticated by its connection. Each backup
/// checks each client's signature besides.
#[test]
fn a_batch_costs_one_signature_a_replica() {
    let n = 4;
    let mut cluster = Cluster::new(n, &Config::default());
    let checked = |cluster: &Cluster| -> u64 {
        cluster
            .nodes
            .iter()
            .map(|node| node.context.verifier.checked())
            .sum()
    };
    let before = checked(&cluster);
    cluster.propose(0, "x");
    // The bench verifies a replica's messages to itself too, which the driver does not: the client's
    // request in the primary's pre-prepare. What a replica signs itself it need not check.
    let (own, clients) = (1, n as u64 - 1);
    let votes = (n * (n - 1)) as u64;
    assert_eq!(checked(&cluster) - before - own, votes + clients);
}

/// Several sequence numbers are under way at once, and the votes of a turn share a message.
#[test]
fn the_votes_of_a_turn_share_a_message() {
    let mut backup = Node::of_four(1, &config());
    for (slot, text) in [(1, "a"), (2, "b"), (3, "c")] {
        let input = backup.input(ReplicaId(0), pre_prepare(0, slot, text));
        backup.step(input);
    }
    backup.turn(Input::EndOfTurn);
    let sent = backup.sent_to(r(2));
    assert_eq!(kinds(&sent), ["prepare"]);
    let slots: BTreeSet<u64> = (1..=3)
        .filter(|s| digest_voted(&sent, *s).is_some())
        .collect();
    assert_eq!(slots.len(), 3);
}

/// Nothing that binds a replica leaves before it is durable, nor counts here before.
#[test]
fn no_vote_leaves_or_counts_before_it_is_durable() {
    let mut backup = Node::of_four(1, &config());
    backup.syncs = false;
    backup.receive(r(0), pre_prepare(0, 1, "x"));
    backup.receive(r(2), prepare(2, 0, 1, "x"));
    assert!(backup.take().is_empty());
    backup.sync();
    backup.end_turn();
    assert_eq!(
        kinds(&backup.sent_to(r(0))),
        ["prepare"],
        "and its own now counts"
    );
    backup.sync();
    backup.end_turn();
    assert_eq!(kinds(&backup.sent_to(r(0))), ["commit"]);

    let mut primary = Node::of_four(0, &config());
    primary.syncs = false;
    primary.propose("x");
    assert!(primary.take().is_empty(), "a claim on a slot is a promise");
    let given = primary
        .records()
        .into_iter()
        .find_map(|record| match record {
            Record::PrePrepared { proposal, .. } => Some(proposal.clone()),
            _ => None,
        });
    let given = given.expect("a slot is given");
    primary.receive(r(1), prepare_for(1, &given));
    primary.receive(r(2), prepare_for(2, &given));
    assert!(primary.take().is_empty());
    primary.sync();
    primary.end_turn();
    assert_eq!(kinds(&primary.sent_to(r(1))), ["pre_prepare"]);
    primary.sync();
    primary.end_turn();
    assert_eq!(kinds(&primary.sent_to(r(1))), ["commit"]);
}

/// Requests that come in at a backup are ordered by the primary, once.
#[test]
fn backups_forward_to_the_primary_and_all_execute_the_same() {
    let mut cluster = Cluster::new(4, &config());
    for (id, text) in [(1, "a"), (3, "b"), (0, "c"), (2, "d")] {
        cluster.propose(id, text);
    }
    for node in &cluster.nodes {
        assert_eq!(node.executed(), ["a", "b", "c", "d"]);
    }
    assert_eq!(cluster.count("forward"), 3);
}

/// A batch that is under way is not given a second slot.
#[test]
fn a_batch_under_way_is_ordered_once() {
    let mut primary = Node::of_four(0, &config());
    primary.propose("x");
    primary.propose("x");
    let batch = command("x");
    let relayed = true;
    primary.receive(r(2), Message::Forward { batch, relayed });
    assert_eq!(kinds(&primary.sent_to(r(1))), ["pre_prepare"]);
}
