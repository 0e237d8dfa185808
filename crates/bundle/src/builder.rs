//! The builder: objects go in chunk by chunk, frames and at last a manifest come out.
//!
//! Owns: what a bundle being packed holds. Always holds: what is sealed keeps every limit of `limits`; every chunk in
//! it, but a mark, is one that a record names; equal objects in equal order give equal bundles (with one version of
//! each compressor); memory is the tables, the open frame, what it held before the object, and frames not yet taken.
//! Leaves to others: taking an object back (`open_object`), verifying objects before, chunking, threads (frames are
//! compressed wherever the caller likes), the spool.

use std::collections::{BTreeMap, VecDeque};

use firn_base::{BundleId, Digest};

use crate::block::{BlockPacker, PackError};
use crate::build_error::BuildError;
use crate::chunk_entry::{ChunkEntry, ChunkRef, ForeignChunk};
use crate::chunk_list::ChunkList;
use crate::content_header::BundleRole;
use crate::frame::{FrameEntry, PendingFrame};
use crate::frame_compression::FrameCompression;
use crate::limits::{
    CHUNK_BYTES_MAX, DEPENDENCIES_MAX, FRAME_RAW_BYTES_MAX, PARTS_MAX, PAYLOAD_BYTES_MAX, RECORDS_MAX,
};
use crate::manifest_header::{CHUNK_ENTRY_BYTES, FOREIGN_ENTRY_BYTES, FRAME_ENTRY_BYTES};
use crate::open_object::OpenObject;
use crate::record::{Encoding, NewRecord, RecordBody, contradiction};
use crate::record_codec::Content;
use crate::sealed_bundle::{PartChunk, PartChunks, PushedChunk, RecordPosition};

pub(crate) const RUN_BYTES: u64 = 8;

/// What a builder may be told to do otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BuilderOptions {
    /// Raw bytes at which a frame is closed, 4 MiB at most.
    pub frame_raw_bytes: u32,
    /// What frames are compressed with that the builder compresses itself.
    pub frame_compression: FrameCompression,
    /// Bytes that the payload must not exceed, 256 MiB at most.
    pub payload_bytes_max: u64,
    /// Records that the bundle must not exceed, 65,535 at most.
    pub records_max: u32,
}

impl BuilderOptions {
    /// Full bundles, with frames of this compression and as large as suits it.
    pub const fn with(frame_compression: FrameCompression) -> Self {
        Self {
            frame_raw_bytes: frame_compression.frame_bytes(),
            frame_compression,
            payload_bytes_max: PAYLOAD_BYTES_MAX,
            records_max: RECORDS_MAX,
        }
    }
}

impl Default for BuilderOptions {
    fn default() -> Self {
        Self::with(FrameCompression::default())
    }
}

/// Packs one bundle.
#[derive(Debug)]
pub struct BundleBuilder {
    pub(crate) options: BuilderOptions,
    pub(crate) payload: blake3::Hasher,
    pub(crate) appended_bytes: u64,
    pub(crate) frames: Vec<FrameEntry>,
    pub(crate) open_frame: Vec<u8>,
    pub(crate) pending: VecDeque<PendingFrame>,
    // Raw bytes of each frame that was closed: what it will have at most.
    pub(crate) closed_bytes: Vec<u32>,
    pub(crate) next_pending: u32,
    pub(crate) chunks: Vec<ChunkEntry>,
    pub(crate) known: BTreeMap<Digest, ChunkRef>,
    pub(crate) offered: BTreeMap<Digest, (BundleId, PartChunk)>,
    pub(crate) foreign: Vec<ForeignChunk>,
    pub(crate) dependencies: Vec<BundleId>,
    pub(crate) role: BundleRole,
    pub(crate) lists: Vec<u8>,
    pub(crate) blocks: BlockPacker,
    pub(crate) positions: Vec<RecordPosition>,
    pub(crate) object: Option<OpenObject>,
}

impl BundleBuilder {
    /// An empty bundle. Options above the limits of the format are lowered to them.
    pub fn new(options: BuilderOptions) -> Self {
        let options = BuilderOptions {
            frame_raw_bytes: options.frame_raw_bytes.clamp(1, FRAME_RAW_BYTES_MAX),
            frame_compression: options.frame_compression,
            payload_bytes_max: options.payload_bytes_max.min(PAYLOAD_BYTES_MAX),
            records_max: options.records_max.min(RECORDS_MAX),
        };
        Self {
            options,
            payload: blake3::Hasher::new(),
            appended_bytes: 0,
            frames: Vec::new(),
            open_frame: Vec::new(),
            pending: VecDeque::new(),
            closed_bytes: Vec::new(),
            next_pending: 0,
            chunks: Vec::new(),
            known: BTreeMap::new(),
            offered: BTreeMap::new(),
            foreign: Vec::new(),
            dependencies: Vec::new(),
            role: BundleRole::Ordinary,
            lists: Vec::new(),
            blocks: BlockPacker::default(),
            positions: Vec::new(),
            object: None,
        }
    }

    /// Offers a chunk that lies in an earlier, committed bundle: if the same chunk is pushed, it is not stored
    /// again, as long as the bundle depends on 8 others at most.
    pub fn offer_foreign_chunk(&mut self, bundle: BundleId, chunk: PartChunk) {
        self.offered.insert(chunk.hash, (bundle, chunk));
    }

    /// Forgets what was offered and not used: the next object may use what is offered from now on.
    pub fn forget_offers(&mut self) {
        self.offered.clear();
    }

    /// Whether the bundle has a chunk already, in itself or in one that it depends on: pushing it takes no more room.
    pub fn knows_chunk(&self, hash: &Digest) -> bool {
        self.known.contains_key(hash)
    }

    /// Adds a chunk that no object has: the bundle is another one than without it.
    ///
    /// # Panics
    /// If an object is open.
    pub fn push_mark(&mut self, mark: &[u8]) -> Result<(), BuildError> {
        self.begin_object();
        let pushed = self.push_chunk(mark);
        // It is to stay.
        self.object = None;
        pushed.map(|_| ())
    }

    /// Takes the next chunk of the object. On an error nothing changed.
    ///
    /// # Panics
    /// If no object was begun.
    pub fn push_chunk(&mut self, chunk: &[u8]) -> Result<PushedChunk, BuildError> {
        let length = u32::try_from(chunk.len()).ok().filter(|length| (1..=CHUNK_BYTES_MAX).contains(length));
        let length = length.ok_or(BuildError::ChunkLength(chunk.len()))?;
        let hash = Digest::from_bytes(*blake3::hash(chunk).as_bytes());
        let (reference, pushed) = match self.known.get(&hash) {
            Some(reference) => {
                self.check_room(0, RUN_BYTES)?;
                (*reference, PushedChunk::Known)
            }
            None => match self.use_offered(&hash, length)? {
                Some(reference) => (reference, PushedChunk::Foreign),
                None => (self.store_chunk(chunk, length, hash)?, PushedChunk::Stored),
            },
        };
        self.known.insert(hash, reference);
        let object = self.object.as_mut().expect("begin_object comes before push_chunk");
        object.list.push(reference);
        object.bytes += u64::from(length);
        Ok(pushed)
    }

    fn use_offered(&mut self, hash: &Digest, length: u32) -> Result<Option<ChunkRef>, BuildError> {
        let Some((bundle, chunk)) = self.offered.get(hash).copied() else { return Ok(None) };
        if chunk.length != length {
            return Ok(None);
        }
        let known = self.dependencies.iter().position(|dependency| *dependency == bundle);
        if known.is_none() && self.dependencies.len() == DEPENDENCIES_MAX {
            return Ok(None);
        }
        self.check_room(0, RUN_BYTES + FOREIGN_ENTRY_BYTES as u64)?;
        self.name_foreign(bundle, chunk).map(Some)
    }

    /// Adds an entry to the foreign chunk table, and its bundle to the dependencies.
    fn name_foreign(&mut self, bundle: BundleId, chunk: PartChunk) -> Result<ChunkRef, BuildError> {
        let position = self.dependencies.iter().position(|dependency| *dependency == bundle);
        let dependency = u8::try_from(position.unwrap_or(self.dependencies.len()))
            .map_err(|_| BuildError::TooManyParts)?;
        let reference = ChunkRef::Foreign(count(self.foreign.len()));
        if position.is_none() {
            self.dependencies.push(bundle);
        }
        let PartChunk { number, length, hash } = chunk;
        self.foreign.push(ForeignChunk { dependency, number, length, hash });
        Ok(reference)
    }

    fn store_chunk(&mut self, chunk: &[u8], length: u32, hash: Digest) -> Result<ChunkRef, BuildError> {
        let entries = CHUNK_ENTRY_BYTES + FRAME_ENTRY_BYTES;
        self.check_room(length.into(), entries as u64 + RUN_BYTES)?;
        let target = self.options.frame_raw_bytes as usize;
        if !self.open_frame.is_empty() && self.open_frame.len() + chunk.len() > target {
            self.close_frame();
        }
        if self.open_frame.is_empty() {
            self.open_frame.reserve_exact(target.max(chunk.len()));
        }
        let reference = ChunkRef::Own(count(self.chunks.len()));
        let offset = count(self.open_frame.len());
        self.chunks.push(ChunkEntry { frame: self.closed_frames(), offset, length, hash });
        self.open_frame.extend_from_slice(chunk);
        if self.open_frame.len() >= target {
            self.close_frame();
        }
        Ok(reference)
    }

    /// Ends the object with its record and says where that is. On an error nothing changed: the object is
    /// still open.
    ///
    /// # Panics
    /// If no object was begun.
    pub fn finish_object(&mut self, record: NewRecord) -> Result<RecordPosition, BuildError> {
        let object = self.object.as_ref().expect("begin_object comes before finish_object");
        let (list, bytes) = (object.list.clone(), object.bytes);
        self.add_record(record, list, bytes)
    }

    /// Ends an object whose beginning lies in `parts`: the bundle becomes their head and must have no other
    /// record. What was pushed into this builder is the object's end; usually that is nothing.
    ///
    /// On an error nothing changed; after [`BuildError::Full`] seal this bundle as a part too, and finish the
    /// object in a new builder.
    ///
    /// # Panics
    /// If no object was begun.
    pub fn finish_spanning_object(
        &mut self,
        record: NewRecord,
        parts: &[PartChunks],
    ) -> Result<RecordPosition, BuildError> {
        let object = self.object.as_ref().expect("begin_object comes before finish_spanning_object");
        if self.blocks.records() > 0 || !self.dependencies.is_empty() {
            return Err(BuildError::Role("a head has one record and depends on its parts alone"));
        }
        if parts.len() > PARTS_MAX {
            return Err(BuildError::TooManyParts);
        }
        let chunks: usize = parts.iter().map(|part| part.chunks.len()).sum();
        self.check_room(0, (chunks as u64).saturating_mul(FOREIGN_ENTRY_BYTES as u64 + RUN_BYTES))?;
        let (own, mut bytes) = (object.list.clone(), object.bytes);
        let mut list = ChunkList::new();
        let mut named = BTreeMap::new();
        let undo = |builder: &mut Self| {
            builder.foreign.clear();
            builder.dependencies.clear();
            builder.role = BundleRole::Ordinary;
        };
        self.role = BundleRole::Head;
        for part in parts {
            for chunk in &part.chunks {
                let reference = match named.get(&chunk.hash) {
                    Some(reference) => *reference,
                    None => match self.name_foreign(part.bundle, *chunk) {
                        Ok(reference) => *named.entry(chunk.hash).or_insert(reference),
                        Err(error) => {
                            undo(self);
                            return Err(error);
                        }
                    },
                };
                list.push(reference);
                bytes += u64::from(chunk.length);
            }
        }
        for chunk in own.chunks() {
            list.push(chunk);
        }
        if self.dependencies.is_empty() {
            undo(self);
            return Err(BuildError::Role("a head needs at least one part"));
        }
        self.add_record(record, list, bytes).inspect_err(|_| undo(self))
    }

    fn add_record(
        &mut self,
        mut record: NewRecord,
        mut list: ChunkList,
        bytes: u64,
    ) -> Result<RecordPosition, BuildError> {
        if let Some(why) = contradiction(&record.key, record.encoding, bytes, &record.body) {
            return Err(BuildError::Contradiction(why));
        }
        let patches = std::mem::take(&mut record.patches);
        let references = match (&record.body, record.encoding) {
            (RecordBody::StorePath(info), Encoding::Chunked) => info.references.len(),
            _ if patches.is_empty() => 0,
            _ => return Err(BuildError::Patches),
        };
        let known = |reference: u32| usize::try_from(reference).is_ok_and(|number| number <= references);
        if !patches.iter().all(|patch| known(patch.reference)) || !list.set_patches(patches, bytes) {
            return Err(BuildError::Patches);
        }
        let encoded = list.to_bytes();
        if self.blocks.records() >= self.options.records_max {
            return Err(BuildError::Full);
        }
        self.check_room(0, encoded.len() as u64 + record.bytes_bound())?;
        let content =
            Content { bytes, list_offset: count(self.lists.len()), list_bytes: count(encoded.len()) };
        let (block, entry) = self.blocks.add(&record, content).map_err(|error| match error {
            PackError::Full => BuildError::Full,
            PackError::TooLarge => BuildError::RecordTooLarge,
            PackError::Unfit => BuildError::RecordUnfit,
            PackError::Compress(error) => BuildError::Compress(error),
        })?;
        self.lists.extend_from_slice(&encoded);
        let position = RecordPosition { key: record.key, block, entry };
        self.positions.push(position);
        self.object = None;
        Ok(position)
    }
}

pub(crate) fn count(length: usize) -> u32 {
    u32::try_from(length).expect("a bundle is below 256 MiB")
}
