//! Which known commands a new one conflicts with, at a cost that depends on its keys and not on
//! how much is known.
//!
//! Two commands conflict if one writes a key that the other reads or writes, if one of them
//! touches everything ([`Keys::All`]), if one is a Nop, or if they hold the same client's request:
//! two coordinators may both have been given it, and which one executes it must be the same
//! everywhere. Reads do not conflict with reads.
//!
//! # What the sets hold, and why that is enough
//!
//! Visibility \[Ryabinin25\] rests on this: a replica that preaccepts a command answers with *at
//! least* all conflicting commands it has heard of. [`Conflicts::of`] gives all of those, and some
//! more, with one exception that is argued below.
//!
//! - *Per key and lane* the index remembers the [`EXACT`] highest slots exactly, and of what lies
//!   below only where it begins: all slots through there are named, whether they conflict or not
//!   (see [`crate::dependencies`] for why all, and not the highest alone). The same is done to the
//!   union over a command's keys. Both give a replica that knows less a set within that of one
//!   that knows more, so that coarsening alone never costs the fast path.
//! - *The floor*: what [`Conflicts::trim`] has forgotten by key is named in every set. A lane's
//!   floor is one span. Two replicas that have trimmed differently answer differently, which costs
//!   the fast path and nothing else; a coordinator avoids it if it names, beside the index's own
//!   answer, what all replicas are known to have executed, and replicas trim no further than what
//!   all are known to name.
//! - *The own lane*: of the lane of the command itself only slots below its own are named. Later
//!   ones can be known when its PreAccept comes late, and conflict; but they name it. For the
//!   owner of a lane proposes slot by slot, and knows its own earlier commands when it computes
//!   the dependencies D0 of the next (their records are durable before any message about them
//!   leaves, so a restart does not change that); and whatever dependencies a command is committed
//!   with, but for a Nop, they hold D0: they are a union of answers that each contain it, or D0
//!   itself. So the later command depends on the earlier one, and Visibility asks for no more. It
//!   follows that no set ever contains the id it was made for, and that a late PreAccept does not
//!   make a cycle of a lane's own commands.
//!
//! What is recorded is never taken back: if an instance turns out a Nop, or another command than
//! was heard of first, sets name it needlessly, which is safe.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use quorate_core::frontier::Frontier;
use quorate_core::id::{EntryId, Lane, Slot};
use quorate_core::machine::Keys;
use quorate_core::request::{Batch, SessionId};

use crate::dependencies::{Dependencies, Span};

/// How many slots of a lane a set names exactly, those of the floor apart; all below the next are
/// named too.
pub const EXACT: u64 = 8;

/// How many slots of a lane the floor holds exactly beyond where it is contiguous.
const EXACT_FLOOR: u64 = 64;

/// How many keys and requests the index has at least before it looks for what can be forgotten.
const SMALL: usize = 1024;

/// Whether the order of two commands matters, each given by what it touches and its requests.
pub fn conflict(one: (&Keys, &Batch), other: (&Keys, &Batch)) -> bool {
    let (one_keys, one) = one;
    let (other_keys, other) = other;
    one.is_empty()
        || other.is_empty()
        || one_keys.conflicts(other_keys)
        || !names(one).is_disjoint(&names(other))
}

fn names(batch: &Batch) -> BTreeSet<(SessionId, u64)> {
    let requests = batch.requests();
    requests.map(|r| (r.session, r.sequence)).collect()
}

/// The known commands, by what they touch.
#[derive(Clone, Debug, Default)]
pub struct Conflicts {
    /// Named in every set.
    floor: Dependencies,
    keys: BTreeMap<Bytes, Uses>,
    /// Commands that touch everything.
    barriers: Dependencies,
    /// By client's request, who holds it.
    requests: BTreeSet<(SessionId, u64, EntryId)>,
    /// The highest slot heard of in each lane.
    highest: BTreeMap<Lane, Slot>,
    /// How many keys and requests were left when it was last looked for what can be forgotten.
    left: usize,
}

/// The commands that touch a key.
#[derive(Clone, Debug, Default)]
struct Uses {
    reads: Dependencies,
    writes: Dependencies,
}

impl Conflicts {
    /// Takes in a command, or a Nop: a batch without requests. To be called when its instance
    /// first learns of it, whatever its phase; once more for an instance changes nothing.
    pub fn record(&mut self, id: EntryId, keys: &Keys, batch: &Batch) {
        let highest = self.highest.entry(id.lane).or_default();
        *highest = id.slot.max(*highest);
        if self.floor.contains(id) {
            return;
        }
        let (reads, writes) = match keys {
            Keys::Some { reads, writes } if !batch.is_empty() => (reads, writes),
            Keys::Some { .. } | Keys::All => return add(&mut self.barriers, id),
        };
        for key in writes {
            add(&mut self.uses(key).writes, id);
        }
        for key in reads.difference(writes) {
            add(&mut self.uses(key).reads, id);
        }
        for request in batch.requests() {
            self.requests
                .insert((request.session, request.sequence, id));
        }
    }

    fn uses(&mut self, key: &Bytes) -> &mut Uses {
        if !self.keys.contains_key(key) {
            // A copy of its own: the key may be part of a frame, which would be kept whole.
            let own = Bytes::copy_from_slice(key);
            return self.keys.entry(own).or_default();
        }
        self.keys.entry(key.clone()).or_default()
    }

    /// All recorded commands that conflict with the command of `id`, and more: see the module's
    /// documentation. Of the lane of `id`, only slots below it.
    pub fn of(&self, id: EntryId, keys: &Keys, batch: &Batch) -> Dependencies {
        let mut found = match keys {
            Keys::Some { reads, writes } if !batch.is_empty() => {
                let mut spans = self.barriers.spans().to_vec();
                for key in writes {
                    if let Some(uses) = self.keys.get(key) {
                        spans.extend_from_slice(uses.writes.spans());
                        spans.extend_from_slice(uses.reads.spans());
                    }
                }
                for key in reads.difference(writes) {
                    if let Some(uses) = self.keys.get(key) {
                        spans.extend_from_slice(uses.writes.spans());
                    }
                }
                spans.extend(self.holders(batch).map(Span::one));
                Dependencies::from_spans(spans)
            }
            Keys::Some { .. } | Keys::All => self.everything(),
        };
        found.remove_from(id.lane, id.slot);
        found.coarsen(EXACT);
        let mut floor = self.floor.clone();
        floor.remove_from(id.lane, id.slot);
        found.union_with(&floor);
        found
    }

    /// The instances that hold any of the requests of `batch`.
    fn holders(&self, batch: &Batch) -> impl Iterator<Item = EntryId> {
        const FIRST: EntryId = EntryId {
            lane: Lane(0),
            slot: Slot::ZERO,
        };
        batch.requests().flat_map(|request| {
            let (session, sequence) = (request.session, request.sequence);
            let from = self.requests.range((session, sequence, FIRST)..);
            from.take_while(move |(s, n, _)| (*s, *n) == (session, sequence))
                .map(|(.., id)| *id)
        })
    }

    fn everything(&self) -> Dependencies {
        let spans = self.highest.iter().map(|(lane, slot)| Span {
            lane: *lane,
            first: Slot(1),
            last: *slot,
        });
        Dependencies::from_spans(spans.collect())
    }

    /// Forgets by key what is executed here and complete: of each lane, the slots through which
    /// `executed` is contiguous. They are named in every set from now on. What was executed beyond
    /// stays known by its keys.
    ///
    /// Calling it often costs little: the index is searched only when it has doubled.
    pub fn trim(&mut self, executed: &Frontier) {
        for (lane, through, _) in executed.lanes() {
            self.floor.insert_through(lane, through);
        }
        self.forget();
    }

    /// A snapshot at `at` has become the state: the commands it holds may never have been
    /// recorded, and all are named in every set from now on, exceptions included.
    pub fn install(&mut self, at: &Frontier) {
        self.floor.union_with(&Dependencies::from(at));
        self.floor.coarsen(EXACT_FLOOR);
        self.forget();
    }

    fn forget(&mut self) {
        if self.len() >= SMALL.max(2 * self.left) {
            self.sweep();
        }
    }

    fn sweep(&mut self) {
        let floor = &self.floor;
        self.keys
            .retain(|_, uses| !floor.covers(&uses.reads) || !floor.covers(&uses.writes));
        self.requests.retain(|(.., id)| !floor.contains(*id));
        if floor.covers(&self.barriers) {
            self.barriers = Dependencies::none();
        }
        self.left = self.len();
    }

    /// What is named in every set.
    pub fn floor(&self) -> &Dependencies {
        &self.floor
    }

    /// How many keys and requests the index has: what it takes of memory.
    pub fn len(&self) -> usize {
        self.keys.len() + self.requests.len()
    }

    /// Whether the index knows of no key and no request.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

fn add(to: &mut Dependencies, id: EntryId) {
    if to.insert(id) {
        to.coarsen(EXACT);
    }
}

#[cfg(test)]
mod tests;
