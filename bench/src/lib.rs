//! What the benches share: a whole cluster in one thread, without sockets, files or clocks.
//!
//! [`OneThread`] is a cluster of [`Host`]s that hand each other frames. The kinds of host differ
//! in how much of a real node is around the protocol, so that the difference between two of them
//! is what the part left out costs:
//!
//! | host | protocol | driver core | frames |
//! |---|---|---|---|
//! | [`Bare`] | yes | no | messages as values |
//! | [`Driven`] with [`ByValue`] | yes | yes, records encoded | messages as values |
//! | [`Driven`] with [`Sealed`] | yes | yes, records encoded | encoded, opened and verified |
//!
//! In all of them records are durable at once, no time passes after the election, and no frame is
//! lost. [`Load`] makes the requests.

mod bare;
mod driven;
mod load;
mod one_thread;

pub use bare::Bare;
pub use driven::{ByValue, Count, Driven, Enclosure, Sealed};
pub use load::Load;
pub use one_thread::{Host, OneThread, contexts};
