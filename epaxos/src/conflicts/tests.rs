use super::*;
use bytes::Bytes;
use quorate_core::crypto::PublicKey;
use quorate_core::machine::Keys;
use quorate_core::request::{Operation, Request};
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

fn id(lane: u8, slot: u64) -> EntryId {
    EntryId {
        lane: Lane(lane),
        slot: Slot(slot),
    }
}

fn set(ids: &[EntryId]) -> Dependencies {
    ids.iter().copied().collect()
}

fn batch(client: u64, sequence: u64) -> Batch {
    Batch::of_one(Request {
        session: SessionId {
            number: client,
            client: PublicKey([1; 32]),
        },
        sequence,
        answered: 0,
        operation: Operation::Apply(b"x"),
    })
}

fn keys(reads: &[&str], writes: &[&str]) -> Footprint {
    let owned = |keys: &[&str]| {
        let keys = keys
            .iter()
            .map(|key| Bytes::copy_from_slice(key.as_bytes()));
        keys.collect()
    };
    Footprint::from(&Keys::Some {
        reads: owned(reads),
        writes: owned(writes),
    })
}

/// A request that no other command holds.
fn own(id: EntryId) -> Batch {
    batch(1000 + u64::from(id.lane.0), id.slot.0)
}

fn record(conflicts: &mut Conflicts, id: EntryId, keys: &Footprint) {
    conflicts.enter(id, keys, &own(id));
}

fn of(conflicts: &Conflicts, id: EntryId, keys: &Footprint) -> Dependencies {
    conflicts.clone().enter(id, keys, &own(id))
}

#[test]
fn writes_conflict_with_reads_and_writes_of_their_keys_and_reads_not_with_reads() {
    let mut known = Conflicts::default();
    record(&mut known, id(0, 2), &keys(&["a"], &[]));
    record(&mut known, id(1, 2), &keys(&["b"], &["a"]));
    record(&mut known, id(2, 2), &keys(&[], &["c"]));
    let of = |keys| of(&known, id(3, 1), &keys);
    assert_eq!(of(keys(&["a"], &[])), set(&[id(1, 2)]));
    assert_eq!(of(keys(&[], &["a"])), set(&[id(0, 2), id(1, 2)]));
    assert_eq!(of(keys(&["a"], &["a"])), set(&[id(0, 2), id(1, 2)]));
    assert_eq!(of(keys(&["b"], &[])), set(&[]));
    assert_eq!(of(keys(&["a", "c"], &["b"])), set(&[id(1, 2), id(2, 2)]));
    assert_eq!(of(keys(&["d"], &["d"])), set(&[]));
}

#[test]
fn what_touches_everything_and_nops_conflict_with_all() {
    let mut known = Conflicts::default();
    record(&mut known, id(0, 2), &keys(&["a"], &[]));
    record(&mut known, id(1, 2), &Footprint::All);
    known.enter(id(2, 2), &keys(&[], &[]), &Batch::noop());
    let barriers = set(&[id(1, 2), id(2, 2)]);
    assert_eq!(of(&known, id(3, 1), &keys(&[], &[])), barriers);
    let mut all = Dependencies::none();
    (0..3).for_each(|lane| all.insert_through(Lane(lane), Slot(2)));
    assert_eq!(of(&known, id(3, 1), &Footprint::All), all);
}

#[test]
fn commands_with_the_same_request_conflict() {
    let mut known = Conflicts::default();
    known.enter(id(0, 1), &keys(&[], &[]), &batch(1, 7));
    known.enter(id(1, 1), &keys(&[], &[]), &batch(1, 7));
    known.enter(id(1, 2), &keys(&[], &[]), &batch(1, 8));
    known.enter(id(1, 3), &keys(&[], &[]), &batch(2, 7));
    let again = known.clone().enter(id(2, 1), &keys(&[], &[]), &batch(1, 7));
    assert_eq!(again, set(&[id(0, 1), id(1, 1)]));
    let (a, b) = (keys(&[], &[]), keys(&["b"], &[]));
    assert!(conflict((&a, &batch(1, 7)), (&b, &batch(1, 7))));
    assert!(!conflict((&a, &batch(1, 7)), (&b, &batch(1, 8))));
    assert!(conflict((&a, &Batch::noop()), (&b, &batch(1, 8))));
    assert!(conflict(
        (&a, &batch(1, 7)),
        (&Footprint::All, &batch(1, 8))
    ));
    let writes = keys(&[], &["b"]);
    assert!(conflict((&b, &batch(1, 7)), (&writes, &batch(1, 8))));
    assert!(!conflict((&b, &batch(1, 7)), (&b, &batch(1, 8))));
}

/// A session drops what is a window behind: whether it was executed before must be the same
/// everywhere.
#[test]
fn requests_of_a_session_conflict_if_they_are_a_window_apart() {
    let none = keys(&[], &[]);
    let conflicts = |one, other| {
        let one = (&none, &batch(1, one));
        conflict(one, (&none, &batch(1, other)))
    };
    assert!(!conflicts(1, WINDOW) && !conflicts(WINDOW, 1));
    assert!(conflicts(1, 1 + WINDOW) && conflicts(1 + WINDOW, 1));
    assert!(conflicts(1, u64::MAX) && conflicts(u64::MAX, 1));
    let mut known = Conflicts::default();
    known.enter(id(0, 5), &none, &batch(1, 1));
    let named =
        |known: &Conflicts, sequence| known.clone().enter(id(2, 1), &none, &batch(1, sequence));
    assert_eq!(named(&known, WINDOW), set(&[]));
    assert_eq!(named(&known, 1 + WINDOW), set(&[id(0, 5)]));
    known.enter(id(1, 7), &none, &batch(1, 2 * WINDOW));
    assert_eq!(named(&known, WINDOW), set(&[id(0, 5), id(1, 7)]));
    assert_eq!(named(&known, WINDOW + 1), set(&[id(0, 5)]));
    assert!(named(&known, 1).contains(id(1, 7)));
    let other = known.clone().enter(id(2, 1), &none, &batch(2, 1 + WINDOW));
    assert_eq!(other, set(&[]));
}

/// A PreAccept that comes late names nothing of its own lane from its own slot on; the later ones
/// name it.
#[test]
fn a_late_command_is_named_by_the_later_ones_of_its_lane() {
    let a = keys(&[], &["a"]);
    let mut owner = Conflicts::default();
    record(&mut owner, id(0, 3), &a);
    assert_eq!(of(&owner, id(0, 5), &a), set(&[id(0, 3)]));
    for keys in [a, Footprint::All] {
        let mut other = Conflicts::default();
        record(&mut other, id(0, 5), &keys);
        record(&mut other, id(1, 1), &keys);
        record(&mut other, id(0, 3), &keys);
        let late = of(&other, id(0, 3), &keys);
        assert!(late.contains(id(1, 1)));
        assert!(!late.contains(id(0, 3)) && !late.contains(id(0, 5)));
    }
}

/// A set does not grow with the history of a key, and loses nothing of it.
#[test]
fn a_long_history_is_named_whole_in_few_spans() {
    let a = keys(&[], &["a"]);
    let mut known = Conflicts::default();
    for slot in 1..=1000 {
        record(&mut known, id((slot % 3) as u8, slot), &a);
    }
    let dependencies = of(&known, id(3, 1), &a);
    assert!(dependencies.spans().len() <= 3 * (EXACT as usize + 1));
    assert!((1..=1000).all(|slot| dependencies.contains(id((slot % 3) as u8, slot))));
    assert!(!dependencies.contains(id(0, 998)));
}

#[test]
fn what_was_trimmed_is_named_by_every_set_and_its_memory_is_given_back() {
    let mut known = Conflicts::default();
    let mut executed = Frontier::default();
    let mut most = 0;
    for slot in 1..=20_000 {
        record(&mut known, id(0, slot), &keys(&[], &[&format!("k{slot}")]));
        if slot > 100 {
            executed.insert(id(0, slot - 100));
            known.trim(&executed);
        }
        most = most.max(known.len());
    }
    assert!(most <= 2 * SMALL, "{most} keys and requests kept");
    let none = of(&known, id(1, 1), &keys(&[], &[]));
    assert_eq!(none.through(Lane(0)), Slot(19_900));
    assert_eq!(none.spans().len(), 1);
    let recent = of(&known, id(1, 1), &keys(&["k19950"], &[]));
    assert_eq!(recent.spans().len(), 2);
    assert!(recent.contains(id(0, 19_950)));
    record(&mut known, id(0, 5), &keys(&[], &["late"]));
    assert_eq!(of(&known, id(1, 1), &keys(&["late"], &[])), none);
    assert_eq!(
        of(&known, id(0, 5), &keys(&[], &[])).through(Lane(0)),
        Slot(4)
    );
}

#[test]
fn trimming_leaves_exceptions_to_their_keys_and_a_snapshot_does_not() {
    let mut known = Conflicts::default();
    let mut at = Frontier::default();
    for (slot, key) in [(1, "a"), (2, "a"), (4, "b")] {
        record(&mut known, id(0, slot), &keys(&[], &[key]));
        at.insert(id(0, slot));
    }
    known.trim(&at);
    assert_eq!(
        of(&known, id(1, 1), &keys(&[], &[])),
        set(&[id(0, 1), id(0, 2)])
    );
    assert!(of(&known, id(1, 1), &keys(&["b"], &[])).contains(id(0, 4)));
    let mut fresh = Conflicts::default();
    fresh.install(&at);
    let all = set(&[id(0, 1), id(0, 2), id(0, 4)]);
    assert_eq!(of(&fresh, id(1, 1), &keys(&[], &[])), all);
    assert_eq!(of(&fresh, id(1, 1), &Footprint::All), all);
    assert_eq!(fresh.floor(), &all);
}

fn random_keys(random: &mut ChaCha8Rng) -> Footprint {
    if random.random_ratio(1, 20) {
        return Footprint::All;
    }
    let mut some = || {
        let count = random.random_range(0..=2);
        let names = (0..count).map(|_| Bytes::from(vec![random.random_range(b'a'..b'f')]));
        names.collect()
    };
    Footprint::from(&Keys::Some {
        reads: some(),
        writes: some(),
    })
}

/// Against the definition: whatever conflicts is named, but later ones of the own lane; and who
/// knows less, in another order, names no more. Trimming, here and not there, leaves the first true.
#[test]
fn random_commands_are_named_if_they_conflict() {
    for seed in 0..200 {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let (mut known, mut lesser) = (Conflicts::default(), Conflicts::default());
        let mut all = Vec::new();
        for slot in 1..=30 {
            for lane in 0..3 {
                let (sequence, keys) = (random.random_range(0..60), random_keys(&mut random));
                all.push((id(lane, slot), keys, batch(u64::from(lane) / 2, sequence)));
            }
        }
        for (id, keys, batch) in &all {
            known.enter(*id, keys, batch);
        }
        for (id, keys, batch) in all.iter().rev().filter(|_| random.random_ratio(2, 3)) {
            lesser.enter(*id, keys, batch);
        }
        for trimmed in [false, true] {
            for (id, keys, batch) in &all {
                let named = known.clone().enter(*id, keys, batch);
                assert!(!named.contains(*id), "seed {seed}");
                for (other, their_keys, their_batch) in &all {
                    let later = other.lane == id.lane && other.slot >= id.slot;
                    if !later && conflict((keys, batch), (their_keys, their_batch)) {
                        assert!(named.contains(*other), "seed {seed}: {id:?} {other:?}");
                    }
                }
                assert!(
                    named.covers(&lesser.clone().enter(*id, keys, batch)),
                    "seed {seed}"
                );
            }
            if !trimmed {
                let mut executed = Frontier::default();
                for slot in 1..=10 {
                    executed.insert(id(0, slot));
                    executed.insert(id(1, 2 * slot));
                }
                known.trim(&executed);
                known.sweep();
            }
        }
    }
}
