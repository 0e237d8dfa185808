//! A store in memory that fails as a disk does: for simulations and tests.
//!
//! A clone is the same disk: it outlives the program that used it. [`Memory::crash`] is a loss of power: what was
//! synced stays, of the batches after that a prefix survives. What a program got by [`Memory::opened`] fails from then
//! on, as the program itself would have ended with the power: whatever of it is left cannot write into the disk of the
//! one that comes after it. [`Memory::inject`] makes calls fail.

use std::collections::BTreeMap;
use std::collections::btree_map;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard};

use super::memory_image::{Arrivals, MemoryImage, MemoryIntake};
use super::{
    Batch, Durability, Entry, Image, ImageFile, Intake, KeyRange, KeyValue, Operation, Read, ScanLimit,
    Stage, StorageError, StoreKind, Table,
};

/// How a call fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Writes and flushes fail with an input/output error.
    Write,
    /// Writes and flushes find the disk full.
    Full,
    /// Reads fail with an input/output error.
    Read,
}

/// A store in memory. Cloning shares it.
#[derive(Debug, Clone)]
pub struct Memory {
    kind: StoreKind,
    disk: Arc<Mutex<Disk>>,
    // As which program's it was opened; none for the disk itself.
    opened_in: Option<u64>,
}

pub(super) type Tables = BTreeMap<Table, BTreeMap<Vec<u8>, Vec<u8>>>;

#[derive(Debug, Default)]
struct Disk {
    durable: Arc<Tables>,
    current: Arc<Tables>,
    unsynced: Vec<Batch>,
    fault: Option<(Fault, u32)>,
    arrivals: Arrivals,
    // Losses of power so far.
    crashes: u64,
}

#[derive(Debug)]
pub(super) struct MemoryView {
    tables: Arc<Tables>,
}

#[derive(Debug)]
pub(super) struct MemoryStage {
    store: Memory,
    tables: Tables,
}

impl Memory {
    /// An empty store.
    pub fn new(kind: StoreKind) -> Self {
        Self { kind, disk: Arc::default(), opened_in: None }
    }

    /// The disk as a program sees that starts now: after the next loss of power nothing can be read or written by it.
    #[must_use]
    pub fn opened(&self) -> Self {
        Self { opened_in: Some(self.disk().crashes), ..self.clone() }
    }

    /// Takes the power away: of the batches since the last sync the first `chance % (their number + 1)` survive.
    /// Faults that were injected are gone.
    pub fn crash(&self, chance: u64) {
        let mut disk = self.disk();
        let unsynced = std::mem::take(&mut disk.unsynced);
        let possible = u64::try_from(unsynced.len()).unwrap_or(u64::MAX).saturating_add(1);
        let surviving = usize::try_from(chance % possible).unwrap_or(unsynced.len());
        for batch in unsynced.iter().take(surviving) {
            carry_out(Arc::make_mut(&mut disk.durable), batch);
        }
        disk.current = Arc::clone(&disk.durable);
        disk.fault = None;
        disk.crashes += 1;
    }

    /// Lets `calls` more calls that `fault` concerns succeed and all after them fail, until [`Self::heal`] or
    /// [`Self::crash`].
    pub fn inject(&self, fault: Fault, calls: u32) {
        self.disk().fault = Some((fault, calls));
    }

    /// Ends an injected fault.
    pub fn heal(&self) {
        self.disk().fault = None;
    }

    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.disk.lock().expect("no holder of this lock panics while it holds it")
    }

    /// The disk for a call that reads or writes, if nothing lets it fail.
    fn usable(&self, writing: bool) -> Result<MutexGuard<'_, Disk>, StorageError> {
        let mut disk = self.disk();
        if self.opened_in.is_some_and(|crashes| crashes != disk.crashes) {
            return Err(StorageError::Io("the power went while this was open".into()));
        }
        disk.check(writing)?;
        Ok(disk)
    }

    /// What has arrived of another store. It is written to as to a disk.
    pub(super) fn with_arrivals<T>(&self, work: impl FnOnce(&mut Arrivals) -> T) -> Result<T, StorageError> {
        let mut disk = self.usable(true)?;
        Ok(work(&mut disk.arrivals))
    }

    fn readable(&self) -> Result<Arc<Tables>, StorageError> {
        Ok(Arc::clone(&self.usable(false)?.current))
    }
}

impl MemoryView {
    pub(super) fn tables(&self) -> &Tables {
        &self.tables
    }
}

impl MemoryStage {
    pub(super) const fn new(store: Memory, tables: Tables) -> Self {
        Self { store, tables }
    }
}

impl Fault {
    fn error(self) -> StorageError {
        match self {
            Self::Write | Self::Read => StorageError::Io("injected".into()),
            Self::Full => StorageError::Full("injected".into()),
        }
    }
}

impl Disk {
    fn check(&mut self, writing: bool) -> Result<(), StorageError> {
        let Some((fault, calls)) = &mut self.fault else { return Ok(()) };
        if writing == (*fault == Fault::Read) {
            return Ok(());
        }
        if let Some(fewer) = calls.checked_sub(1) {
            *calls = fewer;
            return Ok(());
        }
        Err(fault.error())
    }

    fn sync(&mut self) {
        let unsynced = std::mem::take(&mut self.unsynced);
        let durable = Arc::make_mut(&mut self.durable);
        unsynced.iter().for_each(|batch| carry_out(durable, batch));
    }
}

fn carry_out(tables: &mut Tables, batch: &Batch) {
    for operation in batch.operations() {
        let table = tables.entry(operation.table()).or_default();
        match operation {
            Operation::Put(_, key, value) => {
                table.insert(key.clone(), value.clone());
            }
            Operation::Delete(_, key) => {
                table.remove(key);
            }
            Operation::DeleteRange(_, from, to) => {
                let mut rest = table.split_off(from);
                table.append(&mut rest.split_off(to));
            }
        }
    }
}

fn entries<'a>(
    tables: &'a Tables,
    table: Table,
    range: &KeyRange,
) -> Option<btree_map::Range<'a, Vec<u8>, Vec<u8>>> {
    if range.to.as_ref().is_some_and(|to| *to <= range.from) {
        return None;
    }
    let to = range.to.as_ref().map_or(Bound::Unbounded, |to| Bound::Excluded(to.as_slice()));
    Some(tables.get(&table)?.range::<[u8], _>((Bound::Included(range.from.as_slice()), to)))
}

impl Read for MemoryView {
    fn look(&self, table: Table, key: &[u8], see: &mut dyn FnMut(&[u8])) -> Result<(), StorageError> {
        look(&self.tables, table, key, see);
        Ok(())
    }

    fn scan(&self, table: Table, range: &KeyRange, limit: ScanLimit) -> Result<Vec<Entry>, StorageError> {
        Ok(scan(&self.tables, table, range, limit))
    }

    fn last(&self, table: Table, range: &KeyRange) -> Result<Option<Entry>, StorageError> {
        Ok(last(&self.tables, table, range))
    }
}

fn look(tables: &Tables, table: Table, key: &[u8], see: &mut dyn FnMut(&[u8])) {
    tables.get(&table).and_then(|entries| entries.get(key)).into_iter().for_each(|value| see(value));
}

fn scan(tables: &Tables, table: Table, range: &KeyRange, limit: ScanLimit) -> Vec<Entry> {
    let mut found = Vec::new();
    let mut bytes: usize = 0;
    for (key, value) in entries(tables, table, range).into_iter().flatten() {
        bytes = bytes.saturating_add(key.len()).saturating_add(value.len());
        found.push((key.clone(), value.clone()));
        if found.len() >= limit.entries || bytes >= limit.bytes {
            break;
        }
    }
    found
}

fn last(tables: &Tables, table: Table, range: &KeyRange) -> Option<Entry> {
    let last = entries(tables, table, range).and_then(|mut entries| entries.next_back());
    last.map(|(key, value)| (key.clone(), value.clone()))
}

impl Read for Memory {
    fn look(&self, table: Table, key: &[u8], see: &mut dyn FnMut(&[u8])) -> Result<(), StorageError> {
        MemoryView { tables: self.readable()? }.look(table, key, see)
    }

    fn look_all(
        &self,
        table: Table,
        keys: &[&[u8]],
        see: &mut dyn FnMut(usize, &[u8]),
    ) -> Result<(), StorageError> {
        MemoryView { tables: self.readable()? }.look_all(table, keys, see)
    }

    fn scan(&self, table: Table, range: &KeyRange, limit: ScanLimit) -> Result<Vec<Entry>, StorageError> {
        MemoryView { tables: self.readable()? }.scan(table, range, limit)
    }

    fn last(&self, table: Table, range: &KeyRange) -> Result<Option<Entry>, StorageError> {
        MemoryView { tables: self.readable()? }.last(table, range)
    }
}

impl KeyValue for Memory {
    fn kind(&self) -> StoreKind {
        self.kind
    }

    fn write(&self, batch: Batch, durability: Durability) -> Result<(), StorageError> {
        let mut disk = self.usable(true)?;
        carry_out(Arc::make_mut(&mut disk.current), &batch);
        disk.unsynced.push(batch);
        if durability == Durability::Synced {
            disk.sync();
        }
        Ok(())
    }

    fn failure(&self) -> Option<StorageError> {
        let (fault, calls) = self.disk().fault?;
        (calls == 0 && fault != Fault::Read).then(|| fault.error())
    }

    fn flush(&self) -> Result<(), StorageError> {
        let mut disk = self.usable(true)?;
        disk.sync();
        Ok(())
    }

    fn disk_bytes(&self) -> Result<u64, StorageError> {
        let tables = self.readable()?;
        let entries = tables.values().flatten();
        Ok(entries.map(|(key, value)| key.len() as u64 + value.len() as u64).sum())
    }

    fn image(&self) -> Result<Box<dyn Image>, StorageError> {
        Ok(Box::new(MemoryImage::new(MemoryView { tables: self.readable()? })))
    }

    fn intake(&self, files: Vec<ImageFile>) -> Result<Box<dyn Intake>, StorageError> {
        Ok(Box::new(MemoryIntake::new(self.clone(), files)?))
    }

    fn forget_arrivals(&self) -> Result<(), StorageError> {
        self.with_arrivals(Arrivals::clear)
    }
}

impl Read for MemoryStage {
    fn look(&self, table: Table, key: &[u8], see: &mut dyn FnMut(&[u8])) -> Result<(), StorageError> {
        look(&self.tables, table, key, see);
        Ok(())
    }

    fn scan(&self, table: Table, range: &KeyRange, limit: ScanLimit) -> Result<Vec<Entry>, StorageError> {
        Ok(scan(&self.tables, table, range, limit))
    }

    fn last(&self, table: Table, range: &KeyRange) -> Result<Option<Entry>, StorageError> {
        Ok(last(&self.tables, table, range))
    }
}

impl Stage for MemoryStage {
    fn write(&mut self, batch: Batch) -> Result<(), StorageError> {
        drop(self.store.usable(true)?);
        carry_out(&mut self.tables, &batch);
        Ok(())
    }

    fn install(self: Box<Self>) -> Result<(), StorageError> {
        let Self { store, tables } = *self;
        let mut disk = store.usable(true)?;
        disk.unsynced.clear();
        disk.durable = Arc::new(tables);
        disk.current = Arc::clone(&disk.durable);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(store: &Memory, key: &str, durability: Durability) -> Result<(), StorageError> {
        let mut batch = Batch::new();
        batch.put(Table::Meta, key, "value");
        store.write(batch, durability)
    }

    fn keys(store: &Memory) -> Vec<String> {
        let entries = store.scan(Table::Meta, &KeyRange::all(), ScanLimit::entries(100)).unwrap();
        entries.into_iter().map(|(key, _)| String::from_utf8(key).unwrap()).collect()
    }

    #[test]
    fn a_loss_of_power_takes_unsynced_batches_from_the_end_only() {
        for chance in 0..5 {
            let store = Memory::new(StoreKind::State);
            put(&store, "1", Durability::Buffered).unwrap();
            put(&store, "2", Durability::Synced).unwrap();
            put(&store, "3", Durability::Buffered).unwrap();
            put(&store, "4", Durability::Buffered).unwrap();
            store.crash(chance);
            assert_eq!(keys(&store).len() as u64, 2 + chance % 3);
            assert!(
                ["1", "2", "3", "4"].iter().zip(keys(&store)).all(|(expected, found)| found == *expected)
            );
        }
    }

    #[test]
    fn what_was_opened_before_a_loss_of_power_is_of_no_use_after_it() {
        let store = Memory::new(StoreKind::State);
        let first = store.opened();
        let also_first = first.clone();
        put(&first, "1", Durability::Synced).unwrap();
        put(&also_first, "2", Durability::Synced).unwrap();
        let stage = first.intake(Vec::new()).unwrap().open().unwrap();
        store.crash(0);
        let second = store.opened();
        for dead in [&first, &also_first] {
            assert!(matches!(put(dead, "3", Durability::Synced), Err(StorageError::Io(_))));
            assert!(matches!(dead.flush(), Err(StorageError::Io(_))));
            assert!(matches!(dead.get(Table::Meta, b"1"), Err(StorageError::Io(_))));
        }
        assert!(matches!(stage.install(), Err(StorageError::Io(_))));
        put(&second, "4", Durability::Synced).unwrap();
        assert_eq!(keys(&second), ["1", "2", "4"]);
        assert_eq!(keys(&store), keys(&second));
    }

    #[test]
    fn injected_faults_fail_from_the_named_call_on_and_leave_the_store_as_it_was() {
        let store = Memory::new(StoreKind::State);
        store.inject(Fault::Full, 1);
        put(&store, "1", Durability::Synced).unwrap();
        assert!(matches!(put(&store, "2", Durability::Synced), Err(StorageError::Full(_))));
        assert!(matches!(store.flush(), Err(StorageError::Full(_))));
        assert_eq!(keys(&store), ["1"]);
        store.heal();
        store.inject(Fault::Read, 0);
        put(&store, "2", Durability::Synced).unwrap();
        assert!(matches!(store.get(Table::Meta, b"1"), Err(StorageError::Io(_))));
        store.crash(0);
        assert_eq!(keys(&store), ["1", "2"]);
    }
}
