//! Checkpoints, watermarks and state transfer. [Castro99 §4.3, §5.3; Castro02 §5.3]

use std::collections::BTreeMap;

use quorate_core::checkpoint::{CheckpointVotes, proof_in, signer_to_ask};
use quorate_core::codec;
use quorate_core::crypto::Digest;
use quorate_core::frontier::Frontier;
use quorate_core::id::{ReplicaId, Slot, Time};
use quorate_core::protocol::{Dest, Fetch, SnapshotRef};

use crate::certificate::{CheckpointCertificate, sign_checkpoint};
use crate::config::Config;
use crate::message::{CheckpointVote, Message};
use crate::mutant::Mutant;
use crate::record;
use crate::replica::{Out, Pbft};

/// What is known of checkpoints that are not stable here yet.
#[derive(Debug)]
pub(crate) struct Checkpoints {
    /// The votes: of each replica as many as a correct one has between the watermarks, and some
    /// that are ahead.
    votes: CheckpointVotes<Digest>,
    /// This replica's own, durable.
    own: BTreeMap<Slot, Digest>,
    /// Proved, but the state is not durable here yet: those between the watermarks, and the last.
    certified: BTreeMap<Slot, CheckpointCertificate>,
    /// The slot of a proved checkpoint that this replica's own contradicts.
    pub(crate) diverged: Option<Slot>,
}

impl Checkpoints {
    pub(crate) fn of(n: usize, config: &Config) -> Checkpoints {
        let between = config.window / config.checkpoint_every.max(1);
        Checkpoints {
            votes: CheckpointVotes::new(n, between as usize + 2),
            own: BTreeMap::new(),
            certified: BTreeMap::new(),
            diverged: None,
        }
    }

    /// The latest checkpoint proved that is not stable here.
    pub(crate) fn last_certified(&self) -> Option<&CheckpointCertificate> {
        self.certified.values().next_back()
    }

    /// This replica's own checkpoints that are not stable.
    pub(crate) fn own(&self) -> impl Iterator<Item = (Slot, Digest)> {
        self.own.iter().map(|(slot, digest)| (*slot, *digest))
    }

    /// Whether this replica's own state at a proved checkpoint is another one.
    fn compare(&mut self, certificate: &CheckpointCertificate) {
        let own = self.own.get(&certificate.slot());
        if own.is_some_and(|digest| *digest != certificate.digest()) {
            self.diverged = Some(certificate.slot());
        }
    }

    /// Forgets what is at or before a stable checkpoint.
    fn settle(&mut self, stable: Slot) {
        let next = stable.next();
        self.votes.settle(stable);
        self.own = self.own.split_off(&next);
        self.certified = self.certified.split_off(&next);
    }
}

impl Pbft {
    /// "These checkpoints are produced periodically, when a request with a sequence number
    /// divisible by some constant is executed." [Castro99 §4.3]
    pub(crate) fn is_checkpoint(&self, slot: Slot) -> bool {
        slot > Slot::ZERO && slot.0.is_multiple_of(self.config.checkpoint_every)
    }

    /// A snapshot of this replica's is durable. "When a replica i produces a checkpoint, it
    /// multicasts a checkpoint message." [Castro99 §4.3]
    pub(crate) fn snapshotted(&mut self, now: Time, snapshot: &SnapshotRef, out: &mut Out) {
        let slot = snapshot.at.slot();
        if slot <= self.snapshot || slot > self.executed {
            return;
        }
        self.snapshot = slot;
        if self.is_checkpoint(slot) {
            self.checkpoints.own.insert(slot, snapshot.digest);
            let vote = self.own_checkpoint(slot, snapshot.digest);
            out.send(Dest::All, Message::Checkpoint(vote));
            let certified = self.checkpoints.certified.get(&slot).cloned();
            if let Some(certificate) = certified {
                self.checkpoints.compare(&certificate);
            }
        }
        self.stabilise(now, out);
    }

    /// Lets peers have the state that this replica started from, if that is later than the last stable
    /// one, which a restart has dropped: f + 1 that have signed it are enough to believe it. Else nobody
    /// may have a state for who lacks the stable one, whose vote the later one needs. [Castro99 §4.3]
    fn offer_restored(&mut self, vouched: &CheckpointCertificate, out: &mut Out) {
        let slot = vouched.slot();
        let own = self.checkpoints.own.get(&slot) == Some(&vouched.digest());
        if own && self.restored == Some(slot) && !self.config.mutated(Mutant::RestoredNotOffered) {
            self.restored = None;
            offer(vouched, out);
        }
    }

    /// Notes a durable state of this replica's from before a restart.
    pub(crate) fn remember_checkpoint(&mut self, snapshot: &SnapshotRef) {
        let slot = snapshot.at.slot();
        if slot > self.log.low() && self.is_checkpoint(slot) {
            self.checkpoints.own.insert(slot, snapshot.digest);
            self.restored = Some(slot);
        }
    }

    pub(crate) fn own_checkpoint(&self, slot: Slot, digest: Digest) -> CheckpointVote {
        CheckpointVote {
            slot,
            digest,
            signature: sign_checkpoint(&self.signer, slot, &digest),
        }
    }

    /// "Each replica collects checkpoint messages in its log until it has 2f + 1 of them for
    /// sequence number n with the same digest d signed by different replicas. These 2f + 1
    /// messages are the proof of correctness for the checkpoint." [Castro99 §4.3]
    pub(crate) fn checkpoint(
        &mut self,
        now: Time,
        from: ReplicaId,
        vote: &CheckpointVote,
        out: &mut Out,
    ) {
        if vote.slot <= self.log.low() || !self.is_checkpoint(vote.slot) {
            return;
        }
        let votes = &mut self.checkpoints.votes;
        let signatures = votes.count(from, (vote.slot, vote.digest), vote.signature);
        let quorum = self.strong();
        let vouched =
            CheckpointCertificate::of(vote.slot, vote.digest, signatures.clone(), self.weak());
        if let Some(vouched) = vouched {
            self.offer_restored(&vouched, out);
        }
        let proof = CheckpointCertificate::of(vote.slot, vote.digest, signatures, quorum);
        if let Some(certificate) = proof {
            self.certified(now, certificate, out);
        }
    }

    /// A checkpoint is proved. It is stable here as soon as the state is.
    pub(crate) fn certified(
        &mut self,
        now: Time,
        certificate: CheckpointCertificate,
        out: &mut Out,
    ) {
        let slot = certificate.slot();
        if slot <= self.log.low() || !self.is_checkpoint(slot) {
            return;
        }
        self.checkpoints.compare(&certificate);
        let beyond = slot > self.log.high();
        if beyond {
            // Only the last of those beyond the high watermark is of use.
            let last = self.checkpoints.last_certified();
            if last.is_some_and(|last| last.slot() >= slot) {
                return;
            }
            self.checkpoints
                .certified
                .split_off(&self.log.high().next());
        }
        self.checkpoints.certified.insert(slot, certificate);
        if beyond {
            self.fetch_state(out);
        }
        self.stabilise(now, out);
    }

    /// Asks for the state at the last checkpoint proved, if this replica has not come so far:
    /// whoever signed has had it. Another of them each round: one may be a liar, who takes the wish and
    /// never answers. [Castro99 §5.3; Castro02 §5.3]
    pub(crate) fn fetch_state(&self, out: &mut Out) {
        let attempt = match self.config.mutated(Mutant::OneSourceOfStates) {
            true => 0,
            false => self.peers.rounds(),
        };
        let Some(certificate) = self.checkpoints.last_certified() else {
            return;
        };
        if certificate.slot() > self.executed
            && let Some(from) = signer_to_ask(attempt, certificate.signers(), self.me)
        {
            out.fetch(Fetch {
                from,
                at_least: Frontier::single(certificate.slot()),
            });
        }
    }

    /// "When a checkpoint becomes stable, the replica discards all pre-prepare, prepare, and
    /// commit messages with sequence number less than or equal to n from its log; it also discards
    /// all earlier checkpoints", and the watermarks move. [Castro99 §4.3]
    fn stabilise(&mut self, now: Time, out: &mut Out) {
        let durable = self.checkpoints.certified.range(..=self.snapshot);
        let Some((slot, certificate)) = durable.last().map(|(s, c)| (*s, c.clone())) else {
            return;
        };
        self.stable = Some(certificate);
        self.log.compact_through(slot);
        self.ordered.compact_through(slot);
        self.checkpoints.settle(slot);
        self.rewrite(out);
        self.offer_snapshot(out);
        self.watermarks_moved(now, out);
    }

    /// There is room for more slots.
    fn watermarks_moved(&mut self, now: Time, out: &mut Out) {
        self.primary.next = self.primary.next.max(self.log.low().next());
        self.accept_settled(out);
        self.propose_queued(now, out);
        self.replay_early(now, out);
        self.execute(out);
    }

    /// The state machine now is a state of other replicas', with its proof. [Castro02 §5.3]
    pub(crate) fn installed(&mut self, now: Time, snapshot: &SnapshotRef, out: &mut Out) {
        let slot = snapshot.at.slot();
        let Ok(certificate) = certificate_of(snapshot) else {
            return;
        };
        if slot <= self.executed {
            return;
        }
        // Which requests have been executed is in the state, and the driver's to know.
        self.waiting.clear();
        self.primary.queue.executed(slot);
        self.executed = slot;
        if certificate.verify(&self.verifier).is_err() {
            // It is vouched for, but not stable: what was promised of its slots may be asked for yet.
            self.snapshotted(now, snapshot, out);
            return self.execute(out);
        }
        self.snapshot = slot;
        self.stable = Some(certificate);
        self.log.compact_through(slot);
        self.ordered.compact_through(slot);
        self.checkpoints.settle(slot);
        self.rewrite(out);
        self.offer_snapshot(out);
        self.watermarks_moved(now, out);
    }

    /// Writes the whole durable state anew.
    pub(crate) fn rewrite(&self, out: &mut Out) {
        let made = self.primary.made.as_ref();
        let made = made.filter(|made| made.view == self.view);
        let new_view = self.new_view.as_ref().or(made);
        out.rewrite(record::records(
            self.stable.as_ref(),
            self.view,
            new_view.map(AsRef::as_ref),
            &self.log,
        ));
    }

    /// Lets peers have the state at the stable checkpoint, with its proof.
    pub(crate) fn offer_snapshot(&self, out: &mut Out) {
        if let Some(certificate) = &self.stable {
            offer(certificate, out);
        }
    }

    /// Whether a state is that of a proved checkpoint, or f + 1 vouch for it.
    pub(crate) fn believes(&self, snapshot: &SnapshotRef) -> bool {
        if self.config.mutated(Mutant::SnapshotWithoutCertificate) {
            return true;
        }
        certificate_of(snapshot).is_ok_and(|proof| proof.vouches(&self.verifier).is_ok())
    }
}

fn offer(certificate: &CheckpointCertificate, out: &mut Out) {
    if let Ok(anchor) = codec::encode(certificate) {
        out.offer(Frontier::single(certificate.slot()), anchor.into());
    }
}

/// The certificate in a snapshot's anchor, if it is one for this snapshot.
pub(crate) fn certificate_of(snapshot: &SnapshotRef) -> Result<CheckpointCertificate, String> {
    proof_in(snapshot, |proof: &CheckpointCertificate| {
        (proof.slot(), proof.digest())
    })
}
