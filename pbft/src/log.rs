//! Views, and what a replica knows of each slot. [Castro99 §4.2]

use std::fmt;
use std::sync::LazyLock;

use quorate_core::crypto::{Digest, Signature};
use quorate_core::id::{ReplicaId, Slot};
use quorate_core::window::Window;
use serde::{Deserialize, Serialize};

use crate::certificate::{PreparedCertificate, Proposal};
use crate::entry::Entry;

/// A view: a configuration with one primary. [Castro99 §4]
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct View(pub u64);

impl View {
    /// The view after this one.
    pub fn next(self) -> View {
        View(self.0.saturating_add(1))
    }

    /// "The primary of a view is replica p such that p = v mod |R|." [Castro99 §4]
    pub fn primary(self, n: usize) -> ReplicaId {
        ReplicaId((self.0 % n.max(1) as u64) as u8)
    }
}

impl fmt::Debug for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "v{}", self.0)
    }
}

impl fmt::Display for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// The digest of the null request, which "goes through the protocol like other requests, but its
/// execution is a no-op". [Castro99 §4.4]
pub(crate) static NULL: LazyLock<Digest> = LazyLock::new(|| Entry::default().digest());

static NULL_ENTRY: LazyLock<Entry> = LazyLock::new(Entry::default);

/// What a replica knows of a slot.
#[derive(Clone, Debug, Default)]
pub(crate) struct Instance {
    // Durable.
    /// The pre-prepare accepted last: of the current view, if there is one in it.
    accepted: Option<Proposal>,
    /// The certificate of the latest view in which the slot prepared.
    prepared: Option<PreparedCertificate>,
    /// What was accepted, with its batch, in views before that of `accepted`, in which or after
    /// which nothing has prepared here: a certificate of such a view may yet be shown.
    earlier: Vec<(View, Digest)>,
    /// The entries of all these digests and the one below, as far as they are here.
    bodies: Vec<(Digest, Entry)>,

    // Volatile.
    /// Whether `accepted` counts: a primary's own does when it has come back to it.
    pub(crate) counts: bool,
    /// The prepares of the current view: the first of each replica.
    prepares: Vec<(ReplicaId, Digest, Signature)>,
    /// The commit of the latest view of each replica.
    commits: Vec<(ReplicaId, View, Digest)>,
    /// What others say is decided: the first of each.
    claims: Vec<(ReplicaId, Digest)>,
    /// The digest that has been decided.
    committed: Option<Digest>,
}

impl Instance {
    pub(crate) fn accepted(&self) -> Option<&Proposal> {
        self.accepted.as_ref()
    }

    /// The pre-prepare accepted in `view`.
    pub(crate) fn accepted_in(&self, view: View) -> Option<&Proposal> {
        self.accepted.as_ref().filter(|p| p.view == view)
    }

    pub(crate) fn prepared(&self) -> Option<&PreparedCertificate> {
        self.prepared.as_ref()
    }

    pub(crate) fn committed(&self) -> Option<Digest> {
        self.committed
    }

    /// Accepts a pre-prepare.
    ///
    /// The batch of an earlier one is kept. Of what has prepared anywhere, f + 1 correct replicas
    /// have accepted the batch; one of these is among the correct ones whose view changes make a
    /// later view; and if that view takes up this batch, none of them has shown anything that
    /// prepared later. So one of them has it still, even if he who shows the certificate keeps the
    /// batch to himself. [Castro99 §4.4]
    pub(crate) fn accept(&mut self, proposal: Proposal) {
        let view = proposal.view;
        let last = self.accepted.replace(proposal);
        if let Some(last) = last.filter(|last| last.view < view) {
            self.keep_earlier(last.view, last.digest);
        }
        self.drop_idle_bodies();
    }

    /// Keeps the batch of a pre-prepare that was accepted in an earlier view, if it is here.
    fn keep_earlier(&mut self, view: View, digest: Digest) {
        let held = self.bodies.iter().any(|(d, _)| *d == digest);
        let prepared = self.prepared.as_ref().is_some_and(|p| p.view() >= view);
        if held && !prepared && self.committed.is_none() {
            self.earlier.push((view, digest));
        }
    }

    /// Restores an entry that was kept for its view.
    pub(crate) fn restore_earlier(&mut self, view: View, entry: Entry) {
        let digest = entry.digest();
        self.bodies.push((digest, entry));
        self.keep_earlier(view, digest);
        self.drop_idle_bodies();
    }

    /// What is kept for views that were left: each digest with the latest of them.
    pub(crate) fn earlier(&self, digest: &Digest) -> Option<View> {
        let views = self.earlier.iter().filter(|(_, d)| d == digest);
        views.map(|(view, _)| *view).max()
    }

    pub(crate) fn prepare(&mut self, certificate: PreparedCertificate) {
        let prepared = certificate.view();
        self.earlier.retain(|(view, _)| *view > prepared);
        self.prepared = Some(certificate);
        self.drop_idle_bodies();
    }

    pub(crate) fn commit(&mut self, digest: Digest) {
        self.committed = Some(digest);
        self.earlier.clear();
        self.drop_idle_bodies();
    }

    /// Whether `digest` is one that this replica has to do with in this slot.
    fn refers_to(&self, digest: &Digest) -> bool {
        let accepted = self.accepted.as_ref().map(|p| p.digest);
        let prepared = self.prepared.as_ref().map(PreparedCertificate::digest);
        [accepted, prepared, self.committed].contains(&Some(*digest))
            || self.earlier.iter().any(|(_, d)| d == digest)
    }

    fn drop_idle_bodies(&mut self) {
        let mut bodies = std::mem::take(&mut self.bodies);
        bodies.retain(|(digest, _)| self.refers_to(digest));
        self.bodies = bodies;
    }

    /// The entry with `digest`, if it is here. The null request is everywhere.
    pub(crate) fn body(&self, digest: &Digest) -> Option<&Entry> {
        let held = self.bodies.iter().find(|(d, _)| d == digest);
        match held {
            Some((_, entry)) => Some(entry),
            None => (*digest == *NULL).then_some(&*NULL_ENTRY),
        }
    }

    /// The entry accepted in `view`, if it is here.
    pub(crate) fn entry_in(&self, view: View) -> Option<&Entry> {
        self.body(&self.accepted_in(view)?.digest)
    }

    /// Whether the entry with `digest` is missing here.
    pub(crate) fn lacks(&self, digest: &Digest) -> bool {
        self.refers_to(digest) && self.body(digest).is_none()
    }

    /// The digests whose entries are missing here.
    pub(crate) fn missing(&self) -> impl Iterator<Item = Digest> {
        let accepted = self.accepted.as_ref().map(|p| p.digest);
        let wanted = [self.committed, accepted].into_iter().flatten();
        wanted.filter(|digest| self.lacks(digest))
    }

    /// Keeps an entry that it refers to.
    pub(crate) fn keep(&mut self, digest: Digest, entry: Entry) {
        if self.lacks(&digest) {
            self.bodies.push((digest, entry));
        }
    }

    /// All entries here, for the records.
    pub(crate) fn bodies(&self) -> &[(Digest, Entry)] {
        &self.bodies
    }

    /// Counts a prepare of the current view: the first of each replica.
    pub(crate) fn count_prepare(&mut self, from: ReplicaId, digest: Digest, signature: Signature) {
        if self.prepares.iter().all(|(voter, ..)| *voter != from) {
            self.prepares.push((from, digest, signature));
        }
    }

    /// The prepares of the current view for `digest`.
    pub(crate) fn prepares_for(&self, digest: &Digest) -> Vec<(ReplicaId, Signature)> {
        let equal = self.prepares.iter().filter(|(_, d, _)| d == digest);
        equal
            .map(|(from, _, signature)| (*from, *signature))
            .collect()
    }

    /// Forgets the prepares of the view that is left.
    pub(crate) fn leave_view(&mut self) {
        self.prepares.clear();
        self.counts = false;
    }

    /// Counts a commit, if it is of a later view than the replica's last.
    pub(crate) fn count_commit(&mut self, from: ReplicaId, view: View, digest: Digest) {
        match self.commits.iter_mut().find(|(voter, ..)| *voter == from) {
            Some(last) if last.1 < view => *last = (from, view, digest),
            Some(_) => {}
            None => self.commits.push((from, view, digest)),
        }
    }

    /// Counts what `from` says is decided: the first that it says.
    pub(crate) fn count_claim(&mut self, from: ReplicaId, digest: Digest) {
        if self.claims.iter().all(|(claimant, _)| *claimant != from) {
            self.claims.push((from, digest));
        }
    }

    /// How many replicas say that `digest` is decided.
    pub(crate) fn claims_for(&self, digest: &Digest) -> usize {
        self.claims.iter().filter(|(_, d)| d == digest).count()
    }

    /// How many replicas have committed `digest` in `view`.
    pub(crate) fn commits_for(&self, view: View, digest: &Digest) -> usize {
        let equal = |(_, v, d): &&(ReplicaId, View, Digest)| *v == view && d == digest;
        self.commits.iter().filter(equal).count()
    }
}

/// The slots between the watermarks. [Castro99 §4.3]
#[derive(Clone, Debug)]
pub(crate) struct Log {
    slots: Window<Instance>,
    width: usize,
}

impl Log {
    /// An empty log of at most `width` slots after `low`.
    pub(crate) fn after(low: Slot, width: u64) -> Log {
        Log {
            slots: Window::after(low),
            width: width as usize,
        }
    }

    /// h: the last stable checkpoint.
    pub(crate) fn low(&self) -> Slot {
        self.slots.compacted()
    }

    /// H: the last slot that may be spoken of.
    pub(crate) fn high(&self) -> Slot {
        Slot(self.low().0.saturating_add(self.width as u64))
    }

    /// How many bytes the batches have that are accepted in `view` or decided. Those of views that were
    /// left take no room from a primary: who has one has given it no slot in this view.
    pub(crate) fn bytes_in(&self, view: View) -> usize {
        let entries = self.slots.iter().filter_map(|(_, instance)| {
            let decided = instance.committed.and_then(|digest| instance.body(&digest));
            decided.or_else(|| instance.entry_in(view))
        });
        entries.map(Entry::size).sum()
    }

    pub(crate) fn contains(&self, slot: Slot) -> bool {
        slot > self.low() && slot <= self.high()
    }

    /// The last slot of which anything is known.
    pub(crate) fn last(&self) -> Slot {
        self.slots.last()
    }

    pub(crate) fn slot(&self, slot: Slot) -> Option<&Instance> {
        self.slots.slot(slot)
    }

    /// What is known of `slot`, to be changed; `None` outside the watermarks.
    pub(crate) fn entry(&mut self, slot: Slot) -> Option<&mut Instance> {
        self.slots.entry(slot, self.width)
    }

    pub(crate) fn iter_from(&self, from: Slot) -> impl Iterator<Item = (Slot, &Instance)> {
        self.slots.iter_from(from)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (Slot, &Instance)> {
        self.slots.iter()
    }

    /// Changes all that is known.
    pub(crate) fn for_each(&mut self, mut change: impl FnMut(&mut Instance)) {
        let slots: Vec<Slot> = self.slots.iter().map(|(slot, _)| slot).collect();
        for slot in slots {
            if let Some(instance) = self.slots.slot_mut(slot) {
                change(instance);
            }
        }
    }

    /// Drops all through a stable checkpoint. [Castro99 §4.3]
    pub(crate) fn compact_through(&mut self, slot: Slot) {
        self.slots.compact_through(slot);
    }
}
