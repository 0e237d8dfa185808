//! Purges, and bundles in whose place others are, as planners need them: in memory, and the open ones at hand.
//!
//! Owns: all purges, and those erasures of which something is told or waited for. Always holds: an index that took in
//! every change is the one that is read now; what is over costs a look only where it is asked for by its key. Leaves to
//! others: what follows from them (`purging`).

use std::collections::{BTreeMap, BTreeSet};

use firn_base::{BundleNumber, ObjectKey};

use crate::facts::Scan;
use crate::state::{ErasureRecord, PurgeRecord};

/// Records read at a time.
const PAGE: usize = 4_096;

/// Purges and erasures.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PurgeIndex {
    /// An archive has few, each an act of its operators, which the ledger holds as well.
    purges: BTreeMap<ObjectKey, PurgeRecord>,
    /// Those that want a record of a bundle gone which nothing has taken the place of.
    open_purges: BTreeSet<ObjectKey>,
    /// Left out are those that are over and were for no purged key.
    erasures: BTreeMap<BundleNumber, ErasureRecord>,
    /// Those of them that are not over.
    open_erasures: BTreeSet<BundleNumber>,
    /// Those that are, by the keys that they were for.
    ended_erasures: BTreeSet<(ObjectKey, BundleNumber)>,
}

impl PurgeIndex {
    /// Reads it.
    pub(crate) fn read<S: Scan>(state: &S) -> Result<Self, S::Error> {
        let mut index = Self::default();
        let mut after = None;
        loop {
            let page = state.purges_after(after, PAGE)?;
            let Some(last) = page.last() else { break };
            after = Some(last.key);
            page.iter().for_each(|purge| index.put_purge(purge));
        }
        let mut from = Some(BundleNumber(0));
        while let Some(first) = from {
            let page = state.erasures_from(first, PAGE)?;
            from = page.last().and_then(|last| last.bundle.0.checked_add(1)).map(BundleNumber);
            page.iter().for_each(|erasure| index.put_erasure(erasure));
        }
        Ok(index)
    }

    pub(crate) fn put_purge(&mut self, purge: &PurgeRecord) {
        if purge.places.is_empty() {
            self.open_purges.remove(&purge.key);
        } else {
            self.open_purges.insert(purge.key);
        }
        self.purges.insert(purge.key, purge.clone());
    }

    pub(crate) fn put_erasure(&mut self, erasure: &ErasureRecord) {
        let before = self.erasures.get(&erasure.bundle).map_or(&[][..], |before| &before.keys);
        for key in before {
            self.ended_erasures.remove(&(*key, erasure.bundle));
        }
        if erasure.is_over() {
            self.open_erasures.remove(&erasure.bundle);
            self.ended_erasures.extend(erasure.keys.iter().map(|key| (*key, erasure.bundle)));
        } else {
            self.open_erasures.insert(erasure.bundle);
        }
        if erasure.is_over() && erasure.keys.is_empty() {
            self.erasures.remove(&erasure.bundle);
        } else {
            self.erasures.insert(erasure.bundle, erasure.clone());
        }
    }

    /// Whether no record is to go, and no bundle that something has taken the place of.
    pub fn is_settled(&self) -> bool {
        self.open_purges.is_empty() && self.open_erasures.is_empty()
    }

    /// All purges, in order of keys, behind `after`.
    pub(crate) fn purges_after(&self, after: Option<ObjectKey>) -> impl Iterator<Item = &PurgeRecord> {
        use std::ops::Bound::{Excluded, Unbounded};
        self.purges.range((after.map_or(Unbounded, Excluded), Unbounded)).map(|(_, purge)| purge)
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.purges.len()
    }

    /// Those that want records gone.
    pub(crate) fn open_purges(&self) -> impl Iterator<Item = &PurgeRecord> {
        self.open_purges.iter().filter_map(|key| self.purges.get(key))
    }

    /// Erasures for `key` that are over, in order of bundles.
    pub(crate) fn ended_erasures(&self, key: ObjectKey) -> impl Iterator<Item = &ErasureRecord> {
        let all = (key, BundleNumber(0))..=(key, BundleNumber(u32::MAX));
        self.ended_erasures.range(all).filter_map(|(_, bundle)| self.erasures.get(bundle))
    }

    /// Those that are not over.
    pub(crate) fn open_erasures(&self) -> impl Iterator<Item = &ErasureRecord> {
        self.open_erasures.iter().filter_map(|bundle| self.erasures.get(bundle))
    }

    /// One that is told of or not over.
    pub(crate) fn erasure(&self, bundle: BundleNumber) -> Option<&ErasureRecord> {
        self.erasures.get(&bundle)
    }
}

#[cfg(test)]
mod tests {
    use firn_base::{BundleId, Timestamp};

    use super::*;
    use crate::state::{ErasedRecord, NodeNumber};

    fn key(number: u8) -> ObjectKey {
        ObjectKey::store_path([number; 20])
    }

    fn erasure(bundle: u32, keys: &[u8], waiting: &[u32]) -> ErasureRecord {
        ErasureRecord {
            bundle: BundleNumber(bundle),
            id: BundleId::from_bytes([7; 32]),
            since: Timestamp::from_millis(1),
            keys: keys.iter().map(|number| key(*number)).collect(),
            replacements: Vec::new(),
            erased: Some(ErasedRecord {
                position: 1,
                holders: vec![NodeNumber(1)],
                waiting: waiting.iter().map(|number| NodeNumber(*number)).collect(),
            }),
        }
    }

    #[test]
    fn what_is_over_is_found_by_its_keys_alone() {
        let mut index = PurgeIndex::default();
        let ended = |index: &PurgeIndex, number: u8| {
            index.ended_erasures(key(number)).map(|erasure| erasure.bundle.0).collect::<Vec<_>>()
        };
        index.put_erasure(&erasure(3, &[1, 2], &[1]));
        index.put_erasure(&erasure(4, &[2], &[]));
        assert_eq!((ended(&index, 1), ended(&index, 2)), (vec![], vec![4]));
        index.put_erasure(&erasure(3, &[1, 2], &[]));
        assert_eq!((ended(&index, 1), ended(&index, 2)), (vec![3], vec![3, 4]));
        assert_eq!(index.open_erasures().count(), 0);
        // A rebuild may bring back that one of them is not over.
        index.put_erasure(&erasure(4, &[2], &[1]));
        assert_eq!((ended(&index, 2), index.open_erasures().count()), (vec![3], 1));
    }
}
