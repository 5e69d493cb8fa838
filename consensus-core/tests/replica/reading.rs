//! Reads that nobody answers, or that nobody waits for.

use std::time::Duration;

use bytes::Bytes;
use quorate_core::consensus::{ReadError, ReadLevel};
use quorate_core::protocol::ReadAnswer;
use quorate_core::replica::{Mutant, ReadToken, Replica, Settings};
use quorate_core::storage::Stored;

use crate::solo::{CONFIG, Config, NOW, Solo, Text, replica};

const LEVEL: ReadLevel = ReadLevel::Linearizable;
const PATIENCE: Duration = Duration::from_secs(3);

/// Replicas of protocols that never answer reads: one says nothing, one loses what it orders.
fn unanswering(settings: &Settings) -> [Replica<Solo, Text>; 2] {
    [None, Some(ReadAnswer::ThroughLog)].map(|reads| {
        let config = Config {
            reads,
            deaf: true,
            ..CONFIG
        };
        replica(config, settings.clone(), Stored::default())
    })
}

fn impatient() -> Settings {
    Settings {
        read_patience: PATIENCE,
        ..Settings::default()
    }
}

fn ask(replica: &mut Replica<Solo, Text>, token: u64) -> Result<(), ReadError> {
    replica.read(ReadToken(token), Bytes::from_static(b"four"), LEVEL)
}

#[test]
fn a_read_that_nobody_answers_is_given_up() {
    for mut replica in unanswering(&impatient()) {
        ask(&mut replica, 7).unwrap();
        replica.end_turn(NOW);
        let nearly = NOW + PATIENCE / 2;
        replica.tick(nearly);
        assert_eq!(replica.end_turn(nearly).reads, []);
        let late = NOW + PATIENCE;
        assert!(replica.deadline().is_some_and(|at| at <= late));
        replica.tick(late);
        let expected = [(ReadToken(7), Err(ReadError::Timeout))];
        assert_eq!(replica.end_turn(late).reads, expected);
    }
}

#[test]
fn a_read_that_is_never_given_up_is_under_way_for_ever() {
    let settings = Settings {
        mutant: Some(Mutant::ReadNeverGivenUp),
        ..impatient()
    };
    for mut replica in unanswering(&settings) {
        ask(&mut replica, 7).unwrap();
        replica.end_turn(NOW);
        replica.tick(NOW + 100 * PATIENCE);
        assert_eq!(replica.end_turn(NOW + 100 * PATIENCE).reads, []);
    }
}

#[test]
fn what_waits_for_an_asker_who_is_gone_makes_room() {
    let settings = Settings {
        max_pending: 2,
        ..impatient()
    };
    for mut replica in unanswering(&settings) {
        ask(&mut replica, 1).unwrap();
        replica.end_turn(NOW);
        ask(&mut replica, 2).unwrap();
        assert_eq!(ask(&mut replica, 3), Err(ReadError::Overloaded));
        replica.forget_reads(|token| token == ReadToken(1));
        assert_eq!(ask(&mut replica, 3), Ok(()));
        replica.end_turn(NOW);
        replica.tick(NOW + PATIENCE);
        let given_up = replica.end_turn(NOW + PATIENCE).reads;
        let mut tokens: Vec<u64> = given_up.iter().map(|(token, _)| token.0).collect();
        tokens.sort_unstable();
        assert_eq!(tokens, [2, 3]);
    }
}

#[test]
fn reads_under_way_are_bounded_in_bytes() {
    let settings = Settings {
        max_pending_bytes: 8,
        ..impatient()
    };
    let [mut replica, _] = unanswering(&settings);
    ask(&mut replica, 1).unwrap();
    ask(&mut replica, 2).unwrap();
    assert_eq!(ask(&mut replica, 3), Err(ReadError::Overloaded));
    replica.end_turn(NOW);
    replica.tick(NOW + PATIENCE);
    assert_eq!(replica.end_turn(NOW + PATIENCE).reads.len(), 2);
    assert_eq!(ask(&mut replica, 3), Ok(()));
}
