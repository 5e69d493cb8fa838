//! Views, blocks, and the tree that they make. [Yin19 §4.1]
//!
//! Blocks that are proposed may fork; those that are committed are a chain, and the tree keeps them
//! from the last stable checkpoint on, for those who lack them.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::LazyLock;

use quorate_core::crypto::{Digest, Digester};
use quorate_core::id::Slot;
use quorate_core::request::{Batch, BatchBuilder};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::rules::Chain;
use crate::standing::Standing;

/// A view: a turn of one leader to propose one block. [Yin19 §4.1]
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct View(pub u64);

impl View {
    /// The view of the genesis block, in which nothing is proposed.
    pub const GENESIS: View = View(0);

    /// The view after this one.
    pub fn next(self) -> View {
        View(self.0.saturating_add(1))
    }
}

impl fmt::Debug for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "v{}", self.0)
    }
}

impl fmt::Display for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A block, by all that votes and links say of it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct BlockId {
    /// The view in which it is proposed.
    pub view: View,
    /// How far it is from the genesis block.
    pub height: Slot,
    /// The digest of its content.
    pub digest: Digest,
}

static GENESIS: LazyLock<Digest> = LazyLock::new(|| Digest::of(b"quorate/hotstuff/genesis"));

impl BlockId {
    /// The block that every branch begins with: view 0, height 0, no content, certified without
    /// votes. It is the same in every cluster, whose number is under every signature.
    pub fn genesis() -> BlockId {
        BlockId {
            view: View::GENESIS,
            height: Slot::ZERO,
            digest: *GENESIS,
        }
    }
}

impl fmt::Debug for BlockId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}@{}:{:?}", self.digest, self.height, self.view)
    }
}

/// A block: what its leader adds to its parent. [Yin19 §4.1]
#[derive(Clone, PartialEq, Eq)]
pub struct Block {
    content: Content,
    id: BlockId,
    batches: Vec<Digest>,
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Content {
    view: View,
    parent: BlockId,
    standing: Standing,
    payload: Vec<Batch>,
}

impl Block {
    /// The block that adds `payload` to `parent` in `view`, where leaders do not depend on how they
    /// stand.
    pub fn new(view: View, parent: BlockId, payload: Vec<Batch>) -> Block {
        Block::with(view, parent, Standing::default(), payload)
    }

    /// The block that adds `payload` to `parent` in `view`, and says how leaders stand then.
    pub fn with(view: View, parent: BlockId, standing: Standing, payload: Vec<Batch>) -> Block {
        Block::of(Content {
            view,
            parent,
            standing,
            payload,
        })
    }

    fn of(content: Content) -> Block {
        let batches: Vec<Digest> = content.payload.iter().map(Batch::digest).collect();
        let mut digester = Digester::default();
        digester.update(&content.view.0.to_le_bytes());
        digester.update(&content.parent.view.0.to_le_bytes());
        digester.update(&content.parent.height.0.to_le_bytes());
        digester.update(&content.parent.digest.0);
        content.standing.digest(&mut digester);
        for batch in &batches {
            digester.update(&batch.0);
        }
        let id = BlockId {
            view: content.view,
            height: Slot(content.parent.height.0.saturating_add(1)),
            digest: digester.finish(),
        };
        Block {
            content,
            id,
            batches,
        }
    }

    /// The block's name.
    pub fn id(&self) -> BlockId {
        self.id
    }

    /// The view in which it is proposed.
    pub fn view(&self) -> View {
        self.id.view
    }

    /// How far it is from the genesis block.
    pub fn height(&self) -> Slot {
        self.id.height
    }

    /// What it extends.
    pub fn parent(&self) -> BlockId {
        self.content.parent
    }

    /// How leaders stand once it is added.
    pub fn standing(&self) -> &Standing {
        &self.content.standing
    }

    /// The batches that it adds.
    pub fn payload(&self) -> &[Batch] {
        &self.content.payload
    }

    /// The digests of these batches.
    pub fn batches(&self) -> &[Digest] {
        &self.batches
    }

    /// Whether it adds nothing.
    pub fn is_empty(&self) -> bool {
        self.content.payload.is_empty()
    }

    /// The bytes of its batches.
    pub fn size(&self) -> usize {
        self.content.payload.iter().map(Batch::size).sum()
    }

    /// All its requests, in order, as one batch.
    pub fn requests(&self) -> Batch {
        match self.payload() {
            [] => Batch::noop(),
            [batch] => batch.clone(),
            batches => {
                let mut builder = BatchBuilder::default();
                for group in batches.iter().flat_map(Batch::groups) {
                    builder.push_group(&group);
                }
                builder.finish()
            }
        }
    }
}

impl fmt::Debug for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (id, parent) = (self.id, self.parent().digest);
        write!(f, "{id:?} on {parent:?} with {:?}", self.payload())
    }
}

impl Serialize for Block {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.content.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Block {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Content::deserialize(deserializer).map(Block::of)
    }
}

/// Why there is no path from a block down to the last one committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoPath {
    /// This ancestor is not here.
    Missing(BlockId),
    /// It does not rest on the last block committed: it lies below, or on another branch.
    Elsewhere,
}

/// The blocks known, and which of them are committed.
#[derive(Clone, Debug)]
pub(crate) struct Tree {
    blocks: BTreeMap<Digest, Block>,
    heights: BTreeMap<Slot, Vec<Digest>>,
    /// The committed chain, as far as it is known, from the last stable checkpoint on.
    committed: BTreeMap<Slot, BlockId>,
    /// The bytes of all blocks.
    bytes: usize,
}

impl Tree {
    /// The tree that begins with `root`, which is committed.
    pub(crate) fn after(root: BlockId) -> Tree {
        Tree {
            blocks: BTreeMap::new(),
            heights: BTreeMap::new(),
            committed: BTreeMap::from([(root.height, root)]),
            bytes: 0,
        }
    }

    /// The last block committed.
    pub(crate) fn head(&self) -> BlockId {
        let last = self.committed.last_key_value();
        last.map_or_else(BlockId::genesis, |(_, id)| *id)
    }

    /// The committed block at `height`, if that is known.
    pub(crate) fn committed_at(&self, height: Slot) -> Option<BlockId> {
        self.committed.get(&height).copied()
    }

    /// The committed chain as far as it is known.
    pub(crate) fn committed(&self) -> impl Iterator<Item = BlockId> {
        self.committed.values().copied()
    }

    pub(crate) fn block(&self, digest: &Digest) -> Option<&Block> {
        self.blocks.get(digest)
    }

    pub(crate) fn contains(&self, digest: &Digest) -> bool {
        self.blocks.contains_key(digest)
    }

    /// All blocks, the lowest first.
    pub(crate) fn blocks(&self) -> impl Iterator<Item = &Block> {
        let digests = self.heights.values().flatten();
        digests.filter_map(|digest| self.blocks.get(digest))
    }

    /// How many blocks there are.
    pub(crate) fn len(&self) -> usize {
        self.blocks.len()
    }

    /// The bytes of all blocks.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The blocks that are not committed, the lowest first.
    pub(crate) fn uncommitted(&self) -> impl Iterator<Item = &Block> {
        let above = self.heights.range(self.head().height.next()..);
        let digests = above.flat_map(|(_, digests)| digests);
        digests.filter_map(|digest| self.blocks.get(digest))
    }

    /// Adds the block that is known as `id`; false if it was there.
    pub(crate) fn insert(&mut self, id: BlockId, block: Block) -> bool {
        let size = block.size();
        if self.blocks.insert(id.digest, block).is_some() {
            return false;
        }
        self.bytes += size;
        self.heights.entry(id.height).or_default().push(id.digest);
        true
    }

    /// The blocks after the last committed one through `tip`, in order.
    pub(crate) fn path(&self, tip: &BlockId) -> Result<Vec<&Block>, NoPath> {
        let head = self.head();
        if tip.height < head.height {
            return Err(NoPath::Elsewhere);
        }
        let (mut at, mut path) = (*tip, Vec::new());
        while at.height > head.height {
            let block = self.block(&at.digest).ok_or(NoPath::Missing(at))?;
            path.push(block);
            at = block.parent();
        }
        if at != head {
            return Err(NoPath::Elsewhere);
        }
        path.reverse();
        Ok(path)
    }

    /// The blocks from `tip` down, as far as they are here and not committed.
    pub(crate) fn branch(&self, tip: &BlockId) -> impl Iterator<Item = &Block> {
        let head = self.head().height;
        let known = move |id: BlockId| self.block(&id.digest).filter(|_| id.height > head);
        std::iter::successors(known(*tip), move |block| known(block.parent()))
    }

    /// Commits a child of the last block committed: drops what lies on other branches.
    pub(crate) fn commit(&mut self, id: BlockId) {
        self.committed.insert(id.height, id);
        let siblings = self.heights.get(&id.height).into_iter().flatten();
        let mut dead: Vec<Digest> = siblings.filter(|d| **d != id.digest).copied().collect();
        let mut height = id.height;
        while !dead.is_empty() {
            for digest in &dead {
                self.remove(digest, height);
            }
            height = height.next();
            let children = self.heights.get(&height).into_iter().flatten();
            let orphan = |digest: &&Digest| {
                let parent = self.block(digest).map(|block| block.parent().digest);
                parent.is_some_and(|parent| dead.contains(&parent))
            };
            dead = children.filter(orphan).copied().collect();
        }
    }

    fn remove(&mut self, digest: &Digest, height: Slot) {
        self.forget(digest);
        if let Some(digests) = self.heights.get_mut(&height) {
            digests.retain(|other| other != digest);
            if digests.is_empty() {
                self.heights.remove(&height);
            }
        }
    }

    fn forget(&mut self, digest: &Digest) {
        let size = self.blocks.remove(digest).map_or(0, |block| block.size());
        self.bytes = self.bytes.saturating_sub(size);
    }

    /// Forgets all through `root`, which is committed, and in the state of a snapshot.
    pub(crate) fn compact_through(&mut self, root: BlockId) {
        self.committed = self.committed.split_off(&root.height);
        self.committed.insert(root.height, root);
        let kept = self.heights.split_off(&root.height.next());
        for digest in std::mem::replace(&mut self.heights, kept)
            .values()
            .flatten()
        {
            self.forget(digest);
        }
    }

    /// Drops blocks of views before `view` that are not committed and not in `kept`, the lowest
    /// first, until no more than `most` blocks and their bytes are left that are not committed.
    pub(crate) fn bound(&mut self, most: (usize, usize), view: View, kept: &[Digest]) {
        let sizes = self.uncommitted().map(Block::size);
        let (mut count, mut bytes) = sizes.fold((0, 0), |sum, size| (sum.0 + 1, sum.1 + size));
        let idle = |block: &&Block| block.view() < view && !kept.contains(&block.id().digest);
        let mut dropped = Vec::new();
        for block in self.uncommitted().filter(idle) {
            if count <= most.0 && bytes <= most.1 {
                break;
            }
            (count, bytes) = (count - 1, bytes - block.size());
            dropped.push(block.id());
        }
        for id in dropped {
            self.remove(&id.digest, id.height);
        }
    }
}

impl Chain for Tree {
    fn parent(&self, block: &BlockId) -> Option<BlockId> {
        self.block(&block.digest).map(Block::parent)
    }

    fn extends(&self, block: &BlockId, ancestor: &BlockId) -> bool {
        let mut at = *block;
        while at.height > ancestor.height {
            let Some(parent) = self.parent(&at) else {
                return false;
            };
            at = parent;
        }
        at == *ancestor
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(from: BlockId, views: impl IntoIterator<Item = u64>) -> Vec<Block> {
        let mut parent = from;
        let blocks = views.into_iter().map(|view| {
            let block = Block::new(View(view), parent, Vec::new());
            parent = block.id();
            block
        });
        blocks.collect()
    }

    fn tree(blocks: &[Block]) -> Tree {
        let mut tree = Tree::after(BlockId::genesis());
        for block in blocks {
            tree.insert(block.id(), block.clone());
        }
        tree
    }

    #[test]
    fn a_path_leads_to_the_last_block_committed_or_says_what_is_missing() {
        let main = chain(BlockId::genesis(), 1..=4);
        let mut tree = tree(&main);
        let tip = main[3].id();
        assert_eq!(tree.path(&tip).unwrap().len(), 4);
        tree.commit(main[0].id());
        assert_eq!(tree.path(&tip).unwrap().len(), 3);
        tree.remove(&main[2].id().digest, Slot(3));
        assert_eq!(tree.path(&tip), Err(NoPath::Missing(main[2].id())));
    }

    #[test]
    fn what_forks_from_the_committed_chain_is_dropped_with_all_that_rests_on_it() {
        let main = chain(BlockId::genesis(), 1..=3);
        let fork = chain(main[0].id(), 5..=7);
        let mut tree = tree(&[main.clone(), fork.clone()].concat());
        tree.commit(main[0].id());
        assert_eq!(tree.len(), 6);
        tree.commit(main[1].id());
        assert_eq!(tree.len(), 3);
        let orphan = fork[1].id();
        assert_eq!(tree.path(&orphan), Err(NoPath::Missing(orphan)));
        let sibling = Block::new(View(9), BlockId::genesis(), Vec::new());
        assert_eq!(tree.path(&sibling.id()), Err(NoPath::Elsewhere));
    }

    #[test]
    fn a_branch_is_followed_down_as_far_as_it_is_here() {
        let main = chain(BlockId::genesis(), 1..=5);
        let mut tree = tree(&main);
        tree.commit(main[0].id());
        let tip = main[4].id();
        assert_eq!(tree.branch(&tip).count(), 4);
        tree.remove(&main[2].id().digest, Slot(3));
        assert_eq!(tree.branch(&tip).count(), 2);
        assert_eq!(tree.branch(&BlockId::genesis()).count(), 0);
    }

    #[test]
    fn blocks_that_lead_nowhere_are_dropped_when_there_are_too_many() {
        let main = chain(BlockId::genesis(), 1..=3);
        let fork = chain(main[0].id(), 4..=9);
        let mut tree = tree(&[main.clone(), fork].concat());
        let kept: Vec<Digest> = main.iter().map(|block| block.id().digest).collect();
        tree.bound((5, usize::MAX), View(100), &kept);
        assert_eq!(tree.len(), 5);
        assert!(main.iter().all(|block| tree.contains(&block.id().digest)));
    }

    #[test]
    fn a_block_is_what_its_content_says_after_it_was_sent() {
        let block = Block::new(View(7), BlockId::genesis(), vec![Batch::noop()]);
        let bytes = quorate_core::codec::encode(&block).unwrap();
        let back: Block = quorate_core::codec::decode("block", &bytes).unwrap();
        assert_eq!(back, block);
        assert_eq!(back.id().height, Slot(1));
        let other = Block::new(View(8), BlockId::genesis(), vec![Batch::noop()]);
        assert_ne!(other.id().digest, block.id().digest);
    }
}
