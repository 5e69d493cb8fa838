//! The oracle for protocols that order only what conflicts: key by key, all replicas execute the
//! same writes in the same order, and every read between the same two of them.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use quorate_core::frontier::Frontier;
use quorate_core::id::EntryId;
use quorate_core::machine::{Keys, StateMachine};
use quorate_core::request::{Batch, Operation};

use crate::register::Register;

/// A key of the application. `None` stands for the service as a whole: what touches everything
/// writes it, and all else reads it, so that each is on one side of the other everywhere.
type Key = Option<Bytes>;

/// How many writes of each key a replica has executed.
pub(crate) type Writes = BTreeMap<Key, u64>;

/// The order of each key's commands, as the replicas that came first executed them.
#[derive(Debug, Default)]
pub(crate) struct KeyOrder {
    writes: Writes,
    entries: BTreeMap<EntryId, Vec<Use>>,
}

/// What an entry does to a key.
#[derive(Clone, Debug)]
struct Use {
    key: Key,
    writes: bool,
    /// How many writes of the key come before it.
    after: u64,
}

impl KeyOrder {
    /// A replica that has executed `done` executes an entry. It may leave out writes only if it has
    /// `installed` a snapshot that holds their effects. What is wrong, if something is.
    pub(crate) fn executed(
        &mut self,
        id: EntryId,
        batch: &Batch,
        done: &mut Writes,
        installed: bool,
    ) -> Result<(), String> {
        if !self.entries.contains_key(&id) {
            let uses = self.uses(batch);
            for used in uses.iter().filter(|used| used.writes) {
                self.writes.insert(used.key.clone(), used.after + 1);
            }
            self.entries.insert(id, uses);
        }
        for used in self.entries.get(&id).into_iter().flatten() {
            let done = done.entry(used.key.clone()).or_default();
            let in_order = *done == used.after || (installed && *done < used.after);
            if !in_order {
                let key = match &used.key {
                    Some(key) => format!("key {key:?}"),
                    None => String::from("all keys at once"),
                };
                return Err(format!(
                    "after {done} writes of {key} and not {}",
                    used.after
                ));
            }
            *done = used.after + u64::from(used.writes);
        }
        Ok(())
    }

    /// What an entry that nobody has executed yet does, with its place in the order: whoever
    /// executes it first must have executed all that others have and that conflicts with it.
    fn uses(&self, batch: &Batch) -> Vec<Use> {
        let used = |(key, writes): (Key, bool)| Use {
            after: self.writes.get(&key).copied().unwrap_or(0),
            key,
            writes,
        };
        match touched(batch) {
            None => Vec::new(),
            Some(Keys::All) => vec![used((None, true))],
            Some(Keys::Some { reads, writes }) => {
                let writes = BTreeSet::from_iter(writes);
                let reads = BTreeSet::from_iter(reads);
                let reads = reads.difference(&writes).cloned();
                let reads = reads.map(|key| (Some(key), false)).collect::<Vec<_>>();
                let writes = writes.into_iter().map(|key| (Some(key), true));
                let all = [(None, false)].into_iter().chain(reads).chain(writes);
                all.map(used).collect()
            }
        }
    }

    /// What a replica has done that has executed `applied`.
    pub(crate) fn done(&self, applied: &Frontier) -> Writes {
        let mut done = Writes::new();
        let entries = self.entries.iter().filter(|(id, _)| applied.contains(**id));
        for used in entries
            .flat_map(|(_, uses)| uses)
            .filter(|used| used.writes)
        {
            *done.entry(used.key.clone()).or_default() += 1;
        }
        done
    }
}

/// What a batch reads and writes; `None` if it is the no-op, which is in no order with anything.
fn touched(batch: &Batch) -> Option<Keys> {
    let machine = Register::default();
    let keys = batch.requests().map(|request| match request.operation {
        Operation::Open | Operation::Close => Keys::All,
        Operation::Apply(command) => machine.keys(command),
        Operation::Query(query) => machine.query_keys(query),
    });
    keys.reduce(|mut sum, keys| {
        sum.merge(keys);
        sum
    })
}
