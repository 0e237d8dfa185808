//! The state's digest beside the state, and the digests of late.
//!
//! Always holds: the stored digest is of the stored state, for both are written in one batch; the digests of late are
//! kept at each position where a batch ended. Batches end wherever the position is a multiple of
//! [`COMPARED_EVERY`], so that two replicas have positions in common however they are driven.
//! Leaves to others: who compares (`driver`), what is counted (`coordinator/logic`).

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use firn_coordinator_logic::StateDigest;
use firn_wire::StateDigests;

use super::keys;
use crate::storage::{Batch, Read, StorageError, Table};

/// At these positions every replica knows its digest: a batch of more would hold back what waits for its first entry.
pub(super) const COMPARED_EVERY: u64 = 64;

// Of some thousand entries at least; 104 bytes each.
const KEPT_MAX: usize = 128;

const VERSION: u8 = 1;

/// Digests of late, oldest first. Clones are the same list.
#[derive(Debug, Clone, Default)]
pub(crate) struct LateDigests {
    kept: Arc<Mutex<VecDeque<StateDigests>>>,
}

impl LateDigests {
    /// A batch ended, and this is the state's digest.
    pub(super) fn record(&self, digests: StateDigests) {
        let mut kept = self.lock();
        kept.push_back(digests);
        if kept.len() > KEPT_MAX {
            kept.pop_front();
        }
    }

    /// The state was replaced: what was before is of another history.
    pub(super) fn restart(&self, digests: StateDigests) {
        self.lock().clear();
        self.record(digests);
    }

    /// All of them.
    pub(crate) fn all(&self) -> Vec<StateDigests> {
        self.lock().iter().copied().collect()
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<StateDigests>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The digest that lies beside the state of `store`.
pub(super) fn read(store: &dyn Read) -> Result<StateDigest, StorageError> {
    let Some(bytes) = store.get(Table::Meta, keys::DIGEST)? else { return Ok(StateDigest::default()) };
    let digest = match bytes.split_first() {
        Some((&VERSION, rest)) => StateDigest::from_bytes(rest),
        Some((version, _)) => return Err(StorageError::of_version("the state's digest", *version, VERSION)),
        _ => None,
    };
    digest.ok_or_else(|| StorageError::corrupted("the state's digest"))
}

/// Adds the digest to the batch that changes the state.
pub(super) fn write(batch: &mut Batch, digest: &StateDigest) {
    let mut bytes = vec![VERSION];
    bytes.extend_from_slice(&digest.to_bytes());
    batch.put(Table::Meta, keys::DIGEST, bytes);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::{Durability, KeyValue, Memory, StoreKind};

    #[test]
    fn the_digests_of_late_are_bounded_and_the_newest_stay() {
        let late = LateDigests::default();
        let digest = StateDigest::default();
        (0..200).for_each(|applied| late.record(digest.at(applied)));
        let positions: Vec<_> = late.all().iter().map(|digests| digests.applied).collect();
        assert_eq!(positions, (72..200).collect::<Vec<_>>());
        late.restart(digest.at(7));
        assert_eq!(late.all(), [digest.at(7)]);
    }

    #[test]
    fn a_damaged_or_newer_digest_is_refused() {
        let store = Memory::new(StoreKind::State);
        let put = |bytes: Vec<u8>| {
            let mut batch = Batch::new();
            batch.put(Table::Meta, keys::DIGEST, bytes);
            store.write(batch, Durability::Buffered).unwrap();
            read(&store)
        };
        assert_eq!(
            put([vec![1], StateDigest::default().to_bytes()].concat()).unwrap(),
            StateDigest::default()
        );
        assert!(matches!(put(vec![1; 6144]), Err(StorageError::Corrupted(_))));
        assert!(matches!(put(vec![]), Err(StorageError::Corrupted(_))));
        assert!(matches!(put(vec![2; 6145]), Err(StorageError::Newer(_))));
    }
}
