//! Whether a key-value history could have come from one copy of the data.
//!
//! A history is linearizable if each operation can be given one instant between its invocation
//! and its return such that all results are those of the operations run one after the other at
//! these instants \[Herlihy90\]. Every key starts absent. Each key is checked on its own, which is
//! as good as checking the whole \[Herlihy90 §3.1\], \[Horn15\].
//!
//! For one key, `search.rs` looks for such an order by the algorithm of Wing and Gong \[Wing93\]
//! with memory of the configurations already seen \[Lowe17\], and with what is known of registers
//! to cut the search short. The question is NP-complete in general, so work is bounded, and a
//! history that exceeds the bound is reported as [`Failure::Undecided`]. When every value is
//! written once, and apart from deletes and failed cas, the search hardly ever goes back.
//!
//! For a history that is not linearizable, `shrink.rs` finds the shortest prefix that shows it
//! and leaves out what has no part in it.

use std::collections::BTreeMap;
use std::fmt;

use crate::history::{Answer, Call, History, Operation, Outcome};

mod search;
mod shrink;
#[cfg(test)]
mod tests;

use search::Verdict;

/// How much work may be spent on a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bound {
    /// Configurations of the search, beyond four for each operation. Each takes around a hundred
    /// bytes and a microsecond.
    pub configurations: usize,
}

impl Default for Bound {
    /// Two million.
    fn default() -> Self {
        Bound {
            configurations: 2_000_000,
        }
    }
}

/// What was checked and found linearizable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// How many operations there are, failed ones included.
    pub operations: usize,
    /// How many keys.
    pub keys: usize,
}

/// The history has not been found linearizable.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// It is not.
    #[error(transparent)]
    NotLinearizable(Box<NotLinearizable>),
    /// It may or may not be.
    #[error(
        "undecided: whether the {operations} operations on key {key:?} are linearizable was not found out within {configurations} configurations"
    )]
    Undecided {
        /// The first key that exceeded the bound. All keys have been tried, and none was found
        /// not to be linearizable.
        key: String,
        /// How many operations it has.
        operations: usize,
        /// How many configurations the search went through.
        configurations: usize,
    },
}

/// Operations on a key that no order explains.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotLinearizable {
    /// The key.
    pub key: String,
    /// How many operations on the key returned up to and including `violating`. Without that
    /// last return the history of the key is linearizable (or too hard to decide).
    pub prefix: usize,
    /// The operation whose return, with its result, cannot be explained.
    pub violating: Operation,
    /// Operations among those invoked before that return which suffice to show it, by
    /// invocation. Other operations have been left out, and so has what a delete said, where that
    /// could not have made the difference.
    pub evidence: Vec<Operation>,
}

/// How many operations of the evidence are shown.
const SHOWN: usize = 20;

impl fmt::Display for NotLinearizable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "not linearizable: key {:?}, first shown by the return of operation {} on it:\n  {}\nno order within these times [invoke, return] in ns explains the results of:",
            self.key, self.prefix, self.violating
        )?;
        let hidden = self.evidence.len().saturating_sub(SHOWN);
        if hidden > 0 {
            write!(f, "\n  ({hidden} earlier operations not shown)")?;
        }
        let shown = self.evidence.iter().skip(hidden);
        shown
            .into_iter()
            .try_for_each(|operation| write!(f, "\n  {operation}"))
    }
}

impl std::error::Error for NotLinearizable {}

/// Checks `history`, key by key in order.
pub fn check(history: &History, bound: Bound) -> Result<Summary, Failure> {
    let mut keys: BTreeMap<&str, Vec<&Operation>> = BTreeMap::new();
    for operation in &history.operations {
        keys.entry(&operation.key).or_default().push(operation);
    }
    let mut undecided = None;
    for (key, operations) in &mut keys {
        operations.sort_by_key(|operation| operation.invoke);
        let events: Vec<Event<'_>> = operations
            .iter()
            .filter_map(|operation| Event::of(operation, u64::MAX))
            .collect();
        let (verdict, configurations) = search::search(&events, bound);
        match verdict {
            Verdict::Linearizable => {}
            Verdict::NotLinearizable => {
                let explained = shrink::explain(key, &events, bound);
                return Err(Failure::NotLinearizable(Box::new(explained)));
            }
            Verdict::Undecided => {
                undecided.get_or_insert(Failure::Undecided {
                    key: String::from(*key),
                    operations: operations.len(),
                    configurations,
                });
            }
        }
    }
    match undecided {
        Some(failure) => Err(failure),
        None => Ok(Summary {
            operations: history.operations.len(),
            keys: keys.len(),
        }),
    }
}

/// What an operation demands of the state and does to it, given its result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Effect<V> {
    /// The state is this, and stays.
    Observe(V),
    /// The state is not this, and stays.
    Differs(V),
    /// The state becomes this.
    Write(V),
    /// The state is `from`, and becomes `to`, which is another.
    Swap { from: V, to: V },
    /// The key is present, and becomes absent.
    Clear,
}

/// An operation as the search sees it.
#[derive(Clone, Copy, Debug)]
struct Event<'a> {
    operation: &'a Operation,
    invoke: u64,
    /// `None`: it may have no effect at all, or have it at any time after its invocation.
    returned: Option<u64>,
    /// Absent is `None`.
    effect: Effect<Option<&'a str>>,
}

impl<'a> Event<'a> {
    /// The operation as it stands at time `until`, when later returns are not known; `None` if
    /// it cannot matter.
    fn of(operation: &'a Operation, until: u64) -> Option<Self> {
        if operation.invoke > until {
            return None;
        }
        let (returned, effect) = match &operation.outcome {
            Outcome::Fail { .. } => return None,
            Outcome::Ok { returned, answer } if *returned <= until => {
                (Some(*returned), Self::effect(&operation.call, answer))
            }
            Outcome::Ok { .. } | Outcome::Info => (None, Self::optional(&operation.call)?),
        };
        Some(Event {
            operation,
            invoke: operation.invoke,
            returned,
            effect,
        })
    }

    fn effect(call: &'a Call, answer: &'a Answer) -> Effect<Option<&'a str>> {
        match (call, answer) {
            (Call::Put { value }, _) => Effect::Write(Some(value)),
            (Call::Get, Answer::Value(value)) => Effect::Observe(value.as_deref()),
            // A get cannot give a flag. Nothing explains one that did.
            (Call::Get, Answer::Flag(_)) => Effect::Observe(None),
            (Call::Delete, Answer::Flag(true)) => Effect::Clear,
            (Call::Delete, Answer::Flag(false)) => Effect::Observe(None),
            (Call::Delete, Answer::Value(_)) => Effect::Write(None),
            (Call::Cas { expected, value }, Answer::Flag(true)) => {
                let (from, to) = (expected.as_deref(), Some(value.as_str()));
                if from == to {
                    Effect::Observe(from)
                } else {
                    Effect::Swap { from, to }
                }
            }
            (Call::Cas { expected, .. }, _) => Effect::Differs(expected.as_deref()),
        }
    }

    /// The effect if there is no answer. A cas that does not swap, like a get, is as if it had
    /// not been.
    fn optional(call: &'a Call) -> Option<Effect<Option<&'a str>>> {
        match call {
            Call::Put { value } => Some(Effect::Write(Some(value))),
            Call::Get => None,
            Call::Delete => Some(Effect::Write(None)),
            Call::Cas { expected, value } => {
                let (from, to) = (expected.as_deref(), Some(value.as_str()));
                (from != to).then_some(Effect::Swap { from, to })
            }
        }
    }
}
