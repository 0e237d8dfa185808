//! What a frame is compressed with: a choice between bytes that are kept for ever and work that is done once.
//!
//! Owns: the choice, how it is written in a flag, and carrying it out. Always holds: one choice makes equal bytes of equal
//! frames (with one version of the compressor), on whatever thread. Leaves to others: how large frames are, reading them
//! (`codec`).

use std::fmt;
use std::io;
use std::str::FromStr;

use crate::codec::{Codec, compress_zstd};
use crate::frame::{CompressedFrame, PendingFrame};
use crate::lzma;

/// What frames are compressed with. As text: `zstd`, `lzma`, or with a level, `zstd:19`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameCompression {
    /// zstd, of this level: 1 to 22.
    Zstd(i32),
    /// LZMA as in `.xz` files, of this level: 0 to 6; behind the filter for x86 code where that makes the frame smaller.
    Lzma(u32),
}

/// A text that names no compression of frames.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "\"{0}\" is no compression of frames: write zstd or lzma, or one with its level, from zstd:1 to zstd:22 or lzma:0 to lzma:6"
)]
pub struct FrameCompressionError(String);

impl FrameCompression {
    /// What is quick.
    ///
    /// Frames of 1 MiB of programs, manuals and scripts: level 3 gives 2.7 % more bytes at 3.6 times the speed, level 9
    /// 0.5 % fewer at two thirds (92 MB/s), and xz in front of a publish gives 70 MB/s.
    pub const ZSTD: Self = Self::Zstd(6);

    /// What is small.
    pub const LZMA: Self = Self::Lzma(6);

    /// Raw bytes of a frame that suit it.
    pub const fn frame_bytes(self) -> u32 {
        match self {
            // Beyond 1 MiB, 4 MiB saves 5 % of our test set, and one small object then costs four times the
            // decompression.
            Self::Zstd(_) => 1 << 20,
            Self::Lzma(_) => 2 << 20,
        }
    }
}

impl Default for FrameCompression {
    fn default() -> Self {
        Self::ZSTD
    }
}

impl FromStr for FrameCompression {
    type Err = FrameCompressionError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, level) = text.split_once(':').map_or((text, None), |(name, level)| (name, Some(level)));
        match (name, level) {
            ("zstd", None) => Some(Self::ZSTD),
            ("lzma", None) => Some(Self::LZMA),
            ("zstd", Some(level)) => {
                level.parse().ok().filter(|level| (1..=22).contains(level)).map(Self::Zstd)
            }
            ("lzma", Some(level)) => {
                level.parse().ok().filter(|level| (0..=lzma::LEVEL_MAX).contains(level)).map(Self::Lzma)
            }
            _ => None,
        }
        .ok_or_else(|| FrameCompressionError(text.to_owned()))
    }
}

impl fmt::Display for FrameCompression {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Zstd(level) => write!(formatter, "zstd:{level}"),
            Self::Lzma(level) => write!(formatter, "lzma:{level}"),
        }
    }
}

/// Compresses a frame, on any thread; the same frame and choice give the same bytes with one version of the compressor.
///
/// # Errors
/// Only if the compressor cannot allocate or does not know the level.
pub fn compress_frame(frame: PendingFrame, compression: FrameCompression) -> io::Result<CompressedFrame> {
    let raw_bytes = u32::try_from(frame.raw.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let (codec, stored) = match compression {
        FrameCompression::Zstd(level) => compress_zstd(frame.raw, level)?,
        FrameCompression::Lzma(level) => compress_lzma(frame.raw, level)?,
    };
    Ok(CompressedFrame { number: frame.number, raw_bytes, codec, stored })
}

/// Compresses, or gives the bytes back where that does not shrink them.
fn compress_lzma(raw: Vec<u8>, level: u32) -> io::Result<(Codec, Vec<u8>)> {
    let x86 = is_smaller_filtered(&raw)?;
    if x86 && let Some(stored) = lzma::compress(&raw, true, level)? {
        return Ok((Codec::LzmaX86, stored));
    }
    let stored = lzma::compress(&raw, false, level)?;
    Ok(stored.map_or((Codec::Stored, raw), |stored| (Codec::Lzma, stored)))
}

/// Whether a sample of the frame comes out smaller behind the filter, at the quickest level.
fn is_smaller_filtered(raw: &[u8]) -> io::Result<bool> {
    let sample: Vec<u8> = raw.chunks(SAMPLE_BYTES).step_by(SAMPLES_EVERY).flatten().copied().collect();
    let bytes = |x86| Ok(lzma::compress(&sample, x86, LEVEL_OF_TRIALS)?.map_or(sample.len(), |it| it.len()));
    let (plain, filtered): (io::Result<usize>, io::Result<usize>) = (bytes(false), bytes(true));
    Ok(filtered? < plain?)
}

// Long enough for functions to be called from many places: the filter shows only where addresses come again.
const SAMPLE_BYTES: usize = 256 << 10;
const SAMPLES_EVERY: usize = 4;

const LEVEL_OF_TRIALS: u32 = 0;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{FrameEntry, FrameError, decompress_frame};
    use crate::lzma::tests::code;

    fn compressed(raw: &[u8], compression: FrameCompression) -> CompressedFrame {
        compress_frame(PendingFrame { number: 3, raw: raw.to_vec() }, compression).unwrap()
    }

    fn entry(frame: &CompressedFrame) -> FrameEntry {
        let stored_bytes = u32::try_from(frame.stored.len()).unwrap();
        FrameEntry { payload_offset: 0, stored_bytes, raw_bytes: frame.raw_bytes, codec: frame.codec }
    }

    #[test]
    fn a_frame_is_compressed_only_where_that_shrinks_it() {
        for (compression, codec) in
            [(FrameCompression::ZSTD, Codec::Zstd), (FrameCompression::LZMA, Codec::Lzma)]
        {
            let zeros = compressed(&[0; 5000], compression);
            assert_eq!((zeros.number, zeros.raw_bytes, zeros.codec), (3, 5000, codec));
            let short = compressed(&[1, 2, 3], compression);
            assert_eq!((short.codec, short.stored), (Codec::Stored, vec![1, 2, 3]));
        }
    }

    #[test]
    fn lzma_takes_the_filter_for_code_and_none_for_text() {
        let text =
            b"for file in *.nix; do nix-instantiate --parse \"$file\" > /dev/null; done\n".repeat(20_000);
        for (raw, codec) in [(text, Codec::Lzma), (code(100_000), Codec::LzmaX86)] {
            let frame = compressed(&raw, FrameCompression::Lzma(1));
            assert_eq!(frame.codec, codec);
            assert_eq!(decompress_frame(&frame.stored, &entry(&frame)), Ok(raw));
        }
    }

    #[test]
    fn a_frame_that_decompresses_to_more_than_its_entry_says_is_refused() {
        for compression in [FrameCompression::Zstd(3), FrameCompression::Lzma(0)] {
            let bomb = compressed(&vec![0; 4 << 20], compression);
            let lie = FrameEntry { raw_bytes: 5000, ..entry(&bomb) };
            assert_eq!(decompress_frame(&bomb.stored, &lie), Err(FrameError::Decompress(5000)));
            assert_eq!(decompress_frame(&bomb.stored, &entry(&bomb)), Ok(vec![0; 4 << 20]));
        }
    }

    #[test]
    fn a_choice_is_read_as_it_is_written() {
        for (text, choice) in [
            ("zstd", FrameCompression::ZSTD),
            ("lzma", FrameCompression::LZMA),
            ("zstd:19", FrameCompression::Zstd(19)),
            ("lzma:5", FrameCompression::Lzma(5)),
            ("lzma:0", FrameCompression::Lzma(0)),
        ] {
            assert_eq!(text.parse(), Ok(choice));
            assert_eq!(choice.to_string().parse(), Ok(choice));
        }
        for text in ["", "xz", "zstd:0", "zstd:23", "zstd:-3", "lzma:7", "lzma:", "lzma:6:6", " lzma"] {
            assert!(text.parse::<FrameCompression>().is_err(), "{text}");
        }
    }
}
