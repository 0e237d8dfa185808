//! Frames: groups of chunks compressed together, and the table that says where they lie.
//!
//! Owns: frame entries, compressing and decompressing. Always holds: decompressing allocates no more than the
//! raw bytes of the entry, 4 MiB at most, and a stored frame is never longer than its raw bytes.
//! Leaves to others: which chunks lie in a frame, fetching it.

use std::io;
use std::ops::Range;

use firn_base::Digest;

use crate::chunk_entry::table;
use crate::limits::{FRAME_RAW_BYTES_MAX, PAYLOAD_BYTES_MAX};
use crate::manifest_error::{ManifestError, ManifestPart};
use crate::manifest_header::FRAME_ENTRY_BYTES;

const NO_DICTIONARY: u32 = u32::MAX;

/// How a frame or a block of records is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Codec {
    /// As it is.
    Stored = 0,
    /// As one zstd frame.
    Zstd = 1,
}

impl Codec {
    pub(crate) const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            0 => Some(Self::Stored),
            1 => Some(Self::Zstd),
            _ => None,
        }
    }
}

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
    /// Reads entries of the frame table; `first` is the number of the first of them, for errors, and
    /// `frames_end` where the manifest begins in the payload.
    pub fn parse_table(bytes: &[u8], first: u32, frames_end: u64) -> Result<Vec<Self>, ManifestError> {
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
            if reserved != [0; 3] {
                return Err(place.refuse("reserved bytes are not zero"));
            }
            if !(1..=FRAME_RAW_BYTES_MAX).contains(&raw_bytes) {
                return Err(place.refuse("the frame is empty or larger than 4 MiB"));
            }
            if !lengths_agree(codec, stored_bytes, raw_bytes) {
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

/// Compression that does not shrink is not used, so a compressed length is below the raw one.
pub(crate) const fn lengths_agree(codec: Codec, stored: u32, raw: u32) -> bool {
    match codec {
        Codec::Stored => stored == raw,
        Codec::Zstd => stored > 0 && stored < raw,
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

/// Compresses a frame, on any thread; the same frame and level give the same bytes with one version of zstd.
///
/// # Errors
/// Only if zstd cannot allocate or does not know the level.
pub fn compress_frame(frame: PendingFrame, level: i32) -> io::Result<CompressedFrame> {
    let raw_bytes = u32::try_from(frame.raw.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let (codec, stored) = compress(frame.raw, level)?;
    Ok(CompressedFrame { number: frame.number, raw_bytes, codec, stored })
}

/// Compresses, or gives the bytes back where that does not shrink them.
pub(crate) fn compress(raw: Vec<u8>, level: i32) -> io::Result<(Codec, Vec<u8>)> {
    let compressed = zstd::bulk::compress(&raw, level)?;
    Ok(if compressed.len() < raw.len() { (Codec::Zstd, compressed) } else { (Codec::Stored, raw) })
}

/// The raw bytes of a frame. Chunks cut out of it are checked by [`crate::ChunkEntry::cut`].
pub fn decompress_frame(stored: &[u8], entry: &FrameEntry) -> Result<Vec<u8>, FrameError> {
    if u32::try_from(stored.len()) != Ok(entry.stored_bytes) {
        return Err(FrameError::StoredLength { expected: entry.stored_bytes, found: stored.len() });
    }
    decompress(stored, entry.codec, entry.raw_bytes).ok_or(FrameError::Decompress(entry.raw_bytes))
}

/// Exactly `raw_bytes` bytes, or none. Allocates that many.
pub(crate) fn decompress(stored: &[u8], codec: Codec, raw_bytes: u32) -> Option<Vec<u8>> {
    let length = usize::try_from(raw_bytes).ok()?;
    let raw = match codec {
        Codec::Stored => stored.to_vec(),
        Codec::Zstd => zstd::bulk::decompress(stored, length).ok()?,
    };
    (raw.len() == length).then_some(raw)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_compressed_only_where_that_shrinks_it() {
        let zeros = compress_frame(PendingFrame { number: 3, raw: vec![0; 5000] }, 3).unwrap();
        assert_eq!((zeros.number, zeros.raw_bytes, zeros.codec), (3, 5000, Codec::Zstd));
        let short = compress_frame(PendingFrame { number: 0, raw: vec![1, 2, 3] }, 3).unwrap();
        assert_eq!((short.codec, short.stored), (Codec::Stored, vec![1, 2, 3]));
    }

    #[test]
    fn a_frame_that_decompresses_to_more_than_its_entry_says_is_refused() {
        let bomb = compress_frame(PendingFrame { number: 0, raw: vec![0; 4 << 20] }, 3).unwrap();
        let stored_bytes = u32::try_from(bomb.stored.len()).unwrap();
        let entry = FrameEntry { payload_offset: 0, stored_bytes, raw_bytes: 5000, codec: Codec::Zstd };
        assert_eq!(decompress_frame(&bomb.stored, &entry), Err(FrameError::Decompress(5000)));
        let whole = FrameEntry { raw_bytes: 4 << 20, ..entry };
        assert_eq!(decompress_frame(&bomb.stored, &whole), Ok(vec![0; 4 << 20]));
    }
}
