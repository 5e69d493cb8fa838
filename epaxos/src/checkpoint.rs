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
//! A replica that lacks what is trimmed fetches a snapshot, from any of those who have trimmed it. A snapshot that
//! the fence covers is offered always, and the newest there is where somebody needs one: what a
//! replica lacks keeps its floor down, so that the fence may have to wait for the snapshot. The anchor says
//! what is trimmed, and what was known committed, and holds the instances beyond where lanes are complete. The
//! receiver itself may count as trimmed what is when it knows all that committed too; until
//! then it does not say what speaks against a command that does not name it. The rest of what the snapshot
//! holds it learns like anything else, or hears that it has been trimmed meanwhile; its floor covers none of it before.
//!
//! [`Progress::wanted`]: crate::message::Progress::wanted

use quorate_core::codec;
use quorate_core::frontier::Frontier;
use quorate_core::id::{EntryId, Lane, ReplicaId, Slot, Time};
use quorate_core::machine::Keys;
use quorate_core::protocol::{Dest, Fetch, SnapshotRef};
use quorate_core::request::Batch;
use rand::RngExt as _;
use serde::{Deserialize, Serialize};

use crate::dependencies::Dependencies;
use crate::instances::{Decision, Instance, Phase, Value, coordinator, lane_of};
use crate::message::{Message, Progress, is_within};
use crate::mutant::Mutant;
use crate::record::{self, Record};
use crate::replica::{EPaxos, Out};

/// How many snapshots wait to be behind the fence at most.
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

/// Instances that peers have trimmed, and that a durable snapshot holds here since one was installed. They
/// may be unknown here.
#[derive(Clone, Debug, Default)]
pub(crate) struct Adoption {
    /// Through which slot, by lane.
    pub(crate) through: Frontier,
    /// What must be known committed before they may count as trimmed here.
    pub(crate) horizon: Frontier,
}

/// What goes with a snapshot.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Anchor {
    /// What was known committed when the snapshot was offered, and all that it holds.
    horizon: Frontier,
    /// The instances that the snapshot holds beyond where lanes are complete.
    beyond: Vec<Decision>,
    /// What was trimmed then.
    trimmed: Frontier,
}

impl Anchor {
    fn of(snapshot: &SnapshotRef) -> Option<Anchor> {
        codec::decode("anchor", &snapshot.anchor).ok()
    }
}

/// What of `frontier` is in the complete part of `at`.
fn within(frontier: &Frontier, at: &Frontier) -> Frontier {
    let mut part = Frontier::default();
    for (lane, slot, _) in frontier.lanes() {
        part.complete(lane, slot.min(at.through(lane)));
    }
    part
}

/// Telling each other.
impl EPaxos {
    pub(crate) fn start(&mut self, now: Time, out: &mut Out) {
        self.untold = true;
        if std::mem::take(&mut self.rewrite_due) {
            self.rewrite(out);
        }
        self.tell_progress(out);
        self.trim(now, out);
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
        self.ask_for_snapshot(now, out);
        self.tell_progress(out);
        let committed = self.instances.committed();
        let differs = |peer: ReplicaId| {
            let peer = self.peers.get(peer.index());
            peer.is_some_and(|peer| peer.committed != *committed || peer.settled != self.floor)
        };
        self.untold = self.peers_of(self.me).any(differs)
            || !self.snapshots.is_empty()
            || self.adoption.is_some()
            || !self.missing.is_empty();
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
    /// Raises the floor to what is wanted, as far as that is executed here and known, or trimmed elsewhere, once
    /// everything known that does not name it is committed.
    fn raise_floor(&mut self, out: &mut Out) {
        let executed = self.graph.executed();
        let known = self.known_or_adopted();
        let mut floor = self.floor.clone();
        for (lane, slot, _) in self.wanted.lanes() {
            let most = executed.through(lane).min(known.through(lane));
            floor.complete(lane, slot.min(most));
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

    /// Trims what the fence covers, and offers the snapshot that holds it; where somebody needs one, the newest
    /// there is.
    fn trim(&mut self, now: Time, out: &mut Out) {
        self.adopt(out);
        let fenced = |at: &Frontier| self.is_fenced(now, &at.complete_part());
        let position = self.snapshots.iter().rposition(fenced);
        let newest = position.and_then(|position| self.snapshots.drain(..=position).next_back());
        if let Some(at) = newest {
            let through = at.complete_part();
            if !self.instances.trimmed().covers(&through) {
                let horizon = self.instances.committed().clone();
                self.instances.trim(&through, &horizon);
                self.rewrite(out);
            }
            self.offer(at, out);
        }
        let newest = self.snapshots.back();
        let newest = newest.filter(|at| self.offered.as_ref() != Some(at));
        let behind_fence_only = self.config.mutated(Mutant::OfferedBehindFenceOnly);
        if let Some(at) = newest.cloned()
            && self.is_snapshot_needed(now)
            && !behind_fence_only
        {
            self.offer(at, out);
        }
    }

    /// Whether a peer that was heard of lately needs a snapshot.
    fn is_snapshot_needed(&self, now: Time) -> bool {
        let needs = |peer: &Peer| peer.behind && self.is_heard(now, peer);
        self.peers.iter().any(needs)
    }

    fn is_heard(&self, now: Time, peer: &Peer) -> bool {
        let ago = peer.heard.map(|at| now.since(at));
        ago.is_some_and(|ago| ago <= self.config.patience)
    }

    fn is_fenced(&self, now: Time, through: &Frontier) -> bool {
        if self.instances.trimmed().covers(through) {
            return true;
        }
        let covers = |peer: &&Peer| peer.settled.covers(through);
        let fence = self.peers.iter().filter(covers).count();
        let is_waited_for = |peer: &Peer| !peer.behind && self.is_heard(now, peer);
        self.floor.covers(through)
            && self.instances.committed().covers(through)
            && fence > self.sizes.f
            && !self
                .peers
                .iter()
                .any(|peer| is_waited_for(peer) && !peer.committed.covers(through))
    }

    /// Offers a snapshot, unless a newer one is offered. What was adopted is trimmed elsewhere.
    fn offer(&mut self, at: Frontier, out: &mut Out) {
        let newer = |offered: &Frontier| *offered != at && offered.covers(&at);
        if self.offered.as_ref().is_some_and(newer) {
            return;
        }
        let mut horizon = self.instances.horizon().clone();
        horizon.union_with(&at);
        let mut trimmed = self.instances.trimmed().clone();
        if let Some(adoption) = &self.adoption {
            trimmed.union_with(&adoption.through);
            horizon.union_with(&adoption.horizon);
        }
        let mut beyond = Vec::new();
        let complete = at.complete_part();
        let held = |id: EntryId| at.contains(id) && !complete.contains(id);
        for (id, instance) in self.instances.iter().filter(|(id, _)| held(*id)) {
            if instance.is_committed() {
                beyond.push(Decision {
                    id,
                    value: instance.value(),
                    dependencies: instance.dep.clone(),
                });
            }
        }
        let anchor = Anchor {
            horizon,
            beyond,
            trimmed: within(&trimmed, &at),
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
        self.add_snapshot(snapshot.at);
        self.raise_floor(out);
        self.settle_claims();
        self.trim(now, out);
        self.tell_progress(out);
        self.untold = true;
    }

    /// Lets a durable snapshot wait for the fence. If there are too many, the oldest stays, which is nearest to
    /// it, and the newest, which holds the most.
    fn add_snapshot(&mut self, at: Frontier) {
        let oldest = self.config.mutated(Mutant::OldestSnapshotForgotten);
        if self.snapshots.len() >= MAX_SNAPSHOTS {
            match oldest {
                true => self.snapshots.pop_front(),
                false => self.snapshots.pop_back(),
            };
        }
        self.snapshots.push_back(at);
    }

    /// Writes the whole durable state anew.
    fn rewrite(&mut self, out: &mut Out) {
        let adoption = self.adoption.as_ref();
        let mut records = record::records(&self.instances, &self.floor, adoption);
        if self.config.mutated(Mutant::CommandOutOfRecords) {
            records.retain(|record| !matches!(record, Record::Known { .. }));
        }
        out.rewrite(records);
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
                && snapshot.at.covers(&anchor.trimmed)
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
        let lacks = |through: &Frontier| self.lacks(through);
        self.missing.values().any(lacks)
    }

    fn lacks(&self, through: &Frontier) -> bool {
        let (executed, known) = (self.graph.executed(), self.instances.committed());
        if executed.covers(through) || known.covers(through) {
            return false;
        }
        let mut sum = executed.clone();
        sum.union_with(known);
        !sum.covers(through)
    }

    /// What is known committed, and what peers have trimmed and is executed here.
    fn known_or_adopted(&self) -> Frontier {
        let mut known = self.instances.committed().clone();
        if let Some(adoption) = &self.adoption {
            known.union_with(&adoption.through);
        }
        known
    }

    /// Through which slot of `lane` peers have trimmed, if this replica may come to do so too.
    pub(crate) fn adopted_through(&self, lane: Lane) -> Slot {
        let adoption = self.adoption.as_ref();
        adoption.map_or(Slot::ZERO, |adoption| adoption.through.through(lane))
    }

    /// Whether it has the instances that peers have trimmed and that it has not, but for those in
    /// `named`.
    pub(crate) fn knows_what_it_adopted(&self, named: &Dependencies) -> bool {
        let Some(adoption) = &self.adoption else {
            return true;
        };
        let committed = self.instances.committed();
        let unknown = |id: EntryId| !committed.contains(id) && !named.contains(id);
        !adoption.through.lanes().any(|(lane, through, _)| {
            let mut slots = (committed.through(lane).0 + 1..=through.0).map(Slot);
            slots.any(|slot| unknown(EntryId { lane, slot }))
        })
    }

    /// What was asked about is trimmed at a peer. If it is executed here, with a snapshot, it need not be
    /// known; otherwise a snapshot is needed.
    pub(crate) fn too_far(
        &mut self,
        now: Time,
        from: ReplicaId,
        (through, horizon): (&Frontier, &Frontier),
        out: &mut Out,
    ) {
        self.instances.heard_of_all(&Dependencies::from(horizon));
        if let Some(peer) = self.peers.get_mut(from.index()) {
            peer.heard = Some(now);
        }
        self.untold = true;
        let through = through.complete_part();
        if self.graph.executed().covers(&through) {
            // What is not in a snapshot here may be forgotten in a crash, and asked for again.
            let through = within(&through, &self.snapshot);
            if !self.instances.trimmed().covers(&through) {
                self.extend_adoption(&through, horizon);
            }
            return self.adopt(out);
        }
        self.missing.entry(from).or_default().union_with(&through);
        if self.missing.values().all(|other| through.covers(other)) {
            self.ask_for_snapshot_of(from, out);
        }
    }

    /// Asks one of those who have trimmed what is lacking: each may be gone by now, or hold no snapshot that
    /// helps, so that it is another each time, of those heard of lately if there is one.
    fn ask_for_snapshot(&mut self, now: Time, out: &mut Out) {
        if !self.needs_snapshot() {
            return;
        }
        let lacking = self.missing.iter();
        let lacking = lacking.filter(|(_, through)| self.lacks(through));
        let heard = |from: &ReplicaId| {
            let peer = self.peers.get(from.index());
            peer.is_some_and(|peer| self.is_heard(now, peer))
        };
        let all: Vec<ReplicaId> = lacking.map(|(from, _)| *from).collect();
        let some: Vec<ReplicaId> = all.iter().copied().filter(heard).collect();
        let among = if some.is_empty() { all } else { some };
        let turn = match self.config.mutated(Mutant::OnePeerAsked) {
            true => 0,
            false => self.rng.random_range(0..among.len().max(1)),
        };
        if let Some(from) = among.get(turn) {
            self.ask_for_snapshot_of(*from, out);
        }
    }

    /// Fetches a snapshot that holds what a peer has trimmed and what was executed here.
    fn ask_for_snapshot_of(&self, from: ReplicaId, out: &mut Out) {
        let Some(through) = self.missing.get(&from).filter(|t| self.lacks(t)) else {
            return;
        };
        let executed = self.graph.executed().clone();
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
        if self.snapshot_wanted || self.offered.iter().any(|at| at.covers(executed)) {
            return;
        }
        self.snapshot_wanted = true;
        if !self.leading.keys().any(|id| id.lane == lane_of(self.me)) {
            self.take_requests(now, Batch::noop(), Keys::All, out);
        }
    }

    /// Counts as trimmed what was trimmed where an installed snapshot is from, once all is known
    /// that was committed there.
    fn adopt(&mut self, out: &mut Out) {
        let executed = self.graph.executed();
        self.missing.retain(|_, through| !executed.covers(through));
        let Some(adoption) = &self.adoption else {
            return;
        };
        let known = self.known_or_adopted();
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
    pub(crate) fn installed(&mut self, now: Time, snapshot: &SnapshotRef, out: &mut Out) {
        self.take_over(snapshot);
        self.adopt(out);
        self.rewrite(out);
        self.add_snapshot(snapshot.at.clone());
        self.trim(now, out);
        self.untold = true;
    }

    /// Peers have trimmed what is executed here.
    fn extend_adoption(&mut self, through: &Frontier, horizon: &Frontier) {
        let adoption = self.adoption.get_or_insert_default();
        adoption.through.union_with(through);
        adoption.horizon.union_with(horizon);
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
        let through = match self.config.mutated(Mutant::SnapshotTakenForTrimmed) {
            true => snapshot.at.complete_part(),
            false => anchor.trimmed.complete_part(),
        };
        self.extend_adoption(&through, &anchor.horizon);
    }
}
