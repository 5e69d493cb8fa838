//! Time and nonces that all replicas agree on. [Castro99 §4.6]

use std::collections::BTreeSet;
use std::time::Duration;

use quorate_core::id::UnixTime;
use quorate_core::protocol::{Agreed, Recovered};
use quorate_pbft::{Config, Entry, Message, Moment};
use quorate_simulator::harness::WALL_CLOCK;

use crate::common::{
    Cluster, Node, PbftCluster, PbftNode, command, commit, config, context, digest_voted,
    pre_prepare, proposal, r,
};

const SKEW: Duration = Duration::from_secs(2);

fn strict() -> Config {
    Config {
        max_clock_skew: SKEW,
        ..config()
    }
}

/// What was agreed on in each slot executed.
fn agreed(node: &Node) -> Vec<Agreed> {
    let commits = node.commits.iter();
    commits.filter_map(|commit| commit.agreed).collect()
}

/// A pre-prepare of the first primary's that gives a slot this time.
fn at(slot: u64, time: UnixTime) -> Message {
    let batch = command(&format!("{slot}"));
    let salt = [7; 16];
    let moment = Moment { time, salt };
    let entry = Entry { batch, moment };
    Message::PrePrepare {
        proposal: proposal(0, slot, entry.digest()),
        entry,
    }
}

/// Whether a backup accepts the last of these times, a slot each, after the others.
fn accepts(config: &Config, times: &[(u64, UnixTime)]) -> bool {
    let mut backup = Node::of_four(1, config);
    backup.now = backup.now + SKEW;
    let mut votes = Vec::new();
    for (slot, time) in times {
        let sent = backup.answer_to(r(0), at(*slot, *time), r(2));
        votes.push(digest_voted(&sent, *slot).is_some());
    }
    votes.pop().is_some_and(|last| last)
}

/// Replica `me` of four, whose wall clock is wrong.
fn with_clock(me: u8, wall_clock: UnixTime, config: &Config) -> Node {
    let mut context = context(r(me), 4, me);
    context.wall_clock = wall_clock;
    Node::recover(context, config.clone(), Recovered::nothing()).unwrap()
}

/// The primary chooses the value, and all agree on it as on the request.
#[test]
fn all_replicas_are_told_the_time_by_the_primarys_clock() {
    let mut cluster = Cluster::new(4, &strict());
    for (id, text) in [(0, "a"), (1, "b"), (0, "c")] {
        for node in &mut cluster.nodes {
            node.now = node.now + Duration::from_millis(10);
        }
        // The clocks of backups do not matter.
        cluster.node(2).now = cluster.node(2).now + Duration::from_millis(5);
        cluster.propose(id, text);
    }
    let told = agreed(&cluster.nodes[0]);
    let times: Vec<UnixTime> = told.iter().map(|agreed| agreed.time).collect();
    let expected = [10, 20, 30].map(|millis| WALL_CLOCK + Duration::from_millis(millis));
    assert_eq!(times, expected);
    for node in &cluster.nodes {
        assert_eq!(agreed(node), told);
    }
}

/// A clock that stands still gives other times all the same.
#[test]
fn no_two_slots_have_the_same_time_or_nonce() {
    let mut cluster = Cluster::new(4, &strict());
    for text in ["a", "b", "c", "d", "e"] {
        cluster.propose(0, text);
    }
    let told = agreed(&cluster.nodes[3]);
    assert!(told.is_sorted_by(|before, after| before.time < after.time));
    let nonces: BTreeSet<[u8; 32]> = told.iter().map(|agreed| agreed.nonce).collect();
    assert_eq!(nonces.len(), 5);
    // A faulty primary may repeat what it makes them from.
    let mut backup = Node::of_four(1, &config());
    for slot in 1..=3 {
        let text = format!("{slot}");
        backup.receive(r(0), pre_prepare(0, slot, &text));
        for from in [0, 2, 3] {
            backup.receive(r(from), commit(0, slot, &text));
        }
    }
    let nonces: BTreeSet<[u8; 32]> = agreed(&backup).iter().map(|a| a.nonce).collect();
    assert_eq!(nonces.len(), 3);
}

/// Replicas must be able to tell whether the value is good: near to what their own clock shows.
#[test]
fn a_backup_refuses_a_time_far_from_its_own_clock() {
    let clock = WALL_CLOCK + SKEW;
    let least = Duration::from_nanos(1);
    assert!(accepts(&strict(), &[(1, clock)]));
    assert!(accepts(&strict(), &[(1, clock + SKEW)]));
    assert!(!accepts(&strict(), &[(1, clock + SKEW + least)]));
    assert!(accepts(&strict(), &[(1, WALL_CLOCK)]));
    assert!(!accepts(&strict(), &[(1, UnixTime(WALL_CLOCK.0 - 1))]));
    assert!(!accepts(&strict(), &[(1, UnixTime(u64::MAX))]));
}

/// Each time stands by itself: one near to the backup's clock is good, whatever the slots before
/// and after were given. What the application is told goes on all the same, which is the driver's to see
/// to; a clock that was wrong must not make those refuse each other that are right now.
#[test]
fn a_backup_judges_each_time_by_its_own_clock_alone() {
    let clock = WALL_CLOCK + SKEW;
    for (first, second) in [(clock.next(), clock), (clock + SKEW, clock), (clock, clock)] {
        assert!(accepts(&strict(), &[(1, first), (2, second)]));
        assert!(accepts(&strict(), &[(2, first), (1, second)]));
    }
    let far = clock + SKEW * 2;
    assert!(!accepts(&strict(), &[(1, clock), (2, far)]));
    assert!(!accepts(&strict(), &[(2, far.next()), (1, far)]));
}

/// The wall clocks of all were ahead, are set right, and the nodes restarted: the log holds times
/// to come, and the primary proposes what its clock shows now.
#[test]
fn clocks_that_were_ahead_and_are_set_right_hold_nothing_up() {
    for ahead in [SKEW * 20, Duration::from_secs(86_400)] {
        let config = strict();
        let wrong = (0..4).map(|id| with_clock(id, WALL_CLOCK + ahead, &config));
        let mut cluster = Cluster::of(wrong.collect());
        for text in ["a", "b", "c"] {
            cluster.propose(0, text);
        }
        for node in &mut cluster.nodes {
            node.context.wall_clock = WALL_CLOCK;
        }
        for id in 0..4 {
            cluster.restart(id, &config);
        }
        cluster.deliver();
        cluster.tick(4);
        cluster.propose(0, "d");
        for node in &cluster.nodes {
            assert_eq!((node.view(), node.executed().len()), (0, 4), "{ahead:?}");
            let told = agreed(node)[3].time;
            assert!(told.distance(WALL_CLOCK) < ahead / 2, "{ahead:?}: {told:?}");
        }
    }
}

/// What prepared keeps its moment: the digest that is voted on covers it. [§4.4]
#[test]
fn the_moment_survives_view_changes() {
    let mut cluster = Cluster::new(4, &strict());
    cluster.lost.insert("commit");
    cluster.propose(0, "a");
    let given = cluster.nodes[1]
        .durable
        .iter()
        .find_map(|record| match record {
            quorate_pbft::Record::PrePrepared { entry, .. } => Some(entry.moment),
            _ => None,
        });
    cluster.heal();
    cluster.isolate(0);
    for node in &mut cluster.nodes {
        node.now = node.now + SKEW * 10;
    }
    cluster.change_view(&[1, 2, 3], "b");
    for id in [1, 2, 3] {
        let node = cluster.node(id);
        assert_eq!(
            (node.view(), node.executed()),
            (1, vec!["a".into(), "b".into()])
        );
        let told = agreed(node);
        assert_eq!(Some(told[0].time), given.map(|moment| moment.time));
        assert!(told[1].time >= WALL_CLOCK + SKEW * 10);
        assert_eq!(told, agreed(&cluster.nodes[2]));
    }
}

/// Entries that a replica hands over again after a restart have the moments they had.
#[test]
fn the_moment_survives_restarts() {
    let mut cluster = Cluster::new(4, &strict());
    for text in ["a", "b", "c"] {
        cluster.propose(0, text);
    }
    let told = agreed(&cluster.nodes[0]);
    for id in 0..4 {
        cluster.restart(id, &strict());
    }
    cluster.deliver();
    cluster.tick(4);
    for node in &cluster.nodes {
        assert_eq!(agreed(node), told);
    }
    // Its clock shows the same as when it first started: no nonce comes twice for that.
    cluster.propose(0, "d");
    let all = agreed(&cluster.nodes[1]);
    let nonces: BTreeSet<[u8; 32]> = all.iter().map(|agreed| agreed.nonce).collect();
    assert_eq!((all.len(), nonces.len()), (4, 4));
}

/// A primary with a bad clock is voted out, also if no backup has heard of the request before.
#[test]
fn a_primary_with_a_bad_clock_is_replaced() {
    for clock in [WALL_CLOCK + SKEW * 2, UnixTime(0)] {
        let config = strict();
        let mut nodes = vec![with_clock(0, clock, &config)];
        nodes.extend((1..4).map(|id| Node::of_four(id, &config)));
        let mut cluster = Cluster::of(nodes);
        cluster.propose(0, "x");
        assert!(cluster.nodes.iter().all(|node| node.commits.is_empty()));
        for id in 1..4 {
            cluster.node(id).wait_for_view_change();
        }
        cluster.deliver();
        for node in &cluster.nodes {
            assert_eq!((node.view(), node.executed()), (1, vec![String::from("x")]));
            let told = agreed(node)[0].time;
            assert!(told.distance(WALL_CLOCK) < SKEW, "by a clock that is right");
        }
    }
}

/// A backup whose own clock is bad changes nothing for the others, and executes what they do.
#[test]
fn a_backup_with_a_bad_clock_learns_what_the_others_decide() {
    let config = strict();
    let mut nodes: Vec<Node> = (0..3).map(|id| Node::of_four(id, &config)).collect();
    nodes.push(with_clock(3, UnixTime(0), &config));
    let mut cluster = Cluster::of(nodes);
    for text in ["a", "b", "c"] {
        cluster.propose(0, text);
    }
    cluster.tick(4);
    for node in &cluster.nodes {
        assert_eq!((node.view(), node.executed().len()), (0, 3));
        assert_eq!(agreed(node), agreed(&cluster.nodes[0]));
    }
}

/// The null request has no moment: nobody has proposed it.
#[test]
fn null_requests_tell_no_time() {
    let mut cluster = Cluster::new(4, &strict());
    // Slot 1 is lost, slot 2 prepares.
    cluster.lost.insert("pre_prepare");
    cluster.propose(0, "lost");
    cluster.lost.clear();
    cluster.lost.insert("commit");
    cluster.propose(0, "kept");
    cluster.heal();
    cluster.isolate(0);
    cluster.change_view(&[1, 2, 3], "new");
    let node = cluster.node(1);
    assert_eq!(node.executed(), ["", "kept", "new"]);
    assert!(node.commits[0].agreed.is_none());
    assert!(node.commits[1].agreed.is_some());
}
