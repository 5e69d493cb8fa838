//! Writing in whole blocks, as a file wants it that is written past the system's cache: the last
//! block, which is full in part, is kept, and written again together with what follows.
//!
//! What of it was durable is written again as it was, so that a crash can do no more to it than where the
//! system writes a page of its cache again.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};

/// A multiple of what all disks and memories in use want writes to begin and end at.
pub(crate) const BLOCK: usize = 4096;

/// The most that is written at a time.
const MOST: usize = 512 << 10;

/// Where a file is being written, and the beginning of its last block.
#[derive(Debug)]
pub(crate) struct Blocks {
    memory: Vec<u8>,
    /// Where in the memory the blocks begin, themselves at a multiple of a block.
    first: usize,
    /// How many bytes of the last block are there.
    kept: usize,
    /// Where in the file it begins.
    position: u64,
}

impl Blocks {
    /// Goes on at `position`; none if the file cannot be written in blocks there.
    pub(crate) fn at(mut file: &File, position: u64) -> io::Result<Option<Blocks>> {
        let memory = vec![0; MOST + BLOCK];
        let kept = (position % BLOCK as u64) as usize;
        let mut blocks = Blocks {
            first: memory.as_ptr().align_offset(BLOCK),
            memory,
            kept,
            position: position - kept as u64,
        };
        file.seek(SeekFrom::Start(blocks.position))?;
        let Some(block) = blocks.room().and_then(|room| room.get_mut(..BLOCK)) else {
            return Ok(None);
        };
        match file.read_exact(block) {
            Ok(()) => Ok(Some(blocks)),
            // The file system takes no such file, or wants larger blocks, or the file ends here.
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::InvalidInput | ErrorKind::UnexpectedEof
                ) =>
            {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    fn room(&mut self) -> Option<&mut [u8]> {
        self.memory.get_mut(self.first..self.first + MOST)
    }

    /// Writes on, and zeros to the end of the last block.
    pub(crate) fn write(&mut self, mut file: &File, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let (kept, position) = (self.kept, self.position);
            let room = self.room().unwrap_or_default();
            let (now, later) = bytes.split_at(bytes.len().min(room.len() - kept));
            let end = kept + now.len();
            room[kept..end].copy_from_slice(now);
            let blocks = &mut room[..end.next_multiple_of(BLOCK)];
            blocks[end..].fill(0);
            file.seek(SeekFrom::Start(position))?;
            file.write_all(blocks)?;
            let whole = end - end % BLOCK;
            blocks.copy_within(whole..end, 0);
            self.kept = end - whole;
            self.position += whole as u64;
            bytes = later;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_what_is_there() {
        let file = tempfile::tempfile().unwrap();
        let mut expected = vec![7; 10 * BLOCK];
        (&file).write_all(&expected).unwrap();
        let mut position = 3 * BLOCK + 40;
        let mut blocks = Blocks::at(&file, position as u64).unwrap().unwrap();
        let sizes = [
            0,
            1,
            100,
            BLOCK - 141,
            0,
            8,
            BLOCK,
            3 * BLOCK + 17,
            MOST,
            3 * MOST + 1,
        ];
        for (fill, size) in (100..).zip(sizes) {
            let bytes = vec![fill; size];
            blocks.write(&file, &bytes).unwrap();
            let end = position + size;
            let padded = end.next_multiple_of(BLOCK);
            if expected.len() < padded {
                expected.resize(padded, 0);
            }
            expected[position..end].copy_from_slice(&bytes);
            if size > 0 {
                expected[end..padded].fill(0);
            }
            position = end;
            let mut found = Vec::new();
            (&file).seek(SeekFrom::Start(0)).unwrap();
            (&file).read_to_end(&mut found).unwrap();
            assert!(found == expected, "after {size} bytes through {end}");
        }
    }

    #[test]
    fn a_file_that_ends_there_is_not_written_in_blocks() {
        let file = tempfile::tempfile().unwrap();
        (&file).write_all(&[1; 100]).unwrap();
        assert!(Blocks::at(&file, 40).unwrap().is_none());
    }
}
