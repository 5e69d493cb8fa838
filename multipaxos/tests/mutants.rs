//! Each rule of Multi-Paxos switched off, and the harm that follows: the tests would notice.

mod common;
mod scenarios;

use std::time::Duration;

use bytes::Bytes;
use common::{
    Cluster, Node, PaxosCluster, PaxosNode, accept, accepted, b, echo, heartbeat, prepare, promise,
    promise_from, r, records, snapshot,
};
use quorate_core::id::Slot;
use quorate_core::protocol::{Input, Protocol as _, Role};
use quorate_multipaxos::{Ballot, Config, Message, Mutant, QuorumRule, ReadMode, Timer};
use scenarios::{candidate, harms_only, node};

/// What replica 0 proposes in slot 1 when replica 1 has promised.
fn first_proposal(config: &Config, own: &[(u64, Ballot, &str)], other: Message) -> String {
    let mut node = candidate(config, 5, own);
    node.receive(r(1), other);
    node.proposed(r(2)).remove(0).1
}

/// P2c: "v" was accepted in ballot 3 by the other and maybe by the third, so it may be chosen.
/// [Lamport01 §2.2]
#[test]
fn a_value_not_from_the_highest_ballot_replaces_one_that_may_be_chosen() {
    harms_only(Mutant::ValueNotFromHighestBallot, |config| {
        let other = promise(b(5, 0), &[(1, b(3, 2), "v")]);
        first_proposal(config, &[(1, b(2, 1), "w")], other) != "v"
    });
}

/// [Lamport01 §3]
#[test]
fn a_noop_replaces_a_value_that_may_be_chosen() {
    harms_only(Mutant::NoopOverChosenValue, |config| {
        let other = promise(b(5, 0), &[(1, b(3, 2), "v")]);
        first_proposal(config, &[], other) != "v"
    });
}

/// [Lamport01 §3]
#[test]
fn promises_merged_at_the_wrong_offset_put_values_into_other_slots() {
    harms_only(Mutant::PromisesMergedAtWrongOffset, |config| {
        let other = promise(b(5, 0), &[(2, b(3, 2), "v")]);
        // In slot 1 a no-op is right.
        first_proposal(config, &[], other) == "v"
    });
}

/// P1a, after a crash. [Lamport01 §2.5]
#[test]
fn a_promise_that_is_forgotten_is_broken() {
    harms_only(Mutant::PromiseNotDurable, |config| {
        let mut node = node(config, 0, Ballot::ZERO, &[]);
        let promised = node.answer(r(2), prepare(b(5, 2), 1));
        assert_eq!(promised, [promise(b(5, 2), &[])]);
        let mut node = node.crash(config);
        let late = accept(b(4, 1), &[(1, "x")], 0);
        node.answer(r(1), late) == [accepted(b(4, 1), &[1])]
    });
}

/// The same with all its consequences: two values are chosen for a slot.
#[test]
fn a_forgotten_promise_lets_two_values_be_chosen() {
    harms_only(Mutant::PromiseNotDurable, |config| {
        let mut cluster = Cluster::led_by_0(3, config);
        // 2 is elected by 1, which forgets it, and chooses "x" with the help of nobody else yet.
        cluster.isolate(0);
        cluster.node(2).wait_for_campaign();
        let asked = cluster.node(2).take();
        let (_, prepare) = asked.into_iter().find(|(to, _)| *to == r(1)).unwrap();
        let promised = cluster.node(1).answer(r(2), prepare);
        cluster.restart(1, config);
        cluster.isolate(2);
        cluster.heal();
        cluster.isolate(2);
        // 0 has not heard of 2, and 1 has forgotten.
        cluster.propose(0, "y");
        let chosen = cluster.node(0).executed() == ["y"];
        cluster.node(2).receive(r(1), promised[0].clone());
        cluster.node(2).propose("x");
        let proposed = cluster.node(2).proposed(r(1));
        chosen && proposed == [(1, String::from("x"))]
    });
}

/// P1a. [vanRenesse15 §2]
#[test]
fn an_acceptor_that_does_not_raise_its_promise_replaces_what_may_be_chosen() {
    harms_only(Mutant::AcceptDoesNotRaisePromise, |config| {
        let mut node = node(config, 0, b(1, 1), &[]);
        node.receive(r(2), accept(b(3, 2), &[(1, "v")], 0));
        let breaks = node.protocol.check().is_err();
        node.receive(r(1), accept(b(2, 1), &[(1, "w")], 0));
        let replaced = node.durable_log()[0].2 == "w";
        assert_eq!(replaced, breaks, "the invariant tells");
        replaced
    });
}

/// [Lamport01 §2.2]
#[test]
fn a_promise_to_an_older_ballot_elects_a_leader_that_missed_something() {
    harms_only(Mutant::StalePromiseCounted, |config| {
        let mut node = candidate(config, 5, &[]);
        // Since it made this promise the acceptor has accepted a value in ballot 4.
        node.receive(r(1), promise(b(3, 0), &[]));
        node.role() == Role::Leader
    });
}

/// [Lamport01 §2.5]
#[test]
fn a_ballot_used_again_proposes_two_values() {
    harms_only(Mutant::BallotReusedAfterRestart, |config| {
        let mut node = candidate(config, 5, &[]);
        node.receive(r(1), promise(b(5, 0), &[]));
        node.syncs = false;
        node.propose("v");
        let first = (node.ballot(), node.proposed(r(2)));
        assert_eq!(first.1, [(1, String::from("v"))]);
        let mut node = node.crash(config);
        node.wait_for_campaign();
        let ballot = node.ballot();
        node.receive(r(1), promise(ballot, &[]));
        node.propose("w");
        let second = (node.ballot(), node.proposed(r(2)));
        first.0 == second.0 && first.1 != second.1
    });
}

/// [Howard16 §3]
#[test]
fn quorums_that_do_not_intersect_choose_two_values() {
    harms_only(Mutant::QuorumsDoNotIntersect, |config| {
        let mut cluster = Cluster::led_by_0(3, config);
        cluster.isolate(0);
        cluster.propose(0, "v");
        cluster.elect(1);
        cluster.propose(1, "w");
        let executed = |id: usize| cluster.nodes[id].executed();
        executed(0) == ["v"] && executed(1) == ["w"]
    });
}

/// A candidate a window behind, told of all that is chosen. [Lamport01 §2.2]
#[test]
fn what_is_forgotten_beyond_a_window_is_chosen_anew() {
    harms_only(Mutant::ChosenForgottenBeyondWindow, |config| {
        let config = Config {
            max_window: 1,
            ..config.clone()
        };
        let mut node = candidate(&config, 5, &[]);
        let told = [(1, b(3, 2), "v"), (2, b(3, 2), "w")];
        node.receive(r(1), promise_from(b(5, 0), 2, &told));
        node.propose("x");
        node.proposed(r(2)) == [(2, String::from("x"))]
    });
}

/// The crash comes between the saving of a fetched snapshot and the rewrite of the log.
/// [Chandra07 §5.5]
#[test]
fn a_log_kept_below_a_fetched_snapshot_vouches_for_what_was_not_chosen() {
    harms_only(Mutant::LogKeptBelowFetchedSnapshot, |config| {
        let held = [(1, b(1, 0), "x1"), (2, b(1, 0), "x2")];
        let mut node = node(config, 0, b(1, 0), &held);
        node.saved = Some(snapshot(1, Bytes::new()));
        let mut node = node.crash(config);
        let breaks = node.protocol.check().is_err();
        let told = node.answer(r(2), Message::Learn { from: Slot(1) });
        let vouches = matches!(&told[..], [Message::Chosen { .. }]);
        assert_eq!(vouches, breaks, "the invariant tells");
        vouches
    });
}

/// [vanRenesse15 §4]
#[test]
fn a_learn_answered_with_what_is_not_chosen_teaches_it() {
    harms_only(Mutant::LearnAnsweredWithUnchosen, |config| {
        let held = [(1, b(1, 2), "chosen"), (2, b(1, 2), "not chosen")];
        let mut teacher = node(config, 0, b(1, 2), &held);
        teacher.receive(r(2), heartbeat(b(1, 2), 1, 1));
        let mut learner = node(config, 1, b(1, 2), &[]);
        for told in teacher.answer(r(1), Message::Learn { from: Slot(1) }) {
            learner.receive(r(0), told);
        }
        assert_eq!(learner.executed()[0], "chosen");
        learner.committed() > 1
    });
}

/// A round that began before another leader was elected shows nothing of what came after.
/// [OngaroThesis §6.4]
#[test]
fn a_read_settled_by_an_earlier_round_misses_what_was_chosen() {
    harms_only(Mutant::ReadByEarlierRound, |config| {
        let mut cluster = Cluster::led_by_0(3, config);
        cluster.node(0).fire(Timer::Heartbeat);
        let beats = cluster.node(0).take();
        let mut echoes = Vec::new();
        for (to, beat) in beats {
            echoes.extend(
                cluster
                    .node(to.0)
                    .answer(r(0), beat)
                    .into_iter()
                    .map(|m| (to, m)),
            );
        }
        cluster.isolate(0);
        cluster.elect(1);
        cluster.propose(1, "v");
        assert_eq!(cluster.node(1).executed(), ["v"]);
        cluster.node(0).read(1);
        for (from, echo) in echoes {
            cluster.node(0).receive(from, echo);
        }
        assert!(cluster.node(0).executed().is_empty());
        !cluster.node(0).answered().is_empty()
    });
}

/// A replica that was cut off comes back. [OngaroThesis §9.6]
#[test]
fn a_campaign_without_a_pre_vote_deposes_a_healthy_leader() {
    harms_only(Mutant::CampaignWithoutPreVote, |config| {
        let mut cluster = Cluster::led_by_0(3, config);
        cluster.isolate(2);
        cluster.node(2).pass(Duration::from_secs(2));
        cluster.heal();
        cluster.node(2).take();
        cluster.beat(0);
        cluster.node(0).role() != Role::Leader
    });
}

/// The parts of a promise overtake each other. [Lamport01 §3]
#[test]
fn parts_that_come_early_and_are_forgotten_elect_nobody() {
    harms_only(Mutant::EarlyPartsForgotten, |config| {
        let config = &Config {
            max_message_bytes: 1,
            ..config.clone()
        };
        let held = [(1, b(1, 2), "a"), (2, b(1, 2), "b")];
        let mut acceptor = node(config, 1, b(1, 2), &held);
        let mut parts = acceptor.answer(r(0), prepare(b(2, 0), 1));
        parts.reverse();
        let mut candidate = candidate(config, 2, &[]);
        for part in parts {
            candidate.receive(r(1), part);
        }
        candidate.role() != Role::Leader
    });
}

/// Of three, one has compacted what the others lack, and gives its snapshot to nobody.
#[test]
fn a_campaign_that_compaction_ends_leaves_two_without_a_leader() {
    harms_only(Mutant::CampaignEndedByCompaction, |config| {
        let mut ahead = node(config, 1, b(1, 1), &[]);
        ahead.turn(Input::Installed(snapshot(3, Bytes::new())));
        let mut candidate = candidate(config, 2, &[]);
        for promise in ahead.answer(r(0), prepare(b(2, 0), 1)) {
            candidate.receive(r(1), promise);
        }
        candidate.receive(r(2), promise(b(2, 0), &[]));
        candidate.role() != Role::Leader
    });
}

/// Whoever hears the leader has a disk that hangs.
#[test]
fn a_leader_that_chooses_nothing_and_leads_on_serves_nobody() {
    harms_only(Mutant::LeadWithoutChoosing, |config| {
        let mut leader = candidate(config, 2, &[]);
        leader.receive(r(1), promise(b(2, 0), &[]));
        leader.propose("x");
        for round in 1..100 {
            leader.receive(r(1), echo(b(2, 0), &[], round, 0));
            leader.pass(config.heartbeat);
        }
        leader.role() == Role::Leader
    });
}

/// Two of five choose where four elect: two others, who ask each other, know nothing of it.
/// [Charapko19; Howard16 §3]
#[test]
fn a_quorum_read_settled_by_a_phase_2_quorum_misses_what_was_chosen() {
    harms_only(Mutant::ReadByPhase2Quorum, |config| {
        let config = Config {
            quorums: QuorumRule::Flexible { q1: 4, q2: 2 },
            ..config.clone()
        };
        let mut cluster = Cluster::led_by_0(5, &config);
        for away in [2, 3, 4] {
            cluster.isolate(away);
        }
        cluster.propose(0, "v");
        assert_eq!(cluster.node(0).executed(), ["v"]);
        cluster.heal();
        for away in [0, 1, 4] {
            cluster.isolate(away);
        }
        cluster.node(2).read(1);
        cluster.deliver();
        assert!(cluster.node(2).executed().is_empty());
        !cluster.node(2).answered().is_empty()
    });
}

/// [Chandra07 §5.5]
#[test]
fn slots_trimmed_before_they_are_executed_are_lost() {
    harms_only(Mutant::UnexecutedSlotsTrimmed, |config| {
        let mut node = node(config, 0, b(1, 1), &[]);
        node.receive(r(1), accept(b(1, 1), &[(1, "a"), (3, "c")], 3));
        node.take_snapshot();
        assert_eq!(node.committed(), 1);
        node.receive(r(1), accept(b(1, 1), &[(2, "b")], 3));
        node.committed() < 3
    });
}

/// [vanRenesse15 §4]
#[test]
fn catching_up_from_a_compacted_range_executes_what_was_not_chosen() {
    harms_only(Mutant::CatchUpFromCompactedRange, |config| {
        let config = Config {
            retained_entries: 0,
            ..config.clone()
        };
        let mut cluster = Cluster::led_by_0(3, &config);
        cluster.isolate(2);
        cluster.propose(0, "a");
        cluster.node(0).take_snapshot();
        cluster.heal();
        cluster.beat(0);
        cluster.node(2).executed() == [""]
    });
}

/// [Lamport01 §3]
#[test]
fn a_gap_that_is_skipped_changes_the_order() {
    harms_only(Mutant::GapSkipped, |config| {
        let mut node = node(config, 0, b(1, 1), &[]);
        node.receive(r(1), accept(b(1, 1), &[(2, "b")], 2));
        !node.executed().is_empty()
    });
}

/// P2c again, as a learner. [Lamport01 §2.2]
#[test]
fn a_watermark_does_not_vouch_for_another_ballots_value() {
    harms_only(Mutant::WatermarkConfirmsOlderBallot, |config| {
        let mut node = node(config, 0, b(1, 2), &[(1, b(1, 2), "not chosen")]);
        node.receive(r(1), heartbeat(b(2, 1), 1, 1));
        node.executed() == ["not chosen"]
    });
}

/// [Charapko19]
#[test]
fn a_read_that_does_not_wait_misses_what_was_chosen() {
    harms_only(Mutant::ReadWithoutWaiting, |config| {
        let mut cluster = Cluster::led_by_0(3, config);
        cluster.propose(0, "v");
        cluster.isolate(0);
        cluster.node(1).read(1);
        cluster.deliver();
        assert!(cluster.node(1).executed().is_empty());
        !cluster.node(1).answered().is_empty()
    });
}

fn leasing(config: &Config) -> Config {
    Config {
        reads: ReadMode::Lease,
        ..config.clone()
    }
}

/// [Chandra07 §5.2]
#[test]
fn a_read_before_the_election_point_misses_what_was_chosen() {
    harms_only(Mutant::ReadBeforeElectionPoint, |config| {
        let held = records(b(1, 0), &[(1, b(1, 2), "v")]);
        let mut node = Node::with(0, 3, &leasing(config), held);
        node.wait_for_campaign();
        node.receive(r(1), promise(b(2, 0), &[]));
        node.receive(r(1), echo(b(2, 0), &[], 1, 0));
        node.read(1);
        assert!(node.executed().is_empty());
        !node.answered().is_empty()
    });
}

/// Replica 0 leads, and 1 has just granted it a lease; 2 has not heard of it for long, campaigns,
/// and asks 1 again now.
fn leased_and_challenged(config: &Config) -> Cluster {
    let mut cluster = Cluster::led_by_0(3, config);
    cluster.isolate(2);
    cluster.node(2).wait_for_campaign();
    cluster.deliver();
    cluster.beat(0);
    cluster.heal();
    cluster.isolate(0);
    cluster
}

/// Whether 2 is elected and chooses a value, and 0 reads by its lease all the same.
fn reads_stale(cluster: &mut Cluster) -> bool {
    cluster.node(2).fire(Timer::Retransmit);
    cluster.deliver();
    cluster.propose(2, "v");
    let chosen = cluster.node(2).executed() == ["v"];
    cluster.node(0).read(1);
    assert!(cluster.node(0).executed().is_empty());
    chosen && !cluster.node(0).answered().is_empty()
}

/// The leader's clock runs 5 % too slow, and the acceptor's 5 % too fast. [Chandra07 §5.2]
#[test]
fn a_lease_without_regard_to_drift_reads_what_is_old() {
    harms_only(Mutant::LeaseIgnoresDrift, |config| {
        let mut cluster = leased_and_challenged(&leasing(config));
        // 286 ms have passed: 300 by one clock, and less than 272 by the other.
        cluster.node(1).now = cluster.node(1).now + Duration::from_millis(300);
        cluster.node(0).now = cluster.node(0).now + Duration::from_millis(272);
        reads_stale(&mut cluster)
    });
}

/// [Chandra07 §5.2]
#[test]
fn a_lease_forgotten_on_restart_lets_another_lead() {
    harms_only(Mutant::LeaseForgottenOnRestart, |config| {
        let config = leasing(config);
        let mut cluster = leased_and_challenged(&config);
        cluster.restart(1, &config);
        reads_stale(&mut cluster)
    });
}

#[test]
fn the_invariants_hold_in_every_replica_of_a_cluster_without_mutants() {
    let mut cluster = Cluster::led_by_0(5, &Config::default());
    cluster.propose(3, "x");
    cluster.elect(4);
    cluster.assert_invariants();
    let promised = cluster.node(1).durable_promise();
    assert_eq!(promised, cluster.node(4).ballot());
    assert_eq!(cluster.node(4).committed(), Slot(1).0);
}
