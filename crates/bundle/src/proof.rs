//! Range proofs: bytes of a shard that anyone who knows its root can check.
//!
//! Owns: bao-tree's combined encoding of the groups that cover a range, both directions. Always holds: what is
//! decoded is exactly the range asked for, and proved. Leaves to others: where shard and outboard lie.

use std::io::{self, Read, Write};
use std::ops::Range;

use bao_tree::io::outboard::PreOrderOutboard;
use bao_tree::io::sync::{DecodeResponseIter, encode_ranges_validated};
use bao_tree::io::{BaoContentItem, DecodeError, EncodeError};
use bao_tree::iter::BaoChunk;
use bao_tree::{ChunkNum, ChunkRanges};
use firn_base::ShardRoot;

use crate::shard_file::ShardFileLayout;
use crate::shard_tree::{GROUP_BYTES, tree_of};

pub use bao_tree::io::sync::ReadAt;

/// Why a range could not be proved or its proof was refused.
#[derive(Debug, thiserror::Error)]
pub enum ProofError {
    /// The range is empty, turned round or behind the end.
    #[error("bytes {start} to {end} are no range of a shard of {shard_bytes} bytes")]
    Range {
        /// First byte asked for.
        start: u64,
        /// Byte behind the last.
        end: u64,
        /// Bytes of the shard.
        shard_bytes: u64,
    },
    /// While proving: the shard or its tree do not match the root. The holder declares the shard damaged.
    #[error("the stored shard is damaged near byte {offset}: it does not match its root")]
    Damaged {
        /// Where, to a group or the span of an inner node.
        offset: u64,
    },
    /// While checking: the bytes are not those of this root. Whoever sent them is at fault.
    #[error("the bytes near {offset} were refused: they do not match the shard's root")]
    Mismatch {
        /// Where, to a group or the span of an inner node.
        offset: u64,
    },
    /// While checking: the response ended early.
    #[error("the response ended before the range was complete")]
    CutOff,
    /// While checking: the response goes on behind the range.
    #[error("the response goes on behind the range that was asked for")]
    TooLong,
    /// Reading or writing failed.
    #[error("a range could not be read or written: {0}")]
    Io(#[from] io::Error),
}

/// Part of something that can be read at offsets, as if it began at 0.
#[derive(Debug, Clone)]
pub struct ReadWindow<R> {
    inner: R,
    start: u64,
    bytes: u64,
}

impl<R> ReadWindow<R> {
    /// The `bytes` bytes of `inner` from `start` on.
    pub const fn new(inner: R, start: u64, bytes: u64) -> Self {
        Self { inner, start, bytes }
    }
}

impl<R: ReadAt> ReadAt for ReadWindow<R> {
    fn read_at(&self, position: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.bytes.saturating_sub(position);
        let count = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        self.inner.read_at(self.start.saturating_add(position), &mut buffer[..count])
    }
}

fn chunks_of(shard_bytes: u64, range: &Range<u64>) -> Result<ChunkRanges, ProofError> {
    if range.start >= range.end || range.end > shard_bytes {
        return Err(ProofError::Range { start: range.start, end: range.end, shard_bytes });
    }
    let groups = covering_groups(range);
    Ok(ChunkRanges::from(ChunkNum::full_chunks(groups.start)..ChunkNum::chunks(groups.end)))
}

/// The bytes of the groups that cover `range`: what a proof of it carries, but for the end of the shard.
pub const fn covering_groups(range: &Range<u64>) -> Range<u64> {
    let start = range.start / GROUP_BYTES * GROUP_BYTES;
    start..range.end.div_ceil(GROUP_BYTES).saturating_mul(GROUP_BYTES)
}

/// Exactly how many bytes [`encode_range`] gives for this range.
pub fn encoded_range_bytes(shard_bytes: u64, range: &Range<u64>) -> Result<u64, ProofError> {
    let chunks = chunks_of(shard_bytes, range)?;
    let steps = tree_of(shard_bytes).ranges_pre_order_chunks_iter_ref(&chunks, 0);
    Ok(steps
        .map(|step| match step {
            BaoChunk::Parent { .. } => 64,
            BaoChunk::Leaf { size, .. } => size as u64,
        })
        .sum())
}

/// Writes the proof of `range` of a shard of `shard_bytes` bytes; checks shard and outboard while it reads them.
///
/// Nothing unproved is written, but a proof may break off: on an error the receiver must be told so.
pub fn encode_range(
    shard: impl ReadAt,
    outboard: impl ReadAt,
    root: ShardRoot,
    shard_bytes: u64,
    range: &Range<u64>,
    encoded: impl Write,
) -> Result<(), ProofError> {
    let chunks = chunks_of(shard_bytes, range)?;
    let outboard = PreOrderOutboard {
        root: blake3::Hash::from_bytes(*root.as_bytes()),
        tree: tree_of(shard_bytes),
        data: outboard,
    };
    encode_ranges_validated(shard, outboard, &chunks, encoded).map_err(|error| match error {
        EncodeError::ParentHashMismatch(node) => ProofError::Damaged { offset: node.mid().to_bytes() },
        EncodeError::LeafHashMismatch(chunk) => ProofError::Damaged { offset: chunk.to_bytes() },
        EncodeError::Io(error) => ProofError::Io(error),
        EncodeError::ParentWrite(_) | EncodeError::LeafWrite(_) => {
            ProofError::Io(io::ErrorKind::ConnectionReset.into())
        }
        EncodeError::SizeMismatch => ProofError::Damaged { offset: 0 },
    })
}

/// [`encode_range`] of a shard file.
pub fn encode_range_of_file(
    file: impl ReadAt,
    layout: &ShardFileLayout,
    root: ShardRoot,
    range: &Range<u64>,
    encoded: impl Write,
) -> Result<(), ProofError> {
    let shard = ReadWindow::new(&file, layout.shard_offset, layout.shard_bytes);
    let outboard = ReadWindow::new(&file, layout.outboard_offset, layout.outboard_bytes);
    encode_range(shard, outboard, root, layout.shard_bytes, range, encoded)
}

/// Reads what [`encode_range`] wrote and gives the bytes of `range`, each of them proved.
///
/// Reads exactly [`encoded_range_bytes`] bytes if all is well, and memory is the range and one group.
pub fn decode_range(
    root: ShardRoot,
    shard_bytes: u64,
    range: &Range<u64>,
    encoded: impl Read,
) -> Result<Vec<u8>, ProofError> {
    let chunks = chunks_of(shard_bytes, range)?;
    let length = usize::try_from(range.end - range.start).map_err(|_| ProofError::Range {
        start: range.start,
        end: range.end,
        shard_bytes,
    })?;
    let root = blake3::Hash::from_bytes(*root.as_bytes());
    let mut bytes = Vec::with_capacity(length);
    for item in DecodeResponseIter::new(root, tree_of(shard_bytes), encoded, &chunks) {
        let item = item.map_err(|error| match error {
            DecodeError::ParentNotFound(_) | DecodeError::LeafNotFound(_) => ProofError::CutOff,
            DecodeError::ParentHashMismatch(node) => ProofError::Mismatch { offset: node.mid().to_bytes() },
            DecodeError::LeafHashMismatch(chunk) => ProofError::Mismatch { offset: chunk.to_bytes() },
            DecodeError::Io(error) => ProofError::Io(error),
        })?;
        if let BaoContentItem::Leaf(leaf) = item {
            let end = leaf.offset + leaf.data.len() as u64;
            let from = range.start.clamp(leaf.offset, end) - leaf.offset;
            let to = range.end.clamp(leaf.offset, end) - leaf.offset;
            // Both are at most a group.
            let position = |offset: u64| usize::try_from(offset).expect("a group fits in memory");
            bytes.extend_from_slice(&leaf.data[position(from)..position(to)]);
        }
    }
    if bytes.len() != length {
        return Err(ProofError::CutOff);
    }
    Ok(bytes)
}

/// [`decode_range`] of a whole response: bytes behind the proof are refused too.
pub fn decode_range_exact(
    root: ShardRoot,
    shard_bytes: u64,
    range: &Range<u64>,
    mut encoded: &[u8],
) -> Result<Vec<u8>, ProofError> {
    let bytes = decode_range(root, shard_bytes, range, &mut encoded)?;
    if encoded.is_empty() { Ok(bytes) } else { Err(ProofError::TooLong) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::shard_tree::ShardTree;

    fn shard(bytes: usize) -> Vec<u8> {
        (0..bytes).map(|i| u8::try_from(i * 7 % 253).unwrap()).collect()
    }

    fn proof(shard: &[u8], tree: &ShardTree, range: &Range<u64>) -> Vec<u8> {
        let mut encoded = Vec::new();
        let bytes = shard.len() as u64;
        encode_range(shard, tree.outboard.as_slice(), tree.root, bytes, range, &mut encoded).unwrap();
        encoded
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn every_range_is_proved_and_any_flipped_byte_refused(
            groups in 4u64..14,
            cut in (0u64..1_000_000, 1u64..200_000),
            flip in any::<(prop::sample::Index, u8)>(),
        ) {
            let shard = shard(usize::try_from(groups * GROUP_BYTES).unwrap());
            let bytes = shard.len() as u64;
            let tree = ShardTree::of(&shard);
            let start = cut.0 % bytes;
            let range = start..(start + cut.1).min(bytes);
            let mut encoded = proof(&shard, &tree, &range);
            prop_assert_eq!(encoded.len() as u64, encoded_range_bytes(bytes, &range).unwrap());
            let decoded = decode_range_exact(tree.root, bytes, &range, &encoded).unwrap();
            let positions = usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap();
            prop_assert_eq!(&decoded, &shard[positions]);

            let place = flip.0.index(encoded.len());
            encoded[place] ^= flip.1 | 1;
            let refused = decode_range_exact(tree.root, bytes, &range, &encoded);
            prop_assert!(matches!(refused, Err(ProofError::Mismatch { .. })), "{:?}", refused);
        }
    }

    #[test]
    fn truncated_and_lengthened_proofs_are_refused() {
        let shard = shard(65_536);
        let tree = ShardTree::of(&shard);
        let mut encoded = proof(&shard, &tree, &(5..20_000));
        let short = decode_range_exact(tree.root, 65_536, &(5..20_000), &encoded[..encoded.len() - 1]);
        assert!(matches!(short, Err(ProofError::CutOff)));
        encoded.push(0);
        let long = decode_range_exact(tree.root, 65_536, &(5..20_000), &encoded);
        assert!(matches!(long, Err(ProofError::TooLong)));
    }

    #[test]
    fn a_damaged_shard_is_noticed_before_a_byte_of_it_is_sent() {
        let mut damaged = shard(65_536);
        let tree = ShardTree::of(&damaged);
        damaged[40_000] ^= 1;
        let mut encoded = Vec::new();
        let outboard = tree.outboard.as_slice();
        let result =
            encode_range(damaged.as_slice(), outboard, tree.root, 65_536, &(40_000..40_001), &mut encoded);
        assert!(matches!(result, Err(ProofError::Damaged { offset: 32_768 })));
        assert_eq!(encoded.len(), 128, "only the two pairs of the path");
    }

    #[test]
    fn a_range_that_is_none_is_refused() {
        for range in [5..5, Range { start: 9, end: 3 }, 0..65_537] {
            assert!(matches!(encoded_range_bytes(65_536, &range), Err(ProofError::Range { .. })));
        }
    }
}
