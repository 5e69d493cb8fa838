//! Execution: strongly connected components of the committed dependency graph, in reverse
//! topological order, each in the order of ids. [Ryabinin25; Moraru13 §4.3.2]

use quorate_core::id::EntryId;
use quorate_core::protocol::{Commit, Event};
use quorate_core::request::Batch;

use crate::dependencies::Dependencies;
use crate::instances::Instance;
use crate::mutant::Mutant;
use crate::replica::{EPaxos, Out};

impl EPaxos {
    /// A committed instance may be executed once all that it depends on is.
    pub(crate) fn enter_graph(&mut self, id: EntryId, mut dependencies: Dependencies) {
        if self.config.mutated(Mutant::ComponentMemberMissing) {
            let committed = |id: &EntryId| self.graph.is_committed(*id);
            dependencies = dependencies.iter().filter(committed).collect();
        }
        if !self.graph.executed().contains(id) {
            self.graph.commit(id, dependencies);
        }
    }

    /// Hands over what can be executed: whole components, dependencies first.
    pub(crate) fn execute(&mut self, out: &mut Out) {
        // A snapshot of another replica's must hold all that was executed here. As long as one is
        // needed, nothing is executed that it may lack.
        if self.needs_snapshot() {
            return;
        }
        let components = self.graph.executable();
        let mut checkpoint = false;
        for component in components.iter() {
            if component.len() > 1 {
                out.event(Event::Component {
                    size: component.len(),
                });
            }
            let mut order = component.to_vec();
            if self.config.mutated(Mutant::OrderDependsOnReplica) && self.me.0 % 2 == 1 {
                order.reverse();
            }
            let last = order.last().copied();
            for id in order {
                checkpoint |= self.snapshot_wanted && Some(id) == last;
                out.commit(Commit {
                    id,
                    batch: self.batch_of(id),
                    checkpoint: self.snapshot_wanted && Some(id) == last,
                    agreed: None,
                });
            }
            self.snapshot_wanted &= !checkpoint;
        }
        self.untold |= !components.is_empty();
    }

    fn batch_of(&self, id: EntryId) -> Batch {
        let instance = self.instances.known(id);
        instance.map_or_else(Batch::noop, Instance::batch)
    }
}
