//! Leader election. [Ongaro14 §5.2, §5.4.1; OngaroThesis §9.6]
//!
//! A replica that hears no leader first asks whether the others would vote for it. Only if a
//! quorum would does it enter another term and campaign: so one that was cut off or paused, and
//! comes back, deposes nobody.

use std::time::Duration;

use quorate_core::id::{ReplicaId, ReplicaSet, Time};
use quorate_core::protocol::{Dest, Event};
use quorate_core::quorum::Tally;
use rand::RngExt;

use crate::log::{Position, Term};
use crate::message::Message;
use crate::mutant::Mutant;
use crate::replica::{Out, Raft, Role, Timer};

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
    /// Whom this replica has heard since it last asked for votes.
    heard: ReplicaSet,
    /// The vote given in this term is not durable yet.
    voting: bool,
    /// When this replica last campaigned.
    campaigned: Time,
    /// How often in a row leaders have made way, the one before this included, if it was told to
    /// campaign. See [`crate::tenure`].
    pub(crate) moves: u32,
}

/// What a replica has been told that asks whether it would be voted for. [OngaroThesis §9.6]
#[derive(Debug, Default)]
pub(crate) struct PreCandidate {
    /// Who would vote for it in the next term.
    would: Tally,
    /// If it has campaigned in the present one, who has voted for it: until another term begins it
    /// may still win, for votes wait for disks.
    votes: Option<Tally>,
}

impl ElectionClock {
    /// Another term has begun, in which this replica has not voted.
    pub(crate) fn term_begins(&mut self) {
        self.voting = false;
    }

    /// Something came from `replica`.
    pub(crate) fn hear(&mut self, replica: ReplicaId) {
        self.heard.insert(replica);
    }

    /// A leader was heard, or an election taken part in: the wait begins again. [Ongaro14 §5.2]
    fn postpone(&mut self, now: Time) {
        self.contact = Some(now);
        self.deadline = now + self.timeout;
    }
}

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

    pub(crate) fn election_timed_out(&mut self, now: Time, out: &mut Out) {
        if matches!(self.role, Role::Leader(_)) {
            return;
        }
        // An election in which this replica takes part is open until its vote is durable: another
        // term would only give the disks more to do.
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
        if self.config.mutated(Mutant::CampaignUnasked) {
            return self.campaign(now, out);
        }
        let votes = match std::mem::take(&mut self.role) {
            Role::Candidate(votes) => Some(votes),
            Role::PreCandidate(asking) => asking.votes,
            Role::Follower(_) | Role::Leader(_) => None,
        };
        let would = Tally::default();
        self.role = Role::PreCandidate(PreCandidate { would, votes });
        self.restart_election_clock(now, out);
        let ask = Message::PreVote {
            term: self.term.next(),
            last: self.log.last(),
            hears: std::mem::take(&mut self.election.heard),
        };
        out.send(Dest::Others, ask);
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
        let leads = matches!(self.role, Role::Leader(_));
        let loyal = leads || self.election.voting || self.has_contact(now);
        let loyal = loyal && !self.config.mutated(Mutant::PreVoteWithoutLoyalty);
        let up_to_date =
            last >= self.log.last() || self.config.mutated(Mutant::VoteWithoutLogCheck);
        let reply = Message::PreVoteReply {
            term: self.term,
            asked: term,
            granted: term > self.term && up_to_date && !loyal,
        };
        out.send(Dest::One(candidate), reply);
    }

    /// Whether this replica has heard a leader, or has taken part in an election, within the
    /// time-out. [OngaroThesis §9.6]
    pub(crate) fn has_contact(&self, now: Time) -> bool {
        let timeout = self.config.election_timeout;
        self.election.contact.is_some_and(|at| now < at + timeout)
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
        if let Role::PreCandidate(asking) = &mut self.role {
            asking.would.count(from);
            if asking.would.meets(&quorum) {
                self.campaign(now, out);
            }
        }
    }

    /// The leader hands over: this replica need not ask first. [OngaroThesis §3.10]
    pub(crate) fn timeout_now(&mut self, now: Time, moves: u32, out: &mut Out) {
        if matches!(self.role, Role::Follower(_) | Role::PreCandidate(_)) {
            self.campaign(now, out);
            self.election.moves = moves;
        }
    }

    /// "To begin an election, a follower increments its current term and transitions to candidate
    /// state. It then votes for itself and issues RequestVote RPCs in parallel to each of the other
    /// servers in the cluster." [Ongaro14 §5.2]
    ///
    /// They are asked while its own vote is being written, so that the disks work side by side.
    fn campaign(&mut self, now: Time, out: &mut Out) {
        self.term = self.term.next();
        self.role = Role::Candidate(Tally::default());
        (self.election.campaigned, self.election.moves) = (now, 0);
        self.restart_election_clock(now, out);
        let regime = self.term.0;
        out.event(Event::Campaign { regime });
        let (term, last) = (self.term, self.log.last());
        out.send(Dest::Others, Message::RequestVote { term, last });
        self.vote_for(now, self.me, last, out);
    }

    /// Votes for `candidate`, whose log ends with `last`, in the current term.
    ///
    /// A vote for itself counts like any other: when it is durable. One for another is told to
    /// itself too, so that its wait begins when the vote leaves.
    fn vote_for(&mut self, now: Time, candidate: ReplicaId, last: Position, out: &mut Out) {
        self.voted_for = Some(candidate);
        self.persist_vote(out);
        self.election.voting = true;
        self.election.contact = Some(now);
        self.send_vote(self.me, last, true, out);
    }

    fn send_vote(&self, candidate: ReplicaId, last: Position, granted: bool, out: &mut Out) {
        let vote = Message::Vote {
            term: self.term,
            last,
            granted,
        };
        out.send(Dest::One(candidate), vote);
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
                self.vote_for(now, candidate, last, out);
            }
            self.election.postpone(now);
        }
        self.send_vote(candidate, last, granted, out);
    }

    /// Counts a vote of the current term. "A candidate wins an election if it receives votes from
    /// a majority of the servers in the full cluster for the same term." [Ongaro14 §5.2]
    ///
    /// A vote is for a candidate with the log that it was asked for with: one that has forgotten a
    /// campaign in a crash may campaign in the term again, with a shorter log.
    pub(crate) fn voted(
        &mut self,
        now: Time,
        from: ReplicaId,
        (last, granted): (Position, bool),
        out: &mut Out,
    ) {
        if from == self.me {
            self.election.voting = false;
            self.election.postpone(now);
        }
        let ours = last == self.log.last();
        let counts = granted && (ours || self.config.mutated(Mutant::VoteForAnotherLogCounts));
        let (Role::Candidate(votes)
        | Role::PreCandidate(PreCandidate {
            votes: Some(votes), ..
        })) = &mut self.role
        else {
            return;
        };
        if counts {
            votes.count(from);
        }
        let votes = *votes;
        if votes.meets(&self.quorum()) && self.may_lead() {
            self.become_leader(now, out);
        }
    }

    /// Whether this replica's own vote in the term is durable. Without that it might forget that it
    /// led, and lead the term again, with other entries in the same slots. [OngaroThesis §10.2.1]
    fn may_lead(&self) -> bool {
        !self.election.voting || self.config.mutated(Mutant::LeadBeforeOwnVote)
    }

    /// How long silence is borne by a leader that is elected now: as long as a round trip may take
    /// that has just taken so long, and no less than a time-out.
    pub(crate) fn patience(&self, now: Time) -> Duration {
        let took = now.since(self.election.campaigned);
        took.max(self.config.election_timeout)
    }

    /// Whether `from` leads the current term; takes note of it, and goes on waiting.
    ///
    /// "If the leader's term (included in its RPC) is at least as large as the candidate's current
    /// term, then the candidate recognizes the leader as legitimate and returns to follower
    /// state." [Ongaro14 §5.2]
    ///
    /// A leader that does not hear this replica for a whole wait is none for it: it asks the others
    /// then, who tell the leader.
    pub(crate) fn follow(
        &mut self,
        now: Time,
        (from, heard): (ReplicaId, bool),
        out: &mut Out,
    ) -> bool {
        let before = self.leader();
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
        let counts = heard || before != Some(from) || self.config.mutated(Mutant::FollowUnheard);
        match counts {
            true => self.election.postpone(now),
            false => self.election.contact = Some(now),
        }
        true
    }
}
