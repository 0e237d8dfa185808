//! What a gateway knows of all keys, on disk: so that one that is started again answers while every coordinator is away.
//!
//! Owns: the file's layout. Always holds: a file that is damaged, of another archive or of another version is
//! not used, and the archive is asked anew instead; a crash leaves the old file or the new one. Leaves to others: when it
//! is written (`feed_follower`), the filters' own bytes (`filter_files`).
//!
//! Layout: magic `firnview`, u16 version, archive id (32), number of filters (u32), where the tail begins (u64), its
//! position (u64), number of its keys (u64); of each filter first position, position behind, bytes and keys (u64 each), id
//! and digest behind (32 each); of each key of the tail the key (21) and, in one u64, twice the position of its last event
//! and 1 more if that made it visible; BLAKE3 of all before (32). Integers are little-endian.

use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use firn_base::{ArchiveId, Digest, FeedRange, FilterId, KEY_BYTES, ObjectKey};
use firn_wire::{FILTERS_MAX, FilterEntry};

use crate::feed_tail::{FeedTail, Latest};
use crate::key_view::KeyView;

const MAGIC: &[u8; 8] = b"firnview";
const VERSION: u16 = 1;
const HEADER_BYTES: u64 = 70;
const FILTER_BYTES: u64 = 96;
const TAIL_KEY_BYTES: u64 = KEY_BYTES as u64 + 8;
const HASH_BYTES: u64 = 32;

/// Why a file was not read or written.
#[derive(Debug, thiserror::Error)]
pub enum ViewFileError {
    /// The disk.
    #[error("the gateway's file {path} cannot be used: {source}")]
    Io {
        /// The file.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// It is not what it should be; it will be written anew.
    #[error("the gateway's file {path} is not used: {why}; the archive is asked anew")]
    Unfit {
        /// The file.
        path: String,
        /// What is wrong with it.
        why: &'static str,
    },
}

/// What was saved: which filters there were, and the tail behind them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SavedView {
    pub(crate) filters: Vec<FilterEntry>,
    pub(crate) tail: FeedTail,
}

/// The file in a cache directory that holds what is known of one archive's keys.
#[derive(Debug, Clone)]
pub(crate) struct ViewFile {
    path: PathBuf,
    archive: ArchiveId,
}

impl SavedView {
    /// What a life with filters saved, and one without them, together. Neither makes the other forget: a key that one of
    /// them knows to be withdrawn is not served by the next, and what became visible only in one is not called absent.
    pub(crate) fn with_unfiltered(self, unfiltered: Self) -> Self {
        if unfiltered.tail.position() < self.tail.position() {
            return self;
        }
        Self { filters: self.filters, tail: self.tail.continued_by(unfiltered.tail) }
    }
}

impl ViewFile {
    /// The file of `archive` in `directory`, which is made if it is not there.
    pub(crate) fn in_directory(directory: &Path, archive: ArchiveId) -> Result<Self, ViewFileError> {
        let file = Self { path: directory.join("gateway.view"), archive };
        fs::create_dir_all(directory).map_err(|source| file.io(source))?;
        Ok(file)
    }

    /// The file beside it for a life that keeps no filters: what it would save in the same one says nothing of the
    /// filters that lie there, and the next life that wants them would begin with nothing.
    pub(crate) fn without_filters(&self) -> Self {
        Self { path: self.path.with_file_name("gateway-unfiltered.view"), archive: self.archive }
    }

    /// Removes what was saved, here and without filters: it was of another feed, which may have been longer.
    pub(crate) fn remove_all(&self) -> Result<(), ViewFileError> {
        for file in [self, &self.without_filters()] {
            match fs::remove_file(&file.path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(file.io(error)),
                _ => {}
            }
        }
        self.sync_directory().map_err(|error| self.io(error))
    }

    fn sync_directory(&self) -> io::Result<()> {
        File::open(self.path.parent().unwrap_or(Path::new(".")))?.sync_all()
    }

    fn io(&self, source: io::Error) -> ViewFileError {
        ViewFileError::Io { path: self.path.display().to_string(), source }
    }

    fn unfit(&self, why: &'static str) -> ViewFileError {
        ViewFileError::Unfit { path: self.path.display().to_string(), why }
    }

    /// What was saved; none if nothing was.
    pub(crate) fn load(&self) -> Result<Option<SavedView>, ViewFileError> {
        let file = match File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(self.io(error)),
        };
        let length = file.metadata().map_err(|error| self.io(error))?.len();
        let file = BufReader::with_capacity(1 << 20, file);
        let mut reader = Fields { inner: Hashing { inner: file, hasher: blake3::Hasher::new() } };
        let cut = |_| self.unfit("it is cut short");
        if reader.take::<8>().map_err(cut)? != *MAGIC || reader.take().map_err(cut)? != VERSION.to_le_bytes()
        {
            return Err(self.unfit("it is of another version"));
        }
        if reader.take().map_err(cut)? != *self.archive.as_bytes() {
            return Err(self.unfit("it belongs to another archive"));
        }
        let filters = u32::from_le_bytes(reader.take().map_err(cut)?);
        let mut number = || reader.number().map_err(cut);
        let (first, position, keys) = (number()?, number()?, number()?);
        let expected = keys.checked_mul(TAIL_KEY_BYTES).and_then(|bytes| {
            bytes.checked_add(HEADER_BYTES + u64::from(filters) * FILTER_BYTES + HASH_BYTES)
        });
        // Before anything is made room for.
        if expected != Some(length) || filters as usize > FILTERS_MAX {
            return Err(self.unfit("its length is not what it says"));
        }
        let filters = (0..filters).map(|_| reader.filter()).collect::<io::Result<Vec<_>>>().map_err(cut)?;
        let mut told = Vec::with_capacity(usize::try_from(keys).map_err(|_| self.unfit("it is too long"))?);
        for _ in 0..keys {
            let key = ObjectKey::from_bytes(&reader.take::<KEY_BYTES>().map_err(cut)?);
            let latest = reader.number().map_err(cut)?;
            told.push((key.map_err(|_| self.unfit("its keys are none"))?, Latest::from_number(latest)));
        }
        let hash = *reader.inner.hasher.finalize().as_bytes();
        if reader.take().map_err(cut)? != hash {
            return Err(self.unfit("its checksum is wrong"));
        }
        let tail = FeedTail::from_parts(first, position, told);
        let tail = tail.ok_or_else(|| self.unfit("its keys do not fit each other"))?;
        Ok(Some(SavedView { filters, tail }))
    }

    /// Replaces what was saved.
    pub(crate) fn save(&self, view: &KeyView) -> Result<(), ViewFileError> {
        let new = self.path.with_extension("new");
        self.write(&new, view)
            .and_then(|()| fs::rename(&new, &self.path))
            .and_then(|()| self.sync_directory())
            .map_err(|error| self.io(error))
    }

    fn write(&self, path: &Path, view: &KeyView) -> io::Result<()> {
        let file = BufWriter::with_capacity(1 << 20, File::create(path)?);
        let mut writer = Hashing { inner: file, hasher: blake3::Hasher::new() };
        let (filters, tail) = (view.filters.entries(), &view.tail);
        writer.write_all(MAGIC)?;
        writer.write_all(&VERSION.to_le_bytes())?;
        writer.write_all(self.archive.as_bytes())?;
        writer.write_all(&u32::try_from(filters.len()).map_err(io::Error::other)?.to_le_bytes())?;
        for number in [tail.first(), tail.position(), tail.len() as u64] {
            writer.write_all(&number.to_le_bytes())?;
        }
        for filter in filters {
            for number in [filter.range.first, filter.range.end, filter.bytes, filter.keys] {
                writer.write_all(&number.to_le_bytes())?;
            }
            writer.write_all(filter.id.as_bytes())?;
            writer.write_all(filter.feed_digest.as_bytes())?;
        }
        for (key, latest) in tail.keys() {
            writer.write_all(&key.to_bytes())?;
            writer.write_all(&latest.to_number().to_le_bytes())?;
        }
        let hash = writer.hasher.finalize();
        let mut file = writer.inner;
        file.write_all(hash.as_bytes())?;
        file.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()
    }
}

/// Fields of fixed width.
struct Fields<T> {
    inner: Hashing<T>,
}

impl<T: Read> Fields<T> {
    fn take<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.inner.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    fn number(&mut self) -> io::Result<u64> {
        self.take().map(u64::from_le_bytes)
    }

    fn filter(&mut self) -> io::Result<FilterEntry> {
        let range = FeedRange { first: self.number()?, end: self.number()? };
        let (bytes, keys) = (self.number()?, self.number()?);
        let id = FilterId::from_bytes(self.take()?);
        Ok(FilterEntry { range, id, bytes, keys, feed_digest: Digest::from_bytes(self.take()?) })
    }
}

/// Hashes what passes.
struct Hashing<T> {
    inner: T,
    hasher: blake3::Hasher,
}

impl<T: Read> Read for Hashing<T> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        Ok(count)
    }
}

impl<T: Write> Write for Hashing<T> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(buffer)?;
        self.hasher.update(&buffer[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use firn_wire::FeedEvent;

    use super::*;
    use crate::filter_chain::FilterChain;
    use crate::filter_chain::tests::held;

    fn saved() -> (tempfile::TempDir, ViewFile, KeyView) {
        let directory = tempfile::tempdir().unwrap();
        let file =
            ViewFile::in_directory(&directory.path().join("cache"), ArchiveId::from_bytes([1; 32])).unwrap();
        let key = |number| ObjectKey::store_path([number; 20]);
        let mut tail = FeedTail::at(12);
        let shown = (0..20).rev().map(|number| FeedEvent::Visible(key(number)));
        tail.apply(12, &shown.collect::<Vec<_>>()).unwrap();
        tail.apply(32, &[FeedEvent::Withdrawn(key(3))]).unwrap();
        let filters = FilterChain::new([held((0, 8), &[key(1)]), held((8, 12), &[key(2)])]);
        let view = KeyView { filters, tail };
        file.save(&view).unwrap();
        (directory, file, view)
    }

    #[test]
    fn a_saved_view_is_loaded_as_it_was() {
        let (_directory, file, view) = saved();
        let loaded = file.load().unwrap().unwrap();
        assert_eq!(loaded, SavedView { filters: view.filters.entries(), tail: view.tail });
    }

    #[test]
    fn a_damaged_file_is_not_used_whatever_byte_is_wrong() {
        let (_directory, file, _) = saved();
        let whole = fs::read(&file.path).unwrap();
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            fs::write(&file.path, damaged).unwrap();
            assert!(file.load().is_err(), "byte {at}");
        }
        fs::write(&file.path, &whole[..100]).unwrap();
        assert!(file.load().unwrap_err().to_string().contains("is not used"));
    }

    #[test]
    fn the_file_of_another_archive_is_not_used() {
        let (directory, _, _) = saved();
        let other =
            ViewFile::in_directory(&directory.path().join("cache"), ArchiveId::from_bytes([2; 32])).unwrap();
        assert!(other.load().unwrap_err().to_string().contains("belongs to another archive"));
    }

    #[test]
    fn where_nothing_was_saved_nothing_is_loaded() {
        let directory = tempfile::tempdir().unwrap();
        let file = ViewFile::in_directory(directory.path(), ArchiveId::from_bytes([1; 32])).unwrap();
        assert!(file.load().unwrap().is_none());
    }
}
