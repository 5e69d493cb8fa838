//! Rules of Multi-Paxos without which somebody waits for ever, switched off.

mod common;
mod scenarios;

use bytes::Bytes;
use common::{
    Cluster, Node, PaxosCluster, PaxosNode, accept, b, command, echo, heartbeat, prepare, promise,
    r, records, rejected, snapshot,
};
use quorate_core::id::Slot;
use quorate_core::protocol::{Input, ReadId, Role};
use quorate_multipaxos::{Ballot, Config, Message, Mutant, Timer};
use scenarios::{candidate, harms_only, node};

/// The two others could choose, and are kept from it. [OngaroThesis §9.6]
#[test]
fn one_whose_disk_hangs_ends_the_campaigns_of_others() {
    harms_only(Mutant::ElectWithoutDisk, |config| {
        let mut node = node(config, 0, Ballot::ZERO, &[]);
        node.syncs = false;
        node.wait_for_campaign();
        assert_eq!(node.ballot(), b(1, 0));
        node.receive(r(1), prepare(b(2, 1), 1));
        node.answer(r(2), prepare(b(1, 2), 1)) == [rejected(b(1, 2), b(2, 1))]
    });
}

/// What it has compacted the two others lack, and it gives its snapshot to nobody; they hold the value.
#[test]
fn a_leader_that_is_ahead_alone_leaves_the_others_behind() {
    harms_only(Mutant::LeadAheadAlone, |config| {
        let mut leader = node(config, 0, b(1, 0), &[]);
        leader.turn(Input::Installed(snapshot(3, Bytes::new())));
        leader.wait_for_campaign();
        leader.receive(r(1), promise(b(2, 0), &[]));
        assert_eq!(leader.role(), Role::Leader);
        for round in 1..100 {
            for peer in [1, 2] {
                leader.receive(r(peer), echo(b(2, 0), &[], round, 2));
            }
            leader.pass(config.heartbeat);
        }
        leader.role() == Role::Leader
    });
}

/// It leads on as long as one of them can follow, or gets nearer, or they could not elect another.
#[test]
fn a_leader_leads_on_where_another_can_follow() {
    let follow = |executed: fn(u64) -> u64, peers: &[u8]| {
        let config = Config::default();
        let mut leader = node(&config, 0, b(1, 0), &[]);
        leader.turn(Input::Installed(snapshot(300, Bytes::new())));
        leader.wait_for_campaign();
        leader.receive(r(1), promise(b(2, 0), &[]));
        for round in 1..100 {
            for peer in peers {
                let executed = executed(round * u64::from(*peer));
                leader.receive(r(*peer), echo(b(2, 0), &[], round, executed));
            }
            leader.pass(config.heartbeat);
        }
        leader.role() == Role::Leader
    };
    assert!(!follow(|_| 299, &[1, 2]));
    assert!(follow(|_| 300, &[1, 2]));
    assert!(follow(|_| 299, &[1]), "alone it could not lead");
    assert!(follow(|steps| steps, &[1, 2]), "they are fetching");
}

/// Asked for again by its driver, sooner than it can be chosen.
#[test]
fn what_is_proposed_again_while_it_is_under_way_fills_the_window() {
    harms_only(Mutant::ProposedWhileUnderWay, |config| {
        let config = Config {
            max_window: 4,
            ..config.clone()
        };
        let mut cluster = Cluster::led_by_0(3, &config);
        cluster.isolate(0);
        for _ in 0..4 {
            cluster.node(0).propose("x");
        }
        cluster.node(0).propose("y");
        !cluster
            .node(0)
            .proposed(r(1))
            .contains(&(2, String::from("y")))
    });
}

/// That one other has executed as much helps the rest only if it gives its snapshot.
#[test]
fn a_leader_makes_way_for_a_majority_that_cannot_follow() {
    let leads_on = |executed: [u64; 4]| {
        let mut leader = Node::with(0, 5, &Config::default(), records(b(1, 0), &[]));
        leader.checks = false;
        leader.turn(Input::Installed(snapshot(300, Bytes::new())));
        leader.wait_for_campaign();
        leader.receive(r(1), promise(b(2, 0), &[]));
        leader.receive(r(2), promise(b(2, 0), &[]));
        for round in 1..100 {
            for (peer, executed) in (1..).zip(executed) {
                leader.receive(r(peer), echo(b(2, 0), &[], round, executed));
            }
            leader.pass(Config::default().heartbeat);
        }
        leader.role() == Role::Leader
    };
    assert!(!leads_on([299, 299, 0, 300]));
    assert!(leads_on([299, 300, 0, 300]), "two could elect nobody");
}

/// Growth, and a wait without end: whoever hears late of what it asked for fills the log.
#[test]
fn what_is_chosen_is_proposed_again_for_who_has_not_heard_of_it() {
    harms_only(Mutant::DecidedForgotten, |config| {
        let mut cluster = Cluster::led_by_0(3, config);
        cluster.node(1).propose("x");
        cluster.deliver();
        let asks = |seen| {
            let (seen, batch) = (Slot(seen), command("x"));
            Message::Forward { seen, batch }
        };
        let (chosen, length) = (
            cluster.node(0).committed(),
            cluster.node(0).durable_log().len(),
        );
        cluster.node(0).receive(r(1), asks(chosen - 1));
        let grown = cluster.node(0).durable_log().len() > length;
        cluster.node(0).receive(r(1), asks(chosen));
        assert!(
            cluster.node(0).durable_log().len() > length,
            "it was in vain"
        );
        grown
    });
}

/// A follower of replica 1 with room for one read.
fn reader(config: &Config) -> Node {
    let config = Config {
        max_pending_reads: 1,
        ..config.clone()
    };
    let mut node = node(&config, 0, b(1, 1), &[]);
    node.receive(r(1), heartbeat(b(1, 1), 0, 1));
    node.take();
    node
}

fn answer_all(node: &mut Node, accepted: u64) {
    for message in node.sent_to(r(1)) {
        if let Message::ReadQuery { ticket } = message {
            let accepted = Slot(accepted);
            node.receive(r(1), Message::ReadQueryReply { ticket, accepted });
        }
    }
}

/// Replica 0 of three, elected in ballot 5.
fn leader(config: &Config) -> Node {
    let mut node = candidate(config, 5, &[]);
    node.receive(r(1), promise(b(5, 0), &[]));
    assert_eq!(node.role(), Role::Leader);
    node
}

/// Whether the replica grants a campaign of replica 2.
fn grants(node: &mut Node) -> bool {
    let question = Message::PreVote {
        ticket: 7,
        executed: Slot::ZERO,
        instead_of: None,
    };
    node.answer(r(2), question) == [Message::PreVoteGranted { ticket: 7 }]
}

/// A healthy leader is deposed. [OngaroThesis §9.6]
#[test]
fn whoever_hears_a_leader_and_grants_a_campaign_deposes_it() {
    harms_only(Mutant::GrantWhileLed, |config| {
        let mut node = node(config, 0, Ballot::ZERO, &[]);
        node.receive(r(1), heartbeat(b(1, 1), 0, 1));
        grants(&mut node)
    });
}

/// The same: it may have heard a leader just before. [OngaroThesis §9.6]
#[test]
fn whoever_restarts_and_grants_a_campaign_deposes_a_leader_that_it_heard() {
    harms_only(Mutant::GrantAfterRestart, |config| {
        grants(&mut node(config, 0, b(1, 1), &[]))
    });
}

/// The same: others may hear a leader by now. [OngaroThesis §9.6]
#[test]
fn the_answer_to_an_earlier_question_grants_nothing() {
    harms_only(Mutant::GrantOfEarlierQuestion, |config| {
        let mut node = node(config, 0, b(1, 1), &[]);
        let mut tickets = Vec::new();
        while tickets.is_empty() {
            node.fire(Timer::Election);
            tickets.extend(node.sent_to(r(1)).into_iter().map(|asked| match asked {
                Message::PreVote { ticket, .. } => ticket,
                other => panic!("{other:?}"),
            }));
        }
        let ticket = tickets[0].wrapping_sub(1);
        node.receive(r(1), Message::PreVoteGranted { ticket });
        node.role() == Role::Candidate
    });
}

/// It may hear nobody but the leader.
#[test]
fn a_leader_that_hands_over_unasked_leaves_a_cluster_to_one_that_cannot_be_elected() {
    harms_only(Mutant::HandOverUnasked, |config| {
        let config = Config {
            preferred: Some(r(1)),
            ..config.clone()
        };
        let mut leader = leader(&config);
        for round in 1..90 {
            leader.receive(r(1), echo(b(5, 0), &[], round, 0));
            leader.pass(config.heartbeat);
        }
        leader.role() != Role::Leader
    });
}

/// A late message deposes a healthy leader.
#[test]
fn who_is_handed_over_to_by_a_leader_of_old_deposes_the_present_one() {
    harms_only(Mutant::HandedOverByAnyLeader, |config| {
        let mut node = node(config, 0, Ballot::ZERO, &[]);
        node.receive(r(1), heartbeat(b(5, 1), 0, 1));
        node.receive(r(2), Message::HandOver { ballot: b(3, 2) });
        node.role() == Role::Candidate
    });
}

/// The same. [vanRenesse15 §2]
#[test]
fn a_rejection_of_an_earlier_ballot_deposes_a_healthy_leader() {
    harms_only(Mutant::StaleRejectionCounted, |config| {
        let mut leader = leader(config);
        leader.receive(r(1), rejected(b(3, 0), b(4, 1)));
        leader.role() != Role::Leader
    });
}

/// Those who hear it follow it. [Chandra07 §5.2]
#[test]
fn a_leader_that_nobody_answers_leads_on() {
    harms_only(Mutant::LeadUnheard, |config| {
        let mut leader = leader(config);
        leader.pass(config.election_timeout * 20);
        leader.role() == Role::Leader
    });
}

/// Growth without bound.
#[test]
fn a_leader_without_a_quorum_takes_requests_without_end() {
    harms_only(Mutant::UnchosenWithoutBound, |config| {
        let config = Config {
            max_unchosen_bytes: 1,
            ..config.clone()
        };
        let mut leader = leader(&config);
        for text in ["a", "b", "c", "d"] {
            leader.propose(text);
        }
        leader.proposed(r(1)).len() > 1
    });
}

/// The same, and of what one message says.
#[test]
fn an_acceptor_without_a_window_holds_what_is_far_away() {
    harms_only(Mutant::WindowWithoutBound, |config| {
        let config = Config {
            max_window: 4,
            ..config.clone()
        };
        let mut node = node(&config, 0, Ballot::ZERO, &[]);
        node.receive(r(1), accept(b(1, 1), &[(4, "x"), (5, "y")], 0));
        node.durable_log().len() > 1
    });
}

/// Whether replica 1, which has fetched a snapshot while the others went on, needs another.
fn fetches_again(config: &Config) -> bool {
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
    cluster.isolate(1);
    (0..9).for_each(|_| cluster.propose(0, "y"));
    cluster.node(0).take_snapshot();
    cluster.heal();
    cluster.node(1).install(on_its_way);
    cluster.node(1).take();
    cluster.beat(0);
    cluster.beat(0);
    cluster.node(1).fetch.is_some()
}

/// It fetches one snapshot after the other. [Chandra07 §5.5]
#[test]
fn a_peer_that_fetches_a_snapshot_needs_another_if_its_leader_compacts_past_it() {
    harms_only(Mutant::CompactPastFetches, fetches_again);
}

/// Growth without bound: one that never comes to its snapshot holds back the compaction of all others.
#[test]
fn what_is_kept_for_a_peer_that_fetches_is_bounded() {
    harms_only(Mutant::HeldWithoutBound, |config| {
        let config = Config {
            max_held_bytes: 200,
            ..config.clone()
        };
        !fetches_again(&config)
    });
}

/// Two reads take turns, each sooner than the other's answer.
#[test]
fn a_read_that_gives_its_place_to_the_next_is_never_answered() {
    harms_only(Mutant::ReadGivesWayToNext, |config| {
        let mut node = reader(config);
        for _ in 0..9 {
            let mut late = Vec::new();
            for id in [1, 2] {
                node.read(id);
                late.extend(node.sent_to(r(1)));
            }
            // The answers to the first come when the second has its place.
            for message in late.drain(..1) {
                if let Message::ReadQuery { ticket } = message {
                    let accepted = Slot::ZERO;
                    node.receive(r(1), Message::ReadQueryReply { ticket, accepted });
                }
            }
        }
        node.answered().is_empty()
    });
}

/// Writes move on what it waits for. \[Charapko19\]
#[test]
fn a_read_that_begins_anew_each_time_is_never_answered() {
    harms_only(Mutant::ReadAskedAnew, |config| {
        let mut node = reader(config);
        for slot in 1..9 {
            node.read(1);
            answer_all(&mut node, slot);
            node.receive(r(1), accept(b(1, 1), &[(slot, "w")], slot - 1));
        }
        !node.answered().contains(&ReadId(1))
    });
}
