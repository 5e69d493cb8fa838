//! What the segments hold after a restart, and what of it must be put in order.
//!
//! Reading changes nothing, so that damage is reported with all files as they were found.

use bytes::Bytes;
use quorate_core::storage::StorageError;

use crate::disk::Disk;
use crate::frame::{self, Frame, Kind, Place};
use crate::mark::Mark;
use crate::segment::{self, HEADER_BYTES, Header, LOG_OFFSET, Segment};

/// A log as it was found.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) records: Vec<Bytes>,
    pub(crate) log: u64,
    /// Segments older than the newest complete base.
    pub(crate) obsolete: Vec<u64>,
    /// The segment that base begins in.
    pub(crate) first: u64,
    /// The segment to go on in.
    pub(crate) tail: Tail,
    /// The segment before it, if nothing proves that all of it is durable.
    before_tail: Option<Unsettled>,
    /// The segment made ahead of time, to follow the tail.
    pub(crate) prepared: Option<Header>,
    /// A rewrite began that did not end.
    open_base: bool,
}

/// Where the log ends.
#[derive(Debug)]
pub(crate) struct Tail {
    unsettled: Unsettled,
    end: u64,
    capacity: u64,
    cut: Option<Cut>,
}

/// What lies behind the end of the log, and is to be cleared.
#[derive(Debug)]
struct Cut {
    bytes: u64,
    /// Why it counts for nothing.
    reason: &'static str,
}

impl Cut {
    /// What is cut behind a scan. Where the log was closed before, what is there that is no frame of
    /// the segment is known to be left over from when its file was another's.
    fn of(bytes: &[u8], place: &Place, scan: &Scan, closed: bool) -> Option<Cut> {
        let rest = bytes.get(scan.end..).unwrap_or_default();
        let last = rest.iter().rposition(|byte| *byte != 0)?;
        let frames = frame::any(bytes, place, scan.end);
        let reason = match (frames, closed) {
            (true, _) => "a write was torn by a crash",
            (false, false) => {
                "a write was torn by a crash, or the file holds what is left of an earlier use"
            }
            (false, true) => return None,
        };
        Some(Cut {
            bytes: last as u64 + 1,
            reason,
        })
    }
}

/// The end of a segment of which nothing proves that it is durable: after a crash of the process
/// alone, or a sync that failed, it may be in the system's cache and not on the disk.
#[derive(Debug)]
struct Unsettled {
    number: u64,
    from: u64,
    bytes: Vec<u8>,
    /// How much behind it is to be filled with zeros, lest what is there be taken for records
    /// once others have been written before it.
    zeros: u64,
}

/// How far a segment could be read.
struct Scan {
    end: usize,
    synced: u64,
    sealed: bool,
    /// Why there is nothing more.
    flaw: &'static str,
}

/// Reads the log whose segments have these numbers, in ascending order, and of which `mark` says how
/// far it was durable, if there is one.
pub(crate) fn read(
    disk: &Disk,
    numbers: &[u64],
    mark: Option<Mark>,
) -> Result<Found, StorageError> {
    let mut headers: Vec<Header> = Vec::new();
    let mut bases = Vec::new();
    for (index, number) in numbers.iter().enumerate() {
        let (header, based) = read_start(disk, *number)?;
        if headers.first().is_some_and(|first| first.log != header.log) {
            let reason = "the segment is of another log";
            return Err(disk.damaged(&segment::name(*number), LOG_OFFSET, reason));
        }
        headers.push(header);
        bases.extend(based.then_some(index));
    }
    for base in bases.into_iter().rev() {
        let (obsolete, live) = headers.split_at(base);
        if let Some(mut found) = replay(disk, live, mark)? {
            found.obsolete = obsolete.iter().map(|header| header.number).collect();
            return Ok(found);
        }
    }
    let oldest = numbers.first().copied().unwrap_or(1);
    let reason = "no log begins here, and no segment before this one is left";
    Err(disk.damaged(&segment::name(oldest), HEADER_BYTES as u64, reason))
}

/// A segment's header, and whether a base begins in it.
fn read_start(disk: &Disk, number: u64) -> Result<(Header, bool), StorageError> {
    let name = segment::name(number);
    let length = disk.len(&name)?;
    let start = disk.read_start(&name, (HEADER_BYTES + frame::FRAME_BYTES) as u64)?;
    let header = Header::decode(disk, number, &start, length)?;
    let place = Place::new(header.log, number);
    let first = frame::decode(&start, &place, HEADER_BYTES);
    Ok((header, first.is_ok_and(|frame| frame.kind == Kind::Base)))
}

/// Reads on from the segment in which a base begins; none if no base is complete.
fn replay(
    disk: &Disk,
    headers: &[Header],
    mark: Option<Mark>,
) -> Result<Option<Found>, StorageError> {
    let mut replay = Replay::default();
    let mut before = None;
    let Some(first) = headers.first() else {
        return Ok(None);
    };
    for (index, header) in headers.iter().enumerate() {
        let expected = first.number + index as u64;
        if header.number != expected {
            return Err(missing(disk, expected));
        }
        let bytes = disk.read(&segment::name(expected))?;
        let place = Place::new(header.log, expected);
        let scan = replay.read(disk, expected, &place, &bytes)?;
        let unsettled = unsettled(expected, &bytes, &scan);
        if scan.sealed {
            before = Some(unsettled);
            continue;
        }
        let later = headers.get(index + 1..).unwrap_or_default();
        let mark = mark.filter(|mark| mark.log == header.log);
        check_tail(disk, &scan, &place, &bytes, (expected, mark), later)?;
        let empty = scan.end == HEADER_BYTES;
        return Ok(replay.based.then_some(Found {
            records: replay.records,
            log: header.log,
            obsolete: Vec::new(),
            first: first.number,
            tail: Tail {
                unsettled,
                end: scan.end as u64,
                capacity: bytes.len() as u64,
                cut: Cut::of(&bytes, &place, &scan, mark.is_some_and(|mark| mark.closed)),
            },
            before_tail: before.filter(|_| empty),
            prepared: later.first().copied(),
            open_base: replay.base.is_some(),
        }));
    }
    Err(missing(disk, first.number + headers.len() as u64))
}

fn missing(disk: &Disk, number: u64) -> StorageError {
    let name = segment::name(number);
    disk.damaged(
        &name,
        0,
        "the segment is missing, and the log goes on in it",
    )
}

/// What a replica had written, as far as it has been read.
#[derive(Default)]
struct Replay {
    records: Vec<Bytes>,
    /// The records of a rewrite that has not ended.
    base: Option<Vec<Bytes>>,
    /// A rewrite has ended.
    based: bool,
}

impl Replay {
    fn read(
        &mut self,
        disk: &Disk,
        number: u64,
        place: &Place,
        bytes: &[u8],
    ) -> Result<Scan, StorageError> {
        let mut scan = Scan {
            end: HEADER_BYTES,
            synced: HEADER_BYTES as u64,
            sealed: false,
            flaw: "",
        };
        while !scan.sealed {
            match frame::decode(bytes, place, scan.end) {
                Ok(frame) => {
                    self.take(&frame).map_err(|reason| {
                        disk.damaged(&segment::name(number), scan.end as u64, reason)
                    })?;
                    scan.end = frame.end;
                    scan.synced = scan.synced.max(frame.synced);
                    scan.sealed = frame.kind == Kind::Seal;
                }
                Err(flaw) => {
                    scan.flaw = flaw;
                    break;
                }
            }
        }
        Ok(scan)
    }

    fn take(&mut self, frame: &Frame<'_>) -> Result<(), &'static str> {
        match frame.kind {
            Kind::Record => {
                let records = self.base.as_mut().unwrap_or(&mut self.records);
                records.push(Bytes::copy_from_slice(frame.payload));
            }
            Kind::Base if self.base.is_some() => return Err("a rewrite begins within another"),
            Kind::Base => self.base = Some(Vec::new()),
            Kind::BaseEnd => {
                self.records = self.base.take().ok_or("a rewrite ends that never began")?;
                self.based = true;
            }
            Kind::BaseVoid => {
                self.base
                    .take()
                    .ok_or("a rewrite is void that never began")?;
            }
            Kind::Mark | Kind::Seal => {}
        }
        Ok(())
    }
}

/// A torn write is cut. It can only be in what was written after the last sync, so if anything
/// says that the place where reading had to stop was durable once, then it has been damaged.
fn check_tail(
    disk: &Disk,
    scan: &Scan,
    place: &Place,
    bytes: &[u8],
    (number, mark): (u64, Option<Mark>),
    later: &[Header],
) -> Result<(), StorageError> {
    let name = segment::name(number);
    if mark.is_some_and(|mark| mark.is_beyond(number, scan.end as u64)) {
        let reason = format!("{}, and it is marked as durable", scan.flaw);
        return Err(disk.damaged(&name, scan.end as u64, &reason));
    }
    let mut was_durable = frame::claims_more_than(scan.end as u64, bytes, place, scan.end);
    if let Some(next) = later.first() {
        if next.number != number + 1 {
            return Err(missing(disk, number + 1));
        }
        let place = Place::new(next.log, next.number);
        let bytes = disk.read(&segment::name(next.number))?;
        was_durable |= later.len() > 1 || frame::any(&bytes, &place, HEADER_BYTES);
    }
    if was_durable {
        let reason = format!("{}, and more was written once this was durable", scan.flaw);
        return Err(disk.damaged(&name, scan.end as u64, &reason));
    }
    Ok(())
}

fn unsettled(number: u64, bytes: &[u8], scan: &Scan) -> Unsettled {
    let end = scan.end.min(bytes.len());
    let from = (scan.synced as usize).min(end);
    let (known, rest) = bytes.split_at(end);
    let clear = scan.sealed || rest.iter().all(|byte| *byte == 0);
    Unsettled {
        number,
        from: from as u64,
        bytes: known[from..].to_vec(),
        zeros: if clear { 0 } else { rest.len() as u64 },
    }
}

/// Makes durable what was found, and clears what is behind it; returns the segment to go on in.
pub(crate) fn settle(disk: &Disk, found: &Found) -> Result<Segment, StorageError> {
    if let Some(before) = &found.before_tail {
        before.settle(disk)?;
    }
    let tail = &found.tail;
    let number = tail.unsettled.number;
    if let Some(Cut { bytes, reason }) = tail.cut {
        let path = disk.path(&segment::name(number));
        let (path, offset) = (path.display(), tail.end);
        tracing::warn!(%path, offset, bytes, reason, "the log is cut");
    }
    tail.unsettled.settle(disk)?;
    let mut segment = Segment {
        number,
        file: disk.open_at(&segment::name(number), tail.end)?,
        place: Place::new(found.log, number),
        capacity: tail.capacity,
        position: tail.end,
        synced: tail.end,
    };
    if found.open_base {
        let mut void = Vec::new();
        let (place, end) = (&segment.place, tail.end);
        frame::encode(&mut void, place, end, end, Kind::BaseVoid, &[]);
        segment.file.write(&void)?;
        segment.file.sync()?;
        segment.position += void.len() as u64;
        segment.synced = segment.position;
    }
    disk.sync()?;
    Ok(segment)
}

impl Unsettled {
    /// Writes the same bytes again before it syncs: a system that could not write a page once may
    /// hold it for clean, and a sync alone would not try again [Rebello20].
    fn settle(&self, disk: &Disk) -> Result<(), StorageError> {
        let mut file = disk.open(&segment::name(self.number))?;
        file.seek(self.from)?;
        file.write(&self.bytes)?;
        file.write_zeros(self.zeros)?;
        file.sync()
    }
}
