//! Who campaigns is asked first whether it could win. [OngaroThesis §9.6; Lamport01 §2.4]

use std::time::Duration;

use bytes::Bytes;
use quorate_core::id::{ReplicaId, Slot};
use quorate_core::protocol::{Input, Role};
use quorate_multipaxos::{Config, Message, QuorumRule, Timer};

use crate::common::{
    Ballot, Cluster, Node, PaxosCluster, PaxosNode, accept, b, heartbeat, prepare, promise, r,
    records, rejected, snapshot,
};

const TIMEOUT: Duration = Duration::from_millis(300);

/// The ticket that the replica asks all others with now; none if it does not ask.
fn asked(node: &mut Node) -> Option<(u64, Vec<ReplicaId>)> {
    let questions = node.take().into_iter().filter_map(|(to, m)| match m {
        Message::PreVote { ticket, .. } => Some((to, ticket)),
        _ => None,
    });
    let (whom, tickets): (Vec<_>, Vec<_>) = questions.unzip();
    assert!(tickets.windows(2).all(|pair| pair[0] == pair[1]));
    Some((*tickets.first()?, whom))
}

/// Lets the time pass until the replica asks.
fn wait_for_question(node: &mut Node) -> (u64, Vec<ReplicaId>) {
    loop {
        node.fire(Timer::Election);
        if let Some(question) = asked(node) {
            return question;
        }
    }
}

fn is_granted(node: &mut Node, from: u8) -> bool {
    let executed = Slot::ZERO;
    let question = Message::PreVote {
        ticket: 7,
        executed,
        instead_of: None,
    };
    match &node.answer(r(from), question)[..] {
        [] => false,
        [Message::PreVoteGranted { ticket: 7 }] => true,
        other => panic!("{other:?}"),
    }
}

/// Nothing is promised or made durable, here or elsewhere, before a quorum has heard of no leader.
#[test]
fn a_ballot_is_raised_only_when_a_quorum_hears_of_no_leader() {
    let mut node = Node::with(0, 5, &Config::default(), records(b(4, 1), &[]));
    let (ticket, whom) = wait_for_question(&mut node);
    assert_eq!(whom, [r(1), r(2), r(3), r(4)]);
    node.receive(r(1), Message::PreVoteGranted { ticket });
    node.receive(r(1), Message::PreVoteGranted { ticket });
    let stranger = ticket.wrapping_add(1);
    node.receive(r(2), Message::PreVoteGranted { ticket: stranger });
    assert_eq!(
        (node.role(), node.durable_promise()),
        (Role::Follower, b(4, 1))
    );
    node.receive(r(3), Message::PreVoteGranted { ticket });
    assert_eq!(
        (node.role(), node.durable_promise()),
        (Role::Candidate, b(5, 0))
    );
}

/// Which replicas must agree is what a phase 1 quorum is. [Howard16 §3]
#[test]
fn a_phase_1_quorum_must_hear_of_no_leader() {
    let config = Config {
        quorums: QuorumRule::Flexible { q1: 4, q2: 2 },
        ..Config::default()
    };
    let mut node = Node::with(0, 5, &config, Vec::new());
    let (ticket, _) = wait_for_question(&mut node);
    for (from, campaigns) in [(1, false), (2, false), (3, true)] {
        node.receive(r(from), Message::PreVoteGranted { ticket });
        assert_eq!(node.role() == Role::Candidate, campaigns, "after {from}");
    }
    let config = Config {
        quorums: QuorumRule::Grid { rows: 2 },
        ..Config::default()
    };
    let mut node = Node::with(0, 6, &config, Vec::new());
    let (ticket, _) = wait_for_question(&mut node);
    for (from, campaigns) in [(3, false), (4, false), (1, false), (2, true)] {
        node.receive(r(from), Message::PreVoteGranted { ticket });
        assert_eq!(node.role() == Role::Candidate, campaigns, "after {from}");
    }
}

/// Whoever has heard a leader, or promised a ballot, grants nothing until a time-out has passed
/// since, by its own clock; the preferred replica waits half as long.
#[test]
fn nothing_is_granted_within_a_time_out_of_a_leader() {
    let config = Config {
        preferred: Some(r(2)),
        ..Config::default()
    };
    let heard = [
        heartbeat(b(1, 1), 0, 1),
        accept(b(1, 1), &[(1, "a")], 0),
        prepare(b(1, 1), 1),
    ];
    for message in heard {
        for (from, wait) in [(3, TIMEOUT), (2, TIMEOUT / 2)] {
            let mut node = Node::with(0, 5, &config, Vec::new());
            assert!(is_granted(&mut node, from), "it has heard nobody");
            node.receive(r(1), message.clone());
            node.now = node.now + (wait - Duration::from_millis(1));
            assert!(!is_granted(&mut node, from));
            node.now = node.now + Duration::from_millis(1);
            assert!(is_granted(&mut node, from));
        }
    }
}

/// A leader grants nothing; once it has given up, it does. A candidate does after a time-out.
#[test]
fn a_leader_grants_nothing_and_a_candidate_only_late() {
    let mut leader = Node::leader(3, 1);
    assert!(!is_granted(&mut leader, 1));
    while leader.role() == Role::Leader {
        assert!(!is_granted(&mut leader, 1));
        leader.fire(Timer::Heartbeat);
    }
    assert!(is_granted(&mut leader, 1));
    let mut candidate = Node::candidate(3, 2, &[]);
    assert!(!is_granted(&mut candidate, 1));
    candidate.now = candidate.now + TIMEOUT;
    assert!(is_granted(&mut candidate, 1));
    assert_eq!(candidate.role(), Role::Candidate, "it goes on");
}

/// Whoever has a past may have heard a leader just before it ended.
#[test]
fn a_replica_that_restarts_grants_nothing_for_a_time_out() {
    let mut node = Node::with(0, 3, &Config::default(), records(b(4, 1), &[]));
    assert!(!is_granted(&mut node, 2));
    node.now = node.now + TIMEOUT;
    assert!(is_granted(&mut node, 2));
}

/// The question is asked again while it is not answered, and anew after a while; a lost answer
/// ends nothing.
#[test]
fn a_question_is_asked_again_until_it_is_answered() {
    let mut node = Node::fresh(0, 3, &Config::default());
    let (first, _) = wait_for_question(&mut node);
    let mut tickets = vec![first];
    let began = node.now;
    while node.now.since(began) < TIMEOUT * 4 {
        let before = node.now;
        node.fire(Timer::Election);
        assert!(node.now.since(before) <= Config::default().heartbeat);
        tickets.push(asked(&mut node).expect("it asks").0);
    }
    let repeated = tickets.iter().filter(|ticket| **ticket == first).count();
    assert!((3..=13).contains(&repeated), "{tickets:?}");
    node.receive(r(1), Message::PreVoteGranted { ticket: first });
    assert_eq!(node.role(), Role::Follower, "that was true long ago");
    let ticket = tickets[tickets.len() - 1];
    node.receive(r(1), Message::PreVoteGranted { ticket });
    assert_eq!(node.role(), Role::Candidate);
}

/// Whoever hears of a leader after all asks no longer, and late answers count for nothing.
#[test]
fn a_question_ends_when_a_leader_is_heard() {
    let mut node = Node::fresh(0, 3, &Config::default());
    let (ticket, _) = wait_for_question(&mut node);
    node.receive(r(1), heartbeat(b(1, 1), 0, 1));
    node.receive(r(2), Message::PreVoteGranted { ticket });
    assert_eq!(
        (node.role(), node.known_leader()),
        (Role::Follower, Some(r(1)))
    );
    node.fire(Timer::Election);
    assert_eq!(asked(&mut node), None);
}

/// A replica that was cut off, or paused, and comes back leaves the leader that the others hear.
/// A stale candidate waits.
#[test]
fn a_replica_that_comes_back_deposes_nobody() {
    for n in [3, 5] {
        let mut cluster = Cluster::led_by_0(n, &Config::default());
        let ballot = cluster.node(0).ballot();
        cluster.isolate(2);
        for _ in 0..100 {
            for id in ReplicaId::all(n) {
                cluster.node(id.0).pass(Duration::from_millis(20));
            }
            cluster.deliver();
        }
        cluster.propose(0, "a");
        assert_eq!(cluster.node(2).durable_promise(), ballot);
        cluster.heal();
        for _ in 0..20 {
            for id in ReplicaId::all(n) {
                cluster.node(id.0).pass(Duration::from_millis(20));
            }
            cluster.deliver();
        }
        assert_eq!(cluster.node(0).role(), Role::Leader);
        assert!(cluster.nodes.iter().all(|node| node.ballot() == ballot));
        assert_eq!(cluster.node(2).executed(), ["a"]);
    }
}

/// Who lacks what others have compacted could not be elected by them: it is told so, fetches a
/// snapshot, and raises no ballot before.
#[test]
fn whoever_is_too_far_behind_fetches_before_it_campaigns() {
    let config = Config {
        retained_entries: 0,
        ..Config::default()
    };
    let mut peer = Node::with(1, 3, &config, Vec::new());
    peer.receive(r(2), accept(b(1, 2), &[(1, "a"), (2, "b")], 2));
    peer.take_snapshot();
    peer.now = peer.now + TIMEOUT;
    let mut node = Node::with(0, 3, &config, Vec::new());
    let (ticket, _) = wait_for_question(&mut node);
    let question = |executed| Message::PreVote {
        ticket,
        executed: Slot(executed),
        instead_of: None,
    };
    let through = Slot(2);
    let answers = peer.answer(r(0), question(1));
    assert_eq!(answers, [Message::SnapshotNeeded { through }]);
    node.receive(r(1), answers[0].clone());
    let wanted = node.fetch.clone().expect("it wants a snapshot");
    assert_eq!((wanted.from, wanted.at_least.slot()), (r(1), through));
    assert_eq!(node.durable_promise(), Ballot::ZERO);
    node.turn(Input::Installed(snapshot(2, Bytes::new())));
    let answers = peer.answer(r(0), question(2));
    assert_eq!(answers, [Message::PreVoteGranted { ticket }]);
}

/// A leader that hands over has let its successor campaign: nobody else is asked.
#[test]
fn who_is_handed_over_to_asks_nobody() {
    let mut node = Node::fresh(0, 3, &Config::default());
    node.receive(r(1), heartbeat(b(2, 1), 0, 1));
    node.take();
    node.receive(r(1), Message::HandOver { ballot: b(2, 1) });
    assert_eq!(asked(&mut node), None);
    assert_eq!((node.role(), node.ballot()), (Role::Candidate, b(3, 0)));
    node.receive(r(1), promise(b(3, 0), &[]));
    assert_eq!(node.role(), Role::Leader);
}

/// A leader hands over to the preferred replica only if that could be elected: not to one that
/// hears too few.
#[test]
fn a_leader_hands_over_only_to_one_that_could_be_elected() {
    let config = Config {
        preferred: Some(r(2)),
        ..Config::default()
    };
    let mut cluster = Cluster::led_by_0(5, &config);
    for deaf in [1, 3, 4] {
        cluster.block(2, deaf);
        cluster.block(deaf, 2);
    }
    for _ in 0..100 {
        cluster.beat(0);
    }
    assert_eq!(cluster.node(0).role(), Role::Leader, "three do not hear 2");
    let offers = cluster.count("offer");
    assert!((1..=17).contains(&offers), "not at each heartbeat");
    cluster.heal();
    cluster.block(2, 4);
    for _ in 0..10 {
        if cluster.node(0).role() == Role::Leader {
            cluster.beat(0);
        }
    }
    assert_eq!(cluster.node(2).role(), Role::Leader);
}

/// Only the leader that has offered is replaced: whoever follows another one grants nothing.
#[test]
fn an_offer_of_another_ballot_moves_nobody() {
    let mut node = Node::fresh(0, 3, &Config::default());
    node.receive(r(1), heartbeat(b(2, 1), 0, 1));
    for (ballot, granted) in [(b(1, 1), 0), (b(3, 1), 0), (b(2, 1), 1)] {
        let question = Message::PreVote {
            ticket: 7,
            executed: Slot::ZERO,
            instead_of: Some(ballot),
        };
        assert_eq!(node.answer(r(2), question).len(), granted, "{ballot}");
    }
    node.receive(r(1), Message::Offer { ballot: b(1, 1) });
    assert_eq!(asked(&mut node), None);
}

/// Whoever has promised and cannot make it durable is of no use to a candidate: it grants no campaign,
/// begins none, and ends none of others. It does all that again when the promise is durable.
#[test]
fn whose_disk_hangs_has_no_part_in_elections() {
    let mut node = Node::with(0, 3, &Config::default(), records(b(1, 1), &[]));
    node.syncs = false;
    assert!(node.answer(r(1), prepare(b(5, 1), 1)).is_empty());
    node.now = node.now + TIMEOUT * 3;
    assert!(!is_granted(&mut node, 2));
    for _ in 0..9 {
        node.fire(Timer::Election);
        assert_eq!(asked(&mut node), None);
    }
    for lower in [prepare(b(4, 2), 1), heartbeat(b(4, 2), 0, 1)] {
        assert!(node.answer(r(2), lower).is_empty());
    }
    node.syncs = true;
    node.end_turn();
    assert_eq!(node.sent_to(r(1)), [promise(b(5, 1), &[])]);
    assert!(is_granted(&mut node, 2));
    let rejects = node.answer(r(2), prepare(b(4, 2), 1));
    assert_eq!(rejects, [rejected(b(4, 2), b(5, 1))]);
    wait_for_question(&mut node);
}

/// The preferred replica is not handed over to while its disk hangs.
#[test]
fn whose_disk_hangs_takes_no_offer() {
    let mut node = Node::with(0, 3, &Config::default(), Vec::new());
    node.syncs = false;
    node.receive(r(1), heartbeat(b(1, 1), 0, 1));
    node.take();
    let offer = Message::Offer { ballot: b(1, 1) };
    node.receive(r(1), offer.clone());
    assert_eq!(asked(&mut node), None);
    node.syncs = true;
    node.receive(r(1), heartbeat(b(1, 1), 0, 1));
    node.receive(r(1), offer);
    assert!(asked(&mut node).is_some());
}

/// Only a replica's own word tells it that its promise is durable.
#[test]
fn nobody_else_tells_that_a_promise_is_durable() {
    let mut node = Node::with(0, 3, &Config::default(), Vec::new());
    node.syncs = false;
    node.receive(r(1), prepare(b(5, 1), 1));
    node.receive(r(1), Message::Promised { ballot: b(5, 1) });
    node.now = node.now + TIMEOUT;
    assert!(!is_granted(&mut node, 2));
}
