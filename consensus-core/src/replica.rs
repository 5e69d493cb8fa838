//! The driver core: everything around a protocol, as pure as the protocol itself.
//!
//! A [`Replica`] takes what happens in *turns*: any number of inputs ([`Replica::message`],
//! [`Replica::propose`], [`Replica::durable`], ...), then one [`Replica::end_turn`], which gives
//! the [`Effects`] of them all. Whatever gathers in a turn shares its cost: one batch, one append,
//! one round of reads. The node carries the effects out on sockets and files, the simulator in
//! virtual time; neither knows which protocol it drives.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use crate::codec;
use crate::crypto::{Signer, Verifier};
use crate::id::{ReplicaId, ReplicaSet, Time};
use crate::ledger::Ledger;
use crate::machine::{Keys, StateMachine};
use crate::output::{Output, TimerOp};
use crate::protocol::{
    Commit, Context, Dest, Event, FaultModel, Input, Order, Protocol, Recovered, Verified,
    Violation,
};
use crate::request::{Batch, Operation, Request, SessionId};
use crate::storage::{Append, Records, StorageError, Stored, Ticket};

mod durability;
mod effects;
mod execution;
mod fetching;
mod lingering;
mod pending;
mod reading;
mod reads;
mod requests;
mod settings;
mod snapshots;
mod standing;

pub use effects::{Answer, Effects, Halt, ReadToken};
pub use settings::{Mutant, Settings};

use durability::Durability;
use execution::Execution;
use fetching::Fetching;
use lingering::Lingering;
use pending::Pending;
use reading::ThroughLog;
use reads::{Query, Reads};
use snapshots::{Origin, Snapshots};

/// However little may be written and not durable, so much may be that others have brought.
const FAR_BEHIND: usize = 64 << 10;

/// One replica: a protocol, a state machine, and all that connects them.
#[derive(Debug)]
pub struct Replica<P: Protocol, S> {
    me: ReplicaId,
    n: usize,
    settings: Settings,
    signer: Signer,
    verifier: Verifier,
    /// Whose name reads through the log go under. They change nothing, so it is never opened.
    reader: SessionId,
    protocol: P,
    out: Output<P>,
    own: VecDeque<P::Message>,
    timers: BTreeMap<P::Timer, Time>,
    durability: Durability<P::Message>,
    lingering: Lingering<P::Message>,
    execution: Execution<S>,
    pending: Pending,
    reads: Reads,
    through_log: BTreeMap<u64, ThroughLog>,
    reads_through_log: u64,
    /// The bytes of the answers to reads in this turn.
    read_bytes: usize,
    /// The bytes of the answers to queries of clients that were ordered, in this turn.
    ordered_bytes: usize,
    snapshots: Snapshots,
    fetching: Fetching,
    leader_changed: bool,
    ledger: Ledger,
    effects: Effects<P>,
    halted: bool,
}

impl<P: Protocol, S: StateMachine> Replica<P, S> {
    /// The replica as storage remembers it. [`Replica::start`] comes next.
    pub fn recover(
        context: Context,
        config: P::Config,
        settings: Settings,
        machine: S,
        stored: Stored,
    ) -> Result<Self, Halt> {
        settings.validate().map_err(Halt::Settings)?;
        let settings = settings.of::<P>();
        let mut execution = Execution::new(machine);
        if let Some(snapshot) = &stored.snapshot {
            execution.restore(snapshot)?;
        }
        let records = decode_records::<P>(&stored.records)?;
        let past = Recovered {
            records,
            snapshot: stored.snapshot.as_ref().map(|s| s.id.clone()),
        };
        let reader = SessionId {
            client: context.members.key(context.me).ok_or_else(|| Violation {
                rule: "a replica is a member",
                detail: format!("{} is not among {}", context.me, context.n()),
            })?,
            number: u64::from_le_bytes(std::array::from_fn(|i| context.seed[i])),
        };
        Ok(Replica {
            me: context.me,
            n: context.n(),
            settings,
            signer: context.signer.clone(),
            verifier: context.verifier.clone(),
            reader,
            protocol: P::recover(context, config, past)?,
            out: Output::default(),
            own: VecDeque::new(),
            timers: BTreeMap::new(),
            durability: Durability::default(),
            lingering: Lingering::default(),
            execution,
            pending: Pending::default(),
            reads: Reads::default(),
            through_log: BTreeMap::new(),
            reads_through_log: 0,
            read_bytes: 0,
            ordered_bytes: 0,
            snapshots: Snapshots::recovered(stored.snapshot),
            fetching: Fetching::default(),
            leader_changed: false,
            ledger: Ledger::default(),
            effects: Effects::default(),
            halted: false,
        })
    }

    /// Begins.
    pub fn start(&mut self, now: Time) {
        self.step(now, Input::Start);
    }

    /// A verified message arrived. While the disk is far behind it is as good as lost: what it would
    /// have written would have to wait as well, and there is no end to what others bring.
    pub fn message(&mut self, now: Time, message: Verified<P::Message>) {
        if !self.is_far_behind() {
            self.step(now, Input::Message(message));
        }
    }

    /// Fires the timers that are due.
    pub fn tick(&mut self, now: Time) {
        self.reads.resume();
        let due = |(timer, at): (&P::Timer, &Time)| (*at <= now).then_some(*timer);
        let due: Vec<P::Timer> = self.timers.iter().filter_map(due).collect();
        for timer in due {
            // The step of another may have disarmed it, or armed it for later.
            if self.timers.get(&timer).is_some_and(|at| *at <= now) {
                self.timers.remove(&timer);
                self.step(now, Input::Timer(timer));
            }
        }
        let before = Time(
            now.0
                .saturating_sub(self.settings.retry_after.as_nanos() as u64),
        );
        if self.retry_deadline().is_some_and(|at| at <= now) {
            self.ask_again(now, before);
        }
        self.tick_fetch(now);
        self.tick_reads(now);
    }

    /// When [`Replica::tick`] is to be called next, at the latest.
    pub fn deadline(&self) -> Option<Time> {
        let timers = self.timers.values().copied();
        let postponed = self.reads.is_one_postponed().then_some(Time::ZERO);
        let others = [
            self.retry_deadline(),
            self.lingering.deadline(),
            self.fetch_deadline(),
            self.read_deadline(),
            postponed,
        ];
        timers.chain(others.into_iter().flatten()).min()
    }

    fn retry_deadline(&self) -> Option<Time> {
        let oldest = self.pending.oldest().into_iter().chain(self.reads.oldest());
        oldest.min().map(|time| time + self.settings.retry_after)
    }

    /// All appends through `ticket` are durable.
    pub fn durable(&mut self, ticket: Ticket) {
        let promises = self.durability.durable(ticket);
        self.release(promises);
    }

    /// There is no room for what storage will need next, or there is again. What there is left is kept
    /// for what is under way, and for what other replicas have ordered: no new commands are taken.
    pub fn short_of_room(&mut self, short: bool) {
        self.pending.take_queries_only(short);
    }

    /// Storage has failed.
    pub fn storage_failed(&mut self, error: StorageError) {
        self.halt(Halt::Storage(error));
    }

    /// Ends the turn: proposes what has gathered, lets the protocol send what it held back, and
    /// gives all effects.
    pub fn end_turn(&mut self, now: Time) -> Effects<P> {
        loop {
            self.pump(now);
            if std::mem::take(&mut self.leader_changed) {
                self.ask_again(now, now);
            }
            self.ask(now);
            self.step(now, Input::EndOfTurn);
            self.close_turn_records();
            self.heed_disk();
            self.save_due();
            if self.halted || self.is_settled() {
                break;
            }
        }
        if self.lingering.deadline().is_some() {
            let others = self.others().collect();
            self.lingering.join(now, others, &mut self.effects.send);
        }
        (self.read_bytes, self.ordered_bytes) = (0, 0);
        let effects = std::mem::take(&mut self.effects);
        match effects.halt {
            // Nothing leaves a replica whose state cannot be trusted.
            Some(halt) => Effects {
                halt: Some(halt),
                ..Effects::default()
            },
            None => effects,
        }
    }

    fn is_settled(&self) -> bool {
        self.own.is_empty()
            && !self.leader_changed
            && self.pending.is_quiet(&self.settings)
            && self.reads.is_quiet()
    }

    /// Steps through this replica's messages to itself.
    fn pump(&mut self, now: Time) {
        while let Some(message) = self.own.pop_front() {
            self.step(now, Input::Message(Verified::own(self.me, message)));
        }
    }

    /// Proposes and reads what has gathered.
    fn ask(&mut self, now: Time) {
        let signer = (P::FAULTS == FaultModel::Byzantine).then_some(&self.signer);
        for batch in self.pending.due(now, &self.settings, signer) {
            self.propose_batch(now, batch);
        }
        let machine = self.execution.machine();
        let keys = |queries: &[Query]| match P::ORDER {
            Order::Total => Keys::All,
            Order::PerKey => merged(queries.iter().map(|q| machine.query_keys(&q.query))),
        };
        if let Some((id, keys)) = self.reads.due(now, keys) {
            self.step(now, Input::Read { id, keys });
        }
    }

    /// Asks again for what was asked at `before` or earlier and has no answer.
    fn ask_again(&mut self, now: Time, before: Time) {
        for batch in self.pending.again(now, before) {
            self.propose_batch(now, batch);
        }
        for (id, keys) in self.reads.again(now, before) {
            self.step(now, Input::Read { id, keys });
        }
    }

    fn propose_batch(&mut self, now: Time, batch: Batch) {
        let machine = self.execution.machine();
        let keys = match P::ORDER {
            Order::Total => Keys::All,
            Order::PerKey => merged(batch.requests().map(|request| match request.operation {
                Operation::Open | Operation::Close => Keys::All,
                Operation::Apply(command) => machine.keys(command),
                Operation::Query(query) => machine.query_keys(query),
            })),
        };
        self.step(now, Input::Propose { batch, keys });
    }

    /// One step of the protocol, and what follows from it here.
    fn step(&mut self, now: Time, input: Input<P>) {
        if self.halted {
            return;
        }
        self.protocol.step(now, input, &mut self.out);
        for op in self.out.timers.drain(..) {
            match op {
                TimerOp::Arm(timer, at) => self.timers.insert(timer, at),
                TimerOp::Disarm(timer) => self.timers.remove(&timer),
            };
        }
        for (to, message) in std::mem::take(&mut self.out.send) {
            self.route(to, message);
        }
        for (to, message) in std::mem::take(&mut self.out.news) {
            self.linger(now, to, message);
        }
        for commit in std::mem::take(&mut self.out.commits) {
            self.execute(commit);
        }
        // Not in between: entries that a protocol hands over together may belong together. Where
        // replicas may lie, the protocol alone says when: a snapshot that nobody else has takes the
        // place of one that is proved, and after a restart nobody can be given either.
        if P::FAULTS == FaultModel::Crash && self.snapshot_is_due() {
            self.take_snapshot();
        }
        for (id, answer) in std::mem::take(&mut self.out.reads) {
            self.answer_reads(now, id, answer);
        }
        for event in std::mem::take(&mut self.out.events) {
            let leader = matches!(
                event,
                Event::RegimeChanged {
                    leader: Some(_),
                    ..
                }
            );
            self.leader_changed |= leader;
            self.effects.events.push(event);
        }
        if let Some((at, anchor)) = self.out.offer.take() {
            let offer = self.snapshots.offer(&at, anchor);
            self.effects.offer = offer.or(self.effects.offer.take());
        }
        if let Some(fetch) = self.out.fetch.take() {
            self.wish(now, &fetch);
        }
        if let Err(violation) = self.protocol.check() {
            self.halt(Halt::Violation(violation));
        }
    }

    /// Gives a turn's records to storage, and holds its promises back until they are durable.
    fn close_turn_records(&mut self) {
        let due = self.out.write.is_due()
            || !self.out.promises.is_empty()
            || self.snapshots.is_one_taken();
        if due && self.out.write.is_something() {
            let write = std::mem::take(&mut self.out.write);
            let mut records = Records::default();
            for record in &write.records {
                let written = records.push_with(|buffer| codec::encode_into(record, buffer));
                if let Err(error) = written {
                    return self.halt(Halt::Encode(format!("a record: {error}")));
                }
            }
            self.append(write.replaces, records);
        }
        let promises = std::mem::take(&mut self.out.promises);
        let ready = match self.settings.mutated(Mutant::PromiseBeforeSync) {
            true => promises,
            false => self.durability.hold(self.me, promises),
        };
        self.release(ready);
    }

    /// Refuses new requests while too much that was written is not durable, and says so; takes them
    /// again when half of it is. A disk that hangs must not make its replica grow for ever.
    fn heed_disk(&mut self) {
        let (bytes, limit) = (
            self.durability.unsynced_bytes(),
            self.settings.max_unsynced_bytes,
        );
        let behind = match self.pending.is_closed() {
            true => bytes > limit / 2,
            false => bytes > limit,
        };
        if behind != self.pending.is_closed() {
            self.pending.close_to_new(behind);
            self.effects.events.push(match behind {
                true => Event::DiskBehind { bytes },
                false => Event::DiskCaughtUp,
            });
        }
    }

    /// Whether so much is not durable that nothing may be added that others bring: that new requests
    /// are refused does not bound it.
    fn is_far_behind(&self) -> bool {
        let limit = self.settings.max_unsynced_bytes.saturating_mul(2);
        let bytes = self.durability.unsynced_bytes();
        bytes > limit.max(FAR_BEHIND) && !self.settings.mutated(Mutant::HungDiskTakesAll)
    }

    /// Saves the snapshots whose records are durable.
    fn save_due(&mut self) {
        let (issued, durable) = (self.durability.issued(), self.durability.through());
        for snapshot in self.snapshots.due(issued, durable) {
            let save = self.snapshots.save(snapshot, Origin::Taken);
            self.effects.save.push(save);
        }
    }

    fn append(&mut self, replaces: bool, records: Records) {
        // What replaces all before it is the protocol's whole log, and not what a disk has fallen
        // behind by.
        let bytes = if replaces { 0 } else { records.size() };
        let ticket = self.durability.issue(bytes);
        self.ledger.records += records.len() as u64;
        self.ledger.record_bytes += records.size() as u64;
        match &mut self.effects.append {
            Some(append) if !replaces => {
                append.ticket = ticket;
                append.records.extend(&records);
            }
            append => {
                self.ledger.appends += 1;
                *append = Some(Append {
                    ticket,
                    replaces,
                    records,
                });
            }
        }
    }

    fn release(&mut self, promises: Vec<(Dest, P::Message)>) {
        for (to, message) in promises {
            self.route(to, message);
        }
    }

    fn route(&mut self, to: Dest, message: P::Message) {
        match to {
            Dest::One(replica) if replica == self.me => self.own.push_back(message),
            Dest::One(_) | Dest::Others => self.effects.send.push((to, message)),
            Dest::All => {
                self.own.push_back(message.clone());
                self.effects.send.push((Dest::Others, message));
            }
        }
    }

    fn linger(&mut self, now: Time, to: Dest, message: P::Message) {
        let mut to: ReplicaSet = match to {
            Dest::One(replica) => ReplicaSet::from_iter([replica]),
            Dest::Others => self.others().collect(),
            Dest::All => ReplicaId::all(self.n).collect(),
        };
        if to.remove(self.me) {
            self.own.push_back(message.clone());
        }
        self.lingering.add(now, to, message);
    }

    fn execute(&mut self, commit: Commit) {
        if let Err(violation) = self.execution.begin(&commit, &self.settings) {
            return self.halt(Halt::Violation(violation));
        }
        for request in commit.batch.requests() {
            self.execute_request(request);
        }
        let checkpoint = commit.checkpoint;
        self.ledger.entries += 1;
        self.effects.executed.push(commit);
        if checkpoint && !self.snapshots.is_installing() && !self.snapshots.are_many() {
            self.take_snapshot();
        }
    }

    fn execute_request(&mut self, request: Request<'_>) {
        let (session, sequence) = (request.session, request.sequence);
        let waiting = self.pending.executed(session, sequence);
        if let Operation::Query(query) = request.operation {
            return self.execute_query(request, query, waiting);
        }
        let result = self.execution.request(request, &self.settings);
        if waiting || P::FAULTS == FaultModel::Byzantine {
            self.answer(&request, result);
        }
    }

    fn take_snapshot(&mut self) {
        match self.execution.snapshot(&self.settings) {
            Ok(snapshot) => self.snapshots.take(snapshot),
            Err(halt) => self.halt(halt),
        }
    }

    fn halt(&mut self, halt: Halt) {
        self.halted = true;
        self.effects.halt.get_or_insert(halt);
    }
}

fn merged(all: impl Iterator<Item = Keys>) -> Keys {
    all.fold(Keys::none(), |mut sum, keys| {
        sum.merge(keys);
        sum
    })
}

fn decode_records<P: Protocol>(stored: &[Bytes]) -> Result<Vec<P::Record>, Halt> {
    let decoded = stored.iter().map(|bytes| codec::decode("record", bytes));
    let failed = |error: codec::DecodeError| crate::protocol::RecoverError {
        protocol: P::NAME,
        reason: error.to_string(),
    };
    let records: Result<Vec<P::Record>, _> = decoded.collect();
    Ok(records.map_err(failed)?)
}
