//! Crashes between two durable writes that belong together: each pair that `docs/protocols/hotstuff.md` lists, in
//! the order in which they are written, and that the other order is refused where it would do harm.

use quorate_core::codec;
use quorate_core::crypto::Digest;
use quorate_core::frontier::Frontier;
use quorate_core::id::Slot;
use quorate_core::protocol::{Recovered, SnapshotRef};
use quorate_hotstuff::{Block, Message, Record, Timer};

use crate::common::{
    HotstuffNode, Node, block, branch, certificate, checkpoint_certificate, config, context,
    genesis, proposal, r, two_chain,
};

fn recovered(records: &[Record], snapshot: Option<&SnapshotRef>) -> Result<Node, String> {
    let past = Recovered {
        records: records.to_vec(),
        snapshot: snapshot.cloned(),
    };
    Node::recover(context(r(0), 4, 9), config(), past).map_err(|error| error.reason)
}

fn records(node: &Node) -> Vec<Record> {
    node.records().into_iter().cloned().collect()
}

/// Records are appended in order and a crash keeps a prefix of them: block and vote, vote and proposal,
/// certificate, lock and commit, time-out and the certificate of time-outs.
#[test]
fn every_prefix_of_the_records_is_a_state_to_go_on_from() {
    for config in [config(), two_chain()] {
        let mut node = Node::of_four(0, &config);
        node.saves = false;
        node.follow(&branch(&genesis(), &[1, 2, 3, 5, 6, 7]));
        node.propose("x");
        node.fire(Timer::View);
        node.receive(
            r(1),
            Message::TimedOut(Box::new(crate::common::given_up(8, &genesis()))),
        );
        let all = records(&node);
        assert!(all.len() > 15, "{all:?}");
        for count in 0..=all.len() {
            let kept = &all[..count];
            let mut node = Node::with(0, 4, &config, kept.to_vec());
            let voted = kept.iter().rev().find_map(|record| match record {
                Record::Voted(id) => Some(*id),
                _ => None,
            });
            let Some(voted) = voted else {
                continue;
            };
            let of_block = |record: &Record| matches!(record, Record::Block(b) if b.id() == voted);
            assert!(
                kept.iter().any(of_block),
                "{count}: a vote without its block"
            );
            let other = block(voted.view.0, &genesis(), &["other"]);
            assert_eq!(
                node.votes_for(proposal(&other)),
                [],
                "{count}: a second vote"
            );
        }
    }
}

/// A chain of blocks through the first checkpoint's and the three that commit it.
fn chain() -> Vec<Block> {
    branch(&genesis(), &[1, 2, 3, 4, 5, 6, 7, 8])
}

/// Replica 0 with the first checkpoint's snapshot, which nobody has proved.
fn with_snapshot() -> (Node, SnapshotRef) {
    let mut node = Node::of_four(0, &config());
    node.follow(&chain());
    let saved = node.saved.clone().expect("a snapshot");
    assert_eq!(saved.at.slot(), Slot(4));
    (node, saved)
}

/// The driver saves a snapshot when the records of what it holds are durable.
#[test]
fn the_name_of_a_snapshots_block_is_durable_before_the_snapshot() {
    let (node, saved) = with_snapshot();
    let all = records(&node);
    let names = |record: &Record| matches!(record, Record::Committed(id) if id.height == Slot(4));
    let place = all.iter().position(names).expect("the record");
    let named = &all[..=place];
    let again = recovered(named, None).expect("no snapshot yet");
    assert_eq!(again.committed(), 4, "from the certificates");
    assert_eq!(recovered(named, Some(&saved)).expect("both").committed(), 4);
    let refused = recovered(&all[..place], Some(&saved)).unwrap_err();
    assert!(refused.contains("no record names the block"), "{refused}");
}

/// The log begins anew after a checkpoint that is proved, when its snapshot is durable.
#[test]
fn a_snapshot_is_durable_before_the_log_begins_after_it() {
    let (mut node, saved) = with_snapshot();
    node.syncs = false;
    let proof = checkpoint_certificate(&chain()[3].id(), saved.digest);
    node.receive(r(1), Message::Stable(proof));
    let (before, after) = (node.durable.clone(), records(&node));
    assert!(matches!(after[0], Record::Stable(_)) && !matches!(before[0], Record::Stable(_)));
    for kept in [&before, &after] {
        let node = recovered(kept, Some(&saved)).expect("it goes on");
        assert_eq!((node.committed(), node.view()), (5, 8));
    }
    let refused = recovered(&after, None).unwrap_err();
    assert!(refused.contains("the snapshot ends at 0"), "{refused}");
}

/// A fetched state is durable before the log begins after it. In between, what the log has is of before: nothing of
/// it counts as part of that state, and no promise is lost.
#[test]
fn a_crash_between_a_fetched_state_and_the_log_that_begins_after_it_loses_no_promise() {
    let mut node = Node::of_four(0, &config());
    let main = chain();
    node.follow(&main[..2]);
    let fork = block(6, &main[1].id(), &["fork"]);
    node.follow(std::slice::from_ref(&fork));
    let state = Digest::of(b"fetched");
    let proof = checkpoint_certificate(&main[3].id(), state);
    let fetched = SnapshotRef {
        at: Frontier::single(Slot(4)),
        digest: state,
        anchor: codec::encode(&proof).expect("an encoding").into(),
    };
    node.syncs = false;
    node.install(fetched.clone());
    let (before, after) = (node.durable.clone(), records(&node));
    assert!(matches!(after[0], Record::Stable(_)) && !matches!(before[0], Record::Stable(_)));
    for kept in [&before, &after] {
        let mut node = recovered(kept, Some(&fetched)).expect("it goes on");
        assert!(
            matches!(records(&node)[0], Record::Stable(_)),
            "written anew"
        );
        assert_eq!((node.committed(), node.commands().len()), (4, 0));
        let ask = Message::FetchBlocks {
            block: fork.id().digest,
            above: Slot::ZERO,
        };
        assert!(
            !node
                .answer(r(3), ask)
                .iter()
                .any(|m| matches!(m, Message::Blocks(_)))
        );
        let other = block(6, &main[4].id(), &["other"]);
        assert_eq!(
            node.votes_for(proposal(&other)),
            [],
            "a second vote in view 6"
        );
        let mut node = recovered(kept, Some(&fetched)).expect("it goes on");
        node.follow(&main[4..]);
        node.receive(r(1), Message::Certified(certificate(&main[7].id())));
        assert_eq!(node.commands(), ["in 5", "in 6"]);
    }
    let refused = recovered(&after, None).unwrap_err();
    assert!(refused.contains("the snapshot ends at 0"), "{refused}");
}
