//! A cache bounded by bytes: what was used longest ago goes first.

use std::fmt;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};

use lru::LruCache;

// What an entry costs besides its bytes: key, links, table slot.
const ENTRY_OVERHEAD_BYTES: usize = 128;

/// A cache whose values weigh at most `bytes_max` together. A value heavier than that is not kept.
pub(crate) struct WeightedCache<K: Hash + Eq, V> {
    bytes_max: usize,
    inner: Mutex<Weighed<K, V>>,
}

struct Weighed<K: Hash + Eq, V> {
    entries: LruCache<K, (V, usize)>,
    bytes: usize,
}

impl<K: Hash + Eq, V> fmt::Debug for WeightedCache<K, V> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("WeightedCache").field("bytes_max", &self.bytes_max).finish_non_exhaustive()
    }
}

impl<K: Hash + Eq + Clone, V: Clone> WeightedCache<K, V> {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self { bytes_max, inner: Mutex::new(Weighed { entries: LruCache::unbounded(), bytes: 0 }) }
    }

    pub(crate) fn get(&self, key: &K) -> Option<V> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.entries.get(key).map(|(value, _)| value.clone())
    }

    pub(crate) fn remove(&self, key: &K) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, bytes)) = inner.entries.pop(key) {
            inner.bytes -= bytes;
        }
    }

    pub(crate) fn insert(&self, key: K, value: V, bytes: usize) {
        let bytes = bytes.saturating_add(ENTRY_OVERHEAD_BYTES);
        if bytes > self.bytes_max {
            return;
        }
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, (_, old))) = inner.entries.push(key, (value, bytes)) {
            inner.bytes -= old;
        }
        inner.bytes += bytes;
        while inner.bytes > self.bytes_max {
            let Some((_, (_, old))) = inner.entries.pop_lru() else { break };
            inner.bytes -= old;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_entry_used_longest_ago_makes_room() {
        let cache = WeightedCache::new(3 * (100 + ENTRY_OVERHEAD_BYTES));
        for key in 0..3 {
            cache.insert(key, key, 100);
        }
        assert_eq!(cache.get(&0), Some(0));
        cache.insert(3, 3, 100);
        assert_eq!((cache.get(&0), cache.get(&1), cache.get(&3)), (Some(0), None, Some(3)));
        cache.insert(4, 4, 10_000);
        assert_eq!(cache.get(&4), None, "heavier than the whole cache");
        cache.insert(3, 30, 90);
        assert_eq!(cache.get(&3), Some(30));
    }
}
