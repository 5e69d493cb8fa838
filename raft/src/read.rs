//! Linearizable reads without the log: ReadIndex. [Ongaro14 §8; OngaroThesis §6.4]
//!
//! A read is as new as the commit index at which it is asked, once a round of messages has shown
//! that no later leader had been elected by then. Rounds are numbered within a term; the number
//! rides on every message of the leader, and the echoes give it back. An echo waits for no disk:
//! a heartbeat is a round too, and shows a leader that it is heard.

use std::collections::VecDeque;

use quorate_core::id::{ReplicaId, Slot, Time};
use quorate_core::output::Output;
use quorate_core::protocol::{Dest, ReadAnswer, ReadId};
use quorate_core::quorum::Quorum;

use crate::config::Config;
use crate::message::Message;
use crate::mutant::Mutant;
use crate::replica::{Out, Raft, Role};

/// The reads that a leader has been asked for in its term.
#[derive(Debug, Default)]
pub(crate) struct LeaderReads {
    /// Not yet in a round: they came in this turn, or the leader has not yet committed an entry
    /// of its own.
    asked: VecDeque<Asker>,
    /// In a round that is not yet confirmed, oldest first.
    pending: VecDeque<Pending>,
    /// The last round begun.
    pub(crate) round: u64,
}

/// Who wants to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asker {
    Own(ReadId),
    Peer { replica: ReplicaId, ticket: u64 },
}

#[derive(Debug)]
struct Pending {
    asker: Asker,
    index: Slot,
    round: u64,
}

impl LeaderReads {
    /// Notes a read, unless it is there already: asked again, it is answered by the round that it
    /// waits for, which every message asks to confirm again. Beyond the limit it is dropped, and asked
    /// again: those before it stay, so that they are answered.
    fn ask(&mut self, asker: Asker, config: &Config) {
        let known = |pending: &Pending| pending.asker == asker;
        if self.asked.contains(&asker) || self.pending.iter().any(known) {
            return;
        }
        if self.asked.len() + self.pending.len() >= config.max_pending_reads {
            let gives_way = config.mutated(Mutant::ReadGivesWayToNext);
            if !gives_way || self.pending.pop_front().is_none() {
                return;
            }
        }
        self.asked.push_back(asker);
    }

    /// "The leader saves its current commit index in a local variable readIndex" for all reads
    /// asked, and begins a round for them. [OngaroThesis §6.4]
    fn begin_round(&mut self, index: Slot, joins: bool) {
        if self.asked.is_empty() {
            return;
        }
        // A round that is under way says nothing of what came after it began.
        if !joins || self.pending.is_empty() {
            self.round += 1;
        }
        let round = self.round;
        let begun = self.asked.drain(..).map(|asker| Pending {
            asker,
            index,
            round,
        });
        self.pending.extend(begun);
    }
}

/// After how many election time-outs in which the driver has not asked again a read may lose its place.
/// Drivers ask again after a second, unless they are told otherwise.
const FORSAKEN: u32 = 4;

/// The reads of a replica that does not lead.
#[derive(Debug)]
pub(crate) struct RemoteReads {
    /// Names the next question. Starts at a random number: an answer to a question from before a
    /// restart must not pass for one to a question since.
    ticket: u64,
    /// Asked in this turn.
    fresh: Vec<ReadId>,
    /// The leader was asked, oldest first.
    asked: VecDeque<Asked>,
}

#[derive(Debug)]
struct Asked {
    id: ReadId,
    ticket: u64,
    /// When the driver has asked last: it may have given up since.
    at: Time,
    /// Known when the leader has answered: through where must have been executed.
    index: Option<Slot>,
}

impl RemoteReads {
    pub(crate) fn starting_at(ticket: u64) -> Self {
        RemoteReads {
            ticket,
            fresh: Vec::new(),
            asked: VecDeque::new(),
        }
    }

    /// Gives each of `ids` a place and the question `ticket`, as far as there is room: those there keep
    /// their places, so that they are answered, unless the driver has not asked for them any more for
    /// [`FORSAKEN`] time-outs. What gets no place it asks again. False if none does.
    fn place(&mut self, now: Time, ids: Vec<ReadId>, ticket: u64, config: &Config) -> bool {
        let forsaken = config.election_timeout * FORSAKEN;
        let limit = config.max_pending_reads;
        let gives_way = config.mutated(Mutant::ReadGivesWayToNext);
        for id in ids {
            if self.asked.len() >= limit {
                let by_time = self
                    .asked
                    .iter()
                    .enumerate()
                    .min_by_key(|(_, read)| read.at);
                let oldest = by_time.filter(|(_, read)| now.since(read.at) >= forsaken);
                let Some(place) = oldest.map(|(at, _)| at).or(gives_way.then_some(0)) else {
                    break;
                };
                self.asked.remove(place);
            }
            self.asked.push_back(Asked {
                id,
                ticket,
                at: now,
                index: None,
            });
        }
        self.asked.back().is_some_and(|last| last.ticket == ticket)
    }
}

impl Raft {
    /// Takes a read of this replica's clients; what is done with it is decided at the end of the
    /// turn, for all together.
    pub(crate) fn read(&mut self, id: ReadId, out: &mut Out) {
        if self.config.mutated(Mutant::ReadWithoutReadIndex) {
            return out.answer(id, ReadAnswer::Ready);
        }
        if self.reads.fresh.len() < self.config.max_pending_reads {
            self.reads.fresh.push(id);
        }
    }

    /// A follower asks for its clients.
    pub(crate) fn read_index(&mut self, replica: ReplicaId, ticket: u64) {
        if let Role::Leader(leader) = &mut self.role {
            let asker = Asker::Peer { replica, ticket };
            leader.reads.ask(asker, &self.config);
        }
    }

    /// Puts the reads of this turn on their way. Without a leader they are dropped, and the
    /// driver asks again.
    pub(crate) fn end_turn_of_reads(&mut self, now: Time, out: &mut Out) {
        if let Role::Leader(leader) = &mut self.role {
            for id in self.reads.fresh.drain(..) {
                leader.reads.ask(Asker::Own(id), &self.config);
            }
            // "The Leader Completeness Property guarantees that a leader has all committed
            // entries, but at the start of its term, it may not know which those are."
            // [Ongaro14 §8]
            let knows =
                self.commit >= leader.first || self.config.mutated(Mutant::ReadBeforeOwnTermCommit);
            if knows {
                let joins = self.config.mutated(Mutant::ReadJoinsRoundUnderWay);
                leader.reads.begin_round(self.commit, joins);
            }
            return;
        }
        let leader = self.leader();
        let reads = &mut self.reads;
        let fresh = std::mem::take(&mut reads.fresh);
        let Some(leader) = leader.filter(|_| !fresh.is_empty()) else {
            return;
        };
        // Asked again, a read keeps its question: an answer under way still counts, however slow.
        let (again, new): (Vec<ReadId>, Vec<ReadId>) = fresh
            .into_iter()
            .partition(|id| reads.asked.iter().any(|asked| asked.id == *id));
        let mut tickets = Vec::new();
        for asked in &mut reads.asked {
            if again.contains(&asked.id) {
                asked.at = now;
                tickets.extend(asked.index.is_none().then_some(asked.ticket));
            }
        }
        tickets.dedup();
        let ticket = reads.ticket;
        if reads.place(now, new, ticket, &self.config) {
            reads.ticket = ticket.wrapping_add(1);
            tickets.push(ticket);
        }
        for ticket in tickets {
            out.send(Dest::One(leader), Message::ReadIndex { ticket });
        }
    }

    /// A replica has heard of a round in the current term: it has not, before that, made another
    /// the leader of a later one. [OngaroThesis §6.4]
    pub(crate) fn echoed(&mut self, from: ReplicaId, round: u64, out: &mut Out) {
        let quorum = self.quorum();
        let Role::Leader(leader) = &mut self.role else {
            return;
        };
        leader.tenure.hear(from);
        match leader.echoed.get_mut(from.index()) {
            Some(known) if *known < round && round <= leader.reads.round => *known = round,
            _ => return,
        }
        let Some(confirmed) = quorum.reached(&leader.echoed) else {
            return;
        };
        let pending = &mut leader.reads.pending;
        let count = pending
            .iter()
            .take_while(|read| read.round <= confirmed)
            .count();
        for read in pending.drain(..count) {
            answer(&read, out);
        }
    }

    /// The leader has confirmed a question of this replica's.
    pub(crate) fn read_index_reply(&mut self, ticket: u64, index: Slot, out: &mut Out) {
        let asked = self.reads.asked.iter_mut();
        for read in asked.filter(|read| read.ticket == ticket) {
            read.index.get_or_insert(index);
        }
        self.answer_remote_reads(out);
    }

    /// Answers the reads whose index has been executed.
    pub(crate) fn answer_remote_reads(&mut self, out: &mut Out) {
        let commit = self.commit;
        let early = self.config.mutated(Mutant::ReadBeforeExecuted);
        self.reads.asked.retain(|read| {
            let ready = read.index.is_some_and(|index| index <= commit || early);
            if ready {
                out.answer(read.id, ReadAnswer::Ready);
            }
            !ready
        });
    }
}

/// The leader has executed all that it knows committed, which reaches the read's index.
fn answer(read: &Pending, out: &mut Output<Raft>) {
    match read.asker {
        Asker::Own(id) => out.answer(id, ReadAnswer::Ready),
        Asker::Peer { replica, ticket } => {
            let index = read.index;
            out.send(
                Dest::One(replica),
                Message::ReadIndexReply { ticket, index },
            );
        }
    }
}
