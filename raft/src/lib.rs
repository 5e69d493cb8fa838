//! Raft, as a deterministic state machine: a [`Protocol`] of Quorate.
//!
//! Sources: Diego Ongaro and John Ousterhout, *In Search of an Understandable Consensus
//! Algorithm (Extended Version)*, 2014, cited as `[Ongaro14 §...]`; Diego Ongaro, *Consensus:
//! Bridging Theory and Practice*, dissertation, Stanford 2014, cited as `[OngaroThesis §...]`.
//!
//! | room | what is in it | source |
//! |---|---|---|
//! | `message.rs` | what replicas tell each other, and which of it is a promise | Ongaro14 figure 2 |
//! | `record.rs` | what must survive a crash | Ongaro14 figure 2, persistent state |
//! | `recover.rs` | a replica after a restart | OngaroThesis §3.8 |
//! | `replica.rs` | the state, and `step` | Ongaro14 §5.1, figure 2 |
//! | `election.rs` | campaigns and votes, and asking first | Ongaro14 §5.2, §5.4.1; OngaroThesis §9.6 |
//! | `tenure.rs` | how long a leader leads | OngaroThesis §3.10, §6.2 |
//! | `normal.rs` | proposals, replication, commit | Ongaro14 §5.3, §5.4.2 |
//! | `progress.rs` | what a leader knows of each peer | Ongaro14 figure 2; OngaroThesis §10.2 |
//! | `log.rs` | entries and positions | Ongaro14 §5.3 |
//! | `read.rs` | reads that do not go through the log | Ongaro14 §8; OngaroThesis §6.4 |
//! | `checkpoint.rs` | snapshots and compaction | Ongaro14 §7 |
//! | `invariants.rs` | what [`Protocol::check`] verifies | Ongaro14 figure 3 |
//! | `config.rs` | time-outs and limits | Ongaro14 §9.3 |
//! | `mutant.rs` | rules that only tests switch off | |

mod checkpoint;
mod config;
mod election;
mod invariants;
mod log;
mod message;
mod mutant;
mod normal;
mod progress;
mod read;
mod record;
mod recover;
mod replica;
mod tenure;

use quorate_core::epoch::Setting;
use quorate_core::id::Time;
use quorate_core::output::Output;
use quorate_core::protocol::{
    self, Context, FaultModel, Input, Order, Protocol, RecoverError, Recovered, SnapshotRef,
    Status, Violation,
};

pub use config::Config;
pub use log::{Entry, Position, Term};
pub use message::{AppendEntries, Message};
pub use mutant::Mutant;
pub use record::Record;
pub use replica::{Raft, Timer};

impl Protocol for Raft {
    type Config = Config;
    type Message = Message;
    type Record = Record;
    type Timer = Timer;

    const NAME: &'static str = "raft";
    const FAULTS: FaultModel = FaultModel::Crash;
    const ORDER: Order = Order::Total;

    fn agreed_settings(config: &Config, _: usize) -> Vec<Setting> {
        config.agreed()
    }

    fn recover(
        context: Context,
        config: Config,
        past: Recovered<Record>,
    ) -> Result<Self, RecoverError> {
        Raft::recovered(&context, config, past).map_err(|reason| RecoverError {
            protocol: Self::NAME,
            reason,
        })
    }

    fn step(&mut self, now: Time, input: Input<Self>, out: &mut Output<Self>) {
        self.dispatch(now, input, out);
    }

    fn status(&self) -> Status {
        Status {
            protocol: Self::NAME.into(),
            me: self.me,
            role: match self.role {
                replica::Role::Follower(_) => protocol::Role::Follower,
                replica::Role::PreCandidate(_) | replica::Role::Candidate(_) => {
                    protocol::Role::Candidate
                }
                replica::Role::Leader(_) => protocol::Role::Leader,
            },
            regime: self.term.0,
            leader: self.leader(),
            committed: self.commit.0,
        }
    }

    fn accepts(&self, snapshot: &SnapshotRef) -> bool {
        checkpoint::is_acceptable(snapshot)
    }

    fn check(&self) -> Result<(), Violation> {
        self.check_invariants()
    }
}
