//! Sets of instance ids: what a command depends on.
//!
//! A command may depend on all of a lane's history. What is far back is named by spans of slots,
//! most often one a lane, which begins at the first slot; what is recent, one by one. So a set
//! takes a few bytes a lane however long the history is.
//!
//! **"Through a slot" means every slot of the lane through it**, never only the highest that
//! conflicts. If a set named the highest conflicting instance of a lane and left it to that
//! one's own dependencies to lead further back, a recovery that commits it as a Nop, which
//! depends on nothing, would cut the chain, and older conflicting commands would be in no order
//! with this one. Naming more than what conflicts is always safe: Visibility \[Ryabinin25\] asks
//! of two conflicting commands that one be among the dependencies of the other, and of commands
//! that do not conflict nothing.

use std::cmp::Ordering;
use std::fmt;

use quorate_core::frontier::Frontier;
use quorate_core::id::{EntryId, Lane, MAX_REPLICAS, Slot};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The most spans of a set. A union that would have more names more slots than it must instead
/// ([`Dependencies::coarsen`]), so that what is sent can always be read.
pub const MAX_SPANS: usize = 1 << 16;

/// How many slots of a lane stay exact in a set that has grown out of bounds.
const COARSE: u64 = 64;

/// Consecutive slots of a lane.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span {
    /// The lane.
    pub lane: Lane,
    /// The first of the slots.
    pub first: Slot,
    /// The last of the slots.
    pub last: Slot,
}

impl Span {
    /// How many slots there are.
    pub fn count(&self) -> u64 {
        self.last.0 - self.first.0 + 1
    }

    pub(crate) fn one(id: EntryId) -> Span {
        Span {
            lane: id.lane,
            first: id.slot,
            last: id.slot,
        }
    }

    /// How `id` lies to the span: `Less` if the span is before it.
    fn compare(&self, id: EntryId) -> Ordering {
        match (self.lane.cmp(&id.lane), id.slot) {
            (Ordering::Equal, slot) if self.last < slot => Ordering::Less,
            (Ordering::Equal, slot) if self.first > slot => Ordering::Greater,
            (by_lane, _) => by_lane,
        }
    }

    /// Whether the two overlap, or one goes on where the other ends.
    fn touches(&self, other: &Span) -> bool {
        let meets = |first: Slot, last: Slot| first.0 <= last.0.saturating_add(1);
        self.lane == other.lane && meets(self.first, other.last) && meets(other.first, self.last)
    }
}

impl fmt::Debug for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.first == self.last {
            true => write!(f, "{}.{}", self.lane.0, self.first),
            false => write!(f, "{}.{}-{}", self.lane.0, self.first, self.last),
        }
    }
}

/// A set of instance ids. Slot 0, which is before the first instance, is never in it.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct Dependencies {
    /// Ascending, with a gap between any two of a lane: so equal sets are equal values.
    #[serde(serialize_with = "serialize_spans")]
    spans: Vec<Span>,
}

impl Dependencies {
    /// The empty set: the dependencies of a Nop.
    pub const fn none() -> Self {
        Dependencies { spans: Vec::new() }
    }

    /// The union of `spans`, which may overlap and come in any order. What there is of slot 0 is
    /// left out.
    pub fn from_spans(mut spans: Vec<Span>) -> Self {
        for span in &mut spans {
            span.first = span.first.max(Slot(1));
        }
        spans.retain(|span| span.first <= span.last);
        // Made of a few ascending runs, as a rule: a stable sort merges them.
        spans.sort();
        join(&mut spans);
        Dependencies { spans }
    }

    /// Adds `id`; false if it was there already.
    pub fn insert(&mut self, id: EntryId) -> bool {
        if id.slot == Slot::ZERO || self.contains(id) {
            return false;
        }
        self.insert_span(Span::one(id));
        true
    }

    /// Adds all slots of `lane` through `slot`.
    pub fn insert_through(&mut self, lane: Lane, slot: Slot) {
        if slot > Slot::ZERO {
            self.insert_span(Span {
                lane,
                first: Slot(1),
                last: slot,
            });
        }
    }

    fn insert_span(&mut self, new: Span) {
        // Those that the new one touches are consecutive.
        let from = self
            .spans
            .partition_point(|span| *span < new && !span.touches(&new));
        let after = self.spans.iter().skip(from);
        let count = after.take_while(|span| span.touches(&new)).count();
        let touched = self.spans.iter().skip(from).take(count);
        let joined = touched.fold(new, |sum, span| Span {
            lane: sum.lane,
            first: sum.first.min(span.first),
            last: sum.last.max(span.last),
        });
        self.spans.splice(from..from + count, [joined]);
    }

    /// Takes `id` out; false if it was not there.
    pub fn remove(&mut self, id: EntryId) -> bool {
        let Ok(at) = self.position(id) else {
            return false;
        };
        let Some(span) = self.spans.get(at).copied() else {
            return false;
        };
        let before = (span.first < id.slot).then(|| Span {
            last: id.slot.previous(),
            ..span
        });
        let after = (id.slot < span.last).then(|| Span {
            first: id.slot.next(),
            ..span
        });
        self.spans.splice(at..=at, before.into_iter().chain(after));
        true
    }

    /// Takes out all slots of `lane` from `slot` on.
    pub fn remove_from(&mut self, lane: Lane, slot: Slot) {
        for span in &mut self.spans {
            if span.lane == lane && span.last >= slot {
                span.last = slot.previous();
            }
        }
        self.spans.retain(|span| span.first <= span.last);
    }

    /// Whether `id` is in the set.
    pub fn contains(&self, id: EntryId) -> bool {
        self.position(id).is_ok()
    }

    fn position(&self, id: EntryId) -> Result<usize, usize> {
        self.spans.binary_search_by(|span| span.compare(id))
    }

    /// Adds all that is in `other`, and more only if the set would have over [`MAX_SPANS`] spans.
    pub fn union_with(&mut self, other: &Dependencies) {
        if self.covers(other) {
            return;
        }
        self.spans = merged(&self.spans, &other.spans);
        if self.spans.len() > MAX_SPANS {
            self.coarsen(COARSE);
        }
    }

    /// Whether all of `other` is in this set.
    pub fn covers(&self, other: &Dependencies) -> bool {
        let mut mine = self.spans.iter().peekable();
        other.spans.iter().all(|theirs| {
            while mine
                .next_if(|span| (span.lane, span.last) < (theirs.lane, theirs.first))
                .is_some()
            {}
            mine.peek().is_some_and(|span| {
                span.lane == theirs.lane && span.first <= theirs.first && theirs.last <= span.last
            })
        })
    }

    /// Whether the set is empty.
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// How many ids there are.
    pub fn count(&self) -> u64 {
        let counts = self.spans.iter().map(Span::count);
        counts.fold(0, u64::saturating_add)
    }

    /// The ids as spans, ascending, with a gap between any two of a lane.
    pub fn spans(&self) -> &[Span] {
        &self.spans
    }

    /// The ids, ascending. There may be very many.
    pub fn iter(&self) -> impl Iterator<Item = EntryId> {
        self.spans.iter().flat_map(|span| {
            let lane = span.lane;
            (span.first.0..=span.last.0).map(move |slot| EntryId {
                lane,
                slot: Slot(slot),
            })
        })
    }

    /// The slot through which every slot of `lane` is in the set.
    pub fn through(&self, lane: Lane) -> Slot {
        let first = EntryId {
            lane,
            slot: Slot(1),
        };
        self.span_of(first).map_or(Slot::ZERO, |span| span.last)
    }

    /// Whether all lanes are those of a cluster of `n` replicas: what a set from a peer must be.
    pub fn is_within(&self, n: usize) -> bool {
        self.spans
            .last()
            .is_none_or(|span| usize::from(span.lane.0) < n)
    }

    /// In each lane, keeps the `exact` highest slots as they are, and adds all slots below the
    /// next highest: the set then has at most `exact` + 1 spans a lane.
    ///
    /// What a smaller set becomes is within what a larger one becomes, for its next highest slot
    /// is no higher. So a replica that knows no more than the coordinator still answers with the
    /// coordinator's own set, and the fast path is taken.
    pub fn coarsen(&mut self, exact: u64) {
        let mut above = 0;
        let mut lane = None;
        let mut covered = false;
        for span in self.spans.iter_mut().rev() {
            if lane != Some(span.lane) {
                (lane, above, covered) = (Some(span.lane), 0, false);
            }
            above += span.count();
            if above > exact && !covered {
                span.first = Slot(1);
                covered = true;
            }
        }
        // From above, a span that begins at the first slot comes before all that it covers.
        self.spans.reverse();
        self.spans
            .dedup_by(|lower, sum| lower.lane == sum.lane && lower.first >= sum.first);
        self.spans.reverse();
    }

    /// Adds `id`, forgets what its lane has at or below `floor`, and keeps the `exact` highest slots
    /// of the lane as [`Dependencies::coarsen`] does.
    pub(crate) fn insert_recent(&mut self, id: EntryId, floor: Slot, exact: u64) {
        let begin = self.spans.partition_point(|span| span.lane < id.lane);
        let of_lane = |span: &&Span| span.lane == id.lane;
        let end = begin + self.spans.iter().skip(begin).take_while(of_lane).count();
        let last = self.spans.get_mut(begin..end).and_then(<[Span]>::last_mut);
        match last {
            Some(last) if last.last.0.checked_add(1) == Some(id.slot.0) => last.last = id.slot,
            Some(last) if last.last >= id.slot => drop(self.insert(id)),
            _ => self.spans.insert(end, Span::one(id)),
        }
        // Inserting may have joined two spans, or added one.
        let count = self.spans.iter().skip(begin).take_while(of_lane).count();
        let lane = self.spans.get_mut(begin..begin + count).unwrap_or_default();
        let mut forgotten = lane.partition_point(|span| span.last <= floor);
        let mut above = 0;
        for (place, span) in lane.iter_mut().enumerate().skip(forgotten).rev() {
            above += span.count();
            if above > exact {
                span.first = Slot(1);
                forgotten = place;
                break;
            }
        }
        self.spans.drain(begin..begin + forgotten);
    }

    /// The span that holds `id`.
    pub(crate) fn span_of(&self, id: EntryId) -> Option<Span> {
        self.spans.get(self.position(id).ok()?).copied()
    }

    /// The highest id of the last lane.
    pub(crate) fn last(&self) -> Option<EntryId> {
        self.spans.last().map(|span| EntryId {
            lane: span.lane,
            slot: span.last,
        })
    }

    /// Takes out what the last span has from `slot` on.
    pub(crate) fn cut_last(&mut self, slot: Slot) {
        if let Some(span) = self.spans.last_mut() {
            match slot <= span.first {
                true => drop(self.spans.pop()),
                false => span.last = slot.previous(),
            }
        }
    }
}

/// Joins the spans of an ascending list that overlap or touch.
pub(crate) fn join(spans: &mut Vec<Span>) {
    spans.dedup_by(|next, sum| {
        let joins = sum.touches(next);
        if joins {
            sum.last = sum.last.max(next.last);
        }
        joins
    });
}

/// The union of two ascending lists.
fn merged(one: &[Span], other: &[Span]) -> Vec<Span> {
    let mut sum: Vec<Span> = Vec::with_capacity(one.len() + other.len());
    let (mut one, mut other) = (one.iter().peekable(), other.iter().peekable());
    loop {
        let next = match (one.peek(), other.peek()) {
            (Some(mine), Some(theirs)) if mine <= theirs => one.next(),
            (_, Some(_)) => other.next(),
            (_, None) => one.next(),
        };
        let Some(next) = next else { return sum };
        match sum.last_mut().filter(|last| last.touches(next)) {
            Some(last) => last.last = last.last.max(next.last),
            None => sum.push(*next),
        }
    }
}

impl From<&Frontier> for Dependencies {
    /// All that is in `frontier`.
    fn from(frontier: &Frontier) -> Self {
        let mut spans = Vec::new();
        for (lane, through, beyond) in frontier.lanes() {
            spans.push(Span {
                lane,
                first: Slot(1),
                last: through,
            });
            spans.extend(beyond.map(|slot| Span::one(EntryId { lane, slot })));
        }
        Dependencies::from_spans(spans)
    }
}

impl FromIterator<EntryId> for Dependencies {
    fn from_iter<I: IntoIterator<Item = EntryId>>(ids: I) -> Self {
        Dependencies::from_spans(ids.into_iter().map(Span::one).collect())
    }
}

impl fmt::Debug for Dependencies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(&self.spans).finish()
    }
}

/// A span as it is written: its lane, its first slot less that before the span, and how many
/// slots follow the first. All are small numbers as a rule.
type Written = (u8, u64, u64);

fn serialize_spans<S: Serializer>(spans: &[Span], serializer: S) -> Result<S::Ok, S::Error> {
    let mut before = (Lane(0), Slot::ZERO);
    serializer.collect_seq(spans.iter().map(|span| {
        let base = match before.0 == span.lane {
            true => before.1,
            false => Slot::ZERO,
        };
        before = (span.lane, span.last);
        let written: Written = (span.lane.0, span.first.0 - base.0, span.count() - 1);
        written
    }))
}

impl<'de> Deserialize<'de> for Dependencies {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let written = Vec::<Written>::deserialize(deserializer)?;
        if written.len() > MAX_SPANS {
            return Err(D::Error::custom("too many spans of dependencies"));
        }
        read_spans(&written)
            .map(|spans| Dependencies { spans })
            .ok_or_else(|| D::Error::custom("spans of dependencies out of order or of range"))
    }
}

/// The spans, unless there is a lane that no cluster has, a slot 0, two of a lane without a gap
/// between them, or a slot beyond the last.
fn read_spans(written: &[Written]) -> Option<Vec<Span>> {
    let mut spans: Vec<Span> = Vec::with_capacity(written.len());
    for (lane, gap, more) in written.iter().copied() {
        let lane = Some(Lane(lane)).filter(|lane| usize::from(lane.0) < MAX_REPLICAS)?;
        let (base, least) = match spans.last() {
            Some(before) if before.lane > lane => return None,
            Some(before) if before.lane == lane => (before.last.0, 2),
            _ => (0, 1),
        };
        let first = base.checked_add(gap).filter(|_| gap >= least)?;
        // The last number is left free, so that there is always a next slot.
        let last = first.checked_add(more).filter(|last| *last < u64::MAX)?;
        spans.push(Span {
            lane,
            first: Slot(first),
            last: Slot(last),
        });
    }
    Some(spans)
}

#[cfg(test)]
mod tests;
