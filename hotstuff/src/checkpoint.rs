//! Checkpoints and state transfer: at every K-th height all replicas take a snapshot, and say
//! which state they have, signed; 2f + 1 equal ones prove it. Not in the HotStuff papers; the scheme
//! is that of [Castro99 §4.3], on heights of the committed chain.

use std::collections::BTreeMap;

use quorate_core::checkpoint::{CheckpointVotes, proof_in, signer_to_ask};
use quorate_core::codec;
use quorate_core::crypto::Digest;
use quorate_core::frontier::Frontier;
use quorate_core::id::{ReplicaId, Slot, Time};
use quorate_core::protocol::{Dest, Fetch, SnapshotRef};

use crate::blocks::BlockId;
use crate::certificate::{CheckpointCertificate, CheckpointVote};
use crate::message::Message;
use crate::mutant::Mutant;
use crate::record::Durable;
use crate::replica::{Hotstuff, Out};

/// How many checkpoints of a replica are kept, the latest.
const KEPT: usize = 4;

/// What is known of checkpoints that are not stable here yet.
#[derive(Debug)]
pub(crate) struct Checkpoints {
    /// The votes, by the heights of the blocks.
    votes: CheckpointVotes<(BlockId, Digest)>,
    /// This replica's own, durable.
    own: BTreeMap<Slot, (BlockId, Digest)>,
    /// The first and the latest that are proved, but whose state is not durable here yet.
    certified: BTreeMap<Slot, CheckpointCertificate>,
    /// The latest that f + 1 have signed, beyond what was committed here then: one of them is
    /// correct, and has the state. [Castro02]
    weak: Option<CheckpointCertificate>,
    /// How often this replica has asked for a state.
    attempt: usize,
    /// The height of a proved checkpoint that this replica's own contradicts.
    pub(crate) diverged: Option<Slot>,
}

impl Checkpoints {
    pub(crate) fn of(n: usize) -> Checkpoints {
        Checkpoints {
            votes: CheckpointVotes::new(n, KEPT),
            own: BTreeMap::new(),
            certified: BTreeMap::new(),
            weak: None,
            attempt: 0,
            diverged: None,
        }
    }

    /// Whether this replica's own state at a proved checkpoint is another one.
    fn compare(&mut self, certificate: &CheckpointCertificate) {
        let own = self.own.get(&certificate.height());
        if own.is_some_and(|own| *own != (certificate.block, certificate.state)) {
            self.diverged = Some(certificate.height());
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

impl Hotstuff {
    pub(crate) fn is_checkpoint(&self, height: Slot) -> bool {
        height > Slot::ZERO && height.0.is_multiple_of(self.config.checkpoint_every)
    }

    /// The height of the last stable checkpoint.
    pub(crate) fn stable_height(&self) -> Slot {
        let stable = self.stable.as_ref();
        stable.map_or(Slot::ZERO, CheckpointCertificate::height)
    }

    /// A snapshot of this replica's is durable: all are told of it, if it is a checkpoint.
    pub(crate) fn snapshotted(&mut self, snapshot: &SnapshotRef, out: &mut Out) {
        let height = snapshot.at.slot();
        if height <= self.snapshot || height > self.tree.head().height {
            return;
        }
        self.snapshot = height;
        if let Some((block, state)) = self.remember_checkpoint(snapshot) {
            let vote = CheckpointVote::signed(&self.signer, block, state);
            out.send(Dest::All, Message::Checkpoint(vote));
            if let Some(certificate) = self.checkpoints.certified.get(&height).cloned() {
                self.checkpoints.compare(&certificate);
            }
        }
        self.stabilise(out);
    }

    /// Takes note of a durable state of this replica's, if it is one that others are told of.
    pub(crate) fn remember_checkpoint(
        &mut self,
        snapshot: &SnapshotRef,
    ) -> Option<(BlockId, Digest)> {
        let height = snapshot.at.slot();
        if !self.is_checkpoint(height) || height <= self.stable_height() {
            return None;
        }
        let own = (self.tree.committed_at(height)?, snapshot.digest);
        self.checkpoints.own.insert(height, own);
        if self.checkpoints.own.len() > KEPT {
            self.checkpoints.own.pop_first();
        }
        Some(own)
    }

    /// This replica's word on its checkpoints after `stable`.
    pub(crate) fn own_checkpoints_after(&self, stable: Slot) -> Vec<CheckpointVote> {
        let own = self.checkpoints.own.range(stable.next()..);
        let own = own.map(|(_, (block, state))| (*block, *state));
        // Others may need this replica's word on a state that it has taken by f + 1 words.
        let taken = self.stable.iter().filter(|taken| !taken.is_strong(self.n));
        let taken = taken.filter(|taken| taken.height() > stable);
        let taken = taken.map(|taken| (taken.block, taken.state));
        taken
            .chain(own)
            .map(|(block, state)| CheckpointVote::signed(&self.signer, block, state))
            .collect()
    }

    /// After a restart, says again what this replica has said, to itself too.
    pub(crate) fn say_checkpoints_again(&self, out: &mut Out) {
        for vote in self.own_checkpoints_after(self.stable_height()) {
            out.send(Dest::All, Message::Checkpoint(vote));
        }
    }

    /// Takes the word of a replica on its state; 2f + 1 equal ones are a proof.
    pub(crate) fn checkpoint(&mut self, from: ReplicaId, vote: &CheckpointVote, out: &mut Out) {
        let height = vote.block.height;
        if height <= self.stable_height() || !self.is_checkpoint(height) {
            return;
        }
        let (block, state, quorum) = (vote.block, vote.state, self.strong());
        let votes = &mut self.checkpoints.votes;
        let signatures = votes.count(from, (height, (block, state)), vote.signature);
        let weak = CheckpointCertificate::of(block, state, signatures.clone(), self.weak());
        if let Some(weak) = weak {
            self.checkpoint_weakly_certified(weak, out);
        }
        let proof = CheckpointCertificate::of(block, state, signatures, quorum);
        if let Some(certificate) = proof {
            self.checkpoint_certified(certificate, out);
        }
    }

    /// One of f + 1 is correct and has this state. Who has it too lets peers have it: those who had
    /// the last one proved may all have put this in its place, and be too few to prove it without
    /// the peer that needs it. [Castro02]
    fn checkpoint_weakly_certified(&mut self, weak: CheckpointCertificate, out: &mut Out) {
        let height = weak.height();
        if self.checkpoints.own.get(&height) == Some(&(weak.block, weak.state))
            && let Ok(anchor) = codec::encode(&weak)
        {
            out.offer(Frontier::single(height), anchor.into());
        }
        let known = self.checkpoints.weak.as_ref();
        if known.is_none_or(|known| height > known.height()) && height > self.tree.head().height {
            self.checkpoints.weak = Some(weak);
        }
    }

    /// The last stable checkpoint, if it is one that lets others drop what came before.
    pub(crate) fn strongly_stable(&self) -> Option<&CheckpointCertificate> {
        self.stable
            .as_ref()
            .filter(|stable| stable.is_strong(self.n))
    }

    /// A checkpoint is proved. It is stable here as soon as the state is. One that lies ahead of
    /// all that is committed here is fetched: whoever has proved it may have dropped the blocks.
    pub(crate) fn checkpoint_certified(
        &mut self,
        certificate: CheckpointCertificate,
        out: &mut Out,
    ) {
        let height = certificate.height();
        if height <= self.stable_height() || !self.is_checkpoint(height) {
            return;
        }
        self.checkpoints.compare(&certificate);
        let certified = &mut self.checkpoints.certified;
        certified.insert(height, certificate);
        if certified.len() > 2 * KEPT {
            // The first, for this replica's snapshots may be late, and would else never meet one;
            // the latest, for it may have to fetch the state there.
            let middle = certified.keys().nth(KEPT).copied();
            middle.and_then(|middle| certified.remove(&middle));
        }
        self.fetch_state(out);
        self.stabilise(out);
    }

    /// Asks for the state at the last checkpoint proved, if this replica is so far behind that the
    /// blocks may be gone: whoever signed has had it.
    ///
    /// Each attempt asks another: whoever does not answer is given up by the driver, which then
    /// takes the next. Every other attempt is for a later state that f + 1 have, if there is one.
    pub(crate) fn fetch_state(&mut self, out: &mut Out) {
        let last = self.checkpoints.certified.values().next_back();
        let Some(certificate) = last.filter(|c| c.height() > self.tree.head().height) else {
            return;
        };
        let attempt = self.checkpoints.attempt;
        let later = self.checkpoints.weak.as_ref();
        let later = later.filter(|weak| weak.height() > certificate.height());
        let certificate = later.filter(|_| attempt % 2 == 1).unwrap_or(certificate);
        if let Some(from) = signer_to_ask(attempt, certificate.signers(), self.me) {
            out.fetch(Fetch {
                from,
                at_least: Frontier::single(certificate.height()),
            });
        }
        self.checkpoints.attempt = attempt.wrapping_add(1);
    }

    /// The last checkpoint that is proved, and whose state is durable here, is stable: blocks and
    /// records before it go.
    fn stabilise(&mut self, out: &mut Out) {
        let durable = self.checkpoints.certified.range(..=self.snapshot);
        let Some(certificate) = durable.last().map(|(_, c)| c.clone()) else {
            return;
        };
        self.begin_after(certificate, out);
    }

    fn begin_after(&mut self, certificate: CheckpointCertificate, out: &mut Out) {
        self.tree.compact_through(certificate.block);
        self.checkpoints.settle(certificate.height());
        self.stable = Some(certificate);
        self.rewrite(out);
        self.offer_snapshot(out);
    }

    /// The state machine now is a state of other replicas', with its proof.
    pub(crate) fn installed(&mut self, now: Time, snapshot: &SnapshotRef, out: &mut Out) {
        let Ok(certificate) = certificate_of(snapshot) else {
            return;
        };
        if certificate.height() <= self.tree.head().height {
            return;
        }
        self.snapshot = certificate.height();
        // Which requests have been executed is in the state, and the driver's to know.
        self.mempool.keep_own(self.me);
        self.begin_after(certificate, out);
        for vote in self.own_checkpoints_after(Slot::ZERO) {
            out.send(Dest::All, Message::Checkpoint(vote));
        }
        self.settle(out);
        self.vote_for_candidates(now, out);
    }

    /// Writes the whole durable state anew.
    pub(crate) fn rewrite(&self, out: &mut Out) {
        let durable = Durable {
            stable: self.stable.clone(),
            blocks: self.tree.blocks().cloned().collect(),
            promised: self.promised.clone(),
            high: self.high.clone(),
            entered: self.entered.clone(),
            committed: self.tree.committed().map(|id| (id.height, id)).collect(),
        };
        out.rewrite(durable.records());
    }

    /// Lets peers have the state at the stable checkpoint, with its proof.
    pub(crate) fn offer_snapshot(&self, out: &mut Out) {
        if let Some(certificate) = &self.stable
            && let Ok(anchor) = codec::encode(certificate)
        {
            out.offer(Frontier::single(certificate.height()), anchor.into());
        }
    }

    /// Whether a state is that of a checkpoint that a correct replica has.
    pub(crate) fn believes(&self, snapshot: &SnapshotRef) -> bool {
        if self.config.mutated(Mutant::SnapshotWithoutCertificate) {
            return true;
        }
        certificate_of(snapshot).is_ok_and(|proof| proof.verify_weak(&self.verifier).is_ok())
    }
}

/// The certificate in a snapshot's anchor, if it is one for this snapshot.
pub(crate) fn certificate_of(snapshot: &SnapshotRef) -> Result<CheckpointCertificate, String> {
    proof_in(snapshot, |proof: &CheckpointCertificate| {
        (proof.height(), proof.state)
    })
}
