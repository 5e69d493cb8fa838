//! How far replicas have come, snapshots, and trimming.
//!
//! What a replica executed it cannot simply forget. Whoever recovers an instance that conflicts
//! with it must be told that it is committed, and must not be told so of what does not conflict
//! or is a Nop; and an instance that is unknown must not be taken for one that was never
//! proposed. So instances are trimmed only behind a *fence*, in these steps:
//!
//! 1. A replica that holds a durable snapshot wants the instances that it holds, through a slot of
//!    each lane, to be trimmed. It tells the others ([`Progress::wanted`]); coordinators name these
//!    instances in D0 from now on, so that naming them costs nobody the fast path.
//! 2. Each replica that has executed them raises its *floor* to them, once all it has preaccepted
//!    or validated that does not name them is committed: from then on it names them in every
//!    answer. It tells the others (durably), with what it knows committed.
//! 3. A replica trims what is covered by its own floor, its own snapshot, and by the floors of
//!    f + 1 replicas, once it knows committed all that these told it to be.
//!
//! Then an instance that is not committed here, and whose coordinator's dependencies do not name
//! all that is trimmed here, was not and will not be committed on the fast path: among any n - e
//! replicas is one whose floor is that high (f + 1 > e). It did not preaccept the instance before
//! it raised its floor, or it would have told that the instance is committed; and it cannot answer
//! with D0 any more since. So a recovery that asks about it may choose Nop, and what is trimmed
//! need not be known. Among any n - f replicas is one of the f + 1 as well, so that a recovery
//! always finds one that knows.
//!
//! A replica that lacks what is trimmed fetches a snapshot. Only snapshots that the fence covers
//! are offered, with an anchor that holds the instances beyond, and what was known committed. The
//! receiver itself may count the instances as trimmed when it knows all that committed too; until
//! then it does not say what speaks against a command.
//!
//! [`Progress::wanted`]: crate::message::Progress::wanted

use quorate_core::codec;
use quorate_core::frontier::Frontier;
use quorate_core::id::{EntryId, Lane, ReplicaId, Slot, Time};
use quorate_core::machine::Keys;
use quorate_core::protocol::{Dest, Fetch, SnapshotRef};
use quorate_core::request::Batch;
use serde::{Deserialize, Serialize};

use crate::dependencies::Dependencies;
use crate::instances::{Decision, Instance, Phase, Value, coordinator, lane_of};
use crate::message::{Message, Progress, is_within};
use crate::mutant::Mutant;
use crate::record::{self, Record};
use crate::replica::{EPaxos, Out};

/// How many snapshots wait to be offered at most: as many as the driver keeps.
const MAX_SNAPSHOTS: usize = 4;

/// What a replica knows of another's progress.
#[derive(Clone, Debug, Default)]
pub(crate) struct Peer {
    /// What it knows committed.
    pub(crate) committed: Frontier,
    /// A floor, with what it knew committed then, which is not all known here yet.
    claim: Option<(Frontier, Frontier)>,
    /// Its floor, as far as that counts here.
    settled: Frontier,
    /// When it was heard of last.
    heard: Option<Time>,
    /// It needs a snapshot, from whomever, and nothing need be kept for it.
    behind: bool,
}

/// Instances that a peer had trimmed when it offered the snapshot that was installed here. They
/// may be unknown here, and count as executed.
#[derive(Clone, Debug)]
pub(crate) struct Adoption {
    /// Through which slot, by lane.
    pub(crate) through: Frontier,
    /// What must be known committed before they may count as trimmed here.
    pub(crate) horizon: Frontier,
}

/// Instances that a peer has trimmed, and that are not executed here.
#[derive(Clone, Debug)]
pub(crate) struct Missing {
    /// Through which slot, by lane.
    through: Frontier,
    /// Who said so.
    from: ReplicaId,
}

/// What goes with a snapshot.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Anchor {
    /// What was known committed when the snapshot was offered.
    horizon: Frontier,
    /// The instances that the snapshot holds beyond where lanes are complete.
    beyond: Vec<Decision>,
}

impl Anchor {
    fn of(snapshot: &SnapshotRef) -> Option<Anchor> {
        codec::decode("anchor", &snapshot.anchor).ok()
    }
}

/// Telling each other.
impl EPaxos {
    pub(crate) fn start(&mut self, out: &mut Out) {
        self.untold = true;
        if std::mem::take(&mut self.rewrite_due) {
            self.rewrite(out);
        }
        self.tell_progress(out);
        self.offer(out);
    }

    fn tell_progress(&self, out: &mut Out) {
        let progress = Message::Progress(Progress {
            committed: self.instances.committed().clone(),
            floor: self.floor.clone(),
            wanted: self.wanted.clone(),
            behind: self.needs_snapshot(),
        });
        out.send(Dest::Others, progress);
    }

    pub(crate) fn progress_is_due(&mut self, now: Time, out: &mut Out) {
        self.raise_floor(out);
        self.settle_claims();
        self.trim(now, out);
        self.ask_for_snapshot(out);
        self.tell_progress(out);
        let committed = self.instances.committed();
        let differs = |peer: ReplicaId| {
            let peer = self.peers.get(peer.index());
            peer.is_some_and(|peer| peer.committed != *committed || peer.settled != self.floor)
        };
        self.untold = self.peers_of(self.me).any(differs)
            || !self.snapshots.is_empty()
            || self.adoption.is_some()
            || self.missing.is_some();
    }

    /// A peer tells how far it has come.
    pub(crate) fn progressed(
        &mut self,
        now: Time,
        from: ReplicaId,
        progress: Progress,
        out: &mut Out,
    ) {
        let Progress {
            committed,
            floor,
            wanted,
            behind,
        } = progress;
        self.instances.heard_of_all(&Dependencies::from(&committed));
        let news = committed != *self.instances.committed() || floor != self.floor;
        self.wanted.union_with(&wanted);
        if let Some(peer) = self.peers.get_mut(from.index()) {
            (peer.heard, peer.behind) = (Some(now), behind);
            // The first claim that is not settled is kept: a later one asks for more.
            if peer.claim.is_none() && peer.settled != floor {
                peer.claim = Some((floor, committed.clone()));
            }
            peer.committed = committed;
        }
        self.untold |= news;
        self.settle_claims();
        self.trim(now, out);
    }

    /// Floors count once all that was said with them to be committed is known here.
    fn settle_claims(&mut self) {
        let at_once = self.config.mutated(Mutant::FloorCountsAtOnce);
        let known = self.instances.committed();
        for peer in &mut self.peers {
            let claim = peer
                .claim
                .take_if(|(_, told)| at_once || known.covers(told));
            if let Some((floor, _)) = claim {
                peer.settled.union_with(&floor);
            }
        }
    }
}

/// Floors and trimming.
impl EPaxos {
    /// Raises the floor to what is wanted, as far as that is executed here, once everything known
    /// that does not name it is committed.
    fn raise_floor(&mut self, out: &mut Out) {
        let executed = self.graph.executed();
        let mut floor = self.floor.clone();
        for (lane, slot, _) in self.wanted.lanes() {
            floor.complete(lane, slot.min(executed.through(lane)));
        }
        if floor == self.floor {
            return;
        }
        let named = Dependencies::from(&floor);
        let names = |set: &Dependencies| set.covers(&named);
        let open = |instance: &Instance| {
            !instance.is_committed() && !instance.init_dep.as_ref().is_none_or(names)
        };
        let early = self.config.mutated(Mutant::FloorOverOpen);
        if !early && self.instances.iter().any(|(_, instance)| open(instance)) {
            return;
        }
        self.floor = floor.clone();
        self.conflicts.trim(&floor);
        self.settle_own_floor();
        out.persist(Record::Floor(floor));
        self.untold = true;
    }

    /// Its own floor counts without being told.
    pub(crate) fn settle_own_floor(&mut self) {
        if let Some(own) = self.peers.get_mut(self.me.index()) {
            own.settled = self.floor.clone();
        }
    }

    /// Trims what the fence covers, and offers the snapshot that holds it.
    fn trim(&mut self, now: Time, out: &mut Out) {
        self.adopt(out);
        let fenced = |at: &Frontier| self.is_fenced(now, &at.complete_part());
        let Some(position) = self.snapshots.iter().rposition(fenced) else {
            return;
        };
        let Some(at) = self.snapshots.get(position).cloned() else {
            return;
        };
        let through = at.complete_part();
        if !self.instances.trimmed().covers(&through) {
            let horizon = self.instances.committed().clone();
            self.instances.trim(&through, &horizon);
            self.rewrite(out);
        }
        self.offer(out);
    }

    fn is_fenced(&self, now: Time, through: &Frontier) -> bool {
        if self.instances.trimmed().covers(through) {
            return true;
        }
        let covers = |peer: &&Peer| peer.settled.covers(through);
        let fence = self.peers.iter().filter(covers).count();
        let is_waited_for = |peer: &Peer| {
            let heard = peer.heard.map(|at| now.since(at));
            !peer.behind && heard.is_some_and(|ago| ago <= self.config.patience)
        };
        self.floor.covers(through)
            && self.instances.committed().covers(through)
            && fence > self.sizes.f
            && !self
                .peers
                .iter()
                .any(|peer| is_waited_for(peer) && !peer.committed.covers(through))
    }

    /// Offers the newest snapshot of which all that it holds, exceptions apart, is trimmed.
    fn offer(&mut self, out: &mut Out) {
        let trimmed = self.instances.trimmed();
        let behind = |at: &Frontier| trimmed.covers(&at.complete_part());
        let Some(position) = self.snapshots.iter().rposition(behind) else {
            return;
        };
        let offered = self.snapshots.drain(..=position).next_back();
        let Some(at) = offered else { return };
        let mut beyond = Vec::new();
        for (id, instance) in self.instances.iter().filter(|(id, _)| at.contains(*id)) {
            if instance.is_committed() {
                beyond.push(Decision {
                    id,
                    value: instance.value(),
                    dependencies: instance.dep.clone(),
                });
            }
        }
        let anchor = Anchor {
            horizon: self.instances.horizon().clone(),
            beyond,
        };
        if let Ok(anchor) = codec::encode(&anchor) {
            out.offer(at.clone(), anchor.into());
        }
        self.offered = Some(at);
    }

    /// A snapshot of this replica's is durable.
    pub(crate) fn snapshotted(&mut self, now: Time, snapshot: SnapshotRef, out: &mut Out) {
        self.wanted.union_with(&snapshot.at.complete_part());
        self.snapshot = snapshot.at.clone();
        self.snapshots.push_back(snapshot.at);
        if self.snapshots.len() > MAX_SNAPSHOTS {
            self.snapshots.pop_front();
        }
        self.raise_floor(out);
        self.settle_claims();
        self.trim(now, out);
        self.tell_progress(out);
        self.untold = true;
    }

    /// Writes the whole durable state anew.
    fn rewrite(&mut self, out: &mut Out) {
        let adoption = self.adoption.as_ref();
        out.rewrite(record::records(&self.instances, &self.floor, adoption));
    }
}

/// Lagging behind.
impl EPaxos {
    /// Whether `snapshot` is one of this protocol, for as many replicas.
    pub(crate) fn is_acceptable(&self, snapshot: &SnapshotRef) -> bool {
        let n = self.sizes.n;
        let exists = |frontier: &Frontier| is_within(&Dependencies::from(frontier), n);
        Anchor::of(snapshot).is_some_and(|anchor| {
            exists(&snapshot.at)
                && exists(&anchor.horizon)
                && anchor.beyond.iter().all(|decision| {
                    coordinator(decision.id).index() < n
                        && snapshot.at.contains(decision.id)
                        && is_within(&decision.dependencies, n)
                        && !decision.dependencies.contains(decision.id)
                        && decision.value != Value::Initial
                })
        })
    }

    /// Whether only a snapshot can help: peers have trimmed what is neither executed nor known
    /// here.
    pub(crate) fn needs_snapshot(&self) -> bool {
        let (executed, known) = (self.graph.executed(), self.instances.committed());
        let missing = self.missing.as_ref().map(|missing| &missing.through);
        missing.is_some_and(|through| !executed.covers(through) && !known.covers(through))
    }

    /// Through which slot of `lane` peers have trimmed, if this replica may come to do so too.
    pub(crate) fn adopted_through(&self, lane: Lane) -> Slot {
        let adoption = self.adoption.as_ref();
        adoption.map_or(Slot::ZERO, |adoption| adoption.through.through(lane))
    }

    /// Whether it has the instances that it counts as executed and has not trimmed, but for
    /// those in `named`.
    pub(crate) fn knows_what_it_executed(&self, named: &Dependencies) -> bool {
        let (committed, executed) = (self.instances.committed(), self.graph.executed());
        let unknown = |id: EntryId| !committed.contains(id) && !named.contains(id);
        !executed.lanes().any(|(lane, through, mut beyond)| {
            let mut slots = (committed.through(lane).0 + 1..=through.0).map(Slot);
            let is_unknown = |slot| unknown(EntryId { lane, slot });
            slots.any(is_unknown) || beyond.any(is_unknown)
        })
    }

    /// What was asked about is trimmed at a peer.
    pub(crate) fn too_far(
        &mut self,
        from: ReplicaId,
        through: &Frontier,
        horizon: &Frontier,
        out: &mut Out,
    ) {
        self.instances.heard_of_all(&Dependencies::from(horizon));
        let missing = self.missing.as_ref();
        if !self.graph.executed().covers(through)
            && missing.is_none_or(|missing| through.covers(&missing.through))
        {
            let through = through.complete_part();
            self.missing = Some(Missing { through, from });
            self.untold = true;
            self.ask_for_snapshot(out);
        }
    }

    /// Fetches a snapshot that holds what peers have trimmed and what was executed here.
    fn ask_for_snapshot(&self, out: &mut Out) {
        if !self.needs_snapshot() {
            return;
        }
        let Some(Missing { through, from }) = &self.missing else {
            return;
        };
        let (executed, from) = (self.graph.executed().clone(), *from);
        let mut at_least = through.clone();
        at_least.union_with(&executed);
        out.send(Dest::One(from), Message::Behind { executed });
        out.fetch(Fetch { from, at_least });
    }

    /// A peer that has to install a snapshot has executed this much. If ours holds less, another
    /// is taken after the next commit; where there is none, a no-op is proposed.
    pub(crate) fn lags(&mut self, now: Time, from: ReplicaId, executed: &Frontier, out: &mut Out) {
        if let Some(peer) = self.peers.get_mut(from.index()) {
            (peer.heard, peer.behind) = (Some(now), true);
        }
        self.trim(now, out);
        let held = self.snapshots.iter().chain(&self.offered);
        if self.snapshot_wanted || held.into_iter().any(|at| at.covers(executed)) {
            return;
        }
        self.snapshot_wanted = true;
        if !self.leading.keys().any(|id| id.lane == lane_of(self.me)) {
            self.propose(now, Batch::noop(), &Keys::All, out);
        }
    }

    /// Counts as trimmed what was trimmed where an installed snapshot is from, once all is known
    /// that was committed there.
    fn adopt(&mut self, out: &mut Out) {
        let executed = self.graph.executed();
        self.missing
            .take_if(|missing| executed.covers(&missing.through));
        let Some(adoption) = &self.adoption else {
            return;
        };
        let mut known = self.instances.committed().clone();
        known.union_with(&adoption.through);
        let at_once = self.config.mutated(Mutant::HorizonIgnored);
        if at_once || known.covers(&adoption.horizon) {
            let (through, horizon) = (adoption.through.clone(), adoption.horizon.clone());
            self.adoption = None;
            self.conflicts.trim(&through);
            self.instances.trim(&through, &horizon);
            self.give_up_trimmed();
            self.rewrite(out);
        }
    }

    /// What was decided elsewhere and is trimmed here needs no more work: nobody could answer.
    fn give_up_trimmed(&mut self) {
        let led = self.leading.keys();
        let heard = led
            .chain(self.troubles.keys())
            .chain(self.heard_waiting.keys());
        let over = heard.filter(|id| self.instances.is_trimmed(**id));
        for id in over.copied().collect::<Vec<_>>() {
            self.forget_troubles(id);
        }
    }

    /// The state machine now is a snapshot of another replica's.
    pub(crate) fn installed(&mut self, snapshot: &SnapshotRef, out: &mut Out) {
        self.take_over(snapshot);
        self.adopt(out);
        self.rewrite(out);
        self.snapshots.push_back(snapshot.at.clone());
        self.offer(out);
        self.untold = true;
    }

    /// Takes over what a snapshot says, and what is said with it.
    pub(crate) fn take_over(&mut self, snapshot: &SnapshotRef) {
        self.instances
            .heard_of_all(&Dependencies::from(&snapshot.at));
        self.snapshot = snapshot.at.clone();
        self.graph.install(&snapshot.at);
        self.conflicts.install(&snapshot.at);
        self.wanted.union_with(&snapshot.at.complete_part());
        let Some(anchor) = Anchor::of(snapshot) else {
            return;
        };
        self.instances
            .heard_of_all(&Dependencies::from(&anchor.horizon));
        for decision in anchor.beyond {
            let id = decision.id;
            let Some(instance) = self.instances.of(id).filter(|i| !i.is_committed()) else {
                continue;
            };
            instance.hold(decision.value, decision.dependencies);
            instance.phase = Phase::Committed;
            instance.init_dep = None;
            self.instances.set_committed(id);
            self.note_command(id);
            self.forget_troubles(id);
        }
        let through = snapshot.at.complete_part();
        if !self.instances.trimmed().covers(&through) {
            self.adoption = Some(Adoption {
                through,
                horizon: anchor.horizon,
            });
        }
    }
}
