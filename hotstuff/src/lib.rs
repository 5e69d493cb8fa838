//! HotStuff, as a deterministic state machine: a [`Protocol`] of Quorate.
//!
//! Sources: Maofan Yin, Dahlia Malkhi, Michael K. Reiter, Guy Golan Gueta, Ittai Abraham,
//! *HotStuff: BFT Consensus with Linearity and Responsiveness*, PODC 2019, cited as `[Yin19 §...]`;
//! Rati Gelashvili and others, *Jolteon and Ditto: Network-Adaptive Efficient Consensus with
//! Asynchronous Fallback*, 2021, cited as `[Gelashvili21 §...]`. Who leads is after the Diem team,
//! *DiemBFT v4*, 2021, and Shir Cohen and others, *Be Aware of Your Leaders*, FC 2022, cited as
//! `[Diem21]` and `[Cohen22]`.
//!
//! | room | what is in it | source |
//! |---|---|---|
//! | `message.rs` | what replicas tell each other, and which of it is a promise | Yin19 §4, §5 |
//! | `certificate.rs` | what is relayed as proof: votes, quorum and time-out certificates, checkpoints | Yin19 §4.2, Gelashvili21 §4 |
//! | `rules.rs` | when to vote, lock and commit: three-chain and two-chain | Yin19 §5, Gelashvili21 §4 |
//! | `record.rs` | what must survive a crash | Yin19 §4 |
//! | `recover.rs` | a replica after a restart | Yin19 §4 |
//! | `replica.rs` | the state, and `step` | Yin19 §5 |
//! | `normal.rs` | requests, proposals, votes, certificates, commits | Yin19 §5 |
//! | `pacemaker.rs` | from one view to the next | Yin19 §4.4, Gelashvili21 §4 |
//! | `blocks.rs` | views, blocks, and the tree that they make | Yin19 §4.1 |
//! | `mempool.rs` | the requests that wait to be committed | |
//! | `standing.rs` | who leads: in turn, but for those that have not delivered | Diem21, Cohen22 |
//! | `sync.rs` | fetching blocks, and statuses | |
//! | `checkpoint.rs` | checkpoints, state transfer | Castro99 §4.3 |
//! | `evidence.rs` | who has signed what contradicts itself | |
//! | `read.rs` | reads that reach the protocol go through the log | |
//! | `invariants.rs` | what [`Protocol::check`] verifies | Yin19 §4.6 |
//! | `config.rs` | time-outs and limits, rules and leaders | |
//! | `mutant.rs` | rules that only tests switch off | |

mod blocks;
mod certificate;
mod checkpoint;
mod config;
mod evidence;
mod invariants;
mod mempool;
mod message;
mod mutant;
mod normal;
mod pacemaker;
mod read;
mod record;
mod recover;
mod replica;
mod rules;
mod standing;
mod sync;

use quorate_core::epoch::Setting;
use quorate_core::id::Time;
use quorate_core::output::Output;
use quorate_core::protocol::{
    self, Context, FaultModel, Input, Order, Protocol, RecoverError, Recovered, SnapshotRef,
    Violation,
};

pub use blocks::{Block, BlockId, View};
pub use certificate::{
    CheckpointCertificate, CheckpointVote, QuorumCertificate, TimeoutCertificate, TimeoutShare,
    Vote,
};
pub use config::{Config, Leaders};
pub use evidence::{Equivocation, Statement};
pub use message::{Message, Proposal, Status, Timeout};
pub use mutant::Mutant;
pub use record::Record;
pub use replica::{Hotstuff, Timer};
pub use rules::{Chain, RuleSet, Rules, ThreeChain, TwoChain};
pub use standing::Standing;

impl Protocol for Hotstuff {
    type Config = Config;
    type Message = Message;
    type Record = Record;
    type Timer = Timer;

    const NAME: &'static str = "hotstuff";
    const FAULTS: FaultModel = FaultModel::Byzantine;
    const ORDER: Order = Order::Total;
    /// A block takes all that its leader's mempool has: requests gather there, and need not gather
    /// before they are told.
    const BATCHES_IN_FLIGHT: Option<usize> = Some(64);

    fn agreed_settings(config: &Config, _: usize) -> Vec<Setting> {
        config.agreed()
    }

    fn recover(
        context: Context,
        config: Config,
        past: Recovered<Record>,
    ) -> Result<Self, RecoverError> {
        Hotstuff::recovered(&context, config, past).map_err(|reason| RecoverError {
            protocol: Self::NAME,
            reason,
        })
    }

    fn step(&mut self, now: Time, input: Input<Self>, out: &mut Output<Self>) {
        self.dispatch(now, input, out);
    }

    fn status(&self) -> protocol::Status {
        let role = match self.leads() {
            true => protocol::Role::Leader,
            false => protocol::Role::Follower,
        };
        protocol::Status {
            protocol: Self::NAME.into(),
            me: self.me,
            role,
            regime: self.view.0,
            leader: self.leader_of(self.view),
            committed: self.tree.head().height.0,
        }
    }

    fn accepts(&self, snapshot: &SnapshotRef) -> bool {
        self.believes(snapshot)
    }

    fn check(&self) -> Result<(), Violation> {
        self.check_invariants()
    }
}
