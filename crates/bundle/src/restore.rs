//! Restoring objects from a payload that can be read at offsets: the restore check before sending, and
//! `recover`.
//!
//! Owns: going from a record through chunks and frames to the object's bytes. Always holds: every chunk was
//! checked against its hash; memory is the tables, 32 MiB of frames and one more, and one
//! chunk.
//! Leaves to others: the hash of the whole object, opening other bundles.

use std::collections::VecDeque;
use std::io;

use crate::chunk_entry::{ChunkRef, ForeignChunk, verify_chunk};
use crate::frame::{FrameError, decompress_frame};
use crate::manifest::Manifest;
use crate::manifest_error::ManifestError;
use crate::patch::{PatchApplier, PatchError};
use crate::proof::ReadAt;
use crate::record::Record;

/// Why an object could not be restored.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The manifest was refused.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// A frame or chunk was refused.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The patches were refused.
    #[error(transparent)]
    Patch(#[from] PatchError),
    /// A chunk of another bundle has another length than its entry says.
    #[error("a chunk of bundle {dependency} among the dependencies has another length than expected")]
    ForeignLength {
        /// A position in the content header's dependencies.
        dependency: u8,
    },
    /// Reading the payload, another bundle, or writing the object failed.
    #[error("an object could not be restored: {0}")]
    Io(#[from] io::Error),
}

/// Raw bytes of frames that a reader keeps unless told otherwise: sixteen frames of LZMA, each of which takes some 30 ms to
/// decompress.
pub const FRAMES_KEPT_BYTES: usize = 32 << 20;

/// A bundle whose payload is at hand.
#[derive(Debug)]
pub struct BundleReader<R> {
    manifest: Manifest,
    payload: R,
    // Frames read lately, the last one behind: what was packed once for many objects takes turns with what is an
    // object's own.
    frames: VecDeque<(u32, Vec<u8>)>,
    frames_bytes_max: usize,
}

impl<R: ReadAt> BundleReader<R> {
    /// A reader of the bundle of `manifest`, whose payload begins at offset 0 of `payload`.
    pub const fn new(manifest: Manifest, payload: R) -> Self {
        Self { manifest, payload, frames: VecDeque::new(), frames_bytes_max: FRAMES_KEPT_BYTES }
    }

    /// The reader, keeping frames of so many raw bytes at most; the one read last in any case.
    #[must_use]
    pub fn keeping(self, frames_bytes_max: usize) -> Self {
        Self { frames_bytes_max, ..self }
    }

    /// The manifest.
    pub const fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// One chunk of the bundle's own, checked.
    pub fn chunk(&mut self, number: u32) -> Result<&[u8], RestoreError> {
        let chunk = *self.manifest.chunk(number)?;
        let frame = match self.frames.iter().position(|(frame, _)| *frame == chunk.frame) {
            Some(place) => self.frames.remove(place),
            None => Some((chunk.frame, self.read_frame(chunk.frame)?)),
        };
        self.frames.extend(frame);
        while self.frames.len() > 1 && self.frame_bytes() > self.frames_bytes_max {
            self.frames.pop_front();
        }
        let raw = self.frames.back().map_or(&[][..], |(_, raw)| raw);
        Ok(chunk.cut(raw)?)
    }

    fn read_frame(&self, number: u32) -> Result<Vec<u8>, RestoreError> {
        let entry = self.manifest.frame(number)?;
        let length = usize::try_from(entry.stored_bytes).map_err(io::Error::other)?;
        let mut stored = vec![0; length];
        self.payload.read_exact_at(entry.payload_offset, &mut stored)?;
        Ok(decompress_frame(&stored, entry)?)
    }

    fn frame_bytes(&self) -> usize {
        self.frames.iter().map(|(_, raw)| raw.len()).sum()
    }

    /// Gives `sink` the bytes of an object of this bundle, in order: what was published, decompressed, or the
    /// published file, as the record's encoding says.
    ///
    /// `foreign` gives chunks of other bundles; they are checked here.
    pub fn restore(
        &mut self,
        record: &Record,
        mut foreign: impl FnMut(&ForeignChunk) -> Result<Vec<u8>, RestoreError>,
        mut sink: impl FnMut(&[u8]) -> io::Result<()>,
    ) -> Result<(), RestoreError> {
        let list = self.manifest.chunk_list(record)?;
        let mut patches = PatchApplier::new(list.patches(), &record.hash_parts())?;
        for chunk in list.chunks() {
            let mut bytes = match chunk {
                ChunkRef::Own(number) => self.chunk(number)?.to_vec(),
                ChunkRef::Foreign(number) => {
                    let entry = *self.manifest.foreign(number)?;
                    let bytes = foreign(&entry)?;
                    if u32::try_from(bytes.len()) != Ok(entry.length) {
                        return Err(RestoreError::ForeignLength { dependency: entry.dependency });
                    }
                    verify_chunk(&bytes, &entry.hash)?;
                    bytes
                }
            };
            patches.apply(&mut bytes)?;
            sink(&bytes)?;
        }
        Ok(patches.finish()?)
    }
}
