//! An archive in this process: shards in files, signatures real, commits checked, faults on demand.

mod destination;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use firn_base::{BundleId, CodingId, Feature, KeyKind, ObjectKey, ReservationId, Scheme, ShardIndex};
use firn_bundle::{
    BundleReader, BundleRole, CodingHeader, ContentHeader, Encoding, FeatureReader, Manifest, Record,
    RestoreError,
};
use firn_erasure::Coder;
use firn_retrieval::ObjectReader;
use firn_wire::{RecordPlace, RefusalKind, SIMILAR_RECORDS_MAX, SimilarRecord};
use tokio::sync::watch;

/// What goes wrong, each so many times.
#[derive(Debug, Default)]
pub(super) struct Faults {
    /// Nodes that refuse every shard.
    pub(super) broken_nodes: BTreeSet<usize>,
    /// Reservations that answer `SchemeChanged`; then the scheme is this.
    pub(super) change_scheme: Option<Scheme>,
    /// Grants that ask for more shards than the scheme said.
    pub(super) grow_to: Option<Scheme>,
    /// Commits that are refused, whatever they bring.
    pub(super) refused_commits: u32,
    /// Bundles that others take the place of just before the next commit.
    pub(super) replace_at_commit: Vec<BundleId>,
    /// Bundles that others have taken the place of: nothing that uses their chunks is taken.
    pub(super) replaced: BTreeSet<BundleId>,
    /// Commits that answer `Expired`.
    pub(super) expired_commits: u32,
    /// Commits that are carried out and whose answer is lost.
    pub(super) lost_answers: u32,
    /// Reservations that answer so.
    pub(super) refuse_reservations: Option<RefusalKind>,
    /// Reservations that are granted; then the archive is full.
    pub(super) reservations_until_full: Option<u8>,
    /// Commits after which every request is refused as `Unavailable`.
    pub(super) commits_until_silence: Option<u32>,
}

#[derive(Debug)]
pub(super) struct TestArchive {
    place: tempfile::TempDir,
    state: Mutex<State>,
    // Objects that were packed, and before how many of them no node stores anything.
    packed: watch::Sender<u64>,
    stores_wait_for: AtomicU64,
}

#[derive(Debug)]
struct State {
    scheme: Scheme,
    faults: Faults,
    reservations: BTreeMap<ReservationId, (ContentHeader, CodingHeader, Scheme)>,
    bundles: BTreeMap<BundleId, CommittedBundle>,
    commits: Vec<Vec<BundleId>>,
    entries: BTreeMap<ObjectKey, (BundleId, Record)>,
    externals: BTreeSet<ObjectKey>,
    late: usize,
    lying: bool,
    // Bundles whose frames cannot be read, and how often one was asked for.
    lost: BTreeSet<BundleId>,
    reads_in_vain: usize,
    // Whoever reads waits for ever.
    stalled: bool,
    counter: u8,
}

#[derive(Debug)]
struct CommittedBundle {
    content: ContentHeader,
    coding: CodingHeader,
    manifest: Manifest,
}

impl TestArchive {
    pub(super) fn new(k: u8, n: u8) -> Arc<Self> {
        Self::with_faults(k, n, Faults::default())
    }

    pub(super) fn with_faults(k: u8, n: u8, faults: Faults) -> Arc<Self> {
        let state = State {
            scheme: Scheme::new(k, n).unwrap(),
            faults,
            reservations: BTreeMap::new(),
            bundles: BTreeMap::new(),
            commits: Vec::new(),
            entries: BTreeMap::new(),
            externals: BTreeSet::new(),
            late: 0,
            lying: false,
            lost: BTreeSet::new(),
            reads_in_vain: 0,
            stalled: false,
            counter: 0,
        };
        Arc::new(Self {
            place: tempfile::tempdir().unwrap(),
            state: Mutex::new(state),
            packed: watch::Sender::new(0),
            stores_wait_for: AtomicU64::new(0),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn shard_file(&self, coding: CodingId, index: ShardIndex) -> PathBuf {
        self.place.path().join(format!("{}-{index}", coding.short()))
    }

    /// From now on nodes store nothing before so many objects were packed.
    pub(super) fn let_stores_wait_for(&self, packed: u64) {
        self.stores_wait_for.store(packed, Ordering::SeqCst);
    }

    /// One more object was packed: how many there are.
    pub(super) fn note_packed(&self) -> u64 {
        self.packed.send_modify(|packed| *packed += 1);
        *self.packed.borrow()
    }

    /// Ends the faults.
    pub(super) fn heal(&self) {
        self.state().faults = Faults::default();
    }

    pub(super) fn keys(&self) -> Vec<ObjectKey> {
        self.state().entries.keys().copied().collect()
    }

    pub(super) fn externals(&self) -> Vec<ObjectKey> {
        self.state().externals.iter().copied().collect()
    }

    /// How many bundles each commit had.
    pub(super) fn commits(&self) -> Vec<usize> {
        self.state().commits.iter().map(Vec::len).collect()
    }

    pub(super) fn late_receipts_seen(&self) -> usize {
        self.state().late
    }

    /// Committed bundles, in their order.
    pub(super) fn bundles(&self) -> Vec<BundleId> {
        self.state().commits.concat()
    }

    /// So many commits are refused, whatever they bring.
    pub(super) fn refuse_commits(&self, commits: u32) {
        self.state().faults.refused_commits = commits;
    }

    /// Others take the place of this bundle just before the next commit.
    pub(super) fn replace_at_commit(&self, bundle: BundleId) {
        self.state().faults.replace_at_commit.push(bundle);
    }

    /// How many reservations were granted.
    pub(super) fn reservations(&self) -> usize {
        usize::from(self.state().counter)
    }

    /// So many commits are carried out, and nobody hears of it.
    pub(super) fn lose_answers(&self, answers: u32) {
        self.state().faults.lost_answers = answers;
    }

    /// How many more commits nobody hears of.
    pub(super) fn answers_to_lose(&self) -> u32 {
        self.state().faults.lost_answers
    }

    /// From now on others have taken the place of this bundle.
    pub(super) fn replace(&self, bundle: BundleId) {
        self.state().faults.replaced.insert(bundle);
    }

    /// From now on nodes send other bytes than were committed.
    pub(super) fn lie(&self) {
        self.state().lying = true;
    }

    /// From now on nobody sends frames of this bundle.
    pub(super) fn lose(&self, bundle: BundleId) {
        self.state().lost.insert(bundle);
    }

    /// Whether nobody sends frames of this bundle; who wants to know is counted if so.
    pub(super) fn is_lost(&self, bundle: BundleId) -> bool {
        let mut state = self.state();
        let is_lost = state.lost.contains(&bundle);
        state.reads_in_vain += usize::from(is_lost);
        is_lost
    }

    /// From now on nothing that is read comes.
    pub(super) fn stall(&self) {
        self.state().stalled = true;
    }

    pub(super) fn is_stalled(&self) -> bool {
        self.state().stalled
    }

    /// Where every record lies.
    pub(super) fn all_records(&self) -> Vec<SimilarRecord> {
        let state = self.state();
        let mut all = Vec::new();
        for (bundle, committed) in &state.bundles {
            for located in committed.manifest.records() {
                let located = located.unwrap();
                let place = RecordPlace { block: located.block, entry: located.entry };
                all.push(SimilarRecord { bundle: *bundle, place });
            }
        }
        all
    }

    /// The keys of a bundle's records, in their order.
    pub(super) fn keys_of(&self, bundle: BundleId) -> Vec<ObjectKey> {
        let state = self.state();
        state.bundles[&bundle].manifest.records().map(|located| located.unwrap().record.key).collect()
    }

    pub(super) fn reads_in_vain(&self) -> usize {
        self.state().reads_in_vain
    }

    /// What reads the archive's objects.
    pub(super) fn objects(self: &Arc<Self>) -> ObjectReader {
        super::earlier::reader(self, self.state().lying)
    }

    pub(super) fn content_of(&self, bundle: BundleId) -> Option<ContentHeader> {
        self.state().bundles.get(&bundle).map(|bundle| bundle.content.clone())
    }

    pub(super) fn payload_of(&self, bundle: BundleId) -> Vec<u8> {
        self.payload(&self.state().bundles[&bundle])
    }

    fn content_with(&self, key: ObjectKey) -> ContentHeader {
        let state = self.state();
        state.bundles[&state.entries[&key].0].content.clone()
    }

    /// The bundles that the bundle of a key depends on.
    pub(super) fn dependencies_of(&self, key: ObjectKey) -> Vec<BundleId> {
        self.content_with(key).dependencies().to_vec()
    }

    pub(super) fn role_of(&self, key: ObjectKey) -> BundleRole {
        self.content_with(key).role()
    }

    /// How the record of a key reads.
    pub(super) fn record(&self, key: ObjectKey) -> Record {
        self.state().entries[&key].1.clone()
    }

    /// How many patches an object has.
    pub(super) fn patches(&self, key: ObjectKey) -> usize {
        let state = self.state();
        let (bundle, record) = &state.entries[&key];
        state.bundles[bundle].manifest.chunk_list(record).unwrap().patches().len()
    }

    /// Gives `sink` an object's content, rebuilt from the last k shards that there are: mostly parity.
    pub(super) fn restore_into(&self, key: ObjectKey, sink: impl FnMut(&[u8]) -> io::Result<()>) {
        let state = self.state();
        let (bundle, record) = &state.entries[&key];
        let own = &state.bundles[bundle];
        let mut reader = self.reader(own);
        let mut parts: Vec<_> =
            own.content.dependencies().iter().map(|part| self.reader(&state.bundles[part])).collect();
        let foreign = |entry: &firn_bundle::ForeignChunk| {
            let part = &mut parts[usize::from(entry.dependency)];
            Ok::<_, RestoreError>(part.chunk(entry.number)?.to_vec())
        };
        reader.restore(record, foreign, sink).unwrap();
    }

    pub(super) fn restore(&self, key: ObjectKey) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.restore_into(key, |piece| {
            bytes.extend_from_slice(piece);
            Ok(())
        });
        bytes
    }

    fn reader(&self, bundle: &CommittedBundle) -> BundleReader<Vec<u8>> {
        BundleReader::new(bundle.manifest.clone(), self.payload(bundle))
    }

    fn payload(&self, bundle: &CommittedBundle) -> Vec<u8> {
        let coder = Coder::new(bundle.coding.k()).unwrap();
        let id = bundle.coding.coding_id();
        let there = (0..u8::try_from(coder.n_max()).unwrap()).rev().map(ShardIndex);
        let shards: Vec<(ShardIndex, Vec<u8>)> = there
            .filter_map(|index| Some((index, fs::read(self.shard_file(id, index)).ok()?)))
            .take(coder.k())
            .collect();
        let present: Vec<(ShardIndex, &[u8])> =
            shards.iter().map(|(index, bytes)| (*index, &bytes[..])).collect();
        let shard_bytes = usize::try_from(bundle.coding.shard_bytes()).unwrap();
        let mut payload = vec![0; shard_bytes * coder.k()];
        let mut wanted: Vec<(ShardIndex, &mut [u8])> =
            (0..).map(ShardIndex).zip(payload.chunks_mut(shard_bytes)).collect();
        coder.rebuild(&present, &mut wanted).unwrap();
        payload.truncate(usize::try_from(bundle.content.payload_bytes()).unwrap());
        assert_eq!(blake3::hash(&payload).as_bytes(), bundle.content.payload_root().as_bytes());
        payload
    }
}

impl State {
    /// The last record with a feature of each bundle, those of the last commit first.
    fn similar(&self, feature: Feature) -> Vec<SimilarRecord> {
        let bundles = self.commits.iter().rev().flatten();
        let records = bundles.filter_map(|bundle| {
            let manifest = &self.bundles.get(bundle)?.manifest;
            let mut reader = FeatureReader::new(manifest);
            let records = manifest.records().map(Result::unwrap);
            let having =
                records.filter(|located| reader.features(&located.record).unwrap().contains(&feature));
            let last = having.last()?;
            let place = RecordPlace { block: last.block, entry: last.entry };
            Some(SimilarRecord { bundle: *bundle, place })
        });
        records.take(SIMILAR_RECORDS_MAX).collect()
    }

    fn references(&self, key: &ObjectKey) -> Vec<ObjectKey> {
        let Some((_, record)) = self.entries.get(key) else { return Vec::new() };
        let references = record.path_info().into_iter().flat_map(|info| &info.references);
        references
            .map(|path| ObjectKey::store_path(*path.hash()))
            .filter(|reference| reference != key)
            .collect()
    }

    /// Whether everything below the key is committed or external.
    fn is_visible(&self, key: &ObjectKey) -> bool {
        let mut seen = BTreeSet::from([*key]);
        let mut open = vec![*key];
        while let Some(key) = open.pop() {
            if self.externals.contains(&key) {
                continue;
            }
            if !self.entries.contains_key(&key) {
                return false;
            }
            open.extend(self.references(&key).into_iter().filter(|reference| seen.insert(*reference)));
        }
        true
    }

    fn lacking(&self, key: &ObjectKey) -> Vec<ObjectKey> {
        self.references(key).into_iter().filter(|reference| !self.is_visible(reference)).collect()
    }
}

/// The encoding that a key is kept in.
pub(super) fn encoding_of(archive: &TestArchive, key: ObjectKey) -> Encoding {
    assert_eq!(key.kind(), KeyKind::StorePath);
    archive.record(key).encoding
}
