//! The same contract over channels, for tests without sockets.
//!
//! Queues are bounded as they are over QUIC, a full one drops, and what was queued when a
//! replica stops is lost. Keys are compared, not proved: all ends are in one process.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use quorate_core::crypto::{Members, PublicKey};
use quorate_core::id::{ReplicaId, ReplicaSet};
use quorate_core::transport::{
    ClientReplies, ClientService, Connector, FrameSink, Service, Transport, TransportError,
};
use tokio::time::timeout;

use crate::bulk;
use crate::close::unreachable;
use crate::outbox::{Dropped, Outbox, QueueLimit};
use crate::settings::Settings;
use crate::stats::{Counters, PeerStats};
use crate::tasks::Tasks;

/// A network in memory: the replicas of one cluster, and their clients.
#[derive(Clone)]
pub struct MemoryNetwork(Arc<Hub>);

struct Hub {
    members: Members,
    peer_queue: QueueLimit,
    client_queue: QueueLimit,
    running: Mutex<Vec<Option<Arc<Running>>>>,
}

/// A replica that has started and not stopped.
struct Running {
    id: ReplicaId,
    service: Arc<dyn Service>,
    tasks: Tasks,
    /// What goes to each peer.
    links: Mutex<Vec<Option<Arc<Outbox>>>>,
    counters: Vec<Counters>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Running {
    fn link_to(&self, to: ReplicaId) -> Option<Arc<Outbox>> {
        lock(&self.links).get(to.index())?.clone()
    }

    fn set_link(&self, to: ReplicaId, link: Option<Arc<Outbox>>) {
        let before = match lock(&self.links).get_mut(to.index()) {
            Some(slot) => std::mem::replace(slot, link),
            None => None,
        };
        if let Some(before) = before {
            before.close();
        }
    }

    fn count(&self, peer: ReplicaId, count: impl FnOnce(&Counters)) {
        if let Some(counters) = self.counters.get(peer.index()) {
            count(counters);
        }
    }
}

impl MemoryNetwork {
    /// A network for `members`, with the queues of [`Settings::default`].
    pub fn new(members: Members) -> Self {
        MemoryNetwork::with_settings(members, &Settings::default())
    }

    /// A network for `members`; of the settings only the queues count.
    pub fn with_settings(members: Members, settings: &Settings) -> Self {
        let n = members.n();
        MemoryNetwork(Arc::new(Hub {
            members,
            peer_queue: settings.peer_queue,
            client_queue: settings.client_queue,
            running: Mutex::new(vec![None; n]),
        }))
    }

    /// Starts replica `me`, which holds `key`, within a tokio runtime: from now on it is
    /// connected to all others that run. One that runs already under this id is stopped.
    ///
    /// # Errors
    ///
    /// [`TransportError::NotAuthenticated`] if `key` is not that member's.
    pub fn start(
        &self,
        me: ReplicaId,
        key: PublicKey,
        service: Arc<dyn Service>,
    ) -> Result<Arc<MemoryTransport>, TransportError> {
        if self.0.members.key(me) != Some(key) {
            return Err(TransportError::NotAuthenticated {
                to: me,
                reason: format!("{key} is not that member's key"),
            });
        }
        let n = self.0.members.n();
        let started = Arc::new(Running {
            id: me,
            service,
            tasks: Tasks::default(),
            links: Mutex::new(vec![None; n]),
            counters: (0..n).map(|_| Counters::default()).collect(),
        });
        let before = self.0.running(me);
        if let Some(before) = before {
            self.0.stop(&before);
            before.tasks.abort();
        }
        let mut running = lock(&self.0.running);
        for other in running.iter().flatten() {
            self.0.connect(&started, other);
            self.0.connect(other, &started);
        }
        if let Some(slot) = running.get_mut(me.index()) {
            *slot = Some(started.clone());
        }
        drop(running);
        Ok(Arc::new(MemoryTransport {
            hub: self.0.clone(),
            running: started,
        }))
    }

    /// Connections for the client with `key`, which takes the replicas to have the keys of
    /// `replicas`.
    pub fn connector(&self, key: PublicKey, replicas: Vec<PublicKey>) -> MemoryConnector {
        MemoryConnector {
            hub: self.0.clone(),
            key,
            replicas,
        }
    }
}

impl Hub {
    fn running(&self, id: ReplicaId) -> Option<Arc<Running>> {
        lock(&self.running).get(id.index())?.clone()
    }

    /// Makes the direction from `from` to `to`. Its task belongs to the one that is delivered
    /// to, whose shutdown it must not survive.
    fn connect(&self, from: &Arc<Running>, to: &Arc<Running>) {
        let link = Arc::new(Outbox::new(self.peer_queue));
        from.set_link(to.id, Some(link.clone()));
        from.count(to.id, Counters::connected);
        let (sender, receiver) = (Arc::downgrade(from), Arc::downgrade(to));
        let service = to.service.clone();
        let (from, to_id) = (from.id, to.id);
        to.tasks.spawn(async move {
            let mut frames = Vec::new();
            while link.take(&mut frames).await.is_ok() {
                let bytes = frames.iter().map(Bytes::len).sum();
                if let Some(sender) = sender.upgrade() {
                    sender.count(to_id, |counters| counters.sent(frames.len(), bytes));
                }
                for frame in frames.drain(..) {
                    if let Some(receiver) = receiver.upgrade() {
                        receiver.count(from, |counters| counters.received(frame.len()));
                    }
                    service.deliver(from, frame).await;
                }
            }
        });
    }

    fn stop(&self, stopping: &Arc<Running>) {
        let mut running = lock(&self.running);
        if let Some(slot) = running.get_mut(stopping.id.index())
            && slot.as_ref().is_some_and(|now| Arc::ptr_eq(now, stopping))
        {
            *slot = None;
            for other in running.iter().flatten() {
                other.set_link(stopping.id, None);
            }
        }
        drop(running);
        for peer in self.members.ids() {
            stopping.set_link(peer, None);
        }
    }
}

/// [`Transport`] in memory.
pub struct MemoryTransport {
    hub: Arc<Hub>,
    running: Arc<Running>,
}

impl MemoryTransport {
    /// What has passed between this replica and `peer`; zeros for this replica itself.
    pub fn stats(&self, peer: ReplicaId) -> PeerStats {
        let counters = self.running.counters.get(peer.index());
        counters.map_or_else(PeerStats::default, Counters::snapshot)
    }
}

#[async_trait]
impl Transport for MemoryTransport {
    fn send(&self, to: ReplicaId, frame: Bytes) {
        if to == self.running.id {
            return;
        }
        let outcome = match self.running.link_to(to) {
            Some(link) => link.push(frame),
            None => Err(Dropped::Closed),
        };
        self.running.count(to, |counters| match outcome {
            Ok(()) => {}
            Err(Dropped::Closed) => counters.dropped_unconnected(),
            Err(Dropped::Full | Dropped::Oversized) => {
                counters.dropped_full();
            }
        });
    }

    /// An answer comes whole: that is all the progress there is.
    async fn bulk(
        &self,
        from: ReplicaId,
        request: Bytes,
        patience: Duration,
        _heard: &(dyn Fn() + Send + Sync),
    ) -> Result<Bytes, TransportError> {
        let me = self.running.id;
        let connected = self.running.link_to(from).is_some();
        let Some(peer) = self.hub.running(from).filter(|_| connected) else {
            return Err(unreachable(from, "it is not connected"));
        };
        let (answer, answered) = tokio::sync::oneshot::channel();
        let service = peer.service.clone();
        peer.tasks.spawn(async move {
            // Fails only if whoever asked has stopped waiting.
            let _ = answer.send(service.bulk(me, request).await);
        });
        match timeout(patience, answered).await {
            Ok(Ok(Some(answer))) => Ok(answer.concat().into()),
            Ok(Ok(None)) => Err(TransportError::Refused { to: from }),
            Ok(Err(_)) => Err(unreachable(from, "it has stopped")),
            Err(_) => Err(unreachable(from, bulk::STALLED)),
        }
    }

    fn connected(&self) -> ReplicaSet {
        let links = lock(&self.running.links);
        let linked = self.hub.members.ids().zip(links.iter());
        linked
            .filter(|(_, link)| link.is_some())
            .map(|(id, _)| id)
            .collect()
    }

    /// What a service does for a frame at that moment ends where it next waits.
    async fn shutdown(&self) {
        self.hub.stop(&self.running);
        self.running.tasks.shutdown().await;
    }
}

impl Drop for MemoryTransport {
    fn drop(&mut self) {
        self.hub.stop(&self.running);
        self.running.tasks.abort();
    }
}

/// [`Connector`] in memory.
pub struct MemoryConnector {
    hub: Arc<Hub>,
    key: PublicKey,
    replicas: Vec<PublicKey>,
}

#[async_trait]
impl Connector for MemoryConnector {
    fn n(&self) -> usize {
        self.replicas.len()
    }

    async fn connect(
        &self,
        to: ReplicaId,
        replies: Arc<dyn ClientReplies>,
    ) -> Result<Arc<dyn FrameSink>, TransportError> {
        let refused = |reason: &str| TransportError::NotAuthenticated {
            to,
            reason: reason.to_owned(),
        };
        let Some(replica) = self.hub.running(to) else {
            return Err(unreachable(to, "it does not run"));
        };
        if self.replicas.get(to.index()) != self.hub.members.key(to).as_ref() {
            return Err(refused("it holds another key"));
        }
        let session = Session {
            to,
            requests: Arc::new(Outbox::new(self.hub.client_queue)),
            answers: Arc::new(Outbox::new(self.hub.client_queue)),
            replies,
        };
        let sink = Arc::new(ClientSink {
            answers: session.answers.clone(),
            requests: session.requests.clone(),
        });
        let Some(service) = replica.service.client(self.key, sink) else {
            return Err(refused("this key is not admitted as a client"));
        };
        let sink = ReplicaSink(session.requests.clone());
        replica.tasks.spawn(session.serve(service));
        Ok(Arc::new(sink))
    }
}

/// A client's connection; the client is told when it ends, however that comes about.
struct Session {
    to: ReplicaId,
    requests: Arc<Outbox>,
    answers: Arc<Outbox>,
    replies: Arc<dyn ClientReplies>,
}

impl Session {
    async fn serve(self, service: Arc<dyn ClientService>) {
        let requests = async {
            let mut frames = Vec::new();
            while self.requests.take(&mut frames).await.is_ok() {
                for frame in frames.drain(..) {
                    service.deliver(frame).await;
                }
            }
        };
        let answers = async {
            let mut frames = Vec::new();
            while self.answers.take(&mut frames).await.is_ok() {
                for frame in frames.drain(..) {
                    self.replies.deliver(self.to, frame);
                    self.replies.ready().await;
                }
            }
        };
        tokio::select! {
            () = requests => {}
            () = answers => {}
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.requests.close();
        self.answers.close();
        self.replies.closed(self.to);
    }
}

/// Frames for one client. One that does not take them loses its connection.
struct ClientSink {
    answers: Arc<Outbox>,
    requests: Arc<Outbox>,
}

impl FrameSink for ClientSink {
    fn send(&self, frame: Bytes) -> bool {
        let outcome = self.answers.push(frame);
        if outcome == Err(Dropped::Full) {
            self.answers.close();
            self.requests.close();
        }
        outcome.is_ok()
    }

    fn backlog(&self) -> usize {
        self.answers.backlog()
    }
}

/// Frames for one replica; the connection lasts as long as this.
struct ReplicaSink(Arc<Outbox>);

impl FrameSink for ReplicaSink {
    fn send(&self, frame: Bytes) -> bool {
        self.0.push(frame).is_ok()
    }
}

impl Drop for ReplicaSink {
    fn drop(&mut self) {
        self.0.close();
    }
}
