//! What becomes of a frame on its way.

use quorate_core::id::{ReplicaId, ReplicaSet};
use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;

use crate::conditions::{Conditions, Distances, Noise, Spread};
use crate::plan::Direction;

/// The network between replicas: a link for each ordered pair.
#[derive(Debug)]
pub(crate) struct Network {
    n: usize,
    latency: Spread,
    distances: Option<Distances>,
    usual: Noise,
    noise: Noise,
    links: Vec<Link>,
}

#[derive(Clone, Copy, Debug)]
struct Link {
    cut: bool,
    /// How many times slower than usual.
    factor: u64,
}

const GOOD: Link = Link {
    cut: false,
    factor: 1,
};

/// After how long each copy of a frame arrives; none if it is lost.
pub(crate) type Arrivals = [Option<u64>; 2];

impl Network {
    pub(crate) fn new(n: usize, conditions: &Conditions) -> Self {
        Network {
            n,
            latency: conditions.latency,
            distances: conditions.distances.clone(),
            usual: conditions.noise,
            noise: conditions.noise,
            links: vec![GOOD; n * n],
        }
    }

    /// Draws what becomes of a frame that leaves now.
    pub(crate) fn carry(
        &self,
        from: ReplicaId,
        to: ReplicaId,
        random: &mut ChaCha8Rng,
    ) -> Arrivals {
        let link = self.link(from, to);
        if link.cut || happens(self.noise.lost, random) {
            return [None, None];
        }
        let mut delay = self.latency(from, to, random) * link.factor;
        if happens(self.noise.overtaken, random) {
            delay += self.latency(from, to, random) * random.random_range(1..=4);
        }
        let again = happens(self.noise.repeated, random)
            .then(|| delay + self.latency(from, to, random) * random.random_range(1..=16));
        [Some(delay), again]
    }

    /// How long something takes over the link, loss and cuts apart.
    pub(crate) fn delay(&self, from: ReplicaId, to: ReplicaId, random: &mut ChaCha8Rng) -> u64 {
        self.latency(from, to, random) * self.link(from, to).factor
    }

    /// How long the way takes when nothing is amiss.
    fn latency(&self, from: ReplicaId, to: ReplicaId, random: &mut ChaCha8Rng) -> u64 {
        match &self.distances {
            Some(distances) => distances.between(from, to),
            None => self.latency.draw(random),
        }
    }

    /// Whether nothing passes.
    pub(crate) fn is_cut(&self, from: ReplicaId, to: ReplicaId) -> bool {
        self.link(from, to).cut
    }

    /// Cuts one link.
    pub(crate) fn cut(&mut self, from: ReplicaId, to: ReplicaId) {
        self.link_mut(from, to).cut = true;
    }

    /// Cuts `replica` off.
    pub(crate) fn isolate(&mut self, replica: ReplicaId, direction: Direction) {
        for other in ReplicaId::all(self.n) {
            if direction != Direction::In {
                self.cut(replica, other);
            }
            if direction != Direction::Out {
                self.cut(other, replica);
            }
        }
    }

    /// Cuts `side` and the others off from each other.
    pub(crate) fn split(&mut self, side: ReplicaSet) {
        for from in ReplicaId::all(self.n) {
            for to in ReplicaId::all(self.n) {
                if side.contains(from) != side.contains(to) {
                    self.cut(from, to);
                }
            }
        }
    }

    /// Slows one link down.
    pub(crate) fn slow(&mut self, from: ReplicaId, to: ReplicaId, factor: u64) {
        self.link_mut(from, to).factor = factor;
    }

    /// Adds to the noise on all links.
    pub(crate) fn storm(&mut self, noise: Noise) {
        self.noise.lost += noise.lost;
        self.noise.repeated += noise.repeated;
        self.noise.overtaken += noise.overtaken;
    }

    /// Makes all links as good as they usually are.
    pub(crate) fn mend(&mut self) {
        self.links.fill(GOOD);
        self.noise = self.usual;
    }

    /// Makes all links good, and ends the usual noise too.
    pub(crate) fn calm(&mut self) {
        self.usual = Noise::default();
        self.mend();
    }

    fn link(&self, from: ReplicaId, to: ReplicaId) -> Link {
        self.links[from.index() * self.n + to.index()]
    }

    fn link_mut(&mut self, from: ReplicaId, to: ReplicaId) -> &mut Link {
        &mut self.links[from.index() * self.n + to.index()]
    }
}

fn happens(in_thousand: u32, random: &mut ChaCha8Rng) -> bool {
    in_thousand > 0 && random.random_ratio(in_thousand.min(1000), 1000)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng as _;
    use std::time::Duration;

    const A: ReplicaId = ReplicaId(0);
    const B: ReplicaId = ReplicaId(1);
    const C: ReplicaId = ReplicaId(2);

    fn network(noise: Noise) -> (Network, ChaCha8Rng) {
        let random = ChaCha8Rng::seed_from_u64(7);
        let conditions = Conditions {
            noise,
            ..Conditions::unit_delay(Duration::from_nanos(100))
        };
        (Network::new(3, &conditions), random)
    }

    #[test]
    fn each_way_has_its_own_distance() {
        let mut distances = Distances::equal(3, Duration::from_nanos(100));
        distances.set(A, B, Duration::from_nanos(30));
        distances.set_round_trip(B, C, Duration::from_nanos(50));
        distances.set(ReplicaId(3), A, Duration::ZERO);
        distances.set(A, ReplicaId(3), Duration::ZERO);
        let network = Network::new(3, &Conditions::wide_area(distances));
        let mut random = ChaCha8Rng::seed_from_u64(7);
        let mut takes = |from, to| network.carry(from, to, &mut random)[0];
        assert_eq!((takes(A, B), takes(B, A)), (Some(30), Some(100)));
        assert_eq!((takes(B, C), takes(C, B)), (Some(25), Some(25)));
        assert_eq!((takes(C, A), takes(A, C)), (Some(100), Some(100)));
    }

    #[test]
    fn cuts_are_per_direction_and_mend() {
        let (mut network, mut random) = network(Noise::default());
        network.isolate(A, Direction::Out);
        assert_eq!(network.carry(A, B, &mut random), [None, None]);
        assert_eq!(network.carry(B, A, &mut random), [Some(100), None]);
        network.mend();
        network.split([A, B].into_iter().collect());
        assert!(network.is_cut(A, C) && network.is_cut(C, B));
        assert!(!network.is_cut(A, B) && !network.is_cut(B, A));
        network.mend();
        network.slow(A, B, 7);
        assert_eq!(network.carry(A, B, &mut random), [Some(700), None]);
    }

    #[test]
    fn noise_loses_repeats_and_holds_up() {
        let noise = |lost, repeated, overtaken| Noise {
            lost,
            repeated,
            overtaken,
        };
        let (silent, mut random) = network(noise(1000, 0, 0));
        assert_eq!(silent.carry(A, B, &mut random), [None, None]);
        let (echoing, mut random) = network(noise(0, 1000, 0));
        let [first, second] = echoing.carry(A, B, &mut random);
        assert!(first == Some(100) && second > first);
        let (mut slow, mut random) = network(noise(0, 0, 1000));
        assert!(slow.carry(A, B, &mut random)[0] > Some(100));
        slow.calm();
        assert_eq!(slow.carry(A, B, &mut random), [Some(100), None]);
    }
}
