//! Files that results are written to, opened before any work is done.

use std::fs::File;
use std::io::{self, BufWriter, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::turn::Turn;

/// A file to write once.
#[derive(Debug)]
pub(crate) struct Sink {
    path: PathBuf,
    file: File,
}

impl Sink {
    /// Makes the file, or empties it.
    pub(crate) fn open(path: PathBuf) -> Result<Sink> {
        let file = File::create(&path);
        let file = file.with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Sink { path, file })
    }

    /// Makes a file for the history of each turn, if there is a path for them.
    pub(crate) fn histories(path: Option<&Path>, turns: &[Turn]) -> Result<Vec<Option<Sink>>> {
        let one = |turn: &Turn| {
            let path = path.map(|path| match turns.len() {
                1 => path.to_path_buf(),
                _ => history_of(path, &turn.stem()),
            });
            path.map(Sink::open).transpose()
        };
        turns.iter().map(one).collect()
    }

    /// Fills the file with what `write` writes.
    pub(crate) fn fill(
        self,
        write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>,
    ) -> Result<()> {
        let mut to = BufWriter::new(self.file);
        let written = write(&mut to).and_then(|()| to.flush());
        written.with_context(|| format!("cannot write {}", self.path.display()))
    }
}

/// `path` with the turn's name before the extension.
fn history_of(path: &Path, stem: &str) -> PathBuf {
    match path.extension() {
        Some(extension) => {
            let extension = extension.to_string_lossy();
            path.with_extension(format!("{stem}.{extension}"))
        }
        None => path.with_extension(stem),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_turn_has_a_history_of_its_own() {
        let named = |path: &str, stem| history_of(Path::new(path), stem);
        assert_eq!(named("a/h.jsonl", "raft"), Path::new("a/h.raft.jsonl"));
        assert_eq!(named("h", "raft"), Path::new("h.raft"));
        let second = named("h.jsonl", "raft.round-2");
        assert_eq!(second, Path::new("h.raft.round-2.jsonl"));
    }
}
