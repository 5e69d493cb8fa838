//! The client's task: one connection at a time, and all that waits for answers.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quorate_core::crypto::PublicKey;
use quorate_core::id::ReplicaId;
use quorate_core::request::SessionId;
use quorate_core::transport::{ClientReplies, Connector, FrameSink, TransportError};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::outstanding::{Commands, Kind, Questions};
use super::{Call, ClientOptions};
use crate::client_wire::{self, Reply};

/// How many calls are taken at a time.
const TURN: usize = 256;

/// The wait before the next replica is tried after all were tried in vain.
const BACK_OFF: Duration = Duration::from_millis(50);

pub(super) struct Link {
    connector: Arc<dyn Connector>,
    key: PublicKey,
    options: ClientOptions,
    commands: Commands,
    questions: Questions,
    state: State,
    next: ReplicaId,
    failure: String,
    /// When the replica was last heard while something waited for it.
    heard: Instant,
    /// How many connections were asked for.
    calls: u64,
    back: mpsc::UnboundedSender<News>,
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

/// One connection: to whom, and its number among all that were asked for. News of an earlier
/// connection to the same replica must not be taken for news of this one.
#[derive(Clone, Copy, PartialEq, Eq)]
struct CallId {
    to: ReplicaId,
    number: u64,
}

/// What comes from outside.
enum News {
    Connected(CallId, Result<Arc<dyn FrameSink>, TransportError>),
    Frame(CallId, Bytes),
    Closed(CallId),
}

struct Back {
    call: CallId,
    news: mpsc::UnboundedSender<News>,
}

impl ClientReplies for Back {
    fn deliver(&self, _from: ReplicaId, frame: Bytes) {
        // A client that is gone needs no news.
        let _gone = self.news.send(News::Frame(self.call, frame));
    }

    fn closed(&self, _from: ReplicaId) {
        let _gone = self.news.send(News::Closed(self.call));
    }
}

/// A session of `client` with a number of its own.
fn new_session(client: PublicKey) -> SessionId {
    let number = RandomState::new().build_hasher().finish();
    SessionId { client, number }
}

impl Link {
    pub(super) fn new(
        connector: Arc<dyn Connector>,
        key: PublicKey,
        options: ClientOptions,
    ) -> Self {
        let (back, news) = mpsc::unbounded_channel();
        Link {
            next: options.first.unwrap_or(ReplicaId(0)),
            connector,
            key,
            options,
            commands: Commands::new(new_session(key)),
            questions: Questions::default(),
            state: State::Idle,
            failure: String::from("there was no time to connect"),
            heard: Instant::now(),
            calls: 0,
            back,
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
                    self.take(&mut gathered);
                }
                Some(news) = self.news.recv() => {
                    self.hear(news);
                    while let Ok(news) = self.news.try_recv() {
                        self.hear(news);
                    }
                }
                () = sleep_until(wake), if wake.is_some() => self.look(),
            }
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
                Call::Propose(command, caller) => self.commands.add(command, caller, deadline),
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
            News::Frame(call, frame) if self.is_up(call) => self.replies(call, &frame),
            News::Frame(..) => {}
        }
    }

    fn is_up(&self, wanted: CallId) -> bool {
        matches!(self.state, State::Up { call, .. } if call == wanted)
    }

    fn connected(&mut self, call: CallId, sink: Arc<dyn FrameSink>) {
        self.heard = Instant::now();
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
                    if self.commands.answer(session, sequence, result) {
                        self.commands.reopen(new_session(self.key));
                    }
                }
                Reply::Read(number, result) => self.questions.read(number, result),
                Reply::Status(number, report) => self.questions.status(number, *report),
                Reply::Leader(leader) => self.follow(leader),
            }
        }
    }

    /// Moves to the leader, keeping the old connection until the new one is up.
    fn follow(&mut self, leader: ReplicaId) {
        if !self.options.follow_leader || leader.index() >= self.connector.n() {
            return;
        }
        if let State::Up { call, moving, .. } = &mut self.state
            && call.to != leader
            && !*moving
        {
            *moving = true;
            self.connect(leader);
        }
    }

    fn next_replica(&mut self, after: ReplicaId) {
        let n = self.connector.n() as u8;
        self.next = match self.options.follow_leader {
            true => ReplicaId((after.0 + 1) % n.max(1)),
            false => after,
        };
    }

    fn connect(&mut self, to: ReplicaId) {
        self.calls += 1;
        let call = CallId {
            to,
            number: self.calls,
        };
        let connector = self.connector.clone();
        let news = self.back.clone();
        tokio::spawn(async move {
            let replies = Arc::new(Back {
                call,
                news: news.clone(),
            });
            let result = connector.connect(to, replies).await;
            if result.is_err() {
                tokio::time::sleep(BACK_OFF).await;
            }
            let _gone = news.send(News::Connected(call, result));
        });
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
        if !self.waits() {
            return;
        }
        match &self.state {
            State::Connecting => {}
            State::Idle => {
                self.state = State::Connecting;
                self.connect(self.next);
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

async fn sleep_until(instant: Option<Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant).await,
        None => std::future::pending().await,
    }
}
