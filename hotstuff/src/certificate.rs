//! What is relayed as proof, and therefore signed: quorum certificates, time-out certificates,
//! checkpoint certificates.
//!
//! A certificate is made in two ways only: from statements whose signatures have been checked, or
//! by decoding; and what was decoded is verified before the state machine sees it. So a
//! certificate in the state machine is one that a quorum has signed.

use quorate_core::codec::{self, Codec};
use quorate_core::crypto::{Claim, Digest, Digester, Domain, Signature, Signer, Verifier};
use quorate_core::id::{ReplicaId, Slot};
use quorate_core::quorum::Byzantine;
use serde::{Deserialize, Serialize};

use crate::blocks::{BlockId, View};
use crate::mutant::Mutant;

/// What a signature is for: one domain a kind of statement.
pub(crate) mod domain {
    use super::Domain;

    pub(crate) const PROPOSAL: Domain = Domain("hotstuff/proposal");
    pub(crate) const VOTE: Domain = Domain("hotstuff/vote");
    pub(crate) const TIMEOUT: Domain = Domain("hotstuff/timeout");
    /// Not signed for: names batches whose requests were found good.
    pub(crate) const REQUESTS: Domain = Domain("hotstuff/requests");
    pub(crate) const CHECKPOINT: Domain = Domain("hotstuff/checkpoint");
}

/// Why something is no proof.
pub(crate) type Flaw = &'static str;

/// The signatures of some replicas.
type Signatures = Vec<(ReplicaId, Signature)>;

/// The bytes that are signed for a block: its view, height and digest.
pub(crate) fn statement(block: &BlockId) -> [u8; 48] {
    let mut bytes = [0; 48];
    if !Mutant::ViewNotSigned.is_off() {
        bytes[..8].copy_from_slice(&block.view.0.to_le_bytes());
    }
    bytes[8..16].copy_from_slice(&block.height.0.to_le_bytes());
    bytes[16..].copy_from_slice(&block.digest.0);
    bytes
}

fn timeout_statement(view: View, high: View) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&view.0.to_le_bytes());
    bytes[8..].copy_from_slice(&high.0.to_le_bytes());
    bytes
}

fn checkpoint_statement(block: &BlockId, state: &Digest) -> [u8; 80] {
    let mut bytes = [0; 80];
    bytes[..48].copy_from_slice(&statement(block));
    bytes[48..].copy_from_slice(&state.0);
    bytes
}

/// Checks the signatures of several replicas at once: all of them must be good.
fn verify_all<'a>(
    verifier: &Verifier,
    domain: Domain,
    signed: impl Iterator<Item = (ReplicaId, &'a [u8], &'a Signature)>,
) -> Result<(), Flaw> {
    let is_member = |by| verifier.members().key(by).is_some();
    let counts = |by| is_member(by) || !Mutant::UnknownSigner.is_off();
    let claims = signed.filter(|(by, ..)| counts(*by));
    let claims = claims.map(|(by, bytes, signature)| Claim {
        by,
        domain,
        bytes,
        signature,
    });
    let checked = verifier.verify_all(claims);
    checked.map_err(|_| "a certificate has a signature that is not its signer's")
}

/// Whether so many signers, in this order, are a quorum: neither too few nor one twice.
fn verify_quorum(n: usize, signers: impl Iterator<Item = ReplicaId> + Clone) -> Result<(), Flaw> {
    let quorum = Byzantine::of(n).strong().size();
    if signers.clone().count() != quorum && !Mutant::TooFewSigners.is_off() {
        return Err("a certificate has not the signatures of a quorum");
    }
    if !signers.is_sorted_by(|one, next| one < next) && !Mutant::RepeatedSigner.is_off() {
        return Err("a certificate counts a replica twice");
    }
    Ok(())
}

/// Verifies a certificate unless it has been of late. The digest is over what it certifies and its
/// signatures, and over the kind of statement: what is good as one thing need not be as another.
fn verify_once<C: Codec>(
    verifier: &Verifier,
    domain: Domain,
    certificate: &C,
    check: impl FnOnce() -> Result<(), Flaw>,
) -> Result<(), Flaw> {
    let bytes = codec::encode(certificate).map_err(|_| "a certificate cannot be encoded")?;
    verifier.once(digest_of(domain, &bytes), check)
}

/// The digest by which a verifier remembers what it found good.
pub(crate) fn digest_of(domain: Domain, bytes: &[u8]) -> Digest {
    let mut digester = Digester::default();
    digester.update(domain.0.as_bytes());
    digester.update(&[0]);
    digester.update(bytes);
    digester.finish()
}

/// As many of the shares as make a quorum, in ascending order of their signers; none if there are
/// too few.
fn quorum_of<S>(mut shares: Vec<(ReplicaId, S)>, quorum: usize) -> Option<Vec<(ReplicaId, S)>> {
    shares.sort_by_key(|(from, _)| *from);
    shares.truncate(quorum);
    (shares.len() == quorum).then_some(shares)
}

/// ⟨VOTE, v, block⟩: the sender's signature on a block. [Yin19 §5]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vote {
    /// The block, with its view and height.
    pub block: BlockId,
    /// The voter's signature on it.
    pub signature: Signature,
}

impl Vote {
    /// Signs for `block`.
    pub fn signed(signer: &Signer, block: BlockId) -> Vote {
        let signature = signer.sign(domain::VOTE, &statement(&block));
        Vote { block, signature }
    }

    pub(crate) fn verify(&self, from: ReplicaId, verifier: &Verifier) -> Result<(), Flaw> {
        verifier
            .verify(from, domain::VOTE, &statement(&self.block), &self.signature)
            .map_err(|_| "a vote is not signed by its sender")
    }
}

/// QC: a strong quorum has voted for a block. No other block of the same view has a certificate.
/// [Yin19 §4.2]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuorumCertificate {
    /// The block certified.
    pub block: BlockId,
    /// In ascending order of the signers. None for the genesis block, which needs no votes.
    signatures: Signatures,
}

impl QuorumCertificate {
    /// The certificate of the genesis block.
    pub fn genesis() -> QuorumCertificate {
        QuorumCertificate {
            block: BlockId::genesis(),
            signatures: Vec::new(),
        }
    }

    /// Makes the certificate if there are votes of at least `quorum` replicas.
    pub fn of(block: BlockId, votes: Signatures, quorum: usize) -> Option<QuorumCertificate> {
        let signatures = quorum_of(votes, quorum)?;
        Some(QuorumCertificate { block, signatures })
    }

    /// The view of the block certified.
    pub fn view(&self) -> View {
        self.block.view
    }

    /// Who signed, and so had the block, durably.
    pub fn signers(&self) -> impl ExactSizeIterator<Item = ReplicaId> + Clone {
        self.signatures.iter().map(|(from, _)| *from)
    }

    pub(crate) fn verify(&self, verifier: &Verifier) -> Result<(), Flaw> {
        if *self == QuorumCertificate::genesis() {
            return Ok(());
        }
        if self.view() == View::GENESIS {
            return Err("only the genesis block is certified in view 0");
        }
        verify_quorum(verifier.members().n(), self.signers())?;
        verify_once(verifier, domain::VOTE, self, || {
            let statement = statement(&self.block);
            let signed = self.signatures.iter();
            let signed = signed.map(|(from, signature)| (*from, &statement[..], signature));
            verify_all(verifier, domain::VOTE, signed)
        })
    }
}

/// ⟨TIMEOUT, v, view of the highest certificate⟩: the sender will not vote in v any more.
/// [Gelashvili21 §4]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimeoutShare {
    /// The view of the highest certificate that the sender had.
    pub high: View,
    /// The sender's signature on that and the view that it gives up.
    pub signature: Signature,
}

impl TimeoutShare {
    /// Signs that `view` is given up, by one whose highest certificate is of view `high`.
    pub fn signed(signer: &Signer, view: View, high: View) -> TimeoutShare {
        TimeoutShare {
            high,
            signature: signer.sign(domain::TIMEOUT, &timeout_statement(view, high)),
        }
    }

    pub(crate) fn verify(
        &self,
        from: ReplicaId,
        view: View,
        verifier: &Verifier,
    ) -> Result<(), Flaw> {
        let statement = timeout_statement(view, self.high);
        verifier
            .verify(from, domain::TIMEOUT, &statement, &self.signature)
            .map_err(|_| "a time-out is not signed by its sender")
    }
}

/// TC: a strong quorum has given a view up. [Gelashvili21 §4]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimeoutCertificate {
    /// The view.
    pub view: View,
    /// The highest certificate that any of the signers had.
    pub highest: QuorumCertificate,
    /// In ascending order of the signers.
    shares: Vec<(ReplicaId, TimeoutShare)>,
}

impl TimeoutCertificate {
    /// Makes the certificate from the time-outs of `view`, each with its sender's highest
    /// certificate, if there are at least `quorum`.
    pub fn of(
        view: View,
        timeouts: Vec<(ReplicaId, TimeoutShare, QuorumCertificate)>,
        quorum: usize,
    ) -> Option<TimeoutCertificate> {
        let shares = timeouts
            .into_iter()
            .map(|(from, s, high)| (from, (s, high)));
        let quorum = quorum_of(shares.collect(), quorum)?;
        let highs = quorum.iter().map(|(_, (_, high))| high);
        let highest = highs.max_by_key(|high| high.view())?.clone();
        let shares = quorum.into_iter().map(|(from, (s, _))| (from, s)).collect();
        Some(TimeoutCertificate {
            view,
            highest,
            shares,
        })
    }

    /// The view of the highest certificate that any of the signers had, by their own word.
    pub fn high(&self) -> View {
        let highs = self.shares.iter().map(|(_, share)| share.high);
        highs.max().unwrap_or(View::GENESIS)
    }

    fn signers(&self) -> impl Iterator<Item = ReplicaId> + Clone {
        self.shares.iter().map(|(from, _)| *from)
    }

    pub(crate) fn verify(&self, verifier: &Verifier) -> Result<(), Flaw> {
        verify_quorum(verifier.members().n(), self.signers())?;
        let highest = self.highest.view();
        if highest != self.high() && !Mutant::HighestUnchecked.is_off() {
            return Err("a time-out certificate does not carry the highest certificate");
        }
        if highest >= self.view {
            return Err("a time-out certificate carries a certificate of its own view or later");
        }
        self.highest.verify(verifier)?;
        verify_once(verifier, domain::TIMEOUT, self, || {
            let statements: Vec<[u8; 16]> = self
                .shares
                .iter()
                .map(|(_, share)| timeout_statement(self.view, share.high))
                .collect();
            let signed = self.shares.iter().zip(&statements);
            let signed = signed.map(|((from, s), on)| (*from, &on[..], &s.signature));
            verify_all(verifier, domain::TIMEOUT, signed)
        })
    }
}

/// ⟨CHECKPOINT, block, state⟩: the sender has the state, durably.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckpointVote {
    /// The last block executed in the state.
    pub block: BlockId,
    /// The digest of the state and its sessions.
    pub state: Digest,
    /// The sender's signature on all.
    pub signature: Signature,
}

impl CheckpointVote {
    /// Signs for a state.
    pub fn signed(signer: &Signer, block: BlockId, state: Digest) -> CheckpointVote {
        let statement = checkpoint_statement(&block, &state);
        CheckpointVote {
            block,
            state,
            signature: signer.sign(domain::CHECKPOINT, &statement),
        }
    }

    pub(crate) fn verify(&self, from: ReplicaId, verifier: &Verifier) -> Result<(), Flaw> {
        let statement = checkpoint_statement(&self.block, &self.state);
        verifier
            .verify(from, domain::CHECKPOINT, &statement, &self.signature)
            .map_err(|_| "a checkpoint is not signed by its sender")
    }
}

/// Proof that a checkpoint is stable: a strong quorum has this state, durably, right after this
/// block.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckpointCertificate {
    /// The last block executed in the state.
    pub block: BlockId,
    /// The digest of the state and its sessions.
    pub state: Digest,
    /// In ascending order of the signers.
    signatures: Signatures,
}

impl CheckpointCertificate {
    /// Makes the certificate if `signatures` on the state are of at least `quorum` replicas.
    pub fn of(
        block: BlockId,
        state: Digest,
        signatures: Signatures,
        quorum: usize,
    ) -> Option<CheckpointCertificate> {
        Some(CheckpointCertificate {
            block,
            state,
            signatures: quorum_of(signatures, quorum)?,
        })
    }

    /// The height of the block.
    pub fn height(&self) -> Slot {
        self.block.height
    }

    /// Who signed: all of them had the state, durably.
    pub fn signers(&self) -> impl ExactSizeIterator<Item = ReplicaId> + Clone {
        self.signatures.iter().map(|(from, _)| *from)
    }

    /// Whether a strong quorum has signed: others may drop what came before.
    pub(crate) fn is_strong(&self, n: usize) -> bool {
        self.signatures.len() >= Byzantine::of(n).strong().size()
    }

    pub(crate) fn verify(&self, verifier: &Verifier) -> Result<(), Flaw> {
        verify_quorum(verifier.members().n(), self.signers())?;
        self.verify_signatures(verifier)
    }

    /// Whether at least f + 1 have signed: one of them is correct, and has executed the block and
    /// has this state. That is enough to take the state, not to drop what came before.
    /// [Castro02]
    pub(crate) fn verify_weak(&self, verifier: &Verifier) -> Result<(), Flaw> {
        let weak = Byzantine::of(verifier.members().n()).weak().size();
        if self.signatures.len() < weak && !Mutant::StateByOneWord.is_off() {
            return Err("a state is not signed by anyone who must be correct");
        }
        if !self.signers().is_sorted_by(|one, next| one < next) {
            return Err("a certificate counts a replica twice");
        }
        self.verify_signatures(verifier)
    }

    fn verify_signatures(&self, verifier: &Verifier) -> Result<(), Flaw> {
        verify_once(verifier, domain::CHECKPOINT, self, || {
            let statement = checkpoint_statement(&self.block, &self.state);
            let signed = self.signatures.iter();
            let signed = signed.map(|(from, signature)| (*from, &statement[..], signature));
            verify_all(verifier, domain::CHECKPOINT, signed)
        })
    }
}
