//! What a cluster does when a quorum that was gone for long is back, and when a replica comes back
//! under load: in worlds with virtual time.

mod worlds;

use std::time::Duration;

use quorate_core::id::ReplicaId;
use quorate_pbft::{Config, Mutant, Pbft};
use quorate_simulator::register::Change;
use quorate_simulator::{Conditions, SimulationConfig, World};
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

const DELAY: Duration = Duration::from_millis(1);

fn r(index: u8) -> ReplicaId {
    ReplicaId(index)
}

/// How a quorum is lost.
#[derive(Clone, Copy, Debug)]
enum Outage {
    /// These two crash; then the first is back.
    Crash([u8; 2]),
    /// These two are cut off from all; then all are connected.
    Isolated([u8; 2]),
    /// Nobody hears anybody.
    AllIsolated,
    /// Each hears its neighbours only.
    Chain([u8; 4]),
    /// Three crash, and two are back.
    CrashOfThree([u8; 3]),
}

impl Outage {
    fn all() -> Vec<Outage> {
        let mut outages = vec![Outage::AllIsolated];
        for one in 0..4 {
            for other in (0..4).filter(|other| *other != one) {
                outages.extend([Outage::Crash([one, other]), Outage::Isolated([one, other])]);
                let rest: Vec<u8> = (0..4).filter(|id| ![one, other].contains(id)).collect();
                outages.push(Outage::Chain([rest[0], one, other, rest[1]]));
                outages.push(Outage::CrashOfThree([one, other, rest[0]]));
            }
        }
        outages
    }

    fn begin(self, world: &mut World<Pbft>) {
        match self {
            Outage::Crash(down) => down.into_iter().for_each(|id| world.crash(r(id))),
            Outage::CrashOfThree(down) => down.into_iter().for_each(|id| world.crash(r(id))),
            Outage::Isolated(alone) => alone.into_iter().for_each(|id| world.isolate(r(id))),
            Outage::AllIsolated => (0..4).for_each(|id| world.isolate(r(id))),
            Outage::Chain([a, b, c, d]) => {
                for (one, other) in [(a, c), (a, d), (b, d)] {
                    world.cut(r(one), r(other));
                    world.cut(r(other), r(one));
                }
            }
        }
    }

    fn end(self, world: &mut World<Pbft>) {
        match self {
            Outage::Crash([first, _]) => world.restart(r(first)),
            Outage::CrashOfThree([one, other, _]) => {
                world.restart(r(one));
                world.restart(r(other));
            }
            Outage::Isolated(_) | Outage::AllIsolated | Outage::Chain(_) => world.mend(),
        }
    }
}

fn world(seed: u64, protocol: Config) -> World<Pbft> {
    let config = SimulationConfig::<Pbft>::new(4, protocol);
    let mut world = World::scripted(seed, config, Conditions::unit_delay(DELAY));
    let opened = world.open_session(r(0));
    assert!(world.run_until(DELAY * 20, |w| w.answered(opened).is_some()));
    world
}

fn live(world: &World<Pbft>) -> Vec<ReplicaId> {
    let all = ReplicaId::all(4);
    all.filter(|id| world.replica(*id).is_some()).collect()
}

/// How long after 50 s in which links come and go, most of them gone, a command through any replica
/// takes at most.
fn served_after_flapping(seed: u64, protocol: &Config) -> Option<Duration> {
    let mut world = world(seed, protocol.clone());
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    for round in 0..100 {
        world.mend();
        for (from, to) in ReplicaId::all(4).flat_map(|a| ReplicaId::all(4).map(move |b| (a, b))) {
            if from != to && random.random_bool(0.55) {
                world.cut(from, to);
            }
        }
        for id in live(&world) {
            world.submit(id, 1, Change::Put(round));
        }
        world.run_for(Duration::from_millis(500));
    }
    world.mend();
    all_served(&mut world)
}

/// How long after an outage of 50 s, in which clients go on asking, a command through any replica that
/// is up takes at most.
fn served_after(outage: Outage, protocol: &Config) -> Option<Duration> {
    let mut world = world(1, protocol.clone());
    outage.begin(&mut world);
    for round in 0..100 {
        for id in live(&world) {
            world.submit(id, 1, Change::Put(round));
        }
        world.run_for(Duration::from_millis(500));
    }
    outage.end(&mut world);
    all_served(&mut world)
}

/// How long a command through any replica that is up takes at most.
fn all_served(world: &mut World<Pbft>) -> Option<Duration> {
    let from = world.now();
    let puts: Vec<_> = live(world)
        .into_iter()
        .map(|id| world.submit(id, 2, Change::Put(7)))
        .collect();
    world.run_until(Duration::from_secs(60), |w| {
        puts.iter().all(|put| w.answered(*put).is_some())
    });
    let took = puts.iter().map(|put| Some(world.answered(*put)?.at - from));
    let took: Option<Vec<u64>> = took.collect();
    took?.into_iter().max().map(Duration::from_nanos)
}

/// "Within a second of the quorum's return."
#[test]
fn a_cluster_serves_within_a_second_of_its_quorums_return() {
    let slow = Outage::all().into_iter().filter_map(|outage| {
        let took = served_after(outage, &Config::default());
        println!("{outage:?}: {took:?}");
        let slow = took.is_none_or(|took| took > Duration::from_secs(1));
        slow.then_some((outage, took))
    });
    let slow: Vec<_> = slow.collect();
    assert!(slow.is_empty(), "{slow:?}");
}

#[test]
fn a_cluster_that_waits_for_the_silent_serves_late() {
    let config = Config {
        mutant: Some(Mutant::SilentAwaited),
        ..Config::default()
    };
    let took = served_after(Outage::Crash([2, 1]), &config);
    assert!(
        took.is_none_or(|took| took > Duration::from_secs(1)),
        "{took:?}"
    );
}

/// Nor when links came and went all the time, most of them gone.
#[test]
fn a_cluster_whose_links_came_and_went_serves_within_a_second_when_they_are_back() {
    for seed in 0..2 {
        let took = served_after_flapping(seed, &Config::default());
        assert!(
            took.is_some_and(|took| took < Duration::from_secs(1)),
            "{took:?}"
        );
    }
}

/// Replica 3 is down for a second under load, and then back, with clients of its own. It catches up by
/// a few slots at a time. Gives how many campaigns there were.
fn campaigns_of_one_who_rejoins(mutant: Option<Mutant>) -> u64 {
    let mut world = world(
        3,
        Config {
            mutant,
            checkpoint_every: 2000,
            window: 4000,
            max_resent_slots: 3,
            ..Config::default()
        },
    );
    let load = |world: &mut World<Pbft>, ids: &[u8], millis: u64| {
        for round in 0..millis / 4 {
            for id in ids {
                world.submit(r(*id), 1, Change::Put(round));
            }
            world.run_for(Duration::from_millis(4));
        }
    };
    load(&mut world, &[0, 1, 2, 3], 40);
    world.crash(r(3));
    load(&mut world, &[0, 1, 2], 1_000);
    world.restart(r(3));
    load(&mut world, &[0, 1, 2, 3], 1_200);
    world.summary().campaigns
}

/// What it lacks is not the primary's fault.
#[test]
fn a_replica_that_comes_back_under_load_asks_for_no_other_primary_before_it_has_caught_up() {
    assert_eq!(campaigns_of_one_who_rejoins(None), 0);
    assert!(campaigns_of_one_who_rejoins(Some(Mutant::BehindCampaigns)) > 0);
}
