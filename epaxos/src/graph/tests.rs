use super::*;
use crate::conflicts::Conflicts;
use crate::footprint::Footprint;
use bytes::Bytes;
use quorate_core::crypto::SecretKey;
use quorate_core::id::Lane;
use quorate_core::machine::Keys;
use quorate_core::request::{Batch, Operation, Request, SessionId};
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

fn id(lane: u8, slot: u64) -> EntryId {
    EntryId {
        lane: Lane(lane),
        slot: Slot(slot),
    }
}

fn on(ids: &[EntryId]) -> Dependencies {
    ids.iter().copied().collect()
}

fn through(lanes: &[(u8, u64)]) -> Dependencies {
    let mut dependencies = Dependencies::none();
    for (lane, slot) in lanes {
        dependencies.insert_through(Lane(*lane), Slot(*slot));
    }
    dependencies
}

fn components(graph: &mut Graph) -> Vec<Vec<EntryId>> {
    graph.executable().iter().map(<[_]>::to_vec).collect()
}

#[test]
fn dependencies_come_first_and_cycles_in_order_of_ids() {
    let mut graph = Graph::default();
    assert!(graph.commit(id(0, 1), on(&[id(1, 1)])));
    assert!(!graph.commit(id(0, 1), Dependencies::none()));
    assert_eq!(graph.executable(), Components::default());
    assert_eq!(graph.blockers(9), [id(1, 1)]);
    graph.commit(id(1, 1), on(&[id(2, 1), id(0, 1)]));
    assert_eq!(graph.executable(), Components::default());
    assert_eq!((graph.blockers(9), graph.pending()), (vec![id(2, 1)], 2));
    graph.commit(id(2, 1), Dependencies::none());
    let expected = [vec![id(2, 1)], vec![id(0, 1), id(1, 1)]];
    assert_eq!(components(&mut graph), expected);
    assert!(graph.executed().contains(id(1, 1)) && graph.pending() == 0);
    assert!(!graph.commit(id(1, 1), Dependencies::none()));
    assert_eq!(graph.executable(), Components::default());
}

#[test]
fn what_does_not_depend_on_the_missing_is_executed() {
    let mut graph = Graph::default();
    graph.commit(id(0, 2), on(&[id(0, 1)]));
    graph.commit(id(1, 1), Dependencies::none());
    graph.commit(id(1, 2), on(&[id(1, 1), id(0, 2)]));
    assert_eq!(components(&mut graph), [[id(1, 1)]]);
    assert_eq!(graph.blockers(9), [id(0, 1)]);
    graph.commit(id(0, 1), Dependencies::none());
    let expected = [[id(0, 1)], [id(0, 2)], [id(1, 2)]];
    assert_eq!(components(&mut graph), expected);
}

#[test]
fn blockers_are_all_that_is_missing_lowest_slots_first() {
    let mut graph = Graph::default();
    graph.commit(id(0, 4), through(&[(0, 3), (1, 2), (2, 1)]));
    graph.commit(id(1, 1), Dependencies::none());
    graph.commit(id(1, 2), on(&[id(0, 3)]));
    assert_eq!(components(&mut graph), [[id(1, 1)]]);
    let missing = [id(0, 1), id(2, 1), id(0, 2), id(0, 3)];
    assert_eq!(graph.blockers(9), missing);
    assert_eq!(graph.blockers(2), missing[..2]);
}

#[test]
fn a_snapshot_stands_for_what_it_holds() {
    let mut graph = Graph::default();
    graph.commit(id(0, 2), on(&[id(0, 1)]));
    graph.commit(id(0, 4), on(&[id(0, 3), id(1, 2)]));
    graph.commit(id(1, 2), on(&[id(0, 4), id(0, 2), id(1, 1)]));
    assert!(graph.executable().is_empty());
    let mut at = Frontier::single(Slot(2));
    at.insert(id(1, 1));
    graph.install(&at);
    assert_eq!(graph.pending(), 2);
    assert!(graph.executable().is_empty());
    assert_eq!(graph.blockers(9), [id(0, 3)]);
    graph.commit(id(0, 3), Dependencies::none());
    let expected = [vec![id(0, 3)], vec![id(0, 4), id(1, 2)]];
    assert_eq!(components(&mut graph), expected);
    assert_eq!(Graph::new(at).executed().through(Lane(0)), Slot(2));
}

/// A chain of `length` through two lanes, its slots committed in this order; the work.
fn chain(length: u64, slots: impl Iterator<Item = u64>) -> u64 {
    let mut graph = Graph::default();
    let mut executed = 0;
    for slot in slots {
        graph.commit(id(0, slot), on(&[id(1, slot - 1)]));
        graph.commit(id(1, slot), on(&[id(0, slot)]));
        executed += graph.executable().ids().len() as u64;
    }
    assert_eq!((executed, graph.pending()), (length, 0));
    graph.work()
}

/// Nothing is recursive, and each link is looked at a few times at most, though all wait for the
/// first.
#[test]
fn a_chain_of_a_million_takes_work_in_its_length() {
    let work = chain(1_000_000, (2..=500_000).chain([1]));
    assert!(work <= 6_000_000, "{work} steps");
}

/// Commands that all write one key, proposed in three lanes in turn by the clients of 64 sessions,
/// each depending on what the index of conflicts names. The first commits last, and all are
/// executed then, in the order in which they were proposed; the work.
fn one_key(commands: u64) -> u64 {
    let keys = Footprint::from(&Keys::Some {
        reads: Vec::new(),
        writes: vec![Bytes::from_static(b"k")],
    });
    let ids = (0..commands).map(|index| id((index % 3) as u8, index / 3 + 1));
    let client = SecretKey::from_seed([1; 32]).public();
    let mut conflicts = Conflicts::default();
    let mut graph = Graph::default();
    for (index, id) in (0..).zip(ids.clone()) {
        let batch = Batch::of_one(Request {
            session: SessionId {
                client,
                number: index % 64,
            },
            sequence: index / 64 + 1,
            answered: index / 64,
            operation: Operation::Apply(b"x"),
        });
        let dependencies = conflicts.enter(id, &keys, &batch);
        if index > 0 {
            graph.commit(id, dependencies);
            assert!(graph.executable().is_empty());
        }
    }
    graph.commit(id(0, 1), Dependencies::none());
    let executed = graph.executable();
    assert!(executed.ids().iter().copied().eq(ids));
    assert_eq!(executed.len() as u64, commands);
    graph.work()
}

/// Where everything conflicts, ten times the commands take ten times the work, and no more stack.
#[test]
fn a_million_commands_on_one_key_take_work_in_their_number_and_little_stack() {
    const STACK: usize = 64 << 10;
    let small = std::thread::Builder::new().stack_size(STACK);
    let measured = small.spawn(|| (one_key(100_000), one_key(1_000_000)));
    let (fewer, more) = measured.unwrap().join().unwrap();
    assert!(more <= 11 * fewer, "{fewer} and {more} steps");
    assert!(more <= 8_000_000, "{more} steps");
}

/// Forwards, backwards and in any order.
#[test]
fn a_chain_takes_work_in_its_length_whatever_the_order_of_commits() {
    let mut slots: Vec<u64> = (1..=20_000).collect();
    assert!(chain(40_000, slots.iter().copied()) <= 6 * 40_000);
    assert!(chain(40_000, slots.iter().rev().copied()) <= 6 * 40_000);
    for seed in 0..3 {
        shuffle(&mut slots, &mut ChaCha8Rng::seed_from_u64(seed));
        let work = chain(40_000, slots.iter().copied());
        assert!(work <= 12 * 40_000, "{work} steps");
    }
}

/// One cycle through all of many instances is found once.
#[test]
fn a_ring_takes_work_in_its_length() {
    const LENGTH: u64 = 100_000;
    let mut slots: Vec<u64> = (1..=LENGTH).collect();
    shuffle(&mut slots, &mut ChaCha8Rng::seed_from_u64(1));
    let mut graph = Graph::default();
    let mut executed = Components::default();
    for slot in slots {
        assert!(executed.is_empty());
        graph.commit(id(0, slot), on(&[id(0, slot % LENGTH + 1)]));
        executed = graph.executable();
    }
    let all: Vec<_> = (1..=LENGTH).map(|slot| id(0, slot)).collect();
    assert_eq!((executed.len(), executed.ids()), (1, all.as_slice()));
    let work = graph.work();
    assert!(work <= 40 * LENGTH, "{work} steps for {LENGTH} instances");
}

/// Where each command depends on all before it, in all lanes, the work does not grow with the
/// history, nor with the square of what waits.
#[test]
fn dense_dependencies_take_work_in_the_number_of_instances() {
    const ROUNDS: u64 = 20_000;
    const LANES: u8 = 5;
    let dependencies = |lane: u8, slot: u64| {
        let lanes: Vec<(u8, u64)> = (0..LANES)
            .map(|other| (other, if other < lane { slot } else { slot - 1 }))
            .collect();
        through(&lanes)
    };
    for missing_until_the_end in [false, true] {
        let mut graph = Graph::default();
        let mut executed = 0;
        for slot in 1..=ROUNDS {
            for lane in 0..LANES {
                if missing_until_the_end && (lane, slot) == (2, 1) {
                    continue;
                }
                graph.commit(id(lane, slot), dependencies(lane, slot));
                executed += graph.executable().len() as u64;
            }
        }
        if missing_until_the_end {
            assert_eq!((executed, graph.blockers(9)), (2, vec![id(2, 1)]));
            graph.commit(id(2, 1), dependencies(2, 1));
            executed += graph.executable().len() as u64;
        }
        let instances = ROUNDS * u64::from(LANES);
        assert_eq!(executed, instances);
        let bound = 2 * instances * u64::from(LANES);
        let work = graph.work();
        assert!(work <= bound, "{work} steps for {instances} instances");
    }
}

/// Commands proposed at once in all lanes depend on each other: one large component.
#[test]
fn a_dense_component_takes_work_in_its_size() {
    const SIZE: u64 = 2_000;
    let mut graph = Graph::default();
    for slot in 1..=SIZE {
        for lane in 0..5 {
            let others: Vec<_> = (0..5)
                .map(|other| (other, if other == lane { slot - 1 } else { SIZE }))
                .collect();
            graph.commit(id(lane, slot), through(&others));
        }
        assert_eq!(graph.executable().is_empty(), slot < SIZE);
    }
    assert_eq!(graph.pending(), 0);
    let work = graph.work();
    assert!(work <= 20 * 5 * SIZE, "{work} steps for {SIZE} slots");
}

fn shuffle<T>(values: &mut [T], random: &mut ChaCha8Rng) {
    for last in (1..values.len()).rev() {
        values.swap(last, random.random_range(0..=last));
    }
}

/// What a simple search from scratch would execute: repeatedly, the components of the committed
/// instances whose closure is committed.
struct Reference {
    edges: BTreeMap<EntryId, Dependencies>,
}

impl Reference {
    /// All that an instance reaches, itself included if it is on a cycle; `None` if something is
    /// not committed.
    fn closure(&self, of: EntryId) -> Option<Dependencies> {
        let mut reached = Dependencies::none();
        let mut open = vec![of];
        while let Some(next) = open.pop() {
            let edges = self.edges.get(&next)?;
            open.extend(edges.iter().filter(|id| !reached.contains(*id)));
            reached.union_with(edges);
        }
        Some(reached)
    }

    /// Each executable instance's component.
    fn components(&self) -> BTreeMap<EntryId, Vec<EntryId>> {
        let closures: BTreeMap<_, _> = self
            .edges
            .keys()
            .filter_map(|id| Some((*id, self.closure(*id)?)))
            .collect();
        let together = |one: &EntryId, other: &EntryId| {
            one == other || (closures[one].contains(*other) && closures[other].contains(*one))
        };
        closures
            .keys()
            .map(|id| {
                let members = closures.keys().filter(|other| together(id, other));
                (*id, members.copied().collect())
            })
            .collect()
    }
}

fn random_dependencies(
    me: EntryId,
    (lanes, slots): (u8, u64),
    random: &mut ChaCha8Rng,
) -> Dependencies {
    let mut dependencies = Dependencies::none();
    for _ in 0..random.random_range(0..3) {
        dependencies.insert(id(
            random.random_range(0..lanes),
            random.random_range(1..=slots),
        ));
    }
    if random.random_ratio(1, 4) {
        let near = me.slot.0.min(random.random_range(1..=slots));
        dependencies.insert_through(Lane(random.random_range(0..lanes)), Slot(near));
    }
    dependencies.remove(me);
    dependencies
}

/// Random graphs, in which some instances never commit: after each commit exactly that is executed
/// which the definition says, in components, dependencies first; and the blockers are what pending
/// instances lack.
#[test]
fn random_graphs_execute_as_the_definition_says() {
    for seed in 0..400 {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let sizes = (random.random_range(1..=4), random.random_range(1..=8));
        let mut all: Vec<EntryId> = (0..sizes.0)
            .flat_map(|lane| (1..=sizes.1).map(move |slot| id(lane, slot)))
            .collect();
        shuffle(&mut all, &mut random);
        let never = random.random_range(0..=2);
        let mut reference = Reference {
            edges: BTreeMap::new(),
        };
        let mut graph = Graph::default();
        let mut executed = Vec::new();
        for me in all.into_iter().skip(never) {
            let dependencies = random_dependencies(me, sizes, &mut random);
            reference.edges.insert(me, dependencies.clone());
            graph.commit(me, dependencies);
            let expected = reference.components();
            for component in graph.executable().iter() {
                for member in component {
                    assert_eq!(expected[member], component, "seed {seed}");
                    let edges = reference.edges[member].iter();
                    let first = |id: &EntryId| executed.contains(id) || component.contains(id);
                    assert!(edges.into_iter().all(|id| first(&id)), "seed {seed}");
                }
                executed.extend_from_slice(component);
            }
            assert_eq!(executed.len(), expected.len(), "seed {seed}");
            let pending = reference
                .edges
                .iter()
                .filter(|(id, _)| !expected.contains_key(id));
            let lacking: Dependencies = pending
                .flat_map(|(_, edges)| edges.iter())
                .filter(|id| !reference.edges.contains_key(id))
                .collect();
            let blockers: Dependencies = graph.blockers(usize::MAX).into_iter().collect();
            assert_eq!(blockers, lacking, "seed {seed}");
        }
    }
}

/// The components do not depend on the order in which a replica learns of commits, nor on how much
/// of them came as a snapshot.
#[test]
fn replicas_execute_equal_components_whatever_the_order_of_commits() {
    for seed in 0..200 {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let sizes = (3, 20);
        let mut commits: Vec<(EntryId, Dependencies)> = (0..sizes.0)
            .flat_map(|lane| (1..=sizes.1).map(move |slot| id(lane, slot)))
            .map(|me| (me, random_dependencies(me, sizes, &mut random)))
            .collect();
        let mut sorted: Option<Vec<Vec<EntryId>>> = None;
        for _ in 0..3 {
            shuffle(&mut commits, &mut random);
            let mut graph = Graph::default();
            let mut all = Vec::new();
            for (id, dependencies) in &commits {
                graph.commit(*id, dependencies.clone());
                all.extend(components(&mut graph));
            }
            let at = random.random_range(0..=all.len());
            check_snapshot(&commits, &all, at, &mut random);
            all.sort();
            assert_eq!(&all, sorted.get_or_insert(all.clone()), "seed {seed}");
        }
    }
}

/// A replica that has learnt of some commits installs a snapshot of the first `at` components, and
/// executes the rest in equal components.
fn check_snapshot(
    commits: &[(EntryId, Dependencies)],
    all: &[Vec<EntryId>],
    at: usize,
    random: &mut ChaCha8Rng,
) {
    let mut frontier = Frontier::default();
    for id in all[..at].iter().flatten() {
        frontier.insert(*id);
    }
    let known = random.random_range(0..=commits.len());
    let mut graph = Graph::default();
    for (id, dependencies) in &commits[..known] {
        graph.commit(*id, dependencies.clone());
    }
    let before = graph.executable();
    if !before.ids().iter().all(|id| frontier.contains(*id)) {
        return; // The driver does not install what it is not behind.
    }
    let mut rest = Vec::new();
    graph.install(&frontier);
    for (id, dependencies) in commits {
        rest.extend(components(&mut graph));
        graph.commit(*id, dependencies.clone());
    }
    rest.extend(components(&mut graph));
    let mut expected = all[at..].to_vec();
    rest.sort();
    expected.sort();
    assert_eq!(rest, expected);
}
