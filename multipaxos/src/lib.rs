//! Multi-Paxos, as a deterministic state machine: a [`Protocol`] of Quorate.
//!
//! Sources: Leslie Lamport, *Paxos Made Simple*, 2001, cited as `[Lamport01 §...]`, and *The
//! Part-Time Parliament*, 1998, `[Lamport98 §...]`; Robbert van Renesse and Deniz Altinbuken,
//! *Paxos Made Moderately Complex*, 2015, `[vanRenesse15 §...]`; Heidi Howard, Dahlia Malkhi and
//! Alexander Spiegelman, *Flexible Paxos*, 2016, `[Howard16 §...]`; Tushar Chandra, Robert
//! Griesemer and Joshua Redstone, *Paxos Made Live*, 2007, `[Chandra07 §...]`; Aleksey Charapko,
//! Ailidani Ailijiang and Murat Demirbas, *Linearizable Quorum Reads in Paxos*, 2019,
//! `[Charapko19]`; Diego Ongaro, *Consensus: Bridging Theory and Practice*, 2014,
//! `[OngaroThesis §...]`, for what Raft's elections taught about stale candidates.
//!
//! The rooms are those of `raft`, so that the two can be read side by side.
//!
//! | room | what is in it | source |
//! |---|---|---|
//! | `message.rs` | what replicas tell each other, and which of it is a promise | Lamport01 §2.2, §3 |
//! | `record.rs` | what must survive a crash | Lamport01 §2.5 |
//! | `recover.rs` | a replica after a restart | Lamport01 §2.5 |
//! | `replica.rs` | the state, and `step` | vanRenesse15 §2 |
//! | `election.rs` | phase 1, once for all slots, and who begins it | Lamport01 §3; vanRenesse15 §3 |
//! | `told.rs` | of which slots an acceptor has told a candidate | Lamport01 §3 |
//! | `prevote.rs` | whether a campaign could be won | OngaroThesis §9.6 |
//! | `proposing.rs` | requests, and the slots they get | Lamport01 §3; vanRenesse15 §2 |
//! | `normal.rs` | phase 2, what is chosen | Lamport01 §2.2, §3; vanRenesse15 §2 |
//! | `progress.rs` | what a leader knows of each slot and each peer | vanRenesse15 §2 commanders |
//! | `queue.rs` | requests that wait for a slot | vanRenesse15 §2 |
//! | `log.rs` | ballots, and what was accepted in each slot | Lamport01 §3; vanRenesse15 §2 |
//! | `read.rs` | reads that do not go through the log | Chandra07 §5.2; Charapko19 |
//! | `checkpoint.rs` | catching up, snapshots and compaction | Chandra07 §5.5; vanRenesse15 §4 |
//! | `invariants.rs` | what [`Protocol::check`] verifies | Lamport01 §2.2 |
//! | `config.rs` | time-outs and limits, quorums, and how to read | Howard16 §3 |
//! | `mutant.rs` | rules that only tests switch off | |

mod checkpoint;
mod config;
mod election;
mod invariants;
mod log;
mod message;
mod mutant;
mod normal;
mod prevote;
mod progress;
mod proposing;
mod queue;
mod read;
mod record;
mod recover;
mod replica;
mod told;

use quorate_core::epoch::Setting;
use quorate_core::id::Time;
use quorate_core::output::Output;
use quorate_core::protocol::{
    self, Context, FaultModel, Input, Order, Protocol, RecoverError, Recovered, SnapshotRef,
    Status, Violation,
};

pub use config::{Config, QuorumRule, ReadMode};
pub use log::{Ballot, Proposal, Report};
pub use message::{Accept, Acceptance, Message, Prepare, Promise};
pub use mutant::Mutant;
pub use progress::Slots;
pub use record::Record;
pub use replica::{MultiPaxos, Timer};

impl Protocol for MultiPaxos {
    type Config = Config;
    type Message = Message;
    type Record = Record;
    type Timer = Timer;

    const NAME: &'static str = "multipaxos";
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
        MultiPaxos::recovered(&context, config, past).map_err(|reason| RecoverError {
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
                replica::Role::Candidate(_) => protocol::Role::Candidate,
                replica::Role::Leader(_) => protocol::Role::Leader,
            },
            regime: self.ballot().number(),
            leader: self.leader(),
            committed: self.executed.0,
        }
    }

    fn accepts(&self, snapshot: &SnapshotRef) -> bool {
        checkpoint::is_acceptable(snapshot)
    }

    fn check(&self) -> Result<(), Violation> {
        self.check_invariants()
    }
}
