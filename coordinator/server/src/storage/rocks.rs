//! A store on disk: RocksDB in a directory of ours.
//!
//! ```text
//! DIR/current          one line: format version and the name of the directory in force
//! DIR/store-00000001/  RocksDB
//! DIR/view-00000002/   a checkpoint that someone reads; removed when it is dropped
//! DIR/incoming/        files of another replica that arrive, see `rocks_image`
//! ```
//!
//! Always holds: `current` names a complete database; it is switched by rename after the new one is on disk. What
//! it does not name is left over from a killed process and removed when the store is opened.

use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, RwLock};

use rocksdb::checkpoint::Checkpoint;
use rocksdb::{
    BottommostLevelCompaction, ColumnFamily, CompactOptions, DB, Direction, FlushOptions, IteratorMode,
    ReadOptions, WriteBatch, WriteOptions,
};

use super::rocks_image::{KnownHashes, RocksImage, RocksIntake, forget_arrivals};
use super::rocks_options::{descriptors, store_options, translate};
use super::{
    Batch, Durability, Entry, Image, ImageFile, Intake, KeyRange, KeyValue, Operation, Read, ScanLimit,
    Stage, StorageError, StoreKind, Table,
};

const FORMAT: &str = "firn-store 1";

/// A store in a directory. Another process that opens it gets [`StorageError::Locked`].
#[derive(Debug)]
pub struct RocksDb {
    shared: Arc<Shared>,
}

#[derive(Debug)]
pub(super) struct Shared {
    root: PathBuf,
    kind: StoreKind,
    current: RwLock<Arc<Database>>,
    next_number: AtomicU64,
    hashes: KnownHashes,
}

/// One RocksDB. Its directory goes with it if it was found to be obsolete.
pub(super) struct Database {
    // None only while it is being dropped.
    db: Option<DB>,
    // Of every lookup: making them anew costs as much as a fiftieth of one.
    looking: ReadOptions,
    path: PathBuf,
    obsolete: AtomicBool,
    // The first failure to write. Nothing is written behind it: what is on disk there is not known, and RocksDB ends the
    // process when it is asked to.
    failed: OnceLock<StorageError>,
}

#[derive(Debug)]
pub(super) struct RocksStage {
    shared: Arc<Shared>,
    database: Database,
    name: String,
}

impl RocksDb {
    /// Opens the store in `root`, which is made if it is missing.
    pub fn open(root: &Path, kind: StoreKind) -> Result<Self, StorageError> {
        fs::create_dir_all(root)?;
        let (name, is_new) = match fs::read_to_string(root.join("current")) {
            Ok(text) => (read_pointer(root, &text)?, false),
            Err(error) if error.kind() == ErrorKind::NotFound => (directory_name("store", 1), true),
            Err(error) => return Err(error.into()),
        };
        let database = Database::open(root.join(&name), kind)?;
        if is_new {
            point_to(root, &name)?;
        }
        // The database's own lock is ours from here on: nobody else uses what else lies here.
        let mut greatest = number_of(&name);
        for entry in fs::read_dir(root)? {
            let entry = entry?;
            let other = entry.file_name().to_string_lossy().into_owned();
            greatest = greatest.max(number_of(&other));
            if other != name && (other.starts_with("store-") || other.starts_with("view-")) {
                fs::remove_dir_all(entry.path())?;
            }
        }
        let shared = Shared {
            root: root.to_owned(),
            kind,
            current: RwLock::new(Arc::new(database)),
            next_number: AtomicU64::new(greatest.saturating_add(1)),
            hashes: KnownHashes::default(),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Bytes of a table's files, without what is still in memory.
    pub fn table_bytes(&self, table: Table) -> Result<u64, StorageError> {
        let current = self.shared.current();
        let bytes =
            current.db().property_int_value_cf(current.column(table)?, "rocksdb.total-sst-files-size");
        Ok(bytes.map_err(translate)?.unwrap_or(0))
    }

    /// Writes what is in memory to files and merges each table's files; what was removed then takes no room.
    pub fn compact(&self) -> Result<(), StorageError> {
        let current = self.shared.current();
        let mut options = CompactOptions::default();
        // Also files that nothing is above: numbers of writes go from them, 4 bytes of every small entry.
        options.set_bottommost_level_compaction(BottommostLevelCompaction::Force);
        for table in self.shared.kind.tables() {
            current.db().compact_range_cf_opt::<&[u8], &[u8]>(current.column(table)?, None, None, &options);
        }
        Ok(())
    }
}

fn directory_name(role: &str, number: u64) -> String {
    format!("{role}-{number:08}")
}

fn number_of(name: &str) -> u64 {
    name.rsplit('-').next().and_then(|digits| digits.parse().ok()).unwrap_or(0)
}

fn read_pointer(root: &Path, text: &str) -> Result<String, StorageError> {
    let damaged = || StorageError::corrupted(format!("{} is not readable", root.join("current").display()));
    let (format, name) = text.trim_end().rsplit_once(' ').ok_or_else(damaged)?;
    match format.strip_prefix("firn-store ").map(str::parse::<u32>) {
        _ if format == FORMAT => {}
        Some(Ok(version)) if version > 1 => {
            return Err(StorageError::Newer(format!("{}: {format}", root.display())));
        }
        _ => return Err(damaged()),
    }
    if !name.starts_with("store-") || name.contains(['/', '\\']) || !root.join(name).is_dir() {
        return Err(damaged());
    }
    Ok(name.to_owned())
}

/// Makes `name` the directory in force, durably.
fn point_to(root: &Path, name: &str) -> Result<(), StorageError> {
    let new = root.join("current.new");
    let mut file = File::create(&new)?;
    writeln!(file, "{FORMAT} {name}")?;
    file.sync_all()?;
    // The database's directory entry must be on disk before the pointer names it.
    File::open(root)?.sync_all()?;
    fs::rename(&new, root.join("current"))?;
    File::open(root)?.sync_all()?;
    Ok(())
}

impl Shared {
    fn current(&self) -> Arc<Database> {
        Arc::clone(&self.current.read().expect("no holder of this lock panics while it holds it"))
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    pub(super) const fn kind(&self) -> StoreKind {
        self.kind
    }

    pub(super) fn next_path(&self, role: &str) -> (String, PathBuf) {
        let name = directory_name(role, self.next_number.fetch_add(1, Ordering::Relaxed));
        let path = self.root.join(&name);
        (name, path)
    }
}

impl Database {
    pub(super) fn open(path: PathBuf, kind: StoreKind) -> Result<Self, StorageError> {
        let opened = DB::open_cf_descriptors(&store_options(kind), &path, descriptors(kind)?);
        let db = opened.map_err(|error| match translate(error) {
            StorageError::Locked(_) => StorageError::Locked(path.display().to_string()),
            other => other,
        })?;
        Ok(Self::of(db, path, false))
    }

    fn open_view(path: PathBuf, kind: StoreKind) -> Result<Self, StorageError> {
        let opened =
            DB::open_cf_descriptors_read_only(&store_options(kind), &path, descriptors(kind)?, false);
        Ok(Self::of(opened.map_err(translate)?, path, true))
    }

    fn of(db: DB, path: PathBuf, obsolete: bool) -> Self {
        Self {
            db: Some(db),
            looking: ReadOptions::default(),
            path,
            obsolete: AtomicBool::new(obsolete),
            failed: OnceLock::new(),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    fn db(&self) -> &DB {
        self.db.as_ref().expect("the database is there until it is dropped")
    }

    fn column(&self, table: Table) -> Result<&ColumnFamily, StorageError> {
        let column = self.db().cf_handle(table.name());
        column.ok_or_else(|| StorageError::Io(format!("this store has no table {}", table.name())))
    }

    fn write(&self, batch: &Batch, options: &WriteOptions) -> Result<(), StorageError> {
        let mut out = WriteBatch::default();
        for operation in batch.operations() {
            let column = self.column(operation.table())?;
            match operation {
                Operation::Put(_, key, value) => out.put_cf(column, key, value),
                Operation::Delete(_, key) => out.delete_cf(column, key),
                Operation::DeleteRange(_, from, to) => out.delete_range_cf(column, from, to),
            }
        }
        self.writing(|db| db.write_opt(out, options))
    }

    fn writing(&self, write: impl FnOnce(&DB) -> Result<(), rocksdb::Error>) -> Result<(), StorageError> {
        if let Some(error) = self.failed.get() {
            return Err(error.clone());
        }
        write(self.db()).map_err(translate).inspect_err(|error| {
            // Whoever comes second fails for the same reason.
            let _ = self.failed.set(error.clone());
        })
    }
}

impl Read for Database {
    fn look(&self, table: Table, key: &[u8], see: &mut dyn FnMut(&[u8])) -> Result<(), StorageError> {
        let found =
            self.db().get_pinned_cf_opt(self.column(table)?, key, &self.looking).map_err(translate)?;
        found.iter().for_each(|value| see(value));
        Ok(())
    }

    fn look_all(
        &self,
        table: Table,
        keys: &[&[u8]],
        see: &mut dyn FnMut(usize, &[u8]),
    ) -> Result<(), StorageError> {
        let found = self.db().batched_multi_get_cf_opt(
            self.column(table)?,
            keys.iter().copied(),
            false,
            &self.looking,
        );
        for (place, value) in found.into_iter().enumerate() {
            value.map_err(translate)?.iter().for_each(|value| see(place, value));
        }
        Ok(())
    }

    fn scan(&self, table: Table, range: &KeyRange, limit: ScanLimit) -> Result<Vec<Entry>, StorageError> {
        let mut found = Vec::new();
        if range.to.as_ref().is_some_and(|to| *to <= range.from) {
            return Ok(found);
        }
        let mut options = ReadOptions::default();
        if let Some(to) = &range.to {
            options.set_iterate_upper_bound(to.clone());
        }
        // Who scans the feed passes over all of it once, for a filter or a mirror: 21 bytes an event, more than the
        // cache has at 6 million. Lookups read single pages of it, and those stay.
        options.fill_cache(table != Table::Feed);
        let mode = IteratorMode::From(&range.from, Direction::Forward);
        let mut bytes: usize = 0;
        for entry in self.db().iterator_cf_opt(self.column(table)?, options, mode) {
            let (key, value) = entry.map_err(translate)?;
            bytes = bytes.saturating_add(key.len()).saturating_add(value.len());
            found.push((key.into_vec(), value.into_vec()));
            if found.len() >= limit.entries || bytes >= limit.bytes {
                break;
            }
        }
        Ok(found)
    }

    fn last(&self, table: Table, range: &KeyRange) -> Result<Option<Entry>, StorageError> {
        let mut options = ReadOptions::default();
        options.set_iterate_lower_bound(range.from.clone());
        if let Some(to) = &range.to {
            if *to <= range.from {
                return Ok(None);
            }
            options.set_iterate_upper_bound(to.clone());
        }
        let last = self.db().iterator_cf_opt(self.column(table)?, options, IteratorMode::End).next();
        let last = last.transpose().map_err(translate)?;
        Ok(last.map(|(key, value)| (key.into_vec(), value.into_vec())))
    }
}

impl Read for RocksDb {
    fn look(&self, table: Table, key: &[u8], see: &mut dyn FnMut(&[u8])) -> Result<(), StorageError> {
        self.shared.current().look(table, key, see)
    }

    fn look_all(
        &self,
        table: Table,
        keys: &[&[u8]],
        see: &mut dyn FnMut(usize, &[u8]),
    ) -> Result<(), StorageError> {
        self.shared.current().look_all(table, keys, see)
    }

    fn scan(&self, table: Table, range: &KeyRange, limit: ScanLimit) -> Result<Vec<Entry>, StorageError> {
        self.shared.current().scan(table, range, limit)
    }

    fn last(&self, table: Table, range: &KeyRange) -> Result<Option<Entry>, StorageError> {
        self.shared.current().last(table, range)
    }
}

impl KeyValue for RocksDb {
    fn kind(&self) -> StoreKind {
        self.shared.kind
    }

    fn write(&self, batch: Batch, durability: Durability) -> Result<(), StorageError> {
        let mut options = WriteOptions::default();
        options.set_sync(durability == Durability::Synced);
        self.shared.current().write(&batch, &options)
    }

    fn failure(&self) -> Option<StorageError> {
        self.shared.current().failed.get().cloned()
    }

    fn flush(&self) -> Result<(), StorageError> {
        self.shared.current().writing(|db| db.flush_wal(true))
    }

    fn disk_bytes(&self) -> Result<u64, StorageError> {
        let mut bytes = 0_u64;
        for entry in fs::read_dir(self.shared.current().path())? {
            match entry?.metadata() {
                Ok(metadata) => bytes = bytes.saturating_add(metadata.len()),
                // Merged meanwhile.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(bytes)
    }

    fn image(&self) -> Result<Box<dyn Image>, StorageError> {
        let (_, path) = self.shared.next_path("view");
        let current = self.shared.current();
        let checkpoint = Checkpoint::new(current.db()).map_err(translate)?;
        checkpoint.create_checkpoint(&path).map_err(translate)?;
        let view = Database::open_view(path, self.shared.kind)?;
        Ok(Box::new(RocksImage::new(view, &self.shared.hashes)?))
    }

    fn intake(&self, files: Vec<ImageFile>) -> Result<Box<dyn Intake>, StorageError> {
        Ok(Box::new(RocksIntake::new(Arc::clone(&self.shared), files)?))
    }

    fn forget_arrivals(&self) -> Result<(), StorageError> {
        forget_arrivals(&self.shared.root)
    }
}

impl RocksStage {
    /// `database` in the directory `name` is to take the place of the one in force.
    pub(super) fn new(shared: Arc<Shared>, database: Database, name: String) -> Self {
        // Until it is installed, dropping it removes it.
        database.obsolete.store(true, Ordering::Relaxed);
        Self { shared, database, name }
    }
}

impl Read for RocksStage {
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

impl Stage for RocksStage {
    fn write(&mut self, batch: Batch) -> Result<(), StorageError> {
        let mut options = WriteOptions::default();
        // Nothing of it counts before the flush in `install`.
        options.disable_wal(true);
        self.database.write(&batch, &options)
    }

    fn install(self: Box<Self>) -> Result<(), StorageError> {
        let Self { shared, database, name } = *self;
        let mut options = FlushOptions::default();
        options.set_wait(true);
        for table in shared.kind.tables() {
            database.db().flush_cf_opt(database.column(table)?, &options).map_err(translate)?;
        }
        let mut current = shared.current.write().expect("no holder of this lock panics while it holds it");
        point_to(&shared.root, &name)?;
        database.obsolete.store(false, Ordering::Relaxed);
        let old = std::mem::replace(&mut *current, Arc::new(database));
        shared.hashes.clear();
        // Goes when its last reader has gone.
        old.obsolete.store(true, Ordering::Relaxed);
        Ok(())
    }
}

impl std::fmt::Debug for Database {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Database({})", self.path.display())
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        drop(self.db.take());
        if self.obsolete.load(Ordering::Relaxed) {
            // What cannot be removed now is removed when the store is opened next.
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_that_is_open_elsewhere_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let _open = RocksDb::open(dir.path(), StoreKind::State).unwrap();
        let error = RocksDb::open(dir.path(), StoreKind::State).unwrap_err();
        assert!(matches!(error, StorageError::Locked(_)), "{error}");
        assert!(error.to_string().starts_with("another process uses the store in "));
    }

    #[test]
    fn a_store_of_a_newer_format_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        drop(RocksDb::open(dir.path(), StoreKind::State).unwrap());
        fs::write(dir.path().join("current"), "firn-store 2 store-00000001\n").unwrap();
        let error = RocksDb::open(dir.path(), StoreKind::State).unwrap_err();
        assert!(matches!(error, StorageError::Newer(_)), "{error}");
        fs::write(dir.path().join("current"), "firn-store 1 ../elsewhere\n").unwrap();
        let error = RocksDb::open(dir.path(), StoreKind::State).unwrap_err();
        assert!(matches!(error, StorageError::Corrupted(_)), "{error}");
    }

    #[test]
    fn a_store_with_tables_of_a_newer_program_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        drop(RocksDb::open(dir.path(), StoreKind::Log).unwrap());
        let error = RocksDb::open(dir.path(), StoreKind::State).unwrap_err();
        assert!(matches!(error, StorageError::Newer(_)), "{error}");
    }

    #[test]
    fn what_a_killed_process_left_over_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let store = RocksDb::open(dir.path(), StoreKind::State).unwrap();
        std::mem::forget(store.image().unwrap());
        drop(store);
        fs::create_dir(dir.path().join("store-00000077")).unwrap();
        let _store = RocksDb::open(dir.path(), StoreKind::State).unwrap();
        let mut names: Vec<_> =
            fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["current", "store-00000001"]);
    }
}
