//! A snapshot that is wanted from peers: whom to ask, for how long, and what of the answers is taken.
//!
//! A protocol names one peer that should have what it lacks. That one may take the wish and never
//! answer, with its connection as good as ever: so a fetch is given up when it makes no progress for
//! [`fetch_patience`](super::Settings::fetch_patience), and the next peer is asked for the same, each once. The protocol
//! judges what comes ([`Protocol::accepts`]), from whomever.

use std::time::Duration;

use crate::crypto::Digest;
use crate::frontier::Frontier;
use crate::id::{ReplicaId, ReplicaSet, Time};
use crate::machine::StateMachine;
use crate::protocol::{Fetch, Input, Protocol};
use crate::storage::{Snapshot, Ticket};

use super::Replica;
use super::effects::Halt;
use super::settings::Mutant;
use super::snapshots::Origin;

/// What is wanted, and who has been asked for it.
#[derive(Debug, Default)]
pub(super) struct Fetching {
    under_way: Option<UnderWay>,
    /// Who gave nothing of use when asked last: others are asked before.
    failed: ReplicaSet,
    /// What an answer must hold that comes after it was given up.
    at_least: Frontier,
}

#[derive(Debug)]
struct UnderWay {
    fetch: Fetch,
    /// When the peer was asked, or its answer last made progress.
    heard: Time,
    /// Who has been asked for this.
    asked: ReplicaSet,
}

impl Fetching {
    /// Notes a wish: whom to ask, unless one that was asked may yet answer.
    fn wish(&mut self, now: Time, wish: &Fetch, others: ReplicaSet) -> Option<Fetch> {
        if let Some(under_way) = &mut self.under_way {
            if wish.at_least.covers(&under_way.fetch.at_least) {
                under_way.fetch.at_least = wish.at_least.clone();
            }
            return None;
        }
        self.under_way = Some(UnderWay {
            fetch: wish.clone(),
            heard: now,
            asked: ReplicaSet::EMPTY,
        });
        self.next(now, others, wish.from)
    }

    /// Asks the first of `others`, from `first` on, that has not been asked yet; if there is one
    /// that did not fail lately, that.
    fn next(&mut self, now: Time, others: ReplicaSet, first: ReplicaId) -> Option<Fetch> {
        let under_way = self.under_way.as_mut()?;
        let left = others.without(under_way.asked);
        let good = left.without(self.failed);
        let among = if good.is_empty() { left } else { good };
        let later = among.iter().find(|peer| *peer >= first);
        let Some(from) = later.or_else(|| among.iter().next()) else {
            self.under_way = None;
            return None;
        };
        under_way.asked.insert(from);
        under_way.heard = now;
        under_way.fetch.from = from;
        self.at_least.clone_from(&under_way.fetch.at_least);
        Some(under_way.fetch.clone())
    }

    /// The one that was asked gives nothing of use: whom to ask instead.
    fn failed(&mut self, now: Time, others: ReplicaSet) -> Option<Fetch> {
        let from = self.under_way.as_ref()?.fetch.from;
        self.failed.insert(from);
        if others.without(self.failed).is_empty() {
            self.failed = ReplicaSet::EMPTY;
        }
        let after = ReplicaId(from.0.saturating_add(1));
        self.next(now, others, after)
    }

    /// A good answer has come, from whomever was asked.
    fn succeeded(&mut self, from: ReplicaId) {
        self.failed.remove(from);
        self.under_way = None;
    }

    fn progressed(&mut self, now: Time, from: ReplicaId) {
        if let Some(under_way) = self.under_way.as_mut().filter(|u| u.fetch.from == from) {
            under_way.heard = now;
        }
    }

    fn is_asked(&self, from: ReplicaId) -> bool {
        let under_way = self.under_way.as_ref();
        under_way.is_some_and(|under_way| under_way.fetch.from == from)
    }

    /// When the peer that was asked is given up, if nothing comes.
    fn deadline(&self, patience: Duration) -> Option<Time> {
        self.under_way.as_ref().map(|asked| asked.heard + patience)
    }
}

impl<P: Protocol, S: StateMachine> Replica<P, S> {
    /// Takes the protocol's wish for a snapshot. While a fetched one is being saved there is nothing
    /// to wish for: it will be the state, or execution has come further.
    pub(super) fn wish(&mut self, now: Time, wish: &Fetch) {
        if self.is_ahead(&wish.at_least) && !self.snapshots.is_installing() {
            let others = self.others().collect();
            let fetch = self.fetching.wish(now, wish, others);
            self.effects.fetch = fetch.or(self.effects.fetch.take());
        }
    }

    /// Part of the snapshot that `from` was asked for has come, and not little.
    pub fn fetch_progressed(&mut self, now: Time, from: ReplicaId) {
        self.fetching.progressed(now, from);
    }

    /// A fetch from `from` has ended, with a snapshot if all went well. One that cannot be believed,
    /// or is of no use, is dropped, and another peer is asked. One that comes late is as good.
    pub fn fetched(&mut self, now: Time, from: ReplicaId, snapshot: Option<Snapshot>) {
        // A second one could be saved after it that does not hold as much.
        if self.snapshots.is_installing() {
            return;
        }
        let good = snapshot.filter(|snapshot| self.is_good(snapshot));
        match good {
            Some(snapshot) => {
                self.fetching.succeeded(from);
                let save = self.snapshots.save_fetched(snapshot);
                self.effects.save.push(save);
            }
            None if self.fetching.is_asked(from) => self.fetch_elsewhere(now),
            None => {}
        }
    }

    fn is_good(&self, snapshot: &Snapshot) -> bool {
        let id = &snapshot.id;
        id.at.covers(&self.fetching.at_least)
            && self.is_ahead(&id.at)
            && self.protocol.accepts(id)
            && Digest::of(&snapshot.body) == id.digest
    }

    fn fetch_elsewhere(&mut self, now: Time) {
        if !self.is_ahead(&self.fetching.at_least) {
            // Execution has caught up meanwhile.
            self.fetching.under_way = None;
            return;
        }
        let others = self.others().collect();
        let fetch = self.fetching.failed(now, others);
        self.effects.fetch = fetch.or(self.effects.fetch.take());
    }

    /// How long a peer that is asked for a snapshot may make no progress.
    pub fn fetch_patience(&self) -> Duration {
        self.settings.fetch_patience
    }

    /// When the peer that was asked is given up.
    pub(super) fn fetch_deadline(&self) -> Option<Time> {
        match self.settings.mutated(Mutant::FetchNeverGivenUp) {
            true => None,
            false => self.fetching.deadline(self.settings.fetch_patience),
        }
    }

    /// Gives up a fetch that makes no progress.
    pub(super) fn tick_fetch(&mut self, now: Time) {
        if self.fetch_deadline().is_some_and(|at| at <= now) {
            self.fetch_elsewhere(now);
        }
    }

    /// All snapshots through `ticket` are durable.
    pub fn saved(&mut self, now: Time, ticket: Ticket) {
        for (snapshot, origin) in self.snapshots.durable(ticket) {
            let id = snapshot.id.clone();
            match origin {
                Origin::Taken => {
                    self.snapshots.keep(snapshot);
                    self.step(now, Input::Snapshotted(id));
                }
                Origin::Fetched => self.install(now, snapshot),
            }
        }
    }

    fn is_ahead(&self, at: &Frontier) -> bool {
        at.covers(self.execution.applied()) && at != self.execution.applied()
    }

    fn install(&mut self, now: Time, snapshot: Snapshot) {
        // Execution may have caught up while the snapshot was being saved.
        if !self.is_ahead(&snapshot.id.at) {
            return;
        }
        if let Err(error) = self.execution.restore(&snapshot) {
            return self.halt(Halt::Restore(error));
        }
        let id = snapshot.id.clone();
        self.snapshots.keep(snapshot);
        if !self.settings.mutated(Mutant::InstalledNotSettled) {
            self.settle_installed();
        }
        self.step(now, Input::Installed(id));
    }

    /// Whether a snapshot of this replica's own is to be taken. Not while one is being saved. While
    /// one is fetched it is: the fetch may come to nothing, and meanwhile peers that lag, and this
    /// replica's log, need it.
    pub(super) fn snapshot_is_due(&self) -> bool {
        let fetches = self.fetching.under_way.is_some();
        let waits = fetches && self.settings.mutated(Mutant::NoSnapshotWhileFetching);
        self.execution.snapshot_is_due(&self.settings) && !self.snapshots.is_busy() && !waits
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Slot;

    const PATIENCE: Duration = Duration::from_secs(1);

    fn wish(from: u8, slot: u64) -> Fetch {
        Fetch {
            from: ReplicaId(from),
            at_least: Frontier::single(Slot(slot)),
        }
    }

    fn others() -> ReplicaSet {
        [0, 2, 3].into_iter().map(ReplicaId).collect()
    }

    fn asked(fetch: Option<Fetch>) -> Option<u8> {
        fetch.map(|fetch| fetch.from.0)
    }

    #[test]
    fn each_is_asked_once_from_the_one_named_on_and_then_none() {
        let mut fetching = Fetching::default();
        assert_eq!(
            asked(fetching.wish(Time(0), &wish(2, 5), others())),
            Some(2)
        );
        assert_eq!(asked(fetching.wish(Time(1), &wish(0, 5), others())), None);
        assert_eq!(asked(fetching.failed(Time(2), others())), Some(3));
        assert_eq!(asked(fetching.failed(Time(3), others())), Some(0));
        assert_eq!(asked(fetching.failed(Time(4), others())), None);
        assert_eq!(fetching.deadline(PATIENCE), None);
        assert_eq!(
            asked(fetching.wish(Time(5), &wish(2, 5), others())),
            Some(2)
        );
    }

    #[test]
    fn who_failed_is_asked_after_the_others_until_all_have_or_it_answers() {
        let mut fetching = Fetching::default();
        fetching.wish(Time(0), &wish(2, 5), others());
        fetching.failed(Time(1), others());
        fetching.succeeded(ReplicaId(3));
        assert_eq!(
            asked(fetching.wish(Time(2), &wish(2, 9), others())),
            Some(3)
        );
        assert_eq!(asked(fetching.failed(Time(3), others())), Some(0));
        fetching.succeeded(ReplicaId(2));
        assert_eq!(
            asked(fetching.wish(Time(4), &wish(2, 9), others())),
            Some(2)
        );
    }

    #[test]
    fn progress_puts_the_deadline_off_and_only_that_of_the_one_that_was_asked() {
        let mut fetching = Fetching::default();
        fetching.wish(Time(0), &wish(2, 5), others());
        fetching.progressed(Time(7), ReplicaId(2));
        fetching.progressed(Time(9), ReplicaId(3));
        assert_eq!(fetching.deadline(PATIENCE), Some(Time(7) + PATIENCE));
    }

    #[test]
    fn the_next_is_asked_for_what_is_wished_for_by_then() {
        let mut fetching = Fetching::default();
        fetching.wish(Time(0), &wish(2, 5), others());
        fetching.wish(Time(1), &wish(2, 8), others());
        fetching.wish(Time(1), &wish(2, 6), others());
        let next = fetching.failed(Time(2), others());
        assert_eq!(next, Some(wish(3, 8)));
    }
}
