//! A replica after a restart. [Yin19 §4, §5]

use std::collections::BTreeMap;

use quorate_core::crypto::Verifier;
use quorate_core::id::Slot;
use quorate_core::protocol::{Context, Recovered, SnapshotRef};

use crate::blocks::{Block, BlockId, Tree, View};
use crate::certificate::CheckpointCertificate;
use crate::checkpoint::{Checkpoints, certificate_of};
use crate::config::Config;
use crate::evidence::Evidence;
use crate::mempool::Mempool;
use crate::mutant::Mutant;
use crate::pacemaker::Pacemaker;
use crate::record::{Durable, Record};
use crate::replica::Hotstuff;
use crate::standing::Standing;
use crate::sync::Sync;

impl Hotstuff {
    /// The replica that its records and snapshot make; an error says what does not fit.
    pub(crate) fn recovered(
        context: &Context,
        config: Config,
        past: Recovered<Record>,
    ) -> Result<Hotstuff, String> {
        context.validate()?;
        let (me, n) = (context.me, context.n());
        config.validate(n)?;
        let mut durable = Durable::fold(forget(past.records, &config))?;
        let snapshot = past.snapshot.as_ref();
        let rewrite_due = durable.go_on_from(snapshot, &context.verifier)?;
        let executed = snapshot.map_or(Slot::ZERO, |snapshot| snapshot.at.slot());
        let tree = durable.tree(executed)?;
        let open = tree.blocks().map(Block::id);
        let open = open.filter(|id| id.view > durable.high.view());
        let open = open.map(|id| (id.view, id.digest)).collect();
        let mut replica = Hotstuff {
            me,
            n,
            rules: config.rules(),
            signer: context.signer.clone(),
            verifier: context.verifier.clone(),
            view: durable.view(),
            entered: durable.entered.filter(|tc| tc.view > durable.high.view()),
            promised: durable.promised,
            proposed: View::GENESIS,
            reserving: View::GENESIS,
            reserved: View::GENESIS,
            high: durable.high,
            stable: durable.stable,
            tree,
            snapshot: executed,
            checkpoints: Checkpoints::of(n),
            mempool: Mempool::of(n, me),
            pacemaker: Pacemaker::of(n),
            sync: Sync::of(n),
            evidence: Evidence::of(n),
            votes: Vec::new(),
            candidates: BTreeMap::new(),
            origin: Standing::of(n),
            open,
            untold: false,
            conflict: None,
            rewrite_due,
            config,
        };
        if let Some(snapshot) = snapshot {
            replica.remember_checkpoint(snapshot);
        }
        Ok(replica)
    }
}

/// What a replica without memory of its promises would have left of its records.
fn forget(mut records: Vec<Record>, config: &Config) -> Vec<Record> {
    if config.mutated(Mutant::VotedForgottenOnRestart) {
        records.retain(|record| !matches!(record, Record::Voted(_)));
    }
    if config.mutated(Mutant::LockForgottenOnRestart) {
        records.retain(|record| !matches!(record, Record::Locked(_) | Record::Certified(_)));
    }
    if config.mutated(Mutant::ProposedForgottenOnRestart) {
        records.retain(|record| !matches!(record, Record::Proposed(_)));
    }
    records
}

impl Durable {
    /// Makes the chain go on from the snapshot that the state machine was restored from; true if
    /// the records must be written anew for it.
    ///
    /// A snapshot without an anchor was taken here, of what this replica had executed: it is at or
    /// beyond the stable checkpoint. One with an anchor was fetched, and proves itself.
    fn go_on_from(
        &mut self,
        snapshot: Option<&SnapshotRef>,
        verifier: &Verifier,
    ) -> Result<bool, String> {
        let height = snapshot.map_or(Slot::ZERO, |snapshot| snapshot.at.slot());
        let stable = self.stable_height();
        if height < stable {
            return Err(format!(
                "the chain begins after height {stable}, but the snapshot ends at {height}"
            ));
        }
        let fetched = snapshot.filter(|snapshot| !snapshot.anchor.is_empty());
        let Some(snapshot) = fetched.filter(|_| height > stable) else {
            return Ok(false);
        };
        let certificate = certificate_of(snapshot)?;
        certificate.verify_weak(verifier)?;
        self.stable = Some(certificate);
        Ok(true)
    }

    /// The view after the last that a certificate ends.
    fn view(&self) -> View {
        let given_up = self.entered.as_ref();
        let given_up = given_up.map_or(View::GENESIS, |certificate| certificate.view);
        given_up.max(self.high.view()).next()
    }

    fn stable_height(&self) -> Slot {
        let stable = self.stable.as_ref();
        stable.map_or(Slot::ZERO, CheckpointCertificate::height)
    }

    /// The blocks, committed through height `executed`. What the records say was committed beyond
    /// is committed again, from the certificates.
    fn tree(&mut self, executed: Slot) -> Result<Tree, String> {
        let stable = self.stable.as_ref();
        let root = stable.map_or_else(BlockId::genesis, |stable| stable.block);
        let mut tree = Tree::after(root);
        for block in std::mem::take(&mut self.blocks) {
            if block.height() > root.height {
                tree.insert(block.id(), block);
            }
        }
        for (height, id) in std::mem::take(&mut self.committed) {
            if height > root.height && height <= executed {
                tree.commit(id);
            }
        }
        match tree.head().height == executed {
            true => Ok(tree),
            false => Err(format!(
                "the snapshot ends at height {executed}, and no record names the block there"
            )),
        }
    }
}
