//! Lies that take knowledge of HotStuff, each signed by the one who tells it.

use quorate_core::crypto::{Digest, Signer};
use quorate_core::id::{ReplicaId, Slot};
use quorate_core::protocol::Context;
use quorate_core::request::Batch;
use quorate_hotstuff::{
    Block, BlockId, CheckpointCertificate, CheckpointVote, Hotstuff, Message, Proposal,
    QuorumCertificate, Status, Timeout, TimeoutCertificate, TimeoutShare, View, Vote,
};
use quorate_simulator::Tamper;
use quorate_simulator::lies::{Signatures, forge, mixed, respelled};
use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;

/// How many batches, blocks and certificates a liar remembers, to show them where others belong.
const REMEMBERED: usize = 16;

/// A replica that lies in HotStuff's own terms.
#[derive(Debug)]
pub(crate) struct Lies {
    n: usize,
    signer: Signer,
    /// Batches of real requests.
    batches: Vec<Batch>,
    blocks: Vec<Block>,
    certificates: Vec<QuorumCertificate>,
}

fn remember<T>(memory: &mut Vec<T>, value: T) {
    if memory.len() >= REMEMBERED {
        memory.remove(1);
    }
    memory.push(value);
}

impl Lies {
    pub(crate) fn of(context: Context) -> Box<dyn Tamper<Hotstuff>> {
        Box::new(Lies {
            n: context.n(),
            signer: context.signer,
            batches: Vec::new(),
            blocks: vec![Block::new(View(1), BlockId::genesis(), Vec::new())],
            certificates: vec![QuorumCertificate::genesis()],
        })
    }

    fn learn(&mut self, message: &Message) {
        match message {
            Message::Forward { batch, .. } => remember(&mut self.batches, batch.clone()),
            Message::Proposal(proposal) => {
                remember(&mut self.blocks, proposal.block.clone());
                remember(&mut self.certificates, proposal.certificate.clone());
            }
            Message::Timeout(timeout) => {
                remember(&mut self.certificates, timeout.highest.clone());
            }
            _ => {}
        }
    }

    fn old_certificate(&self, random: &mut ChaCha8Rng) -> QuorumCertificate {
        let place = random.random_range(0..self.certificates.len());
        self.certificates[place].clone()
    }

    fn old_block(&self, random: &mut ChaCha8Rng) -> Block {
        self.blocks[random.random_range(0..self.blocks.len())].clone()
    }

    fn payload(&self, random: &mut ChaCha8Rng) -> Vec<Batch> {
        let some = self.batches.iter();
        let some = some.filter(|_| random.random_bool(0.3));
        some.cloned().collect()
    }

    /// A certificate with the wrong signers, of a later view, or for another block.
    fn certificate(
        &self,
        random: &mut ChaCha8Rng,
        certificate: &QuorumCertificate,
    ) -> QuorumCertificate {
        type Parts = (BlockId, Signatures);
        respelled(certificate, |(mut block, mut signatures): Parts| {
            match random.random_range(0..4) {
                0 => block.view = View(block.view.0 + random.random_range(1..=8)),
                1 => block.height = block.height.next(),
                2 => block.digest = self.old_block(random).id().digest,
                _ => forge(random, self.n, &mut signatures),
            }
            (block, signatures)
        })
    }

    /// A time-out certificate that shows a lower certificate than its signers had, or claims
    /// another view.
    fn timeout_certificate(
        &self,
        random: &mut ChaCha8Rng,
        certificate: &TimeoutCertificate,
    ) -> TimeoutCertificate {
        type Parts = (View, QuorumCertificate, Vec<(ReplicaId, TimeoutShare)>);
        respelled(certificate, |(mut view, mut highest, mut shares): Parts| {
            match random.random_range(0..4) {
                0 => view = View(view.0 + random.random_range(1..=8)),
                1 => highest = self.old_certificate(random),
                2 => {
                    highest = self.old_certificate(random);
                    for (_, share) in &mut shares {
                        share.high = highest.view();
                    }
                }
                _ => {
                    shares.pop();
                }
            }
            (view, highest, shares)
        })
    }

    /// Another block for the view, maybe on another parent, maybe of a later view.
    fn proposal(&self, random: &mut ChaCha8Rng, proposal: Proposal) -> Proposal {
        let Proposal {
            block,
            mut certificate,
            mut timeout,
            ..
        } = proposal;
        let mut view = block.view();
        match random.random_range(0..6) {
            0 => certificate = self.old_certificate(random),
            1 => certificate = self.certificate(random, &certificate),
            2 => timeout = timeout.map(|tc| self.timeout_certificate(random, &tc)),
            3 => view = View(view.0 + self.n as u64),
            _ => {}
        }
        // As the block's leaders stand, mostly: only then do others look at the rest of it.
        let standing = match random.random_range(0..6) {
            0 => self.old_block(random).standing().clone(),
            _ => block.standing().clone(),
        };
        let block = Block::with(view, certificate.block, standing, self.payload(random));
        Proposal::signed(&self.signer, block, certificate, timeout)
    }

    fn vote(&self, random: &mut ChaCha8Rng, mut block: BlockId) -> Vote {
        match random.random_range(0..3) {
            0 => block.view = View(block.view.0 + random.random_range(1..=4)),
            1 => block.height = block.height.next(),
            _ => block.digest = self.old_block(random).id().digest,
        }
        Vote::signed(&self.signer, block)
    }

    /// A time-out that hides the highest certificate, or is of another view, with another vote.
    fn timeout(&self, random: &mut ChaCha8Rng, timeout: Timeout) -> Timeout {
        let Timeout {
            mut view,
            mut highest,
            mut vote,
            mut entered,
            ..
        } = timeout;
        match random.random_range(0..5) {
            0 => highest = self.old_certificate(random),
            1 => view = View(view.0 + random.random_range(1..=8)),
            2 => vote = vote.map(|vote| self.vote(random, vote.block)),
            3 => highest = self.certificate(random, &highest),
            _ => entered = entered.map(|tc| self.timeout_certificate(random, &tc)),
        }
        let share = TimeoutShare::signed(&self.signer, view, highest.view());
        Timeout {
            view,
            share,
            highest,
            vote,
            entered,
        }
    }

    fn stable(
        &self,
        random: &mut ChaCha8Rng,
        certificate: &CheckpointCertificate,
    ) -> CheckpointCertificate {
        type Parts = (BlockId, Digest, Signatures);
        respelled(
            certificate,
            |(mut block, mut state, mut signatures): Parts| {
                match random.random_range(0..3) {
                    0 => block.height = Slot(block.height.0 + 16),
                    1 => state = Digest::of(&state.0),
                    _ => forge(random, self.n, &mut signatures),
                }
                (block, state, signatures)
            },
        )
    }

    fn checkpoint(&self, random: &mut ChaCha8Rng, vote: &CheckpointVote) -> CheckpointVote {
        let (mut block, mut state) = (vote.block, vote.state);
        match random.random_range(0..3) {
            0 => block.height = Slot(block.height.0 + 16),
            1 => block.digest = self.old_block(random).id().digest,
            _ => state = Digest::of(b"another state"),
        }
        CheckpointVote::signed(&self.signer, block, state)
    }

    fn blocks(&self, random: &mut ChaCha8Rng, mut blocks: Vec<Block>) -> Vec<Block> {
        match random.random_range(0..4) {
            0 => blocks.reverse(),
            1 => blocks.insert(0, self.old_block(random)),
            2 => {
                if let Some(first) = blocks.first_mut() {
                    let (view, parent) = (first.view(), first.parent());
                    let standing = first.standing().clone();
                    *first = Block::with(view, parent, standing, self.payload(random));
                }
            }
            _ => {
                if let Some(last) = blocks.last_mut() {
                    let parent = self.old_block(random).id();
                    let (standing, payload) = (last.standing().clone(), last.payload().to_vec());
                    *last = Block::with(last.view(), parent, standing, payload);
                }
            }
        }
        blocks
    }

    fn status(&self, random: &mut ChaCha8Rng, mut status: Status) -> Status {
        let distance = random.random_range(0..=40);
        match random.random_range(0..4) {
            0 => status.view = View(status.view.0 + distance),
            1 => status.high = View(status.high.0.saturating_sub(distance)),
            2 => status.stable = Slot(status.stable.0.saturating_sub(distance)),
            _ => status.committed = Slot(status.committed.0 + distance),
        }
        status
    }

    fn lie(&self, random: &mut ChaCha8Rng, message: Message) -> Message {
        match message {
            Message::Forward { batch, .. } => {
                let place = random.random_range(0..=self.batches.len());
                let other = self.batches.get(place).cloned();
                Message::Forward {
                    batch: other.unwrap_or(batch),
                    seen: [Slot::ZERO, Slot(u64::MAX)][random.random_range(0..2)],
                }
            }
            Message::Proposal(proposal) => {
                Message::Proposal(Box::new(self.proposal(random, *proposal)))
            }
            Message::Reserved(view) => Message::Reserved(view),
            Message::Vote(vote) => Message::Vote(self.vote(random, vote.block)),
            Message::Timeout(timeout) => Message::Timeout(Box::new(self.timeout(random, *timeout))),
            Message::Certified(certificate) => {
                Message::Certified(self.certificate(random, &certificate))
            }
            Message::TimedOut(certificate) => {
                Message::TimedOut(Box::new(self.timeout_certificate(random, &certificate)))
            }
            Message::FetchBlocks { .. } => Message::FetchBlocks {
                block: self.old_block(random).id().digest,
                above: Slot(random.random_range(0..=40)),
            },
            Message::Blocks(blocks) => Message::Blocks(self.blocks(random, blocks)),
            Message::Status(status) => Message::Status(self.status(random, status)),
            Message::Checkpoint(vote) => Message::Checkpoint(self.checkpoint(random, &vote)),
            Message::Stable(certificate) => Message::Stable(self.stable(random, &certificate)),
        }
    }
}

impl Tamper<Hotstuff> for Lies {
    fn tamper(
        &mut self,
        random: &mut ChaCha8Rng,
        _to: ReplicaId,
        message: Message,
    ) -> Vec<Message> {
        self.learn(&message);
        let truths = match message {
            // There are few of these, and much hangs on each.
            Message::TimedOut(_) | Message::Timeout(_) | Message::Blocks(_) => 1,
            _ => 2,
        };
        mixed(random, truths, message, |random, m| self.lie(random, m))
    }
}
