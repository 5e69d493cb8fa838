//! Block sync: what is missing is fetched by its digest from those who certified it.

use quorate_core::id::{ReplicaId, Slot};
use quorate_hotstuff::{Block, Config, Message, Timer};

use crate::common::{
    HotstuffCluster, HotstuffNode, Node, block, branch, cluster, command, config, genesis, kinds,
    proposal, r, two_chain,
};

/// The requests for blocks in what a node has sent.
fn asked(node: &mut Node) -> Vec<(ReplicaId, Message)> {
    let mut sent = node.take();
    sent.retain(|(_, message)| matches!(message, Message::FetchBlocks { .. }));
    sent
}

/// A replica that lacks the ancestors of a block asks for them, votes when it has them, and
/// executes what is committed.
#[test]
fn missing_ancestors_are_fetched_and_then_voted_on() {
    let chain = branch(&genesis(), &[1, 2, 3, 4]);
    let mut node = Node::of_four(0, &config());
    node.receive(r(0), proposal(&chain[3]));
    let wanted = asked(&mut node);
    let [(to, Message::FetchBlocks { block, above })] = wanted.as_slice() else {
        panic!("{wanted:?}")
    };
    assert_eq!((*block, *above), (chain[2].id().digest, Slot::ZERO));
    let signers = [1, 2].map(r);
    assert!(signers.contains(to), "one of those who signed");
    let blocks: Vec<Block> = chain[..3].iter().rev().cloned().collect();
    node.receive(r(1), Message::Blocks(blocks));
    assert_eq!(node.commands(), ["in 1"]);
    let votes = crate::common::votes(&node.take());
    assert_eq!(votes, [chain[3].id()]);
}

/// Nothing is believed but what has the digest asked for.
#[test]
fn blocks_with_another_digest_are_not_taken() {
    let chain = branch(&genesis(), &[1, 2, 3]);
    let lie = block(1, &genesis(), &["lie"]);
    let on_lie = block(2, &lie.id(), &["on lie"]);
    for lies in [
        vec![lie.clone()],
        vec![on_lie.clone(), lie.clone()],
        vec![chain[1].clone(), lie.clone()],
        vec![chain[0].clone(), chain[1].clone()],
    ] {
        let mut node = Node::of_four(3, &config());
        node.learn(&chain[2].id());
        node.take();
        node.receive(r(1), Message::Blocks(lies));
        node.receive(r(2), Message::Blocks(chain.iter().rev().cloned().collect()));
        let rest: Vec<Block> = chain.iter().take(1).cloned().collect();
        node.receive(r(2), Message::Blocks(rest));
        assert_eq!(node.commands(), ["in 1"]);
    }
}

/// Who does not answer is not asked for ever: the others who signed are.
#[test]
fn attempts_meet_all_who_signed() {
    let chain = branch(&genesis(), &[1, 2, 3]);
    let mut node = Node::of_four(3, &config());
    node.learn(&chain[2].id());
    let mut met: Vec<ReplicaId> = Vec::new();
    for _ in 0..12 {
        met.extend(asked(&mut node).iter().map(|(to, _)| *to));
        node.fire(Timer::Status);
    }
    met.sort();
    met.dedup();
    assert_eq!(met, [0, 1, 2].map(r));
}

/// What one replica is given is bounded, whatever it asks for; more comes with time.
#[test]
fn what_a_replica_is_given_is_bounded() {
    let config = Config {
        max_sync_blocks: 2,
        ..config()
    };
    let chain = branch(&genesis(), &[1, 2, 3]);
    let mut node = Node::of_four(0, &config);
    node.follow(&chain);
    let ask = || Message::FetchBlocks {
        block: chain[2].id().digest,
        above: Slot::ZERO,
    };
    let given = |messages: Vec<Message>| {
        let blocks = messages.iter().map(|message| match message {
            Message::Blocks(blocks) => blocks.len(),
            _ => 0,
        });
        blocks.sum::<usize>()
    };
    assert_eq!(given(node.answer(r(3), ask())), 2);
    assert_eq!(given(node.answer(r(3), ask())), 0);
    node.fire(Timer::Status);
    assert_eq!(given(node.answer(r(3), ask())), 2);
}

/// A replica that fetches a long branch keeps what it has got of it, though it is more than it
/// keeps of others, and though proposals come meanwhile.
#[test]
fn what_is_fetched_of_a_branch_is_kept_until_all_of_it_is_here() {
    let config = Config {
        max_blocks: 2,
        ..config()
    };
    let views: Vec<u64> = (1..=12).collect();
    let chain = branch(&genesis(), &views);
    let tip = chain[11].id();
    let mut node = Node::of_four(2, &config);
    node.learn(&tip);
    for (turn, ancestor) in chain.iter().rev().enumerate() {
        node.receive(r(1), Message::Blocks(vec![ancestor.clone()]));
        let view = 13 + 4 * turn as u64;
        node.receive(r(1), proposal(&block(view, &tip, &["x"])));
    }
    assert_eq!(node.commands().len(), 10);
}

/// Whoever has voted for a block that may yet be certified keeps it, whatever comes later: nobody
/// else might have it. Once a later view is certified, it may go.
#[test]
fn a_block_voted_for_is_kept_until_a_later_view_is_certified() {
    let config = Config {
        max_blocks: 1,
        ..two_chain()
    };
    let mut node = Node::of_four(0, &config);
    let open = [1, 3, 5, 7].map(|view| block(view, &genesis(), &["x"]));
    node.follow(&open);
    let ask = |block: &Block| Message::FetchBlocks {
        block: block.id().digest,
        above: Slot::ZERO,
    };
    for block in &open {
        node.fire(Timer::Status);
        let given = node.answer(r(3), ask(block));
        assert_eq!(kinds(&given), ["blocks"], "{block:?}");
    }
    let mut node = node.crash(&config);
    node.follow(&[block(9, &genesis(), &["x"])]);
    let given = node.answer(r(3), ask(&open[0]));
    assert_eq!(kinds(&given), ["blocks"], "after a restart too");
    node.follow(&[block(10, &block(9, &genesis(), &["x"]).id(), &[])]);
    node.follow(&[block(11, &block(9, &genesis(), &["x"]).id(), &[])]);
    node.fire(Timer::Status);
    assert!(node.answer(r(3), ask(&open[0])).is_empty());
}

/// Blocks that lead nowhere are bounded in bytes too: by so many as fit they are kept, and by one more the lowest
/// goes.
#[test]
fn blocks_that_lead_nowhere_are_kept_as_long_as_their_bytes_fit() {
    let size = command("x").size();
    for (most, kept) in [
        (5 * size, [true, true]),
        (5 * size - 1, [false, true]),
        (1, [false, false]),
    ] {
        let config = Config {
            max_blocks_bytes: most,
            ..two_chain()
        };
        let mut node = Node::of_four(0, &config);
        node.follow(&[1, 3, 5, 7].map(|view| block(view, &genesis(), &["x"])));
        let certified = block(9, &genesis(), &["x"]);
        node.follow(&[certified.clone(), block(10, &certified.id(), &[])]);
        node.follow(&[block(11, &certified.id(), &[])]);
        for (view, kept) in [1, 3].into_iter().zip(kept) {
            node.fire(Timer::Status);
            let block = block(view, &genesis(), &["x"]).id().digest;
            let above = Slot::ZERO;
            let given = node.answer(r(3), Message::FetchBlocks { block, above });
            assert_eq!(!given.is_empty(), kept, "{view} of {most}");
        }
    }
}

/// Blocks that were not asked for are nothing.
#[test]
fn blocks_that_nobody_asked_for_are_dropped() {
    let mut node = Node::of_four(0, &config());
    let chain = branch(&genesis(), &[1, 2, 3]);
    node.receive(r(1), Message::Blocks(chain.clone()));
    let block = chain[0].id().digest;
    let above = Slot::ZERO;
    let given = node.answer(r(1), Message::FetchBlocks { block, above });
    assert!(given.is_empty());
}

/// A replica that was away comes back: statuses show it what is certified, and it fetches the rest.
#[test]
fn a_replica_that_was_away_catches_up_while_the_cluster_is_idle() {
    let mut cluster = cluster(4, &config());
    cluster.isolate(0);
    cluster.propose(1, "x");
    for _ in 0..6 {
        cluster.time_out();
    }
    assert_eq!(cluster.node(1).commands(), ["x"]);
    cluster.heal();
    cluster.rounds.clear();
    cluster.tick(6);
    assert_eq!(cluster.node(0).commands(), ["x"]);
    assert!(cluster.count("fetch_blocks") > 0);
    assert!(!kinds(&cluster.node(0).sent_to(r(1))).contains(&"timeout"));
}
