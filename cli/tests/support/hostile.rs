//! What the programs have in common that use the service, and those that are hostile to it.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use quorate::{Client, ClientConfig};
use quorate_kv::Command;
use tokio::runtime::Runtime;

use crate::support::{Cluster, until};

/// Writes that must be acknowledged during each attack.
const PROGRESS: u64 = 20;

/// How long each attack lasts at least, and how long is measured before it.
const DURING: Duration = Duration::from_secs(2);

/// Writes over and over, one after the other.
pub(crate) struct Writer {
    acknowledged: Arc<AtomicU64>,
}

impl Writer {
    pub(crate) fn start(runtime: &Runtime, config: &ClientConfig) -> Writer {
        let client = quorate::connect(config).unwrap();
        let acknowledged = Arc::new(AtomicU64::new(0));
        runtime.spawn(write(client, acknowledged.clone()));
        Writer { acknowledged }
    }

    fn count(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }

    /// Waits for so many writes more, and gives how many there were in a second.
    fn rate(&self, what: &str, least: u64, during: Duration) -> f64 {
        let (start, before) = (Instant::now(), self.count());
        until(&format!("writes while {what}"), || {
            let enough = self.count() >= before + least && start.elapsed() >= during;
            enough.then_some(())
        });
        (self.count() - before) as f64 / start.elapsed().as_secs_f64()
    }
}

async fn write(client: Client, acknowledged: Arc<AtomicU64>) {
    for number in 0u64.. {
        let command = Command::Put {
            key: format!("key-{}", number % 16).into(),
            value: number.to_string().into(),
        };
        if client.propose(command.encode()).await.is_ok() {
            acknowledged.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Lets a hostile program run while a correct client writes, and shows how well it does. Asserted
/// is that it goes on, during the attack and after, and that the replicas that run need no more
/// than `most` bytes.
pub(crate) fn withstands<F: Future<Output = ()> + Send + 'static>(
    (cluster, runtime, writer): (&Cluster, &Runtime, &Writer),
    (what, most): (&str, u64),
    attack: impl FnOnce(Arc<AtomicBool>) -> F,
) {
    let before = writer.rate("nothing happens", PROGRESS, DURING);
    let stop = Arc::new(AtomicBool::new(false));
    let attacking = runtime.spawn(attack(stop.clone()));
    let during = writer.rate(what, PROGRESS, DURING);
    stop.store(true, Ordering::Relaxed);
    until("the end of the attack", || {
        attacking.is_finished().then_some(())
    });
    runtime.block_on(attacking).unwrap();
    writer.rate("nothing happens any more", PROGRESS, Duration::ZERO);
    let memory = (0..cluster.size())
        .filter_map(|number| cluster.memory(number))
        .max();
    let share = during / before;
    let megabytes = memory.unwrap_or(0) >> 20;
    println!("{what}: {before:.0}/s before, {during:.0}/s during ({share:.2}), {megabytes} MiB");
    assert!(memory.unwrap_or(0) <= most, "{what}: {megabytes} MiB");
}
