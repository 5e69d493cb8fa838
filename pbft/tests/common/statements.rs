//! What replicas sign, right or wrong.

use std::time::Duration;

use bytes::Bytes;
use quorate_core::codec;
use quorate_core::crypto::{Digest, Domain, Signature};
use quorate_core::id::{ReplicaId, Slot};
use quorate_pbft::{
    CheckpointCertificate, CheckpointVote, Entry, Message, Moment, NewView, PrepareVote,
    PreparedCertificate, Proposal, View, ViewChange,
};

use quorate_simulator::harness::WALL_CLOCK;

use super::{command, r, signer};

/// A command in a slot, as a primary gives it one: the clock shows so many nanoseconds.
pub(crate) fn entry(slot: u64, text: &str) -> Entry {
    let time = WALL_CLOCK + Duration::from_nanos(slot);
    let moment = Moment {
        time,
        salt: [7; 16],
    };
    let batch = command(text);
    Entry { batch, moment }
}

/// The digest of a command in a slot.
pub(crate) fn digest_of(slot: u64, text: &str) -> Digest {
    entry(slot, text).digest()
}

fn statement(view: u64, slot: u64, digest: &Digest) -> Vec<u8> {
    let mut bytes = view.to_le_bytes().to_vec();
    bytes.extend_from_slice(&slot.to_le_bytes());
    bytes.extend_from_slice(&digest.0);
    bytes
}

/// A pre-prepare, signed by the primary of `view` among four.
pub(crate) fn proposal(view: u64, slot: u64, digest: Digest) -> Proposal {
    proposal_by((view % 4) as u8, view, slot, digest)
}

/// A pre-prepare, signed by `author`, whether it may or not.
pub(crate) fn proposal_by(author: u8, view: u64, slot: u64, digest: Digest) -> Proposal {
    Proposal::signed(&signer(author), View(view), Slot(slot), digest)
}

pub(crate) fn pre_prepare(view: u64, slot: u64, text: &str) -> Message {
    Message::PrePrepare {
        proposal: proposal(view, slot, digest_of(slot, text)),
        entry: entry(slot, text),
    }
}

pub(crate) fn prepare_signature(author: u8, view: u64, slot: u64, digest: &Digest) -> Signature {
    signer(author).sign(Domain("pbft/prepare"), &statement(view, slot, digest))
}

pub(crate) fn prepare(author: u8, view: u64, slot: u64, text: &str) -> Message {
    let digest = digest_of(slot, text);
    Message::Prepare {
        view: View(view),
        votes: vec![PrepareVote {
            slot: Slot(slot),
            digest,
            signature: prepare_signature(author, view, slot, &digest),
        }],
    }
}

/// A prepare for what a primary has proposed.
pub(crate) fn prepare_for(author: u8, proposal: &Proposal) -> Message {
    let (view, slot, digest) = (proposal.view, proposal.slot, proposal.digest);
    let signature = prepare_signature(author, view.0, slot.0, &digest);
    let vote = PrepareVote {
        slot,
        digest,
        signature,
    };
    let votes = vec![vote];
    Message::Prepare { view, votes }
}

pub(crate) fn commit(view: u64, slot: u64, text: &str) -> Message {
    Message::Commit {
        view: View(view),
        votes: vec![(Slot(slot), digest_of(slot, text))],
    }
}

pub(crate) fn checkpoint(author: u8, slot: u64, digest: Digest) -> CheckpointVote {
    let mut statement = slot.to_le_bytes().to_vec();
    statement.extend_from_slice(&digest.0);
    CheckpointVote {
        slot: Slot(slot),
        digest,
        signature: signer(author).sign(Domain("pbft/checkpoint"), &statement),
    }
}

/// The encoding of a checkpoint certificate, signed by `authors`, each by itself.
pub(crate) fn anchor(slot: u64, digest: Digest, authors: &[u8]) -> Bytes {
    let signatures: Vec<(ReplicaId, Signature)> = authors
        .iter()
        .map(|author| (r(*author), checkpoint(*author, slot, digest).signature))
        .collect();
    let encoded = codec::encode(&(Slot(slot), digest, signatures));
    encoded.expect("it can be encoded").into()
}

/// A checkpoint certificate, right or wrong.
pub(crate) fn checkpoint_certificate(
    slot: u64,
    digest: Digest,
    authors: &[u8],
) -> CheckpointCertificate {
    codec::decode("certificate", &anchor(slot, digest, authors)).expect("it can be decoded")
}

/// A prepared certificate, right or wrong, with prepares by `authors`.
pub(crate) fn prepared(view: u64, slot: u64, text: &str, authors: &[u8]) -> PreparedCertificate {
    let digest = digest_of(slot, text);
    let prepares: Vec<(ReplicaId, Signature)> = authors
        .iter()
        .map(|author| (r(*author), prepare_signature(*author, view, slot, &digest)))
        .collect();
    prepared_with(proposal(view, slot, digest), prepares)
}

pub(crate) fn prepared_with(
    proposal: Proposal,
    prepares: Vec<(ReplicaId, Signature)>,
) -> PreparedCertificate {
    let encoded = codec::encode(&(proposal, prepares)).expect("it can be encoded");
    codec::decode("certificate", &encoded).expect("it can be decoded")
}

/// A view change of `author` that shows `prepared` and no checkpoint.
pub(crate) fn view_change(author: u8, view: u64, prepared: Vec<PreparedCertificate>) -> ViewChange {
    ViewChange::signed(&signer(author), (View(view), r(author)), None, prepared)
}

/// A new view of the right primary, with proposals for the digests given from slot 1 on.
pub(crate) fn new_view(view: u64, changes: Vec<ViewChange>, digests: &[Digest]) -> NewView {
    let slots = 1..;
    let proposals = slots.zip(digests);
    let proposals = proposals.map(|(slot, digest)| proposal(view, slot, *digest));
    let primary = signer((view % 4) as u8);
    NewView::signed(&primary, View(view), changes, proposals.collect())
}
