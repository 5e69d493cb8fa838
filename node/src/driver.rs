//! The one task that owns the replica.
//!
//! It sleeps until something happens, takes all that has happened as one turn, and carries out
//! the turn's effects: messages first, so that they travel while the disk works.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use quorate_core::consensus::{ProposeError, ReadLevel};
use quorate_core::crypto::Digest;
use quorate_core::id::{ReplicaId, Time};
use quorate_core::machine::StateMachine;
use quorate_core::protocol::{Dest, Event, Fetch, Protocol, Role, Status};
use quorate_core::replica::{Effects, Halt, ReadToken, Replica};
use quorate_core::request::{Batch, Request};
use quorate_core::storage::Storage;
use quorate_core::transport::Transport;
use quorate_core::wire::Envelope;
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

use crate::client_wire::{Reply, Report};
use crate::digests::{Asker, Digests};
use crate::gate::{self, Offer};
use crate::inbox::{Completed, Happening, Inbox};
use crate::lanes::Sender;
use crate::replies::{ConnectionId, Replies, STATUS};

/// How many happenings make a turn at most, so that no effect waits for a flood to end.
const TURN_LIMIT: usize = 1024;

/// How often a turn for requests alone lets all other tasks that are ready run before it: the
/// requests that these are about to bring go into the same batch. Where nothing else is ready it
/// costs microseconds. `docs/performance.md` has what it brings.
const YIELDS: usize = 16;

/// How soon to look again whether a client has taken its answers, whose reads wait for that.
const HELD: std::time::Duration = std::time::Duration::from_millis(2);

/// How long to wait for a turn when no timer is armed.
const IDLE: std::time::Duration = std::time::Duration::from_secs(3600);

/// Names the driver's own read; connections' reads are numbered from below.
const CATCH_UP: ReadToken = ReadToken(u64::MAX);

/// The driver's end of the inbox: nothing is brought to a driver that has gone.
pub(crate) struct Closing<P: Protocol>(pub(crate) Arc<Inbox<P>>);

impl<P: Protocol> Drop for Closing<P> {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// Whether a query that was ordered after the start has been answered.
#[derive(Clone, Copy, Default)]
pub(crate) enum CaughtUp {
    #[default]
    Unknown,
    Asked,
    Yes,
}

pub(crate) struct Driver<P: Protocol, S: StateMachine> {
    pub(crate) replica: Replica<P, S>,
    pub(crate) storage: Box<dyn Storage>,
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) envelope: Envelope,
    pub(crate) completed: Arc<Completed>,
    pub(crate) inbox: Closing<P>,
    pub(crate) offer: Arc<Offer>,
    pub(crate) status: watch::Sender<Status>,
    pub(crate) replies: Replies,
    pub(crate) digests: Digests,
    /// Reads that were taken in a turn that had answered enough.
    pub(crate) postponed: VecDeque<Happening<P>>,
    pub(crate) caught_up: CaughtUp,
    /// Whether something was left in the inbox that could not be taken yet.
    pub(crate) held: bool,
    pub(crate) origin: std::time::Instant,
}

/// What clients are told of who leads; nothing where nobody ever does.
fn leadership(leader: Option<ReplicaId>, role: Role) -> Option<Reply> {
    match leader {
        Some(leader) => Some(Reply::Leader(leader)),
        None => (role != Role::Peer).then_some(Reply::Leaderless),
    }
}

impl<P: Protocol, S: StateMachine> Driver<P, S> {
    fn now(&self) -> Time {
        Time::ZERO + self.origin.elapsed()
    }

    /// Runs until told to stop, or until the replica must stop by itself.
    pub(crate) async fn run(mut self, mut stop: oneshot::Receiver<()>) -> Result<(), Halt> {
        let (completed, inbox) = (self.completed.clone(), self.inbox.0.clone());
        let mut gathered = Vec::with_capacity(TURN_LIMIT);
        self.replica.start(self.now());
        let sleep = tokio::time::sleep_until(self.deadline());
        tokio::pin!(sleep);
        loop {
            let effects = self.turn(&mut gathered);
            self.carry_out(effects).await?;
            let deadline = self.deadline();
            if sleep.deadline() != deadline {
                sleep.as_mut().reset(deadline);
            }
            tokio::select! {
                biased;
                _ = &mut stop => return Ok(()),
                () = completed.news.notified() => {}
                () = inbox.news.notified() => self.gather(&mut gathered),
                () = &mut sleep => {}
            }
            if !gathered.is_empty() && gathered.iter().all(Happening::is_request) {
                for _ in 0..YIELDS {
                    tokio::task::yield_now().await;
                }
            }
        }
    }

    fn deadline(&self) -> tokio::time::Instant {
        let wait = match self.replica.deadline() {
            Some(at) => at.since(Time::ZERO),
            None => self.origin.elapsed() + IDLE,
        };
        let replica = tokio::time::Instant::from_std(self.origin + wait);
        let held = self.held.then(|| tokio::time::Instant::now() + HELD);
        let postponed = (!self.postponed.is_empty()).then(Instant::now);
        let others = [self.digests.due(), held, postponed].into_iter().flatten();
        others.fold(replica, Instant::min)
    }

    /// Takes what waits, but for reads of clients that have not taken their answers.
    fn gather(&mut self, gathered: &mut Vec<Happening<P>>) {
        let (replies, replica) = (&mut self.replies, &self.replica);
        replies.wake();
        let admit = |happening: &Happening<P>| match happening {
            Happening::Read(id, ..) | Happening::Peek(id, ..) => replies.admit_read(*id),
            Happening::Status(id, ..) => replies.admit_status(*id),
            Happening::Propose(_, batch) => replica.may_take(batch),
            _ => true,
        };
        self.held = self.inbox.0.take(gathered, TURN_LIMIT, admit);
    }

    /// One turn: all that has happened, then its end.
    fn turn(&mut self, gathered: &mut Vec<Happening<P>>) -> Effects<P> {
        self.gather(gathered);
        // Not before: a lease that was good then may be over by the time a read has come.
        let now = self.now();
        if let Some(error) = self.completed.failure() {
            self.replica.storage_failed(error);
        }
        self.replica
            .short_of_room(self.completed.is_short_of_room());
        self.replica.durable(self.completed.durable_through());
        self.replica.saved(now, self.completed.saved_through());
        let postponed = std::mem::take(&mut self.postponed);
        for happening in postponed.into_iter().chain(gathered.drain(..)) {
            match happening.wisher() {
                Some(id) => self.grant(now, id, happening),
                None => self.take(now, happening),
            }
        }
        self.make_digest();
        self.replica.tick(now);
        self.replica.end_turn(now)
    }

    /// Does what a client wishes to be told, at its cost; in the next turn if enough was done so.
    fn grant(&mut self, now: Time, id: ConnectionId, happening: Happening<P>) {
        if self.replies.has_answered_enough() {
            return self.postponed.push_back(happening);
        }
        // Nobody waits for it any more otherwise.
        if self.replies.is_connected(id) {
            let least = match happening {
                Happening::Status(..) => STATUS,
                _ => std::time::Duration::ZERO,
            };
            let begun = std::time::Instant::now();
            self.take(now, happening);
            self.replies.charge(id, begun.elapsed().max(least));
        }
    }

    fn take(&mut self, now: Time, happening: Happening<P>) {
        match happening {
            Happening::Message(message) => self.replica.message(now, message),
            Happening::Connected(id, sink) => {
                self.replies.connected(id, sink);
                let status = self.replica.status();
                if let Some(reply) = leadership(status.leader, status.role) {
                    self.replies.reply(id, reply);
                }
            }
            Happening::Disconnected(id) => {
                let unread = self.replies.disconnected(id);
                if !unread.is_empty() {
                    self.replica.forget_reads(|token| unread.contains(&token));
                }
                self.digests.forget(id);
                self.inbox.0.forget(Sender::Client(id));
            }
            Happening::Propose(id, batch) => self.propose(id, &batch),
            Happening::Refused(id, batch, forged) => {
                let refused = ProposeError::Refused(forged.to_string());
                for request in batch.requests() {
                    self.refuse(id, &request, refused.clone());
                }
            }
            Happening::Follow(id, session) => {
                self.replies.bind(id, session);
                let opened = self.replica.opened();
                self.replies.reply(id, Reply::Opened(opened));
            }
            Happening::Peek(id, number, query) => self.peek(id, number, &query),
            Happening::Read(id, number, level, query) => {
                let token = self.replies.expect_read(id, number);
                if let Err(error) = self.replica.read(token, query, level) {
                    self.replies.reader(token);
                    self.replies.read(id, Reply::Read(number, Err(error)), 0);
                }
            }
            Happening::Status(id, number, false) => self.report(id, number),
            Happening::Status(id, number, true) => {
                if self.digests.ask(Asker::Client(id, number)).is_err() {
                    self.report(id, number);
                }
            }
            Happening::FetchProgressed(from) => self.replica.fetch_progressed(now, from),
            Happening::Fetched(from, snapshot) => self.replica.fetched(now, from, snapshot),
            Happening::Ledger(asker) => drop(asker.send(self.ledger())),
            // Too many wait: that it is dropped tells the asker.
            Happening::Digest(asker) => drop(self.digests.ask(Asker::Own(asker))),
            Happening::Digested(digest) => {
                let made = self.digests.made(digest);
                self.tell_digest(made);
            }
        }
    }

    /// Answers from what has been executed, once that is all that this replica had executed, and
    /// told clients, before it started: what was executed is handed over again after a restart,
    /// and a query ordered since then comes after it. Until then it is silent, and the client has
    /// its query ordered.
    fn peek(&mut self, id: ConnectionId, number: u64, query: &Bytes) {
        match self.caught_up {
            CaughtUp::Yes => {
                let answer = self.replica.machine().query(query);
                let bytes = answer.len();
                let peeked = Reply::Peeked(number, self.replica.executed(), answer);
                return self.replies.read(id, peeked, bytes);
            }
            CaughtUp::Asked => {}
            CaughtUp::Unknown => {
                let level = ReadLevel::Linearizable;
                let asked = self.replica.read(CATCH_UP, query.clone(), level);
                if asked.is_ok() {
                    self.caught_up = CaughtUp::Asked;
                }
            }
        }
        self.replies.unread(id);
    }

    fn propose(&mut self, id: ConnectionId, batch: &Batch) {
        for group in batch.groups() {
            self.replies.bind(id, group.session);
            self.replica.propose(&group);
        }
    }

    fn refuse(&mut self, id: ConnectionId, request: &Request<'_>, error: ProposeError) {
        let refused = Reply::Answer {
            session: request.session.number,
            sequence: request.sequence,
            result: Err(error),
        };
        self.replies.reply(id, refused);
    }

    fn ledger(&self) -> quorate_core::ledger::Ledger {
        let mut ledger = self.replica.ledger();
        ledger.syncs = self.storage.syncs();
        ledger
    }

    fn standing(&self) -> Report {
        Report {
            status: self.replica.status(),
            executed: self.replica.executed(),
            digest: None,
            sent: self.replica.ledger().total_sent(),
        }
    }

    fn report(&mut self, id: ConnectionId, number: u64) {
        let report = Box::new(self.standing());
        self.replies.reply(id, Reply::Status(number, report));
    }

    /// Begins with the digest of the state if it is time for one.
    fn make_digest(&mut self) {
        let known = self.digests.answered(self.replica.executed());
        self.tell_digest(known);
        if self.digests.due().is_none_or(|due| due > Instant::now()) {
            return;
        }
        let begun = Instant::now();
        match self.replica.state() {
            Ok(state) => {
                self.digests.begin(self.standing(), begun);
                let inbox = self.inbox.0.clone();
                tokio::task::spawn_blocking(move || {
                    let digested = Happening::Digested(Digest::of(&state));
                    // A driver that has gone needs no digest.
                    let _gone = inbox.bring_now(Sender::Own, digested);
                });
            }
            Err(error) => {
                let reason = error.to_string();
                for asker in self.digests.failed() {
                    self.tell_no_digest(asker, &reason);
                }
            }
        }
    }

    fn tell_digest(&mut self, made: Option<(Vec<Asker>, Report)>) {
        let Some((askers, report)) = made else {
            return;
        };
        for asker in askers {
            match (asker, report.digest) {
                (Asker::Client(id, number), _) => {
                    let report = Box::new(report.clone());
                    self.replies.reply(id, Reply::Status(number, report));
                }
                // An asker who has gone needs no answer.
                (Asker::Own(asker), Some(digest)) => {
                    drop(asker.send(Ok((report.executed, digest))));
                }
                (Asker::Own(_), None) => {}
            }
        }
    }

    fn tell_no_digest(&mut self, asker: Asker, reason: &str) {
        match asker {
            Asker::Client(id, number) => self.report(id, number),
            Asker::Own(asker) => drop(asker.send(Err(Halt::Encode(String::from(reason))))),
        }
    }

    async fn carry_out(&mut self, effects: Effects<P>) -> Result<(), Halt> {
        if let Some(halt) = effects.halt {
            return Err(halt);
        }
        for (to, message) in &effects.send {
            self.send(*to, message)?;
        }
        if let Some(append) = effects.append {
            self.storage
                .append(append.ticket, append.replaces, append.records);
        }
        for (ticket, snapshot) in effects.save {
            self.storage.save(ticket, snapshot);
        }
        if let Some(snapshot) = effects.offer {
            self.offer.set(snapshot);
        }
        for fetch in effects.fetch {
            self.fetch(&fetch);
        }
        for answer in effects.answers {
            self.replies.answer(answer);
        }
        for (token, result) in effects.reads {
            if token == CATCH_UP {
                self.caught_up = match result {
                    Ok(_) => CaughtUp::Yes,
                    Err(_) => CaughtUp::Unknown,
                };
                continue;
            }
            if let Some((id, number)) = self.replies.reader(token) {
                let bytes = result.as_ref().map_or(0, Bytes::len);
                self.replies.read(id, Reply::Read(number, result), bytes);
            }
        }
        for event in effects.events {
            self.tell(&event);
        }
        self.replies.flush();
        self.publish_status();
        Ok(())
    }

    fn send(&mut self, to: Dest, message: &P::Message) -> Result<(), Halt> {
        let sealed = self.envelope.seal(message);
        let frame = sealed.map_err(|error| Halt::Encode(format!("a message: {error}")))?;
        self.replica.count_sent(to, message, frame.len());
        match to {
            Dest::One(replica) => self.transport.send(replica, frame),
            Dest::Others | Dest::All => {
                for replica in self.replica.others() {
                    self.transport.send(replica, frame.clone());
                }
            }
        }
        Ok(())
    }

    fn fetch(&self, fetch: &Fetch) {
        let from = fetch.from;
        let (transport, inbox) = (self.transport.clone(), self.inbox.0.clone());
        let patience = self.replica.fetch_patience();
        let progress = inbox.clone();
        let heard = move || {
            let _gone = progress.bring_now(Sender::Own, Happening::FetchProgressed(from));
        };
        tokio::spawn(async move {
            let answer = transport.bulk(from, Bytes::new(), patience, &heard).await;
            let snapshot = match answer {
                Ok(bytes) => gate::unpack(&bytes),
                Err(error) => {
                    tracing::info!(%from, %error, "no snapshot");
                    None
                }
            };
            // A driver that has gone needs no snapshot.
            let _gone = inbox.bring_now(Sender::Own, Happening::Fetched(from, snapshot));
        });
    }

    fn tell(&mut self, event: &Event) {
        match event {
            Event::Campaign { regime } => tracing::info!(regime, "campaigns"),
            Event::Equivocation { by, regime } => {
                tracing::error!(%by, regime, "a replica has signed contradicting statements");
            }
            Event::RegimeChanged { regime, leader } => {
                tracing::info!(regime, ?leader, "regime changed");
                // HotStuff names nobody here, for the next view has another, and has a leader all
                // the same.
                let status = self.replica.status();
                let told = leadership(*leader, status.role);
                if leader.is_some() || status.leader.is_none() {
                    told.iter().for_each(|reply| self.replies.tell_all(reply));
                }
            }
            Event::HandsOver { regime, to } => {
                tracing::warn!(regime, %to, "hands over: its disk does not answer, or another replica does not hear it");
            }
            Event::DiskBehind { bytes } => {
                tracing::warn!(bytes, "the disk is behind: new requests are refused");
            }
            Event::DiskCaughtUp => tracing::info!("the disk has caught up"),
            Event::Decided { path } => tracing::trace!(?path, "decided"),
            Event::Recovery => tracing::debug!("recovers an instance"),
            Event::Component { size } => tracing::trace!(size, "executes a component"),
        }
    }

    fn publish_status(&self) {
        let status = self.replica.status();
        self.status.send_if_modified(|known| {
            let standing = |s: &Status| (s.role, s.regime, s.leader);
            let changed = standing(known) != standing(&status);
            *known = status;
            changed
        });
    }
}

#[cfg(test)]
mod tests;
