//! Which of the batches that a backup waits for the primary is judged by, and since when.
//!
//! "It starts a timer when it receives a request and the timer is not already running. It stops the
//! timer when it is no longer waiting to execute the request, but restarts it if at that point it is
//! waiting to execute some other request." [Castro99 §4.4] So a primary that has more to do than it
//! can is not replaced because a request has waited for long behind others. Here the request is
//! always the one waited for longest, so that none is left out for good: each comes to the front.
//! And there is a front for the clients of each replica, as the primary gives each replica its turn
//! ([`crate::queue`]): nobody's requests stand before those of others.
//!
//! What others have executed meanwhile shows that the primary works, and counts for so long as their
//! turns may last: a primary that passes the front over for longer is found out. [Clement09 §4]

use std::collections::BTreeMap;
use std::time::Duration;

use quorate_core::crypto::Digest;
use quorate_core::id::{ReplicaId, Time};

/// For how long a batch may be at the front.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rule {
    /// For how long nothing may be executed while it is.
    pub(crate) patience: Duration,
    /// How many slots may be executed before it when it has been there for that long.
    pub(crate) turns: usize,
    /// For how long whatever is executed.
    pub(crate) most: Duration,
}

/// The batches of each replica's clients, in the order in which this replica has heard of them.
#[derive(Debug)]
pub(crate) struct Fronts {
    lines: Vec<Line>,
    /// How many batches this replica has waited for since it started.
    added: u64,
}

#[derive(Clone, Debug, Default)]
struct Line {
    batches: BTreeMap<u64, Held>,
    front: Front,
}

#[derive(Clone, Copy, Debug)]
struct Held {
    digest: Digest,
    /// The primary of the view has been told of it by this replica.
    told: bool,
}

/// How the primary treats the first of a line.
#[derive(Clone, Copy, Debug, Default)]
struct Front {
    /// Its place in the line; none if nothing is waited for.
    place: Option<u64>,
    /// When it came to the front, or the primary was given all the time there is.
    since: Time,
    /// When anything was last executed.
    progressed: Time,
    /// How many slots of others have been executed meanwhile.
    passed: usize,
    /// Something was executed in this step.
    works: bool,
}

impl Front {
    fn at(place: Option<u64>, now: Time) -> Front {
        Front {
            place,
            since: now,
            progressed: now,
            ..Front::default()
        }
    }

    /// When the primary has kept it waiting for too long.
    fn due(&self, rule: &Rule) -> Time {
        match self.passed >= rule.turns {
            true => self.since + rule.patience,
            false => (self.progressed + rule.patience).min(self.since + rule.most),
        }
    }
}

impl Fronts {
    pub(crate) fn of(n: usize) -> Fronts {
        Fronts {
            lines: vec![Line::default(); n],
            added: 0,
        }
    }

    /// How many batches of a replica's clients are waited for.
    pub(crate) fn count(&self, origin: ReplicaId) -> usize {
        let line = self.lines.get(origin.index());
        line.map_or(0, |line| line.batches.len())
    }

    /// Those of a replica's clients, the one waited for longest first, and which the primary knows of.
    pub(crate) fn line(&self, origin: ReplicaId) -> impl Iterator<Item = (Digest, bool)> {
        let line = self.lines.get(origin.index()).into_iter();
        line.flat_map(|line| line.batches.values().map(|held| (held.digest, held.told)))
    }

    /// All, line by line.
    pub(crate) fn lines(&self) -> impl Iterator<Item = Digest> {
        let held = self.lines.iter().flat_map(|line| line.batches.values());
        held.map(|held| held.digest)
    }

    /// The primary has been told of a batch.
    pub(crate) fn tell(&mut self, now: Time, (origin, place): (ReplicaId, u64)) {
        let Some(line) = self.lines.get_mut(origin.index()) else {
            return;
        };
        if let Some(held) = line.batches.get_mut(&place) {
            held.told = true;
        }
        if line.front.place == Some(place) {
            line.front = Front::at(Some(place), now);
        }
    }

    /// There is a primary that has been told of nothing.
    pub(crate) fn untell(&mut self) {
        for line in &mut self.lines {
            line.batches.values_mut().for_each(|held| held.told = false);
        }
    }

    /// A batch comes last in a replica's line; gives its place.
    pub(crate) fn add(&mut self, origin: ReplicaId, digest: Digest) -> u64 {
        self.added += 1;
        if let Some(line) = self.lines.get_mut(origin.index()) {
            let told = false;
            line.batches.insert(self.added, Held { digest, told });
        }
        self.added
    }

    /// A batch is executed.
    pub(crate) fn remove(&mut self, origin: ReplicaId, place: u64) {
        if let Some(line) = self.lines.get_mut(origin.index()) {
            line.batches.remove(&place);
        }
    }

    pub(crate) fn clear(&mut self) {
        self.lines.fill(Line::default());
    }

    /// A slot is executed. A null request shows that the primary works, and is nobody's turn.
    pub(crate) fn passed(&mut self, null: bool) {
        for line in &mut self.lines {
            line.front.works = true;
            line.front.passed += usize::from(!null);
        }
    }

    /// The primary is given all the time there is.
    pub(crate) fn restart(&mut self, now: Time) {
        for line in &mut self.lines {
            line.front = Front::at(line.front.place, now);
        }
    }

    /// A step ends: gives the batches that have come to the front in it, each with all the time there
    /// is, unless the front `keeps` its time.
    pub(crate) fn settle(&mut self, now: Time, keeps: bool) -> Vec<Digest> {
        let mut come = Vec::new();
        for line in &mut self.lines {
            let first = line.batches.first_key_value();
            let (front, place) = (&mut line.front, first.map(|(place, _)| *place));
            let works = std::mem::take(&mut front.works);
            if front.place != place {
                let since = front.place.filter(|_| keeps).map_or(now, |_| front.since);
                *front = Front::at(place, since);
                come.extend(first.map(|(_, held)| held.digest));
            } else if works {
                front.progressed = now;
            }
        }
        come
    }

    /// The fronts that the primary has been told of.
    fn known(&self) -> impl Iterator<Item = (Digest, &Front)> {
        self.lines.iter().filter_map(|line| {
            let held = line.batches.get(&line.front.place?)?;
            held.told.then_some((held.digest, &line.front))
        })
    }

    /// When the primary has kept one of them waiting for too long.
    pub(crate) fn deadline(&self, rule: &Rule) -> Option<Time> {
        self.known().map(|(_, front)| front.due(rule)).min()
    }

    /// Those that the primary has kept waiting for too long.
    pub(crate) fn overdue(&self, now: Time, rule: &Rule) -> impl Iterator<Item = Digest> {
        let overdue = self
            .known()
            .filter(move |(_, front)| front.due(rule) <= now);
        overdue.map(|(digest, _)| digest)
    }
}
