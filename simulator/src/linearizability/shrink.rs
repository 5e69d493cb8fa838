//! From a history that is not linearizable to the few operations that show it.

use std::cell::Cell;
use std::collections::BTreeMap;

use super::search::{self, Verdict};
use super::{Bound, Effect, Event, NotLinearizable};
use crate::history::{Operation, Outcome};

/// The most events that are searched in all to leave some out; what is left then is shown.
const EFFORT: usize = 20_000_000;

/// Explains why `operations`, all on `key` and by invocation, are not linearizable.
pub(super) fn explain(key: &str, operations: &[&Operation], bound: Bound) -> NotLinearizable {
    let mut completed: Vec<(u64, &Operation)> = operations
        .iter()
        .filter_map(|operation| Some((returned(operation)?, *operation)))
        .collect();
    completed.sort_by_key(|(returned, _)| *returned);
    let shrinker = Shrinker {
        bound,
        effort: Cell::new(EFFORT),
    };
    let fails = |until| shrinker.refutes(&prefix(operations, until));
    let shortest = completed.partition_point(|(until, _)| !fails(*until));
    // Where nothing has returned, nothing is refuted: there is a last one.
    let (until, last) = completed[shortest.min(completed.len() - 1)];
    let mut evidence: Vec<Operation> = shrinker
        .shrink(prefix(operations, until))
        .into_iter()
        .map(|event| event.operation.clone())
        .collect();
    let ends_there = |operation: &&Operation| returned(operation) == Some(until);
    let violating = match evidence.iter().find(ends_there) {
        Some(violating) => violating.clone(),
        None => {
            // A cas that did not swap shows that it is not what others saw the effect of; once it
            // is out of the way, they suffice.
            evidence.push(last.clone());
            last.clone()
        }
    };
    evidence.sort_by_key(|operation| operation.invoke);
    NotLinearizable {
        key: String::from(key),
        prefix: completed.partition_point(|(returned, _)| *returned <= until),
        violating,
        evidence,
    }
}

fn returned(operation: &Operation) -> Option<u64> {
    match operation.outcome {
        Outcome::Ok { returned, .. } => Some(returned),
        Outcome::Fail { .. } | Outcome::Info => None,
    }
}

/// The history as it was known at time `until`. If it is linearizable later, it was then.
fn prefix<'a>(operations: &[&'a Operation], until: u64) -> Vec<Event<'a>> {
    operations
        .iter()
        .filter_map(|operation| Event::of(operation, until))
        .collect()
}

struct Shrinker {
    bound: Bound,
    effort: Cell<usize>,
}

impl Shrinker {
    fn refutes(&self, events: &[Event<'_>]) -> bool {
        let left = self.effort.get().saturating_sub(events.len());
        self.effort.set(left);
        search::search(events, self.bound) == Verdict::NotLinearizable
    }

    /// Leaves out of `events`, which are not linearizable, what can be left out without making
    /// them so, provided that leaving it out of a linearizable history leaves it linearizable:
    /// what is left must still refute the whole.
    fn shrink<'a>(&self, events: Vec<Event<'a>>) -> Vec<Event<'a>> {
        // Without demands that the state be other than a value, all operations on some values
        // can go: those on other values do not notice.
        let relaxed: Vec<Event<'a>> = events.iter().filter_map(relax).collect();
        let core = if self.refutes(&relaxed) {
            let groups = groups(&relaxed);
            self.leave_out(&relaxed, groups)
        } else {
            events
        };
        // What does not change the state can always go.
        let observers = core
            .iter()
            .enumerate()
            .filter(|(_, event)| matches!(event.effect, Effect::Observe(_) | Effect::Differs(_)))
            .map(|(index, _)| vec![index])
            .collect();
        self.leave_out(&core, observers)
    }

    /// Leaves out as many of `units` (indices of events) as it can, first in large chunks.
    fn leave_out<'a>(&self, events: &[Event<'a>], mut units: Vec<Vec<usize>>) -> Vec<Event<'a>> {
        let mut kept = vec![true; events.len()];
        let remaining = |kept: &[bool]| -> Vec<Event<'a>> {
            let pairs = events.iter().zip(kept);
            pairs.filter(|(_, kept)| **kept).map(|(e, _)| *e).collect()
        };
        let mut size = units.len().div_ceil(2);
        while size > 0 {
            let mut needed = Vec::new();
            for chunk in units.chunks(size) {
                let mut without = kept.clone();
                for index in chunk.iter().flatten() {
                    without[*index] = false;
                }
                if self.effort.get() > 0 && self.refutes(&remaining(&without)) {
                    kept = without;
                } else {
                    needed.extend_from_slice(chunk);
                }
            }
            units = needed;
            size = if size == 1 { 0 } else { size.div_ceil(2) };
        }
        remaining(&kept)
    }
}

/// The event without the demand that the state be other than a value.
fn relax<'a>(event: &Event<'a>) -> Option<Event<'a>> {
    let effect = match event.effect {
        Effect::Differs(_) => return None,
        Effect::Clear => Effect::Write(None),
        effect => effect,
    };
    Some(Event { effect, ..*event })
}

/// The events by the values that they have to do with: none in one group has to do with a value
/// of another.
fn groups(events: &[Event<'_>]) -> Vec<Vec<usize>> {
    let mut numbers: BTreeMap<Option<&str>, usize> = BTreeMap::new();
    let mut parents: Vec<usize> = Vec::new();
    let mut values = Vec::with_capacity(events.len());
    for event in events {
        let (from, to) = match event.effect {
            Effect::Observe(value) | Effect::Differs(value) | Effect::Write(value) => {
                (value, value)
            }
            Effect::Swap { from, to } => (from, to),
            Effect::Clear => (None, None),
        };
        let [from, to] = [from, to].map(|value| {
            *numbers.entry(value).or_insert_with(|| {
                parents.push(parents.len());
                parents.len() - 1
            })
        });
        let (from, to) = (root(&mut parents, from), root(&mut parents, to));
        parents[from] = to;
        values.push(to);
    }
    let mut groups: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (index, value) in values.into_iter().enumerate() {
        let group = groups.entry(root(&mut parents, value)).or_default();
        group.push(index);
    }
    groups.into_values().collect()
}

/// The number that stands for the group of `value`; shortens the way to it.
fn root(parents: &mut [usize], mut value: usize) -> usize {
    while parents[value] != value {
        parents[value] = parents[parents[value]];
        value = parents[value];
    }
    value
}
