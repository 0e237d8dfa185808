//! Chunks that lie in bundles of the archive already, found by what objects are like.
//!
//! Owns: looking for earlier objects, and which of their chunks an object has too. Always holds: a chunk that is handed out
//! was read from the archive and had its hash, so that nobody's word is taken for it; of manifests only the pieces are read
//! that concern a like object, through caches of bounded size; whatever cannot be read is not used, and no object fails for
//! it. Leaves to others: which bundles to depend on (`firn-client-logic`), packing.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use firn_base::{BundleId, Digest, Feature, ObjectKey};
use firn_bundle::{ChunkEntry, ChunkRef, ChunkRun, FeatureSampler, PartChunk, name_feature};
use firn_nix_format::PathInfo;
use firn_retrieval::{ManifestOptions, ObjectOptions, ObjectReader, ReadError};
use firn_wire::SimilarRecord;
use futures::{StreamExt, stream};

use crate::content::Content;
use crate::destination::Destination;

/// How much is remembered of manifests and frames. Objects come in the order in which those of last time were packed, so the
/// pieces that neighbours need are mostly the same.
pub(crate) const MANIFESTS: ManifestOptions =
    ManifestOptions { heads_bytes: 8 << 20, blocks_bytes: 16 << 20, tables_bytes: 16 << 20 };
/// See [`MANIFESTS`].
pub(crate) const FRAMES: ObjectOptions =
    ObjectOptions { bytes_ahead: 0, all_bytes_ahead: 0, frame_cache_bytes: 32 << 20 };

/// Objects whose names are asked for at once.
pub(crate) const NAMES_PER_REQUEST: usize = 512;

// Like objects that are looked at for one object: the latest of its name, and what shares chunks with it.
const RECORDS_MAX: usize = 4;

// Entries of a like object's chunk table that are read: one of the same name may be a thousand times as large.
const ENTRIES_PER_CHUNK_MAX: u64 = 8;
const ENTRIES_MIN: u64 = 1024;
const ENTRIES_PER_STEP: u32 = 2048;

// An object is looked for by its chunks if less than half of it was found by its name.
const ENOUGH_SHARE: u64 = 2;

// Chunks of one object that are read side by side.
const READS_AT_ONCE: usize = 8;

/// A chunk of an object that lies in an earlier bundle.
pub(crate) type EarlierChunk = (BundleId, PartChunk);

/// Looks for chunks in an archive. Clones share caches.
#[derive(Debug, Clone)]
pub(crate) struct EarlierChunks {
    destination: Arc<dyn Destination>,
    objects: ObjectReader,
}

/// What is still wanted of an object, and what was found.
struct Search {
    // Chunks that were not found, with their lengths.
    wanted: BTreeMap<Digest, u32>,
    found: Vec<(BundleId, u32, ChunkEntry)>,
    looked_at: BTreeSet<SimilarRecord>,
    entries_left: u64,
}

impl EarlierChunks {
    /// Looks in the archive that `objects` reads and `destination` asks.
    pub(crate) const fn new(destination: Arc<dyn Destination>, objects: ObjectReader) -> Self {
        Self { destination, objects }
    }

    /// The archived objects that are called as these paths are, the latest of each name first.
    pub(crate) async fn by_name<'a>(
        &self,
        paths: impl Iterator<Item = (&'a ObjectKey, &'a PathInfo)>,
    ) -> BTreeMap<ObjectKey, Vec<SimilarRecord>> {
        let (keys, features): (Vec<ObjectKey>, Vec<Feature>) =
            paths.map(|(key, info)| (*key, name_feature(&info.store_path))).unzip();
        let mut found = self.similar(features).await;
        // Whoever was not answered has been asked all the same.
        found.resize(keys.len(), Vec::new());
        keys.into_iter().zip(found).collect()
    }

    /// The chunks of `content` that earlier bundles hold; `named` are the archived objects of its name.
    pub(crate) async fn find(&self, content: &Content, named: &[SimilarRecord]) -> Vec<EarlierChunk> {
        let wanted: BTreeMap<Digest, u32> = content.chunks().collect();
        let entries = (wanted.len() as u64).saturating_mul(ENTRIES_PER_CHUNK_MAX).saturating_add(ENTRIES_MIN);
        let mut search =
            Search { wanted, found: Vec::new(), looked_at: BTreeSet::new(), entries_left: entries };
        let whole = search.wanted_bytes();
        self.look_at(&mut search, named).await;
        if search.wanted_bytes() > whole / ENOUGH_SHARE {
            let mut sampler = FeatureSampler::default();
            content.chunks().for_each(|(hash, _)| sampler.push(hash));
            let sharing: Vec<SimilarRecord> =
                self.similar(sampler.finish()).await.into_iter().flatten().collect();
            self.look_at(&mut search, &sharing).await;
        }
        self.read(search.found).await
    }

    async fn similar(&self, features: Vec<Feature>) -> Vec<Vec<SimilarRecord>> {
        if features.is_empty() {
            return Vec::new();
        }
        self.destination.similar(features).await.unwrap_or_else(|refused| {
            tracing::debug!(%refused, "what is similar was not asked: everything is stored anew");
            Vec::new()
        })
    }

    async fn look_at(&self, search: &mut Search, records: &[SimilarRecord]) {
        for record in records {
            if search.wanted.is_empty() || search.looked_at.len() >= RECORDS_MAX {
                return;
            }
            if search.looked_at.insert(*record)
                && let Err(error) = self.match_chunks(search, *record).await
            {
                tracing::debug!(bundle = %record.bundle, %error, "chunks of an earlier object are not used");
            }
        }
    }

    /// Takes the chunks of one earlier object that are wanted.
    async fn match_chunks(&self, search: &mut Search, like: SimilarRecord) -> Result<(), ReadError> {
        let (bundle, manifests) = (like.bundle, self.objects.manifests());
        let records = manifests.block(bundle, like.place.block).await?;
        let Some(record) = records.get(usize::from(like.place.entry)) else {
            return Err(ReadError::Damaged { bundle, what: "it has no such record".to_owned() });
        };
        let list = manifests.chunk_list(bundle, record).await?;
        for step in list.runs().iter().flat_map(steps) {
            let count = u64::from(step.count);
            if search.wanted.is_empty() || search.entries_left < count {
                return Ok(());
            }
            search.entries_left -= count;
            match step.first {
                ChunkRef::Own(first) => {
                    let numbers = first..first.saturating_add(step.count);
                    let entries = manifests.chunk_entries(bundle, numbers.clone()).await?;
                    search.take(bundle, numbers, &entries);
                }
                ChunkRef::Foreign(first) => {
                    self.match_foreign(search, bundle, first..first.saturating_add(step.count)).await?;
                }
            }
        }
        Ok(())
    }

    /// Takes chunks that the earlier object's bundle has from bundles before it: they are those bundles' chunks for us too.
    async fn match_foreign(
        &self,
        search: &mut Search,
        bundle: BundleId,
        numbers: Range<u32>,
    ) -> Result<(), ReadError> {
        let manifests = self.objects.manifests();
        let content = Arc::clone(&manifests.head(bundle).await?.content);
        for foreign in manifests.foreign_entries(bundle, numbers).await? {
            if search.wanted.get(&foreign.hash) != Some(&foreign.length) {
                continue;
            }
            let Some(owner) = content.dependencies().get(usize::from(foreign.dependency)) else {
                let what = "a chunk lies in a bundle it does not name".to_owned();
                return Err(ReadError::Damaged { bundle, what });
            };
            let numbers = foreign.number..foreign.number.saturating_add(1);
            let entries = manifests.chunk_entries(*owner, numbers.clone()).await?;
            search.take(*owner, numbers, &entries);
        }
        Ok(())
    }

    /// Reads what was found: those chunks that really lie there.
    async fn read(&self, mut found: Vec<(BundleId, u32, ChunkEntry)>) -> Vec<EarlierChunk> {
        // Those of one frame one behind the other: it is fetched once.
        found.sort_by_key(|(bundle, _, entry)| (*bundle, entry.frame, entry.offset));
        let read = |(bundle, number, entry): (BundleId, u32, ChunkEntry)| async move {
            match self.objects.check_chunk(bundle, entry).await {
                Ok(()) => Some((bundle, PartChunk { number, length: entry.length, hash: entry.hash })),
                Err(error) => {
                    tracing::debug!(%bundle, %error, "a chunk of an earlier bundle is not used");
                    None
                }
            }
        };
        stream::iter(found).map(read).buffered(READS_AT_ONCE).filter_map(async |chunk| chunk).collect().await
    }
}

impl Search {
    fn wanted_bytes(&self) -> u64 {
        self.wanted.values().map(|length| u64::from(*length)).sum()
    }

    fn take(&mut self, bundle: BundleId, numbers: Range<u32>, entries: &[ChunkEntry]) {
        for (number, entry) in numbers.zip(entries) {
            if self.wanted.get(&entry.hash) == Some(&entry.length) {
                self.wanted.remove(&entry.hash);
                self.found.push((bundle, number, *entry));
            }
        }
    }
}

/// A run in stretches that are read at once.
fn steps(run: &ChunkRun) -> impl Iterator<Item = ChunkRun> + use<> {
    let ChunkRun { first, count } = *run;
    (0..count).step_by(ENTRIES_PER_STEP as usize).map(move |done| ChunkRun {
        first: match first {
            ChunkRef::Own(first) => ChunkRef::Own(first.saturating_add(done)),
            ChunkRef::Foreign(first) => ChunkRef::Foreign(first.saturating_add(done)),
        },
        count: (count - done).min(ENTRIES_PER_STEP),
    })
}
