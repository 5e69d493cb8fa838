//! The directory and its files: each failure becomes a [`StorageError`] that names the file, and
//! tests can bring failures about.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use quorate_core::storage::StorageError;

use crate::blocks::{BLOCK, Blocks};

/// What is written at a time when a file is filled with zeros. It is synced before the next, for
/// syncs of the log queue behind it: all of a segment at once holds them up for 10 ms.
static ZEROS: [u8; 1 << 20] = [0; 1 << 20];

const NEVER: u64 = u64::MAX;

/// Brings about failures of the disk, for tests. Clones share their counts.
#[derive(Clone, Debug)]
pub struct Faults(Arc<Remaining>);

#[derive(Debug)]
struct Remaining {
    syncs: AtomicU64,
    bytes: AtomicU64,
    room: AtomicU64,
}

impl Default for Faults {
    /// Nothing fails.
    fn default() -> Self {
        Faults(Arc::new(Remaining {
            syncs: AtomicU64::new(NEVER),
            bytes: AtomicU64::new(NEVER),
            room: AtomicU64::new(NEVER),
        }))
    }
}

impl Faults {
    /// Lets so many more syncs of files succeed; all later ones fail.
    pub fn fail_syncs_after(&self, syncs: u64) {
        self.0.syncs.store(syncs, Ordering::Relaxed);
    }

    /// Lets so many more bytes be written; then the disk is full.
    pub fn fill_after(&self, bytes: u64) {
        self.0.bytes.store(bytes, Ordering::Relaxed);
    }

    /// Lets files grow by so many bytes together, and by those of files that are removed; then the
    /// disk is full. What is written in place of other bytes takes no room.
    pub fn limit_room(&self, bytes: u64) {
        self.0.room.store(bytes, Ordering::Relaxed);
    }

    /// The room that is left.
    pub fn room_left(&self) -> u64 {
        self.0.room.load(Ordering::Relaxed)
    }

    fn free(&self, bytes: u64) {
        let update = |left: u64| (left != NEVER).then_some(left.saturating_add(bytes));
        self.0
            .room
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, update)
            .ok();
    }

    fn sync(&self) -> io::Result<()> {
        let update = |left: u64| match left {
            NEVER => Some(NEVER),
            left => left.checked_sub(1),
        };
        let left = &self.0.syncs;
        left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, update)
            .map(drop)
            .map_err(|_| io::Error::other("injected failure of a sync"))
    }

    /// How many of `wanted` bytes may be written, of which a file will be so many longer.
    fn room(&self, wanted: usize, longer: u64) -> usize {
        let wanted = wanted as u64;
        let grown = take(&self.0.room, longer);
        take(&self.0.bytes, wanted).min(wanted - (longer - grown)) as usize
    }
}

/// Takes `wanted` of what is left, or all of it.
fn take(left: &AtomicU64, wanted: u64) -> u64 {
    let update = |left: u64| match left {
        NEVER => Some(NEVER),
        left => Some(left.saturating_sub(wanted)),
    };
    let before = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, update);
    wanted.min(before.unwrap_or(NEVER))
}

/// One directory.
#[derive(Clone, Debug)]
pub(crate) struct Disk {
    path: PathBuf,
    faults: Faults,
}

impl Disk {
    /// The directory of this path, which need not exist.
    pub(crate) fn new(path: &Path, faults: Faults) -> Disk {
        Disk {
            path: path.to_path_buf(),
            faults,
        }
    }

    /// Makes the directory, and those above it, as far as there are none, and makes that durable.
    pub(crate) fn make(&self) -> Result<(), StorageError> {
        let missing: Vec<&Path> = self
            .path
            .ancestors()
            .take_while(|path| !path.as_os_str().is_empty() && !path.exists())
            .collect();
        for path in missing.into_iter().rev() {
            private_directory()
                .create(path)
                .map_err(refused("create", path))?;
            sync_parent(path)?;
        }
        make_private(&self.path).map_err(refused("change the permissions of", &self.path))?;
        // One that is there may have been made without having been made durable.
        sync_parent(&self.path)
    }

    /// Says so if others than the owner can look into the directory.
    pub(crate) fn check_private(&self) {
        if let Some(mode) = open_to_others(&self.path) {
            let path = self.path.display();
            let mode = format_args!("{mode:04o}");
            tracing::warn!(%path, %mode, "others can read this replica's data: it should be 0700");
        }
    }

    /// Whether there is such a directory.
    pub(crate) fn exists(&self) -> Result<bool, StorageError> {
        self.path.try_exists().map_err(refused("read", &self.path))
    }

    /// Whether there is a file of this name.
    pub(crate) fn holds(&self, name: &str) -> Result<bool, StorageError> {
        let path = self.path(name);
        path.try_exists().map_err(refused("read", &path))
    }

    /// The path, for people.
    pub(crate) fn display(&self) -> String {
        self.path.display().to_string()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Keeps other processes out, as long as the file is open.
    pub(crate) fn lock(&self) -> Result<File, StorageError> {
        let path = self.path("lock");
        let mut options = private_file();
        options.create(true).truncate(false).write(true);
        let file = options.open(&path).map_err(refused("open", &path))?;
        match file.try_lock() {
            Ok(()) => Ok(file),
            Err(TryLockError::WouldBlock) => Err(StorageError::InUse {
                path: self.display(),
            }),
            Err(TryLockError::Error(error)) => Err(refused("lock", &path)(error)),
        }
    }

    /// The names of all files whose names are text, sorted.
    pub(crate) fn names(&self) -> Result<Vec<String>, StorageError> {
        let list = || -> io::Result<Vec<String>> {
            let mut names = Vec::new();
            for entry in fs::read_dir(&self.path)? {
                names.extend(entry?.file_name().into_string());
            }
            names.sort_unstable();
            Ok(names)
        };
        list().map_err(refused("list", &self.path))
    }

    pub(crate) fn create(&self, name: &str) -> Result<DiskFile, StorageError> {
        if self.holds(name)? {
            self.faults.free(self.len(name)?);
        }
        let mut options = private_file();
        self.file(name, options.create(true).truncate(true).write(true))
    }

    pub(crate) fn open(&self, name: &str) -> Result<DiskFile, StorageError> {
        let mut options = OpenOptions::new();
        self.file(name, options.write(true))
    }

    /// Opens the file of a segment to go on at `position`: past the system's cache if that can be
    /// done and the file has whole blocks, since a sync has less to do then.
    pub(crate) fn open_at(&self, name: &str, position: u64) -> Result<DiskFile, StorageError> {
        let path = self.path(name);
        if self.len(name)?.is_multiple_of(BLOCK as u64)
            && let Some(file) = open_past_cache(&path).map_err(refused("open", &path))?
            && let Some(blocks) = Blocks::at(&file, position).map_err(refused("read", &path))?
        {
            return Ok(DiskFile {
                file,
                path,
                position,
                length: self.len(name)?,
                blocks: Some(blocks),
                faults: self.faults.clone(),
            });
        }
        let mut file = self.open(name)?;
        file.seek(position)?;
        Ok(file)
    }

    fn file(&self, name: &str, options: &OpenOptions) -> Result<DiskFile, StorageError> {
        let path = self.path(name);
        let file = options.open(&path).map_err(refused("open", &path))?;
        let metadata = file.metadata().map_err(refused("read", &path))?;
        Ok(DiskFile {
            file,
            path,
            position: 0,
            length: metadata.len(),
            blocks: None,
            faults: self.faults.clone(),
        })
    }

    pub(crate) fn read(&self, name: &str) -> Result<Vec<u8>, StorageError> {
        let path = self.path(name);
        fs::read(&path).map_err(refused("read", &path))
    }

    /// The first bytes of a file, at most `limit`.
    pub(crate) fn read_start(&self, name: &str, limit: u64) -> Result<Vec<u8>, StorageError> {
        let path = self.path(name);
        let read = || -> io::Result<Vec<u8>> {
            let mut bytes = Vec::new();
            File::open(&path)?.take(limit).read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        read().map_err(refused("read", &path))
    }

    pub(crate) fn len(&self, name: &str) -> Result<u64, StorageError> {
        let path = self.path(name);
        let metadata = fs::metadata(&path).map_err(refused("read", &path))?;
        Ok(metadata.len())
    }

    pub(crate) fn rename(&self, from: &str, to: &str) -> Result<(), StorageError> {
        let replaced = match self.holds(to)? {
            true => self.len(to)?,
            false => 0,
        };
        let from = self.path(from);
        fs::rename(&from, self.path(to)).map_err(refused("rename", &from))?;
        self.faults.free(replaced);
        Ok(())
    }

    pub(crate) fn remove(&self, name: &str) -> Result<(), StorageError> {
        let (path, length) = (self.path(name), self.len(name)?);
        fs::remove_file(&path).map_err(refused("remove", &path))?;
        self.faults.free(length);
        Ok(())
    }

    /// Makes names given, changed and removed durable.
    pub(crate) fn sync(&self) -> Result<(), StorageError> {
        sync_directory(&self.path)
    }

    pub(crate) fn damaged(&self, name: &str, offset: u64, reason: &str) -> StorageError {
        StorageError::Damaged {
            path: self.path(name).display().to_string(),
            offset,
            reason: String::from(reason),
        }
    }
}

/// A file that is being written.
#[derive(Debug)]
pub(crate) struct DiskFile {
    file: File,
    path: PathBuf,
    /// Where the next write begins.
    position: u64,
    length: u64,
    /// If it is written past the system's cache.
    blocks: Option<Blocks>,
    faults: Faults,
}

impl DiskFile {
    /// Writes on from where the last write, or seek, ended.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), StorageError> {
        let end = self.position + bytes.len() as u64;
        let longer = end.saturating_sub(self.length.max(self.position));
        let room = self.faults.room(bytes.len(), longer);
        let (now, never) = bytes.split_at(room);
        let mut written = match &mut self.blocks {
            Some(blocks) => blocks.write(&self.file, now),
            None => self.file.write_all(now),
        };
        if written.is_ok() && !never.is_empty() {
            written = Err(io::Error::from(io::ErrorKind::StorageFull));
        }
        self.position += room as u64;
        self.length = self.length.max(self.position);
        written.map_err(refused("write", &self.path))
    }

    /// What to say when a record cannot be written because of its length.
    pub(crate) fn too_large(&self, length: usize) -> StorageError {
        StorageError::Io {
            action: "write",
            path: self.path.display().to_string(),
            reason: format!("a record of {length} bytes is larger than the format allows"),
        }
    }

    /// What to say when the log cannot go on, because there is no room for the file to follow.
    pub(crate) fn no_next(&self) -> StorageError {
        StorageError::Full {
            action: "make the segment after",
            path: self.path.display().to_string(),
        }
    }

    pub(crate) fn write_zeros(&mut self, mut length: u64) -> Result<(), StorageError> {
        while length > 0 {
            let some = length.min(ZEROS.len() as u64);
            self.write(&ZEROS[..some as usize])?;
            length -= some;
            if length > 0 {
                self.sync()?;
            }
        }
        Ok(())
    }

    pub(crate) fn seek(&mut self, position: u64) -> Result<(), StorageError> {
        let sought = self.file.seek(SeekFrom::Start(position));
        self.position = position;
        sought.map(drop).map_err(refused("seek in", &self.path))
    }

    /// Makes the contents durable, and as much of the metadata as is needed to read them.
    pub(crate) fn sync(&self) -> Result<(), StorageError> {
        let synced = self.faults.sync().and_then(|()| self.file.sync_data());
        synced.map_err(refused("sync", &self.path))
    }
}

/// What the system refused, for an `action` on `path`.
pub(crate) fn refused(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StorageError {
    move |error| match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StorageError::Full {
            action,
            path: path.display().to_string(),
        },
        _ => StorageError::Io {
            action,
            path: path.display().to_string(),
            reason: error.to_string(),
        },
    }
}

/// Opens a file to read and write past the system's cache, if its file system has that.
#[cfg(target_os = "linux")]
fn open_past_cache(path: &Path) -> io::Result<Option<File>> {
    use std::os::unix::fs::OpenOptionsExt as _;

    let mut options = OpenOptions::new();
    options.read(true).write(true).custom_flags(libc::O_DIRECT);
    match options.open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(None),
        Err(error) => Err(error),
    }
}

/// Other systems have other ways, which are not taken.
#[cfg(not(target_os = "linux"))]
fn open_past_cache(_: &Path) -> io::Result<Option<File>> {
    Ok(None)
}

/// What makes a directory that only its owner can look into.
fn private_directory() -> DirBuilder {
    #[allow(unused_mut)]
    let mut builder = DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder
}

/// What opens a file that, if it is made, only its owner can read.
fn private_file() -> OpenOptions {
    #[allow(unused_mut)]
    let mut options = OpenOptions::new();
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

/// The directory's permissions, if others than its owner have any.
#[cfg(unix)]
fn open_to_others(path: &Path) -> Option<u32> {
    use std::os::unix::fs::PermissionsExt as _;

    let mode = fs::metadata(path).ok()?.permissions().mode() & 0o777;
    (mode & 0o077 != 0).then_some(mode)
}

#[cfg(unix)]
fn make_private(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;

    match open_to_others(path) {
        Some(mode) => fs::set_permissions(path, fs::Permissions::from_mode(mode & 0o700)),
        None => Ok(()),
    }
}

/// Other systems have other permissions, which are not looked at.
#[cfg(not(unix))]
fn open_to_others(_: &Path) -> Option<u32> {
    None
}

#[cfg(not(unix))]
fn make_private(_: &Path) -> io::Result<()> {
    Ok(())
}

fn sync_parent(path: &Path) -> Result<(), StorageError> {
    let parent = path.parent().filter(|path| !path.as_os_str().is_empty());
    sync_directory(parent.unwrap_or(Path::new(".")))
}

#[cfg(unix)]
fn sync_directory(path: &Path) -> Result<(), StorageError> {
    let synced = File::open(path).and_then(|directory| directory.sync_all());
    synced.map_err(refused("sync", path))
}

/// Only Unix lets a directory be opened and synced as a file.
#[cfg(not(unix))]
fn sync_directory(_: &Path) -> Result<(), StorageError> {
    Ok(())
}
