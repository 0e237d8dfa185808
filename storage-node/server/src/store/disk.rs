//! What the node needs of a disk, and nothing more.
//!
//! Owns: the trait that the real disk and the simulated one implement, and reading and replacing small files
//! through it. Always holds: what was written is there after a power cut once the file *and* the directory
//! that names it were synced, not before; paths are relative, with `/`, and made of names of our own.
//! Leaves to others: which files there are (`shard_store`, the node's state files).

use std::fmt;
use std::io;

/// A tree of directories and files.
pub trait Disk: Send + Sync + fmt::Debug {
    /// Creates a file, empty; one of that name loses its content.
    fn create(&self, path: &str) -> io::Result<Box<dyn DiskFile>>;

    /// Opens a file for reading.
    fn open(&self, path: &str) -> io::Result<Box<dyn DiskFile>>;

    /// Opens a file for reading and writing as it is; an empty one is made if there is none.
    fn open_writable(&self, path: &str) -> io::Result<Box<dyn DiskFile>>;

    /// Gives a file another name, in the place of one that has it.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file.
    fn remove(&self, path: &str) -> io::Result<()>;

    /// Makes a directory whose parent exists; fine if it is there.
    fn make_directory(&self, path: &str) -> io::Result<()>;

    /// Makes the names in a directory survive a power cut. The empty path is the root.
    fn sync_directory(&self, path: &str) -> io::Result<()>;

    /// What lies in a directory, in order of names.
    fn list(&self, path: &str) -> io::Result<Vec<DiskEntry>>;

    /// Bytes that may still be written.
    fn free_bytes(&self) -> io::Result<u64>;

    /// In whole blocks of how many bytes files take up room; 1 where their lengths are what counts.
    fn block_bytes(&self) -> u64 {
        1
    }

    /// Whether this is still the disk that was opened. It may be unmounted under a node that runs, or another be mounted
    /// in its place: then no file of the node is where it was, and that says nothing of its shards.
    fn check_presence(&self) -> io::Result<()>;
}

/// One file. Dropping it closes it.
pub trait DiskFile: Send + Sync + fmt::Debug {
    /// Writes all of `bytes` at `offset`.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Reads up to `buffer.len()` bytes from `offset`; 0 at the end.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize>;

    /// Makes the content survive a power cut, if the file's name does.
    fn sync(&self) -> io::Result<()>;

    /// Length in bytes.
    fn bytes(&self) -> io::Result<u64>;
}

/// What lies in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskEntry {
    /// Its name, without the directory.
    pub name: String,
    /// Length of a file; of a directory what its names take, and 0 where lengths are what counts.
    pub bytes: u64,
    /// Whether it is a directory.
    pub is_directory: bool,
}

/// A file as `firn_bundle` reads it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Readable<'a>(pub(crate) &'a dyn DiskFile);

impl firn_bundle::ReadAt for Readable<'_> {
    fn read_at(&self, position: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read_at(position, buffer)
    }
}

/// Fills `buffer` from `offset`; an error if the file ends before.
pub(crate) fn read_exact_at(file: &dyn DiskFile, mut offset: u64, mut buffer: &mut [u8]) -> io::Result<()> {
    while !buffer.is_empty() {
        let count = file.read_at(offset, buffer)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        buffer = buffer.get_mut(count..).unwrap_or_default();
        offset += count as u64;
    }
    Ok(())
}

/// The content of a small file; none if there is no such file, an error if it is longer than `bytes_max`.
pub(crate) fn read_small(disk: &dyn Disk, path: &str, bytes_max: u64) -> io::Result<Option<Vec<u8>>> {
    let file = match disk.open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let bytes = file.bytes()?;
    let length = usize::try_from(bytes).ok().filter(|_| bytes <= bytes_max);
    let length = length.ok_or_else(|| io::Error::other(format!("{path} is larger than it can be")))?;
    let mut content = vec![0; length];
    read_exact_at(file.as_ref(), 0, &mut content)?;
    Ok(Some(content))
}

/// Replaces a small file of `directory` as a whole: after a power cut it is the old one or the new one.
pub(crate) fn replace_small(disk: &dyn Disk, directory: &str, name: &str, content: &[u8]) -> io::Result<()> {
    let join =
        |name: &str| if directory.is_empty() { name.to_owned() } else { format!("{directory}/{name}") };
    let (fresh, path) = (join(&format!("{name}.new")), join(name));
    let file = disk.create(&fresh)?;
    file.write_at(0, content)?;
    file.sync()?;
    disk.rename(&fresh, &path)?;
    disk.sync_directory(directory)
}
