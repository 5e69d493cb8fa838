//! What makes a replica lie: everything that an honest one sends passes here, and leaves as its
//! adversary wants it.
//!
//! A replica that lies runs the honest protocol *twice*, with one key, on two machines that hear
//! different parts of what is sent to it. From time to time its adversary chooses another
//! [`Behaviour`]: among others, one copy speaks to some replicas and the other to the rest, which
//! makes it equivocate, vote for both sides and speak for views past and to come, in any protocol.
//! Lies that take knowledge of the protocol are a [`Tamper`]'s.

use std::collections::VecDeque;
use std::fmt::Debug;

use bytes::Bytes;
use quorate_core::crypto::Digest;
use quorate_core::id::{ReplicaId, ReplicaSet};
use quorate_core::protocol::{Context, Protocol};
use quorate_core::storage::Snapshot;
use rand::{Rng as _, RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use crate::client::Told;
use crate::conditions::MILLISECOND;
use crate::register::{self, Outcome};

/// The streams of the seed's generator that adversaries draw from, one each, begin here.
const STREAMS: u64 = 16;

/// How many frames an adversary remembers, to send them again.
const REMEMBERED: usize = 128;

/// Lies that take knowledge of a protocol.
pub trait Tamper<P: Protocol>: Debug + Send {
    /// What is sent to `to` instead of `message`: nothing, the message, others, several.
    fn tamper(
        &mut self,
        random: &mut ChaCha8Rng,
        to: ReplicaId,
        message: P::Message,
    ) -> Vec<P::Message>;
}

/// Makes the [`Tamper`] of a replica, which signs as that replica.
pub type TamperMaker<P> = fn(Context) -> Box<dyn Tamper<P>>;

/// Which of a lying replica's two machines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Twin {
    First,
    Second,
}

/// How a replica lies for some time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Behaviour {
    /// Not at all; only its first machine speaks.
    Honest,
    /// It says nothing.
    Silent,
    /// It says nothing to these.
    Withholds(ReplicaSet),
    /// It says everything so many nanoseconds too late.
    Slow(u64),
    /// It says old things again, its own and others', to anyone.
    Replays,
    /// Some of its frames are cut short or have wrong bits.
    Mangles,
    /// Its first machine speaks to these, its second to the rest.
    Split(ReplicaSet),
    /// Both of its machines speak to all.
    Babbles,
    /// Its [`Tamper`] changes what it says; its first machine speaks to these, its second to the
    /// rest.
    Tampers(ReplicaSet),
}

/// A frame as it leaves a lying replica, and how much later than an honest one would.
pub(crate) type Lie = (Bytes, u64);

/// What makes one replica lie.
#[derive(Debug)]
pub(crate) struct Adversary<P: Protocol> {
    n: usize,
    random: ChaCha8Rng,
    /// The longest that it holds a frame back, in nanoseconds.
    patience: u64,
    tamper: Option<Box<dyn Tamper<P>>>,
    behaviour: Behaviour,
    until: u64,
    remembered: VecDeque<Bytes>,
    /// How many frames, answers and snapshots were not what an honest replica would have sent.
    pub(crate) lies: u64,
}

impl<P: Protocol> Adversary<P> {
    /// The adversary of `me`, in the world of `seed`.
    pub(crate) fn new(
        seed: u64,
        (me, n): (ReplicaId, usize),
        patience: u64,
        tamper: Option<Box<dyn Tamper<P>>>,
    ) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        random.set_stream(STREAMS + u64::from(me.0));
        Adversary {
            n,
            random,
            patience,
            tamper,
            behaviour: Behaviour::Honest,
            until: 0,
            remembered: VecDeque::new(),
            lies: 0,
        }
    }

    /// Chooses another behaviour, if it is time: the words for it, for the trace.
    pub(crate) fn reconsider(&mut self, now: u64) -> Option<String> {
        if now < self.until {
            return None;
        }
        self.until = now + self.random.random_range(20..=1_500) * MILLISECOND;
        let choices = if self.tamper.is_some() { 13 } else { 10 };
        self.behaviour = match self.random.random_range(0..choices) {
            0 => Behaviour::Honest,
            1 => Behaviour::Silent,
            2 => Behaviour::Withholds(self.some()),
            3 => Behaviour::Slow(self.random.random_range(0..=self.patience)),
            4 => Behaviour::Replays,
            5 => Behaviour::Mangles,
            6 => Behaviour::Babbles,
            7..10 => Behaviour::Split(self.some()),
            _ => Behaviour::Tampers(self.some()),
        };
        Some(format!("lies from now on: {:?}", self.behaviour))
    }

    fn some(&mut self) -> ReplicaSet {
        let random = &mut self.random;
        let half = ReplicaId::all(self.n).filter(|_| random.random_bool(0.5));
        half.collect()
    }

    /// Which machines hear a frame; usually both.
    pub(crate) fn hearers(&mut self) -> &'static [Twin] {
        match self.random.random_range(0..8) {
            0 => &[Twin::First],
            1 => &[Twin::Second],
            _ => &[Twin::First, Twin::Second],
        }
    }

    /// Which machine hears a client: one only, so that they have different things to propose.
    pub(crate) fn asked(&mut self) -> Twin {
        match self.random.random_bool(0.5) {
            true => Twin::First,
            false => Twin::Second,
        }
    }

    fn speaks(&self, twin: Twin, to: ReplicaId) -> bool {
        match self.behaviour {
            Behaviour::Split(side) | Behaviour::Tampers(side) => {
                side.contains(to) == (twin == Twin::First)
            }
            Behaviour::Babbles => true,
            _ => twin == Twin::First,
        }
    }

    /// What is sent to `to` when a machine wants to send it `message`. `seal` encloses a message.
    pub(crate) fn lies(
        &mut self,
        (twin, to): (Twin, ReplicaId),
        message: &P::Message,
        seal: impl Fn(&P::Message) -> Option<Bytes>,
    ) -> Vec<Lie> {
        let Some(frame) = seal(message).filter(|_| self.speaks(twin, to)) else {
            return Vec::new();
        };
        self.lies += u64::from(self.behaviour != Behaviour::Honest);
        self.remember(&frame);
        match self.behaviour {
            Behaviour::Honest | Behaviour::Split(_) | Behaviour::Babbles => vec![(frame, 0)],
            Behaviour::Silent => Vec::new(),
            Behaviour::Withholds(from) if from.contains(to) => Vec::new(),
            Behaviour::Withholds(_) => vec![(frame, 0)],
            Behaviour::Slow(delay) => vec![(frame, delay)],
            Behaviour::Replays => {
                let again = self.random.random_range(0..self.remembered.len());
                let old = self.remembered.get(again).cloned();
                old.into_iter().chain([frame]).map(|f| (f, 0)).collect()
            }
            Behaviour::Mangles => vec![(self.mangled(&frame), 0)],
            Behaviour::Tampers(_) => {
                let random = &mut self.random;
                let told = self.tamper.as_mut();
                let told = told.map(|tamper| tamper.tamper(random, to, message.clone()));
                let sealed = told.iter().flatten().filter_map(seal);
                sealed.map(|frame| (frame, 0)).collect()
            }
        }
    }

    /// Keeps a frame to be sent again some time.
    pub(crate) fn remember(&mut self, frame: &Bytes) {
        if self.remembered.len() >= REMEMBERED {
            let forgotten = self.random.random_range(0..REMEMBERED);
            self.remembered.swap_remove_back(forgotten);
        }
        self.remembered.push_back(frame.clone());
    }

    /// The frame, sometimes cut short or with wrong bits.
    fn mangled(&mut self, frame: &Bytes) -> Bytes {
        let mut bytes = frame.to_vec();
        match self.random.random_range(0..3) {
            0 => {}
            1 => bytes.truncate(self.random.random_range(0..=bytes.len())),
            _ => flip(&mut bytes, &mut self.random),
        }
        bytes.into()
    }

    /// What a client is told instead; lying replicas agree on their lies.
    pub(crate) fn answers(&mut self, told: Told) -> Option<Told> {
        if self.behaviour == Behaviour::Honest {
            return Some(told);
        }
        let lie = match told {
            _ if self.behaviour == Behaviour::Silent => None,
            Told::Read(token, Ok(_)) => Some(Told::Read(token, Ok(register::nothing()))),
            Told::Answer(session, sequence, Ok(answer)) => {
                let answer = match Outcome::decode(&answer) {
                    Some(Outcome::Swapped(flag)) => Outcome::Swapped(!flag).encode(),
                    Some(Outcome::Deleted(flag)) => Outcome::Deleted(!flag).encode(),
                    _ => answer,
                };
                Some(Told::Answer(session, sequence, Ok(answer)))
            }
            refusal => Some(refusal),
        };
        self.lies += 1;
        lie
    }

    /// What a peer gets that fetches a snapshot.
    pub(crate) fn offers(&mut self, mut snapshot: Snapshot) -> Option<Snapshot> {
        if self.behaviour == Behaviour::Honest {
            return Some(snapshot);
        }
        self.lies += 1;
        match self.random.random_range(0..6) {
            _ if self.behaviour == Behaviour::Silent => return None,
            0 => return None,
            1 => falsify(&mut snapshot.body, &mut self.random),
            2 => falsify(&mut snapshot.id.anchor, &mut self.random),
            3 => {
                falsify(&mut snapshot.body, &mut self.random);
                snapshot.id.digest = Digest::of(&snapshot.body);
            }
            4 => snapshot.id.anchor = Bytes::new(),
            _ => {}
        }
        Some(snapshot)
    }
}

fn falsify(bytes: &mut Bytes, random: &mut ChaCha8Rng) {
    let mut changed = bytes.to_vec();
    flip(&mut changed, random);
    *bytes = changed.into();
}

/// Flips up to four bits.
fn flip(bytes: &mut [u8], random: &mut ChaCha8Rng) {
    if bytes.is_empty() {
        return;
    }
    for _ in 0..random.random_range(1..=4) {
        let place = random.random_range(0..bytes.len());
        if let Some(byte) = bytes.get_mut(place) {
            *byte ^= 1 << (random.next_u32() % 8);
        }
    }
}
