//! Consensus protocols behind one trait, over one mutually authenticated QUIC transport and one
//! durable log.
//!
//! Implement [`StateMachine`], choose a protocol by cargo feature (`raft` is the default), and
//! start a node with a [`Builder`] or from a [`NodeConfig`] file. What you get is an
//! [`Arc<dyn Consensus>`](Consensus): [`propose`](Consensus::propose) has a command ordered and
//! applied on all replicas, [`read`](Consensus::read) answers a query. EPaxos orders only commands
//! that conflict, as [`StateMachine::keys`] and [`StateMachine::query_keys`] tell; without them all
//! of an application's commands conflict.
//!
//! Examples: `counter.rs` has a whole cluster in one process, `node.rs` a node from a
//! configuration file, an application with keys, and a remote client.
//!
//! ```no_run
//! use quorate::prelude::*;
//!
//! # async fn run(machine: impl StateMachine) -> Result<(), Box<dyn std::error::Error>> {
//! let config = NodeConfig::load("node-0.toml")?;
//! // `quorate init` has prepared the data directory; see `Builder::prepare`.
//! let node = Builder::from_config(config)?.start(machine).await?;
//! let answer = node.propose("command".into()).await?;
//! # Ok(()) }
//! ```

#[cfg(not(any(
    feature = "raft",
    feature = "multipaxos",
    feature = "epaxos",
    feature = "pbft",
    feature = "hotstuff"
)))]
compile_error!(
    "quorate needs a protocol: enable the feature `raft`, `multipaxos`, `epaxos`, `pbft` or `hotstuff`"
);

mod builder;
mod client;
mod config;
mod local;
mod protocols;

pub use builder::{Bound, Builder, StartError, has_run};
pub use client::{connect, connect_with};
pub use config::{
    ClientConfig, ConfigError, NodeConfig, ReplicaConfig, TuningConfig, generate_key, load_key,
    save_key,
};
pub use local::{LocalCluster, LocalNode};
pub use protocols::*;

pub use quorate_core::Bytes;
pub use quorate_core::consensus::{Consensus, ProposeError, ReadError, ReadLevel, ShutdownError};
pub use quorate_core::crypto::{Admission, Digest, GroupId, PublicKey, SecretKey};
pub use quorate_core::epoch::{Difference, Differences};
pub use quorate_core::id::{ReplicaId, UnixTime};
pub use quorate_core::ledger::Ledger;
pub use quorate_core::machine::{Keys, RestoreError, StateMachine};
pub use quorate_core::protocol::{Agreed, FaultModel, Role, Status};
pub use quorate_core::replica::Settings;
pub use quorate_core::storage::StorageError;
pub use quorate_node::{Client, ClientOptions, NodeError};
pub use quorate_storage_wal::WalOptions;

/// What an application needs to name.
pub mod prelude {
    pub use crate::{
        Builder, Consensus, Keys, LocalCluster, NodeConfig, ProposeError, ProtocolKind, ReadError,
        ReadLevel, RestoreError, StateMachine,
    };
    pub use bytes::Bytes;
    pub use std::sync::Arc;
}
