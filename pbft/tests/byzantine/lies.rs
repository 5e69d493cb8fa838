//! Lies that take knowledge of PBFT, each signed by the one who tells it.

use std::collections::BTreeMap;

use quorate_core::crypto::{Digest, Domain, Signer};
use quorate_core::id::{ReplicaId, Slot, UnixTime};
use quorate_core::protocol::Context;
use quorate_core::request::{Batch, BatchBuilder, Request, SessionId};
use quorate_pbft::{
    CheckpointCertificate, CheckpointVote, Entry, Message, Moment, NewView, Pbft, PrepareVote,
    PreparedCertificate, Proposal, Status, View, ViewChange,
};
use quorate_simulator::Tamper;
use quorate_simulator::lies::{Signatures, forge, mixed, respelled};
use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;

/// How many batches a liar remembers, to propose them where others belong.
const REMEMBERED: usize = 16;

/// A replica that lies in PBFT's own terms.
#[derive(Debug)]
pub(crate) struct Lies {
    me: ReplicaId,
    n: usize,
    signer: Signer,
    /// Batches of real requests, and the no-op.
    batches: Vec<Batch>,
    /// The moments that were given last, by slot.
    moments: BTreeMap<Slot, Moment>,
}

impl Lies {
    pub(crate) fn of(context: Context) -> Box<dyn Tamper<Pbft>> {
        Box::new(Lies {
            me: context.me,
            n: context.n(),
            signer: context.signer,
            batches: vec![Batch::noop()],
            moments: BTreeMap::new(),
        })
    }

    fn remember(&mut self, slot: Slot, entry: &Entry) {
        self.moments.insert(slot, entry.moment);
        if self.moments.len() > REMEMBERED {
            self.moments.pop_first();
        }
        if self.batches.len() >= REMEMBERED {
            self.batches.remove(1);
        }
        self.batches.push(entry.batch.clone());
    }

    /// What this liar would rather have in a slot: another batch, at a time that is good.
    fn other(&self, slot: Slot) -> Entry {
        let place = slot.0 as usize % self.batches.len();
        let moment = self.moments.get(&slot);
        let latest = self.moments.values().next_back();
        Entry {
            batch: self.batches.get(place).cloned().unwrap_or_default(),
            moment: moment.or(latest).copied().unwrap_or_default(),
        }
    }

    /// The same batch, at a time that is too early, too late, or another that is good.
    fn at_another_time(&self, random: &mut ChaCha8Rng, entry: &Entry) -> Entry {
        const HOUR: u64 = 3_600_000_000_000;
        let UnixTime(time) = entry.moment.time;
        let time = match random.random_range(0..4) {
            0 => time.saturating_add(HOUR),
            1 => time.saturating_sub(HOUR),
            2 => time.saturating_sub(1_000_000),
            _ => time.saturating_add(1_000_000),
        };
        let mut other = entry.clone();
        other.moment.time = UnixTime(time);
        other
    }

    /// What is signed for a digest in a slot of a view.
    fn vote(&self, view: View, slot: Slot, digest: Digest) -> PrepareVote {
        let mut statement = view.0.to_le_bytes().to_vec();
        statement.extend_from_slice(&slot.0.to_le_bytes());
        statement.extend_from_slice(&digest.0);
        PrepareVote {
            slot,
            digest,
            signature: self.signer.sign(Domain("pbft/prepare"), &statement),
        }
    }

    fn checkpoint(&self, slot: Slot, digest: Digest) -> CheckpointVote {
        let mut statement = slot.0.to_le_bytes().to_vec();
        statement.extend_from_slice(&digest.0);
        CheckpointVote {
            slot,
            digest,
            signature: self.signer.sign(Domain("pbft/checkpoint"), &statement),
        }
    }

    /// A prepared certificate with the wrong signers, or one that is moved to another view or
    /// slot, or speaks for another batch.
    fn prepared(
        &self,
        random: &mut ChaCha8Rng,
        certificate: &PreparedCertificate,
    ) -> PreparedCertificate {
        type Parts = (Proposal, Signatures);
        respelled(certificate, |(mut proposal, mut prepares): Parts| {
            match random.random_range(0..4) {
                0 => proposal.view = View(proposal.view.0 + self.n as u64),
                1 => proposal.slot = proposal.slot.next(),
                2 => proposal.digest = self.other(proposal.slot).digest(),
                _ => forge(random, self.n, &mut prepares),
            }
            (proposal, prepares)
        })
    }

    fn stable(
        &self,
        random: &mut ChaCha8Rng,
        certificate: &CheckpointCertificate,
    ) -> CheckpointCertificate {
        type Parts = (Slot, Digest, Signatures);
        respelled(
            certificate,
            |(mut slot, mut digest, mut signatures): Parts| {
                match random.random_range(0..3) {
                    0 => slot = Slot(slot.0 + 8),
                    1 => digest = Digest::of(&digest.0),
                    _ => forge(random, self.n, &mut signatures),
                }
                (slot, digest, signatures)
            },
        )
    }

    /// A view change that hides what has prepared, shows wrong certificates, or is for later.
    fn view_change(&self, random: &mut ChaCha8Rng, change: ViewChange) -> ViewChange {
        let ViewChange {
            mut view,
            mut stable,
            mut prepared,
            ..
        } = change;
        match random.random_range(0..5) {
            0 => prepared.clear(),
            1 => prepared.retain(|_| random.random_bool(0.5)),
            2 => {
                let place = random.random_range(0..=prepared.len());
                if let Some(certificate) = prepared.get_mut(place) {
                    *certificate = self.prepared(random, certificate);
                }
            }
            3 => stable = stable.map(|certificate| self.stable(random, &certificate)),
            _ => view = View(view.0 + random.random_range(1..=4)),
        }
        ViewChange::signed(&self.signer, (view, self.me), stable, prepared)
    }

    /// A new view that leaves out or invents a pre-prepare, or is short of a view change.
    fn new_view(&self, random: &mut ChaCha8Rng, new_view: NewView) -> NewView {
        let NewView {
            view,
            view_changes: mut changes,
            mut proposals,
            ..
        } = new_view;
        match random.random_range(0..5) {
            0 => {
                proposals.pop();
            }
            1 => {
                let slot = proposals.last().map_or(Slot(1), |last| last.slot.next());
                proposals.push(self.proposal(view, slot));
            }
            2 => {
                let place = random.random_range(0..=proposals.len());
                if let Some(proposal) = proposals.get_mut(place) {
                    *proposal = self.proposal(view, proposal.slot);
                }
            }
            3 => {
                changes.pop();
            }
            _ => {
                let place = random.random_range(0..=changes.len());
                if let Some(change) = changes.get_mut(place) {
                    change.prepared.clear();
                }
            }
        }
        NewView::signed(&self.signer, view, changes, proposals)
    }

    fn proposal(&self, view: View, slot: Slot) -> Proposal {
        Proposal::signed(&self.signer, view, slot, self.other(slot).digest())
    }

    /// Requests that no client made: in a client's name, with the signature on what it did ask for
    /// or without, or in the liar's own.
    fn forged(&self, random: &mut ChaCha8Rng, batch: &Batch) -> Batch {
        let own = SessionId {
            client: self.signer.public(),
            number: 1,
        };
        let mut forged = BatchBuilder::default();
        for group in batch.groups() {
            let signature = group.signature.filter(|_| random.random_bool(0.5));
            let session = match random.random_bool(0.2) {
                true => own,
                false => group.session,
            };
            let mut requests = BatchBuilder::default();
            for request in group.requests() {
                requests.push(Request {
                    session,
                    sequence: request.sequence + 1,
                    ..request
                });
            }
            let requests = requests.finish().signed(&self.signer);
            for mut group in requests.groups() {
                group.signature = group.signature.or(signature);
                forged.push_group(&group);
            }
        }
        forged.finish()
    }

    fn pre_prepare(&self, random: &mut ChaCha8Rng, proposal: &Proposal, entry: &Entry) -> Message {
        let (view, slot) = (proposal.view, proposal.slot);
        let entry = match random.random_range(0..5) {
            0 => self.at_another_time(random, entry),
            1 => Entry {
                batch: self.forged(random, &entry.batch),
                moment: entry.moment,
            },
            _ => self.other(slot),
        };
        Message::PrePrepare {
            proposal: Proposal::signed(&self.signer, view, slot, entry.digest()),
            entry,
        }
    }

    fn status(&self, random: &mut ChaCha8Rng, mut status: Status) -> Status {
        let distance = random.random_range(0..=20);
        match random.random_range(0..4) {
            0 => status.view = View(status.view.0 + distance),
            1 => status.executed = Slot(status.executed.0 + distance),
            2 => status.stable = Slot(status.stable.0.saturating_sub(distance)),
            _ => status.active = !status.active,
        }
        status
    }

    fn lie(&self, random: &mut ChaCha8Rng, message: Message) -> Message {
        match message {
            Message::Forward { batch, .. } => Message::Forward {
                batch: match random.random_bool(0.5) {
                    true => self.forged(random, &batch),
                    false => batch,
                },
                relayed: random.random_bool(0.5),
            },
            Message::PrePrepare { proposal, entry } => self.pre_prepare(random, &proposal, &entry),
            Message::Prepare { view, votes } => {
                let view = View(view.0 + random.random_range(0..=1));
                let other = |vote: &PrepareVote| {
                    let digest = self.other(vote.slot).digest();
                    self.vote(view, vote.slot, digest)
                };
                let votes = votes.iter().map(other).collect();
                Message::Prepare { view, votes }
            }
            Message::Commit { view, votes } => {
                let other = |(slot, _): &(Slot, Digest)| (*slot, self.other(*slot).digest());
                let votes = votes.iter().map(other).collect();
                Message::Commit { view, votes }
            }
            Message::Checkpoint(vote) => {
                let distance = [0, 0, 8][random.random_range(0..3)];
                let slot = Slot(vote.slot.0 + distance);
                Message::Checkpoint(self.checkpoint(slot, Digest::of(b"another state")))
            }
            Message::Stable(certificate) => Message::Stable(self.stable(random, &certificate)),
            Message::ViewChange(change) => Message::ViewChange(self.view_change(random, change)),
            Message::NewView(new_view) => {
                Message::NewView(Box::new(self.new_view(random, *new_view)))
            }
            Message::Status(status) => Message::Status(self.status(random, status)),
            Message::FetchBodies(mut wanted) => {
                wanted.reverse();
                Message::FetchBodies(wanted)
            }
            Message::Decided(decided) => {
                let other = |(slot, _)| (slot, self.other(slot).digest());
                Message::Decided(decided.into_iter().map(other).collect())
            }
            Message::Body { slot, .. } => Message::Body {
                slot,
                entry: self.other(slot),
            },
        }
    }
}

impl Tamper<Pbft> for Lies {
    fn tamper(
        &mut self,
        random: &mut ChaCha8Rng,
        _to: ReplicaId,
        message: Message,
    ) -> Vec<Message> {
        match &message {
            Message::PrePrepare { proposal, entry } => self.remember(proposal.slot, entry),
            Message::Body { slot, entry } => self.remember(*slot, entry),
            _ => {}
        }
        let truths = match message {
            // There are few of these, and much hangs on each.
            Message::NewView(_) | Message::ViewChange(_) | Message::Stable(_) => 1,
            _ => 2,
        };
        mixed(random, truths, message, |random, m| self.lie(random, m))
    }
}
