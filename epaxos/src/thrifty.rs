//! Whom a coordinator asks, and how it tells what was decided. Where its commands meet nothing, it
//! asks no more replicas than it needs, and tells with the next message. \[Moraru13\]
//!
//! Both are a matter of cost alone. Whoever is not asked is as if the PreAccept had been lost, and
//! whoever is told late as if the Commit had been: nothing rests on either. What they cost is paid
//! where something is in the way. A replica that has not heard of a command cannot name it, which
//! costs another coordinator the fast path; a command that depends on one whose Commit lingers is
//! executed later; and a replica that does not answer costs a wait. So a coordinator that meets any of
//! these asks and tells all at once, as in the paper, until so many commands have met none.

use quorate_core::id::{EntryId, ReplicaId, ReplicaSet, Time};
use quorate_core::protocol::{Dest, Path};

use crate::dependencies::Dependencies;
use crate::instances::{Decision, Value, lane_of};
use crate::message::Message;
use crate::normal::{Leading, PreAccepting, Stage};
use crate::replica::{EPaxos, Out};

impl EPaxos {
    /// Whether this replica's last commands have met nothing.
    fn is_calm(&self) -> bool {
        self.calm >= self.config.thrifty_after
    }

    /// Notes whether D0 of a new command names another coordinator's that is not known to be decided.
    pub(crate) fn note_named(&mut self, initial: &Dependencies) {
        let own = lane_of(self.me);
        let undecided = initial.spans().iter().any(|span| {
            let (lane, slot) = (span.lane, span.last);
            lane != own && !self.instances.is_committed(EntryId { lane, slot })
        });
        if undecided {
            self.calm = 0;
        }
    }

    /// Notes by which path a command of this replica's was decided.
    pub(crate) fn note_path(&mut self, path: Path) {
        self.calm = match path {
            Path::Fast => self.calm.saturating_add(1),
            Path::Slow | Path::Recovered => 0,
        };
    }

    pub(crate) fn others(&self) -> ReplicaSet {
        self.peers_of(self.me).collect()
    }

    /// Those who make a fast quorum with this replica: its successors, so that each has as many to
    /// answer.
    fn fast_quorum(&self) -> ReplicaSet {
        let n = self.sizes.n;
        let successor = |i| ReplicaId(((self.me.index() + i) % n) as u8);
        (1..self.sizes.quorums.fast.size()).map(successor).collect()
    }

    fn pre_accepting(&mut self, id: EntryId) -> Option<&mut PreAccepting> {
        match &mut self.leading.get_mut(&id)?.stage {
            Stage::PreAccepting(answers) => Some(answers),
            _ => None,
        }
    }

    /// Asks the others to preaccept a command: as many as are needed, or all.
    pub(crate) fn ask(&mut self, now: Time, id: EntryId, out: &mut Out) {
        let others = self.others();
        let asked = match self.is_calm() {
            true => self.fast_quorum(),
            false => others,
        };
        if asked != others {
            self.unanswered.set(id, now + self.config.thrifty_wait);
        }
        if let Some(answers) = self.pre_accepting(id) {
            answers.asked = asked;
        }
        self.send_pre_accept(id, asked, out);
    }

    /// Asks all who have not answered, unless it is not they who are waited for.
    pub(crate) fn ask_again(&mut self, id: EntryId, out: &mut Out) {
        let others = self.others();
        let Some(answers) = self.pre_accepting(id) else {
            return;
        };
        let answered = answers.answered.voters();
        if answers.asked.without(answered).is_empty() {
            return;
        }
        answers.asked = others;
        self.calm = 0;
        self.send_pre_accept(id, others.without(answered), out);
    }

    fn send_pre_accept(&self, id: EntryId, to: ReplicaSet, out: &mut Out) {
        let initial = self.instances.known(id).and_then(|i| i.initial());
        if let Some((command, dependencies)) = initial {
            let message = Message::PreAccept {
                id,
                command: command.clone(),
                dependencies: dependencies.clone(),
            };
            self.send_to(to, &message, out);
        }
    }

    /// Tells the others what is decided, in full those who were not asked.
    pub(crate) fn tell_others(&mut self, decision: &Decision, out: &mut Out) {
        let others = self.others();
        let asked = match self.leading.get(&decision.id) {
            Some(Leading {
                stage: Stage::PreAccepting(answers),
                ..
            }) => answers.asked,
            _ => others,
        };
        self.tell_decided(asked, decision.clone(), out);
        let full = Decision {
            value: self.in_full(decision.id, &decision.value),
            ..decision.clone()
        };
        self.tell_decided(others.without(asked), full, out);
    }

    fn tell_decided(&self, to: ReplicaSet, decision: Decision, out: &mut Out) {
        let message = Message::Commit(decision);
        for to in self.destinations(to) {
            match self.is_calm() {
                true => out.send_with_next(to, message.clone()),
                false => out.send(to, message.clone()),
            }
        }
    }

    /// `value` for those who do not have the initial command.
    pub(crate) fn in_full(&self, id: EntryId, value: &Value) -> Value {
        let command = self.instances.known(id).and_then(|i| i.command.clone());
        match (value, command) {
            (Value::Initial, Some(command)) => Value::Command(command),
            (value, _) => value.clone(),
        }
    }

    pub(crate) fn send_to(&self, to: ReplicaSet, message: &Message, out: &mut Out) {
        for to in self.destinations(to) {
            out.send(to, message.clone());
        }
    }

    fn destinations(&self, to: ReplicaSet) -> impl Iterator<Item = Dest> + use<> {
        let all = to == self.others();
        let each = to.iter().filter(move |_| !all).map(Dest::One);
        (all && !to.is_empty())
            .then_some(Dest::Others)
            .into_iter()
            .chain(each)
    }
}
