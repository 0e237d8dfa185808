//! A cache in memory, bounded by bytes: what was used longest ago goes first.
//!
//! Always holds: all values together weigh at most what was allowed. Leaves to others: what values weigh, and
//! whether they are still true.

use std::fmt;
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::{Mutex, MutexGuard, PoisonError};

use lru::LruCache;

// Requests of different connections rarely wait for each other with so many.
const SHARDS: usize = 16;

// Key, links, table slot and the allocation of the value.
const ENTRY_OVERHEAD_BYTES: usize = 160;

/// Values by key.
pub(crate) struct BoundedCache<K, V> {
    shards: [Mutex<Shard<K, V>>; SHARDS],
    shard_bytes_max: usize,
    spread: RandomState,
}

struct Shard<K, V> {
    entries: LruCache<K, (V, usize)>,
    bytes: usize,
}

impl<K, V> fmt::Debug for BoundedCache<K, V> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("BoundedCache")
            .field("shard_bytes_max", &self.shard_bytes_max)
            .finish_non_exhaustive()
    }
}

impl<K: Hash + Eq, V: Clone> BoundedCache<K, V> {
    /// A cache of at most `bytes_max`.
    pub(crate) fn new(bytes_max: usize) -> Self {
        let shard = || Mutex::new(Shard { entries: LruCache::unbounded(), bytes: 0 });
        Self {
            shards: std::array::from_fn(|_| shard()),
            shard_bytes_max: bytes_max / SHARDS,
            spread: RandomState::new(),
        }
    }

    fn shard(&self, key: &K) -> MutexGuard<'_, Shard<K, V>> {
        let [spread, ..] = self.spread.hash_one(key).to_le_bytes();
        let shard = &self.shards[usize::from(spread) % SHARDS];
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn get(&self, key: &K) -> Option<V> {
        self.shard(key).entries.get(key).map(|(value, _)| value.clone())
    }

    /// Keeps `value`, which weighs `bytes`; one that is heavier than a sixteenth of the cache is not kept.
    pub(crate) fn insert(&self, key: K, value: V, bytes: usize) {
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

    pub(crate) fn remove(&self, key: &K) {
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

impl<K: Hash + Eq, V> Shard<K, V> {
    fn remove(&mut self, key: &K) {
        if let Some((_, bytes)) = self.entries.pop(key) {
            self.bytes -= bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Four numbers whose values share a shard of `cache`.
    fn neighbours(cache: &BoundedCache<u32, u32>) -> [u32; 4] {
        let shard = |number: &u32| cache.spread.hash_one(number).to_le_bytes()[0] % 16;
        let mut numbers = (0..).filter(|number| shard(number) == 3);
        std::array::from_fn(|_| numbers.next().unwrap())
    }

    #[test]
    fn the_value_used_longest_ago_makes_room() {
        let cache = BoundedCache::new(SHARDS * 3 * (100 + ENTRY_OVERHEAD_BYTES));
        let [one, two, three, four] = neighbours(&cache);
        [one, two, three].into_iter().for_each(|number| cache.insert(number, number, 100));
        assert_eq!(cache.get(&one), Some(one));
        cache.insert(four, four, 100);
        assert_eq!((cache.get(&one), cache.get(&two), cache.get(&four)), (Some(one), None, Some(four)));
    }

    #[test]
    fn a_value_heavier_than_its_share_is_not_kept_and_its_elder_goes() {
        let cache = BoundedCache::new(SHARDS * 1000);
        cache.insert(1, 1, 10);
        cache.insert(1, 2, 10_000);
        assert_eq!(cache.get(&1), None);
        cache.insert(1, 3, 10);
        cache.remove(&1);
        cache.insert(2, 3, 10);
        cache.clear();
        assert_eq!((cache.get(&1), cache.get(&2)), (None, None));
    }
}
