//! Leader election. [Ongaro14 §5.2]

use std::collections::BTreeSet;
use std::time::Duration;

use quorate_core::id::ReplicaId;
use quorate_core::protocol::{Event, Recovered, Role};
use quorate_raft::{Config, Message, Timer};

use crate::common::{
    Cluster, Node, RaftCluster, RaftNode, append, at, context, heartbeat, r, request_vote, vote,
};

/// "Leaders send periodic heartbeats (AppendEntries RPCs that carry no log entries) to all
/// followers in order to maintain their authority." [§5.2]
#[test]
fn a_leader_sends_heartbeats() {
    let mut cluster = Cluster::led_by_0(3, &Config::default());
    let leader = cluster.node(0);
    for _ in 0..3 {
        let before = leader.now;
        leader.fire(Timer::Heartbeat);
        assert!(leader.now.since(before) <= Config::default().heartbeat);
        let sent = leader.take();
        let to: Vec<ReplicaId> = sent.iter().map(|(to, _)| *to).collect();
        assert_eq!(to, [r(1), r(2)]);
        for (_, message) in sent {
            let Message::AppendEntries(append) = message else {
                panic!("{message:?} is no heartbeat");
            };
            assert!(append.entries.is_empty());
            assert_eq!(append.previous, at(1, 1));
        }
    }
}

/// A follower that hears heartbeats does not campaign. [§5.2]
#[test]
fn heartbeats_keep_a_follower_from_campaigning() {
    let mut node = Node::follower(0, 3, 1, &[]);
    for _ in 0..100 {
        node.now = node.now + Duration::from_millis(200);
        node.receive(r(1), heartbeat(1, at(0, 0), 0));
        if node.timers[&Timer::Election] <= node.now {
            let at = node.timers[&Timer::Election];
            node.fire(Timer::Election);
            node.now = node.now.max(at);
        }
    }
    assert_eq!((node.role(), node.term()), (Role::Follower, 1));
    assert_eq!(node.known_leader(), Some(r(1)));
    node.wait_for_campaign();
    assert_eq!(node.role(), Role::Candidate);
}

fn starts_an_election(node: &mut Node, term: u64) {
    assert_eq!((node.role(), node.term()), (Role::Candidate, term));
    assert_eq!(
        node.durable_vote(),
        (term, Some(r(0))),
        "it votes for itself"
    );
    let last = at(1, 1);
    let asked = node.take();
    assert_eq!(
        asked,
        [
            (r(1), request_vote(term, last)),
            (r(2), request_vote(term, last))
        ]
    );
    assert!(node.events.contains(&Event::Campaign { regime: term }));
}

/// "If a follower receives no communication over a period of time called the election timeout,
/// then it assumes there is no viable leader and begins an election": it increments its term,
/// votes for itself and asks the others. [§5.2]
#[test]
fn a_follower_starts_an_election() {
    let mut node = Node::follower(0, 3, 1, &[1]);
    node.wait_for_campaign();
    starts_an_election(&mut node, 2);
}

/// "Each candidate will time out and start a new election by incrementing its term and initiating
/// another round of RequestVote RPCs." [§5.2]
#[test]
fn a_candidate_starts_another_election() {
    let mut node = Node::candidate(3, 2, &[1]);
    node.take();
    node.wait_for_campaign();
    starts_an_election(&mut node, 3);
}

/// "A candidate wins an election if it receives votes from a majority of the servers in the full
/// cluster for the same term": itself included, each once, in one round of messages. [§5.2]
#[test]
fn an_election_ends_in_one_round_of_messages() {
    // Cluster size, votes of others granted and refused, and what becomes of the candidate.
    let table: [(usize, &[u8], &[u8], Role); 12] = [
        (1, &[], &[], Role::Leader),
        (3, &[1], &[], Role::Leader),
        (3, &[1], &[2], Role::Leader),
        (3, &[1, 2], &[], Role::Leader),
        (3, &[], &[1], Role::Candidate),
        (3, &[], &[1, 2], Role::Candidate),
        (5, &[1, 2], &[3, 4], Role::Leader),
        (5, &[1, 2, 3, 4], &[], Role::Leader),
        (5, &[1], &[2, 3, 4], Role::Candidate),
        (5, &[1, 1, 1], &[], Role::Candidate),
        (4, &[1], &[], Role::Candidate),
        (4, &[1, 2], &[], Role::Leader),
    ];
    for (n, granted, refused, role) in table {
        let past = Recovered::nothing();
        let mut node = Node::recover(context(r(0), n, 0), Config::default(), past).unwrap();
        node.wait_for_campaign();
        for voter in refused {
            node.receive(r(*voter), vote(1, at(0, 0), false));
        }
        for voter in granted {
            node.receive(r(*voter), vote(1, at(0, 0), true));
        }
        assert_eq!(node.role(), role, "{n} replicas, {granted:?}, {refused:?}");
    }
}

/// "Each server will vote for at most one candidate in a given term, on a first-come-first-served
/// basis", also across a crash. [§5.2]
#[test]
fn a_follower_votes_once_a_term() {
    let mut node = Node::follower(0, 3, 1, &[]);
    assert_eq!(
        node.answer(r(1), request_vote(2, at(0, 0))),
        [vote(2, at(0, 0), true)]
    );
    assert_eq!(
        node.answer(r(2), request_vote(2, at(0, 0))),
        [vote(2, at(0, 0), false)]
    );
    assert_eq!(
        node.answer(r(1), request_vote(2, at(0, 0))),
        [vote(2, at(0, 0), true)],
        "the same again"
    );
    assert_eq!(node.durable_vote(), (2, Some(r(1))));
    let mut node = node.crash(&Config::default());
    assert_eq!(
        node.answer(r(2), request_vote(2, at(0, 0))),
        [vote(2, at(0, 0), false)]
    );
    assert_eq!(
        node.answer(r(2), request_vote(3, at(0, 0))),
        [vote(3, at(0, 0), true)]
    );
}

/// A candidate and a leader have voted for themselves. [§5.2]
#[test]
fn a_candidate_and_a_leader_vote_for_nobody_else_in_their_term() {
    let mut candidate = Node::candidate(3, 2, &[1]);
    assert_eq!(
        candidate.answer(r(1), request_vote(2, at(9, 1))),
        [vote(2, at(9, 1), false)]
    );
    let mut leader = Node::leader(3, 2, &[1]);
    assert_eq!(
        leader.answer(r(1), request_vote(2, at(9, 1))),
        [vote(2, at(9, 1), false)]
    );
}

/// "If the leader's term (included in its RPC) is at least as large as the candidate's current term,
/// then the candidate recognizes the leader as legitimate and returns to follower state." [§5.2]
#[test]
fn a_candidate_falls_back_before_a_leader_of_its_term() {
    for term in [2, 3] {
        let mut node = Node::candidate(3, 2, &[1]);
        node.receive(r(2), append(term, at(1, 1), &[term], 0));
        assert_eq!((node.role(), node.term()), (Role::Follower, term));
        assert_eq!(node.known_leader(), Some(r(2)));
        assert_eq!(node.log_terms(), [1, term]);
    }
    let mut node = Node::candidate(3, 2, &[1]);
    node.receive(r(2), append(1, at(1, 1), &[1], 0));
    assert_eq!(node.role(), Role::Candidate, "a leader of an earlier term");
}

fn is_randomised(waits: &[Duration]) {
    let shortest = Config::default().election_timeout;
    assert!(
        waits
            .iter()
            .all(|wait| (shortest..=shortest * 2).contains(wait))
    );
    let distinct: BTreeSet<u128> = waits.iter().map(Duration::as_millis).collect();
    assert!(
        distinct.len() > 50,
        "{} of {} waits differ",
        distinct.len(),
        waits.len()
    );
}

/// "Election timeouts are chosen randomly from a fixed interval." [§5.2]
#[test]
fn timeouts_of_followers_are_randomised() {
    let wait = |seed: u8| {
        let past = Recovered::nothing();
        let node = Node::recover(context(r(0), 3, seed), Config::default(), past);
        node.unwrap().wait_for_campaign()
    };
    let waits: Vec<Duration> = (0..100).map(wait).collect();
    is_randomised(&waits);
}

/// How long a candidate waits for votes, drawn from a seed.
fn wait_of_candidate(id: ReplicaId, round: u64) -> Duration {
    let mut context = context(id, 5, id.0);
    context.seed[8..16].copy_from_slice(&round.to_le_bytes());
    let node = Node::recover(context, Config::default(), Recovered::nothing());
    let mut node = node.unwrap();
    node.wait_for_campaign();
    node.wait_for_campaign()
}

/// "Each candidate restarts its randomized election timeout at the start of an election." [§5.2]
#[test]
fn timeouts_of_candidates_are_randomised() {
    let waits: Vec<Duration> = (0..100).map(|seed| wait_of_candidate(r(0), seed)).collect();
    is_randomised(&waits);
}

/// How often the two shortest of `n` waits are closer than the 15 ms that a broadcast may take
/// in the paper's experiments, so that the vote may be split, out of a thousand.
fn conflicts(n: usize, waits: impl Fn(u64) -> Vec<Duration>) -> usize {
    let conflict = |round: &u64| {
        let mut waits = waits(*round);
        assert_eq!(waits.len(), n);
        waits.sort();
        waits[1] - waits[0] < Duration::from_millis(15)
    };
    (0..1000).filter(conflict).count()
}

/// Randomised timeouts "ensure that split votes are rare": with five waits drawn evenly
/// from 300 ms, the two shortest are within 15 ms of each other in 1 - (1 - 15/300)^5 = 23 % of
/// the cases, and then the vote is split only if the others are split too. [§5.2, §9.3]
#[test]
fn conflicts_between_followers_are_rare() {
    let fresh = |round: u64| {
        let wait = |id: ReplicaId| {
            let mut context = context(id, 5, id.0);
            context.seed[8..16].copy_from_slice(&round.to_le_bytes());
            let node = Node::recover(context, Config::default(), Recovered::nothing());
            node.unwrap().wait_for_campaign()
        };
        ReplicaId::all(5).map(wait).collect()
    };
    let count = conflicts(5, fresh);
    assert!((150..320).contains(&count), "{count} of 1000");
}

/// The same among candidates whose election was split: "this reduces the likelihood of another
/// split vote in the new election". [§5.2]
#[test]
fn conflicts_between_candidates_are_rare() {
    let next = |round| {
        let waits = ReplicaId::all(5).map(|id| wait_of_candidate(id, round));
        waits.collect()
    };
    let count = conflicts(5, next);
    assert!((150..320).contains(&count), "{count} of 1000");
}

/// A campaign waits for disks, and those may take longer than the time-out. It is not given up for
/// another before its own vote is durable: that would only give the disks more to do. [§5.2]
#[test]
fn a_candidate_waits_for_votes_from_when_its_own_is_durable() {
    let mut node = Node::follower(0, 3, 1, &[]);
    node.syncs = false;
    node.wait_for_campaign();
    node.take();
    node.pass(Duration::from_secs(60));
    assert_eq!((node.role(), node.term()), (Role::Candidate, 2));
    assert_eq!(node.take(), [], "it asks nobody about another term");
    node.sync();
    node.end_turn();
    let durable = node.now;
    node.syncs = true;
    node.wait_for_campaign();
    assert!(node.now.since(durable) >= Config::default().election_timeout);
}

/// A candidate that has waited asks whether it would be voted for in another term, and may still win
/// this one: votes come when disks have written them.
#[test]
fn a_vote_that_comes_late_elects_as_long_as_the_term_lasts() {
    let mut node = Node::candidate(3, 2, &[]);
    node.fire(Timer::Election);
    node.fire(Timer::Election);
    assert_eq!((node.role(), node.term()), (Role::Candidate, 2));
    node.receive(r(1), vote(2, at(0, 0), true));
    assert_eq!((node.role(), node.term()), (Role::Leader, 2));
    // Who has not campaigned in the term wins nothing in it.
    let mut node = Node::candidate(3, 2, &[]).crash(&Config::default());
    node.fire(Timer::Election);
    node.receive(r(1), vote(2, at(0, 0), true));
    node.receive(r(2), vote(2, at(0, 0), true));
    assert_eq!((node.role(), node.term()), (Role::Candidate, 2));
}

/// A vote is for a log. A candidate that crashes before its campaign is durable may have lost entries
/// too, and campaign in the same term again: a vote for the longer log, which a voter that has more
/// than the shorter one would not have given, does not count. [§5.4.1]
#[test]
fn a_vote_counts_for_the_log_that_it_was_asked_for_with() {
    let mut node = Node::candidate(3, 3, &[1]);
    node.receive(r(1), vote(3, at(2, 2), true));
    assert_eq!(node.role(), Role::Candidate);
    node.receive(r(1), vote(3, at(1, 1), true));
    assert_eq!(node.role(), Role::Leader);
}

/// Nor does a voter compete with whom it has just voted for.
#[test]
fn a_voter_waits_for_a_leader_from_when_its_vote_is_durable() {
    let mut node = Node::follower(0, 3, 1, &[]);
    node.syncs = false;
    node.receive(r(1), request_vote(2, at(0, 0)));
    node.pass(Duration::from_secs(60));
    assert_eq!(node.take(), [], "it asks nobody");
    node.sync();
    node.end_turn();
    assert_eq!(node.take(), [(r(1), vote(2, at(0, 0), true))]);
    let durable = node.now;
    node.syncs = true;
    node.wait_for_campaign();
    assert!(node.now.since(durable) >= Config::default().election_timeout);
}
