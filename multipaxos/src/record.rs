//! What must survive a crash: the promise, and what was accepted. [Lamport01 §2.5]

use quorate_core::id::Slot;
use serde::{Deserialize, Serialize};

use crate::log::{Ballot, Log, Proposal, size};

/// A change of the durable state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Record {
    /// The log begins after this slot, which a durable snapshot holds. Only ever the first.
    Start(Slot),
    /// Nothing is accepted in lower ballots any more. A replica promises its own ballots to
    /// itself before it campaigns, so that it never uses one twice.
    Promised(Ballot),
    /// Proposals of one ballot are accepted, which promises the ballot too.
    Accepted {
        /// The ballot.
        ballot: Ballot,
        /// The proposals.
        proposals: Vec<Proposal>,
        /// All slots through this one are chosen, with the values that they held before this
        /// record: a restart needs nobody to learn that again.
        chosen: Slot,
    },
    /// These values are chosen, as another replica has said. They follow what was executed then: all
    /// before them is chosen too, with the values that were held.
    Chosen(Vec<Proposal>),
}

/// All records, folded.
#[derive(Clone, Debug)]
pub(crate) struct Durable {
    pub(crate) promised: Ballot,
    pub(crate) log: Log,
    /// All slots through this one are known chosen.
    pub(crate) chosen: Slot,
}

impl Durable {
    /// Folds `records`; an error says which of them does not fit.
    pub(crate) fn fold(records: Vec<Record>) -> Result<Durable, String> {
        let mut durable = Durable {
            promised: Ballot::ZERO,
            log: Log::default(),
            chosen: Slot::ZERO,
        };
        for (index, record) in records.into_iter().enumerate() {
            durable
                .take(index, record)
                .map_err(|reason| format!("record {index}: {reason}"))?;
        }
        Ok(durable)
    }

    fn take(&mut self, index: usize, record: Record) -> Result<(), String> {
        match record {
            Record::Start(slot) if index == 0 => self.log = Log::after(slot),
            Record::Start(slot) => return Err(format!("the log starts anew at slot {slot}")),
            Record::Promised(ballot) => {
                if ballot < self.promised {
                    return Err(format!(
                        "ballot {ballot} comes after ballot {}",
                        self.promised
                    ));
                }
                self.promised = ballot;
            }
            Record::Accepted {
                ballot,
                proposals,
                chosen,
            } => {
                self.promised = self.promised.max(ballot);
                self.chosen = self.chosen.max(chosen);
                for proposal in proposals {
                    self.hold(proposal, |log, proposal| {
                        log.accept(ballot, proposal, usize::MAX)
                    })?;
                }
            }
            Record::Chosen(proposals) => {
                // They follow what was executed: what precedes them is chosen, with what was held.
                let last = proposals.last().map_or(Slot::ZERO, |last| last.slot);
                self.chosen = self.chosen.max(last);
                for proposal in proposals {
                    self.hold(proposal, |log, proposal| log.learn(proposal, usize::MAX))?;
                }
            }
        }
        Ok(())
    }

    fn hold(
        &mut self,
        proposal: Proposal,
        hold: impl FnOnce(&mut Log, Proposal) -> bool,
    ) -> Result<(), String> {
        let (slot, compacted, last) = (proposal.slot, self.log.compacted(), self.log.last());
        let reach = Slot(last.0.saturating_add(FARTHEST));
        if slot > reach || !hold(&mut self.log, proposal) {
            return Err(format!(
                "slot {slot} is out of reach of a log that has slots {} to {last}",
                compacted.next()
            ));
        }
        Ok(())
    }
}

/// How far beyond the last slot a record may reach: a damaged one must not exhaust the memory.
pub(crate) const FARTHEST: u64 = 1 << 24;

/// Records that fold to the state given, in which all slots through `executed` are chosen. No
/// record holds more than about `max_bytes` of values, if that is not less than one value.
pub(crate) fn records(
    promised: Ballot,
    executed: Slot,
    log: &Log,
    max_bytes: usize,
) -> Vec<Record> {
    let mut records = vec![Record::Start(log.compacted()), Record::Promised(promised)];
    let (mut bytes, mut open) = (0, None);
    for (slot, accepted) in log.iter_from(log.compacted().next()) {
        // Beyond what is executed the ballot still matters to a candidate.
        let kind = (slot > executed).then_some(accepted.ballot);
        bytes += size(&accepted.batch);
        if open != Some(kind) || bytes > max_bytes {
            records.push(match kind {
                None => Record::Chosen(Vec::new()),
                Some(ballot) => Record::Accepted {
                    ballot,
                    proposals: Vec::new(),
                    chosen: executed,
                },
            });
            (bytes, open) = (size(&accepted.batch), Some(kind));
        }
        if let Some(Record::Chosen(proposals) | Record::Accepted { proposals, .. }) =
            records.last_mut()
        {
            let batch = accepted.batch.clone();
            proposals.push(Proposal { slot, batch });
        }
    }
    records
}

#[cfg(test)]
mod tests {
    use quorate_core::id::ReplicaId;
    use quorate_core::request::Batch;

    use super::*;

    fn ballot(round: u64) -> Ballot {
        Ballot {
            round,
            replica: ReplicaId(1),
        }
    }

    fn proposals(slots: &[u64]) -> Vec<Proposal> {
        let proposal = |slot: &u64| Proposal {
            slot: Slot(*slot),
            batch: Batch::noop(),
        };
        slots.iter().map(proposal).collect()
    }

    fn accepted(round: u64, slots: &[u64], chosen: u64) -> Record {
        Record::Accepted {
            ballot: ballot(round),
            proposals: proposals(slots),
            chosen: Slot(chosen),
        }
    }

    fn held(log: &Log) -> Vec<(u64, u64)> {
        let held = log.iter_from(Slot::ZERO);
        held.map(|(slot, accepted)| (slot.0, accepted.ballot.round))
            .collect()
    }

    #[test]
    fn accepting_replaces_and_promises() {
        let durable = Durable::fold(vec![
            Record::Promised(ballot(1)),
            accepted(1, &[3, 1], 0),
            accepted(4, &[3], 1),
        ])
        .unwrap();
        assert_eq!(held(&durable.log), [(1, 1), (3, 4)]);
        assert_eq!((durable.promised, durable.chosen), (ballot(4), Slot(1)));
    }

    /// A restart knows that of what preceded a value that was learnt: else its log might reach beyond its
    /// window, and no campaign of its could come to anything.
    #[test]
    fn what_precedes_a_learnt_value_is_chosen() {
        let durable = Durable::fold(vec![
            Record::Promised(ballot(1)),
            accepted(1, &[1, 2], 0),
            Record::Chosen(proposals(&[3, 4])),
        ])
        .unwrap();
        assert_eq!(durable.chosen, Slot(4));
    }

    #[test]
    fn written_anew_in_records_of_any_size_the_state_is_the_same() {
        let past = vec![
            Record::Start(Slot(4)),
            Record::Promised(ballot(7)),
            accepted(2, &[5, 6, 7], 4),
            accepted(5, &[7, 9], 4),
            Record::Chosen(proposals(&[5])),
        ];
        let durable = Durable::fold(past).unwrap();
        for max_bytes in [0, 30, 60, 1000] {
            let written = records(durable.promised, Slot(5), &durable.log, max_bytes);
            let again = Durable::fold(written).unwrap();
            let rest = &held(&again.log)[1..];
            assert_eq!(rest, [(6, 2), (7, 5), (9, 5)]);
            assert_eq!(again.log.compacted(), Slot(4));
            assert!(again.log.is_chosen(Slot(5)) && !again.log.is_chosen(Slot(6)));
            assert_eq!((again.promised, again.chosen), (ballot(7), Slot(5)));
        }
    }

    #[test]
    fn records_that_do_not_fit_are_refused_with_the_reason() {
        let refused = |records, reason: &str| {
            let error = Durable::fold(records).unwrap_err();
            assert!(error.contains(reason), "{error}");
        };
        let promised = |round| Record::Promised(ballot(round));
        refused(
            vec![promised(1), Record::Start(Slot(1))],
            "record 1: the log starts",
        );
        refused(vec![promised(2), promised(1)], "ballot 1.1 comes after");
        refused(
            vec![Record::Start(Slot(5)), accepted(1, &[5], 0)],
            "out of reach",
        );
        refused(vec![accepted(1, &[1 << 40], 0)], "out of reach");
    }
}
