//! A disk that says it synced and did not: planted to see whether the oracle notices.

use firn_coordinator::storage::{
    Batch, Durability, Entry, Image, ImageFile, Intake, KeyRange, KeyValue, Memory, Read, ScanLimit,
    StorageError, StoreKind, Table,
};

/// A store that never syncs.
#[derive(Debug)]
pub(crate) struct LyingDisk(pub(crate) Memory);

impl Read for LyingDisk {
    fn look(&self, table: Table, key: &[u8], see: &mut dyn FnMut(&[u8])) -> Result<(), StorageError> {
        self.0.look(table, key, see)
    }

    fn look_all(
        &self,
        table: Table,
        keys: &[&[u8]],
        see: &mut dyn FnMut(usize, &[u8]),
    ) -> Result<(), StorageError> {
        self.0.look_all(table, keys, see)
    }

    fn scan(&self, table: Table, range: &KeyRange, limit: ScanLimit) -> Result<Vec<Entry>, StorageError> {
        self.0.scan(table, range, limit)
    }

    fn last(&self, table: Table, range: &KeyRange) -> Result<Option<Entry>, StorageError> {
        self.0.last(table, range)
    }
}

impl KeyValue for LyingDisk {
    fn kind(&self) -> StoreKind {
        self.0.kind()
    }

    fn write(&self, batch: Batch, _durability: Durability) -> Result<(), StorageError> {
        self.0.write(batch, Durability::Buffered)
    }

    fn failure(&self) -> Option<StorageError> {
        self.0.failure()
    }

    fn flush(&self) -> Result<(), StorageError> {
        Ok(())
    }

    fn disk_bytes(&self) -> Result<u64, StorageError> {
        self.0.disk_bytes()
    }

    fn image(&self) -> Result<Box<dyn Image>, StorageError> {
        self.0.image()
    }

    fn intake(&self, files: Vec<ImageFile>) -> Result<Box<dyn Intake>, StorageError> {
        self.0.intake(files)
    }

    fn forget_arrivals(&self) -> Result<(), StorageError> {
        self.0.forget_arrivals()
    }
}
