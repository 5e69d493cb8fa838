//! What an application and a client may rely on, over memory instead of sockets and disks.

mod common;

use std::sync::Arc;

use bytes::Bytes;
use common::{GROUP, client_signer, impatient, key, number};
use quorate_core::codec::MESSAGE_LIMIT;
use quorate_core::consensus::{Consensus, ProposeError, ReadError, ReadLevel};
use quorate_core::crypto::{Admission, Signer};
use quorate_core::id::ReplicaId;
use quorate_core::replica::Settings;
use quorate_core::request::COMMAND_LIMIT;
use quorate_core::storage::{
    Completions, MemoryStorage, Records, Snapshot, Storage, StorageError, Stored, Ticket,
};
use quorate_core::transport::ClientReplies;
use quorate_node::ClientOptions;
use quorate_raft::Raft;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

type Cluster = common::Cluster<Raft>;

#[tokio::test]
async fn any_node_takes_any_request_and_all_come_to_the_same_state() {
    let cluster = Cluster::start(3, ClientOptions::default()).await;
    for round in 0..3 {
        for (index, node) in cluster.nodes.iter().enumerate() {
            let count = node.propose(Bytes::from_static(b"+")).await.unwrap();
            assert_eq!(number(&count), round * 3 + index as u64 + 1);
        }
    }
    for node in &cluster.nodes {
        let read = node.read(Bytes::new(), ReadLevel::Linearizable).await;
        assert_eq!(number(&read.unwrap()), 9);
    }
    let digests = [
        cluster.nodes[0].digest().await.unwrap(),
        cluster.nodes[1].digest().await.unwrap(),
        cluster.nodes[2].digest().await.unwrap(),
    ];
    assert_eq!(digests[0], digests[1]);
    assert_eq!(digests[0], digests[2]);
}

#[tokio::test]
async fn requests_that_wait_together_are_ordered_together() {
    let cluster = Cluster::start(3, ClientOptions::default()).await;
    let leader = &cluster.nodes[cluster.leader().await];
    leader.propose(Bytes::from_static(b"+")).await.unwrap();
    let before = leader.ledger().await.unwrap();
    let client = cluster.client(ClientOptions::default());
    let tasks: Vec<_> = (0..500)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { client.propose(Bytes::from_static(b"+")).await })
        })
        .collect();
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    let ledger = leader.ledger().await.unwrap();
    assert_eq!(ledger.requests - before.requests, 500);
    assert!(ledger.entries - before.entries < 250, "{ledger:?}");
}

#[tokio::test]
async fn commands_too_large_for_one_frame_together_all_happen() {
    let mut cluster = Cluster::start(1, ClientOptions::default()).await;
    let client = cluster.client(ClientOptions::default());
    let node = Arc::new(cluster.nodes.remove(0));
    let command = Bytes::from(vec![0; 1 << 20]);
    let mut tasks = JoinSet::new();
    for _ in 0..80 {
        let (client, remote) = (client.clone(), command.clone());
        tasks.spawn(async move { client.propose(remote).await });
        let (node, local) = (node.clone(), command.clone());
        tasks.spawn(async move { node.propose(local).await });
    }
    for answer in tasks.join_all().await {
        answer.unwrap();
    }
    let count = node.read(Bytes::new(), ReadLevel::Linearizable).await;
    assert_eq!(number(&count.unwrap()), 160);
}

#[tokio::test]
async fn a_client_goes_on_without_the_leader_and_nothing_is_done_twice() {
    let cluster = Cluster::start(3, ClientOptions::default()).await;
    let client = cluster.client(ClientOptions::default());
    for expected in 1..=5 {
        let count = client.propose(Bytes::from_static(b"+")).await.unwrap();
        assert_eq!(number(&count), expected);
    }
    let leader = cluster.leader().await;
    let (stopped, count) = tokio::join!(
        cluster.nodes[leader].shutdown(),
        client.propose(Bytes::from_static(b"+"))
    );
    stopped.unwrap();
    assert_eq!(number(&count.unwrap()), 6);
    let count = client.propose(Bytes::from_static(b"+")).await.unwrap();
    assert_eq!(number(&count), 7);
}

/// Nothing is sent that no replica can take: the connection would be lost, and all that waits behind.
#[tokio::test]
async fn what_fits_into_no_message_is_refused_and_holds_nothing_up() {
    let cluster = Cluster::start(3, impatient()).await;
    let node = &cluster.nodes[cluster.leader().await];
    let limit = COMMAND_LIMIT;
    for size in [limit + 1, MESSAGE_LIMIT + 1] {
        let large = Bytes::from(vec![b'+'; size]);
        let refused = node.propose(large.clone()).await;
        assert_eq!(refused, Err(ProposeError::TooLarge { size, limit }));
        let refused = node.read(large, ReadLevel::Linearizable).await;
        assert_eq!(refused, Err(ReadError::TooLarge { size, limit }));
    }
    let within = Bytes::from(vec![b'+'; limit]);
    let limit = Settings::default().max_command_bytes;
    let size = within.len();
    let refused = node.propose(within.clone()).await;
    assert_eq!(refused, Err(ProposeError::TooLarge { size, limit }));
    let refused = node.read(within, ReadLevel::Linearizable).await;
    assert_eq!(refused, Err(ReadError::TooLarge { size, limit }));
    assert_eq!(
        number(&node.propose(Bytes::from_static(b"+")).await.unwrap()),
        1
    );
}

#[tokio::test]
async fn without_a_quorum_the_outcome_is_unknown() {
    let cluster = Cluster::start(3, impatient()).await;
    let leader = cluster.leader().await;
    let node = &cluster.nodes[leader];
    node.propose(Bytes::from_static(b"+")).await.unwrap();
    for (index, other) in cluster.nodes.iter().enumerate() {
        if index != leader {
            other.shutdown().await.unwrap();
        }
    }
    let outcome = node.propose(Bytes::from_static(b"+")).await;
    assert_eq!(outcome, Err(ProposeError::Unknown));
    assert!(ProposeError::Unknown.may_have_happened());
    let read = node.read(Bytes::new(), ReadLevel::Linearizable).await;
    assert_eq!(read, Err(ReadError::Timeout));
    let local = node.read(Bytes::new(), ReadLevel::Local).await;
    assert_eq!(number(&local.unwrap()), 1);
}

#[tokio::test]
async fn without_any_replica_the_command_certainly_did_not_happen() {
    let cluster = Cluster::start(1, ClientOptions::default()).await;
    cluster.nodes[0].shutdown().await.unwrap();
    let client = cluster.client(impatient());
    let outcome = client.propose(Bytes::from_static(b"+")).await;
    let Err(error @ ProposeError::Unreachable(_)) = outcome else {
        panic!("{outcome:?}");
    };
    assert!(!error.may_have_happened());
    let asked = cluster.nodes[0].propose(Bytes::from_static(b"+")).await;
    assert!(matches!(asked, Err(ProposeError::Stopped(_))));
}

#[tokio::test]
async fn a_client_that_is_not_on_the_list_is_turned_away() {
    let cluster = Cluster::start(1, ClientOptions::default()).await;
    let stranger = Signer::new(key(101), GROUP);
    let connector = cluster.connector(stranger.public());
    let client = quorate_node::Client::new(connector, stranger, impatient());
    let outcome = client.propose(Bytes::from_static(b"+")).await;
    assert!(matches!(outcome, Err(ProposeError::Unreachable(_))));
}

/// Otherwise whoever has the key of one replica commands at that one, though no replica is to.
#[tokio::test]
async fn a_replicas_own_key_is_no_clients_at_any_node_unless_it_is_admitted() {
    let admission = Admission::of([client_signer().public()]);
    let cluster = Cluster::admitting(admission, 3, impatient()).await;
    let own = Signer::new(key(0), GROUP);
    for first in 0..3 {
        let options = ClientOptions {
            first: Some(ReplicaId(first)),
            follow_leader: false,
            ..impatient()
        };
        let connector = cluster.connector(own.public());
        let client = quorate_node::Client::new(connector, own.clone(), options);
        let outcome = client.propose(Bytes::from_static(b"+")).await;
        assert!(
            matches!(outcome, Err(ProposeError::Unreachable(_))),
            "{outcome:?}"
        );
    }
    // Its application reads, all the same.
    let read = cluster.nodes[0]
        .read(Bytes::new(), ReadLevel::Linearizable)
        .await;
    assert_eq!(number(&read.unwrap()), 0);
}

#[tokio::test]
async fn a_node_whose_disk_is_full_refuses_commands_serves_reads_and_goes_on() {
    let admission = Admission::of([key(0).public()]);
    let cluster = Cluster::with_up(admission, 1, 0..0, impatient()).await;
    let mut disk = None;
    let options = ClientOptions {
        follow_leader: false,
        ..impatient()
    };
    let node = cluster.node(0, options, |completions| {
        disk = Some(completions.clone());
        common::prompt(completions)
    });
    let node = node.await.unwrap();
    let command = || node.propose(Bytes::from_static(b"+"));
    assert_eq!(number(&command().await.unwrap()), 1);
    let disk = disk.unwrap();
    disk.short_of_room(true);
    assert_eq!(command().await, Err(ProposeError::DiskFull));
    // One that has no session yet is told the same, at once.
    let connector = cluster.connector(key(0).public());
    let client = quorate_node::Client::new(connector, Signer::new(key(0), GROUP), impatient());
    let refused = client.propose(Bytes::from_static(b"+")).await;
    assert_eq!(refused, Err(ProposeError::DiskFull));
    let read = node.read(Bytes::new(), ReadLevel::Linearizable).await;
    assert_eq!(number(&read.unwrap()), 1);
    disk.short_of_room(false);
    assert_eq!(number(&command().await.unwrap()), 2);
}

struct Ear(mpsc::UnboundedSender<Bytes>);

impl ClientReplies for Ear {
    fn deliver(&self, _from: ReplicaId, frame: Bytes) {
        self.0.send(frame).ok();
    }

    fn closed(&self, _from: ReplicaId) {}
}

#[tokio::test]
async fn garbage_from_a_client_is_survived() {
    let cluster = Cluster::start(1, ClientOptions::default()).await;
    let (ear, _heard) = mpsc::unbounded_channel();
    let connector = cluster.connector(client_signer().public());
    let sink = connector
        .connect(ReplicaId(0), Arc::new(Ear(ear)))
        .await
        .unwrap();
    for garbage in [
        &b""[..],
        b"\x00",
        b"\x01",
        b"\x01\xff\xff\xff\xff",
        b"\x07abc",
    ] {
        assert!(sink.send(Bytes::copy_from_slice(garbage)));
    }
    let client = cluster.client(ClientOptions::default());
    let count = client.propose(Bytes::from_static(b"+")).await.unwrap();
    assert_eq!(number(&count), 1);
}

#[tokio::test]
async fn a_node_whose_key_is_not_admitted_proposes_under_no_protocol() {
    let admission = Admission::of([client_signer().public()]);
    let cluster: Cluster = Cluster::admitting(admission, 3, ClientOptions::default()).await;
    let refused = cluster.nodes[0].propose(Bytes::from_static(b"+")).await;
    let Err(ProposeError::Refused(reason)) = refused else {
        panic!("{refused:?}");
    };
    assert!(reason.contains("Builder::replicas_propose"), "{reason}");
    let read = cluster.nodes[0].read(Bytes::new(), ReadLevel::Linearizable);
    assert_eq!(number(&read.await.unwrap()), 0);
}

/// Memory that fails when it has stored so many appends.
struct Failing {
    memory: MemoryStorage,
    completions: Arc<dyn Completions>,
    left: u32,
}

impl Storage for Failing {
    fn append(&mut self, ticket: Ticket, replaces: bool, records: Records) {
        match self.left.checked_sub(1) {
            Some(left) => {
                self.left = left;
                self.memory.append(ticket, replaces, records);
            }
            None => self.completions.failed(StorageError::Io {
                action: "sync",
                path: String::from("segment-1"),
                reason: String::from("no space left on device"),
            }),
        }
    }

    fn save(&mut self, ticket: Ticket, snapshot: Snapshot) {
        self.memory.save(ticket, snapshot);
    }

    fn syncs(&self) -> u64 {
        self.memory.syncs()
    }
}

#[tokio::test]
async fn a_node_whose_disk_is_full_says_so_and_acknowledges_nothing_more() {
    let cluster = Cluster::start(1, ClientOptions::default()).await;
    cluster.nodes[0].shutdown().await.unwrap();
    let failing = |completions: Arc<dyn Completions>| {
        let storage = Failing {
            memory: MemoryStorage::immediate(Stored::default(), completions.clone()),
            completions,
            left: 4,
        };
        Ok((Box::new(storage) as Box<dyn Storage>, Stored::default()))
    };
    let node = cluster.node(0, impatient(), failing).await.unwrap();
    let mut acknowledged = 0;
    let failed = loop {
        match node.propose(Bytes::from_static(b"+")).await {
            Ok(count) => acknowledged = number(&count),
            Err(error) => break error,
        }
    };
    assert!(acknowledged < 4);
    let reason = node.stopped().await.unwrap_err().to_string();
    assert!(reason.contains("no space left on device"), "{reason}");
    assert!(reason.contains("segment-1"), "{reason}");
    assert!(failed.may_have_happened(), "{failed:?}");
}
