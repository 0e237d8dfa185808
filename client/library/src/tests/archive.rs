//! An archive in this process: shards in files, signatures real, commits checked, faults on demand.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use firn_base::{
    ArchiveId, BundleId, BundleNumber, CodingId, Feature, KeyKind, NodeId, ObjectKey, ReservationId, Scheme,
    ShardIndex, Timestamp,
};
use firn_bundle::{
    BundleReader, BundleRole, CodingHeader, ContentHeader, Encoding, FeatureReader, Manifest, Record,
    RestoreError,
};
use firn_client_logic::{SendFailure, ShardSend};
use firn_erasure::Coder;
use firn_retrieval::ObjectReader;
use firn_transport::{BoxFuture, Committed};
use firn_wire::{
    CommitRequest, CompactRequest, GatheredPlace, HeldPath, Identity, NodeAddress, OrderRank, Receipt,
    RecordPlace, RefusalKind, RefusedRequest, ReservationGrant, ReserveRequest, SIMILAR_RECORDS_MAX, Signed,
    SimilarRecord, Ticket,
};
use tokio::sync::watch;

use crate::code::CodedBundle;
use crate::destination::Destination;

const ARCHIVE: ArchiveId = ArchiveId::from_bytes([1; 32]);
const PIECE_BYTES: u64 = 100_000;
const RANK: OrderRank = OrderRank { generation: 1, epoch: 1 };

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

fn coordinator() -> Identity {
    Identity::from_seed(&[200; 32])
}

fn node(number: u8) -> Identity {
    Identity::from_seed(&[number; 32])
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

    fn check_silence(&self) -> Result<(), RefusedRequest> {
        match self.state().faults.commits_until_silence {
            Some(0) => Err(RefusedRequest::new(RefusalKind::Unavailable, "nobody answers")),
            _ => Ok(()),
        }
    }

    fn reserve_now(&self, request: &ReserveRequest) -> Result<ReservationGrant, RefusedRequest> {
        self.check_silence()?;
        let mut state = self.state();
        let content = ContentHeader::parse(&request.content_header).unwrap();
        let coding = CodingHeader::parse(&request.coding_header).unwrap();
        coding.check_belongs_to(&content).unwrap();
        if let Some(kind) = state.faults.refuse_reservations {
            return Err(RefusedRequest::new(kind, "the archive says no"));
        }
        if let Some(scheme) = state.faults.change_scheme.take() {
            state.scheme = scheme;
        }
        if let Some(scheme) = state.faults.grow_to.take() {
            state.scheme = scheme;
        } else if coding.k() != state.scheme.k() {
            return Err(RefusedRequest::new(RefusalKind::SchemeChanged, "the scheme changed"));
        }
        if state.bundles.contains_key(&content.bundle_id()) {
            return Err(RefusedRequest::new(RefusalKind::AlreadyDone, "the bundle is committed"));
        }
        if state.faults.reservations_until_full.is_some_and(|granted| state.counter >= granted) {
            return Err(RefusedRequest::new(RefusalKind::Full, "the archive is full"));
        }
        state.counter += 1;
        let reservation = ReservationId::from_bytes([state.counter; 32]);
        let scheme = state.scheme;
        let targets = (0..scheme.n()).map(|index| {
            let id = node(index).node_id();
            let ticket = Ticket {
                node: id,
                bearer: coordinator().public(),
                reservation,
                coding: coding.coding_id(),
                index: ShardIndex(index),
                shard_bytes: coding.shard_bytes(),
                root: coding.root(ShardIndex(index)).unwrap(),
                expires: Timestamp::from_millis(u64::MAX),
                rank: RANK,
            };
            let address = NodeAddress { node: id, address: index.to_string(), online: true };
            (address, Signed::seal(&coordinator(), ARCHIVE, &ticket))
        });
        let expires = Timestamp::from_millis(u64::MAX);
        let grant = ReservationGrant { reservation, scheme, expires, targets: targets.collect() };
        state.reservations.insert(reservation, (content, coding, scheme));
        Ok(grant)
    }

    fn store_now(&self, send: &ShardSend, bundle: &CodedBundle) -> Result<Signed<Receipt>, SendFailure> {
        let number: u8 = send.target.address.parse().unwrap();
        if self.state().faults.broken_nodes.contains(&usize::from(number)) {
            return Err(SendFailure { retry: false, sentence: "the disk is full".into() });
        }
        let ticket = send.ticket.peek().unwrap();
        let mut file = fs::File::create(self.shard_file(ticket.coding, ticket.index)).unwrap();
        let mut hasher = blake3::Hasher::new();
        let mut offset = 0;
        while offset < ticket.shard_bytes {
            let length = (ticket.shard_bytes - offset).min(PIECE_BYTES);
            let mut piece = vec![0; usize::try_from(length).unwrap()];
            bundle.read_shard(ticket.index, offset, &mut piece).unwrap();
            hasher.update(&piece);
            file.write_all(&piece).unwrap();
            offset += length;
        }
        assert_eq!(hasher.finalize().as_bytes(), ticket.root.as_bytes(), "shard {}", ticket.index);
        Ok(Signed::seal(&node(number), ARCHIVE, &ticket.receipt()))
    }

    /// Takes bundles that hold all records of others, once each, and forgets the others.
    fn compact_now(&self, request: CompactRequest) -> Result<Committed, RefusedRequest> {
        let CompactRequest { bundles, gathered } = request;
        let mut left: BTreeMap<GatheredPlace, ObjectKey> = BTreeMap::new();
        for (bundle, id) in (0..).zip(&gathered.bundles) {
            let state = self.state();
            for located in state.bundles[id].manifest.records() {
                let located = located.unwrap();
                let place = RecordPlace { block: located.block, entry: located.entry };
                left.insert(GatheredPlace { bundle, place }, located.record.key);
            }
        }
        for (uploaded, from) in bundles.iter().zip(&gathered.from) {
            let content = self.state().reservations[&uploaded.reservation].0.clone();
            let manifest = Manifest::parse_whole(&content, uploaded.manifest.clone()).unwrap();
            let keys: Vec<ObjectKey> =
                manifest.records().map(|located| located.unwrap().record.key).collect();
            assert_eq!(keys.len(), from.len());
            for (key, from) in keys.iter().zip(from) {
                assert_eq!(left.remove(from), Some(*key), "it comes from where it is said to");
            }
            assert!(content.dependencies().iter().all(|named| !gathered.bundles.contains(named)));
        }
        assert!(left.is_empty(), "{left:?} are left behind");
        let committed = self.commit_now(CommitRequest { bundles, externals: Vec::new(), replaces: None })?;
        self.state().bundles.retain(|id, _| !gathered.bundles.contains(id));
        Ok(committed)
    }

    fn commit_now(&self, request: CommitRequest) -> Result<Committed, RefusedRequest> {
        self.check_silence()?;
        let mut state = self.state();
        if state.faults.expired_commits > 0 {
            state.faults.expired_commits -= 1;
            state.reservations.clear();
        }
        let replaced = std::mem::take(&mut state.faults.replace_at_commit);
        state.faults.replaced.extend(replaced);
        if state.faults.refused_commits > 0 {
            state.faults.refused_commits -= 1;
            return Err(RefusedRequest::new(RefusalKind::Malformed, "not today: publish them again"));
        }
        let expired = || RefusedRequest::new(RefusalKind::Expired, "the reservation has ended");
        let mut ids = Vec::new();
        let mut keys = Vec::new();
        for bundle in request.bundles {
            let (content, coding, scheme) =
                state.reservations.get(&bundle.reservation).cloned().ok_or_else(expired)?;
            if state.bundles.contains_key(&content.bundle_id()) {
                return Err(RefusedRequest::new(RefusalKind::AlreadyDone, "the bundle is committed"));
            }
            let indexes: BTreeSet<ShardIndex> = bundle
                .receipts
                .iter()
                .map(|receipt| {
                    let opened = receipt.open(ARCHIVE).unwrap();
                    assert_eq!(opened.reservation, bundle.reservation);
                    assert_eq!(NodeId::from(opened.signer()), opened.node);
                    opened.index
                })
                .collect();
            assert!(indexes.len() >= usize::from(scheme.commit_threshold()), "{} receipts", indexes.len());
            let manifest = Manifest::parse_whole(&content, bundle.manifest).unwrap();
            for dependency in content.dependencies() {
                if state.faults.replaced.contains(dependency) {
                    return Err(RefusedRequest::new(RefusalKind::Malformed, "a dependency was replaced"));
                }
                assert!(state.bundles.contains_key(dependency), "parts come before their head");
            }
            for located in manifest.records() {
                let record = located.unwrap().record;
                keys.push(record.key);
                state.entries.insert(record.key, (content.bundle_id(), record));
            }
            ids.push(content.bundle_id());
            state.bundles.insert(content.bundle_id(), CommittedBundle { content, coding, manifest });
        }
        state.externals.extend(request.externals);
        let held: Vec<HeldPath> = keys
            .iter()
            .filter(|key| !state.is_visible(key))
            .map(|key| HeldPath { key: *key, waiting_for: state.lacking(key) })
            .collect();
        let bundles = ids.iter().map(|_| BundleNumber(0)).collect();
        state.commits.push(ids);
        if let Some(left) = &mut state.faults.commits_until_silence {
            *left -= 1;
        }
        if state.faults.lost_answers > 0 {
            state.faults.lost_answers -= 1;
            return Err(RefusedRequest::new(RefusalKind::Unavailable, "the answer was lost"));
        }
        Ok(Committed { bundles, visible: (keys.len() - held.len()) as u64, held })
    }
}

impl State {
    /// Records with a feature, those of the last commit first.
    fn similar(&self, feature: Feature) -> Vec<SimilarRecord> {
        let bundles = self.commits.iter().rev().flatten();
        let records = bundles.flat_map(|bundle| {
            let manifest = &self.bundles[bundle].manifest;
            let mut reader = FeatureReader::new(manifest);
            manifest.records().map(Result::unwrap).filter_map(move |located| {
                let place = RecordPlace { block: located.block, entry: located.entry };
                let features = reader.features(&located.record).unwrap();
                features.contains(&feature).then_some(SimilarRecord { bundle: *bundle, place })
            })
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

impl Destination for TestArchive {
    fn presence(&self, keys: Vec<ObjectKey>) -> BoxFuture<'_, Result<Vec<bool>, RefusedRequest>> {
        Box::pin(async move {
            self.check_silence()?;
            let state = self.state();
            Ok(keys.iter().map(|key| state.entries.contains_key(key)).collect())
        })
    }

    fn visible(&self, keys: Vec<ObjectKey>) -> BoxFuture<'_, Result<Vec<bool>, RefusedRequest>> {
        Box::pin(async move {
            let state = self.state();
            Ok(keys.iter().map(|key| state.entries.contains_key(key) && state.is_visible(key)).collect())
        })
    }

    fn similar(
        &self,
        features: Vec<Feature>,
    ) -> BoxFuture<'_, Result<Vec<Vec<SimilarRecord>>, RefusedRequest>> {
        Box::pin(async move {
            self.check_silence()?;
            let state = self.state();
            Ok(features.iter().map(|feature| state.similar(*feature)).collect())
        })
    }

    fn scheme(&self) -> BoxFuture<'_, Result<Scheme, RefusedRequest>> {
        Box::pin(async move { self.check_silence().map(|()| self.state().scheme) })
    }

    fn reserve(&self, request: ReserveRequest) -> BoxFuture<'_, Result<ReservationGrant, RefusedRequest>> {
        Box::pin(async move { self.reserve_now(&request) })
    }

    fn store<'a>(
        &'a self,
        send: &'a ShardSend,
        bundle: Arc<CodedBundle>,
    ) -> BoxFuture<'a, Result<Signed<Receipt>, SendFailure>> {
        Box::pin(async move {
            let wanted = self.stores_wait_for.load(Ordering::SeqCst);
            // The sender is here, so it ends.
            let _ = self.packed.subscribe().wait_for(|packed| *packed >= wanted).await;
            tokio::task::yield_now().await;
            self.store_now(send, &bundle)
        })
    }

    fn commit(&self, request: CommitRequest) -> BoxFuture<'_, Result<Committed, RefusedRequest>> {
        Box::pin(async move { self.commit_now(request) })
    }

    fn compact(&self, request: CompactRequest) -> BoxFuture<'_, Result<Committed, RefusedRequest>> {
        Box::pin(async move { self.compact_now(request) })
    }

    fn replaced(&self, bundles: Vec<BundleId>) -> BoxFuture<'_, Result<Vec<BundleId>, RefusedRequest>> {
        Box::pin(async move {
            let state = self.state();
            Ok(bundles.into_iter().filter(|bundle| state.faults.replaced.contains(bundle)).collect())
        })
    }

    fn archived(&self, bundles: Vec<BundleId>) -> BoxFuture<'_, Result<Vec<bool>, RefusedRequest>> {
        Box::pin(async move {
            self.check_silence()?;
            let state = self.state();
            let there = |bundle| state.bundles.contains_key(bundle) || state.faults.replaced.contains(bundle);
            Ok(bundles.iter().map(there).collect())
        })
    }

    fn late_receipts(&self, receipts: Vec<Signed<Receipt>>) -> BoxFuture<'_, Result<(), RefusedRequest>> {
        Box::pin(async move {
            self.state().late += receipts.len();
            Ok(())
        })
    }

    fn release(&self, _: Vec<ReservationId>) -> BoxFuture<'_, Result<(), RefusedRequest>> {
        Box::pin(async { Ok(()) })
    }
}

/// The encoding that a key is kept in.
pub(super) fn encoding_of(archive: &TestArchive, key: ObjectKey) -> Encoding {
    assert_eq!(key.kind(), KeyKind::StorePath);
    archive.record(key).encoding
}
