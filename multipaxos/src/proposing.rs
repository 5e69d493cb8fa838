//! What becomes of requests: they are proposed in the next slot, wait for one, or go to the leader.
//! [Lamport01 §3; vanRenesse15 §2]

use quorate_core::id::{ReplicaId, Slot, Time};
use quorate_core::protocol::Dest;
use quorate_core::quorum::Tally;
use quorate_core::request::Batch;

use crate::log::{Proposal, size};
use crate::message::Message;
use crate::mutant::Mutant;
use crate::progress::InFlight;
use crate::replica::{MultiPaxos, Out, Role};

impl MultiPaxos {
    /// Takes requests of this replica's clients: proposes them, or sends them to the leader.
    /// Without one they are dropped, and the driver proposes again.
    pub(crate) fn propose(&mut self, now: Time, batch: Batch, out: &mut Out) {
        match &self.role {
            Role::Leader(_) => {
                self.propose_within_bounds(now, (self.me, self.executed), batch, out);
            }
            Role::Follower(follower) => {
                if let Some(ballot) = follower.leader {
                    let (leader, seen) = (ballot.replica, self.executed);
                    out.send(Dest::One(leader), Message::Forward { seen, batch });
                }
            }
            Role::Candidate(_) => {}
        }
    }

    /// Takes requests of another replica's clients. Whoever does not lead drops them, rather
    /// than send them round in circles.
    pub(crate) fn forwarded(
        &mut self,
        now: Time,
        from: (ReplicaId, Slot),
        batch: Batch,
        out: &mut Out,
    ) {
        if matches!(self.role, Role::Leader(_)) {
            self.propose_within_bounds(now, from, batch, out);
        }
    }

    /// Takes requests as far as there is room for them; more are dropped, for without a quorum the
    /// log must not grow for ever. No replica goes without a place. Whoever asks again for what is
    /// proposed, and not chosen as far as it has seen, is told when it is.
    fn propose_within_bounds(
        &mut self,
        now: Time,
        (proposer, seen): (ReplicaId, Slot),
        batch: Batch,
        out: &mut Out,
    ) {
        let seen = match self.config.mutated(Mutant::DecidedForgotten) {
            true => self.executed,
            false => seen,
        };
        let Role::Leader(leader) = &mut self.role else {
            return;
        };
        if let Some(slot) = leader.under_way.holding(&batch, seen)
            && !self.config.mutated(Mutant::ProposedWhileUnderWay)
        {
            if proposer != self.me {
                leader.forwarded.insert((slot, proposer));
            }
            return;
        }
        let most = match self.config.mutated(Mutant::UnchosenWithoutBound) {
            true => usize::MAX,
            false => self.config.max_unchosen_bytes,
        };
        let room = most.saturating_sub(leader.unchosen_bytes);
        let at_once = leader.queue.front().is_none() && room > 0;
        if batch.is_empty()
            || at_once && self.propose_in_next_slot(now, proposer, batch.clone(), out)
        {
            return;
        }
        if let Role::Leader(leader) = &mut self.role {
            leader.queue.push(proposer, batch, room);
        }
        self.propose_queued(now, out);
    }

    /// Proposes what has waited longest, as far as the window reaches.
    pub(crate) fn propose_queued(&mut self, now: Time, out: &mut Out) {
        while let Role::Leader(leader) = &self.role
            && leader.unchosen_bytes < self.config.max_unchosen_bytes
            && let Some((proposer, batch)) = leader.queue.front().cloned()
            && self.propose_in_next_slot(now, proposer, batch, out)
        {
            if let Role::Leader(leader) = &mut self.role {
                leader.queue.pop();
            }
        }
    }

    /// Proposes in the next slot, if the window reaches so far; tells whether it did. The value
    /// of a slot in this ballot never changes. [Lamport01 §2.2, §3]
    pub(crate) fn propose_in_next_slot(
        &mut self,
        now: Time,
        proposer: ReplicaId,
        batch: Batch,
        out: &mut Out,
    ) -> bool {
        let (ballot, window) = (self.promised, self.window());
        let Role::Leader(leader) = &mut self.role else {
            return false;
        };
        let slot = leader.next;
        let bytes = size(&batch);
        let proposal = Proposal { slot, batch };
        if !self.log.accept(ballot, proposal.clone(), window) {
            return false;
        }
        leader.next = slot.next();
        leader.unchosen_bytes += bytes;
        leader.under_way.enter(slot, &proposal.batch);
        let mut acceptors = Tally::default();
        if self.config.mutated(Mutant::OwnAcceptanceCountedEarly) {
            acceptors.count(self.me);
        }
        leader.in_flight.push(InFlight {
            acceptors,
            sent: now,
        });
        if proposer != self.me {
            leader.forwarded.insert((slot, proposer));
        }
        self.persist_accepted(ballot, vec![proposal], out);
        true
    }

    /// A replica waits until all slots through one are chosen. Those that nobody has proposed in
    /// get a no-op: what a quorum read has seen there was not chosen, or this leader would have
    /// found it.
    pub(crate) fn awaits(&mut self, now: Time, from: ReplicaId, through: Slot, out: &mut Out) {
        while let Role::Leader(leader) = &self.role
            && leader.next <= through
        {
            if !self.propose_in_next_slot(now, self.me, Batch::noop(), out) {
                break;
            }
        }
        let executed = self.executed;
        if let Role::Leader(leader) = &mut self.role
            && let Some(progress) = leader.progress.get_mut(from.index())
            && from != self.me
        {
            progress.awaits = through;
            leader.wake(executed);
        }
    }
}
