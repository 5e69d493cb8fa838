//! A recovery that waits for other instances, which speak against its own. \[Ryabinin25\]

use std::collections::{BTreeMap, BTreeSet};

use quorate_core::id::{EntryId, ReplicaId, ReplicaSet, Time};
use quorate_core::protocol::Dest;
use quorate_core::quorum::Tally;

use crate::dependencies::Dependencies;
use crate::instances::{Ballot, Phase, Value, coordinator};
use crate::message::{Message, Report};
use crate::mutant::Mutant;
use crate::normal::{Leading, Stage};
use crate::replica::{EPaxos, Out};

/// A recovery that waits for other instances.
#[derive(Clone, Debug)]
pub(crate) struct Waiting {
    /// Q.
    pub(crate) quorum: ReplicaSet,
    /// Rmax: who of Q had preaccepted the command with the coordinator's dependencies.
    pub(crate) unchanged: ReplicaSet,
    /// D: those dependencies.
    pub(crate) dependencies: Dependencies,
    /// I.
    pub(crate) blockers: BTreeSet<EntryId>,
    /// What came from outside Q.
    pub(crate) late: BTreeMap<ReplicaId, Report>,
}

impl EPaxos {
    /// Waits, unless that is over at once, and tells all.
    pub(crate) fn wait(
        &mut self,
        now: Time,
        (id, ballot): (EntryId, Ballot),
        waiting: Waiting,
        out: &mut Out,
    ) {
        self.lead(now, id, ballot, Stage::Waiting(Box::new(waiting)));
        self.waiting.insert(id);
        self.resolve(now, id, out);
        if let Some(Leading {
            stage: Stage::Waiting(waiting),
            ..
        }) = self.leading.get(&id)
        {
            self.tell_waiting(id, waiting, out);
        }
    }

    /// The initial coordinator is none of Q: its report would have ended the recovery. Rule (c) counts
    /// it for itself.
    pub(crate) fn tell_waiting(&self, id: EntryId, waiting: &Waiting, out: &mut Out) {
        let preaccepted = waiting.unchanged.len();
        if !self.config.mutated(Mutant::WaitingLeftOut) {
            out.send(Dest::All, Message::Waiting { id, preaccepted });
        }
    }

    /// Whether the command cannot have been committed on the fast path, by who had preaccepted it,
    /// or what it waits for.
    fn is_ruled_out(&self, waiting: &Waiting) -> bool {
        let outside = |other: &EntryId| !waiting.quorum.contains(coordinator(*other));
        let enough = self.sizes.n - self.sizes.f - self.sizes.e;
        let other_need_not = |other: &EntryId| {
            let most = self.heard_waiting.get(other);
            most.is_some_and(|preaccepted| *preaccepted > enough)
        };
        // So many at least a fast quorum has in Q; then it has all the others too.
        let least = waiting.unchanged.len() + self.sizes.e == waiting.quorum.len();
        (least && waiting.blockers.iter().any(outside))
            || waiting.blockers.iter().any(other_need_not)
    }

    /// The recovery of `id` waits somewhere.
    pub(crate) fn other_waits(
        &mut self,
        now: Time,
        id: EntryId,
        preaccepted: usize,
        out: &mut Out,
    ) {
        self.instances.heard_of(id);
        let most = self.heard_waiting.entry(id).or_default();
        *most = preaccepted.max(*most);
        self.resolve_waiting(now, out);
    }

    /// Looks whether recoveries of this replica's still have to wait.
    pub(crate) fn resolve_waiting(&mut self, now: Time, out: &mut Out) {
        for id in self.waiting.iter().copied().collect::<Vec<_>>() {
            self.resolve(now, id, out);
        }
    }

    /// The four ways in which waiting ends. \[Ryabinin25: Waiting\]
    pub(crate) fn resolve(&mut self, now: Time, id: EntryId, out: &mut Out) {
        let Some(Leading {
            ballot,
            stage: Stage::Waiting(waiting),
            ..
        }) = self.leading.get(&id)
        else {
            return;
        };
        let ballot = *ballot;
        let accepted = waiting.late.values().find(|r| r.phase == Phase::Accepted);
        if let Some(report) = accepted {
            let value = (report.value.clone(), report.dependencies.clone());
            return self.propose_accept(now, (id, ballot), value, Tally::default(), out);
        }
        let coordinator = waiting.late.get(&coordinator(id));
        let coordinator = coordinator
            .filter(|report| self.ends_asking(report))
            .cloned();
        let all = waiting.unchanged == waiting.quorum;
        let (mut against, mut all_settled) = (false, true);
        for other in &waiting.blockers {
            match self.speaks_against(id, *other) {
                Some(speaks) => against |= speaks,
                None => all_settled = false,
            }
        }
        if against || self.is_ruled_out(waiting) {
            return self.accept_nop(now, id, ballot, out);
        }
        if let Some(report) = coordinator {
            return self.conclude_from_coordinator(now, (id, ballot), (&report, all), out);
        }
        if all_settled {
            let value = (Value::Initial, waiting.dependencies.clone());
            self.propose_accept(now, (id, ballot), value, Tally::default(), out);
        }
    }

    /// Whether `other`, which blocks `id`, is committed as a command that does not depend on it;
    /// `None` as long as it is not committed.
    fn speaks_against(&self, id: EntryId, other: EntryId) -> Option<bool> {
        if !self.instances.is_committed(other) {
            return None;
        }
        // Where something is trimmed that the dependencies of `id` do not name, `id` was not
        // committed on the fast path: see `checkpoint.rs`. Nop is safe.
        let known = self.instances.known(other);
        Some(known.is_none_or(|i| !i.nop && !i.dep.contains(id)))
    }
}
