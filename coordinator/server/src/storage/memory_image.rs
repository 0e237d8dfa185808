//! The tables of a store in memory as files, so that simulations carry a state as real replicas do.
//!
//! A file is a table: for each entry the bytes of its key and of its value, as u32, then both.

use std::collections::BTreeMap;

use super::image::{check_files, check_piece};
use super::memory::{Memory, MemoryStage, MemoryView, Tables};
use super::{
    Entry, Image, ImageFile, Intake, KeyRange, KeyValue, Read, ScanLimit, Stage, StorageError, Table,
};

/// What has arrived, by hash: it lies on the disk.
pub(super) type Arrivals = BTreeMap<[u8; 32], Vec<u8>>;

/// A view that can be given away.
#[derive(Debug)]
pub(super) struct MemoryImage {
    view: MemoryView,
    files: Vec<ImageFile>,
    contents: Vec<Vec<u8>>,
}

/// Files that arrive.
#[derive(Debug)]
pub(super) struct MemoryIntake {
    store: Memory,
    files: Vec<ImageFile>,
}

impl MemoryImage {
    pub(super) fn new(view: MemoryView) -> Self {
        let contents: Vec<_> = view.tables().values().map(write_table).collect();
        let names = view.tables().keys().map(|table| table.name());
        let files = names.zip(&contents).map(|(name, contents)| ImageFile {
            name: name.to_owned(),
            bytes: u64::try_from(contents.len()).unwrap_or(u64::MAX),
            hash: *blake3::hash(contents).as_bytes(),
        });
        Self { files: files.collect(), contents, view }
    }
}

impl Read for MemoryImage {
    fn look(&self, table: Table, key: &[u8], see: &mut dyn FnMut(&[u8])) -> Result<(), StorageError> {
        self.view.look(table, key, see)
    }

    fn scan(&self, table: Table, range: &KeyRange, limit: ScanLimit) -> Result<Vec<Entry>, StorageError> {
        self.view.scan(table, range, limit)
    }

    fn last(&self, table: Table, range: &KeyRange) -> Result<Option<Entry>, StorageError> {
        self.view.last(table, range)
    }
}

impl Image for MemoryImage {
    fn files(&self) -> &[ImageFile] {
        &self.files
    }

    fn read_file(&self, file: usize, offset: u64, limit: usize) -> Result<Vec<u8>, StorageError> {
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        let rest = self.contents.get(file).and_then(|contents| contents.get(offset..));
        let rest = rest.ok_or_else(|| StorageError::Io("a file that this view does not have".into()))?;
        Ok(rest.iter().take(limit).copied().collect())
    }
}

impl MemoryIntake {
    pub(super) fn new(store: Memory, files: Vec<ImageFile>) -> Result<Self, StorageError> {
        check_files(&files, |name| table_of(&store, name).is_some())?;
        store.with_arrivals(|arrivals| {
            arrivals.retain(|hash, bytes| {
                let announced = files.iter().find(|file| file.hash == *hash);
                announced
                    .is_some_and(|file| u64::try_from(bytes.len()).is_ok_and(|length| length <= file.bytes))
            });
        })?;
        Ok(Self { store, files })
    }
}

impl Intake for MemoryIntake {
    fn held(&self) -> Vec<u64> {
        let held = self.store.with_arrivals(|arrivals| {
            let length = |file: &ImageFile| arrivals.get(&file.hash).map_or(0, Vec::len);
            self.files.iter().map(|file| u64::try_from(length(file)).unwrap_or(u64::MAX)).collect()
        });
        held.unwrap_or_else(|_| vec![0; self.files.len()])
    }

    fn write(&mut self, index: usize, offset: u64, bytes: &[u8]) -> Result<(), StorageError> {
        let held = self.held().get(index).copied();
        let (Some(file), Some(held)) = (self.files.get(index), held) else {
            return Err(StorageError::corrupted("a piece of a file that was not announced"));
        };
        check_piece(file, held, offset, bytes)?;
        self.store.with_arrivals(|arrivals| arrivals.entry(file.hash).or_default().extend_from_slice(bytes))
    }

    fn verify(&mut self) -> Result<bool, StorageError> {
        let files = &self.files;
        self.store.with_arrivals(|arrivals| {
            arrivals.retain(|hash, bytes| {
                let announced = files.iter().find(|file| file.hash == *hash);
                let is_whole = announced.is_some_and(|file| u64::try_from(bytes.len()) == Ok(file.bytes));
                !is_whole || blake3::hash(bytes).as_bytes() == hash
            });
            files.iter().all(|file| {
                file.bytes == 0
                    || arrivals
                        .get(&file.hash)
                        .is_some_and(|bytes| u64::try_from(bytes.len()) == Ok(file.bytes))
            })
        })
    }

    fn open(self: Box<Self>) -> Result<Box<dyn Stage>, StorageError> {
        let Self { store, files } = *self;
        let arrived = store.with_arrivals(std::mem::take)?;
        let mut tables = Tables::new();
        for file in &files {
            let damaged = || StorageError::corrupted(format!("the table {} that arrived", file.name));
            let table = table_of(&store, &file.name).ok_or_else(damaged)?;
            let contents = arrived.get(&file.hash).map(Vec::as_slice).unwrap_or_default();
            tables.insert(table, read_table(contents).ok_or_else(damaged)?);
        }
        Ok(Box::new(MemoryStage::new(store, tables)))
    }
}

fn table_of(store: &Memory, name: &str) -> Option<Table> {
    store.kind().tables().find(|table| table.name() == name)
}

fn write_table(entries: &BTreeMap<Vec<u8>, Vec<u8>>) -> Vec<u8> {
    let length =
        |bytes: &[u8]| u32::try_from(bytes.len()).expect("no key or value comes near 4 GiB").to_le_bytes();
    let mut contents = Vec::new();
    for (key, value) in entries {
        contents.extend_from_slice(&length(key));
        contents.extend_from_slice(&length(value));
        contents.extend_from_slice(key);
        contents.extend_from_slice(value);
    }
    contents
}

fn read_table(mut contents: &[u8]) -> Option<BTreeMap<Vec<u8>, Vec<u8>>> {
    let mut entries = BTreeMap::new();
    while !contents.is_empty() {
        let (key_bytes, rest) = contents.split_first_chunk::<4>()?;
        let (value_bytes, rest) = rest.split_first_chunk::<4>()?;
        let (key, rest) = rest.split_at_checked(usize::try_from(u32::from_le_bytes(*key_bytes)).ok()?)?;
        let (value, rest) = rest.split_at_checked(usize::try_from(u32::from_le_bytes(*value_bytes)).ok()?)?;
        entries.insert(key.to_vec(), value.to_vec());
        contents = rest;
    }
    Some(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_survives_its_file_and_a_damaged_one_is_none() {
        let entries: BTreeMap<_, _> =
            [(b"a".to_vec(), b"1".to_vec()), (b"".to_vec(), b"".to_vec()), (vec![0xff; 70], vec![7; 300])]
                .into();
        let contents = write_table(&entries);
        assert_eq!(read_table(&contents), Some(entries));
        assert_eq!(read_table(&contents[..contents.len() - 1]), None);
        assert_eq!(read_table(&[0xff; 9]), None);
    }
}
