//! Filters in memory, for simulations and tests.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use firn_base::{ArchiveId, FilterId};
use firn_coordinator_logic::HeldFilter;
use firn_filter::HEADER_BYTES;

use super::{FilterStore, FilterWriter, describe};
use crate::storage::StorageError;

#[derive(Debug, Clone, Default)]
pub(super) struct FilterMemory {
    filters: Arc<Mutex<BTreeMap<FilterId, Vec<u8>>>>,
}

impl FilterMemory {
    fn filters(&self) -> MutexGuard<'_, BTreeMap<FilterId, Vec<u8>>> {
        self.filters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl FilterStore for FilterMemory {
    fn load(&self, archive: ArchiveId) -> Result<Vec<HeldFilter>, StorageError> {
        let mut held = Vec::new();
        self.filters().retain(|id, bytes| {
            let filter = *blake3::hash(bytes).as_bytes() == *id.as_bytes();
            let ends = bytes.first_chunk::<HEADER_BYTES>().zip(bytes.last_chunk()).filter(|_| filter);
            let filter = ends
                .and_then(|(head, trailer)| describe(archive, head, trailer, bytes.len() as u64, *id).ok());
            held.extend(filter);
            filter.is_some()
        });
        Ok(held)
    }

    fn begin(&self) -> Result<Box<dyn FilterWriter>, StorageError> {
        Ok(Box::new(FilterBytes { memory: self.clone(), bytes: Vec::new() }))
    }

    fn read(&self, filter: FilterId, offset: u64, bytes_max: usize) -> Result<Option<Vec<u8>>, StorageError> {
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        let piece = |bytes: &Vec<u8>| {
            let rest = bytes.get(offset..).unwrap_or_default();
            rest.get(..bytes_max).unwrap_or(rest).to_vec()
        };
        Ok(self.filters().get(&filter).map(piece))
    }

    fn remove(&self, filter: FilterId) -> Result<(), StorageError> {
        self.filters().remove(&filter);
        Ok(())
    }
}

#[derive(Debug)]
struct FilterBytes {
    memory: FilterMemory,
    bytes: Vec<u8>,
}

impl FilterWriter for FilterBytes {
    fn write(&mut self, bytes: &[u8]) -> Result<(), StorageError> {
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    fn keep(self: Box<Self>, filter: FilterId) -> Result<(), StorageError> {
        let Self { memory, bytes } = *self;
        memory.filters().insert(filter, bytes);
        Ok(())
    }
}
