//! Each rule of HotStuff switched off, and the harm that follows: the tests would notice.

mod common;

use common::{
    HotstuffCluster, HotstuffNode, Node, block, branch, certificate, certificate_by, cluster,
    command, config, forged, genesis, given_up, kinds, proposal, proposal_by, proposal_with,
    proposals, r, signatures, timeout_certificate, two_chain, verify, vote, votes,
};
use std::time::Duration;

use quorate_core::crypto::Digest;
use quorate_core::frontier::Frontier;
use quorate_core::id::{ReplicaId, Slot};
use quorate_core::protocol::{Protocol, SnapshotRef};
use quorate_hotstuff::{
    Block, CheckpointCertificate, CheckpointVote, Config, Leaders, Message, Mutant, RuleSet, Timer,
    View,
};

/// With every rule, and without one: what `scenario` says of harm done.
fn harms_only_with(rules: Config, mutant: Mutant, scenario: impl Fn(&Config) -> bool) {
    let mut config = rules;
    assert!(!scenario(&config), "harm without {mutant:?}");
    config.mutant = Some(mutant);
    Mutant::verify_without(Some(mutant));
    assert!(scenario(&config), "no harm from {mutant:?}");
    Mutant::verify_without(None);
}

fn harms_only(mutant: Mutant, scenario: impl Fn(&Config) -> bool) {
    harms_only_with(config(), mutant, scenario);
}

/// The leader of view 2 has its own vote and hears one other replica.
fn certifies(config: &Config, times: usize) -> bool {
    let mut leader = Node::of_four(2, config);
    let proposed = block(1, &genesis(), &["x"]);
    leader.receive(r(1), proposal(&proposed));
    for _ in 0..times {
        leader.receive(r(0), vote(0, &proposed.id()));
    }
    leader.view() == 2
}

/// "A quorum of votes": of different replicas. [Yin19 §4.2]
#[test]
fn a_vote_that_counts_twice_certifies_what_a_minority_voted_for() {
    harms_only(Mutant::DuplicateVotesCounted, |config| certifies(config, 2));
}

/// Two quorums have a correct replica in common. [Yin19 §3]
#[test]
fn a_quorum_of_f_plus_1_certifies_what_a_minority_voted_for() {
    harms_only(Mutant::WeakQuorum, |config| certifies(config, 1));
}

/// A certificate's view is under its signatures. [Yin19 §4.2]
#[test]
fn a_view_that_is_not_signed_can_be_inflated() {
    harms_only(Mutant::ViewNotSigned, |_| {
        let mut block = block(1, &genesis(), &["x"]).id();
        let signatures = signatures(&certificate(&block));
        block.view = View(1000);
        verify(3, &Message::Certified(forged(&block, &signatures))).is_ok()
    });
}

/// What it means to be in a view that nobody has certified: a replica is lost to the others.
#[test]
fn an_inflated_view_takes_a_replica_out_of_the_cluster() {
    harms_only(Mutant::ViewNotSigned, |config| {
        let mut id = block(1, &genesis(), &["x"]).id();
        let signatures = signatures(&certificate(&id));
        id.view = View(1000);
        let message = Message::Certified(forged(&id, &signatures));
        let mut node = Node::of_four(0, config);
        if verify(3, &message).is_ok() {
            node.receive(r(3), message);
        }
        node.votes_for(proposal(&block(1, &genesis(), &["y"])))
            .is_empty()
    });
}

fn believes(signers: impl Fn(&mut Vec<(ReplicaId, quorate_core::crypto::Signature)>)) -> bool {
    let block = block(1, &genesis(), &["x"]).id();
    let mut signatures = signatures(&certificate(&block));
    signers(&mut signatures);
    verify(3, &Message::Certified(forged(&block, &signatures))).is_ok()
}

#[test]
fn too_few_signers_certify_without_a_quorum() {
    harms_only(Mutant::TooFewSigners, |_| {
        believes(|signatures| {
            signatures.pop();
        })
    });
}

#[test]
fn a_signer_that_counts_twice_certifies_without_a_quorum() {
    harms_only(Mutant::RepeatedSigner, |_| {
        believes(|signatures| signatures[2] = signatures[1])
    });
}

#[test]
fn an_unknown_signer_certifies_without_a_quorum() {
    harms_only(Mutant::UnknownSigner, |_| {
        believes(|signatures| signatures[2].0 = ReplicaId(9))
    });
}

/// A block in each of two branches: one committed here, the other certified in the gap.
fn commits_across_a_gap(config: &Config, views: &[u64]) -> bool {
    let mut node = Node::of_four(3, config);
    let main = branch(&genesis(), views);
    node.follow(&main);
    node.learn(&main[views.len() - 1].id());
    !node.commands().is_empty()
}

/// The paper's links are of consecutive views, for dummy blocks fill the gaps. [Yin19 §5]
#[test]
fn a_three_chain_with_a_gap_commits_what_may_be_abandoned() {
    harms_only(Mutant::CommitWithoutConsecutiveViews, |config| {
        commits_across_a_gap(config, &[1, 2, 4])
    });
    harms_only(Mutant::CommitWithoutConsecutiveViews, |config| {
        commits_across_a_gap(config, &[1, 3, 4])
    });
}

/// Two replicas that commit different blocks at height 1: block A, certified in view 1, and its
/// child of view 3; in view 2 block C was certified, and shown by the quorum that gave up view 3.
fn forks(config: &Config) -> bool {
    let [a, c] = [1, 2].map(|view| block(view, &genesis(), &[&format!("in {view}")]));
    let child = block(3, &a.id(), &["on a"]);
    let mut one = Node::of_four(0, config);
    one.receive(r(1), proposal(&a));
    one.receive(r(3), proposal(&child));
    one.learn(&child.id());
    let mut other = Node::of_four(3, config);
    other.receive(r(2), proposal(&c));
    let on_c = block(4, &c.id(), &["on c"]);
    let shows = [(0, &c), (1, &c), (2, &a)].map(|(who, high)| (who, certificate(&high.id())));
    let justified = Some(timeout_certificate(3, &shows));
    other.receive(r(0), proposal_with(&on_c, justified));
    let next = block(5, &on_c.id(), &[]);
    other.receive(r(1), proposal(&next));
    other.learn(&next.id());
    let height_1 = |node: &Node| node.commands().first().cloned();
    height_1(&one).is_some() && height_1(&other).is_some() && height_1(&one) != height_1(&other)
}

/// The commit rule of two blocks linked as parent and child, whatever lies between their views:
/// Fast-HotStuff's as first published, and the hole in it.
#[test]
fn a_two_chain_with_a_gap_lets_two_replicas_commit_different_blocks() {
    harms_only_with(two_chain(), Mutant::TwoChainByLinksAlone, forks);
}

/// A replica locked on block 2 of views 1, 2, 3, 4 (the certificate of 3 has come with 4).
fn locked(config: &Config) -> Node {
    let mut node = Node::of_four(0, config);
    node.follow(&branch(&genesis(), &[1, 2, 3, 4]));
    node
}

/// A block of view 5 that abandons the lock: on block 1, which is committed.
fn fork() -> Block {
    let committed = &branch(&genesis(), &[1])[0];
    block(5, &committed.id(), &["fork"])
}

/// safeNode's second arm: a higher certificate frees a replica of its lock. [Yin19 §4.4]
#[test]
fn without_the_arm_of_liveness_a_lock_that_others_do_not_share_holds_for_ever() {
    harms_only(Mutant::NoLivenessArm, |config| {
        let mut node = locked(config);
        node.receive(r(1), proposal(&fork()));
        let on_fork = block(6, &fork().id(), &["on fork"]);
        node.votes_for(proposal(&on_fork)).is_empty()
    });
}

/// A locked block is not abandoned without a higher certificate. [Yin19 §4.4]
#[test]
fn a_lock_that_is_ignored_lets_a_committed_block_be_abandoned() {
    harms_only(Mutant::LockIgnored, |config| {
        !locked(config).votes_for(proposal(&fork())).is_empty()
    });
}

/// The lock only moves to later views. [Yin19 §4.4]
#[test]
fn a_lock_that_moves_back_lets_a_committed_block_be_abandoned() {
    harms_only(Mutant::LockNotMonotonic, |config| {
        let main = branch(&genesis(), &[1, 2]);
        let mut node = locked(config);
        node.learn(&main[1].id());
        !node.votes_for(proposal(&fork())).is_empty()
    });
}

#[test]
fn a_replica_that_votes_twice_in_a_view_lets_two_blocks_be_certified() {
    harms_only(Mutant::VotesAgain, |config| {
        let mut node = Node::of_four(3, config);
        let twice = ["x", "y"].map(|text| block(1, &genesis(), &[text]));
        twice
            .iter()
            .all(|block| !node.votes_for(proposal(block)).is_empty())
    });
}

#[test]
fn a_replica_that_forgets_its_vote_votes_twice() {
    harms_only(Mutant::VotedForgottenOnRestart, |config| {
        let mut node = Node::of_four(3, config);
        node.receive(r(1), proposal(&block(1, &genesis(), &["x"])));
        let mut node = node.crash(config);
        !node
            .votes_for(proposal(&block(1, &genesis(), &["y"])))
            .is_empty()
    });
}

#[test]
fn a_replica_that_forgets_its_lock_abandons_what_may_be_committed() {
    harms_only(Mutant::LockForgottenOnRestart, |config| {
        let mut node = locked(config);
        node.checks = config.mutant.is_none();
        let mut node = node.crash(config);
        !node.votes_for(proposal(&fork())).is_empty()
    });
}

#[test]
fn a_leader_that_forgets_its_proposal_proposes_twice_in_a_view() {
    harms_only(Mutant::ProposedForgottenOnRestart, |config| {
        let mut leader = Node::of_four(1, config);
        leader.propose("x");
        let first = proposals(&leader.take()).len();
        let mut leader = leader.crash(config);
        leader.propose("y");
        first > 0 && !proposals(&leader.take()).is_empty()
    });
}

/// "A replica that has given up a view does not vote in it": what it has shown must stay true.
/// [Gelashvili21 §4]
#[test]
fn a_vote_after_a_timeout_makes_a_certificate_that_the_timeout_hid() {
    for rules in [config(), two_chain()] {
        harms_only_with(rules, Mutant::VotesAfterTimeout, |config| {
            let mut node = Node::of_four(3, config);
            node.propose("x");
            node.fire(Timer::View);
            !node
                .votes_for(proposal(&block(1, &genesis(), &["x"])))
                .is_empty()
        });
    }
}

/// A leader must extend the highest certificate that a quorum has shown. [Gelashvili21 §4]
#[test]
fn a_timeout_certificate_that_hides_the_highest_certificate_abandons_what_may_be_committed() {
    let main = branch(&genesis(), &[1, 2]);
    let hides = |highest_shown: bool| {
        let high = certificate(&main[0].id());
        let shows = [
            (0, high),
            (1, certificate(&genesis())),
            (2, certificate(&genesis())),
        ];
        let mut certificate = timeout_certificate(2, &shows);
        if !highest_shown {
            certificate.highest = common::certificate(&genesis());
        }
        certificate
    };
    harms_only_with(two_chain(), Mutant::HighestUnchecked, |_| {
        verify(3, &Message::TimedOut(Box::new(hides(false)))).is_ok()
    });
    harms_only_with(two_chain(), Mutant::HighestUnchecked, |config| {
        let mut node = Node::of_four(1, config);
        node.follow(&main);
        let fork = block(3, &genesis(), &["fork"]);
        !node
            .votes_for(proposal_with(&fork, Some(hides(true))))
            .is_empty()
    });
}

/// What is fetched is believed by its digest.
#[test]
fn blocks_that_are_not_those_asked_for_are_executed_by_who_trusts_their_sender() {
    harms_only(Mutant::UnverifiedAncestorTrusted, |config| {
        let main = branch(&genesis(), &[1, 2, 3]);
        let mut node = Node::of_four(3, config);
        node.follow(&main[1..]);
        let lie = block(1, &genesis(), &["lie"]);
        node.receive(r(2), Message::Blocks(vec![lie]));
        node.learn(&main[2].id());
        node.commands().first().map(String::as_str) == Some("lie")
    });
}

/// A state is believed by its proof.
#[test]
fn a_state_believed_without_a_proof_may_be_any_liars() {
    harms_only(Mutant::SnapshotWithoutCertificate, |config| {
        Node::of_four(1, config).protocol.accepts(&SnapshotRef {
            at: Frontier::single(Slot(4)),
            digest: Digest::of(b"a lie"),
            anchor: bytes::Bytes::new(),
        })
    });
}

#[test]
fn a_batch_that_is_in_the_branch_already_is_committed_twice() {
    harms_only(Mutant::BranchNotLookedAt, |config| {
        let mut cluster = cluster(4, config);
        cluster.propose(0, "x");
        let commands = cluster.node(0).commands();
        commands.concat().matches('x').count() > 1
    });
}

/// Requests are disseminated to all, so that no leader can drop them for ever.
#[test]
fn requests_that_only_the_leader_has_are_lost_with_it() {
    harms_only(Mutant::RequestsToLeaderOnly, |config| {
        let mut cluster = cluster(4, config);
        cluster.isolate(1);
        cluster.node(0).propose("x");
        cluster.deliver();
        cluster.isolate(0);
        for id in [2, 3] {
            cluster.node(id).take();
        }
        cluster.time_out();
        !cluster.node(2).timers.contains_key(&Timer::View)
    });
}

/// A silent leader costs one time-out in each of its turns.
#[test]
fn a_silent_leader_that_is_waited_for_twice_holds_requests_up_for_two_timeouts() {
    harms_only(Mutant::SilentLeaderWaitedForTwice, |config| {
        let mut cluster = cluster(4, config);
        cluster.isolate(0);
        cluster.propose(1, "x");
        cluster.time_out();
        cluster.node(1).view() == 4
    });
}

/// A time-out that liars lengthen is what they cost from then on.
#[test]
fn a_timeout_that_grows_with_each_view_given_up_is_as_long_as_liars_like() {
    harms_only(Mutant::TimeoutGrowsWithLiars, |config| {
        let mut node = Node::of_four(3, config);
        node.propose("x");
        for view in 1..=2 {
            let certificate = given_up(view, &genesis());
            node.receive(r(0), Message::TimedOut(Box::new(certificate)));
        }
        node.timers[&Timer::View].since(node.now) > config.view_timeout
    });
}

/// A time-out just too short for everyone: each view is certified by the votes that come with
/// time-outs. It shrinks nevertheless where these count as in time.
#[test]
fn a_timeout_that_is_just_too_short_becomes_shorter_where_late_certificates_count() {
    harms_only(Mutant::TimeoutShrinksTooLate, |config| {
        let config = Config {
            leaders: Leaders::Listed(vec![r(0)]),
            ..config.clone()
        };
        let mut node = Node::of_four(3, &config);
        node.propose("x");
        for view in 1..=3 {
            let certificate = given_up(view, &genesis());
            node.receive(r(0), Message::TimedOut(Box::new(certificate)));
        }
        let before = node.timers[&Timer::View].since(node.now);
        for block in branch(&genesis(), &(4..=19).collect::<Vec<_>>()) {
            node.receive(r(0), proposal_by(0, &block));
            node.fire(Timer::View);
            node.learn(&block.id());
        }
        node.timers[&Timer::View].since(node.now) < before
    });
}

#[test]
fn a_timeout_that_never_shrinks_is_waited_for_long_after_the_network_is_fast_again() {
    harms_only(Mutant::TimeoutNeverShrinks, |config| {
        let mut node = Node::of_four(3, config);
        node.propose("x");
        for view in 1..=4 {
            let certificate = given_up(view, &genesis());
            node.receive(r(0), Message::TimedOut(Box::new(certificate)));
        }
        node.follow(&branch(&genesis(), &(5..40).collect::<Vec<_>>()));
        node.timers[&Timer::View].since(node.now) > config.view_timeout
    });
}

/// A replica that comes back need not wait for a time-out that has grown.
#[test]
fn timeouts_said_again_slowly_keep_a_quorum_waiting_that_is_back() {
    harms_only(Mutant::TimeoutsSaidAgainSlowly, |config| {
        let mut node = Node::of_four(3, config);
        node.propose("x");
        for view in 1..=8 {
            let certificate = given_up(view, &genesis());
            node.receive(r(0), Message::TimedOut(Box::new(certificate)));
        }
        node.fire(Timer::View);
        node.take();
        node.pass(Duration::from_secs(1));
        !kinds(&node.sent_to(r(1))).contains(&"timeout")
    });
}

/// A leader that does not hear whoever was asked would let a time-out pass.
#[test]
fn a_leader_that_nobody_tells_lets_a_timeout_pass() {
    harms_only(Mutant::LeaderNotTold, |config| {
        let mut cluster = cluster(4, config);
        cluster.block(0, 1);
        cluster.node(0).propose("x");
        cluster.deliver();
        for node in &mut cluster.nodes {
            if node.timers.contains_key(&Timer::Proposal) {
                node.fire(Timer::Proposal);
            }
        }
        cluster.deliver();
        cluster.node(2).commands().is_empty()
    });
}

/// What is certified must be had from those who voted.
#[test]
fn a_block_dropped_by_all_who_voted_for_it_is_certified_and_lost() {
    harms_only(Mutant::OpenBlocksDropped, |config| {
        let config = Config {
            max_blocks: 1,
            ..config.clone()
        };
        let mut node = Node::of_four(0, &config);
        let open = [1, 3, 5].map(|view| block(view, &genesis(), &["x"]));
        node.follow(&open);
        node.learn(&open[0].id());
        let asks = node.take().into_iter();
        asks.filter(|(_, m)| matches!(m, Message::FetchBlocks { .. }))
            .count()
            > 0
    });
}

/// A thousand blocks may have a thousand million bytes.
#[test]
fn blocks_that_lead_nowhere_fill_the_memory_of_who_only_counts_them() {
    harms_only(Mutant::BlockBytesUnbounded, |config| {
        let config = Config {
            max_blocks_bytes: 1,
            ..config.clone()
        };
        let mut node = Node::of_four(0, &config);
        let idle = block(1, &genesis(), &["x"]);
        let certified = block(2, &genesis(), &["x"]);
        node.follow(&[idle.clone(), certified.clone()]);
        let next = [3, 5].map(|view| block(view, &certified.id(), &[]));
        node.follow(&next);
        let (block, above) = (idle.id().digest, Slot::ZERO);
        let given = node.answer(r(3), Message::FetchBlocks { block, above });
        !given.is_empty()
    });
}

/// A liar could have blocks of any size ordered.
#[test]
fn a_block_of_any_size_is_voted_for_by_who_does_not_look() {
    harms_only(Mutant::BlockSizeUnchecked, |config| {
        let config = Config {
            max_block_bytes: 1,
            ..config.clone()
        };
        let mut node = Node::of_four(3, &config);
        let large = block(1, &genesis(), &["a", "b"]);
        !node.votes_for(proposal(&large)).is_empty()
    });
}

#[test]
fn an_equivocation_is_missed_by_who_remembers_the_last_statement_alone() {
    harms_only(Mutant::LaterStatementsAlone, |config| {
        let mut node = Node::of_four(2, config);
        let [x, y] = ["x", "y"].map(|text| block(1, &genesis(), &[text]));
        let later = block(5, &genesis(), &[]);
        for block in [&x, &later, &y] {
            node.receive(r(1), proposal(block));
        }
        node.protocol.equivocations().is_empty()
    });
}

/// A state is that of a correct replica if f + 1 have signed for it, and any liar's if one has.
#[test]
fn a_state_believed_by_one_word_may_be_any_liars() {
    harms_only(Mutant::StateByOneWord, |config| {
        let block = block(4, &genesis(), &["x"]).id();
        let state = Digest::of(b"a lie");
        let vote = CheckpointVote::signed(&common::signer(3), block, state);
        let signed = vec![(r(3), vote.signature)];
        let proof = CheckpointCertificate::of(block, state, signed, 1).expect("a certificate");
        let anchor = quorate_core::codec::encode(&proof).expect("an encoding");
        Node::of_four(1, config).protocol.accepts(&SnapshotRef {
            at: Frontier::single(block.height),
            digest: state,
            anchor: anchor.into(),
        })
    });
}

/// The rules of verification hold for time-out and checkpoint certificates too.
#[test]
fn every_kind_of_certificate_needs_a_quorum() {
    let id = block(1, &genesis(), &["x"]).id();
    let few = certificate_by(&id, &[0, 1]);
    assert!(verify(3, &Message::Certified(few)).is_err());
    let two = [0, 1].map(|author| (author, certificate(&genesis())));
    let few = timeout_certificate(1, &two);
    assert!(verify(3, &Message::TimedOut(Box::new(few))).is_err());
    assert!(verify(3, &Message::TimedOut(Box::new(given_up(1, &genesis())))).is_ok());
}

#[test]
fn the_invariants_hold_in_every_replica_of_a_cluster_without_mutants() {
    for rules in [RuleSet::ThreeChain, RuleSet::TwoChain] {
        let config = Config { rules, ..config() };
        let mut cluster = cluster(7, &config);
        for text in ["a", "b", "c", "d", "e"] {
            cluster.propose(3, text);
        }
        cluster.assert_invariants();
        assert_eq!(cluster.node(6).commands(), ["a", "b", "c", "d", "e"]);
        let sent = cluster.node(0).take();
        let messages: Vec<Message> = sent.into_iter().map(|(_, message)| message).collect();
        assert!(!kinds(&messages).contains(&"timeout"));
        assert!(votes(&[]).is_empty());
    }
}

/// A copy that was told again before its batch was committed, and comes after that. [Yin19 §5]
#[test]
fn a_late_copy_of_what_is_committed_is_ordered_again_by_who_does_not_ask_what_its_sender_had_seen()
{
    harms_only(Mutant::LateCopiesOrderedAgain, |config| {
        let mut cluster = cluster(4, config);
        cluster.propose(3, "x");
        let node = cluster.node(0);
        let batch = command("x");
        let seen = Slot(node.commits[0].id.slot.0 - 1);
        node.receive(r(3), Message::Forward { batch, seen });
        node.timers.contains_key(&Timer::View)
    });
}

/// What others have no room for yet is not told again by anyone but the driver, and may never meet room.
#[test]
fn own_requests_that_are_dropped_for_want_of_others_room_are_not_ordered() {
    harms_only(Mutant::OwnRequestsDropped, |config| {
        let config = Config {
            max_waiting_batches: 1,
            ..config.clone()
        };
        let mut cluster = cluster(4, &config);
        for text in ["a", "b"] {
            cluster.node(3).propose(text);
        }
        cluster.deliver();
        cluster.node(0).commands().concat() != "ab"
    });
}
