//! The coding header: one erasure-coded form of a bundle, in at most 1,336 bytes.
//!
//! Owns: its layout, the coding id, and which shard holds which byte of the payload. Always holds: k is of the
//! ladder and there is a root for every index that k may ever use.
//! Leaves to others: the code itself, and whether shards really have these roots.

use std::ops::Range;

use firn_base::{BundleId, CodingId, Scheme, ShardIndex, ShardRoot, shard_bytes};

use crate::content_header::ContentHeader;
use crate::cursor::Cursor;
use crate::header_error::{HeaderError, HeaderKind, check_version, cut_off, invalid};
use crate::limits::PAYLOAD_BYTES_MAX;

const MAGIC: [u8; 8] = *b"firncode";
const VERSION: u16 = 1;
const CODE_REED_SOLOMON_VANDERMONDE: u8 = 1;
const FIXED_BYTES: usize = 56;
const ROOTS_MAX: usize = 40;
const SHARD_GRANULE_BYTES: u64 = 16 << 10;
const KIND: HeaderKind = HeaderKind::Coding;

/// The longest coding header: that of k = 16 with 40 roots.
pub const CODING_HEADER_BYTES_MAX: usize = FIXED_BYTES + 32 * ROOTS_MAX;

/// One erasure-coded form of a bundle; its BLAKE3 is the coding id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CodingHeader {
    bundle: BundleId,
    k: u8,
    shard_bytes: u64,
    roots: Vec<ShardRoot>,
}

impl CodingHeader {
    /// A coding of `bundle` into shards of `shard_bytes`; `roots` are those of all indexes that `k` may use.
    pub fn new(
        bundle: BundleId,
        k: u8,
        shard_bytes: u64,
        roots: Vec<ShardRoot>,
    ) -> Result<Self, HeaderError> {
        let Some(n_max) = Scheme::n_max(k) else {
            return Err(invalid(KIND, "its k is not 1, 2, 4, 8 or 16"));
        };
        if roots.len() != usize::from(n_max) {
            return Err(invalid(KIND, "it lacks roots, or has more than its k may use"));
        }
        let largest = firn_base::shard_bytes(PAYLOAD_BYTES_MAX, k);
        if !(firn_base::SHARD_BYTES_MIN..=largest).contains(&shard_bytes)
            || !shard_bytes.is_multiple_of(SHARD_GRANULE_BYTES)
        {
            return Err(invalid(KIND, "its shards have a length that no payload gives"));
        }
        Ok(Self { bundle, k, shard_bytes, roots })
    }

    /// Reads what [`Self::to_bytes`] wrote; every byte must belong to it.
    pub fn parse(bytes: &[u8]) -> Result<Self, HeaderError> {
        let mut cursor = Cursor::new(bytes);
        let cut_off = cut_off(KIND);
        if cursor.array().map_err(&cut_off)? != MAGIC {
            return Err(HeaderError::Magic(KIND));
        }
        check_version(KIND, cursor.u16().map_err(&cut_off)?, VERSION)?;
        if cursor.u8().map_err(&cut_off)? != CODE_REED_SOLOMON_VANDERMONDE {
            return Err(invalid(KIND, "it names an unknown code"));
        }
        let k = cursor.u8().map_err(&cut_off)?;
        let count = cursor.u8().map_err(&cut_off)?;
        if cursor.array().map_err(&cut_off)? != [0; 3] {
            return Err(invalid(KIND, "reserved bytes are not zero"));
        }
        let bundle = BundleId::from_bytes(cursor.array().map_err(&cut_off)?);
        let shard_bytes = cursor.u64().map_err(&cut_off)?;
        if cursor.remaining() != usize::from(count) * 32 {
            return Err(HeaderError::Length(KIND));
        }
        let roots = (0..count)
            .map(|_| cursor.array().map(ShardRoot::from_bytes).map_err(&cut_off))
            .collect::<Result<_, _>>()?;
        Self::new(bundle, k, shard_bytes, roots)
    }

    /// The bytes whose BLAKE3 is the coding id: see `docs/formats.md`.
    pub fn to_bytes(&self) -> Vec<u8> {
        let count =
            u8::try_from(self.roots.len()).expect("new allows as many roots as the ladder, 40 at most");
        let mut bytes = Vec::with_capacity(FIXED_BYTES + 32 * self.roots.len());
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&[CODE_REED_SOLOMON_VANDERMONDE, self.k, count, 0, 0, 0]);
        bytes.extend_from_slice(self.bundle.as_bytes());
        bytes.extend_from_slice(&self.shard_bytes.to_le_bytes());
        for root in &self.roots {
            bytes.extend_from_slice(root.as_bytes());
        }
        bytes
    }

    /// BLAKE3 of [`Self::to_bytes`].
    pub fn coding_id(&self) -> CodingId {
        CodingId::from_bytes(*blake3::hash(&self.to_bytes()).as_bytes())
    }

    /// Refuses a coding that is not one of the bundle `content` describes.
    pub fn check_belongs_to(&self, content: &ContentHeader) -> Result<(), HeaderError> {
        if self.bundle != content.bundle_id() {
            return Err(invalid(KIND, "it codes another bundle"));
        }
        if self.shard_bytes != shard_bytes(content.payload_bytes(), self.k) {
            return Err(invalid(KIND, "its shards have another length than the payload gives"));
        }
        Ok(())
    }

    /// The bundle that was coded.
    pub const fn bundle(&self) -> BundleId {
        self.bundle
    }

    /// How many shards are enough.
    pub const fn k(&self) -> u8 {
        self.k
    }

    /// Bytes of each shard.
    pub const fn shard_bytes(&self) -> u64 {
        self.shard_bytes
    }

    /// Roots of the shards of all indexes that k may ever use, index 0 first.
    pub fn roots(&self) -> &[ShardRoot] {
        &self.roots
    }

    /// The root of one shard; none if k never uses the index.
    pub fn root(&self, index: ShardIndex) -> Option<ShardRoot> {
        self.roots.get(index.position()).copied()
    }

    /// Which data shards hold the bytes `range` of the payload, and which of their bytes; in payload order.
    ///
    /// Bytes behind the k data shards are in none, so a range behind the end gives nothing.
    pub fn locate(&self, range: Range<u64>) -> Vec<(ShardIndex, Range<u64>)> {
        let mut pieces = Vec::new();
        for index in 0..self.k {
            let start = u64::from(index) * self.shard_bytes;
            let from = range.start.max(start);
            let to = range.end.min(start + self.shard_bytes);
            if from < to {
                pieces.push((ShardIndex(index), from - start..to - start));
            }
        }
        pieces
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(k: u8, roots: usize) -> Result<CodingHeader, HeaderError> {
        let roots = (0..roots).map(|i| ShardRoot::from_bytes([u8::try_from(i).unwrap(); 32])).collect();
        CodingHeader::new(BundleId::from_bytes([9; 32]), k, 64 << 10, roots)
    }

    #[test]
    fn a_coding_has_roots_for_every_index_its_k_may_use() {
        for (k, roots) in [(1, 3), (2, 6), (4, 12), (8, 24), (16, 40)] {
            let header = header(k, roots).unwrap();
            assert_eq!(CodingHeader::parse(&header.to_bytes()), Ok(header));
        }
        assert!(header(4, 11).is_err());
        assert!(header(3, 5).is_err());
    }

    #[test]
    fn truncated_and_lengthened_headers_are_refused() {
        let bytes = header(2, 6).unwrap().to_bytes();
        for length in 0..bytes.len() {
            assert!(CodingHeader::parse(&bytes[..length]).is_err());
        }
        assert!(CodingHeader::parse(&[bytes, vec![0]].concat()).is_err());
    }

    #[test]
    fn a_payload_range_is_cut_at_shard_borders() {
        let header = header(4, 12).unwrap();
        let shard = header.shard_bytes();
        assert_eq!(header.locate(10..20), [(ShardIndex(0), 10..20)]);
        let over_the_border = [(ShardIndex(1), shard - 1..shard), (ShardIndex(2), 0..1)];
        assert_eq!(header.locate(2 * shard - 1..2 * shard + 1), over_the_border);
        assert_eq!(header.locate(4 * shard..4 * shard + 5), []);
    }
}
