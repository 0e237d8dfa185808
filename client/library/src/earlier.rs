//! Chunks that lie in bundles of the archive already, found by what objects are like.
//!
//! Owns: looking for earlier objects, and which of their chunks an object has too. Always holds: a chunk that is handed out
//! was read from the archive and had its hash, so that nobody's word is taken for it; of manifests only the pieces are read
//! that concern a like object, through caches of bounded size; nothing lies in a bundle that comes together with others one day,
//! unless it is wished, for whoever used its chunks would keep it from that; whatever cannot be read is not used, no object fails
//! or waits without end for it, and it hides no other bundle that holds the same chunk. Leaves to others: which bundles to depend on
//! (`firn-client-logic`), packing.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use firn_base::{BundleId, Digest, Feature, ObjectKey};
use firn_bundle::{ChunkEntry, ChunkRef, ChunkRun, FeatureSampler, PartChunk, comes_together, name_feature};
use firn_nix_format::PathInfo;
use firn_retrieval::{ManifestHead, ManifestOptions, ObjectOptions, ObjectReader, ReadError};
use firn_wire::SimilarRecord;
use futures::{StreamExt, stream};
use tokio::sync::Semaphore;
use tokio::time::timeout;

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

// Like objects that are looked at for one object: the latest of its name, and besides what shares chunks with it. A name with
// many unlike builds must not use up what the chunks might find.
const NAMED_RECORDS_MAX: usize = 2;
const SHARING_RECORDS_MAX: usize = 4;

// Entries of a like object's chunk table that are read: one of the same name may be a thousand times as large.
const ENTRIES_PER_CHUNK_MAX: u64 = 8;
const ENTRIES_MIN: u64 = 1024;
const ENTRIES_PER_STEP: u32 = 2048;

// What those of its name leave of an object is looked for by its chunks, but for a little: 256 KiB, for which alone no bundle is
// worth depending on, or a 64th. That takes a request for each object, and looks at up to eight times the entries of its chunks:
// half a per cent of its bytes, at the worst.
const LEFT_BYTES_MAX: u64 = 256 << 10;
const LEFT_SHARE: u64 = 64;

// Of a few chunks that are wanted by themselves half is much.
const LEFT_OF_FEW_SHARE: u64 = 2;

// Frames that are read side by side for one object, and objects that are looked for at once: each frame takes up to 8 MiB
// meanwhile, 1.5 MiB as our publisher makes them, so all together 24 MiB of memory and 128 MiB at the worst.
const READS_AT_ONCE: usize = 4;
const FINDS_AT_ONCE: usize = 4;

// How long an object is looked for: then what was found so far has to do. Who cannot read 2 MiB in a second stores anew.
const PATIENCE: Duration = Duration::from_secs(30);
const BYTES_PER_SECOND_MIN: u64 = 2 << 20;

// Bundles that are not asked for again in this publish because something of them could not be read: the latest ones.
const BAD_BUNDLES_MAX: usize = 64;

/// A chunk of an object that lies in an earlier bundle.
pub(crate) type EarlierChunk = (BundleId, PartChunk);

/// Looks for chunks in an archive. Clones share caches.
#[derive(Debug, Clone)]
pub(crate) struct EarlierChunks {
    destination: Arc<dyn Destination>,
    objects: ObjectReader,
    patience: Duration,
    finds: Arc<Semaphore>,
    // Whether chunks of bundles are used that come together with others one day.
    uses_small: bool,
    going: Arc<BTreeSet<BundleId>>,
    bad: Arc<Mutex<VecDeque<BundleId>>>,
    refusal_told: Arc<AtomicBool>,
}

/// Chunks that a record says lie in a frame: their numbers in their bundle's table, and their entries.
type Claims = BTreeMap<(BundleId, u32), BTreeMap<u32, ChunkEntry>>;

/// What is still wanted of an object, and what was found.
struct Search {
    // Chunks that were not read so far, with their lengths.
    wanted: BTreeMap<Digest, u32>,
    found: Vec<EarlierChunk>,
    looked_at: BTreeSet<SimilarRecord>,
    entries_left: u64,
}

impl EarlierChunks {
    /// Looks in the archive that `objects` reads and `destination` asks.
    pub(crate) fn new(destination: Arc<dyn Destination>, objects: ObjectReader) -> Self {
        Self::with_patience(destination, objects, PATIENCE)
    }

    /// One that looks for so long, and a little longer for large objects.
    pub(crate) fn with_patience(
        destination: Arc<dyn Destination>,
        objects: ObjectReader,
        patience: Duration,
    ) -> Self {
        let finds = Arc::new(Semaphore::new(FINDS_AT_ONCE));
        Self {
            destination,
            objects,
            patience,
            finds,
            uses_small: false,
            going: Arc::default(),
            bad: Arc::default(),
            refusal_told: Arc::default(),
        }
    }

    /// One that finds nothing in these bundles.
    pub(crate) fn without(self, going: Arc<BTreeSet<BundleId>>) -> Self {
        Self { going, ..self }
    }

    /// One that finds in small bundles too what lies in them, if that is wished.
    pub(crate) fn in_small_bundles_too(self, wished: bool) -> Self {
        Self { uses_small: wished, ..self }
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
        self.find_among(content.chunks().collect(), content, named).await
    }

    /// Those of the chunks `wanted` of `content`, with their lengths, that earlier bundles hold; `named` are the archived
    /// objects of its name.
    pub(crate) async fn find_among(
        &self,
        wanted: BTreeMap<Digest, u32>,
        content: &Content,
        named: &[SimilarRecord],
    ) -> Vec<EarlierChunk> {
        let entries = (wanted.len() as u64).saturating_mul(ENTRIES_PER_CHUNK_MAX).saturating_add(ENTRIES_MIN);
        let mut search =
            Search { wanted, found: Vec::new(), looked_at: BTreeSet::new(), entries_left: entries };
        // It is never closed.
        let Ok(_one_of_few) = self.finds.acquire().await else { return Vec::new() };
        let patience = self.patience + Duration::from_secs(search.wanted_bytes() / BYTES_PER_SECOND_MIN);
        if timeout(patience, self.search(&mut search, content, named)).await.is_err() {
            tracing::debug!("chunks of an earlier object are not waited for any longer");
        }
        search.found
    }

    async fn search(&self, search: &mut Search, content: &Content, named: &[SimilarRecord]) {
        let whole = search.wanted_bytes();
        self.look_at(search, named, NAMED_RECORDS_MAX).await;
        if is_little(search.wanted_bytes(), whole) {
            return;
        }
        // What is like the part that is left has something of it. What is like the whole, as a build for another system is, may
        // have the rest, though the chunks by which it is found are found already.
        let mut features = sampled(search.wanted.keys().copied());
        for feature in sampled(content.chunks().map(|(hash, _)| hash)) {
            if !features.contains(&feature) {
                features.push(feature);
            }
        }
        let sharing = latest_of_each(&self.similar(features).await);
        self.look_at(search, &sharing, SHARING_RECORDS_MAX).await;
    }

    async fn similar(&self, features: Vec<Feature>) -> Vec<Vec<SimilarRecord>> {
        if features.is_empty() {
            return Vec::new();
        }
        self.destination.similar(features).await.unwrap_or_else(|refused| {
            if !self.refusal_told.swap(true, Ordering::Relaxed) {
                tracing::warn!(%refused, "what is similar is not told: objects are stored anew as a whole");
            }
            Vec::new()
        })
    }

    /// Looks at up to `count_max` of these records that nobody has looked at.
    async fn look_at(&self, search: &mut Search, records: &[SimilarRecord], count_max: usize) {
        let mut looked_at = 0;
        for record in records {
            if search.wanted.is_empty() || looked_at == count_max {
                return;
            }
            if self.is_bad(record.bundle) || !search.looked_at.insert(*record) {
                continue;
            }
            match self.objects.manifests().head(record.bundle).await {
                // It counts for none: a row of small publishes must not hide the full bundle behind them, where that is told.
                Ok(head) if !self.gives_own(&head) && head.content.dependencies().is_empty() => continue,
                Ok(_) => looked_at += 1,
                Err(error) => {
                    looked_at += 1;
                    self.note_bad(record.bundle, &error);
                    continue;
                }
            }
            let mut claims = Claims::new();
            if let Err(error) = self.match_chunks(search, &mut claims, *record).await {
                self.note_bad(record.bundle, &error);
            }
            self.read(search, claims).await;
        }
    }

    /// Takes the chunks of one earlier object that are wanted.
    async fn match_chunks(
        &self,
        search: &mut Search,
        claims: &mut Claims,
        like: SimilarRecord,
    ) -> Result<(), ReadError> {
        let (bundle, manifests) = (like.bundle, self.objects.manifests());
        let records = manifests.block(bundle, like.place.block).await?;
        let Some(record) = records.get(usize::from(like.place.entry)) else {
            return Err(ReadError::Damaged { bundle, what: "it has no such record".to_owned() });
        };
        let list = manifests.chunk_list(bundle, record).await?;
        let head = manifests.head(bundle).await?;
        let gives_own = self.gives_own(&head);
        for step in list.runs().iter().flat_map(steps) {
            if matches!(step.first, ChunkRef::Own(_)) && !gives_own {
                continue;
            }
            let count = u64::from(step.count);
            if search.entries_left < count {
                return Ok(());
            }
            search.entries_left -= count;
            match step.first {
                ChunkRef::Own(first) => {
                    let numbers = first..first.saturating_add(step.count);
                    let entries = manifests.chunk_entries(bundle, numbers.clone()).await?;
                    search.claim(claims, bundle, numbers, &entries);
                }
                ChunkRef::Foreign(first) => {
                    let numbers = first..first.saturating_add(step.count);
                    self.match_foreign(search, claims, bundle, numbers).await?;
                }
            }
        }
        Ok(())
    }

    /// Takes chunks that the earlier object's bundle has from bundles before it: they are those bundles' chunks for us too.
    async fn match_foreign(
        &self,
        search: &Search,
        claims: &mut Claims,
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
            if self.is_bad(*owner) {
                continue;
            }
            match manifests.head(*owner).await {
                Ok(head) if self.gives_own(&head) => {}
                Ok(_) => continue,
                Err(error) => {
                    self.note_bad(*owner, &error);
                    continue;
                }
            }
            let numbers = foreign.number..foreign.number.saturating_add(1);
            match manifests.chunk_entries(*owner, numbers.clone()).await {
                Ok(entries) => search.claim(claims, *owner, numbers, &entries),
                // Of others it has chunks all the same.
                Err(error) => self.note_bad(*owner, &error),
            }
        }
        Ok(())
    }

    /// Reads what a record says: those chunks that really lie there are found.
    async fn read(&self, search: &mut Search, claims: Claims) {
        let read = |((bundle, frame), chunks): ((BundleId, u32), BTreeMap<u32, ChunkEntry>)| async move {
            if self.is_bad(bundle) {
                return Vec::new();
            }
            let entries = chunks.values().copied().collect();
            match self.objects.check_chunks(bundle, frame, entries).await {
                Ok(()) => chunks.into_iter().map(|(number, entry)| (bundle, number, entry)).collect(),
                Err(error) => {
                    self.note_bad(bundle, &error);
                    Vec::new()
                }
            }
        };
        let mut frames = stream::iter(claims).map(read).buffered(READS_AT_ONCE);
        while let Some(chunks) = frames.next().await {
            for (bundle, number, entry) in chunks {
                // Two of its chunks may be the same.
                if search.wanted.remove(&entry.hash).is_some() {
                    let ChunkEntry { length, hash, .. } = entry;
                    search.found.push((bundle, PartChunk { number, length, hash }));
                }
            }
        }
    }

    /// Whether chunks that lie in a bundle may be used.
    fn gives_own(&self, head: &ManifestHead) -> bool {
        let (content, records) = (&head.content, u64::from(head.header.record_count()));
        self.uses_small || !comes_together(content.role(), content.payload_bytes(), records)
    }

    /// Whether a bundle is going, or something of it could not be read.
    fn is_bad(&self, bundle: BundleId) -> bool {
        self.going.contains(&bundle)
            || self.bad.lock().unwrap_or_else(PoisonError::into_inner).contains(&bundle)
    }

    /// Nothing more is asked of a bundle of which something could not be read.
    fn note_bad(&self, bundle: BundleId, error: &ReadError) {
        tracing::debug!(%bundle, %error, "chunks of an earlier bundle are not used");
        let mut bad = self.bad.lock().unwrap_or_else(PoisonError::into_inner);
        if !bad.contains(&bundle) {
            bad.push_back(bundle);
        }
        if bad.len() > BAD_BUNDLES_MAX {
            bad.pop_front();
        }
    }
}

impl Search {
    fn wanted_bytes(&self) -> u64 {
        self.wanted.values().map(|length| u64::from(*length)).sum()
    }

    /// Adds those of a bundle's chunks to `claims` that are wanted.
    fn claim(&self, claims: &mut Claims, bundle: BundleId, numbers: Range<u32>, entries: &[ChunkEntry]) {
        for (number, entry) in numbers.zip(entries) {
            if self.wanted.get(&entry.hash) == Some(&entry.length) {
                claims.entry((bundle, entry.frame)).or_default().insert(number, *entry);
            }
        }
    }
}

/// Whether so little is left of so many wanted bytes that nobody is asked for it.
fn is_little(left_bytes: u64, whole_bytes: u64) -> bool {
    left_bytes <= LEFT_BYTES_MAX.min(whole_bytes / LEFT_OF_FEW_SHARE)
        || left_bytes <= whole_bytes / LEFT_SHARE
}

/// By what objects are found that share some of these chunks; nothing if they are few.
fn sampled(chunks: impl Iterator<Item = Digest>) -> Vec<Feature> {
    let mut sampler = FeatureSampler::default();
    chunks.for_each(|hash| sampler.push(hash));
    sampler.finish()
}

/// The latest record that has each of several features, then the one before it: one chunk that many unlike objects have must not
/// use up all that is looked at.
fn latest_of_each(found: &[Vec<SimilarRecord>]) -> Vec<SimilarRecord> {
    let ranks = found.iter().map(Vec::len).max().unwrap_or(0);
    (0..ranks).flat_map(|rank| found.iter().filter_map(move |records| records.get(rank).copied())).collect()
}

/// A run in stretches that are read at once.
pub(crate) fn steps(run: &ChunkRun) -> impl Iterator<Item = ChunkRun> + use<> {
    let ChunkRun { first, count } = *run;
    (0..count).step_by(ENTRIES_PER_STEP as usize).map(move |done| ChunkRun {
        first: match first {
            ChunkRef::Own(first) => ChunkRef::Own(first.saturating_add(done)),
            ChunkRef::Foreign(first) => ChunkRef::Foreign(first.saturating_add(done)),
        },
        count: (count - done).min(ENTRIES_PER_STEP),
    })
}

#[cfg(test)]
mod tests {
    use firn_wire::RecordPlace;

    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn what_is_left_is_worth_a_request_if_it_is_more_than_256_kib_and_a_64th_or_half_of_a_few_chunks() {
        assert!(is_little(256 << 10, 4 * MIB));
        assert!(!is_little((256 << 10) + 1, 4 * MIB));
        assert!(!is_little(3 * MIB, 13 * MIB), "a quarter of a rebuild");
        assert!(is_little(MIB, 64 * MIB));
        assert!(!is_little(MIB + 1, 64 * MIB));
        assert!(is_little(100 << 10, 200 << 10));
        assert!(!is_little((100 << 10) + 1, 200 << 10));
        assert!(is_little(0, 0));
        assert!(!is_little(1, 1));
    }

    #[test]
    fn the_latest_of_each_chunk_comes_before_those_that_had_one_of_them_earlier() {
        let record = |number: u8| SimilarRecord {
            bundle: BundleId::from_bytes([number; 32]),
            place: RecordPlace { block: 0, entry: 0 },
        };
        let found = [vec![1, 2, 3, 4], vec![], vec![5], vec![1, 6]];
        let found = found.map(|records| records.into_iter().map(record).collect::<Vec<_>>());
        assert_eq!(latest_of_each(&found), [1, 5, 1, 2, 6, 3, 4].map(record));
        assert!(latest_of_each(&[]).is_empty());
    }
}
