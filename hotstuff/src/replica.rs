//! The state of a replica, and `step`. [Yin19 §5]

use std::collections::BTreeMap;

use quorate_core::crypto::{Digest, Signer, Verifier};
use quorate_core::id::{ReplicaId, ReplicaSet, Slot, Time};
use quorate_core::output::Output;
use quorate_core::protocol::Input;
use quorate_core::quorum::Byzantine;

use crate::blocks::{Block, BlockId, Tree, View};
use crate::certificate::{CheckpointCertificate, QuorumCertificate, TimeoutCertificate, Vote};
use crate::checkpoint::Checkpoints;
use crate::config::{Config, Leaders};
use crate::evidence::{Equivocation, Evidence};
use crate::mempool::Mempool;
use crate::message::Message;
use crate::mutant::Mutant;
use crate::pacemaker::Pacemaker;
use crate::record::Promised;
use crate::rules::Rules;
use crate::standing::{Standing, Step};
use crate::sync::Sync;

/// HotStuff, as one replica runs it.
pub struct Hotstuff {
    pub(crate) me: ReplicaId,
    pub(crate) n: usize,
    pub(crate) config: Config,
    pub(crate) rules: Box<dyn Rules + Send>,
    pub(crate) signer: Signer,
    pub(crate) verifier: Verifier,

    // Durable: every change goes into a record in the same step.
    pub(crate) promised: Promised,
    /// The highest certificate.
    pub(crate) high: QuorumCertificate,
    /// Why the current view has begun, if not by the highest certificate.
    pub(crate) entered: Option<TimeoutCertificate>,
    /// The last stable checkpoint, with its proof.
    pub(crate) stable: Option<CheckpointCertificate>,

    /// The last view in which this replica has proposed since it started.
    pub(crate) proposed: View,
    /// This replica has written that it may propose in this view, and it had not before it
    /// started.
    pub(crate) reserving: View,
    /// That is durable.
    pub(crate) reserved: View,

    /// The current view: it begins when the one before is certified, or given up by a quorum.
    pub(crate) view: View,
    /// The blocks. What is committed has been handed over for execution, by this replica or inside
    /// a snapshot.
    pub(crate) tree: Tree,
    /// How leaders stand at the genesis block.
    pub(crate) origin: Standing,
    /// The blocks that this replica has voted for in later views than the highest certificate's:
    /// any of them may be certified, and must then be had from those who voted.
    pub(crate) open: BTreeMap<View, Digest>,
    /// Where the newest durable snapshot ends.
    pub(crate) snapshot: Slot,
    pub(crate) checkpoints: Checkpoints,
    pub(crate) mempool: Mempool,
    pub(crate) pacemaker: Pacemaker,
    pub(crate) sync: Sync,
    pub(crate) evidence: Evidence,
    /// The last vote of each replica.
    pub(crate) votes: Vec<(ReplicaId, Vote)>,
    /// Blocks of the current view, each by who has proposed it: one is to be voted for as soon as
    /// its ancestors are here, and tell who leads.
    pub(crate) candidates: BTreeMap<ReplicaId, Candidate>,
    /// This replica has made the highest certificate, and has not told anyone.
    pub(crate) untold: bool,
    /// Two certificates that contradict each other, or a commit.
    pub(crate) conflict: Option<(BlockId, BlockId)>,
    /// The records must be written anew.
    pub(crate) rewrite_due: bool,
}

/// A proposal that was not voted for yet.
#[derive(Clone, Debug)]
pub(crate) struct Candidate {
    pub(crate) block: BlockId,
    /// Who has certified its parent.
    pub(crate) signers: ReplicaSet,
    pub(crate) timeout: Option<TimeoutCertificate>,
}

impl std::fmt::Debug for Hotstuff {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hotstuff")
            .field("me", &self.me)
            .field("view", &self.view)
            .field("promised", &self.promised)
            .field("high", &self.high.block)
            .field("committed", &self.tree.head())
            .field("blocks", &self.tree.len())
            .finish_non_exhaustive()
    }
}

/// HotStuff's timers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Timer {
    /// The view has had its time. [Yin19 §4.4]
    View,
    /// The leader has had time to propose what this replica knows.
    Proposal,
    /// Another replica is to be told what is here.
    Status,
}

pub(crate) type Out = Output<Hotstuff>;

impl Hotstuff {
    pub(crate) fn dispatch(&mut self, now: Time, input: Input<Hotstuff>, out: &mut Out) {
        match input {
            Input::Start => self.start(now, out),
            Input::Message(message) => {
                let (from, message) = message.into_parts();
                self.receive(now, from, message, out);
            }
            Input::Timer(Timer::View) => self.view_timed_out(now, out),
            Input::Timer(Timer::Proposal) => self.proposal_is_due(out),
            Input::Timer(Timer::Status) => self.status_is_due(now, out),
            Input::Propose { batch, keys: _ } => self.take_requests(now, &batch),
            Input::Read { id, keys: _ } => self.read(id, out),
            Input::EndOfTurn => self.end_turn(out),
            Input::Snapshotted(snapshot) => self.snapshotted(&snapshot, out),
            Input::Installed(snapshot) => self.installed(now, &snapshot, out),
        }
        self.watch(now, out);
    }

    fn start(&mut self, now: Time, out: &mut Out) {
        if std::mem::take(&mut self.rewrite_due) {
            self.rewrite(out);
        }
        self.offer_snapshot(out);
        self.say_checkpoints_again(out);
        self.settle(out);
        out.arm(Timer::Status, now + self.config.status_every);
    }

    fn receive(&mut self, now: Time, from: ReplicaId, message: Message, out: &mut Out) {
        let before = self.view;
        match message {
            Message::Forward { batch, seen } => self.forwarded(now, from, &batch, seen),
            Message::Proposal(proposal) => self.proposal(now, from, *proposal, out),
            Message::Reserved(view) => self.reserved(from, view),
            Message::Vote(vote) => self.vote(now, from, vote, out),
            Message::Timeout(timeout) => self.timeout(now, from, *timeout, out),
            Message::Certified(certificate) => self.certified(now, certificate, out),
            Message::TimedOut(certificate) => self.timed_out(now, *certificate, out),
            Message::FetchBlocks { block, above } => self.give_blocks(from, &block, above, out),
            Message::Blocks(blocks) => self.blocks(now, blocks, out),
            Message::Status(status) => self.status(from, &status, out),
            Message::Checkpoint(vote) => self.checkpoint(from, &vote, out),
            Message::Stable(certificate) => self.checkpoint_certified(certificate, out),
        }
        if self.view > before {
            self.pass_over(from, out);
        }
    }

    /// The leader of a view, as far as this replica can tell: of its block on the highest
    /// certificate.
    pub(crate) fn leader_of(&self, view: View) -> Option<ReplicaId> {
        self.leader_on(&self.high.block, view)
    }

    /// Who leads a view by a block on `parent`, if `parent` is here to say so. All who have it
    /// agree, whatever else they know. [Cohen22]
    pub(crate) fn leader_on(&self, parent: &BlockId, view: View) -> Option<ReplicaId> {
        if self.config.leaders != Leaders::Reputation {
            return Some(self.config.leaders.of(view, self.n));
        }
        let own_commits = self.config.mutated(Mutant::LeadersByOwnCommits);
        let known = match own_commits {
            true => self.tree.head(),
            false => *parent,
        };
        Some(self.standing(&known)?.leader(view, &known))
    }

    /// How leaders stand at a block, if it is here.
    fn standing(&self, block: &BlockId) -> Option<&Standing> {
        if *block == BlockId::genesis() {
            return Some(&self.origin);
        }
        self.tree.block(&block.digest).map(Block::standing)
    }

    /// How leaders stand after a step from a block, if that is here.
    pub(crate) fn standing_after(&self, step: &Step) -> Option<Standing> {
        match self.config.leaders {
            Leaders::Reputation => Some(self.standing(&step.parent)?.after(step)),
            Leaders::Rotate | Leaders::Stable { .. } | Leaders::Listed(_) => {
                Some(Standing::default())
            }
        }
    }

    /// Whether this replica leads the current view.
    pub(crate) fn leads(&self) -> bool {
        self.leader_of(self.view) == Some(self.me)
    }

    /// 2f + 1: any two of these have a correct replica in common. [Yin19 §3]
    pub(crate) fn strong(&self) -> usize {
        if self.config.mutated(Mutant::WeakQuorum) {
            return self.weak();
        }
        Byzantine::of(self.n).strong().size()
    }

    /// f + 1: one of these is correct.
    pub(crate) fn weak(&self) -> usize {
        Byzantine::of(self.n).weak().size()
    }

    /// Where others were caught signing what contradicts what they had signed, since this replica
    /// started: for each of them one pair of proposals and one of votes at most.
    pub fn equivocations(&self) -> &[Equivocation] {
        self.evidence.found()
    }
}
