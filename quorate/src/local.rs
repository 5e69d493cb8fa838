//! A whole cluster on this machine: for examples, tests and comparisons.

use std::path::Path;
use std::sync::Arc;

use quorate_core::consensus::Consensus;
use quorate_core::crypto::{Admission, GroupId, PublicKey, SecretKey};
use quorate_core::id::ReplicaId;
use quorate_core::machine::StateMachine;
use quorate_core::replica::Settings;
use quorate_node::{Client, ClientOptions};

use crate::builder::{Bound, Builder, StartError};
use crate::client;
use crate::config::{ReplicaConfig, generate_key};
use crate::protocols::{ProtocolConfigs, ProtocolKind};

/// A replica of a local cluster, and its handle.
pub type LocalNode = Arc<dyn Consensus>;

/// Separate replicas on loopback: each has its own identity, QUIC endpoint and durable log; they
/// share the process only.
pub struct LocalCluster {
    protocol: ProtocolKind,
    nodes: Vec<LocalNode>,
    replicas: Vec<ReplicaConfig>,
    group: GroupId,
    client_key: SecretKey,
}

impl LocalCluster {
    /// Starts `n` replicas of `protocol` with fresh keys, each with its state in a new directory
    /// of its own below `data`, and with the state machine that `machine` makes. Fresh keys are a
    /// new cluster: an earlier one's directories are refused.
    pub async fn start<S: StateMachine>(
        protocol: ProtocolKind,
        n: usize,
        data: &Path,
        machine: impl FnMut() -> S,
    ) -> Result<Self, StartError> {
        let (settings, configs) = (Settings::default(), ProtocolConfigs::default());
        Self::start_with(protocol, n, data, settings, configs, machine).await
    }

    /// As [`LocalCluster::start`], with settings of the driver and of the protocols.
    pub async fn start_with<S: StateMachine>(
        protocol: ProtocolKind,
        n: usize,
        data: &Path,
        settings: Settings,
        configs: ProtocolConfigs,
        mut machine: impl FnMut() -> S,
    ) -> Result<Self, StartError> {
        let no_randomness = |error: std::io::Error| StartError::Randomness(error.to_string());
        let client_key = generate_key().map_err(no_randomness)?;
        let group = GroupId(u64::from_le_bytes(std::array::from_fn(|i| {
            client_key.public().0[i]
        })));
        let keys: Vec<SecretKey> = (0..n)
            .map(|_| generate_key().map_err(no_randomness))
            .collect::<Result<_, _>>()?;
        let admission = Admission::of([client_key.public()]);
        let mut bound: Vec<(PublicKey, Bound)> = Vec::with_capacity(n);
        for (me, key) in ReplicaId::all(n).zip(keys) {
            let public = key.public();
            let directory = data.join(format!("replica-{}", me.0));
            let builder = Builder::new(protocol, me, key, directory, "127.0.0.1:0")
                .replicas(group, Vec::new())
                .admission(admission.clone())
                .settings(settings.clone())
                .protocols(configs.clone());
            builder.prepare()?;
            bound.push((public, builder.bind()?));
        }
        let replica = |(key, bound): &(PublicKey, Bound)| ReplicaConfig {
            key: *key,
            address: bound.address().to_string(),
        };
        let replicas: Vec<ReplicaConfig> = bound.iter().map(replica).collect();
        let mut nodes = Vec::with_capacity(n);
        for (_, bound) in bound {
            nodes.push(bound.replicas(replicas.clone()).start(machine()).await?);
        }
        Ok(LocalCluster {
            protocol,
            nodes,
            replicas,
            group,
            client_key,
        })
    }

    /// The replicas.
    pub fn nodes(&self) -> &[LocalNode] {
        &self.nodes
    }

    /// A client with connections of its own, over the network; it trusts the replicas as far as
    /// the protocol does.
    pub fn client(&self, mut options: ClientOptions) -> Result<Client, StartError> {
        options.faults = self.protocol.faults();
        client::connect_with(&self.client_key, self.group, &self.replicas, options)
    }

    /// Stops all replicas, and says what did not stop cleanly.
    pub async fn shutdown(self) -> Result<(), quorate_core::consensus::ShutdownError> {
        let mut outcome = Ok(());
        for node in self.nodes {
            outcome = outcome.and(node.shutdown().await);
        }
        outcome
    }
}
