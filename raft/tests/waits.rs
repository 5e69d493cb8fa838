//! Waits that must end: worlds in virtual time in which something is slow, hangs, or is gone for
//! good, and service is demanded all the same.

use std::time::Duration;

use quorate_core::id::ReplicaId;
use quorate_core::protocol::Role;
use quorate_raft::{Config, Mutant, Raft};
use quorate_simulator::register::Change;
use quorate_simulator::{Conditions, Fault, SimulationConfig, Spread, Victim, World};

const DELAY: Duration = Duration::from_millis(1);

fn millis(from: u64, to: u64) -> Spread {
    Spread::between(from * 1_000_000, to * 1_000_000)
}

/// A world of replicas with defaults, and with one rule less if one is named.
fn world(
    seed: u64,
    replicas: usize,
    conditions: Conditions,
    mutant: Option<Mutant>,
) -> World<Raft> {
    let config = Config {
        mutant,
        ..Config::default()
    };
    World::scripted(seed, SimulationConfig::new(replicas, config), conditions)
}

/// How long it takes until a leader has committed something.
fn served(world: &mut World<Raft>, limit: Duration) -> Option<Duration> {
    let from = world.now();
    let opened = world.open_session(ReplicaId(0));
    let done = world.run_until(limit, |w| w.answered(opened).is_some());
    done.then(|| Duration::from_nanos(world.now() - from))
}

fn role(world: &World<Raft>, replica: ReplicaId) -> Option<Role> {
    Some(world.replica(replica)?.status().role)
}

/// A world with a leader that all follow.
fn led(seed: u64, replicas: usize, mutant: Option<Mutant>) -> (World<Raft>, ReplicaId) {
    let conditions = Conditions::unit_delay(DELAY);
    let mut world = world(seed, replicas, conditions, mutant);
    assert!(served(&mut world, Duration::from_secs(5)).is_some());
    world.run_for(Duration::from_millis(100));
    let leader = world.leader().unwrap();
    (world, leader)
}

/// Any replica but these.
fn other(world: &World<Raft>, than: &[ReplicaId]) -> ReplicaId {
    let mut all = ReplicaId::all(world.size());
    all.find(|replica| !than.contains(replica)).unwrap()
}

/// How long a put at `at` takes.
fn put(world: &mut World<Raft>, at: ReplicaId, value: u64) -> Option<Duration> {
    world.latency(at, (1, Change::Put(value)), Duration::from_secs(20))
}

/// How long a cluster of `replicas` whose disks take `from` to `to` milliseconds takes to serve.
fn slow(seed: u64, replicas: usize, (from, to): (u64, u64)) -> World<Raft> {
    let conditions = Conditions {
        sync: millis(from, to),
        ..Conditions::unit_delay(DELAY)
    };
    let mut world = world(seed, replicas, conditions, None);
    // Up to two time-outs, a sync under way, the votes', and the first entry's.
    served(&mut world, Duration::from_millis(600 + 3 * to));
    world
}

/// A campaign waits for disks that take longer than the time-out. When it waited for two syncs in
/// sequence, and was given up for another term, 120 s saw no leader and 500 terms.
#[test]
fn disks_slower_than_the_timeout_elect_a_leader_in_one_campaign_or_two() {
    for (from, to) in [(300, 400), (500, 700), (900, 1_000)] {
        for replicas in [3, 5] {
            let mut late = 0;
            for seed in 0..20 {
                let mut world = slow(seed, replicas, (from, to));
                late += u32::from(world.leader().is_none());
                let campaigns = world.summary().campaigns;
                assert!(
                    campaigns <= 2,
                    "{campaigns}, {from} to {to} ms, seed {seed}"
                );
                world.run_for(Duration::from_secs(20));
                assert!(world.leader().is_some(), "{from} to {to} ms, seed {seed}");
                assert!(world.summary().campaigns <= 3, "it stays");
            }
            // One sync in 64 is up to twelve times as slow.
            assert!(late <= 2, "{late} of 20 late, {from} to {to} ms");
        }
    }
}

/// Links slower than the time-out: nobody hears a leader in time at first.
#[test]
fn a_leader_that_hears_its_quorum_late_leads_on() {
    let conditions = Conditions::unit_delay(Duration::from_millis(120));
    for seed in 0..10 {
        let mut world = world(seed, 3, conditions.clone(), None);
        assert!(
            served(&mut world, Duration::from_secs(10)).is_some(),
            "{seed}"
        );
        let campaigns = world.summary().campaigns;
        world.run_for(Duration::from_secs(20));
        assert_eq!(world.summary().campaigns, campaigns);
    }
}

/// A leader that is heard and hears nobody, for good. [OngaroThesis §6.2]
fn deafened(seed: u64, replicas: usize, mutant: Option<Mutant>) -> Option<Duration> {
    let (mut world, leader) = led(seed, replicas, mutant);
    let others = ReplicaId::all(replicas).filter(|replica| *replica != leader);
    for peer in others {
        world.cut(peer, leader);
    }
    let from = world.now();
    let at = other(&world, &[leader]);
    put(&mut world, at, 1)?;
    let took = Duration::from_nanos(world.now() - from);
    world.run_for(Duration::from_secs(20));
    assert_eq!(role(&world, leader), Some(Role::Candidate), "it asks");
    Some(took)
}

#[test]
fn a_leader_that_is_heard_and_hears_nobody_costs_no_more_than_two_elections() {
    for replicas in [3, 5] {
        for seed in 0..10 {
            let took = deafened(seed, replicas, None);
            // One time-out until it steps down, up to two until another asks, a retry after.
            let limit = Duration::from_millis(1_400);
            assert!(took.is_some_and(|took| took < limit), "{seed}: {took:?}");
        }
    }
    assert_eq!(deafened(0, 3, Some(Mutant::LeadUnheard)), None);
}

/// How often another replica than the first leader says that it leads, while one is cut off again
/// and again, and comes back.
fn depositions(mutant: Option<Mutant>) -> u64 {
    let (mut world, leader) = led(1, 3, mutant);
    let away = other(&world, &[leader]);
    let before = world.summary().leaders;
    for value in 0..5 {
        world.isolate(away);
        world.run_for(Duration::from_secs(5));
        world.mend();
        world.run_for(Duration::from_secs(1));
        assert!(put(&mut world, leader, value).is_some());
    }
    world.summary().leaders - before
}

#[test]
fn a_replica_that_was_cut_off_and_comes_back_deposes_nobody() {
    assert_eq!(depositions(None), 0);
    assert!(depositions(Some(Mutant::CampaignUnasked)) > 0);
}

/// f replicas are down for good, in every order, and those that are left are restarted meanwhile:
/// whatever majority is up serves.
#[test]
fn any_majority_that_is_up_serves_whatever_restarted_before() {
    for replicas in [3_usize, 5] {
        let f = (replicas - 1) / 2;
        for seed in 0..20 {
            let (mut world, leader) = led(seed, replicas, None);
            let turn = seed as usize % replicas;
            let mut order: Vec<ReplicaId> = ReplicaId::all(replicas).collect();
            order.rotate_left(turn);
            let (down, left) = order.split_at(f);
            world.submit(leader, 1, Change::Put(1));
            world.run_for(DELAY / 2 * (seed as u32 % 5));
            for replica in down {
                world.crash(*replica);
            }
            for replica in left {
                world.crash(*replica);
                world.restart(*replica);
                world.run_for(DELAY * (seed as u32 % 3));
            }
            for (value, at) in left.iter().enumerate() {
                let took = put(&mut world, *at, value as u64);
                assert!(
                    took.is_some_and(|took| took < Duration::from_secs(2)),
                    "{replicas} replicas, seed {seed}, at {at}: {took:?}"
                );
            }
            assert_eq!(world.broken(), None);
        }
    }
}

/// A read at the leader, while its disk and those of the others write for somebody else.
#[test]
fn a_read_takes_a_round_trip_whatever_the_disks_write() {
    let conditions = Conditions {
        sync: Spread::exactly(20_000_000),
        ..Conditions::unit_delay(DELAY)
    };
    let mut world = world(1, 3, conditions, None);
    assert!(served(&mut world, Duration::from_secs(5)).is_some());
    let leader = world.leader().unwrap();
    world.run_for(Duration::from_millis(100));
    for value in 0..20 {
        world.submit(leader, 2, Change::Put(value));
        world.run_for(3 * DELAY);
        let from = world.now();
        let read = world.read(leader, 1);
        assert!(world.run_until(Duration::from_secs(1), |w| w.answered(read).is_some()));
        let took = Duration::from_nanos(world.now() - from);
        assert!(took <= 3 * DELAY, "{took:?}");
    }
}

/// How long one of `replicas` that no longer hears the leader takes to have something written, all
/// other links being good; and how often another leads since.
fn unheard(seed: u64, replicas: usize, both: bool, mutant: Option<Mutant>) -> Option<Duration> {
    let (mut world, leader) = led(seed, replicas, mutant);
    let away = other(&world, &[leader]);
    let from = world.now();
    world.cut(leader, away);
    if both {
        world.cut(away, leader);
    }
    put(&mut world, away, 1)?;
    let took = Duration::from_nanos(world.now() - from);
    let before = world.summary().leaders;
    world.run_for(Duration::from_secs(20));
    assert_eq!(world.summary().leaders, before, "one leader for good");
    Some(took)
}

#[test]
fn one_link_of_many_that_is_cut_for_good_leaves_nobody_without_a_leader() {
    for replicas in [3, 5] {
        for seed in 0..10 {
            for both in [true, false] {
                let took = unheard(seed, replicas, both, None);
                // Three time-outs of up to 600 ms, and asking again after a second.
                let limit = Duration::from_secs(3);
                assert!(took.is_some_and(|took| took < limit), "{seed}: {took:?}");
            }
        }
    }
    assert_eq!(
        unheard(0, 3, true, Some(Mutant::LeadWhereOneIsUnheard)),
        None
    );
}

/// A chain of five: nobody hears all. The middle serves, and leaders change ever more rarely.
#[test]
fn where_no_leader_hears_all_leaders_change_ever_more_rarely() {
    for seed in 0..5 {
        let (mut world, _) = led(seed, 5, None);
        for one in ReplicaId::all(5) {
            for other in ReplicaId::all(5) {
                if one.index().abs_diff(other.index()) > 1 {
                    world.cut(one, other);
                }
            }
        }
        let mut changes = Vec::new();
        for value in 0..6 {
            let before = world.summary().leaders;
            world.run_for(Duration::from_secs(20));
            let took = put(&mut world, ReplicaId(2), value);
            assert!(took.is_some(), "seed {seed}");
            changes.push(world.summary().leaders - before);
        }
        assert!(changes[1..].iter().all(|count| *count <= 4), "{changes:?}");
    }
}

/// How many snapshots a replica fetches that comes back while writes go on, each snapshot taking a
/// second to be saved, and the leader compacting its log as often as it can; none if it never catches
/// up.
fn fetched(held: usize, mutant: Option<Mutant>) -> Option<u64> {
    let protocol = Config {
        max_held_bytes: held,
        mutant,
        ..Config::cramped()
    };
    let conditions = Conditions {
        save: Spread::exactly(1_000_000_000),
        ..Conditions::unit_delay(DELAY)
    };
    let mut world = World::scripted(1, SimulationConfig::new(3, protocol), conditions);
    served(&mut world, Duration::from_secs(5))?;
    world.run_for(Duration::from_millis(100));
    let leader = world.leader()?;
    let back = other(&world, &[leader]);
    let applied = |world: &World<Raft>, at| Some(world.replica(at)?.applied().slot().0);
    world.crash(back);
    for value in 0..10_000 {
        if value == 1_000 {
            world.restart(back);
        }
        world.submit(leader, 1, Change::Put(value));
        world.run_for(2 * DELAY);
        if value > 1_000 && applied(&world, back)? + 10 > applied(&world, leader)? {
            return Some(world.summary().snapshots_installed);
        }
    }
    None
}

/// Within the bound one snapshot is enough; what is written while it is saved does not fit beyond it,
/// and the replica fetches as long as writes go on.
#[test]
fn a_replica_that_comes_back_fetches_one_snapshot_while_writes_go_on() {
    assert_eq!(fetched(1 << 20, None), Some(1));
    assert_eq!(fetched(1_000, None), None);
    assert_eq!(fetched(1 << 20, Some(Mutant::CompactPastFetches)), None);
}

/// A leader whose disk hangs for good, while those of the others write.
fn hung(seed: u64, replicas: usize, mutant: Option<Mutant>) -> Option<Duration> {
    let (mut world, leader) = led(seed, replicas, mutant);
    world.begin(Fault::Hang(Victim::Replica(leader)));
    let at = other(&world, &[leader]);
    let from = world.now();
    for value in 0..50_000 {
        world.submit(at, 1, Change::Put(value));
        world.run_for(DELAY);
        if world.leader().is_some_and(|leads| leads != leader) {
            let took = Duration::from_nanos(world.now() - from);
            put(&mut world, at, value)?;
            return Some(took);
        }
    }
    None
}

#[test]
fn a_leader_whose_disk_hangs_makes_way_after_its_time_and_an_election() {
    for replicas in [3, 5] {
        for seed in 0..5 {
            let took = hung(seed, replicas, None);
            let limit = Config::default().disk_timeout + Duration::from_millis(200);
            assert!(took.is_some_and(|took| took < limit), "{seed}: {took:?}");
        }
    }
    assert_eq!(hung(0, 3, Some(Mutant::LeadWithoutDisk)), None);
}
