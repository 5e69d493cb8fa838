//! Which slot a batch has, found without a look at all of them: of those between the watermarks, and of
//! some before.

use std::collections::BTreeMap;

use quorate_core::id::Slot;
use quorate_core::request::{Batch, SessionId};

use crate::replica::Pbft;

/// What a batch is looked for by: its first request and its size. Two batches may share it; who looks
/// compares them.
type Name = (SessionId, u64, usize);

fn name_of(batch: &Batch) -> Option<Name> {
    let first = batch.requests().next()?;
    Some((first.session, first.sequence, batch.size()))
}

/// The last slot of each batch.
#[derive(Debug, Default)]
pub(crate) struct Ordered {
    slots: BTreeMap<Name, Slot>,
    names: BTreeMap<Slot, Name>,
}

impl Ordered {
    /// A slot holds this batch, and no other any more.
    pub(crate) fn note(&mut self, slot: Slot, batch: &Batch) {
        let name = name_of(batch);
        if self.names.get(&slot) == name.as_ref() {
            return;
        }
        let before = match name {
            Some(name) => self.names.insert(slot, name),
            None => self.names.remove(&slot),
        };
        if let Some(before) = before.filter(|before| self.slots.get(before) == Some(&slot)) {
            self.slots.remove(&before);
        }
        if let Some(name) = name {
            let last = self.slots.entry(name).or_insert(slot);
            *last = (*last).max(slot);
        }
    }

    /// The log begins after this slot now.
    pub(crate) fn compact_through(&mut self, slot: Slot) {
        let forgotten = Slot(slot.0.saturating_sub(REMEMBERED));
        let kept = self.names.split_off(&forgotten.next());
        for (slot, name) in std::mem::replace(&mut self.names, kept) {
            if self.slots.get(&name) == Some(&slot) {
                self.slots.remove(&name);
            }
        }
    }

    /// Forgets what slots after this one hold.
    fn cut_after(&mut self, slot: Slot) {
        self.names.split_off(&slot.next());
        self.slots.retain(|_, held| *held <= slot);
    }
}

/// Of how many slots before the low watermark it is known what they held.
const REMEMBERED: u64 = 1024;

impl Pbft {
    /// The last slot between the watermarks that holds a batch: accepted in this view, or decided.
    pub(crate) fn slot_of(&self, batch: &Batch) -> Option<Slot> {
        let slot = *self.ordered.slots.get(&name_of(batch)?)?;
        let instance = self.log.slot(slot)?;
        let decided = instance.committed();
        let decided = decided.and_then(|digest| instance.body(&digest));
        let mut entries = instance.entry_in(self.view).into_iter().chain(decided);
        entries.any(|entry| entry.batch == *batch).then_some(slot)
    }

    /// The last slot that holds a batch or, before the low watermark, one that looks like it: good
    /// enough for who will say so again if it was another.
    pub(crate) fn slot_like(&self, batch: &Batch) -> Option<Slot> {
        let slot = *self.ordered.slots.get(&name_of(batch)?)?;
        match slot <= self.log.low() {
            true => Some(slot),
            false => self.slot_of(batch),
        }
    }

    /// Notes what all slots hold: a view has begun, or this replica has started.
    pub(crate) fn note_all(&mut self) {
        self.ordered.cut_after(self.log.low());
        for (slot, instance) in self.log.iter() {
            let decided = instance
                .committed()
                .and_then(|digest| instance.body(&digest));
            if let Some(entry) = decided.or_else(|| instance.entry_in(self.view)) {
                self.ordered.note(slot, &entry.batch);
            }
        }
    }

    /// Notes what a slot of this view holds, if it is here.
    pub(crate) fn note_accepted(&mut self, slot: Slot) {
        let instance = self.log.slot(slot).filter(|i| i.committed().is_none());
        if let Some(entry) = instance.and_then(|instance| instance.entry_in(self.view)) {
            self.ordered.note(slot, &entry.batch);
        }
    }
}
