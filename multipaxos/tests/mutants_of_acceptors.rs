//! What candidates, acceptors and leaders count and remember, switched off.

mod common;
mod scenarios;

use bytes::Bytes;
use common::{
    Node, PaxosNode, accept, accepted, b, echo, prepare, promise, promise_from, r, snapshot,
};
use quorate_core::protocol::{Input, Protocol as _, Role};
use quorate_multipaxos::{Ballot, Config, Mutant};
use scenarios::{candidate, harms_only, node};

/// Replica 0 of three, elected in ballot 5.
fn leader(config: &Config) -> Node {
    let mut node = candidate(config, 5, &[]);
    node.receive(r(1), promise(b(5, 0), &[]));
    assert_eq!(node.role(), Role::Leader);
    node
}

/// The first part may tell of a value that is chosen. [Lamport01 §3]
#[test]
fn a_promise_that_counts_by_its_last_part_elects_one_that_missed_the_first() {
    harms_only(Mutant::PartOfPromiseCounted, |config| {
        let config = &Config {
            max_message_bytes: 1,
            ..config.clone()
        };
        let held = [(1, b(1, 2), "a"), (2, b(1, 2), "b")];
        let mut acceptor = node(config, 1, b(1, 2), &held);
        let mut parts = acceptor.answer(r(0), prepare(b(2, 0), 1));
        let mut candidate = candidate(config, 2, &[]);
        candidate.receive(r(1), parts.remove(1));
        candidate.role() == Role::Leader
    });
}

/// Whoever has learnt a chosen value has not accepted it in any ballot. [Lamport01 §2.2]
#[test]
fn a_value_of_a_higher_ballot_replaces_one_that_was_learnt() {
    harms_only(Mutant::ChosenBeatenByBallot, |config| {
        let mut node = candidate(config, 5, &[(1, b(2, 1), "w")]);
        node.receive(r(1), promise_from(b(5, 0), 1, &[(1, Ballot::ZERO, "v")]));
        node.proposed(r(2)) == [(1, String::from("w"))]
    });
}

/// In that ballot another value may have been accepted. [Lamport01 §2.2 phase 2b]
#[test]
fn an_acceptance_of_an_earlier_ballot_chooses_what_nobody_accepted() {
    harms_only(Mutant::StaleAcceptanceCounted, |config| {
        let mut leader = leader(config);
        leader.propose("v");
        leader.receive(r(1), accepted(b(3, 0), &[1]));
        leader.executed() == ["v"]
    });
}

/// A crash leaves one copy of three. [Lamport01 §2.5]
#[test]
fn a_leader_that_counts_its_own_acceptance_early_chooses_what_it_may_lose() {
    harms_only(Mutant::OwnAcceptanceCountedEarly, |config| {
        let mut leader = leader(config);
        leader.syncs = false;
        leader.propose("v");
        leader.receive(r(1), accepted(b(5, 0), &[1]));
        leader.executed() == ["v"]
    });
}

/// P1a. [Lamport01 §2.2]
#[test]
fn an_acceptor_that_takes_less_than_it_has_promised_breaks_its_promise() {
    harms_only(Mutant::AcceptBelowPromise, |config| {
        let mut node = node(config, 0, Ballot::ZERO, &[]);
        node.receive(r(2), prepare(b(5, 2), 1));
        let late = accept(b(4, 1), &[(1, "x")], 0);
        node.answer(r(1), late) == [accepted(b(4, 1), &[1])]
    });
}

/// [Lamport01 §2.5]
#[test]
fn an_acceptance_that_is_not_written_is_forgotten() {
    harms_only(Mutant::AcceptedNotWritten, |config| {
        let mut node = node(config, 0, Ballot::ZERO, &[]);
        let answers = node.answer(r(1), accept(b(1, 1), &[(1, "v")], 0));
        assert_eq!(answers, [accepted(b(1, 1), &[1])]);
        node.durable_log().is_empty()
    });
}

/// It counts for what it does not hold.
#[test]
fn an_acceptor_that_acknowledges_what_is_beyond_its_window_has_nothing_to_tell_of_it() {
    harms_only(Mutant::AcknowledgedBeyondWindow, |config| {
        let config = Config {
            max_window: 1,
            ..config.clone()
        };
        let mut node = node(&config, 0, Ballot::ZERO, &[]);
        let answers = node.answer(r(1), accept(b(1, 1), &[(2, "x")], 0));
        answers == [accepted(b(1, 1), &[2])] && node.durable_log().is_empty()
    });
}

/// A replica that has executed slot 1, accepted slot 2, promised ballot 5.2, and written its log anew.
fn rewritten(config: &Config) -> Node {
    let config = Config {
        retained_entries: 0,
        ..config.clone()
    };
    let mut node = node(&config, 0, Ballot::ZERO, &[]);
    node.receive(r(1), accept(b(1, 1), &[(1, "a"), (2, "b")], 1));
    assert_eq!(node.executed(), ["a"]);
    node.receive(r(2), prepare(b(5, 2), 1));
    node.take_snapshot();
    node
}

/// [Lamport01 §2.5]
#[test]
fn a_promise_left_out_when_the_log_is_written_anew_is_broken() {
    harms_only(Mutant::RewriteForgetsPromise, |config| {
        let mut node = rewritten(config).crash(config);
        let late = accept(b(4, 1), &[(3, "x")], 1);
        node.answer(r(1), late) == [echo(b(4, 1), &[3], 0, 1)]
    });
}

/// [Lamport01 §2.5]
#[test]
fn what_is_accepted_and_left_out_when_the_log_is_written_anew_is_lost() {
    harms_only(Mutant::RewriteForgetsUnchosen, |config| {
        let held = rewritten(config).durable_log();
        held.iter().all(|(slot, _, _)| *slot != 2)
    });
}

/// [Lamport01 §2.2]
#[test]
fn what_is_called_chosen_when_the_log_is_written_anew_is_executed() {
    harms_only(Mutant::RewriteCallsAllChosen, |config| {
        let node = rewritten(config).crash(config);
        node.executed() == ["b"]
    });
}

/// It would tell others that slots are chosen in which it has proposed nothing. [Chandra07 §5.5]
#[test]
fn a_leader_that_installs_a_snapshot_and_leads_on_proposes_in_slots_that_are_executed() {
    harms_only(Mutant::InstalledLeaderLeadsOn, |config| {
        let mut leader = leader(config);
        leader.turn(Input::Installed(snapshot(3, Bytes::new())));
        leader.role() == Role::Leader && leader.protocol.check().is_err()
    });
}
