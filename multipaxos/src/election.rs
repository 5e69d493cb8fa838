//! Phase 1, once for all slots, and who begins it when. [Lamport01 §2.2, §2.4, §3;
//! vanRenesse15 §2, §3]

use std::collections::BTreeMap;
use std::time::Duration;

use quorate_core::frontier::Frontier;
use quorate_core::id::{ReplicaId, Slot, Time};
use quorate_core::protocol::{Dest, Event, Fetch};
use quorate_core::quorum::Tally;
use quorate_core::request::Batch;
use rand::RngExt;

use crate::config::Config;
use crate::log::{Ballot, Proposal};
use crate::message::{Message, Prepare, Promise};
use crate::mutant::Mutant;
use crate::prevote::PreVote;
use crate::record::Record;
use crate::replica::{MultiPaxos, Out, Role, Timer};
use crate::told::Told;

/// What a candidate has been told. [vanRenesse15 §2, where a scout keeps it]
#[derive(Debug)]
pub(crate) struct Candidate {
    /// Whose promise has arrived, all of it.
    pub(crate) promises: Tally,
    /// Of which slots each replica has told.
    told: Vec<Told>,
    /// For each slot not known chosen here the value told of that counts most.
    found: BTreeMap<Slot, Found>,
    /// The ballot whose leader has handed over.
    released: Option<Ballot>,
}

/// A value that promises have told of.
#[derive(Debug)]
pub(crate) struct Found {
    /// Whoever told of it knows that it is chosen.
    chosen: bool,
    /// The ballot in which it was accepted.
    ballot: Ballot,
    pub(crate) batch: Batch,
}

impl Found {
    /// Whether it counts more than `known`: what is chosen counts most, then what was accepted in
    /// the highest ballot. [Lamport01 §2.2 phase 2a]
    fn beats(&self, known: &Found, config: &Config) -> bool {
        let higher = self.ballot > known.ballot;
        let lowest = config.mutated(Mutant::ValueNotFromHighestBallot);
        if config.mutated(Mutant::ChosenBeatenByBallot) {
            return higher;
        }
        match (self.chosen, known.chosen) {
            (true, true) => false,
            (true, false) | (false, true) => self.chosen,
            (false, false) => higher != lowest,
        }
    }
}

/// Waits grow with failures as far as 2 to this power.
const MOST_DOUBLINGS: u32 = 3;

/// For how many time-outs more than others a leader waits that has chosen nothing. Those who have
/// heard it wait for two at most, and are granted a campaign by all after one.
const STANDS_BACK: u32 = 3;

/// When to campaign.
impl MultiPaxos {
    /// Draws another wait, and begins it. It is drawn from a wider interval after each campaign
    /// that came to nothing, so that proposers that duel settle. [vanRenesse15 §3; Lamport01 §2.4]
    pub(crate) fn restart_election_clock(&mut self, now: Time, out: &mut Out) {
        let timeout = u64::try_from(self.config.election_timeout.as_nanos()).unwrap_or(u64::MAX);
        let spread = timeout.saturating_mul(1 << self.election.failures.min(MOST_DOUBLINGS));
        let (shortest, longest) = match self.config.preferred == Some(self.me) {
            true => (timeout / 2, timeout / 2 + spread / 2),
            false => (timeout, timeout.saturating_add(spread)),
        };
        let wait = self.rng.random_range(shortest..=longest);
        self.election.timeout = Duration::from_nanos(wait);
        self.election.deadline = now + self.election.timeout;
        out.arm(Timer::Election, self.election.deadline);
    }

    /// A leader was heard, or a promise given: the wait begins again.
    pub(crate) fn postpone_election(&mut self, now: Time) {
        self.election.deadline = now + self.election.timeout;
        self.election.heard = Some(now);
        let asked = self.election.pre_vote;
        self.election.pre_vote = asked.filter(PreVote::outlives_a_heartbeat);
    }

    pub(crate) fn election_timed_out(&mut self, now: Time, out: &mut Out) {
        let Role::Follower(_) = &self.role else {
            return;
        };
        let bound = self.bound_until(now, self.me, None);
        let deadline = bound.map_or(self.election.deadline, |at| at.max(self.election.deadline));
        if now < deadline {
            out.arm(Timer::Election, deadline);
            return;
        }
        if !self.can_promise() {
            out.arm(Timer::Election, now + self.config.heartbeat);
            return;
        }
        self.ask_for_pre_votes(now, out);
    }

    /// Begins phase 1, in a ballot higher than all heard of, for all slots that are not known
    /// chosen. It is durable, and promised here, before anybody hears of it.
    /// [Lamport01 §2.2 phase 1a, §2.5, §3]
    pub(crate) fn campaign(&mut self, now: Time, released: Option<Ballot>, out: &mut Out) {
        let ballot = Ballot {
            round: self.round + 1,
            replica: self.me,
        };
        self.raise(ballot, out);
        self.election.heard = Some(now);
        self.election.pre_vote = None;
        let from = self.first_unchosen();
        self.role = Role::Candidate(Box::new(Candidate {
            promises: Tally::default(),
            told: vec![Told::before(from); self.n],
            found: BTreeMap::new(),
            released,
        }));
        self.learning = None;
        out.disarm(Timer::Election);
        out.arm(Timer::Retransmit, now + self.config.retransmit);
        let regime = ballot.number();
        out.event(Event::Campaign { regime });
        let prepare = Prepare {
            ballot,
            from,
            released,
        };
        out.send(Dest::All, Message::Prepare(prepare));
    }

    /// Asks again those who have not promised, for what they have not told. A candidate goes on
    /// in its ballot until a quorum has promised, or someone has promised a higher one: a lost
    /// message is no reason for another ballot.
    pub(crate) fn prepare_again(&mut self, now: Time, out: &mut Out) {
        let ballot = self.promised;
        let Role::Candidate(candidate) = &self.role else {
            return;
        };
        for (peer, told) in ReplicaId::all(self.n).zip(&candidate.told) {
            if peer != self.me && !candidate.promises.voters().contains(peer) {
                let prepare = Prepare {
                    ballot,
                    from: told.next(),
                    released: candidate.released,
                };
                out.send(Dest::One(peer), Message::Prepare(prepare));
            }
        }
        out.arm(Timer::Retransmit, now + self.config.retransmit);
    }

    /// A leadership has chosen nothing, though it was heard: others are to have the time to be elected
    /// first.
    pub(crate) fn stand_back(&mut self, now: Time, out: &mut Out) {
        self.give_up(now, out);
        self.election.deadline =
            self.election.deadline + self.config.election_timeout * STANDS_BACK;
    }

    /// A campaign or leadership came to nothing: waits, longer each time.
    pub(crate) fn give_up(&mut self, now: Time, out: &mut Out) {
        self.election.failures = self.election.failures.saturating_add(1);
        self.become_follower(now, None, out);
    }

    /// Someone has promised a higher ballot. That ends a campaign or leadership, but raises
    /// nothing: whoever has the higher ballot is left to finish. [vanRenesse15 §2, §3]
    pub(crate) fn rejected(&mut self, now: Time, ballot: Ballot, promised: Ballot, out: &mut Out) {
        self.round = self.round.max(promised.round);
        let follows = matches!(self.role, Role::Follower(_));
        let current = ballot == self.promised || self.config.mutated(Mutant::StaleRejectionCounted);
        if !follows && current && promised > ballot {
            self.give_up(now, out);
        }
    }
}

/// For how many election time-outs a leader stays before it hands over to the preferred one.
const TERM_OF_OFFICE: u32 = 10;

/// By how many slots the preferred replica may be behind.
const NEAR: u64 = 64;

/// Handing over to the preferred replica.
impl MultiPaxos {
    /// Asks the preferred replica, once in a time-out, whether it could be elected: a cluster must
    /// not be left to one that hears too few.
    pub(crate) fn offer_to_hand_over(&mut self, now: Time, out: &mut Out) {
        let successor = self.successor(now);
        let (ballot, pause) = (self.promised, self.config.election_timeout);
        if let (Role::Leader(leader), Some(successor)) = (&mut self.role, successor)
            && leader.offered.is_none_or(|at| now.since(at) >= pause)
        {
            leader.offered = Some(now);
            out.send(Dest::One(successor), Message::Offer { ballot });
            if self.config.mutated(Mutant::HandOverUnasked) {
                self.hand_over(now, successor, ballot, out);
            }
        }
    }

    /// The preferred replica could be elected: steps down for good in its favour.
    pub(crate) fn hand_over(&mut self, now: Time, to: ReplicaId, ballot: Ballot, out: &mut Out) {
        if ballot == self.promised && self.successor(now) == Some(to) {
            out.send(Dest::One(to), Message::HandOver { ballot });
            self.become_follower(now, None, out);
        }
    }

    /// The preferred replica, if it is another that hears this one and has nearly caught up.
    fn successor(&self, now: Time) -> Option<ReplicaId> {
        let preferred = self
            .config
            .preferred
            .filter(|preferred| *preferred != self.me)?;
        let Role::Leader(leader) = &self.role else {
            return None;
        };
        let settled = now.since(leader.elected) >= self.config.election_timeout * TERM_OF_OFFICE;
        let echoed = (*leader.heard_from.get(preferred.index())?)?;
        let progress = leader.progress.get(preferred.index())?;
        let hears = now.since(echoed) <= self.config.heartbeat * 2;
        let near = self.executed.0.saturating_sub(progress.executed.0) <= NEAR;
        (settled && hears && near).then_some(preferred)
    }

    /// The leader has stepped down in this replica's favour.
    pub(crate) fn handed_over(&mut self, now: Time, ballot: Ballot, out: &mut Out) {
        let any = self.config.mutated(Mutant::HandedOverByAnyLeader);
        let follows = match &self.role {
            Role::Follower(follower) => follower.leader == Some(ballot) || any,
            Role::Candidate(_) | Role::Leader(_) => false,
        };
        if follows && self.bound_until(now, self.me, Some(ballot)).is_none() {
            self.campaign(now, Some(ballot), out);
        }
    }
}

/// As an acceptor.
impl MultiPaxos {
    /// "If an acceptor receives a prepare request with number n greater than that of any prepare
    /// request to which it has already responded, then it responds to the request with a promise
    /// not to accept any more proposals numbered less than n and with the highest-numbered
    /// proposal (if any) that it has accepted", for each slot. [Lamport01 §2.2 phase 1b, §3]
    pub(crate) fn prepare(&mut self, now: Time, from: ReplicaId, prepare: &Prepare, out: &mut Out) {
        let ballot = prepare.ballot;
        if ballot < self.promised {
            return self.reject(from, ballot, out);
        }
        if ballot > self.promised {
            // The candidate asks again.
            if self.bound_until(now, from, prepare.released).is_some()
                && !self.config.mutated(Mutant::PromiseDuringLease)
            {
                self.round = self.round.max(ballot.round);
                return;
            }
            self.raise(ballot, out);
            match &self.role {
                Role::Follower(_) => self.become_follower(now, None, out),
                Role::Candidate(_) | Role::Leader(_) => self.give_up(now, out),
            }
            self.postpone_election(now);
        }
        self.send_promise(from, prepare.from, out);
    }

    /// Tells all that was accepted from a slot on, in as many messages as it takes.
    fn send_promise(&self, to: ReplicaId, mut from: Slot, out: &mut Out) {
        loop {
            let (accepted, last) = self.log.reports(from, self.config.max_message_bytes);
            let told = accepted.last().map_or(from, |report| report.slot);
            let promise = Promise {
                ballot: self.promised,
                from,
                through: told,
                last,
                accepted,
                chosen: self.executed,
                compacted: self.log.compacted(),
            };
            out.send(Dest::One(to), Message::Promise(promise));
            if last {
                return;
            }
            from = told.next();
        }
    }
}

/// As a candidate.
impl MultiPaxos {
    /// Takes a promise, or a part of one; once a quorum has promised, leads.
    /// [Lamport01 §2.2 phase 2a]
    pub(crate) fn promise(&mut self, now: Time, from: ReplicaId, promise: Promise, out: &mut Out) {
        let current = promise.ballot == self.promised
            || self.config.mutated(Mutant::StalePromiseCounted)
                && promise.ballot.replica == self.me;
        let Role::Candidate(candidate) = &mut self.role else {
            return;
        };
        let Some(told) = candidate.told.get_mut(from.index()).filter(|_| current) else {
            return;
        };
        // What is beyond the window now may not be when all before it is known: it is asked for
        // again.
        let farthest = self
            .executed
            .0
            .saturating_add(self.config.max_window as u64);
        let forgotten = self.config.mutated(Mutant::EarlyPartsForgotten);
        if promise.from > told.next() && (promise.through.0 > farthest || forgotten) {
            return;
        }
        // Whoever has compacted what is lacking here cannot say what was chosen there, until the
        // snapshot is installed; others may.
        if promise.compacted > self.executed {
            out.fetch(Fetch {
                from,
                at_least: Frontier::single(promise.compacted),
            });
            if self.config.mutated(Mutant::CampaignEndedByCompaction) {
                self.give_up(now, out);
            }
            return;
        }
        let part = promise.last && self.config.mutated(Mutant::PartOfPromiseCounted);
        if told.tell(promise.from, promise.through, promise.last) || part {
            candidate.promises.count(from);
        }
        if !self.merge(promise, out) {
            return self.give_up(now, out);
        }
        if let Role::Candidate(candidate) = &mut self.role
            && candidate.promises.meets(&self.quorums.phase1)
        {
            let found = std::mem::take(&mut candidate.found);
            self.become_leader(now, found, out);
        }
    }

    /// Keeps in each slot the value that counts most, and learns what is chosen as far as it
    /// follows what is executed. The rest is proposed again, chosen or not: nothing that was told
    /// is forgotten. False if this replica's window cannot hold it.
    fn merge(&mut self, promise: Promise, out: &mut Out) -> bool {
        let Role::Candidate(candidate) = &mut self.role else {
            return false;
        };
        let shifts = self.config.mutated(Mutant::PromisesMergedAtWrongOffset);
        let slots = (self.executed.next().0..).map(Slot);
        for (report, counted) in promise.accepted.into_iter().zip(slots) {
            let slot = if shifts { counted } else { report.slot };
            let told = Found {
                chosen: slot <= promise.chosen,
                ballot: report.ballot,
                batch: report.batch,
            };
            if slot <= self.executed {
                continue;
            }
            let known = candidate.found.get(&slot);
            let both = known.filter(|known| known.chosen && told.chosen);
            if both.is_some_and(|known| known.batch != told.batch) {
                self.conflict = Some(slot);
            }
            if known.is_none_or(|known| told.beats(known, &self.config)) {
                candidate.found.insert(slot, told);
            }
        }
        self.learn_found(out);
        let Role::Candidate(candidate) = &self.role else {
            return false;
        };
        let window = self.config.max_window as u64;
        let farthest = self.executed.0.saturating_add(window);
        let last = candidate.found.keys().next_back();
        last.is_none_or(|slot| slot.0 <= farthest)
    }

    /// Learns the values that are chosen and follow what is executed, one after the other.
    fn learn_found(&mut self, out: &mut Out) {
        let mut slot = self.first_unchosen();
        let Role::Candidate(candidate) = &mut self.role else {
            return;
        };
        let mut learnt = Vec::new();
        while let Some(found) = candidate.found.get(&slot).filter(|found| found.chosen) {
            let batch = found.batch.clone();
            learnt.push(Proposal { slot, batch });
            candidate.found.remove(&slot);
            slot = slot.next();
        }
        if self.config.mutated(Mutant::ChosenForgottenBeyondWindow) {
            learnt.truncate(self.config.max_window);
            candidate.found.retain(|_, found| !found.chosen);
        }
        self.learn_chosen(learnt, out);
    }

    /// The values to propose in the slots that are not known chosen: "the value of the
    /// highest-numbered proposal among the responses", and where "the responses reported no
    /// proposals" a no-op, as far as there is a value after it. [Lamport01 §2.2 phase 2a, §3]
    pub(crate) fn to_be_proposed(&self, mut found: BTreeMap<Slot, Found>) -> Vec<Proposal> {
        let first = self.first_unchosen();
        let last = found.keys().next_back().copied().unwrap_or(Slot::ZERO);
        let noop_where_own_is_none = self.config.mutated(Mutant::NoopOverChosenValue);
        let mut proposals = Vec::new();
        for slot in (first.0..=last.0).map(Slot) {
            let own = self.log.accepted(slot);
            let batch = match own {
                Some(own) if self.log.is_chosen(slot) => own.batch.clone(),
                None if noop_where_own_is_none => Default::default(),
                _ => found
                    .remove(&slot)
                    .map(|value| value.batch)
                    .unwrap_or_default(),
            };
            proposals.push(Proposal { slot, batch });
        }
        proposals
    }
}

/// As whoever hears of a leader.
impl MultiPaxos {
    /// Whether `ballot` is not too low to be followed; follows its leader.
    ///
    /// What is promised by following is the same as by answering a Prepare: "an acceptor can
    /// accept a proposal numbered n iff it has not responded to a prepare request having a number
    /// greater than n", and a proposal accepted is a ballot promised. [Lamport01 §2.2 P1a;
    /// vanRenesse15 §2]
    pub(crate) fn follow(&mut self, now: Time, ballot: Ballot, out: &mut Out) -> bool {
        if ballot < self.promised && !self.config.mutated(Mutant::AcceptBelowPromise) {
            self.reject(ballot.replica, ballot, out);
            return false;
        }
        if ballot > self.promised && !self.config.mutated(Mutant::AcceptDoesNotRaisePromise) {
            self.raise(ballot, out);
        }
        match &self.role {
            Role::Follower(follower) if follower.leader == Some(ballot) => {}
            _ if ballot.replica == self.me => return false,
            _ => self.become_follower(now, Some(ballot), out),
        }
        self.election.failures = 0;
        self.postpone_election(now);
        self.grant_lease(now, ballot);
        true
    }

    pub(crate) fn persist_accepted(&self, ballot: Ballot, proposals: Vec<Proposal>, out: &mut Out) {
        let chosen = self.executed;
        if !proposals.is_empty() {
            out.persist(Record::Accepted {
                ballot,
                proposals,
                chosen,
            });
        }
    }
}
