//! A client of the node it lives in, without a network between.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use quorate_core::id::ReplicaId;
use quorate_core::transport::{ClientReplies, ClientService, Connector, FrameSink, TransportError};
use tokio::sync::mpsc;

/// The node that a client lives in.
pub(crate) trait Host: Send + Sync + 'static {
    /// Takes its own application for a client. `None` turns it away.
    fn connect_own(&self, replies: Arc<dyn FrameSink>) -> Option<Arc<dyn ClientService>>;
}

/// Connects to one node only: this one.
pub(crate) struct InProcess {
    me: ReplicaId,
    host: Arc<dyn Host>,
}

impl InProcess {
    pub(crate) fn new(me: ReplicaId, host: Arc<dyn Host>) -> Self {
        InProcess { me, host }
    }

    /// The node.
    pub(crate) fn me(&self) -> ReplicaId {
        self.me
    }
}

#[async_trait]
impl Connector for InProcess {
    fn n(&self) -> usize {
        self.me.index() + 1
    }

    async fn connect(
        &self,
        to: ReplicaId,
        replies: Arc<dyn ClientReplies>,
    ) -> Result<Arc<dyn FrameSink>, TransportError> {
        let back = Arc::new(Back {
            me: self.me,
            replies,
        });
        let refused = TransportError::Refused { to };
        let service = self.host.connect_own(back).ok_or(refused)?;
        let (sender, frames) = mpsc::channel(64);
        tokio::spawn(forward(frames, service));
        Ok(Arc::new(There(sender)))
    }
}

async fn forward(mut frames: mpsc::Receiver<Bytes>, service: Arc<dyn ClientService>) {
    while let Some(frame) = frames.recv().await {
        service.deliver(frame).await;
    }
}

struct There(mpsc::Sender<Bytes>);

impl FrameSink for There {
    fn send(&self, frame: Bytes) -> bool {
        self.0.try_send(frame).is_ok()
    }
}

struct Back {
    me: ReplicaId,
    replies: Arc<dyn ClientReplies>,
}

/// Does not wait until another frame is wanted: it is the node's own word that comes, and only what
/// its application has asked for.
impl FrameSink for Back {
    fn send(&self, frame: Bytes) -> bool {
        self.replies.deliver(self.me, frame);
        true
    }
}

impl Drop for Back {
    fn drop(&mut self) {
        self.replies.closed(self.me);
    }
}
