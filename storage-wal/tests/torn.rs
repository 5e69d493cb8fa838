//! What a crash may leave of the last write, and what is made of it.

mod support;

use std::fs;

use quorate_core::Bytes;
use quorate_storage_wal::WalOptions;
use support::{image, open, options, records_in, segment, settled_image, try_open};

/// The offset after the last byte that is not zero.
fn written(file: &[u8]) -> usize {
    file.iter()
        .rposition(|byte| *byte != 0)
        .map_or(0, |last| last + 1)
}

#[test]
fn a_write_torn_at_any_byte_is_cut() {
    let home = tempfile::tempdir().unwrap();
    let mut log = open(home.path());
    log.append(&[b"first!!!", b"second!!"]);
    let before = fs::read(segment(home.path(), 1)).unwrap();
    log.append(&[b"the last record!"]);
    let after = fs::read(segment(home.path(), 1)).unwrap();
    let (start, end) = (written(&before), written(&after));
    assert_eq!(end - start, 24 + b"the last record!".len());

    for torn in start..=end {
        let crashed = image(home.path());
        let file = [&after[..torn], &before[torn..]].concat();
        fs::write(segment(crashed.path(), 1), file).unwrap();
        let mut log = open(crashed.path());
        let mut expected: Vec<&[u8]> = vec![b"first!!!", b"second!!"];
        if torn == end {
            expected.push(b"the last record!");
        }
        assert_eq!(log.stored.records, expected, "torn at {torn}");
        log.append(&[b"next"]);
        expected.push(b"next");
        drop(log);
        assert_eq!(records_in(crashed.path()).unwrap(), expected);
    }
}

#[test]
fn what_a_torn_write_left_behind_the_cut_never_comes_back() {
    let home = tempfile::tempdir().unwrap();
    let mut log = open(home.path());
    log.append(&[b"synced"]);
    let start = written(&fs::read(segment(home.path(), 1)).unwrap()).next_multiple_of(8);
    log.append(&[b"lost", b"whole on disk, but after a lost one", b"this too"]);
    let crashed = image(home.path());

    // The disk wrote the later sectors of the write and not the first.
    let path = segment(crashed.path(), 1);
    let mut file = fs::read(&path).unwrap();
    file[start..start + 32].fill(0);
    fs::write(&path, file).unwrap();

    let mut log = open(crashed.path());
    assert_eq!(log.stored.records, [&b"synced"[..]]);
    // It takes exactly the place of the lost one.
    log.append(&[b"LOST"]);
    let again = image(crashed.path());
    assert_eq!(records_in(again.path()).unwrap(), [&b"synced"[..], b"LOST"]);
}

/// Numbers that look random and are the same in every run.
struct Sequence(u64);

impl Sequence {
    fn next(&mut self, below: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (self.0 >> 33) % below
    }
}

/// Life after life, each ending in a crash in which any subset of the sectors of the last write
/// reached the disk: all that was durable is there, and of the last write a prefix.
#[test]
fn whatever_sectors_of_the_last_write_survive_a_prefix_comes_back() {
    let home = tempfile::tempdir().unwrap();
    let mut random = Sequence(11);
    let mut held: Vec<Bytes> = Vec::new();
    let mut torn = 0;
    // Large enough that each life stays within the segment.
    let options = WalOptions {
        segment_bytes: 256 << 10,
        ..options()
    };
    for life in 0..120u64 {
        let mut log = try_open(home.path(), &options).unwrap();
        assert_eq!(log.stored.records, held, "life {life}");
        let durable = vec![life as u8; random.next(700) as usize];
        log.append(&[&durable]);
        held.push(Bytes::from(durable));
        let before = fs::read(segment(home.path(), 1)).unwrap();

        let last: Vec<Bytes> = (0..1 + random.next(4))
            .map(|index| Bytes::from(vec![(life + index) as u8; random.next(900) as usize]))
            .collect();
        let given: Vec<&[u8]> = last.iter().map(Bytes::as_ref).collect();
        log.append(&given);
        let after = fs::read(segment(home.path(), 1)).unwrap();
        // The process does not end; the disk does, and there is no mark of the end.
        let mark = fs::read(home.path().join("durable")).unwrap();
        drop(log);
        fs::write(home.path().join("durable"), mark).unwrap();

        let sectors = before.chunks(512).zip(after.chunks(512));
        let survived: Vec<u8> = sectors
            .flat_map(|(before, after)| if random.next(4) == 0 { before } else { after })
            .copied()
            .collect();
        fs::write(segment(home.path(), 1), survived).unwrap();
        let found = try_open(home.path(), &options).unwrap().stored.records;
        let kept = found
            .len()
            .checked_sub(held.len())
            .expect("what was durable is there");
        torn += usize::from(kept < last.len());
        held.extend(last.into_iter().take(kept));
        assert_eq!(found, held, "life {life}");
    }
    assert!((10..110).contains(&torn), "{torn} torn writes of 120");
}

#[test]
fn an_image_taken_at_any_time_holds_what_was_durable_then() {
    let home = tempfile::tempdir().unwrap();
    let mut log = open(home.path());
    let mut given: Vec<Bytes> = Vec::new();
    for index in 0..60u32 {
        let record = Bytes::from(index.to_string().repeat(60));
        log.append(&[&record]);
        given.push(record);
        if index % 20 == 19 {
            let records: Vec<&[u8]> = given.iter().skip(5).map(Bytes::as_ref).collect();
            log.rewrite(&records);
            given.drain(..5);
        }
        let crashed = settled_image(home.path());
        assert_eq!(records_in(crashed.path()).unwrap(), given, "after {index}");
    }
}
