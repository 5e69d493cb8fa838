//! Agreement and Visibility after every step, in many orders of delivery. \[Ryabinin25\]

use std::time::Duration;

use quorate_core::id::ReplicaId;
use quorate_epaxos::Config;
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use crate::common::{Cluster, EPaxosCluster as _, EPaxosNode as _, Node};

const KEYS: [&str; 2] = ["a", "b"];

/// Delivers one message that is under way, drawn at random, or loses it.
fn deliver_one(cluster: &mut Cluster, random: &mut ChaCha8Rng) {
    let waiting: Vec<ReplicaId> = cluster
        .nodes
        .iter()
        .filter(|node| !node.sent.is_empty())
        .map(|node| node.me)
        .collect();
    if waiting.is_empty() {
        return;
    }
    let from = waiting[random.random_range(0..waiting.len())];
    let sent = &mut cluster.node(from.0).sent;
    let (to, message) = sent.swap_remove(random.random_range(0..sent.len()));
    if random.random_ratio(9, 10) {
        cluster.node(to.0).receive(from, message);
    }
}

/// Commands, deliveries in any order, losses, crashes and time, in any mixture; then peace.
fn run(n: usize, seed: u64) {
    let random = &mut ChaCha8Rng::seed_from_u64(seed);
    let config = Config::default();
    let mut cluster = Cluster::quiet(n, &config);
    for step in 0..400 {
        let at = random.random_range(0..n as u8);
        match random.random_range(0..100) {
            0..8 => {
                let key = KEYS[random.random_range(0..KEYS.len())];
                cluster.submit(at, &format!("{step}"), key);
            }
            8..11 => {
                // What is not durable is lost; what was sent is under way.
                let sent = cluster.node(at).take();
                cluster.restart(at, &config);
                cluster.node(at).sent.extend(sent);
            }
            11..14 => {
                let syncs = random.random_ratio(1, 2);
                cluster.node(at).syncs = syncs;
            }
            14..24 => {
                let millis = random.random_range(1..600);
                cluster.node(at).pass(Duration::from_millis(millis));
            }
            _ => deliver_one(&mut cluster, random),
        }
        assert_eq!(cluster.breach(), None, "seed {seed}, step {step}");
    }
    let all: Vec<u8> = (0..n as u8).collect();
    for at in &all {
        let node = cluster.node(*at);
        node.syncs = true;
        node.end_turn();
    }
    let committed = |cluster: &Cluster| {
        let first = cluster.nodes[0].protocol.committed();
        cluster.nodes.iter().all(|node| {
            node.protocol.committed() == first
                && node
                    .protocol
                    .instances()
                    .all(|view| node.decided(view.id).is_some())
        })
    };
    for _ in 0..60 {
        if !committed(&cluster) {
            cluster.pass_time(&all, Duration::from_millis(500));
        }
    }
    assert_everything_is_committed(&cluster, seed);
}

/// Every instance that any replica knows of is committed, and executed everywhere.
fn assert_everything_is_committed(cluster: &Cluster, seed: u64) {
    for node in &cluster.nodes {
        for view in node.protocol.instances() {
            let known = cluster.nodes.iter().all(|n| n.decided(view.id).is_some());
            assert!(known, "seed {seed}: {:?} at {}", view, node.me);
        }
        assert_eq!(node.protocol.pending(), 0, "seed {seed}");
    }
    let executed = |node: &Node| {
        let mut ids = node.order();
        ids.sort_unstable();
        ids.dedup();
        ids.len()
    };
    let counts: Vec<usize> = cluster.nodes.iter().map(executed).collect();
    assert!(counts.iter().all(|count| *count == counts[0]), "{counts:?}");
}

#[test]
fn three_replicas_agree_and_see_each_other_in_any_order_of_delivery() {
    (0..150).for_each(|seed| run(3, seed));
}

#[test]
fn five_replicas_agree_and_see_each_other_in_any_order_of_delivery() {
    (1_000..1_080).for_each(|seed| run(5, seed));
}

#[test]
fn seven_replicas_agree_and_see_each_other_in_any_order_of_delivery() {
    (2_000..2_040).for_each(|seed| run(7, seed));
}
