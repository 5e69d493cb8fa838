//! How long a leader leads. [OngaroThesis §6.2, §3.10]

use std::time::Duration;

use quorate_core::id::Slot;
use quorate_core::protocol::{Event, Role};
use quorate_raft::{AppendEntries, Config, Message, Term, Timer};

use crate::common::{
    Cluster, Node, RaftCluster, RaftNode, accepted, at, echo, heartbeat, pre_vote,
    pre_vote_hearing, r, vote,
};

/// How many heartbeats make a time-out.
fn beats() -> u32 {
    let config = Config::default();
    (config.election_timeout.as_millis() / config.heartbeat.as_millis()) as u32
}

/// A leader of `n` that all have answered at its first heartbeat.
fn heard(n: usize) -> Node {
    let mut leader = Node::leader(n, 1, &[]);
    leader.fire(Timer::Heartbeat);
    for peer in 1..n as u8 {
        leader.receive(r(peer), echo(1, 1));
    }
    leader
}

/// "A leader steps down if an election timeout elapses without a successful round of heartbeats to a
/// majority of its cluster." [§6.2]
#[test]
fn a_leader_that_no_quorum_answers_steps_down_within_a_timeout() {
    let mut leader = heard(5);
    // Counted from the heartbeat after the last that a quorum answered.
    for _ in 0..beats() {
        leader.fire(Timer::Heartbeat);
        leader.receive(r(1), echo(1, 1));
        assert_eq!(leader.role(), Role::Leader);
    }
    leader.fire(Timer::Heartbeat);
    assert_eq!((leader.role(), leader.term()), (Role::Follower, 1));
    assert_eq!(leader.known_leader(), None);
    leader.take();
    leader.propose("x");
    assert_eq!(leader.take(), [], "its clients ask elsewhere");
}

#[test]
fn a_leader_that_a_quorum_answers_leads_on() {
    // Any answer of the term counts: of who has the log, of who has not, of whose disk is slow.
    let rejected = Message::Rejected {
        term: Term(1),
        previous: Slot(1),
        hint: at(0, 0),
    };
    for answer in [echo(1, 1), accepted(1, 1), rejected] {
        let mut leader = heard(3);
        for _ in 0..100 {
            for _ in 1..beats() {
                leader.fire(Timer::Heartbeat);
            }
            leader.receive(r(2), answer.clone());
        }
        assert_eq!(leader.role(), Role::Leader, "{answer:?}");
    }
}

/// A leader that was paused judges by what it hears from then on, not by what the clock shows.
#[test]
fn a_leader_that_was_paused_has_not_been_silent_meanwhile() {
    let mut leader = heard(3);
    leader.now = leader.now + Duration::from_secs(60);
    leader.fire(Timer::Heartbeat);
    leader.fire(Timer::Heartbeat);
    assert_eq!(leader.role(), Role::Leader);
}

#[test]
fn a_replica_alone_leads_for_ever() {
    let past = quorate_core::protocol::Recovered::nothing();
    let config = Config::default();
    let mut node = Node::recover(crate::common::context(r(0), 1, 0), config, past).unwrap();
    node.wait_for_campaign();
    node.pass(Duration::from_secs(60));
    assert_eq!(node.role(), Role::Leader);
}

/// It is heard, and hears nobody: the others follow it for ever, if it does not see that. [§6.2]
#[test]
fn a_leader_that_is_heard_and_hears_nobody_makes_way() {
    let mut cluster = Cluster::led_by_0(3, &Config::default());
    cluster.block(1, 0);
    cluster.block(2, 0);
    for _ in 0..=beats() {
        cluster.beat(0);
    }
    assert_eq!(cluster.node(0).role(), Role::Follower);
    let later = cluster.nodes[0].now + Duration::from_secs(1);
    cluster.node(1).now = later;
    cluster.node(2).now = later;
    cluster.node(1).fire(Timer::Election);
    cluster.deliver();
    assert_eq!(cluster.node(1).role(), Role::Leader);
    cluster.propose(1, "x");
    assert_eq!(cluster.node(1).executed().last().unwrap(), "x");
    // The old one goes on asking, is heard, and changes nothing.
    cluster.node(0).pass(Duration::from_secs(60));
    cluster.deliver();
    assert_eq!(cluster.node(1).role(), Role::Leader);
}

/// A leader of three whose disk has stopped, with a command that the others have on theirs.
fn without_disk() -> Node {
    let mut leader = heard(3);
    leader.receive(r(1), accepted(1, 1));
    leader.syncs = false;
    leader.propose("x");
    leader
}

/// A heartbeat that all have answered.
fn beat(leader: &mut Node) {
    leader.fire(Timer::Heartbeat);
    leader.receive(r(1), echo(1, 1));
    leader.receive(r(2), echo(1, 1));
}

/// So many heartbeats are within the time that a disk has.
fn disk_beats() -> u32 {
    let config = Config::default();
    (config.disk_timeout.as_millis() / config.heartbeat.as_millis()) as u32
}

/// A leader may commit what it does not have on its own disk [OngaroThesis §10.2.1], but not for
/// ever: what it holds grows, and the next crash loses its share of the quorum. It hands over to
/// whom has most of the log. [§3.10]
#[test]
fn a_leader_whose_disk_hangs_while_others_write_hands_over() {
    let mut leader = without_disk();
    leader.propose("y");
    leader.receive(r(1), accepted(1, 3));
    leader.receive(r(2), accepted(1, 2));
    assert_eq!(leader.committed(), 2);
    for _ in 1..disk_beats() {
        beat(&mut leader);
        assert_eq!(leader.role(), Role::Leader);
    }
    leader.take();
    leader.fire(Timer::Heartbeat);
    assert_eq!(leader.role(), Role::Follower);
    let (term, to, moves) = (Term(1), r(1), 0);
    let told = (to, Message::TimeoutNow { term, moves });
    assert_eq!(leader.take().last(), Some(&told));
    let regime = 1;
    assert!(leader.events.contains(&Event::HandsOver { regime, to }));
}

/// If all disks are slow, no other would do better; and one that only is slower than the others', and
/// writes, is no reason either.
#[test]
fn a_leader_whose_disk_is_no_worse_than_the_others_or_writes_leads_on() {
    let mut leader = without_disk();
    for _ in 0..10 * disk_beats() {
        beat(&mut leader);
    }
    assert_eq!(leader.role(), Role::Leader, "nobody has it on disk");
    let mut leader = without_disk();
    for slot in 3..50 {
        leader.propose("y");
        leader.receive(r(1), accepted(1, slot - 1));
        for _ in 1..disk_beats() {
            beat(&mut leader);
        }
        leader.sync();
        leader.end_turn();
    }
    assert_eq!(leader.role(), Role::Leader);
}

/// Whoever is to lead must be heard; without such a one the leader leads on.
#[test]
fn a_leader_hands_over_to_whom_it_hears() {
    let mut leader = Node::leader(5, 1, &[]);
    leader.syncs = false;
    leader.propose("x");
    for peer in [1, 2, 3] {
        leader.receive(r(peer), accepted(1, 2));
    }
    for _ in 0..=disk_beats() {
        leader.fire(Timer::Heartbeat);
        for peer in [2, 3] {
            leader.receive(r(peer), echo(1, 1));
        }
    }
    let sent = leader.take();
    let told = |message: &Message| matches!(message, Message::TimeoutNow { .. });
    let told: Vec<_> = sent.iter().filter(|(_, m)| told(m)).collect();
    assert_eq!(told.len(), 1);
    assert!([r(2), r(3)].contains(&told[0].0), "{told:?}");
}

/// What is not on the leader's own disk is bounded like what is not committed: at the bound proposals
/// are taken, beyond it they are dropped, whoever they come from.
#[test]
fn a_leader_whose_disk_hangs_holds_so_many_bytes_and_no_more() {
    let config = Config {
        max_uncommitted_bytes: 1_000,
        ..Config::default()
    };
    let mut cluster = Cluster::led_by_0(3, &config);
    cluster.node(0).syncs = false;
    for _ in 0..100 {
        cluster.propose(0, "x");
        cluster.propose(1, "y");
    }
    let taken = cluster.node(0).log_terms().len() as u64;
    assert_eq!(cluster.node(0).committed(), taken, "the others commit");
    assert!((4..40).contains(&taken), "{taken} entries");
    cluster.node(0).syncs = true;
    cluster.node(0).end_turn();
    cluster.propose(1, "z");
    assert_eq!(cluster.node(0).committed(), taken + 1);
}

/// One whose election took longer than a time-out is given as long for the first answer: the network
/// may be that slow.
#[test]
fn a_leader_is_given_as_long_for_the_first_answer_as_its_election_took() {
    let mut leader = Node::candidate(3, 2, &[]);
    leader.now = leader.now + 4 * Config::default().election_timeout;
    leader.receive(r(1), vote(2, at(0, 0), true));
    assert_eq!(leader.role(), Role::Leader);
    for _ in 1..4 * beats() {
        leader.fire(Timer::Heartbeat);
    }
    assert_eq!(leader.role(), Role::Leader);
    leader.receive(r(1), echo(2, 1));
    for _ in 0..=beats() {
        leader.fire(Timer::Heartbeat);
    }
    assert_eq!(leader.role(), Role::Follower);
}

fn unheard(term: u64, replica: u8) -> Message {
    let (term, replica) = (Term(term), r(replica));
    Message::Unheard { term, replica }
}

/// A link of many is cut: whom the leader does not hear, another does.
#[test]
fn who_hears_a_leader_tells_it_of_one_that_does_not() {
    let mut node = Node::follower(1, 3, 1, &[1]);
    node.receive(r(0), heartbeat(1, at(1, 1), 0));
    let asks = pre_vote_hearing(2, at(1, 1), &[1]);
    let told = node.answer_to(r(2), asks.clone(), r(0));
    assert_eq!(told, [unheard(1, 2)]);
    let deaf = node.answer_to(r(2), pre_vote(2, at(1, 1)), r(0));
    assert_eq!(deaf, [], "it would not hear this one as leader either");
    node.now = node.now + Config::default().election_timeout;
    let told = node.answer_to(r(2), asks, r(0));
    assert_eq!(told, [], "this one does not hear the leader itself");
}

/// Told twice, and then twice as often each time, so that where no leader hears all the leaders do not
/// change for ever.
#[test]
fn a_leader_makes_way_for_one_that_hears_whom_it_does_not() {
    for (moves, times) in [(0, 2), (1, 4), (3, 16), (9, 128)] {
        let mut leader = Node::candidate(5, 2, &[]).crash(&Config::default());
        leader.receive(r(1), heartbeat(2, at(0, 0), 0));
        let term = Term(2);
        leader.receive(r(1), Message::TimeoutNow { term, moves });
        for peer in [1, 2] {
            leader.receive(r(peer), vote(3, at(0, 0), true));
        }
        leader.fire(Timer::Heartbeat);
        for peer in [1, 2, 3] {
            leader.receive(r(peer), echo(3, 1));
        }
        for _ in 1..times {
            leader.receive(r(1), unheard(3, 4));
            leader.receive(r(2), unheard(3, 3));
        }
        assert_eq!(leader.role(), Role::Leader);
        let (term, moves) = (Term(3), moves + 1);
        let told = leader.answer(r(1), unheard(3, 4));
        assert!(told.contains(&Message::TimeoutNow { term, moves }));
        assert_eq!(leader.role(), Role::Follower);
    }
    let mut leader = heard(3);
    leader.receive(r(1), unheard(1, 0));
    (0..9).for_each(|_| leader.receive(r(1), unheard(1, 2)));
    assert_eq!(leader.role(), Role::Leader, "it hears it");
}

/// It hears the leader, which does not hear it: it would get no more than one message with entries. So
/// it asks the others, who tell the leader.
#[test]
fn who_is_not_heard_by_its_leader_asks_the_others() {
    let timeout = Config::default().election_timeout;
    for heard in [true, false] {
        let mut node = Node::follower(0, 3, 1, &[1]);
        for _ in 0..50 {
            node.receive(
                r(1),
                Message::AppendEntries(AppendEntries {
                    term: Term(1),
                    previous: at(1, 1),
                    entries: Vec::new(),
                    commit: Slot(1),
                    round: 0,
                    known: None,
                    heard,
                }),
            );
            node.pass(timeout / 6);
        }
        let asked = node.sent_to(r(2)).len();
        assert!((asked > 3) != heard, "heard: {heard}, {asked} times asked");
        assert_eq!(node.term(), 1);
    }
}
