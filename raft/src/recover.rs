//! A replica after a restart. [Ongaro14 figure 2; OngaroThesis §3.8]

use quorate_core::id::Slot;
use quorate_core::protocol::{Context, Recovered, SnapshotRef};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::checkpoint::{Anchor, is_acceptable, resume_after};
use crate::config::Config;
use crate::election::ElectionClock;
use crate::log::Position;
use crate::mutant::Mutant;
use crate::normal::Follower;
use crate::read::RemoteReads;
use crate::record::{Durable, Record};
use crate::replica::{Raft, Role};

impl Raft {
    /// The replica that its records and snapshot make; an error says what does not fit.
    pub(crate) fn recovered(
        context: &Context,
        config: Config,
        past: Recovered<Record>,
    ) -> Result<Raft, String> {
        config.validate()?;
        context.validate()?;
        let (me, n) = (context.me, context.n());
        let mut durable = Durable::fold(past.records)?;
        if let Some(stranger) = durable.voted_for.filter(|vote| vote.index() >= n) {
            return Err(format!("a vote for {stranger}, one of {n} replicas"));
        }
        let snapshot = past.snapshot.as_ref();
        let mut rewrite_due = match config.mutated(Mutant::OldLogRecovered) {
            true => false,
            false => durable.go_on_from(snapshot)?,
        };
        if config.mutated(Mutant::VoteForgottenOnRestart) {
            durable.voted_for = None;
            rewrite_due = true;
        }
        let snapshot = snapshot.map_or(Slot::ZERO, |snapshot| snapshot.at.slot());
        let mut rng = ChaCha8Rng::from_seed(context.seed);
        let ticket = match config.mutated(Mutant::TicketsFromZero) {
            true => 0,
            false => rng.next_u64(),
        };
        Ok(Raft {
            me,
            n,
            config,
            rng,
            announced: (durable.term, None),
            term: durable.term,
            voted_for: durable.voted_for,
            log: durable.log,
            commit: snapshot,
            snapshot,
            rewrite_due,
            role: Role::Follower(Follower::default()),
            election: ElectionClock::default(),
            reads: RemoteReads::starting_at(ticket),
        })
    }
}

impl Durable {
    /// Makes the log go on from the snapshot that the state machine was restored from; true if it
    /// is no longer the one that the records make.
    ///
    /// A snapshot ahead of the records was fetched, so it has an anchor: the crash came between
    /// saving it and writing what follows from it.
    fn go_on_from(&mut self, snapshot: Option<&SnapshotRef>) -> Result<bool, String> {
        let slot = snapshot.map_or(Slot::ZERO, |snapshot| snapshot.at.slot());
        let (compacted, last) = (self.log.compacted().slot, self.log.last().slot);
        if slot < compacted {
            return Err(format!(
                "the log begins after slot {compacted}, but the snapshot ends at slot {slot}"
            ));
        }
        let Some(snapshot) = snapshot else {
            return Ok(false);
        };
        if snapshot.anchor.is_empty() {
            // Taken here, of what the log held.
            return match slot <= last {
                true => Ok(false),
                false => Err(format!(
                    "the snapshot ends at slot {slot}, the log at slot {last}, and no other replica vouched for it"
                )),
            };
        }
        if !is_acceptable(snapshot) {
            return Err(String::from("the snapshot is not one of a Raft log"));
        }
        let anchor = Anchor::of(snapshot)?;
        let position = Position {
            term: anchor.last,
            slot,
        };
        let newer = anchor.vouched_in > self.term;
        if newer {
            (self.term, self.voted_for) = (anchor.vouched_in, None);
        }
        let differs = self.log.position(slot) != Some(position);
        if differs {
            resume_after(&mut self.log, position);
        }
        Ok(newer || differs)
    }
}
