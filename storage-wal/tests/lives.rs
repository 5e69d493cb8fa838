//! Whatever a replica's history, each of its lives begins no earlier than anything that it has told:
//! its peers must never refuse one that has forgotten nothing.

mod support;

use std::fs;
use std::time::Duration;

use quorate_core::id::ReplicaId;
use quorate_core::life::{Acquaintances as _, Life, Met, PAST, Position, Refusal};
use quorate_core::storage::StorageError;
use quorate_storage_wal::{Faults, WalOptions};
use support::{Log, Said, names, options, settled_image, try_open};
use tempfile::TempDir;

/// Numbers that look random and are the same in every run.
struct Sequence(u64);

impl Sequence {
    fn next(&mut self, below: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % below
    }
}

/// What its peers remember of a replica, and what it is to remember of one of them.
#[derive(Default)]
struct Told {
    met: Option<Met>,
    begun: Vec<Life>,
    peer: u64,
    /// How lives have ended, and records were lost that nobody was told of.
    ends: [usize; 5],
}

const PEER: ReplicaId = ReplicaId(3);

impl Told {
    /// A life begins: its peers let it in, and it has forgotten none of them.
    fn begins(&mut self, log: &Log, case: &str) {
        let memory = log.wal.memory();
        let own = memory.own();
        let met = Met::next(self.met, own).unwrap_or_else(|refusal| panic!("{case}: {refusal}"));
        assert!(
            self.begun.iter().all(|life| life.nonce != own.nonce),
            "{case}"
        );
        self.met = Some(met);
        self.begun.push(own);
        assert_eq!(memory.position(), own.start, "{case}");
        if self.peer > 0 {
            let refused = memory.meet(PEER, peer_life(self.peer - 1));
            assert!(
                matches!(refused, Err(Refusal::Earlier { .. })),
                "{case}: {refused:?}"
            );
        }
        if memory.meet(PEER, peer_life(self.peer + 1)).is_ok() {
            self.peer += 1;
        }
    }

    fn tells(&mut self, position: Position) {
        let met = self.met.as_mut().expect("a life has begun");
        met.position = met.position.max(position);
    }
}

fn peer_life(number: u64) -> Life {
    Life {
        number,
        nonce: number,
        start: Position(number),
        past: [0; PAST],
    }
}

/// Gives appends and rewrites, some of them larger than a segment.
fn give(log: &mut Log, random: &mut Sequence, most: u64) {
    for _ in 0..=random.next(most) {
        let replaces = random.next(4) == 0;
        let records: Vec<Vec<u8>> = (0..random.next(5))
            .map(|_| vec![random.next(255) as u8 + 1; random.next(700) as usize])
            .collect();
        let records: Vec<&[u8]> = records.iter().map(Vec::as_slice).collect();
        let ticket = log.give(replaces, &records);
        if random.next(2) == 0 && !reaches(log, &Said::Durable(ticket)) {
            return;
        }
    }
    let last = log.give(false, &[b"last"]);
    reaches(log, &Said::Durable(last));
}

/// Whether this is said before it is said that the disk has failed, or is full.
fn reaches(log: &Log, expected: &Said) -> bool {
    loop {
        match log.said.recv() {
            Ok(said) if said == *expected => return true,
            Ok(Said::Failed(_) | Said::ShortOfRoom(true)) | Err(_) => return false,
            Ok(_) => {}
        }
    }
}

/// Has the disk lose any of the sectors of what was written after `before`, if that is all in one
/// segment, and else all of it: what is in others was synced before.
fn tear(before: TempDir, after: TempDir, random: &mut Sequence) -> TempDir {
    let read = |home: &TempDir, name: &String| fs::read(home.path().join(name)).unwrap();
    let segments = names(before.path(), "segment-");
    let same = segments == names(after.path(), "segment-");
    let changed: Vec<_> = segments
        .iter()
        .filter(|name| same && read(&before, name) != read(&after, name))
        .collect();
    let [name] = changed[..] else {
        return before;
    };
    let (old, new) = (read(&before, name), read(&after, name));
    let sectors = old.chunks(512).zip(new.chunks(512));
    let survived: Vec<u8> = sectors
        .flat_map(|(old, new)| if random.next(3) == 0 { old } else { new })
        .copied()
        .collect();
    fs::write(after.path().join(name), survived).unwrap();
    fs::copy(before.path().join("durable"), after.path().join("durable")).unwrap();
    after
}

/// One life, from the directory `home`; returns what it leaves.
fn live(home: TempDir, told: &mut Told, random: &mut Sequence, case: &str) -> TempDir {
    let faults = Faults::default();
    let marks = random.next(2) == 0;
    let options = WalOptions {
        segment_bytes: [512, 700, 4096][random.next(3) as usize],
        spare_segments: random.next(3) as usize,
        faults: faults.clone(),
        mark_after: if marks {
            Duration::from_millis(1)
        } else {
            Duration::MAX
        },
    };
    let end = random.next(5);
    match end {
        0 => faults.fill_after(random.next(24_000)),
        1 => faults.fail_syncs_after(random.next(30)),
        2 => faults.limit_room(random.next(6_000)),
        _ => {}
    }
    told.ends[end as usize] += 1;
    let mut log = match try_open(home.path(), &options) {
        Ok(log) => log,
        Err(StorageError::Io { .. } | StorageError::Full { .. }) if end < 3 => return home,
        Err(error) => panic!("{case}: {error}"),
    };
    told.begins(&log, case);
    give(&mut log, random, 6);
    let memory = log.wal.memory();
    told.tells(memory.position());
    let crashed = match end {
        3 => settled_image(home.path()),
        4 if !marks => {
            let before = settled_image(home.path());
            let torn = vec![b't'; random.next(1500) as usize];
            let ticket = log.give(false, &[b"torn", &torn]);
            reaches(&log, &Said::Durable(ticket));
            let after = settled_image(home.path());
            drop(log);
            return tear(before, after, random);
        }
        _ => {
            drop(log);
            told.tells(memory.position());
            return home;
        }
    };
    drop(log);
    crashed
}

#[test]
fn whatever_its_history_a_replica_that_forgot_nothing_is_let_in() {
    let mut ends = [0; 5];
    for seed in 0..60 {
        let mut random = Sequence(seed);
        random.next(1);
        let mut home = tempfile::tempdir().unwrap();
        let mut told = Told::default();
        for life in 0..12 {
            home = live(
                home,
                &mut told,
                &mut random,
                &format!("seed {seed}, life {life}"),
            );
        }
        assert!(told.begun.len() > 2, "seed {seed}");
        for (all, of_seed) in ends.iter_mut().zip(told.ends) {
            *all += of_seed;
        }
    }
    assert!(ends.iter().all(|lives| *lives > 50), "{ends:?}");
}

/// While a disk is full, what it has acknowledged is told like anything else.
#[test]
fn what_is_durable_is_told_while_the_rest_waits_for_room() {
    let home = tempfile::tempdir().unwrap();
    let faults = Faults::default();
    let options = WalOptions {
        faults: faults.clone(),
        ..options()
    };
    let mut log = try_open(home.path(), &options).unwrap();
    support::until_prepared(home.path(), 2);
    faults.limit_room(0);
    // Of records of which a segment holds three.
    let tickets: Vec<_> = (0..8).map(|n| log.give(false, &[&[n; 1000]])).collect();
    log.until(&Said::Durable(tickets[5]));
    let told = log.wal.memory().position();
    assert!(told >= Position::new(2, 3000), "only {told} is told");
}
