//! The state of a replica, and `step`, the only dispatch over inputs and messages.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use quorate_core::frontier::Frontier;
use quorate_core::id::{EntryId, Lane, ReplicaId, Slot, Time};
use quorate_core::machine::Keys;
use quorate_core::output::Output;
use quorate_core::protocol::{Dest, Input, ReadAnswer};
use quorate_core::request::Batch;
use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;

use crate::checkpoint::{Adoption, Peer};
use crate::config::{Config, Sizes};
use crate::conflicts::Conflicts;
use crate::graph::Graph;
use crate::instances::{Decision, Instances, lane_of};
use crate::message::{Message, Report};
use crate::mutant::Mutant;
use crate::normal::Leading;
use crate::thrifty::Calm;
use crate::watch::{Deadlines, Part, Watched};

/// EPaxos, as one replica runs it: coordinator of its own lane, acceptor in all, and recoverer of
/// whatever does not come to an end. \[Ryabinin25\]
#[derive(Debug)]
pub struct EPaxos {
    pub(crate) me: ReplicaId,
    pub(crate) config: Config,
    pub(crate) sizes: Sizes,
    pub(crate) rng: ChaCha8Rng,

    // Durable: every change goes into a record in the same step. \[Ryabinin25\]
    pub(crate) instances: Instances,
    /// All through these slots is named in every answer to a PreAccept. See `checkpoint.rs`.
    pub(crate) floor: Frontier,

    /// The slot of this replica's lane that its next command takes.
    pub(crate) next: Slot,
    /// The highest slot of this replica's lane whose command it has made durable in this life.
    pub(crate) durable: Option<Slot>,
    /// Requests that wait until its own commands are executed, with what they touch.
    pub(crate) unproposed: VecDeque<(Batch, Keys)>,
    /// Commands of its own that a fast quorum has answered in this turn.
    pub(crate) answered_fast: Vec<EntryId>,
    /// How the last commands went that it coordinated.
    pub(crate) calm: Calm,
    pub(crate) conflicts: Conflicts,
    pub(crate) graph: Graph,
    /// What this replica coordinates or recovers.
    pub(crate) leading: BTreeMap<EntryId, Leading>,
    /// When what was not answered is sent again.
    pub(crate) unanswered: Deadlines,
    /// Recoveries of this replica's that wait for other instances.
    pub(crate) waiting: BTreeSet<EntryId>,
    /// Instances whose recovery waits elsewhere, with how many had preaccepted them.
    pub(crate) heard_waiting: BTreeMap<EntryId, usize>,
    /// Known instances that are not committed, with the time to look after them.
    pub(crate) watched: Deadlines,
    /// Which of them were considered, by part of a lane.
    pub(crate) watched_through: BTreeMap<(Lane, Part), Watched>,
    pub(crate) troubles: BTreeMap<EntryId, Trouble>,
    /// How many recoveries of this replica's in a row no quorum has answered in time.
    pub(crate) unheard: u32,
    pub(crate) peers: Vec<Peer>,
    /// What floors shall cover.
    pub(crate) wanted: Frontier,
    /// What the newest durable snapshot holds.
    pub(crate) snapshot: Frontier,
    /// Durable snapshots that are not known to be behind the fence, oldest first.
    pub(crate) snapshots: VecDeque<Frontier>,
    /// The snapshot that peers may have.
    pub(crate) offered: Option<Frontier>,
    /// The records do not make the present state: they must be written anew.
    pub(crate) rewrite_due: bool,
    /// The snapshot that was installed says that these instances need not be known, and this
    /// replica may trim them too once it knows enough.
    pub(crate) adoption: Option<Adoption>,
    /// Through which slots peers have trimmed what is not executed here.
    pub(crate) missing: BTreeMap<ReplicaId, Frontier>,
    /// The next commit is to be followed by a snapshot, for somebody who lags behind.
    pub(crate) snapshot_wanted: bool,
    /// Whether there is something to tell the others.
    pub(crate) untold: bool,
    /// When each timer fires, if it does.
    pub(crate) armed: [Option<Time>; 3],
    /// An instance for which two decisions were heard of.
    pub(crate) conflict: Option<EntryId>,
}

/// What has been tried to get an instance committed.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Trouble {
    /// How often.
    pub(crate) tries: u32,
    /// The highest round of a ballot heard of.
    pub(crate) round: u64,
}

/// EPaxos's timers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Timer {
    /// Something was not answered.
    Retransmit,
    /// An instance has been known for long, and is not committed.
    Recovery,
    /// The others are to be told how far this replica has come.
    Progress,
}

pub(crate) type Out = Output<EPaxos>;

/// How often a wait is doubled at most: one who alone could end a recovery is among those who wait.
const MAX_DOUBLINGS: u32 = 3;

impl EPaxos {
    pub(crate) fn dispatch(&mut self, now: Time, input: Input<EPaxos>, out: &mut Out) {
        match input {
            Input::Start => {
                self.start(now, out);
                self.recover_own_gaps(now, out);
            }
            Input::Message(message) => {
                let (from, message) = message.into_parts();
                self.receive(now, from, message, out);
            }
            Input::Timer(Timer::Retransmit) => {
                self.armed[0] = None;
                self.send_again(now, out);
            }
            Input::Timer(Timer::Recovery) => {
                self.armed[1] = None;
                self.look_after(now, out);
            }
            Input::Timer(Timer::Progress) => {
                self.armed[2] = None;
                self.progress_is_due(now, out);
            }
            Input::Propose { batch, keys } => self.take_requests(now, batch, keys, out),
            Input::Read { id, keys: _ } => out.answer(id, ReadAnswer::ThroughLog),
            // Nothing else is held back until then, nor has anything happened since.
            Input::EndOfTurn => return self.accept_fast(out),
            Input::Snapshotted(snapshot) => self.snapshotted(now, snapshot, out),
            Input::Installed(snapshot) => self.installed(now, &snapshot, out),
        }
        self.execute(out);
        self.propose_waiting(now, out);
        self.watch_more(now);
        self.arm_timers(now, out);
    }

    /// Takes a message, unless it comes too late to matter.
    fn receive(&mut self, now: Time, from: ReplicaId, message: Message, out: &mut Out) {
        if let Message::PreAcceptOk { id, .. } = &message
            && from == self.me
        {
            self.made_durable(now, *id, out);
        }
        if let Some(id) = message.id()
            && self.is_settled(from, id, &message, out)
        {
            return;
        }
        self.act_upon(now, from, message, out);
    }

    fn act_upon(&mut self, now: Time, from: ReplicaId, message: Message, out: &mut Out) {
        match message {
            Message::PreAccept {
                id,
                command,
                dependencies,
            } => self.pre_accept(from, id, &command, &dependencies, out),
            Message::PreAcceptOk { id, dependencies } => {
                self.pre_accepted(now, from, id, &dependencies, out);
            }
            Message::Accept {
                id,
                ballot,
                value,
                dependencies,
            } => self.accept(from, (id, ballot), value, dependencies, out),
            Message::AcceptOk { id, ballot } => self.accepted(now, from, (id, ballot), out),
            Message::Commit(decision) => self.commit(now, from, decision, out),
            Message::Recover { id, ballot } => self.join(now, from, id, ballot, out),
            Message::RecoverOk { id, ballot, report } => {
                self.recovered_from(now, from, (id, ballot), report, out);
            }
            Message::Validate {
                id,
                ballot,
                command,
                dependencies,
            } => self.validate(from, (id, ballot), &command, &dependencies, out),
            Message::ValidateOk {
                id,
                ballot,
                blockers,
                impossible,
            } => self.validated(now, from, (id, ballot), (&blockers, impossible), out),
            Message::Waiting { id, preaccepted } => self.other_waits(now, id, preaccepted, out),
            Message::Rejected { id, ballot } => self.rejected(now, from, id, ballot),
            Message::Learn { ids } => self.tell(from, &ids, out),
            Message::Trimmed { through, horizon } => {
                self.too_far(now, from, (&through, &horizon), out);
            }
            Message::Behind { executed } => self.lags(now, from, &executed, out),
            Message::Progress(progress) => self.progressed(now, from, progress, out),
        }
    }

    /// Whether the instance that a message is about is over here: the sender is told, if it is
    /// not known to know.
    fn is_settled(
        &mut self,
        from: ReplicaId,
        id: EntryId,
        message: &Message,
        out: &mut Out,
    ) -> bool {
        let asks = matches!(
            message,
            Message::PreAccept { .. }
                | Message::Accept { .. }
                | Message::Recover { .. }
                | Message::Validate { .. }
                | Message::Waiting { .. }
        );
        if self.instances.is_trimmed(id) {
            if self.config.mutated(Mutant::TrimmedForgotten) {
                answer_as_if_unknown(from, message, out);
            } else if asks && from != self.me {
                self.tell_trimmed(from, out);
            }
            return true;
        }
        if matches!(message, Message::Commit(_)) || !self.instances.is_committed(id) {
            return false;
        }
        if asks && from != self.me {
            self.tell(from, &[id], out);
        }
        true
    }

    /// Answers with what was decided, as far as it may be sent at once.
    fn tell(&self, to: ReplicaId, ids: &[EntryId], out: &mut Out) {
        let mut bytes = 0;
        let is_trimmed = |id: &EntryId| self.instances.is_trimmed(*id);
        if ids.iter().any(is_trimmed) {
            self.tell_trimmed(to, out);
            if self.config.mutated(Mutant::TrimmedEndsAnswer) {
                return;
            }
        }
        for id in ids {
            let Some(instance) = self.instances.known(*id).filter(|i| i.is_committed()) else {
                continue;
            };
            if bytes > self.config.max_answer_bytes {
                return;
            }
            bytes += instance.batch().size();
            let decision = Decision {
                id: *id,
                value: instance.value(),
                dependencies: instance.dep.clone(),
            };
            out.send(Dest::One(to), Message::Commit(decision));
        }
    }

    fn tell_trimmed(&self, to: ReplicaId, out: &mut Out) {
        let trimmed = Message::Trimmed {
            through: self.instances.trimmed().clone(),
            horizon: self.instances.horizon().clone(),
        };
        out.send(Dest::One(to), trimmed);
    }

    /// The slot that this replica's next command takes: beyond all that were heard of.
    pub(crate) fn next_id(&mut self) -> EntryId {
        let lane = lane_of(self.me);
        let heard_of = match self.config.mutated(Mutant::OwnSlotReused) {
            true => Slot::ZERO,
            false => self.instances.height(lane),
        };
        let slot = self.next.max(heard_of.next());
        self.next = slot.next();
        EntryId { lane, slot }
    }

    pub(crate) fn peers_of(&self, me: ReplicaId) -> impl Iterator<Item = ReplicaId> + use<> {
        ReplicaId::all(self.sizes.n).filter(move |replica| *replica != me)
    }

    /// `base`, doubled so many times, and up to twice that, so that rivals draw apart.
    pub(crate) fn drawn(&mut self, base: Duration, doublings: u32) -> Duration {
        let base = base * (1 << doublings.min(MAX_DOUBLINGS));
        let nanos = u64::try_from(base.as_nanos())
            .unwrap_or(u64::MAX / 4)
            .max(1);
        base + Duration::from_nanos(self.rng.random_range(0..nanos))
    }

    fn arm_timers(&mut self, now: Time, out: &mut Out) {
        let progress = self.armed[2].or_else(|| self.untold.then(|| now + self.config.progress));
        let due = [
            (Timer::Retransmit, self.unanswered.first()),
            (Timer::Recovery, self.watched.first()),
            (Timer::Progress, progress),
        ];
        for ((timer, due), armed) in due.into_iter().zip(&mut self.armed) {
            if due == *armed {
                continue;
            }
            *armed = due;
            match due {
                Some(at) => out.arm(timer, at),
                None => out.disarm(timer),
            }
        }
    }
}

/// What a replica says of an instance that it has never heard of: only a mutant says it of one
/// that it has trimmed.
fn answer_as_if_unknown(from: ReplicaId, message: &Message, out: &mut Out) {
    match *message {
        Message::Recover { id, ballot } => {
            let report = Report::nothing();
            out.send(Dest::One(from), Message::RecoverOk { id, ballot, report });
        }
        Message::Accept { id, ballot, .. } => {
            out.send(Dest::One(from), Message::AcceptOk { id, ballot });
        }
        _ => {}
    }
}
