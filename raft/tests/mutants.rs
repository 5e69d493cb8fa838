//! Each rule of Raft switched off, and the harm that follows: the tests would notice.

mod common;

use common::{
    Cluster, Node, RaftCluster, RaftNode, accepted, append, at, context, r, records, request_vote,
    vote,
};
use quorate_core::protocol::{Protocol, Recovered, Role};
use quorate_raft::{Config, Message, Mutant, Timer};

/// With every rule, and without one: what `scenario` says of harm done.
fn harms_only(mutant: Mutant, scenario: impl Fn(&Config) -> bool) {
    let mut config = Config::default();
    assert!(!scenario(&config), "harm without {mutant:?}");
    config.mutant = Some(mutant);
    assert!(scenario(&config), "no harm from {mutant:?}");
}

/// Replica `me` of three in `term`, with a log of the terms given.
fn node(config: &Config, me: u8, term: u64, log: &[u64]) -> Node {
    let past = Recovered {
        records: records(term, log),
        snapshot: None,
    };
    Node::recover(context(r(me), 3, me), config.clone(), past).unwrap()
}

/// Election Safety. [Ongaro14 §5.2]
#[test]
fn a_vote_forgotten_on_restart_is_given_twice() {
    harms_only(Mutant::VoteForgottenOnRestart, |config| {
        let mut node = node(config, 0, 1, &[]);
        assert_eq!(
            node.answer(r(1), request_vote(2, at(0, 0))),
            [vote(2, true)]
        );
        let mut node = node.crash(config);
        node.answer(r(2), request_vote(2, at(0, 0))) == [vote(2, true)]
    });
}

/// Leader Completeness. [Ongaro14 §5.4.1]
#[test]
fn a_vote_without_a_look_at_the_log_elects_a_leader_without_committed_entries() {
    harms_only(Mutant::VoteWithoutLogCheck, |config| {
        let mut cluster = Cluster::led_by_0(3, config);
        cluster.isolate(2);
        cluster.propose(0, "committed");
        cluster.heal();
        cluster.isolate(0);
        cluster.node(2).wait_for_campaign();
        cluster.node(2).wait_for_campaign();
        cluster.deliver();
        cluster.node(2).role() == Role::Leader
    });
}

/// State Machine Safety: figure 8. [Ongaro14 §5.4.2]
#[test]
fn an_entry_of_an_older_term_committed_by_counting_is_overwritten() {
    harms_only(Mutant::CommitOlderTermByCounting, |config| {
        let mut s1 = node(config, 0, 3, &[1, 2]);
        s1.checks = false;
        s1.fire(Timer::Election);
        s1.receive(r(1), vote(4, true));
        s1.receive(r(1), accepted(4, 2));
        let committed = s1.executed().len() == 2;
        // A log that ends with term 3 wins against it all the same.
        let mut s2 = node(config, 1, 4, &[1, 2]);
        s2.receive(r(2), request_vote(5, at(2, 3)));
        s2.receive(r(2), append(5, at(1, 1), &[3, 5], 3));
        assert_eq!(s2.log_terms(), [1, 3, 5]);
        assert_eq!(
            committed,
            s1.protocol.check().is_err(),
            "the invariant tells"
        );
        committed
    });
}

/// Election Safety. [Ongaro14 §5.2]
#[test]
fn a_quorum_short_of_a_majority_elects_two_leaders_of_a_term() {
    harms_only(Mutant::QuorumOfMajorityMinusOne, |config| {
        let mut cluster = Cluster::new(3, config);
        cluster.isolate(0);
        cluster.isolate(1);
        cluster.node(0).wait_for_campaign();
        cluster.node(1).wait_for_campaign();
        cluster.deliver();
        assert_eq!(cluster.nodes[0].term(), cluster.nodes[1].term());
        cluster.nodes[..2]
            .iter()
            .all(|node| node.role() == Role::Leader)
    });
}

/// An acknowledged entry stays. [Ongaro14 figure 2]
#[test]
fn a_log_cut_by_every_message_loses_what_was_acknowledged() {
    harms_only(Mutant::AppendTruncatesAlways, |config| {
        let mut node = node(config, 0, 1, &[]);
        let overtaken = append(1, at(0, 0), &[1], 0);
        assert_eq!(
            node.answer(r(1), append(1, at(0, 0), &[1, 1], 0)),
            [accepted(1, 2)]
        );
        node.receive(r(1), overtaken);
        node.log_terms().len() < 2
    });
}

/// Log Matching. [Ongaro14 §5.3]
#[test]
fn entries_taken_without_a_look_at_the_one_before_make_logs_that_disagree() {
    harms_only(Mutant::AppendWithoutPreviousCheck, |config| {
        let mut node = node(config, 0, 3, &[1, 2]);
        let answers = node.answer(r(1), append(3, at(2, 1), &[3], 0));
        answers == [accepted(3, 3)] && node.log_terms() == [1, 2, 3]
    });
}

/// Linearizability. [OngaroThesis §6.4]
#[test]
fn a_read_without_read_index_misses_what_was_committed() {
    harms_only(Mutant::ReadWithoutReadIndex, |config| {
        let mut cluster = Cluster::led_by_0(3, config);
        cluster.isolate(0);
        cluster.elect(1);
        cluster.propose(1, "x");
        cluster.node(0).read(5);
        !cluster.node(0).answered().is_empty()
    });
}

/// Linearizability: a new leader does not know yet what its predecessor committed. [Ongaro14 §8]
#[test]
fn a_read_before_the_leader_has_committed_in_its_term_misses_what_was_committed() {
    harms_only(Mutant::ReadBeforeOwnTermCommit, |config| {
        let mut cluster = Cluster::led_by_0(3, config);
        cluster.propose(0, "x");
        assert_eq!(cluster.node(0).committed(), 2);
        cluster.isolate(0);
        // Replica 1 is elected, and confirmed by 2, whose copies of its entry are not durable.
        cluster.node(1).wait_for_campaign();
        cluster.node(1).receive(r(2), vote(2, true));
        cluster.node(1).read(5);
        let confirmed = Message::Accepted {
            term: quorate_raft::Term(2),
            matched: quorate_core::id::Slot(2),
            round: 1,
        };
        cluster.node(1).receive(r(2), confirmed);
        !cluster.node(1).answered().is_empty() && cluster.node(1).committed() < 2
    });
}

#[test]
fn the_invariants_hold_in_every_replica_of_a_cluster_without_mutants() {
    let mut cluster = Cluster::led_by_0(5, &Config::default());
    cluster.propose(3, "x");
    cluster.elect(4);
    cluster.assert_invariants();
}
