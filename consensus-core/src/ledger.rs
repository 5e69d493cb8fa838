//! The cost ledger: what consensus cost, counted by kind.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Messages of one kind: how many, and their bytes as framed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// Messages sent to other replicas; a broadcast counts once a recipient.
    pub messages: u64,
    /// Their bytes, with the envelope, without the transport's own framing and encryption.
    pub bytes: u64,
}

/// What one replica has spent since it started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Ledger {
    /// Messages sent to other replicas, by kind.
    pub sent: BTreeMap<&'static str, Traffic>,
    /// Entries handed over for execution, no-ops included.
    pub entries: u64,
    /// Requests executed, repeated ones not counted.
    pub requests: u64,
    /// Records written.
    pub records: u64,
    /// Bytes of records written.
    pub record_bytes: u64,
    /// Appends to storage, each at most one sync; group commit may share one among several.
    pub appends: u64,
    /// Data syncs of the record log.
    pub syncs: u64,
    /// Signatures made.
    pub signatures_made: u64,
    /// Signatures checked.
    pub signatures_checked: u64,
}

impl Ledger {
    /// Counts `copies` messages of `kind`, of `bytes` each.
    pub fn count_sent(&mut self, kind: &'static str, bytes: usize, copies: usize) {
        let traffic = self.sent.entry(kind).or_default();
        traffic.messages += copies as u64;
        traffic.bytes += (bytes * copies) as u64;
    }

    /// All messages sent.
    pub fn total_sent(&self) -> Traffic {
        self.sent
            .values()
            .fold(Traffic::default(), |sum, kind| Traffic {
                messages: sum.messages + kind.messages,
                bytes: sum.bytes + kind.bytes,
            })
    }

    /// Adds what another replica has spent.
    pub fn add(&mut self, other: &Ledger) {
        for (kind, traffic) in &other.sent {
            let mine = self.sent.entry(kind).or_default();
            mine.messages += traffic.messages;
            mine.bytes += traffic.bytes;
        }
        self.entries += other.entries;
        self.requests += other.requests;
        self.records += other.records;
        self.record_bytes += other.record_bytes;
        self.appends += other.appends;
        self.syncs += other.syncs;
        self.signatures_made += other.signatures_made;
        self.signatures_checked += other.signatures_checked;
    }

    /// What was spent since `earlier`, an earlier reading of the same ledger.
    pub fn since(&self, earlier: &Ledger) -> Ledger {
        let less = |now: u64, then: u64| now.saturating_sub(then);
        let sent = self.sent.iter().map(|(kind, now)| {
            let then = earlier.sent.get(kind).copied().unwrap_or_default();
            let traffic = Traffic {
                messages: less(now.messages, then.messages),
                bytes: less(now.bytes, then.bytes),
            };
            (*kind, traffic)
        });
        Ledger {
            sent: sent.collect(),
            entries: less(self.entries, earlier.entries),
            requests: less(self.requests, earlier.requests),
            records: less(self.records, earlier.records),
            record_bytes: less(self.record_bytes, earlier.record_bytes),
            appends: less(self.appends, earlier.appends),
            syncs: less(self.syncs, earlier.syncs),
            signatures_made: less(self.signatures_made, earlier.signatures_made),
            signatures_checked: less(self.signatures_checked, earlier.signatures_checked),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broadcast_counts_once_a_recipient() {
        let mut ledger = Ledger::default();
        ledger.count_sent("vote", 10, 2);
        ledger.count_sent("append", 100, 1);
        let mut sum = ledger.clone();
        sum.add(&ledger);
        assert_eq!(
            sum.total_sent(),
            Traffic {
                messages: 6,
                bytes: 240
            }
        );
    }

    #[test]
    fn what_was_spent_since_is_what_was_added() {
        let mut earlier = Ledger::default();
        earlier.count_sent("vote", 10, 2);
        earlier.syncs = 3;
        let mut spent = Ledger::default();
        spent.count_sent("vote", 10, 1);
        spent.count_sent("append", 100, 1);
        spent.syncs = 2;
        let mut later = earlier.clone();
        later.add(&spent);
        assert_eq!(later.since(&earlier), spent);
    }
}
