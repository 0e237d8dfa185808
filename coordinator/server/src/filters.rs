//! Filters over the feed: kept as files, made in the background, told of to whoever asks.
//!
//! Owns: where filters lie, and the list that is served. Always holds: what is served lies here whole, under the name that
//! its bytes have; a filter is there as a whole or not at all. Leaves to others: which filters there are, and their making
//! (`coordinator/logic`); they are no part of the replicated state: each replica makes the same of the same feed.

mod directory;
mod making;
mod memory;
#[cfg(test)]
mod store_tests;

use std::fmt::Debug;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use firn_base::{ArchiveId, FilterId};
use firn_coordinator_logic::{FILTER_UNIT_EVENTS, HeldFilter};
use firn_filter::{FILTER_TRAILER_BYTES, FilterHeader, FormatError, HEADER_BYTES, read_trailer};
use firn_wire::FilterEntry;

pub(crate) use making::run;

use self::directory::FilterDirectory;
use self::memory::FilterMemory;
use crate::storage::StorageError;

/// Where filters lie. Every call may block on a disk.
pub trait FilterStore: Debug + Send + Sync {
    /// The filters of `archive` that lie here whole. Whatever else is here is removed: it can be made again.
    fn load(&self, archive: ArchiveId) -> Result<Vec<HeldFilter>, StorageError>;

    /// Begins to write a filter. One is written at a time.
    fn begin(&self) -> Result<Box<dyn FilterWriter>, StorageError>;

    /// At most `bytes_max` bytes of a filter from `offset` on; nothing where there is no such filter.
    fn read(&self, filter: FilterId, offset: u64, bytes_max: usize) -> Result<Option<Vec<u8>>, StorageError>;

    /// Removes a filter, if it is here.
    fn remove(&self, filter: FilterId) -> Result<(), StorageError>;
}

/// A filter that is being written. Dropping it without [`Self::keep`] leaves nothing that counts.
pub trait FilterWriter: Debug + Send {
    /// Writes behind what was written.
    fn write(&mut self, bytes: &[u8]) -> Result<(), StorageError>;

    /// Makes what was written, durably, the filter of this name.
    fn keep(self: Box<Self>, filter: FilterId) -> Result<(), StorageError>;
}

/// How a coordinator keeps filters. All coordinators of an archive keep to one unit.
#[derive(Debug, Clone)]
pub struct FilterOptions {
    store: Arc<dyn FilterStore>,
    unit_events: u64,
}

impl FilterOptions {
    /// In files of a directory, which is made when the first filter is.
    pub fn in_directory(directory: PathBuf) -> Self {
        Self { store: Arc::new(FilterDirectory::new(directory)), unit_events: FILTER_UNIT_EVENTS }
    }

    /// In memory: clones share them.
    pub fn in_memory() -> Self {
        Self { store: Arc::new(FilterMemory::default()), unit_events: FILTER_UNIT_EVENTS }
    }

    /// With units of so many events, at least one: what tests fill.
    #[must_use]
    pub fn unit(self, events: u64) -> Self {
        Self { unit_events: events.max(1), ..self }
    }
}

/// The filters of a running coordinator.
#[derive(Debug)]
pub(crate) struct Filters {
    store: Arc<dyn FilterStore>,
    unit_events: u64,
    served: Mutex<Arc<[FilterEntry]>>,
}

impl Filters {
    /// None is served before they were looked at.
    pub(crate) fn new(options: FilterOptions) -> Self {
        let FilterOptions { store, unit_events } = options;
        Self { store, unit_events, served: Mutex::new(Arc::new([])) }
    }

    /// The filters to tell of.
    pub(crate) fn served(&self) -> Arc<[FilterEntry]> {
        Arc::clone(&self.served.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Where they lie.
    pub(crate) fn store(&self) -> Arc<dyn FilterStore> {
        Arc::clone(&self.store)
    }

    fn serve(&self, filters: Vec<FilterEntry>) {
        *self.served.lock().unwrap_or_else(PoisonError::into_inner) = filters.into();
    }
}

/// A filter by its beginning, its end, its length and BLAKE3, if it is one of `archive`.
fn describe(
    archive: ArchiveId,
    head: &[u8; HEADER_BYTES],
    trailer: &[u8; FILTER_TRAILER_BYTES],
    bytes: u64,
    id: FilterId,
) -> Result<HeldFilter, FormatError> {
    let header = FilterHeader::from_bytes(head)?;
    if header.archive != archive {
        return Err(FormatError::Damaged("it is of another archive"));
    }
    let entry = FilterEntry {
        range: header.range,
        id,
        bytes,
        keys: read_trailer(trailer)?,
        feed_digest: header.digest_behind,
    };
    Ok(HeldFilter { entry, digest_before: header.digest_before })
}
