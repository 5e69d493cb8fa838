//! The simulator, on a protocol of which everything is known.

mod hardships;
mod protocol;

use std::time::Duration;

use protocol::{FixedLeader, Flaw};
use quorate_core::id::ReplicaId;
use quorate_core::replica::Mutant;
use quorate_simulator::register::{Change, Outcome};
use quorate_simulator::{
    Conditions, Distances, Faults, Plan, Report, Rule, Scenario, SimulationConfig, Summary, World,
    simulate,
};

fn config(flaw: Option<Flaw>) -> SimulationConfig<FixedLeader> {
    SimulationConfig::new(3, flaw)
}

/// The report of the first of many seeds that fails.
fn first_failure(config: &SimulationConfig<FixedLeader>) -> Option<Report> {
    let mut reports = (0..60).map(|seed| simulate(seed, config));
    reports.find(|report| report.failure.is_some())
}

fn assert_found(config: &SimulationConfig<FixedLeader>, rules: &[Rule]) -> Report {
    let report = first_failure(config).expect("no seed shows the flaw");
    let failure = report.failure.as_ref().unwrap();
    assert!(rules.contains(&failure.broken.rule), "{failure}");
    report
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in 0..10 {
        let silent = simulate(seed, &config(None));
        let recorded = simulate(
            seed,
            &SimulationConfig {
                record: true,
                ..config(None)
            },
        );
        assert_eq!(silent.trace_hash, recorded.trace_hash);
        assert_eq!(silent.summary, recorded.summary);
        assert_eq!(silent.history, recorded.history);
        assert!(silent.trace.is_empty() && !recorded.trace.is_empty());
        assert_ne!(
            silent.trace_hash,
            simulate(seed + 1, &config(None)).trace_hash
        );
    }
}

#[test]
fn a_sound_protocol_passes_under_all_faults() {
    let mut sum = Summary::default();
    for faults in [Faults::None, Faults::Network, Faults::Crash, Faults::All] {
        for seed in 0..15 {
            let config = SimulationConfig {
                faults,
                ..config(None)
            };
            let report = simulate(seed, &config);
            if let Some(failure) = report.failure {
                panic!("{failure}");
            }
            assert!(report.summary.ok > 0);
            assert!(faults.crash() || report.summary.crashes == 0);
            assert!(faults.network() || report.summary.partitions == 0);
            sum.add(&report.summary);
        }
    }
    for count in [
        sum.unknown,
        sum.crashes_with_loss,
        sum.torn_crashes,
        sum.disk_failures,
        sum.pauses,
        sum.partitions,
        sum.snapshots_taken,
        sum.snapshots_recovered,
        sum.frames_lost,
        sum.frames_repeated,
    ] {
        assert!(count > 0, "{sum:?}");
    }
}

#[test]
fn forgetting_what_was_committed_breaks_agreement() {
    let report = assert_found(&config(Some(Flaw::CommitsAlone)), &[Rule::Agreement]);
    let failure = report.failure.unwrap();
    assert!(!failure.shrunk.faults.is_empty());
    assert!(failure.shrunk.faults.len() <= 3, "{failure}");
    let command = format!(
        "quorate simulate --protocol fixed-leader --replicas 3 --seed {} --faults all --trace -",
        report.seed
    );
    assert_eq!(failure.replay, command);
}

#[test]
fn executing_something_else_breaks_agreement() {
    assert_found(&config(Some(Flaw::LeavesOut)), &[Rule::Agreement]);
}

#[test]
fn reading_old_values_is_not_linearizable() {
    assert_found(&config(Some(Flaw::ReadsAnywhere)), &[Rule::Linearizability]);
}

#[test]
fn falling_silent_is_not_live() {
    assert_found(&config(Some(Flaw::FallsSilent)), &[Rule::Liveness]);
}

/// A client that may give up is done in time all the same.
#[test]
fn passing_over_one_client_is_not_live() {
    let config = SimulationConfig {
        faults: Faults::None,
        operations: 5,
        fault_time: Duration::from_millis(100),
        shrink_runs: 0,
        ..config(Some(Flaw::PassesOver))
    };
    for seed in 0..5 {
        let Some(failure) = simulate(seed, &config).failure else {
            continue;
        };
        assert_eq!(failure.broken.rule, Rule::Liveness);
        let text = failure.to_string();
        assert!(text.contains("client 0 has waited 10."), "{text}");
        assert!(text.contains("for a write"), "{text}");
        return;
    }
    panic!("no client was passed over");
}

/// Every message takes 0.3 s: all operations together take longer than anything may wait, and
/// each is answered in time.
#[test]
fn a_slow_cluster_that_serves_each_client_is_live() {
    let slow = |limit| {
        let config = SimulationConfig {
            recovery_limit: limit,
            operations: 240,
            ..config(None)
        };
        let conditions = Conditions::unit_delay(Duration::from_millis(300));
        let mut world = World::new(1, config, conditions, Plan::default());
        world.run();
        world
    };
    let limit = Duration::from_secs(4);
    let world = slow(limit);
    assert_eq!(world.broken(), None);
    let all = Duration::from_nanos(world.now());
    assert!(all > config(None).fault_time + 3 * limit, "{all:?}");
    let broken = slow(Duration::from_millis(500)).broken().cloned().unwrap();
    assert_eq!(broken.rule, Rule::Liveness);
    assert!(broken.detail.starts_with("client "), "{broken}");
}

#[test]
fn executing_repeats_is_not_exactly_once() {
    let mut config = config(None);
    config.settings.mutant = Some(Mutant::ExecuteRepeats);
    assert_found(&config, &[Rule::ExactlyOnce]);
}

#[test]
fn messages_and_their_delays_are_counted() {
    let delay = Duration::from_millis(1);
    let config = SimulationConfig {
        record: true,
        ..config(None)
    };
    let mut world = World::scripted(1, config, Conditions::unit_delay(delay));
    let leader = ReplicaId(0);
    world.open_session(leader);
    world.run_for(5 * delay);
    let (before, from) = (world.total_ledger().total_sent().messages, world.now());
    let put = world.submit(leader, 3, Change::Put(5));
    assert!(world.run_until(10 * delay, |world| world.answered(put).is_some()));
    let answered = world.answered(put).unwrap();
    assert_eq!(answered.outcome, Some(Outcome::Done));
    assert_eq!(answered.at - from, 2 * delay.as_nanos() as u64);
    assert_eq!(world.total_ledger().total_sent().messages - before, 4);
    let get = world.read(leader, 3);
    world.run_for(5 * delay);
    assert_eq!(world.answered(get).and_then(|read| read.value), Some(5));
}

/// The leader's latency follows from the distances alone: to the nearest other replica and back.
#[test]
fn latency_is_that_of_the_nearest_majority() {
    let [a, b, c] = [0, 1, 2].map(ReplicaId);
    let millis = Duration::from_millis;
    let mut distances = Distances::equal(3, millis(50));
    distances.set(a, b, millis(30));
    distances.set(b, a, millis(40));
    let mut nearer = distances.clone();
    nearer.set_round_trip(a, c, millis(60));
    for (distances, expected) in [(distances, 70), (nearer, 60)] {
        let mut world = World::scripted(1, config(None), Conditions::wide_area(distances));
        world.open_session(a);
        world.run_for(millis(500));
        for value in 1..=3 {
            let put = (a.0, Change::Put(value));
            assert_eq!(world.latency(a, put, millis(100)), Some(millis(expected)));
        }
        assert_eq!(world.latency(a, (a.0, Change::Put(4)), millis(9)), None);
    }
}

#[test]
fn operations_conflict_as_often_as_is_asked_for() {
    for percent in [0, 25, 100] {
        let config = SimulationConfig {
            conflicts: Some(percent),
            faults: Faults::None,
            ..config(None)
        };
        let report = simulate(1, &config);
        assert!(report.failure.is_none() && report.summary.ok > 100);
        let keys: Vec<_> = report.history.iter().map(|o| o.key.as_str()).collect();
        let shared = keys.iter().filter(|key| **key == "k255").count();
        let share = (100 * shared / keys.len()) as u32;
        assert!(
            share.abs_diff(percent) <= percent / 2,
            "{share} for {percent}"
        );
        assert!(percent < 100 || shared == keys.len());
    }
}

#[test]
fn a_replica_that_does_not_come_to_rest_is_not_live() {
    let with = |settled| SimulationConfig {
        settled: Some(settled),
        conflicts: Some(2),
        shrink_runs: 0,
        ..config(None)
    };
    assert!(simulate(1, &with(|_| Ok(()))).failure.is_none());
    let report = simulate(1, &with(|_| Err(String::from("peace"))));
    let failure = report.failure.unwrap();
    assert_eq!(failure.broken.rule, Rule::Liveness);
    let text = failure.to_string();
    assert!(text.contains("after all clients were done"), "{failure}");
    assert!(text.contains("not at rest: peace"), "{failure}");
    assert!(text.contains("--faults all --conflicts 2 "), "{failure}");
}

#[test]
fn a_scenario_can_be_drawn() {
    let diagram = Scenario::NormalCommit
        .diagram(1, &config(None), 60)
        .unwrap();
    assert!(diagram.contains("c200->>r0: request"), "{diagram}");
    assert!(diagram.contains("r0->>r1: append"), "{diagram}");
    assert!(diagram.contains("r2->>r0: ack"), "{diagram}");
}
