//! A bench for Multi-Paxos replicas: one thread, no network, no disk, and every effect in view.
#![allow(dead_code, reason = "each test file uses its own part of the bench")]

use std::collections::{BTreeMap, VecDeque};
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
use quorate_multipaxos::{
    Accept, Acceptance, Ballot, Config, Message, MultiPaxos, Prepare, Promise, Proposal, Record,
    Report, Slots, Timer,
};

mod cluster;

#[allow(
    unused_imports,
    reason = "each test file uses its own part of the bench"
)]
pub(crate) use cluster::Cluster;

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

/// The ballot of `replica` in `round`.
pub(crate) fn b(round: u64, replica: u8) -> Ballot {
    let replica = r(replica);
    Ballot { round, replica }
}

pub(crate) fn proposal(slot: u64, text: &str) -> Proposal {
    Proposal {
        slot: Slot(slot),
        batch: value(text),
    }
}

/// A batch of one command, or the no-op for an empty one.
pub(crate) fn value(text: &str) -> Batch {
    match text {
        "" => Batch::noop(),
        _ => command(text),
    }
}

/// Records of a replica that has promised a ballot, and accepted values in slots and ballots.
pub(crate) fn records(promised: Ballot, accepted: &[(u64, Ballot, &str)]) -> Vec<Record> {
    let mut records = vec![Record::Promised(promised)];
    for (slot, ballot, text) in accepted {
        records.push(Record::Accepted {
            ballot: *ballot,
            proposals: vec![proposal(*slot, text)],
            chosen: Slot::ZERO,
        });
    }
    records
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

pub(crate) fn prepare(ballot: Ballot, from: u64) -> Message {
    Message::Prepare(Prepare {
        ballot,
        from: Slot(from),
        released: None,
    })
}

/// A promise with values accepted in slots and ballots, and nothing known chosen.
pub(crate) fn promise(ballot: Ballot, accepted: &[(u64, Ballot, &str)]) -> Message {
    promise_from(ballot, 0, accepted)
}

/// A promise of a replica that knows all slots `through` one to be chosen.
pub(crate) fn promise_from(
    ballot: Ballot,
    through: u64,
    accepted: &[(u64, Ballot, &str)],
) -> Message {
    let report = |(slot, ballot, text): &(u64, Ballot, &str)| Report {
        slot: Slot(*slot),
        ballot: *ballot,
        batch: value(text),
    };
    let accepted: Vec<Report> = accepted.iter().map(report).collect();
    Message::Promise(Promise {
        ballot,
        from: Slot(1),
        through: accepted.last().map_or(Slot(1), |report| report.slot),
        last: true,
        accepted,
        chosen: Slot(through),
        compacted: Slot::ZERO,
    })
}

pub(crate) fn accept(ballot: Ballot, proposals: &[(u64, &str)], chosen: u64) -> Message {
    let values = proposals.iter();
    Message::Accept(Accept {
        ballot,
        proposals: values.map(|(slot, text)| proposal(*slot, text)).collect(),
        chosen: Slot(chosen),
        round: 0,
    })
}

pub(crate) fn heartbeat(ballot: Ballot, chosen: u64, round: u64) -> Message {
    Message::Accept(Accept {
        ballot,
        proposals: Vec::new(),
        chosen: Slot(chosen),
        round,
    })
}

/// An acceptance of the slots given.
pub(crate) fn accepted(ballot: Ballot, slots: &[u64]) -> Message {
    echo(ballot, slots, 0, 0)
}

pub(crate) fn echo(ballot: Ballot, slots: &[u64], round: u64, executed: u64) -> Message {
    let mut ranges = Slots::default();
    for slot in slots {
        ranges.push(Slot(*slot));
    }
    Message::Accepted(Acceptance {
        ballot,
        slots: ranges,
        round,
        executed: Slot(executed),
    })
}

pub(crate) fn rejected(ballot: Ballot, promised: Ballot) -> Message {
    Message::Rejected { ballot, promised }
}

/// One replica, with what it has said and done.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) paxos: MultiPaxos,
    pub(crate) me: ReplicaId,
    n: usize,
    verifier: Verifier,
    pub(crate) now: Time,
    pub(crate) timers: BTreeMap<Timer, Time>,
    /// Whether each turn ends with a sync.
    pub(crate) syncs: bool,
    /// Whether the invariants are checked after each step.
    pub(crate) checks: bool,
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
            paxos: MultiPaxos::recover(context, config, past)?,
            me,
            n,
            verifier,
            now: Time::ZERO,
            timers: BTreeMap::new(),
            syncs: true,
            checks: true,
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

    /// Replica `me` of `n` without a past.
    pub(crate) fn fresh(me: u8, n: usize) -> Node {
        Node::with(me, n, &Config::default(), Vec::new())
    }

    /// Replica `me` of `n` with the records given.
    pub(crate) fn with(me: u8, n: usize, config: &Config, records: Vec<Record>) -> Node {
        let past = Recovered {
            records,
            snapshot: None,
        };
        Node::recover(context(r(me), n, me), config.clone(), past).expect("a good past")
    }

    /// Replica `me` of `n` that has promised a ballot, and accepted values.
    pub(crate) fn acceptor(
        me: u8,
        n: usize,
        promised: Ballot,
        accepted: &[(u64, Ballot, &str)],
    ) -> Node {
        Node::with(me, n, &Config::default(), records(promised, accepted))
    }

    /// Replica 0 of `n`, which has just begun phase 1 in `round`, and had accepted values.
    pub(crate) fn candidate(n: usize, round: u64, accepted: &[(u64, Ballot, &str)]) -> Node {
        let mut node = Node::acceptor(0, n, b(round - 1, 0), accepted);
        node.wait_for_campaign();
        assert_eq!((node.role(), node.ballot()), (Role::Candidate, b(round, 0)));
        node
    }

    /// Replica 0 of `n`, which has just been elected in `round`: nobody had accepted anything.
    pub(crate) fn leader(n: usize, round: u64) -> Node {
        let mut node = Node::candidate(n, round, &[]);
        for peer in ReplicaId::all(n).skip(1).take(n / 2) {
            node.receive(peer, promise(b(round, 0), &[]));
        }
        assert_eq!(node.role(), Role::Leader);
        node
    }

    /// One input, and what follows from it until nothing more does.
    pub(crate) fn turn(&mut self, input: Input<MultiPaxos>) {
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

    pub(crate) fn step(&mut self, input: Input<MultiPaxos>) {
        let mut out = Output::default();
        self.paxos.step(self.now, input, &mut out);
        if self.checks {
            self.paxos.check().expect("the invariants hold");
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
                    if to == Dest::All {
                        self.own.push_back(message.clone());
                    }
                    let others = ReplicaId::all(self.n).filter(|id| *id != self.me);
                    self.sent.extend(others.map(|to| (to, message.clone())));
                }
            }
        }
    }

    pub(crate) fn input(&self, from: ReplicaId, message: Message) -> Input<MultiPaxos> {
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
        let (start, before) = (self.now, self.campaigns());
        while self.campaigns() == before {
            self.fire(Timer::Election);
        }
        self.now.since(start)
    }

    fn campaigns(&self) -> usize {
        let campaign = |event: &&Event| matches!(event, Event::Campaign { .. });
        self.events.iter().filter(campaign).count()
    }

    /// Lets `millis` pass; timers that fall due fire.
    pub(crate) fn pass(&mut self, millis: u64) {
        let until = self.now + Duration::from_millis(millis);
        while let Some((timer, at)) = self
            .timers
            .iter()
            .map(|(t, at)| (*t, *at))
            .min_by_key(|t| t.1)
            && at <= until
        {
            self.now = self.now.max(at);
            self.timers.remove(&timer);
            self.turn(Input::Timer(timer));
        }
        self.now = until;
    }

    /// Takes what has been sent.
    pub(crate) fn take(&mut self) -> Vec<(ReplicaId, Message)> {
        std::mem::take(&mut self.sent)
    }

    /// Takes the proposals that have been sent to `to`: slots and values.
    pub(crate) fn proposed(&mut self, to: ReplicaId) -> Vec<(u64, String)> {
        let sent = self.take().into_iter();
        let accepts = sent.filter_map(|(peer, message)| match message {
            Message::Accept(accept) if peer == to => Some(accept.proposals),
            _ => None,
        });
        let proposals = accepts.flatten();
        proposals.map(|p| (p.slot.0, text(&p.batch))).collect()
    }

    pub(crate) fn role(&self) -> Role {
        self.paxos.status().role
    }

    /// The ballot that the replica is in.
    pub(crate) fn ballot(&self) -> Ballot {
        let regime = self.paxos.status().regime;
        b(regime >> 6, (regime & 63) as u8)
    }

    pub(crate) fn known_leader(&self) -> Option<ReplicaId> {
        self.paxos.status().leader
    }

    pub(crate) fn committed(&self) -> u64 {
        self.paxos.status().committed
    }

    /// The commands handed over for execution; the no-op is empty.
    pub(crate) fn executed(&self) -> Vec<String> {
        self.commits.iter().map(|(_, batch)| text(batch)).collect()
    }

    /// The ballot that is durably promised.
    pub(crate) fn durable_promise(&self) -> Ballot {
        let ballots = self.durable.iter().filter_map(|record| match record {
            Record::Promised(ballot) | Record::Accepted { ballot, .. } => Some(*ballot),
            Record::Start(_) | Record::Chosen(_) => None,
        });
        ballots.max().unwrap_or(Ballot::ZERO)
    }

    /// What is durably accepted: slots, ballots and values, in the order of slots.
    pub(crate) fn durable_log(&self) -> Vec<(u64, Ballot, String)> {
        let mut log = BTreeMap::new();
        for record in &self.durable {
            let (ballot, proposals) = match record {
                Record::Accepted {
                    ballot, proposals, ..
                } => (*ballot, proposals),
                Record::Chosen(proposals) => (Ballot::ZERO, proposals),
                Record::Start(_) | Record::Promised(_) => continue,
            };
            for proposal in proposals {
                log.insert(proposal.slot.0, (ballot, text(&proposal.batch)));
            }
        }
        let held = log.into_iter();
        held.map(|(slot, (ballot, text))| (slot, ballot, text))
            .collect()
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

pub(crate) fn snapshot(slot: u64, anchor: Bytes) -> SnapshotRef {
    SnapshotRef {
        at: Frontier::single(Slot(slot)),
        digest: Digest::of(b"state"),
        anchor,
    }
}
