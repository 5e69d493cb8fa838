//! The transport of a replica: an endpoint that calls and is called.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use quinn::{ClientConfig, Endpoint, ServerConfig};
use quorate_core::crypto::{GroupId, PublicKey, SecretKey};
use quorate_core::epoch::Epoch;
use quorate_core::id::{MAX_REPLICAS, ReplicaId, ReplicaSet};
use quorate_core::life::Acquaintances;
use quorate_core::transport::{Service, Transport, TransportError};
use ring::hkdf;
use tokio::runtime::Handle;
use tokio::time::timeout;

use crate::accept::{Clients, Complaints, Reception, keep_accepting};
use crate::bulk;
use crate::close::{Close, unreachable};
use crate::identity::{self, Caller};
use crate::link::Credentials;
use crate::peer::{PeerState, Shared, keep_calling, keep_knocking};
use crate::positions;
use crate::settings::{Settings, Trust};
use crate::stats::PeerStats;
use crate::tasks::{OwnedRuntime, Tasks};

/// How long a shutdown waits for the other ends to hear of it.
const DRAIN: Duration = Duration::from_secs(1);

/// A replica: who it is, and where.
#[derive(Clone, Debug)]
pub struct Peer {
    /// The key it must prove.
    pub key: PublicKey,
    /// Where it listens: `host:port`. A name is looked up with each call.
    pub address: String,
}

/// What a transport is made from.
#[derive(Clone, Debug)]
pub struct QuicConfig {
    /// Which replica this is.
    pub me: ReplicaId,
    /// Its key.
    pub key: SecretKey,
    /// The cluster.
    pub group: GroupId,
    /// Where to listen, for replicas and clients; port 0 takes any that is free.
    pub listen: SocketAddr,
    /// Limits and times.
    pub settings: Settings,
}

/// A socket that is bound, and not yet served: its port can be told to others before they are
/// told to it.
#[derive(Debug)]
pub struct QuicEndpoint {
    config: QuicConfig,
    endpoint: Endpoint,
    address: SocketAddr,
    runtime: Arc<OwnedRuntime>,
}

impl QuicEndpoint {
    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Connects to `peers`, all replicas in the order of their ids, this one included, as far as they
    /// agree on `epoch` and have forgotten nothing that `acquaintances` remember, and delivers to
    /// `service`. Must be called within the runtime it was bound in.
    ///
    /// # Errors
    ///
    /// [`TransportError::NotAuthenticated`] if `peers` lists another key for this replica, or
    /// does not list it.
    pub fn start(
        self,
        peers: &[Peer],
        epoch: Epoch,
        acquaintances: Arc<dyn Acquaintances>,
        service: Arc<dyn Service>,
    ) -> Result<Arc<QuicTransport>, TransportError> {
        let QuicConfig { me, group, .. } = self.config;
        self.check_own_key(peers)?;
        let states = ReplicaId::all(peers.len())
            .zip(peers)
            .map(|(id, peer)| (id != me).then(|| self.peer_state(id, peer)).transpose())
            .collect::<Result<Vec<_>, _>>()?;
        let settings = self.config.settings;
        let clients = Clients::new(&settings);
        let shared = Arc::new(Shared {
            me,
            settings,
            credentials: Credentials::new(epoch, acquaintances.clone()),
            service,
            tasks: Arc::default(),
        });
        let tasks = shared.tasks.clone();
        tasks.spawn(positions::keep(acquaintances));
        for peer in states.iter().flatten().cloned() {
            let (shared, endpoint) = (shared.clone(), self.endpoint.clone());
            if peer.id > me {
                tasks.spawn(keep_calling(shared, peer, endpoint));
            } else {
                tasks.spawn(keep_knocking(shared, peer, endpoint));
            }
        }
        let reception = Arc::new(Reception {
            shared,
            group,
            peers: states.clone(),
            clients,
            complaints: Complaints::default(),
        });
        tasks.spawn(keep_accepting(reception, self.endpoint.clone()));
        Ok(Arc::new(QuicTransport {
            peers: states,
            tasks,
            running: Mutex::new(Some((self.endpoint, self.runtime))),
        }))
    }

    fn check_own_key(&self, peers: &[Peer]) -> Result<(), TransportError> {
        let me = self.config.me;
        let own = self.config.key.public();
        let reason = match peers.get(me.index()) {
            _ if peers.len() > MAX_REPLICAS => {
                format!(
                    "{} replicas are listed, at most {MAX_REPLICAS} are possible",
                    peers.len()
                )
            }
            Some(listed) if listed.key == own => return Ok(()),
            Some(listed) => format!("this replica's key is {own}, listed is {}", listed.key),
            None => format!("it is not among the {} replicas listed", peers.len()),
        };
        Err(TransportError::NotAuthenticated { to: me, reason })
    }

    fn peer_state(&self, id: ReplicaId, peer: &Peer) -> Result<Arc<PeerState>, TransportError> {
        let QuicConfig { key, group, .. } = &self.config;
        let tls = identity::client(key, peer.key, Caller::Replica, *group)
            .map_err(|error| unreachable(id, error.to_string()))?;
        let mut config = ClientConfig::new(Arc::new(tls));
        config.transport_config(self.config.settings.transport(Trust::Member));
        Ok(Arc::new(PeerState::new(
            id,
            peer.key,
            peer.address.clone(),
            config,
        )))
    }
}

/// [`Transport`] over QUIC.
pub struct QuicTransport {
    peers: Vec<Option<Arc<PeerState>>>,
    tasks: Arc<Tasks>,
    running: Mutex<Option<(Endpoint, Arc<OwnedRuntime>)>>,
}

impl QuicTransport {
    /// Binds the socket. Must be called within the tokio runtime that is to serve it.
    ///
    /// # Errors
    ///
    /// [`TransportError::Bind`], for instance if the port is in use.
    pub fn bind(config: QuicConfig) -> Result<QuicEndpoint, TransportError> {
        let failed = |reason: String| TransportError::Bind {
            address: config.listen.to_string(),
            reason,
        };
        Handle::try_current().map_err(|error| failed(error.to_string()))?;
        let tls = identity::server(&config.key, config.group)
            .map_err(|error| failed(error.to_string()))?;
        let token_key = hkdf::Salt::new(hkdf::HKDF_SHA256, &[]).extract(&config.key.seed()[..]);
        let mut server = ServerConfig::new(Arc::new(tls), Arc::new(token_key));
        server.transport_config(config.settings.transport(Trust::Stranger));
        server.migration(false);
        let socket = config.settings.socket(config.listen)?;
        let runtime = Arc::new(OwnedRuntime::default());
        let endpoint = config.settings.endpoint(&config.key);
        let endpoint = Endpoint::new(endpoint, Some(server), socket, runtime.clone())
            .map_err(|error| failed(error.to_string()))?;
        let address = endpoint
            .local_addr()
            .map_err(|error| failed(error.to_string()))?;
        Ok(QuicEndpoint {
            config,
            endpoint,
            address,
            runtime,
        })
    }

    /// What has passed between this replica and `peer`; zeros for this replica itself.
    pub fn stats(&self, peer: ReplicaId) -> PeerStats {
        let peer = self.peer(peer);
        peer.map_or_else(PeerStats::default, |peer| peer.counters.snapshot())
    }

    fn peer(&self, id: ReplicaId) -> Option<&Arc<PeerState>> {
        self.peers.get(id.index())?.as_ref()
    }

    fn stop(&self) -> Option<(Endpoint, Arc<OwnedRuntime>)> {
        let running = self.running.lock();
        let stopped = running.unwrap_or_else(PoisonError::into_inner).take();
        if let Some((endpoint, _)) = &stopped {
            endpoint.close(Close::Done.varint(), b"shut down");
        }
        stopped
    }
}

#[async_trait]
impl Transport for QuicTransport {
    fn send(&self, to: ReplicaId, frame: Bytes) {
        if let Some(peer) = self.peer(to) {
            peer.send(frame);
        }
    }

    async fn bulk(
        &self,
        from: ReplicaId,
        request: Bytes,
        patience: Duration,
        heard: &(dyn Fn() + Send + Sync),
    ) -> Result<Bytes, TransportError> {
        let Some(peer) = self.peer(from) else {
            return Err(unreachable(from, "it is not another member"));
        };
        let Some(connection) = peer.connection() else {
            return Err(unreachable(from, "it is not connected"));
        };
        bulk::ask(&connection, from, request, (patience, heard)).await
    }

    fn connected(&self) -> ReplicaSet {
        let linked = self.peers.iter().flatten().filter(|peer| peer.is_linked());
        linked.map(|peer| peer.id).collect()
    }

    /// What a service does for a frame at that moment ends where it next waits. The port is free
    /// when this returns, whether or not the other ends have heard of it.
    async fn shutdown(&self) {
        let Some((endpoint, runtime)) = self.stop() else {
            return;
        };
        self.tasks.shutdown().await;
        if timeout(DRAIN, endpoint.wait_idle()).await.is_err() {
            tracing::debug!("connections were still closing when the transport was shut down");
        }
        drop(endpoint);
        runtime.shutdown().await;
    }
}

impl Drop for QuicTransport {
    fn drop(&mut self) {
        self.stop();
        self.tasks.abort();
    }
}
