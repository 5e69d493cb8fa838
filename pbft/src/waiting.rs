//! The requests that a replica waits to see executed. "A backup is waiting for a request if it
//! received a valid request and has not executed it." [Castro99 §4.4]
//!
//! Of each replica's clients it is one batch that a backup loses patience with: the one that it has
//! waited for longest ([`crate::fronts`]).

use std::collections::BTreeMap;
use std::time::Duration;

use quorate_core::crypto::Digest;
use quorate_core::id::{ReplicaId, Slot, Time};
use quorate_core::protocol::Dest;
use quorate_core::request::{Batch, SessionId};

use crate::config::Config;
use crate::fronts::{Fronts, Rule};
use crate::message::Message;
use crate::mutant::Mutant;
use crate::queue::Source;
use crate::replica::{Out, Pbft, Timer};

/// What a replica waits for.
#[derive(Debug)]
pub(crate) struct Waiting {
    batches: BTreeMap<Digest, Waited>,
    /// In which of them a request is; the first, if there are several.
    index: BTreeMap<(SessionId, u64), Digest>,
    /// Which of each replica's it is that the primary is judged by.
    fronts: Fronts,
    /// The bytes of each replica's batches here.
    bytes: Vec<usize>,
    /// How many the primary has not been told of.
    untold: usize,
    /// What it has been told of others' clients: how many batches, and their bytes.
    relayed: (usize, usize),
    /// Whose clients it is told of next.
    turn: usize,
    /// When the timer goes off, if it runs.
    armed: Option<Time>,
}

#[derive(Debug)]
struct Waited {
    batch: Batch,
    origin: ReplicaId,
    /// Its place among those of `origin`.
    place: u64,
    /// How many of its requests have not been executed.
    left: usize,
    /// This replica has told the primary of the view of it.
    told: bool,
    /// Since when that primary knows of it.
    since: Time,
    /// All backups have been told.
    escalated: bool,
    /// Through where others had executed when it was first due here and this replica was behind: a
    /// primary that has ordered it has done so by then.
    due_by: Option<Slot>,
}

/// What has been told to the primary and waits there, as far as is known here.
#[derive(Default)]
struct Room {
    count: usize,
    bytes: usize,
}

impl Room {
    /// Whether a batch of `size` has room too.
    fn take(&mut self, size: usize, config: &Config) -> bool {
        let bytes = self.bytes.saturating_add(size);
        let full = self.count >= config.max_queued_batches
            || self.bytes > 0 && bytes > config.max_queued_bytes;
        if config.mutated(Mutant::ToldWithoutRoom) {
            return true;
        }
        if !full {
            (self.count, self.bytes) = (self.count + 1, bytes);
        }
        !full
    }
}

impl Waiting {
    pub(crate) fn of(n: usize) -> Waiting {
        Waiting {
            batches: BTreeMap::new(),
            index: BTreeMap::new(),
            fronts: Fronts::of(n),
            bytes: vec![0; n],
            untold: 0,
            relayed: (0, 0),
            turn: 0,
            armed: None,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    fn contains(&self, digest: &Digest) -> bool {
        self.batches.contains_key(digest)
    }

    /// For how long the primary has known of a batch, or should have; nothing if it was not told.
    fn waited(&self, digest: &Digest, now: Time) -> Option<Duration> {
        let waited = self.batches.get(digest)?;
        Some(match waited.told {
            true => now.since(waited.since),
            false => Duration::ZERO,
        })
    }

    /// Waits for a batch, unless `origin` has too many here, or all its requests are waited for.
    /// How many this replica's own clients have under way is the driver's to bound.
    fn add(
        &mut self,
        now: Time,
        (origin, digest): (ReplicaId, Digest),
        batch: &Batch,
        bounds: Option<&Config>,
    ) {
        let count = self.fronts.count(origin);
        let Some(bytes) = self.bytes.get_mut(origin.index()) else {
            return;
        };
        let size = *bytes + batch.size();
        let full = bounds.is_some_and(|config| {
            count >= config.max_waiting_batches || *bytes > 0 && size > config.max_waiting_bytes
        });
        if full {
            return;
        }
        let mut left = 0;
        for request in batch.requests() {
            let key = (request.session, request.sequence);
            if let std::collections::btree_map::Entry::Vacant(entry) = self.index.entry(key) {
                entry.insert(digest);
                left += 1;
            }
        }
        if left > 0 {
            *bytes = size;
            self.untold += 1;
            let waited = Waited {
                batch: batch.clone(),
                origin,
                place: self.fronts.add(origin, digest),
                left,
                told: false,
                since: now,
                escalated: false,
                due_by: None,
            };
            self.batches.insert(digest, waited);
        }
    }

    /// A batch that others told of is one of this replica's own clients too, and does not wait behind
    /// theirs.
    fn take_over(&mut self, digest: Digest, me: ReplicaId) {
        let others = self.batches.get(&digest).is_some_and(|w| w.origin != me);
        if others && let Some(mut waited) = self.batches.remove(&digest) {
            self.leaves_line(&waited, me);
            (waited.origin, waited.told) = (me, false);
            waited.place = self.fronts.add(me, digest);
            if let Some(bytes) = self.bytes.get_mut(me.index()) {
                *bytes += waited.batch.size();
            }
            self.untold += 1;
            self.batches.insert(digest, waited);
        }
    }

    /// A slot with these requests has been executed.
    pub(crate) fn executed(&mut self, batch: &Batch, me: ReplicaId) {
        if self.is_empty() {
            return;
        }
        self.fronts.passed(batch.is_empty());
        for request in batch.requests() {
            let Some(digest) = self.index.remove(&(request.session, request.sequence)) else {
                continue;
            };
            let Some(waited) = self.batches.get_mut(&digest) else {
                continue;
            };
            waited.left = waited.left.saturating_sub(1);
            if waited.left == 0
                && let Some(waited) = self.batches.remove(&digest)
            {
                self.leaves_line(&waited, me);
            }
        }
    }

    fn leaves_line(&mut self, waited: &Waited, me: ReplicaId) {
        let (origin, size) = (waited.origin, waited.batch.size());
        self.fronts.remove(origin, waited.place);
        if let Some(bytes) = self.bytes.get_mut(origin.index()) {
            *bytes = bytes.saturating_sub(size);
        }
        if !waited.told {
            self.untold = self.untold.saturating_sub(1);
        } else if origin != me {
            let (count, bytes) = self.relayed;
            self.relayed = (count.saturating_sub(1), bytes.saturating_sub(size));
        }
    }

    /// Waits for nothing any more: what has been executed is not known.
    pub(crate) fn clear(&mut self) {
        self.batches.clear();
        self.index.clear();
        self.fronts.clear();
        self.bytes.fill(0);
        (self.untold, self.relayed) = (0, (0, 0));
    }

    /// The primary is given all the time there is.
    pub(crate) fn restart(&mut self, now: Time) {
        for waited in self.batches.values_mut() {
            (waited.since, waited.escalated) = (now, false);
        }
        self.fronts.restart(now);
    }

    /// What the step that ends now has changed. A batch that others stood before has all the time there
    /// is from now on, and is told once more in it: the primary may have had no room for it.
    pub(crate) fn settle(&mut self, now: Time, config: &Config) {
        let keeps = config.mutated(Mutant::FrontKeepsTime);
        for digest in self.fronts.settle(now, keeps) {
            if let Some(waited) = self.batches.get_mut(&digest) {
                (waited.since, waited.escalated) = (now, false);
            }
        }
    }

    /// A view has begun: its primary has been told of nothing, and what earlier primaries had ordered by
    /// when says nothing of this one.
    fn begin_view(&mut self) {
        for waited in self.batches.values_mut() {
            (waited.told, waited.due_by) = (false, None);
        }
        self.fronts.untell();
        (self.untold, self.relayed) = (self.batches.len(), (0, 0));
    }

    /// What the primary is to be told of now, as it has room: what it has no room for it would drop, and
    /// give the place to what comes later. It is told no more of a replica's clients than it
    /// holds for one, and no more of those of all others.
    fn take_due(&mut self, now: Time, me: ReplicaId, config: &Config) -> Vec<(ReplicaId, Batch)> {
        if self.untold == 0 {
            return Vec::new();
        }
        let (mut room, mut due) = (Room::default(), Vec::new());
        for (digest, told) in self.fronts.line(me) {
            let size = self.batches.get(&digest).map_or(0, |w| w.batch.size());
            if !room.take(size, config) {
                break;
            }
            due.extend((!told).then_some(digest));
        }
        due.extend(self.due_of_others(me, config));
        due.iter()
            .filter_map(|digest| self.tell(now, digest, me))
            .collect()
    }

    /// Of the others each has its turn.
    fn due_of_others(&mut self, me: ReplicaId, config: &Config) -> Vec<Digest> {
        let n = self.bytes.len().max(1);
        let (count, bytes) = self.relayed;
        let (mut room, mut due) = (Room { count, bytes }, Vec::new());
        let mut lines: Vec<Vec<Digest>> = ReplicaId::all(n)
            .map(|origin| {
                let line = self.fronts.line(origin).filter(|(_, told)| !told);
                let line = line.filter(|_| origin != me);
                line.map(|(digest, _)| digest).collect()
            })
            .collect();
        lines.iter_mut().for_each(|line| line.reverse());
        while lines.iter().any(|line| !line.is_empty()) {
            self.turn = (self.turn + 1) % n;
            let Some(digest) = lines.get_mut(self.turn).and_then(Vec::pop) else {
                continue;
            };
            let size = self.batches.get(&digest).map_or(0, |w| w.batch.size());
            if !room.take(size, config) {
                break;
            }
            due.push(digest);
        }
        due
    }

    fn tell(&mut self, now: Time, digest: &Digest, me: ReplicaId) -> Option<(ReplicaId, Batch)> {
        let waited = self.batches.get_mut(digest)?;
        (waited.told, waited.since, waited.escalated) = (true, now, false);
        self.untold = self.untold.saturating_sub(1);
        self.fronts.tell(now, (waited.origin, waited.place));
        if waited.origin != me {
            let (count, bytes) = self.relayed;
            self.relayed = (count + 1, bytes + waited.batch.size());
        }
        Some((waited.origin, waited.batch.clone()))
    }

    /// All batches, those of each replica's clients in the order in which they came.
    fn in_order(&self) -> impl Iterator<Item = (ReplicaId, &Batch)> {
        let digests = self.fronts.lines();
        let waited = digests.filter_map(|digest| self.batches.get(&digest));
        waited.map(|waited| (waited.origin, &waited.batch))
    }

    /// Whether all that is overdue may yet be executed by who has come through `executed`, where
    /// others are at `others` now.
    pub(crate) fn may_come(
        &mut self,
        (now, rule): (Time, &Rule),
        (executed, others): (Slot, Slot),
    ) -> bool {
        let overdue: Vec<Digest> = self.fronts.overdue(now, rule).collect();
        let due_by = overdue.iter().filter_map(|digest| {
            let waited = self.batches.get_mut(digest)?;
            Some(*waited.due_by.get_or_insert(others))
        });
        due_by.min().is_none_or(|due_by| due_by > executed)
    }

    /// When something is to be done about what is waited for.
    fn deadline(&self, rule: &Rule) -> Option<Time> {
        let waited = self.batches.values();
        let waited = waited.filter(|waited| waited.told && !waited.escalated);
        let told = waited.map(|waited| waited.since + rule.patience / 2).min();
        told.into_iter().chain(self.fronts.deadline(rule)).min()
    }

    fn is_overdue(&self, now: Time, rule: &Rule) -> bool {
        self.fronts.overdue(now, rule).next().is_some()
    }

    /// The batches of which others must be told now, each with its origin.
    fn escalate(&mut self, now: Time, patience: Duration) -> Vec<(ReplicaId, Batch)> {
        let due = self.batches.values_mut();
        let due = due.filter(|w| w.told && !w.escalated && w.since + patience / 2 <= now);
        let told = due.map(|waited| {
            waited.escalated = true;
            (waited.origin, waited.batch.clone())
        });
        told.collect()
    }
}

impl Pbft {
    /// Takes requests of this replica's clients: to order them, or for the primary to do it. Asked
    /// a second time, it tells all, and all will be waiting. [Castro99 §4.4]
    pub(crate) fn propose(&mut self, now: Time, batch: Batch, out: &mut Out) {
        if batch.is_empty() {
            return;
        }
        if self.leads() {
            let (from, relayed) = (self.me, false);
            return self.order(now, Source { from, relayed }, batch, out);
        }
        let digest = batch.digest();
        let known = self.waiting.waited(&digest, now);
        self.await_execution(now, (self.me, digest), &batch);
        let to = match (self.leader(), known) {
            // The primary is told as soon as it has room.
            (Some(_), None) if self.waiting.contains(&digest) => return,
            (Some(primary), None) => Dest::One(primary),
            // The driver asks again when a view has begun; the primary has just been told.
            (Some(_), Some(waited)) if waited < self.patience() / 4 => return,
            _ => Dest::Others,
        };
        let relayed = false;
        out.send(to, Message::Forward { batch, relayed });
    }

    /// Tells the primary of what is waited for, within the room that it has.
    pub(crate) fn tell_primary(&mut self, now: Time, out: &mut Out) {
        let Some(primary) = self.leader().filter(|primary| *primary != self.me) else {
            return;
        };
        for (origin, batch) in self.waiting.take_due(now, self.me, &self.config) {
            let relayed = origin != self.me;
            out.send(Dest::One(primary), Message::Forward { batch, relayed });
        }
    }

    /// Takes requests of another replica's clients. A backup waits for them too, unless it has
    /// executed them of late, and so tells the primary, which may not have heard; what is told so goes
    /// no further. The primary itself has nobody to tell.
    pub(crate) fn forwarded(
        &mut self,
        now: Time,
        from: ReplicaId,
        (batch, relayed): (Batch, bool),
        out: &mut Out,
    ) {
        if batch.is_empty() {
            return;
        }
        if self.leads() {
            self.order(now, Source { from, relayed }, batch, out);
        } else if !relayed && self.leader() != Some(from) && !self.has_executed(&batch) {
            self.await_execution(now, (from, batch.digest()), &batch);
        }
    }

    /// Waits for a batch with the digest given, of `origin`'s clients.
    pub(crate) fn await_execution(
        &mut self,
        now: Time,
        (origin, digest): (ReplicaId, Digest),
        batch: &Batch,
    ) {
        match self.waiting.contains(&digest) {
            true if origin == self.me => self.waiting.take_over(digest, origin),
            true => {}
            false => {
                let bounds = Some(&self.config).filter(|_| origin != self.me);
                self.waiting.add(now, (origin, digest), batch, bounds);
            }
        }
    }

    /// "It starts a timer when it receives a request and the timer is not already running."
    /// [Castro99 §4.4]
    pub(crate) fn watch(&mut self, out: &mut Out) {
        if !self.is_active() || self.leads() {
            return;
        }
        let rule = self.rule();
        let deadline = match self.waiting.armed {
            // Others' turns may have passed meanwhile.
            Some(at) => self.waiting.fronts.deadline(&rule).filter(|due| *due < at),
            None => self.waiting.deadline(&rule),
        };
        if let Some(deadline) = deadline {
            self.waiting.armed = Some(deadline);
            out.arm(Timer::Request, deadline);
        }
    }

    pub(crate) fn stop_watching(&mut self, out: &mut Out) {
        self.waiting.armed = None;
        out.disarm(Timer::Request);
    }

    /// Something that is waited for is due, unless it has been executed meanwhile. "If the timer
    /// of backup i expires in view v, the backup starts a view change to move the system to view
    /// v + 1." [Castro99 §4.4]
    pub(crate) fn request_timed_out(&mut self, now: Time, out: &mut Out) {
        self.waiting.armed = None;
        if !self.is_active() || self.leads() {
            return;
        }
        let rule = self.rule();
        if self.waiting.is_overdue(now, &rule) {
            return match self.is_behind(now) {
                true => self.be_patient_again(now, out),
                false => self.start_view_change(self.view.next(), out),
            };
        }
        // All are told of its own, and the primary once more of those that others have told it of: when
        // it was first told it may have known of a slot, and not that this replica is past it.
        for (origin, batch) in self.waiting.escalate(now, rule.patience) {
            let relayed = origin != self.me;
            let to = match self.leader().filter(|_| relayed) {
                Some(primary) => Dest::One(primary),
                None => Dest::Others,
            };
            out.send(to, Message::Forward { batch, relayed });
        }
    }

    /// A view has begun: its primary orders what it knows of; the backups tell it.
    pub(crate) fn wait_in_new_view(&mut self, now: Time, out: &mut Out) {
        if self.leads() {
            let waited = self.waiting.in_order();
            let waited: Vec<_> = waited.map(|(from, batch)| (from, batch.clone())).collect();
            for (from, batch) in waited {
                let relayed = false;
                self.order(now, Source { from, relayed }, batch, out);
            }
        }
        self.waiting.begin_view();
        self.be_patient_again(now, out);
    }
}
