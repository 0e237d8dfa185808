//! How frames and blocks of records are stored, and getting them back.
//!
//! Owns: the codec bytes. Always holds: decompressing gives exactly the raw bytes asked for or nothing, and allocates
//! no more than these and what the decoder itself takes: a dictionary of as many bytes at most. Leaves to others: which
//! codec is chosen (`frame_compression`), what came out (chunk hashes).

use std::io;

use crate::lzma;

/// How a frame or a block of records is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Codec {
    /// As it is.
    Stored = 0,
    /// As one zstd frame.
    Zstd = 1,
    /// As a raw LZMA2 stream.
    Lzma = 2,
    /// The same, behind the filter for x86 code.
    LzmaX86 = 3,
}

impl Codec {
    pub(crate) const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            0 => Some(Self::Stored),
            1 => Some(Self::Zstd),
            2 => Some(Self::Lzma),
            3 => Some(Self::LzmaX86),
            _ => None,
        }
    }

    /// Whether the first version of manifests has it; blocks of records have no other.
    pub(crate) const fn is_of_version_1(self) -> bool {
        matches!(self, Self::Stored | Self::Zstd)
    }

    /// Compression that does not shrink is not used, so a compressed length is below the raw one.
    pub(crate) const fn lengths_agree(self, stored: u32, raw: u32) -> bool {
        match self {
            Self::Stored => stored == raw,
            Self::Zstd | Self::Lzma | Self::LzmaX86 => stored > 0 && stored < raw,
        }
    }

    /// Exactly `raw_bytes` bytes, or none. Allocates that many, and for LZMA as many again until it returns.
    pub(crate) fn decompress(self, stored: &[u8], raw_bytes: u32) -> Option<Vec<u8>> {
        let length = usize::try_from(raw_bytes).ok()?;
        let raw = match self {
            Self::Stored => stored.to_vec(),
            Self::Zstd => zstd::bulk::decompress(stored, length).ok()?,
            Self::Lzma => lzma::decompress(stored, false, raw_bytes)?,
            Self::LzmaX86 => lzma::decompress(stored, true, raw_bytes)?,
        };
        (raw.len() == length).then_some(raw)
    }
}

/// Compresses, or gives the bytes back where that does not shrink them.
pub(crate) fn compress_zstd(raw: Vec<u8>, level: i32) -> io::Result<(Codec, Vec<u8>)> {
    let compressed = zstd::bulk::compress(&raw, level)?;
    Ok(if compressed.len() < raw.len() { (Codec::Zstd, compressed) } else { (Codec::Stored, raw) })
}
