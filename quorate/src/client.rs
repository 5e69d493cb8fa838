//! A client of a cluster elsewhere.

use std::sync::Arc;

use quorate_core::crypto::{GroupId, SecretKey, Signer};
use quorate_node::{Client, ClientOptions};
use quorate_transport_quic::{Peer, QuicConnector, Settings as QuicSettings};

use crate::builder::StartError;
use crate::config::{self, ClientConfig, ReplicaConfig};

/// A client as a configuration file describes it. Must be called inside a tokio runtime.
pub fn connect(config: &ClientConfig) -> Result<Client, StartError> {
    let key = config::load_key(&config.key_file)?;
    connect_with(&key, config.group, &config.replicas, config.options.clone())
}

/// A client of `replicas`, which are listed in the same order as on the nodes, with a key that is
/// in memory. Must be called inside a tokio runtime.
///
/// `options.faults` must be what the cluster's protocol survives
/// ([`ProtocolKind::faults`](crate::ProtocolKind::faults)): where replicas may lie, one answer is
/// no answer.
pub fn connect_with(
    key: &SecretKey,
    group: GroupId,
    replicas: &[ReplicaConfig],
    options: ClientOptions,
) -> Result<Client, StartError> {
    config::check_replicas(replicas).map_err(StartError::Replicas)?;
    let peers: Vec<Peer> = replicas.iter().map(Peer::from).collect();
    let connector = QuicConnector::new(key, group, &peers, QuicSettings::default())?;
    let signer = Signer::new(key.clone(), group);
    Ok(Client::new(Arc::new(connector), signer, options))
}
