//! Ballots, commands, and what a replica keeps of each instance. \[Ryabinin25\]

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use quorate_core::frontier::Frontier;
use quorate_core::id::{EntryId, Lane, ReplicaId, Slot};
use quorate_core::machine::Keys;
use quorate_core::request::Batch;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::conflicts::conflict;
use crate::dependencies::Dependencies;
use crate::footprint::Footprint;

/// A ballot of an instance. That of round 0 is its initial coordinator's, all others belong to the
/// replica they name. \[Ryabinin25\]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Ballot {
    /// The higher round wins.
    pub round: u64,
    /// Whose ballot it is, but for round 0.
    pub replica: ReplicaId,
}

impl Ballot {
    /// Ballot 0: the initial coordinator's.
    pub const ZERO: Ballot = Ballot {
        round: 0,
        replica: ReplicaId(0),
    };
}

impl fmt::Debug for Ballot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "b{}.{}", self.round, self.replica.0)
    }
}

/// The replica that an instance begins at: its lane's.
pub(crate) fn coordinator(id: EntryId) -> ReplicaId {
    ReplicaId(id.lane.0)
}

/// The lane of a replica.
pub(crate) fn lane_of(replica: ReplicaId) -> Lane {
    Lane(replica.0)
}

/// How far an instance has come at a replica. \[Ryabinin25\]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Phase {
    /// Nothing is known of it, or only that somebody recovers it.
    Initial,
    /// The coordinator's command is known, with dependencies.
    PreAccepted,
    /// A command or Nop was accepted, at `abal`.
    Accepted,
    /// It is decided.
    Committed,
}

/// A command: requests ordered together, and what they touch. Copies share it.
#[derive(Clone, PartialEq, Eq)]
pub struct Command(Arc<Content>);

#[derive(PartialEq, Eq, Serialize, Deserialize)]
struct Content {
    footprint: Footprint,
    batch: Batch,
}

impl Command {
    /// The command to execute `batch`, which touches `keys`.
    pub fn new(batch: Batch, keys: &Keys) -> Self {
        let footprint = Footprint::from(keys);
        Command(Arc::new(Content { footprint, batch }))
    }

    /// The requests.
    pub fn batch(&self) -> &Batch {
        &self.0.batch
    }

    /// What they touch.
    pub fn footprint(&self) -> &Footprint {
        &self.0.footprint
    }

    /// Whether the order of the two matters.
    pub fn conflicts(&self, other: &Command) -> bool {
        conflict(
            (self.footprint(), self.batch()),
            (other.footprint(), other.batch()),
        )
    }
}

impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.batch())
    }
}

impl Serialize for Command {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Command {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Content::deserialize(deserializer).map(|content| Command(Arc::new(content)))
    }
}

/// What is proposed for an instance. There are only two possibilities, its coordinator's command
/// and Nop, so that a command need not be told twice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Value {
    /// Nothing: the command, if there was one, is to be proposed again as another instance.
    Nop,
    /// The coordinator's command, which the receiver has already.
    Initial,
    /// The coordinator's command.
    Command(Command),
}

/// A committed instance, as one replica tells another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// The instance.
    pub id: EntryId,
    /// What was decided.
    pub value: Value,
    /// What is executed before it, or together with it.
    pub dependencies: Dependencies,
}

/// What a replica keeps of an instance, in the paper's terms: `cmd` is Nop if `nop` is set and
/// `command` otherwise; `initCmd` is `command` if `init_dep` is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Instance {
    /// The ballot joined: nothing is taken from lower ones.
    pub(crate) bal: Ballot,
    /// The ballot in which the last acceptance was.
    pub(crate) abal: Ballot,
    pub(crate) phase: Phase,
    pub(crate) command: Option<Command>,
    pub(crate) nop: bool,
    pub(crate) dep: Dependencies,
    /// The coordinator's dependencies, D0.
    pub(crate) init_dep: Option<Dependencies>,
    /// This replica coordinated it at ballot 0 in an earlier life, and may have committed it
    /// without remembering, if all had answered D0. See `recover.rs`.
    pub(crate) doubtful: bool,
}

impl Default for Instance {
    fn default() -> Self {
        Instance {
            bal: Ballot::ZERO,
            abal: Ballot::ZERO,
            phase: Phase::Initial,
            command: None,
            nop: false,
            dep: Dependencies::default(),
            init_dep: None,
            doubtful: false,
        }
    }
}

impl Instance {
    pub(crate) fn is_committed(&self) -> bool {
        self.phase == Phase::Committed
    }

    /// `initCmd`, with the coordinator's dependencies.
    pub(crate) fn initial(&self) -> Option<(&Command, &Dependencies)> {
        self.command.as_ref().zip(self.init_dep.as_ref())
    }

    /// What it holds, told in full.
    pub(crate) fn value(&self) -> Value {
        match &self.command {
            Some(command) if !self.nop => Value::Command(command.clone()),
            _ => Value::Nop,
        }
    }

    /// The requests to execute; none for a Nop.
    pub(crate) fn batch(&self) -> Batch {
        match &self.command {
            Some(command) if !self.nop => command.batch().clone(),
            _ => Batch::noop(),
        }
    }

    /// Takes a value in; false if it is the initial command, and that is not known here.
    pub(crate) fn hold(&mut self, value: Value, dependencies: Dependencies) -> bool {
        match value {
            Value::Nop => self.nop = true,
            Value::Initial if self.command.is_none() => return false,
            Value::Initial => self.nop = false,
            Value::Command(command) => (self.command, self.nop) = (Some(command), false),
        }
        self.dep = dependencies;
        true
    }

    /// Whether this decision is that one.
    pub(crate) fn is_decided_as(&self, value: &Value, dependencies: &Dependencies) -> bool {
        let same = match value {
            Value::Nop => self.nop,
            Value::Initial => !self.nop,
            Value::Command(command) => !self.nop && self.command.as_ref() == Some(command),
        };
        same && self.dep == *dependencies
    }
}

/// All instances that a replica knows of and has not trimmed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Instances {
    known: BTreeMap<EntryId, Instance>,
    /// All that is known committed, trimmed instances included.
    committed: Frontier,
    /// Instances through these slots are trimmed: decided and executed, and not kept.
    trimmed: Frontier,
    /// Whoever takes over `trimmed` from here must know all of this to be committed first. See
    /// `checkpoint.rs`.
    horizon: Frontier,
    /// The highest slot heard of, by lane.
    heights: BTreeMap<Lane, Slot>,
}

impl Instances {
    pub(crate) fn known(&self, id: EntryId) -> Option<&Instance> {
        self.known.get(&id)
    }

    /// The instance, which is known from now on; `None` if it is trimmed.
    pub(crate) fn of(&mut self, id: EntryId) -> Option<&mut Instance> {
        if self.trimmed.contains(id) {
            return None;
        }
        self.heard_of(id);
        Some(self.known.entry(id).or_default())
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (EntryId, &Instance)> {
        self.known.iter().map(|(id, instance)| (*id, instance))
    }

    pub(crate) fn is_trimmed(&self, id: EntryId) -> bool {
        self.trimmed.contains(id)
    }

    pub(crate) fn trimmed(&self) -> &Frontier {
        &self.trimmed
    }

    pub(crate) fn horizon(&self) -> &Frontier {
        &self.horizon
    }

    pub(crate) fn committed(&self) -> &Frontier {
        &self.committed
    }

    pub(crate) fn is_committed(&self, id: EntryId) -> bool {
        self.committed.contains(id)
    }

    /// Notes that what `lane` has preaccepted at ballot 0 may have been committed there.
    pub(crate) fn doubt(&mut self, lane: Lane) {
        let own = self.known.iter_mut().filter(|(id, _)| id.lane == lane);
        for (_, instance) in own.filter(|(_, i)| i.phase == Phase::PreAccepted) {
            instance.doubtful |= instance.bal == Ballot::ZERO;
        }
    }

    /// Notes that `id` is committed.
    pub(crate) fn set_committed(&mut self, id: EntryId) {
        self.committed.insert(id);
    }

    /// Notes that `id` exists somewhere.
    pub(crate) fn heard_of(&mut self, id: EntryId) {
        let height = self.heights.entry(id.lane).or_default();
        *height = id.slot.max(*height);
    }

    /// Notes that all of `ids` exist somewhere.
    pub(crate) fn heard_of_all(&mut self, ids: &Dependencies) {
        for span in ids.spans() {
            self.heard_of(EntryId {
                lane: span.lane,
                slot: span.last,
            });
        }
    }

    /// The highest slot of `lane` heard of.
    pub(crate) fn height(&self, lane: Lane) -> Slot {
        self.heights.get(&lane).copied().unwrap_or_default()
    }

    /// Forgets all instances through the slots of `through`, and counts them as committed.
    pub(crate) fn trim(&mut self, through: &Frontier, horizon: &Frontier) {
        for (lane, slot, _) in through.lanes() {
            self.trimmed.complete(lane, slot);
            self.committed.complete(lane, slot);
            self.heard_of(EntryId { lane, slot });
        }
        self.horizon.union_with(horizon);
        let trimmed = &self.trimmed;
        self.known.retain(|id, _| !trimmed.contains(*id));
    }
}
