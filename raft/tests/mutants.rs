//! Each rule of Raft switched off, and the harm that follows: the tests would notice.

mod common;

use bytes::Bytes;
use common::{
    Cluster, Node, RaftCluster, RaftNode, accepted, append, at, command, context, echo, heartbeat,
    pre_vote, pre_vote_hearing, pre_vote_reply, r, records, request_vote, snapshot, vote,
};
use quorate_core::codec;
use quorate_core::id::Slot;
use quorate_core::protocol::{Input, Protocol, ReadId, Recovered, Role, SnapshotRef};
use quorate_raft::{AppendEntries, Config, Message, Mutant, Term, Timer};

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
            [vote(2, at(0, 0), true)]
        );
        let mut node = node.crash(config);
        node.answer(r(2), request_vote(2, at(0, 0))) == [vote(2, at(0, 0), true)]
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
        s1.wait_for_campaign();
        s1.receive(r(1), vote(4, at(2, 2), true));
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
        cluster.node(1).receive(r(2), vote(2, at(2, 1), true));
        cluster.node(1).read(5);
        cluster.node(1).receive(r(2), accepted(2, 2));
        cluster.node(1).receive(r(2), echo(2, 1));
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

/// Replica 0 of three, which leads `term`, its first entry not acknowledged by others.
fn leader(config: &Config, term: u64) -> Node {
    let mut node = node(config, 0, term - 1, &[]);
    node.wait_for_campaign();
    node.receive(r(1), vote(term, at(0, 0), true));
    assert_eq!((node.role(), node.term()), (Role::Leader, term));
    node
}

/// A snapshot whose last entry is of term `last`, of a replica in term `vouched_in`.
fn fetched(slot: u64, last: u64, vouched_in: u64) -> SnapshotRef {
    let anchor = codec::encode(&(last, vouched_in)).unwrap();
    snapshot(slot, Bytes::from(anchor))
}

/// Linearizability. [OngaroThesis §6.4]
#[test]
fn a_read_that_joins_a_round_under_way_misses_what_was_committed_since() {
    harms_only(Mutant::ReadJoinsRoundUnderWay, |config| {
        let mut cluster = Cluster::led_by_0(3, config);
        cluster.node(0).read(5);
        let beat = cluster.node(0).sent_to(r(1)).remove(0);
        let late = cluster.node(1).answer(r(0), beat);
        assert_eq!(late, [echo(1, 1)]);
        cluster.isolate(0);
        cluster.elect(1);
        cluster.propose(1, "x");
        cluster.node(0).read(6);
        cluster.node(0).receive(r(1), echo(1, 1));
        assert!(cluster.node(0).answered().contains(&ReadId(5)));
        cluster.node(0).answered().contains(&ReadId(6))
    });
}

/// Linearizability: what was committed when it was asked is not yet executed here.
/// [OngaroThesis §6.4]
#[test]
fn a_read_answered_before_its_index_is_executed_misses_what_was_committed() {
    harms_only(Mutant::ReadBeforeExecuted, |config| {
        let mut node = node(config, 0, 1, &[1]);
        node.receive(r(1), heartbeat(1, at(1, 1), 1));
        node.take();
        node.read(5);
        let Some(Message::ReadIndex { ticket }) = node.sent_to(r(1)).pop() else {
            panic!("no question");
        };
        let index = Slot(2);
        node.receive(r(1), Message::ReadIndexReply { ticket, index });
        !node.answered().is_empty()
    });
}

/// Linearizability: an answer that was under way when the replica crashed. [OngaroThesis §6.4]
#[test]
fn a_question_named_as_before_a_restart_takes_an_answer_from_before() {
    harms_only(Mutant::TicketsFromZero, |config| {
        let asked = |node: &mut Node| {
            node.receive(r(1), heartbeat(1, at(0, 0), 0));
            node.take();
            node.read(0);
            node.sent_to(r(1))
        };
        let mut before = node(config, 0, 1, &[]);
        let question = asked(&mut before);
        let mut after = before.crash(config);
        asked(&mut after) == question
    });
}

/// Election Safety. [Ongaro14 §5.2]
#[test]
fn a_vote_for_whoever_asks_elects_two_leaders_of_a_term() {
    harms_only(Mutant::VoteTwice, |config| {
        let mut node = node(config, 0, 1, &[]);
        node.receive(r(1), request_vote(2, at(0, 0)));
        node.answer(r(2), request_vote(2, at(0, 0))) == [vote(2, at(0, 0), true)]
    });
}

/// Leader Completeness: the voters have committed what the candidate has lost. [Ongaro14 §5.4.1]
#[test]
fn a_vote_for_a_log_that_was_lost_elects_one_without_committed_entries() {
    harms_only(Mutant::VoteForAnotherLogCounts, |config| {
        // It has taken entry 2 and campaigned with it; then it crashes, before either is durable.
        let mut node = node(config, 0, 1, &[1]);
        node.syncs = false;
        node.receive(r(1), append(1, at(1, 1), &[1], 2));
        node.wait_for_campaign();
        let asked = request_vote(2, at(2, 1));
        assert!(node.take().contains(&(r(2), asked.clone())));
        let mut voter = self::node(config, 2, 1, &[1, 1]);
        let late = voter.answer(r(0), asked).remove(0);
        assert_eq!(late, vote(2, at(2, 1), true));
        let mut node = node.crash(config);
        assert_eq!(node.log_terms(), [1]);
        node.syncs = true;
        node.wait_for_campaign();
        assert_eq!(node.term(), 2);
        node.receive(r(2), late);
        node.role() == Role::Leader
    });
}

/// Log Matching: it crashes, and leads the term again. [OngaroThesis §10.2.1]
#[test]
fn a_leader_whose_own_vote_is_not_durable_puts_two_entries_into_a_slot_of_a_term() {
    harms_only(Mutant::LeadBeforeOwnVote, |config| {
        let mut node = node(config, 0, 1, &[]);
        node.syncs = false;
        node.wait_for_campaign();
        for peer in [1, 2] {
            node.receive(r(peer), vote(2, at(0, 0), true));
        }
        let led = node.role() == Role::Leader;
        let again = node.crash(config);
        assert_eq!(again.term(), 1);
        led
    });
}

/// Election Safety. [Ongaro14 §5.1]
#[test]
fn a_vote_of_an_earlier_term_elects_whom_nobody_has_voted_for() {
    harms_only(Mutant::StaleAnswersCount, |config| {
        let mut node = node(config, 0, 3, &[]);
        node.wait_for_campaign();
        node.receive(r(1), vote(3, at(0, 0), true));
        node.role() == Role::Leader
    });
}

/// Election Safety: two durable things, one write. [Ongaro14 §5.2]
#[test]
fn a_vote_left_out_when_the_log_is_written_anew_is_given_twice() {
    harms_only(Mutant::RewriteForgetsVote, |config| {
        let config = Config {
            retained_entries: 0,
            ..config.clone()
        };
        let mut node = node(&config, 0, 1, &[1]);
        node.receive(r(1), heartbeat(1, at(1, 1), 1));
        let answers = node.answer(r(1), request_vote(2, at(1, 1)));
        assert_eq!(answers, [vote(2, at(1, 1), true)]);
        node.take_snapshot();
        let mut node = node.crash(&config);
        node.answer(r(2), request_vote(2, at(1, 1))) == [vote(2, at(1, 1), true)]
    });
}

/// Leader Completeness: a crash of the leader leaves one copy of three. [OngaroThesis §10.2.1]
#[test]
fn a_leader_that_counts_its_own_copy_early_commits_what_it_may_lose() {
    harms_only(Mutant::CountOwnBeforeSync, |config| {
        let mut leader = leader(config, 1);
        leader.syncs = false;
        leader.propose("x");
        leader.receive(r(1), accepted(1, 2));
        leader.committed() == 2
    });
}

/// State Machine Safety. [Ongaro14 figure 2]
#[test]
fn a_follower_that_commits_what_it_has_not_compared_executes_something_else() {
    harms_only(Mutant::CommitWhatDiffers, |config| {
        let mut node = node(config, 0, 3, &[1, 2]);
        node.receive(r(1), heartbeat(3, at(1, 1), 2));
        node.executed().contains(&String::from("of term 2"))
    });
}

/// Leader Completeness. [Ongaro14 §5.3]
#[test]
fn a_follower_that_acknowledges_what_it_has_not_compared_counts_for_what_it_lacks() {
    harms_only(Mutant::AcknowledgeWhatDiffers, |config| {
        let mut node = node(config, 0, 3, &[1, 2]);
        node.answer(r(1), heartbeat(3, at(1, 1), 0)) == [accepted(3, 2)]
    });
}

/// Leader Completeness: the next leader may have other entries there. [Ongaro14 §5.3]
#[test]
fn what_was_in_common_with_one_leader_is_not_with_the_next() {
    harms_only(Mutant::AgreementOutlivesTerm, |config| {
        let mut node = node(config, 0, 1, &[]);
        node.receive(r(1), append(1, at(0, 0), &[1, 1, 1], 0));
        node.answer(r(2), heartbeat(2, at(1, 1), 0)) == [accepted(2, 3)]
    });
}

/// A peer whose log is longer, or who errs, acknowledges what there is not.
#[test]
fn an_acknowledgement_beyond_the_log_that_counts_breaks_an_invariant() {
    harms_only(Mutant::AcknowledgedBeyondLog, |config| {
        let mut leader = leader(config, 1);
        leader.checks = false;
        leader.receive(r(1), accepted(1, 9));
        leader.protocol.check().is_err()
    });
}

/// Log Matching: a leader of an earlier term does not have what the snapshot holds. [Ongaro14 §7]
#[test]
fn who_installs_a_snapshot_and_stays_in_its_term_agrees_with_a_leader_that_lacks_it() {
    harms_only(Mutant::SnapshotTermNotEntered, |config| {
        let mut node = node(config, 0, 2, &[1]);
        node.checks = false;
        node.turn(Input::Installed(fetched(2, 5, 5)));
        node.answer(r(1), append(2, at(1, 1), &[2], 0)) == [accepted(2, 2)]
    });
}

/// Log Matching. [Ongaro14 §7]
#[test]
fn entries_that_do_not_go_on_from_an_installed_snapshot_are_not_kept() {
    harms_only(Mutant::LogKeptBehindSnapshot, |config| {
        let mut node = node(config, 0, 3, &[1, 1, 2, 2]);
        node.turn(Input::Installed(fetched(2, 2, 3)));
        node.log_terms() == [2, 2]
    });
}

/// Log Matching: the snapshot is saved, and the crash comes before the log is written anew.
#[test]
fn a_log_that_does_not_go_on_from_the_saved_snapshot_does_not_come_back() {
    harms_only(Mutant::OldLogRecovered, |config| {
        let past = Recovered {
            records: records(3, &[1, 1, 2, 2]),
            snapshot: Some(fetched(3, 3, 3)),
        };
        let node = Node::recover(context(r(0), 3, 0), config.clone(), past).unwrap();
        assert_eq!(node.committed(), 3);
        node.log_terms() == [1, 1, 2, 2]
    });
}

/// A wait without end: with slow disks each campaign is given up for the next. [Ongaro14 §5.2]
#[test]
fn a_candidate_that_does_not_wait_for_its_own_disk_gives_up_each_term() {
    harms_only(Mutant::CampaignWhileVoting, |config| {
        let mut node = node(config, 0, 1, &[]);
        node.syncs = false;
        node.wait_for_campaign();
        for _ in 0..20 {
            node.fire(Timer::Election);
            node.agree_to_campaign();
        }
        node.term() > 2
    });
}

/// A healthy leader is deposed. [OngaroThesis §9.6]
#[test]
fn who_campaigns_unasked_deposes_a_healthy_leader_when_it_comes_back() {
    harms_only(Mutant::CampaignUnasked, |config| {
        let mut cluster = Cluster::led_by_0(3, config);
        cluster.isolate(2);
        cluster.node(2).pass(config.election_timeout * 9);
        cluster.node(2).take();
        cluster.heal();
        cluster.beat(0);
        cluster.node(0).role() != Role::Leader
    });
}

/// The same. [OngaroThesis §9.6]
#[test]
fn who_hears_a_leader_and_helps_another_deposes_it() {
    harms_only(Mutant::PreVoteWithoutLoyalty, |config| {
        let mut node = node(config, 0, 1, &[]);
        node.receive(r(1), heartbeat(1, at(0, 0), 0));
        node.answer(r(2), pre_vote(2, at(0, 0))) == [pre_vote_reply(1, 2, true)]
    });
}

/// A wait without end: nobody else may win.
#[test]
fn who_ignores_the_term_of_a_refusal_asks_for_terms_that_are_over() {
    harms_only(Mutant::TermOfRefusalIgnored, |config| {
        let mut node = node(config, 0, 1, &[1, 1]);
        node.fire(Timer::Election);
        node.receive(r(1), pre_vote_reply(9, 2, false));
        node.take();
        node.fire(Timer::Election);
        node.sent_to(r(1)) == [pre_vote_hearing(2, at(2, 1), &[1])]
    });
}

/// A wait without end: those who hear it follow it. [OngaroThesis §6.2]
#[test]
fn a_leader_that_nobody_answers_leads_on() {
    harms_only(Mutant::LeadUnheard, |config| {
        let mut leader = leader(config, 1);
        for _ in 0..100 {
            if leader.role() == Role::Leader {
                leader.fire(Timer::Heartbeat);
            }
        }
        leader.role() == Role::Leader
    });
}

/// Growth without bound.
#[test]
fn a_leader_whose_disk_hangs_leads_on() {
    harms_only(Mutant::LeadWithoutDisk, |config| {
        let mut leader = leader(config, 1);
        leader.syncs = false;
        leader.propose("x");
        for peer in [1, 2] {
            leader.receive(r(peer), accepted(1, 2));
        }
        for _ in 0..100 {
            if leader.role() == Role::Leader {
                leader.fire(Timer::Heartbeat);
                leader.receive(r(1), echo(1, 1));
            }
        }
        leader.role() == Role::Leader
    });
}

/// A wait without end: a replica that fetches one snapshot after the other.
#[test]
fn a_peer_that_fetches_a_snapshot_needs_another_if_its_leader_compacts_past_it() {
    harms_only(Mutant::CompactPastFetches, |config| {
        let config = Config {
            retained_entries: 2,
            ..config.clone()
        };
        let mut cluster = Cluster::led_by_0(3, &config);
        cluster.isolate(1);
        (0..9).for_each(|_| cluster.propose(0, "x"));
        cluster.node(0).take_snapshot();
        cluster.heal();
        cluster.beat(0);
        cluster.beat(0);
        assert!(cluster.node(1).fetch.is_some());
        let on_its_way = cluster.node(0).offered().unwrap();
        (0..9).for_each(|_| cluster.propose(0, "y"));
        cluster.node(0).take_snapshot();
        cluster.node(1).install(on_its_way);
        cluster.deliver();
        cluster.beat(0);
        cluster.beat(0);
        cluster.node(1).fetch.is_some()
    });
}

/// A wait without end: the leader's first message with entries is its last.
#[test]
fn who_is_content_with_a_leader_that_does_not_hear_it_asks_nobody() {
    harms_only(Mutant::FollowUnheard, |config| {
        let mut node = node(config, 0, 1, &[1]);
        for _ in 0..60 {
            node.receive(
                r(1),
                Message::AppendEntries(AppendEntries {
                    term: Term(1),
                    previous: at(1, 1),
                    entries: Vec::new(),
                    commit: Slot(1),
                    round: 0,
                    known: None,
                    heard: false,
                }),
            );
            node.pass(config.heartbeat);
        }
        node.sent_to(r(2)).is_empty()
    });
}

/// Growth, and a wait without end: copies come faster than they can be sent.
#[test]
fn what_is_appended_again_while_it_is_under_way_fills_the_log() {
    harms_only(Mutant::AppendedWhileUnderWay, |config| {
        let mut leader = leader(config, 1);
        for _ in 0..5 {
            leader.propose("x");
        }
        leader.log_terms().len() > 2
    });
}

/// Growth, and a wait without end: whoever hears late of what it asked for fills the log.
#[test]
fn what_is_committed_is_appended_again_for_who_has_not_heard_of_it() {
    harms_only(Mutant::DecidedForgotten, |config| {
        let mut leader = leader(config, 1);
        let asks = |seen| {
            let (seen, batch) = (Slot(seen), command("x"));
            Message::Forward { seen, batch }
        };
        leader.receive(r(1), asks(0));
        leader.receive(r(2), accepted(1, 2));
        assert_eq!(leader.committed(), 2);
        leader.receive(r(1), asks(1));
        let grown = leader.log_terms().len() > 2;
        leader.receive(r(1), asks(2));
        assert!(leader.log_terms().len() > 2, "it was in vain");
        grown
    });
}

/// A wait without end: two reads take turns, each sooner than the other's answer.
#[test]
fn a_read_that_gives_its_place_to_the_next_is_never_answered() {
    harms_only(Mutant::ReadGivesWayToNext, |config| {
        let config = Config {
            max_pending_reads: 1,
            ..config.clone()
        };
        let mut node = node(&config, 0, 1, &[1]);
        node.receive(r(1), heartbeat(1, at(1, 1), 1));
        node.take();
        for _ in 0..9 {
            let mut asked = Vec::new();
            for id in [1, 2] {
                node.read(id);
                asked.extend(node.sent_to(r(1)));
            }
            // The answer to the first comes when the second has its place.
            let Some(Message::ReadIndex { ticket }) = asked.first() else {
                break;
            };
            let (ticket, index) = (*ticket, Slot(1));
            node.receive(r(1), Message::ReadIndexReply { ticket, index });
        }
        node.answered().is_empty()
    });
}
