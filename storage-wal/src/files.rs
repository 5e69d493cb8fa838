//! What lies in the directory.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;

use quorate_core::storage::StorageError;

use crate::disk::Disk;
use crate::identity::Deed;
use crate::segment::{self, Header};
use crate::snapshot;

/// The files of ours, each kind in ascending order of their numbers; others are left alone.
#[derive(Debug, Default)]
pub(crate) struct Files {
    pub(crate) segments: Vec<u64>,
    pub(crate) snapshots: Vec<u64>,
    /// Names of segments' files no longer needed.
    pub(crate) spares: Vec<String>,
    /// Names of files that were never finished.
    temporaries: Vec<String>,
}

impl Files {
    pub(crate) fn list(disk: &Disk) -> Result<Files, StorageError> {
        let mut files = Files::default();
        for name in disk.names()? {
            let unfinished = name.strip_suffix(".tmp");
            let stem = unfinished.unwrap_or(&name);
            let (segment, snapshot) = (segment::number(stem), snapshot::number(stem));
            match (unfinished, segment, snapshot) {
                (None, Some(number), _) => files.segments.push(number),
                (None, _, Some(number)) => files.snapshots.push(number),
                (None, None, None) if segment::is_spare(&name) => files.spares.push(name),
                (None, None, None) | (Some(_), None, None) => {}
                (Some(_), _, _) => files.temporaries.push(name),
            }
        }
        Ok(files)
    }

    /// Whether there is nothing of a log, nor of a snapshot.
    pub(crate) fn are_none(&self) -> bool {
        self.segments.is_empty() && self.snapshots.is_empty() && self.spares.is_empty()
    }

    /// Makes the first segment of a new log, unless something shows that there was one before.
    pub(crate) fn begin_log(
        &self,
        disk: &Disk,
        deed: &Deed,
        size: u64,
    ) -> Result<(), StorageError> {
        if deed.log.is_some() || !self.are_none() {
            let reason = "all segments of the log are missing";
            return Err(disk.damaged(&segment::name(1), 0, reason));
        }
        let header = Header {
            number: 1,
            log: RandomState::new().hash_one(size),
            size,
        };
        segment::make_first(disk, header)
    }

    /// Removes what was never finished, and snapshots that a newer one has replaced.
    pub(crate) fn tidy(&self, disk: &Disk) -> Result<(), StorageError> {
        for name in &self.temporaries {
            disk.remove(name)?;
        }
        let older = self.snapshots.split_last().map(|(_, older)| older);
        for number in older.unwrap_or_default() {
            snapshot::remove(disk, *number)?;
        }
        Ok(())
    }
}
