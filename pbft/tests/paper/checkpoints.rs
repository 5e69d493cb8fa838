//! Garbage collection and state transfer. [Castro99 §4.3, §5.3]

use bytes::Bytes;
use quorate_core::crypto::Digest;
use quorate_core::frontier::Frontier;
use quorate_core::id::Slot;
use quorate_core::protocol::{Protocol, Recovered, SnapshotRef};
use quorate_pbft::{Config, Message, Mutant, Record, Timer};

use crate::common::{
    Cluster, Node, PbftCluster, PbftNode, anchor, checkpoint, commit, config, context, kinds,
    pre_prepare, r, state_of,
};

/// Makes `node` execute commands in the slots given, named by them.
fn execute(node: &mut Node, slots: std::ops::RangeInclusive<u64>) {
    for slot in slots {
        let text = slot.to_string();
        node.receive(r(0), pre_prepare(0, slot, &text));
        let others = (0..4).filter(|id| r(*id) != node.me).collect::<Vec<_>>();
        for from in others {
            node.receive(r(from), commit(0, slot, &text));
        }
    }
}

fn state_at_4() -> Digest {
    state_of(&["1", "2", "3", "4"])
}

/// "When a request with a sequence number divisible by some constant is executed", and durable.
/// [§4.3]
#[test]
fn a_checkpoint_is_announced_when_the_state_is_durable() {
    let mut node = Node::of_four(1, &config());
    node.saves = false;
    execute(&mut node, 1..=4);
    assert!(!kinds(&node.sent_to(r(0))).contains(&"checkpoint"));
    node.save();
    node.end_turn();
    let sent = node.sent_to(r(0));
    assert_eq!(sent, [Message::Checkpoint(checkpoint(1, 4, state_at_4()))]);
}

/// "2f + 1 of them for sequence number n with the same digest d signed by different replicas."
/// [§4.3]
#[test]
fn a_checkpoint_is_stable_with_2f_plus_1_equal_digests() {
    let other = Digest::of(b"another state");
    let table: [(&[(u8, Digest)], bool); 5] = [
        (&[], false),
        (&[(0, state_at_4())], false),
        (&[(0, state_at_4()), (0, state_at_4())], false),
        (&[(0, state_at_4()), (2, other)], false),
        (&[(0, state_at_4()), (2, state_at_4())], true),
    ];
    for (votes, stable) in table {
        let mut node = Node::of_four(1, &config());
        execute(&mut node, 1..=5);
        for (from, digest) in votes {
            node.receive(r(*from), Message::Checkpoint(checkpoint(*from, 4, *digest)));
        }
        let offered = node.offer.as_ref().map(|(at, _)| at.slot());
        assert_eq!(offered, stable.then_some(Slot(4)), "{votes:?}");
        let first = matches!(node.durable.first(), Some(Record::Stable(_)));
        assert_eq!(first, stable, "the records begin after it");
    }
}

/// "The replica discards all pre-prepare, prepare, and commit messages with sequence number less
/// than or equal to n from its log." [§4.3]
#[test]
fn the_log_through_a_stable_checkpoint_is_dropped() {
    let mut cluster = Cluster::new(4, &config());
    for slot in 1..=5 {
        cluster.propose(0, &slot.to_string());
    }
    for node in &cluster.nodes {
        let slots = node.durable.iter().filter_map(|record| match record {
            Record::PrePrepared { proposal, .. } => Some(proposal.slot.0),
            Record::Prepared(certificate) => Some(certificate.slot().0),
            _ => None,
        });
        assert_eq!(slots.min(), Some(5));
    }
}

/// A replica takes nothing through the low watermark, and keeps what is above the high one until
/// that has moved. [§4.2, §4.3]
#[test]
fn what_is_above_the_high_watermark_waits_and_is_not_lost() {
    let mut node = Node::of_four(1, &config());
    execute(&mut node, 1..=4);
    node.take();
    for from in [0, 2, 3] {
        node.receive(r(from), commit(0, 9, "9"));
    }
    node.receive(r(0), pre_prepare(0, 9, "9"));
    assert!(node.take().is_empty());
    for from in [0, 2] {
        node.receive(
            r(from),
            Message::Checkpoint(checkpoint(from, 4, state_at_4())),
        );
    }
    assert_eq!(
        kinds(&node.sent_to(r(2))),
        ["prepare"],
        "the window reaches slot 12"
    );
    node.receive(r(0), pre_prepare(0, 4, "another"));
    assert!(node.take().is_empty(), "slot 4 is below it");
    execute(&mut node, 5..=8);
    assert_eq!(node.committed(), 9);
}

/// "The high water mark H = h + k": a primary that has given out the window waits. [§4.3]
#[test]
fn a_primary_waits_at_the_high_watermark() {
    let mut cluster = Cluster::new(4, &config());
    for node in &mut cluster.nodes {
        node.saves = false;
    }
    for slot in 1..=10 {
        cluster.propose(0, &slot.to_string());
    }
    assert!(cluster.nodes.iter().all(|node| node.committed() == 8));
    for node in &mut cluster.nodes {
        node.saves = true;
        node.end_turn();
    }
    cluster.deliver();
    assert!(cluster.nodes.iter().all(|node| node.committed() == 10));
}

/// "If a replica learns about a stable checkpoint beyond the high water mark in its log, it
/// fetches" the state, and goes on from there. [§5.3; Castro02 §5.3]
#[test]
fn a_replica_left_behind_fetches_the_state_and_goes_on() {
    let mut cluster = Cluster::new(4, &config());
    cluster.isolate(3);
    for slot in 1..=13 {
        cluster.propose(0, &slot.to_string());
    }
    assert_eq!(cluster.node(0).committed(), 13);
    cluster.heal();
    for id in 0..4 {
        cluster.node(id).fire(Timer::Status);
    }
    cluster.deliver();
    let fetch = cluster.node(3).fetch.clone().expect("it asks for a state");
    assert_eq!(fetch.at_least, Frontier::single(Slot(12)));
    cluster.transfer(fetch.from.0, 3);
    cluster.tick(4);
    assert_eq!(cluster.node(3).executed(), ["13"]);
    cluster.propose(3, "14");
    let state = cluster.nodes[0].state;
    assert!(cluster.nodes.iter().all(|node| node.state == state));
}

/// A state is believed by its digest and the signatures of f + 1, one of whom is correct, and by
/// nothing else. [§5.3]
#[test]
fn a_state_without_a_proof_is_not_believed() {
    let node = Node::of_four(1, &config());
    let digest = state_at_4();
    let believed = |slot, digest, anchor: Bytes| {
        let at = Frontier::single(Slot(slot));
        node.protocol.accepts(&SnapshotRef { at, digest, anchor })
    };
    assert!(believed(4, digest, anchor(4, digest, &[0, 2, 3])));
    assert!(!believed(4, digest, Bytes::new()));
    assert!(believed(4, digest, anchor(4, digest, &[0, 2])), "f + 1");
    assert!(!believed(4, digest, anchor(4, digest, &[0])), "too few");
    assert!(
        !believed(4, digest, anchor(4, digest, &[0, 0])),
        "one, twice"
    );
    assert!(
        !believed(4, digest, anchor(4, digest, &[0, 2, 2])),
        "one twice"
    );
    assert!(
        !believed(4, digest, anchor(4, digest, &[0, 2, 9])),
        "a stranger"
    );
    assert!(
        !believed(8, digest, anchor(4, digest, &[0, 2, 3])),
        "another slot"
    );
    let other = Digest::of(b"another state");
    assert!(!believed(4, other, anchor(4, digest, &[0, 2, 3])));
}

/// The checkpoint's own digest is compared with the proof: a replica whose state is wrong stops.
#[test]
fn a_replica_whose_state_is_not_the_one_proved_says_so() {
    let mut node = Node::of_four(1, &config());
    execute(&mut node, 1..=4);
    node.checks = false;
    let other = Digest::of(b"another state");
    for from in [0, 2, 3] {
        node.receive(r(from), Message::Checkpoint(checkpoint(from, 4, other)));
    }
    let violation = node.protocol.check().unwrap_err();
    assert!(violation.rule.contains("own checkpoints"), "{violation}");
}

/// A checkpoint that was durable, and not yet stable, when the replica crashed is announced again.
#[test]
fn a_checkpoint_is_announced_again_after_a_restart() {
    let mut node = Node::of_four(1, &config());
    execute(&mut node, 1..=6);
    let mut node = node.crash(&config());
    assert_eq!(node.committed(), 4);
    assert!(kinds(&node.sent_to(r(0))).contains(&"checkpoint"));
    for from in [0, 2] {
        node.receive(
            r(from),
            Message::Checkpoint(checkpoint(from, 4, state_at_4())),
        );
    }
    assert_eq!(node.offer.as_ref().map(|(at, _)| at.slot()), Some(Slot(4)));
    let node = node.crash(&config());
    assert_eq!(
        node.offer.map(|(at, _)| at.slot()),
        Some(Slot(4)),
        "the proof is durable"
    );
}

/// A crash between saving a fetched state and writing what follows from it.
#[test]
fn a_fetched_state_ahead_of_the_records_proves_itself_after_a_restart() {
    let mut node = Node::of_four(1, &config());
    execute(&mut node, 1..=2);
    let digest = Digest::of(b"state");
    let snapshot = |anchor| SnapshotRef {
        at: Frontier::single(Slot(8)),
        digest,
        anchor,
    };
    node.saved = Some(snapshot(anchor(8, digest, &[0, 2, 3])));
    let records = node.durable.clone();
    let mut node = node.crash(&config());
    assert_eq!(node.committed(), 8);
    assert_eq!(node.offer.as_ref().map(|(at, _)| at.slot()), Some(Slot(8)));
    execute(&mut node, 9..=9);
    assert_eq!(node.executed(), ["9"]);

    for forged in [
        anchor(8, Digest::of(b"other"), &[0, 2, 3]),
        anchor(8, digest, &[0]),
    ] {
        let past = Recovered {
            records: records.clone(),
            snapshot: Some(snapshot(forged)),
        };
        assert!(Node::recover(context(r(1), 4, 1), config(), past).is_err());
    }
}

fn state_at_8() -> Digest {
    state_of(&["1", "2", "3", "4", "5", "6", "7", "8"])
}

/// A replica that crashed with a state later than the stable one has nothing else to give: it gives it
/// as soon as f + 1 have signed it. [§4.3]
#[test]
fn a_state_that_a_replica_restarts_from_is_offered_once_f_plus_1_vouch_for_it() {
    let (restarted, mutated) = (restarted_at_8(None), Some(Mutant::RestoredNotOffered));
    let offered = restarted.offered().expect("a state is offered");
    assert_eq!(offered.at, Frontier::single(Slot(8)));
    assert!(restarted.protocol.accepts(&offered));
    assert_eq!(restarted_at_8(mutated).offered(), None);
}

/// Replica 1, after a crash with slot 4 stable and a state at slot 8, which replica 2 signs too.
fn restarted_at_8(mutant: Option<Mutant>) -> Node {
    let config = Config { mutant, ..config() };
    let mut node = Node::of_four(1, &config);
    execute(&mut node, 1..=4);
    for from in [0, 2] {
        let vote = checkpoint(from, 4, state_at_4());
        node.receive(r(from), Message::Checkpoint(vote));
    }
    execute(&mut node, 5..=8);
    let mut node = node.crash(&config);
    let other = checkpoint(3, 8, Digest::of(b"another state"));
    node.receive(r(3), Message::Checkpoint(other));
    assert_eq!(node.offered(), None, "one is not enough");
    node.receive(r(2), Message::Checkpoint(checkpoint(2, 8, state_at_8())));
    node
}

/// A state that f + 1 vouch for is gone on from; it is stable, and what was promised before it is
/// forgotten, only with 2f + 1. [§4.3]
#[test]
fn a_state_that_f_plus_1_vouch_for_is_installed_and_not_stable() {
    let mut node = Node::of_four(3, &config());
    execute(&mut node, 1..=2);
    node.take();
    node.install(SnapshotRef {
        at: Frontier::single(Slot(8)),
        digest: state_at_8(),
        anchor: anchor(8, state_at_8(), &[1, 2]),
    });
    assert_eq!(node.committed(), 8);
    assert!(kinds(&node.sent_to(r(1))).contains(&"checkpoint"));
    let stable = |node: &Node| matches!(node.durable.first(), Some(Record::Stable(_)));
    assert!(!stable(&node), "its own signature is the third");
    let mut node = node.crash(&config());
    assert_eq!(node.committed(), 8);
    assert!(!stable(&node));
    for from in [1, 2] {
        node.receive(
            r(from),
            Message::Checkpoint(checkpoint(from, 8, state_at_8())),
        );
    }
    assert!(stable(&node));
}

/// Votes for checkpoints far away do not push out those that matter.
#[test]
fn a_replica_cannot_flood_others_with_checkpoints() {
    let mut node = Node::of_four(1, &config());
    execute(&mut node, 1..=4);
    for slot in 1..100 {
        let far = checkpoint(3, slot * 4_000, Digest::of(b"?"));
        node.receive(r(3), Message::Checkpoint(far));
    }
    for from in [0, 2] {
        node.receive(
            r(from),
            Message::Checkpoint(checkpoint(from, 4, state_at_4())),
        );
    }
    assert!(node.offer.is_some() && node.fetch.is_none());
}
