//! Reading one NAR from its source and checking it: the publisher's word is taken for nothing.
//!
//! Owns: decompressing, hashing, validating, patching and chunking in one pass. Always holds: a verified path is a
//! well-formed NAR of exactly its NarSize and NarHash, and its file has the FileSize and FileHash that were
//! stated; whatever the source sends, no more is read than it may have and memory is bounded.
//! Leaves to others: signatures (`plan`), files that are no NARs (`blob_file`), packing (`pack`).

use std::io::{self, BufReader, Read};

use firn_bundle::{Encoding, NewRecord};
use firn_nix_format::{
    Compression, NarError, NarInspector, NarMismatch, PathInfo, Sha256, VerifyingReader, decoder,
};
use sha2::Digest;

use crate::content::{Content, ContentWriter};
use crate::earlier::EarlierChunk;
use crate::nar_writer::NarWriter;
use crate::source::{Source, SourceError};
use crate::spool::{SpoolDir, SpoolError};

const PIECE_BYTES: usize = 64 << 10;
const FILE_BUFFER_BYTES: usize = 256 << 10;

/// An object that is what its record says.
#[derive(Debug)]
pub(crate) struct VerifiedObject {
    pub(crate) record: NewRecord,
    pub(crate) content: Content,
    /// Bytes of its file in the source.
    pub(crate) source_bytes: u64,
    /// Which of its chunks lie in earlier bundles, as far as anybody has looked.
    pub(crate) earlier: Vec<EarlierChunk>,
}

/// Why an object is not published.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The source does not have the file.
    #[error("the file `{0}` is missing")]
    Missing(String),
    /// The source refuses to open it.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// Reading or decompressing failed.
    #[error("the file `{url}` cannot be read: {cause}")]
    Read {
        /// The file.
        url: String,
        /// What happened.
        cause: String,
    },
    /// The file is longer than stated, or than any file of such a NAR.
    #[error("the file is longer than the {limit} bytes that it may have")]
    FileTooLong {
        /// What it may have.
        limit: u64,
    },
    /// The file is shorter than stated.
    #[error("the file has {found} bytes and not its FileSize of {stated}")]
    FileSize {
        /// What the narinfo says.
        stated: u64,
        /// What came.
        found: u64,
    },
    /// The file's contents are others than stated.
    #[error("the file has the hash {found} and not its FileHash {stated}")]
    FileHash {
        /// What the narinfo says.
        stated: Sha256,
        /// What came.
        found: Sha256,
    },
    /// It is not what its URL says.
    #[error("the file `{url}` is not taken: {reason}")]
    Unfit {
        /// The file.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// It is no NAR.
    #[error(transparent)]
    Nar(#[from] NarError),
    /// It is another NAR.
    #[error(transparent)]
    Mismatch(#[from] NarMismatch),
    /// The spool failed: nobody's object is at fault.
    #[error(transparent)]
    Spool(#[from] SpoolError),
}

/// What passes between a source's file and its decoder.
struct FileState {
    hasher: Option<sha2::Sha256>,
    read: u64,
    limit: u64,
    // Takes the file as it is, for `verbatim`.
    keep: Option<ContentWriter>,
    // The reason behind an error that went through the decoder.
    failure: Option<VerifyError>,
}

struct FileReader<'a> {
    inner: Box<dyn Read + Send>,
    state: &'a mut FileState,
}

impl Read for FileReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        let bytes = &buffer[..count];
        self.state.take(bytes).map(|()| count).map_err(|failure| {
            self.state.failure = Some(failure);
            io::Error::other("the file was given up")
        })
    }
}

impl FileState {
    fn take(&mut self, bytes: &[u8]) -> Result<(), VerifyError> {
        self.read = self.read.saturating_add(bytes.len() as u64);
        if self.read > self.limit {
            return Err(VerifyError::FileTooLong { limit: self.limit });
        }
        if let Some(hasher) = &mut self.hasher {
            hasher.update(bytes);
        }
        if let Some(keep) = &mut self.keep {
            keep.push(bytes)?;
        }
        Ok(())
    }
}

/// Reads and checks the NAR of `info`. Blocks.
pub(crate) fn verify_path(
    source: &Source,
    info: &PathInfo,
    encoding: Encoding,
    spool: &SpoolDir,
) -> Result<VerifiedObject, VerifyError> {
    let file = source.open_hashed(&info.url, info.file_size)?;
    let file = file.ok_or_else(|| VerifyError::Missing(info.url.clone()))?;
    let limit = info.file_size.unwrap_or_else(|| file_bytes_max(info.nar_size));
    // An uncompressed file is the NAR: it need not be hashed twice.
    let hash_file = match info.file_hash {
        Some(hash) => info.compression != Compression::None || hash != info.nar_hash,
        None => false,
    };
    let keep = match encoding {
        Encoding::Verbatim => Some(ContentWriter::new(spool, file.bytes.unwrap_or(limit).min(limit))?),
        Encoding::Chunked => None,
    };
    let hasher = hash_file.then(sha2::Sha256::default);
    let mut state = FileState { hasher, read: 0, limit, keep, failure: None };
    let reader = FileReader { inner: file.reader, state: &mut state };
    let decoded = decode(reader, info, encoding, spool);
    let chunked = match (decoded, state.failure.take()) {
        (Ok(chunked), _) => chunked,
        (Err(_), Some(failure)) | (Err(failure), None) => return Err(failure),
    };
    if let Some(stated) = info.file_size.filter(|stated| *stated != state.read) {
        return Err(VerifyError::FileSize { stated, found: state.read });
    }
    if let (Some(stated), Some(hasher)) = (info.file_hash, state.hasher) {
        let found = Sha256::from_bytes(hasher.finalize().into());
        if found != stated {
            return Err(VerifyError::FileHash { stated, found });
        }
    }
    let mut content = match (chunked, state.keep) {
        (Some(chunked), _) => chunked,
        (None, Some(keep)) => keep.finish()?,
        (None, None) => unreachable!("one of the two encodings keeps the content"),
    };
    let mut record = NewRecord::store_path(info.clone(), encoding);
    record.patches = content.take_patches();
    Ok(VerifiedObject { record, content, source_bytes: state.read, earlier: Vec::new() })
}

/// Decompresses and checks; gives the NAR's chunks if they are what is kept.
fn decode(
    file: FileReader<'_>,
    info: &PathInfo,
    encoding: Encoding,
    spool: &SpoolDir,
) -> Result<Option<Content>, VerifyError> {
    let failed = |error: io::Error| match NarMismatch::in_error(&error) {
        Some(mismatch) => VerifyError::Mismatch(mismatch),
        None => VerifyError::Read { url: info.url.clone(), cause: error.to_string() },
    };
    let mut target = match encoding {
        Encoding::Chunked => Target::Kept(Box::new(NarWriter::new(spool, info)?)),
        Encoding::Verbatim => Target::Inspected(Box::new(NarInspector::new(info.nar_size))),
    };
    let buffered = BufReader::with_capacity(FILE_BUFFER_BYTES, file);
    let decompressed = decoder(info.compression, buffered).map_err(failed)?;
    let mut nar = VerifyingReader::new(decompressed, info.nar_hash, info.nar_size);
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        let count = match nar.read(&mut piece) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(failed(error)),
        };
        match &mut target {
            Target::Kept(writer) => writer.push(&piece[..count])?,
            Target::Inspected(inspector) => inspector.push(&piece[..count])?,
        }
    }
    nar.finish()?;
    match target {
        Target::Kept(writer) => writer.finish().map(Some),
        Target::Inspected(inspector) => {
            inspector.finish()?;
            Ok(None)
        }
    }
}

/// What becomes of a NAR's bytes: kept, or only looked at where the published file is what is kept.
enum Target {
    Kept(Box<NarWriter>),
    Inspected(Box<NarInspector>),
}

/// The most that a file of a NAR may have where its FileSize is not stated: compression adds little at worst.
const fn file_bytes_max(nar_size: u64) -> u64 {
    nar_size.saturating_add(nar_size / 8).saturating_add(1 << 20)
}
