//! The key set on disk, so that a gateway started again answers while every coordinator is away.
//!
//! Owns: the file's layout. Always holds: a file that is damaged, of another archive or of another version is
//! not used, and the feed is followed from its beginning instead; a crash leaves the old file or the new one.
//! Leaves to others: when it is written (`feed_follower`).
//!
//! Layout: magic `firnkeys`, u16 version, archive id (32), feed position (u64), number of keys (u64), keys of
//! 21 bytes in order, BLAKE3 of all before (32). Integers are little-endian.

use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use firn_base::{ArchiveId, KEY_BYTES};

use crate::key_set::KeySet;

const MAGIC: &[u8; 8] = b"firnkeys";
const VERSION: u16 = 1;
const HEADER_BYTES: usize = 58;
const HASH_BYTES: usize = 32;

/// Why a key file was not read or written.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// The disk.
    #[error("the gateway's key file {path} cannot be used: {source}")]
    Io {
        /// The file.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// It is not what it should be; it will be written anew.
    #[error("the gateway's key file {path} is not used: {why}; the feed is followed from its beginning")]
    Unfit {
        /// The file.
        path: String,
        /// What is wrong with it.
        why: &'static str,
    },
}

/// The file in a cache directory that holds the key set of one archive.
#[derive(Debug, Clone)]
pub struct KeyFile {
    path: PathBuf,
    archive: ArchiveId,
}

impl KeyFile {
    /// The file of `archive` in `directory`, which is made if it is not there.
    pub fn in_directory(directory: &Path, archive: ArchiveId) -> Result<Self, KeyFileError> {
        let file = Self { path: directory.join("gateway.keys"), archive };
        fs::create_dir_all(directory).map_err(|source| file.io(source))?;
        Ok(file)
    }

    fn io(&self, source: io::Error) -> KeyFileError {
        KeyFileError::Io { path: self.path.display().to_string(), source }
    }

    fn unfit(&self, why: &'static str) -> KeyFileError {
        KeyFileError::Unfit { path: self.path.display().to_string(), why }
    }

    /// What was saved; none if nothing was.
    pub fn load(&self) -> Result<Option<KeySet>, KeyFileError> {
        let file = match File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(self.io(error)),
        };
        let length = file.metadata().map_err(|error| self.io(error))?.len();
        let mut reader =
            Hashing { inner: BufReader::with_capacity(1 << 20, file), hasher: blake3::Hasher::new() };
        let mut header = [0; HEADER_BYTES];
        reader.read_exact(&mut header).map_err(|_| self.unfit("it is cut short"))?;
        let (magic, rest) = header.split_at(MAGIC.len());
        if magic != MAGIC || rest[..2] != VERSION.to_le_bytes() {
            return Err(self.unfit("it is of another version"));
        }
        if rest[2..34] != *self.archive.as_bytes() {
            return Err(self.unfit("it belongs to another archive"));
        }
        let number = |at: usize| {
            u64::from_le_bytes(rest[at..at + 8].try_into().expect("the header has eight bytes from there"))
        };
        let (position, count) = (number(34), number(42));
        let expected = count
            .checked_mul(KEY_BYTES as u64)
            .and_then(|bytes| bytes.checked_add((HEADER_BYTES + HASH_BYTES) as u64));
        if expected != Some(length) {
            return Err(self.unfit("its length is not what it says"));
        }
        let mut keys = Vec::with_capacity(usize::try_from(count).map_err(|_| self.unfit("it is too long"))?);
        let mut key = [0; KEY_BYTES];
        for _ in 0..count {
            reader.read_exact(&mut key).map_err(|error| self.io(error))?;
            keys.push(key);
        }
        let mut hash = [0; HASH_BYTES];
        reader.inner.read_exact(&mut hash).map_err(|error| self.io(error))?;
        if *reader.hasher.finalize().as_bytes() != hash {
            return Err(self.unfit("its checksum is wrong"));
        }
        KeySet::from_sorted(keys, position).map(Some).ok_or_else(|| self.unfit("its keys are not in order"))
    }

    /// Replaces what was saved.
    pub fn save(&self, set: &KeySet) -> Result<(), KeyFileError> {
        let new = self.path.with_extension("new");
        self.write(&new, set)
            .and_then(|()| fs::rename(&new, &self.path))
            .and_then(|()| File::open(self.path.parent().unwrap_or(Path::new(".")))?.sync_all())
            .map_err(|error| self.io(error))
    }

    fn write(&self, path: &Path, set: &KeySet) -> io::Result<()> {
        let keys = set.to_sorted();
        let file = BufWriter::with_capacity(1 << 20, File::create(path)?);
        let mut writer = Hashing { inner: file, hasher: blake3::Hasher::new() };
        writer.write_all(MAGIC)?;
        writer.write_all(&VERSION.to_le_bytes())?;
        writer.write_all(self.archive.as_bytes())?;
        writer.write_all(&set.position().to_le_bytes())?;
        writer.write_all(&(keys.len() as u64).to_le_bytes())?;
        for key in &keys {
            writer.write_all(key)?;
        }
        let hash = writer.hasher.finalize();
        let mut file = writer.inner;
        file.write_all(hash.as_bytes())?;
        file.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()
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
    use firn_base::ObjectKey;
    use firn_wire::FeedEvent;

    use super::*;

    fn saved() -> (tempfile::TempDir, KeyFile, KeySet) {
        let directory = tempfile::tempdir().unwrap();
        let file =
            KeyFile::in_directory(&directory.path().join("cache"), ArchiveId::from_bytes([1; 32])).unwrap();
        let mut set = KeySet::default();
        let keys = (0..50).rev().map(|number| FeedEvent::Visible(ObjectKey::store_path([number; 20])));
        set.apply(0, &keys.collect::<Vec<_>>()).unwrap();
        file.save(&set).unwrap();
        (directory, file, set)
    }

    #[test]
    fn a_saved_set_is_loaded_with_its_position() {
        let (_directory, file, set) = saved();
        let loaded = file.load().unwrap().unwrap();
        assert_eq!((loaded.to_sorted(), loaded.position()), (set.to_sorted(), set.position()));
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
            KeyFile::in_directory(&directory.path().join("cache"), ArchiveId::from_bytes([2; 32])).unwrap();
        assert!(other.load().unwrap_err().to_string().contains("belongs to another archive"));
    }

    #[test]
    fn where_nothing_was_saved_nothing_is_loaded() {
        let directory = tempfile::tempdir().unwrap();
        let file = KeyFile::in_directory(directory.path(), ArchiveId::from_bytes([1; 32])).unwrap();
        assert!(file.load().unwrap().is_none());
    }
}
