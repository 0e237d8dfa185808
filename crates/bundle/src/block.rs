//! Blocks of records: the directory that says where they lie, reading one, and packing records into them.
//!
//! Always holds: a block decompresses to 1 MiB at most, names at most 65,535 references in all, and holds
//! exactly the records that the directory counts.
//! Leaves to others: fetching blocks, what a record says (`record_codec`).

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;

use firn_nix_format::StorePath;

use crate::codec::{Codec, compress_zstd};
use crate::cursor::Cursor;
use crate::limits::{BLOCK_RAW_BYTES_MAX, BLOCKS_RAW_BYTES_MAX};
use crate::manifest_error::{ManifestError, ManifestPart, Place};
use crate::manifest_header::{BLOCK_ENTRY_BYTES, ManifestHeader};
use crate::record::{NewRecord, Record, RecordBody};
use crate::record_codec::{Content, RecordReader, put_record, put_store_path};

// One cold narinfo reads one block: 64 records are about 20 kB stored.
const BLOCK_RECORDS: u16 = 64;
const BLOCK_RAW_BYTES: usize = 64 << 10;

// Records name their references by 2 bytes and give them by about 250: bounded, so that a block of 1 MiB does
// not become 100. 64 records with the 721 references of the largest known are fewer.
const BLOCK_REFERENCES_MAX: usize = 65_535;

// Blocks are small, written once and read for ever.
const BLOCK_LEVEL: i32 = 12;

/// Where a block lies and what it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockEntry {
    /// Where it lies in the manifest.
    pub extent: Range<u64>,
    /// Bytes decompressed.
    pub raw_bytes: u32,
    /// The number of its first record in the manifest.
    pub first_ordinal: u32,
    /// How many records it holds.
    pub records: u16,
    /// How it is stored.
    pub codec: Codec,
}

/// Where all blocks of a manifest lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockDirectory {
    entries: Vec<BlockEntry>,
}

impl BlockDirectory {
    /// Reads the bytes of [`ManifestHeader::directory_extent`].
    pub fn parse(bytes: &[u8], header: &ManifestHeader) -> Result<Self, ManifestError> {
        let part = ManifestPart::BlockDirectory;
        let expected = header.directory_extent();
        if bytes.len() as u64 != expected.end - expected.start {
            return Err(Place::new(part, 0).cut_off());
        }
        let mut end = header.blocks_extent().start;
        let mut ordinal = 0u32;
        let mut raw_total = 0u64;
        let entries = crate::chunk_entry::table(bytes, part, BLOCK_ENTRY_BYTES, 0, |cursor, place| {
            let truncated = place.truncated();
            let offset = cursor.u32().map_err(truncated)?;
            let stored_bytes = cursor.u32().map_err(truncated)?;
            let raw_bytes = cursor.u32().map_err(truncated)?;
            let first_ordinal = cursor.u32().map_err(truncated)?;
            let records = cursor.u16().map_err(truncated)?;
            let codec = Codec::from_byte(cursor.u8().map_err(truncated)?)
                .filter(|codec| codec.is_of_version_1())
                .ok_or(place.refuse("its codec is unknown"))?;
            if cursor.u8().map_err(truncated)? != 0 {
                return Err(place.refuse("reserved bytes are not zero"));
            }
            if u64::from(offset) != end || first_ordinal != ordinal || records == 0 {
                return Err(place.refuse("blocks do not follow each other"));
            }
            if raw_bytes > BLOCK_RAW_BYTES_MAX || !codec.lengths_agree(stored_bytes, raw_bytes) {
                return Err(place.refuse("the block's lengths do not fit"));
            }
            // At most 65,535 blocks of 1 MiB and as many records: no sum overflows.
            end += u64::from(stored_bytes);
            ordinal += u32::from(records);
            raw_total += u64::from(raw_bytes);
            Ok(BlockEntry { extent: u64::from(offset)..end, raw_bytes, first_ordinal, records, codec })
        })?;
        let whole = Place::new(part, header.block_count());
        if end != header.blocks_extent().end || ordinal != header.record_count() {
            return Err(whole.refuse("its blocks do not fill their section"));
        }
        if raw_total > BLOCKS_RAW_BYTES_MAX {
            return Err(whole.refuse("all blocks together are larger than 256 MiB"));
        }
        Ok(Self { entries })
    }

    /// The entry of block `number`.
    pub fn entry(&self, number: u16) -> Result<&BlockEntry, ManifestError> {
        self.entries
            .get(usize::from(number))
            .ok_or(ManifestError::NoEntry { part: ManifestPart::BlockDirectory, number: number.into() })
    }

    /// All entries, in order.
    pub fn entries(&self) -> &[BlockEntry] {
        &self.entries
    }
}

/// A block of records, decompressed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    records: Vec<Record>,
}

impl Block {
    /// Reads the stored bytes of a block.
    pub fn parse(stored: &[u8], entry: &BlockEntry) -> Result<Self, ManifestError> {
        let place = Place::new(ManifestPart::Block, entry.first_ordinal);
        if stored.len() as u64 != entry.extent.end - entry.extent.start {
            return Err(place.cut_off());
        }
        if entry.raw_bytes > BLOCK_RAW_BYTES_MAX {
            return Err(place.refuse("it is larger than 1 MiB"));
        }
        let raw = entry
            .codec
            .decompress(stored, entry.raw_bytes)
            .ok_or_else(|| place.refuse("it does not decompress to the length that the directory says"))?;
        let mut cursor = Cursor::new(&raw);
        let table = RecordReader { references: &[], place };
        let references = (0..cursor.u16().map_err(place.truncated())?)
            .map(|_| table.store_path(&mut cursor))
            .collect::<Result<Vec<_>, _>>()?;
        let mut records = Vec::with_capacity(entry.records.into());
        let mut named = 0usize;
        for number in 0..entry.records {
            let place = Place::new(ManifestPart::Record, entry.first_ordinal.saturating_add(number.into()));
            let record = RecordReader { references: &references, place }.record(&mut cursor)?;
            named += record.path_info().map_or(0, |info| info.references.len());
            if named > BLOCK_REFERENCES_MAX {
                return Err(place.refuse("the records of its block name more than 65,535 references"));
            }
            records.push(record);
        }
        if cursor.remaining() != 0 {
            return Err(place.cut_off());
        }
        Ok(Self { records })
    }

    /// The record at `entry`.
    pub fn record(&self, entry: u16) -> Result<&Record, ManifestError> {
        self.records
            .get(usize::from(entry))
            .ok_or(ManifestError::NoEntry { part: ManifestPart::Block, number: entry.into() })
    }

    /// All records, in order.
    pub fn records(&self) -> &[Record] {
        &self.records
    }

    /// All records, in order.
    pub fn into_records(self) -> Vec<Record> {
        self.records
    }
}

/// Packs records into blocks; a block is compressed once it is full.
#[derive(Debug, Default)]
pub(crate) struct BlockPacker {
    directory: Vec<PackedBlock>,
    stored: Vec<u8>,
    raw_total: u64,
    records: u32,
    open: OpenBlock,
}

#[derive(Debug)]
struct PackedBlock {
    stored_bytes: u32,
    raw_bytes: u32,
    first_ordinal: u32,
    records: u16,
    codec: Codec,
}

#[derive(Debug, Default)]
struct OpenBlock {
    positions: BTreeMap<StorePath, u16>,
    table: Vec<u8>,
    entries: Vec<u8>,
    records: u16,
    named: usize,
}

/// Why a record fits no block.
#[derive(Debug)]
pub(crate) enum PackError {
    /// All blocks would have more than 256 MiB, or be more than 65,535.
    Full,
    /// With its references it has more than 1 MiB.
    TooLarge,
    /// A field is too long for its length or not fit to be one.
    Unfit,
    Compress(io::Error),
}

impl OpenBlock {
    /// The block with `record` in it, if it still fits; references new to the block come last.
    fn with(&self, record: &NewRecord, content: Content) -> Result<Option<Addition>, PackError> {
        let references = match &record.body {
            RecordBody::StorePath(info) => info.references.as_slice(),
            RecordBody::Blob(_) => &[],
        };
        let mut added: BTreeMap<&StorePath, u16> = BTreeMap::new();
        let mut addition = Addition { named: references.len(), ..Addition::default() };
        let mut positions = Vec::with_capacity(references.len());
        for path in references {
            let known = self.positions.get(path).or_else(|| added.get(path)).copied();
            let position = match known {
                Some(position) => position,
                None => {
                    let Ok(position) = u16::try_from(self.positions.len() + added.len()) else {
                        return Ok(None);
                    };
                    if position == u16::MAX {
                        return Ok(None);
                    }
                    added.insert(path, position);
                    put_store_path(&mut addition.table, path);
                    addition.paths.push(path.clone());
                    position
                }
            };
            positions.push(position);
        }
        addition.entry = put_record(record, content, &positions).ok_or(PackError::Unfit)?;
        let raw = self.raw_bytes() + addition.table.len() + addition.entry.len();
        let alone = self.records == 0;
        let fits = if alone {
            raw as u64 <= u64::from(BLOCK_RAW_BYTES_MAX)
        } else {
            raw <= BLOCK_RAW_BYTES && self.records < BLOCK_RECORDS
        };
        Ok((fits && self.named + addition.named <= BLOCK_REFERENCES_MAX).then_some(addition))
    }

    fn add(&mut self, addition: Addition) {
        for path in addition.paths {
            let position = u16::try_from(self.positions.len()).expect("with() counts to 65,535");
            self.positions.insert(path, position);
        }
        self.table.extend_from_slice(&addition.table);
        self.entries.extend_from_slice(&addition.entry);
        self.records += 1;
        self.named += addition.named;
    }

    fn raw_bytes(&self) -> usize {
        2 + self.table.len() + self.entries.len()
    }
}

#[derive(Debug, Default)]
struct Addition {
    paths: Vec<StorePath>,
    table: Vec<u8>,
    entry: Vec<u8>,
    named: usize,
}

impl BlockPacker {
    /// Bytes that blocks and directory will have at most if nothing is added.
    pub(crate) fn bytes_bound(&self) -> u64 {
        let blocks = self.directory.len() + usize::from(self.open.records > 0);
        (self.stored.len() + self.open.raw_bytes() + blocks * BLOCK_ENTRY_BYTES) as u64
    }

    pub(crate) const fn records(&self) -> u32 {
        self.records
    }

    /// Adds a record and says where it is: block and entry. Changes nothing on an error.
    pub(crate) fn add(&mut self, record: &NewRecord, content: Content) -> Result<(u16, u16), PackError> {
        let addition = match self.open.with(record, content)? {
            Some(addition) => addition,
            None => {
                let addition = OpenBlock::default().with(record, content)?.ok_or(PackError::TooLarge)?;
                if self.raw_total + self.open.raw_bytes() as u64 + u64::from(BLOCK_RAW_BYTES_MAX)
                    > BLOCKS_RAW_BYTES_MAX
                {
                    return Err(PackError::Full);
                }
                self.close()?;
                addition
            }
        };
        let block = u16::try_from(self.directory.len()).map_err(|_| PackError::Full)?;
        let entry = self.open.records;
        self.open.add(addition);
        self.records += 1;
        Ok((block, entry))
    }

    fn close(&mut self) -> Result<(), PackError> {
        if self.open.records == 0 {
            return Ok(());
        }
        let references = u16::try_from(self.open.positions.len()).expect("with() counts to 65,535");
        let raw = [references.to_le_bytes().as_slice(), &self.open.table, &self.open.entries].concat();
        let length = |bytes: usize| u32::try_from(bytes).expect("a block has 1 MiB at most");
        let raw_bytes = length(raw.len());
        let (codec, stored) = compress_zstd(raw, BLOCK_LEVEL).map_err(PackError::Compress)?;
        let open = std::mem::take(&mut self.open);
        self.directory.push(PackedBlock {
            stored_bytes: length(stored.len()),
            raw_bytes,
            first_ordinal: self.records - u32::from(open.records),
            records: open.records,
            codec,
        });
        self.raw_total += u64::from(raw_bytes);
        self.stored.extend_from_slice(&stored);
        Ok(())
    }

    /// The number of blocks, their bytes, and the directory of blocks that begin right behind it, the directory
    /// itself beginning at `directory_offset`.
    pub(crate) fn finish(mut self, directory_offset: u64) -> Result<(u32, Vec<u8>, Vec<u8>), PackError> {
        self.close()?;
        let count = u32::try_from(self.directory.len()).map_err(|_| PackError::Full)?;
        let mut offset = directory_offset + u64::from(count) * BLOCK_ENTRY_BYTES as u64;
        let mut directory = Vec::with_capacity(self.directory.len() * BLOCK_ENTRY_BYTES);
        for block in &self.directory {
            let place = u32::try_from(offset).map_err(|_| PackError::Full)?;
            for field in [place, block.stored_bytes, block.raw_bytes, block.first_ordinal] {
                directory.extend_from_slice(&field.to_le_bytes());
            }
            directory.extend_from_slice(&block.records.to_le_bytes());
            directory.extend_from_slice(&[block.codec as u8, 0]);
            offset += u64::from(block.stored_bytes);
        }
        Ok((count, directory, self.stored))
    }
}
