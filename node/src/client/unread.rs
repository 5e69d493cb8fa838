//! What replicas have sent and the client has not looked at yet.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use quorate_core::codec::MESSAGE_LIMIT;
use tokio::sync::Notify;

/// How many frames of one connection may be unread before no more is wanted. A replica puts what it
/// answers at a time into few frames, and who answers more than this meanwhile only waits: the
/// bound need not cover all that may be asked at once, whose answers may be of any size.
pub(super) const FRAMES: usize = 1024;

/// How many bytes may be unread before no more is wanted: one frame more may be of this size.
pub(super) const BYTES: usize = MESSAGE_LIMIT;

/// The unread frames of one connection.
#[derive(Default)]
pub(super) struct Unread {
    frames: AtomicUsize,
    bytes: AtomicUsize,
    /// One of them was read.
    read: Notify,
}

impl Unread {
    fn is_full(&self) -> bool {
        self.frames.load(Ordering::Acquire) >= FRAMES || self.bytes.load(Ordering::Acquire) >= BYTES
    }

    /// Waits until there is room for another. For one task a connection.
    pub(super) async fn room(&self) {
        while self.is_full() {
            self.read.notified().await;
        }
    }
}

/// A frame, which is unread until it is dropped.
pub(super) struct Frame {
    bytes: Bytes,
    unread: Arc<Unread>,
}

impl Frame {
    pub(super) fn new(bytes: Bytes, unread: Arc<Unread>) -> Self {
        unread.frames.fetch_add(1, Ordering::AcqRel);
        unread.bytes.fetch_add(bytes.len(), Ordering::AcqRel);
        Frame { bytes, unread }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Frame {
    fn drop(&mut self) {
        self.unread.frames.fetch_sub(1, Ordering::AcqRel);
        self.unread
            .bytes
            .fetch_sub(self.bytes.len(), Ordering::AcqRel);
        self.unread.read.notify_one();
    }
}
