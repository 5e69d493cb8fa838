//! Evidence of equivocation: two blocks that one key has signed in one view, as their proposer or
//! as a voter. Both signatures are kept, so that anyone can check them.

use quorate_core::crypto::Signature;
use quorate_core::id::ReplicaId;
use quorate_core::protocol::Event;

use crate::blocks::BlockId;
use crate::replica::Out;

/// What was signed twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Statement {
    /// A proposal.
    Proposal,
    /// A vote.
    Vote,
}

/// Proof that a replica is faulty: two signatures on different blocks of one view.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Equivocation {
    /// Who signed.
    pub by: ReplicaId,
    /// As what.
    pub what: Statement,
    /// The first block, and the signature on it.
    pub first: (BlockId, Signature),
    /// The other.
    pub second: (BlockId, Signature),
}

/// What each replica has signed last, and where it was caught: once as a proposer and once as a
/// voter, which is enough to act on.
#[derive(Debug)]
pub(crate) struct Evidence {
    last: Vec<[Option<(BlockId, Signature)>; 2]>,
    found: Vec<Equivocation>,
}

impl Evidence {
    pub(crate) fn of(n: usize) -> Evidence {
        Evidence {
            last: vec![[None; 2]; n],
            found: Vec::new(),
        }
    }

    /// All that was found.
    pub(crate) fn found(&self) -> &[Equivocation] {
        &self.found
    }

    /// Takes note of a statement whose signature is good; false if it contradicts another one.
    pub(crate) fn note(
        &mut self,
        by: ReplicaId,
        what: Statement,
        signed: (BlockId, Signature),
        out: &mut Out,
    ) -> bool {
        let last = self.last.get_mut(by.index());
        let Some(last) = last.and_then(|last| last.get_mut(what as usize)) else {
            return true;
        };
        match last {
            Some(first) if first.0.view == signed.0.view && first.0 != signed.0 => {
                let known = self.found.iter().any(|e| (e.by, e.what) == (by, what));
                if !known {
                    self.found.push(Equivocation {
                        by,
                        what,
                        first: *first,
                        second: signed,
                    });
                    let regime = signed.0.view.0;
                    out.event(Event::Equivocation { by, regime });
                }
                false
            }
            Some(first) if first.0.view > signed.0.view => true,
            last => {
                *last = Some(signed);
                true
            }
        }
    }
}
