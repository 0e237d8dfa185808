//! Finding hash parts while an object is packed: version 1 of the reference patches.
//!
//! Owns: which occurrences are patches, and putting the placeholder in their place. Always holds: what is found does not
//! depend on the pieces that the object came in; restoring (`patch`) gives the object back; memory is a piece of 64 KiB,
//! the hash parts and the patches, of which there are at most `PATCHES_MAX`.
//! Leaves to others: which hash parts an object has (`record`), where chunks end (`chunking`).
//!
//! The last byte of a window of 32 is looked at first: if it is no letter of Nix's base 32, no window that holds it is a
//! hash part, so in most content one byte in thirty is read.

use firn_nix_format::nixbase32;

use crate::chunk_list::Patch;
use crate::hash_part_set::{HASH_PART_LETTERS, HashPartSet};
use crate::limits::PATCHES_MAX;
use crate::patch::PATCH_PLACEHOLDER;

// Stays in the second-level cache between being copied, scanned and passed on.
const PIECE_BYTES: usize = 64 << 10;

const IS_LETTER: [bool; 256] = {
    let mut is_letter = [false; 256];
    let mut position = 0;
    while position < nixbase32::DIGITS.len() {
        is_letter[nixbase32::DIGITS[position] as usize] = true;
        position += 1;
    }
    is_letter
};

/// Replaces an object's hash parts by the placeholder while it streams by.
#[derive(Debug, Clone)]
pub struct PatchFinder {
    hash_parts: HashPartSet,
    // What was not passed on yet; between two pushes less than a hash part.
    held: Vec<u8>,
    // Where in the object it begins.
    position: u64,
    patches: Vec<Patch>,
    patches_max: usize,
}

impl PatchFinder {
    /// A finder at the beginning of an object; `hash_parts` are its own hash part and those of its references, in the
    /// order in which patches number them. One that is named twice goes by its first number; what is no text of Nix's
    /// base 32 is never found. What comes behind the last patch that an object may have stays as it is: objects that
    /// differ in names only still differ in nothing else.
    pub fn new(hash_parts: &[[u8; HASH_PART_LETTERS]]) -> Self {
        Self::with_bound(hash_parts, PATCHES_MAX)
    }

    fn with_bound(hash_parts: &[[u8; HASH_PART_LETTERS]], patches_max: usize) -> Self {
        Self {
            hash_parts: HashPartSet::new(hash_parts),
            held: Vec::with_capacity(PIECE_BYTES + HASH_PART_LETTERS),
            position: 0,
            patches: Vec::new(),
            patches_max,
        }
    }

    /// Takes the next bytes of the object and gives `emit` those that are settled, hash parts replaced.
    ///
    /// After an error of `emit` the object is given up: the finder has no use any more.
    pub fn push<E>(&mut self, bytes: &[u8], mut emit: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        for piece in bytes.chunks(PIECE_BYTES) {
            self.held.extend_from_slice(piece);
            let settled = self.replace();
            if settled > 0 {
                emit(&self.held[..settled])?;
                self.held.drain(..settled);
                self.position += settled as u64;
            }
        }
        Ok(())
    }

    /// Gives `emit` what is left of the object, and the caller the patches of the whole.
    pub fn finish<E>(self, mut emit: impl FnMut(&[u8]) -> Result<(), E>) -> Result<Vec<Patch>, E> {
        if !self.held.is_empty() {
            emit(&self.held)?;
        }
        Ok(self.patches)
    }

    /// Replaces every hash part that is held whole; gives how many of the bytes are settled by that.
    fn replace(&mut self) -> usize {
        let mut start = 0;
        // Everything from `start` to here is known to be letters.
        let mut letters_end = 0;
        while let Some(window) = self.held[start..].first_chunk::<HASH_PART_LETTERS>() {
            let unknown = &window[letters_end - start..];
            if let Some(last) = unknown.iter().rposition(|byte| !IS_LETTER[usize::from(*byte)]) {
                start = letters_end + last + 1;
                letters_end = start;
                continue;
            }
            letters_end = start + HASH_PART_LETTERS;
            let Some(reference) = self.hash_parts.number(window) else {
                start += 1;
                continue;
            };
            if self.patches.len() == self.patches_max {
                return self.held.len();
            }
            self.patches.push(Patch { offset: self.position + start as u64, reference });
            self.held[start..letters_end].copy_from_slice(&PATCH_PLACEHOLDER);
            start = letters_end;
        }
        start
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use proptest::prelude::*;

    use super::*;
    use crate::chunking::Chunker;
    use crate::patch::PatchApplier;

    type HashPart = [u8; HASH_PART_LETTERS];

    fn patched_by(mut finder: PatchFinder, object: &[u8], piece: usize) -> (Vec<u8>, Vec<Patch>) {
        let mut patched = Vec::new();
        let mut keep = |bytes: &[u8]| {
            patched.extend_from_slice(bytes);
            Ok::<(), Infallible>(())
        };
        for part in object.chunks(piece) {
            let Ok(()) = finder.push(part, &mut keep);
        }
        let Ok(patches) = finder.finish(&mut keep);
        (patched, patches)
    }

    fn patched(object: &[u8], hash_parts: &[HashPart], piece: usize) -> (Vec<u8>, Vec<Patch>) {
        patched_by(PatchFinder::new(hash_parts), object, piece)
    }

    fn restored(patched: &[u8], patches: &[Patch], hash_parts: &[HashPart], piece: usize) -> Vec<u8> {
        let mut applier = PatchApplier::new(patches, hash_parts).unwrap();
        let mut restored = patched.to_vec();
        restored.chunks_mut(piece).for_each(|part| applier.apply(part).unwrap());
        applier.finish().unwrap();
        restored
    }

    /// The rule, in the plainest words.
    fn patches_by_rule(object: &[u8], hash_parts: &[HashPart]) -> Vec<Patch> {
        let mut patches = Vec::new();
        let mut start = 0;
        while start + HASH_PART_LETTERS <= object.len() {
            let window = &object[start..start + HASH_PART_LETTERS];
            match hash_parts.iter().position(|hash_part| hash_part == window) {
                Some(number) => {
                    patches.push(Patch { offset: start as u64, reference: u32::try_from(number).unwrap() });
                    start += HASH_PART_LETTERS;
                }
                None => start += 1,
            }
        }
        patches
    }

    fn random_hash_part(seed: u64) -> HashPart {
        let hash = blake3::hash(&seed.to_le_bytes());
        nixbase32::encode(&hash.as_bytes()[..20]).into_bytes().try_into().unwrap()
    }

    fn noise(bytes: usize, seed: u64) -> Vec<u8> {
        let mut noise = vec![0; bytes];
        blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut noise);
        noise
    }

    /// One letter, two letters in turn, a period of three, and no period at all.
    fn hash_parts() -> Vec<HashPart> {
        let periodic = |period: &[u8]| std::array::from_fn(|position| period[position % period.len()]);
        vec![periodic(b"a"), periodic(b"ab"), periodic(b"aab"), periodic(b"ba"), random_hash_part(1)]
    }

    /// Pieces of which objects are made: whole and torn hash parts, runs of letters, the placeholder, other bytes.
    fn piece() -> impl Strategy<Value = Vec<u8>> {
        let torn = (0usize..5, 0usize..33, 0usize..33)
            .prop_map(|(number, one, other)| hash_parts()[number][one.min(other)..one.max(other)].to_vec());
        prop_oneof![
            4 => (0usize..5).prop_map(|number| hash_parts()[number].to_vec()),
            3 => torn,
            2 => prop::collection::vec(prop::sample::select(b"ab".to_vec()), 0..80),
            1 => Just(PATCH_PLACEHOLDER.to_vec()),
            1 => prop::collection::vec(any::<u8>(), 0..60),
        ]
    }

    proptest! {
        #[test]
        fn what_is_found_is_what_the_rule_says_whatever_the_pieces(
            pieces in prop::collection::vec(piece(), 0..24),
            numbers in prop::collection::vec(0usize..5, 0..8),
            (taken, given) in (1usize..200, 1usize..200),
        ) {
            let object = pieces.concat();
            // Some are missing, some are named twice.
            let hash_parts: Vec<_> = numbers.iter().map(|number| hash_parts()[*number]).collect();
            let (packed, patches) = patched(&object, &hash_parts, taken);
            prop_assert_eq!(&patches, &patches_by_rule(&object, &hash_parts));
            prop_assert_eq!(packed.len(), object.len());
            for patch in &patches {
                let at = usize::try_from(patch.offset).unwrap();
                prop_assert_eq!(&packed[at..at + HASH_PART_LETTERS], &PATCH_PLACEHOLDER);
            }
            prop_assert_eq!(restored(&packed, &patches, &hash_parts, given), object);
        }

        #[test]
        fn bytes_of_any_kind_are_restored(object in prop::collection::vec(any::<u8>(), 0..500), taken in 1usize..99) {
            let (packed, patches) = patched(&object, &hash_parts(), taken);
            prop_assert_eq!(restored(&packed, &patches, &hash_parts(), 7), object);
        }
    }

    #[test]
    fn hash_parts_are_found_across_the_borders_of_chunks_and_of_the_pieces_that_are_held() {
        let hash_parts = [random_hash_part(1), random_hash_part(2)];
        // Every place that a hash part can have to a border of the pieces within.
        for shift in 0..HASH_PART_LETTERS {
            let object =
                [&noise(PIECE_BYTES - shift, 1)[..], &hash_parts[1], &noise(100, 2), &hash_parts[0]].concat();
            let (packed, patches) = patched(&object, &hash_parts, usize::MAX);
            assert_eq!(patches.iter().map(|patch| patch.reference).collect::<Vec<_>>(), [1, 0], "{shift}");
            assert!(restored(&packed, &patches, &hash_parts, 50_000) == object, "{shift}");
        }
    }

    /// An object of half a megabyte and more that names these hash parts by the thousand.
    fn rebuild(hash_parts: &[HashPart]) -> Vec<u8> {
        (0..1000u64)
            .flat_map(|place| {
                let number = usize::try_from(place * 7 % hash_parts.len() as u64).unwrap();
                [noise(usize::try_from(place % 1300).unwrap(), place), hash_parts[number].to_vec()].concat()
            })
            .collect()
    }

    fn chunks(object: &[u8]) -> Vec<Vec<u8>> {
        let (mut chunker, mut chunks) = (Chunker::new(), Vec::new());
        let mut keep = |chunk: &[u8]| {
            chunks.push(chunk.to_vec());
            Ok::<(), Infallible>(())
        };
        let Ok(()) = chunker.push(object, &mut keep);
        let Ok(()) = chunker.finish(&mut keep);
        chunks
    }

    #[test]
    fn objects_that_differ_in_hash_parts_only_have_equal_chunks_and_other_reference_numbers_only() {
        let one: Vec<_> = (0..50).map(random_hash_part).collect();
        let other: Vec<_> = (50..100).map(random_hash_part).collect();
        // References are sorted by name, so that a rebuild numbers them in another order.
        let (mut numbered_one, mut numbered_other) = (one.clone(), other.clone());
        numbered_one[1..].sort_unstable();
        numbered_other[1..].sort_unstable();
        let (first, second) = (rebuild(&one), rebuild(&other));
        assert_ne!(chunks(&first), chunks(&second));
        let (packed_first, patches_first) = patched(&first, &numbered_one, 70_000);
        let (packed_second, patches_second) = patched(&second, &numbered_other, 1000);
        assert!(chunks(&packed_first).len() > 5);
        assert!(chunks(&packed_first) == chunks(&packed_second));
        assert_eq!(patches_first.len(), 1000);
        for (one_patch, other_patch) in patches_first.iter().zip(&patches_second) {
            assert_eq!(one_patch.offset, other_patch.offset);
            let place = |all: &[HashPart], numbered: &[HashPart], patch: &Patch| {
                all.iter().position(|hash_part| *hash_part == numbered[patch.reference as usize])
            };
            assert_eq!(place(&one, &numbered_one, one_patch), place(&other, &numbered_other, other_patch));
        }
        assert!(restored(&packed_second, &patches_second, &numbered_other, 9999) == second);
    }

    #[test]
    fn what_comes_behind_the_last_patch_that_there_may_be_stays_as_it_is() {
        let hash_parts = [random_hash_part(1), random_hash_part(2)];
        let object =
            [&b"0123"[..], &hash_parts[1], b"-", &hash_parts[0], b"-", &hash_parts[1], b"."].concat();
        let (packed, patches) = patched_by(PatchFinder::with_bound(&hash_parts, 2), &object, 5);
        assert_eq!(patches, [Patch { offset: 4, reference: 1 }, Patch { offset: 37, reference: 0 }]);
        assert_eq!(packed[69..], object[69..]);
        assert_eq!(restored(&packed, &patches, &hash_parts, 5), object);
    }

    #[test]
    fn an_error_of_the_taker_is_passed_on() {
        let mut finder = PatchFinder::new(&[]);
        assert_eq!(finder.push(&[0; 100], |_| Err("full")), Err("full"));
    }
}
