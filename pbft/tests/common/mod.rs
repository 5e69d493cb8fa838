//! A bench for PBFT replicas: one thread, no network, no disk, real keys, and every effect in
//! view.
#![allow(dead_code, reason = "each test file uses its own part of the bench")]

mod statements;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use quorate_core::codec;
use quorate_core::crypto::{
    Admission, Digest, Digester, GroupId, Members, SecretKey, Signer, Verifier,
};
use quorate_core::frontier::Frontier;
use quorate_core::id::{ReplicaId, Slot, Time};
use quorate_core::machine::Keys;
use quorate_core::output::{Output, TimerOp, Write};
use quorate_core::protocol::{
    Context, Dest, Event, Fetch, Input, Invalid, Message as _, Protocol, ReadAnswer, ReadId,
    RecoverError, Recovered, Role, SnapshotRef, Verified,
};
use quorate_core::request::{Batch, Operation, Request, SessionId};
use quorate_pbft::{Config, Message, Pbft, Record, Timer};

pub(crate) use statements::*;

/// Replica `index`.
pub(crate) fn r(index: u8) -> ReplicaId {
    ReplicaId(index)
}

/// A batch of one command, the only one with this text.
pub(crate) fn command(text: &str) -> Batch {
    let client = Signer::new(SecretKey::from_seed([99; 32]), GroupId(1));
    let digest = Digest::of(text.as_bytes());
    Batch::of_one(Request {
        session: SessionId {
            client: client.public(),
            number: 1,
        },
        sequence: u64::from_le_bytes(digest.0[..8].try_into().expect("eight bytes")),
        answered: 0,
        operation: Operation::Apply(text.as_bytes()),
    })
    .signed(&client)
}

/// The command in a batch; the no-op is empty.
pub(crate) fn text(batch: &Batch) -> String {
    let commands = batch.requests().map(|request| match request.operation {
        Operation::Apply(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        other => format!("{other:?}"),
    });
    commands.collect()
}

fn secret(index: ReplicaId) -> SecretKey {
    SecretKey::from_seed([index.0 + 1; 32])
}

pub(crate) fn members(n: usize) -> Members {
    let keys: Vec<_> = ReplicaId::all(n).map(|id| secret(id).public()).collect();
    Members::new(GroupId(1), keys)
}

pub(crate) fn signer(index: u8) -> Signer {
    Signer::new(secret(r(index)), GroupId(1))
}

pub(crate) fn verifier(n: usize) -> Verifier {
    Verifier::new(members(n)).admitting(Admission::Anyone)
}

pub(crate) fn context(me: ReplicaId, n: usize, seed: u8) -> Context {
    let members = members(n);
    Context {
        me,
        signer: Signer::new(secret(me), members.group()),
        verifier: verifier(n),
        members,
        seed: [seed; 32],
    }
}

/// Small windows, so that checkpoints come soon.
pub(crate) fn config() -> Config {
    Config {
        checkpoint_every: 4,
        window: 8,
        ..Config::default()
    }
}

/// Whether a message from `from` is let in, in a cluster of four.
pub(crate) fn verify(from: u8, message: &Message) -> Result<(), Invalid> {
    message.verify(r(from), &verifier(4))
}

/// The digest of the state after a batch: a chain of all that were executed.
fn state_after(state: Digest, batch: &Batch) -> Digest {
    let mut digester = Digester::default();
    digester.update(&state.0);
    digester.update(&batch.digest().0);
    digester.finish()
}

/// The state before anything is executed.
fn beginning() -> Digest {
    Digest::of(b"beginning")
}

/// The digest of the state after commands with these texts.
pub(crate) fn state_of(texts: &[&str]) -> Digest {
    let batches = texts.iter().map(|text| command(text));
    batches.fold(beginning(), |state, batch| state_after(state, &batch))
}

/// One replica, with what it has said and done.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) pbft: Pbft,
    pub(crate) me: ReplicaId,
    n: usize,
    pub(crate) verifier: Verifier,
    pub(crate) now: Time,
    pub(crate) timers: BTreeMap<Timer, Time>,
    /// Whether a broken invariant ends the test.
    pub(crate) checks: bool,
    /// Whether each turn ends with a sync.
    pub(crate) syncs: bool,
    /// Whether each checkpoint is saved at once.
    pub(crate) saves: bool,
    pub(crate) durable: Vec<Record>,
    unsynced: Vec<Write<Record>>,
    held: Vec<(Dest, Message)>,
    own: VecDeque<Message>,
    pub(crate) sent: Vec<(ReplicaId, Message)>,
    pub(crate) commits: Vec<(Slot, Batch)>,
    /// The digest of the state.
    pub(crate) state: Digest,
    /// The snapshot that is durable here.
    pub(crate) saved: Option<SnapshotRef>,
    /// Snapshots taken that are not durable yet.
    pub(crate) unsaved: Vec<SnapshotRef>,
    pub(crate) answered: Vec<(ReadId, ReadAnswer)>,
    pub(crate) fetch: Option<Fetch>,
    pub(crate) offer: Option<(Frontier, Bytes)>,
    pub(crate) events: Vec<Event>,
}

impl Node {
    /// Replica `me` of `n`, with a past, started.
    pub(crate) fn recover(
        context: Context,
        config: Config,
        past: Recovered<Record>,
    ) -> Result<Node, RecoverError> {
        let (me, n, verifier) = (context.me, context.n(), context.verifier.clone());
        let (durable, saved) = (past.records.clone(), past.snapshot.clone());
        let checks = config.mutant.is_none();
        let mut node = Node {
            pbft: Pbft::recover(context, config, past)?,
            me,
            n,
            verifier,
            now: Time::ZERO,
            timers: BTreeMap::new(),
            checks,
            syncs: true,
            saves: true,
            durable,
            unsynced: Vec::new(),
            held: Vec::new(),
            own: VecDeque::new(),
            sent: Vec::new(),
            commits: Vec::new(),
            state: saved.as_ref().map_or(beginning(), |saved| saved.digest),
            saved,
            unsaved: Vec::new(),
            answered: Vec::new(),
            fetch: None,
            offer: None,
            events: Vec::new(),
        };
        node.turn(Input::Start);
        Ok(node)
    }

    /// Replica `me` of four, without a past.
    pub(crate) fn new(me: u8, config: &Config) -> Node {
        let context = context(r(me), 4, me);
        Node::recover(context, config.clone(), Recovered::nothing()).expect("a good past")
    }

    /// One input, and what follows from it until nothing more does.
    pub(crate) fn turn(&mut self, input: Input<Pbft>) {
        self.step(input);
        self.end_turn();
    }

    pub(crate) fn end_turn(&mut self) {
        loop {
            self.step(Input::EndOfTurn);
            if self.syncs {
                self.sync();
            }
            if self.saves && !self.unsaved.is_empty() {
                self.save();
                continue;
            }
            if self.own.is_empty() {
                return;
            }
            while let Some(message) = self.own.pop_front() {
                // Without a rule, a replica may tell itself what nobody else would believe.
                let verified = Verified::new(self.me, message, &self.verifier);
                assert!(verified.is_ok() || !self.checks, "{verified:?}");
                if let Ok(message) = verified {
                    self.step(Input::Message(message));
                }
            }
        }
    }

    pub(crate) fn step(&mut self, input: Input<Pbft>) {
        let mut out = Output::default();
        self.pbft.step(self.now, input, &mut out);
        if self.checks {
            self.pbft.check().expect("the invariants hold");
        }
        for op in out.timers() {
            match *op {
                TimerOp::Arm(timer, at) => self.timers.insert(timer, at),
                TimerOp::Disarm(timer) => self.timers.remove(&timer),
            };
        }
        self.route(out.sends().to_vec());
        if out.write().replaces || !out.write().records.is_empty() {
            self.unsynced.push(out.write().clone());
        }
        self.held.extend_from_slice(out.promises());
        self.answered.extend_from_slice(out.reads());
        self.fetch = out.wanted().cloned().or(self.fetch.take());
        self.offer = out.offered().cloned().or(self.offer.take());
        self.events.extend_from_slice(out.events());
        for commit in out.commits() {
            self.state = state_after(self.state, &commit.batch);
            self.commits.push((commit.id.slot, commit.batch.clone()));
            if commit.checkpoint {
                self.unsaved.push(SnapshotRef {
                    at: Frontier::single(commit.id.slot),
                    digest: self.state,
                    anchor: Bytes::new(),
                });
            }
        }
    }

    /// The snapshots taken are durable.
    pub(crate) fn save(&mut self) {
        for snapshot in std::mem::take(&mut self.unsaved) {
            self.saved = Some(snapshot.clone());
            self.step(Input::Snapshotted(snapshot));
        }
    }

    /// All that was written is durable; promises leave.
    pub(crate) fn sync(&mut self) {
        for write in std::mem::take(&mut self.unsynced) {
            if write.replaces {
                self.durable.clear();
            }
            self.durable.extend(write.records);
        }
        let held = std::mem::take(&mut self.held);
        self.route(held);
    }

    fn route(&mut self, messages: Vec<(Dest, Message)>) {
        for (to, message) in messages {
            let others = ReplicaId::all(self.n).filter(|id| *id != self.me);
            match to {
                Dest::One(to) if to == self.me => self.own.push_back(message),
                Dest::One(to) => self.sent.push((to, message)),
                Dest::Others => self.sent.extend(others.map(|to| (to, message.clone()))),
                Dest::All => {
                    self.sent.extend(others.map(|to| (to, message.clone())));
                    self.own.push_back(message);
                }
            }
        }
    }

    pub(crate) fn input(&self, from: ReplicaId, message: Message) -> Input<Pbft> {
        Input::Message(Verified::new(from, message, &self.verifier).expect("a valid message"))
    }

    /// A turn with one message.
    pub(crate) fn receive(&mut self, from: u8, message: Message) {
        let input = self.input(r(from), message);
        self.turn(input);
    }

    /// A turn with one message; gives what the replica sends to replica `to` then.
    pub(crate) fn answer(&mut self, from: u8, message: Message, to: u8) -> Vec<Message> {
        self.sent.clear();
        self.receive(from, message);
        self.sent_to(to)
    }

    /// Takes what has been sent, and gives what of it goes to replica `to`.
    pub(crate) fn sent_to(&mut self, to: u8) -> Vec<Message> {
        let sent = self.take().into_iter();
        sent.filter(|(peer, _)| *peer == r(to))
            .map(|(_, message)| message)
            .collect()
    }

    /// A turn with one command proposed here.
    pub(crate) fn propose(&mut self, text: &str) {
        let (batch, keys) = (command(text), Keys::All);
        self.turn(Input::Propose { batch, keys });
    }

    /// Lets the time pass until `timer` fires.
    pub(crate) fn fire(&mut self, timer: Timer) {
        let due = self.timers.remove(&timer).expect("the timer is armed");
        self.now = self.now.max(due);
        self.turn(Input::Timer(timer));
    }

    /// Lets the time pass until the replica leaves its view; gives how long that took.
    pub(crate) fn wait_for_view_change(&mut self) -> Duration {
        let (start, view) = (self.now, self.view());
        while self.view() == view {
            let waits = self.timers.contains_key(&Timer::NewView);
            self.fire(if waits {
                Timer::NewView
            } else {
                Timer::Request
            });
        }
        self.now.since(start)
    }

    /// Takes what has been sent.
    pub(crate) fn take(&mut self) -> Vec<(ReplicaId, Message)> {
        std::mem::take(&mut self.sent)
    }

    pub(crate) fn role(&self) -> Role {
        self.pbft.status().role
    }

    pub(crate) fn view(&self) -> u64 {
        self.pbft.status().regime
    }

    /// The last slot executed.
    pub(crate) fn executed_through(&self) -> u64 {
        self.pbft.status().committed
    }

    /// The commands handed over for execution; the no-op is empty.
    pub(crate) fn executed(&self) -> Vec<String> {
        self.commits.iter().map(|(_, batch)| text(batch)).collect()
    }

    /// What is left of the replica after a crash.
    pub(crate) fn crash(self, config: &Config) -> Node {
        let past = Recovered {
            records: self.durable,
            snapshot: self.saved,
        };
        let context = context(self.me, self.n, self.me.0 + 50);
        Node::recover(context, config.clone(), past).expect("a good past")
    }
}

/// The votes for a slot in messages of a kind.
pub(crate) fn digest_voted(messages: &[Message], slot: u64) -> Option<Digest> {
    messages.iter().find_map(|message| match message {
        Message::Prepare { votes, .. } => {
            let vote = votes.iter().find(|vote| vote.slot == Slot(slot));
            vote.map(|vote| vote.digest)
        }
        _ => None,
    })
}

/// The kinds of the messages, in order.
pub(crate) fn kinds(messages: &[Message]) -> Vec<&'static str> {
    messages.iter().map(Message::kind).collect()
}

/// Replicas and the messages between them.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) nodes: Vec<Node>,
    blocked: BTreeSet<(ReplicaId, ReplicaId)>,
    /// The messages delivered: kinds, by rounds. All that is sent in a round arrives in the next.
    pub(crate) rounds: Vec<Vec<&'static str>>,
    /// Kinds that are lost.
    pub(crate) lost: BTreeSet<&'static str>,
}

impl Cluster {
    pub(crate) fn new(n: usize, config: &Config) -> Cluster {
        let node = |id: ReplicaId| {
            let context = context(id, n, id.0);
            Node::recover(context, config.clone(), Recovered::nothing()).expect("a good past")
        };
        Cluster {
            nodes: ReplicaId::all(n).map(node).collect(),
            blocked: BTreeSet::new(),
            rounds: Vec::new(),
            lost: BTreeSet::new(),
        }
    }

    pub(crate) fn node(&mut self, id: u8) -> &mut Node {
        &mut self.nodes[usize::from(id)]
    }

    /// Drops all messages from and to `id` from now on.
    pub(crate) fn isolate(&mut self, id: u8) {
        for other in ReplicaId::all(self.nodes.len()) {
            self.blocked.insert((r(id), other));
            self.blocked.insert((other, r(id)));
        }
    }

    /// Drops all messages from one replica to another from now on.
    pub(crate) fn block(&mut self, from: u8, to: u8) {
        self.blocked.insert((r(from), r(to)));
    }

    /// Ends all isolation and loss.
    pub(crate) fn heal(&mut self) {
        self.blocked.clear();
        self.lost.clear();
    }

    /// Delivers all messages, and those that follow from them, until none is left.
    pub(crate) fn deliver(&mut self) {
        while self.deliver_round() {}
    }

    /// Delivers all messages that are under way; false if there is none.
    pub(crate) fn deliver_round(&mut self) -> bool {
        let mut messages = Vec::new();
        for node in &mut self.nodes {
            let from = node.me;
            let sent = node.take().into_iter();
            messages.extend(sent.map(|(to, message)| (from, to, message)));
        }
        if messages.is_empty() {
            return false;
        }
        let mut kinds = Vec::new();
        for (from, to, message) in messages {
            let kind = message.kind();
            if !self.blocked.contains(&(from, to)) && !self.lost.contains(kind) {
                kinds.push(kind);
                self.node(to.0).receive(from.0, message);
            }
        }
        self.rounds.push(kinds);
        true
    }

    /// How many messages of a kind have been delivered.
    pub(crate) fn count(&self, kind: &str) -> usize {
        self.rounds.iter().flatten().filter(|k| **k == kind).count()
    }

    /// A command proposed at `id`, and what follows from it.
    pub(crate) fn propose(&mut self, id: u8, text: &str) {
        self.node(id).propose(text);
        self.deliver();
    }

    /// Every replica tells of itself so many times, and what follows from it.
    pub(crate) fn tick(&mut self, times: usize) {
        for _ in 0..times {
            for node in &mut self.nodes {
                node.fire(Timer::Status);
            }
            self.deliver();
            for to in 0..self.nodes.len() as u8 {
                self.fetch(to);
            }
        }
    }

    /// The replicas given lose patience with their primary, whom they have told of a command.
    pub(crate) fn change_view(&mut self, impatient: &[u8], text: &str) {
        for id in impatient {
            self.node(*id).propose(text);
        }
        for id in impatient {
            self.node(*id).wait_for_view_change();
        }
        self.deliver();
    }

    /// Carries out the fetch that `id` wants, if who it asks has what it wants.
    fn fetch(&mut self, id: u8) {
        let Some(fetch) = self.node(id).fetch.take() else {
            return;
        };
        let blocked = self.blocked.contains(&(fetch.from, r(id)));
        let offer = self.node(fetch.from.0).offer.as_ref();
        if offer.is_some_and(|(at, _)| at.covers(&fetch.at_least)) && !blocked {
            self.transfer(fetch.from.0, id);
            self.deliver();
        }
    }

    /// Installs at `to` the state that `from` offers, as the driver does after a fetch.
    pub(crate) fn transfer(&mut self, from: u8, to: u8) {
        let (at, anchor) = self.node(from).offer.clone().expect("a state is offered");
        let certificate: quorate_pbft::CheckpointCertificate =
            codec::decode("anchor", &anchor).expect("a certificate");
        let digest = certificate.digest();
        let snapshot = SnapshotRef { at, digest, anchor };
        assert!(self.node(to).pbft.accepts(&snapshot));
        self.node(to).install(snapshot);
    }
}

impl Node {
    /// A fetched state is now this replica's.
    pub(crate) fn install(&mut self, snapshot: SnapshotRef) {
        self.fetch = None;
        self.state = snapshot.digest;
        self.saved = Some(snapshot.clone());
        self.unsaved.clear();
        self.turn(Input::Installed(snapshot));
    }
}
