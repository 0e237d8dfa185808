//! Erasure schemes: how many shards there are, how many are enough, how large each one is.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The smallest shard: below this, headers and outboards would weigh more than data.
pub const SHARD_BYTES_MIN: u64 = 64 * 1024;

// Ranges are proved in groups of 16 KiB, so a shard is a whole number of them.
const SHARD_GRANULE_BYTES: u64 = 16 * 1024;

/// Which of a coding's shards: 0…k-1 are slices of the payload, k…n-1 are parity.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct ShardIndex(pub u8);

impl ShardIndex {
    /// The index as a position in a list of shards.
    pub const fn position(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for ShardIndex {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// Why (k, n) is no scheme of the ladder.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{k} of {n} is not a scheme of this archive: k is 1, 2, 4, 8 or 16, and n lies between k and k's maximum"
)]
pub struct SchemeError {
    k: u8,
    n: u8,
}

/// Any `k` of `n` shards restore a bundle.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Scheme {
    k: u8,
    n: u8,
}

// (k, most shards that k may ever use, smallest width it is chosen for).
const LADDER: [(u8, u8, usize); 5] = [(1, 3, 1), (2, 6, 3), (4, 12, 6), (8, 24, 24), (16, 40, 60)];

impl Scheme {
    /// The scheme `k` of `n`, if the ladder has it.
    pub fn new(k: u8, n: u8) -> Result<Self, SchemeError> {
        match Self::n_max(k) {
            Some(max) if k <= n && n <= max => Ok(Self { k, n }),
            _ => Err(SchemeError { k, n }),
        }
    }

    /// The scheme for new bundles in a fleet whose domain caps allow `width` shards of one bundle;
    /// none for an empty fleet.
    pub fn for_width(width: usize) -> Option<Self> {
        let (k, n_max, _) = LADDER.iter().rev().find(|(_, _, from)| width >= *from)?;
        let n = u8::try_from(width).unwrap_or(u8::MAX).min(*n_max);
        Some(Self { k: *k, n })
    }

    /// The most shards that a coding with this `k` may ever have; none if `k` is not of the ladder.
    pub fn n_max(k: u8) -> Option<u8> {
        LADDER.iter().find(|(own, _, _)| *own == k).map(|(_, max, _)| *max)
    }

    /// How many shards are enough.
    pub const fn k(self) -> u8 {
        self.k
    }

    /// How many shards there should be.
    pub const fn n(self) -> u8 {
        self.n
    }

    /// Distinct shards with receipts without which no bundle is committed: k + ⌈(n-k)/2⌉.
    pub const fn commit_threshold(self) -> u8 {
        self.k + (self.n - self.k).div_ceil(2)
    }

    /// At this many durable shards or fewer a bundle is repaired.
    ///
    /// For k ≤ 4 whenever one is missing; for larger k lazily, n - ⌈(n-k)/2⌉, because one repair that
    /// rebuilds several shards reads k only once.
    pub const fn repair_threshold(self) -> u8 {
        if self.k <= 4 { self.n.saturating_sub(1) } else { self.n - (self.n - self.k).div_ceil(2) }
    }

    /// At this many durable shards or fewer repair is urgent: k + ⌈(n-k)/5⌉, never n, never above the
    /// repair threshold.
    pub fn urgent_threshold(self) -> u8 {
        (self.k + (self.n - self.k).div_ceil(5)).min(self.repair_threshold()).min(self.n.saturating_sub(1))
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.k, self.n)
    }
}

/// Bytes of each shard of a payload cut into `k`: max(64 KiB, ⌈payload/k⌉ rounded up to 16 KiB).
pub fn shard_bytes(payload_bytes: u64, k: u8) -> u64 {
    assert!(k > 0, "a coding has at least one data shard");
    payload_bytes.div_ceil(u64::from(k)).next_multiple_of(SHARD_GRANULE_BYTES).max(SHARD_BYTES_MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ladder_follows_the_width_of_the_fleet() {
        let at = |width| Scheme::for_width(width).map(|s| (s.k(), s.n()));
        assert_eq!(at(0), None);
        assert_eq!(at(1), Some((1, 1)));
        assert_eq!(at(2), Some((1, 2)));
        assert_eq!(at(5), Some((2, 5)));
        assert_eq!(at(6), Some((4, 6)));
        assert_eq!(at(16), Some((4, 12)));
        assert_eq!(at(23), Some((4, 12)));
        assert_eq!(at(24), Some((8, 24)));
        assert_eq!(at(59), Some((8, 24)));
        assert_eq!(at(60), Some((16, 40)));
        assert_eq!(at(5_000), Some((16, 40)));
    }

    #[test]
    fn thresholds_of_sixteen_of_forty_are_those_of_the_design() {
        let scheme = Scheme::new(16, 40).unwrap();
        assert_eq!(scheme.commit_threshold(), 28);
        assert_eq!(scheme.repair_threshold(), 28);
        assert_eq!(scheme.urgent_threshold(), 21);
    }

    #[test]
    fn small_schemes_are_repaired_as_soon_as_a_shard_is_missing() {
        assert_eq!(Scheme::new(4, 12).unwrap().repair_threshold(), 11);
        assert_eq!(Scheme::new(4, 12).unwrap().urgent_threshold(), 6);
        assert_eq!(Scheme::new(1, 1).unwrap().urgent_threshold(), 0);
    }

    #[test]
    fn a_scheme_outside_the_ladder_is_refused() {
        assert!(Scheme::new(3, 5).is_err());
        assert!(Scheme::new(4, 13).is_err());
        assert!(Scheme::new(4, 3).is_err());
    }

    #[test]
    fn shards_are_whole_groups_and_never_tiny() {
        assert_eq!(shard_bytes(0, 4), 64 * 1024);
        assert_eq!(shard_bytes(1, 1), 64 * 1024);
        assert_eq!(shard_bytes(4 * 64 * 1024 + 1, 4), 80 * 1024);
        assert_eq!(shard_bytes(256 << 20, 16), 16 << 20);
    }
}
