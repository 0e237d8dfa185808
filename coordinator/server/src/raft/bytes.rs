//! Fixed little-endian bytes: writing them, and reading them without believing a length.

use crate::storage::StorageError;

// Leads every record, so that a later program can read earlier ones.
const VERSION: u8 = 1;

/// Bytes being written.
#[derive(Debug)]
pub(super) struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    /// A record: its version comes first.
    pub(super) fn record() -> Self {
        Self::record_of(VERSION)
    }

    /// A record of a later version.
    pub(super) fn record_of(version: u8) -> Self {
        Self { bytes: vec![version] }
    }

    pub(super) fn u8(mut self, value: u8) -> Self {
        self.bytes.push(value);
        self
    }

    pub(super) fn flag(self, value: bool) -> Self {
        self.u8(u8::from(value))
    }

    pub(super) fn u16(self, value: u16) -> Self {
        self.raw(&value.to_le_bytes())
    }

    pub(super) fn u32(self, value: u32) -> Self {
        self.raw(&value.to_le_bytes())
    }

    pub(super) fn u64(self, value: u64) -> Self {
        self.raw(&value.to_le_bytes())
    }

    /// Bytes whose number the reader knows.
    pub(super) fn raw(mut self, bytes: &[u8]) -> Self {
        self.bytes.extend_from_slice(bytes);
        self
    }

    /// Bytes behind their number.
    pub(super) fn blob(self, bytes: &[u8]) -> Self {
        self.count(bytes.len()).raw(bytes)
    }

    /// A list behind its length.
    pub(super) fn list<T>(self, items: &[T], write: impl FnMut(Self, &T) -> Self) -> Self {
        let counted = self.count(items.len());
        items.iter().fold(counted, write)
    }

    fn count(self, count: usize) -> Self {
        self.u32(u32::try_from(count).expect("no part of a record comes near 4 GiB"))
    }

    pub(super) fn finish(self) -> Vec<u8> {
        self.bytes
    }
}

/// Bytes being read.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    what: &'static str,
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Reads a record, which errors call `what`.
    pub(super) fn record(what: &'static str, bytes: &'a [u8]) -> Result<Self, StorageError> {
        Self::record_up_to(VERSION, what, bytes).map(|(_, reader)| reader)
    }

    /// Reads a record that has versions up to `newest`; gives the version with it.
    pub(super) fn record_up_to(
        newest: u8,
        what: &'static str,
        bytes: &'a [u8],
    ) -> Result<(u8, Self), StorageError> {
        let mut reader = Self::bare(what, bytes);
        match reader.u8()? {
            0 => Err(reader.damaged()),
            version if version <= newest => Ok((version, reader)),
            newer => Err(StorageError::of_version(&format!("a {what} record"), newer, newest)),
        }
    }

    /// Reads bytes without a version: keys.
    pub(super) const fn bare(what: &'static str, bytes: &'a [u8]) -> Self {
        Self { what, rest: bytes }
    }

    pub(super) fn u8(&mut self) -> Result<u8, StorageError> {
        let [byte] = self.array()?;
        Ok(byte)
    }

    pub(super) fn flag(&mut self) -> Result<bool, StorageError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(self.damaged()),
        }
    }

    pub(super) fn u16(&mut self) -> Result<u16, StorageError> {
        self.array().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, StorageError> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, StorageError> {
        self.array().map(u64::from_le_bytes)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], StorageError> {
        let (array, rest) = self.rest.split_first_chunk().ok_or_else(|| self.damaged())?;
        self.rest = rest;
        Ok(*array)
    }

    /// Bytes whose number is known.
    pub(super) fn raw(&mut self, count: usize) -> Result<&'a [u8], StorageError> {
        let (bytes, rest) = self.rest.split_at_checked(count).ok_or_else(|| self.damaged())?;
        self.rest = rest;
        Ok(bytes)
    }

    pub(super) fn blob(&mut self) -> Result<&'a [u8], StorageError> {
        let count = usize::try_from(self.u32()?).map_err(|_| self.damaged())?;
        self.raw(count)
    }

    pub(super) fn text(&mut self) -> Result<String, StorageError> {
        String::from_utf8(self.blob()?.to_vec()).map_err(|_| self.damaged())
    }

    /// A list of items of at least `item_bytes_min` bytes each: it cannot claim more than the bytes hold.
    pub(super) fn list<T>(
        &mut self,
        item_bytes_min: usize,
        mut read: impl FnMut(&mut Self) -> Result<T, StorageError>,
    ) -> Result<Vec<T>, StorageError> {
        let count = usize::try_from(self.u32()?).map_err(|_| self.damaged())?;
        if count.checked_mul(item_bytes_min).is_none_or(|bytes| bytes > self.rest.len()) {
            return Err(self.damaged());
        }
        (0..count).map(|_| read(self)).collect()
    }

    /// Checks that nothing is left.
    pub(super) fn finish(&self) -> Result<(), StorageError> {
        if self.rest.is_empty() { Ok(()) } else { Err(self.damaged()) }
    }

    pub(super) fn damaged(&self) -> StorageError {
        StorageError::corrupted(format!("a {} record is malformed", self.what))
    }
}
