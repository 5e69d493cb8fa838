//! What one replica cannot check alone: that all of them do the same.

use std::collections::BTreeMap;

use quorate_core::codec;
use quorate_core::crypto::Digest;
use quorate_core::frontier::Frontier;
use quorate_core::id::{EntryId, ReplicaId};
use quorate_core::protocol::{Commit, Order};

use crate::report::{Finding, Rule, disagreement};
use crate::trace::Hash;

/// The world's memory of all that was executed, whoever has crashed since.
#[derive(Debug)]
pub(crate) struct Checker {
    order: Order,
    /// The order, as the replica that came first executed it.
    entries: Vec<Executed>,
    places: BTreeMap<EntryId, usize>,
    leaders: BTreeMap<u64, ReplicaId>,
    states: BTreeMap<Vec<u8>, (ReplicaId, Digest)>,
}

#[derive(Debug)]
struct Executed {
    id: EntryId,
    content: u64,
    first: ReplicaId,
}

impl Checker {
    pub(crate) fn new(order: Order) -> Self {
        Checker {
            order,
            entries: Vec::new(),
            places: BTreeMap::new(),
            leaders: BTreeMap::new(),
            states: BTreeMap::new(),
        }
    }

    /// How many entries the order has.
    pub(crate) fn entries(&self) -> usize {
        self.entries.len()
    }

    /// How many leaders there have been.
    pub(crate) fn leaders(&self) -> usize {
        self.leaders.len()
    }

    /// At which place of the order a replica goes on that has executed `applied`.
    pub(crate) fn place(&self, applied: &Frontier) -> usize {
        let executed = |entry: &&Executed| applied.contains(entry.id);
        self.entries.iter().take_while(executed).count()
    }

    /// `replica`, which had come to `place`, executed an entry. It may leave out entries only if
    /// it has `installed` a snapshot that holds their effects.
    pub(crate) fn executed(
        &mut self,
        replica: ReplicaId,
        place: &mut usize,
        installed: bool,
        commit: &Commit,
    ) -> Result<(), Finding> {
        let content = Hash::of(commit.batch.bytes());
        let (found, next) = (self.places.get(&commit.id).copied(), self.entries.len());
        let at = found.unwrap_or(next);
        match self.entries.get(at) {
            Some(known) if known.content != content => {
                let with = format!("{} another batch there", known.first);
                return Err(disagreement(replica, &with, entry(commit)));
            }
            Some(_) => {}
            None => {
                self.places.insert(commit.id, next);
                self.entries.push(Executed {
                    id: commit.id,
                    content,
                    first: replica,
                });
            }
        }
        if self.order == Order::Total {
            // After a snapshot it may even be the first to execute the next entry of all.
            let in_order = at == *place || (installed && at > *place);
            if !in_order {
                let with = format!("as number {} and not {}", *place + 1, at + 1);
                return Err(disagreement(replica, &with, entry(commit)));
            }
            *place = at + 1;
        }
        Ok(())
    }

    /// Some replica says that `leader` leads in `regime`.
    pub(crate) fn led(&mut self, regime: u64, leader: ReplicaId) -> Result<(), Finding> {
        match *self.leaders.entry(regime).or_insert(leader) {
            known if known == leader => Ok(()),
            known => Err((
                Rule::OneLeader,
                format!("{known} and {leader} both lead in regime {regime}"),
            )),
        }
    }

    /// `replica` had this state after it had executed `at`.
    pub(crate) fn state(
        &mut self,
        replica: ReplicaId,
        at: &Frontier,
        digest: Digest,
    ) -> Result<(), Finding> {
        let Ok(key) = codec::encode(at) else {
            return Ok(());
        };
        let (other, theirs) = *self.states.entry(key).or_insert((replica, digest));
        match theirs == digest {
            true => Ok(()),
            false => Err((
                Rule::EqualState,
                format!(
                    "{replica} and {other} have executed the same, {at:?}, and have different \
                     states, {digest:?} and {theirs:?}"
                ),
            )),
        }
    }
}

fn entry(commit: &Commit) -> String {
    format!("{:?} {:?}", commit.id, commit.batch)
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_core::crypto::PublicKey;
    use quorate_core::id::Slot;
    use quorate_core::request::{Batch, Operation, Request, SessionId};

    const A: ReplicaId = ReplicaId(0);
    const B: ReplicaId = ReplicaId(1);

    fn commit(slot: u64, sequence: u64) -> Commit {
        let session = SessionId {
            client: PublicKey([1; 32]),
            number: 1,
        };
        Commit {
            id: EntryId::single(Slot(slot)),
            batch: Batch::of_one(Request {
                session,
                sequence,
                answered: 0,
                operation: Operation::Apply(b"x"),
            }),
            checkpoint: false,
            agreed: None,
        }
    }

    fn rule(finding: Result<(), Finding>) -> Option<Rule> {
        finding.err().map(|(rule, _)| rule)
    }

    #[test]
    fn replicas_must_execute_the_same_in_the_same_order() {
        let mut checker = Checker::new(Order::Total);
        let (mut a, mut b) = (0, 0);
        for slot in 1..=3 {
            checker
                .executed(A, &mut a, false, &commit(slot, slot))
                .unwrap();
        }
        checker.executed(B, &mut b, false, &commit(1, 1)).unwrap();
        let skips = checker.executed(B, &mut b.clone(), false, &commit(3, 3));
        assert_eq!(rule(skips), Some(Rule::Agreement));
        let differs = checker.executed(B, &mut b.clone(), false, &commit(2, 9));
        assert_eq!(rule(differs), Some(Rule::Agreement));
        let installs = checker.executed(B, &mut b, true, &commit(3, 3));
        assert_eq!((rule(installs), b), (None, 3));
        let (mut c, goes_on) = (0, commit(4, 4));
        let first = checker.executed(ReplicaId(2), &mut c, true, &goes_on);
        assert_eq!((rule(first), c), (None, 4));
        let again = checker.executed(B, &mut b, true, &commit(2, 2));
        assert_eq!(rule(again), Some(Rule::Agreement));
        assert_eq!(checker.place(&Frontier::single(Slot(2))), 2);
    }

    #[test]
    fn a_regime_has_one_leader_and_a_frontier_one_state() {
        let mut checker = Checker::new(Order::Total);
        checker.led(1, A).unwrap();
        checker.led(1, A).unwrap();
        checker.led(2, B).unwrap();
        assert_eq!(rule(checker.led(2, A)), Some(Rule::OneLeader));
        let at = Frontier::single(Slot(4));
        checker.state(A, &at, Digest::of(b"x")).unwrap();
        checker.state(B, &at, Digest::of(b"x")).unwrap();
        let other = checker.state(B, &at, Digest::of(b"y"));
        assert_eq!(rule(other), Some(Rule::EqualState));
    }
}
