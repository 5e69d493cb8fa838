//! Linearizable reads without the log: by quorum, or by lease. [Charapko19; Chandra07 §5.2]
//!
//! *By quorum*: what was chosen when a read is asked has been accepted by a phase 2 quorum, so
//! every phase 1 quorum knows of a slot at least as high. Whoever has executed through the highest
//! slot that such a quorum has accepted anything in may read. Nobody needs to lead for it.
//!
//! *By round*, which is how a leader serves the reads asked of itself where others ask a quorum: it
//! has executed all that anybody was told is chosen, unless another leads. A phase 2 quorum that
//! hears of a round begun after the read, and has promised no higher ballot, shows that none did
//! when the read was asked. What is under way need not be waited for, nor anybody's disk.
//! [OngaroThesis §6.4]
//!
//! *By lease*: an acceptor that hears of its leader promises nothing to others until its clock has
//! gone on by [`Config::lease`]; the leader counts on that from when it sent the message that a
//! phase 2 quorum has answered, for a part of that time which allows for the drift of the clocks.
//! As every phase 1 quorum has a replica that is so bound, nobody else can lead meanwhile, and the
//! leader reads what it has executed.
//!
//! [`Config::lease`]: crate::Config::lease

use std::collections::VecDeque;

use quorate_core::id::{ReplicaId, Slot, Time};
use quorate_core::protocol::{Dest, ReadAnswer, ReadId};
use quorate_core::quorum::Tally;

use crate::config::{Config, ReadMode};
use crate::log::Ballot;
use crate::message::Message;
use crate::mutant::Mutant;
use crate::replica::{MultiPaxos, Out, Role, Timer};

/// A promise to a leader, not to promise anything to others for a while.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Grant {
    /// The leader's ballot; unknown after a restart, when nobody is left out.
    to: Option<Ballot>,
    until: Time,
}

impl Grant {
    /// What a replica with a past may have granted before it restarted: it waits a whole lease
    /// from its start, instead of making each one durable.
    pub(crate) fn after_restart(has_past: bool) -> Option<Grant> {
        has_past.then_some(Grant {
            to: None,
            until: Time::ZERO,
        })
    }

    pub(crate) fn extend(&mut self, until: Time) {
        self.until = self.until.max(until);
    }
}

/// The reads that wait for a leader's lease.
#[derive(Debug, Default)]
pub(crate) struct LeaseReads {
    asked: VecDeque<Asker>,
}

/// Who wants to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asker {
    Own(ReadId),
    Peer { replica: ReplicaId, ticket: u64 },
}

impl LeaseReads {
    /// Notes a read, as far as there is room: those before it stay.
    fn ask(&mut self, asker: Asker, config: &Config) {
        if self.asked.contains(&asker) {
            return;
        }
        if self.asked.len() >= config.max_pending_reads {
            if !config.mutated(Mutant::ReadGivesWayToNext) {
                return;
            }
            self.asked.pop_front();
        }
        self.asked.push_back(asker);
    }
}

/// The reads that wait for a round of heartbeats, with the round, oldest first.
#[derive(Debug, Default)]
pub(crate) struct RoundReads {
    asked: VecDeque<(u64, ReadId)>,
}

/// After how many election time-outs in which the driver has not asked again a read may lose its place.
/// Drivers ask again after a second, unless they are told otherwise.
const FORSAKEN: u32 = 4;

/// The reads of this replica's clients that others were asked about.
#[derive(Debug)]
pub(crate) struct Reads {
    /// Names the next question. Starts at a random number: an answer to a question from before a
    /// restart must not pass for one to a question since.
    ticket: u64,
    /// Asked in this turn.
    fresh: Vec<ReadId>,
    /// Others were asked, oldest first.
    asked: VecDeque<Asked>,
    /// Through which slot the leader was asked to tell what is chosen, and when.
    awaiting: Option<(Slot, Time)>,
}

#[derive(Debug)]
struct Asked {
    ids: Vec<ReadId>,
    ticket: u64,
    /// When the driver has asked last: it may have given up since.
    at: Time,
    /// Who has answered.
    answers: Tally,
    /// Through where must have been executed, as far as the answers go.
    index: Slot,
    /// Enough have answered.
    settled: bool,
}

impl Reads {
    pub(crate) fn starting_at(ticket: u64) -> Self {
        Reads {
            ticket,
            fresh: Vec::new(),
            asked: VecDeque::new(),
            awaiting: None,
        }
    }

    /// Gives the reads of this turn a question, if there is room for it. A read asked again keeps the
    /// one that it has: were it asked anew, the answers under way would be useless, and what it waits
    /// for move on with what others write. Gives the questions that are to be asked: those without an
    /// answer.
    fn ask(&mut self, now: Time, config: &Config) -> Vec<u64> {
        let mut ids = std::mem::take(&mut self.fresh);
        if config.mutated(Mutant::ReadAskedAnew) {
            self.asked
                .retain(|asked| !asked.ids.iter().any(|id| ids.contains(id)));
        }
        let mut tickets = Vec::new();
        for asked in &mut self.asked {
            if asked.ids.iter().any(|id| ids.contains(id)) {
                asked.at = now;
                ids.retain(|id| !asked.ids.contains(id));
                tickets.extend((!asked.settled).then_some(asked.ticket));
            }
        }
        if !ids.is_empty() && self.make_room(now, config) {
            let ticket = self.ticket;
            self.ticket = ticket.wrapping_add(1);
            self.asked.push_back(Asked {
                ids,
                ticket,
                at: now,
                answers: Tally::default(),
                index: Slot::ZERO,
                settled: false,
            });
            tickets.push(ticket);
        }
        tickets
    }

    /// Whether there is room for another question. Those there keep their places, so that they are
    /// answered, unless the driver has not asked for them any more for [`FORSAKEN`] time-outs.
    fn make_room(&mut self, now: Time, config: &Config) -> bool {
        if self.asked.len() < config.max_pending_reads {
            return true;
        }
        if config.mutated(Mutant::ReadGivesWayToNext) {
            return self.asked.pop_front().is_some();
        }
        let forsaken = config.election_timeout * FORSAKEN;
        let by_time = self.asked.iter().enumerate().min_by_key(|(_, a)| a.at);
        let oldest = by_time.filter(|(_, asked)| now.since(asked.at) >= forsaken);
        let place = oldest.map(|(place, _)| place);
        place.is_some_and(|place| self.asked.remove(place).is_some())
    }

    fn find(&mut self, ticket: u64) -> Option<&mut Asked> {
        self.asked.iter_mut().find(|asked| asked.ticket == ticket)
    }
}

impl MultiPaxos {
    /// Takes a read of this replica's clients; what is done with it is decided at the end of the
    /// turn, for all together.
    pub(crate) fn read(&mut self, id: ReadId, out: &mut Out) {
        if self.config.reads == ReadMode::Log {
            return out.answer(id, ReadAnswer::ThroughLog);
        }
        if self.reads.fresh.len() < self.config.max_pending_reads {
            self.reads.fresh.push(id);
        }
    }

    /// Puts the reads of this turn on their way. What cannot be asked is dropped, and the driver
    /// asks again.
    pub(crate) fn end_turn_of_reads(&mut self, now: Time, out: &mut Out) {
        let is_asked = !self.reads.fresh.is_empty();
        match (self.config.reads, &mut self.role) {
            (ReadMode::Log, _) => {}
            (ReadMode::Lease, Role::Leader(leader)) => {
                for id in self.reads.fresh.drain(..) {
                    leader.reads.ask(Asker::Own(id), &self.config);
                }
                self.read_by_lease(now, out);
            }
            (ReadMode::Lease, _) if is_asked => self.ask_leader(now, out),
            (ReadMode::Quorum, Role::Leader(_)) => self.ask_for_a_round(),
            (ReadMode::Quorum, _) if is_asked => self.ask_quorum(now, out),
            (ReadMode::Lease | ReadMode::Quorum, _) => {}
        }
        self.answer_reads(out);
        self.answer_by_round(out);
        self.await_slots(now, out);
    }

    /// Answers the reads whose slots have been executed.
    pub(crate) fn answer_reads(&mut self, out: &mut Out) {
        let executed = self.executed;
        let waits = !self.config.mutated(Mutant::ReadWithoutWaiting);
        self.reads.asked.retain(|asked| {
            let ready = asked.settled && (asked.index <= executed || !waits);
            if ready {
                for id in &asked.ids {
                    out.answer(*id, ReadAnswer::Ready);
                }
            }
            !ready
        });
    }

    /// A read waits for a slot that is not known chosen here: the leader will tell, and fill it if
    /// it is empty.
    fn await_slots(&mut self, now: Time, out: &mut Out) {
        let settled = self.reads.asked.iter().filter(|asked| asked.settled);
        let Some(needed) = settled.map(|asked| asked.index).max() else {
            self.reads.awaiting = None;
            return;
        };
        let Some(leader) = self.leader() else {
            return;
        };
        if leader == self.me {
            return self.awaits(now, leader, needed, out);
        }
        let retransmit = self.config.retransmit;
        let known = |(slot, asked): (Slot, Time)| slot >= needed && now.since(asked) < retransmit;
        if !self.reads.awaiting.is_some_and(known) {
            self.reads.awaiting = Some((needed, now));
            out.send(Dest::One(leader), Message::Await { through: needed });
            out.arm(Timer::Retransmit, now + retransmit);
        }
    }
}

/// By round. [OngaroThesis §6.4]
impl MultiPaxos {
    /// The reads of this turn wait for the round that begins at its end. What is beyond the bound is
    /// dropped, and asked again by the driver: the oldest stay, so that they are answered.
    fn ask_for_a_round(&mut self) {
        let joins = self.config.mutated(Mutant::ReadByEarlierRound);
        let Role::Leader(leader) = &mut self.role else {
            return;
        };
        let round = match joins && leader.rounds.is_waiting() {
            true => leader.rounds.last,
            false => leader.rounds.last + 1,
        };
        for id in self.reads.fresh.drain(..) {
            let asked = &mut leader.round_reads.asked;
            let is_new = asked.iter().all(|(_, known)| *known != id);
            if is_new && asked.len() < self.config.max_pending_reads {
                asked.push_back((round, id));
                leader.heartbeat_due |= round > leader.rounds.last;
            }
        }
    }

    /// Answers the reads whose round a quorum has heard of.
    pub(crate) fn answer_by_round(&mut self, out: &mut Out) {
        let early = self.config.mutated(Mutant::ReadBeforeElectionPoint);
        let Role::Leader(leader) = &mut self.role else {
            return;
        };
        // What was chosen in lower ballots it may have to propose once more.
        if self.executed < leader.found && !early {
            return;
        }
        let heard = leader.rounds.heard;
        while let Some((_, id)) = leader
            .round_reads
            .asked
            .pop_front_if(|(round, _)| *round <= heard)
        {
            out.answer(id, ReadAnswer::Ready);
        }
    }
}

/// By quorum. \[Charapko19\]
impl MultiPaxos {
    fn ask_quorum(&mut self, now: Time, out: &mut Out) {
        for ticket in self.reads.ask(now, &self.config) {
            out.send(Dest::Others, Message::ReadQuery { ticket });
            // Its own answer is no promise: it need not wait for the disk.
            let accepted = self.last_accepted();
            self.read_query_reply(self.me, ticket, accepted);
        }
    }

    pub(crate) fn read_query(&self, from: ReplicaId, ticket: u64, out: &mut Out) {
        let accepted = self.last_accepted();
        out.send(
            Dest::One(from),
            Message::ReadQueryReply { ticket, accepted },
        );
    }

    /// The highest slot in which this replica has accepted anything.
    fn last_accepted(&self) -> Slot {
        self.log.last().max(self.executed)
    }

    pub(crate) fn read_query_reply(&mut self, from: ReplicaId, ticket: u64, accepted: Slot) {
        let Some(asked) = self.reads.find(ticket).filter(|asked| !asked.settled) else {
            return;
        };
        let lowest = self.config.mutated(Mutant::ReadByLowestAnswer);
        asked.index = match lowest && !asked.answers.voters().is_empty() {
            true => asked.index.min(accepted),
            false => asked.index.max(accepted),
        };
        asked.answers.count(from);
        let needed = match self.config.mutated(Mutant::ReadByPhase2Quorum) {
            true => &self.quorums.phase2,
            false => &self.quorums.phase1,
        };
        asked.settled = asked.answers.meets(needed);
    }
}

/// By lease. [Chandra07 §5.2]
impl MultiPaxos {
    /// Until when this replica must not promise a higher ballot to `candidate`, if it must not.
    /// A leader is bound by its own lease, and by nothing when it has none.
    pub(crate) fn bound_until(
        &self,
        now: Time,
        candidate: ReplicaId,
        released: Option<Ballot>,
    ) -> Option<Time> {
        if self.config.reads != ReadMode::Lease {
            return None;
        }
        let until = match (&self.role, self.grant) {
            (Role::Leader(_), _) if self.config.mutated(Mutant::LeaderIgnoresOwnLease) => {
                Time::ZERO
            }
            (Role::Leader(leader), _) => leader.leased_until(self.config.usable_lease()),
            (_, Some(grant)) => {
                // Who has handed over, or campaigns itself, reads no more by its old lease.
                let over = grant
                    .to
                    .is_some_and(|to| to.replica == candidate || released == Some(to));
                if over { Time::ZERO } else { grant.until }
            }
            (_, None) => Time::ZERO,
        };
        (now < until).then_some(until)
    }

    /// A leader was heard: nothing is promised to others for a while.
    pub(crate) fn grant_lease(&mut self, now: Time, ballot: Ballot) {
        if self.config.reads == ReadMode::Lease {
            self.grant = Some(Grant {
                to: Some(ballot),
                until: now + self.config.lease,
            });
        }
    }

    /// Answers all who wait, if the leader has a lease; or else asks for one.
    fn read_by_lease(&mut self, now: Time, out: &mut Out) {
        let executed = self.executed;
        let Role::Leader(leader) = &mut self.role else {
            return;
        };
        if leader.reads.asked.is_empty() {
            return;
        }
        // What was chosen in lower ballots it may have to propose once more.
        let knows =
            executed >= leader.found || self.config.mutated(Mutant::ReadBeforeElectionPoint);
        if !knows || now >= leader.leased_until(self.config.usable_lease()) {
            leader.heartbeat_due |= !leader.rounds.is_waiting();
            return;
        }
        for asker in leader.reads.asked.drain(..) {
            match asker {
                Asker::Own(id) => out.answer(id, ReadAnswer::Ready),
                Asker::Peer { replica, ticket } => {
                    leader.waiting.insert(replica);
                    let index = executed;
                    out.send(
                        Dest::One(replica),
                        Message::ReadIndexReply { ticket, index },
                    );
                }
            }
        }
    }

    fn ask_leader(&mut self, now: Time, out: &mut Out) {
        let Some(leader) = self.leader() else {
            self.reads.fresh.clear();
            return;
        };
        for ticket in self.reads.ask(now, &self.config) {
            out.send(Dest::One(leader), Message::ReadIndex { ticket });
        }
    }

    /// A follower asks for its clients.
    pub(crate) fn read_index(&mut self, replica: ReplicaId, ticket: u64) {
        if let Role::Leader(leader) = &mut self.role {
            let asker = Asker::Peer { replica, ticket };
            leader.reads.ask(asker, &self.config);
        }
    }

    pub(crate) fn read_index_reply(&mut self, ticket: u64, index: Slot) {
        if let Some(asked) = self.reads.find(ticket).filter(|asked| !asked.settled) {
            asked.index = index;
            asked.settled = true;
        }
    }
}
