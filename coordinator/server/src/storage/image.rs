//! A whole store as files: what one gives away and another takes in.
//!
//! Always holds: a file is known by its BLAKE3, so a transfer that broke goes on with what is there already,
//! whoever sends the rest; what was taken in is used only after every file was found to be what was announced.
//! Leaves to others: carrying the files (`raft`), what lies in them (each implementation).

use std::collections::BTreeSet;
use std::fmt::Debug;

use serde::{Deserialize, Serialize};

use super::{Read, Stage, StorageError};

/// One file of a store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageFile {
    /// Its name, for the store that reads it.
    pub name: String,
    /// Its length.
    pub bytes: u64,
    /// BLAKE3 of its contents.
    pub hash: [u8; 32],
}

/// A store as it was at a moment, to be read and to be given away. It keeps disk space until it is dropped.
pub trait Image: Read {
    /// Its files, never more than [`IMAGE_FILES_MAX`].
    fn files(&self) -> &[ImageFile];

    /// At most `limit` bytes of file `file` from `offset` on; fewer at its end only.
    fn read_file(&self, file: usize, offset: u64, limit: usize) -> Result<Vec<u8>, StorageError>;
}

/// Files of another store, arriving. Dropping it keeps what has arrived, for the next attempt.
pub trait Intake: Debug + Send + Sync {
    /// How much of each file is here, from its beginning.
    fn held(&self) -> Vec<u64>;

    /// Adds to file `file` what follows on what is here of it, at `offset`.
    fn write(&mut self, file: usize, offset: u64, bytes: &[u8]) -> Result<(), StorageError>;

    /// Compares every file with its hash; forgets those that are not what was announced. Says whether all are whole.
    fn verify(&mut self) -> Result<bool, StorageError>;

    /// Opens what has arrived. To be called once it was verified.
    fn open(self: Box<Self>) -> Result<Box<dyn Stage>, StorageError>;
}

/// Files of one image at most: 640 GB in files of 64 MB.
pub const IMAGE_FILES_MAX: usize = 10_000;

/// Bytes of one image at most: ten times the state of 1,000 million keys.
pub const IMAGE_BYTES_MAX: u64 = 512 << 30;

/// A file travels in pieces of this length: both sides hold one at a time.
pub const IMAGE_PIECE_BYTES: usize = 1 << 20;

/// Refuses an image whose files are too many, too large, named twice, or named as no file of the store is.
pub(super) fn check_files(files: &[ImageFile], is_name: impl Fn(&str) -> bool) -> Result<(), StorageError> {
    let refuse = |what: String| Err(StorageError::corrupted(format!("a state that arrives {what}")));
    if files.len() > IMAGE_FILES_MAX {
        return refuse(format!("has {} files", files.len()));
    }
    let total = files.iter().try_fold(0_u64, |sum, file| sum.checked_add(file.bytes));
    if total.is_none_or(|total| total > IMAGE_BYTES_MAX) {
        return refuse("is too large".to_owned());
    }
    let mut names = BTreeSet::new();
    match files.iter().find(|file| !is_name(&file.name) || !names.insert(&file.name)) {
        Some(file) => {
            refuse(format!("has a file with the name {:?}", file.name.chars().take(60).collect::<String>()))
        }
        None => Ok(()),
    }
}

/// Refuses a piece of `file` that does not follow on the `held` bytes of it.
pub(super) fn check_piece(
    file: &ImageFile,
    held: u64,
    offset: u64,
    bytes: &[u8],
) -> Result<(), StorageError> {
    let end = u64::try_from(bytes.len()).ok().and_then(|length| offset.checked_add(length));
    match end {
        Some(end) if offset == held && end <= file.bytes && !bytes.is_empty() => Ok(()),
        _ => Err(StorageError::corrupted(format!("a piece of {} came out of turn", file.name))),
    }
}

/// What is still to be brought of `files`, of which `held` is there: the file and where to go on. Files of the same
/// contents are brought once.
pub fn lacking(files: &[ImageFile], held: &[u64]) -> Vec<(usize, u64)> {
    let mut seen = BTreeSet::new();
    let all = files.iter().zip(held).enumerate();
    let lacking = all.filter(|(_, (file, held))| **held < file.bytes && seen.insert(file.hash));
    lacking.map(|(index, (_, held))| (index, *held)).collect()
}

/// Brings all files of `image` into `intake`, on one machine.
pub fn copy_image(image: &dyn Image, intake: &mut dyn Intake) -> Result<(), StorageError> {
    for (index, mut offset) in lacking(image.files(), &intake.held()) {
        while image.files().get(index).is_some_and(|file| offset < file.bytes) {
            let piece = image.read_file(index, offset, IMAGE_PIECE_BYTES)?;
            intake.write(index, offset, &piece)?;
            offset = offset.saturating_add(u64::try_from(piece.len()).unwrap_or(u64::MAX));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str, bytes: u64) -> ImageFile {
        ImageFile { name: name.into(), bytes, hash: [0; 32] }
    }

    #[test]
    fn files_beyond_a_bound_or_with_a_foreign_name_are_refused() {
        let check = |files: &[ImageFile]| check_files(files, |name| name.starts_with('a'));
        check(&[file("a", 1), file("ab", IMAGE_BYTES_MAX - 1)]).unwrap();
        assert!(check(&[file("a", 1), file("ab", IMAGE_BYTES_MAX)]).is_err());
        assert!(check(&[file("a", u64::MAX), file("ab", 2)]).is_err());
        assert!(check(&[file("a", 1), file("a", 1)]).is_err());
        assert!(check(&[file("../a", 1)]).is_err());
        let many: Vec<_> = (0..=IMAGE_FILES_MAX).map(|number| file(&format!("a{number}"), 0)).collect();
        assert!(check(&many).is_err());
        check(&many[1..]).unwrap();
    }

    #[test]
    fn what_is_there_and_what_is_the_same_is_not_brought_again() {
        let other = |name, bytes| ImageFile { hash: [1; 32], ..file(name, bytes) };
        let files = [file("a", 9), other("b", 5), file("c", 9), other("d", 5), file("e", 0)];
        assert_eq!(lacking(&files, &[3, 0, 3, 0, 0]), [(0, 3), (1, 0)]);
        assert_eq!(lacking(&files, &[9, 5, 9, 5, 0]), []);
    }

    #[test]
    fn pieces_follow_on_one_another() {
        let file = file("a", 10);
        check_piece(&file, 4, 4, &[0; 6]).unwrap();
        assert!(check_piece(&file, 4, 4, &[0; 7]).is_err());
        assert!(check_piece(&file, 4, 5, &[0; 1]).is_err());
        assert!(check_piece(&file, 4, 3, &[0; 1]).is_err());
        assert!(check_piece(&file, 4, 4, &[]).is_err());
    }
}
