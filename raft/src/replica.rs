//! The state of a replica, and `step`, the only dispatch over inputs, messages and roles.

use quorate_core::id::{ReplicaId, Slot, Time};
use quorate_core::output::Output;
use quorate_core::protocol::{Dest, Event, Input};
use quorate_core::quorum::{Majority, Tally};
use rand_chacha::ChaCha8Rng;

use crate::config::Config;
use crate::election::{ElectionClock, PreCandidate};
use crate::log::{Log, Position, Term};
use crate::message::Message;
use crate::mutant::Mutant;
use crate::normal::{Follower, Leader};
use crate::read::RemoteReads;
use crate::record::Record;

/// Raft, as one replica runs it.
#[derive(Debug)]
pub struct Raft {
    pub(crate) me: ReplicaId,
    pub(crate) n: usize,
    pub(crate) config: Config,
    pub(crate) rng: ChaCha8Rng,

    // Durable: every change goes into a record in the same step. [Ongaro14 figure 2]
    pub(crate) term: Term,
    pub(crate) voted_for: Option<ReplicaId>,
    pub(crate) log: Log,

    /// The commit index. All through it has been handed over for execution, by this replica or
    /// inside a snapshot. Every leader of this replica's term or a later one has the same entries
    /// through it.
    pub(crate) commit: Slot,
    /// Where the newest durable snapshot ends.
    pub(crate) snapshot: Slot,
    /// The log no longer goes on from the records: they must be written anew.
    pub(crate) rewrite_due: bool,
    pub(crate) role: Role,
    pub(crate) election: ElectionClock,
    pub(crate) reads: RemoteReads,
    /// The term and leader that the last event told of.
    pub(crate) announced: (Term, Option<ReplicaId>),
}

/// What a replica is in its term. [Ongaro14 §5.1]
#[derive(Debug)]
pub(crate) enum Role {
    Follower(Follower),
    /// Asks first, with those that would vote for it. [OngaroThesis §9.6]
    PreCandidate(PreCandidate),
    /// With the votes it has so far.
    Candidate(Tally),
    Leader(Box<Leader>),
}

impl Default for Role {
    fn default() -> Self {
        Role::Follower(Follower::default())
    }
}

/// Raft's timers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Timer {
    /// A follower or candidate has waited long enough for a leader.
    Election,
    /// A leader must show that it leads, and see that it is heard.
    Heartbeat,
}

pub(crate) type Out = Output<Raft>;

impl Raft {
    pub(crate) fn dispatch(&mut self, now: Time, input: Input<Raft>, out: &mut Out) {
        match input {
            Input::Start => self.start(now, out),
            Input::Message(message) => {
                let (from, message) = message.into_parts();
                self.receive(now, from, message, out);
            }
            Input::Timer(Timer::Election) => self.election_timed_out(now, out),
            Input::Timer(Timer::Heartbeat) => self.heartbeat_is_due(now, out),
            Input::Propose { batch, keys: _ } => self.propose(batch, out),
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
        // Replicas start as followers. [Ongaro14 §5.2]
        self.restart_election_clock(now, out);
    }

    fn receive(&mut self, now: Time, from: ReplicaId, message: Message, out: &mut Out) {
        self.election.hear(from);
        if let Some(term) = message.term() {
            if term > self.term {
                // "If one server's current term is smaller than the other's, then it updates its
                // current term to the larger value. If a candidate or leader discovers that its
                // term is out of date, it immediately reverts to follower state."
                // [Ongaro14 §5.1]
                self.adopt(term, out);
                self.become_follower(now, None, out);
            } else if term < self.term && !self.believes_stale(&message) {
                return self.refuse_stale(from, &message, out);
            }
        }
        match message {
            Message::PreVote { term, last, hears } => {
                if hears.contains(self.me) {
                    self.tell_of_unheard(now, from, out);
                }
                self.pre_vote_requested(now, from, (term, last), out);
            }
            Message::PreVoteReply {
                term,
                asked,
                granted,
            } => self.pre_voted(now, from, (term, asked), granted, out),
            Message::RequestVote { last, .. } => self.vote_requested(now, from, last, out),
            Message::Vote { last, granted, .. } => self.voted(now, from, (last, granted), out),
            Message::AppendEntries(append) => self.append_entries(now, from, append, out),
            Message::Accepted { matched, .. } => self.accepted(from, matched, out),
            Message::Echo { round, .. } => self.echoed(from, round, out),
            Message::Rejected { previous, hint, .. } => self.rejected(from, previous, hint),
            Message::SnapshotNeeded {
                through,
                round,
                heard,
                ..
            } => self.snapshot_needed(now, (from, heard), (through, round), out),
            Message::Unheard { replica, .. } => self.told_of_unheard(from, replica),
            Message::TimeoutNow { moves, .. } => self.timeout_now(now, moves, out),
            Message::Forward { seen, batch } => self.forwarded((from, seen), batch, out),
            Message::ReadIndex { ticket } => self.read_index(from, ticket),
            Message::ReadIndexReply { ticket, index } => self.read_index_reply(ticket, index, out),
        }
    }

    /// Whether an answer of an earlier term counts: never, but for a mutant.
    fn believes_stale(&self, message: &Message) -> bool {
        let answers = matches!(message, Message::Vote { .. } | Message::Accepted { .. });
        answers && self.config.mutated(Mutant::StaleAnswersCount)
    }

    /// "If a server receives a request with a stale term number, it rejects the request." The
    /// answer's term tells the sender. [Ongaro14 §5.1]
    fn refuse_stale(&mut self, from: ReplicaId, message: &Message, out: &mut Out) {
        let term = self.term;
        let refusal = match message {
            Message::RequestVote { last, .. } => Message::Vote {
                term,
                last: *last,
                granted: false,
            },
            Message::AppendEntries(_) | Message::SnapshotNeeded { .. } => Message::Rejected {
                term,
                previous: Slot::ZERO,
                hint: Position::default(),
            },
            Message::PreVote { .. }
            | Message::PreVoteReply { .. }
            | Message::Vote { .. }
            | Message::Accepted { .. }
            | Message::Echo { .. }
            | Message::Rejected { .. }
            | Message::Unheard { .. }
            | Message::TimeoutNow { .. }
            | Message::Forward { .. }
            | Message::ReadIndex { .. }
            | Message::ReadIndexReply { .. } => return,
        };
        out.send(Dest::One(from), refusal);
    }

    /// Sends what was held back to be sent together: one round of reads, the new entries, one
    /// acknowledgement. [OngaroThesis §10.2.2]
    fn end_of_turn(&mut self, now: Time, out: &mut Out) {
        self.end_turn_of_reads(now, out);
        match &mut self.role {
            Role::Follower(_) => self.acknowledge(out),
            Role::PreCandidate(_) | Role::Candidate(_) => {}
            Role::Leader(_) => {
                self.replicate(out);
                self.acknowledge_own(out);
                self.hand_over(now, out);
            }
        }
    }

    /// Enters a later term, in which it has not voted. [Ongaro14 §5.1]
    pub(crate) fn adopt(&mut self, term: Term, out: &mut Out) {
        self.term = term;
        self.voted_for = None;
        self.election.term_begins();
        self.persist_vote(out);
    }

    pub(crate) fn persist_vote(&self, out: &mut Out) {
        out.persist(Record::Vote {
            term: self.term,
            voted_for: self.voted_for,
        });
    }

    /// Becomes a follower in the current term.
    pub(crate) fn become_follower(&mut self, now: Time, leader: Option<ReplicaId>, out: &mut Out) {
        let mut follower = Follower::of(leader);
        if let Role::Follower(before) = &self.role
            && self.config.mutated(Mutant::AgreementOutlivesTerm)
        {
            follower.matched = before.matched;
        }
        let led = matches!(self.role, Role::Leader(_));
        self.role = Role::Follower(follower);
        if led {
            out.disarm(Timer::Heartbeat);
            self.restart_election_clock(now, out);
        }
    }

    /// Any two of these have a replica in common. [Ongaro14 §5.2]
    pub(crate) fn quorum(&self) -> Majority {
        if self.config.mutated(Mutant::QuorumOfMajorityMinusOne) {
            return Majority::of(self.n.saturating_sub(2));
        }
        Majority::of(self.n)
    }

    /// Who leads the current term, if that is known here.
    pub(crate) fn leader(&self) -> Option<ReplicaId> {
        match &self.role {
            Role::Follower(follower) => follower.leader,
            Role::PreCandidate(_) | Role::Candidate(_) => None,
            Role::Leader(_) => Some(self.me),
        }
    }

    fn announce(&mut self, out: &mut Out) {
        let known = (self.term, self.leader());
        if known != self.announced {
            self.announced = known;
            out.event(Event::RegimeChanged {
                regime: self.term.0,
                leader: known.1,
            });
        }
    }
}
