//! Requests: told to all, so that no leader drops one for ever, and committed once.

use std::time::Duration;

use quorate_core::id::Slot;
use quorate_core::machine::Keys;
use quorate_core::protocol::Input;
use quorate_core::request::BatchBuilder;
use quorate_hotstuff::{Block, Config, Leaders, Message, Timer};

use crate::common::{
    HotstuffCluster, HotstuffNode, Node, block, branch, cluster, command, config, genesis, kinds,
    proposal, proposals, r, two_chain,
};

/// Requests are disseminated to all; a leader tells of its own by proposing them.
#[test]
fn all_replicas_hear_of_a_request() {
    let mut node = Node::of_four(3, &config());
    node.propose("x");
    for to in [0, 1, 2] {
        let mut node = Node::of_four(3, &config());
        node.propose("x");
        assert_eq!(kinds(&node.sent_to(r(to))), ["forward"]);
    }
    let mut leader = Node::of_four(1, &config());
    leader.propose("x");
    assert_eq!(kinds(&leader.sent_to(r(0))), ["proposal"]);
}

/// A leader that leaves a request out does not keep it from being committed: the next one has it.
#[test]
fn a_request_that_a_leader_leaves_out_is_proposed_by_the_next() {
    let mut node = Node::of_four(2, &config());
    node.receive(r(0), forward("x"));
    let empty = block(1, &genesis(), &["other"]);
    node.receive(r(1), proposal(&empty));
    node.take();
    node.learn(&empty.id());
    let proposed = proposals(&node.take());
    assert_eq!(proposed[0].block.payload(), [command("x")]);
}

fn forward(text: &str) -> Message {
    Message::Forward {
        batch: command(text),
        seen: Slot::ZERO,
    }
}

/// Requests of one turn share a block.
#[test]
fn requests_of_a_turn_share_a_block() {
    let mut leader = Node::of_four(1, &config());
    for text in ["a", "b"] {
        let (batch, keys) = (command(text), Keys::All);
        leader.step(Input::Propose { batch, keys });
    }
    leader.end_turn();
    let proposed = proposals(&leader.take());
    assert_eq!(proposed.len(), 3, "one, to each");
    assert_eq!(proposed[0].block.payload().len(), 2);
}

/// A batch is committed once, whichever leaders know of it and however often it is asked for.
#[test]
fn a_request_is_committed_once_whichever_leaders_propose_it() {
    let mut cluster = cluster(4, &config());
    for id in 0..4 {
        cluster.node(id).propose("x");
    }
    cluster.deliver();
    for id in [0, 3] {
        assert_eq!(cluster.node(id).commands(), ["x"]);
    }
    // A copy that comes late is known to be done; not if its sender has seen as much, and still wants it.
    cluster.node(0).receive(r(2), forward("x"));
    assert!(!cluster.node(0).timers.contains_key(&Timer::View));
    let batch = command("x");
    let seen = cluster.node(0).commits.last().expect("a commit").id.slot;
    let asked_again = Message::Forward { batch, seen };
    cluster.node(0).receive(r(2), asked_again);
    assert!(cluster.node(0).timers.contains_key(&Timer::View));
}

/// A copy that its sender has told again while the batch waited, and that arrives when it is committed, is as
/// late as any: told every few milliseconds, most of what is ordered would be such copies.
#[test]
fn what_was_told_again_before_it_was_committed_is_not_ordered_again() {
    let mut sender = Node::of_four(3, &config());
    sender.propose("x");
    sender.take();
    sender.propose("x");
    let late = sender.sent_to(r(0));
    assert_eq!(kinds(&late), ["forward"]);
    let mut cluster = cluster(4, &config());
    cluster.propose(3, "x");
    assert_eq!(cluster.node(0).commands(), ["x"]);
    for copy in late {
        cluster.node(0).receive(r(3), copy);
    }
    assert!(!cluster.node(0).timers.contains_key(&Timer::View));
}

/// What an abandoned block had is proposed again.
#[test]
fn the_requests_of_an_abandoned_block_are_not_lost() {
    let mut node = Node::of_four(3, &config());
    node.receive(r(1), proposal(&block(1, &genesis(), &["x"])));
    let given_up = crate::common::given_up(2, &genesis());
    node.take();
    node.receive(r(0), Message::TimedOut(Box::new(given_up)));
    let proposed = proposals(&node.take());
    assert_eq!(proposed[0].block.payload(), [command("x")]);
}

/// A leader that stays, and has others' requests ordered but not this one, is given up.
#[test]
fn a_leader_of_many_views_that_leaves_a_request_out_is_given_up() {
    let config = Config {
        leaders: Leaders::Stable { views: 1000 },
        request_timeout: Duration::from_millis(600),
        ..two_chain()
    };
    let mut node = Node::of_four(3, &config);
    node.receive(r(1), forward("left out"));
    let mut parent = genesis();
    let mut given_up = None;
    for view in 1..=10 {
        let next = block(view, &parent, &["other"]);
        let signed = quorate_hotstuff::Proposal::signed(
            &crate::common::signer(0),
            next.clone(),
            crate::common::certificate(&parent),
            None,
        );
        node.take();
        node.receive(r(0), Message::Proposal(Box::new(signed)));
        if kinds(&node.sent_to(r(1))).contains(&"timeout") {
            given_up.get_or_insert(view);
        }
        node.now = node.now + Duration::from_millis(100);
        parent = next.id();
    }
    assert_eq!(given_up, Some(7), "after 600 ms");
}

/// A batch that only one replica has is told to all when it has waited for a view.
#[test]
fn a_batch_that_waits_is_told_to_all() {
    let mut node = Node::of_four(3, &config());
    node.receive(r(1), forward("x"));
    assert!(node.take().is_empty());
    node.fire(Timer::View);
    assert_eq!(kinds(&node.sent_to(r(0))), ["forward", "timeout"]);
}

/// A leader that does not hear whoever was asked is told by those who do, after a part of a
/// time-out; not if it has proposed, and once.
#[test]
fn a_leader_that_has_not_heard_of_a_request_is_told() {
    let mut node = Node::of_four(3, &config());
    node.receive(r(0), forward("x"));
    node.fire(Timer::Proposal);
    assert_eq!(kinds(&node.sent_to(r(1))), ["forward"]);
    assert!(!node.timers.contains_key(&Timer::Proposal));
    let mut node = Node::of_four(3, &config());
    node.receive(r(0), forward("x"));
    node.follow(&[block(1, &genesis(), &["other"])]);
    node.fire(Timer::Proposal);
    assert!(node.take().is_empty());
}

/// A block is held to the bytes that it may have, by whomever it comes; one batch always fits.
#[test]
fn a_block_with_more_bytes_than_it_may_have_gets_no_vote() {
    let config = Config {
        max_block_bytes: 2 * command("a").size(),
        ..config()
    };
    let large = "large".repeat(100);
    for (texts, fits) in [
        (vec!["a", "b"], true),
        (vec!["a", "b", "c"], false),
        (vec![large.as_str()], true),
        (vec!["a", &large], false),
    ] {
        let mut node = Node::of_four(3, &config);
        let block = block(1, &genesis(), &texts);
        let votes = node.votes_for(proposal(&block));
        assert_eq!(!votes.is_empty(), fits, "{texts:?}");
    }
}

/// A batch with more bytes than may wait is ordered nevertheless, if nothing else waits: who asks
/// for it would ask for ever.
#[test]
fn one_batch_of_each_replica_may_wait_whatever_its_size() {
    let config = Config {
        max_waiting_bytes: 1,
        ..config()
    };
    let mut leader = Node::of_four(1, &config);
    leader.receive(r(0), forward("x"));
    leader.receive(r(0), forward("y"));
    leader.receive(r(2), forward("z"));
    let proposed = proposals(&leader.take());
    assert_eq!(proposed[0].block.payload(), [command("x")]);
    let mut cluster = cluster(4, &config);
    for text in ["a", "b", "c"] {
        cluster.propose(3, text);
    }
    assert_eq!(cluster.node(0).commands(), ["a", "b", "c"]);
}

/// What others have no room for yet waits where it was asked, and is told in its turn: nobody has to ask
/// again, and what comes later does not come first.
#[test]
fn what_is_beyond_a_share_is_told_when_what_came_before_is_committed() {
    let config = Config {
        max_waiting_batches: 1,
        ..config()
    };
    let mut cluster = cluster(4, &config);
    for text in ["a", "b", "c"] {
        cluster.node(3).propose(text);
    }
    cluster.deliver();
    // Who leads proposes all that it has.
    assert_eq!(cluster.node(0).commands().concat(), "abc");
}

/// A batch whose requests were all ordered in others waits for nothing: else what is kept for a replica's own
/// clients would have no bound.
#[test]
fn a_batch_whose_requests_were_ordered_in_others_is_forgotten() {
    for (texts, waits) in [(&["x", "y"][..], false), (&["x", "y", "z"], true)] {
        let mut node = Node::of_four(3, &config());
        let mut builder = BatchBuilder::default();
        for one in texts.iter().map(|text| command(text)) {
            one.groups().for_each(|group| builder.push_group(&group));
        }
        let (batch, keys) = (builder.finish(), Keys::All);
        node.step(Input::Propose { batch, keys });
        node.end_turn();
        let (mut parent, mut chain) = (genesis(), Vec::new());
        for (view, texts) in (1..).zip([&["x"][..], &["y"], &[], &[], &[]]) {
            chain.push(block(view, &parent, texts));
            parent = chain[chain.len() - 1].id();
        }
        node.follow(&chain);
        assert_eq!(node.commands(), ["x", "y"]);
        assert_eq!(node.timers.contains_key(&Timer::View), waits, "{texts:?}");
    }
}

/// The smallest bound on what waits to be committed stops nobody, with a leader down or without.
#[test]
fn one_block_at_a_time_is_enough() {
    for rules in [config(), two_chain()] {
        let config = Config {
            max_uncommitted: 1,
            ..rules
        };
        let mut cluster = cluster(4, &config);
        for text in ["a", "b", "c"] {
            cluster.propose(3, text);
        }
        assert_eq!(cluster.node(0).commands(), ["a", "b", "c"]);
        cluster.isolate(1);
        cluster.propose(3, "d");
        for _ in 0..8 {
            cluster.time_out();
        }
        assert_eq!(cluster.node(0).commands(), ["a", "b", "c", "d"]);
    }
}

/// What is kept for one replica's clients is bounded, and leaves room for others'.
#[test]
fn a_replica_cannot_fill_anothers_mempool() {
    let config = Config {
        max_waiting_batches: 3,
        ..config()
    };
    let mut leader = Node::of_four(2, &config);
    for index in 0..10 {
        leader.receive(r(0), forward(&format!("many {index}")));
    }
    leader.receive(r(3), forward("one"));
    leader.learn(&block(1, &genesis(), &[]).id());
    leader.receive(r(1), proposal(&block(1, &genesis(), &[])));
    let proposed = proposals(&leader.take());
    assert_eq!(proposed[0].block.payload().len(), 4);
}

/// A chain that is not committed may not grow by more than empty blocks for ever.
#[test]
fn blocks_that_wait_too_long_to_be_committed_are_followed_by_empty_ones_only() {
    let config = Config {
        max_uncommitted: 3,
        ..config()
    };
    let mut node = Node::of_four(0, &config);
    let chain = branch(&genesis(), &[1, 3, 5]);
    node.follow(&chain);
    let more = block(7, &chain[2].id(), &["more"]);
    assert_eq!(node.votes_for(proposal(&more)), []);
    let empty = block(9, &chain[2].id(), &[]);
    assert_eq!(node.votes_for(proposal(&empty)), [empty.id()]);
}

/// Nor may views that certify nothing leave more than so many blocks with requests, each of which
/// may yet be certified.
#[test]
fn turns_that_certify_nothing_are_followed_by_empty_blocks_only() {
    let config = Config {
        max_uncommitted: 3,
        ..config()
    };
    let votes_for = |block: &Block| {
        let leader = block.view().0 % 4;
        // Neither the leader nor the next, who votes for itself.
        let me = (leader + 2) % 4;
        let mut node = Node::of_four(me as u8, &config);
        node.votes_for(proposal(block))
    };
    let last = block(3, &genesis(), &["x"]);
    assert_eq!(votes_for(&last), [last.id()]);
    let beyond = block(4, &genesis(), &["x"]);
    assert_eq!(votes_for(&beyond), []);
    let empty = block(4, &genesis(), &[]);
    assert_eq!(votes_for(&empty), [empty.id()]);
}

/// All replicas execute what any of them was asked.
#[test]
fn requests_through_all_replicas_are_executed_in_one_order() {
    let mut cluster = cluster(7, &config());
    for round in 0..4 {
        for id in 0..7 {
            cluster.node(id).propose(&format!("{id} in {round}"));
        }
        cluster.deliver();
    }
    cluster.tick(1);
    let state = cluster.node(0).state;
    assert_eq!(
        cluster.node(0).commands().concat().matches("in").count(),
        28
    );
    assert!(cluster.nodes.iter().all(|node| node.state == state));
}
