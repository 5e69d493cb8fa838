//! What is counted for each peer.

use std::sync::atomic::{AtomicU64, Ordering};

/// What has passed between this replica and one peer since the transport started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeerStats {
    /// Frames written to the connection.
    pub sent_frames: u64,
    /// Bytes of those frames.
    pub sent_bytes: u64,
    /// Frames delivered to the service.
    pub received_frames: u64,
    /// Bytes of those frames.
    pub received_bytes: u64,
    /// Frames dropped because the queue was full, or the frame over the limit.
    pub dropped_full_frames: u64,
    /// Frames dropped because there was no connection.
    pub dropped_unconnected_frames: u64,
    /// How often a connection was made.
    pub connects: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    sent_frames: AtomicU64,
    sent_bytes: AtomicU64,
    received_frames: AtomicU64,
    received_bytes: AtomicU64,
    dropped_full: AtomicU64,
    dropped_unconnected: AtomicU64,
    connects: AtomicU64,
}

impl Counters {
    pub(crate) fn sent(&self, frames: usize, bytes: usize) {
        self.sent_frames.fetch_add(frames as u64, Ordering::Relaxed);
        self.sent_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn received(&self, bytes: usize) {
        self.received_frames.fetch_add(1, Ordering::Relaxed);
        self.received_bytes
            .fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Counts a drop; true now and then, ever more rarely: when it is worth a line in the log.
    pub(crate) fn dropped_full(&self) -> bool {
        let dropped = self.dropped_full.fetch_add(1, Ordering::Relaxed) + 1;
        dropped.is_power_of_two()
    }

    pub(crate) fn dropped_unconnected(&self) {
        self.dropped_unconnected.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn connected(&self) {
        self.connects.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn snapshot(&self) -> PeerStats {
        let value = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        PeerStats {
            sent_frames: value(&self.sent_frames),
            sent_bytes: value(&self.sent_bytes),
            received_frames: value(&self.received_frames),
            received_bytes: value(&self.received_bytes),
            dropped_full_frames: value(&self.dropped_full),
            dropped_unconnected_frames: value(&self.dropped_unconnected),
            connects: value(&self.connects),
        }
    }
}
