//! Reads that nobody answers, or that nobody waits for.

use std::time::Duration;

use bytes::Bytes;
use quorate_core::consensus::{ProposeError, ReadError, ReadLevel};
use quorate_core::protocol::ReadAnswer;
use quorate_core::replica::{Mutant, ReadToken, Replica, Settings};
use quorate_core::request::Operation;
use quorate_core::storage::Stored;

use crate::solo::{
    CONFIG, Config, NOW, Solo, Text, answers, opened, propose, replica, request, settle,
};

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

/// A replica whose state, which each query is answered with, has so many bytes.
fn large(bytes: usize, reads: ReadAnswer, settings: Settings) -> Replica<Solo, Text> {
    let config = Config {
        reads: Some(reads),
        ..CONFIG
    };
    let mut replica = opened(config, settings);
    let command = vec![b'x'; bytes];
    propose(&mut replica, request(1, Operation::Apply(&command)));
    settle(&mut replica);
    replica
}

/// One small frame of queries, each with a large answer.
#[test]
fn answers_to_ordered_queries_are_bounded_in_a_turn_and_the_others_may_be_asked_again() {
    let bytes = 1 << 20;
    let mut replica = large(bytes, ReadAnswer::Ready, Settings::default());
    let (most, mut left) = (32, (2..102).collect::<Vec<u64>>());
    for answered in [most, most, most, 4] {
        for sequence in &left {
            propose(&mut replica, request(*sequence, Operation::Query(b"")));
        }
        let told = settle(&mut replica);
        let (good, refused): (Vec<_>, Vec<_>) =
            answers(&told).into_iter().partition(|(_, r)| r.is_ok());
        assert_eq!(good.len(), answered);
        let overloaded =
            |(_, result): &(u64, Result<_, _>)| *result == Err(ProposeError::Overloaded);
        assert!(refused.iter().all(overloaded));
        left = refused.into_iter().map(|(sequence, _)| sequence).collect();
    }
    assert!(left.is_empty());
    assert_eq!(replica.under_way(), 0);
}

#[test]
fn reads_through_the_log_are_answered_so_many_bytes_in_a_turn_and_each_in_the_end() {
    let settings = Settings {
        max_read_bytes: 2_500,
        ..Settings::default()
    };
    let mut replica = large(1_000, ReadAnswer::ThroughLog, settings);
    for token in 0..10 {
        ask(&mut replica, token).unwrap();
    }
    let mut answered = Vec::new();
    for _ in 0..4 {
        replica.tick(NOW);
        let told = settle(&mut replica).reads;
        assert!(told.len() <= 3, "{}", told.len());
        answered.extend(told.iter().map(|(token, _)| token.0));
        assert!(told.iter().all(|(_, result)| result.is_ok()));
    }
    assert_eq!(answered, (0..10).collect::<Vec<u64>>());
    assert_eq!(replica.under_way(), 0);
}

/// A read that had to wait for the next turn comes before those that were asked meanwhile.
#[test]
fn who_waits_for_the_next_turn_is_not_overtaken() {
    let settings = Settings {
        max_read_bytes: 1,
        ..Settings::default()
    };
    let mut replica = large(1_000, ReadAnswer::Ready, settings);
    (0..3).for_each(|token| ask(&mut replica, token).unwrap());
    let mut answered = Vec::new();
    for token in 3..6 {
        answered.extend(replica.end_turn(NOW).reads.into_iter().map(|(t, _)| t.0));
        ask(&mut replica, token).unwrap();
        replica.tick(NOW);
    }
    assert_eq!(answered, [0, 1, 2]);
}
