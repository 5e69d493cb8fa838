//! Persist before promise: messages wait here for the records that they rest on.

use std::collections::VecDeque;

use crate::protocol::Dest;
use crate::storage::Ticket;

/// Promises that wait for storage, in order.
#[derive(Debug)]
pub(super) struct Durability<M> {
    issued: Ticket,
    durable: Ticket,
    waiting: VecDeque<(Ticket, Vec<(Dest, M)>)>,
}

impl<M> Default for Durability<M> {
    fn default() -> Self {
        Durability {
            issued: Ticket(0),
            durable: Ticket(0),
            waiting: VecDeque::new(),
        }
    }
}

impl<M> Durability<M> {
    /// Names the next piece of work for storage.
    pub(super) fn issue(&mut self) -> Ticket {
        self.issued.0 += 1;
        self.issued
    }

    /// The last piece of work named.
    pub(super) fn issued(&self) -> Ticket {
        self.issued
    }

    /// The work through which all is durable.
    pub(super) fn through(&self) -> Ticket {
        self.durable
    }

    /// Holds `promises` back until all work issued is durable; gives them back if it is.
    pub(super) fn hold(&mut self, promises: Vec<(Dest, M)>) -> Vec<(Dest, M)> {
        if self.durable == self.issued {
            return promises;
        }
        if !promises.is_empty() {
            self.waiting.push_back((self.issued, promises));
        }
        Vec::new()
    }

    /// Notes that all through `ticket` is durable, and releases what waited for it.
    pub(super) fn durable(&mut self, ticket: Ticket) -> Vec<(Dest, M)> {
        self.durable = self.durable.max(ticket);
        let durable = self.durable;
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
    use crate::id::ReplicaId;

    const TO: Dest = Dest::One(ReplicaId(1));

    #[test]
    fn a_promise_waits_for_all_work_issued_before_it() {
        let mut durability = Durability::default();
        assert_eq!(durability.hold(vec![(TO, "free")]).len(), 1);
        let first = durability.issue();
        assert!(durability.hold(vec![(TO, "one")]).is_empty());
        let second = durability.issue();
        assert!(durability.hold(vec![(TO, "two")]).is_empty());
        assert!(durability.hold(vec![(TO, "three")]).is_empty());
        assert_eq!(durability.durable(first), [(TO, "one")]);
        assert_eq!(durability.durable(second), [(TO, "two"), (TO, "three")]);
        assert_eq!(durability.hold(vec![(TO, "four")]).len(), 1);
    }
}
