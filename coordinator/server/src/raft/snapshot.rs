//! A snapshot: the whole state on its way to a replica that lags too far behind for the log.
//!
//! The state is kept on disk by itself, so a snapshot needs no file: building one flushes the state, sending one
//! reads a view of it. It travels in parts of whole entries, each
//!
//! | bytes | field |
//! |---|---|
//! | 1 | number of the table |
//! | 4 | bytes of the key |
//! | 4 | bytes of the value |
//! | … | key, value |
//!
//! in order of tables and keys, behind a first part of 10 bytes, magic `firnsnap` and version 1. At the end follow
//! the number of entries and BLAKE3 over all parts. Always holds: a state that did not arrive whole, in order and
//! with the right sum is never installed.

use std::sync::Arc;

use super::keys;
use super::state_machine::check_format;
use super::types::{LogId, SnapshotMeta};
use crate::storage::{Batch, KeyRange, KeyValue, Read, ScanLimit, Stage, StorageError, StoreKind, Table};

const MAGIC: &[u8; 8] = b"firnsnap";
const VERSION: u16 = 1;

// A part is this large, or as its one entry.
const PART: ScanLimit = ScanLimit { entries: 16_384, bytes: 1 << 20 };

/// A state to be sent or installed.
#[derive(Debug)]
pub(crate) enum StateImage {
    /// The state of this replica, read when it is sent.
    Here(Arc<dyn KeyValue>),
    /// A state that arrived whole and was checked.
    Arrived(Box<dyn Stage>),
}

/// What must be said at the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) struct Trailer {
    pub(super) entries: u64,
    pub(super) sum: [u8; 32],
}

/// Why parts are no snapshot, or could not be taken.
#[derive(Debug, thiserror::Error)]
pub(super) enum ImportError {
    #[error("the snapshot is damaged or of another version")]
    Damaged,
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// A state being cut into parts.
#[derive(Debug)]
pub(super) struct Export {
    view: Box<dyn Read>,
    tables: Vec<Table>,
    range: KeyRange,
    began: bool,
    entries: u64,
    hasher: blake3::Hasher,
}

/// A state being put together.
#[derive(Debug)]
pub(super) struct Import {
    stage: Box<dyn Stage>,
    began: bool,
    last: Option<(u8, Vec<u8>)>,
    entries: u64,
    hasher: blake3::Hasher,
}

/// The name of the snapshot up to `log_id`: the same on every replica.
pub(super) fn snapshot_id(log_id: Option<LogId>) -> String {
    log_id.map_or_else(|| "empty".to_owned(), |id| format!("{}-{}", id.leader_id.term, id.index))
}

impl Export {
    pub(super) fn new(view: Box<dyn Read>) -> Self {
        // The last table is at the end: they are taken from there.
        let mut tables: Vec<_> = StoreKind::State.tables().collect();
        tables.reverse();
        Self { view, tables, range: KeyRange::all(), began: false, entries: 0, hasher: blake3::Hasher::new() }
    }

    pub(super) fn view(&self) -> &dyn Read {
        &*self.view
    }

    /// The next part; none at the end.
    pub(super) fn next_part(&mut self) -> Result<Option<Vec<u8>>, StorageError> {
        if !self.began {
            self.began = true;
            let part = [MAGIC.as_slice(), &VERSION.to_le_bytes()].concat();
            self.hasher.update(&part);
            return Ok(Some(part));
        }
        while let Some(table) = self.tables.last().copied() {
            let entries = self.view.scan(table, &self.range, PART)?;
            let Some((last, _)) = entries.last() else {
                self.tables.pop();
                self.range = KeyRange::all();
                continue;
            };
            self.range = KeyRange::starting_at(keys::behind(last));
            let mut part = Vec::new();
            for (key, value) in &entries {
                part.push(table.number());
                part.extend_from_slice(&length(key).to_le_bytes());
                part.extend_from_slice(&length(value).to_le_bytes());
                part.extend_from_slice(key);
                part.extend_from_slice(value);
                self.entries = self.entries.saturating_add(1);
            }
            self.hasher.update(&part);
            return Ok(Some(part));
        }
        Ok(None)
    }

    /// What to say at the end.
    pub(super) fn trailer(&self) -> Trailer {
        Trailer { entries: self.entries, sum: *self.hasher.finalize().as_bytes() }
    }
}

fn length(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).expect("no key or value of the state comes near 4 GiB")
}

impl Import {
    pub(super) fn new(stage: Box<dyn Stage>) -> Self {
        Self { stage, began: false, last: None, entries: 0, hasher: blake3::Hasher::new() }
    }

    /// Takes the next part.
    pub(super) fn take(&mut self, part: &[u8]) -> Result<(), ImportError> {
        self.hasher.update(part);
        if !self.began {
            self.began = true;
            let (magic, version) = part.split_first_chunk().ok_or(ImportError::Damaged)?;
            let fits = magic == MAGIC && version == VERSION.to_le_bytes();
            return if fits { Ok(()) } else { Err(ImportError::Damaged) };
        }
        let mut rest = part;
        let mut batch = Batch::new();
        while !rest.is_empty() {
            let (number, key, value) = split_entry(&mut rest).ok_or(ImportError::Damaged)?;
            let table = Table::from_number(number).filter(|table| table.kind() == StoreKind::State);
            let table = table.ok_or(ImportError::Damaged)?;
            let place = (number, key.to_vec());
            if self.last.as_ref().is_some_and(|last| *last >= place) {
                return Err(ImportError::Damaged);
            }
            if table == Table::Meta && key == keys::FORMAT {
                check_format(value)?;
            }
            batch.put(table, key, value);
            self.last = Some(place);
            self.entries = self.entries.saturating_add(1);
        }
        self.stage.write(batch)?;
        Ok(())
    }

    /// The gathered state, if it is what `trailer` says.
    pub(super) fn finish(self, trailer: Trailer) -> Result<Box<dyn Stage>, ImportError> {
        let found = Trailer { entries: self.entries, sum: *self.hasher.finalize().as_bytes() };
        if self.began && found == trailer { Ok(self.stage) } else { Err(ImportError::Damaged) }
    }
}

fn split_entry<'a>(rest: &mut &'a [u8]) -> Option<(u8, &'a [u8], &'a [u8])> {
    let (number, after) = rest.split_first()?;
    let (key_bytes, after) = after.split_first_chunk::<4>()?;
    let (value_bytes, after) = after.split_first_chunk::<4>()?;
    let (key, after) = after.split_at_checked(usize::try_from(u32::from_le_bytes(*key_bytes)).ok()?)?;
    let (value, after) = after.split_at_checked(usize::try_from(u32::from_le_bytes(*value_bytes)).ok()?)?;
    *rest = after;
    Some((*number, key, value))
}

/// Puts `image` in place of the state in `store`, with the position that `meta` says. May take long.
pub(super) fn install(store: &dyn KeyValue, image: StateImage, position: Batch) -> Result<(), StorageError> {
    let mut stage = match image {
        StateImage::Arrived(stage) => stage,
        StateImage::Here(other) => {
            let mut export = Export::new(other.view()?);
            let mut import = Import::new(store.stage()?);
            let refused = |error| match error {
                ImportError::Storage(error) => error,
                ImportError::Damaged => StorageError::corrupted("a state that was to be copied"),
            };
            while let Some(part) = export.next_part()? {
                import.take(&part).map_err(refused)?;
            }
            import.finish(export.trailer()).map_err(refused)?
        }
    };
    stage.write(position)?;
    stage.install()
}

/// The description of a state at a position.
pub(super) fn meta(applied: Option<LogId>, membership: super::types::StoredMembership) -> SnapshotMeta {
    SnapshotMeta { last_log_id: applied, last_membership: membership, snapshot_id: snapshot_id(applied) }
}
