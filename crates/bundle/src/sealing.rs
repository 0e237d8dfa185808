//! Getting a bundle out of its builder: frames to compress, room left, sealing.
//!
//! Owns: the order in which frame bytes and the manifest reach the spool. Always holds: the payload root is
//! over exactly the bytes written; `payload_bytes_bound` is never below what sealing now would give.
//! Leaves to others: what is in the bundle (`builder`), threads.

use std::io::Write;

use firn_base::{BundleId, ManifestRoot, PayloadRoot};

use crate::block::PackError;
use crate::build_error::BuildError;
use crate::builder::{BundleBuilder, RUN_BYTES, count};
use crate::chunk_entry::ChunkRef;
use crate::chunking::CHUNKER_MAX_BYTES;
use crate::content_header::{BundleRole, ContentHeader};
use crate::frame::{CompressedFrame, FrameEntry, PendingFrame};
use crate::frame_compression::compress_frame;
use crate::limits::MANIFEST_BYTES_MAX;
use crate::manifest_header::{
    CHUNK_ENTRY_BYTES, FOREIGN_ENTRY_BYTES, FRAME_ENTRY_BYTES, MANIFEST_HEADER_BYTES, ManifestHeader,
    ManifestVersion,
};
use crate::object_size::ObjectSize;
use crate::record::NewRecord;
use crate::sealed_bundle::{PartChunk, PartChunks, SealedBundle};

const LIST_COUNTS_BYTES: u64 = 8;

// A path info has 2 kB on average.
const SMALL_RECORD_BYTES: u64 = 16 << 10;

impl BundleBuilder {
    /// The next frame that is complete, to be compressed (see [`compress_frame`]) and given back to
    /// [`Self::append_frame`] in the order of numbers. Frames that are not taken are compressed by
    /// [`Self::append_pending`] or at sealing.
    pub fn take_frame(&mut self) -> Option<PendingFrame> {
        let frame = self.pending.pop_front()?;
        self.next_pending = frame.number + 1;
        Some(frame)
    }

    /// Closes the frame that is being filled, so that [`Self::take_frame`] gives it.
    pub fn close_frame(&mut self) {
        if self.open_frame.is_empty() {
            return;
        }
        self.keep_open_frame();
        let raw = std::mem::take(&mut self.open_frame);
        let number = self.closed_frames();
        self.closed_bytes.push(count(raw.len()));
        self.pending.push_back(PendingFrame { number, raw });
    }

    /// Writes a frame that was taken. An error of the spool leaves the bundle useless.
    pub fn append_frame(
        &mut self,
        frame: &CompressedFrame,
        spool: &mut impl Write,
    ) -> Result<(), BuildError> {
        let expected = count(self.frames.len());
        let taken = frame.number == expected && expected < self.next_pending;
        let stored_bytes = u32::try_from(frame.stored.len()).ok();
        let stored_bytes =
            stored_bytes.filter(|stored| frame.codec.lengths_agree(*stored, frame.raw_bytes) && taken);
        let Some(stored_bytes) = stored_bytes else {
            return Err(BuildError::FrameOrder { expected, found: frame.number });
        };
        spool.write_all(&frame.stored).map_err(BuildError::Spool)?;
        self.keep_payload();
        self.payload.update(&frame.stored);
        self.frames.push(FrameEntry {
            payload_offset: self.appended_bytes,
            stored_bytes,
            raw_bytes: frame.raw_bytes,
            codec: frame.codec,
        });
        self.appended_bytes += u64::from(stored_bytes);
        Ok(())
    }

    /// Compresses and writes, here and now, every complete frame that was not taken.
    pub fn append_pending(&mut self, spool: &mut impl Write) -> Result<(), BuildError> {
        while let Some(frame) = self.take_frame() {
            let frame =
                compress_frame(frame, self.options.frame_compression).map_err(BuildError::Compress)?;
            self.append_frame(&frame, spool)?;
        }
        Ok(())
    }

    /// The bundles that this one depends on so far.
    pub fn dependencies(&self) -> &[BundleId] {
        &self.dependencies
    }

    /// How many records were packed.
    pub const fn record_count(&self) -> u32 {
        self.blocks.records()
    }

    /// Bytes of frames that were appended so far.
    pub const fn appended_bytes(&self) -> u64 {
        self.appended_bytes
    }

    /// What the payload will have at most if the bundle is sealed now.
    pub fn payload_bytes_bound(&self) -> u64 {
        self.appended_bytes
            + self.unappended_bytes()
            + self.open_frame.len() as u64
            + self.manifest_bytes_bound()
    }

    /// The number of the open frame.
    pub(crate) fn closed_frames(&self) -> u32 {
        count(self.closed_bytes.len())
    }

    fn unappended_bytes(&self) -> u64 {
        self.closed_bytes.iter().skip(self.frames.len()).map(|bytes| u64::from(*bytes)).sum()
    }

    fn manifest_bytes_bound(&self) -> u64 {
        let frames = self.closed_bytes.len() + usize::from(!self.open_frame.is_empty());
        let tables = CHUNK_ENTRY_BYTES * self.chunks.len()
            + FRAME_ENTRY_BYTES * frames
            + FOREIGN_ENTRY_BYTES * self.foreign.len();
        let list = self.object.as_ref().map_or(0, |object| object.list.runs_bytes());
        (MANIFEST_HEADER_BYTES + tables + self.lists.len() + list) as u64 + self.blocks.bytes_bound()
    }

    /// Whether an object of this size with this record might not fit: then seal first. One that is told to take all of
    /// its new bytes fits where this is false, however badly it compresses; of another one [`BuildError::Full`] may
    /// come all the same, and it is to be abandoned. An object that might not fit an empty builder either is begun in
    /// one, and becomes parts and a head if [`BuildError::Full`] comes.
    pub fn would_exceed(&self, size: &ObjectSize, record: &NewRecord) -> bool {
        // What is not compressed yet counts as it is.
        let open_bytes = u64::from(self.options.frame_raw_bytes);
        let frame_bytes = size.new_bytes.min(size.packed_bytes.saturating_add(open_bytes));
        // A frame has a chunk at least.
        let frames = (size.new_bytes / open_bytes + 1).min(size.new_chunks);
        let manifest_bytes = size
            .chunks
            .saturating_mul(RUN_BYTES)
            .saturating_add(size.new_chunks.saturating_mul(CHUNK_ENTRY_BYTES as u64))
            .saturating_add(size.foreign_chunks.saturating_mul(FOREIGN_ENTRY_BYTES as u64))
            // Frames are closed before they are full if the next chunk does not fit.
            .saturating_add(frames.saturating_mul(2 * FRAME_ENTRY_BYTES as u64))
            .saturating_add(record.patches_bytes_bound())
            .saturating_add(LIST_COUNTS_BYTES + record.bytes_bound());
        self.blocks.records() >= self.options.records_max
            || self.check_room(frame_bytes, manifest_bytes).is_err()
    }

    /// Whether hardly any object fits any more.
    pub fn is_full(&self) -> bool {
        self.blocks.records() >= self.options.records_max
            || self.check_room(CHUNKER_MAX_BYTES as u64, SMALL_RECORD_BYTES).is_err()
    }

    pub(crate) fn check_room(&self, frame_bytes: u64, manifest_bytes: u64) -> Result<(), BuildError> {
        let manifest = self.manifest_bytes_bound().saturating_add(manifest_bytes);
        let payload = self.payload_bytes_bound().saturating_add(frame_bytes).saturating_add(manifest_bytes);
        if payload > self.options.payload_bytes_max || manifest > MANIFEST_BYTES_MAX {
            return Err(BuildError::Full);
        }
        Ok(())
    }

    /// Writes what is left and the manifest, and gives the bundle: ordinary, or the head of a spanning object.
    ///
    /// # Panics
    /// If an object is open.
    pub fn seal(self, spool: &mut impl Write) -> Result<SealedBundle, BuildError> {
        assert!(self.object.is_none(), "an object is open: finish or abandon it first");
        if self.blocks.records() == 0 {
            return Err(BuildError::Role("it has no record"));
        }
        if self.role == BundleRole::Head && self.blocks.records() != 1 {
            return Err(BuildError::Role("a head has one record"));
        }
        self.finish(spool)
    }

    /// Seals the bundle as a part: what was pushed of the open object, and nothing else. The chunks given back
    /// go to [`Self::finish_spanning_object`].
    ///
    /// # Panics
    /// If no object is open.
    pub fn seal_as_part(mut self, spool: &mut impl Write) -> Result<(SealedBundle, PartChunks), BuildError> {
        let object = self.object.take().expect("begin_object comes before seal_as_part");
        if self.blocks.records() > 0 || !self.dependencies.is_empty() {
            return Err(BuildError::Role("a part holds one piece of one object and depends on nothing"));
        }
        let chunk = |reference| {
            let (ChunkRef::Own(number) | ChunkRef::Foreign(number)) = reference;
            let entry = self.chunks[number as usize];
            PartChunk { number, length: entry.length, hash: entry.hash }
        };
        // Without dependencies every chunk is the bundle's own.
        let chunks = object.list.chunks().map(chunk).collect();
        self.role = BundleRole::Part;
        let sealed = self.finish(spool)?;
        let bundle = sealed.content.bundle_id();
        Ok((sealed, PartChunks { bundle, chunks }))
    }

    fn finish(mut self, spool: &mut impl Write) -> Result<SealedBundle, BuildError> {
        self.close_frame();
        self.append_pending(spool)?;
        let missing = self.closed_frames() - count(self.frames.len());
        if missing > 0 {
            return Err(BuildError::FramesMissing(missing));
        }
        let manifest = self.manifest()?;
        let manifest_root = ManifestRoot::from_bytes(*blake3::hash(&manifest).as_bytes());
        spool.write_all(&manifest).map_err(BuildError::Spool)?;
        spool.flush().map_err(BuildError::Spool)?;
        self.payload.update(&manifest);
        let manifest_bytes = manifest.len() as u64;
        let payload_root = PayloadRoot::from_bytes(*self.payload.finalize().as_bytes());
        let content = ContentHeader::new(
            self.role,
            (self.appended_bytes + manifest_bytes, payload_root),
            (manifest_bytes, manifest_root),
            self.dependencies,
        )?;
        Ok(SealedBundle { content, manifest, positions: self.positions })
    }

    fn manifest(&mut self) -> Result<Vec<u8>, BuildError> {
        let records = self.blocks.records();
        let blocks = std::mem::take(&mut self.blocks);
        let (block_count, directory, blocks) =
            blocks.finish(MANIFEST_HEADER_BYTES as u64).map_err(|error| match error {
                PackError::Compress(error) => BuildError::Compress(error),
                PackError::Full | PackError::TooLarge | PackError::Unfit => BuildError::Full,
            })?;
        let header = ManifestHeader {
            version: ManifestVersion::of(self.frames.iter().map(|frame| frame.codec)),
            blocks: block_count,
            records,
            chunks: count(self.chunks.len()),
            foreign: count(self.foreign.len()),
            frames: count(self.frames.len()),
            block_bytes: count(blocks.len()),
            list_bytes: count(self.lists.len()),
        };
        let mut manifest = header.to_bytes().to_vec();
        manifest.extend_from_slice(&directory);
        manifest.extend_from_slice(&blocks);
        manifest.extend_from_slice(&self.lists);
        for chunk in &self.chunks {
            chunk.put(&mut manifest);
        }
        for frame in &self.frames {
            frame.put(&mut manifest);
        }
        for chunk in &self.foreign {
            chunk.put(&mut manifest);
        }
        Ok(manifest)
    }
}
