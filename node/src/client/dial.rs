//! Connections to replicas, made in the background.

use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use quorate_core::crypto::PublicKey;
use quorate_core::id::ReplicaId;
use quorate_core::request::SessionId;
use quorate_core::transport::{ClientReplies, Connector, FrameSink, TransportError};
use tokio::sync::mpsc;
use tokio::time::Instant;

/// The wait before another replica is tried after one was tried in vain, and between two calls to
/// the same: one that closes every connection must not keep the client busy.
pub(super) const BACK_OFF: Duration = Duration::from_millis(50);

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
    Frame(CallId, Bytes),
    Closed(CallId),
}

struct Back {
    call: CallId,
    news: mpsc::UnboundedSender<News>,
    /// What came before it was said that the connection is up.
    early: Mutex<Option<Vec<News>>>,
}

impl Back {
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

impl ClientReplies for Back {
    fn deliver(&self, _from: ReplicaId, frame: Bytes) {
        self.tell(News::Frame(self.call, frame));
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
    /// When each replica was called last, or is going to be.
    called: BTreeMap<ReplicaId, Instant>,
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

    /// Calls a replica; what becomes of it is news.
    pub(super) fn call(&mut self, to: ReplicaId) -> CallId {
        self.calls += 1;
        let call = CallId {
            to,
            number: self.calls,
        };
        let now = Instant::now();
        let last = self.called.get(&to);
        let at = last.map_or(now, |last| now.max(*last + BACK_OFF));
        self.called.insert(to, at);
        let connector = self.connector.clone();
        let back = Arc::new(Back {
            call,
            news: self.back.clone(),
            early: Mutex::new(Some(Vec::new())),
        });
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
