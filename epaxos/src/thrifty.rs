//! Whom a coordinator asks, and how it tells what was decided. Where its commands meet nothing, it
//! asks no more replicas than it needs, and tells with the next message. \[Moraru13\]
//!
//! Both are a matter of cost alone. Whoever is not asked is as if the PreAccept had been lost, and
//! whoever is told late as if the Commit had been: nothing rests on either. What they cost is paid
//! where something is in the way. A replica that has not heard of a command cannot name it, which
//! costs another coordinator the fast path; a command that depends on one whose Commit lingers is
//! executed later; and a replica that does not answer costs a wait. So a coordinator that meets any of
//! these asks and tells all at once, as in the paper, until so many commands have met none. Meanwhile
//! it sees who answers in time, and asks those later.

use std::collections::BTreeMap;

use quorate_core::id::{EntryId, ReplicaId, ReplicaSet, Slot, Time};
use quorate_core::protocol::{Dest, Path};

use crate::dependencies::Dependencies;
use crate::instances::{Decision, Value, coordinator, lane_of};
use crate::message::Message;
use crate::normal::{PreAccepting, Stage};
use crate::replica::{EPaxos, Out};

/// For how many times [`Config::thrifty_after`](crate::Config) commands a coordinator goes on to ask
/// the same replicas, before it asks all again to see who answers in time.
const LOOKED_AGAIN: u32 = 16;

/// How the last commands went that this replica coordinated.
#[derive(Clone, Debug, Default)]
pub(crate) struct Calm {
    /// How many in a row have met nothing that is in the way.
    commands: u32,
    /// About how many of these all were asked.
    asked_all: u32,
    /// In how many of those each replica answered before the decision.
    in_time: BTreeMap<ReplicaId, u32>,
}

impl Calm {
    fn note_answers(&mut self, answered: ReplicaSet) {
        self.asked_all = self.asked_all.saturating_add(1);
        for replica in answered.iter() {
            let in_time = self.in_time.entry(replica).or_default();
            *in_time = in_time.saturating_add(1);
        }
    }

    /// Whether a replica has answered in time for less than a quarter of the commands. Of equals each
    /// does for half or more.
    fn is_late(&self, replica: ReplicaId) -> bool {
        let in_time = self.in_time.get(&replica).copied().unwrap_or(0);
        4 * u64::from(in_time) < u64::from(self.asked_all)
    }
}

impl EPaxos {
    /// Whether this replica's last commands have met nothing.
    fn is_calm(&self) -> bool {
        self.calm.commands >= self.config.thrifty_after
    }

    /// Notes whether D0 of a new command names another coordinator's that is not known to be decided.
    pub(crate) fn note_named(&mut self, initial: &Dependencies) {
        let own = lane_of(self.me);
        let committed = self.instances.committed();
        let undecided = initial.spans().iter().any(|span| {
            let lane = span.lane;
            let first = span.first.max(committed.through(lane).next());
            let mut beyond = (first.0..=span.last.0).map(Slot);
            lane != own && beyond.any(|slot| !committed.contains(EntryId { lane, slot }))
        });
        if undecided {
            self.calm = Calm::default();
        }
    }

    /// Notes by which path a command of this replica's was decided.
    fn note_path(&mut self, id: EntryId, path: Path) {
        let others = self.others();
        let after = self.config.thrifty_after;
        let looks_again = self.calm.commands >= after.saturating_mul(LOOKED_AGAIN) && after > 0;
        if path != Path::Fast || looks_again {
            self.calm = Calm::default();
            return;
        }
        let answers = self.pre_accepting(id);
        let all = answers.and_then(|a| (a.asked == others).then(|| a.answered.voters()));
        self.calm.commands = self.calm.commands.saturating_add(1);
        if let Some(answered) = all {
            self.calm.note_answers(answered);
        }
    }

    /// All replicas but this one.
    pub(crate) fn others(&self) -> ReplicaSet {
        self.peers_of(self.me).collect()
    }

    /// Those who make a fast quorum with this replica: of those who answer in time its successors, so
    /// that each has as many to answer.
    fn fast_quorum(&self) -> ReplicaSet {
        let n = self.sizes.n;
        let successor = |i| ReplicaId(((self.me.index() + i) % n) as u8);
        let mut successors: Vec<ReplicaId> = (1..n).map(successor).collect();
        successors.sort_by_key(|replica| self.calm.is_late(*replica));
        successors.truncate(self.sizes.quorums.fast.size() - 1);
        successors.into_iter().collect()
    }

    pub(crate) fn pre_accepting(&mut self, id: EntryId) -> Option<&mut PreAccepting> {
        match &mut self.leading.get_mut(&id)?.stage {
            Stage::PreAccepting(answers) => Some(answers),
            _ => None,
        }
    }

    /// Asks the others to preaccept a command: as many as are needed, or all.
    pub(crate) fn ask(&mut self, now: Time, id: EntryId, out: &mut Out) {
        let others = self.others();
        let command = self.instances.known(id).and_then(|i| i.command.as_ref());
        let requests = command.map_or(0, |command| command.batch().len());
        let asked = match self.is_calm() && requests >= self.config.thrifty_requests {
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

    /// Whether some have been asked about a command, and others have not.
    pub(crate) fn is_rest_unasked(&self, id: EntryId) -> bool {
        let others = self.others();
        self.leading
            .get(&id)
            .is_some_and(|leading| match &leading.stage {
                Stage::PreAccepting(answers) => {
                    !answers.fast && !answers.asked.is_empty() && answers.asked != others
                }
                _ => false,
            })
    }

    /// Asks all who have not answered a command that some have been asked about.
    pub(crate) fn ask_again(&mut self, now: Time, id: EntryId, out: &mut Out) {
        let others = self.others();
        let Some(answers) = self.pre_accepting(id) else {
            return;
        };
        let answered = answers.answered.voters();
        // Others are asked when it is durable here.
        if answers.asked.is_empty() {
            return;
        }
        answers.asked = others;
        self.calm = Calm::default();
        self.send_pre_accept(id, others.without(answered), out);
        self.decide_path(now, id, out);
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

    /// Tells the others what is decided, in full those who may not have the command. What was
    /// recovered somebody waits for.
    pub(crate) fn tell_others(&mut self, decision: &Decision, path: Path, out: &mut Out) {
        if coordinator(decision.id) == self.me {
            self.note_path(decision.id, path);
        }
        let others = self.others();
        let have = match path {
            Path::Fast => self.pre_accepting(decision.id).map(|answers| answers.asked),
            // The Accept has told them.
            Path::Slow => Some(others),
            Path::Recovered => None,
        };
        let have = have.unwrap_or(ReplicaSet::EMPTY);
        let lingers = path == Path::Fast && self.is_calm();
        let full = Decision {
            value: self.in_full(decision.id, &decision.value),
            ..decision.clone()
        };
        for (to, decision) in [(have, decision), (others.without(have), &full)] {
            for to in self.destinations(to) {
                let message = Message::Commit(decision.clone());
                match lingers {
                    true => out.send_with_next(to, message),
                    false => out.send(to, message),
                }
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
