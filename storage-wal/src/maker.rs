//! The thread that makes segments ahead of time and takes back those no longer needed, so that
//! the writer never waits for zeros to be written.

use std::sync::mpsc::{Receiver, Sender};

use quorate_core::storage::StorageError;

use crate::disk::Disk;
use crate::report::Reporter;
use crate::segment::{self, Header, Segment};

/// What the maker is to do.
#[derive(Debug)]
pub(crate) enum Order {
    /// Make the segment of this number.
    Make(u64),
    /// These segments are no longer needed.
    Retire(Vec<u64>),
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
}

impl Maker {
    /// Follows orders until nobody gives any.
    pub(crate) fn run(mut self, left_over: Vec<String>) {
        let mut done = left_over.into_iter().try_for_each(|name| {
            let kept = self.keep_or_remove(&name, &name);
            kept.and_then(|()| self.disk.sync())
        });
        while done.is_ok() {
            let Ok(order) = self.orders.recv() else {
                return;
            };
            done = self.follow(order);
        }
        if let Err(error) = done {
            self.reporter.fail(error);
        }
    }

    fn follow(&mut self, order: Order) -> Result<(), StorageError> {
        match order {
            Order::Make(number) => {
                let header = Header {
                    number,
                    log: self.log,
                    size: self.size,
                };
                let spare = self.spares.pop();
                let segment = segment::make(&self.disk, header, spare.as_deref())?;
                // The writer has gone if nobody takes it: the next life will find it.
                self.made.send(segment).ok();
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
