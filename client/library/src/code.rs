//! Coding a bundle: the roots of all its shards, and the parity that will be sent.
//!
//! Owns: reading the payload by columns, parity files. Always holds: data shards are slices of the payload
//! file, never copied; there is a root for every index that k may ever use; memory is one column of
//! [`COLUMN_BYTES`] for each shard, whatever the size of the bundle.
//! Leaves to others: the code itself (`firn-erasure`), sending.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use firn_base::{Scheme, ShardIndex, ShardRoot};
use firn_bundle::{CodingHeader, HeaderError};
use firn_erasure::{Coder, CoderError, ColumnBuffers, EncodeError};

use crate::spool::{SpoolDir, SpoolError};
use crate::spooled_bundle::SpooledBundle;

// 40 shards of 32 KiB are 1.25 MiB: what was read is coded and hashed, and what was coded hashed and written,
// before it leaves the second-level cache.
const COLUMN_BYTES: usize = 32 << 10;

/// A bundle with its shards at hand.
#[derive(Debug)]
pub(crate) struct CodedBundle {
    bundle: Arc<SpooledBundle>,
    coding: CodingHeader,
    scheme: Scheme,
    // Shards k to n-1, one behind the other; none where they are copies of the payload.
    parity: Option<File>,
}

/// Why a bundle was not coded.
#[derive(Debug, thiserror::Error)]
pub enum CodeError {
    /// There is no coder for this k.
    #[error(transparent)]
    Coder(#[from] CoderError),
    /// The coder refuses the columns.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// The coding header refuses the roots.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// The spool failed.
    #[error(transparent)]
    Spool(#[from] SpoolError),
}

/// Codes `bundle` for `scheme`. Blocks.
pub(crate) fn code(
    bundle: Arc<SpooledBundle>,
    scheme: Scheme,
    spool: &SpoolDir,
) -> Result<CodedBundle, CodeError> {
    let coder = Coder::new(scheme.k())?;
    let shard_bytes = firn_base::shard_bytes(bundle.sealed.content.payload_bytes(), scheme.k());
    let sent_parity = usize::from(scheme.n() - scheme.k());
    // Every shard of k = 1 is the payload itself.
    let parity = if scheme.k() == 1 || sent_parity == 0 { None } else { Some(spool.file()?) };
    let mut columns = Columns::new(coder);
    let mut offset = 0;
    while offset < shard_bytes {
        let bytes = columns.fill(&bundle, shard_bytes, offset, spool)?;
        if let Some(file) = &parity {
            for (row, column) in (0_u64..).zip(columns.parity().take(sent_parity)) {
                let written = file.write_all_at(&column[..bytes], row * shard_bytes + offset);
                written.map_err(|error| spool.failed(error))?;
            }
        }
        offset += bytes as u64;
    }
    let bundle_id = bundle.sealed.content.bundle_id();
    let coding = CodingHeader::new(bundle_id, scheme.k(), shard_bytes, columns.roots())?;
    Ok(CodedBundle { bundle, coding, scheme, parity })
}

/// The same range of every shard.
struct Columns {
    coder: Coder,
    buffers: ColumnBuffers,
    hashers: Vec<blake3::Hasher>,
}

impl Columns {
    fn new(coder: Coder) -> Self {
        Self {
            buffers: ColumnBuffers::new(coder.n_max(), COLUMN_BYTES),
            hashers: vec![blake3::Hasher::new(); coder.n_max()],
            coder,
        }
    }

    /// Reads, codes and hashes the next columns, at most [`COLUMN_BYTES`] long; says how long they are.
    fn fill(
        &mut self,
        bundle: &SpooledBundle,
        shard_bytes: u64,
        offset: u64,
        spool: &SpoolDir,
    ) -> Result<usize, CodeError> {
        let bytes = usize::try_from(shard_bytes - offset).map_or(COLUMN_BYTES, |left| left.min(COLUMN_BYTES));
        let mut columns: Vec<&mut [u8]> =
            self.buffers.slices_mut().map(|column| &mut column[..bytes]).collect();
        let (data, parity) = columns.split_at_mut(self.coder.k());
        for (shard, column) in (0_u64..).zip(&mut *data) {
            let read = bundle.read_padded(shard * shard_bytes + offset, column);
            read.map_err(|error| spool.failed(error))?;
        }
        let data: Vec<&[u8]> = data.iter().map(|column| &**column).collect();
        self.coder.encode(&data, parity)?;
        // While all of it still lies in the cache.
        let parity = parity.iter().map(|column| &**column);
        for (hasher, column) in self.hashers.iter_mut().zip(data.iter().copied().chain(parity)) {
            hasher.update(column);
        }
        Ok(bytes)
    }

    fn parity(&self) -> impl Iterator<Item = &[u8]> {
        self.buffers.slices().skip(self.coder.k())
    }

    fn roots(&self) -> Vec<ShardRoot> {
        self.hashers.iter().map(|hasher| ShardRoot::from_bytes(*hasher.finalize().as_bytes())).collect()
    }
}

impl CodedBundle {
    pub(crate) const fn bundle(&self) -> &Arc<SpooledBundle> {
        &self.bundle
    }

    pub(crate) const fn coding(&self) -> &CodingHeader {
        &self.coding
    }

    /// The scheme whose shards are at hand.
    pub(crate) const fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// Fills `buffer` with a shard's bytes from `offset` on. Blocks.
    pub(crate) fn read_shard(&self, index: ShardIndex, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let (shard_bytes, k) = (self.coding.shard_bytes(), self.coding.k());
        let end = offset.checked_add(buffer.len() as u64);
        if index.0 >= self.scheme.n() || end.is_none_or(|end| end > shard_bytes) {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        }
        if k == 1 {
            return self.bundle.read_padded(offset, buffer);
        }
        if index.0 < k {
            return self.bundle.read_padded(u64::from(index.0) * shard_bytes + offset, buffer);
        }
        let row = u64::from(index.0 - k);
        match &self.parity {
            Some(file) => file.read_exact_at(buffer, row * shard_bytes + offset),
            None => Err(io::Error::from(io::ErrorKind::InvalidInput)),
        }
    }
}
