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

pub(super) type Pair = (ReplicaId, ReplicaId);

/// Draws cuts among `usable` replicas, in any order, such that a quorum is connected; of a
/// protocol that survives lies at most `spare` of them are left out of it. With `hubs` it may be
/// connected through one in the middle only. Those that are `mute` answer no fetch, but all else: they
/// may lead, and help others to.
pub(super) fn drawn(
    (model, n): (FaultModel, usize),
    (usable, mute): (&[ReplicaId], &[ReplicaId]),
    (spare, hubs): (usize, bool),
    random: &mut ChaCha8Rng,
) -> Cuts {
    let quorum = n - model.tolerated(n);
    if model == FaultModel::Byzantine {
        let (inside, others) = usable.split_at(usable.len() - spare);
        return Cuts {
            links: outside(inside, others, random),
            connected: inside.iter().copied().collect(),
        };
    }
    let (inside, others) = usable.split_at(quorum.min(usable.len()));
    let shape = match hubs {
        true => random.random_range(0..5),
        // Without one of its links a quorum would not all hear each other.
        false if usable.len() > quorum => 4 * random.random_range(0..2),
        false => 0,
    };
    let mut links = match shape {
        0 => outside(inside, others, random),
        1 => star(usable, random),
        2 => bridge(usable, random),
        3 => chain(usable, random),
        _ => single(usable, random),
    };
    let talking = [usable, mute].concat();
    loop {
        // Those that are mute must not be needed: what they alone know cannot be had of them.
        let suffices = !connected(&links, usable, quorum).is_empty();
        let connected = connected(&links, &talking, quorum);
        if suffices && !connected.is_empty() {
            return Cuts { links, connected };
        }
        links.pop();
    }
}

/// Of replicas that are heard by a quorum and hear it, any may lead: clients can be served at those
/// that all of these hear, and that hear them.
pub(super) fn connected(links: &[Pair], talking: &[ReplicaId], quorum: usize) -> ReplicaSet {
    let may_lead = |one: &ReplicaId| {
        let heard = talking.iter().filter(|other| hear(links, *one, **other));
        heard.count() >= quorum
    };
    let leaders: Vec<ReplicaId> = talking.iter().copied().filter(may_lead).collect();
    let hears_all = |one: &ReplicaId| leaders.iter().all(|other| hear(links, *one, *other));
    leaders.iter().copied().filter(hears_all).collect()
}

/// Whether both hear each other.
fn hear(links: &[Pair], one: ReplicaId, other: ReplicaId) -> bool {
    !links.contains(&(one, other)) && !links.contains(&(other, one))
}

/// Whether so many of these all hear each other.
pub(super) fn hear_each_other(links: &[Pair], replicas: &[ReplicaId], count: usize) -> bool {
    let Some((first, later)) = replicas.split_first() else {
        return count == 0;
    };
    let heard = later.iter().copied().filter(|r| hear(links, *first, *r));
    let heard: Vec<ReplicaId> = heard.collect();
    count == 0 || hear_each_other(links, &heard, count - 1) || hear_each_other(links, later, count)
}

/// All pairs of these.
fn pairs(replicas: &[ReplicaId]) -> impl Iterator<Item = Pair> {
    let with_later = |(place, one): (usize, &ReplicaId)| {
        let (one, later) = (*one, &replicas[place + 1..]);
        later.iter().map(move |other| (one, *other))
    };
    replicas.iter().enumerate().flat_map(with_later)
}

/// Cuts pairs off from each other, some only one way.
fn cut(pairs: impl IntoIterator<Item = Pair>, random: &mut ChaCha8Rng) -> Vec<Pair> {
    let mut links = Vec::new();
    for (one, other) in pairs {
        let way = random.random_range(0..4);
        if way != 0 {
            links.push((one, other));
        }
        if way != 1 {
            links.push((other, one));
        }
    }
    links
}

/// One hears all, and all hear it; the others do not hear each other, or not all of them.
fn star(usable: &[ReplicaId], random: &mut ChaCha8Rng) -> Vec<Pair> {
    let share = if random.random_bool(0.5) { 1.0 } else { 0.5 };
    let spokes = usable.get(1..).unwrap_or_default();
    let some: Vec<Pair> = pairs(spokes)
        .filter(|_| random.random_bool(share))
        .collect();
    cut(some, random)
}

/// Two sides that hear each other only through one in the middle.
fn bridge(usable: &[ReplicaId], random: &mut ChaCha8Rng) -> Vec<Pair> {
    let others = usable.get(1..).unwrap_or_default();
    let (one, other) = others.split_at(others.len() / 2);
    let across = one.iter().flat_map(|a| other.iter().map(|b| (*a, *b)));
    cut(across, random)
}

/// Each hears those next to it.
fn chain(usable: &[ReplicaId], random: &mut ChaCha8Rng) -> Vec<Pair> {
    let next_to = |(one, other): &Pair| {
        let ends = usable.windows(2).filter(|both| both.contains(one));
        ends.into_iter().any(|both| both.contains(other))
    };
    let apart: Vec<Pair> = pairs(usable).filter(|pair| !next_to(pair)).collect();
    cut(apart, random)
}

/// One link of many.
fn single(usable: &[ReplicaId], random: &mut ChaCha8Rng) -> Vec<Pair> {
    cut(pairs(usable).take(1), random)
}

/// Some links of those outside, with each other and with those inside.
fn outside(inside: &[ReplicaId], others: &[ReplicaId], random: &mut ChaCha8Rng) -> Vec<Pair> {
    let across = inside.iter().flat_map(|a| others.iter().map(|b| (*a, *b)));
    let all: Vec<Pair> = across.chain(pairs(others)).collect();
    let count = random.random_range(0..=all.len());
    cut(shuffled(all, random).into_iter().take(count), random)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng as _;

    /// Whether a quorum is connected as the documentation of the hardship has it.
    fn is_connected(cuts: &Cuts, (model, n): (FaultModel, usize), usable: &[ReplicaId]) -> bool {
        let quorum = n - model.tolerated(n);
        let served: Vec<ReplicaId> = cuts.connected.iter().collect();
        let heard = |one: &ReplicaId| {
            let heard = usable.iter().filter(|r| hear(&cuts.links, *one, **r));
            heard.count() >= quorum
        };
        let enough = match model {
            FaultModel::Crash => !served.is_empty(),
            FaultModel::Byzantine => served.len() >= quorum,
        };
        enough && served.iter().all(heard) && pairs(&served).all(|(a, b)| hear(&cuts.links, a, b))
    }

    #[test]
    fn clients_are_served_where_all_who_may_lead_are_heard() {
        let served = |cut: &[(u8, u8)], n: usize| -> Vec<u8> {
            let links: Vec<Pair> = cut
                .iter()
                .map(|(a, b)| (ReplicaId(*a), ReplicaId(*b)))
                .collect();
            let usable: Vec<ReplicaId> = ReplicaId::all(n).collect();
            let served = connected(&links, &usable, n / 2 + 1);
            served.iter().map(|replica| replica.0).collect()
        };
        assert_eq!(served(&[], 3), [0, 1, 2]);
        assert_eq!(served(&[(0, 2)], 3), [1], "0 and 2 may lead, with 1");
        assert_eq!(served(&[(0, 1), (2, 0)], 3), [1, 2], "0 cannot lead");
        let chain = [(0, 2), (0, 3), (0, 4), (1, 3), (1, 4), (2, 4)];
        assert_eq!(served(&chain, 5), [2]);
        assert_eq!(served(&[(3, 4)], 5), [0, 1, 2]);
    }

    /// Of five, 0 and 1 do not hear 4, and 1 does not reach 2: with 3, which answers no fetch, 1 leads as
    /// well as 0, and 2 need not hear who leads.
    #[test]
    fn who_answers_no_fetch_helps_others_to_lead() {
        let cut = [(4, 0), (4, 1), (0, 4), (1, 4), (1, 2)];
        let links = cut.map(|(a, b): (u8, u8)| (ReplicaId(a), ReplicaId(b)));
        let served = |talking: &[u8]| -> Vec<u8> {
            let talking: Vec<ReplicaId> = talking.iter().copied().map(ReplicaId).collect();
            let served = connected(&links, &talking, 3);
            served.iter().map(|replica| replica.0).collect()
        };
        assert_eq!(served(&[0, 1, 2, 4]), [0, 2]);
        assert_eq!(served(&[0, 1, 2, 4, 3]), [3]);
    }

    #[test]
    fn a_quorum_stays_connected_whatever_is_cut() {
        for model in [FaultModel::Crash, FaultModel::Byzantine] {
            for n in 1..=9 {
                for taken in 0..=model.tolerated(n) {
                    let usable: Vec<ReplicaId> = ReplicaId::all(n).skip(taken).collect();
                    let all: Vec<ReplicaId> = ReplicaId::all(n).collect();
                    let spare = model.tolerated(n) - taken;
                    let mut some = 0;
                    for seed in 0..60 {
                        let mut random = ChaCha8Rng::seed_from_u64(seed);
                        for (hubs, mute) in [(true, 0), (false, 0), (true, taken)] {
                            let mute = &all[..mute];
                            let talking = [&usable[..], mute].concat();
                            let of = (&usable[..], mute);
                            let cuts = drawn((model, n), of, (spare, hubs), &mut random);
                            let places = (model, n);
                            assert!(is_connected(&cuts, places, &talking), "{n}, {seed}");
                            let connected = connected(&cuts.links, &usable, n - model.tolerated(n));
                            assert!(!connected.is_empty(), "{n}, {seed}: without the mute");
                            some += cuts.links.len();
                        }
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
            let of = (&usable[..], &[][..]);
            let links = drawn((FaultModel::Crash, 5), of, (2, true), &mut random).links;
            for (from, to) in &links {
                ways[usize::from(links.contains(&(*to, *from)))] += 1;
            }
        }
        assert!(ways.iter().all(|count| *count > 0), "{ways:?}");
    }
}
