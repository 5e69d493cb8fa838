//! What the tests of the log share.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test file is a crate of its own, and uses a part of this one"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use quorate_core::Bytes;
use quorate_core::crypto::{Digest, GroupId, PublicKey};
use quorate_core::epoch::Epoch;
use quorate_core::frontier::Frontier;
use quorate_core::id::{ReplicaId, Slot};
use quorate_core::protocol::SnapshotRef;
use quorate_core::storage::{
    Completions, Records, Snapshot, Storage, StorageError, Stored, Ticket,
};
use quorate_storage_wal::{Identity, Wal, WalOptions};

/// What the log says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    Durable(Ticket),
    Saved(Ticket),
    Failed(StorageError),
    ShortOfRoom(bool),
}

pub struct Listener(pub Sender<Said>);

impl Completions for Listener {
    fn durable(&self, ticket: Ticket) {
        self.0.send(Said::Durable(ticket)).ok();
    }

    fn saved(&self, ticket: Ticket) {
        self.0.send(Said::Saved(ticket)).ok();
    }

    fn failed(&self, error: StorageError) {
        self.0.send(Said::Failed(error)).ok();
    }

    fn short_of_room(&self, short: bool) {
        self.0.send(Said::ShortOfRoom(short)).ok();
    }
}

/// An open log, and what it says.
pub struct Log {
    pub wal: Wal,
    pub stored: Stored,
    pub said: Receiver<Said>,
    next: u64,
}

/// Small segments, and no mark before the log is closed, so that what is in the files does not
/// depend on time.
pub fn options() -> WalOptions {
    WalOptions {
        segment_bytes: 4096,
        spare_segments: 4,
        mark_after: Duration::MAX,
        ..WalOptions::default()
    }
}

/// Whose the logs are.
pub fn owner() -> Identity {
    Identity {
        group: GroupId(1),
        replica: ReplicaId(0),
        key: PublicKey([7; 32]),
        protocol: String::from("test"),
    }
}

/// What they are used under.
pub fn epoch() -> Epoch {
    Epoch::first(owner().group, &owner().protocol, &[owner().key])
}

/// Opens the log, for the first time if there is none.
pub fn try_open(path: &Path, options: &WalOptions) -> Result<Log, StorageError> {
    if !Wal::has_begun(path)? {
        Wal::prepare(path, &owner(), None)?;
    }
    open_again(path, options)
}

/// Opens a log that was prepared.
pub fn open_again(path: &Path, options: &WalOptions) -> Result<Log, StorageError> {
    let (sender, said) = channel();
    let (wal, stored) = Wal::open(path, &owner(), &epoch(), options, Listener(sender))?;
    Ok(Log {
        wal,
        stored,
        said,
        next: 1,
    })
}

pub fn open(path: &Path) -> Log {
    try_open(path, &options()).expect("the log opens")
}

/// The records of the log in `path`, or why it does not open.
pub fn records_in(path: &Path) -> Result<Vec<Bytes>, StorageError> {
    try_open(path, &options()).map(|log| log.stored.records.clone())
}

impl Log {
    pub fn give(&mut self, replaces: bool, given: &[&[u8]]) -> Ticket {
        let mut records = Records::default();
        given.iter().for_each(|record| records.push(record));
        let ticket = Ticket(self.next);
        self.next += 1;
        self.wal.append(ticket, replaces, records);
        ticket
    }

    /// Appends and waits until that is durable.
    pub fn append(&mut self, given: &[&[u8]]) {
        let ticket = self.give(false, given);
        self.until(&Said::Durable(ticket));
    }

    /// Replaces all records and waits until that is durable.
    pub fn rewrite(&mut self, given: &[&[u8]]) {
        let ticket = self.give(true, given);
        self.until(&Said::Durable(ticket));
    }

    /// Saves a snapshot and waits until that is durable.
    pub fn save(&mut self, slot: u64, body: &[u8]) {
        let ticket = Ticket(self.next);
        self.next += 1;
        self.wal.save(ticket, snapshot(slot, body));
        self.until(&Said::Saved(ticket));
    }

    pub fn until_failed(&self) {
        while !matches!(
            self.said.recv().expect("the log says something"),
            Said::Failed(_)
        ) {}
    }

    pub fn until(&self, expected: &Said) {
        loop {
            let said = self.said.recv().expect("the log says something");
            if said == *expected {
                return;
            }
            assert!(!matches!(said, Said::Failed(_)), "{said:?}");
        }
    }
}

pub fn snapshot(slot: u64, body: &[u8]) -> Snapshot {
    Snapshot {
        id: SnapshotRef {
            at: Frontier::single(Slot(slot)),
            digest: Digest::of(body),
            anchor: Bytes::from_static(b"anchor"),
        },
        body: Bytes::copy_from_slice(body),
    }
}

/// The segment of this number.
pub fn segment(path: &Path, number: u64) -> PathBuf {
    path.join(format!("segment-{number:016}"))
}

/// The names of the files of one kind, sorted.
pub fn names(path: &Path, prefix: &str) -> Vec<String> {
    let entries = fs::read_dir(path).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with(prefix))
        .collect();
    names.sort();
    names
}

/// A copy of the directory as it is now: what a crash would leave if the disk had kept all.
pub fn image(path: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    copy_files(path, copy.path());
    copy
}

pub fn copy_files(from: &Path, to: &Path) {
    for name in names(from, "") {
        // A file may have got another name since the directory was read.
        fs::copy(from.join(&name), to.join(&name)).ok();
    }
}

/// Waits until the segment to follow has been made, which the log does beside its work, and
/// nothing else will change by itself.
pub fn until_prepared(path: &Path, segments: usize) {
    loop {
        let names = names(path, "segment-");
        let unfinished = names.iter().any(|name| name.ends_with(".tmp"));
        if names.len() >= segments && !unfinished {
            return;
        }
        std::thread::yield_now();
    }
}

/// An image that was not taken while a file got another name.
pub fn settled_image(path: &Path) -> tempfile::TempDir {
    loop {
        let before = names(path, "");
        let copy = image(path);
        let unfinished = before.iter().any(|name| name.ends_with(".tmp"));
        if before == names(path, "") && !unfinished {
            return copy;
        }
    }
}

/// All files and their contents, but for the lock.
pub fn contents(path: &Path) -> Vec<(String, Vec<u8>)> {
    let kept = names(path, "").into_iter().filter(|name| name != "lock");
    kept.map(|name| (name.clone(), fs::read(path.join(&name)).unwrap()))
        .collect()
}

/// What is logged as a warning while `work` is done, on this thread.
pub fn said<T>(work: impl FnOnce() -> T) -> (String, T) {
    let said = Arc::new(Mutex::new(String::new()));
    let done = tracing::subscriber::with_default(Warnings(said.clone()), work);
    let said = said.lock().unwrap().clone();
    (said, done)
}

/// Writes down warnings, with their fields.
struct Warnings(Arc<Mutex<String>>);

impl tracing::Subscriber for Warnings {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() <= tracing::Level::WARN
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        let mut line = Line(String::new());
        event.record(&mut line);
        self.0.lock().unwrap().push_str(&format!("{}\n", line.0));
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}

struct Line(String);

impl tracing::field::Visit for Line {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
        self.0.push_str(&format!("{}={value:?} ", field.name()));
    }
}
