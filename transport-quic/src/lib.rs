//! Mutually authenticated QUIC between replicas, and between clients and replicas.
//!
//! [`QuicTransport`] implements [`Transport`](quorate_core::transport::Transport) and
//! [`QuicConnector`] implements [`Connector`](quorate_core::transport::Connector), over `quinn`
//! and `rustls`. [`MemoryNetwork`] is the same contract over channels, for tests without sockets.
//!
//! | to learn about | read |
//! |---|---|
//! | who is at the other end, and how that is proved | `identity.rs` |
//! | what is on a stream | `frame.rs`, `link.rs`, `bulk.rs` |
//! | who calls whom, and reconnecting | `peer.rs`, `accept.rs` |
//! | what happens to frames that cannot leave | `outbox.rs` |
//! | the settings of QUIC, and where they come from | `settings.rs`, `README.md` |
//! | clients | `client.rs` |
//! | the same without sockets | `memory.rs` |

mod accept;
mod bulk;
mod client;
mod close;
mod frame;
#[cfg(test)]
mod hostile;
mod identity;
mod link;
mod memory;
mod outbox;
mod peer;
mod positions;
mod quic;
mod settings;
mod stats;
mod tasks;

pub use client::QuicConnector;
pub use frame::FRAME_LIMIT;
pub use memory::{MemoryConnector, MemoryNetwork, MemoryTransport};
pub use outbox::QueueLimit;
pub use quic::{Peer, QuicConfig, QuicEndpoint, QuicTransport};
pub use settings::Settings;
pub use stats::PeerStats;
