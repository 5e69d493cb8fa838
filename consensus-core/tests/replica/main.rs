//! The driver core around the smallest protocol there is: a single replica that orders what it is
//! given once that is durable. One claim a test.

mod fetching;
mod reading;
mod snapshots;
mod solo;

use bytes::Bytes;
use quorate_core::codec::MESSAGE_LIMIT;
use quorate_core::consensus::{ProposeError, ReadError, ReadLevel};
use quorate_core::crypto::Verifier;
use quorate_core::id::{ReplicaId, Slot, Time};
use quorate_core::protocol::{Event, ReadAnswer, Verified};
use quorate_core::replica::{Halt, Mutant, ReadToken, Replica, Settings};
use quorate_core::request::{Batch, Operation};
use quorate_core::storage::{Records, Snapshot, StorageError, Stored};
use quorate_core::wire::Envelope;
use snapshots::{small_snapshots, snapshotted};
use solo::{
    CONFIG, Config, NOW, Solo, Text, Written, answers, apply, members, opened, propose, recovered,
    replica, request, settle,
};

#[test]
fn nothing_is_answered_before_it_is_durable() {
    let mut replica = opened(CONFIG, Settings::default());
    let command = Operation::Apply(b"x");
    propose(&mut replica, request(1, command));
    let effects = replica.end_turn(NOW);
    assert!(effects.answers.is_empty() && effects.executed.is_empty());
    let ticket = effects.append.unwrap().ticket;
    assert!(replica.end_turn(NOW).answers.is_empty());
    replica.durable(ticket);
    assert_eq!(answers(&replica.end_turn(NOW)), [(1, Ok(&b"x"[..]))]);
}

/// A disk that hangs: at the bound requests are still taken, beyond it refused as overload, and
/// repeated ones are not; once half of it is durable they are taken again.
#[test]
fn a_replica_whose_disk_hangs_takes_so_many_bytes_and_no_more() {
    let mut replica = opened(CONFIG, Settings::default());
    propose(&mut replica, request(1, Operation::Apply(b"x")));
    let record = replica.end_turn(NOW).append.unwrap().records.size();
    let settings = Settings {
        max_unsynced_bytes: 3 * record,
        max_batches_in_flight: Some(9),
        ..Settings::default()
    };
    let mut replica = opened(CONFIG, settings);
    let mut put = |sequence| {
        propose(&mut replica, request(sequence, Operation::Apply(b"x")));
        let effects = replica.end_turn(NOW);
        let refused = answers(&effects) == [(sequence, Err(ProposeError::Overloaded))];
        let ticket = effects.append.map(|append| append.ticket);
        (ticket, refused, effects.events)
    };
    let tickets: Vec<_> = (1..=3).map(&mut put).collect();
    let silent = |(ticket, refused, events): &(Option<_>, _, Vec<_>)| {
        ticket.is_some() && !refused && events.is_empty()
    };
    assert!(tickets.iter().all(silent));
    let bytes = 4 * record;
    let (ticket, refused, events) = put(4);
    assert_eq!(
        (refused, events),
        (false, vec![Event::DiskBehind { bytes }])
    );
    assert!(matches!(put(5), (None, true, events) if events.is_empty()));
    assert!(matches!(put(4), (None, false, _)), "it is under way");
    assert!(ticket.is_some());
    replica.durable(tickets[1].0.unwrap());
    assert_eq!(replica.end_turn(NOW).events, [], "more than half is left");
    replica.durable(tickets[2].0.unwrap());
    assert_eq!(replica.end_turn(NOW).events, [Event::DiskCaughtUp]);
    propose(&mut replica, request(5, Operation::Apply(b"x")));
    assert!(replica.end_turn(NOW).append.is_some());
}

/// What another replica has ordered, and this one is to keep.
fn ordered_elsewhere(slot: u64) -> Verified<Written> {
    let command = vec![b'x'; 1_000];
    let batch = Batch::of_one(request(1, Operation::Apply(&command)));
    let slot = Slot(slot);
    let members = members();
    let envelope = Envelope::new(members.group(), 0);
    let frame = envelope.seal(&Written { slot, batch }).unwrap();
    let verifier = Verifier::new(members);
    envelope.open(ReplicaId(1), &frame, &verifier).unwrap()
}

/// How many bytes a replica whose disk hangs has given to it, of far more that others bring.
fn given_to_a_disk_that_hangs(settings: Settings) -> usize {
    let mut replica = opened(CONFIG, settings);
    let mut given = 0;
    for slot in 0..1_000 {
        replica.message(NOW, ordered_elsewhere(slot));
        let append = replica.end_turn(NOW).append;
        given += append.map_or(0, |append| append.records.size());
    }
    given
}

#[test]
fn what_others_bring_is_not_taken_without_end_while_the_disk_hangs() {
    let limit = 100_000;
    let settings = Settings {
        max_unsynced_bytes: limit,
        ..Settings::default()
    };
    let given = given_to_a_disk_that_hangs(settings.clone());
    assert!((2 * limit..2 * limit + 2_000).contains(&given), "{given}");
    let without = Settings {
        mutant: Some(Mutant::HungDiskTakesAll),
        ..settings
    };
    assert!(given_to_a_disk_that_hangs(without) > 900_000);
}

#[test]
fn what_others_bring_is_taken_again_when_the_disk_goes_on() {
    let settings = Settings {
        max_unsynced_bytes: 100_000,
        ..Settings::default()
    };
    let mut replica = opened(CONFIG, settings);
    let mut ticket = None;
    for slot in 0..1_000 {
        replica.message(NOW, ordered_elsewhere(slot));
        let append = replica.end_turn(NOW).append;
        ticket = append.map(|append| append.ticket).or(ticket);
    }
    replica.durable(ticket.unwrap());
    replica.message(NOW, ordered_elsewhere(1_000));
    assert!(replica.end_turn(NOW).append.is_some());
}

#[test]
fn what_may_be_forgotten_is_written_with_what_may_not() {
    let config = Config {
        notes: true,
        ..CONFIG
    };
    let mut replica = opened(config, Settings::default());
    let written = |replica: &mut Replica<Solo, Text>, sequence| {
        propose(replica, request(sequence, Operation::Apply(b"x")));
        let append = replica.end_turn(NOW).append.unwrap();
        replica.durable(append.ticket);
        let effects = replica.end_turn(NOW);
        assert!(effects.append.is_none() && !effects.answers.is_empty());
        append.records.len()
    };
    // The note of the opening, and then that of the first command.
    assert_eq!((written(&mut replica, 1), written(&mut replica, 2)), (2, 2));
}

#[test]
fn a_snapshot_rests_on_all_that_was_noted() {
    let config = Config {
        notes: true,
        ..CONFIG
    };
    let settings = Settings {
        snapshot_every_bytes: 1,
        ..Settings::default()
    };
    let mut replica = opened(config, settings);
    propose(&mut replica, request(1, Operation::Apply(b"x")));
    let ticket = replica.end_turn(NOW).append.unwrap().ticket;
    replica.durable(ticket);
    let effects = replica.end_turn(NOW);
    let note = effects.append.expect("the note is written");
    assert!(effects.save.is_empty() && note.records.len() == 1);
    replica.durable(note.ticket);
    assert_eq!(replica.end_turn(NOW).save.len(), 1);
}

#[test]
fn without_the_rule_it_is_answered_too_early() {
    let settings = Settings {
        mutant: Some(Mutant::PromiseBeforeSync),
        ..Settings::default()
    };
    let mut replica = opened(CONFIG, settings);
    let command = Operation::Apply(b"x");
    propose(&mut replica, request(1, command));
    assert_eq!(replica.end_turn(NOW).answers.len(), 1);
}

#[test]
fn a_repeated_request_is_answered_from_the_session_and_not_executed() {
    let mut replica = opened(CONFIG, Settings::default());
    apply(&mut replica, 1, "a");
    apply(&mut replica, 2, "b");
    let again = apply(&mut replica, 1, "a");
    assert_eq!(answers(&again), [(1, Ok(&b"a"[..]))]);
    assert!(again.executed.is_empty());
    assert_eq!(replica.machine().0, b"ab");
}

#[test]
fn a_session_whose_opening_was_not_answered_is_opened_again() {
    let mut replica = opened(CONFIG, Settings::default());
    apply(&mut replica, 1, "a");
    propose(&mut replica, request(0, Operation::Open));
    let again = settle(&mut replica);
    assert_eq!(answers(&again), [(0, Ok(&b""[..]))]);
    assert_eq!(answers(&apply(&mut replica, 2, "b")), [(2, Ok(&b"ab"[..]))]);
}

#[test]
fn a_request_of_an_unknown_session_is_ordered_and_refused() {
    let mut replica = replica(CONFIG, Settings::default(), Stored::default());
    let effects = apply(&mut replica, 1, "a");
    assert_eq!(answers(&effects), [(1, Err(ProposeError::SessionExpired))]);
    assert!(replica.machine().0.is_empty());
}

#[test]
fn requests_of_a_turn_share_an_entry_and_an_append() {
    let mut replica = opened(CONFIG, Settings::default());
    for sequence in 1..=10 {
        let command = Operation::Apply(b".");
        propose(&mut replica, request(sequence, command));
    }
    let before = replica.ledger();
    let effects = settle(&mut replica);
    let ledger = replica.ledger();
    assert_eq!(effects.answers.len(), 10);
    assert_eq!(effects.executed.len(), 1);
    assert_eq!(ledger.appends - before.appends, 1);
    assert_eq!(ledger.requests - before.requests, 10);
}

#[test]
fn what_is_too_much_is_refused_and_certainly_did_not_happen() {
    let settings = Settings {
        max_pending: 1,
        max_command_bytes: 4,
        ..Settings::default()
    };
    let mut replica = opened(CONFIG, settings);
    propose(&mut replica, request(1, Operation::Apply(b"12345")));
    let large = ProposeError::TooLarge { size: 5, limit: 4 };
    assert_eq!(answers(&replica.end_turn(NOW)), [(1, Err(large))]);
    propose(&mut replica, request(1, Operation::Apply(b"x")));
    propose(&mut replica, request(2, Operation::Apply(b"y")));
    assert!(!ProposeError::Overloaded.may_have_happened());
    let answered = settle(&mut replica);
    let expected = [(2, Err(ProposeError::Overloaded)), (1, Ok(&b"x"[..]))];
    assert_eq!(answers(&answered), expected);
    assert_eq!(replica.machine().0, b"x");
}

#[test]
fn what_could_be_written_but_not_read_again_is_not_taken() {
    let settings = |max_command_bytes| Settings {
        max_command_bytes,
        ..Settings::default()
    };
    let largest = MESSAGE_LIMIT / 2 - Settings::default().max_batch_bytes - 256;
    let mut original = opened(CONFIG, settings(largest));
    let command = vec![b'x'; largest];
    let request = request(1, Operation::Apply(&command));
    propose(&mut original, request);
    let records = original.end_turn(NOW).append.unwrap().records;
    for record in records.iter() {
        quorate_core::codec::decode::<Written>("record", record).unwrap();
    }
    let too_large = recovered(CONFIG, settings(largest + 1), Stored::default());
    assert!(matches!(too_large, Err(Halt::Settings(_))));
}

#[test]
fn what_is_not_executed_is_proposed_again() {
    let deaf = Config {
        deaf: true,
        ..CONFIG
    };
    let mut replica = replica(deaf, Settings::default(), Stored::default());
    propose(&mut replica, request(0, Operation::Open));
    replica.end_turn(NOW);
    let retry = replica.deadline().unwrap();
    assert_eq!(retry, NOW + Settings::default().retry_after);
    replica.tick(Time(retry.0 - 1));
    assert_eq!(replica.deadline(), Some(retry));
    replica.tick(retry);
    assert_eq!(
        replica.deadline(),
        Some(retry + Settings::default().retry_after)
    );
}

#[test]
fn reads_are_answered_by_the_protocol_or_through_the_log() {
    for reads in [ReadAnswer::Ready, ReadAnswer::ThroughLog] {
        let mut replica = opened(
            Config {
                reads: Some(reads),
                ..CONFIG
            },
            Settings::default(),
        );
        apply(&mut replica, 1, "state");
        let level = ReadLevel::Linearizable;
        replica.read(ReadToken(7), Bytes::new(), level).unwrap();
        let effects = settle(&mut replica);
        let state = Bytes::from_static(b"state");
        assert_eq!(effects.reads, [(ReadToken(7), Ok(state))]);
        let ordered = reads == ReadAnswer::ThroughLog;
        assert_eq!(effects.executed.len(), usize::from(ordered));
        assert_eq!(replica.under_way(), 0);
    }
}

#[test]
fn reads_are_bounded() {
    let settings = Settings {
        max_pending: 1,
        max_command_bytes: 4,
        ..Settings::default()
    };
    let mut replica = opened(CONFIG, settings);
    let level = ReadLevel::Linearizable;
    let large = replica.read(ReadToken(0), Bytes::from_static(b"12345"), level);
    assert_eq!(large, Err(ReadError::TooLarge { size: 5, limit: 4 }));
    replica.read(ReadToken(1), Bytes::new(), level).unwrap();
    let more = replica.read(ReadToken(2), Bytes::new(), level);
    assert_eq!(more, Err(ReadError::Overloaded));
}

#[test]
fn reads_under_way_are_bounded_in_bytes() {
    let settings = Settings {
        max_pending_bytes: 10,
        ..Settings::default()
    };
    let mut replica = opened(CONFIG, settings);
    let level = ReadLevel::Linearizable;
    let mut read = |token| replica.read(ReadToken(token), Bytes::from_static(b"12345"), level);
    assert_eq!((read(1), read(2)), (Ok(()), Ok(())));
    assert_eq!(read(3), Err(ReadError::Overloaded));
    settle(&mut replica);
    let again = replica.read(ReadToken(4), Bytes::from_static(b"12345"), level);
    assert_eq!(again, Ok(()));
}

#[test]
fn answers_to_reads_in_a_turn_are_bounded_in_bytes_and_the_others_come_in_the_next() {
    let settings = Settings {
        max_read_bytes: 10,
        ..Settings::default()
    };
    let mut replica = opened(CONFIG, settings);
    apply(&mut replica, 1, "seven..");
    for token in 0..5 {
        let level = ReadLevel::Linearizable;
        replica.read(ReadToken(token), Bytes::new(), level).unwrap();
    }
    for answered in [2, 2, 1] {
        replica.tick(NOW);
        assert_eq!(replica.end_turn(NOW).reads.len(), answered);
        assert_eq!(
            replica.deadline().is_some_and(|at| at <= NOW),
            answered == 2
        );
    }
    assert_eq!(replica.under_way(), 0);
}

#[test]
fn a_query_that_is_asked_again_is_ordered_again_and_answered_from_there() {
    let mut replica = opened(CONFIG, Settings::default());
    apply(&mut replica, 1, "a");
    let query = |replica: &mut Replica<Solo, Text>| {
        propose(replica, request(2, Operation::Query(b"")));
        settle(replica)
    };
    assert_eq!(answers(&query(&mut replica)), [(2, Ok(&b"a"[..]))]);
    apply(&mut replica, 3, "b");
    let again = query(&mut replica);
    assert_eq!(answers(&again), [(2, Ok(&b"ab"[..]))]);
    assert_eq!(again.executed.len(), 1);
    // Its client has the answers to all before 4.
    let mut next = request(4, Operation::Apply(b"c"));
    next.answered = 4;
    propose(&mut replica, next);
    settle(&mut replica);
    let dropped = Err(ProposeError::AnswerDropped);
    let late = query(&mut replica);
    assert_eq!(answers(&late), [(2, dropped)]);
    assert!(late.executed.is_empty());
}

#[test]
fn a_session_that_is_closed_executes_nothing_more() {
    let mut replica = opened(CONFIG, Settings::default());
    apply(&mut replica, 1, "a");
    for executed in [1, 0] {
        propose(&mut replica, request(2, Operation::Close));
        let closed = settle(&mut replica);
        assert_eq!(answers(&closed), [(2, Ok(&b""[..]))]);
        assert_eq!(closed.executed.len(), executed);
    }
    let expired = Err(ProposeError::SessionExpired);
    assert_eq!(
        answers(&apply(&mut replica, 1, "a")),
        [(1, expired.clone())]
    );
    propose(&mut replica, request(0, Operation::Open));
    assert_eq!(answers(&settle(&mut replica)), [(0, expired)]);
    assert_eq!(replica.machine().0, b"a");
}

#[test]
fn records_are_replayed_after_a_restart() {
    let mut original = opened(CONFIG, Settings::default());
    let command = Operation::Apply(b"x");
    propose(&mut original, request(1, command));
    let records: Records = original.end_turn(NOW).append.unwrap().records;
    let open = Batch::of_one(request(0, Operation::Open));
    let first = Written {
        slot: Slot(1),
        batch: open,
    };
    let mut stored = Stored::default();
    stored
        .records
        .push(quorate_core::codec::encode(&first).unwrap().into());
    stored
        .records
        .extend(records.iter().map(Bytes::copy_from_slice));
    let mut restored = replica(CONFIG, Settings::default(), stored);
    assert_eq!(restored.machine().0, b"x");
    assert_eq!(answers(&apply(&mut restored, 1, "x")), [(1, Ok(&b"x"[..]))]);
}

#[test]
fn a_fetched_snapshot_is_installed_only_if_it_is_accepted_whole_and_ahead() {
    let (_, good) = snapshotted(small_snapshots());
    let fetch = |snapshot: &Snapshot| {
        let behind = Config {
            behind: true,
            ..CONFIG
        };
        let mut replica = replica(behind, Settings::default(), Stored::default());
        replica.tick(NOW);
        assert!(replica.end_turn(NOW).fetch.len() == 1);
        replica.fetched(NOW, ReplicaId(1), Some(snapshot.clone()));
        settle(&mut replica);
        replica.machine().0.clone()
    };
    assert_eq!(fetch(&good), b"ab");
    let mut unvouched = good.clone();
    unvouched.id.anchor = Bytes::new();
    assert!(fetch(&unvouched).is_empty());
    let mut altered = good.clone();
    altered.body = Bytes::from_static(b"other");
    assert!(fetch(&altered).is_empty());
}

#[test]
fn after_a_failure_of_storage_nothing_leaves() {
    let mut replica = opened(CONFIG, Settings::default());
    let command = Operation::Apply(b"x");
    propose(&mut replica, request(1, command));
    let ticket = replica.end_turn(NOW).append.unwrap().ticket;
    replica.storage_failed(StorageError::InUse {
        path: String::from("disk"),
    });
    replica.durable(ticket);
    let effects = replica.end_turn(NOW);
    assert!(matches!(effects.halt, Some(Halt::Storage(_))));
    assert!(effects.answers.is_empty());
    assert!(replica.end_turn(NOW).append.is_none());
}

/// Slots 2 to 4 have these times; slot 1 opens the session.
fn told(times: &'static [u64], settings: &Settings) -> String {
    let config = Config { times, ..CONFIG };
    let mut replica = opened(config.clone(), settings.clone());
    apply(&mut replica, 1, "a");
    let offer = apply(&mut replica, 2, "b").offer.unwrap();
    let stored = Stored {
        records: Vec::new(),
        snapshot: Some(offer.as_ref().clone()),
    };
    let mut restored = self::replica(config, settings.clone(), stored);
    apply(&mut restored, 3, "c");
    let state = restored.digest().unwrap();
    apply(&mut replica, 3, "c");
    assert_eq!(replica.digest().unwrap(), state, "as without the snapshot");
    let answer = apply(&mut replica, 3, "c");
    let text = answer.answers[0].result.clone().unwrap();
    String::from_utf8(text.to_vec()).unwrap()
}

#[test]
fn the_agreed_time_goes_on_whatever_was_proposed() {
    let mut settings = small_snapshots();
    assert_eq!(told(&[5, 10, 20, 30], &settings), "5:10:a20:b30:c");
    assert_eq!(told(&[5, 10, 10, 7], &settings), "5:10:a11:b12:c");
    assert_eq!(told(&[], &settings), "abc");
    settings.mutant = Some(Mutant::AgreedTimeAsProposed);
    assert_eq!(told(&[5, 10, 10, 7], &settings), "5:10:a10:b7:c");
}

/// What room there is left is for what is under way, and for what others have ordered.
#[test]
fn a_replica_short_of_room_takes_no_new_commands_and_answers_reads() {
    for reads in [ReadAnswer::Ready, ReadAnswer::ThroughLog] {
        let mut replica = opened(
            Config {
                reads: Some(reads),
                ..CONFIG
            },
            Settings::default(),
        );
        propose(&mut replica, request(1, Operation::Apply(b"x")));
        replica.short_of_room(true);
        for sequence in [1, 2] {
            propose(&mut replica, request(sequence, Operation::Apply(b"x")));
        }
        let level = ReadLevel::Linearizable;
        replica.read(ReadToken(7), Bytes::new(), level).unwrap();
        let effects = settle(&mut replica);
        let full = ProposeError::DiskFull;
        assert!(full.is_overload() && !full.may_have_happened());
        assert_eq!(answers(&effects), [(2, Err(full)), (1, Ok(&b"x"[..]))]);
        let read = &effects.reads;
        assert!(matches!(read[..], [(ReadToken(7), Ok(_))]), "{read:?}");
        replica.short_of_room(false);
        propose(&mut replica, request(2, Operation::Apply(b"y")));
        assert_eq!(answers(&settle(&mut replica)), [(2, Ok(&b"xy"[..]))]);
    }
}
