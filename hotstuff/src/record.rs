//! What must survive a crash: what this replica has proposed, voted for and given up, its lock and
//! highest certificate, the blocks that it has voted for, and what is committed. [Yin19 §4, §5]

use std::collections::BTreeMap;

use quorate_core::id::Slot;
use serde::{Deserialize, Serialize};

use crate::blocks::{Block, BlockId, View};
use crate::certificate::{CheckpointCertificate, QuorumCertificate, TimeoutCertificate};

/// A change of the durable state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Record {
    /// The chain begins after this checkpoint, which a durable snapshot holds or goes beyond. Only
    /// ever the first.
    Stable(CheckpointCertificate),
    /// A block that is kept. One that is voted for comes before the vote.
    Block(Block),
    /// This replica votes for a block.
    Voted(BlockId),
    /// This replica gives a view up, and all before it.
    TimedOut(View),
    /// This replica may propose in a view, from now on and until it stops.
    Proposed(View),
    /// The highest certificate.
    Certified(QuorumCertificate),
    /// The lock.
    Locked(BlockId),
    /// A view has been given up by a quorum: how the next one begins here.
    ViewTimedOut(Box<TimeoutCertificate>),
    /// A block is committed, and so are its ancestors. A snapshot that ends here needs its name.
    Committed(BlockId),
}

/// All records, folded.
#[derive(Clone, Debug)]
pub(crate) struct Durable {
    pub(crate) stable: Option<CheckpointCertificate>,
    pub(crate) blocks: Vec<Block>,
    pub(crate) promised: Promised,
    pub(crate) high: QuorumCertificate,
    pub(crate) entered: Option<TimeoutCertificate>,
    pub(crate) committed: BTreeMap<Slot, BlockId>,
}

/// What this replica has bound itself to.
#[derive(Clone, Debug)]
pub(crate) struct Promised {
    /// The block that it voted for last.
    pub(crate) voted: BlockId,
    /// It has given up all views through this one.
    pub(crate) timed_out: View,
    /// It has proposed in no view after this one.
    pub(crate) proposed: View,
    /// It votes for nothing that conflicts with this block, unless a later one is certified.
    pub(crate) locked: BlockId,
}

impl Default for Promised {
    fn default() -> Self {
        Promised {
            voted: BlockId::genesis(),
            timed_out: View::GENESIS,
            proposed: View::GENESIS,
            locked: BlockId::genesis(),
        }
    }
}

impl Durable {
    /// Folds `records`; an error says which of them does not fit.
    pub(crate) fn fold(records: Vec<Record>) -> Result<Durable, String> {
        let mut durable = Durable {
            stable: None,
            blocks: Vec::new(),
            promised: Promised::default(),
            high: QuorumCertificate::genesis(),
            entered: None,
            committed: BTreeMap::new(),
        };
        for (index, record) in records.into_iter().enumerate() {
            durable
                .take(index, record)
                .map_err(|reason| format!("record {index}: {reason}"))?;
        }
        Ok(durable)
    }

    fn take(&mut self, index: usize, record: Record) -> Result<(), String> {
        let promised = &mut self.promised;
        match record {
            Record::Stable(certificate) if index == 0 => self.stable = Some(certificate),
            Record::Stable(certificate) => {
                let height = certificate.height();
                return Err(format!("the chain starts anew at height {height}"));
            }
            Record::Block(block) => self.blocks.push(block),
            Record::Voted(block) => {
                if block.view < promised.voted.view {
                    let last = promised.voted;
                    return Err(format!("a vote for {block:?} comes after one for {last:?}"));
                }
                promised.voted = block;
            }
            Record::TimedOut(view) => promised.timed_out = promised.timed_out.max(view),
            Record::Proposed(view) => promised.proposed = promised.proposed.max(view),
            Record::Certified(certificate) if certificate.view() < self.high.view() => {
                let (view, high) = (certificate.view(), self.high.view());
                return Err(format!(
                    "a certificate of view {view} comes after one of {high}"
                ));
            }
            Record::Certified(certificate) => self.high = certificate,
            Record::Locked(block) => promised.locked = block,
            Record::ViewTimedOut(certificate) => self.entered = Some(*certificate),
            Record::Committed(block) => {
                self.committed.insert(block.height, block);
            }
        }
        Ok(())
    }

    /// Records that fold to this.
    pub(crate) fn records(self) -> Vec<Record> {
        let mut records: Vec<Record> = self.stable.map(Record::Stable).into_iter().collect();
        records.extend(self.blocks.into_iter().map(Record::Block));
        records.extend([
            Record::Voted(self.promised.voted),
            Record::TimedOut(self.promised.timed_out),
            Record::Proposed(self.promised.proposed),
            Record::Certified(self.high),
            Record::Locked(self.promised.locked),
        ]);
        let entered = self.entered.map(Box::new);
        records.extend(entered.map(Record::ViewTimedOut));
        records.extend(self.committed.into_values().map(Record::Committed));
        records
    }
}
