//! The thread that writes the log: whatever has gathered while it was syncing goes out together.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError};
use std::time::{Duration, Instant};

use quorate_core::storage::{Records, StorageError, Ticket};

use crate::frame::{self, FRAME_BYTES, Kind};
use crate::lives::Durable;
use crate::maker::Order;
use crate::mark::{Mark, Marks};
use crate::report::{Reporter, Stopped};
use crate::segment::{HEADER_BYTES, Segment};
use crate::stats::WalStats;

/// No more than this is gathered before it is written; the buffer stays in the processor's cache.
const WRITE_BYTES: usize = 512 << 10;

/// No more than about this is written before it is synced, so that no append waits for all that
/// others have yet to give.
const GROUP_BYTES: usize = 8 << 20;

/// A buffer that one large record made larger than this is given back.
const BUFFER_BYTES: usize = 2 << 20;

/// While work never ceases, a mark is written when so many times [`Writer::mark_after`] have passed.
const BUSY: u32 = 50;

/// Work for the writer.
#[derive(Debug)]
pub(crate) struct Append {
    pub(crate) ticket: Ticket,
    pub(crate) replaces: bool,
    pub(crate) records: Records,
}

/// Why the writer ends before its time.
enum Failure {
    Storage(StorageError),
    /// Another thread has failed, and has said so.
    Told,
}

impl From<StorageError> for Failure {
    fn from(error: StorageError) -> Self {
        Failure::Storage(error)
    }
}

impl From<Stopped> for Failure {
    fn from(_: Stopped) -> Self {
        Failure::Told
    }
}

/// Writes the log.
pub(crate) struct Writer {
    pub(crate) work: Receiver<Append>,
    pub(crate) orders: Sender<Order>,
    pub(crate) made: Receiver<Segment>,
    pub(crate) reporter: Reporter,
    pub(crate) stats: WalStats,
    /// Where it is said how far all is durable.
    pub(crate) durable: Durable,
    pub(crate) mark_after: Duration,
    /// The log's identity.
    pub(crate) log: u64,
    pub(crate) marks: Marks,
    /// When the last of them was written.
    pub(crate) marked: Instant,
    /// The oldest segment that is needed.
    pub(crate) first: u64,
    /// The segment being written.
    pub(crate) segment: Segment,
    pub(crate) pending: Pending,
    /// The last append of which all is written, as far as it was not told that it is durable.
    pub(crate) written: Option<Ticket>,
}

/// What is on its way to the disk.
#[derive(Default)]
pub(crate) struct Pending {
    /// Frames not yet written.
    buffer: Vec<u8>,
    /// Something was written that was not yet synced.
    unsynced: bool,
    /// Records were synced that no later frame says were.
    unmarked: bool,
}

impl Writer {
    /// Works until nobody can give any more, and leaves all that was given durable.
    pub(crate) fn run(mut self) {
        if let Err(Failure::Storage(error)) = self.work() {
            self.reporter.fail(error);
        }
    }

    fn work(&mut self) -> Result<(), Failure> {
        while let Some(append) = self.next()? {
            let last = self.commit(append)?;
            self.durable.reach(self.segment.durable());
            self.reporter.durable(last)?;
            if self.marked.elapsed() >= self.mark_after.saturating_mul(BUSY) {
                self.vouch(false);
            }
        }
        self.mark(true)?;
        self.sync()
    }

    /// Says beside the log how far it is durable. It is no failure if that cannot be written: it was
    /// said before, of less.
    fn vouch(&mut self, closed: bool) {
        let mark = Mark {
            closed,
            ..self.segment.mark(self.log)
        };
        let written = self.marks.write(mark);
        let durable = match closed {
            true => written.and_then(|()| self.marks.sync()),
            false => written,
        };
        if let Err(error) = durable {
            tracing::warn!(%error, "how far the log is durable cannot be marked");
        }
        self.marked = Instant::now();
    }

    /// Waits for work. When there is none for a while, says in the log that all of it is durable,
    /// so that damage to its last records can be told from a torn write.
    fn next(&mut self) -> Result<Option<Append>, Failure> {
        if self.pending.unmarked {
            match self.work.recv_timeout(self.mark_after) {
                Ok(append) => return Ok(Some(append)),
                Err(RecvTimeoutError::Disconnected) => return Ok(None),
                Err(RecvTimeoutError::Timeout) => self.mark(false)?,
            }
        }
        Ok(self.work.recv().ok())
    }

    /// Makes durable `append` and all that has gathered; returns the last ticket.
    fn commit(&mut self, mut append: Append) -> Result<Ticket, Failure> {
        let mut bytes = 0;
        loop {
            let last = append.ticket;
            bytes += append.records.size();
            if append.replaces {
                self.rewrite(&append.records)?;
            } else {
                self.put_all(&append.records)?;
            }
            self.written = Some(last);
            if bytes < GROUP_BYTES {
                match self.work.try_recv() {
                    Ok(next) => {
                        append = next;
                        continue;
                    }
                    Err(TryRecvError::Empty | TryRecvError::Disconnected) => {}
                }
            }
            self.sync()?;
            self.written = None;
            return Ok(last);
        }
    }

    /// Writes a base, in a segment of its own; the older segments are needed until it is durable.
    fn rewrite(&mut self, records: &Records) -> Result<(), Failure> {
        if self.segment.position > HEADER_BYTES as u64 {
            self.roll()?;
        }
        let base = self.segment.number;
        self.put(Kind::Base, &[])?;
        self.put_all(records)?;
        self.put(Kind::BaseEnd, &[])?;
        self.sync()?;
        self.order(Order::Retire((self.first..base).collect()))?;
        self.first = base;
        Ok(())
    }

    fn put_all(&mut self, records: &Records) -> Result<(), Failure> {
        for record in records.iter() {
            if u32::try_from(record.len()).is_err() {
                return Err(Failure::Storage(self.segment.file.too_large(record.len())));
            }
            self.put(Kind::Record, record)?;
        }
        Ok(())
    }

    /// Adds a frame. One that fits into no segment makes the file of an otherwise empty one grow.
    fn put(&mut self, kind: Kind, payload: &[u8]) -> Result<(), Failure> {
        if !self.fits(payload.len()) && self.segment.position > HEADER_BYTES as u64 {
            self.roll()?;
        }
        self.pending.unmarked = true;
        self.push(kind, payload)
    }

    /// Whether a frame of this payload leaves room for the seal.
    fn fits(&self, payload: usize) -> bool {
        let size = (frame::size(payload) + FRAME_BYTES) as u64;
        self.segment.position + size <= self.segment.capacity
    }

    fn push(&mut self, kind: Kind, payload: &[u8]) -> Result<(), Failure> {
        let Segment {
            place,
            position,
            synced,
            ..
        } = &mut self.segment;
        frame::encode(
            &mut self.pending.buffer,
            place,
            *position,
            *synced,
            kind,
            payload,
        );
        *position += frame::size(payload.len()) as u64;
        if self.pending.buffer.len() >= WRITE_BYTES {
            self.write()?;
        }
        Ok(())
    }

    /// Goes on in the next segment, once all of this one is durable. That there is a next one must
    /// be certain before this one says so.
    fn roll(&mut self) -> Result<(), Failure> {
        let next = match self.made.try_recv() {
            Ok(next) => next,
            // There may be no room for it: nothing else is to wait for that.
            Err(TryRecvError::Empty) => {
                self.sync()?;
                if let Some(written) = self.written.take() {
                    self.durable.reach(self.segment.durable());
                    self.reporter.durable(written)?;
                }
                self.made.recv().map_err(|_| self.segment.file.no_next())?
            }
            Err(TryRecvError::Disconnected) => return Err(self.segment.file.no_next().into()),
        };
        self.push(Kind::Seal, &[])?;
        self.sync()?;
        self.segment = next;
        self.vouch(false);
        self.order(Order::Make(self.segment.number + 1))
    }

    fn order(&self, order: Order) -> Result<(), Failure> {
        self.orders.send(order).map_err(|_| Failure::Told)
    }

    /// Says that all before this place is durable, in the log and beside it.
    fn mark(&mut self, closed: bool) -> Result<(), Failure> {
        if self.pending.unmarked || closed {
            self.vouch(closed);
        }
        if self.pending.unmarked && self.fits(0) {
            self.push(Kind::Mark, &[])?;
            self.write()?;
        }
        self.pending.unmarked = false;
        Ok(())
    }

    fn write(&mut self) -> Result<(), Failure> {
        let buffer = &mut self.pending.buffer;
        if !buffer.is_empty() {
            self.segment.file.write(buffer)?;
            self.stats.count_bytes(buffer.len());
            buffer.clear();
            buffer.shrink_to(BUFFER_BYTES);
            self.pending.unsynced = true;
        }
        Ok(())
    }

    fn sync(&mut self) -> Result<(), Failure> {
        self.write()?;
        if self.pending.unsynced {
            self.segment.file.sync()?;
            self.stats.count_sync();
            self.pending.unsynced = false;
            self.segment.synced = self.segment.position;
        }
        Ok(())
    }
}
