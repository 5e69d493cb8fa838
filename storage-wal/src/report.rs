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
}

/// A failure has been told: the thread that learns this must end.
#[derive(Debug)]
pub(crate) struct Stopped;

impl Reporter {
    pub(crate) fn new(completions: impl Completions) -> Self {
        Reporter(Arc::new(Shared {
            completions: Box::new(completions),
            failed: Mutex::new(false),
        }))
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
