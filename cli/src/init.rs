//! `quorate init`: keys, configuration and data directories for a cluster, and one client.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use quorate::{
    Builder, ClientConfig, ClientOptions, GroupId, NodeConfig, ProtocolConfigs, ProtocolKind,
    ReplicaConfig, SecretKey, Settings,
};
use quorate_core::protocol::FaultModel;
use serde::Serialize;

use crate::failure::Ending;
use crate::{arguments, output};

/// Arguments of `quorate init`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// How many replicas; by default as many as there are addresses, or enough to survive one
    /// failure: 3, or 4 where replicas may lie
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=64))]
    nodes: Option<u8>,

    /// Where to write; made if it is not there
    #[arg(long, default_value = ".")]
    dir: PathBuf,

    /// The protocol of the cluster
    #[arg(long, default_value = ProtocolKind::ALL[0].name(), value_parser = arguments::protocol())]
    protocol: ProtocolKind,

    /// The port of the first replica on this machine; the others have the ports after it
    #[arg(
        long,
        value_name = "P",
        default_value_t = 7400,
        conflicts_with = "addresses"
    )]
    base_port: u16,

    /// Where each replica listens, as host:port, separated by commas
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    addresses: Vec<String>,

    /// Replace files that are there already
    #[arg(long)]
    force: bool,
}

/// A file to be written.
enum Content {
    Key(SecretKey),
    Text(String),
}

/// Writes the files, and prepares the data directories.
pub(crate) fn run(arguments: &Arguments) -> Result<Ending> {
    let dir = &arguments.dir;
    let addresses = arguments.addresses()?;
    let files = files(arguments.protocol, &addresses)?;
    fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    check(dir, addresses.len(), &files, arguments.force)?;
    for (name, content) in &files {
        write(&dir.join(name), content)?;
    }
    for number in 0..addresses.len() {
        // The keys are fresh, so these replicas have never run.
        let config = NodeConfig::load(dir.join(node_file(number)))?;
        Builder::from_config(config)?.prepare()?;
    }
    tell(arguments, &addresses)?;
    Ok(Ending::Done)
}

/// Refuses to write where something would be lost.
fn check(dir: &Path, n: usize, files: &[(String, Content)], force: bool) -> Result<()> {
    for number in 0..n {
        let data = dir.join(data(number));
        if quorate::has_run(&data)? {
            bail!(
                "{} holds a replica's data of an earlier cluster: remove it, or choose another --dir",
                data.display()
            );
        }
    }
    let mut present = files.iter().map(|(name, _)| dir.join(name));
    match present.find(|path| path.exists()) {
        Some(path) if !force => bail!(
            "{} is there already: --force replaces it, keys included",
            path.display()
        ),
        _ => Ok(()),
    }
}

/// Says what was made, and how to go on.
fn tell(arguments: &Arguments, addresses: &[String]) -> Result<()> {
    let (dir, n) = (&arguments.dir, addresses.len());
    output::line(format_args!(
        "Configuration of {n} {} replicas and a client is in {}.",
        arguments.protocol,
        dir.display()
    ))?;
    for (number, address) in addresses.iter().enumerate() {
        let config = dir.join(node_file(number));
        output::line(format_args!(
            "  quorate node --config {}    # {address}",
            config.display()
        ))?;
    }
    if let Some(warning) = warning(arguments.protocol, n) {
        eprintln!("warning: {warning}");
    }
    let client = dir.join(CLIENT);
    output::line(format_args!(
        "  quorate status --config {}",
        client.display()
    ))
}

impl Arguments {
    fn addresses(&self) -> Result<Vec<String>> {
        if self.addresses.is_empty() {
            let enough = match self.protocol.faults() {
                FaultModel::Crash => 3,
                FaultModel::Byzantine => FEWEST_WITH_A_LIAR,
            };
            let nodes = u16::from(self.nodes.unwrap_or(enough));
            let address = |number: u16| {
                let port = self.base_port.checked_add(number);
                let port = port.context("there are not enough ports above --base-port")?;
                Ok(format!("127.0.0.1:{port}"))
            };
            return (0..nodes).map(address).collect();
        }
        let count = self.addresses.len();
        if self.nodes.is_some_and(|nodes| usize::from(nodes) != count) {
            bail!("--nodes does not fit the {count} --addresses");
        }
        let mut sorted = self.addresses.clone();
        sorted.sort_unstable();
        sorted.dedup();
        if sorted.len() != count {
            bail!("two of the --addresses are the same");
        }
        for address in &self.addresses {
            let port = address
                .rsplit_once(':')
                .map(|(_, port)| port.parse::<u16>());
            if !matches!(port, Some(Ok(1..))) {
                bail!("`{address}` is not an address: host:port is expected");
            }
        }
        Ok(self.addresses.clone())
    }
}

/// The fewest replicas of which one may lie: n = 3f + 1.
pub(crate) const FEWEST_WITH_A_LIAR: u8 = 4;

/// What to say of a cluster too small to survive a replica that lies, if its protocol can.
fn warning(protocol: ProtocolKind, n: usize) -> Option<String> {
    let too_few = protocol.faults() == FaultModel::Byzantine && n < usize::from(FEWEST_WITH_A_LIAR);
    too_few.then(|| {
        format!(
            "{n} replicas of {protocol} survive none that lies: it takes n = 3f + 1 to survive f, so {FEWEST_WITH_A_LIAR} to survive one"
        )
    })
}

const CLIENT: &str = "client.toml";

fn node_file(number: usize) -> String {
    format!("node-{number}.toml")
}

fn data(number: usize) -> String {
    format!("node-{number}.data")
}

fn generate() -> Result<SecretKey> {
    quorate::generate_key().context("no randomness from the system")
}

fn files(protocol: ProtocolKind, addresses: &[String]) -> Result<Vec<(String, Content)>> {
    let client = generate()?;
    let public = client.public();
    let keys: Vec<SecretKey> = addresses
        .iter()
        .map(|_| generate())
        .collect::<Result<_>>()?;
    let group = GroupId(u64::from_le_bytes(std::array::from_fn(|i| public.0[i])));
    let replica = |(key, address): (&SecretKey, &String)| ReplicaConfig {
        key: key.public(),
        address: address.clone(),
    };
    let replicas: Vec<ReplicaConfig> = keys.iter().zip(addresses).map(replica).collect();
    let mut files = Vec::new();
    for (number, key) in keys.into_iter().enumerate() {
        let key_file = format!("node-{number}.key");
        let config = NodeConfig {
            group,
            protocol,
            me: number as u8,
            key_file: PathBuf::from(&key_file),
            data: PathBuf::from(data(number)),
            listen: None,
            clients: vec![public],
            replicas: replicas.clone(),
            settings: Settings::default(),
            protocols: ProtocolConfigs::default(),
        };
        files.push((node_file(number), Content::Text(node_text(&config)?)));
        files.push((key_file, Content::Key(key)));
    }
    let config = ClientConfig {
        group,
        key_file: PathBuf::from("client.key"),
        replicas,
        options: ClientOptions {
            faults: protocol.faults(),
            ..ClientOptions::default()
        },
    };
    let about = "What a client needs to know of the cluster. Paths are relative to this file.";
    files.push((String::from(CLIENT), Content::Text(text(about, &config)?)));
    files.push((String::from("client.key"), Content::Key(client)));
    Ok(files)
}

/// A replica's configuration, with the table of its own protocol and no other.
fn node_text(config: &NodeConfig) -> Result<String> {
    let about = "A replica's configuration. Paths are relative to this file.";
    let mut table = toml::Table::try_from(config).context("the configuration is no table")?;
    if let Some(toml::Value::Table(protocols)) = table.get_mut("protocols") {
        protocols.retain(|name, _| name == config.protocol.name());
    }
    text(about, &table)
}

fn text(about: &str, config: &impl Serialize) -> Result<String> {
    let toml = toml::to_string(config).context("the configuration cannot be written as TOML")?;
    Ok(format!("# {about}\n{toml}"))
}

/// Writes a file that is not there, or may be replaced.
fn write(path: &Path, content: &Content) -> Result<()> {
    let failed = || format!("cannot write {}", path.display());
    if path.exists() {
        fs::remove_file(path).with_context(failed)?;
    }
    match content {
        Content::Key(key) => Ok(quorate::save_key(path, key)?),
        Content::Text(text) => {
            let mut file = fs::File::create_new(path).with_context(failed)?;
            file.write_all(text.as_bytes()).with_context(failed)
        }
    }
}
