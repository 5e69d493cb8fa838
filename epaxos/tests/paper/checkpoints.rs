//! Trimming, and who may forget what. The paper has none of it: these rules are ours.

use std::time::Duration;

use bytes::Bytes;
use quorate_core::frontier::Frontier;
use quorate_core::id::{EntryId, Slot};
use quorate_core::protocol::{Protocol as _, SnapshotRef};
use quorate_epaxos::{Ballot, Command, Config, Message, Progress, Timer};
use quorate_simulator::harness::command;

use crate::common::{Cluster, EPaxosCluster as _, EPaxosNode as _, Node, id, r, set, writes};
use crate::scripts::{
    LONG, answers_beside_what_is_trimmed, asked_for_snapshots, catches_up,
    committed_before_the_floor, committed_beside_the_snapshot, executed,
    executed_what_the_snapshot_lacks, left_behind, offered, pass_time_with_snapshots,
    recovery_of_trimmed_is_nop, snapshot, trims_the_oldest_of,
};

/// Commands enough to be worth a snapshot, from all replicas.
fn worked(n: usize, config: &Config) -> Cluster {
    let mut cluster = Cluster::quiet(n, config);
    for round in 0..4 {
        for at in 0..n as u8 {
            cluster.submit(at, &format!("{round} of {at}"), "k");
            cluster.deliver();
        }
    }
    cluster
}

/// Alone it may not: others must name in their answers what it forgets.
#[test]
fn instances_are_trimmed_when_enough_replicas_name_them_in_all_answers() {
    let mut cluster = worked(3, &Config::default());
    snapshot(cluster.node(0));
    assert!(!cluster.node(0).protocol.trimmed().contains(id(0, 1)));
    assert_eq!(cluster.node(0).offer, None);
    cluster.pass_time(&[0, 1, 2], LONG);
    assert!(cluster.node(0).protocol.trimmed().contains(id(2, 4)));
    assert_eq!(cluster.node(0).protocol.instances().count(), 0);
    assert_eq!(offered(cluster.node(0)).at, executed(cluster.node(0)));
    // The others hold no snapshot, and trim nothing.
    assert!(!cluster.node(1).protocol.trimmed().contains(id(0, 1)));
    // All name it in their answers, and in what they propose: the fast path stays open.
    cluster.rounds.clear();
    cluster.submit(1, "later", "elsewhere");
    cluster.deliver();
    assert_eq!(cluster.count("accept"), 0);
    let dependencies = cluster.node(2).decided(id(1, 5)).expect("a decision").1;
    assert!(dependencies.contains(id(0, 4)) && dependencies.contains(id(1, 4)));
}

/// One that is down does not keep the others from trimming for longer than their patience.
#[test]
fn a_replica_that_is_down_is_waited_for_and_not_for_ever() {
    let mut cluster = worked(3, &Config::default());
    cluster.isolate(2);
    cluster.submit(0, "missed", "k");
    cluster.deliver();
    snapshot(cluster.node(0));
    cluster.pass_time(&[0, 1], LONG);
    assert!(!cluster.node(0).protocol.trimmed().contains(id(0, 5)));
    cluster.pass_time(&[0, 1], Config::default().patience);
    assert!(cluster.node(0).protocol.trimmed().contains(id(0, 5)));
}

/// Nothing is kept for one that says that it needs a snapshot, from whomever it wants it: two that
/// want them of different peers would keep either from offering a newer one.
#[test]
fn a_replica_that_needs_a_snapshot_is_not_waited_for() {
    for behind in [false, true] {
        let mut cluster = worked(3, &Config::default());
        cluster.isolate(2);
        cluster.submit(0, "missed", "k");
        cluster.deliver();
        snapshot(cluster.node(0));
        let progress = Progress {
            committed: Frontier::default(),
            floor: Frontier::default(),
            wanted: Frontier::default(),
            behind,
        };
        cluster.node(0).receive(r(2), Message::Progress(progress));
        cluster.pass_time(&[0, 1], LONG);
        let trimmed = cluster.node(0).protocol.trimmed().contains(id(0, 5));
        assert_eq!(trimmed, behind);
    }
}

/// Asked about what is trimmed, a replica says so, and does not pass for one that never heard of it.
#[test]
fn what_is_trimmed_is_not_taken_for_unknown() {
    assert!(!recovery_of_trimmed_is_nop(&Config::default()));
}

/// And so whoever lacks it fetches a snapshot, and goes on from there.
#[test]
fn a_replica_too_far_behind_fetches_a_snapshot() {
    let config = Config::default();
    let mut cluster = left_behind(&config);
    cluster.pass_time(&[0, 1, 2], LONG);
    let fetch = cluster.node(2).fetch.clone().expect("it wants a snapshot");
    let held = offered(cluster.node(fetch.from.0));
    assert!(held.at.covers(&fetch.at_least));
    assert!(cluster.node(2).protocol.accepts(&held));
    cluster.node(2).install(held.clone());
    cluster.submit(2, "later", "k");
    cluster.pass_time(&[0, 1, 2], LONG);
    for node in &cluster.nodes {
        assert_eq!(node.executed().last().map(String::as_str), Some("later"));
    }
    // It has taken over what is trimmed.
    assert!(cluster.node(2).protocol.trimmed().contains(id(0, 4)));
    // A crash brings it back to the same.
    cluster.node(2).saved = Some(held);
    cluster.restart(2, &config);
    assert_eq!(cluster.node(2).executed(), ["later"]);
}

/// It then lacks more than it looks after at a time, and looks further as it learns.
#[test]
fn what_a_snapshot_does_not_hold_is_learnt_a_few_at_a_time() {
    let config = Config {
        max_watched: 2,
        ..Config::default()
    };
    let mut cluster = Cluster::quiet(3, &config);
    cluster.isolate(2);
    let work = |cluster: &mut Cluster, names: std::ops::Range<u32>| {
        for name in names {
            cluster.submit(0, &name.to_string(), "k");
            cluster.deliver();
        }
    };
    work(&mut cluster, 0..4);
    for at in [0, 1] {
        snapshot(cluster.node(at));
    }
    work(&mut cluster, 4..14);
    cluster.pass_time(&[0, 1], config.patience + LONG);
    assert!(cluster.node(0).protocol.trimmed().contains(id(0, 4)));
    cluster.heal();
    cluster.pass_time(&[0, 1, 2], LONG);
    let fetch = cluster.node(2).fetch.clone().expect("it wants a snapshot");
    let held = offered(cluster.node(fetch.from.0));
    cluster.node(2).install(held);
    cluster.pass_time(&[0, 1, 2], 5 * LONG);
    let rest: Vec<String> = (4..14).map(|name: u32| name.to_string()).collect();
    assert_eq!(cluster.node(2).executed(), rest);
    assert!(cluster.node(2).protocol.trimmed().contains(id(0, 4)));
}

/// A replica stops leading what a snapshot decides: r2 had asked r1 about a command, and finds it
/// trimmed when it is back. If it went on, it would ask for ever; and as long as it had a command
/// of its own under way, it would propose nothing for one that lags behind.
#[test]
fn what_a_snapshot_decides_is_led_no_more() {
    let config = Config::default();
    let mut cluster = Cluster::quiet(3, &config);
    cluster.submit(2, "own", "k");
    cluster.pass(2, 1, "pre_accept");
    cluster.isolate(2);
    cluster.pass_time(&[0, 1], Duration::from_secs(5));
    snapshot(cluster.node(0));
    cluster.pass_time(&[0, 1], config.patience + LONG);
    assert!(cluster.node(0).protocol.trimmed().contains(id(2, 1)));
    cluster.node(1).sent.clear();
    cluster.pass_time(&[0, 2], LONG);
    let held = offered(cluster.node(0));
    cluster.node(2).install(held);
    cluster.pass_time(&[0, 1, 2], LONG);
    assert!(cluster.node(2).protocol.trimmed().contains(id(2, 1)));
    assert!(!cluster.node(2).timers.contains_key(&Timer::Retransmit));
    let behind = Message::Behind {
        executed: Frontier::single(Slot(9)),
    };
    cluster.node(2).receive(r(0), behind);
    assert_eq!(cluster.pass(2, 1, "pre_accept"), 1);
}

/// A snapshot without an anchor, or with another's instances, is not this protocol's.
#[test]
fn only_snapshots_with_their_anchor_are_accepted() {
    let mut cluster = left_behind(&Config::default());
    let good = offered(cluster.node(0));
    let node = cluster.node(2);
    assert!(node.protocol.accepts(&good));
    let bare = SnapshotRef {
        anchor: Bytes::new(),
        ..good.clone()
    };
    assert!(!node.protocol.accepts(&bare));
    let mut at = Frontier::default();
    at.insert(EntryId {
        lane: quorate_core::id::Lane(3),
        slot: quorate_core::id::Slot(1),
    });
    assert!(!node.protocol.accepts(&SnapshotRef { at, ..good }));
}

/// What does not name all that is trimmed cannot have been committed on the fast path, or its
/// answer would be known.
#[test]
fn a_command_that_does_not_name_what_is_trimmed_is_not_valid() {
    let mut cluster = left_behind(&Config::default());
    let (of, ballot) = (
        id(2, 1),
        Ballot {
            round: 1,
            replica: r(2),
        },
    );
    let node = cluster.node(0);
    node.receive(r(2), Message::Recover { id: of, ballot });
    let validate = |dependencies| Message::Validate {
        id: of,
        ballot,
        command: Command::new(command("old"), &writes("elsewhere")),
        dependencies,
    };
    let impossible = |answers: Vec<Message>| match answers.as_slice() {
        [Message::ValidateOk { impossible, .. }] => *impossible,
        other => panic!("{other:?}"),
    };
    assert!(impossible(node.answer(r(2), validate(set(&[])))));
    let all: Vec<(u8, u64)> = (1..=4).flat_map(|slot| [(0, slot), (1, slot)]).collect();
    assert!(!impossible(node.answer(r(2), validate(set(&all)))));
}

/// No floor is raised over an instance that was preaccepted without naming all of it: it may have
/// been committed on the fast path.
#[test]
fn a_floor_waits_for_what_does_not_name_it() {
    let mut cluster = worked(3, &Config::default());
    let pre_accept = Message::PreAccept {
        id: id(2, 5),
        command: Command::new(command("slow"), &writes("elsewhere")),
        dependencies: set(&[]),
    };
    cluster.node(1).receive(r(2), pre_accept);
    cluster.node(1).sent.clear();
    snapshot(cluster.node(0));
    let floor = |node: &mut Node| {
        let sent = node.take().into_iter();
        sent.filter_map(|(_, message)| match message {
            Message::Progress(progress) => Some(progress.floor.contains(id(0, 1))),
            _ => None,
        })
        .next_back()
    };
    let told = cluster.node(0).take();
    for (to, message) in told {
        if to == r(1) {
            cluster.node(1).receive(r(0), message);
        }
    }
    cluster.node(1).pass(Duration::from_millis(150));
    assert_eq!(floor(cluster.node(1)), Some(false));
    cluster.pass_time(&[0, 1, 2], Duration::from_secs(5));
    assert!(cluster.node(0).protocol.trimmed().contains(id(0, 1)));
    assert!(cluster.node(0).decided(id(2, 5)).is_some());
}

/// A floor does not count before all is known here that its owner knew committed when it raised it:
/// that may not name what is below. Once it is known, the floor counts, also if its owner is gone.
#[test]
fn a_floor_counts_once_what_was_told_with_it_is_known() {
    let mut cluster = committed_before_the_floor(&Config::default());
    assert_eq!(cluster.breach(), None);
    let decided = cluster.node(3).decided(id(0, 1));
    assert_eq!(decided, Some((Some("command".into()), set(&[]))));
    assert!(!cluster.node(3).protocol.trimmed().contains(id(1, 1)));
    cluster.pass_time(&[3], LONG);
    assert!(cluster.node(3).protocol.trimmed().contains(id(1, 1)));
}

/// Two peers have trimmed what is lacking here, neither all that the other has. A snapshot of either helps, and
/// the one asked first may be gone.
#[test]
fn a_snapshot_is_asked_of_each_peer_that_has_trimmed_what_is_lacking() {
    let asked = asked_for_snapshots(&Config::default());
    assert_eq!(asked, [r(0), r(1)].into());
}

/// A later snapshot of r0's has both; r2 can name all that it holds only when it is installed, so that r0 cannot
/// wait for that.
#[test]
fn a_replica_that_has_executed_what_the_snapshot_lacks_gets_a_later_one() {
    let mut cluster = executed_what_the_snapshot_lacks(&Config::default());
    pass_time_with_snapshots(&mut cluster, &[0, 2], 5 * LONG);
    cluster.submit(2, "later", "k");
    pass_time_with_snapshots(&mut cluster, &[0, 2], 5 * LONG);
    for at in [0, 2] {
        let executed = cluster.node(at).executed();
        assert_eq!(executed.last().map(String::as_str), Some("later"), "{at}");
    }
    // r0 is gone, and r1 is back: nothing waits for what only the snapshot has told.
    cluster.heal();
    cluster.submit(1, "last", "k");
    pass_time_with_snapshots(&mut cluster, &[1, 2], 10 * LONG);
    for at in [1, 2] {
        let executed = cluster.node(at).executed();
        assert_eq!(executed.last().map(String::as_str), Some("last"), "{at}");
    }
}

/// One that looks after one instance of a lane at a time asks for the next as soon as it has one: those have
/// been known of for long.
#[test]
fn one_that_is_far_behind_does_not_wait_for_each_instance() {
    assert!(catches_up(&Config::default()));
}

/// What its snapshot holds beyond what is trimmed where that is from it does not trim, and speaks against nothing
/// because of it.
#[test]
fn only_what_is_trimmed_elsewhere_is_taken_over_as_trimmed() {
    let mut cluster = committed_beside_the_snapshot(&Config::default());
    assert_eq!(cluster.breach(), None);
    assert!(!cluster.node(4).protocol.trimmed().contains(id(1, 1)));
    // Nor does its floor cover it before it knows it.
    let floor = |node: &Node| node.protocol.floor().contains(id(1, 1));
    cluster.node(4).pass(LONG);
    assert!(!floor(cluster.node(4)));
    cluster.pass_time(&[2, 3, 4], 5 * LONG);
    let known = cluster.node(4).protocol.committed().contains(id(1, 1));
    assert!(known && floor(cluster.node(4)));
}

/// So many wait for the fence at most; the oldest is always among them, and the newest.
#[test]
fn the_oldest_snapshot_waits_for_the_fence_whatever_comes_after_it() {
    for snapshots in [1, 4, 5, 6, 20] {
        assert!(trims_the_oldest_of(snapshots, &Config::default()));
    }
}

/// One answer says all that can be said.
#[test]
fn what_is_trimmed_keeps_nobody_from_the_rest() {
    assert!(answers_beside_what_is_trimmed(&Config::default()));
}
