//! For how long a replica waits before it asks for another primary. [Castro99 §4.5.2]

use std::time::Duration;

use quorate_core::id::{Slot, Time};
use quorate_core::protocol::Role;
use quorate_pbft::{Message, Status, Timer, View};

use crate::common::{
    Node, PbftNode, checkpoint_certificate, commit, config, digest_of, new_view, pre_prepare,
    prepared, r, state_of, view_change,
};

/// What replica `from` may say of itself: it has executed so much.
fn status(executed: u64) -> Message {
    Message::Status(Status {
        view: View(0),
        active: true,
        stable: Slot(0),
        executed: Slot(executed),
        complete: Slot(executed),
        busy: false,
        view_changes: vec![View(0); 4],
    })
}

fn t() -> Duration {
    config().request_timeout
}

/// Replica 3 waits for view 4 to begin, after as many view changes: its own turn is not yet.
fn in_a_long_wait() -> Node {
    let mut node = Node::of_four(3, &config());
    node.propose("x");
    node.wait_for_view_change();
    for from in [0, 1, 2] {
        node.receive(r(from), Message::ViewChange(view_change(from, 2, vec![])));
    }
    assert_eq!(node.view(), 2);
    for view in 4..=6 {
        for from in [0, 1] {
            let change = view_change(from, view, vec![]);
            node.receive(r(from), Message::ViewChange(change));
        }
    }
    assert_eq!((node.view(), node.role()), (6, Role::Candidate));
    node
}

fn wait_left(node: &Node) -> Duration {
    let due = node.timers.get(&Timer::NewView).copied();
    due.unwrap_or(Time::ZERO).since(node.now)
}

/// What earlier primaries have ordered shows nothing of what this one does.
#[test]
fn the_back_off_is_kept_until_the_new_view_has_executed_something_new() {
    let mut node = Node::of_four(3, &config());
    node.receive(r(0), pre_prepare(0, 1, "x"));
    node.propose("y");
    assert_eq!(node.wait_for_view_change(), t());
    let shows = |from| view_change(from, 1, vec![prepared(0, 1, "x", &[1, 2])]);
    let begin = new_view(1, (0..3).map(shows).collect(), &[digest_of(1, "x")]);
    node.receive(r(1), Message::NewView(Box::new(begin)));
    for from in [0, 1, 2] {
        node.receive(r(from), commit(1, 1, "x"));
    }
    assert_eq!((node.view(), node.executed().len()), (1, 1));
    assert_eq!(node.wait_for_view_change(), t() * 2, "y is not executed");
}

/// Waits that grew while a replica was not there say nothing of how long it takes with it.
#[test]
fn a_replica_that_is_heard_again_cuts_a_long_wait_short() {
    let mut node = in_a_long_wait();
    assert!(wait_left(&node) > t() * 8);
    node.receive(r(0), status(0));
    assert!(wait_left(&node) > t() * 8, "it was there all the time");
    node.now = node.now + Duration::from_millis(1_601);
    node.receive(r(2), status(0));
    assert_eq!(wait_left(&node), t());
}

/// A liar that comes and goes must be away for twice as long each time.
#[test]
fn one_that_comes_and_goes_cannot_keep_the_waits_short() {
    let mut node = in_a_long_wait();
    let mut away = Duration::from_millis(1_601);
    let mut cuts = Vec::new();
    for _ in 0..3 {
        // What the others say meanwhile makes the wait long again.
        for others in [away / 2, away - away / 2] {
            node.now = node.now + others;
            for from in [0, 1] {
                node.receive(r(from), status(0));
            }
        }
        let before = wait_left(&node);
        node.receive(r(2), status(0));
        cuts.push(wait_left(&node) < before);
        away += Duration::from_millis(1);
        if cuts.len() == 1 {
            for (view, from) in (40..=44).flat_map(|view| [(view, 0), (view, 1)]) {
                let change = view_change(from, view, vec![]);
                node.receive(r(from), Message::ViewChange(change));
            }
        }
    }
    assert_eq!(cuts, [true, false, false]);
}

/// A primary that says nothing at all is not likely to begin its view.
#[test]
fn a_primary_that_is_not_heard_has_less_time_to_begin_its_view() {
    for (heard, patience) in [(true, t() * 2), (false, t() * 2 / 4)] {
        let mut node = Node::of_four(3, &config());
        node.propose("x");
        node.wait_for_view_change();
        if heard {
            node.receive(r(1), status(0));
        }
        for from in [0, 2] {
            let change = view_change(from, 1, vec![]);
            node.receive(r(from), Message::ViewChange(change));
        }
        assert_eq!(wait_left(&node), patience, "heard: {heard}");
    }
}

/// f + 1 others have executed more, and it comes along: what it lacks is not the primary's fault.
/// When it comes no further, it is.
#[test]
fn a_replica_that_catches_up_asks_for_no_other_primary() {
    let mut node = Node::of_four(3, &config());
    node.propose("x");
    for from in [0, 1] {
        node.receive(r(from), status(4));
    }
    node.fire(Timer::Request);
    node.receive(r(0), pre_prepare(0, 1, "a"));
    for from in [0, 1, 2] {
        node.receive(r(from), commit(0, 1, "a"));
    }
    node.fire(Timer::Request);
    assert_eq!((node.view(), node.committed()), (0, 1));
    assert_eq!(node.wait_for_view_change(), t());
    // One alone may lie.
    let mut node = Node::of_four(3, &config());
    node.propose("x");
    node.receive(r(0), status(4));
    node.receive(r(0), pre_prepare(0, 1, "a"));
    for from in [0, 1, 2] {
        node.receive(r(from), commit(0, 1, "a"));
    }
    assert_eq!(node.wait_for_view_change(), t());
}

/// A state that is proved and that it lacks: it fetches it first, however long that takes.
#[test]
fn a_replica_that_lacks_a_proved_state_asks_for_no_other_primary() {
    let mut node = Node::of_four(3, &config());
    let state = state_of(&["1", "2", "3", "4"]);
    let proof = checkpoint_certificate(4, state, &[0, 1, 2]);
    node.receive(r(1), Message::Stable(proof));
    node.propose("x");
    for _ in 0..10 {
        node.fire(Timer::Request);
    }
    assert_eq!(node.view(), 0);
    // It goes along with f + 1 who do.
    for from in [1, 2] {
        let change = view_change(from, 1, vec![]);
        node.receive(r(from), Message::ViewChange(change));
    }
    assert_eq!(node.view(), 1);
}
