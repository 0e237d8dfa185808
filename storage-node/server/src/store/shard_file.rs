//! A shard file that is open: its header, its ranges with proofs, and whether it is whole.
//!
//! Always holds: a file is opened only if its header is that of its name and its length is the one the header
//! gives; every byte that leaves was checked against the root.

use std::io;
use std::ops::Range;

use firn_base::BundleId;
use firn_bundle::{
    HeaderError, ParsedShardFileHeader, ProofError, SHARD_FILE_HEADER_BYTES_MAX, SHARD_FILE_PAGE_BYTES,
    SHARD_FILE_TRAILER_BYTES, ShardFileHeader, ShardFileLayout, ShardTreeBuilder, check_shard_file_trailer,
    encode_range_of_file, encoded_range_bytes,
};

use super::disk::{Disk, DiskFile, Readable, read_exact_at};
use super::name::ShardName;

// What is read at once while a whole file is checked.
const PIECE_BYTES: usize = 1 << 20;

/// A shard file, open for reading.
#[derive(Debug)]
pub(crate) struct OpenShard {
    file: Box<dyn DiskFile>,
    header: ShardFileHeader,
    layout: ShardFileLayout,
}

/// Why a file was not opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenShardError {
    #[error("{0}")]
    Damaged(String),
    #[error("{0}")]
    TooNew(HeaderError),
    #[error(transparent)]
    Disk(#[from] io::Error),
}

/// Why a shard file is not whole.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// Header, tree or trailer are not those of a shard file.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// The file is longer or shorter than its header says.
    #[error("the file has {found} bytes, its header gives {expected}: it is cut off or something follows it")]
    Length {
        /// Bytes of the file.
        found: u64,
        /// Bytes that a file with this header has.
        expected: u64,
    },
    /// The shard or its tree have another root than the coding header says.
    #[error("the shard does not match its root: its bytes are damaged")]
    Root,
    /// It cannot be read.
    #[error("the file cannot be read: {0}")]
    Disk(#[from] io::Error),
}

impl OpenShard {
    /// Opens the file of shard `name`.
    pub(crate) fn open(disk: &dyn Disk, name: ShardName) -> Result<Self, OpenShardError> {
        let file = disk.open(&name.path())?;
        let (header, _) = match read_header(file.as_ref()) {
            Ok(header) => header,
            Err(InspectError::Disk(error)) => return Err(error.into()),
            Err(InspectError::Header(error @ HeaderError::TooNew { .. })) => {
                return Err(OpenShardError::TooNew(error));
            }
            Err(error) => return Err(OpenShardError::Damaged(error.to_string())),
        };
        if header.coding().coding_id() != name.coding || header.index() != name.index {
            return Err(OpenShardError::Damaged("its header is that of another shard".to_owned()));
        }
        let layout = header.layout();
        let found = file.bytes()?;
        if found != layout.file_bytes {
            let error = InspectError::Length { found, expected: layout.file_bytes };
            return Err(OpenShardError::Damaged(error.to_string()));
        }
        Ok(Self { file, header, layout })
    }

    pub(crate) const fn header(&self) -> &ShardFileHeader {
        &self.header
    }

    /// The proof of `range`, checked while it is made.
    pub(crate) fn prove(&self, range: &Range<u64>) -> Result<Vec<u8>, ProofError> {
        let bytes = encoded_range_bytes(self.layout.shard_bytes, range)?;
        let mut encoded = Vec::with_capacity(usize::try_from(bytes).map_err(io::Error::other)?);
        let file = Readable(self.file.as_ref());
        encode_range_of_file(file, &self.layout, self.header.root(), range, &mut encoded)?;
        Ok(encoded)
    }

    /// Reads the whole file and checks all of it.
    pub(crate) fn verify(&self) -> Result<(), InspectError> {
        verify_file(self.file.as_ref()).map(|_| ())
    }
}

/// The bundle of a shard file, wherever it lies, by its header; none if it has no header that can be read.
pub(crate) fn bundle_of_file(disk: &dyn Disk, path: &str) -> io::Result<Option<BundleId>> {
    let file = disk.open(path)?;
    match read_header(file.as_ref()) {
        Ok((header, _)) => Ok(Some(header.content().bundle_id())),
        Err(InspectError::Disk(error)) if error.kind() != io::ErrorKind::UnexpectedEof => Err(error),
        Err(_) => Ok(None),
    }
}

/// Reads a whole shard file and checks header, shard, tree and trailer against each other.
pub fn verify_file(file: &dyn DiskFile) -> Result<ShardFileHeader, InspectError> {
    let (header, header_bytes) = read_header(file)?;
    let layout = header.layout();
    let found = file.bytes()?;
    if found != layout.file_bytes {
        return Err(InspectError::Length { found, expected: layout.file_bytes });
    }
    let mut builder = ShardTreeBuilder::new(layout.shard_bytes);
    let mut piece = vec![0; PIECE_BYTES];
    let mut offset = 0;
    while offset < layout.shard_bytes {
        let left = usize::try_from(layout.shard_bytes - offset).unwrap_or(usize::MAX);
        let piece = &mut piece[..left.min(PIECE_BYTES)];
        read_exact_at(file, layout.shard_offset + offset, piece)?;
        builder.update(piece).map_err(|_| InspectError::Root)?;
        offset += piece.len() as u64;
    }
    let tree = builder.finish().map_err(|_| InspectError::Root)?;
    if tree.root != header.root() {
        return Err(InspectError::Root);
    }
    let mut outboard = vec![0; tree.outboard.len()];
    read_exact_at(file, layout.outboard_offset, &mut outboard)?;
    let mut trailer = [0; SHARD_FILE_TRAILER_BYTES];
    read_exact_at(file, layout.trailer_offset, &mut trailer)?;
    check_shard_file_trailer(&header_bytes, &outboard, &trailer)?;
    if outboard != tree.outboard {
        return Err(InspectError::Root);
    }
    Ok(header)
}

fn read_header(file: &dyn DiskFile) -> Result<(ShardFileHeader, Vec<u8>), InspectError> {
    let length = file.bytes()?;
    let mut wanted = SHARD_FILE_PAGE_BYTES;
    loop {
        let bytes = usize::try_from(length).unwrap_or(usize::MAX).min(wanted);
        let mut front = vec![0; bytes];
        read_exact_at(file, 0, &mut front)?;
        match ShardFileHeader::parse(&front)? {
            ParsedShardFileHeader::Complete(header) => {
                let header_bytes = usize::try_from(header.layout().header_bytes).unwrap_or(bytes);
                front.truncate(header_bytes);
                return Ok((*header, front));
            }
            ParsedShardFileHeader::NeedsBytes(more) => {
                let possible = more > bytes && more <= SHARD_FILE_HEADER_BYTES_MAX as usize;
                if !possible || (more as u64) > length {
                    return Err(InspectError::Length { found: length, expected: more as u64 });
                }
                wanted = more;
            }
        }
    }
}
