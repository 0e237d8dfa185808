//! The files of a RocksDB on their way from one replica to another.
//!
//! Always holds: what arrives lies in `DIR/incoming`, each file under its hash, and nowhere else; a name that is not
//! of the kind that RocksDB gives is refused before anything is written; what lies there and was not announced is
//! removed, so that no more is kept than one image. Files of tables never change, so two checkpoints of one store
//! share most of them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::image::{check_files, check_piece};
use super::rocks::{Database, RocksStage, Shared};
use super::{Entry, Image, ImageFile, Intake, KeyRange, Read, ScanLimit, Stage, StorageError, Table};

const INCOMING: &str = "incoming";
const CURRENT: &str = "CURRENT";

/// The hashes of files of tables by name and length, so that each is read once however often it is sent.
#[derive(Debug, Default)]
pub(super) struct KnownHashes {
    known: Mutex<BTreeMap<(String, u64), [u8; 32]>>,
}

impl KnownHashes {
    /// Forgets all: another database is in force, whose names mean other files.
    pub(super) fn clear(&self) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// The hash of the file at `path`. `fresh` gathers what is known of the files of this image.
    fn of(
        &self,
        path: &Path,
        name: &str,
        bytes: u64,
        fresh: &mut BTreeMap<(String, u64), [u8; 32]>,
    ) -> Result<[u8; 32], StorageError> {
        if !name.ends_with(".sst") {
            return hash_file(path);
        }
        let key = (name.to_owned(), bytes);
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).get(&key).copied();
        let hash = known.map_or_else(|| hash_file(path), Ok)?;
        fresh.insert(key, hash);
        Ok(hash)
    }
}

/// A checkpoint whose files can be read.
#[derive(Debug)]
pub(super) struct RocksImage {
    database: Database,
    files: Vec<ImageFile>,
}

impl RocksImage {
    /// The checkpoint that `database` was opened on.
    pub(super) fn new(database: Database, hashes: &KnownHashes) -> Result<Self, StorageError> {
        let mut files = Vec::new();
        let mut fresh = BTreeMap::new();
        for entry in fs::read_dir(database.path())? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            // Opening a checkpoint for reading leaves a log of its own there.
            if is_file_name(&name) {
                let bytes = entry.metadata()?.len();
                let hash = hashes.of(&entry.path(), &name, bytes, &mut fresh)?;
                files.push(ImageFile { name, bytes, hash });
            }
        }
        *hashes.known.lock().unwrap_or_else(PoisonError::into_inner) = fresh;
        files.sort_by(|one, other| one.name.cmp(&other.name));
        check_files(&files, is_file_name)?;
        Ok(Self { database, files })
    }
}

impl Read for RocksImage {
    fn look(&self, table: Table, key: &[u8], see: &mut dyn FnMut(&[u8])) -> Result<(), StorageError> {
        self.database.look(table, key, see)
    }

    fn scan(&self, table: Table, range: &KeyRange, limit: ScanLimit) -> Result<Vec<Entry>, StorageError> {
        self.database.scan(table, range, limit)
    }

    fn last(&self, table: Table, range: &KeyRange) -> Result<Option<Entry>, StorageError> {
        self.database.last(table, range)
    }
}

impl Image for RocksImage {
    fn files(&self) -> &[ImageFile] {
        &self.files
    }

    fn read_file(&self, file: usize, offset: u64, limit: usize) -> Result<Vec<u8>, StorageError> {
        let Some(file) = self.files.get(file) else {
            return Err(StorageError::Io("a file that this checkpoint does not have".into()));
        };
        let rest = usize::try_from(file.bytes.saturating_sub(offset)).unwrap_or(usize::MAX);
        let mut piece = vec![0; rest.min(limit)];
        File::open(self.database.path().join(&file.name))?.read_exact_at(&mut piece, offset)?;
        Ok(piece)
    }
}

/// Files that arrive.
#[derive(Debug)]
pub(super) struct RocksIntake {
    shared: Arc<Shared>,
    directory: PathBuf,
    files: Vec<ImageFile>,
    held: Vec<u64>,
    // The file that was written last.
    open: Option<(usize, File)>,
}

impl RocksIntake {
    pub(super) fn new(shared: Arc<Shared>, files: Vec<ImageFile>) -> Result<Self, StorageError> {
        check_files(&files, is_file_name)?;
        let directory = shared.root().join(INCOMING);
        fs::create_dir_all(&directory)?;
        let wanted: BTreeSet<_> = files.iter().map(file_name).collect();
        for entry in fs::read_dir(&directory)? {
            let entry = entry?;
            if !wanted.contains(&*entry.file_name().to_string_lossy()) {
                fs::remove_file(entry.path())?;
            }
        }
        let mut held = Vec::with_capacity(files.len());
        for file in &files {
            let path = directory.join(file_name(file));
            let bytes = match fs::metadata(&path) {
                Ok(metadata) if metadata.len() <= file.bytes => metadata.len(),
                Ok(_) => {
                    fs::remove_file(path)?;
                    0
                }
                Err(error) if error.kind() == ErrorKind::NotFound => 0,
                Err(error) => return Err(error.into()),
            };
            held.push(bytes);
        }
        Ok(Self { shared, directory, files, held, open: None })
    }

    fn path(&self, file: &ImageFile) -> PathBuf {
        self.directory.join(file_name(file))
    }
}

impl Intake for RocksIntake {
    fn held(&self) -> Vec<u64> {
        self.held.clone()
    }

    fn write(&mut self, index: usize, offset: u64, bytes: &[u8]) -> Result<(), StorageError> {
        let (Some(file), Some(held)) = (self.files.get(index), self.held.get(index).copied()) else {
            return Err(StorageError::corrupted("a piece of a file that was not announced"));
        };
        check_piece(file, held, offset, bytes)?;
        let mut open = match self.open.take().filter(|(of, _)| *of == index) {
            Some((_, open)) => open,
            None => OpenOptions::new().create(true).append(true).open(self.path(file))?,
        };
        open.write_all(bytes)?;
        self.open = Some((index, open));
        let end = offset.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        // Files of the same contents are one.
        let hash = file.hash;
        for (file, held) in self.files.iter().zip(&mut self.held) {
            if file.hash == hash {
                *held = end;
            }
        }
        Ok(())
    }

    fn verify(&mut self) -> Result<bool, StorageError> {
        self.open = None;
        let mut all_whole = true;
        for (index, file) in self.files.iter().enumerate() {
            let path = self.path(file);
            if file.bytes == 0 {
                File::create(&path)?;
            }
            let held = self.held.get_mut(index);
            if held.as_ref().is_some_and(|held| **held == file.bytes) && hash_file(&path)? == file.hash {
                continue;
            }
            all_whole = false;
            if let Some(held) = held.filter(|held| **held == file.bytes) {
                tracing::warn!(file = file.name, "a file of the state arrived damaged: it is fetched again");
                fs::remove_file(&path)?;
                *held = 0;
            }
        }
        Ok(all_whole)
    }

    fn open(self: Box<Self>) -> Result<Box<dyn Stage>, StorageError> {
        let Self { shared, directory, files, .. } = *self;
        let (name, path) = shared.next_path("store");
        let stage = || {
            check_current(&directory, &files)?;
            fs::create_dir(&path)?;
            for file in &files {
                let arrived = directory.join(file_name(file));
                File::open(&arrived)?.sync_all()?;
                link(&arrived, &path.join(&file.name))?;
            }
            File::open(&path)?.sync_all()?;
            Database::open(path.clone(), shared.kind())
        };
        let database = stage().inspect_err(|_| {
            // What cannot be removed now is removed when the store is opened next.
            let _ = fs::remove_dir_all(&path);
        })?;
        fs::remove_dir_all(&directory)?;
        Ok(Box::new(RocksStage::new(shared, database, name)))
    }
}

/// Tables are shared with what arrived; what RocksDB goes on writing to is its own copy, for two files of the same
/// contents are one as long as they arrive.
fn link(from: &Path, to: &Path) -> Result<(), StorageError> {
    if to.extension().is_some_and(|extension| extension == "sst") {
        fs::hard_link(from, to)?;
    } else {
        fs::copy(from, to)?;
        File::open(to)?.sync_all()?;
    }
    Ok(())
}

/// Removes what has arrived of an image that is not needed any more.
pub(super) fn forget_arrivals(root: &Path) -> Result<(), StorageError> {
    match fs::remove_dir_all(root.join(INCOMING)) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

/// The pointer inside must name a file of the same directory: RocksDB would follow it anywhere.
fn check_current(directory: &Path, files: &[ImageFile]) -> Result<(), StorageError> {
    let damaged = || StorageError::corrupted("a state that arrived names no manifest of its own");
    let pointer =
        files.iter().find(|file| file.name == CURRENT).filter(|file| file.bytes < 64).ok_or_else(damaged)?;
    let named = fs::read_to_string(directory.join(file_name(pointer))).map_err(|_| damaged())?;
    let named = named.strip_suffix('\n').ok_or_else(damaged)?;
    let is_there = named.starts_with("MANIFEST-") && files.iter().any(|file| file.name == named);
    if is_there { Ok(()) } else { Err(damaged()) }
}

/// Whether RocksDB gives such names to files of a checkpoint.
fn is_file_name(name: &str) -> bool {
    let is_number =
        |text: &str| (1..=20).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    name == CURRENT
        || ["MANIFEST-", "OPTIONS-"].iter().any(|prefix| name.strip_prefix(prefix).is_some_and(is_number))
        || [".sst", ".log"].iter().any(|suffix| name.strip_suffix(suffix).is_some_and(is_number))
}

/// The name of what arrives.
fn file_name(file: &ImageFile) -> String {
    blake3::Hash::from_bytes(file.hash).to_hex().to_string()
}

fn hash_file(path: &Path) -> Result<[u8; 32], StorageError> {
    const PIECE: usize = 256 << 10;
    let (mut file, mut piece, mut hasher) = (File::open(path)?, vec![0; PIECE], blake3::Hasher::new());
    loop {
        let read = file.read(&mut piece)?;
        let Some(read) = piece.get(..read).filter(|read| !read.is_empty()) else { break };
        hasher.update(read);
    }
    Ok(*hasher.finalize().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::super::{Batch, Durability, KeyValue, RocksDb, StoreKind, copy_image};
    use super::*;

    fn store() -> (tempfile::TempDir, RocksDb) {
        let dir = tempfile::tempdir().unwrap();
        let store = RocksDb::open(dir.path(), StoreKind::State).unwrap();
        (dir, store)
    }

    fn filled(entries: u32) -> (tempfile::TempDir, RocksDb) {
        let (dir, store) = store();
        let mut batch = Batch::new();
        for entry in 0..entries {
            batch.put(
                Table::Index,
                entry.to_be_bytes(),
                blake3::hash(&entry.to_be_bytes()).as_bytes().as_slice(),
            );
        }
        store.write(batch, Durability::Synced).unwrap();
        (dir, store)
    }

    fn incoming(dir: &tempfile::TempDir) -> PathBuf {
        dir.path().join(INCOMING)
    }

    #[test]
    fn only_names_that_rocksdb_gives_are_taken() {
        for name in ["CURRENT", "MANIFEST-000004", "OPTIONS-000009", "000012.sst", "000013.log"] {
            assert!(is_file_name(name), "{name}");
        }
        for name in [
            "",
            "LOCK",
            "LOG",
            "IDENTITY",
            "../000012.sst",
            "/x.sst",
            "a.sst",
            ".sst",
            "MANIFEST-",
            "MANIFEST-1/2",
        ] {
            assert!(!is_file_name(name), "{name}");
        }
        let (dir, target) = store();
        let file = ImageFile { name: "../evil.sst".into(), bytes: 1, hash: [0; 32] };
        assert!(matches!(target.intake(vec![file]), Err(StorageError::Corrupted(_))));
        assert!(!incoming(&dir).exists());
    }

    #[test]
    fn a_file_of_a_table_is_hashed_once_and_shared_by_two_images() {
        let (_dir, source) = filled(10_000);
        let tables = |image: &dyn Image| -> Vec<ImageFile> {
            image.files().iter().filter(|file| file.name.ends_with(".sst")).cloned().collect()
        };
        let first = tables(&*source.image().unwrap());
        assert!(!first.is_empty());
        let mut batch = Batch::new();
        batch.put(Table::Meta, "more", "1");
        source.write(batch, Durability::Synced).unwrap();
        let second = tables(&*source.image().unwrap());
        assert!(second.len() > first.len() && first.iter().all(|file| second.contains(file)));
    }

    #[test]
    fn a_flipped_byte_is_found_and_only_its_file_comes_again() {
        let ((_dir, source), (dir, target)) = (filled(10_000), store());
        let image = source.image().unwrap();
        let mut intake = target.intake(image.files().to_vec()).unwrap();
        copy_image(&*image, &mut *intake).unwrap();
        let largest = image.files().iter().max_by_key(|file| file.bytes).unwrap();
        let path = incoming(&dir).join(file_name(largest));
        let mut bytes = fs::read(&path).unwrap();
        bytes[100] ^= 1;
        fs::write(&path, bytes).unwrap();
        assert!(!intake.verify().unwrap());
        let lacking: Vec<_> =
            image.files().iter().zip(intake.held()).filter(|(file, held)| *held < file.bytes).collect();
        assert_eq!(lacking.len(), 1);
        assert_eq!((&lacking[0].0.name, lacking[0].1), (&largest.name, 0));
        copy_image(&*image, &mut *intake).unwrap();
        assert!(intake.verify().unwrap());
        intake.open().unwrap().install().unwrap();
        let limit = ScanLimit::entries(usize::MAX);
        assert_eq!(target.scan(Table::Index, &KeyRange::all(), limit).unwrap().len(), 10_000);
        assert!(!incoming(&dir).exists());
    }

    #[test]
    fn what_had_arrived_when_the_process_was_killed_is_there_again_and_nothing_else() {
        let ((_dir, source), (dir, target)) = (filled(10_000), store());
        let image = source.image().unwrap();
        let files = image.files().to_vec();
        let mut intake = target.intake(files.clone()).unwrap();
        let (largest, file) = files.iter().enumerate().max_by_key(|(_, file)| file.bytes).unwrap();
        intake.write(largest, 0, &image.read_file(largest, 0, 1000).unwrap()).unwrap();
        fs::write(incoming(&dir).join("left over"), "x").unwrap();
        drop((intake, target));
        let target = RocksDb::open(dir.path(), StoreKind::State).unwrap();
        let intake = target.intake(files.clone()).unwrap();
        assert_eq!(intake.held()[largest], 1000);
        assert!(!incoming(&dir).join("left over").exists());
        // Too long to be part of it.
        fs::write(incoming(&dir).join(file_name(file)), vec![0; usize::try_from(file.bytes).unwrap() + 1])
            .unwrap();
        assert_eq!(target.intake(files).unwrap().held()[largest], 0);
        target.forget_arrivals().unwrap();
        assert!(!incoming(&dir).exists());
    }

    #[test]
    fn a_pointer_that_leads_elsewhere_is_not_followed() {
        let ((_dir, source), (dir, target)) = (filled(10), store());
        let image = source.image().unwrap();
        for pointer in ["../store-00000001/MANIFEST-000005\n", "MANIFEST-99\n", "", "MANIFEST-000005"] {
            let mut files = image.files().to_vec();
            let current = files.iter().position(|file| file.name == CURRENT).unwrap();
            let hash = *blake3::hash(pointer.as_bytes()).as_bytes();
            files[current] =
                ImageFile { name: CURRENT.into(), bytes: pointer.len().try_into().unwrap(), hash };
            let mut intake = target.intake(files.clone()).unwrap();
            for (index, file) in
                files.iter().enumerate().filter(|(index, file)| *index != current && file.bytes > 0)
            {
                if intake.held()[index] == 0 {
                    intake
                        .write(
                            index,
                            0,
                            &image.read_file(index, 0, usize::try_from(file.bytes).unwrap()).unwrap(),
                        )
                        .unwrap();
                }
            }
            if !pointer.is_empty() {
                intake.write(current, 0, pointer.as_bytes()).unwrap();
            }
            assert!(intake.verify().unwrap());
            assert!(matches!(intake.open(), Err(StorageError::Corrupted(_))), "{pointer:?}");
        }
        let names = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name());
        assert_eq!(names.filter(|name| name.to_string_lossy().starts_with("store-")).count(), 1);
    }
}
