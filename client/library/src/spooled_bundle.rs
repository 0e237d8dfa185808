//! A sealed bundle whose payload lies in the spool, and bundles that commit together.
//!
//! Always holds: the payload file holds exactly the payload; it has no name and goes with the last user.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufWriter};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use firn_base::{BundleId, Digest, ObjectKey};
use firn_bundle::{ReadAt, SealedBundle};

use crate::spool::{SpoolDir, SpoolError};

/// A sealed bundle and its payload.
#[derive(Debug)]
pub(crate) struct SpooledBundle {
    pub(crate) sealed: SealedBundle,
    payload: File,
    foreign: Foreign<File>,
}

/// A chunk that was read from an earlier bundle: the bundle, the chunk's number there, and its hash.
pub(crate) type OfferedChunk = (BundleId, u32, Digest);

/// What a bundle uses of earlier ones.
#[derive(Debug)]
pub(crate) struct Foreign<F> {
    /// The chunks, as the foreign chunk table names them; none if that is nothing.
    pub(crate) chunks: Option<F>,
    /// Their bytes.
    pub(crate) bytes: u64,
    /// What there was to choose from.
    pub(crate) offered: BTreeSet<OfferedChunk>,
}

/// Bundles that commit together: one, or the parts of an object and its head.
#[derive(Debug)]
pub(crate) struct BundleSet {
    /// Parts before their head.
    pub(crate) bundles: Vec<Arc<SpooledBundle>>,
    /// What lies in them.
    pub(crate) objects: Vec<PackedObject>,
}

/// An object of a bundle set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PackedObject {
    pub(crate) key: ObjectKey,
    pub(crate) content_bytes: u64,
    pub(crate) source_bytes: u64,
    /// Whether a recipe was tried on its published file.
    pub(crate) recipe_tried: bool,
    /// Whether its published file can be made again.
    pub(crate) has_recipe: bool,
}

impl SpooledBundle {
    pub(crate) fn new(
        sealed: SealedBundle,
        payload: BufWriter<File>,
        foreign: Foreign<BufWriter<File>>,
        spool: &SpoolDir,
    ) -> Result<Self, SpoolError> {
        let whole =
            |writer: BufWriter<File>| writer.into_inner().map_err(|error| spool.failed(error.into_error()));
        let Foreign { chunks, bytes, offered } = foreign;
        let foreign = Foreign { chunks: chunks.map(whole).transpose()?, bytes, offered };
        Ok(Self { sealed, payload: whole(payload)?, foreign })
    }

    /// Bytes of chunks of earlier bundles that it uses.
    pub(crate) const fn foreign_bytes(&self) -> u64 {
        self.foreign.bytes
    }

    /// Whether a chunk was read from an earlier bundle for this one.
    pub(crate) fn was_offered(&self, chunk: &OfferedChunk) -> bool {
        self.foreign.offered.contains(chunk)
    }

    /// Chunks that were read seem to have been read elsewhere.
    #[cfg(test)]
    pub(crate) fn forget_offers(&mut self) {
        self.foreign.offered.clear();
    }

    /// Fills `buffer` with what is used of earlier bundles, from `offset` on: those chunks one behind the other.
    pub(crate) fn read_foreign(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let foreign = self.foreign.chunks.as_ref().ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        FileExt::read_exact_at(foreign, buffer, offset)
    }

    /// Flips a bit of the payload.
    #[cfg(test)]
    pub(crate) fn damage(&self, offset: u64) {
        let mut byte = [0];
        FileExt::read_exact_at(&self.payload, &mut byte, offset).unwrap();
        self.payload.write_all_at(&[byte[0] ^ 1], offset).unwrap();
    }

    /// Fills `buffer` with the payload from `offset` on, and with zeros behind its end.
    pub(crate) fn read_padded(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let left = self.sealed.content.payload_bytes().saturating_sub(offset);
        let count = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
        let (payload, padding) = buffer.split_at_mut(count);
        FileExt::read_exact_at(&self.payload, payload, offset)?;
        padding.fill(0);
        Ok(())
    }
}

impl ReadAt for SpooledBundle {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        FileExt::read_at(&self.payload, buffer, offset)
    }
}
