//! A bundle that is open: what is packed into it, and what its objects use of earlier ones.
//!
//! Owns: the two files in the spool, and frames on their way. Always holds: an object that is taken back leaves neither of
//! the files longer than it was.
//! Leaves to others: what goes into it and when it ends (`Packer`), its bytes (`firn-bundle`).

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufWriter, Seek, SeekFrom, Write};

use firn_base::BundleId;
use firn_bundle::{
    BuildError, BuilderOptions, BundleBuilder, CompressedFrame, PartChunk, PartChunks, PushedChunk,
};
use firn_client_logic::MARK_BYTES;
use futures::future::BoxFuture;
use futures::stream::FuturesOrdered;

use super::PackError;
use crate::spool::{SpoolDir, SpoolError};
use crate::spooled_bundle::{Foreign, OfferedChunk, SpooledBundle};

const BUFFER_BYTES: usize = 256 << 10;

#[derive(Debug)]
pub(super) struct OpenBundle {
    pub(super) builder: BundleBuilder,
    pub(super) payload: BufWriter<File>,
    // What is used of earlier bundles, in the order of the foreign chunk table.
    foreign: Option<BufWriter<File>>,
    pub(super) foreign_bytes: u64,
    // What the objects of the bundle may use of earlier ones.
    offered: BTreeSet<OfferedChunk>,
    // Frames on their way, in their order, also beyond the end of an object: small ones would else be compressed one by one.
    pub(super) compressing: FuturesOrdered<BoxFuture<'static, io::Result<CompressedFrame>>>,
}

impl OpenBundle {
    pub(super) fn new(
        options: BuilderOptions,
        mark: Option<[u8; MARK_BYTES]>,
        spool: &SpoolDir,
    ) -> Result<Self, PackError> {
        let payload = BufWriter::with_capacity(BUFFER_BYTES, spool.file()?);
        let (mut builder, offered) = (BundleBuilder::new(options), BTreeSet::new());
        if let Some(mark) = mark {
            builder.push_mark(&mark)?;
        }
        let compressing = FuturesOrdered::new();
        Ok(Self { builder, payload, foreign: None, foreign_bytes: 0, offered, compressing })
    }

    /// Lets the objects that follow use a chunk of an earlier bundle.
    pub(super) fn offer(&mut self, bundle: BundleId, chunk: PartChunk) {
        self.builder.offer_foreign_chunk(bundle, chunk);
        self.offered.insert((bundle, chunk.number, chunk.hash));
    }

    /// As it was before the open object, of which nothing is on its way. `foreign_bytes` are those of then.
    pub(super) fn without_object(mut self, foreign_bytes: u64, spool: &SpoolDir) -> Result<Self, SpoolError> {
        let payload_bytes = self.builder.abandon_object();
        cut_off(&mut self.payload, payload_bytes).map_err(|error| spool.failed(error))?;
        self.foreign = self.foreign.filter(|_| foreign_bytes > 0);
        if let Some(foreign) = &mut self.foreign {
            cut_off(foreign, foreign_bytes).map_err(|error| spool.failed(error))?;
        }
        self.foreign_bytes = foreign_bytes;
        Ok(self)
    }

    /// Takes the next chunk of the open object; whether there was room.
    pub(super) fn push_chunk(&mut self, chunk: &[u8], spool: &SpoolDir) -> Result<bool, PackError> {
        match self.builder.push_chunk(chunk) {
            Ok(PushedChunk::Foreign) => self.keep_foreign(chunk, spool)?,
            Ok(PushedChunk::Stored | PushedChunk::Known) => {}
            Err(BuildError::Full) => return Ok(false),
            Err(error) => return Err(error.into()),
        }
        Ok(true)
    }

    /// Keeps a chunk that lies in an earlier bundle for the restore check.
    fn keep_foreign(&mut self, chunk: &[u8], spool: &SpoolDir) -> Result<(), SpoolError> {
        let file = match &mut self.foreign {
            Some(file) => file,
            None => self.foreign.insert(BufWriter::with_capacity(BUFFER_BYTES, spool.file()?)),
        };
        self.foreign_bytes += chunk.len() as u64;
        file.write_all(chunk).map_err(|error| spool.failed(error))
    }

    pub(super) fn seal(mut self, spool: &SpoolDir) -> Result<SpooledBundle, PackError> {
        let sealed = self.builder.seal(&mut self.payload)?;
        let foreign = Foreign { chunks: self.foreign, bytes: self.foreign_bytes, offered: self.offered };
        Ok(SpooledBundle::new(sealed, self.payload, foreign, spool)?)
    }

    pub(super) fn seal_as_part(mut self, spool: &SpoolDir) -> Result<(SpooledBundle, PartChunks), PackError> {
        let (sealed, chunks) = self.builder.seal_as_part(&mut self.payload)?;
        let foreign = Foreign { chunks: self.foreign, bytes: self.foreign_bytes, offered: self.offered };
        Ok((SpooledBundle::new(sealed, self.payload, foreign, spool)?, chunks))
    }
}

fn cut_off(file: &mut BufWriter<File>, bytes: u64) -> io::Result<()> {
    file.seek(SeekFrom::Start(bytes))?;
    file.get_ref().set_len(bytes)
}
