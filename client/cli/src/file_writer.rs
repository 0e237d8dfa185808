//! Streams into files that appear only when they are complete.
//!
//! Always holds: bytes go to a file with a name of its own, which vanishes if anything fails or the command is
//! stopped; only [`PartialFile`]'s methods give it the name that was meant.

use std::fs::{self, File, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use firn_retrieval::{ByteStream, ReadError};
use firn_transport::Environment;
use futures::StreamExt;
use tempfile::{Builder, NamedTempFile};

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

/// A file that is complete and has no name yet.
#[derive(Debug)]
pub(crate) struct PartialFile {
    file: NamedTempFile,
    /// Its bytes.
    pub(crate) bytes: u64,
}

// A change of threads for less would cost more than the write.
const BATCH_BYTES: usize = 1 << 20;

impl PartialFile {
    /// Writes all of `stream` into a new file in `directory`, which is made if need be.
    pub(crate) async fn from_stream(
        environment: &Environment,
        directory: &Path,
        mut stream: ByteStream,
    ) -> Result<Self, WriteError> {
        let place = directory.to_owned();
        let mut partial = environment.blocking(move || Self::new(&place)).await?;
        let (mut batch, mut waiting) = (Vec::new(), 0);
        while let Some(piece) = stream.next().await {
            let piece = piece?;
            waiting += piece.len();
            batch.push(piece);
            if waiting >= BATCH_BYTES {
                let pieces = std::mem::take(&mut batch);
                waiting = 0;
                partial = environment.blocking(move || partial.push(&pieces)).await?;
            }
        }
        environment.blocking(move || partial.push(&batch)).await
    }

    /// A file in `directory` with `text` in it.
    pub(crate) fn from_text(directory: &Path, text: &str) -> Result<Self, WriteError> {
        Self::new(directory)?.push(&[Bytes::copy_from_slice(text.as_bytes())])
    }

    fn new(directory: &Path) -> Result<Self, WriteError> {
        let failed = |source| WriteError::disk(directory, source);
        fs::create_dir_all(directory).map_err(failed)?;
        // Readable for whom the umask allows, as any file of a cache.
        let builder = Builder::new()
            .prefix(".firn-")
            .suffix(".partial")
            .permissions(Permissions::from_mode(0o666))
            .tempfile_in(directory);
        Ok(Self { file: builder.map_err(failed)?, bytes: 0 })
    }

    fn push(mut self, pieces: &[Bytes]) -> Result<Self, WriteError> {
        for piece in pieces {
            self.bytes += piece.len() as u64;
            let written = self.file.as_file_mut().write_all(piece);
            written.map_err(|source| WriteError::disk(self.file.path(), source))?;
        }
        Ok(self)
    }

    /// Gives it the name `path`, in place of whatever was there.
    pub(crate) fn replace(self, path: &Path) -> Result<u64, WriteError> {
        self.file.persist(path).map_err(|error| WriteError::disk(path, error.error))?;
        Ok(self.bytes)
    }

    /// Gives it the name `path` if nothing is there or the same bytes are; else gives it back.
    pub(crate) fn keep_first(self, path: &Path) -> Result<Result<(), Self>, WriteError> {
        match self.file.persist_noclobber(path) {
            Ok(_) => Ok(Ok(())),
            Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => {
                let same = same_bytes(error.file.path(), path);
                let same = same.map_err(|source| WriteError::disk(path, source))?;
                Ok(if same { Ok(()) } else { Err(Self { file: error.file, bytes: self.bytes }) })
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
        let cause = ReadError::NoDirectory { cause: "gone".to_owned() };
        let pieces = vec![Ok(Bytes::from_static(b"abc")), Err(cause)];
        let stream = stream::iter(pieces).boxed();
        let result = PartialFile::from_stream(&Environment::real(), place.path(), stream).await;
        assert!(matches!(result, Err(WriteError::Read(_))));
        assert_eq!(names(place.path()), Vec::<String>::new());
    }

    #[tokio::test]
    async fn the_first_of_two_different_files_stays() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("x");
        let file = |text| PartialFile::from_text(place.path(), text).unwrap();
        assert!(file("one").keep_first(&path).unwrap().is_ok());
        assert!(file("one").keep_first(&path).unwrap().is_ok());
        assert!(file("two").keep_first(&path).unwrap().is_err());
        assert!(file("longer").keep_first(&path).unwrap().is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "one");
        assert_eq!(file("two").replace(&path).unwrap(), 3);
        assert_eq!(names(place.path()), ["x"]);
    }
}
