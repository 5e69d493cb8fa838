//! PBFT in simulated worlds, whose replicas crash and whose network is bad.

use std::time::Duration;

use quorate_core::id::ReplicaId;
use quorate_core::replica::Mutant;
use quorate_pbft::{Config, Pbft};
use quorate_simulator::register::Change;
use quorate_simulator::{
    Conditions, Faults, Rule, Scenario, SimulationConfig, Summary, World, simulate,
};

/// How many seeds are tried for each size of cluster; `QUORATE_PBFT_SEEDS` says another
/// number, for a world with signatures costs a hundred times one without.
#[expect(
    clippy::disallowed_methods,
    reason = "how long to test is the tester's"
)]
fn seeds() -> u64 {
    let given = std::env::var("QUORATE_PBFT_SEEDS").ok();
    given.and_then(|seeds| seeds.parse().ok()).unwrap_or(60)
}

/// Small windows, so that checkpoints are taken and states fetched often.
fn config(replicas: usize) -> SimulationConfig<Pbft> {
    let config = Config {
        request_timeout: Duration::from_millis(300),
        checkpoint_every: 8,
        window: 16,
        max_early_messages: 32,
        max_resent_slots: 8,
        max_resent_bytes: 600,
        ..Config::default()
    };
    SimulationConfig::new(replicas, config)
}

fn run(replicas: usize, faults: Faults, seeds: u64) -> Summary {
    let mut sum = Summary::default();
    let config = SimulationConfig {
        faults,
        ..config(replicas)
    };
    for seed in 0..seeds {
        let report = simulate(seed, &config);
        if let Some(failure) = report.failure {
            panic!("seed {seed}: {failure}");
        }
        sum.add(&report.summary);
    }
    println!("{replicas} replicas, faults {faults}, {seeds} seeds: {sum}");
    sum
}

fn assert_covered(sum: &Summary) {
    for (what, count) in [
        ("view changes", sum.leaders),
        ("crashes with loss", sum.crashes_with_loss),
        ("torn writes", sum.torn_crashes),
        ("disk failures", sum.disk_failures),
        ("pauses", sum.pauses),
        ("partitions", sum.partitions),
        ("snapshots taken", sum.snapshots_taken),
        ("snapshots fetched", sum.snapshots_installed),
        ("restarts from snapshots", sum.snapshots_recovered),
        ("lost frames", sum.frames_lost),
        ("repeated frames", sum.frames_repeated),
    ] {
        assert!(count > 0, "the worlds saw no {what}: {sum}");
    }
}

/// Exactly once hangs on the sessions: a state that is transferred, or restarted from, without
/// them lets commands run twice, or makes replicas differ.
#[test]
fn states_without_their_sessions_do_harm() {
    let mut config = SimulationConfig {
        faults: Faults::All,
        liars: 0,
        shrink_runs: 0,
        ..config(4)
    };
    config.settings.mutant = Some(Mutant::SessionsLeftOutOfSnapshot);
    let mut broken = (0..60).filter_map(|seed| simulate(seed, &config).failure);
    let harm = [Rule::ExactlyOnce, Rule::EqualState];
    assert!(broken.any(|failure| harm.contains(&failure.broken.rule)));
}

#[test]
fn four_replicas_serve_without_faults() {
    run(4, Faults::None, seeds() / 10 + 1);
}

#[test]
fn four_replicas_survive_all_faults() {
    assert_covered(&run(4, Faults::All, seeds()));
}

#[test]
fn seven_replicas_survive_all_faults() {
    assert_covered(&run(7, Faults::All, seeds() / 3));
}

#[test]
fn each_scenario_can_be_drawn() {
    for scenario in Scenario::ELECTING {
        let config = SimulationConfig {
            liars: 0,
            ..config(4)
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
