//! Which protocol is measured when, and what each measurement is called.

use std::fmt;

use quorate::ProtocolKind;
use serde::Serialize;

/// One protocol's turn in one round.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Turn {
    #[serde(rename = "name")]
    pub(crate) protocol: ProtocolKind,
    /// Which of the protocols that were named, counted from 1: the same may be named twice.
    pub(crate) position: usize,
    /// Counted from 1.
    pub(crate) round: u32,
    /// Of how many rounds.
    #[serde(skip)]
    pub(crate) rounds: u32,
    /// Which of those that name the same protocol, counted from 1.
    #[serde(skip)]
    occurrence: usize,
}

/// All turns, in order. Each round begins with the protocol after the one that the round before
/// began with, so that in as many rounds as protocols each has had every place once.
pub(crate) fn turns(protocols: &[ProtocolKind], rounds: u32) -> Vec<Turn> {
    let named = |(index, protocol): (usize, &ProtocolKind)| {
        let until = protocols.iter().take(index + 1);
        (index + 1, until.filter(|same| *same == protocol).count())
    };
    let named: Vec<_> = protocols.iter().enumerate().map(named).collect();
    let all = protocols.iter().zip(named);
    let round = |round: u32| {
        let first = (round as usize - 1) % protocols.len().max(1);
        let rotated = all.clone().cycle().skip(first).take(protocols.len());
        rotated.map(move |(protocol, (position, occurrence))| Turn {
            protocol: *protocol,
            position,
            round,
            rounds,
            occurrence,
        })
    };
    (1..=rounds).flat_map(round).collect()
}

impl Turn {
    /// What the tables call the protocol.
    pub(crate) fn label(&self) -> String {
        match self.rounds {
            // In a single round the order tells which is which.
            1 => String::from(self.protocol.name()),
            _ => self.unique(),
        }
    }

    /// Its name among files: no other turn has the same.
    pub(crate) fn stem(&self) -> String {
        match self.rounds {
            1 => self.unique(),
            _ => format!("{}.round-{}", self.unique(), self.round),
        }
    }

    /// The protocol's name, with a number if it was named before.
    fn unique(&self) -> String {
        match self.occurrence {
            1 => String::from(self.protocol.name()),
            number => format!("{}-{number}", self.protocol),
        }
    }
}

/// What people are told of it.
impl fmt::Display for Turn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.rounds {
            1 => f.write_str(&self.label()),
            rounds => write!(f, "{}, round {} of {rounds}", self.label(), self.round),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use ProtocolKind::{EPaxos, Pbft, Raft};

    use super::*;

    #[test]
    fn in_as_many_rounds_as_protocols_each_has_every_place_once() {
        let turns = turns(&[Raft, EPaxos, Pbft], 4);
        let order: Vec<_> = turns.iter().map(|turn| turn.protocol).collect();
        let expected = [
            [Raft, EPaxos, Pbft],
            [EPaxos, Pbft, Raft],
            [Pbft, Raft, EPaxos],
            [Raft, EPaxos, Pbft],
        ];
        assert_eq!(order, expected.concat());
        let told: Vec<_> = turns.iter().skip(5).map(Turn::to_string).collect();
        assert_eq!(told[..2], ["raft, round 2 of 4", "pbft, round 3 of 4"]);
    }

    #[test]
    fn a_protocol_that_is_named_twice_is_told_apart() {
        let turns = turns(&[Raft, Pbft, Raft], 2);
        let told = |turn: &Turn| (turn.label(), turn.position, turn.round);
        let told: Vec<_> = turns.iter().map(told).collect();
        let expected = [
            ("raft", 1, 1),
            ("pbft", 2, 1),
            ("raft-2", 3, 1),
            ("pbft", 2, 2),
            ("raft-2", 3, 2),
            ("raft", 1, 2),
        ];
        let expected = expected.map(|(label, position, round)| (label.into(), position, round));
        assert_eq!(told, expected);
        let stems: BTreeSet<_> = turns.iter().map(Turn::stem).collect();
        assert_eq!(stems.len(), turns.len());
        assert!(stems.contains("raft-2.round-2"), "{stems:?}");
    }

    #[test]
    fn nothing_is_said_of_a_single_round() {
        let turns = turns(&[Raft, Raft], 1);
        let told = turns.iter().map(|turn| (turn.to_string(), turn.stem()));
        let expected = [("raft", "raft"), ("raft", "raft-2")];
        let expected = expected.map(|(told, stem)| (told.into(), stem.into()));
        assert_eq!(told.collect::<Vec<_>>(), expected);
    }
}
