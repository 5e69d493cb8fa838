//! Multi-Paxos in simulated worlds.

mod worlds;

use std::time::Duration;

use quorate_core::id::ReplicaId;
use quorate_multipaxos::{Config, MultiPaxos, QuorumRule, ReadMode};
use quorate_simulator::register::Change;
use quorate_simulator::seeds::{
    OTHER_SIZES, assert_covered, assert_repeatable, from_first, survive, told,
};
use quorate_simulator::{Conditions, Scenario, SimulationConfig, Summary, World};
use worlds::{config, with_drawn_limits};

/// How many seeds are tried for each size of cluster; `QUORATE_SEEDS` says another number.
fn seeds() -> u64 {
    told("QUORATE_SEEDS").unwrap_or(200)
}

fn pass(config: &SimulationConfig<MultiPaxos>, count: u64) -> Summary {
    println!("reads by {:?}:", config.protocol.reads);
    survive(config, from_first(count))
}

fn pass_and_meet_all(config: &SimulationConfig<MultiPaxos>, count: u64) {
    let sum = pass(config, count);
    let also = [
        ("operations without an answer", sum.unknown),
        ("elections", sum.leaders),
    ];
    assert_covered(&sum, &also);
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for reads in [ReadMode::Quorum, ReadMode::Lease, ReadMode::Log] {
        assert_repeatable(&config(3, reads), 4);
    }
}

#[test]
fn three_replicas_survive_all_faults() {
    pass_and_meet_all(&with_drawn_limits(3, ReadMode::Quorum), seeds());
}

#[test]
fn five_replicas_survive_all_faults() {
    pass_and_meet_all(&with_drawn_limits(5, ReadMode::Quorum), seeds());
}

/// With room for one read, asked for again after 20 ms, each displaced the other.
#[test]
fn five_replicas_answer_each_read() {
    survive(&with_drawn_limits(5, ReadMode::Quorum), 918..919);
}

#[test]
fn three_replicas_that_read_by_lease_survive_all_faults() {
    pass_and_meet_all(&with_drawn_limits(3, ReadMode::Lease), seeds());
}

#[test]
fn five_replicas_that_read_by_lease_survive_all_faults() {
    pass_and_meet_all(&with_drawn_limits(5, ReadMode::Lease), seeds());
}

#[test]
fn replicas_that_read_through_the_log_survive_all_faults() {
    for replicas in [3, 5] {
        pass_and_meet_all(
            &with_drawn_limits(replicas, ReadMode::Log),
            seeds().div_ceil(2),
        );
    }
}

#[test]
fn clusters_of_other_sizes_survive_the_faults_they_can() {
    for (replicas, faults) in OTHER_SIZES {
        let config = SimulationConfig {
            faults,
            ..with_drawn_limits(replicas, ReadMode::Quorum)
        };
        pass(&config, seeds().div_ceil(10));
    }
}

/// Quorums of unlike size and shape, and a leader that is preferred. [Howard16 §3, §5]
#[test]
fn other_quorums_survive_all_faults() {
    for (replicas, quorums) in [
        (5, QuorumRule::Flexible { q1: 4, q2: 2 }),
        (4, QuorumRule::Flexible { q1: 3, q2: 2 }),
        (6, QuorumRule::Grid { rows: 2 }),
    ] {
        for reads in [ReadMode::Quorum, ReadMode::Lease] {
            let mut config = with_drawn_limits(replicas, reads);
            config.protocol.quorums = quorums;
            config.protocol.preferred = Some(ReplicaId(1));
            pass(&config, seeds().div_ceil(4));
        }
    }
}

#[test]
fn each_scenario_can_be_drawn() {
    for scenario in Scenario::ELECTING {
        let config = config(3, ReadMode::Quorum);
        let diagram = scenario.diagram(7, &config, 60).unwrap();
        assert!(diagram.matches("->>").count() >= 5, "{scenario}: {diagram}");
        let shows = match scenario {
            Scenario::NormalCommit => ": request",
            Scenario::Election => "leads in",
            Scenario::LeaderCrash => "crashes",
            Scenario::PartitionAndHeal => "is cut off",
            Scenario::SnapshotFetch => "installs a fetched snapshot",
            Scenario::Conflict | Scenario::CoordinatorCrash => unreachable!("{scenario}"),
        };
        assert!(diagram.contains(shows), "{scenario}: {diagram}");
    }
}

const DELAY: Duration = Duration::from_millis(1);

/// Longer than an election takes.
const LONG: Duration = Duration::from_secs(5);

/// A world with a leader that has chosen, right after a heartbeat, in which every message takes
/// [`DELAY`].
fn settled(replicas: usize, reads: ReadMode) -> (World<MultiPaxos>, ReplicaId) {
    let conditions = Conditions::unit_delay(DELAY);
    let protocol = Config {
        reads,
        ..Config::default()
    };
    let config = SimulationConfig::new(replicas, protocol);
    // A seed in which no two replicas ask for pre-votes within a round of each other.
    let mut world = World::scripted(replicas as u64 + 10, config, conditions);
    let opened = world.open_session(ReplicaId(0));
    assert!(world.run_until(LONG, |w| w.answered(opened).is_some()));
    world.run_for(10 * DELAY);
    let beats = sent(&world);
    world.run_until(Duration::from_secs(1), |w| sent(w) > beats);
    world.run_for(3 * DELAY);
    let leader = world.leader().unwrap();
    (world, leader)
}

fn sent(world: &World<MultiPaxos>) -> u64 {
    world.total_ledger().total_sent().messages
}

fn of_kind(world: &World<MultiPaxos>, kind: &str) -> u64 {
    let ledger = world.total_ledger();
    ledger.sent.get(kind).map_or(0, |traffic| traffic.messages)
}

/// A commit takes 2(n - 1) messages, the watermark riding along with the next message, and two
/// message delays at the leader. Heartbeats come on top: the run is shorter than one.
#[test]
fn a_commit_costs_two_messages_a_follower_and_two_delays() {
    for replicas in [3, 5, 7] {
        let (mut world, leader) = settled(replicas, ReadMode::Quorum);
        let (before, commits) = (sent(&world), 10);
        for value in 0..commits {
            let took = world.latency(leader, (1, Change::Put(value)), 10 * DELAY);
            assert_eq!(took, Some(2 * DELAY));
        }
        world.run_for(DELAY / 2);
        let per_commit = 2 * (replicas as u64 - 1);
        assert_eq!(sent(&world) - before, commits * per_commit);
    }
}

/// Requests that come together share a slot, and cost what one costs: 2(n - 1) messages, and one
/// record at each replica.
#[test]
fn a_batch_costs_what_one_request_costs() {
    for replicas in [3, 5] {
        let (mut world, leader) = settled(replicas, ReadMode::Quorum);
        let (before, records) = (sent(&world), world.total_ledger().records);
        let puts: Vec<_> = (0..20)
            .map(|value| world.submit(leader, 1, Change::Put(value)))
            .collect();
        let all = |w: &World<MultiPaxos>| puts.iter().all(|put| w.answered(*put).is_some());
        assert!(world.run_until(10 * DELAY, all));
        world.run_for(DELAY / 2);
        assert_eq!(sent(&world) - before, 2 * (replicas as u64 - 1));
        let records = world.total_ledger().records - records;
        assert_eq!(records, replicas as u64);
    }
}

/// A leader change takes a round of pre-votes, one of Prepare and Promise and, however many slots
/// are not chosen, one of Accept and Accepted: with the old leader down (n - 1) + (n - 2) messages
/// each, and an Echo of each follower if any are not.
#[test]
fn a_leader_change_costs_three_rounds_whatever_is_not_chosen() {
    for (replicas, unchosen) in [(3, 0), (3, 7), (5, 7)] {
        let (mut world, leader) = settled(replicas, ReadMode::Quorum);
        for peer in ReplicaId::all(replicas) {
            world.cut(peer, leader);
        }
        for value in 0..unchosen {
            world.submit(leader, 1, Change::Put(value));
            world.run_for(DELAY);
        }
        world.run_for(2 * DELAY);
        world.crash(leader);
        let kinds = [
            "pre_vote_granted",
            "prepare",
            "promise",
            "accept",
            "heartbeat",
            "accepted",
            "echo",
        ];
        let asked = of_kind(&world, "pre_vote");
        let before = kinds.map(|kind| of_kind(&world, kind));
        assert!(world.run_until(LONG, |w| w.leader().is_some_and(|l| l != leader)));
        world.run_for(5 * DELAY / 2);
        let after = kinds.map(|kind| of_kind(&world, kind));
        let cost: Vec<u64> = after.iter().zip(before).map(|(a, b)| a - b).collect();
        let n = replicas as u64;
        let announced = if unchosen > 0 { [n - 1, 0] } else { [0, n - 1] };
        let accepted = if unchosen > 0 { n - 2 } else { 0 };
        let expected = [
            n - 2,
            n - 1,
            n - 2,
            announced[0],
            announced[1],
            accepted,
            n - 2,
        ];
        assert_eq!(cost, expected, "{replicas} replicas, {unchosen} slots");
        let asked = of_kind(&world, "pre_vote") - asked;
        assert_eq!(asked, n - 1, "{replicas} replicas, {unchosen} slots");
    }
}

/// A quorum read is one round of messages between whoever asks and the others; a read by lease is
/// none at the leader, and one question to it elsewhere. Neither writes anything.
/// [Charapko19; Chandra07 §5.2]
#[test]
fn a_linearizable_read_costs_a_round_or_nothing_and_no_record() {
    for (reads, at_leader, elsewhere) in [(ReadMode::Quorum, 4, 4), (ReadMode::Lease, 0, 2)] {
        let (mut world, leader) = settled(3, reads);
        let other = ReplicaId::all(3).find(|r| *r != leader).unwrap();
        let records = world.total_ledger().records;
        for (at, messages) in [(leader, at_leader), (other, elsewhere)] {
            let (before, from) = (sent(&world), world.now());
            let read = world.read(at, 1);
            assert!(world.run_until(10 * DELAY, |w| w.answered(read).is_some()));
            let took = world.answered(read).unwrap().at - from;
            let delays = if messages == 0 { 0 } else { 2 };
            assert_eq!(took, delays * DELAY.as_nanos() as u64, "{reads:?} at {at}");
            world.run_for(2 * DELAY);
            assert_eq!(sent(&world) - before, messages, "{reads:?} at {at}");
        }
        assert_eq!(world.total_ledger().records, records);
    }
}
