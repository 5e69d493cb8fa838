//! The least a protocol can be: replica 0 leads for ever. While it is down nothing is ordered,
//! but nothing is lost either. It is here so that the simulator can be tested without Raft, and
//! has flaws that each of the checkers must see.

use std::time::Duration;

use quorate_core::Bytes;
use quorate_core::crypto::Verifier;
use quorate_core::epoch::Setting;
use quorate_core::frontier::Frontier;
use quorate_core::id::{EntryId, ReplicaId, Slot, Time};
use quorate_core::output::Output;
use quorate_core::protocol::{
    self, Commit, Context, Dest, FaultModel, Fetch, Input, Invalid, Order, Protocol, ReadAnswer,
    RecoverError, Recovered, Role, SnapshotRef, Status, Violation,
};
use quorate_core::quorum::{Majority, Quorum as _};
use quorate_core::request::{Batch, Operation};
use serde::{Deserialize, Serialize};

const LEADER: ReplicaId = ReplicaId(0);
const BEAT: Duration = Duration::from_millis(20);

/// What is wrong with a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flaw {
    /// The leader commits what it alone has, before it is durable.
    CommitsAlone,
    /// Replica 1 executes nothing at slot 9.
    LeavesOut,
    /// Everyone answers reads at once.
    ReadsAnywhere,
    /// The leader forgets what it was told after a restart.
    FallsSilent,
    /// The leader never orders what client 0 writes.
    PassesOver,
    /// No flaw: a follower that lacks more than [`FEW`] entries takes none, but fetches a snapshot
    /// from the leader.
    Fetches,
}

/// How many entries a follower that fetches snapshots may lack.
const FEW: u64 = 4;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Message {
    Forward(Batch),
    Append {
        after: Slot,
        entries: Vec<Batch>,
        commit: Slot,
    },
    Ack {
        through: Slot,
    },
}

impl protocol::Message for Message {
    fn kind(&self) -> &'static str {
        match self {
            Message::Forward(_) => "forward",
            Message::Append { .. } => "append",
            Message::Ack { .. } => "ack",
        }
    }

    fn is_promise(&self) -> bool {
        match self {
            Message::Forward(_) => false,
            Message::Append { .. } | Message::Ack { .. } => true,
        }
    }

    fn verify(&self, _: ReplicaId, _: &Verifier) -> Result<(), Invalid> {
        Ok(())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Beat;

#[derive(Debug)]
pub(crate) struct FixedLeader {
    me: ReplicaId,
    n: usize,
    flaw: Option<Flaw>,
    restarted: bool,
    log: Vec<Batch>,
    commit: usize,
    acked: Vec<usize>,
    sent: Vec<usize>,
}

/// The sessions of a simulated client are numbered from a multiple of so many.
const SESSIONS: u64 = 1 << 32;

fn writes_of_client_0(batch: &Batch) -> bool {
    batch.requests().any(|request| {
        request.session.number < SESSIONS && matches!(request.operation, Operation::Apply(_))
    })
}

impl FixedLeader {
    fn append(&mut self, to: ReplicaId, out: &mut Output<Self>) {
        let after = self.sent[to.index()];
        self.sent[to.index()] = self.log.len();
        let message = Message::Append {
            after: Slot(after as u64),
            entries: self.log[after..].to_vec(),
            commit: Slot(self.commit as u64),
        };
        out.send(Dest::One(to), message);
    }

    fn take(&mut self, batch: Batch, out: &mut Output<Self>) {
        if self.me != LEADER {
            return out.send(Dest::One(LEADER), Message::Forward(batch));
        }
        let silent = self.flaw == Some(Flaw::FallsSilent) && self.restarted;
        let passed_over = self.flaw == Some(Flaw::PassesOver) && writes_of_client_0(&batch);
        if silent || passed_over {
            return;
        }
        self.log.push(batch.clone());
        out.persist(batch);
        if self.flaw == Some(Flaw::CommitsAlone) {
            self.commit_through(self.log.len(), out);
        }
        let through = Slot(self.log.len() as u64);
        out.send(Dest::One(LEADER), Message::Ack { through });
        self.append_to_all(out);
    }

    fn append_to_all(&mut self, out: &mut Output<Self>) {
        for to in ReplicaId::all(self.n).filter(|to| *to != LEADER) {
            self.append(to, out);
        }
    }

    fn commit_through(&mut self, through: usize, out: &mut Output<Self>) {
        while self.commit < through.min(self.log.len()) {
            let skip = self.flaw == Some(Flaw::LeavesOut) && self.me.0 == 1 && self.commit == 8;
            out.commit(Commit {
                id: EntryId::single(Slot(self.commit as u64 + 1)),
                batch: match skip {
                    true => Batch::noop(),
                    false => self.log[self.commit].clone(),
                },
                checkpoint: false,
                agreed: None,
            });
            self.commit += 1;
        }
    }

    /// Entries that a snapshot holds are not needed any more.
    fn installed(&mut self, through: Slot, out: &mut Output<Self>) {
        while self.log.len() < through.0 as usize {
            self.log.push(Batch::noop());
            out.persist(Batch::noop());
        }
        self.commit = self.commit.max(through.0 as usize);
    }

    fn hear(&mut self, from: ReplicaId, message: Message, out: &mut Output<Self>) {
        match message {
            Message::Forward(batch) => self.take(batch, out),
            Message::Append {
                after,
                entries,
                commit,
            } => {
                let lacks = commit.0.saturating_sub(self.log.len() as u64);
                if self.flaw == Some(Flaw::Fetches) && lacks > FEW {
                    return out.fetch(Fetch {
                        from,
                        at_least: Frontier::single(Slot(self.log.len() as u64 + 1)),
                    });
                }
                for (at, entry) in (after.0 as usize..).zip(entries) {
                    if at == self.log.len() {
                        self.log.push(entry.clone());
                        out.persist(entry);
                    }
                }
                self.commit_through(commit.0 as usize, out);
                let through = Slot(self.log.len() as u64);
                out.send(Dest::One(from), Message::Ack { through });
            }
            Message::Ack { through } => {
                let acked = &mut self.acked[from.index()];
                *acked = (*acked).max(through.0 as usize);
                let reached = Majority::of(self.n).reached(&self.acked);
                self.commit_through(reached.unwrap_or(0), out);
            }
        }
    }
}

impl Protocol for FixedLeader {
    type Config = Option<Flaw>;
    type Message = Message;
    type Record = Batch;
    type Timer = Beat;
    const NAME: &'static str = "fixed-leader";
    const FAULTS: FaultModel = FaultModel::Crash;
    const ORDER: Order = Order::Total;

    fn agreed_settings(_: &Option<Flaw>, _: usize) -> Vec<Setting> {
        Vec::new()
    }

    fn recover(
        context: Context,
        flaw: Option<Flaw>,
        past: Recovered<Batch>,
    ) -> Result<Self, RecoverError> {
        let snapshot = past.snapshot.map_or(0, |s| s.at.slot().0 as usize);
        Ok(FixedLeader {
            me: context.me,
            n: context.n(),
            flaw,
            restarted: !past.records.is_empty(),
            commit: snapshot,
            acked: vec![0; context.n()],
            sent: vec![0; context.n()],
            log: past.records,
        })
    }

    fn step(&mut self, now: Time, input: Input<Self>, out: &mut Output<Self>) {
        match input {
            Input::Start if self.me == LEADER => {
                let through = Slot(self.log.len() as u64);
                out.send(Dest::One(LEADER), Message::Ack { through });
                out.arm(Beat, now + BEAT);
            }
            Input::Timer(Beat) => {
                self.sent.clone_from(&self.acked);
                self.append_to_all(out);
                out.arm(Beat, now + BEAT);
            }
            Input::Message(message) => {
                let (from, message) = message.into_parts();
                self.hear(from, message, out);
            }
            Input::Propose { batch, .. } => self.take(batch, out),
            Input::Read { id, .. } => {
                let ready = self.flaw == Some(Flaw::ReadsAnywhere);
                out.answer(
                    id,
                    match ready {
                        true => ReadAnswer::Ready,
                        false => ReadAnswer::ThroughLog,
                    },
                );
            }
            Input::Snapshotted(snapshot) => out.offer(snapshot.at, Bytes::new()),
            Input::Installed(snapshot) => self.installed(snapshot.at.slot(), out),
            Input::Start | Input::EndOfTurn => {}
        }
    }

    fn status(&self) -> Status {
        Status {
            protocol: Self::NAME.into(),
            me: self.me,
            role: match self.me == LEADER {
                true => Role::Leader,
                false => Role::Follower,
            },
            regime: 1,
            leader: Some(LEADER),
            committed: self.commit as u64,
        }
    }

    fn accepts(&self, _: &SnapshotRef) -> bool {
        true
    }

    fn check(&self) -> Result<(), Violation> {
        Ok(())
    }
}
