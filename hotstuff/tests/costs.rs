//! What HotStuff costs, counted and held to closed forms, in worlds where every message takes one
//! unit of time.

use std::time::Duration;

use quorate_core::id::ReplicaId;
use quorate_core::protocol::Protocol;
use quorate_hotstuff::{Config, Hotstuff, Leaders, RuleSet};
use quorate_pbft::Pbft;
use quorate_simulator::register::Change;
use quorate_simulator::{Conditions, SimulationConfig, World};

const DELAY: Duration = Duration::from_millis(1);

/// Longer than anything takes here.
const LONG: Duration = Duration::from_secs(5);

const BOTH: [RuleSet; 2] = [RuleSet::ThreeChain, RuleSet::TwoChain];

fn sent<P: Protocol>(world: &World<P>, kind: &str) -> u64 {
    let ledger = world.total_ledger();
    ledger.sent.get(kind).map_or(0, |traffic| traffic.messages)
}

/// All messages but statuses, which come with time and not with requests.
fn spent<P: Protocol>(world: &World<P>) -> u64 {
    world.total_ledger().total_sent().messages - sent(world, "status")
}

/// A world in which a session is open, and that has nothing to do.
fn settled<P: Protocol>(replicas: usize, config: P::Config) -> World<P> {
    let conditions = Conditions::unit_delay(DELAY);
    let config = SimulationConfig::new(replicas, config);
    let mut world = World::scripted(replicas as u64, config, conditions);
    let opened = world.open_session(ReplicaId(0));
    assert!(world.run_until(LONG, |w| w.answered(opened).is_some()));
    world.run_for(20 * DELAY);
    world
}

fn hotstuff(replicas: usize, rules: RuleSet, leaders: Leaders) -> World<Hotstuff> {
    let config = Config {
        rules,
        leaders,
        ..Config::default()
    };
    settled(replicas, config)
}

/// A window that is not too wide for 31 replicas.
fn pbft() -> quorate_pbft::Config {
    quorate_pbft::Config {
        checkpoint_every: 32,
        window: 64,
        ..quorate_pbft::Config::default()
    }
}

fn put<P: Protocol>(world: &mut World<P>, at: ReplicaId, value: u64) -> u64 {
    let from = world.now();
    let put = world.submit(at, 1, Change::Put(value));
    assert!(world.run_until(LONG, |w| w.answered(put).is_some()));
    let took = world.answered(put).map_or(0, |answered| answered.at) - from;
    world.run_for(20 * DELAY);
    took / DELAY.as_nanos() as u64
}

/// A request alone, at the leader: a block for it and empty ones above it, 2(n - 1) messages each,
/// and n - 1 for the last certificate, which no block carries. The first replica has executed it after two
/// delays a block; the others, after one more (`tests/paper/chains.rs`).
#[test]
fn a_request_alone_costs_a_chain_of_blocks_and_two_delays_each() {
    for rules in BOTH {
        for n in [4, 7] {
            let mut world = hotstuff(n, rules, Leaders::Rotate);
            let (others, blocks) = (n as u64 - 1, rules.chain_length());
            for value in 0..5 {
                let before = spent(&world);
                let leader = world.leader().expect("a view has a leader");
                assert_eq!(put(&mut world, leader, value), 2 * blocks);
                assert_eq!(spent(&world) - before, 2 * others * blocks + others);
            }
        }
    }
}

/// Elsewhere, the request goes to all first: n - 1 messages and one delay.
#[test]
fn a_request_elsewhere_costs_one_more_message_to_each() {
    for rules in BOTH {
        let mut world = hotstuff(4, rules, Leaders::Rotate);
        let leader = world.leader().expect("a view has a leader");
        let other = ReplicaId((leader.0 + 2) % 4);
        let before = spent(&world);
        let blocks = rules.chain_length();
        assert_eq!(put(&mut world, other, 1), 2 * blocks + 1);
        assert_eq!(spent(&world) - before, 6 * blocks + 3 + 3);
    }
}

/// Under load each block has requests and commits an earlier one: 2(n - 1) messages a block, n + 1
/// signatures, and a block every two delays, whichever rules and leaders.
#[test]
fn under_load_a_block_costs_a_proposal_and_a_vote_a_replica() {
    for (n, rules, leaders) in [
        (4, RuleSet::ThreeChain, Leaders::Rotate),
        (4, RuleSet::TwoChain, Leaders::Rotate),
        (7, RuleSet::ThreeChain, Leaders::Rotate),
        (7, RuleSet::TwoChain, Leaders::Stable { views: 1 << 20 }),
    ] {
        let mut world = hotstuff(n, rules, leaders);
        let count = |world: &World<Hotstuff>| {
            let ledger = world.total_ledger();
            let (proposals, votes) = (sent(world, "proposal"), sent(world, "vote"));
            (proposals, votes, ledger.signatures_made, world.now())
        };
        let before = count(&world);
        for value in 0..300 {
            let at = ReplicaId((value % n as u64) as u8);
            world.submit(at, 1, Change::Put(value));
            world.run_for(DELAY);
        }
        world.run_for(40 * DELAY);
        let after = count(&world);
        let others = n as u64 - 1;
        let blocks = (after.0 - before.0) / others;
        assert!((100..=170).contains(&blocks), "{blocks} blocks");
        assert_eq!(after.0 - before.0, blocks * others);
        assert_eq!(after.1 - before.1, blocks * others);
        let signatures = after.2 - before.2;
        assert_eq!(signatures, blocks * (others + 2), "{n} replicas, {rules:?}");
    }
}

/// What one request costs grows with n here, and with n squared in PBFT. [Yin19 §1; Castro99 §4.2]
#[test]
fn messages_grow_linearly_where_those_of_pbft_grow_quadratically() {
    for n in [4, 7, 13, 31] {
        let others = n as u64 - 1;
        let mut world = hotstuff(n, RuleSet::ThreeChain, Leaders::Rotate);
        let leader = world.leader().expect("a view has a leader");
        let before = spent(&world);
        put(&mut world, leader, 1);
        assert_eq!(spent(&world) - before, 7 * others);
        let mut world: World<Pbft> = settled(n, pbft());
        let primary = world.leader().expect("a primary");
        let before = spent(&world);
        put(&mut world, primary, 1);
        assert_eq!(spent(&world) - before, 2 * n as u64 * others);
    }
}

/// A silent leader costs one time-out of each replica to each: O(n²), for there is nobody yet whom
/// all could tell. The next leader then goes on as if nothing had been.
#[test]
fn a_leader_crash_costs_a_timeout_of_each_replica_to_each() {
    for n in [4, 7, 13] {
        let mut world = hotstuff(n, RuleSet::TwoChain, Leaders::Rotate);
        let leader = world.leader().expect("a view has a leader");
        world.crash(leader);
        let other = ReplicaId((leader.0 + 2) % n as u8);
        let before = sent(&world, "timeout");
        put(&mut world, other, 1);
        let others = n as u64 - 1;
        assert_eq!(sent(&world, "timeout") - before, others * others);
    }
}

/// A replica tells one other of itself every so often, and that is all that is said when idle.
#[test]
fn an_idle_cluster_costs_one_status_a_replica_and_period() {
    let mut world = hotstuff(4, RuleSet::ThreeChain, Leaders::Rotate);
    let (before, statuses) = (spent(&world), sent(&world, "status"));
    world.run_for(Config::default().status_every * 50);
    assert_eq!(spent(&world), before);
    assert_eq!(sent(&world, "status") - statuses, 4 * 50);
}
