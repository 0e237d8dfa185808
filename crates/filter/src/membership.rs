//! Asking a filter.
//!
//! Always holds: an opened filter's parts lie within its bytes and one behind the other, so that no question can fail or
//! read elsewhere. Leaves to others: whether the bytes are those that were asked for (their BLAKE3 is the filter's name).

use firn_base::{KEY_BYTES, ObjectKey};
use xorf::{BinaryFuse8Ref, Filter, FilterRef};

use crate::header::{
    FILTER_TRAILER_BYTES, FilterHeader, FormatError, HEADER_BYTES, PART_HEAD_BYTES, PartHead, read_trailer,
};
use crate::key_hash::KeyHasher;

/// Keys that are tried to see how many strangers a filter holds: 64 are expected, and 164 are too many. That many come
/// to a filter that is in order once in 10^23 times.
const PROBES: u64 = 16_384;
const STRANGERS_MAX: u64 = PROBES / 100;

/// Bytes in which the library takes the shape of a part.
const SHAPE_BYTES: usize = 20;

/// A filter over bytes that were read or mapped.
#[derive(Debug, Clone)]
pub struct MembershipFilter<B> {
    header: FilterHeader,
    hasher: KeyHasher,
    keys: u64,
    parts: Vec<Part>,
    bytes: B,
}

#[derive(Debug, Clone)]
struct Part {
    shape: [u8; SHAPE_BYTES],
    begin: usize,
    end: usize,
}

impl<B: AsRef<[u8]>> MembershipFilter<B> {
    /// The filter that `bytes` are, as a whole.
    pub fn open(bytes: B) -> Result<Self, FormatError> {
        let cut = FormatError::Damaged("it is cut short");
        let whole = bytes.as_ref();
        let header = FilterHeader::from_bytes(whole)?;
        let (before, trailer) = whole.split_last_chunk::<FILTER_TRAILER_BYTES>().ok_or(cut.clone())?;
        let keys = read_trailer(trailer)?;
        let count = usize::try_from(header.parts()).map_err(|_| cut.clone())?;
        // Before room is made for them: each has a head at least.
        if before.len() < HEADER_BYTES + count * PART_HEAD_BYTES {
            return Err(cut);
        }
        let (mut at, mut found) = (HEADER_BYTES, 0);
        let mut parts = Vec::with_capacity(count);
        for _ in 0..count {
            let head = PartHead::from_bytes(before.get(at..).unwrap_or_default())?;
            let begin = at + PART_HEAD_BYTES;
            let length = usize::try_from(head.fingerprints()).map_err(|_| cut.clone())?;
            let end = begin.checked_add(length).filter(|end| *end <= before.len()).ok_or(cut.clone())?;
            parts.push(Part { shape: shape(&head), begin, end });
            found += u64::from(head.keys);
            at = end;
        }
        if at != before.len() {
            return Err(FormatError::Damaged("there is more than its parts"));
        }
        if found != keys || keys > header.range.events() {
            return Err(FormatError::Damaged("its keys are not as many as it says"));
        }
        Ok(Self { header, hasher: KeyHasher::new(&header), keys, parts, bytes })
    }

    /// What it is of.
    pub const fn header(&self) -> &FilterHeader {
        &self.header
    }

    /// How many keys were put in.
    pub const fn keys(&self) -> u64 {
        self.keys
    }

    /// Whether `key` may have become visible in the filter's range. No is certain.
    pub fn may_contain(&self, key: &ObjectKey) -> bool {
        let hash = self.hasher.hash(key);
        let part = usize::try_from(hash.part).ok().and_then(|part| self.parts.get(part));
        let found = part.and_then(|part| {
            let fingerprints = self.bytes.as_ref().get(part.begin..part.end)?;
            Some(BinaryFuse8Ref::from_dma(&part.shape, fingerprints).contains(&hash.value))
        });
        // Every hash names a part, and every part lies within the bytes.
        found.unwrap_or(true)
    }

    /// Whether more than 1 % of random keys, drawn from `seed`, are in it: one that is made as it should be holds 0.4 %,
    /// and whoever asks one that holds more asks the coordinators about keys that nobody archived. The seed must be one
    /// that the filter's maker did not know.
    pub fn is_too_dense(&self, seed: &[u8; 32]) -> bool {
        let mut output = blake3::Hasher::new_keyed(seed).finalize_xof();
        let strangers = (0..PROBES).filter(|_| {
            let mut name = [0; KEY_BYTES - 1];
            output.fill(&mut name);
            self.may_contain(&ObjectKey::store_path(name))
        });
        strangers.count() as u64 > STRANGERS_MAX
    }
}

/// The shape of a part as the library reads it: seed, length of a segment, the mask for places in it, and places for
/// a first fingerprint.
fn shape(head: &PartHead) -> [u8; SHAPE_BYTES] {
    let length = head.segment_length();
    let mut shape = [0; SHAPE_BYTES];
    shape[..8].copy_from_slice(&head.seed.to_le_bytes());
    shape[8..12].copy_from_slice(&length.to_le_bytes());
    shape[12..16].copy_from_slice(&(length - 1).to_le_bytes());
    // Within 32 bits: the head was checked.
    shape[16..].copy_from_slice(&head.segments.wrapping_shl(u32::from(head.segment_log2)).to_le_bytes());
    shape
}
