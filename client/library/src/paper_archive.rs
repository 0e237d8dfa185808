//! An archive on paper: it takes what a publish brings, and keeps the bundles in the publisher's own spool.
//!
//! Owns: what measurements and estimates publish into. Always holds: everything that a publish does is done, from reading the
//! source to coding, restore check and commit, but for sending shards and keeping them; what was committed stays readable
//! while the archive lives. Leaves to others: receipts that prove anything (its nodes sign without having stored).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use firn_base::{
    ArchiveId, BundleId, BundleNumber, CodingId, Feature, ObjectKey, ReservationId, Scheme, ShardIndex,
    Timestamp,
};
use firn_bundle::{CodingHeader, ContentHeader, FeatureReader, Manifest, ReadAt};
use firn_client_logic::{PublishSummary, SendFailure, ShardSend};
use firn_nix_format::PublisherKey;
use firn_retrieval::{ManifestReader, ObjectReader, PayloadReader, ReadError};
use firn_transport::{BoxFuture, Committed, Environment};
use firn_wire::{
    CommitRequest, CompactRequest, Identity, NodeAddress, OrderRank, Receipt, RecordPlace, RefusalKind,
    RefusedRequest, ReservationGrant, ReserveRequest, SIMILAR_RECORDS_MAX, Signed, SimilarRecord, Ticket,
};

use crate::code::CodedBundle;
use crate::compact::{CompactError, CompactOptions, Compacted, compact_in};
use crate::destination::Destination;
use crate::earlier::{FRAMES, MANIFESTS};
use crate::events::PublishEvents;
use crate::publish::publish_into;
use crate::publish_options::{PublishOptions, PublishStopped};
use crate::spooled_bundle::SpooledBundle;

const ARCHIVE: ArchiveId = ArchiveId::from_bytes([1; 32]);
const RANK: OrderRank = OrderRank { generation: 1, epoch: 1 };

/// An archive on paper. Clones are the same archive.
#[derive(Debug, Clone)]
pub struct PaperArchive {
    inner: Arc<Inner>,
}

/// A bundle that was committed.
#[derive(Clone)]
pub struct PaperBundle {
    /// What its payload is.
    pub content: ContentHeader,
    /// How it was coded.
    pub coding: CodingHeader,
    /// What lies in it.
    pub manifest: Arc<Manifest>,
    /// Its payload.
    pub payload: Arc<dyn ReadAt + Send + Sync>,
}

/// What publishes have asked of an archive on paper so far, to find what it has already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PaperRequests {
    /// Requests for what is similar.
    pub similar_requests: u64,
    /// Features in them.
    pub features: u64,
    /// Bytes read of manifests.
    pub manifest_bytes: u64,
    /// Bytes read of frames.
    pub frame_bytes: u64,
}

#[derive(Debug)]
struct Inner {
    scheme: Scheme,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    reservations: BTreeMap<ReservationId, (ContentHeader, CodingHeader)>,
    // Bundles of which a shard was brought.
    brought: BTreeMap<CodingId, Arc<CodedBundle>>,
    bundles: Vec<PaperBundle>,
    numbers: BTreeMap<BundleId, usize>,
    keys: BTreeSet<ObjectKey>,
    features: BTreeMap<Feature, Vec<SimilarRecord>>,
    requests: PaperRequests,
}

impl fmt::Debug for PaperBundle {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("PaperBundle").field("id", &self.content.bundle_id()).finish_non_exhaustive()
    }
}

impl PaperArchive {
    /// An empty archive that codes so.
    pub fn new(scheme: Scheme) -> Self {
        Self { inner: Arc::new(Inner { scheme, state: Mutex::default() }) }
    }

    /// Publishes what these publishers have signed.
    ///
    /// # Errors
    /// As [`crate::publish()`].
    pub async fn publish(
        &self,
        publishers: Vec<PublisherKey>,
        environment: &Environment,
        options: PublishOptions,
        events: PublishEvents,
    ) -> Result<PublishSummary, PublishStopped> {
        let destination: Arc<dyn Destination> = Arc::<Inner>::clone(&self.inner);
        let objects = self.objects(environment);
        publish_into(destination, Some(objects), publishers, environment, options, events).await
    }

    /// Packs bundles of it together, as [`crate::compact()`] does.
    ///
    /// # Errors
    /// As [`crate::compact()`]. Then they are as they were.
    pub async fn compact(
        &self,
        environment: &Environment,
        options: &CompactOptions,
        events: PublishEvents,
    ) -> Result<Compacted, CompactError> {
        let destination: Arc<dyn Destination> = Arc::<Inner>::clone(&self.inner);
        compact_in(destination, &self.objects(environment), environment, options, events).await
    }

    /// What reads its objects.
    pub(crate) fn objects(&self, environment: &Environment) -> ObjectReader {
        let payloads: Arc<dyn PayloadReader> = Arc::<Inner>::clone(&self.inner);
        ObjectReader::new(ManifestReader::new(payloads, MANIFESTS), environment.clone(), FRAMES)
    }

    /// What was asked of it so far.
    pub fn requests(&self) -> PaperRequests {
        self.inner.state().requests
    }

    /// What was committed so far, in this order; what took the place of others stands where the last of them stood.
    pub fn bundles(&self) -> Vec<PaperBundle> {
        self.inner.state().bundles.clone()
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn grant(&self, request: &ReserveRequest) -> Result<ReservationGrant, RefusedRequest> {
        let content = ContentHeader::parse(&request.content_header).map_err(malformed)?;
        let coding = CodingHeader::parse(&request.coding_header).map_err(malformed)?;
        coding.check_belongs_to(&content).map_err(malformed)?;
        let reservation = ReservationId::from_bytes(*coding.coding_id().as_bytes());
        let targets = (0..self.scheme.n()).map(ShardIndex).filter_map(|index| {
            let node = node(index).node_id();
            let ticket = Ticket {
                node,
                bearer: coordinator().public(),
                reservation,
                coding: coding.coding_id(),
                index,
                shard_bytes: coding.shard_bytes(),
                root: coding.root(index)?,
                expires: Timestamp::from_millis(u64::MAX),
                rank: RANK,
            };
            let address = NodeAddress { node, address: index.to_string(), online: true };
            Some((address, Signed::seal(&coordinator(), ARCHIVE, &ticket)))
        });
        let expires = Timestamp::from_millis(u64::MAX);
        let grant =
            ReservationGrant { reservation, scheme: self.scheme, expires, targets: targets.collect() };
        self.state().reservations.insert(reservation, (content, coding));
        Ok(grant)
    }

    fn take(&self, send: &ShardSend, bundle: Arc<CodedBundle>) -> Result<Signed<Receipt>, SendFailure> {
        let ticket =
            send.ticket.peek().map_err(|error| SendFailure { retry: false, sentence: error.to_string() })?;
        self.state().brought.insert(ticket.coding, bundle);
        Ok(Signed::seal(&node(ticket.index), ARCHIVE, &ticket.receipt()))
    }

    /// Takes bundles, in the place of `gone` ones if there are any.
    fn enter(&self, request: CommitRequest, gone: &BTreeSet<BundleId>) -> Result<Committed, RefusedRequest> {
        let mut state = self.state();
        let (mut entered, mut told, mut visible) = (Vec::new(), Vec::new(), 0);
        for bundle in request.bundles {
            let nothing = || RefusedRequest::new(RefusalKind::Expired, "nothing is reserved");
            let (content, coding) = state.reservations.remove(&bundle.reservation).ok_or_else(nothing)?;
            let payload = state.brought.remove(&coding.coding_id()).ok_or_else(nothing)?;
            let payload: Arc<dyn ReadAt + Send + Sync> = Arc::<SpooledBundle>::clone(payload.bundle());
            let manifest = Manifest::parse_whole(&content, bundle.manifest).map_err(malformed)?;
            let mut reader = FeatureReader::new(&manifest);
            let mut records = Vec::new();
            for located in manifest.records() {
                let located = located.map_err(malformed)?;
                let features = reader.features(&located.record).map_err(malformed)?;
                let place = RecordPlace { block: located.block, entry: located.entry };
                records.push((SimilarRecord { bundle: content.bundle_id(), place }, features));
                visible += u64::from(state.keys.insert(located.record.key));
            }
            told.push(records);
            entered.push(PaperBundle { content, coding, manifest: Arc::new(manifest), payload });
        }
        // As coordinators do: in the place of others the last bundle comes first, and of a bundle the last record always.
        if !gone.is_empty() {
            told.reverse();
        }
        for (record, features) in told.into_iter().flat_map(|records| records.into_iter().rev()) {
            for feature in features {
                remember(state.features.entry(feature).or_default(), record, gone);
            }
        }
        let bundles = (0..).take(entered.len()).map(BundleNumber).collect();
        for bundle in entered {
            let number = state.bundles.len();
            state.numbers.insert(bundle.content.bundle_id(), number);
            state.bundles.push(bundle);
        }
        Ok(Committed { bundles, visible, held: Vec::new() })
    }

    /// Takes bundles in the place of others, which are forgotten.
    fn gather(&self, request: CompactRequest) -> Result<Committed, RefusedRequest> {
        let CompactRequest { bundles, gathered } = request;
        let gone: BTreeSet<BundleId> = gathered.bundles.into_iter().collect();
        let is_gone = |bundle: &BundleId| gone.contains(bundle);
        let request = CommitRequest { bundles, externals: Vec::new(), replaces: None };
        let entered = self.enter(request, &gone)?;
        let mut state = self.state();
        for records in state.features.values_mut() {
            records.retain(|record| !is_gone(&record.bundle));
        }
        let mut old = std::mem::take(&mut state.bundles);
        let new = old.split_off(old.len().saturating_sub(entered.bundles.len()));
        let last = old.iter().rposition(|bundle| is_gone(&bundle.content.bundle_id()));
        let behind = old.split_off(last.map_or(old.len(), |last| last + 1));
        old.retain(|bundle| !is_gone(&bundle.content.bundle_id()));
        let all: Vec<PaperBundle> = old.into_iter().chain(new).chain(behind).collect();
        state.numbers = all.iter().map(|bundle| bundle.content.bundle_id()).zip(0..).collect();
        state.bundles = all;
        Ok(entered)
    }

    fn bundle(&self, bundle: BundleId) -> Result<PaperBundle, ReadError> {
        let state = self.state();
        let own = state.numbers.get(&bundle).and_then(|number| state.bundles.get(*number));
        own.cloned().ok_or(ReadError::UnknownBundle { bundle })
    }

    fn has(&self, keys: &[ObjectKey]) -> Vec<bool> {
        let state = self.state();
        keys.iter().map(|key| state.keys.contains(key)).collect()
    }
}

impl Destination for Inner {
    fn presence(&self, keys: Vec<ObjectKey>) -> BoxFuture<'_, Result<Vec<bool>, RefusedRequest>> {
        Box::pin(async move { Ok(self.has(&keys)) })
    }

    fn visible(&self, keys: Vec<ObjectKey>) -> BoxFuture<'_, Result<Vec<bool>, RefusedRequest>> {
        Box::pin(async move { Ok(self.has(&keys)) })
    }

    fn similar(
        &self,
        features: Vec<Feature>,
    ) -> BoxFuture<'_, Result<Vec<Vec<SimilarRecord>>, RefusedRequest>> {
        Box::pin(async move {
            let mut state = self.state();
            state.requests.similar_requests += 1;
            state.requests.features += features.len() as u64;
            let found = features.iter().map(|feature| state.features.get(feature));
            Ok(found.map(|found| found.cloned().unwrap_or_default()).collect())
        })
    }

    fn scheme(&self) -> BoxFuture<'_, Result<Scheme, RefusedRequest>> {
        Box::pin(async move { Ok(self.scheme) })
    }

    fn reserve(&self, request: ReserveRequest) -> BoxFuture<'_, Result<ReservationGrant, RefusedRequest>> {
        Box::pin(async move { self.grant(&request) })
    }

    fn store<'a>(
        &'a self,
        send: &'a ShardSend,
        bundle: Arc<CodedBundle>,
    ) -> BoxFuture<'a, Result<Signed<Receipt>, SendFailure>> {
        Box::pin(async move { self.take(send, bundle) })
    }

    fn commit(&self, request: CommitRequest) -> BoxFuture<'_, Result<Committed, RefusedRequest>> {
        Box::pin(async move { self.enter(request, &BTreeSet::new()) })
    }

    fn compact(&self, request: CompactRequest) -> BoxFuture<'_, Result<Committed, RefusedRequest>> {
        Box::pin(async move { self.gather(request) })
    }

    fn replaced(&self, _: Vec<BundleId>) -> BoxFuture<'_, Result<Vec<BundleId>, RefusedRequest>> {
        // Whatever is replaced on paper is gone at once.
        Box::pin(async { Ok(Vec::new()) })
    }

    fn archived(&self, bundles: Vec<BundleId>) -> BoxFuture<'_, Result<Vec<bool>, RefusedRequest>> {
        Box::pin(async move { Ok(bundles.into_iter().map(|bundle| self.bundle(bundle).is_ok()).collect()) })
    }

    fn late_receipts(&self, _: Vec<Signed<Receipt>>) -> BoxFuture<'_, Result<(), RefusedRequest>> {
        Box::pin(async { Ok(()) })
    }

    fn release(&self, _: Vec<ReservationId>) -> BoxFuture<'_, Result<(), RefusedRequest>> {
        Box::pin(async { Ok(()) })
    }
}

impl PayloadReader for Inner {
    fn content(&self, bundle: BundleId) -> BoxFuture<'_, Result<Arc<ContentHeader>, ReadError>> {
        Box::pin(async move { Ok(Arc::new(self.bundle(bundle)?.content)) })
    }

    fn read(&self, bundle: BundleId, range: Range<u64>) -> BoxFuture<'_, Result<Bytes, ReadError>> {
        Box::pin(async move {
            let own = self.bundle(bundle)?;
            let bytes = own.content.payload_bytes();
            let outside = ReadError::OutOfRange { start: range.start, end: range.end, bytes };
            let length = range.end.checked_sub(range.start).filter(|_| range.end <= bytes);
            let length = length.and_then(|length| usize::try_from(length).ok()).ok_or(outside)?;
            let mut piece = vec![0; length];
            let damaged = |error: io::Error| ReadError::Damaged { bundle, what: error.to_string() };
            own.payload.read_exact_at(range.start, &mut piece).map_err(damaged)?;
            let manifest_begins = own.content.manifest_extent().start;
            let frames = manifest_begins.clamp(range.start, range.end) - range.start;
            let mut state = self.state();
            state.requests.frame_bytes += frames;
            state.requests.manifest_bytes += length as u64 - frames;
            Ok(piece.into())
        })
    }
}

/// Remembers that a record has a feature, of which these are known, the latest first: one of a bundle, and what takes the place of
/// `gone` ones stands where the latest of those did.
fn remember(known: &mut Vec<SimilarRecord>, record: SimilarRecord, gone: &BTreeSet<BundleId>) {
    if known.iter().any(|other| other.bundle == record.bundle) {
        return;
    }
    let latest = known.iter().position(|other| gone.contains(&other.bundle));
    known.retain(|other| !gone.contains(&other.bundle));
    let place = if gone.is_empty() { 0 } else { latest.unwrap_or(known.len()) };
    known.insert(place, record);
    known.truncate(SIMILAR_RECORDS_MAX);
}

fn coordinator() -> Identity {
    Identity::from_seed(&[200; 32])
}

fn node(index: ShardIndex) -> Identity {
    Identity::from_seed(&[index.0; 32])
}

fn malformed(error: impl fmt::Display) -> RefusedRequest {
    RefusedRequest::new(RefusalKind::Malformed, error.to_string())
}

#[cfg(test)]
mod tests {
    use firn_bundle::BundleReader;
    use firn_nix_format::Compression;

    use super::*;
    use crate::tests::cache::{Cache, noise};

    #[test]
    fn a_feature_has_one_place_of_a_bundle_and_what_takes_the_place_of_others_is_no_later_than_they() {
        let record = |bundle: u8, entry: u16| SimilarRecord {
            bundle: BundleId::from_bytes([bundle; 32]),
            place: RecordPlace { block: 0, entry },
        };
        let (mut known, none) = (Vec::new(), BTreeSet::new());
        for (bundle, entry) in [(1, 0), (2, 2), (2, 1), (3, 0), (4, 0)] {
            remember(&mut known, record(bundle, entry), &none);
        }
        assert_eq!(known, [(4, 0), (3, 0), (2, 2), (1, 0)].map(|(bundle, entry)| record(bundle, entry)));
        let gone = [1, 3].map(|bundle| record(bundle, 0).bundle).into();
        for entry in [1, 0] {
            remember(&mut known, record(7, entry), &gone);
        }
        assert_eq!(known, [(4, 0), (7, 1), (2, 2)].map(|(bundle, entry)| record(bundle, entry)));
        remember(&mut known, record(8, 0), &gone);
        assert_eq!(known.last(), Some(&record(8, 0)), "of the others nothing was left to take");
        for bundle in 10..20 {
            remember(&mut known, record(bundle, 0), &none);
        }
        assert_eq!(known.len(), SIMILAR_RECORDS_MAX);
    }

    #[tokio::test]
    async fn what_is_published_on_paper_again_uses_what_is_there() {
        let archive = PaperArchive::new(Scheme::new(16, 40).unwrap());
        for version in ["hello-1.0", "hello-1.1"] {
            let mut cache = Cache::new();
            cache.add_path(version, &noise(600_000, 1), Compression::None, &[]);
            let options = PublishOptions { reuse_small_bundles: true, ..PublishOptions::new(cache.source()) };
            let publishers = vec![cache.publisher()];
            archive.publish(publishers, &Environment::real(), options, PublishEvents::none()).await.unwrap();
        }
        let [first, second] = &archive.bundles()[..] else { panic!("a bundle each") };
        assert_eq!(second.content.dependencies(), [first.content.bundle_id()]);
        assert!(second.content.payload_bytes() < 10_000, "{:?}", second.content);
    }

    #[tokio::test]
    async fn what_was_published_on_paper_is_there_once_and_reads_as_it_was() {
        let cache = Cache::sound();
        let archive = PaperArchive::new(Scheme::new(16, 40).unwrap());
        let (publishers, environment) = (vec![cache.publisher()], Environment::real());
        for published in [cache.nars.len() as u64, 0] {
            let options = PublishOptions::new(cache.source());
            let summary = archive
                .publish(publishers.clone(), &environment, options, PublishEvents::none())
                .await
                .unwrap();
            assert_eq!((summary.paths_published, summary.exit_code()), (published, 0), "{summary}");
        }
        let [bundle] = &archive.bundles()[..] else { panic!("one bundle holds them all") };
        assert_eq!((bundle.coding.k(), bundle.coding.bundle()), (16, bundle.content.bundle_id()));
        let mut reader = BundleReader::new(Manifest::clone(&bundle.manifest), &*bundle.payload);
        for located in bundle.manifest.records() {
            let record = located.unwrap().record;
            let mut nar = Vec::new();
            let no_other = |_: &_| panic!("the bundle depends on no other");
            reader
                .restore(&record, no_other, |piece| {
                    nar.extend_from_slice(piece);
                    Ok(())
                })
                .unwrap();
            let path = record.path_info().unwrap().store_path.base_name().to_owned();
            assert!(cache.nars[&path] == nar, "{path} comes back as another");
        }
    }
}
