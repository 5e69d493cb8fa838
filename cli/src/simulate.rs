//! `quorate simulate`: worlds that follow from a seed, checked after every step.

use std::any::Any;
use std::fs;
use std::io::IsTerminal as _;
use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::{collections::BTreeMap, fmt::Write as _, thread};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use indicatif::ProgressBar;
use quorate::ProtocolKind;
use quorate_core::protocol::{FaultModel, Protocol};
use quorate_simulator::{
    Excerpt, Faults, Report, Scenario, SimulationConfig, Summary, sequence_diagram,
};

use crate::failure::Ending;
use crate::{arguments, output};

/// Arguments of `quorate simulate`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The protocol
    #[arg(long, value_name = "P", default_value = ProtocolKind::ALL[0].name(), value_parser = arguments::protocol())]
    protocol: ProtocolKind,

    /// Replicas of the cluster; by default enough to survive one failure
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=64))]
    replicas: Option<u8>,

    /// The seed; with --seeds, the first one
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,

    /// How many seeds to run, one after the other from the first
    #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    seeds: u64,

    /// Which faults strike
    #[arg(long, default_value = "all", value_parser = arguments::one_of::<Faults>(&FAULTS))]
    faults: Faults,

    /// How many of a hundred operations are on a key that all clients share, the others being on
    /// keys of their own; by default all are on three keys that all share
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u32).range(..=100))]
    conflicts: Option<u32>,

    /// Write every event of a single seed's run to a file, or to standard output for `-`
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,

    /// Write the beginning of a single seed's run, or a scenario, as a Mermaid sequence diagram
    #[arg(long, value_name = "FILE")]
    diagram: Option<PathBuf>,

    /// Draw this scripted run instead
    #[arg(long, value_name = "NAME", requires = "diagram", conflicts_with_all = ["seeds", "trace"],
          value_parser = arguments::one_of::<Scenario>(&SCENARIOS))]
    scenario: Option<Scenario>,

    /// The most arrows of a diagram
    #[arg(long, value_name = "N", default_value_t = 60)]
    arrows: usize,

    /// Print only seeds that fail, and the sum
    #[arg(short, long)]
    quiet: bool,
}

const FAULTS: [&str; 5] = ["none", "network", "crash", "byzantine", "all"];

const SCENARIOS: [&str; 5] = [
    "normal-commit",
    "election",
    "leader-crash",
    "partition-and-heal",
    "snapshot-fetch",
];

/// What became of a seed: nothing, if its world panicked.
type Outcome = (u64, Option<Report>);

/// Runs the worlds.
pub(crate) fn run(arguments: &Arguments) -> Result<Ending> {
    match arguments.protocol {
        ProtocolKind::Raft => {
            simulate::<quorate_raft::Raft>(arguments, quorate_raft::Config::cramped())
        }
        ProtocolKind::MultiPaxos => {
            let config = quorate_multipaxos::Config::cramped();
            simulate::<quorate_multipaxos::MultiPaxos>(arguments, config)
        }
        ProtocolKind::Pbft => {
            simulate::<quorate_pbft::Pbft>(arguments, quorate_pbft::Config::cramped())
        }
        other => bail!("{other} cannot be simulated"),
    }
}

fn simulate<P>(arguments: &Arguments, protocol: P::Config) -> Result<Ending>
where
    P: Protocol,
    P::Config: Sync,
{
    let replicas = match (arguments.replicas, P::FAULTS) {
        (Some(replicas), _) => usize::from(replicas),
        (None, FaultModel::Crash) => 3,
        (None, FaultModel::Byzantine) => 4,
    };
    if arguments.faults == Faults::Byzantine && P::FAULTS == FaultModel::Crash {
        bail!(
            "{} survives replicas that stop, and not replicas that lie: choose other faults than byzantine",
            P::NAME
        );
    }
    let mut config = SimulationConfig::<P>::new(replicas, protocol);
    config.faults = arguments.faults;
    config.conflicts = arguments.conflicts;
    config.record = arguments.trace.is_some() || arguments.diagram.is_some();
    if config.record && arguments.seeds != 1 {
        bail!("--trace and --diagram are of a single seed: leave out --seeds");
    }
    if let (Some(scenario), Some(path)) = (arguments.scenario, &arguments.diagram) {
        write(
            path,
            &scenario.diagram(arguments.seed, &config, arguments.arrows)?,
        )?;
        return Ok(Ending::Done);
    }
    let mut sum = Sum::default();
    all(arguments, &config, |(seed, report)| {
        sum.add(seed, report.as_ref(), arguments, replicas)?;
        match report {
            Some(report) => record(arguments, &report),
            None => Ok(()),
        }
    })?;
    sum.print()?;
    Ok(match sum.failed {
        0 => Ending::Done,
        _ => Ending::Failed,
    })
}

/// Runs all seeds on all cores, and gives their outcomes in the order of the seeds.
fn all<P>(
    arguments: &Arguments,
    config: &SimulationConfig<P>,
    take: impl FnMut(Outcome) -> Result<()>,
) -> Result<()>
where
    P: Protocol,
    P::Config: Sync,
{
    let Arguments { seed, seeds, .. } = *arguments;
    let last = seed.checked_add(seeds - 1);
    let last = last.context("there are not so many seeds after the first")?;
    let cores = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let workers = cores.min(usize::try_from(seeds).unwrap_or(cores));
    let next = AtomicU64::new(0);
    let work = |outcomes: Sender<Outcome>| {
        loop {
            let offset = next.fetch_add(1, Ordering::Relaxed);
            if offset > last - seed {
                return;
            }
            let world = || quorate_simulator::simulate(seed + offset, config);
            let report = catch_unwind(AssertUnwindSafe(world)).inspect_err(said).ok();
            // Nobody listens any more if an outcome could not be written.
            if outcomes.send((seed + offset, report)).is_err() {
                return;
            }
        }
    };
    let bar = (seeds > 1 && std::io::stderr().is_terminal()).then(|| ProgressBar::new(seeds));
    thread::scope(|scope| {
        let (sender, outcomes) = mpsc::channel();
        for _ in 0..workers {
            let (sender, work) = (sender.clone(), &work);
            scope.spawn(move || work(sender));
        }
        drop(sender);
        in_order(seed, outcomes, bar.as_ref(), take)
    })
}

/// Takes the outcomes in the order of their seeds, of which this is the first.
fn in_order(
    first: u64,
    outcomes: Receiver<Outcome>,
    bar: Option<&ProgressBar>,
    mut take: impl FnMut(Outcome) -> Result<()>,
) -> Result<()> {
    let mut early = BTreeMap::new();
    let mut next = first;
    for (seed, report) in outcomes {
        early.insert(seed, report);
        while let Some(report) = early.remove(&next) {
            match bar {
                Some(bar) => bar.suspend(|| take((next, report))),
                None => take((next, report)),
            }?;
            next = next.saturating_add(1);
        }
        if let Some(bar) = bar {
            bar.inc(1);
        }
    }
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    Ok(())
}

/// The panic itself has been printed where it happened.
fn said(_panic: &Box<dyn Any + Send>) {
    tracing::debug!("a world has panicked");
}

/// Trace and diagram, as far as they are wanted.
fn record(arguments: &Arguments, report: &Report) -> Result<()> {
    if let Some(path) = &arguments.trace {
        let mut text = String::new();
        for line in &report.trace {
            writeln!(text, "{line}")?;
        }
        write(path, &text)?;
    }
    if let Some(path) = &arguments.diagram {
        let excerpt = Excerpt {
            arrows: arguments.arrows,
            ..Excerpt::default()
        };
        write(path, &sequence_diagram(&report.trace, &excerpt))?;
    }
    Ok(())
}

fn write(path: &Path, text: &str) -> Result<()> {
    if path == Path::new("-") {
        return output::raw(text.as_bytes());
    }
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// What became of all seeds.
#[derive(Default)]
struct Sum {
    seeds: u64,
    failed: u64,
    total: Summary,
}

impl Sum {
    fn add(
        &mut self,
        seed: u64,
        report: Option<&Report>,
        arguments: &Arguments,
        replicas: usize,
    ) -> Result<()> {
        self.seeds += 1;
        let Some(report) = report else {
            self.failed += 1;
            let conflicts = match arguments.conflicts {
                Some(percent) => format!(" --conflicts {percent}"),
                None => String::new(),
            };
            return output::line(format_args!(
                "seed {seed}  FAILED: the world panicked\nreplay: quorate simulate --protocol {} --replicas {replicas} --seed {seed} --faults {}{conflicts}",
                arguments.protocol, arguments.faults
            ));
        };
        let (hash, summary) = (report.trace_hash, &report.summary);
        self.total.add(summary);
        match &report.failure {
            Some(failure) => {
                self.failed += 1;
                output::line(format_args!(
                    "seed {seed}  trace {hash:016x}  FAILED  {summary}\n{failure}"
                ))
            }
            None if arguments.quiet => Ok(()),
            None => output::line(format_args!(
                "seed {seed}  trace {hash:016x}  ok  {summary}"
            )),
        }
    }

    fn print(&self) -> Result<()> {
        let Sum {
            seeds,
            failed,
            total,
        } = self;
        match seeds {
            1 => Ok(()),
            _ => output::line(format_args!("{seeds} seeds, {failed} failed: {total}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_name_all_scenarios() {
        assert_eq!(
            SCENARIOS,
            Scenario::ALL.map(|scenario| scenario.to_string())
        );
    }
}
