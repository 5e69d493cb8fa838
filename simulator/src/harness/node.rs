//! One replica, with what it has said and done.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use quorate_core::crypto::{Digest, Digester};
use quorate_core::frontier::Frontier;
use quorate_core::id::{ReplicaId, Slot, Time};
use quorate_core::machine::Keys;
use quorate_core::output::{Output, TimerOp, Write};
use quorate_core::protocol::{
    Commit, Context, Dest, Event, Fetch, Input, Protocol, ReadAnswer, ReadId, RecoverError,
    Recovered, Role, SnapshotRef, Verified,
};
use quorate_core::request::Batch;

use super::{command, context, r, text};

/// The digest of the state before anything is executed.
fn beginning() -> Digest {
    Digest::of(b"beginning")
}

/// The digest of the state after a batch: a chain of all that were executed.
fn state_after(state: Digest, batch: &Batch) -> Digest {
    let mut digester = Digester::default();
    digester.update(&state.0);
    digester.update(&batch.digest().0);
    digester.finish()
}

/// The digest of the state after commands with these texts, each a batch.
pub fn state_of(texts: &[&str]) -> Digest {
    let batches = texts.iter().map(|text| command(text));
    batches.fold(beginning(), |state, batch| state_after(state, &batch))
}

/// One replica: its state machine, its clock, timers and disk, which move when the test says so,
/// and records of all its effects.
#[derive(Debug)]
pub struct Node<P: Protocol> {
    /// The state machine.
    pub protocol: P,
    /// This replica.
    pub me: ReplicaId,
    /// What it was told when it came to life.
    pub context: Context,
    /// Its clock, which stands still until the test moves it or fires a timer.
    pub now: Time,
    /// The timers that are armed, and when they are due.
    pub timers: BTreeMap<P::Timer, Time>,
    /// Whether a broken invariant ends the test.
    pub checks: bool,
    /// Whether each turn ends with a sync. Without, promises are held back until
    /// [`sync`](Node::sync).
    pub syncs: bool,
    /// Whether each checkpoint that the protocol asks for is saved at once.
    pub saves: bool,
    /// The records that would survive a crash.
    pub durable: Vec<P::Record>,
    /// What was written and not synced.
    pub unsynced: Vec<Write<P::Record>>,
    held: Vec<(Dest, P::Message)>,
    own: VecDeque<P::Message>,
    /// What was sent to others, until it is taken.
    pub sent: Vec<(ReplicaId, P::Message)>,
    /// What was handed over for execution, in that order.
    pub commits: Vec<Commit>,
    /// The digest of the state, which says what was executed and in which order.
    pub state: Digest,
    /// The last snapshot that is durable here.
    pub saved: Option<SnapshotRef>,
    /// Snapshots taken that are not durable yet.
    pub unsaved: Vec<SnapshotRef>,
    /// All states that snapshots were taken of or installed.
    states: Vec<(Frontier, Digest)>,
    /// The answers to reads.
    pub reads: Vec<(ReadId, ReadAnswer)>,
    /// The snapshot that is wanted.
    pub fetch: Option<Fetch>,
    /// The snapshot that is offered, with its anchor.
    pub offer: Option<(Frontier, Bytes)>,
    /// What was told to people and metrics.
    pub events: Vec<Event>,
}

/// Where it comes from, and what becomes of it.
impl<P: Protocol> Node<P> {
    /// A replica with a past, started. The durable snapshot, if there is one, is its state.
    pub fn recover(
        context: Context,
        config: P::Config,
        past: Recovered<P::Record>,
    ) -> Result<Self, RecoverError> {
        Node::start(context, config, past, true)
    }

    fn start(
        context: Context,
        config: P::Config,
        past: Recovered<P::Record>,
        checks: bool,
    ) -> Result<Self, RecoverError> {
        let (durable, saved) = (past.records.clone(), past.snapshot.clone());
        let mut node = Node {
            protocol: P::recover(context.clone(), config, past)?,
            me: context.me,
            context,
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
            states: saved.iter().map(|s| (s.at.clone(), s.digest)).collect(),
            saved,
            unsaved: Vec::new(),
            reads: Vec::new(),
            fetch: None,
            offer: None,
            events: Vec::new(),
        };
        node.turn(Input::Start);
        Ok(node)
    }

    /// Replica `me` of `n` without a past.
    pub fn fresh(me: u8, n: usize, config: &P::Config) -> Self {
        Node::with(me, n, config, Vec::new())
    }

    /// Replica `me` of `n` with the records given, and no snapshot.
    pub fn with(me: u8, n: usize, config: &P::Config, records: Vec<P::Record>) -> Self {
        let snapshot = None;
        let past = Recovered { records, snapshot };
        Node::recover(context(r(me), n, me), config.clone(), past).expect("a good past")
    }

    /// What is left of the replica after a crash: the durable records and snapshot. It draws
    /// other random numbers than before.
    pub fn crash(self, config: &P::Config) -> Self {
        let mut context = self.context;
        context.seed = context.seed.map(|byte| byte.wrapping_add(50));
        let past = Recovered {
            records: self.durable,
            snapshot: self.saved,
        };
        Node::start(context, config.clone(), past, self.checks).expect("a good past")
    }
}

/// What happens to it.
impl<P: Protocol> Node<P> {
    /// One input, and what follows from it until nothing more does.
    pub fn turn(&mut self, input: Input<P>) {
        self.step(input);
        self.end_turn();
    }

    /// Ends a turn of [`step`](Node::step)s: the sync, what the replica tells itself, and what
    /// follows from that.
    pub fn end_turn(&mut self) {
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
                let verified = Verified::new(self.me, message, &self.context.verifier);
                assert!(verified.is_ok() || !self.checks, "{verified:?}");
                if let Ok(message) = verified {
                    self.step(Input::Message(message));
                }
            }
        }
    }

    /// One input, without the end of the turn.
    pub fn step(&mut self, input: Input<P>) {
        let mut out = Output::default();
        self.protocol.step(self.now, input, &mut out);
        if self.checks {
            self.protocol.check().expect("the invariants hold");
        }
        for op in out.timers() {
            match *op {
                TimerOp::Arm(timer, at) => self.timers.insert(timer, at),
                TimerOp::Disarm(timer) => self.timers.remove(&timer),
            };
        }
        self.route([out.news(), out.sends()].concat());
        if out.write().replaces || !out.write().records.is_empty() {
            self.unsynced.push(out.write().clone());
        }
        self.held.extend_from_slice(out.promises());
        self.reads.extend_from_slice(out.reads());
        self.fetch = out.wanted().cloned().or(self.fetch.take());
        self.offer = out.offered().cloned().or(self.offer.take());
        self.events.extend_from_slice(out.events());
        for commit in out.commits() {
            self.execute(commit);
        }
    }

    fn execute(&mut self, commit: &Commit) {
        self.state = state_after(self.state, &commit.batch);
        self.commits.push(commit.clone());
        if commit.checkpoint {
            let taken = SnapshotRef {
                at: Frontier::single(commit.id.slot),
                digest: self.state,
                anchor: Bytes::new(),
            };
            self.unsaved.push(taken);
        }
    }

    /// The checkpoints taken are durable.
    pub fn save(&mut self) {
        for snapshot in std::mem::take(&mut self.unsaved) {
            self.keep(&snapshot);
            self.step(Input::Snapshotted(snapshot));
        }
    }

    /// A snapshot of a single log as a driver takes it: through the last slot committed.
    pub fn take_snapshot(&mut self) -> SnapshotRef {
        let taken = SnapshotRef {
            at: Frontier::single(Slot(self.committed())),
            digest: self.state,
            anchor: Bytes::new(),
        };
        self.keep(&taken);
        self.turn(Input::Snapshotted(taken.clone()));
        taken
    }

    /// A fetched snapshot is durable, and is now this replica's state.
    pub fn install(&mut self, snapshot: SnapshotRef) {
        self.fetch = None;
        self.state = snapshot.digest;
        self.unsaved.clear();
        self.keep(&snapshot);
        self.turn(Input::Installed(snapshot));
    }

    fn keep(&mut self, snapshot: &SnapshotRef) {
        self.states.push((snapshot.at.clone(), snapshot.digest));
        self.saved = Some(snapshot.clone());
    }

    /// All that was written is durable; promises leave.
    pub fn sync(&mut self) {
        for write in std::mem::take(&mut self.unsynced) {
            if write.replaces {
                self.durable.clear();
            }
            self.durable.extend(write.records);
        }
        let held = std::mem::take(&mut self.held);
        self.route(held);
    }

    fn route(&mut self, messages: Vec<(Dest, P::Message)>) {
        for (to, message) in messages {
            let others = ReplicaId::all(self.context.n()).filter(|id| *id != self.me);
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

    /// A message as an input. It must be one that would be let in.
    pub fn input(&self, from: ReplicaId, message: P::Message) -> Input<P> {
        let verified = Verified::new(from, message, &self.context.verifier);
        Input::Message(verified.expect("a valid message"))
    }

    /// A turn with one message, which must be one that would be let in.
    pub fn receive(&mut self, from: ReplicaId, message: P::Message) {
        let input = self.input(from, message);
        self.turn(input);
    }

    /// A turn with one message; gives what the replica sends to its sender then.
    pub fn answer(&mut self, from: ReplicaId, message: P::Message) -> Vec<P::Message> {
        self.answer_to(from, message, from)
    }

    /// A turn with one message; gives what the replica sends to replica `to` then.
    pub fn answer_to(
        &mut self,
        from: ReplicaId,
        message: P::Message,
        to: ReplicaId,
    ) -> Vec<P::Message> {
        self.sent.clear();
        self.receive(from, message);
        self.sent_to(to)
    }

    /// A turn with one command proposed here.
    pub fn propose(&mut self, text: &str) {
        self.propose_with(text, Keys::All);
    }

    /// A turn with one command proposed here, which reads and writes `keys`.
    pub fn propose_with(&mut self, text: &str, keys: Keys) {
        let batch = command(text);
        self.turn(Input::Propose { batch, keys });
    }

    /// A turn with one read.
    pub fn read(&mut self, id: u64) {
        let (id, keys) = (ReadId(id), Keys::All);
        self.turn(Input::Read { id, keys });
    }

    /// Lets the time pass until `timer`, which must be armed, is due.
    pub fn fire(&mut self, timer: P::Timer) {
        let due = self.timers.remove(&timer).expect("the timer is armed");
        self.now = self.now.max(due);
        self.turn(Input::Timer(timer));
    }

    /// Fires `timer` again and again until `done` holds; gives how long that took.
    pub fn fire_until(&mut self, timer: P::Timer, done: impl Fn(&Self) -> bool) -> Duration {
        let start = self.now;
        while !done(self) {
            self.fire(timer);
        }
        self.now.since(start)
    }

    /// Lets the time pass; timers that fall due fire, in the order in which they do.
    pub fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        while let Some((timer, due)) = self.next_timer()
            && due <= until
        {
            self.fire(timer);
        }
        self.now = until;
    }

    /// The timer that is due first, and when.
    pub fn next_timer(&self) -> Option<(P::Timer, Time)> {
        let armed = self.timers.iter().map(|(timer, due)| (*timer, *due));
        armed.min_by_key(|(_, due)| *due)
    }
}

/// What it has said and done.
impl<P: Protocol> Node<P> {
    /// Takes what has been sent to others.
    pub fn take(&mut self) -> Vec<(ReplicaId, P::Message)> {
        std::mem::take(&mut self.sent)
    }

    /// Takes what has been sent, and gives what of it goes to replica `to`.
    pub fn sent_to(&mut self, to: ReplicaId) -> Vec<P::Message> {
        let sent = self.take().into_iter();
        sent.filter(|(peer, _)| *peer == to)
            .map(|(_, message)| message)
            .collect()
    }

    /// The replica's role.
    pub fn role(&self) -> Role {
        self.protocol.status().role
    }

    /// The term, ballot or view that it is in.
    pub fn regime(&self) -> u64 {
        self.protocol.status().regime
    }

    /// Who leads, as far as it knows.
    pub fn known_leader(&self) -> Option<ReplicaId> {
        self.protocol.status().leader
    }

    /// How many entries it knows committed: the last slot of a single log.
    pub fn committed(&self) -> u64 {
        self.protocol.status().committed
    }

    /// The commands handed over for execution, a batch a string; the no-op is empty.
    pub fn executed(&self) -> Vec<String> {
        let batches = self.commits.iter().map(|commit| &commit.batch);
        batches.map(text).collect()
    }

    /// The slots handed over for execution.
    pub fn slots(&self) -> Vec<u64> {
        let commits = self.commits.iter();
        commits.map(|commit| commit.id.slot.0).collect()
    }

    /// The reads that were answered.
    pub fn answered(&self) -> Vec<ReadId> {
        self.reads.iter().map(|(id, _)| *id).collect()
    }

    /// The records, synced or not, as a fold would see them: those that a later write replaces
    /// are left out.
    pub fn records(&self) -> Vec<&P::Record> {
        let mut records: Vec<&P::Record> = self.durable.iter().collect();
        for write in &self.unsynced {
            if write.replaces {
                records.clear();
            }
            records.extend(&write.records);
        }
        records
    }

    /// The snapshot that it offers, as a peer would fetch it, if it has that state.
    pub fn offered(&self) -> Option<SnapshotRef> {
        let (at, anchor) = self.offer.clone()?;
        let state = self.states.iter().rev().find(|(taken, _)| *taken == at);
        let digest = state?.1;
        Some(SnapshotRef { at, digest, anchor })
    }
}
