//! How fast and how unreliable a world's network, disks and clocks are.

use std::time::Duration;

use quorate_core::id::ReplicaId;
use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;

use crate::plan::Faults;

/// Virtual nanoseconds in a microsecond.
pub(crate) const MICROSECOND: u64 = 1_000;
/// Virtual nanoseconds in a millisecond.
pub(crate) const MILLISECOND: u64 = 1_000_000;

/// A distribution of durations: evenly between `least` and `least + spread`, but one in
/// [`Spread::SLOW_ONE_IN`] takes up to [`Spread::SLOW_FACTOR`] times as long, if there is a spread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spread {
    /// The shortest, in nanoseconds.
    pub least: u64,
    /// How much longer it usually takes at most, in nanoseconds.
    pub spread: u64,
}

impl Spread {
    /// How rare a slow one is.
    pub const SLOW_ONE_IN: u32 = 64;
    /// How slow a slow one is at most.
    pub const SLOW_FACTOR: u64 = 12;

    /// Always `nanos`.
    pub const fn exactly(nanos: u64) -> Spread {
        Spread {
            least: nanos,
            spread: 0,
        }
    }

    /// Between `least` and `most` nanoseconds, slow ones apart.
    pub const fn between(least: u64, most: u64) -> Spread {
        Spread {
            least,
            spread: most - least,
        }
    }

    /// A duration, in nanoseconds.
    pub fn draw(&self, random: &mut ChaCha8Rng) -> u64 {
        if self.spread == 0 {
            return self.least;
        }
        let usual = self.least + random.random_range(0..=self.spread);
        match random.random_ratio(1, Self::SLOW_ONE_IN) {
            true => usual * random.random_range(2..=Self::SLOW_FACTOR),
            false => usual,
        }
    }
}

/// How far apart replicas are: how long a message takes from each to each, always the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Distances {
    n: usize,
    /// One way, in nanoseconds, of each ordered pair.
    one_way: Vec<u64>,
}

impl Distances {
    /// `n` replicas that are all `one_way` apart.
    pub fn equal(n: usize, one_way: Duration) -> Distances {
        Distances {
            n,
            one_way: vec![one_way.as_nanos() as u64; n * n],
        }
    }

    /// Sets how long a message takes from one replica to another, but not how long one takes
    /// back. A pair that the cluster does not have changes nothing.
    pub fn set(&mut self, from: ReplicaId, to: ReplicaId, one_way: Duration) {
        let n = self.n;
        let inside = from.index() < n && to.index() < n;
        let pair = self.one_way.get_mut(from.index() * n + to.index());
        if let Some(known) = pair.filter(|_| inside) {
            *known = one_way.as_nanos() as u64;
        }
    }

    /// Sets both ways to half of a measured round trip.
    pub fn set_round_trip(&mut self, one: ReplicaId, other: ReplicaId, round_trip: Duration) {
        self.set(one, other, round_trip / 2);
        self.set(other, one, round_trip / 2);
    }

    /// One way, in nanoseconds.
    pub(crate) fn between(&self, from: ReplicaId, to: ReplicaId) -> u64 {
        let pair = self.one_way.get(from.index() * self.n + to.index());
        pair.copied().unwrap_or(0)
    }
}

/// How often frames go wrong, in frames of a thousand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Noise {
    /// Lost.
    pub lost: u32,
    /// Delivered a second time, later.
    pub repeated: u32,
    /// Held up, so that later ones overtake them.
    pub overtaken: u32,
}

/// A world's network, disks and clocks, apart from its faults.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conditions {
    /// From one replica to another.
    pub latency: Spread,
    /// From each replica to each other; instead of `latency`, if given.
    pub distances: Option<Distances>,
    /// From a client to a replica, or back.
    pub client_latency: Spread,
    /// What goes wrong with frames between replicas while there are faults.
    pub noise: Noise,
    /// A sync of records.
    pub sync: Spread,
    /// A save of a snapshot.
    pub save: Spread,
    /// How long a replica is busy with a turn; what arrives meanwhile makes the next.
    pub turn: Spread,
    /// Clocks run up to so many thousandths too fast or too slow.
    pub drift: u64,
    /// Wall clocks are set up to so many nanoseconds apart.
    pub skew: u64,
}

impl Conditions {
    /// Every message between replicas takes exactly `latency`, and nothing else takes any time:
    /// durations are then counted in message delays.
    pub fn unit_delay(latency: Duration) -> Conditions {
        let instant = Spread::exactly(0);
        Conditions {
            latency: Spread::exactly(latency.as_nanos() as u64),
            distances: None,
            client_latency: instant,
            noise: Noise::default(),
            sync: instant,
            save: instant,
            turn: instant,
            drift: 0,
            skew: 0,
        }
    }

    /// Messages between replicas take what the distance says, and nothing else takes any time:
    /// each client is at its replica's site, disks sync and replicas work at once. Commit latency
    /// is then what follows from the distances alone.
    pub fn wide_area(distances: Distances) -> Conditions {
        Conditions {
            distances: Some(distances),
            ..Conditions::unit_delay(Duration::ZERO)
        }
    }

    /// Conditions such as may be, for the faults asked for: a network between a rack's and a
    /// continent's, a disk between a good and a bad one, clocks up to five in a hundred wrong.
    pub fn drawn(faults: Faults, random: &mut ChaCha8Rng) -> Conditions {
        let latency = *[200, 1_000, 5_000]
            .get(random.random_range(0..3))
            .unwrap_or(&1_000)
            * MICROSECOND;
        let sync = random.random_range(100..=2_000) * MICROSECOND;
        let noise = match faults.network() {
            true => Noise {
                lost: random.random_range(0..=20),
                repeated: random.random_range(0..=20),
                overtaken: random.random_range(0..=50),
            },
            false => Noise::default(),
        };
        Conditions {
            latency: Spread::between(latency / 2, latency * 2),
            distances: None,
            client_latency: Spread::between(50 * MICROSECOND, 500 * MICROSECOND),
            noise,
            sync: Spread::between(sync / 2, sync * 3),
            save: Spread::between(sync * 2, sync * 10),
            turn: Spread::between(MICROSECOND, 50 * MICROSECOND),
            drift: if faults == Faults::None { 0 } else { 50 },
            skew: 300 * MILLISECOND,
        }
    }
}
