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
use crate::queue::Source;
use crate::record::Record;
use crate::replica::{Out, Pbft, Votes};

/// As the primary.
impl Pbft {
    /// Takes requests to order, of which a replica has told it, unless that replica is yet to execute
    /// a slot that holds them.
    ///
    /// What it has executed it may not know any more. It says how far it has come, and is past each
    /// checkpoint that this replica has come to, or learns of it as proved: what lies before that is
    /// ordered again, for who waits for it would wait for ever.
    pub(crate) fn order(&mut self, now: Time, source: Source, batch: Batch, out: &mut Out) {
        let known = match source.from == self.me {
            true => self.executed,
            false => self.forgotten_by(source.from),
        };
        if !self.is_ordered_after(known, &batch) {
            self.primary.queue.add(source, batch, &self.config);
            self.propose_queued(now, out);
        }
    }

    /// Through where another replica may have forgotten what it has executed.
    fn forgotten_by(&self, replica: ReplicaId) -> Slot {
        let every = self.config.checkpoint_every.max(1);
        let checkpoint = Slot(self.executed.0 - self.executed.0 % every);
        match self.config.mutated(Mutant::TellerNotAsked) {
            true => checkpoint,
            false => checkpoint.max(self.peers.executed_of(replica)),
        }
    }

    fn is_ordered_after(&self, known: Slot, batch: &Batch) -> bool {
        let slot = self.slot_like(batch).filter(|slot| *slot > known);
        let overlooked = slot.is_some_and(|slot| match slot > self.executed {
            true => self.config.mutated(Mutant::InFlightOrderedAgain),
            false => self.config.mutated(Mutant::DecidedOrderedAgain),
        });
        slot.is_some() && !overlooked
    }

    /// "The primary assigns a sequence number, n, to the request, multicasts a pre-prepare message
    /// to all the backups", as far as the window has room. It counts when it has come back, which
    /// is when it is durable. [Castro99 §4.2]
    pub(crate) fn propose_queued(&mut self, now: Time, out: &mut Out) {
        while self.leads() && self.log.contains(self.primary.next) {
            let slot = self.primary.next;
            let Some(size) = self.primary.queue.next_size(&self.config) else {
                return;
            };
            let batch = match self.has_room_for(size, 1) {
                true => self.primary.queue.take_next(slot),
                // The next checkpoint makes room, and comes after so many slots whatever they hold.
                false if self.is_checkpoint(slot.previous()) => return,
                false => Some(Batch::noop()),
            };
            let Some(batch) = batch else { return };
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
    /// Whether a batch has been executed in a slot between the watermarks.
    pub(crate) fn has_executed(&self, batch: &Batch) -> bool {
        self.slot_of(batch)
            .is_some_and(|slot| slot <= self.executed)
    }

    /// Whether the batches between the watermarks leave room for another, in so many times the bytes
    /// that a primary fills. There is always room for one, and for the null request.
    fn has_room_for(&self, size: usize, times: usize) -> bool {
        if size == 0 || self.config.mutated(Mutant::WindowOfAnySize) {
            return true;
        }
        let held = self.log.bytes_in(self.view);
        let room = self.config.max_window_bytes.saturating_mul(times);
        held == 0 || held.saturating_add(size) <= room
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
            // No correct primary fills so much. It waits as what lies beyond the high watermark does.
            None if !self.has_room_for(entry.size(), 2) => {
                return self.keep_early(from, Message::PrePrepare { proposal, entry });
            }
            _ if !self.is_timely(now, &entry.moment) => {
                return self.await_refused(now, (from, slot), &entry.batch);
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
    fn await_refused(&mut self, now: Time, (from, slot): (ReplicaId, Slot), batch: &Batch) {
        if slot > self.executed && !batch.is_empty() {
            self.await_execution(now, (from, batch.digest()), batch);
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
        self.note_accepted(proposal.slot);
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
            self.ordered.note(slot, &batch);
            self.primary.queue.executed(slot);
            self.note_progress(slot);
            self.waiting.executed(&batch, self.me);
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
        self.note_accepted(slot);
        let entry = entry.clone();
        out.persist(Record::Body { slot, entry });
        if votes {
            self.vote_prepare(slot);
            self.try_prepare(slot, out);
        }
        self.execute(out);
    }
}
