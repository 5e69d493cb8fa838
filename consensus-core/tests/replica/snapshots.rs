//! Snapshots of a replica's own: when they are taken, saved and offered, and what is in them.

use quorate_core::consensus::ProposeError;
use quorate_core::frontier::Frontier;
use quorate_core::id::Slot;
use quorate_core::replica::{Mutant, Replica, Settings};
use quorate_core::request::Operation;
use quorate_core::storage::{Snapshot, Stored};

use crate::solo::{
    CONFIG, Config, NOW, Solo, Text, answers, apply, opened, propose, replica, request, settle,
};

pub(crate) fn small_snapshots() -> Settings {
    Settings {
        snapshot_every_bytes: 1,
        ..Settings::default()
    }
}

/// Runs two commands with a snapshot after each entry; gives what the snapshot is and holds.
pub(crate) fn snapshotted(settings: Settings) -> (Replica<Solo, Text>, Snapshot) {
    let mut replica = opened(CONFIG, settings);
    apply(&mut replica, 1, "a");
    let effects = apply(&mut replica, 2, "b");
    let offer = effects.offer.expect("an offer").as_ref().clone();
    (replica, offer)
}

#[test]
fn a_snapshot_is_offered_once_it_is_durable_and_restores_state_and_sessions() {
    let (original, offer) = snapshotted(small_snapshots());
    assert_eq!(offer.id.anchor, b"anchor"[..]);
    let stored = Stored {
        records: Vec::new(),
        snapshot: Some(offer),
    };
    let mut restored = replica(CONFIG, small_snapshots(), stored);
    assert_eq!(restored.machine().0, b"ab");
    assert_eq!(restored.digest().unwrap(), original.digest().unwrap());
    let again = apply(&mut restored, 2, "b");
    assert_eq!(answers(&again), [(2, Ok(&b"ab"[..]))]);
}

#[test]
fn a_snapshot_is_saved_only_when_all_records_written_before_it_are_durable() {
    let mut replica = opened(CONFIG, small_snapshots());
    let mut turn_with = |sequence, command: &[u8]| {
        let operation = Operation::Apply(command);
        propose(&mut replica, request(sequence, operation));
        replica.end_turn(NOW).append.unwrap().ticket
    };
    let (first, second) = (turn_with(1, b"a"), turn_with(2, b"b"));
    replica.durable(first);
    let effects = replica.end_turn(NOW);
    assert_eq!((effects.executed.len(), effects.save.len()), (1, 0));
    replica.durable(second);
    let effects = replica.end_turn(NOW);
    assert_eq!((effects.executed.len(), effects.save.len()), (1, 1));
}

/// Each is the whole state. Of those that wait at the bound none is lost, and when they are saved the
/// next is taken.
#[test]
fn snapshots_at_checkpoints_do_not_gather_without_end_while_none_can_be_saved() {
    let config = Config {
        checkpoints: true,
        ..CONFIG
    };
    let mut replica = replica(config, Settings::default(), Stored::default());
    propose(&mut replica, request(0, Operation::Open));
    let mut saves = Vec::new();
    for sequence in 1..=20 {
        propose(&mut replica, request(sequence, Operation::Apply(b"x")));
        while let Some(append) = replica.end_turn(NOW).append {
            replica.durable(append.ticket);
            saves.extend(replica.end_turn(NOW).save);
        }
    }
    assert_eq!((replica.executed(), saves.len()), (20, 4));
    replica.saved(NOW, saves.last().unwrap().0);
    let rewritten = settle(&mut replica);
    let offered = rewritten.offer.unwrap().id.at.clone();
    assert_eq!(offered, saves.last().unwrap().1.id.at);
    let next = apply(&mut replica, 21, "x");
    assert_eq!(next.offer.unwrap().id.at, Frontier::single(Slot(21)));
}

#[test]
fn without_the_sessions_in_it_a_snapshot_forgets_who_was_answered() {
    let settings = Settings {
        mutant: Some(Mutant::SessionsLeftOutOfSnapshot),
        ..small_snapshots()
    };
    let (_, offer) = snapshotted(settings);
    let stored = Stored {
        records: Vec::new(),
        snapshot: Some(offer),
    };
    let mut restored = replica(CONFIG, Settings::default(), stored);
    let again = apply(&mut restored, 2, "b");
    assert_eq!(answers(&again), [(2, Err(ProposeError::SessionExpired))]);
}
