//! When to vote, what to lock, what to commit: the rules in which the variants of HotStuff differ.
//!
//! A rule set is pure: it looks at a proposal, a lock and the links between blocks, and changes
//! nothing. All else (views, certificates, time-outs, block sync) is shared. Common to all is that
//! a replica votes once in a view, in the view in which it is, and not after it has given it up.
//!
//! | | [`ThreeChain`] | [`TwoChain`] |
//! |---|---|---|
//! | votes for a block | that extends the lock, or whose parent's certificate is of a later view | whose parent is certified in the view before, or is the highest that a quorum that gave up the view before had certified |
//! | locks | the parent of a block certified | a block certified |
//! | commits | the first of three blocks certified in consecutive views | the first of two |
//! | source | [Yin19 §5] | [Gelashvili21 §4] |

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::blocks::{Block, BlockId};
use crate::certificate::TimeoutCertificate;
use crate::mutant::Mutant;

/// The links between blocks, as far as they are known.
pub trait Chain {
    /// The parent of a block.
    fn parent(&self, block: &BlockId) -> Option<BlockId>;

    /// Whether `block` is `ancestor` or rests on it.
    fn extends(&self, block: &BlockId, ancestor: &BlockId) -> bool;
}

/// One variant of HotStuff.
pub trait Rules {
    /// Whether a replica that is locked on `lock` votes for `block`, whose parent is certified.
    /// `justified_by` is the time-out certificate that came with it.
    fn votes(
        &self,
        block: &Block,
        justified_by: Option<&TimeoutCertificate>,
        lock: &BlockId,
        chain: &dyn Chain,
    ) -> bool;

    /// What to lock when `certified` is, if that is of a later view than the lock.
    fn locks(&self, certified: &BlockId, chain: &dyn Chain) -> Option<BlockId>;

    /// The last block that is committed when `certified` is.
    fn commits(&self, certified: &BlockId, chain: &dyn Chain) -> Option<BlockId>;
}

/// Which rules a cluster goes by. The same in all its replicas.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RuleSet {
    /// Chained HotStuff as published. [Yin19 §5]
    ThreeChain,
    /// Jolteon's: a block less until a commit. [Gelashvili21 §4]
    #[default]
    TwoChain,
}

impl fmt::Display for RuleSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            RuleSet::ThreeChain => "three_chain",
            RuleSet::TwoChain => "two_chain",
        })
    }
}

impl RuleSet {
    /// How many blocks in a row must be certified for the first to be committed.
    pub fn chain_length(self) -> u64 {
        match self {
            RuleSet::ThreeChain => 3,
            RuleSet::TwoChain => 2,
        }
    }
}

fn are_consecutive(one: &BlockId, next: &BlockId) -> bool {
    next.view == one.view.next()
}

/// Chained HotStuff as published, without dummy blocks. [Yin19 §5]
#[derive(Clone, Copy, Debug, Default)]
pub struct ThreeChain {
    pub(crate) off: Option<Mutant>,
}

impl Rules for ThreeChain {
    /// safeNode: "the branch of m.node extends from the currently locked node" is the arm of
    /// safety, "m.justify.viewNumber > the current lockedQC" that of liveness. [Yin19 §4.4]
    fn votes(
        &self,
        block: &Block,
        _justified_by: Option<&TimeoutCertificate>,
        lock: &BlockId,
        chain: &dyn Chain,
    ) -> bool {
        let parent = block.parent();
        let is_newer = parent.view > lock.view && self.off != Some(Mutant::NoLivenessArm);
        is_newer || chain.extends(&parent, lock) || self.off == Some(Mutant::LockIgnored)
    }

    /// The tail of a two-chain, whatever its views are. [Yin19 §5]
    fn locks(&self, certified: &BlockId, chain: &dyn Chain) -> Option<BlockId> {
        chain.parent(certified)
    }

    /// The paper has dummy blocks for views without a certificate, so that parent and child are
    /// always of consecutive views. Here that is to be checked: two links with a gap of views leave
    /// room for a conflicting block that is certified in the gap. [Yin19 §5]
    fn commits(&self, certified: &BlockId, chain: &dyn Chain) -> Option<BlockId> {
        let child = chain.parent(certified)?;
        let block = chain.parent(&child)?;
        let consecutive = are_consecutive(&block, &child) && are_consecutive(&child, certified);
        let any_views = self.off == Some(Mutant::CommitWithoutConsecutiveViews);
        (consecutive || any_views).then_some(block)
    }
}

/// Jolteon's rules: a round trip less, for a leader that takes over must show what a quorum had.
/// [Gelashvili21 §4]
#[derive(Clone, Copy, Debug, Default)]
pub struct TwoChain {
    pub(crate) off: Option<Mutant>,
}

impl Rules for TwoChain {
    /// "r = qc.r + 1, or r = tc.r + 1 and qc.r ≥ max {qc_high.r | qc_high.r ∈ tc}".
    /// [Gelashvili21 §4]
    fn votes(
        &self,
        block: &Block,
        justified_by: Option<&TimeoutCertificate>,
        _lock: &BlockId,
        _chain: &dyn Chain,
    ) -> bool {
        let parent = block.parent();
        let is_highest = |tc: &TimeoutCertificate| {
            let unchecked = self.off == Some(Mutant::HighestUnchecked);
            tc.view.next() == block.view() && (parent.view >= tc.high() || unchecked)
        };
        parent.view.next() == block.view() || justified_by.is_some_and(is_highest)
    }

    /// What is certified is locked: it is what the replica shows when it gives up a view.
    fn locks(&self, certified: &BlockId, _chain: &dyn Chain) -> Option<BlockId> {
        Some(*certified)
    }

    /// Two blocks certified in consecutive views. [Gelashvili21 §4]
    fn commits(&self, certified: &BlockId, chain: &dyn Chain) -> Option<BlockId> {
        let block = chain.parent(certified)?;
        let any_views = self.off == Some(Mutant::TwoChainByLinksAlone);
        (are_consecutive(&block, certified) || any_views).then_some(block)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::blocks::View;

    /// Links alone.
    #[derive(Default)]
    struct Links(BTreeMap<BlockId, BlockId>);

    impl Links {
        fn add(&mut self, view: u64, parent: BlockId) -> Block {
            let block = Block::new(View(view), parent, Vec::new());
            self.0.insert(block.id(), parent);
            block
        }

        /// A branch with blocks of these views, from the genesis block on.
        fn branch(&mut self, views: &[u64]) -> Vec<BlockId> {
            let mut tip = BlockId::genesis();
            let branch = views.iter().map(|view| {
                tip = self.add(*view, tip).id();
                tip
            });
            branch.collect()
        }
    }

    impl Chain for Links {
        fn parent(&self, block: &BlockId) -> Option<BlockId> {
            self.0.get(block).copied()
        }

        fn extends(&self, block: &BlockId, ancestor: &BlockId) -> bool {
            let mut at = Some(*block);
            while let Some(block) = at {
                if block == *ancestor {
                    return true;
                }
                at = self.parent(&block);
            }
            false
        }
    }

    #[test]
    fn a_three_chain_commits_in_consecutive_views_only() {
        let mut links = Links::default();
        let rules = ThreeChain::default();
        for (views, commits) in [
            ([1, 2, 3], true),
            ([1, 2, 4], false),
            ([1, 3, 4], false),
            ([5, 6, 7], true),
        ] {
            let branch = links.branch(&views);
            let committed = rules.commits(&branch[2], &links);
            assert_eq!(committed, commits.then_some(branch[0]), "{views:?}");
        }
    }

    #[test]
    fn a_two_chain_commits_in_consecutive_views_only() {
        let mut links = Links::default();
        let rules = TwoChain::default();
        let near = links.branch(&[4, 5]);
        assert_eq!(rules.commits(&near[1], &links), Some(near[0]));
        let far = links.branch(&[4, 6]);
        assert_eq!(rules.commits(&far[1], &links), None);
    }

    #[test]
    fn a_three_chain_votes_for_what_extends_the_lock_or_is_certified_later() {
        let mut links = Links::default();
        let rules = ThreeChain::default();
        let main = links.branch(&[1, 2, 3]);
        let fork = links.branch(&[4]);
        let votes = |lock: &BlockId, block: &Block, links: &Links| {
            rules.votes(block, None, lock, links as &dyn Chain)
        };
        let on_main = links.add(9, main[2]);
        let on_fork = links.add(9, fork[0]);
        assert!(votes(&main[1], &on_main, &links));
        assert!(votes(&main[1], &on_fork, &links), "certified later");
        let old = links.add(10, BlockId::genesis());
        assert!(!votes(&main[1], &old, &links));
        let locked_later = links.branch(&[5, 6])[1];
        assert!(!votes(&locked_later, &on_fork, &links));
    }
}
