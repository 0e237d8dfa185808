//! Making a filter, part by part.
//!
//! Always holds: the bytes depend on header and keys only, not on the keys' order or repetition; every key was found in
//! its part before the part is given out. Leaves to others: gathering the keys of a part.
//!
//! Making a part of n keys takes 25 n bytes beside the 8 n of its hashes: 26 MB for 2^20. A seed rarely fails at that
//! size. At some sizes just above 11,190 keys most do: the library tries up to 1,000 of them, every fourth with shorter
//! segments, with which few fail.

use xorf::{BinaryFuse8, Filter};

use crate::header::{FilterHeader, FormatError, PartHead, trailer};
use crate::key_hash::KeyHasher;

/// Why no filter was made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DraftError {
    /// There is no filter of such a header.
    #[error(transparent)]
    Header(#[from] FormatError),
    /// No seed gives a part that holds these keys.
    #[error("no filter was found for {0} keys of one part")]
    NoSolution(usize),
    /// A part is larger than a part can be.
    #[error("{0} keys are too many for one part of a filter")]
    TooManyKeys(usize),
}

/// A part, ready to be written behind the one before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilterPart {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Distinct keys in it.
    pub keys: u32,
}

/// A filter that is being made.
#[derive(Debug, Clone)]
pub struct FilterDraft {
    header: FilterHeader,
}

impl FilterDraft {
    /// Begins the filter of `header`.
    pub fn new(header: FilterHeader) -> Result<Self, DraftError> {
        header.check()?;
        Ok(Self { header })
    }

    /// What stands before the parts.
    pub fn head(&self) -> Vec<u8> {
        self.header.to_bytes().to_vec()
    }

    /// How keys are hashed for it.
    pub fn hasher(&self) -> KeyHasher {
        KeyHasher::new(&self.header)
    }

    /// The part that holds keys of these hashes, each of this part. Leaves them sorted, without repetition.
    pub fn part(&self, hashes: &mut Vec<u64>) -> Result<FilterPart, DraftError> {
        hashes.sort_unstable();
        hashes.dedup();
        // Sizes are computed in 32 bits.
        let keys = u32::try_from(hashes.len()).ok().filter(|keys| *keys <= 1 << 30);
        let keys = keys.ok_or(DraftError::TooManyKeys(hashes.len()))?;
        let unsolved = DraftError::NoSolution(hashes.len());
        let filter = BinaryFuse8::try_from(hashes.as_slice()).map_err(|_| unsolved.clone())?;
        let shape = &filter.descriptor;
        let segment_log2 = u8::try_from(shape.segment_length.trailing_zeros()).unwrap_or(u8::MAX);
        let head = PartHead {
            keys,
            segments: shape.segment_count_length >> segment_log2,
            segment_log2,
            seed: shape.seed,
        };
        let head_bytes = head.to_bytes();
        // What it is read as must be what was made, and hold every key.
        let fits = PartHead::from_bytes(&head_bytes) == Ok(head)
            && head.fingerprints() == filter.fingerprints.len() as u64
            && hashes.iter().all(|hash| filter.contains(hash));
        if !fits {
            return Err(unsolved);
        }
        Ok(FilterPart { bytes: [&head_bytes, &*filter.fingerprints].concat(), keys })
    }

    /// What stands behind the parts, if they have `keys` keys together.
    pub fn tail(&self, keys: u64) -> Vec<u8> {
        trailer(keys).to_vec()
    }
}
