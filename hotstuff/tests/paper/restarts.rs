//! What a replica remembers. [Yin19 §4, §5]

use quorate_core::protocol::Recovered;
use quorate_hotstuff::{Config, Message, Record, Timer, View};

use crate::common::{
    HotstuffCluster, HotstuffNode, Node, block, branch, certificate, checkpoint_certificate,
    cluster, config, context, genesis, kinds, proposal, proposals, r, two_chain,
};

/// Persist before promise: no vote or time-out leaves before it is durable, and no proposal before
/// it is durable that there may be one.
#[test]
fn no_promise_leaves_before_it_is_durable() {
    let mut node = Node::of_four(3, &config());
    node.syncs = false;
    node.receive(r(1), proposal(&block(1, &genesis(), &["x"])));
    node.fire(Timer::View);
    assert!(node.take().is_empty());
    node.sync();
    assert_eq!(kinds(&node.sent_to(r(2))), ["vote", "timeout"]);
    let mut leader = Node::of_four(1, &config());
    leader.syncs = false;
    leader.propose("x");
    assert!(leader.take().is_empty());
    leader.sync();
    // Its word to itself comes back in the next turn, in which it also tells replica 0 its status.
    leader.fire(Timer::Status);
    assert_eq!(kinds(&leader.sent_to(r(2))), ["proposal"]);
}

/// A restart does not vote twice in a view, nor propose twice, nor vote after a time-out.
#[test]
fn a_restart_forgets_no_promise() {
    let mut node = Node::of_four(3, &config());
    node.receive(r(1), proposal(&block(1, &genesis(), &["x"])));
    let mut node = node.crash(&config());
    assert_eq!(node.votes_for(proposal(&block(1, &genesis(), &["y"]))), []);
    node.fire(Timer::View);
    let mut node = node.crash(&config());
    assert_eq!(node.votes_for(proposal(&block(1, &genesis(), &["z"]))), []);
    let mut leader = Node::of_four(1, &config());
    leader.propose("x");
    let mut leader = leader.crash(&config());
    leader.take();
    leader.propose("y");
    assert!(proposals(&leader.take()).is_empty());
}

/// Nor does it vote in a view in which it has not voted, but which it has given up: what it showed
/// then goes for what it will ever vote for. [Gelashvili21 §4]
#[test]
fn a_restart_does_not_forget_which_views_were_given_up() {
    for config in [config(), two_chain()] {
        let mut node = Node::of_four(3, &config);
        node.propose("z");
        node.fire(Timer::View);
        let mut node = node.crash(&config);
        let late = proposal(&block(1, &genesis(), &["x"]));
        assert_eq!(node.votes_for(late), []);
    }
}

/// A block that a replica has voted for is there after a crash: what a quorum has voted for is
/// never lost.
#[test]
fn a_block_voted_for_survives_a_crash_and_is_given_to_who_lacks_it() {
    let chain = branch(&genesis(), &[1, 2, 3]);
    let mut node = Node::of_four(0, &config());
    node.follow(&chain);
    let mut node = node.crash(&config());
    let block = chain[2].id().digest;
    let above = genesis().height;
    let given = node.answer(r(3), Message::FetchBlocks { block, above });
    let mut newest_first = chain.clone();
    newest_first.reverse();
    assert_eq!(given, [Message::Blocks(newest_first)]);
}

/// Lock and highest certificate survive, and what follows from them is executed again.
#[test]
fn what_was_committed_is_committed_again_after_a_crash() {
    for config in [config(), two_chain()] {
        let mut node = Node::of_four(0, &config);
        node.follow(&branch(&genesis(), &[1, 2, 3, 4]));
        let (commands, view) = (node.commands(), node.view());
        assert!(!commands.is_empty());
        let node = node.crash(&config);
        assert_eq!(node.commands(), commands);
        assert_eq!(node.view(), view);
    }
}

/// All crash at once; what was acknowledged is there, and the cluster goes on.
#[test]
fn a_cluster_goes_on_after_all_crashed() {
    let mut cluster = cluster(4, &config());
    for text in ["a", "b", "c", "d", "e", "f"] {
        cluster.propose(0, text);
    }
    for id in 0..4 {
        cluster.restart(id, &config());
    }
    cluster.deliver();
    cluster.tick(4);
    cluster.propose(2, "g");
    for _ in 0..4 {
        cluster.time_out();
    }
    cluster.tick(4);
    let states: Vec<_> = cluster.nodes.iter().map(|node| node.state).collect();
    assert!(
        states.windows(2).all(|pair| pair[0] == pair[1]),
        "{states:?}"
    );
    assert_eq!(
        cluster.node(1).commands().last().map(String::as_str),
        Some("g")
    );
}

fn refused(records: Vec<Record>, reason: &str) {
    let past = Recovered {
        records,
        snapshot: None,
    };
    let error = Node::recover(context(r(1), 4, 1), config(), past).unwrap_err();
    assert!(error.reason.contains(reason), "{error}");
}

#[test]
fn records_that_do_not_fit_are_refused_with_the_reason() {
    let chain = branch(&genesis(), &[1, 2]);
    let stable = || {
        let state = quorate_core::crypto::Digest::of(b"s");
        Record::Stable(checkpoint_certificate(&chain[1].id(), state))
    };
    let voted = |index: usize| Record::Voted(chain[index].id());
    let certified = |index: usize| Record::Certified(certificate(&chain[index].id()));
    refused(vec![voted(0), stable()], "record 1: the chain starts anew");
    refused(vec![voted(1), voted(0)], "comes after one for");
    refused(
        vec![certified(1), certified(0)],
        "view 1 comes after one of 2",
    );
    refused(vec![stable()], "but the snapshot ends at 0");
    let fine = vec![Record::TimedOut(View(3)), voted(0), certified(0)];
    let past = Recovered {
        records: fine,
        snapshot: None,
    };
    assert!(Node::recover(context(r(1), 4, 1), config(), past).is_ok());
}

#[test]
fn configurations_that_cannot_work_are_refused() {
    let zero = std::time::Duration::ZERO;
    for (config, reason) in [
        (
            Config {
                view_timeout: zero,
                ..config()
            },
            "view_timeout must be above zero",
        ),
        (
            Config {
                checkpoint_every: 0,
                ..config()
            },
            "checkpoint_every must be above zero",
        ),
        (
            Config {
                max_block_bytes: usize::MAX,
                ..config()
            },
            "to fit into messages",
        ),
        (
            Config {
                max_view_timeout: zero,
                ..config()
            },
            "at least view_timeout",
        ),
    ] {
        let error = Node::recover(context(r(1), 4, 1), config, Recovered::nothing()).unwrap_err();
        assert!(error.reason.contains(reason), "{error}");
    }
}
