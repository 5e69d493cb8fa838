//! Linearizable reads. [Ongaro14 §8; OngaroThesis §6.4]

mod common;

use std::time::Duration;

use common::{
    Cluster, Node, RaftCluster, RaftNode, accepted, at, echo, heartbeat, r, request_vote,
};
use quorate_core::id::Slot;
use quorate_core::machine::Keys;
use quorate_core::protocol::{Input, ReadId};
use quorate_raft::{AppendEntries, Config, Message, Term};

/// A leader of three that has committed its first entry, with nothing on its way.
fn leader() -> Node {
    let mut leader = Node::leader(3, 1, &[]);
    leader.receive(r(1), accepted(1, 1));
    leader.receive(r(2), accepted(1, 1));
    leader.take();
    leader
}

/// The questions that a follower has sent.
fn tickets(node: &mut Node) -> Vec<u64> {
    let sent = node.take().into_iter();
    sent.filter_map(|(_, message)| match message {
        Message::ReadIndex { ticket } => Some(ticket),
        _ => None,
    })
    .collect()
}

/// A follower of replica 1 that knows it.
fn follower() -> Node {
    let mut node = Node::follower(0, 3, 1, &[1]);
    node.receive(r(1), heartbeat(1, at(1, 1), 1));
    node.take();
    node
}

/// "It issues a new round of heartbeats and waits for their acknowledgments from a majority of the
/// cluster." [OngaroThesis §6.4]
#[test]
fn a_leader_answers_a_read_when_a_quorum_has_confirmed_that_it_leads() {
    let mut leader = leader();
    leader.read(5);
    assert_eq!(leader.answered(), []);
    let beats = leader.appends(r(2));
    assert_eq!((beats.len(), beats[0].round), (1, 1));
    leader.receive(r(1), echo(1, 0));
    assert_eq!(
        leader.answered(),
        [],
        "an acknowledgement from before the read"
    );
    leader.receive(r(1), echo(1, 1));
    assert_eq!(leader.answered(), [ReadId(5)]);
}

/// A round says nothing of what was asked after it began: the replicas may have heard of it before
/// another leader was elected, and before what that committed. [OngaroThesis §6.4]
#[test]
fn a_read_does_not_join_a_round_that_is_under_way() {
    let mut leader = leader();
    leader.read(5);
    leader.read(6);
    let rounds: Vec<u64> = leader.appends(r(1)).iter().map(|beat| beat.round).collect();
    assert_eq!(rounds, [1, 2]);
    leader.receive(r(1), echo(1, 1));
    assert_eq!(leader.answered(), [ReadId(5)]);
    leader.receive(r(1), echo(1, 2));
    assert_eq!(leader.answered(), [ReadId(5), ReadId(6)]);
}

/// An echo promises nothing: it leaves while the disk has other things to do. [OngaroThesis §6.4]
#[test]
fn a_read_waits_for_no_disk() {
    let mut cluster = Cluster::led_by_0(3, &Config::default());
    for node in &mut cluster.nodes {
        node.syncs = false;
    }
    cluster.propose(0, "x");
    assert_eq!(cluster.node(0).committed(), 1, "no disk has written it");
    cluster.node(0).read(5);
    cluster.deliver();
    assert_eq!(cluster.node(0).answered(), [ReadId(5)]);
}

/// "If the leader has not yet marked an entry from its current term committed, it waits until it
/// has done so." [OngaroThesis §6.4]
#[test]
fn a_leader_answers_no_read_before_it_has_committed_in_its_own_term() {
    let mut leader = Node::leader(3, 2, &[1]);
    leader.read(5);
    leader.receive(r(1), accepted(2, 1));
    leader.receive(r(2), accepted(2, 1));
    assert_eq!(leader.answered(), []);
    leader.take();
    leader.receive(r(1), accepted(2, 2));
    assert_eq!(leader.committed(), 2);
    assert_eq!(leader.answered(), [], "the round begins only now");
    leader.receive(r(1), echo(2, 1));
    assert_eq!(leader.answered(), [ReadId(5)]);
}

#[test]
fn reads_of_a_turn_share_a_round_and_entries_carry_it() {
    let mut leader = leader();
    let (batch, keys) = (common::command("x"), Keys::All);
    leader.step(Input::Propose { batch, keys });
    for id in 0..10 {
        let (id, keys) = (ReadId(id), Keys::All);
        leader.step(Input::Read { id, keys });
    }
    leader.end_turn();
    let appends = leader.appends(r(1));
    assert_eq!(appends.len(), 1);
    assert_eq!((appends[0].entries.len(), appends[0].round), (1, 1));
    leader.receive(r(1), echo(1, 1));
    assert_eq!(leader.answered().len(), 10);
}

#[test]
fn a_leader_that_was_replaced_answers_no_read() {
    let mut cluster = Cluster::led_by_0(3, &Config::default());
    cluster.isolate(0);
    cluster.elect(1);
    cluster.propose(1, "x");
    cluster.node(0).read(5);
    cluster.beat(0);
    assert_eq!(cluster.node(0).answered(), []);
    cluster.heal();
    cluster.beat(0);
    cluster.beat(1);
    assert_eq!(
        cluster.node(0).answered(),
        [],
        "it follows now, and must be asked again"
    );
    cluster.node(0).read(5);
    cluster.deliver();
    assert_eq!(cluster.node(0).answered(), [ReadId(5)]);
    assert_eq!(cluster.node(0).executed(), ["", "", "x"]);
}

/// A follower asks the leader for a current read index, and waits until its own state machine has
/// come that far. [OngaroThesis §6.4]
#[test]
fn a_follower_reads_what_was_committed_when_it_asked() {
    let mut cluster = Cluster::led_by_0(3, &Config::default());
    cluster.propose(0, "x");
    assert_eq!(
        cluster.node(2).executed(),
        [""],
        "it has not heard of the commit"
    );
    cluster.node(2).read(5);
    cluster.deliver();
    assert_eq!(cluster.node(2).answered(), [ReadId(5)]);
    assert_eq!(cluster.node(2).executed(), ["", "x"]);
}

#[test]
fn a_follower_waits_until_it_has_executed_through_the_index() {
    let mut node = follower();
    node.read(5);
    let ticket = tickets(&mut node)[0];
    let index = Slot(2);
    node.receive(r(1), Message::ReadIndexReply { ticket, index });
    assert_eq!(node.answered(), []);
    node.receive(r(1), common::append(1, at(1, 1), &[1], 2));
    assert_eq!(node.answered(), [ReadId(5)]);
}

#[test]
fn a_leader_confirms_a_follower_s_question_like_its_own_reads() {
    let mut leader = leader();
    leader.receive(r(2), Message::ReadIndex { ticket: 77 });
    leader.take();
    leader.receive(r(1), echo(1, 1));
    let (ticket, index) = (77, Slot(1));
    let reply = Message::ReadIndexReply { ticket, index };
    assert_eq!(leader.take(), [(r(2), reply)]);
}

#[test]
fn asked_again_a_read_is_answered_once() {
    let mut leader = leader();
    leader.read(5);
    leader.read(5);
    leader.receive(r(1), echo(1, 1));
    assert_eq!(leader.answered(), [ReadId(5)]);
    let mut node = follower();
    node.read(5);
    node.read(5);
    for ticket in tickets(&mut node) {
        let index = Slot(1);
        node.receive(r(1), Message::ReadIndexReply { ticket, index });
    }
    assert_eq!(node.answered(), [ReadId(5)]);
}

#[test]
fn a_read_is_answered_however_often_it_is_asked_before_the_answer_comes() {
    let mut node = follower();
    node.read(5);
    let first = tickets(&mut node);
    node.read(5);
    assert_eq!(tickets(&mut node), first);
    let reply = |index| Message::ReadIndexReply {
        ticket: first[0],
        index: Slot(index),
    };
    node.receive(r(1), reply(2));
    node.read(5);
    assert_eq!(
        tickets(&mut node),
        [0_u64; 0],
        "only execution is waited for"
    );
    node.receive(r(1), reply(3));
    node.receive(r(1), common::append(1, at(1, 1), &[1], 2));
    assert_eq!(node.answered(), [ReadId(5)]);
}

#[test]
fn a_lost_round_is_confirmed_by_the_next_heartbeat() {
    let mut cluster = Cluster::led_by_0(3, &Config::default());
    cluster.node(0).read(5);
    cluster.node(0).take();
    cluster.beat(0);
    assert_eq!(cluster.node(0).answered(), [ReadId(5)]);
}

#[test]
fn an_answer_from_before_a_restart_answers_nothing() {
    let mut node = follower();
    node.read(0);
    let before = tickets(&mut node)[0];
    let mut node = node.crash(&Config::default());
    node.receive(r(1), heartbeat(1, at(1, 1), 1));
    node.take();
    node.read(0);
    assert_ne!(tickets(&mut node)[0], before);
    let (ticket, index) = (before, Slot(1));
    node.receive(r(1), Message::ReadIndexReply { ticket, index });
    assert_eq!(node.answered(), []);
}

#[test]
fn without_a_leader_reads_are_dropped() {
    let mut node = Node::follower(0, 3, 1, &[]);
    node.read(5);
    assert_eq!(node.take(), []);
    node.receive(r(1), Message::ReadIndex { ticket: 1 });
    assert_eq!(node.take(), []);
}

#[test]
fn reads_that_wait_are_bounded_and_those_before_them_stay() {
    let config = Config {
        max_pending_reads: 3,
        ..Config::default()
    };
    let mut cluster = Cluster::led_by_0(3, &config);
    for id in 0..5 {
        cluster.node(0).read(id);
    }
    for id in 0..5 {
        cluster.node(1).read(id);
    }
    cluster.node(0).take();
    cluster.node(1).take();
    cluster.beat(0);
    assert_eq!(
        cluster.node(0).answered(),
        [ReadId(0), ReadId(1), ReadId(2)]
    );
    for id in 0..5 {
        cluster.node(1).read(id);
    }
    cluster.deliver();
    cluster.beat(0);
    let first = [ReadId(0), ReadId(1), ReadId(2)];
    assert_eq!(cluster.node(1).answered(), first);
}

/// One that the driver asks for no more gives way, after a while.
#[test]
fn a_read_that_nobody_asks_for_any_more_gives_way() {
    let config = Config {
        max_pending_reads: 1,
        ..Config::default()
    };
    let forsaken = config.election_timeout * 4;
    let mut node = Node::with(0, 3, &config, common::records(1, &[1]));
    node.receive(r(1), heartbeat(1, at(1, 1), 1));
    node.take();
    let asked = |node: &mut Node, id| {
        node.read(id);
        tickets(node)
    };
    let first = asked(&mut node, 5);
    node.now = node.now + forsaken / 2;
    assert_eq!(asked(&mut node, 5), first);
    node.now = node.now + (forsaken - Duration::from_millis(1));
    assert_eq!(asked(&mut node, 6), [0; 0]);
    node.now = node.now + Duration::from_millis(1);
    assert_eq!(asked(&mut node, 6).len(), 1);
    assert_eq!(asked(&mut node, 5), [0; 0]);
}

#[test]
fn an_echo_counts_in_its_own_term_only() {
    let mut leader = leader();
    leader.read(5);
    leader.receive(r(1), request_vote(7, at(0, 0)));
    leader.receive(r(1), echo(1, 1));
    assert_eq!(leader.answered(), []);
    // A follower forgets the rounds of an earlier term.
    let beat = |term, round| {
        Message::AppendEntries(AppendEntries {
            term: Term(term),
            previous: at(0, 0),
            entries: Vec::new(),
            commit: Slot(0),
            round,
            known: Some(Slot(0)),
            heard: true,
        })
    };
    let mut node = Node::follower(0, 3, 1, &[]);
    assert_eq!(node.answer(r(1), beat(1, 9)), [echo(1, 9)]);
    assert_eq!(node.answer(r(1), beat(1, 9)), [], "it has been told");
    assert_eq!(node.answer(r(1), beat(1, 8)), []);
    assert_eq!(node.answer(r(2), beat(2, 1)), [echo(2, 1)]);
}
