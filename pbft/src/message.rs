//! What replicas tell each other. [Castro99 §4]

use quorate_core::codec::MESSAGE_LIMIT;
use quorate_core::crypto::{Digest, Digester, Signature, Signer, Verifier};
use quorate_core::id::{ReplicaId, Slot};
use quorate_core::protocol::{self, Invalid};
use quorate_core::quorum::Byzantine;
use quorate_core::request::{Batch, Forged};
use serde::{Deserialize, Serialize};

use crate::certificate::{
    CheckpointCertificate, Flaw, PreparedCertificate, Proposal, digest_of, domain,
    verify_checkpoint, verify_once, verify_prepare,
};
use crate::config::MAX_WINDOW;
use crate::entry::Entry;
use crate::log::View;

/// A message of PBFT, with what the crate's README says of each.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// Requests for the primary to order. [Castro99 §4.4]
    Forward {
        /// The requests.
        batch: Batch,
        /// Whether they come from another replica than the sender.
        relayed: bool,
    },
    /// The primary gives a batch a slot; or someone else shows that it did. [Castro99 §4.2]
    PrePrepare {
        /// The signed part.
        proposal: Proposal,
        /// What its digest is of.
        entry: Entry,
    },
    /// The sender has accepted these pre-prepares. [Castro99 §4.2]
    Prepare {
        /// v.
        view: View,
        /// A slot each.
        votes: Vec<PrepareVote>,
    },
    /// These slots have prepared at the sender. [Castro99 §4.2]
    Commit {
        /// v.
        view: View,
        /// Slots and digests.
        votes: Vec<(Slot, Digest)>,
    },
    /// The sender has executed these slots: a quorum has committed them. For who is behind, who
    /// believes f + 1 equal ones.
    Decided(Vec<(Slot, Digest)>),
    /// The sender has this state, durably. [Castro99 §4.3]
    Checkpoint(CheckpointVote),
    /// A quorum has this state, durably. [Castro99 §4.3]
    Stable(CheckpointCertificate),
    /// The sender has left all earlier views. [Castro99 §4.4]
    ViewChange(ViewChange),
    /// How a view begins; from its primary, or relayed. [Castro99 §4.4]
    NewView(Box<NewView>),
    /// What the sender has, for others to send what it lacks. [Castro02 §5.2]
    Status(Status),
    /// The sender lacks the batches with these digests. [Castro99 §4.4]
    FetchBodies(Vec<(Slot, Digest)>),
    /// A batch that was asked for, with its moment.
    Body {
        /// The slot it was asked for.
        slot: Slot,
        /// The batch and its moment.
        entry: Entry,
    },
}

/// ⟨PREPARE, v, n, d, i⟩ without the view, which stands beside it. [Castro99 §4.2]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrepareVote {
    /// n.
    pub slot: Slot,
    /// d.
    pub digest: Digest,
    /// The sender's signature on view, slot and digest.
    pub signature: Signature,
}

/// ⟨CHECKPOINT, n, d, i⟩. [Castro99 §4.3]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckpointVote {
    /// The last slot executed in the state.
    pub slot: Slot,
    /// The digest of the state and its sessions.
    pub digest: Digest,
    /// The sender's signature on both.
    pub signature: Signature,
}

/// ⟨VIEW-CHANGE, v + 1, n, C, P, i⟩. [Castro99 §4.4]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ViewChange {
    /// The view that the sender wants to enter.
    pub view: View,
    /// The sender.
    pub from: ReplicaId,
    /// n and C: the sender's last stable checkpoint with its proof; none before the first.
    pub stable: Option<CheckpointCertificate>,
    /// P: the slots after it that have prepared at the sender, in ascending order, each in the
    /// latest view in which it has.
    pub prepared: Vec<PreparedCertificate>,
    /// The sender's signature.
    pub signature: Signature,
}

/// ⟨NEW-VIEW, v + 1, V, O⟩. [Castro99 §4.4]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewView {
    /// The view that begins.
    pub view: View,
    /// V: view changes of a strong quorum, in ascending order of the senders.
    pub view_changes: Vec<ViewChange>,
    /// O: the pre-prepares that follow from V, in ascending order of the slots.
    pub proposals: Vec<Proposal>,
    /// The signature of the view's primary.
    pub signature: Signature,
}

/// What a replica has. [Castro02 §5.2]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Its view.
    pub view: View,
    /// Whether the view has begun at the sender.
    pub active: bool,
    /// Its last stable checkpoint.
    pub stable: Slot,
    /// The last slot executed.
    pub executed: Slot,
    /// The slot through which all has been executed and has prepared in the view.
    pub complete: Slot,
    /// Whether the sender knows of anything that it has not done.
    pub busy: bool,
    /// The view of the latest view change that it has of each replica; 0 without one.
    pub view_changes: Vec<View>,
}

impl ViewChange {
    /// Signs as `from`.
    pub fn signed(
        signer: &Signer,
        (view, from): (View, ReplicaId),
        stable: Option<CheckpointCertificate>,
        prepared: Vec<PreparedCertificate>,
    ) -> ViewChange {
        let statement = view_change_statement(view, stable.as_ref(), &prepared);
        ViewChange {
            view,
            from,
            stable,
            prepared,
            signature: signer.sign(domain::VIEW_CHANGE, &statement.0),
        }
    }

    /// The slot of the stable checkpoint.
    pub fn low(&self) -> Slot {
        self.stable
            .as_ref()
            .map_or(Slot::ZERO, CheckpointCertificate::slot)
    }

    fn statement(&self) -> Digest {
        view_change_statement(self.view, self.stable.as_ref(), &self.prepared)
    }

    /// Whether the slots that it speaks of are within a window of `width` after its checkpoint.
    pub(crate) fn is_within(&self, width: u64) -> bool {
        let last = self
            .prepared
            .last()
            .map_or(Slot::ZERO, PreparedCertificate::slot);
        last.0 <= self.low().0.saturating_add(width)
    }

    /// "A valid view-change message": signed by its sender, with proof of all it claims.
    fn verify(&self, verifier: &Verifier) -> Result<(), Flaw> {
        if self.prepared.len() > MAX_WINDOW {
            return Err("a view change has too many certificates");
        }
        let slots =
            std::iter::once(self.low()).chain(self.prepared.iter().map(PreparedCertificate::slot));
        if !slots.is_sorted_by(|before, after| before < after) {
            return Err("the certificates of a view change are not in order");
        }
        if self.prepared.iter().any(|p| p.view() >= self.view) {
            return Err("a view change has a certificate of its own view or a later one");
        }
        let on = (domain::VIEW_CHANGE, &self.statement().0[..]);
        verify_once(verifier, self.from, on, &self.signature)
            .map_err(|_| "a view change is not signed by its sender")?;
        if let Some(stable) = &self.stable {
            stable.verify(verifier)?;
        }
        self.prepared.iter().try_for_each(|p| p.verify(verifier))
    }
}

/// What is signed of a view change. The signatures within prove themselves.
fn view_change_statement(
    view: View,
    stable: Option<&CheckpointCertificate>,
    prepared: &[PreparedCertificate],
) -> Digest {
    let mut digester = Digester::default();
    digester.update(&view.0.to_le_bytes());
    match stable {
        None => digester.update(&[0]),
        Some(stable) => {
            digester.update(&[1]);
            digester.update(&stable.slot().0.to_le_bytes());
            digester.update(&stable.digest().0);
        }
    }
    for certificate in prepared {
        digester.update(&certificate.view().0.to_le_bytes());
        digester.update(&certificate.slot().0.to_le_bytes());
        digester.update(&certificate.digest().0);
    }
    digester.finish()
}

impl NewView {
    /// Signs as the primary of `view`.
    pub fn signed(
        signer: &Signer,
        view: View,
        view_changes: Vec<ViewChange>,
        proposals: Vec<Proposal>,
    ) -> NewView {
        let statement = new_view_statement(view, &view_changes, &proposals);
        NewView {
            view,
            view_changes,
            proposals,
            signature: signer.sign(domain::NEW_VIEW, &statement.0),
        }
    }

    /// Everything but whether O follows from V, which each replica computes for itself.
    fn verify(&self, verifier: &Verifier) -> Result<(), Flaw> {
        let n = verifier.members().n();
        if self.view_changes.len() != Byzantine::of(n).strong().size() {
            return Err("a new view has not the view changes of a quorum");
        }
        let senders = self.view_changes.iter().map(|change| change.from);
        if !senders.is_sorted_by(|before, after| before < after) {
            return Err("a new view counts a replica twice");
        }
        if self
            .view_changes
            .iter()
            .any(|change| change.view != self.view)
        {
            return Err("a new view has a view change for another view");
        }
        if self.proposals.len() > MAX_WINDOW {
            return Err("a new view has too many pre-prepares");
        }
        if self
            .proposals
            .iter()
            .any(|proposal| proposal.view != self.view)
        {
            return Err("a new view has a pre-prepare of another view");
        }
        let statement = new_view_statement(self.view, &self.view_changes, &self.proposals);
        let on = (domain::NEW_VIEW, &statement.0[..]);
        verify_once(verifier, self.view.primary(n), on, &self.signature)
            .map_err(|_| "a new view is not signed by its primary")?;
        let mut changes = self.view_changes.iter();
        changes.try_for_each(|change| change.verify(verifier))?;
        self.proposals.iter().try_for_each(|p| p.verify(verifier))
    }
}

fn new_view_statement(view: View, changes: &[ViewChange], proposals: &[Proposal]) -> Digest {
    let mut digester = Digester::default();
    digester.update(&view.0.to_le_bytes());
    digester.update(&(changes.len() as u64).to_le_bytes());
    for change in changes {
        digester.update(&[change.from.0]);
        digester.update(&change.statement().0);
    }
    for proposal in proposals {
        digester.update(&proposal.slot.0.to_le_bytes());
        digester.update(&proposal.digest.0);
    }
    digester.finish()
}

/// No cluster lives to see a view or slot beyond this, and sums with it do not overflow.
const HIGHEST: u64 = u64::MAX / 4;

/// How many batches may be asked for at once.
pub(crate) const MAX_FETCHED_BODIES: usize = 16;

/// Whether the requests of a batch may be ordered: clients that are admitted have signed them.
/// [Castro02 §2.4]
fn verify_requests(batch: &Batch, verifier: &Verifier) -> Result<(), Flaw> {
    verify_size(batch)?;
    // They come twice as a rule, forwarded and in a slot, and with every retransmission.
    let name = digest_of(domain::REQUESTS, &batch.digest().0);
    let verified = verifier.once(name, || batch.verify(verifier));
    verified.map_err(|forged| match forged {
        Forged::NotSigned => "a request is not signed by its client",
        Forged::NotAdmitted => "a request comes from a client that is not admitted",
        Forged::BadSignature(_) => "a request is not what its client signed",
    })
}

fn verify_size(batch: &Batch) -> Result<(), Flaw> {
    match batch.size() <= MESSAGE_LIMIT / 2 {
        true => Ok(()),
        false => Err("a batch is too large"),
    }
}

fn verify_votes<T>(votes: &[T]) -> Result<(), Flaw> {
    match votes.len() <= MAX_WINDOW {
        true => Ok(()),
        false => Err("there are votes for more slots than a window has"),
    }
}

impl Message {
    fn highest(&self) -> u64 {
        match self {
            Message::Forward { .. } => 0,
            Message::PrePrepare { proposal, .. } => proposal.view.0.max(proposal.slot.0),
            Message::Prepare { view, votes } => {
                votes.iter().map(|vote| vote.slot.0).fold(view.0, u64::max)
            }
            Message::Commit { view, votes } => {
                votes.iter().map(|(slot, _)| slot.0).fold(view.0, u64::max)
            }
            Message::Decided(slots) | Message::FetchBodies(slots) => {
                slots.iter().map(|(slot, _)| slot.0).max().unwrap_or(0)
            }
            Message::Checkpoint(vote) => vote.slot.0,
            Message::Stable(certificate) => certificate.slot().0,
            Message::ViewChange(change) => change.view.0,
            Message::NewView(new_view) => new_view.view.0,
            Message::Status(status) => {
                let slots = status.stable.max(status.executed).max(status.complete);
                status.view.0.max(slots.0)
            }
            Message::Body { slot, .. } => slot.0,
        }
    }

    fn check(&self, from: ReplicaId, verifier: &Verifier) -> Result<(), Flaw> {
        if self.highest() > HIGHEST {
            return Err("a view or slot is out of reach");
        }
        match self {
            Message::Forward { batch, .. } => verify_requests(batch, verifier),
            // It was asked for by its digest, which a certificate names: f + 1 correct replicas
            // have checked its requests.
            Message::Body { entry, .. } => verify_size(&entry.batch),
            Message::PrePrepare { proposal, entry } => {
                if entry.digest() != proposal.digest {
                    return Err("a batch has not the digest of its pre-prepare");
                }
                proposal.verify(verifier)?;
                verify_requests(&entry.batch, verifier)
            }
            Message::Prepare { view, votes } => {
                verify_votes(votes)?;
                votes.iter().try_for_each(|vote| {
                    let on = (*view, vote.slot, &vote.digest);
                    verify_prepare(verifier, from, on, &vote.signature)
                })
            }
            Message::Commit { votes, .. } | Message::Decided(votes) => verify_votes(votes),
            Message::Checkpoint(vote) => {
                verify_checkpoint(verifier, from, vote.slot, &vote.digest, &vote.signature)
            }
            Message::Stable(certificate) => certificate.verify(verifier),
            Message::ViewChange(change) if change.from != from => {
                Err("a view change comes from another than its sender")
            }
            Message::ViewChange(change) => change.verify(verifier),
            Message::NewView(new_view) => new_view.verify(verifier),
            Message::Status(status) if status.view_changes.len() != verifier.members().n() => {
                Err("a status speaks of another number of replicas")
            }
            Message::Status(_) => Ok(()),
            Message::FetchBodies(wanted) if wanted.len() > MAX_FETCHED_BODIES => {
                Err("too many batches are asked for at once")
            }
            Message::FetchBodies(_) => Ok(()),
        }
    }
}

impl protocol::Message for Message {
    fn kind(&self) -> &'static str {
        match self {
            Message::Forward { .. } => "forward",
            Message::PrePrepare { .. } => "pre_prepare",
            Message::Prepare { .. } => "prepare",
            Message::Commit { .. } => "commit",
            Message::Decided(_) => "decided",
            Message::Checkpoint(_) => "checkpoint",
            Message::Stable(_) => "stable",
            Message::ViewChange(_) => "view_change",
            Message::NewView(_) => "new_view",
            Message::Status(_) => "status",
            Message::FetchBodies(_) => "fetch_bodies",
            Message::Body { .. } => "body",
        }
    }

    fn is_promise(&self) -> bool {
        match self {
            // A primary that forgets which batch it gave a slot may give the slot another one.
            Message::PrePrepare { .. } => true,
            // A backup that forgets may accept another digest in the same view and slot.
            Message::Prepare { .. } => true,
            // The certificate must be shown in every view change to come: what is committed
            // rests on it. [Castro99 §4.5.1]
            Message::Commit { .. } => true,
            // What is decided stays so, whoever forgets it.
            Message::Decided(_) => false,
            // Others drop their logs on the word that the state is durable here.
            Message::Checkpoint(_) => true,
            // A replica that forgets that it has left a view may prepare in it what its view
            // change did not show.
            Message::ViewChange(_) => true,
            // It has the primary's pre-prepares.
            Message::NewView(_) => true,
            // A proof that anyone could show.
            Message::Stable(_) => false,
            // Binds nobody: others only send again what they have said before.
            Message::Status(_) | Message::FetchBodies(_) => false,
            // Clients' requests; the driver proposes again what it does not see executed.
            Message::Forward { .. } | Message::Body { .. } => false,
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
