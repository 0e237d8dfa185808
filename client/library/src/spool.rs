//! Where a publish keeps what does not fit in memory: large NARs, payloads, parity.
//!
//! Always holds: spool files have no name, so nothing is left behind however the program ends.
//! Leaves to others: what is in them.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A directory for nameless files. Clones are the same directory.
#[derive(Debug, Clone)]
pub(crate) struct SpoolDir {
    path: Arc<PathBuf>,
}

/// The spool directory cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot use the spool directory {}: {source}; name another one with --spool-dir", path.display())]
pub struct SpoolError {
    path: PathBuf,
    source: io::Error,
}

impl SpoolError {
    /// Whether there was no room: what takes less may have some.
    pub(crate) fn is_full(&self) -> bool {
        matches!(self.source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
    }
}

impl SpoolDir {
    /// The directory at `path`, made if need be; the system's one for temporary files if none is given.
    pub(crate) fn open(path: Option<&Path>) -> Result<Self, SpoolError> {
        let path = path.map_or_else(std::env::temp_dir, Path::to_owned);
        let refuse = |source| SpoolError { path: path.clone(), source };
        fs::create_dir_all(&path).map_err(refuse)?;
        // Seen before any work is done, not when the first bundle is packed.
        tempfile::tempfile_in(&path).map_err(refuse)?;
        Ok(Self { path: Arc::new(path) })
    }

    /// A new, empty, nameless file.
    pub(crate) fn file(&self) -> Result<File, SpoolError> {
        tempfile::tempfile_in(&*self.path).map_err(|source| self.failed(source))
    }

    /// The error of a file of this directory.
    pub(crate) fn failed(&self, source: io::Error) -> SpoolError {
        SpoolError { path: self.path.to_path_buf(), source }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn spool_files_have_no_name() {
        let place = tempfile::tempdir().unwrap();
        let spool = SpoolDir::open(Some(&place.path().join("new"))).unwrap();
        let mut file = spool.file().unwrap();
        file.write_all(b"bytes").unwrap();
        assert_eq!(fs::read_dir(place.path().join("new")).unwrap().count(), 0);
    }

    #[test]
    fn a_directory_that_cannot_be_written_is_named_at_once() {
        let error = SpoolDir::open(Some(Path::new("/proc/none"))).unwrap_err().to_string();
        assert!(error.contains("/proc/none") && error.contains("--spool-dir"), "{error}");
    }
}
