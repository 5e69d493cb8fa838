//! What a primary takes from whom, and how much of it. [Castro99 §4.2, §4.4; Clement09 §4]

use quorate_pbft::{Config, Message, Timer};

use crate::common::{
    Cluster, Node, PbftCluster, PbftNode, command, config, digest_voted, pre_prepare, r, text,
};

fn forward(text: &str, relayed: bool) -> Message {
    let batch = command(text);
    Message::Forward { batch, relayed }
}

/// The slots that a primary has given out, with what they hold.
fn given(primary: &mut Node) -> Vec<(u64, String)> {
    let sent = primary.sent_to(r(1)).into_iter();
    let given = sent.filter_map(|message| match message {
        Message::PrePrepare { proposal, entry } => Some((proposal.slot.0, text(&entry.batch))),
        _ => None,
    });
    given.collect()
}

/// A replica that forwards without end stands in nobody's way: each has its share and its turn, and
/// what it has others pass on is not counted as theirs.
#[test]
fn a_flood_from_one_replica_takes_a_share_of_the_slots() {
    let config = Config {
        max_slots_under_way: 3,
        max_queued_batches: 4,
        checkpoint_every: 64,
        window: 128,
        ..config()
    };
    let mut primary = Node::of_four(0, &config);
    for number in 0..50 {
        primary.receive(r(3), forward(&format!("flood {number}"), false));
        primary.receive(r(1), forward(&format!("passed on {number}"), true));
    }
    assert_eq!(given(&mut primary).len(), 6, "three of each");
    primary.receive(r(1), forward("asked", false));
    primary.receive(r(2), forward("asked too", false));
    primary.propose("own");
    let asked = [(7, "asked"), (8, "asked too"), (9, "own")];
    assert_eq!(
        given(&mut primary),
        asked.map(|(slot, text)| (slot, String::from(text)))
    );
}

/// What waits goes on as slots are executed, and what was beyond the share is told again.
#[test]
fn what_waits_for_a_slot_has_it_when_others_are_executed() {
    let config = Config {
        max_slots_under_way: 1,
        max_queued_batches: 2,
        ..config()
    };
    let mut cluster = Cluster::new(4, &config);
    cluster.isolate(0);
    for number in 0..6 {
        cluster.propose(1, &number.to_string());
    }
    cluster.heal();
    for number in 0..6 {
        cluster.propose(1, &number.to_string());
    }
    cluster.node(1).fire(Timer::Request);
    cluster.deliver();
    cluster.node(1).fire(Timer::Request);
    cluster.deliver();
    cluster.tick(4);
    let mut executed = cluster.node(2).executed();
    executed.sort();
    executed.dedup();
    assert_eq!(executed, ["0", "1", "2", "3", "4", "5"]);
    assert_eq!(cluster.node(1).view(), 0);
}

/// A backup passes on what it waits for, and no more.
#[test]
fn a_backup_passes_on_no_more_than_it_waits_for() {
    let config = Config {
        max_waiting_batches: 2,
        ..config()
    };
    let mut backup = Node::of_four(1, &config);
    for number in 0..5 {
        backup.receive(r(3), forward(&number.to_string(), false));
        backup.receive(r(3), forward(&number.to_string(), false));
    }
    let passed_on = backup.sent_to(r(0));
    assert_eq!(passed_on.len(), 2, "{passed_on:?}");
}

/// The backups are past a checkpoint that the primary has not come to, and have forgotten what
/// they executed before it. A liar tells them of it again: the primary, who still has its slot, orders it
/// anew, for they would wait for ever.
#[test]
fn a_replayed_batch_does_not_depose_a_primary_that_lags_a_checkpoint() {
    let mut cluster = Cluster::new(4, &config());
    cluster.lose(|_, to, message| {
        let late = matches!(
            message,
            Message::Commit { .. }
                | Message::Decided(_)
                | Message::Checkpoint(_)
                | Message::Stable(_)
        );
        to == r(0) && late
    });
    for text in ["x", "a", "b", "c"] {
        cluster.propose(0, text);
    }
    assert_eq!(cluster.node(0).committed(), 0);
    for id in [1, 2] {
        assert_eq!(cluster.node(id).committed(), 4);
        cluster.node(id).receive(r(3), forward("x", false));
    }
    cluster.deliver();
    cluster.tick(1);
    for id in [1, 2] {
        while cluster.node(id).timers.contains_key(&Timer::Request) {
            cluster.node(id).fire(Timer::Request);
            cluster.deliver();
            assert_eq!(cluster.node(id).view(), 0);
        }
    }
}

/// The batches between the watermarks are bounded in bytes: a primary fills the slots up to the next
/// checkpoint with null requests when there is no room, for that makes room.
#[test]
fn a_window_that_is_full_by_bytes_moves_on() {
    let size = command("00").size();
    for (bytes, unfilled) in [(size * 8, true), (size * 2, false), (1, false)] {
        let config = Config {
            max_window_bytes: bytes,
            ..config()
        };
        let mut cluster = Cluster::new(4, &config);
        let texts: Vec<String> = (10..30).map(|number| number.to_string()).collect();
        for text in &texts {
            cluster.node(0).propose(text);
        }
        cluster.deliver();
        cluster.tick(2);
        for node in &cluster.nodes {
            let executed = node.executed().into_iter();
            let commands: Vec<String> = executed.filter(|text| !text.is_empty()).collect();
            assert_eq!(commands, texts, "{bytes} bytes");
            assert_eq!(node.committed() == 20, unfilled, "{bytes} bytes");
        }
    }
}

/// A backup holds twice as much as a correct primary fills, and one batch in any case. What comes
/// beyond waits like what lies beyond the high watermark.
#[test]
fn a_lying_primary_cannot_fill_a_backups_window_with_bytes() {
    let size = command("1").size();
    for (bytes, held) in [(size * 2, 4), (size * 2 - 1, 3), (1, 1)] {
        let config = Config {
            max_window_bytes: bytes,
            ..config()
        };
        let mut backup = Node::of_four(1, &config);
        let votes = (1..=8).filter(|slot| {
            let sent = backup.answer_to(r(0), pre_prepare(0, *slot, &slot.to_string()), r(2));
            digest_voted(&sent, *slot).is_some()
        });
        assert_eq!(votes.count(), held, "{bytes} bytes");
    }
}
