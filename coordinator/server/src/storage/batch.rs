//! Changes that are carried out together.

use super::{KeyRange, Table};

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    /// Set a key.
    Put(Table, Vec<u8>, Vec<u8>),
    /// Remove a key; nothing happens if it is not there.
    Delete(Table, Vec<u8>),
    /// Remove the keys from the first up to, without, the second.
    DeleteRange(Table, Vec<u8>, Vec<u8>),
}

/// Changes in order: a later one sees the earlier ones done.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Batch {
    operations: Vec<Operation>,
    bytes: usize,
}

impl Batch {
    /// No change.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets `key` to `value`.
    pub fn put(&mut self, table: Table, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) {
        let (key, value) = (key.into(), value.into());
        self.bytes = self.bytes.saturating_add(key.len()).saturating_add(value.len());
        self.operations.push(Operation::Put(table, key, value));
    }

    /// Removes `key`.
    pub fn delete(&mut self, table: Table, key: impl Into<Vec<u8>>) {
        self.operations.push(Operation::Delete(table, key.into()));
    }

    /// Removes the keys of a range with two ends. An empty range changes nothing.
    pub fn delete_range(&mut self, table: Table, from: impl Into<Vec<u8>>, to: impl Into<Vec<u8>>) {
        let (from, to) = (from.into(), to.into());
        if from < to {
            self.operations.push(Operation::DeleteRange(table, from, to));
        }
    }

    /// The changes in order.
    pub fn operations(&self) -> &[Operation] {
        &self.operations
    }

    /// Bytes of all keys and values that it sets.
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether it changes nothing.
    pub fn is_empty(&self) -> bool {
        self.operations.is_empty()
    }
}

impl Operation {
    /// The table it changes.
    pub const fn table(&self) -> Table {
        match self {
            Self::Put(table, ..) | Self::Delete(table, ..) | Self::DeleteRange(table, ..) => *table,
        }
    }
}

impl From<(Vec<u8>, Vec<u8>)> for KeyRange {
    fn from((from, to): (Vec<u8>, Vec<u8>)) -> Self {
        Self { from, to: Some(to) }
    }
}
