//! The first 80 bytes of a manifest: how much of everything there is, and where it lies.
//!
//! Owns: counts, section extents, and the extent of each fixed-width entry. Always holds: sections follow each
//! other without gaps, fill the manifest, and have room for exactly the entries counted.
//! Leaves to others: what lies in the sections.

use std::ops::Range;

use crate::codec::Codec;
use crate::cursor::Cursor;
use crate::limits::{MANIFEST_BYTES_MAX, RECORDS_MAX};
use crate::manifest_error::{ManifestError, ManifestPart, Place};
use crate::record::Record;

const MAGIC: [u8; 8] = *b"firnmani";
const SECTIONS: usize = 6;

/// Bytes of a manifest's header.
pub const MANIFEST_HEADER_BYTES: usize = 80;

/// Bytes of an entry of the block directory.
pub const BLOCK_ENTRY_BYTES: usize = 20;

/// Bytes of an entry of the chunk table.
pub const CHUNK_ENTRY_BYTES: usize = 44;

/// Bytes of an entry of the frame table.
pub const FRAME_ENTRY_BYTES: usize = 24;

/// Bytes of an entry of the foreign chunk table.
pub const FOREIGN_ENTRY_BYTES: usize = 44;

/// The version of a manifest: the lowest that has all that is in it, so that older programs read whatever they can.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub(crate) enum ManifestVersion {
    First = 1,
    /// Frames may be LZMA.
    Lzma = 2,
}

impl ManifestVersion {
    /// The one for a manifest with frames of these codecs.
    pub(crate) fn of(mut codecs: impl Iterator<Item = Codec>) -> Self {
        if codecs.all(Codec::is_of_version_1) { Self::First } else { Self::Lzma }
    }

    /// Whether frames may be stored so.
    pub(crate) const fn has(self, codec: Codec) -> bool {
        matches!(self, Self::Lzma) || codec.is_of_version_1()
    }
}

/// Counts and extents of a manifest. Extents are in bytes from the manifest's beginning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestHeader {
    pub(crate) version: ManifestVersion,
    pub(crate) blocks: u32,
    pub(crate) records: u32,
    pub(crate) chunks: u32,
    pub(crate) foreign: u32,
    pub(crate) frames: u32,
    pub(crate) block_bytes: u32,
    pub(crate) list_bytes: u32,
}

// The order of the sections in the manifest.
const DIRECTORY: usize = 0;
const BLOCKS: usize = 1;
const LISTS: usize = 2;
const CHUNKS: usize = 3;
const FRAMES: usize = 4;
const FOREIGN: usize = 5;

impl ManifestHeader {
    /// Reads the header from the first bytes of a manifest that is `manifest_bytes` long.
    pub fn parse(bytes: &[u8], manifest_bytes: u64) -> Result<Self, ManifestError> {
        let place = Place::new(ManifestPart::Header, 0);
        let truncated = place.truncated();
        let mut cursor = Cursor::new(bytes);
        if cursor.array().map_err(truncated)? != MAGIC {
            return Err(ManifestError::Magic);
        }
        let version = match cursor.u16().map_err(truncated)? {
            0 => return Err(place.refuse("its version is zero")),
            1 => ManifestVersion::First,
            2 => ManifestVersion::Lzma,
            found => return Err(ManifestError::TooNew { found, known: ManifestVersion::Lzma as u16 }),
        };
        if cursor.u16().map_err(truncated)? != 0 {
            return Err(place.refuse("reserved bytes are not zero"));
        }
        let blocks = cursor.u32().map_err(truncated)?;
        let records = cursor.u32().map_err(truncated)?;
        let chunks = cursor.u32().map_err(truncated)?;
        let foreign = cursor.u32().map_err(truncated)?;
        let frames = cursor.u32().map_err(truncated)?;
        if manifest_bytes > MANIFEST_BYTES_MAX {
            return Err(place.refuse("the manifest is larger than 32 MiB"));
        }
        if records > RECORDS_MAX {
            return Err(place.refuse("it counts more than 65,535 records"));
        }
        if blocks > records || (blocks == 0 && records > 0) {
            return Err(place.refuse("its counts of blocks and records contradict each other"));
        }
        let mut end = MANIFEST_HEADER_BYTES as u64;
        let mut sections = [0u32; SECTIONS];
        for section in &mut sections {
            let offset = cursor.u32().map_err(truncated)?;
            let length = cursor.u32().map_err(truncated)?;
            if u64::from(offset) != end {
                return Err(place.refuse("its sections do not follow each other"));
            }
            end += u64::from(length);
            *section = length;
        }
        if end != manifest_bytes {
            return Err(place.refuse("its sections do not fill the manifest"));
        }
        let header = Self {
            version,
            blocks,
            records,
            chunks,
            foreign,
            frames,
            block_bytes: sections[BLOCKS],
            list_bytes: sections[LISTS],
        };
        if sections.map(u64::from) != header.section_bytes() {
            return Err(place.refuse("a section does not have the length of the entries counted"));
        }
        Ok(header)
    }

    /// The 80 bytes: see `docs/formats.md`.
    pub(crate) fn to_bytes(&self) -> [u8; MANIFEST_HEADER_BYTES] {
        let mut bytes = Vec::with_capacity(MANIFEST_HEADER_BYTES);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&(self.version as u16).to_le_bytes());
        bytes.extend_from_slice(&[0; 2]);
        for count in [self.blocks, self.records, self.chunks, self.foreign, self.frames] {
            bytes.extend_from_slice(&count.to_le_bytes());
        }
        for section in 0..SECTIONS {
            let extent = self.section(section);
            for number in [extent.start, extent.end - extent.start] {
                let number = u32::try_from(number).expect("the builder keeps manifests below 32 MiB");
                bytes.extend_from_slice(&number.to_le_bytes());
            }
        }
        bytes.try_into().expect("8 + 2 + 2 + 5 · 4 + 6 · 8 bytes were written")
    }

    fn section_bytes(&self) -> [u64; SECTIONS] {
        let table = |entries: u32, width: usize| u64::from(entries) * width as u64;
        [
            table(self.blocks, BLOCK_ENTRY_BYTES),
            self.block_bytes.into(),
            self.list_bytes.into(),
            table(self.chunks, CHUNK_ENTRY_BYTES),
            table(self.frames, FRAME_ENTRY_BYTES),
            table(self.foreign, FOREIGN_ENTRY_BYTES),
        ]
    }

    fn section(&self, number: usize) -> Range<u64> {
        let bytes = self.section_bytes();
        let start = MANIFEST_HEADER_BYTES as u64 + bytes[..number].iter().sum::<u64>();
        start..start + bytes[number]
    }

    fn entries(
        &self,
        (section, part, width): (usize, ManifestPart, usize),
        count: u32,
        entries: &Range<u32>,
    ) -> Result<Range<u64>, ManifestError> {
        if entries.start > entries.end || entries.end > count {
            return Err(ManifestError::NoEntry { part, number: entries.end.max(1).into() });
        }
        let start = self.section(section).start;
        let at = |entry: u32| start + u64::from(entry) * width as u64;
        Ok(at(entries.start)..at(entries.end))
    }

    /// Whether there may be LZMA among its frames.
    pub const fn may_have_lzma(&self) -> bool {
        matches!(self.version, ManifestVersion::Lzma)
    }

    /// Blocks of records.
    pub const fn block_count(&self) -> u32 {
        self.blocks
    }

    /// Records.
    pub const fn record_count(&self) -> u32 {
        self.records
    }

    /// The bundle's own chunks.
    pub const fn chunk_count(&self) -> u32 {
        self.chunks
    }

    /// Chunks in other bundles.
    pub const fn foreign_count(&self) -> u32 {
        self.foreign
    }

    /// Frames.
    pub const fn frame_count(&self) -> u32 {
        self.frames
    }

    /// Bytes of the whole manifest.
    pub fn manifest_bytes(&self) -> u64 {
        self.section(FOREIGN).end
    }

    /// Where the block directory lies: right behind the header.
    pub fn directory_extent(&self) -> Range<u64> {
        self.section(DIRECTORY)
    }

    /// Where the blocks lie.
    pub fn blocks_extent(&self) -> Range<u64> {
        self.section(BLOCKS)
    }

    /// Where the chunk lists lie.
    pub fn chunk_lists_extent(&self) -> Range<u64> {
        self.section(LISTS)
    }

    /// Where the chunk list of `record`, a record of this manifest, lies.
    pub fn chunk_list_extent(&self, record: &Record) -> Result<Range<u64>, ManifestError> {
        let lists = self.chunk_lists_extent();
        let within = &record.chunk_list;
        if within.start > within.end || within.end > lists.end - lists.start {
            return Err(ManifestError::NoEntry { part: ManifestPart::ChunkList, number: within.end });
        }
        Ok(lists.start + within.start..lists.start + within.end)
    }

    /// Where these entries of the chunk table lie.
    pub fn chunk_entries_extent(&self, entries: &Range<u32>) -> Result<Range<u64>, ManifestError> {
        self.entries((CHUNKS, ManifestPart::ChunkTable, CHUNK_ENTRY_BYTES), self.chunks, entries)
    }

    /// Where these entries of the frame table lie.
    pub fn frame_entries_extent(&self, entries: &Range<u32>) -> Result<Range<u64>, ManifestError> {
        self.entries((FRAMES, ManifestPart::FrameTable, FRAME_ENTRY_BYTES), self.frames, entries)
    }

    /// Where these entries of the foreign chunk table lie.
    pub fn foreign_entries_extent(&self, entries: &Range<u32>) -> Result<Range<u64>, ManifestError> {
        self.entries((FOREIGN, ManifestPart::ForeignTable, FOREIGN_ENTRY_BYTES), self.foreign, entries)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> ManifestHeader {
        let (version, block_bytes, list_bytes) = (ManifestVersion::First, 500, 60);
        ManifestHeader {
            version,
            blocks: 2,
            records: 5,
            chunks: 7,
            foreign: 1,
            frames: 3,
            block_bytes,
            list_bytes,
        }
    }

    #[test]
    fn a_header_reads_back() {
        let header = header();
        assert_eq!(ManifestHeader::parse(&header.to_bytes(), header.manifest_bytes()), Ok(header));
    }

    #[test]
    fn entries_lie_within_their_sections() {
        let header = header();
        assert_eq!(header.directory_extent(), 80..120);
        assert_eq!(header.chunk_entries_extent(&(0..7)), Ok(680..680 + 7 * 44));
        assert_eq!(header.frame_entries_extent(&(1..2)), Ok(988 + 24..988 + 48));
        assert!(header.frame_entries_extent(&(3..4)).is_err());
        assert!(header.chunk_entries_extent(&Range { start: 2, end: 1 }).is_err());
    }

    #[test]
    fn no_flipped_byte_panics_and_none_moves_a_section() {
        let bytes = header().to_bytes();
        let length = header().manifest_bytes();
        for position in 0..bytes.len() {
            for bit in 0..8 {
                let mut damaged = bytes;
                damaged[position] ^= 1 << bit;
                if let Ok(parsed) = ManifestHeader::parse(&damaged, length) {
                    assert_eq!(parsed.section_bytes(), header().section_bytes());
                }
            }
        }
        assert!(ManifestHeader::parse(&bytes[..79], length).is_err());
        assert!(ManifestHeader::parse(&bytes, length - 1).is_err());
    }
}
