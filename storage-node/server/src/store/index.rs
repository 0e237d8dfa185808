//! The index of shards: what their headers say, so that a start need not read them.
//!
//! Always holds: which shards are here is what the directories say and nothing else. A record is of a coding, whose id fixes
//! its bundle and the length of its files: it may be missing or damaged, but not out of date. What is missing, damaged or
//! contradicted by a file is read from the file's header, and mended later. Storing a shard does not wait for it: whatever a
//! power cut leaves of the index is right, or is noticed.
//! Leaves to others: when it is mended (`storage-node/logic`).

use std::collections::BTreeSet;
use std::io;
use std::sync::atomic::Ordering;
use std::sync::{MutexGuard, PoisonError};

use firn_base::{BundleId, CodingId, ShardIndex};
use firn_storage_node_logic::{INDEX_RECORD_BYTES, IndexCare, IndexCounts};

use super::disk::{Disk, DiskFile, read_exact_at};
use super::name::{INDEX, SHARDS, ShardName};
use super::shard_store::{ShardStore, Shelf};

const RECORD_BYTES: usize = 80;
const _: () = assert!(RECORD_BYTES as u64 == INDEX_RECORD_BYTES, "a record has the room that is kept for it");

// What a record's check covers.
const CHECKED_BYTES: usize = 72;

// Names the layout: a record of another one is none.
const CHECK_CONTEXT: &str = "firn shard index 1";

// Records read at once.
const PIECE_RECORDS: u64 = 4096;

/// What the headers of a coding's shards say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct IndexRecord {
    pub(super) coding: CodingId,
    pub(super) bundle: BundleId,
    /// Bytes of each of its shard files.
    pub(super) file_bytes: u64,
}

/// What is known of the index on the disk.
#[derive(Debug, Default)]
pub(super) struct Index {
    // Records of whatever kind. The next one goes behind them.
    records: u64,
    is_wrong: bool,
    missing: BTreeSet<CodingId>,
    // Whether it was said that the quota has no room for all of it.
    is_told: bool,
}

/// What is to be written of the index.
#[derive(Debug)]
struct Mending {
    begin: u64,
    bytes: Vec<u8>,
    // Codings that have no record afterwards: there is no room for it, or their first shard is not named yet.
    left: BTreeSet<CodingId>,
}

/// The index as it was found at start.
#[derive(Debug)]
pub(super) struct FoundIndex {
    pub(super) index: Index,
    /// Bytes of its file.
    pub(super) bytes: u64,
    codings: Vec<CodingId>,
    said: Vec<Option<IndexRecord>>,
}

impl IndexRecord {
    fn to_bytes(self) -> [u8; RECORD_BYTES] {
        let mut bytes = [0; RECORD_BYTES];
        bytes[..32].copy_from_slice(self.coding.as_bytes());
        bytes[32..64].copy_from_slice(self.bundle.as_bytes());
        bytes[64..CHECKED_BYTES].copy_from_slice(&self.file_bytes.to_le_bytes());
        let check = check_of(&bytes[..CHECKED_BYTES]);
        bytes[CHECKED_BYTES..].copy_from_slice(&check);
        bytes
    }

    /// Reads a record; none if it is damaged, or of another layout.
    fn parse(bytes: &[u8; RECORD_BYTES]) -> Option<Self> {
        let (coding, rest) = bytes.split_first_chunk::<32>()?;
        let (bundle, rest) = rest.split_first_chunk::<32>()?;
        let (file_bytes, check) = rest.split_first_chunk::<8>()?;
        (check == check_of(&bytes[..CHECKED_BYTES])).then(|| Self {
            coding: CodingId::from_bytes(*coding),
            bundle: BundleId::from_bytes(*bundle),
            file_bytes: u64::from_le_bytes(*file_bytes),
        })
    }
}

fn check_of(checked: &[u8]) -> [u8; RECORD_BYTES - CHECKED_BYTES] {
    let mut check = [0; RECORD_BYTES - CHECKED_BYTES];
    blake3::Hasher::new_derive_key(CHECK_CONTEXT).update(checked).finalize_xof().fill(&mut check);
    check
}

impl Mending {
    /// Bytes of the index afterwards.
    const fn end(&self) -> u64 {
        self.begin + self.bytes.len() as u64
    }
}

impl Index {
    /// What is to be written now, if anything, of an index of what is on `shelf`.
    fn mending(&mut self, shelf: &Shelf) -> Option<Mending> {
        self.missing.retain(|coding| {
            (shelf.holds_any(*coding) || shelf.is_writing_any(*coding)) && !shelf.is_any_unlisted(*coding)
        });
        let counts = IndexCounts {
            records: self.records,
            is_wrong: self.is_wrong,
            missing: self.missing.len() as u64,
            codings: shelf.index_records().count() as u64,
        };
        let care = counts.care();
        let begin = match care {
            IndexCare::Nothing => return None,
            IndexCare::Append => self.records * INDEX_RECORD_BYTES,
            IndexCare::Rewrite => 0,
        };
        // Shards come first. Any part of an index is a right one: of the others the next start reads the headers.
        let bytes_max = shelf.account.index_bytes_max();
        let records_max = bytes_max.saturating_sub(begin) / INDEX_RECORD_BYTES;
        if care == IndexCare::Append && records_max == 0 {
            self.tell_left(self.missing.len());
            return None;
        }
        let is_wanted = |coding: CodingId| begin == 0 || self.missing.contains(&coding);
        let (mut records, mut bytes, mut left) = (0, Vec::new(), BTreeSet::new());
        for record in shelf.index_records().filter(|record| is_wanted(record.coding)) {
            if records < records_max {
                records += 1;
                bytes.extend(record.to_bytes());
            } else {
                left.insert(record.coding);
            }
        }
        // A record that was written before its shard is on the shelf goes with what is written anew.
        let unnamed = shelf.writing.iter().map(|name| name.coding);
        let unnamed: Vec<CodingId> =
            unnamed.filter(|coding| is_wanted(*coding) && !shelf.holds_any(*coding)).collect();
        self.tell_left(left.len());
        left.extend(unnamed);
        let is_idle = care == IndexCare::Append && bytes.is_empty();
        (!is_idle).then_some(Mending { begin, bytes, left })
    }

    /// Says, once, for how many codings the quota has no room.
    fn tell_left(&mut self, codings: usize) {
        if codings > 0 && !self.is_told {
            tracing::warn!(
                codings,
                "the quota has no room for these in the index of shards: the next start reads their headers"
            );
        }
        self.is_told = codings > 0;
    }
}

impl FoundIndex {
    /// What the index on `disk` says of `codings`, which are in order, each once. One that cannot be read says nothing.
    pub(super) fn read(disk: &dyn Disk, codings: Vec<CodingId>) -> Self {
        let said = vec![None; codings.len()];
        let mut found = Self { index: Index::default(), bytes: 0, codings, said };
        match found.read_records(disk) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                tracing::warn!(%error, "the index of shards cannot be read: their headers are read instead");
                found.index.is_wrong = true;
            }
        }
        found
    }

    /// What it says of `coding`.
    pub(super) fn of(&self, coding: CodingId) -> Option<IndexRecord> {
        let place = self.codings.binary_search(&coding).ok()?;
        self.said.get(place).copied().flatten()
    }

    /// A shard of `coding` is here, and its header says something else than the index, or the index nothing. Nothing that the
    /// index says of that coding is believed from here on.
    pub(super) fn correct(&mut self, coding: CodingId) {
        let said = self.codings.binary_search(&coding).ok().and_then(|place| self.said.get_mut(place));
        let is_contradicted = said.and_then(Option::take).is_some();
        self.index.is_wrong |= is_contradicted;
        self.index.missing.insert(coding);
    }

    fn read_records(&mut self, disk: &dyn Disk) -> io::Result<()> {
        let file = disk.open(INDEX)?;
        self.bytes = file.bytes()?;
        self.index.records = self.bytes / INDEX_RECORD_BYTES;
        // The end of one that was being written.
        self.index.is_wrong = !self.bytes.is_multiple_of(INDEX_RECORD_BYTES);
        let mut piece = Vec::new();
        let mut read = 0;
        while read < self.index.records {
            let count = PIECE_RECORDS.min(self.index.records - read);
            piece.resize(usize::try_from(count * INDEX_RECORD_BYTES).map_err(io::Error::other)?, 0);
            read_exact_at(file.as_ref(), read * INDEX_RECORD_BYTES, &mut piece)?;
            for bytes in piece.as_chunks::<RECORD_BYTES>().0 {
                self.take(IndexRecord::parse(bytes));
            }
            read += count;
        }
        Ok(())
    }

    fn take(&mut self, record: Option<IndexRecord>) {
        let Some(record) = record else {
            self.index.is_wrong = true;
            return;
        };
        // Others are of shards that went.
        if let Ok(place) = self.codings.binary_search(&record.coding)
            && let Some(said) = self.said.get_mut(place)
        {
            *said = Some(record);
        }
    }
}

impl ShardStore {
    /// Notes what a shard that was just named says of its coding. What fails costs the next start the reading of a header.
    pub(super) fn note_in_index(&self, record: IndexRecord) {
        let is_due = {
            let shelf = self.shelf();
            // Noted with the first of them; or each start is to ask the files of its coding.
            !shelf.holds_any(record.coding) && !shelf.is_any_unlisted(record.coding)
        };
        if !is_due {
            return;
        }
        // Megabytes may be on their way to a slow disk: who stores a shard does not wait for them.
        if self.is_mending.load(Ordering::Acquire) {
            self.unnoted().insert(record.coding);
            return;
        }
        let mut index = self.index();
        let begin = index.records * INDEX_RECORD_BYTES;
        let written =
            self.disk.open_writable(INDEX).and_then(|file| file.write_at(begin, &record.to_bytes()));
        let mut bytes = begin + INDEX_RECORD_BYTES;
        match written {
            Ok(()) => {
                index.records += 1;
                index.missing.remove(&record.coding);
            }
            Err(error) => {
                tracing::debug!(%error, "a shard is not noted in the index");
                bytes = self.index_bytes().unwrap_or(bytes);
                index.missing.insert(record.coding);
            }
        }
        self.shelf().account.set_index(bytes);
    }

    /// The index contradicts a file, or may.
    pub(super) fn distrust_index(&self) {
        self.index().is_wrong = true;
    }

    /// Mends the index if there is need, as far as the quota has room for it. An index that is right and complete costs no
    /// access to the disk.
    ///
    /// # Errors
    ///
    /// The disk fails, or is gone. The index is mended the next time then.
    pub fn keep_index(&self) -> io::Result<()> {
        let mut index = self.index();
        index.missing.append(&mut self.unnoted());
        let (mending, before) = {
            let mut shelf = self.shelf();
            let Some(mending) = index.mending(&shelf) else { return Ok(()) };
            // The shelf is everybody's, and nobody waits with it for the disk: the account has the larger of both meanwhile.
            let before = shelf.account.index();
            shelf.account.set_index(before.max(mending.end()));
            (mending, before)
        };
        self.is_mending.store(true, Ordering::Release);
        let mended = self.mend_index(&mut index, mending, before);
        self.is_mending.store(false, Ordering::Release);
        mended
    }

    /// Writes what is due. `before`: the bytes of the index that is there.
    fn mend_index(&self, index: &mut Index, mending: Mending, before: u64) -> io::Result<()> {
        // Where the disk was nothing is written: `shards` may be an empty directory now.
        if let Err(error) = self.disk.check_presence() {
            self.shelf().account.set_index(before);
            return Err(error);
        }
        // In place of the old one, not beside it: half an index is none, but never too many bytes.
        let written = self.write_records(mending.begin, &mending.bytes);
        let end = match &written {
            Ok(_) => mending.end(),
            Err(_) => self.index_bytes().unwrap_or(before.max(mending.end())),
        };
        self.shelf().account.set_index(end);
        index.records = end / INDEX_RECORD_BYTES;
        // Until it is surely on the disk.
        index.is_wrong = true;
        written?.sync()?;
        self.disk.sync_directory(SHARDS)?;
        index.is_wrong = false;
        index.missing = mending.left;
        Ok(())
    }

    fn write_records(&self, begin: u64, bytes: &[u8]) -> io::Result<Box<dyn DiskFile>> {
        let file = if begin == 0 { self.disk.create(INDEX) } else { self.disk.open_writable(INDEX) }?;
        file.write_at(begin, bytes)?;
        Ok(file)
    }

    fn index_bytes(&self) -> io::Result<u64> {
        self.disk.open(INDEX)?.bytes()
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        // A thread that panicked with the lock has left an index that is written anew at worst.
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Codings that get their record when the index is mended next.
    pub(super) fn unnoted(&self) -> MutexGuard<'_, BTreeSet<CodingId>> {
        self.unnoted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shelf {
    /// What an index of everything here holds. Of a coding any shard says it: [`Self::learn_bundle`] keeps them alike. One of
    /// which a file is not listed has none: each start is to ask its files.
    fn index_records(&self) -> impl Iterator<Item = IndexRecord> {
        let mut before = None;
        let firsts =
            self.shards.iter().filter(move |(name, _)| before.replace(name.coding) != Some(name.coding));
        let firsts = firsts.filter(move |(name, _)| !self.is_any_unlisted(name.coding));
        firsts.map(|(name, held)| IndexRecord {
            coding: name.coding,
            bundle: held.bundle,
            file_bytes: held.bytes,
        })
    }

    /// Whether a shard of `coding` is being written.
    fn is_writing_any(&self, coding: CodingId) -> bool {
        let from = ShardName::new(coding, ShardIndex(0));
        self.writing.range(from..).next().is_some_and(|name| name.coding == coding)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use firn_base::{ByteCount, Timestamp};

    use super::super::shard_store::HeldShard;
    use super::*;
    use crate::store::MemoryDisk;

    fn record(seed: u8) -> IndexRecord {
        IndexRecord {
            coding: CodingId::from_bytes([seed; 32]),
            bundle: BundleId::from_bytes([seed + 1; 32]),
            file_bytes: 70_000,
        }
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn a_record_is_written_as_the_format_says_and_read_back() {
        let bytes = record(1).to_bytes();
        let golden = format!("{}{}7011010000000000", "01".repeat(32), "02".repeat(32));
        assert_eq!(hex(&bytes[..CHECKED_BYTES]), golden);
        let check = blake3::derive_key("firn shard index 1", &bytes[..CHECKED_BYTES]);
        assert_eq!(bytes[CHECKED_BYTES..], check[..8]);
        assert_eq!(IndexRecord::parse(&bytes), Some(record(1)));
    }

    #[test]
    fn a_record_with_any_bit_flipped_is_none() {
        for bit in 0..RECORD_BYTES * 8 {
            let mut bytes = record(1).to_bytes();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(IndexRecord::parse(&bytes), None, "bit {bit}");
        }
        assert_eq!(IndexRecord::parse(&[0; RECORD_BYTES]), None, "what a power cut may leave");
    }

    #[test]
    fn an_index_tells_what_is_here_and_notices_what_is_wrong_in_it() {
        let disk = MemoryDisk::new();
        disk.make_directory(SHARDS).unwrap();
        let file = disk.create(INDEX).unwrap();
        let all: Vec<u8> = (1..=3).flat_map(|seed| record(seed).to_bytes()).collect();
        file.write_at(0, &all).unwrap();
        let read = || FoundIndex::read(&disk, vec![record(2).coding, record(3).coding, record(9).coding]);
        let found = read();
        assert_eq!(
            (found.of(record(2).coding), found.of(record(3).coding)),
            (Some(record(2)), Some(record(3)))
        );
        assert_eq!((found.of(record(1).coding), found.of(record(9).coding)), (None, None));
        assert_eq!((found.index.records, found.index.is_wrong, found.bytes), (3, false, 240));
        assert!(disk.flip(INDEX, 100, 1));
        let found = read();
        assert_eq!((found.of(record(2).coding), found.of(record(3).coding)), (None, Some(record(3))));
        assert!(found.index.is_wrong);
        assert!(disk.flip(INDEX, 100, 1));
        file.write_at(240, &[7; 79]).unwrap();
        let found = read();
        assert_eq!((found.index.records, found.index.is_wrong, found.bytes), (3, true, 319));
    }

    #[test]
    fn a_shard_that_comes_while_the_index_is_mended_waits_for_nothing_and_has_its_record_the_next_time() {
        let disk = MemoryDisk::new();
        let now = Timestamp::from_millis(1);
        let (store, _) = ShardStore::open(Arc::new(disk.clone()), ByteCount(1 << 20), now).unwrap();
        store.is_mending.store(true, Ordering::Release);
        let being_mended = store.index();
        store.note_in_index(record(1));
        drop(being_mended);
        let IndexRecord { coding, bundle, file_bytes } = record(1);
        let name = ShardName::new(coding, ShardIndex(0));
        store.shelf().shards.insert(name, HeldShard { bytes: file_bytes, bundle });
        store.is_mending.store(false, Ordering::Release);
        assert!(disk.open(INDEX).is_err());
        store.keep_index().unwrap();
        assert_eq!(FoundIndex::read(&disk, vec![coding]).of(coding), Some(record(1)));
        assert_eq!(
            store.used(),
            ByteCount(INDEX_RECORD_BYTES),
            "of files only those count that were written"
        );
    }
}
