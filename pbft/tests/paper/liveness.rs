//! Liveness. [Castro99 §4.4, §4.5.2]

use std::time::Duration;

use quorate_core::id::Slot;
use quorate_core::protocol::Role;
use quorate_pbft::{Config, Message, Timer, View};

use crate::common::{
    Cluster, Node, PbftCluster, PbftNode, command, commit, config, digest_of, entry, kinds,
    new_view, pre_prepare, r, view_change,
};

/// "It starts a timer when it receives a request and the timer is not already running. It stops
/// the timer when it is no longer waiting to execute the request." [§4.4]
#[test]
fn a_backup_is_patient_as_long_as_requests_are_executed() {
    let mut backup = Node::of_four(1, &config());
    assert!(!backup.timers.contains_key(&Timer::Request));
    backup.propose("x");
    assert!(backup.timers.contains_key(&Timer::Request));
    backup.receive(r(0), pre_prepare(0, 1, "x"));
    for from in [0, 2, 3] {
        backup.receive(r(from), commit(0, 1, "x"));
    }
    backup.fire(Timer::Request);
    assert_eq!((backup.view(), backup.role()), (0, Role::Follower));
    assert!(
        !backup.timers.contains_key(&Timer::Request),
        "it waits for nothing"
    );
}

/// "If the timer of backup i expires in view v, the backup starts a view change." [§4.4]
#[test]
fn a_backup_whose_request_is_not_executed_leaves_the_view() {
    let mut backup = Node::of_four(1, &config());
    backup.propose("x");
    assert_eq!(backup.wait_for_view_change(), config().request_timeout);
    assert_eq!((backup.view(), backup.role()), (1, Role::Candidate));
}

/// The primary orders other requests, and leaves one out: it is found out. [Clement09 §4]
#[test]
fn a_primary_that_leaves_one_request_out_is_found_out() {
    let mut backup = Node::of_four(1, &config());
    backup.propose("left out");
    for slot in 1..=3 {
        let text = slot.to_string();
        backup.receive(r(0), pre_prepare(0, slot, &text));
        for from in [0, 2, 3] {
            backup.receive(r(from), commit(0, slot, &text));
        }
    }
    assert_eq!(backup.committed(), 3);
    backup.wait_for_view_change();
    assert_eq!(backup.view(), 1);
}

/// A backup that gets no answer tells all, and then all are waiting. [§4.4]
#[test]
fn all_wait_for_what_one_has_waited_for_too_long() {
    let mut cluster = Cluster::new(4, &config());
    cluster.isolate(0);
    cluster.propose(1, "x");
    assert!(!cluster.node(2).timers.contains_key(&Timer::Request));
    cluster.node(1).fire(Timer::Request);
    assert_eq!(cluster.node(1).view(), 0, "not out of patience yet");
    cluster.deliver();
    for id in [2, 3] {
        assert!(cluster.node(id).timers.contains_key(&Timer::Request));
    }
    for id in [1, 2, 3] {
        cluster.node(id).wait_for_view_change();
    }
    cluster.deliver();
    assert_eq!(
        cluster.node(3).executed(),
        ["x"],
        "the next primary knows of it"
    );
}

/// The primary does not lose patience with itself.
#[test]
fn a_primary_does_not_leave_its_own_view() {
    let mut primary = Node::of_four(0, &config());
    primary.propose("x");
    assert!(!primary.timers.contains_key(&Timer::Request));
}

/// "If a replica receives a set of f + 1 valid view-change messages from other replicas for views
/// greater than its current view, it sends a view-change message for the smallest view in the
/// set." [§4.5.2]
#[test]
fn f_plus_1_view_changes_pull_a_replica_along_to_the_smallest() {
    let mut node = Node::of_four(3, &config());
    node.receive(r(0), Message::ViewChange(view_change(0, 7, vec![])));
    assert_eq!(node.view(), 0, "f may lie");
    node.receive(r(0), Message::ViewChange(view_change(0, 8, vec![])));
    assert_eq!(node.view(), 0, "and are no more for saying it twice");
    node.receive(r(1), Message::ViewChange(view_change(1, 5, vec![])));
    assert_eq!((node.view(), node.role()), (5, Role::Candidate));
    assert!(kinds(&node.sent_to(r(2))).contains(&"view_change"));
}

/// Replayed view changes start nothing. [§4.5.2]
#[test]
fn view_changes_of_views_long_left_start_nothing() {
    let mut node = Node::of_four(3, &config());
    let changes: Vec<_> = (0..3).map(|from| view_change(from, 1, vec![])).collect();
    node.receive(
        r(1),
        Message::NewView(Box::new(new_view(1, changes.clone(), &[]))),
    );
    assert_eq!((node.view(), node.role()), (1, Role::Follower));
    for _ in 0..3 {
        for change in &changes {
            node.receive(change.from, Message::ViewChange(change.clone()));
        }
    }
    assert_eq!((node.view(), node.role()), (1, Role::Follower));
}

/// "It waits for 2f + 1 view-change messages for view v + 1 and then starts its timer to expire
/// after some time T. If it expires, it starts the view change for view v + 2 but this time it
/// will wait 2T." [§4.5.2]
#[test]
fn each_view_change_in_a_row_waits_twice_as_long() {
    let mut node = Node::of_four(3, &config());
    let patience = config().request_timeout;
    node.propose("x");
    assert_eq!(node.wait_for_view_change(), patience);
    for view in 1..=4 {
        assert!(
            !node.timers.contains_key(&Timer::NewView),
            "not before a quorum is there"
        );
        // The primaries of the views are heard: one that is not has less time.
        for from in [1, 2] {
            node.receive(
                r(from),
                Message::ViewChange(view_change(from, view, vec![])),
            );
        }
        if view == 3 {
            break; // It is the primary of this one.
        }
        let doubled = patience * (1 << view);
        assert_eq!(node.wait_for_view_change(), doubled, "view {view}");
    }
    assert_eq!(node.role(), Role::Leader);
}

/// Progress in the new view makes the patience what it was. [§4.5.2]
#[test]
fn progress_makes_the_patience_what_it_was() {
    let mut node = Node::of_four(3, &config());
    node.propose("x");
    node.wait_for_view_change();
    let changes: Vec<_> = (0..3).map(|from| view_change(from, 1, vec![])).collect();
    node.receive(r(1), Message::NewView(Box::new(new_view(1, changes, &[]))));
    let restarted = node.now;
    node.receive(r(1), pre_prepare(1, 1, "x"));
    for from in [0, 1, 2] {
        node.receive(r(from), commit(1, 1, "x"));
    }
    node.propose("y");
    assert_eq!(node.wait_for_view_change(), config().request_timeout);
    assert!(node.now >= restarted + config().request_timeout);
}

/// Two primaries in a row are faulty: the third orders what the clients wait for. [§4.5.2]
#[test]
fn views_skip_faulty_primaries() {
    let mut cluster = Cluster::new(7, &config());
    cluster.isolate(0);
    cluster.isolate(1);
    let rest = [2, 3, 4, 5, 6];
    cluster.change_view(&rest, "x");
    assert!(
        cluster.nodes[2..]
            .iter()
            .all(|node| node.executed().is_empty())
    );
    for id in rest {
        cluster.node(id).wait_for_view_change();
    }
    cluster.deliver();
    for id in rest {
        assert_eq!(cluster.node(id).executed(), ["x"]);
        assert_eq!(cluster.node(id).view(), 2);
    }
}

/// Lost messages come again when replicas tell what they have. [Castro02 §5.2]
#[test]
fn lost_messages_of_every_kind_are_sent_again() {
    for kind in [
        "pre_prepare",
        "prepare",
        "commit",
        "checkpoint",
        "view_change",
        "new_view",
    ] {
        let mut cluster = Cluster::new(4, &config());
        cluster.propose(0, "a");
        cluster.lost.insert(kind);
        for slot in ["b", "c", "d", "e", "f"] {
            cluster.propose(0, slot);
        }
        cluster.isolate(0);
        cluster.change_view(&[1, 2, 3], "g");
        cluster.heal();
        cluster.tick(12);
        for node in &cluster.nodes {
            assert_eq!(node.committed(), cluster.nodes[0].committed(), "{kind}");
        }
        cluster.propose(3, "last");
        cluster.tick(4);
        for node in &cluster.nodes {
            assert!(node.executed().contains(&String::from("last")), "{kind}");
        }
    }
}

/// Messages of a view that has not begun here wait, and nobody can make others keep more than a
/// share.
#[test]
fn messages_of_a_view_to_come_wait_within_bounds() {
    let config = Config {
        max_early_messages: 2,
        ..config()
    };
    let mut node = Node::of_four(3, &config);
    for (slot, text) in [(1, "a"), (2, "b"), (3, "c")] {
        node.receive(r(1), pre_prepare(1, slot, text));
    }
    assert!(node.take().is_empty());
    let changes = (0..3).map(|from| view_change(from, 1, vec![])).collect();
    let sent = node.answer_to(
        r(1),
        Message::NewView(Box::new(new_view(1, changes, &[]))),
        r(2),
    );
    let slots: Vec<bool> = (1..=3)
        .map(|slot| crate::common::digest_voted(&sent, slot).is_some())
        .collect();
    assert_eq!(slots, [true, true, false]);
}

/// A faulty replica cannot make others wait for more of its batches than a share.
#[test]
fn forwarded_batches_are_waited_for_within_bounds() {
    let config = Config {
        max_waiting_batches: 1,
        request_timeout: Duration::from_secs(1),
        ..config()
    };
    let mut node = Node::of_four(2, &config);
    for text in ["a", "b"] {
        let batch = command(text);
        let relayed = false;
        node.receive(r(3), Message::Forward { batch, relayed });
    }
    node.receive(r(0), pre_prepare(0, 1, "a"));
    for from in [0, 1, 3] {
        node.receive(r(from), commit(0, 1, "a"));
    }
    node.fire(Timer::Request);
    assert!(
        !node.timers.contains_key(&Timer::Request),
        "it never waited for b"
    );
}

/// What f + 1 replicas have executed is believed, and no less; then the batch is asked for.
#[test]
fn a_replica_left_behind_believes_f_plus_1_that_a_slot_is_decided() {
    let decided = |text| Message::Decided(vec![(Slot(1), digest_of(1, text))]);
    let mut node = Node::of_four(3, &config());
    node.propose("z");
    node.wait_for_view_change();
    node.receive(r(0), pre_prepare(0, 1, "x"));
    node.receive(r(0), decided("y"));
    node.receive(r(0), decided("x"));
    node.receive(r(1), decided("x"));
    node.take();
    assert!(
        node.executed().is_empty(),
        "one has said something else first"
    );
    node.receive(r(2), decided("x"));
    assert!(kinds(&node.sent_to(r(0))).contains(&"fetch_bodies"));
    let (slot, entry) = (Slot(1), entry(1, "x"));
    node.receive(r(1), Message::Body { slot, entry });
    assert_eq!(node.executed(), ["x"]);
}

/// However often a replica asks, it is answered once a round.
#[test]
fn a_replica_is_answered_once_a_round() {
    let mut cluster = Cluster::new(4, &config());
    cluster.propose(0, "x");
    cluster.tick(1);
    let nothing = quorate_pbft::Status {
        view: View(0),
        active: true,
        stable: Slot(0),
        executed: Slot(0),
        complete: Slot(0),
        busy: false,
        view_changes: vec![View(0); 4],
    };
    let node = cluster.node(1);
    let mut answers = Vec::new();
    for _ in 0..3 {
        node.fire(Timer::Status);
        node.take();
        for _ in 0..3 {
            answers.push(
                node.answer_to(r(3), Message::Status(nothing.clone()), r(3))
                    .len(),
            );
        }
    }
    assert_eq!(answers, [0, 0, 0, 3, 0, 0, 4, 0, 0]);
}

/// A replica that has gone on to the next view does not keep the others waiting for it in theirs.
#[test]
fn view_changes_for_later_views_start_the_timer_too() {
    let mut node = Node::of_four(3, &config());
    node.propose("x");
    node.wait_for_view_change();
    node.receive(r(1), Message::ViewChange(view_change(1, 1, vec![])));
    assert!(!node.timers.contains_key(&Timer::NewView));
    node.receive(r(2), Message::ViewChange(view_change(2, 2, vec![])));
    assert_eq!(node.view(), 1, "one alone pulls nobody along");
    assert!(node.timers.contains_key(&Timer::NewView));
}

/// "A backup is waiting for a request if it received a valid request and has not executed it." One
/// that a faulty replica tells it again it has executed. [§4.4]
#[test]
fn what_was_executed_is_not_waited_for_when_it_is_told_again() {
    // With a checkpoint in between that is stable at the backups and not at the primary.
    for (others, stable_at_primary) in [(0, true), (3, false), (3, true)] {
        let mut cluster = Cluster::new(4, &config());
        if !stable_at_primary {
            cluster.lose(|_, to, message| to == r(0) && matches!(message, Message::Checkpoint(_)));
        }
        for text in ["x", "a", "b", "c"].into_iter().take(1 + others) {
            cluster.propose(0, text);
            cluster.deliver();
        }
        for id in [1, 2] {
            let again = Message::Forward {
                batch: command("x"),
                relayed: false,
            };
            cluster.node(id).receive(r(3), again);
        }
        cluster.deliver();
        for id in [1, 2] {
            while cluster.node(id).timers.contains_key(&Timer::Request) {
                cluster.node(id).fire(Timer::Request);
                cluster.deliver();
                assert_eq!(cluster.node(id).view(), 0, "{others} {stable_at_primary}");
            }
        }
    }
}
