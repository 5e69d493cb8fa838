//! A bench for Raft replicas: one thread, no network, no disk, and every effect in view.
#![allow(dead_code, reason = "each test file uses its own part of the bench")]

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use quorate_core::crypto::{Digest, GroupId, Members, SecretKey, Signer, Verifier};
use quorate_core::frontier::Frontier;
use quorate_core::id::{ReplicaId, Slot, Time};
use quorate_core::machine::Keys;
use quorate_core::output::{Output, TimerOp, Write};
use quorate_core::protocol::{
    Context, Dest, Event, Fetch, Input, Protocol, ReadId, RecoverError, Recovered, Role,
    SnapshotRef, Verified,
};
use quorate_core::request::{Batch, Operation, Request, SessionId};
use quorate_raft::{AppendEntries, Config, Entry, Message, Position, Raft, Record, Term, Timer};

/// Replica `index`.
pub(crate) fn r(index: u8) -> ReplicaId {
    ReplicaId(index)
}

/// A batch of one command.
pub(crate) fn command(text: &str) -> Batch {
    let key = SecretKey::from_seed([99; 32]).public();
    Batch::of_one(Request {
        session: SessionId {
            client: key,
            number: 1,
        },
        sequence: 1,
        answered: 0,
        operation: Operation::Apply(text.as_bytes()),
    })
}

/// The command in a batch; the no-op is empty.
pub(crate) fn text(batch: &Batch) -> String {
    let commands = batch.requests().map(|request| match request.operation {
        Operation::Apply(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        other => format!("{other:?}"),
    });
    commands.collect()
}

/// Entries with the terms given, each with a command that says its term.
pub(crate) fn entries(terms: &[u64]) -> Vec<Entry> {
    let entry = |term: &u64| Entry {
        term: Term(*term),
        batch: command(&format!("of term {term}")),
    };
    terms.iter().map(entry).collect()
}

pub(crate) fn at(slot: u64, term: u64) -> Position {
    Position {
        term: Term(term),
        slot: Slot(slot),
    }
}

/// Records of a replica in `term` that has not voted in it, with a log of the terms given.
pub(crate) fn records(term: u64, log: &[u64]) -> Vec<Record> {
    vec![
        Record::Vote {
            term: Term(term),
            voted_for: None,
        },
        Record::Append {
            after: Slot::ZERO,
            entries: entries(log),
        },
    ]
}

pub(crate) fn context(me: ReplicaId, n: usize, seed: u8) -> Context {
    let secret = |index: ReplicaId| SecretKey::from_seed([index.0 + 1; 32]);
    let keys: Vec<_> = ReplicaId::all(n).map(|id| secret(id).public()).collect();
    let members = Members::new(GroupId(1), keys);
    Context {
        me,
        signer: Signer::new(secret(me), members.group()),
        verifier: Verifier::new(members.clone()),
        members,
        seed: [seed; 32],
    }
}

pub(crate) fn heartbeat(term: u64, previous: Position, commit: u64) -> Message {
    append(term, previous, &[], commit)
}

pub(crate) fn append(term: u64, previous: Position, terms: &[u64], commit: u64) -> Message {
    Message::AppendEntries(AppendEntries {
        term: Term(term),
        previous,
        entries: entries(terms),
        commit: Slot(commit),
        round: 0,
    })
}

pub(crate) fn request_vote(term: u64, last: Position) -> Message {
    Message::RequestVote {
        term: Term(term),
        last,
    }
}

pub(crate) fn vote(term: u64, granted: bool) -> Message {
    Message::Vote {
        term: Term(term),
        granted,
    }
}

pub(crate) fn accepted(term: u64, matched: u64) -> Message {
    echo(term, matched, 0)
}

pub(crate) fn echo(term: u64, matched: u64, round: u64) -> Message {
    Message::Accepted {
        term: Term(term),
        matched: Slot(matched),
        round,
    }
}

/// One replica, with what it has said and done.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) raft: Raft,
    pub(crate) me: ReplicaId,
    n: usize,
    verifier: Verifier,
    pub(crate) now: Time,
    pub(crate) timers: BTreeMap<Timer, Time>,
    /// Whether a broken invariant ends the test.
    pub(crate) checks: bool,
    /// Whether each turn ends with a sync.
    pub(crate) syncs: bool,
    pub(crate) durable: Vec<Record>,
    unsynced: Vec<Write<Record>>,
    held: Vec<(Dest, Message)>,
    own: VecDeque<Message>,
    pub(crate) sent: Vec<(ReplicaId, Message)>,
    pub(crate) commits: Vec<(Slot, Batch)>,
    pub(crate) answered: Vec<ReadId>,
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
        let durable = past.records.clone();
        let mut node = Node {
            raft: Raft::recover(context, config, past)?,
            me,
            n,
            verifier,
            now: Time::ZERO,
            timers: BTreeMap::new(),
            checks: true,
            syncs: true,
            durable,
            unsynced: Vec::new(),
            held: Vec::new(),
            own: VecDeque::new(),
            sent: Vec::new(),
            commits: Vec::new(),
            answered: Vec::new(),
            fetch: None,
            offer: None,
            events: Vec::new(),
        };
        node.turn(Input::Start);
        Ok(node)
    }

    /// Replica `me` of `n` in `term`, which has not voted, with a log of the terms given.
    pub(crate) fn follower(me: u8, n: usize, term: u64, log: &[u64]) -> Node {
        let past = Recovered {
            records: records(term, log),
            snapshot: None,
        };
        Node::recover(context(r(me), n, me), Config::default(), past).expect("a good past")
    }

    /// Replica 0 of `n`, which has just become a candidate in `term`.
    pub(crate) fn candidate(n: usize, term: u64, log: &[u64]) -> Node {
        let mut node = Node::follower(0, n, term - 1, log);
        node.fire(Timer::Election);
        assert_eq!((node.role(), node.term()), (Role::Candidate, term));
        node
    }

    /// Replica 0 of `n`, which has just become the leader of `term`, its first entry not sent.
    pub(crate) fn leader(n: usize, term: u64, log: &[u64]) -> Node {
        let mut node = Node::candidate(n, term, log);
        for voter in ReplicaId::all(n).skip(1).take(n / 2) {
            node.receive(voter, vote(term, true));
        }
        assert_eq!((node.role(), node.term()), (Role::Leader, term));
        node
    }

    /// One input, and what follows from it until nothing more does.
    pub(crate) fn turn(&mut self, input: Input<Raft>) {
        self.step(input);
        self.end_turn();
    }

    pub(crate) fn end_turn(&mut self) {
        loop {
            self.step(Input::EndOfTurn);
            if self.syncs {
                self.sync();
            }
            if self.own.is_empty() {
                return;
            }
            while let Some(message) = self.own.pop_front() {
                self.step(self.input(self.me, message));
            }
        }
    }

    pub(crate) fn step(&mut self, input: Input<Raft>) {
        let mut out = Output::default();
        self.raft.step(self.now, input, &mut out);
        if self.checks {
            self.raft.check().expect("the invariants hold");
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
        let commits = out.commits().iter();
        self.commits
            .extend(commits.map(|commit| (commit.id.slot, commit.batch.clone())));
        self.answered.extend(out.reads().iter().map(|(id, _)| *id));
        self.fetch = out.wanted().cloned().or(self.fetch.take());
        self.offer = out.offered().cloned().or(self.offer.take());
        self.events.extend_from_slice(out.events());
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
            match to {
                Dest::One(to) if to == self.me => self.own.push_back(message),
                Dest::One(to) => self.sent.push((to, message)),
                Dest::Others | Dest::All => {
                    let others = ReplicaId::all(self.n).filter(|id| *id != self.me);
                    self.sent.extend(others.map(|to| (to, message.clone())));
                }
            }
        }
    }

    pub(crate) fn input(&self, from: ReplicaId, message: Message) -> Input<Raft> {
        Input::Message(Verified::new(from, message, &self.verifier).expect("a valid message"))
    }

    /// A turn with one message.
    pub(crate) fn receive(&mut self, from: ReplicaId, message: Message) {
        let input = self.input(from, message);
        self.turn(input);
    }

    /// A turn with one message; gives what the replica sends then.
    pub(crate) fn answer(&mut self, from: ReplicaId, message: Message) -> Vec<Message> {
        self.sent.clear();
        self.receive(from, message);
        let sent = self.take().into_iter();
        sent.filter(|(to, _)| *to == from).map(|(_, m)| m).collect()
    }

    /// A turn with one command proposed here.
    pub(crate) fn propose(&mut self, text: &str) {
        let (batch, keys) = (command(text), Keys::All);
        self.turn(Input::Propose { batch, keys });
    }

    /// A turn with one read.
    pub(crate) fn read(&mut self, id: u64) {
        let keys = Keys::All;
        let id = ReadId(id);
        self.turn(Input::Read { id, keys });
    }

    /// Lets the time pass until `timer` has really had its effect.
    pub(crate) fn fire(&mut self, timer: Timer) {
        self.now = self.timers.remove(&timer).expect("the timer is armed");
        self.turn(Input::Timer(timer));
    }

    /// Lets the time pass until the replica campaigns; gives how long that took.
    pub(crate) fn wait_for_campaign(&mut self) -> Duration {
        let (start, term) = (self.now, self.term());
        while self.term() == term {
            self.fire(Timer::Election);
        }
        self.now.since(start)
    }

    /// Takes what has been sent.
    pub(crate) fn take(&mut self) -> Vec<(ReplicaId, Message)> {
        std::mem::take(&mut self.sent)
    }

    /// Takes the AppendEntries that have been sent to `to`.
    pub(crate) fn appends(&mut self, to: ReplicaId) -> Vec<AppendEntries> {
        let sent = self.take().into_iter();
        let to_peer = sent.filter(|(peer, _)| *peer == to);
        to_peer
            .filter_map(|(_, message)| match message {
                Message::AppendEntries(append) => Some(append),
                _ => None,
            })
            .collect()
    }

    pub(crate) fn role(&self) -> Role {
        self.raft.status().role
    }

    pub(crate) fn term(&self) -> u64 {
        self.raft.status().regime
    }

    pub(crate) fn known_leader(&self) -> Option<ReplicaId> {
        self.raft.status().leader
    }

    pub(crate) fn committed(&self) -> u64 {
        self.raft.status().committed
    }

    /// The commands handed over for execution; the no-op is empty.
    pub(crate) fn executed(&self) -> Vec<String> {
        self.commits.iter().map(|(_, batch)| text(batch)).collect()
    }

    /// The log as its records make it, synced or not: the position it goes on from, and entries.
    pub(crate) fn log(&self) -> (Position, Vec<Entry>) {
        let mut folded = (Position::default(), Vec::new());
        fold(&self.durable, &mut folded);
        for write in &self.unsynced {
            if write.replaces {
                folded = (Position::default(), Vec::new());
            }
            fold(&write.records, &mut folded);
        }
        folded
    }

    /// The terms of the log's entries.
    pub(crate) fn log_terms(&self) -> Vec<u64> {
        self.log().1.iter().map(|entry| entry.term.0).collect()
    }

    /// The term and vote that are durable.
    pub(crate) fn durable_vote(&self) -> (u64, Option<ReplicaId>) {
        let mut votes = self.durable.iter().filter_map(|record| match record {
            Record::Vote { term, voted_for } => Some((term.0, *voted_for)),
            _ => None,
        });
        votes.next_back().unwrap_or((0, None))
    }

    /// What is left of the replica after a crash.
    pub(crate) fn crash(self, config: Config, snapshot: Option<SnapshotRef>) -> Node {
        let past = Recovered {
            records: self.durable,
            snapshot,
        };
        Node::recover(context(self.me, self.n, self.me.0 + 50), config, past).expect("a good past")
    }

    /// A snapshot as the driver takes it here: through the last slot executed.
    pub(crate) fn take_snapshot(&mut self) -> SnapshotRef {
        let snapshot = snapshot(self.committed(), Bytes::new());
        self.turn(Input::Snapshotted(snapshot.clone()));
        snapshot
    }
}

fn fold(records: &[Record], (start, log): &mut (Position, Vec<Entry>)) {
    for record in records {
        match record {
            Record::Start(position) => *start = *position,
            Record::Vote { .. } => {}
            Record::Append { after, entries } => {
                log.truncate((after.0 - start.slot.0) as usize);
                log.extend_from_slice(entries);
            }
        }
    }
}

pub(crate) fn snapshot(slot: u64, anchor: Bytes) -> SnapshotRef {
    SnapshotRef {
        at: Frontier::single(Slot(slot)),
        digest: Digest::of(b"state"),
        anchor,
    }
}

/// Replicas and the messages between them.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) nodes: Vec<Node>,
    blocked: BTreeSet<(ReplicaId, ReplicaId)>,
    /// The kinds of the messages delivered.
    pub(crate) delivered: Vec<&'static str>,
}

impl Cluster {
    pub(crate) fn new(n: usize, config: &Config) -> Cluster {
        let node = |id: ReplicaId| {
            let context = context(id, n, id.0);
            Node::recover(context, config.clone(), Recovered::nothing()).expect("a good past")
        };
        Cluster::of(ReplicaId::all(n).map(node).collect())
    }

    pub(crate) fn of(nodes: Vec<Node>) -> Cluster {
        Cluster {
            nodes,
            blocked: BTreeSet::new(),
            delivered: Vec::new(),
        }
    }

    /// A cluster in which replica 0 has just been elected.
    pub(crate) fn led_by_0(n: usize, config: &Config) -> Cluster {
        let mut cluster = Cluster::new(n, config);
        cluster.elect(0);
        cluster
    }

    /// Lets `id` campaign, and expects it to win.
    pub(crate) fn elect(&mut self, id: u8) {
        self.node(id).wait_for_campaign();
        self.deliver();
        assert_eq!(self.node(id).role(), Role::Leader);
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

    /// Ends all isolation.
    pub(crate) fn heal(&mut self) {
        self.blocked.clear();
    }

    /// Delivers all messages, and those that follow from them, until none is left.
    pub(crate) fn deliver(&mut self) {
        use quorate_core::protocol::Message as _;
        loop {
            let messages: Vec<_> = self
                .nodes
                .iter_mut()
                .flat_map(|node| {
                    let from = node.me;
                    let sent = node.take().into_iter();
                    sent.map(move |(to, message)| (from, to, message))
                })
                .collect();
            if messages.is_empty() {
                return;
            }
            for (from, to, message) in messages {
                if !self.blocked.contains(&(from, to)) {
                    self.delivered.push(message.kind());
                    self.node(to.0).receive(from, message);
                }
            }
        }
    }

    /// The leader's heartbeat, and what follows from it.
    pub(crate) fn beat(&mut self, leader: u8) {
        self.node(leader).fire(Timer::Heartbeat);
        self.deliver();
    }

    /// A command proposed at `id`, and what follows from it.
    pub(crate) fn propose(&mut self, id: u8, text: &str) {
        self.node(id).propose(text);
        self.deliver();
    }

    /// Installs at `to` the snapshot that `from` offers, as the driver does after a fetch.
    pub(crate) fn transfer(&mut self, from: u8, to: u8) {
        let (at, anchor) = self
            .node(from)
            .offer
            .clone()
            .expect("a snapshot is offered");
        let snapshot = snapshot(at.slot().0, anchor);
        assert!(self.node(to).raft.accepts(&snapshot));
        self.node(to).fetch = None;
        self.node(to).turn(Input::Installed(snapshot));
    }
}
