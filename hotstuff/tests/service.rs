//! What faults and lies may cost in time: how much a lone client is served with a link cut or a
//! replica down for good, how long liars can hold a cluster up, and how soon it serves again once a
//! quorum is back. All in virtual time, under both rule sets.

mod common;
mod timed;

use std::time::Duration;

use quorate_core::id::ReplicaId;
use quorate_hotstuff::{Config, Hotstuff, Leaders, Mutant, RuleSet};
use quorate_simulator::register::Change;
use quorate_simulator::{Conditions, SimulationConfig, World};
use timed::Timed;

const BOTH: [RuleSet; 2] = [RuleSet::ThreeChain, RuleSet::TwoChain];

/// How long a message takes.
const DELAY: Duration = Duration::from_millis(10);

/// Longer than anything takes here.
const LONG: Duration = Duration::from_secs(120);

fn r(id: u8) -> ReplicaId {
    ReplicaId(id)
}

fn of(rules: RuleSet) -> Config {
    Config {
        rules,
        ..Config::default()
    }
}

/// Four replicas, of which replica 2 has a session open.
fn four(config: Config) -> World<Hotstuff> {
    let config = SimulationConfig::new(4, config);
    let mut world = World::scripted(4, config, Conditions::unit_delay(DELAY));
    let opened = world.open_session(r(2));
    assert!(world.run_until(LONG, |w| w.answered(opened).is_some()));
    world
}

/// How many writes replica 2 has answered a lone client in `time`, one after the other.
fn served(world: &mut World<Hotstuff>, time: Duration) -> u64 {
    let end = world.now() + time.as_nanos() as u64;
    let mut count = 0;
    while world.now() < end {
        let put = world.submit(r(2), 1, Change::Put(count));
        assert!(world.run_until(LONG, |w| w.answered(put).is_some()));
        count += 1;
    }
    count
}

const HALF_A_MINUTE: Duration = Duration::from_secs(30);

/// Each of six links in turn, with all four replicas correct.
#[test]
fn a_lone_client_loses_less_than_half_to_a_link_cut_for_good() {
    for rules in BOTH {
        let all_up = served(&mut four(of(rules)), HALF_A_MINUTE);
        for (one, other) in [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)] {
            let mut world = four(of(rules));
            world.cut(r(one), r(other));
            world.cut(r(other), r(one));
            let cut = served(&mut world, HALF_A_MINUTE);
            println!("{rules:?}: {all_up} with all up, {cut} with {one} and {other} apart");
            assert!(2 * cut >= all_up, "{rules:?}: {cut} of {all_up}");
        }
    }
}

/// Each but the client's own, down for good.
#[test]
fn a_lone_client_loses_less_than_half_to_a_replica_down_for_good() {
    for rules in BOTH {
        let all_up = served(&mut four(of(rules)), HALF_A_MINUTE);
        for down in [0, 1, 3] {
            let mut world = four(of(rules));
            world.crash(r(down));
            let rest = served(&mut world, HALF_A_MINUTE);
            println!("{rules:?}: {all_up} with all up, {rest} without {down}");
            assert!(2 * rest >= all_up, "{rules:?}: {rest} of {all_up}");
        }
    }
}

/// Two of four are away for most of a minute, and one comes back.
#[test]
fn a_cluster_serves_within_a_second_of_its_quorums_return() {
    for rules in BOTH {
        for away in [2_000, 10_300, 50_000, 51_700] {
            let mut world = four(of(rules));
            served(&mut world, Duration::from_secs(1));
            world.crash(r(0));
            world.crash(r(3));
            let put = world.submit(r(2), 1, Change::Put(7));
            world.run_for(Duration::from_millis(away));
            assert_eq!(world.answered(put), None);
            world.restart(r(3));
            let back = world.now();
            assert!(world.run_until(LONG, |w| w.answered(put).is_some()));
            let took = Duration::from_nanos(world.now() - back);
            println!("{rules:?}: {took:?} after {away} ms");
            assert!(took <= Duration::from_secs(1), "{rules:?}: {took:?}");
        }
    }
}

/// The same with a network that falls in two, and is whole again.
#[test]
fn a_cluster_serves_within_a_second_of_its_networks_return() {
    for rules in BOTH {
        let mut world = four(of(rules));
        served(&mut world, Duration::from_secs(1));
        world.split([r(0), r(1)].into_iter().collect());
        let put = world.submit(r(2), 1, Change::Put(7));
        world.run_for(Duration::from_secs(50));
        assert_eq!(world.answered(put), None);
        world.mend();
        let back = world.now();
        assert!(world.run_until(LONG, |w| w.answered(put).is_some()));
        let took = Duration::from_nanos(world.now() - back);
        println!("{rules:?}: {took:?}");
        assert!(took <= Duration::from_secs(1), "{rules:?}: {took:?}");
    }
}

/// How long each lap of n views takes among `n` replicas, of which `liars` say nothing but, at
/// once, that they give each view up.
fn laps(n: usize, liars: &[u8], config: &Config, count: u64) -> Vec<Duration> {
    let mut world = Timed::new(n, liars, config, DELAY);
    let mut laps = Vec::new();
    let (mut from, mut next) = (world.now(), world.view() + n as u64);
    while (laps.len() as u64) < count {
        world.step();
        if world.view() >= next {
            laps.push(world.now().since(from));
            (from, next) = (world.now(), next + n as u64);
        }
    }
    laps
}

/// Each liar can have two views given up in each of its turns: the one whose votes it should have
/// gathered, and its own. Whatever it sends, that is what it costs.
#[test]
fn early_timeouts_of_liars_cost_two_timeouts_of_each_in_a_lap_and_less_and_less() {
    for (n, liars) in [(7, &[0, 3][..]), (10, &[0, 3, 6])] {
        for rules in BOTH {
            let config = of(rules);
            let laps = laps(n, liars, &config, 60);
            let bound = config.view_timeout * (2 * liars.len() as u32) + DELAY * (6 * n as u32);
            let longest = laps.iter().max().copied().unwrap_or_default();
            let all: Duration = laps.iter().sum();
            println!("{rules:?}, {n}: {longest:?} for the longest of 60 laps, {all:?} for all");
            assert!(longest <= bound, "{rules:?}, {n}: {longest:?} in a lap");
            assert!(all <= bound * 8, "{rules:?}, {n}: {all:?} for all");
        }
    }
}

/// Where nobody rests, they cost as much in each lap, and no more: the time-out does not grow with what they account for.
#[test]
fn early_timeouts_of_liars_that_lead_in_each_lap_have_no_timeout_grow() {
    for (n, liars) in [(7, &[0, 3][..]), (10, &[0, 3, 6])] {
        let config = Config {
            leaders: Leaders::Rotate,
            ..Config::default()
        };
        let bound = config.view_timeout * (2 * liars.len() as u32) + DELAY * (6 * n as u32);
        let longest = laps(n, liars, &config, 60).into_iter().max();
        println!("{n}: {longest:?} for the longest of 60 laps");
        assert!(longest <= Some(bound), "{n}: {longest:?} in a lap");
    }
}

/// Neither rule alone is enough.
#[test]
fn without_a_rule_early_timeouts_of_liars_cost_more() {
    let bound = Config::default().view_timeout * 4 + DELAY * 42;
    let grows = Config {
        mutant: Some(Mutant::TimeoutGrowsWithLiars),
        ..Config::default()
    };
    let longest = laps(7, &[0, 3], &grows, 3).into_iter().max();
    assert!(longest > Some(bound), "{longest:?}");
    let in_turn = Config {
        leaders: Leaders::Rotate,
        ..Config::default()
    };
    let all: Duration = laps(7, &[0, 3], &in_turn, 60).iter().sum();
    assert!(all > bound * 8, "{all:?}");
}
