//! An object on its way into bundles.
//!
//! Owns: how its chunks are pushed, one after the other. Always holds: the chunk that the open bundle has
//! no room for is the first of the next one.
//! Leaves to others: compressing frames, sealing bundles, taking an object back (`Packer`).

use std::sync::Arc;

use firn_bundle::{BuildError, NewRecord, PartChunks, PendingFrame};

use super::PackError;
use super::open_bundle::OpenBundle;
use crate::content::ContentReader;
use crate::spool::SpoolDir;
use crate::spooled_bundle::SpooledBundle;

/// An object on its way into bundles.
pub(super) struct Passage {
    pub(super) open: OpenBundle,
    pub(super) content: ContentReader,
    // Complete, to be compressed.
    pub(super) frames: Vec<PendingFrame>,
    // A chunk that the bundle before had no room for.
    pub(super) unpushed: Option<Vec<u8>>,
    pub(super) spool: SpoolDir,
    // Whether the open bundle holds any of the object.
    pub(super) touched: bool,
    pub(super) parts: Vec<PartChunks>,
    pub(super) part_bundles: Vec<Arc<SpooledBundle>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// Frames are complete: compress them.
    Frames,
    /// The bundle is full.
    Full,
    /// The whole content is pushed.
    Whole,
}

impl Passage {
    /// Pushes chunks until a frame is complete, the bundle is full, or the content ends.
    pub(super) fn push_chunks(&mut self) -> Result<Progress, PackError> {
        let open = &mut self.open;
        if let Some(chunk) = self.unpushed.take() {
            if !open.push_chunk(&chunk, &self.spool)? {
                self.unpushed = Some(chunk);
                return Ok(Progress::Full);
            }
            self.touched = true;
        }
        loop {
            while let Some(frame) = open.builder.take_frame() {
                self.frames.push(frame);
            }
            if !self.frames.is_empty() {
                return Ok(Progress::Frames);
            }
            let Some(chunk) = self.content.next_chunk()? else { return Ok(Progress::Whole) };
            if !open.push_chunk(chunk, &self.spool)? {
                self.unpushed = Some(chunk.to_vec());
                return Ok(Progress::Full);
            }
            self.touched = true;
        }
    }

    /// Ends the object with its record.
    pub(super) fn finish(&mut self, record: NewRecord) -> Result<(), BuildError> {
        let builder = &mut self.open.builder;
        let finished = if self.parts.is_empty() {
            builder.finish_object(record)
        } else {
            builder.finish_spanning_object(record, &self.parts)
        };
        finished.map(|_| ())
    }

    /// What fills a bundle that holds other objects or uses earlier bundles is taken back, and begun in one of its own; and
    /// without a chunk of it a part would be no progress.
    pub(super) fn may_leave_a_part(&self) -> bool {
        let builder = &self.open.builder;
        self.touched && builder.record_count() == 0 && builder.dependencies().is_empty()
    }
}
