//! How far each replica's log is durable, told to every other: were it to come back with less, they
//! would know.
//!
//! It is told in datagrams: one that is lost is followed by another, and what is known is the most
//! that has come.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quinn::Connection;
use quorate_core::id::ReplicaId;
use quorate_core::life::{Acquaintances, Position};
use tokio::time::sleep;

/// How often it is told.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// How often what was told is made durable.
const KEEP_EVERY: Duration = Duration::from_secs(5);

/// Tells a peer how far the log is durable, and takes what it tells, as long as there is a connection.
pub(crate) async fn exchange(
    connection: Connection,
    peer: ReplicaId,
    acquaintances: Arc<dyn Acquaintances>,
) {
    let telling = async {
        loop {
            let position = acquaintances.position().0.to_be_bytes();
            // Fails where the other end takes no datagrams, or is gone: it remembers less then.
            let _ = connection.send_datagram(Bytes::copy_from_slice(&position));
            sleep(TELL_EVERY).await;
        }
    };
    let hearing = async {
        while let Ok(datagram) = connection.read_datagram().await {
            if let Ok(position) = <[u8; 8]>::try_from(&datagram[..]) {
                acquaintances.told(peer, Position(u64::from_be_bytes(position)));
            }
        }
    };
    tokio::select! {
        () = telling => {}
        () = hearing => {}
    }
}

/// Makes durable what was told, now and then.
pub(crate) async fn keep(acquaintances: Arc<dyn Acquaintances>) {
    loop {
        sleep(KEEP_EVERY).await;
        let acquaintances = acquaintances.clone();
        let keeping = tokio::task::spawn_blocking(move || acquaintances.keep());
        if keeping.await.is_err() {
            return;
        }
    }
}
