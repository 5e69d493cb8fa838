//! What must hold in every replica after every step. The simulator and the driver ask.
//!
//! | rule | source |
//! |---|---|
//! | the view is after that of the highest certificate, and of the last vote and proposal at least | [Yin19 §5] |
//! | the lock is not of a later view than the highest certificate | [Yin19 §4.4] |
//! | no two certificates in one view, and none that contradicts what is committed | [Yin19 §4.6] |
//! | stable ≤ snapshot ≤ committed, and the chain begins at stable | [Castro99 §4.3] |
//! | this replica's own checkpoints are those that are proved | [Castro99 §4.3] |
//! | what is kept of others is bounded | |
//!
//! What concerns several replicas (equal chains) the simulator checks from outside.

use quorate_core::codec::MESSAGE_LIMIT;
use quorate_core::protocol::{Violation, invariant};

use crate::evidence::Evidence;
use crate::mutant::Mutant;
use crate::replica::Hotstuff;

impl Hotstuff {
    pub(crate) fn check_invariants(&self) -> Result<(), Violation> {
        self.check_views()?;
        self.check_chain()?;
        let (count, bytes) = self.mempool.of_others();
        let most = (self.n - 1) * self.config.max_waiting_batches;
        // One batch always fits.
        let share = self.config.max_waiting_bytes.max(MESSAGE_LIMIT / 2);
        let most_bytes = (self.n - 1) * share;
        let (votes, candidates) = (self.votes.len(), self.candidates.len());
        let signed = self.evidence.len();
        let unbounded = self.config.mutated(Mutant::DuplicateVotesCounted);
        let tells = votes <= self.n || unbounded;
        let tells = tells && candidates <= self.n && signed <= Evidence::limit(self.n);
        invariant(
            "what is kept is bounded",
            count <= most && bytes <= most_bytes && tells,
            || {
                format!(
                    "{count} batches of {bytes} bytes, {votes} votes, {candidates} proposals, \
                     {signed} statements"
                )
            },
        )
    }

    fn check_views(&self) -> Result<(), Violation> {
        let (promised, high) = (&self.promised, self.high.view());
        invariant(
            "views go up",
            self.view > high
                && self.view >= promised.voted.view
                && self.view >= self.proposed
                && self.view.next() >= promised.proposed
                && self.entered.as_ref().is_none_or(|tc| tc.view < self.view),
            || format!("view {}, high {high}, {promised:?}", self.view),
        )?;
        invariant(
            "the lock is certified",
            promised.locked.view <= high,
            || format!("high {high}, {promised:?}"),
        )
    }

    fn check_chain(&self) -> Result<(), Violation> {
        let (stable, head) = (self.stable_height(), self.tree.head().height);
        let first = self.tree.committed().next().map(|id| id.height);
        invariant(
            "stable <= snapshot <= committed",
            stable <= self.snapshot && self.snapshot <= head && first == Some(stable),
            || {
                format!(
                    "stable {stable}, chain from {first:?}, snapshot {}, committed {head}",
                    self.snapshot
                )
            },
        )?;
        let conflict = self.conflict;
        invariant(
            "one block is certified in a view",
            conflict.is_none(),
            || format!("{conflict:?}"),
        )?;
        let diverged = self.checkpoints.diverged;
        invariant(
            "own checkpoints are those that are proved",
            diverged.is_none(),
            || format!("another state is proved at height {diverged:?}"),
        )
    }
}
