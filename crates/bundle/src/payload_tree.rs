//! The root of a payload that is read in columns: the same range of every shard at a time.
//!
//! Owns: one chaining value for each group of 16 KiB, and merging them. Always holds: the result is BLAKE3 of the
//! payload, in whatever order its groups came; memory is 32 bytes for each group, 512 KiB for the largest payload.
//! Leaves to others: reading, and comparing the root with the content header's.

use bao_tree::blake3::hazmat::{
    ChainingValue, HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root,
};
use firn_base::PayloadRoot;

use crate::limits::PAYLOAD_BYTES_MAX;
use crate::shard_tree::GROUP_BYTES;

/// Computes the root of a payload from pieces that come in any order.
#[derive(Debug)]
pub struct PayloadTree {
    payload_bytes: u64,
    groups: Vec<Option<ChainingValue>>,
    /// The root of a payload of one group, which has no chaining value.
    small: Option<PayloadRoot>,
}

/// A piece does not lie on the payload's groups, or groups are missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PayloadTreeError {
    /// The payload is longer than a bundle may be.
    #[error("a payload of {payload_bytes} bytes is longer than a bundle may be")]
    TooLong {
        /// Its bytes.
        payload_bytes: u64,
    },
    /// The piece begins or ends within a group, or behind the end.
    #[error("bytes {offset} to {end} are no whole groups of the payload")]
    Crooked {
        /// Where the piece begins.
        offset: u64,
        /// Where it ends.
        end: u64,
    },
    /// Not every group was given.
    #[error("{missing} groups of the payload were not read")]
    Incomplete {
        /// How many.
        missing: usize,
    },
}

impl PayloadTree {
    /// A tree of a payload of this length, of which nothing is known yet.
    pub fn new(payload_bytes: u64) -> Result<Self, PayloadTreeError> {
        if payload_bytes > PAYLOAD_BYTES_MAX {
            return Err(PayloadTreeError::TooLong { payload_bytes });
        }
        let groups = usize::try_from(payload_bytes.div_ceil(GROUP_BYTES).max(1)).expect("checked above");
        Ok(Self { payload_bytes, groups: vec![None; groups], small: None })
    }

    /// Takes the bytes of the payload from `offset` on: whole groups, of which the payload's last may be shorter.
    pub fn put(&mut self, offset: u64, bytes: &[u8]) -> Result<(), PayloadTreeError> {
        let end = offset.saturating_add(bytes.len() as u64);
        let ends_well = end == self.payload_bytes || end.is_multiple_of(GROUP_BYTES);
        if !offset.is_multiple_of(GROUP_BYTES) || !ends_well || end > self.payload_bytes {
            return Err(PayloadTreeError::Crooked { offset, end });
        }
        if bytes.is_empty() {
            return Ok(());
        }
        if self.groups.len() == 1 {
            self.small = Some(PayloadRoot::from_bytes(*blake3::hash(bytes).as_bytes()));
        }
        let group_bytes = usize::try_from(GROUP_BYTES).expect("16 KiB");
        let first = usize::try_from(offset / GROUP_BYTES).expect("payloads have at most 256 MiB");
        let starts = (0..).map(|number: u64| offset + number * GROUP_BYTES);
        for ((place, start), group) in
            self.groups.iter_mut().skip(first).zip(starts).zip(bytes.chunks(group_bytes))
        {
            let mut hasher = blake3::Hasher::new();
            *place = Some(hasher.set_input_offset(start).update(group).finalize_non_root());
        }
        Ok(())
    }

    /// The payload's root, once every group was given.
    pub fn finish(self) -> Result<PayloadRoot, PayloadTreeError> {
        if self.payload_bytes == 0 {
            return Ok(PayloadRoot::from_bytes(*blake3::hash(&[]).as_bytes()));
        }
        let groups: Vec<ChainingValue> = self.groups.iter().copied().flatten().collect();
        let missing = self.groups.len() - groups.len();
        if missing > 0 {
            return Err(PayloadTreeError::Incomplete { missing });
        }
        if let Some(root) = self.small {
            return Ok(root);
        }
        let (left, right) = groups.split_at(left_groups(groups.len()));
        let root = merge_subtrees_root(&chaining_value(left), &chaining_value(right), Mode::Hash);
        Ok(PayloadRoot::from_bytes(*root.as_bytes()))
    }
}

/// How many groups the left subtree has: the largest power of two below all of them.
const fn left_groups(groups: usize) -> usize {
    groups.div_ceil(2).next_power_of_two()
}

fn chaining_value(groups: &[ChainingValue]) -> ChainingValue {
    match groups {
        [only] => *only,
        _ => {
            let (left, right) = groups.split_at(left_groups(groups.len()));
            merge_subtrees_non_root(&chaining_value(left), &chaining_value(right), Mode::Hash)
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn payload(bytes: usize) -> Vec<u8> {
        (0..bytes).map(|i| u8::try_from(i % 251).unwrap()).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn the_root_is_blake3_of_the_payload_in_whatever_order_its_groups_come(
            bytes in 0usize..600_000,
            piece_groups in 1usize..5,
            step in 1usize..7,
        ) {
            let payload = payload(bytes);
            let piece = piece_groups * 16_384;
            let pieces: Vec<(u64, &[u8])> = (0..).step_by(piece).zip(payload.chunks(piece)).collect();
            let mut tree = PayloadTree::new(bytes as u64).unwrap();
            for phase in 0..step {
                for (offset, piece) in pieces.iter().skip(phase).step_by(step) {
                    tree.put(*offset, piece).unwrap();
                }
            }
            prop_assert_eq!(*tree.finish().unwrap().as_bytes(), *blake3::hash(&payload).as_bytes());
        }
    }

    #[test]
    fn a_tree_with_a_hole_has_no_root() {
        let payload = payload(100_000);
        let mut tree = PayloadTree::new(100_000).unwrap();
        tree.put(0, &payload[..32_768]).unwrap();
        tree.put(49_152, &payload[49_152..]).unwrap();
        assert_eq!(tree.finish(), Err(PayloadTreeError::Incomplete { missing: 1 }));
    }

    #[test]
    fn pieces_beside_the_groups_or_behind_the_end_are_refused() {
        let mut tree = PayloadTree::new(100_000).unwrap();
        for (offset, bytes) in [(1, 16_384), (0, 100), (98_304, 1_697), (114_688, 16_384)] {
            assert!(tree.put(offset, &vec![0; bytes]).is_err(), "{offset}");
        }
        assert!(PayloadTree::new(PAYLOAD_BYTES_MAX + 1).is_err());
    }
}
