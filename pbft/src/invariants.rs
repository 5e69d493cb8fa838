//! What must hold in every replica after every step. The simulator and the driver ask.
//!
//! | rule | source |
//! |---|---|
//! | stable ≤ snapshot ≤ executed; the log begins after stable and ends within the window | [Castro99 §4.3] |
//! | a stable checkpoint has a proof | [Castro99 §4.3] |
//! | this replica's own checkpoints are those that are proved | [Castro99 §4.3] |
//! | nothing is accepted or prepared in a view to come, nor prepared between views | [Castro99 §4.4] |
//! | what prepared in the view is what was accepted in it | [Castro99 §4.2] |
//! | a view that has begun began with its own new view | [Castro99 §4.4] |
//! | a primary gives out no slot that the new view has settled | [Castro99 §4.4] |
//!
//! Each check looks at the ends of the log only: it runs after every step. What concerns several
//! replicas (one digest prepared in a view and slot, equal logs) the simulator checks from outside.

use quorate_core::id::Slot;
use quorate_core::protocol::{Violation, invariant};

use crate::certificate::CheckpointCertificate;
use crate::log::Instance;
use crate::replica::Pbft;

impl Pbft {
    pub(crate) fn check_invariants(&self) -> Result<(), Violation> {
        self.check_watermarks()?;
        self.check_view()?;
        let ends = [self.log.low().next(), self.executed.next(), self.log.last()];
        let mut held = ends
            .iter()
            .filter_map(|slot| Some((slot, self.log.slot(*slot)?)));
        held.try_for_each(|(slot, instance)| self.check_instance(*slot, instance))
    }

    fn check_watermarks(&self) -> Result<(), Violation> {
        let stable = self.stable.as_ref();
        let stable = stable.map_or(Slot::ZERO, CheckpointCertificate::slot);
        let (low, last) = (self.log.low(), self.log.last());
        invariant(
            "stable <= snapshot <= executed",
            stable == low && low <= self.snapshot && self.snapshot <= self.executed,
            || {
                format!(
                    "stable {stable}, low {low}, snapshot {}, executed {}",
                    self.snapshot, self.executed
                )
            },
        )?;
        invariant(
            "the log is within the watermarks",
            last <= self.log.high(),
            || format!("slot {last} is beyond {}", self.log.high()),
        )?;
        let diverged = self.checkpoints.diverged;
        invariant(
            "own checkpoints are those that are proved",
            diverged.is_none(),
            || format!("another state is proved at slot {diverged:?}"),
        )
    }

    fn check_view(&self) -> Result<(), Violation> {
        let begun = self.new_view.as_ref().map(|new_view| new_view.view);
        invariant(
            "a view begins with its own new view",
            begun.is_none_or(|begun| begun == self.view),
            || format!("view {} with the new view of {begun:?}", self.view),
        )?;
        invariant(
            "a primary gives out no slot that is settled",
            !self.leads() || self.primary.next > self.settled.1,
            || format!("{} after {:?}", self.primary.next, self.settled),
        )
    }

    fn check_instance(&self, slot: Slot, instance: &Instance) -> Result<(), Violation> {
        let accepted = instance.accepted();
        let prepared = instance.prepared();
        let own_slot =
            accepted.is_none_or(|p| p.slot == slot) && prepared.is_none_or(|p| p.slot() == slot);
        let past = accepted.is_none_or(|p| p.view <= self.view)
            && prepared.is_none_or(|p| p.view() <= self.view);
        invariant("nothing is of a view to come", own_slot && past, || {
            format!("slot {slot} in view {}: {instance:?}", self.view)
        })?;
        let now = prepared.filter(|p| p.view() == self.view);
        let matches = now.is_none_or(|prepared| {
            let accepted = instance.accepted_in(self.view);
            accepted.is_some_and(|accepted| accepted.digest == prepared.digest())
        });
        invariant(
            "what prepared is what was accepted",
            matches && (now.is_none() || self.is_active()),
            || format!("slot {slot} in view {}: {instance:?}", self.view),
        )
    }
}
