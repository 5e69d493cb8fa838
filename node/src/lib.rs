//! The driver on tokio: one [`Replica`](quorate_core::replica::Replica) over any
//! [`Transport`](quorate_core::transport::Transport) and
//! [`Storage`](quorate_core::storage::Storage), and the [`Client`] that uses it.
//!
//! | room | what is in it |
//! |---|---|
//! | [`node`] | starting a node, and the handle that the application holds |
//! | `driver` | the one task that owns the replica: gathers a turn, carries out its effects |
//! | `inbox` | what wakes the driver: messages, requests, completions of storage |
//! | `lanes` | a queue for each who brings something, and whose turn it is |
//! | `budget` | what one sender may take of the processor before the driver |
//! | `digests` | digests of the state, for whoever asks |
//! | `gate` | what the transport delivers to: opens and verifies frames on the receiving task |
//! | `replies` | who waits for which answer |
//! | [`client`] | finds a replica, sends again safely, says whether a failed command may have happened |
//! | `client_wire` | the frames between client and replica |

mod budget;
pub mod client;
mod client_wire;
mod digests;
mod driver;
mod gate;
mod inbox;
mod lanes;
pub mod node;
mod replies;

pub use client::{Client, ClientOptions};
pub use node::{Node, NodeError, Parts};
