//! An archive in memory, with a gateway's router in front of it.
#![allow(dead_code, reason = "each test program uses a part of this")]
#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use firn_base::{BundleId, BundleNumber, Location, NodeId, ObjectKey, Timestamp};
use firn_bundle::{Blob, BundleBuilder, Chunker, ContentHeader, Encoding, NewRecord};
use firn_gateway::{
    BundleStanding, CoordinatorsAway, CoreParts, FeedTail, GatewayBody, GatewayCore, KeyIndex, KeyView,
    NarCompression, RecordPlace, Router, WhenUnreadable,
};
use firn_nix_format::{
    Compression, NarNode, PathInfo, PublisherSecretKey, Sha256, StorePath, nar, nixbase32,
};
use firn_retrieval::{
    ManifestOptions, ManifestReader, ObjectOptions, ObjectReader, PayloadReader, ReadError,
};
use firn_transport::Environment;
use firn_wire::{FeedEvent, IndexRangePage, IndexRangeRequest, IndexedKey};
use futures::FutureExt;
use futures::future::BoxFuture;
use http_body_util::BodyExt;
use hyper::{Request, Response};
use tokio::sync::watch;

/// Bundles in memory; nodes and coordinators can be away.
#[derive(Debug, Default)]
pub(crate) struct MemoryArchive {
    bundles: BTreeMap<BundleId, (Arc<ContentHeader>, Mutex<Vec<u8>>)>,
    places: BTreeMap<ObjectKey, Vec<RecordPlace>>,
    erased: Mutex<Option<BundleId>>,
    pub(crate) nodes_away: AtomicBool,
    pub(crate) coordinators_away: AtomicBool,
    pub(crate) lookups: AtomicUsize,
    /// Reads of payloads.
    pub(crate) reads: AtomicUsize,
    /// Nodes take requests and never answer.
    pub(crate) nodes_silent: AtomicBool,
    pub(crate) open_reads: watch::Sender<usize>,
    /// How long coordinators and nodes take to answer.
    pub(crate) latency: Duration,
}

/// A read that has not ended.
struct OpenRead<'a>(&'a watch::Sender<usize>);

impl<'a> OpenRead<'a> {
    fn begin(count: &'a watch::Sender<usize>) -> Self {
        count.send_modify(|open| *open += 1);
        Self(count)
    }
}

impl Drop for OpenRead<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|open| *open -= 1);
    }
}

impl PayloadReader for MemoryArchive {
    fn content(&self, bundle: BundleId) -> BoxFuture<'_, Result<Arc<ContentHeader>, ReadError>> {
        let content = self.bundles.get(&bundle).map(|(content, _)| Arc::clone(content));
        async move { content.ok_or(ReadError::UnknownBundle { bundle }) }.boxed()
    }

    fn read(&self, bundle: BundleId, range: Range<u64>) -> BoxFuture<'_, Result<Bytes, ReadError>> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        async move {
            let _open = OpenRead::begin(&self.open_reads);
            tokio::time::sleep(self.latency).await;
            if self.nodes_silent.load(Ordering::Relaxed) {
                return std::future::pending().await;
            }
            if self.nodes_away.load(Ordering::Relaxed) {
                return Err(ReadError::Unreadable { bundle, have: 3, need: 4 });
            }
            let known = self.bundles.get(&bundle).filter(|_| !self.is_erased(bundle));
            let (_, payload) = known.ok_or(ReadError::UnknownBundle { bundle })?;
            let range = usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap();
            Ok(Bytes::copy_from_slice(&payload.lock().unwrap()[range]))
        }
        .boxed()
    }
}

impl KeyIndex for MemoryArchive {
    fn coordinators(&self) -> Vec<NodeId> {
        vec![NodeId::from_bytes([1; 32])]
    }

    fn page(
        &self,
        _: Option<NodeId>,
        request: IndexRangeRequest,
    ) -> BoxFuture<'_, Result<IndexRangePage, CoordinatorsAway>> {
        self.lookups.fetch_add(1, Ordering::Relaxed);
        async move {
            tokio::time::sleep(self.latency).await;
            if self.coordinators_away.load(Ordering::Relaxed) {
                return Err(CoordinatorsAway { cause: "all are away".to_owned() });
            }
            let covered = self.places.iter().filter(|(key, _)| request.prefix.covers(key));
            let keys = covered.filter_map(|(key, places)| {
                let here = places.iter().filter(|place| !self.is_erased(place.bundle));
                let locations: Vec<_> = here.map(|place| self.location(place)).collect();
                (!locations.is_empty()).then_some(IndexedKey { key: *key, locations })
            });
            Ok(IndexRangePage { position: self.places.len() as u64, keys: keys.collect(), more: false })
        }
        .boxed()
    }

    fn standing(&self, bundle: BundleId) -> BoxFuture<'_, Result<BundleStanding, CoordinatorsAway>> {
        async move {
            if self.coordinators_away.load(Ordering::Relaxed) || !self.bundles.contains_key(&bundle) {
                return Err(CoordinatorsAway { cause: "all are away".to_owned() });
            }
            let committed_at = Timestamp::from_millis(1_795_383_909_000);
            Ok(BundleStanding { committed_at, k: 4, n: 6, held: 6, online: 5 })
        }
        .boxed()
    }

    fn places(&self, locations: Vec<Location>) -> BoxFuture<'_, Result<Vec<RecordPlace>, CoordinatorsAway>> {
        let bundles: Vec<_> = self.bundles.keys().copied().collect();
        let place = |location: Location| RecordPlace {
            bundle: bundles[usize::try_from(location.bundle.0).unwrap()],
            block: location.block,
            entry: location.entry,
        };
        let places = locations.into_iter().map(place).collect();
        async move { Ok(places) }.boxed()
    }
}

/// Packs bundles into an archive, one at a time.
#[derive(Default)]
pub(crate) struct ArchiveMaker {
    archive: MemoryArchive,
    open: Option<BundleBuilder>,
}

impl ArchiveMaker {
    /// Adds an object with `contents` as they shall be archived.
    pub(crate) fn object(&mut self, record: NewRecord, contents: &[u8]) {
        let builder = self.open.get_or_insert_with(|| BundleBuilder::new(Default::default()));
        builder.begin_object();
        let mut chunker = Chunker::new();
        let mut push = |chunk: &[u8]| builder.push_chunk(chunk).map(drop);
        chunker.push(contents, &mut push).unwrap();
        chunker.finish(&mut push).unwrap();
        builder.finish_object(record).unwrap();
    }

    /// Adds a store path whose NAR is `nar`.
    pub(crate) fn path(&mut self, info: &PathInfo, nar: &[u8]) {
        self.object(NewRecord::store_path(info.clone(), Encoding::Chunked), nar);
    }

    /// Adds a store path whose NAR is `nar` as the file that was published, made by xz.
    pub(crate) fn published_path(&mut self, mut info: PathInfo, nar: &[u8]) {
        let file = liblzma::encode_all(nar, 0).unwrap();
        info.compression = Compression::Xz;
        info.file_hash = Some(Sha256::of(&file));
        info.file_size = Some(file.len() as u64);
        self.object(NewRecord::store_path(info, Encoding::Verbatim), &file);
    }

    /// Adds what is neither a path nor a log, under its URL.
    pub(crate) fn blob(&mut self, key: ObjectKey, url: &str, contents: &[u8]) {
        let blob = Blob {
            url: url.to_owned(),
            compression: Compression::None,
            bytes: contents.len() as u64,
            sha256: Sha256::of(contents),
        };
        self.object(NewRecord::blob(key, blob, Encoding::Chunked), contents);
    }

    /// Adds a build log as `compression` made it into `file`.
    pub(crate) fn log(&mut self, hash: [u8; 20], log: &[u8], compression: Compression, file: &[u8]) {
        let blob = Blob {
            url: format!("log/{}-hello.drv", nixbase32::encode(&hash)),
            compression,
            bytes: log.len() as u64,
            sha256: Sha256::of(log),
        };
        let encoding = if compression == Compression::None { Encoding::Chunked } else { Encoding::Verbatim };
        self.object(NewRecord::blob(ObjectKey::build_log(hash), blob, encoding), file);
    }

    /// Ends the bundle; the next object goes into another.
    pub(crate) fn seal(&mut self) -> BundleId {
        let mut payload = Vec::new();
        let sealed = self.open.take().expect("an object was added").seal(&mut payload).unwrap();
        let bundle = sealed.content.bundle_id();
        for position in sealed.positions {
            let place = RecordPlace { bundle, block: position.block, entry: position.entry };
            self.archive.places.entry(position.key).or_default().push(place);
        }
        self.archive.bundles.insert(bundle, (Arc::new(sealed.content), Mutex::new(payload)));
        bundle
    }

    /// The archive with all that was sealed.
    pub(crate) fn finish(self) -> MemoryArchive {
        self.archive
    }
}

impl MemoryArchive {
    /// From now on what the coordinators are asked for is refused, or not any more.
    pub(crate) fn all_away(&self, away: bool) {
        self.coordinators_away.store(away, Ordering::Relaxed);
        self.nodes_away.store(away, Ordering::Relaxed);
    }

    /// From now on nothing lies in this bundle, and in all others what was packed.
    pub(crate) fn erase(&self, bundle: BundleId) {
        *self.erased.lock().unwrap() = Some(bundle);
    }

    fn location(&self, place: &RecordPlace) -> Location {
        let number = self.bundles.keys().position(|bundle| *bundle == place.bundle).unwrap();
        let bundle = BundleNumber(u32::try_from(number).unwrap());
        Location { bundle, block: place.block, entry: place.entry }
    }

    fn is_erased(&self, bundle: BundleId) -> bool {
        *self.erased.lock().unwrap() == Some(bundle)
    }

    /// Changes a byte shortly before the manifest of the bundle: in its last frame.
    pub(crate) fn damage_last_frame(&self, bundle: BundleId) {
        let (content, payload) = &self.bundles[&bundle];
        let at = usize::try_from(content.manifest_extent().start).unwrap() - 100;
        payload.lock().unwrap()[at] ^= 1;
    }
}

pub(crate) fn secret_key(number: u8) -> PublisherSecretKey {
    PublisherSecretKey::from_seed(&format!("cache-{number}"), &[number; 32]).unwrap()
}

/// A signed path info for `nar`.
pub(crate) fn path_info(number: u8, nar: &[u8]) -> PathInfo {
    let references = vec![StorePath::from_parts([77; 20], "glibc-2.40").unwrap()];
    path_info_of(StorePath::from_parts([number; 20], "hello-2.12.1").unwrap(), nar, references)
}

/// A signed path info for `nar` that refers to others.
pub(crate) fn path_info_of(store_path: StorePath, nar: &[u8], references: Vec<StorePath>) -> PathInfo {
    let mut info = PathInfo {
        store_path,
        url: "nar/original.nar.xz".to_owned(),
        compression: Compression::Xz,
        file_hash: Some(Sha256::of(b"file")),
        file_size: Some(4),
        nar_hash: Sha256::of(nar),
        nar_size: nar.len() as u64,
        references,
        deriver: None,
        signatures: Vec::new(),
        ca: None,
        extra: Vec::new(),
    };
    info.signatures.push(secret_key(1).sign(&info));
    info
}

/// The NAR of a directory with one file of `bytes` bytes that do not compress, and a symlink.
pub(crate) fn nar_of(bytes: usize) -> Vec<u8> {
    let mut contents = vec![0; bytes];
    blake3::Hasher::new().update(&bytes.to_le_bytes()).finalize_xof().fill(&mut contents);
    let entries = [
        (b"hello".to_vec(), NarNode::Regular { contents, executable: true }),
        (b"link".to_vec(), NarNode::Symlink { target: b"hello".to_vec() }),
    ];
    nar::encode(&NarNode::Directory(entries.into())).unwrap()
}

/// A router over `archive`, all of whose keys are known.
pub(crate) fn router(archive: &Arc<MemoryArchive>, when_unreadable: WhenUnreadable) -> Router {
    compressing_router(archive, when_unreadable, NarCompression::None)
}

/// The same, whose narinfos name NARs in this form.
pub(crate) fn compressing_router(
    archive: &Arc<MemoryArchive>,
    when_unreadable: WhenUnreadable,
    nar_compression: NarCompression,
) -> Router {
    Router::new(Arc::new(core(archive)), when_unreadable, nar_compression, None)
}

/// A router that reads anew whatever is asked for.
pub(crate) fn forgetful_router(archive: &Arc<MemoryArchive>) -> Router {
    let options = ObjectOptions { frame_cache_bytes: 0, ..ObjectOptions::default() };
    let core = core_reading(archive, options);
    Router::new(Arc::new(core), WhenUnreadable::Retry, NarCompression::None, None)
}

/// A router that has heard of nothing yet.
pub(crate) fn ignorant_router(archive: &Arc<MemoryArchive>) -> Router {
    let core = core_knowing(None, archive, ObjectOptions::default());
    Router::new(Arc::new(core), WhenUnreadable::Miss, NarCompression::None, None)
}

/// What such a router answers from.
pub(crate) fn core(archive: &Arc<MemoryArchive>) -> GatewayCore {
    core_reading(archive, ObjectOptions::default())
}

fn core_reading(archive: &Arc<MemoryArchive>, options: ObjectOptions) -> GatewayCore {
    let mut tail = FeedTail::at(0);
    let events: Vec<_> = archive.places.keys().map(|key| FeedEvent::Visible(*key)).collect();
    tail.apply(0, &events).unwrap();
    core_knowing(Some(tail.into()), archive, options)
}

fn core_knowing(view: Option<KeyView>, archive: &Arc<MemoryArchive>, options: ObjectOptions) -> GatewayCore {
    let environment = Environment::real();
    let payloads = Arc::clone(archive) as Arc<dyn PayloadReader>;
    let manifests = ManifestReader::new(payloads, ManifestOptions::default());
    GatewayCore::new(CoreParts {
        environment: environment.clone(),
        index: Arc::clone(archive) as Arc<dyn KeyIndex>,
        objects: ObjectReader::new(manifests, environment, options),
        view,
        tail_keys_max: 1 << 20,
        range_cache_bytes: 1 << 20,
        narinfo_cache_bytes: 16 << 20,
        listing_cache_bytes: 1 << 20,
    })
}

pub(crate) fn hash_part(number: u8) -> String {
    nixbase32::encode(&[number; 20])
}

/// The answer to a request with these headers.
pub(crate) async fn ask(
    router: &Router,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
) -> Response<GatewayBody> {
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    router.respond(request.body(()).unwrap()).await
}

pub(crate) async fn get(router: &Router, path: &str) -> Response<GatewayBody> {
    ask(router, "GET", path, &[]).await
}

/// A header's text; empty where there is none.
pub(crate) fn header(response: &Response<GatewayBody>, name: &str) -> String {
    response.headers().get(name).map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default()
}

pub(crate) async fn body(response: Response<GatewayBody>) -> Bytes {
    response.into_body().collect().await.unwrap().to_bytes()
}

/// An archive of one path, whose NAR is `nar_of(bytes)`.
pub(crate) fn one_path(bytes: usize) -> (Arc<MemoryArchive>, BundleId) {
    let mut maker = ArchiveMaker::default();
    maker.path(&path_info(1, &nar_of(bytes)), &nar_of(bytes));
    let bundle = maker.seal();
    (Arc::new(maker.finish()), bundle)
}

/// Where the NAR of the first path lies.
pub(crate) fn nar_path(nar: &[u8]) -> String {
    format!("/nar/{}-{}.nar", hash_part(1), Sha256::of(nar).to_base32())
}

/// Lets this process have as many files as it may: a connection is one, and its other end as well.
pub(crate) fn raise_file_limit() {
    let mut limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    limit.current = limit.maximum;
    rustix::process::setrlimit(rustix::process::Resource::Nofile, limit).unwrap();
}
