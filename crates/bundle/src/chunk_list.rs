//! The chunk list: which chunks an object is made of, and where reference patches go.
//!
//! Always holds: every run lies within the table it names, and patches are sorted and do not overlap.
//! Leaves to others: the tables themselves, whether lengths add up to the object (`manifest`).

use crate::chunk_entry::ChunkRef;
use crate::cursor::{Cursor, put_leb128};
use crate::manifest_error::{ManifestError, ManifestPart, Place};
use crate::manifest_header::ManifestHeader;

/// Bytes that a patch replaces: the hash part of a store path as text.
pub const PATCH_BYTES: u64 = 32;

// Tables have fewer than 2^31 entries: a manifest has 32 MiB.
const FOREIGN_BIT: u32 = 1 << 31;
const RUN_BYTES: usize = 8;
const COUNTS_BYTES: usize = 8;

/// Chunks in succession.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkRun {
    /// The first.
    pub first: ChunkRef,
    /// How many, at least 1.
    pub count: u32,
}

/// A hash part that was replaced while packing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patch {
    /// Where in the object it begins.
    pub offset: u64,
    /// Whose: 0 the object's own store path, i + 1 its reference i in published order.
    pub reference: u32,
}

/// The chunks and patches of one object.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ChunkList {
    runs: Vec<ChunkRun>,
    patches: Vec<Patch>,
}

impl ChunkRun {
    /// The chunks of the run, in order.
    pub fn chunks(self) -> impl Iterator<Item = ChunkRef> {
        let (first, wrap): (u32, fn(u32) -> ChunkRef) = match self.first {
            ChunkRef::Own(first) => (first, ChunkRef::Own),
            ChunkRef::Foreign(first) => (first, ChunkRef::Foreign),
        };
        (first..first.saturating_add(self.count)).map(wrap)
    }
}

impl ChunkList {
    /// An object of no chunks.
    pub(crate) const fn new() -> Self {
        Self { runs: Vec::new(), patches: Vec::new() }
    }

    /// Reads one list; `ordinal` is the number of its record, for errors.
    pub fn parse(bytes: &[u8], ordinal: u32, header: &ManifestHeader) -> Result<Self, ManifestError> {
        let place = Place::new(ManifestPart::ChunkList, ordinal);
        let truncated = place.truncated();
        let mut cursor = Cursor::new(bytes);
        let runs = size(cursor.u32().map_err(truncated)?);
        let patches = size(cursor.u32().map_err(truncated)?);
        // A run has 8 bytes and a patch at least 2, so these bound what is allocated.
        if runs > cursor.remaining() / RUN_BYTES || patches > cursor.remaining() / 2 {
            return Err(place.cut_off());
        }
        let mut list = Self { runs: Vec::with_capacity(runs), patches: Vec::with_capacity(patches) };
        for _ in 0..runs {
            let first = cursor.u32().map_err(truncated)?;
            let count = cursor.u32().map_err(truncated)?;
            let number = first & !FOREIGN_BIT;
            let (first, entries) = match first & FOREIGN_BIT {
                0 => (ChunkRef::Own(number), header.chunk_count()),
                _ => (ChunkRef::Foreign(number), header.foreign_count()),
            };
            if count == 0 || number.checked_add(count).is_none_or(|end| end > entries) {
                return Err(place.refuse("it names chunks that there are not"));
            }
            list.runs.push(ChunkRun { first, count });
        }
        let mut end = 0u64;
        for _ in 0..patches {
            let refused = || place.refuse("a patch is malformed");
            let distance = cursor.leb128().map_err(truncated)?.ok_or_else(refused)?;
            let reference = cursor.leb128().map_err(truncated)?.ok_or_else(refused)?;
            let reference = u32::try_from(reference).map_err(|_| refused())?;
            let offset = end.checked_add(distance).ok_or_else(refused)?;
            end = offset.checked_add(PATCH_BYTES).ok_or_else(refused)?;
            list.patches.push(Patch { offset, reference });
        }
        if cursor.remaining() != 0 {
            return Err(place.cut_off());
        }
        Ok(list)
    }

    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let count = |length: usize| u32::try_from(length).expect("manifests are below 32 MiB").to_le_bytes();
        let mut bytes = Vec::with_capacity(self.runs_bytes());
        bytes.extend_from_slice(&count(self.runs.len()));
        bytes.extend_from_slice(&count(self.patches.len()));
        for run in &self.runs {
            let first = match run.first {
                ChunkRef::Own(number) => number,
                ChunkRef::Foreign(number) => number | FOREIGN_BIT,
            };
            bytes.extend_from_slice(&first.to_le_bytes());
            bytes.extend_from_slice(&run.count.to_le_bytes());
        }
        let mut end = 0;
        for patch in &self.patches {
            put_leb128(&mut bytes, patch.offset - end);
            put_leb128(&mut bytes, patch.reference.into());
            end = patch.offset + PATCH_BYTES;
        }
        bytes
    }

    /// Bytes of the list without its patches.
    pub(crate) const fn runs_bytes(&self) -> usize {
        COUNTS_BYTES + RUN_BYTES * self.runs.len()
    }

    /// Appends one chunk, to the last run if it continues it.
    pub(crate) fn push(&mut self, chunk: ChunkRef) {
        if let Some(run) = self.runs.last_mut() {
            let continues = match (run.first, chunk) {
                (ChunkRef::Own(first), ChunkRef::Own(number))
                | (ChunkRef::Foreign(first), ChunkRef::Foreign(number)) => {
                    first.checked_add(run.count) == Some(number)
                }
                _ => false,
            };
            if continues {
                run.count += 1;
                return;
            }
        }
        self.runs.push(ChunkRun { first: chunk, count: 1 });
    }

    /// Sets the patches: sorted, not overlapping, each within `content_bytes`.
    pub(crate) fn set_patches(&mut self, patches: Vec<Patch>, content_bytes: u64) -> bool {
        let mut end = 0;
        for patch in &patches {
            let Some(patch_end) = patch.offset.checked_add(PATCH_BYTES) else { return false };
            if patch.offset < end || patch_end > content_bytes {
                return false;
            }
            end = patch_end;
        }
        self.patches = patches;
        true
    }

    /// The runs, in the order of the object.
    pub fn runs(&self) -> &[ChunkRun] {
        &self.runs
    }

    /// The chunks, in the order of the object. A list of a stranger may name very many: bound what you collect.
    pub fn chunks(&self) -> impl Iterator<Item = ChunkRef> {
        self.runs.iter().flat_map(|run| run.chunks())
    }

    /// How many chunks the object has.
    pub fn chunk_count(&self) -> u64 {
        self.runs.iter().map(|run| u64::from(run.count)).sum()
    }

    /// The patches, by offset.
    pub fn patches(&self) -> &[Patch] {
        &self.patches
    }
}

const fn size(field: u32) -> usize {
    field as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest_header::ManifestVersion;

    fn header() -> ManifestHeader {
        ManifestHeader {
            version: ManifestVersion::First,
            blocks: 1,
            records: 1,
            chunks: 10,
            foreign: 4,
            frames: 1,
            block_bytes: 100,
            list_bytes: 100,
        }
    }

    fn list() -> ChunkList {
        let mut list = ChunkList::new();
        for number in [3, 4, 5, 3] {
            list.push(ChunkRef::Own(number));
        }
        for number in [0, 1] {
            list.push(ChunkRef::Foreign(number));
        }
        let patches = [(0, 0), (32, 2), (1000, 1)].map(|(offset, reference)| Patch { offset, reference });
        assert!(list.set_patches(patches.to_vec(), 1032));
        list
    }

    #[test]
    fn chunks_in_succession_are_one_run() {
        let list = list();
        assert_eq!(list.runs().len(), 3);
        assert_eq!(list.chunk_count(), 6);
        assert_eq!(list.chunks().nth(3), Some(ChunkRef::Own(3)));
        assert_eq!(ChunkList::parse(&list.to_bytes(), 0, &header()), Ok(list));
    }

    #[test]
    fn patches_that_overlap_or_leave_the_object_are_refused() {
        let patch = |offset| Patch { offset, reference: 0 };
        assert!(!ChunkList::new().set_patches(vec![patch(0), patch(31)], 1000));
        assert!(!ChunkList::new().set_patches(vec![patch(969)], 1000));
        assert!(!ChunkList::new().set_patches(vec![patch(u64::MAX)], u64::MAX));
    }

    #[test]
    fn no_flipped_byte_panics_and_every_truncation_is_refused() {
        let bytes = list().to_bytes();
        for position in 0..bytes.len() {
            assert!(ChunkList::parse(&bytes[..position], 0, &header()).is_err());
            for value in 0..=255 {
                let mut damaged = bytes.clone();
                damaged[position] = value;
                let _ = ChunkList::parse(&damaged, 0, &header());
            }
        }
    }

    #[test]
    fn a_run_behind_the_end_of_its_table_is_refused() {
        let mut list = ChunkList::new();
        list.push(ChunkRef::Own(10));
        assert!(ChunkList::parse(&list.to_bytes(), 0, &header()).is_err());
        let mut list = ChunkList::new();
        list.push(ChunkRef::Foreign(4));
        assert!(ChunkList::parse(&list.to_bytes(), 0, &header()).is_err());
    }
}
