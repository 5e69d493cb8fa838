//! What a command touches, as replicas keep it and tell each other.

use std::cmp::Ordering;
use std::collections::BTreeSet;

use bytes::Bytes;
use quorate_core::crypto::Digest;
use quorate_core::machine::Keys;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

/// A key, by the first 64 bits of its SHA-256 digest. Two keys of one mark cost their commands an
/// order between them that they would not need, and nothing else.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
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
            Keys::Some { reads, writes } => Footprint::Some {
                reads: Marks::of(reads.difference(writes)),
                writes: Marks::of(writes),
            },
        }
    }
}

/// A set of marks.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
#[serde(transparent)]
pub struct Marks(
    /// Ascending.
    Vec<Mark>,
);

impl Marks {
    fn of<'a>(keys: impl IntoIterator<Item = &'a Bytes>) -> Marks {
        let marks: BTreeSet<Mark> = keys.into_iter().map(|key| Mark::of(key)).collect();
        Marks(marks.into_iter().collect())
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

impl<'de> Deserialize<'de> for Marks {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let marks = Vec::<Mark>::deserialize(deserializer)?;
        match marks.is_sorted_by(|one, next| one < next) {
            true => Ok(Marks(marks)),
            false => Err(D::Error::custom("marks of keys out of order")),
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
        let sets: [&[&str]; 5] = [&[], &["a"], &["b"], &["a", "b"], &["b", "c", "d"]];
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
    fn marks_out_of_order_are_refused() {
        let encoded = |marks: Vec<u64>| codec::encode(&marks).unwrap();
        assert!(codec::decode::<Marks>("marks", &encoded(vec![1, 2, 9])).is_ok());
        assert!(codec::decode::<Marks>("marks", &encoded(vec![1, 9, 2])).is_err());
        assert!(codec::decode::<Marks>("marks", &encoded(vec![1, 1])).is_err());
    }
}
