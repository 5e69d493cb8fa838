//! The failure-free path: requests, proposals, votes, certificates, commits. [Yin19 §5]

use std::collections::BTreeSet;

use quorate_core::crypto::Digest;
use quorate_core::id::{EntryId, ReplicaId, Slot, Time};
use quorate_core::protocol::{Commit, Dest};
use quorate_core::request::Batch;

use crate::blocks::{Block, BlockId, NoPath, View};
use crate::certificate::{QuorumCertificate, Vote};
use crate::evidence::{Evidence, Statement};
use crate::message::{Message, Proposal};
use crate::mutant::Mutant;
use crate::record::Record;
use crate::replica::{Candidate, Hotstuff, Out};
use crate::standing::Step;

/// Requests.
impl Hotstuff {
    /// Takes requests of this replica's clients. At the end of the turn they are proposed, or all
    /// are told of them.
    pub(crate) fn take_requests(&mut self, now: Time, batch: &Batch) {
        if batch.is_empty() {
            return;
        }
        let (digest, me) = (batch.digest(), self.me);
        let seen = self.tree.head().height;
        if !self.mempool.tell_again(&digest) {
            self.mempool
                .add(now, me, (batch, digest), seen, &self.config);
        }
    }

    /// Takes requests of another replica's clients.
    pub(crate) fn forwarded(&mut self, now: Time, from: ReplicaId, batch: &Batch, seen: Slot) {
        let digest = batch.digest();
        self.mempool
            .add(now, from, (batch, digest), seen, &self.config);
    }

    fn tell_requests(&mut self, proposed: &[Digest], out: &mut Out) {
        let seen = self.tree.head().height;
        for batch in self.mempool.take_untold(proposed, &self.config) {
            let to = match self.config.mutated(Mutant::RequestsToLeaderOnly) {
                true => Dest::One(self.leader_of(self.view).unwrap_or(self.me)),
                false => Dest::Others,
            };
            out.send(to, Message::Forward { batch, seen });
        }
    }
}

/// As the leader of a view.
impl Hotstuff {
    /// Proposes, if this replica leads and there is something to do, so that all that came in a
    /// turn shares a block; and says what nobody else says.
    pub(crate) fn end_turn(&mut self, out: &mut Out) {
        let proposed = self.propose(out);
        if self.reserving == self.view && self.reserved < self.view {
            // What is to be said goes with the proposal, as soon as that may leave.
            return;
        }
        if proposed.is_none() && self.leads() && std::mem::take(&mut self.untold) {
            // Nothing waits for another block, whose proposal would have carried it.
            out.send(Dest::Others, Message::Certified(self.high.clone()));
        }
        self.tell_requests(&proposed.unwrap_or_default(), out);
    }

    /// "The leader of the view extends the branch of the highest certificate." Empty blocks are
    /// proposed only as long as requests below them wait to be committed. Gives the digests of
    /// the batches proposed. [Yin19 §5]
    fn propose(&mut self, out: &mut Out) -> Option<Vec<Digest>> {
        let view = self.view;
        if !self.leads() || self.proposed >= view || self.promised.timed_out >= view {
            return None;
        }
        let by_certificate = self.high.view().next() == view;
        let entered = self.entered.clone().filter(|tc| tc.view.next() == view);
        if !by_certificate && entered.is_none() {
            return None;
        }
        let timeout = entered.filter(|_| !by_certificate);
        let parent = self.high.block;
        let (branch, waits) = self.branch(&parent)?;
        let (payload, held_back) = match self.may_hold_requests(view, &parent) {
            true => {
                let room = self.config.max_block_bytes;
                (self.mempool.next_batches(&branch, room), false)
            }
            false => (Vec::new(), !self.mempool.is_empty()),
        };
        if payload.is_empty() && !waits && !held_back {
            return None;
        }
        if self.reserved != view {
            self.reserve(view, out);
            return None;
        }
        let standing = self.standing_after(&Step {
            parent,
            signers: self.high.signers().collect(),
            view,
            leader: self.me,
        })?;
        self.untold = false;
        let block = Block::with(view, parent, standing, payload);
        let batches = block.batches().to_vec();
        self.proposed = view;
        let proposal = Proposal::signed(&self.signer, block, self.high.clone(), timeout);
        out.send(Dest::All, Message::Proposal(Box::new(proposal)));
        Some(batches)
    }

    /// Whether a block of `view` on `parent` may have requests: there are bounds on the blocks with
    /// requests that wait to be committed, and on the turns in a row that certify nothing, each of
    /// which may leave a block that must be kept.
    fn may_hold_requests(&self, view: View, parent: &BlockId) -> bool {
        let turn = |view| self.config.leaders.turn(view);
        let Ok(path) = self.tree.path(parent) else {
            return false;
        };
        let full = path.iter().filter(|block| !block.is_empty()).count() as u64;
        let skipped = turn(view).saturating_sub(turn(parent.view));
        full < self.config.max_uncommitted && skipped <= self.config.max_uncommitted
    }

    /// Writes that this replica may propose in `view`, so that it does not propose in it again
    /// after a restart. That the word to itself has come back says that this is durable.
    fn reserve(&mut self, view: View, out: &mut Out) {
        if self.promised.proposed < view {
            self.promised.proposed = view;
            self.reserving = view;
            out.persist(Record::Proposed(view));
            out.send(Dest::One(self.me), Message::Reserved(view));
        }
    }

    /// This replica's word to itself has come back.
    pub(crate) fn reserved(&mut self, from: ReplicaId, view: View) {
        if from == self.me {
            self.reserved = self.reserved.max(view);
        }
    }

    /// The batches in the blocks through `tip` that are not committed, and whether there are any;
    /// none if the branch is not here. A batch that is in the branch must not be in it again.
    pub(crate) fn branch(&self, tip: &BlockId) -> Option<(BTreeSet<Digest>, bool)> {
        let path = self.tree.path(tip).ok()?;
        let waits = path.iter().any(|block| !block.is_empty());
        let batches = path.iter().flat_map(|block| block.batches()).copied();
        match self.config.mutated(Mutant::BranchNotLookedAt) {
            true => Some((BTreeSet::new(), waits)),
            false => Some((batches.collect(), waits)),
        }
    }
}

/// As any replica.
impl Hotstuff {
    /// Takes a proposal. [Yin19 §5]
    pub(crate) fn proposal(
        &mut self,
        now: Time,
        from: ReplicaId,
        proposal: Proposal,
        out: &mut Out,
    ) {
        let Proposal {
            block,
            certificate,
            timeout,
            signature,
        } = proposal;
        let id = block.id();
        let leader = self.leader_on(&block.parent(), id.view);
        if leader.is_some_and(|leader| leader != from) {
            return;
        }
        // It has shown that its view has begun.
        let current = self.view.max(id.view);
        let signed = (id, signature);
        let first = self.note(from, (Statement::Proposal, current), signed, out);
        let counts = first || self.config.mutated(Mutant::VotesAgain);
        let fits = !matches!(self.tree.path(&block.parent()), Err(NoPath::Elsewhere));
        let counts = counts && fits && self.is_within_bounds(&block, current);
        if counts {
            self.keep_proposed(now, from, block, out);
        }
        let signers = certificate.signers().collect();
        self.sync.proposed_by(from);
        self.certified(now, certificate, out);
        if let Some(certificate) = timeout.clone() {
            self.timed_out(now, certificate, out);
        }
        if counts && id.view == self.view {
            let candidate = Candidate {
                block: id,
                signers,
                timeout,
            };
            self.candidates.insert(from, candidate);
            self.vote_for_candidates(now, out);
        }
    }

    /// Whether a block that is proposed has no more bytes than it may, and is not of a view so
    /// long past that this replica would not see what else its proposer has signed in it.
    fn is_within_bounds(&self, block: &Block, current: View) -> bool {
        let few = block.size() <= self.config.max_block_bytes || block.payload().len() == 1;
        let few = few || self.config.mutated(Mutant::BlockSizeUnchecked);
        few && Evidence::covers(block.view(), current)
    }

    /// Keeps a block that its leader has proposed, and its requests: if it is abandoned, another
    /// leader proposes them.
    fn keep_proposed(&mut self, now: Time, from: ReplicaId, block: Block, out: &mut Out) {
        for (batch, digest) in block.payload().iter().zip(block.batches()) {
            let known = (batch, *digest);
            self.mempool.add(now, from, known, Slot::ZERO, &self.config);
        }
        if self.tree.insert(block.id(), block) {
            self.bound_tree();
            self.settle(out);
        }
    }

    /// Votes for a block proposed in this view, if one is to be voted for.
    pub(crate) fn vote_for_candidates(&mut self, now: Time, out: &mut Out) {
        let view = self.view;
        for (from, candidate) in std::mem::take(&mut self.candidates) {
            if candidate.block.view != view {
                continue;
            }
            let Some(block) = self.tree.block(&candidate.block.digest).cloned() else {
                continue;
            };
            match self.tree.path(&block.parent()) {
                Ok(_) => self.consider(now, (from, &candidate), block, out),
                Err(NoPath::Missing(_)) => {
                    self.candidates.insert(from, candidate);
                }
                Err(NoPath::Elsewhere) => {}
            }
        }
    }

    /// Votes for a block whose ancestors are here, if its proposer leads, and the rules and what
    /// this replica has promised allow it. [Yin19 §5]
    fn consider(
        &mut self,
        now: Time,
        (from, candidate): (ReplicaId, &Candidate),
        block: Block,
        out: &mut Out,
    ) {
        let (id, parent) = (candidate.block, block.parent());
        let voted = self.promised.voted.view >= id.view;
        let gave_up = self.promised.timed_out >= id.view;
        if voted && !self.config.mutated(Mutant::VotesAgain)
            || gave_up && !self.config.mutated(Mutant::VotesAfterTimeout)
        {
            return;
        }
        let full = !block.is_empty() && !self.may_hold_requests(id.view, &parent);
        if full || !self.is_in_turn(from, candidate, &block) {
            return;
        }
        let justified_by = candidate.timeout.as_ref();
        let lock = self.promised.locked;
        if !self.rules.votes(&block, justified_by, &lock, &self.tree) {
            return;
        }
        if self.leader_leaves_out(now, &block) {
            return self.give_up(out);
        }
        self.vote_for(block, out);
    }

    /// Whether `from` leads the view of the block that it proposes, and says in it how leaders
    /// stand. [Cohen22]
    fn is_in_turn(&self, from: ReplicaId, candidate: &Candidate, block: &Block) -> bool {
        let (view, parent) = (block.view(), block.parent());
        let step = Step {
            parent,
            signers: candidate.signers,
            view,
            leader: from,
        };
        let stands = self.standing_after(&step).as_ref() == Some(block.standing());
        let stands = stands || self.config.mutated(Mutant::StandingUnchecked);
        self.leader_on(&parent, view) == Some(from) && stands
    }

    fn vote_for(&mut self, block: Block, out: &mut Out) {
        let id = block.id();
        self.promised.voted = id;
        self.open.insert(id.view, id.digest);
        out.persist(Record::Block(block));
        out.persist(Record::Voted(id));
        let Some(next) = self.leader_on(&id, id.view.next()) else {
            return;
        };
        if next == self.me {
            // With the vote, so that the proposal that follows from it need not wait for the disk.
            self.reserve(id.view.next(), out);
        }
        let vote = Vote::signed(&self.signer, id);
        out.send(Dest::One(next), Message::Vote(vote));
    }

    /// Whether a leader of many views has left out a batch for too long, while it had others
    /// ordered.
    fn leader_leaves_out(&self, now: Time, block: &Block) -> bool {
        let patience = self.patience().max(self.config.request_timeout);
        if self.pacemaker.leader_since + patience > now {
            return false;
        }
        let Some((mut branch, _)) = self.branch(&block.parent()) else {
            return false;
        };
        branch.extend(block.batches());
        let limit = Time(now.0.saturating_sub(patience.as_nanos() as u64));
        self.mempool.is_left_out(&branch, limit)
    }

    /// Takes a vote, and makes a certificate of 2f + 1. Of each replica the last one counts: it
    /// has no use for the earlier. [Yin19 §5]
    pub(crate) fn vote(&mut self, now: Time, from: ReplicaId, vote: Vote, out: &mut Out) {
        let id = vote.block;
        let signed = (id, vote.signature);
        self.note(from, (Statement::Vote, self.view), signed, out);
        let last = self.votes.iter().find(|(voter, _)| *voter == from);
        if id.view <= self.high.view() || last.is_some_and(|(_, l)| l.block.view > id.view) {
            return;
        }
        if !self.config.mutated(Mutant::DuplicateVotesCounted) {
            self.votes.retain(|(voter, _)| *voter != from);
        }
        self.votes.push((from, vote));
        let same = self.votes.iter().filter(|(_, vote)| vote.block == id);
        let votes = same.map(|(voter, vote)| (*voter, vote.signature)).collect();
        if let Some(certificate) = QuorumCertificate::of(id, votes, self.strong()) {
            self.votes.retain(|(_, vote)| vote.block.view > id.view);
            self.certified(now, certificate, out);
            // Only who leads the next view tells the others, and may not know yet that it does.
            self.untold = true;
        }
    }

    /// A block is certified: the highest certificate is what leaders extend, and begins the next
    /// view; locks and commits follow from it. [Yin19 §5]
    pub(crate) fn certified(&mut self, now: Time, certificate: QuorumCertificate, out: &mut Out) {
        let (view, block) = (certificate.view(), certificate.block);
        if view == self.high.view() && block != self.high.block {
            self.conflict.get_or_insert((block, self.high.block));
        }
        let newer = view > self.high.view();
        if newer {
            self.untold = false;
            self.open = self.open.split_off(&view.next());
            out.persist_with_next(Record::Certified(certificate.clone()));
            self.high = certificate;
        }
        if self.tree.contains(&block.digest) {
            self.lock(&block, out);
        }
        if !newer {
            return;
        }
        if view >= self.view {
            self.enter(now, view.next(), None, out);
        }
        self.settle(out);
    }

    /// Locks, never on an earlier view than before. [Yin19 §4.4]
    fn lock(&mut self, certified: &BlockId, out: &mut Out) {
        let lock = self.rules.locks(certified, &self.tree);
        let later = |lock: &BlockId| {
            lock.view > self.promised.locked.view || self.config.mutated(Mutant::LockNotMonotonic)
        };
        if let Some(lock) = lock.filter(later) {
            self.promised.locked = lock;
            out.persist_with_next(Record::Locked(lock));
        }
    }

    /// Draws the consequences of the highest certificate, as far as the blocks below it are here;
    /// asks for those that are not.
    pub(crate) fn settle(&mut self, out: &mut Out) {
        let tip = self.high.block;
        if tip.height <= self.tree.head().height {
            return self.sync.done();
        }
        match self.tree.path(&tip) {
            Err(NoPath::Missing(missing)) => self.ask_for_block(&missing, out),
            Err(NoPath::Elsewhere) => {
                self.conflict.get_or_insert((tip, self.tree.head()));
            }
            Ok(path) => {
                // Each block is certified by the certificate that its child came with.
                let mut ids = path.iter().rev().map(|block| block.id());
                let last = ids.find_map(|id| self.rules.commits(&id, &self.tree));
                self.sync.done();
                self.lock(&tip, out);
                if let Some(last) = last {
                    self.commit_through(&last, out);
                }
            }
        }
    }

    /// Hands over for execution what is committed, parents first. Every block takes the slot of
    /// its height, an empty one too: so slots, links and checkpoints are counted alike.
    fn commit_through(&mut self, last: &BlockId, out: &mut Out) {
        let Ok(path) = self.tree.path(last) else {
            return;
        };
        let blocks: Vec<Block> = path.into_iter().cloned().collect();
        if !blocks.is_empty() {
            self.pacemaker.committed();
        }
        for block in blocks {
            let id = block.id();
            self.tree.commit(id);
            for known in block.payload().iter().zip(block.batches()) {
                self.mempool.committed(known, id.height);
            }
            out.persist_with_next(Record::Committed(id));
            out.commit(Commit {
                id: EntryId::single(id.height),
                batch: block.requests(),
                checkpoint: self.is_checkpoint(id.height),
                agreed: None,
            });
        }
    }

    /// Drops blocks that lead nowhere, if there are too many, or too many bytes.
    fn bound_tree(&mut self) {
        let mut most = (self.config.max_blocks, self.config.max_blocks_bytes);
        if self.config.mutated(Mutant::BlockBytesUnbounded) {
            most.1 = usize::MAX;
        }
        if self.tree.len() <= most.0 && self.tree.bytes() <= most.1 {
            return;
        }
        let needed = [self.high.block, self.promised.voted, self.promised.locked];
        // Where ancestors are being fetched, those that are here already are needed as well.
        let branches = needed.iter().flat_map(|tip| self.tree.branch(tip));
        let kept = branches.map(|block| block.id().digest);
        let open = match self.config.mutated(Mutant::OpenBlocksDropped) {
            true => None,
            false => Some(self.open.values().copied()),
        };
        let kept: Vec<Digest> = kept.chain(open.into_iter().flatten()).collect();
        self.tree.bound(most, self.view, &kept);
    }
}
