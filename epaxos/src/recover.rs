//! A replica after a restart.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use quorate_core::id::{EntryId, ReplicaId, Slot, Time};
use quorate_core::protocol::{Context, Recovered, SnapshotRef};
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;

use crate::checkpoint::Peer;
use crate::config::Config;
use crate::conflicts::Conflicts;
use crate::graph::Graph;
use crate::instances::{Instance, coordinator, lane_of};
use crate::mutant::Mutant;
use crate::record::{Durable, Record};
use crate::replica::{EPaxos, Out};
use crate::thrifty::Calm;
use crate::watch::Deadlines;

impl EPaxos {
    /// The replica that its records and snapshot make; an error says what does not fit.
    ///
    /// It goes on in no ballot that it led. In the paper, where replicas do not come back, an initial
    /// coordinator that answers a recovery has not committed, which is why the answer leads to Nop. Of
    /// one that has come back this is true too, but for one case: what all replicas had answered as it
    /// proposed it, it may have committed, executed, and told, and remembers only that it had
    /// preaccepted it. Such an instance is *doubtful*. In all other cases it acted on no decision before it had
    /// accepted it durably. What a recovery concludes is argued in `docs/protocols/epaxos.md`.
    pub(crate) fn recovered(
        context: &Context,
        config: Config,
        past: Recovered<Record>,
    ) -> Result<EPaxos, String> {
        context.validate()?;
        let (me, n) = (context.me, context.n());
        config.validate()?;
        let sizes = config.sizes(n)?;
        let durable = Durable::fold(past.records)?;
        durable.validate(n)?;
        let executed = past.snapshot.as_ref().map(|s| s.at.clone());
        let mut replica = EPaxos {
            me,
            sizes,
            rng: ChaCha8Rng::from_seed(context.seed),
            next: durable.next(me),
            durable: None,
            unproposed: VecDeque::new(),
            answered_fast: Vec::new(),
            unheard: 0,
            calm: Calm::default(),
            instances: durable.instances,
            floor: durable.floor,
            conflicts: Conflicts::default(),
            snapshot: executed.clone().unwrap_or_default(),
            graph: Graph::new(executed.unwrap_or_default()),
            leading: BTreeMap::new(),
            unanswered: Deadlines::default(),
            waiting: BTreeSet::new(),
            heard_waiting: BTreeMap::new(),
            watched: Deadlines::default(),
            watched_through: BTreeMap::new(),
            troubles: BTreeMap::new(),
            peers: vec![Peer::default(); n],
            wanted: Default::default(),
            snapshots: VecDeque::new(),
            offered: None,
            rewrite_due: false,
            adoption: durable.adoption,
            missing: BTreeMap::new(),
            snapshot_wanted: false,
            untold: false,
            armed: [None; 3],
            conflict: None,
            config,
        };
        replica.doubt_own();
        replica.go_on_from(past.snapshot.as_ref())?;
        Ok(replica)
    }

    /// Doubts what an earlier life has coordinated, as far as it is not known committed.
    fn doubt_own(&mut self) {
        self.doubt_what_may_be_asked();
        if !self.config.mutated(Mutant::DoubtForgotten) {
            self.instances.doubt(lane_of(self.me));
        }
    }

    /// An earlier life may have asked the others about one command more than it had made durable,
    /// and votes of this life must not pass over what they know of it: a command that this
    /// replica does not know conflicts with all.
    fn doubt_what_may_be_asked(&mut self) {
        let lane = lane_of(self.me);
        let durable = self.instances.height(lane);
        if durable == Slot::ZERO || self.config.mutated(Mutant::AskedSlotReused) {
            return;
        }
        if self.config.mutated(Mutant::AskedPassedOver) {
            let slot = durable.next();
            return self.instances.heard_of(EntryId { lane, slot });
        }
        let known = self.instances.committed().through(lane);
        let known = known.max(self.adopted_through(lane));
        for slot in known.next().0..=durable.next().0 {
            let slot = Slot(slot);
            let id = EntryId { lane, slot };
            if !self.instances.is_committed(id) {
                self.instances.of(id);
            }
        }
    }

    /// Gets decided what an earlier life may have asked about.
    pub(crate) fn recover_own_gaps(&mut self, now: Time, out: &mut Out) {
        let unknown = |(id, instance): (EntryId, &Instance)| {
            let mine = id.lane == lane_of(self.me);
            (mine && instance.command.is_none() && !instance.is_committed()).then_some(id)
        };
        let gaps: Vec<EntryId> = self.instances.iter().filter_map(unknown).collect();
        for id in gaps {
            self.recover(now, id, out);
        }
    }

    /// Makes conflicts and graph from what is known, and goes on from the snapshot that the state
    /// machine was restored from.
    fn go_on_from(&mut self, snapshot: Option<&SnapshotRef>) -> Result<(), String> {
        let (trimmed, floor) = (self.instances.trimmed().clone(), self.floor.clone());
        if !self.graph.executed().covers(&trimmed) {
            return Err(format!(
                "instances through {trimmed:?} are trimmed, and the snapshot does not hold them"
            ));
        }
        self.conflicts.trim(&trimmed);
        self.conflicts.trim(&floor);
        self.wanted.union_with(&floor);
        self.settle_own_floor();
        let ids: Vec<_> = self.instances.iter().map(|(id, _)| id).collect();
        for id in ids {
            self.note_command(id);
            let known = self.instances.known(id);
            if let Some(instance) = known.filter(|instance| instance.is_committed()) {
                let dependencies = instance.dep.clone();
                self.instances.heard_of_all(&dependencies);
                self.enter_graph(id, dependencies);
            }
        }
        let Some(snapshot) = snapshot else {
            return Ok(());
        };
        let mut known = self.instances.committed().clone();
        if let Some(adoption) = &self.adoption {
            known.union_with(&adoption.through);
            known.union_with(&adoption.horizon);
        }
        if !known.covers(&snapshot.at) {
            if !self.is_acceptable(snapshot) {
                return Err(String::from("the snapshot is ahead of the records"));
            }
            self.take_over(snapshot);
            self.rewrite_due = true;
        }
        if !self.instances.committed().covers(&snapshot.at) {
            self.conflicts.install(&snapshot.at);
        }
        self.wanted.union_with(&snapshot.at.complete_part());
        self.snapshots.push_back(snapshot.at.clone());
        Ok(())
    }
}

impl Durable {
    /// Says what cannot be of a replica among `n`.
    fn validate(&self, n: usize) -> Result<(), String> {
        let mut ids = self.instances.iter().map(|(id, _)| id);
        match ids.find(|id| coordinator(*id).index() >= n) {
            None => Ok(()),
            Some(id) => Err(format!("an instance {id:?}, of {n} replicas")),
        }
    }

    /// The first slot of replica `me` that is not trimmed; slots begin with 1.
    fn next(&self, me: ReplicaId) -> Slot {
        let trimmed = self.instances.trimmed().through(lane_of(me));
        trimmed.next().max(Slot(1))
    }
}
