//! From one primary to the next. [Castro99 §4.4, §4.5]

use std::collections::BTreeMap;

use quorate_core::crypto::Digest;
use quorate_core::id::{ReplicaId, Slot, Time};
use quorate_core::protocol::{Dest, Event};

use crate::certificate::{CheckpointCertificate, PreparedCertificate, Proposal};
use crate::config::Config;
use crate::log::{Instance, NULL, View};
use crate::message::{Message, NewView, ViewChange};
use crate::mutant::Mutant;
use crate::record::Record;
use crate::replica::{Out, Pbft, Votes};

/// What follows from the view changes of a quorum.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// min-s: the latest stable checkpoint shown; without proof if it is the beginning.
    stable: Option<CheckpointCertificate>,
    low: Slot,
    /// What every slot after it must hold, through max-s.
    digests: Vec<(Slot, Digest)>,
}

impl Outcome {
    /// "The primary determines the sequence number min-s of the latest stable checkpoint in V and
    /// the highest sequence number max-s in a prepare message in V. [It] creates a new pre-prepare
    /// message for view v + 1 for each sequence number n between min-s and max-s": with the digest
    /// that prepared in the latest view shown, or else with the null request. [Castro99 §4.4]
    fn of(view_changes: &[ViewChange], config: &Config) -> Outcome {
        let highest = view_changes.iter().max_by_key(|change| change.low());
        let lowest = view_changes.iter().min_by_key(|change| change.low());
        let shown = match config.mutated(Mutant::LowWatermarkFromLowestCheckpoint) {
            true => lowest,
            false => highest,
        };
        let low = shown.map_or(Slot::ZERO, ViewChange::low);
        let mut latest: BTreeMap<Slot, &PreparedCertificate> = BTreeMap::new();
        let certificates = view_changes.iter().flat_map(|change| &change.prepared);
        for certificate in certificates.filter(|certificate| certificate.slot() > low) {
            let known = latest.entry(certificate.slot()).or_insert(certificate);
            let later = certificate.view() > known.view();
            if later != config.mutated(Mutant::OlderCertificateMasksNewer) {
                *known = certificate;
            }
        }
        let high = latest.keys().next_back().copied().unwrap_or(low);
        let slots = (low.0 + 1..=high.0).map(Slot);
        let digest = |slot: &Slot| latest.get(slot).map_or(*NULL, |found| found.digest());
        Outcome {
            stable: shown.and_then(|change| change.stable.clone()),
            low,
            digests: slots.map(|slot| (slot, digest(&slot))).collect(),
        }
    }

    /// max-s.
    fn high(&self) -> Slot {
        self.digests.last().map_or(self.low, |(slot, _)| *slot)
    }

    /// Whether `proposals` are what follows.
    fn is(&self, proposals: &[Proposal]) -> bool {
        let proposed = proposals.iter().map(|p| (p.slot, p.digest));
        proposed.eq(self.digests.iter().copied())
    }
}

/// min-s and max-s of a new view.
pub(crate) fn settled_by(new_view: &NewView, config: &Config) -> (Slot, Slot) {
    let outcome = Outcome::of(&new_view.view_changes, config);
    (outcome.low, outcome.high())
}

impl Pbft {
    /// "The backup starts a view change to move the system to view v + 1. It stops accepting
    /// messages (other than checkpoint, view-change, and new-view messages)", and commits, which
    /// decide what they decide wherever this replica is. [Castro99 §4.4]
    pub(crate) fn start_view_change(&mut self, view: View, out: &mut Out) {
        self.leave_view(out);
        self.view = view;
        self.new_view = None;
        self.patience.attempts = self.patience.attempts.saturating_add(1);
        out.persist(Record::View(view));
        out.event(Event::Campaign { regime: view.0 });
        out.send(Dest::All, Message::ViewChange(self.own_view_change()));
    }

    fn leave_view(&mut self, out: &mut Out) {
        self.votes = Votes::default();
        self.primary.queue.clear();
        self.stop_watching(out);
        self.stop_awaiting_new_view(out);
        self.log.for_each(Instance::leave_view);
    }

    /// The view change of this replica for its view. Said again, it shows the same or a later
    /// checkpoint: between the views nothing prepares.
    pub(crate) fn own_view_change(&self) -> ViewChange {
        let prepared = match self.config.mutated(Mutant::PreparedDroppedInViewChange) {
            true => Vec::new(),
            false => {
                let slots = self.log.iter();
                slots.filter_map(|(_, i)| i.prepared().cloned()).collect()
            }
        };
        let stable = self.stable.clone();
        ViewChange::signed(&self.signer, (self.view, self.me), stable, prepared)
    }

    /// Takes a view change, valid as far as signatures go. Of each replica the one for the highest
    /// view is kept; one that was replayed is not later than the one known.
    pub(crate) fn view_change(&mut self, now: Time, change: ViewChange, out: &mut Out) {
        let (from, view) = (change.from, change.view);
        let stale = self.config.mutated(Mutant::StaleViewChangesCounted);
        let low = change.low();
        if !change.is_within(self.config.window) || low > Slot::ZERO && !self.is_checkpoint(low) {
            return;
        }
        let Some(known) = self.view_changes.get_mut(from.index()) else {
            return;
        };
        if known.as_ref().is_some_and(|known| known.view >= view) && !stale {
            return;
        }
        let proof = change.stable.clone();
        *known = Some(change);
        if let Some(certificate) = proof {
            self.certified(now, certificate, out);
        }
        if view <= self.view {
            self.show_new_view(from, out);
        }
        if from != self.me {
            self.join_view_change(out);
        }
        self.try_new_view(now, out);
    }

    /// "If a replica receives a set of f + 1 valid view-change messages from other replicas for
    /// views greater than its current view, it sends a view-change message for the smallest view
    /// in the set, even if its timer has not expired." [Castro99 §4.5.2]
    fn join_view_change(&mut self, out: &mut Out) {
        let stale = self.config.mutated(Mutant::StaleViewChangesCounted);
        let changes = self.view_changes.iter().flatten();
        let ahead = changes.filter(|change| change.from != self.me);
        let ahead = ahead.filter(|change| change.view > self.view || stale);
        let views: Vec<View> = ahead.map(|change| change.view).collect();
        if views.len() >= self.weak()
            && let Some(smallest) = views.into_iter().min()
        {
            let view = if stale { self.view.next() } else { smallest };
            self.start_view_change(view, out);
        }
    }

    /// "A replica that has sent a view-change message for view v + 1 waits for 2f + 1 view-change
    /// messages for view v + 1 and then starts its timer." Those for later views are as good for
    /// that: who has sent one has given up view v, and will not say so of v + 1 again. The primary
    /// of the view begins it with 2f + 1 for just this view. [Castro99 §4.4, §4.5.2]
    fn try_new_view(&mut self, now: Time, out: &mut Out) {
        if self.is_active() {
            return;
        }
        let changes = self.view_changes.iter().flatten();
        let left = changes.filter(|change| change.view >= self.view);
        if left.count() < self.strong() {
            return;
        }
        if self.patience.new_view.is_none() {
            self.await_new_view(now + self.new_view_patience(now), out);
        }
        if self.view.primary(self.n) == self.me && !self.primary.has_made(self.view) {
            let changes = self.view_changes.iter().flatten();
            let same = changes.filter(|change| change.view == self.view);
            let quorum: Vec<ViewChange> = same.take(self.strong()).cloned().collect();
            if quorum.len() == self.strong() {
                self.make_new_view(quorum, out);
            }
        }
    }

    /// Shows a replica how the view began: once a round, however often it asks.
    pub(crate) fn show_new_view(&mut self, to: ReplicaId, out: &mut Out) {
        if let Some(new_view) = &self.new_view
            && self.peers.may_be_shown(to)
        {
            out.send(Dest::One(to), Message::NewView(new_view.clone()));
        }
    }

    /// "When the primary p of view v + 1 receives 2f valid view-change messages for view v + 1 from
    /// other replicas, it multicasts a new-view message." [Castro99 §4.4]
    fn make_new_view(&mut self, quorum: Vec<ViewChange>, out: &mut Out) {
        let outcome = Outcome::of(&quorum, &self.config);
        let digests = outcome.digests.iter();
        let proposals = digests.map(|(slot, digest)| self.propose_in(*slot, *digest));
        let proposals = proposals.collect();
        let new_view = NewView::signed(&self.signer, self.view, quorum, proposals);
        let new_view = Box::new(new_view);
        self.primary.made = Some(new_view.clone());
        out.persist(Record::NewView(new_view.clone()));
        out.send(Dest::All, Message::NewView(new_view));
    }

    /// "If the timer expires before it receives a valid new-view message for v + 1, it starts the
    /// view change for view v + 2 but this time it will wait 2T." [Castro99 §4.5.2]
    pub(crate) fn new_view_timed_out(&mut self, out: &mut Out) {
        self.patience.new_view = None;
        if !self.is_active() {
            self.start_view_change(self.view.next(), out);
        }
    }

    /// "A backup accepts a new-view message for view v + 1 if it is signed properly, if the
    /// view-change messages it contains are valid for view v + 1, and if the set O is correct; it
    /// verifies the correctness of O by performing a computation similar to the one used by the
    /// primary to create O." [Castro99 §4.4]
    pub(crate) fn begin_view(&mut self, now: Time, new_view: Box<NewView>, out: &mut Out) {
        let view = new_view.view;
        if view < self.view || view == self.view && self.is_active() {
            return;
        }
        let mut changes = new_view.view_changes.iter();
        if !changes.all(|change| change.is_within(self.config.window)) {
            return;
        }
        let outcome = Outcome::of(&new_view.view_changes, &self.config);
        if !outcome.is(&new_view.proposals) && !self.config.mutated(Mutant::NewViewNotRecomputed) {
            return;
        }
        self.leave_view(out);
        // What this replica made itself is in its records since it made it.
        if !self.primary.has_made(view) {
            out.persist(Record::NewView(new_view.clone()));
        }
        self.view = view;
        self.new_view = Some(new_view);
        self.settled = (outcome.low, outcome.high());
        self.primary.next = self.settled.1.max(self.log.low()).next();
        if let Some(certificate) = outcome.stable {
            self.certified(now, certificate, out);
        }
        self.accept_settled(out);
        self.note_all();
        self.wait_in_new_view(now, out);
        self.replay_early(now, out);
    }

    /// Accepts the pre-prepares of the new view, as far as the watermarks allow now. "It also
    /// multicasts prepare messages for each message in O." [Castro99 §4.4]
    pub(crate) fn accept_settled(&mut self, out: &mut Out) {
        let Some(new_view) = &self.new_view else {
            return;
        };
        let mut accepted = Vec::new();
        for proposal in &new_view.proposals {
            if let Some(instance) = self.log.entry(proposal.slot)
                && instance.accepted_in(self.view).is_none()
            {
                instance.accept(proposal.clone());
                instance.counts = true;
                accepted.push(proposal.slot);
            }
        }
        for slot in accepted {
            self.note_accepted(slot);
            self.vote_prepare(slot);
            self.try_prepare(slot, out);
            self.ask_for_bodies(slot, out);
        }
    }

    /// The view of the last view change known of each replica.
    pub(crate) fn view_changes_known(&self) -> Vec<View> {
        let known = self.view_changes.iter();
        known
            .map(|change| change.as_ref().map_or(View::default(), |c| c.view))
            .collect()
    }

    /// Whether `replica` lacks this replica's view change.
    pub(crate) fn owes_view_change(&self, known: &[View]) -> bool {
        let theirs = known.get(self.me.index()).copied().unwrap_or_default();
        !self.is_active() && theirs < self.view
    }
}
