//! Hardships: faults that do not end by themselves, and worlds that are narrow.
//!
//! The faults of [`Faults`](crate::Faults) end, at the latest when the world heals. What is drawn
//! here may stay: replicas that never come back, links cut for good, requests that nobody answers.
//! Liveness is demanded all the same, of those that remain.

use std::fmt;
use std::str::FromStr;

mod cuts;
mod drawing;
pub(crate) mod limits;
mod rollbacks;

/// Which hardships a world meets besides its faults. Each is drawn from a random stream of its own:
/// switching one on leaves the other faults of a seed as they are.
///
/// Replicas that stay lost, that lie, that never answer a fetch and whose disks hang for good are
/// together no more than the protocol tolerates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hardships {
    /// Replicas go down and never come back, in the course of the faults or when these end; the
    /// others are restarted meanwhile, in any order, or are up one after the other, so that no
    /// majority is up together before the end.
    pub lost: bool,
    /// Links between replicas are cut for good, both ways or one way, such that the replicas of a
    /// quorum all hear each other: a single link, or some of those outside. Where replicas may lie,
    /// clients are to be served at those of the quorum. Otherwise any replica may lead that hears a
    /// quorum and is heard by it, those that answer no fetch among them, and clients are served at those
    /// that hear all of these, and are heard by them.
    pub cuts: bool,
    /// The same, and where no replica lies also a chain, a star or a bridge: a quorum is connected
    /// through one in the middle, and clients are to be served there. It may be one that lags: it
    /// can't lead where a leader must have the longest log, nor can anybody else.
    pub hubs: bool,
    /// Replicas take a request for a snapshot and never answer it, or after a long time.
    pub mute: bool,
    /// Syncs hang for seconds, or for good.
    pub hangs: bool,
    /// Disks are full for a while: new commands are refused and no snapshot is saved; and for some of
    /// that time nothing of the log either.
    pub full: bool,
    /// Every limit of the driver, and of the protocol if the configuration knows how
    /// ([`SimulationConfig::limits`](crate::SimulationConfig::limits)), is drawn by itself from a
    /// few values down to the smallest.
    pub limits: bool,
    /// Wall clocks are ahead or behind, of all replicas alike or of each differently, and are set
    /// right at a restart, all by the time the faults end.
    pub clocks: bool,
    /// Replicas crash and come back with an older copy of their disks, or with empty ones. One that lacks what it
    /// said is refused by the others from then on, and counts as lost. Not part of
    /// [`ALL`](Hardships::ALL): the seeds that are kept were found without it.
    pub rollbacks: bool,
}

impl Hardships {
    /// None of them.
    pub const NONE: Hardships = Hardships {
        lost: false,
        cuts: false,
        hubs: false,
        mute: false,
        hangs: false,
        full: false,
        limits: false,
        clocks: false,
        rollbacks: false,
    };

    /// All of them but `rollbacks`.
    pub const ALL: Hardships = Hardships {
        lost: true,
        cuts: true,
        hubs: true,
        mute: true,
        hangs: true,
        full: true,
        limits: true,
        clocks: true,
        rollbacks: false,
    };

    fn named(&mut self) -> [(&'static str, &mut bool); 9] {
        [
            ("lost", &mut self.lost),
            ("cuts", &mut self.cuts),
            ("hubs", &mut self.hubs),
            ("mute", &mut self.mute),
            ("hangs", &mut self.hangs),
            ("full", &mut self.full),
            ("limits", &mut self.limits),
            ("clocks", &mut self.clocks),
            ("rollbacks", &mut self.rollbacks),
        ]
    }
}

impl fmt::Display for Hardships {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut copy = *self;
        let on = copy.named().into_iter().filter(|(_, on)| **on);
        let names: Vec<&str> = on.map(|(name, _)| name).collect();
        match names.is_empty() {
            true => f.write_str("none"),
            false => f.write_str(&names.join(",")),
        }
    }
}

/// A word that names no hardship.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "unknown hardship '{0}': it must be none, all, or some of lost, cuts, hubs, mute, hangs, full, \
     limits, clocks and rollbacks, separated by commas; all leaves out rollbacks"
)]
pub struct UnknownHardship(String);

impl FromStr for Hardships {
    type Err = UnknownHardship;

    fn from_str(words: &str) -> Result<Self, UnknownHardship> {
        match words {
            "none" => return Ok(Hardships::NONE),
            "all" => return Ok(Hardships::ALL),
            _ => {}
        }
        let (mut hardships, words) = match words.strip_prefix("all,") {
            Some(besides) => (Hardships::ALL, besides),
            None => (Hardships::NONE, words),
        };
        for word in words.split(',') {
            let mut named = hardships.named().into_iter();
            match named.find(|(name, _)| *name == word) {
                Some((_, on)) => *on = true,
                None => return Err(UnknownHardship(String::from(word))),
            }
        }
        Ok(hardships)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hardships_are_read_as_they_are_written() {
        let some = Hardships {
            lost: true,
            clocks: true,
            ..Hardships::NONE
        };
        assert_eq!(some.to_string(), "lost,clocks");
        let besides = Hardships {
            rollbacks: true,
            ..Hardships::ALL
        };
        assert_eq!("all,rollbacks".parse(), Ok(besides));
        for hardships in [Hardships::NONE, Hardships::ALL, some, besides] {
            assert_eq!(hardships.to_string().parse(), Ok(hardships));
        }
        let unknown = "lost,rain".parse::<Hardships>().unwrap_err();
        assert!(unknown.to_string().contains("'rain'"));
    }
}
