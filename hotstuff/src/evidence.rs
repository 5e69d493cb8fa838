//! Evidence of equivocation: two blocks that one key has signed in one view, as their proposer or
//! as a voter. Both signatures are kept, so that anyone can check them.

use std::collections::BTreeMap;

use quorate_core::crypto::Signature;
use quorate_core::id::ReplicaId;
use quorate_core::protocol::Event;

use crate::blocks::{BlockId, View};
use crate::mutant::Mutant;
use crate::replica::{Hotstuff, Out};

/// Of so many views before and after its own a replica remembers what others have signed.
const REMEMBERED: u64 = 32;

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

/// What a replica has signed, one block a view.
type Signed = BTreeMap<View, (BlockId, Signature)>;

/// What each replica has signed of late, and where it was caught: once as a proposer and once as a
/// voter, which is enough to act on.
#[derive(Debug)]
pub(crate) struct Evidence {
    signed: Vec<[Signed; 2]>,
    found: Vec<Equivocation>,
}

impl Evidence {
    pub(crate) fn of(n: usize) -> Evidence {
        Evidence {
            signed: vec![[const { Signed::new() }; 2]; n],
            found: Vec::new(),
        }
    }

    /// All that was found.
    pub(crate) fn found(&self) -> &[Equivocation] {
        &self.found
    }

    /// Whether what is signed in `view` is remembered, by a replica that is in `current`.
    pub(crate) fn covers(view: View, current: View) -> bool {
        view.0.abs_diff(current.0) <= REMEMBERED
    }

    /// How many statements are remembered.
    pub(crate) fn len(&self) -> usize {
        self.signed.iter().flatten().map(BTreeMap::len).sum()
    }

    /// The most that can be of `n` replicas.
    pub(crate) fn limit(n: usize) -> usize {
        n * 2 * (2 * REMEMBERED as usize + 1)
    }

    fn latest(&self, by: ReplicaId, what: Statement) -> Option<View> {
        let signed = self.signed.get(by.index())?.get(what as usize)?;
        signed.last_key_value().map(|(view, _)| *view)
    }

    /// What the replica had signed in the view, if that is another block.
    fn contradicted(
        &mut self,
        (by, what): (ReplicaId, Statement),
        signed: (BlockId, Signature),
        current: View,
    ) -> Option<(BlockId, Signature)> {
        let known = self.signed.get_mut(by.index())?.get_mut(what as usize)?;
        let first = View(current.0.saturating_sub(REMEMBERED));
        *known = known.split_off(&first);
        let after = View(current.0.saturating_add(REMEMBERED).saturating_add(1));
        known.split_off(&after);
        let first = known.entry(signed.0.view).or_insert(signed);
        (first.0 != signed.0).then_some(*first)
    }
}

impl Hotstuff {
    /// Takes note of a statement whose signature is good, in view `current`; false if it contradicts
    /// another one.
    pub(crate) fn note(
        &mut self,
        by: ReplicaId,
        (what, current): (Statement, View),
        signed: (BlockId, Signature),
        out: &mut Out,
    ) -> bool {
        let (view, evidence) = (signed.0.view, &mut self.evidence);
        let later_alone = self.config.mutated(Mutant::LaterStatementsAlone);
        let passed_over = later_alone && evidence.latest(by, what) > Some(view);
        if passed_over || !Evidence::covers(view, current) {
            return true;
        }
        let Some(first) = evidence.contradicted((by, what), signed, current) else {
            return true;
        };
        let known = evidence.found.iter().any(|e| (e.by, e.what) == (by, what));
        if !known {
            evidence.found.push(Equivocation {
                by,
                what,
                first,
                second: signed,
            });
            let regime = view.0;
            out.event(Event::Equivocation { by, regime });
        }
        false
    }
}
