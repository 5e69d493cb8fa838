//! Storage in memory, which can lose what was not synced.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use super::{Completions, Records, Snapshot, Storage, Stored, Ticket};

/// Storage that is lost with the process, for tests and the simulator.
///
/// By default nothing becomes durable until its owner calls one of the `sync` methods, which say
/// what has. With [`MemoryStorage::immediate`] all work is durable at once.
#[derive(Clone, Default)]
pub struct MemoryStorage {
    stored: Stored,
    appends: VecDeque<Append>,
    saves: VecDeque<(Ticket, Snapshot)>,
    immediate: Option<Arc<dyn Completions>>,
    syncs: u64,
}

#[derive(Clone, Debug)]
struct Append {
    ticket: Ticket,
    replaces: bool,
    records: Vec<Bytes>,
}

/// The last work that a sync made durable, of each kind; none if there was none to be done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Synced {
    /// For [`Completions::durable`].
    pub appends: Option<Ticket>,
    /// For [`Completions::saved`].
    pub saves: Option<Ticket>,
}

/// What of the work not yet synced survives a crash, as it may on a disk: a sync not yet over may
/// have done all of its work, some or none. The default is that none survives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Survival {
    /// So many appends, the oldest, survive whole.
    pub appends: usize,
    /// Of the append after them, so many records survive, the first ones; none if it replaces
    /// earlier ones, for then it survives whole or not at all.
    pub torn_records: usize,
    /// So many snapshots, the oldest, survive, each whole.
    pub saves: usize,
}

impl MemoryStorage {
    /// Storage that already holds `stored`.
    pub fn new(stored: Stored) -> Self {
        MemoryStorage {
            stored,
            ..MemoryStorage::default()
        }
    }

    /// Storage that already holds `stored` and makes all work durable within the call that gives
    /// it; `completions` are told from within that call too.
    pub fn immediate(stored: Stored, completions: impl Completions) -> Self {
        MemoryStorage {
            stored,
            immediate: Some(Arc::new(completions)),
            ..MemoryStorage::default()
        }
    }

    /// What is durable: what a restart would find. The records are shared, not copied.
    pub fn stored(&self) -> Stored {
        self.stored.clone()
    }

    /// How much work is not durable yet: appends and saves together.
    pub fn pending(&self) -> usize {
        self.appends.len() + self.saves.len()
    }

    /// Makes all work durable.
    pub fn sync(&mut self) -> Synced {
        self.sync_through(Ticket(u64::MAX))
    }

    /// Makes all work through `ticket` durable.
    pub fn sync_through(&mut self, ticket: Ticket) -> Synced {
        Synced {
            appends: self.sync_appends(ticket),
            saves: self.sync_saves(ticket),
        }
    }

    /// Makes all appends through `ticket` durable; returns the last of them.
    pub fn sync_appends(&mut self, ticket: Ticket) -> Option<Ticket> {
        let mut last = None;
        while let Some(append) = self.appends.pop_front_if(|append| append.ticket <= ticket) {
            last = Some(append.ticket);
            self.keep(append);
        }
        self.syncs += u64::from(last.is_some());
        last
    }

    /// Makes all saves through `ticket` durable; returns the last of them.
    pub fn sync_saves(&mut self, ticket: Ticket) -> Option<Ticket> {
        let mut last = None;
        while let Some((given, snapshot)) = self.saves.pop_front_if(|(given, _)| *given <= ticket) {
            last = Some(given);
            self.stored.snapshot = Some(snapshot);
        }
        last
    }

    /// Loses all work that is not durable, but for what is said to survive; that is durable then,
    /// though nobody was told.
    pub fn crash(&mut self, survival: Survival) {
        let mut appends = std::mem::take(&mut self.appends).into_iter();
        for append in appends.by_ref().take(survival.appends) {
            self.keep(append);
        }
        if let Some(mut torn) = appends.next().filter(|append| !append.replaces) {
            torn.records.truncate(survival.torn_records);
            self.keep(torn);
        }
        let saves = std::mem::take(&mut self.saves).into_iter();
        if let Some((_, snapshot)) = saves.take(survival.saves).last() {
            self.stored.snapshot = Some(snapshot);
        }
    }

    fn keep(&mut self, append: Append) {
        if append.replaces {
            self.stored.records = append.records;
        } else {
            self.stored.records.extend(append.records);
        }
    }

    fn finish_if_immediate(&mut self) {
        let Some(completions) = self.immediate.clone() else {
            return;
        };
        let synced = self.sync();
        if let Some(ticket) = synced.appends {
            completions.durable(ticket);
        }
        if let Some(ticket) = synced.saves {
            completions.saved(ticket);
        }
    }
}

impl Storage for MemoryStorage {
    fn append(&mut self, ticket: Ticket, replaces: bool, records: Records) {
        self.appends.push_back(Append {
            ticket,
            replaces,
            records: split(records),
        });
        self.finish_if_immediate();
    }

    fn save(&mut self, ticket: Ticket, snapshot: Snapshot) {
        self.saves.push_back((ticket, snapshot));
        self.finish_if_immediate();
    }

    fn syncs(&self) -> u64 {
        self.syncs
    }
}

impl fmt::Debug for MemoryStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStorage")
            .field("stored", &self.stored)
            .field("appends", &self.appends)
            .field("saves", &self.saves)
            .field("immediate", &self.immediate.is_some())
            .finish()
    }
}

/// The records, each sharing the one buffer.
fn split(records: Records) -> Vec<Bytes> {
    let bytes = Bytes::from(records.bytes);
    let mut start = 0;
    let split = |end| {
        let record = bytes.slice(start..end);
        start = end;
        record
    };
    records.ends.into_iter().map(split).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::Digest;
    use crate::frontier::Frontier;
    use crate::protocol::SnapshotRef;
    use crate::storage::StorageError;
    use crate::storage::conformance::{self, Harness, Told};

    fn records(names: &[&str]) -> Records {
        let mut records = Records::default();
        for name in names {
            records.push(name.as_bytes());
        }
        records
    }

    fn names(storage: &MemoryStorage) -> Vec<String> {
        let text = |record: &Bytes| String::from_utf8(record.to_vec()).unwrap();
        storage.stored().records.iter().map(text).collect()
    }

    fn snapshot(body: &'static [u8]) -> Snapshot {
        Snapshot {
            id: SnapshotRef {
                at: Frontier::default(),
                digest: Digest::of(body),
                anchor: Bytes::new(),
            },
            body: Bytes::from_static(body),
        }
    }

    #[test]
    fn nothing_is_durable_before_a_sync() {
        let mut storage = MemoryStorage::default();
        storage.append(Ticket(1), false, records(&["a"]));
        storage.save(Ticket(2), snapshot(b"s"));
        storage.append(Ticket(3), false, records(&["b"]));
        assert_eq!(storage.pending(), 3);
        assert_eq!(storage.stored(), Stored::default());

        let synced = storage.sync_through(Ticket(2));
        assert_eq!(synced.appends, Some(Ticket(1)));
        assert_eq!(synced.saves, Some(Ticket(2)));
        assert_eq!(names(&storage), ["a"]);
        assert_eq!(storage.sync_saves(Ticket(9)), None);
        assert_eq!(storage.sync_appends(Ticket(9)), Some(Ticket(3)));
        assert_eq!(names(&storage), ["a", "b"]);
        assert_eq!(storage.pending(), 0);
    }

    #[test]
    fn a_crash_leaves_a_prefix_of_the_records() {
        let mut storage = MemoryStorage::default();
        storage.append(Ticket(1), false, records(&["a"]));
        storage.sync();
        storage.append(Ticket(2), false, records(&["b", "c"]));
        storage.append(Ticket(3), false, records(&["d", "e", "f"]));
        storage.append(Ticket(4), false, records(&["g"]));
        storage.crash(Survival {
            appends: 1,
            torn_records: 2,
            saves: 0,
        });
        assert_eq!(names(&storage), ["a", "b", "c", "d", "e"]);
        assert_eq!(storage.pending(), 0);
        assert_eq!(storage.sync(), Synced::default());
    }

    #[test]
    fn a_rewrite_is_never_torn() {
        for torn_records in 0..3 {
            let mut storage = MemoryStorage::default();
            storage.append(Ticket(1), false, records(&["a"]));
            storage.sync();
            storage.append(Ticket(2), true, records(&["b", "c"]));
            storage.crash(Survival {
                torn_records,
                ..Survival::default()
            });
            assert_eq!(names(&storage), ["a"]);
        }
    }

    #[test]
    fn snapshots_survive_apart_from_records() {
        let mut storage = MemoryStorage::default();
        storage.save(Ticket(1), snapshot(b"old"));
        storage.append(Ticket(2), false, records(&["a"]));
        storage.save(Ticket(3), snapshot(b"new"));
        storage.crash(Survival {
            saves: 1,
            ..Survival::default()
        });
        assert_eq!(storage.stored().snapshot, Some(snapshot(b"old")));
        assert!(names(&storage).is_empty());
    }

    struct Memory;

    impl Harness for Memory {
        type Storage = MemoryStorage;

        fn create(&mut self, _: Arc<Told>) -> Result<(MemoryStorage, Stored), StorageError> {
            Ok((MemoryStorage::default(), Stored::default()))
        }

        fn reopen(
            &mut self,
            storage: MemoryStorage,
            _: Arc<Told>,
        ) -> Result<(MemoryStorage, Stored), StorageError> {
            let stored = storage.stored();
            Ok((MemoryStorage::new(stored.clone()), stored))
        }

        fn wait(
            &mut self,
            storage: &mut MemoryStorage,
            told: &Told,
            done: &mut dyn FnMut() -> bool,
        ) {
            let synced = storage.sync();
            synced
                .appends
                .iter()
                .for_each(|ticket| told.durable(*ticket));
            synced.saves.iter().for_each(|ticket| told.saved(*ticket));
            assert!(done());
        }
    }

    struct Immediate;

    impl Harness for Immediate {
        type Storage = MemoryStorage;

        fn create(&mut self, told: Arc<Told>) -> Result<(MemoryStorage, Stored), StorageError> {
            let storage = MemoryStorage::immediate(Stored::default(), told);
            Ok((storage, Stored::default()))
        }

        fn reopen(
            &mut self,
            storage: MemoryStorage,
            told: Arc<Told>,
        ) -> Result<(MemoryStorage, Stored), StorageError> {
            let stored = storage.stored();
            Ok((MemoryStorage::immediate(stored.clone(), told), stored))
        }

        fn wait(&mut self, _: &mut MemoryStorage, _: &Told, done: &mut dyn FnMut() -> bool) {
            assert!(done());
        }
    }

    #[test]
    fn synced_by_its_owner_it_conforms() {
        conformance::run(&mut Memory);
    }

    #[test]
    fn immediate_it_conforms() {
        conformance::run(&mut Immediate);
    }
}
