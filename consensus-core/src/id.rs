//! Names of replicas, lanes, slots and instants.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A replica, by its index in the membership: `0..n`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ReplicaId(pub u8);

impl ReplicaId {
    /// The position of this replica in a vector that has one element a replica.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }

    /// All replicas of a cluster of `n`.
    pub fn all(n: usize) -> impl DoubleEndedIterator<Item = ReplicaId> + ExactSizeIterator {
        debug_assert!(n <= MAX_REPLICAS);
        (0..n as u8).map(ReplicaId)
    }
}

impl fmt::Debug for ReplicaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "r{}", self.0)
    }
}

impl fmt::Display for ReplicaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "r{}", self.0)
    }
}

/// The largest cluster: a [`ReplicaSet`] is one machine word.
pub const MAX_REPLICAS: usize = 64;

/// A set of replicas; adding one twice changes nothing.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ReplicaSet(u64);

impl ReplicaSet {
    /// The empty set.
    pub const EMPTY: ReplicaSet = ReplicaSet(0);

    /// Adds `replica`; true if it was not yet a member.
    pub fn insert(&mut self, replica: ReplicaId) -> bool {
        let bit = 1 << replica.0;
        let new = self.0 & bit == 0;
        self.0 |= bit;
        new
    }

    /// Removes `replica`; true if it was a member.
    pub fn remove(&mut self, replica: ReplicaId) -> bool {
        let bit = 1 << replica.0;
        let was = self.0 & bit != 0;
        self.0 &= !bit;
        was
    }

    /// The members that are not in `other`.
    pub fn without(self, other: ReplicaSet) -> ReplicaSet {
        ReplicaSet(self.0 & !other.0)
    }

    /// Whether `replica` is a member.
    pub fn contains(self, replica: ReplicaId) -> bool {
        self.0 & (1 << replica.0) != 0
    }

    /// The number of members.
    pub fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    /// Whether there is no member.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The members, in ascending order.
    pub fn iter(self) -> impl Iterator<Item = ReplicaId> {
        (0..MAX_REPLICAS as u8)
            .map(ReplicaId)
            .filter(move |replica| self.contains(*replica))
    }
}

impl FromIterator<ReplicaId> for ReplicaSet {
    fn from_iter<I: IntoIterator<Item = ReplicaId>>(replicas: I) -> Self {
        let mut set = ReplicaSet::EMPTY;
        for replica in replicas {
            set.insert(replica);
        }
        set
    }
}

impl fmt::Debug for ReplicaSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

/// An independent sequence of slots. Protocols with one log use lane 0; EPaxos has a lane a
/// replica.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Lane(pub u8);

impl fmt::Debug for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "l{}", self.0)
    }
}

/// A position in a lane. The first is 1; 0 stands for "before the first".
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Slot(pub u64);

impl Slot {
    /// Before the first slot.
    pub const ZERO: Slot = Slot(0);

    /// The slot after this one.
    pub fn next(self) -> Slot {
        Slot(self.0 + 1)
    }

    /// The slot before this one; of [`Slot::ZERO`], itself.
    pub fn previous(self) -> Slot {
        Slot(self.0.saturating_sub(1))
    }
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// What a protocol orders, by name: a slot of a lane.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct EntryId {
    /// The lane.
    pub lane: Lane,
    /// The slot in the lane.
    pub slot: Slot,
}

impl EntryId {
    /// A slot of the only lane of a protocol with one log.
    pub fn single(slot: Slot) -> EntryId {
        EntryId {
            lane: Lane(0),
            slot,
        }
    }
}

impl fmt::Debug for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.lane.0, self.slot.0)
    }
}

/// An instant: nanoseconds since this replica started, on its own monotonic clock. Instants of
/// different replicas, or from before a restart, do not compare.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(pub u64);

impl Time {
    /// When the replica started.
    pub const ZERO: Time = Time(0);

    /// How long after `earlier` this is; zero if it is not after.
    pub fn since(self, earlier: Time) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl std::ops::Add<Duration> for Time {
    type Output = Time;

    fn add(self, duration: Duration) -> Time {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        Time(self.0.saturating_add(nanos))
    }
}

impl fmt::Debug for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.6}ms", self.0 as f64 / 1e6)
    }
}

/// A moment of the outside world's time: nanoseconds since the Unix epoch, without leap seconds.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct UnixTime(pub u64);

impl UnixTime {
    /// The next moment that can be told from this one.
    pub fn next(self) -> UnixTime {
        UnixTime(self.0.saturating_add(1))
    }

    /// How far apart two moments are, whichever is the earlier.
    pub fn distance(self, other: UnixTime) -> Duration {
        Duration::from_nanos(self.0.abs_diff(other.0))
    }
}

impl std::ops::Add<Duration> for UnixTime {
    type Output = UnixTime;

    fn add(self, duration: Duration) -> UnixTime {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        UnixTime(self.0.saturating_add(nanos))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replica_is_in_a_set_once() {
        let mut set = ReplicaSet::EMPTY;
        assert!(set.insert(ReplicaId(3)));
        assert!(!set.insert(ReplicaId(3)));
        assert!(set.insert(ReplicaId(63)));
        assert_eq!(set.len(), 2);
        assert_eq!(
            set.iter().collect::<Vec<_>>(),
            [ReplicaId(3), ReplicaId(63)]
        );
        assert!(set.remove(ReplicaId(3)));
        assert!(!set.remove(ReplicaId(3)));
    }

    #[test]
    fn time_saturates() {
        assert_eq!(Time(5).since(Time(9)), Duration::ZERO);
        assert_eq!(Time(5) + Duration::MAX, Time(u64::MAX));
    }
}
