//! Leader election. [Ongaro14 §5.2, §5.4.1; OngaroThesis §9.6]
//!
//! A replica that hears no leader first asks whether the others would vote for it. Only if a
//! quorum would does it enter another term and campaign: so one that was cut off or paused, and
//! comes back, deposes nobody.

use std::time::Duration;

use quorate_core::id::{ReplicaId, Time};
use quorate_core::protocol::{Dest, Event};
use quorate_core::quorum::Tally;
use rand::RngExt;

use crate::log::{Position, Term};
use crate::message::Message;
use crate::mutant::Mutant;
use crate::replica::{Out, Raft, Role, Timer};

/// How often in a row the wait for votes is doubled at most, from one campaign that came to
/// nothing to the next.
const MOST_DOUBLINGS: u32 = 3;

/// When to campaign if nothing is heard of a leader. [Ongaro14 §5.2]
///
/// The timer is not armed again with each message, but when it fires too early.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ElectionClock {
    pub(crate) deadline: Time,
    /// The wait drawn last.
    pub(crate) timeout: Duration,
    /// When a leader was last heard or an election last taken part in: a while longer this replica
    /// has no part in another.
    contact: Option<Time>,
    /// The vote given in this term is not durable yet.
    voting: bool,
    /// How many campaigns in a row have come to nothing.
    failed: u32,
}

impl ElectionClock {
    /// Another term has begun, in which this replica has not voted.
    pub(crate) fn term_begins(&mut self) {
        self.voting = false;
    }

    /// A leader of the current term was heard. The wait begins again. [Ongaro14 §5.2]
    fn leader_is_heard(&mut self, now: Time) {
        self.failed = 0;
        self.postpone(now);
    }

    fn postpone(&mut self, now: Time) {
        self.contact = Some(now);
        self.deadline = now + self.timeout;
    }
}

impl Raft {
    /// Draws another wait, and begins it. "Election timeouts are chosen randomly from a fixed
    /// interval", so that split votes are rare. [Ongaro14 §5.2]
    pub(crate) fn restart_election_clock(&mut self, now: Time, out: &mut Out) {
        self.draw_wait(now, self.config.election_timeout, out);
    }

    fn draw_wait(&mut self, now: Time, shortest: Duration, out: &mut Out) {
        let shortest = u64::try_from(shortest.as_nanos()).unwrap_or(u64::MAX);
        let wait = self.rng.random_range(shortest..=shortest.saturating_mul(2));
        self.election.timeout = Duration::from_nanos(wait);
        self.election.deadline = now + self.election.timeout;
        out.arm(Timer::Election, self.election.deadline);
    }

    /// Draws another wait; it ends no later than the one before it would have.
    pub(crate) fn wait_no_longer_than_a_follower(&mut self, now: Time, out: &mut Out) {
        let before = self.election.deadline;
        self.restart_election_clock(now, out);
        self.election.deadline = self.election.deadline.min(before);
        out.arm(Timer::Election, self.election.deadline);
    }

    /// The shortest wait for votes, and how long a leader that was elected after such a wait bears
    /// silence: the time-out, doubled for each campaign that came to nothing, for the disks or the
    /// network are slower than it allows for.
    pub(crate) fn patience(&self) -> Duration {
        let doubled = 1 << self.election.failed.min(MOST_DOUBLINGS);
        self.config.election_timeout.saturating_mul(doubled)
    }

    pub(crate) fn election_timed_out(&mut self, now: Time, out: &mut Out) {
        if matches!(self.role, Role::Leader(_)) {
            return;
        }
        // An election in which this replica takes part has not begun before its vote is durable:
        // another term would only give the disk more to do.
        let waits = self.election.voting && !self.config.mutated(Mutant::CampaignWhileVoting);
        if waits {
            self.election.deadline = self.election.deadline.max(now + self.election.timeout);
        }
        if now < self.election.deadline {
            out.arm(Timer::Election, self.election.deadline);
            return;
        }
        self.ask_first(now, out);
    }

    /// Asks the others whether they would vote for this replica in the next term. "A candidate only
    /// increments its term if it first learns from a majority of the cluster that they would be
    /// willing to grant the candidate their votes." [OngaroThesis §9.6]
    fn ask_first(&mut self, now: Time, out: &mut Out) {
        if matches!(self.role, Role::Candidate(_)) {
            self.election.failed = (self.election.failed + 1).min(MOST_DOUBLINGS);
        }
        if self.config.mutated(Mutant::CampaignUnasked) {
            return self.campaign(now, out);
        }
        self.role = Role::PreCandidate(Tally::default());
        self.restart_election_clock(now, out);
        let (term, last) = (self.term.next(), self.log.last());
        out.send(Dest::Others, Message::PreVote { term, last });
        // It would vote for itself. That promises nothing, so it need not be durable.
        self.would_vote(now, self.me, out);
    }

    /// Says whether this replica would vote for `candidate` in `term`. It enters no term for that.
    ///
    /// Whoever leads, or has heard a leader within the time-out, would not: nor whoever has just
    /// taken part in an election, which has its time too. [OngaroThesis §4.2.3, §9.6]
    pub(crate) fn pre_vote_requested(
        &mut self,
        now: Time,
        candidate: ReplicaId,
        (term, last): (Term, Position),
        out: &mut Out,
    ) {
        let timeout = self.config.election_timeout;
        let contact = self.election.contact.filter(|at| now < *at + timeout);
        let leads = matches!(self.role, Role::Leader(_));
        let loyal = leads || self.election.voting || contact.is_some();
        let loyal = loyal && !self.config.mutated(Mutant::PreVoteWithoutLoyalty);
        let reply = Message::PreVoteReply {
            term: self.term,
            asked: term,
            granted: term > self.term && last >= self.log.last() && !loyal,
        };
        out.send(Dest::One(candidate), reply);
    }

    /// Takes the answer of `from`, which is in `term`, to whether it would vote for this replica in
    /// the term `asked`.
    ///
    /// One that is in a later term says so, and this replica enters it: otherwise it would ask for
    /// ever for terms that are over, and with the only log that may win nobody would.
    pub(crate) fn pre_voted(
        &mut self,
        now: Time,
        from: ReplicaId,
        (term, asked): (Term, Term),
        granted: bool,
        out: &mut Out,
    ) {
        if term > self.term && !self.config.mutated(Mutant::TermOfRefusalIgnored) {
            self.adopt(term, out);
            self.become_follower(now, None, out);
        } else if granted && asked == self.term.next() && now < self.election.deadline {
            self.would_vote(now, from, out);
        }
    }

    fn would_vote(&mut self, now: Time, from: ReplicaId, out: &mut Out) {
        let quorum = self.quorum();
        if let Role::PreCandidate(votes) = &mut self.role {
            votes.count(from);
            if votes.meets(&quorum) {
                self.campaign(now, out);
            }
        }
    }

    /// The leader hands over: this replica need not ask first. [OngaroThesis §3.10]
    pub(crate) fn timeout_now(&mut self, now: Time, out: &mut Out) {
        if matches!(self.role, Role::Follower(_) | Role::PreCandidate(_)) {
            self.campaign(now, out);
        }
    }

    /// "To begin an election, a follower increments its current term and transitions to candidate
    /// state. It then votes for itself and issues RequestVote RPCs in parallel to each of the other
    /// servers in the cluster." [Ongaro14 §5.2]
    fn campaign(&mut self, now: Time, out: &mut Out) {
        self.term = self.term.next();
        self.vote_for(now, self.me, out);
        self.role = Role::Candidate(Tally::default());
        self.draw_wait(now, self.patience(), out);
        let regime = self.term.0;
        out.event(Event::Campaign { regime });
        let (term, last) = (self.term, self.log.last());
        out.send(Dest::Others, Message::RequestVote { term, last });
    }

    /// Votes for `candidate` in the current term.
    ///
    /// A vote for itself counts like any other: when it is durable. One for another is told to
    /// itself too, so that its wait begins when the vote leaves.
    fn vote_for(&mut self, now: Time, candidate: ReplicaId, out: &mut Out) {
        self.voted_for = Some(candidate);
        self.persist_vote(out);
        self.election.voting = true;
        self.election.contact = Some(now);
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
        let free = self.voted_for.is_none_or(|chosen| chosen == candidate)
            || self.config.mutated(Mutant::VoteTwice);
        // "The voter denies its vote if its own log is more up-to-date than that of the
        // candidate." [Ongaro14 §5.4.1]
        let up_to_date =
            last >= self.log.last() || self.config.mutated(Mutant::VoteWithoutLogCheck);
        let granted = free && up_to_date;
        if granted {
            if self.voted_for.is_none() {
                self.vote_for(now, candidate, out);
            }
            self.election.postpone(now);
        }
        self.send_vote(candidate, granted, out);
    }

    /// Counts a vote of the current term. "A candidate wins an election if it receives votes from
    /// a majority of the servers in the full cluster for the same term." [Ongaro14 §5.2]
    pub(crate) fn voted(&mut self, now: Time, from: ReplicaId, granted: bool, out: &mut Out) {
        if from == self.me {
            self.vote_is_durable(now, out);
        }
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

    /// The vote given in this term is durable, and leaves. Only now does the wait for the outcome
    /// begin: the others' disks have not even begun. [Ongaro14 §5.2]
    fn vote_is_durable(&mut self, now: Time, out: &mut Out) {
        self.election.voting = false;
        self.election.postpone(now);
        if matches!(self.role, Role::Candidate(_)) {
            self.draw_wait(now, self.patience(), out);
        }
    }

    /// Whether `from` leads the current term; takes note of it, and goes on waiting.
    ///
    /// "If the leader's term (included in its RPC) is at least as large as the candidate's current
    /// term, then the candidate recognizes the leader as legitimate and returns to follower
    /// state." [Ongaro14 §5.2]
    pub(crate) fn follow(&mut self, now: Time, from: ReplicaId, out: &mut Out) -> bool {
        match &mut self.role {
            Role::PreCandidate(_) | Role::Candidate(_) => {
                self.become_follower(now, Some(from), out);
            }
            // At most one leader can be elected in a term. [Ongaro14 figure 3]
            Role::Leader(_) => return false,
            Role::Follower(follower) => {
                if *follower.leader.get_or_insert(from) != from {
                    return false;
                }
            }
        }
        self.election.leader_is_heard(now);
        true
    }
}
