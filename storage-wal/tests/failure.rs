//! A full disk and a sync that fails stop the log: one clear word, and nothing after it.

mod support;

use std::path::Path;
use std::sync::mpsc::{Sender, channel};

use quorate_core::storage::{Completions, Records, Storage, StorageError, Ticket};
use quorate_storage_wal::{Faults, Wal, WalOptions};
use support::{Log, Said, epoch, options, owner, records_in, snapshot, try_open, until_prepared};

fn faulty(path: &Path) -> (Log, Faults) {
    let faults = Faults::default();
    let options = WalOptions {
        faults: faults.clone(),
        ..options()
    };
    (try_open(path, &options).unwrap(), faults)
}

/// All that is said until the log has ended.
fn last_words(log: Log) -> Vec<Said> {
    drop(log.wal);
    log.said.iter().collect()
}

fn reason(said: &[Said]) -> String {
    match said {
        [Said::Failed(error)] => error.to_string(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_full_disk_stops_the_log() {
    let home = tempfile::tempdir().unwrap();
    let (mut log, faults) = faulty(home.path());
    log.append(&[b"fits"]);
    // A segment is made ahead of time; what is to fail here is the writing of records.
    until_prepared(home.path(), 2);
    faults.fill_after(30);
    log.give(false, &[b"does not fit any more"]);
    log.give(false, &[b"nor this"]);
    let said = last_words(log);
    let reason = reason(&said);
    assert!(reason.contains("cannot write"), "{reason}");
    assert!(reason.contains("segment-0000000000000001"), "{reason}");
    assert!(reason.contains("no storage space"), "{reason}");
    assert_eq!(records_in(home.path()).unwrap(), [&b"fits"[..]]);
}

/// While the log is open it waits for room: see `full.rs`.
#[test]
fn a_disk_too_full_for_the_next_segment_is_a_failure_of_a_log_that_is_closed() {
    let home = tempfile::tempdir().unwrap();
    let (mut log, faults) = faulty(home.path());
    log.append(&[b"fits"]);
    until_prepared(home.path(), 2);
    faults.fill_after(6000);
    for _ in 0..8 {
        log.give(false, &[&[7; 1000]]);
    }
    let said = last_words(log);
    let failures = said.iter().filter(|said| matches!(said, Said::Failed(_)));
    assert_eq!(failures.count(), 1);
    assert!(matches!(said.last(), Some(Said::Failed(_))), "{said:?}");
    let durable = said.iter().rev().find_map(|said| match said {
        Said::Durable(Ticket(number)) => Some(*number as usize),
        _ => None,
    });
    let found = records_in(home.path()).unwrap().len();
    assert!(found >= durable.unwrap_or(1), "{found} of {durable:?}");
}

#[test]
fn a_failed_sync_is_not_tried_again() {
    let home = tempfile::tempdir().unwrap();
    let (mut log, faults) = faulty(home.path());
    log.append(&[b"durable"]);
    // What is to fail here is the sync of records, not that of the segment made ahead of time.
    until_prepared(home.path(), 2);
    faults.fail_syncs_after(0);
    log.give(false, &[b"unknown"]);
    log.until_failed();
    faults.fail_syncs_after(u64::MAX);
    log.give(false, &[b"never"]);
    assert_eq!(last_words(log), []);
    let found = records_in(home.path()).unwrap();
    assert!(
        found == [&b"durable"[..]] || found == [&b"durable"[..], b"unknown"],
        "{found:?}"
    );
}

/// Opens a log in which the first sync of the segment made ahead of time fails, as whichever
/// comes first after those of opening.
fn with_a_failing_maker(path: &Path) -> (Log, Faults) {
    for syncs in 0.. {
        let faults = Faults::default();
        faults.fail_syncs_after(syncs);
        let options = WalOptions {
            faults: faults.clone(),
            ..options()
        };
        if let Ok(log) = try_open(&path.join(syncs.to_string()), &options) {
            return (log, faults);
        }
    }
    unreachable!("a log opens with enough syncs");
}

/// The records may be synced, by a writer that has not heard of it; nobody may rely on that.
#[test]
fn after_a_failure_to_make_a_segment_no_append_is_acknowledged() {
    let home = tempfile::tempdir().unwrap();
    let (mut log, faults) = with_a_failing_maker(home.path());
    log.until_failed();
    faults.fail_syncs_after(u64::MAX);
    log.give(false, &[b"written, but not acknowledged"]);
    log.give(false, &[b"nor this"]);
    assert_eq!(last_words(log), []);
}

#[test]
fn after_a_failed_snapshot_no_append_is_acknowledged() {
    let home = tempfile::tempdir().unwrap();
    let (mut log, faults) = faulty(home.path());
    log.save(1, b"whole");
    faults.fail_syncs_after(0);
    log.wal.save(Ticket(90), snapshot(2, b"half"));
    log.until_failed();
    faults.fail_syncs_after(u64::MAX);
    log.give(false, &[b"written, but not acknowledged"]);
    assert_eq!(last_words(log), []);
    let log = support::open(home.path());
    assert_eq!(log.stored.snapshot, Some(snapshot(1, b"whole")));
}

/// A listener that cannot bear good news.
struct Panicking(Sender<StorageError>);

impl Completions for Panicking {
    fn durable(&self, ticket: Ticket) {
        panic!("{ticket:?} is one too many");
    }

    fn saved(&self, _: Ticket) {}

    fn failed(&self, error: StorageError) {
        self.0.send(error).ok();
    }

    fn short_of_room(&self, _: bool) {}
}

#[test]
fn a_thread_that_panics_is_a_failure_too() {
    let home = tempfile::tempdir().unwrap();
    let (sender, failures) = channel();
    Wal::prepare(home.path(), &owner(), None).unwrap();
    let listener = Panicking(sender);
    let (mut wal, _) = Wal::open(home.path(), &owner(), &epoch(), &options(), listener).unwrap();
    let mut records = Records::default();
    records.push(b"record");
    wal.append(Ticket(1), false, records);
    let error = failures.recv().expect("the failure is told");
    assert!(error.to_string().contains("panicked"), "{error}");
    drop(wal);
    assert_eq!(failures.iter().count(), 0);
}

#[test]
fn a_directory_that_cannot_be_made_is_named() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("file");
    std::fs::write(&file, "").unwrap();
    match Wal::prepare(&file.join("log"), &owner(), None).err() {
        Some(StorageError::Io { action, path, .. }) => {
            assert_eq!(action, "create");
            assert_eq!(path, file.join("log").display().to_string());
        }
        other => panic!("{other:?}"),
    }
}
