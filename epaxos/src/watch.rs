//! When to look at which instance again: who recovers what, and when.

use std::collections::{BTreeMap, BTreeSet};

use quorate_core::id::{EntryId, Lane, ReplicaId, Slot, Time};
use quorate_core::protocol::Dest;

use crate::instances::lane_of;
use crate::message::{MAX_ASKED, Message};
use crate::mutant::Mutant;
use crate::replica::{EPaxos, Out};

/// How often an instance is asked for before it is recovered, where others know it committed.
const ASKED_FIRST: u32 = 3;

/// How often the wait for a recovery of another's is doubled at most.
const MAX_STOOD_BACK: u32 = 1;

/// Instances, each with the time at which it is due.
#[derive(Clone, Debug, Default)]
pub(crate) struct Deadlines {
    by_time: BTreeSet<(Time, EntryId)>,
    of: BTreeMap<EntryId, Time>,
}

impl Deadlines {
    /// `id` is due at `at`, and at no other time.
    pub(crate) fn set(&mut self, id: EntryId, at: Time) {
        if let Some(before) = self.of.insert(id, at) {
            self.by_time.remove(&(before, id));
        }
        self.by_time.insert((at, id));
    }

    /// `id` is not due any more.
    pub(crate) fn remove(&mut self, id: EntryId) {
        if let Some(at) = self.of.remove(&id) {
            self.by_time.remove(&(at, id));
        }
    }

    pub(crate) fn contains(&self, id: EntryId) -> bool {
        self.of.contains_key(&id)
    }

    /// When `id` is due, if it is.
    pub(crate) fn due(&self, id: EntryId) -> Option<Time> {
        self.of.get(&id).copied()
    }

    /// When the first is due.
    pub(crate) fn first(&self) -> Option<Time> {
        self.by_time.first().map(|(at, _)| *at)
    }

    /// Takes those that are due.
    pub(crate) fn take_due(&mut self, now: Time) -> Vec<EntryId> {
        let mut due = Vec::new();
        while let Some((at, id)) = self.by_time.first().copied()
            && at <= now
        {
            self.remove(id);
            due.push(id);
        }
        due
    }
}

/// A part of a lane, whose instances are looked after.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Part {
    /// From the first that is not committed.
    Lowest,
    /// From the first that peers have not trimmed.
    BeyondTrimmed,
}

/// Which instances of a part are looked after.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Watched {
    /// Through which slot they were considered.
    through: Slot,
    /// Through which slot there are more, for which there was no room, and since when.
    outside: Option<(Slot, Time)>,
}

impl EPaxos {
    /// Looks after instances that have been known for long and are not committed: asks those who
    /// know what was decided, and recovers what nobody is known to know.
    pub(crate) fn look_after(&mut self, now: Time, out: &mut Out) {
        let mut asked: BTreeMap<ReplicaId, Vec<EntryId>> = BTreeMap::new();
        for id in self.watched.take_due(now) {
            if self.instances.is_committed(id) {
                continue;
            }
            if self.leading.contains_key(&id) {
                let wait = self.drawn(self.config.recover_after, 0);
                self.watched.set(id, now + wait);
                continue;
            }
            let trouble = self.troubles.entry(id).or_default();
            let tries = trouble.tries;
            trouble.tries = trouble.tries.saturating_add(1);
            let turn = usize::try_from(tries).unwrap_or(usize::MAX);
            match self.who_knows(id, turn) {
                Some(peer) if tries % (ASKED_FIRST + 1) < ASKED_FIRST => {
                    asked.entry(peer).or_default().push(id);
                    self.watched.set(id, now + self.config.retransmit);
                }
                _ => {
                    let wait = self.drawn(self.config.recover_after, tries.max(self.unheard));
                    self.watched.set(id, now + wait);
                    self.recover(now, id, out);
                }
            }
        }
        for (peer, ids) in asked {
            for ids in ids.chunks(MAX_ASKED) {
                let ids = ids.to_vec();
                out.send(Dest::One(peer), Message::Learn { ids });
            }
        }
    }

    /// One of the peers that know `id` committed, another at each turn.
    fn who_knows(&self, id: EntryId, turn: usize) -> Option<ReplicaId> {
        let knows = |peer: &ReplicaId| {
            let peer = self.peers.get(peer.index());
            peer.is_some_and(|peer| peer.committed.contains(id))
        };
        let who: Vec<ReplicaId> = self.peers_of(self.me).filter(knows).collect();
        who.get(turn % who.len().max(1)).copied()
    }

    /// Leaves an instance to another, which has begun to recover it, for long enough if it is able to. Where it is not,
    /// this replica may be the only one that is: it puts its own turn off only as far as that needs, not each time
    /// for as long as after a recovery of its own that came to nothing.
    pub(crate) fn stand_back(&mut self, now: Time, id: EntryId) {
        let tries = self.tries(id);
        if self.config.mutated(Mutant::StandsBackAsLong) {
            let wait = self.drawn(self.config.recover_after, tries);
            return self.watched.set(id, now + wait);
        }
        let at = now + self.drawn(self.config.recover_after, (tries / 2).min(MAX_STOOD_BACK));
        let due = self.watched.due(id).unwrap_or(at);
        self.watched.set(id, at.max(due));
    }

    /// Gives up what others have joined higher ballots for, of which it may hear in no other way, and begins anew in a
    /// higher one when they have had time to end what they began.
    pub(crate) fn try_higher(&mut self, now: Time, id: EntryId) {
        self.abandon(id);
        let tries = self.tries(id);
        let wait = self.drawn(self.config.recover_after, tries / 2);
        self.watched.set(id, now + wait);
    }

    fn tries(&self, id: EntryId) -> u32 {
        self.troubles.get(&id).map_or(0, |trouble| trouble.tries)
    }

    /// Considers the instances heard of since, and begins to look after those not committed: of
    /// each lane the first that are not, and the first beyond what peers have trimmed, which need
    /// not be known.
    pub(crate) fn watch_more(&mut self, now: Time) {
        for lane in ReplicaId::all(self.sizes.n).map(lane_of) {
            let through = self.instances.committed().through(lane);
            self.watch_from(now, (lane, Part::Lowest), through);
            let beyond = self.known_beyond_adopted(lane);
            if beyond > through {
                self.watch_from(now, (lane, Part::BeyondTrimmed), beyond);
            }
        }
    }

    /// Through which slot of `lane` everything is committed beyond what peers have trimmed.
    fn known_beyond_adopted(&self, lane: Lane) -> Slot {
        let mut slot = self.adopted_through(lane);
        let is_known = |slot| self.instances.is_committed(EntryId { lane, slot });
        while slot > Slot::ZERO && is_known(slot.next()) {
            slot = slot.next();
        }
        slot
    }

    fn watch_from(&mut self, now: Time, part: (Lane, Part), through: Slot) {
        let lane = part.0;
        let (height, most) = (self.instances.height(lane), self.config.max_watched as u64);
        let mut watched = self.watched_through.get(&part).copied().unwrap_or_default();
        let last = height.min(Slot(through.0 + most));
        for slot in watched.through.max(through).0 + 1..=last.0 {
            let id = EntryId {
                lane,
                slot: Slot(slot),
            };
            if !self.instances.is_committed(id) && !self.watched.contains(id) {
                let wait = self.drawn(self.config.recover_after, self.unheard);
                // What there was no room for has been waiting since.
                let since = watched.outside.filter(|(height, _)| slot <= height.0);
                let since = since.map_or(now, |(_, since)| since);
                self.watched.set(id, now.max(since + wait));
            }
        }
        watched.through = watched.through.max(last);
        watched.outside = watched.outside.filter(|(height, _)| *height > last);
        if last < height && !self.config.mutated(Mutant::EachLookedAfterLate) {
            watched.outside.get_or_insert((height, now));
        }
        self.watched_through.insert(part, watched);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_core::id::Slot;

    #[test]
    fn an_instance_is_due_once_and_when_it_was_last_said_to_be() {
        let id = |slot| EntryId::single(Slot(slot));
        let mut deadlines = Deadlines::default();
        deadlines.set(id(1), Time(5));
        deadlines.set(id(2), Time(6));
        deadlines.set(id(1), Time(9));
        assert_eq!(deadlines.first(), Some(Time(6)));
        assert_eq!(deadlines.take_due(Time(8)), [id(2)]);
        assert!(deadlines.contains(id(1)) && !deadlines.contains(id(2)));
        deadlines.remove(id(1));
        assert_eq!(deadlines.take_due(Time(9)), []);
    }
}
