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
        /// Whether the coordinator, having restarted, may have committed it before.
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

/// Records that fold to the state given.
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
    if instance.is_committed() {
        return records.push(Record::Committed {
            id,
            value: instance.value(),
            dependencies: dependencies(),
        });
    }
    let initial = instance.initial();
    match (initial, instance.phase) {
        (Some((command, initial)), Phase::PreAccepted) => records.push(Record::PreAccepted {
            id,
            command: command.clone(),
            initial: initial.clone(),
            dependencies: dependencies(),
        }),
        (Some((command, initial)), _) => records.push(Record::Validated {
            id,
            command: command.clone(),
            initial: initial.clone(),
        }),
        (None, _) => {}
    }
    if instance.phase == Phase::Accepted {
        let value = match (instance.value(), initial) {
            (Value::Command(_), Some(_)) => Value::Initial,
            (value, _) => value,
        };
        records.push(Record::Accepted {
            id,
            ballot: instance.abal,
            value,
            dependencies: dependencies(),
        });
    }
    if instance.bal > Ballot::ZERO {
        records.push(Record::Joined {
            id,
            ballot: instance.bal,
            doubtful: instance.doubtful,
        });
    }
}
