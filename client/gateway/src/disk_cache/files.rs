//! The files of a cache in its directory.
//!
//! Always holds: a file that has its name is whole, as far as the file system kept its word: it was written under another
//! one and renamed. It is not waited for until it is on the disk: after a loss of power the hash finds what is torn.
//! Leaves to others: what is in them (`entry`), which of them stay (`admission`).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::admission::Name;

// Directories of one level, by the first byte of the name: 70,000 files of a full cache of 20 GB are 270 in each.
const UNFINISHED: &str = "new";

/// One directory of entries.
#[derive(Debug, Clone)]
pub(crate) struct CacheFiles {
    root: PathBuf,
}

/// A file that an earlier life left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LeftFile {
    pub(crate) name: Name,
    pub(crate) bytes: u64,
    /// When it was written; the unit does not matter.
    pub(crate) written: Option<std::time::SystemTime>,
}

impl CacheFiles {
    /// The files below `root`, which is made when it is needed.
    pub(crate) const fn new(root: PathBuf) -> Self {
        Self { root }
    }

    fn path(&self, name: &Name) -> PathBuf {
        let hex: String = name.iter().map(|byte| format!("{byte:02x}")).collect();
        let (directory, file) = hex.split_at(2);
        self.root.join(directory).join(file)
    }

    /// The bytes of the entry's file; none if there is none.
    pub(crate) fn read(&self, name: &Name) -> io::Result<Option<Vec<u8>>> {
        match fs::read(self.path(name)) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes the entry's file. Nothing is left of one that could not be written whole.
    pub(crate) fn write(&self, name: &Name, bytes: &[u8]) -> io::Result<()> {
        let path = self.path(name);
        let unfinished = path.with_extension(UNFINISHED);
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory)?;
        }
        let written = fs::write(&unfinished, bytes).and_then(|()| fs::rename(&unfinished, &path));
        if written.is_err() {
            drop(fs::remove_file(&unfinished));
        }
        written
    }

    /// Removes the entry's file. One that is not there is no error.
    pub(crate) fn remove(&self, name: &Name) -> io::Result<()> {
        match fs::remove_file(self.path(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// What lies in the directory, the eldest first. What was never finished is removed, what is not ours left alone.
    pub(crate) fn list(&self) -> io::Result<Vec<LeftFile>> {
        let mut files = Vec::new();
        let directories = match fs::read_dir(&self.root) {
            Ok(directories) => directories,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(files),
            Err(error) => return Err(error),
        };
        for directory in directories {
            if let Err(error) = directory.and_then(|directory| list_one(&directory.path(), &mut files)) {
                // The others count, and are bounded, all the same.
                tracing::warn!(
                    "a part of the cache directory {} is passed over: {error}",
                    self.root.display()
                );
            }
        }
        files.sort_by_key(|file| file.written);
        Ok(files)
    }
}

/// Adds what lies in one of the directories. One whose name is none of ours is left alone.
fn list_one(directory: &Path, files: &mut Vec<LeftFile>) -> io::Result<()> {
    let name = directory.file_name().map(|name| name.to_string_lossy().into_owned());
    let Some(first) = name.and_then(|name| hex(&name)) else { return Ok(()) };
    let [first] = first[..] else { return Ok(()) };
    for file in fs::read_dir(directory)? {
        files.extend(left_file(first, &file?.path()));
    }
    Ok(())
}

fn left_file(first: u8, path: &Path) -> Option<LeftFile> {
    if path.extension().is_some_and(|extension| extension == UNFINISHED) {
        drop(fs::remove_file(path));
        return None;
    }
    let rest: [u8; 15] = hex(&path.file_name()?.to_string_lossy())?.try_into().ok()?;
    let mut name = [first; 16];
    name[1..].copy_from_slice(&rest);
    let metadata = fs::symlink_metadata(path).ok().filter(fs::Metadata::is_file)?;
    Some(LeftFile { name, bytes: metadata.len(), written: metadata.modified().ok() })
}

fn hex(text: &str) -> Option<Vec<u8>> {
    let digits = text.bytes().all(|digit| digit.is_ascii_digit() || (b'a'..=b'f').contains(&digit));
    if !digits || !text.len().is_multiple_of(2) {
        return None;
    }
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_found_again_and_what_was_never_finished_is_removed() {
        let place = tempfile::tempdir().unwrap();
        let files = CacheFiles::new(place.path().join("data"));
        assert_eq!(files.list().unwrap(), []);
        files.write(&[7; 16], b"seven").unwrap();
        files.write(&[8; 16], b"eight!").unwrap();
        let torn = files.path(&[9; 16]).with_extension(UNFINISHED);
        fs::create_dir_all(torn.parent().unwrap()).unwrap();
        fs::write(&torn, b"ni").unwrap();
        fs::write(place.path().join("data/07/letter"), b"dear").unwrap();
        fs::write(place.path().join("data/0a"), b"no directory").unwrap();
        let mut found: Vec<_> = files.list().unwrap().iter().map(|file| (file.name, file.bytes)).collect();
        found.sort_unstable();
        assert_eq!(found, [([7; 16], 5), ([8; 16], 6)]);
        assert!(!torn.exists() && place.path().join("data/07/letter").exists());
        files.remove(&[7; 16]).unwrap();
        files.remove(&[7; 16]).unwrap();
        assert_eq!(files.read(&[7; 16]).unwrap(), None);
        assert_eq!(files.read(&[8; 16]).unwrap().as_deref(), Some(&b"eight!"[..]));
    }
}
