//! A snapshot that is wanted from peers: whom to ask, for how long, and what of the answers is taken.
//!
//! A protocol names one peer that should have what it lacks. That one may take the wish and never
//! answer, with its connection as good as ever: so a fetch is given up when it makes no progress for
//! [`fetch_patience`](super::Settings::fetch_patience), and the next peer is asked for the same, each once. One that makes
//! progress is not given up; but who lies may do so without end, so after [`SLOW`] times as long another
//! is asked as well, and the first good answer counts. If nobody gives what is wanted, the farthest of
//! the answers that fell short is asked for again. The protocol judges what comes
//! ([`Protocol::accepts`]), from whomever.

use std::collections::BTreeMap;
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

/// So many times the patience with a peer that makes no progress is had with those that do, before
/// another is asked as well.
const SLOW: u32 = 4;

/// What is wanted, and who has been asked for it.
#[derive(Clone, Debug, Default)]
pub(super) struct Fetching {
    under_way: Option<UnderWay>,
    /// Who gave nothing of use when asked last: others are asked before.
    failed: ReplicaSet,
    /// What an answer must hold that comes after it was given up.
    at_least: Frontier,
    /// The farthest of the good answers that fell short of what is wanted, and who gave it.
    short: Option<Fetch>,
}

#[derive(Clone, Debug)]
struct UnderWay {
    fetch: Fetch,
    /// Those that were asked and not given up, and when that was, or their answer last made
    /// progress.
    heard: BTreeMap<ReplicaId, Time>,
    /// When somebody was asked last.
    last: Time,
    /// Who has been asked for this.
    asked: ReplicaSet,
    /// It is not what is wanted, but the farthest of what was given.
    falls_short: bool,
}

impl Fetching {
    /// Notes a wish: whom to ask, unless one that was asked may yet answer.
    fn wish(
        &mut self,
        now: Time,
        wish: &Fetch,
        (others, patience): (ReplicaSet, Duration),
    ) -> Option<Fetch> {
        if let Some(under_way) = &mut self.under_way {
            let wait = match under_way.falls_short {
                true => patience.saturating_mul(SLOW),
                false => patience,
            };
            // All have been asked, and one of them makes progress and no end of it: the others may
            // have by now what they lacked.
            let all = others.without(under_way.asked).is_empty();
            let again = all && now >= under_way.last + wait;
            let wanted = again || !under_way.falls_short;
            if wanted && wish.at_least.covers(&under_way.fetch.at_least) {
                under_way.fetch.at_least = wish.at_least.clone();
            }
            if !again {
                return None;
            }
            // Who makes progress and no end of it must not keep this replica from what others give.
            if !under_way.falls_short && self.short.is_some() {
                return self.next_best(now, others);
            }
            under_way.falls_short = false;
            under_way.asked = under_way.heard.keys().copied().collect();
            return self.next(now, others, wish.from);
        }
        self.under_way = Some(UnderWay {
            fetch: wish.clone(),
            heard: BTreeMap::new(),
            last: now,
            asked: ReplicaSet::EMPTY,
            falls_short: false,
        });
        self.next(now, others, wish.from)
    }

    /// Asks the first of `others`, from `first` on, that has not been asked yet; if there is one
    /// that did not fail lately, that. When all have been asked and given up it is over.
    fn next(&mut self, now: Time, others: ReplicaSet, first: ReplicaId) -> Option<Fetch> {
        let under_way = self.under_way.as_mut()?;
        let left = others.without(under_way.asked);
        let good = left.without(self.failed);
        let among = if good.is_empty() { left } else { good };
        let later = among.iter().find(|peer| *peer >= first);
        let Some(from) = later.or_else(|| among.iter().next()) else {
            if !under_way.heard.is_empty() {
                return None;
            }
            self.under_way = None;
            return self.next_best(now, others);
        };
        under_way.asked.insert(from);
        under_way.heard.insert(from, now);
        under_way.last = now;
        under_way.fetch.from = from;
        self.at_least.clone_from(&under_way.fetch.at_least);
        Some(under_way.fetch.clone())
    }

    /// Nobody gives what is wanted, which those that never answer may be alone to have: asks for the
    /// farthest that there was. It brings this replica nearer to the others.
    fn next_best(&mut self, now: Time, others: ReplicaSet) -> Option<Fetch> {
        let short = self.short.take()?;
        self.at_least.clone_from(&short.at_least);
        self.under_way = Some(UnderWay {
            heard: BTreeMap::from([(short.from, now)]),
            last: now,
            asked: others,
            falls_short: true,
            fetch: short.clone(),
        });
        Some(short)
    }

    /// `from` has answered with what reaches so far, which is not enough.
    fn fell_short(&mut self, from: ReplicaId, at: &Frontier) {
        let farther = |known: &Fetch| at.covers(&known.at_least);
        if self.is_asked(from) && self.short.as_ref().is_none_or(farther) {
            let at_least = at.clone();
            self.short = Some(Fetch { from, at_least });
        }
    }

    /// One that was asked gives nothing of use: whom to ask instead.
    fn failed(&mut self, now: Time, from: ReplicaId, others: ReplicaSet) -> Option<Fetch> {
        self.under_way.as_mut()?.heard.remove(&from)?;
        self.failed.insert(from);
        if others.without(self.failed).is_empty() {
            self.failed = ReplicaSet::EMPTY;
        }
        self.next(now, others, after(from))
    }

    /// Whom to ask as well, where those that were asked make progress and do not come to an end.
    fn as_well(&mut self, now: Time, others: ReplicaSet) -> Option<Fetch> {
        let last = self.under_way.as_ref()?.fetch.from;
        self.next(now, others, after(last))
    }

    /// A good answer has come, from whomever was asked.
    fn succeeded(&mut self, from: ReplicaId) {
        self.failed.remove(from);
        (self.under_way, self.short) = (None, None);
    }

    fn progressed(&mut self, now: Time, from: ReplicaId) {
        let under_way = self.under_way.as_mut();
        if let Some(heard) = under_way.and_then(|under_way| under_way.heard.get_mut(&from)) {
            *heard = now;
        }
    }

    fn is_asked(&self, from: ReplicaId) -> bool {
        let under_way = self.under_way.as_ref();
        under_way.is_some_and(|under_way| under_way.heard.contains_key(&from))
    }

    /// The one that was heard first of those that were asked, and when it is given up, if nothing
    /// comes.
    fn given_up(&self, patience: Duration) -> Option<(ReplicaId, Time)> {
        let heard = self.under_way.as_ref()?.heard.iter();
        let longest = heard.min_by_key(|(_, heard)| **heard)?;
        Some((*longest.0, *longest.1 + patience))
    }

    /// When another is asked as well, if there is one.
    fn slow(&self, patience: Duration, others: ReplicaSet) -> Option<Time> {
        let under_way = self.under_way.as_ref()?;
        let left = !others.without(under_way.asked).is_empty();
        left.then(|| under_way.last + patience.saturating_mul(SLOW))
    }
}

fn after(peer: ReplicaId) -> ReplicaId {
    ReplicaId(peer.0.saturating_add(1))
}

impl<P: Protocol, S: StateMachine> Replica<P, S> {
    /// Takes the protocol's wish for a snapshot. While a fetched one is being saved there is nothing
    /// to wish for: it will be the state, or execution has come further.
    pub(super) fn wish(&mut self, now: Time, wish: &Fetch) {
        if self.is_ahead(&wish.at_least) && !self.snapshots.is_installing() {
            let others = self.others().collect();
            let asked = (others, self.settings.fetch_patience);
            let fetch = self.fetching.wish(now, wish, asked);
            self.effects.fetch.extend(fetch);
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
        if let Some(good) = &good {
            self.note_short(from, &good.id.at);
        }
        let enough = |good: &Snapshot| good.id.at.covers(&self.fetching.at_least);
        match good.filter(enough) {
            Some(snapshot) => {
                self.fetching.succeeded(from);
                let save = self.snapshots.save_fetched(snapshot);
                self.effects.save.push(save);
            }
            None if self.fetching.is_asked(from) => self.fetch_elsewhere(now, from),
            None => {}
        }
    }

    /// Remembers an answer that falls short of what is wanted.
    fn note_short(&mut self, from: ReplicaId, at: &Frontier) {
        let enough = at.covers(&self.fetching.at_least);
        if !enough && !self.settings.mutated(Mutant::ShortAnswersForgotten) {
            self.fetching.fell_short(from, at);
        }
    }

    fn is_good(&self, snapshot: &Snapshot) -> bool {
        let id = &snapshot.id;
        self.is_ahead(&id.at)
            && self.protocol.accepts(id)
            && Digest::of(&snapshot.body) == id.digest
    }

    fn fetch_elsewhere(&mut self, now: Time, failed: ReplicaId) {
        self.ask_peer(|fetching, others| fetching.failed(now, failed, others));
    }

    fn ask_peer(&mut self, ask: impl FnOnce(&mut Fetching, ReplicaSet) -> Option<Fetch>) {
        if !self.is_ahead(&self.fetching.at_least) {
            // Execution has caught up meanwhile.
            (self.fetching.under_way, self.fetching.short) = (None, None);
            return;
        }
        let others = self.others().collect();
        self.effects.fetch.extend(ask(&mut self.fetching, others));
    }

    /// How long a peer that is asked for a snapshot may make no progress.
    pub fn fetch_patience(&self) -> Duration {
        self.settings.fetch_patience
    }

    /// When a peer that was asked is given up, or another asked as well.
    pub(super) fn fetch_deadline(&self) -> Option<Time> {
        [self.fetch_given_up(), self.fetch_slow()]
            .into_iter()
            .flatten()
            .min()
    }

    fn fetch_given_up(&self) -> Option<Time> {
        let given_up = self.fetching.given_up(self.settings.fetch_patience);
        given_up
            .map(|(_, at)| at)
            .filter(|_| !self.settings.mutated(Mutant::FetchNeverGivenUp))
    }

    fn fetch_slow(&self) -> Option<Time> {
        let others = self.others().collect();
        let slow = self.fetching.slow(self.settings.fetch_patience, others);
        let alone = [Mutant::FetchNeverGivenUp, Mutant::SlowFetchAlone];
        slow.filter(|_| !alone.iter().any(|mutant| self.settings.mutated(*mutant)))
    }

    /// Gives up fetches that make no progress, and asks another peer as well if one that does comes to
    /// no end.
    pub(super) fn tick_fetch(&mut self, now: Time) {
        while self.fetch_given_up().is_some_and(|at| at <= now)
            && let Some((from, _)) = self.fetching.given_up(self.settings.fetch_patience)
        {
            self.fetch_elsewhere(now, from);
        }
        if self.fetch_slow().is_some_and(|at| at <= now) {
            self.ask_peer(|fetching, others| fetching.as_well(now, others));
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
        match self.settings.mutated(Mutant::OlderSavedAfterFetched) {
            true => self.snapshots.keep(snapshot),
            false => self.snapshots.installed(snapshot),
        }
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

    fn fail(fetching: &mut Fetching, from: u8) -> Option<Fetch> {
        fetching.failed(Time(2), ReplicaId(from), others())
    }

    fn wished(fetching: &mut Fetching, now: u64, wish: &Fetch) -> Option<Fetch> {
        fetching.wish(Time(now), wish, (others(), PATIENCE))
    }

    #[test]
    fn each_is_asked_once_from_the_one_named_on_and_then_none() {
        let mut fetching = Fetching::default();
        assert_eq!(asked(wished(&mut fetching, 0, &wish(2, 5))), Some(2));
        assert_eq!(asked(wished(&mut fetching, 1, &wish(0, 5))), None);
        assert_eq!(asked(fail(&mut fetching, 2)), Some(3));
        assert_eq!(asked(fail(&mut fetching, 3)), Some(0));
        assert_eq!(asked(fail(&mut fetching, 0)), None);
        assert_eq!(fetching.given_up(PATIENCE), None);
        assert_eq!(asked(wished(&mut fetching, 5, &wish(2, 5))), Some(2));
    }

    #[test]
    fn who_failed_is_asked_after_the_others_until_all_have_or_it_answers() {
        let mut fetching = Fetching::default();
        wished(&mut fetching, 0, &wish(2, 5));
        fail(&mut fetching, 2);
        fetching.succeeded(ReplicaId(3));
        assert_eq!(asked(wished(&mut fetching, 2, &wish(2, 9))), Some(3));
        assert_eq!(asked(fail(&mut fetching, 3)), Some(0));
        fetching.succeeded(ReplicaId(2));
        assert_eq!(asked(wished(&mut fetching, 4, &wish(2, 9))), Some(2));
    }

    #[test]
    fn the_farthest_answer_that_fell_short_is_taken_if_there_is_nothing_better() {
        let mut fetching = Fetching::default();
        let mut fetch = wished(&mut fetching, 0, &wish(2, 9));
        for (from, reaches) in [(2, 4), (3, 6), (0, 5)] {
            assert_eq!(asked(fetch), Some(from));
            let reached = Frontier::single(Slot(reaches));
            fetching.fell_short(ReplicaId(from), &reached);
            fetching.fell_short(ReplicaId(1), &Frontier::single(Slot(8)));
            fetch = fail(&mut fetching, from);
        }
        assert_eq!(fetch, Some(wish(3, 6)));
        // It may take its time, as long as it makes progress; but not for ever.
        let slow = (PATIENCE * SLOW).as_nanos() as u64 + 2;
        assert_eq!(wished(&mut fetching, slow - 1, &wish(2, 9)), None);
        assert_eq!(fetching.at_least, Frontier::single(Slot(6)));
        let mut slowly = fetching.clone();
        let again = wished(&mut slowly, slow, &wish(2, 9));
        assert_eq!(again, Some(wish(2, 9)), "who was slow is left aside");
        assert_eq!(asked(fail(&mut fetching, 3)), None);
        let again = wished(&mut fetching, 4, &wish(2, 9));
        assert_eq!(again, Some(wish(2, 9)), "better is asked for first");
    }

    #[test]
    fn what_falls_short_is_taken_though_one_that_was_asked_comes_to_no_end() {
        let mut fetching = Fetching::default();
        wished(&mut fetching, 0, &wish(2, 9));
        fetching.fell_short(ReplicaId(2), &Frontier::single(Slot(4)));
        assert_eq!(asked(fail(&mut fetching, 2)), Some(3));
        assert_eq!(asked(fetching.as_well(Time(3), others())), Some(0));
        let later = Time(3) + PATIENCE;
        fetching.progressed(later, ReplicaId(0));
        assert_eq!(wished(&mut fetching, later.0 - 1, &wish(2, 9)), None);
        let nearer = wished(&mut fetching, later.0, &wish(2, 9));
        assert_eq!(nearer, Some(wish(2, 4)));
        // After it all are asked for what is wanted again.
        fetching.succeeded(ReplicaId(2));
        assert_eq!(
            wished(&mut fetching, later.0, &wish(2, 9)),
            Some(wish(2, 9))
        );
    }

    #[test]
    fn progress_puts_the_deadline_off_and_only_that_of_the_one_that_was_asked() {
        let mut fetching = Fetching::default();
        wished(&mut fetching, 0, &wish(2, 5));
        fetching.progressed(Time(7), ReplicaId(2));
        fetching.progressed(Time(9), ReplicaId(3));
        let given_up = (ReplicaId(2), Time(7) + PATIENCE);
        assert_eq!(fetching.given_up(PATIENCE), Some(given_up));
    }

    #[test]
    fn one_that_comes_to_no_end_is_one_of_several() {
        let mut fetching = Fetching::default();
        wished(&mut fetching, 0, &wish(2, 5));
        let slow = Time(0) + SLOW * PATIENCE;
        assert_eq!(fetching.slow(PATIENCE, others()), Some(slow));
        assert_eq!(asked(fetching.as_well(Time(1), others())), Some(3));
        fetching.progressed(Time(7), ReplicaId(2));
        fetching.progressed(Time(8), ReplicaId(3));
        let given_up = (ReplicaId(2), Time(7) + PATIENCE);
        assert_eq!(fetching.given_up(PATIENCE), Some(given_up));
        assert_eq!(asked(fail(&mut fetching, 2)), Some(0));
        assert_eq!(fetching.slow(PATIENCE, others()), None, "all were asked");
        assert_eq!(asked(fail(&mut fetching, 2)), None, "it was given up");
        fail(&mut fetching, 0);
        assert!(fetching.is_asked(ReplicaId(3)), "it may yet answer");
        // Those that have failed are asked again, and not at once.
        let later = Time(2) + PATIENCE;
        assert_eq!(wished(&mut fetching, later.0 - 1, &wish(2, 5)), None);
        assert_eq!(asked(wished(&mut fetching, later.0, &wish(3, 5))), Some(0));
        assert_eq!(wished(&mut fetching, later.0, &wish(2, 5)), None);
        fail(&mut fetching, 0);
        fail(&mut fetching, 2);
        fail(&mut fetching, 3);
        assert!(fetching.under_way.is_none());
    }

    #[test]
    fn the_next_is_asked_for_what_is_wished_for_by_then() {
        let mut fetching = Fetching::default();
        wished(&mut fetching, 0, &wish(2, 5));
        wished(&mut fetching, 1, &wish(2, 8));
        wished(&mut fetching, 1, &wish(2, 6));
        let next = fail(&mut fetching, 2);
        assert_eq!(next, Some(wish(3, 8)));
    }
}
