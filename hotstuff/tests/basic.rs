//! Basic HotStuff, unchained, over the parts of the chained one: blocks, votes, certificates and
//! the rule by which a replica votes (safeNode). An example to read beside [Yin19 §4], and a test
//! of what the parts promise.
//!
//! A view has one leader, one block and three votes on it: prepare, pre-commit and commit, each
//! with a certificate that the leader shows to all. Chaining makes the second vote on a block the
//! first on its child, and so on: the three phases become three blocks, and every block is in all
//! of them at once. What stays the same is [`ThreeChain::votes`].

mod common;

use std::collections::BTreeMap;

use common::{block, certificate_by, genesis, r, signer, verify};
use quorate_core::crypto::Digest;
use quorate_core::id::ReplicaId;
use quorate_hotstuff::{
    Block, BlockId, Chain, Message, QuorumCertificate, Rules, ThreeChain, View, Vote,
};

/// What a vote is for. [Yin19 §4.2]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Prepare,
    PreCommit,
    Commit,
}

impl Phase {
    /// What is signed for a block in this phase: a name that is the block's in the first phase, and
    /// that no block has in the others.
    fn of(self, block: &BlockId) -> BlockId {
        let name = match self {
            Phase::Prepare => return *block,
            Phase::PreCommit => b"pre-commit",
            Phase::Commit => b"commit    ",
        };
        let bytes = [&name[..], &block.digest.0[..]].concat();
        BlockId {
            digest: Digest::of(&bytes),
            ..*block
        }
    }
}

/// What is certified in a phase, and by whom.
#[derive(Clone, Debug)]
struct Certificate {
    block: BlockId,
    votes: QuorumCertificate,
}

impl Certificate {
    fn genesis() -> Certificate {
        Certificate {
            block: genesis(),
            votes: QuorumCertificate::genesis(),
        }
    }

    /// Whether it is a quorum's, for this phase of its block.
    fn proves(&self, phase: Phase) -> bool {
        let of_this = self.block == genesis() || self.votes.block == phase.of(&self.block);
        of_this && verify(3, &Message::Certified(self.votes.clone())).is_ok()
    }
}

/// One replica: what it has voted for, `prepareQC`, `lockedQC`, and what it has decided.
struct Replica {
    me: ReplicaId,
    blocks: BTreeMap<Digest, Block>,
    voted: Option<(View, Phase)>,
    prepared: Certificate,
    locked: BlockId,
    decided: Vec<BlockId>,
}

impl Chain for Replica {
    fn parent(&self, block: &BlockId) -> Option<BlockId> {
        self.blocks.get(&block.digest).map(Block::parent)
    }

    fn extends(&self, block: &BlockId, ancestor: &BlockId) -> bool {
        let mut at = Some(*block);
        while let Some(block) = at.filter(|block| block != ancestor) {
            at = self.parent(&block);
        }
        at.is_some()
    }
}

impl Replica {
    fn new(me: u8) -> Replica {
        Replica {
            me: r(me),
            blocks: BTreeMap::new(),
            voted: None,
            prepared: Certificate::genesis(),
            locked: genesis(),
            decided: Vec::new(),
        }
    }

    fn vote(&mut self, phase: Phase, block: &BlockId) -> Option<(ReplicaId, Vote)> {
        let vote = Vote::signed(&signer(self.me.0), phase.of(block));
        self.voted = Some((block.view, phase));
        Some((self.me, vote))
    }

    /// PREPARE: the leader proposes a block on the highest certified one. A replica votes once in
    /// a view, and if safeNode holds: it extends the lock, or what it extends was certified in a
    /// later view. [Yin19 §4.4, algorithm 2]
    fn prepare(&mut self, block: &Block, high: &Certificate) -> Option<(ReplicaId, Vote)> {
        let justified = high.proves(Phase::Prepare) && high.block == block.parent();
        let has_voted = self.voted.is_some_and(|(view, _)| view >= block.view());
        if !justified || has_voted {
            return None;
        }
        self.blocks.insert(block.id().digest, block.clone());
        let is_safe = ThreeChain::default().votes(block, None, &self.locked, self);
        is_safe.then(|| self.vote(Phase::Prepare, &block.id()))?
    }

    /// PRE-COMMIT, COMMIT, DECIDE: the leader shows the certificate of the phase before. The
    /// second makes the lock, the third decides. [Yin19 §4.4, algorithm 2]
    fn hear(&mut self, phase: Phase, shown: &Certificate) -> Option<(ReplicaId, Vote)> {
        let next = |done| Some((shown.block.view, done));
        if !shown.proves(phase) {
            return None;
        }
        match phase {
            Phase::Prepare if self.voted == next(Phase::Prepare) => {
                self.prepared = shown.clone();
                self.vote(Phase::PreCommit, &shown.block)
            }
            Phase::PreCommit if self.voted == next(Phase::PreCommit) => {
                self.locked = shown.block;
                self.vote(Phase::Commit, &shown.block)
            }
            Phase::Commit => {
                self.decided.push(shown.block);
                None
            }
            Phase::Prepare | Phase::PreCommit => None,
        }
    }
}

/// A certificate of 2f + 1 votes, if there are as many.
fn certify(
    phase: Phase,
    block: &BlockId,
    votes: Vec<(ReplicaId, Vote)>,
    messages: &mut usize,
) -> Option<Certificate> {
    *messages += 3;
    let signatures = votes.into_iter().map(|(by, vote)| (by, vote.signature));
    let votes = QuorumCertificate::of(phase.of(block), signatures.collect(), 3)?;
    Some(Certificate {
        block: *block,
        votes,
    })
}

/// A view as far as the phase `through` is shown to the replicas `reached`. NEW-VIEW comes first:
/// the leader extends the highest `prepareQC` of 2f + 1. Gives the messages sent between replicas.
fn view(replicas: &mut [Replica], number: u64, reached: &[usize], through: Phase) -> usize {
    let mut messages = 3;
    let shown = reached.iter().map(|index| &replicas[*index].prepared);
    let high = shown.max_by_key(|prepared| prepared.block.view);
    let high = high.expect("a NEW-VIEW").clone();
    let proposed = block(number, &high.block, &[&format!("in {number}")]);
    messages += 3;
    let votes = reached.iter();
    let votes = votes.filter_map(|index| replicas[*index].prepare(&proposed, &high));
    let mut votes: Vec<_> = votes.collect();
    for phase in [Phase::Prepare, Phase::PreCommit, Phase::Commit] {
        let Some(shown) = certify(phase, &proposed.id(), votes, &mut messages) else {
            return messages;
        };
        messages += 3;
        let heard = reached.iter();
        let heard = heard.filter_map(|index| replicas[*index].hear(phase, &shown));
        votes = heard.collect();
        if phase == through {
            return messages;
        }
    }
    messages
}

const ALL: [usize; 4] = [0, 1, 2, 3];

fn four() -> Vec<Replica> {
    (0..4).map(Replica::new).collect()
}

/// One block a view, and 8(n - 1) messages for it, where the chained protocol has a block of its
/// own in each of the phases. [Yin19 §4, §5]
#[test]
fn a_view_decides_one_block_in_four_phases() {
    let mut replicas = four();
    for number in 1..=3 {
        assert_eq!(view(&mut replicas, number, &ALL, Phase::Commit), 8 * 3);
    }
    let views = |replica: &Replica| replica.decided.iter().map(|b| b.view.0).collect::<Vec<_>>();
    assert!(replicas.iter().all(|replica| views(replica) == [1, 2, 3]));
}

/// What one replica may have decided, 2f + 1 are locked on; among any 2f + 1 of the next view is
/// one that shows the certificate, so the next leader extends it. [Yin19 §4.6, theorem 2]
#[test]
fn the_next_leader_extends_what_may_have_been_decided() {
    let mut replicas = four();
    view(&mut replicas, 1, &[0, 1, 2], Phase::PreCommit);
    view(&mut replicas, 2, &[1, 2, 3], Phase::Commit);
    let decided = replicas[3].decided[0];
    let first = replicas[1].locked;
    assert_eq!((decided.view, first), (View(2), decided));
    let below = replicas[1].parent(&decided).expect("a parent");
    assert_eq!(below.view, View(1));
}

/// A locked block is not abandoned without a higher certificate, and with one it is. [Yin19 §4.4]
#[test]
fn a_lock_yields_to_a_later_certificate_only() {
    let mut replicas = four();
    view(&mut replicas, 1, &ALL, Phase::PreCommit);
    assert!(
        replicas
            .iter()
            .all(|replica| replica.locked.view == View(1))
    );
    let fork = block(2, &genesis(), &["fork"]);
    assert!(
        replicas[0]
            .prepare(&fork, &Certificate::genesis())
            .is_none()
    );
    let later = Certificate {
        block: fork.id(),
        votes: certificate_by(&fork.id(), &[1, 2, 3]),
    };
    let on_fork = block(3, &fork.id(), &["on the fork"]);
    assert!(replicas[0].prepare(&on_fork, &later).is_some());
}

/// The kind of a vote is under its signatures. [Yin19 §4.2]
#[test]
fn votes_of_one_phase_prove_nothing_of_another() {
    let proposed = block(1, &genesis(), &["x"]).id();
    let prepared = Certificate {
        block: proposed,
        votes: certificate_by(&proposed, &[0, 1, 2]),
    };
    assert!(prepared.proves(Phase::Prepare));
    assert!(!prepared.proves(Phase::PreCommit) && !prepared.proves(Phase::Commit));
    assert!(four()[0].hear(Phase::Commit, &prepared).is_none());
}
