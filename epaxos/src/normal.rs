//! The failure-free path: PreAccept, Accept, Commit. \[Ryabinin25\]

use quorate_core::id::{EntryId, ReplicaId, ReplicaSet, Time};
use quorate_core::protocol::{Dest, Event, Path};
use quorate_core::quorum::Tally;
use quorate_core::request::Batch;

use crate::dependencies::Dependencies;
use crate::footprint::Footprint;
use crate::instances::{Ballot, Command, Decision, Phase, Value};
use crate::message::Message;
use crate::mutant::Mutant;
use crate::record::Record;
use crate::recovery::{Asking, Validating};
use crate::replica::{EPaxos, Out};
use crate::waiting::Waiting;

/// An instance that this replica coordinates at ballot 0, or recovers.
#[derive(Clone, Debug)]
pub(crate) struct Leading {
    pub(crate) ballot: Ballot,
    pub(crate) stage: Stage,
    /// How often it has been sent again.
    pub(crate) tries: u32,
    /// Who has said that it has joined a higher ballot.
    pub(crate) rejected: ReplicaSet,
}

/// How often a message is sent again to those who have rejected none, before a higher ballot is tried.
const REJECTED_TRIES: u32 = 2;

impl Leading {
    /// Whether those who have joined no higher ballot have had their time, and were not enough.
    fn needs_higher_ballot(&self) -> bool {
        !self.rejected.is_empty() && self.tries > REJECTED_TRIES
    }
}

/// How far it has come.
#[derive(Clone, Debug)]
pub(crate) enum Stage {
    PreAccepting(Box<PreAccepting>),
    Accepting(Box<Accepting>),
    Asking(Box<Asking>),
    Validating(Box<Validating>),
    Waiting(Box<Waiting>),
}

/// Answers to a PreAccept.
#[derive(Clone, Debug)]
pub(crate) struct PreAccepting {
    /// D0, as it was sent.
    initial: Dependencies,
    /// Who has answered.
    pub(crate) answered: Tally,
    /// Who has answered with D0 itself.
    equal: Tally,
    union: Dependencies,
    /// Which others have been asked.
    pub(crate) asked: ReplicaSet,
    /// Until when it waits for a fast quorum, now that it has a slow one.
    patient_until: Option<Time>,
    /// Whether a fast quorum has answered D0, and the coordinator accepts it for itself.
    pub(crate) fast: bool,
}

impl PreAccepting {
    /// Nobody has been asked, and D0 is `initial`.
    pub(crate) fn new(initial: Dependencies) -> Self {
        PreAccepting {
            initial,
            answered: Tally::default(),
            equal: Tally::default(),
            union: Dependencies::default(),
            asked: ReplicaSet::EMPTY,
            patient_until: None,
            fast: false,
        }
    }
}

/// Answers to an Accept.
#[derive(Clone, Debug)]
pub(crate) struct Accepting {
    value: Value,
    dependencies: Dependencies,
    accepted: Tally,
}

/// Coordinator. \[Ryabinin25: PreAcceptOK, AcceptOK\]
impl EPaxos {
    /// Begins, or goes on with, an instance.
    pub(crate) fn lead(&mut self, now: Time, id: EntryId, ballot: Ballot, stage: Stage) {
        self.waiting.remove(&id);
        let leading = Leading {
            ballot,
            stage,
            tries: 0,
            rejected: ReplicaSet::EMPTY,
        };
        self.leading.insert(id, leading);
        self.unanswered.set(id, now + self.config.retransmit);
    }

    /// Gives an instance up, if it is led at a ballot lower than `below`.
    pub(crate) fn give_up(&mut self, id: EntryId, below: Ballot) {
        if self.leading.get(&id).is_some_and(|l| l.ballot < below) {
            self.abandon(id);
        }
    }

    pub(crate) fn abandon(&mut self, id: EntryId) {
        self.leading.remove(&id);
        self.unanswered.remove(id);
        self.waiting.remove(&id);
    }

    /// A PreAccept was answered. Counts only at ballot 0, and as long as nobody recovers.
    pub(crate) fn pre_accepted(
        &mut self,
        now: Time,
        from: ReplicaId,
        id: EntryId,
        dependencies: &Dependencies,
        out: &mut Out,
    ) {
        let Some(Leading {
            ballot: Ballot::ZERO,
            stage: Stage::PreAccepting(answers),
            ..
        }) = self.leading.get_mut(&id)
        else {
            return;
        };
        if !answers.answered.count(from) {
            return;
        }
        if *dependencies == answers.initial {
            answers.equal.count(from);
        }
        answers.union.union_with(dependencies);
        self.instances.heard_of_all(dependencies);
        self.decide_path(now, id, out);
    }

    /// The fast path, the slow path, or neither yet. \[Ryabinin25: PreAcceptOK\]
    pub(crate) fn decide_path(&mut self, now: Time, id: EntryId, out: &mut Out) {
        let unasked = self.is_rest_unasked(id);
        let Some(Leading {
            stage: Stage::PreAccepting(answers),
            ..
        }) = self.leading.get_mut(&id)
        else {
            return;
        };
        let (fast, n) = (self.sizes.fast, self.sizes.n);
        let (answered, equal) = (
            answers.answered.voters().len(),
            answers.equal.voters().len(),
        );
        let committed = equal >= fast;
        if !answers.answered.meets(&self.sizes.quorums.slow) && !committed {
            return;
        }
        if committed {
            return self.take_fast_path(now, id, out);
        }
        if self.config.mutated(Mutant::EqualityNotRequired) && answered >= fast {
            let dependencies = answers.union.clone();
            return self.decide(now, id, Value::Initial, dependencies, Path::Fast, out);
        }
        // As long as all answers that came were equal, the missing ones may be too.
        if equal == answered && equal + (n - answered) >= fast {
            if unasked {
                return;
            }
            let until = now + self.config.fast_wait;
            let until = *answers.patient_until.get_or_insert(until);
            if now < until {
                return self.unanswered.set(id, until);
            }
        }
        let (union, told) = (answers.union.clone(), answers.answered);
        if self.config.mutated(Mutant::CommitBeforeAccept) {
            return self.decide(now, id, Value::Initial, union, Path::Slow, out);
        }
        self.propose_accept(now, (id, Ballot::ZERO), (Value::Initial, union), told, out);
    }

    /// A fast quorum has answered D0. What may follow from that must not be forgotten: the coordinator
    /// accepts D0 at ballot 0 for itself, and acts when that is durable, as a recovery that hears from it
    /// will find. It may act at once if all replicas have answered D0, which whoever recovers finds without
    /// it: see [`EPaxos::conclude_from_doubt`].
    fn take_fast_path(&mut self, now: Time, id: EntryId, out: &mut Out) {
        let forgets = self.config.mutated(Mutant::FastDecisionForgotten);
        let n = self.sizes.n;
        let Some(answers) = self.pre_accepting(id) else {
            return;
        };
        let dependencies = answers.initial.clone();
        let before = std::mem::replace(&mut answers.fast, true);
        if answers.equal.voters().len() == n || forgets {
            return self.decide(now, id, Value::Initial, dependencies, Path::Fast, out);
        }
        if !before {
            self.unanswered.set(id, now + self.config.fast_wait);
            self.answered_fast.push(id);
        }
    }

    /// Accepts what a fast quorum has answered, unless the others have in the same turn.
    pub(crate) fn accept_fast(&mut self, out: &mut Out) {
        for id in std::mem::take(&mut self.answered_fast) {
            if let Some(answers) = self.pre_accepting(id) {
                let (value, dependencies) = (Value::Initial, answers.initial.clone());
                self.accept(self.me, (id, Ballot::ZERO), value, dependencies, out);
            }
        }
    }

    /// What was found on the fast path is not durable here for long: it is accepted by others too, who may
    /// be faster.
    fn leave_fast_path(&mut self, now: Time, id: EntryId, out: &mut Out) {
        let Some(answers) = self.pre_accepting(id) else {
            return;
        };
        let (value, told) = ((Value::Initial, answers.initial.clone()), answers.answered);
        self.propose_accept(now, (id, Ballot::ZERO), value, told, out);
    }

    /// Proposes a value to all. Those who are `told` have the initial command.
    pub(crate) fn propose_accept(
        &mut self,
        now: Time,
        (id, ballot): (EntryId, Ballot),
        (value, dependencies): (Value, Dependencies),
        told: Tally,
        out: &mut Out,
    ) {
        let stage = Stage::Accepting(Box::new(Accepting {
            value: value.clone(),
            dependencies: dependencies.clone(),
            accepted: Tally::default(),
        }));
        self.lead(now, id, ballot, stage);
        let full = self.in_full(id, &value);
        for peer in self.peers_of(self.me) {
            let value = match told.voters().contains(peer) {
                true => value.clone(),
                false => full.clone(),
            };
            let message = Message::Accept {
                id,
                ballot,
                value,
                dependencies: dependencies.clone(),
            };
            out.send(Dest::One(peer), message);
        }
        self.accept(self.me, (id, ballot), value, dependencies, out);
    }

    /// An Accept was answered. A slow quorum decides, and the coordinator's own answer what it has found on
    /// the fast path. \[Ryabinin25: AcceptOK\]
    pub(crate) fn accepted(
        &mut self,
        now: Time,
        from: ReplicaId,
        (id, ballot): (EntryId, Ballot),
        out: &mut Out,
    ) {
        let Some(leading) = self.leading.get_mut(&id).filter(|l| l.ballot == ballot) else {
            return;
        };
        let accepting = match &mut leading.stage {
            Stage::Accepting(accepting) => accepting,
            Stage::PreAccepting(answers) if answers.fast && from == self.me => {
                let dependencies = answers.initial.clone();
                return self.decide(now, id, Value::Initial, dependencies, Path::Fast, out);
            }
            _ => return,
        };
        accepting.accepted.count(from);
        if accepting.accepted.meets(&self.sizes.quorums.slow) {
            let (value, dependencies) = (accepting.value.clone(), accepting.dependencies.clone());
            let path = match ballot == Ballot::ZERO {
                true => Path::Slow,
                false => Path::Recovered,
            };
            self.decide(now, id, value, dependencies, path, out);
        }
    }

    /// What this replica leads is decided: tells all.
    fn decide(
        &mut self,
        now: Time,
        id: EntryId,
        value: Value,
        dependencies: Dependencies,
        path: Path,
        out: &mut Out,
    ) {
        out.event(Event::Decided { path });
        let decision = Decision {
            id,
            value,
            dependencies,
        };
        self.tell_others(&decision, path, out);
        self.commit(now, self.me, decision, out);
    }

    /// Sends again what was not answered.
    pub(crate) fn send_again(&mut self, now: Time, out: &mut Out) {
        for id in self.unanswered.take_due(now) {
            if self.is_rest_unasked(id) {
                self.unanswered.set(id, now + self.config.retransmit);
                self.ask_again(now, id, out);
                continue;
            }
            let Some(leading) = self.leading.get_mut(&id) else {
                continue;
            };
            leading.tries += 1;
            let needs_higher =
                leading.needs_higher_ballot() && !self.config.mutated(Mutant::RejectedGoesOn);
            let wait = self.config.retransmit * (1 << leading.tries.min(3));
            let (ballot, tries) = (leading.ballot, leading.tries);
            let Some(Leading { stage, .. }) = self.leading.get(&id) else {
                continue;
            };
            match stage {
                Stage::PreAccepting(answers) if answers.fast => {
                    self.leave_fast_path(now, id, out);
                    continue;
                }
                Stage::PreAccepting(answers) if answers.patient_until.is_some() => {
                    self.decide_path(now, id, out);
                    continue;
                }
                _ if needs_higher => self.try_higher(now, id),
                Stage::PreAccepting(_) => self.ask_again(now, id, out),
                Stage::Accepting(accepting) => {
                    let message = Message::Accept {
                        id,
                        ballot,
                        value: self.in_full(id, &accepting.value),
                        dependencies: accepting.dependencies.clone(),
                    };
                    let missing = self.others().without(accepting.accepted.voters());
                    self.send_to(missing, &message, out);
                }
                Stage::Asking(_) | Stage::Validating(_) | Stage::Waiting(_) => {
                    self.recover_again(now, id, tries, out);
                }
            }
            if self.leading.contains_key(&id) && !self.unanswered.contains(id) {
                self.unanswered.set(id, now + wait);
            }
        }
    }
}

/// Acceptor. \[Ryabinin25: PreAccept, Accept, Commit\]
impl EPaxos {
    /// Only if nobody recovers the instance, and nothing is known of it: takes the command, and
    /// answers with the coordinator's dependencies and the conflicts known here.
    /// \[Ryabinin25: PreAccept\]
    pub(crate) fn pre_accept(
        &mut self,
        from: ReplicaId,
        id: EntryId,
        command: &Command,
        initial: &Dependencies,
        out: &mut Out,
    ) {
        let Some(instance) = self.instances.of(id) else {
            return;
        };
        if instance.bal > Ballot::ZERO {
            let ballot = instance.bal;
            return out.send(Dest::One(from), Message::Rejected { id, ballot });
        }
        if instance.phase == Phase::Initial {
            instance.phase = Phase::PreAccepted;
            instance.dep = initial.clone();
            // The coordinator's own are all in D0.
            if from != self.me {
                let known = self
                    .conflicts
                    .enter(id, command.footprint(), command.batch());
                instance.dep.union_with(&known);
                instance.dep.remove(id);
            }
            instance.command = Some(command.clone());
            instance.init_dep = Some(initial.clone());
            if !self.config.mutated(Mutant::PreAcceptNotDurable) || from == self.me {
                out.persist(Record::PreAccepted {
                    id,
                    command: command.clone(),
                    initial: initial.clone(),
                    dependencies: instance.dep.clone(),
                });
            }
            self.instances.heard_of_all(initial);
        }
        // Asked again, it says the same again.
        if let Some(instance) = self.instances.known(id)
            && instance.phase == Phase::PreAccepted
        {
            let dependencies = instance.dep.clone();
            out.send(Dest::One(from), Message::PreAcceptOk { id, dependencies });
        }
    }

    /// Takes a value in a ballot, unless it has joined a higher one. \[Ryabinin25: Accept\]
    pub(crate) fn accept(
        &mut self,
        from: ReplicaId,
        (id, ballot): (EntryId, Ballot),
        value: Value,
        dependencies: Dependencies,
        out: &mut Out,
    ) {
        let ignores_ballot = self.config.mutated(Mutant::AcceptIgnoresBallot);
        let Some(instance) = self.instances.of(id) else {
            return;
        };
        if instance.bal > ballot && !ignores_ballot {
            let ballot = instance.bal;
            return out.send(Dest::One(from), Message::Rejected { id, ballot });
        }
        if instance.phase == Phase::Accepted && instance.abal == ballot {
            return out.send(Dest::One(from), Message::AcceptOk { id, ballot });
        }
        let had = instance.command.is_some();
        let nop = value == Value::Nop;
        if !instance.hold(value.clone(), dependencies.clone()) {
            // The PreAccept was lost; what is sent again is sent in full.
            return;
        }
        (instance.bal, instance.abal) = (ballot.max(instance.bal), ballot);
        instance.phase = Phase::Accepted;
        instance.doubtful = false;
        let value = match had && !nop {
            true => Value::Initial,
            false => value,
        };
        if value != Value::Initial {
            self.note_command(id);
        }
        self.instances.heard_of_all(&dependencies);
        out.persist(Record::Accepted {
            id,
            ballot,
            value,
            dependencies,
        });
        self.give_up(id, ballot);
        out.send(Dest::One(from), Message::AcceptOk { id, ballot });
    }

    /// Lets others be told to depend on the instance. A Nop conflicts with everything.
    pub(crate) fn note_command(&mut self, id: EntryId) {
        let Some(instance) = self.instances.known(id) else {
            return;
        };
        let conflicts = &mut self.conflicts;
        match &instance.command {
            Some(command) => conflicts.enter(id, command.footprint(), command.batch()),
            None => conflicts.enter(id, &Footprint::All, &Batch::noop()),
        };
    }

    /// Takes a decision. It is the same in whatever ballot it was made, so that it counts whatever
    /// ballot was joined here.
    pub(crate) fn commit(&mut self, now: Time, from: ReplicaId, decision: Decision, out: &mut Out) {
        let Decision {
            id,
            value,
            dependencies,
        } = decision;
        let Some(instance) = self.instances.of(id) else {
            return;
        };
        if instance.is_committed() {
            if !instance.is_decided_as(&value, &dependencies) {
                self.conflict = Some(id);
            }
            return;
        }
        let had = instance.command.is_some();
        let nop = value == Value::Nop;
        if !instance.hold(value.clone(), dependencies.clone()) {
            // The PreAccept was lost.
            return out.send(Dest::One(from), Message::Learn { ids: vec![id] });
        }
        instance.phase = Phase::Committed;
        instance.init_dep = None;
        let value = match had && !nop {
            true => Value::Initial,
            false => value,
        };
        self.instances.set_committed(id);
        self.instances.heard_of_all(&dependencies);
        if value != Value::Initial {
            self.note_command(id);
        }
        // What is decided stays so: a replica that forgets it learns it again.
        out.persist_with_next(Record::Committed {
            id,
            value,
            dependencies: dependencies.clone(),
        });
        self.forget_troubles(id);
        self.enter_graph(id, dependencies);
        self.untold = true;
        self.resolve_waiting(now, out);
    }

    pub(crate) fn forget_troubles(&mut self, id: EntryId) {
        self.abandon(id);
        self.heard_waiting.remove(&id);
        self.watched.remove(id);
        self.troubles.remove(&id);
    }
}
