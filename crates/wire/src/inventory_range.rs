//! Comparing what a node holds with what it is counted for, range by range: the traffic follows the difference.
//!
//! Owns: how shards are divided into ranges, and what is said of one. Always holds: the parts of a range are all of it and do
//! not overlap; equal sets have equal digests, and with another salt the digests of different ones differ but with a chance
//! of one in 2^128, whoever chose the codings. A digest proves nothing of a node that lies: proofs of shards do.
//! Leaves to others: who asks when (the session), what a difference means (`compare_inventory`).

use firn_base::{CodingId, ShardIndex};
use serde::{Deserialize, Serialize};

use crate::limits::INVENTORY_SHARDS_MAX;

/// Ranges that one request refines at most: 300 kB of digests.
pub const INVENTORY_RANGES_MAX: usize = 1_024;

/// Parts that a range is divided into.
pub const INVENTORY_PARTS: usize = 16;

// Codings are hashes: more than a few shards begin with the same 32 bits only where they are of one coding, or somebody has
// tried for long.
const DIGITS_MAX: u8 = 8;

// A name takes 33 bytes, and sixteen digests 272: a range of so few shards is told by their names, which settles it.
const LISTED_MAX: usize = 8;

/// A shard, as inventories name it.
pub type InventoryShard = (CodingId, ShardIndex);

/// All shards of codings whose ids begin with the same hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct InventoryRange {
    digits: u8,
    // The digits, the first one highest.
    prefix: u32,
}

/// What is in a range, in short.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct InventoryDigest {
    /// How many shards.
    pub shards: u64,
    /// Their salted hashes, joined by exclusive or.
    pub sum: [u8; 16],
}

/// What a node says of a range.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RangeContent {
    /// The digest of all it holds: a comparison begins with it, of the range of everything.
    Whole(InventoryDigest),
    /// The digests of the range's sixteen parts, in order.
    Parts(Vec<InventoryDigest>),
    /// Every shard in the range, in order.
    Listed(Vec<InventoryShard>),
}

/// A step of a comparison: a node says what is in ranges, and is told which differ.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InventoryComparison {
    /// Drawn by the node for each comparison, so that nobody can choose codings whose hashes cancel each other.
    pub salt: [u8; 32],
    /// The range of everything alone, or ranges that differed in the step before; at most [`INVENTORY_RANGES_MAX`].
    pub ranges: Vec<(InventoryRange, RangeContent)>,
}

impl InventoryComparison {
    /// The first step for a node that holds `shards`.
    pub fn beginning(salt: [u8; 32], shards: &[InventoryShard]) -> Self {
        let whole = RangeContent::Whole(InventoryDigest::of(&salt, shards));
        Self { salt, ranges: vec![(InventoryRange::ALL, whole)] }
    }

    /// What a node that holds `shards` says of those `ranges` that differed; of fewer where they are long, so that a step stays
    /// within a message.
    pub fn refining(salt: [u8; 32], ranges: &[InventoryRange], shards: &[InventoryShard]) -> Self {
        let mut refined: Vec<(InventoryRange, RangeContent)> = Vec::new();
        let mut listed = 0;
        for range in ranges.iter().take(INVENTORY_RANGES_MAX) {
            let content = range.refined(&salt, shards);
            if let RangeContent::Listed(own) = &content {
                listed += own.len();
                if listed > INVENTORY_SHARDS_MAX && !refined.is_empty() {
                    break;
                }
            }
            refined.push((*range, content));
        }
        Self { salt, ranges: refined }
    }

    /// Whether it is a first step.
    pub fn begins(&self) -> bool {
        matches!(self.ranges[..], [(InventoryRange::ALL, RangeContent::Whole(_))])
    }
}

impl InventoryRange {
    /// The range of everything.
    pub const ALL: Self = Self { digits: 0, prefix: 0 };

    /// Its parts, in order; none for a range that is not divided any more.
    pub fn parts(self) -> Option<[Self; INVENTORY_PARTS]> {
        if self.digits >= DIGITS_MAX {
            return None;
        }
        let first = self.prefix.checked_mul(16)?;
        let mut parts = [Self { digits: self.digits + 1, prefix: first }; INVENTORY_PARTS];
        for (part, number) in parts.iter_mut().zip(0u32..) {
            part.prefix = first | number;
        }
        Some(parts)
    }

    /// Whether a shard lies in it.
    pub fn contains(self, shard: &InventoryShard) -> bool {
        self.place_of(shard) == self.prefix
    }

    /// Those of `shards`, which are in order, that lie in it.
    pub fn of(self, shards: &[InventoryShard]) -> &[InventoryShard] {
        let begin = shards.partition_point(|shard| self.place_of(shard) < self.prefix);
        let rest = shards.get(begin..).unwrap_or_default();
        let length = rest.partition_point(|shard| self.place_of(shard) == self.prefix);
        rest.get(..length).unwrap_or_default()
    }

    /// What a node that holds `shards`, which are in order, says of it when it differs.
    pub fn refined(self, salt: &[u8; 32], shards: &[InventoryShard]) -> RangeContent {
        let own = self.of(shards);
        match self.parts().filter(|_| own.len() > LISTED_MAX) {
            Some(parts) => RangeContent::Parts(
                parts.iter().map(|part| InventoryDigest::of(salt, part.of(own))).collect(),
            ),
            None => RangeContent::Listed(own.to_vec()),
        }
    }

    fn place_of(self, (coding, _): &InventoryShard) -> u32 {
        let [first, second, third, fourth, ..] = *coding.as_bytes();
        let leading = u32::from_be_bytes([first, second, third, fourth]);
        let unused = 4 * u32::from(DIGITS_MAX.saturating_sub(self.digits));
        leading.checked_shr(unused).unwrap_or(0)
    }
}

impl InventoryDigest {
    /// The digest of nothing.
    pub const EMPTY: Self = Self { shards: 0, sum: [0; 16] };

    /// The digest of `shards` under a salt.
    pub fn of(salt: &[u8; 32], shards: &[InventoryShard]) -> Self {
        let mut digest = Self::EMPTY;
        for (coding, index) in shards {
            let mut name = [0; 33];
            name[..32].copy_from_slice(coding.as_bytes());
            name[32] = index.0;
            let hash = blake3::keyed_hash(salt, &name);
            for (sum, byte) in digest.sum.iter_mut().zip(hash.as_bytes()) {
                *sum ^= byte;
            }
            digest.shards += 1;
        }
        digest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shard(number: u32, index: u8) -> InventoryShard {
        (CodingId::from_bytes(*blake3::hash(&number.to_le_bytes()).as_bytes()), ShardIndex(index))
    }

    fn shards(count: u32) -> Vec<InventoryShard> {
        let mut shards: Vec<_> = (0..count).map(|number| shard(number, 3)).collect();
        shards.sort_unstable();
        shards
    }

    #[test]
    fn the_parts_of_a_range_are_all_of_it_and_do_not_overlap() {
        let all = shards(5_000);
        assert_eq!(InventoryRange::ALL.of(&all), all);
        let mut ranges = vec![InventoryRange::ALL];
        for _ in 0..3 {
            let parts = |range: &InventoryRange| range.parts().unwrap();
            ranges = ranges.iter().flat_map(parts).collect();
            let together: Vec<_> = ranges.iter().flat_map(|range| range.of(&all).to_vec()).collect();
            assert_eq!(together, all);
            for range in &ranges {
                let own: Vec<_> = all.iter().filter(|shard| range.contains(shard)).copied().collect();
                assert_eq!(range.of(&all), own);
            }
        }
        let mut deepest = InventoryRange::ALL;
        while let Some(parts) = deepest.parts() {
            deepest = parts[15];
        }
        assert!(deepest.contains(&(CodingId::from_bytes([0xff; 32]), ShardIndex(0))));
        assert!(!deepest.contains(&(CodingId::from_bytes([0xfe; 32]), ShardIndex(0))));
    }

    #[test]
    fn a_digest_is_of_a_set_under_its_salt() {
        let (all, salt) = (shards(100), [7; 32]);
        let digest = InventoryDigest::of(&salt, &all);
        assert_eq!(digest.shards, 100);
        let (front, back) = (InventoryDigest::of(&salt, &all[..30]), InventoryDigest::of(&salt, &all[30..]));
        let joined: Vec<u8> = front.sum.iter().zip(back.sum).map(|(one, other)| one ^ other).collect();
        assert_eq!(digest.sum[..], joined);
        assert_ne!(InventoryDigest::of(&[8; 32], &all), digest);
        let mut other = all.clone();
        other[5].1 = ShardIndex(4);
        assert_ne!(InventoryDigest::of(&salt, &other), digest);
        assert_eq!(InventoryDigest::of(&salt, &[]), InventoryDigest::EMPTY);
    }

    #[test]
    fn few_shards_are_listed_and_more_are_divided_until_they_begin_alike() {
        let (all, salt) = (shards(9), [7; 32]);
        let RangeContent::Parts(parts) = InventoryRange::ALL.refined(&salt, &all) else { panic!() };
        assert_eq!((parts.len(), parts.iter().map(|part| part.shards).sum::<u64>()), (16, 9));
        let few = InventoryRange::ALL.refined(&salt, &all[..8]);
        assert_eq!(few, RangeContent::Listed(all[..8].to_vec()));
        let crowded: Vec<_> = (0..40).map(|index| shard(1, index)).collect();
        let mut range = InventoryRange::ALL;
        let listed = loop {
            match range.refined(&salt, &crowded) {
                RangeContent::Listed(listed) => break listed,
                _ => range = *range.parts().unwrap().iter().find(|part| part.contains(&crowded[0])).unwrap(),
            }
        };
        assert_eq!(listed, crowded);
    }
}
