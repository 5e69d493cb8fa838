//! What a step of a protocol says is to be done.

use bytes::Bytes;

use crate::frontier::Frontier;
use crate::id::Time;
use crate::protocol::{Commit, Dest, Event, Fetch, Message, Protocol, ReadAnswer, ReadId};

/// The effects of one or more steps, in the order in which they were asked for.
///
/// [`Output::send`] routes: a promise waits until the records of this and all earlier steps are
/// durable, the rest leaves at once. No handler chooses a lane.
#[derive(Debug)]
pub struct Output<P: Protocol> {
    /// Messages that may leave at once.
    pub(crate) send: Vec<(Dest, P::Message)>,
    /// Messages that wait for the records.
    pub(crate) promises: Vec<(Dest, P::Message)>,
    /// Messages that may leave at once, and may wait for others.
    pub(crate) news: Vec<(Dest, P::Message)>,
    /// Records to be made durable.
    pub(crate) write: Write<P::Record>,
    /// Timers armed and disarmed.
    pub(crate) timers: Vec<TimerOp<P::Timer>>,
    /// Entries to be executed.
    pub(crate) commits: Vec<Commit>,
    /// Answers to reads.
    pub(crate) reads: Vec<(ReadId, ReadAnswer)>,
    /// A wish for a snapshot; a later one replaces an earlier.
    pub(crate) fetch: Option<Fetch>,
    /// A snapshot that may be served to peers, with its anchor.
    pub(crate) offer: Option<(Frontier, Bytes)>,
    /// What people and metrics want to know.
    pub(crate) events: Vec<Event>,
}

/// Records, in order, and whether they replace all that were written before.
#[derive(Clone, Debug)]
pub struct Write<R> {
    /// These records stand for all earlier ones too, which may be deleted.
    pub replaces: bool,
    /// The records.
    pub records: Vec<R>,
    /// How many of them need not be written by themselves.
    deferred: usize,
}

impl<R> Write<R> {
    /// Whether there is anything to be written.
    pub(crate) fn is_something(&self) -> bool {
        self.replaces || !self.records.is_empty()
    }

    /// Whether there is something that must not wait for the next write.
    pub(crate) fn is_due(&self) -> bool {
        self.replaces || self.records.len() > self.deferred
    }
}

impl<R> Default for Write<R> {
    fn default() -> Self {
        Write {
            replaces: false,
            records: Vec::new(),
            deferred: 0,
        }
    }
}

/// What is to happen to a timer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimerOp<T> {
    /// It is due at the instant given, and at no other.
    Arm(T, Time),
    /// It is not due any more.
    Disarm(T),
}

impl<P: Protocol> Default for Output<P> {
    fn default() -> Self {
        Output {
            send: Vec::new(),
            promises: Vec::new(),
            news: Vec::new(),
            write: Write::default(),
            timers: Vec::new(),
            commits: Vec::new(),
            reads: Vec::new(),
            fetch: None,
            offer: None,
            events: Vec::new(),
        }
    }
}

impl<P: Protocol> Output<P> {
    /// Sends `message`, now or when it is safe to have sent it.
    pub fn send(&mut self, to: Dest, message: P::Message) {
        if message.is_promise() {
            self.promises.push((to, message));
        } else {
            self.send.push((to, message));
        }
    }

    /// Sends `message` together with the next that goes to the same replica, and before that; if none
    /// does, a millisecond later. For what as a rule nobody waits for, such as the news that something
    /// is decided. A promise waits for nothing but the records.
    pub fn send_with_next(&mut self, to: Dest, message: P::Message) {
        match message.is_promise() {
            true => self.send(to, message),
            false => self.news.push((to, message)),
        }
    }

    /// Makes `record` durable before any promise sent from now on leaves.
    pub fn persist(&mut self, record: P::Record) {
        self.write.records.push(record);
    }

    /// Makes `record` durable with the next record that is persisted, before any promise sent from
    /// now on leaves, and before a snapshot taken from now on is saved: for what costs nothing to
    /// forget, such as the news that something is decided for good.
    pub fn persist_with_next(&mut self, record: P::Record) {
        self.write.deferred += 1;
        self.write.records.push(record);
    }

    /// Replaces all records written so far by `records`, which must make the same state, less
    /// what a durable snapshot holds.
    pub fn rewrite(&mut self, records: Vec<P::Record>) {
        self.write = Write {
            replaces: true,
            records,
            deferred: 0,
        };
    }

    /// Arms `timer` for `at`.
    pub fn arm(&mut self, timer: P::Timer, at: Time) {
        self.timers.push(TimerOp::Arm(timer, at));
    }

    /// Disarms `timer`.
    pub fn disarm(&mut self, timer: P::Timer) {
        self.timers.push(TimerOp::Disarm(timer));
    }

    /// Hands over an entry for execution. It must be decided for good; it need not be durable
    /// here.
    pub fn commit(&mut self, commit: Commit) {
        self.commits.push(commit);
    }

    /// Answers a read.
    pub fn answer(&mut self, read: ReadId, answer: ReadAnswer) {
        self.reads.push((read, answer));
    }

    /// Asks for a snapshot.
    pub fn fetch(&mut self, fetch: Fetch) {
        self.fetch = Some(fetch);
    }

    /// Vouches for the snapshot at `at`: peers may have it, with `anchor`.
    pub fn offer(&mut self, at: Frontier, anchor: Bytes) {
        self.offer = Some((at, anchor));
    }

    /// Tells people and metrics.
    pub fn event(&mut self, event: Event) {
        self.events.push(event);
    }

    /// Takes out all messages, those that may leave at once before those that wait for the
    /// records: for a driver in which every record is durable at once.
    pub fn take_messages(&mut self) -> impl Iterator<Item = (Dest, P::Message)> + '_ {
        let at_once = self.news.drain(..).chain(self.send.drain(..));
        at_once.chain(self.promises.drain(..))
    }

    /// Forgets all effects, and keeps the room that they took.
    pub fn clear(&mut self) {
        self.send.clear();
        self.promises.clear();
        self.news.clear();
        self.write.replaces = false;
        self.write.records.clear();
        self.write.deferred = 0;
        self.timers.clear();
        self.commits.clear();
        self.reads.clear();
        self.events.clear();
        (self.fetch, self.offer) = (None, None);
    }

    /// Messages that may leave at once.
    pub fn sends(&self) -> &[(Dest, P::Message)] {
        &self.send
    }

    /// Messages that may leave at once, and may wait for others.
    pub fn news(&self) -> &[(Dest, P::Message)] {
        &self.news
    }

    /// Messages that leave when [`Output::write`] is durable.
    pub fn promises(&self) -> &[(Dest, P::Message)] {
        &self.promises
    }

    /// Records to be made durable.
    pub fn write(&self) -> &Write<P::Record> {
        &self.write
    }

    /// Timers armed and disarmed.
    pub fn timers(&self) -> &[TimerOp<P::Timer>] {
        &self.timers
    }

    /// Entries to be executed.
    pub fn commits(&self) -> &[Commit] {
        &self.commits
    }

    /// Answers to reads.
    pub fn reads(&self) -> &[(ReadId, ReadAnswer)] {
        &self.reads
    }

    /// The snapshot that is wanted.
    pub fn wanted(&self) -> Option<&Fetch> {
        self.fetch.as_ref()
    }

    /// The snapshot that may be served.
    pub fn offered(&self) -> Option<&(Frontier, Bytes)> {
        self.offer.as_ref()
    }

    /// What people and metrics want to know.
    pub fn events(&self) -> &[Event] {
        &self.events
    }
}
