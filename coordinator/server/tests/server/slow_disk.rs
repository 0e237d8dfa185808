//! A disk on which every write takes its time.

use std::time::Duration;

use firn_coordinator::storage::{
    Batch, Durability, Entry, Image, ImageFile, Intake, KeyRange, KeyValue, Memory, Read, ScanLimit,
    StorageError, StoreKind, Table,
};

/// A store that writes slowly.
#[derive(Debug)]
pub(crate) struct SlowDisk {
    pub disk: Memory,
    pub takes: Duration,
}

impl Read for SlowDisk {
    fn look(&self, table: Table, key: &[u8], see: &mut dyn FnMut(&[u8])) -> Result<(), StorageError> {
        self.disk.look(table, key, see)
    }

    fn look_all(
        &self,
        table: Table,
        keys: &[&[u8]],
        see: &mut dyn FnMut(usize, &[u8]),
    ) -> Result<(), StorageError> {
        self.disk.look_all(table, keys, see)
    }

    fn scan(&self, table: Table, range: &KeyRange, limit: ScanLimit) -> Result<Vec<Entry>, StorageError> {
        self.disk.scan(table, range, limit)
    }

    fn last(&self, table: Table, range: &KeyRange) -> Result<Option<Entry>, StorageError> {
        self.disk.last(table, range)
    }
}

impl KeyValue for SlowDisk {
    fn kind(&self) -> StoreKind {
        self.disk.kind()
    }

    fn write(&self, batch: Batch, durability: Durability) -> Result<(), StorageError> {
        // Stores are written to on threads that may block.
        std::thread::sleep(self.takes);
        self.disk.write(batch, durability)
    }

    fn failure(&self) -> Option<StorageError> {
        self.disk.failure()
    }

    fn flush(&self) -> Result<(), StorageError> {
        self.disk.flush()
    }

    fn disk_bytes(&self) -> Result<u64, StorageError> {
        self.disk.disk_bytes()
    }

    fn image(&self) -> Result<Box<dyn Image>, StorageError> {
        self.disk.image()
    }

    fn intake(&self, files: Vec<ImageFile>) -> Result<Box<dyn Intake>, StorageError> {
        self.disk.intake(files)
    }

    fn forget_arrivals(&self) -> Result<(), StorageError> {
        self.disk.forget_arrivals()
    }
}
