//! The protocols compiled in, chosen by value at run time.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use quorate_core::consensus::Consensus;
use quorate_core::epoch::Setting;
use quorate_core::machine::StateMachine;
use quorate_core::protocol::{FaultModel, Protocol};
#[cfg(feature = "epaxos")]
use quorate_epaxos::EPaxos;
#[cfg(feature = "hotstuff")]
use quorate_hotstuff::Hotstuff;
#[cfg(feature = "multipaxos")]
use quorate_multipaxos::MultiPaxos;
#[cfg(feature = "pbft")]
use quorate_pbft::Pbft;
#[cfg(feature = "raft")]
use quorate_raft::Raft;
use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer, Serialize};

use crate::builder::{Foundation, StartError};

/// What there is for each protocol: its feature, its type, its configuration, and what it is.
macro_rules! protocols {
    ($($feature:literal $Kind:ident $Type:ident $config:ident $Config:path, $what:literal;)+) => {
        /// A protocol that is compiled in.
        #[derive(
            Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
        )]
        #[serde(try_from = "String", into = "String")]
        #[non_exhaustive]
        pub enum ProtocolKind {
            $(
                #[doc = $what]
                #[cfg(feature = $feature)]
                $Kind,
            )+
        }

        impl ProtocolKind {
            /// All protocols that are compiled in.
            pub const ALL: &'static [ProtocolKind] = &[
                $(#[cfg(feature = $feature)] ProtocolKind::$Kind,)+
            ];

            /// The name in configuration and output.
            pub fn name(self) -> &'static str {
                match self {
                    $(#[cfg(feature = $feature)] ProtocolKind::$Kind => $Type::NAME,)+
                }
            }

            /// Which failures it survives.
            pub fn faults(self) -> FaultModel {
                match self {
                    $(#[cfg(feature = $feature)] ProtocolKind::$Kind => $Type::FAULTS,)+
                }
            }

            /// What of its configuration all of `n` replicas must have alike.
            pub(crate) fn agreed_settings(self, configs: &ProtocolConfigs, n: usize) -> Vec<Setting> {
                match self {
                    $(
                        #[cfg(feature = $feature)]
                        ProtocolKind::$Kind => $Type::agreed_settings(&configs.$config, n),
                    )+
                }
            }

            pub(crate) async fn start<S: StateMachine>(
                self,
                configs: &ProtocolConfigs,
                foundation: Foundation,
                machine: S,
            ) -> Result<Arc<dyn Consensus>, StartError> {
                match self {
                    $(
                        #[cfg(feature = $feature)]
                        ProtocolKind::$Kind => {
                            let config = configs.$config.clone();
                            foundation.start::<$Type, S>(config, machine).await
                        }
                    )+
                }
            }
        }

        /// The configuration of each protocol compiled in; only that of the one chosen counts.
        #[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct ProtocolConfigs {
            $(
                #[doc = concat!("Time-outs, limits and options of ", $what)]
                #[cfg(feature = $feature)]
                pub $config: $Config,
                #[doc(hidden)]
                #[cfg(not(feature = $feature))]
                #[serde(skip_serializing)]
                pub $config: NotCompiledIn,
            )+
        }
    };
}

/// The table of a protocol that is known and not compiled in: a file may have tables of all.
#[doc(hidden)]
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NotCompiledIn;

impl<'de> Deserialize<'de> for NotCompiledIn {
    fn deserialize<D: Deserializer<'de>>(table: D) -> Result<Self, D::Error> {
        IgnoredAny::deserialize(table).map(|_| NotCompiledIn)
    }
}

protocols! {
    "raft" Raft Raft raft quorate_raft::Config, "Raft \\[Ongaro14\\].";
    "multipaxos" MultiPaxos MultiPaxos multipaxos quorate_multipaxos::Config,
        "Multi-Paxos [Lamport01 §3].";
    "epaxos" EPaxos EPaxos epaxos quorate_epaxos::Config, "EPaxos* \\[Ryabinin25\\].";
    "pbft" Pbft Pbft pbft quorate_pbft::Config, "PBFT \\[Castro99\\].";
    "hotstuff" HotStuff Hotstuff hotstuff quorate_hotstuff::Config, "HotStuff \\[Yin19\\].";
}

#[cfg(feature = "epaxos")]
pub use quorate_epaxos::Config as EPaxosConfig;
#[cfg(feature = "hotstuff")]
pub use quorate_hotstuff::{Config as HotStuffConfig, Leaders, RuleSet};
#[cfg(feature = "multipaxos")]
pub use quorate_multipaxos::{Config as MultiPaxosConfig, QuorumRule, ReadMode};
#[cfg(feature = "pbft")]
pub use quorate_pbft::Config as PbftConfig;
#[cfg(feature = "raft")]
pub use quorate_raft::Config as RaftConfig;

/// A protocol's name that is not that of one compiled in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "no protocol `{name}` is compiled in; there is {}",
    ProtocolKind::ALL.iter().map(|kind| kind.name()).collect::<Vec<_>>().join(", ")
)]
pub struct UnknownProtocol {
    name: String,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_of_known_protocols_pass_whether_they_are_compiled_in_or_not() {
        let known = ["raft", "multipaxos", "epaxos", "pbft", "hotstuff"];
        let tables: String = known.map(|name| format!("[{name}]\n")).concat();
        assert_eq!(
            toml::from_str::<ProtocolConfigs>(&tables),
            Ok(ProtocolConfigs::default())
        );
        let unknown = toml::from_str::<ProtocolConfigs>("[zab]").unwrap_err();
        assert!(unknown.to_string().contains("zab"), "{unknown}");
    }
}
