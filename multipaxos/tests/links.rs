//! Some links cut for good, or a replica cut off and back: who is connected to a quorum leads, and
//! goes on leading.

use std::time::Duration;

use quorate_core::id::ReplicaId;
use quorate_multipaxos::{Config, MultiPaxos, QuorumRule};
use quorate_simulator::harness::r;
use quorate_simulator::register::Change;
use quorate_simulator::{Conditions, SimulationConfig, Spread, World};

const TIMEOUT: Duration = Duration::from_millis(300);
const DELAY: Duration = Duration::from_millis(1);

fn world(seed: u64, replicas: usize, protocol: Config) -> World<MultiPaxos> {
    let config = SimulationConfig::new(replicas, protocol);
    World::scripted(seed, config, Conditions::unit_delay(DELAY))
}

/// A world in which the script has a session and `leader` leads.
fn led_by(leader: ReplicaId, seed: u64, replicas: usize) -> World<MultiPaxos> {
    let protocol = Config {
        preferred: Some(leader),
        ..Config::default()
    };
    let mut world = world(seed, replicas, protocol);
    let opened = world.open_session(leader);
    let ready = |w: &World<MultiPaxos>| w.answered(opened).is_some() && w.leader() == Some(leader);
    assert!(world.run_until(Duration::from_secs(20), ready));
    world
}

fn cut(world: &mut World<MultiPaxos>, one: u8, other: u8) {
    world.cut(r(one), r(other));
    world.cut(r(other), r(one));
}

/// How many writes through `at` are answered within a time-out each, of so many.
fn served(world: &mut World<MultiPaxos>, at: ReplicaId, writes: u64) -> u64 {
    let answered = (0..writes).filter(|value| {
        let put = (1, Change::Put(*value));
        world.latency(at, put, TIMEOUT).is_some()
    });
    answered.count() as u64
}

/// Campaigns and leaders since these were counted.
fn since(world: &World<MultiPaxos>, before: (u64, u64)) -> (u64, u64) {
    let summary = world.summary();
    (summary.campaigns - before.0, summary.leaders - before.1)
}

fn counted(world: &World<MultiPaxos>) -> (u64, u64) {
    since(world, (0, 0))
}

/// 0 and 2 do not hear each other, and 1 hears both: whoever leads goes on.
#[test]
fn in_a_chain_of_three_the_leader_stays() {
    for leader in [0, 1, 2] {
        for seed in 0..10 {
            let mut world = led_by(r(leader), seed, 3);
            let before = counted(&world);
            cut(&mut world, 0, 2);
            world.run_for(Duration::from_secs(25));
            assert_eq!(
                since(&world, before),
                (0, 0),
                "led by {leader}, seed {seed}"
            );
            assert_eq!(served(&mut world, r(leader), 20), 20);
            assert_eq!(served(&mut world, r(1), 20), 20);
        }
    }
}

/// The same from the beginning: someone leads within two of the longest time-outs, and goes on.
#[test]
fn in_a_chain_from_the_beginning_a_leader_is_found_and_stays() {
    for replicas in [3, 5] {
        for seed in 0..20 {
            let mut world = world(seed, replicas, Config::default());
            for one in 0..replicas as u8 {
                for other in one + 2..replicas as u8 {
                    cut(&mut world, one, other);
                }
            }
            world.run_for(4 * TIMEOUT);
            let before = counted(&world);
            world.run_for(Duration::from_secs(25));
            assert_eq!(since(&world, before), (0, 0), "{replicas}, seed {seed}");
            let leader = world.leader().expect("someone leads");
            let opened = world.open_session(leader);
            world.run_until(TIMEOUT, |w| w.answered(opened).is_some());
            assert_eq!(
                served(&mut world, leader, 20),
                20,
                "{replicas}, seed {seed}"
            );
        }
    }
}

/// A chain of five whose leader is at an end, or next to it, when the links are cut: the end
/// loses its quorum, and another leads for good.
#[test]
fn in_a_chain_of_five_leadership_settles() {
    for leader in [0, 1, 2] {
        for seed in 0..10 {
            let mut world = led_by(r(leader), seed, 5);
            for (one, other) in [(0, 2), (0, 3), (0, 4), (1, 3), (1, 4), (2, 4)] {
                cut(&mut world, one, other);
            }
            world.run_for(6 * TIMEOUT);
            let before = counted(&world);
            world.run_for(Duration::from_secs(25));
            assert_eq!(
                since(&world, before),
                (0, 0),
                "led by {leader}, seed {seed}"
            );
            assert_eq!(
                served(&mut world, r(2), 20),
                20,
                "led by {leader}, seed {seed}"
            );
        }
    }
}

/// Four see nobody but a hub that has missed three seconds of writes: the hub leads, soon and for
/// good, though it must first learn what it missed. Every replica is served.
#[test]
fn a_hub_that_lags_leads() {
    for seed in 0..10 {
        let (hub, leader) = (r(2), r(0));
        let mut world = led_by(leader, seed, 5);
        world.isolate(hub);
        let until = world.now() + 3_000_000_000;
        while world.now() < until {
            served(&mut world, leader, 1);
        }
        world.mend();
        for (one, other) in [(0, 1), (0, 3), (0, 4), (1, 3), (1, 4), (3, 4)] {
            cut(&mut world, one, other);
        }
        // Two time-outs until the leader gives up, and two until the hub campaigns.
        world.run_for(5 * TIMEOUT);
        assert_eq!(world.leader(), Some(hub), "seed {seed}");
        let before = counted(&world);
        for at in ReplicaId::all(5) {
            assert_eq!(served(&mut world, at, 10), 10, "at {at}, seed {seed}");
        }
        world.run_for(Duration::from_secs(60));
        assert_eq!(since(&world, before), (0, 0), "seed {seed}");
    }
}

/// A replica that was cut off or paused for long comes back, again and again, and deposes nobody.
#[test]
fn a_replica_that_comes_back_leaves_the_leader() {
    for replicas in [3, 5] {
        let mut world = led_by(r(0), 7, replicas);
        let before = counted(&world);
        for round in 0..10 {
            let away = r(1 + round % 2);
            match round % 4 < 2 {
                true => world.isolate(away),
                false => world.crash(away),
            }
            world.run_for(Duration::from_secs(2));
            world.mend();
            world.restart(away);
            world.run_for(Duration::from_secs(1));
        }
        assert_eq!(since(&world, before), (0, 0), "{replicas} replicas");
        assert_eq!(served(&mut world, r(0), 20), 20);
    }
}

/// As many as may fail are down for good, the others restart meanwhile, in any order: someone is
/// elected, and serves.
#[test]
fn with_as_many_down_as_may_be_the_others_elect() {
    let flexible = QuorumRule::Flexible { q1: 4, q2: 2 };
    let cases = [
        (3, QuorumRule::Majority, 1),
        (5, QuorumRule::Majority, 2),
        (5, flexible, 1),
    ];
    for (replicas, quorums, down) in cases {
        for preferred in [None, Some(r(0)), Some(r(replicas as u8 - 1))] {
            for seed in 0..6 {
                let protocol = Config {
                    quorums,
                    preferred,
                    ..Config::default()
                };
                let mut world = world(seed, replicas, protocol);
                let opened = world.open_session(r(0));
                world.run_until(Duration::from_secs(5), |w| w.answered(opened).is_some());
                for id in (0..replicas as u8).rev().take(down) {
                    world.crash(r(id));
                }
                for id in 0..(replicas - down) as u8 {
                    world.crash(r(id));
                    world.run_for(Duration::from_millis(seed * 60));
                    world.restart(r(id));
                }
                world.run_for(5 * TIMEOUT);
                let at = world.leader().expect("someone leads");
                let context = format!("{replicas} replicas, {preferred:?}, seed {seed}");
                assert_eq!(served(&mut world, at, 20), 20, "{context}");
            }
        }
    }
}

/// A replica that comes back fetches a snapshot, and saves it for longer than the leader needs to
/// compact past it, with clients that write all the while: it catches up all the same.
#[test]
fn a_save_that_takes_longer_than_a_compaction_ends() {
    for seed in 0..3 {
        let (leader, away) = (r(0), r(2));
        let protocol = Config {
            preferred: Some(leader),
            retained_entries: 5,
            ..Config::default()
        };
        let conditions = Conditions {
            save: Spread::exactly(500_000_000),
            ..Conditions::unit_delay(DELAY)
        };
        let config = SimulationConfig::new(3, protocol);
        let mut world = World::scripted(seed, config, conditions);
        let opened = world.open_session(leader);
        world.run_until(Duration::from_secs(20), |w| w.answered(opened).is_some());
        world.run_until(Duration::from_secs(20), |w| w.leader() == Some(leader));
        world.crash(away);
        let write = |world: &mut World<MultiPaxos>, millis: u64| {
            let until = world.now() + millis * 1_000_000;
            while world.now() < until {
                served(world, leader, 1);
            }
        };
        write(&mut world, 1_500);
        world.restart(away);
        write(&mut world, 4_000);
        let put = world.submit(away, 1, Change::Put(1));
        write(&mut world, 300);
        assert!(
            world.answered(put).is_some(),
            "seed {seed}: it has not caught up"
        );
        let installed = world.summary().snapshots_installed;
        assert!(
            (1..=2).contains(&installed),
            "seed {seed}: {installed} snapshots"
        );
    }
}

/// A read at the leader takes a round of messages, while others write to slow disks.
#[test]
fn a_read_at_the_leader_waits_for_nobodys_disk() {
    let conditions = Conditions {
        sync: Spread::exactly(20_000_000),
        ..Conditions::unit_delay(DELAY)
    };
    let config = SimulationConfig::<MultiPaxos>::new(3, Config::default());
    let mut world = World::scripted(1, config, conditions);
    let opened = world.open_session(r(0));
    assert!(world.run_until(Duration::from_secs(20), |w| w.answered(opened).is_some()));
    world.run_for(Duration::from_millis(100));
    let leader = world.leader().expect("someone leads");
    for value in 0..20 {
        let put = world.submit(leader, 1, Change::Put(value));
        world.run_for(Duration::from_millis(value));
        let (asked, read) = (world.now(), world.read(leader, 2));
        assert!(world.run_until(3 * DELAY, |w| w.answered(read).is_some()));
        assert_eq!(world.answered(read).unwrap().at - asked, 2_000_000);
        assert!(world.run_until(TIMEOUT, |w| w.answered(put).is_some()));
    }
}
