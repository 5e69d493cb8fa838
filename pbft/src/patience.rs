//! How long a replica waits before it asks for another primary. [Castro99 §4.4, §4.5.2]
//!
//! The wait doubles with every view change, until the replicas wait for long enough together. Two things
//! make it short again: that something new was executed in a view, and that a replica is heard
//! again that was not for long, for then the waits that went before say nothing of what is now.

use std::time::Duration;

use quorate_core::id::{ReplicaId, Slot, Time};

use crate::certificate::CheckpointCertificate;
use crate::config::Config;
use crate::fronts::Rule;
use crate::mutant::Mutant;
use crate::replica::{Out, Pbft, Timer};
use crate::status::QUIET;

/// What the waits go by.
#[derive(Debug)]
pub(crate) struct Patience {
    /// View changes since something new was last executed in a view.
    pub(crate) attempts: u32,
    peers: Vec<Heard>,
    /// When the wait for a new view ends, if one is on.
    pub(crate) new_view: Option<Time>,
    /// What was executed when requests were last given all the time there is.
    executed: Slot,
}

/// When a replica was last heard since this one started.
#[derive(Clone, Copy, Debug, Default)]
struct Heard {
    last: Option<Time>,
    /// How often it has come back since something new was executed.
    returned: u32,
}

/// How many statuses that are due at the rarest a replica must miss to count as not heard.
const MISSED: u32 = 2;

/// By how much shorter the wait for a primary is that is not heard.
const SILENT: u32 = 4;

/// How many shares of the primary's queue each replica has, each of which has its turn before any has
/// another: see [`crate::queue`].
const SHARES: usize = 2;

/// By how much longer the turns of all others may last than a primary may do nothing.
const TURNS_LAST: u32 = 4;

/// For how long a replica must say nothing to count as not heard.
fn silence(config: &Config) -> Duration {
    config.status_every.saturating_mul(QUIET * MISSED)
}

impl Patience {
    pub(crate) fn of(n: usize, executed: Slot) -> Patience {
        Patience {
            attempts: 0,
            peers: vec![Heard::default(); n],
            new_view: None,
            executed,
        }
    }

    /// Hears a replica; whether it was not heard for long. One that comes and goes at will must be
    /// away for twice as long each time: else a liar could keep the waits too short for ever.
    fn returns(&mut self, now: Time, from: ReplicaId, config: &Config) -> bool {
        let Some(heard) = self.peers.get_mut(from.index()) else {
            return false;
        };
        let needed = silence(config).saturating_mul(1 << heard.returned.min(16));
        let last = heard.last.replace(now).unwrap_or(Time::ZERO);
        let returns = now.since(last) > needed;
        if returns {
            heard.returned = heard.returned.saturating_add(1);
        }
        returns
    }

    fn is_silent(&self, now: Time, replica: ReplicaId, config: &Config) -> bool {
        let heard = self.peers.get(replica.index());
        let last = heard.and_then(|heard| heard.last);
        last.is_none_or(|last| now.since(last) > silence(config))
    }

    /// Something new was executed in a view: it works.
    fn succeeded(&mut self) {
        self.attempts = 0;
        self.peers.iter_mut().for_each(|heard| heard.returned = 0);
    }
}

impl Pbft {
    /// How long a request may take in this view. [Castro99 §4.5.2]
    pub(crate) fn patience(&self) -> Duration {
        let factor = 1 << self.patience.attempts.min(16);
        let doubled = self.config.request_timeout.checked_mul(factor);
        doubled.unwrap_or(Duration::MAX)
    }

    /// What the primary of this view is judged by.
    pub(crate) fn rule(&self) -> Rule {
        let patience = self.patience();
        if self.config.mutated(Mutant::OthersCountForEver) {
            return Rule {
                patience,
                turns: usize::MAX,
                most: Duration::MAX,
            };
        }
        let most = match self.config.mutated(Mutant::OthersCountNot) {
            true => patience,
            false => patience.saturating_mul(TURNS_LAST),
        };
        Rule {
            patience,
            turns: SHARES * self.n,
            most,
        }
    }

    /// How long the primary of the next view may take to begin it: less if it says nothing at all.
    pub(crate) fn new_view_patience(&self, now: Time) -> Duration {
        let primary = self.view.primary(self.n);
        let silent = self.patience.is_silent(now, primary, &self.config);
        match silent && primary != self.me && !self.config.mutated(Mutant::SilentAwaited) {
            true => self.patience() / SILENT,
            false => self.patience(),
        }
    }

    /// A slot is executed. Those that the new view has settled were ordered in earlier ones, and show
    /// nothing of what its primary does.
    pub(crate) fn note_progress(&mut self, slot: Slot) {
        let new = slot > self.settled.1 || self.config.mutated(Mutant::OldSlotsEndBackOff);
        if self.is_active() && new {
            self.patience.succeeded();
        }
    }

    /// Another replica is heard. If it was not for long, all waits begin anew and are as short as
    /// the first.
    pub(crate) fn hear(&mut self, now: Time, from: ReplicaId, out: &mut Out) {
        let returns = self.patience.returns(now, from, &self.config);
        if !returns || self.patience.attempts == 0 || self.config.mutated(Mutant::BackOffKept) {
            return;
        }
        self.patience.attempts = 0;
        let earlier = now + self.new_view_patience(now);
        if self.patience.new_view.is_some_and(|at| at > earlier) {
            self.await_new_view(earlier, out);
        }
        if self.is_active() && !self.leads() && !self.waiting.is_empty() {
            self.be_patient_again(now, out);
        }
    }

    /// The primary of the next view has time until then to begin it.
    pub(crate) fn await_new_view(&mut self, until: Time, out: &mut Out) {
        self.patience.new_view = Some(until);
        out.arm(Timer::NewView, until);
    }

    pub(crate) fn stop_awaiting_new_view(&mut self, out: &mut Out) {
        if self.patience.new_view.take().is_some() {
            out.disarm(Timer::NewView);
        }
    }

    /// Gives what is waited for all the time there is, from now on.
    pub(crate) fn be_patient_again(&mut self, now: Time, out: &mut Out) {
        self.patience.executed = self.executed;
        self.waiting.restart(now);
        self.stop_watching(out);
    }

    /// Whether this replica could not have executed what it waits for, whatever the primary does: it
    /// lacks a state that is proved, or it is catching up with what f + 1 others say they have
    /// executed. It asks for no other primary then, and goes along with f + 1 who do.
    ///
    /// f + 1 correct replicas have each state that is proved, so it never keeps all from asking; and who
    /// has come no further since it last waited is not catching up. Nor is it behind any more once it
    /// has come to where the others were when what it waits for was first due: else a primary could keep
    /// it a few slots behind one other for ever, and leave a request out.
    pub(crate) fn is_behind(&mut self, now: Time) -> bool {
        if self.config.mutated(Mutant::BehindCampaigns) {
            return false;
        }
        let proved = self.checkpoints.last_certified();
        let proved = proved.map_or(Slot::ZERO, CheckpointCertificate::slot);
        let others = self.peers.executed_by(self.weak());
        let catches_up = self.executed > self.patience.executed;
        let is_behind = proved > self.executed || catches_up && others > self.executed;
        let rule = self.rule();
        let come = (self.executed, proved.max(others));
        is_behind
            && (self.waiting.may_come((now, &rule), come)
                || self.config.mutated(Mutant::AlwaysBehind))
    }
}
