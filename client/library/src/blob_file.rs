//! Files of a source that are no NARs: build logs, realisations, debuginfo links.
//!
//! Owns: where a source keeps them, and what of them is archived. Always holds: what is read is bounded; a realisation
//! is that of its URL; an archived debuginfo link says whose NAR it means. No publisher signs these files for the
//! archive: they are attributed to their uploader, and the first one stays.
//! Leaves to others: which of them are published (`plan`), packing (`pack`).

use std::io::{self, Read};

use firn_base::{KeyKind, ObjectKey};
use firn_bundle::{Blob, Encoding, NewRecord};
use firn_nix_format::{
    BuildId, Compression, DEBUG_INFO_BYTES_MAX, DebugInfoLink, PathInfo, REALISATION_BYTES_MAX,
    RealisationUrl, Sha256, StorePath,
};
use sha2::Digest;

use crate::content::ContentWriter;
use crate::sorted_lines::SortedLines;
use crate::source::Source;
use crate::spool::{SpoolDir, SpoolError};
use crate::verify::{VerifiedObject, VerifyError};

/// The longest build log that is archived.
pub(crate) const LOG_BYTES_MAX: u64 = 1 << 30;

const PIECE_BYTES: usize = 64 << 10;

/// A file that is archived as a blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum BlobFile {
    /// The build log of this derivation.
    Log(StorePath),
    /// A realisation.
    Realisation(RealisationUrl),
    /// The debuginfo link of this build id.
    DebugInfo(BuildId),
}

/// Which path's NAR lies under which URL of a source: lines of [`NarOwners::line`], none where no link asks.
#[derive(Debug, Default)]
pub(crate) struct NarOwners(Option<SortedLines>);

impl BlobFile {
    /// What `name` names, of `--paths` or a listing: the URL of a realisation, link or
    /// build log, or the id of a realisation.
    pub(crate) fn named(name: &str) -> Option<Self> {
        let realisation = |url: &str| RealisationUrl::parse(url).ok().map(Self::Realisation);
        realisation(name)
            .or_else(|| realisation(&format!("realisations/{name}.doi")))
            .or_else(|| BuildId::from_url(name).ok().map(Self::DebugInfo))
            .or_else(|| StorePath::from_base_name(name.strip_prefix("log/")?).ok().map(Self::Log))
    }

    pub(crate) fn key(&self) -> ObjectKey {
        match self {
            Self::Log(deriver) => ObjectKey::build_log(*deriver.hash()),
            Self::Realisation(url) => ObjectKey::named(KeyKind::Realisation, url.as_str()),
            Self::DebugInfo(id) => ObjectKey::new(KeyKind::DebugInfo, id.0),
        }
    }

    /// Where a source may keep it; the first is what it is called.
    pub(crate) fn urls(&self) -> Vec<String> {
        match self {
            Self::Log(deriver) => vec![format!("log/{}", deriver.base_name())],
            Self::Realisation(url) => vec![url.to_string()],
            Self::DebugInfo(id) => id.urls().into(),
        }
    }

    /// What it is called.
    pub(crate) fn name(&self) -> String {
        self.urls().swap_remove(0)
    }

    /// Whether a local source has it.
    pub(crate) fn is_in(&self, source: &Source) -> bool {
        self.urls().iter().any(|url| source.has_file(url))
    }

    /// Reads and checks it. None if the source has none. Blocks.
    pub(crate) fn read(
        &self,
        source: &Source,
        owners: &NarOwners,
        spool: &SpoolDir,
    ) -> Result<Option<VerifiedObject>, VerifyError> {
        let limit = match self {
            Self::Log(_) => LOG_BYTES_MAX,
            Self::Realisation(_) => REALISATION_BYTES_MAX as u64,
            Self::DebugInfo(_) => DEBUG_INFO_BYTES_MAX as u64,
        };
        for url in self.urls() {
            let Some(file) = source.open_file(&url)? else { continue };
            let unfit = |reason: &dyn std::fmt::Display| VerifyError::Unfit {
                url: url.clone(),
                reason: reason.to_string(),
            };
            let mut object = BlobWriter::new(spool, file.bytes.unwrap_or(0).min(limit))?;
            match self {
                // As the file is: whether the builder compressed it is not said anywhere.
                Self::Log(_) => read_pieces(&url, file.reader, limit, |piece| object.push(piece))?,
                Self::Realisation(named) => {
                    let contents = read_whole(&url, file.reader, limit)?;
                    named.check(&contents).map_err(|error| unfit(&error))?;
                    object.push(&contents)?;
                }
                Self::DebugInfo(_) => {
                    let mut link = DebugInfoLink::parse(&read_whole(&url, file.reader, limit)?)
                        .map_err(|error| unfit(&error))?;
                    let owner = match link.archive_url() {
                        Some(archive) => owners.of(archive)?,
                        None => None,
                    };
                    // Else nobody could tell which NAR it means once that lies elsewhere.
                    link.store_path =
                        Some(owner.ok_or_else(|| unfit(&"no narinfo that was read names its archive"))?);
                    object.push(link.to_json().as_bytes())?;
                }
            }
            return object.finish(self.key(), url).map(Some);
        }
        Ok(None)
    }
}

impl NarOwners {
    /// The owners of these lines.
    pub(crate) const fn new(lines: SortedLines) -> Self {
        Self(Some(lines))
    }

    /// What is kept of a path.
    pub(crate) fn line(info: &PathInfo) -> String {
        format!("{}\t{}", stem(&info.url), info.store_path.base_name())
    }

    /// The path whose NAR lies there. Blocks.
    fn of(&self, url: &str) -> Result<Option<StorePath>, SpoolError> {
        let begins = format!("{}\t", stem(url));
        let line = self.0.as_ref().map(|lines| lines.find(&begins)).transpose()?.flatten();
        Ok(line.and_then(|line| StorePath::from_base_name(&line[begins.len()..]).ok()))
    }
}

/// A NAR's URL without its compression: caches that compress on the way offer several.
fn stem(url: &str) -> &str {
    url.split_once(".nar").map_or(url, |(stem, _)| stem)
}

/// A blob being read.
struct BlobWriter {
    content: ContentWriter,
    hasher: sha2::Sha256,
    bytes: u64,
}

impl BlobWriter {
    fn new(spool: &SpoolDir, expected: u64) -> Result<Self, VerifyError> {
        let content = ContentWriter::new(spool, expected)?;
        Ok(Self { content, hasher: sha2::Sha256::default(), bytes: 0 })
    }

    fn push(&mut self, piece: &[u8]) -> Result<(), VerifyError> {
        self.bytes += piece.len() as u64;
        self.hasher.update(piece);
        Ok(self.content.push(piece)?)
    }

    fn finish(self, key: ObjectKey, url: String) -> Result<VerifiedObject, VerifyError> {
        let sha256 = Sha256::from_bytes(self.hasher.finalize().into());
        let blob = Blob { url, compression: Compression::None, bytes: self.bytes, sha256 };
        let record = NewRecord::blob(key, blob, Encoding::Chunked);
        Ok(VerifiedObject {
            record,
            content: self.content.finish()?,
            source_bytes: self.bytes,
            recipe_tried: false,
            earlier: Vec::new(),
        })
    }
}

fn read_whole(url: &str, reader: Box<dyn Read + Send>, limit: u64) -> Result<Vec<u8>, VerifyError> {
    let mut contents = Vec::new();
    read_pieces(url, reader, limit, |piece| {
        contents.extend_from_slice(piece);
        Ok(())
    })?;
    Ok(contents)
}

fn read_pieces(
    url: &str,
    mut reader: Box<dyn Read + Send>,
    limit: u64,
    mut take: impl FnMut(&[u8]) -> Result<(), VerifyError>,
) -> Result<(), VerifyError> {
    let (mut piece, mut bytes) = (vec![0; PIECE_BYTES], 0_u64);
    loop {
        let count = match reader.read(&mut piece) {
            Ok(0) => return Ok(()),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(VerifyError::Read { url: url.to_owned(), cause: error.to_string() }),
        };
        bytes += count as u64;
        if bytes > limit {
            return Err(VerifyError::FileTooLong { limit });
        }
        take(&piece[..count])?;
    }
}
