//! Each rule of EPaxos switched off, and the harm that follows: the tests would notice.

mod common;
mod scripts;

use std::time::Duration;

use common::{Cluster, EPaxosCluster as _, EPaxosNode as _, Node, id, r, set, writes};
use quorate_core::id::EntryId;
use quorate_epaxos::{Ballot, Config, Decision, Message, Mutant, Phase, Value};

/// With every rule, and without one: what `scenario` says of harm done.
#[track_caller]
fn harms_only(mutant: Mutant, scenario: impl Fn(&Config) -> bool) {
    let mut config = Config::default();
    assert!(!scenario(&config), "harm without {mutant:?}");
    config.mutant = Some(mutant);
    assert!(scenario(&config), "no harm from {mutant:?}");
}

fn cluster(n: usize, config: &Config) -> Cluster {
    Cluster::quiet(n, config).checking(false)
}

/// Lets `at` recover an instance with the help of `among`, and says whether that contradicts what
/// others know decided.
fn recovery_contradicts(cluster: &mut Cluster, at: u8, id: EntryId, among: &[u8]) -> bool {
    for node in &mut cluster.nodes {
        node.sent.clear();
    }
    cluster.node(at).recover_instance(id);
    cluster.settle(among);
    assert!(cluster.all_decided(among, id), "the recovery ends");
    cluster.breach().is_some()
}

/// \[Sutra19\]
#[test]
fn one_variable_for_two_ballots_loses_what_is_committed() {
    harms_only(Mutant::SingleBallot, |config| {
        scripts::sutra(config).breach().is_some()
    });
}

/// r0's command, with a dependency on the slow path: committed at r0, accepted at r1.
fn slow_commit(config: &Config) -> Cluster {
    let mut cluster = cluster(3, config);
    cluster.submit(1, "other", "k");
    cluster.node(1).sent.clear();
    cluster.submit(0, "command", "k");
    cluster.pass(0, 1, "pre_accept");
    cluster.pass(1, 0, "pre_accept_ok");
    cluster.pass(0, 1, "accept");
    cluster.pass(1, 0, "accept_ok");
    assert!(cluster.node(0).decided(id(0, 1)).is_some());
    cluster
}

/// \[Ryabinin25\]
#[test]
fn dependencies_dropped_in_recovery_contradict_what_is_committed() {
    harms_only(Mutant::DependenciesDroppedInRecovery, |config| {
        let mut cluster = slow_commit(config);
        recovery_contradicts(&mut cluster, 2, id(0, 1), &[1, 2])
    });
}

/// r0 commits with r1's help, which then forgets.
#[test]
fn a_preaccept_answered_before_it_is_durable_lets_a_commit_be_forgotten() {
    harms_only(Mutant::PreAcceptNotDurable, |config| {
        let mut cluster = cluster(3, config);
        cluster.submit(0, "command", "k");
        cluster.pass(0, 1, "pre_accept");
        cluster.pass(1, 0, "pre_accept_ok");
        assert!(cluster.node(0).decided(id(0, 1)).is_some());
        cluster.restart(1, config);
        recovery_contradicts(&mut cluster, 2, id(0, 1), &[1, 2])
    });
}

/// r0 commits dependencies that only it has seen together.
#[test]
fn a_commit_before_a_quorum_has_accepted_it_cannot_be_recovered() {
    harms_only(Mutant::CommitBeforeAccept, |config| {
        let mut cluster = cluster(3, config);
        cluster.submit(1, "other", "k");
        cluster.node(1).sent.clear();
        cluster.submit(0, "command", "k");
        cluster.pass(0, 1, "pre_accept");
        cluster.pass(1, 0, "pre_accept_ok");
        recovery_contradicts(&mut cluster, 2, id(0, 1), &[1, 2])
    });
}

/// r0's command was preaccepted by r1 alone; r4's, which conflicts, was committed on the fast path
/// by r2, r3 and r4. \[Ryabinin25\]
#[test]
fn a_conflict_ignored_in_validate_leaves_two_commands_in_no_order() {
    harms_only(Mutant::ConflictsIgnoredInValidate, |config| {
        let mut cluster = cluster(5, config);
        cluster.submit(0, "one", "k");
        cluster.pass(0, 1, "pre_accept");
        cluster.submit(4, "two", "k");
        for to in [2, 3] {
            cluster.pass(4, to, "pre_accept");
            cluster.pass(to, 4, "pre_accept_ok");
        }
        assert!(cluster.node(4).decided(id(4, 1)).is_some());
        recovery_contradicts(&mut cluster, 1, id(0, 1), &[1, 2, 3])
    });
}

/// r0 and r1 suffice, both crash, and r2, r3 and r4 have never heard of it.
#[test]
fn a_fast_quorum_that_is_too_small_cannot_be_recovered() {
    harms_only(Mutant::FastQuorumTooSmall, |config| {
        let mut cluster = cluster(5, config);
        cluster.submit(0, "command", "k");
        cluster.pass(0, 1, "pre_accept");
        cluster.pass(1, 0, "pre_accept_ok");
        recovery_contradicts(&mut cluster, 2, id(0, 1), &[2, 3, 4])
    });
}

/// \[Ryabinin25\]
#[test]
fn the_fast_path_without_equal_answers_cannot_be_recovered() {
    harms_only(Mutant::EqualityNotRequired, |config| {
        let mut cluster = cluster(3, config);
        cluster.submit(1, "other", "k");
        cluster.node(1).sent.clear();
        cluster.submit(0, "command", "k");
        cluster.pass(0, 1, "pre_accept");
        cluster.pass(1, 0, "pre_accept_ok");
        recovery_contradicts(&mut cluster, 2, id(0, 1), &[1, 2])
    });
}

/// Two commands that depend on each other.
fn cycle() -> [Message; 2] {
    let commit = |lane: u8, other: u8| {
        let batch = quorate_simulator::harness::command(&format!("of {lane}"));
        Message::Commit(Decision {
            id: id(lane, 1),
            value: Value::Command(quorate_epaxos::Command::new(batch, &writes("k"))),
            dependencies: set(&[(other, 1)]),
        })
    };
    [commit(0, 1), commit(1, 0)]
}

/// Whether replicas 1 and 2 execute the cycle in different orders, having learnt of its members in
/// different orders.
fn orders_differ(config: &Config) -> bool {
    let orders = [(1, [1, 0]), (2, [0, 1])].map(|(me, learnt)| {
        let mut node = Node::fresh(me, 3, config);
        for member in learnt {
            node.receive(r(0), cycle()[member].clone());
        }
        node.order()
    });
    assert_eq!(orders.clone().map(|order| order.len()), [2, 2]);
    orders[0] != orders[1]
}

/// [Moraru13 §4.3.2]
#[test]
fn a_component_executed_with_a_member_missing_is_executed_in_another_order() {
    harms_only(Mutant::ComponentMemberMissing, orders_differ);
}

/// [Moraru13 §4.3.2]
#[test]
fn an_order_that_depends_on_the_replica_is_not_an_order() {
    harms_only(Mutant::OrderDependsOnReplica, orders_differ);
}

/// The only harm is that nothing happens any more. \[Ryabinin25\]
#[test]
fn recoveries_that_do_not_hear_of_each_other_wait_for_ever() {
    harms_only(Mutant::WaitingLeftOut, |config| {
        let mut cluster = scripts::mutual(config);
        scripts::only_send_again(&mut cluster, &[2, 3, 4], 100);
        !cluster.all_decided(&[2, 3, 4], id(0, 1))
    });
}

/// r0 commits on the fast path with the answers of all, executes, and crashes before it remembers; nobody has
/// heard of the commit. When it is back it does not know that it has not committed.
#[test]
fn a_coordinator_that_is_back_and_sure_contradicts_what_it_executed() {
    harms_only(Mutant::DoubtForgotten, |config| {
        let mut cluster = cluster(3, config);
        cluster.submit(0, "command", "k");
        cluster.node(0).syncs = false;
        for voter in [1, 2] {
            cluster.pass(0, voter, "pre_accept");
            cluster.pass(voter, 0, "pre_accept_ok");
        }
        assert_eq!(cluster.node(0).executed(), ["command"]);
        cluster.restart(0, config);
        assert_eq!(cluster.node(0).phase(id(0, 1)), Phase::PreAccepted);
        for node in &mut cluster.nodes {
            node.sent.clear();
        }
        cluster.node(2).recover_instance(id(0, 1));
        cluster.settle(&[0, 2]);
        cluster.pass_time(&[0, 1, 2], Duration::from_secs(5));
        let decided = cluster.node(2).decided(id(0, 1)).expect("a decision");
        decided.0.is_none()
    });
}

/// A value of ballot 1 is chosen by r1 and r2; r2 has joined ballot 1, and a late Accept of ballot
/// 0 comes.
#[test]
fn an_accept_of_a_lower_ballot_than_the_one_joined_undoes_a_recovery() {
    harms_only(Mutant::AcceptIgnoresBallot, |config| {
        let mut node = Node::fresh(2, 3, config);
        node.checks = false;
        let (id, ballot) = (
            id(0, 1),
            Ballot {
                round: 1,
                replica: r(1),
            },
        );
        node.receive(r(1), Message::Recover { id, ballot });
        let nop = |ballot| Message::Accept {
            id,
            ballot,
            value: Value::Nop,
            dependencies: set(&[]),
        };
        let answers = node.answer(r(0), nop(Ballot::ZERO));
        matches!(answers.as_slice(), [Message::AcceptOk { .. }])
    });
}

/// r0's command is preaccepted by r1, but nobody says so, and r0 crashes. It is back, and proposes
/// another.
#[test]
fn a_slot_used_again_after_a_restart_is_two_commands() {
    harms_only(Mutant::OwnSlotReused, |config| {
        let mut node = Node::fresh(0, 3, config);
        node.propose_with("one", writes("k"));
        let mut node = node.crash(config);
        node.propose_with("two", writes("k"));
        node.asked(1).contains(&id(0, 1))
    });
}

/// A coordinator that has asked about one command and made it durable.
fn experienced(me: u8, n: usize, config: &Config) -> Node {
    let mut node = Node::fresh(me, n, config);
    node.checks = false;
    node.propose_with("earlier", writes("another"));
    node.sent.clear();
    node.syncs = false;
    node
}

/// r0 asks about two commands, remembers neither, and skips one slot.
#[test]
fn two_commands_asked_about_before_they_are_durable_share_a_slot_with_a_third() {
    harms_only(Mutant::AskedBeyondOne, |config| {
        let mut node = experienced(0, 3, config);
        node.propose_with("one", writes("k"));
        node.propose_with("two", writes("k"));
        let asked = node.asked(1).contains(&id(0, 3));
        let mut node = node.crash(config);
        node.propose_with("three", writes("k"));
        asked && node.asked(1).contains(&id(0, 3))
    });
}

/// r0 asks about a command and does not remember.
#[test]
fn a_slot_asked_about_and_used_again_is_two_commands() {
    harms_only(Mutant::AskedSlotReused, |config| {
        let mut node = experienced(0, 3, config);
        node.propose_with("one", writes("k"));
        assert!(node.asked(1).contains(&id(0, 2)));
        let mut node = node.crash(config);
        node.propose_with("two", writes("k"));
        node.asked(1).contains(&id(0, 2))
    });
}

/// r4 asks r3 about a command, and does not remember; then it votes for r0's, which conflicts and
/// is committed. Who recovers that finds r3's witness that r4's came first, and concludes that
/// r4 has not voted as it did.
#[test]
fn a_vote_that_passes_over_what_was_asked_about_is_lost_in_recovery() {
    harms_only(Mutant::AskedPassedOver, |config| {
        let mut cluster = cluster(5, config);
        cluster.submit(4, "earlier", "another");
        cluster.deliver();
        cluster.node(4).syncs = false;
        cluster.submit(4, "forgotten", "k");
        cluster.pass(4, 3, "pre_accept");
        cluster.restart(4, config);
        cluster.submit(0, "command", "k");
        for voter in [1, 4] {
            cluster.pass(0, voter, "pre_accept");
            cluster.pass(voter, 0, "pre_accept_ok");
        }
        if cluster.node(0).decided(id(0, 1)).is_none() {
            return false;
        }
        recovery_contradicts(&mut cluster, 1, id(0, 1), &[1, 2, 3])
    });
}

/// r0 and r1 have executed it and trimmed it; r2 has never heard of it, and recovers it.
#[test]
fn what_is_trimmed_and_taken_for_unknown_becomes_a_nop() {
    harms_only(
        Mutant::TrimmedForgotten,
        scripts::recovery_of_trimmed_is_nop,
    );
}

/// r1 has voted for r0's command, which is committed, and names the old one from then on. That tells
/// r2 nothing of the command, and it trims the old one. Asked what speaks against the command, it
/// speaks for Nop.
#[test]
fn a_floor_raised_over_what_may_be_committed_undoes_a_commit() {
    harms_only(Mutant::FloorOverOpen, |config| {
        scripts::open_below_the_floor(config).breach().is_some()
    });
}

/// r4 takes over what r1 has trimmed, which knows that r0's command is committed. r4 does not, and
/// speaks for Nop.
#[test]
fn what_is_trimmed_on_trust_undoes_a_commit() {
    harms_only(Mutant::HorizonIgnored, |config| {
        let cluster = scripts::committed_beyond_the_snapshot(config);
        cluster.breach().is_some()
    });
}

/// r3 trims by r1's floor what r0's command does not name, and does not know yet that the command
/// is committed, which r1 told with its floor. Asked what speaks against it, it speaks for Nop.
#[test]
fn a_floor_that_counts_before_what_came_with_it_is_known_undoes_a_commit() {
    harms_only(Mutant::FloorCountsAtOnce, |config| {
        scripts::committed_before_the_floor(config)
            .breach()
            .is_some()
    });
}

/// r0 acts on what r1 has answered, and remembers nothing of it. Without r1 nobody else does.
#[test]
fn a_fast_decision_acted_on_before_it_is_durable_is_undone_by_its_coordinator() {
    harms_only(Mutant::FastDecisionForgotten, |config| {
        let mut cluster = cluster(3, config);
        cluster.submit(0, "command", "k");
        cluster.pass(0, 1, "pre_accept");
        cluster.node(0).syncs = false;
        cluster.pass(1, 0, "pre_accept_ok");
        let told = cluster.pass(0, 1, "commit") > 0;
        cluster.restart(0, config);
        cluster.node(2).recover_instance(id(0, 1));
        cluster.settle(&[0, 2]);
        told && cluster.breach().is_some()
    });
}

/// r1 and r2 have each proposed a command, and restarted; neither had voted for the other's.
#[test]
fn a_coordinator_in_doubt_is_not_believed_alone() {
    harms_only(Mutant::DoubtBelieved, |config| {
        let mut cluster = scripts::restarted_alone(config).checking(false);
        cluster.pass_time(&[1, 2], Duration::from_secs(5));
        cluster.breach().is_some()
    });
}

/// The only harm is that nothing happens any more.
#[test]
fn two_coordinators_in_doubt_that_end_no_recovery_wait_for_a_third() {
    harms_only(Mutant::DoubtWithoutEnd, |config| {
        let mut cluster = scripts::restarted_alone(config);
        cluster.pass_time(&[1, 2], Duration::from_secs(20));
        !cluster.all_decided(&[1, 2], id(1, 1))
    });
}

/// It never starts again.
#[test]
fn a_command_left_out_of_the_records_is_missed_at_the_next_start() {
    harms_only(Mutant::CommandOutOfRecords, |config| {
        scripts::restart_after_a_rewrite(config).is_err()
    });
}

/// The only harm is that nothing happens any more.
#[test]
fn a_snapshot_asked_of_one_peer_only_is_waited_for_as_long_as_it_is_gone() {
    harms_only(Mutant::OnePeerAsked, |config| {
        scripts::asked_for_snapshots(config) != [r(0), r(1)].into()
    });
}

/// The only harm is that nothing happens any more.
#[test]
fn a_snapshot_that_waits_for_who_waits_for_it_never_comes() {
    harms_only(Mutant::OfferedBehindFenceOnly, |config| {
        let mut cluster = scripts::executed_what_the_snapshot_lacks(config);
        scripts::pass_time_with_snapshots(&mut cluster, &[0, 2], 10 * scripts::LONG);
        !cluster.node(2).protocol.trimmed().contains(id(0, 1))
            && !cluster.node(2).order().contains(&id(0, 2))
    });
}

/// r4 trims what its snapshot holds, and nobody else has. Asked what speaks against the command, which does not name
/// it, r4 speaks for Nop.
#[test]
fn a_snapshot_taken_for_what_is_trimmed_undoes_a_commit() {
    harms_only(Mutant::SnapshotTakenForTrimmed, |config| {
        let cluster = scripts::committed_beside_the_snapshot(config);
        cluster.breach().is_some()
    });
}

/// The only harm is that nothing is trimmed as long as snapshots come faster than floors rise.
#[test]
fn the_oldest_snapshot_forgotten_is_never_trimmed() {
    harms_only(Mutant::OldestSnapshotForgotten, |config| {
        !scripts::trims_the_oldest_of(5, config)
    });
}

/// The only harm is that the rest is asked for again and again.
#[test]
fn what_is_asked_about_beside_what_is_trimmed_is_answered_too() {
    harms_only(Mutant::TrimmedEndsAnswer, |config| {
        !scripts::answers_beside_what_is_trimmed(config)
    });
}

/// The only harm is that whoever falls behind further than it looks stays behind where commands come fast.
#[test]
fn one_that_waits_for_each_instance_does_not_catch_up() {
    harms_only(Mutant::EachLookedAfterLate, |config| {
        !scripts::catches_up(config)
    });
}

/// The only harm is that as many come after it as are proposed meanwhile, and all wait for each other.
#[test]
fn what_is_proposed_again_while_it_is_under_way_becomes_many() {
    harms_only(Mutant::ProposedWhileUnderWay, |config| {
        scripts::instances_of_one_command(config) > 1
    });
}

/// The only harm is that one whose disk hangs keeps all others from recovering what it begins to recover itself.
#[test]
fn a_recovery_that_one_rejection_ends_waits_for_a_disk_that_hangs() {
    harms_only(Mutant::OneRejectionEnds, |config| {
        !scripts::recovers_beside_one_whose_disk_hangs(config)
    });
}

/// The only harm is that a ballot that is too low is asked about for ever.
#[test]
fn a_rejected_recovery_that_goes_on_ends_never() {
    harms_only(Mutant::RejectedGoesOn, |config| {
        scripts::begins_anew_in(config).is_none_or(|round| round <= 8)
    });
}

/// The only harm is that those who are answered are kept from recovering by those who are not.
#[test]
fn one_that_is_not_answered_insists() {
    harms_only(Mutant::UnheardInsists, |config| {
        scripts::waits_after(3, config) < 8 * config.recover_after
    });
}

/// The only harm is that one that alone can end a recovery hardly ever tries.
#[test]
fn one_that_stands_back_as_long_for_all_has_no_turn() {
    harms_only(Mutant::StandsBackAsLong, |config| {
        !scripts::has_its_turn(config)
    });
}

/// The only harm is that what is proposed for the first time takes the places of what was proposed before.
#[test]
fn what_a_full_window_drops_is_not_executed() {
    harms_only(Mutant::FullWindowDrops, |config| {
        scripts::executed_of_a_full_window(config) != ["a", "b", "c"]
    });
}
