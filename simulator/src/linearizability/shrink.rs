//! From a history that is not linearizable to the few operations that show it.

use std::collections::{BTreeMap, BTreeSet};

use super::search::{self, Verdict};
use super::{Bound, Effect, Event, NotLinearizable};
use crate::history::{Answer, Call, Operation, Outcome};

/// The most events and configurations that are gone through to leave some out; what is left then
/// is shown.
const EFFORT: usize = 20_000_000;

/// Explains why `events`, all on `key` and by invocation, are not linearizable.
pub(super) fn explain(key: &str, events: &[Event<'_>], bound: Bound) -> NotLinearizable {
    let mut shrinker = Shrinker {
        // Many searches are made, and one given up only leaves more to show.
        bound: Bound {
            configurations: bound.configurations / 10,
        },
        effort: EFFORT,
    };
    let completed = by_return(events);
    let core = shrinker.shrink(events);
    let (mut until, mut last) = shrinker.first_refuted(&core);
    let earlier = completed.partition_point(|(returned, _)| *returned < until);
    let before = completed[..earlier].last().map(|(returned, _)| *returned);
    // Later returns may have told what could be left out, and what was left out may show
    // something else earlier.
    let is_first = shrinker.refutes(&prefix(events, until))
        && !before.is_some_and(|before| shrinker.refutes(&prefix(events, before)));
    let suspects = if is_first { &core } else { events };
    if !is_first {
        (until, last) = shrinker.first_refuted(events);
    }
    let mut evidence = shrinker.shrink(&prefix(suspects, until));
    let ends_there = |event: &&Event<'_>| event.returned == Some(until);
    let violating = match evidence.iter().find(ends_there) {
        Some(event) => event.operation,
        None => {
            // A cas that did not swap shows that it is not what others saw the effect of; once it
            // is out of the way, they suffice.
            evidence.push(last);
            last.operation
        }
    };
    evidence.sort_by_key(|event| event.invoke);
    NotLinearizable {
        key: String::from(key),
        prefix: completed.partition_point(|(returned, _)| *returned <= until),
        violating: violating.clone(),
        evidence: evidence.iter().map(shown).collect(),
    }
}

/// The operation, without what it said if that does not count.
fn shown(event: &Event<'_>) -> Operation {
    let mut operation = event.operation.clone();
    if let Outcome::Ok { answer, .. } = &mut operation.outcome
        && operation.call == Call::Delete
        && event.effect == Effect::Write(None)
    {
        *answer = Answer::Value(None);
    }
    operation
}

/// The events that returned, by return.
fn by_return<'a>(events: &[Event<'a>]) -> Vec<(u64, Event<'a>)> {
    let mut completed: Vec<(u64, Event<'a>)> = events
        .iter()
        .filter_map(|event| Some((event.returned?, *event)))
        .collect();
    completed.sort_by_key(|(returned, _)| *returned);
    completed
}

/// The history as it was known at time `until`. If it is linearizable later, it was then.
fn prefix<'a>(events: &[Event<'a>], until: u64) -> Vec<Event<'a>> {
    let known = |event: &Event<'a>| match event.returned {
        Some(returned) if returned <= until => Some(*event),
        _ => Event::of(event.operation, until),
    };
    events.iter().filter_map(known).collect()
}

struct Shrinker {
    bound: Bound,
    effort: usize,
}

impl Shrinker {
    /// Whether `events` are known not to be linearizable.
    fn refutes(&mut self, events: &[Event<'_>]) -> bool {
        let bound = Bound {
            configurations: self.bound.configurations.min(self.effort),
        };
        let (verdict, configurations) = search::search(events, bound);
        self.effort = self.effort.saturating_sub(events.len() + configurations);
        verdict == Verdict::NotLinearizable
    }

    /// The first return through which `events` are not linearizable.
    fn first_refuted<'a>(&mut self, events: &[Event<'a>]) -> (u64, Event<'a>) {
        let completed = by_return(events);
        let first =
            completed.partition_point(|(returned, _)| !self.refutes(&prefix(events, *returned)));
        // Where nothing has returned, nothing is refuted: there is a last one.
        completed[first.min(completed.len() - 1)]
    }

    /// Leaves out of `events`, which are not linearizable, what can be left out without making
    /// them so, provided that leaving it out of a linearizable history leaves it linearizable:
    /// what is left must still refute the whole.
    fn shrink<'a>(&mut self, events: &[Event<'a>]) -> Vec<Event<'a>> {
        let relaxed: Vec<Event<'a>> = events.iter().filter_map(relax).collect();
        if !self.refutes(&relaxed) {
            // What does not change the state can always go.
            return self.leave_out(events, observers(events));
        }
        // Without demands that the state be other than a value, all operations on some values
        // can go, for those on other values do not notice; and so can writes of what nobody
        // finds.
        let core = self.leave_out(&relaxed, groups(&relaxed));
        let core = self.leave_out(&core, observers(&core));
        self.leave_out(&core, unwanted(&core))
    }

    /// Leaves out as many of `units` (indices of events) as it can, late ones first, so that the
    /// first of several violations stays; and in large chunks first.
    fn leave_out<'a>(
        &mut self,
        events: &[Event<'a>],
        mut units: Vec<Vec<usize>>,
    ) -> Vec<Event<'a>> {
        let mut kept = vec![true; events.len()];
        let remaining = |kept: &[bool]| -> Vec<Event<'a>> {
            let pairs = events.iter().zip(kept);
            pairs.filter(|(_, kept)| **kept).map(|(e, _)| *e).collect()
        };
        let mut size = units.len().div_ceil(2);
        while size > 0 && self.effort > 0 {
            let mut needed = Vec::new();
            for chunk in units.rchunks(size) {
                let mut without = kept.clone();
                for index in chunk.iter().flatten() {
                    without[*index] = false;
                }
                if self.effort > 0 && self.refutes(&remaining(&without)) {
                    kept = without;
                } else {
                    needed.extend(chunk.iter().rev().cloned());
                }
            }
            needed.reverse();
            units = needed;
            size = if size == 1 { 0 } else { size.div_ceil(2) };
        }
        remaining(&kept)
    }
}

/// The events that do not change the state, each on its own.
fn observers(events: &[Event<'_>]) -> Vec<Vec<usize>> {
    let observes = |effect| matches!(effect, Effect::Observe(_) | Effect::Differs(_));
    (0..events.len())
        .filter(|index| observes(events[*index].effect))
        .map(|index| vec![index])
        .collect()
}

/// The events that write what none finds, each on its own.
fn unwanted(events: &[Event<'_>]) -> Vec<Vec<usize>> {
    let found: BTreeSet<Option<&str>> = events
        .iter()
        .filter_map(|event| match event.effect {
            Effect::Observe(value) | Effect::Swap { from: value, .. } => Some(value),
            Effect::Differs(_) | Effect::Write(_) | Effect::Clear => None,
        })
        .collect();
    let writes_in_vain = |effect| match effect {
        Effect::Write(to) | Effect::Swap { to, .. } => !found.contains(&to),
        Effect::Observe(_) | Effect::Differs(_) | Effect::Clear => false,
    };
    (0..events.len())
        .filter(|index| writes_in_vain(events[*index].effect))
        .map(|index| vec![index])
        .collect()
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
