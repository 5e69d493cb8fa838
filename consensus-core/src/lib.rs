//! The vocabulary, the traits and the driver core of Quorate.
//!
//! Five thin state machines, one fat driver: a [`Protocol`](protocol::Protocol) orders requests
//! and does nothing else; [`Replica`](replica::Replica) does everything around it, and is as
//! pure; sockets, files, clocks and threads are in other crates, behind
//! [`Transport`](transport::Transport) and [`Storage`](storage::Storage).
//!
//! | to learn about | read |
//! |---|---|
//! | what a protocol is | [`protocol`], [`output`] |
//! | what the application implements and calls | [`machine`], [`consensus`] |
//! | what is ordered, and exactly once | [`request`], [`session`] |
//! | the parts protocols share | [`window`], [`under_way`], [`quorum`], [`checkpoint`], [`frontier`], [`crypto`], [`config`] |
//! | what replicas must agree on beside the log | [`epoch`] |
//! | the driver | [`replica`] |
//! | the edges | [`storage`], [`transport`], [`wire`], [`codec`] |
//! | what it all cost | [`ledger`] |

pub mod checkpoint;
pub mod codec;
pub mod config;
pub mod consensus;
pub mod crypto;
pub mod epoch;
pub mod frontier;
pub mod id;
pub mod ledger;
pub mod life;
pub mod machine;
pub mod millis;
pub mod output;
pub mod protocol;
pub mod quorum;
pub mod replica;
pub mod request;
pub mod session;
pub mod storage;
pub mod transport;
pub mod under_way;
pub mod window;
pub mod wire;

pub use bytes::Bytes;
