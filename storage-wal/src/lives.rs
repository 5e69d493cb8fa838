//! Which life this replica is in, and which lives of others it has met: see
//! [`quorate_core::life`].
//!
//! The file has two places, each a block of its own, which are written in turn, so that a crash
//! leaves the one before. It is written in place, so that it needs no room on a full disk.

use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use quorate_core::codec::FORMAT_VERSION;
use quorate_core::id::{MAX_REPLICAS, ReplicaId};
use quorate_core::life::{Acquaintances, Life, Met, PAST, Position, Refusal};
use quorate_core::storage::StorageError;

use crate::blocks::BLOCK;
use crate::disk::{Disk, DiskFile};
use crate::frame::{u32_at, u64_at};

/// The file's name.
const NAME: &str = "lives";

const MAGIC: &[u8; 8] = b"QUORLIF\n";

/// What stands before the lives that were met.
const HEAD_BYTES: usize = 48;

/// A replica's number, life, nonce and position.
const MET_BYTES: usize = 32;

/// Where the nonces of the lives before stand.
const PAST_AT: usize = BLOCK - PAST * 8;

const _: () = assert!(HEAD_BYTES + MAX_REPLICAS * MET_BYTES <= PAST_AT);

/// What the file says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Lives {
    turn: u64,
    number: u64,
    nonce: u64,
    /// The nonces of the lives before, the latest first.
    past: [u64; PAST],
    met: BTreeMap<u64, Met>,
}

impl Lives {
    /// The nonces of the lives before the next one.
    fn past_of_next(&self) -> [u64; PAST] {
        let mut past = self.past;
        past.rotate_right(1);
        if let Some(latest) = past.first_mut() {
            *latest = self.nonce;
        }
        past
    }

    fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(BLOCK);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&u32::from(FORMAT_VERSION).to_le_bytes());
        bytes.extend_from_slice(&[0; 4]);
        let count = self.met.len() as u64;
        for number in [self.turn, self.number, self.nonce, count] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        for (
            peer,
            Met {
                number,
                nonce,
                position,
            },
        ) in &self.met
        {
            for number in [*peer, *number, *nonce, position.0] {
                bytes.extend_from_slice(&number.to_le_bytes());
            }
        }
        bytes.resize(PAST_AT, 0);
        for nonce in self.past {
            bytes.extend_from_slice(&nonce.to_le_bytes());
        }
        let checksum = checksum(&bytes);
        if let Some(place) = bytes.get_mut(12..16) {
            place.copy_from_slice(&checksum.to_le_bytes());
        }
        bytes
    }

    fn decode(block: &[u8]) -> Option<Lives> {
        let sound = block.len() == BLOCK
            && block.starts_with(MAGIC)
            && u32_at(block, 8)? == u32::from(FORMAT_VERSION)
            && u32_at(block, 12)? == checksum(block);
        if !sound {
            return None;
        }
        let count = usize::try_from(u64_at(block, 40)?).ok()?;
        let met = block.get(HEAD_BYTES..)?.chunks_exact(MET_BYTES).take(count);
        let met = met.map(|met| {
            let known = Met {
                number: u64_at(met, 8)?,
                nonce: u64_at(met, 16)?,
                position: Position(u64_at(met, 24)?),
            };
            Some((u64_at(met, 0)?, known))
        });
        let mut past = [0; PAST];
        for (place, nonce) in past.iter_mut().enumerate() {
            *nonce = u64_at(block, PAST_AT + place * 8)?;
        }
        Some(Lives {
            past,
            turn: u64_at(block, 16)?,
            number: u64_at(block, 24)?,
            nonce: u64_at(block, 32)?,
            met: met.collect::<Option<_>>()?,
        })
    }

    /// The latest that can be read; none where there is no file.
    fn load(disk: &Disk) -> Result<Option<Lives>, StorageError> {
        if !disk.holds(NAME)? {
            return Ok(None);
        }
        let bytes = disk.read(NAME)?;
        let readable = bytes.chunks(BLOCK).filter_map(Lives::decode);
        let latest = readable.max_by_key(|lives| lives.turn);
        // A number that was met before must not be used again.
        let damaged = || disk.damaged(NAME, 0, "neither of the two places can be read");
        latest.map(Some).ok_or_else(damaged)
    }
}

fn checksum(block: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    for part in [block.get(..12), block.get(16..)] {
        hasher.update(part.unwrap_or_default());
    }
    hasher.finalize()
}

/// How far the log is durable, as its writer says.
#[derive(Clone, Debug, Default)]
pub(crate) struct Durable(Arc<AtomicU64>);

impl Durable {
    pub(crate) fn at(position: Position) -> Self {
        Durable(Arc::new(AtomicU64::new(position.0)))
    }

    pub(crate) fn reach(&self, position: Position) {
        self.0.fetch_max(position.0, Ordering::Relaxed);
    }

    fn position(&self) -> Position {
        Position(self.0.load(Ordering::Relaxed))
    }
}

/// The memory of a replica's directory.
///
/// Who writes holds the file, and what is known only to copy it: what is told must not wait for a
/// disk, even one that has stopped answering.
#[derive(Debug)]
pub struct Memory {
    own: Life,
    durable: Durable,
    known: Mutex<Known>,
    kept: Mutex<Kept>,
}

/// What is known of the others.
#[derive(Debug)]
struct Known {
    /// Each in a life that the file has, and with what was told since.
    met: BTreeMap<u64, Met>,
    /// Something was told that the file does not say.
    news: bool,
}

impl Known {
    /// What is to be remembered before another replica is let in, in this life.
    fn next(&self, peer: u64, life: Life) -> Result<News, Refusal> {
        let before = self.met.get(&peer).copied();
        let met = Met::next(before, life)?;
        if before == Some(met) {
            return Ok(News::None);
        }
        let mut all = self.met.clone();
        all.insert(peer, met);
        Ok(News::Met(met, all))
    }
}

enum News {
    /// It was met already, in the same life.
    None,
    /// It is met in this one, and then these are known.
    Met(Met, BTreeMap<u64, Met>),
}

#[derive(Debug)]
struct Kept {
    /// What the file says.
    lives: Lives,
    /// None once the directory is given up.
    file: Option<DiskFile>,
}

impl Kept {
    /// Writes what is known, in the place of what was written the time before the last.
    fn write(&mut self, lives: Lives) -> Result<(), StorageError> {
        // One that failed is tried again in its place: the other one has what was written last.
        let turn = self.lives.turn + 1;
        self.put(Lives { turn, ..lives })
    }

    fn write_met(&mut self, met: BTreeMap<u64, Met>) -> Result<(), StorageError> {
        let own = Lives {
            met,
            ..self.lives.clone()
        };
        self.write(own)
    }

    fn put(&mut self, lives: Lives) -> Result<(), StorageError> {
        let Some(file) = &mut self.file else {
            return Ok(());
        };
        file.seek(lives.turn % 2 * BLOCK as u64)?;
        file.write(&lives.encode())?;
        file.sync()?;
        self.lives = lives;
        Ok(())
    }
}

impl Memory {
    /// Begins another life, with a log that is durable to `start`.
    pub(crate) fn begin(disk: &Disk, start: Position) -> Result<Memory, StorageError> {
        let before = match Lives::load(disk)? {
            Some(before) => before,
            None => make(disk)?,
        };
        let mut kept = Kept {
            lives: Lives::default(),
            file: Some(disk.open(NAME)?),
        };
        // What was found may be in the system's cache and not on the disk, after a sync that failed
        // [Rebello20]: what is written next takes the place of what is there.
        kept.put(before.clone())?;
        let own = Life {
            number: before.number + 1,
            nonce: RandomState::new().hash_one(NAME),
            start,
            past: before.past_of_next(),
        };
        let met = before.met.clone();
        kept.write(Lives {
            number: own.number,
            nonce: own.nonce,
            past: own.past,
            ..before
        })?;
        tracing::info!(path = %disk.display(), start = own.number, log = %start, "a life begins");
        Ok(Memory {
            own,
            durable: Durable::at(start),
            known: Mutex::new(Known { met, news: false }),
            kept: Mutex::new(kept),
        })
    }

    /// Where the writer of the log says how far it is durable.
    pub(crate) fn durable(&self) -> Durable {
        self.durable.clone()
    }

    /// Keeps what is known, and lets go of the directory.
    pub(crate) fn close(&self) {
        self.keep();
        self.kept().file = None;
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the disk.
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes the file, of a replica that has had no life and met nobody.
fn make(disk: &Disk) -> Result<Lives, StorageError> {
    let none = Lives::default();
    let temporary = format!("{NAME}.tmp");
    let mut file = disk.create(&temporary)?;
    file.write(&none.encode())?;
    file.write(&[0; BLOCK])?;
    file.sync()?;
    disk.rename(&temporary, NAME)?;
    disk.sync()?;
    Ok(none)
}

impl Acquaintances for Memory {
    fn own(&self) -> Life {
        self.own
    }

    fn position(&self) -> Position {
        self.durable.position()
    }

    fn meet(&self, peer: ReplicaId, life: Life) -> Result<(), Refusal> {
        let peer = u64::from(peer.0);
        // Whoever was met, and whoever is refused, need not wait for the disk.
        if let News::None = self.known().next(peer, life)? {
            return Ok(());
        }
        let mut kept = self.kept();
        let news = self.known().next(peer, life)?;
        if let News::Met(met, all) = news {
            kept.write_met(all)?;
            let mut known = self.known();
            let told = known
                .met
                .get(&peer)
                .map_or(met.position, |met| met.position);
            let position = met.position.max(told);
            known.met.insert(peer, Met { position, ..met });
        }
        Ok(())
    }

    fn told(&self, peer: ReplicaId, position: Position) {
        let mut known = self.known();
        if let Some(met) = known.met.get_mut(&u64::from(peer.0))
            && position > met.position
        {
            met.position = position;
            known.news = true;
        }
    }

    fn keep(&self) {
        let mut kept = self.kept();
        let met = {
            let mut known = self.known();
            if !std::mem::take(&mut known.news) {
                return;
            }
            known.met.clone()
        };
        if let Err(error) = kept.write_met(met) {
            self.known().news = true;
            tracing::warn!(%error, "how far the others' logs are durable cannot be kept");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::Faults;

    const PEER: ReplicaId = ReplicaId(2);

    fn life(number: u64, start: u64) -> Life {
        Life {
            number,
            nonce: number * 7,
            start: Position(start),
            past: [0; PAST],
        }
    }

    fn disk(home: &tempfile::TempDir) -> Disk {
        Disk::new(home.path(), Faults::default())
    }

    #[test]
    fn each_start_is_another_life() {
        let home = tempfile::tempdir().unwrap();
        let mut nonces = Vec::new();
        for number in 1..6 {
            let memory = Memory::begin(&disk(&home), Position(number)).unwrap();
            assert_eq!(memory.own().number, number);
            assert_eq!(memory.own().start, Position(number));
            nonces.push(memory.own().nonce);
        }
        nonces.sort_unstable();
        nonces.dedup();
        assert_eq!(nonces.len(), 5);
    }

    #[test]
    fn each_life_tells_of_those_before() {
        let home = tempfile::tempdir().unwrap();
        let mut before = vec![0; PAST];
        for start in 1..=2 * PAST as u64 {
            let memory = Memory::begin(&disk(&home), Position(0)).unwrap();
            memory.meet(PEER, life(start, 10)).unwrap();
            assert_eq!(memory.own().past[..], before[..PAST]);
            before.insert(0, memory.own().nonce);
        }
    }

    #[test]
    fn another_directory_is_refused_however_often_it_starts() {
        let homes = [(); 3].map(|()| tempfile::tempdir().unwrap());
        let [peer, lost, anew] = homes.each_ref().map(disk);
        let peer = Memory::begin(&peer, Position(0)).unwrap();
        let own = Memory::begin(&lost, Position(0)).unwrap().own();
        peer.meet(PEER, own).unwrap();
        for number in 1..=PAST as u64 + 1 {
            let other = Memory::begin(&anew, Position(number)).unwrap().own();
            assert_eq!(other.number, number);
            let refused = Err(Refusal::Copied { number: 1 });
            assert_eq!(peer.meet(PEER, other), refused);
        }
        // The one that was there before is welcome.
        let own = Memory::begin(&lost, Position(0)).unwrap().own();
        peer.meet(PEER, own).unwrap();
    }

    #[test]
    fn who_was_met_is_remembered_and_how_far_it_had_come() {
        let home = tempfile::tempdir().unwrap();
        let memory = Memory::begin(&disk(&home), Position(0)).unwrap();
        memory.meet(PEER, life(3, 10)).unwrap();
        memory.told(PEER, Position(30));
        memory.told(PEER, Position(20));
        // Of whom nothing is known nothing is believed.
        memory.told(ReplicaId(1), Position(99));
        memory.keep();
        drop(memory);
        let memory = Memory::begin(&disk(&home), Position(0)).unwrap();
        let behind = Refusal::Behind {
            start: Position(29),
            met: Position(30),
        };
        assert_eq!(memory.meet(PEER, life(4, 29)), Err(behind));
        let earlier = Refusal::Earlier { number: 2, met: 3 };
        assert_eq!(memory.meet(PEER, life(2, 99)), Err(earlier));
        assert_eq!(memory.meet(PEER, life(4, 30)), Ok(()));
        assert_eq!(memory.meet(ReplicaId(1), life(1, 0)), Ok(()));
    }

    #[test]
    fn who_cannot_be_remembered_is_not_met() {
        let home = tempfile::tempdir().unwrap();
        let faults = Faults::default();
        let memory = Memory::begin(&Disk::new(home.path(), faults.clone()), Position(0)).unwrap();
        faults.fail_syncs_after(0);
        let refused = memory.meet(PEER, life(3, 10));
        assert!(
            matches!(refused, Err(Refusal::Unwritable(_))),
            "{refused:?}"
        );
        faults.fail_syncs_after(u64::MAX);
        memory.meet(PEER, life(2, 10)).unwrap();
    }

    /// The first place is written again, and not the one that has what was written last.
    #[test]
    fn writes_that_fail_leave_what_was_written_last() {
        for room in [0, 1, HEAD_BYTES as u64] {
            let home = tempfile::tempdir().unwrap();
            let faults = Faults::default();
            let disk = Disk::new(home.path(), faults.clone());
            let memory = Memory::begin(&disk, Position(0)).unwrap();
            memory.meet(PEER, life(3, 10)).unwrap();
            for number in 4..7 {
                faults.fill_after(room);
                memory.meet(PEER, life(number, 10)).unwrap_err();
            }
            drop(memory);
            let lives = Lives::load(&disk).unwrap().unwrap();
            assert_eq!(lives.met[&2].number, 3, "{room}");
        }
    }

    #[test]
    fn a_full_disk_keeps_nobody_from_starting_again() {
        let home = tempfile::tempdir().unwrap();
        drop(Memory::begin(&disk(&home), Position(0)).unwrap());
        let faults = Faults::default();
        faults.limit_room(0);
        let memory = Memory::begin(&Disk::new(home.path(), faults), Position(0)).unwrap();
        assert_eq!(memory.own().number, 2);
        memory.meet(PEER, life(3, 10)).unwrap();
    }

    /// Each of the two places damaged, at each byte: the other is read.
    #[test]
    fn a_torn_place_leaves_the_one_before() {
        let home = tempfile::tempdir().unwrap();
        let memory = Memory::begin(&disk(&home), Position(0)).unwrap();
        memory.meet(PEER, life(3, 10)).unwrap();
        drop(memory);
        let sound = disk(&home).read(NAME).unwrap();
        let latest = Lives::load(&disk(&home)).unwrap().unwrap();
        let place = (latest.turn % 2) as usize * BLOCK;
        for at in 0..HEAD_BYTES + MET_BYTES {
            let mut bytes = sound.clone();
            bytes[place + at] ^= 1;
            std::fs::write(disk(&home).path(NAME), &bytes).unwrap();
            let left = Lives::load(&disk(&home)).unwrap().unwrap();
            assert_eq!(left.turn, latest.turn - 1, "{at}");
            bytes[BLOCK - place] ^= 1;
            std::fs::write(disk(&home).path(NAME), bytes).unwrap();
            let damaged = Lives::load(&disk(&home));
            assert!(matches!(damaged, Err(StorageError::Damaged { .. })), "{at}");
        }
    }

    #[test]
    fn a_directory_that_was_given_up_is_left_alone() {
        let home = tempfile::tempdir().unwrap();
        let memory = Memory::begin(&disk(&home), Position(0)).unwrap();
        memory.meet(PEER, life(3, 10)).unwrap();
        memory.told(PEER, Position(11));
        memory.close();
        let sound = disk(&home).read(NAME).unwrap();
        memory.told(PEER, Position(12));
        memory.keep();
        assert_eq!(disk(&home).read(NAME).unwrap(), sound);
        let lives = Lives::load(&disk(&home)).unwrap().unwrap();
        assert_eq!(lives.met[&2].position, Position(11));
    }

    /// One whose sync failed may be read again, and not be on the disk.
    #[test]
    fn what_may_not_be_on_the_disk_is_made_durable_before_what_is_there_is_written_over() {
        let home = tempfile::tempdir().unwrap();
        let faults = Faults::default();
        let disk = Disk::new(home.path(), faults.clone());
        let memory = Memory::begin(&disk, Position(0)).unwrap();
        let durable = Lives::load(&disk).unwrap().unwrap();
        faults.fail_syncs_after(0);
        memory.meet(PEER, life(3, 10)).unwrap_err();
        drop(memory);
        assert_eq!(Lives::load(&disk).unwrap().unwrap().turn, durable.turn + 1);
        Memory::begin(&disk, Position(0)).unwrap_err();
        let places = disk.read(NAME).unwrap();
        let mut places = places.chunks(BLOCK).filter_map(Lives::decode);
        assert!(places.any(|place| place == durable));
    }

    /// A disk that does not answer holds up who would be met, and nobody else.
    #[test]
    fn what_is_told_and_who_is_known_do_not_wait_for_the_disk() {
        let home = tempfile::tempdir().unwrap();
        let memory = Arc::new(Memory::begin(&disk(&home), Position(0)).unwrap());
        memory.meet(PEER, life(3, 10)).unwrap();
        let writing = memory.kept();
        let (sender, done) = std::sync::mpsc::channel();
        let other = memory.clone();
        std::thread::spawn(move || {
            other.told(PEER, Position(30));
            let known = other.meet(PEER, life(3, 10));
            let refused = other.meet(PEER, life(2, 10));
            sender.send((known, refused)).unwrap();
            other.meet(PEER, life(4, 40)).unwrap();
            sender.send((Ok(()), Ok(()))).unwrap();
        });
        let limit = std::time::Duration::from_secs(10);
        let earlier = Refusal::Earlier { number: 2, met: 3 };
        assert_eq!(done.recv_timeout(limit), Ok((Ok(()), Err(earlier))));
        assert_eq!(memory.known().met[&2].number, 3, "it is not met yet");
        memory.told(PEER, Position(40));
        drop(writing);
        assert_eq!(done.recv_timeout(limit), Ok((Ok(()), Ok(()))));
        let met = memory.known().met[&2];
        assert_eq!((met.number, met.position), (4, Position(40)));
        memory.close();
        let lives = Lives::load(&disk(&home)).unwrap().unwrap();
        assert_eq!(lives.met[&2], met);
    }
}
