//! Counters with names: a node from a configuration file, and a remote client.
//!
//! ```console
//! quorate init --nodes 3 --dir cluster
//! cargo run -p quorate --example node -- serve cluster/node-0.toml &
//! cargo run -p quorate --example node -- serve cluster/node-1.toml &
//! cargo run -p quorate --example node -- serve cluster/node-2.toml &
//! cargo run -p quorate --example node -- count cluster/client.toml apples
//! ```
//!
//! Without arguments it does all of that by itself, with one node.
use std::collections::BTreeMap;
use std::error::Error;
use std::io::{Read, Write};
use std::path::Path;

use quorate::prelude::*;
use quorate::{ClientConfig, ClientOptions, GroupId, ReplicaConfig};

/// Each command is a name, whose counter it increments; so is each query.
#[derive(Default)]
struct Counters(BTreeMap<Vec<u8>, u64>);

impl StateMachine for Counters {
    fn apply(&mut self, command: &[u8]) -> Bytes {
        *self.0.entry(command.to_vec()).or_default() += 1;
        self.query(command)
    }

    fn query(&self, query: &[u8]) -> Bytes {
        let count = self.0.get(query).copied().unwrap_or_default();
        count.to_string().into()
    }

    // Counters do not touch one another: EPaxos need not order what concerns two of them.
    fn keys(&self, command: &[u8]) -> Keys {
        Keys::Some {
            reads: Vec::new(),
            writes: vec![Bytes::copy_from_slice(command)],
        }
    }

    fn query_keys(&self, query: &[u8]) -> Keys {
        Keys::Some {
            reads: vec![Bytes::copy_from_slice(query)],
            writes: Vec::new(),
        }
    }

    fn snapshot(&self, to: &mut dyn Write) -> std::io::Result<()> {
        for (name, count) in &self.0 {
            to.write_all(&count.to_le_bytes())?;
            to.write_all(&(name.len() as u64).to_le_bytes())?;
            to.write_all(name)?;
        }
        Ok(())
    }

    fn restore(&mut self, from: &mut dyn Read) -> Result<(), RestoreError> {
        self.0.clear();
        let mut bytes = Vec::new();
        from.read_to_end(&mut bytes)?;
        let cut = || RestoreError::new("it ends within a counter");
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let (count, more) = rest.split_first_chunk().ok_or_else(cut)?;
            let (length, more) = more.split_first_chunk().ok_or_else(cut)?;
            let length = usize::try_from(u64::from_le_bytes(*length)).map_err(|_| cut())?;
            let (name, more) = more.split_at_checked(length).ok_or_else(cut)?;
            self.0.insert(name.to_vec(), u64::from_le_bytes(*count));
            rest = more;
        }
        Ok(())
    }
}

async fn serve(file: impl AsRef<Path>) -> Result<Arc<dyn Consensus>, Box<dyn Error>> {
    let builder = Builder::from_config(NodeConfig::load(file)?)?;
    Ok(builder.start(Counters::default()).await?)
}

async fn count(file: impl AsRef<Path>, name: &str) -> Result<Bytes, Box<dyn Error>> {
    let client = quorate::connect(&ClientConfig::load(file)?)?;
    Ok(client.propose(name.to_owned().into()).await?)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match &arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["serve", file] => Ok(serve(file).await?.stopped().await?),
        ["count", file, name] => {
            println!("{name}: {:?}", count(file, name).await?);
            Ok(())
        }
        [] => by_itself().await,
        _ => Err("usage: node [serve FILE | count FILE NAME]".into()),
    }
}

/// Writes the files that `quorate init` would write, and uses them.
async fn by_itself() -> Result<(), Box<dyn Error>> {
    let directory = tempfile::tempdir()?;
    let path = |name: &str| directory.path().join(name);
    let (key, client_key) = (quorate::generate_key()?, quorate::generate_key()?);
    quorate::save_key(&path("node.key"), &key)?;
    quorate::save_key(&path("client.key"), &client_key)?;
    let free = std::net::UdpSocket::bind("127.0.0.1:0")?.local_addr()?;
    let replicas = vec![ReplicaConfig {
        key: key.public(),
        address: free.to_string(),
    }];
    let node = NodeConfig {
        group: GroupId(1),
        protocol: ProtocolKind::ALL[0],
        me: 0,
        key_file: "node.key".into(),
        data: "node.data".into(),
        listen: None,
        clients: vec![client_key.public()],
        replicas: replicas.clone(),
        settings: quorate::Settings::default(),
        protocols: quorate::ProtocolConfigs::default(),
    };
    let client = ClientConfig {
        group: node.group,
        key_file: "client.key".into(),
        replicas,
        options: ClientOptions::default(),
    };
    std::fs::write(path("node.toml"), toml::to_string(&node)?)?;
    std::fs::write(path("client.toml"), toml::to_string(&client)?)?;
    // Once in a replica's life: see `Builder::prepare`.
    Builder::from_config(NodeConfig::load(path("node.toml"))?)?.prepare()?;

    let node = serve(path("node.toml")).await?;
    count(path("client.toml"), "apples").await?;
    println!("apples: {:?}", count(path("client.toml"), "apples").await?);
    assert_eq!(
        node.read("apples".into(), ReadLevel::Linearizable).await?,
        "2"
    );
    Ok(node.shutdown().await?)
}
