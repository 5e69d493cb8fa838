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
    Excerpt, Faults, Hardships, Report, Scenario, SimulationConfig, Summary, sequence_diagram,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::failure::Ending;
use crate::init::FEWEST_WITH_A_LIAR;
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

    /// Which hardships are met besides: none, all (but rollbacks), or some of lost, cuts, hubs, mute, hangs, full,
    /// limits, clocks and rollbacks, separated by commas
    #[arg(long, value_name = "KINDS", default_value = "none")]
    hardships: Hardships,

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

    /// Kinds of messages to leave out of a diagram, separated by commas
    #[arg(
        long,
        value_name = "KINDS",
        value_delimiter = ',',
        requires = "diagram"
    )]
    without: Vec<String>,

    /// Draw this scripted run instead
    #[arg(long, value_name = "NAME", requires = "diagram", conflicts_with_all = ["seeds", "trace"],
          value_parser = arguments::one_of::<Scenario>(&SCENARIOS))]
    scenario: Option<Scenario>,

    /// Draw it with an option of the protocol, as in a node's configuration, set to this
    #[arg(long = "set", value_name = "OPTION=VALUE", requires = "scenario", value_parser = arguments::option)]
    options: Vec<(String, toml::Value)>,

    /// The most arrows of a diagram
    #[arg(long, value_name = "N", default_value_t = 60)]
    arrows: usize,

    /// Print only seeds that fail, and the sum
    #[arg(short, long)]
    quiet: bool,
}

const FAULTS: [&str; 5] = ["none", "network", "crash", "byzantine", "all"];

const SCENARIOS: [&str; 7] = [
    "normal-commit",
    "election",
    "leader-crash",
    "partition-and-heal",
    "snapshot-fetch",
    "conflict",
    "coordinator-crash",
];

/// What became of a seed: nothing, if its world panicked.
type Outcome = (u64, Option<Report>);

/// Runs the worlds.
pub(crate) fn run(arguments: &Arguments) -> Result<Ending> {
    let Arguments { protocol, .. } = *arguments;
    match protocol {
        ProtocolKind::Raft => {
            let config = quorate_raft::Config::cramped();
            simulate::<quorate_raft::Raft>(arguments, config, &Scenario::ELECTING)
        }
        ProtocolKind::MultiPaxos => {
            let config = quorate_multipaxos::Config::cramped();
            simulate::<quorate_multipaxos::MultiPaxos>(arguments, config, &Scenario::ELECTING)
        }
        ProtocolKind::Pbft => {
            let config = quorate_pbft::Config::cramped();
            simulate::<quorate_pbft::Pbft>(arguments, config, &Scenario::ELECTING)
        }
        ProtocolKind::EPaxos => {
            let config = quorate_epaxos::Config::cramped();
            simulate::<quorate_epaxos::EPaxos>(arguments, config, &Scenario::LEADERLESS)
        }
        ProtocolKind::HotStuff => {
            let config = quorate_hotstuff::Config::cramped();
            simulate::<quorate_hotstuff::Hotstuff>(arguments, config, &Scenario::ROTATING)
        }
        other => bail!("{other} cannot be simulated"),
    }
}

fn simulate<P>(arguments: &Arguments, protocol: P::Config, scenarios: &[Scenario]) -> Result<Ending>
where
    P: Protocol,
    P::Config: Serialize + DeserializeOwned + Sync,
{
    let replicas = arguments.replicas(P::NAME, P::FAULTS)?;
    let protocol = tuned(protocol, &arguments.options)?;
    let mut config = SimulationConfig::<P>::new(replicas, protocol);
    config.faults = arguments.faults;
    config.hardships = arguments.hardships;
    config.conflicts = arguments.conflicts;
    config.record = arguments.trace.is_some() || arguments.diagram.is_some();
    if config.record && arguments.seeds != 1 {
        bail!("--trace and --diagram are of a single seed: leave out --seeds");
    }
    if let (Some(scenario), Some(path)) = (arguments.scenario, &arguments.diagram) {
        if !scenarios.contains(&scenario) {
            let has: Vec<String> = scenarios.iter().map(Scenario::to_string).collect();
            let has = has.join(", ");
            bail!("{} has no scenario {scenario}: it has {has}", P::NAME);
        }
        let drawn = scenario.draw(arguments.seed, &config, &arguments.excerpt())?;
        write(path, &drawn)?;
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

impl Arguments {
    /// How many replicas there are, if the faults that are to strike can strike a cluster of so
    /// many that survives it.
    fn replicas(&self, name: &str, survives: FaultModel) -> Result<usize> {
        let replicas = match (self.replicas, survives) {
            (Some(replicas), _) => usize::from(replicas),
            (None, FaultModel::Crash) => 3,
            (None, FaultModel::Byzantine) => usize::from(FEWEST_WITH_A_LIAR),
        };
        match (self.faults, survives) {
            (Faults::Byzantine, FaultModel::Crash) => bail!(
                "{name} survives replicas that stop, and not replicas that lie: choose other faults than byzantine"
            ),
            (Faults::Byzantine, FaultModel::Byzantine) if survives.tolerated(replicas) == 0 => {
                bail!(
                    "{replicas} replicas of {name} survive none that lies: --faults byzantine takes at least {FEWEST_WITH_A_LIAR} replicas"
                )
            }
            _ => Ok(replicas),
        }
    }

    /// What of a run is drawn.
    fn excerpt(&self) -> Excerpt {
        Excerpt {
            arrows: self.arrows,
            without: self.without.clone(),
            ..Excerpt::default()
        }
    }
}

/// The protocol's configuration with these options set.
fn tuned<C>(config: C, options: &[(String, toml::Value)]) -> Result<C>
where
    C: Serialize + DeserializeOwned,
{
    let mut table = toml::Table::try_from(config).context("--set cannot be applied")?;
    table.extend(options.iter().cloned());
    table.try_into().context("--set")
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
        write(path, &sequence_diagram(&report.trace, &arguments.excerpt()))?;
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
            let hardships = match arguments.hardships {
                Hardships::NONE => String::new(),
                some => format!(" --hardships {some}"),
            };
            return output::line(format_args!(
                "seed {seed}  FAILED: the world panicked\nreplay: quorate simulate --protocol {} --replicas {replicas} --seed {seed} --faults {}{hardships}{conflicts}",
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
