//! Delivery orders from the literature, as far as the tests of claims and of mutants share them.
#![allow(dead_code, reason = "each test file uses its own part of it")]

mod turns;

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use quorate_core::crypto::Digest;
use quorate_core::frontier::Frontier;
use quorate_core::id::{EntryId, Lane, ReplicaId, Slot};
use quorate_core::protocol::{Input, RecoverError, Recovered, SnapshotRef};
use quorate_epaxos::{Ballot, Command, Config, Decision, Message, Progress, Timer, Value};
use quorate_simulator::harness::command;

pub(crate) use turns::*;

use crate::common::{Cluster, EPaxosCluster as _, EPaxosNode as _, Node, id, r, set, writes};

/// What went wrong with one variable for two ballots. \[Sutra19\]
///
/// r0's command conflicts with one of r1's that r1 has preaccepted, so that it is accepted with a
/// dependency and committed at r0, by r0 and r1; r2 has preaccepted it without. r2 begins a
/// recovery that nobody hears of. r1 begins another, which r2 joins; r0 is gone. r2 has joined two
/// ballots and accepted in none: r1's acceptance must win.
pub(crate) fn sutra(config: &Config) -> Cluster {
    let mut cluster = Cluster::quiet(3, config).checking(false);
    cluster.submit(1, "other", "k");
    cluster.node(1).sent.clear();
    cluster.submit(0, "command", "k");
    cluster.pass(0, 2, "pre_accept");
    cluster.node(2).sent.clear();
    cluster.pass(0, 1, "pre_accept");
    cluster.pass(1, 0, "pre_accept_ok");
    cluster.pass(0, 1, "accept");
    cluster.pass(1, 0, "accept_ok");
    cluster.node(0).sent.clear();
    let command = id(0, 1);
    assert!(cluster.node(0).decided(command).is_some());
    cluster.node(2).recover_instance(command);
    cluster.node(2).sent.clear();
    cluster.node(1).recover_instance(command);
    cluster.settle(&[1, 2]);
    // r2 has rejected that one.
    let joins = |(_, sent): &(ReplicaId, Message)| matches!(sent, Message::Recover { ballot, .. } if ballot.round > 1);
    let recoverer = cluster.node(1);
    while !recoverer.sent.iter().any(joins) {
        recoverer.sent.clear();
        let (timer, _) = recoverer.next_timer().expect("a timer is armed");
        recoverer.fire(timer);
    }
    // r2 begins none before that ends.
    for _ in 0..250 {
        cluster.settle(&[1, 2]);
        cluster.node(1).pass(Duration::from_millis(20));
    }
    assert!(cluster.all_decided(&[1, 2], command));
    cluster
}

/// The recoveries of two conflicting commands that wait for each other. \[Ryabinin25\]
///
/// r0's command is preaccepted by r2 and r3, r1's by r4, none with the other as a dependency. r1
/// is gone. r2 recovers r0's from r2, r3 and r4; r4 recovers r1's from r4, r3 and r0, which crashes
/// then. Each finds the other's command in its way.
pub(crate) fn mutual(config: &Config) -> Cluster {
    let mut cluster = Cluster::quiet(5, config);
    cluster.submit(0, "one", "k");
    cluster.submit(1, "two", "k");
    for to in [2, 3] {
        cluster.pass(0, to, "pre_accept");
    }
    cluster.pass(1, 4, "pre_accept");
    for node in &mut cluster.nodes {
        node.sent.clear();
    }
    let (one, two) = (id(0, 1), id(1, 1));
    cluster.node(2).recover_instance(one);
    cluster.node(4).recover_instance(two);
    for to in [3, 4] {
        cluster.pass(2, to, "recover");
        cluster.pass(to, 2, "recover_ok");
    }
    for to in [3, 0] {
        cluster.pass(4, to, "recover");
        cluster.pass(to, 4, "recover_ok");
    }
    for to in [3, 4] {
        assert_eq!(cluster.pass(2, to, "validate"), 1);
    }
    for to in [3, 0] {
        assert_eq!(cluster.pass(4, to, "validate"), 1);
    }
    for (from, to) in [(3, 2), (4, 2), (3, 4), (0, 4)] {
        assert_eq!(cluster.pass(from, to, "validate_ok"), 1, "{from} to {to}");
    }
    for gone in [0, 1] {
        cluster.isolate(gone);
        cluster.node(gone).sent.clear();
    }
    cluster
}

/// Lets recoveries send again what they wait for, and nobody begin another.
pub(crate) fn only_send_again(cluster: &mut Cluster, among: &[u8], times: usize) {
    for _ in 0..times {
        cluster.settle(among);
        for at in among {
            let node = cluster.node(*at);
            if node.timers.contains_key(&Timer::Retransmit) {
                node.fire(Timer::Retransmit);
            }
        }
    }
    cluster.settle(among);
}

/// What a replica has executed in this life.
pub(crate) fn executed(node: &Node) -> Frontier {
    let mut frontier = Frontier::default();
    for id in node.order() {
        frontier.insert(id);
    }
    frontier
}

/// A snapshot of what it has executed is durable here.
pub(crate) fn snapshot(node: &mut Node) -> SnapshotRef {
    let taken = SnapshotRef {
        at: executed(node),
        digest: Digest::of(b"state"),
        anchor: Bytes::new(),
    };
    node.saved = Some(taken.clone());
    node.turn(Input::Snapshotted(taken.clone()));
    taken
}

/// The snapshot offered, as peers get it.
pub(crate) fn offered(node: &Node) -> SnapshotRef {
    let (at, anchor) = node.offer.clone().expect("a snapshot is offered");
    SnapshotRef {
        at,
        digest: Digest::of(b"state"),
        anchor,
    }
}

/// Lets time pass among `among`, with what a driver does about snapshots: those that were asked for with a
/// commit are taken, and those wanted are fetched from who lives and offers as much.
pub(crate) fn pass_time_with_snapshots(cluster: &mut Cluster, among: &[u8], time: Duration) {
    const STEP: Duration = Duration::from_millis(100);
    let mut taken = vec![0; cluster.nodes.len()];
    for at in among {
        cluster.node(*at).saves = false;
    }
    for _ in 0..time.as_millis() / STEP.as_millis() {
        cluster.pass_time(among, STEP);
        for at in among {
            let node = cluster.node(*at);
            let wanted = node.commits.iter().filter(|commit| commit.checkpoint);
            let wanted = wanted.count();
            if std::mem::replace(&mut taken[usize::from(*at)], wanted) < wanted {
                snapshot(node);
            }
            let Some(fetch) = node.fetch.take() else {
                continue;
            };
            let peer = &cluster.nodes[fetch.from.index()];
            let held = peer.offer.is_some().then(|| offered(peer));
            let held = held.filter(|held| held.at.covers(&fetch.at_least));
            if let Some(held) = held.filter(|_| among.contains(&fetch.from.0)) {
                cluster.node(*at).install(held);
            }
        }
    }
}

/// Long enough for all to have told each other.
pub(crate) const LONG: Duration = Duration::from_secs(2);

/// Replicas 0 and 1 have trimmed what 2 never heard of.
pub(crate) fn left_behind(config: &Config) -> Cluster {
    let mut cluster = Cluster::quiet(3, config);
    cluster.isolate(2);
    for round in 0..4 {
        for at in [0, 1] {
            cluster.submit(at, &format!("{round} of {at}"), "k");
            cluster.deliver();
        }
    }
    for at in [0, 1] {
        snapshot(cluster.node(at));
    }
    cluster.pass_time(&[0, 1], config.patience + LONG);
    for node in &mut cluster.nodes {
        node.sent.clear();
    }
    assert!(cluster.node(0).protocol.trimmed().contains(id(0, 4)));
    assert!(cluster.node(1).protocol.trimmed().contains(id(0, 4)));
    cluster.heal();
    cluster
}

/// Whether a recovery of the first of them ends in a Nop, which contradicts what was executed.
pub(crate) fn recovery_of_trimmed_is_nop(config: &Config) -> bool {
    let mut cluster = left_behind(config);
    cluster.nodes[2].checks = false;
    cluster.node(2).recover_instance(id(0, 1));
    cluster.settle(&[1, 2]);
    cluster.node(2).decided(id(0, 1)).is_some()
}

/// A command that was committed on the fast path before a floor was raised that it does not name.
///
/// r1's is old: all have executed it. r0's does not conflict with it and so does not name it; r0, r1
/// and r2 preaccept it, and r0 and r1 learn that it is committed. r3 wants the old one to be
/// trimmed. r1 and r4 have nothing open that does not name it, and raise their floors, which with
/// r3's own is f + 1. r0 and r1 are gone then, and r2 recovers the command from r2, r3 and r4.
pub(crate) fn committed_before_the_floor(config: &Config) -> Cluster {
    let mut cluster = Cluster::quiet(5, config).checking(false);
    cluster.submit(1, "old", "k");
    cluster.deliver();
    cluster.pass_time(&[0, 1, 2, 3, 4], LONG);
    cluster.submit(0, "command", "elsewhere");
    for to in [1, 2] {
        cluster.pass(0, to, "pre_accept");
        cluster.pass(to, 0, "pre_accept_ok");
    }
    assert_eq!(cluster.pass(0, 1, "commit"), 1);
    cluster.node(0).sent.clear();
    snapshot(cluster.node(3));
    for to in [1, 4] {
        assert_eq!(cluster.pass(3, to, "progress"), 1);
    }
    for from in [1, 4] {
        cluster.node(from).pass(config.progress);
        assert!(cluster.pass(from, 3, "progress") > 0);
    }
    for node in &mut cluster.nodes {
        node.sent.clear();
    }
    cluster.node(2).recover_instance(id(0, 1));
    cluster.settle(&[2, 3, 4]);
    assert!(cluster.all_decided(&[2, 3, 4], id(0, 1)));
    cluster
}

/// A command that was committed on the fast path, and a voter that does not know so when it is to
/// raise its floor over what the command does not name.
///
/// r1's is old, r0's is committed at r0 with r1's vote, as above. r2 wants the old one to be trimmed,
/// and r1 hears of that. Then r1 recovers the command from r1 and r2.
pub(crate) fn open_below_the_floor(config: &Config) -> Cluster {
    let mut cluster = Cluster::quiet(3, config).checking(false);
    cluster.submit(1, "old", "k");
    cluster.deliver();
    cluster.pass_time(&[0, 1, 2], LONG);
    cluster.submit(0, "command", "elsewhere");
    cluster.pass(0, 1, "pre_accept");
    cluster.pass(1, 0, "pre_accept_ok");
    assert!(cluster.node(0).decided(id(0, 1)).is_some());
    snapshot(cluster.node(2));
    cluster.pass(2, 1, "progress");
    cluster.node(1).pass(config.progress);
    assert!(cluster.pass(1, 2, "progress") > 0);
    for node in &mut cluster.nodes {
        node.sent.clear();
    }
    cluster.node(1).recover_instance(id(0, 1));
    cluster.settle(&[1, 2]);
    assert!(cluster.all_decided(&[1, 2], id(0, 1)));
    cluster
}

/// A command that was committed on the fast path before a snapshot was offered that lacks it.
///
/// r1's is old, and r4 has not heard of it. r0's does not name it; r0, r1 and r2 preaccept it, and r0
/// and r1 learn that it is committed. r0, r1 and r3 raise their floors, and r1 trims the old one; r4
/// fetches a snapshot of r1's that was taken before. r0 and r1 are gone then, and r2 recovers the
/// command from r2, r3 and r4.
pub(crate) fn committed_beyond_the_snapshot(config: &Config) -> Cluster {
    let mut cluster = Cluster::quiet(5, config).checking(false);
    cluster.submit(1, "old", "k");
    cluster.settle(&[0, 1, 2, 3]);
    cluster.pass_time(&[0, 1, 2, 3], config.patience + LONG);
    cluster.submit(0, "command", "elsewhere");
    for to in [1, 2] {
        cluster.pass(0, to, "pre_accept");
        cluster.pass(to, 0, "pre_accept_ok");
    }
    let taken = snapshot(cluster.node(1));
    assert_eq!(cluster.pass(0, 1, "commit"), 1);
    for to in [0, 3] {
        assert!(cluster.pass(1, to, "progress") > 0);
    }
    for from in [0, 3] {
        cluster.node(from).pass(config.progress);
        assert!(cluster.pass(from, 1, "progress") > 0);
    }
    cluster.node(1).pass(config.progress);
    let held = offered(cluster.node(1));
    assert_eq!(held.at, taken.at);
    cluster.node(4).install(held);
    for node in &mut cluster.nodes {
        node.sent.clear();
    }
    cluster.node(2).recover_instance(id(0, 1));
    cluster.settle(&[2, 3, 4]);
    cluster.pass_time(&[2, 3, 4], 5 * LONG);
    assert!(cluster.all_decided(&[2, 3, 4], id(0, 1)));
    cluster
}

/// A command that was committed on the fast path, against one whose coordinator has restarted.
///
/// r0's is preaccepted by r0, r1 and r2, and committed at r0; r0 and r1 are gone. r4's, which
/// conflicts, is preaccepted by r3 and r4 alone, and r4 has restarted. r2 recovers the one, r3 the
/// other, both from r2, r3 and r4.
pub(crate) fn committed_against_one_in_doubt(config: &Config) -> Cluster {
    let mut cluster = Cluster::quiet(5, config);
    cluster.submit(0, "one", "k");
    for to in [1, 2] {
        cluster.pass(0, to, "pre_accept");
        cluster.pass(to, 0, "pre_accept_ok");
    }
    assert!(cluster.node(0).decided(id(0, 1)).is_some());
    cluster.submit(4, "two", "k");
    cluster.pass(4, 3, "pre_accept");
    cluster.restart(4, config);
    for node in &mut cluster.nodes {
        node.sent.clear();
    }
    cluster.node(2).recover_instance(id(0, 1));
    cluster.node(3).recover_instance(id(4, 1));
    cluster
}

/// Two commands that conflict, whose coordinators have both restarted.
///
/// r1's is preaccepted without r2's by r0 and r4, r2's without r1's by r3, and each with the other by
/// some. r0's recovery of the first asks r0, r2 and r3, and its recovery of the second r0, r1 and r3:
/// each finds the other's command in its way, and its coordinator in the quorum.
pub(crate) fn two_in_doubt(config: &Config) -> Cluster {
    let mut cluster = Cluster::quiet(5, config);
    cluster.submit(1, "one", "k");
    cluster.submit(2, "two", "k");
    for (from, to) in [(1, 0), (1, 4), (2, 3), (1, 2), (1, 3), (2, 1), (2, 4)] {
        assert_eq!(cluster.pass(from, to, "pre_accept"), 1);
    }
    for at in [1, 2] {
        cluster.restart(at, config);
    }
    for node in &mut cluster.nodes {
        node.sent.clear();
    }
    for of in [id(1, 1), id(2, 1)] {
        cluster.node(0).recover_instance(of);
        let among = [2, 3, 1, 4];
        for to in among {
            cluster.pass(0, to, "recover");
        }
        for from in among {
            cluster.pass(from, 0, "recover_ok");
        }
    }
    only_send_again(&mut cluster, &[0, 1, 2, 3, 4], 10);
    cluster
}

/// r0 is gone. r1 alone takes a command and restarts, and so does r2, of the same key. r0 may have voted for
/// either.
pub(crate) fn restarted_alone(config: &Config) -> Cluster {
    let mut cluster = Cluster::quiet(3, config);
    cluster.isolate(0);
    for at in [1, 2] {
        cluster.submit(at, &format!("of {at}"), "k");
        cluster.node(at).sent.clear();
        cluster.restart(at, config);
        cluster.node(at).sent.clear();
    }
    cluster
}

/// The instance of [`restart_after_a_rewrite`], and its command.
pub(crate) fn accepted_before_a_nop() -> (EntryId, Value) {
    let command = Command::new(command("x"), &writes("k"));
    (id(0, 9), Value::Command(command))
}

/// r2 has accepted a command that it had not preaccepted, then a Nop, and its records were written anew
/// before it learnt that the command is decided. What it is when it has restarted.
pub(crate) fn restart_after_a_rewrite(config: &Config) -> Result<Node, RecoverError> {
    let mut cluster = left_behind(config);
    let held = offered(cluster.node(0));
    let (of, value) = accepted_before_a_nop();
    let ballot = Ballot {
        round: 1,
        replica: r(1),
    };
    let mut node = cluster.nodes.remove(2);
    for (from, ballot, value) in [(0, Ballot::ZERO, value.clone()), (1, ballot, Value::Nop)] {
        let accept = Message::Accept {
            id: of,
            ballot,
            value,
            dependencies: set(&[]),
        };
        node.receive(r(from), accept);
    }
    node.install(held);
    let decision = Decision {
        id: of,
        value,
        dependencies: set(&[]),
    };
    node.receive(r(0), Message::Commit(decision));
    let past = Recovered {
        records: node.durable,
        snapshot: node.saved,
    };
    Node::recover(node.context, config.clone(), past)
}

/// All slots of a lane through one.
pub(crate) fn through(lane: u8, slot: u64) -> Frontier {
    let mut frontier = Frontier::default();
    frontier.complete(Lane(lane), Slot(slot));
    frontier
}

/// Two peers have trimmed what is lacking at r2, neither all that the other has. Nobody answers; whom it asks.
pub(crate) fn asked_for_snapshots(config: &Config) -> BTreeSet<ReplicaId> {
    let mut node = Node::fresh(2, 3, config);
    for (from, lane) in [(0, 0), (1, 1)] {
        let trimmed = Message::Trimmed {
            through: through(lane, 4),
            horizon: through(lane, 4),
        };
        node.receive(r(from), trimmed);
    }
    let mut asked = BTreeSet::new();
    for _ in 0..40 {
        node.fire(Timer::Progress);
        asked.extend(node.fetch.take().map(|fetch| fetch.from));
    }
    asked
}

/// r0 has trimmed a command that r2 lacks, and its snapshot lacks one that r2 has executed. r1, which has helped
/// with both, is gone.
pub(crate) fn executed_what_the_snapshot_lacks(config: &Config) -> Cluster {
    let mut cluster = Cluster::quiet(3, config);
    cluster.submit(2, "ahead", "elsewhere");
    cluster.pass(2, 1, "pre_accept");
    cluster.pass(1, 2, "pre_accept_ok");
    assert_eq!(cluster.pass(2, 1, "commit"), 1);
    for node in &mut cluster.nodes {
        node.sent.clear();
    }
    cluster.isolate(2);
    cluster.submit(0, "lacking", "k");
    cluster.deliver();
    let taken = snapshot(cluster.node(0));
    assert_eq!(taken.at, through(0, 1));
    cluster.pass_time(&[0, 1], config.patience + LONG);
    assert!(cluster.node(0).protocol.trimmed().contains(id(0, 1)));
    assert_eq!(offered(cluster.node(0)).at, taken.at);
    cluster.heal();
    cluster.isolate(1);
    cluster
}

/// A command that was committed on the fast path, and a snapshot that holds an older one that it does not name.
///
/// r1's is old; r4 has not heard of it. r0's does not name it, and is committed at r0 with the votes of r1 and r2. r1 has a
/// snapshot of the old one, and the fence does not cover it; r4 needs it none the less. r0 and r1 are gone
/// then, and r2 recovers the command from r2, r3 and r4.
pub(crate) fn committed_beside_the_snapshot(config: &Config) -> Cluster {
    let mut cluster = Cluster::quiet(5, config).checking(false);
    cluster.submit(1, "old", "k");
    cluster.settle(&[0, 1, 2, 3]);
    cluster.submit(0, "command", "elsewhere");
    for to in [1, 2] {
        cluster.pass(0, to, "pre_accept");
        cluster.pass(to, 0, "pre_accept_ok");
    }
    assert!(cluster.node(0).decided(id(0, 1)).is_some());
    let taken = snapshot(cluster.node(1));
    let executed = Frontier::default();
    cluster.node(1).receive(r(4), Message::Behind { executed });
    let held = offered(cluster.node(1));
    assert_eq!(held.at, taken.at);
    assert!(!cluster.node(1).protocol.trimmed().contains(id(1, 1)));
    cluster.node(4).install(held);
    for node in &mut cluster.nodes {
        node.sent.clear();
    }
    cluster.node(2).recover_instance(id(0, 1));
    cluster.settle(&[2, 3, 4]);
    assert!(cluster.all_decided(&[2, 3, 4], id(0, 1)));
    cluster
}

/// r0 has more snapshots that wait for the fence than it keeps count of, and r1's floor covers the first: whether r0
/// trims what that holds.
pub(crate) fn trims_the_oldest_of(snapshots: u64, config: &Config) -> bool {
    let mut cluster = Cluster::quiet(3, config);
    for name in 0..snapshots {
        cluster.submit(0, &name.to_string(), "k");
        cluster.deliver();
        snapshot(cluster.node(0));
    }
    let committed = executed(cluster.node(0));
    for (from, floor) in [(1, through(0, 1)), (2, Frontier::default())] {
        let progress = Progress {
            committed: committed.clone(),
            wanted: floor.clone(),
            floor,
            behind: false,
        };
        cluster
            .node(0)
            .receive(r(from), Message::Progress(progress));
    }
    cluster.node(0).protocol.trimmed().contains(id(0, 1))
}

/// Whether one that is asked about what it has trimmed, and with it about what it knows, says both.
pub(crate) fn answers_beside_what_is_trimmed(config: &Config) -> bool {
    let mut cluster = left_behind(config);
    cluster.isolate(2);
    cluster.submit(0, "later", "k");
    cluster.deliver();
    let (trimmed, later) = (id(0, 1), id(0, 5));
    let ids = vec![trimmed, later];
    let answers = cluster.node(0).answer(r(2), Message::Learn { ids });
    let says = |of: fn(&Message) -> bool| answers.iter().any(of);
    assert!(says(|message| matches!(message, Message::Trimmed { .. })));
    says(|message| matches!(message, Message::Commit(_)))
}

/// Whether r2, which has missed many commands and looks after one at a time, soon knows them all.
pub(crate) fn catches_up(config: &Config) -> bool {
    let config = Config {
        max_watched: 1,
        ..config.clone()
    };
    let mut cluster = Cluster::quiet(3, &config);
    cluster.isolate(2);
    for name in 0..40 {
        cluster.submit(0, &name.to_string(), "k");
        cluster.deliver();
    }
    cluster.heal();
    cluster.pass_time(&[0, 1, 2], 2 * LONG);
    cluster.node(2).decided(id(0, 40)).is_some()
}

/// How many instances a command becomes that is proposed at its coordinator again and again, before and after it is
/// decided; what it depends on is not.
pub(crate) fn instances_of_one_command(config: &Config) -> usize {
    let mut cluster = Cluster::quiet(3, config);
    cluster.submit(2, "open", "k");
    for to in [0, 1] {
        cluster.pass(2, to, "pre_accept");
    }
    cluster.isolate(2);
    for _ in 0..5 {
        cluster.submit(0, "x", "k");
        cluster.settle(&[0, 1]);
    }
    let node = &cluster.nodes[0];
    assert!(node.executed().is_empty());
    let own = node.protocol.instances();
    own.filter(|view| view.id.lane == Lane(0)).count()
}
