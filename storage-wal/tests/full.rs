//! A full disk: what has room is made durable, what has none waits for it, and a restart needs none.

mod support;

use std::path::Path;

use quorate_core::storage::{Storage as _, StorageError, Ticket};
use quorate_storage_wal::{Faults, WalOptions};
use support::{Log, Said, names, open, options, records_in, snapshot, try_open, until_prepared};

/// The bytes of a segment.
const SEGMENT: u64 = 4096;

fn limited(path: &Path) -> (Log, Faults) {
    let faults = Faults::default();
    let options = WalOptions {
        faults: faults.clone(),
        ..options()
    };
    let log = try_open(path, &options).unwrap();
    until_prepared(path, 2);
    (log, faults)
}

/// Gives records of 1,000 bytes, three of which a segment holds.
fn give(log: &mut Log, count: usize) -> Vec<Ticket> {
    (0..count)
        .map(|n| log.give(false, &[&[n as u8; 1000]]))
        .collect()
}

/// A log of two segments, of which the second is begun, on a disk without room for a third.
fn full(path: &Path, room: u64) -> (Log, Faults) {
    let (mut log, faults) = limited(path);
    faults.limit_room(room);
    let tickets = give(&mut log, 4);
    let mut expected = vec![Said::Durable(tickets[3])];
    if room < SEGMENT {
        expected.push(Said::ShortOfRoom(true));
    }
    until_all(&log, expected);
    (log, faults)
}

/// Waits until all of it has been said, in whatever order: it comes from several threads.
fn until_all(log: &Log, mut expected: Vec<Said>) {
    while !expected.is_empty() {
        let said = log.said.recv().unwrap();
        assert!(!matches!(said, Said::Failed(_)), "{said:?}");
        expected.retain(|expected| *expected != said);
    }
}

#[test]
fn with_no_room_for_the_segment_ahead_the_present_one_is_filled_and_the_rest_waits_for_room() {
    let home = tempfile::tempdir().unwrap();
    let (mut log, faults) = full(home.path(), SEGMENT - 1);
    let tickets = give(&mut log, 4);
    log.until(&Said::Durable(tickets[1]));
    // What is over does not fail, and is not said to be durable.
    std::thread::sleep(std::time::Duration::from_millis(700));
    assert_eq!(log.said.try_iter().collect::<Vec<_>>(), []);
    assert_eq!(
        faults.room_left(),
        SEGMENT - 1,
        "what was tried is given back"
    );
    faults.limit_room(SEGMENT);
    log.until(&Said::ShortOfRoom(false));
    log.until(&Said::Durable(tickets[3]));
    drop(log);
    assert_eq!(records_in(home.path()).unwrap().len(), 8);
}

#[test]
fn with_just_the_room_for_the_segment_ahead_nothing_is_short() {
    let home = tempfile::tempdir().unwrap();
    let (log, faults) = full(home.path(), SEGMENT);
    until_prepared(home.path(), 3);
    assert_eq!(faults.room_left(), 0);
    drop(log.wal);
    let said: Vec<Said> = log.said.iter().collect();
    assert!(!said.contains(&Said::ShortOfRoom(true)), "{said:?}");
}

#[test]
fn a_restart_needs_no_room() {
    let home = tempfile::tempdir().unwrap();
    let (log, _) = full(home.path(), 0);
    let crashed = support::image(home.path());
    drop(log);
    for path in [crashed.path(), home.path()] {
        let faults = Faults::default();
        faults.limit_room(0);
        let options = WalOptions {
            faults,
            ..options()
        };
        for life in 0..2 {
            let mut log = try_open(path, &options).unwrap();
            assert_eq!(log.stored.records.len(), 4 + life);
            log.append(&[b"there is room in the present segment"]);
            drop(log.wal);
            let said: Vec<Said> = log.said.iter().collect();
            assert!(
                !said.iter().any(|said| matches!(said, Said::Failed(_))),
                "{said:?}"
            );
        }
    }
}

#[test]
fn a_log_that_is_closed_while_it_waits_for_room_says_that_it_has_failed() {
    let home = tempfile::tempdir().unwrap();
    let (mut log, _) = full(home.path(), 0);
    let tickets = give(&mut log, 4);
    log.until(&Said::Durable(tickets[1]));
    drop(log.wal);
    let said: Vec<Said> = log.said.iter().collect();
    let failed = |said: &Said| matches!(said, Said::Failed(StorageError::Full { .. }));
    assert_eq!(
        said.iter().filter(|said| failed(said)).count(),
        1,
        "{said:?}"
    );
    assert!(!said.contains(&Said::Durable(tickets[3])), "{said:?}");
    assert_eq!(records_in(home.path()).unwrap().len(), 6);
}

#[test]
fn what_a_rewrite_frees_is_room() {
    let home = tempfile::tempdir().unwrap();
    let (mut log, faults) = limited(home.path());
    // Four segments and one ahead; then the disk is full, for all but what they are used for again.
    let tickets = give(&mut log, 11);
    log.until(&Said::Durable(tickets[10]));
    until_prepared(home.path(), 5);
    faults.limit_room(0);
    let rewritten = log.give(true, &[b"state"]);
    until_all(
        &log,
        vec![Said::Durable(rewritten), Said::ShortOfRoom(false)],
    );
    let tickets = give(&mut log, 8);
    log.until(&Said::Durable(tickets[7]));
    drop(log);
    assert_eq!(records_in(home.path()).unwrap().len(), 9);
}

#[test]
fn a_snapshot_that_has_no_room_waits_for_it_and_the_log_goes_on() {
    let home = tempfile::tempdir().unwrap();
    let (mut log, faults) = limited(home.path());
    log.save(1, b"old");
    faults.limit_room(500);
    log.wal.save(Ticket(90), snapshot(2, &[7; 600]));
    log.until(&Said::ShortOfRoom(true));
    assert_eq!(faults.room_left(), 500, "what was tried is given back");
    log.append(&[b"meanwhile"]);
    assert_eq!(open_elsewhere(home.path()), snapshot(1, b"old"));
    faults.limit_room(2000);
    log.until(&Said::ShortOfRoom(false));
    log.until(&Said::Saved(Ticket(90)));
    drop(log);
    assert_eq!(
        open(home.path()).stored.snapshot,
        Some(snapshot(2, &[7; 600]))
    );
    assert_eq!(names(home.path(), "snapshot-").len(), 1);
}

/// The snapshot that a restart would find now.
fn open_elsewhere(path: &Path) -> quorate_core::storage::Snapshot {
    let copy = support::image(path);
    open(copy.path()).stored.snapshot.unwrap()
}
