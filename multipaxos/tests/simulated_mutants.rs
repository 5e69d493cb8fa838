//! Safety rules switched off, in simulated worlds: some seed must show it, and as a violation of a
//! rule that the mutant truly endangers.
//!
//! `mutants.rs` and its neighbours have a script for each rule, also for those that no seed of thousands
//! broke: a promise forgotten does harm only if two leaders meet at one acceptor within a restart; a
//! lease overstayed, only within the last tenth of it; a read by an earlier round, only if an echo is on
//! its way for longer than an election takes, which 3,000 worlds with drawn limits, and 650 with
//! elections as short as messages, did not have. That reads give way to each other, that they begin anew,
//! and that what is under way is proposed again, 2,000 worlds each did not show; those of Raft show the
//! first and the last.

mod worlds;

use quorate_core::replica;
use quorate_multipaxos::{MultiPaxos, Mutant, QuorumRule, ReadMode};
use quorate_simulator::seeds::assert_violated;
use quorate_simulator::{Hardships, Rule, SimulationConfig};

/// How many seeds a mutant may take to be found.
const SEEDS: u64 = 3_000;

fn config(replicas: usize, reads: ReadMode) -> SimulationConfig<MultiPaxos> {
    SimulationConfig {
        shrink_runs: 0,
        ..worlds::config(replicas, reads)
    }
}

#[track_caller]
fn assert_found(config: &SimulationConfig<MultiPaxos>, expected: &[Rule]) {
    assert_violated(config, 0..SEEDS, expected);
}

#[track_caller]
fn assert_breaks(mutant: Mutant, replicas: usize, expected: &[Rule]) {
    let mut config = config(replicas, ReadMode::Quorum);
    config.protocol.mutant = Some(mutant);
    assert_found(&config, expected);
}

#[test]
fn promise_before_sync() {
    let mut config = config(3, ReadMode::Quorum);
    config.settings.mutant = Some(replica::Mutant::PromiseBeforeSync);
    assert_found(&config, &[Rule::Agreement, Rule::Linearizability]);
}

#[test]
fn value_not_from_the_highest_ballot() {
    let mut config = config(3, ReadMode::Quorum);
    config.protocol.mutant = Some(Mutant::ValueNotFromHighestBallot);
    assert_violated(&config, 8_000..11_000, &[Rule::Agreement]);
}

#[test]
fn accept_that_does_not_raise_the_promise() {
    assert_breaks(Mutant::AcceptDoesNotRaisePromise, 5, &[Rule::Invariant]);
}

#[test]
fn ballot_reused_after_a_restart() {
    assert_breaks(Mutant::BallotReusedAfterRestart, 3, &[Rule::Agreement]);
}

#[test]
fn promises_merged_at_the_wrong_offset() {
    assert_breaks(Mutant::PromisesMergedAtWrongOffset, 5, &[Rule::Agreement]);
}

#[test]
fn quorums_that_do_not_intersect() {
    assert_breaks(Mutant::QuorumsDoNotIntersect, 3, &[Rule::Agreement]);
}

#[test]
fn unexecuted_slots_trimmed() {
    assert_breaks(Mutant::UnexecutedSlotsTrimmed, 3, &[Rule::Invariant]);
}

#[test]
fn catch_up_from_the_compacted_range() {
    assert_breaks(Mutant::CatchUpFromCompactedRange, 3, &[Rule::Agreement]);
}

#[test]
fn gap_skipped() {
    assert_breaks(Mutant::GapSkipped, 3, &[Rule::Agreement]);
}

#[test]
fn noop_over_a_chosen_value() {
    assert_breaks(Mutant::NoopOverChosenValue, 3, &[Rule::Agreement]);
}

/// Only windows that parts of promises exceed show it.
#[test]
fn chosen_values_forgotten_beyond_the_window() {
    let mut config = SimulationConfig {
        shrink_runs: 0,
        ..worlds::with_drawn_limits(3, ReadMode::Quorum)
    };
    config.protocol.mutant = Some(Mutant::ChosenForgottenBeyondWindow);
    assert_found(&config, &[Rule::Agreement, Rule::Invariant]);
}

/// Leases let a read see what was taught and not chosen, before it is lost.
#[test]
fn learn_answered_with_what_is_not_chosen() {
    let mut config = SimulationConfig {
        shrink_runs: 0,
        ..worlds::with_drawn_limits(3, ReadMode::Lease)
    };
    config.protocol.mutant = Some(Mutant::LearnAnsweredWithUnchosen);
    let rules = [Rule::Linearizability, Rule::Agreement, Rule::Invariant];
    assert_found(&config, &rules);
}

/// Only quorums of unlike size tell one from the other. [Howard16 §3]
#[test]
fn quorum_read_settled_by_a_phase_2_quorum() {
    let mut config = config(5, ReadMode::Quorum);
    config.protocol.quorums = QuorumRule::Flexible { q1: 4, q2: 2 };
    config.protocol.mutant = Some(Mutant::ReadByPhase2Quorum);
    assert_found(&config, &[Rule::Linearizability]);
}

#[test]
fn watermark_that_confirms_an_older_ballot() {
    let expected = &[Rule::Agreement];
    assert_breaks(Mutant::WatermarkConfirmsOlderBallot, 3, expected);
}

#[test]
fn read_without_waiting() {
    assert_breaks(Mutant::ReadWithoutWaiting, 3, &[Rule::Linearizability]);
}

#[test]
fn read_before_the_election_point() {
    let mut config = config(3, ReadMode::Lease);
    config.protocol.mutant = Some(Mutant::ReadBeforeElectionPoint);
    assert_found(&config, &[Rule::Linearizability]);
}

/// Where elections take no longer than messages, promises come late.
#[test]
fn stale_promise_counted() {
    let millis = std::time::Duration::from_millis;
    let mut config = config(3, ReadMode::Quorum);
    config.protocol.election_timeout = millis(20);
    config.protocol.lease = millis(20);
    config.protocol.heartbeat = millis(4);
    config.protocol.retransmit = millis(10);
    config.protocol.mutant = Some(Mutant::StalePromiseCounted);
    assert_violated(&config, 170..180, &[Rule::Agreement, Rule::Invariant]);
}

/// Worlds with all hardships.
fn hard(replicas: usize) -> SimulationConfig<MultiPaxos> {
    SimulationConfig {
        shrink_runs: 0,
        hardships: Hardships::ALL,
        ..worlds::with_drawn_limits(replicas, ReadMode::Quorum)
    }
}

#[track_caller]
fn assert_waits(mutant: Mutant, replicas: usize, seeds: std::ops::Range<u64>) {
    let mut config = hard(replicas);
    config.protocol.mutant = Some(mutant);
    assert_violated(&config, seeds, &[Rule::Liveness]);
}

#[test]
fn elect_without_disk() {
    assert_waits(Mutant::ElectWithoutDisk, 5, 0..SEEDS);
}

#[test]
fn lead_ahead_alone() {
    assert_waits(Mutant::LeadAheadAlone, 3, 700..720);
}

/// A replica is told by one peer to fetch more than another has, and has to come near to that one.
#[test]
fn short_answers_forgotten() {
    let mut config = hard(5);
    config.settings.mutant = Some(replica::Mutant::ShortAnswersForgotten);
    assert_violated(&config, 7_000..10_000, &[Rule::Liveness]);
}
