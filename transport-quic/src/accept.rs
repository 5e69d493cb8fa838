//! Whoever calls this replica: members, and clients.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use quinn::{Connection, Endpoint, Incoming};
use quorate_core::crypto::{GroupId, PublicKey};
use quorate_core::transport::{ClientService, FrameSink};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::close::Close;
use crate::identity::{self, Caller};
use crate::link::{self, End, Opened, Outlet, Room};
use crate::outbox::{Dropped, Together};
use crate::peer::{PeerState, Shared, run_link};
use crate::settings::{CLIENT_SEND_WINDOW_BYTES, Settings};

/// How many may be in the handshake at a time that call from elsewhere than a member's address.
pub(crate) const HANDSHAKES: usize = 256;

/// How many that call from a member's address.
const MEMBERS_HANDSHAKES: usize = 64;

/// Who may call, and what becomes of them.
pub(crate) struct Reception {
    pub(crate) shared: Arc<Shared>,
    pub(crate) group: GroupId,
    pub(crate) peers: Vec<Option<Arc<PeerState>>>,
    pub(crate) clients: Clients,
    pub(crate) complaints: Complaints,
}

/// Takes calls until the endpoint closes.
pub(crate) async fn keep_accepting(reception: Arc<Reception>, endpoint: Endpoint) {
    let handshakes = Handshakes::new(&reception.peers);
    while let Some(incoming) = endpoint.accept().await {
        let slots = handshakes.of(incoming.remote_address());
        // Under load a caller must show that it is where it says: who does not take part in the
        // handshake holds no slot then. [RFC9000 §8.1.2]
        if slots.are_short() && !incoming.remote_address_validated() && incoming.may_retry() {
            // Fails only where it may not be done.
            let _sent = incoming.retry();
            continue;
        }
        let Ok(permit) = slots.free.clone().try_acquire_owned() else {
            incoming.refuse();
            continue;
        };
        let tasks = &reception.shared.tasks;
        tasks.spawn(receive(reception.clone(), incoming, permit));
    }
}

/// The handshakes that may go on at a time: those of members have slots of their own. A member
/// calls from the address at which it listens.
struct Handshakes {
    addresses: Vec<SocketAddr>,
    members: Slots,
    others: Slots,
}

struct Slots {
    all: usize,
    free: Arc<Semaphore>,
}

impl Slots {
    fn new(all: usize) -> Self {
        let free = Arc::new(Semaphore::new(all));
        Slots { all, free }
    }

    fn are_short(&self) -> bool {
        self.free.available_permits() <= self.all * 3 / 4
    }
}

impl Handshakes {
    fn new(peers: &[Option<Arc<PeerState>>]) -> Self {
        let peers = peers.iter().flatten();
        Handshakes {
            addresses: peers.filter_map(|peer| peer.address.parse().ok()).collect(),
            members: Slots::new(MEMBERS_HANDSHAKES),
            others: Slots::new(HANDSHAKES),
        }
    }

    fn of(&self, address: SocketAddr) -> &Slots {
        match self.addresses.contains(&address) {
            true => &self.members,
            false => &self.others,
        }
    }
}

/// The clients that are connected.
pub(crate) struct Clients {
    slots: Arc<Semaphore>,
    /// How many there are of each key.
    of_key: Mutex<BTreeMap<PublicKey, usize>>,
    most_of_a_key: usize,
    /// What waits for them.
    waiting: Arc<Together>,
    /// What comes from them.
    room: Room,
}

impl Clients {
    pub(crate) fn new(settings: &Settings) -> Self {
        Clients {
            slots: Arc::new(Semaphore::new(settings.clients)),
            of_key: Mutex::default(),
            most_of_a_key: settings.clients_of_a_key,
            waiting: Arc::new(Together::new(settings.clients_queue_bytes)),
            room: Room::new(settings),
        }
    }

    fn of_key(&self) -> MutexGuard<'_, BTreeMap<PublicKey, usize>> {
        self.of_key.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn place(&self, key: PublicKey) -> Option<Place<'_>> {
        let permit = self.slots.clone().try_acquire_owned().ok()?;
        let mut of_key = self.of_key();
        let count = of_key.entry(key).or_default();
        if *count >= self.most_of_a_key {
            return None;
        }
        *count += 1;
        Some(Place {
            clients: self,
            key,
            _permit: permit,
        })
    }
}

/// Room for one client, until it is dropped.
struct Place<'a> {
    clients: &'a Clients,
    key: PublicKey,
    _permit: OwnedSemaphorePermit,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut of_key = self.clients.of_key();
        if let Some(count) = of_key.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                of_key.remove(&self.key);
            }
        }
    }
}

/// What callers did wrong, counted: each kind is said the 1st, 2nd, 4th, 8th ... time.
#[derive(Debug, Default)]
pub(crate) struct Complaints {
    handshakes: AtomicU64,
    strangers: AtomicU64,
    too_many: AtomicU64,
    not_admitted: AtomicU64,
}

/// Counts one; the count, if it is to be said.
fn worth_saying(counter: &AtomicU64) -> Option<u64> {
    let count = counter.fetch_add(1, Ordering::Relaxed) + 1;
    count.is_power_of_two().then_some(count)
}

async fn receive(reception: Arc<Reception>, incoming: Incoming, handshake: OwnedSemaphorePermit) {
    let address = incoming.remote_address();
    let limit = reception.shared.settings.connect_timeout;
    let connecting = async { incoming.accept()?.await };
    let connection = match timeout(limit, connecting).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => {
            if let Some(times) = worth_saying(&reception.complaints.handshakes) {
                tracing::warn!(%address, %error, times, "a caller failed the handshake");
            }
            return;
        }
        Err(_) => {
            tracing::debug!(%address, "a caller did not finish the handshake");
            return;
        }
    };
    let caller = Caller::of(&connection, reception.group);
    match (caller, identity::proved_key(&connection)) {
        (Some(Caller::Replica), Some(key)) => {
            receive_replica(&reception, connection, key, handshake).await;
        }
        (Some(Caller::Client), Some(key)) => {
            receive_client(&reception, connection, key, handshake).await;
        }
        _ => Close::NotMember.apply(&connection),
    }
}

async fn receive_replica(
    reception: &Reception,
    connection: Connection,
    key: PublicKey,
    handshake: OwnedSemaphorePermit,
) {
    let shared = &reception.shared;
    let mut peers = reception.peers.iter().flatten();
    let Some(peer) = peers.find(|peer| peer.key == key) else {
        let address = connection.remote_address();
        if let Some(times) = worth_saying(&reception.complaints.strangers) {
            tracing::warn!(me = %shared.me, %address, %key, times, "refused: the key is not a member's");
        }
        Close::NotMember.apply(&connection);
        return;
    };
    let limit = shared.settings.connect_timeout;
    let knocks = peer.id > shared.me;
    let accepting = async {
        let mut opened = link::accept(&connection).await?;
        opened.agree(peer.id, &shared.credentials).await?;
        if !knocks {
            opened.welcome_as(&shared.credentials).await?;
        }
        Ok(opened)
    };
    let outcome: Result<Result<Opened, End>, _> = timeout(limit, accepting).await;
    match outcome {
        Ok(Ok(_)) if knocks => {
            Close::CallBack.apply(&connection);
            peer.knock();
        }
        Ok(Ok(opened)) => {
            drop(handshake);
            run_link(shared, peer, connection, opened).await;
        }
        Ok(Err(End::Differs(differences))) => {
            peer.differs(shared.me, &differences);
            Close::Differs.apply(&connection);
        }
        Ok(Err(End::Forgot(reason))) => {
            peer.forgot(shared.me, &reason);
            // The other end closes when it has read why. Were this one to, it might not read it.
            let _ = timeout(limit, connection.closed()).await;
            Close::Forgot.apply(&connection);
        }
        Ok(Err(end)) => {
            tracing::warn!(peer = %peer.id, reason = %end, "a member's call failed");
            match end {
                End::Unready(_) => Close::Unready.apply(&connection),
                _ => Close::BadFrame.apply(&connection),
            }
        }
        Err(_) => Close::BadFrame.apply(&connection),
    }
}

async fn receive_client(
    reception: &Reception,
    connection: Connection,
    key: PublicKey,
    handshake: OwnedSemaphorePermit,
) {
    let shared = &reception.shared;
    let address = connection.remote_address();
    let Some(_place) = reception.clients.place(key) else {
        if let Some(times) = worth_saying(&reception.complaints.too_many) {
            tracing::warn!(me = %shared.me, %address, %key, times, "a client was refused: too many");
        }
        Close::Busy.apply(&connection);
        return;
    };
    let accepting = link::accept(&connection);
    let Ok(Ok(mut opened)) = timeout(shared.settings.connect_timeout, accepting).await else {
        tracing::debug!(%address, %key, "a client's call failed");
        Close::BadFrame.apply(&connection);
        return;
    };
    drop(handshake);
    connection.set_send_window(CLIENT_SEND_WINDOW_BYTES);
    let limit = shared.settings.client_queue;
    let waiting = reception.clients.waiting.clone();
    let session = Session {
        sink: Arc::new(ClientSink {
            key,
            outlet: Outlet::sharing(connection.clone(), limit, waiting),
        }),
    };
    let Some(service) = shared.service.client(key, session.sink.clone()) else {
        if let Some(times) = worth_saying(&reception.complaints.not_admitted) {
            tracing::warn!(me = %shared.me, %address, %key, times, "a client was refused: not admitted");
        }
        session.sink.outlet.close(Close::NotAdmitted);
        return;
    };
    opened.inlet.share(reception.clients.room.clone());
    if opened.welcome().await.is_ok() {
        serve_client(shared, &session, &*service, (connection, opened)).await;
    }
}

async fn serve_client(
    shared: &Shared,
    session: &Session,
    service: &dyn ClientService,
    (connection, opened): (Connection, Opened),
) {
    let sink = session.sink.clone();
    let key = sink.key;
    let Opened { sending, mut inlet } = opened;
    let _writer = shared.tasks.spawn_scoped(async move {
        sink.outlet.write_to(sending, None).await;
    });
    let closed = connection.closed();
    tokio::pin!(closed);
    loop {
        match inlet.next().await {
            Ok(frame) => tokio::select! {
                biased;
                () = service.deliver(frame) => {}
                // The service may have it wait for long: what it waits with is dropped then.
                _ = &mut closed => return,
            },
            Err(End::Malformed(reason)) => {
                tracing::warn!(client = %key, reason, "connection closed: what came is not a frame");
                session.sink.outlet.close(Close::BadFrame);
                return;
            }
            Err(end) => {
                tracing::debug!(client = %key, reason = %end, "a client has gone");
                return;
            }
        }
    }
}

/// Frames for one client. One that does not read them loses its connection.
struct ClientSink {
    key: PublicKey,
    outlet: Outlet,
}

impl FrameSink for ClientSink {
    fn send(&self, frame: Bytes) -> bool {
        match self.outlet.push(frame) {
            Ok(()) => true,
            Err(Dropped::Closed | Dropped::Oversized) => false,
            Err(Dropped::Full) => {
                tracing::warn!(client = %self.key, "connection closed: the client does not read");
                self.outlet.close(Close::SlowReader);
                false
            }
        }
    }

    fn backlog(&self) -> usize {
        self.outlet.backlog()
    }
}

/// Ends a client's connection when its task does, whoever still holds the sink.
struct Session {
    sink: Arc<ClientSink>,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.sink.outlet.close(Close::Done);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_repeated_is_said_ever_more_rarely() {
        let counter = AtomicU64::new(0);
        let said = (0..100).filter_map(|_| worth_saying(&counter));
        assert_eq!(said.collect::<Vec<_>>(), [1, 2, 4, 8, 16, 32, 64]);
    }
}
