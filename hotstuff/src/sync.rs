//! Fetching what is missing: certified blocks by their digests, and what a replica learns from
//! others' statuses.
//!
//! A block that is asked for is named by a certificate, or is the parent of one that was; what
//! comes is believed if it has that digest, whoever sends it.

use quorate_core::checkpoint::signer_to_ask;
use quorate_core::crypto::Digest;
use quorate_core::id::{ReplicaId, Slot, Time};
use quorate_core::protocol::Dest;

use crate::blocks::{Block, BlockId};
use crate::message::{MAX_BLOCKS_AT_ONCE, Message, Status};
use crate::mutant::Mutant;
use crate::replica::{Hotstuff, Out, Timer};

/// What is being fetched, and what others were given.
#[derive(Debug)]
pub(crate) struct Sync {
    /// The block asked for last.
    wanted: Option<BlockId>,
    /// Who has proposed a block on what is missing, and has it.
    proposer: Option<ReplicaId>,
    /// How often this replica has asked without getting on.
    attempt: usize,
    /// How many statuses this replica has sent since it started.
    pub(crate) rounds: usize,
    given: Vec<Given>,
}

/// What a replica was given since the last status: nobody can ask for more.
#[derive(Clone, Debug, Default)]
struct Given {
    status: bool,
    blocks: usize,
    bytes: usize,
}

impl Sync {
    pub(crate) fn of(n: usize) -> Sync {
        Sync {
            wanted: None,
            proposer: None,
            attempt: 0,
            rounds: 0,
            given: vec![Given::default(); n],
        }
    }

    /// What may be missing now is there where a block on it was proposed.
    pub(crate) fn proposed_by(&mut self, proposer: ReplicaId) {
        self.proposer = Some(proposer);
    }

    /// Nothing is missing.
    pub(crate) fn done(&mut self) {
        (self.wanted, self.attempt) = (None, 0);
    }
}

/// Asking.
impl Hotstuff {
    /// Asks for a block that a certificate, or a block that is here, names: once, until a status
    /// is due, and who has just proposed a block on it, if anyone has. A liar that does so again and
    /// again is asked no more often for that.
    pub(crate) fn ask_for_block(&mut self, missing: &BlockId, out: &mut Out) {
        if self.sync.wanted != Some(*missing) {
            self.sync.wanted = Some(*missing);
            let proposer = self.sync.proposer.take();
            self.ask(proposer.filter(|proposer| *proposer != self.me), out);
        }
    }

    /// Asks `first`, or one of those who certified the highest block, another with each attempt:
    /// 2f + 1 have signed, and f + 1 of them are correct and have what they signed for.
    fn ask(&mut self, first: Option<ReplicaId>, out: &mut Out) {
        let Some(wanted) = self.sync.wanted else {
            return;
        };
        let signer = first.or_else(|| {
            let attempt = self.sync.attempt;
            self.sync.attempt = attempt.wrapping_add(1);
            signer_to_ask(attempt, self.high.signers(), self.me)
        });
        if let Some(signer) = signer {
            let (block, above) = (wanted.digest, self.tree.head().height);
            out.send(Dest::One(signer), Message::FetchBlocks { block, above });
        }
    }

    /// Takes blocks: the one asked for, its parent, and so on.
    pub(crate) fn blocks(&mut self, now: Time, blocks: Vec<Block>, out: &mut Out) {
        for block in blocks {
            let Some(wanted) = self.sync.wanted else {
                break;
            };
            let trusts = self.config.mutated(Mutant::UnverifiedAncestorTrusted);
            if block.id() != wanted && !trusts {
                break;
            }
            let parent = block.parent();
            self.tree.insert(wanted, block);
            let needed = parent.height > self.tree.head().height;
            self.sync.attempt = 0;
            self.sync.wanted = (needed && !self.tree.contains(&parent.digest)).then_some(parent);
        }
        match self.sync.wanted {
            Some(_) => self.ask(None, out),
            None => {
                self.settle(out);
                self.vote_for_candidates(now, out);
            }
        }
    }
}

/// Giving.
impl Hotstuff {
    /// Gives a block and its ancestors above a height, as far as they are kept and within what one
    /// replica may have between two statuses. What is gone is in a checkpoint.
    pub(crate) fn give_blocks(
        &mut self,
        to: ReplicaId,
        wanted: &Digest,
        above: Slot,
        out: &mut Out,
    ) {
        let Some(given) = self.sync.given.get_mut(to.index()) else {
            return;
        };
        let (mut blocks, mut digest) = (Vec::new(), *wanted);
        while let Some(block) = self.tree.block(&digest) {
            let bytes = given.bytes + block.size();
            let fits = bytes <= self.config.max_sync_bytes || given.bytes == 0;
            let count = self.config.max_sync_blocks.min(MAX_BLOCKS_AT_ONCE);
            if block.height() <= above || !fits || given.blocks >= count {
                break;
            }
            (given.blocks, given.bytes) = (given.blocks + 1, bytes.max(1));
            digest = block.parent().digest;
            blocks.push(block.clone());
        }
        if !blocks.is_empty() {
            out.send(Dest::One(to), Message::Blocks(blocks));
        }
        if let Some(stable) = self.strongly_stable().filter(|s| s.height() > above) {
            out.send(Dest::One(to), Message::Stable(stable.clone()));
        }
    }

    /// Tells one other replica what is here, each time another, and asks again for what is missing.
    pub(crate) fn status_is_due(&mut self, now: Time, out: &mut Out) {
        out.arm(Timer::Status, now + self.config.status_every);
        self.sync.given.fill(Given::default());
        let others: Vec<ReplicaId> = ReplicaId::all(self.n).filter(|r| *r != self.me).collect();
        let place = self.sync.rounds % others.len().max(1);
        self.sync.rounds = self.sync.rounds.wrapping_add(1);
        if let Some(other) = others.get(place) {
            let status = Message::Status(self.own_status());
            out.send(Dest::One(*other), status);
        }
        self.ask(None, out);
        self.fetch_state(out);
    }

    fn own_status(&self) -> Status {
        Status {
            view: self.view,
            high: self.high.view(),
            committed: self.tree.head().height,
            stable: self.stable_height(),
        }
    }

    /// Sends a replica what it lacks; one that is ahead is told what is here, for it to do the
    /// same.
    pub(crate) fn status(&mut self, from: ReplicaId, status: &Status, out: &mut Out) {
        let Some(given) = self.sync.given.get_mut(from.index()) else {
            return;
        };
        if std::mem::replace(&mut given.status, true) {
            return;
        }
        if status.view < self.view || status.high < self.high.view() {
            self.bring_up(from, out);
        }
        if status.view <= self.view {
            self.say_given_up(from, out);
        }
        let stable = self.strongly_stable();
        if let Some(stable) = stable.filter(|s| s.height() > status.stable) {
            out.send(Dest::One(from), Message::Stable(stable.clone()));
        }
        for vote in self.own_checkpoints_after(status.stable) {
            out.send(Dest::One(from), Message::Checkpoint(vote));
        }
        let is_ahead = status.view > self.view
            || status.high > self.high.view()
            || status.stable > self.tree.head().height;
        if is_ahead {
            let status = Message::Status(self.own_status());
            out.send(Dest::One(from), status);
        }
    }
}
