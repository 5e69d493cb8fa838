//! What a client may rely on where replicas may lie: PBFT, over memory instead of sockets and
//! disks.

mod common;

use bytes::Bytes;
use common::{GROUP, client_signer, impatient, key, number};
use quorate_core::consensus::{Consensus, ProposeError, ReadLevel};
use quorate_core::crypto::{Admission, Digest, Signer};
use quorate_core::protocol::FaultModel;
use quorate_node::{Client, ClientOptions};
use quorate_pbft::Pbft;
use tokio::task::JoinSet;

type Cluster = common::Cluster<Pbft>;

const PLUS: Bytes = Bytes::from_static(b"+");

fn options() -> ClientOptions {
    ClientOptions {
        faults: FaultModel::Byzantine,
        ..ClientOptions::default()
    }
}

fn fast_reads() -> ClientOptions {
    ClientOptions {
        fast_reads: true,
        ..options()
    }
}

async fn read(client: &Client) -> u64 {
    let read = client.read(Bytes::new(), ReadLevel::Linearizable).await;
    number(&read.unwrap())
}

/// Counts through `client`, which must see every command once; some alone, some together.
async fn counts(client: &Client, from: u64) -> u64 {
    for expected in from + 1..=from + 5 {
        let count = client.propose(PLUS).await.unwrap();
        assert_eq!(number(&count), expected);
        assert_eq!(read(client).await, expected);
    }
    let mut tasks = JoinSet::new();
    for _ in 0..200 {
        let client = client.clone();
        tasks.spawn(async move { client.propose(PLUS).await });
    }
    let answers = tasks.join_all().await.into_iter();
    let mut seen: Vec<u64> = answers.map(|count| number(&count.unwrap())).collect();
    seen.sort_unstable();
    assert!(seen.into_iter().eq(from + 6..=from + 205));
    assert_eq!(read(client).await, from + 205);
    from + 205
}

/// Waits until all nodes have executed the same, and gives how much and their digests.
async fn settled(cluster: &Cluster) -> Vec<(u64, Digest)> {
    loop {
        let mut digests = Vec::new();
        for node in &cluster.nodes {
            digests.push(node.digest().await.unwrap());
        }
        if digests.iter().all(|(at, _)| *at == digests[0].0) {
            return digests;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn commands_are_executed_once_and_reads_see_them() {
    for options in [options(), fast_reads()] {
        let cluster = Cluster::start(4, options.clone()).await;
        let client = cluster.client(options.clone());
        let count = counts(&client, 0).await;
        assert_eq!(counts(&cluster.client(options), count).await, 2 * count);
        let digests = settled(&cluster).await;
        assert!(digests.iter().all(|digest| *digest == digests[0]));
    }
}

#[tokio::test]
async fn one_replica_may_be_missing_whoever_it_is() {
    for options in [options(), fast_reads()] {
        for stopped in [0, 3] {
            let cluster = Cluster::start(4, options.clone()).await;
            let client = cluster.client(options.clone());
            let count = counts(&client, 0).await;
            cluster.nodes[stopped].shutdown().await.unwrap();
            let count = counts(&client, count).await;
            // One that has never heard of the one that is missing.
            counts(&cluster.client(options.clone()), count).await;
        }
    }
}

#[tokio::test]
async fn a_fast_read_orders_nothing() {
    let cluster = Cluster::start(4, fast_reads()).await;
    let client = cluster.client(fast_reads());
    client.propose(PLUS).await.unwrap();
    // The first makes each replica find out, by a query of its own, that it has caught up.
    read(&client).await;
    settled(&cluster).await;
    for (options, ordered) in [(fast_reads(), 0), (options(), 1)] {
        let client = cluster.client(options);
        // The session is open, and all have executed that, before the count is taken.
        client.propose(PLUS).await.unwrap();
        settled(&cluster).await;
        let before = cluster.nodes[1].ledger().await.unwrap();
        read(&client).await;
        settled(&cluster).await;
        let after = cluster.nodes[1].ledger().await.unwrap();
        assert_eq!(after.entries - before.entries, ordered);
    }
}

#[tokio::test]
async fn a_client_that_is_not_admitted_is_turned_away() {
    let cluster = Cluster::start(4, options()).await;
    let stranger = Signer::new(key(101), GROUP);
    let connector = cluster.connector(stranger.public());
    let options = ClientOptions {
        faults: FaultModel::Byzantine,
        ..impatient()
    };
    let client = Client::new(connector, stranger, options);
    let outcome = client.propose(PLUS).await;
    assert!(matches!(outcome, Err(ProposeError::Unreachable(_))));
}

#[tokio::test]
async fn what_is_not_signed_is_refused() {
    let cluster = Cluster::start(4, options()).await;
    // As it would ask a protocol that trusts replicas.
    let client = cluster.client(ClientOptions::default());
    let outcome = client.propose(PLUS).await;
    let Err(ProposeError::Refused(reason)) = outcome else {
        panic!("{outcome:?}");
    };
    assert!(reason.contains("not signed"), "{reason}");
}

#[tokio::test]
async fn what_another_key_has_signed_is_refused() {
    let cluster = Cluster::start(4, options()).await;
    // The key of the connection is admitted; the requests are another's.
    let connector = cluster.connector(client_signer().public());
    let other = Signer::new(key(101), GROUP);
    let client = Client::new(
        connector,
        other,
        ClientOptions {
            faults: FaultModel::Byzantine,
            ..impatient()
        },
    );
    let outcome = client.propose(PLUS).await;
    assert!(outcome.is_err(), "{outcome:?}");
    let client = cluster.client(options());
    assert_eq!(number(&client.propose(PLUS).await.unwrap()), 1);
}

#[tokio::test]
async fn a_node_proposes_itself_if_its_key_is_admitted() {
    let admission = Admission::of([key(2).public()]);
    let cluster = Cluster::admitting(admission, 4, options()).await;
    for expected in 1..=3 {
        let count = cluster.nodes[2].propose(PLUS).await.unwrap();
        assert_eq!(number(&count), expected);
    }
    let refused = cluster.nodes[1].propose(PLUS).await;
    let Err(ProposeError::Refused(reason)) = refused else {
        panic!("{refused:?}");
    };
    assert!(reason.contains("not admitted"), "{reason}");
    // It may ask all the same.
    let read = cluster.nodes[1].read(Bytes::new(), ReadLevel::Linearizable);
    assert_eq!(number(&read.await.unwrap()), 3);
}
