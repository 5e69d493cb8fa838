//! What must survive a crash: term, vote and log. [Ongaro14 figure 2, "persistent state"]

use quorate_core::id::{ReplicaId, Slot};
use serde::{Deserialize, Serialize};

use crate::log::{Entry, Log, Position, Term};

/// A change of the durable state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Record {
    /// The log begins after this position, which a durable snapshot holds. Only ever the first.
    Start(Position),
    /// The term, and the vote given in it.
    Vote {
        /// The term.
        term: Term,
        /// For whom; none yet in this term.
        voted_for: Option<ReplicaId>,
    },
    /// The log ends with these entries after this slot; what it held there before is cut off.
    Append {
        /// The slot before the first of `entries`.
        after: Slot,
        /// The entries.
        entries: Vec<Entry>,
    },
}

/// All records, folded.
#[derive(Clone, Debug, Default)]
pub(crate) struct Durable {
    pub(crate) term: Term,
    pub(crate) voted_for: Option<ReplicaId>,
    pub(crate) log: Log,
}

impl Durable {
    /// Folds `records`; an error says which of them does not fit.
    pub(crate) fn fold(records: Vec<Record>) -> Result<Durable, String> {
        let mut durable = Durable::default();
        for (index, record) in records.into_iter().enumerate() {
            durable
                .take(index, record)
                .map_err(|reason| format!("record {index}: {reason}"))?;
        }
        Ok(durable)
    }

    fn take(&mut self, index: usize, record: Record) -> Result<(), String> {
        match record {
            Record::Start(position) if index == 0 => self.log = Log::after(position),
            Record::Start(position) => {
                return Err(format!("the log starts anew at slot {}", position.slot));
            }
            Record::Vote { term, voted_for } => self.vote(term, voted_for)?,
            Record::Append { after, entries } => self.append(after, entries)?,
        }
        Ok(())
    }

    fn vote(&mut self, term: Term, voted_for: Option<ReplicaId>) -> Result<(), String> {
        if term < self.term {
            return Err(format!("term {term} comes after term {}", self.term));
        }
        if term == self.term && self.voted_for.is_some() && self.voted_for != voted_for {
            return Err(format!("the vote in term {term} changes"));
        }
        (self.term, self.voted_for) = (term, voted_for);
        Ok(())
    }

    fn append(&mut self, after: Slot, entries: Vec<Entry>) -> Result<(), String> {
        let last = self.log.last().slot;
        let Some(mut term) = self.log.term_at(after) else {
            return Err(format!(
                "entries after slot {after} do not touch the log, which has slots {} to {last}",
                self.log.compacted().slot.next()
            ));
        };
        self.log.cut_from(after.next());
        for entry in entries {
            if entry.term < term || entry.term > self.term {
                return Err(format!(
                    "an entry of term {} follows one of term {term}, in term {}",
                    entry.term, self.term
                ));
            }
            term = entry.term;
            self.log.push(entry);
        }
        Ok(())
    }
}

/// Records that fold to the state given. No record holds more than about `max_bytes` of entries.
pub(crate) fn records(
    term: Term,
    voted_for: Option<ReplicaId>,
    log: &Log,
    max_bytes: usize,
) -> Vec<Record> {
    let mut records = vec![
        Record::Start(log.compacted()),
        Record::Vote { term, voted_for },
    ];
    let mut after = log.compacted().slot;
    while after < log.last().slot {
        let (entries, _) = log.entries(after.next(), max_bytes);
        let last = Slot(after.0 + entries.len() as u64);
        records.push(Record::Append { after, entries });
        after = last;
    }
    records
}

#[cfg(test)]
mod tests {
    use quorate_core::request::Batch;

    use super::*;

    fn entry(term: u64) -> Entry {
        Entry {
            term: Term(term),
            batch: Batch::noop(),
        }
    }

    fn vote(term: u64, voted_for: Option<u8>) -> Record {
        Record::Vote {
            term: Term(term),
            voted_for: voted_for.map(ReplicaId),
        }
    }

    fn append(after: u64, terms: &[u64]) -> Record {
        Record::Append {
            after: Slot(after),
            entries: terms.iter().copied().map(entry).collect(),
        }
    }

    fn start(slot: u64, term: u64) -> Record {
        Record::Start(Position {
            term: Term(term),
            slot: Slot(slot),
        })
    }

    fn terms(log: &Log) -> Vec<u64> {
        let held = log.iter_from(Slot::ZERO);
        held.map(|(_, entry)| entry.term.0).collect()
    }

    #[test]
    fn entries_replace_what_they_overlap() {
        let durable = Durable::fold(vec![
            vote(1, Some(0)),
            append(0, &[1, 1, 1]),
            vote(3, None),
            append(1, &[3]),
            vote(3, Some(2)),
            append(2, &[3]),
        ]);
        let durable = durable.unwrap();
        assert_eq!(terms(&durable.log), [1, 3, 3]);
        assert_eq!(durable.term, Term(3));
        assert_eq!(durable.voted_for, Some(ReplicaId(2)));
    }

    #[test]
    fn written_anew_in_records_of_any_size_the_state_is_the_same() {
        let past = vec![start(4, 2), vote(5, Some(1)), append(4, &[3, 3, 5])];
        let durable = Durable::fold(past).unwrap();
        let written = |max| records(durable.term, durable.voted_for, &durable.log, max);
        for max_bytes in [0, 20, 40, 1000] {
            let again = Durable::fold(written(max_bytes)).unwrap();
            assert_eq!(terms(&again.log), [3, 3, 5]);
            assert_eq!(again.log.compacted(), durable.log.compacted());
            assert_eq!((again.term, again.voted_for), (Term(5), Some(ReplicaId(1))));
        }
        assert_eq!(written(1000).len(), 3);
        assert_eq!(written(0).len(), 5);
    }

    #[test]
    fn records_that_do_not_fit_are_refused_with_the_reason() {
        let refused = |records, reason: &str| {
            let error = Durable::fold(records).unwrap_err();
            assert!(error.contains(reason), "{error}");
        };
        refused(vec![vote(1, None), start(1, 1)], "record 1: the log starts");
        refused(vec![vote(2, None), vote(1, None)], "term 1 comes after");
        refused(vec![vote(2, Some(1)), vote(2, Some(2))], "vote in term 2");
        refused(vec![vote(2, Some(1)), vote(2, None)], "vote in term 2");
        refused(vec![vote(2, None), append(1, &[1])], "do not touch");
        refused(vec![start(5, 1), append(3, &[1])], "do not touch");
        refused(
            vec![vote(2, None), append(0, &[2, 1])],
            "an entry of term 1",
        );
        refused(vec![vote(2, None), append(0, &[3])], "an entry of term 3");
    }
}
