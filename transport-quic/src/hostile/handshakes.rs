//! Callers that begin, and do not go on.

use std::time::Duration;

use tokio::time::timeout;

use super::{GROUP, ME, World, any_port, config, connected, forgetful, key};
use crate::accept::HANDSHAKES;
use crate::identity::{Caller, SERVER_NAME};
use crate::peer::call;

/// Datagrams that begin a handshake, more than there are slots, from one who never goes on with it:
/// they were meant for somebody else.
#[tokio::test]
async fn half_open_handshakes_keep_nobody_out() {
    let world = World::new();
    let elsewhere = tokio::net::UdpSocket::bind(any_port()).await.unwrap();
    let address = elsewhere.local_addr().unwrap();
    let mut calls = Vec::new();
    for _ in 0..400 {
        let tls = world.tls(&key(60), &key(1), Caller::Client, GROUP);
        let call = world.endpoint.connect_with(tls, address, SERVER_NAME);
        calls.push(call.unwrap());
        let mut datagram = [0; 1500];
        let (bytes, _) = elsewhere.recv_from(&mut datagram).await.unwrap();
        elsewhere
            .send_to(&datagram[..bytes], world.address)
            .await
            .unwrap();
    }
    let (_connection, mut opened) = world.dial(&key(50), Caller::Client).await.unwrap();
    opened.sending.write_all(&[0; 4]).await.unwrap();
}

/// They prove where they are and what key they hold, and say nothing, for as long as they may.
#[tokio::test]
async fn callers_that_say_nothing_do_not_keep_members_out() {
    let settled = |id, listen| {
        let mut config = config(id, listen);
        config.settings.connect_timeout = Duration::from_secs(600);
        config
    };
    let mut world = World::of(settled, forgetful());
    let address = world.address.to_string();
    let mut silent = Vec::new();
    loop {
        // As many with each as one key may have.
        let own = key(60 + (silent.len() / 3) as u8);
        let tls = world.tls(&own, &key(1), Caller::Client, GROUP);
        match call(&world.endpoint, ME, &address, tls).await {
            Ok(connection) => silent.push(connection),
            Err(_) => break,
        }
    }
    assert_eq!(silent.len(), HANDSHAKES);
    let (zero, _frames) = world.start(0);
    let linked = timeout(Duration::from_secs(60), connected(&zero, 1)).await;
    assert!(linked.is_ok(), "a member has no slot");
    assert!(silent.iter().all(|call| call.close_reason().is_none()));
}
