//! Starting a node.

use std::net::{SocketAddr, ToSocketAddrs as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use quorate_core::consensus::Consensus;
use quorate_core::crypto::{
    Admission, Digest, GroupId, Members, PublicKey, SecretKey, Signer, Verifier,
};
use quorate_core::epoch::Epoch;
use quorate_core::id::{ReplicaId, UnixTime};
use quorate_core::machine::StateMachine;
use quorate_core::protocol::{Context, FaultModel, Protocol};
use quorate_core::replica::Settings;
use quorate_core::storage::StorageError;
use quorate_core::transport::{Transport, TransportError};
use quorate_node::node::Opened;
use quorate_node::{ClientOptions, Node, NodeError, Parts};
use quorate_storage_wal::{Identity, Wal, WalOptions};
use quorate_transport_quic::{
    Peer, QuicConfig, QuicEndpoint, QuicTransport, Settings as QuicSettings,
};

use crate::config::{self, ConfigError, NodeConfig, ReplicaConfig};
use crate::protocols::{ProtocolConfigs, ProtocolKind};

/// Why a node did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The key is not the one listed for this replica.
    #[error(
        "this node's key is {own}, but {listed} is listed for {me}; give it the key file that belongs to {me}"
    )]
    WrongKey {
        /// This replica.
        me: ReplicaId,
        /// The key it has.
        own: PublicKey,
        /// The key that the configuration says it has.
        listed: PublicKey,
    },
    /// The list of replicas lacks this one.
    #[error(
        "this is replica {} (counted from 0), but {n} replicas are listed; list all of them, this one included, with `Builder::replicas` or `Bound::replicas`, or under `replicas` in the configuration", me.0
    )]
    NotListed {
        /// This replica.
        me: ReplicaId,
        /// How many are listed.
        n: usize,
    },
    /// The list of replicas cannot be that of a cluster.
    #[error("the list of replicas cannot be used: {0}")]
    Replicas(String),
    /// The address is none.
    #[error("cannot listen on `{address}`: {reason}")]
    Address {
        /// What was given.
        address: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Other settings were to be accepted than the configuration has.
    #[error(
        "the settings to be accepted have the digest {settings}, but the configuration's have {own}"
    )]
    OtherSettings {
        /// The digest given.
        settings: Digest,
        /// The digest of what is configured.
        own: Digest,
    },
    /// There is no randomness to be had from the system.
    #[error("no randomness from the system: {0}")]
    Randomness(String),
    /// Storage, network or recovery failed; or the data directory is missing, or another's.
    #[error(transparent)]
    Node(#[from] NodeError),
}

impl From<TransportError> for StartError {
    fn from(error: TransportError) -> Self {
        StartError::Node(NodeError::Transport(error))
    }
}

/// Whether a replica has ever run with its state in the directory `data`; one that was only
/// prepared ([`Builder::prepare`]) has not.
///
/// # Errors
///
/// [`StorageError::Damaged`] if that cannot be told, [`StorageError::Io`] if the system refuses.
pub fn has_run(data: &Path) -> Result<bool, StorageError> {
    Wal::has_begun(data)
}

/// Everything about a node but its application.
#[derive(Clone, Debug)]
pub struct Builder {
    group: GroupId,
    protocol: ProtocolKind,
    configs: ProtocolConfigs,
    me: ReplicaId,
    key: SecretKey,
    data: PathBuf,
    listen: String,
    replicas: Vec<ReplicaConfig>,
    admission: Admission,
    replicas_propose: bool,
    settings: Settings,
    client: ClientOptions,
    wal: WalOptions,
}

impl Builder {
    /// The node that a configuration file describes. Reads its key file.
    pub fn from_config(config: NodeConfig) -> Result<Self, StartError> {
        let key = config::load_key(&config.key_file)?;
        let me = ReplicaId(config.me);
        let listed = config.replicas.get(me.index()).map(|r| r.address.clone());
        let listen = config.listen.or(listed).unwrap_or_default();
        Ok(Builder {
            group: config.group,
            protocol: config.protocol,
            configs: config.protocols,
            me,
            key,
            data: config.data,
            listen,
            replicas: config.replicas,
            admission: Admission::of(config.clients),
            replicas_propose: true,
            settings: config.settings,
            client: ClientOptions::default(),
            wal: WalOptions::default(),
        })
    }

    /// A node without a configuration file: replica `me` of a `protocol` cluster, with its key,
    /// its directory, and where it listens. [`Builder::replicas`] says who the others are.
    pub fn new(
        protocol: ProtocolKind,
        me: ReplicaId,
        key: SecretKey,
        data: impl Into<PathBuf>,
        listen: impl Into<String>,
    ) -> Self {
        Builder {
            group: GroupId(0),
            protocol,
            configs: ProtocolConfigs::default(),
            me,
            key,
            data: data.into(),
            listen: listen.into(),
            replicas: Vec::new(),
            admission: Admission::nobody(),
            replicas_propose: true,
            settings: Settings::default(),
            client: ClientOptions::default(),
            wal: WalOptions::default(),
        }
    }

    /// All replicas, this one included, in the same order on all nodes.
    pub fn replicas(mut self, group: GroupId, replicas: Vec<ReplicaConfig>) -> Self {
        self.group = group;
        self.replicas = replicas;
        self
    }

    /// Which clients may connect and command, beside the replicas themselves
    /// ([`Builder::replicas_propose`]); none by default. The same on all nodes: where replicas may
    /// lie, each checks who asked for what it votes on.
    pub fn admission(mut self, admission: Admission) -> Self {
        self.admission = admission;
        self
    }

    /// Whether the replicas' own keys are clients' too, as if they were listed: if so, which is
    /// the default, [`Consensus::propose`] works on the nodes themselves, under every protocol. The
    /// same on all nodes.
    ///
    /// Refuse it where all commands come through [`Client`](crate::Client)s, as `quorate node`
    /// does: then a replica that lies cannot command in its own name either, and `propose` on a
    /// node is [`ProposeError::Refused`](crate::ProposeError::Refused), under every protocol.
    /// Nodes may read in any case.
    pub fn replicas_propose(mut self, may: bool) -> Self {
        self.replicas_propose = may;
        self
    }

    /// Limits and policies of the driver.
    pub fn settings(mut self, settings: Settings) -> Self {
        self.settings = settings;
        self
    }

    /// How long this node's own requests may take, and when they are sent again. They go to this
    /// replica first, and what the protocol survives is known, whatever is given here.
    pub fn client_options(mut self, options: ClientOptions) -> Self {
        self.client = options;
        self
    }

    /// How the log is kept: the size of its files, and how many are kept for later use.
    pub fn wal_options(mut self, options: WalOptions) -> Self {
        self.wal = options;
        self
    }

    /// The protocols' own time-outs and limits.
    pub fn protocols(mut self, configs: ProtocolConfigs) -> Self {
        self.configs = configs;
        self
    }

    /// Makes the data directory, for a replica that has never run. [`Builder::start`] never does:
    /// a replica whose directory is missing or empty, because the path is wrong or the disk is not
    /// mounted, would vote again without knowing how it has voted, and what the cluster has
    /// acknowledged could be lost.
    ///
    /// So call this once in a replica's life, where it is installed or when its operator says that
    /// this is its first start, and not whenever the directory is missing. `quorate init` and
    /// [`LocalCluster`](crate::LocalCluster) do it for the replicas they make the keys of: under a
    /// fresh key nothing can have been promised. The directory belongs to this replica of this
    /// group under this protocol ever after.
    ///
    /// # Errors
    ///
    /// [`StorageError::Present`] if a replica has run there. A directory that was prepared and
    /// never used is prepared anew.
    pub fn prepare(&self) -> Result<(), StartError> {
        // Who the replicas are may not be known before all are bound.
        // Where replicas may lie it says who commands, which the program that starts it may yet
        // change ([`Builder::replicas_propose`]): the first start binds it.
        let known = !self.replicas.is_empty() && self.protocol.faults() == FaultModel::Crash;
        let epoch = known.then(|| self.epoch());
        let prepared = Wal::prepare(&self.data, &self.identity(), epoch.as_ref());
        prepared.map_err(|error| StartError::Node(NodeError::Storage(error)))
    }

    /// Has this replica go on under its configuration, where that differs from the one that its data
    /// directory was last used under. Whoever calls this says that *no* replica of the cluster runs,
    /// and that all will go on under the same: `settings` is the digest of what they agree on, which
    /// the error of the start has named ([`StorageError::Disagrees`]). Where the directory is bound
    /// to that already, nothing happens, so that a start may be repeated.
    ///
    /// Members, their order, and whatever the log rests on, as quorums, can never be changed so.
    ///
    /// # Errors
    ///
    /// [`StartError::OtherSettings`] if the configuration has another digest,
    /// [`StorageError::Disagrees`] if something differs that can never be another.
    pub fn accept_settings(&self, settings: Digest) -> Result<(), StartError> {
        self.check()?;
        let epoch = self.epoch();
        let own = epoch.digest();
        if own != settings {
            return Err(StartError::OtherSettings { settings, own });
        }
        let accepted = Wal::accept(&self.data, &self.identity(), &epoch);
        accepted.map_err(|error| StartError::Node(NodeError::Storage(error)))
    }

    /// Whether the replicas listed are a cluster that this one is of.
    fn check(&self) -> Result<(), StartError> {
        let (me, own, n) = (self.me, self.key.public(), self.replicas.len());
        let listed = self.replicas.get(me.index()).map(|replica| replica.key);
        let listed = listed.ok_or(StartError::NotListed { me, n })?;
        if listed != own {
            return Err(StartError::WrongKey { me, own, listed });
        }
        config::check_replicas(&self.replicas).map_err(StartError::Replicas)
    }

    /// Who this replica is, and among whom.
    fn context(&self) -> Result<Context, StartError> {
        let admission = self.commanding();
        let members = Members::new(self.group, self.keys());
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).map_err(|error| StartError::Randomness(error.to_string()))?;
        Ok(Context {
            me: self.me,
            signer: Signer::new(self.key.clone(), self.group),
            verifier: Verifier::new(members.clone()).admitting(admission),
            members,
            seed,
            // The node reads the clock when it starts.
            wall_clock: UnixTime::default(),
        })
    }

    /// Who commands: the clients admitted, and the replicas if they do.
    fn commanding(&self) -> Admission {
        match self.replicas_propose {
            true => self.admission.clone().and(self.keys()),
            false => self.admission.clone(),
        }
    }

    fn keys(&self) -> Vec<PublicKey> {
        self.replicas.iter().map(|replica| replica.key).collect()
    }

    /// What this replica must agree on with all others. Clients are let in by each node for itself,
    /// unless replicas may lie: then all check who commands, and one that turns away what the others
    /// take is as good as lost.
    pub fn epoch(&self) -> Epoch {
        let keys = self.keys();
        let settings = self.protocol.agreed_settings(&self.configs, keys.len());
        let table = format!("protocols.{}", self.protocol.name());
        let epoch = Epoch::first(self.group, self.protocol.name(), &keys)
            .with("settings", self.settings.agreed())
            .with(&table, settings);
        match self.protocol.faults() {
            FaultModel::Crash => epoch,
            FaultModel::Byzantine => epoch.admitting(&self.commanding()),
        }
    }

    fn identity(&self) -> Identity {
        Identity {
            group: self.group,
            replica: self.me,
            key: self.key.public(),
            protocol: String::from(self.protocol.name()),
        }
    }

    /// Binds, recovers and runs. The data directory must hold this replica's state, or have been
    /// prepared for it ([`Builder::prepare`]). Must be called inside a tokio runtime.
    pub async fn start<S: StateMachine>(
        self,
        machine: S,
    ) -> Result<Arc<dyn Consensus>, StartError> {
        self.bind()?.start(machine).await
    }

    /// Binds the socket only, so that a port chosen by the system can be told to the others
    /// first.
    pub fn bind(self) -> Result<Bound, StartError> {
        let endpoint = QuicTransport::bind(QuicConfig {
            me: self.me,
            key: self.key.clone(),
            group: self.group,
            listen: resolve(&self.listen)?,
            settings: QuicSettings::default(),
        })?;
        Ok(Bound {
            builder: self,
            endpoint,
        })
    }
}

fn resolve(address: &str) -> Result<SocketAddr, StartError> {
    let unusable = |reason: String| StartError::Address {
        address: String::from(address),
        reason,
    };
    let mut found = address
        .to_socket_addrs()
        .map_err(|error| unusable(error.to_string()))?;
    let none = || unusable(String::from("the name has no address"));
    found.next().ok_or_else(none)
}

/// A node whose socket is bound.
#[derive(Debug)]
pub struct Bound {
    builder: Builder,
    endpoint: QuicEndpoint,
}

impl Bound {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.endpoint.local_addr()
    }

    /// Says who the replicas are, now that all addresses are known.
    pub fn replicas(mut self, replicas: Vec<ReplicaConfig>) -> Self {
        self.builder.replicas = replicas;
        self
    }

    /// Recovers and runs.
    pub async fn start<S: StateMachine>(
        self,
        machine: S,
    ) -> Result<Arc<dyn Consensus>, StartError> {
        let Bound { builder, endpoint } = self;
        builder.check()?;
        let (protocol, configs) = (builder.protocol, builder.configs.clone());
        let foundation = Foundation { builder, endpoint };
        protocol.start(&configs, foundation, machine).await
    }
}

/// What every protocol's node stands on.
pub(crate) struct Foundation {
    builder: Builder,
    endpoint: QuicEndpoint,
}

impl Foundation {
    pub(crate) async fn start<P: Protocol, S: StateMachine>(
        self,
        config: P::Config,
        machine: S,
    ) -> Result<Arc<dyn Consensus>, StartError> {
        let Foundation { builder, endpoint } = self;
        let (identity, context, epoch) = (builder.identity(), builder.context()?, builder.epoch());
        let client = ClientOptions {
            first: Some(builder.me),
            follow_leader: false,
            ..builder.client
        };
        let parts = Parts {
            context,
            config,
            settings: builder.settings,
            machine,
            client,
        };
        let (data, options) = (builder.data, builder.wal);
        let agreed = epoch.clone();
        let remembered = Arc::new(OnceLock::new());
        let memory = remembered.clone();
        let open = move |completions| -> Result<Opened, _> {
            let (wal, stored) = Wal::open(&data, &identity, &agreed, &options, completions)?;
            // It is opened once.
            let _ = remembered.set(wal.memory());
            Ok((Box::new(wal), stored))
        };
        let peers: Vec<Peer> = builder.replicas.iter().map(Peer::from).collect();
        let connect = async move |service| -> Result<Arc<dyn Transport>, TransportError> {
            let memory = memory.get().ok_or(TransportError::Closed)?.clone();
            let transport = endpoint.start(&peers, epoch, memory, service)?;
            Ok(transport as Arc<dyn Transport>)
        };
        let node = Node::<P>::start(parts, open, connect).await?;
        Ok(Arc::new(node))
    }
}
