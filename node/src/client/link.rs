//! The client's task: one connection at a time, and all that waits for answers.

use std::sync::Arc;

use quorate_core::crypto::{PublicKey, Signer};
use quorate_core::id::ReplicaId;
use quorate_core::transport::{Connector, FrameSink};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::dial::{self, CallId, Dialer, News};
use super::gathering::{TURN, gather};
use super::outstanding::{Caller, Commands, Trust, What};
use super::questions::{Kind, Questions};
use super::{Call, ClientOptions};
use crate::client_wire::{self, Ask, Reply};

pub(super) struct Link {
    dialer: Dialer,
    key: PublicKey,
    options: ClientOptions,
    commands: Commands,
    questions: Questions,
    state: State,
    next: ReplicaId,
    failure: String,
    /// When the replica was last heard while something waited for it.
    heard: Instant,
    news: mpsc::UnboundedReceiver<News>,
}

enum State {
    Idle,
    Connecting,
    /// Connected, and on the way to a better replica if `moving`.
    Up {
        call: CallId,
        sink: Arc<dyn FrameSink>,
        moving: bool,
    },
}

impl Link {
    pub(super) fn new(
        connector: Arc<dyn Connector>,
        key: PublicKey,
        signer: Option<Signer>,
        options: ClientOptions,
    ) -> Self {
        let (dialer, news) = Dialer::new(connector);
        let trust = Trust { needed: 1, signer };
        Link {
            next: options.first.unwrap_or(ReplicaId(0)),
            dialer,
            key,
            options,
            commands: Commands::new(dial::new_session(key), trust),
            questions: Questions::default(),
            state: State::Idle,
            failure: String::from("there was no time to connect"),
            heard: Instant::now(),
            news,
        }
    }

    /// Runs until all handles are gone.
    pub(super) async fn run(mut self, mut calls: mpsc::Receiver<Call>) {
        let mut gathered = Vec::with_capacity(TURN);
        loop {
            let wake = self.wake();
            tokio::select! {
                count = calls.recv_many(&mut gathered, TURN), if self.commands.has_room() => {
                    if count == 0 {
                        return;
                    }
                }
                Some(news) = self.news.recv() => {
                    self.hear(news);
                    // Not until none is left: a flood would never end.
                    for _ in 1..TURN {
                        let Ok(news) = self.news.try_recv() else {
                            break;
                        };
                        self.hear(news);
                    }
                }
                () = sleep_until(wake), if wake.is_some() => self.look(),
            }
            if self.commands.has_room() {
                gather(&mut calls, &mut gathered).await;
            }
            self.take(&mut gathered);
            self.advance();
        }
    }

    fn waits(&self) -> bool {
        !self.commands.is_empty() || !self.questions.is_empty()
    }

    fn wake(&self) -> Option<Instant> {
        let deadlines = [self.commands.deadline(), self.questions.deadline()];
        let earliest = deadlines.into_iter().flatten().min()?;
        let patience = self.heard + self.options.patience;
        let again = self.commands.again();
        Some(earliest.min(patience).min(again.unwrap_or(patience)))
    }

    fn take(&mut self, calls: &mut Vec<Call>) {
        if !self.waits() {
            self.heard = Instant::now();
        }
        let deadline = Instant::now() + self.options.timeout;
        for call in calls.drain(..) {
            match call {
                Call::Propose(command, caller) => {
                    let caller = Caller::Propose(caller);
                    self.commands.add(What::Apply(command), caller, deadline);
                }
                Call::Read(query, level, caller) => {
                    let kind = Kind::Read(query, level, caller);
                    self.questions.add(kind, deadline);
                }
                Call::Status(digest, caller) => {
                    self.questions.add(Kind::Status(digest, caller), deadline);
                }
            }
        }
    }

    fn hear(&mut self, news: News) {
        match news {
            News::Connected(call, Ok(sink)) => self.connected(call, sink),
            News::Connected(CallId { to, .. }, Err(error)) => {
                tracing::debug!(%to, %error, "cannot connect");
                self.failure = error.to_string();
                match &mut self.state {
                    State::Up { moving, .. } => *moving = false,
                    state => *state = State::Idle,
                }
                self.next_replica(to);
            }
            News::Closed(call) => self.lost(call),
            News::Frame(call, frame) if self.is_up(call) => self.replies(call, frame.bytes()),
            News::Frame(..) => {}
        }
    }

    fn is_up(&self, wanted: CallId) -> bool {
        matches!(self.state, State::Up { call, .. } if call == wanted)
    }

    fn connected(&mut self, call: CallId, sink: Arc<dyn FrameSink>) {
        self.heard = Instant::now();
        follow_session(&self.commands, &sink);
        self.state = State::Up {
            call,
            sink,
            moving: false,
        };
        self.commands.renew();
        self.questions.renew();
    }

    fn lost(&mut self, call: CallId) {
        if self.is_up(call) {
            self.failure = format!("{} closed the connection", call.to);
            self.state = State::Idle;
            self.next_replica(call.to);
        }
    }

    fn replies(&mut self, call: CallId, frame: &[u8]) {
        self.heard = Instant::now();
        let replies: Vec<Reply> = match client_wire::open(frame) {
            Ok(replies) => replies,
            Err(error) => {
                tracing::warn!(from = %call.to, %error, "a replica sent what cannot be read");
                return self.lost(call);
            }
        };
        for reply in replies {
            match reply {
                Reply::Answer {
                    session,
                    sequence,
                    result,
                } => {
                    let request = (session, sequence);
                    if self.commands.answer(call.to, request, result) {
                        self.reopen();
                    }
                }
                Reply::Read(number, result) => self.questions.read(number, result),
                Reply::Status(number, report) => self.questions.status(number, *report),
                Reply::Leader(leader) => self.follow(leader),
                Reply::Opened(opened) => self.commands.seen(opened),
                // This client does not ask so.
                Reply::Peeked(..) => {}
            }
        }
    }

    fn reopen(&mut self) {
        self.commands.reopen(dial::new_session(self.key));
        if let State::Up { sink, .. } = &self.state {
            follow_session(&self.commands, sink);
        }
    }

    /// Moves to the leader, keeping the old connection until the new one is up.
    fn follow(&mut self, leader: ReplicaId) {
        if !self.options.follow_leader || leader.index() >= self.dialer.n() {
            return;
        }
        if let State::Up { call, moving, .. } = &mut self.state
            && call.to != leader
            && !*moving
        {
            *moving = true;
            self.dialer.call(leader);
        }
    }

    fn next_replica(&mut self, after: ReplicaId) {
        let n = self.dialer.n() as u8;
        self.next = match self.options.follow_leader {
            true => ReplicaId((after.0 + 1) % n.max(1)),
            false => after,
        };
    }

    /// Ends what has waited too long, and leaves a replica that is silent.
    fn look(&mut self) {
        let now = Instant::now();
        self.commands.expire(now, &self.failure);
        self.commands.ask_again(now);
        self.questions.expire(now, &self.failure);
        if now >= self.heard + self.options.patience {
            self.heard = now;
            if let State::Up { call, .. } = self.state {
                self.failure = format!("{} does not answer", call.to);
                self.state = State::Idle;
                self.next_replica(call.to);
            }
        }
    }

    /// Connects if something waits and there is no connection; sends what has not been sent.
    fn advance(&mut self) {
        if self.commands.is_spent() {
            self.reopen();
        }
        if !self.waits() {
            return;
        }
        match &self.state {
            State::Connecting => {}
            State::Idle => {
                self.state = State::Connecting;
                self.dialer.call(self.next);
            }
            State::Up { call, sink, .. } => {
                let mut asks = match self.commands.is_empty() {
                    true => Vec::new(),
                    false => self.commands.unsent(),
                };
                asks.extend(self.questions.unsent());
                if asks.is_empty() {
                    return;
                }
                let sent = client_wire::seal(&asks)
                    .is_ok_and(|frames| frames.into_iter().all(|frame| sink.send(frame)));
                if !sent {
                    let call = *call;
                    self.lost(call);
                }
            }
        }
    }
}

/// Asks a replica for the answers to the session: who signs must know how many there have been.
pub(super) fn follow_session(commands: &Commands, sink: &Arc<dyn FrameSink>) {
    if commands.signs() {
        let follow = Ask::Follow(commands.session().number);
        // If it cannot be sent the connection is lost, which is news to come.
        let _sent = client_wire::seal(&[follow])
            .is_ok_and(|frames| frames.into_iter().all(|frame| sink.send(frame)));
    }
}

pub(super) async fn sleep_until(instant: Option<Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant).await,
        None => std::future::pending().await,
    }
}
