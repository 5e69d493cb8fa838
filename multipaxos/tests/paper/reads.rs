//! Linearizable reads. [Charapko19; Chandra07 §5.2]

use std::time::Duration;

use quorate_core::id::Slot;
use quorate_core::protocol::{ReadId, Role};
use quorate_multipaxos::{Config, Message, Mutant, Prepare, QuorumRule, ReadMode, Timer};

use crate::common::{
    Cluster, Node, PaxosCluster, PaxosNode, accept, accepted, b, echo, heartbeat, prepare, promise,
    r, records,
};

fn leasing() -> Config {
    Config {
        reads: ReadMode::Lease,
        ..Config::default()
    }
}

/// Any replica may read when it has executed the highest slot that a quorum has accepted; nobody
/// needs to lead. [Charapko19]
#[test]
fn a_quorum_read_needs_no_leader() {
    let mut cluster = Cluster::led_by_0(3, &Config::default());
    cluster.propose(0, "a");
    cluster.beat(0);
    cluster.isolate(0);
    cluster.rounds.clear();
    cluster.node(1).read(7);
    cluster.deliver();
    assert_eq!(cluster.node(1).answered(), [ReadId(7)]);
    assert_eq!(cluster.delivered(), ["read_query", "read_query_reply"]);
}

/// A read that no quorum answers is not answered.
#[test]
fn a_quorum_read_needs_a_quorum() {
    let mut cluster = Cluster::led_by_0(5, &Config::default());
    for away in [0, 3, 4] {
        cluster.isolate(away);
    }
    cluster.node(1).read(7);
    cluster.deliver();
    assert!(cluster.node(1).answered().is_empty());
    cluster.heal();
    cluster.node(1).read(7);
    cluster.deliver();
    assert_eq!(cluster.node(1).answered(), [ReadId(7)]);
}

/// It is a phase 1 quorum that must answer: two that choose need not know of what two others have
/// chosen. [Charapko19; Howard16 §3]
#[test]
fn a_quorum_read_needs_a_phase_1_quorum() {
    let config = Config {
        quorums: QuorumRule::Flexible { q1: 4, q2: 2 },
        ..Config::default()
    };
    let mut cluster = Cluster::led_by_0(5, &config);
    for away in [0, 1] {
        cluster.isolate(away);
    }
    cluster.node(2).read(7);
    cluster.deliver();
    assert!(cluster.node(2).answered().is_empty(), "three are too few");
    cluster.heal();
    cluster.isolate(0);
    cluster.node(2).read(7);
    cluster.deliver();
    assert_eq!(cluster.node(2).answered(), [ReadId(7)]);
}

/// A slot that was accepted may have been chosen, and so answered to a client: the read waits
/// until it has been executed here. [Charapko19]
#[test]
fn a_quorum_read_waits_for_what_has_been_accepted() {
    let mut node = Node::fresh(0, 3, &Config::default());
    node.receive(r(1), accept(b(1, 1), &[(1, "a"), (2, "b")], 1));
    node.take();
    node.read(3);
    let Some(Message::ReadQuery { ticket }) = node.take().first().map(|m| m.1.clone()) else {
        panic!("no question");
    };
    let accepted = Slot(3);
    let answer = Message::ReadQueryReply { ticket, accepted };
    node.receive(r(2), answer);
    assert!(node.answered().is_empty());
    let through = Slot(3);
    assert_eq!(
        node.take(),
        [(r(1), Message::Await { through })],
        "it wants to be told"
    );
    node.receive(r(1), accept(b(1, 1), &[(3, "c")], 2));
    assert!(node.answered().is_empty());
    node.receive(r(1), heartbeat(b(1, 1), 3, 1));
    assert_eq!(node.answered(), [ReadId(3)]);
}

/// An answer to another question does not count.
#[test]
fn answers_to_other_questions_are_ignored() {
    let mut node = Node::fresh(0, 3, &Config::default());
    node.read(3);
    let accepted = Slot(0);
    node.receive(
        r(1),
        Message::ReadQueryReply {
            ticket: 0,
            accepted,
        },
    );
    assert!(node.answered().is_empty());
}

/// A read may see a slot that only a minority had accepted, and that no leader has proposed in
/// since: the leader fills it.
#[test]
fn a_slot_that_was_seen_and_never_chosen_is_filled() {
    let mut cluster = Cluster::led_by_0(3, &Config::default());
    cluster.isolate(1);
    cluster.node(0).propose("lost");
    let sent = cluster.node(0).take();
    let (_, proposal) = sent.into_iter().find(|(to, _)| *to == r(2)).unwrap();
    cluster.node(2).receive(r(0), proposal);
    cluster.node(2).take();
    cluster.heal();
    cluster.isolate(2);
    cluster.restart(0, &Config::default());
    let forgotten = cluster.node(0).durable_log();
    assert_eq!(forgotten.len(), 1, "0 had made it durable");
    // As if the disk of 0 had been slower than its messages.
    cluster.nodes[0] = Node::acceptor(0, 3, b(1, 0), &[]);
    cluster.elect(1);
    assert_eq!(cluster.node(1).proposed(r(0)), []);
    cluster.heal();
    cluster.beat(1);
    cluster.node(2).read(1);
    cluster.deliver();
    assert_eq!(cluster.node(2).answered(), [ReadId(1)]);
    assert_eq!(cluster.node(2).executed(), [""]);
}

/// Reads through the log are the driver's to order.
#[test]
fn without_another_way_reads_go_through_the_log() {
    let config = Config {
        reads: ReadMode::Log,
        ..Config::default()
    };
    let mut node = Node::with(0, 3, &config, Vec::new());
    node.read(9);
    assert_eq!(node.answered(), [ReadId(9)]);
}

/// A leader with a lease answers by itself, and a follower asks it. [Chandra07 §5.2]
#[test]
fn a_leader_with_a_lease_reads_by_itself() {
    let mut cluster = Cluster::led_by_0(3, &leasing());
    cluster.propose(0, "a");
    cluster.rounds.clear();
    cluster.node(0).read(1);
    assert_eq!(cluster.node(0).answered(), [ReadId(1)]);
    assert_eq!(cluster.node(0).take(), []);
    cluster.node(1).read(2);
    cluster.deliver();
    assert_eq!(cluster.node(1).answered(), [ReadId(2)]);
    assert_eq!(cluster.node(1).executed(), ["a"]);
    let kinds = ["read_index", "read_index_reply", "heartbeat"];
    assert_eq!(cluster.delivered()[..3], kinds);
}

/// The lease counts from when the heartbeat was sent that a quorum has answered, and ends before
/// the acceptors' promise does, by twice the drift of the clocks. [Chandra07 §5.2]
#[test]
fn a_lease_ends_before_the_promise_that_it_rests_on() {
    let leader_at = |millis: u64, config: &Config| {
        let mut node = Node::with(0, 3, config, Vec::new());
        node.wait_for_campaign();
        node.receive(r(1), promise(b(1, 0), &[]));
        // The answer to the first round takes 100 ms.
        node.pass(Duration::from_millis(40));
        node.timers.remove(&Timer::Heartbeat);
        node.pass(Duration::from_millis(60));
        node.receive(r(1), echo(b(1, 0), &[], 1, 0));
        node.pass(Duration::from_millis(millis - 100));
        node.read(1);
        !node.answered().is_empty()
    };
    let config = leasing();
    assert_eq!(config.lease, Duration::from_millis(300));
    assert!(leader_at(269, &config));
    assert!(!leader_at(270, &config));
    assert!(!leader_at(299, &config));
    let mutant = Config {
        mutant: Some(Mutant::LeaseIgnoresDrift),
        ..leasing()
    };
    assert!(leader_at(299, &mutant));
}

/// An acceptor that has heard of its leader promises nothing to others for the length of a lease,
/// by its own clock, and does promise after that. [Chandra07 §5.2]
#[test]
fn an_acceptor_promises_nothing_to_others_during_a_lease() {
    let mut node = Node::with(0, 3, &leasing(), Vec::new());
    node.receive(r(1), heartbeat(b(1, 1), 0, 1));
    node.now = node.now + Duration::from_millis(299);
    assert_eq!(node.answer(r(2), prepare(b(2, 2), 1)), []);
    assert_eq!(node.ballot(), b(1, 1));
    assert_eq!(
        node.answer(r(1), prepare(b(3, 1), 1)),
        [promise(b(3, 1), &[])],
        "its leader may campaign again"
    );
    let mut node = Node::with(0, 3, &leasing(), Vec::new());
    node.receive(r(1), heartbeat(b(1, 1), 0, 1));
    node.now = node.now + Duration::from_millis(300);
    assert_eq!(
        node.answer(r(2), prepare(b(2, 2), 1)),
        [promise(b(2, 2), &[])]
    );
}

/// A leader whose lease is good makes no promise either; without one it does.
#[test]
fn a_leader_is_bound_by_its_own_lease() {
    let elected = || {
        let mut node = Node::with(0, 3, &leasing(), Vec::new());
        node.wait_for_campaign();
        node.receive(r(1), promise(b(1, 0), &[]));
        node
    };
    let mut leader = elected();
    assert_eq!(leader.answer(r(2), prepare(b(2, 2), 1)).len(), 1);
    let mut leader = elected();
    leader.receive(r(1), echo(b(1, 0), &[], 1, 0));
    assert_eq!(leader.answer(r(2), prepare(b(2, 2), 1)), []);
    assert_eq!(leader.role(), Role::Leader);
}

/// A restart does not forget that a lease may have been granted: it waits for as long as one
/// lasts. A replica without a past has granted none. [Chandra07 §5.2]
#[test]
fn a_restart_waits_for_a_lease() {
    let restarted = || {
        let mut node = Node::with(0, 3, &leasing(), Vec::new());
        node.receive(r(1), heartbeat(b(1, 1), 0, 1));
        node.crash(&leasing())
    };
    let mut node = restarted();
    node.now = node.now + Duration::from_millis(299);
    assert_eq!(node.answer(r(2), prepare(b(2, 2), 1)), []);
    let mut node = restarted();
    node.now = node.now + Duration::from_millis(300);
    assert_eq!(node.answer(r(2), prepare(b(2, 2), 1)).len(), 1);
    let mut fresh = Node::with(0, 3, &leasing(), Vec::new());
    assert_eq!(fresh.answer(r(2), prepare(b(2, 2), 1)).len(), 1);
}

/// A leader that hands over gives up its lease, and says so through its successor.
#[test]
fn a_lease_that_is_handed_over_binds_nobody() {
    let mut node = Node::with(0, 3, &leasing(), Vec::new());
    node.receive(r(1), heartbeat(b(1, 1), 0, 1));
    let successor = |released| {
        Message::Prepare(Prepare {
            ballot: b(2, 2),
            from: Slot(1),
            released,
        })
    };
    assert_eq!(node.answer(r(2), successor(None)), []);
    assert_eq!(node.answer(r(2), successor(Some(b(1, 2)))), []);
    assert_eq!(node.answer(r(2), successor(Some(b(1, 1)))).len(), 1);
}

/// A leader does not read before it has executed all that it found in its election: it may have
/// been chosen, and answered, before. [Chandra07 §5.2]
#[test]
fn a_leader_reads_only_when_it_has_executed_what_it_found() {
    let found = records(b(1, 0), &[(1, b(1, 2), "a")]);
    let mut node = Node::with(0, 3, &leasing(), found);
    node.wait_for_campaign();
    node.receive(r(1), promise(b(2, 0), &[]));
    node.receive(r(1), echo(b(2, 0), &[], 1, 0));
    node.read(1);
    assert!(node.answered().is_empty());
    node.receive(r(1), accepted(b(2, 0), &[1]));
    assert_eq!(node.executed(), ["a"]);
    assert_eq!(node.answered(), [ReadId(1)]);
}

/// A leader whose three slots under way nobody has accepted durably.
fn leader_with_slots_under_way() -> Node {
    let mut leader = Node::leader(3, 1);
    leader.receive(r(1), echo(b(1, 0), &[], 1, 0));
    leader.syncs = false;
    leader.propose("slow");
    leader.take();
    leader
}

/// A leader reads when a quorum has heard a round that it began after the read was asked. What is
/// under way, and whoever writes it to his disk, is not waited for. [OngaroThesis §6.4]
#[test]
fn a_leaders_read_waits_for_a_round_and_for_no_disk() {
    let mut leader = leader_with_slots_under_way();
    leader.read(1);
    let sent: Vec<_> = leader
        .take()
        .into_iter()
        .map(|(_, message)| message)
        .collect();
    let beat = heartbeat(b(1, 0), 0, 2);
    assert_eq!(sent, [beat.clone(), beat]);
    leader.receive(r(1), echo(b(1, 0), &[], 1, 0));
    assert!(leader.answered().is_empty(), "that round began before");
    leader.receive(r(1), echo(b(1, 0), &[], 2, 0));
    assert_eq!(leader.answered(), [ReadId(1)]);
    assert!(leader.executed().is_empty(), "the slot is not chosen");
}

/// Whoever accepts proposals says at once that it has heard the round, and that it has accepted
/// them when that is durable. With leases both are promises.
#[test]
fn an_echo_waits_for_no_disk() {
    for (config, at_once) in [(Config::default(), 1), (leasing(), 0)] {
        let mut node = Node::with(0, 3, &config, Vec::new());
        node.syncs = false;
        let Message::Accept(mut proposed) = accept(b(1, 1), &[(1, "a")], 0) else {
            unreachable!();
        };
        proposed.round = 3;
        let answers = node.answer(r(1), Message::Accept(proposed.clone()));
        assert_eq!(answers.len(), at_once, "{:?}", config.reads);
        assert!(
            answers
                .iter()
                .all(|answer| *answer == echo(b(1, 1), &[], 3, 0))
        );
        node.sync();
        let [(_, answer)] = &node.take()[..] else {
            panic!("one acknowledgement");
        };
        assert_eq!(*answer, echo(b(1, 1), &[1], 3, 0));
        let again = node.answer(r(1), Message::Accept(proposed));
        assert!(again.is_empty(), "the round was echoed");
    }
}

/// A leader that does not hear from a quorum reads nothing, and one that has lost its ballot
/// neither.
#[test]
fn a_leader_without_a_quorum_reads_nothing() {
    let mut cluster = Cluster::led_by_0(3, &Config::default());
    cluster.isolate(0);
    cluster.elect(1);
    cluster.propose(1, "v");
    cluster.node(0).read(1);
    cluster.deliver();
    assert!(cluster.node(0).answered().is_empty());
    cluster.heal();
    cluster.beat(0);
    assert_eq!(cluster.node(0).role(), Role::Follower);
    assert!(cluster.node(0).answered().is_empty());
}

/// The reads that wait for a round are bounded: those beyond are dropped, and asked again.
#[test]
fn the_reads_that_wait_for_a_round_are_bounded() {
    let config = Config {
        max_pending_reads: 2,
        ..Config::default()
    };
    let mut leader = Node::with(0, 3, &config, Vec::new());
    leader.wait_for_campaign();
    leader.receive(r(1), promise(b(1, 0), &[]));
    for id in 1..=3 {
        leader.read(id);
    }
    leader.receive(r(1), echo(b(1, 0), &[], 3, 0));
    assert_eq!(leader.answered(), [ReadId(1), ReadId(2)]);
    leader.read(3);
    leader.receive(r(1), echo(b(1, 0), &[], 4, 0));
    assert_eq!(leader.answered().len(), 3);
}

/// The questions that the replica has sent to replica 1.
fn questions(node: &mut Node) -> Vec<u64> {
    let sent = node.sent_to(r(1)).into_iter();
    let tickets = sent.filter_map(|message| match message {
        Message::ReadQuery { ticket } | Message::ReadIndex { ticket } => Some(ticket),
        _ => None,
    });
    tickets.collect()
}

/// A follower of replica 1, with room for so many reads.
fn reader(reads: ReadMode, max_pending_reads: usize) -> Node {
    let config = Config {
        reads,
        max_pending_reads,
        ..Config::default()
    };
    let mut node = Node::with(0, 3, &config, Vec::new());
    node.receive(r(1), heartbeat(b(1, 1), 0, 1));
    node.take();
    node
}

/// Asked again sooner than it can be answered, a read keeps its question and what it waits for: else
/// others' writes would move it on for ever.
#[test]
fn a_read_that_is_asked_again_keeps_its_question() {
    for reads in [ReadMode::Quorum, ReadMode::Lease] {
        let mut node = reader(reads, 4);
        node.read(7);
        let first = questions(&mut node);
        node.read(7);
        assert_eq!(questions(&mut node), first, "{reads:?}");
        let (ticket, slot) = (first[0], Slot(1));
        let answer = |slot| match reads {
            ReadMode::Lease => Message::ReadIndexReply {
                ticket,
                index: slot,
            },
            _ => Message::ReadQueryReply {
                ticket,
                accepted: slot,
            },
        };
        node.receive(r(1), answer(slot));
        node.read(7);
        assert!(questions(&mut node).is_empty(), "execution is waited for");
        node.receive(r(1), answer(Slot(9)));
        node.receive(r(1), accept(b(1, 1), &[(1, "a")], 1));
        assert_eq!(node.answered(), [ReadId(7)], "{reads:?}");
    }
}

/// Reads beyond the bound are dropped, and those before them stay, so that they are answered; but not
/// those that nobody asks for any more.
#[test]
fn reads_beyond_the_bound_are_dropped_until_there_is_room() {
    let forsaken = Config::default().election_timeout * 4;
    for reads in [ReadMode::Quorum, ReadMode::Lease] {
        let mut node = reader(reads, 2);
        let asked = |node: &mut Node, id| {
            node.read(id);
            questions(node)
        };
        let [first, second] = [1, 2].map(|id| asked(&mut node, id));
        assert_eq!((first.len(), second.len()), (1, 1));
        assert!(asked(&mut node, 3).is_empty(), "{reads:?}");
        node.now = node.now + (forsaken - Duration::from_millis(1));
        assert!(asked(&mut node, 3).is_empty(), "{reads:?}");
        assert_eq!(asked(&mut node, 1), first, "{reads:?}");
        node.now = node.now + Duration::from_millis(1);
        assert_eq!(asked(&mut node, 3).len(), 1, "in place of 2");
        assert_eq!(asked(&mut node, 1), first, "{reads:?}");
        assert!(asked(&mut node, 2).is_empty(), "{reads:?}");
    }
}

/// A leader that has no lease yet keeps the reads that it was asked for first.
#[test]
fn the_reads_that_wait_for_a_lease_are_bounded() {
    let config = Config {
        max_pending_reads: 2,
        ..leasing()
    };
    let mut leader = Node::with(0, 3, &config, Vec::new());
    leader.wait_for_campaign();
    leader.receive(r(1), promise(b(1, 0), &[]));
    for id in 1..=3 {
        leader.read(id);
    }
    leader.receive(r(1), echo(b(1, 0), &[], 1, 0));
    assert_eq!(leader.answered(), [ReadId(1), ReadId(2)]);
}
