//! Asking first. [OngaroThesis §9.6, §4.2.3]

use std::time::Duration;

use quorate_core::protocol::Role;
use quorate_raft::{Config, Message, Timer};

use crate::common::{
    Cluster, Node, RaftCluster, RaftNode, append, at, heartbeat, pre_vote, pre_vote_hearing,
    pre_vote_reply, r, request_vote, vote,
};

/// A replica of three that has waited long enough to ask, and what it asks of replica 1.
fn asking(log: &[u64]) -> (Node, Vec<Message>) {
    let mut node = Node::follower(0, 3, 1, log);
    node.fire(Timer::Election);
    let asked = node.sent_to(r(1));
    (node, asked)
}

/// "A candidate only increments its term if it first learns from a majority of the cluster that
/// they would be willing to grant the candidate their votes." [§9.6]
#[test]
fn a_replica_asks_before_it_enters_another_term() {
    let (mut node, asked) = asking(&[1]);
    assert_eq!(asked, [pre_vote(2, at(1, 1))]);
    assert_eq!((node.role(), node.term()), (Role::Candidate, 1));
    assert_eq!(node.durable_vote(), (1, None), "nothing is promised");
    node.receive(r(2), pre_vote_reply(1, 2, false));
    assert_eq!(node.term(), 1);
    let asked = node.answer(r(1), pre_vote_reply(1, 2, true));
    assert_eq!(asked, [request_vote(2, at(1, 1))]);
    assert_eq!(node.durable_vote(), (2, Some(r(0))));
}

/// One that is alone asks for ever, in the term that it was in: it deposes nobody when it comes back.
/// [§9.6]
#[test]
fn a_replica_that_was_cut_off_comes_back_in_the_term_it_was_in() {
    let mut cluster = Cluster::led_by_0(3, &Config::default());
    cluster.isolate(2);
    cluster.node(2).pass(Duration::from_secs(60));
    cluster.deliver();
    assert_eq!(cluster.node(2).term(), 1);
    cluster.heal();
    cluster.beat(0);
    assert_eq!(cluster.node(0).role(), Role::Leader);
    assert_eq!(cluster.node(2).known_leader(), Some(r(0)));
}

/// "... if the candidate's log is sufficiently up-to-date, and the voters have not received heartbeats
/// from a valid leader for at least a baseline election timeout." [§9.6]
#[test]
fn who_has_heard_a_leader_within_the_timeout_would_vote_for_nobody() {
    let timeout = Config::default().election_timeout;
    let mut node = Node::follower(0, 3, 1, &[1]);
    let asks = |node: &mut Node, last| node.answer(r(2), pre_vote(2, last));
    node.receive(r(1), heartbeat(1, at(1, 1), 0));
    let heard = node.now;
    node.now = heard + (timeout - Duration::from_nanos(1));
    assert_eq!(asks(&mut node, at(1, 1)), [pre_vote_reply(1, 2, false)]);
    node.now = heard + timeout;
    assert_eq!(asks(&mut node, at(1, 1)), [pre_vote_reply(1, 2, true)]);
    assert_eq!(asks(&mut node, at(0, 0)), [pre_vote_reply(1, 2, false)]);
    assert_eq!(node.durable_vote(), (1, None), "it has not voted");
    assert_eq!(node.term(), 1, "nor entered another term");
    let mut leader = Node::leader(3, 2, &[1]);
    let answers = leader.answer(r(1), pre_vote(3, at(9, 2)));
    assert_eq!(answers, [pre_vote_reply(2, 3, false)]);
    assert_eq!((leader.role(), leader.term()), (Role::Leader, 2));
}

/// An election has its time too: neither a candidate nor a voter helps another to begin the next.
#[test]
fn who_takes_part_in_an_election_would_vote_for_nobody_else_meanwhile() {
    let timeout = Config::default().election_timeout;
    let mut voter = Node::follower(0, 3, 1, &[]);
    voter.receive(r(1), request_vote(2, at(0, 0)));
    for mut node in [voter, Node::candidate(3, 2, &[])] {
        let before = node.answer(r(2), pre_vote(3, at(0, 0)));
        assert_eq!(before, [pre_vote_reply(2, 3, false)]);
        node.now = node.now + timeout;
        let after = node.answer(r(2), pre_vote(3, at(0, 0)));
        assert_eq!(after, [pre_vote_reply(2, 3, true)]);
    }
}

/// Answers are lost or come late: they count for the question that is asked, until that is asked
/// again.
#[test]
fn an_answer_counts_for_its_own_question_and_while_it_is_open() {
    let (mut node, _) = asking(&[1]);
    node.receive(r(1), pre_vote_reply(1, 1, true));
    node.receive(r(1), pre_vote_reply(1, 3, true));
    node.receive(r(1), pre_vote_reply(0, 2, false));
    assert_eq!(node.term(), 1);
    let due = node.timers[&Timer::Election];
    node.now = due;
    node.receive(r(1), pre_vote_reply(1, 2, true));
    assert_eq!(
        node.term(),
        1,
        "it was paused, and may have missed a leader"
    );
    node.fire(Timer::Election);
    assert_eq!(
        node.sent_to(r(1)),
        [pre_vote_hearing(2, at(1, 1), &[1])],
        "asked again"
    );
    node.receive(r(1), pre_vote_reply(1, 2, true));
    assert_eq!(node.term(), 2);
    node.receive(r(2), pre_vote_reply(1, 2, true));
    assert_eq!((node.role(), node.term()), (Role::Candidate, 2));
}

/// A leader that is heard again is followed.
#[test]
fn who_asks_falls_back_before_a_leader_of_its_term() {
    let (mut node, _) = asking(&[1]);
    node.receive(r(1), append(1, at(1, 1), &[1], 2));
    assert_eq!(
        (node.role(), node.known_leader()),
        (Role::Follower, Some(r(1)))
    );
    node.receive(r(2), pre_vote_reply(1, 2, true));
    assert_eq!((node.role(), node.term()), (Role::Follower, 1));
    assert_eq!(node.committed(), 2);
}

/// A replica in a later term with a shorter log, and one in an earlier term with the only log that
/// may win: who is refused is told the later term, or it would ask for ever for terms that are over.
#[test]
fn who_would_not_vote_because_its_term_is_later_says_so() {
    let mut ahead = Node::follower(1, 3, 9, &[1]);
    assert_eq!(
        ahead.answer(r(0), pre_vote(2, at(2, 1))),
        [pre_vote_reply(9, 2, false)]
    );
    let (mut node, _) = asking(&[1, 1]);
    node.receive(r(1), pre_vote_reply(9, 2, false));
    assert_eq!((node.role(), node.term()), (Role::Follower, 9));
    assert_eq!(node.durable_vote(), (9, None));
    node.fire(Timer::Election);
    let asked = pre_vote_hearing(10, at(2, 1), &[1]);
    assert_eq!(node.sent_to(r(1)), [asked]);
    assert_eq!(
        ahead.answer(r(0), pre_vote(10, at(2, 1))),
        [pre_vote_reply(9, 10, true)]
    );
}

/// A candidate whose campaign the others never heard of is in a later term than a healthy leader. It
/// cannot go back; so it tells the leader, which follows, and all of them go on in one term. Were
/// it ignored for good, it would be as good as dead.
#[test]
fn a_replica_in_a_later_term_than_the_leader_is_not_left_alone() {
    let mut cluster = Cluster::led_by_0(3, &Config::default());
    cluster.isolate(2);
    cluster.node(2).wait_for_campaign();
    cluster.deliver();
    cluster.heal();
    cluster.beat(0);
    assert_eq!(
        (cluster.node(0).role(), cluster.node(0).term()),
        (Role::Follower, 2)
    );
    cluster.node(0).fire(Timer::Election);
    cluster.deliver();
    // The candidate takes part in its own election still; replica 1 has heard a leader.
    assert_eq!(cluster.node(0).role(), Role::Candidate);
    for id in [1, 2] {
        let later = cluster.nodes[0].now + Duration::from_secs(1);
        cluster.node(id).now = later;
    }
    cluster.node(0).fire(Timer::Election);
    cluster.deliver();
    assert_eq!(
        (cluster.node(0).role(), cluster.node(0).term()),
        (Role::Leader, 3)
    );
    cluster.propose(0, "x");
    cluster.beat(0);
    assert_eq!(cluster.node(2).executed().last().unwrap(), "x");
}

/// "The leader sends a TimeoutNow request to the target server. This request has the same effect as the
/// target server's election timer firing: the target server starts a new election." It need not
/// ask first, for those that hear the leader would refuse. [§3.10, §4.2.3]
#[test]
fn who_is_told_to_campaigns_at_once() {
    let timeout_now = |term| Message::TimeoutNow {
        term: quorate_raft::Term(term),
        moves: 0,
    };
    let mut node = Node::follower(0, 3, 1, &[1]);
    node.receive(r(1), heartbeat(1, at(1, 1), 0));
    let asked = node.answer(r(1), timeout_now(1));
    assert_eq!(asked, [request_vote(2, at(1, 1))]);
    node.receive(r(1), timeout_now(1));
    assert_eq!(node.term(), 2, "a leader of an earlier term");
    node.receive(r(1), vote(2, at(1, 1), true));
    node.receive(r(1), timeout_now(2));
    assert_eq!((node.role(), node.term()), (Role::Leader, 2));
}
