//! A cache in memory, bounded by bytes: what was used longest ago goes first.
//!
//! Always holds: all values together weigh at most what was allowed. Leaves to others: what values weigh, and
//! whether they are still true.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use firn_base::ObjectKey;
use lru::LruCache;

// Requests of different connections rarely wait for each other with so many.
const SHARDS: usize = 16;

// Key, links, table slot and the allocation of the value.
const ENTRY_OVERHEAD_BYTES: usize = 160;

/// Values by key.
pub(crate) struct BoundedCache<V> {
    shards: [Mutex<Shard<V>>; SHARDS],
    shard_bytes_max: usize,
}

struct Shard<V> {
    entries: LruCache<ObjectKey, (V, usize)>,
    bytes: usize,
}

impl<V> fmt::Debug for BoundedCache<V> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("BoundedCache")
            .field("shard_bytes_max", &self.shard_bytes_max)
            .finish_non_exhaustive()
    }
}

impl<V: Clone> BoundedCache<V> {
    /// A cache of at most `bytes_max`.
    pub(crate) fn new(bytes_max: usize) -> Self {
        let shard = || Mutex::new(Shard { entries: LruCache::unbounded(), bytes: 0 });
        Self { shards: std::array::from_fn(|_| shard()), shard_bytes_max: bytes_max / SHARDS }
    }

    fn shard(&self, key: &ObjectKey) -> MutexGuard<'_, Shard<V>> {
        // Names are hashes: any of their bits spread evenly.
        let shard = &self.shards[usize::from(key.name()[7]) % SHARDS];
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn get(&self, key: &ObjectKey) -> Option<V> {
        self.shard(key).entries.get(key).map(|(value, _)| value.clone())
    }

    /// Keeps `value`, which weighs `bytes`; one that is heavier than a sixteenth of the cache is not kept.
    pub(crate) fn insert(&self, key: ObjectKey, value: V, bytes: usize) {
        let bytes = bytes.saturating_add(ENTRY_OVERHEAD_BYTES);
        let mut shard = self.shard(&key);
        if bytes > self.shard_bytes_max {
            shard.remove(&key);
            return;
        }
        if let Some((_, (_, old))) = shard.entries.push(key, (value, bytes)) {
            shard.bytes -= old;
        }
        shard.bytes += bytes;
        while shard.bytes > self.shard_bytes_max {
            let Some((_, (_, old))) = shard.entries.pop_lru() else { break };
            shard.bytes -= old;
        }
    }

    pub(crate) fn remove(&self, key: &ObjectKey) {
        self.shard(key).remove(key);
    }

    pub(crate) fn clear(&self) {
        for shard in &self.shards {
            let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            shard.entries.clear();
            shard.bytes = 0;
        }
    }
}

impl<V> Shard<V> {
    fn remove(&mut self, key: &ObjectKey) {
        if let Some((_, bytes)) = self.entries.pop(key) {
            self.bytes -= bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u8) -> ObjectKey {
        // The eighth byte chooses the shard: these all share one.
        let mut name = [0; 20];
        name[0] = number;
        ObjectKey::store_path(name)
    }

    #[test]
    fn the_value_used_longest_ago_makes_room() {
        let cache = BoundedCache::new(SHARDS * 3 * (100 + ENTRY_OVERHEAD_BYTES));
        (0..3).for_each(|number| cache.insert(key(number), number, 100));
        assert_eq!(cache.get(&key(0)), Some(0));
        cache.insert(key(3), 3, 100);
        assert_eq!((cache.get(&key(0)), cache.get(&key(1)), cache.get(&key(3))), (Some(0), None, Some(3)));
    }

    #[test]
    fn a_value_heavier_than_its_share_is_not_kept_and_its_elder_goes() {
        let cache = BoundedCache::new(SHARDS * 1000);
        cache.insert(key(1), 1, 10);
        cache.insert(key(1), 2, 10_000);
        assert_eq!(cache.get(&key(1)), None);
        cache.insert(key(1), 3, 10);
        cache.remove(&key(1));
        cache.insert(key(2), 3, 10);
        cache.clear();
        assert_eq!((cache.get(&key(1)), cache.get(&key(2))), (None, None));
    }
}
