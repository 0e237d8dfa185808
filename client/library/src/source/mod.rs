//! Where a publish reads from: a binary cache in a directory, behind a URL or in a bucket.
//!
//! Owns: what can be asked of a source, and which of its files may be opened. Always holds: a file outside of
//! the cache is never opened, whatever a narinfo, a symlink or a server says; narinfos are at most 1 MiB; every wait
//! for a server ends; half a file is never taken for a whole one.
//! Leaves to others: whether what is read is genuine (`verify`, `plan`).

mod aws_credentials;
mod connections;
mod directory;
mod guarded_resolver;
mod http;
#[cfg(test)]
mod http_tests;
mod origin;
mod paced_body;
mod patience;
mod resuming_body;
mod s3_bucket;
#[cfg(test)]
mod s3_tests;
#[cfg(test)]
mod server_tests;
#[cfg(test)]
mod test_server;

use std::fmt;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use firn_nix_format::{CacheUrlError, PATH_INFO_BYTES_MAX};

pub use self::aws_credentials::{AwsCredentialsError, AwsEnvironment};
use self::directory::DirectorySource;
use self::http::{Expected, HttpSource};
pub use self::s3_bucket::{S3Options, S3SourceError};
use crate::blob_file::BlobFile;

// Where Nix keeps what is neither a narinfo, nor a NAR, nor found by way of one.
const BLOB_FOLDERS: [&str; 3] = ["realisations", "build-trace-v2", "debuginfo"];

/// A binary cache to publish from. Its methods block: call them in blocking work. Clones are the same source.
#[derive(Debug, Clone)]
pub struct Source {
    place: Place,
}

#[derive(Debug, Clone)]
enum Place {
    Directory(Arc<DirectorySource>),
    Http(Arc<HttpSource>, usize),
}

// Of 16 files of 1 MB over a way of 100 ms each, one connection takes 3 s and 16 take 0.3; more are a burden to small
// servers.
const CONNECTIONS: usize = 16;

/// The most connections that a source may be read over: each takes a thread, and the runtime has 512.
pub const SOURCE_CONNECTIONS_MAX: usize = 256;

/// How a source behind a URL is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceOptions {
    /// The user says that the host may lie at an address that is not public, although it has a name.
    pub private: bool,
    /// Connections to the server, at most: 1 to [`SOURCE_CONNECTIONS_MAX`], else the nearest of these.
    pub connections: usize,
    /// Spreads the pauses between tries: different for each uploader.
    pub seed: u64,
    /// How buckets of S3 are asked.
    pub s3: S3Options,
}

/// A file of a source, open for reading.
pub struct SourceFile {
    /// Its bytes.
    pub reader: Box<dyn Read + Send>,
    /// How many there are, where the source says so.
    pub bytes: Option<u64>,
}

impl fmt::Debug for SourceFile {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("SourceFile").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

/// What somebody wrote for a source, to be shown: without what stands before an `@`, where passwords and keys are.
fn without_keys(text: &str) -> String {
    text.rsplit('@').next().unwrap_or(text).to_owned()
}

/// Why a source or one of its files cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// Neither a directory nor a URL that can be read.
    #[error("`{0}` is no source: give a directory, file://, http(s):// or s3://")]
    UnknownScheme(String),
    /// It begins like a URL.
    #[error("`{0}` is no address of a binary cache: give http(s)://HOST/FOLDER")]
    NoUrl(String),
    /// It is no bucket that can be asked.
    #[error(transparent)]
    S3(#[from] S3SourceError),
    /// There is no such directory.
    #[error("{} is not a directory that can be read: {source}", path.display())]
    NoDirectory {
        /// The directory.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A URL cannot be listed.
    #[error("{0} cannot be listed: name the paths to publish with --paths")]
    CannotList(String),
    /// The name leads out of the cache.
    #[error(transparent)]
    LeavesCache(#[from] CacheUrlError),
    /// A symlink leads out of the cache.
    #[error("`{0}` is a symlink that leads out of the cache")]
    SymlinkLeavesCache(String),
    /// It is a directory, a device or something else that holds no bytes.
    #[error("`{0}` is not a regular file")]
    NotAFile(String),
    /// A narinfo is larger than any real one.
    #[error("`{0}` is larger than 1 MiB")]
    TooLarge(String),
    /// The server gave no file.
    #[error("`{name}` could not be fetched: {reason}")]
    Fetch {
        /// The file.
        name: String,
        /// What went wrong.
        reason: String,
    },
    /// The server does not answer, or may not be spoken to.
    #[error(
        "{cache} is given up: {reason}; what was done stands, and running the same again goes on from there"
    )]
    Away {
        /// Its URL.
        cache: String,
        /// What was seen last.
        reason: String,
    },
    /// The file could not be read.
    #[error("`{name}` could not be read: {source}")]
    Read {
        /// The file.
        name: String,
        /// What the kernel said.
        source: io::Error,
    },
}

impl SourceError {
    /// Whether no other file of the source can be had either.
    pub const fn is_away(&self) -> bool {
        matches!(self, Self::Away { .. })
    }
}

impl Default for SourceOptions {
    fn default() -> Self {
        Self { private: false, connections: CONNECTIONS, seed: 0, s3: S3Options::default() }
    }
}

impl Source {
    /// The source that `text` names, with the defaults.
    ///
    /// # Errors
    /// As [`Self::open_with`].
    pub fn open(text: &str) -> Result<Self, SourceError> {
        Self::open_with(text, &SourceOptions::default())
    }

    /// The source that `text` names: a directory, `file://…`, `http(s)://…` or `s3://…`. Blocks for as long as a directory
    /// or a file of credentials takes.
    ///
    /// # Errors
    /// It names none, or a directory that cannot be read. Servers are not asked yet.
    pub fn open_with(text: &str, options: &SourceOptions) -> Result<Self, SourceError> {
        let place = match text.split_once("://") {
            Some(("http" | "https" | "s3", _)) => {
                let connections = options.connections.clamp(1, SOURCE_CONNECTIONS_MAX);
                let options = SourceOptions { connections, ..options.clone() };
                Place::Http(Arc::new(HttpSource::new(text, &options)?), connections)
            }
            Some(("file", path)) => Place::Directory(Arc::new(DirectorySource::open(Path::new(path))?)),
            Some(_) => return Err(SourceError::UnknownScheme(without_keys(text))),
            None => Place::Directory(Arc::new(DirectorySource::open(Path::new(text))?)),
        };
        Ok(Self { place })
    }

    /// A source behind a URL that does not wait between its tries.
    #[cfg(test)]
    pub(crate) fn impatient(url: &str) -> Self {
        let (http, _) = test_server::source_at(url, &SourceOptions::default(), 3);
        Self { place: Place::Http(Arc::new(http), CONNECTIONS) }
    }

    /// Asks a server whether it is there, before much is asked of it, and forgets that it was away; does nothing with a
    /// directory.
    ///
    /// # Errors
    /// It does not answer, or not as a cache does.
    pub fn greet(&self) -> Result<(), SourceError> {
        match &self.place {
            Place::Directory(_) => Ok(()),
            Place::Http(http, _) => http.greet(),
        }
    }

    /// The names before `.narinfo` of all narinfos, sorted; only directories can tell.
    pub fn list(&self) -> Result<Vec<String>, SourceError> {
        match &self.place {
            Place::Directory(directory) => directory.list(),
            Place::Http(http, _) => Err(SourceError::CannotList(http.to_string())),
        }
    }

    /// The names before `.narinfo` of all narinfos, in no order; only directories can tell.
    pub(crate) fn narinfos(&self) -> Result<impl Iterator<Item = Result<String, SourceError>>, SourceError> {
        match &self.place {
            Place::Directory(directory) => directory.narinfos(),
            Place::Http(http, _) => Err(SourceError::CannotList(http.to_string())),
        }
    }

    /// The URLs of all realisations, build traces and debuginfo links, in no order; none of a source that cannot be listed.
    pub(crate) fn blobs(&self) -> impl Iterator<Item = Result<String, SourceError>> {
        let directory = match &self.place {
            Place::Directory(directory) => Some(directory),
            Place::Http(..) => None,
        };
        let folders =
            directory.into_iter().flat_map(|directory| BLOB_FOLDERS.map(|folder| directory.below(folder)));
        let urls = folders.flat_map(|urls| {
            let (urls, error) = match urls {
                Ok(urls) => (Some(urls), None),
                Err(error) => (None, Some(Err(error))),
            };
            urls.into_iter().flatten().chain(error)
        });
        urls.filter(|url| !url.as_ref().is_ok_and(|url| BlobFile::named(url).is_none()))
    }

    /// As [`Self::blobs`], sorted.
    pub fn list_blobs(&self) -> Result<Vec<String>, SourceError> {
        let mut urls = self.blobs().collect::<Result<Vec<_>, _>>()?;
        urls.sort_unstable();
        Ok(urls)
    }

    /// The text of `<hash_part>.narinfo`; none if there is none.
    pub fn narinfo(&self, hash_part: &str) -> Result<Option<Vec<u8>>, SourceError> {
        let name = format!("{hash_part}.narinfo");
        let expected = Expected { small: true, ..Expected::default() };
        let Some(file) = self.open_expected(&name, expected)? else { return Ok(None) };
        let mut text = Vec::new();
        let limit = u64::try_from(PATH_INFO_BYTES_MAX).unwrap_or(u64::MAX);
        let read = file.reader.take(limit.saturating_add(1)).read_to_end(&mut text);
        read.map_err(|source| SourceError::Read { name: name.clone(), source })?;
        if text.len() > PATH_INFO_BYTES_MAX {
            return Err(SourceError::TooLarge(name));
        }
        Ok(Some(text))
    }

    /// Whether there is a narinfo of that hash part, be it sound or not.
    pub fn has_narinfo(&self, hash_part: &str) -> Result<bool, SourceError> {
        let name = format!("{hash_part}.narinfo");
        match &self.place {
            Place::Directory(directory) => Ok(directory.has(&name)),
            Place::Http(http, _) => http.has(&name),
        }
    }

    /// Whether the files are on this machine, so that a look costs nothing.
    pub const fn is_local(&self) -> bool {
        matches!(self.place, Place::Directory(_))
    }

    /// How many files to read side by side: what keeps `cores` busy of a disk, of a server all its connections.
    pub const fn side_by_side(&self, cores: usize) -> usize {
        match self.place {
            // While one object waits for its disk, another is decompressed.
            Place::Directory(_) => 2 * cores,
            Place::Http(_, connections) => connections,
        }
    }

    /// Whether a local source has this file; of others nothing is known beforehand.
    pub(crate) fn has_file(&self, url: &str) -> bool {
        match &self.place {
            Place::Directory(directory) => {
                firn_nix_format::check_cache_url(url).is_ok() && directory.has(url)
            }
            Place::Http(..) => false,
        }
    }

    /// Opens a file of the cache by its relative URL; none if there is none.
    ///
    /// # Errors
    /// It is refused too if its server does not say where it ends.
    pub fn open_file(&self, url: &str) -> Result<Option<SourceFile>, SourceError> {
        self.open_expected(url, Expected::default())
    }

    /// As [`Self::open_file`], for a file whose contents a hash tells; `bytes`: its size, where that is known.
    pub(crate) fn open_hashed(
        &self,
        url: &str,
        bytes: Option<u64>,
    ) -> Result<Option<SourceFile>, SourceError> {
        self.open_expected(url, Expected { bytes, hashed: true, small: false })
    }

    fn open_expected(&self, url: &str, expected: Expected) -> Result<Option<SourceFile>, SourceError> {
        firn_nix_format::check_cache_url(url)?;
        match &self.place {
            Place::Directory(directory) => directory.open_file(url),
            Place::Http(http, _) => http.open_file(url, expected),
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Directory(directory) => write!(formatter, "{}", directory.path().display()),
            Place::Http(http, _) => write!(formatter, "{http}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_source_is_refused_in_a_sentence() {
        let sentence = |text| Source::open(text).unwrap_err().to_string();
        assert!(sentence("s3://").contains("names no bucket"));
        assert!(sentence("ftp://host").contains("is no source"));
        assert!(sentence("/no/such/directory").contains("is not a directory"));
    }

    #[test]
    fn a_url_cannot_be_listed() {
        let error = Source::open("https://cache.example.org").unwrap().list().unwrap_err();
        assert!(error.to_string().contains("--paths"));
    }
}
