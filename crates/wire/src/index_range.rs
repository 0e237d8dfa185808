//! Ranges of the index: all visible keys that begin alike, for readers who will not name the one they look for.
//!
//! Always holds: a page that passed [`IndexRangePage::check`] has keys of the range only, in order, behind those of the
//! page before it.

use firn_base::{KeyPrefix, Location, ObjectKey};
use serde::{Deserialize, Serialize};

use crate::INDEX_RANGE_KEYS_MAX;

/// Asks for the keys that begin with `prefix`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexRangeRequest {
    /// What they begin with.
    pub prefix: KeyPrefix,
    /// The last key of the page before; none for the first page. It is one of the answer, hence no secret.
    pub after: Option<ObjectKey>,
}

/// A visible key and where it lies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexedKey {
    /// The key.
    pub key: ObjectKey,
    /// Where it lies: one place, or several for variants.
    pub locations: Vec<Location>,
}

/// Visible keys of a range.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexRangePage {
    /// A position of the feed: whatever it tells before that is in the answer. Later events may be.
    pub position: u64,
    /// The keys, in order.
    pub keys: Vec<IndexedKey>,
    /// Whether there are more behind the last of them.
    pub more: bool,
}

impl IndexRangePage {
    /// Whether it can be the answer to `request`; the error is what is wrong with it.
    pub fn check(&self, request: &IndexRangeRequest) -> Result<(), &'static str> {
        if self.keys.len() > INDEX_RANGE_KEYS_MAX || (self.more && self.keys.is_empty()) {
            return Err("its page of the index has not as many keys as one has");
        }
        let mut last = request.after;
        for entry in &self.keys {
            if !request.prefix.covers(&entry.key) || last.is_some_and(|last| entry.key <= last) {
                return Err("its page of the index has keys that were not asked for");
            }
            if entry.locations.is_empty() {
                return Err("its page of the index has keys that lie nowhere");
            }
            last = Some(entry.key);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use firn_base::BundleNumber;

    use super::*;

    fn entry(name: u8) -> IndexedKey {
        let locations = vec![Location { bundle: BundleNumber(1), block: 0, entry: 0 }];
        let mut whole = [0; 20];
        whole[19] = name;
        IndexedKey { key: ObjectKey::store_path(whole), locations }
    }

    #[test]
    fn a_page_has_keys_of_the_range_in_order_behind_the_page_before() {
        let prefix = KeyPrefix::of(&entry(0).key, 24).unwrap();
        let check = |after: Option<u8>, keys: &[IndexedKey], more| {
            let request = IndexRangeRequest { prefix, after: after.map(|name| entry(name).key) };
            IndexRangePage { position: 5, keys: keys.to_vec(), more }.check(&request).is_ok()
        };
        assert!(check(None, &[], false) && check(None, &[entry(1), entry(2)], true));
        assert!(check(Some(1), &[entry(2)], false));
        assert!(!check(None, &[], true), "a page that promises more has keys to go on from");
        assert!(!check(None, &[entry(2), entry(1)], false));
        assert!(!check(None, &[entry(1), entry(1)], false));
        assert!(!check(Some(2), &[entry(2)], false));
        let stranger = IndexedKey { key: ObjectKey::store_path([9; 20]), ..entry(1) };
        assert!(!check(None, &[stranger], false));
        assert!(!check(None, &[IndexedKey { locations: vec![], ..entry(1) }], false));
    }
}
