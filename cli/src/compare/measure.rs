//! Drives a cluster with clients, and measures a window of that.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use quorate::{Client, ClientOptions, LocalCluster, LocalNode, ReadLevel, ReplicaId};
use quorate_core::ledger::Ledger;
use quorate_core::protocol::Role;
use quorate_kv::{Answer, Command, Query};
use tokio::task::JoinSet;

use super::progress::Progress;
use super::recording::{Done, End, Recording, Seen, What};
use super::workload::{Next, Placement, Script, ValueId, Workload, key_name};

/// How long a cluster may take to have a leader.
const LEADER_LIMIT: Duration = Duration::from_secs(30);

/// How long a client waits after its operation was refused.
const REFUSED: Duration = Duration::from_millis(20);

/// For how many operations a second there is room from the start; for more, memory grows.
const EXPECTED_PER_SECOND: f64 = 50_000.0;

/// How long to drive, and from when to count.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times {
    /// Not counted.
    pub(crate) warm_up: Duration,
    /// Counted.
    pub(crate) duration: Duration,
}

/// What the replicas spent in the measured window.
#[derive(Debug)]
pub(crate) struct Cost {
    /// Commands executed, whatever became of the answers.
    pub(crate) commands: u64,
    /// By all replicas together.
    pub(crate) total: Ledger,
    /// Syncs of the leader, if the same one led all the time.
    pub(crate) leader_syncs: Option<u64>,
}

/// A part of the measured window, in which all clients had the same rate of conflicts.
#[derive(Debug)]
pub(crate) struct Phase {
    /// In nanoseconds since the run began; it begins where the one before it ends.
    pub(crate) window: Range<u64>,
    /// What each replica spent.
    pub(crate) spent: Vec<Ledger>,
}

/// What came out.
#[derive(Debug)]
pub(crate) struct Measured {
    /// What each client did, warm-up included.
    pub(crate) recordings: Vec<Recording>,
    /// The measured window, in nanoseconds since the run began.
    pub(crate) window: Range<u64>,
    /// Its phases, at least one.
    pub(crate) phases: Vec<Phase>,
    /// What it cost.
    pub(crate) cost: Cost,
    /// The clock of the recordings.
    pub(crate) origin: Instant,
}

/// What all clients of a run share.
#[derive(Debug)]
pub(crate) struct Run {
    origin: Instant,
    names: Vec<Bytes>,
    value_size: usize,
    /// The number of the phase that clients are in.
    phase: AtomicUsize,
    stop: AtomicBool,
    answered: AtomicU64,
}

impl Run {
    /// A run of `workload` whose clock started at `origin`.
    pub(crate) fn new(workload: &Workload, origin: Instant) -> Self {
        Run {
            origin,
            names: (0..workload.keys).map(|key| key_name(key).into()).collect(),
            value_size: workload.value_size as usize,
            phase: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
            answered: AtomicU64::new(0),
        }
    }

    fn now(&self) -> u64 {
        self.origin.elapsed().as_nanos() as u64
    }

    fn name(&self, key: u32) -> Bytes {
        self.names.get(key as usize).cloned().unwrap_or_default()
    }

    /// Writes `value`.
    async fn put(&self, client: &Client, key: u32, value: ValueId) -> Done {
        let command = Command::Put {
            key: self.name(key),
            value: value.value(self.value_size),
        };
        let command = command.encode();
        let invoke = self.now();
        let result = client.propose(command).await;
        let returned = self.now();
        let end = match result.map(|bytes| Answer::decode(&bytes)) {
            Ok(Ok(Answer::Put { .. })) => End::Ok,
            // What the store refuses it has not done; any other answer tells nothing.
            Ok(Ok(Answer::Refused(_))) => End::Fail,
            Ok(_) => End::Unknown,
            Err(error) if error.may_have_happened() => End::Unknown,
            Err(_) => End::Fail,
        };
        Done {
            invoke,
            returned,
            key,
            what: What::Put(value),
            end,
        }
    }

    /// Reads the key; the reason, if there was no answer.
    pub(crate) async fn get(&self, client: &Client, key: u32) -> (Done, Option<String>) {
        let query = Query::Get {
            key: self.name(key),
        };
        let query = query.encode();
        let invoke = self.now();
        let result = client.read(query, ReadLevel::Linearizable).await;
        let returned = self.now();
        let (seen, end, reason) = match result {
            Ok(bytes) => (self.seen(&bytes), End::Ok, None),
            Err(error) => (Seen::Absent, End::Fail, Some(error.to_string())),
        };
        let done = Done {
            invoke,
            returned,
            key,
            what: What::Get(seen),
            end,
        };
        (done, reason)
    }

    fn seen(&self, answer: &[u8]) -> Seen {
        match Answer::decode(answer) {
            Ok(Answer::Get { found: None }) => Seen::Absent,
            Ok(Answer::Get {
                found: Some((value, _)),
            }) => ValueId::recognise(&value, self.value_size).map_or(Seen::Foreign, Seen::Value),
            _ => Seen::Foreign,
        }
    }
}

/// One client: an operation, its answer, the next operation, until told to stop.
async fn drive(run: Arc<Run>, client: Client, mut script: Script, room: usize) -> Recording {
    let mut recording = Recording::with_capacity(room);
    while !run.stop.load(Ordering::Relaxed) {
        let phase = run.phase.load(Ordering::Relaxed);
        let done = match script.next(phase) {
            Next::Put { key, value } => run.put(&client, key, value).await,
            Next::Get { key } => run.get(&client, key).await.0,
        };
        recording.push(done);
        match done.end {
            End::Ok => {
                run.answered.fetch_add(1, Ordering::Relaxed);
            }
            End::Fail | End::Unknown => tokio::time::sleep(REFUSED).await,
        }
    }
    recording
}

/// Waits until the cluster serves, and gives its leader if the protocol has one.
pub(crate) async fn leader(cluster: &LocalCluster) -> Result<Option<ReplicaId>> {
    let deadline = Instant::now() + LEADER_LIMIT;
    loop {
        for node in cluster.nodes() {
            let status = node.status();
            match status.role {
                Role::Leader => return Ok(Some(status.me)),
                Role::Peer => return Ok(None),
                Role::Follower | Role::Candidate => {}
            }
        }
        if Instant::now() >= deadline {
            bail!(
                "no replica became leader within {} s",
                LEADER_LIMIT.as_secs()
            );
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Runs `workload` against `cluster`, which `leader` leads.
pub(crate) async fn measure(
    cluster: &LocalCluster,
    leader: Option<ReplicaId>,
    workload: &Workload,
    times: Times,
    progress: &Progress,
) -> Result<Measured> {
    let origin = Instant::now();
    let run = Arc::new(Run::new(workload, origin));
    let seconds = (times.warm_up + times.duration).as_secs_f64();
    let room = EXPECTED_PER_SECOND * seconds / f64::from(workload.clients);
    let connections = connections(cluster, leader, workload)?;
    let mut clients = JoinSet::new();
    for number in 0..workload.clients {
        let connection = number as usize % connections.len();
        let Some(client) = connections.get(connection).cloned() else {
            continue;
        };
        let script = workload.script(number)?;
        let task = drive(run.clone(), client, script, room as usize);
        clients.spawn(async move { (number, task.await) });
    }
    progress.phase("warming up");
    let end = tokio::time::Instant::now() + times.warm_up;
    watch(&run, end, "warming up", progress).await;
    let led_before = regime(cluster.nodes());
    let phases = phases(cluster, &run, workload, times.duration, progress).await?;
    let led_after = regime(cluster.nodes());
    run.stop.store(true, Ordering::Relaxed);

    let mut recordings = vec![Recording::new(); workload.clients as usize];
    while let Some(ended) = clients.join_next().await {
        let (number, recording) = ended.context("a client has panicked")?;
        if let Some(slot) = recordings.get_mut(number as usize) {
            *slot = recording;
        }
    }
    let steady = led_before.filter(|led| led_after == Some(*led));
    let begin = phases.first().map_or(0, |phase| phase.window.start);
    let end = phases.last().map_or(begin, |phase| phase.window.end);
    Ok(Measured {
        recordings,
        window: begin..end,
        cost: cost(&phases, steady.map(|(_, leader)| leader)),
        phases,
        origin,
    })
}

/// Lets `duration` pass, in equal phases, of which there is one if the workload tells none.
async fn phases(
    cluster: &LocalCluster,
    run: &Run,
    workload: &Workload,
    duration: Duration,
    progress: &Progress,
) -> Result<Vec<Phase>> {
    let count = workload.conflicts.len().max(1);
    let mut phases = Vec::with_capacity(count);
    let mut before = spent(cluster).await?;
    let start = tokio::time::Instant::now();
    let mut begin = run.now();
    for number in 0..count {
        let what = match workload.conflicts.get(number) {
            Some(rate) => format!("measuring, conflicts {rate} %"),
            None => String::from("measuring"),
        };
        progress.phase(&what);
        // Counted from the start: what reading the ledgers takes does not add up.
        let until = start + duration.mul_f64((number + 1) as f64 / count as f64);
        watch(run, until, &what, progress).await;
        let end = run.now();
        if number + 1 < count {
            run.phase.store(number + 1, Ordering::Relaxed);
        }
        let after = spent(cluster).await?;
        let spent = before.iter().zip(&after);
        phases.push(Phase {
            window: begin..end,
            spent: spent.map(|(before, after)| after.since(before)).collect(),
        });
        (before, begin) = (after, end);
    }
    Ok(phases)
}

/// The clients' connections, placed as `workload` says.
fn connections(
    cluster: &LocalCluster,
    leader: Option<ReplicaId>,
    workload: &Workload,
) -> Result<Vec<Client>> {
    let n = cluster.nodes().len();
    let connection = |number: u32| {
        let own = ReplicaId((number as usize % n) as u8);
        let options = match workload.placement {
            Placement::Leader => ClientOptions {
                first: Some(leader.unwrap_or(own)),
                ..ClientOptions::default()
            },
            Placement::Spread => ClientOptions {
                first: Some(own),
                follow_leader: false,
                ..ClientOptions::default()
            },
        };
        Ok(cluster.client(options)?)
    };
    (0..workload.connections()).map(connection).collect()
}

/// Lets the time until `end` pass, and shows it.
async fn watch(run: &Run, end: tokio::time::Instant, what: &str, progress: &Progress) {
    let begin = tokio::time::Instant::now();
    let total = end.saturating_duration_since(begin);
    let mut steps = tokio::time::interval(Duration::from_millis(250));
    let answered = run.answered.load(Ordering::Relaxed);
    loop {
        let elapsed = begin.elapsed();
        let count = run.answered.load(Ordering::Relaxed) - answered;
        let rate = count as f64 / elapsed.as_secs_f64().max(0.001);
        let text = format!("{what}: {rate:.0} operations/s");
        progress.passed(elapsed, total, &text);
        tokio::select! {
            () = tokio::time::sleep_until(end) => return,
            _ = steps.tick() => {}
        }
    }
}

async fn spent(cluster: &LocalCluster) -> Result<Vec<Ledger>> {
    let mut ledgers = Vec::with_capacity(cluster.nodes().len());
    for (number, node) in cluster.nodes().iter().enumerate() {
        let ledger = node.ledger().await;
        ledgers.push(ledger.with_context(|| format!("replica {number}"))?);
    }
    Ok(ledgers)
}

/// The highest regime that has a leader, and the leader.
fn regime(nodes: &[LocalNode]) -> Option<(u64, ReplicaId)> {
    let led = nodes.iter().map(|node| node.status());
    let led = led.filter(|status| status.role == Role::Leader);
    led.map(|status| (status.regime, status.me)).max()
}

fn cost(phases: &[Phase], leader: Option<ReplicaId>) -> Cost {
    let mut each: Vec<Ledger> = Vec::new();
    for phase in phases {
        each.resize_with(phase.spent.len(), Ledger::default);
        let sums = each.iter_mut().zip(&phase.spent);
        sums.for_each(|(sum, spent)| sum.add(spent));
    }
    let mut total = Ledger::default();
    each.iter().for_each(|ledger| total.add(ledger));
    let leading = leader.and_then(|leader| each.get(leader.index()));
    Cost {
        commands: each
            .iter()
            .map(|ledger| ledger.requests)
            .max()
            .unwrap_or_default(),
        total,
        leader_syncs: leading.map(|ledger| ledger.syncs),
    }
}
