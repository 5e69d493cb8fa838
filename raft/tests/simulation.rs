//! Raft in simulated worlds.

mod worlds;

use std::time::Duration;

use quorate_core::id::ReplicaId;
use quorate_raft::{Mutant, Raft};
use quorate_simulator::register::Change;
use quorate_simulator::seeds::{
    OTHER_SIZES, assert_covered, assert_repeatable, from_first, survive, told,
};
use quorate_simulator::{Conditions, Hardships, Rule, Scenario, SimulationConfig, World};
use worlds::{config, hard};

/// How many seeds are tried for each size of cluster; `QUORATE_SEEDS` says another number.
fn seeds() -> u64 {
    told("QUORATE_SEEDS").unwrap_or(200)
}

fn survive_and_meet_all(config: &SimulationConfig<Raft>) {
    let sum = survive(config, from_first(seeds()));
    let also = [
        ("operations without an answer", sum.unknown),
        ("elections", sum.leaders),
    ];
    assert_covered(&sum, &also);
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in 0..5 {
        assert_repeatable(&config(3), seed);
    }
}

#[test]
fn three_replicas_survive_all_faults() {
    survive_and_meet_all(&config(3));
}

#[test]
fn five_replicas_survive_all_faults() {
    survive_and_meet_all(&config(5));
}

#[test]
fn clusters_of_other_sizes_survive_the_faults_they_can() {
    for (replicas, faults) in OTHER_SIZES {
        let config = SimulationConfig {
            faults,
            ..config(replicas)
        };
        survive(&config, from_first(seeds().div_ceil(10)));
    }
}

/// Queues of one, snapshots after every entry or two, questions asked again sooner than they can
/// be answered.
#[test]
fn the_narrowest_limits_are_survived() {
    let mut config = config(3);
    config.settings.max_pending = 2;
    config.settings.max_batch_bytes = 80;
    config.settings.max_batches_in_flight = Some(1);
    config.settings.retry_after = Duration::from_millis(20);
    config.settings.snapshot_every_bytes = 100;
    config.protocol.max_append_bytes = 1;
    config.protocol.max_inflight_bytes = 1;
    config.protocol.max_inflight_messages = 1;
    config.protocol.max_uncommitted_bytes = 300;
    config.protocol.retained_entries = 0;
    config.protocol.max_pending_reads = 2;
    survive(&config, from_first(seeds().div_ceil(4)));
}

/// Worlds with a hardship, of three replicas and of five. Of five, one that connects a quorum and has
/// less of the log than the others can't be elected, nor can anybody else: that is Raft's rule.
/// [Ongaro14 §5.4.1]
fn survive_hardship(hardships: Hardships) {
    for replicas in [3, 5] {
        let hardships = Hardships {
            hubs: hardships.hubs && replicas == 3,
            ..hardships
        };
        let seeds = from_first(seeds().div_ceil(2));
        survive(&hard(replicas, hardships), seeds);
    }
}

/// f replicas go down for good, the others are restarted meanwhile.
#[test]
fn any_majority_that_is_up_serves() {
    survive_hardship(Hardships {
        lost: true,
        ..Hardships::NONE
    });
}

#[test]
fn disks_that_hang_are_survived() {
    survive_hardship(Hardships {
        hangs: true,
        ..Hardships::NONE
    });
}

#[test]
fn peers_that_answer_no_fetch_are_survived() {
    survive_hardship(Hardships {
        mute: true,
        ..Hardships::NONE
    });
}

/// A chain, one link of many, links of replicas outside a quorum, both ways and one way.
#[test]
fn who_is_connected_is_served_whatever_links_are_cut_for_good() {
    survive_hardship(Hardships {
        cuts: true,
        hubs: true,
        ..Hardships::NONE
    });
}

/// Limits that are drawn independently of each other.
#[test]
fn whatever_limit_exceeds_another_is_survived() {
    survive_hardship(Hardships {
        limits: true,
        ..Hardships::NONE
    });
}

#[test]
fn all_hardships_together_are_survived() {
    survive_hardship(Hardships::ALL);
}

#[test]
fn each_scenario_can_be_drawn() {
    for scenario in Scenario::ELECTING {
        let diagram = scenario.diagram(7, &config(3), 60).unwrap();
        assert!(diagram.matches("->>").count() >= 5, "{scenario}: {diagram}");
        let shows = match scenario {
            Scenario::NormalCommit => ": request",
            Scenario::Election => "leads in 1",
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

/// A world with a leader that has committed, in which every message takes [`DELAY`].
fn settled(replicas: usize) -> (World<Raft>, ReplicaId) {
    let conditions = Conditions::unit_delay(DELAY);
    let mut world = World::scripted(replicas as u64, config(replicas), conditions);
    let opened = world.open_session(ReplicaId(0));
    assert!(world.run_until(LONG, |w| w.answered(opened).is_some()));
    world.run_for(10 * DELAY);
    let leader = world.leader().unwrap();
    (world, leader)
}

/// A commit takes 2(n - 1) messages, the commit index riding along with the next message, and
/// two message delays at the leader. Heartbeats come on top: the run is shorter than one.
#[test]
fn a_commit_costs_two_messages_a_follower_and_two_delays() {
    for replicas in [3, 5, 7] {
        let (mut world, leader) = settled(replicas);
        // Begin right after a heartbeat, for that the next is far.
        let beats = world.total_ledger().total_sent().messages;
        world.run_until(Duration::from_secs(1), |w| {
            w.total_ledger().total_sent().messages > beats
        });
        world.run_for(3 * DELAY);
        let sent = |world: &World<Raft>| world.total_ledger().total_sent().messages;
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

/// A read at the leader is one round of heartbeats, and writes nothing. [OngaroThesis §6.4]
#[test]
fn a_linearizable_read_costs_a_round_and_no_record() {
    let (mut world, leader) = settled(3);
    let records = world.total_ledger().records;
    let from = world.now();
    let read = world.read(leader, 1);
    assert!(world.run_until(10 * DELAY, |w| w.answered(read).is_some()));
    let took = world.answered(read).unwrap().at - from;
    assert_eq!(took, 2 * DELAY.as_nanos() as u64);
    assert_eq!(world.total_ledger().records, records);
}

/// Replicas 0 and 1 do not hear each other, and campaign in the same term. Replica 2, which would
/// have voted for either, votes for one, and restarts once that one leads, before the other asks it.
fn double_vote(seed: u64, mutant: Option<Mutant>) -> World<Raft> {
    let mut config = config(3);
    config.protocol.mutant = mutant;
    let mut world = World::scripted(seed, config, Conditions::unit_delay(DELAY));
    let (one, other, voter) = (ReplicaId(0), ReplicaId(1), ReplicaId(2));
    world.cut(one, other);
    world.cut(other, one);
    if world.run_until(LONG, |w| w.leader().is_some()) && world.leader() != Some(voter) {
        world.crash(voter);
        world.restart(voter);
        world.run_for(2 * DELAY);
    }
    world
}

/// A replica that forgets its vote when it restarts votes for two candidates of a term, unless it
/// has an entry of the first by then, for the second does not have it. So the restart must come
/// within one message delay, and the second candidate must not have heard of the first: of these
/// worlds one in hundreds has that.
#[test]
fn a_vote_forgotten_on_restart_elects_two_leaders() {
    let seeds = 0..3_000;
    let sound = seeds.clone().map(|seed| double_vote(seed, None));
    assert!(sound.into_iter().all(|world| world.broken().is_none()));
    let mutant = Some(Mutant::VoteForgottenOnRestart);
    let mut broken = seeds.map(|seed| double_vote(seed, mutant));
    let world = broken.find(|world| world.broken().is_some());
    let rule = world.and_then(|world| Some(world.broken()?.rule));
    assert_eq!(rule, Some(Rule::OneLeader));
}
