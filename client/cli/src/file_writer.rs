//! Streams into files that appear only when they are complete.
//!
//! Always holds: bytes go to a file with a name of its own, which vanishes if anything fails or the command is
//! stopped; only [`PartialFile`]'s methods give it the name that was meant, and by then its bytes are on disk, so that
//! a loss of power leaves no name without its contents.

use std::fs::{self, File, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use firn_nix_format::Sha256;
use firn_retrieval::{ByteStream, ReadError};
use firn_transport::Environment;
use futures::StreamExt;
use sha2::Digest;
use tempfile::{Builder, NamedTempFile};

use crate::nar_encoder::{Encoder, NarCompression};

/// Why a file was not written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WriteError {
    /// What should be written could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The disk.
    #[error("cannot write {}: {source}", path.display())]
    Disk {
        /// The file or its directory.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Neither the published file is archived nor a recipe that makes it.
    #[error(
        "the archive has its contents and not the file that was published: it was published without --keep-recipes, or no recipe makes it"
    )]
    Lost,
    /// A newer version says how the published file is made.
    #[error("its published file is made by recipe {0}, which this version does not know: update firn")]
    NewerRecipe(u8),
    /// What was made is another file than the published one.
    #[error(
        "what was made of it has the hash {made} and not its FileHash {published}: another version of firn may make it"
    )]
    OtherFile {
        /// Of what was made.
        made: Sha256,
        /// What the narinfo said.
        published: Sha256,
    },
    /// The URL is none that an object of its kind may have, whoever published it so.
    #[error("its URL {url} is none for an object of its kind, so it is not written")]
    Refused {
        /// The URL.
        url: String,
    },
}

impl WriteError {
    /// The error of a file or directory at `path`.
    pub(crate) fn disk(path: &Path, source: io::Error) -> Self {
        Self::Disk { path: path.to_owned(), source }
    }

    /// Whether every other file would fail too.
    pub(crate) fn concerns_all(&self) -> bool {
        use io::ErrorKind::{PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
        let kinds = [PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull];
        matches!(self, Self::Disk { source, .. } if kinds.contains(&source.kind()))
    }
}

/// A file that is complete and on disk, and has no name yet.
#[derive(Debug)]
pub(crate) struct PartialFile {
    file: NamedTempFile,
    /// Its bytes.
    pub(crate) bytes: u64,
    /// Their SHA-256, if they were compressed here: else whoever wrote them knows it.
    pub(crate) sha256: Option<Sha256>,
}

/// A file that is being written.
struct Growing {
    encoder: Encoder<Counted>,
}

/// Counts what is written, and hashes it if it is compressed here.
struct Counted {
    file: NamedTempFile,
    bytes: u64,
    hasher: Option<sha2::Sha256>,
}

/// What the names of files begin and end with that are being written.
pub(crate) const PARTIAL_PREFIX: &str = ".firn-";
pub(crate) const PARTIAL_SUFFIX: &str = ".partial";

// A change of threads for less would cost more than the write.
const BATCH_BYTES: usize = 1 << 20;

impl Write for Counted {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.file.as_file_mut().write(bytes)?;
        self.bytes += count as u64;
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&bytes[..count]);
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.as_file_mut().flush()
    }
}

impl Growing {
    fn new(directory: &Path, compression: NarCompression) -> Result<Self, WriteError> {
        let failed = |source| WriteError::disk(directory, source);
        fs::create_dir_all(directory).map_err(failed)?;
        // Readable for whom the umask allows, as any file of a cache.
        let file = Builder::new()
            .prefix(PARTIAL_PREFIX)
            .suffix(PARTIAL_SUFFIX)
            .permissions(Permissions::from_mode(0o666))
            .tempfile_in(directory)
            .map_err(failed)?;
        let hasher = (compression != NarCompression::None).then(sha2::Sha256::default);
        let encoder = Encoder::new(compression, Counted { file, bytes: 0, hasher }).map_err(failed)?;
        Ok(Self { encoder })
    }

    fn push(mut self, pieces: &[Bytes]) -> Result<Self, WriteError> {
        for piece in pieces {
            let written = self.encoder.write_all(piece);
            written.map_err(|source| WriteError::disk(self.encoder.file().file.path(), source))?;
        }
        Ok(self)
    }

    fn finish(self) -> Result<PartialFile, WriteError> {
        let path = self.encoder.file().file.path().to_owned();
        let failed = |source| WriteError::disk(&path, source);
        let Counted { file, bytes, hasher } = self.encoder.finish().map_err(failed)?;
        file.as_file().sync_data().map_err(failed)?;
        let sha256 = hasher.map(|hasher| Sha256::from_bytes(hasher.finalize().into()));
        Ok(PartialFile { file, bytes, sha256 })
    }
}

impl PartialFile {
    /// Writes all of `stream`, compressed, into a new file in `directory`, which is made if need be.
    pub(crate) async fn from_stream(
        environment: &Environment,
        directory: &Path,
        mut stream: ByteStream,
        compression: NarCompression,
    ) -> Result<Self, WriteError> {
        let place = directory.to_owned();
        let mut growing = environment.blocking(move || Growing::new(&place, compression)).await?;
        let (mut batch, mut waiting) = (Vec::new(), 0);
        while let Some(piece) = stream.next().await {
            let piece = piece?;
            waiting += piece.len();
            batch.push(piece);
            if waiting >= BATCH_BYTES {
                let pieces = std::mem::take(&mut batch);
                waiting = 0;
                growing = environment.blocking(move || growing.push(&pieces)).await?;
            }
        }
        environment.blocking(move || growing.push(&batch)?.finish()).await
    }

    /// A file in `directory` with `text` in it.
    pub(crate) fn from_text(directory: &Path, text: &[u8]) -> Result<Self, WriteError> {
        Growing::new(directory, NarCompression::None)?.push(&[Bytes::copy_from_slice(text)])?.finish()
    }

    /// Its SHA-256: read from the disk where it is not known.
    pub(crate) fn hash(&self) -> Result<Sha256, WriteError> {
        if let Some(sha256) = self.sha256 {
            return Ok(sha256);
        }
        let failed = |source| WriteError::disk(self.file.path(), source);
        let mut file = File::open(self.file.path()).map_err(failed)?;
        let mut hasher = sha2::Sha256::default();
        io::copy(&mut file, &mut hasher).map_err(failed)?;
        Ok(Sha256::from_bytes(hasher.finalize().into()))
    }

    /// Gives it the name `path`, in place of whatever was there.
    pub(crate) fn replace(self, path: &Path) -> Result<(), WriteError> {
        self.file.persist(path).map_err(|error| WriteError::disk(path, error.error))?;
        Ok(())
    }

    /// Gives it the name `path` if nothing is there or the same bytes are; else gives it back.
    pub(crate) fn keep_first(self, path: &Path) -> Result<Result<(), Self>, WriteError> {
        match self.file.persist_noclobber(path) {
            Ok(_) => Ok(Ok(())),
            Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => {
                let same = same_bytes(error.file.path(), path);
                let same = same.map_err(|source| WriteError::disk(path, source))?;
                Ok(if same { Ok(()) } else { Err(Self { file: error.file, ..self }) })
            }
            Err(error) => Err(WriteError::disk(path, error.error)),
        }
    }
}

fn same_bytes(one: &Path, other: &Path) -> io::Result<bool> {
    let (mut one, mut other) = (File::open(one)?, File::open(other)?);
    if one.metadata()?.len() != other.metadata()?.len() {
        return Ok(false);
    }
    let (mut left, mut right) = (vec![0; 64 << 10], vec![0; 64 << 10]);
    loop {
        let count = one.read(&mut left)?;
        if count == 0 {
            return Ok(true);
        }
        other.read_exact(&mut right[..count])?;
        if left[..count] != right[..count] {
            return Ok(false);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::stream;

    use super::*;

    fn names(directory: &Path) -> Vec<String> {
        let entries = fs::read_dir(directory).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[tokio::test]
    async fn a_stream_that_breaks_off_leaves_no_file() {
        let place = tempfile::tempdir().unwrap();
        for compression in [NarCompression::None, NarCompression::XZ] {
            let cause = ReadError::NoDirectory { cause: "gone".to_owned() };
            let pieces = vec![Ok(Bytes::from_static(b"abc")), Err(cause)];
            let stream = stream::iter(pieces).boxed();
            let result =
                PartialFile::from_stream(&Environment::real(), place.path(), stream, compression).await;
            assert!(matches!(result, Err(WriteError::Read(_))));
            assert_eq!(names(place.path()), Vec::<String>::new());
        }
    }

    #[tokio::test]
    async fn a_file_that_is_compressed_here_has_its_own_length_and_hash() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("x");
        let pieces: Vec<_> = (0..40).map(|_| Ok(Bytes::from(vec![7; 100_000]))).collect();
        let stream = stream::iter(pieces).boxed();
        let file =
            PartialFile::from_stream(&Environment::real(), place.path(), stream, NarCompression::Zstd).await;
        let file = file.unwrap();
        let (bytes, sha256) = (file.bytes, file.sha256);
        file.replace(&path).unwrap();
        let written = fs::read(&path).unwrap();
        assert_eq!((written.len() as u64, Some(Sha256::of(&written))), (bytes, sha256));
        assert!(bytes < 100_000, "{bytes}");
    }

    #[tokio::test]
    async fn the_first_of_two_different_files_stays() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("x");
        let file = |text: &str| PartialFile::from_text(place.path(), text.as_bytes()).unwrap();
        assert!(file("one").keep_first(&path).unwrap().is_ok());
        assert!(file("one").keep_first(&path).unwrap().is_ok());
        assert!(file("two").keep_first(&path).unwrap().is_err());
        assert!(file("longer").keep_first(&path).unwrap().is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "one");
        file("two").replace(&path).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "two");
        assert_eq!(names(place.path()), ["x"]);
    }
}
