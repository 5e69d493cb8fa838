//! The log does what every storage must.

mod support;

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use quorate_core::storage::conformance::{self, Harness, Told};
use quorate_core::storage::{StorageError, Stored};
use quorate_storage_wal::{Wal, WalOptions};
use support::{epoch, owner};
use tempfile::TempDir;

struct Directories {
    options: WalOptions,
    current: TempDir,
}

impl Directories {
    fn new(options: WalOptions) -> Self {
        Directories {
            options,
            current: tempfile::tempdir().unwrap(),
        }
    }
}

impl Harness for Directories {
    type Storage = Wal;

    fn create(&mut self, told: Arc<Told>) -> Result<(Wal, Stored), StorageError> {
        self.current = tempfile::tempdir().unwrap();
        Wal::prepare(self.current.path(), &owner(), None)?;
        Wal::open(self.current.path(), &owner(), &epoch(), &self.options, told)
    }

    fn reopen(&mut self, wal: Wal, told: Arc<Told>) -> Result<(Wal, Stored), StorageError> {
        wal.close();
        Wal::open(self.current.path(), &owner(), &epoch(), &self.options, told)
    }

    fn wait(&mut self, _: &mut Wal, _: &Told, done: &mut dyn FnMut() -> bool) {
        while !done() {
            thread::sleep(Duration::from_micros(50));
        }
    }
}

#[test]
fn with_large_segments_it_conforms() {
    conformance::run(&mut Directories::new(WalOptions::default()));
}

#[test]
fn with_small_segments_it_conforms() {
    conformance::run(&mut Directories::new(WalOptions {
        segment_bytes: 1000,
        ..WalOptions::default()
    }));
}

#[test]
fn marked_after_every_append_it_conforms() {
    conformance::run(&mut Directories::new(WalOptions {
        segment_bytes: 512,
        spare_segments: 1,
        mark_after: Duration::ZERO,
        ..WalOptions::default()
    }));
}
