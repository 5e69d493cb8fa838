//! PBFT in simulated worlds, whose replicas crash and whose network is bad.

mod worlds;

use std::time::Duration;

use quorate_core::id::ReplicaId;
use quorate_core::replica::Mutant;
use quorate_pbft::{Config, Pbft};
use quorate_simulator::register::Change;
use quorate_simulator::seeds::{
    assert_covered, assert_same_with_ed25519, assert_violated, from_first, survive,
};
use quorate_simulator::{Conditions, Faults, Rule, Scenario, SimulationConfig, World};
use worlds::{seeds, world};

/// What is usual here.
const SEEDS: u64 = 60;

fn survive_and_meet_all(replicas: usize, count: u64) {
    let sum = survive(&world(replicas, Faults::All), from_first(count));
    assert_covered(&sum, &[("view changes", sum.leaders)]);
}

/// Exactly once hangs on the sessions: a state that is transferred, or restarted from, without
/// them lets commands run twice, or makes replicas differ.
#[test]
fn states_without_their_sessions_do_harm() {
    let mut config = SimulationConfig {
        liars: 0,
        shrink_runs: 0,
        ..world(4, Faults::All)
    };
    config.settings.mutant = Some(Mutant::SessionsLeftOutOfSnapshot);
    assert_violated(&config, 0..60, &[Rule::ExactlyOnce, Rule::EqualState]);
}

#[test]
fn four_replicas_serve_without_faults() {
    survive(&world(4, Faults::None), from_first(seeds(SEEDS) / 10 + 1));
}

#[test]
fn four_replicas_survive_all_faults() {
    survive_and_meet_all(4, seeds(SEEDS));
}

#[test]
fn seven_replicas_survive_all_faults() {
    survive_and_meet_all(7, seeds(SEEDS) / 3);
}

#[test]
fn worlds_go_the_same_way_with_signatures_that_nobody_can_forge() {
    assert_same_with_ed25519(&SimulationConfig::<Pbft>::new(4, Config::cramped()), 0..5);
}

#[test]
fn each_scenario_can_be_drawn() {
    for scenario in Scenario::ELECTING {
        let config = SimulationConfig {
            liars: 0,
            ..world(4, Faults::All)
        };
        let diagram = scenario.diagram(7, &config, 90).unwrap();
        // The first view needs no election.
        let arrows = diagram.matches("->>").count();
        assert!(arrows >= 5 || scenario == Scenario::Election, "{diagram}");
        let shows = match scenario {
            Scenario::NormalCommit => ": request",
            Scenario::Election => "leads in",
            Scenario::LeaderCrash => "new_view",
            Scenario::PartitionAndHeal => "is cut off",
            Scenario::SnapshotFetch => "installs a fetched snapshot",
            Scenario::Conflict | Scenario::CoordinatorCrash => unreachable!("{scenario}"),
        };
        assert!(diagram.contains(shows), "{scenario}: {diagram}");
        println!("== {scenario}\n{diagram}");
    }
}

/// Who has nothing to do, and hears of nothing, tells of itself rarely; what happens then is served
/// as fast as ever.
#[test]
fn an_idle_cluster_is_quiet() {
    let delay = Duration::from_millis(1);
    let config = SimulationConfig::<Pbft>::new(4, Config::default());
    let mut world = World::scripted(1, config, Conditions::unit_delay(delay));
    let statuses = |world: &World<Pbft>| {
        let ledger = world.total_ledger();
        ledger.sent.get("status").map_or(0, |sent| sent.messages)
    };
    let opened = world.open_session(ReplicaId(0));
    assert!(world.run_until(delay * 20, |w| w.answered(opened).is_some()));
    world.run_for(Duration::from_secs(2));
    let before = statuses(&world);
    world.run_for(Duration::from_secs(80));
    let sent = statuses(&world) - before;
    assert_eq!(sent, 100 * 4 * 3, "one in eight rounds of 100 ms");
    let from = world.now();
    let put = world.submit(ReplicaId(1), 1, Change::Put(1));
    assert!(world.run_until(delay * 20, |w| w.answered(put).is_some()));
    let took = world.answered(put).map(|answered| answered.at - from);
    assert_eq!(took, Some(4 * delay.as_nanos() as u64), "one to forward it");
}

/// Nobody is left behind because the others are quiet: who lacks something says so, and is heard.
#[test]
fn a_replica_that_missed_the_last_batch_before_the_quiet_gets_it() {
    let delay = Duration::from_millis(1);
    let config = SimulationConfig::<Pbft>::new(4, Config::default());
    let mut world = World::scripted(1, config, Conditions::unit_delay(delay));
    let opened = world.open_session(ReplicaId(0));
    assert!(world.run_until(delay * 20, |w| w.answered(opened).is_some()));
    world.run_for(Duration::from_secs(2));
    world.isolate(ReplicaId(3));
    let put = world.submit(ReplicaId(0), 1, Change::Put(1));
    assert!(world.run_until(delay * 20, |w| w.answered(put).is_some()));
    world.run_for(Duration::from_secs(10));
    world.mend();
    world.run_for(Duration::from_secs(2));
    world.submit_again(put, ReplicaId(3));
    assert!(world.run_until(delay, |w| w.answered(put).is_some()));
    assert_eq!(world.answered(put).map(|a| a.by), Some(ReplicaId(3)));
}
