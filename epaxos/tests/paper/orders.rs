//! Agreement and Visibility after every step, in many orders of delivery. \[Ryabinin25\]

use std::collections::BTreeMap;
use std::time::Duration;

use quorate_core::id::{EntryId, ReplicaId};
use quorate_epaxos::Config;
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use crate::common::{Cluster, Decided, EPaxosCluster as _, EPaxosNode as _, Node, decided};

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

/// All decisions that any replica ever knew, also those that it forgot in a crash.
#[derive(Default)]
struct History(BTreeMap<EntryId, Decided>);

impl History {
    fn check(&mut self, cluster: &Cluster, when: &str) {
        assert_eq!(cluster.breach(), None, "{when}");
        for node in &cluster.nodes {
            for view in node.protocol.instances() {
                let Some(decision) = decided(&view) else {
                    continue;
                };
                let before = self.0.entry(view.id).or_insert_with(|| decision.clone());
                assert_eq!(*before, decision, "{when}: {:?}", view.id);
            }
        }
    }
}

/// Commands, deliveries in any order, losses, crashes and time, in any mixture; then f replicas are
/// gone for long, of the others some restart, and these decide all that they know of; and then there is peace.
fn run(n: usize, seed: u64) {
    let random = &mut ChaCha8Rng::seed_from_u64(seed);
    let config = Config {
        // Half of them ask a fast quorum only, whatever is in the way.
        thrifty_after: if seed.is_multiple_of(2) { u32::MAX } else { 0 },
        thrifty_requests: 1,
        ..Config::default()
    };
    let mut cluster = Cluster::quiet(n, &config);
    let mut history = History::default();
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
        history.check(&cluster, &format!("seed {seed}, step {step}"));
    }
    let mut all: Vec<u8> = (0..n as u8).collect();
    for at in &all {
        let node = cluster.node(*at);
        node.syncs = true;
        node.end_turn();
    }
    all.rotate_left(random.random_range(0..n));
    for node in &mut cluster.nodes {
        node.sent.clear();
    }
    let living = &all[..n / 2 + 1];
    for at in living.iter().filter(|_| random.random_ratio(1, 2)) {
        cluster.restart(*at, &config);
        cluster.node(*at).sent.clear();
    }
    for _ in 0..20 {
        cluster.pass_time(living, Duration::from_millis(500));
        history.check(&cluster, &format!("seed {seed}, {living:?} alone"));
    }
    for at in living {
        for view in cluster.nodes[usize::from(*at)].protocol.instances() {
            let decided = cluster.all_decided(living, view.id);
            assert!(decided, "seed {seed}: {view:?} at {at}, {living:?} alone");
        }
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
    history.check(&cluster, &format!("seed {seed}, at the end"));
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
