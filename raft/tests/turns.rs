//! What leaves when: promises after their records, and one message a peer and turn.

mod common;

use std::time::Duration;

use common::{
    Cluster, Node, RaftCluster, RaftNode, accepted, append, at, command, context, heartbeat, r,
    request_vote, text, vote,
};
use quorate_core::id::Slot;
use quorate_core::machine::Keys;
use quorate_core::protocol::{Input, Recovered, Role};
use quorate_raft::{Config, Message, Raft, Timer};

fn propose(text: &str) -> Input<Raft> {
    Input::Propose {
        batch: command(text),
        keys: Keys::All,
    }
}

fn forward(text: &str) -> Message {
    let (seen, batch) = (Slot::ZERO, command(text));
    Message::Forward { seen, batch }
}

#[test]
fn a_vote_leaves_when_it_is_durable() {
    let mut node = Node::follower(0, 3, 1, &[1]);
    node.syncs = false;
    assert_eq!(node.answer(r(1), request_vote(2, at(1, 1))), []);
    node.sync();
    assert_eq!(node.durable_vote(), (2, Some(r(1))));
    assert_eq!(node.take(), [(r(1), vote(2, at(1, 1), true))]);
}

#[test]
fn a_campaign_leaves_at_once_and_leads_when_its_own_vote_is_durable() {
    let mut node = Node::follower(0, 3, 1, &[1]);
    node.syncs = false;
    node.wait_for_campaign();
    assert!(node.take().contains(&(r(2), request_vote(2, at(1, 1)))));
    node.receive(r(1), vote(2, at(1, 1), true));
    assert_eq!(node.role(), Role::Candidate, "one vote of three");
    node.receive(r(2), vote(2, at(1, 1), true));
    assert_eq!(node.role(), Role::Candidate, "it may still forget the term");
    node.sync();
    node.end_turn();
    assert_eq!(node.role(), Role::Leader);
}

#[test]
fn an_acknowledgement_leaves_when_the_entries_are_durable() {
    let mut node = Node::follower(0, 3, 1, &[]);
    node.syncs = false;
    assert_eq!(node.answer(r(1), append(1, at(0, 0), &[1], 0)), []);
    node.sync();
    assert_eq!(node.take(), [(r(1), accepted(1, 1))]);
}

#[test]
fn a_rejection_waits_for_nothing() {
    let mut node = Node::follower(0, 3, 1, &[]);
    node.syncs = false;
    assert_eq!(node.answer(r(1), heartbeat(1, at(4, 1), 0)).len(), 1);
}

#[test]
fn a_single_replica_leads_and_commits_through_promises_to_itself() {
    let past = Recovered::nothing();
    let mut node = Node::recover(context(r(0), 1, 0), Config::default(), past).unwrap();
    node.syncs = false;
    node.wait_for_campaign();
    assert_eq!(node.role(), Role::Candidate);
    node.sync();
    node.end_turn();
    assert_eq!((node.role(), node.committed()), (Role::Leader, 0));
    node.propose("x");
    assert_eq!(node.committed(), 0);
    node.sync();
    node.end_turn();
    assert_eq!(node.executed(), ["", "x"]);
    node.read(7);
    node.sync();
    node.end_turn();
    assert_eq!(node.answered().len(), 1);
}

#[test]
fn a_leader_sends_each_peer_one_message_a_turn() {
    let mut cluster = Cluster::led_by_0(3, &Config::default());
    let leader = cluster.node(0);
    for text in ["a", "b", "c"] {
        leader.step(propose(text));
    }
    assert_eq!(leader.take(), []);
    leader.end_turn();
    let appends = leader.appends(r(1));
    assert_eq!(appends.len(), 1);
    assert_eq!(appends[0].entries.len(), 3);
}

#[test]
fn a_follower_acknowledges_once_a_turn() {
    let mut node = Node::follower(0, 3, 1, &[]);
    for slot in 0..4 {
        let term = u64::from(slot > 0);
        let input = node.input(r(1), append(1, at(slot, term), &[1], 0));
        node.step(input);
    }
    node.end_turn();
    assert_eq!(node.take(), [(r(1), accepted(1, 4))]);
}

/// 2(n - 1) messages a commit: the commit index rides along with the next entries.
#[test]
fn a_commit_costs_two_messages_a_follower() {
    for n in [3, 5] {
        let mut cluster = Cluster::led_by_0(n, &Config::default());
        cluster.rounds.clear();
        for _ in 0..10 {
            cluster.propose(0, "x");
        }
        assert_eq!(cluster.node(0).committed(), 11);
        assert_eq!(cluster.delivered().len(), 10 * 2 * (n - 1));
    }
}

#[test]
fn messages_follow_each_other_without_waiting() {
    let mut cluster = Cluster::led_by_0(3, &Config::default());
    let leader = cluster.node(0);
    for text in ["a", "b", "c"] {
        leader.propose(text);
    }
    let appends = leader.appends(r(1));
    let previous: Vec<u64> = appends
        .iter()
        .map(|append| append.previous.slot.0)
        .collect();
    assert_eq!(previous, [1, 2, 3]);
}

#[test]
fn what_is_in_flight_is_bounded_and_goes_on_with_acknowledgements() {
    let config = Config {
        max_inflight_messages: 2,
        ..Config::default()
    };
    let mut cluster = Cluster::led_by_0(3, &config);
    let leader = cluster.node(0);
    for text in ["a", "b", "c", "d"] {
        leader.propose(text);
    }
    assert_eq!(leader.appends(r(1)).len(), 2);
    leader.receive(r(1), accepted(1, 2));
    leader.receive(r(1), accepted(1, 3));
    let appends = leader.appends(r(1));
    let carried: Vec<_> = appends.iter().flat_map(|append| &append.entries).collect();
    assert_eq!(carried.len(), 2, "c and d");
}

#[test]
fn a_message_carries_no_more_than_its_limit() {
    let config = Config {
        max_append_bytes: 400,
        ..Config::default()
    };
    let mut cluster = Cluster::led_by_0(3, &config);
    let leader = cluster.node(0);
    for number in 0..10 {
        leader.step(propose(&format!("command {number}")));
    }
    leader.step(propose(&"x".repeat(1000)));
    leader.end_turn();
    let appends = leader.appends(r(1));
    for append in &appends {
        let bytes: usize = append.entries.iter().map(quorate_raft::Entry::size).sum();
        assert!(bytes <= 400 || append.entries.len() == 1);
    }
    let count: usize = appends.iter().map(|append| append.entries.len()).sum();
    assert_eq!(count, 11);
    assert!(appends.len() < 8, "small ones travel together");
}

#[test]
fn what_was_lost_is_sent_again_after_a_heartbeat() {
    let mut cluster = Cluster::led_by_0(3, &Config::default());
    cluster.isolate(1);
    for _ in 0..5 {
        cluster.propose(0, "x");
    }
    cluster.heal();
    assert_eq!(cluster.node(1).committed(), 0);
    cluster.beat(0);
    cluster.beat(0);
    assert_eq!(cluster.node(1).executed(), cluster.nodes[0].executed());
}

#[test]
fn a_follower_forwards_to_the_leader_and_learns_of_the_commit_at_once() {
    let mut cluster = Cluster::led_by_0(3, &Config::default());
    cluster.beat(0);
    cluster.rounds.clear();
    cluster.propose(1, "x");
    assert_eq!(cluster.node(1).executed(), ["", "x"], "its client waits");
    assert_eq!(cluster.node(2).executed(), [""], "nobody waits here");
    // One forward, a round of entries and acknowledgements, and the commit index to the one.
    assert_eq!(cluster.delivered().len(), 1 + 4 + 1);
}

#[test]
fn without_a_leader_proposals_are_dropped() {
    let mut node = Node::follower(0, 3, 1, &[]);
    node.propose("x");
    assert_eq!(node.take(), []);
    let mut node = Node::candidate(3, 2, &[]);
    node.take();
    node.propose("x");
    node.receive(r(1), forward("y"));
    assert_eq!((node.take().len(), node.log_terms().len()), (0, 0));
}

#[test]
fn a_replica_that_does_not_lead_passes_no_forwarded_proposal_on() {
    let mut node = Node::follower(0, 3, 1, &[]);
    node.receive(r(1), heartbeat(1, at(0, 0), 0));
    node.take();
    node.receive(r(2), forward("x"));
    assert_eq!(node.take(), []);
}

#[test]
fn a_leader_without_a_quorum_stops_taking_proposals() {
    let config = Config {
        max_uncommitted_bytes: 500,
        ..Config::default()
    };
    let mut cluster = Cluster::led_by_0(3, &config);
    cluster.isolate(0);
    for _ in 0..100 {
        cluster.propose(0, "x");
    }
    let taken = cluster.node(0).log_terms().len();
    assert!((2..20).contains(&taken), "{taken} entries");
    cluster.heal();
    cluster.beat(0);
    cluster.beat(0);
    cluster.propose(0, "y");
    let executed = cluster.node(0).executed();
    assert_eq!(executed.len(), taken + 1);
    assert_eq!(executed.last().map(String::as_str), Some("y"));
}

#[test]
fn repeated_and_reordered_messages_change_nothing() {
    let mut cluster = Cluster::led_by_0(3, &Config::default());
    for text in ["a", "b", "c"] {
        cluster.node(0).propose(text);
    }
    let appends = cluster.node(0).appends(r(1));
    let backwards = appends.iter().rev();
    for append in backwards.chain(&appends).chain(&appends).cloned() {
        cluster
            .node(1)
            .receive(r(0), Message::AppendEntries(append));
    }
    let (_, log) = cluster.node(1).log();
    let held: Vec<String> = log.iter().map(|entry| text(&entry.batch)).collect();
    assert_eq!(held, ["", "a", "b", "c"]);
    for (_, answer) in cluster.node(1).take() {
        cluster.node(0).receive(r(1), answer.clone());
        cluster.node(0).receive(r(1), answer);
    }
    assert_eq!(cluster.node(0).executed(), ["", "a", "b", "c"]);
}

#[test]
fn the_timers_of_a_role_end_with_it() {
    let mut node = Node::leader(3, 2, &[]);
    let timers: Vec<Timer> = node.timers.keys().copied().collect();
    assert_eq!(timers, [Timer::Heartbeat]);
    let deposed_at = node.now + Duration::from_millis(10);
    node.now = deposed_at;
    node.receive(r(1), heartbeat(3, at(0, 0), 0));
    let timers: Vec<Timer> = node.timers.keys().copied().collect();
    assert_eq!(timers, [Timer::Election]);
    assert!(node.timers[&Timer::Election] >= deposed_at + Config::default().election_timeout);
}

#[test]
fn an_acknowledgement_of_more_than_there_is_does_not_count() {
    let mut leader = Node::leader(3, 2, &[]);
    leader.receive(r(1), accepted(2, 9));
    assert_eq!(leader.committed(), 0);
    leader.receive(r(1), accepted(2, 1));
    assert_eq!(leader.slots().first(), Some(&1));
}
