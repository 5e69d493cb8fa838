//! What a replica says of itself.

use bytes::Bytes;

use crate::crypto::Digest;
use crate::frontier::Frontier;
use crate::id::ReplicaId;
use crate::ledger::Ledger;
use crate::machine::StateMachine;
use crate::protocol::{Dest, Message as _, Protocol, Status};

use super::Replica;
use super::effects::Halt;

impl<P: Protocol, S: StateMachine> Replica<P, S> {
    /// Notes that `message` left for `to` in a frame of `bytes`.
    pub fn count_sent(&mut self, to: Dest, message: &P::Message, bytes: usize) {
        let copies = match to {
            Dest::One(_) => 1,
            Dest::Others | Dest::All => self.n - 1,
        };
        self.ledger.count_sent(message.kind(), bytes, copies);
    }

    /// What this replica has spent since it started.
    pub fn ledger(&self) -> Ledger {
        Ledger {
            requests: self.execution.requests(),
            signatures_made: self.signer.made(),
            signatures_checked: self.verifier.checked(),
            ..self.ledger.clone()
        }
    }

    /// All replicas but this one.
    pub fn others(&self) -> impl Iterator<Item = ReplicaId> + use<P, S> {
        let me = self.me;
        ReplicaId::all(self.n).filter(move |replica| *replica != me)
    }

    /// Where this replica stands.
    pub fn status(&self) -> Status {
        self.protocol.status()
    }

    /// The protocol, to be looked at.
    pub fn protocol(&self) -> &P {
        &self.protocol
    }

    /// The state machine, to be looked at.
    pub fn machine(&self) -> &S {
        self.execution.machine()
    }

    /// What has been executed.
    pub fn applied(&self) -> &Frontier {
        self.execution.applied()
    }

    /// How many entries have been executed, those in snapshots included.
    pub fn executed(&self) -> u64 {
        self.execution.entries()
    }

    /// How many sessions have been opened, as far as this replica has executed: what a client must
    /// say that opens another and signs it.
    pub fn opened(&self) -> u64 {
        self.execution.opened()
    }

    /// How many requests and reads are under way through this node.
    pub fn under_way(&self) -> usize {
        self.pending.len() + self.reads.len()
    }

    /// Sessions and application state, as snapshots hold them.
    pub fn state(&self) -> Result<Bytes, Halt> {
        self.execution.body(&self.settings)
    }

    /// How many entries have been executed, and the digest of the state that they made: equal
    /// numbers have equal digests on all replicas of a protocol with a total order.
    pub fn digest(&self) -> Result<(u64, Digest), Halt> {
        let digest = self.execution.digest(&self.settings)?;
        Ok((self.executed(), digest))
    }
}
