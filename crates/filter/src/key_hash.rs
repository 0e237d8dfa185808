//! What a filter makes of a key.
//!
//! Always holds: the hash is keyed with the digest of the feed behind the range, which every key of the range is part of.
//! So nobody can choose keys of which many fall into one part, or on each other; and a key that a filter wrongly holds is
//! not wrongly held by the next.

use firn_base::ObjectKey;

use crate::FilterHeader;

// Sets these hashes apart from all others of the archive.
const CONTEXT: &[u8] = b"firn/filter/1\0";

/// Hashes keys for one filter.
#[derive(Debug, Clone)]
pub struct KeyHasher {
    key: [u8; 32],
    part_mask: u32,
}

/// Where a key belongs in one filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct KeyHash {
    /// The part.
    pub part: u32,
    /// What stands for the key there.
    pub value: u64,
}

impl KeyHasher {
    /// Hashes for the filter of `header`.
    pub(crate) fn new(header: &FilterHeader) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(CONTEXT);
        hasher.update(header.archive.as_bytes());
        hasher.update(&header.range.first.to_le_bytes());
        hasher.update(&header.range.end.to_le_bytes());
        hasher.update(header.digest_behind.as_bytes());
        Self { key: *hasher.finalize().as_bytes(), part_mask: header.parts() - 1 }
    }

    /// The hash of `key`.
    pub fn hash(&self, key: &ObjectKey) -> KeyHash {
        let hash = blake3::keyed_hash(&self.key, &key.to_bytes());
        let mut words = hash.as_bytes().as_chunks().0.iter().copied().map(u64::from_le_bytes);
        let mut word = || words.next().expect("a hash has four words");
        let (spread, value) = (word(), word());
        // The low half of a word: the mask leaves no more.
        let part = u32::try_from(spread & u64::from(self.part_mask)).expect("a mask of 32 bits");
        KeyHash { part, value }
    }
}
