//! A protocol in the driver core.

use std::io;

use quorate_core::Bytes;
use quorate_core::crypto::Verifier;
use quorate_core::id::{ReplicaId, Time};
use quorate_core::machine::{RestoreError, StateMachine};
use quorate_core::protocol::{Context, Message, Protocol, Status, Verified};
use quorate_core::replica::{Effects, Replica, Settings};
use quorate_core::storage::Stored;
use quorate_core::wire::Envelope;

use crate::load::Load;
use crate::one_thread::{Host, OneThread, contexts, spread};

/// A state machine that counts its commands, so that executing costs next to nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Count(u64);

impl StateMachine for Count {
    fn apply(&mut self, _command: &[u8]) -> Bytes {
        self.0 += 1;
        Bytes::new()
    }

    fn query(&self, _query: &[u8]) -> Bytes {
        Bytes::copy_from_slice(&self.0.to_le_bytes())
    }

    fn snapshot(&self, to: &mut dyn io::Write) -> io::Result<()> {
        to.write_all(&self.0.to_le_bytes())
    }

    fn restore(&mut self, from: &mut dyn io::Read) -> Result<(), RestoreError> {
        let mut bytes = [0; 8];
        from.read_exact(&mut bytes)?;
        self.0 = u64::from_le_bytes(bytes);
        Ok(())
    }
}

/// How messages travel between hosts.
pub trait Enclosure<M: Message> {
    /// What travels.
    type Frame: Clone;

    /// Encloses a message of a correct replica, and has it `count`ed with the bytes that it takes
    /// on the wire.
    fn enclose(&self, message: M, count: impl FnOnce(&M, usize)) -> Self::Frame;

    /// Opens and verifies a frame of a correct replica.
    fn open(&self, from: ReplicaId, frame: Self::Frame, verifier: &Verifier) -> Verified<M>;
}

/// Messages travel as they are. They are verified, but not encoded.
#[derive(Clone, Copy, Debug)]
pub struct ByValue;

impl<M: Message> Enclosure<M> for ByValue {
    type Frame = M;

    fn enclose(&self, message: M, count: impl FnOnce(&M, usize)) -> M {
        count(&message, 0);
        message
    }

    fn open(&self, from: ReplicaId, message: M, verifier: &Verifier) -> Verified<M> {
        Verified::new(from, message, verifier).expect("correct replicas send valid messages")
    }
}

/// Messages are encoded once for all their receivers, and each receiver decodes them.
#[derive(Clone, Copy, Debug)]
pub struct Sealed(pub Envelope);

impl<M: Message> Enclosure<M> for Sealed {
    type Frame = Bytes;

    fn enclose(&self, message: M, count: impl FnOnce(&M, usize)) -> Bytes {
        let frame = self.0.seal(&message).expect("messages can be encoded");
        count(&message, frame.len());
        frame
    }

    fn open(&self, from: ReplicaId, frame: Bytes, verifier: &Verifier) -> Verified<M> {
        let opened = self.0.open(from, &frame, verifier);
        opened.expect("correct replicas send valid frames")
    }
}

/// A replica of the driver core, over storage in which everything is durable at once. Records
/// are encoded, and dropped.
#[derive(Debug)]
pub struct Driven<P: Protocol, E> {
    me: ReplicaId,
    n: usize,
    verifier: Verifier,
    replica: Replica<P, Count>,
    enclosure: E,
    answered: u64,
}

impl<P: Protocol, E: Enclosure<P::Message> + Clone> OneThread<Driven<P, E>> {
    /// A cluster of driven replicas with `config` and `settings`.
    ///
    /// # Panics
    ///
    /// If `config` is not valid.
    pub fn driven(config: &P::Config, settings: &Settings, enclosure: &E) -> Self {
        let host = |context| Driven::new(context, config, settings, enclosure.clone());
        OneThread::new(contexts::<P>().into_iter().map(host).collect())
    }

    /// Has the next `count` requests of `load` committed, executed and answered.
    ///
    /// # Panics
    ///
    /// If a request is refused.
    pub fn commit(&mut self, load: &mut Load, count: usize) {
        self.propose(|host, _| {
            for group in load.batch(count).groups() {
                host.replica.propose(&group);
            }
        });
    }
}

impl<P: Protocol, E: Enclosure<P::Message>> Driven<P, E> {
    fn new(context: Context, config: &P::Config, settings: &Settings, enclosure: E) -> Self {
        let (me, n, verifier) = (context.me, context.n(), context.verifier.clone());
        let (config, settings) = (config.clone(), settings.clone());
        let machine = Count::default();
        let replica = Replica::recover(context, config, settings, machine, Stored::default());
        Driven {
            me,
            n,
            verifier,
            replica: replica.expect("a valid configuration, and nothing to recover"),
            enclosure,
            answered: 0,
        }
    }

    /// The replica, to be looked at.
    pub fn replica(&self) -> &Replica<P, Count> {
        &self.replica
    }

    /// How many requests were answered here.
    pub fn answered(&self) -> u64 {
        self.answered
    }

    /// Does what a turn has asked for, and says whether something has come of it that makes
    /// another turn.
    fn carry_out(
        &mut self,
        now: Time,
        effects: Effects<P>,
        send: &mut impl FnMut(ReplicaId, E::Frame),
    ) -> bool {
        if let Some(halt) = effects.halt {
            panic!("{} has stopped: {halt}", self.me);
        }
        for (to, message) in effects.send {
            let replica = &mut self.replica;
            let count = |message: &_, bytes| replica.count_sent(to, message, bytes);
            let frame = self.enclosure.enclose(message, count);
            spread((self.me, self.n), to, frame, &mut *send);
        }
        self.answered += effects.answers.len() as u64;
        let more =
            effects.append.is_some() || !effects.save.is_empty() || !effects.fetch.is_empty();
        if let Some(append) = effects.append {
            self.replica.durable(append.ticket);
        }
        for (ticket, _) in effects.save {
            self.replica.saved(now, ticket);
        }
        for fetch in effects.fetch {
            self.replica.fetched(now, fetch.from, None);
        }
        more
    }
}

impl<P: Protocol, E: Enclosure<P::Message>> Host for Driven<P, E> {
    type Frame = E::Frame;

    fn start(&mut self, now: Time) {
        self.replica.start(now);
    }

    fn deliver(&mut self, now: Time, from: ReplicaId, frame: E::Frame) {
        let message = self.enclosure.open(from, frame, &self.verifier);
        self.replica.message(now, message);
    }

    fn tick(&mut self, now: Time) {
        self.replica.tick(now);
    }

    fn deadline(&self) -> Option<Time> {
        self.replica.deadline()
    }

    fn end_turn(&mut self, now: Time, send: &mut impl FnMut(ReplicaId, E::Frame)) {
        loop {
            let effects = self.replica.end_turn(now);
            if !self.carry_out(now, effects, send) {
                return;
            }
        }
    }

    fn status(&self) -> Status {
        self.replica.status()
    }

    fn executed(&self) -> u64 {
        self.replica.machine().0
    }
}
