//! Quorums as types, and a tally that cannot count a replica twice.

use serde::{Deserialize, Serialize};

use crate::id::{ReplicaId, ReplicaSet};

/// A rule that says which sets of replicas may decide.
///
/// A rule must be monotone: a superset of a quorum is a quorum.
pub trait Quorum {
    /// Whether `replicas` contain a quorum.
    fn is_met(&self, replicas: ReplicaSet) -> bool;

    /// The largest value that a quorum has reached, where `reached[i]` is what replica `i` has:
    /// Raft's commit index, Multi-Paxos's watermark.
    fn reached<T: Copy + Ord>(&self, reached: &[T]) -> Option<T> {
        let have = |value: &T| {
            let who = ReplicaId::all(reached.len()).zip(reached);
            let set = who
                .filter(|(_, has)| *has >= value)
                .map(|(replica, _)| replica);
            self.is_met(set.collect())
        };
        reached.iter().filter(|value| have(value)).max().copied()
    }
}

/// More than half of `n`: any two intersect. \[Lamport98\]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Majority {
    n: usize,
}

impl Majority {
    /// The majority quorum of `n` replicas.
    pub fn of(n: usize) -> Self {
        Majority { n }
    }

    /// The number of replicas in the smallest quorum.
    pub fn size(self) -> usize {
        self.n / 2 + 1
    }
}

impl Quorum for Majority {
    fn is_met(&self, replicas: ReplicaSet) -> bool {
        replicas.len() >= self.size()
    }
}

/// Any `size` replicas: one side of a flexible pair. \[Howard16\]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Threshold {
    size: usize,
}

impl Threshold {
    /// The number of replicas in the smallest quorum.
    pub fn size(self) -> usize {
        self.size
    }
}

impl Quorum for Threshold {
    fn is_met(&self, replicas: ReplicaSet) -> bool {
        replicas.len() >= self.size
    }
}

/// Two kinds of quorum of which only unlike ones need to intersect. \[Howard16 §3\]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flexible {
    /// What elects.
    pub phase1: Threshold,
    /// What replicates.
    pub phase2: Threshold,
}

/// The sizes asked for do not make intersecting quorums.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "quorums of {phase1} and {phase2} among {n} replicas need not intersect: their sum must exceed {n}, and neither may exceed it"
)]
pub struct NoIntersection {
    n: usize,
    phase1: usize,
    phase2: usize,
}

impl Flexible {
    /// Quorums of `phase1` and `phase2` among `n`; an error unless any two unlike ones intersect.
    pub fn new(n: usize, phase1: usize, phase2: usize) -> Result<Self, NoIntersection> {
        if phase1 + phase2 <= n || phase1 > n || phase2 > n {
            return Err(NoIntersection { n, phase1, phase2 });
        }
        Ok(Flexible {
            phase1: Threshold { size: phase1 },
            phase2: Threshold { size: phase2 },
        })
    }
}

/// Replicas that stand in rows and columns: a full row elects, a full column chooses. A row and a
/// column have the replica in common where they cross; two rows have none. [Howard16 §5]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grid {
    /// What elects.
    pub phase1: Rows,
    /// What replicates.
    pub phase2: Columns,
}

/// Any full row of a grid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rows {
    rows: usize,
    columns: usize,
}

/// Any full column of a grid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Columns {
    rows: usize,
    columns: usize,
}

/// The replicas do not fill rows of equal length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{n} replicas do not fill {rows} rows of equal length")]
pub struct NoGrid {
    n: usize,
    rows: usize,
}

impl Grid {
    /// `n` replicas in `rows` rows, filled one after the other; an error unless they are of equal
    /// length.
    pub fn new(n: usize, rows: usize) -> Result<Self, NoGrid> {
        if n == 0 || rows == 0 || !n.is_multiple_of(rows) {
            return Err(NoGrid { n, rows });
        }
        let columns = n / rows;
        Ok(Grid {
            phase1: Rows { rows, columns },
            phase2: Columns { rows, columns },
        })
    }
}

impl Quorum for Rows {
    fn is_met(&self, replicas: ReplicaSet) -> bool {
        let place = |row, column| ReplicaId((row * self.columns + column) as u8);
        let full = |row| (0..self.columns).all(|column| replicas.contains(place(row, column)));
        (0..self.rows).any(full)
    }
}

impl Quorum for Columns {
    fn is_met(&self, replicas: ReplicaSet) -> bool {
        let place = |row, column| ReplicaId((row * self.columns + column) as u8);
        let full = |column| (0..self.rows).all(|row| replicas.contains(place(row, column)));
        (0..self.columns).any(full)
    }
}

/// The quorums of EPaxos for `n` replicas, `f` crashes tolerated and a fast path that survives
/// `e` of them. \[Ryabinin25\]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fast {
    /// n − e: commits in one round trip.
    pub fast: Threshold,
    /// n − f: commits in two, and recovers.
    pub slow: Threshold,
}

/// Too few replicas for the failures asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{n} replicas are too few for f = {f} and e = {e}: at least max(2e + f - 1, 2f + 1), with e at most f, are needed"
)]
pub struct TooFew {
    n: usize,
    f: usize,
    e: usize,
}

impl Fast {
    /// The quorums for `n`, `f` and `e`; an error unless n ≥ max(2e + f − 1, 2f + 1) and e ≤ f.
    pub fn new(n: usize, f: usize, e: usize) -> Result<Self, TooFew> {
        if e > f || n < 2 * f + 1 || n + 1 < 2 * e + f {
            return Err(TooFew { n, f, e });
        }
        Ok(Fast {
            fast: Threshold { size: n - e },
            slow: Threshold { size: n - f },
        })
    }
}

/// The quorums of n ≥ 3f + 1 replicas of which `f` may lie. \[Castro99 §4\]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Byzantine {
    n: usize,
}

impl Byzantine {
    /// The quorums of `n` replicas.
    pub fn of(n: usize) -> Self {
        Byzantine { n }
    }

    /// How many of the replicas may lie: f = ⌊(n − 1) / 3⌋.
    pub fn faulty(self) -> usize {
        (self.n - 1) / 3
    }

    /// Enough that one of them is correct: f + 1.
    pub fn weak(self) -> Threshold {
        Threshold {
            size: self.faulty() + 1,
        }
    }

    /// Enough that any two have a correct replica in common: ⌈(n + f + 1) / 2⌉, which is 2f + 1
    /// when n = 3f + 1.
    pub fn strong(self) -> Threshold {
        Threshold {
            size: (self.n + self.faulty()) / 2 + 1,
        }
    }
}

/// Who has voted. A replica that votes again is counted once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    voters: ReplicaSet,
}

impl Tally {
    /// Counts `voter`; true if it had not voted yet.
    pub fn count(&mut self, voter: ReplicaId) -> bool {
        self.voters.insert(voter)
    }

    /// Who has voted.
    pub fn voters(&self) -> ReplicaSet {
        self.voters
    }

    /// Whether the voters contain a quorum.
    pub fn meets(&self, quorum: &impl Quorum) -> bool {
        quorum.is_met(self.voters)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first(k: usize) -> ReplicaSet {
        ReplicaId::all(k).collect()
    }

    #[test]
    fn any_two_majorities_intersect() {
        for n in 1..=MAX {
            let size = Majority::of(n).size();
            assert!(2 * size > n);
            assert!(!Majority::of(n).is_met(first(size - 1)));
            assert!(Majority::of(n).is_met(first(size)));
        }
    }

    const MAX: usize = 31;

    #[test]
    fn strong_byzantine_quorums_share_a_correct_replica_and_survive_f() {
        for n in 4..=MAX {
            let quorum = Byzantine::of(n);
            let (f, strong) = (quorum.faulty(), quorum.strong().size());
            assert!(2 * strong > n + f, "two quorums of {n} share only liars");
            assert!(strong <= n - f, "{f} silent replicas of {n} block");
            if n == 3 * f + 1 {
                assert_eq!(strong, 2 * f + 1);
            }
        }
    }

    #[test]
    fn flexible_quorums_must_intersect() {
        assert!(Flexible::new(5, 4, 2).is_ok());
        assert!(Flexible::new(5, 3, 2).is_err());
        assert!(Flexible::new(5, 6, 2).is_err());
    }

    #[test]
    fn a_row_and_a_column_of_a_grid_intersect_and_two_rows_do_not() {
        for (n, rows) in [(1, 1), (6, 2), (6, 3), (9, 3), (5, 1), (5, 5)] {
            let grid = Grid::new(n, rows).unwrap();
            let columns = n / rows;
            let line = |take: &dyn Fn(usize) -> bool| -> ReplicaSet {
                ReplicaId::all(n).filter(|id| take(id.index())).collect()
            };
            for row in 0..rows {
                let elects = line(&|i| i / columns == row);
                assert!(grid.phase1.is_met(elects));
                for column in 0..columns {
                    let chooses = line(&|i| i % columns == column);
                    assert!(grid.phase2.is_met(chooses));
                    let common = elects.iter().filter(|id| chooses.contains(*id));
                    assert_eq!(common.count(), 1);
                }
                let mut partial = elects;
                partial.remove(ReplicaId((row * columns) as u8));
                assert!(!grid.phase1.is_met(partial));
            }
        }
        assert!(Grid::new(5, 2).is_err());
        assert!(Grid::new(5, 0).is_err());
    }

    #[test]
    fn any_quorum_of_a_grid_to_elect_meets_any_to_choose() {
        let grid = Grid::new(6, 2).unwrap();
        let sets = || {
            (0u8..64).map(|bits| -> ReplicaSet {
                ReplicaId::all(6)
                    .filter(|id| bits & 1 << id.0 != 0)
                    .collect()
            })
        };
        for elects in sets().filter(|set| grid.phase1.is_met(*set)) {
            for chooses in sets().filter(|set| grid.phase2.is_met(*set)) {
                assert!(elects.iter().any(|id| chooses.contains(id)));
            }
        }
    }

    #[test]
    fn fast_quorums_are_those_of_the_paper() {
        let sizes = |n, f, e| {
            let quorums = Fast::new(n, f, e).unwrap();
            (quorums.slow.size(), quorums.fast.size())
        };
        assert_eq!(sizes(3, 1, 1), (2, 2));
        assert_eq!(sizes(5, 2, 2), (3, 3));
        assert_eq!(sizes(7, 3, 2), (4, 5));
        assert!(Fast::new(7, 3, 3).is_err());
        assert!(Fast::new(4, 2, 1).is_err());
    }

    #[test]
    fn a_quorum_has_reached_the_median() {
        let majority = Majority::of(5);
        assert_eq!(majority.reached(&[9, 1, 4, 7, 3]), Some(4));
        assert_eq!(Majority::of(3).reached(&[5, 5, 0]), Some(5));
        assert_eq!(Majority::of(5).reached(&[5, 5]), None);
    }

    #[test]
    fn a_vote_counts_once() {
        let mut tally = Tally::default();
        assert!(tally.count(ReplicaId(1)));
        assert!(!tally.count(ReplicaId(1)));
        assert!(!tally.meets(&Majority::of(3)));
        tally.count(ReplicaId(2));
        assert!(tally.meets(&Majority::of(3)));
    }
}
