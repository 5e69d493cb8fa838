#![allow(unreachable_pub, dead_code, reason = "shared by test binaries")]
//! Clusters of nodes over the in-memory transport and storage.

use std::io::{Read, Write};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quorate_core::consensus::Consensus as _;
use quorate_core::crypto::{Admission, GroupId, Members, PublicKey, SecretKey, Signer, Verifier};
use quorate_core::id::{ReplicaId, UnixTime};
use quorate_core::machine::{RestoreError, StateMachine};
use quorate_core::protocol::{Context, Protocol};
use quorate_core::replica::Settings;
use quorate_core::storage::{Completions, MemoryStorage, StorageError, Stored};
use quorate_core::transport::{Connector, Transport};
use quorate_node::node::Opened;
use quorate_node::{Client, ClientOptions, Node, NodeError, Parts};
use quorate_transport_quic::MemoryNetwork;

pub const GROUP: GroupId = GroupId(1);

/// Counts its commands.
#[derive(Debug, Default)]
pub struct Counter(u64);

impl StateMachine for Counter {
    fn apply(&mut self, _command: &[u8]) -> Bytes {
        self.0 += 1;
        self.query(b"")
    }

    fn query(&self, _query: &[u8]) -> Bytes {
        Bytes::from(self.0.to_string())
    }

    fn snapshot(&self, to: &mut dyn Write) -> std::io::Result<()> {
        to.write_all(&self.0.to_le_bytes())
    }

    fn restore(&mut self, from: &mut dyn Read) -> Result<(), RestoreError> {
        let mut bytes = [0; 8];
        from.read_exact(&mut bytes)?;
        self.0 = u64::from_le_bytes(bytes);
        Ok(())
    }
}

/// What the counter answers.
pub fn number(answer: &Bytes) -> u64 {
    std::str::from_utf8(answer).unwrap().parse().unwrap()
}

pub fn key(n: u8) -> SecretKey {
    SecretKey::from_seed([n; 32])
}

/// The client that is let in.
pub fn client_signer() -> Signer {
    Signer::new(key(100), GROUP)
}

pub struct Cluster<P: Protocol> {
    pub network: MemoryNetwork,
    pub nodes: Vec<Node<P>>,
    keys: Vec<PublicKey>,
    admission: Admission,
}

/// Storage that is done at once, and holds nothing at the start.
pub fn prompt(completions: Arc<dyn Completions>) -> Result<Opened, StorageError> {
    let storage = MemoryStorage::immediate(Stored::default(), completions);
    Ok((Box::new(storage), Stored::default()))
}

/// Client options that give up soon, where giving up is what is tested.
pub fn impatient() -> ClientOptions {
    ClientOptions {
        timeout: Duration::from_millis(700),
        patience: Duration::from_millis(200),
        ..ClientOptions::default()
    }
}

impl<P: Protocol<Config: Default>> Cluster<P> {
    /// Lets in one client, beside the nodes themselves.
    pub async fn start(n: u8, client: ClientOptions) -> Self {
        let nodes = (0..n).map(|me| key(me).public());
        let admission = Admission::of([client_signer().public()]).and(nodes);
        Self::admitting(admission, n, client).await
    }

    pub async fn admitting(admission: Admission, n: u8, client: ClientOptions) -> Self {
        Self::with_up(admission, n, 0..n, client).await
    }

    /// Of `n` replicas only these are started.
    pub async fn with_up(
        admission: Admission,
        n: u8,
        up: Range<u8>,
        client: ClientOptions,
    ) -> Self {
        let keys: Vec<PublicKey> = (0..n).map(|me| key(me).public()).collect();
        let network = MemoryNetwork::new(Members::new(GROUP, keys.clone()));
        let mut cluster = Cluster {
            network,
            nodes: Vec::new(),
            keys,
            admission,
        };
        for me in up {
            let options = ClientOptions {
                first: Some(ReplicaId(me)),
                follow_leader: false,
                ..client.clone()
            };
            let node = cluster.node(me, options, prompt).await;
            cluster.nodes.push(node.unwrap());
        }
        cluster
    }

    pub async fn node(
        &self,
        me: u8,
        client: ClientOptions,
        storage: impl FnOnce(Arc<dyn Completions>) -> Result<Opened, StorageError>,
    ) -> Result<Node<P>, NodeError> {
        self.node_behind(me, client, storage, |transport| transport)
            .await
    }

    /// A node whose transport is first changed.
    pub async fn node_behind(
        &self,
        me: u8,
        client: ClientOptions,
        storage: impl FnOnce(Arc<dyn Completions>) -> Result<Opened, StorageError>,
        change: impl FnOnce(Arc<dyn Transport>) -> Arc<dyn Transport>,
    ) -> Result<Node<P>, NodeError> {
        let members = Members::new(GROUP, self.keys.clone());
        let context = Context {
            me: ReplicaId(me),
            signer: Signer::new(key(me), GROUP),
            verifier: Verifier::new(members.clone()).admitting(self.admission.clone()),
            members,
            seed: [me; 32],
            wall_clock: UnixTime::default(),
        };
        let parts = Parts {
            context,
            config: P::Config::default(),
            settings: Settings::default(),
            machine: Counter::default(),
            client,
        };
        let network = self.network.clone();
        let connect = async move |service| {
            let transport = network.start(ReplicaId(me), key(me).public(), service)?;
            Ok(change(transport))
        };
        Node::start(parts, storage, connect).await
    }

    pub fn connector(&self, key: PublicKey) -> Arc<dyn Connector> {
        Arc::new(self.network.connector(key, self.keys.clone()))
    }

    pub fn client(&self, options: ClientOptions) -> Client {
        Client::new(
            self.connector(client_signer().public()),
            client_signer(),
            options,
        )
    }

    /// The index of the node that the first node takes for the leader.
    pub async fn leader(&self) -> usize {
        let mut status = self.nodes[0].status();
        while status.leader.is_none() {
            status = self.nodes[0].status_change(&status).await;
        }
        status.leader.unwrap().index()
    }
}
