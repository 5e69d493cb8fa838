//! The thread that makes segments ahead of time and takes back those no longer needed, so that
//! the writer never waits for zeros to be written.
//!
//! Where there is no room for a segment it tries again until there is: the present one may have room
//! for a while, and a rewrite may free others meanwhile.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::Duration;

use quorate_core::storage::StorageError;

use crate::disk::Disk;
use crate::report::{Reporter, Want};
use crate::segment::{self, Header, Segment};

/// How soon it is looked again whether there is room: after this, and then after twice as long each
/// time, for what is written until it turns out that there is none is written in vain.
pub(crate) const LOOK_FOR_ROOM: Duration = Duration::from_millis(250);

/// The longest that it is waited.
pub(crate) const LOOK_AT_LEAST: Duration = Duration::from_secs(4);

/// What the maker is to do.
#[derive(Debug)]
pub(crate) enum Order {
    /// Make the segment of this number.
    Make(u64),
    /// These segments are no longer needed.
    Retire(Vec<u64>),
    /// The log is being closed: nobody waits for room any more.
    Close,
}

/// Makes segments.
pub(crate) struct Maker {
    pub(crate) disk: Disk,
    pub(crate) log: u64,
    /// The bytes of a segment.
    pub(crate) size: u64,
    /// The most files to keep for later segments.
    pub(crate) keep: usize,
    /// The names of those kept.
    pub(crate) spares: Vec<String>,
    pub(crate) orders: Receiver<Order>,
    pub(crate) made: Sender<Segment>,
    pub(crate) reporter: Reporter,
    /// The segment that is to be made as soon as there is room.
    pub(crate) wanted: Option<u64>,
    /// When to look for that room again.
    pub(crate) wait: Duration,
    pub(crate) closing: bool,
}

impl Maker {
    /// Follows orders until nobody gives any.
    pub(crate) fn run(mut self, left_over: Vec<String>) {
        let mut done = left_over.into_iter().try_for_each(|name| {
            let kept = self.keep_or_remove(&name, &name);
            kept.and_then(|()| self.disk.sync())
        });
        while done.is_ok() {
            let order = match self.wanted {
                None => self.orders.recv().map_err(RecvTimeoutError::from),
                Some(_) => self.orders.recv_timeout(self.wait),
            };
            done = match order {
                Ok(order) => self.follow(order),
                Err(RecvTimeoutError::Timeout) => Ok(()),
                Err(RecvTimeoutError::Disconnected) => return,
            };
            done = done.and_then(|()| self.make());
            if done.is_ok() && self.closing && self.wanted.is_some() {
                // Whether that is a failure, the writer knows, who may wait for it.
                return;
            }
        }
        if let Err(error) = done {
            self.reporter.fail(error);
        }
    }

    /// Makes the segment that is wanted, if there is one, and room for it.
    fn make(&mut self) -> Result<(), StorageError> {
        let Some(number) = self.wanted else {
            return Ok(());
        };
        let header = Header {
            number,
            log: self.log,
            size: self.size,
        };
        let spare = self.spares.last();
        match segment::make(&self.disk, header, spare.map(String::as_str)) {
            Ok(segment) => {
                self.spares.pop();
                self.wanted = None;
                self.wait = LOOK_FOR_ROOM;
                self.reporter.room(Want::Segment, Ok(()));
                // The writer has gone if nobody takes it: the next life will find it.
                self.made.send(segment).ok();
                Ok(())
            }
            Err(error @ StorageError::Full { .. }) => {
                segment::give_up(&self.disk, number)?;
                self.wait = (self.wait * 2).min(LOOK_AT_LEAST);
                self.reporter.room(Want::Segment, Err(&error));
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    fn follow(&mut self, order: Order) -> Result<(), StorageError> {
        match order {
            Order::Make(number) => {
                self.wanted = Some(number);
                Ok(())
            }
            Order::Close => {
                self.closing = true;
                Ok(())
            }
            Order::Retire(numbers) => {
                for number in numbers {
                    self.keep_or_remove(&segment::name(number), &segment::spare_name(number))?;
                }
                // A spare must not get another header while it may still have its old name.
                self.disk.sync()
            }
        }
    }

    /// Keeps the file `name` as `spare`, if it has the right size and not too many are kept.
    fn keep_or_remove(&mut self, name: &str, spare: &str) -> Result<(), StorageError> {
        if self.spares.len() >= self.keep || self.disk.len(name)? != self.size {
            return self.disk.remove(name);
        }
        if name != spare {
            self.disk.rename(name, spare)?;
        }
        self.spares.push(String::from(spare));
        Ok(())
    }
}
