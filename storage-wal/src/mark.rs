//! How far the log is durable, in a file apart from it: what vouches for the last block of the log
//! must not lie in that block.
//!
//! A mark is written after the sync of what it vouches for, and need not be durable itself: an older
//! one vouches for less. So no append waits for it. It has two places, each a block of its own, which
//! are written in turn, so that a crash, or damage to one, leaves the other.

use quorate_core::codec::FORMAT_VERSION;
use quorate_core::storage::StorageError;

use crate::blocks::BLOCK;
use crate::disk::{Disk, DiskFile};
use crate::frame::{u32_at, u64_at};

/// The file's name.
const NAME: &str = "durable";

const MAGIC: &[u8; 8] = b"QUORDUR\n";

const MARK_BYTES: usize = 56;

/// Says that the log was durable before a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    /// The log's identity.
    pub(crate) log: u64,
    /// The segment of this number was the last with anything durable in it.
    pub(crate) segment: u64,
    /// All of it before this offset was, and all of the segments before it.
    pub(crate) offset: u64,
    /// The log was closed then: nothing was written afterwards.
    pub(crate) closed: bool,
}

impl Mark {
    /// Whether it vouches for more than what is before `offset` in `segment`.
    pub(crate) fn is_beyond(&self, segment: u64, offset: u64) -> bool {
        (self.segment, self.offset) > (segment, offset)
    }

    fn encode(self, turn: u64) -> [u8; MARK_BYTES] {
        let mut bytes = [0; MARK_BYTES];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..12].copy_from_slice(&u32::from(FORMAT_VERSION).to_le_bytes());
        let numbers = [turn, self.log, self.segment, self.offset];
        for (place, number) in bytes[16..48].chunks_mut(8).zip(numbers) {
            place.copy_from_slice(&number.to_le_bytes());
        }
        bytes[48] = u8::from(self.closed);
        let checksum = checksum(&bytes);
        bytes[12..16].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// The mark in this block, with its turn.
    fn decode(block: &[u8]) -> Option<(u64, Mark)> {
        let bytes = block.first_chunk::<MARK_BYTES>()?;
        let sound = &bytes[..8] == MAGIC
            && u32_at(bytes, 8)? == u32::from(FORMAT_VERSION)
            && u32_at(bytes, 12)? == checksum(bytes);
        let mark = Mark {
            log: u64_at(bytes, 24)?,
            segment: u64_at(bytes, 32)?,
            offset: u64_at(bytes, 40)?,
            closed: bytes[48] == 1,
        };
        sound.then_some((u64_at(bytes, 16)?, mark))
    }
}

fn checksum(bytes: &[u8; MARK_BYTES]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&bytes[..12]);
    hasher.update(&bytes[16..]);
    hasher.finalize()
}

/// The latest mark in the directory, if there is any. One that cannot be read vouches for nothing.
pub(crate) fn read(disk: &Disk) -> Result<Option<Mark>, StorageError> {
    Ok(latest(disk)?.map(|(_, mark)| mark))
}

fn latest(disk: &Disk) -> Result<Option<(u64, Mark)>, StorageError> {
    if !disk.holds(NAME)? {
        return Ok(None);
    }
    let bytes = disk.read(NAME)?;
    let mut latest: Option<(u64, Mark)> = None;
    for block in bytes.chunks(BLOCK) {
        let found = Mark::decode(block);
        if found.is_none() && block.iter().any(|byte| *byte != 0) {
            let path = disk.path(NAME);
            tracing::warn!(path = %path.display(), "a mark of what is durable cannot be read");
        }
        if let Some((turn, mark)) = found
            && latest.is_none_or(|(latest, _)| turn > latest)
        {
            latest = Some((turn, mark));
        }
    }
    Ok(latest)
}

/// Writes marks.
#[derive(Debug)]
pub(crate) struct Marks {
    file: DiskFile,
    turn: u64,
}

impl Marks {
    /// Goes on in the file, or begins it, with `mark`, which is durable when this returns. Where there
    /// is a file that takes no room.
    pub(crate) fn begin(disk: &Disk, mark: Mark) -> Result<Marks, StorageError> {
        let whole = disk.holds(NAME)? && disk.len(NAME)? >= 2 * BLOCK as u64;
        if !whole {
            let temporary = format!("{NAME}.tmp");
            let mut file = disk.create(&temporary)?;
            file.write(&[0; 2 * BLOCK])?;
            file.sync()?;
            disk.rename(&temporary, NAME)?;
            disk.sync()?;
        }
        let mut marks = Marks {
            turn: latest(disk)?.map_or(0, |(turn, _)| turn),
            file: disk.open(NAME)?,
        };
        marks.write(mark)?;
        marks.sync()?;
        Ok(marks)
    }

    /// Writes a mark, in the place of the one before the last.
    pub(crate) fn write(&mut self, mark: Mark) -> Result<(), StorageError> {
        self.turn += 1;
        self.file.seek(self.turn % 2 * BLOCK as u64)?;
        self.file.write(&mark.encode(self.turn))
    }

    /// Makes the last mark durable.
    pub(crate) fn sync(&self) -> Result<(), StorageError> {
        self.file.sync()
    }
}

#[cfg(test)]
mod tests {
    use quorate_core::crypto::{GroupId, PublicKey};
    use quorate_core::epoch::Epoch;
    use quorate_core::id::ReplicaId;
    use quorate_core::storage::{Completions, Ticket};

    use super::*;
    use crate::disk::Faults;
    use crate::{Identity, Wal, WalOptions};

    fn mark(segment: u64, offset: u64) -> Mark {
        Mark {
            log: 7,
            segment,
            offset,
            closed: segment.is_multiple_of(2),
        }
    }

    #[test]
    fn the_latest_mark_is_read_and_the_one_before_where_that_is_damaged() {
        let home = tempfile::tempdir().unwrap();
        let disk = Disk::new(home.path(), Faults::default());
        assert_eq!(read(&disk), Ok(None));
        let mut marks = Marks::begin(&disk, mark(1, 40)).unwrap();
        assert_eq!(read(&disk), Ok(Some(mark(1, 40))));
        for segment in 2..6 {
            marks.write(mark(segment, 64)).unwrap();
            assert_eq!(read(&disk), Ok(Some(mark(segment, 64))));
        }
        let sound = disk.read(NAME).unwrap();
        let place = |place: usize| place * BLOCK..place * BLOCK + MARK_BYTES;
        for (damaged, left) in [(0, mark(5, 64)), (1, mark(4, 64))] {
            for at in place(damaged) {
                let mut bytes = sound.clone();
                bytes[at] ^= 1;
                std::fs::write(disk.path(NAME), bytes).unwrap();
                assert_eq!(read(&disk), Ok(Some(left)), "{at}");
            }
        }
        std::fs::write(disk.path(NAME), &sound[..BLOCK + 3]).unwrap();
        assert_eq!(read(&disk), Ok(Some(mark(4, 64))));
    }

    #[test]
    fn a_mark_vouches_for_what_is_before_it() {
        assert!(mark(3, 64).is_beyond(3, 63));
        assert!(!mark(3, 64).is_beyond(3, 64));
        assert!(mark(3, 64).is_beyond(2, 4096));
        assert!(!mark(3, 64).is_beyond(4, 40));
    }

    struct Silent;

    impl Completions for Silent {
        fn durable(&self, _: Ticket) {}

        fn saved(&self, _: Ticket) {}

        fn failed(&self, error: StorageError) {
            panic!("{error}");
        }

        fn short_of_room(&self, _: bool) {}
    }

    /// What lies behind the end of one that is open may be torn.
    #[test]
    fn only_a_log_that_is_closed_is_marked_as_closed() {
        let home = tempfile::tempdir().unwrap();
        let owner = Identity {
            group: GroupId(1),
            replica: ReplicaId(0),
            key: PublicKey([7; 32]),
            protocol: String::from("test"),
        };
        let epoch = Epoch::first(owner.group, &owner.protocol, &[owner.key]);
        Wal::prepare(home.path(), &owner, None).unwrap();
        let disk = Disk::new(home.path(), Faults::default());
        let closed = || read(&disk).unwrap().unwrap().closed;
        for _ in 0..2 {
            let options = WalOptions::default();
            let (log, _) = Wal::open(home.path(), &owner, &epoch, &options, Silent).unwrap();
            assert!(!closed());
            log.close();
            assert!(closed());
        }
    }
}
