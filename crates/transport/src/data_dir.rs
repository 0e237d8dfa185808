//! A role's data directory: whose it is, in which format, and that only one process works in it.
//!
//! Always holds: while a [`DataDir`] lives, no other process has one on the same directory; a directory of
//! another role or a newer format is never touched; the `format` file is written whole or not at all. Leaves
//! to others: everything else that lies in it.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// A data directory that is locked for this process. The lock ends when it is dropped or the process dies.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    fresh: bool,
    _lock: File,
}

/// Why a directory is not used.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// Another process works in it.
    #[error("the data directory {} is in use by another process{}: stop it first, or choose another directory", path.display(), owner(*process))]
    InUse {
        /// The directory.
        path: PathBuf,
        /// The process, where it is known.
        process: Option<u32>,
    },
    /// Written by a newer program.
    #[error("the data directory {} has format {found}, this program knows up to {known}: update the program", path.display())]
    NewerFormat {
        /// The directory.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// The newest format of this program.
        known: u32,
    },
    /// It belongs to something else.
    #[error("the data directory {} belongs to a {found}, not to a {expected}: choose another directory", path.display())]
    OtherRole {
        /// The directory.
        path: PathBuf,
        /// Whose it is.
        found: String,
        /// Whose it should be.
        expected: String,
    },
    /// The `format` file says nothing that is understood.
    #[error("{} is damaged: restore it from a backup, it should read `{expected}`", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What it should say.
        expected: String,
    },
    /// Nothing of Firn lies in it, though it should.
    #[error("{} is not the data directory of a {role}: is the disk mounted?", path.display())]
    NotInitialised {
        /// The directory.
        path: PathBuf,
        /// Whose it should be.
        role: String,
    },
    /// It cannot be read or written.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

fn owner(process: Option<u32>) -> String {
    process.map(|id| format!(" (process {id})")).unwrap_or_default()
}

// A format file holds one short line.
const FORMAT_BYTES_MAX: u64 = 256;

impl DataDir {
    /// Opens the directory of a `role` (`storage-node`, `coordinator`), making it if there is none. `format` is
    /// the newest format that this program knows and the one that a new directory gets.
    pub fn open(path: &Path, role: &str, format: u32) -> Result<Self, DataDirError> {
        fs::create_dir_all(path).map_err(|source| io_error("create the directory", path, source))?;
        let lock = lock(path)?;
        let fresh = read_format(path, role, format)?.is_none();
        if fresh {
            let text = format!("{}\n", format_line(role, format));
            write_synced(path, "format", text.as_bytes(), 0o644)
                .map_err(|source| io_error("write", &path.join("format"), source))?;
        }
        Ok(Self { path: path.to_owned(), fresh, _lock: lock })
    }

    /// Opens a directory that must be there already. Where the disk is not mounted this is an error, and
    /// nothing is written to the place where it should be.
    pub fn open_existing(path: &Path, role: &str, format: u32) -> Result<Self, DataDirError> {
        if read_format(path, role, format)?.is_none() {
            return Err(DataDirError::NotInitialised { path: path.to_owned(), role: role.to_owned() });
        }
        Ok(Self { path: path.to_owned(), fresh: false, _lock: lock(path)? })
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A file or directory in it.
    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path.join(name)
    }

    /// Whether [`Self::open`] found no `format` file and wrote it.
    pub const fn is_fresh(&self) -> bool {
        self.fresh
    }
}

fn format_line(role: &str, format: u32) -> String {
    format!("firn-{role} {format}")
}

fn io_error(action: &'static str, path: &Path, source: io::Error) -> DataDirError {
    DataDirError::Io { action, path: path.to_owned(), source }
}

fn lock(directory: &Path) -> Result<File, DataDirError> {
    let path = directory.join("lock");
    let refuse = |source| io_error("write", &path, source);
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o644)
        .open(&path)
        .map_err(refuse)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut text = String::new();
            let read = (&mut file).take(FORMAT_BYTES_MAX).read_to_string(&mut text);
            let process = read.ok().and_then(|_| text.trim().parse().ok());
            return Err(DataDirError::InUse { path: directory.to_owned(), process });
        }
        Err(TryLockError::Error(source)) => return Err(io_error("lock", &path, source)),
    }
    // The number is for the error text above; the lock itself is the kernel's.
    let written = file.set_len(0).and_then(|()| file.rewind());
    written.and_then(|()| writeln!(file, "{}", std::process::id())).map_err(refuse)?;
    Ok(file)
}

fn read_format(directory: &Path, role: &str, known: u32) -> Result<Option<u32>, DataDirError> {
    let path = directory.join("format");
    let damaged = || DataDirError::Damaged { path: path.clone(), expected: format_line(role, known) };
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(io_error("read", &path, source)),
    };
    let mut bytes = Vec::new();
    file.take(FORMAT_BYTES_MAX).read_to_end(&mut bytes).map_err(|source| io_error("read", &path, source))?;
    let text = String::from_utf8(bytes).map_err(|_| damaged())?;
    let (owner, format) = text.trim().rsplit_once(' ').ok_or_else(damaged)?;
    let owner = owner.strip_prefix("firn-").ok_or_else(damaged)?;
    let found: u32 = format.parse().map_err(|_| damaged())?;
    if owner != role {
        return Err(DataDirError::OtherRole {
            path: directory.to_owned(),
            found: owner.to_owned(),
            expected: role.to_owned(),
        });
    }
    if found > known {
        return Err(DataDirError::NewerFormat { path: directory.to_owned(), found, known });
    }
    Ok(Some(found))
}

/// Writes `directory/name` so that after a power cut there is either the old file or the whole new one.
pub fn write_synced(directory: &Path, name: &str, bytes: &[u8], mode: u32) -> io::Result<()> {
    let temporary = directory.join(format!("{name}.new"));
    // A leftover of an earlier attempt may have other rights.
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    drop(file);
    fs::rename(&temporary, directory.join(name))?;
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(result: Result<DataDir, DataDirError>) -> String {
        result.unwrap_err().to_string()
    }

    #[test]
    fn a_directory_is_made_once_and_opened_again() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("a/b");
        let first = DataDir::open(&path, "storage-node", 1).unwrap();
        assert!(first.is_fresh());
        drop(first);
        assert!(!DataDir::open(&path, "storage-node", 1).unwrap().is_fresh());
        assert_eq!(fs::read_to_string(path.join("format")).unwrap(), "firn-storage-node 1\n");
        assert!(DataDir::open_existing(&path, "storage-node", 2).is_ok());
    }

    #[test]
    fn a_second_user_of_a_directory_is_refused_and_told_of_the_first() {
        let place = tempfile::tempdir().unwrap();
        let _first = DataDir::open(place.path(), "coordinator", 1).unwrap();
        let text = refusal(DataDir::open(place.path(), "coordinator", 1));
        assert!(
            text.contains(&format!("in use by another process (process {})", std::process::id())),
            "{text}"
        );
    }

    #[test]
    fn a_newer_format_and_another_role_are_refused_and_left_alone() {
        let place = tempfile::tempdir().unwrap();
        fs::write(place.path().join("format"), "firn-storage-node 7\n").unwrap();
        let text = refusal(DataDir::open(place.path(), "storage-node", 1));
        assert!(text.contains("has format 7, this program knows up to 1: update the program"), "{text}");
        let text = refusal(DataDir::open(place.path(), "coordinator", 1));
        assert!(text.contains("belongs to a storage-node, not to a coordinator"), "{text}");
        assert_eq!(fs::read_to_string(place.path().join("format")).unwrap(), "firn-storage-node 7\n");
    }

    #[test]
    fn a_damaged_format_file_is_refused() {
        let place = tempfile::tempdir().unwrap();
        for bytes in [&b"\xff\xfe"[..], b"", b"hello", b"firn-storage-node x", b"storage-node 1"] {
            fs::write(place.path().join("format"), bytes).unwrap();
            assert!(refusal(DataDir::open(place.path(), "storage-node", 1)).contains("is damaged"));
        }
    }

    #[test]
    fn an_unmounted_directory_is_not_initialised_again() {
        let place = tempfile::tempdir().unwrap();
        let text = refusal(DataDir::open_existing(place.path(), "storage-node", 1));
        assert!(text.ends_with("is the disk mounted?"), "{text}");
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0);
        let absent = place.path().join("absent");
        assert!(refusal(DataDir::open_existing(&absent, "storage-node", 1)).contains("mounted"));
        assert!(!absent.exists());
    }

    #[test]
    fn a_place_that_cannot_be_written_is_named() {
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("file");
        fs::write(&file, "x").unwrap();
        let text = refusal(DataDir::open(&file.join("data"), "storage-node", 1));
        assert!(text.starts_with("cannot create the directory") && text.contains("file/data"), "{text}");
    }
}
