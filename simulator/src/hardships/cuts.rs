//! Links that are cut for good, and who is served all the same.

use quorate_core::id::{ReplicaId, ReplicaSet};
use quorate_core::protocol::FaultModel;
use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;

use super::drawing::shuffled;

/// The links that are cut, each in one direction, and the replicas at which clients are served.
pub(super) struct Cuts {
    pub(super) links: Vec<(ReplicaId, ReplicaId)>,
    pub(super) connected: ReplicaSet,
}

type Pair = (ReplicaId, ReplicaId);

/// Draws cuts among `usable` replicas, in any order, such that a quorum is connected; of a
/// protocol that survives lies at most `spare` of them are left out of it.
pub(super) fn drawn(
    (model, n): (FaultModel, usize),
    usable: &[ReplicaId],
    spare: usize,
    random: &mut ChaCha8Rng,
) -> Cuts {
    let quorum = n - model.tolerated(n);
    let shape = match model {
        FaultModel::Crash => random.random_range(0..5),
        FaultModel::Byzantine => 0,
    };
    let clique = match model {
        FaultModel::Crash => quorum.min(usable.len()),
        FaultModel::Byzantine => usable.len() - spare,
    };
    // Both neighbours of a replica in a chain and itself must be a quorum.
    let middle = usable.len() / 2;
    match shape {
        1 => star(usable, random),
        2 => bridge(usable, random),
        3 if quorum <= 3.min(usable.len()) => chain(usable, middle, random),
        4 if usable.len() > quorum => single(usable, random),
        _ => outside(usable, clique, random),
    }
}

/// All pairs of these.
fn pairs(replicas: &[ReplicaId]) -> impl Iterator<Item = Pair> {
    let with_later = |(place, one): (usize, &ReplicaId)| {
        let (one, later) = (*one, &replicas[place + 1..]);
        later.iter().map(move |other| (one, *other))
    };
    replicas.iter().enumerate().flat_map(with_later)
}

/// Cuts a pair off from each other, sometimes only one way.
fn cut((one, other): Pair, links: &mut Vec<Pair>, random: &mut ChaCha8Rng) {
    let way = random.random_range(0..4);
    if way != 0 {
        links.push((one, other));
    }
    if way != 1 {
        links.push((other, one));
    }
}

fn cuts(
    pairs: impl Iterator<Item = Pair>,
    connected: impl IntoIterator<Item = ReplicaId>,
    random: &mut ChaCha8Rng,
) -> Cuts {
    let mut links = Vec::new();
    pairs.for_each(|pair| cut(pair, &mut links, random));
    Cuts {
        links,
        connected: connected.into_iter().collect(),
    }
}

/// One hears all, and all hear it; the others do not hear each other, or not all of them.
fn star(usable: &[ReplicaId], random: &mut ChaCha8Rng) -> Cuts {
    let Some((hub, spokes)) = usable.split_first() else {
        return cuts([].into_iter(), [], random);
    };
    let share = if random.random_bool(0.5) { 1.0 } else { 0.5 };
    let some: Vec<Pair> = pairs(spokes)
        .filter(|_| random.random_bool(share))
        .collect();
    cuts(some.into_iter(), [*hub], random)
}

/// Two sides that hear each other only through one in the middle.
fn bridge(usable: &[ReplicaId], random: &mut ChaCha8Rng) -> Cuts {
    let Some((middle, others)) = usable.split_first() else {
        return cuts([].into_iter(), [], random);
    };
    let (one, other) = others.split_at(others.len() / 2);
    let across = one.iter().flat_map(|a| other.iter().map(|b| (*a, *b)));
    cuts(across, [*middle], random)
}

/// Each hears those next to it.
fn chain(usable: &[ReplicaId], middle: usize, random: &mut ChaCha8Rng) -> Cuts {
    let place = |replica: ReplicaId| usable.iter().position(|other| *other == replica);
    let apart = pairs(usable).filter(|(one, other)| {
        let (one, other) = (place(*one), place(*other));
        one.zip(other).is_some_and(|(a, b)| a.abs_diff(b) > 1)
    });
    cuts(apart, usable.get(middle).copied(), random)
}

/// One link of many: all are served but one of its ends.
fn single(usable: &[ReplicaId], random: &mut ChaCha8Rng) -> Cuts {
    match usable {
        [one, others @ ..] => {
            let pair = others.first().map(|other| (*one, *other));
            cuts(pair.into_iter(), others.iter().copied(), random)
        }
        [] => cuts([].into_iter(), usable.iter().copied(), random),
    }
}

/// The first so many hear each other; some links of the others are cut.
fn outside(usable: &[ReplicaId], clique: usize, random: &mut ChaCha8Rng) -> Cuts {
    let (inside, outside) = usable.split_at(clique.min(usable.len()));
    let touches = |(one, other): &Pair| outside.contains(one) || outside.contains(other);
    let all: Vec<Pair> = pairs(usable).filter(touches).collect();
    let count = random.random_range(0..=all.len());
    let some = shuffled(all, random).into_iter().take(count);
    cuts(some, inside.iter().copied(), random)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng as _;

    fn hear(links: &[Pair], one: ReplicaId, other: ReplicaId) -> bool {
        !links.contains(&(one, other)) && !links.contains(&(other, one))
    }

    /// Whether a quorum is connected as the documentation of the hardship has it.
    fn is_connected(cuts: &Cuts, (model, n): (FaultModel, usize), usable: &[ReplicaId]) -> bool {
        let quorum = n - model.tolerated(n);
        let served: Vec<ReplicaId> = cuts.connected.iter().collect();
        let all_hear = pairs(&served).all(|(a, b)| hear(&cuts.links, a, b));
        let heard = |hub: &ReplicaId| {
            let heard = usable.iter().filter(|r| hear(&cuts.links, *hub, **r));
            heard.count()
        };
        let hub = served.len() == 1 && model == FaultModel::Crash;
        all_hear && (served.len() >= quorum || hub && heard(&served[0]) >= quorum)
    }

    #[test]
    fn a_quorum_stays_connected_whatever_is_cut() {
        for model in [FaultModel::Crash, FaultModel::Byzantine] {
            for n in 1..=9 {
                for taken in 0..=model.tolerated(n) {
                    let usable: Vec<ReplicaId> = ReplicaId::all(n).skip(taken).collect();
                    let spare = model.tolerated(n) - taken;
                    let mut some = 0;
                    for seed in 0..60 {
                        let mut random = ChaCha8Rng::seed_from_u64(seed);
                        let cuts = drawn((model, n), &usable, spare, &mut random);
                        let places = (model, n);
                        assert!(is_connected(&cuts, places, &usable), "{n}, {seed}");
                        some += cuts.links.len();
                    }
                    let possible = match model {
                        FaultModel::Crash => usable.len() > 2,
                        FaultModel::Byzantine => spare > 0,
                    };
                    assert_eq!(some > 0, possible, "{model:?}, {n}, {taken} taken");
                }
            }
        }
    }

    #[test]
    fn links_are_cut_both_ways_and_one_way() {
        let mut random = ChaCha8Rng::seed_from_u64(1);
        let usable: Vec<ReplicaId> = ReplicaId::all(5).collect();
        let mut ways = [0, 0];
        for _ in 0..40 {
            let links = drawn((FaultModel::Crash, 5), &usable, 2, &mut random).links;
            for (from, to) in &links {
                ways[usize::from(links.contains(&(*to, *from)))] += 1;
            }
        }
        assert!(ways.iter().all(|count| *count > 0), "{ways:?}");
    }
}
