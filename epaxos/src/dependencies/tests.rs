use super::*;
use quorate_core::codec;
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeSet;

fn id(lane: u8, slot: u64) -> EntryId {
    EntryId {
        lane: Lane(lane),
        slot: Slot(slot),
    }
}

fn span(lane: u8, first: u64, last: u64) -> Span {
    Span {
        lane: Lane(lane),
        first: Slot(first),
        last: Slot(last),
    }
}

fn random_id(random: &mut ChaCha8Rng) -> EntryId {
    id(random.random_range(0..3), random.random_range(0..12))
}

fn of(model: &BTreeSet<EntryId>) -> Dependencies {
    model.iter().copied().collect()
}

/// Against a plain set, over random operations; equal sets are equal values.
#[test]
fn a_set_is_a_set() {
    for seed in 0..300 {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let (mut set, mut model) = (Dependencies::none(), BTreeSet::new());
        let mut other = BTreeSet::new();
        for _ in 0..40 {
            let one = random_id(&mut random);
            let exists = one.slot > Slot::ZERO;
            match random.random_range(0..10) {
                0..4 => assert_eq!(set.insert(one), exists && model.insert(one)),
                4..7 => assert_eq!(set.remove(one), model.remove(&one)),
                7 => {
                    set.insert_through(one.lane, one.slot);
                    model.extend((1..=one.slot.0).map(|slot| id(one.lane.0, slot)));
                }
                8 => {
                    set.remove_from(one.lane, one.slot);
                    model.retain(|id| id.lane != one.lane || id.slot < one.slot);
                }
                _ => {
                    other.extend((1..8).map(|_| random_id(&mut random)));
                    other.retain(|id: &EntryId| id.slot > Slot::ZERO);
                    assert_eq!(set.covers(&of(&other)), model.is_superset(&other));
                    set.union_with(&of(&other));
                    model.extend(other.split_off(&random_id(&mut random)));
                    model.extend(other.iter().copied());
                }
            }
            assert_eq!(set, of(&model), "seed {seed}");
            assert!(set.iter().eq(model.iter().copied()), "seed {seed}");
            assert_eq!(set.count(), model.len() as u64);
            assert_eq!(set.is_empty(), model.is_empty());
            assert_eq!(set.contains(one), model.contains(&one));
            let gap = (1..).find(|slot| !model.contains(&id(one.lane.0, *slot)));
            assert_eq!(set.through(one.lane).next().0, gap.unwrap_or(0));
        }
    }
}

#[test]
fn what_was_written_is_read() {
    for seed in 0..100 {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let count = random.random_range(0..20);
        let set: Dependencies = (0..count).map(|_| random_id(&mut random)).collect();
        let bytes = codec::encode(&set).unwrap();
        assert_eq!(codec::decode::<Dependencies>("set", &bytes).unwrap(), set);
    }
    let mut history = Dependencies::none();
    (0..5).for_each(|lane| history.insert_through(Lane(lane), Slot(200)));
    assert!(codec::encode(&history).unwrap().len() <= 1 + 5 * 3);
}

#[test]
fn what_is_no_set_is_refused() {
    let read = |written: &[Written]| {
        let bytes = codec::encode(&written.to_vec()).unwrap();
        codec::decode::<Dependencies>("set", &bytes)
    };
    assert!(read(&[(0, 1, 3), (0, 2, 0), (2, 7, 0)]).is_ok());
    for broken in [
        vec![(0, 0, 3)],
        vec![(64, 1, 0)],
        vec![(1, 1, 0), (0, 1, 0)],
        vec![(0, 1, 3), (0, 1, 0)],
        vec![(0, 1, 3), (0, 0, 0)],
        vec![(0, u64::MAX, 0)],
        vec![(0, 5, u64::MAX)],
        vec![(0, 5, u64::MAX - 5)],
        vec![(0, 1, u64::MAX - 3), (0, 2, 1)],
        vec![(0, 2, 0); MAX_SPANS + 1],
    ] {
        assert!(read(&broken).is_err());
    }
}

#[test]
fn a_union_that_could_not_be_read_again_names_more() {
    let apart = |from: u64| (0..40_000).map(move |n| id(3, from + 4 * n)).collect();
    let (mut sum, other): (Dependencies, Dependencies) = (apart(1), apart(3));
    let before = sum.clone();
    sum.union_with(&other);
    assert!(sum.covers(&before) && sum.covers(&other));
    let bytes = codec::encode(&sum).unwrap();
    assert_eq!(codec::decode::<Dependencies>("set", &bytes).unwrap(), sum);
}

#[test]
fn lanes_that_the_cluster_does_not_have_are_seen() {
    let set: Dependencies = [id(0, 1), id(4, 2)].into_iter().collect();
    assert!(set.is_within(5) && !set.is_within(4));
    assert!(Dependencies::none().is_within(0));
}

#[test]
fn a_frontier_is_a_set_with_its_exceptions() {
    let mut frontier = Frontier::single(Slot(3));
    frontier.insert(id(2, 5));
    frontier.insert(id(2, 4));
    let set = Dependencies::from(&frontier);
    assert_eq!(set.spans(), [span(0, 1, 3), span(2, 4, 5)]);
}

#[test]
fn a_coarse_set_keeps_the_highest_of_each_lane() {
    let mut set: Dependencies = [2, 4, 6, 8, 10]
        .map(|slot| id(0, slot))
        .into_iter()
        .collect();
    set.insert(id(1, 9));
    let fine = set.clone();
    set.coarsen(5);
    assert_eq!(set, fine);
    set.coarsen(2);
    let spans = [span(0, 1, 6), span(0, 8, 8), span(0, 10, 10), span(1, 9, 9)];
    assert_eq!(set.spans(), spans);
}

/// What the fast path needs: that a replica which knows no more than the coordinator does not
/// answer with more, though both coarsen as they go.
#[test]
fn coarsening_keeps_inclusion_and_does_not_depend_on_order() {
    for seed in 0..300 {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mut more: Vec<EntryId> = (0..30)
            .map(|_| id(random.random_range(0..2), random.random_range(1..40)))
            .collect();
        let exact = random.random_range(0..6);
        let gradually = |ids: &[EntryId]| {
            let mut set = Dependencies::none();
            for id in ids {
                set.insert(*id);
                set.coarsen(exact);
            }
            set
        };
        let mut at_once: Dependencies = more.iter().copied().collect();
        at_once.coarsen(exact);
        assert_eq!(gradually(&more), at_once, "seed {seed}");
        more.reverse();
        assert_eq!(gradually(&more), at_once, "seed {seed}");
        let fewer = gradually(&more[..random.random_range(0..more.len())]);
        assert!(at_once.covers(&fewer), "seed {seed}");
        let (mut recent, floor) = (Dependencies::none(), Slot(random.random_range(0..40)));
        for id in &more {
            recent.insert_recent(*id, floor, exact);
        }
        for lane in [Lane(0), Lane(1)] {
            recent.insert_through(lane, floor);
            at_once.insert_through(lane, floor);
        }
        assert_eq!(recent, at_once, "seed {seed}");
    }
}
