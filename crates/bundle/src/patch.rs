//! Restoring hash parts: version 1 of the reference patches.
//!
//! Owns: writing hash parts at stored offsets into an object that streams by. Always holds: nothing is
//! searched, and only the placeholder is overwritten.
//! Leaves to others: finding the hash parts while packing, reading patches (`chunk_list`).

use crate::chunk_list::{PATCH_BYTES, Patch};

/// What stands in a packed object in place of a hash part: `e` is no letter of Nix's base 32, so it is never
/// taken for one.
pub const PATCH_PLACEHOLDER: [u8; 32] = [b'e'; 32];

/// Why an object could not be restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PatchError {
    /// A patch names a reference that the object does not have.
    #[error("a patch names reference {0}, which the object does not have")]
    UnknownReference(u32),
    /// Something else stands where the placeholder should.
    #[error("the object has no placeholder at byte {0}, where its patch belongs")]
    NoPlaceholder(u64),
    /// The object ended before its last patch.
    #[error("the object ended before its last patch, at byte {0}")]
    Unfinished(u64),
}

/// Applies an object's patches while it streams by.
#[derive(Debug, Clone)]
pub struct PatchApplier {
    // In reverse, so that the next one is the last.
    patches: Vec<(u64, [u8; 32])>,
    position: u64,
}

impl PatchApplier {
    /// An applier of `patches`; `hash_parts` are the object's own hash part and those of its references, in the
    /// order in which patches number them.
    pub fn new(patches: &[Patch], hash_parts: &[[u8; 32]]) -> Result<Self, PatchError> {
        let resolve = |patch: &Patch| {
            let text = usize::try_from(patch.reference).ok().and_then(|number| hash_parts.get(number));
            text.map(|text| (patch.offset, *text)).ok_or(PatchError::UnknownReference(patch.reference))
        };
        let patches = patches.iter().rev().map(resolve).collect::<Result<_, _>>()?;
        Ok(Self { patches, position: 0 })
    }

    /// Patches the next bytes of the object; a patch may lie over the border of two pieces.
    pub fn apply(&mut self, piece: &mut [u8]) -> Result<(), PatchError> {
        let end = self.position + piece.len() as u64;
        while let Some((offset, text)) = self.patches.last() {
            if *offset >= end {
                break;
            }
            let from = (*offset).max(self.position);
            let to = (offset + PATCH_BYTES).min(end);
            // Both are within the piece and the text.
            let index = |value: u64| usize::try_from(value).expect("a piece fits in memory");
            let target = &mut piece[index(from - self.position)..index(to - self.position)];
            if target.iter().zip(PATCH_PLACEHOLDER).any(|(byte, expected)| *byte != expected) {
                return Err(PatchError::NoPlaceholder(from));
            }
            target.copy_from_slice(&text[index(from - offset)..index(to - offset)]);
            if to < offset + PATCH_BYTES {
                break;
            }
            self.patches.pop();
        }
        self.position = end;
        Ok(())
    }

    /// Refuses an object that ended before its last patch.
    pub fn finish(self) -> Result<(), PatchError> {
        self.patches.last().map_or(Ok(()), |(offset, _)| Err(PatchError::Unfinished(*offset)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn patches_are_restored_over_the_borders_of_any_pieces(
            gaps in prop::collection::vec((0u64..90, 0u32..3), 0..8),
            piece in 1usize..100,
        ) {
            let texts = [[b'a'; 32], [b'b'; 32], [b'c'; 32]];
            let mut object = Vec::new();
            let mut original = Vec::new();
            let mut patches = Vec::new();
            for (gap, reference) in gaps {
                let filler = vec![b'.'; usize::try_from(gap).unwrap()];
                object.extend_from_slice(&filler);
                original.extend_from_slice(&filler);
                patches.push(Patch { offset: object.len() as u64, reference });
                object.extend_from_slice(&PATCH_PLACEHOLDER);
                original.extend_from_slice(&texts[reference as usize]);
            }
            let mut applier = PatchApplier::new(&patches, &texts).unwrap();
            for part in object.chunks_mut(piece) {
                applier.apply(part).unwrap();
            }
            applier.finish().unwrap();
            prop_assert_eq!(object, original);
        }
    }

    #[test]
    fn a_patch_that_does_not_belong_is_refused() {
        let patch = Patch { offset: 2, reference: 1 };
        assert_eq!(PatchApplier::new(&[patch], &[[0; 32]]).unwrap_err(), PatchError::UnknownReference(1));
        let applier = PatchApplier::new(&[patch], &[[0; 32]; 2]).unwrap();
        assert_eq!(applier.clone().apply(&mut [0; 40]), Err(PatchError::NoPlaceholder(2)));
        let mut short = applier;
        short.apply(&mut [0; 2]).unwrap();
        assert_eq!(short.finish(), Err(PatchError::Unfinished(2)));
    }
}
