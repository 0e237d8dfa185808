//! The BLAKE3 tree of a shard: its root and the outboard that proves ranges.
//!
//! Owns: building both from bytes that come in any pieces, so that an encoder can feed 40 shards column by
//! column and a node can verify while it receives. Always holds: memory is one group of 16 KiB and the outboard
//! (0.4 % of the shard). Leaves to others: proofs over it (`proof`).

use bao_tree::blake3::hazmat::{
    ChainingValue, HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root,
};
use bao_tree::iter::{BaoChunk, PostOrderChunkIter};
use bao_tree::{BaoTree, BlockSize};
use firn_base::ShardRoot;

/// Bytes of a group, the unit of proofs: 16 KiB make the outboard 0.4 % of the shard.
pub const GROUP_BYTES: u64 = 16 << 10;

const GROUP: BlockSize = BlockSize::from_chunk_log(4);
const PAIR_BYTES: usize = 64;

/// The tree of a shard of this length.
pub(crate) fn tree_of(shard_bytes: u64) -> BaoTree {
    BaoTree::new(shard_bytes, GROUP)
}

/// Bytes of the outboard of a shard: 64 per group but one.
pub const fn outboard_bytes(shard_bytes: u64) -> u64 {
    let groups = shard_bytes.div_ceil(GROUP_BYTES);
    groups.saturating_sub(1) * PAIR_BYTES as u64
}

/// A shard's root and its outboard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardTree {
    /// BLAKE3 of the shard.
    pub root: ShardRoot,
    /// Inner nodes in pre-order, 64 bytes each.
    pub outboard: Vec<u8>,
}

impl ShardTree {
    /// The tree of a shard that lies in memory.
    pub fn of(shard: &[u8]) -> Self {
        let mut builder = ShardTreeBuilder::new(shard.len() as u64);
        builder.update(shard).expect("the builder was made for this length");
        builder.finish().expect("the builder was given every byte")
    }
}

/// A shard was longer or shorter than announced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the shard should have {expected} bytes and has {}: ask for it again", if *.more { "more" } else { "fewer" })]
pub struct ShardLengthError {
    expected: u64,
    more: bool,
}

/// Builds a [`ShardTree`] from a shard that comes in pieces.
#[derive(Debug)]
pub struct ShardTreeBuilder {
    tree: BaoTree,
    steps: PostOrderChunkIter,
    // What the next group is: its length, where it begins, and whether it is the whole shard.
    next_group: Option<Group>,
    partial: Vec<u8>,
    stack: Vec<ChainingValue>,
    outboard: Vec<u8>,
    root: Option<ShardRoot>,
}

#[derive(Debug, Clone, Copy)]
struct Group {
    bytes: usize,
    offset: u64,
    is_root: bool,
}

impl ShardTreeBuilder {
    /// A builder for a shard of exactly this length.
    pub fn new(shard_bytes: u64) -> Self {
        let tree = tree_of(shard_bytes);
        let outboard_bytes = usize::try_from(outboard_bytes(shard_bytes)).expect("a shard fits in memory");
        let mut builder = Self {
            tree,
            steps: tree.post_order_chunks_iter(),
            next_group: None,
            partial: Vec::new(),
            stack: Vec::new(),
            outboard: vec![0; outboard_bytes],
            root: None,
        };
        builder.advance();
        builder
    }

    /// Takes the next bytes of the shard; refused if they are more than announced.
    pub fn update(&mut self, mut bytes: &[u8]) -> Result<(), ShardLengthError> {
        while !bytes.is_empty() {
            let Some(group) = self.next_group else {
                return Err(ShardLengthError { expected: self.tree.size(), more: true });
            };
            let wanted = group.bytes - self.partial.len();
            let (piece, rest) = bytes.split_at(wanted.min(bytes.len()));
            bytes = rest;
            if self.partial.is_empty() && piece.len() == group.bytes {
                self.finish_group(group, piece);
                continue;
            }
            self.partial.extend_from_slice(piece);
            if self.partial.len() == group.bytes {
                let whole = std::mem::take(&mut self.partial);
                self.finish_group(group, &whole);
                self.partial = whole;
                self.partial.clear();
            }
        }
        Ok(())
    }

    /// The tree, once every byte was given.
    pub fn finish(mut self) -> Result<ShardTree, ShardLengthError> {
        // The tree of nothing has one group without bytes.
        if let Some(group) = self.next_group.filter(|group| group.bytes == 0) {
            self.finish_group(group, &[]);
        }
        let root = self.root.ok_or(ShardLengthError { expected: self.tree.size(), more: false })?;
        Ok(ShardTree { root, outboard: self.outboard })
    }

    fn finish_group(&mut self, group: Group, bytes: &[u8]) {
        let mut hasher = blake3::Hasher::new();
        if group.is_root {
            self.root = Some(ShardRoot::from_bytes(*hasher.update(bytes).finalize().as_bytes()));
        } else {
            self.stack.push(hasher.set_input_offset(group.offset).update(bytes).finalize_non_root());
        }
        self.advance();
    }

    /// Merges what is complete, up to the next group.
    fn advance(&mut self) {
        self.next_group = None;
        for step in self.steps.by_ref() {
            match step {
                BaoChunk::Leaf { size, start_chunk, is_root, .. } => {
                    self.next_group = Some(Group { bytes: size, offset: start_chunk.to_bytes(), is_root });
                    return;
                }
                BaoChunk::Parent { node, is_root, .. } => {
                    let right = self.stack.pop().expect("a parent comes behind its two children");
                    let left = self.stack.pop().expect("a parent comes behind its two children");
                    if let Some(place) = self.tree.pre_order_offset(node) {
                        let start = usize::try_from(place).expect("outboards fit in memory") * PAIR_BYTES;
                        self.outboard[start..start + 32].copy_from_slice(&left);
                        self.outboard[start + 32..start + PAIR_BYTES].copy_from_slice(&right);
                    }
                    if is_root {
                        let root = merge_subtrees_root(&left, &right, Mode::Hash);
                        self.root = Some(ShardRoot::from_bytes(*root.as_bytes()));
                    } else {
                        self.stack.push(merge_subtrees_non_root(&left, &right, Mode::Hash));
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use bao_tree::io::outboard::PreOrderMemOutboard;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn root_and_outboard_are_those_of_bao_tree_whatever_the_pieces(
            bytes in 0usize..200_000,
            piece in 1usize..70_000,
        ) {
            let shard: Vec<u8> = (0..bytes).map(|i| u8::try_from(i % 251).unwrap()).collect();
            let mut builder = ShardTreeBuilder::new(bytes as u64);
            for part in shard.chunks(piece) {
                builder.update(part).unwrap();
            }
            let tree = builder.finish().unwrap();
            let theirs = PreOrderMemOutboard::create(&shard, GROUP);
            prop_assert_eq!(*tree.root.as_bytes(), *blake3::hash(&shard).as_bytes());
            prop_assert_eq!(tree.outboard.len() as u64, outboard_bytes(bytes as u64));
            prop_assert_eq!(tree.outboard, theirs.data);
        }
    }

    #[test]
    fn a_shard_of_another_length_is_refused() {
        let mut short = ShardTreeBuilder::new(100);
        short.update(&[0; 99]).unwrap();
        assert!(short.finish().unwrap_err().to_string().contains("fewer"));
        assert!(ShardTreeBuilder::new(100).update(&[0; 101]).unwrap_err().to_string().contains("more"));
    }
}
