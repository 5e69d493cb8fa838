//! Snapshot files, and the thread that writes them, so that a large snapshot does not hold up
//! the log.

use std::sync::mpsc::{Receiver, RecvTimeoutError};

use bytes::Bytes;
use quorate_core::codec::{self, FORMAT_VERSION};
use quorate_core::protocol::SnapshotRef;
use quorate_core::storage::{Snapshot, StorageError, Ticket};

use crate::disk::Disk;
use crate::frame::{u32_at, u64_at};
use crate::maker::{LOOK_AT_LEAST, LOOK_FOR_ROOM};
use crate::report::{Reporter, Stopped, Want};
use crate::segment::number_after;

const HEADER_BYTES: usize = 40;

const MAGIC: &[u8; 8] = b"QUORSNP\n";

/// So much of a snapshot is written between two syncs: were all of it synced at once, the syncs
/// of the log would queue behind it.
const SLICE_BYTES: usize = 1 << 20;

/// The number in a snapshot file's name, if it is one's.
pub(crate) fn number(name: &str) -> Option<u64> {
    number_after("snapshot-", name)
}

fn name(number: u64) -> String {
    format!("snapshot-{number:016}")
}

/// Reads the snapshot of this number.
pub(crate) fn read(disk: &Disk, number: u64) -> Result<Snapshot, StorageError> {
    let name = name(number);
    let file = Bytes::from(disk.read(&name)?);
    let damaged = |offset: usize, reason: &str| disk.damaged(&name, offset as u64, reason);
    let header = file
        .first_chunk::<HEADER_BYTES>()
        .ok_or_else(|| damaged(file.len(), "the file ends within its header"))?;
    if &header[..8] != MAGIC {
        return Err(damaged(0, "the file does not start like a snapshot"));
    }
    let version = u32_at(header, 8).unwrap_or_default();
    if version != u32::from(FORMAT_VERSION) {
        let reason = format!("format version {version} is not known");
        return Err(damaged(8, &reason));
    }
    if Some(checksum(&[&header[..12], &header[16..]])) != u32_at(header, 12) {
        return Err(damaged(12, "the header does not match its checksum"));
    }
    let length = |at| u64_at(header, at).and_then(|length| usize::try_from(length).ok());
    let end = |start: usize, at| length(at).and_then(|length| start.checked_add(length));
    let id_end = end(HEADER_BYTES, 16).unwrap_or(usize::MAX);
    let body_end = end(id_end, 24).unwrap_or(usize::MAX);
    if file.len() < body_end {
        return Err(damaged(file.len(), "the file ends early"));
    }
    if file.len() > body_end {
        return Err(damaged(body_end, "the file goes on behind the snapshot"));
    }
    if Some(checksum(&[&file[HEADER_BYTES..]])) != u32_at(header, 32) {
        return Err(damaged(
            HEADER_BYTES,
            "the snapshot does not match its checksum",
        ));
    }
    let id = codec::decode::<SnapshotRef>("snapshot", &file[HEADER_BYTES..id_end])
        .map_err(|error| damaged(HEADER_BYTES, &error.to_string()))?;
    let body = file.slice(id_end..);
    Ok(Snapshot { id, body })
}

fn checksum(parts: &[&[u8]]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    parts.iter().for_each(|part| hasher.update(part));
    hasher.finalize()
}

/// Writes snapshots.
pub(crate) struct Saver {
    pub(crate) disk: Disk,
    pub(crate) work: Receiver<(Ticket, Snapshot)>,
    pub(crate) reporter: Reporter,
    /// The number of the newest snapshot there is, if there is one.
    pub(crate) newest: Option<u64>,
}

impl Saver {
    /// Works until nobody can give any more.
    pub(crate) fn run(mut self) {
        while let Ok(first) = self.work.recv() {
            if self.save(first).is_err() {
                return;
            }
        }
    }

    /// Saves a snapshot as soon as there is room, or a newer one that has come since.
    fn save(&mut self, first: (Ticket, Snapshot)) -> Result<(), Stopped> {
        let mut work = self.newest_of(first);
        let mut wait = LOOK_FOR_ROOM;
        loop {
            let (ticket, snapshot) = &work;
            let number = self.newest.map_or(1, |newest| newest + 1);
            match write(&self.disk, number, snapshot) {
                Ok(()) => return self.saved(*ticket, number),
                Err(error @ StorageError::Full { .. }) => {
                    give_up(&self.disk, number).map_err(|error| self.reporter.fail(error))?;
                    self.reporter.room(Want::Snapshot, Err(&error));
                    wait = (wait * 2).min(LOOK_AT_LEAST);
                    match self.work.recv_timeout(wait) {
                        Ok(newer) => work = self.newest_of(newer),
                        Err(RecvTimeoutError::Timeout) => {}
                        Err(RecvTimeoutError::Disconnected) => {
                            return Err(self.reporter.fail(error));
                        }
                    }
                }
                Err(error) => return Err(self.reporter.fail(error)),
            }
        }
    }

    /// Of all that have gathered only the newest would stay.
    fn newest_of(&self, first: (Ticket, Snapshot)) -> (Ticket, Snapshot) {
        self.work.try_iter().last().unwrap_or(first)
    }

    fn saved(&mut self, ticket: Ticket, number: u64) -> Result<(), Stopped> {
        self.reporter.room(Want::Snapshot, Ok(()));
        self.reporter.saved(ticket)?;
        if let Some(older) = self.newest.replace(number) {
            let removed = self.disk.remove(&name(older));
            removed.map_err(|error| self.reporter.fail(error))?;
        }
        Ok(())
    }
}

/// Frees what was taken for a snapshot that could not be written.
fn give_up(disk: &Disk, number: u64) -> Result<(), StorageError> {
    let temporary = format!("{}.tmp", name(number));
    match disk.holds(&temporary)? {
        true => disk.remove(&temporary),
        false => Ok(()),
    }
}

/// Removes a snapshot that a newer one has replaced.
pub(crate) fn remove(disk: &Disk, number: u64) -> Result<(), StorageError> {
    disk.remove(&name(number))
}

/// Writes a snapshot under a temporary name, and gives it its own only when all of it is durable.
fn write(disk: &Disk, number: u64, snapshot: &Snapshot) -> Result<(), StorageError> {
    let name = name(number);
    let temporary = format!("{name}.tmp");
    let id = codec::encode(&snapshot.id).map_err(|error| StorageError::Io {
        action: "write",
        path: disk.path(&name).display().to_string(),
        reason: error.to_string(),
    })?;
    let body = snapshot.body.as_ref();
    let mut file = disk.create(&temporary)?;
    file.write(&header(&id, body))?;
    file.write(&id)?;
    for slice in body.chunks(SLICE_BYTES) {
        file.write(slice)?;
        file.sync()?;
    }
    file.sync()?;
    disk.rename(&temporary, &name)?;
    disk.sync()
}

fn header(id: &[u8], body: &[u8]) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    header[..8].copy_from_slice(MAGIC);
    header[8..12].copy_from_slice(&u32::from(FORMAT_VERSION).to_le_bytes());
    header[16..24].copy_from_slice(&(id.len() as u64).to_le_bytes());
    header[24..32].copy_from_slice(&(body.len() as u64).to_le_bytes());
    header[32..36].copy_from_slice(&checksum(&[id, body]).to_le_bytes());
    let sum = checksum(&[&header[..12], &header[16..]]);
    header[12..16].copy_from_slice(&sum.to_le_bytes());
    header
}
