//! The state of a replica, and `step`, the only dispatch over inputs, messages and roles.

use std::collections::BTreeMap;
use std::time::Duration;

use quorate_core::id::{ReplicaId, Slot, Time};
use quorate_core::output::Output;
use quorate_core::protocol::{Dest, Event, Input};
use rand_chacha::ChaCha8Rng;

use crate::checkpoint::Learning;
use crate::config::{Config, Quorums};
use crate::election::Candidate;
use crate::log::{Ballot, Log};
use crate::message::Message;
use crate::mutant::Mutant;
use crate::normal::{Follower, Leader};
use crate::prevote::PreVote;
use crate::read::{Grant, Reads};
use crate::record::Record;

/// Multi-Paxos, as one replica runs it: proposer, acceptor and learner in one.
/// [Lamport01 §2.5]
#[derive(Debug)]
pub struct MultiPaxos {
    pub(crate) me: ReplicaId,
    pub(crate) n: usize,
    pub(crate) config: Config,
    pub(crate) quorums: Quorums,
    pub(crate) rng: ChaCha8Rng,

    // Durable: every change goes into a record in the same step. [Lamport01 §2.5]
    /// Nothing is accepted in lower ballots. A candidate's and a leader's own ballot.
    pub(crate) promised: Ballot,
    pub(crate) log: Log,
    /// That promise is not known to be durable: the disk may hang.
    pub(crate) promising: bool,

    /// All through this slot is known chosen and has been handed over for execution, by this
    /// replica or inside a snapshot.
    pub(crate) executed: Slot,
    /// Where the newest durable snapshot ends.
    pub(crate) snapshot: Slot,
    /// The log no longer goes on from the records: they must be written anew.
    pub(crate) rewrite_due: bool,
    /// The highest round heard of. That alone raises no ballot; the next campaign goes beyond it.
    pub(crate) round: u64,
    pub(crate) role: Role,
    pub(crate) election: ElectionClock,
    /// What was promised to a leader that reads by lease.
    pub(crate) grant: Option<Grant>,
    pub(crate) reads: Reads,
    /// Chosen values were asked for.
    pub(crate) learning: Option<Learning>,
    /// Peers that were told to fetch a snapshot, with the slot beyond which they need the log then.
    pub(crate) fetching: BTreeMap<ReplicaId, Slot>,
    /// A slot for which two values were said to be chosen.
    pub(crate) conflict: Option<Slot>,
    /// The ballot and leader that the last event told of.
    pub(crate) announced: (Ballot, Option<ReplicaId>),
}

/// What a replica is in the ballot promised.
#[derive(Debug)]
pub(crate) enum Role {
    Follower(Follower),
    Candidate(Box<Candidate>),
    Leader(Box<Leader>),
}

/// When to campaign if nothing is heard of a leader.
///
/// The timer is not armed again with each message, but when it fires too early.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ElectionClock {
    pub(crate) deadline: Time,
    /// The wait drawn last.
    pub(crate) timeout: Duration,
    /// When a leader was heard last, or a promise given, or this replica began to campaign.
    pub(crate) heard: Option<Time>,
    /// The others were asked whether a campaign could be won.
    pub(crate) pre_vote: Option<PreVote>,
    /// How many campaigns or leaderships of this replica's came to nothing since it last heard of
    /// a leader.
    pub(crate) failures: u32,
}

/// Multi-Paxos's timers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Timer {
    /// A follower has waited long enough for a leader.
    Election,
    /// A leader must show that it leads, and send again what was not answered.
    Heartbeat,
    /// A candidate or follower sends again what was not answered.
    Retransmit,
}

pub(crate) type Out = Output<MultiPaxos>;

impl MultiPaxos {
    pub(crate) fn dispatch(&mut self, now: Time, input: Input<MultiPaxos>, out: &mut Out) {
        match input {
            Input::Start => self.start(now, out),
            Input::Message(message) => {
                let (from, message) = message.into_parts();
                self.receive(now, from, message, out);
            }
            Input::Timer(Timer::Election) => self.election_timed_out(now, out),
            Input::Timer(Timer::Heartbeat) => self.heartbeat_is_due(now, out),
            Input::Timer(Timer::Retransmit) => self.prepare_again(now, out),
            Input::Propose { batch, keys: _ } => self.propose(now, batch, out),
            Input::Read { id, keys: _ } => self.read(id, out),
            Input::EndOfTurn => self.end_of_turn(now, out),
            Input::Snapshotted(snapshot) => self.snapshotted(&snapshot, out),
            Input::Installed(snapshot) => self.installed(now, &snapshot, out),
        }
        self.announce(out);
    }

    fn start(&mut self, now: Time, out: &mut Out) {
        if self.rewrite_due {
            self.rewrite(out);
        }
        self.offer_snapshot(out);
        if let Some(grant) = &mut self.grant {
            grant.extend(now + self.config.lease);
        }
        if let Some(heard) = &mut self.election.heard {
            *heard = now;
        }
        self.advance(out);
        self.restart_election_clock(now, out);
    }

    fn receive(&mut self, now: Time, from: ReplicaId, message: Message, out: &mut Out) {
        match message {
            Message::Prepare(prepare) => self.prepare(now, from, &prepare, out),
            Message::Promise(promise) => self.promise(now, from, promise, out),
            Message::Accept(accept) => self.accept(now, from, accept, out),
            Message::Accepted(acceptance) | Message::Echo(acceptance) => {
                self.accepted(now, from, &acceptance, out);
            }
            Message::Rejected { ballot, promised } => self.rejected(now, ballot, promised, out),
            Message::Learn { from: slot } => self.learn(from, slot, out),
            Message::Chosen { proposals } => self.chosen(proposals, out),
            Message::SnapshotNeeded { through } => self.snapshot_needed(from, through, out),
            Message::Forward { seen, batch } => self.forwarded(now, (from, seen), batch, out),
            Message::Await { through } => self.awaits(now, from, through, out),
            Message::ReadQuery { ticket } => self.read_query(from, ticket, out),
            Message::ReadQueryReply { ticket, accepted } => {
                self.read_query_reply(from, ticket, accepted);
            }
            Message::ReadIndex { ticket } => self.read_index(from, ticket),
            Message::ReadIndexReply { ticket, index } => self.read_index_reply(ticket, index),
            Message::HandOver { ballot } => self.handed_over(now, ballot, out),
            Message::Offer { ballot } => self.offered(now, ballot, out),
            Message::Willing { ballot } => self.hand_over(now, from, ballot, out),
            Message::PreVote {
                ticket,
                executed,
                instead_of,
            } => self.pre_vote(now, (from, ticket), (executed, instead_of), out),
            Message::PreVoteGranted { ticket } => self.pre_vote_granted(now, from, ticket, out),
            Message::Promised { ballot } => {
                self.promising &= from != self.me || ballot != self.promised;
            }
        }
    }

    /// Sends what was held back to be sent together: the reads, the new proposals, one
    /// acknowledgement, and questions for what is missing.
    fn end_of_turn(&mut self, now: Time, out: &mut Out) {
        self.end_turn_of_reads(now, out);
        match &mut self.role {
            Role::Follower(_) => {
                self.acknowledge(out);
                self.ask_for_missing(now, out);
            }
            Role::Candidate(_) => {}
            Role::Leader(_) => {
                self.propose_queued(now, out);
                self.replicate(now, out);
            }
        }
    }

    /// Promises a higher ballot. [Lamport01 §2.2 phase 1b]
    pub(crate) fn raise(&mut self, ballot: Ballot, out: &mut Out) {
        self.promised = ballot;
        self.round = self.round.max(ballot.round);
        out.persist(Record::Promised(ballot));
        self.promising = true;
        out.send(Dest::One(self.me), Message::Promised { ballot });
    }

    /// Whether this replica's promises become durable, as far as it knows. Whose disk hangs is of no
    /// use to candidates, and has no part in elections until it is: neither asks for nor grants
    /// campaigns, nor ends one because of a promise that may never count.
    pub(crate) fn can_promise(&self) -> bool {
        !self.promising || self.config.mutated(Mutant::ElectWithoutDisk)
    }

    /// Becomes a follower of the leader whose ballot is given, or of none yet.
    pub(crate) fn become_follower(&mut self, now: Time, leader: Option<Ballot>, out: &mut Out) {
        let followed = matches!(self.role, Role::Follower(_));
        self.role = Role::Follower(Follower::of(leader));
        self.learning = None;
        self.election.pre_vote = None;
        if !followed {
            out.disarm(Timer::Heartbeat);
            out.disarm(Timer::Retransmit);
            self.restart_election_clock(now, out);
        }
    }

    /// The first slot that is not known chosen.
    pub(crate) fn first_unchosen(&self) -> Slot {
        self.executed.next()
    }

    /// How many slots the log may hold: a window beyond those executed. [vanRenesse15 §2]
    pub(crate) fn window(&self) -> usize {
        if self.config.mutated(Mutant::WindowWithoutBound) {
            return usize::MAX;
        }
        let executed = self.executed.0.saturating_sub(self.log.compacted().0);
        let executed = usize::try_from(executed).unwrap_or(usize::MAX);
        executed.saturating_add(self.config.max_window)
    }

    /// The ballot of the leader followed, or else the ballot promised: they are the same.
    pub(crate) fn ballot(&self) -> Ballot {
        match &self.role {
            Role::Follower(follower) => follower.leader.unwrap_or(self.promised),
            Role::Candidate(_) | Role::Leader(_) => self.promised,
        }
    }

    /// Who leads, if that is known here.
    pub(crate) fn leader(&self) -> Option<ReplicaId> {
        match &self.role {
            Role::Follower(follower) => follower.leader.map(|ballot| ballot.replica),
            Role::Candidate(_) => None,
            Role::Leader(_) => Some(self.me),
        }
    }

    pub(crate) fn peers(&self) -> impl Iterator<Item = ReplicaId> + use<> {
        let me = self.me;
        ReplicaId::all(self.n).filter(move |replica| *replica != me)
    }

    /// Tells the sender that its ballot is too low. It waits before it tries a higher one.
    pub(crate) fn reject(&self, to: ReplicaId, ballot: Ballot, out: &mut Out) {
        let promised = self.promised;
        if self.can_promise() {
            out.send(Dest::One(to), Message::Rejected { ballot, promised });
        }
    }

    fn announce(&mut self, out: &mut Out) {
        let known = (self.ballot(), self.leader());
        if known != self.announced {
            self.announced = known;
            out.event(Event::RegimeChanged {
                regime: known.0.number(),
                leader: known.1,
            });
        }
    }
}
