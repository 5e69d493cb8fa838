//! The settings of QUIC. The figures behind them are in this crate's `README.md`.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use quinn::{EndpointConfig, IdleTimeout, MtuDiscoveryConfig, TransportConfig, VarInt};
use quorate_core::crypto::SecretKey;
use quorate_core::transport::TransportError;
use socket2::{Domain, Protocol, Socket, Type};

use crate::identity::{self, RandomIds};
use crate::outbox::QueueLimit;

/// What can be chosen about a transport. The defaults are for replicas on one machine or in one
/// data centre.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What may wait for one peer before frames are dropped.
    pub peer_queue: QueueLimit,
    /// What may wait for one client before its connection is closed.
    pub client_queue: QueueLimit,
    /// After this long without a sign of life the other end is taken for dead.
    pub idle_timeout: Duration,
    /// How often an idle connection shows that it is alive.
    pub keep_alive: Duration,
    /// How long a connection may take to be made.
    pub connect_timeout: Duration,
    /// The shortest wait before calling again; doubled with each failure, and jittered.
    pub back_off_min: Duration,
    /// The longest wait before calling again.
    pub back_off_max: Duration,
    /// The UDP payload that path MTU discovery may rise to, in bytes. Segmentation offload sends
    /// ten datagrams in one system call, whose 64 KiB they must not exceed together.
    pub mtu_upper_bound: u16,
    /// The socket's send and receive buffers, in bytes; the system may grant less.
    pub socket_buffer_bytes: usize,
    /// How many bulk requests a peer may have open at a time.
    pub bulk_requests: u32,
    /// A peer that sends nothing of its bulk request, or takes nothing of the answer, for so long is
    /// not waited for any more.
    pub bulk_patience: Duration,
    /// How many clients may be connected at a time.
    pub clients: usize,
    /// How many of them may have one key.
    pub clients_of_a_key: usize,
    /// What may wait for all clients together, in bytes; each may have 64 KiB waiting all the same.
    pub clients_queue_bytes: usize,
    /// What all clients together may have sent of frames that are not whole yet, or not looked at,
    /// in bytes; frames of 64 KiB and less are not counted.
    pub clients_frame_bytes: usize,
    /// How long a larger frame may take to come, once there is room for it.
    pub frame_timeout: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            peer_queue: QueueLimit {
                frames: 65_536,
                bytes: 64 << 20,
            },
            client_queue: QueueLimit {
                frames: 65_536,
                bytes: 64 << 20,
            },
            idle_timeout: Duration::from_secs(2),
            keep_alive: Duration::from_millis(500),
            connect_timeout: Duration::from_secs(3),
            back_off_min: Duration::from_millis(10),
            back_off_max: Duration::from_secs(1),
            mtu_upper_bound: 6_500,
            socket_buffer_bytes: 4 << 20,
            bulk_requests: 8,
            bulk_patience: Duration::from_secs(10),
            clients: 4_096,
            clients_of_a_key: 1_024,
            clients_queue_bytes: 256 << 20,
            clients_frame_bytes: 128 << 20,
            frame_timeout: Duration::from_secs(10),
        }
    }
}

/// Unread bytes of one stream that QUIC holds.
const STREAM_WINDOW_BYTES: u32 = 8 << 20;

/// Unread bytes that QUIC holds for a connection of a client, or one not yet known.
const STRANGER_WINDOW_BYTES: u32 = 1 << 20;

/// Unread bytes that QUIC holds for a connection of a member.
pub(crate) const MEMBER_WINDOW_BYTES: u32 = 64 << 20;

/// Bytes handed to QUIC and not yet acknowledged, for one connection.
const SEND_WINDOW_BYTES: u64 = 16 << 20;

/// The same for a connection of a client: there may be many.
pub(crate) const CLIENT_SEND_WINDOW_BYTES: u64 = 1 << 20;

/// Datagrams that have come and were not read: what they tell is short, and the latest counts.
const DATAGRAMS_BYTES: usize = 256;

/// The first guess of the round trip, which sets when a lost first packet is sent again. The
/// standard's third of a second would make each call to a replica that is just starting slow.
const INITIAL_RTT: Duration = Duration::from_millis(25);

/// What the other end of a connection may do from the start.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Trust {
    /// A member, known by its pinned key.
    Member,
    /// Not known until it has proved its key: one stream, a small window.
    Stranger,
}

impl Settings {
    pub(crate) fn transport(&self, trust: Trust) -> Arc<TransportConfig> {
        let mut discovery = MtuDiscoveryConfig::default();
        discovery.upper_bound(self.mtu_upper_bound);
        let idle = IdleTimeout::try_from(self.idle_timeout).ok();
        let (streams, window) = match trust {
            Trust::Member => (self.bulk_requests, MEMBER_WINDOW_BYTES),
            Trust::Stranger => (1, STRANGER_WINDOW_BYTES),
        };
        let mut config = TransportConfig::default();
        config
            .max_idle_timeout(idle)
            .keep_alive_interval(Some(self.keep_alive))
            .initial_rtt(INITIAL_RTT)
            .mtu_discovery_config(Some(discovery))
            .stream_receive_window(VarInt::from_u32(STREAM_WINDOW_BYTES))
            .receive_window(VarInt::from_u32(window))
            .send_window(SEND_WINDOW_BYTES)
            .max_concurrent_bidi_streams(VarInt::from_u32(streams))
            .max_concurrent_uni_streams(VarInt::from_u32(0))
            .datagram_receive_buffer_size(Some(DATAGRAMS_BYTES));
        Arc::new(config)
    }

    pub(crate) fn endpoint(&self, key: &SecretKey) -> EndpointConfig {
        let mut config = EndpointConfig::new(identity::reset_key(key));
        config.cid_generator(|| Box::new(RandomIds));
        let payload = self.mtu_upper_bound.max(1_472);
        if let Err(error) = config.max_udp_payload_size(payload) {
            tracing::warn!(%error, payload, "the MTU's upper bound is out of range");
        }
        config
    }

    /// A UDP socket on `address`, with buffers as large as the system grants.
    pub(crate) fn socket(
        &self,
        address: SocketAddr,
    ) -> Result<std::net::UdpSocket, TransportError> {
        self.bind(address).map_err(|error| TransportError::Bind {
            address: address.to_string(),
            reason: error.to_string(),
        })
    }

    fn bind(&self, address: SocketAddr) -> io::Result<std::net::UdpSocket> {
        let domain = Domain::for_address(address);
        let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
        if address.is_ipv6() {
            socket.set_only_v6(false)?;
        }
        for outcome in [
            socket.set_recv_buffer_size(self.socket_buffer_bytes),
            socket.set_send_buffer_size(self.socket_buffer_bytes),
        ] {
            if let Err(error) = outcome {
                tracing::debug!(%error, "the system does not grant the socket buffers asked for");
            }
        }
        socket.bind(&address.into())?;
        Ok(socket.into())
    }
}
