//! EPaxos, as a deterministic state machine: a [`Protocol`] of Quorate. The corrected one.
//!
//! Sources: Fedor Ryabinin, Alexey Gotsman and Pierre Sutra, *Making Democracy Work: Fixing and
//! Simplifying Egalitarian Paxos*, OPODIS 2025, cited as `[Ryabinin25]`: EPaxos\*, which is
//! what is built here; Iulian Moraru, David Andersen and Michael Kaminsky, *There Is More
//! Consensus in Egalitarian Parliaments*, SOSP 2013, `[Moraru13 §...]`, the original; Pierre Sutra,
//! *On the Correctness of Egalitarian Paxos*, 2019, `[Sutra19]`, which found what was wrong with
//! it.
//!
//! The rooms have the names of those of `raft` where there is the same thing, so that the protocols
//! can be read side by side. There is no `election.rs`, `log.rs` or `read.rs`: nobody leads, what is
//! agreed on is a graph, and reads are ordered like commands.
//!
//! | room | what is in it | source |
//! |---|---|---|
//! | `message.rs` | what replicas tell each other, and which of it is a promise | Ryabinin25 |
//! | `record.rs` | what must survive a crash | Ryabinin25 |
//! | `recover.rs` | a replica after a restart | |
//! | `replica.rs` | the state, and `step` | Ryabinin25 |
//! | `normal.rs` | PreAccept, Accept, Commit | Ryabinin25 |
//! | `thrifty.rs` | who is asked, and how a decision is told | Moraru13 |
//! | `recovery.rs` | Recover, Validate | Ryabinin25 |
//! | `waiting.rs` | a recovery that waits for others | Ryabinin25 |
//! | `instances.rs` | ballots, commands, what is kept of each instance | Ryabinin25 |
//! | [`dependencies`] | sets of instances | |
//! | [`footprint`] | what a command touches: keys as marks of 64 bits | |
//! | [`conflicts`] | which known commands a new one conflicts with | Ryabinin25 |
//! | [`graph`] | what may be executed, and in which order | Moraru13 §4.3.2 |
//! | `execute.rs` | handing it over | Ryabinin25 |
//! | `checkpoint.rs` | how far all have come, snapshots, trimming | |
//! | `watch.rs` | when to look at which instance again | |
//! | `invariants.rs` | what [`Protocol::check`] verifies | Ryabinin25 |
//! | `config.rs` | time-outs and limits, sizes of quorums | Ryabinin25 |
//! | `mutant.rs` | rules that only tests switch off | |

pub mod conflicts;
pub mod dependencies;
pub mod footprint;
pub mod graph;

mod checkpoint;
mod config;
mod execute;
mod instances;
mod invariants;
mod message;
mod mutant;
mod normal;
mod proposing;
mod record;
mod recover;
mod recovery;
mod replica;
mod thrifty;
mod waiting;
mod watch;

use quorate_core::epoch::Setting;
use quorate_core::frontier::Frontier;
use quorate_core::id::{EntryId, ReplicaId, Time};
use quorate_core::output::Output;
use quorate_core::protocol::{
    Context, FaultModel, Input, Order, Protocol, RecoverError, Recovered, Role, SnapshotRef,
    Status, Violation,
};

use dependencies::Dependencies;
use instances::lane_of;

pub use config::Config;
pub use instances::{Ballot, Command, Decision, Phase, Value};
pub use message::{Blocker, Message, Progress, Report};
pub use mutant::Mutant;
pub use record::Record;
pub use replica::{EPaxos, Timer};

impl Protocol for EPaxos {
    type Config = Config;
    type Message = Message;
    type Record = Record;
    type Timer = Timer;

    const NAME: &'static str = "epaxos";
    const FAULTS: FaultModel = FaultModel::Crash;
    const ORDER: Order = Order::PerKey;

    fn agreed_settings(config: &Config, n: usize) -> Vec<Setting> {
        config.agreed(n)
    }

    fn recover(
        context: Context,
        config: Config,
        past: Recovered<Record>,
    ) -> Result<Self, RecoverError> {
        EPaxos::recovered(&context, config, past).map_err(|reason| RecoverError {
            protocol: Self::NAME,
            reason,
        })
    }

    fn step(&mut self, now: Time, input: Input<Self>, out: &mut Output<Self>) {
        self.dispatch(now, input, out);
    }

    fn status(&self) -> Status {
        let lanes = ReplicaId::all(self.sizes.n).map(lane_of);
        let committed = lanes.map(|lane| self.instances.committed().through(lane).0);
        Status {
            protocol: Self::NAME.into(),
            me: self.me,
            role: Role::Peer,
            regime: 0,
            leader: None,
            committed: committed.fold(0, u64::saturating_add),
        }
    }

    fn accepts(&self, snapshot: &SnapshotRef) -> bool {
        self.is_acceptable(snapshot)
    }

    fn check(&self) -> Result<(), Violation> {
        self.check_invariants()
    }
}

/// What a replica knows of an instance, for those who look at it from outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// The instance.
    pub id: EntryId,
    /// The ballot joined.
    pub bal: Ballot,
    /// The ballot accepted in.
    pub abal: Ballot,
    /// How far it has come.
    pub phase: Phase,
    /// The coordinator's command, if known; also of what is decided as Nop.
    pub command: Option<Command>,
    /// Whether it was accepted or decided as Nop.
    pub nop: bool,
    /// Its dependencies.
    pub dependencies: Dependencies,
    /// The coordinator's, if known and still of use.
    pub initial: Option<Dependencies>,
}

impl EPaxos {
    /// What this replica knows of `id`, if it knows of it and has not trimmed it.
    pub fn instance(&self, id: EntryId) -> Option<View> {
        self.instances.known(id).map(|instance| View {
            id,
            bal: instance.bal,
            abal: instance.abal,
            phase: instance.phase,
            command: instance.command.clone(),
            nop: instance.nop,
            dependencies: instance.dep.clone(),
            initial: instance.init_dep.clone(),
        })
    }

    /// What this replica knows of all instances that it has not trimmed.
    pub fn instances(&self) -> impl Iterator<Item = View> {
        let ids = self.instances.iter().map(|(id, _)| id);
        ids.filter_map(|id| self.instance(id))
    }

    /// Through which slots instances are trimmed.
    pub fn trimmed(&self) -> &Frontier {
        self.instances.trimmed()
    }

    /// Through which slots everything is named in each answer.
    pub fn floor(&self) -> &Frontier {
        &self.floor
    }

    /// All that is known committed here.
    pub fn committed(&self) -> &Frontier {
        self.instances.committed()
    }

    /// How many instances are committed and wait to be executed.
    pub fn pending(&self) -> usize {
        self.graph.pending()
    }
}
