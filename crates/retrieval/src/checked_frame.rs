//! A decompressed frame, and which of its chunks were found right.
//!
//! Always holds: a chunk counts as right only if its hash was computed over these very bytes, which nobody writes to, and
//! not for ever: memory can fail; what is remembered of a frame is bounded by its length. Leaves to others: what a wrong
//! chunk means.

use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use firn_bundle::{ChunkEntry, FrameError};

// Chunks are cut at 16 KiB and more, but for whole small objects. Of a frame of ever so many small ones, some are hashed
// at every cut.
const BYTES_PER_CHUNK: usize = 4 << 10;

// A bit that turned over in memory is not served until the frame falls out of it. To hash at every 256th reading costs
// 1/256 of hashing at each.
const READINGS_PER_CHECK: u32 = 256;

/// A frame as it is remembered.
#[derive(Debug)]
pub(crate) struct CheckedFrame {
    bytes: Bytes,
    /// By their places.
    right: Mutex<Vec<ChunkEntry>>,
    /// How often it was read from memory.
    readings: AtomicU32,
}

impl CheckedFrame {
    /// A frame of which nothing was checked.
    pub(crate) const fn new(bytes: Bytes) -> Self {
        Self { bytes, right: Mutex::new(Vec::new()), readings: AtomicU32::new(0) }
    }

    /// Its bytes.
    pub(crate) const fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Bytes of memory that it takes at most.
    pub(crate) fn weight(&self) -> usize {
        self.bytes.len().saturating_add(self.right_max() * size_of::<ChunkEntry>())
    }

    /// Whether all of these chunks, which are to be read, were found right before. Now and then that is forgotten.
    pub(crate) fn are_right<'a>(&self, mut chunks: impl Iterator<Item = &'a ChunkEntry>) -> bool {
        let mut right = self.right();
        if self.readings.fetch_add(1, Ordering::Relaxed) % READINGS_PER_CHECK == READINGS_PER_CHECK - 1 {
            right.clear();
        }
        chunks.all(|chunk| find(&right, chunk).is_ok())
    }

    /// Where in the frame the chunk lies. Its hash is checked unless it was found right before.
    ///
    /// # Errors
    /// The frame does not have it, or holds other bytes there.
    pub(crate) fn place(&self, chunk: &ChunkEntry) -> Result<Range<usize>, FrameError> {
        if find(&self.right(), chunk).is_err() {
            // Not under the lock: others cut other chunks meanwhile.
            chunk.cut(&self.bytes)?;
            let mut right = self.right();
            if right.len() < self.right_max()
                && let Err(place) = find(&right, chunk)
            {
                right.insert(place, *chunk);
            }
        }
        // It lies within the frame, which is in memory.
        let index = |offset: u32| usize::try_from(offset).expect("a frame fits in memory");
        Ok(index(chunk.offset)..index(chunk.offset) + index(chunk.length))
    }

    /// How often it was read from memory.
    #[cfg(test)]
    pub(crate) fn readings(&self) -> u32 {
        self.readings.load(Ordering::Relaxed)
    }

    fn right(&self) -> MutexGuard<'_, Vec<ChunkEntry>> {
        self.right.lock().unwrap_or_else(PoisonError::into_inner)
    }

    const fn right_max(&self) -> usize {
        self.bytes.len() / BYTES_PER_CHUNK + 1
    }
}

/// Where the chunk is among those, or would be.
fn find(right: &[ChunkEntry], chunk: &ChunkEntry) -> Result<usize, usize> {
    let order = |entry: &ChunkEntry| (entry.offset, entry.length, *entry.hash.as_bytes());
    right.binary_search_by_key(&order(chunk), order)
}

#[cfg(test)]
mod tests {
    use firn_base::Digest;

    use super::*;

    fn chunk(frame: &[u8], offset: u32, length: u32) -> ChunkEntry {
        let bytes = &frame[offset as usize..(offset + length) as usize];
        ChunkEntry { frame: 0, offset, length, hash: Digest::from_bytes(*blake3::hash(bytes).as_bytes()) }
    }

    #[test]
    fn a_chunk_is_right_for_its_place_length_and_hash_alone() {
        let bytes: Vec<u8> = (0..=255).collect();
        let frame = CheckedFrame::new(Bytes::from(bytes.clone()));
        let right = chunk(&bytes, 10, 20);
        assert!(!frame.are_right([right].iter()));
        assert_eq!(frame.place(&right).unwrap(), 10..30);
        assert!(frame.are_right([right].iter()));
        let wrong = [
            ChunkEntry { offset: 11, ..right },
            ChunkEntry { length: 19, ..right },
            ChunkEntry { hash: Digest::from_bytes([0; 32]), ..right },
            ChunkEntry { offset: 250, ..right },
        ];
        for wrong in wrong {
            assert!(!frame.are_right([right, wrong].iter()));
            assert!(frame.place(&wrong).is_err() && frame.place(&wrong).is_err(), "{wrong:?}");
        }
        assert_eq!(frame.place(&right).unwrap(), 10..30);
    }

    #[test]
    fn what_was_found_right_is_not_hashed_again_but_at_every_256th_reading() {
        let mut bytes: Vec<u8> = (0..=255).collect();
        let right = chunk(&bytes, 10, 20);
        let frame = CheckedFrame::new(Bytes::from(bytes.clone()));
        frame.place(&right).unwrap();
        // One bit turns over in memory.
        bytes[15] ^= 1;
        let frame = CheckedFrame { bytes: Bytes::from(bytes), ..frame };
        for _ in 1..256 {
            assert!(frame.are_right([right].iter()));
            assert_eq!(frame.place(&right).unwrap(), 10..30);
        }
        for _ in 0..2 {
            assert!(!frame.are_right([right].iter()));
            assert!(frame.place(&right).is_err());
        }
    }

    #[test]
    fn what_is_remembered_of_many_small_chunks_is_bounded_and_all_are_found() {
        let bytes: Vec<u8> = (0..20_000u32).flat_map(u32::to_le_bytes).collect();
        let frame = CheckedFrame::new(Bytes::from(bytes.clone()));
        for offset in (0..80_000).step_by(4) {
            assert_eq!(frame.place(&chunk(&bytes, offset, 4)).unwrap().start, offset as usize);
        }
        assert!(frame.right().len() * size_of::<ChunkEntry>() <= frame.weight() - bytes.len());
        assert_eq!(frame.place(&chunk(&bytes, 79_996, 4)).unwrap(), 79_996..80_000);
    }
}
