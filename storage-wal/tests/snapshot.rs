//! Snapshot files are whole or absent, and damage to them is reported.

mod support;

use std::fs;
use std::path::{Path, PathBuf};

use quorate_core::storage::StorageError;
use support::{contents, image, names, open, options, segment, snapshot, try_open};

fn file(path: &Path, number: u64) -> PathBuf {
    path.join(format!("snapshot-{number:016}"))
}

fn saved() -> tempfile::TempDir {
    let home = tempfile::tempdir().unwrap();
    let mut log = open(home.path());
    log.save(7, b"the state of a machine");
    drop(log);
    home
}

fn offset_of_damage(path: &Path, file: &Path) -> u64 {
    let before = contents(path);
    let error = try_open(path, &options()).err().expect("damage is noticed");
    assert!(before == contents(path), "something was changed");
    match error {
        StorageError::Damaged { path, offset, .. } => {
            assert_eq!(Path::new(&path), file);
            offset
        }
        other => panic!("{other}"),
    }
}

#[test]
fn a_changed_bit_is_reported() {
    let home = saved();
    let file = file(home.path(), 1);
    let sound = fs::read(&file).unwrap();
    for bit in 0..sound.len() * 8 {
        let mut damaged = sound.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        fs::write(&file, damaged).unwrap();
        assert!(offset_of_damage(home.path(), &file) <= bit as u64 / 8);
    }
}

#[test]
fn a_truncated_or_lengthened_snapshot_is_reported() {
    let home = saved();
    let file = file(home.path(), 1);
    let sound = fs::read(&file).unwrap();
    for length in 0..sound.len() {
        fs::write(&file, &sound[..length]).unwrap();
        assert_eq!(offset_of_damage(home.path(), &file), length as u64);
    }
    fs::write(&file, [&sound[..], b"x"].concat()).unwrap();
    assert_eq!(offset_of_damage(home.path(), &file), sound.len() as u64);
}

#[test]
fn only_the_newest_is_kept() {
    let home = saved();
    let first = image(home.path());
    let mut log = open(home.path());
    log.save(8, b"second");
    log.save(9, b"third");
    drop(log);
    assert_eq!(
        names(home.path(), "snapshot-"),
        ["snapshot-0000000000000003"]
    );

    // A crash may leave older ones, and one that was never finished.
    fs::copy(file(first.path(), 1), file(home.path(), 1)).unwrap();
    fs::write(home.path().join("snapshot-0000000000000004.tmp"), "half").unwrap();
    let mut log = open(home.path());
    assert_eq!(log.stored.snapshot, Some(snapshot(9, b"third")));
    assert_eq!(
        names(home.path(), "snapshot-"),
        ["snapshot-0000000000000003"]
    );
    log.save(10, b"fourth");
    drop(log);
    assert_eq!(
        open(home.path()).stored.snapshot,
        Some(snapshot(10, b"fourth"))
    );
}

#[test]
fn a_snapshot_without_its_log_is_reported() {
    let home = saved();
    for name in names(home.path(), "segment-") {
        fs::remove_file(home.path().join(name)).unwrap();
    }
    offset_of_damage(home.path(), &segment(home.path(), 1));
}
