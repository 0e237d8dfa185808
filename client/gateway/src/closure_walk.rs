//! What a client that walks a closure will ask for next.
//!
//! Nix asks for a path, reads its references and asks for those. Each step would wait for the coordinators and for a node
//! anew. But records that were packed together are read together: what is referred to, directly or through others, is
//! known as far as records lie in blocks that were read, and is looked up all at once.
//!
//! Always holds: memory is bounded; a client's question allows [`KEYS_PER_QUESTION`] keys to be looked up ahead and no
//! more, so that a walk ends soon after its client does; no key is looked up ahead twice in a row. Leaves to others:
//! looking up (`gateway_core`).

use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use firn_base::{BundleId, ObjectKey};
use firn_bundle::Record;
use lru::LruCache;

/// Paths have 31 references on average, and those have the same ones for the most part.
pub(crate) const KEYS_PER_QUESTION: usize = 64;

// A closure of a system is some thousand paths; whoever asks for one after the other allows so many at once.
const ALLOWED_MAX: usize = 1024;

// At 21 bytes for each of 31 references some 15 MB.
const RECORDS_MAX: NonZeroUsize = NonZeroUsize::new(16_384).expect("a constant above zero");

// Some 2 MB. What was looked up ahead is asked for soon, or never.
const AHEAD_MAX: NonZeroUsize = NonZeroUsize::new(16_384).expect("a constant above zero");

const BLOCKS_MAX: NonZeroUsize = NonZeroUsize::new(1024).expect("a constant above zero");

#[derive(Debug)]
struct Known {
    references: LruCache<ObjectKey, Arc<[ObjectKey]>>,
    blocks: LruCache<(BundleId, u16), ()>,
    ahead: LruCache<ObjectKey, ()>,
    allowed: usize,
}

/// What is known of references, and what was looked up because of it.
#[derive(Debug)]
pub(crate) struct ClosureWalk {
    known: Mutex<Known>,
}

impl Default for ClosureWalk {
    fn default() -> Self {
        let (references, blocks) = (LruCache::new(RECORDS_MAX), LruCache::new(BLOCKS_MAX));
        let ahead = LruCache::new(AHEAD_MAX);
        Self { known: Mutex::new(Known { references, blocks, ahead, allowed: 0 }) }
    }
}

impl ClosureWalk {
    /// A client asked for a path info.
    pub(crate) fn asked(&self) {
        let mut known = self.known();
        known.allowed = (known.allowed + KEYS_PER_QUESTION).min(ALLOWED_MAX);
    }

    /// Whether the records of the block were given to [`Self::learn`].
    pub(crate) fn knows(&self, bundle: BundleId, block: u16) -> bool {
        self.known().blocks.get(&(bundle, block)).is_some()
    }

    /// These are the records of a block.
    pub(crate) fn learn(&self, bundle: BundleId, block: u16, records: &[Arc<Record>]) {
        let mut known = self.known();
        known.blocks.put((bundle, block), ());
        for record in records {
            let Some(info) = record.path_info() else { continue };
            let references = info.references.iter().map(|path| ObjectKey::store_path(*path.hash()));
            known.references.put(record.key, references.filter(|key| *key != record.key).collect());
        }
    }

    /// What `key` refers to, through whatever is known, and was not looked up ahead; the nearest first. As many keys as
    /// clients' questions allow. What was looked up ahead is not gone through again.
    pub(crate) fn ahead_of(&self, key: ObjectKey) -> Vec<ObjectKey> {
        let known = &mut *self.known();
        let mut next = VecDeque::from([key]);
        let mut ahead = Vec::new();
        while let Some(key) = next.pop_front() {
            let Some(references) = known.references.get(&key).cloned() else { continue };
            for reference in references.iter() {
                if known.ahead.get(reference).is_some() {
                    continue;
                }
                if known.allowed == 0 {
                    return ahead;
                }
                known.allowed -= 1;
                known.ahead.put(*reference, ());
                ahead.push(*reference);
                next.push_back(*reference);
            }
        }
        ahead
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use firn_bundle::{Encoding, RecipeNumber, RecordBody};
    use firn_nix_format::{Compression, PathInfo, Sha256, StorePath};

    use super::*;

    fn path(number: u16) -> StorePath {
        let mut hash = [1; 20];
        hash[..2].copy_from_slice(&number.to_le_bytes());
        StorePath::from_parts(hash, "x").unwrap()
    }

    fn key(number: u16) -> ObjectKey {
        ObjectKey::store_path(*path(number).hash())
    }

    fn record(number: u16, references: impl IntoIterator<Item = u16>) -> Arc<Record> {
        let info = PathInfo {
            store_path: path(number),
            url: String::new(),
            compression: Compression::None,
            file_hash: None,
            file_size: None,
            nar_hash: Sha256::of(b""),
            nar_size: 0,
            references: references.into_iter().map(path).collect(),
            deriver: None,
            signatures: Vec::new(),
            ca: None,
            extra: Vec::new(),
        };
        Arc::new(Record {
            key: key(number),
            encoding: Encoding::Chunked,
            recipe: RecipeNumber::NONE,
            content_bytes: 0,
            chunk_list: 0..0,
            body: RecordBody::StorePath(Box::new(info)),
        })
    }

    const BUNDLE: BundleId = BundleId::from_bytes([1; 32]);

    #[test]
    fn what_is_referred_to_through_known_records_is_ahead_once_and_the_nearest_first() {
        let walk = ClosureWalk::default();
        walk.asked();
        walk.learn(BUNDLE, 3, &[record(1, [1, 2, 3]), record(2, [4]), record(3, [4, 2]), record(9, [10])]);
        assert!(walk.knows(BUNDLE, 3) && !walk.knows(BUNDLE, 4));
        assert_eq!(walk.ahead_of(key(1)), [key(2), key(3), key(4)]);
        assert_eq!(walk.ahead_of(key(1)), []);
        assert_eq!(walk.ahead_of(key(4)), [], "of what lies elsewhere nothing is known yet");
        walk.learn(BUNDLE, 4, &[record(4, [5, 1])]);
        assert_eq!(walk.ahead_of(key(4)), [key(5), key(1)]);
    }

    #[test]
    fn no_more_is_looked_up_ahead_than_questions_allow() {
        let walk = ClosureWalk::default();
        let records: Vec<_> = (0..3000).map(|number| record(number, [number + 1])).collect();
        walk.learn(BUNDLE, 0, &records);
        assert_eq!(walk.ahead_of(key(0)), [], "nobody asked");
        walk.asked();
        let ahead = walk.ahead_of(key(0));
        assert_eq!(ahead.len(), KEYS_PER_QUESTION);
        walk.asked();
        assert_eq!(walk.ahead_of(ahead[KEYS_PER_QUESTION - 1]).len(), KEYS_PER_QUESTION);
        (0..1000).for_each(|_| walk.asked());
        assert_eq!(walk.ahead_of(key(200)).len(), ALLOWED_MAX, "however many have asked");
    }
}
