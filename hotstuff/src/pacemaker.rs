//! From one view to the next. [Yin19 §4.4; Gelashvili21 §4]
//!
//! A view begins when the one before is certified, or when 2f + 1 replicas have given it up, each
//! of which shows its highest certificate. Whoever gives a view up tells all, again and again until
//! another view begins, and shows why its view has begun: so nobody is left behind in an earlier
//! one. Time-outs carry votes too: where those certify the view's block, the leader of the next
//! view, to which they had gone, is passed over. A replica has a timer only while something waits
//! to be committed.

use std::collections::BTreeSet;
use std::time::Duration;

use quorate_core::id::{ReplicaId, Time};
use quorate_core::protocol::{Dest, Event};
use quorate_core::quorum::Byzantine;

use crate::blocks::{NoPath, View};
use crate::certificate::{QuorumCertificate, TimeoutCertificate, TimeoutShare, Vote};
use crate::message::{Message, Timeout};
use crate::mutant::Mutant;
use crate::record::Record;
use crate::replica::{Hotstuff, Out, Timer};

/// How often the time-out may have doubled.
const MAX_DOUBLINGS: u32 = 16;

/// A leader has this part of a time-out to propose what others know, before they tell it.
const PROPOSAL_SHARE: u32 = 8;

/// The time-out halves after so many views that were certified in time, as soon as something is committed: fewer
/// than it takes to notice that it is too short would have it grow and shrink for ever.
const VIEWS_TO_SHRINK: u32 = 8;

/// What a replica knows of the views that others give up, and its own patience.
#[derive(Debug)]
pub(crate) struct Pacemaker {
    /// The time-out of the latest view of each replica.
    timeouts: Vec<Option<Given>>,
    /// How often the time-out has doubled.
    doublings: u32,
    /// How many views in a row a quorum has given up.
    given_up_in_row: usize,
    /// How many views were not certified in time since a block was last committed, or the time-out has last
    /// grown.
    failed: usize,
    /// How many views were certified in time since the time-out has last grown or shrunk.
    in_time: u32,
    /// The view that the timer runs for.
    armed: Option<View>,
    /// Since when the leader of this view leads without a break.
    pub(crate) leader_since: Time,
}

/// A view that a replica has given up, with its highest certificate.
#[derive(Clone, Debug)]
struct Given {
    view: View,
    share: TimeoutShare,
    highest: QuorumCertificate,
}

impl Pacemaker {
    pub(crate) fn of(n: usize) -> Pacemaker {
        Pacemaker {
            timeouts: vec![None; n],
            doublings: 0,
            given_up_in_row: 0,
            failed: 0,
            in_time: 0,
            armed: None,
            leader_since: Time::ZERO,
        }
    }

    /// The time-outs of just this view.
    fn of_view(&self, view: View) -> Vec<(ReplicaId, TimeoutShare, QuorumCertificate)> {
        let all = ReplicaId::all(self.timeouts.len()).zip(&self.timeouts);
        let given = all.filter_map(|(from, given)| Some((from, given.as_ref()?)));
        let same = given.filter(|(_, given)| given.view == view);
        same.map(|(from, g)| (from, g.share.clone(), g.highest.clone()))
            .collect()
    }

    /// A view was certified in time.
    fn certified_in_time(&mut self, growth: &Growth) {
        self.given_up_in_row = 0;
        self.in_time += 1;
        if growth.shrinks_uncommitted {
            self.shrink();
        }
    }

    /// A block is committed: the time-out is long enough for that. That a view is certified says less: every
    /// second one may be, for ever, and no two in a row.
    pub(crate) fn committed(&mut self) {
        self.failed = 0;
        self.shrink();
    }

    fn shrink(&mut self) {
        if self.in_time >= VIEWS_TO_SHRINK {
            self.in_time = 0;
            self.doublings = self.doublings.saturating_sub(1);
        }
    }

    /// A quorum has given a view up. Up to f liars account for f + 1 in a row: for each its own, and for the
    /// first of them the one before, whose votes it should have gathered. The time-out grows with each view
    /// beyond.
    fn given_up(&mut self, growth: &Growth) {
        self.given_up_in_row = self.given_up_in_row.saturating_add(1);
        match self.given_up_in_row > growth.in_row {
            true => self.grow(),
            false => self.late(growth),
        }
    }

    /// A view was not certified in time. Between two commits f liars account for 2f of them: for the own one of
    /// each, and the one before. The time-out grows with as many and one more.
    fn late(&mut self, growth: &Growth) {
        self.failed = self.failed.saturating_add(1);
        if self.failed > growth.uncommitted {
            self.grow();
        }
    }

    fn grow(&mut self) {
        (self.in_time, self.failed) = (0, 0);
        self.doublings = (self.doublings + 1).min(MAX_DOUBLINGS);
    }

    /// How many replicas have given up this view or later ones.
    fn count_from(&self, view: View) -> usize {
        let given = self.timeouts.iter().flatten();
        given.filter(|given| given.view >= view).count()
    }
}

/// What f liars account for without the time-out growing.
struct Growth {
    /// So many views given up in a row.
    in_row: usize,
    /// So many views not certified in time between two commits.
    uncommitted: usize,
    /// Whether it shrinks though nothing is committed: without a rule.
    shrinks_uncommitted: bool,
}

impl Hotstuff {
    fn growth(&self) -> Growth {
        let liars = Byzantine::of(self.n).faulty();
        Growth {
            in_row: match self.config.mutated(Mutant::TimeoutGrowsWithLiars) {
                true => 0,
                false => liars + 1,
            },
            uncommitted: match self.config.mutated(Mutant::TimeoutGrowsByRowsAlone) {
                true => usize::MAX,
                false => 2 * liars,
            },
            shrinks_uncommitted: self.config.mutated(Mutant::TimeoutShrinksUncommitted),
        }
    }

    /// How long this view may take: twice as long with each view given up in a row, and with so many since
    /// something was last committed, beyond those that liars account for. [Yin19 §4.4]
    pub(crate) fn patience(&self) -> Duration {
        let factor = 1 << self.pacemaker.doublings.min(MAX_DOUBLINGS);
        let doubled = self.config.view_timeout.checked_mul(factor);
        doubled
            .unwrap_or(Duration::MAX)
            .min(self.config.max_view_timeout)
    }

    /// Whether something waits to be committed: a request that is known, or one in a block.
    fn is_busy(&self) -> bool {
        let has_requests = |tip| match self.tree.path(tip) {
            Ok(path) => path.iter().any(|block| !block.is_empty()),
            // Of a branch that is not here it is not known what it has.
            Err(NoPath::Missing(_)) => true,
            Err(NoPath::Elsewhere) => false,
        };
        let voted = &self.promised.voted;
        let is_open = voted.view > self.high.view() && self.tree.contains(&voted.digest);
        !self.mempool.is_empty() || has_requests(&self.high.block) || is_open && has_requests(voted)
    }

    /// Runs the timer of the view while something is to be done, and not otherwise. Once this
    /// replica has given the view up, it says so again and again at an even pace: whoever comes
    /// back need not wait for a time-out that has grown.
    pub(crate) fn watch(&mut self, now: Time, out: &mut Out) {
        let wanted = self.is_busy().then_some(self.view);
        if wanted == self.pacemaker.armed {
            return;
        }
        self.pacemaker.armed = wanted;
        match wanted {
            Some(view) => {
                out.arm(Timer::View, now + self.wait(view));
                out.arm(
                    Timer::Proposal,
                    now + self.config.view_timeout / PROPOSAL_SHARE,
                );
            }
            None => {
                out.disarm(Timer::View);
                out.disarm(Timer::Proposal);
            }
        }
    }

    fn wait(&self, view: View) -> Duration {
        let slowly = self.config.mutated(Mutant::TimeoutsSaidAgainSlowly);
        match self.promised.timed_out >= view && !slowly {
            true => self.config.view_timeout,
            false => self.patience(),
        }
    }

    /// The leader should have proposed by now, if it knows what this replica knows: it is told, for
    /// it may not hear whoever was asked. A proposal of this view shows that it need not be.
    pub(crate) fn proposal_is_due(&self, out: &mut Out) {
        let proposed = self.promised.voted.view >= self.view || !self.candidates.is_empty();
        let leader = self
            .leader_of(self.view)
            .filter(|leader| *leader != self.me);
        let (Some(leader), Some((branch, _))) = (leader, self.branch(&self.high.block)) else {
            return;
        };
        if proposed || self.config.mutated(Mutant::LeaderNotTold) {
            return;
        }
        let (room, seen) = (self.config.max_block_bytes, self.tree.head().height);
        for batch in self.mempool.next_batches(&branch, room) {
            out.send(Dest::One(leader), Message::Forward { batch, seen });
        }
    }

    /// The view has had its time.
    pub(crate) fn view_timed_out(&mut self, now: Time, out: &mut Out) {
        self.pacemaker.armed = None;
        let (patience, room) = (self.config.view_timeout, self.config.max_block_bytes);
        // What is in the block voted for has been told by its leader.
        let branch = self.branch(&self.promised.voted);
        let branch = branch.map_or_else(BTreeSet::new, |(batches, _)| batches);
        let seen = self.tree.head().height;
        for batch in self.mempool.overdue(now, patience, &branch, room) {
            out.send(Dest::Others, Message::Forward { batch, seen });
        }
        self.give_up(out);
    }

    /// Gives up the view, and all that its leader has in a row, or says again that it has. No
    /// vote in them comes after that. [Gelashvili21 §4]
    pub(crate) fn give_up(&mut self, out: &mut Out) {
        let view = self.config.leaders.last_in_row(self.view);
        if self.promised.timed_out < view {
            self.promised.timed_out = view;
            out.persist(Record::TimedOut(view));
        }
        let timeout = self.own_timeout(view);
        out.send(Dest::All, Message::Timeout(Box::new(timeout)));
    }

    /// Says again to one replica that this one has given up its view, if it has.
    pub(crate) fn say_given_up(&self, to: ReplicaId, out: &mut Out) {
        let view = self.config.leaders.last_in_row(self.view);
        if self.promised.timed_out == view && !self.config.mutated(Mutant::TimeoutsSaidAgainSlowly)
        {
            let timeout = self.own_timeout(view);
            out.send(Dest::One(to), Message::Timeout(Box::new(timeout)));
        }
    }

    fn own_timeout(&self, view: View) -> Timeout {
        let voted = self.promised.voted;
        let voted_later = voted.view > self.high.view();
        Timeout {
            view,
            share: TimeoutShare::signed(&self.signer, view, self.high.view()),
            highest: self.high.clone(),
            vote: voted_later.then(|| Vote::signed(&self.signer, voted)),
            entered: self.entered.clone(),
        }
    }

    /// Gives up at once a view that has begun with the certificate of one that this replica had
    /// given up, unless its leader has shown that certificate. The votes had gone to that leader,
    /// which has let a time-out pass: a silent leader costs one of them in each of its turns, where
    /// [Gelashvili21 §4] waits for two.
    pub(crate) fn pass_over(&mut self, shown_by: ReplicaId, out: &mut Out) {
        let by_certificate = self.high.view().next() == self.view;
        let gave_up = self.promised.timed_out.next() == self.view;
        let leader = self.leader_of(self.view);
        let silent = leader.is_some_and(|leader| leader != self.me && leader != shown_by);
        let waits = self.config.mutated(Mutant::SilentLeaderWaitedForTwice);
        if by_certificate && gave_up && silent && !waits {
            self.give_up(out);
        }
    }

    /// Takes a time-out, with all that it shows. f + 1 of them show that it is not for this
    /// replica alone, and 2f + 1 begin the next view. [Gelashvili21 §4]
    pub(crate) fn timeout(&mut self, now: Time, from: ReplicaId, timeout: Timeout, out: &mut Out) {
        let Timeout {
            view,
            share,
            highest,
            vote,
            entered,
        } = timeout;
        self.certified(now, highest.clone(), out);
        if let Some(certificate) = entered {
            self.timed_out(now, certificate, out);
        }
        if let Some(vote) = vote {
            self.vote(now, from, vote, out);
        }
        if view < self.view {
            return self.bring_up(from, out);
        }
        let Some(last) = self.pacemaker.timeouts.get_mut(from.index()) else {
            return;
        };
        if last.as_ref().is_some_and(|last| last.view > view) {
            return;
        }
        *last = Some(Given {
            view,
            share,
            highest,
        });
        let quorum = self.pacemaker.of_view(view);
        if let Some(certificate) = TimeoutCertificate::of(view, quorum, self.strong()) {
            return self.timed_out(now, certificate, out);
        }
        let mine = self.config.leaders.last_in_row(self.view);
        if self.promised.timed_out < mine && self.pacemaker.count_from(mine) >= self.weak() {
            self.give_up(out);
        }
    }

    /// A quorum has given a view up: the next one begins. [Gelashvili21 §4]
    pub(crate) fn timed_out(&mut self, now: Time, certificate: TimeoutCertificate, out: &mut Out) {
        self.certified(now, certificate.highest.clone(), out);
        if certificate.view >= self.view {
            let next = certificate.view.next();
            self.enter(now, next, Some(certificate), out);
        }
    }

    /// A view begins. The one before was certified in time if it had not been given up here.
    pub(crate) fn enter(
        &mut self,
        now: Time,
        view: View,
        entered: Option<TimeoutCertificate>,
        out: &mut Out,
    ) {
        if self.leader_of(view) != self.leader_of(self.view) {
            self.pacemaker.leader_since = now;
        }
        self.view = view;
        let growth = self.growth();
        let too_late = self.promised.timed_out.next() >= view
            && !self.config.mutated(Mutant::TimeoutShrinksTooLate);
        match &entered {
            // Votes that came with time-outs show that the view was too short, or the next leader
            // silent. Else a time-out just too short would shrink with each view certified like
            // this as much as it grows with the next, which is passed over: no two certified views
            // would ever be consecutive.
            None if too_late => self.pacemaker.late(&growth),
            None if self.config.mutated(Mutant::TimeoutNeverShrinks) => {}
            None => self.pacemaker.certified_in_time(&growth),
            Some(certificate) => {
                self.pacemaker.given_up(&growth);
                out.persist_with_next(Record::ViewTimedOut(Box::new(certificate.clone())));
                // No leader: its replicas would all be asked to propose again what all know.
                out.event(Event::RegimeChanged {
                    regime: view.0,
                    leader: None,
                });
            }
        }
        self.entered = entered;
    }

    /// Shows a replica that is in an earlier view why this one has begun.
    pub(crate) fn bring_up(&self, to: ReplicaId, out: &mut Out) {
        if to == self.me {
            return;
        }
        out.send(Dest::One(to), Message::Certified(self.high.clone()));
        if let Some(certificate) = self.entered.clone() {
            let certificate = Box::new(certificate);
            out.send(Dest::One(to), Message::TimedOut(certificate));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Four replicas, one of which may lie.
    const FOUR: Growth = Growth {
        in_row: 2,
        uncommitted: 2,
        shrinks_uncommitted: false,
    };

    /// How often the time-out has doubled after laps of which each has so many views that are not certified in
    /// time, one after each that is, and then a commit.
    fn doublings(failed: usize, laps: usize) -> u32 {
        let mut pacemaker = Pacemaker::of(4);
        for _ in 0..laps {
            for _ in 0..failed {
                pacemaker.certified_in_time(&FOUR);
                pacemaker.given_up(&FOUR);
            }
            pacemaker.committed();
        }
        pacemaker.doublings
    }

    #[test]
    fn the_timeout_does_not_grow_with_the_views_that_liars_account_for_and_does_with_one_more() {
        assert_eq!(doublings(2, 100), 0);
        assert_eq!(doublings(3, 1), 1);
        assert_eq!(doublings(6, 1), 2);
    }

    #[test]
    fn the_timeout_grows_with_each_view_in_a_row_beyond_those_that_liars_account_for() {
        let mut pacemaker = Pacemaker::of(4);
        for doublings in [0, 0, 1, 2, 3] {
            pacemaker.given_up(&FOUR);
            assert_eq!(pacemaker.doublings, doublings);
        }
    }

    #[test]
    fn the_timeout_halves_once_with_a_commit_after_eight_views_in_time() {
        let mut pacemaker = Pacemaker::of(4);
        pacemaker.doublings = 5;
        for views in [7, 1, 80] {
            for _ in 0..views {
                pacemaker.certified_in_time(&FOUR);
            }
            pacemaker.committed();
            pacemaker.committed();
        }
        assert_eq!(pacemaker.doublings, 3);
    }
}
