//! A real directory as a [`Disk`].

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use firn_transport::DataDir;

use super::disk::{Disk, DiskEntry, DiskFile, read_small};

// What file systems have, where one does not say.
const BLOCK_BYTES: u64 = 4_096;
const BLOCK_BYTES_MAX: u64 = 64 << 10;

// In which a file system says what a directory takes.
const SECTOR_BYTES: u64 = 512;

/// A directory of the machine's file system.
#[derive(Debug)]
pub struct FileDisk {
    root: PathBuf,
    // A file and what it says for as long as this disk is mounted.
    marker: Option<(&'static str, String)>,
    block_bytes: u64,
    // Held for as long as somebody may write here.
    _lock: Option<DataDir>,
}

impl FileDisk {
    /// The directory `root`, which exists. Of files their lengths count.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into(), marker: None, block_bytes: 1, _lock: None }
    }

    /// The data directory that `lock` keeps other processes out of, for as long as this lives; the file `marker.0`
    /// says `marker.1` there. Of files the blocks count that its file system gives them.
    pub(crate) fn locked(lock: DataDir, marker: (&'static str, String)) -> Self {
        let blocks = rustix::fs::statvfs(lock.path()).map(|space| space.f_frsize);
        let block_bytes = block_bytes(blocks.ok());
        Self { root: lock.path().to_owned(), marker: Some(marker), block_bytes, _lock: Some(lock) }
    }

    /// Where it is.
    pub fn root(&self) -> &Path {
        &self.root
    }

    fn place(&self, path: &str) -> PathBuf {
        if path.is_empty() { self.root.clone() } else { self.root.join(path) }
    }
}

/// What a file takes at a time of a file system that says `told`. One over a network says there how much it reads at once, up
/// to 1 MiB: no file takes that.
fn block_bytes(told: Option<u64>) -> u64 {
    told.filter(|bytes| (1..=BLOCK_BYTES_MAX).contains(bytes)).unwrap_or(BLOCK_BYTES)
}

impl Disk for FileDisk {
    fn create(&self, path: &str) -> io::Result<Box<dyn DiskFile>> {
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(true).open(self.place(path))?;
        Ok(Box::new(RealFile { file }))
    }

    fn open(&self, path: &str) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(RealFile { file: File::open(self.place(path))? }))
    }

    fn open_writable(&self, path: &str) -> io::Result<Box<dyn DiskFile>> {
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false).open(self.place(path))?;
        Ok(Box::new(RealFile { file }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        std::fs::rename(self.place(from), self.place(to))
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        std::fs::remove_file(self.place(path))
    }

    fn make_directory(&self, path: &str) -> io::Result<()> {
        match std::fs::create_dir(self.place(path)) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            other => other,
        }
    }

    fn sync_directory(&self, path: &str) -> io::Result<()> {
        File::open(self.place(path))?.sync_all()
    }

    fn list(&self, path: &str) -> io::Result<Vec<DiskEntry>> {
        let mut entries = Vec::new();
        for entry in std::fs::read_dir(self.place(path))? {
            let entry = entry?;
            // Files that vanish while we look, and names that are no text, are none of ours.
            let (Ok(metadata), Ok(name)) = (entry.metadata(), entry.file_name().into_string()) else {
                continue;
            };
            let is_directory = metadata.is_dir();
            let bytes = match is_directory {
                false => metadata.len(),
                true if self.block_bytes == 1 => 0,
                true => metadata.blocks().saturating_mul(SECTOR_BYTES),
            };
            entries.push(DiskEntry { name, bytes, is_directory });
        }
        entries.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(entries)
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let space = rustix::fs::statvfs(&self.root)?;
        // Some file systems in user space say nothing of their size: that is no full one.
        if space.f_blocks == 0 {
            return Ok(u64::MAX);
        }
        Ok(space.f_bavail.saturating_mul(space.f_frsize))
    }

    fn block_bytes(&self) -> u64 {
        self.block_bytes
    }

    fn check_presence(&self) -> io::Result<()> {
        let Some((path, marker)) = &self.marker else { return Ok(()) };
        match read_small(self, path, marker.len() as u64)? {
            Some(found) if found == marker.as_bytes() => Ok(()),
            Some(_) => Err(io::Error::other(format!("{path} is that of another node"))),
            None => Err(io::Error::new(io::ErrorKind::NotFound, format!("{path} is missing"))),
        }
    }
}

#[derive(Debug)]
struct RealFile {
    file: File,
}

impl DiskFile for RealFile {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.file.read_at(buffer, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_all()
    }

    fn bytes(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_file_system_reads_at_once_over_a_network_is_not_what_a_file_takes() {
        assert_eq!(
            [4_096, 65_536, 0, 256 << 10, 1 << 20].map(|told| block_bytes(Some(told))),
            [4_096, 65_536, 4_096, 4_096, 4_096]
        );
        assert_eq!(block_bytes(None), 4_096);
    }
}
