//! Finding out whether a recipe makes the very file that was published.
//!
//! Always holds: it does only if length and SHA-256 of what it made are those of the published file; nothing of it is kept,
//! and no more is made than shows that it is another one.
//! Leaves to others: reading the file and its NAR, which were checked.

use std::io::{self, Write};

use sha2::Digest;

use crate::{Recipe, RecipeEncoder, Sha256};

/// A file that is made again while its NAR goes by.
#[derive(Debug)]
pub struct Reproduction {
    recipe: Recipe,
    // None once it was found to be another one.
    encoder: Option<RecipeEncoder<Compared>>,
}

/// What a published file is known by.
#[derive(Debug, Clone)]
pub struct PublishedBytes {
    /// Its first bytes, as many as are at hand: most other files differ in them, and need not be made to their end.
    pub head: Vec<u8>,
    /// Its SHA-256.
    pub sha256: Sha256,
    /// Its length.
    pub bytes: Option<u64>,
}

/// Takes what is made, and stops as soon as that is another file.
#[derive(Debug)]
struct Compared {
    published: PublishedBytes,
    hasher: sha2::Sha256,
    bytes: u64,
}

impl Reproduction {
    /// Makes `published` by `recipe`.
    ///
    /// # Errors
    /// When no encoder can be made for want of memory.
    pub fn new(recipe: Recipe, published: PublishedBytes) -> io::Result<Self> {
        let compared = Compared { published, hasher: sha2::Sha256::default(), bytes: 0 };
        Ok(Self { recipe, encoder: Some(RecipeEncoder::new(recipe, compared)?) })
    }

    /// Takes the next bytes of the NAR.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.encoder.as_mut().is_some_and(|encoder| encoder.write_all(bytes).is_err()) {
            self.encoder = None;
        }
    }

    /// Whether what was made so far is the beginning of the published file, as far as is known.
    pub const fn may_succeed(&self) -> bool {
        self.encoder.is_some()
    }

    /// The recipe, if it has made the published file of the whole NAR.
    pub fn finish(self) -> Option<Recipe> {
        let made = self.encoder?.finish().ok()?;
        made.ends_as_published().then_some(self.recipe)
    }
}

impl Compared {
    fn ends_as_published(self) -> bool {
        let sha256 = Sha256::from_bytes(self.hasher.finalize().into());
        sha256 == self.published.sha256 && self.published.bytes.is_none_or(|bytes| bytes == self.bytes)
    }

    /// Whether the published file may go on with these bytes.
    fn may_follow(&self, bytes: &[u8]) -> bool {
        let published = &self.published;
        if published.bytes.is_some_and(|end| self.bytes.saturating_add(bytes.len() as u64) > end) {
            return false;
        }
        let head = usize::try_from(self.bytes).ok().and_then(|begin| published.head.get(begin..));
        head.unwrap_or_default().iter().zip(bytes).all(|(published, made)| published == made)
    }
}

impl Write for Compared {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if !self.may_follow(bytes) {
            return Err(io::Error::other("this is another file than the published one"));
        }
        self.hasher.update(bytes);
        self.bytes += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::tests::{made, sample};

    fn published(file: &[u8], head_bytes: usize) -> PublishedBytes {
        let head = file[..head_bytes.min(file.len())].to_vec();
        PublishedBytes { head, sha256: Sha256::of(file), bytes: Some(file.len() as u64) }
    }

    /// The recipe that is found, and whether the whole file was made for it.
    fn find(recipe: Recipe, nar: &[u8], published: PublishedBytes) -> (Option<Recipe>, bool) {
        let mut reproduction = Reproduction::new(recipe, published).unwrap();
        nar.chunks(10_000).for_each(|piece| reproduction.push(piece));
        let whole = reproduction.encoder.is_some();
        (reproduction.finish(), whole)
    }

    #[test]
    fn the_recipe_of_a_file_is_found() {
        let nar = sample(300_000);
        for recipe in Recipe::ALL {
            let file = made(recipe, &nar, usize::MAX);
            for head_bytes in [0, 10, file.len()] {
                assert_eq!(find(recipe, &nar, published(&file, head_bytes)), (Some(recipe), true));
            }
            let unsized_file = PublishedBytes { bytes: None, ..published(&file, 10) };
            assert_eq!(find(recipe, &nar, unsized_file).0, Some(recipe));
        }
    }

    #[test]
    fn a_file_that_differs_anywhere_has_no_recipe() {
        let nar = sample(100_000);
        for recipe in Recipe::ALL {
            let file = made(recipe, &nar, usize::MAX);
            for at in [0, 5, file.len() / 2, file.len() - 1] {
                let mut other = file.clone();
                other[at] ^= 1;
                assert_eq!(find(recipe, &nar, published(&other, 10)).0, None, "{recipe} at {at}");
            }
            for other in [&file[..file.len() - 1], &[&file[..], b"x"].concat()] {
                assert_eq!(find(recipe, &nar, published(other, 10)).0, None, "{recipe}");
            }
            assert_eq!(find(recipe, &nar[1..], published(&file, 10)).0, None, "{recipe} of another NAR");
        }
    }

    #[test]
    fn no_more_is_made_than_shows_that_it_is_another_file() {
        // More than encoders hold back.
        let nar: Vec<u8> = (0..60_000_u64)
            .flat_map(|number| Sha256::of(&number.to_le_bytes()).to_base32().into_bytes())
            .collect();
        for recipe in Recipe::ALL {
            let file = made(recipe, &nar, usize::MAX);
            let mut other = file.clone();
            other[1_000] ^= 1;
            assert_eq!(find(recipe, &nar, published(&other, 1_001)), (None, false), "{recipe}");
            assert_eq!(find(recipe, &nar, published(&other, 1_000)), (None, true), "{recipe}");
            let shorter = PublishedBytes { bytes: Some(1_000), ..published(&file, 10) };
            assert_eq!(find(recipe, &nar, shorter), (None, false), "{recipe}");
        }
    }
}
