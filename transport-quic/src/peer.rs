//! One peer: the link to it, and calling it until there is one.
//!
//! Two replicas share one connection, for both directions: an acknowledgement then rides on the
//! answer, where two connections would each send it in a packet of its own. The replica with the
//! lower number calls, so that there is nothing to break a tie about. The other one, when it has
//! no link, *knocks*: it calls, proves its key, and is closed with "will call back"; the lower
//! number then calls at once, whatever its back-off. So a replica that restarts is connected
//! again quickly whichever side it is on. Whoever calls or knocks proves first that it has the same
//! settings: two replicas with different lists of members may not even agree on who calls.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use quinn::{ClientConfig, Connection, Endpoint, VarInt};
use quorate_core::crypto::PublicKey;
use quorate_core::id::ReplicaId;
use quorate_core::transport::{Service, TransportError};
use tokio::sync::{Notify, watch};
use tokio::time::{sleep, timeout};

use crate::bulk;
use crate::close::{Close, to_transport_error, unreachable};
use crate::identity::SERVER_NAME;
use crate::link::{self, Credentials, End, Inlet, Opened, Outlet};
use crate::outbox::Dropped;
use crate::positions;
use crate::settings::{MEMBER_WINDOW_BYTES, Settings};
use crate::stats::Counters;
use crate::tasks::Tasks;

/// A knock says that the caller has no link. A link younger than this may have been made while
/// the knock was under way, and is kept.
const FRESH: Duration = Duration::from_secs(1);

/// Another replica.
pub(crate) struct PeerState {
    pub(crate) id: ReplicaId,
    pub(crate) key: PublicKey,
    pub(crate) address: String,
    pub(crate) tls: ClientConfig,
    pub(crate) counters: Counters,
    outlet: Mutex<Option<Arc<Outlet>>>,
    linked: watch::Sender<bool>,
    knocked: Notify,
    /// How often it was refused.
    refused: AtomicU64,
    /// Held by the link that delivers, so that the frames of two never mix.
    turn: tokio::sync::Mutex<()>,
}

/// What the tasks of a transport share.
pub(crate) struct Shared {
    pub(crate) me: ReplicaId,
    pub(crate) settings: Settings,
    pub(crate) credentials: Credentials,
    pub(crate) service: Arc<dyn Service>,
    pub(crate) tasks: Arc<Tasks>,
}

impl PeerState {
    pub(crate) fn new(id: ReplicaId, key: PublicKey, address: String, tls: ClientConfig) -> Self {
        PeerState {
            id,
            key,
            address,
            tls,
            counters: Counters::default(),
            outlet: Mutex::new(None),
            linked: watch::Sender::new(false),
            knocked: Notify::new(),
            refused: AtomicU64::new(0),
            turn: tokio::sync::Mutex::new(()),
        }
    }

    fn slot(&self) -> MutexGuard<'_, Option<Arc<Outlet>>> {
        self.outlet.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn is_linked(&self) -> bool {
        self.slot().is_some()
    }

    pub(crate) fn connection(&self) -> Option<Connection> {
        self.slot().as_ref().and_then(|outlet| outlet.connection())
    }

    /// Queues `frame`. Without a link it is dropped: protocols send again what matters, and what
    /// was true before an outage is not worth sending after it.
    pub(crate) fn send(&self, frame: Bytes) {
        let bytes = frame.len();
        let outcome = match &*self.slot() {
            Some(outlet) => outlet.push(frame),
            None => Err(Dropped::Closed),
        };
        match outcome {
            Ok(()) => {}
            Err(Dropped::Closed) => self.counters.dropped_unconnected(),
            Err(why @ (Dropped::Full | Dropped::Oversized)) => {
                if self.counters.dropped_full() {
                    let dropped = self.counters.snapshot().dropped_full_frames;
                    tracing::warn!(peer = %self.id, ?why, bytes, dropped, "frames dropped");
                }
            }
        }
    }

    /// Makes `outlet` the link; the one before it ends.
    fn link(&self, outlet: Arc<Outlet>) {
        let before = self.slot().replace(outlet);
        if let Some(before) = before {
            before.close(Close::Replaced);
        }
        self.linked.send_replace(true);
    }

    /// There is no link any more, unless another has taken the place of `outlet`.
    fn unlink(&self, outlet: &Arc<Outlet>) {
        let mut slot = self.slot();
        if slot.as_ref().is_some_and(|now| Arc::ptr_eq(now, outlet)) {
            *slot = None;
            self.linked.send_replace(false);
        }
    }

    /// The peer has called, and has other settings.
    pub(crate) fn differs(&self, me: ReplicaId, differences: &str) {
        if let Some(calls) = self.worth_saying() {
            let peer = self.id;
            tracing::error!(%me, %peer, differences, calls, "refused: a replica is configured otherwise");
        }
    }

    /// The peer has called, and has lost what it had said to be durable.
    pub(crate) fn forgot(&self, me: ReplicaId, reason: &str) {
        if let Some(calls) = self.worth_saying() {
            tracing::error!(%me, peer = %self.id, reason, calls, "refused: a replica has forgotten what it said");
        }
    }

    /// Counts one that is refused: it is said the first time and, ever more rarely, later.
    fn worth_saying(&self) -> Option<u64> {
        let calls = self.refused.fetch_add(1, Ordering::Relaxed) + 1;
        calls.is_power_of_two().then_some(calls)
    }

    /// The peer has no link, and asks to be called.
    pub(crate) fn knock(&self) {
        let stale = self.slot().clone();
        if let Some(outlet) = stale.filter(|outlet| outlet.since().elapsed() > FRESH) {
            outlet.close(Close::Replaced);
        }
        self.knocked.notify_one();
    }
}

/// Ends a link when its task does, however that comes about.
struct Linked<'a> {
    peer: &'a PeerState,
    outlet: Arc<Outlet>,
}

impl Drop for Linked<'_> {
    fn drop(&mut self) {
        self.peer.unlink(&self.outlet);
        self.outlet.close(Close::Done);
    }
}

/// Serves a link until it ends.
pub(crate) async fn run_link(
    shared: &Shared,
    peer: &Arc<PeerState>,
    connection: Connection,
    opened: Opened,
) {
    connection.set_receive_window(VarInt::from_u32(MEMBER_WINDOW_BYTES));
    let streams = shared.settings.bulk_requests + 1;
    connection.set_max_concurrent_bi_streams(VarInt::from_u32(streams));
    let limit = shared.settings.peer_queue;
    let linked = Linked {
        peer,
        outlet: Arc::new(Outlet::new(connection.clone(), limit)),
    };
    peer.link(linked.outlet.clone());
    let _turn = peer.turn.lock().await;
    peer.counters.connected();
    let address = connection.remote_address();
    tracing::info!(me = %shared.me, peer = %peer.id, %address, "connected");
    let (outlet, writer_of) = (linked.outlet.clone(), peer.clone());
    let Opened { sending, inlet } = opened;
    let _writer = shared.tasks.spawn_scoped(async move {
        outlet.write_to(sending, Some(&writer_of.counters)).await;
    });
    let (tasks, service) = (shared.tasks.clone(), shared.service.clone());
    let patience = shared.settings.bulk_patience;
    let positioned = connection.clone();
    let serving = bulk::serve(tasks, service, (peer.id, patience), connection);
    let _bulk = shared.tasks.spawn_scoped(serving);
    let acquaintances = shared.credentials.acquaintances();
    let telling = positions::exchange(positioned, peer.id, acquaintances);
    let _telling = shared.tasks.spawn_scoped(telling);
    match deliver_all(shared, peer, inlet).await {
        End::Malformed(reason) => {
            tracing::warn!(peer = %peer.id, reason, "connection closed: what came is not a frame");
            linked.outlet.close(Close::BadFrame);
        }
        end => {
            tracing::info!(me = %shared.me, peer = %peer.id, reason = %end, "disconnected");
        }
    }
}

async fn deliver_all(shared: &Shared, peer: &PeerState, mut inlet: Inlet) -> End {
    loop {
        match inlet.next().await {
            Ok(frame) => {
                peer.counters.received(frame.len());
                shared.service.deliver(peer.id, frame).await;
            }
            Err(end) => return end,
        }
    }
}

/// Connects to `address`, and proves who is at both ends.
pub(crate) async fn call(
    endpoint: &Endpoint,
    to: ReplicaId,
    address: &str,
    tls: ClientConfig,
) -> Result<Connection, TransportError> {
    let mut addresses = tokio::net::lookup_host(address)
        .await
        .map_err(|error| unreachable(to, format!("{address}: {error}")))?;
    let socket_address = addresses
        .next()
        .ok_or_else(|| unreachable(to, format!("{address} has no address")))?;
    let connecting = endpoint
        .connect_with(tls, socket_address, SERVER_NAME)
        .map_err(|error| unreachable(to, error.to_string()))?;
    connecting
        .await
        .map_err(|error| to_transport_error(to, &error))
}

/// Connects to `address`, and waits until each end has accepted the other. A client has no credentials
/// but its key.
pub(crate) async fn dial(
    endpoint: &Endpoint,
    to: ReplicaId,
    address: &str,
    tls: ClientConfig,
    own: Option<&Credentials>,
    limit: Duration,
) -> Result<(Connection, Opened), TransportError> {
    let attempt = async {
        let connection = call(endpoint, to, address, tls).await?;
        let opened = match own {
            Some(own) => link::open_to(&connection, to, own).await,
            None => link::open(&connection).await,
        };
        match opened {
            Ok(opened) => Ok((connection, opened)),
            Err(end) => Err(refused(to, &connection, end)),
        }
    };
    let no_answer = |_| Err(unreachable(to, format!("no answer from {address}")));
    timeout(limit, attempt).await.unwrap_or_else(no_answer)
}

/// Why there is no link to a replica that was called.
fn refused(to: ReplicaId, connection: &Connection, end: End) -> TransportError {
    match end {
        End::Differs(differences) => TransportError::Disagrees { to, differences },
        End::Forgot(_) | End::Forgotten(_) => {
            let reason = end.to_string();
            Close::Forgot.apply(connection);
            TransportError::Forgotten { to, reason }
        }
        end => match connection.close_reason() {
            Some(reason) => to_transport_error(to, &reason),
            None => unreachable(to, end.to_string()),
        },
    }
}

/// Keeps a link to a peer of a higher number: calls it whenever there is none.
pub(crate) async fn keep_calling(shared: Arc<Shared>, peer: Arc<PeerState>, endpoint: Endpoint) {
    let mut back_off = BackOff::new(&shared.settings);
    loop {
        let limit = shared.settings.connect_timeout;
        let (address, own) = (&peer.address, Some(&shared.credentials));
        let dialing = dial(&endpoint, peer.id, address, peer.tls.clone(), own, limit);
        let outcome = tokio::select! {
            outcome = dialing => outcome,
            // A call under way when the peer came up may be waiting to be sent again.
            () = peer.knocked.notified() => continue,
        };
        match outcome {
            Ok((connection, opened)) => {
                back_off.reset();
                run_link(&shared, &peer, connection, opened).await;
            }
            Err(error) => back_off.failed(shared.me, &peer, &error),
        }
        tokio::select! {
            () = sleep(back_off.next()) => {}
            () = peer.knocked.notified() => {}
        }
    }
}

/// Asks a peer of a lower number to call, whenever there is no link.
pub(crate) async fn keep_knocking(shared: Arc<Shared>, peer: Arc<PeerState>, endpoint: Endpoint) {
    let mut linked = peer.linked.subscribe();
    let mut back_off = BackOff::new(&shared.settings);
    loop {
        if linked.wait_for(|linked| !linked).await.is_err() {
            return;
        }
        // The peer calls of itself when it has noticed; a knock is for when it has not.
        sleep(KNOCK_DELAY + back_off.next()).await;
        if peer.is_linked() {
            back_off.reset();
            continue;
        }
        let knocking = async {
            let connection = call(&endpoint, peer.id, &peer.address, peer.tls.clone()).await?;
            let opened = link::open_to(&connection, peer.id, &shared.credentials).await;
            if let Err(end @ (End::Differs(_) | End::Forgot(_) | End::Forgotten(_))) = opened {
                return Err(refused(peer.id, &connection, end));
            }
            let end = connection.closed().await;
            match Close::received(&end) {
                Some(Close::CallBack) => Ok(()),
                _ => Err(to_transport_error(peer.id, &end)),
            }
        };
        match timeout(shared.settings.connect_timeout, knocking).await {
            Ok(Ok(())) => back_off.reset(),
            Ok(Err(error)) => back_off.failed(shared.me, &peer, &error),
            Err(_) => {
                let reason = format!("no answer from {}", peer.address);
                back_off.failed(shared.me, &peer, &unreachable(peer.id, reason));
            }
        }
    }
}

const KNOCK_DELAY: Duration = Duration::from_millis(50);

/// How long to wait before the next try.
struct BackOff {
    min: Duration,
    max: Duration,
    next: Duration,
    failures: u64,
}

impl BackOff {
    fn new(settings: &Settings) -> Self {
        BackOff {
            min: settings.back_off_min,
            max: settings.back_off_max,
            next: settings.back_off_min,
            failures: 0,
        }
    }

    fn reset(&mut self) {
        self.next = self.min;
        self.failures = 0;
    }

    /// Counts a failure; logs the first and, ever more rarely, later ones.
    fn failed(&mut self, me: ReplicaId, peer: &PeerState, error: &TransportError) {
        self.failures += 1;
        let failures = self.failures;
        if !failures.is_power_of_two() {
            return;
        }
        match error {
            TransportError::Disagrees { .. } | TransportError::Forgotten { .. } => {
                tracing::error!(%me, peer = %peer.id, %error, failures, "refused");
            }
            TransportError::NotAuthenticated { .. } => {
                tracing::warn!(%me, peer = %peer.id, key = %peer.key, %error, failures, "refused");
            }
            _ => tracing::info!(%me, peer = %peer.id, %error, failures, "cannot connect"),
        }
    }

    /// The next wait: between half of it and all of it, so that replicas do not call in step.
    fn next(&mut self) -> Duration {
        let wait = self.next;
        self.next = (wait * 2).min(self.max);
        let share = getrandom::u32().map_or(1.0, |random| f64::from(random) / f64::from(u32::MAX));
        wait.mul_f64(0.5 + share / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_the_limit_and_start_again_after_success() {
        let settings = Settings::default();
        let mut back_off = BackOff::new(&settings);
        for _ in 0..20 {
            let bound = back_off.next;
            let wait = back_off.next();
            assert!(wait >= bound / 2 && wait <= bound);
        }
        assert_eq!(back_off.next, settings.back_off_max);
        back_off.reset();
        assert!(back_off.next() <= settings.back_off_min);
    }
}
