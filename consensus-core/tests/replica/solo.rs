//! The smallest protocol there is, a state machine, and what tests do with a replica of them.

use std::io::{Read, Write};

use bytes::Bytes;
use quorate_core::consensus::ProposeError;
use quorate_core::crypto::{GroupId, Members, SecretKey, Signer, Verifier};
use quorate_core::epoch::Setting;
use quorate_core::frontier::Frontier;
use quorate_core::id::{EntryId, ReplicaId, Slot, Time, UnixTime};
use quorate_core::machine::{RestoreError, StateMachine};
use quorate_core::output::Output;
use quorate_core::protocol::{
    Agreed, Commit, Context, Dest, FaultModel, Fetch, Input, Invalid, Message, Order, Protocol,
    ReadAnswer, RecoverError, Recovered, Role, SnapshotRef, Status, Violation,
};
use quorate_core::replica::{Effects, Halt, Replica, Settings};
use quorate_core::request::{Batch, Operation, Request, SessionId};
use quorate_core::storage::Stored;
use serde::{Deserialize, Serialize};

/// Orders batches in the order in which they became durable.
#[derive(Debug)]
pub(crate) struct Solo {
    config: Config,
    next: Slot,
    log: Vec<Batch>,
}

#[derive(Clone, Debug)]
pub(crate) struct Config {
    /// What it answers, if anything.
    pub(crate) reads: Option<ReadAnswer>,
    /// Proposals are lost.
    pub(crate) deaf: bool,
    /// It believes itself behind.
    pub(crate) behind: bool,
    /// The times agreed on, a slot each.
    pub(crate) times: &'static [u64],
    /// It notes with its next record what it has committed.
    pub(crate) notes: bool,
    /// All replicas are to take a snapshot after each entry.
    pub(crate) checkpoints: bool,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Written {
    pub(crate) slot: Slot,
    pub(crate) batch: Batch,
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

    fn agreed_settings(_: &Config, _: usize) -> Vec<Setting> {
        Vec::new()
    }

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
            // What another orders it only keeps.
            Input::Message(message) if message.from() != ReplicaId(0) => {
                let from = message.from();
                out.persist((*message).clone());
                out.send(Dest::One(from), message.into_parts().1);
            }
            Input::Message(message) => {
                self.log.remove(0);
                let written = message.into_parts().1;
                if self.config.notes {
                    out.persist_with_next(written.clone());
                }
                self.commit(written.batch, out);
            }
            Input::Read { id, .. } => {
                if let Some(answer) = self.config.reads {
                    out.answer(id, answer);
                }
            }
            Input::Snapshotted(snapshot) => {
                out.rewrite(Vec::new());
                out.offer(snapshot.at, Bytes::from_static(b"anchor"));
            }
            Input::Installed(snapshot) => self.next = snapshot.at.slot().next(),
            Input::Timer(()) => out.fetch(Fetch {
                from: ReplicaId(1),
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
            checkpoint: self.config.checkpoints,
            agreed: time.map(agreed),
        });
        self.next = self.next.next();
    }
}

/// Appends each command, and each time it is told, to its state, and gives the state.
#[derive(Debug, Default)]
pub(crate) struct Text(pub(crate) Vec<u8>);

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

pub(crate) const NOW: Time = Time(1_000_000_000);

pub(crate) const CONFIG: Config = Config {
    reads: Some(ReadAnswer::Ready),
    deaf: false,
    behind: false,
    times: &[],
    notes: false,
    checkpoints: false,
};

pub(crate) fn session() -> SessionId {
    SessionId {
        client: SecretKey::from_seed([9; 32]).public(),
        number: 1,
    }
}

/// The others are there to be asked for snapshots.
pub(crate) fn members() -> Members {
    let keys = [0, 1, 2, 3].map(|seed| SecretKey::from_seed([seed; 32]).public());
    Members::new(GroupId(1), keys)
}

pub(crate) fn recovered(
    config: Config,
    settings: Settings,
    stored: Stored,
) -> Result<Replica<Solo, Text>, Halt> {
    let key = SecretKey::from_seed([0; 32]);
    let members = members();
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

pub(crate) fn replica(config: Config, settings: Settings, stored: Stored) -> Replica<Solo, Text> {
    let mut replica = recovered(config, settings, stored).unwrap();
    replica.start(NOW);
    replica.end_turn(NOW);
    replica
}

pub(crate) fn request(sequence: u64, operation: Operation<'_>) -> Request<'_> {
    Request {
        session: session(),
        sequence,
        answered: 0,
        operation,
    }
}

pub(crate) fn propose(replica: &mut Replica<Solo, Text>, request: Request<'_>) {
    for group in Batch::of_one(request).groups() {
        replica.propose(&group);
    }
}

/// A replica whose client's session is open.
pub(crate) fn opened(config: Config, settings: Settings) -> Replica<Solo, Text> {
    let mut replica = replica(config, settings, Stored::default());
    propose(&mut replica, request(0, Operation::Open));
    settle(&mut replica);
    replica
}

/// Ends turns, with storage that is done at once, until there is nothing more to do; gives all
/// effects that matter to a client.
pub(crate) fn settle(replica: &mut Replica<Solo, Text>) -> Effects<Solo> {
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

pub(crate) fn apply(
    replica: &mut Replica<Solo, Text>,
    sequence: u64,
    command: &str,
) -> Effects<Solo> {
    let operation = Operation::Apply(command.as_bytes());
    propose(replica, request(sequence, operation));
    settle(replica)
}

pub(crate) fn answers(effects: &Effects<Solo>) -> Vec<(u64, Result<&[u8], ProposeError>)> {
    let texts = effects.answers.iter();
    texts
        .map(|a| (a.sequence, a.result.as_deref().map_err(Clone::clone)))
        .collect()
}
