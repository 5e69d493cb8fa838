//! EPaxos in simulated worlds: safety after every step, and liveness once the faults have ended.

mod worlds;

use std::ops::Range;
use std::time::Duration;

use quorate_core::id::{EntryId, Lane, ReplicaId, Slot};
use quorate_epaxos::{Config, EPaxos, Phase};
use quorate_simulator::register::Change;
use quorate_simulator::seeds::{OTHER_SIZES, assert_covered, assert_repeatable, from_first, told};
use quorate_simulator::{Conditions, Hardships, SimulationConfig, Summary, World, drawn, simulate};
use worlds::{config, hard};

/// After the faults have ended and the clients are served, every instance that any replica knows
/// of is committed everywhere within this much virtual time.
const COMMITTED_WITHIN: Duration = Duration::from_secs(5);

/// How many seeds are tried for each size of cluster; `QUORATE_EPAXOS_SEEDS` says another number.
fn seeds() -> u64 {
    told("QUORATE_EPAXOS_SEEDS").unwrap_or(60)
}

/// The first instance that some replica knows of and some does not know decided.
fn uncommitted(world: &World<EPaxos>) -> Option<(ReplicaId, EntryId)> {
    let replicas = || ReplicaId::all(world.size()).filter_map(|r| Some((r, world.replica(r)?)));
    let known = replicas().flat_map(|(_, replica)| {
        let instances = replica.protocol().instances();
        instances.map(|view| view.id).collect::<Vec<_>>()
    });
    known.into_iter().find_map(|id| {
        let lacks = |protocol: &EPaxos| !protocol.committed().contains(id);
        let mut who = replicas().filter(|(_, replica)| lacks(replica.protocol()));
        who.next().map(|(replica, _)| (replica, id))
    })
}

/// Runs a seed; what fails is run again, for its plan to be made shorter.
fn run(seed: u64, config: &SimulationConfig<EPaxos>) -> Summary {
    let (conditions, plan) = drawn(seed, config);
    let mut world = World::new(seed, config.clone(), conditions, plan);
    world.run();
    if world.broken().is_some() {
        match simulate(seed, config).failure {
            Some(failure) => panic!("seed {seed}: {failure}\n{config:?}"),
            None => panic!("seed {seed} fails once: {:?}, {config:?}", world.broken()),
        }
    }
    let summary = world.summary();
    // Where links are cut or disks hang for good, who is up need not come to know all.
    if !config.hardships.cuts && !config.hardships.hangs {
        world.run_until(COMMITTED_WITHIN, |world| uncommitted(world).is_none());
        assert_eq!(uncommitted(&world), None, "seed {seed}");
        assert_eq!(world.broken(), None, "seed {seed}");
    }
    summary
}

fn pass(config: &SimulationConfig<EPaxos>, seeds: Range<u64>) -> Summary {
    let sum: Summary = seeds.map(|seed| run(seed, config)).sum();
    println!(
        "{} replicas, conflicts {:?}, faults {}: {sum}",
        config.replicas, config.conflicts, config.faults
    );
    sum
}

fn pass_and_meet_all(config: &SimulationConfig<EPaxos>, seeds: Range<u64>) {
    let sum = pass(config, seeds);
    assert_covered(&sum, &[("operations without an answer", sum.unknown)]);
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    assert_repeatable(&config(3), 4);
}

#[test]
fn three_replicas_survive_all_faults() {
    pass_and_meet_all(&config(3), from_first(seeds()));
}

#[test]
fn five_replicas_survive_all_faults() {
    pass_and_meet_all(&config(5), 1_000_000..1_000_000 + seeds());
}

#[test]
fn seven_replicas_survive_all_faults() {
    pass_and_meet_all(&config(7), 2_000_000..2_000_000 + seeds());
}

#[test]
fn all_rates_of_conflicts_survive_all_faults() {
    for (replicas, base) in [(3, 3_000_000), (5, 4_000_000), (7, 5_000_000)] {
        for rate in [0, 2, 25, 50, 100] {
            let config = SimulationConfig {
                conflicts: Some(rate),
                ..config(replicas)
            };
            let from = base + u64::from(rate) * 10_000;
            pass(&config, from..from + seeds().div_ceil(5));
        }
    }
}

/// A replica that had installed a snapshot, and did not know all that it holds, took one of its own
/// and crashed: what it need not know must be in its records too, not only with the snapshot.
#[test]
fn a_snapshot_taken_after_one_was_installed_needs_no_anchor() {
    let config = SimulationConfig {
        conflicts: Some(25),
        ..config(7)
    };
    run(5_250_070, &config);
}

/// A replica that was behind had installed a snapshot, and needed another; another replica was not
/// sure of what it had coordinated. An answer to Validate need not wait for what the command names.
#[test]
fn a_replica_that_lacks_what_it_executed_speaks_against_what_it_can() {
    run(684, &config(3));
}

/// Two replicas needed snapshots that hold what each had executed, and asked different peers. Each
/// peer kept for the one that had not asked it what it had to trim before it could offer a newer
/// snapshot to the other.
#[test]
fn two_replicas_that_need_snapshots_of_different_peers_get_them() {
    let config = SimulationConfig {
        conflicts: Some(50),
        ..config(5)
    };
    run(294, &config);
}

/// A replica that had installed a snapshot lacked instances further beyond what its peers had
/// trimmed than it looks after at a time, and looked no further although all before them came to be
/// known.
#[test]
fn a_replica_asks_for_all_it_lacks_beyond_what_is_trimmed() {
    let config = SimulationConfig {
        conflicts: Some(25),
        ..config(3)
    };
    run(35, &config);
}

/// Up to f replicas are lost for good, and of the others fewer than a majority are up at a time before the
/// end: the seeds that two coordinators in doubt of their own commands would not survive.
#[test]
fn f_replicas_lost_for_good_are_survived_whatever_restarted_before() {
    let lost = Hardships {
        lost: true,
        ..Hardships::NONE
    };
    for (replicas, base) in [(3, 6_000_000), (5, 6_100_000), (7, 6_200_000)] {
        let config = SimulationConfig {
            conflicts: Some(50),
            ..hard(replicas, lost)
        };
        pass(&config, base..base + seeds());
    }
}

#[test]
fn limits_that_exceed_each_other_are_survived() {
    let narrow = Hardships {
        limits: true,
        lost: true,
        ..Hardships::NONE
    };
    for (replicas, base) in [(3, 7_000_000), (5, 7_100_000), (7, 7_200_000)] {
        pass(&hard(replicas, narrow), base..base + seeds());
    }
}

#[test]
fn all_hardships_together_are_survived() {
    for (replicas, base) in [(3, 8_000_000), (5, 8_100_000), (7, 8_200_000)] {
        pass(&hard(replicas, Hardships::ALL), base..base + seeds());
    }
}

/// With all but mute peers: a replica whose disk hangs rejected all others' recoveries (8100017), a coordinator gave
/// its slow path up for one rejection (8200048), and ballots of those that no quorum answers kept the one from
/// recovering that all answer (8200054).
#[test]
fn recoveries_end_beside_those_that_come_to_nothing() {
    let hardships = Hardships {
        mute: false,
        ..Hardships::ALL
    };
    for (replicas, seed) in [(5, 8_100_017), (7, 8_200_048), (7, 8_200_054)] {
        run(seed, &hard(replicas, hardships));
    }
}

#[test]
fn clusters_of_other_sizes_survive_the_faults_they_can() {
    for (replicas, faults) in OTHER_SIZES {
        let config = SimulationConfig {
            faults,
            ..config(replicas)
        };
        pass(&config, from_first(seeds().div_ceil(10)));
    }
}

const DELAY: Duration = Duration::from_millis(10);

/// Seeds run under conditions that count message delays.
fn scripted(replicas: usize) -> World<EPaxos> {
    scripted_with(replicas, Config::default())
}

fn scripted_with(replicas: usize, config: Config) -> World<EPaxos> {
    let mut config = SimulationConfig::new(replicas, config);
    config.settings.snapshot_every_bytes = 1 << 30;
    let mut world = World::scripted(1, config, Conditions::unit_delay(DELAY));
    let session = world.open_session(ReplicaId(0));
    assert!(world.run_until(10 * DELAY, |w| w.answered(session).is_some()));
    // All have told each other how far they are, and have no more to say.
    world.run_for(Duration::from_secs(1));
    world
}

fn instance(lane: u8, slot: u64) -> EntryId {
    EntryId {
        lane: Lane(lane),
        slot: Slot(slot),
    }
}

/// The coordinator crashes at each half delay from proposing to after its commit has arrived, with
/// and without a rival; the others get everything committed, and so does it when it is back.
#[test]
fn a_coordinator_may_crash_at_each_step_of_the_commit_path() {
    for replicas in [3, 5, 7] {
        for rival in [false, true] {
            for halves in 0..12 {
                let mut world = scripted(replicas);
                world.submit(ReplicaId(0), 1, Change::Put(1));
                if rival {
                    world.submit(ReplicaId(1), 1, Change::Put(2));
                }
                world.run_for(DELAY / 2 * halves);
                world.crash(ReplicaId(0));
                let case = format!("{replicas} replicas, rival {rival}, {halves} halves");
                assert!(
                    world.run_until(COMMITTED_WITHIN, |w| uncommitted(w).is_none()),
                    "{case}: {:?}",
                    uncommitted(&world)
                );
                world.restart(ReplicaId(0));
                world.run_for(COMMITTED_WITHIN);
                assert_eq!(uncommitted(&world), None, "{case}");
                assert_eq!(world.broken(), None, "{case}");
                let first = world.replica(ReplicaId(0)).expect("it is up").applied();
                for other in ReplicaId::all(replicas) {
                    let other = world.replica(other).expect("it is up");
                    assert_eq!(other.applied(), first, "{case}");
                }
            }
        }
    }
}

/// As before, for three; the coordinator is back at once, and another replica is then down for good:
/// also the only one that had heard of the command.
#[test]
fn after_a_coordinators_restart_another_replica_may_be_down_for_good() {
    for (rival, alone) in [(false, false), (false, true), (true, false)] {
        for gone in [1, 2] {
            for halves in 0..12 {
                let mut world = scripted(3);
                if alone {
                    world.cut(ReplicaId(0), ReplicaId(3 - gone));
                }
                world.submit(ReplicaId(0), 1, Change::Put(1));
                if rival {
                    world.submit(ReplicaId(1), 1, Change::Put(2));
                }
                world.run_for(DELAY / 2 * halves);
                world.crash(ReplicaId(0));
                world.crash(ReplicaId(gone));
                world.mend();
                world.restart(ReplicaId(0));
                let case = format!("rival {rival}, alone {alone}, {gone} down, {halves} halves");
                assert!(
                    world.run_until(COMMITTED_WITHIN, |w| uncommitted(w).is_none()),
                    "{case}: {:?}",
                    uncommitted(&world)
                );
                world.restart(ReplicaId(gone));
                world.run_for(COMMITTED_WITHIN);
                assert_eq!(uncommitted(&world), None, "{case}");
                assert_eq!(world.broken(), None, "{case}");
            }
        }
    }
}

/// What the facade tells its users, with nobody's help: f are down for good, and the others have each taken a command of the
/// same key while they were alone, and restarted, in every order. The commands are answered, and those after them.
#[test]
fn any_majority_serves_whatever_restarted_before() {
    for (replicas, rounds) in [(3, 1), (3, 2), (5, 1), (7, 1)] {
        let down = replicas / 2;
        let living: Vec<ReplicaId> = ReplicaId::all(replicas).skip(down).collect();
        for first in 0..living.len() {
            let case = format!("{replicas} replicas, {first} first, {rounds} rounds");
            let mut world = scripted(replicas);
            ReplicaId::all(down).for_each(|gone| world.crash(gone));
            let mut puts = Vec::new();
            let order = living.iter().cycle().skip(first);
            let order = order.take(rounds * living.len()).copied();
            for at in order {
                // Nobody hears it, or all of the living do.
                if at.index() % 2 == 0 {
                    world.isolate(at);
                }
                puts.push(world.submit(at, 1, Change::Put(at.index() as u64)));
                world.run_for(DELAY / 2);
                world.crash(at);
                world.mend();
                world.restart(at);
            }
            let at = ReplicaId(down as u8);
            for put in puts {
                world.submit_again(put, at);
                let answered = world.run_until(COMMITTED_WITHIN, |w| w.answered(put).is_some());
                assert!(answered, "{case}: {put:?}");
            }
            let committed = world.run_until(COMMITTED_WITHIN, |w| uncommitted(w).is_none());
            assert!(committed, "{case}: {:?}", uncommitted(&world));
            assert_eq!(world.broken(), None, "{case}");
        }
    }
}

fn of_kind(world: &World<EPaxos>, kinds: &[&str]) -> u64 {
    let ledger = world.total_ledger();
    let sent = kinds.iter().filter_map(|kind| ledger.sent.get(kind));
    sent.map(|sent| sent.messages).sum()
}

const FAST: [&str; 3] = ["pre_accept", "pre_accept_ok", "commit"];
const SLOW: [&str; 5] = [
    "pre_accept",
    "pre_accept_ok",
    "accept",
    "accept_ok",
    "commit",
];

/// A command of r1's that nothing conflicts with is answered there two delays later.
fn put_in_two_delays(world: &mut World<EPaxos>) {
    let put = world.submit(ReplicaId(1), 1, Change::Put(1));
    let from = world.now();
    assert!(world.run_until(3 * DELAY, |w| w.answered(put).is_some()));
    let at = world.answered(put).expect("an answer").at;
    assert_eq!(at - from, 2 * DELAY.as_nanos() as u64);
}

/// 3 (n - 1) messages, two delays to the coordinator's answer, and one record a replica: that the
/// command is committed is written with the next.
#[test]
fn the_fast_path_costs_three_messages_for_each_other_replica_and_two_delays() {
    for replicas in [3, 5, 7] {
        let mut world = scripted(replicas);
        let (before, records) = (of_kind(&world, &SLOW), world.total_ledger().records);
        put_in_two_delays(&mut world);
        world.run_for(2 * DELAY);
        let others = replicas as u64 - 1;
        assert_eq!(of_kind(&world, &FAST), of_kind(&world, &SLOW));
        assert_eq!(of_kind(&world, &SLOW) - before, 3 * others);
        let records = world.total_ledger().records - records;
        assert_eq!(records, replicas as u64);
    }
}

/// Where nothing is in the way only a fast quorum is asked: 2 (n - e - 1) messages, and n - 1 that
/// tell the decision, of which none is sent again in full.
#[test]
fn a_thrifty_fast_path_costs_two_messages_for_each_other_of_the_quorum() {
    for (replicas, fast) in [(3, 2), (5, 3), (7, 5)] {
        let config = Config {
            thrifty_after: 0,
            thrifty_requests: 1,
            thrifty_wait: 5 * DELAY,
            ..Config::default()
        };
        let mut world = scripted_with(replicas, config);
        let before = of_kind(&world, &SLOW);
        put_in_two_delays(&mut world);
        world.run_for(3 * DELAY);
        assert_eq!(uncommitted(&world), None);
        assert_eq!(of_kind(&world, &FAST), of_kind(&world, &SLOW));
        let sent = of_kind(&world, &SLOW) - before;
        assert_eq!(sent, 2 * (fast - 1) + replicas as u64 - 1);
    }
}

/// In worlds with faults too: otherwise they would say nothing of it.
#[test]
fn in_worlds_with_faults_some_coordinators_ask_a_fast_quorum_only() {
    let asked = |thrifty_after| {
        let config = SimulationConfig {
            conflicts: Some(0),
            protocol: Config {
                thrifty_after,
                thrifty_requests: 1,
                ..Config::cramped()
            },
            ..config(5)
        };
        let seeds = from_first(seeds().div_ceil(10));
        let asked = seeds.map(|seed| {
            let (conditions, plan) = drawn(seed, &config);
            let mut world = World::new(seed, config.clone(), conditions, plan);
            world.run();
            of_kind(&world, &["pre_accept"])
        });
        asked.sum::<u64>()
    };
    let (some, all) = (asked(Config::cramped().thrifty_after), asked(u32::MAX));
    println!("{some} messages ask where only a fast quorum may be asked, {all} where all are");
    assert!(some < all, "{some} and {all}");
}

/// 5 (n - 1) messages, four delays to the commit, and two records a replica: that the command is
/// committed is written with the next. The conflict is a
/// command of a coordinator that has crashed, which only one replica has heard of.
#[test]
fn the_slow_path_costs_five_messages_for_each_other_replica_and_four_delays() {
    for replicas in [3, 5] {
        let mut world = scripted(replicas);
        let gone = ReplicaId(replicas as u8 - 1);
        for other in ReplicaId::all(replicas).filter(|r| *r != ReplicaId(0) && *r != gone) {
            world.cut(gone, other);
        }
        world.submit(gone, 1, Change::Put(1));
        world.run_for(3 * DELAY / 2);
        world.crash(gone);
        world.mend();
        world.run_for(DELAY);
        let (before, records) = (of_kind(&world, &SLOW), world.total_ledger().records);
        world.submit(ReplicaId(1), 1, Change::Put(2));
        let decided = |w: &World<EPaxos>| {
            let replica = w.replica(ReplicaId(1)).expect("it is up");
            let view = replica.protocol().instance(instance(1, 1));
            view.is_some_and(|view| view.phase == Phase::Committed)
        };
        let from = world.now();
        assert!(world.run_until(5 * DELAY, decided));
        assert_eq!(world.now() - from, 4 * DELAY.as_nanos() as u64);
        world.run_for(3 * DELAY / 2);
        // The one that is down answers nothing.
        let (n, down) = (replicas as u64, 2);
        assert_eq!(of_kind(&world, &SLOW) - before, 5 * (n - 1) - down);
        let records = world.total_ledger().records - records;
        assert_eq!(records, 2 * (n - 1));
    }
}
