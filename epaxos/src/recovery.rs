//! Recovery: getting an instance committed whose coordinator does not. \[Ryabinin25\]
//!
//! A recoverer must find out whether the instance may have been committed on the fast path with
//! the coordinator's command and dependencies. If so many of a quorum preaccepted it that way that
//! it may have, it asks them what speaks against it: a conflicting instance that is not among the
//! dependencies and does not, as far as they know, depend on it either. If that one turns out to be
//! committed without depending on it, the fast path was not taken; if not, the recoverer must wait
//! until it is decided. Two recoveries may wait for each other so. They tell each other, and how
//! many had preaccepted their instance, which shows one of them that it need not wait.

use std::collections::BTreeMap;

use quorate_core::id::{EntryId, ReplicaId, ReplicaSet, Time};
use quorate_core::protocol::{Dest, Event};
use quorate_core::quorum::{Quorum, Tally};

use crate::dependencies::Dependencies;
use crate::instances::{Ballot, Command, Phase, Value, coordinator};
use crate::message::{Blocker, Message, Report};
use crate::mutant::Mutant;
use crate::normal::{Leading, Stage};
use crate::record::Record;
use crate::replica::{EPaxos, Out};
use crate::waiting::Waiting;

/// How often a question about a command goes unanswered before the recovery begins anew, with
/// another quorum.
const VALIDATE_TRIES: u32 = 4;

/// After how many times unanswered by a quorum a recovery counts as one that comes to nothing.
const UNHEARD_TRIES: u32 = 2;

/// How many of those in a row make a replica wait longer with each.
const MAX_UNHEARD: u32 = 3;

/// A recovery that asks all what they know.
#[derive(Clone, Debug, Default)]
pub(crate) struct Asking {
    reports: BTreeMap<ReplicaId, Report>,
}

/// A recovery that asks its quorum what speaks against a command.
#[derive(Clone, Debug)]
pub(crate) struct Validating {
    /// Q.
    quorum: ReplicaSet,
    /// Rmax: who of Q had preaccepted the command with the coordinator's dependencies.
    unchanged: ReplicaSet,
    /// D: those dependencies.
    dependencies: Dependencies,
    answered: Tally,
    /// I.
    blockers: BTreeMap<EntryId, bool>,
    /// What came from outside Q.
    late: BTreeMap<ReplicaId, Report>,
}

/// Recoverer. \[Ryabinin25: RecoverOK, ValidateOK\]
impl EPaxos {
    /// Begins a recovery, in a ballot higher than all heard of. It is durable before anybody
    /// hears of it.
    pub(crate) fn recover(&mut self, now: Time, id: EntryId, out: &mut Out) {
        let heard = self.troubles.get(&id).map_or(0, |trouble| trouble.round);
        let Some(instance) = self.instances.of(id) else {
            return;
        };
        let ballot = Ballot {
            round: instance.bal.round.max(heard) + 1,
            replica: self.me,
        };
        instance.bal = ballot;
        out.persist(Record::Joined {
            id,
            ballot,
            doubtful: instance.doubtful,
        });
        out.event(Event::Recovery);
        self.lead(now, id, ballot, Stage::Asking(Box::default()));
        out.send(Dest::Others, Message::Recover { id, ballot });
        self.report(self.me, id, ballot, out);
    }

    /// Somebody has joined a higher ballot than this replica's. The others may be quorum enough, whether it says so because
    /// it is asked by a rival or because its own recovery comes to nothing. If they are not in time, a higher ballot is needed.
    pub(crate) fn rejected(&mut self, now: Time, from: ReplicaId, id: EntryId, ballot: Ballot) {
        let Some(leading) = self.leading.get_mut(&id).filter(|l| l.ballot < ballot) else {
            return;
        };
        leading.rejected.insert(from);
        let left = self.sizes.n - leading.rejected.len();
        let trouble = self.troubles.entry(id).or_default();
        trouble.round = trouble.round.max(ballot.round);
        if left < self.sizes.quorums.slow.size() || self.config.mutated(Mutant::OneRejectionEnds) {
            self.try_higher(now, id);
        }
    }

    /// Sends again what a recovery waits for.
    pub(crate) fn recover_again(&mut self, now: Time, id: EntryId, tries: u32, out: &mut Out) {
        let Some(Leading { ballot, stage, .. }) = self.leading.get(&id) else {
            return;
        };
        let ballot = *ballot;
        let recover = Message::Recover { id, ballot };
        let missing = |reports: &BTreeMap<ReplicaId, Report>, quorum: ReplicaSet| {
            let told: ReplicaSet = reports.keys().copied().collect();
            self.others().without(told).without(quorum)
        };
        match stage {
            Stage::PreAccepting(_) | Stage::Accepting(_) => {}
            Stage::Asking(asking) => {
                let missing = missing(&asking.reports, ReplicaSet::EMPTY);
                self.send_to(missing, &recover, out);
                if tries == UNHEARD_TRIES && !self.config.mutated(Mutant::UnheardInsists) {
                    self.unheard = MAX_UNHEARD.min(self.unheard + 1);
                }
            }
            Stage::Validating(_) if tries >= VALIDATE_TRIES => self.recover(now, id, out),
            Stage::Validating(validating) => {
                let initial = self.instances.known(id).and_then(|i| i.command.clone());
                let answered = validating.answered.voters();
                let missing = validating.quorum.iter().filter(|r| !answered.contains(*r));
                for replica in missing.filter(|replica| *replica != self.me) {
                    let Some(command) = initial.clone() else {
                        return;
                    };
                    let dependencies = validating.dependencies.clone();
                    let message = Message::Validate {
                        id,
                        ballot,
                        command,
                        dependencies,
                    };
                    out.send(Dest::One(replica), message);
                }
            }
            Stage::Waiting(waiting) => {
                let missing = missing(&waiting.late, waiting.quorum);
                self.send_to(missing, &recover, out);
                self.tell_waiting(id, waiting, out);
            }
        }
    }

    /// A replica has joined the recovery, and says what it knows.
    pub(crate) fn recovered_from(
        &mut self,
        now: Time,
        from: ReplicaId,
        (id, ballot): (EntryId, Ballot),
        report: Report,
        out: &mut Out,
    ) {
        let Some(leading) = self.leading.get_mut(&id).filter(|l| l.ballot == ballot) else {
            return;
        };
        self.instances.heard_of_all(&report.dependencies);
        match &mut leading.stage {
            Stage::PreAccepting(_) | Stage::Accepting(_) => {}
            Stage::Asking(asking) => {
                asking.reports.insert(from, report);
                let slow = &self.sizes.quorums.slow;
                if slow.is_met(asking.reports.keys().copied().collect()) {
                    let reports = std::mem::take(&mut asking.reports);
                    self.unheard = 0;
                    self.choose(now, (id, ballot), &reports, out);
                }
            }
            Stage::Validating(validating) => {
                validating.late.insert(from, report);
            }
            Stage::Waiting(waiting) => {
                waiting.late.insert(from, report);
                self.resolve(now, id, out);
            }
        }
    }

    /// What a slow quorum's reports lead to. \[Ryabinin25: RecoverOK\]
    fn choose(
        &mut self,
        now: Time,
        (id, ballot): (EntryId, Ballot),
        reports: &BTreeMap<ReplicaId, Report>,
        out: &mut Out,
    ) {
        let highest = reports.values().map(|report| report.abal).max();
        let accepted = reports
            .values()
            .find(|report| report.phase == Phase::Accepted && Some(report.abal) == highest);
        if let Some(report) = accepted {
            let mut dependencies = report.dependencies.clone();
            if self.config.mutated(Mutant::DependenciesDroppedInRecovery) {
                dependencies = Dependencies::default();
            }
            let value = (report.value.clone(), dependencies);
            return self.propose_accept(now, (id, ballot), value, Tally::default(), out);
        }
        let unchanged = || reports.iter().filter(|(_, report)| report.is_unchanged());
        // As a member of the quorum the initial coordinator does not go on at ballot 0, and has
        // not committed, unless it is in doubt.
        if let Some(report) = reports
            .get(&coordinator(id))
            .filter(|r| self.ends_asking(r))
        {
            let all = unchanged().count() == reports.len();
            return self.conclude_from_coordinator(now, (id, ballot), (report, all), out);
        }
        let found = unchanged().find_map(|(_, report)| match &report.value {
            Value::Command(command) => Some((command.clone(), report.dependencies.clone())),
            Value::Nop | Value::Initial => None,
        });
        let unchanged: ReplicaSet = unchanged().map(|(from, _)| *from).collect();
        let enough = unchanged.len() + self.sizes.e >= reports.len();
        match found.filter(|_| enough) {
            Some((command, dependencies)) => {
                let validating = Validating {
                    quorum: reports.keys().copied().collect(),
                    unchanged,
                    dependencies,
                    answered: Tally::default(),
                    blockers: BTreeMap::new(),
                    late: BTreeMap::new(),
                };
                self.ask_to_validate(now, (id, ballot), &command, validating, out);
            }
            // Too few preaccepted it for a fast quorum.
            None => self.accept_nop(now, id, ballot, out),
        }
    }

    /// The initial coordinator has joined the recovery, and has accepted nothing. If it was in this life that
    /// it proposed its command, it has not committed it, and will not. If it has restarted since, it may
    /// have, but only once all replicas had answered D0 ([`EPaxos::recovered`]). So if `all` of a quorum have,
    /// D0 is proposed, which is safe for another reason: their answers are those of the slow path, and
    /// D0 is their union. If one of them has not, nothing was committed, and nothing will be.
    pub(crate) fn conclude_from_coordinator(
        &mut self,
        now: Time,
        (id, ballot): (EntryId, Ballot),
        (report, all): (&Report, bool),
        out: &mut Out,
    ) {
        let all = all || self.config.mutated(Mutant::DoubtBelieved);
        match &report.value {
            Value::Command(_) if report.doubtful && all => {
                let value = (report.value.clone(), report.dependencies.clone());
                self.propose_accept(now, (id, ballot), value, Tally::default(), out);
            }
            _ => self.accept_nop(now, id, ballot, out),
        }
    }

    /// Whether the coordinator's report, which has accepted nothing, decides.
    pub(crate) fn ends_asking(&self, report: &Report) -> bool {
        !report.doubtful || !self.config.mutated(Mutant::DoubtWithoutEnd)
    }

    pub(crate) fn accept_nop(&mut self, now: Time, id: EntryId, ballot: Ballot, out: &mut Out) {
        let nop = (Value::Nop, Dependencies::default());
        self.propose_accept(now, (id, ballot), nop, Tally::default(), out);
    }

    fn ask_to_validate(
        &mut self,
        now: Time,
        (id, ballot): (EntryId, Ballot),
        command: &Command,
        validating: Validating,
        out: &mut Out,
    ) {
        let dependencies = validating.dependencies.clone();
        let quorum = validating.quorum;
        self.lead(now, id, ballot, Stage::Validating(Box::new(validating)));
        // Also if it is not in the quorum: it may have to propose the command.
        self.learn_initial(id, command, &dependencies, out);
        for replica in quorum.iter().filter(|replica| *replica != self.me) {
            let message = Message::Validate {
                id,
                ballot,
                command: command.clone(),
                dependencies: dependencies.clone(),
            };
            out.send(Dest::One(replica), message);
        }
        if quorum.contains(self.me) {
            self.validate(self.me, (id, ballot), command, &dependencies, out);
        }
    }

    /// A member of the quorum says what speaks against the command. \[Ryabinin25: ValidateOK\]
    pub(crate) fn validated(
        &mut self,
        now: Time,
        from: ReplicaId,
        (id, ballot): (EntryId, Ballot),
        (blockers, impossible): (&[Blocker], bool),
        out: &mut Out,
    ) {
        let Some(leading) = self.leading.get_mut(&id).filter(|l| l.ballot == ballot) else {
            return;
        };
        let Stage::Validating(validating) = &mut leading.stage else {
            return;
        };
        if !validating.quorum.contains(from) {
            return;
        }
        if impossible {
            return self.accept_nop(now, id, ballot, out);
        }
        validating.answered.count(from);
        for blocker in blockers {
            *validating.blockers.entry(blocker.id).or_default() |= blocker.committed;
            self.instances.heard_of(blocker.id);
        }
        if validating.answered.voters() != validating.quorum {
            return;
        }
        let validating = (**validating).clone();
        self.after_validation(now, (id, ballot), validating, out);
    }

    /// All of the quorum have said what speaks against the command. \[Ryabinin25: ValidateOK\]
    fn after_validation(
        &mut self,
        now: Time,
        (id, ballot): (EntryId, Ballot),
        validating: Validating,
        out: &mut Out,
    ) {
        let Validating {
            quorum,
            unchanged,
            dependencies,
            blockers,
            late,
            ..
        } = validating;
        if blockers.is_empty() {
            let value = (Value::Initial, dependencies);
            return self.propose_accept(now, (id, ballot), value, Tally::default(), out);
        }
        if blockers.values().any(|committed| *committed) {
            return self.accept_nop(now, id, ballot, out);
        }
        let waiting = Waiting {
            quorum,
            unchanged,
            dependencies,
            blockers: blockers.into_keys().collect(),
            late,
        };
        self.wait(now, (id, ballot), waiting, out);
    }
}

/// Acceptor. \[Ryabinin25: Recover, Validate\]
impl EPaxos {
    /// Joins a recovery: only `bal` changes. \[Ryabinin25: Recover\]
    pub(crate) fn join(
        &mut self,
        now: Time,
        from: ReplicaId,
        id: EntryId,
        ballot: Ballot,
        out: &mut Out,
    ) {
        let Some(instance) = self.instances.of(id) else {
            return;
        };
        if instance.bal > ballot {
            let ballot = instance.bal;
            return out.send(Dest::One(from), Message::Rejected { id, ballot });
        }
        if instance.bal < ballot {
            instance.bal = ballot;
            out.persist(Record::Joined {
                id,
                ballot,
                doubtful: instance.doubtful,
            });
            self.give_up(id, ballot);
            self.stand_back(now, id);
        }
        self.report(from, id, ballot, out);
    }

    fn report(&mut self, to: ReplicaId, id: EntryId, ballot: Ballot, out: &mut Out) {
        let Some(instance) = self.instances.of(id) else {
            return;
        };
        let preaccepted = instance.phase == Phase::PreAccepted;
        let report = Report {
            abal: instance.abal,
            phase: instance.phase,
            value: match instance.phase {
                Phase::Initial => Value::Nop,
                _ => instance.value(),
            },
            dependencies: instance.dep.clone(),
            initial: instance.init_dep.clone().filter(|_| preaccepted),
            doubtful: instance.doubtful,
        };
        if self.config.mutated(Mutant::SingleBallot) {
            instance.abal = ballot;
        }
        out.send(Dest::One(to), Message::RecoverOk { id, ballot, report });
    }

    /// Notes the command, so that others will be told to depend on it, and says which instances
    /// would be in no order with it. \[Ryabinin25: Validate\]
    pub(crate) fn validate(
        &mut self,
        from: ReplicaId,
        (id, ballot): (EntryId, Ballot),
        command: &Command,
        dependencies: &Dependencies,
        out: &mut Out,
    ) {
        let trimmed = Dependencies::from(self.instances.trimmed());
        let impossible = !dependencies.covers(&trimmed);
        // Having installed a snapshot it may lack what speaks against the command.
        if !impossible && !self.knows_what_it_adopted(dependencies) {
            return;
        }
        if self.instances.known(id).is_none_or(|i| i.bal != ballot) {
            return;
        }
        self.learn_initial(id, command, dependencies, out);
        let message = Message::ValidateOk {
            id,
            ballot,
            blockers: self.blockers(id, command, dependencies),
            impossible,
        };
        out.send(Dest::One(from), message);
    }

    fn learn_initial(
        &mut self,
        id: EntryId,
        command: &Command,
        dependencies: &Dependencies,
        out: &mut Out,
    ) {
        let Some(instance) = self.instances.of(id) else {
            return;
        };
        if instance.init_dep.as_ref() == Some(dependencies) {
            return;
        }
        instance.command = Some(command.clone());
        instance.init_dep = Some(dependencies.clone());
        out.persist(Record::Validated {
            id,
            command: command.clone(),
            initial: dependencies.clone(),
        });
        self.note_command(id);
        self.instances.heard_of_all(dependencies);
    }

    /// Instances that conflict with the command, are not among its dependencies, and are not known
    /// to depend on it.
    fn blockers(&self, id: EntryId, command: &Command, initial: &Dependencies) -> Vec<Blocker> {
        if self.config.mutated(Mutant::ConflictsIgnoredInValidate) {
            return Vec::new();
        }
        let others = self.instances.iter();
        let others = others.filter(|(other, _)| *other != id && !initial.contains(*other));
        let blocking = others.filter_map(|(other, instance)| {
            let committed = instance.is_committed();
            let (theirs, their_dependencies) = match committed {
                true if instance.nop => return None,
                true => (instance.command.as_ref()?, &instance.dep),
                false => instance.initial()?,
            };
            let blocks = !their_dependencies.contains(id) && theirs.conflicts(command);
            blocks.then_some(Blocker {
                id: other,
                committed,
            })
        });
        blocking.collect()
    }
}
