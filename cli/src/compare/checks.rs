//! Whether what the clients were told is true.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use quorate::{Client, ClientOptions, LocalCluster, ReplicaId};
use quorate_core::crypto::Digest;
use quorate_simulator::history::History;
use quorate_simulator::linearizability::{self, Bound};
use tokio::task::JoinSet;

use super::measure::Run;
use super::recording::{self, Done, End, Recording, Seen, What};
use super::workload::{ValueId, key_name};

/// How many reads are under way at once through each replica.
const READERS: usize = 64;

/// How often a read is tried before the check fails.
const TRIES: usize = 3;

/// How long replicas may take to have executed the same.
const DIGEST_LIMIT: Duration = Duration::from_secs(30);

/// How many keys are named when many are wrong.
const NAMED: usize = 5;

/// The outcome of one check: what is wrong, if anything.
pub(crate) type Check = Result<(), String>;

/// What was read after the load.
#[derive(Debug, Default)]
struct ReadBack {
    recordings: Vec<Recording>,
    unread: Vec<String>,
}

/// Reads every key that was written through every replica, and adds these reads to the
/// recordings. What was acknowledged must be there.
pub(crate) async fn read_back(
    cluster: &LocalCluster,
    run: Run,
    recordings: &mut Vec<Recording>,
) -> Result<Check> {
    let keys = written(recordings);
    let run = Arc::new(run);
    let mut readers = JoinSet::new();
    for replica in ReplicaId::all(cluster.nodes().len()) {
        let client = cluster.client(ClientOptions {
            first: Some(replica),
            follow_leader: false,
            fail_over: false,
            ..ClientOptions::default()
        })?;
        for reader in 0..READERS {
            let (run, client) = (run.clone(), client.clone());
            let keys: Vec<u32> = keys.iter().skip(reader).step_by(READERS).copied().collect();
            readers.spawn(async move {
                let (recording, unread) = read(&run, &client, &keys).await;
                (
                    recording,
                    unread.map(|unread| format!("through {replica}: {unread}")),
                )
            });
        }
    }
    let mut back = ReadBack::default();
    while let Some(ended) = readers.join_next().await {
        let (recording, unread) = ended.context("a reader has panicked")?;
        back.recordings.push(recording);
        back.unread.extend(unread);
    }
    let check = match back.unread.is_empty() {
        true => judge(recordings, &back.recordings),
        false => Err(list("keys cannot be read", &back.unread)),
    };
    recordings.append(&mut back.recordings);
    Ok(check)
}

/// Reads these keys, one after the other, until one cannot be read: then also says so.
async fn read(run: &Run, client: &Client, keys: &[u32]) -> (Recording, Option<String>) {
    let mut recording = Recording::with_capacity(keys.len());
    for key in keys {
        let mut failure = None;
        for _ in 0..TRIES {
            let (done, reason) = run.get(client, *key).await;
            recording.push(done);
            failure = reason;
            if failure.is_none() {
                break;
            }
        }
        if let Some(reason) = failure {
            return (recording, Some(format!("{}: {reason}", key_name(*key))));
        }
    }
    (recording, None)
}

/// The keys with a write that may have happened, in order.
fn written(recordings: &[Recording]) -> Vec<u32> {
    let puts = recordings
        .iter()
        .flatten()
        .filter(|done| matches!(done.what, What::Put(_)) && done.end != End::Fail);
    let mut keys: Vec<u32> = puts.map(|done| done.key).collect();
    keys.sort_unstable();
    keys.dedup();
    keys
}

/// Whether each read gives a write to its key that no acknowledged write to the key came wholly
/// after.
fn judge(recordings: &[Recording], reads: &[Recording]) -> Check {
    let mut seen: HashMap<ValueId, Option<Done>> = HashMap::new();
    for read in reads.iter().flatten() {
        if let What::Get(Seen::Value(value)) = read.what {
            seen.insert(value, None);
        }
    }
    // When the last acknowledged write of each key was asked for.
    let mut last: HashMap<u32, u64> = HashMap::new();
    for done in recordings.iter().flatten() {
        let What::Put(value) = done.what else {
            continue;
        };
        if done.end == End::Ok {
            let last = last.entry(done.key).or_default();
            *last = done.invoke.max(*last);
        }
        if let Some(write) = seen.get_mut(&value) {
            *write = Some(*done);
        }
    }
    let answered = reads.iter().flatten().filter(|read| read.end == End::Ok);
    let wrong: Vec<String> = answered
        .filter_map(|read| {
            let write = match read.what {
                What::Get(Seen::Value(value)) => seen.get(&value).copied().flatten(),
                _ => None,
            };
            let reason = reason(read, write, last.get(&read.key).copied())?;
            Some(format!("{} {reason}", key_name(read.key)))
        })
        .collect();
    match wrong.is_empty() {
        true => Ok(()),
        false => Err(list("reads after the load are wrong", &wrong)),
    }
}

/// What is wrong with a read that gave the value of `write`, when the last acknowledged write of
/// the key was asked for at `last`.
fn reason(read: &Done, write: Option<Done>, last: Option<u64>) -> Option<String> {
    match (read.what, write) {
        (What::Get(Seen::Absent), _) => {
            last.map(|_| String::from("is absent, though a write was acknowledged"))
        }
        (What::Get(Seen::Foreign), _) => Some(String::from("holds a value that nobody wrote")),
        (_, None) => Some(String::from("holds a value of no write in this run")),
        (_, Some(write)) if write.key != read.key => {
            Some(format!("holds a value written to {}", key_name(write.key)))
        }
        (_, Some(write)) if write.end == End::Fail => {
            Some(String::from("holds a value whose write did not happen"))
        }
        (_, Some(write)) if write.end == End::Ok && last > Some(write.returned) => {
            Some(String::from("has lost a later, acknowledged write"))
        }
        _ => None,
    }
}

fn list(what: &str, items: &[String]) -> String {
    let some = items.iter().take(NAMED).cloned().collect::<Vec<_>>();
    let more = match items.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!("; and {more} more"),
    };
    format!("{} {what}: {}{more}", items.len(), some.join("; "))
}

/// Waits until all replicas have executed the same, and compares their states.
pub(crate) async fn equal_digests(cluster: &LocalCluster) -> Check {
    let deadline = Instant::now() + DIGEST_LIMIT;
    loop {
        let mut digests: Vec<(u64, Digest)> = Vec::new();
        for (number, node) in cluster.nodes().iter().enumerate() {
            let digest = node.digest().await;
            digests.push(digest.map_err(|error| format!("replica {number}: {error}"))?);
        }
        let first = digests.first().copied();
        let all_executed = digests
            .iter()
            .all(|(executed, _)| Some(*executed) == first.map(|first| first.0));
        if all_executed {
            return match digests.iter().all(|digest| Some(*digest) == first) {
                true => Ok(()),
                false => Err(format!("states differ: {}", shown(&digests))),
            };
        }
        if Instant::now() >= deadline {
            let limit = DIGEST_LIMIT.as_secs();
            let shown = shown(&digests);
            return Err(format!(
                "replicas have not executed the same after {limit} s: {shown}"
            ));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn shown(digests: &[(u64, Digest)]) -> String {
    let each = digests.iter().enumerate().map(|(number, digest)| {
        format!("replica {number} executed {} and is {}", digest.0, digest.1)
    });
    each.collect::<Vec<_>>().join(", ")
}

/// In how many parts a history is checked: keys are independent, and a part is all that is held
/// as a full history at a time by a thread.
const PARTS: u32 = 32;

/// Whether the history of each key could have come from one copy of the data.
pub(crate) fn linearizable(recordings: &[Recording]) -> Check {
    let threads = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let next = AtomicU32::new(0);
    let part = |part: u32| {
        let operations = recording::operations(recordings, |key| key % PARTS == part);
        let history = History {
            operations: operations.collect(),
        };
        linearizability::check(&history, Bound::default())
    };
    let work = || -> Check {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= PARTS {
                return Ok(());
            }
            part(number).map_err(|failure| failure.to_string())?;
        }
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        let crashed = |_| Err(String::from("the checker has panicked"));
        let joined = workers.into_iter().map(thread::ScopedJoinHandle::join);
        joined
            .map(|outcome| outcome.unwrap_or_else(crashed))
            .fold(Ok(()), Check::and)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: ValueId = ValueId::new(0, 0);
    const SECOND: ValueId = ValueId::new(0, 1);

    fn done(invoke: u64, key: u32, what: What, end: End) -> Done {
        Done {
            invoke,
            returned: invoke + 10,
            key,
            what,
            end,
        }
    }

    fn verdict(second: End, seen: Seen) -> Check {
        let writes = vec![
            done(0, 1, What::Put(FIRST), End::Ok),
            done(20, 1, What::Put(SECOND), second),
            done(20, 2, What::Put(ValueId::new(9, 9)), End::Ok),
        ];
        judge(&[writes], &[vec![done(100, 1, What::Get(seen), End::Ok)]])
    }

    #[test]
    fn the_last_acknowledged_write_must_be_read() {
        assert_eq!(verdict(End::Ok, Seen::Value(SECOND)), Ok(()));
        let lost = verdict(End::Ok, Seen::Value(FIRST)).unwrap_err();
        assert!(lost.contains("key-0000001 has lost a later"), "{lost}");
        let absent = verdict(End::Ok, Seen::Absent).unwrap_err();
        assert!(absent.contains("is absent"), "{absent}");
    }

    #[test]
    fn a_write_of_unknown_outcome_may_be_read_or_not() {
        assert_eq!(verdict(End::Unknown, Seen::Value(SECOND)), Ok(()));
        assert_eq!(verdict(End::Unknown, Seen::Value(FIRST)), Ok(()));
        assert!(verdict(End::Fail, Seen::Value(SECOND)).is_err());
    }

    #[test]
    fn a_value_from_nowhere_is_wrong() {
        assert!(verdict(End::Ok, Seen::Foreign).is_err());
        assert!(verdict(End::Ok, Seen::Value(ValueId::new(8, 8))).is_err());
        assert!(verdict(End::Ok, Seen::Value(ValueId::new(9, 9))).is_err());
    }

    #[test]
    fn a_stale_read_is_not_linearizable() {
        let history = |seen| {
            [vec![
                done(0, 1, What::Put(FIRST), End::Ok),
                done(20, 1, What::Put(SECOND), End::Ok),
                done(40, 1, What::Get(Seen::Value(seen)), End::Ok),
            ]]
        };
        assert_eq!(linearizable(&history(SECOND)), Ok(()));
        let stale = linearizable(&history(FIRST)).unwrap_err();
        assert!(stale.contains("not linearizable"), "{stale}");
    }
}
