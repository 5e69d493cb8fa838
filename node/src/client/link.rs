//! The client's task: one replica that is asked, others as well when its answers are late, and all
//! that waits for answers.
//!
//! All replicas are called at once, and the first that knows a leader, or needs none, is asked. A
//! request may be asked of several: its session has it executed once, and the first answer counts.
//! Who gives that answer is asked from then on.

use std::sync::Arc;

use quorate_core::crypto::{PublicKey, Signer};
use quorate_core::id::{ReplicaId, ReplicaSet};
use quorate_core::transport::{Connector, FrameSink};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::command::{Caller, What};
use super::dial::{self, CallId, Dialer, News};
use super::gathering::{TURN, gather};
use super::lateness::Lateness;
use super::outstanding::{Commands, Trust};
use super::questions::{Kind, Questions};
use super::{Call, ClientOptions};
use crate::client_wire::{self, Ask, Reply};

pub(super) struct Link {
    dialer: Dialer,
    key: PublicKey,
    options: ClientOptions,
    commands: Commands,
    questions: Questions,
    lines: Vec<Line>,
    /// Who is asked, if there is a connection to it.
    chosen: Option<ReplicaId>,
    /// Who is to be asked as soon as there is one.
    wanted: Option<ReplicaId>,
    lateness: Lateness,
    /// How many others may be asked as well, and who has been, since something was answered.
    hedges: usize,
    hedged: ReplicaSet,
    failure: String,
    /// When the replica was last heard while something waited for it.
    heard: Instant,
    news: mpsc::UnboundedReceiver<News>,
}

/// The connection to one replica.
#[derive(Default)]
struct Line {
    state: State,
    /// Whom the replica takes for the leader.
    leader: Option<ReplicaId>,
    /// It has said that it knows none.
    leaderless: bool,
}

#[derive(Default)]
enum State {
    #[default]
    Idle,
    Connecting,
    Up(CallId, Arc<dyn FrameSink>),
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
            lines: (0..dialer.n()).map(|_| Line::default()).collect(),
            chosen: None,
            wanted: options.first,
            lateness: Lateness::new(),
            hedges: 0,
            hedged: ReplicaSet::EMPTY,
            dialer,
            key,
            options,
            commands: Commands::new(dial::new_session(key), trust),
            questions: Questions::default(),
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
        let late = self.may_hedge().then(|| self.lateness.due());
        let others = late.into_iter().chain(self.commands.again());
        others.chain([earliest, patience]).min()
    }

    fn take(&mut self, calls: &mut Vec<Call>) {
        if !self.waits() {
            self.heard = Instant::now();
            self.lateness.begin();
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
                Call::Close(caller) => self.commands.close(caller, deadline),
            }
        }
    }

    fn hear(&mut self, news: News) {
        match news {
            News::Connected(call, Ok(sink)) => self.connected(call, sink),
            News::Connected(CallId { to, .. }, Err(error)) => {
                tracing::debug!(%to, %error, "cannot connect");
                self.failure = error.to_string();
                if let Some(line) = self.line(to) {
                    *line = Line::default();
                }
                if self.options.fail_over && self.wanted == Some(to) {
                    self.wanted = None;
                }
            }
            News::Closed(call) => self.lost(call),
            News::Frame(call, frame) if self.is_up(call) => self.replies(call, frame.bytes()),
            News::Frame(..) => {}
        }
    }

    fn line(&mut self, replica: ReplicaId) -> Option<&mut Line> {
        self.lines.get_mut(replica.index())
    }

    fn is_up(&self, wanted: CallId) -> bool {
        let line = self.lines.get(wanted.to.index());
        matches!(line, Some(Line { state: State::Up(call, _), .. }) if *call == wanted)
    }

    fn connected(&mut self, call: CallId, sink: Arc<dyn FrameSink>) {
        follow_session(&self.commands, &sink);
        if let Some(line) = self.line(call.to) {
            *line = Line {
                state: State::Up(call, sink),
                ..Line::default()
            };
        }
        if self.chosen.is_none() || self.wanted == Some(call.to) {
            self.choose(call.to);
        }
    }

    /// Asks this replica from now on: for all that waits, too.
    fn choose(&mut self, replica: ReplicaId) {
        let before = self.chosen.replace(replica);
        if self.wanted == Some(replica) {
            self.wanted = None;
        }
        self.heard = Instant::now();
        self.lateness.begin();
        (self.hedges, self.hedged) = (0, ReplicaSet::EMPTY);
        self.commands.renew();
        self.questions.renew();
        // It may name the one that was left because it is silent.
        let leader = self.line(replica).and_then(|line| line.leader);
        if let Some(leader) = leader.filter(|leader| before != Some(*leader)) {
            self.follow(leader);
        }
    }

    fn lost(&mut self, call: CallId) {
        if self.is_up(call) {
            self.failure = format!("{} closed the connection", call.to);
            self.leave(call.to);
        }
    }

    /// Drops a connection.
    fn leave(&mut self, replica: ReplicaId) {
        if let Some(line) = self.line(replica) {
            *line = Line::default();
        }
        if self.chosen == Some(replica) {
            self.chosen = None;
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
        if self.chosen == Some(call.to) {
            self.heard = Instant::now();
        }
        for reply in replies {
            self.reply(call.to, reply);
        }
    }

    fn reply(&mut self, from: ReplicaId, reply: Reply) {
        match reply {
            Reply::Answer {
                session,
                sequence,
                result,
            } => {
                let request = (session, sequence);
                if self.commands.waits_for(request) {
                    self.answered(from, self.commands.sent_once(request));
                }
                if self.commands.answer(from, request, result) {
                    self.reopen();
                }
            }
            Reply::Read(number, result) => {
                if self.questions.waits_for(number) {
                    self.answered(from, self.questions.sent_once(number));
                }
                self.questions.read(number, result);
            }
            Reply::Status(number, report) => self.questions.status(number, *report),
            Reply::Leader(leader) => {
                if let Some(line) = self.line(from) {
                    (line.leader, line.leaderless) = (Some(leader), false);
                }
                if self.chosen == Some(from) {
                    self.follow(leader);
                }
            }
            Reply::Leaderless => self.leaderless(from),
            Reply::Opened(opened) => self.commands.seen(opened),
            // This client does not ask so.
            Reply::Peeked(..) => {}
        }
    }

    /// Something that any replica may answer was answered by this one.
    fn answered(&mut self, from: ReplicaId, sent: Option<Instant>) {
        if let Some(sent) = sent {
            self.lateness.measured(sent.elapsed());
        }
        self.lateness.begin();
        (self.hedges, self.hedged) = (0, ReplicaSet::EMPTY);
        if self.chosen != Some(from) {
            self.choose(from);
        }
    }

    fn reopen(&mut self) {
        self.commands.reopen(dial::new_session(self.key));
        for line in &self.lines {
            if let State::Up(_, sink) = &line.state {
                follow_session(&self.commands, sink);
            }
        }
    }

    /// Moves to the leader, keeping the old connection until the new one is up.
    fn follow(&mut self, leader: ReplicaId) {
        let Some(line) = self.lines.get(leader.index()) else {
            return;
        };
        if !self.options.follow_leader || self.chosen == Some(leader) {
            return;
        }
        match line.state {
            State::Up(..) => self.choose(leader),
            State::Idle | State::Connecting => self.wanted = Some(leader),
        }
    }

    /// A replica without a leader may be cut off from the others: they are asked at once.
    fn leaderless(&mut self, from: ReplicaId) {
        let Some(line) = self.line(from) else {
            return;
        };
        (line.leader, line.leaderless) = (None, true);
        if self.chosen == Some(from) && self.options.fail_over && self.waits() {
            self.hedges = self.hedges.max(1);
        }
    }

    /// Whether another may be asked as well.
    fn may_hedge(&self) -> bool {
        self.options.fail_over && self.hedges + 1 < self.lines.len()
    }

    /// Ends what has waited too long; asks another as well for what is late, and leaves a replica
    /// that is silent.
    fn look(&mut self) {
        let now = Instant::now();
        self.commands.expire(now, &self.failure);
        self.commands.ask_again(now);
        self.questions.expire(now, &self.failure);
        if self.waits() && self.may_hedge() && now >= self.lateness.due() {
            self.hedges += 1;
            self.lateness.in_vain();
        }
        if now >= self.heard + self.options.patience {
            self.heard = now;
            if let Some(chosen) = self.chosen {
                self.failure = format!("{chosen} does not answer");
                self.leave(chosen);
                self.choose_another(chosen);
            }
        }
    }

    /// Asks the next replica that there is a connection to.
    fn choose_another(&mut self, after: ReplicaId) {
        if let Some(next) = self.next_up(after, |_, _| true) {
            self.choose(next);
        }
    }

    /// The next of the others that there is a connection to, and that will do.
    fn next_up(
        &self,
        after: ReplicaId,
        will_do: impl Fn(ReplicaId, &Line) -> bool,
    ) -> Option<ReplicaId> {
        let n = self.lines.len();
        let others = (1..n).map(|i| ReplicaId(((after.index() + i) % n) as u8));
        let mut others = others.map(|other| (other, &self.lines[other.index()]));
        let next = others
            .find(|(other, line)| matches!(line.state, State::Up(..)) && will_do(*other, line));
        next.map(|(other, _)| other)
    }

    /// Connects if something waits; sends what has not been sent, and what is late to others.
    fn advance(&mut self) {
        if self.commands.is_spent() {
            self.reopen();
        }
        self.prefer_who_knows_a_leader();
        if !self.is_in_doubt() {
            self.hang_up();
        }
        if !self.waits() {
            return;
        }
        self.call();
        let Some(chosen) = self.chosen else {
            return;
        };
        let mut asks = match self.commands.is_empty() {
            true => Vec::new(),
            false => self.commands.unsent(),
        };
        asks.extend(self.questions.unsent());
        self.send(chosen, &asks);
        self.hedge(chosen);
    }

    /// Whether another replica than the one that is asked may be needed.
    fn is_in_doubt(&self) -> bool {
        let chosen = self
            .chosen
            .and_then(|chosen| self.lines.get(chosen.index()));
        self.hedges > 0 || chosen.is_none_or(|line| line.leaderless)
    }

    fn prefer_who_knows_a_leader(&mut self) {
        let Some(chosen) = self.chosen.filter(|_| self.options.fail_over) else {
            return;
        };
        if self.lines[chosen.index()].leaderless {
            let better = self.next_up(chosen, |_, line| !line.leaderless);
            if let Some(better) = better {
                self.choose(better);
            }
        }
    }

    /// Calls whoever is wanted, and all others while there is nobody to be asked for certain.
    fn call(&mut self) {
        let named = self.wanted.is_some() && self.chosen.is_none() && self.hedges == 0;
        let others = self.options.fail_over && self.is_in_doubt() && !named;
        let first = self.options.first.unwrap_or(ReplicaId(0));
        let only = match self.chosen {
            None => Some(self.wanted.unwrap_or(first)),
            Some(_) => self.wanted,
        };
        for replica in ReplicaId::all(self.lines.len()) {
            let line = &mut self.lines[replica.index()];
            if (others || only == Some(replica)) && matches!(line.state, State::Idle) {
                line.state = State::Connecting;
                self.dialer.call(replica);
            }
        }
    }

    /// Asks others for what is late, each once, and no more of them than the time that has passed
    /// without an answer allows.
    fn hedge(&mut self, chosen: ReplicaId) {
        while self.hedged.len() < self.hedges {
            let Some(next) = self.next_up(chosen, |other, _| !self.hedged.contains(other)) else {
                return;
            };
            self.hedged.insert(next);
            let mut asks = self.commands.late();
            asks.extend(self.questions.late());
            self.send(next, &asks);
        }
    }

    /// Ends the connections that are not needed.
    fn hang_up(&mut self) {
        for replica in ReplicaId::all(self.lines.len()) {
            let needed = [self.chosen, self.wanted].contains(&Some(replica));
            let line = &mut self.lines[replica.index()];
            if !needed && matches!(line.state, State::Up(..)) {
                *line = Line::default();
                self.dialer.hung_up(replica);
            }
        }
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

#[cfg(test)]
mod tests;
