//! Damage is reported, by file and offset, and nothing is changed.

mod support;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use quorate_core::storage::StorageError;
use quorate_storage_wal::WalOptions;
use support::{
    contents, copy_files, image, names, open, options, segment, try_open, until_prepared,
};

/// Small enough that the records of [`filled`] take three segments.
fn small() -> WalOptions {
    WalOptions {
        segment_bytes: 512,
        ..options()
    }
}

/// Of lengths that leave no padding, for a changed bit there does no harm.
const RECORDS: [&[u8]; 6] = [
    &[b'a'; 200],
    &[b'b'; 160],
    &[b'c'; 216],
    &[b'd'; 120],
    &[b'e'; 160],
    &[b'f'; 48],
];

/// A log of which each record was synced by itself, open or closed.
fn filled(close: bool) -> tempfile::TempDir {
    let home = tempfile::tempdir().unwrap();
    let mut log = try_open(home.path(), &small()).unwrap();
    RECORDS.iter().for_each(|record| log.append(&[record]));
    if close {
        drop(log);
        return home;
    }
    until_prepared(home.path(), 4);
    image(home.path())
}

fn found(path: &Path) -> Result<usize, StorageError> {
    let log = try_open(path, &small())?;
    assert_eq!(log.stored.records, RECORDS[..log.stored.records.len()]);
    Ok(log.stored.records.len())
}

/// Opens the log in `path`, which must fail for damage to `file`; says where.
fn offset_of_damage(path: &Path, file: &Path) -> u64 {
    let before = contents(path);
    let error = found(path).expect_err("damage is noticed");
    assert!(before == contents(path), "something was changed");
    match error {
        StorageError::Damaged { path, offset, .. } => {
            assert_eq!(Path::new(&path), file);
            offset
        }
        other => panic!("{other}"),
    }
}

/// Every byte of a segment that was written: where each frame and the header start and end.
fn extent(file: &[u8]) -> usize {
    file.iter()
        .rposition(|byte| *byte != 0)
        .map_or(0, |last| last + 1)
        .next_multiple_of(8)
}

#[test]
fn a_changed_bit_is_reported_unless_it_looks_like_a_torn_write() {
    let home = filled(false);
    let work = tempfile::tempdir().unwrap();
    // Of the third segment, the last of the records: its frame, and nothing after it.
    let last = 24 + RECORDS[5].len();
    for number in 1..=4 {
        let file = segment(home.path(), number);
        let sound = fs::read(&file).unwrap();
        let end = extent(&sound);
        for offset in 0..end {
            copy_files(home.path(), work.path());
            let mut damaged = sound.clone();
            damaged[offset] ^= 1 << (offset % 8);
            let file = segment(work.path(), number);
            fs::write(&file, damaged).unwrap();
            if number == 3 && offset >= end - last {
                // Nothing in the log says that the last record was durable.
                assert_eq!(found(work.path()), Ok(5), "{number}, {offset}");
                // What was cut is gone: start over.
                names(work.path(), "").iter().for_each(|name| {
                    fs::remove_file(work.path().join(name)).unwrap();
                });
            } else {
                let reported = offset_of_damage(work.path(), &file);
                assert!(reported <= offset as u64, "{reported} for {offset}");
                assert!(
                    offset as u64 - reported < 24 + 240,
                    "{reported} for {offset}"
                );
            }
        }
    }
}

#[test]
fn in_a_log_that_was_closed_the_last_record_is_known_too() {
    let home = filled(true);
    let file = segment(home.path(), 3);
    let sound = fs::read(&file).unwrap();
    let end = extent(&sound);
    let mark = end - 24;
    for offset in 0..mark {
        let mut damaged = sound.clone();
        damaged[offset] ^= 0x10;
        fs::write(&file, damaged).unwrap();
        offset_of_damage(home.path(), &file);
    }
    for offset in mark..end {
        let mut damaged = sound.clone();
        damaged[offset] ^= 0x10;
        fs::write(&file, damaged).unwrap();
        assert_eq!(found(home.path()), Ok(6), "a mark is no record");
        fs::write(&file, &sound).unwrap();
    }
}

#[test]
fn a_log_left_alone_is_marked() {
    let home = tempfile::tempdir().unwrap();
    let options = WalOptions {
        mark_after: Duration::ZERO,
        ..options()
    };
    let mut log = try_open(home.path(), &options).unwrap();
    log.append(&[b"first", b"last"]);
    let file = segment(home.path(), 1);
    let header_and_base = 40 + 2 * 24;
    let marked = header_and_base + 2 * 32 + 24;
    while extent(&fs::read(&file).unwrap()) < marked {
        std::thread::yield_now();
    }
    let crashed = image(home.path());
    let file = segment(crashed.path(), 1);
    let mut damaged = fs::read(&file).unwrap();
    damaged[header_and_base + 32 + 24] ^= 1;
    fs::write(&file, damaged).unwrap();
    assert_eq!(
        offset_of_damage(crashed.path(), &file),
        header_and_base as u64 + 32
    );
}

#[test]
fn a_truncated_segment_is_reported() {
    let home = filled(true);
    for number in 1..=4 {
        let file = segment(home.path(), number);
        let sound = fs::read(&file).unwrap();
        for length in 0..sound.len() {
            fs::write(&file, &sound[..length]).unwrap();
            assert_eq!(offset_of_damage(home.path(), &file), length as u64);
        }
        fs::write(&file, &sound).unwrap();
    }
    assert_eq!(found(home.path()), Ok(6));
}

#[test]
fn a_missing_segment_is_reported() {
    let home = filled(true);
    for number in 1..=3 {
        let file = segment(home.path(), number);
        let sound = fs::read(&file).unwrap();
        fs::remove_file(&file).unwrap();
        let before = contents(home.path());
        let error = found(home.path()).unwrap_err();
        assert!(matches!(error, StorageError::Damaged { .. }), "{error}");
        assert!(before == contents(home.path()), "something was changed");
        fs::write(&file, &sound).unwrap();
    }
    fs::remove_file(segment(home.path(), 4)).unwrap();
    assert_eq!(found(home.path()), Ok(6), "nothing was in the fourth yet");
}

#[test]
fn segments_in_each_others_place_are_reported() {
    let home = filled(true);
    let (second, third) = (segment(home.path(), 2), segment(home.path(), 3));
    let aside = home.path().join("aside");
    fs::rename(&second, &aside).unwrap();
    fs::rename(&third, &second).unwrap();
    fs::rename(&aside, &third).unwrap();
    assert_eq!(offset_of_damage(home.path(), &second), 16);
}

#[test]
fn a_segment_of_another_log_is_reported() {
    let (home, other) = (filled(true), filled(true));
    let file = segment(home.path(), 3);
    fs::copy(segment(other.path(), 3), &file).unwrap();
    assert_eq!(offset_of_damage(home.path(), &file), 24);
}

#[test]
fn another_format_version_is_reported() {
    let home = filled(true);
    let file = segment(home.path(), 1);
    let mut later = fs::read(&file).unwrap();
    later[8] += 1;
    fs::write(&file, later).unwrap();
    let error = found(home.path()).unwrap_err().to_string();
    assert!(error.contains("format version 2 is not known"), "{error}");
}

#[test]
fn a_file_of_something_else_is_reported_and_other_names_are_left_alone() {
    let home = filled(true);
    fs::write(home.path().join("notes"), "mine").unwrap();
    assert_eq!(found(home.path()), Ok(6));
    assert_eq!(fs::read(home.path().join("notes")).unwrap(), b"mine");
    let file = segment(home.path(), 2);
    fs::write(&file, [7; 4096]).unwrap();
    assert_eq!(offset_of_damage(home.path(), &file), 0);
}

#[test]
fn a_directory_is_opened_once() {
    let home = tempfile::tempdir().unwrap();
    let log = open(home.path());
    let error = try_open(home.path(), &options()).err();
    let path = home.path().display().to_string();
    assert_eq!(error, Some(StorageError::InUse { path }));
    drop(log);
    open(home.path());
}

/// Records of which a block holds many, closed; and where the last block begins that has any.
fn blocks() -> (tempfile::TempDir, Vec<Vec<u8>>, usize) {
    let home = tempfile::tempdir().unwrap();
    let mut log = try_open(home.path(), &large()).unwrap();
    let records: Vec<Vec<u8>> = (0..100).map(|n: u8| vec![n + 1; 200]).collect();
    records.iter().for_each(|record| log.append(&[record]));
    drop(log);
    let end = extent(&fs::read(segment(home.path(), 1)).unwrap());
    (home, records, (end - 1) / 4096 * 4096)
}

fn large() -> WalOptions {
    WalOptions {
        segment_bytes: 64 << 10,
        ..options()
    }
}

#[test]
fn a_last_block_that_is_lost_after_a_clean_stop_is_reported() {
    let (home, _, last) = blocks();
    let file = segment(home.path(), 1);
    let sound = fs::read(&file).unwrap();
    for (from, fill) in [(last, 0), (last, 0xff), (last - 4096, 0), (4096, 0)] {
        let mut damaged = sound.clone();
        damaged[from..last + 4096].fill(fill);
        fs::write(&file, damaged).unwrap();
        let before = contents(home.path());
        match try_open(home.path(), &large()).err() {
            Some(StorageError::Damaged { path, offset, .. }) => {
                assert_eq!(Path::new(&path), file);
                assert!(
                    offset <= from as u64 && offset + 224 > from as u64,
                    "{offset}"
                );
            }
            other => panic!("{from}: {other:?}"),
        }
        assert!(before == contents(home.path()), "something was changed");
    }
}

#[test]
fn the_end_of_a_segment_is_vouched_for_before_there_is_anything_in_the_next() {
    let home = tempfile::tempdir().unwrap();
    let mut log = try_open(home.path(), &small()).unwrap();
    log.append(&[RECORDS[0]]);
    // The third needs the next segment, and the disk dies once that has been begun.
    log.append(&[RECORDS[1]]);
    log.append(&[RECORDS[2]]);
    let crashed = image(home.path());
    let next = segment(crashed.path(), 2);
    fs::remove_file(segment(crashed.path(), 3)).ok();
    let mut nothing = fs::read(&next).unwrap();
    nothing[40..].fill(0);
    fs::write(&next, nothing).unwrap();
    let file = segment(crashed.path(), 1);
    let mut damaged = fs::read(&file).unwrap();
    let end = extent(&damaged);
    damaged[end - 24..].fill(0);
    fs::write(&file, damaged).unwrap();
    let error = try_open(crashed.path(), &small()).err();
    assert!(
        matches!(error, Some(StorageError::Damaged { .. })),
        "{error:?}"
    );
}

/// A log that marks what is durable when nothing has come for so long, and its mark at the start.
fn marking(home: &Path, segment_bytes: u64, after: Duration) -> (support::Log, Vec<u8>) {
    let options = WalOptions {
        segment_bytes,
        mark_after: after,
        ..options()
    };
    let log = try_open(home, &options).unwrap();
    (log, fs::read(home.join("durable")).unwrap())
}

/// The last block with anything in it is lost, and a restart says so.
fn assert_last_block_is_vouched_for(home: &Path) {
    let crashed = image(home);
    let file = segment(crashed.path(), 1);
    let mut damaged = fs::read(&file).unwrap();
    let last = (extent(&damaged) - 1) / 4096 * 4096;
    damaged[last..].fill(0);
    fs::write(&file, damaged).unwrap();
    let error = try_open(crashed.path(), &large()).err();
    assert!(
        matches!(error, Some(StorageError::Damaged { .. })),
        "{error:?}"
    );
}

#[test]
fn what_is_durable_when_no_work_comes_is_vouched_for_beside_the_log() {
    let home = tempfile::tempdir().unwrap();
    let (mut log, before) = marking(home.path(), 64 << 10, Duration::ZERO);
    log.append(&[&[1; 5_000], &[2; 3_000]]);
    while fs::read(home.path().join("durable")).unwrap() == before {
        std::thread::yield_now();
    }
    assert_last_block_is_vouched_for(home.path());
}

/// Work that leaves no pause.
#[test]
fn what_is_durable_is_vouched_for_now_and_then_while_work_never_ceases() {
    let home = tempfile::tempdir().unwrap();
    // Another segment would be one more reason.
    let (mut log, before) = marking(home.path(), 4 << 20, Duration::from_millis(20));
    let begun = Instant::now();
    while fs::read(home.path().join("durable")).unwrap() == before {
        log.append(&[b"work"]);
        assert!(begun.elapsed() < Duration::from_secs(30), "nothing is said");
    }
}

#[test]
fn the_mark_of_another_log_vouches_for_nothing() {
    let (longer, home) = (filled(true), tempfile::tempdir().unwrap());
    drop(try_open(home.path(), &large()).unwrap());
    let [from, to] = [&longer, &home].map(|home| home.path().join("durable"));
    fs::copy(from, to).unwrap();
    assert!(try_open(home.path(), &large()).is_ok());
}

/// It takes damage to both, the log and the mark beside it, to lose what was durable: and then it is
/// said.
#[test]
fn what_is_cut_is_said_with_its_place_and_size() {
    let (home, records, last) = blocks();
    let file = segment(home.path(), 1);
    let mut damaged = fs::read(&file).unwrap();
    let end = extent(&damaged);
    damaged[last..last + 100].fill(0);
    fs::write(&file, damaged).unwrap();
    // The frames behind say what was durable when they were written, of the place that is lost too.
    let error = try_open(home.path(), &large()).err();
    assert!(
        matches!(error, Some(StorageError::Damaged { .. })),
        "{error:?}"
    );

    let mut log = try_open(home.path().join("again").as_path(), &large()).unwrap();
    let given: Vec<&[u8]> = records.iter().map(Vec::as_slice).collect();
    log.append(&given);
    let crashed = image(&home.path().join("again"));
    let file = segment(crashed.path(), 1);
    let mut torn = fs::read(&file).unwrap();
    torn[last..last + 100].fill(0);
    fs::write(&file, torn).unwrap();
    let (said, log) = support::said(|| try_open(crashed.path(), &large()).unwrap());
    let kept = log.stored.records.len();
    assert!(kept < 100 && log.stored.records == records[..kept]);
    let offset = 40 + 2 * 24 + kept * 224;
    let expected = [
        String::from("the log is cut"),
        format!("path={}", file.display()),
        format!("offset={offset}"),
        format!("bytes={}", end - 24 - offset),
        String::from("a write was torn by a crash"),
    ];
    for part in expected {
        assert!(said.contains(&part), "{part}: {said}");
    }
    drop(log);
    let (said, _) = support::said(|| try_open(crashed.path(), &large()).unwrap());
    assert!(!said.contains("cut"), "{said}");
}
