//! The failure-free path: pre-prepare, prepare, commit, execution. [Castro99 §4.2]

use quorate_core::crypto::Digest;
use quorate_core::id::{EntryId, ReplicaId, Slot, Time};
use quorate_core::protocol::{Commit, Dest};
use quorate_core::request::Batch;

use crate::certificate::{PreparedCertificate, Proposal, sign_prepare};
use crate::entry::{Entry, Moment};
use crate::log::{NULL, View};
use crate::message::{Message, PrepareVote};
use crate::mutant::Mutant;
use crate::record::Record;
use crate::replica::{Out, Pbft, Votes};

/// As the primary.
impl Pbft {
    /// Takes requests to order, unless they are under way already.
    pub(crate) fn order(&mut self, now: Time, batch: Batch, out: &mut Out) {
        let size = self.primary.queued_bytes + batch.size();
        if self.is_under_way(&batch) || size > self.config.max_queued_bytes {
            return;
        }
        self.primary.queued_bytes = size;
        self.primary.queue.push_back(batch);
        self.propose_queued(now, out);
    }

    fn is_under_way(&self, batch: &Batch) -> bool {
        if self.config.mutated(Mutant::InFlightOrderedAgain) {
            return false;
        }
        let mut unexecuted = self.log.iter_from(self.executed.next());
        let accepted = unexecuted.any(|(_, instance)| {
            let entry = instance.entry_in(self.view);
            entry.is_some_and(|entry| entry.batch == *batch)
        });
        accepted || self.primary.queue.contains(batch)
    }

    /// "The primary assigns a sequence number, n, to the request, multicasts a pre-prepare message
    /// to all the backups", as far as the window has room. It counts when it has come back, which
    /// is when it is durable. [Castro99 §4.2]
    pub(crate) fn propose_queued(&mut self, now: Time, out: &mut Out) {
        while self.leads() && self.log.contains(self.primary.next) {
            let Some(batch) = self.primary.queue.pop_front() else {
                return;
            };
            self.primary.queued_bytes = self.primary.queued_bytes.saturating_sub(batch.size());
            let slot = self.primary.next;
            self.primary.next = slot.next();
            let moment = self.primary.moments.next(self.wall_clock_at(now));
            let entry = Entry { batch, moment };
            let proposal = self.propose_in(slot, entry.digest());
            self.accept(proposal.clone(), entry.clone(), out);
            out.send(Dest::All, Message::PrePrepare { proposal, entry });
        }
    }
}

/// As any replica.
impl Pbft {
    /// Whether a batch has a slot after the last checkpoint that this replica has come to, executed
    /// or not. Of those before it, others may not know any more that they have executed them: who
    /// tells that it waits for such a batch would wait for ever.
    pub(crate) fn has_slot(&self, batch: &Batch) -> bool {
        if self.config.mutated(Mutant::DecidedOrderedAgain) {
            return false;
        }
        let every = self.config.checkpoint_every.max(1);
        let checkpoint = Slot(self.executed.0 - self.executed.0 % every);
        self.log.iter_from(checkpoint.next()).any(|(_, instance)| {
            let decided = instance.committed();
            let decided = decided.and_then(|digest| instance.body(&digest));
            let mut entries = instance.entry_in(self.view).into_iter().chain(decided);
            entries.any(|entry| entry.batch == *batch)
        })
    }

    /// Whether a batch has been executed in a slot between the watermarks.
    pub(crate) fn has_executed(&self, batch: &Batch) -> bool {
        let executed = self
            .log
            .iter()
            .take_while(|(slot, _)| *slot <= self.executed);
        executed
            .filter_map(|(_, i)| i.body(&i.committed()?))
            .any(|entry| entry.batch == *batch)
    }

    /// Takes a pre-prepare, by whomever it was sent: the primary has signed it. "A backup accepts
    /// a pre-prepare message provided [...] it is in view v; it has not accepted a pre-prepare
    /// message for view v and sequence number n containing a different digest; the sequence number
    /// in the pre-prepare message is between a low water mark, h, and a high water mark, H."
    /// [Castro99 §4.2]
    pub(crate) fn pre_prepare(
        &mut self,
        now: Time,
        from: ReplicaId,
        (proposal, entry): (Proposal, Entry),
        out: &mut Out,
    ) {
        let (view, slot, digest) = (proposal.view, proposal.slot, proposal.digest);
        self.body(slot, digest, &entry, out);
        if view < self.view || slot <= self.log.low() {
            return;
        }
        if self.is_early(view, slot) {
            return self.keep_early(from, Message::PrePrepare { proposal, entry });
        }
        let instance = self.log.slot(slot);
        let known = instance.and_then(|i| Some(i.accepted_in(view)?.digest));
        let replaces = self.config.mutated(Mutant::SecondDigestAccepted);
        match known {
            // A primary's own counts when it has come back to it.
            Some(known) if known == digest => {
                let counts = view.primary(self.n) != self.me || from == self.me;
                if let Some(instance) = self.log.entry(slot) {
                    instance.counts |= counts;
                }
            }
            Some(_) if !replaces => return,
            // What the new view says of the slots before the first that is free is all there is.
            None if slot <= self.settled.1 => return,
            _ if !self.is_timely(now, &entry.moment) => {
                return self.await_refused(now, (from, slot), &entry.batch, out);
            }
            _ => {
                self.accept(proposal, entry, out);
                self.vote_prepare(slot);
            }
        }
        self.try_prepare(slot, out);
    }

    /// Whether the time that the primary gives a slot is near to what the clock shows here. The times
    /// of other slots say nothing: they may have been given by clocks that were wrong. That time goes
    /// on for the application is the driver's to see to. [Castro99 §4.6]
    fn is_timely(&self, now: Time, moment: &Moment) -> bool {
        let away = moment.time.distance(self.wall_clock_at(now));
        away <= self.config.max_clock_skew || self.config.mutated(Mutant::TimeNotChecked)
    }

    /// Waits for requests whose time was refused: they are as good as any that a client has sent,
    /// and a primary with a wrong clock is to be replaced. [Castro99 §4.4]
    fn await_refused(
        &mut self,
        now: Time,
        (from, slot): (ReplicaId, Slot),
        batch: &Batch,
        out: &mut Out,
    ) {
        if slot > self.executed && !batch.is_empty() {
            self.await_execution(now, (from, batch.digest()), batch, out);
        }
    }

    /// Puts a pre-prepare into the log, durably.
    fn accept(&mut self, proposal: Proposal, entry: Entry, out: &mut Out) {
        let backup = proposal.view.primary(self.n) != self.me;
        let Some(instance) = self.log.entry(proposal.slot) else {
            return;
        };
        instance.accept(proposal.clone());
        instance.keep(proposal.digest, entry.clone());
        instance.counts = backup;
        out.persist(Record::PrePrepared { proposal, entry });
    }

    /// "If backup i accepts the pre-prepare message, it enters the prepare phase by multicasting a
    /// prepare message to all other replicas": at the end of the turn, and once it has the batch,
    /// so that what prepares is in the hands of f + 1 correct replicas. [Castro99 §4.2]
    pub(crate) fn vote_prepare(&mut self, slot: Slot) {
        if self.leads() || !self.is_active() {
            return;
        }
        let accepted = self.log.slot(slot).and_then(|instance| {
            let proposal = instance.accepted_in(self.view)?;
            instance.body(&proposal.digest).map(|_| proposal.digest)
        });
        if let Some(digest) = accepted {
            let vote = self.own_prepare(slot, digest);
            self.votes.prepares.push(vote);
        }
    }

    /// This replica's pre-prepare in its view.
    pub(crate) fn propose_in(&self, slot: Slot, digest: Digest) -> Proposal {
        let by = (&self.signer, &self.verifier, self.me);
        Proposal::signed_here(by, self.view, slot, digest)
    }

    /// This replica's prepare in its view.
    pub(crate) fn own_prepare(&self, slot: Slot, digest: Digest) -> PrepareVote {
        let by = (&self.signer, &self.verifier, self.me);
        PrepareVote {
            slot,
            digest,
            signature: sign_prepare(by, self.view, slot, &digest),
        }
    }

    /// Takes prepares. [Castro99 §4.2]
    pub(crate) fn prepare(
        &mut self,
        from: ReplicaId,
        view: View,
        votes: Vec<PrepareVote>,
        out: &mut Out,
    ) {
        // A primary has said what it has to say in its pre-prepare.
        if view < self.view || from == view.primary(self.n) {
            return;
        }
        let mut early = Vec::new();
        for vote in votes {
            if vote.slot <= self.log.low() {
                continue;
            }
            if self.is_early(view, vote.slot) {
                early.push(vote);
            } else if let Some(instance) = self.log.entry(vote.slot) {
                instance.count_prepare(from, vote.digest, vote.signature);
                self.try_prepare(vote.slot, out);
            }
        }
        if !early.is_empty() {
            let votes = early;
            self.keep_early(from, Message::Prepare { view, votes });
        }
    }

    /// "prepared(m, v, n, i) is true if and only if replica i has inserted in its log: the request
    /// m, a pre-prepare for m in view v with sequence number n, and 2f prepares from different
    /// backups that match the pre-prepare." [Castro99 §4.2]
    pub(crate) fn try_prepare(&mut self, slot: Slot, out: &mut Out) {
        let (strong, n, view) = (self.strong(), self.n, self.view);
        let Some(instance) = self.log.entry(slot) else {
            return;
        };
        let done = instance.prepared().is_some_and(|p| p.view() >= view);
        let Some(proposal) = instance.accepted_in(view).filter(|_| !done) else {
            return;
        };
        let digest = proposal.digest;
        if !instance.counts || instance.body(&digest).is_none() {
            return;
        }
        let prepares = instance.prepares_for(&digest);
        let Some(certificate) = PreparedCertificate::of(proposal, prepares, strong, n) else {
            return;
        };
        instance.prepare(certificate.clone());
        out.persist(Record::Prepared(certificate));
        self.votes.commits.push((slot, digest));
        if self.config.mutated(Mutant::ExecutedAtPrepared) {
            self.decide(slot, digest, out);
        }
    }

    /// Takes commits, of whatever view: what a quorum has committed is decided, whether this
    /// replica is in that view or not. [Castro99 §4.2]
    pub(crate) fn commit(
        &mut self,
        from: ReplicaId,
        view: View,
        votes: Vec<(Slot, Digest)>,
        out: &mut Out,
    ) {
        let mut early = Vec::new();
        for (slot, digest) in votes {
            if slot > self.log.high() {
                early.push((slot, digest));
            } else if let Some(instance) = self.log.entry(slot) {
                instance.count_commit(from, view, digest);
                let decided = instance.commits_for(view, &digest) >= self.strong();
                if decided {
                    self.decide(slot, digest, out);
                }
            }
        }
        if !early.is_empty() {
            let votes = early;
            self.keep_early(from, Message::Commit { view, votes });
        }
    }

    /// Takes what others have executed. One of f + 1 is correct, and has seen the commits of a
    /// quorum, which need not say so again: some of it may be faulty, or have gone on to another
    /// view.
    pub(crate) fn decided(&mut self, from: ReplicaId, slots: Vec<(Slot, Digest)>, out: &mut Out) {
        let weak = self.weak();
        for (slot, digest) in slots {
            if slot > self.log.high() {
                continue;
            }
            if let Some(instance) = self.log.entry(slot) {
                instance.count_claim(from, digest);
                if instance.claims_for(&digest) >= weak {
                    self.decide(slot, digest, out);
                }
            }
        }
    }

    fn decide(&mut self, slot: Slot, digest: Digest, out: &mut Out) {
        let executed = slot <= self.executed;
        let Some(instance) = self.log.entry(slot) else {
            return;
        };
        if executed || instance.committed().is_some() {
            return;
        }
        instance.commit(digest);
        if instance.lacks(&digest) {
            self.ask_for_bodies(slot, out);
        }
        self.execute(out);
    }

    /// "Replica i executes the operation requested by m after committed-local(m, v, n, i) is true
    /// and i's state reflects the sequential execution of all requests with lower sequence
    /// numbers." [Castro99 §4.2]
    pub(crate) fn execute(&mut self, out: &mut Out) {
        loop {
            let slot = self.executed.next();
            let ready = self.log.slot(slot).and_then(|instance| {
                let digest = instance.committed()?;
                Some((digest, instance.body(&digest)?.clone()))
            });
            let Some((digest, Entry { batch, moment })) = ready else {
                return;
            };
            self.executed = slot;
            self.note_progress(slot);
            self.waiting.executed(&batch);
            out.commit(Commit {
                id: EntryId::single(slot),
                batch,
                checkpoint: self.is_checkpoint(slot),
                agreed: (digest != *NULL).then(|| moment.agreed_in(slot)),
            });
        }
    }

    /// Sends the votes of this turn: one message a kind. [Castro02 §5]
    pub(crate) fn send_votes(&mut self, out: &mut Out) {
        let Votes { prepares, commits } = std::mem::take(&mut self.votes);
        let view = self.view;
        if !prepares.is_empty() {
            let votes = prepares;
            out.send(Dest::All, Message::Prepare { view, votes });
        }
        if !commits.is_empty() {
            let votes = commits;
            out.send(Dest::All, Message::Commit { view, votes });
        }
    }

    /// Whether a message of this view or a later one came before its time.
    fn is_early(&self, view: View, slot: Slot) -> bool {
        view > self.view || !self.is_active() || slot > self.log.high()
    }

    fn keep_early(&mut self, from: ReplicaId, message: Message) {
        if !self.config.mutated(Mutant::EarlyMessagesDropped) {
            self.early.keep(from, message, &self.config);
        }
    }

    /// A batch has come. If it was missing, what rests on it goes on.
    pub(crate) fn body(&mut self, slot: Slot, digest: Digest, entry: &Entry, out: &mut Out) {
        let Some(instance) = self.log.slot(slot).filter(|i| i.lacks(&digest)) else {
            return;
        };
        let accepted = instance.accepted_in(self.view);
        let votes = accepted.is_some_and(|proposal| proposal.digest == digest);
        if let Some(instance) = self.log.entry(slot) {
            instance.keep(digest, entry.clone());
        }
        let entry = entry.clone();
        out.persist(Record::Body { slot, entry });
        if votes {
            self.vote_prepare(slot);
            self.try_prepare(slot, out);
        }
        self.execute(out);
    }
}
