//! What every implementation of [`Storage`] must do, as checks that any of them can run.
//!
//! This is a test suite: a check that fails panics and says what was expected. An implementation
//! gives a [`Harness`] and calls [`run`] in a test, or the checks one by one. What happens in a
//! crash is each implementation's own to test.

#![expect(
    clippy::expect_used,
    reason = "tests alone call it, and what they expect is what they test"
)]

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::{Completions, Records, Snapshot, Storage, StorageError, Stored, Ticket};
use crate::crypto::Digest;
use crate::frontier::Frontier;
use crate::id::Slot;
use crate::protocol::SnapshotRef;

/// How the checks get at an implementation.
pub trait Harness {
    /// The implementation.
    type Storage: Storage;

    /// Opens storage that was never used before.
    fn create(&mut self, told: Arc<Told>) -> Result<(Self::Storage, Stored), StorageError>;

    /// Closes `storage` and opens it again, with another listener.
    fn reopen(
        &mut self,
        storage: Self::Storage,
        told: Arc<Told>,
    ) -> Result<(Self::Storage, Stored), StorageError>;

    /// Returns when `done` does return true, which `storage` will bring about by telling `told`.
    /// How to wait is the implementation's to know, as is when to give up.
    fn wait(&mut self, storage: &mut Self::Storage, told: &Told, done: &mut dyn FnMut() -> bool);
}

/// Writes down what storage says.
#[derive(Debug, Default)]
pub struct Told(Mutex<Calls>);

#[derive(Debug, Default)]
struct Calls {
    durable: Vec<Ticket>,
    saved: Vec<Ticket>,
    failed: Option<StorageError>,
}

impl Told {
    /// The last append said to be durable.
    pub fn last_durable(&self) -> Option<Ticket> {
        self.calls().durable.last().copied()
    }

    /// The last save said to be durable.
    pub fn last_saved(&self) -> Option<Ticket> {
        self.calls().saved.last().copied()
    }

    /// Why storage failed, if it did.
    pub fn failure(&self) -> Option<StorageError> {
        self.calls().failed.clone()
    }

    fn calls(&self) -> MutexGuard<'_, Calls> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Completions for Told {
    fn durable(&self, ticket: Ticket) {
        let mut calls = self.calls();
        assert!(
            calls.durable.last().is_none_or(|last| *last < ticket),
            "{ticket:?} was said to be durable after {:?}",
            calls.durable.last()
        );
        calls.durable.push(ticket);
    }

    fn saved(&self, ticket: Ticket) {
        let mut calls = self.calls();
        assert!(
            calls.saved.last().is_none_or(|last| *last < ticket),
            "{ticket:?} was said to be saved after {:?}",
            calls.saved.last()
        );
        calls.saved.push(ticket);
    }

    fn failed(&self, error: StorageError) {
        let before = self.calls().failed.replace(error);
        assert_eq!(before, None, "a failure was told twice");
    }

    fn short_of_room(&self, _: bool) {}
}

/// Runs all checks, each with storage of its own.
pub fn run<H: Harness>(harness: &mut H) {
    new_storage_is_empty(harness);
    records_come_back_in_order(harness);
    completions_are_in_order_and_of_one_kind(harness);
    an_append_without_records_completes(harness);
    a_rewrite_replaces_all_before_it(harness);
    an_append_follows_a_rewrite(harness);
    the_last_rewrite_wins(harness);
    a_rewrite_with_nothing_empties(harness);
    a_snapshot_comes_back_whole(harness);
    the_newest_snapshot_wins(harness);
    snapshots_and_records_are_apart(harness);
    sizes_do_not_matter(harness);
    many_small_appends_come_back(harness);
    each_life_adds_to_the_one_before(harness);
}

/// New storage holds nothing, and still does when nothing was given to it.
pub fn new_storage_is_empty<H: Harness>(harness: &mut H) {
    let run = Run::new(harness);
    assert_eq!(run.reopen().stored, Stored::default());
}

/// Records come back as they were given, in the order in which they were given.
pub fn records_come_back_in_order<H: Harness>(harness: &mut H) {
    let mut run = Run::new(harness);
    run.append(false, &[b"one", b"two"]);
    run.append(false, &[b"three"]);
    let ticket = run.append(false, &[b"four", b"five"]);
    run.await_durable(ticket);
    run.reopen()
        .holds(&[b"one", b"two", b"three", b"four", b"five"]);
}

/// Each ticket completes, in order (which [`Told`] checks), appends as durable and saves as
/// saved, and nothing is said to be done that was never given.
pub fn completions_are_in_order_and_of_one_kind<H: Harness>(harness: &mut H) {
    let mut run = Run::new(harness);
    for round in 0..20u64 {
        run.append(false, &[&round.to_le_bytes()]);
        let replaces = round % 7 == 3;
        let append = run.append(replaces, &[b"second"]);
        let save = run.save(round, b"snapshot");
        if round % 3 == 0 {
            run.await_saved(save);
            run.await_durable(append);
        }
        assert!(
            run.told.last_durable() <= Some(append),
            "more is durable than was given"
        );
        assert!(
            run.told.last_saved() <= Some(save),
            "more is saved than was given"
        );
    }
    let append = run.append(false, &[b"last"]);
    run.await_durable(append);
    let save = run.save(99, b"last");
    run.await_saved(save);
    assert_eq!(run.told.last_durable(), Some(append));
    assert_eq!(run.told.last_saved(), Some(save));
}

/// An append of no records completes like any other.
pub fn an_append_without_records_completes<H: Harness>(harness: &mut H) {
    let mut run = Run::new(harness);
    let empty = run.append(false, &[]);
    run.await_durable(empty);
    run.append(false, &[b"one"]);
    let empty = run.append(false, &[]);
    run.await_durable(empty);
    run.reopen().holds(&[b"one"]);
}

/// After an append that replaces, nothing given before it comes back.
pub fn a_rewrite_replaces_all_before_it<H: Harness>(harness: &mut H) {
    let mut run = Run::new(harness);
    run.append(false, &[b"one", b"two"]);
    run.append(false, &[b"three"]);
    let ticket = run.append(true, &[b"base", b"more"]);
    run.await_durable(ticket);
    run.reopen().holds(&[b"base", b"more"]);
}

/// What is appended after a rewrite comes back after what was rewritten.
pub fn an_append_follows_a_rewrite<H: Harness>(harness: &mut H) {
    let mut run = Run::new(harness);
    run.append(false, &[b"one"]);
    run.append(true, &[b"base"]);
    let ticket = run.append(false, &[b"two"]);
    run.await_durable(ticket);
    let mut run = run.reopen();
    run.holds(&[b"base", b"two"]);
    let ticket = run.append(false, &[b"three"]);
    run.await_durable(ticket);
    run.reopen().holds(&[b"base", b"two", b"three"]);
}

/// Of several rewrites the last counts, be they one after the other or with records between.
pub fn the_last_rewrite_wins<H: Harness>(harness: &mut H) {
    let mut run = Run::new(harness);
    run.append(true, &[b"first"]);
    run.append(true, &[b"second"]);
    run.append(false, &[b"between"]);
    let ticket = run.append(true, &[b"third"]);
    run.await_durable(ticket);
    let mut run = run.reopen();
    run.holds(&[b"third"]);
    let ticket = run.append(true, &[b"fourth"]);
    run.await_durable(ticket);
    run.reopen().holds(&[b"fourth"]);
}

/// A rewrite may leave no records at all.
pub fn a_rewrite_with_nothing_empties<H: Harness>(harness: &mut H) {
    let mut run = Run::new(harness);
    run.append(false, &[b"one"]);
    let ticket = run.append(true, &[]);
    run.await_durable(ticket);
    run.reopen().holds(&[]);
}

/// A snapshot comes back with its frontier, digest, anchor and body.
pub fn a_snapshot_comes_back_whole<H: Harness>(harness: &mut H) {
    for body in [Vec::new(), b"state".to_vec(), pattern(3 << 20, 5)] {
        let mut run = Run::new(harness);
        let ticket = run.save(41, &body);
        run.await_saved(ticket);
        let run = run.reopen();
        assert!(
            run.stored.snapshot == Some(snapshot(41, &body)),
            "a snapshot of {} bytes did not come back as it was",
            body.len()
        );
    }
}

/// Of several snapshots the one given last comes back.
pub fn the_newest_snapshot_wins<H: Harness>(harness: &mut H) {
    let mut run = Run::new(harness);
    let first = run.save(1, b"first");
    run.await_saved(first);
    run.save(2, b"second");
    let third = run.save(3, b"third");
    run.await_saved(third);
    let mut run = run.reopen();
    assert_eq!(run.stored.snapshot, Some(snapshot(3, b"third")));
    let fourth = run.save(4, b"fourth");
    run.await_saved(fourth);
    assert_eq!(run.reopen().stored.snapshot, Some(snapshot(4, b"fourth")));
}

/// Neither a snapshot touches the records nor a rewrite the snapshot.
pub fn snapshots_and_records_are_apart<H: Harness>(harness: &mut H) {
    let mut run = Run::new(harness);
    run.append(false, &[b"one"]);
    let save = run.save(1, b"state");
    run.await_saved(save);
    let append = run.append(false, &[b"two"]);
    run.await_durable(append);
    let mut run = run.reopen();
    run.holds(&[b"one", b"two"]);
    assert_eq!(run.stored.snapshot, Some(snapshot(1, b"state")));
    let append = run.append(true, &[b"base"]);
    run.await_durable(append);
    let run = run.reopen();
    run.holds(&[b"base"]);
    assert_eq!(run.stored.snapshot, Some(snapshot(1, b"state")));
}

/// Records of no bytes and of several MiB come back, in appends and in rewrites.
pub fn sizes_do_not_matter<H: Harness>(harness: &mut H) {
    for replaces in [false, true] {
        let mut run = Run::new(harness);
        let (large, larger) = (pattern(3 << 20, 1), pattern(5 << 20, 2));
        let given: [&[u8]; 8] = [b"", b"x", &large, b"", &larger, b"", b"", b"end"];
        let ticket = run.append(replaces, &given);
        run.await_durable(ticket);
        let mut run = run.reopen();
        run.holds(&given);
        let ticket = run.append(false, &[&large]);
        run.await_durable(ticket);
        let expected = [&given[..], &[&large]].concat();
        run.reopen().holds(&expected);
    }
}

/// Many small appends, with rewrites among them, all come back.
pub fn many_small_appends_come_back<H: Harness>(harness: &mut H) {
    let mut run = Run::new(harness);
    let mut expected: Vec<Vec<u8>> = Vec::new();
    let mut last = None;
    for index in 0..3_000u32 {
        let record = pattern(index as usize % 90, index as u8);
        let replaces = index % 1_100 == 1_099;
        if replaces {
            expected.clear();
        }
        last = Some(run.append(replaces, &[&record]));
        expected.push(record);
    }
    last.into_iter()
        .for_each(|ticket| run.await_durable(ticket));
    let expected: Vec<&[u8]> = expected.iter().map(Vec::as_slice).collect();
    run.reopen().holds(&expected);
}

/// Storage opened again and again goes on where it was.
pub fn each_life_adds_to_the_one_before<H: Harness>(harness: &mut H) {
    let mut run = Run::new(harness);
    let mut expected: Vec<Vec<u8>> = Vec::new();
    for life in 0..12u8 {
        for length in [0, 7, 300] {
            let record = pattern(length, life);
            let ticket = run.append(false, &[&record]);
            expected.push(record);
            if length == 7 {
                run.await_durable(ticket);
            }
        }
        let ticket = run.append(false, &[]);
        run.await_durable(ticket);
        run = run.reopen();
        let expected: Vec<&[u8]> = expected.iter().map(Vec::as_slice).collect();
        run.holds(&expected);
    }
}

/// One storage under check.
struct Run<'h, H: Harness> {
    harness: &'h mut H,
    storage: H::Storage,
    stored: Stored,
    told: Arc<Told>,
    next: u64,
}

impl<'h, H: Harness> Run<'h, H> {
    fn new(harness: &'h mut H) -> Self {
        let told = Arc::new(Told::default());
        let opened = harness.create(Arc::clone(&told));
        let (storage, stored) = opened.expect("new storage opens");
        assert_eq!(stored, Stored::default(), "new storage is not empty");
        Run {
            harness,
            storage,
            stored,
            told,
            next: 1,
        }
    }

    fn reopen(self) -> Self {
        assert_eq!(self.told.failure(), None, "storage failed");
        let told = Arc::new(Told::default());
        let opened = self.harness.reopen(self.storage, Arc::clone(&told));
        let (storage, stored) = opened.expect("storage opens again");
        Run {
            harness: self.harness,
            storage,
            stored,
            told,
            next: self.next,
        }
    }

    fn ticket(&mut self) -> Ticket {
        let ticket = Ticket(self.next);
        self.next += 1;
        ticket
    }

    fn append(&mut self, replaces: bool, given: &[&[u8]]) -> Ticket {
        let mut records = Records::default();
        given.iter().for_each(|record| records.push(record));
        let ticket = self.ticket();
        self.storage.append(ticket, replaces, records);
        ticket
    }

    fn save(&mut self, slot: u64, body: &[u8]) -> Ticket {
        let ticket = self.ticket();
        self.storage.save(ticket, snapshot(slot, body));
        ticket
    }

    fn await_durable(&mut self, ticket: Ticket) {
        let told = Arc::clone(&self.told);
        let mut done = || {
            assert_eq!(told.failure(), None, "storage failed");
            told.last_durable() >= Some(ticket)
        };
        self.harness.wait(&mut self.storage, &told, &mut done);
        assert!(
            done(),
            "the harness did not wait until {ticket:?} was durable"
        );
    }

    fn await_saved(&mut self, ticket: Ticket) {
        let told = Arc::clone(&self.told);
        let mut done = || {
            assert_eq!(told.failure(), None, "storage failed");
            told.last_saved() >= Some(ticket)
        };
        self.harness.wait(&mut self.storage, &told, &mut done);
        assert!(
            done(),
            "the harness did not wait until {ticket:?} was saved"
        );
    }

    fn holds(&self, expected: &[&[u8]]) {
        let found = &self.stored.records;
        let differs = found
            .iter()
            .zip(expected)
            .position(|(found, expected)| found != expected);
        assert_eq!(
            differs, None,
            "the record of this index is not what was given"
        );
        assert_eq!(found.len(), expected.len(), "the number of records");
    }
}

fn snapshot(slot: u64, body: &[u8]) -> Snapshot {
    Snapshot {
        id: SnapshotRef {
            at: Frontier::single(Slot(slot)),
            digest: Digest::of(body),
            anchor: Bytes::from(format!("anchor of {slot}")),
        },
        body: Bytes::copy_from_slice(body),
    }
}

/// Bytes that differ from place to place and from seed to seed.
fn pattern(length: usize, seed: u8) -> Vec<u8> {
    (0..length)
        .map(|index| (index as u32).wrapping_mul(0x9e37_79b1).to_le_bytes()[3] ^ seed)
        .collect()
}
