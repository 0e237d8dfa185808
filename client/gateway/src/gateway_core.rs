//! The gateway without its sockets: from a name to a narinfo, NAR, listing, log, realisation or debuginfo link.
//!
//! Owns: finding records, remembering what was found, opening objects. Always holds: absence is decided from what is here,
//! or from an index range, without naming the key to anybody (invariant 12); an object that is archived is never reported
//! absent; memory is bounded by the options. Leaves to others: reading (`firn-retrieval`), HTTP (`routes`), knowing keys
//! (`key_view`, `key_ranges`).

use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use firn_base::{BundleId, KeyKind, ObjectKey};
use firn_nix_format::{
    BuildId, DEBUG_INFO_BYTES_MAX, DebugInfoLink, NarInspector, PathInfo, RealisationUrl, Sha256,
};
use firn_retrieval::{ObjectReader, ReadError};
use firn_transport::Environment;
use futures::StreamExt;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::bounded_cache::BoundedCache;
use crate::closure_walk::ClosureWalk;
use crate::coordinators::{Governance, KeyIndex, RecordPlace};
use crate::disk_cache::DiskCache;
use crate::filter_keeper::{FilterLists, KeeperCounts};
use crate::key_ranges::{KeyRanges, Settled};
use crate::key_view::{KeyView, Presence};
use crate::metrics::Metrics;
use crate::narinfo::{RenderedNarInfo, nar_url};
use crate::open_object::OpenObject;
use crate::options::NarCompression;
use crate::place_book::{KnownPlaces, PlaceBook};
use crate::reach::Reach;
use crate::serve_error::ServeError;
use crate::shared_keys::SharedKeys;
use crate::variants::{Variant, preferred};

/// What a core reads through and how much it remembers.
#[derive(Debug)]
pub struct CoreParts {
    /// Clock and blocking work.
    pub environment: Environment,
    /// Who shows which keys are visible, and where.
    pub index: Arc<dyn KeyIndex>,
    /// Who reads objects; it has the cache of NAR contents.
    pub objects: ObjectReader,
    /// What an earlier life knew of the keys: it may answer before the feed was heard.
    pub view: Option<KeyView>,
    /// Keys of the feed's end that are known exactly, at most.
    pub tail_keys_max: usize,
    /// Bytes of index ranges to remember.
    pub range_cache_bytes: usize,
    /// Bytes of narinfos and records to remember.
    pub narinfo_cache_bytes: usize,
    /// Bytes of listings to remember.
    pub listing_cache_bytes: usize,
}

/// Answers what a binary cache is asked.
#[derive(Debug)]
pub struct GatewayCore {
    pub(crate) keys: Arc<SharedKeys>,
    pub(crate) metrics: Metrics,
    pub(crate) ranges: Arc<KeyRanges>,
    pub(crate) reach: Arc<Reach>,
    pub(crate) keeper: Arc<KeeperCounts>,
    pub(crate) filter_lists: Arc<FilterLists>,
    pub(crate) disk: Option<DiskParts>,
    environment: Environment,
    index: Arc<dyn KeyIndex>,
    objects: ObjectReader,
    found: BoundedCache<ObjectKey, Arc<Found>>,
    listings: BoundedCache<ObjectKey, Bytes>,
    listing_permits: Semaphore,
    walk: ClosureWalk,
    ahead_permits: Semaphore,
    governance: RwLock<Arc<Governance>>,
}

/// What a core keeps on disk.
#[derive(Debug)]
pub(crate) struct DiskParts {
    /// What was read.
    pub(crate) cache: DiskCache,
    /// Where records were found.
    pub(crate) places: Arc<PlaceBook>,
}

/// What is known of a key that may be archived.
enum Remembered {
    Found(Arc<Found>),
    Unknown(Presence),
}

/// What was found of one key.
#[derive(Debug)]
struct Found {
    /// The order of the index; at least one.
    variants: Vec<Variant>,
    /// None if no record carries a path info.
    narinfos: Option<NarInfos>,
    /// It is true as of this position of the feed.
    position: u64,
    /// When it was found; none if an earlier life found it.
    at: Option<Instant>,
    refreshing: std::sync::atomic::AtomicBool,
}

/// One path info in each form that was asked for.
#[derive(Debug)]
struct NarInfos {
    info: PathInfo,
    plain: OnceLock<RenderedNarInfo>,
    zstd: OnceLock<RenderedNarInfo>,
}

// The feed does not tell of a further publisher's record of a known key: what is older is looked up again, while
// the old answer is served.
const REFRESH_AFTER: Duration = Duration::from_secs(300);

// Making a listing reads a whole NAR, and its tree can take 250 MB.
const LISTINGS_AT_ONCE: usize = 2;

// Fewer than ranges of the index: whoever looks ahead shall not keep those who ask waiting.
const AHEAD_AT_ONCE: usize = 192;

// Parsed records, and the path info made of them, beside the text that it is rendered to.
const RECORD_SHARE: usize = 3;
const PATH_INFO_SHARE: usize = 3;

const NOT_ARCHIVED: &str = "this store path is not archived";
const NO_SUCH_NAR: &str = "no NAR of this hash is archived for the store path";
const NO_LOG: &str = "no build log of this derivation is archived";
const NO_REALISATION: &str = "no realisation of this name is archived";
const NO_DEBUG_INFO: &str = "no debuginfo link of this build id is archived";
const NO_LISTING: &str = "the NAR of this store path has no listing: names in it are not text";

impl GatewayCore {
    /// A core that knows `parts.view` until the feed tells more.
    pub fn new(parts: CoreParts) -> Self {
        let keys = SharedKeys::new(parts.tail_keys_max);
        if let Some(view) = parts.view {
            keys.resume(view);
        }
        let reach = Arc::new(Reach::default());
        let ranges = KeyRanges::new(Arc::clone(&parts.index), Arc::clone(&reach), parts.range_cache_bytes);
        Self {
            keys: Arc::new(keys),
            metrics: Metrics::default(),
            ranges: Arc::new(ranges),
            reach,
            keeper: Arc::default(),
            filter_lists: Arc::default(),
            disk: None,
            environment: parts.environment,
            index: parts.index,
            objects: parts.objects,
            found: BoundedCache::new(parts.narinfo_cache_bytes),
            listings: BoundedCache::new(parts.listing_cache_bytes),
            listing_permits: Semaphore::new(LISTINGS_AT_ONCE),
            walk: ClosureWalk::default(),
            ahead_permits: Semaphore::new(AHEAD_AT_ONCE),
            governance: RwLock::default(),
        }
    }

    /// The core, with what it keeps on disk.
    pub(crate) fn with_disk(mut self, disk: Option<DiskParts>) -> Self {
        self.disk = disk;
        self
    }

    /// The feed position as of which absence is decided.
    pub fn feed_position(&self) -> u64 {
        self.keys.position()
    }

    /// Keys that filters were made of, withdrawn ones included.
    pub fn filter_keys(&self) -> u64 {
        self.keys.filters().keys()
    }

    /// Keys of which the feed told since.
    pub fn tail_keys(&self) -> usize {
        self.keys.tail_len()
    }

    /// Whether absence can be decided: the feed was followed to its head once, or what was saved was loaded.
    pub fn is_usable(&self) -> bool {
        self.keys.is_usable()
    }

    /// How long ago the feed was last known to hold nothing newer; none if it never was.
    pub fn feed_age(&self) -> Option<Duration> {
        self.keys.followed_at().map(|at| at.elapsed())
    }

    /// Takes the publishers' ranks into use, and the reasons of withdrawals.
    pub fn set_governance(&self, governance: Governance) {
        let mut known = self.governance.write().unwrap_or_else(PoisonError::into_inner);
        let same_ranks = known.publishers == governance.publishers;
        *known = Arc::new(governance);
        if !same_ranks {
            self.found.clear();
        }
    }

    /// The narinfo of the store path with this hash, which names a NAR in the form `compression`.
    pub async fn narinfo(
        self: &Arc<Self>,
        hash: [u8; 20],
        compression: NarCompression,
    ) -> Result<RenderedNarInfo, ServeError> {
        let key = ObjectKey::store_path(hash);
        self.walk.asked();
        let found = match self.remembered(&key)? {
            Remembered::Found(found) => found,
            // Boxed, so that the future of a miss stays small.
            Remembered::Unknown(presence) => Box::pin(self.look_up(key, presence)).await?,
        };
        Ok(found.narinfos()?.rendered(compression).clone())
    }

    /// The NAR of this hash among those archived for the store path.
    pub async fn nar(self: &Arc<Self>, hash: [u8; 20], nar_hash: Sha256) -> Result<OpenObject, ServeError> {
        let found = self.find(ObjectKey::store_path(hash), NOT_ARCHIVED).await?;
        let fits = |variant: &&Variant| variant.nar_hash() == Some(nar_hash);
        let variants: Vec<_> = found.variants.iter().filter(fits).cloned().collect();
        OpenObject::new(self.objects.clone(), variants).ok_or(ServeError::NotArchived(NO_SUCH_NAR))
    }

    /// The NAR that the narinfo of the store path names.
    pub async fn preferred_nar(self: &Arc<Self>, hash: [u8; 20]) -> Result<OpenObject, ServeError> {
        let found = self.find(ObjectKey::store_path(hash), NOT_ARCHIVED).await?;
        self.nar(hash, found.narinfos()?.info.nar_hash).await
    }

    /// The build log of the derivation with this hash, decompressed.
    pub async fn log(self: &Arc<Self>, hash: [u8; 20]) -> Result<OpenObject, ServeError> {
        self.blob(ObjectKey::build_log(hash), NO_LOG).await
    }

    /// The realisation that is named so.
    pub async fn realisation(self: &Arc<Self>, url: &RealisationUrl) -> Result<OpenObject, ServeError> {
        self.blob(ObjectKey::named(KeyKind::Realisation, url.as_str()), NO_REALISATION).await
    }

    /// The debuginfo link of this build id, as a file that names the gateway's own NAR.
    pub async fn debug_info(self: &Arc<Self>, id: BuildId) -> Result<Bytes, ServeError> {
        let absent = || ServeError::NotArchived(NO_DEBUG_INFO);
        let object = self.blob(ObjectKey::new(KeyKind::DebugInfo, id.0), NO_DEBUG_INFO).await?;
        let bytes = usize::try_from(object.bytes()).ok().filter(|bytes| *bytes <= DEBUG_INFO_BYTES_MAX);
        let mut file = Vec::with_capacity(bytes.ok_or_else(absent)?);
        let mut stream = object.stream(0..object.bytes()).await?;
        while let Some(piece) = stream.next().await {
            file.extend_from_slice(&piece?);
        }
        // Whoever uploaded something else archived no link.
        let mut link = DebugInfoLink::parse(&file).map_err(|_| absent())?;
        let owner = link.store_path.take().ok_or_else(absent)?;
        let found = self.find(ObjectKey::store_path(*owner.hash()), NO_DEBUG_INFO).await?;
        let nar_hash = found.narinfos()?.info.nar_hash;
        // Ranges of it can be had.
        link.archive = format!("../{}", nar_url(owner.hash_part(), nar_hash, NarCompression::None));
        Ok(link.to_json().into())
    }

    /// What nobody signs: the first one stays.
    async fn blob(self: &Arc<Self>, key: ObjectKey, absent: &'static str) -> Result<OpenObject, ServeError> {
        let found = self.find(key, absent).await?;
        let first = found.variants.first().cloned().into_iter().collect();
        OpenObject::new(self.objects.clone(), first).ok_or(ServeError::NotArchived(absent))
    }

    /// The path info that is served for the store path with this hash, and a bundle with its NAR.
    pub(crate) async fn path_info(
        self: &Arc<Self>,
        hash: [u8; 20],
    ) -> Result<(PathInfo, BundleId), ServeError> {
        let found = self.find(ObjectKey::store_path(hash), NOT_ARCHIVED).await?;
        let info = &found.narinfos()?.info;
        let holds = |variant: &&Variant| variant.nar_hash() == Some(info.nar_hash);
        let holder = found.variants.iter().find(holds);
        let holder = holder.ok_or_else(|| ServeError::unreadable(&"no bundle holds it"))?;
        Ok((info.clone(), holder.bundle))
    }

    /// Why a key was withdrawn, as far as the ledger was heard.
    pub(crate) fn withdrawal(&self, key: &ObjectKey) -> Option<String> {
        self.governance().withdrawn.get(key).cloned()
    }

    /// Who knows the index.
    pub(crate) fn index(&self) -> &dyn KeyIndex {
        &*self.index
    }

    /// The listing of the store path's NAR, as JSON. Made by reading the NAR once.
    pub async fn listing(self: &Arc<Self>, hash: [u8; 20]) -> Result<Bytes, ServeError> {
        let key = ObjectKey::store_path(hash);
        let nar = self.preferred_nar(hash).await?;
        if let Some(listing) = self.listings.get(&key) {
            return Ok(listing);
        }
        let _permit = self.listing_permits.acquire().await.map_err(|error| ServeError::unreadable(&error))?;
        // Somebody else may have made it meanwhile.
        if let Some(listing) = self.listings.get(&key) {
            return Ok(listing);
        }
        let mut inspector = NarInspector::new(nar.bytes());
        let mut stream = nar.stream(0..nar.bytes()).await?;
        while let Some(piece) = stream.next().await {
            inspector.push(&piece?).map_err(|_| ServeError::NotArchived(NO_LISTING))?;
        }
        let listing = inspector.finish().map_err(|_| ServeError::NotArchived(NO_LISTING))?;
        let json = self.environment.blocking(move || listing.to_json()).await;
        let json = Bytes::from(json.map_err(|_| ServeError::NotArchived(NO_LISTING))?);
        self.listings.insert(key, json.clone(), json.len());
        Ok(json)
    }

    /// Clock and blocking work.
    pub(crate) const fn environment(&self) -> &Environment {
        &self.environment
    }

    /// The next question about `key` is looked up anew.
    pub(crate) fn forget(&self, key: &ObjectKey) {
        self.found.remove(key);
        self.ranges.forget(key);
        if let Some(disk) = &self.disk {
            disk.places.forget(key);
        }
    }

    /// What was heard of the ledger.
    pub(crate) fn governance(&self) -> Arc<Governance> {
        Arc::clone(&self.governance.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// What is known of a key without asking anybody; an error if it is known not to be archived.
    fn remembered(self: &Arc<Self>, key: &ObjectKey) -> Result<Remembered, ServeError> {
        let presence = self.keys.presence(key);
        let presence =
            presence.ok_or_else(|| ServeError::unsettled(&"the archive's feed was not heard yet"))?;
        let as_of = match presence {
            Presence::Absent => return Err(ServeError::NotArchived(NOT_ARCHIVED)),
            Presence::Visible { as_of } | Presence::Unsettled { as_of } => as_of,
        };
        let Some(found) = self.found.get(key).filter(|found| found.position >= as_of) else {
            return Ok(Remembered::Unknown(presence));
        };
        self.metrics.count_cache_hit();
        let is_old = found.at.is_none_or(|at| at.elapsed() >= REFRESH_AFTER);
        if is_old && self.reach.seems_there() && !found.refreshing.swap(true, Ordering::Relaxed) {
            let (core, key, found) = (Arc::clone(self), *key, Arc::clone(&found));
            tokio::spawn(async move {
                if core.look_up_anew(key, presence).await.is_err() {
                    found.refreshing.store(false, Ordering::Relaxed);
                }
            });
        }
        Ok(Remembered::Found(found))
    }

    async fn find(self: &Arc<Self>, key: ObjectKey, absent: &'static str) -> Result<Arc<Found>, ServeError> {
        let found = match self.remembered(&key) {
            Ok(Remembered::Found(found)) => Ok(found),
            Ok(Remembered::Unknown(presence)) => self.look_up(key, presence).await,
            Err(error) => Err(error),
        };
        found.map_err(|error| match error {
            ServeError::NotArchived(_) => ServeError::NotArchived(absent),
            other => other,
        })
    }

    /// Where the records of `key` lie, and as of which position.
    async fn locate(
        &self,
        key: &ObjectKey,
        presence: Presence,
    ) -> Result<(Vec<RecordPlace>, u64), ServeError> {
        let (as_of, visible) = match presence {
            Presence::Absent => return Err(ServeError::NotArchived(NOT_ARCHIVED)),
            Presence::Visible { as_of } => (as_of, true),
            Presence::Unsettled { as_of } => (as_of, false),
        };
        match self.ranges.settle(key, as_of).await {
            Ok(Settled::Here { locations, position }) => Ok((self.index.places(locations).await?, position)),
            // It was withdrawn a moment ago, and the feed tells it soon; or two coordinators lie.
            Ok(Settled::Absent) if visible => Err(ServeError::unreadable(&"the coordinators do not find it")),
            Ok(Settled::Absent) => Err(ServeError::NotArchived(NOT_ARCHIVED)),
            Err(error) if visible => Err(ServeError::unreadable(&error)),
            Err(error) => Err(ServeError::unsettled(&error)),
        }
    }

    async fn look_up(self: &Arc<Self>, key: ObjectKey, presence: Presence) -> Result<Arc<Found>, ServeError> {
        let found = match self.recall(key, presence).await {
            Some(found) => found,
            None => self.look_up_anew(key, presence).await?,
        };
        self.look_ahead(key);
        Ok(found)
    }

    /// Looks up what a client that asked for `key` will ask for next. Nobody waits for it.
    fn look_ahead(self: &Arc<Self>, key: ObjectKey) {
        for key in self.walk.ahead_of(key) {
            let core = Arc::clone(self);
            tokio::spawn(async move {
                let Ok(_permit) = core.ahead_permits.acquire().await else { return };
                let Some(presence) = core.keys.presence(&key).filter(|known| *known != Presence::Absent)
                else {
                    return;
                };
                if core.found.get(&key).is_none() && core.look_up(key, presence).await.is_ok() {
                    core.metrics.count_looked_ahead();
                }
            });
        }
    }

    /// What an earlier life found, if the feed told nothing of the key since and all of it can be read. It is looked up
    /// again when it is asked for next.
    async fn recall(self: &Arc<Self>, key: ObjectKey, presence: Presence) -> Option<Arc<Found>> {
        let known = self.disk.as_ref()?.places.get(&key)?;
        let (Presence::Visible { as_of } | Presence::Unsettled { as_of }) = presence else { return None };
        if known.position < as_of {
            return None;
        }
        let (variants, failure) = self.read_records(&known.places, &key).await;
        let whole = failure.is_none() && !variants.is_empty();
        whole.then(|| self.keep_found(key, variants, known.position, None))
    }

    async fn read_records(
        &self,
        places: &[RecordPlace],
        key: &ObjectKey,
    ) -> (Vec<Variant>, Option<ReadError>) {
        let (mut variants, mut failure) = (Vec::new(), None);
        for place in places {
            let manifests = self.objects.manifests();
            match manifests.record(place.bundle, place.block, place.entry, key).await {
                Ok(record) => variants.push(Variant { bundle: place.bundle, record }),
                Err(error) => failure = Some(error),
            }
            if !self.walk.knows(place.bundle, place.block)
                && let Ok(records) = manifests.block(place.bundle, place.block).await
            {
                self.walk.learn(place.bundle, place.block, &records);
            }
        }
        (variants, failure)
    }

    async fn look_up_anew(
        self: &Arc<Self>,
        key: ObjectKey,
        presence: Presence,
    ) -> Result<Arc<Found>, ServeError> {
        let (places, position) = self.locate(&key, presence).await?;
        let (variants, failure) = self.read_records(&places, &key).await;
        if variants.is_empty() {
            return Err(match failure {
                Some(error) => error.into(),
                None => ServeError::unreadable(&"the coordinators do not find it yet"),
            });
        }
        if let Some(error) = failure {
            // With a record missing the answer may be another one than it should be: good for now only.
            tracing::warn!("one of several records of {key} cannot be read: {error}");
            return Ok(Arc::new(self.found_now(variants, position)));
        }
        if let Some(disk) = &self.disk {
            disk.places.put(key, KnownPlaces { places, position });
        }
        Ok(self.keep_found(key, variants, position, Some(Instant::now())))
    }

    fn found_now(&self, variants: Vec<Variant>, position: u64) -> Found {
        let narinfos = preferred(&variants, &self.governance().publishers).map(NarInfos::new);
        Found { variants, narinfos, position, at: Some(Instant::now()), refreshing: false.into() }
    }

    fn keep_found(
        &self,
        key: ObjectKey,
        variants: Vec<Variant>,
        position: u64,
        at: Option<Instant>,
    ) -> Arc<Found> {
        let found = Arc::new(Found { at, ..self.found_now(variants, position) });
        let text = found.narinfos.as_ref();
        let text = text.map_or(0, |narinfos| narinfos.rendered(NarCompression::None).text.len());
        let bytes = (text + 256).saturating_mul(2 + PATH_INFO_SHARE + RECORD_SHARE * found.variants.len());
        self.found.insert(key, Arc::clone(&found), bytes);
        found
    }
}

impl Found {
    fn narinfos(&self) -> Result<&NarInfos, ServeError> {
        let narinfos = self.narinfos.as_ref();
        narinfos.ok_or_else(|| ServeError::unreadable(&"its record carries no path info"))
    }
}

impl NarInfos {
    const fn new(info: PathInfo) -> Self {
        Self { info, plain: OnceLock::new(), zstd: OnceLock::new() }
    }

    fn rendered(&self, compression: NarCompression) -> &RenderedNarInfo {
        let form = match compression {
            NarCompression::None => &self.plain,
            NarCompression::Zstd => &self.zstd,
        };
        form.get_or_init(|| RenderedNarInfo::new(&self.info, compression))
    }
}
