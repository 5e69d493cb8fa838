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
}

impl MultiPaxos {
    /// Asks who has not granted its campaign yet, and again as often as a leader would show
    /// itself, until it hears of one. A question that has waited for a whole time-out begins
    /// anew: what was true of the others when they answered may not be so any more.
    pub(crate) fn ask_for_pre_votes(&mut self, now: Time, out: &mut Out) {
        let lasts = self.election.timeout;
        let under_way = self.election.pre_vote;
        let mut asked = match under_way.filter(|asked| now.since(asked.began) < lasts) {
            Some(asked) => asked,
            None => PreVote {
                ticket: self.rng.next_u64(),
                began: now,
                granted: Tally::default(),
            },
        };
        asked.granted.count(self.me);
        self.election.pre_vote = Some(asked);
        let unasked = self.config.mutated(Mutant::CampaignWithoutPreVote);
        if unasked || asked.granted.meets(&self.quorums.phase1) {
            return self.campaign(now, None, out);
        }
        let (ticket, executed) = (asked.ticket, self.executed);
        for peer in self.peers() {
            if !asked.granted.voters().contains(peer) {
                out.send(Dest::One(peer), Message::PreVote { ticket, executed });
            }
        }
        out.arm(Timer::Election, now + self.config.heartbeat);
    }

    /// A peer has not heard of a leader. Whoever has says nothing, and neither does whoever has
    /// compacted what the peer lacks: it could not be elected with this replica's promise.
    pub(crate) fn pre_vote(
        &mut self,
        now: Time,
        (from, ticket): (ReplicaId, u64),
        executed: Slot,
        out: &mut Out,
    ) {
        if !self.hears_nobody(now, from) {
            return;
        }
        let through = self.log.compacted();
        let answer = match executed < through {
            true => Message::SnapshotNeeded { through },
            false => Message::PreVoteGranted { ticket },
        };
        out.send(Dest::One(from), answer);
    }

    /// Whether this replica leads nobody, and has heard of no leader, nor given a promise, for as
    /// long as `candidate` waits at least before it campaigns.
    fn hears_nobody(&self, now: Time, candidate: ReplicaId) -> bool {
        let timeout = self.config.election_timeout;
        let wait = match self.config.preferred == Some(candidate) {
            true => timeout / 2,
            false => timeout,
        };
        let quiet = |heard| now.since(heard) >= wait;
        !matches!(self.role, Role::Leader(_))
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
        if asked.ticket != ticket {
            return;
        }
        asked.granted.count(from);
        if asked.granted.meets(&self.quorums.phase1) {
            self.campaign(now, None, out);
        }
    }
}
