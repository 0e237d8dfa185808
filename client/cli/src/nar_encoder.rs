//! Compressing NARs on their way into files.
//!
//! Always holds: what is written here `firn_nix_format::decoder` reads back; memory is that of one encoder, at most
//! 100 MB, whatever the length. Leaves to others: which compression is wanted, and naming the file.

use std::fmt;
use std::io::{self, Write};

use firn_nix_format::{Compression, Recipe, RecipeEncoder};

/// What zstd calls its default: as fast as most disks.
const ZSTD_LEVEL: i32 = 3;

/// How a NAR is compressed here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NarCompression {
    /// Not at all.
    None,
    /// Zstandard.
    Zstd,
    /// As this recipe makes published files.
    Recipe(Recipe),
}

impl NarCompression {
    /// What the public cache wrote for ten years.
    pub(crate) const XZ: Self = Self::Recipe(Recipe::Xz6);
}

impl From<NarCompression> for Compression {
    fn from(compression: NarCompression) -> Self {
        match compression {
            NarCompression::None => Self::None,
            NarCompression::Zstd => Self::Zstd,
            NarCompression::Recipe(recipe) => recipe.compression(),
        }
    }
}

/// A writer that compresses into another one. What it was given is there only after [`Encoder::finish`].
pub(crate) struct Encoder<W: Write> {
    inner: Inner<W>,
}

enum Inner<W: Write> {
    None(W),
    Recipe(RecipeEncoder<W>),
    Zstd(zstd::stream::write::Encoder<'static, W>),
}

impl<W: Write> Encoder<W> {
    /// Compresses as `compression` says, into `file`.
    ///
    /// # Errors
    /// When no encoder can be made for want of memory.
    pub(crate) fn new(compression: NarCompression, file: W) -> io::Result<Self> {
        let inner = match compression {
            NarCompression::None => Inner::None(file),
            NarCompression::Recipe(recipe) => Inner::Recipe(RecipeEncoder::new(recipe, file)?),
            NarCompression::Zstd => {
                let mut encoder = zstd::stream::write::Encoder::new(file, ZSTD_LEVEL)?;
                encoder.include_checksum(true)?;
                Inner::Zstd(encoder)
            }
        };
        Ok(Self { inner })
    }

    /// The writer below.
    pub(crate) fn file(&self) -> &W {
        match &self.inner {
            Inner::None(file) => file,
            Inner::Recipe(encoder) => encoder.file(),
            Inner::Zstd(encoder) => encoder.get_ref(),
        }
    }

    /// Writes what is left, and gives the writer below back.
    pub(crate) fn finish(self) -> io::Result<W> {
        match self.inner {
            Inner::None(file) => Ok(file),
            Inner::Recipe(encoder) => encoder.finish(),
            Inner::Zstd(encoder) => encoder.finish(),
        }
    }
}

impl<W: Write> Write for Encoder<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.inner {
            Inner::None(file) => file.write(bytes),
            Inner::Recipe(encoder) => encoder.write(bytes),
            Inner::Zstd(encoder) => encoder.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.inner {
            Inner::None(file) => file.flush(),
            Inner::Recipe(encoder) => encoder.flush(),
            Inner::Zstd(encoder) => encoder.flush(),
        }
    }
}

impl<W: Write> fmt::Debug for Encoder<W> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match &self.inner {
            Inner::None(_) => "none",
            Inner::Recipe(_) => "recipe",
            Inner::Zstd(_) => "zstd",
        };
        formatter.debug_tuple("Encoder").field(&name).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use firn_nix_format::decoder;

    use super::*;

    const ALL: [NarCompression; 4] = [
        NarCompression::None,
        NarCompression::Zstd,
        NarCompression::XZ,
        NarCompression::Recipe(Recipe::Bzip2_9),
    ];

    #[test]
    fn what_is_compressed_is_read_back_whole_and_smaller() {
        let contents: Vec<u8> = (0..300_000_u32).flat_map(|number| (number / 64).to_le_bytes()).collect();
        for compression in ALL {
            let mut encoder = Encoder::new(compression, Vec::new()).unwrap();
            for piece in contents.chunks(10_000) {
                encoder.write_all(piece).unwrap();
            }
            let file = encoder.finish().unwrap();
            assert_eq!(
                file.len() < contents.len() / 10,
                compression != NarCompression::None,
                "{compression:?}"
            );
            let mut again = Vec::new();
            decoder(compression.into(), file.as_slice()).unwrap().read_to_end(&mut again).unwrap();
            assert!(again == contents, "{compression:?}");
        }
    }

    #[test]
    fn nothing_becomes_a_file_that_holds_nothing() {
        for compression in ALL {
            let file = Encoder::new(compression, Vec::new()).unwrap().finish().unwrap();
            let mut again = Vec::new();
            decoder(compression.into(), file.as_slice()).unwrap().read_to_end(&mut again).unwrap();
            assert!(again.is_empty(), "{compression:?}");
        }
    }
}
