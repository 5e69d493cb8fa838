//! What must hold in every replica after every step. The simulator and the driver ask.
//!
//! | rule | source |
//! |---|---|
//! | an instance is decided one way | [Ryabinin25 Agreement] |
//! | nothing is accepted in a higher ballot than the one joined | \[Ryabinin25\] |
//! | what this replica leads it leads in the ballot it has joined | \[Ryabinin25\] |
//! | trimmed ⊆ executed, and the floor ⊆ executed | `checkpoint.rs` |
//!
//! What concerns several replicas (equal decisions, Visibility, order) the tests and the simulator
//! check from outside.

use quorate_core::protocol::{Violation, invariant};

use crate::replica::EPaxos;

/// How many instances are looked at after each step.
const LOOKED_AT: usize = 16;

impl EPaxos {
    pub(crate) fn check_invariants(&self) -> Result<(), Violation> {
        invariant(
            "an instance is decided one way",
            self.conflict.is_none(),
            || format!("two decisions for {:?}", self.conflict),
        )?;
        for (id, leading) in self.leading.iter().take(LOOKED_AT) {
            let Some(instance) = self.instances.known(*id) else {
                continue;
            };
            invariant(
                "nothing is accepted in a ballot higher than joined",
                instance.abal <= instance.bal,
                || format!("{id:?}: {:?} and {:?}", instance.abal, instance.bal),
            )?;
            invariant(
                "a replica leads in the ballot it has joined",
                instance.is_committed() || leading.ballot == instance.bal,
                || format!("{id:?}: {:?} and {:?}", leading.ballot, instance.bal),
            )?;
        }
        let executed = self.graph.executed();
        invariant(
            "trimmed and floor are executed",
            executed.covers(self.instances.trimmed()) && executed.covers(&self.floor),
            || {
                format!(
                    "trimmed {:?}, floor {:?}, executed {executed:?}",
                    self.instances.trimmed(),
                    self.floor
                )
            },
        )
    }
}
