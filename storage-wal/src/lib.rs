//! A segmented write-ahead log with group commit, and snapshot files beside it.
//!
//! | to learn about | read |
//! |---|---|
//! | the formats, what a crash can do, and why damage is told from a torn write | the README |
//! | what a record looks like on disk | `frame.rs` |
//! | whose a directory is, and how it is made | `identity.rs` |
//! | the files, and how they come to be and are written | `segment.rs`, `maker.rs`, `disk.rs`, `blocks.rs` |
//! | which life the replica is in, and whom it has met | `lives.rs` |
//! | group commit | `writer.rs` |
//! | what vouches for the end of the log | `mark.rs` |
//! | what is read, and put in order, after a restart | `recovery.rs` |
//! | snapshots | `snapshot.rs` |

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use quorate_core::epoch::Epoch;
use quorate_core::storage::{
    Completions, Records, Snapshot, Storage, StorageError, Stored, Ticket,
};

mod blocks;
mod disk;
mod files;
mod frame;
mod identity;
mod lives;
mod maker;
mod mark;
mod recovery;
mod report;
mod segment;
mod snapshot;
mod stats;
mod writer;

pub use disk::Faults;
pub use identity::Identity;
pub use lives::Memory;
pub use stats::WalStats;

use disk::Disk;
use files::Files;
use identity::Deed;
use maker::{Maker, Order};
use mark::Marks;
use recovery::Found;
use report::{Alarm, Reporter};
use segment::Segment;
use snapshot::Saver;
use writer::{Append, Pending, Writer};

/// The smallest segment: the header and a few records.
const SMALLEST_SEGMENT: u64 = 512;

/// How a log is kept.
#[derive(Clone, Debug)]
pub struct WalOptions {
    /// The bytes of a segment, at least 512. A record that does not fit makes a segment grow.
    pub segment_bytes: u64,
    /// How many segments no longer needed are kept to become later ones.
    pub spare_segments: usize,
    /// When no work has come for so long, the log is marked as durable to its end, so that later
    /// damage to its last records can be told from a torn write.
    pub mark_after: Duration,
    /// Failures to be brought about, for tests.
    pub faults: Faults,
}

impl Default for WalOptions {
    fn default() -> Self {
        WalOptions {
            segment_bytes: 16 << 20,
            spare_segments: 4,
            mark_after: Duration::from_millis(20),
            faults: Faults::default(),
        }
    }
}

impl WalOptions {
    fn segment_size(&self) -> u64 {
        self.segment_bytes.max(SMALLEST_SEGMENT)
    }
}

/// Storage in a directory of its own.
///
/// Dropping it makes durable all that was given, and waits for that, but not for room on the disk:
/// where there is none, that is a failure then.
#[derive(Debug)]
pub struct Wal {
    appends: Option<Sender<Append>>,
    orders: Option<Sender<Order>>,
    saves: Option<Sender<(Ticket, Snapshot)>>,
    threads: Vec<JoinHandle<()>>,
    stats: WalStats,
    memory: Arc<Memory>,
    _lock: File,
}

impl Wal {
    /// Makes `path` the directory of a replica that has never run, so that [`Wal::open`] will
    /// begin a log in it, once. A directory that was prepared and never opened is prepared anew.
    ///
    /// Whoever calls this says that the replica has promised nothing yet: were it to begin again
    /// with nothing, after it has voted, it could vote otherwise, and what was acknowledged could
    /// be lost. If the `epoch` that it will be used under is known already, it can be opened under no
    /// other; if not, the first under which it is opened is the one.
    ///
    /// # Errors
    ///
    /// [`StorageError::Present`] if a log has begun there; [`StorageError::InUse`] and
    /// [`StorageError::Damaged`] as of [`Wal::open`]; [`StorageError::Io`] if the system refuses.
    pub fn prepare(
        path: &Path,
        owner: &Identity,
        epoch: Option<&Epoch>,
    ) -> Result<(), StorageError> {
        identity::prepare(&Disk::new(path, Faults::default()), owner, epoch)
    }

    /// Has the directory `path` of `own` go on under `epoch`, whatever it was used under before.
    /// Whoever calls this says that no replica of the cluster runs, and that all will go on so.
    ///
    /// # Errors
    ///
    /// [`StorageError::Disagrees`] if something differs that can never be another; all others as of
    /// [`Wal::open`].
    pub fn accept(path: &Path, own: &Identity, epoch: &Epoch) -> Result<(), StorageError> {
        identity::accept(&Disk::new(path, Faults::default()), own, epoch)
    }

    /// Whether a log has begun in the directory `path`, that is, whether a replica has run there.
    ///
    /// # Errors
    ///
    /// [`StorageError::Damaged`] if that cannot be told; [`StorageError::Io`] if the system
    /// refuses.
    pub fn has_begun(path: &Path) -> Result<bool, StorageError> {
        identity::has_begun(&Disk::new(path, Faults::default()))
    }

    /// Opens the log of `own` in the directory `path`, which [`Wal::prepare`] has made, to be used
    /// under `epoch`; returns what it holds, all of it durable. What becomes durable from now on is
    /// said to `completions`, from threads of the log's own.
    ///
    /// # Errors
    ///
    /// [`StorageError::Absent`] if there is nothing, not even what was prepared;
    /// [`StorageError::Foreign`] if the directory is another's; [`StorageError::Disagrees`] if it was
    /// last used under another epoch; [`StorageError::InUse`] if it is open already, in this process or another; [`StorageError::Damaged`] if it holds what was
    /// never written so. In all these cases nothing has been changed. [`StorageError::Io`] if the
    /// system refuses.
    pub fn open(
        path: &Path,
        own: &Identity,
        epoch: &Epoch,
        options: &WalOptions,
        completions: impl Completions,
    ) -> Result<(Wal, Stored), StorageError> {
        let disk = Disk::new(path, options.faults.clone());
        // Before the lock, which makes a file: a disk that is not mounted is left as it is.
        Deed::of(&disk, own)?.agrees(&disk, epoch)?;
        let lock = disk.lock()?;
        let deed = Deed::of(&disk, own)?;
        deed.agrees(&disk, epoch)?;
        disk.check_private();
        let mut files = Files::list(&disk)?;
        let snapshot = match files.snapshots.last() {
            Some(newest) => Some(snapshot::read(&disk, *newest)?),
            None => None,
        };
        if files.segments.is_empty() {
            files.begin_log(&disk, &deed, options.segment_size())?;
            files = Files::list(&disk)?;
        }
        let mut found = recovery::read(&disk, &files.segments, mark::read(&disk)?)?;
        deed.claim(&disk, epoch, &found, snapshot.is_some())?;
        files.tidy(&disk)?;
        let tail = recovery::settle(&disk, &found)?;
        let marks = Marks::begin(&disk, tail.mark(found.log))?;
        let memory = Arc::new(Memory::begin(&disk, tail.durable())?);
        let stored = Stored {
            records: std::mem::take(&mut found.records),
            snapshot,
        };
        tracing::info!(
            path = %path.display(),
            records = stored.records.len(),
            segment = tail.number,
            position_bytes = tail.position,
            "log opened"
        );
        let reporter = Reporter::new(completions);
        let mut wal = Wal {
            appends: None,
            orders: None,
            saves: None,
            threads: Vec::new(),
            stats: WalStats::default(),
            memory,
            _lock: lock,
        };
        let newest = files.snapshots.last().copied();
        wal.start_log(
            &disk,
            options,
            files.spares,
            &found,
            (tail, marks),
            &reporter,
        )?;
        wal.start_saver(&disk, newest, &reporter)?;
        Ok((wal, stored))
    }

    /// What the log has cost so far, and will have.
    pub fn stats(&self) -> WalStats {
        self.stats.clone()
    }

    /// Which life the replica is in, and its memory of the others'. What it is told once the log is
    /// closed is not kept.
    pub fn memory(&self) -> Arc<Memory> {
        self.memory.clone()
    }

    /// Makes durable all that was given, and returns when it is, or when storage has failed.
    pub fn close(self) {
        drop(self);
    }

    fn start_log(
        &mut self,
        disk: &Disk,
        options: &WalOptions,
        spares: Vec<String>,
        found: &Found,
        (tail, marks): (Segment, Marks),
        reporter: &Reporter,
    ) -> Result<(), StorageError> {
        let (appends, work) = channel();
        let (orders, ordered) = channel();
        let (maker_made, made) = channel();
        // Neither send can fail: the other ends are in this function still.
        orders.send(Order::Retire(found.obsolete.clone())).ok();
        match found.prepared {
            Some(header) => maker_made.send(segment::open(disk, header)?).ok(),
            None => orders.send(Order::Make(tail.number + 1)).ok(),
        };
        let maker = Maker {
            disk: disk.clone(),
            log: found.log,
            size: options.segment_size(),
            keep: options.spare_segments,
            spares: Vec::new(),
            orders: ordered,
            made: maker_made,
            reporter: reporter.clone(),
            wanted: None,
            wait: maker::LOOK_FOR_ROOM,
            closing: false,
        };
        self.orders = Some(orders.clone());
        let writer = Writer {
            work,
            orders,
            made,
            reporter: reporter.clone(),
            stats: self.stats.clone(),
            durable: self.memory.durable(),
            mark_after: options.mark_after,
            log: found.log,
            marks,
            marked: Instant::now(),
            first: found.first,
            segment: tail,
            pending: Pending::default(),
            written: None,
        };
        self.start("wal-writer", disk, reporter, move || writer.run())?;
        self.appends = Some(appends);
        self.start("wal-maker", disk, reporter, move || maker.run(spares))
    }

    fn start_saver(
        &mut self,
        disk: &Disk,
        newest: Option<u64>,
        reporter: &Reporter,
    ) -> Result<(), StorageError> {
        let (saves, work) = channel();
        let saver = Saver {
            disk: disk.clone(),
            work,
            reporter: reporter.clone(),
            newest,
        };
        self.start("wal-saver", disk, reporter, move || saver.run())?;
        self.saves = Some(saves);
        Ok(())
    }

    fn start(
        &mut self,
        name: &str,
        disk: &Disk,
        reporter: &Reporter,
        run: impl FnOnce() + Send + 'static,
    ) -> Result<(), StorageError> {
        let directory = disk.path("");
        let alarm = Alarm {
            reporter: reporter.clone(),
            directory: directory.display().to_string(),
        };
        let run = move || {
            let _alarm = alarm;
            run();
        };
        let spawned = thread::Builder::new().name(String::from(name)).spawn(run);
        let thread = spawned.map_err(disk::refused("start a thread for", &directory))?;
        self.threads.push(thread);
        Ok(())
    }
}

impl Storage for Wal {
    fn append(&mut self, ticket: Ticket, replaces: bool, records: Records) {
        let append = Append {
            ticket,
            replaces,
            records,
        };
        // Nobody takes it any more once storage has failed, and that has been told.
        if let Some(appends) = &self.appends {
            appends.send(append).ok();
        }
    }

    fn save(&mut self, ticket: Ticket, snapshot: Snapshot) {
        if let Some(saves) = &self.saves {
            saves.send((ticket, snapshot)).ok();
        }
    }

    fn syncs(&self) -> u64 {
        self.stats.syncs()
    }
}

impl Drop for Wal {
    fn drop(&mut self) {
        self.appends = None;
        self.saves = None;
        if let Some(orders) = self.orders.take() {
            // The maker may have ended already.
            orders.send(Order::Close).ok();
        }
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread of the log has panicked");
            }
        }
        self.memory.close();
    }
}
