//! The requests that a replica waits to see executed. "A backup is waiting for a request if it
//! received a valid request and has not executed it." [Castro99 §4.4]
//!
//! The patience is with each batch, not with the primary as such: a primary that orders other
//! requests and leaves one out is found out as well. [Clement09 §4]

use std::collections::BTreeMap;
use std::time::Duration;

use quorate_core::crypto::Digest;
use quorate_core::id::{ReplicaId, Slot, Time};
use quorate_core::protocol::Dest;
use quorate_core::request::{Batch, SessionId};

use crate::config::Config;
use crate::message::Message;
use crate::queue::Source;
use crate::replica::{Out, Pbft, Timer};

/// What a replica waits for.
#[derive(Debug)]
pub(crate) struct Waiting {
    batches: BTreeMap<Digest, Waited>,
    /// In which of them a request is; the first, if there are several.
    index: BTreeMap<(SessionId, u64), Digest>,
    /// How many batches each replica has here, and their bytes.
    shares: Vec<(usize, usize)>,
    /// Whether the timer runs.
    armed: bool,
}

#[derive(Debug)]
struct Waited {
    batch: Batch,
    origin: ReplicaId,
    /// How many of its requests have not been executed.
    left: usize,
    /// Since when the primary of the view knows of it, or should.
    since: Time,
    /// All backups have been told.
    escalated: bool,
    /// Through where others had executed when it was first due here and this replica was behind: a
    /// primary that has ordered it has done so by then.
    due_by: Option<Slot>,
}

impl Waiting {
    pub(crate) fn of(n: usize) -> Waiting {
        Waiting {
            batches: BTreeMap::new(),
            index: BTreeMap::new(),
            shares: vec![(0, 0); n],
            armed: false,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    fn contains(&self, digest: &Digest) -> bool {
        self.batches.contains_key(digest)
    }

    /// For how long the primary has known of a batch, or should have.
    fn waited(&self, digest: &Digest, now: Time) -> Option<Duration> {
        let waited = self.batches.get(digest)?;
        Some(now.since(waited.since))
    }

    /// Waits for a batch, unless `origin` has too many here, or all its requests are waited for.
    fn add(
        &mut self,
        now: Time,
        (origin, digest): (ReplicaId, Digest),
        batch: &Batch,
        config: &Config,
    ) {
        let Some((count, bytes)) = self.shares.get_mut(origin.index()) else {
            return;
        };
        let size = *bytes + batch.size();
        let full =
            *count >= config.max_waiting_batches || *bytes > 0 && size > config.max_waiting_bytes;
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
            (*count, *bytes) = (*count + 1, size);
            let waited = Waited {
                batch: batch.clone(),
                origin,
                left,
                since: now,
                escalated: false,
                due_by: None,
            };
            self.batches.insert(digest, waited);
        }
    }

    /// The requests of `batch` have been executed.
    pub(crate) fn executed(&mut self, batch: &Batch) {
        if self.is_empty() {
            return;
        }
        for request in batch.requests() {
            let Some(digest) = self.index.remove(&(request.session, request.sequence)) else {
                continue;
            };
            let Some(waited) = self.batches.get_mut(&digest) else {
                continue;
            };
            waited.left = waited.left.saturating_sub(1);
            if waited.left == 0 {
                let (origin, size) = (waited.origin, waited.batch.size());
                self.batches.remove(&digest);
                if let Some((count, bytes)) = self.shares.get_mut(origin.index()) {
                    *count = count.saturating_sub(1);
                    *bytes = bytes.saturating_sub(size);
                }
            }
        }
    }

    /// Waits for nothing any more: what has been executed is not known.
    pub(crate) fn clear(&mut self) {
        self.batches.clear();
        self.index.clear();
        self.shares.fill((0, 0));
    }

    /// The primary is given all the time there is.
    pub(crate) fn restart(&mut self, now: Time) {
        for waited in self.batches.values_mut() {
            (waited.since, waited.escalated) = (now, false);
        }
    }

    /// A view has begun: what earlier primaries had ordered by when says nothing of this one.
    fn forget_due(&mut self) {
        self.batches.values_mut().for_each(|w| w.due_by = None);
    }

    /// Whether all that is overdue may yet be executed by who has come through `executed`, where
    /// others are at `others` now.
    pub(crate) fn may_come(
        &mut self,
        (now, timeout): (Time, Duration),
        (executed, others): (Slot, Slot),
    ) -> bool {
        let waited = self.batches.values_mut();
        let overdue = waited.filter(|waited| waited.since + timeout <= now);
        let due_by = overdue.map(|waited| *waited.due_by.get_or_insert(others));
        due_by.min().is_none_or(|due_by| due_by > executed)
    }

    /// When something is to be done about what is waited for.
    fn deadline(&self, timeout: Duration) -> Option<Time> {
        let due = |waited: &Waited| match waited.escalated {
            true => waited.since + timeout,
            false => waited.since + timeout / 2,
        };
        self.batches.values().map(due).min()
    }

    fn is_overdue(&self, now: Time, timeout: Duration) -> bool {
        let mut waited = self.batches.values();
        waited.any(|waited| waited.since + timeout <= now)
    }

    /// The batches of which others must be told now, each with its origin.
    fn escalate(&mut self, now: Time, timeout: Duration) -> Vec<(ReplicaId, Batch)> {
        let due = self.batches.values_mut();
        let due = due.filter(|w| !w.escalated && w.since + timeout / 2 <= now);
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
        let to = match (self.leader(), self.waiting.waited(&digest, now)) {
            // The driver asks again when a view has begun; the primary has just been told.
            (Some(_), Some(waited)) if waited < self.patience() / 4 => return,
            (Some(primary), None) => Dest::One(primary),
            _ => Dest::Others,
        };
        let relayed = false;
        self.await_execution(now, (self.me, digest), &batch, out);
        out.send(to, Message::Forward { batch, relayed });
    }

    /// Takes requests of another replica's clients. A backup waits for them too, unless it has
    /// executed them of late, and tells the primary, which may not have heard; what is told so goes
    /// no further.
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
        } else if !relayed && !self.has_executed(&batch) {
            let digest = batch.digest();
            let known = self.waiting.contains(&digest);
            self.await_execution(now, (from, digest), &batch, out);
            // What there is no room to wait for is not passed on either, nor what has been.
            if let Some(primary) = self.leader().filter(|primary| *primary != from)
                && !known
                && self.waiting.contains(&digest)
            {
                let relayed = true;
                out.send(Dest::One(primary), Message::Forward { batch, relayed });
            }
        }
    }

    /// Waits for a batch with the digest given, of `origin`'s clients.
    pub(crate) fn await_execution(
        &mut self,
        now: Time,
        (origin, digest): (ReplicaId, Digest),
        batch: &Batch,
        out: &mut Out,
    ) {
        if !self.waiting.contains(&digest) {
            self.waiting.add(now, (origin, digest), batch, &self.config);
        }
        self.watch(out);
    }

    /// "It starts a timer when it receives a request and the timer is not already running."
    /// [Castro99 §4.4]
    pub(crate) fn watch(&mut self, out: &mut Out) {
        if self.waiting.armed || !self.is_active() || self.leads() {
            return;
        }
        if let Some(deadline) = self.waiting.deadline(self.patience()) {
            self.waiting.armed = true;
            out.arm(Timer::Request, deadline);
        }
    }

    pub(crate) fn stop_watching(&mut self, out: &mut Out) {
        self.waiting.armed = false;
        out.disarm(Timer::Request);
    }

    /// Something that is waited for is due, unless it has been executed meanwhile. "If the timer
    /// of backup i expires in view v, the backup starts a view change to move the system to view
    /// v + 1." [Castro99 §4.4]
    pub(crate) fn request_timed_out(&mut self, now: Time, out: &mut Out) {
        self.waiting.armed = false;
        if !self.is_active() || self.leads() {
            return;
        }
        let patience = self.patience();
        if self.waiting.is_overdue(now, patience) {
            return match self.is_behind(now) {
                true => self.be_patient_again(now, out),
                false => self.start_view_change(self.view.next(), out),
            };
        }
        // All are told of its own, and the primary once more of those that others have told it of: when
        // it was first told it may have known of a slot, and not that this replica is past it.
        for (origin, batch) in self.waiting.escalate(now, patience) {
            let relayed = origin != self.me;
            let to = match self.leader().filter(|_| relayed) {
                Some(primary) => Dest::One(primary),
                None => Dest::Others,
            };
            out.send(to, Message::Forward { batch, relayed });
        }
        self.watch(out);
    }

    /// A view has begun: its primary orders what it knows of; the backups tell it.
    pub(crate) fn wait_in_new_view(&mut self, now: Time, out: &mut Out) {
        let waited = self.waiting.batches.values();
        let waited = waited.map(|waited| (waited.origin, waited.batch.clone()));
        for (from, batch) in waited.collect::<Vec<_>>() {
            if self.leads() {
                let relayed = false;
                self.order(now, Source { from, relayed }, batch, out);
            } else if let Some(primary) = self.leader() {
                let relayed = from != self.me;
                out.send(Dest::One(primary), Message::Forward { batch, relayed });
            }
        }
        self.waiting.forget_due();
        self.be_patient_again(now, out);
    }
}
