//! Recipes: how a published file is made again out of its NAR, byte for byte.
//!
//! Always holds: the same bytes come out in whatever pieces the NAR goes in; memory is that of one encoder whatever the
//! length. No format promises which bytes its encoder writes: the tests pin them, and whoever makes a file again compares
//! it with its FileHash.
//! Leaves to others: which file has which recipe (`firn-bundle`), finding out (`reproduction`).
//!
//! There is none for zstd, whose versions and settings give other bytes beyond the first blocks, and none for gzip: Nix
//! writes the time into its header.

use std::fmt;
use std::io::{self, Write};

use liblzma::stream::{Check, Stream};

use crate::Compression;

/// How a published file is made of its NAR.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Recipe {
    /// One xz stream of one block: LZMA2 with the parameters of level 6, by one thread, CRC64. What `xz -6 -T1` writes, and
    /// Nix unless it is told otherwise.
    Xz6,
    /// One bzip2 stream with blocks of 900 kB: what `bzip2 -9` writes, and Nix.
    Bzip2_9,
}

const XZ_LEVEL: u32 = 6;

impl Recipe {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Xz6, Self::Bzip2_9];

    /// The one to try for files of this compression.
    pub fn of(compression: Compression) -> Option<Self> {
        Self::ALL.into_iter().find(|recipe| recipe.compression() == compression)
    }

    /// How its files are compressed.
    pub const fn compression(self) -> Compression {
        match self {
            Self::Xz6 => Compression::Xz,
            Self::Bzip2_9 => Compression::Bzip2,
        }
    }

    /// What an encoder takes, in bytes: xz says so of itself (94 MiB), bzip2 in its manual (400 kB and 8 of each byte of a
    /// block).
    pub const fn memory_bytes(self) -> u64 {
        match self {
            Self::Xz6 => 94 << 20,
            Self::Bzip2_9 => 8 << 20,
        }
    }
}

impl fmt::Display for Recipe {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Xz6 => "xz -6",
            Self::Bzip2_9 => "bzip2 -9",
        })
    }
}

/// A writer that makes a file into another writer. All of it is there only after [`RecipeEncoder::finish`].
pub struct RecipeEncoder<W: Write> {
    inner: Inner<W>,
}

enum Inner<W: Write> {
    Xz(liblzma::write::XzEncoder<W>),
    Bzip2(bzip2::write::BzEncoder<W>),
}

impl<W: Write> RecipeEncoder<W> {
    /// Makes what `recipe` says into `file`.
    ///
    /// # Errors
    /// When no encoder can be made for want of memory.
    pub fn new(recipe: Recipe, file: W) -> io::Result<Self> {
        let inner = match recipe {
            Recipe::Xz6 => {
                let stream = Stream::new_easy_encoder(XZ_LEVEL, Check::Crc64)?;
                Inner::Xz(liblzma::write::XzEncoder::new_stream(file, stream))
            }
            Recipe::Bzip2_9 => Inner::Bzip2(bzip2::write::BzEncoder::new(file, bzip2::Compression::best())),
        };
        Ok(Self { inner })
    }

    /// The writer below.
    pub fn file(&self) -> &W {
        match &self.inner {
            Inner::Xz(encoder) => encoder.get_ref(),
            Inner::Bzip2(encoder) => encoder.get_ref(),
        }
    }

    /// Writes what is left, and gives the writer below back.
    pub fn finish(self) -> io::Result<W> {
        match self.inner {
            Inner::Xz(encoder) => encoder.finish(),
            Inner::Bzip2(encoder) => encoder.finish(),
        }
    }
}

impl<W: Write> Write for RecipeEncoder<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.inner {
            Inner::Xz(encoder) => encoder.write(bytes),
            Inner::Bzip2(encoder) => encoder.write(bytes),
        }
    }

    /// Does nothing: a flush would end a block where the published file has none.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<W: Write> fmt::Debug for RecipeEncoder<W> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let recipe = match &self.inner {
            Inner::Xz(_) => Recipe::Xz6,
            Inner::Bzip2(_) => Recipe::Bzip2_9,
        };
        formatter.debug_tuple("RecipeEncoder").field(&recipe).finish()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::io::Read;

    use super::*;
    use crate::{Sha256, decoder};

    /// Words, and now and then something from before: neither noise nor all alike.
    pub(crate) fn sample(bytes: usize) -> Vec<u8> {
        let (mut sample, mut state) = (Vec::new(), 1_u64);
        while sample.len() < bytes {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let before = sample.len() as u64;
            if state >> 61 == 0 && before > 4_096 {
                let (at, length) = ((state >> 20) % (before - 1_000), (state >> 8) % 1_000);
                let (at, length) = (usize::try_from(at).unwrap(), usize::try_from(length).unwrap());
                sample.extend_from_within(at..at + length);
            } else {
                sample.extend_from_slice(format!("{:x} ", state >> 40).as_bytes());
            }
        }
        sample.truncate(bytes);
        sample
    }

    pub(crate) fn made(recipe: Recipe, nar: &[u8], piece_bytes: usize) -> Vec<u8> {
        let mut encoder = RecipeEncoder::new(recipe, Vec::new()).unwrap();
        for piece in nar.chunks(piece_bytes) {
            encoder.write_all(piece).unwrap();
            encoder.flush().unwrap();
        }
        encoder.finish().unwrap()
    }

    #[test]
    fn the_bytes_that_a_recipe_gives_are_those_of_xz_and_bzip2() {
        // By `xz -6 -T1 -C crc64` 5.4.1 and `bzip2 -9` 1.0.8. If an upgrade of a library changes them, published files whose
        // recipe is recorded cannot be made again: keep the old version.
        for (recipe, bytes, sha256) in [
            (Recipe::Xz6, 0, "0xcjczshxx0vcc3p75p7x5rvi3cn93zv544a682ra0yh256zjh00"),
            (Recipe::Xz6, 1_000, "13r4p954pld16wlc2w12fqhswxgf77kld7d1zvi55yfghisk4m11"),
            (Recipe::Xz6, 3_000_000, "0q7jvjpr7hs7m279hy206b9k55jzwdb9qdp086338kiawz81p69h"),
            // More than the window of xz, and ten blocks of bzip2.
            (Recipe::Xz6, 9_000_000, "037gjqzyhc3z3ianpd3qvym9kgh5xfq6ay4mpnphiwzl7sn0mvmg"),
            (Recipe::Bzip2_9, 0, "0n40989ia26nka0hgbn0jc2901k14j7ffazb338ki5rvn17aipfk"),
            (Recipe::Bzip2_9, 1_000, "0b804dl0lyxw2ki66myg5zl7z15c2d4np4s9j52fphpp00r44163"),
            (Recipe::Bzip2_9, 3_000_000, "07xqamyqwn9n38gb4nn31nam1nvk98g2kyvpxwdvb1hgz4g3f4qp"),
            (Recipe::Bzip2_9, 9_000_000, "196zhf7xmg0s3r98rq6dqi853q0rzxgknm6bm1i1s3i7avqg8sm9"),
        ] {
            let file = made(recipe, &sample(bytes), usize::MAX);
            assert_eq!(
                Sha256::of(&file).to_string(),
                format!("sha256:{sha256}"),
                "{recipe} of {bytes} bytes"
            );
        }
        // What never ends to be alike takes other ways through both.
        for (recipe, sha256) in [
            (Recipe::Xz6, "0p60hj4w1s4vyp5hpshhw3xncaqgsa82dw9g90anlx9fqi2hadvq"),
            (Recipe::Bzip2_9, "0lqyrnai8h8b4mcm5bvqdl8zkdfzvhwcyj9my8bkh2i2999cx3i8"),
        ] {
            let file = made(recipe, &[b'a'; 1_000_000], usize::MAX);
            assert_eq!(Sha256::of(&file).to_string(), format!("sha256:{sha256}"), "{recipe} of one byte");
        }
    }

    #[test]
    fn a_file_is_the_same_in_whatever_pieces_its_nar_comes() {
        let nar = sample(200_000);
        for recipe in Recipe::ALL {
            let whole = made(recipe, &nar, usize::MAX);
            for piece_bytes in [17, 4_096, 65_537] {
                assert!(made(recipe, &nar, piece_bytes) == whole, "{recipe} in pieces of {piece_bytes}");
            }
            let mut again = Vec::new();
            decoder(recipe.compression(), whole.as_slice()).unwrap().read_to_end(&mut again).unwrap();
            assert!(again == nar, "{recipe}");
        }
    }

    #[test]
    fn a_compression_has_one_recipe_to_try_or_none() {
        let tried = Compression::ALL.map(Recipe::of);
        assert_eq!(tried, [None, Some(Recipe::Xz6), Some(Recipe::Bzip2_9), None]);
    }
}
