//! The client's task where replicas may lie: a connection to each of them, and no answer believed
//! that f + 1 of them do not give alike. \[Castro02 §2.4\]
//!
//! A request goes to the primary, and to all if the one that has waited longest is not answered for
//! a while, and again after waits that double. Whatever else is answered meanwhile: the primary, be
//! it overloaded or a liar, may have passed over this one alone. Every replica answers it. Queries
//! are ordered like commands. With [`ClientOptions::fast_reads`] they are first answered by each
//! replica at once, which counts if 2f + 1 say the same at the same point, and then commands too
//! need 2f + 1 equal answers: only such quorums are sure to share a correct replica with the
//! reads'. \[Castro02 §5.1.3, Berger21\]
//!
//! What is believed of one replica alone, whether it lies or not: the answer to a read of
//! [`ReadLevel::Local`], and its status and digest.

use std::sync::Arc;

use quorate_core::consensus::ReadLevel;
use quorate_core::crypto::Signer;
use quorate_core::id::ReplicaId;
use quorate_core::quorum::Byzantine;
use quorate_core::transport::{Connector, FrameSink};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::back_off::BackOff;
use super::command::{Caller, What};
use super::dial::{self, CallId, Dialer, News};
use super::gathering::{TURN, gather};
use super::link::{follow_session, sleep_until};
use super::outstanding::{Commands, Trust};
use super::peeks::{Peeks, Unanswered};
use super::questions::{Kind, Questions};
use super::{Call, ClientOptions};
use crate::client_wire::{self, Ask, Reply};

/// Into how many parts the patience is divided: after one of them without an answer, all replicas
/// are asked, and again, the last time after the whole of it.
const PARTS: u32 = 8;

/// How many queries may wait to be answered by each replica: with those, and a turn of calls more,
/// the commands under way still fit in the window of a session.
const PEEKS: usize = 1024;

/// The connections to all replicas, and all that waits for answers.
pub(super) struct QuorumLink {
    dialer: Dialer,
    signer: Signer,
    options: ClientOptions,
    commands: Commands,
    questions: Questions,
    peeks: Peeks,
    lines: Vec<Line>,
    /// Who is asked first.
    primary: ReplicaId,
    /// f + 1: one of them is correct.
    weak: usize,
    /// 2f + 1: so many answer, and most of them are correct.
    strong: usize,
    failure: String,
    /// When what had waited longest was last answered, or asked of all, while something waited.
    progress: Instant,
    /// How long after that all are asked.
    unanswered: BackOff,
    news: mpsc::UnboundedReceiver<News>,
}

/// The connection to one replica.
#[derive(Default)]
struct Line {
    state: State,
    /// Whom the replica takes for the primary.
    leader: Option<ReplicaId>,
    /// How many sessions it has seen opened.
    opened: Option<u64>,
}

#[derive(Default)]
enum State {
    #[default]
    Idle,
    Connecting,
    Up(CallId, Arc<dyn FrameSink>),
}

impl QuorumLink {
    pub(super) fn new(
        connector: Arc<dyn Connector>,
        signer: Signer,
        options: ClientOptions,
    ) -> Self {
        let (dialer, news) = Dialer::new(connector);
        let quorums = Byzantine::of(dialer.n());
        let needed = match options.fast_reads {
            true => quorums.strong().size(),
            false => quorums.weak().size(),
        };
        let trust = Trust {
            needed,
            signer: Some(signer.clone()),
        };
        let unanswered = BackOff::new(options.patience / PARTS, options.patience);
        QuorumLink {
            unanswered,
            lines: (0..dialer.n()).map(|_| Line::default()).collect(),
            primary: options.first.unwrap_or(ReplicaId(0)),
            commands: Commands::new(dial::new_session(signer.public()), trust),
            questions: Questions::default(),
            peeks: Peeks::new(quorums.strong().size()),
            weak: quorums.weak().size(),
            strong: quorums.strong().size(),
            failure: String::from("there was no time to connect"),
            progress: Instant::now(),
            dialer,
            signer,
            options,
            news,
        }
    }

    /// Runs until all handles are gone.
    pub(super) async fn run(mut self, mut calls: mpsc::Receiver<Call>) {
        let mut gathered = Vec::with_capacity(TURN);
        loop {
            let wake = self.wake();
            tokio::select! {
                count = calls.recv_many(&mut gathered, TURN), if self.has_room() => {
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
            if self.has_room() {
                gather(&mut calls, &mut gathered).await;
            }
            self.take(&mut gathered);
            self.advance();
        }
    }

    /// Queries may have to be ordered after all, in a session that has room for them.
    fn has_room(&self) -> bool {
        self.commands.has_room() && self.peeks.len() < PEEKS
    }

    fn waits(&self) -> bool {
        !(self.commands.is_empty() && self.questions.is_empty() && self.peeks.is_empty())
    }

    fn wake(&self) -> Option<Instant> {
        let deadlines = [
            self.commands.deadline(),
            self.questions.deadline(),
            self.peeks.due(),
        ];
        let earliest = deadlines.into_iter().flatten().min()?;
        let escalation = self.progress + self.unanswered.wait();
        let again = self.commands.again().unwrap_or(escalation);
        Some(earliest.min(escalation).min(again))
    }

    fn take(&mut self, calls: &mut Vec<Call>) {
        let now = Instant::now();
        if !self.waits() {
            self.progress();
        }
        let deadline = now + self.options.timeout;
        for call in calls.drain(..) {
            match call {
                Call::Propose(command, caller) => {
                    let caller = Caller::Propose(caller);
                    self.commands.add(What::Apply(command), caller, deadline);
                }
                Call::Read(query, ReadLevel::Local, caller) => {
                    let kind = Kind::Read(query, ReadLevel::Local, caller);
                    self.questions.add(kind, deadline);
                }
                Call::Read(query, ReadLevel::Linearizable, caller) if self.options.fast_reads => {
                    let due = now + self.options.patience / PARTS;
                    self.peeks.add(query, caller, (due, deadline));
                }
                Call::Read(query, ReadLevel::Linearizable, caller) => {
                    let caller = Caller::Read(caller);
                    self.commands.add(What::Query(query), caller, deadline);
                }
                Call::Status(digest, caller) => {
                    self.questions.add(Kind::Status(digest, caller), deadline);
                }
                Call::Close(caller) => self.commands.close(caller, deadline),
            }
        }
    }

    fn line(&mut self, replica: ReplicaId) -> Option<&mut Line> {
        self.lines.get_mut(replica.index())
    }

    fn hear(&mut self, news: News) {
        match news {
            News::Connected(call, Ok(sink)) => self.connected(call, sink),
            News::Connected(CallId { to, .. }, Err(error)) => {
                tracing::debug!(%to, %error, "cannot connect");
                self.failure = error.to_string();
                if let Some(line) = self.line(to) {
                    line.state = State::Idle;
                }
            }
            News::Closed(call) => self.lost(call),
            News::Frame(call, frame) if self.is_up(call) => self.replies(call, frame.bytes()),
            News::Frame(..) => {}
        }
    }

    fn is_up(&self, wanted: CallId) -> bool {
        let line = self.lines.get(wanted.to.index());
        matches!(line, Some(Line { state: State::Up(call, _), .. }) if *call == wanted)
    }

    /// What waits is asked of a new connection too: answers may have gone with an old one.
    fn connected(&mut self, call: CallId, sink: Arc<dyn FrameSink>) {
        follow_session(&self.commands, &sink);
        if let Some(line) = self.line(call.to) {
            line.state = State::Up(call, sink);
        }
        if call.to == self.primary {
            self.commands.renew();
            self.questions.renew();
        }
        self.peeks.ask_again(call.to);
    }

    fn lost(&mut self, call: CallId) {
        if self.is_up(call)
            && let Some(line) = self.line(call.to)
        {
            *line = Line::default();
            self.failure = format!("{} closed the connection", call.to);
        }
    }

    fn replies(&mut self, call: CallId, frame: &[u8]) {
        let replies: Vec<Reply> = match client_wire::open(frame) {
            Ok(replies) => replies,
            Err(error) => {
                tracing::warn!(from = %call.to, %error, "a replica sent what cannot be read");
                return self.lost(call);
            }
        };
        let oldest = self.commands.oldest();
        for reply in replies {
            self.reply(call.to, reply);
        }
        if self.commands.oldest() != oldest {
            self.progress();
        }
    }

    fn progress(&mut self) {
        self.progress = Instant::now();
        self.unanswered.reset();
    }

    fn reply(&mut self, from: ReplicaId, reply: Reply) {
        match reply {
            Reply::Answer {
                session,
                sequence,
                result,
            } => {
                if self.commands.answer(from, (session, sequence), result) {
                    self.reopen();
                }
            }
            Reply::Read(..) | Reply::Status(..) if !self.may_be_asked(from) => {}
            Reply::Read(number, result) => self.questions.read(number, result),
            Reply::Status(number, report) => self.questions.status(number, *report),
            Reply::Leader(leader) => {
                if let Some(line) = self.line(from) {
                    line.leader = Some(leader);
                }
                self.follow(leader);
            }
            Reply::Opened(opened) => {
                if let Some(line) = self.line(from) {
                    line.opened = Some(opened);
                }
                self.count_sessions();
            }
            Reply::Peeked(number, at, answer) => self.peeks.answer(from, number, (at, answer)),
            // Nobody's word alone has a client give up the primary.
            Reply::Leaderless => {}
        }
    }

    /// The (f + 1)-th highest of 2f + 1 counts lies between those of correct replicas. With a
    /// higher one, whoever made it up could have this session opened again when it has been
    /// forgotten; with a lower one, it could never be opened.
    fn count_sessions(&mut self) {
        let mut counts: Vec<u64> = self.lines.iter().filter_map(|line| line.opened).collect();
        if counts.len() < self.strong {
            return;
        }
        counts.sort_unstable_by(|a, b| b.cmp(a));
        if let Some(count) = counts.get(self.weak - 1) {
            self.commands.seen(*count);
        }
    }

    fn reopen(&mut self) {
        let session = dial::new_session(self.signer.public());
        self.commands.reopen(session);
        for line in &mut self.lines {
            line.opened = None;
            if let State::Up(_, sink) = &line.state {
                follow_session(&self.commands, sink);
            }
        }
    }

    /// Takes for the primary whom f + 1 replicas take for it.
    fn follow(&mut self, leader: ReplicaId) {
        let claims = self.lines.iter().filter(|line| line.leader == Some(leader));
        if self.options.follow_leader && leader != self.primary && claims.count() >= self.weak {
            self.primary = leader;
        }
    }

    /// Ends what has waited too long; asks all replicas for what the primary does not answer.
    fn look(&mut self) {
        let now = Instant::now();
        self.commands.expire(now, &self.failure);
        self.commands.ask_again(now);
        self.questions.expire(now, &self.failure);
        // However much else is answered meanwhile.
        let unanswered = self.peeks.give_up(now);
        self.order(unanswered);
        if self.waits() && now >= self.progress + self.unanswered.wait() {
            self.progress = now;
            self.commands.renew();
            let mut asks = self.commands();
            if self.options.follow_leader {
                self.questions.renew();
                asks.extend(self.questions.unsent());
            }
            if !asks.is_empty() {
                self.unanswered.double();
            }
            for replica in ReplicaId::all(self.lines.len()) {
                self.send(replica, &asks);
            }
        }
    }

    /// Has queries ordered that could not be answered at once.
    fn order(&mut self, queries: Vec<Unanswered>) {
        for (query, caller, deadline) in queries {
            let caller = Caller::Read(caller);
            self.commands.add(What::Query(query), caller, deadline);
        }
    }

    fn commands(&mut self) -> Vec<Ask> {
        match self.commands.is_empty() {
            true => Vec::new(),
            false => self.commands.unsent(),
        }
    }

    /// Whether a replica's own word counts, on where it stands and what it has executed: if the
    /// client does not move, it is the first replica that is asked, and no other may answer for it.
    fn may_be_asked(&self, replica: ReplicaId) -> bool {
        self.options.follow_leader || replica == self.primary
    }

    /// Connects to all if something waits; sends what has not been sent.
    fn advance(&mut self) {
        if self.commands.is_spent() {
            self.reopen();
        }
        if !self.waits() {
            return;
        }
        for replica in ReplicaId::all(self.lines.len()) {
            let line = &mut self.lines[replica.index()];
            if let State::Idle = line.state {
                line.state = State::Connecting;
                self.dialer.call(replica);
            }
        }
        let split = self.peeks.split(self.lines.len());
        self.order(split);
        for replica in ReplicaId::all(self.lines.len()) {
            let asks = self.peeks.unasked(replica);
            self.send(replica, &asks);
        }
        if let Some(to) = self.first_up() {
            let commands = self.commands();
            self.send(to, &commands);
            if self.may_be_asked(to) {
                let questions = self.questions.unsent();
                self.send(to, &questions);
            }
        }
    }

    /// The primary, or who else can be reached.
    fn first_up(&self) -> Option<ReplicaId> {
        let n = self.lines.len();
        let from = self.primary.index();
        let mut replicas = (0..n).map(|i| ReplicaId(((from + i) % n) as u8));
        replicas.find(|replica| matches!(self.lines[replica.index()].state, State::Up(..)))
    }

    fn send(&mut self, to: ReplicaId, asks: &[Ask]) {
        let Some(State::Up(call, sink)) = self.lines.get(to.index()).map(|line| &line.state) else {
            return;
        };
        if asks.is_empty() {
            return;
        }
        let sent = client_wire::seal(asks)
            .is_ok_and(|frames| frames.into_iter().all(|frame| sink.send(frame)));
        if !sent {
            let call = *call;
            self.lost(call);
        }
    }
}

#[cfg(test)]
mod tests;
