//! How long a leader leads: as long as it hears a quorum, its own disk keeps up with those of the
//! others, and no other replica hears one that it does not. [OngaroThesis §6.2, §3.10]
//!
//! A replica whose link to the leader is cut asks the others for votes; those hear the leader, and
//! refuse. Were that all, it would be as good as dead, though all hear it but one. So those that it
//! hears tell the leader, which hands over to one of them. Where links are cut so that no leader hears all, that
//! could go on for ever: each time must have twice the reason of the time before.
//!
//! Time is counted in heartbeats, so that a leader that was paused hears what has arrived
//! meanwhile before it judges.

use std::collections::BTreeMap;
use std::time::Duration;

use quorate_core::id::{ReplicaId, ReplicaSet, Slot, Time};
use quorate_core::protocol::{Dest, Event};
use quorate_core::quorum::{Majority, Quorum};

use crate::config::Config;
use crate::message::Message;
use crate::mutant::Mutant;
use crate::replica::{Out, Raft, Role, Timer};

/// How often a replica must be told of that the leader does not hear, before that makes way; doubled
/// with each time in a row, so often at most.
const REASONS: u32 = 2;
const MOST_DOUBLINGS: u32 = 6;

/// What a leader knows of its own standing.
#[derive(Debug)]
pub(crate) struct Tenure {
    /// Who has been heard since a quorum last was.
    heard: ReplicaSet,
    /// The quorum heard last.
    quorum: ReplicaSet,
    /// How long no quorum has been heard, and how long that is borne.
    silent: Duration,
    patience: Duration,
    /// Through where its own disk had written at the last heartbeat, and how long it has not moved
    /// while the others were ahead of it.
    written: Slot,
    stalled: Duration,
    /// How often each replica has told of each that is not heard here: that one first.
    unheard: BTreeMap<(ReplicaId, ReplicaId), u32>,
    /// How often in a row leaders have made way for such a reason.
    moves: u32,
    /// Who is to lead from the end of this turn on.
    successor: Option<ReplicaId>,
}

impl Tenure {
    /// A leader that bears silence for so long until it is heard for the first time.
    pub(crate) fn new(patience: Duration, moves: u32) -> Self {
        Tenure {
            heard: ReplicaSet::EMPTY,
            quorum: ReplicaSet::EMPTY,
            silent: Duration::ZERO,
            patience,
            written: Slot::ZERO,
            stalled: Duration::ZERO,
            unheard: BTreeMap::new(),
            moves,
            successor: None,
        }
    }

    /// `from` has answered in this term.
    pub(crate) fn hear(&mut self, from: ReplicaId) {
        self.heard.insert(from);
        self.unheard.retain(|(replica, _), _| *replica != from);
    }

    /// Whether `peer` has been heard of late.
    pub(crate) fn hears(&self, peer: ReplicaId) -> bool {
        self.heard.contains(peer) || self.quorum.contains(peer)
    }

    /// Whether it is time to step down: "a leader steps down if an election timeout elapses without
    /// a successful round of heartbeats to a majority of its cluster". [OngaroThesis §6.2]
    fn is_unheard(&mut self, quorum: Majority, config: &Config) -> bool {
        if quorum.is_met(self.heard) {
            self.quorum = std::mem::take(&mut self.heard);
            (self.silent, self.patience) = (Duration::ZERO, config.election_timeout);
        } else {
            self.silent += config.heartbeat;
        }
        self.silent >= self.patience
    }

    /// Counts that `by` hears `replica`; true if that has been said often enough.
    fn is_reason_to_move(&mut self, replica: ReplicaId, by: ReplicaId) -> bool {
        let count = self.unheard.entry((replica, by)).or_default();
        *count = count.saturating_add(1);
        *count >= REASONS << self.moves.min(MOST_DOUBLINGS)
    }

    /// Whether the others have had on their disks for long what its own, through `written`, has not.
    fn is_behind(&mut self, written: Slot, commit: Slot, config: &Config) -> bool {
        let moves = written > self.written || written >= commit;
        self.stalled = match moves {
            true => Duration::ZERO,
            false => self.stalled + config.heartbeat,
        };
        self.written = written;
        self.stalled >= config.disk_timeout
    }
}

impl Raft {
    /// A heartbeat is a round: all answer it. Whoever is not heard leads no longer, and whose disk
    /// hangs hands over.
    pub(crate) fn heartbeat_is_due(&mut self, now: Time, out: &mut Out) {
        let (me, quorum) = (self.me, self.quorum());
        let Role::Leader(leader) = &mut self.role else {
            return;
        };
        leader.reads.round += 1;
        out.arm(Timer::Heartbeat, now + self.config.heartbeat);
        leader.tenure.hear(me);
        let written = leader.matched.get(me.index()).copied();
        let unheard = leader.tenure.is_unheard(quorum, &self.config);
        let behind =
            leader
                .tenure
                .is_behind(written.unwrap_or_default(), self.commit, &self.config);
        if unheard && !self.config.mutated(Mutant::LeadUnheard) {
            self.become_follower(now, None, out);
        } else if behind && !self.config.mutated(Mutant::LeadWithoutDisk) {
            self.choose_successor();
        }
    }

    /// Of those heard of late whoever has most of the log is to lead; if there is nobody, this
    /// replica leads on.
    fn choose_successor(&mut self) {
        let (me, n) = (self.me, self.n);
        let Role::Leader(leader) = &mut self.role else {
            return;
        };
        let peers = ReplicaId::all(n).zip(&leader.matched);
        let fit = peers.filter(|(peer, _)| *peer != me && leader.tenure.hears(*peer));
        let most = fit.max_by_key(|(_, matched)| **matched);
        leader.tenure.successor = most.map(|(peer, _)| peer);
    }

    /// Tells the leader, if it is heard, of `replica`, which does not hear it, and hears this one.
    pub(crate) fn tell_of_unheard(&self, now: Time, replica: ReplicaId, out: &mut Out) {
        if let Role::Follower(follower) = &self.role
            && let Some(leader) = follower.leader.filter(|leader| *leader != replica)
            && self.has_contact(now)
        {
            let term = self.term;
            out.send(Dest::One(leader), Message::Unheard { term, replica });
        }
    }

    /// `by` hears `replica`. Makes way if this replica does not, and has been told often enough.
    pub(crate) fn told_of_unheard(&mut self, by: ReplicaId, replica: ReplicaId) {
        let stays = self.config.mutated(Mutant::LeadWhereOneIsUnheard);
        let me = self.me;
        let Role::Leader(leader) = &mut self.role else {
            return;
        };
        leader.tenure.hear(by);
        let known = replica == me || replica.index() >= self.n || leader.tenure.hears(replica);
        // With less of the log than a quorum has, the other would not be elected.
        let matched = leader.matched.get(by.index());
        let fit = matched.is_some_and(|matched| *matched >= self.commit);
        if !known && leader.tenure.is_reason_to_move(replica, by) && fit && !stays {
            leader.tenure.moves = leader.tenure.moves.saturating_add(1);
            leader.tenure.successor = Some(by);
        }
    }

    /// Has the successor, if there is one, campaign at once, and leads no longer. All entries have
    /// been sent to it before. [OngaroThesis §3.10]
    pub(crate) fn hand_over(&mut self, now: Time, out: &mut Out) {
        let Role::Leader(leader) = &mut self.role else {
            return;
        };
        let Some(to) = leader.tenure.successor.take() else {
            return;
        };
        let (term, moves) = (self.term, leader.tenure.moves);
        out.event(Event::HandsOver { regime: term.0, to });
        out.send(Dest::One(to), Message::TimeoutNow { term, moves });
        self.become_follower(now, None, out);
    }
}
