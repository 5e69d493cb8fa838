//! What the transport delivers to.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use quorate_core::codec;
use quorate_core::crypto::{PublicKey, Verifier};
use quorate_core::id::ReplicaId;
use quorate_core::protocol::{FaultModel, Protocol, SnapshotRef};
use quorate_core::request::{Batch, SessionId};
use quorate_core::storage::Snapshot;
use quorate_core::transport::{ClientService, FrameSink, Service};
use quorate_core::wire::Envelope;

use crate::budget::{Budget, GATE};
use crate::client::Host;
use crate::client_wire::{self, Ask};
use crate::inbox::{Happening, Inbox};
use crate::lanes::Sender;
use crate::replies::ConnectionId;

/// Opens, verifies and queues what arrives, on the task that received it.
pub(crate) struct Gate<P: Protocol> {
    pub(crate) envelope: Envelope,
    pub(crate) verifier: Verifier,
    pub(crate) own: PublicKey,
    pub(crate) inbox: Arc<Inbox<P>>,
    pub(crate) offer: Arc<Offer>,
    pub(crate) connections: AtomicU64,
    /// The account of each replica.
    pub(crate) peers: Vec<Mutex<Budget>>,
}

impl<P: Protocol> Gate<P> {
    fn budget(&self, of: ReplicaId) -> Option<MutexGuard<'_, Budget>> {
        let budget = self.peers.get(of.index())?;
        Some(budget.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Has the sender of a frame wait that has overdrawn its account.
async fn rest(wait: Option<Duration>) {
    if let Some(wait) = wait {
        tokio::time::sleep(wait).await;
    }
}

/// The snapshot that peers may fetch.
#[derive(Debug, Default)]
pub(crate) struct Offer(Mutex<Option<Arc<Snapshot>>>);

impl Offer {
    pub(crate) fn set(&self, snapshot: Arc<Snapshot>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(snapshot);
    }

    fn current(&self) -> Option<Arc<Snapshot>> {
        let offer = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        offer.clone()
    }
}

/// A snapshot as it travels: length of the reference, reference, body. The body is shared by all who
/// are given it.
pub(crate) fn pack(snapshot: &Snapshot) -> Option<Vec<Bytes>> {
    let id = codec::encode(&snapshot.id).ok()?;
    let length = (id.len() as u64).to_le_bytes();
    let head = [&length[..], &id].concat();
    Some(vec![head.into(), snapshot.body.clone()])
}

/// Reads what [`pack`] wrote.
pub(crate) fn unpack(bytes: &Bytes) -> Option<Snapshot> {
    let (length, rest) = bytes.split_at_checked(8)?;
    let length = usize::try_from(u64::from_le_bytes(length.try_into().ok()?)).ok()?;
    let (id, _) = rest.split_at_checked(length)?;
    let id: SnapshotRef = codec::decode("snapshot reference", id).ok()?;
    Some(Snapshot {
        id,
        body: bytes.slice(8 + length..),
    })
}

#[async_trait]
impl<P: Protocol> Service for Gate<P> {
    async fn deliver(&self, from: ReplicaId, frame: Bytes) {
        let begun = Instant::now();
        let opened = self.envelope.open(from, &frame, &self.verifier);
        let took = begun.elapsed();
        match opened {
            Ok(message) => {
                let wait = self.budget(from).and_then(|mut budget| budget.spend(took));
                let happening = Happening::Message(message);
                let brought = self.inbox.bring(Sender::Peer(from), happening, frame.len());
                // A driver that has gone needs nothing.
                let _gone = brought.await;
                rest(wait).await;
            }
            Err(rejected) => {
                let outcome = self.budget(from).map(|mut budget| budget.reject(took));
                let (wait, frames) = outcome.unwrap_or_default();
                if let Some(frames) = frames {
                    tracing::warn!(%from, %rejected, frames, "frames were rejected");
                }
                rest(wait).await;
            }
        }
    }

    async fn bulk(&self, _from: ReplicaId, _request: Bytes) -> Option<Vec<Bytes>> {
        pack(self.offer.current()?.as_ref())
    }

    fn client(
        &self,
        key: PublicKey,
        replies: Arc<dyn FrameSink>,
    ) -> Option<Arc<dyn ClientService>> {
        if !self.verifier.admission().admits(key) {
            tracing::debug!(%key, "a client was turned away: its key is not on the list");
            return None;
        }
        self.connect(key, replies)
    }
}

/// The application of this node may always read, and it may command if the node's key is admitted,
/// which the node sees to. Whoever comes over the network with that key is a client like any other.
impl<P: Protocol> Host for Gate<P> {
    fn connect_own(&self, replies: Arc<dyn FrameSink>) -> Option<Arc<dyn ClientService>> {
        self.connect(self.own, replies)
    }
}

impl<P: Protocol> Gate<P> {
    fn connect(
        &self,
        key: PublicKey,
        replies: Arc<dyn FrameSink>,
    ) -> Option<Arc<dyn ClientService>> {
        let id = ConnectionId(self.connections.fetch_add(1, Ordering::Relaxed));
        let connection = Connection {
            id,
            key,
            verifier: self.verifier.clone(),
            inbox: self.inbox.clone(),
            budget: Mutex::new(Budget::new(GATE)),
        };
        let connected = Happening::Connected(id, replies);
        self.inbox.bring_now(Sender::Client(id), connected).ok()?;
        Some(Arc::new(connection))
    }
}

/// One client's connection.
struct Connection<P: Protocol> {
    id: ConnectionId,
    key: PublicKey,
    verifier: Verifier,
    inbox: Arc<Inbox<P>>,
    budget: Mutex<Budget>,
}

impl<P: Protocol> Connection<P> {
    fn budget(&self) -> MutexGuard<'_, Budget> {
        self.budget.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The frame is not one that a correct client sends.
    async fn reject(&self, took: Duration, why: &str) {
        let (wait, frames) = self.budget().reject(took);
        if let Some(frames) = frames {
            tracing::warn!(key = ?self.key, why, frames, "a client sent what is rejected");
        }
        rest(wait).await;
    }

    fn happening(&self, ask: Ask) -> Option<Happening<P>> {
        match ask {
            Ask::Propose(batch) => {
                // A client speaks for its own sessions only.
                let own = batch.groups().all(|group| group.session.client == self.key);
                own.then(|| self.requests(batch))
            }
            Ask::Follow(number) => {
                let client = self.key;
                Some(Happening::Follow(self.id, SessionId { client, number }))
            }
            Ask::Peek(number, query) => Some(Happening::Peek(self.id, number, query)),
            Ask::Read(number, level, query) => Some(Happening::Read(self.id, number, level, query)),
            Ask::Status(number, digest) => Some(Happening::Status(self.id, number, digest)),
        }
    }
}

impl<P: Protocol> Connection<P> {
    /// Where replicas may lie, all must be able to check what clients ask for.
    fn requests(&self, batch: Batch) -> Happening<P> {
        let checked = match P::FAULTS {
            FaultModel::Crash => Ok(()),
            FaultModel::Byzantine => batch.groups().try_for_each(|g| g.verify(&self.verifier)),
        };
        match checked {
            Ok(()) => Happening::Propose(self.id, batch),
            Err(forged) => Happening::Refused(self.id, batch, forged),
        }
    }
}

#[async_trait]
impl<P: Protocol> ClientService for Connection<P> {
    async fn deliver(&self, frame: Bytes) {
        let begun = Instant::now();
        let asks: Vec<Ask> = match client_wire::open(&frame) {
            Ok(asks) => asks,
            Err(error) => return self.reject(begun.elapsed(), &error.to_string()).await,
        };
        drop(frame);
        let mut wait = self.budget().spend(begun.elapsed());
        for ask in asks {
            let begun = Instant::now();
            let Some(happening) = self.happening(ask) else {
                self.reject(begun.elapsed(), "asks in another's name").await;
                continue;
            };
            wait = self.budget().spend(begun.elapsed()).or(wait);
            let bytes = happening.size();
            let brought = self.inbox.bring(Sender::Client(self.id), happening, bytes);
            if brought.await.is_err() {
                return;
            }
        }
        rest(wait).await;
    }
}

impl<P: Protocol> Drop for Connection<P> {
    fn drop(&mut self) {
        let gone = Happening::Disconnected(self.id);
        // A driver that has gone needs no news.
        let _gone = self.inbox.leave(Sender::Client(self.id), gone);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lanes::LIMITS;
    use quorate_core::crypto::{Admission, Digest, GroupId, Members};
    use quorate_core::frontier::Frontier;
    use quorate_core::id::Slot;
    use quorate_core::request::{Operation, Request};

    #[test]
    fn a_snapshot_survives_the_journey_and_a_short_one_is_refused() {
        let body = Bytes::from_static(b"state");
        let snapshot = Snapshot {
            id: SnapshotRef {
                at: Frontier::single(Slot(7)),
                digest: Digest::of(&body),
                anchor: Bytes::from_static(b"term"),
            },
            body,
        };
        let parts = pack(&snapshot).unwrap();
        let shares = |part: &Bytes| part.as_ptr() == snapshot.body.as_ptr();
        assert!(parts.iter().any(shares), "the body is not copied");
        let packed = Bytes::from(parts.concat());
        assert_eq!(unpack(&packed), Some(snapshot));
        assert_eq!(unpack(&packed.slice(..10)), None);
        assert_eq!(unpack(&Bytes::from_static(&[0xff; 9])), None);
    }

    type Raft = quorate_raft::Raft;

    /// Hears nothing.
    struct Deaf;

    impl FrameSink for Deaf {
        fn send(&self, _: Bytes) -> bool {
            true
        }
    }

    fn gate() -> Gate<Raft> {
        let keys = [0, 1, 2].map(|n| PublicKey([n; 32]));
        let members = Members::new(GroupId(1), keys);
        Gate {
            envelope: Envelope::new(members.group(), 0),
            verifier: Verifier::new(members).admitting(Admission::Anyone),
            own: keys[0],
            inbox: Arc::new(Inbox::new(LIMITS)),
            offer: Arc::default(),
            connections: AtomicU64::new(0),
            peers: keys.map(|_| Mutex::new(Budget::new(GATE))).into(),
        }
    }

    /// Where no replica lies nobody signs: nothing else keeps one client from using another's session.
    #[tokio::test(start_paused = true)]
    async fn a_client_speaks_for_its_own_sessions_only() {
        let gate = gate();
        let [own, other] = [7, 8].map(|n| PublicKey([n; 32]));
        let service = gate.client(own, Arc::new(Deaf)).unwrap();
        for client in [own, other] {
            let request = Request {
                session: SessionId { client, number: 1 },
                sequence: 1,
                answered: 0,
                operation: Operation::Apply(b"x"),
            };
            let asks = [Ask::Propose(Batch::of_one(request))];
            for frame in client_wire::seal(&asks).unwrap() {
                service.deliver(frame).await;
            }
        }
        let mut taken = Vec::new();
        gate.inbox.take(&mut taken, 100, |_| true);
        let proposed = taken.iter().filter_map(|happening| match happening {
            Happening::Propose(_, batch) => batch.requests().next(),
            _ => None,
        });
        assert!(proposed.map(|request| request.session.client).eq([own]));
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_sends_what_is_rejected_waits() {
        let gate = gate();
        let client = gate.client(PublicKey([7; 32]), Arc::new(Deaf)).unwrap();
        let garbage = Bytes::from_static(b"garbage");
        let begun = tokio::time::Instant::now();
        for _ in 0..200 {
            gate.deliver(ReplicaId(1), garbage.clone()).await;
        }
        let peer = begun.elapsed();
        for _ in 0..200 {
            client.deliver(garbage.clone()).await;
        }
        let least = Duration::from_secs(5);
        assert!(peer > least && begun.elapsed() - peer > least, "{peer:?}");
    }
}
