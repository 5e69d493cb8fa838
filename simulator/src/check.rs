//! What one replica cannot check alone: that all of them do the same.

use std::collections::BTreeMap;

use quorate_core::codec;
use quorate_core::crypto::Digest;
use quorate_core::frontier::Frontier;
use quorate_core::id::{EntryId, ReplicaId};
use quorate_core::protocol::{Commit, Order};

use crate::key_order::{KeyOrder, Writes};
use crate::report::{Finding, Rule, disagreement};
use crate::trace::Hash;

/// The world's memory of all that was executed, whoever has crashed since.
#[derive(Debug)]
pub(crate) struct Checker {
    order: Order,
    /// What was executed, in the order in which the replicas that came first did. Under
    /// [`Order::Total`] this is the order.
    entries: Vec<Executed>,
    /// The order under [`Order::PerKey`].
    keys: KeyOrder,
    places: BTreeMap<EntryId, usize>,
    leaders: BTreeMap<u64, ReplicaId>,
    states: BTreeMap<Vec<u8>, (ReplicaId, Digest)>,
}

/// How far a replica has come.
#[derive(Clone, Debug, Default)]
pub(crate) struct Place {
    /// How many entries it has executed.
    pub(crate) entries: usize,
    /// The writes among them; not counted under [`Order::Total`].
    writes: Writes,
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
            keys: KeyOrder::default(),
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

    /// Where a replica goes on that has executed `applied`.
    pub(crate) fn place(&self, applied: &Frontier) -> Place {
        let executed = |entry: &&Executed| applied.contains(entry.id);
        match self.order {
            Order::Total => Place {
                entries: self.entries.iter().take_while(executed).count(),
                writes: Writes::new(),
            },
            Order::PerKey => Place {
                entries: self.entries.iter().filter(executed).count(),
                writes: self.keys.done(applied),
            },
        }
    }

    /// `replica`, which had come to `place`, executed an entry. It may leave out entries only if
    /// it has `installed` a snapshot that holds their effects.
    pub(crate) fn executed(
        &mut self,
        replica: ReplicaId,
        place: &mut Place,
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
        let in_order = match self.order {
            // After a snapshot it may even be the first to execute the next entry of all.
            Order::Total if at == place.entries || (installed && at > place.entries) => {
                place.entries = at;
                Ok(())
            }
            Order::Total => Err(format!(
                "as number {} and not {}",
                place.entries + 1,
                at + 1
            )),
            Order::PerKey => {
                let (id, batch) = (commit.id, &commit.batch);
                self.keys.executed(id, batch, &mut place.writes, installed)
            }
        };
        place.entries += 1;
        in_order.map_err(|with| disagreement(replica, &with, entry(commit)))
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
    use crate::register::{self, Change, Command, CommandId};
    use bytes::Bytes;
    use quorate_core::crypto::PublicKey;
    use quorate_core::id::{Lane, Slot};
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
        let (mut a, mut b) = (Place::default(), Place::default());
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
        assert_eq!((rule(installs), b.entries), (None, 3));
        let (mut c, goes_on) = (Place::default(), commit(4, 4));
        let first = checker.executed(ReplicaId(2), &mut c, true, &goes_on);
        assert_eq!((rule(first), c.entries), (None, 4));
        let again = checker.executed(B, &mut b, true, &commit(2, 2));
        assert_eq!(rule(again), Some(Rule::Agreement));
        assert_eq!(checker.place(&Frontier::single(Slot(2))).entries, 2);
    }

    /// An entry of a lane that touches register `key`.
    fn on(lane: u8, slot: u64, key: u8, operation: fn(u8) -> Bytes) -> Commit {
        let bytes = operation(key);
        let operation = match bytes.len() {
            0 => Operation::Open,
            1 => Operation::Query(&bytes),
            _ => Operation::Apply(&bytes),
        };
        let id = EntryId {
            lane: Lane(lane),
            slot: Slot(slot),
        };
        let session = SessionId {
            client: PublicKey([1; 32]),
            number: u64::from(lane),
        };
        Commit {
            id,
            batch: Batch::of_one(Request {
                session,
                sequence: slot,
                answered: 0,
                operation,
            }),
            checkpoint: false,
            agreed: None,
        }
    }

    fn put(key: u8) -> Bytes {
        let (id, change) = (CommandId(1), Change::Put(1));
        Command { id, key, change }.encode()
    }

    fn get(key: u8) -> Bytes {
        register::query(key)
    }

    fn everything(_: u8) -> Bytes {
        Bytes::new()
    }

    /// Whether B may execute `theirs` after A has executed `ours`.
    fn agree(ours: &[Commit], theirs: &[Commit]) -> bool {
        let mut checker = Checker::new(Order::PerKey);
        let (mut a, mut b) = (Place::default(), Place::default());
        for commit in ours {
            checker.executed(A, &mut a, false, commit).unwrap();
        }
        let mut theirs = theirs.iter();
        theirs.all(|commit| checker.executed(B, &mut b, false, commit).is_ok())
    }

    #[test]
    fn conflicting_commands_must_be_executed_in_one_order_and_others_need_not() {
        let reversed = |one: Commit, other: Commit| {
            let (ours, theirs) = ([one.clone(), other.clone()], [other, one]);
            assert!(agree(&ours, &ours));
            agree(&ours, &theirs)
        };
        assert!(reversed(on(0, 1, 1, put), on(1, 1, 2, put)));
        assert!(reversed(on(0, 1, 1, put), on(1, 1, 2, get)));
        assert!(reversed(on(0, 1, 1, get), on(1, 1, 1, get)));
        assert!(!reversed(on(0, 1, 1, put), on(1, 1, 1, put)));
        assert!(!reversed(on(0, 1, 1, get), on(1, 1, 1, put)));
        assert!(!reversed(on(0, 1, 1, put), on(1, 1, 1, get)));
        assert!(!reversed(on(0, 1, 0, everything), on(1, 1, 1, get)));
        assert!(!reversed(on(0, 1, 1, put), on(1, 1, 0, everything)));
        assert!(!reversed(on(0, 1, 0, everything), on(1, 1, 0, everything)));
        let noop = Commit {
            batch: Batch::noop(),
            ..on(0, 1, 0, everything)
        };
        assert!(reversed(noop, on(1, 1, 0, everything)));
    }

    #[test]
    fn what_conflicts_may_not_be_left_out() {
        let [first, second, third] = [(0, 1), (1, 1), (2, 1)].map(|(l, s)| on(l, s, 1, put));
        let ours = [first.clone(), second];
        assert!(!agree(&ours, &[ours[1].clone()]));
        assert!(!agree(&ours, &[first.clone(), third.clone()]));
        assert!(!agree(&ours, &[third]));
        assert!(!agree(&ours, &[first.clone(), first]));
        assert!(agree(&ours, &[on(2, 1, 2, put)]));
    }

    #[test]
    fn per_key_too_a_replica_goes_on_where_its_snapshot_ends() {
        let mut checker = Checker::new(Order::PerKey);
        let all: Vec<Commit> = (1..=4).map(|slot| on(0, slot, 1, put)).collect();
        let (mut a, mut b) = (Place::default(), Place::default());
        for commit in &all[..3] {
            checker.executed(A, &mut a, false, commit).unwrap();
        }
        let mut restarted = checker.place(&Frontier::single(Slot(2)));
        assert_eq!(restarted.entries, 2);
        let again = checker.executed(B, &mut restarted.clone(), false, &all[1]);
        assert_eq!(rule(again), Some(Rule::Agreement));
        let goes_on = checker.executed(B, &mut restarted, false, &all[2]);
        assert_eq!(rule(goes_on), None);
        let skips = checker.executed(B, &mut b.clone(), false, &all[2]);
        assert_eq!(rule(skips), Some(Rule::Agreement));
        let installs = checker.executed(B, &mut b.clone(), true, &all[2]);
        assert_eq!(rule(installs), None);
        let first = checker.executed(B, &mut b, true, &all[3]);
        assert_eq!(rule(first), None);
        let goes_back = checker.executed(B, &mut b, true, &all[2]);
        assert_eq!(rule(goes_back), Some(Rule::Agreement));
        let follows = checker.executed(A, &mut a, false, &all[3]);
        assert_eq!(rule(follows), None);
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
