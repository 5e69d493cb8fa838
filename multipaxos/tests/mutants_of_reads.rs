//! Rules of reads and leases, switched off. [Charapko19; Chandra07 §5.2; OngaroThesis §6.4]

mod common;
mod scenarios;

use std::time::Duration;

use common::{Cluster, Node, PaxosCluster, b, echo, heartbeat, prepare, promise, r};
use quorate_multipaxos::{Ballot, Config, Message, Mutant, ReadMode};
use scenarios::{candidate, harms_only, node};

fn leasing(config: &Config) -> Config {
    Config {
        reads: ReadMode::Lease,
        ..config.clone()
    }
}

/// Replica 0 of three, which has just been elected in ballot 5.
fn leader(config: &Config) -> Node {
    let mut node = candidate(config, 5, &[]);
    node.receive(r(1), promise(b(5, 0), &[]));
    node
}

/// One of the two that chose answers, and the reader knows of nothing.
#[test]
fn a_quorum_read_that_waits_for_the_lowest_slot_misses_what_was_chosen() {
    harms_only(Mutant::ReadByLowestAnswer, |config| {
        let mut cluster = Cluster::led_by_0(3, config);
        cluster.isolate(2);
        cluster.propose(0, "v");
        assert_eq!(cluster.node(0).executed(), ["v"]);
        cluster.heal();
        cluster.isolate(0);
        cluster.node(2).read(1);
        cluster.deliver();
        assert!(cluster.node(2).executed().is_empty());
        !cluster.node(2).answered().is_empty()
    });
}

/// An answer that was under way when the replica crashed.
#[test]
fn a_question_named_as_before_a_restart_takes_an_answer_from_before() {
    harms_only(Mutant::TicketsFromZero, |config| {
        let asked = |node: &mut Node| {
            node.receive(r(1), heartbeat(b(1, 1), 0, 1));
            node.take();
            node.read(0);
            let [Message::ReadQuery { ticket }] = node.sent_to(r(1))[..] else {
                panic!("no question");
            };
            ticket
        };
        let mut before = node(config, 0, Ballot::ZERO, &[]);
        let ticket = asked(&mut before);
        asked(&mut before.crash(config)) == ticket
    });
}

/// A peer that errs, or a round of which it has heard in another life.
#[test]
fn a_round_that_is_heard_before_it_begins_shows_nothing() {
    harms_only(Mutant::RoundHeardBeforeBegun, |config| {
        let mut leader = leader(config);
        leader.receive(r(1), echo(b(5, 0), &[], 9, 0));
        leader.read(1);
        !leader.answered().is_empty()
    });
}

#[test]
fn a_promise_during_a_lease_lets_another_lead() {
    harms_only(Mutant::PromiseDuringLease, |config| {
        let mut node = node(&leasing(config), 0, Ballot::ZERO, &[]);
        node.receive(r(1), heartbeat(b(1, 1), 0, 1));
        node.answer(r(2), prepare(b(2, 2), 1)) == [promise(b(2, 2), &[])]
    });
}

/// With the leader's own promise another is elected that the acceptors are not bound against: of two
/// that choose, of four that elect, only the leader need be among both.
#[test]
fn a_leader_that_promises_during_its_own_lease_lets_another_lead() {
    harms_only(Mutant::LeaderIgnoresOwnLease, |config| {
        let mut leader = leader(&leasing(config));
        leader.receive(r(1), echo(b(5, 0), &[], 1, 0));
        leader.answer(r(2), prepare(b(6, 2), 1)) == [promise(b(6, 2), &[])]
    });
}

/// The acceptor has granted it from when the heartbeat arrived, which may be long ago.
#[test]
fn a_lease_counted_from_the_answer_lasts_longer_than_the_promise() {
    harms_only(Mutant::LeaseFromAnswer, |config| {
        let mut leader = leader(&leasing(config));
        leader.now = leader.now + Duration::from_millis(299);
        leader.receive(r(1), echo(b(5, 0), &[], 1, 0));
        leader.read(1);
        !leader.answered().is_empty()
    });
}
