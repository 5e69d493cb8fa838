//! What must survive a crash: bal, abal, cmd, dep, initCmd, initDep and phase of each instance.
//! \[Ryabinin25\]

use quorate_core::frontier::Frontier;
use quorate_core::id::EntryId;
use serde::{Deserialize, Serialize};

use crate::checkpoint::Adoption;
use crate::dependencies::Dependencies;
use crate::instances::{Ballot, Command, Instance, Instances, Phase, Value};

/// A change of the durable state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Record {
    /// Instances through these slots are trimmed: a durable snapshot holds what they did.
    Trimmed {
        /// Through which slot, by lane.
        through: Frontier,
        /// What whoever takes this over must know to be committed.
        horizon: Frontier,
    },
    /// A snapshot was installed of replicas that have trimmed these instances: they need not be
    /// known, and may be trimmed here once all of the horizon is known.
    Adopting {
        /// Through which slot, by lane.
        through: Frontier,
        /// What must be known to be committed first.
        horizon: Frontier,
    },
    /// All through these slots is named in every answer to a PreAccept from now on.
    Floor(Frontier),
    /// A recovery was joined.
    Joined {
        /// The instance.
        id: EntryId,
        /// The recovery's ballot.
        ballot: Ballot,
        /// Whether the coordinator, having restarted, may have committed it before, without a record.
        doubtful: bool,
    },
    /// The coordinator's command was preaccepted.
    PreAccepted {
        /// The instance.
        id: EntryId,
        /// The coordinator's dependencies.
        initial: Dependencies,
        /// What was answered.
        dependencies: Dependencies,
        /// The command.
        command: Command,
    },
    /// The coordinator's command was learnt of in a recovery.
    Validated {
        /// The instance.
        id: EntryId,
        /// The command.
        command: Command,
        /// The coordinator's dependencies.
        initial: Dependencies,
    },
    /// A value was accepted.
    Accepted {
        /// The instance.
        id: EntryId,
        /// In which ballot, which is joined too.
        ballot: Ballot,
        /// What; [`Value::Initial`] if an earlier record has it.
        value: Value,
        /// With these dependencies.
        dependencies: Dependencies,
    },
    /// A value is decided.
    Committed {
        /// The instance.
        id: EntryId,
        /// What; [`Value::Initial`] if an earlier record has it.
        value: Value,
        /// With these dependencies.
        dependencies: Dependencies,
    },
    /// The coordinator's command, where neither what was preaccepted nor what was accepted or decided
    /// says it: a Nop was, and the command may be yet. Only a rewrite has it.
    Known {
        /// The instance.
        id: EntryId,
        /// The command.
        command: Command,
    },
}

/// All records, folded.
#[derive(Clone, Debug, Default)]
pub(crate) struct Durable {
    pub(crate) instances: Instances,
    pub(crate) floor: Frontier,
    pub(crate) adoption: Option<Adoption>,
}

impl Durable {
    /// Folds `records`; an error says which of them does not fit.
    pub(crate) fn fold(records: Vec<Record>) -> Result<Durable, String> {
        let mut durable = Durable::default();
        for (index, record) in records.into_iter().enumerate() {
            durable
                .take(record)
                .map_err(|reason| format!("record {index}: {reason}"))?;
        }
        Ok(durable)
    }

    fn take(&mut self, record: Record) -> Result<(), String> {
        match record {
            Record::Trimmed { through, horizon } => self.instances.trim(&through, &horizon),
            Record::Adopting { through, horizon } => {
                self.adoption = Some(Adoption { through, horizon });
            }
            Record::Floor(floor) => self.floor.union_with(&floor),
            Record::Joined {
                id,
                ballot,
                doubtful,
            } => {
                let instance = self.instance(id)?;
                (instance.bal, instance.doubtful) = (ballot, doubtful);
            }
            Record::PreAccepted {
                id,
                command,
                initial,
                dependencies,
            } => {
                let instance = self.instance(id)?;
                instance.command = Some(command);
                instance.init_dep = Some(initial);
                instance.dep = dependencies;
                instance.phase = Phase::PreAccepted;
            }
            Record::Validated {
                id,
                command,
                initial,
            } => {
                let instance = self.instance(id)?;
                instance.command = Some(command);
                instance.init_dep = Some(initial);
            }
            Record::Known { id, command } => self.instance(id)?.command = Some(command),
            value => self.take_value(value)?,
        }
        Ok(())
    }

    fn take_value(&mut self, record: Record) -> Result<(), String> {
        match record {
            Record::Accepted {
                id,
                ballot,
                value,
                dependencies,
            } => {
                let instance = self.held(id, value, dependencies)?;
                (instance.bal, instance.abal) = (ballot, ballot);
                instance.phase = Phase::Accepted;
                instance.doubtful = false;
            }
            Record::Committed {
                id,
                value,
                dependencies,
            } => {
                let instance = self.held(id, value, dependencies)?;
                instance.phase = Phase::Committed;
                instance.init_dep = None;
                self.instances.set_committed(id);
            }
            _ => return Err(String::from("this record holds no value")),
        }
        Ok(())
    }

    fn instance(&mut self, id: EntryId) -> Result<&mut Instance, String> {
        let trimmed = || format!("{id:?} is trimmed");
        self.instances.of(id).ok_or_else(trimmed)
    }

    fn held(
        &mut self,
        id: EntryId,
        value: Value,
        dependencies: Dependencies,
    ) -> Result<&mut Instance, String> {
        let instance = self.instance(id)?;
        match instance.hold(value, dependencies) {
            true => Ok(instance),
            false => Err(format!("the command of {id:?} is in no record")),
        }
    }
}

/// Records that fold to the state given: all of it, since later records may refer to any of it
/// ([`Value::Initial`]).
pub(crate) fn records(
    instances: &Instances,
    floor: &Frontier,
    adoption: Option<&Adoption>,
) -> Vec<Record> {
    let mut records = vec![
        Record::Trimmed {
            through: instances.trimmed().clone(),
            horizon: instances.horizon().clone(),
        },
        Record::Floor(floor.clone()),
    ];
    records.extend(adoption.map(|adoption| Record::Adopting {
        through: adoption.through.clone(),
        horizon: adoption.horizon.clone(),
    }));
    for (id, instance) in instances.iter() {
        instance_records(id, instance, &mut records);
    }
    records
}

fn instance_records(id: EntryId, instance: &Instance, records: &mut Vec<Record>) {
    let dependencies = || instance.dep.clone();
    let command = || instance.command.clone();
    records.extend(match (instance.initial(), instance.phase) {
        (Some((command, initial)), Phase::PreAccepted) => Some(Record::PreAccepted {
            id,
            command: command.clone(),
            initial: initial.clone(),
            dependencies: dependencies(),
        }),
        (Some((command, initial)), _) => Some(Record::Validated {
            id,
            command: command.clone(),
            initial: initial.clone(),
        }),
        (None, _) if instance.nop => command().map(|command| Record::Known { id, command }),
        (None, _) => None,
    });
    let value = || match (instance.value(), instance.initial()) {
        (Value::Command(_), Some(_)) => Value::Initial,
        (value, _) => value,
    };
    match instance.phase {
        Phase::Initial | Phase::PreAccepted => {}
        Phase::Accepted => records.push(Record::Accepted {
            id,
            ballot: instance.abal,
            value: value(),
            dependencies: dependencies(),
        }),
        Phase::Committed => records.push(Record::Committed {
            id,
            value: value(),
            dependencies: dependencies(),
        }),
    }
    if instance.bal > Ballot::ZERO && !instance.is_committed() {
        records.push(Record::Joined {
            id,
            ballot: instance.bal,
            doubtful: instance.doubtful,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_core::id::{ReplicaId, Slot};
    use quorate_core::machine::Keys;
    use quorate_core::request::Batch;

    fn ballots() -> [Ballot; 2] {
        let replica = ReplicaId(1);
        [Ballot::ZERO, Ballot { round: 2, replica }]
    }

    /// All that can be known of an instance.
    fn instances() -> Vec<Instance> {
        let command = Command::new(Batch::noop(), &Keys::All);
        let initial: Dependencies = [EntryId::single(Slot(3))].into_iter().collect();
        let of_phase = |phase, command: Option<&Command>, nop, init_dep: Option<&Dependencies>| {
            let command = command.cloned();
            Instance {
                phase,
                command,
                nop,
                dep: match nop || phase == Phase::Initial {
                    true => Dependencies::none(),
                    false => initial.clone(),
                },
                init_dep: init_dep.cloned(),
                ..Instance::default()
            }
        };
        let known = Some(&command);
        let mut shapes = vec![
            of_phase(Phase::Initial, None, false, None),
            of_phase(Phase::Initial, known, false, Some(&initial)),
            of_phase(Phase::PreAccepted, known, false, Some(&initial)),
        ];
        for phase in [Phase::Accepted, Phase::Committed] {
            for init_dep in [None, Some(&initial)] {
                let init_dep = init_dep.filter(|_| phase == Phase::Accepted);
                shapes.push(of_phase(phase, known, false, init_dep));
                shapes.push(of_phase(phase, known, true, init_dep));
            }
            shapes.push(of_phase(phase, None, true, None));
        }
        let joined = shapes.into_iter().flat_map(|shape| {
            let bal = ballots().map(|bal| Instance {
                bal,
                ..shape.clone()
            });
            bal.into_iter()
                .filter(|i| !i.is_committed() || i.bal == Ballot::ZERO)
        });
        let accepted = joined.flat_map(|shape| {
            let abal = ballots().map(|abal| Instance {
                abal,
                ..shape.clone()
            });
            let of_acceptance = |i: &Instance| i.abal == Ballot::ZERO || i.phase == Phase::Accepted;
            abal.into_iter()
                .filter(move |i| of_acceptance(i) && i.abal <= i.bal)
        });
        accepted.collect()
    }

    /// Whatever a replica knows of an instance, it knows after a rewrite and a restart.
    #[test]
    fn a_rewrite_folds_to_what_was_written() {
        let id = EntryId::single(Slot(5));
        for instance in instances() {
            let mut known = Instances::default();
            if let Some(of) = known.of(id) {
                *of = instance.clone();
            }
            let records = records(&known, &Frontier::default(), None);
            let folded = Durable::fold(records).map(|durable| durable.instances.known(id).cloned());
            let expected = (instance != Instance::default()).then_some(instance);
            assert_eq!(folded, Ok(expected));
        }
    }
}
