//! What the tests of the facade share.

use std::io::{self, Read, Write};

use bytes::Bytes;
use quorate::{RestoreError, StateMachine};

/// Counts its commands' bytes, and panics at commands that are no text and at all queries but the
/// empty one.
#[derive(Default)]
pub(crate) struct Counter(u64);

impl StateMachine for Counter {
    fn apply(&mut self, command: &[u8]) -> Bytes {
        let sound = std::str::from_utf8(command);
        self.0 += sound.expect("commands are text").len() as u64;
        self.query(b"")
    }

    fn query(&self, query: &[u8]) -> Bytes {
        assert!(query.is_empty(), "there is one query only");
        self.0.to_string().into()
    }

    fn snapshot(&self, to: &mut dyn Write) -> io::Result<()> {
        to.write_all(&self.0.to_le_bytes())
    }

    fn restore(&mut self, from: &mut dyn Read) -> Result<(), RestoreError> {
        let mut bytes = [0; 8];
        from.read_exact(&mut bytes)?;
        self.0 = u64::from_le_bytes(bytes);
        Ok(())
    }
}
