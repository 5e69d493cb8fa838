//! A replica's disk: what is given to it is durable only some time later.

use quorate_core::life::{Life, PAST, Position};
use quorate_core::storage::{
    Append, MemoryStorage, Snapshot, Storage as _, Stored, Survival, Ticket,
};
use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;

use crate::conditions::{Conditions, Spread};

/// Which of a disk's two queues. Each syncs all that has gathered, one sync at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lane {
    /// Records.
    Appends,
    /// Snapshots.
    Saves,
}

/// The longest that a sync takes on a slow disk, so that none that began during a fault goes on
/// for most of the time that is given to recover.
const LONGEST: u64 = 2_000_000_000;

/// The stream of a seed's generator that says how deep in an append a tear is.
const TEARS: u64 = 4;

/// A torn append has so many of its records left at most.
const DEEPEST: usize = 64;

/// Storage, and the syncs under way.
#[derive(Debug)]
pub(crate) struct Disk {
    storage: MemoryStorage,
    /// In which life of its directory it is, and how many syncs of its log there have been.
    life: u64,
    /// The nonces of those before.
    past: [u64; PAST],
    position: Position,
    appends: Sync,
    saves: Sync,
    /// How many times slower than usual.
    pub(crate) factor: u64,
    /// Whether a sync that begins does not end.
    pub(crate) hangs: bool,
    /// Whether there is no room for a snapshot, nor for what the log will need next.
    pub(crate) full: bool,
}

#[derive(Debug)]
struct Sync {
    takes: Spread,
    given: Ticket,
    done: Ticket,
    under_way: bool,
    hung: bool,
}

impl Sync {
    fn new(takes: Spread) -> Self {
        Sync {
            takes,
            given: Ticket(0),
            done: Ticket(0),
            under_way: false,
            hung: false,
        }
    }

    fn restart(&mut self) {
        *self = Sync::new(self.takes);
    }
}

impl Disk {
    pub(crate) fn new(conditions: &Conditions) -> Self {
        Disk {
            storage: MemoryStorage::default(),
            life: 0,
            past: [0; PAST],
            position: Position(0),
            appends: Sync::new(conditions.sync),
            saves: Sync::new(conditions.save),
            factor: 1,
            hangs: false,
            full: false,
        }
    }

    pub(crate) fn append(&mut self, append: Append) {
        self.appends.given = append.ticket;
        self.storage
            .append(append.ticket, append.replaces, append.records);
    }

    pub(crate) fn save(&mut self, ticket: Ticket, snapshot: Snapshot) {
        self.saves.given = ticket;
        self.storage.save(ticket, snapshot);
    }

    /// Begins a sync if there is something to be synced and none is under way: how long it takes,
    /// and what it makes durable; nothing if it hangs.
    pub(crate) fn sync(&mut self, lane: Lane, random: &mut ChaCha8Rng) -> Option<(u64, Ticket)> {
        let (factor, full) = (self.factor, self.full && lane == Lane::Saves);
        let hangs = self.hangs || full;
        let sync = self.lane(lane);
        if sync.under_way || sync.given == sync.done {
            return None;
        }
        sync.hung |= hangs;
        if hangs {
            return None;
        }
        (sync.under_way, sync.hung) = (true, false);
        let takes = (sync.takes.draw(random) * factor).min(LONGEST);
        Some((takes, sync.given))
    }

    /// How many syncs hang.
    pub(crate) fn hung(&self) -> u64 {
        u64::from(self.appends.hung) + u64::from(self.saves.hung)
    }

    /// Ends a sync.
    pub(crate) fn synced(&mut self, lane: Lane, ticket: Ticket) {
        self.position.0 += u64::from(lane == Lane::Appends);
        match lane {
            Lane::Appends => self.storage.sync_appends(ticket),
            Lane::Saves => self.storage.sync_saves(ticket),
        };
        let sync = self.lane(lane);
        sync.under_way = false;
        sync.done = ticket;
    }

    /// Loses what is not durable, or part of it: any number of appends may be left, the one after
    /// them torn. Returns how much was lost and what is left.
    pub(crate) fn crash(&mut self, random: &mut ChaCha8Rng) -> Lost {
        let pending = self.storage.pending();
        let before = self.storage.stored().records.len();
        // Any number of an append's records may be on the disk: how many of many, from a stream of
        // its own.
        let mut deeper = random.clone();
        deeper.set_stream(TEARS);
        self.storage.crash(Survival {
            appends: random.random_range(0..=pending),
            torn_records: match random.random_range(0..=2) {
                2 => deeper.random_range(2..=DEEPEST),
                few => few,
            },
            saves: random.random_range(0..=pending),
        });
        self.appends.restart();
        self.saves.restart();
        Lost {
            pending,
            kept: self.storage.stored().records.len().saturating_sub(before),
        }
    }

    /// A copy of what is durable.
    pub(crate) fn copy(&self) -> Copy {
        let mut storage = self.storage.clone();
        storage.crash(Survival::default());
        Copy {
            storage,
            life: self.life,
            past: self.past,
            position: self.position,
        }
    }

    /// Is as it was when the copy was made.
    pub(crate) fn put_back(&mut self, copy: Copy) {
        self.storage = copy.storage;
        (self.life, self.past) = (copy.life, copy.past);
        self.position = copy.position;
        self.appends.restart();
        self.saves.restart();
    }

    /// Begins another life of the directory.
    pub(crate) fn begin_life(&mut self, nonce: u64) -> Life {
        self.life += 1;
        let past = self.past;
        self.past.rotate_right(1);
        self.past[0] = nonce;
        Life {
            number: self.life,
            nonce,
            start: self.position,
            past,
        }
    }

    /// How far its log is durable.
    pub(crate) fn position(&self) -> Position {
        self.position
    }

    /// What a restart finds.
    pub(crate) fn stored(&self) -> Stored {
        self.storage.stored()
    }

    /// How many syncs of records there have been.
    pub(crate) fn syncs(&self) -> u64 {
        self.storage.syncs()
    }

    fn lane(&mut self, lane: Lane) -> &mut Sync {
        match lane {
            Lane::Appends => &mut self.appends,
            Lane::Saves => &mut self.saves,
        }
    }
}

/// What was durable on a disk at some time; by default, of one on which nothing was ever written.
#[derive(Debug, Default)]
pub(crate) struct Copy {
    storage: MemoryStorage,
    life: u64,
    /// The nonces of those before.
    past: [u64; PAST],
    position: Position,
}

/// What a crash did to a disk.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lost {
    /// How many appends and saves were not durable.
    pub(crate) pending: usize,
    /// How many of their records survived all the same.
    pub(crate) kept: usize,
}
