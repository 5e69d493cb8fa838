//! Requests of the driver's, and the commands that this replica makes of them.

use quorate_core::id::{EntryId, Time};
use quorate_core::machine::Keys;
use quorate_core::request::Batch;

use crate::dependencies::Dependencies;
use crate::instances::{Ballot, Command, lane_of};
use crate::mutant::Mutant;
use crate::normal::{Leading, PreAccepting, Stage};
use crate::replica::{EPaxos, Out};

/// Coordinator. \[Ryabinin25: submission\]
impl EPaxos {
    /// Takes requests from the driver. While execution is behind they wait for their turn: were they dropped, what the
    /// driver proposes for the first time would take each place that becomes free, and what it proposes again find
    /// none. The driver bounds what it has under way, and with it what waits here.
    pub(crate) fn take_requests(&mut self, now: Time, batch: Batch, keys: Keys, out: &mut Out) {
        if !self.is_window_full() {
            return self.propose(now, batch, &keys, out);
        }
        let waits = self.unproposed.iter().any(|(other, _)| *other == batch);
        let dropped = self.config.mutated(Mutant::FullWindowDrops);
        if !waits && !dropped && !self.is_under_way(&batch) {
            self.unproposed.push_back((batch, keys));
        }
    }

    /// Proposes what has waited for execution, as much as there is room for.
    pub(crate) fn propose_waiting(&mut self, now: Time, out: &mut Out) {
        while !self.is_window_full()
            && let Some((batch, keys)) = self.unproposed.pop_front()
        {
            self.propose(now, batch, &keys, out);
        }
    }

    /// Whether so many commands of this replica's own are not executed that it makes no more.
    fn is_window_full(&self) -> bool {
        let executed = self.graph.executed().through(lane_of(self.me));
        let unexecuted = self.next.0.saturating_sub(executed.next().0);
        unexecuted >= self.config.max_window as u64
    }

    /// Makes a command of requests, unless commands of this replica's own hold them that are not decided as Nop: the
    /// driver will propose them again. Another instance would come after the one that holds them, and as long as such
    /// come faster than they are decided, none is executed: each waits for one that is not decided yet.
    fn propose(&mut self, now: Time, batch: Batch, keys: &Keys, out: &mut Out) {
        if self.is_under_way(&batch) {
            return;
        }
        let id = self.next_id();
        let command = Command::new(batch, keys);
        let mut initial = self
            .conflicts
            .enter(id, command.footprint(), command.batch());
        self.note_named(&initial);
        self.add_wanted(&mut initial, id);
        let stage = Stage::PreAccepting(Box::new(PreAccepting::new(initial.clone())));
        self.lead(now, id, Ballot::ZERO, stage);
        self.pre_accept(self.me, id, &command, &initial, out);
        if self.may_ask_at_once(id) {
            self.ask(now, id, out);
        }
    }

    /// Whether commands of this replica's own hold all of `batch`, and may still execute it.
    fn is_under_way(&self, batch: &Batch) -> bool {
        let own = lane_of(self.me);
        let executes = |id: EntryId| {
            let instance = self.instances.known(id);
            let nop = instance.is_none_or(|instance| instance.is_committed() && instance.nop);
            id.lane == own && !nop && !self.graph.executed().contains(id)
        };
        let is_held = |session, sequence| self.conflicts.holders(session, sequence).any(executes);
        !batch.is_empty()
            && batch.requests().all(|r| is_held(r.session, r.sequence))
            && !self.config.mutated(Mutant::ProposedWhileUnderWay)
    }

    /// Whether the others may be asked before the command is durable here: a restart skips one slot,
    /// so all before it must be durable, and known to be so in this life.
    fn may_ask_at_once(&self, id: EntryId) -> bool {
        let durable = self.durable.is_some_and(|slot| slot.next() == id.slot);
        durable || self.config.mutated(Mutant::AskedBeyondOne)
    }

    /// A command of the own lane is durable, which this replica's vote on it shows.
    pub(crate) fn made_durable(&mut self, now: Time, id: EntryId, out: &mut Out) {
        self.durable = self.durable.max(Some(id.slot));
        if let Some(Leading {
            stage: Stage::PreAccepting(answers),
            ..
        }) = self.leading.get(&id)
            && answers.asked.is_empty()
        {
            self.ask(now, id, out);
        }
    }

    /// Names what others may have trimmed or are about to, so that their answers need not. Of the
    /// own lane, all below the id is at most what has been proposed before.
    fn add_wanted(&self, dependencies: &mut Dependencies, id: EntryId) {
        for (lane, slot, _) in self.wanted.lanes() {
            let slot = match lane == id.lane {
                true => slot.min(id.slot.previous()),
                false => slot,
            };
            dependencies.insert_through(lane, slot);
        }
    }
}
