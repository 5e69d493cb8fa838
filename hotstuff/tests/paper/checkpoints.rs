//! Checkpoints, and replicas that are far behind. [Castro99 §4.3]

use std::collections::BTreeSet;

use quorate_core::codec;
use quorate_core::crypto::Digest;
use quorate_core::frontier::Frontier;
use quorate_core::id::Slot;
use quorate_core::protocol::{Input, Protocol, SnapshotRef};
use quorate_hotstuff::{
    Block, BlockId, CheckpointCertificate, CheckpointVote, Message, Record, Timer,
};

use crate::common::{
    Cluster, HotstuffCluster, HotstuffNode, Node, block, branch, checkpoint_certificate, cluster,
    config, genesis, kinds, r, signer,
};

/// A cluster that has executed so much that there is a checkpoint.
fn with_checkpoint() -> Cluster {
    let mut cluster = cluster(4, &config());
    for text in ["a", "b", "c", "d", "e", "f"] {
        cluster.propose(0, text);
    }
    cluster
}

/// Every K-th height is a checkpoint: 2f + 1 equal ones let all drop what came before.
#[test]
fn a_stable_checkpoint_lets_blocks_and_records_go() {
    let mut cluster = with_checkpoint();
    let node = cluster.node(2);
    let at = node.offer.clone().expect("an offer").0;
    assert!(at.slot() >= Slot(4) && at.slot().0.is_multiple_of(4));
    let kept = node
        .records()
        .into_iter()
        .filter_map(|record| match record {
            Record::Block(block) => Some(block.height()),
            _ => None,
        });
    assert!(kept.min().is_some_and(|lowest| lowest > at.slot()));
    assert!(matches!(node.records()[0], Record::Stable(_)));
    let first = block(1, &genesis(), &["a"]).id().digest;
    let above = Slot::ZERO;
    let given = node.answer(
        r(3),
        Message::FetchBlocks {
            block: first,
            above,
        },
    );
    assert!(
        matches!(given.as_slice(), [Message::Stable(_)]),
        "{given:?}"
    );
}

/// A state is believed if 2f + 1 have signed for it, and for just this one.
#[test]
fn a_snapshot_is_accepted_by_its_certificate_and_digest() {
    let mut cluster = with_checkpoint();
    let good = cluster.node(0).offered().expect("a snapshot");
    let accepts = |snapshot: &SnapshotRef| {
        let node = Node::of_four(3, &config());
        node.protocol.accepts(snapshot)
    };
    assert!(accepts(&good));
    let mut other = good.clone();
    other.digest = Digest::of(b"another state");
    assert!(!accepts(&other));
    let mut elsewhere = good.clone();
    elsewhere.at = Frontier::single(Slot(good.at.slot().0 + 4));
    assert!(!accepts(&elsewhere));
    let mut bare = good.clone();
    bare.anchor = bytes::Bytes::new();
    assert!(!accepts(&bare));
}

/// Who is behind what the others keep fetches the state, and goes on from it.
#[test]
fn a_replica_far_behind_fetches_the_state_and_goes_on() {
    let mut cluster = cluster(4, &config());
    cluster.isolate(3);
    for text in ["a", "b", "c", "d", "e", "f"] {
        cluster.propose(0, text);
        for _ in 0..8 {
            cluster.time_out();
        }
    }
    cluster.heal();
    cluster.tick(8);
    cluster.propose(3, "z");
    for _ in 0..4 {
        cluster.time_out();
    }
    cluster.tick(4);
    let (slots, state) = (cluster.node(3).slots(), cluster.node(0).state);
    assert!(slots.first().is_none_or(|first| *first > 4), "{slots:?}");
    assert_eq!(cluster.node(3).state, state);
    cluster.restart(3, &config());
    assert_eq!(cluster.node(3).state, state);
}

/// Who does not answer is not asked again and again: the driver gives such a fetch up, and finds
/// another signer named at each status.
#[test]
fn a_state_is_asked_of_one_signer_after_the_other() {
    let chain = branch(&genesis(), &[1, 2, 3, 4, 5, 6, 7, 8]);
    let mut node = Node::of_four(3, &config());
    let mut asked = Vec::new();
    for at in [3, 7] {
        let proved = checkpoint_certificate(&chain[at].id(), Digest::of(b"state"));
        node.receive(r(0), Message::Stable(proved));
        asked.extend(node.fetch.take().map(|fetch| fetch.from));
    }
    assert!(asked[0] != asked[1], "proofs that come ask others too");
    for _ in 0..12 {
        node.fire(Timer::Status);
        asked.extend(node.fetch.take().map(|fetch| fetch.from));
    }
    assert_eq!(asked.len(), 14);
    assert!(asked.windows(2).all(|pair| pair[0] != pair[1]), "{asked:?}");
    let met: BTreeSet<_> = asked.into_iter().collect();
    assert_eq!(met, [0, 1, 2].map(r).into_iter().collect());
}

/// The votes of `signers` on the state after `block`, and what they prove together.
fn signed_by(block: &BlockId, signers: &[u8]) -> (Vec<Message>, CheckpointCertificate) {
    let votes = signers.iter().map(|by| {
        let vote = CheckpointVote::signed(&signer(*by), *block, Digest::of(b"state"));
        (r(*by), vote)
    });
    let votes: Vec<_> = votes.collect();
    let signatures = votes.iter().map(|(by, v)| (*by, v.signature)).collect();
    let state = Digest::of(b"state");
    let proof = CheckpointCertificate::of(*block, state, signatures, signers.len());
    let votes = votes.into_iter().map(|(_, vote)| Message::Checkpoint(vote));
    (votes.collect(), proof.expect("a certificate"))
}

/// A snapshot of the state after `block`, with the word of `signers`.
fn vouched_for(block: &BlockId, signers: &[u8]) -> SnapshotRef {
    let anchor = codec::encode(&signed_by(block, signers).1).expect("an encoding");
    SnapshotRef {
        at: Frontier::single(block.height),
        digest: Digest::of(b"state"),
        anchor: anchor.into(),
    }
}

/// "Weak certificates": f + 1 who say that they have a state are enough to take it, for one of them
/// is correct; 2f + 1 are needed to drop what came before. Else two who have put a later state in
/// the place of the last one proved could not help the third, whose word they need. [Castro02]
#[test]
fn a_state_that_f_plus_1_have_can_be_taken_by_who_needs_it() {
    let chain = branch(&genesis(), &[1, 2, 3, 4, 5, 6, 7, 8]);
    let later = chain[7].id();
    let mut node = Node::of_four(3, &config());
    let proved = checkpoint_certificate(&chain[3].id(), Digest::of(b"earlier"));
    node.receive(r(0), Message::Stable(proved));
    let (votes, _) = signed_by(&later, &[0, 1]);
    for (by, vote) in votes.into_iter().enumerate() {
        node.receive(r(by as u8), vote);
    }
    let mut wanted = BTreeSet::new();
    for _ in 0..4 {
        node.fire(Timer::Status);
        wanted.extend(node.fetch.take().map(|fetch| fetch.at_least.slot().0));
    }
    assert_eq!(wanted, BTreeSet::from([4, 8]));
    assert!(node.protocol.accepts(&vouched_for(&later, &[0, 1])));
    assert!(!node.protocol.accepts(&vouched_for(&later, &[1])));
    node.take();
    node.install(vouched_for(&later, &[0, 1]));
    assert_eq!(node.committed(), 8);
    let said = kinds(&node.sent_to(r(0)));
    assert!(
        said.contains(&"checkpoint"),
        "its word makes three: {said:?}"
    );
    let ask = Message::FetchBlocks {
        block: chain[0].id().digest,
        above: Slot::ZERO,
    };
    assert!(
        node.answer(r(1), ask).is_empty(),
        "others are shown no proof"
    );
    let node = node.crash(&config());
    assert_eq!(node.committed(), 8);
}

/// Who has a state that f + 1 have lets others have it.
#[test]
fn a_state_that_f_plus_1_have_is_offered() {
    let mut cluster = cluster(4, &config());
    cluster.lose(|_, to, message| to == r(0) && matches!(message, Message::Checkpoint(_)));
    for text in ["a", "b", "c", "d"] {
        cluster.propose(1, text);
    }
    let mut node = cluster.nodes.remove(0).crash(&config());
    assert!(node.offer.is_none(), "it is the only one that says so");
    let saved = node.saved.clone().expect("a snapshot");
    let records = node.records();
    let id = records.iter().find_map(|record| match record {
        Record::Committed(id) if id.height == saved.at.slot() => Some(*id),
        _ => None,
    });
    let id = id.expect("the block of the snapshot");
    let vote = CheckpointVote::signed(&signer(2), id, saved.digest);
    node.receive(r(2), Message::Checkpoint(vote));
    let offered = node.offered().expect("an offer");
    assert_eq!(offered.at, saved.at);
    let other = Node::of_four(3, &config());
    assert!(other.protocol.accepts(&offered));
}

/// A replica whose snapshots are late meets the proofs of the first ones all the same: what comes
/// after does not put them out.
#[test]
fn a_replica_whose_snapshots_are_late_makes_them_stable() {
    let mut cluster = cluster(4, &config());
    cluster.node(3).saves = false;
    for number in 0..40 {
        cluster.propose(0, &format!("{number}"));
    }
    cluster.tick(3);
    let node = cluster.node(3);
    assert!(node.unsaved.len() > 10, "{}", node.unsaved.len());
    let first = node.unsaved.remove(0);
    node.turn(Input::Snapshotted(first.clone()));
    let stable = node.offer.as_ref().map(|(at, _)| at.clone());
    assert_eq!(stable, Some(first.at));
}

/// Only equal ones count: the same state, after the same block. [§4.3]
#[test]
fn checkpoints_of_different_states_do_not_add_up() {
    let chain = branch(&genesis(), &[1, 2, 3, 4]);
    let fork = branch(&genesis(), &[1, 2, 3, 5]);
    let vote = |author: u8, block: &Block, state: &[u8]| {
        let vote = CheckpointVote::signed(&signer(author), block.id(), Digest::of(state));
        (r(author), Message::Checkpoint(vote))
    };
    for other in [vote(2, &chain[3], b"other"), vote(2, &fork[3], b"state")] {
        let mut node = Node::of_four(3, &config());
        let votes = [
            vote(0, &chain[3], b"state"),
            other,
            vote(1, &chain[3], b"state"),
        ];
        for (from, vote) in votes {
            node.receive(from, vote);
        }
        assert_eq!(node.fetch, None);
    }
    let mut node = Node::of_four(3, &config());
    for author in 0..3 {
        let (from, vote) = vote(author, &chain[3], b"state");
        node.receive(from, vote);
    }
    assert!(node.fetch.is_some());
}

/// A replica whose own state is not the one that is proved must stop.
#[test]
fn a_replica_that_has_diverged_stops() {
    let mut cluster = with_checkpoint();
    cluster.node(1).saves = false;
    for number in 0.. {
        if !cluster.node(1).unsaved.is_empty() {
            break;
        }
        cluster.propose(2, &format!("more {number}"));
    }
    let node = cluster.node(1);
    let taken = node.unsaved[0].clone();
    node.checks = false;
    let records = node.records();
    let at = records.iter().find_map(|record| match record {
        Record::Committed(id) if id.height == taken.at.slot() => Some(*id),
        _ => None,
    });
    let Some(id) = at else {
        panic!("no record of {taken:?}")
    };
    let proved = checkpoint_certificate(&id, Digest::of(b"another state"));
    node.receive(r(0), Message::Stable(proved));
    node.save();
    assert!(node.protocol.check().is_err());
}
