//! Records that do not fit are refused, with the reason; configurations that cannot work too.

mod common;

use std::time::Duration;

use common::{
    Cluster, Node, PbftCluster, PbftNode, checkpoint_certificate, config, context, digest_of,
    entry, new_view, prepared, proposal, r, view_change,
};
use quorate_core::crypto::Digest;
use quorate_core::id::Slot;
use quorate_core::protocol::{Input, Recovered};
use quorate_pbft::{Config, Record, View};

fn refused(records: Vec<Record>, reason: &str) {
    let past = Recovered {
        records,
        snapshot: None,
    };
    let error = Node::recover(context(r(1), 4, 1), config(), past).unwrap_err();
    assert!(error.reason.contains(reason), "{error}");
}

fn pre_prepared(view: u64, slot: u64, text: &str) -> Record {
    Record::PrePrepared {
        proposal: proposal(view, slot, digest_of(slot, text)),
        entry: entry(slot, text),
    }
}

#[test]
fn records_that_do_not_fit_are_refused_with_the_reason() {
    let stable = || Record::Stable(checkpoint_certificate(4, Digest::of(b"s"), &[0, 1, 2]));
    let view = |view| Record::View(View(view));
    let began = |view| {
        let changes = (0..3).map(|from| view_change(from, view, vec![]));
        Record::NewView(Box::new(new_view(view, changes.collect(), &[])))
    };
    refused(vec![view(1), stable()], "record 1: the log starts anew");
    refused(vec![view(2), view(1)], "view 1 comes after view 2");
    refused(vec![view(2), began(1)], "view 1 comes after view 2");
    refused(
        vec![view(1), began(1), began(1)],
        "view 1 comes after view 1",
    );
    refused(
        vec![view(1), pre_prepared(0, 1, "x")],
        "of view 0 in view 1",
    );
    refused(vec![pre_prepared(0, 9, "x")], "not between the watermarks");
    refused(vec![stable(), pre_prepared(0, 4, "x")], "not between");
    refused(
        vec![pre_prepared(0, 1, "x"), pre_prepared(0, 1, "y")],
        "two pre-prepares",
    );
    let certificate = || prepared(1, 1, "x", &[0, 2]);
    refused(
        vec![Record::Prepared(certificate())],
        "a view that never was",
    );
    refused(
        vec![stable(), Record::Prepared(certificate())],
        "not between",
    );
    let slot = Slot(9);
    let entry = entry(9, "x");
    refused(vec![Record::Body { slot, entry }], "not between");
    refused(vec![stable()], "the snapshot ends at slot 0");
}

/// Written anew at a checkpoint, the records make the same replica: it says the same.
#[test]
fn written_anew_the_records_make_the_same_replica() {
    let mut cluster = Cluster::new(4, &config());
    cluster.isolate(0);
    cluster.change_view(&[1, 2, 3], "1");
    cluster.lost.insert("checkpoint");
    for text in ["2", "3", "4", "5"] {
        cluster.propose(1, text);
    }
    cluster.lost.insert("commit");
    cluster.propose(1, "6");
    cluster.lost.insert("prepare");
    cluster.propose(1, "7");
    // The checkpoint at slot 4 becomes stable: the records are written anew.
    cluster.lost.clear();
    cluster.lost.extend(["commit", "prepare", "pre_prepare"]);
    cluster.tick(3);
    for id in [1, 2, 3] {
        let node = cluster.nodes.remove(id);
        assert!(matches!(node.durable.first(), Some(Record::Stable(_))));
        let before = (node.view(), node.role());
        let mut node = node.crash(&config());
        assert_eq!((node.view(), node.role()), before);
        assert_eq!(node.committed(), 4);
        let prepares = node
            .sent_to(r(0))
            .into_iter()
            .find_map(|message| match message {
                quorate_pbft::Message::Prepare { votes, .. } => Some(votes.len()),
                _ => None,
            });
        assert_eq!(prepares, (id != 1).then_some(3), "slots 5, 6 and 7");
        node.syncs = true;
        cluster.nodes.insert(id, node);
    }
    cluster.heal();
    cluster.tick(6);
    for node in &cluster.nodes {
        assert_eq!(node.committed(), 7);
        assert_eq!(node.state, cluster.nodes[0].state);
    }
}

#[test]
fn configurations_that_cannot_work_are_refused_with_the_reason() {
    let refused = |change: fn(&mut Config), reason: &str| {
        let mut config = config();
        change(&mut config);
        let refused = Node::recover(context(r(1), 4, 1), config, Recovered::nothing());
        let error = refused.unwrap_err();
        assert!(error.reason.contains(reason), "{error}");
    };
    refused(|c| c.checkpoint_every = 0, "checkpoint_every (0)");
    refused(|c| c.window = 7, "at least twice");
    refused(|c| c.window = 5_000, "at most 4096");
    refused(|c| c.request_timeout = Duration::ZERO, "request_timeout");
    refused(|c| c.status_every = Duration::ZERO, "status_every");
    refused(|c| c.max_early_messages = 0, "max_early_messages");
    let wide = Config {
        window: 4_096,
        ..config()
    };
    let error = Node::recover(context(r(1), 64, 1), wide, Recovered::nothing()).unwrap_err();
    assert!(error.reason.contains("too wide for 64 replicas"), "{error}");
}

/// Reads are ordered like commands.
#[test]
fn reads_go_through_the_log() {
    use quorate_core::machine::Keys;
    use quorate_core::protocol::{ReadAnswer, ReadId};
    let mut node = Node::of_four(1, &config());
    let (id, keys) = (ReadId(7), Keys::All);
    node.turn(Input::Read { id, keys });
    assert_eq!(node.reads, [(id, ReadAnswer::ThroughLog)]);
}
