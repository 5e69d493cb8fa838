//! The protocols compiled in, chosen by value at run time.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use quorate_core::consensus::Consensus;
use quorate_core::machine::StateMachine;
use quorate_core::protocol::{FaultModel, Protocol};
#[cfg(feature = "multipaxos")]
use quorate_multipaxos::MultiPaxos;
#[cfg(feature = "pbft")]
use quorate_pbft::Pbft;
#[cfg(feature = "raft")]
use quorate_raft::Raft;
use serde::{Deserialize, Serialize};

use crate::builder::{Foundation, StartError};

/// A protocol that is compiled in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
#[non_exhaustive]
pub enum ProtocolKind {
    /// Raft \[Ongaro14\].
    #[cfg(feature = "raft")]
    Raft,
    /// Multi-Paxos [Lamport01 §3].
    #[cfg(feature = "multipaxos")]
    MultiPaxos,
    /// PBFT [Castro99].
    #[cfg(feature = "pbft")]
    Pbft,
}

/// A protocol's name that is not that of one compiled in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "no protocol `{name}` is compiled in; there is {}",
    ProtocolKind::ALL.iter().map(|kind| kind.name()).collect::<Vec<_>>().join(", ")
)]
pub struct UnknownProtocol {
    name: String,
}

impl ProtocolKind {
    /// All protocols that are compiled in.
    pub const ALL: &'static [ProtocolKind] = &[
        #[cfg(feature = "raft")]
        ProtocolKind::Raft,
        #[cfg(feature = "multipaxos")]
        ProtocolKind::MultiPaxos,
        #[cfg(feature = "pbft")]
        ProtocolKind::Pbft,
    ];

    /// The name in configuration and output.
    pub fn name(self) -> &'static str {
        match self {
            #[cfg(feature = "raft")]
            ProtocolKind::Raft => Raft::NAME,
            #[cfg(feature = "multipaxos")]
            ProtocolKind::MultiPaxos => MultiPaxos::NAME,
            #[cfg(feature = "pbft")]
            ProtocolKind::Pbft => Pbft::NAME,
        }
    }

    /// Which failures it survives.
    pub fn faults(self) -> FaultModel {
        match self {
            #[cfg(feature = "raft")]
            ProtocolKind::Raft => Raft::FAULTS,
            #[cfg(feature = "multipaxos")]
            ProtocolKind::MultiPaxos => MultiPaxos::FAULTS,
            #[cfg(feature = "pbft")]
            ProtocolKind::Pbft => Pbft::FAULTS,
        }
    }

    pub(crate) async fn start<S: StateMachine>(
        self,
        configs: &ProtocolConfigs,
        foundation: Foundation,
        machine: S,
    ) -> Result<Arc<dyn Consensus>, StartError> {
        match self {
            #[cfg(feature = "raft")]
            ProtocolKind::Raft => {
                foundation
                    .start::<Raft, S>(configs.raft.clone(), machine)
                    .await
            }
            #[cfg(feature = "multipaxos")]
            ProtocolKind::MultiPaxos => {
                foundation
                    .start::<MultiPaxos, S>(configs.multipaxos.clone(), machine)
                    .await
            }
            #[cfg(feature = "pbft")]
            ProtocolKind::Pbft => {
                foundation
                    .start::<Pbft, S>(configs.pbft.clone(), machine)
                    .await
            }
        }
    }
}

impl fmt::Display for ProtocolKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for ProtocolKind {
    type Err = UnknownProtocol;

    fn from_str(name: &str) -> Result<Self, UnknownProtocol> {
        let named = |kind: &&ProtocolKind| kind.name() == name;
        let kind = ProtocolKind::ALL.iter().find(named).copied();
        kind.ok_or_else(|| UnknownProtocol {
            name: String::from(name),
        })
    }
}

impl TryFrom<String> for ProtocolKind {
    type Error = UnknownProtocol;

    fn try_from(name: String) -> Result<Self, UnknownProtocol> {
        name.parse()
    }
}

impl From<ProtocolKind> for String {
    fn from(kind: ProtocolKind) -> String {
        String::from(kind.name())
    }
}

/// The configuration of each protocol compiled in; only that of the one chosen counts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ProtocolConfigs {
    /// Raft's time-outs and limits.
    #[cfg(feature = "raft")]
    pub raft: quorate_raft::Config,
    /// Multi-Paxos's time-outs, limits and quorums.
    #[cfg(feature = "multipaxos")]
    pub multipaxos: quorate_multipaxos::Config,
    /// PBFT's time-outs and limits.
    #[cfg(feature = "pbft")]
    pub pbft: quorate_pbft::Config,
}
