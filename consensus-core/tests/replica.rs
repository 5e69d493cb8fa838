//! The driver core around the smallest protocol there is: a single replica that orders what it is
//! given once that is durable. One claim a test.

use std::io::{Read, Write};

use bytes::Bytes;
use quorate_core::codec::MESSAGE_LIMIT;
use quorate_core::consensus::{ProposeError, ReadError, ReadLevel};
use quorate_core::crypto::{GroupId, Members, SecretKey, Signer, Verifier};
use quorate_core::frontier::Frontier;
use quorate_core::id::{EntryId, ReplicaId, Slot, Time, UnixTime};
use quorate_core::machine::{RestoreError, StateMachine};
use quorate_core::output::Output;
use quorate_core::protocol::{
    Agreed, Commit, Context, Dest, FaultModel, Fetch, Input, Invalid, Message, Order, Protocol,
    ReadAnswer, RecoverError, Recovered, Role, SnapshotRef, Status, Violation,
};
use quorate_core::replica::{Effects, Halt, Mutant, ReadToken, Replica, Settings};
use quorate_core::request::{Batch, Operation, Request, SessionId};
use quorate_core::storage::{Records, Snapshot, StorageError, Stored};
use serde::{Deserialize, Serialize};

/// Orders batches in the order in which they became durable.
#[derive(Debug)]
struct Solo {
    config: Config,
    next: Slot,
    log: Vec<Batch>,
}

#[derive(Clone, Debug)]
struct Config {
    reads: ReadAnswer,
    /// Proposals are lost.
    deaf: bool,
    /// It believes itself behind.
    behind: bool,
    /// The times agreed on, a slot each.
    times: &'static [u64],
    /// It notes with its next record what it has committed.
    notes: bool,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Written {
    slot: Slot,
    batch: Batch,
}

impl Message for Written {
    fn kind(&self) -> &'static str {
        "written"
    }

    fn is_promise(&self) -> bool {
        true
    }

    fn verify(&self, _from: ReplicaId, _verifier: &Verifier) -> Result<(), Invalid> {
        Ok(())
    }
}

impl Protocol for Solo {
    type Config = Config;
    type Message = Written;
    type Record = Written;
    type Timer = ();

    const NAME: &'static str = "solo";
    const FAULTS: FaultModel = FaultModel::Crash;
    const ORDER: Order = Order::Total;

    fn recover(
        _context: Context,
        config: Config,
        past: Recovered<Written>,
    ) -> Result<Self, RecoverError> {
        let through = past.snapshot.map_or(Slot::ZERO, |s| s.at.slot());
        let later = past.records.into_iter().filter(|r| r.slot > through);
        Ok(Solo {
            config,
            next: through.next(),
            log: later.map(|record| record.batch).collect(),
        })
    }

    fn step(&mut self, _now: Time, input: Input<Self>, out: &mut Output<Self>) {
        match input {
            Input::Start => {
                for batch in std::mem::take(&mut self.log) {
                    self.commit(batch, out);
                }
                if self.config.behind {
                    out.arm((), NOW);
                }
            }
            Input::Propose { batch, .. } if !self.config.deaf => {
                let slot = Slot(self.next.0 + self.log.len() as u64);
                self.log.push(batch.clone());
                let written = Written { slot, batch };
                out.persist(written.clone());
                out.send(Dest::All, written);
            }
            Input::Message(message) => {
                self.log.remove(0);
                let written = message.into_parts().1;
                if self.config.notes {
                    out.persist_with_next(written.clone());
                }
                self.commit(written.batch, out);
            }
            Input::Read { id, .. } => out.answer(id, self.config.reads),
            Input::Snapshotted(snapshot) => {
                out.rewrite(Vec::new());
                out.offer(snapshot.at, Bytes::from_static(b"anchor"));
            }
            Input::Installed(snapshot) => self.next = snapshot.at.slot().next(),
            Input::Timer(()) => out.fetch(Fetch {
                from: ReplicaId(0),
                at_least: Frontier::single(Slot(1)),
            }),
            Input::Propose { .. } | Input::EndOfTurn => {}
        }
    }

    fn status(&self) -> Status {
        Status {
            protocol: Self::NAME.into(),
            me: ReplicaId(0),
            role: Role::Leader,
            regime: 1,
            leader: Some(ReplicaId(0)),
            committed: self.next.previous().0,
        }
    }

    fn accepts(&self, snapshot: &SnapshotRef) -> bool {
        snapshot.anchor == b"anchor"[..]
    }

    fn check(&self) -> Result<(), Violation> {
        Ok(())
    }
}

impl Solo {
    fn commit(&mut self, batch: Batch, out: &mut Output<Self>) {
        let time = self.config.times.get(self.next.0 as usize - 1);
        let agreed = |time: &u64| Agreed {
            time: UnixTime(*time),
            nonce: [0; 32],
        };
        out.commit(Commit {
            id: EntryId::single(self.next),
            batch,
            checkpoint: false,
            agreed: time.map(agreed),
        });
        self.next = self.next.next();
    }
}

/// Appends each command, and each time it is told, to its state, and gives the state.
#[derive(Debug, Default)]
struct Text(Vec<u8>);

impl StateMachine for Text {
    fn apply(&mut self, command: &[u8]) -> Bytes {
        self.0.extend_from_slice(command);
        self.query(b"")
    }

    fn agreed(&mut self, agreed: &Agreed) {
        let time = format!("{}:", agreed.time.0);
        self.0.extend_from_slice(time.as_bytes());
    }

    fn query(&self, _query: &[u8]) -> Bytes {
        Bytes::copy_from_slice(&self.0)
    }

    fn snapshot(&self, to: &mut dyn Write) -> std::io::Result<()> {
        to.write_all(&self.0)
    }

    fn restore(&mut self, from: &mut dyn Read) -> Result<(), RestoreError> {
        self.0.clear();
        from.read_to_end(&mut self.0)?;
        Ok(())
    }
}

const NOW: Time = Time(1_000_000_000);

const CONFIG: Config = Config {
    reads: ReadAnswer::Ready,
    deaf: false,
    behind: false,
    times: &[],
    notes: false,
};

fn session() -> SessionId {
    SessionId {
        client: SecretKey::from_seed([9; 32]).public(),
        number: 1,
    }
}

fn recovered(
    config: Config,
    settings: Settings,
    stored: Stored,
) -> Result<Replica<Solo, Text>, Halt> {
    let key = SecretKey::from_seed([0; 32]);
    let members = Members::new(GroupId(1), [key.public()]);
    let context = Context {
        me: ReplicaId(0),
        signer: Signer::new(key, GroupId(1)),
        verifier: Verifier::new(members.clone()),
        members,
        seed: [0; 32],
        wall_clock: UnixTime(0),
    };
    Replica::recover(context, config, settings, Text::default(), stored)
}

fn replica(config: Config, settings: Settings, stored: Stored) -> Replica<Solo, Text> {
    let mut replica = recovered(config, settings, stored).unwrap();
    replica.start(NOW);
    replica.end_turn(NOW);
    replica
}

fn request(sequence: u64, operation: Operation<'_>) -> Request<'_> {
    Request {
        session: session(),
        sequence,
        answered: 0,
        operation,
    }
}

fn propose(replica: &mut Replica<Solo, Text>, request: Request<'_>) {
    for group in Batch::of_one(request).groups() {
        replica.propose(&group);
    }
}

/// A replica whose client's session is open.
fn opened(config: Config, settings: Settings) -> Replica<Solo, Text> {
    let mut replica = replica(config, settings, Stored::default());
    propose(&mut replica, request(0, Operation::Open));
    settle(&mut replica);
    replica
}

/// Ends turns, with storage that is done at once, until there is nothing more to do; gives all
/// effects that matter to a client.
fn settle(replica: &mut Replica<Solo, Text>) -> Effects<Solo> {
    let mut all = Effects::default();
    loop {
        let effects = replica.end_turn(NOW);
        all.answers.extend(effects.answers);
        all.reads.extend(effects.reads);
        all.executed.extend(effects.executed);
        all.offer = effects.offer.or(all.offer);
        if effects.append.is_none() && effects.save.is_empty() {
            return all;
        }
        if let Some(append) = effects.append {
            replica.durable(append.ticket);
        }
        for (ticket, _) in effects.save {
            replica.saved(NOW, ticket);
        }
    }
}

fn apply(replica: &mut Replica<Solo, Text>, sequence: u64, command: &str) -> Effects<Solo> {
    let operation = Operation::Apply(command.as_bytes());
    propose(replica, request(sequence, operation));
    settle(replica)
}

fn answers(effects: &Effects<Solo>) -> Vec<(u64, Result<&[u8], ProposeError>)> {
    let texts = effects.answers.iter();
    texts
        .map(|a| (a.sequence, a.result.as_deref().map_err(Clone::clone)))
        .collect()
}

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
        let mut replica = opened(Config { reads, ..CONFIG }, Settings::default());
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
        ..Settings::default()
    };
    let mut replica = opened(CONFIG, settings);
    let level = ReadLevel::Linearizable;
    replica.read(ReadToken(1), Bytes::new(), level).unwrap();
    let more = replica.read(ReadToken(2), Bytes::new(), level);
    assert_eq!(more, Err(ReadError::Overloaded));
}

fn small_snapshots() -> Settings {
    Settings {
        snapshot_every_bytes: 1,
        ..Settings::default()
    }
}

/// Runs two commands with a snapshot after each entry; gives what the snapshot is and holds.
fn snapshotted(settings: Settings) -> (Replica<Solo, Text>, Snapshot) {
    let mut replica = opened(CONFIG, settings);
    apply(&mut replica, 1, "a");
    let effects = apply(&mut replica, 2, "b");
    let offer = effects.offer.expect("an offer").as_ref().clone();
    (replica, offer)
}

#[test]
fn a_snapshot_is_offered_once_it_is_durable_and_restores_state_and_sessions() {
    let (original, offer) = snapshotted(small_snapshots());
    assert_eq!(offer.id.anchor, b"anchor"[..]);
    let stored = Stored {
        records: Vec::new(),
        snapshot: Some(offer),
    };
    let mut restored = replica(CONFIG, small_snapshots(), stored);
    assert_eq!(restored.machine().0, b"ab");
    assert_eq!(restored.digest().unwrap(), original.digest().unwrap());
    let again = apply(&mut restored, 2, "b");
    assert_eq!(answers(&again), [(2, Ok(&b"ab"[..]))]);
}

#[test]
fn a_snapshot_is_saved_only_when_all_records_written_before_it_are_durable() {
    let mut replica = opened(CONFIG, small_snapshots());
    let mut turn_with = |sequence, command: &[u8]| {
        let operation = Operation::Apply(command);
        propose(&mut replica, request(sequence, operation));
        replica.end_turn(NOW).append.unwrap().ticket
    };
    let (first, second) = (turn_with(1, b"a"), turn_with(2, b"b"));
    replica.durable(first);
    let effects = replica.end_turn(NOW);
    assert_eq!((effects.executed.len(), effects.save.len()), (1, 0));
    replica.durable(second);
    let effects = replica.end_turn(NOW);
    assert_eq!((effects.executed.len(), effects.save.len()), (1, 1));
}

#[test]
fn without_the_sessions_in_it_a_snapshot_forgets_who_was_answered() {
    let settings = Settings {
        mutant: Some(Mutant::SessionsLeftOutOfSnapshot),
        ..small_snapshots()
    };
    let (_, offer) = snapshotted(settings);
    let stored = Stored {
        records: Vec::new(),
        snapshot: Some(offer),
    };
    let mut restored = replica(CONFIG, Settings::default(), stored);
    let again = apply(&mut restored, 2, "b");
    assert_eq!(answers(&again), [(2, Err(ProposeError::SessionExpired))]);
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
        assert!(replica.end_turn(NOW).fetch.is_some());
        replica.fetched(Some(snapshot.clone()));
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
