//! Configuration files, in TOML, and key files.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use quorate_core::crypto::{GroupId, PublicKey, SecretKey};
use quorate_core::id::MAX_REPLICAS;
use quorate_core::replica::Settings;
use quorate_node::ClientOptions;
use quorate_transport_quic::Peer;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::Zeroizing;

use crate::protocols::{ProtocolConfigs, ProtocolKind};

/// A configuration or key file that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {reason}")]
pub struct ConfigError {
    path: String,
    reason: String,
}

impl ConfigError {
    fn new(path: &Path, reason: impl std::fmt::Display) -> Self {
        ConfigError {
            path: path.display().to_string(),
            reason: reason.to_string(),
        }
    }
}

/// A replica, as its peers and clients need to know it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReplicaConfig {
    /// Its public key.
    #[serde(with = "key")]
    pub key: PublicKey,
    /// Where it listens: `host:port`.
    pub address: String,
}

impl From<&ReplicaConfig> for Peer {
    fn from(replica: &ReplicaConfig) -> Peer {
        Peer {
            key: replica.key,
            address: replica.address.clone(),
        }
    }
}

/// One node's configuration. Paths are relative to the directory of the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeConfig {
    /// The cluster's number, the same on all nodes and clients.
    #[serde(with = "group")]
    pub group: GroupId,
    /// The protocol, the same on all nodes.
    pub protocol: ProtocolKind,
    /// Which of `replicas` this node is, counted from 0.
    pub me: u8,
    /// The file with this node's secret key.
    pub key_file: PathBuf,
    /// The directory with this node's durable state, prepared before its first start
    /// ([`Builder::prepare`](crate::Builder::prepare)).
    pub data: PathBuf,
    /// Where to listen, if not at this replica's address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listen: Option<String>,
    /// The keys of the clients that are let in, the same on all nodes. The replicas' own count as
    /// clients' too, unless [`Builder::replicas_propose`](crate::Builder::replicas_propose) says
    /// otherwise, as it does in `quorate node`.
    #[serde(with = "keys")]
    pub clients: Vec<PublicKey>,
    /// All replicas, in the same order on all nodes and clients.
    pub replicas: Vec<ReplicaConfig>,
    /// Limits and policies of the driver.
    #[serde(default)]
    pub settings: Settings,
    /// The protocols' own time-outs and limits.
    #[serde(default)]
    pub protocols: ProtocolConfigs,
}

impl NodeConfig {
    /// Reads the configuration, and makes its paths absolute or relative to the current
    /// directory.
    pub fn load(path: impl AsRef<Path>) -> Result<Self, ConfigError> {
        let path = path.as_ref();
        let mut config: NodeConfig = load(path)?;
        check_replicas(&config.replicas).map_err(|reason| ConfigError::new(path, reason))?;
        if usize::from(config.me) >= config.replicas.len() {
            let reason = format!(
                "me = {} but there are {} replicas, counted from 0",
                config.me,
                config.replicas.len()
            );
            return Err(ConfigError::new(path, reason));
        }
        let base = path.parent().unwrap_or(Path::new(""));
        config.key_file = base.join(&config.key_file);
        config.data = base.join(&config.data);
        Ok(config)
    }
}

/// What of a node's configuration says nothing about which cluster it is: to try a protocol's
/// variants on the same work. The tables are those of [`NodeConfig`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TuningConfig {
    /// Limits and policies of the driver.
    pub settings: Settings,
    /// The protocols' own time-outs, limits and options.
    pub protocols: ProtocolConfigs,
}

impl TuningConfig {
    /// Reads the configuration.
    pub fn load(path: impl AsRef<Path>) -> Result<Self, ConfigError> {
        load(path.as_ref())
    }
}

/// What a client needs to know of a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClientConfig {
    /// The cluster's number.
    #[serde(with = "group")]
    pub group: GroupId,
    /// The file with this client's secret key.
    pub key_file: PathBuf,
    /// All replicas, in the same order as on the nodes.
    pub replicas: Vec<ReplicaConfig>,
    /// How long to wait, and when to try elsewhere.
    #[serde(default)]
    pub options: ClientOptions,
}

impl ClientConfig {
    /// Reads the configuration, and makes its paths absolute or relative to the current
    /// directory.
    pub fn load(path: impl AsRef<Path>) -> Result<Self, ConfigError> {
        let path = path.as_ref();
        let mut config: ClientConfig = load(path)?;
        check_replicas(&config.replicas).map_err(|reason| ConfigError::new(path, reason))?;
        let base = path.parent().unwrap_or(Path::new(""));
        config.key_file = base.join(&config.key_file);
        Ok(config)
    }
}

fn load<T: DeserializeOwned>(path: &Path) -> Result<T, ConfigError> {
    let text = fs::read_to_string(path).map_err(|error| ConfigError::new(path, error))?;
    toml::from_str(&text).map_err(|error| ConfigError::new(path, error))
}

/// Whether these can be the replicas of a cluster, or what is wrong with them.
pub(crate) fn check_replicas(replicas: &[ReplicaConfig]) -> Result<(), String> {
    if replicas.is_empty() || replicas.len() > MAX_REPLICAS {
        return Err(format!(
            "there are {} replicas; 1 to {MAX_REPLICAS} are possible",
            replicas.len()
        ));
    }
    let mut numbers = BTreeMap::new();
    for (number, replica) in replicas.iter().enumerate() {
        if let Some(earlier) = numbers.insert(replica.key, number) {
            return Err(format!(
                "replicas {earlier} and {number} have the same key, {}",
                replica.key
            ));
        }
    }
    Ok(())
}

/// A new secret key, from the system's randomness.
pub fn generate_key() -> io::Result<SecretKey> {
    let mut seed = Zeroizing::new([0; 32]);
    getrandom::fill(&mut seed[..]).map_err(io::Error::other)?;
    Ok(SecretKey::from_seed(seed))
}

/// Writes a secret key to a new file that only its owner can read.
pub fn save_key(path: &Path, key: &SecretKey) -> Result<(), ConfigError> {
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let seed = key.seed();
    let mut digits = Zeroizing::new(String::with_capacity(KEY_FILE_BYTES));
    for digit in seed.iter().flat_map(|byte| [byte >> 4, byte & 15]) {
        digits.extend(char::from_digit(digit.into(), 16));
    }
    digits.push('\n');
    let written = options
        .open(path)
        .and_then(|mut file| file.write_all(digits.as_bytes()));
    written.map_err(|error| ConfigError::new(path, error))
}

/// The bytes of a key file that we wrote.
const KEY_FILE_BYTES: usize = 65;

/// Reads a secret key, which nobody but its owner may have been able to read.
pub fn load_key(path: &Path) -> Result<SecretKey, ConfigError> {
    let wrong = |error: &dyn std::fmt::Display| ConfigError::new(path, error);
    let mut file = fs::File::open(path).map_err(|error| wrong(&error))?;
    // So much room that the text is never moved, which would leave a copy behind.
    let mut text = Zeroizing::new(String::with_capacity(16 * KEY_FILE_BYTES));
    let most = 8 * KEY_FILE_BYTES as u64;
    let read = (&mut file).take(most).read_to_string(&mut text);
    read.map_err(|error| wrong(&error))?;
    let key = text.trim().parse::<SecretKey>();
    let key = key.map_err(|error| wrong(&format_args!("not a secret key: {error}")))?;
    check_private(&file).map_err(|reason| wrong(&reason))?;
    Ok(key)
}

/// As ssh does: a secret that others could read is none.
#[cfg(unix)]
fn check_private(file: &fs::File) -> Result<(), String> {
    use std::os::unix::fs::PermissionsExt as _;

    let metadata = file.metadata().map_err(|error| error.to_string())?;
    let mode = metadata.permissions().mode() & 0o777;
    match mode & 0o077 {
        0 => Ok(()),
        _ => Err(format!(
            "the permissions of this key are {mode:04o}: others than its owner can use it. If nobody has, take them away (chmod 600); if somebody may have, make another key"
        )),
    }
}

/// Other systems have other permissions, which are not looked at.
#[cfg(not(unix))]
fn check_private(_: &fs::File) -> Result<(), String> {
    Ok(())
}

mod key {
    use super::*;

    pub(super) fn serialize<S: Serializer>(key: &PublicKey, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(key)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<PublicKey, D::Error> {
        String::deserialize(d)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

mod keys {
    use super::*;

    pub(super) fn serialize<S: Serializer>(keys: &[PublicKey], s: S) -> Result<S::Ok, S::Error> {
        s.collect_seq(keys.iter().map(PublicKey::to_string))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<PublicKey>, D::Error> {
        let texts: Vec<String> = Vec::deserialize(d)?;
        let parsed = texts.iter().map(|text| text.parse());
        parsed
            .collect::<Result<_, _>>()
            .map_err(serde::de::Error::custom)
    }
}

/// TOML has no unsigned 64-bit integers, so the number is written in hexadecimal.
mod group {
    use super::*;

    pub(super) fn serialize<S: Serializer>(group: &GroupId, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(&format_args!("{:016x}", group.0))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<GroupId, D::Error> {
        let text = String::deserialize(d)?;
        let number = u64::from_str_radix(&text, 16);
        let group = number.map(GroupId);
        group.map_err(|_| serde::de::Error::custom("`group` is 1 to 16 hexadecimal digits"))
    }
}
