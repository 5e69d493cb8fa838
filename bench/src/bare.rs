//! A protocol with nothing around it.

use std::collections::{BTreeMap, VecDeque};

use quorate_core::Bytes;
use quorate_core::crypto::{Digest, Verifier};
use quorate_core::frontier::Frontier;
use quorate_core::id::{ReplicaId, Time};
use quorate_core::machine::Keys;
use quorate_core::output::{Output, TimerOp};
use quorate_core::protocol::{
    Context, Dest, Input, Protocol, Recovered, SnapshotRef, Status, Verified,
};
use quorate_core::request::Batch;

use crate::one_thread::{Host, OneThread, contexts, spread};

/// A protocol by itself: what it wants written is durable, what it commits is counted, and now
/// and then it is told of a snapshot, so that its log does not grow for ever.
#[derive(Debug)]
pub struct Bare<P: Protocol> {
    me: ReplicaId,
    n: usize,
    verifier: Verifier,
    protocol: P,
    out: Output<P>,
    own: VecDeque<P::Message>,
    others: Vec<(Dest, P::Message)>,
    timers: BTreeMap<P::Timer, Time>,
    applied: Frontier,
    executed: u64,
    since_snapshot: u64,
    snapshot_every: u64,
}

impl<P: Protocol> OneThread<Bare<P>> {
    /// A cluster of bare replicas with `config`. Each is told of a snapshot after
    /// `snapshot_every` bytes of batches.
    ///
    /// # Panics
    ///
    /// If `config` is not valid.
    pub fn bare(config: &P::Config, snapshot_every: u64) -> Self {
        let host = |context| Bare::new(context, config.clone(), snapshot_every);
        OneThread::new(contexts::<P>().into_iter().map(host).collect())
    }

    /// Has `batches` committed, all of them proposed in one turn.
    pub fn commit(&mut self, batches: impl IntoIterator<Item = Batch>) {
        self.propose(|host, now| {
            for batch in batches {
                let keys = Keys::All;
                host.step(now, Input::Propose { batch, keys });
            }
        });
    }
}

impl<P: Protocol> Bare<P> {
    fn new(context: Context, config: P::Config, snapshot_every: u64) -> Self {
        let (me, n, verifier) = (context.me, context.n(), context.verifier.clone());
        let protocol = P::recover(context, config, Recovered::nothing());
        Bare {
            me,
            n,
            verifier,
            protocol: protocol.expect("a valid configuration, and nothing to recover"),
            out: Output::default(),
            own: VecDeque::new(),
            others: Vec::new(),
            timers: BTreeMap::new(),
            applied: Frontier::default(),
            executed: 0,
            since_snapshot: 0,
            snapshot_every,
        }
    }

    fn step(&mut self, now: Time, input: Input<P>) {
        self.protocol.step(now, input, &mut self.out);
        let mut checkpoint = false;
        for commit in self.out.commits() {
            self.applied.insert(commit.id);
            self.executed += commit.batch.len() as u64;
            self.since_snapshot += commit.batch.size() as u64;
            checkpoint |= commit.checkpoint;
        }
        for op in self.out.timers() {
            match *op {
                TimerOp::Arm(timer, at) => self.timers.insert(timer, at),
                TimerOp::Disarm(timer) => self.timers.remove(&timer),
            };
        }
        for (to, message) in self.out.take_messages() {
            match to {
                Dest::One(to) if to == self.me => self.own.push_back(message),
                Dest::One(_) | Dest::Others => self.others.push((to, message)),
                Dest::All => {
                    self.own.push_back(message.clone());
                    self.others.push((Dest::Others, message));
                }
            }
        }
        self.out.clear();
        if checkpoint || self.since_snapshot >= self.snapshot_every {
            self.take_snapshot(now);
        }
    }

    /// There is no state, so all snapshots have the same digest.
    fn take_snapshot(&mut self, now: Time) {
        self.since_snapshot = 0;
        let snapshot = SnapshotRef {
            at: self.applied.clone(),
            digest: Digest::of(&[]),
            anchor: Bytes::new(),
        };
        self.step(now, Input::Snapshotted(snapshot));
    }

    fn verified(&self, from: ReplicaId, message: P::Message) -> Input<P> {
        let verified = Verified::new(from, message, &self.verifier);
        Input::Message(verified.expect("correct replicas send valid messages"))
    }
}

impl<P: Protocol> Host for Bare<P> {
    type Frame = P::Message;

    fn start(&mut self, now: Time) {
        self.step(now, Input::Start);
    }

    fn deliver(&mut self, now: Time, from: ReplicaId, message: P::Message) {
        let input = self.verified(from, message);
        self.step(now, input);
    }

    fn tick(&mut self, now: Time) {
        let due = |(timer, at): (&P::Timer, &Time)| (*at <= now).then_some(*timer);
        let due: Vec<P::Timer> = self.timers.iter().filter_map(due).collect();
        for timer in due {
            self.timers.remove(&timer);
            self.step(now, Input::Timer(timer));
        }
    }

    fn deadline(&self) -> Option<Time> {
        self.timers.values().copied().min()
    }

    fn end_turn(&mut self, now: Time, send: &mut impl FnMut(ReplicaId, P::Message)) {
        loop {
            while let Some(message) = self.own.pop_front() {
                let input = self.verified(self.me, message);
                self.step(now, input);
            }
            self.step(now, Input::EndOfTurn);
            if self.own.is_empty() {
                break;
            }
        }
        for (to, message) in self.others.drain(..) {
            spread((self.me, self.n), to, message, &mut *send);
        }
    }

    fn status(&self) -> Status {
        self.protocol.status()
    }

    fn executed(&self) -> u64 {
        self.executed
    }
}
