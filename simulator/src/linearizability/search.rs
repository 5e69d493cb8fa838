//! The search for a linearization of the operations on one key.
//!
//! A configuration is a set of operations that have been linearized and the state they led to.
//! The next operation may be any that was invoked before the first return among those left (the
//! deadline). Five rules, each of which keeps a linearization if there is one, make the choices
//! few:
//!
//! 1. **Observers at once.** An operation that fits the state and does not change it is taken as
//!    soon as it is open: wherever a linearization has it, it can be moved to here.
//! 2. **No overwriting of what is still to be read.** A state that a completed operation left
//!    needs, and that nothing left writes again, is changed by no other operation.
//! 3. **One of a kind.** Of open operations with the same effect, only the one that returns
//!    first is tried: any linearization that takes another can swap the two. Values that nothing
//!    left can tell apart count as the same.
//! 4. **Pending operations on demand.** One that never returned is tried only when its value is
//!    wanted, or when the present state is what some operation must not find.
//! 5. **No way back.** When a chain of writes has been taken from a state that nothing left
//!    wants, and nothing left wants the values written either, then the earlier alternatives are
//!    dropped: from any linearization by way of those, the chain can be lifted out and put here.
//!    That holds only if no operation left must find the key *other* than some value that it
//!    could then find.

use std::collections::{BTreeMap, BTreeSet};

use super::{Bound, Effect, Event};

/// What the search found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Linearizable,
    NotLinearizable,
    Undecided,
}

/// Looks for a linearization of `events`, all on one key, in the order of their invocations.
/// Returns also how many configurations that took.
pub(super) fn search(events: &[Event<'_>], bound: Bound) -> (Verdict, usize) {
    Search::new(events).run(bound.configurations.saturating_add(4 * events.len()))
}

type Value = u32;

const ABSENT: Value = 0;
/// Stands for all values that nothing left can tell apart.
const ANY: Value = Value::MAX;

struct Op {
    invoke: u64,
    /// Of an operation that never returned, the end of time.
    returned: u64,
    optional: bool,
    slot: usize,
    effect: Effect<Value>,
}

/// The operations left that have to do with a value.
#[derive(Clone, Default)]
struct Demand {
    /// Those that returned and found it.
    needed: u32,
    /// Those that find it, or would.
    wanted: u32,
    /// Those that write it, or would.
    writers: u32,
    /// Those that found another.
    differs: u32,
    /// The last invocation of one that returned and found it; stays when that is linearized.
    last_needed: u64,
}

/// A configuration, with the alternatives not yet tried.
struct Frame {
    trail: usize,
    completed: usize,
    state: Value,
    /// What the alternative being tried writes.
    written: Value,
    /// The best last.
    alternatives: Vec<usize>,
}

struct Search {
    /// By invocation.
    ops: Vec<Op>,
    /// Operations that returned, by return.
    returns: Vec<usize>,
    /// How many of `returns`, from the start, are linearized.
    completed: usize,
    linearized: Vec<bool>,
    /// Two rings of the operations left, by invocation: those that returned, and those that did
    /// not, each from a sentinel.
    next: Vec<usize>,
    previous: Vec<usize>,
    state: Value,
    demand: Vec<Demand>,
    /// How many `Clear` are left.
    clears: u32,
    /// Values that an operation left must not find and another writes.
    hazards: usize,
    /// A bit for each operation that is linearized, unless its return is among the `completed`.
    /// Operations that are never open together share a slot.
    bits: Vec<u64>,
    /// What has been linearized, in order.
    trail: Vec<usize>,
    frames: Vec<Frame>,
    seen: BTreeSet<Box<[u64]>>,
}

fn intern<'a>(events: &[Event<'a>]) -> (Vec<Effect<Value>>, usize) {
    let mut values: BTreeMap<Option<&'a str>, Value> = BTreeMap::from([(None, ABSENT)]);
    let mut number = |value| {
        let fresh = values.len() as Value;
        *values.entry(value).or_insert(fresh)
    };
    let effects = events.iter().map(|event| match event.effect {
        Effect::Observe(value) => Effect::Observe(number(value)),
        Effect::Differs(value) => Effect::Differs(number(value)),
        Effect::Write(value) => Effect::Write(number(value)),
        Effect::Swap { from, to } => Effect::Swap {
            from: number(from),
            to: number(to),
        },
        Effect::Clear => Effect::Clear,
    });
    let effects = effects.collect();
    (effects, values.len())
}

/// Gives each event a slot that it shares with none that is open at the same time; returns also
/// how many slots that takes.
fn slots(events: &[Event<'_>]) -> (Vec<usize>, usize) {
    let mut open: BTreeSet<(u64, usize)> = BTreeSet::new();
    let mut free: BTreeSet<usize> = BTreeSet::new();
    let mut count = 0;
    let mut slots = Vec::with_capacity(events.len());
    for event in events {
        while let Some((returned, slot)) = open.first().copied()
            && returned < event.invoke
        {
            open.pop_first();
            free.insert(slot);
        }
        let slot = free.pop_first().unwrap_or_else(|| {
            count += 1;
            count - 1
        });
        if let Some(returned) = event.returned {
            open.insert((returned, slot));
        }
        slots.push(slot);
    }
    (slots, count)
}

impl Search {
    fn new(events: &[Event<'_>]) -> Self {
        let n = events.len();
        let (effects, values) = intern(events);
        let (slots, width) = slots(events);
        let ops: Vec<Op> = events
            .iter()
            .zip(effects)
            .zip(slots)
            .map(|((event, effect), slot)| Op {
                invoke: event.invoke,
                returned: event.returned.unwrap_or(u64::MAX),
                optional: event.returned.is_none(),
                slot,
                effect,
            })
            .collect();
        let mut returns: Vec<usize> = (0..n).filter(|op| !ops[*op].optional).collect();
        returns.sort_by_key(|op| ops[*op].returned);
        let mut search = Search {
            returns,
            completed: 0,
            linearized: vec![false; n],
            next: (0..n + 2).collect(),
            previous: (0..n + 2).collect(),
            state: ABSENT,
            demand: vec![Demand::default(); values],
            clears: 0,
            hazards: 0,
            bits: vec![0; width.div_ceil(64)],
            trail: Vec::new(),
            frames: Vec::new(),
            seen: BTreeSet::new(),
            ops,
        };
        for op in 0..n {
            let ring = search.ring(search.ops[op].optional);
            search.previous[op] = search.previous[ring];
            search.next[op] = ring;
            search.link(op);
            search.account(op, true);
        }
        search
    }

    fn ring(&self, optional: bool) -> usize {
        self.ops.len() + usize::from(optional)
    }

    fn run(mut self, bound: usize) -> (Verdict, usize) {
        let mut configurations = 0;
        let orphan = |demand: &Demand| demand.needed > 0 && demand.writers == 0;
        if self.demand.iter().skip(1).any(orphan) {
            return (Verdict::NotLinearizable, configurations);
        }
        self.settle();
        while self.completed < self.returns.len() {
            self.drop_dominated();
            if self.seen.insert(self.configuration()) {
                configurations += 1;
                if configurations > bound {
                    return (Verdict::Undecided, configurations);
                }
                self.frames.push(Frame {
                    trail: self.trail.len(),
                    completed: self.completed,
                    state: self.state,
                    written: self.state,
                    alternatives: self.alternatives(),
                });
            }
            let Some(op) = self.next_alternative() else {
                return (Verdict::NotLinearizable, configurations);
            };
            self.linearize(op);
            self.settle();
        }
        (Verdict::Linearizable, configurations)
    }

    /// Goes back to the last configuration with an alternative left, and takes that from it.
    fn next_alternative(&mut self) -> Option<usize> {
        loop {
            let frame = self.frames.last_mut()?;
            let alternative = frame.alternatives.pop();
            let (trail, completed, state) = (frame.trail, frame.completed, frame.state);
            self.undo(trail, completed, state);
            if let Some(op) = alternative {
                let written = self.written(op);
                self.frames.last_mut()?.written = written;
                return Some(op);
            }
            self.frames.pop();
        }
    }

    /// The first return among the operations left.
    fn deadline(&self) -> u64 {
        self.returns
            .get(self.completed)
            .map_or(u64::MAX, |op| self.ops[*op].returned)
    }

    /// Rule 1. One pass suffices: the state stays, and the deadline only moves on.
    fn settle(&mut self) {
        let end = self.ring(false);
        let mut op = self.next[end];
        while op != end && self.ops[op].invoke <= self.deadline() {
            let following = self.next[op];
            let fits = match self.ops[op].effect {
                Effect::Observe(value) => self.state == value,
                Effect::Differs(value) => self.state != value,
                Effect::Write(_) | Effect::Swap { .. } | Effect::Clear => false,
            };
            if fits {
                self.linearize(op);
            }
            op = following;
        }
    }

    /// What the state is after `op`.
    fn written(&self, op: usize) -> Value {
        match self.ops[op].effect {
            Effect::Observe(_) | Effect::Differs(_) => self.state,
            Effect::Write(to) | Effect::Swap { to, .. } => to,
            Effect::Clear => ABSENT,
        }
    }

    fn linearize(&mut self, op: usize) {
        self.state = self.written(op);
        self.next[self.previous[op]] = self.next[op];
        self.previous[self.next[op]] = self.previous[op];
        self.account(op, false);
        self.linearized[op] = true;
        self.toggle(op);
        self.trail.push(op);
        while let Some(op) = self.returns.get(self.completed).copied()
            && self.linearized[op]
        {
            self.toggle(op);
            self.completed += 1;
        }
    }

    fn undo(&mut self, trail: usize, completed: usize, state: Value) {
        while self.completed > completed {
            self.completed -= 1;
            self.toggle(self.returns[self.completed]);
        }
        while self.trail.len() > trail
            && let Some(op) = self.trail.pop()
        {
            self.toggle(op);
            self.linearized[op] = false;
            self.account(op, true);
            self.link(op);
        }
        self.state = state;
    }

    fn link(&mut self, op: usize) {
        let (previous, next) = (self.previous[op], self.next[op]);
        self.next[previous] = op;
        self.previous[next] = op;
    }

    fn toggle(&mut self, op: usize) {
        let slot = self.ops[op].slot;
        self.bits[slot / 64] ^= 1 << (slot % 64);
    }

    /// Counts `op` among those left, or no longer.
    fn account(&mut self, op: usize, left: bool) {
        let Op {
            effect,
            optional,
            invoke,
            ..
        } = self.ops[op];
        let adjust = |count: &mut u32| {
            *count = if left { *count + 1 } else { *count - 1 };
        };
        if let Effect::Observe(value) | Effect::Swap { from: value, .. } = effect {
            let demand = &mut self.demand[value as usize];
            adjust(&mut demand.wanted);
            if !optional {
                adjust(&mut demand.needed);
                demand.last_needed = demand.last_needed.max(invoke);
            }
        }
        let value = match effect {
            Effect::Observe(_) => return,
            Effect::Differs(value) | Effect::Write(value) | Effect::Swap { to: value, .. } => value,
            Effect::Clear => ABSENT,
        };
        let before = self.is_hazard(value);
        let demand = &mut self.demand[value as usize];
        if matches!(effect, Effect::Differs(_)) {
            adjust(&mut demand.differs);
        } else {
            adjust(&mut demand.writers);
        }
        if effect == Effect::Clear {
            adjust(&mut self.clears);
        }
        self.hazards += usize::from(self.is_hazard(value));
        self.hazards -= usize::from(before);
    }

    fn is_hazard(&self, value: Value) -> bool {
        let demand = &self.demand[value as usize];
        let found_other = demand.differs > 0 && demand.writers > 0;
        // A clear writes what it must not find, but only others can hurt it.
        found_other || value == ABSENT && self.clears > 0 && demand.writers > 1
    }

    /// Whether some operation left must not find `value`.
    fn is_shunned(&self, value: Value) -> bool {
        self.demand[value as usize].differs > 0 || value == ABSENT && self.clears > 0
    }

    /// `value`, or what stands for it and all others that nothing left can tell apart.
    fn class(&self, value: Value) -> Value {
        if self.demand[value as usize].wanted == 0 && !self.is_shunned(value) {
            ANY
        } else {
            value
        }
    }

    /// Names this configuration, and no other. Which operations the bits are about follows from
    /// `completed`.
    fn configuration(&self) -> Box<[u64]> {
        let head = (self.completed as u64) << 32 | u64::from(self.class(self.state));
        std::iter::once(head)
            .chain(self.bits.iter().copied())
            .collect()
    }

    /// Rule 5.
    fn drop_dominated(&mut self) {
        if self.hazards > 0 || self.is_shunned(self.state) {
            return;
        }
        let unwanted = |value: Value| self.demand[value as usize].wanted == 0;
        let mut keep = self.frames.len();
        for (index, frame) in self.frames.iter().enumerate().rev() {
            if !unwanted(frame.written) {
                break;
            }
            if unwanted(frame.state) {
                keep = index;
            }
        }
        self.frames.truncate(keep);
        if self.frames.is_empty() {
            self.trail.clear();
            self.seen.clear();
        }
    }

    /// The operations that may change the state next, the most promising last.
    fn alternatives(&self) -> Vec<usize> {
        let mut found = Vec::new();
        for optional in [false, true] {
            let end = self.ring(optional);
            let mut op = self.next[end];
            while op != end && self.ops[op].invoke <= self.deadline() {
                if self.is_alternative(op) {
                    found.push((self.kind(op), self.ops[op].returned, op));
                }
                op = self.next[op];
            }
        }
        // Rule 3.
        found.sort_unstable();
        found.dedup_by_key(|(kind, _, _)| *kind);
        found.sort_by_key(|(_, returned, op)| std::cmp::Reverse((self.rank(*op), *returned, *op)));
        found.into_iter().map(|(_, _, op)| op).collect()
    }

    /// What an operation that changes the state needs and does.
    fn kind(&self, op: usize) -> (u8, Value, Value) {
        match self.ops[op].effect {
            Effect::Swap { from, to } => (1, from, self.class(to)),
            Effect::Clear => (2, ABSENT, ABSENT),
            Effect::Write(value) | Effect::Observe(value) | Effect::Differs(value) => {
                (0, ABSENT, self.class(value))
            }
        }
    }

    fn is_alternative(&self, op: usize) -> bool {
        let Op {
            effect, optional, ..
        } = self.ops[op];
        let (to, consumes) = match effect {
            Effect::Observe(_) | Effect::Differs(_) => return false,
            Effect::Write(to) => (to, 0),
            Effect::Swap { from, .. } if from != self.state => return false,
            Effect::Swap { to, .. } => (to, u32::from(!optional)),
            Effect::Clear if self.state == ABSENT => return false,
            Effect::Clear => (ABSENT, 0),
        };
        // Rule 4.
        if optional && self.demand[to as usize].wanted == 0 && !self.is_shunned(self.state) {
            return false;
        }
        // Rule 2.
        let present = &self.demand[self.state as usize];
        let overwrites = to != self.state && present.writers == 0 && present.needed > consumes;
        !overwrites && !self.would_be_overwritten(op, to)
    }

    /// Rule 2, one step ahead: `op` writes `to` for the last time, which an operation needs that
    /// is invoked only after another has returned that cannot take place while the state is `to`.
    fn would_be_overwritten(&self, op: usize, to: Value) -> bool {
        let demand = &self.demand[to as usize];
        let due = self.returns.get(self.completed).copied();
        let blocks = due.is_some_and(|due| {
            due != op
                && match self.ops[due].effect {
                    Effect::Observe(value) => value != to,
                    Effect::Differs(_) => false,
                    Effect::Write(_) | Effect::Swap { .. } | Effect::Clear => true,
                }
        });
        blocks && demand.needed > 0 && demand.writers == 1 && demand.last_needed > self.deadline()
    }

    /// How soon to try `op`: first what the deadline waits for, last what may not have happened.
    fn rank(&self, op: usize) -> u8 {
        let Some(due) = self.returns.get(self.completed).copied() else {
            return 0;
        };
        let to = self.written(op);
        let helps = due == op
            || match self.ops[due].effect {
                Effect::Observe(value) | Effect::Swap { from: value, .. } => to == value,
                Effect::Differs(value) => self.state == value && to != value,
                Effect::Clear => self.state == ABSENT && to != ABSENT,
                Effect::Write(_) => false,
            };
        match (helps, self.ops[op].optional) {
            (true, false) => 0,
            (true, true) => 1,
            (false, false) => 2,
            (false, true) => 3,
        }
    }
}
