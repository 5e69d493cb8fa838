//! For how long a replica waits before it asks for another primary. [Castro99 §4.5.2]

use std::time::Duration;

use quorate_core::id::{Slot, Time};
use quorate_core::protocol::Role;
use quorate_pbft::{Config, Message, Mutant, Status, Timer, View};

use crate::common::{
    Node, PbftNode, checkpoint_certificate, command, commit, config, digest_of, new_view,
    pre_prepare, prepared, r, state_of, view_change,
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
    // What it has executed counted for the primary, and that it is behind once more.
    assert_eq!(node.wait_for_view_change(), t() + t() / 2);
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

/// A backup, 1 of four, with a window that no test fills.
fn backup(mutant: Option<Mutant>) -> Node {
    Node::of_four(
        1,
        &Config {
            mutant,
            checkpoint_every: 100,
            window: 200,
            ..config()
        },
    )
}

/// Lets time pass, and what falls due in it happen.
fn pass(node: &mut Node, time: Duration) {
    let until = node.now + time;
    while let Some(due) = node.timers.get(&Timer::Request).copied()
        && due <= until
        && node.view() == 0
    {
        node.fire(Timer::Request);
    }
    node.now = until;
}

/// The primary orders a command, and all execute it.
fn order(node: &mut Node, slot: u64, text: &str) {
    node.receive(r(0), pre_prepare(0, slot, text));
    for from in [0, 2, 3] {
        node.receive(r(from), commit(0, slot, text));
    }
}

/// Whether the primary is still that, where it orders one of six commands of this replica's clients
/// after the other, each in less than the patience.
fn survives_overload(mutant: Option<Mutant>) -> bool {
    let mut node = backup(mutant);
    (1..=6).for_each(|slot: u64| node.propose(&slot.to_string()));
    for slot in 1..=6 {
        pass(&mut node, t() * 4 / 5);
        order(&mut node, slot, &slot.to_string());
    }
    node.view() == 0
}

/// "It stops the timer when it is no longer waiting to execute the request, but restarts it if at
/// that point it is waiting to execute some other request." [Castro99 §4.4]
#[test]
fn a_primary_that_has_more_to_do_than_it_can_is_kept() {
    assert!(survives_overload(None));
    assert!(!survives_overload(Some(Mutant::FrontKeepsTime)));
}

/// Whether the primary is still that, where it orders so many commands of others, and then this
/// replica's.
fn survives_turns(mutant: Option<Mutant>, others: u64) -> bool {
    let mut node = backup(mutant);
    node.propose("mine");
    for slot in 1..=others {
        pass(&mut node, t() * 4 / 5);
        order(&mut node, slot, &slot.to_string());
    }
    pass(&mut node, t() * 4 / 5 - Duration::from_nanos(1));
    order(&mut node, others + 1, "mine");
    node.view() == 0
}

/// Others have their turns, which may take four times as long as the primary may do nothing.
#[test]
fn what_others_have_executed_counts_for_the_primary_while_they_have_their_turns() {
    assert!(survives_turns(None, 4), "a nanosecond less than four times");
    assert!(!survives_turns(None, 5));
    assert!(!survives_turns(Some(Mutant::OthersCountNot), 4));
}

/// After how long a primary is found out that leaves a command out and orders others, one each `pace`.
fn found_out_after(mutant: Option<Mutant>, pace: Duration) -> Option<Duration> {
    let mut node = backup(mutant);
    node.propose("left out");
    let from = node.now;
    for slot in 1..=100 {
        let view = node.view();
        pass(&mut node, pace);
        if node.view() > view {
            let last = node.now.since(from);
            return Some(last);
        }
        order(&mut node, slot, &slot.to_string());
    }
    None
}

/// [Clement09 §4]: within the patience once all others have had their turns, two for each replica; and
/// in four times that, however slowly it lets them pass.
#[test]
fn a_primary_that_passes_a_request_over_is_found_out_after_the_turns_of_all_others() {
    let due =
        |after: Duration, pace: Duration| after.as_nanos().div_ceil(pace.as_nanos()) as u32 * pace;
    // Eight have passed before the patience ends, and only then.
    let (fast, just, slow) = (t() / 20, t() / 8, t() / 2);
    assert_eq!(found_out_after(None, fast), Some(due(t(), fast)));
    assert_eq!(
        found_out_after(None, just),
        Some(t() + just),
        "the eighth comes at its end"
    );
    assert_eq!(found_out_after(None, slow), Some(due(t() * 4, slow)));
    assert_eq!(
        found_out_after(Some(Mutant::OthersCountForEver), fast),
        None
    );
}

/// Nobody's requests stand before those of another replica's clients.
#[test]
fn what_a_liar_has_told_first_gives_the_primary_no_time_for_others() {
    let mut node = backup(None);
    for number in 0..20 {
        let batch = command(&format!("of a liar {number}"));
        let relayed = false;
        node.receive(r(3), Message::Forward { batch, relayed });
    }
    node.propose("left out");
    for slot in 1..=6 {
        pass(&mut node, t() * 4 / 5);
        if node.view() > 0 {
            break;
        }
        order(&mut node, slot, &format!("of a liar {}", slot - 1));
    }
    assert_eq!(node.view(), 1);
}

/// What this replica tells the primary of now.
fn told(node: &mut Node) -> usize {
    let sent = node.sent_to(r(0));
    let forwards = sent
        .iter()
        .filter(|message| matches!(message, Message::Forward { .. }));
    forwards.count()
}

/// The primary would drop what it has no room for, and give the place to what comes later.
#[test]
fn the_primary_is_told_of_what_it_has_room_for_the_oldest_first() {
    for (mutant, expected) in [
        (None, [1, 0, 1]),
        (Some(Mutant::ToldWithoutRoom), [1, 1, 0]),
    ] {
        let config = Config {
            mutant,
            max_queued_batches: 1,
            ..config()
        };
        let mut node = Node::of_four(1, &config);
        let mut counts = Vec::new();
        for text in ["a", "b"] {
            node.propose(text);
            counts.push(told(&mut node));
        }
        order(&mut node, 1, "a");
        counts.push(told(&mut node));
        assert_eq!(counts, expected, "{mutant:?}");
    }
}

/// What a replica is sent that lacks three slots, as much as it may have in a round: how many of
/// four rounds bring it something.
fn rounds_of_help(mutant: Option<Mutant>) -> usize {
    let config = Config {
        mutant,
        max_resent_slots: 1,
        ..config()
    };
    let mut node = Node::of_four(1, &config);
    for (slot, text) in [(1, "a"), (2, "b"), (3, "c")] {
        order(&mut node, slot, text);
    }
    // It comes on by what it is sent.
    let mut executed = 0;
    let rounds = (0..4).filter(|_| {
        node.fire(Timer::Status);
        node.take();
        let answer = node.answer_to(r(3), status(executed), r(3));
        let helps = answer
            .iter()
            .any(|message| matches!(message, Message::Decided(_)));
        executed += u64::from(helps);
        helps
    });
    rounds.count()
}

/// [Castro02 §5.2]
#[test]
fn who_comes_on_by_what_it_is_sent_again_is_sent_more_each_round() {
    assert_eq!(
        rounds_of_help(None),
        3,
        "the first round shows that it has stopped"
    );
    assert_eq!(rounds_of_help(Some(Mutant::HelpPauses)), 2);
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

/// Whether a backup asks for another primary that is always two slots behind all others, and comes on.
fn asks_though_kept_behind(mutant: Option<Mutant>) -> bool {
    let mut node = backup(mutant);
    node.propose("left out");
    (1..=60).any(|slot| {
        for from in [0, 2, 3] {
            node.receive(r(from), status(slot + 2));
        }
        pass(&mut node, t() / 4);
        let asks = node.view() > 0;
        if !asks {
            order(&mut node, slot, &slot.to_string());
        }
        asks
    })
}

/// Else a primary that keeps its backups behind could leave a request out for good. [Clement09 §4]
#[test]
fn who_is_kept_behind_asks_for_another_primary_all_the_same() {
    assert!(asks_though_kept_behind(None));
    assert!(!asks_though_kept_behind(Some(Mutant::AlwaysBehind)));
}
