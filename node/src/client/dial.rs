//! Connections to replicas, made in the background.

use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use quorate_core::crypto::PublicKey;
use quorate_core::id::ReplicaId;
use quorate_core::request::SessionId;
use quorate_core::transport::{ClientReplies, Connector, FrameSink, TransportError};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::back_off::BackOff;
use super::unread::{Frame, Unread};

/// The wait before another replica is tried after one was tried in vain, and the first between two
/// calls to the same.
pub(super) const BACK_OFF: Duration = Duration::from_millis(50);

/// The longest wait between two calls to the same replica.
pub(super) const BACK_OFF_MOST: Duration = Duration::from_secs(2);

/// One connection: to whom, and its number among all that were asked for. News of an earlier
/// connection to the same replica must not be taken for news of this one.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct CallId {
    pub(super) to: ReplicaId,
    number: u64,
}

/// What comes from outside.
pub(super) enum News {
    Connected(CallId, Result<Arc<dyn FrameSink>, TransportError>),
    Frame(CallId, Frame),
    Closed(CallId),
}

struct Back {
    call: CallId,
    /// Without a bound of its own: `unread` bounds what comes over the connection.
    news: mpsc::UnboundedSender<News>,
    unread: Arc<Unread>,
    /// What came before it was said that the connection is up.
    early: Mutex<Option<Vec<News>>>,
}

impl Back {
    fn new(call: CallId, news: mpsc::UnboundedSender<News>) -> Self {
        Back {
            call,
            news,
            unread: Arc::default(),
            early: Mutex::new(Some(Vec::new())),
        }
    }

    /// A replica speaks as soon as it is connected to, which may be before the client knows: what
    /// it says then must not be taken for news of no connection.
    fn tell(&self, news: News) {
        let mut early = self.early.lock().unwrap_or_else(PoisonError::into_inner);
        match early.as_mut() {
            Some(early) => early.push(news),
            None => self.send(news),
        }
    }

    fn connected(&self, sink: Arc<dyn FrameSink>) {
        let mut early = self.early.lock().unwrap_or_else(PoisonError::into_inner);
        self.send(News::Connected(self.call, Ok(sink)));
        for news in early.take().into_iter().flatten() {
            self.send(news);
        }
    }

    fn send(&self, news: News) {
        // A client that is gone needs no news.
        let _gone = self.news.send(news);
    }
}

#[async_trait]
impl ClientReplies for Back {
    fn deliver(&self, _from: ReplicaId, frame: Bytes) {
        let frame = Frame::new(frame, self.unread.clone());
        self.tell(News::Frame(self.call, frame));
    }

    async fn ready(&self) {
        self.unread.room().await;
    }

    fn closed(&self, _from: ReplicaId) {
        self.tell(News::Closed(self.call));
    }
}

/// A session of `client` with a number of its own.
pub(super) fn new_session(client: PublicKey) -> SessionId {
    let number = RandomState::new().build_hasher().finish();
    SessionId { client, number }
}

/// Makes connections.
pub(super) struct Dialer {
    connector: Arc<dyn Connector>,
    /// How many connections were asked for.
    calls: u64,
    /// When each replica was called last, or is going to be, and how long after that it may be
    /// called again.
    called: BTreeMap<ReplicaId, (Instant, BackOff)>,
    back: mpsc::UnboundedSender<News>,
}

impl Dialer {
    /// Also where the news of all connections come.
    pub(super) fn new(connector: Arc<dyn Connector>) -> (Self, mpsc::UnboundedReceiver<News>) {
        let (back, news) = mpsc::unbounded_channel();
        let dialer = Dialer {
            connector,
            calls: 0,
            called: BTreeMap::new(),
            back,
        };
        (dialer, news)
    }

    /// How many replicas there are.
    pub(super) fn n(&self) -> usize {
        self.connector.n()
    }

    /// When to call a replica. One that ends every connection as soon as it is made must not keep
    /// the client busy with handshakes: each call after such a one waits twice as long as the last.
    /// That a connection has lasted is what starts this over, and not what has come over it: to
    /// say something before it closes costs a liar nothing.
    fn when(&mut self, to: ReplicaId) -> Instant {
        let now = Instant::now();
        match self.called.get_mut(&to) {
            Some((last, back_off)) if now < *last + BACK_OFF_MOST => {
                *last = now.max(*last + back_off.wait());
                back_off.double();
                *last
            }
            _ => {
                let back_off = BackOff::new(BACK_OFF, BACK_OFF_MOST);
                self.called.insert(to, (now, back_off));
                now
            }
        }
    }

    /// A connection was good, and is ended because it is not needed: the next call need not wait.
    pub(super) fn hung_up(&mut self, on: ReplicaId) {
        self.called.remove(&on);
    }

    /// Calls a replica; what becomes of it is news.
    pub(super) fn call(&mut self, to: ReplicaId) -> CallId {
        self.calls += 1;
        let call = CallId {
            to,
            number: self.calls,
        };
        let at = self.when(to);
        let connector = self.connector.clone();
        let back = Arc::new(Back::new(call, self.back.clone()));
        tokio::spawn(async move {
            tokio::time::sleep_until(at).await;
            match connector.connect(to, back.clone()).await {
                Ok(sink) => back.connected(sink),
                Err(error) => {
                    tokio::time::sleep(BACK_OFF).await;
                    back.send(News::Connected(call, Err(error)));
                }
            }
        });
        call
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::unread::{BYTES, FRAMES};

    const CALL: CallId = CallId {
        to: ReplicaId(0),
        number: 1,
    };

    struct Nowhere;

    impl FrameSink for Nowhere {
        fn send(&self, _frame: Bytes) -> bool {
            true
        }
    }

    /// Whether another frame is wanted.
    async fn is_ready(back: &Back) -> bool {
        tokio::select! {
            biased;
            () = back.ready() => true,
            () = std::future::ready(()) => false,
        }
    }

    /// Delivers frames of a size for as long as they are wanted, or without end.
    async fn flood(back: &Back, size: usize) -> usize {
        for sent in 0..2 * FRAMES {
            if !is_ready(back).await {
                return sent;
            }
            back.deliver(CALL.to, Bytes::from(vec![0; size]));
        }
        panic!("without end");
    }

    #[tokio::test]
    async fn no_more_frames_are_wanted_than_the_client_looks_at() {
        for (size, wanted) in [(0, FRAMES), (BYTES / 4, 4), (BYTES + 1, 1)] {
            let (sender, mut news) = mpsc::unbounded_channel();
            let back = Back::new(CALL, sender);
            // Neither before it is said that the connection is up, nor after.
            assert_eq!(flood(&back, size).await, wanted);
            back.connected(Arc::new(Nowhere));
            assert!(!is_ready(&back).await);
            assert!(matches!(news.try_recv(), Ok(News::Connected(..))));
            for _ in 0..3 {
                let looked_at = news.try_recv();
                assert!(matches!(looked_at, Ok(News::Frame(..))));
                drop(looked_at);
                assert_eq!(flood(&back, size).await, 1);
            }
            // A client that has gone holds nobody up.
            drop(news);
            assert!(is_ready(&back).await);
        }
    }

    #[tokio::test]
    async fn who_waits_for_room_is_woken() {
        let (sender, mut news) = mpsc::unbounded_channel();
        let back = Arc::new(Back::new(CALL, sender));
        back.connected(Arc::new(Nowhere));
        flood(&back, 0).await;
        let waiting = back.clone();
        let waiting = tokio::spawn(async move { waiting.ready().await });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        while news.try_recv().is_ok() {}
        waiting.await.unwrap();
    }
}
