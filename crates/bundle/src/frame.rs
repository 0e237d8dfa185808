//! Frames: groups of chunks compressed together, and the table that says where they lie.
//!
//! Owns: frame entries, and decompressing by them. Always holds: a frame has raw bytes of 4 MiB at most, and a stored
//! frame is never longer than its raw bytes.
//! Leaves to others: which chunks lie in a frame, fetching it, codecs (`codec`) and the choice among them
//! (`frame_compression`).

use std::ops::Range;

use firn_base::Digest;

use crate::chunk_entry::table;
use crate::codec::Codec;
use crate::limits::{FRAME_RAW_BYTES_MAX, PAYLOAD_BYTES_MAX};
use crate::manifest_error::{ManifestError, ManifestPart};
use crate::manifest_header::{FRAME_ENTRY_BYTES, ManifestHeader};

const NO_DICTIONARY: u32 = u32::MAX;

/// Why a frame, or a chunk of it, was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The stored bytes are not as many as the entry says.
    #[error("a frame was given {found} stored bytes where the frame table says {expected}")]
    StoredLength {
        /// What the frame table says.
        expected: u32,
        /// What came.
        found: usize,
    },
    /// The stored bytes do not decompress to the raw length of the entry.
    #[error("a frame does not decompress to the {0} bytes that the frame table says")]
    Decompress(u32),
    /// A chunk lies behind the end of its frame.
    #[error("a chunk lies behind the end of its frame {frame}")]
    ChunkOutside {
        /// The frame.
        frame: u32,
    },
    /// A chunk does not have its hash.
    #[error("a chunk does not have the hash {0} that the manifest gives")]
    ChunkHash(Digest),
}

/// Where a frame lies and how it is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameEntry {
    /// Where in the payload it begins.
    pub payload_offset: u64,
    /// Bytes in the payload.
    pub stored_bytes: u32,
    /// Bytes decompressed.
    pub raw_bytes: u32,
    /// How it is stored.
    pub codec: Codec,
}

impl FrameEntry {
    /// Reads entries of the frame table of the manifest that `header` begins; `first` is the number of the first of
    /// them, for errors, and `frames_end` where the manifest begins in the payload.
    pub fn parse_table(
        bytes: &[u8],
        first: u32,
        header: &ManifestHeader,
        frames_end: u64,
    ) -> Result<Vec<Self>, ManifestError> {
        let frames_end = frames_end.min(PAYLOAD_BYTES_MAX);
        table(bytes, ManifestPart::FrameTable, FRAME_ENTRY_BYTES, first, |cursor, place| {
            let truncated = place.truncated();
            let payload_offset = cursor.u64().map_err(truncated)?;
            let stored_bytes = cursor.u32().map_err(truncated)?;
            let raw_bytes = cursor.u32().map_err(truncated)?;
            let codec = cursor.u8().map_err(truncated)?;
            let reserved: [u8; 3] = cursor.array().map_err(truncated)?;
            if cursor.u32().map_err(truncated)? != NO_DICTIONARY {
                return Err(ManifestError::Dictionary(place.number));
            }
            let codec = Codec::from_byte(codec).ok_or(place.refuse("its codec is unknown"))?;
            if !header.version.has(codec) {
                return Err(place.refuse("its codec came with a later version than the manifest's"));
            }
            if reserved != [0; 3] {
                return Err(place.refuse("reserved bytes are not zero"));
            }
            if !(1..=FRAME_RAW_BYTES_MAX).contains(&raw_bytes) {
                return Err(place.refuse("the frame is empty or larger than 4 MiB"));
            }
            if !codec.lengths_agree(stored_bytes, raw_bytes) {
                return Err(place.refuse("its stored bytes do not fit its codec"));
            }
            match payload_offset.checked_add(stored_bytes.into()) {
                Some(end) if end <= frames_end => {}
                _ => return Err(place.refuse("the frame does not lie before the manifest")),
            }
            Ok(Self { payload_offset, stored_bytes, raw_bytes, codec })
        })
    }

    pub(crate) fn put(&self, target: &mut Vec<u8>) {
        target.extend_from_slice(&self.payload_offset.to_le_bytes());
        target.extend_from_slice(&self.stored_bytes.to_le_bytes());
        target.extend_from_slice(&self.raw_bytes.to_le_bytes());
        target.extend_from_slice(&[self.codec as u8, 0, 0, 0]);
        target.extend_from_slice(&NO_DICTIONARY.to_le_bytes());
    }

    /// Where the frame lies in the payload.
    pub fn payload_extent(&self) -> Range<u64> {
        self.payload_offset..self.payload_offset + u64::from(self.stored_bytes)
    }
}

/// Chunks laid end to end, to be compressed: what a builder hands out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PendingFrame {
    /// Its number in the bundle; frames are appended in this order.
    pub number: u32,
    /// The chunks.
    pub raw: Vec<u8>,
}

/// A frame as it will be stored: what a builder takes back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompressedFrame {
    /// Its number in the bundle.
    pub number: u32,
    /// Bytes before compression.
    pub raw_bytes: u32,
    /// How it is stored.
    pub codec: Codec,
    /// The bytes to store.
    pub stored: Vec<u8>,
}

/// The raw bytes of a frame. Chunks cut out of it are checked by [`crate::ChunkEntry::cut`].
pub fn decompress_frame(stored: &[u8], entry: &FrameEntry) -> Result<Vec<u8>, FrameError> {
    if u32::try_from(stored.len()) != Ok(entry.stored_bytes) {
        return Err(FrameError::StoredLength { expected: entry.stored_bytes, found: stored.len() });
    }
    entry.codec.decompress(stored, entry.raw_bytes).ok_or(FrameError::Decompress(entry.raw_bytes))
}
