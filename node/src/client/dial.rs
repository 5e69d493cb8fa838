//! Connections to replicas, made in the background.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quorate_core::crypto::PublicKey;
use quorate_core::id::ReplicaId;
use quorate_core::request::SessionId;
use quorate_core::transport::{ClientReplies, Connector, FrameSink, TransportError};
use tokio::sync::mpsc;

/// The wait before another replica is tried after one was tried in vain.
const BACK_OFF: Duration = Duration::from_millis(50);

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
}

impl ClientReplies for Back {
    fn deliver(&self, _from: ReplicaId, frame: Bytes) {
        // A client that is gone needs no news.
        let _gone = self.news.send(News::Frame(self.call, frame));
    }

    fn closed(&self, _from: ReplicaId) {
        let _gone = self.news.send(News::Closed(self.call));
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
    back: mpsc::UnboundedSender<News>,
}

impl Dialer {
    /// Also where the news of all connections come.
    pub(super) fn new(connector: Arc<dyn Connector>) -> (Self, mpsc::UnboundedReceiver<News>) {
        let (back, news) = mpsc::unbounded_channel();
        let dialer = Dialer {
            connector,
            calls: 0,
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
        let connector = self.connector.clone();
        let news = self.back.clone();
        tokio::spawn(async move {
            let replies = Arc::new(Back {
                call,
                news: news.clone(),
            });
            let result = connector.connect(to, replies).await;
            if result.is_err() {
                tokio::time::sleep(BACK_OFF).await;
            }
            let _gone = news.send(News::Connected(call, result));
        });
        call
    }
}
