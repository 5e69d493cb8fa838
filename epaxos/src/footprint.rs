//! What a command touches, as replicas keep it and tell each other.

use std::cmp::Ordering;
use std::fmt;

use bytes::Bytes;
use quorate_core::crypto::Digest;
use quorate_core::machine::Keys;
use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A key, by the first 64 bits of its SHA-256 digest. Two keys of one mark cost their commands an
/// order between them that they would not need, and nothing else.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Mark(u64);

impl Mark {
    /// The mark of a key.
    pub fn of(key: &[u8]) -> Mark {
        let Digest(digest) = Digest::of(key);
        let first = digest.iter().take(8);
        Mark(first.fold(0, |mark, byte| mark << 8 | u64::from(*byte)))
    }

    /// All bits of it, each as likely to be set as not.
    pub(crate) fn bits(self) -> u64 {
        self.0
    }
}

/// What a command touches.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Footprint {
    /// Everything: it conflicts with every other command.
    All,
    /// These keys only.
    Some {
        /// Those it reads and does not write.
        reads: Marks,
        /// Those it may write.
        writes: Marks,
    },
}

impl Footprint {
    /// Whether the order of the two matters.
    pub fn conflicts(&self, other: &Footprint) -> bool {
        match (self, other) {
            (
                Footprint::Some { reads, writes },
                Footprint::Some {
                    reads: their_reads,
                    writes: their_writes,
                },
            ) => {
                writes.meets(their_writes) || writes.meets(their_reads) || reads.meets(their_writes)
            }
            _ => true,
        }
    }
}

impl From<&Keys> for Footprint {
    fn from(keys: &Keys) -> Footprint {
        match keys {
            Keys::All => Footprint::All,
            Keys::Some { reads, writes } => {
                let writes = Marks::of(writes);
                let mut reads = Marks::of(reads);
                reads.0.retain(|mark| writes.0.binary_search(mark).is_err());
                Footprint::Some { reads, writes }
            }
        }
    }
}

/// A set of marks, written as the bytes of all of them.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Marks(
    /// Ascending.
    Vec<Mark>,
);

impl Marks {
    fn of(keys: &[Bytes]) -> Marks {
        let mut marks: Vec<Mark> = keys.iter().map(|key| Mark::of(key)).collect();
        marks.sort_unstable();
        marks.dedup();
        Marks(marks)
    }

    /// The marks, ascending.
    pub fn iter(&self) -> impl Iterator<Item = Mark> {
        self.0.iter().copied()
    }

    fn meets(&self, other: &Marks) -> bool {
        let (mut mine, mut theirs) = (self.iter().peekable(), other.iter().peekable());
        while let (Some(one), Some(other)) = (mine.peek(), theirs.peek()) {
            match one.cmp(other) {
                Ordering::Less => mine.next(),
                Ordering::Greater => theirs.next(),
                Ordering::Equal => return true,
            };
        }
        false
    }
}

impl Serialize for Marks {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let bytes: Vec<u8> = self.iter().flat_map(|mark| mark.0.to_be_bytes()).collect();
        serializer.serialize_bytes(&bytes)
    }
}

impl<'de> Deserialize<'de> for Marks {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_bytes(ReadMarks)
    }
}

struct ReadMarks;

impl Visitor<'_> for ReadMarks {
    type Value = Marks;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("marks of keys, eight bytes each, ascending")
    }

    fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Marks, E> {
        let (marks, rest) = bytes.as_chunks();
        let marks: Vec<Mark> = marks
            .iter()
            .map(|mark| Mark(u64::from_be_bytes(*mark)))
            .collect();
        match rest.is_empty() && marks.is_sorted_by(|one, next| one < next) {
            true => Ok(Marks(marks)),
            false => Err(E::custom("marks of keys out of order, or cut off")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_core::codec;

    fn keys(reads: &[&str], writes: &[&str]) -> Keys {
        let owned = |keys: &[&str]| keys.iter().map(|k| Bytes::from(k.to_string())).collect();
        Keys::Some {
            reads: owned(reads),
            writes: owned(writes),
        }
    }

    #[test]
    fn footprints_conflict_where_their_keys_do() {
        let sets: [&[&str]; 5] = [&[], &["a"], &["b"], &["b", "a", "b"], &["b", "c", "d"]];
        let pairs = || sets.iter().flat_map(|r| sets.iter().map(|w| keys(r, w)));
        let all: Vec<Keys> = pairs().chain([Keys::All]).collect();
        for one in &all {
            for other in &all {
                let conflict = Footprint::from(one).conflicts(&Footprint::from(other));
                assert_eq!(conflict, one.conflicts(other), "{one:?} {other:?}");
            }
        }
    }

    #[test]
    fn marks_are_the_same_on_every_machine() {
        // The first bytes of the digest of "abc" in FIPS 180-4.
        assert_eq!(Mark::of(b"abc"), Mark(0xba78_16bf_8f01_cfea));
    }

    #[test]
    fn marks_are_read_as_written_and_refused_if_cut_off_or_out_of_order() {
        let marks = Marks(vec![Mark(1), Mark(2), Mark(u64::MAX)]);
        let written = codec::encode(&marks).unwrap();
        assert_eq!(written.len(), 1 + 3 * 8);
        assert_eq!(codec::decode::<Marks>("marks", &written).unwrap(), marks);
        let of_bytes = |bytes: &[u8]| {
            let bytes = Bytes::copy_from_slice(bytes);
            codec::decode::<Marks>("marks", &codec::encode(&bytes).unwrap())
        };
        assert!(of_bytes(&written[1..]).is_ok());
        assert!(of_bytes(&written[1..24]).is_err());
        let of_numbers = |numbers: [u64; 2]| of_bytes(&numbers.map(u64::to_be_bytes).concat());
        assert!(of_numbers([1, 9]).is_ok());
        assert!(of_numbers([9, 1]).is_err());
        assert!(of_numbers([1, 1]).is_err());
    }
}
