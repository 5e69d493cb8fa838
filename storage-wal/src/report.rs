//! What the threads of a log say, in one voice.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use quorate_core::storage::{Completions, StorageError, Ticket};

/// Passes on what is durable until something has failed, and nothing after that.
#[derive(Clone)]
pub(crate) struct Reporter(Arc<Shared>);

struct Shared {
    completions: Box<dyn Completions>,
    failed: Mutex<bool>,
    /// Whether segments, and snapshots, wait for room.
    waiting: Mutex<[bool; 2]>,
}

/// What may wait for room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Want {
    Segment,
    Snapshot,
}

/// A failure has been told: the thread that learns this must end.
#[derive(Debug)]
pub(crate) struct Stopped;

impl Reporter {
    pub(crate) fn new(completions: impl Completions) -> Self {
        Reporter(Arc::new(Shared {
            completions: Box::new(completions),
            failed: Mutex::new(false),
            waiting: Mutex::default(),
        }))
    }

    /// There is no room for something, or there was now.
    pub(crate) fn room(&self, want: Want, found: Result<(), &StorageError>) {
        let mut waiting = self
            .0
            .waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let before = *waiting;
        waiting[want as usize] = found.is_err();
        if *waiting == before {
            return;
        }
        match found {
            Ok(()) => tracing::info!(?want, "there is room again"),
            Err(error) => {
                tracing::warn!(%error, ?want, "the disk is full: new commands are refused until there is room");
            }
        }
        let [was, is] = [before, *waiting].map(|waiting| waiting.contains(&true));
        if was != is {
            // Nothing is said after a failure.
            self.unless_failed(|completions| completions.short_of_room(is))
                .ok();
        }
    }

    pub(crate) fn durable(&self, ticket: Ticket) -> Result<(), Stopped> {
        self.unless_failed(|completions| completions.durable(ticket))
    }

    pub(crate) fn saved(&self, ticket: Ticket) -> Result<(), Stopped> {
        self.unless_failed(|completions| completions.saved(ticket))
    }

    /// Tells the failure, if it is the first.
    pub(crate) fn fail(&self, error: StorageError) -> Stopped {
        let mut failed = self.0.failed.lock().unwrap_or_else(PoisonError::into_inner);
        if !*failed {
            *failed = true;
            tracing::error!(%error, "storage has failed");
            self.0.completions.failed(error);
        }
        Stopped
    }

    fn unless_failed(&self, tell: impl FnOnce(&dyn Completions)) -> Result<(), Stopped> {
        let failed = self.0.failed.lock().unwrap_or_else(PoisonError::into_inner);
        if *failed {
            return Err(Stopped);
        }
        tell(self.0.completions.as_ref());
        Ok(())
    }
}

/// Tells a failure if the thread that holds it panics: a replica must not wait for ever for what
/// nobody does any more.
pub(crate) struct Alarm {
    pub(crate) reporter: Reporter,
    pub(crate) directory: String,
}

impl Drop for Alarm {
    fn drop(&mut self) {
        if thread::panicking() {
            self.reporter.fail(StorageError::Io {
                action: "go on in",
                path: std::mem::take(&mut self.directory),
                reason: String::from("a thread of the log has panicked"),
            });
        }
    }
}
