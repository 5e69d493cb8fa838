use std::collections::BTreeMap;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;

fn operation(key: &str, call: Call, invoke: u64, outcome: Outcome) -> Operation {
    Operation {
        process: 0,
        key: key.into(),
        call,
        invoke,
        outcome,
    }
}

fn ok(returned: u64, answer: Answer) -> Outcome {
    Outcome::Ok { returned, answer }
}

fn text(value: &str) -> Option<String> {
    (value != "-").then(|| value.into())
}

/// Reads `put x`, `get x`, `delete`, `delete true`, `cas x y true` and such, on key `k`; `-` is
/// absent, `?` in place of the return means that there is none, `!` that it failed.
fn parse(line: &str) -> Operation {
    let words: Vec<&str> = line.split_whitespace().collect();
    let (call, flag) = match words[2..] {
        ["put", value] => (
            Call::Put {
                value: value.into(),
            },
            None,
        ),
        ["get", ..] => (Call::Get, None),
        ["delete"] => (Call::Delete, None),
        ["delete", flag] => (Call::Delete, Some(flag)),
        ["cas", expected, value, ref flag @ ..] => {
            let (expected, value) = (text(expected), value.into());
            (Call::Cas { expected, value }, flag.first().copied())
        }
        _ => panic!("{line}"),
    };
    let answer = match (&call, flag) {
        (Call::Get, _) => Answer::Value(words.get(3).copied().and_then(text)),
        (_, Some(flag)) => Answer::Flag(flag == "true"),
        (_, None) => Answer::Value(None),
    };
    let outcome = match words[1] {
        "?" => Outcome::Info,
        "!" => Outcome::Fail { returned: None },
        returned => ok(returned.parse().unwrap(), answer),
    };
    operation("k", call, words[0].parse().unwrap(), outcome)
}

fn history(lines: &[&str]) -> History {
    History {
        operations: lines.iter().map(|line| parse(line)).collect(),
    }
}

fn assert_linearizable(lines: &[&str]) {
    let summary = Summary {
        operations: lines.len(),
        keys: 1,
    };
    assert_eq!(check(&history(lines), Bound::default()), Ok(summary));
}

fn refutation(history: &History) -> NotLinearizable {
    match check(history, Bound::default()) {
        Err(Failure::NotLinearizable(refutation)) => *refutation,
        other => panic!("{other:?}"),
    }
}

fn assert_not_linearizable(lines: &[&str]) -> NotLinearizable {
    refutation(&history(lines))
}

#[test]
fn a_stale_read_is_found_and_explained() {
    let stale = [
        "0 10 put a",
        "11 12 get a",
        "20 30 put b",
        "35 39 get b",
        "40 50 get a",
        "60 70 put c",
        "71 72 get c",
    ];
    let found = assert_not_linearizable(&stale);
    assert_eq!(found.violating, parse("40 50 get a"));
    assert_eq!(found.prefix, 5);
    let evidence = ["0 10 put a", "20 30 put b", "40 50 get a"];
    assert_eq!(found.evidence, history(&evidence).operations);
    let text = found.to_string();
    assert!(
        text.contains(r#"[40, 50] process 0: get gave "a""#),
        "{text}"
    );
    assert_linearizable(&["0 10 put a", "20 30 put b", "25 50 get a"]);
}

#[test]
fn reads_of_concurrent_writes_agree_on_an_order() {
    let writes = ["0 9 put a", "0 9 put b"];
    assert_linearizable(&[&writes[..], &["1 2 get a", "3 4 get b"]].concat());
    assert_linearizable(&[&writes[..], &["1 2 get b", "3 4 get a", "11 12 get a"]].concat());
    assert_not_linearizable(&[&writes[..], &["1 2 get b", "3 4 get a", "11 12 get b"]].concat());
    assert_not_linearizable(&[&writes[..], &["11 12 get b", "13 14 get a"]].concat());
}

#[test]
fn a_lost_update_is_found() {
    assert_not_linearizable(&["0 1 put a", "2 3 put b", "4 5 cas a c true"]);
    assert_not_linearizable(&["0 1 put a", "2 3 cas a b true", "4 5 get a"]);
    assert_not_linearizable(&["0 1 put a", "2 3 get -"]);
}

#[test]
fn a_cas_does_not_succeed_twice() {
    let twice = ["0 1 put a", "2 9 cas a b true", "2 9 cas a c true"];
    assert_not_linearizable(&twice);
    assert_not_linearizable(&["0 9 cas - a true", "0 9 cas - b true"]);
    assert_linearizable(&["0 1 put a", "2 9 cas a b true", "2 9 cas a c false"]);
    assert_linearizable(&["0 1 put a", "2 9 cas a b true", "2 9 cas b a true"]);
    assert_linearizable(&[&twice[..], &["2 9 put a"]].concat());
}

#[test]
fn a_cas_that_fails_found_another_value() {
    assert_not_linearizable(&["0 1 put a", "2 3 cas a b false"]);
    assert_not_linearizable(&["0 1 cas - b false"]);
    assert_linearizable(&["0 1 put a", "2 5 cas a b false", "3 4 put c"]);
    assert_linearizable(&["0 1 put a", "2 3 cas a a true", "4 5 get a"]);
    // Only the order a, c, b leaves the cas an instant when the state is not b.
    assert_linearizable(&["0 9 put b", "0 9 put c", "1 9 cas b d false", "10 11 get b"]);
}

#[test]
fn nothing_is_read_from_the_future_or_from_nowhere() {
    assert_not_linearizable(&["0 1 get a", "2 3 put a"]);
    assert_not_linearizable(&["0 1 put b", "2 3 get a"]);
    assert_linearizable(&["0 2 get a", "2 3 put a"]);
}

#[test]
fn a_delete_says_whether_the_key_existed() {
    assert_linearizable(&[
        "0 1 delete false",
        "2 3 put a",
        "4 5 delete true",
        "6 7 get -",
    ]);
    assert_linearizable(&["0 1 delete", "2 3 put a", "4 5 delete", "6 7 delete false"]);
    assert_linearizable(&["0 1 put a", "2 9 delete true", "2 9 delete false"]);
    assert_linearizable(&[
        "0 9 put a",
        "0 9 put b",
        "0 9 delete true",
        "0 9 delete true",
    ]);
    assert_not_linearizable(&["0 1 put a", "2 9 delete true", "2 9 delete true"]);
    assert_not_linearizable(&["0 1 put a", "2 3 delete false"]);
    assert_not_linearizable(&["0 1 delete true"]);
    assert_not_linearizable(&["0 1 put a", "2 3 delete", "4 5 get a"]);
}

#[test]
fn a_pending_write_may_take_effect_late_or_never_but_only_once() {
    let pending = ["0 ? put a", "1 2 put b"];
    assert_linearizable(&[&pending[..], &["3 4 get b", "5 6 get a"]].concat());
    assert_linearizable(&[&pending[..], &["3 4 get b", "5 6 get b"]].concat());
    assert_not_linearizable(&[&pending[..], &["3 4 get a", "5 6 get b"]].concat());
    assert_not_linearizable(&["3 ? put a", "1 2 get a"]);
    let seen = [
        "0 1 put b",
        "2 ? put a",
        "3 4 get a",
        "5 6 put b",
        "7 8 get a",
    ];
    assert_not_linearizable(&seen);
    assert_linearizable(&["0 1 put a", "2 ? delete", "3 4 get -", "5 6 delete false"]);
    assert_linearizable(&["0 ? cas b c", "1 2 put b", "3 4 get b", "5 6 get c"]);
    assert_not_linearizable(&["0 ? cas b c", "1 2 put a", "3 4 get a", "5 6 get c"]);
    // Each pending write makes room for one delete or failing cas, seen by nobody.
    assert_linearizable(&["0 ? put a", "1 2 delete true"]);
    assert_not_linearizable(&["0 ? put a", "1 2 delete true", "3 4 delete true"]);
    assert_linearizable(&["0 1 put a", "2 ? put b", "3 4 cas a c false"]);
    assert_linearizable(&["0 ? put a", "0 ? cas a b", "1 2 get b", "3 4 delete true"]);
}

#[test]
fn a_failed_operation_did_not_happen() {
    assert_not_linearizable(&["0 ! put a", "1 2 get a"]);
    assert_linearizable(&["0 ! put a", "1 2 get -"]);
}

#[test]
fn keys_are_independent_and_the_first_in_order_is_reported() {
    let mut history = history(&["0 1 put a", "2 3 get a"]);
    for key in ["z", "b", "c"] {
        let mut read = parse("4 5 get a");
        read.key = key.into();
        history.operations.push(read);
    }
    assert_eq!(refutation(&history).key, "b");
}

/// Tries all orders, straight from the definition.
fn naive(state: Option<&str>, left: &[&Operation]) -> bool {
    let pending = |operation: &Operation| operation.outcome == Outcome::Info;
    let first_return = left.iter().filter_map(|operation| match operation.outcome {
        Outcome::Ok { returned, .. } => Some(returned),
        _ => None,
    });
    let deadline = first_return.min().unwrap_or(u64::MAX);
    if left.iter().all(|operation| pending(operation)) {
        return true;
    }
    (0..left.len()).any(|index| {
        let operation = left[index];
        let mut rest = left.to_vec();
        rest.remove(index);
        if pending(operation) && naive(state, &rest) {
            return true;
        }
        if operation.invoke > deadline {
            return false;
        }
        let (after, answer) = match &operation.call {
            Call::Put { value } => (Some(value.as_str()), Answer::Value(None)),
            Call::Get => (state, Answer::Value(state.map(String::from))),
            Call::Delete => (None, Answer::Flag(state.is_some())),
            Call::Cas { expected, value } if expected.as_deref() == state => {
                (Some(value.as_str()), Answer::Flag(true))
            }
            Call::Cas { .. } => (state, Answer::Flag(false)),
        };
        let explained = match &operation.outcome {
            Outcome::Ok { answer: given, .. } => {
                *given == answer || operation.call == Call::Delete && *given == Answer::Value(None)
            }
            _ => true,
        };
        explained && naive(after, &rest)
    })
}

fn random_operation(rng: &mut ChaCha8Rng, values: u32, span: u64) -> Operation {
    let value = |rng: &mut ChaCha8Rng| format!("v{}", rng.random_range(0..values));
    let maybe = |rng: &mut ChaCha8Rng| rng.random_bool(0.7).then(|| value(rng));
    let flag = rng.random_bool(0.5);
    let (call, answer) = match rng.random_range(0..8) {
        0..3 => (Call::Put { value: value(rng) }, Answer::Value(None)),
        3..5 => (Call::Get, Answer::Value(maybe(rng))),
        5 if rng.random_bool(0.3) => (Call::Delete, Answer::Value(None)),
        5 => (Call::Delete, Answer::Flag(flag)),
        _ => {
            let (expected, value) = (maybe(rng), value(rng));
            (Call::Cas { expected, value }, Answer::Flag(flag))
        }
    };
    let invoke = rng.random_range(0..span);
    let outcome = match rng.random_range(0..10) {
        0 => Outcome::Fail { returned: None },
        1..3 => Outcome::Info,
        _ => ok(invoke + rng.random_range(0..span), answer),
    };
    operation("k", call, invoke, outcome)
}

#[test]
fn small_random_histories_are_judged_as_by_trying_all_orders() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let mut found = [0; 2];
    for round in 0..60_000 {
        let (values, span) = ([1, 2, 4][round % 3], [4, 8, 20][round / 3 % 3]);
        let length = rng.random_range(1..=6);
        let history = History {
            operations: (0..length)
                .map(|_| random_operation(&mut rng, values, span))
                .collect(),
        };
        let happened = |operation: &&Operation| !matches!(operation.outcome, Outcome::Fail { .. });
        let operations: Vec<&Operation> = history.operations.iter().filter(happened).collect();
        let expected = naive(None, &operations);
        let verdict = check(&history, Bound::default());
        assert_eq!(verdict.is_ok(), expected, "{:#?}", history.operations);
        if let Err(Failure::NotLinearizable(refutation)) = verdict {
            assert_explains(&refutation, &history);
        }
        found[usize::from(expected)] += 1;
    }
    assert!(found.iter().all(|count| *count > 10_000), "{found:?}");
}

/// The operations as they were known at time `until`.
fn known(operations: &[Operation], until: u64) -> Vec<Operation> {
    let mut known = operations.to_vec();
    known.retain(|o| o.invoke <= until && !matches!(o.outcome, Outcome::Fail { .. }));
    for operation in &mut known {
        if matches!(operation.outcome, Outcome::Ok { returned, .. } if returned > until) {
            operation.outcome = Outcome::Info;
        }
    }
    known
}

/// The prefix is the shortest that is not linearizable, and the evidence suffices for that.
fn assert_explains(refutation: &NotLinearizable, history: &History) {
    let Outcome::Ok {
        returned: until, ..
    } = refutation.violating.outcome
    else {
        panic!("{refutation}");
    };
    let lasts = |operations: &[Operation], until| {
        naive(None, &known(operations, until).iter().collect::<Vec<_>>())
    };
    assert!(!lasts(&history.operations, until), "{refutation}");
    let before = until.checked_sub(1);
    let lasted = before.is_none_or(|before| lasts(&history.operations, before));
    assert!(lasted, "{refutation}");
    assert!(!lasts(&refutation.evidence, until), "{refutation}");
    let same = |operation: &Operation| operation.call == refutation.violating.call;
    assert!(refutation.evidence.iter().any(same), "{refutation}");
}

/// How a correct register is used.
#[derive(Clone, Copy)]
struct Load {
    keys: u64,
    processes: u64,
    operations: usize,
    /// Put, get, delete, cas: how many of ten.
    mix: [u32; 4],
    /// How many of a thousand get no answer.
    pending: u32,
    /// Values are drawn from so many; 0: each is written once.
    values: u64,
}

/// What a correct register answers, at random instants.
fn correct(load: Load, seed: u64) -> History {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut free: Vec<u64> = (0..load.processes).collect();
    let mut schedule = Vec::new();
    for number in 0..load.operations {
        let process = number as u64 % load.processes;
        let now = &mut free[process as usize];
        let invoke = *now + rng.random_range(0..200);
        let instant = invoke + rng.random_range(0..1_000);
        let returned = instant + rng.random_range(0..1_000);
        *now = returned + 1;
        schedule.push((instant, number, process, invoke, returned));
    }
    schedule.sort_unstable();
    let mut states: BTreeMap<String, String> = BTreeMap::new();
    let mut operations = Vec::new();
    for (_, number, process, invoke, returned) in schedule {
        let key = format!("k{}", rng.random_range(0..load.keys));
        let value = match load.values {
            0 => format!("v{number}"),
            values => format!("v{}", rng.random_range(0..values)),
        };
        let present = states.get(&key).cloned();
        let lost = rng.random_range(0..1_000) < load.pending;
        let happens = !lost || rng.random_bool(0.5);
        let mut draw = rng.random_range(0..10);
        let kind = load.mix.iter().position(|share| {
            let here = draw < *share;
            draw = draw.saturating_sub(*share);
            here
        });
        let (call, after, answer) = match kind.unwrap() {
            0 => {
                let after = Some(value.clone());
                (Call::Put { value }, after, Answer::Value(None))
            }
            1 => (Call::Get, present.clone(), Answer::Value(present)),
            2 => (Call::Delete, None, Answer::Flag(present.is_some())),
            _ => {
                let swapped = rng.random_bool(0.7);
                let expected = if swapped {
                    present.clone()
                } else {
                    Some("none".into())
                };
                let after = if swapped {
                    Some(value.clone())
                } else {
                    present
                };
                (Call::Cas { expected, value }, after, Answer::Flag(swapped))
            }
        };
        if happens {
            match after {
                Some(value) => states.insert(key.clone(), value),
                None => states.remove(&key),
            };
        }
        let outcome = if lost {
            Outcome::Info
        } else {
            ok(returned, answer)
        };
        operations.push(Operation {
            process,
            key,
            call,
            invoke,
            outcome,
        });
    }
    History { operations }
}

/// Makes one get in the middle see the value of a much earlier put on its key.
fn corrupt(history: &mut History) {
    let middle = history.operations.len() / 2;
    let read = |operation: &Operation| {
        operation.call == Call::Get && matches!(operation.outcome, Outcome::Ok { .. })
    };
    let mut candidates = middle..history.operations.len();
    let at = candidates
        .find(|index| {
            let operation = &history.operations[*index];
            read(operation) && stale(history, operation).is_some()
        })
        .unwrap();
    let value = stale(history, &history.operations[at]);
    if let Outcome::Ok { answer, .. } = &mut history.operations[at].outcome {
        *answer = Answer::Value(value);
    }
}

/// A value that was overwritten before `read` was invoked.
fn stale(history: &History, read: &Operation) -> Option<String> {
    let mut puts = history.operations.iter().filter_map(|operation| {
        let Outcome::Ok { returned, .. } = operation.outcome else {
            return None;
        };
        let Call::Put { value } = &operation.call else {
            return None;
        };
        (operation.key == read.key).then_some((operation.invoke, returned, value))
    });
    let (_, first, value) = puts.next()?;
    let overwrites = |invoke: u64, returned: u64| first < invoke && returned < read.invoke;
    puts.any(|(invoke, returned, _)| overwrites(invoke, returned))
        .then(|| value.clone())
}

/// Gives one operation the answer of another of its kind.
fn perturb(history: &mut History, rng: &mut ChaCha8Rng) {
    let [from, to] = [(); 2].map(|()| rng.random_range(0..history.operations.len()));
    let [source, target] = [from, to].map(|index| history.operations[index].clone());
    if std::mem::discriminant(&source.call) == std::mem::discriminant(&target.call)
        && let Outcome::Ok { answer, .. } = source.outcome
        && let Outcome::Ok { answer: given, .. } = &mut history.operations[to].outcome
    {
        *given = answer;
    }
}

#[test]
fn slightly_wrong_histories_are_judged_as_by_trying_all_orders() {
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    let mut found = [0; 2];
    for round in 0..6_000 {
        let load = Load {
            keys: 1,
            processes: rng.random_range(2..6),
            operations: rng.random_range(4..10),
            mix: [[5, 5, 0, 0], [3, 4, 0, 3], [3, 3, 2, 2]][round % 3],
            pending: 100,
            values: [0, 0, 2][round / 3 % 3],
        };
        let mut history = correct(load, round as u64);
        for _ in 0..12 {
            perturb(&mut history, &mut rng);
        }
        let operations: Vec<&Operation> = history.operations.iter().collect();
        let expected = naive(None, &operations);
        let verdict = check(&history, Bound::default());
        assert_eq!(verdict.is_ok(), expected, "{:#?}", history.operations);
        if let Err(Failure::NotLinearizable(refutation)) = verdict {
            assert_explains(&refutation, &history);
        }
        found[usize::from(expected)] += 1;
    }
    assert!(found.iter().all(|count| *count > 1_000), "{found:?}");
}

const MANY_KEYS: Load = Load {
    keys: 10_000,
    processes: 256,
    operations: 500_000,
    mix: [5, 4, 0, 1],
    pending: 2,
    values: 0,
};

const ONE_KEY: Load = Load {
    keys: 1,
    processes: 256,
    operations: 300_000,
    mix: [5, 5, 0, 0],
    pending: 0,
    values: 0,
};

fn assert_judged(load: Load, seed: u64) -> NotLinearizable {
    let mut history = correct(load, seed);
    let summary = check(&history, Bound::default()).unwrap();
    assert_eq!(summary.operations, load.operations);
    assert_eq!(summary.keys as u64, load.keys);
    corrupt(&mut history);
    let refutation = refutation(&history);
    assert_eq!(refutation.violating.call, Call::Get);
    refutation
}

#[test]
fn many_operations_on_many_keys() {
    assert!(assert_judged(MANY_KEYS, 1).evidence.len() < 10);
}

#[test]
fn many_concurrent_operations_on_one_key() {
    assert!(assert_judged(ONE_KEY, 2).evidence.len() < 10);
}

#[test]
fn many_pending_operations_on_one_key() {
    let load = Load {
        operations: 50_000,
        pending: 5,
        ..ONE_KEY
    };
    assert!(assert_judged(load, 3).evidence.len() < 10);
}

#[test]
fn deletes_and_failing_cas() {
    for seed in 0..5 {
        let load = Load {
            processes: 16,
            operations: 10_000,
            mix: [3, 3, 2, 2],
            pending: 5,
            ..ONE_KEY
        };
        assert!(assert_judged(load, seed).evidence.len() < 20);
    }
}

#[test]
fn few_values_written_again_and_again() {
    let load = Load {
        processes: 8,
        operations: 10_000,
        mix: [3, 3, 2, 2],
        values: 5,
        ..ONE_KEY
    };
    assert!(check(&correct(load, 1), Bound::default()).is_ok());
}

#[test]
fn what_exceeds_the_bound_is_undecided_unless_another_key_decides() {
    let load = Load {
        processes: 64,
        operations: 5_000,
        mix: [3, 3, 2, 2],
        pending: 5,
        values: 5,
        ..ONE_KEY
    };
    let bound = Bound { configurations: 0 };
    let mut history = correct(load, 7);
    let Err(failure) = check(&history, bound) else {
        panic!("an easy history");
    };
    assert!(failure.to_string().starts_with("undecided"), "{failure}");
    let mut read = parse("0 1 get nothing");
    read.key = "z".into();
    history.operations.push(read);
    let failure = check(&history, bound).unwrap_err();
    assert!(failure.to_string().contains("\"z\""), "{failure}");
}
