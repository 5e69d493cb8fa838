//! What replicas tell each other. [Yin19 §4, §5; Gelashvili21 §4]

use quorate_core::codec::MESSAGE_LIMIT;
use quorate_core::crypto::{Digest, Signature, Signer, Verifier};
use quorate_core::id::{ReplicaId, Slot};
use quorate_core::protocol::{self, Invalid};
use quorate_core::request::{Batch, Forged};
use serde::{Deserialize, Serialize};

use crate::blocks::{Block, View};
use crate::certificate::{
    CheckpointCertificate, CheckpointVote, Flaw, QuorumCertificate, TimeoutCertificate,
    TimeoutShare, Vote, digest_of, domain, statement,
};
use crate::mutant::Mutant;

/// A message of HotStuff, with what the crate's README says of each.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// Requests for whoever leads to order; all replicas keep them until they are committed.
    Forward {
        /// The requests.
        batch: Batch,
        /// The sender has what is committed through this height, and still wants them: that the
        /// receiver has seen them committed counts only if that was beyond.
        seen: Slot,
    },
    /// The leader of a view extends a certified block. [Yin19 §5]
    Proposal(Box<Proposal>),
    /// To the sender itself: it may propose in this view.
    Reserved(View),
    /// A vote, for the next leader. [Yin19 §5]
    Vote(Vote),
    /// The sender gives a view up. [Gelashvili21 §4]
    Timeout(Box<Timeout>),
    /// The sender's highest certificate, where no proposal carries it.
    Certified(QuorumCertificate),
    /// A view that has been given up.
    TimedOut(Box<TimeoutCertificate>),
    /// The sender lacks this block, or ancestors of it.
    FetchBlocks {
        /// The block.
        block: Digest,
        /// The sender has what is committed through this height.
        above: Slot,
    },
    /// A block that was asked for, and its ancestors, one after the other.
    Blocks(Vec<Block>),
    /// What the sender has, for the receiver to send what it lacks.
    Status(Status),
    /// The sender has this state, durably.
    Checkpoint(CheckpointVote),
    /// A quorum has this state, durably.
    Stable(CheckpointCertificate),
}

/// ⟨PROPOSAL, block, certificate of its parent⟩, with the time-out certificate of the view before
/// if the parent is not of that view. [Yin19 §5; Gelashvili21 §4]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proposal {
    /// The block.
    pub block: Block,
    /// The certificate of its parent.
    pub certificate: QuorumCertificate,
    /// Why the view has begun, if not by this certificate.
    pub timeout: Option<TimeoutCertificate>,
    /// The leader's signature on the block's name: proof, if it signs two in one view.
    pub signature: Signature,
}

impl Proposal {
    /// Signs as the leader of the block's view.
    pub fn signed(
        signer: &Signer,
        block: Block,
        certificate: QuorumCertificate,
        timeout: Option<TimeoutCertificate>,
    ) -> Proposal {
        let signature = signer.sign(domain::PROPOSAL, &statement(&block.id()));
        Proposal {
            block,
            certificate,
            timeout,
            signature,
        }
    }

    /// Everything but who leads the view, and whether to vote.
    fn verify(&self, from: ReplicaId, verifier: &Verifier) -> Result<(), Flaw> {
        let view = self.block.view();
        if self.certificate.block != self.block.parent() {
            return Err("a proposal has not the certificate of its block's parent");
        }
        if self.certificate.view() >= view {
            return Err("a proposal is not of a later view than its parent");
        }
        let by_certificate = self.certificate.view().next() == view;
        let by_timeout = self
            .timeout
            .as_ref()
            .is_some_and(|tc| tc.view.next() == view);
        if !by_certificate && !by_timeout {
            return Err("a proposal does not show why its view has begun");
        }
        if by_certificate && self.timeout.is_some() {
            return Err("a proposal has a time-out certificate that it does not need");
        }
        verifier
            .verify(
                from,
                domain::PROPOSAL,
                &statement(&self.block.id()),
                &self.signature,
            )
            .map_err(|_| "a proposal is not signed by its sender")?;
        verify_payload(&self.block, verifier)?;
        self.certificate.verify(verifier)?;
        self.timeout.iter().try_for_each(|tc| tc.verify(verifier))
    }
}

/// ⟨TIMEOUT, v, highest certificate⟩. [Gelashvili21 §4]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timeout {
    /// The view that the sender gives up.
    pub view: View,
    /// What it signs.
    pub share: TimeoutShare,
    /// Its highest certificate.
    pub highest: QuorumCertificate,
    /// Its last vote, if that is for a later block: whoever should have gathered the votes may be
    /// what the sender waits for in vain.
    pub vote: Option<Vote>,
    /// Why its view has begun, if not by the highest certificate.
    pub entered: Option<TimeoutCertificate>,
}

impl Timeout {
    fn verify(&self, from: ReplicaId, verifier: &Verifier) -> Result<(), Flaw> {
        if self.share.high != self.highest.view() && !Mutant::HighestUnchecked.is_off() {
            return Err("a time-out does not carry the certificate that it speaks of");
        }
        if self.highest.view() >= self.view {
            return Err("a time-out carries a certificate of its own view or later");
        }
        self.share.verify(from, self.view, verifier)?;
        self.highest.verify(verifier)?;
        self.vote
            .iter()
            .try_for_each(|vote| vote.verify(from, verifier))?;
        self.entered.iter().try_for_each(|tc| tc.verify(verifier))
    }
}

/// What a replica has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Its view.
    pub view: View,
    /// The view of its highest certificate.
    pub high: View,
    /// The height of the last block that it has committed.
    pub committed: Slot,
    /// The height of its last stable checkpoint.
    pub stable: Slot,
}

/// No cluster lives to see a view or height beyond this, and sums with it do not overflow.
const HIGHEST: u64 = u64::MAX / 4;

/// How many blocks one message may bring.
pub(crate) const MAX_BLOCKS_AT_ONCE: usize = 1024;

/// Whether the requests of a batch may be ordered: clients that are admitted have signed them. A
/// batch comes twice as a rule, by itself and in a block, and is verified once.
fn verify_requests(batch: &Batch, digest: &Digest, verifier: &Verifier) -> Result<(), Flaw> {
    if batch.is_empty() {
        return Err("a batch has no requests");
    }
    if batch.size() > MESSAGE_LIMIT / 2 {
        return Err("a batch is too large");
    }
    let key = digest_of(domain::REQUESTS, &digest.0);
    let verified = verifier.once(key, || batch.verify(verifier));
    verified.map_err(|forged| match forged {
        Forged::NotSigned => "a request is not signed by its client",
        Forged::NotAdmitted => "a request comes from a client that is not admitted",
        Forged::BadSignature(_) => "a request is not what its client signed",
    })
}

fn verify_payload(block: &Block, verifier: &Verifier) -> Result<(), Flaw> {
    if block.standing().len() > verifier.members().n() {
        return Err("a block speaks of replicas that are no members");
    }
    if block.size() > MESSAGE_LIMIT / 2 {
        return Err("a block is too large");
    }
    let mut batches = block.payload().iter().zip(block.batches());
    batches.try_for_each(|(batch, digest)| verify_requests(batch, digest, verifier))
}

impl Message {
    fn highest(&self) -> u64 {
        match self {
            Message::Forward { .. } => 0,
            Message::Proposal(proposal) => {
                let id = proposal.block.id();
                id.view.0.max(id.height.0)
            }
            Message::Reserved(view) => view.0,
            Message::Vote(vote) => vote.block.view.0.max(vote.block.height.0),
            Message::Timeout(timeout) => timeout.view.0,
            Message::Certified(certificate) => {
                certificate.block.view.0.max(certificate.block.height.0)
            }
            Message::TimedOut(certificate) => certificate.view.0,
            Message::FetchBlocks { above, .. } => above.0,
            Message::Blocks(blocks) => blocks.iter().map(|b| b.view().0).max().unwrap_or(0),
            Message::Status(status) => {
                let slots = status.committed.max(status.stable);
                status.view.max(status.high).0.max(slots.0)
            }
            Message::Checkpoint(vote) => vote.block.height.0,
            Message::Stable(certificate) => certificate.block.height.0,
        }
    }

    fn check(&self, from: ReplicaId, verifier: &Verifier) -> Result<(), Flaw> {
        if self.highest() > HIGHEST {
            return Err("a view or height is out of reach");
        }
        match self {
            Message::Forward { batch, .. } => verify_requests(batch, &batch.digest(), verifier),
            Message::Proposal(proposal) => proposal.verify(from, verifier),
            // Believed from oneself only.
            Message::Reserved(_) => Ok(()),
            Message::Vote(vote) => vote.verify(from, verifier),
            Message::Timeout(timeout) => timeout.verify(from, verifier),
            Message::Certified(certificate) => certificate.verify(verifier),
            Message::TimedOut(certificate) => certificate.verify(verifier),
            Message::Blocks(blocks) if blocks.len() > MAX_BLOCKS_AT_ONCE => {
                Err("too many blocks come at once")
            }
            // What is in a block that a quorum has certified is what the quorum has verified.
            Message::Blocks(_) | Message::FetchBlocks { .. } | Message::Status(_) => Ok(()),
            Message::Checkpoint(vote) => vote.verify(from, verifier),
            Message::Stable(certificate) => certificate.verify(verifier),
        }
    }
}

impl protocol::Message for Message {
    fn kind(&self) -> &'static str {
        match self {
            Message::Forward { .. } => "forward",
            Message::Proposal(_) => "proposal",
            Message::Reserved(_) => "reserved",
            Message::Vote(_) => "vote",
            Message::Timeout(_) => "timeout",
            Message::Certified(_) => "certified",
            Message::TimedOut(_) => "timed_out",
            Message::FetchBlocks { .. } => "fetch_blocks",
            Message::Blocks(_) => "blocks",
            Message::Status(_) => "status",
            Message::Checkpoint(_) => "checkpoint",
            Message::Stable(_) => "stable",
        }
    }

    fn is_promise(&self) -> bool {
        match self {
            // A leader that forgets that it may have proposed in a view may propose something else
            // in it. It proposes when this has come back.
            Message::Reserved(_) => true,
            Message::Proposal(_) => false,
            // A replica that forgets its vote may vote for another block in the view, and lose the
            // block that it has voted for.
            Message::Vote(_) => true,
            // A replica that forgets that it has given up a view may vote in it, and one that
            // forgets its certificates may show lower ones: what is committed rests on both.
            Message::Timeout(_) => true,
            // Others drop their blocks on the word that the state is durable here.
            Message::Checkpoint(_) => true,
            // Proofs that anyone could show.
            Message::Certified(_) | Message::TimedOut(_) | Message::Stable(_) => false,
            // Known by their digests.
            Message::Blocks(_) => false,
            // Binds nobody.
            Message::Status(_) | Message::FetchBlocks { .. } => false,
            // Clients' requests; the driver proposes again what it does not see executed.
            Message::Forward { .. } => false,
        }
    }

    fn verify(&self, from: ReplicaId, verifier: &Verifier) -> Result<(), Invalid> {
        self.check(from, verifier).map_err(|reason| Invalid {
            from,
            kind: self.kind(),
            reason: String::from(reason),
        })
    }
}
