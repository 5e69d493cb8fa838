//! A client's connections to replicas.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use quinn::{ClientConfig, Endpoint, TokioRuntime};
use quorate_core::crypto::{GroupId, SecretKey};
use quorate_core::id::ReplicaId;
use quorate_core::transport::{ClientReplies, Connector, FrameSink, TransportError};
use tokio::runtime::Handle;

use crate::close::{Close, unreachable};
use crate::identity::{self, Caller};
use crate::link::{End, Opened, Outlet};
use crate::peer::dial;
use crate::quic::Peer;
use crate::settings::{Settings, Trust};

/// [`Connector`] over QUIC. All its connections share one socket.
pub struct QuicConnector {
    endpoint: Endpoint,
    replicas: Vec<(String, ClientConfig)>,
    settings: Settings,
}

impl QuicConnector {
    /// Calls `replicas`, in the order of their ids, as the client with `key`. Must be called
    /// within the tokio runtime that is to serve the connections.
    ///
    /// # Errors
    ///
    /// [`TransportError::Bind`] if no socket can be had.
    pub fn new(
        key: &SecretKey,
        group: GroupId,
        replicas: &[Peer],
        settings: Settings,
    ) -> Result<Self, TransportError> {
        // The other family needs a socket that takes both, which not every system has.
        let v6 = |peer: &Peer| peer.address.parse().is_ok_and(|a: SocketAddr| a.is_ipv6());
        let listen: SocketAddr = if replicas.iter().any(v6) {
            (Ipv6Addr::UNSPECIFIED, 0).into()
        } else {
            (Ipv4Addr::UNSPECIFIED, 0).into()
        };
        let failed = |reason: String| TransportError::Bind {
            address: listen.to_string(),
            reason,
        };
        Handle::try_current().map_err(|error| failed(error.to_string()))?;
        let socket = settings.socket(listen)?;
        let runtime = Arc::new(TokioRuntime);
        let endpoint = Endpoint::new(settings.endpoint(key), None, socket, runtime)
            .map_err(|error| failed(error.to_string()))?;
        let transport = settings.transport(Trust::Stranger);
        let configure = |peer: &Peer| {
            let tls = identity::client(key, peer.key, Caller::Client, group)
                .map_err(|error| failed(error.to_string()))?;
            let mut config = ClientConfig::new(Arc::new(tls));
            config.transport_config(transport.clone());
            Ok((peer.address.clone(), config))
        };
        Ok(QuicConnector {
            endpoint,
            replicas: replicas.iter().map(configure).collect::<Result<_, _>>()?,
            settings,
        })
    }
}

#[async_trait]
impl Connector for QuicConnector {
    fn n(&self) -> usize {
        self.replicas.len()
    }

    async fn connect(
        &self,
        to: ReplicaId,
        replies: Arc<dyn ClientReplies>,
    ) -> Result<Arc<dyn FrameSink>, TransportError> {
        let Some((address, tls)) = self.replicas.get(to.index()) else {
            return Err(unreachable(to, "there is no such replica"));
        };
        let limit = self.settings.connect_timeout;
        let (connection, opened) =
            dial(&self.endpoint, to, address, tls.clone(), None, limit).await?;
        let Opened { sending, mut inlet } = opened;
        let outlet = Arc::new(Outlet::new(connection, self.settings.client_queue));
        let writer = outlet.clone();
        tokio::spawn(async move { writer.write_to(sending, None).await });
        let reader = outlet.clone();
        tokio::spawn(async move {
            let end = loop {
                match inlet.next().await {
                    Ok(frame) => {
                        replies.deliver(to, frame);
                        replies.ready().await;
                    }
                    Err(end) => break end,
                }
            };
            tracing::debug!(replica = %to, reason = %end, "the connection has ended");
            reader.close(match end {
                End::Malformed(_) => Close::BadFrame,
                End::Closed(_)
                | End::Differs(_)
                | End::Forgot(_)
                | End::Forgotten(_)
                | End::Unready(_) => Close::Done,
            });
            replies.closed(to);
        });
        Ok(Arc::new(ReplicaSink(outlet)))
    }
}

/// Frames for one replica; the connection lasts as long as this.
struct ReplicaSink(Arc<Outlet>);

impl FrameSink for ReplicaSink {
    fn send(&self, frame: Bytes) -> bool {
        self.0.push(frame).is_ok()
    }

    fn backlog(&self) -> usize {
        self.0.backlog()
    }
}

impl Drop for ReplicaSink {
    fn drop(&mut self) {
        self.0.close(Close::Done);
    }
}
