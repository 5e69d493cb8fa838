//! A replica after a restart. [Castro02 §4]

use quorate_core::crypto::Verifier;
use quorate_core::id::Slot;
use quorate_core::protocol::{Context, Recovered, SnapshotRef};

use crate::certificate::CheckpointCertificate;
use crate::checkpoint::{Checkpoints, certificate_of};
use crate::config::Config;
use crate::early::Early;
use crate::log::View;
use crate::mutant::Mutant;
use crate::ordered::Ordered;
use crate::patience::Patience;
use crate::record::{Durable, Record};
use crate::replica::{Pbft, Primary, Votes};
use crate::status::Peers;
use crate::view_change::settled_by;
use crate::waiting::Waiting;

impl Pbft {
    /// The replica that its records and snapshot make; an error says what does not fit.
    pub(crate) fn recovered(
        context: &Context,
        config: Config,
        past: Recovered<Record>,
    ) -> Result<Pbft, String> {
        context.validate()?;
        let (me, n) = (context.me, context.n());
        config.validate(n)?;
        let mut durable = Durable::fold(forget(past.records, &config), config.window)?;
        let snapshot = past.snapshot.as_ref();
        let rewrite_due = durable.go_on_from(snapshot, &context.verifier)?;
        let executed = snapshot.map_or(Slot::ZERO, |snapshot| snapshot.at.slot());
        let mut replica = Pbft {
            me,
            n,
            signer: context.signer.clone(),
            verifier: context.verifier.clone(),
            wall_clock: context.wall_clock,
            announced: (View::default(), None),
            view: durable.view,
            new_view: durable.new_view,
            log: durable.log,
            stable: durable.stable,
            executed,
            snapshot: executed,
            restored: None,
            checkpoints: Checkpoints::of(n, &config),
            settled: (Slot::ZERO, Slot::ZERO),
            primary: Primary::of(n, context.seed),
            votes: Votes::default(),
            ordered: Ordered::default(),
            waiting: Waiting::of(n),
            early: Early::of(n),
            view_changes: vec![None; n],
            patience: Patience::of(n, executed),
            peers: Peers::of(n),
            rewrite_due,
            config,
        };
        replica.resume_view();
        replica.note_all();
        if let Some(snapshot) = snapshot {
            replica.remember_checkpoint(snapshot);
        }
        Ok(replica)
    }

    /// What follows from how the view began and from what was accepted in it: it is durable, so it
    /// counts, and the primary goes on after it: with its slots, but with the time that its clock shows
    /// now. What the log says of the time may be what a wrong clock has shown.
    fn resume_view(&mut self) {
        if let Some(new_view) = &self.new_view {
            self.settled = settled_by(new_view, &self.config);
        }
        let view = self.view;
        self.log.for_each(|instance| {
            instance.counts = instance.accepted_in(view).is_some();
        });
        let given = self
            .log
            .iter()
            .filter(|(_, i)| i.accepted_in(view).is_some());
        let last = given.last().map_or(Slot::ZERO, |(slot, _)| slot);
        if self.config.mutated(Mutant::TimeOfLogKept) {
            let times = self.log.iter().filter_map(|(_, i)| i.entry_in(view));
            let time = times.map(|entry| entry.moment.time).max();
            self.primary.moments.last = time.unwrap_or_default();
        }
        self.primary.next = last.max(self.settled.1).max(self.log.low()).next();
    }
}

/// What a replica without memory of its promises would have left of its records.
fn forget(mut records: Vec<Record>, config: &Config) -> Vec<Record> {
    if config.mutated(Mutant::AcceptedForgottenOnRestart) {
        records.retain(|record| !matches!(record, Record::PrePrepared { .. }));
    }
    if config.mutated(Mutant::ViewForgottenOnRestart) {
        records.retain(|record| !matches!(record, Record::View(_) | Record::NewView(_)));
    }
    records
}

impl Durable {
    /// Makes the log go on from the snapshot that the state machine was restored from; true if it
    /// is no longer the one that the records make.
    ///
    /// A snapshot without an anchor was taken here, of what this replica had executed: it is at or
    /// beyond the stable checkpoint. One with an anchor was fetched, and proves itself; one that f + 1
    /// vouch for is correct, but the log does not begin after it before it is stable.
    fn go_on_from(
        &mut self,
        snapshot: Option<&SnapshotRef>,
        verifier: &Verifier,
    ) -> Result<bool, String> {
        let slot = snapshot.map_or(Slot::ZERO, |snapshot| snapshot.at.slot());
        let low = self.log.low();
        if slot < low {
            return Err(format!(
                "the log begins after slot {low}, but the snapshot ends at slot {slot}"
            ));
        }
        let fetched = snapshot.filter(|snapshot| !snapshot.anchor.is_empty());
        let Some(snapshot) = fetched.filter(|_| slot > low) else {
            return Ok(false);
        };
        let certificate: CheckpointCertificate = certificate_of(snapshot)?;
        certificate.vouches(verifier)?;
        if certificate.verify(verifier).is_err() {
            return Ok(false);
        }
        self.stable = Some(certificate);
        self.log.compact_through(slot);
        Ok(true)
    }
}
