//! A bench for the tests of a protocol: replicas without a driver, one thread, no network, no
//! disk, and every effect in view.
//!
//! Where a [`World`](crate::World) draws what happens from a seed, here the test says it: which
//! message arrives, which timer fires, when a disk has synced. A [`Node`] is one replica with
//! what it has said and done; a [`Cluster`] is several, with the messages between them.
//!
//! ```text
//! type Node = harness::Node<Raft>;
//!
//! let mut node = Node::fresh(0, 3, &Config::default());
//! node.fire(Timer::Election);                            // time passes until it does
//! node.receive(r(1), vote(1, true));                     // a turn with one message
//! assert_eq!(node.role(), Role::Leader);
//!
//! let mut cluster = Cluster::new(3, &Config::default());
//! cluster.isolate(2);
//! cluster.propose(0, "x");                               // and all that follows from it
//! cluster.restart(1, &Config::default());                // from what was durable
//! ```
//!
//! What is a protocol's own (constructors such as "a leader of term 3", messages, records) stays
//! with its tests, in a trait that it implements for `Node<P>` and `Cluster<P>`, so that both
//! read alike: see `raft/tests/common/mod.rs`.
//!
//! Everything here panics where a test's expectation does not hold: it is made for tests alone.

#![expect(
    clippy::expect_used,
    reason = "tests alone call it, and what they expect is what they test"
)]

mod cluster;
mod node;

use bytes::Bytes;
use quorate_core::crypto::{
    Admission, Digest, GroupId, Members, Scheme, SecretKey, Signer, Verifier,
};
use quorate_core::frontier::Frontier;
use quorate_core::id::{ReplicaId, Slot, UnixTime};
use quorate_core::protocol::{Context, SnapshotRef};
use quorate_core::request::{Batch, Operation, Request, SessionId};

pub use cluster::Cluster;
pub use node::{Node, state_of};

/// What the wall clocks of the bench show when a replica starts.
pub const WALL_CLOCK: UnixTime = UnixTime(1_700_000_000_000_000_000);

/// Replica `index`.
pub fn r(index: u8) -> ReplicaId {
    ReplicaId(index)
}

/// The key of replica `index`, in every cluster of the bench.
pub fn secret(index: ReplicaId) -> SecretKey {
    SecretKey::from_seed([index.0 + 1; 32])
}

/// How replicas and clients of the bench sign, as those of [`SimulationConfig::new`](crate::SimulationConfig::new) do.
const SCHEME: Scheme = Scheme::Forgeable;

/// Signs for replica `index`, whether it may say that or not.
pub fn signer(index: u8) -> Signer {
    Signer::new(secret(r(index)), GroupId(1)).by(SCHEME)
}

/// The replicas of a cluster of `n`.
pub fn members(n: usize) -> Members {
    let keys: Vec<_> = ReplicaId::all(n).map(|id| secret(id).public()).collect();
    Members::new(GroupId(1), keys)
}

/// Checks what replicas and clients of a cluster of `n` have signed; every client is admitted.
pub fn verifier(n: usize) -> Verifier {
    let verifier = Verifier::new(members(n)).by(SCHEME);
    verifier.admitting(Admission::Anyone)
}

/// What replica `me` of `n` is told when it comes to life; `seed` is where its randomness is from.
pub fn context(me: ReplicaId, n: usize, seed: u8) -> Context {
    let members = members(n);
    Context {
        me,
        signer: signer(me.0),
        verifier: verifier(n),
        members,
        seed: [seed; 32],
        wall_clock: WALL_CLOCK,
    }
}

/// A batch of one command, signed by its client, and the only one with this text: the session follows from it.
pub fn command(text: &str) -> Batch {
    let signer = Signer::new(SecretKey::from_seed([99; 32]), GroupId(1)).by(SCHEME);
    let client = signer.public();
    let Digest([a, b, c, d, e, f, g, h, ..]) = Digest::of(text.as_bytes());
    Batch::of_one(Request {
        session: SessionId {
            client,
            number: u64::from_le_bytes([a, b, c, d, e, f, g, h]),
        },
        sequence: 1,
        answered: 0,
        operation: Operation::Apply(text.as_bytes()),
    })
    .signed(&signer)
}

/// The commands in a batch, one after the other; the no-op is empty.
pub fn text(batch: &Batch) -> String {
    let commands = batch.requests().map(|request| match request.operation {
        Operation::Apply(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        other => format!("{other:?}"),
    });
    commands.collect()
}

/// A snapshot through `slot` of the only lane that nobody has taken, with the anchor given.
pub fn snapshot(slot: u64, anchor: Bytes) -> SnapshotRef {
    SnapshotRef {
        at: Frontier::single(Slot(slot)),
        digest: Digest::of(b"state"),
        anchor,
    }
}
