//! Where a coordinator keeps its log and its state: ordered tables of bytes.
//!
//! Owns: the trait both are written against, its two implementations, and the one conformance suite that both
//! pass. Always holds: a batch is there as a whole or not at all; what was written [`Durability::Synced`], and
//! everything written before it, survives the loss of power; batches are lost only from the end.
//! Leaves to others: what the bytes mean (`raft`).

mod batch;
#[cfg(test)]
mod conformance;
mod error;
mod image;
mod memory;
mod memory_image;
#[cfg(feature = "rocksdb")]
mod rocks;
#[cfg(feature = "rocksdb")]
mod rocks_image;
#[cfg(feature = "rocksdb")]
mod rocks_options;
mod table;

use std::fmt::Debug;

pub use batch::{Batch, Operation};
pub use error::StorageError;
pub use image::{
    IMAGE_BYTES_MAX, IMAGE_FILES_MAX, IMAGE_PIECE_BYTES, Image, ImageFile, Intake, copy_image, lacking,
};
pub use memory::{Fault, Memory};
#[cfg(feature = "rocksdb")]
pub use rocks::RocksDb;
pub use table::{StoreKind, Table};

/// Whether a write waits for the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// Return once this batch and all before it are on disk.
    Synced,
    /// Return once it can be read; the loss of power may take it and what follows.
    Buffered,
}

/// Keys from `from` up to, without, `to`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct KeyRange {
    /// The first key of the range.
    pub from: Vec<u8>,
    /// The first key behind it; none for the end of the table.
    pub to: Option<Vec<u8>>,
}

/// How much one scan returns at most: it stops behind the entry that reaches either limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScanLimit {
    /// Entries.
    pub entries: usize,
    /// Bytes of keys and values together.
    pub bytes: usize,
}

/// A key with its value.
pub type Entry = (Vec<u8>, Vec<u8>);

/// Reading: a store as it is now, or an [`Image`] of it.
pub trait Read: Debug + Send + Sync {
    /// Shows `see` the value of `key` where it lies, if there is one: much of what is read is looked at once.
    fn look(&self, table: Table, key: &[u8], see: &mut dyn FnMut(&[u8])) -> Result<(), StorageError>;

    /// Shows `see` the values of those of `keys` that are there, each with its place among them, in their order.
    fn look_all(
        &self,
        table: Table,
        keys: &[&[u8]],
        see: &mut dyn FnMut(usize, &[u8]),
    ) -> Result<(), StorageError> {
        keys.iter()
            .enumerate()
            .try_for_each(|(place, key)| self.look(table, key, &mut |value| see(place, value)))
    }

    /// The value of `key`.
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StorageError> {
        let mut found = None;
        self.look(table, key, &mut |value| found = Some(value.to_vec()))?;
        Ok(found)
    }

    /// Entries of `range` in ascending order, at least one where there is one.
    fn scan(&self, table: Table, range: &KeyRange, limit: ScanLimit) -> Result<Vec<Entry>, StorageError>;

    /// The entry with the greatest key of `range`.
    fn last(&self, table: Table, range: &KeyRange) -> Result<Option<Entry>, StorageError>;
}

/// An ordered store of bytes in tables. Every call may block on a disk: none belongs on an async thread except
/// reads that are expected in the cache.
pub trait KeyValue: Read {
    /// Which tables it has.
    fn kind(&self) -> StoreKind;

    /// Carries out a batch as a whole.
    fn write(&self, batch: Batch, durability: Durability) -> Result<(), StorageError>;

    /// Why it takes no more writes: the first that failed. None while it takes them.
    fn failure(&self) -> Option<StorageError>;

    /// Returns once everything written so far survives the loss of power.
    fn flush(&self) -> Result<(), StorageError>;

    /// Bytes that it takes on disk now.
    fn disk_bytes(&self) -> Result<u64, StorageError>;

    /// The store as it is now, unmoved by later writes, to be read and to be given away.
    fn image(&self) -> Result<Box<dyn Image>, StorageError>;

    /// Begins to take in the files of another store's image, or goes on with what is here of them.
    fn intake(&self, files: Vec<ImageFile>) -> Result<Box<dyn Intake>, StorageError>;

    /// Removes what has arrived of an image that is not needed any more.
    fn forget_arrivals(&self) -> Result<(), StorageError>;
}

/// New contents for a whole store, unseen until they are installed. Dropping it without [`Self::install`] leaves the
/// store as it was.
pub trait Stage: Read {
    /// Adds a batch.
    fn write(&mut self, batch: Batch) -> Result<(), StorageError>;

    /// Puts the gathered contents in place of the store's, durably and at one stroke.
    fn install(self: Box<Self>) -> Result<(), StorageError>;
}

impl KeyRange {
    /// The whole table.
    pub const fn all() -> Self {
        Self { from: Vec::new(), to: None }
    }

    /// From `from` to the end.
    pub fn starting_at(from: impl Into<Vec<u8>>) -> Self {
        Self { from: from.into(), to: None }
    }

    /// All keys that begin with `prefix`.
    pub fn prefix(prefix: impl Into<Vec<u8>>) -> Self {
        let from = prefix.into();
        let to = after_prefix(&from);
        Self { from, to }
    }

    /// Whether `key` lies in the range.
    pub fn contains(&self, key: &[u8]) -> bool {
        key >= self.from.as_slice() && self.to.as_ref().is_none_or(|to| key < to.as_slice())
    }
}

impl ScanLimit {
    /// At most `entries`, whatever their size: for tables of small records.
    pub const fn entries(entries: usize) -> Self {
        Self { entries, bytes: usize::MAX }
    }
}

/// The key that follows all keys beginning with `prefix`; none if the table's end does.
fn after_prefix(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|byte| *byte < u8::MAX)?;
    let mut next = prefix.get(..=last)?.to_vec();
    if let Some(byte) = next.last_mut() {
        *byte = byte.saturating_add(1);
    }
    Some(next)
}
