//! The rows of a rebuild's evidence, in a store of their own.
//!
//! Owns: their bytes, and where the store lies. Always holds: it is begun empty, is never synced and goes when the rebuild
//! ends, since nodes show everything again; so its bytes are no format that a later program has to read.
//! Leaves to others: what is believed (`coordinator/logic`), the store itself (`storage`).
//!
//! | table | key | value |
//! |---|---|---|
//! | headers | bundle, coding | both headers |
//! | codings | bundle, coding | k, how many indexes there are, indexes shown, statements of majorities |
//! | holders | bundle, coding, node | indexes |
//! | history | length of the ledger and time at the commit, and number (big-endian), bundle | nothing |

use std::sync::Arc;

use firn_base::{BundleId, CodingId, NodeId, ShardIndex, Timestamp};
use firn_coordinator_logic::{CodingName, CommitOrder, EvidenceBook, Showing, ShownCoding, ShownHeaders};
use firn_wire::{Certificate, decode, encode};

use crate::storage::{
    Batch, Durability, KeyRange, KeyValue, Memory, ScanLimit, StorageError, StoreKind, Table,
};

const ID_BYTES: usize = 32;
const ORDER_BYTES: usize = 8 + 8 + 4 + ID_BYTES;
/// Holders of one coding that are read at a time.
const HOLDERS_AT_ONCE: usize = 4_096;
/// Codings of one bundle: one for each k at most.
const CODINGS_MAX: usize = 16;

/// Where evidence lies while an archive is rebuilt.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum EvidencePlace {
    /// In memory.
    #[default]
    Memory,
    /// In a directory, which is made and removed.
    #[cfg(feature = "rocksdb")]
    Directory(std::path::PathBuf),
}

impl EvidencePlace {
    /// An empty store; what was there is removed. Blocks on the disk.
    pub(crate) fn begin(&self) -> Result<StoreBook, StorageError> {
        self.clear()?;
        let store: Arc<dyn KeyValue> = match self {
            Self::Memory => Arc::new(Memory::new(StoreKind::Evidence)),
            #[cfg(feature = "rocksdb")]
            Self::Directory(path) => Arc::new(crate::storage::RocksDb::open(path, StoreKind::Evidence)?),
        };
        Ok(StoreBook { store })
    }

    /// Removes what is there. Blocks on the disk.
    pub(crate) fn clear(&self) -> Result<(), StorageError> {
        match self {
            Self::Memory => Ok(()),
            #[cfg(feature = "rocksdb")]
            Self::Directory(path) => match std::fs::remove_dir_all(path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
                _ => Ok(()),
            },
        }
    }
}

/// The rows in a store.
#[derive(Debug, Clone)]
pub(crate) struct StoreBook {
    store: Arc<dyn KeyValue>,
}

impl EvidenceBook for StoreBook {
    type Error = StorageError;

    fn coding(&self, name: CodingName) -> Result<Option<ShownCoding>, StorageError> {
        let Some(bytes) = self.store.get(Table::EvidenceCodings, &name_key(name))? else { return Ok(None) };
        let (k, indexes_max, indexes, claims): (u8, u8, Vec<u8>, Vec<Certificate>) = read(&bytes)?;
        let indexes = indexes.into_iter().map(ShardIndex).collect();
        Ok(Some(ShownCoding { k, indexes_max, indexes, claims }))
    }

    fn headers(&self, name: CodingName) -> Result<Option<ShownHeaders>, StorageError> {
        let Some(bytes) = self.store.get(Table::EvidenceHeaders, &name_key(name))? else { return Ok(None) };
        let (content, coding) = read(&bytes)?;
        Ok(Some(ShownHeaders { content, coding }))
    }

    fn holders(&self, name: CodingName) -> Result<Vec<(NodeId, Vec<ShardIndex>)>, StorageError> {
        let mut holders = Vec::new();
        let mut range = KeyRange::prefix(name_key(name));
        loop {
            let limit = ScanLimit::entries(HOLDERS_AT_ONCE);
            let rows = self.store.scan(Table::EvidenceHolders, &range, limit)?;
            for row in &rows {
                holders.push(read_holder(row)?);
            }
            match rows.last() {
                Some((last, _)) if rows.len() == HOLDERS_AT_ONCE => {
                    range.from = [last.as_slice(), &[0]].concat();
                }
                _ => return Ok(holders),
            }
        }
    }

    fn codings_of(&self, bundle: BundleId) -> Result<Vec<CodingId>, StorageError> {
        let range = KeyRange::prefix(*bundle.as_bytes());
        let rows = self.store.scan(Table::EvidenceCodings, &range, ScanLimit::entries(CODINGS_MAX))?;
        let read = |(key, _): &(Vec<u8>, Vec<u8>)| Ok(CodingId::from_bytes(array_at(key, ID_BYTES)?));
        rows.iter().map(read).collect()
    }

    fn history(&self, after: Option<CommitOrder>, limit: usize) -> Result<Vec<CommitOrder>, StorageError> {
        let from = after.map_or_else(Vec::new, |after| [order_key(after).as_slice(), &[0]].concat());
        let range = KeyRange::starting_at(from);
        let rows = self.store.scan(Table::EvidenceHistory, &range, ScanLimit::entries(limit))?;
        rows.iter().map(|(key, _)| read_order(key)).collect()
    }

    fn add(&mut self, showing: Showing) -> Result<(), StorageError> {
        let Showing { name, known, headers, order, holder: (node, indexes) } = showing;
        let key = name_key(name);
        let mut batch = Batch::new();
        if let Some(ShownCoding { k, indexes_max, indexes, claims }) = known {
            let indexes: Vec<u8> = indexes.into_iter().map(|index| index.0).collect();
            batch.put(Table::EvidenceCodings, key, encode(&(k, indexes_max, indexes, claims)));
        }
        if let Some(ShownHeaders { content, coding }) = headers {
            batch.put(Table::EvidenceHeaders, key, encode(&(content, coding)));
        }
        if let Some(order) = order {
            batch.put(Table::EvidenceHistory, order_key(order), []);
        }
        let indexes: Vec<u8> = indexes.into_iter().map(|index| index.0).collect();
        batch.put(Table::EvidenceHolders, [key.as_slice(), node.as_bytes()].concat(), indexes);
        self.store.write(batch, Durability::Buffered)
    }
}

fn name_key(name: CodingName) -> [u8; 2 * ID_BYTES] {
    let mut key = [0; 2 * ID_BYTES];
    key[..ID_BYTES].copy_from_slice(name.bundle.as_bytes());
    key[ID_BYTES..].copy_from_slice(name.coding.as_bytes());
    key
}

fn order_key(order: CommitOrder) -> [u8; ORDER_BYTES] {
    let mut key = [0; ORDER_BYTES];
    key[..8].copy_from_slice(&order.ledger_entries.to_be_bytes());
    key[8..16].copy_from_slice(&order.committed_at.as_millis().to_be_bytes());
    key[16..20].copy_from_slice(&order.number.to_be_bytes());
    key[20..].copy_from_slice(order.bundle.as_bytes());
    key
}

fn read_order(key: &[u8]) -> Result<CommitOrder, StorageError> {
    Ok(CommitOrder {
        ledger_entries: u64::from_be_bytes(array_at(key, 0)?),
        committed_at: Timestamp::from_millis(u64::from_be_bytes(array_at(key, 8)?)),
        number: u32::from_be_bytes(array_at(key, 16)?),
        bundle: BundleId::from_bytes(array_at(key, 20)?),
    })
}

fn read_holder((key, value): &(Vec<u8>, Vec<u8>)) -> Result<(NodeId, Vec<ShardIndex>), StorageError> {
    let node = NodeId::from_bytes(array_at(key, 2 * ID_BYTES)?);
    Ok((node, value.iter().copied().map(ShardIndex).collect()))
}

fn array_at<const N: usize>(bytes: &[u8], from: usize) -> Result<[u8; N], StorageError> {
    bytes.get(from..).and_then(|rest| rest.first_chunk()).copied().ok_or_else(damaged)
}

fn read<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<T, StorageError> {
    decode(bytes).map_err(|_| damaged())
}

fn damaged() -> StorageError {
    StorageError::corrupted("a row of a rebuild's evidence is malformed".to_owned())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use firn_base::{BundleNumber, PublicKey};
    use firn_coordinator_logic::MemoryBook;

    use super::*;

    fn id(byte: u8) -> [u8; ID_BYTES] {
        [byte; ID_BYTES]
    }

    fn name(bundle: u8, coding: u8) -> CodingName {
        CodingName { bundle: BundleId::from_bytes(id(bundle)), coding: CodingId::from_bytes(id(coding)) }
    }

    fn showing(bundle: u8, coding: u8, node: u8, indexes: &[u8]) -> Showing {
        let name = name(bundle, coding);
        let claim = Certificate {
            bundle: name.bundle,
            coding: name.coding,
            n: 6,
            number: BundleNumber(bundle.into()),
            uploader: PublicKey::from_bytes(id(3)),
            committed_at: Timestamp::from_millis(1_000 - u64::from(bundle)),
            ledger_entries: 4,
            externals: Vec::new(),
        };
        let indexes: Vec<ShardIndex> = indexes.iter().copied().map(ShardIndex).collect();
        Showing {
            name,
            order: Some(CommitOrder {
                ledger_entries: claim.ledger_entries,
                committed_at: claim.committed_at,
                number: claim.number.0,
                bundle: name.bundle,
            }),
            known: Some(ShownCoding {
                k: 2,
                indexes_max: 200,
                indexes: indexes.iter().copied().collect(),
                claims: vec![claim],
            }),
            headers: Some(ShownHeaders { content: vec![bundle; 9], coding: vec![coding; 7] }),
            holder: (NodeId::from_bytes(id(node)), indexes),
        }
    }

    /// All that a book says, as a set where its order says nothing.
    fn says<B: EvidenceBook<Error: std::fmt::Debug>>(book: &B) -> String {
        let mut said = String::new();
        let mut after = None;
        loop {
            let page = book.history(after, 2).unwrap();
            let Some(last) = page.last() else { return said };
            after = Some(*last);
            for order in page {
                for coding in book.codings_of(order.bundle).unwrap() {
                    let name = CodingName { bundle: order.bundle, coding };
                    let holders: BTreeSet<_> = book.holders(name).unwrap().into_iter().collect();
                    let rows = (order, book.coding(name).unwrap(), book.headers(name).unwrap(), holders);
                    said.push_str(&format!("{rows:?}\n"));
                }
            }
        }
    }

    fn tell<B: EvidenceBook<Error: std::fmt::Debug>>(book: &mut B) {
        for number in 0..40 {
            book.add(showing(number / 4, number % 3, number, &[number, number % 7])).unwrap();
        }
        // A node's later word replaces its earlier one, and leaves the rest as it is.
        let later = Showing { known: None, headers: None, order: None, ..showing(1, 1, 4, &[9]) };
        book.add(later).unwrap();
    }

    fn assert_like_the_one_in_memory(mut book: StoreBook) {
        let mut memory = MemoryBook::default();
        tell(&mut memory);
        tell(&mut book);
        assert_eq!(says(&book), says(&memory));
        assert_eq!(says(&book).lines().count(), 30);
        assert_eq!(book.coding(name(99, 0)).unwrap(), None);
    }

    #[test]
    fn the_rows_in_a_store_are_those_of_the_book_in_memory() {
        assert_like_the_one_in_memory(EvidencePlace::Memory.begin().unwrap());
    }

    #[cfg(feature = "rocksdb")]
    #[test]
    fn a_directory_is_begun_empty_and_cleared() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("evidence");
        let evidence = EvidencePlace::Directory(path.clone());
        assert_like_the_one_in_memory(evidence.begin().unwrap());
        assert_eq!(says(&evidence.begin().unwrap()), "", "what a killed process left counts no more");
        evidence.clear().unwrap();
        assert!(!path.exists());
        evidence.clear().unwrap();
    }
}
