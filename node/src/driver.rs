//! The one task that owns the replica.
//!
//! It sleeps until something happens, takes all that has happened as one turn, and carries out
//! the turn's effects: messages first, so that they travel while the disk works.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use quorate_core::consensus::{ProposeError, ReadLevel};
use quorate_core::id::Time;
use quorate_core::machine::StateMachine;
use quorate_core::protocol::{Dest, Event, Fetch, Protocol, Status};
use quorate_core::replica::{Effects, Halt, ReadToken, Replica};
use quorate_core::request::{Batch, Request};
use quorate_core::storage::Storage;
use quorate_core::transport::Transport;
use quorate_core::wire::Envelope;
use tokio::sync::{mpsc, oneshot, watch};

use crate::client_wire::{Reply, Report};
use crate::gate::{self, Offer};
use crate::inbox::{Completed, Happening};
use crate::replies::{ConnectionId, Replies};

/// How many happenings make a turn at most, so that no effect waits for a flood to end.
const TURN_LIMIT: usize = 1024;

/// How often a turn for requests alone lets all other tasks that are ready run before it: the
/// requests that these are about to bring go into the same batch. Where nothing else is ready it
/// costs microseconds. `docs/performance.md` has what it brings.
const YIELDS: usize = 16;

/// How long to wait for a turn when no timer is armed.
const IDLE: std::time::Duration = std::time::Duration::from_secs(3600);

/// Names the driver's own read; connections' reads are numbered from below.
const CATCH_UP: ReadToken = ReadToken(u64::MAX);

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
    pub(crate) happenings: mpsc::Receiver<Happening<P>>,
    pub(crate) inbox: mpsc::WeakSender<Happening<P>>,
    pub(crate) offer: Arc<Offer>,
    pub(crate) status: watch::Sender<Status>,
    pub(crate) replies: Replies,
    pub(crate) caught_up: CaughtUp,
    pub(crate) origin: Instant,
}

impl<P: Protocol, S: StateMachine> Driver<P, S> {
    fn now(&self) -> Time {
        Time::ZERO + self.origin.elapsed()
    }

    /// Runs until told to stop, or until the replica must stop by itself.
    pub(crate) async fn run(mut self, mut stop: oneshot::Receiver<()>) -> Result<(), Halt> {
        let completed = self.completed.clone();
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
                count = self.happenings.recv_many(&mut gathered, TURN_LIMIT) => {
                    if count == 0 {
                        return Ok(());
                    }
                }
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
        tokio::time::Instant::from_std(self.origin + wait)
    }

    /// One turn: all that has happened, then its end.
    fn turn(&mut self, gathered: &mut Vec<Happening<P>>) -> Effects<P> {
        while gathered.len() < TURN_LIMIT {
            let Ok(happening) = self.happenings.try_recv() else {
                break;
            };
            gathered.push(happening);
        }
        // Not before: a lease that was good then may be over by the time a read has come.
        let now = self.now();
        if let Some(error) = self.completed.failure() {
            self.replica.storage_failed(error);
        }
        self.replica.durable(self.completed.durable_through());
        self.replica.saved(now, self.completed.saved_through());
        for happening in gathered.drain(..) {
            self.take(now, happening);
        }
        self.replica.tick(now);
        self.replica.end_turn(now)
    }

    fn take(&mut self, now: Time, happening: Happening<P>) {
        match happening {
            Happening::Message(message) => self.replica.message(now, message),
            Happening::Connected(id, sink) => {
                self.replies.connected(id, sink);
                if let Some(leader) = self.status.borrow().leader {
                    self.replies.reply(id, Reply::Leader(leader));
                }
            }
            Happening::Disconnected(id) => self.replies.disconnected(id),
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
                    self.replies.reply(id, Reply::Read(number, Err(error)));
                }
            }
            Happening::Status(id, number, digest) => self.report(id, number, digest),
            Happening::Fetched(snapshot) => self.replica.fetched(snapshot),
            Happening::Ledger(asker) => drop(asker.send(self.ledger())),
            // An asker who has gone needs no answer.
            Happening::Digest(asker) => drop(asker.send(self.replica.digest())),
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
                let peeked = Reply::Peeked(number, self.replica.executed(), answer);
                self.replies.reply(id, peeked);
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

    fn report(&mut self, id: ConnectionId, number: u64, digest: bool) {
        let digest = digest.then(|| self.replica.digest().ok()).flatten();
        let report = Report {
            status: self.replica.status(),
            executed: self.replica.executed(),
            digest: digest.map(|(_, digest)| digest),
            sent: self.replica.ledger().total_sent(),
        };
        self.replies
            .reply(id, Reply::Status(number, Box::new(report)));
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
        if let Some(fetch) = effects.fetch {
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
                self.replies.reply(id, Reply::Read(number, result));
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
        let (transport, inbox) = (self.transport.clone(), self.inbox.clone());
        tokio::spawn(async move {
            let answer = transport.bulk(from, bytes::Bytes::new()).await;
            let snapshot = match answer {
                Ok(bytes) => gate::unpack(&bytes),
                Err(error) => {
                    tracing::info!(%from, %error, "no snapshot");
                    None
                }
            };
            if let Some(inbox) = inbox.upgrade() {
                drop(inbox.send(Happening::Fetched(snapshot)).await);
            }
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
                if let Some(leader) = leader {
                    self.replies.leader(*leader);
                }
            }
            Event::HandsOver { regime, to } => {
                tracing::warn!(regime, %to, "hands over: this replica's disk does not answer");
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
