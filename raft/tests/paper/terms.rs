//! Terms and roles. [Ongaro14 §5.1, §5.2]

use quorate_core::id::Slot;
use quorate_core::protocol::Role;
use quorate_raft::{Message, Position, Term};

use crate::common::{Node, RaftNode, accepted, append, at, echo, heartbeat, r, request_vote, vote};

/// Messages of term 9, of every kind that has a term.
fn messages_of_term_9() -> Vec<Message> {
    vec![
        request_vote(9, at(0, 0)),
        vote(9, at(0, 0), false),
        heartbeat(9, at(0, 0), 0),
        accepted(9, 0),
        Message::Rejected {
            term: Term(9),
            previous: Slot(1),
            hint: Position::default(),
        },
        Message::SnapshotNeeded {
            term: Term(9),
            through: Slot(1),
            round: 0,
            heard: true,
        },
        echo(9, 1),
    ]
}

fn adopts_a_higher_term(make: impl Fn() -> Node) {
    for message in messages_of_term_9() {
        let mut node = make();
        node.receive(r(1), message.clone());
        assert_eq!(node.term(), 9, "{message:?}");
        assert_eq!(node.role(), Role::Follower, "{message:?}");
        assert_eq!(node.durable_vote().0, 9, "{message:?}");
    }
}

/// "If one server's current term is smaller than the other's, then it updates its current term
/// to the larger value." [§5.1]
#[test]
fn a_follower_adopts_a_higher_term() {
    adopts_a_higher_term(|| Node::follower(0, 3, 2, &[1, 2]));
}

/// "If a candidate or leader discovers that its term is out of date, it immediately reverts to
/// follower state." [§5.1]
#[test]
fn a_candidate_adopts_a_higher_term() {
    adopts_a_higher_term(|| Node::candidate(3, 2, &[1]));
}

/// As for candidates. [§5.1]
#[test]
fn a_leader_adopts_a_higher_term() {
    adopts_a_higher_term(|| Node::leader(3, 2, &[1]));
}

/// "If a server receives a request with a stale term number, it rejects the request." [§5.1]
#[test]
fn a_request_of_a_stale_term_is_rejected() {
    for make in [
        || Node::follower(0, 3, 4, &[1]),
        || Node::candidate(3, 4, &[1]),
        || Node::leader(3, 4, &[1]),
    ] {
        let (log, role) = (make().log_terms(), make().role());
        let mut node = make();
        assert_eq!(
            node.answer(r(1), request_vote(3, at(9, 2))),
            [vote(4, at(9, 2), false)]
        );
        let stale = append(3, at(1, 1), &[3, 3], 3);
        let answers = node.answer(r(1), stale);
        let refused = |m: &Message| matches!(m, Message::Rejected { term: Term(4), .. });
        assert!(
            answers.len() == 1 && answers.iter().all(refused),
            "{answers:?}"
        );
        assert_eq!((node.log_terms(), node.committed()), (log, 0));
        assert_eq!((node.role(), node.term()), (role, 4));
    }
}

/// An answer to a request of an earlier term says nothing about this one. [§5.1]
#[test]
fn an_answer_of_a_stale_term_is_ignored() {
    let mut candidate = Node::candidate(3, 4, &[1]);
    candidate.receive(r(1), vote(3, at(1, 1), true));
    assert_eq!(candidate.role(), Role::Candidate);
    let mut leader = Node::leader(3, 4, &[1]);
    leader.receive(r(1), accepted(3, 2));
    assert_eq!(leader.committed(), 0);
}

/// "When servers start up, they begin as followers." [§5.2]
#[test]
fn a_replica_starts_as_follower() {
    let node = Node::follower(0, 3, 0, &[]);
    assert_eq!(node.role(), Role::Follower);
    assert_eq!(node.known_leader(), None);
    let led = Node::leader(3, 2, &[1]);
    let again = led.crash(&quorate_raft::Config::default());
    assert_eq!((again.role(), again.term()), (Role::Follower, 2));
}
