//! Messages that nobody waits for: each leaves together with the next that goes to the same replica.

use std::time::Duration;

use crate::id::{ReplicaSet, Time};
use crate::protocol::Dest;

/// How long a message waits for another at most. `docs/performance.md` has what it brings.
pub(super) const LINGER: Duration = Duration::from_millis(1);

/// Messages that wait for company, in order, each with those that it has not left for.
#[derive(Debug)]
pub(super) struct Lingering<M> {
    waiting: Vec<(ReplicaSet, M)>,
    /// When all leave, with company or without.
    until: Option<Time>,
}

impl<M> Default for Lingering<M> {
    fn default() -> Self {
        Lingering {
            waiting: Vec::new(),
            until: None,
        }
    }
}

impl<M: Clone> Lingering<M> {
    /// Takes a message for the replicas `to`.
    pub(super) fn add(&mut self, now: Time, to: ReplicaSet, message: M) {
        if !to.is_empty() {
            self.until.get_or_insert(now + LINGER);
            self.waiting.push((to, message));
        }
    }

    /// When [`Lingering::join`] must be called next.
    pub(super) fn deadline(&self) -> Option<Time> {
        self.until
    }

    /// Puts before what is `leaving` all that waits for the same replicas; all that waits, once it has
    /// waited long enough. `others` are all replicas but this one.
    pub(super) fn join(&mut self, now: Time, others: ReplicaSet, leaving: &mut Vec<(Dest, M)>) {
        let Some(until) = self.until else { return };
        let served = match until <= now {
            true => others,
            false => destinations(leaving, others),
        };
        if served.is_empty() {
            return;
        }
        let mut joined = Vec::with_capacity(self.waiting.len() + leaving.len());
        self.waiting.retain_mut(|(to, message)| {
            if *to == others && served == others {
                joined.push((Dest::Others, message.clone()));
                return false;
            }
            for replica in to.iter().filter(|replica| served.contains(*replica)) {
                joined.push((Dest::One(replica), message.clone()));
            }
            *to = to.without(served);
            !to.is_empty()
        });
        joined.append(leaving);
        *leaving = joined;
        if self.waiting.is_empty() {
            self.until = None;
        }
    }
}

/// Where something goes.
fn destinations<M>(leaving: &[(Dest, M)], others: ReplicaSet) -> ReplicaSet {
    let mut served = ReplicaSet::EMPTY;
    for (to, _) in leaving {
        match to {
            Dest::One(replica) => served.insert(*replica),
            Dest::Others | Dest::All => return others,
        };
    }
    served
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::ReplicaId;

    const ONE: ReplicaId = ReplicaId(1);
    const TWO: ReplicaId = ReplicaId(2);

    fn others() -> ReplicaSet {
        [ONE, TWO].into_iter().collect()
    }

    fn joined(
        lingering: &mut Lingering<&'static str>,
        now: u64,
        leaving: &[(Dest, &'static str)],
    ) -> Vec<(Dest, &'static str)> {
        let mut leaving = leaving.to_vec();
        lingering.join(Time(now), others(), &mut leaving);
        leaving
    }

    #[test]
    fn what_lingers_leaves_with_the_next_message_to_each_replica() {
        let mut lingering = Lingering::default();
        lingering.add(Time(0), others(), "news");
        assert_eq!(joined(&mut lingering, 1, &[]), []);
        let vote = (Dest::One(TWO), "vote");
        assert_eq!(
            joined(&mut lingering, 2, &[vote]),
            [(Dest::One(TWO), "news"), vote]
        );
        assert_eq!(joined(&mut lingering, 3, &[vote]), [vote]);
        let all = (Dest::Others, "all");
        assert_eq!(
            joined(&mut lingering, 4, &[all]),
            [(Dest::One(ONE), "news"), all]
        );
        assert_eq!(lingering.deadline(), None);
        assert_eq!(joined(&mut lingering, 5, &[all]), [all]);
    }

    #[test]
    fn what_lingers_for_all_leaves_once_for_all() {
        let mut lingering = Lingering::default();
        lingering.add(Time(0), others(), "first");
        lingering.add(Time(0), others(), "second");
        let all = (Dest::Others, "all");
        let expected = [(Dest::Others, "first"), (Dest::Others, "second"), all];
        assert_eq!(joined(&mut lingering, 1, &[all]), expected);
    }

    #[test]
    fn nothing_lingers_longer_than_it_may() {
        let mut lingering = Lingering::default();
        lingering.add(Time(5), others(), "first");
        lingering.add(Time(6), ReplicaSet::from_iter([ONE]), "second");
        let until = Time(5) + LINGER;
        assert_eq!(lingering.deadline(), Some(until));
        assert_eq!(joined(&mut lingering, until.0 - 1, &[]), []);
        let expected = [(Dest::Others, "first"), (Dest::One(ONE), "second")];
        assert_eq!(joined(&mut lingering, until.0, &[]), expected);
        assert_eq!(lingering.deadline(), None);
    }
}
