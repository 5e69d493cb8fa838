//! The store against a simple model, and its snapshots.

use std::collections::BTreeMap;

use bytes::Bytes;
use quorate_core::machine::{Keys, StateMachine};
use quorate_kv::{Answer, Command, Entry, Query, RANGE_BYTES, Refusal, Store};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Every live key with the values it has had since it was created.
type Model = BTreeMap<Bytes, Vec<Bytes>>;

fn word(rng: &mut ChaCha8Rng, words: &[&'static [u8]]) -> Bytes {
    Bytes::from_static(words[rng.random_range(0..words.len())])
}

fn key(rng: &mut ChaCha8Rng) -> Bytes {
    word(
        rng,
        &[b"", b"a", b"ab", b"abc", b"b", b"ba", b"\xff", b"\xff\xff"],
    )
}

fn value(rng: &mut ChaCha8Rng) -> Bytes {
    word(rng, &[b"", b"x", b"y", b"z"])
}

fn command(rng: &mut ChaCha8Rng) -> Command {
    let key = key(rng);
    match rng.random_range(0..4) {
        0 => Command::Delete { key },
        1 => Command::Put {
            key,
            value: value(rng),
        },
        _ => Command::Cas {
            key,
            expected: rng.random_bool(0.6).then(|| value(rng)),
            value: value(rng),
        },
    }
}

fn query(rng: &mut ChaCha8Rng) -> Query {
    let limit = rng.random_range(0..6);
    match rng.random_range(0..3) {
        0 => Query::Get { key: key(rng) },
        1 => Query::prefix(key(rng), limit),
        _ => Query::Range {
            start: key(rng),
            end: rng.random_bool(0.7).then(|| key(rng)),
            limit,
        },
    }
}

fn apply_to_model(model: &mut Model, command: Command) -> Answer {
    match command {
        Command::Put { key, value } => {
            let values = model.entry(key).or_default();
            values.push(value);
            Answer::Put {
                revision: values.len() as u64,
            }
        }
        Command::Delete { key } => Answer::Delete {
            existed: model.remove(&key).is_some(),
        },
        Command::Cas {
            key,
            expected,
            value,
        } => {
            let swapped = model.get(&key).and_then(|values| values.last()) == expected.as_ref();
            if swapped {
                model.entry(key.clone()).or_default().push(value);
            }
            Answer::Cas {
                swapped,
                revision: model.get(&key).map_or(0, |values| values.len() as u64),
            }
        }
    }
}

fn ask_model(model: &Model, query: &Query) -> Answer {
    match query {
        Query::Get { key } => Answer::Get {
            found: model
                .get(key)
                .map(|values| (values.last().unwrap().clone(), values.len() as u64)),
        },
        Query::Range { start, end, limit } => {
            let inside = |key: &Bytes| key >= start && end.as_ref().is_none_or(|end| key < end);
            let all = model.iter().filter(|(key, _)| inside(key));
            let mut entries: Vec<Entry> = all
                .map(|(key, values)| Entry {
                    key: key.clone(),
                    value: values.last().unwrap().clone(),
                    revision: values.len() as u64,
                })
                .collect();
            let more = entries.len() > *limit as usize;
            entries.truncate(*limit as usize);
            Answer::Range { entries, more }
        }
    }
}

fn apply(store: &mut Store, command: &Command) -> Answer {
    Answer::decode(&store.apply(&command.encode())).unwrap()
}

fn ask(store: &Store, query: &Query) -> Answer {
    Answer::decode(&store.query(&query.encode())).unwrap()
}

fn snapshot(store: &Store) -> Vec<u8> {
    let mut bytes = Vec::new();
    store.snapshot(&mut bytes).unwrap();
    bytes
}

fn restored(mut bytes: &[u8]) -> Result<Store, String> {
    let mut store = Store::default();
    store.restore(&mut bytes).map_err(|e| e.to_string())?;
    Ok(store)
}

fn put(key: &'static str, value: &'static str) -> Command {
    Command::Put {
        key: Bytes::from_static(key.as_bytes()),
        value: Bytes::from_static(value.as_bytes()),
    }
}

#[test]
fn answers_are_those_of_the_model() {
    for seed in 0..20 {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let (mut store, mut model) = (Store::default(), Model::new());
        for _ in 0..1_000 {
            let command = command(&mut rng);
            let expected = apply_to_model(&mut model, command.clone());
            assert_eq!(apply(&mut store, &command), expected, "{seed}: {command:?}");
            let query = query(&mut rng);
            let expected = ask_model(&model, &query);
            assert_eq!(ask(&store, &query), expected, "{seed}: {query:?}");
        }
        assert_eq!(store.len(), model.len());
        assert_eq!(restored(&snapshot(&store)).unwrap(), store);
    }
}

#[test]
fn commands_that_commute_give_equal_answers_and_snapshots_in_either_order() {
    let mut swaps = 0;
    for seed in 0..20 {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut order: Vec<(usize, Command)> =
            (0..300).map(|_| command(&mut rng)).enumerate().collect();
        let run = |order: &[(usize, Command)]| {
            let mut store = Store::default();
            let mut answers: Vec<(usize, Answer)> = order
                .iter()
                .map(|(number, command)| (*number, apply(&mut store, command)))
                .collect();
            answers.sort_by_key(|(number, _)| *number);
            (answers, snapshot(&store))
        };
        let before = run(&order);
        for _ in 0..5_000 {
            let at = rng.random_range(1..order.len());
            let keys = |at: usize| Store::default().keys(&order[at].1.encode());
            if !keys(at - 1).conflicts(&keys(at)) {
                order.swap(at - 1, at);
                swaps += 1;
            }
        }
        assert_eq!(run(&order), before, "seed {seed}");
    }
    assert!(swaps > 10_000, "only {swaps} pairs commuted");
}

#[test]
fn a_deleted_key_starts_over() {
    let mut store = Store::default();
    let delete = Command::Delete {
        key: Bytes::from_static(b"a"),
    };
    assert_eq!(
        apply(&mut store, &put("a", "1")),
        Answer::Put { revision: 1 }
    );
    assert_eq!(
        apply(&mut store, &put("a", "1")),
        Answer::Put { revision: 2 }
    );
    assert_eq!(apply(&mut store, &delete), Answer::Delete { existed: true });
    assert_eq!(
        apply(&mut store, &delete),
        Answer::Delete { existed: false }
    );
    assert_eq!(snapshot(&store), snapshot(&Store::default()));
    assert_eq!(
        apply(&mut store, &put("a", "2")),
        Answer::Put { revision: 1 }
    );
}

#[test]
fn what_is_not_a_command_changes_nothing_and_says_so() {
    let mut store = Store::default();
    apply(&mut store, &put("a", "1"));
    let before = snapshot(&store);
    let refused = Answer::Refused(Refusal::Malformed);
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    for _ in 0..2_000 {
        let mut bytes = command(&mut rng).encode().to_vec();
        bytes.truncate(rng.random_range(0..bytes.len()));
        assert_eq!(Answer::decode(&store.apply(&bytes)).unwrap(), refused);
        assert_eq!(Answer::decode(&store.query(&bytes)).unwrap(), refused);
        let noise: Vec<u8> = (0..20).map(|_| rng.random()).collect();
        store.query(&noise);
        store.keys(&noise);
        store.query_keys(&noise);
    }
    assert_eq!(snapshot(&store), before);
}

#[test]
fn keys_are_as_narrow_as_can_be() {
    let store = Store::default();
    let keys = |bytes: Bytes| store.keys(&bytes);
    let query_keys = |bytes: Bytes| store.query_keys(&bytes);
    let get = |key: &'static str| {
        let key = Bytes::from_static(key.as_bytes());
        query_keys(Query::Get { key }.encode())
    };
    let write = keys(put("a", "1").encode());
    assert!(write.conflicts(&write));
    assert!(write.conflicts(&get("a")));
    assert!(!write.conflicts(&get("b")));
    assert!(!get("a").conflicts(&get("a")));
    let all = Query::prefix(Bytes::new(), 1).encode();
    assert_eq!(query_keys(all), Keys::All);
    assert!(!keys(Bytes::from_static(b"noise")).conflicts(&write));
}

#[test]
fn a_range_is_cut_where_it_would_be_too_large_for_a_reply() {
    let mut store = Store::default();
    for number in 0..5u8 {
        let put = Command::Put {
            key: Bytes::from(vec![number]),
            value: Bytes::from(vec![number; RANGE_BYTES / 2 - 1]),
        };
        apply(&mut store, &put);
    }
    let mut seen = 0;
    let mut start = Bytes::new();
    loop {
        let range = Query::Range {
            start,
            end: None,
            limit: 1_000,
        };
        let Answer::Range { entries, more } = ask(&store, &range) else {
            panic!("not a range");
        };
        assert!((1..=2).contains(&entries.len()));
        seen += entries.len();
        if !more {
            break;
        }
        start = Bytes::from([&entries.last().unwrap().key[..], &[0]].concat());
    }
    assert_eq!(seen, 5);
}

#[test]
fn a_damaged_snapshot_is_refused_and_leaves_the_state_alone() {
    let mut store = Store::default();
    apply(&mut store, &put("a", "1"));
    apply(&mut store, &put("b", "2"));
    let good = snapshot(&store);
    for length in 0..good.len() {
        assert!(restored(&good[..length]).is_err(), "cut at {length}");
    }
    let with = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        restored(&bytes).unwrap_err()
    };
    assert!(with(0, 9).contains("format version 9"));
    assert!(with(1, 3).contains("entry 3 of 3"));
    assert!(with(1, 1).contains("follow the last entry"));
    assert!(with(11, 1).contains("its key has 65537 bytes"));
    assert!(with(17, 0).contains("its revision is 0"));
    assert!(with(25, b'c').contains("not above the one before"));
    let mut longer = good.clone();
    longer.push(0);
    assert!(store.restore(&mut &longer[..]).is_err());
    assert_eq!(snapshot(&store), good);
}
