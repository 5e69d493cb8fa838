//! Waits that double.

use std::time::Duration;

/// How long to wait before the next try, where each may be in vain.
#[derive(Clone, Copy)]
pub(super) struct BackOff {
    first: Duration,
    most: Duration,
    wait: Duration,
}

impl BackOff {
    /// The first wait is `first`, and none is longer than `most`.
    pub(super) fn new(first: Duration, most: Duration) -> Self {
        BackOff {
            first,
            most,
            wait: first,
        }
    }

    /// How long the next try has to wait.
    pub(super) fn wait(&self) -> Duration {
        self.wait
    }

    /// It has waited: the one after waits twice as long.
    pub(super) fn double(&mut self) {
        self.wait = (2 * self.wait).min(self.most);
    }

    /// One was not in vain.
    pub(super) fn reset(&mut self) {
        self.wait = self.first;
    }
}
