//! Filters as files of a directory.
//!
//! Always holds: a file is written under another name, synced, and renamed to its hash; what was read at a start has the
//! hash that it is named by.
//!
//! | name | what |
//! |---|---|
//! | `ID.filter` | a filter |
//! | `making` | one that is being written; removed at the next start |

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use firn_base::{ArchiveId, FilterId};
use firn_coordinator_logic::HeldFilter;
use firn_filter::{FILTER_TRAILER_BYTES, HEADER_BYTES};

use super::{FilterStore, FilterWriter, describe};
use crate::storage::StorageError;

const SUFFIX: &str = ".filter";
const MAKING: &str = "making";

#[derive(Debug)]
pub(super) struct FilterDirectory {
    path: PathBuf,
}

impl FilterDirectory {
    pub(super) const fn new(path: PathBuf) -> Self {
        Self { path }
    }

    fn file(&self, filter: FilterId) -> PathBuf {
        self.path.join(format!("{filter}{SUFFIX}"))
    }
}

impl FilterStore for FilterDirectory {
    fn load(&self, archive: ArchiveId) -> Result<Vec<HeldFilter>, StorageError> {
        let entries = match fs::read_dir(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut held = Vec::new();
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name();
            let name = name.to_str().unwrap_or_default();
            match name.strip_suffix(SUFFIX).and_then(|id| id.parse().ok()) {
                Some(id) => match read(&entry.path(), archive, id) {
                    Ok(filter) => held.push(filter),
                    Err(why) => {
                        tracing::warn!(filter = name, %why, "a filter is removed: it will be made again");
                        fs::remove_file(entry.path())?;
                    }
                },
                None if name == MAKING => fs::remove_file(entry.path())?,
                None => {}
            }
        }
        Ok(held)
    }

    fn begin(&self) -> Result<Box<dyn FilterWriter>, StorageError> {
        fs::create_dir_all(&self.path)?;
        let file = File::create(self.path.join(MAKING))?;
        Ok(Box::new(FilterFile { directory: self.path.clone(), file }))
    }

    fn read(&self, filter: FilterId, offset: u64, bytes_max: usize) -> Result<Option<Vec<u8>>, StorageError> {
        let mut file = match File::open(self.file(filter)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file?,
        };
        // Offsets are strangers' words, and beyond what a file can have the system calls them wrong.
        if offset >= file.metadata()?.len() {
            return Ok(Some(Vec::new()));
        }
        file.seek(SeekFrom::Start(offset))?;
        let mut bytes = Vec::new();
        file.take(bytes_max as u64).read_to_end(&mut bytes)?;
        Ok(Some(bytes))
    }

    fn remove(&self, filter: FilterId) -> Result<(), StorageError> {
        match fs::remove_file(self.file(filter)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }
}

/// The filter in a file, if it has the hash that it is named by.
fn read(path: &Path, archive: ArchiveId, id: FilterId) -> io::Result<HeldFilter> {
    let mut file = File::open(path)?;
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(&mut file)?;
    if *hasher.finalize().as_bytes() != *id.as_bytes() {
        return Err(io::Error::other("its bytes are not those that it is named by"));
    }
    let (mut head, mut trailer) = ([0; HEADER_BYTES], [0; FILTER_TRAILER_BYTES]);
    file.seek(SeekFrom::Start(0))?;
    file.read_exact(&mut head)?;
    let bytes = file.seek(SeekFrom::End(0))?;
    file.seek(SeekFrom::Start(bytes.saturating_sub(FILTER_TRAILER_BYTES as u64)))?;
    file.read_exact(&mut trailer)?;
    describe(archive, &head, &trailer, bytes, id).map_err(io::Error::other)
}

#[derive(Debug)]
struct FilterFile {
    directory: PathBuf,
    file: File,
}

impl FilterWriter for FilterFile {
    fn write(&mut self, bytes: &[u8]) -> Result<(), StorageError> {
        Ok(self.file.write_all(bytes)?)
    }

    fn keep(self: Box<Self>, filter: FilterId) -> Result<(), StorageError> {
        let Self { directory, file } = *self;
        file.sync_all()?;
        drop(file);
        fs::rename(directory.join(MAKING), directory.join(format!("{filter}{SUFFIX}")))?;
        Ok(File::open(&directory)?.sync_all()?)
    }
}
