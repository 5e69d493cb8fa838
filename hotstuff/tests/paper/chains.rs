//! Votes, locks and commits on chains of blocks. [Yin19 §5; Gelashvili21 §4]

use quorate_hotstuff::{Config, RuleSet, Timer, View};

use crate::common::{
    Cluster, HotstuffCluster, HotstuffNode, Node, block, branch, certificate, cluster, config,
    genesis, kinds, proposal, proposal_with, r, timeout_certificate, two_chain,
};

/// "A locked block is not abandoned without a higher certificate": safeNode. [Yin19 §4.4]
#[test]
fn a_locked_block_is_not_abandoned_without_a_higher_certificate() {
    let mut node = Node::of_four(0, &config());
    let main = branch(&genesis(), &[1, 2, 3, 4]);
    node.follow(&main);
    // The certificate of block 3 has come with block 4: block 2 is locked, block 1 committed.
    assert_eq!(node.commands(), ["in 1"]);
    let fork = block(5, &main[0].id(), &["fork"]);
    assert_eq!(node.votes_for(proposal(&fork)), []);
    let on_fork = block(6, &fork.id(), &["on fork"]);
    assert_eq!(node.votes_for(proposal(&on_fork)), [on_fork.id()]);
}

/// What is committed is never abandoned, whatever is certified.
#[test]
fn a_block_that_abandons_a_committed_one_gets_no_vote() {
    let mut node = Node::of_four(0, &config());
    node.follow(&branch(&genesis(), &[1, 2, 3, 4]));
    let fork = block(5, &genesis(), &["fork"]);
    assert_eq!(node.votes_for(proposal(&fork)), []);
}

/// Commit needs three blocks certified in consecutive views. [Yin19 §5]
#[test]
fn a_three_chain_commits_when_its_views_are_consecutive() {
    for (views, commits) in [
        ([1, 2, 3], true),
        ([1, 2, 4], false),
        ([1, 3, 4], false),
        ([2, 3, 4], true),
    ] {
        let mut node = Node::of_four(0, &config());
        let chain = branch(&genesis(), &views);
        node.follow(&chain);
        assert_eq!(node.commands(), [""; 0], "{views:?}");
        node.learn(&chain[2].id());
        assert_eq!(!node.commands().is_empty(), commits, "{views:?}");
    }
}

/// A commit takes in all ancestors, whatever their views. [Yin19 §5]
#[test]
fn a_commit_takes_in_all_ancestors_in_order() {
    let mut node = Node::of_four(0, &config());
    let chain = branch(&genesis(), &[1, 3, 5, 6, 7]);
    node.follow(&chain);
    node.learn(&chain[4].id());
    assert_eq!(node.commands(), ["in 1", "in 3", "in 5"]);
    assert_eq!(node.slots(), [1, 2, 3]);
}

/// Two blocks certified in consecutive views commit the first. [Gelashvili21 §4]
#[test]
fn a_two_chain_commits_when_its_views_are_consecutive() {
    for (views, commits) in [([1, 2], true), ([1, 3], false), ([2, 3], true)] {
        let mut node = Node::of_four(0, &two_chain());
        let chain = branch(&genesis(), &views);
        node.follow(&chain);
        node.learn(&chain[1].id());
        assert_eq!(!node.commands().is_empty(), commits, "{views:?}");
    }
}

/// "qc.r ≥ max {qc_high.r | qc_high.r ∈ tc}": a leader that takes over extends the highest
/// certificate that the quorum had. [Gelashvili21 §4]
#[test]
fn under_two_chain_rules_a_leader_that_takes_over_extends_what_the_quorum_had() {
    let chain = branch(&genesis(), &[1, 2]);
    let shown = [(0, &genesis()), (1, &chain[0].id()), (2, &genesis())]
        .map(|(who, high)| (who, certificate(high)));
    let because = || Some(timeout_certificate(2, &shown));
    let mut node = Node::of_four(1, &two_chain());
    node.follow(&chain);
    let abandons = block(3, &genesis(), &["fork"]);
    assert_eq!(node.votes_for(proposal_with(&abandons, because())), []);
    let extends = block(3, &chain[0].id(), &["next"]);
    let mut node = Node::of_four(1, &two_chain());
    node.follow(&chain);
    assert_eq!(
        node.votes_for(proposal_with(&extends, because())),
        [extends.id()]
    );
}

/// "Votes go to the next leader": nobody else hears them. [Yin19 §5]
#[test]
fn votes_go_to_the_next_leader_only() {
    let mut node = Node::of_four(3, &config());
    node.receive(r(1), proposal(&block(1, &genesis(), &["x"])));
    for (to, expected) in [(0, 0), (1, 0), (2, 1)] {
        let mut node = node_after_one_block();
        let votes = kinds(&node.sent_to(r(to)));
        assert_eq!(votes.iter().filter(|k| **k == "vote").count(), expected);
    }
}

fn node_after_one_block() -> Node {
    let mut node = Node::of_four(3, &config());
    node.receive(r(1), proposal(&block(1, &genesis(), &["x"])));
    node
}

/// A proposal of who does not lead the view is nothing.
#[test]
fn only_the_leader_of_a_view_proposes_in_it() {
    let mut node = Node::of_four(3, &config());
    let theirs = block(1, &genesis(), &["x"]);
    let signed = quorate_hotstuff::Proposal::signed(
        &crate::common::signer(2),
        theirs,
        certificate(&genesis()),
        None,
    );
    node.receive(r(2), quorate_hotstuff::Message::Proposal(Box::new(signed)));
    assert!(node.take().is_empty());
}

fn rounds_to_commit(rules: RuleSet, n: usize) -> (usize, usize) {
    let config = Config { rules, ..config() };
    let mut cluster = cluster(n, &config);
    let leader = 1;
    cluster.node(leader).propose("x");
    let (mut rounds, mut first) = (0, None);
    while cluster.nodes.iter().any(|node| node.commands().is_empty()) {
        assert!(cluster.deliver_round());
        rounds += 1;
        if cluster.nodes.iter().any(|node| !node.commands().is_empty()) {
            first.get_or_insert(rounds);
        }
    }
    (first.unwrap_or_default(), rounds)
}

/// From the leader that has the request: a proposal and a vote a block, three blocks or two; then
/// one more message for the others to learn of it. [Yin19 §5; Gelashvili21 §4]
#[test]
fn a_commit_takes_two_delays_a_block_of_the_chain() {
    for n in [4, 7] {
        assert_eq!(rounds_to_commit(RuleSet::ThreeChain, n), (6, 7));
        assert_eq!(rounds_to_commit(RuleSet::TwoChain, n), (4, 5));
    }
}

/// "Responsiveness": once the network is timely, a leader goes on at its speed, without waiting for
/// a time-out. [Yin19 §1, §4.4]
#[test]
fn after_a_failure_progress_is_made_at_the_speed_of_the_network() {
    let mut cluster: Cluster = cluster(4, &config());
    cluster.isolate(1);
    cluster.node(0).propose("x");
    cluster.deliver();
    for id in [0, 2, 3] {
        cluster.node(id).fire(Timer::View);
    }
    cluster.heal();
    cluster.deliver();
    let clocks: Vec<_> = cluster.nodes.iter().map(|node| node.now).collect();
    for text in ["a", "b", "c"] {
        cluster.propose(3, text);
    }
    for (node, clock) in cluster.nodes.iter().zip(clocks) {
        assert_eq!(node.now, clock, "nobody waited");
        assert_eq!(node.commands(), ["x", "a", "b", "c"], "{}", node.me);
    }
}

/// "Linear communication": in a view each replica sends one message, but the leader, who sends one
/// to each. [Yin19 §1]
#[test]
fn a_block_costs_a_proposal_and_a_vote_for_each_other_replica() {
    for n in [4, 7, 10] {
        let mut cluster = cluster(n, &config());
        cluster.propose(1, "x");
        let blocks = cluster.nodes[0].view() as usize - 1;
        assert_eq!(blocks, 3, "the block, and two empty ones above it");
        assert_eq!(cluster.count("proposal"), blocks * (n - 1));
        assert_eq!(cluster.count("vote"), blocks * (n - 1));
        assert_eq!(cluster.count("certified"), n - 1, "at the end");
        let total: usize = cluster.delivered().len();
        assert_eq!(total, 2 * blocks * (n - 1) + (n - 1));
    }
}

/// Blocks below which nothing waits are not proposed: an idle cluster says nothing.
#[test]
fn an_idle_cluster_proposes_nothing_and_waits_for_nothing() {
    let mut cluster = cluster(4, &config());
    cluster.propose(2, "x");
    for node in &mut cluster.nodes {
        assert_eq!(node.commands(), ["x"]);
        let timers: Vec<_> = node.timers.keys().copied().collect();
        assert_eq!(timers, [Timer::Status]);
    }
    let views: Vec<_> = cluster.nodes.iter().map(|n| View(n.view())).collect();
    cluster.rounds.clear();
    cluster.tick(8);
    assert!(
        cluster
            .nodes
            .iter()
            .zip(views)
            .all(|(n, v)| View(n.view()) == v)
    );
    assert_eq!(cluster.count("status"), cluster.delivered().len());
}
