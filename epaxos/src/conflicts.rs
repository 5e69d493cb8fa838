//! Which known commands a new one conflicts with, at a cost that depends on its keys and not on
//! how much is known.
//!
//! Two commands conflict if one writes a key that the other reads or writes, if one of them
//! touches everything ([`Footprint::All`]), if one is a Nop, or if they hold the same client's request:
//! two coordinators may both have been given it, and which one executes it must be the same
//! everywhere. So do requests of a session that are a [`WINDOW`] or more apart: once the later one
//! is executed, the session takes the earlier one for executed too. Reads do not conflict with
//! reads.
//!
//! # What the sets hold, and why that is enough
//!
//! Visibility \[Ryabinin25\] rests on this: a replica that preaccepts a command answers with *at
//! least* all conflicting commands it has heard of. [`Conflicts::enter`] gives all of those, and some
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
//!   the dependencies D0 of the next (a restart forgets at most one that others may have heard of,
//!   and takes that for a command that conflicts with all: see `recover.rs`); and whatever dependencies a command is committed
//!   with, but for a Nop, they hold D0: they are a union of answers that each contain it, or D0
//!   itself. So the later command depends on the earlier one, and Visibility asks for no more. It
//!   follows that no set ever contains the id it was made for, and that a late PreAccept does not
//!   make a cycle of a lane's own commands.
//!
//! What is recorded is never taken back: if an instance turns out a Nop, or another command than
//! was heard of first, sets name it needlessly, which is safe.

mod found;
mod marked;

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use quorate_core::frontier::Frontier;
use quorate_core::id::{EntryId, Lane, Slot};
use quorate_core::request::{Batch, SessionId};
use quorate_core::session::WINDOW;

use self::found::Found;
use self::marked::Marked;
use crate::dependencies::{Dependencies, Span};
use crate::footprint::Footprint;

/// How many slots of a lane a set names exactly, those of the floor apart; all below the next are
/// named too.
pub const EXACT: u64 = 8;

/// How many slots of a lane the index holds exactly for each key: below the last one that touched
/// the key, nearly all are executed, and a set of one span is the cheapest to build and compare.
pub const EXACT_OF_KEY: u64 = 1;

/// How many slots of a lane the floor holds exactly beyond where it is contiguous.
const EXACT_FLOOR: u64 = 64;

/// How many keys and clients the index has at least before it looks for what can be forgotten.
const SMALL: usize = 1024;

/// Whether the order of two commands matters, each given by what it touches and its requests.
pub fn conflict(one: (&Footprint, &Batch), other: (&Footprint, &Batch)) -> bool {
    let (one_keys, one) = one;
    let (other_keys, other) = other;
    one.is_empty()
        || other.is_empty()
        || one_keys.conflicts(other_keys)
        || share_order(one, &names(other))
}

/// Whether the sessions' tables tell apart in which order the requests are executed.
fn share_order(one: &Batch, names: &BTreeSet<(SessionId, u64)>) -> bool {
    one.requests().any(|request| {
        let (session, sequence) = (request.session, request.sequence);
        let any = |from, to| {
            names
                .range((session, from)..=(session, to))
                .next()
                .is_some()
        };
        any(sequence, sequence)
            || sequence.checked_sub(WINDOW).is_some_and(|to| any(0, to))
            || (sequence.checked_add(WINDOW)).is_some_and(|from| any(from, u64::MAX))
    })
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
    keys: Marked<Uses>,
    /// Commands that touch everything.
    barriers: Dependencies,
    requests: BTreeMap<SessionId, Held>,
    /// The highest slot heard of in each lane.
    highest: BTreeMap<Lane, Slot>,
    /// How many keys and clients were left when it was last looked for what can be forgotten.
    left: usize,
}

/// Who holds the requests of a session.
#[derive(Clone, Debug, Default)]
struct Held {
    /// Those less than a window behind the highest, ascending.
    recent: VecDeque<(u64, EntryId)>,
    /// Of the others only who holds them.
    old: Dependencies,
    highest: u64,
}

impl Held {
    fn record(&mut self, sequence: u64, id: EntryId, floor: &Dependencies) {
        // The oldest are at the front, as a rule.
        while self
            .recent
            .front()
            .is_some_and(|(_, id)| floor.contains(*id))
        {
            self.recent.pop_front();
        }
        let new = (sequence, id);
        if self.recent.back().is_none_or(|last| *last < new) {
            self.recent.push_back(new);
        } else if let Err(place) = self.recent.binary_search(&new) {
            self.recent.insert(place, new);
        }
        self.highest = self.highest.max(sequence);
        while let Some((sequence, id)) = self.recent.front().copied()
            && self.highest - sequence >= WINDOW
        {
            self.recent.pop_front();
            let floor = floor.through(id.lane);
            self.old.insert_recent(id, floor, EXACT_OF_KEY);
        }
    }

    /// Adds to `found` who holds the request, which is not known of old ones, and who holds one that
    /// is a window or more before it or after it, and more.
    fn name(&self, sequence: u64, found: &mut Found<'_>) {
        found.add_all(&self.old);
        let before = self.recent.iter();
        let before = before.take_while(|(s, _)| s.saturating_add(WINDOW) <= sequence);
        let after = self.recent.iter().rev();
        let after = after.take_while(|(s, _)| *s >= sequence.saturating_add(WINDOW));
        let from = match self.highest < sequence {
            true => self.recent.len(),
            false => self.recent.partition_point(|(other, _)| *other < sequence),
        };
        let same = self.recent.range(from..);
        let same = same.take_while(|(other, _)| *other == sequence);
        for (_, id) in before.chain(after).chain(same) {
            found.add(Span::one(*id));
        }
    }
}

/// The commands that touch a key.
#[derive(Clone, Debug, Default)]
enum Uses {
    #[default]
    None,
    /// Commands of one lane write it, as most keys: this one last, and all before it that do are at
    /// or below a slot. No memory of its own for these.
    Written {
        lane: Lane,
        last: Slot,
        through: Slot,
    },
    Some(Box<Sets>),
}

#[derive(Clone, Debug, Default)]
struct Sets {
    reads: Dependencies,
    writes: Dependencies,
}

impl Uses {
    fn write(&mut self, id: EntryId, floor: &Dependencies) {
        let first = Uses::Written {
            lane: id.lane,
            last: id.slot,
            through: Slot::ZERO,
        };
        match self {
            Uses::None => *self = first,
            Uses::Written {
                lane,
                last,
                through,
            } if *lane == id.lane => {
                *through = match id.slot.cmp(last) {
                    Ordering::Less => id.slot.max(*through),
                    Ordering::Equal => *through,
                    Ordering::Greater => *last,
                };
                *last = id.slot.max(*last);
            }
            // Every set names what the floor holds.
            Uses::Written { .. } if self.is_within(floor) => *self = first,
            Uses::Written { .. } | Uses::Some(_) => self.change(|sets| {
                let floor = floor.through(id.lane);
                sets.writes.insert_recent(id, floor, EXACT_OF_KEY);
            }),
        }
    }

    fn read(&mut self, id: EntryId, floor: &Dependencies) {
        self.change(|sets| {
            let floor = floor.through(id.lane);
            sets.reads.insert_recent(id, floor, EXACT_OF_KEY);
        });
    }

    fn change(&mut self, change: impl FnOnce(&mut Sets)) {
        let mut sets = match std::mem::take(self) {
            Uses::None => Box::default(),
            Uses::Written {
                lane,
                last,
                through,
            } => Box::new(Sets {
                writes: Dependencies::from_spans(written(lane, last, through).into()),
                ..Sets::default()
            }),
            Uses::Some(sets) => sets,
        };
        change(&mut sets);
        *self = Uses::Some(sets);
    }

    /// Adds to `found` those that write the key, and those that read it if `reads` is set.
    fn name(&self, reads: bool, found: &mut Found<'_>) {
        match self {
            Uses::None => {}
            Uses::Written {
                lane,
                last,
                through,
            } => {
                written(*lane, *last, *through)
                    .iter()
                    .for_each(|span| found.add(*span));
            }
            Uses::Some(sets) => {
                found.add_all(&sets.writes);
                if reads {
                    found.add_all(&sets.reads);
                }
            }
        }
    }

    fn is_within(&self, floor: &Dependencies) -> bool {
        match self {
            Uses::None => true,
            Uses::Written { lane, last, .. } => floor.through(*lane) >= *last,
            Uses::Some(sets) => floor.covers(&sets.reads) && floor.covers(&sets.writes),
        }
    }
}

/// All slots of the lane through `through`, and `last`.
fn written(lane: Lane, last: Slot, through: Slot) -> [Span; 2] {
    let lower = Span {
        lane,
        first: Slot(1),
        last: through,
    };
    [lower, Span::one(EntryId { lane, slot: last })]
}

impl Conflicts {
    /// Takes in a command, or a Nop: a batch without requests. Gives all that were recorded before
    /// and conflict with it, and more: see the module's documentation. Of the lane of `id`, only
    /// slots below it.
    ///
    /// To be called when the instance's command is first heard of, whatever its phase; once more for
    /// an instance changes nothing.
    pub fn enter(&mut self, id: EntryId, footprint: &Footprint, batch: &Batch) -> Dependencies {
        let floor = &self.floor;
        let mut found = Found::new(id, floor);
        let highest = self.highest.entry(id.lane).or_default();
        *highest = id.slot.max(*highest);
        let (reads, writes) = match footprint {
            Footprint::Some { reads, writes } if !batch.is_empty() => (reads, writes),
            Footprint::Some { .. } | Footprint::All => {
                everything(&self.highest).for_each(|span| found.add(span));
                let through = floor.through(id.lane);
                self.barriers.insert_recent(id, through, EXACT);
                record_requests(&mut self.requests, id, batch, floor);
                return found.finish();
            }
        };
        found.add_all(&self.barriers);
        self.keys.make_room(writes.iter().chain(reads.iter()));
        for key in writes.iter() {
            self.keys.change(key, |uses| {
                uses.name(true, &mut found);
                uses.write(id, floor);
            });
        }
        for key in reads.iter() {
            self.keys.change(key, |uses| {
                uses.name(false, &mut found);
                uses.read(id, floor);
            });
        }
        for group in batch.groups() {
            let held = self.requests.entry(group.session).or_default();
            for request in group.requests() {
                held.name(request.sequence, &mut found);
                held.record(request.sequence, id, floor);
            }
        }
        found.finish()
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
        self.keys.retain(|uses| !uses.is_within(floor));
        self.requests.retain(|_, held| {
            held.recent.retain(|(_, id)| !floor.contains(*id));
            !held.recent.is_empty() || !floor.covers(&held.old)
        });
        if floor.covers(&self.barriers) {
            self.barriers = Dependencies::none();
        }
        self.left = self.len();
    }

    /// Which instances are known to hold a request, if it is less than a window behind the highest of its
    /// session.
    pub fn holders(&self, session: SessionId, sequence: u64) -> impl Iterator<Item = EntryId> {
        let held = self.requests.get(&session).into_iter();
        let from = move |held: &Held| held.recent.partition_point(|(other, _)| *other < sequence);
        let recent = held.flat_map(move |held| held.recent.range(from(held)..));
        let same = recent.take_while(move |(other, _)| *other == sequence);
        same.map(|(_, id)| *id)
    }

    /// What is named in every set.
    pub fn floor(&self) -> &Dependencies {
        &self.floor
    }

    /// How many keys and clients the index has. What it keeps of each is bounded by how much of its
    /// history is not trimmed.
    pub fn len(&self) -> usize {
        self.keys.len() + self.requests.len()
    }

    /// Whether the index knows of no key and no client.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

fn record_requests(
    sessions: &mut BTreeMap<SessionId, Held>,
    id: EntryId,
    batch: &Batch,
    floor: &Dependencies,
) {
    for group in batch.groups() {
        let held = sessions.entry(group.session).or_default();
        for request in group.requests() {
            held.record(request.sequence, id, floor);
        }
    }
}

/// All slots heard of.
fn everything(highest: &BTreeMap<Lane, Slot>) -> impl Iterator<Item = Span> {
    highest.iter().map(|(lane, slot)| Span {
        lane: *lane,
        first: Slot(1),
        last: *slot,
    })
}

#[cfg(test)]
mod tests;
