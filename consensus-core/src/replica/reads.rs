//! Reads under way through this node.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::id::Time;
use crate::machine::Keys;
use crate::protocol::ReadId;

use super::effects::ReadToken;

/// How many groups of reads are under way at most; what arrives meanwhile joins the next.
const MAX_GROUPS: usize = 4;

/// A read, as it was asked.
#[derive(Debug)]
pub(super) struct Query {
    pub(super) token: ReadToken,
    pub(super) query: Bytes,
}

/// Linearizable reads that have no answer yet. All that gather in a turn share one
/// [`ReadId`], so that confirming them costs the protocol one round.
#[derive(Debug, Default)]
pub(super) struct Reads {
    gathering: Vec<Query>,
    groups: BTreeMap<ReadId, Group>,
    /// To be asked again in the next turn: in this one enough was answered.
    postponed: Vec<Query>,
    count: usize,
    bytes: usize,
    next: u64,
}

#[derive(Debug)]
struct Group {
    queries: Vec<Query>,
    keys: Keys,
    began: Time,
    asked: Time,
}

impl Reads {
    pub(super) fn add(&mut self, query: Query) {
        self.count += 1;
        self.bytes += query.query.len();
        self.gathering.push(query);
    }

    /// Has a read asked in the next turn, that was under way.
    pub(super) fn postpone(&mut self, query: Query) {
        self.count += 1;
        self.bytes += query.query.len();
        self.postponed.push(query);
    }

    /// Whether a read waits for the next turn.
    pub(super) fn is_one_postponed(&self) -> bool {
        !self.postponed.is_empty()
    }

    /// The next turn has begun. What had to wait for it comes first, lest others overtake it for ever.
    pub(super) fn resume(&mut self) {
        self.postponed.append(&mut self.gathering);
        std::mem::swap(&mut self.gathering, &mut self.postponed);
    }

    /// The bytes of the reads under way.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// How many reads are under way.
    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// Makes a group of what has gathered, if it may be asked now. `keys` says what they touch.
    pub(super) fn due(
        &mut self,
        now: Time,
        keys: impl FnOnce(&[Query]) -> Keys,
    ) -> Option<(ReadId, Keys)> {
        if self.is_quiet() {
            return None;
        }
        let queries = std::mem::take(&mut self.gathering);
        let keys = keys(&queries);
        let id = ReadId(self.next);
        self.next += 1;
        let group = Group {
            queries,
            keys: keys.clone(),
            began: now,
            asked: now,
        };
        self.groups.insert(id, group);
        Some((id, keys))
    }

    /// Whether nothing is gathered that [`Reads::due`] could ask.
    pub(super) fn is_quiet(&self) -> bool {
        self.gathering.is_empty() || self.groups.len() >= MAX_GROUPS
    }

    /// The groups to be asked once more: those last asked at `before` or earlier.
    pub(super) fn again(&mut self, now: Time, before: Time) -> Vec<(ReadId, Keys)> {
        let old = |(_, group): &(&ReadId, &mut Group)| group.asked <= before;
        let again = |(id, group): (&ReadId, &mut Group)| {
            group.asked = now;
            (*id, group.keys.clone())
        };
        self.groups.iter_mut().filter(old).map(again).collect()
    }

    /// When the group that waits longest was last asked.
    pub(super) fn oldest(&self) -> Option<Time> {
        self.groups.values().map(|group| group.asked).min()
    }

    /// Takes the reads of an answered group; none if it was answered before.
    pub(super) fn take(&mut self, id: ReadId) -> Vec<Query> {
        let queries = self.groups.remove(&id).map_or(Vec::new(), |g| g.queries);
        self.count -= queries.len();
        self.bytes -= bytes_of(&queries);
        queries
    }

    /// Takes the reads of groups that began at `before` or earlier: nobody will answer them.
    pub(super) fn expired(&mut self, before: Time) -> Vec<Query> {
        let old = |(id, group): (&ReadId, &Group)| (group.began <= before).then_some(*id);
        let old: Vec<ReadId> = self.groups.iter().filter_map(old).collect();
        old.into_iter().flat_map(|id| self.take(id)).collect()
    }

    /// When the group that waits longest began.
    pub(super) fn began(&self) -> Option<Time> {
        self.groups.values().map(|group| group.began).min()
    }

    /// Forgets reads for which nobody waits any more, and groups of nothing else.
    pub(super) fn forget(&mut self, gone: impl Fn(ReadToken) -> bool) {
        for waiting in [&mut self.gathering, &mut self.postponed] {
            waiting.retain(|query| !gone(query.token));
        }
        self.groups.retain(|_, group| {
            group.queries.retain(|query| !gone(query.token));
            !group.queries.is_empty()
        });
        let groups = self.groups.values().map(|group| &group.queries);
        let (mut count, mut bytes) = (0, 0);
        for queries in groups.chain([&self.gathering, &self.postponed]) {
            count += queries.len();
            bytes += bytes_of(queries);
        }
        (self.count, self.bytes) = (count, bytes);
    }
}

fn bytes_of(queries: &[Query]) -> usize {
    queries.iter().map(|query| query.query.len()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(token: u64) -> Query {
        Query {
            token: ReadToken(token),
            query: Bytes::new(),
        }
    }

    #[test]
    fn reads_that_gather_share_a_group_and_are_answered_once() {
        let mut reads = Reads::default();
        assert_eq!(reads.due(Time(0), |_| Keys::All), None);
        reads.add(query(1));
        reads.add(query(2));
        let (id, _) = reads.due(Time(1), |_| Keys::All).unwrap();
        assert_eq!(reads.len(), 2);
        assert!(reads.again(Time(2), Time(0)).is_empty());
        assert_eq!(reads.again(Time(2), Time(1)), [(id, Keys::All)]);
        assert_eq!(reads.take(id).len(), 2);
        assert!(reads.take(id).is_empty());
        assert_eq!(reads.len(), 0);
    }

    #[test]
    fn reads_for_which_nobody_waits_make_room() {
        let mut reads = Reads::default();
        for token in 0..=MAX_GROUPS as u64 {
            reads.add(query(token));
            reads.due(Time(token), |_| Keys::All);
        }
        assert!(reads.is_quiet() && !reads.gathering.is_empty());
        reads.forget(|token| token.0 == 1);
        assert_eq!(reads.len(), MAX_GROUPS);
        assert!(reads.due(Time(9), |_| Keys::All).is_some());
        let expired = reads.expired(Time(2));
        let tokens: Vec<u64> = expired.iter().map(|query| query.token.0).collect();
        assert_eq!(tokens, [0, 2]);
        assert_eq!((reads.len(), reads.began()), (2, Some(Time(3))));
    }
}
