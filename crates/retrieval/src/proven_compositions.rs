//! Which compositions were found to give what was promised: an object is hashed whole once, not at every reading.
//!
//! A composition is all that decides the bytes of a content: lengths and hashes of its chunks in order, its patches and
//! the hash parts that they put in. Always holds: a composition is remembered only after bytes made by it had the
//! SHA-256 that was promised; whoever relies on one ends in an error if the chunks were others; memory is bounded.
//! Leaves to others: checking chunks (`checked_frame`), hashing (`verified_stream`).

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use firn_base::Digest;
use firn_bundle::{ChunkEntry, ChunkRef};
use firn_nix_format::Sha256;
use lru::LruCache;

use crate::content_stream::ContentSource;

// Some 4 MB. An object that fell out is hashed whole once more.
const COMPOSITIONS_MAX: NonZeroUsize = NonZeroUsize::new(1 << 15).expect("it is not zero");

/// What a content is called before its chunks are known.
type Name = [u8; 32];

/// The compositions that gave what was promised, those used last.
#[derive(Debug)]
pub(crate) struct ProvenCompositions {
    compositions: Mutex<LruCache<Name, Digest>>,
}

/// One whole reading of a content, which is hashed or relies on a composition.
#[derive(Debug)]
pub(crate) struct CompositionCheck {
    proven: Arc<ProvenCompositions>,
    name: Name,
    relied_on: Option<Digest>,
    found: Arc<OnceLock<Digest>>,
}

/// Writes down the composition while chunks are planned.
#[derive(Debug)]
pub(crate) struct CompositionWriter {
    hasher: Box<blake3::Hasher>,
    found: Arc<OnceLock<Digest>>,
}

impl Default for ProvenCompositions {
    fn default() -> Self {
        Self { compositions: Mutex::new(LruCache::new(COMPOSITIONS_MAX)) }
    }
}

impl ProvenCompositions {
    /// Begins to read all of `content`, which is to have this SHA-256.
    pub(crate) fn begin(
        self: &Arc<Self>,
        content: &ContentSource,
        sha256: Sha256,
    ) -> (CompositionCheck, CompositionWriter) {
        let name = name(content, sha256);
        let found = Arc::<OnceLock<Digest>>::default();
        let mut hasher = Box::<blake3::Hasher>::default();
        hasher.update(&name);
        let writer = CompositionWriter { hasher, found: Arc::clone(&found) };
        (CompositionCheck { proven: Arc::clone(self), name, relied_on: None, found }, writer)
    }

    fn lock(&self) -> MutexGuard<'_, LruCache<Name, Digest>> {
        self.compositions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl CompositionWriter {
    /// The next chunk of the content.
    pub(crate) fn chunk(&mut self, entry: &ChunkEntry) {
        self.hasher.update(&entry.length.to_le_bytes());
        self.hasher.update(entry.hash.as_bytes());
    }

    /// There are no more chunks.
    pub(crate) fn end(&self) {
        let _ = self.found.set(Digest::from_bytes(*self.hasher.finalize().as_bytes()));
    }
}

impl CompositionCheck {
    /// Whether the bytes need not be hashed, or no longer: chunks that were checked, of a composition that was, maybe by
    /// another reading that began together with this one.
    pub(crate) fn is_relied_on(&mut self) -> bool {
        if self.relied_on.is_none() {
            self.relied_on = self.proven.lock().get(&self.name).copied();
        }
        self.relied_on.is_some()
    }

    /// Whether the chunks were those of the composition that was relied on. If not it is forgotten.
    pub(crate) fn holds(&self) -> bool {
        let holds = self.relied_on.is_some() && self.relied_on.as_ref() == self.found.get();
        if !holds {
            self.proven.lock().pop(&self.name);
        }
        holds
    }

    /// The bytes had the SHA-256 that was promised.
    pub(crate) fn remember(&self) {
        if let Some(composition) = self.found.get() {
            self.proven.lock().put(self.name, *composition);
        }
    }
}

/// All that is known of a content beforehand, so that different ones have different names.
fn name(content: &ContentSource, sha256: Sha256) -> Name {
    let mut hasher = blake3::Hasher::new();
    hasher.update(content.bundle.as_bytes()).update(content.key.to_bytes().as_slice());
    hasher.update(sha256.as_bytes()).update(&content.bytes.to_le_bytes());
    let mut count = |count: usize| {
        hasher.update(&(count as u64).to_le_bytes());
    };
    count(content.list.runs().len());
    count(content.list.patches().len());
    count(content.hash_parts.len());
    for run in content.list.runs() {
        let (kind, number) = match run.first {
            ChunkRef::Own(number) => (0, number),
            ChunkRef::Foreign(number) => (1, number),
        };
        hasher.update(&[kind]).update(&number.to_le_bytes()).update(&run.count.to_le_bytes());
    }
    for patch in content.list.patches() {
        hasher.update(&patch.offset.to_le_bytes()).update(&patch.reference.to_le_bytes());
    }
    for part in &content.hash_parts {
        hasher.update(part);
    }
    hasher.finalize().into()
}
