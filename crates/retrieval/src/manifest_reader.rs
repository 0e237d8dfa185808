//! Manifests by their pieces: the header and directory once, then the block or page that is wanted.
//!
//! Owns: which bytes of a manifest are read, and remembering them. Always holds: memory is bounded; equal
//! pieces under way are read once; a record that is handed out carries the key that was asked for.
//! Leaves to others: what the pieces mean (`bundle`), the bytes of objects (`object`).

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use firn_base::{BundleId, ObjectKey};
use firn_bundle::{
    Block, BlockDirectory, ChunkEntry, ChunkList, ContentHeader, ForeignChunk, FrameEntry,
    MANIFEST_FIRST_READ_BYTES, ManifestError, ManifestHeader, Record,
};
use futures::FutureExt;
use futures::future::try_join_all;

use crate::single_flight::SingleFlight;
use crate::weighted_cache::WeightedCache;
use crate::{PayloadReader, ReadError};

/// The longest chunk list that is read. With patches of two bytes each it becomes 64 MiB in memory; the
/// longest honest ones have some ten thousand patches.
pub const CHUNK_LIST_BYTES_MAX: u64 = 8 << 20;

// About one range proof's worth: smaller reads carry as many bytes.
const PAGE_ENTRIES: u32 = 512;

// Exactly one range proof's worth. The lists of some hundred small objects lie in it: what opens one has opened its
// neighbours. Longer lists are those of large objects, of which few are opened.
const LIST_PAGE_BYTES: u64 = 16 << 10;

// Parsed records take about this many times their raw bytes.
const RECORD_WEIGHT: usize = 4;

/// How much a manifest reader remembers.
#[derive(Debug, Clone, Copy)]
pub struct ManifestOptions {
    /// Bytes of headers and directories: a few hundred bytes to 64 KiB per bundle.
    pub heads_bytes: usize,
    /// Bytes of parsed blocks of records.
    pub blocks_bytes: usize,
    /// Bytes of pages of chunk lists, and of chunk and frame tables.
    pub tables_bytes: usize,
}

impl Default for ManifestOptions {
    fn default() -> Self {
        Self { heads_bytes: 32 << 20, blocks_bytes: 64 << 20, tables_bytes: 16 << 20 }
    }
}

/// What is read of a manifest before anything else.
#[derive(Debug)]
pub struct ManifestHead {
    /// What the bundle holds.
    pub content: Arc<ContentHeader>,
    /// Counts and extents.
    pub header: ManifestHeader,
    /// Where the blocks lie.
    pub directory: BlockDirectory,
    // The whole manifest, if the first read had it.
    whole: Option<Bytes>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Table {
    Chunks,
    Frames,
    Foreign,
    /// Chunk lists, by stretches of the payload.
    Lists,
}

type PageName = (BundleId, Table, u32);

#[derive(Debug)]
enum Page {
    Chunks(Vec<ChunkEntry>),
    Frames(Vec<FrameEntry>),
    Foreign(Vec<ForeignChunk>),
    /// With their hash, for nobody parses them beforehand: what turns over in memory is read again.
    Lists(Bytes, blake3::Hash),
}

type Records = Arc<[Arc<Record>]>;
type Flights<K, T> = SingleFlight<K, Result<T, ReadError>>;

/// Reads pieces of manifests and remembers them. Clones share the memory.
#[derive(Debug, Clone)]
pub struct ManifestReader {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    payloads: Arc<dyn PayloadReader>,
    heads: WeightedCache<BundleId, Arc<ManifestHead>>,
    blocks: WeightedCache<(BundleId, u16), Records>,
    pages: WeightedCache<PageName, Arc<Page>>,
    head_flights: Flights<BundleId, Arc<ManifestHead>>,
    block_flights: Flights<(BundleId, u16), Records>,
    page_flights: Flights<PageName, Arc<Page>>,
}

impl ManifestReader {
    /// A reader of the manifests in `payloads`.
    pub fn new(payloads: Arc<dyn PayloadReader>, options: ManifestOptions) -> Self {
        Self {
            shared: Arc::new(Shared {
                payloads,
                heads: WeightedCache::new(options.heads_bytes),
                blocks: WeightedCache::new(options.blocks_bytes),
                pages: WeightedCache::new(options.tables_bytes),
                head_flights: SingleFlight::new(),
                block_flights: SingleFlight::new(),
                page_flights: SingleFlight::new(),
            }),
        }
    }

    /// Where the payloads are read from.
    pub fn payloads(&self) -> &Arc<dyn PayloadReader> {
        &self.shared.payloads
    }

    /// Header and directory of the bundle's manifest: one read of 64 KiB, nearly always.
    pub async fn head(&self, bundle: BundleId) -> Result<Arc<ManifestHead>, ReadError> {
        if let Some(head) = self.shared.heads.get(&bundle) {
            return Ok(head);
        }
        let shared = Arc::clone(&self.shared);
        let read = move || async move { shared.read_head(bundle).await }.boxed();
        self.shared.head_flights.run(bundle, read).await
    }

    /// The record at (block, entry), if it carries `key`.
    ///
    /// # Errors
    /// [`ReadError::Damaged`] where the manifest has no such record or it is that of another key: index and
    /// bundle contradict each other.
    pub async fn record(
        &self,
        bundle: BundleId,
        block: u16,
        entry: u16,
        key: &ObjectKey,
    ) -> Result<Arc<Record>, ReadError> {
        let records = self.block(bundle, block).await?;
        let record = records
            .get(usize::from(entry))
            .ok_or_else(|| ReadError::damaged(bundle, format!("block {block} has no record {entry}")))?;
        if record.key != *key {
            let what = format!("record {entry} of block {block} is that of {}, not of {key}", record.key);
            return Err(ReadError::damaged(bundle, what));
        }
        Ok(Arc::clone(record))
    }

    /// All records of a block.
    pub async fn block(&self, bundle: BundleId, block: u16) -> Result<Arc<[Arc<Record>]>, ReadError> {
        if let Some(records) = self.shared.blocks.get(&(bundle, block)) {
            return Ok(records);
        }
        let head = self.head(bundle).await?;
        let shared = Arc::clone(&self.shared);
        let read = move || async move { shared.read_block(bundle, &head, block).await }.boxed();
        self.shared.block_flights.run((bundle, block), read).await
    }

    /// The chunks and patches of an object of this bundle.
    pub async fn chunk_list(&self, bundle: BundleId, record: &Record) -> Result<ChunkList, ReadError> {
        let head = self.head(bundle).await?;
        let extent = head.header.chunk_list_extent(record);
        let extent = extent.map_err(|error| ReadError::damaged(bundle, error))?;
        if extent.end - extent.start > CHUNK_LIST_BYTES_MAX {
            return Err(ReadError::damaged(bundle, "a chunk list is larger than 8 MiB"));
        }
        let bytes = self.list_bytes(bundle, &head, extent.clone()).await?;
        ChunkList::parse(&bytes, 0, &head.header).map_err(|error| {
            self.doubt_list(bundle, &head, &extent);
            ReadError::damaged(bundle, error)
        })
    }

    /// The bytes of a chunk list, by its place in the manifest.
    async fn list_bytes(
        &self,
        bundle: BundleId,
        head: &ManifestHead,
        extent: Range<u64>,
    ) -> Result<Bytes, ReadError> {
        if extent.is_empty() || head.whole.is_some() || extent.end - extent.start > LIST_PAGE_BYTES {
            return self.shared.manifest_bytes(bundle, head, extent).await;
        }
        let (place, numbers) = list_pages(head, &extent);
        let first = numbers.start;
        let pages = self.pages(bundle, Table::Lists, numbers).await?;
        let parts = pages.iter().filter_map(|page| match &**page {
            Page::Lists(bytes, hash) => Some((bytes, hash)),
            Page::Chunks(_) | Page::Frames(_) | Page::Foreign(_) => None,
        });
        // One, or two where the list lies across a border.
        let mut found: Vec<Bytes> = Vec::with_capacity(2);
        for (bytes, hash) in parts {
            if blake3::hash(bytes) != *hash {
                self.doubt_list(bundle, head, &extent);
                return self.shared.manifest_bytes(bundle, head, extent).await;
            }
            found.push(bytes.clone());
        }
        let bytes = if found.len() == 1 { found.remove(0) } else { found.concat().into() };
        let offset = place.start - list_page(head, first).start;
        let found = slice(&bytes, &(offset..offset + (place.end - place.start)));
        found.ok_or_else(|| ReadError::damaged(bundle, "it is cut off"))
    }

    /// What is remembered of a chunk list is forgotten.
    fn doubt_list(&self, bundle: BundleId, head: &ManifestHead, extent: &Range<u64>) {
        let (_, numbers) = list_pages(head, extent);
        for number in numbers {
            self.shared.pages.remove(&(bundle, Table::Lists, number));
            self.shared.payloads.doubt(bundle, list_page(head, number));
        }
    }

    /// Entries of the chunk table.
    pub async fn chunk_entries(
        &self,
        bundle: BundleId,
        entries: Range<u32>,
    ) -> Result<Vec<ChunkEntry>, ReadError> {
        let pages = self.pages(bundle, Table::Chunks, pages_of(&entries)).await?;
        gather(bundle, &pages, &entries, |page| match page {
            Page::Chunks(own) => own,
            Page::Frames(_) | Page::Foreign(_) | Page::Lists(..) => &[],
        })
    }

    /// Entries of the foreign chunk table.
    pub async fn foreign_entries(
        &self,
        bundle: BundleId,
        entries: Range<u32>,
    ) -> Result<Vec<ForeignChunk>, ReadError> {
        let pages = self.pages(bundle, Table::Foreign, pages_of(&entries)).await?;
        gather(bundle, &pages, &entries, |page| match page {
            Page::Foreign(own) => own,
            Page::Chunks(_) | Page::Frames(_) | Page::Lists(..) => &[],
        })
    }

    /// One entry of the frame table.
    pub async fn frame_entry(&self, bundle: BundleId, number: u32) -> Result<FrameEntry, ReadError> {
        let entries = number..number.saturating_add(1);
        let pages = self.pages(bundle, Table::Frames, pages_of(&entries)).await?;
        let found = gather(bundle, &pages, &entries, |page| match page {
            Page::Frames(own) => own,
            Page::Chunks(_) | Page::Foreign(_) | Page::Lists(..) => &[],
        })?;
        found.into_iter().next().ok_or_else(|| ReadError::damaged(bundle, "the frame table is too short"))
    }

    async fn pages(
        &self,
        bundle: BundleId,
        table: Table,
        numbers: Range<u32>,
    ) -> Result<Vec<Arc<Page>>, ReadError> {
        try_join_all(numbers.map(|number| self.page(bundle, table, number))).await
    }

    async fn page(&self, bundle: BundleId, table: Table, number: u32) -> Result<Arc<Page>, ReadError> {
        let name = (bundle, table, number);
        if let Some(page) = self.shared.pages.get(&name) {
            return Ok(page);
        }
        let head = self.head(bundle).await?;
        let shared = Arc::clone(&self.shared);
        let read = move || async move { shared.read_page(&head, name).await }.boxed();
        self.shared.page_flights.run(name, read).await
    }
}

impl Shared {
    async fn read_head(&self, bundle: BundleId) -> Result<Arc<ManifestHead>, ReadError> {
        let damaged = |error: ManifestError| ReadError::in_manifest(bundle, &error);
        let content = self.payloads.content(bundle).await?;
        let length = content.manifest_bytes();
        let start = content.manifest_extent().start;
        let mut read =
            self.payloads.read(bundle, start..start + length.min(MANIFEST_FIRST_READ_BYTES)).await?;
        let header = ManifestHeader::parse(&read, length).map_err(damaged)?;
        let extent = header.directory_extent();
        if extent.end > read.len() as u64 {
            let rest = self.payloads.read(bundle, start + read.len() as u64..start + extent.end).await?;
            read = [read, rest].concat().into();
        }
        let directory = slice(&read, &extent).ok_or_else(|| ReadError::damaged(bundle, "it is cut off"))?;
        let directory = BlockDirectory::parse(&directory, &header).map_err(damaged)?;
        let whole = (read.len() as u64 == length).then_some(read);
        let bytes = whole.as_ref().map_or(0, Bytes::len)
            + size_of_val(directory.entries())
            + content.dependencies().len() * 32
            + size_of::<ManifestHead>();
        let head = Arc::new(ManifestHead { content, header, directory, whole });
        self.heads.insert(bundle, Arc::clone(&head), bytes);
        Ok(head)
    }

    async fn read_block(
        &self,
        bundle: BundleId,
        head: &ManifestHead,
        block: u16,
    ) -> Result<Records, ReadError> {
        let damaged = |error: ManifestError| ReadError::in_manifest(bundle, &error);
        let entry = head.directory.entry(block).map_err(damaged)?;
        let stored = self.manifest_bytes(bundle, head, entry.extent.clone()).await?;
        let parsed = Block::parse(&stored, entry).map_err(|error| {
            let start = head.content.manifest_extent().start;
            let place = |offset: u64| start.saturating_add(offset);
            self.payloads.doubt(bundle, place(entry.extent.start)..place(entry.extent.end));
            damaged(error)
        })?;
        let records: Records = parsed.into_records().into_iter().map(Arc::new).collect();
        let references: usize =
            records.iter().filter_map(|record| record.path_info()).map(|info| info.references.len()).sum();
        let raw = usize::try_from(entry.raw_bytes).unwrap_or(usize::MAX);
        let bytes = raw
            .saturating_mul(RECORD_WEIGHT)
            .saturating_add(records.len() * size_of::<Record>())
            .saturating_add(references * 128);
        self.blocks.insert((bundle, block), Arc::clone(&records), bytes);
        Ok(records)
    }

    async fn read_page(&self, head: &ManifestHead, name: PageName) -> Result<Arc<Page>, ReadError> {
        let (bundle, table, number) = name;
        let damaged = |error: ManifestError| ReadError::in_manifest(bundle, &error);
        let entries = |count: u32| {
            let first = number.saturating_mul(PAGE_ENTRIES).min(count);
            first..first.saturating_add(PAGE_ENTRIES).min(count)
        };
        let (first, extent) = match table {
            Table::Chunks => {
                let entries = entries(head.header.chunk_count());
                (entries.start, head.header.chunk_entries_extent(&entries))
            }
            Table::Frames => {
                let entries = entries(head.header.frame_count());
                (entries.start, head.header.frame_entries_extent(&entries))
            }
            Table::Foreign => {
                let entries = entries(head.header.foreign_count());
                (entries.start, head.header.foreign_entries_extent(&entries))
            }
            Table::Lists => {
                let (page, start) = (list_page(head, number), head.content.manifest_extent().start);
                (0, Ok(page.start - start..page.end - start))
            }
        };
        let bytes = self.manifest_bytes(bundle, head, extent.map_err(damaged)?).await?;
        let content = &head.content;
        let page = match table {
            Table::Chunks => ChunkEntry::parse_table(&bytes, first, &head.header).map(Page::Chunks),
            Table::Frames => {
                let frames_end = content.manifest_extent().start;
                FrameEntry::parse_table(&bytes, first, &head.header, frames_end).map(Page::Frames)
            }
            Table::Foreign => {
                ForeignChunk::parse_table(&bytes, first, content.dependencies().len()).map(Page::Foreign)
            }
            Table::Lists => Ok(Page::Lists(bytes.clone(), blake3::hash(&bytes))),
        };
        let page = Arc::new(page.map_err(damaged)?);
        self.pages.insert(name, Arc::clone(&page), bytes.len());
        Ok(page)
    }

    /// Bytes by their place in the manifest.
    async fn manifest_bytes(
        &self,
        bundle: BundleId,
        head: &ManifestHead,
        extent: Range<u64>,
    ) -> Result<Bytes, ReadError> {
        if extent.is_empty() {
            return Ok(Bytes::new());
        }
        if let Some(whole) = &head.whole {
            return slice(whole, &extent).ok_or_else(|| ReadError::damaged(bundle, "it is cut off"));
        }
        let start = head.content.manifest_extent().start;
        self.payloads.read(bundle, start.saturating_add(extent.start)..start.saturating_add(extent.end)).await
    }
}

/// The pages of a table that hold these entries.
fn pages_of(entries: &Range<u32>) -> Range<u32> {
    entries.start / PAGE_ENTRIES..entries.end.div_ceil(PAGE_ENTRIES)
}

/// Where a chunk list at this place of the manifest lies in the payload, and the pages that hold it.
fn list_pages(head: &ManifestHead, extent: &Range<u64>) -> (Range<u64>, Range<u32>) {
    let start = head.content.manifest_extent().start;
    let place = start.saturating_add(extent.start)..start.saturating_add(extent.end);
    // Payloads are too short for others.
    let number = |page: u64| u32::try_from(page).unwrap_or(u32::MAX);
    let numbers = number(place.start / LIST_PAGE_BYTES)..number(place.end.div_ceil(LIST_PAGE_BYTES));
    (place, numbers)
}

/// What of the payload is a page of chunk lists: the part of them that lies in one group of the payload's tree.
fn list_page(head: &ManifestHead, number: u32) -> Range<u64> {
    let (lists, start) = (head.header.chunk_lists_extent(), head.content.manifest_extent().start);
    let lists = start.saturating_add(lists.start)..start.saturating_add(lists.end);
    let page = u64::from(number) * LIST_PAGE_BYTES;
    let within = |place: u64| place.clamp(lists.start, lists.end);
    within(page)..within(page + LIST_PAGE_BYTES)
}

/// The entries asked for, out of the pages that hold them.
fn gather<T: Copy>(
    bundle: BundleId,
    pages: &[Arc<Page>],
    entries: &Range<u32>,
    table: impl Fn(&Page) -> &[T],
) -> Result<Vec<T>, ReadError> {
    let first = usize::try_from(entries.start % PAGE_ENTRIES).unwrap_or(usize::MAX);
    let count = entries.len();
    let found: Vec<T> = pages.iter().flat_map(|page| table(page)).skip(first).take(count).copied().collect();
    if found.len() == count {
        Ok(found)
    } else {
        Err(ReadError::damaged(
            bundle,
            format!("a table has no entries {} to {}", entries.start, entries.end),
        ))
    }
}

fn slice(bytes: &Bytes, extent: &Range<u64>) -> Option<Bytes> {
    let start = usize::try_from(extent.start).ok()?;
    let end = usize::try_from(extent.end).ok()?;
    (start <= end && end <= bytes.len()).then(|| bytes.slice(start..end))
}

#[cfg(test)]
mod tests {
    use firn_bundle::{Blob, BuilderOptions, BundleBuilder, Encoding, NewRecord};
    use firn_nix_format::{Compression, Sha256};
    use futures::future::{BoxFuture, ready};

    use super::*;

    /// One payload in memory.
    #[derive(Debug)]
    struct Payload {
        content: Arc<ContentHeader>,
        bytes: Bytes,
    }

    impl PayloadReader for Payload {
        fn content(&self, _: BundleId) -> BoxFuture<'_, Result<Arc<ContentHeader>, ReadError>> {
            ready(Ok(Arc::clone(&self.content))).boxed()
        }

        fn read(&self, bundle: BundleId, range: Range<u64>) -> BoxFuture<'_, Result<Bytes, ReadError>> {
            let bytes = slice(&self.bytes, &range);
            ready(bytes.ok_or_else(|| ReadError::damaged(bundle, "it is cut off"))).boxed()
        }
    }

    #[tokio::test]
    async fn a_page_of_chunk_lists_that_turned_over_in_memory_is_not_used_and_forgotten() {
        let mut builder = BundleBuilder::new(BuilderOptions::default());
        for number in 0..5_000_u32 {
            let log = number.to_le_bytes();
            let mut hash = [0; 20];
            hash[..4].copy_from_slice(&log);
            let blob = Blob {
                url: format!("log/{number}"),
                compression: Compression::None,
                bytes: log.len() as u64,
                sha256: Sha256::of(&log),
            };
            builder.begin_object();
            builder.push_chunk(&log).unwrap();
            let record = NewRecord::blob(ObjectKey::build_log(hash), blob, Encoding::Chunked);
            builder.finish_object(record).unwrap();
        }
        let mut payload = Vec::new();
        let sealed = builder.seal(&mut payload).unwrap();
        let (bundle, position) = (sealed.content.bundle_id(), sealed.positions[2_500]);
        let payload = Payload { content: Arc::new(sealed.content), bytes: payload.into() };
        let reader = ManifestReader::new(Arc::new(payload), ManifestOptions::default());
        let head = reader.head(bundle).await.unwrap();
        assert!(head.whole.is_none(), "it is read by pieces");
        let record = reader.record(bundle, position.block, position.entry, &position.key).await.unwrap();
        let list = reader.chunk_list(bundle, &record).await.unwrap();
        let (_, numbers) = list_pages(&head, &head.header.chunk_list_extent(&record).unwrap());
        for number in numbers.clone() {
            let name = (bundle, Table::Lists, number);
            let page = reader.shared.pages.get(&name).unwrap();
            let Page::Lists(bytes, hash) = &*page else { panic!("it holds chunk lists") };
            let turned: Vec<u8> = bytes.iter().map(|byte| byte ^ 1).collect();
            let turned = Page::Lists(turned.into(), *hash);
            reader.shared.pages.insert(name, Arc::new(turned), bytes.len());
        }
        assert_eq!(reader.chunk_list(bundle, &record).await.unwrap(), list);
        for number in numbers {
            assert!(reader.shared.pages.get(&(bundle, Table::Lists, number)).is_none());
        }
    }
}
