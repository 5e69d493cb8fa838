//! The bounded queue of frames that wait for one connection.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::Notify;

use crate::frame::FRAME_LIMIT;

/// How much may wait for one connection; the first limit reached counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueLimit {
    /// In frames.
    pub frames: usize,
    /// In bytes of frames. A frame larger than this never passes.
    pub bytes: usize,
}

/// What all clients together may have waiting.
#[derive(Debug)]
pub(crate) struct Together {
    limit: usize,
    bytes: AtomicUsize,
}

/// How much each client may have waiting whatever the others have.
const EACH: usize = 64 << 10;

impl Together {
    pub(crate) fn new(limit: usize) -> Self {
        Together {
            limit,
            bytes: AtomicUsize::new(0),
        }
    }

    fn has_room(&self, own: usize, more: usize) -> bool {
        own + more <= EACH || self.bytes.load(Ordering::Relaxed) + more <= self.limit
    }

    fn add(&self, bytes: usize) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    fn remove(&self, bytes: usize) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// The most bytes handed to the writer at a time, but for a single larger frame: what it holds
/// is no longer counted against the limit.
const BATCH_BYTES: usize = 1 << 20;

/// Frames on their way to the task that writes them: any number of senders, one taker.
#[derive(Debug)]
pub(crate) struct Outbox {
    limit: QueueLimit,
    together: Option<Arc<Together>>,
    state: Mutex<State>,
    ready: Notify,
}

#[derive(Debug)]
struct State {
    open: bool,
    frames: VecDeque<Bytes>,
    bytes: usize,
}

/// Why a frame was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dropped {
    Full,
    Oversized,
    Closed,
}

/// Nothing more will come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ended;

impl Outbox {
    pub(crate) fn new(limit: QueueLimit) -> Self {
        Outbox::of(limit, None)
    }

    fn of(limit: QueueLimit, together: Option<Arc<Together>>) -> Self {
        Outbox {
            limit,
            together,
            state: Mutex::new(State {
                open: true,
                frames: VecDeque::new(),
                bytes: 0,
            }),
            ready: Notify::new(),
        }
    }

    /// One of several that have a bound together.
    pub(crate) fn sharing(limit: QueueLimit, together: Arc<Together>) -> Self {
        Outbox::of(limit, Some(together))
    }

    /// How many bytes wait.
    pub(crate) fn backlog(&self) -> usize {
        self.state().bytes
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues `frame`. Only the first of a batch wakes the taker, which takes all that has
    /// gathered until it runs.
    pub(crate) fn push(&self, frame: Bytes) -> Result<(), Dropped> {
        if frame.len() > FRAME_LIMIT {
            return Err(Dropped::Oversized);
        }
        let mut state = self.state();
        if !state.open {
            return Err(Dropped::Closed);
        }
        let bytes = state.bytes + frame.len();
        let together = self.together.as_ref();
        let room = together.is_none_or(|all| all.has_room(state.bytes, frame.len()));
        if state.frames.len() >= self.limit.frames || bytes > self.limit.bytes || !room {
            return Err(Dropped::Full);
        }
        together.inspect(|all| all.add(frame.len()));
        let first = state.frames.is_empty();
        state.bytes = bytes;
        state.frames.push_back(frame);
        drop(state);
        if first {
            self.ready.notify_one();
        }
        Ok(())
    }

    /// Moves what is ready, up to a batch, to the end of `batch`; waits until something is.
    pub(crate) async fn take(&self, batch: &mut Vec<Bytes>) -> Result<(), Ended> {
        loop {
            {
                let mut state = self.state();
                if !state.open {
                    return Err(Ended);
                }
                if !state.frames.is_empty() {
                    let before = state.bytes;
                    state.move_batch(batch);
                    self.leave(before - state.bytes);
                    return Ok(());
                }
            }
            self.ready.notified().await;
        }
    }

    /// Drops what is queued and all that comes.
    pub(crate) fn close(&self) {
        let mut state = self.state();
        state.open = false;
        state.frames = VecDeque::new();
        self.leave(std::mem::take(&mut state.bytes));
        drop(state);
        self.ready.notify_one();
    }
}

impl Outbox {
    fn leave(&self, bytes: usize) {
        self.together.iter().for_each(|all| all.remove(bytes));
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        self.close();
    }
}

impl State {
    fn move_batch(&mut self, batch: &mut Vec<Bytes>) {
        if self.bytes <= BATCH_BYTES {
            batch.extend(self.frames.drain(..));
            self.bytes = 0;
            return;
        }
        let mut taken = 0;
        while let Some(frame) = self.frames.pop_front() {
            taken += frame.len();
            self.bytes -= frame.len();
            batch.push(frame);
            if taken >= BATCH_BYTES {
                break;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outbox(frames: usize, bytes: usize) -> Outbox {
        Outbox::new(QueueLimit { frames, bytes })
    }

    #[tokio::test]
    async fn what_is_ready_together_is_taken_together_in_order() {
        let outbox = outbox(10, 100);
        for i in 0..4u8 {
            outbox.push(Bytes::from(vec![i])).unwrap();
        }
        let mut batch = Vec::new();
        outbox.take(&mut batch).await.unwrap();
        assert_eq!(batch.concat(), [0, 1, 2, 3]);
    }

    #[tokio::test]
    async fn a_full_queue_drops_and_has_room_again_when_it_is_taken() {
        let outbox = outbox(2, 10);
        let frame = |n: usize| Bytes::from(vec![0; n]);
        assert_eq!(outbox.push(frame(11)), Err(Dropped::Full));
        assert_eq!(outbox.push(frame(6)), Ok(()));
        assert_eq!(outbox.push(frame(5)), Err(Dropped::Full));
        assert_eq!(outbox.push(frame(0)), Ok(()));
        assert_eq!(outbox.push(frame(0)), Err(Dropped::Full));
        outbox.take(&mut Vec::new()).await.unwrap();
        assert_eq!(outbox.push(frame(10)), Ok(()));
    }

    #[tokio::test]
    async fn a_batch_is_bounded() {
        let outbox = outbox(100, 10 * BATCH_BYTES);
        for _ in 0..4 {
            outbox.push(Bytes::from(vec![0; BATCH_BYTES / 2])).unwrap();
        }
        let mut batch = Vec::new();
        outbox.take(&mut batch).await.unwrap();
        assert_eq!(batch.len(), 2);
        outbox.take(&mut batch).await.unwrap();
        assert_eq!(batch.len(), 4);
    }

    #[tokio::test]
    async fn what_waits_for_all_together_is_bounded_and_each_has_some_room() {
        let together = Arc::new(Together::new(10 * EACH));
        let limit = QueueLimit {
            frames: 1000,
            bytes: 100 * EACH,
        };
        let outbox = || Outbox::sharing(limit, together.clone());
        let fill = |outbox: &Outbox| {
            let frame = Bytes::from(vec![0; EACH / 2]);
            (0..1000)
                .take_while(|_| outbox.push(frame.clone()).is_ok())
                .count()
        };
        let (greedy, other) = (outbox(), outbox());
        assert_eq!((fill(&greedy), fill(&other)), (20, 2));
        assert_eq!(greedy.backlog(), 10 * EACH);
        greedy.take(&mut Vec::new()).await.unwrap();
        let left = greedy.backlog();
        assert_eq!(fill(&other), (10 * EACH - left) / (EACH / 2) - 2);
        drop((greedy, other));
        assert_eq!(together.bytes.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn closing_ends_the_taker_and_drops_what_comes() {
        let outbox = outbox(10, 100);
        outbox.push(Bytes::from_static(b"lost")).unwrap();
        outbox.close();
        assert_eq!(outbox.take(&mut Vec::new()).await, Err(Ended));
        assert_eq!(outbox.push(Bytes::new()), Err(Dropped::Closed));
    }
}
