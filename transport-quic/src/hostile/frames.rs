//! Large frames of clients, for which there is so much room together.

use std::time::Duration;

use tokio::time::timeout;

use super::{World, close_of, config, forgetful, key};
use crate::close::Close;
use crate::frame::FRAME_LIMIT;
use crate::identity::Caller;

/// One that claims all the room there is and sends nothing holds up other large frames for as long
/// as it may take, and no small ones.
#[tokio::test]
async fn a_large_frame_of_a_client_that_does_not_come_gives_its_room_back() {
    let mut world = World::new();
    let (slow, mut stalled) = world.dial(&key(50), Caller::Client).await.unwrap();
    let claim = (FRAME_LIMIT as u32).to_be_bytes();
    stalled.sending.write_all(&claim).await.unwrap();
    stalled.sending.write_all(&[0; 100]).await.unwrap();
    let (_other, mut opened) = world.dial(&key(51), Caller::Client).await.unwrap();
    opened.sending.write_all(b"\0\0\0\x05small").await.unwrap();
    world.expect(9, "small").await;
    let large = vec![7; 1 << 20];
    let length = (large.len() as u32).to_be_bytes();
    opened.sending.write_all(&length).await.unwrap();
    opened.sending.write_all(&large).await.unwrap();
    assert_eq!(close_of(&slow.closed().await), Close::BadFrame);
    let (_, mut frame) = world.frames.recv().await.unwrap();
    // That the slow one has gone may be noticed before or after.
    if frame == b"gone"[..] {
        (_, frame) = world.frames.recv().await.unwrap();
    }
    assert!(frame == large, "{} bytes", frame.len());
}

/// Who has sent one need not send another for others to have the room.
#[tokio::test]
async fn a_large_frame_of_a_client_that_has_come_gives_its_room_back() {
    let patient = |id, listen| {
        let mut config = config(id, listen);
        config.settings.frame_timeout = Duration::from_secs(600);
        config
    };
    let mut world = World::of(patient, forgetful());
    let mut frame = (FRAME_LIMIT as u32).to_be_bytes().to_vec();
    frame.resize(4 + FRAME_LIMIT, 7);
    let mut connected = Vec::new();
    for id in [50, 51] {
        let (connection, mut opened) = world.dial(&key(id), Caller::Client).await.unwrap();
        opened.sending.write_all(&frame).await.unwrap();
        let come = timeout(Duration::from_secs(60), world.frames.recv());
        let (_, come) = come.await.expect("there is no room").unwrap();
        assert_eq!(come.len(), FRAME_LIMIT);
        connected.push((connection, opened));
    }
}
