//! A whole manifest, checked: what the coordinator does at commit and `recover` with what it found.
//!
//! Owns: every check that needs more than one section. Always holds: a [`Manifest`] has the root of its content
//! header; its frames cover the payload before it; its chunks cover its frames; its records' chunk lists cover
//! their section, name chunks that exist, and add up to the sizes published.
//! Leaves to others: signatures, NarHash, and whether other bundles really have the foreign chunks
//! ([`Manifest::check_dependency`] once they are at hand).

use bytes::Bytes;

use crate::block::{Block, BlockDirectory};
use crate::chunk_entry::{ChunkEntry, ChunkRef, ForeignChunk};
use crate::chunk_list::{ChunkList, ChunkRun, PATCH_BYTES};
use crate::content_header::{BundleRole, ContentHeader};
use crate::frame::FrameEntry;
use crate::manifest_error::{ManifestError, ManifestPart, Place};
use crate::manifest_header::ManifestHeader;
use crate::record::{Encoding, Record, contradiction};

/// A manifest that was checked whole.
#[derive(Debug, Clone)]
pub struct Manifest {
    content: ContentHeader,
    header: ManifestHeader,
    directory: BlockDirectory,
    chunks: Vec<ChunkEntry>,
    frames: Vec<FrameEntry>,
    foreign: Vec<ForeignChunk>,
    bytes: Bytes,
}

/// A record and where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocatedRecord {
    /// The block it lies in.
    pub block: u16,
    /// Its place in the block.
    pub entry: u16,
    /// What it says.
    pub record: Record,
}

impl Manifest {
    /// Reads and checks the manifest of the bundle that `content` describes.
    ///
    /// Memory: the bytes, the tables, and one block of records at a time.
    pub fn parse_whole(content: &ContentHeader, bytes: impl Into<Bytes>) -> Result<Self, ManifestError> {
        let bytes = bytes.into();
        if bytes.len() as u64 != content.manifest_bytes() {
            return Err(Place::new(ManifestPart::Header, 0).cut_off());
        }
        if blake3::hash(&bytes).as_bytes() != content.manifest_root().as_bytes() {
            return Err(ManifestError::Root);
        }
        let header = ManifestHeader::parse(&bytes, content.manifest_bytes())?;
        check_role(content, &header)?;
        let section = |extent| slice(&bytes, extent);
        let directory = BlockDirectory::parse(section(header.directory_extent())?, &header)?;
        let chunks = section(header.chunk_entries_extent(&(0..header.chunk_count()))?)?;
        let frames = section(header.frame_entries_extent(&(0..header.frame_count()))?)?;
        let foreign = section(header.foreign_entries_extent(&(0..header.foreign_count()))?)?;
        let manifest = Self {
            content: content.clone(),
            chunks: ChunkEntry::parse_table(chunks, 0, &header)?,
            frames: FrameEntry::parse_table(frames, 0, &header, content.manifest_extent().start)?,
            foreign: ForeignChunk::parse_table(foreign, 0, content.dependencies().len())?,
            header,
            directory,
            bytes,
        };
        manifest.check_frames()?;
        manifest.check_records()?;
        Ok(manifest)
    }

    /// Frames cover the payload up to the manifest, and chunks cover the frames, both in order.
    fn check_frames(&self) -> Result<(), ManifestError> {
        let mut offset = 0;
        for (number, frame) in (0..).zip(&self.frames) {
            if frame.payload_offset != offset {
                return Err(Place::new(ManifestPart::FrameTable, number).refuse("frames leave gaps"));
            }
            offset = frame.payload_extent().end;
        }
        if offset != self.content.manifest_extent().start {
            let place = Place::new(ManifestPart::FrameTable, self.header.frame_count());
            return Err(place.refuse("the frames do not reach up to the manifest"));
        }
        let mut frames = (0u32..).zip(&self.frames);
        let mut current: Option<(u32, &FrameEntry)> = None;
        let mut filled = 0;
        for (number, chunk) in (0..).zip(&self.chunks) {
            if current.is_none_or(|(_, frame)| filled == frame.raw_bytes) {
                current = frames.next();
                filled = 0;
            }
            let fits = current.is_some_and(|(frame, entry)| {
                chunk.frame == frame && chunk.offset == filled && filled + chunk.length <= entry.raw_bytes
            });
            if !fits {
                let place = Place::new(ManifestPart::ChunkTable, number);
                return Err(place.refuse("chunks do not cover their frames"));
            }
            filled += chunk.length;
        }
        if current.is_some_and(|(_, frame)| filled != frame.raw_bytes) || frames.next().is_some() {
            let place = Place::new(ManifestPart::ChunkTable, self.header.chunk_count());
            return Err(place.refuse("chunks do not cover their frames"));
        }
        Ok(())
    }

    /// Chunk lists cover their section, and add up to the sizes of their objects.
    fn check_records(&self) -> Result<(), ManifestError> {
        let own = running_sums(self.chunks.iter().map(|chunk| chunk.length));
        let foreign = running_sums(self.foreign.iter().map(|chunk| chunk.length));
        let run_bytes = |run: &ChunkRun| {
            let (sums, first) = match run.first {
                ChunkRef::Own(first) => (&own, first),
                ChunkRef::Foreign(first) => (&foreign, first),
            };
            let at = |number: u32| sums.get(usize::try_from(number).ok()?).copied();
            Some(at(first.checked_add(run.count)?)? - at(first)?)
        };
        let mut list_offset = 0;
        let mut ordinal = 0;
        for located in self.records() {
            let record = located?.record;
            let place = Place::new(ManifestPart::Record, ordinal);
            if record.chunk_list.start != list_offset {
                return Err(place.refuse("chunk lists do not follow each other"));
            }
            list_offset = record.chunk_list.end;
            let list = self.list(&record, ordinal)?;
            // A list has 4 million runs of less than 2^40 bytes at most.
            let bytes = list.runs().iter().try_fold(0u64, |sum, run| sum.checked_add(run_bytes(run)?));
            if bytes != Some(record.content_bytes) {
                return Err(place.refuse("its chunks do not add up to its content bytes"));
            }
            if let Some(why) = contradiction(&record.key, record.encoding, record.content_bytes, &record.body)
            {
                return Err(place.refuse(why));
            }
            check_patches(&record, &list, place)?;
            ordinal += 1;
        }
        let lists = self.header.chunk_lists_extent();
        if list_offset != lists.end - lists.start {
            let place = Place::new(ManifestPart::ChunkList, ordinal);
            return Err(place.refuse("chunk lists do not fill their section"));
        }
        Ok(())
    }

    /// What the content header says.
    pub const fn content(&self) -> &ContentHeader {
        &self.content
    }

    /// Counts and extents.
    pub const fn header(&self) -> &ManifestHeader {
        &self.header
    }

    /// The manifest's bytes.
    pub const fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Block `number`, decompressed and read.
    pub fn block(&self, number: u16) -> Result<Block, ManifestError> {
        let entry = self.directory.entry(number)?;
        Block::parse(slice(&self.bytes, entry.extent.clone())?, entry)
    }

    /// One record.
    pub fn record(&self, block: u16, entry: u16) -> Result<Record, ManifestError> {
        self.block(block)?.record(entry).cloned()
    }

    /// All records in order, block after block; an error ends them.
    pub fn records(&self) -> impl Iterator<Item = Result<LocatedRecord, ManifestError>> + '_ {
        (0..=u16::MAX).take(self.directory.entries().len()).flat_map(|block| {
            let (records, error) = match self.block(block) {
                Ok(parsed) => (parsed.into_records(), None),
                Err(error) => (Vec::new(), Some(Err(error))),
            };
            let located = (0..=u16::MAX)
                .zip(records)
                .map(move |(entry, record)| Ok(LocatedRecord { block, entry, record }));
            error.into_iter().chain(located)
        })
    }

    /// The chunks and patches of an object of this manifest.
    pub fn chunk_list(&self, record: &Record) -> Result<ChunkList, ManifestError> {
        self.list(record, 0)
    }

    fn list(&self, record: &Record, ordinal: u32) -> Result<ChunkList, ManifestError> {
        let extent = self.header.chunk_list_extent(record)?;
        ChunkList::parse(slice(&self.bytes, extent)?, ordinal, &self.header)
    }

    /// An entry of the chunk table.
    pub fn chunk(&self, number: u32) -> Result<&ChunkEntry, ManifestError> {
        entry(&self.chunks, number, ManifestPart::ChunkTable)
    }

    /// An entry of the frame table.
    pub fn frame(&self, number: u32) -> Result<&FrameEntry, ManifestError> {
        entry(&self.frames, number, ManifestPart::FrameTable)
    }

    /// An entry of the foreign chunk table.
    pub fn foreign(&self, number: u32) -> Result<&ForeignChunk, ManifestError> {
        entry(&self.foreign, number, ManifestPart::ForeignTable)
    }

    /// The chunk table.
    pub fn chunks(&self) -> &[ChunkEntry] {
        &self.chunks
    }

    /// The frame table.
    pub fn frames(&self) -> &[FrameEntry] {
        &self.frames
    }

    /// The foreign chunk table.
    pub fn foreign_chunks(&self) -> &[ForeignChunk] {
        &self.foreign
    }

    /// Refuses foreign chunks that `other` should have and has not, with this length and hash.
    ///
    /// `other` must be the manifest of dependency `dependency`.
    pub fn check_dependency(&self, dependency: u8, other: &Self) -> Result<(), ManifestError> {
        for (number, chunk) in (0..).zip(&self.foreign) {
            if chunk.dependency != dependency {
                continue;
            }
            let place = Place::new(ManifestPart::ForeignTable, number);
            let agrees = other
                .chunk(chunk.number)
                .is_ok_and(|own| (own.length, own.hash) == (chunk.length, chunk.hash));
            if !agrees {
                return Err(place.refuse("the bundle it names does not have this chunk"));
            }
        }
        Ok(())
    }
}

fn check_role(content: &ContentHeader, header: &ManifestHeader) -> Result<(), ManifestError> {
    let place = Place::new(ManifestPart::Header, 0);
    match content.role() {
        BundleRole::Ordinary if header.record_count() == 0 => {
            Err(place.refuse("an ordinary bundle has no record"))
        }
        BundleRole::Part if header.record_count() != 0 => Err(place.refuse("a part has records")),
        BundleRole::Head if header.record_count() != 1 => {
            Err(place.refuse("a head does not have exactly one record"))
        }
        _ => Ok(()),
    }
}

fn check_patches(record: &Record, list: &ChunkList, place: Place) -> Result<(), ManifestError> {
    let Some(last) = list.patches().last() else { return Ok(()) };
    let Some(info) = record.path_info().filter(|_| record.encoding == Encoding::Chunked) else {
        return Err(place.refuse("only chunked store paths have patches"));
    };
    if last.offset.saturating_add(PATCH_BYTES) > record.content_bytes {
        return Err(place.refuse("a patch lies behind the end of the object"));
    }
    let known =
        |reference: u32| usize::try_from(reference).is_ok_and(|number| number <= info.references.len());
    if list.patches().iter().all(|patch| known(patch.reference)) {
        Ok(())
    } else {
        Err(place.refuse("a patch names a reference that the object does not have"))
    }
}

/// Element i is the sum of the first i lengths.
fn running_sums(lengths: impl Iterator<Item = u32>) -> Vec<u64> {
    let mut sum = 0;
    std::iter::once(0)
        .chain(lengths.map(|length| {
            sum += u64::from(length);
            sum
        }))
        .collect()
}

fn slice(bytes: &Bytes, extent: std::ops::Range<u64>) -> Result<&[u8], ManifestError> {
    let start = usize::try_from(extent.start).ok();
    let end = usize::try_from(extent.end).ok();
    start
        .zip(end)
        .and_then(|(start, end)| bytes.get(start..end))
        .ok_or_else(|| Place::new(ManifestPart::Header, 0).cut_off())
}

fn entry<T>(table: &[T], number: u32, part: ManifestPart) -> Result<&T, ManifestError> {
    usize::try_from(number)
        .ok()
        .and_then(|number| table.get(number))
        .ok_or(ManifestError::NoEntry { part, number: number.into() })
}
