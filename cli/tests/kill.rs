//! Three processes under load; again and again the leader is killed and restarted.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use quorate::{Client, ClientConfig, ReadLevel, ReplicaId};
use quorate_kv::{Answer, Command, Query};
use quorate_simulator::history::{self, Call, History, Operation, Outcome};
use quorate_simulator::linearizability::{self, Bound};
use support::{Cluster, until};

/// How often the leader is killed; the environment variable `QUORATE_KILL_ROUNDS` says otherwise.
const ROUNDS: usize = 3;

const CLIENTS: u64 = 8;

const KEYS: u64 = 20;

/// Writes that must be acknowledged before the leader is killed, and again after.
const PROGRESS: u64 = 100;

/// What the clients share.
struct Load {
    origin: Instant,
    stop: AtomicBool,
    acknowledged: AtomicU64,
}

impl Load {
    fn now(&self) -> u64 {
        self.origin.elapsed().as_nanos() as u64
    }

    fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }

    /// Does one operation, and gives what is known of it.
    async fn operate(&self, client: &Client, process: u64, key: String, call: Call) -> Operation {
        let bytes = key.clone().into();
        let value = |text: &String| text.clone().into();
        let invoke = self.now();
        let result = match &call {
            Call::Get => {
                let query = Query::Get { key: bytes };
                let answer = client.read(query.encode(), ReadLevel::Linearizable).await;
                // A read without an answer has changed nothing.
                answer.map_err(|_| false)
            }
            Call::Put { value: text } => {
                let value = value(text);
                let command = Command::Put { key: bytes, value };
                let answer = client.propose(command.encode()).await;
                answer.map_err(|error| error.may_have_happened())
            }
            Call::Cas {
                expected,
                value: to,
            } => {
                let command = Command::Cas {
                    key: bytes,
                    expected: expected.as_ref().map(value),
                    value: value(to),
                };
                let answer = client.propose(command.encode()).await;
                answer.map_err(|error| error.may_have_happened())
            }
            Call::Delete => unreachable!("nothing is deleted"),
        };
        let returned = self.now();
        let outcome = match result {
            Ok(bytes) => Outcome::Ok {
                returned,
                answer: understood(&Answer::decode(&bytes).unwrap()),
            },
            Err(true) => Outcome::Info,
            Err(false) => Outcome::Fail {
                returned: Some(returned),
            },
        };
        Operation {
            process,
            key,
            call,
            invoke,
            outcome,
        }
    }

    /// One client: it reads, writes, and swaps what it last saw, on keys in turn.
    async fn drive(self: Arc<Self>, client: Client, number: u64) -> Vec<Operation> {
        let (mut operations, mut process) = (Vec::new(), number);
        let mut seen: Option<String> = None;
        for turn in 0.. {
            if self.stop.load(Ordering::Relaxed) {
                break;
            }
            let key = format!("key-{}", (turn / 3 * CLIENTS + number * 7) % KEYS);
            let value = format!("{number}-{turn}");
            let call = match turn % 3 {
                0 => Call::Get,
                1 => Call::Cas {
                    expected: seen.take(),
                    value,
                },
                _ => Call::Put { value },
            };
            let operation = self.operate(&client, process, key, call).await;
            match &operation.outcome {
                Outcome::Ok { answer, .. } => {
                    if let history::Answer::Value(value) = answer {
                        seen = value.clone();
                    }
                    if operation.call != Call::Get {
                        self.acknowledged.fetch_add(1, Ordering::Relaxed);
                    }
                }
                // The operation may be under way still, so another process goes on.
                Outcome::Info => process += CLIENTS,
                Outcome::Fail { .. } => {}
            }
            operations.push(operation);
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        operations
    }

    /// Reads every key through every replica.
    async fn read_all(&self, config: &ClientConfig, first: u64) -> Vec<Operation> {
        let mut operations = Vec::new();
        for replica in ReplicaId::all(config.replicas.len()) {
            let mut config = config.clone();
            config.options.first = Some(replica);
            config.options.follow_leader = false;
            config.options.fail_over = false;
            config.options.timeout = support::PATIENCE;
            let client = quorate::connect(&config).unwrap();
            for number in 0..KEYS {
                let process = first + u64::from(replica.0);
                let key = format!("key-{number}");
                let read = self.operate(&client, process, key, Call::Get).await;
                let answered = matches!(read.outcome, Outcome::Ok { .. });
                assert!(answered, "{replica} does not answer: {read}");
                operations.push(read);
            }
        }
        operations
    }
}

fn understood(answer: &Answer) -> history::Answer {
    match answer {
        Answer::Put { .. } => history::Answer::Value(None),
        Answer::Cas { swapped, .. } => history::Answer::Flag(*swapped),
        Answer::Get { found } => {
            let text = found.as_ref().map(|(value, _)| value.to_vec());
            history::Answer::Value(text.map(|text| String::from_utf8(text).unwrap()))
        }
        other => panic!("unexpected answer {other:?}"),
    }
}

fn rounds() -> usize {
    let asked = std::env::var("QUORATE_KILL_ROUNDS").ok();
    asked.map_or(ROUNDS, |rounds| rounds.parse().unwrap())
}

#[test]
fn killing_the_leader_again_and_again_loses_nothing() {
    let mut cluster = Cluster::start(3);
    let config = ClientConfig::load(cluster.path("client.toml")).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let _inside = runtime.enter();
    let load = Arc::new(Load {
        origin: Instant::now(),
        stop: AtomicBool::new(false),
        acknowledged: AtomicU64::new(0),
    });
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let client = quorate::connect(&config).unwrap();
            runtime.spawn(load.clone().drive(client, number))
        })
        .collect();
    let progress = |what: &str| {
        let enough = load.acknowledged() + PROGRESS;
        until(what, || (load.acknowledged() >= enough).then_some(()));
    };

    for round in 1..=rounds() {
        progress("writes before the kill");
        let leader = cluster.leader();
        cluster.kill(leader);
        progress(&format!("writes after kill {round}"));
        cluster.start_node(leader);
        until("the restarted replica", || {
            (cluster.status()[leader]["reachable"] == true).then_some(())
        });
    }
    progress("writes at the end");
    load.stop.store(true, Ordering::Relaxed);

    let mut operations = Vec::new();
    for client in clients {
        operations.extend(runtime.block_on(client).unwrap());
    }
    let last = operations.iter().map(|operation| operation.process).max();
    let reads = runtime.block_on(load.read_all(&config, last.unwrap() + 1));
    operations.extend(reads);
    let history = History { operations };
    let summary = linearizability::check(&history, Bound::default());
    let summary = summary.unwrap_or_else(|failure| panic!("{failure}"));
    assert!(summary.operations as u64 > load.acknowledged());
    let digests = cluster.digests();
    assert!(
        digests.iter().all(|digest| *digest == digests[0]),
        "{digests:?}"
    );
}

/// How long a client with defaults has no answer when the leader dies, ten times. To be read, on a
/// machine that does nothing else: `QUORATE_PROTOCOL=raft cargo test --release --test kill -- --ignored --nocapture`
#[test]
#[ignore = "a measurement"]
fn the_first_answer_after_the_leaders_death() {
    let protocol = std::env::var("QUORATE_PROTOCOL").unwrap_or_else(|_| String::from("raft"));
    let mut cluster = Cluster::init_of(&protocol, 3);
    (0..3).for_each(|number| cluster.start_node(number));
    let config = ClientConfig::load(cluster.path("client.toml")).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let _inside = runtime.enter();
    let client = quorate::connect(&config).unwrap();
    let put = |number: u32| {
        let (key, value) = ("key".into(), number.to_string().into());
        let command = Command::Put { key, value };
        let begun = Instant::now();
        runtime.block_on(client.propose(command.encode())).unwrap();
        begun.elapsed().as_millis()
    };
    let write_some = || {
        (0..200).for_each(|number| {
            put(number);
        });
    };
    let mut waits: Vec<u128> = Vec::new();
    for round in 0..10 {
        write_some();
        // Where nobody leads, each in turn.
        let killed = match protocol.as_str() {
            "epaxos" => round % 3,
            _ => cluster.leader(),
        };
        write_some();
        cluster.kill(killed);
        waits.push(put(round as u32));
        cluster.start_node(killed);
        until("the restarted replica", || {
            (cluster.status()[killed]["reachable"] == true).then_some(())
        });
    }
    println!("{protocol}: {waits:?} ms");
    waits.sort_unstable();
    println!("{protocol}: median {} ms", waits[waits.len() / 2]);
}
