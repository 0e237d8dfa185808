//! The fixed parts of a filter's bytes: header, head of a part, trailer.
//!
//! Always holds: what was read is of a known version, and its counts are within the limits. Leaves to others: whether the
//! parts fit the header (`membership`). The layout is in `docs/formats.md`.

use firn_base::{ArchiveId, Digest, FeedRange};

const MAGIC: &[u8; 8] = b"firnfilt";
const END_MAGIC: &[u8; 8] = b"firn-end";
const VERSION: u16 = 1;
/// Binary fuse filter of three hashes with fingerprints of 8 bits.
const BINARY_FUSE_8: u8 = 1;
/// Positions of the feed have 40 bits where the coordinators index them; a part has about 2^20 keys.
const PARTS_LOG2_MAX: u8 = 20;
/// A longer segment than any filter has gains nothing.
const SEGMENT_LOG2_MAX: u8 = 18;

/// Bytes before the first part.
pub const HEADER_BYTES: usize = 128;
/// Bytes behind the last part.
pub const FILTER_TRAILER_BYTES: usize = 16;
/// Bytes before the fingerprints of a part.
pub(crate) const PART_HEAD_BYTES: usize = 20;

/// Why bytes are no filter.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// A program of later years wrote it.
    #[error("a filter of format {0}: written by a newer version")]
    Newer(u16),
    /// It is cut short, or not what it says.
    #[error("a damaged filter: {0}")]
    Damaged(&'static str),
}

/// What a filter is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FilterHeader {
    /// The archive.
    pub archive: ArchiveId,
    /// The keys that became visible here are in it.
    pub range: FeedRange,
    /// The digest of the feed before the range.
    pub digest_before: Digest,
    /// The digest of the feed behind the range.
    pub digest_behind: Digest,
    /// The binary logarithm of how many parts it has.
    pub parts_log2: u8,
}

impl FilterHeader {
    /// How many parts the keys are spread over: a power of two, at most 2^20.
    pub const fn parts(&self) -> u32 {
        1 << self.parts_log2
    }

    /// Whether it is one that [`Self::from_bytes`] takes.
    pub(crate) fn check(&self) -> Result<(), FormatError> {
        if self.range.events() == 0 {
            return Err(FormatError::Damaged("its range is empty"));
        }
        if self.parts_log2 > PARTS_LOG2_MAX || u64::from(self.parts()) > self.range.events() {
            return Err(FormatError::Damaged("it has too many parts"));
        }
        Ok(())
    }

    /// As it stands before the parts.
    pub fn to_bytes(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        let mut writer = Writer { rest: &mut bytes };
        writer.put(MAGIC);
        writer.put(&VERSION.to_le_bytes());
        writer.put(&[BINARY_FUSE_8, self.parts_log2]);
        writer.put(&[0; 4]);
        writer.put(self.archive.as_bytes());
        writer.put(&self.range.first.to_le_bytes());
        writer.put(&self.range.end.to_le_bytes());
        writer.put(self.digest_before.as_bytes());
        writer.put(self.digest_behind.as_bytes());
        bytes
    }

    /// Reads what [`Self::to_bytes`] wrote, from the beginning of `bytes`.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, FormatError> {
        let mut reader = Reader { rest: bytes };
        if reader.take()? != *MAGIC {
            return Err(FormatError::Damaged("it does not begin as one"));
        }
        let version = u16::from_le_bytes(reader.take()?);
        if version != VERSION {
            return Err(match version > VERSION {
                true => FormatError::Newer(version),
                false => FormatError::Damaged("it has no version"),
            });
        }
        let [kind, parts_log2] = reader.take()?;
        if kind != BINARY_FUSE_8 {
            return Err(FormatError::Damaged("it is of an unknown kind"));
        }
        reader.zero::<4>()?;
        let header = Self {
            archive: ArchiveId::from_bytes(reader.take()?),
            range: FeedRange { first: reader.u64()?, end: reader.u64()? },
            digest_before: Digest::from_bytes(reader.take()?),
            digest_behind: Digest::from_bytes(reader.take()?),
            parts_log2,
        };
        header.check().map(|()| header)
    }
}

/// What stands before the fingerprints of a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PartHead {
    /// Distinct keys.
    pub(crate) keys: u32,
    /// Segments in which a first fingerprint lies.
    pub(crate) segments: u32,
    /// The binary logarithm of fingerprints in a segment.
    pub(crate) segment_log2: u8,
    /// The seed of the fuse filter.
    pub(crate) seed: u64,
}

impl PartHead {
    pub(crate) const fn segment_length(&self) -> u32 {
        1 << self.segment_log2
    }

    /// How many fingerprints follow. A first one lies in one of `segments`, the others in the two behind it.
    pub(crate) fn fingerprints(&self) -> u64 {
        (u64::from(self.segments) + 2) << self.segment_log2
    }

    /// Whether so many fingerprints hold so many keys: fewer cannot, and small parts have up to about 2.5 for each.
    fn check(&self) -> Result<(), FormatError> {
        if self.segment_log2 > SEGMENT_LOG2_MAX || self.segments == 0 {
            return Err(FormatError::Damaged("its segments are none"));
        }
        let (keys, found) = (u64::from(self.keys), self.fingerprints());
        if found < keys || found > 3 * keys + 64 || found > u64::from(u32::MAX) {
            return Err(FormatError::Damaged("a part's fingerprints do not fit its keys"));
        }
        Ok(())
    }

    pub(crate) fn to_bytes(self) -> [u8; PART_HEAD_BYTES] {
        let mut bytes = [0; PART_HEAD_BYTES];
        let mut writer = Writer { rest: &mut bytes };
        writer.put(&self.keys.to_le_bytes());
        writer.put(&self.segments.to_le_bytes());
        writer.put(&[self.segment_log2, 0, 0, 0]);
        writer.put(&self.seed.to_le_bytes());
        bytes
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Result<Self, FormatError> {
        let mut reader = Reader { rest: bytes };
        let (keys, segments) = (u32::from_le_bytes(reader.take()?), u32::from_le_bytes(reader.take()?));
        let [segment_log2] = reader.take()?;
        reader.zero::<3>()?;
        let head = Self { keys, segments, segment_log2, seed: reader.u64()? };
        head.check().map(|()| head)
    }
}

/// What stands behind the parts of a filter of `keys` keys.
pub(crate) fn trailer(keys: u64) -> [u8; FILTER_TRAILER_BYTES] {
    let mut bytes = [0; FILTER_TRAILER_BYTES];
    let mut writer = Writer { rest: &mut bytes };
    writer.put(&keys.to_le_bytes());
    writer.put(END_MAGIC);
    bytes
}

/// How many keys the filter has that ends with `bytes`.
pub fn read_trailer(bytes: &[u8; FILTER_TRAILER_BYTES]) -> Result<u64, FormatError> {
    let mut reader = Reader { rest: bytes };
    let keys = reader.u64()?;
    match reader.take()? == *END_MAGIC {
        true => Ok(keys),
        false => Err(FormatError::Damaged("it does not end as one")),
    }
}

struct Writer<'a> {
    rest: &'a mut [u8],
}

impl Writer<'_> {
    fn put(&mut self, bytes: &[u8]) {
        let (here, rest) = std::mem::take(&mut self.rest).split_at_mut(bytes.len());
        here.copy_from_slice(bytes);
        self.rest = rest;
    }
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], FormatError> {
        let (here, rest) = self.rest.split_first_chunk().ok_or(FormatError::Damaged("it is cut short"))?;
        self.rest = rest;
        Ok(*here)
    }

    fn u64(&mut self) -> Result<u64, FormatError> {
        self.take().map(u64::from_le_bytes)
    }

    fn zero<const N: usize>(&mut self) -> Result<(), FormatError> {
        match self.take::<N>()? == [0; N] {
            true => Ok(()),
            false => Err(FormatError::Damaged("bytes that must be zero are not")),
        }
    }
}
