//! A bench for PBFT replicas: one thread, no network, no disk, real keys, and every effect in
//! view.
#![allow(dead_code, reason = "each test file uses its own part of the bench")]

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use quorate_core::codec;
use quorate_core::crypto::{
    Digest, Digester, Domain, GroupId, Members, SecretKey, Signature, Signer, Verifier,
};
use quorate_core::frontier::Frontier;
use quorate_core::id::{ReplicaId, Slot, Time};
use quorate_core::machine::Keys;
use quorate_core::output::{Output, TimerOp, Write};
use quorate_core::protocol::{
    Context, Dest, Event, Fetch, Input, Invalid, Message as _, Protocol, ReadAnswer, ReadId,
    RecoverError, Recovered, Role, SnapshotRef, Verified,
};
use quorate_core::request::{Batch, Operation, Request, SessionId};
use quorate_pbft::{
    CheckpointVote, Config, Message, NewView, Pbft, PrepareVote, Proposal, Record, Timer, View,
    ViewChange,
};

/// Replica `index`.
pub(crate) fn r(index: u8) -> ReplicaId {
    ReplicaId(index)
}

/// A batch of one command, the only one with this text.
pub(crate) fn command(text: &str) -> Batch {
    let key = SecretKey::from_seed([99; 32]).public();
    let digest = Digest::of(text.as_bytes());
    Batch::of_one(Request {
        session: SessionId {
            client: key,
            number: 1,
        },
        sequence: u64::from_le_bytes(digest.0[..8].try_into().expect("eight bytes")),
        answered: 0,
        operation: Operation::Apply(text.as_bytes()),
    })
}

/// The command in a batch; the no-op is empty.
pub(crate) fn text(batch: &Batch) -> String {
    let commands = batch.requests().map(|request| match request.operation {
        Operation::Apply(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        other => format!("{other:?}"),
    });
    commands.collect()
}

fn secret(index: ReplicaId) -> SecretKey {
    SecretKey::from_seed([index.0 + 1; 32])
}

pub(crate) fn members(n: usize) -> Members {
    let keys: Vec<_> = ReplicaId::all(n).map(|id| secret(id).public()).collect();
    Members::new(GroupId(1), keys)
}

pub(crate) fn signer(index: u8) -> Signer {
    Signer::new(secret(r(index)), GroupId(1))
}

pub(crate) fn context(me: ReplicaId, n: usize, seed: u8) -> Context {
    let members = members(n);
    Context {
        me,
        signer: Signer::new(secret(me), members.group()),
        verifier: Verifier::new(members.clone()),
        members,
        seed: [seed; 32],
    }
}

/// Small windows, so that checkpoints come soon.
pub(crate) fn config() -> Config {
    Config {
        checkpoint_every: 4,
        window: 8,
        ..Config::default()
    }
}

/// Whether a message from `from` is let in, in a cluster of four.
pub(crate) fn verify(from: u8, message: &Message) -> Result<(), Invalid> {
    message.verify(r(from), &Verifier::new(members(4)))
}

fn statement(view: u64, slot: u64, digest: &Digest) -> Vec<u8> {
    let mut bytes = view.to_le_bytes().to_vec();
    bytes.extend_from_slice(&slot.to_le_bytes());
    bytes.extend_from_slice(&digest.0);
    bytes
}

/// A pre-prepare, signed by the primary of `view` among four.
pub(crate) fn proposal(view: u64, slot: u64, digest: Digest) -> Proposal {
    proposal_by((view % 4) as u8, view, slot, digest)
}

/// A pre-prepare, signed by `author`, whether it may or not.
pub(crate) fn proposal_by(author: u8, view: u64, slot: u64, digest: Digest) -> Proposal {
    Proposal::signed(&signer(author), View(view), Slot(slot), digest)
}

pub(crate) fn pre_prepare(view: u64, slot: u64, text: &str) -> Message {
    let batch = command(text);
    Message::PrePrepare {
        proposal: proposal(view, slot, batch.digest()),
        batch,
    }
}

pub(crate) fn prepare_signature(author: u8, view: u64, slot: u64, digest: &Digest) -> Signature {
    signer(author).sign(Domain("pbft/prepare"), &statement(view, slot, digest))
}

pub(crate) fn prepare(author: u8, view: u64, slot: u64, text: &str) -> Message {
    let digest = command(text).digest();
    Message::Prepare {
        view: View(view),
        votes: vec![PrepareVote {
            slot: Slot(slot),
            digest,
            signature: prepare_signature(author, view, slot, &digest),
        }],
    }
}

pub(crate) fn commit(view: u64, slot: u64, text: &str) -> Message {
    Message::Commit {
        view: View(view),
        votes: vec![(Slot(slot), command(text).digest())],
    }
}

pub(crate) fn checkpoint(author: u8, slot: u64, digest: Digest) -> CheckpointVote {
    let mut statement = slot.to_le_bytes().to_vec();
    statement.extend_from_slice(&digest.0);
    CheckpointVote {
        slot: Slot(slot),
        digest,
        signature: signer(author).sign(Domain("pbft/checkpoint"), &statement),
    }
}

/// The encoding of a checkpoint certificate, signed by `authors`, each by itself.
pub(crate) fn anchor(slot: u64, digest: Digest, authors: &[u8]) -> Bytes {
    let signatures: Vec<(ReplicaId, Signature)> = authors
        .iter()
        .map(|author| (r(*author), checkpoint(*author, slot, digest).signature))
        .collect();
    let encoded = codec::encode(&(Slot(slot), digest, signatures));
    encoded.expect("it can be encoded").into()
}

/// A checkpoint certificate, right or wrong.
pub(crate) fn checkpoint_certificate(
    slot: u64,
    digest: Digest,
    authors: &[u8],
) -> quorate_pbft::CheckpointCertificate {
    codec::decode("certificate", &anchor(slot, digest, authors)).expect("it can be decoded")
}

/// A prepared certificate, right or wrong, with prepares by `authors`.
pub(crate) fn prepared(
    view: u64,
    slot: u64,
    text: &str,
    authors: &[u8],
) -> quorate_pbft::PreparedCertificate {
    let digest = command(text).digest();
    let prepares: Vec<(ReplicaId, Signature)> = authors
        .iter()
        .map(|author| (r(*author), prepare_signature(*author, view, slot, &digest)))
        .collect();
    prepared_with(proposal(view, slot, digest), prepares)
}

pub(crate) fn prepared_with(
    proposal: Proposal,
    prepares: Vec<(ReplicaId, Signature)>,
) -> quorate_pbft::PreparedCertificate {
    let encoded = codec::encode(&(proposal, prepares)).expect("it can be encoded");
    codec::decode("certificate", &encoded).expect("it can be decoded")
}

/// A view change of `author` that shows `prepared` and no checkpoint.
pub(crate) fn view_change(
    author: u8,
    view: u64,
    prepared: Vec<quorate_pbft::PreparedCertificate>,
) -> ViewChange {
    ViewChange::signed(&signer(author), (View(view), r(author)), None, prepared)
}

/// A new view of the right primary, with proposals for the digests given from slot 1 on.
pub(crate) fn new_view(view: u64, changes: Vec<ViewChange>, digests: &[Digest]) -> NewView {
    let slots = 1..;
    let proposals = slots.zip(digests);
    let proposals = proposals.map(|(slot, digest)| proposal(view, slot, *digest));
    let primary = signer((view % 4) as u8);
    NewView::signed(&primary, View(view), changes, proposals.collect())
}

/// The digest of a state in which the batches were executed.
fn state_digest(batches: impl Iterator<Item = Batch>) -> Digest {
    let mut digester = Digester::default();
    for batch in batches {
        digester.update(&batch.digest().0);
    }
    digester.finish()
}

/// One replica, with what it has said and done.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) pbft: Pbft,
    pub(crate) me: ReplicaId,
    n: usize,
    pub(crate) verifier: Verifier,
    pub(crate) now: Time,
    pub(crate) timers: BTreeMap<Timer, Time>,
    /// Whether a broken invariant ends the test.
    pub(crate) checks: bool,
    /// Whether each turn ends with a sync.
    pub(crate) syncs: bool,
    /// Whether each checkpoint is saved at once.
    pub(crate) saves: bool,
    pub(crate) durable: Vec<Record>,
    unsynced: Vec<Write<Record>>,
    held: Vec<(Dest, Message)>,
    own: VecDeque<Message>,
    pub(crate) sent: Vec<(ReplicaId, Message)>,
    pub(crate) commits: Vec<(Slot, Batch)>,
    /// What was executed before the batches in `commits`, as a digest.
    base: Option<SnapshotRef>,
    /// The last snapshot taken here.
    pub(crate) saved: Option<SnapshotRef>,
    pub(crate) answered: Vec<(ReadId, ReadAnswer)>,
    pub(crate) fetch: Option<Fetch>,
    pub(crate) offer: Option<(Frontier, Bytes)>,
    pub(crate) events: Vec<Event>,
}

impl Node {
    /// Replica `me` of `n`, with a past, started.
    pub(crate) fn recover(
        context: Context,
        config: Config,
        past: Recovered<Record>,
    ) -> Result<Node, RecoverError> {
        let (me, n, verifier) = (context.me, context.n(), context.verifier.clone());
        let (durable, base) = (past.records.clone(), past.snapshot.clone());
        let mut node = Node {
            pbft: Pbft::recover(context, config, past)?,
            me,
            n,
            verifier,
            now: Time::ZERO,
            timers: BTreeMap::new(),
            checks: true,
            syncs: true,
            saves: true,
            durable,
            unsynced: Vec::new(),
            held: Vec::new(),
            own: VecDeque::new(),
            sent: Vec::new(),
            commits: Vec::new(),
            saved: base.clone(),
            base,
            answered: Vec::new(),
            fetch: None,
            offer: None,
            events: Vec::new(),
        };
        node.turn(Input::Start);
        Ok(node)
    }

    /// Replica `me` of four, without a past.
    pub(crate) fn new(me: u8, config: &Config) -> Node {
        let context = context(r(me), 4, me);
        Node::recover(context, config.clone(), Recovered::nothing()).expect("a good past")
    }

    /// One input, and what follows from it until nothing more does.
    pub(crate) fn turn(&mut self, input: Input<Pbft>) {
        self.step(input);
        self.end_turn();
    }

    pub(crate) fn end_turn(&mut self) {
        loop {
            self.step(Input::EndOfTurn);
            if self.syncs {
                self.sync();
            }
            if self.own.is_empty() {
                return;
            }
            while let Some(message) = self.own.pop_front() {
                self.step(self.input(self.me, message));
            }
        }
    }

    pub(crate) fn step(&mut self, input: Input<Pbft>) {
        let mut out = Output::default();
        self.pbft.step(self.now, input, &mut out);
        if self.checks {
            self.pbft.check().expect("the invariants hold");
        }
        for op in out.timers() {
            match *op {
                TimerOp::Arm(timer, at) => self.timers.insert(timer, at),
                TimerOp::Disarm(timer) => self.timers.remove(&timer),
            };
        }
        self.route(out.sends().to_vec());
        if out.write().replaces || !out.write().records.is_empty() {
            self.unsynced.push(out.write().clone());
        }
        self.held.extend_from_slice(out.promises());
        self.answered.extend_from_slice(out.reads());
        self.fetch = out.wanted().cloned().or(self.fetch.take());
        self.offer = out.offered().cloned().or(self.offer.take());
        self.events.extend_from_slice(out.events());
        let mut snapshots = Vec::new();
        for commit in out.commits() {
            self.commits.push((commit.id.slot, commit.batch.clone()));
            if commit.checkpoint && self.saves {
                snapshots.push(self.state());
            }
        }
        for snapshot in snapshots {
            self.save(snapshot);
        }
    }

    /// The state as it is: what was executed since the beginning or the state installed.
    pub(crate) fn state(&self) -> SnapshotRef {
        let batches = self.commits.iter().map(|(_, batch)| batch.clone());
        let digest = match &self.base {
            None => state_digest(batches),
            Some(base) if self.commits.is_empty() => base.digest,
            Some(base) => {
                let mut digester = Digester::default();
                digester.update(&base.digest.0);
                digester.update(&state_digest(batches).0);
                digester.finish()
            }
        };
        let base = self.base.as_ref().map_or(Slot::ZERO, |b| b.at.slot());
        let slot = self.commits.last().map_or(base, |(slot, _)| *slot);
        SnapshotRef {
            at: Frontier::single(slot),
            digest,
            anchor: Bytes::new(),
        }
    }

    /// A snapshot is durable.
    pub(crate) fn save(&mut self, snapshot: SnapshotRef) {
        // From here on the digest is that of this state, and of what follows.
        self.commits_into_base(&snapshot);
        self.saved = Some(snapshot.clone());
        self.step(Input::Snapshotted(snapshot));
    }

    fn commits_into_base(&mut self, snapshot: &SnapshotRef) {
        self.base = Some(snapshot.clone());
        self.history.append(&mut self.commits);
    }

    /// All that was written is durable; promises leave.
    pub(crate) fn sync(&mut self) {
        for write in std::mem::take(&mut self.unsynced) {
            if write.replaces {
                self.durable.clear();
            }
            self.durable.extend(write.records);
        }
        let held = std::mem::take(&mut self.held);
        self.route(held);
    }
}
