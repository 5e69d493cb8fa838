//! How a node starts and stops, as the application that holds it sees it.

mod support;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use quorate::{
    Admission, Bound, Builder, ClientOptions, Consensus, GroupId, NodeError, ProposeError,
    ProtocolKind, ReadError, ReadLevel, ReplicaConfig, ReplicaId, SecretKey, StartError,
    StorageError, WalOptions,
};
use support::Counter;

const GROUP: GroupId = GroupId(7);

fn key(number: u8) -> SecretKey {
    SecretKey::from_seed([number; 32])
}

/// A replica of a cluster of one or more.
fn builder(me: u8, data: &Path) -> Builder {
    let protocol = ProtocolKind::ALL[0];
    let builder = Builder::new(protocol, ReplicaId(me), key(me), data, "127.0.0.1:0");
    builder.replicas(GROUP, Vec::new())
}

fn listed_as(number: u8, address: SocketAddr) -> ReplicaConfig {
    ReplicaConfig {
        key: key(number).public(),
        address: address.to_string(),
    }
}

/// Starts a cluster of one.
async fn alone(bound: Bound) -> Result<Arc<dyn Consensus>, StartError> {
    let replicas = vec![listed_as(0, bound.address())];
    bound.replicas(replicas).start(Counter::default()).await
}

async fn refused(bound: Bound) -> StartError {
    match alone(bound).await {
        Ok(_) => panic!("the node starts"),
        Err(error) => error,
    }
}

#[tokio::test]
async fn a_panic_of_the_application_is_no_clean_stop() {
    type Fatal = fn(Arc<dyn Consensus>) -> tokio::task::JoinHandle<()>;
    let apply: Fatal = |node| {
        tokio::spawn(async move {
            let outcome = node.propose(Bytes::from_static(&[0xff])).await;
            assert!(outcome.is_err(), "{outcome:?}");
        })
    };
    let query: Fatal = |node| {
        tokio::spawn(async move {
            let outcome = node.read("?".into(), ReadLevel::Local).await;
            assert!(outcome.is_err(), "{outcome:?}");
        })
    };
    let cases = [
        (apply, "commands are text"),
        (query, "there is one query only"),
    ];
    for (fatal, panic) in cases {
        let data = tempfile::tempdir().unwrap();
        let builder = builder(0, data.path());
        builder.prepare().unwrap();
        let node = alone(builder.bind().unwrap()).await.unwrap();
        assert_eq!(node.propose("++".into()).await.unwrap(), "2");

        let caller = fatal(node.clone());
        let expected = |reason: &str| {
            assert!(
                reason.contains("the replica's task has panicked"),
                "{reason}"
            );
            assert!(reason.contains(panic), "{reason}");
        };
        expected(&node.stopped().await.unwrap_err().to_string());
        expected(&node.shutdown().await.unwrap_err().to_string());
        match node.propose("+".into()).await {
            Err(ProposeError::Stopped(reason)) => expected(&reason),
            other => panic!("{other:?}"),
        }
        match node.digest().await {
            Err(ReadError::Stopped(reason)) => expected(&reason),
            other => panic!("{other:?}"),
        }
        caller.abort();
    }
}

#[tokio::test]
async fn a_node_begins_with_nothing_only_where_that_was_prepared() {
    let home = tempfile::tempdir().unwrap();
    let data = home.path().join("data");
    let absent = |error: &StartError| {
        let storage =
            |error: &NodeError| matches!(error, NodeError::Storage(StorageError::Absent { .. }));
        matches!(error, StartError::Node(error) if storage(error))
    };
    let error = refused(builder(0, &data).bind().unwrap()).await;
    assert!(absent(&error), "{error}");
    assert!(!quorate::has_run(&data).unwrap());

    builder(0, &data).prepare().unwrap();
    let node = alone(builder(0, &data).bind().unwrap()).await.unwrap();
    assert_eq!(node.propose("++".into()).await.unwrap(), "2");
    node.shutdown().await.unwrap();
    assert!(quorate::has_run(&data).unwrap());
    let error = builder(0, &data).prepare().unwrap_err();
    assert!(error.to_string().contains("has run already"), "{error}");
    let node = alone(builder(0, &data).bind().unwrap()).await.unwrap();
    assert_eq!(node.propose("+".into()).await.unwrap(), "3");
    node.shutdown().await.unwrap();

    std::fs::remove_dir_all(&data).unwrap();
    let error = refused(builder(0, &data).bind().unwrap()).await;
    assert!(absent(&error), "{error}");
}

#[tokio::test]
async fn a_node_does_not_start_with_anothers_state() {
    let data = tempfile::tempdir().unwrap();
    builder(1, data.path()).prepare().unwrap();
    let error = refused(builder(0, data.path()).bind().unwrap()).await;
    let said = error.to_string();
    for key in [key(0), key(1)] {
        assert!(said.contains(&key.public().to_string()), "{said}");
    }
}

#[tokio::test]
async fn a_list_of_replicas_that_cannot_be_is_refused_by_its_fault() {
    let data = tempfile::tempdir().unwrap();
    let start = async |listed: &[u8]| {
        let bound = builder(1, data.path()).bind().unwrap();
        let address = bound.address();
        let replicas = listed.iter().map(|number| listed_as(*number, address));
        let bound = bound.replicas(replicas.collect());
        let started = bound.start(Counter::default()).await;
        started.err().expect("the node does not start")
    };
    for listed in [&[][..], &[0]] {
        match start(listed).await {
            StartError::NotListed { me, n } => {
                assert_eq!((me, n), (ReplicaId(1), listed.len()));
            }
            other => panic!("{other}"),
        }
    }
    let said = start(&[]).await.to_string();
    assert!(said.contains("0 replicas are listed"), "{said}");
    assert!(said.contains("Builder::replicas"), "{said}");
    match start(&[0, 2]).await {
        StartError::WrongKey { own, listed, .. } => {
            assert_eq!((own, listed), (key(1).public(), key(2).public()));
        }
        other => panic!("{other}"),
    }
    let said = start(&[0, 1, 0]).await.to_string();
    assert!(
        said.contains("replicas 0 and 2 have the same key"),
        "{said}"
    );
}

#[tokio::test]
async fn options_of_the_log_and_a_client_with_a_key_in_memory_are_taken() {
    let data = tempfile::tempdir().unwrap();
    let options = WalOptions {
        segment_bytes: 8192,
        ..WalOptions::default()
    };
    let admission = Admission::of([key(9).public()]);
    let builder = builder(0, data.path()).wal_options(options);
    let builder = builder.admission(admission);
    builder.prepare().unwrap();
    let bound = builder.bind().unwrap();
    let replicas = vec![listed_as(0, bound.address())];
    let node = alone(bound).await.unwrap();
    let segment = data.path().join("segment-0000000000000001");
    assert_eq!(std::fs::metadata(segment).unwrap().len(), 8192);

    let options = ClientOptions {
        faults: ProtocolKind::ALL[0].faults(),
        ..ClientOptions::default()
    };
    let client = quorate::connect_with(&key(9), GROUP, &replicas, options.clone()).unwrap();
    assert_eq!(client.propose("+".into()).await.unwrap(), "1");
    let none = quorate::connect_with(&key(9), GROUP, &[], options).map(drop);
    assert!(matches!(none, Err(StartError::Replicas(_))), "{none:?}");
    node.shutdown().await.unwrap();
}
