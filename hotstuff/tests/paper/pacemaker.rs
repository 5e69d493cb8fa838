//! Views that are given up. [Yin19 §4.4; Gelashvili21 §4]

use std::time::Duration;

use quorate_core::id::Slot;
use quorate_hotstuff::{Block, Config, Leaders, Message, RuleSet, Status, Timer, View};

use crate::common::{
    HotstuffCluster, HotstuffNode, Node, block, branch, certificate, cluster, config, genesis,
    given_up, kinds, proposal, proposal_by, proposals, r, timeout, two_chain,
};

/// A leader that is silent is given up by all, and the next one goes on.
#[test]
fn a_silent_leader_is_given_up_and_the_next_one_goes_on() {
    for rules in [RuleSet::ThreeChain, RuleSet::TwoChain] {
        let config = Config { rules, ..config() };
        let mut cluster = cluster(4, &config);
        cluster.isolate(1);
        cluster.node(0).propose("x");
        cluster.deliver();
        for _ in 0..8 {
            cluster.time_out();
        }
        for id in [0, 2, 3] {
            assert_eq!(cluster.node(id).commands(), ["x"], "{rules:?}, {id}");
        }
    }
}

/// f + 1 replicas that give a view up are not alone; 2f + 1 end it. [Gelashvili21 §4]
#[test]
fn f_plus_1_timeouts_are_joined_and_2f_plus_1_begin_the_next_view() {
    let mut node = Node::of_four(3, &config());
    node.receive(r(0), timeout(0, 1, &genesis()));
    assert!(node.take().is_empty());
    node.receive(r(2), timeout(2, 1, &genesis()));
    assert_eq!(kinds(&node.sent_to(r(0))), ["timeout"]);
    assert_eq!(node.view(), 2, "with its own");
}

/// A replica waits so long for its view.
fn waits(node: &Node) -> Duration {
    node.timers[&Timer::View].since(node.now)
}

/// A quorum gives these views up.
fn are_given_up(node: &mut Node, views: std::ops::RangeInclusive<u64>) {
    for view in views {
        let certificate = given_up(view, &genesis());
        node.receive(r(0), Message::TimedOut(Box::new(certificate)));
    }
}

/// "Time-outs grow exponentially", and shrink again when views end well: with each view given up in
/// a row after as many as f liars account for, of four replicas two; and with each eighth that is
/// certified in time, in a row or not, as soon as something is committed. [Yin19 §4.4]
#[test]
fn timeouts_double_when_more_views_fail_than_liars_account_for_and_shrink_with_progress() {
    let mut node = Node::of_four(3, &config());
    node.propose("x");
    let base = waits(&node);
    assert_eq!(base, config().view_timeout);
    are_given_up(&mut node, 1..=2);
    assert_eq!(waits(&node), base, "the liar's view, and the one before");
    are_given_up(&mut node, 3..=5);
    assert_eq!(waits(&node), base * 8);
    let views: Vec<u64> = (6..=29).collect();
    let chain = branch(&genesis(), &views);
    for (certified, block) in (0..).zip(&chain) {
        node.follow(std::slice::from_ref(block));
        let shrunk = certified / 8;
        assert_eq!(waits(&node), base * 8 / 2u32.pow(shrunk), "{certified}");
    }
    assert!(!node.commands().is_empty());
}

/// Certificates of blocks of which none is committed say nothing of what a commit takes.
#[test]
fn timeouts_do_not_shrink_while_nothing_is_committed() {
    let mut node = Node::of_four(3, &config());
    node.propose("x");
    are_given_up(&mut node, 1..=5);
    let grown = waits(&node);
    for view in 6..=60 {
        node.learn(&block(view, &genesis(), &["x"]).id());
    }
    assert_eq!((waits(&node), node.commands().len()), (grown, 0));
}

/// Views that are certified now and then, and commit nothing, keep no time-out short: more of them fail between
/// two commits than liars account for.
#[test]
fn timeouts_grow_with_the_views_that_fail_while_nothing_is_committed() {
    let mut node = Node::of_four(3, &config());
    node.propose("x");
    let base = waits(&node);
    for failed in 1..=9_u32 {
        let view = u64::from(2 * failed);
        node.learn(&block(view - 1, &genesis(), &["x"]).id());
        are_given_up(&mut node, view..=view);
        assert_eq!(waits(&node), base * 2u32.pow(failed / 3), "{failed}");
    }
}

/// Liars that end a view now and then keep the time-out neither from shrinking nor small.
#[test]
fn a_timeout_shrinks_though_single_views_fail() {
    let mut node = Node::of_four(3, &two_chain());
    node.propose("x");
    are_given_up(&mut node, 1..=4);
    let grown = waits(&node);
    assert_eq!(grown, config().view_timeout * 4);
    let mut tip = genesis();
    for lap in 0..4 {
        // Those of which the replica is not the leader, whose own blocks they would be.
        let view = 5 + 4 * lap;
        let pair = branch(&tip, &[view, view + 1]);
        tip = pair[1].id();
        node.follow(&pair);
        node.learn(&tip);
        are_given_up(&mut node, view + 2..=view + 3);
    }
    assert_eq!(waits(&node), grown / 2);
}

/// The time-out has a limit.
#[test]
fn timeouts_grow_to_a_limit() {
    let capped = Config {
        max_view_timeout: Duration::from_millis(700),
        ..config()
    };
    let mut node = Node::of_four(3, &capped);
    node.propose("x");
    are_given_up(&mut node, 1..=30);
    assert_eq!(waits(&node), Duration::from_millis(700));
}

/// A time-out is said again as long as the view has not ended.
#[test]
fn timeouts_are_said_again_while_a_view_lasts() {
    let mut node = Node::of_four(3, &config());
    node.propose("x");
    for _ in 0..3 {
        node.take();
        node.fire(Timer::View);
        assert!(kinds(&node.sent_to(r(0))).contains(&"timeout"));
    }
    assert_eq!(node.view(), 1);
}

/// Once a view is given up that is said again at an even pace, however long the time-out has grown,
/// and at once to whoever shows that it is in no later view.
#[test]
fn who_comes_back_hears_at_once_which_view_is_given_up() {
    let mut node = Node::of_four(3, &config());
    node.propose("x");
    are_given_up(&mut node, 1..=6);
    assert_eq!(waits(&node), config().view_timeout * 16);
    let status = |view| {
        Message::Status(Status {
            view: View(view),
            high: View(0),
            committed: Slot(0),
            stable: Slot(0),
        })
    };
    assert!(kinds(&node.answer(r(1), status(7))).is_empty());
    node.fire(Timer::View);
    assert_eq!(waits(&node), config().view_timeout);
    node.fire(Timer::Status);
    assert_eq!(kinds(&node.answer(r(1), status(7))), ["timeout"]);
    let behind = kinds(&node.answer(r(2), status(3)));
    assert_eq!(behind, ["certified", "timed_out", "timeout"]);
    assert!(
        kinds(&node.answer(r(2), status(3))).is_empty(),
        "one a period"
    );
    node.fire(Timer::Status);
    assert!(!kinds(&node.answer(r(1), status(8))).contains(&"timeout"));
}

/// Whoever is behind is shown why the view has begun, and goes along.
#[test]
fn a_replica_in_an_earlier_view_is_pulled_along() {
    let mut node = Node::of_four(0, &config());
    node.receive(r(1), Message::TimedOut(Box::new(given_up(5, &genesis()))));
    assert_eq!(node.view(), 6);
    let shown = node.answer(r(3), timeout(3, 2, &genesis()));
    assert_eq!(kinds(&shown), ["certified", "timed_out"]);
    let mut behind = Node::of_four(3, &config());
    for message in shown {
        behind.receive(r(0), message);
    }
    assert_eq!(behind.view(), 6);
}

/// Replicas that were in different views when all crashed find each other: a view that was entered
/// because the one before was given up is entered again, and shown.
#[test]
fn replicas_in_different_views_find_each_other_after_a_restart() {
    let mut cluster = cluster(4, &config());
    cluster.isolate(3);
    for id in 0..3 {
        cluster.node(id).propose(&format!("from {id}"));
    }
    cluster
        .node(0)
        .receive(r(1), Message::TimedOut(Box::new(given_up(4, &genesis()))));
    cluster.node(0).fire(Timer::View);
    for id in 0..3 {
        cluster.restart(id, &config());
    }
    let views: Vec<u64> = cluster.nodes.iter().map(Node::view).collect();
    assert_eq!(views, [5, 1, 1, 1]);
    for id in 0..3 {
        cluster.node(id).propose(&format!("again from {id}"));
    }
    for _ in 0..9 {
        cluster.time_out();
    }
    for id in 0..3 {
        let commands = cluster.node(id).commands().concat();
        assert_eq!(commands.matches("again").count(), 3, "{id}: {commands}");
    }
}

/// Where n = 4 and one replica is faulty, no more than three leaders in a row are correct, and the
/// votes for the third one's block go to the faulty one: so a time-out brings the vote with it, and
/// three blocks in a row are certified.
#[test]
fn a_timeout_brings_the_vote_that_a_silent_leader_should_have_gathered() {
    let mut cluster = cluster(4, &config());
    cluster.isolate(0);
    cluster.propose(1, "x");
    assert_eq!(cluster.node(2).view(), 3, "the votes for block 3 went to 0");
    assert!(cluster.node(2).commands().is_empty());
    cluster.time_out();
    for id in [1, 2, 3] {
        assert_eq!(cluster.node(id).commands(), ["x"]);
        assert_eq!(cluster.node(id).view(), 5, "view 4 is the silent one's");
    }
}

/// The leader to which the votes of a view had gone has had that view's time: when others certify
/// its block with the votes in their time-outs, they give up its own view as well, so that a silent
/// leader costs one time-out in each of its turns.
#[test]
fn a_silent_leader_is_waited_for_once_in_each_turn() {
    for rules in [RuleSet::ThreeChain, RuleSet::TwoChain] {
        let config = Config { rules, ..config() };
        let mut cluster = cluster(4, &config);
        cluster.isolate(0);
        cluster.propose(1, "a");
        for turn in 1..=3 {
            cluster.node(2).propose(&format!("{turn}"));
            cluster.deliver();
            cluster.time_out();
        }
        for id in [1, 2, 3] {
            let node = cluster.node(id);
            assert!(node.view() > 4 * 3, "{rules:?}: {}", node.view());
            assert!(
                node.commands().len() >= 3,
                "{rules:?}: {:?}",
                node.commands()
            );
        }
    }
}

/// Replica 0, which has voted in view 1 and given it up.
fn gave_up_after_its_vote() -> (Node, Block) {
    let mut node = Node::of_four(0, &two_chain());
    let voted = block(1, &genesis(), &["x"]);
    node.follow(std::slice::from_ref(&voted));
    node.fire(Timer::View);
    node.take();
    (node, voted)
}

/// A leader that is late and shows the certificate itself keeps its view; one for which another has
/// to show it does not.
#[test]
fn who_shows_the_certificate_late_is_not_passed_over() {
    let (mut node, voted) = gave_up_after_its_vote();
    let late = block(2, &voted.id(), &["y"]);
    assert_eq!(node.votes_for(proposal(&late)), [late.id()]);

    let (mut node, voted) = gave_up_after_its_vote();
    node.receive(r(3), Message::Certified(certificate(&voted.id())));
    assert_eq!(node.view(), 2);
    assert_eq!(kinds(&node.sent_to(r(1))), ["timeout"]);
    assert_eq!(node.votes_for(proposal(&late)), []);

    let mut in_time = Node::of_four(0, &two_chain());
    in_time.follow(std::slice::from_ref(&voted));
    in_time.receive(r(3), Message::Certified(certificate(&voted.id())));
    assert!(in_time.take().is_empty(), "no time-out has passed");
}

/// Votes that came with the time-outs do not show that the view was long enough.
#[test]
fn the_timeout_does_not_shrink_with_a_view_that_was_given_up() {
    let config = Config {
        leaders: Leaders::Listed(vec![r(0)]),
        ..config()
    };
    let mut node = Node::of_four(3, &config);
    node.propose("x");
    are_given_up(&mut node, 1..=3);
    let grown = waits(&node);
    for block in branch(&genesis(), &(4..=19).collect::<Vec<_>>()) {
        node.receive(r(0), proposal_by(0, &block));
        node.fire(Timer::View);
        node.learn(&block.id());
        node.take();
    }
    assert!(!node.commands().is_empty());
    // It has doubled with the three that were late before anything was committed.
    assert_eq!((node.view(), waits(&node)), (20, grown * 2));
}

/// "A new leader needs no more than a linear number of messages": one of each replica to begin, one
/// to each to go on. [Yin19 §1]
#[test]
fn a_new_leader_hears_and_says_a_linear_number_of_messages() {
    for n in [4, 7, 10] {
        let mut cluster = cluster(n, &config());
        cluster.isolate(1);
        cluster.node(0).propose("x");
        cluster.deliver();
        cluster.rounds.clear();
        for node in &mut cluster.nodes {
            if node.timers.contains_key(&Timer::View) {
                node.fire(Timer::View);
            }
        }
        // With the old leader away n - 1 replicas tell n - 2 others.
        assert!(cluster.deliver_round());
        assert_eq!(cluster.count("timeout"), (n - 1) * (n - 2));
        let said = proposals(&cluster.node(2).sent).len();
        assert_eq!(said, n - 1, "one message to each other replica");
        let quorum = 2 * ((n - 1) / 3) + 1;
        assert!(quorum < n, "of which it needs {quorum}");
    }
}

/// A leader that stays is given up with all views that it has in a row.
#[test]
fn who_gives_up_a_leader_gives_up_all_its_views_in_a_row() {
    let config = Config {
        leaders: Leaders::Stable { views: 100 },
        ..two_chain()
    };
    let mut cluster = cluster(4, &config);
    cluster.propose(0, "a");
    assert!(cluster.node(3).view() < 100);
    cluster.isolate(0);
    cluster.node(2).propose("b");
    cluster.deliver();
    cluster.time_out();
    for id in [1, 2, 3] {
        assert_eq!(cluster.node(id).commands(), ["a", "b"]);
        assert!(cluster.node(id).view() > 100);
    }
}

/// No vote in a view that was given up. [Gelashvili21 §4]
#[test]
fn a_replica_does_not_vote_in_a_view_that_it_has_given_up() {
    let mut node = Node::of_four(3, &two_chain());
    node.propose("x");
    node.fire(Timer::View);
    let late = block(1, &genesis(), &["x"]);
    assert_eq!(node.votes_for(proposal(&late)), []);
    let next = block(2, &genesis(), &["x"]);
    let mut other = Node::of_four(0, &two_chain());
    assert_eq!(other.votes_for(proposal(&next)), [next.id()]);
}
