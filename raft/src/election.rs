//! Leader election. [Ongaro14 §5.2, §5.4.1]

use std::time::Duration;

use quorate_core::id::{ReplicaId, Time};
use quorate_core::protocol::{Dest, Event};
use quorate_core::quorum::Tally;
use rand::RngExt;

use crate::log::Position;
use crate::message::Message;
use crate::mutant::Mutant;
use crate::replica::{Out, Raft, Role, Timer};

impl Raft {
    /// Draws another wait, and begins it. "Election timeouts are chosen randomly from a fixed
    /// interval", so that split votes are rare. [Ongaro14 §5.2]
    pub(crate) fn restart_election_clock(&mut self, now: Time, out: &mut Out) {
        let shortest = u64::try_from(self.config.election_timeout.as_nanos()).unwrap_or(u64::MAX);
        let wait = self.rng.random_range(shortest..=shortest.saturating_mul(2));
        self.election.timeout = Duration::from_nanos(wait);
        self.election.deadline = now + self.election.timeout;
        out.arm(Timer::Election, self.election.deadline);
    }

    /// A leader was heard, or a vote given: the wait begins again. [Ongaro14 §5.2]
    pub(crate) fn postpone_election(&mut self, now: Time) {
        self.election.deadline = now + self.election.timeout;
    }

    pub(crate) fn election_timed_out(&mut self, now: Time, out: &mut Out) {
        if matches!(self.role, Role::Leader(_)) {
            return;
        }
        if now < self.election.deadline {
            out.arm(Timer::Election, self.election.deadline);
            return;
        }
        self.campaign(now, out);
    }

    /// "To begin an election, a follower increments its current term and transitions to candidate
    /// state. It then votes for itself and issues RequestVote RPCs in parallel to each of the other
    /// servers in the cluster." A candidate that was not elected does the same. [Ongaro14 §5.2]
    fn campaign(&mut self, now: Time, out: &mut Out) {
        self.term = self.term.next();
        self.voted_for = Some(self.me);
        self.persist_vote(out);
        self.role = Role::Candidate(Tally::default());
        self.restart_election_clock(now, out);
        let regime = self.term.0;
        out.event(Event::Campaign { regime });
        let (term, last) = (self.term, self.log.last());
        out.send(Dest::Others, Message::RequestVote { term, last });
        // Its own vote counts like any other: when it is durable.
        self.send_vote(self.me, true, out);
    }

    fn send_vote(&self, candidate: ReplicaId, granted: bool, out: &mut Out) {
        let term = self.term;
        out.send(Dest::One(candidate), Message::Vote { term, granted });
    }

    /// Decides on a candidate of the current term.
    pub(crate) fn vote_requested(
        &mut self,
        now: Time,
        candidate: ReplicaId,
        last: Position,
        out: &mut Out,
    ) {
        // "Each server will vote for at most one candidate in a given term, on a
        // first-come-first-served basis." [Ongaro14 §5.2]
        let free = self.voted_for.is_none_or(|chosen| chosen == candidate);
        // "The voter denies its vote if its own log is more up-to-date than that of the
        // candidate." [Ongaro14 §5.4.1]
        let up_to_date =
            last >= self.log.last() || self.config.mutated(Mutant::VoteWithoutLogCheck);
        let granted = free && up_to_date;
        if granted {
            if self.voted_for.is_none() {
                self.voted_for = Some(candidate);
                self.persist_vote(out);
            }
            self.postpone_election(now);
        }
        self.send_vote(candidate, granted, out);
    }

    /// Counts a vote of the current term. "A candidate wins an election if it receives votes from
    /// a majority of the servers in the full cluster for the same term." [Ongaro14 §5.2]
    pub(crate) fn voted(&mut self, now: Time, from: ReplicaId, granted: bool, out: &mut Out) {
        let quorum = self.quorum();
        let Role::Candidate(votes) = &mut self.role else {
            return;
        };
        if granted {
            votes.count(from);
        }
        if votes.meets(&quorum) {
            self.become_leader(now, out);
        }
    }

    /// Whether `from` leads the current term; takes note of it, and goes on waiting.
    ///
    /// "If the leader's term (included in its RPC) is at least as large as the candidate's current
    /// term, then the candidate recognizes the leader as legitimate and returns to follower
    /// state." [Ongaro14 §5.2]
    pub(crate) fn follow(&mut self, now: Time, from: ReplicaId, out: &mut Out) -> bool {
        match &mut self.role {
            Role::Candidate(_) => self.become_follower(now, Some(from), out),
            // At most one leader can be elected in a term. [Ongaro14 figure 3]
            Role::Leader(_) => return false,
            Role::Follower(follower) => {
                if *follower.leader.get_or_insert(from) != from {
                    return false;
                }
            }
        }
        self.postpone_election(now);
        true
    }
}
