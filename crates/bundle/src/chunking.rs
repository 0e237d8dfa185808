//! Content-defined chunking of a stream: FastCDC over bytes that come in any pieces.
//!
//! Owns: where chunks end. Always holds: the chunks of equal streams with equal borders are equal whatever the pieces
//! they came in; memory is 1 MiB. Leaves to others: hashing, deduplication, where borders are.

use fastcdc::v2020::{Normalization, cut, select_masks};

/// Shortest chunk but the last of an object and that before a border: below it the 44 bytes of its table entry weigh
/// too much.
pub const CHUNKER_MIN_BYTES: usize = 16 << 10;

/// Chunk length aimed at. With reference patches, 64 KiB store 6 % more than 16 KiB (34.0 and 32.1 MB of our
/// test set in frames of 1 MiB) and have a quarter of the entries.
pub const CHUNKER_AVERAGE_BYTES: usize = 64 << 10;

/// Longest chunk, where nothing in the content suggests an end.
pub const CHUNKER_MAX_BYTES: usize = 256 << 10;

/// Content below which a file within a NAR does not begin a chunk: smaller ones stay together with their neighbours, as
/// a chunk of their own would be too short for its entry.
pub const BORDERED_FILE_BYTES_MIN: u64 = CHUNKER_MIN_BYTES as u64;

/// What lies before a border is no chunk of its own if it is shorter: the beginning of a NAR, with a few names.
pub const BEFORE_BORDER_BYTES_MIN: usize = 4 << 10;

// A few chunks, so that moving the rest to the front costs little.
const BUFFER_BYTES: usize = 4 * CHUNKER_MAX_BYTES;

/// Cuts one object after another into chunks.
#[derive(Debug)]
pub struct Chunker {
    buffer: Vec<u8>,
    // Bytes of the buffer that were emitted already.
    emitted: usize,
    mask_short: u64,
    mask_long: u64,
}

impl Default for Chunker {
    fn default() -> Self {
        let (mask_short, mask_long) = select_masks(CHUNKER_AVERAGE_BYTES, Normalization::Level1);
        Self { buffer: Vec::with_capacity(BUFFER_BYTES), emitted: 0, mask_short, mask_long }
    }
}

impl Chunker {
    /// A chunker at the beginning of an object.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next bytes of the object and gives `emit` each chunk that is complete.
    ///
    /// An error of `emit` ends the object: call [`Self::reset`] before the next one.
    pub fn push<E>(
        &mut self,
        mut bytes: &[u8],
        mut emit: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        while !bytes.is_empty() {
            let room = BUFFER_BYTES - self.buffer.len();
            let (piece, rest) = bytes.split_at(room.min(bytes.len()));
            self.buffer.extend_from_slice(piece);
            bytes = rest;
            // A cut depends on at most the longest chunk's bytes, so with that many its place is final.
            while self.buffer.len() - self.emitted >= CHUNKER_MAX_BYTES {
                self.emit_one(&mut emit)?;
            }
            if self.buffer.len() == BUFFER_BYTES {
                self.buffer.drain(..self.emitted);
                self.emitted = 0;
            }
        }
        Ok(())
    }

    /// Says that something begins here that may begin elsewhere too, and gives `emit` what comes before: the next byte
    /// begins a chunk, unless that before it would be shorter than [`BEFORE_BORDER_BYTES_MIN`].
    pub fn border<E>(&mut self, mut emit: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        while self.buffer.len() - self.emitted >= BEFORE_BORDER_BYTES_MIN {
            self.emit_one(&mut emit)?;
        }
        Ok(())
    }

    /// Gives `emit` what is left of the object; the next byte pushed begins another.
    pub fn finish<E>(&mut self, mut emit: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        while self.buffer.len() > self.emitted {
            self.emit_one(&mut emit)?;
        }
        self.reset();
        Ok(())
    }

    /// Forgets what was pushed of the object.
    pub fn reset(&mut self) {
        self.buffer.clear();
        self.emitted = 0;
    }

    fn emit_one<E>(&mut self, emit: &mut impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        let source = &self.buffer[self.emitted..];
        let (_, length) = cut(
            source,
            CHUNKER_MIN_BYTES,
            CHUNKER_AVERAGE_BYTES,
            CHUNKER_MAX_BYTES,
            self.mask_short,
            self.mask_long,
            self.mask_short << 1,
            self.mask_long << 1,
        );
        emit(&source[..length])?;
        self.emitted += length;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use proptest::prelude::*;

    use super::*;

    fn noise(bytes: usize, seed: u64) -> Vec<u8> {
        let mut reader = blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof();
        let mut noise = vec![0; bytes];
        reader.fill(&mut noise);
        noise
    }

    fn chunks(object: &[u8], piece: usize) -> Vec<Vec<u8>> {
        let mut chunks = Vec::new();
        let mut chunker = Chunker::new();
        let mut keep = |chunk: &[u8]| {
            chunks.push(chunk.to_vec());
            Ok::<(), Infallible>(())
        };
        for part in object.chunks(piece) {
            let Ok(()) = chunker.push(part, &mut keep);
        }
        let Ok(()) = chunker.finish(&mut keep);
        chunks
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        #[test]
        fn chunks_are_the_same_whatever_the_pieces(
            bytes in 0usize..3_000_000, seed in any::<u64>(), piece in 1usize..2_000_000,
        ) {
            let object = noise(bytes, seed);
            let whole = chunks(&object, usize::MAX);
            prop_assert_eq!(&chunks(&object, piece), &whole);
            prop_assert_eq!(whole.concat(), object);
            let (_, all_but_last) = whole.split_last().map_or((None, &[][..]), |(last, rest)| (Some(last), rest));
            for chunk in all_but_last {
                prop_assert!((CHUNKER_MIN_BYTES..=CHUNKER_MAX_BYTES).contains(&chunk.len()));
            }
        }
    }

    /// Chunks of an object with borders at these places.
    fn bordered(object: &[u8], borders: &[usize], piece: usize) -> Vec<Vec<u8>> {
        let mut chunks = Vec::new();
        let mut chunker = Chunker::new();
        let mut keep = |chunk: &[u8]| {
            chunks.push(chunk.to_vec());
            Ok::<(), Infallible>(())
        };
        let mut from = 0;
        for border in borders {
            for part in object[from..*border].chunks(piece) {
                let Ok(()) = chunker.push(part, &mut keep);
            }
            let Ok(()) = chunker.border(&mut keep);
            from = *border;
        }
        for part in object[from..].chunks(piece) {
            let Ok(()) = chunker.push(part, &mut keep);
        }
        let Ok(()) = chunker.finish(&mut keep);
        chunks
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        #[test]
        fn chunks_with_borders_are_the_same_whatever_the_pieces(
            gaps in prop::collection::vec(0usize..400_000, 0..8), seed in any::<u64>(), piece in 1000usize..900_000,
        ) {
            let borders: Vec<usize> = gaps
                .iter()
                .scan(0, |sum, gap| {
                    *sum += gap;
                    Some(*sum)
                })
                .collect();
            let object = noise(borders.last().unwrap_or(&0) + 100_000, seed);
            let whole = bordered(&object, &borders, usize::MAX);
            prop_assert_eq!(&bordered(&object, &borders, piece), &whole);
            prop_assert_eq!(whole.concat(), object);
            let mut end = 0;
            for chunk in whole.split_last().map_or(&[][..], |(_, rest)| rest) {
                end += chunk.len();
                let bytes_min =
                    if borders.contains(&end) { BEFORE_BORDER_BYTES_MIN } else { CHUNKER_MIN_BYTES };
                prop_assert!((bytes_min..=CHUNKER_MAX_BYTES).contains(&chunk.len()));
            }
        }
    }

    #[test]
    fn what_follows_a_border_has_the_same_chunks_whatever_comes_before() {
        let file = noise(500_000, 1);
        let alone = chunks(&file, usize::MAX);
        for before in [BEFORE_BORDER_BYTES_MIN, 30_000, 1_000_000] {
            let object = [noise(before, 2), file.clone()].concat();
            assert!(bordered(&object, &[before], 9999).ends_with(&alone), "{before}");
        }
        let little = BEFORE_BORDER_BYTES_MIN - 1;
        let object = [noise(little, 2), file.clone()].concat();
        assert!(bordered(&object, &[little], 9999)[0].len() > little);
    }

    #[test]
    fn an_insertion_changes_few_chunks() {
        let object = noise(4_000_000, 1);
        let mut changed = object.clone();
        changed.splice(2_000_000..2_000_000, [1, 2, 3]);
        let (before, after) = (chunks(&object, 10_000), chunks(&changed, 10_000));
        let kept = after.iter().filter(|chunk| before.contains(chunk)).count();
        assert!(kept + 4 >= before.len(), "{kept} of {} chunks kept", before.len());
    }

    #[test]
    fn bytes_that_never_suggest_an_end_are_cut_at_the_maximum() {
        let lengths: Vec<_> = chunks(&vec![0; 600_000], 1000).iter().map(Vec::len).collect();
        assert_eq!(lengths, [CHUNKER_MAX_BYTES, CHUNKER_MAX_BYTES, 600_000 - 2 * CHUNKER_MAX_BYTES]);
    }
}
