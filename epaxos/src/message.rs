//! What replicas tell each other.

use quorate_core::crypto::Verifier;
use quorate_core::frontier::Frontier;
use quorate_core::id::{EntryId, ReplicaId, Slot};
use quorate_core::protocol::{self, Invalid};
use serde::{Deserialize, Serialize};

use crate::dependencies::Dependencies;
use crate::instances::{Ballot, Command, Decision, Phase, Value, coordinator};

/// A message of EPaxos, with what `docs/protocols/epaxos.md` says of each. \[Ryabinin25\]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// The coordinator's command, with all that it knows to conflict with it.
    PreAccept {
        /// The instance, of the coordinator's own lane.
        id: EntryId,
        /// D0: the conflicts known to the coordinator.
        dependencies: Dependencies,
        /// The command.
        command: Command,
    },
    /// The answer: those, and what the sender knows to conflict.
    PreAcceptOk {
        /// The instance.
        id: EntryId,
        /// The dependencies.
        dependencies: Dependencies,
    },
    /// A value to be accepted in a ballot.
    Accept {
        /// The instance.
        id: EntryId,
        /// The sender's ballot; ballot 0 is the coordinator's.
        ballot: Ballot,
        /// What to accept.
        value: Value,
        /// With these dependencies.
        dependencies: Dependencies,
    },
    /// It is accepted, durably.
    AcceptOk {
        /// The instance.
        id: EntryId,
        /// The ballot.
        ballot: Ballot,
    },
    /// A value is decided.
    Commit(Decision),
    /// The sender recovers an instance, in a ballot of its own.
    Recover {
        /// The instance.
        id: EntryId,
        /// The ballot.
        ballot: Ballot,
    },
    /// The answer: lower ballots are closed, and this was known of the instance.
    RecoverOk {
        /// The instance.
        id: EntryId,
        /// The ballot.
        ballot: Ballot,
        /// What was known.
        report: Report,
    },
    /// The recoverer has found a command that may have been committed on the fast path, and asks
    /// what speaks against it.
    Validate {
        /// The instance.
        id: EntryId,
        /// The recovery's ballot.
        ballot: Ballot,
        /// The command.
        command: Command,
        /// D0: the coordinator's dependencies.
        dependencies: Dependencies,
    },
    /// The answer.
    ValidateOk {
        /// The instance.
        id: EntryId,
        /// The recovery's ballot.
        ballot: Ballot,
        /// Instances that the command would have to be ordered with, and may not be.
        blockers: Vec<Blocker>,
        /// The sender has trimmed instances that the dependencies do not name, and so knows that
        /// the command was not committed on the fast path. See `checkpoint.rs`.
        impossible: bool,
    },
    /// The recovery of this instance waits for others.
    Waiting {
        /// The instance.
        id: EntryId,
        /// How many of its quorum had preaccepted it with the coordinator's dependencies. The initial
        /// coordinator is none of these.
        preaccepted: usize,
    },
    /// The sender has joined a higher ballot.
    Rejected {
        /// The instance.
        id: EntryId,
        /// The ballot joined.
        ballot: Ballot,
    },
    /// The sender lacks what was decided of instances that the receiver knows committed.
    Learn {
        /// The instances.
        ids: Vec<EntryId>,
    },
    /// Asked about an instance: it is trimmed here. What was decided can only be had in a
    /// snapshot.
    Trimmed {
        /// Through which slots instances are trimmed, by lane.
        through: Frontier,
        /// What the sender knew committed when it trimmed them.
        horizon: Frontier,
    },
    /// The sender has fetched no snapshot that is ahead of all that it has executed.
    Behind {
        /// What it has executed.
        executed: Frontier,
    },
    /// How far the sender has come.
    Progress(Progress),
}

/// What a replica knows of an instance that is recovered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The ballot in which it last accepted; 0 also if it never did.
    pub abal: Ballot,
    /// How far the instance has come. Never committed: then the answer is a Commit.
    pub phase: Phase,
    /// What it holds, in full; Nop also if it holds nothing.
    pub value: Value,
    /// With these dependencies.
    pub dependencies: Dependencies,
    /// The coordinator's dependencies, if it preaccepted its command.
    pub initial: Option<Dependencies>,
    /// The sender coordinated it in an earlier life, and may have committed it then: if all replicas
    /// have preaccepted it with the coordinator's dependencies.
    pub doubtful: bool,
}

/// An instance that speaks against a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blocker {
    /// The instance.
    pub id: EntryId,
    /// Whether it is committed, without the command among its dependencies.
    pub committed: bool,
}

/// How far a replica has come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// What it knows committed, durably.
    pub committed: Frontier,
    /// Through which slots it names everything in its answers to PreAccepts, durably. Whatever it
    /// has preaccepted with less is in `committed`.
    pub floor: Frontier,
    /// Through which slots all should be named: a floor that is being raised.
    pub wanted: Frontier,
    /// Whether it needs a snapshot, so that nobody need keep instances for it.
    pub behind: bool,
}

/// No cluster lives to see a round or slot beyond this, and sums with it do not overflow.
const HIGHEST: u64 = u64::MAX >> 10;

/// The most instances that one message asks about.
pub(crate) const MAX_ASKED: usize = 256;

impl Message {
    /// The instance it is about, if it is about one.
    pub(crate) fn id(&self) -> Option<EntryId> {
        match self {
            Message::PreAccept { id, .. }
            | Message::PreAcceptOk { id, .. }
            | Message::Accept { id, .. }
            | Message::AcceptOk { id, .. }
            | Message::Commit(Decision { id, .. })
            | Message::Recover { id, .. }
            | Message::RecoverOk { id, .. }
            | Message::Validate { id, .. }
            | Message::ValidateOk { id, .. }
            | Message::Waiting { id, .. }
            | Message::Rejected { id, .. } => Some(*id),
            Message::Learn { .. }
            | Message::Trimmed { .. }
            | Message::Behind { .. }
            | Message::Progress(_) => None,
        }
    }

    fn ballot(&self) -> Ballot {
        match self {
            Message::Accept { ballot, .. }
            | Message::AcceptOk { ballot, .. }
            | Message::Recover { ballot, .. }
            | Message::RecoverOk { ballot, .. }
            | Message::Validate { ballot, .. }
            | Message::ValidateOk { ballot, .. }
            | Message::Rejected { ballot, .. } => *ballot,
            _ => Ballot::ZERO,
        }
    }

    /// The ballot's owner, in messages that only it sends.
    fn owner(&self) -> Option<ReplicaId> {
        match self {
            Message::PreAccept { id, .. } => Some(coordinator(*id)),
            Message::Accept { id, ballot, .. } if *ballot == Ballot::ZERO => Some(coordinator(*id)),
            Message::Accept { ballot, .. }
            | Message::Recover { ballot, .. }
            | Message::Validate { ballot, .. } => Some(ballot.replica),
            _ => None,
        }
    }

    fn sets(&self) -> Vec<&Dependencies> {
        match self {
            Message::PreAccept { dependencies, .. }
            | Message::PreAcceptOk { dependencies, .. }
            | Message::Accept { dependencies, .. }
            | Message::Validate { dependencies, .. }
            | Message::Commit(Decision { dependencies, .. }) => vec![dependencies],
            Message::RecoverOk { report, .. } => {
                let sets = report.initial.iter();
                sets.chain([&report.dependencies]).collect()
            }
            _ => Vec::new(),
        }
    }

    fn frontiers(&self) -> Vec<&Frontier> {
        match self {
            Message::Trimmed { through, horizon } => vec![through, horizon],
            Message::Behind { executed } => vec![executed],
            Message::Progress(progress) => {
                vec![&progress.committed, &progress.floor, &progress.wanted]
            }
            _ => Vec::new(),
        }
    }

    fn fault(&self, from: ReplicaId, n: usize) -> Option<&'static str> {
        let exists = |id: EntryId| {
            coordinator(id).index() < n && id.slot > Slot::ZERO && id.slot.0 <= HIGHEST
        };
        if self.id().is_some_and(|id| !exists(id)) {
            return Some("there is no such instance");
        }
        if self.ballot().round > HIGHEST || self.ballot().replica.index() >= n {
            return Some("there is no such ballot");
        }
        if self.owner().is_some_and(|owner| owner != from) {
            return Some("the ballot is another's");
        }
        let own = |set: &&Dependencies| self.id().is_some_and(|id| set.contains(id));
        if self.sets().iter().any(own) {
            return Some("a command depends on itself");
        }
        if !self.sets().into_iter().all(|set| is_within(set, n)) {
            return Some("a dependency does not exist");
        }
        let frontiers = self.frontiers().into_iter().map(Dependencies::from);
        if !frontiers.into_iter().all(|set| is_within(&set, n)) {
            return Some("a frontier is out of reach");
        }
        match self {
            Message::Recover { ballot, .. } if *ballot == Ballot::ZERO => {
                Some("ballot 0 does not recover")
            }
            Message::RecoverOk { report, .. } => report.fault(),
            Message::ValidateOk { blockers, .. } => {
                let all = blockers.iter().all(|blocker| exists(blocker.id));
                (!all).then_some("there is no such blocker")
            }
            Message::Learn { ids } if ids.len() > MAX_ASKED => Some("too much is asked for"),
            _ => None,
        }
    }
}

/// Whether a set from a peer names only what can exist.
pub(crate) fn is_within(set: &Dependencies, n: usize) -> bool {
    set.is_within(n) && set.spans().iter().all(|span| span.last.0 <= HIGHEST)
}

impl Report {
    /// What is said of an instance that was never heard of.
    pub(crate) fn nothing() -> Report {
        Report {
            abal: Ballot::ZERO,
            phase: Phase::Initial,
            value: Value::Nop,
            dependencies: Dependencies::none(),
            initial: None,
            doubtful: false,
        }
    }

    /// Whether the command was preaccepted with the coordinator's dependencies.
    pub(crate) fn is_unchanged(&self) -> bool {
        self.phase == Phase::PreAccepted && self.initial.as_ref() == Some(&self.dependencies)
    }

    fn fault(&self) -> Option<&'static str> {
        let preaccepted = self.initial.is_some() && matches!(self.value, Value::Command(_));
        match self.phase {
            Phase::Committed => Some("what is committed is not reported"),
            Phase::PreAccepted if !preaccepted => Some("nothing was preaccepted"),
            _ if self.value == Value::Initial => Some("a report must be in full"),
            _ => None,
        }
    }
}

impl protocol::Message for Message {
    fn kind(&self) -> &'static str {
        match self {
            Message::PreAccept { .. } => "pre_accept",
            Message::PreAcceptOk { .. } => "pre_accept_ok",
            Message::Accept { .. } => "accept",
            Message::AcceptOk { .. } => "accept_ok",
            Message::Commit(_) => "commit",
            Message::Recover { .. } => "recover",
            Message::RecoverOk { .. } => "recover_ok",
            Message::Validate { .. } => "validate",
            Message::ValidateOk { .. } => "validate_ok",
            Message::Waiting { .. } => "waiting",
            Message::Rejected { .. } => "rejected",
            Message::Learn { .. } => "learn",
            Message::Trimmed { .. } => "trimmed",
            Message::Behind { .. } => "behind",
            Message::Progress(_) => "progress",
        }
    }

    fn is_promise(&self) -> bool {
        match self {
            // A restart uses no slot again that others may have been asked about.
            Message::PreAccept { .. } => false,
            // A vote on the fast path, and what recovery rests on.
            Message::PreAcceptOk { .. } => true,
            // The coordinator counts on the copy.
            Message::AcceptOk { .. } => true,
            // A recoverer that forgets its ballot may use it again, and propose another value.
            Message::Recover { .. } => true,
            // Lower ballots are closed.
            Message::RecoverOk { .. } => true,
            // From now on the command is known here, and others will be told to depend on it.
            Message::ValidateOk { .. } => true,
            // The others trim what a floor covers, and what is said to be committed here.
            Message::Progress(_) => true,
            // Whoever restarts does not go on in a ballot, and the copies that count are the
            // answers.
            Message::Accept { .. } | Message::Validate { .. } => false,
            // What is decided stays so, whoever forgets it.
            Message::Commit(_) | Message::Trimmed { .. } => false,
            // Says what was found in a ballot, and stays true.
            Message::Waiting { .. } => false,
            Message::Rejected { .. } | Message::Learn { .. } | Message::Behind { .. } => false,
        }
    }

    fn verify(&self, from: ReplicaId, verifier: &Verifier) -> Result<(), Invalid> {
        match self.fault(from, verifier.members().n()) {
            None => Ok(()),
            Some(reason) => Err(Invalid {
                from,
                kind: self.kind(),
                reason: String::from(reason),
            }),
        }
    }
}
