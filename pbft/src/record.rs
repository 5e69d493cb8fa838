//! What must survive a crash: the view and how it began, the pre-prepares accepted in it, the
//! prepared certificates, the stable checkpoint. [Castro02 §4]

use quorate_core::id::Slot;
use serde::{Deserialize, Serialize};

use crate::certificate::{CheckpointCertificate, PreparedCertificate, Proposal};
use crate::entry::Entry;
use crate::log::{Log, View};
use crate::message::NewView;

/// A change of the durable state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Record {
    /// The log begins after this checkpoint, which a durable snapshot holds or goes beyond. Only
    /// ever the first.
    Stable(CheckpointCertificate),
    /// All earlier views are left for this one, which has not begun. What the view change shows
    /// follows from the other records: nothing prepares between the views.
    View(View),
    /// A view has begun.
    NewView(Box<NewView>),
    /// A pre-prepare of the view is accepted.
    PrePrepared {
        /// The signed part.
        proposal: Proposal,
        /// What its digest is of.
        entry: Entry,
    },
    /// A batch known by its digest has come.
    Body {
        /// The slot that refers to it.
        slot: Slot,
        /// The batch and its moment.
        entry: Entry,
    },
    /// A slot has prepared.
    Prepared(PreparedCertificate),
    /// A batch that this replica accepted in an earlier view, which may be asked for again.
    Kept {
        /// That view.
        view: View,
        /// The slot.
        slot: Slot,
        /// The batch and its moment.
        entry: Entry,
    },
}

/// All records, folded.
#[derive(Clone, Debug)]
pub(crate) struct Durable {
    pub(crate) stable: Option<CheckpointCertificate>,
    pub(crate) view: View,
    pub(crate) new_view: Option<Box<NewView>>,
    pub(crate) log: Log,
}

impl Durable {
    /// Folds `records`; an error says which of them does not fit.
    pub(crate) fn fold(records: Vec<Record>, width: u64) -> Result<Durable, String> {
        let mut durable = Durable {
            stable: None,
            view: View::default(),
            new_view: None,
            log: Log::after(Slot::ZERO, width),
        };
        for (index, record) in records.into_iter().enumerate() {
            durable
                .take(index, record, width)
                .map_err(|reason| format!("record {index}: {reason}"))?;
        }
        Ok(durable)
    }

    fn take(&mut self, index: usize, record: Record, width: u64) -> Result<(), String> {
        match record {
            Record::Stable(certificate) if index == 0 => {
                self.log = Log::after(certificate.slot(), width);
                self.stable = Some(certificate);
            }
            Record::Stable(certificate) => {
                let slot = certificate.slot();
                return Err(format!("the log starts anew at slot {slot}"));
            }
            Record::View(view) => {
                self.enter(view, false)?;
                self.new_view = None;
            }
            Record::NewView(new_view) => {
                self.enter(new_view.view, true)?;
                for proposal in &new_view.proposals {
                    if let Some(instance) = self.log.entry(proposal.slot) {
                        instance.accept(proposal.clone());
                    }
                }
                self.new_view = Some(new_view);
            }
            Record::PrePrepared { proposal, entry } => self.pre_prepared(proposal, entry)?,
            Record::Body { slot, entry } => {
                let instance = self.log.entry(slot).ok_or_else(|| outside(slot))?;
                instance.keep(entry.digest(), entry);
            }
            Record::Kept { view, slot, entry } => {
                let instance = self.log.entry(slot).ok_or_else(|| outside(slot))?;
                instance.restore_earlier(view, entry);
            }
            Record::Prepared(certificate) => {
                let slot = certificate.slot();
                let instance = self.log.entry(slot).ok_or_else(|| outside(slot))?;
                if certificate.view() > self.view {
                    return Err(format!("slot {slot} prepared in a view that never was"));
                }
                instance.prepare(certificate);
            }
        }
        Ok(())
    }

    fn enter(&mut self, view: View, begins: bool) -> Result<(), String> {
        let again = begins && self.new_view.is_none() && view == self.view;
        if view <= self.view && !again {
            return Err(format!("view {view} comes after view {}", self.view));
        }
        self.view = view;
        Ok(())
    }

    fn pre_prepared(&mut self, proposal: Proposal, entry: Entry) -> Result<(), String> {
        let (slot, digest) = (proposal.slot, proposal.digest);
        if proposal.view != self.view {
            return Err(format!(
                "a pre-prepare of view {} in view {}",
                proposal.view, self.view
            ));
        }
        let instance = self.log.entry(slot).ok_or_else(|| outside(slot))?;
        match instance.accepted_in(proposal.view) {
            Some(other) if other.digest != digest => {
                return Err(format!("slot {slot} has two pre-prepares in a view"));
            }
            _ => instance.accept(proposal),
        }
        instance.keep(digest, entry);
        Ok(())
    }
}

fn outside(slot: Slot) -> String {
    format!("slot {slot} is not between the watermarks")
}

/// Records that fold to the state given.
pub(crate) fn records(
    stable: Option<&CheckpointCertificate>,
    view: View,
    new_view: Option<&NewView>,
    log: &Log,
) -> Vec<Record> {
    let mut records: Vec<Record> = stable.cloned().map(Record::Stable).into_iter().collect();
    match new_view {
        Some(new_view) => records.push(Record::NewView(Box::new(new_view.clone()))),
        None if view > View::default() => records.push(Record::View(view)),
        None => {}
    }
    for (slot, instance) in log.iter() {
        // The certificate first: it is what a batch of an earlier view is kept for.
        let prepared = instance.prepared().cloned();
        records.extend(prepared.map(Record::Prepared));
        let accepted = instance.accepted_in(view);
        for (digest, entry) in instance.bodies() {
            let entry = entry.clone();
            records.push(match accepted {
                Some(proposal) if proposal.digest == *digest => Record::PrePrepared {
                    proposal: proposal.clone(),
                    entry,
                },
                _ => match instance.earlier(digest) {
                    Some(view) => Record::Kept { view, slot, entry },
                    None => Record::Body { slot, entry },
                },
            });
        }
        if let Some(proposal) = accepted.filter(|p| p.digest == *crate::log::NULL) {
            records.push(Record::PrePrepared {
                proposal: proposal.clone(),
                entry: Entry::default(),
            });
        }
    }
    records
}
