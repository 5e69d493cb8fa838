//! What a simulation found.

use std::fmt;
use std::iter::Sum;

use quorate_core::id::ReplicaId;

use crate::conditions::MILLISECOND;
use crate::history::Operation;
use crate::plan::Plan;
use crate::trace::Line;

/// The rules that a world is held to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// The protocol's own invariants, and the driver's: a replica halts rather than break one.
    Invariant,
    /// A regime has one leader.
    OneLeader,
    /// All replicas execute the same entries in the same order, also after a restart.
    Agreement,
    /// What was acknowledged is in every replica's state at the end.
    Durability,
    /// No command is applied twice.
    ExactlyOnce,
    /// Replicas that have executed the same have the same state.
    EqualState,
    /// What clients saw could have been seen of one copy.
    Linearizability,
    /// After the faults have stopped, the cluster serves again.
    Liveness,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Rule::Invariant => "invariant",
            Rule::OneLeader => "one leader a regime",
            Rule::Agreement => "agreement",
            Rule::Durability => "durability",
            Rule::ExactlyOnce => "exactly once",
            Rule::EqualState => "equal state",
            Rule::Linearizability => "linearizability",
            Rule::Liveness => "liveness",
        })
    }
}

/// A rule that did not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// The rule.
    pub rule: Rule,
    /// When that was seen, in nanoseconds of virtual time.
    pub at: u64,
    /// What was seen.
    pub detail: String,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.at as f64 / MILLISECOND as f64;
        write!(
            f,
            "{} violated at {millis:.3} ms: {}",
            self.rule, self.detail
        )
    }
}

/// A failed simulation.
#[derive(Clone, Debug)]
pub struct Failure {
    /// What did not hold, in the run of the seed.
    pub broken: Broken,
    /// The command that runs the seed again.
    pub replay: String,
    /// Few faults under which the same rule is still broken.
    pub shrunk: Plan,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.broken)?;
        match self.shrunk.faults.len() {
            0 if self.shrunk.liars.is_empty() => writeln!(f, "it takes no fault to see it")?,
            count => write!(f, "{count} faults are enough to see it:\n{}", self.shrunk)?,
        }
        write!(f, "replay: {}", self.replay)
    }
}

/// What happened in a world, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Operations of clients that were answered.
    pub ok: u64,
    /// Operations that certainly did not happen.
    pub failed: u64,
    /// Operations of which the client does not know whether they happened.
    pub unknown: u64,
    /// Entries of the order, no-ops included.
    pub entries: u64,
    /// Times a replica tried to become leader.
    pub campaigns: u64,
    /// Leaders that were known of, each in its regime.
    pub leaders: u64,
    /// Crashes, failures of disks included.
    pub crashes: u64,
    /// Crashes that found work not yet durable.
    pub crashes_with_loss: u64,
    /// Crashes after which part of that work was found on disk all the same.
    pub torn_crashes: u64,
    /// Disks that failed while work waited for them.
    pub disk_failures: u64,
    /// Pauses.
    pub pauses: u64,
    /// Cuts of links: replicas isolated and clusters split.
    pub partitions: u64,
    /// Replicas that went down and never came back.
    pub lost: u64,
    /// Links cut for good, each in one direction.
    pub links_cut: u64,
    /// Requests for a snapshot that were taken, and not answered, or not soon.
    pub fetches_unanswered: u64,
    /// Syncs that hung, and then went on or were for nothing.
    pub syncs_hung: u64,
    /// Disks that were full for a while.
    pub disks_full: u64,
    /// Wall clocks that were wrong.
    pub wrong_clocks: u64,
    /// Disks that were put back to older copies.
    pub rollbacks: u64,
    /// Replicas that were refused because of it.
    pub refused: u64,
    /// Snapshots that replicas took of their own state.
    pub snapshots_taken: u64,
    /// Snapshots fetched from peers and installed.
    pub snapshots_installed: u64,
    /// Restarts from a snapshot.
    pub snapshots_recovered: u64,
    /// Messages sent between replicas.
    pub messages: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Frames lost.
    pub frames_lost: u64,
    /// Frames delivered a second time.
    pub frames_repeated: u64,
    /// Syncs of records.
    pub syncs: u64,
    /// What lying replicas said otherwise than honest ones would have.
    pub lies: u64,
    /// Events of the world.
    pub events: u64,
    /// How long it lasted, in nanoseconds of virtual time.
    pub virtual_time: u64,
}

impl Summary {
    /// Adds what happened in another world.
    pub fn add(&mut self, other: &Summary) {
        let pairs = [
            (&mut self.ok, other.ok),
            (&mut self.failed, other.failed),
            (&mut self.unknown, other.unknown),
            (&mut self.entries, other.entries),
            (&mut self.campaigns, other.campaigns),
            (&mut self.leaders, other.leaders),
            (&mut self.crashes, other.crashes),
            (&mut self.crashes_with_loss, other.crashes_with_loss),
            (&mut self.torn_crashes, other.torn_crashes),
            (&mut self.disk_failures, other.disk_failures),
            (&mut self.pauses, other.pauses),
            (&mut self.partitions, other.partitions),
            (&mut self.lost, other.lost),
            (&mut self.links_cut, other.links_cut),
            (&mut self.fetches_unanswered, other.fetches_unanswered),
            (&mut self.syncs_hung, other.syncs_hung),
            (&mut self.disks_full, other.disks_full),
            (&mut self.wrong_clocks, other.wrong_clocks),
            (&mut self.rollbacks, other.rollbacks),
            (&mut self.refused, other.refused),
            (&mut self.snapshots_taken, other.snapshots_taken),
            (&mut self.snapshots_installed, other.snapshots_installed),
            (&mut self.snapshots_recovered, other.snapshots_recovered),
            (&mut self.messages, other.messages),
            (&mut self.bytes, other.bytes),
            (&mut self.frames_lost, other.frames_lost),
            (&mut self.frames_repeated, other.frames_repeated),
            (&mut self.syncs, other.syncs),
            (&mut self.lies, other.lies),
            (&mut self.events, other.events),
            (&mut self.virtual_time, other.virtual_time),
        ];
        for (mine, theirs) in pairs {
            *mine += theirs;
        }
    }
}

impl Sum for Summary {
    fn sum<I: Iterator<Item = Summary>>(summaries: I) -> Summary {
        summaries.fold(Summary::default(), |mut sum, summary| {
            sum.add(&summary);
            sum
        })
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "operations {} ok, {} failed, {} unknown; entries {}; campaigns {}, leaders {}; \
             crashes {} ({} with loss, {} torn); pauses {}; partitions {}; for good {} lost, {} \
             links cut; {} fetches unanswered, {} syncs hung, {} disks full, {} clocks wrong, {} rolled back ({} refused); snapshots {} taken, \
             {} installed, {} recovered from; messages {} ({} B), {} frames lost; lies {}; {:.3} s",
            self.ok,
            self.failed,
            self.unknown,
            self.entries,
            self.campaigns,
            self.leaders,
            self.crashes,
            self.crashes_with_loss,
            self.torn_crashes,
            self.pauses,
            self.partitions,
            self.lost,
            self.links_cut,
            self.fetches_unanswered,
            self.syncs_hung,
            self.disks_full,
            self.wrong_clocks,
            self.rollbacks,
            self.refused,
            self.snapshots_taken,
            self.snapshots_installed,
            self.snapshots_recovered,
            self.messages,
            self.bytes,
            self.frames_lost,
            self.lies,
            self.virtual_time as f64 / 1e9,
        )
    }
}

/// What became of a seed.
#[derive(Clone, Debug)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// Equal for equal runs, and hardly ever for different ones.
    pub trace_hash: u64,
    /// What happened.
    pub summary: Summary,
    /// What did not hold, if anything.
    pub failure: Option<Failure>,
    /// What clients did and saw.
    pub history: Vec<Operation>,
    /// Every event, if that was asked for.
    pub trace: Vec<Line>,
}

/// Something a check found, before it is known when.
pub(crate) type Finding = (Rule, String);

/// What two replicas hold differently.
pub(crate) fn disagreement(at: ReplicaId, with: &str, what: impl fmt::Display) -> Finding {
    (Rule::Agreement, format!("{at} executed {what}, {with}"))
}
