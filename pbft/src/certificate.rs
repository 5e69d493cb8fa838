//! What is relayed as proof, and therefore signed.
//!
//! A certificate is made in two ways only: from votes whose signatures have been checked, or by
//! decoding; and what was decoded is verified before the state machine sees it, by
//! [`Message::verify`](quorate_core::protocol::Message::verify) or when a replica recovers. So a
//! certificate in the state machine is one that a quorum has signed.

use quorate_core::crypto::{
    BadSignature, Claim, Digest, Digester, Domain, Signature, Signer, Verifier,
};
use quorate_core::id::{ReplicaId, Slot};
use quorate_core::quorum::Byzantine;
use serde::{Deserialize, Serialize};

use crate::log::View;

/// What a signature is for: one domain a kind of statement.
pub(crate) mod domain {
    use super::Domain;

    pub(crate) const PRE_PREPARE: Domain = Domain("pbft/pre-prepare");
    pub(crate) const PREPARE: Domain = Domain("pbft/prepare");
    pub(crate) const CHECKPOINT: Domain = Domain("pbft/checkpoint");
    pub(crate) const VIEW_CHANGE: Domain = Domain("pbft/view-change");
    pub(crate) const NEW_VIEW: Domain = Domain("pbft/new-view");
    /// Not signed for: names batches whose requests were found good.
    pub(crate) const REQUESTS: Domain = Domain("pbft/requests");
}

/// Why something is no proof.
pub(crate) type Flaw = &'static str;

/// The bytes that are signed for a digest in a slot of a view.
pub(crate) fn statement(view: View, slot: Slot, digest: &Digest) -> [u8; 48] {
    let mut bytes = [0; 48];
    bytes[..8].copy_from_slice(&view.0.to_le_bytes());
    bytes[8..16].copy_from_slice(&slot.0.to_le_bytes());
    bytes[16..].copy_from_slice(&digest.0);
    bytes
}

fn checkpoint_statement(slot: Slot, digest: &Digest) -> [u8; 40] {
    let mut bytes = [0; 40];
    bytes[..8].copy_from_slice(&slot.0.to_le_bytes());
    bytes[8..].copy_from_slice(&digest.0);
    bytes
}

/// Signs, and notes that what is signed here needs no check when others show it.
fn sign_known(
    (signer, verifier, me): (&Signer, &Verifier, ReplicaId),
    domain: Domain,
    bytes: &[u8],
) -> Signature {
    let signature = signer.sign(domain, bytes);
    verifier.know(Claim {
        by: me,
        domain,
        bytes,
        signature: &signature,
    });
    signature
}

/// ⟨PREPARE, v, n, d, i⟩ of replica i. [Castro99 §4.2]
pub(crate) fn sign_prepare(
    by: (&Signer, &Verifier, ReplicaId),
    view: View,
    slot: Slot,
    digest: &Digest,
) -> Signature {
    sign_known(by, domain::PREPARE, &statement(view, slot, digest))
}

pub(crate) fn sign_checkpoint(signer: &Signer, slot: Slot, digest: &Digest) -> Signature {
    signer.sign(domain::CHECKPOINT, &checkpoint_statement(slot, digest))
}

/// What a certificate shows was mostly checked before: when it came, or in another certificate.
pub(crate) fn verify_once(
    verifier: &Verifier,
    by: ReplicaId,
    (domain, bytes): (Domain, &[u8]),
    signature: &Signature,
) -> Result<(), BadSignature> {
    verifier.verify_once(Claim {
        by,
        domain,
        bytes,
        signature,
    })
}

/// The digest by which a verifier remembers what it found good.
pub(crate) fn digest_of(domain: Domain, bytes: &[u8]) -> Digest {
    let mut digester = Digester::default();
    digester.update(domain.0.as_bytes());
    digester.update(&[0]);
    digester.update(bytes);
    digester.finish()
}

pub(crate) fn verify_prepare(
    verifier: &Verifier,
    from: ReplicaId,
    (view, slot, digest): (View, Slot, &Digest),
    signature: &Signature,
) -> Result<(), Flaw> {
    let statement = statement(view, slot, digest);
    verify_once(verifier, from, (domain::PREPARE, &statement), signature)
        .map_err(|_| "a prepare is not signed by its sender")
}

pub(crate) fn verify_checkpoint(
    verifier: &Verifier,
    from: ReplicaId,
    slot: Slot,
    digest: &Digest,
    signature: &Signature,
) -> Result<(), Flaw> {
    let statement = checkpoint_statement(slot, digest);
    verify_once(verifier, from, (domain::CHECKPOINT, &statement), signature)
        .map_err(|_| "a checkpoint is not signed by its sender")
}

/// Whether the signers are in ascending order, so that none is there twice.
fn are_distinct(signatures: &[(ReplicaId, Signature)]) -> bool {
    signatures.windows(2).all(|pair| pair[0].0 < pair[1].0)
}

/// ⟨PRE-PREPARE, v, n, d⟩, signed by the primary of v; the batch goes beside it.
/// [Castro99 §4.2]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proposal {
    /// v.
    pub view: View,
    /// n.
    pub slot: Slot,
    /// d, the digest of the batch.
    pub digest: Digest,
    /// The primary's signature.
    pub signature: Signature,
}

impl Proposal {
    /// Signs as the primary of `view`.
    pub fn signed(signer: &Signer, view: View, slot: Slot, digest: Digest) -> Proposal {
        Proposal {
            view,
            slot,
            digest,
            signature: signer.sign(domain::PRE_PREPARE, &statement(view, slot, &digest)),
        }
    }

    /// One that this replica signs itself.
    pub(crate) fn signed_here(
        (signer, verifier, me): (&Signer, &Verifier, ReplicaId),
        view: View,
        slot: Slot,
        digest: Digest,
    ) -> Proposal {
        let statement = statement(view, slot, &digest);
        Proposal {
            view,
            slot,
            digest,
            signature: sign_known((signer, verifier, me), domain::PRE_PREPARE, &statement),
        }
    }

    pub(crate) fn verify(&self, verifier: &Verifier) -> Result<(), Flaw> {
        let primary = self.view.primary(verifier.members().n());
        let statement = statement(self.view, self.slot, &self.digest);
        let on = (domain::PRE_PREPARE, &statement[..]);
        verify_once(verifier, primary, on, &self.signature)
            .map_err(|_| "a pre-prepare is not signed by the primary of its view")
    }
}

/// Proof that a batch prepared: the pre-prepare, and prepares from so many backups that they and
/// the primary are a strong quorum (2f backups of 3f + 1 replicas). No other digest can prepare in
/// the same slot and view. [Castro99 §4.2, §4.4]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PreparedCertificate {
    proposal: Proposal,
    /// In ascending order of the signers.
    prepares: Vec<(ReplicaId, Signature)>,
}

impl PreparedCertificate {
    /// Makes the certificate if `prepares`, of the same view, slot and digest as `proposal`, are
    /// from at least `quorum` - 1 backups.
    pub(crate) fn of(
        proposal: &Proposal,
        mut prepares: Vec<(ReplicaId, Signature)>,
        quorum: usize,
        n: usize,
    ) -> Option<PreparedCertificate> {
        let (primary, needed) = (proposal.view.primary(n), quorum.saturating_sub(1));
        prepares.retain(|(from, _)| *from != primary);
        prepares.sort_by_key(|(from, _)| *from);
        prepares.dedup_by_key(|(from, _)| *from);
        prepares.truncate(needed);
        (prepares.len() == needed).then(|| PreparedCertificate {
            proposal: proposal.clone(),
            prepares,
        })
    }

    /// The view in which it prepared.
    pub fn view(&self) -> View {
        self.proposal.view
    }

    /// The slot.
    pub fn slot(&self) -> Slot {
        self.proposal.slot
    }

    /// The digest of the batch.
    pub fn digest(&self) -> Digest {
        self.proposal.digest
    }

    pub(crate) fn verify(&self, verifier: &Verifier) -> Result<(), Flaw> {
        let n = verifier.members().n();
        if self.prepares.len() + 1 != Byzantine::of(n).strong().size() {
            return Err("a prepared certificate has not the signatures of a quorum");
        }
        let primary = self.view().primary(n);
        if !are_distinct(&self.prepares) || self.prepares.iter().any(|(from, _)| *from == primary) {
            return Err("a prepared certificate counts a replica twice");
        }
        self.proposal.verify(verifier)?;
        let on = (self.view(), self.slot(), &self.proposal.digest);
        let mut prepares = self.prepares.iter();
        prepares.try_for_each(|(from, signature)| verify_prepare(verifier, *from, on, signature))
    }
}

/// Proof that a checkpoint is stable: a strong quorum has the state with this digest, durably,
/// right after this slot. [Castro99 §4.3]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckpointCertificate {
    slot: Slot,
    digest: Digest,
    /// In ascending order of the signers.
    signatures: Vec<(ReplicaId, Signature)>,
}

impl CheckpointCertificate {
    /// Makes the certificate if `signatures` are from at least `quorum` replicas.
    pub(crate) fn of(
        slot: Slot,
        digest: Digest,
        mut signatures: Vec<(ReplicaId, Signature)>,
        quorum: usize,
    ) -> Option<CheckpointCertificate> {
        signatures.sort_by_key(|(from, _)| *from);
        signatures.dedup_by_key(|(from, _)| *from);
        signatures.truncate(quorum);
        (signatures.len() == quorum).then_some(CheckpointCertificate {
            slot,
            digest,
            signatures,
        })
    }

    /// The last slot executed in the state.
    pub fn slot(&self) -> Slot {
        self.slot
    }

    /// The digest of the state and its sessions.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Who signed: all of them had the state, durably.
    pub fn signers(&self) -> impl ExactSizeIterator<Item = ReplicaId> {
        self.signatures.iter().map(|(from, _)| *from)
    }

    /// Whether a quorum has signed: the checkpoint is stable.
    pub(crate) fn verify(&self, verifier: &Verifier) -> Result<(), Flaw> {
        let quorum = Byzantine::of(verifier.members().n()).strong().size();
        if self.signatures.len() != quorum {
            return Err("a checkpoint certificate has not the signatures of a quorum");
        }
        self.verify_signatures(verifier)
    }

    /// Whether at least f + 1 have signed: one of them is correct, and so is the state.
    pub(crate) fn vouches(&self, verifier: &Verifier) -> Result<(), Flaw> {
        let quorum = Byzantine::of(verifier.members().n()).weak().size();
        if self.signatures.len() < quorum {
            return Err("a state is vouched for by fewer than f + 1");
        }
        self.verify_signatures(verifier)
    }

    fn verify_signatures(&self, verifier: &Verifier) -> Result<(), Flaw> {
        if !are_distinct(&self.signatures) {
            return Err("a checkpoint certificate counts a replica twice");
        }
        self.signatures.iter().try_for_each(|(from, signature)| {
            verify_checkpoint(verifier, *from, self.slot, &self.digest, signature)
        })
    }
}
