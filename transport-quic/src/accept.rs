//! Whoever calls this replica: members, and clients.

use std::sync::Arc;

use bytes::Bytes;
use quinn::{Connection, Endpoint, Incoming};
use quorate_core::crypto::{GroupId, PublicKey};
use quorate_core::transport::{ClientService, FrameSink};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::close::Close;
use crate::identity::{self, Caller};
use crate::link::{self, End, Opened, Outlet};
use crate::outbox::Dropped;
use crate::peer::{PeerState, Shared, run_link};

/// How many may be in the handshake at a time.
const HANDSHAKES: usize = 256;

/// Who may call, and what becomes of them.
pub(crate) struct Reception {
    pub(crate) shared: Arc<Shared>,
    pub(crate) group: GroupId,
    pub(crate) peers: Vec<Option<Arc<PeerState>>>,
    pub(crate) clients: Arc<Semaphore>,
}

/// Takes calls until the endpoint closes.
pub(crate) async fn keep_accepting(reception: Arc<Reception>, endpoint: Endpoint) {
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES));
    while let Some(incoming) = endpoint.accept().await {
        let Ok(permit) = handshakes.clone().try_acquire_owned() else {
            incoming.refuse();
            continue;
        };
        let tasks = &reception.shared.tasks;
        tasks.spawn(receive(reception.clone(), incoming, permit));
    }
}

async fn receive(reception: Arc<Reception>, incoming: Incoming, handshake: OwnedSemaphorePermit) {
    let address = incoming.remote_address();
    let limit = reception.shared.settings.connect_timeout;
    let connecting = async { incoming.accept()?.await };
    let connection = match timeout(limit, connecting).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => {
            tracing::warn!(%address, %error, "a caller failed the handshake");
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
        tracing::warn!(me = %shared.me, %address, %key, "refused: the key is not a member's");
        Close::NotMember.apply(&connection);
        return;
    };
    let limit = shared.settings.connect_timeout;
    let knocks = peer.id > shared.me;
    let accepting = async {
        let mut opened = link::accept(&connection).await?;
        opened.agree(&shared.terms).await?;
        if !knocks {
            opened.welcome().await?;
        }
        Ok(opened)
    };
    let outcome: Result<Result<Opened, End>, _> = timeout(limit, accepting).await;
    drop(handshake);
    match outcome {
        Ok(Ok(_)) if knocks => {
            Close::CallBack.apply(&connection);
            peer.knock();
        }
        Ok(Ok(opened)) => run_link(shared, peer, connection, opened).await,
        Ok(Err(End::Differs(differences))) => {
            peer.differs(shared.me, &differences);
            Close::Differs.apply(&connection);
        }
        Ok(Err(end)) => {
            tracing::warn!(peer = %peer.id, reason = %end, "a member's call failed");
            Close::BadFrame.apply(&connection);
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
    let Ok(_permit) = reception.clients.clone().try_acquire_owned() else {
        tracing::warn!(me = %shared.me, %address, %key, "a client was refused: too many");
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
    let limit = shared.settings.client_queue;
    let session = Session {
        sink: Arc::new(ClientSink {
            key,
            outlet: Outlet::new(connection.clone(), limit),
        }),
    };
    let Some(service) = shared.service.client(key, session.sink.clone()) else {
        tracing::warn!(me = %shared.me, %address, %key, "a client was refused: not admitted");
        session.sink.outlet.close(Close::NotAdmitted);
        return;
    };
    if opened.welcome().await.is_ok() {
        serve_client(shared, &session, &*service, opened).await;
    }
}

async fn serve_client(
    shared: &Shared,
    session: &Session,
    service: &dyn ClientService,
    opened: Opened,
) {
    let sink = session.sink.clone();
    let key = sink.key;
    let Opened { sending, mut inlet } = opened;
    let _writer = shared.tasks.spawn_scoped(async move {
        sink.outlet.write_to(sending, None).await;
    });
    loop {
        match inlet.next().await {
            Ok(frame) => service.deliver(frame).await,
            Err(End::Malformed(reason)) => {
                tracing::warn!(client = %key, reason, "connection closed: what came is not a frame");
                session.sink.outlet.close(Close::BadFrame);
                return;
            }
            Err(end @ (End::Closed(_) | End::Differs(_))) => {
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
