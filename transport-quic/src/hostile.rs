//! Tests of what callers get who are not what they should be, or do not do what they should.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use quinn::{ClientConfig, Connection, ConnectionError, Endpoint, RecvStream, SendStream};
use quorate_core::crypto::{GroupId, PublicKey, SecretKey};
use quorate_core::epoch::{Epoch, Setting, TEXT_LIMIT};
use quorate_core::id::ReplicaId;
use quorate_core::life::{Acquaintances, Forgetful};
use quorate_core::transport::{ClientService, FrameSink, Service, Transport, TransportError};
use tokio::sync::mpsc;

use crate::close::Close;
use crate::frame::FRAME_LIMIT;
use crate::identity::{self, Caller};
use crate::link::{Credentials, LIFE_BYTES, Opened};
use crate::outbox::QueueLimit;
use crate::peer::{call, dial};
use crate::quic::{Peer, QuicConfig, QuicEndpoint, QuicTransport};
use crate::settings::{Settings, Trust};

mod bulk;
mod frames;
mod handshakes;
mod lives;

const GROUP: GroupId = GroupId(3);
const ME: ReplicaId = ReplicaId(1);

fn key(n: u8) -> SecretKey {
    SecretKey::from_seed([n + 1; 32])
}

/// What the members agree on.
fn epoch() -> Epoch {
    Epoch::first(GROUP, "none", &[0, 1, 2].map(|id| key(id).public()))
}

/// The same, but for a setting.
fn other_epoch() -> Epoch {
    epoch().with("settings", vec![Setting::agreed("lease_ms", 300)])
}

fn any_port() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 0).into()
}

fn config(id: u8, listen: SocketAddr) -> QuicConfig {
    QuicConfig {
        me: ReplicaId(id),
        key: key(id),
        group: GROUP,
        listen,
        settings: Settings {
            client_queue: QueueLimit {
                frames: 64,
                bytes: 1 << 20,
            },
            clients_of_a_key: 3,
            clients_frame_bytes: FRAME_LIMIT,
            frame_timeout: Duration::from_millis(300),
            // Whatever is noticed in these tests is noticed without it.
            idle_timeout: Duration::from_secs(600),
            bulk_patience: Duration::from_secs(1),
            ..Settings::default()
        },
    }
}

fn peers(addresses: [SocketAddr; 3]) -> Vec<Peer> {
    let peer = |(id, address): (u8, SocketAddr)| Peer {
        key: key(id).public(),
        address: address.to_string(),
    };
    (0u8..).zip(addresses).map(peer).collect()
}

/// Passes on the frames of members and, as if they were replica 9's, of clients, of whom it admits
/// every one.
struct Inbox {
    frames: mpsc::UnboundedSender<(ReplicaId, Bytes)>,
    clients: Mutex<Vec<Arc<dyn FrameSink>>>,
}

type Frames = mpsc::UnboundedReceiver<(ReplicaId, Bytes)>;

fn inbox() -> (Arc<Inbox>, Frames) {
    let (frames, received) = mpsc::unbounded_channel();
    let clients = Mutex::default();
    (Arc::new(Inbox { frames, clients }), received)
}

#[async_trait]
impl Service for Inbox {
    async fn deliver(&self, from: ReplicaId, frame: Bytes) {
        self.frames.send((from, frame)).ok();
    }

    async fn bulk(&self, _: ReplicaId, _: Bytes) -> Option<Vec<Bytes>> {
        Some(vec![Bytes::from_static(&[7; 1 << 20]); 64])
    }

    fn client(&self, _: PublicKey, replies: Arc<dyn FrameSink>) -> Option<Arc<dyn ClientService>> {
        self.clients.lock().unwrap().push(replies);
        Some(Arc::new(Passing(self.frames.clone())))
    }
}

struct Passing(mpsc::UnboundedSender<(ReplicaId, Bytes)>);

#[async_trait]
impl ClientService for Passing {
    /// Has one wait for ever who says "wait".
    async fn deliver(&self, frame: Bytes) {
        self.0.send((ReplicaId(9), frame.clone())).ok();
        if frame == "wait" {
            std::future::pending::<()>().await;
        }
    }
}

impl Drop for Passing {
    fn drop(&mut self) {
        self.0
            .send((ReplicaId(9), Bytes::from_static(b"gone")))
            .ok();
    }
}

/// Replica 1 of three runs, and callers that can be anything.
struct World {
    target: Arc<QuicTransport>,
    inbox: Arc<Inbox>,
    frames: Frames,
    address: SocketAddr,
    /// Bound for the other two, so that they can be started at addresses known from the start.
    others: [Option<QuicEndpoint>; 2],
    addresses: [SocketAddr; 3],
    endpoint: Endpoint,
}

fn forgetful() -> Arc<dyn Acquaintances> {
    Arc::new(Forgetful::default())
}

impl World {
    fn new() -> World {
        World::of(config, forgetful())
    }

    fn remembering(acquaintances: Arc<dyn Acquaintances>) -> World {
        World::of(config, acquaintances)
    }

    fn of(
        config: impl Fn(u8, SocketAddr) -> QuicConfig,
        acquaintances: Arc<dyn Acquaintances>,
    ) -> World {
        let bound = [0, 1, 2].map(|id| QuicTransport::bind(config(id, any_port())).unwrap());
        let addresses = [0, 1, 2].map(|i: usize| bound[i].local_addr());
        let [zero, target, two] = bound;
        let (inbox, frames) = inbox();
        World {
            target: target
                .start(&peers(addresses), epoch(), acquaintances, inbox.clone())
                .unwrap(),
            inbox,
            frames,
            address: addresses[1],
            others: [Some(zero), Some(two)],
            addresses,
            endpoint: Endpoint::client(any_port()).unwrap(),
        }
    }

    fn start(&mut self, other: usize) -> (Arc<QuicTransport>, Frames) {
        let (inbox, frames) = inbox();
        let endpoint = self.others[other].take().unwrap();
        let started = endpoint
            .start(&peers(self.addresses), epoch(), forgetful(), inbox)
            .unwrap();
        (started, frames)
    }

    fn tls(&self, own: &SecretKey, pinned: &SecretKey, caller: Caller, g: GroupId) -> ClientConfig {
        let tls = identity::client(own, pinned.public(), caller, g).unwrap();
        let mut config = ClientConfig::new(Arc::new(tls));
        config.transport_config(Settings::default().transport(Trust::Member));
        config
    }

    async fn dial(
        &self,
        own: &SecretKey,
        caller: Caller,
    ) -> Result<(Connection, Opened), TransportError> {
        let tls = self.tls(own, &key(1), caller, GROUP);
        let own = Credentials::new(epoch(), forgetful());
        let own = (caller == Caller::Replica).then_some(&own);
        self.dial_with(tls, own).await
    }

    async fn dial_with(
        &self,
        tls: ClientConfig,
        own: Option<&Credentials>,
    ) -> Result<(Connection, Opened), TransportError> {
        let limit = Duration::from_secs(30);
        let address = self.address.to_string();
        dial(&self.endpoint, ME, &address, tls, own, limit).await
    }

    /// A member's connection, and its first stream.
    async fn stream(&self, id: u8) -> (Connection, SendStream, RecvStream) {
        let tls = self.tls(&key(id), &key(1), Caller::Replica, GROUP);
        let address = self.address.to_string();
        let connection = call(&self.endpoint, ME, &address, tls).await.unwrap();
        let (sending, receiving) = connection.open_bi().await.unwrap();
        (connection, sending, receiving)
    }

    async fn expect(&mut self, from: u8, text: &'static str) {
        let frame = Bytes::from_static(text.as_bytes());
        assert_eq!(self.frames.recv().await, Some((ReplicaId(from), frame)));
    }
}

fn refusal<T>(outcome: Result<T, TransportError>) -> String {
    match outcome {
        Err(TransportError::NotAuthenticated { to: ME, reason }) => reason,
        Err(other) => panic!("another error: {other}"),
        Ok(_) => panic!("it was accepted"),
    }
}

async fn connected(transport: &QuicTransport, peer: u8) {
    while !transport.connected().contains(ReplicaId(peer)) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

fn close_of(error: &ConnectionError) -> Close {
    Close::received(error).unwrap_or_else(|| panic!("closed for no reason of ours: {error}"))
}

#[tokio::test]
async fn a_replica_with_an_unknown_key_is_refused_and_told_why() {
    let world = World::new();
    let reason = refusal(world.dial(&key(9), Caller::Replica).await);
    assert!(reason.contains("not in the membership"), "{reason}");
    let own_key_of_the_target = world.dial(&key(1), Caller::Replica).await;
    assert!(refusal(own_key_of_the_target).contains("not in the membership"));
    assert!(world.target.connected().is_empty());
}

#[tokio::test]
async fn a_caller_of_another_cluster_is_refused() {
    let world = World::new();
    for caller in [Caller::Replica, Caller::Client] {
        let tls = world.tls(&key(0), &key(1), caller, GroupId(4));
        refusal(world.dial_with(tls, None).await);
    }
    assert!(world.target.connected().is_empty());
}

#[tokio::test]
async fn a_caller_that_expects_another_key_ends_the_handshake() {
    let world = World::new();
    let tls = world.tls(&key(0), &key(8), Caller::Replica, GROUP);
    let reason = refusal(
        world
            .dial_with(tls, Some(&Credentials::new(epoch(), forgetful())))
            .await,
    );
    assert!(reason.contains(&key(8).public().to_string()), "{reason}");
    assert!(reason.contains(&key(1).public().to_string()), "{reason}");
}

#[tokio::test]
async fn a_caller_without_a_key_fails_the_handshake() {
    let world = World::new();
    let any = Arc::new(rustls::crypto::ring::default_provider());
    let mut tls = rustls::ClientConfig::builder_with_provider(any)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    tls.alpn_protocols = vec![Caller::Client.alpn(GROUP)];
    let tls = quinn::crypto::rustls::QuicClientConfig::try_from(tls).unwrap();
    refusal(
        world
            .dial_with(ClientConfig::new(Arc::new(tls)), None)
            .await,
    );
}

#[tokio::test]
async fn a_member_that_claims_too_much_is_cut_off_and_may_come_back() {
    let mut world = World::new();
    let (two, mut at_two) = world.start(1);
    connected(&two, 1).await;
    connected(&world.target, 2).await;
    for garbage in [&[0xff; 64][..], &(FRAME_LIMIT as u32 + 1).to_be_bytes()] {
        let (connection, mut opened) = world.dial(&key(0), Caller::Replica).await.unwrap();
        opened.sending.write_all(b"\0\0\0\x04good").await.unwrap();
        world.expect(0, "good").await;
        opened.sending.write_all(garbage).await.unwrap();
        assert_eq!(close_of(&connection.closed().await), Close::BadFrame);
        world
            .target
            .send(ReplicaId(2), Bytes::from_static(b"still"));
        assert_eq!(at_two.recv().await.unwrap().1, "still");
    }
    let (zero, _frames) = world.start(0);
    connected(&zero, 1).await;
    zero.send(ME, Bytes::from_static(b"back"));
    world.expect(0, "back").await;
    assert_eq!(world.target.stats(ReplicaId(2)).connects, 1);
}

#[tokio::test]
async fn a_member_that_does_not_begin_with_a_hello_is_cut_off() {
    let world = World::new();
    let (connection, mut sending, _receiving) = world.stream(0).await;
    sending.write_all(b"GET / HTTP/1.1").await.unwrap();
    assert_eq!(close_of(&connection.closed().await), Close::BadFrame);
    assert!(world.target.connected().is_empty());
}

fn differences<T>(outcome: Result<T, TransportError>) -> String {
    match outcome {
        Err(TransportError::Disagrees {
            to: ME,
            differences,
        }) => differences,
        Err(other) => panic!("another error: {other}"),
        Ok(_) => panic!("it was accepted"),
    }
}

#[tokio::test]
async fn a_member_with_other_settings_is_refused_and_each_end_knows_in_what_they_differ() {
    let world = World::new();
    // One that is called, and one that is to call back.
    for id in [0, 2] {
        let tls = world.tls(&key(id), &key(1), Caller::Replica, GROUP);
        let own = Credentials::new(other_epoch(), forgetful());
        let said = differences(world.dial_with(tls, Some(&own)).await);
        assert_eq!(said, "settings.lease_ms is 300 here and absent there");

        let (connection, mut sending, mut receiving) = world.stream(id).await;
        let hello = [&[1][..], &other_epoch().digest().0, &[0; LIFE_BYTES]].concat();
        sending.write_all(&hello).await.unwrap();
        let theirs = epoch().to_string();
        let mut answer = vec![0; 5 + theirs.len()];
        receiving.read_exact(&mut answer).await.unwrap();
        assert_eq!(answer[0], 3);
        assert_eq!(&answer[5..], theirs.as_bytes());
        let text = other_epoch().to_string();
        let length = (text.len() as u32).to_be_bytes();
        sending
            .write_all(&[&length[..], text.as_bytes()].concat())
            .await
            .unwrap();
        assert_eq!(close_of(&connection.closed().await), Close::Differs);
    }
    assert!(world.target.connected().is_empty());
}

#[tokio::test]
async fn no_more_is_taken_of_a_members_other_settings_than_the_limit() {
    let world = World::new();
    let taken = [
        (TEXT_LIMIT, Close::Differs),
        (TEXT_LIMIT + 1, Close::BadFrame),
    ];
    for (length, close) in taken {
        let (connection, mut sending, _receiving) = world.stream(0).await;
        let announced = (length as u32).to_be_bytes();
        let text = vec![b'x'; length];
        let all = [&[1][..], &[7; 32], &[0; LIFE_BYTES], &announced, &text].concat();
        // What is beyond may not be taken any more.
        sending.write_all(&all).await.ok();
        assert_eq!(close_of(&connection.closed().await), close);
    }
}

#[tokio::test]
async fn two_that_differ_in_the_order_of_members_do_not_wait_for_each_other() {
    let world = World::new();
    let swapped = Epoch::first(GROUP, "none", &[2, 1, 0].map(|id| key(id).public()));
    let tls = world.tls(&key(2), &key(1), Caller::Replica, GROUP);
    let said = differences(
        world
            .dial_with(tls, Some(&Credentials::new(swapped, forgetful())))
            .await,
    );
    assert!(said.contains("member.00 is "), "{said}");
    assert!(said.contains("member.02 is "), "{said}");
}

#[tokio::test]
async fn a_later_call_of_the_same_member_replaces_the_earlier() {
    let mut world = World::new();
    let (first, _opened) = world.dial(&key(0), Caller::Replica).await.unwrap();
    let (_second, mut opened) = world.dial(&key(0), Caller::Replica).await.unwrap();
    assert_eq!(close_of(&first.closed().await), Close::Replaced);
    opened.sending.write_all(b"\0\0\0\x06second").await.unwrap();
    world.expect(0, "second").await;
}

#[tokio::test]
async fn stray_datagrams_disturb_nobody() {
    let mut world = World::new();
    let (zero, _frames) = world.start(0);
    connected(&zero, 1).await;
    let socket = std::net::UdpSocket::bind(any_port()).unwrap();
    for length in [0, 1, 20, 1200] {
        for first in [0x00, 0x40, 0xc0, 0xff] {
            let mut datagram = vec![0xa5; length];
            datagram.iter_mut().take(1).for_each(|byte| *byte = first);
            socket.send_to(&datagram, world.address).unwrap();
        }
    }
    zero.send(ME, Bytes::from_static(b"undisturbed"));
    world.expect(0, "undisturbed").await;
    assert_eq!(zero.stats(ME).connects, 1);
}

#[tokio::test]
async fn a_client_that_sends_garbage_is_cut_off() {
    let world = World::new();
    let (connection, mut opened) = world.dial(&key(50), Caller::Client).await.unwrap();
    opened.sending.write_all(&[0xff; 64]).await.unwrap();
    assert_eq!(close_of(&connection.closed().await), Close::BadFrame);
}

#[tokio::test]
async fn a_client_that_does_not_read_is_cut_off() {
    let world = World::new();
    let (connection, _unread) = world.dial(&key(50), Caller::Client).await.unwrap();
    let sink = world.inbox.clients.lock().unwrap()[0].clone();
    let frame = Bytes::from(vec![0; 256 << 10]);
    while sink.send(frame.clone()) {
        tokio::task::yield_now().await;
    }
    match connection.closed().await {
        // The reason itself may be lost in the flood, and what comes later answered by a reset.
        ConnectionError::Reset => {}
        closed => assert_eq!(close_of(&closed), Close::SlowReader),
    }
    assert!(!sink.send(Bytes::new()));
}

#[tokio::test]
async fn a_client_that_goes_while_the_service_has_it_wait_is_noticed() {
    let mut world = World::new();
    let (connection, mut opened) = world.dial(&key(50), Caller::Client).await.unwrap();
    opened.sending.write_all(b"\0\0\0\x04wait").await.unwrap();
    world.expect(9, "wait").await;
    connection.close(Close::Done.varint(), b"");
    world.expect(9, "gone").await;
}

#[tokio::test]
async fn one_key_has_a_bounded_number_of_connections_and_leaves_room_for_others() {
    let world = World::new();
    let mut connections = Vec::new();
    for _ in 0..3 {
        connections.push(world.dial(&key(50), Caller::Client).await.unwrap());
    }
    world.dial(&key(50), Caller::Client).await.err().unwrap();
    world.dial(&key(51), Caller::Client).await.unwrap();
    drop(connections.pop());
    // Its place is free when the replica has noticed.
    while world.dial(&key(50), Caller::Client).await.is_err() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn a_port_in_use_is_named() {
    let world = World::new();
    let address = world.address.to_string();
    match QuicTransport::bind(config(1, world.address)) {
        Err(TransportError::Bind { address: named, .. }) => assert_eq!(named, address),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_replica_does_not_start_under_a_key_that_is_not_listed() {
    for (me, listed) in [(0, "listed is"), (7, "not among")] {
        let endpoint = QuicTransport::bind(QuicConfig {
            me: ReplicaId(me),
            key: key(9),
            ..config(0, any_port())
        });
        let outcome =
            endpoint
                .unwrap()
                .start(&peers([any_port(); 3]), epoch(), forgetful(), inbox().0);
        match outcome {
            Err(TransportError::NotAuthenticated { reason, .. }) => {
                assert!(reason.contains(listed), "{reason}");
            }
            other => panic!("started: {}", other.is_ok()),
        }
    }
}

/// Its tasks and sockets vanish without a word to anybody, as when a process is killed.
#[test]
fn a_replica_that_was_killed_is_connected_again_when_it_restarts() {
    let runtime = || tokio::runtime::Runtime::new().unwrap();
    let (survivor_runs, mut other_runs) = (runtime(), runtime());
    for killed in [0, 2] {
        let mut world = survivor_runs.block_on(async { World::new() });
        let other = if killed == 0 { 0 } else { 1 };
        let address = world.addresses[usize::from(killed)];
        drop(world.others[other].take());
        let start = || {
            let (inbox, frames) = inbox();
            let endpoint = loop {
                // The survivor's test drops the socket bound before in a task of its own.
                match QuicTransport::bind(config(killed, address)) {
                    Ok(endpoint) => break endpoint,
                    Err(_) => std::thread::sleep(Duration::from_millis(1)),
                }
            };
            (
                endpoint
                    .start(&peers(world.addresses), epoch(), forgetful(), inbox)
                    .unwrap(),
                frames,
            )
        };
        let (before, _frames) = other_runs.block_on(async { start() });
        survivor_runs.block_on(connected(&world.target, killed));
        std::mem::replace(&mut other_runs, runtime()).shutdown_background();
        drop(before);
        let (after, mut frames) = other_runs.block_on(async { start() });
        survivor_runs.block_on(async {
            while world.target.stats(ReplicaId(killed)).connects < 2 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            world
                .target
                .send(ReplicaId(killed), Bytes::from_static(b"again"));
            assert_eq!(frames.recv().await.unwrap().1, "again");
        });
        drop(after);
    }
}
