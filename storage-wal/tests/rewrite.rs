//! Rewrites are atomic, whenever the crash, and free segments that are used again.

mod support;

use std::fs;
use std::path::Path;

use quorate_core::Bytes;
use quorate_storage_wal::{Faults, WalOptions};
use support::{Said, names, open, options, records_in, segment, settled_image, try_open};

fn small(faults: &Faults) -> WalOptions {
    WalOptions {
        segment_bytes: 512,
        spare_segments: 2,
        faults: faults.clone(),
        ..options()
    }
}

const OLD: [&[u8]; 3] = [b"old one", &[b'o'; 300], b"old three"];
const NEW: [&[u8]; 4] = [&[b'n'; 200], &[b'm'; 250], b"new", &[b'k'; 100]];

/// Crashes a rewrite over several segments by the fault given, and returns how much was told
/// durable of: the old records, the new ones, one more after them.
fn crash_at(path: &Path, faults: &Faults) -> usize {
    let Ok(mut log) = try_open(path, &small(faults)) else {
        return 0;
    };
    let tickets = [
        log.give(false, &OLD),
        log.give(true, &NEW),
        log.give(false, &[b"after"]),
    ];
    drop(log.wal);
    let said: Vec<Said> = log.said.iter().collect();
    let failures = said.iter().filter(|said| matches!(said, Said::Failed(_)));
    assert!(failures.count() <= 1);
    let last = said.iter().rev().find_map(|said| match said {
        Said::Durable(ticket) => Some(ticket),
        _ => None,
    });
    tickets
        .iter()
        .filter(|ticket| Some(*ticket) <= last)
        .count()
}

/// Checks what may be found when the disk stopped after so much was told to be durable; returns
/// whether the rewrite was lost.
fn check(path: &Path, told: usize, point: u64) -> bool {
    let found = records_in(path).expect("a crash is no damage");
    let after = [&NEW[..], &[&b"after"[..]]].concat();
    let old = (0..=OLD.len()).any(|kept| found == OLD[..kept]);
    let complete = match told {
        0 => old || found == NEW || found == after,
        1 => found == OLD || found == NEW || found == after,
        2 => found == NEW || found == after,
        _ => found == after,
    };
    assert!(complete, "stopped at {point}, told {told}, found {found:?}");
    // What was found is all there is to it: the log goes on from there.
    let mut log = open(path);
    assert_eq!(log.stored.records, found);
    log.append(&[b"next"]);
    drop(log);
    let lost = found == OLD;
    let mut log = open(path);
    assert_eq!(
        log.stored.records,
        [found, vec![Bytes::from_static(b"next")]].concat()
    );
    log.rewrite(&[b"again"]);
    drop(log);
    assert_eq!(records_in(path).unwrap(), [&b"again"[..]]);
    lost
}

#[test]
fn a_disk_that_fills_at_any_byte_leaves_the_old_or_the_new() {
    let (mut bytes, mut lost) = (0, 0);
    loop {
        let home = tempfile::tempdir().unwrap();
        let faults = Faults::default();
        faults.fill_after(bytes);
        let told = crash_at(home.path(), &faults);
        lost += usize::from(check(home.path(), told, bytes));
        if told == 3 {
            break;
        }
        bytes += 29;
    }
    assert!(bytes > 2000, "the rewrite took several segments");
    assert!(lost > 8, "the rewrite was cut short at {lost} places only");
}

#[test]
fn a_sync_that_fails_at_any_time_leaves_the_old_or_the_new() {
    let mut syncs = 0;
    loop {
        let home = tempfile::tempdir().unwrap();
        let faults = Faults::default();
        faults.fail_syncs_after(syncs);
        let told = crash_at(home.path(), &faults);
        check(home.path(), told, syncs);
        if told == 3 {
            break;
        }
        syncs += 1;
    }
    assert!(syncs > 5, "the rewrite took several syncs");
}

#[test]
fn old_segments_are_freed_once_the_new_records_are_durable() {
    let home = tempfile::tempdir().unwrap();
    let mut log = open(home.path());
    for index in 0..40u8 {
        log.append(&[&[index; 1000]]);
    }
    assert!(names(home.path(), "segment-").len() > 10);
    log.rewrite(&[b"all there is"]);
    drop(log);
    assert_eq!(
        names(home.path(), "segment-").len(),
        2,
        "the base, and the next"
    );
    assert_eq!(names(home.path(), "spare-").len(), options().spare_segments);
    assert_eq!(records_in(home.path()).unwrap(), [&b"all there is"[..]]);
}

#[test]
fn records_of_a_recycled_segment_never_come_back() {
    let home = tempfile::tempdir().unwrap();
    let mut held: Vec<Bytes> = Vec::new();
    let mut recycled = 0;
    for round in 0..6u8 {
        let mut log = open(home.path());
        assert_eq!(log.stored.records, held, "round {round}");
        // Records of one length, so that old and new frames lie at the same offsets.
        for index in 0..12u8 {
            let record = Bytes::from(vec![round * 16 + index; 1000]);
            log.append(&[&record]);
            held.push(record);
            let crashed = settled_image(home.path());
            assert_eq!(
                records_in(crashed.path()).unwrap(),
                held,
                "{round}, {index}"
            );
        }
        let tail = names(home.path(), "segment-").len();
        assert!(tail > 3);
        let segments = names(home.path(), "segment-");
        recycled += segments
            .iter()
            .map(|name| fs::read(home.path().join(name)).unwrap())
            .filter(|file| {
                round > 0
                    && file
                        .windows(1000)
                        .any(|record| record == [round * 16 - 12; 1000])
            })
            .count();
        log.rewrite(&[b"base"]);
        held = vec![Bytes::from_static(b"base")];
    }
    assert!(recycled > 0, "no segment held records of an earlier round");
}

#[test]
fn a_record_larger_than_a_segment_makes_one_that_is_not_kept() {
    let home = tempfile::tempdir().unwrap();
    let large = vec![b'l'; 100_000];
    let mut log = open(home.path());
    log.append(&[b"before", &large, b"after"]);
    drop(log);
    let mut log = open(home.path());
    assert_eq!(log.stored.records, [&b"before"[..], &large, b"after"]);
    let grown = fs::metadata(segment(home.path(), 2)).unwrap().len();
    assert!(grown > 100_000);
    log.rewrite(&[b"small"]);
    drop(log);
    for name in names(home.path(), "spare-") {
        assert_eq!(fs::metadata(home.path().join(name)).unwrap().len(), 4096);
    }
    assert_eq!(records_in(home.path()).unwrap(), [&b"small"[..]]);
}

#[test]
fn a_crash_while_old_segments_are_freed_may_leave_any_of_them() {
    let home = tempfile::tempdir().unwrap();
    let mut log = open(home.path());
    for index in 0..20u8 {
        log.append(&[&[index; 1000]]);
    }
    let before = settled_image(home.path());
    log.rewrite(&[b"all there is"]);
    drop(log);
    let base = names(home.path(), "segment-").remove(0);
    for kept in 1..4 {
        let old = names(before.path(), "segment-");
        for name in old.iter().filter(|name| **name < base).step_by(kept) {
            fs::copy(before.path().join(name), home.path().join(name)).unwrap();
        }
        assert_eq!(records_in(home.path()).unwrap(), [&b"all there is"[..]]);
        assert_eq!(names(home.path(), "segment-").len(), 2);
    }
}
