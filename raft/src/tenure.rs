//! How long a leader leads: as long as it hears a quorum, and its own disk keeps up with those of
//! the others. [OngaroThesis §6.2, §3.10]
//!
//! Time is counted in heartbeats, so that a leader that was paused hears what has arrived
//! meanwhile before it judges.

use std::time::Duration;

use quorate_core::id::{ReplicaId, ReplicaSet, Slot, Time};
use quorate_core::protocol::{Dest, Event};
use quorate_core::quorum::{Majority, Quorum};

use crate::config::Config;
use crate::message::Message;
use crate::mutant::Mutant;
use crate::replica::{Out, Raft, Role, Timer};

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
}

impl Tenure {
    /// A leader that bears silence for so long until it is heard for the first time.
    pub(crate) fn new(patience: Duration) -> Self {
        Tenure {
            heard: ReplicaSet::EMPTY,
            quorum: ReplicaSet::EMPTY,
            silent: Duration::ZERO,
            patience,
            written: Slot::ZERO,
            stalled: Duration::ZERO,
        }
    }

    /// `from` has answered in this term.
    pub(crate) fn hear(&mut self, from: ReplicaId) {
        self.heard.insert(from);
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
            self.hand_over(now, out);
        }
    }

    /// Has the replica that has most of the log, of those heard of late, campaign at once, and
    /// leads no longer. Without one, leads on. [OngaroThesis §3.10]
    fn hand_over(&mut self, now: Time, out: &mut Out) {
        let Role::Leader(leader) = &self.role else {
            return;
        };
        let peers = ReplicaId::all(self.n).zip(&leader.matched);
        let fit = peers.filter(|(peer, _)| *peer != self.me && leader.tenure.hears(*peer));
        let Some((to, _)) = fit.max_by_key(|(_, matched)| **matched) else {
            return;
        };
        let term = self.term;
        out.event(Event::HandsOver { regime: term.0, to });
        out.send(Dest::One(to), Message::TimeoutNow { term });
        self.become_follower(now, None, out);
    }
}
