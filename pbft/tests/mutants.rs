//! Each rule of PBFT switched off, and the harm that follows: the tests would notice.

mod common;

use common::{
    Cluster, Node, PbftCluster, PbftNode, checkpoint_certificate, cluster, command, commit, config,
    context, digest_of, digest_voted, entry, kinds, new_view, pre_prepare, prepare,
    prepare_signature, prepared, prepared_with, proposal, proposal_by, r, state_of, view_change,
};
use quorate_core::crypto::{Digest, Domain, Unchecked, Verifier};
use quorate_core::frontier::Frontier;
use quorate_core::id::Slot;
use quorate_core::protocol::{Context, Input, Protocol, Recovered, Role, SnapshotRef, Verified};
use quorate_pbft::{Config, Message, Mutant, Record, Timer, View, ViewChange};

/// With every rule, and without one: what `scenario` says of harm done.
fn harms_only(mutant: Mutant, scenario: impl Fn(&Config) -> bool) {
    let mut config = config();
    assert!(!scenario(&config), "harm without {mutant:?}");
    config.mutant = Some(mutant);
    assert!(scenario(&config), "no harm from {mutant:?}");
}

/// The same for a rule of verification, which no configuration names.
fn harms_only_unchecked(rule: Unchecked, scenario: impl Fn(&Verifier) -> bool) {
    let verifier = context(r(0), 4, 0).verifier;
    assert!(!scenario(&verifier), "harm without {rule:?}");
    assert!(scenario(&verifier.without(rule)), "no harm from {rule:?}");
}

/// Replica 3 of four, the primary of view 3, which verifies so; and what it makes of view changes.
fn made_of(verifier: &Verifier, changes: Vec<ViewChange>) -> Vec<(u64, Digest)> {
    let context = Context {
        verifier: verifier.clone(),
        ..context(r(3), 4, 3)
    };
    let mut primary = Node::recover(context, config(), Recovered::nothing()).unwrap();
    for change in changes {
        let (from, message) = (change.from, Message::ViewChange(change));
        if let Ok(change) = Verified::new(from, message, verifier) {
            primary.turn(Input::Message(change));
        }
    }
    made(&mut primary)
}

/// A command that one replica has executed, and the next view then.
fn slot_1_differs_after_a_view_change(config: &Config) -> bool {
    let mut cluster = cluster(4, config);
    for id in [1, 2, 3] {
        cluster.node(id).receive(r(0), pre_prepare(0, 1, "x"));
    }
    cluster.lost.insert("commit");
    cluster.isolate(0);
    cluster.deliver();
    for from in [0, 1, 2] {
        cluster.node(3).receive(r(from), commit(0, 1, "x"));
    }
    assert_eq!(cluster.node(3).executed(), ["x"]);
    cluster.lost.clear();
    cluster.change_view(&[1, 2, 3], "y");
    cluster.node(1).executed().first().map(String::as_str) != Some("x")
}

/// Agreement across views. [Castro99 §4.5.1]
#[test]
fn without_prepared_certificates_a_view_change_loses_what_was_executed() {
    harms_only(
        Mutant::PreparedDroppedInViewChange,
        slot_1_differs_after_a_view_change,
    );
}

fn made(primary: &mut Node) -> Vec<(u64, Digest)> {
    let made = primary
        .sent_to(r(0))
        .into_iter()
        .find_map(|message| match message {
            Message::NewView(new_view) => Some(new_view),
            _ => None,
        });
    let made = made.expect("a new view");
    made.proposals
        .iter()
        .map(|p| (p.slot.0, p.digest))
        .collect()
}

/// What may be committed is what prepared last. [Castro99 §4.4]
#[test]
fn an_older_certificate_that_masks_a_newer_one_undoes_what_may_be_committed() {
    harms_only(Mutant::OlderCertificateMasksNewer, |config| {
        let mut primary = Node::of_four(3, config);
        let shows = [
            (0, vec![prepared(1, 1, "new", &[0, 2])]),
            (1, vec![prepared(0, 1, "old", &[1, 2])]),
            (2, vec![]),
        ];
        for (from, certificates) in shows {
            let change = view_change(from, 3, certificates);
            primary.receive(r(from), Message::ViewChange(change));
        }
        made(&mut primary) != [(1, digest_of(1, "new"))]
    });
}

/// "Valid view-change messages": a new view is made of certificates that have been checked, and one
/// that is none masks no good one. Replica 1, the primary of view 1, has made one up. [Castro99 §4.4]
#[test]
fn a_certificate_that_is_not_checked_masks_what_may_be_committed() {
    harms_only_unchecked(Unchecked::Domain(Domain("pbft/prepare")), |verifier| {
        let digest = digest_of(1, "made up");
        let forged = |author| (r(author), prepare_signature(1, 1, 1, &digest));
        let forged = prepared_with(proposal(1, 1, digest), vec![forged(0), forged(2)]);
        let changes = vec![
            view_change(1, 3, vec![forged]),
            view_change(2, 3, vec![prepared(0, 1, "x", &[1, 2])]),
            view_change(0, 3, vec![]),
        ];
        made_of(verifier, changes) != [(1, digest_of(1, "x"))]
    });
}

/// What is signed is believed of its signer only: else one replica is a quorum. [Castro99 §4.2]
#[test]
fn signatures_not_bound_to_their_signers_let_one_replica_prepare_alone() {
    harms_only_unchecked(Unchecked::Signer, |verifier| {
        let digest = digest_of(1, "alone");
        let all_mine = |author| (r(author), prepare_signature(2, 0, 1, &digest));
        let proposal = proposal_by(2, 0, 1, digest);
        let forged = prepared_with(proposal, vec![all_mine(1), all_mine(3)]);
        let changes = vec![
            view_change(2, 3, vec![forged]),
            view_change(0, 3, vec![]),
            view_change(1, 3, vec![]),
        ];
        made_of(verifier, changes) == [(1, digest)]
    });
}

/// min-s is the latest stable checkpoint shown. [Castro99 §4.4]
#[test]
fn a_low_watermark_from_the_wrong_checkpoint_refills_slots_that_are_gone() {
    harms_only(Mutant::LowWatermarkFromLowestCheckpoint, |config| {
        let mut primary = Node::of_four(3, config);
        let digest = Digest::of(b"state");
        let stable = common::checkpoint_certificate(4, digest, &[0, 1, 2]);
        let above = vec![prepared(0, 5, "e", &[1, 2])];
        let knows = ViewChange::signed(&common::signer(0), (View(3), r(0)), Some(stable), above);
        primary.receive(r(0), Message::ViewChange(knows));
        for from in [1, 2] {
            primary.receive(r(from), Message::ViewChange(view_change(from, 3, vec![])));
        }
        // Null requests where others have executed commands.
        made(&mut primary).iter().any(|(slot, _)| *slot <= 4)
    });
}

/// Messages above the high watermark are not lost for ever. [Castro99 §4.3]
#[test]
fn an_early_message_dropped_for_ever_leaves_a_replica_behind() {
    harms_only(Mutant::EarlyMessagesDropped, |config| {
        let mut node = Node::of_four(3, config);
        node.receive(r(1), pre_prepare(1, 1, "x"));
        let changes = (0..3).map(|from| view_change(from, 1, vec![])).collect();
        let begin = Message::NewView(Box::new(new_view(1, changes, &[])));
        let sent = node.answer_to(r(1), begin, r(2));
        digest_voted(&sent, 1).is_none()
    });
}

/// Each backup computes O for itself. [Castro99 §4.4]
#[test]
fn a_new_view_taken_at_its_primarys_word_replaces_what_may_be_committed() {
    harms_only(Mutant::NewViewNotRecomputed, |config| {
        let mut node = Node::of_four(2, config);
        node.receive(r(0), pre_prepare(0, 1, "x"));
        node.receive(r(1), prepare(1, 0, 1, "x"));
        let changes = vec![
            view_change(0, 1, vec![prepared(0, 1, "x", &[1, 2])]),
            view_change(1, 1, vec![]),
            view_change(3, 1, vec![]),
        ];
        let lie = new_view(1, changes, &[digest_of(1, "y")]);
        node.receive(r(1), Message::NewView(Box::new(lie)));
        let slot = Slot(1);
        let entry = entry(1, "y");
        let sent = node.answer_to(r(1), Message::Body { slot, entry }, r(3));
        digest_voted(&sent, 1) == Some(digest_of(1, "y"))
    });
}

/// A batch under way keeps its slot.
#[test]
fn a_batch_ordered_again_while_it_is_under_way_takes_two_slots() {
    harms_only(Mutant::InFlightOrderedAgain, |config| {
        let mut cluster = cluster(4, config);
        cluster.node(0).propose("x");
        cluster.node(0).propose("x");
        cluster.deliver();
        cluster.node(1).executed() == ["x", "x"]
    });
}

/// What is decided keeps its slot, also if someone tells the primary of it again.
#[test]
fn a_decided_batch_ordered_again_takes_two_slots() {
    harms_only(Mutant::DecidedOrderedAgain, |config| {
        let mut cluster = cluster(4, config);
        cluster.propose(0, "x");
        assert_eq!(cluster.node(1).executed(), ["x"]);
        let again = Message::Forward {
            batch: command("x"),
            relayed: true,
        };
        cluster.node(0).receive(r(2), again);
        cluster.deliver();
        cluster.node(1).executed() == ["x", "x"]
    });
}

/// committed-local comes after prepared. [Castro99 §4.2]
#[test]
fn a_reply_at_prepared_is_taken_back_by_the_next_view() {
    harms_only(Mutant::ExecutedAtPrepared, |config| {
        let mut cluster = cluster(4, config);
        // Only replica 3 prepares, and is cut off before it can tell.
        for id in [1, 2, 3] {
            cluster.node(id).receive(r(0), pre_prepare(0, 1, "x"));
        }
        for from in [1, 2] {
            cluster.node(3).receive(r(from), prepare(from, 0, 1, "x"));
        }
        let replied = cluster.node(3).executed() == ["x"];
        for node in &mut cluster.nodes {
            node.take();
        }
        cluster.isolate(3);
        cluster.change_view(&[1, 2], "y");
        replied && cluster.node(1).executed() == ["y"]
    });
}

/// Two quorums have a correct replica in common. [Castro99 §4.2]
#[test]
fn a_quorum_of_f_plus_1_lets_two_batches_commit_in_a_slot() {
    harms_only(Mutant::WeakQuorum, |config| {
        let mut cluster = cluster(4, config);
        // Replica 0 lies: x to one half, y to the other.
        for (id, text) in [(1, "x"), (2, "y")] {
            cluster.node(id).receive(r(0), pre_prepare(0, 1, text));
            cluster.node(id).receive(r(0), commit(0, 1, text));
        }
        cluster.isolate(0);
        cluster.isolate(3);
        cluster.deliver();
        cluster.node(1).executed() == ["x"] && cluster.node(2).executed() == ["y"]
    });
}

/// One digest for a view and slot, also after a restart. [Castro99 §4.2]
#[test]
fn a_replica_that_forgets_what_it_accepted_votes_twice() {
    harms_only(Mutant::AcceptedForgottenOnRestart, |config| {
        let mut node = Node::of_four(1, config);
        node.receive(r(0), pre_prepare(0, 1, "x"));
        let mut node = node.crash(config);
        let sent = node.answer_to(r(0), pre_prepare(0, 1, "y"), r(2));
        digest_voted(&sent, 1) == Some(digest_of(1, "y"))
    });
}

/// A replica that has left a view does not come back to it. [Castro99 §4.4]
#[test]
fn a_replica_that_forgets_its_view_prepares_in_one_that_it_has_left() {
    harms_only(Mutant::ViewForgottenOnRestart, |config| {
        let mut node = Node::of_four(2, config);
        node.propose("z");
        node.wait_for_view_change();
        assert!(node.durable.iter().any(|r| matches!(r, Record::View(_))));
        let mut node = node.crash(config);
        let sent = node.answer_to(r(0), pre_prepare(0, 1, "x"), r(1));
        digest_voted(&sent, 1).is_some()
    });
}

/// Only one digest can prepare in a view and slot. [Castro99 §4.2]
#[test]
fn a_replica_that_accepts_a_second_digest_lets_both_prepare() {
    harms_only(Mutant::SecondDigestAccepted, |config| {
        let mut node = Node::of_four(1, config);
        let first = node.answer_to(r(0), pre_prepare(0, 1, "x"), r(2));
        let second = node.answer_to(r(0), pre_prepare(0, 1, "y"), r(2));
        digest_voted(&first, 1).is_some() && digest_voted(&second, 1).is_some()
    });
}

/// f replicas cannot start view changes, whatever they replay. [Castro99 §4.5.2]
#[test]
fn replayed_view_changes_that_count_keep_a_replica_out_of_its_view() {
    harms_only(Mutant::StaleViewChangesCounted, |config| {
        let mut node = Node::of_four(3, config);
        let changes: Vec<_> = (0..3).map(|from| view_change(from, 1, vec![])).collect();
        let begin = new_view(1, changes.clone(), &[]);
        node.receive(r(1), Message::NewView(Box::new(begin)));
        for change in &changes {
            node.receive(change.from, Message::ViewChange(change.clone()));
        }
        node.role() != Role::Follower
    });
}

/// Backups check the time that a primary gives. [Castro99 §4.6]
#[test]
fn a_time_that_is_not_checked_may_be_any_liars() {
    harms_only(Mutant::TimeNotChecked, |config| {
        let mut node = Node::of_four(1, config);
        let mut lie = entry(1, "x");
        lie.moment.time = lie.moment.time + config.max_clock_skew * 2;
        let lie = Message::PrePrepare {
            proposal: proposal(0, 1, lie.digest()),
            entry: lie,
        };
        let sent = node.answer_to(r(0), lie, r(2));
        digest_voted(&sent, 1).is_some()
    });
}

/// A new view must do something new before the next may come as soon as the first. [Castro99 §4.5.2]
#[test]
fn a_back_off_that_old_slots_end_lets_one_view_change_follow_the_other() {
    harms_only(Mutant::OldSlotsEndBackOff, |config| {
        let mut node = Node::of_four(3, config);
        node.receive(r(0), pre_prepare(0, 1, "x"));
        node.propose("y");
        node.wait_for_view_change();
        let shows = |from| view_change(from, 1, vec![prepared(0, 1, "x", &[1, 2])]);
        let begin = new_view(1, (0..3).map(shows).collect(), &[digest_of(1, "x")]);
        node.receive(r(1), Message::NewView(Box::new(begin)));
        for from in [0, 1, 2] {
            node.receive(r(from), commit(1, 1, "x"));
        }
        node.wait_for_view_change() < config.request_timeout * 2
    });
}

/// Who was away and is back changes how long things take.
#[test]
fn a_wait_that_no_return_cuts_short_lasts_as_long_as_it_grew() {
    harms_only(Mutant::BackOffKept, |config| {
        let mut node = Node::of_four(3, config);
        for (view, from) in (8..=13).flat_map(|view| [(view, 0), (view, 1)]) {
            let change = view_change(from, view, vec![]);
            node.receive(r(from), Message::ViewChange(change));
        }
        let due = |node: &Node| node.timers.get(&Timer::NewView).copied();
        node.now = node.now + config.status_every * 17;
        let before = due(&node);
        let change = view_change(2, 13, vec![]);
        node.receive(r(2), Message::ViewChange(change));
        due(&node) == before
    });
}

/// Who has forgotten what it executed says how far it has come. [Castro99 §4.4]
#[test]
fn a_primary_that_does_not_ask_how_far_a_backup_has_come_is_deposed_by_a_replay() {
    harms_only(Mutant::TellerNotAsked, |config| {
        let mut cluster = cluster(4, config);
        cluster.lose(|_, to, message| {
            let pre_prepared = matches!(
                message,
                Message::Commit { .. } | Message::Decided(_) | Message::Checkpoint(_)
            );
            to == r(0) && (pre_prepared || matches!(message, Message::Stable(_)))
        });
        for text in ["x", "a", "b", "c"] {
            cluster.propose(0, text);
        }
        for id in [1, 2] {
            let batch = command("x");
            let relayed = false;
            cluster
                .node(id)
                .receive(r(3), Message::Forward { batch, relayed });
        }
        cluster.deliver();
        cluster.tick(1);
        for _ in 0..2 {
            for id in [1, 2] {
                if cluster.node(id).timers.contains_key(&Timer::Request) {
                    cluster.node(id).fire(Timer::Request);
                }
            }
            cluster.deliver();
        }
        cluster.node(1).view() > 0
    });
}

/// What a backup holds of a liar's is bounded in bytes, not in slots alone. [Castro99 §4.3]
#[test]
fn a_window_of_any_size_is_filled_by_a_liar() {
    harms_only(Mutant::WindowOfAnySize, |config| {
        let config = Config {
            max_window_bytes: command("1").size(),
            ..config.clone()
        };
        let mut backup = Node::of_four(1, &config);
        let votes = (1..=8).filter(|slot| {
            let sent = backup.answer_to(r(0), pre_prepare(0, *slot, &slot.to_string()), r(2));
            digest_voted(&sent, *slot).is_some()
        });
        votes.count() > 2
    });
}

/// One of the signers may be a liar, who never answers. [Castro02 §5.3]
#[test]
fn a_state_asked_of_one_signer_only_may_never_come() {
    harms_only(Mutant::OneSourceOfStates, |config| {
        let mut node = Node::of_four(3, config);
        let state = state_of(&["1", "2", "3", "4"]);
        let far = checkpoint_certificate(40, state, &[0, 1, 2]);
        let asked = |node: &mut Node| node.fetch.take().map(|fetch| fetch.from);
        node.receive(r(1), Message::Stable(far));
        let first = asked(&mut node);
        // A second, and each round one that is asked if the one before was given up.
        let others = (0..10).filter(|_| {
            node.fire(Timer::Status);
            asked(&mut node) != first
        });
        others.count() == 0
    });
}

/// A primary goes by its clock, not by what a wrong one had it write. [Castro99 §4.6]
#[test]
fn a_primary_that_keeps_the_time_of_its_log_is_refused_until_the_clocks_are_there() {
    harms_only(Mutant::TimeOfLogKept, |config| {
        let ahead = config.max_clock_skew * 2;
        let mut nodes: Vec<Node> = (0..4).map(|id| Node::of_four(id, config)).collect();
        nodes
            .iter_mut()
            .for_each(|node| node.now = node.now + ahead);
        let mut cluster = Cluster::of(nodes);
        cluster.propose(0, "x");
        (0..4).for_each(|id| cluster.restart(id, config));
        cluster.deliver();
        cluster.tick(3);
        cluster.propose(0, "y");
        cluster.node(1).executed() != ["x", "y"]
    });
}

/// A state is believed by its proof. [Castro99 §5.3]
#[test]
fn a_state_believed_without_a_proof_may_be_any_liars() {
    harms_only(Mutant::SnapshotWithoutCertificate, |config| {
        Node::of_four(1, config).protocol.accepts(&SnapshotRef {
            at: Frontier::single(Slot(4)),
            digest: Digest::of(b"a lie"),
            anchor: bytes::Bytes::new(),
        })
    });
}

#[test]
fn the_invariants_hold_in_every_replica_of_a_cluster_without_mutants() {
    let mut cluster = Cluster::new(7, &config());
    for text in ["a", "b", "c", "d", "e"] {
        cluster.propose(3, text);
    }
    cluster.change_view(&[4, 5, 6], "f");
    cluster.assert_invariants();
    assert!(!kinds(&cluster.node(0).sent_to(r(1))).contains(&"view_change"));
}
