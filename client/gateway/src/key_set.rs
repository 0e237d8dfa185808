//! The exact set of keys that the archive serves, as of a position of its feed.
//!
//! Owns: membership. Always holds: 21 bytes per key and a small share for what changed lately; the same events
//! give the same set, whatever batches they came in. Leaves to others: pulling the feed (`feed_follower`),
//! locks (`shared_keys`), the file (`key_file`).

use std::collections::BTreeMap;
use std::sync::Arc;

use firn_base::{KEY_BYTES, ObjectKey};
use firn_wire::FeedEvent;

/// A key as it lies in the set.
pub type KeyBytes = [u8; KEY_BYTES];

/// Changes are merged into the sorted keys when they are this many and an eighth of them: merging then copies
/// each key about eight times in the life of an archive, and the tree stays a small share of the memory.
const CHANGES_BEFORE_MERGE: usize = 1 << 16;

/// The keys that are served, and the feed position up to which that is so.
#[derive(Debug, Clone, Default)]
pub struct KeySet {
    /// Sorted, unique.
    keys: Arc<Vec<KeyBytes>>,
    /// Keys that came (`true`) or went (`false`) since `keys` was made.
    changes: BTreeMap<KeyBytes, bool>,
    len: usize,
    position: u64,
}

/// Events were offered that do not continue the feed where the set stands.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the feed continues at position {found} where {expected} is expected")]
pub struct FeedGap {
    /// Where the set stands.
    pub expected: u64,
    /// Where the events begin.
    pub found: u64,
}

impl KeySet {
    /// The set of `keys` as of `position`; none if they are not sorted and unique.
    pub fn from_sorted(keys: Vec<KeyBytes>, position: u64) -> Option<Self> {
        let sorted = keys.windows(2).all(|pair| pair[0] < pair[1]);
        let len = keys.len();
        sorted.then(|| Self { keys: Arc::new(keys), changes: BTreeMap::new(), len, position })
    }

    /// Whether `key` is served.
    pub fn contains(&self, key: &ObjectKey) -> bool {
        self.contains_bytes(&key.to_bytes())
    }

    fn contains_bytes(&self, key: &KeyBytes) -> bool {
        match self.changes.get(key) {
            Some(present) => *present,
            None => self.keys.binary_search(key).is_ok(),
        }
    }

    /// How many keys there are.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no key.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The position of the next event.
    pub const fn position(&self) -> u64 {
        self.position
    }

    /// Takes events that begin at position `first`. On an error nothing changed.
    pub fn apply(&mut self, first: u64, events: &[FeedEvent]) -> Result<(), FeedGap> {
        if first != self.position {
            return Err(FeedGap { expected: self.position, found: first });
        }
        for event in events {
            let (key, present) = match event {
                FeedEvent::Visible(key) => (key.to_bytes(), true),
                FeedEvent::Withdrawn(key) => (key.to_bytes(), false),
            };
            match (self.contains_bytes(&key), present) {
                (false, true) => self.len += 1,
                (true, false) => self.len -= 1,
                (true, true) | (false, false) => continue,
            }
            self.changes.insert(key, present);
        }
        self.position = self.position.saturating_add(events.len() as u64);
        Ok(())
    }

    /// Whether enough has changed to merge it.
    pub fn wants_merge(&self) -> bool {
        self.changes.len() >= CHANGES_BEFORE_MERGE.max(self.keys.len() / 8)
    }

    /// All keys in order, as [`Self::from_sorted`] takes them.
    pub fn to_sorted(&self) -> Vec<KeyBytes> {
        let mut merged = Vec::with_capacity(self.len);
        let mut old = self.keys.iter().copied().peekable();
        for (key, present) in &self.changes {
            while let Some(before) = old.next_if(|before| before < key) {
                merged.push(before);
            }
            old.next_if_eq(key);
            if *present {
                merged.push(*key);
            }
        }
        merged.extend(old);
        merged
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u32) -> ObjectKey {
        let mut name = [0; 20];
        name[..4].copy_from_slice(&number.wrapping_mul(2_654_435_761).to_be_bytes());
        ObjectKey::store_path(name)
    }

    fn visible(numbers: std::ops::Range<u32>) -> Vec<FeedEvent> {
        numbers.map(|number| FeedEvent::Visible(key(number))).collect()
    }

    #[test]
    fn what_became_visible_is_there_and_what_was_withdrawn_is_not() {
        let mut set = KeySet::default();
        set.apply(0, &visible(0..10)).unwrap();
        set.apply(10, &[FeedEvent::Withdrawn(key(3)), FeedEvent::Withdrawn(key(99))]).unwrap();
        assert_eq!((set.len(), set.position()), (9, 12));
        assert!(set.contains(&key(2)) && !set.contains(&key(3)) && !set.contains(&key(99)));
        assert!(!set.contains(&ObjectKey::build_log(*key(2).name())), "a log is another key");
    }

    #[test]
    fn merging_changes_nothing_that_can_be_asked() {
        let mut set = KeySet::default();
        set.apply(0, &visible(0..1000)).unwrap();
        let mut merged = KeySet::from_sorted(set.to_sorted(), set.position()).unwrap();
        for set in [&mut set, &mut merged] {
            set.apply(1000, &[FeedEvent::Withdrawn(key(7)), FeedEvent::Visible(key(2000))]).unwrap();
            set.apply(1002, &[FeedEvent::Visible(key(7)), FeedEvent::Withdrawn(key(8))]).unwrap();
        }
        assert_eq!(set.to_sorted(), merged.to_sorted());
        assert_eq!((set.len(), set.len()), (merged.len(), set.to_sorted().len()));
        assert!((0..2001).all(|number| set.contains(&key(number)) == merged.contains(&key(number))));
    }

    #[test]
    fn a_gap_in_the_feed_is_refused() {
        let mut set = KeySet::default();
        set.apply(0, &visible(0..2)).unwrap();
        assert_eq!(set.apply(3, &visible(3..4)), Err(FeedGap { expected: 2, found: 3 }));
        assert_eq!(set.apply(1, &visible(1..2)), Err(FeedGap { expected: 2, found: 1 }));
        assert_eq!(set.len(), 2);
    }

    #[test]
    fn keys_out_of_order_or_twice_are_no_set() {
        let (low, high) = ([1; KEY_BYTES], [2; KEY_BYTES]);
        assert!(KeySet::from_sorted(vec![low, high], 5).is_some());
        assert!(KeySet::from_sorted(vec![high, low], 5).is_none());
        assert!(KeySet::from_sorted(vec![low, low], 5).is_none());
    }
}
