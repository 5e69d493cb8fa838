//! Hardships: each strikes, and those that it leaves are held to liveness.

use std::time::Duration;

use quorate_core::id::{ReplicaId, ReplicaSet};
use quorate_core::replica::Mutant;
use quorate_simulator::seeds::{assert_hardships, assert_repeatable, assert_violated, survive};
use quorate_simulator::{
    Broken, Conditions, FOR_GOOD, Fault, Faults, Hardships, Plan, Planned, Rule, SimulationConfig,
    Summary, Victim, World, drawn, vary,
};

use super::protocol::{FixedLeader, Flaw};

const R: [ReplicaId; 3] = [ReplicaId(0), ReplicaId(1), ReplicaId(2)];

fn config(flaw: Option<Flaw>) -> SimulationConfig<FixedLeader> {
    SimulationConfig {
        faults: Faults::None,
        ..SimulationConfig::new(3, flaw)
    }
}

/// What becomes of a world that these strike.
fn struck(
    flaw: Option<Flaw>,
    faults: &[(Duration, Duration, Fault)],
    connected: Option<ReplicaSet>,
) -> World<FixedLeader> {
    let conditions = Conditions::unit_delay(Duration::from_millis(1));
    let planned = faults.iter().map(|(at, lasts, fault)| Planned {
        at: at.as_nanos() as u64,
        lasts: u64::try_from(lasts.as_nanos()).unwrap_or(FOR_GOOD),
        fault: *fault,
    });
    let plan = Plan {
        faults: planned.collect(),
        connected,
        ..Plan::default()
    };
    let mut world = World::new(1, config(flaw), conditions, plan);
    world.run();
    world
}

const EVER: Duration = Duration::MAX;
const EARLY: Duration = Duration::from_millis(300);
const SOON: Duration = Duration::from_secs(1);

fn rule(world: &World<FixedLeader>) -> Option<Rule> {
    world.broken().map(|broken| broken.rule)
}

fn broken(world: &World<FixedLeader>) -> Option<&Broken> {
    world.broken()
}

#[test]
fn a_replica_that_is_lost_stays_down_and_the_others_must_serve() {
    for at in [EARLY, config(None).fault_time] {
        let crash = Fault::Crash(Victim::Replica(R[2]));
        let faults = [(EARLY, SOON, crash), (at, EVER, Fault::Lost(R[2]))];
        let world = struck(None, &faults, None);
        assert_eq!(broken(&world), None);
        assert!(world.replica(R[2]).is_none());
        assert_eq!(world.summary().lost, 1);
        let world = struck(None, &[(at, EVER, Fault::Lost(R[0]))], None);
        assert_eq!(rule(&world), Some(Rule::Liveness));
    }
}

#[test]
fn links_cut_for_good_excuse_only_those_that_are_not_connected() {
    let apart = |a: usize, b: usize| {
        let cuts = [Fault::Cut(R[a], R[b]), Fault::Cut(R[b], R[a])];
        cuts.map(|cut| (EARLY, EVER, cut))
    };
    let only = |served: &[usize]| Some(served.iter().map(|r| R[*r]).collect());
    let world = struck(None, &apart(1, 2), None);
    assert_eq!(broken(&world), None, "it is a star around the leader");
    let world = struck(None, &apart(0, 2), only(&[0, 1]));
    assert_eq!(broken(&world), None);
    assert_eq!(world.summary().links_cut, 2);
    let world = struck(None, &apart(0, 2), None);
    assert_eq!(rule(&world), Some(Rule::Liveness));
    let one_way = [(EARLY, EVER, Fault::Cut(R[0], R[2]))];
    let world = struck(None, &one_way, only(&[2]));
    assert_eq!(rule(&world), Some(Rule::Liveness));
}

#[test]
fn a_sync_hangs_until_the_fault_ends_or_for_good() {
    let hang = |victim| Fault::Hang(Victim::Replica(victim));
    for lasts in [SOON, EVER] {
        let world = struck(None, &[(EARLY, lasts, hang(R[1]))], None);
        assert_eq!(broken(&world), None);
        assert!(world.summary().syncs_hung > 0);
    }
    let both = [(EARLY, EVER, hang(R[1])), (EARLY, EVER, hang(R[2]))];
    let world = struck(None, &both, None);
    assert_eq!(rule(&world), Some(Rule::Liveness));
}

/// Nothing new is taken where there is no room, and all is again when there is.
#[test]
fn a_full_disk_refuses_commands_until_there_is_room() {
    let full = |lasts| (EARLY, lasts, Fault::Full(Victim::All));
    let good = struck(None, &[], None);
    let world = struck(None, &[full(SOON)], None);
    assert_eq!(broken(&world), None);
    assert_eq!(world.summary().disks_full, 3);
    assert!(world.summary().failed > good.summary().failed);
    let world = struck(None, &[full(EVER)], None);
    assert_eq!(rule(&world), Some(Rule::Liveness));
}

/// Replica 2 is down for long enough to need a snapshot.
#[test]
fn a_fetch_from_a_replica_that_is_mute_is_not_answered_or_late() {
    let down = (EARLY, SOON, Fault::Crash(Victim::Replica(R[2])));
    let world = struck(Some(Flaw::Fetches), &[down], None);
    assert_eq!(broken(&world), None);
    assert!(world.summary().snapshots_installed > 0);
    let late = Some(Duration::from_secs(1).as_nanos() as u64);
    let mute = (Duration::ZERO, EVER, Fault::Mute(R[0], late));
    let world = struck(Some(Flaw::Fetches), &[down, mute], None);
    assert_eq!(broken(&world), None);
    assert!(world.summary().fetches_unanswered > 0);
}

fn fetching(mutant: Option<Mutant>) -> SimulationConfig<FixedLeader> {
    let mut config = SimulationConfig::new(3, Some(Flaw::Fetches));
    // Those that are asked have what is asked for.
    config.settings.snapshot_every_bytes = 1;
    config.settings.mutant = mutant;
    config.hardships.mute = true;
    config.shrink_runs = 0;
    config
}

#[test]
fn fetches_that_some_replicas_never_answer_are_survived() {
    let config = fetching(None);
    let sum = survive(&config, 0..60);
    assert_hardships(&sum, config.hardships);
}

/// Without replicas that are mute no seed of the same notices.
#[test]
fn a_fetch_that_is_never_given_up_is_not_live() {
    let mut config = fetching(Some(Mutant::FetchNeverGivenUp));
    assert_violated(&config, 0..60, &[Rule::Liveness]);
    config.hardships.mute = false;
    survive(&config, 0..60);
}

#[test]
fn limits_are_drawn_by_seed() {
    let mut config = SimulationConfig::<FixedLeader>::new(3, None);
    config.hardships.limits = true;
    config.limits = Some(|random, _, settings| {
        vary(random, &mut settings.max_command_bytes, &[100, 1_000]);
    });
    survive(&config, 0..30);
    assert_repeatable(&config, 7);
}

#[test]
fn all_hardships_are_met_and_what_follows_from_a_seed_is_the_same_each_time() {
    let hardships = Hardships {
        // Without its leader this protocol is never live.
        lost: false,
        cuts: false,
        hubs: false,
        hangs: false,
        ..Hardships::ALL
    };
    let config = SimulationConfig {
        hardships,
        ..SimulationConfig::<FixedLeader>::new(3, None)
    };
    let sum: Summary = survive(&config, 0..30);
    let without_fetches = Hardships {
        mute: false,
        ..hardships
    };
    assert_hardships(&sum, without_fetches);
    let all = SimulationConfig {
        hardships: Hardships::ALL,
        shrink_runs: 0,
        ..config
    };
    assert_repeatable(&all, 3);
}

#[test]
fn old_seeds_meet_the_same_faults_with_hardships_and_without() {
    let without = SimulationConfig::<FixedLeader>::new(3, None);
    let with = SimulationConfig {
        hardships: Hardships::ALL,
        ..without.clone()
    };
    for seed in 0..20 {
        let (conditions, plan) = drawn(seed, &without);
        let (same, more) = drawn(seed, &with);
        assert_eq!(conditions, same);
        assert_eq!(plan.faults, more.faults[..plan.faults.len()]);
        assert_eq!(plan.liars, more.liars);
    }
}

#[test]
fn the_replay_line_says_which_hardships_there_were() {
    let config = SimulationConfig {
        hardships: Hardships {
            lost: true,
            hubs: true,
            ..Hardships::NONE
        },
        shrink_runs: 0,
        ..SimulationConfig::<FixedLeader>::new(3, Some(Flaw::CommitsAlone))
    };
    let mut reports = (0..60).map(|seed| quorate_simulator::simulate(seed, &config));
    let failure = reports
        .find_map(|report| report.failure)
        .expect("no seed failed");
    let replay = failure.replay;
    assert!(
        replay.contains("--faults all --hardships lost,hubs --"),
        "{replay}"
    );
}
