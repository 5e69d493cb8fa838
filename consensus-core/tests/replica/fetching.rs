//! Fetching a snapshot from peers, some of which give nothing.

use std::time::Duration;

use quorate_core::id::{ReplicaId, Time};
use quorate_core::replica::{Mutant, Replica, Settings};
use quorate_core::request::Operation;
use quorate_core::storage::{Snapshot, Stored};

use crate::snapshots::{small_snapshots, snapshotted};
use crate::solo::{
    CONFIG, Config, NOW, Solo, Text, answers, apply, propose, replica, request, settle,
};

const SECOND: Duration = Duration::from_secs(1);

/// A replica that has just asked its first peer.
fn behind(settings: Settings) -> Replica<Solo, Text> {
    let config = Config {
        behind: true,
        ..CONFIG
    };
    let mut replica = replica(config, settings, Stored::default());
    replica.tick(NOW);
    assert_eq!(asked(&mut replica, NOW), Some(1));
    replica
}

/// Whom a turn asks.
fn asked(replica: &mut Replica<Solo, Text>, now: Time) -> Option<u8> {
    let fetch = replica.end_turn(now).fetch;
    assert!(fetch.len() < 2, "{fetch:?}");
    fetch.first().map(|fetch| fetch.from.0)
}

fn asked_at(replica: &mut Replica<Solo, Text>, now: Time) -> Option<u8> {
    replica.tick(now);
    asked(replica, now)
}

fn good() -> Snapshot {
    snapshotted(small_snapshots()).1
}

#[test]
fn a_peer_that_gives_nothing_for_a_second_is_given_up_for_the_next() {
    let mut replica = behind(Settings::default());
    let late = Time(NOW.0 + SECOND.as_nanos() as u64);
    let nearly = Time(late.0 - 1);
    assert_eq!(asked_at(&mut replica, nearly), None);
    assert_eq!(replica.deadline(), Some(late));
    assert_eq!(asked_at(&mut replica, late), Some(2));
    assert_eq!(asked_at(&mut replica, late + SECOND), Some(3));
    assert_eq!(asked_at(&mut replica, late + 2 * SECOND), None);
    assert_eq!(replica.deadline(), None, "each was asked once");
}

/// One peer sends slowly, or lies and sends without end; nobody else answers.
fn trickled(settings: Settings) -> Vec<(u32, u8)> {
    let mut replica = behind(settings);
    let mut all = Vec::new();
    for tenth in 1..=200 {
        let now = NOW + tenth * SECOND / 10;
        replica.fetch_progressed(now, ReplicaId(1));
        all.extend(asked_at(&mut replica, now).map(|peer| (tenth, peer)));
    }
    // It is waited for all the same.
    let now = NOW + 20 * SECOND;
    replica.fetched(now, ReplicaId(1), Some(good()));
    settle(&mut replica);
    assert_eq!(replica.machine().0, b"ab");
    all
}

#[test]
fn a_fetch_that_makes_progress_is_waited_for_and_others_are_asked_as_well() {
    assert_eq!(trickled(Settings::default()), [(40, 2), (50, 3)]);
}

#[test]
fn a_peer_that_sends_without_end_keeps_a_replica_that_asks_no_other() {
    let settings = Settings {
        mutant: Some(Mutant::SlowFetchAlone),
        ..Settings::default()
    };
    assert_eq!(trickled(settings), []);
}

#[test]
fn progress_of_one_is_not_another_s() {
    let mut replica = behind(Settings::default());
    let now = NOW + SECOND;
    replica.fetch_progressed(now, ReplicaId(2));
    assert_eq!(asked_at(&mut replica, now), Some(2));
}

#[test]
fn a_peer_that_refuses_or_gives_what_is_of_no_use_is_followed_by_the_next_at_once() {
    let mut replica = behind(Settings::default());
    replica.fetched(NOW, ReplicaId(1), None);
    assert_eq!(asked(&mut replica, NOW), Some(2));
    let mut unvouched = good();
    unvouched.id.anchor = bytes::Bytes::new();
    replica.fetched(NOW, ReplicaId(2), Some(unvouched));
    assert_eq!(asked(&mut replica, NOW), Some(3));
    replica.fetched(NOW, ReplicaId(3), Some(good()));
    settle(&mut replica);
    assert_eq!(replica.machine().0, b"ab");
}

#[test]
fn what_comes_late_is_taken_if_it_is_good_and_ends_no_other_fetch_if_not() {
    let late = NOW + SECOND;
    let mut replica = behind(Settings::default());
    assert_eq!(asked_at(&mut replica, late), Some(2));
    replica.fetched(late, ReplicaId(1), None);
    assert_eq!(asked(&mut replica, late), None, "replica 2 may yet answer");
    replica.fetched(late, ReplicaId(1), Some(good()));
    settle(&mut replica);
    assert_eq!(replica.machine().0, b"ab");
    assert_eq!(asked_at(&mut replica, late + 5 * SECOND), None);
}

/// Saved later, one that holds less would be what a restart finds.
#[test]
fn while_a_fetched_snapshot_is_being_saved_no_other_is() {
    let mut replica = behind(Settings::default());
    replica.fetched(NOW, ReplicaId(1), Some(good()));
    assert_eq!(replica.end_turn(NOW).save.len(), 1);
    replica.fetched(NOW, ReplicaId(2), Some(good()));
    assert!(replica.end_turn(NOW).save.is_empty());
}

#[test]
fn a_replica_takes_snapshots_of_its_own_while_it_fetches_one() {
    let taken = |mutant| {
        let settings = Settings {
            mutant,
            ..small_snapshots()
        };
        let mut replica = behind(settings);
        propose(&mut replica, request(0, Operation::Open));
        settle(&mut replica);
        apply(&mut replica, 1, "a").offer.is_some()
    };
    assert!(taken(None));
    assert!(!taken(Some(Mutant::NoSnapshotWhileFetching)));
}

/// It is ahead of what was taken and not saved yet, and replaces what is on disk.
#[test]
fn none_is_taken_while_a_fetched_one_is_being_saved() {
    let mut replica = behind(small_snapshots());
    propose(&mut replica, request(0, Operation::Open));
    let append = replica.end_turn(NOW).append.unwrap();
    replica.fetched(NOW, ReplicaId(1), Some(good()));
    replica.durable(append.ticket);
    let effects = replica.end_turn(NOW);
    assert_eq!((effects.executed.len(), effects.save.len()), (1, 1));
    assert_eq!(effects.save[0].1, good());
}

/// One sync ends both saves, the replica's own and that of a fetched snapshot: what is executed in
/// between is no longer what a snapshot is to be taken of.
#[test]
fn none_is_taken_between_one_of_its_own_and_a_fetched_one_that_are_durable_together() {
    let saved = |mutant| {
        let settings = Settings {
            mutant,
            ..small_snapshots()
        };
        let mut replica = behind(settings);
        let executes = |replica: &mut Replica<Solo, Text>, request| {
            propose(replica, request);
            let append = replica.end_turn(NOW).append.unwrap();
            replica.durable(append.ticket);
            replica.end_turn(NOW).save
        };
        let own = executes(&mut replica, request(0, Operation::Open));
        assert_eq!(own.len(), 1);
        executes(&mut replica, request(1, Operation::Apply(b"a")));
        replica.fetched(NOW, ReplicaId(1), Some(good()));
        let fetched = replica.end_turn(NOW).save;
        replica.saved(NOW, fetched[0].0);
        assert_eq!(replica.machine().0, b"ab");
        let turns = (0..3).map(|_| {
            let effects = replica.end_turn(NOW);
            let append = effects.append.map(|append| append.ticket);
            append
                .into_iter()
                .for_each(|ticket| replica.durable(ticket));
            effects.save.len()
        });
        turns.sum::<usize>()
    };
    assert_eq!(saved(None), 0);
    assert_eq!(saved(Some(Mutant::OlderSavedAfterFetched)), 1);
}

/// Whoever orders has executed it already, and orders it no more.
#[test]
fn what_an_installed_state_holds_is_answered_and_not_proposed_again() {
    let after = |mutant| {
        let settings = Settings {
            mutant,
            ..Settings::default()
        };
        let config = Config {
            behind: true,
            deaf: true,
            ..CONFIG
        };
        let mut replica = replica(config, settings, Stored::default());
        replica.tick(NOW);
        for (sequence, command) in [(1, b"a"), (2, b"b"), (3, b"c")] {
            propose(&mut replica, request(sequence, Operation::Apply(command)));
        }
        replica.end_turn(NOW);
        replica.fetched(NOW, ReplicaId(1), Some(good()));
        let answered = answers(&settle(&mut replica)).len();
        let waits = replica.deadline().is_some();
        propose(&mut replica, request(3, Operation::Apply(b"c")));
        (answered, waits, answers(&settle(&mut replica)).len())
    };
    assert_eq!(after(None), (2, true, 0), "the third is still under way");
    assert_eq!(after(Some(Mutant::InstalledNotSettled)), (0, true, 0));
}

#[test]
fn a_fetch_that_is_never_given_up_waits_for_ever() {
    let mut replica = behind(Settings {
        mutant: Some(Mutant::FetchNeverGivenUp),
        ..Settings::default()
    });
    assert_eq!(asked_at(&mut replica, NOW + 100 * SECOND), None);
}
