//! A replica after a restart. [Lamport01 §2.5; Chandra07 §5.5]

use std::collections::BTreeMap;

use quorate_core::id::{ReplicaId, Slot, Time};
use quorate_core::protocol::{Context, Recovered, SnapshotRef};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::checkpoint::is_acceptable;
use crate::config::Config;
use crate::log::{Ballot, Log};
use crate::mutant::Mutant;
use crate::normal::Follower;
use crate::read::{Grant, Reads};
use crate::record::{Durable, Record};
use crate::replica::{ElectionClock, MultiPaxos, Role};

impl MultiPaxos {
    /// The replica that its records and snapshot make; an error says what does not fit.
    pub(crate) fn recovered(
        context: &Context,
        config: Config,
        past: Recovered<Record>,
    ) -> Result<MultiPaxos, String> {
        context.validate()?;
        let (me, n) = (context.me, context.n());
        config.validate()?;
        let quorums = config.quorums(n)?;
        let has_past = !past.records.is_empty() || past.snapshot.is_some();
        let mut durable = Durable::fold(past.records)?;
        durable.validate(n)?;
        let snapshot = past.snapshot.as_ref();
        let mut rewrite_due = durable.go_on_from(snapshot, &config)?;
        let snapshot = snapshot.map_or(Slot::ZERO, |snapshot| snapshot.at.slot());
        rewrite_due |= durable.forget(&config);
        let round = durable.round(me, &config);
        let mut rng = ChaCha8Rng::from_seed(context.seed);
        let ticket = match config.mutated(Mutant::TicketsFromZero) {
            true => 0,
            false => rng.next_u64(),
        };
        Ok(MultiPaxos {
            me,
            n,
            quorums,
            rng,
            promised: durable.promised,
            log: durable.log,
            promising: false,
            executed: snapshot,
            snapshot,
            rewrite_due,
            round,
            role: Role::Follower(Follower::default()),
            // Whoever has a past may have heard a leader just before it ended.
            election: ElectionClock {
                heard: (has_past && !config.mutated(Mutant::GrantAfterRestart))
                    .then_some(Time::ZERO),
                ..ElectionClock::default()
            },
            grant: Grant::after_restart(
                has_past && !config.mutated(Mutant::LeaseForgottenOnRestart),
            ),
            reads: Reads::starting_at(ticket),
            learning: None,
            fetching: BTreeMap::new(),
            conflict: None,
            announced: (durable.promised, None),
            config,
        })
    }
}

fn highest_accepted(log: &Log) -> Ballot {
    let ballots = log
        .iter_from(Slot::ZERO)
        .map(|(_, accepted)| accepted.ballot);
    ballots.max().unwrap_or(Ballot::ZERO)
}

impl Durable {
    /// Says what cannot be of a replica among `n`.
    fn validate(&self, n: usize) -> Result<(), String> {
        match self.promised.replica.index() < n {
            true => Ok(()),
            false => Err(format!(
                "a promise of ballot {}, of {n} replicas",
                self.promised
            )),
        }
    }

    /// What a replica without memory of its promises would have left; true if that differs from
    /// the records.
    fn forget(&mut self, config: &Config) -> bool {
        let forgets = config.mutated(Mutant::PromiseNotDurable);
        if forgets {
            self.promised = highest_accepted(&self.log);
        }
        forgets
    }

    /// The last round that an earlier life of replica `me` may have campaigned in.
    fn round(&self, me: ReplicaId, config: &Config) -> u64 {
        let Ballot { round, replica } = self.promised;
        match config.mutated(Mutant::BallotReusedAfterRestart) && replica == me {
            true => round.saturating_sub(1),
            false => round,
        }
    }

    /// Makes the log go on from the snapshot that the state machine was restored from; true if it
    /// is no longer the one that the records make.
    ///
    /// Slots do not depend on those before them, so that nothing but its last slot matters of a
    /// snapshot, whether it was taken here or fetched.
    fn go_on_from(
        &mut self,
        snapshot: Option<&SnapshotRef>,
        config: &Config,
    ) -> Result<bool, String> {
        let slot = snapshot.map_or(Slot::ZERO, |snapshot| snapshot.at.slot());
        let compacted = self.log.compacted();
        if slot < compacted {
            return Err(format!(
                "the log begins after slot {compacted}, but the snapshot ends at slot {slot}"
            ));
        }
        if snapshot.is_some_and(|snapshot| !is_acceptable(snapshot)) {
            return Err(String::from("the snapshot is not one of a single log"));
        }
        for chosen in compacted.0 + 1..=self.chosen.0.min(self.log.last().0) {
            self.log.choose(Slot(chosen));
        }
        let doubtful = match config.mutated(Mutant::LogKeptBelowFetchedSnapshot) {
            true => (slot > self.log.last()).then_some(slot),
            false => self.doubtful(slot),
        };
        if let Some(through) = doubtful {
            self.log.compact_through(through);
        }
        Ok(doubtful.is_some())
    }

    /// The last slot that the snapshot through `snapshot` holds, and the log not as what is known
    /// chosen: another value may have been. The log was not yet rewritten when the replica crashed.
    fn doubtful(&self, snapshot: Slot) -> Option<Slot> {
        let below = (self.log.compacted().0 + 1..=snapshot.0).rev();
        below.map(Slot).find(|slot| !self.log.is_chosen(*slot))
    }
}
