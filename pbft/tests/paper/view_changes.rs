//! View changes. [Castro99 §4.4, §4.5.1]

use quorate_core::protocol::Role;
use quorate_pbft::{Entry, Message, NewView, Record, View, ViewChange};

use crate::common::{
    Cluster, Node, PbftCluster, PbftNode, checkpoint_certificate, commit, config, digest_of,
    digest_voted, entry, kinds, new_view, pre_prepare, prepare, prepared, proposal, r, signer,
    state_of, view_change,
};

fn begin(new_view: NewView) -> Message {
    Message::NewView(Box::new(new_view))
}

/// "A replica never sends two prepares for different digests", so no two can prepare in a view: an
/// equivocating primary is stuck, and replaced. [§4.5.1]
#[test]
fn two_batches_for_one_slot_do_not_both_prepare() {
    let mut cluster = Cluster::new(4, &config());
    for (to, text) in [(1, "x"), (2, "y"), (3, "y")] {
        cluster.node(to).receive(r(0), pre_prepare(0, 1, text));
    }
    cluster.isolate(0);
    cluster.deliver();
    assert!(cluster.nodes.iter().all(|node| node.executed().is_empty()));
    let with_commit = cluster.count("commit");
    assert_eq!(
        with_commit, 4,
        "2 and 3 prepare y with the primary's help, to whom they do not talk"
    );
    cluster.change_view(&[1, 2, 3], "z");
    // The new primary has another batch, and must ask for this one.
    cluster.tick(3);
    for id in [1, 2, 3] {
        assert_eq!(cluster.node(id).executed(), ["y", "z"]);
    }
}

/// "The view-change protocol ensures that non-faulty replicas also agree on the sequence number of
/// requests that commit locally in different views at different replicas." [§4.5.1]
#[test]
fn what_was_executed_by_one_keeps_its_slot_in_the_next_view() {
    let mut cluster = Cluster::new(4, &config());
    // All backups prepare; only replica 3 hears the commits of the others.
    for id in [1, 2, 3] {
        cluster.node(id).receive(r(0), pre_prepare(0, 1, "x"));
    }
    for id in [1, 2] {
        let other = 3 - id;
        cluster
            .node(id)
            .receive(r(other), prepare(other, 0, 1, "x"));
    }
    for from in [0, 1, 2] {
        cluster.node(3).receive(r(from), commit(0, 1, "x"));
    }
    assert_eq!(cluster.node(3).executed(), ["x"]);
    for node in &mut cluster.nodes {
        node.take();
    }
    cluster.isolate(0);
    cluster.change_view(&[1, 2, 3], "y");
    for id in [1, 2, 3] {
        assert_eq!(cluster.node(id).executed(), ["x", "y"], "replica {id}");
        assert_eq!(cluster.node(id).view(), 1);
    }
}

/// P: "a set of prepared certificates, one for each request that prepared at i with a sequence
/// number higher than n." [§4.4]
#[test]
fn a_view_change_shows_what_has_prepared() {
    let mut node = Node::of_four(2, &config());
    node.receive(r(0), pre_prepare(0, 1, "x"));
    node.receive(r(1), prepare(1, 0, 1, "x"));
    node.receive(r(0), pre_prepare(0, 2, "y"));
    node.propose("z");
    node.take();
    node.wait_for_view_change();
    let change = node
        .sent_to(r(1))
        .into_iter()
        .find_map(|message| match message {
            Message::ViewChange(change) => Some(change),
            _ => None,
        });
    let change = change.expect("it sends its view change");
    assert_eq!(change.prepared, [prepared(0, 1, "x", &[1, 2])]);
    assert!(change.stable.is_none());
}

/// "It stops accepting messages (other than checkpoint, view-change, and new-view messages)."
/// [§4.4]
#[test]
fn a_replica_that_has_left_a_view_prepares_nothing_in_it() {
    let mut node = Node::of_four(2, &config());
    node.propose("z");
    node.wait_for_view_change();
    node.take();
    node.receive(r(0), pre_prepare(0, 1, "x"));
    node.receive(r(1), prepare(1, 0, 1, "x"));
    assert!(node.take().is_empty());
    for from in [0, 1, 3] {
        node.receive(r(from), commit(0, 1, "x"));
    }
    let slot = quorate_core::id::Slot(1);
    let entry = entry(1, "x");
    node.receive(r(0), Message::Body { slot, entry });
    assert_eq!(
        node.executed(),
        ["x"],
        "what is decided it learns all the same"
    );
}

/// O: the digest that prepared in the latest view shown, and the null request for a slot in which
/// nothing did. [§4.4]
#[test]
fn a_new_view_takes_the_latest_certificate_and_fills_gaps_with_null_requests() {
    let mut primary = Node::of_four(3, &config());
    let shows = [
        (
            0,
            vec![prepared(0, 1, "old", &[1, 2]), prepared(0, 3, "c", &[1, 2])],
        ),
        (1, vec![prepared(1, 1, "new", &[0, 2])]),
        (2, vec![]),
    ];
    for (from, certificates) in shows {
        primary.receive(
            r(from),
            Message::ViewChange(view_change(from, 3, certificates)),
        );
    }
    let made = primary
        .sent_to(r(0))
        .into_iter()
        .find_map(|message| match message {
            Message::NewView(new_view) => Some(new_view),
            _ => None,
        });
    let made = made.expect("it has the view changes of a quorum");
    let digests: Vec<_> = made
        .proposals
        .iter()
        .map(|p| (p.slot.0, p.digest))
        .collect();
    let null = Entry::default().digest();
    let expected = [digest_of(1, "new"), null, digest_of(3, "c")];
    assert_eq!(digests, (1..).zip(expected).collect::<Vec<_>>());
    assert_eq!(primary.role(), Role::Leader);
}

/// "Verifies the correctness of O by performing a computation similar to the one used by the
/// primary." [§4.4]
#[test]
fn a_new_view_that_does_not_follow_from_its_view_changes_is_refused() {
    let x = digest_of(1, "x");
    let changes = || {
        let shows = view_change(0, 1, vec![prepared(0, 1, "x", &[1, 2])]);
        vec![shows, view_change(1, 1, vec![]), view_change(3, 1, vec![])]
    };
    let takes = |digests: &[_]| {
        let mut node = Node::of_four(2, &config());
        let sent = node.answer_to(r(1), begin(new_view(1, changes(), digests)), r(0));
        (node.view() == 1, digest_voted(&sent, 1).is_some())
    };
    let (y, null) = (digest_of(1, "y"), Entry::default().digest());
    assert_eq!(takes(&[x]), (true, false), "it has not the batch yet");
    assert!(!takes(&[]).0, "it leaves out what prepared");
    assert!(!takes(&[y]).0, "it changes it");
    assert!(!takes(&[null]).0, "it passes over it");
    assert!(!takes(&[x, y]).0, "it invents one");
    let mut node = Node::of_four(2, &config());
    node.receive(r(0), pre_prepare(0, 1, "x"));
    let sent = node.answer_to(r(1), begin(new_view(1, changes(), &[x])), r(0));
    assert_eq!(
        digest_voted(&sent, 1),
        Some(x),
        "with the batch, it prepares"
    );
}

/// What the new view has said of a slot, its primary cannot say differently.
#[test]
fn slots_before_those_of_a_new_view_are_not_given_out_again() {
    let mut node = Node::of_four(2, &config());
    let shows = |from| view_change(from, 1, vec![prepared(0, 1, "x", &[1, 2])]);
    let changes = vec![shows(0), shows(1), shows(3)];
    node.receive(r(1), begin(new_view(1, changes, &[digest_of(1, "x")])));
    node.take();
    node.receive(r(1), pre_prepare(1, 1, "y"));
    assert!(node.take().is_empty());
    let sent = node.answer_to(r(1), pre_prepare(1, 2, "y"), r(0));
    assert_eq!(digest_voted(&sent, 2), Some(digest_of(2, "y")));
}

/// Nor what lies before the checkpoint that it begins after, where this replica has nothing yet:
/// others have executed something there. [§4.4]
#[test]
fn slots_before_the_checkpoint_of_a_new_view_are_not_given_out_again() {
    let state = state_of(&["1", "2", "3", "4"]);
    let stable = checkpoint_certificate(4, state, &[0, 1, 3]);
    let changes = [0, 1, 3].map(|from| {
        let stable = Some(stable.clone());
        ViewChange::signed(&signer(from), (View(1), r(from)), stable, vec![])
    });
    let mut node = Node::of_four(2, &config());
    node.receive(r(1), begin(new_view(1, changes.to_vec(), &[])));
    assert_eq!(node.view(), 1);
    node.take();
    let sent = node.answer_to(r(1), pre_prepare(1, 2, "y"), r(0));
    assert_eq!(digest_voted(&sent, 2), None);
    let sent = node.answer_to(r(1), pre_prepare(1, 5, "y"), r(0));
    assert_eq!(digest_voted(&sent, 5), Some(digest_of(5, "y")));
}

/// Missing batches are asked for by digest, and nothing prepares without. [§4.4]
#[test]
fn a_batch_known_by_its_digest_is_fetched() {
    let mut node = Node::of_four(2, &config());
    let x = digest_of(1, "x");
    let shows = |from| view_change(from, 1, vec![prepared(0, 1, "x", &[1, 3])]);
    let changes = vec![shows(0), shows(1), shows(3)];
    let sent = node.answer_to(r(1), begin(new_view(1, changes, &[x])), r(0));
    assert_eq!(kinds(&sent), ["fetch_bodies"]);
    let slot = quorate_core::id::Slot(1);
    let entry = entry(1, "x");
    let sent = node.answer(r(0), Message::Body { slot, entry });
    assert_eq!(digest_voted(&sent, 1), Some(x));
}

/// "Replicas redo the protocol for messages between min-s and max-s but avoid re-executing client
/// requests." [§4.4]
#[test]
fn what_was_executed_is_agreed_on_again_but_not_executed_again() {
    let mut cluster = Cluster::new(4, &config());
    cluster.propose(0, "a");
    cluster.propose(0, "b");
    cluster.isolate(0);
    cluster.change_view(&[1, 2, 3], "c");
    cluster.heal();
    cluster.tick(4);
    for node in &cluster.nodes {
        assert_eq!(node.executed(), ["a", "b", "c"]);
        assert_eq!(node.view(), 1);
        let slots: Vec<u64> = node.slots();
        assert_eq!(slots, [1, 2, 3]);
    }
    cluster.propose(2, "d");
    assert!(cluster.nodes.iter().all(|node| node.committed() == 4));
}

/// What prepared in a view survives any number of view changes that follow. [§4.5.1]
#[test]
fn what_prepared_survives_several_view_changes() {
    let mut cluster = Cluster::new(7, &config());
    cluster.lost.insert("commit");
    cluster.propose(0, "x");
    assert!(cluster.nodes.iter().all(|node| node.executed().is_empty()));
    for view in 1..=3 {
        cluster.change_view(&[4, 5, 6], "y");
        assert!(cluster.nodes.iter().all(|node| node.view() == view));
    }
    cluster.heal();
    cluster.tick(6);
    for node in &cluster.nodes {
        assert_eq!(node.executed().first().map(String::as_str), Some("x"));
    }
}

/// A restart neither votes twice nor forgets. [Castro02 §4]
#[test]
fn a_restart_neither_votes_twice_nor_forgets() {
    let mut node = Node::of_four(2, &config());
    node.receive(r(0), pre_prepare(0, 1, "x"));
    node.receive(r(1), prepare(1, 0, 1, "x"));
    let mut node = node.crash(&config());
    let again = node.sent_to(r(3));
    assert_eq!(
        kinds(&again),
        ["prepare", "commit"],
        "it says what it has said"
    );
    let sent = node.answer_to(r(0), pre_prepare(0, 1, "y"), r(3));
    assert_eq!(digest_voted(&sent, 1), None);
    node.propose("z");
    node.wait_for_view_change();
    let mut node = node.crash(&config());
    assert_eq!((node.view(), node.role()), (1, Role::Candidate));
    let change = node
        .sent_to(r(3))
        .into_iter()
        .find_map(|message| match message {
            Message::ViewChange(change) => Some(change),
            _ => None,
        });
    assert_eq!(change.expect("it says so again").prepared.len(), 1);
}

/// A primary that restarts goes on after the slots that it has given out.
#[test]
fn a_primary_gives_no_slot_out_twice_after_a_restart() {
    let mut primary = Node::of_four(0, &config());
    primary.propose("x");
    let mut primary = primary.crash(&config());
    primary.take();
    primary.propose("y");
    let slots = primary
        .sent_to(r(1))
        .into_iter()
        .filter_map(|message| match message {
            Message::PrePrepare { proposal, .. } => Some(proposal.slot.0),
            _ => None,
        });
    assert_eq!(slots.collect::<Vec<_>>(), [2]);
}

/// A view that had begun has begun after a restart too, and others learn of it.
#[test]
fn a_new_view_is_durable() {
    let mut cluster = Cluster::new(4, &config());
    cluster.propose(0, "a");
    cluster.isolate(0);
    cluster.change_view(&[1, 2, 3], "b");
    let primary = cluster.nodes.remove(1).crash(&config());
    assert_eq!((primary.view(), primary.role()), (1, Role::Leader));
    assert!(
        primary
            .durable
            .iter()
            .any(|record| matches!(record, Record::NewView(_)))
    );
    cluster.nodes.insert(1, primary);
    cluster.heal();
    cluster.tick(4);
    assert_eq!(cluster.node(0).view(), 1);
    cluster.propose(0, "c");
    for node in &cluster.nodes {
        assert_eq!(node.executed(), ["a", "b", "c"]);
    }
}

/// A batch for which a certificate may yet be shown is kept, whatever the primaries of later views
/// say of its slot: a faulty replica that alone has the certificate could keep the batch to itself,
/// and the slot would stay empty for ever. [§4.4]
#[test]
fn a_batch_voted_for_is_there_when_a_certificate_of_its_view_is_shown_two_views_later() {
    for restarts in [false, true] {
        let mut node = Node::of_four(2, &config());
        node.receive(r(0), pre_prepare(0, 1, "x"));
        // Nothing is shown of the slot, and the next primary has another batch for it.
        let changes = [0, 1, 3].map(|from| view_change(from, 1, vec![]));
        node.receive(r(1), begin(new_view(1, changes.to_vec(), &[])));
        node.receive(r(1), pre_prepare(1, 1, "y"));
        if restarts {
            node = node.crash(&config());
        }
        node.take();
        // Now replica 0 shows what prepared there, with the votes of 1 and 2.
        let shown = vec![prepared(0, 1, "x", &[1, 2])];
        let changes = vec![
            view_change(0, 3, shown),
            view_change(1, 3, vec![]),
            view_change(3, 3, vec![]),
        ];
        let digest = digest_of(1, "x");
        node.receive(r(3), begin(new_view(3, changes, &[digest])));
        assert_eq!(node.view(), 3);
        let sent = node.sent_to(r(1));
        assert_eq!(digest_voted(&sent, 1), Some(digest), "restarts: {restarts}");
    }
}

/// Nor is it lost when the log before it goes, and the records are written anew.
#[test]
fn a_batch_voted_for_outlives_a_checkpoint_before_it() {
    let mut node = Node::of_four(2, &config());
    for slot in 1..=4 {
        let text = slot.to_string();
        node.receive(r(0), pre_prepare(0, slot, &text));
        for from in [0, 1, 3] {
            node.receive(r(from), commit(0, slot, &text));
        }
    }
    let state = state_of(&["1", "2", "3", "4"]);
    let stable = checkpoint_certificate(4, state, &[0, 1, 3]);
    let change = |from: u8, view, shown| {
        let stable = Some(stable.clone());
        ViewChange::signed(&signer(from), (View(view), r(from)), stable, shown)
    };
    node.receive(r(0), pre_prepare(0, 5, "x"));
    let changes = [0, 1, 3].map(|from| view_change(from, 1, vec![]));
    node.receive(r(1), begin(new_view(1, changes.to_vec(), &[])));
    node.receive(r(1), pre_prepare(1, 5, "y"));
    node.receive(r(1), Message::Stable(stable.clone()));
    let mut node = node.crash(&config());
    node.take();
    let shown = vec![prepared(0, 5, "x", &[1, 2])];
    let changes = vec![
        change(0, 3, shown),
        change(1, 3, vec![]),
        change(3, 3, vec![]),
    ];
    let digest = digest_of(5, "x");
    let proposals = vec![proposal(3, 5, digest)];
    let new_view = NewView::signed(&signer(3), View(3), changes, proposals);
    node.receive(r(3), begin(new_view));
    assert_eq!(digest_voted(&node.sent_to(r(1)), 5), Some(digest));
}
