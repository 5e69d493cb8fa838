//! What a consensus protocol is: a deterministic state machine without I/O.

use std::borrow::Cow;
use std::fmt::Debug;
use std::ops::Deref;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::codec::Codec;
use crate::crypto::{Digest, Members, Signer, Verifier};
use crate::epoch::Setting;
use crate::frontier::Frontier;
use crate::id::{EntryId, MAX_REPLICAS, ReplicaId, Time, UnixTime};
use crate::machine::Keys;
use crate::output::Output;
use crate::request::Batch;

/// A consensus protocol, as one replica runs it.
///
/// The same inputs give the same outputs, byte for byte, on every machine: no I/O, clock, thread,
/// ambient randomness, or iteration in hash order. Everything that is not ordering commands is
/// the driver's ([`Replica`](crate::replica::Replica)).
pub trait Protocol: Sized + Debug + Send + 'static {
    /// Time-outs, limits and options; the membership comes with the [`Context`].
    type Config: Clone + Debug + Send + Sync + 'static;
    /// What replicas tell each other.
    type Message: Message;
    /// What must survive a crash: folding all records, in order, gives the durable state.
    type Record: Codec + Clone + Debug + Send + 'static;
    /// The timers, a closed enum. Arming one again replaces its deadline.
    type Timer: Copy + Ord + Debug + Send + 'static;

    /// The protocol's name in configuration, output and features.
    const NAME: &'static str;
    /// Which failures it survives.
    const FAULTS: FaultModel;
    /// Which order it gives.
    const ORDER: Order;
    /// How many batches of its own clients a node has under way at most, unless its settings say;
    /// none for what suits the fault model. Few, and what arrives meanwhile makes the next batch
    /// larger; a protocol that gathers requests from all nodes for that needs no limit here.
    const BATCHES_IN_FLIGHT: Option<usize> = None;

    /// What of the configuration of `n` replicas they must all have alike: what safety hangs on, or
    /// what would set correct replicas against each other for good. To be written with an exhaustive
    /// pattern, so that a new setting is put on one side or the other.
    fn agreed_settings(config: &Self::Config, n: usize) -> Vec<Setting>;

    /// The replica as it was when its records were written, before [`Input::Start`].
    fn recover(
        context: Context,
        config: Self::Config,
        past: Recovered<Self::Record>,
    ) -> Result<Self, RecoverError>;

    /// Takes one input, at the instant `now`, and says in `out` what follows from it.
    fn step(&mut self, now: Time, input: Input<Self>, out: &mut Output<Self>);

    /// Role, regime, leader and progress, as far as this replica knows.
    fn status(&self) -> Status;

    /// Whether a snapshot that a peer offers may be installed: its anchor proves what the
    /// protocol's fault model demands of it.
    fn accepts(&self, snapshot: &SnapshotRef) -> bool;

    /// Checks the replica's own invariants.
    fn check(&self) -> Result<(), Violation>;
}

/// What one replica tells another.
pub trait Message: Codec + Clone + Debug + Send + Sync + 'static {
    /// The kind, for ledger, trace and metrics.
    fn kind(&self) -> &'static str;

    /// Whether it is unsafe to forget having sent this: a vote, an acknowledgement, a campaign, a
    /// claim on a slot. A promise leaves only when all records written before it are durable.
    /// To be written as an exhaustive match.
    fn is_promise(&self) -> bool;

    /// Checks every signature in the message, as far as the sender and the membership tell.
    /// Runs beside the state machine, on the task that received the message.
    fn verify(&self, from: ReplicaId, verifier: &Verifier) -> Result<(), Invalid>;
}

/// A message that its receiver must not act upon.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid {kind} from {from}: {reason}")]
pub struct Invalid {
    /// The sender, by its connection.
    pub from: ReplicaId,
    /// The message's kind.
    pub kind: &'static str,
    /// What is wrong with it.
    pub reason: String,
}

/// A message whose sender is who the connection proved, and whose signatures are good.
#[derive(Clone, Debug)]
pub struct Verified<M> {
    from: ReplicaId,
    message: M,
}

impl<M: Message> Verified<M> {
    /// Binds `message` to the replica at the other end of the authenticated connection it came
    /// by, and verifies it.
    pub fn new(from: ReplicaId, message: M, verifier: &Verifier) -> Result<Self, Invalid> {
        if verifier.members().key(from).is_none() {
            return Err(Invalid {
                from,
                kind: message.kind(),
                reason: String::from("the sender is not a member"),
            });
        }
        message.verify(from, verifier)?;
        Ok(Verified { from, message })
    }

    /// A message of this replica to itself, which needs no check.
    pub(crate) fn own(me: ReplicaId, message: M) -> Self {
        Verified { from: me, message }
    }

    /// Who sent it.
    pub fn from(&self) -> ReplicaId {
        self.from
    }

    /// The sender and the message.
    pub fn into_parts(self) -> (ReplicaId, M) {
        (self.from, self.message)
    }
}

impl<M> Deref for Verified<M> {
    type Target = M;

    fn deref(&self) -> &M {
        &self.message
    }
}

/// What a replica is told when it comes to life.
#[derive(Clone, Debug)]
pub struct Context {
    /// This replica.
    pub me: ReplicaId,
    /// All replicas. They never change during the life of a protocol.
    pub members: Members,
    /// Signs for this replica.
    pub signer: Signer,
    /// Checks what others signed, for what is verified inside a step.
    pub verifier: Verifier,
    /// The only source of randomness.
    pub seed: [u8; 32],
    /// What this machine's wall clock showed at [`Time::ZERO`]. Clocks of different machines
    /// differ, and may be wrong: it is for what replicas agree on ([`Agreed`]), and nothing that
    /// must be safe may hang on it.
    pub wall_clock: UnixTime,
}

impl Context {
    /// How many replicas there are.
    pub fn n(&self) -> usize {
        self.members.n()
    }

    /// An error unless this replica is one of the members, and they are not too many.
    pub fn validate(&self) -> Result<(), String> {
        let (me, n) = (self.me, self.n());
        match n <= MAX_REPLICAS && me.index() < n {
            true => Ok(()),
            false => Err(format!(
                "{me} is not one of 1 to {MAX_REPLICAS} replicas: there are {n}"
            )),
        }
    }
}

/// What storage gave back after a restart.
#[derive(Clone, Debug)]
pub struct Recovered<R> {
    /// All records since the last rewrite, in the order in which they were written.
    pub records: Vec<R>,
    /// The snapshot that the state machine was restored from. It may lie ahead of the records:
    /// the replica crashed after it had fetched one, before it could write that it had.
    pub snapshot: Option<SnapshotRef>,
}

impl<R> Recovered<R> {
    /// A replica without a past.
    pub fn nothing() -> Self {
        Recovered {
            records: Vec::new(),
            snapshot: None,
        }
    }
}

/// A snapshot, by what identifies it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotRef {
    /// How far execution had come.
    pub at: Frontier,
    /// The digest of its body: sessions and application state.
    pub digest: Digest,
    /// What the protocol needs to believe it and to go on from it: a term for Raft, a checkpoint
    /// certificate for PBFT. Empty in a snapshot of this replica's own until the protocol has
    /// offered it.
    pub anchor: Bytes,
}

/// Records that do not make a state: damage that got past the checksums, or another protocol's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the records do not make a {protocol} replica: {reason}")]
pub struct RecoverError {
    /// [`Protocol::NAME`].
    pub protocol: &'static str,
    /// What does not fit.
    pub reason: String,
}

/// A broken invariant. The replica must stop.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{rule}: {detail}")]
pub struct Violation {
    /// The rule, by the paper's name for it.
    pub rule: &'static str,
    /// What breaks it.
    pub detail: String,
}

/// A violation of `rule`, with `detail`, unless it `holds`.
pub fn invariant(
    rule: &'static str,
    holds: bool,
    detail: impl FnOnce() -> String,
) -> Result<(), Violation> {
    match holds {
        true => Ok(()),
        false => Err(Violation {
            rule,
            detail: detail(),
        }),
    }
}

/// Which failures a protocol survives, and what follows for clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultModel {
    /// Replicas stop and restart: n = 2f + 1, and one reply is enough.
    #[default]
    Crash,
    /// Replicas lie: n = 3f + 1, and a client believes f + 1 equal replies.
    Byzantine,
}

impl FaultModel {
    /// f: how many of `n` replicas may fail.
    pub fn tolerated(self, n: usize) -> usize {
        match self {
            FaultModel::Crash => (n - 1) / 2,
            FaultModel::Byzantine => (n - 1) / 3,
        }
    }

    /// How many equal replies from different replicas a client must have.
    pub fn replies(self, n: usize) -> usize {
        match self {
            FaultModel::Crash => 1,
            FaultModel::Byzantine => self.tolerated(n) + 1,
        }
    }
}

/// Which order a protocol gives, and so what a checker may demand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// All replicas execute the same sequence.
    Total,
    /// All replicas execute conflicting commands in the same order.
    PerKey,
}

/// What happens to a replica.
#[derive(Debug)]
pub enum Input<P: Protocol> {
    /// It starts, or starts again.
    Start,
    /// A message arrived, maybe its own.
    Message(Verified<P::Message>),
    /// A timer it armed is due; it is no longer armed.
    Timer(P::Timer),
    /// The driver has requests to be ordered. They may be lost (no leader is known, a message is
    /// dropped): the driver proposes again what it does not see executed.
    Propose {
        /// The requests, ordered as one entry.
        batch: Batch,
        /// What they read and write. [`Keys::All`] under [`Order::Total`], where it does not
        /// matter.
        keys: Keys,
    },
    /// The driver wants to read. It asks again what is not answered.
    Read {
        /// Names the read in its answer.
        id: ReadId,
        /// What the read touches.
        keys: Keys,
    },
    /// All that had gathered has been given: send what was held back to be sent together.
    EndOfTurn,
    /// A snapshot of this replica's state is durable: the log may be trimmed. Protocols in which
    /// one replica's word is not enough first certify it; all offer it when they can vouch for it.
    Snapshotted(SnapshotRef),
    /// A fetched snapshot, accepted before, is durable and is now the state.
    Installed(SnapshotRef),
}

/// A read, or several that are answered together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ReadId(pub u64);

/// What a protocol says to a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadAnswer {
    /// All that was committed when the read was asked has been handed over for execution, this
    /// step's commits included: the state machine may be queried now.
    Ready,
    /// There is no shorter way: order the query like a command.
    ThroughLog,
}

/// Where a message goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Dest {
    /// One replica, maybe the sender itself.
    One(ReplicaId),
    /// All but the sender.
    Others,
    /// All, the sender included.
    All,
}

/// An entry that may be executed now.
#[derive(Clone, Debug)]
pub struct Commit {
    /// What was ordered.
    pub id: EntryId,
    /// Its requests; none for a no-op.
    pub batch: Batch,
    /// Every replica takes a snapshot right after this entry, whatever its driver's own policy
    /// is: the protocol will compare their digests.
    pub checkpoint: bool,
    /// What was agreed on with the entry besides its requests. Protocols that survive crashes
    /// only give none.
    pub agreed: Option<Agreed>,
}

/// What replicas agree on for a state machine that may look at no clock and draw no numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Agreed {
    /// When the entry was proposed, by the clock of who proposed it, which others have found near
    /// to their own. The driver hands it on strictly monotonic: where an entry does not come after
    /// the last one, one nanosecond is added to the last.
    pub time: UnixTime,
    /// Bytes that no other entry of the log has. They are not secret, and a proposer that lies
    /// may have chosen them: they name things, and decide no lottery.
    pub nonce: [u8; 32],
}

/// A wish for a snapshot, because peers no longer keep what this replica lacks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetch {
    /// Who is likely to have one.
    pub from: ReplicaId,
    /// It must reach at least this far.
    pub at_least: Frontier,
}

/// What a replica is in its regime.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Proposes for all: Raft's and Multi-Paxos's leader, the primary of a view.
    Leader,
    /// Follows a leader, or waits for one.
    Follower,
    /// Tries to become leader.
    Candidate,
    /// One of equals, in a protocol without a leader.
    Peer,
}

/// What a replica knows of its own standing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The protocol's name.
    pub protocol: Cow<'static, str>,
    /// This replica.
    pub me: ReplicaId,
    /// What it is.
    pub role: Role,
    /// Raft's term, Paxos's ballot, PBFT's and HotStuff's view.
    pub regime: u64,
    /// Who leads, if that is known and means something.
    pub leader: Option<ReplicaId>,
    /// How many entries are known committed: the last slot of a single log.
    pub committed: u64,
}

/// Something that people and metrics want to know of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The replica tries to become leader of `regime`.
    Campaign {
        /// The regime it campaigns for.
        regime: u64,
    },
    /// The replica knows of another regime or leader than before.
    RegimeChanged {
        /// The regime now.
        regime: u64,
        /// Its leader, if known.
        leader: Option<ReplicaId>,
    },
    /// The replica leads no longer, and has another campaign in its place.
    HandsOver {
        /// The regime that it led.
        regime: u64,
        /// Who is to lead.
        to: ReplicaId,
    },
    /// So much has been written and is not durable that the replica refuses new requests.
    DiskBehind {
        /// How many bytes of records.
        bytes: usize,
    },
    /// The disk has caught up, and new requests are taken again.
    DiskCaughtUp,
    /// A replica has signed two statements of which a correct one signs at most one.
    Equivocation {
        /// Who has.
        by: ReplicaId,
        /// In which regime.
        regime: u64,
    },
    /// What this replica coordinates or recovers was decided, in a protocol without a leader.
    Decided {
        /// How.
        path: Path,
    },
    /// The replica tries to get something decided that another replica began.
    Recovery,
    /// Entries that depend on each other were handed over for execution together.
    Component {
        /// How many.
        size: usize,
    },
}

/// How an entry was decided, in a protocol without a leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path {
    /// In one round trip.
    Fast,
    /// In two.
    Slow,
    /// By another replica than the one that began it, or by that one anew.
    Recovered,
}
