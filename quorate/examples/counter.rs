//! A counter of your own, replicated durably on three nodes. It is one number, so that all commands
//! conflict, and it has no `keys` to tell apart; `node.rs` has.
use quorate::prelude::*;
use std::io::{Read, Write};

struct Counter(u64);

impl StateMachine for Counter {
    fn apply(&mut self, command: &[u8]) -> Bytes {
        self.0 += command.len() as u64;
        self.query(b"")
    }

    fn query(&self, _query: &[u8]) -> Bytes {
        self.0.to_string().into()
    }

    fn snapshot(&self, to: &mut dyn Write) -> std::io::Result<()> {
        to.write_all(&self.0.to_le_bytes())
    }

    fn restore(&mut self, from: &mut dyn Read) -> Result<(), RestoreError> {
        let mut bytes = [0; 8];
        from.read_exact(&mut bytes)?;
        *self = Counter(u64::from_le_bytes(bytes));
        Ok(())
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let directory = tempfile::tempdir()?;
    let new = || Counter(0);
    let cluster = LocalCluster::start(ProtocolKind::Raft, 3, directory.path(), new).await?;
    let nodes = cluster.nodes();
    nodes[0].propose("+++".into()).await?;
    println!("node 1 counts {:?}", nodes[1].propose("++".into()).await?);
    let count = nodes[2].read("".into(), ReadLevel::Linearizable).await?;
    assert_eq!(count, "5");
    Ok(cluster.shutdown().await?)
}
