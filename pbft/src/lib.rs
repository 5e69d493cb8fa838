//! PBFT, as a deterministic state machine: a [`Protocol`] of Quorate.
//!
//! Sources: Miguel Castro and Barbara Liskov, *Practical Byzantine Fault Tolerance*, OSDI 1999,
//! cited as `[Castro99 §...]`; *Practical Byzantine Fault Tolerance and Proactive Recovery*, TOCS
//! 20(4), 2002, cited as `[Castro02 §...]`; Allen Clement and others, *Making Byzantine Fault
//! Tolerant Systems Tolerate Byzantine Faults*, NSDI 2009, cited as `[Clement09 §...]`.
//!
//! | room | what is in it | source |
//! |---|---|---|
//! | `message.rs` | what replicas tell each other, and which of it is a promise | Castro99 §4 |
//! | `certificate.rs` | what is relayed as proof: signed proposals, prepared and checkpoint certificates | Castro99 §4.2, §4.3 |
//! | `record.rs` | what must survive a crash | Castro02 §4 |
//! | `recover.rs` | a replica after a restart | Castro02 §4 |
//! | `replica.rs` | the state, and `step` | Castro99 §4 |
//! | `normal.rs` | requests, pre-prepare, prepare, commit, execution | Castro99 §4.1, §4.2 |
//! | `waiting.rs` | the requests that a replica waits to see executed | Castro99 §4.4 |
//! | `fronts.rs` | which of them the primary is judged by | Castro99 §4.4, Clement09 §4 |
//! | `queue.rs` | what waits at the primary for a slot, a share each | Clement09 §4 |
//! | `ordered.rs` | which slot a batch has | |
//! | `patience.rs` | how long it waits before it asks for another primary | Castro99 §4.5.2 |
//! | `view_change.rs` | from one primary to the next | Castro99 §4.4, §4.5 |
//! | `log.rs` | views, and what is known of each slot | Castro99 §4.2 |
//! | `entry.rs` | a batch and its moment: agreed time and nonces | Castro99 §4.6 |
//! | `early.rs` | messages that came before their view or watermark | Castro99 §4.3 |
//! | `status.rs` | retransmission | Castro02 §5.2 |
//! | `checkpoint.rs` | checkpoints, watermarks, state transfer | Castro99 §4.3, §5.3 |
//! | `read.rs` | reads that reach the protocol go through the log | Castro99 §5.1 |
//! | `invariants.rs` | what [`Protocol::check`] verifies | Castro99 §4 |
//! | `config.rs` | time-outs and limits | |
//! | `mutant.rs` | rules that only tests switch off | |

mod certificate;
mod checkpoint;
mod config;
mod early;
mod entry;
mod fronts;
mod invariants;
mod log;
mod message;
mod mutant;
mod normal;
mod ordered;
mod patience;
mod queue;
mod read;
mod record;
mod recover;
mod replica;
mod status;
mod view_change;
mod waiting;

use quorate_core::epoch::Setting;
use quorate_core::id::Time;
use quorate_core::output::Output;
use quorate_core::protocol::{
    self, Context, FaultModel, Input, Order, Protocol, RecoverError, Recovered, SnapshotRef,
    Violation,
};

pub use certificate::{CheckpointCertificate, PreparedCertificate, Proposal};
pub use config::Config;
pub use entry::{Entry, Moment};
pub use log::View;
pub use message::{CheckpointVote, Message, NewView, PrepareVote, Status, ViewChange};
pub use mutant::Mutant;
pub use record::Record;
pub use replica::{Pbft, Timer};

impl Protocol for Pbft {
    type Config = Config;
    type Message = Message;
    type Record = Record;
    type Timer = Timer;

    const NAME: &'static str = "pbft";
    const FAULTS: FaultModel = FaultModel::Byzantine;
    const ORDER: Order = Order::Total;

    fn agreed_settings(config: &Config, _: usize) -> Vec<Setting> {
        config.agreed()
    }

    fn recover(
        context: Context,
        config: Config,
        past: Recovered<Record>,
    ) -> Result<Self, RecoverError> {
        Pbft::recovered(&context, config, past).map_err(|reason| RecoverError {
            protocol: Self::NAME,
            reason,
        })
    }

    fn step(&mut self, now: Time, input: Input<Self>, out: &mut Output<Self>) {
        self.dispatch(now, input, out);
    }

    fn status(&self) -> protocol::Status {
        let role = match self.is_active() {
            true if self.leads() => protocol::Role::Leader,
            true => protocol::Role::Follower,
            false => protocol::Role::Candidate,
        };
        protocol::Status {
            protocol: Self::NAME.into(),
            me: self.me,
            role,
            regime: self.view.0,
            leader: self.leader(),
            committed: self.executed.0,
        }
    }

    fn accepts(&self, snapshot: &SnapshotRef) -> bool {
        self.believes(snapshot)
    }

    fn check(&self) -> Result<(), Violation> {
        self.check_invariants()
    }
}
