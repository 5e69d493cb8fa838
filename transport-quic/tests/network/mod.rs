//! Networks to hold the contract's tests to, and a service that records what it is given.

use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use quorate_core::crypto::{GroupId, Members, PublicKey, SecretKey};
use quorate_core::epoch::Epoch;
use quorate_core::id::ReplicaId;
use quorate_core::life::Forgetful;
use quorate_core::transport::{
    ClientReplies, ClientService, Connector, FrameSink, Service, Transport, TransportError,
};
use quorate_transport_quic::{
    MemoryNetwork, MemoryTransport, Peer, PeerStats, QueueLimit, QuicConfig, QuicConnector,
    QuicEndpoint, QuicTransport, Settings,
};
use tokio::sync::Semaphore;

pub(crate) const GROUP: GroupId = GroupId(7);

pub(crate) fn key(n: u8) -> SecretKey {
    SecretKey::from_seed([n + 1; 32])
}

pub(crate) fn client_key() -> SecretKey {
    SecretKey::from_seed([200; 32])
}

pub(crate) fn keys(n: u8) -> Vec<PublicKey> {
    (0..n).map(|i| key(i).public()).collect()
}

pub(crate) fn r(n: u8) -> ReplicaId {
    ReplicaId(n)
}

/// Small enough queues that a test can fill them.
pub(crate) fn settings() -> Settings {
    Settings {
        peer_queue: QueueLimit {
            frames: 4_096,
            bytes: 4 << 20,
        },
        ..Settings::default()
    }
}

/// Waits until `condition` holds. The limit is for a test that hangs.
pub(crate) async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let waiting = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let outcome = tokio::time::timeout(Duration::from_secs(60), waiting).await;
    assert!(outcome.is_ok(), "never: {what}");
}

/// One kind of network under the contract.
pub(crate) trait Network: Sized + Send + Sync {
    /// A network of `n` replicas, none of which runs.
    fn new(n: u8) -> impl Future<Output = Self> + Send;
    /// Starts a replica, again at the address that it had before.
    fn start(&self, id: u8, service: Arc<Recorder>) -> Node;
    /// A client that takes the replicas to have `replicas` as keys.
    fn connector(&self, key: &SecretKey, replicas: &[PublicKey]) -> Arc<dyn Connector>;
}

/// A running replica.
pub(crate) struct Node {
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) recorder: Arc<Recorder>,
    stats: Box<dyn Fn(ReplicaId) -> PeerStats + Send + Sync>,
}

impl Node {
    pub(crate) fn stats(&self, peer: u8) -> PeerStats {
        (self.stats)(r(peer))
    }

    pub(crate) async fn connected_to(&self, peers: &[u8]) {
        let peers = peers.iter().map(|id| r(*id)).collect();
        let what = format!("connected to {peers:?}");
        eventually(&what, || self.transport.connected() == peers).await;
    }

    /// Asks for bulk, and waits for long.
    pub(crate) async fn bulk(&self, from: u8, request: &str) -> Result<Bytes, TransportError> {
        ask(
            self.transport.clone(),
            from,
            request,
            Duration::from_secs(60),
        )
        .await
    }

    pub(crate) fn send(&self, to: u8, text: &str) {
        self.transport.send(r(to), Bytes::from(text.to_owned()));
    }
}

pub(crate) async fn ask(
    transport: Arc<dyn Transport>,
    from: u8,
    request: &str,
    patience: Duration,
) -> Result<Bytes, TransportError> {
    let request = Bytes::copy_from_slice(request.as_bytes());
    transport.bulk(r(from), request, patience, &|| {}).await
}

pub(crate) struct Memory(MemoryNetwork);

impl Network for Memory {
    async fn new(n: u8) -> Self {
        let members = Members::new(GROUP, keys(n));
        Memory(MemoryNetwork::with_settings(members, &settings()))
    }

    fn start(&self, id: u8, recorder: Arc<Recorder>) -> Node {
        let service = recorder.clone();
        let started = self.0.start(r(id), key(id).public(), service);
        let transport: Arc<MemoryTransport> = started.unwrap();
        Node {
            transport: transport.clone(),
            recorder,
            stats: Box::new(move |peer| transport.stats(peer)),
        }
    }

    fn connector(&self, key: &SecretKey, replicas: &[PublicKey]) -> Arc<dyn Connector> {
        Arc::new(self.0.connector(key.public(), replicas.to_vec()))
    }
}

pub(crate) struct Quic {
    addresses: Vec<SocketAddr>,
    bound: Mutex<Vec<Option<QuicEndpoint>>>,
}

impl Quic {
    pub(crate) fn config(id: u8, listen: SocketAddr) -> QuicConfig {
        QuicConfig {
            me: r(id),
            key: key(id),
            group: GROUP,
            listen,
            settings: settings(),
        }
    }

    pub(crate) fn peers(&self, keys: &[PublicKey]) -> Vec<Peer> {
        let peer = |(key, address): (&PublicKey, &SocketAddr)| Peer {
            key: *key,
            address: address.to_string(),
        };
        keys.iter().zip(&self.addresses).map(peer).collect()
    }
}

impl Network for Quic {
    async fn new(n: u8) -> Self {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let bind = |id| QuicTransport::bind(Quic::config(id, any)).unwrap();
        let bound: Vec<QuicEndpoint> = (0..n).map(bind).collect();
        Quic {
            addresses: bound.iter().map(QuicEndpoint::local_addr).collect(),
            bound: Mutex::new(bound.into_iter().map(Some).collect()),
        }
    }

    fn start(&self, id: u8, recorder: Arc<Recorder>) -> Node {
        let index = usize::from(id);
        let bound = self.bound.lock().unwrap()[index].take();
        let again = || QuicTransport::bind(Quic::config(id, self.addresses[index])).unwrap();
        let endpoint = bound.unwrap_or_else(again);
        let peers = self.peers(&keys(self.addresses.len() as u8));
        let epoch = Epoch::first(GROUP, "none", &keys(self.addresses.len() as u8));
        let transport = endpoint
            .start(
                &peers,
                epoch,
                Arc::new(Forgetful::default()),
                recorder.clone(),
            )
            .unwrap();
        Node {
            transport: transport.clone(),
            recorder,
            stats: Box::new(move |peer| transport.stats(peer)),
        }
    }

    fn connector(&self, key: &SecretKey, replicas: &[PublicKey]) -> Arc<dyn Connector> {
        let connector = QuicConnector::new(key, GROUP, &self.peers(replicas), settings());
        Arc::new(connector.unwrap())
    }
}

/// Records what it is given; admits one client, and echoes to it.
pub(crate) struct Recorder {
    frames: Mutex<Vec<(ReplicaId, Bytes)>>,
    /// A permit a delivery; none are needed when it is closed.
    gate: Semaphore,
    /// The same for bulk requests.
    bulk_gate: Semaphore,
    clients: Mutex<Vec<Arc<dyn FrameSink>>>,
    clients_gone: Arc<Semaphore>,
}

impl Recorder {
    pub(crate) fn new() -> Arc<Self> {
        let recorder = Recorder::blocked();
        recorder.gate.close();
        recorder.bulk_gate.close();
        recorder
    }

    /// One that delivers nothing, and answers nothing, until it is let go on.
    pub(crate) fn blocked() -> Arc<Self> {
        Arc::new(Recorder {
            frames: Mutex::default(),
            gate: Semaphore::new(0),
            bulk_gate: Semaphore::new(0),
            clients: Mutex::default(),
            clients_gone: Arc::new(Semaphore::new(0)),
        })
    }

    pub(crate) fn let_frames_go_on(&self) {
        self.gate.close();
    }

    pub(crate) fn let_bulk_go_on(&self) {
        self.bulk_gate.close();
    }

    pub(crate) fn len(&self) -> usize {
        self.frames.lock().unwrap().len()
    }

    pub(crate) fn from(&self, id: u8) -> Vec<Bytes> {
        let frames = self.frames.lock().unwrap();
        let from = frames.iter().filter(|(from, _)| *from == r(id));
        from.map(|(_, frame)| frame.clone()).collect()
    }

    pub(crate) fn has(&self, from: u8, text: &str) -> bool {
        let frames = self.frames.lock().unwrap();
        frames
            .iter()
            .any(|(id, frame)| *id == r(from) && frame == text)
    }

    pub(crate) fn clients(&self) -> Vec<Arc<dyn FrameSink>> {
        self.clients.lock().unwrap().clone()
    }

    pub(crate) fn clients_gone(&self) -> usize {
        self.clients_gone.available_permits()
    }
}

#[async_trait]
impl Service for Recorder {
    async fn deliver(&self, from: ReplicaId, frame: Bytes) {
        if let Ok(permit) = self.gate.acquire().await {
            permit.forget();
        }
        self.frames.lock().unwrap().push((from, frame));
    }

    /// A request is a number; the answer has so many bytes. Anything else is refused.
    async fn bulk(&self, from: ReplicaId, request: Bytes) -> Option<Vec<Bytes>> {
        if let Ok(permit) = self.bulk_gate.acquire().await {
            permit.forget();
        }
        let length: usize = std::str::from_utf8(&request).ok()?.parse().ok()?;
        let answer: Bytes = (0..length).map(|i| i as u8 ^ from.0).collect();
        Some(vec![answer.slice(..length / 3), answer.slice(length / 3..)])
    }

    fn client(
        &self,
        key: PublicKey,
        replies: Arc<dyn FrameSink>,
    ) -> Option<Arc<dyn ClientService>> {
        if key != client_key().public() {
            return None;
        }
        self.clients.lock().unwrap().push(replies.clone());
        Some(Arc::new(Echo {
            replies,
            gone: self.clients_gone.clone(),
        }))
    }
}

struct Echo {
    replies: Arc<dyn FrameSink>,
    gone: Arc<Semaphore>,
}

#[async_trait]
impl ClientService for Echo {
    async fn deliver(&self, frame: Bytes) {
        self.replies.send(frame);
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.gone.add_permits(1);
    }
}

/// What has come back to a client.
#[derive(Default)]
pub(crate) struct Replies {
    /// How many frames are wanted; without it, all.
    gate: Option<Semaphore>,
    frames: Mutex<Vec<(ReplicaId, Bytes)>>,
    closed: Mutex<Vec<ReplicaId>>,
}

impl Replies {
    pub(crate) fn wanting(frames: usize) -> Self {
        Replies {
            gate: Some(Semaphore::new(frames)),
            ..Replies::default()
        }
    }

    pub(crate) fn want_all(&self) {
        if let Some(gate) = &self.gate {
            gate.close();
        }
    }

    pub(crate) fn frames(&self) -> Vec<(ReplicaId, Bytes)> {
        self.frames.lock().unwrap().clone()
    }

    pub(crate) fn closed(&self) -> Vec<ReplicaId> {
        self.closed.lock().unwrap().clone()
    }
}

#[async_trait]
impl ClientReplies for Replies {
    fn deliver(&self, from: ReplicaId, frame: Bytes) {
        self.frames.lock().unwrap().push((from, frame));
    }

    async fn ready(&self) {
        if let Some(gate) = &self.gate
            && let Ok(permit) = gate.acquire().await
        {
            permit.forget();
        }
    }

    fn closed(&self, from: ReplicaId) {
        self.closed.lock().unwrap().push(from);
    }
}

/// The refusal in `outcome`, which must be one for want of authentication.
pub(crate) fn not_authenticated<T>(outcome: Result<T, TransportError>) -> String {
    match outcome {
        Err(TransportError::NotAuthenticated { reason, .. }) => reason,
        Err(other) => panic!("another error: {other}"),
        Ok(_) => panic!("it was authenticated"),
    }
}
