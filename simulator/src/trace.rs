//! What happened in a world: always as a hash, on demand as lines to read.

use std::fmt;

use quorate_core::id::ReplicaId;

use crate::conditions::MILLISECOND;

/// Someone in a world.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Party {
    /// A client, by its number.
    Client(usize),
    /// A replica.
    Replica(ReplicaId),
}

impl fmt::Display for Party {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Party::Client(number) => write!(f, "c{number}"),
            Party::Replica(replica) => replica.fmt(f),
        }
    }
}

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It arrived; it had been sent at this instant.
    Arrived {
        /// In nanoseconds of virtual time.
        sent: u64,
    },
    /// It was lost.
    Lost,
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Happening {
    /// A message arrived, or was lost.
    Message {
        /// Who sent it.
        from: Party,
        /// To whom.
        to: Party,
        /// Its kind.
        kind: String,
        /// All that it says.
        text: String,
        /// What became of it.
        fate: Fate,
    },
    /// Something happened to or in one party.
    Local {
        /// Whom it concerns.
        party: Party,
        /// What.
        text: String,
        /// Whether it stands in diagrams too.
        notable: bool,
    },
    /// Something happened to the world.
    World(String),
}

/// A line of a trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// When, in nanoseconds of virtual time.
    pub at: u64,
    /// What.
    pub what: Happening,
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>12.6} ms  ", self.at as f64 / MILLISECOND as f64)?;
        match &self.what {
            Happening::Message {
                from,
                to,
                text,
                fate,
                ..
            } => match fate {
                Fate::Arrived { .. } => write!(f, "{from} -> {to}  {text}"),
                Fate::Lost => write!(f, "{from} -x {to}  {text}"),
            },
            Happening::Local { party, text, .. } => write!(f, "{party}        {text}"),
            Happening::World(text) => write!(f, "--        {text}"),
        }
    }
}

/// The trace of a world.
#[derive(Debug)]
pub(crate) struct Trace {
    hash: Hash,
    lines: Option<Vec<Line>>,
}

impl Trace {
    pub(crate) fn new(record: bool) -> Self {
        Trace {
            hash: Hash::default(),
            lines: record.then(Vec::new),
        }
    }

    /// Takes in an event by what tells it from others, and keeps its line if lines are wanted.
    pub(crate) fn note(&mut self, at: u64, words: &[u64], what: impl FnOnce() -> Happening) {
        self.hash.word(at);
        words.iter().for_each(|word| self.hash.word(*word));
        if let Some(lines) = &mut self.lines {
            lines.push(Line { at, what: what() });
        }
    }

    pub(crate) fn hash(&self) -> u64 {
        self.hash.finish()
    }

    /// The lines so far.
    pub(crate) fn lines(&self) -> &[Line] {
        self.lines.as_deref().unwrap_or_default()
    }

    pub(crate) fn into_lines(self) -> Vec<Line> {
        self.lines.unwrap_or_default()
    }
}

/// A fast 64-bit hash. It tells different runs apart, and is no defence against anyone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Hash(u64);

impl Hash {
    pub(crate) fn word(&mut self, word: u64) {
        // Multiplication by the golden ratio spreads low bits upwards, the rotation downwards.
        self.0 = (self.0.rotate_left(23) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    pub(crate) fn finish(&self) -> u64 {
        let folded = self.0 ^ (self.0 >> 32);
        folded.wrapping_mul(0xd6e8_feb8_6659_fd93) ^ (folded >> 29)
    }

    /// The hash of `bytes`.
    pub(crate) fn of(bytes: &[u8]) -> u64 {
        let mut hash = Hash(bytes.len() as u64);
        let (words, rest) = bytes.as_chunks::<8>();
        words.iter().for_each(|w| hash.word(u64::from_le_bytes(*w)));
        rest.iter().for_each(|byte| hash.word(u64::from(*byte)));
        hash.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_depends_on_every_word_and_its_place() {
        assert_ne!(Hash::of(b"abcdefgh"), Hash::of(b"abcdefgi"));
        assert_ne!(Hash::of(b"ab"), Hash::of(b"ba"));
        assert_ne!(Hash::of(b""), Hash::of(&[0]));
    }

    #[test]
    fn lines_are_kept_only_on_demand_and_do_not_change_the_hash() {
        let (mut silent, mut recorded) = (Trace::new(false), Trace::new(true));
        for trace in [&mut silent, &mut recorded] {
            trace.note(5, &[1, 2], || Happening::World(String::from("healed")));
        }
        assert_eq!(silent.hash(), recorded.hash());
        assert!(silent.lines().is_empty());
        assert!(recorded.lines()[0].to_string().contains("healed"));
    }
}
