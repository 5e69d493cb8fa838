//! Who may command: the same under each protocol, and however the nodes are started.

mod support;

use std::path::Path;
use std::sync::Arc;

use quorate::{
    Admission, Builder, Consensus, GroupId, LocalCluster, NodeConfig, ProposeError, ProtocolKind,
    ReadLevel, ReplicaConfig, ReplicaId, SecretKey,
};
use support::Counter;

const N: usize = 4;

fn keys() -> Vec<SecretKey> {
    let seeds = (0..N as u8).map(|number| [number; 32]);
    seeds.map(SecretKey::from_seed).collect()
}

/// Four nodes, each made by `make` of its number, its key and its directory.
async fn start(
    data: &Path,
    make: impl Fn(ReplicaId, SecretKey, &Path) -> Builder,
) -> Vec<Arc<dyn Consensus>> {
    let mut bound = Vec::new();
    for (me, key) in ReplicaId::all(N).zip(keys()) {
        let directory = data.join(format!("{}", me.0));
        let builder = make(me, key, &directory);
        builder.prepare().unwrap();
        bound.push(builder.bind().unwrap());
    }
    let listed = |(key, address): (SecretKey, _)| ReplicaConfig {
        key: key.public(),
        address: format!("{address}"),
    };
    let addresses = bound.iter().map(quorate::Bound::address);
    let replicas: Vec<ReplicaConfig> = keys().into_iter().zip(addresses).map(listed).collect();
    let mut nodes = Vec::new();
    for bound in bound {
        let started = bound.replicas(replicas.clone()).start(Counter::default());
        nodes.push(started.await.unwrap());
    }
    nodes
}

fn builder(protocol: ProtocolKind, me: ReplicaId, key: SecretKey, data: &Path) -> Builder {
    let builder = Builder::new(protocol, me, key, data, "127.0.0.1:0");
    builder.replicas(GroupId(3), Vec::new())
}

async fn count(node: &Arc<dyn Consensus>) -> Result<bytes::Bytes, ProposeError> {
    node.propose("+".into()).await
}

#[tokio::test]
async fn a_node_proposes_under_each_protocol_however_it_was_started() {
    for protocol in ProtocolKind::ALL.iter().copied() {
        let data = tempfile::tempdir().unwrap();
        let local = LocalCluster::start(protocol, N, data.path(), Counter::default);
        let local = local.await.unwrap();
        assert_eq!(count(&local.nodes()[1]).await.unwrap(), "1", "{protocol}");
        local.shutdown().await.unwrap();

        let data = tempfile::tempdir().unwrap();
        let nodes = start(data.path(), |me, key, data| {
            builder(protocol, me, key, data)
        });
        let nodes = nodes.await;
        assert_eq!(count(&nodes[1]).await.unwrap(), "1", "{protocol}");

        let data = tempfile::tempdir().unwrap();
        let nodes = start(data.path(), |me, key, data| {
            let key_file = data.with_extension("key");
            quorate::save_key(&key_file, &key).unwrap();
            let config = NodeConfig {
                group: GroupId(3),
                protocol,
                me: me.0,
                key_file,
                data: data.into(),
                listen: Some(String::from("127.0.0.1:0")),
                clients: Vec::new(),
                replicas: Vec::new(),
                settings: quorate::Settings::default(),
                protocols: quorate::ProtocolConfigs::default(),
            };
            Builder::from_config(config).unwrap()
        });
        let nodes = nodes.await;
        assert_eq!(count(&nodes[1]).await.unwrap(), "1", "{protocol}");
    }
}

#[tokio::test]
async fn a_node_that_is_refused_is_so_under_each_protocol_and_told_the_remedy() {
    for protocol in ProtocolKind::ALL.iter().copied() {
        let data = tempfile::tempdir().unwrap();
        let admission = Admission::of([keys()[2].public()]);
        let nodes = start(data.path(), |me, key, data| {
            let builder = builder(protocol, me, key, data).replicas_propose(false);
            builder.admission(admission.clone())
        });
        let nodes = nodes.await;
        let Err(ProposeError::Refused(reason)) = count(&nodes[1]).await else {
            panic!("{protocol} lets it");
        };
        assert!(reason.contains("replicas_propose"), "{reason}");
        let read = nodes[1].read("".into(), ReadLevel::Linearizable).await;
        assert_eq!(read.unwrap(), "0");
        assert_eq!(count(&nodes[2]).await.unwrap(), "1", "it is listed");
    }
}
