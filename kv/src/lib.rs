//! A key-value store that any Quorate protocol can replicate.
//!
//! [`Store`] is the state machine; [`Command`] changes it, [`Query`] reads it, and [`Answer`] is
//! what either gives. All three travel as bytes; what cannot be read is answered with
//! [`Answer::Refused`], on every replica alike.
//!
//! # Revisions
//!
//! Every change of a key has a revision, counted **per key**: the change that creates the key is
//! revision 1, each later one adds 1, and a key that was deleted starts at 1 again (etcd calls
//! this the version of a key). There is no revision of the whole store. A protocol that orders
//! only commands that conflict may apply commands on different keys in different orders on
//! different replicas, and a counter shared by all keys would then differ between them; it could
//! be had only by making every write conflict with every other. Deleted keys leave no trace, so
//! memory is bounded by the keys that exist; who must tell apart a key from its successor of the
//! same name has to write different values.

mod command;
mod snapshot;
mod store;

pub use command::{Answer, Command, Entry, KEY_LIMIT, Query, Refusal, VALUE_LIMIT};
pub use store::{RANGE_BYTES, Store};
