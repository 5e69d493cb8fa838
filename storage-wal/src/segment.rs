//! Segment files: their names, their header, and how one is made.

use quorate_core::codec::FORMAT_VERSION;
use quorate_core::life::Position;
use quorate_core::storage::StorageError;

use crate::disk::{Disk, DiskFile};
use crate::frame::{self, Kind, Place, u32_at, u64_at};
use crate::mark::Mark;

/// The bytes of a segment's header; the first frame starts there.
pub(crate) const HEADER_BYTES: usize = 40;

/// Where the header has the log's identity.
pub(crate) const LOG_OFFSET: u64 = 24;

const MAGIC: &[u8; 8] = b"QUORWAL\n";

/// What a segment's header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    /// Its number; the segments of a log are numbered on without a gap.
    pub(crate) number: u64,
    /// The log's identity, drawn when it was made.
    pub(crate) log: u64,
    /// The bytes the file was made with; it may have grown, but never shrunk.
    pub(crate) size: u64,
}

impl Header {
    fn encode(self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..12].copy_from_slice(&u32::from(FORMAT_VERSION).to_le_bytes());
        bytes[16..24].copy_from_slice(&self.number.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.log.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.size.to_le_bytes());
        let checksum = checksum(&bytes);
        bytes[12..16].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// Reads the header of the segment of this number, of whose file `file` is the start and
    /// `length` the length.
    pub(crate) fn decode(
        disk: &Disk,
        number: u64,
        file: &[u8],
        length: u64,
    ) -> Result<Header, StorageError> {
        let damaged = |offset, reason: &str| disk.damaged(&name(number), offset, reason);
        let bytes = file
            .first_chunk::<HEADER_BYTES>()
            .ok_or_else(|| damaged(length, "the file ends within its header"))?;
        if &bytes[..8] != MAGIC {
            return Err(damaged(
                0,
                "the file does not start like a segment of a log",
            ));
        }
        let field = |at| u64_at(bytes, at).unwrap_or_default();
        let version = u32_at(bytes, 8).unwrap_or_default();
        if version != u32::from(FORMAT_VERSION) {
            let reason = format!("format version {version} is not known");
            return Err(damaged(8, &reason));
        }
        if Some(checksum(bytes)) != u32_at(bytes, 12) {
            return Err(damaged(12, "the header does not match its checksum"));
        }
        let header = Header {
            number: field(16),
            log: field(24),
            size: field(32),
        };
        if header.number != number {
            return Err(damaged(16, "the header is another segment's"));
        }
        if length < header.size {
            return Err(damaged(length, "the file is shorter than it was made"));
        }
        Ok(header)
    }
}

fn checksum(header: &[u8; HEADER_BYTES]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&header[..12]);
    hasher.update(&header[16..]);
    hasher.finalize()
}

/// The name of the segment of this number.
pub(crate) fn name(number: u64) -> String {
    format!("segment-{number:016}")
}

/// The number of the segment of this name, if it is one's.
pub(crate) fn number(name: &str) -> Option<u64> {
    number_after("segment-", name)
}

/// The name of the file of a segment that is no longer needed.
pub(crate) fn spare_name(number: u64) -> String {
    format!("spare-{number:016}")
}

/// Whether this is the name of a segment no longer needed.
pub(crate) fn is_spare(name: &str) -> bool {
    number_after("spare-", name).is_some()
}

/// The number in a name that consists of `prefix` and a number.
pub(crate) fn number_after(prefix: &str, name: &str) -> Option<u64> {
    let digits = name.strip_prefix(prefix).filter(|rest| rest.len() == 16)?;
    digits.parse().ok()
}

/// A segment to which frames are being added.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) number: u64,
    pub(crate) file: DiskFile,
    pub(crate) place: Place,
    /// The length of the file.
    pub(crate) capacity: u64,
    /// Where the next frame goes.
    pub(crate) position: u64,
    /// All before this offset is durable.
    pub(crate) synced: u64,
}

impl Segment {
    /// Says that all before what is not yet synced is durable, in the log of this identity.
    pub(crate) fn mark(&self, log: u64) -> Mark {
        Mark {
            log,
            segment: self.number,
            offset: self.synced,
            closed: false,
        }
    }

    /// How far the log is durable.
    pub(crate) fn durable(&self) -> Position {
        Position::new(self.number, self.synced)
    }
}

/// Makes the segment that `header` tells of: in the file of the name `spare`, or else in a new
/// one. All of it is durable before the file has its name, so a segment never has half a header.
pub(crate) fn make(
    disk: &Disk,
    header: Header,
    spare: Option<&str>,
) -> Result<Segment, StorageError> {
    let temporary = format!("{}.tmp", name(header.number));
    let mut file = match spare {
        Some(spare) => disk.open(spare)?,
        None => disk.create(&temporary)?,
    };
    file.write(&header.encode())?;
    if spare.is_none() {
        file.write_zeros(header.size.saturating_sub(HEADER_BYTES as u64))?;
    }
    file.sync()?;
    disk.rename(spare.unwrap_or(&temporary), &name(header.number))?;
    disk.sync()?;
    open(disk, header)
}

/// Frees what was taken for a segment that could not be made.
pub(crate) fn give_up(disk: &Disk, number: u64) -> Result<(), StorageError> {
    let temporary = format!("{}.tmp", name(number));
    match disk.holds(&temporary)? {
        true => disk.remove(&temporary),
        false => Ok(()),
    }
}

/// Opens a segment made ahead of time, in which there is no frame.
pub(crate) fn open(disk: &Disk, header: Header) -> Result<Segment, StorageError> {
    let position = HEADER_BYTES as u64;
    Ok(Segment {
        number: header.number,
        file: disk.open_at(&name(header.number), position)?,
        place: Place::new(header.log, header.number),
        capacity: header.size,
        position,
        synced: position,
    })
}

/// Makes the first segment of a new log, which begins with an empty base, so that a log without
/// a beginning is always one that has lost it.
pub(crate) fn make_first(disk: &Disk, header: Header) -> Result<(), StorageError> {
    let place = Place::new(header.log, header.number);
    let mut bytes = header.encode().to_vec();
    for kind in [Kind::Base, Kind::BaseEnd] {
        let offset = bytes.len() as u64;
        let synced = HEADER_BYTES as u64;
        frame::encode(&mut bytes, &place, offset, synced, kind, &[]);
    }
    let temporary = format!("{}.tmp", name(header.number));
    let mut file = disk.create(&temporary)?;
    file.write(&bytes)?;
    file.write_zeros(header.size.saturating_sub(bytes.len() as u64))?;
    file.sync()?;
    disk.rename(&temporary, &name(header.number))?;
    disk.sync()
}
