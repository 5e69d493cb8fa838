//! What a log has cost.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Counts of what the log has cost since it was opened; clones share them. Snapshots, and the
/// making of segments ahead of time, are not counted.
#[derive(Clone, Debug, Default)]
pub struct WalStats(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    syncs: AtomicU64,
    bytes: AtomicU64,
}

impl WalStats {
    /// Syncs of the log, each of which makes all durable that had gathered.
    pub fn syncs(&self) -> u64 {
        self.0.syncs.load(Ordering::Relaxed)
    }

    /// Bytes written to the log: records with their framing.
    pub fn bytes(&self) -> u64 {
        self.0.bytes.load(Ordering::Relaxed)
    }

    pub(crate) fn count_sync(&self) {
        self.0.syncs.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_bytes(&self, bytes: usize) {
        self.0.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}
