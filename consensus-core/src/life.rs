//! Lives of a replica: each start begins another, and its peers remember which they have met.
//!
//! A data directory that was put back to an older copy, or was prepared anew after the data was
//! lost, looks like any other to its own replica, which would vote and acknowledge again, otherwise
//! than before. What shows it is what others remember: which life they met last, and how far its
//! log was durable then.

use std::fmt::{self, Display};

use crate::id::ReplicaId;
use crate::storage::StorageError;

/// So many lives before its own each replica tells of.
pub const PAST: usize = 24;

/// One life of a replica: from a start to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Life {
    /// Counted from 1 on, in the data directory. Durable before the replica says anything.
    pub number: u64,
    /// Drawn at random when it began: two lives of one number are two copies of a directory.
    pub nonce: u64,
    /// How far the log was durable when it began.
    pub start: Position,
    /// The nonces of the lives before, the latest first; 0 where there was none, or none is known.
    pub past: [u64; PAST],
}

impl Life {
    /// The nonce of an earlier life of the directory, if it is known.
    fn earlier(&self, number: u64) -> Option<u64> {
        let ago = self.number.checked_sub(number)?.checked_sub(1)?;
        let known = self.past.get(usize::try_from(ago).ok()?)?;
        (*known != 0).then_some(*known)
    }
}

/// How far a log is durable. It only grows, over restarts too, as long as the directory is the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position(pub u64);

const OFFSET_BITS: u32 = 32;

const MOST_OFFSET: u64 = (1 << OFFSET_BITS) - 1;

impl Position {
    /// In this segment, at this offset. Where either is more than there is room for, it counts as the
    /// most: what comes later may be missed, and is never taken for less.
    pub fn new(segment: u64, offset: u64) -> Self {
        let most = u64::MAX >> OFFSET_BITS;
        match segment <= most {
            true => Position((segment << OFFSET_BITS) | offset.min(MOST_OFFSET)),
            false => Position(u64::MAX),
        }
    }
}

impl Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.0 >> OFFSET_BITS, self.0 & MOST_OFFSET)
    }
}

/// What is remembered of another replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Met {
    /// The last life that was met.
    pub number: u64,
    /// Its nonce.
    pub nonce: u64,
    /// The furthest that it has said to be durable.
    pub position: Position,
}

impl Met {
    /// What is to be remembered of a replica in this life, of which `before` is remembered.
    ///
    /// # Errors
    ///
    /// Unless this life follows from what is remembered.
    pub fn next(before: Option<Met>, life: Life) -> Result<Met, Refusal> {
        let position = before.map_or(life.start, |met| met.position.max(life.start));
        let Life {
            number,
            nonce,
            start,
            ..
        } = life;
        if let Some(met) = before {
            if number < met.number {
                return Err(Refusal::Earlier {
                    number,
                    met: met.number,
                });
            }
            let other = |known: u64| known != met.nonce;
            if number == met.number && other(nonce) || life.earlier(met.number).is_some_and(other) {
                let number = met.number;
                return Err(Refusal::Copied { number });
            }
            if number > met.number && start < met.position {
                return Err(Refusal::Behind {
                    start,
                    met: met.position,
                });
            }
        }
        Ok(Met {
            number,
            nonce,
            position,
        })
    }
}

/// Why a replica is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It begins a life that is over.
    #[error(
        "its data directory is an older copy, or was prepared anew: this is its start number {number}, and number {met} was met already; it has to be replaced"
    )]
    Earlier {
        /// Which life it is in.
        number: u64,
        /// Which was met last.
        met: u64,
    },
    /// Two directories began the same life.
    #[error(
        "its data directory is a copy of another that is or was in use: both made start number {number}; it has to be replaced"
    )]
    Copied {
        /// Of both.
        number: u64,
    },
    /// Its log lacks what it had said to be durable.
    #[error(
        "its data directory is an older copy: its log began at {start}, and had been durable to {met}; it has to be replaced"
    )]
    Behind {
        /// Where the log ended when this life began.
        start: Position,
        /// The furthest that was told.
        met: Position,
    },
    /// Nobody may be met who cannot be remembered.
    #[error("that it was met cannot be made durable: {0}")]
    Unwritable(#[from] StorageError),
}

/// A replica's memory of the others, and what it tells them of itself. Calls may wait for the disk,
/// unless they say otherwise.
pub trait Acquaintances: Send + Sync + 'static {
    /// The life that this replica is in. Does not wait.
    fn own(&self) -> Life;

    /// How far its log is durable now. Does not wait.
    fn position(&self) -> Position;

    /// Another replica comes, in this life. When this returns it is remembered durably.
    ///
    /// # Errors
    ///
    /// If it must not be let in.
    fn meet(&self, peer: ReplicaId, life: Life) -> Result<(), Refusal>;

    /// Another replica that was let in says how far its log is durable. Does not wait.
    fn told(&self, peer: ReplicaId, position: Position);

    /// Makes durable what was told, if there is something new.
    fn keep(&self);
}

/// Remembers nobody: for those who keep nothing, and have nothing to be remembered by.
#[derive(Clone, Copy, Debug)]
pub struct Forgetful(pub Life);

impl Default for Forgetful {
    fn default() -> Self {
        Forgetful(Life {
            number: 1,
            nonce: 0,
            start: Position::default(),
            past: [0; PAST],
        })
    }
}

impl Acquaintances for Forgetful {
    fn own(&self) -> Life {
        self.0
    }

    fn position(&self) -> Position {
        self.0.start
    }

    fn meet(&self, _: ReplicaId, _: Life) -> Result<(), Refusal> {
        Ok(())
    }

    fn told(&self, _: ReplicaId, _: Position) {}

    fn keep(&self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    fn life(number: u64, nonce: u64, start: u64) -> Life {
        let start = Position(start);
        Life {
            number,
            nonce,
            start,
            past: [0; PAST],
        }
    }

    const MET: Met = Met {
        number: 5,
        nonce: 50,
        position: Position(500),
    };

    #[test]
    fn whoever_was_never_met_is_let_in() {
        let met = Met::next(None, life(7, 70, 700)).unwrap();
        let expected = Met {
            number: 7,
            nonce: 70,
            position: Position(700),
        };
        assert_eq!(met, expected);
    }

    #[test]
    fn an_earlier_life_is_over() {
        let refused = Met::next(Some(MET), life(4, 40, 900));
        assert_eq!(refused, Err(Refusal::Earlier { number: 4, met: 5 }));
    }

    #[test]
    fn a_life_is_begun_once() {
        let refused = Met::next(Some(MET), life(5, 51, 900));
        assert_eq!(refused, Err(Refusal::Copied { number: 5 }));
    }

    /// It began before what it has said since.
    #[test]
    fn the_same_life_comes_back_as_often_as_it_likes() {
        assert_eq!(Met::next(Some(MET), life(5, 50, 100)), Ok(MET));
    }

    #[test]
    fn a_later_life_lacks_nothing_that_was_durable() {
        let met = Met {
            number: 6,
            nonce: 60,
            ..MET
        };
        assert_eq!(Met::next(Some(MET), life(6, 60, 500)), Ok(met));
        let refused = Met::next(Some(MET), life(6, 60, 499));
        let (start, told) = (Position(499), Position(500));
        assert_eq!(refused, Err(Refusal::Behind { start, met: told }));
        // Lives in between need not have been met.
        assert_eq!(Met::next(Some(MET), life(9, 60, 501)).unwrap().number, 9);
    }

    /// Another directory that was started as often as it takes.
    #[test]
    fn a_later_life_comes_after_the_one_that_was_met() {
        let after = |later: usize, nonce: u64| {
            let mut life = life(5 + later as u64, 60, 900);
            if let Some(past) = life.past.get_mut(later - 1) {
                *past = nonce;
            }
            Met::next(Some(MET), life).map(|met| met.number)
        };
        for later in [1, 2, PAST] {
            assert_eq!(after(later, 50), Ok(5 + later as u64));
            assert_eq!(after(later, 51), Err(Refusal::Copied { number: 5 }));
        }
        let beyond = PAST + 1;
        assert_eq!(after(beyond, 51), Ok(5 + beyond as u64), "nobody knows");
    }

    #[test]
    fn positions_grow_by_segment_and_offset() {
        assert!(Position::new(1, u64::MAX) < Position::new(2, 0));
        assert!(Position::new(2, 0) < Position::new(2, 1));
        assert_eq!(Position::new(3, 77).to_string(), "3:77");
    }

    /// A log that makes a segment with each rewrite has millions of them in its time.
    #[test]
    fn a_position_of_any_segment_is_no_less_than_those_before() {
        for bits in 0..64 {
            let power = 1 << bits;
            for segment in [power - 1, power] {
                assert!(Position::new(segment, 40) <= Position::new(segment + 1, 40));
            }
            let place = Position::new(power, 40).to_string();
            assert_eq!(place == format!("{power}:40"), bits < 32, "{place}");
        }
    }
}
