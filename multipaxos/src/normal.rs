//! The failure-free path: proposals, phase 2, and what is chosen. [Lamport01 §2.2, §3;
//! vanRenesse15 §2]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use quorate_core::id::{EntryId, ReplicaId, ReplicaSet, Slot, Time};
use quorate_core::protocol::{Commit, Dest};
use quorate_core::quorum::{Quorum, Tally};
use quorate_core::request::Batch;
use quorate_core::under_way::UnderWay;
use quorate_core::window::Window;

use crate::config::ReadMode;
use crate::election::Found;
use crate::log::{Accepted, Ballot, Proposal, size};
use crate::message::{Accept, Acceptance, Message};
use crate::mutant::Mutant;
use crate::progress::{InFlight, Progress, Rounds, Slots, Standstill};
use crate::queue::Queue;
use crate::read::{LeaseReads, RoundReads};
use crate::replica::{MultiPaxos, Out, Role, Timer};

/// What a follower knows in the ballot that it has promised.
#[derive(Debug, Default)]
pub(crate) struct Follower {
    /// That ballot, once its leader was heard. Until then it is a candidate's.
    pub(crate) leader: Option<Ballot>,
    /// All slots through this one are chosen, as the leader says.
    pub(crate) watermark: Slot,
    /// The last round of heartbeats heard of.
    round: u64,
    /// The last that the leader was told of.
    echoed: u64,
    /// What was accepted in this turn.
    accepted: Slots,
    /// The leader is owed an acknowledgement at the end of the turn.
    owes: bool,
}

impl Follower {
    pub(crate) fn of(leader: Option<Ballot>) -> Self {
        Follower {
            leader,
            ..Follower::default()
        }
    }
}

/// What a leader knows in its ballot. [vanRenesse15 §2]
#[derive(Debug)]
pub(crate) struct Leader {
    /// When it was elected.
    pub(crate) elected: Time,
    /// When it offered last to hand over to the preferred replica.
    pub(crate) offered: Option<Time>,
    /// All that may have been chosen in lower ballots is in the slots through this one.
    pub(crate) found: Slot,
    /// The slot of the next proposal.
    pub(crate) next: Slot,
    /// The slot of the first proposal that was not yet sent.
    unsent: Slot,
    /// The slots beyond those executed, before `next`.
    pub(crate) in_flight: Window<InFlight>,
    /// The bytes of their values.
    pub(crate) unchosen_bytes: usize,
    /// Requests that wait for the window to move on.
    pub(crate) queue: Queue,
    /// The requests in the slots under way.
    pub(crate) under_way: UnderWay,
    /// Slots under way with requests of a follower's clients.
    pub(crate) forwarded: BTreeSet<(Slot, ReplicaId)>,
    /// Followers that wait to learn of the watermark.
    pub(crate) waiting: ReplicaSet,
    /// A heartbeat goes to all at the end of the turn.
    pub(crate) heartbeat_due: bool,
    pub(crate) rounds: Rounds,
    standstill: Standstill,
    /// The same of others, while those that cannot follow could elect one of them.
    others_behind: Standstill,
    /// The last round that it has acknowledged to itself.
    own_round: u64,
    /// The last round that each replica has heard of, itself included.
    pub(crate) echoed: Vec<u64>,
    /// When each has said so last.
    pub(crate) heard_from: Vec<Option<Time>>,
    pub(crate) progress: Vec<Progress>,
    pub(crate) reads: LeaseReads,
    /// The reads that wait for a round of heartbeats.
    pub(crate) round_reads: RoundReads,
}

/// For how many time-outs a leader bears silence.
const SILENCES: u32 = 2;

/// As a leader.
impl MultiPaxos {
    /// Takes power: proposes in each slot that is not known chosen what it was told of, and a
    /// no-op in each gap. All goes to the others at the end of this turn. [Lamport01 §3]
    pub(crate) fn become_leader(&mut self, now: Time, found: BTreeMap<Slot, Found>, out: &mut Out) {
        let proposals = self.to_be_proposed(found);
        let patience = self.patience(now);
        let executed = self.executed;
        let last = proposals.last().map_or(executed, |last| last.slot);
        self.role = Role::Leader(Box::new(Leader {
            elected: now,
            offered: None,
            found: last,
            next: executed.next(),
            unsent: executed.next(),
            in_flight: Window::after(executed),
            unchosen_bytes: 0,
            queue: Queue::among(self.n),
            under_way: UnderWay::default(),
            forwarded: BTreeSet::new(),
            waiting: ReplicaSet::EMPTY,
            heartbeat_due: true,
            rounds: Rounds::new(),
            standstill: Standstill::borne_for(patience),
            others_behind: Standstill::borne_for(patience * 2),
            own_round: 0,
            echoed: vec![0; self.n],
            heard_from: vec![None; self.n],
            progress: vec![Progress::default(); self.n],
            reads: LeaseReads::default(),
            round_reads: RoundReads::default(),
        }));
        self.election.failures = 0;
        out.disarm(Timer::Retransmit);
        out.arm(Timer::Heartbeat, now + self.config.heartbeat);
        // The window holds all that was found, or the campaign would have ended. Were it otherwise this
        // replica must not lead: what it has not proposed may be chosen.
        for proposal in proposals {
            if !self.propose_in_next_slot(now, self.me, proposal.batch, out) {
                return self.give_up(now, out);
            }
        }
    }

    /// How long a leader that is elected now bears it that nothing is chosen: where disks are slow
    /// its election has taken longer than a choice, for it waited for two of them.
    fn patience(&self, now: Time) -> Duration {
        let campaigned = self.election.heard.unwrap_or(now);
        now.since(campaigned).max(self.config.election_timeout) * 2
    }

    /// Shows that it leads, unless it has lost its quorum, serves nobody, or hands over.
    /// [Chandra07 §5.2]
    pub(crate) fn heartbeat_is_due(&mut self, now: Time, out: &mut Out) {
        let Role::Leader(leader) = &self.role else {
            return;
        };
        let heard = leader.rounds.confirmed.unwrap_or(leader.elected);
        let unheard = now.since(heard) > self.config.election_timeout * SILENCES;
        if unheard && !self.config.mutated(Mutant::LeadUnheard) {
            return self.give_up(now, out);
        }
        if self.serves_nobody(now) {
            return self.stand_back(now, out);
        }
        let Role::Leader(leader) = &mut self.role else {
            return;
        };
        leader.heartbeat_due = true;
        out.arm(Timer::Heartbeat, now + self.config.heartbeat);
        self.offer_to_hand_over(now, out);
        self.accept_again(now, out);
    }

    /// Whether for too long it has chosen nothing of what it proposed, or nobody could execute what it
    /// has chosen.
    fn serves_nobody(&mut self, now: Time) -> bool {
        let others = self.others_behind(now);
        let (executed, beat) = (self.executed, self.config.heartbeat);
        let Role::Leader(leader) = &mut self.role else {
            return false;
        };
        let waits = leader.next > executed.next();
        let stands = leader.standstill.is_too_long(executed, waits, beat)
            && !self.config.mutated(Mutant::LeadWithoutChoosing);
        let furthest = others.unwrap_or_default();
        let ahead = leader
            .others_behind
            .is_too_long(furthest, others.is_some(), beat)
            && !self.config.mutated(Mutant::LeadAheadAlone);
        stands || ahead
    }

    /// How far those others have executed that have not executed what is compacted here, if they could
    /// elect one of them: they hold all that was chosen, and need not get what they lack of anybody.
    fn others_behind(&self, now: Time) -> Option<Slot> {
        let Role::Leader(leader) = &self.role else {
            return None;
        };
        let (mut behind, mut furthest) = (Tally::default(), Slot::ZERO);
        let silence = self.config.election_timeout * SILENCES;
        for peer in self.peers() {
            let at = leader.heard_from.get(peer.index()).copied().flatten();
            let progress = leader.progress.get(peer.index());
            if let Some(progress) = progress
                && progress.executed < self.log.compacted()
                && at.is_some_and(|at| now.since(at) <= silence)
            {
                behind.count(peer);
                furthest = furthest.max(progress.executed);
            }
        }
        behind.meets(&self.quorums.phase1).then_some(furthest)
    }

    /// Sends all what is new, and a heartbeat if one is due; the watermark to those who wait for
    /// it. Then acknowledges its own proposals: like any acceptor it may do so only when they are
    /// durable, and others may be faster.
    pub(crate) fn replicate(&mut self, now: Time, out: &mut Out) {
        let (ballot, executed) = (self.promised, self.executed);
        let Role::Leader(leader) = &mut self.role else {
            return;
        };
        let mut heartbeat = std::mem::take(&mut leader.heartbeat_due);
        if heartbeat {
            leader.rounds.begin(now);
        }
        let waiting = std::mem::take(&mut leader.waiting);
        let round = leader.rounds.last;
        let accept = |proposals| {
            Message::Accept(Accept {
                ballot,
                proposals,
                chosen: executed,
                round,
            })
        };
        let last = leader.next.previous();
        let new = Slots::between(leader.unsent, last);
        while leader.unsent <= last || heartbeat {
            let max_bytes = self.config.max_message_bytes;
            let proposals = self.log.proposals(leader.unsent, last, max_bytes);
            leader.unsent = proposals.last().map_or(leader.next, |p| p.slot.next());
            out.send(Dest::Others, accept(proposals));
            heartbeat = false;
            for progress in &mut leader.progress {
                progress.told = executed;
            }
        }
        for (peer, progress) in ReplicaId::all(self.n).zip(&mut leader.progress) {
            if waiting.contains(peer) && progress.told < executed {
                progress.told = executed;
                out.send(Dest::One(peer), accept(Vec::new()));
            }
        }
        if !new.is_empty() || leader.own_round < round {
            let echoed = std::mem::replace(&mut leader.own_round, round);
            let acceptance = Acceptance {
                ballot,
                slots: new,
                round,
                executed,
            };
            self.send_acceptance(self.me, echoed, acceptance, out);
        }
    }

    /// Sends again, to those who have not accepted it, what has waited too long to be chosen: one
    /// message for each at a time. What is chosen they ask for themselves.
    fn accept_again(&mut self, now: Time, out: &mut Out) {
        let (ballot, chosen) = (self.promised, self.executed);
        let Role::Leader(leader) = &mut self.role else {
            return;
        };
        let waits = |in_flight: &InFlight| now.since(in_flight.sent) >= self.config.retransmit;
        let oldest = leader.in_flight.iter().next();
        if !oldest.is_some_and(|(_, oldest)| waits(oldest)) {
            return;
        }
        let (first, max_bytes) = (leader.in_flight.first(), self.config.max_message_bytes);
        let sent = leader.unsent.previous();
        let due = self.log.proposals(first, sent, max_bytes);
        let mut lacking: Vec<Vec<Proposal>> = vec![Vec::new(); self.n];
        for proposal in due {
            let slot = proposal.slot;
            let unchosen = !self.log.is_chosen(slot);
            let Some(known) = leader
                .in_flight
                .slot_mut(slot)
                .filter(|k| unchosen && waits(k))
            else {
                continue;
            };
            known.sent = now;
            for (peer, lacks) in ReplicaId::all(self.n).zip(&mut lacking) {
                if peer != self.me && !known.acceptors.voters().contains(peer) {
                    lacks.push(proposal.clone());
                }
            }
        }
        let round = leader.rounds.last;
        for (peer, proposals) in ReplicaId::all(self.n).zip(lacking) {
            if !proposals.is_empty() {
                let accept = Accept {
                    ballot,
                    proposals,
                    chosen,
                    round,
                };
                out.send(Dest::One(peer), Message::Accept(accept));
            }
        }
    }

    /// Counts an acceptance. A value that a phase 2 quorum has accepted in one ballot is chosen.
    /// [Lamport01 §2.2; Howard16 §3]
    pub(crate) fn accepted(
        &mut self,
        now: Time,
        from: ReplicaId,
        acceptance: &Acceptance,
        out: &mut Out,
    ) {
        let first = self.first_unchosen();
        let Role::Leader(leader) = &mut self.role else {
            return;
        };
        let stale = acceptance.ballot != self.promised;
        if stale && !self.config.mutated(Mutant::StaleAcceptanceCounted) {
            return;
        }
        for (begin, end) in acceptance.slots.ranges() {
            let end = leader.next.previous().min(*end);
            for slot in (first.max(*begin).0..=end.0).map(Slot) {
                let Some(known) = leader.in_flight.slot_mut(slot) else {
                    continue;
                };
                if known.acceptors.count(from) && known.acceptors.meets(&self.quorums.phase2) {
                    self.log.choose(slot);
                }
            }
        }
        if let Some(progress) = leader.progress.get_mut(from.index()) {
            progress.executed = progress.executed.max(acceptance.executed);
        }
        self.has_come_to(from, acceptance.executed);
        let Role::Leader(leader) = &mut self.role else {
            return;
        };
        let begun = acceptance.round <= leader.rounds.last
            || self.config.mutated(Mutant::RoundHeardBeforeBegun);
        if let Some(echoed) = leader.echoed.get_mut(from.index())
            && *echoed < acceptance.round
            && begun
        {
            *echoed = acceptance.round;
            if let Some(heard) = leader.heard_from.get_mut(from.index()) {
                *heard = Some(now);
            }
            if let Some(confirmed) = self.quorums.phase2.reached(&leader.echoed) {
                leader.rounds.confirm(confirmed);
                if self.config.mutated(Mutant::LeaseFromAnswer) {
                    leader.rounds.confirmed = Some(now);
                }
            }
        }
        self.advance(out);
    }
}

impl Leader {
    /// A slot is chosen. Replicas that asked for what is in it may not know so for a while.
    fn decided(&mut self, slot: Slot, batch: &Batch) {
        match self.forwarded.first() {
            Some((first, _)) if *first == slot => self.under_way.remember(slot, batch),
            _ => self.under_way.leave(slot, batch),
        }
    }

    /// Notes who waits for slots through `executed`. All others learn of the watermark with the
    /// next proposals or heartbeat.
    pub(crate) fn wake(&mut self, executed: Slot) {
        while let Some((slot, proposer)) = self.forwarded.first().copied()
            && slot <= executed
        {
            self.forwarded.pop_first();
            self.waiting.insert(proposer);
        }
        for (peer, progress) in ReplicaId::all(self.progress.len()).zip(&mut self.progress) {
            if progress.awaits > Slot::ZERO && progress.awaits <= executed {
                progress.awaits = Slot::ZERO;
                self.waiting.insert(peer);
            }
        }
    }

    /// Until when it may count on a lease of the length given: from when it sent the last round of
    /// heartbeats that a quorum has answered.
    pub(crate) fn leased_until(&self, lease: Duration) -> Time {
        self.rounds
            .confirmed
            .map_or(Time::ZERO, |sent| sent + lease)
    }
}

/// As an acceptor.
impl MultiPaxos {
    /// Takes proposals or a heartbeat. [Lamport01 §2.2 phase 2b]
    pub(crate) fn accept(&mut self, now: Time, from: ReplicaId, accept: Accept, out: &mut Out) {
        if from != accept.ballot.replica || !self.follow(now, accept.ballot, out) {
            return;
        }
        if let Role::Follower(follower) = &mut self.role {
            follower.round = follower.round.max(accept.round);
            follower.owes = true;
            follower.watermark = follower.watermark.max(accept.chosen);
        }
        // What is chosen moves the window on, and may make room for what is proposed.
        self.advance(out);
        let accepted = self.store(accept.ballot, accept.proposals, out);
        if let Role::Follower(follower) = &mut self.role {
            for slot in accepted {
                follower.accepted.push(slot);
            }
        }
        self.advance(out);
    }

    /// Accepts what is new, in any order, as far as the window reaches; gives the slots of all
    /// that is accepted. What is known chosen here is accepted as it is: it has the same value.
    fn store(&mut self, ballot: Ballot, proposals: Vec<Proposal>, out: &mut Out) -> Vec<Slot> {
        let window = self.window();
        let (mut accepted, mut new) = (Vec::new(), Vec::new());
        for proposal in proposals {
            let slot = proposal.slot;
            let held = self.log.accepted(slot);
            if slot <= self.executed || self.log.is_chosen(slot) {
                if held.is_some_and(|held| held.batch != proposal.batch) {
                    self.conflict = Some(slot);
                }
                accepted.push(slot);
            } else if held.is_some_and(|held| held.ballot == ballot) {
                accepted.push(slot);
            } else if self.log.accept(ballot, proposal.clone(), window) {
                accepted.push(slot);
                new.push(proposal);
            } else if self.config.mutated(Mutant::AcknowledgedBeyondWindow) {
                accepted.push(slot);
            }
        }
        if !self.config.mutated(Mutant::AcceptedNotWritten) {
            self.persist_accepted(ballot, new, out);
        }
        accepted
    }

    /// Acknowledges once a turn, however many messages came. The promise waits until all that it
    /// covers is durable.
    pub(crate) fn acknowledge(&mut self, out: &mut Out) {
        let executed = self.executed;
        let Role::Follower(follower) = &mut self.role else {
            return;
        };
        let owes = std::mem::take(&mut follower.owes);
        if let Some(ballot) = follower.leader.filter(|_| owes) {
            let acceptance = Acceptance {
                ballot,
                slots: std::mem::take(&mut follower.accepted),
                round: follower.round,
                executed,
            };
            let echoed = std::mem::replace(&mut follower.echoed, follower.round);
            self.send_acceptance(ballot.replica, echoed, acceptance, out);
        }
    }

    /// Tells a leader what was accepted, when it is durable, and that it was heard. The latter is
    /// no promise, and waits for no disk: a read may wait for it. But with leases it is one, not to
    /// promise anything to others, which a replica without a durable past would forget.
    fn send_acceptance(
        &self,
        leader: ReplicaId,
        echoed: u64,
        acceptance: Acceptance,
        out: &mut Out,
    ) {
        let is_promise = self.config.reads == ReadMode::Lease;
        if !is_promise && (acceptance.slots.is_empty() || echoed < acceptance.round) {
            let echo = Acceptance {
                slots: Slots::default(),
                ..acceptance
            };
            out.send(Dest::One(leader), Message::Echo(echo));
        }
        if is_promise || !acceptance.slots.is_empty() {
            out.send(Dest::One(leader), Message::Accepted(acceptance));
        }
    }
}

/// As a learner.
impl MultiPaxos {
    /// Whether the value that this replica holds in `slot` is known to be chosen.
    ///
    /// The watermark of a leader says so of what was accepted in its own ballot: that is the only
    /// value which this ballot has proposed there. What was accepted in another may differ from
    /// what was chosen, and must be asked for. [Lamport01 §2.2 P2c]
    fn holds_chosen(&self, slot: Slot) -> bool {
        if self.log.is_chosen(slot) {
            return true;
        }
        let Role::Follower(follower) = &self.role else {
            return false;
        };
        let any_ballot = self.config.mutated(Mutant::WatermarkConfirmsOlderBallot);
        let confirmed = |held: &Accepted| any_ballot || Some(held.ballot) == follower.leader;
        slot <= follower.watermark && self.log.accepted(slot).is_some_and(confirmed)
    }

    /// The next slot that may be executed. Commands are executed in the order of slots, and a
    /// slot that is chosen waits for those before it. [Lamport01 §3; vanRenesse15 §2]
    fn executable(&self) -> Option<Slot> {
        let next = self.first_unchosen();
        if self.holds_chosen(next) {
            return Some(next);
        }
        let after = next.next();
        let skips = self.config.mutated(Mutant::GapSkipped) && self.holds_chosen(after);
        skips.then_some(after)
    }

    /// Hands over for execution all that may be.
    pub(crate) fn advance(&mut self, out: &mut Out) {
        let before = self.executed;
        while let Some(slot) = self.executable() {
            self.log.choose(slot);
            let Some(accepted) = self.log.accepted(slot) else {
                break;
            };
            let bytes = size(&accepted.batch);
            out.commit(Commit {
                id: EntryId::single(slot),
                batch: accepted.batch.clone(),
                checkpoint: false,
                agreed: None,
            });
            self.executed = slot;
            if let Role::Leader(leader) = &mut self.role {
                leader.unchosen_bytes = leader.unchosen_bytes.saturating_sub(bytes);
                leader.decided(slot, &accepted.batch);
            }
        }
        if self.executed == before {
            return;
        }
        if let Role::Leader(leader) = &mut self.role {
            leader.in_flight.compact_through(self.executed);
            leader.wake(self.executed);
        }
        self.answer_reads(out);
    }
}
