//! Entries of the chunk table and of the foreign chunk table: where a chunk lies and what its hash is.
//!
//! Always holds: a chunk is 1 byte to 1 MiB long and lies within the largest frame.
//! Leaves to others: fetching and decompressing the frame.

use firn_base::Digest;

use crate::cursor::Cursor;
use crate::frame::FrameError;
use crate::limits::{CHUNK_BYTES_MAX, FRAME_RAW_BYTES_MAX};
use crate::manifest_error::{ManifestError, ManifestPart, Place};
use crate::manifest_header::{CHUNK_ENTRY_BYTES, FOREIGN_ENTRY_BYTES, ManifestHeader};

/// Which chunk: of the bundle itself or of its foreign chunk table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ChunkRef {
    /// An entry of the chunk table.
    Own(u32),
    /// An entry of the foreign chunk table.
    Foreign(u32),
}

/// One chunk of the bundle's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkEntry {
    /// The frame it lies in.
    pub frame: u32,
    /// Where in the raw frame it begins.
    pub offset: u32,
    /// Its bytes.
    pub length: u32,
    /// BLAKE3 of it.
    pub hash: Digest,
}

/// One chunk of another bundle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ForeignChunk {
    /// The bundle: a position in the content header's dependencies.
    pub dependency: u8,
    /// The entry of that bundle's chunk table.
    pub number: u32,
    /// Its bytes.
    pub length: u32,
    /// BLAKE3 of it.
    pub hash: Digest,
}

impl ChunkEntry {
    /// Reads entries of the chunk table; `first` is the number of the first of them, for errors.
    pub fn parse_table(
        bytes: &[u8],
        first: u32,
        header: &ManifestHeader,
    ) -> Result<Vec<Self>, ManifestError> {
        table(bytes, ManifestPart::ChunkTable, CHUNK_ENTRY_BYTES, first, |cursor, place| {
            let truncated = place.truncated();
            let entry = Self {
                frame: cursor.u32().map_err(truncated)?,
                offset: cursor.u32().map_err(truncated)?,
                length: cursor.u32().map_err(truncated)?,
                hash: Digest::from_bytes(cursor.array().map_err(truncated)?),
            };
            if entry.frame >= header.frame_count() {
                return Err(place.refuse("it names a frame that there is not"));
            }
            check_length(entry.length, place)?;
            match entry.offset.checked_add(entry.length) {
                Some(end) if end <= FRAME_RAW_BYTES_MAX => Ok(entry),
                _ => Err(place.refuse("it lies behind the end of the largest frame")),
            }
        })
    }

    pub(crate) fn put(&self, target: &mut Vec<u8>) {
        for field in [self.frame, self.offset, self.length] {
            target.extend_from_slice(&field.to_le_bytes());
        }
        target.extend_from_slice(self.hash.as_bytes());
    }

    /// Cuts the chunk out of its raw frame and checks its hash.
    pub fn cut<'a>(&self, raw_frame: &'a [u8]) -> Result<&'a [u8], FrameError> {
        let start = usize::try_from(self.offset).ok();
        let length = usize::try_from(self.length).ok();
        let chunk = start
            .and_then(|start| raw_frame.get(start..start.checked_add(length?)?))
            .ok_or(FrameError::ChunkOutside { frame: self.frame })?;
        verify_chunk(chunk, &self.hash)?;
        Ok(chunk)
    }
}

impl ForeignChunk {
    /// Reads entries of the foreign chunk table; `first` is the number of the first of them, for errors, and
    /// `dependencies` the number of bundles that the content header names.
    pub fn parse_table(bytes: &[u8], first: u32, dependencies: usize) -> Result<Vec<Self>, ManifestError> {
        table(bytes, ManifestPart::ForeignTable, FOREIGN_ENTRY_BYTES, first, |cursor, place| {
            let truncated = place.truncated();
            let dependency = cursor.u8().map_err(truncated)?;
            if cursor.array().map_err(truncated)? != [0; 3] {
                return Err(place.refuse("reserved bytes are not zero"));
            }
            let entry = Self {
                dependency,
                number: cursor.u32().map_err(truncated)?,
                length: cursor.u32().map_err(truncated)?,
                hash: Digest::from_bytes(cursor.array().map_err(truncated)?),
            };
            if usize::from(dependency) >= dependencies {
                return Err(place.refuse("it names a bundle that the content header does not"));
            }
            check_length(entry.length, place)?;
            Ok(entry)
        })
    }

    pub(crate) fn put(&self, target: &mut Vec<u8>) {
        target.extend_from_slice(&[self.dependency, 0, 0, 0]);
        target.extend_from_slice(&self.number.to_le_bytes());
        target.extend_from_slice(&self.length.to_le_bytes());
        target.extend_from_slice(self.hash.as_bytes());
    }
}

/// Refuses bytes whose BLAKE3 is not `hash`.
pub fn verify_chunk(chunk: &[u8], hash: &Digest) -> Result<(), FrameError> {
    if blake3::hash(chunk).as_bytes() == hash.as_bytes() { Ok(()) } else { Err(FrameError::ChunkHash(*hash)) }
}

fn check_length(length: u32, place: Place) -> Result<(), ManifestError> {
    if (1..=CHUNK_BYTES_MAX).contains(&length) {
        Ok(())
    } else {
        Err(place.refuse("a chunk is empty or longer than 1 MiB"))
    }
}

/// Reads a table of entries that are `width` bytes each; the bytes must be whole entries.
pub(crate) fn table<T>(
    bytes: &[u8],
    part: ManifestPart,
    width: usize,
    first: u32,
    mut parse: impl FnMut(&mut Cursor<'_>, Place) -> Result<T, ManifestError>,
) -> Result<Vec<T>, ManifestError> {
    if !bytes.len().is_multiple_of(width) {
        return Err(Place::new(part, first).cut_off());
    }
    let mut number = first;
    bytes
        .chunks_exact(width)
        .map(|entry| {
            let parsed = parse(&mut Cursor::new(entry), Place::new(part, number));
            number = number.saturating_add(1);
            parsed
        })
        .collect()
}
