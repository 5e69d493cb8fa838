//! Persist before promise: messages wait here for the records that they rest on. A disk that hangs
//! holds no more back than is bounded.

use std::collections::VecDeque;

use crate::id::ReplicaId;
use crate::protocol::Dest;
use crate::storage::Ticket;

/// How many turns' promises are held back at most for others. Beyond that the oldest are as good as
/// lost on the way, which every protocol bears; what a replica tells itself is never lost.
const HELD: usize = 16_384;

/// Promises that wait for storage, in order.
#[derive(Debug)]
pub(super) struct Durability<M> {
    issued: Ticket,
    durable: Ticket,
    waiting: VecDeque<(Ticket, Vec<(Dest, M)>)>,
    /// The bytes of the records of each ticket that is not durable.
    unsynced: VecDeque<(Ticket, usize)>,
    unsynced_bytes: usize,
}

impl<M> Default for Durability<M> {
    fn default() -> Self {
        Durability {
            issued: Ticket(0),
            durable: Ticket(0),
            waiting: VecDeque::new(),
            unsynced: VecDeque::new(),
            unsynced_bytes: 0,
        }
    }
}

impl<M> Durability<M> {
    /// Names the next piece of work for storage, of so many bytes.
    pub(super) fn issue(&mut self, bytes: usize) -> Ticket {
        self.issued.0 += 1;
        self.unsynced.push_back((self.issued, bytes));
        self.unsynced_bytes += bytes;
        self.issued
    }

    /// The bytes of all work that is not durable.
    pub(super) fn unsynced_bytes(&self) -> usize {
        self.unsynced_bytes
    }

    /// The last piece of work named.
    pub(super) fn issued(&self) -> Ticket {
        self.issued
    }

    /// The work through which all is durable.
    pub(super) fn through(&self) -> Ticket {
        self.durable
    }

    /// Holds the `promises` of `me` back until all work issued is durable; gives them back if it is.
    pub(super) fn hold(&mut self, me: ReplicaId, promises: Vec<(Dest, M)>) -> Vec<(Dest, M)> {
        if self.durable == self.issued {
            return promises;
        }
        if !promises.is_empty() {
            self.waiting.push_back((self.issued, promises));
            self.shed(me);
        }
        Vec::new()
    }

    /// Gives up the oldest promises to others, if there are too many.
    fn shed(&mut self, me: ReplicaId) {
        let Some(newest_shed) = self.waiting.len().checked_sub(HELD + 1) else {
            return;
        };
        let Some((_, oldest)) = self.waiting.get_mut(newest_shed) else {
            return;
        };
        oldest.retain_mut(|(to, _)| match to {
            Dest::All => {
                *to = Dest::One(me);
                true
            }
            Dest::One(to) => *to == me,
            Dest::Others => false,
        });
        if oldest.is_empty() {
            self.waiting.remove(newest_shed);
        }
    }

    /// Notes that all through `ticket` is durable, and releases what waited for it.
    pub(super) fn durable(&mut self, ticket: Ticket) -> Vec<(Dest, M)> {
        self.durable = self.durable.max(ticket);
        let durable = self.durable;
        while let Some((_, bytes)) = self.unsynced.pop_front_if(|(t, _)| *t <= durable) {
            self.unsynced_bytes -= bytes;
        }
        let ready = self.waiting.iter().take_while(|(t, _)| *t <= durable);
        let count = ready.count();
        self.waiting
            .drain(..count)
            .flat_map(|(_, held)| held)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ME: ReplicaId = ReplicaId(0);
    const TO: Dest = Dest::One(ReplicaId(1));

    #[test]
    fn a_promise_waits_for_all_work_issued_before_it() {
        let mut durability = Durability::default();
        assert_eq!(durability.hold(ME, vec![(TO, "free")]).len(), 1);
        let first = durability.issue(1);
        assert!(durability.hold(ME, vec![(TO, "one")]).is_empty());
        let second = durability.issue(1);
        assert!(durability.hold(ME, vec![(TO, "two")]).is_empty());
        assert!(durability.hold(ME, vec![(TO, "three")]).is_empty());
        assert_eq!(durability.durable(first), [(TO, "one")]);
        assert_eq!(durability.durable(second), [(TO, "two"), (TO, "three")]);
        assert_eq!(durability.hold(ME, vec![(TO, "four")]).len(), 1);
    }

    #[test]
    fn what_is_not_durable_is_counted_in_bytes() {
        let mut durability = Durability::<()>::default();
        let first = durability.issue(10);
        durability.issue(5);
        let last = durability.issue(1);
        assert_eq!(durability.unsynced_bytes(), 16);
        durability.durable(first);
        assert_eq!(durability.unsynced_bytes(), 6);
        durability.durable(last);
        assert_eq!(durability.unsynced_bytes(), 0);
    }

    /// At the bound all leave; beyond it the oldest to others do not, and all to itself do.
    #[test]
    fn promises_held_back_for_others_are_bounded_and_the_oldest_give_way() {
        for beyond in [0, 3] {
            let mut durability = Durability::default();
            let ticket = durability.issue(1);
            for number in 0..HELD + beyond {
                durability.hold(ME, vec![(TO, number), (Dest::All, number)]);
            }
            let left = durability.durable(ticket);
            let to = |dest| left.iter().filter(move |(to, _)| *to == dest);
            assert_eq!(to(TO).count(), HELD);
            assert_eq!(to(TO).next(), Some(&(TO, beyond)));
            assert_eq!(to(Dest::All).count(), HELD);
            assert_eq!(to(Dest::One(ME)).count(), beyond);
        }
    }
}
