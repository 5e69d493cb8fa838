//! Whether a campaign could be won, asked before a ballot is raised for it.
//! [OngaroThesis §9.6; Lamport01 §2.4]
//!
//! A ballot that is promised deposes the leader of every lower one. So who does not hear the leader
//! first asks the others whether they do, and campaigns only if a phase 1 quorum has heard nobody
//! for as long as an election takes: a replica that was cut off, or hears too few, raises nothing.
//! Safety does not hang on the answers, and none of them is durable or binds who gives it.

use quorate_core::id::{ReplicaId, Slot, Time};
use quorate_core::protocol::Dest;
use quorate_core::quorum::Tally;
use rand::Rng;

use crate::log::Ballot;
use crate::message::Message;
use crate::mutant::Mutant;
use crate::replica::{MultiPaxos, Out, Role, Timer};

/// A question to all, and who has answered it well.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PreVote {
    /// Names the question.
    ticket: u64,
    began: Time,
    granted: Tally,
    /// The ballot whose leader has offered to hand over.
    instead_of: Option<Ballot>,
}

impl PreVote {
    /// Whether to know the answers is still of use when a leader is heard.
    pub(crate) fn outlives_a_heartbeat(&self) -> bool {
        self.instead_of.is_some()
    }
}

impl MultiPaxos {
    /// Asks who has not granted its campaign yet, and again as often as a leader would show
    /// itself, until it hears of one. A question that has waited for a whole time-out begins
    /// anew: what was true of the others when they answered may not be so any more.
    pub(crate) fn ask_for_pre_votes(&mut self, now: Time, out: &mut Out) {
        let lasts = self.election.timeout;
        let is_good =
            |asked: &PreVote| asked.instead_of.is_none() && now.since(asked.began) < lasts;
        let under_way = self.election.pre_vote.filter(is_good);
        let asked = under_way.unwrap_or_else(|| self.new_pre_vote(now, None));
        self.election.pre_vote = Some(asked);
        let unasked = self.config.mutated(Mutant::CampaignWithoutPreVote);
        if unasked || asked.granted.meets(&self.quorums.phase1) {
            return self.campaign(now, None, out);
        }
        self.send_pre_vote(&asked, out);
        out.arm(Timer::Election, now + self.config.heartbeat);
    }

    fn new_pre_vote(&mut self, now: Time, instead_of: Option<Ballot>) -> PreVote {
        let mut granted = Tally::default();
        granted.count(self.me);
        PreVote {
            ticket: self.rng.next_u64(),
            began: now,
            granted,
            instead_of,
        }
    }

    fn send_pre_vote(&self, asked: &PreVote, out: &mut Out) {
        for peer in self.peers() {
            if !asked.granted.voters().contains(peer) {
                let question = Message::PreVote {
                    ticket: asked.ticket,
                    executed: self.executed,
                    instead_of: asked.instead_of,
                };
                out.send(Dest::One(peer), question);
            }
        }
    }

    /// The leader would hand over: asks the others whether that would leave the cluster with a
    /// leader.
    pub(crate) fn offered(&mut self, now: Time, ballot: Ballot, out: &mut Out) {
        if self.follows(ballot) && self.can_promise() {
            let asked = self.new_pre_vote(now, Some(ballot));
            self.election.pre_vote = Some(asked);
            self.send_pre_vote(&asked, out);
        }
    }

    fn follows(&self, ballot: Ballot) -> bool {
        matches!(&self.role, Role::Follower(follower) if follower.leader == Some(ballot))
    }

    /// A peer hears of no leader, or is to succeed one. Whoever hears another says nothing, nor who
    /// cannot promise anything. If what the peer lacks is compacted here it must fetch a snapshot first:
    /// this replica's promise would not count.
    pub(crate) fn pre_vote(
        &mut self,
        now: Time,
        (from, ticket): (ReplicaId, u64),
        (executed, instead_of): (Slot, Option<Ballot>),
        out: &mut Out,
    ) {
        let leaves = |ballot| self.follows(ballot) || self.promised == ballot && self.leads();
        let free = instead_of.is_some_and(leaves) || self.hears_nobody(now, from);
        if !free || !self.can_promise() {
            return;
        }
        match executed < self.log.compacted() {
            true => self.send_to_fetch(from, out),
            false => out.send(Dest::One(from), Message::PreVoteGranted { ticket }),
        }
    }

    /// Whether this replica leads nobody, and has heard of no leader, nor given a promise, for as
    /// long as `candidate` waits at least before it campaigns.
    fn hears_nobody(&self, now: Time, candidate: ReplicaId) -> bool {
        let timeout = self.config.election_timeout;
        let wait = match self.config.preferred == Some(candidate) {
            true => timeout / 2,
            false => timeout,
        };
        let loyal = !self.config.mutated(Mutant::GrantWhileLed);
        let quiet = |heard| now.since(heard) >= wait || !loyal;
        !self.leads()
            && self.election.heard.is_none_or(quiet)
            && self.bound_until(now, candidate, None).is_none()
    }

    /// A peer hears of no leader either.
    pub(crate) fn pre_vote_granted(
        &mut self,
        now: Time,
        from: ReplicaId,
        ticket: u64,
        out: &mut Out,
    ) {
        if !matches!(self.role, Role::Follower(_)) {
            return;
        }
        let Some(asked) = &mut self.election.pre_vote else {
            return;
        };
        let other = asked.ticket != ticket;
        if other && !self.config.mutated(Mutant::GrantOfEarlierQuestion) {
            return;
        }
        asked.granted.count(from);
        if !asked.granted.meets(&self.quorums.phase1) {
            return;
        }
        match asked.instead_of {
            None => self.campaign(now, None, out),
            Some(ballot) => {
                self.election.pre_vote = None;
                out.send(Dest::One(ballot.replica), Message::Willing { ballot });
            }
        }
    }

    fn leads(&self) -> bool {
        matches!(self.role, Role::Leader(_))
    }
}
