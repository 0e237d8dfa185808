//! One table's pending writes over a base that stays as it is.
//!
//! Owns: puts and removals by key, the last of each winning. Always holds: reading through a layer gives what
//! the base would give after the writes. Leaves to others: reading the base.

use std::collections::BTreeMap;

#[derive(Debug, Clone)]
pub(crate) struct Layer<K, V> {
    writes: BTreeMap<K, Option<V>>,
}

impl<K, V> Default for Layer<K, V> {
    fn default() -> Self {
        Self { writes: BTreeMap::new() }
    }
}

impl<K: Ord + Clone, V: Clone> Layer<K, V> {
    pub(crate) fn put(&mut self, key: K, value: V) {
        self.writes.insert(key, Some(value));
    }

    pub(crate) fn remove(&mut self, key: K) {
        self.writes.insert(key, None);
    }

    /// The value of `key`, asking the base only where nothing was written.
    pub(crate) fn get<E>(
        &self,
        key: &K,
        base: impl FnOnce() -> Result<Option<V>, E>,
    ) -> Result<Option<V>, E> {
        self.writes.get(key).map_or_else(base, |written| Ok(written.clone()))
    }

    /// Whether `key` is there, for tables of bare keys.
    pub(crate) fn has<E>(&self, key: &K, base: impl FnOnce() -> Result<bool, E>) -> Result<bool, E> {
        self.writes.get(key).map_or_else(base, |written| Ok(written.is_some()))
    }

    /// What lies under a prefix: `base`, which was read there, and the writes from the prefix's smallest key
    /// `from` on as long as they are `under` it; in order of keys.
    pub(crate) fn merge(
        &self,
        base: impl IntoIterator<Item = (K, V)>,
        from: &K,
        under: impl Fn(&K) -> bool,
    ) -> Vec<V> {
        let mut merged: BTreeMap<K, V> = base.into_iter().collect();
        for (key, written) in self.writes.range(from..).take_while(|(key, _)| under(key)) {
            match written {
                Some(value) => merged.insert(key.clone(), value.clone()),
                None => merged.remove(key),
            };
        }
        merged.into_values().collect()
    }

    /// The writes, in order of keys.
    pub(crate) fn into_writes(self) -> impl Iterator<Item = (K, Option<V>)> {
        self.writes.into_iter()
    }
}
