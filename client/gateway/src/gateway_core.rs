//! The gateway without its sockets: from a name to a narinfo, NAR, listing, log, realisation or debuginfo link.
//!
//! Owns: remembering what was found, opening objects; below it, finding records (`looking_up`) and reading in a place
//! (`reading`). Always holds: absence is decided from what is here, or from an index range, without naming the key to
//! anybody (invariant 12); an object that is archived is never reported absent; memory is bounded by the options.
//! Leaves to others: reading (`firn-retrieval`), HTTP (`routes`), knowing keys (`key_view`, `key_ranges`).

mod behind;
mod found;
mod looking_up;
mod reading;
#[cfg(test)]
mod tests;

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use firn_base::{BundleId, KeyKind, ObjectKey};
use firn_nix_format::{
    BuildId, DEBUG_INFO_BYTES_MAX, DebugInfoLink, NarInspector, PathInfo, RealisationUrl, Sha256,
};
use firn_retrieval::ObjectReader;
use firn_transport::Environment;
use futures::StreamExt;
use tokio::sync::Semaphore;

use crate::bounded_cache::BoundedCache;
use crate::closure_walk::ClosureWalk;
use crate::coordinators::{Governance, KeyIndex};
use crate::disk_cache::DiskCache;
use crate::download_places::{ClientPlaces, DownloadPlaces};
use crate::filter_keeper::{FilterLists, KeeperCounts};
use crate::frame_book::FrameBook;
use crate::key_ranges::KeyRanges;
use crate::key_view::{KeyView, Presence};
use crate::metrics::Metrics;
use crate::narinfo::{RenderedNarInfo, nar_url};
use crate::open_object::OpenObject;
use crate::options::NarCompression;
use crate::place_book::PlaceBook;
use crate::reach::Reach;
use crate::serve_error::ServeError;
use crate::shared_keys::SharedKeys;
use crate::variants::Variant;
use behind::Behind;
use found::Found;
pub(crate) use looking_up::Hit;
use looking_up::Remembered;
pub(crate) use reading::Use;

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

/// What is known at once of a narinfo.
#[derive(Debug)]
pub(crate) struct KnownNarInfo {
    pub(crate) narinfo: Result<RenderedNarInfo, ServeError>,
    /// What it was taken from; none if it is known that there is none.
    pub(crate) hit: Option<Hit>,
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
    pub(crate) frames: FrameBook,
    pub(crate) downloads: DownloadPlaces,
    pub(crate) disk: Option<DiskParts>,
    environment: Environment,
    index: Arc<dyn KeyIndex>,
    objects: ObjectReader,
    found: BoundedCache<ObjectKey, Arc<Found>>,
    /// Ranks may prefer another NAR of the same path later.
    listings: BoundedCache<(ObjectKey, Sha256), Bytes>,
    listing_permits: Semaphore,
    walk: ClosureWalk,
    ahead: Behind,
    ahead_permits: Semaphore,
    refreshes: Behind,
    governance: RwLock<KnownGovernance>,
}

/// What was heard of the ledger, or of an earlier life.
#[derive(Debug, Clone, Default)]
struct KnownGovernance {
    governance: Arc<Governance>,
    /// Counts the changes of ranks; 0 while none are known.
    generation: u64,
    /// The archive told it in this life.
    heard: bool,
}

/// What a core keeps on disk.
#[derive(Debug)]
pub(crate) struct DiskParts {
    /// What was read.
    pub(crate) cache: DiskCache,
    /// Where records were found.
    pub(crate) places: Arc<PlaceBook>,
}

// Making a listing reads a whole NAR, and its tree can take 250 MB.
const LISTINGS_AT_ONCE: usize = 2;

// Fewer than ranges of the index: whoever looks ahead shall not keep those who ask waiting.
const AHEAD_AT_ONCE: usize = 192;

// As many waiting tasks are some MB. A key that finds no room is looked up when it is asked for.
const AHEAD_MAX: usize = 1024;

// One that finds no room is tried again with the next question for its key.
const REFRESHES_MAX: usize = 256;

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
        let ranges =
            KeyRanges::new(Arc::clone(&parts.index), Some(Arc::clone(&reach)), parts.range_cache_bytes);
        Self {
            keys: Arc::new(keys),
            metrics: Metrics::default(),
            ranges: Arc::new(ranges),
            reach,
            keeper: Arc::default(),
            filter_lists: Arc::default(),
            frames: FrameBook::default(),
            downloads: DownloadPlaces::default(),
            disk: None,
            environment: parts.environment,
            index: parts.index,
            objects: parts.objects,
            found: BoundedCache::new(parts.narinfo_cache_bytes),
            listings: BoundedCache::new(parts.listing_cache_bytes),
            listing_permits: Semaphore::new(LISTINGS_AT_ONCE),
            walk: ClosureWalk::default(),
            ahead: Behind::new(AHEAD_MAX),
            ahead_permits: Semaphore::new(AHEAD_AT_ONCE),
            refreshes: Behind::new(REFRESHES_MAX),
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

    /// How long ago the feed was last known to hold nothing newer, by coordinators that know; none if it never was.
    pub fn feed_age(&self) -> Option<Duration> {
        self.keys.age()
    }

    /// How long ago a coordinator told the end of the feed, also one that is cut off from the others; none if none has
    /// since the gateway was started.
    pub fn feed_silence(&self) -> Option<Duration> {
        self.keys.silence()
    }

    /// Takes the publishers' ranks into use, and the reasons of withdrawals, as the archive tells them.
    pub fn set_governance(&self, governance: Governance) {
        self.take_governance(governance, true);
    }

    /// Takes into use what an earlier life heard.
    pub(crate) fn recall_governance(&self, governance: Governance) {
        self.take_governance(governance, false);
    }

    fn take_governance(&self, governance: Governance, heard: bool) {
        let mut known = self.governance.write().unwrap_or_else(PoisonError::into_inner);
        known.heard |= heard;
        let same_ranks = known.generation > 0 && known.governance.publishers == governance.publishers;
        known.governance = Arc::new(governance);
        if !same_ranks {
            // What is looked up now may still be kept with the old ranks, and counts as a miss then.
            known.generation += 1;
            self.found.clear();
        }
    }

    /// Whether the publishers' ranks are known, from this life or an earlier one.
    pub(crate) fn knows_ranks(&self) -> bool {
        self.generation() > 0
    }

    /// Whether the publishers' ranks were heard in this life.
    pub(crate) fn heard_governance(&self) -> bool {
        self.known_governance().heard
    }

    /// How often ranks changed; 0 while none are known. Every request asks: nothing is cloned for it.
    fn generation(&self) -> u64 {
        self.governance.read().unwrap_or_else(PoisonError::into_inner).generation
    }

    fn known_governance(&self) -> KnownGovernance {
        self.governance.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The narinfo of the store path with this hash, which names a NAR in the form `compression`.
    pub async fn narinfo(
        self: &Arc<Self>,
        hash: [u8; 20],
        compression: NarCompression,
    ) -> Result<RenderedNarInfo, ServeError> {
        match self.narinfo_in_memory(hash, compression) {
            Ok(KnownNarInfo { narinfo, hit }) => {
                self.gave_from_memory(hit.as_ref());
                narinfo
            }
            Err(presence) => {
                self.walk.asked();
                // Boxed, so that the future of a miss stays small.
                let found = Box::pin(self.look_up(ObjectKey::store_path(hash), presence)).await?;
                Ok(found.narinfos()?.rendered(compression).clone())
            }
        }
    }

    /// [`Self::narinfo`], if it is known without asking or waiting; else what is known of its key. Only looks: who answers
    /// with it tells [`Self::gave_from_memory`].
    pub(crate) fn narinfo_in_memory(
        &self,
        hash: [u8; 20],
        compression: NarCompression,
    ) -> Result<KnownNarInfo, Presence> {
        let hit = match self.remembered(&ObjectKey::store_path(hash)) {
            Ok(Remembered::Unknown(presence)) => return Err(presence),
            Ok(Remembered::Found(hit)) => hit,
            Err(error) => return Ok(KnownNarInfo { narinfo: Err(error), hit: None }),
        };
        let narinfo = hit.found.narinfos().map(|narinfos| narinfos.rendered(compression).clone());
        Ok(KnownNarInfo { narinfo, hit: Some(hit) })
    }

    /// A narinfo that was known, or that there is none, was answered.
    pub(crate) fn gave_from_memory(self: &Arc<Self>, hit: Option<&Hit>) {
        if let Some(hit) = hit {
            self.take_hit(hit);
        }
        self.walk.asked();
    }

    /// The NAR of this hash among those archived for the store path.
    pub async fn nar(self: &Arc<Self>, hash: [u8; 20], nar_hash: Sha256) -> Result<OpenObject, ServeError> {
        let found = self.find(ObjectKey::store_path(hash), NOT_ARCHIVED).await?;
        let fits = |variant: &&Variant| variant.nar_hash() == Some(nar_hash);
        let variants: Vec<_> = found.variants.iter().filter(fits).cloned().collect();
        OpenObject::new(self.objects.clone(), variants).ok_or(ServeError::NotArchived(NO_SUCH_NAR))
    }

    /// The build log of the derivation with this hash, decompressed.
    pub async fn log(self: &Arc<Self>, hash: [u8; 20]) -> Result<OpenObject, ServeError> {
        self.blob(ObjectKey::build_log(hash), NO_LOG).await
    }

    /// The realisation that is named so.
    pub async fn realisation(self: &Arc<Self>, url: &RealisationUrl) -> Result<OpenObject, ServeError> {
        self.blob(ObjectKey::named(KeyKind::Realisation, url.as_str()), NO_REALISATION).await
    }

    /// The debuginfo link of this build id, as a file that names the gateway's own NAR. What has to be decompressed for
    /// it takes one of `client`'s places.
    pub(crate) async fn debug_info(
        self: &Arc<Self>,
        id: BuildId,
        client: Option<&ClientPlaces>,
    ) -> Result<Bytes, ServeError> {
        let absent = || ServeError::NotArchived(NO_DEBUG_INFO);
        let object = self.blob(ObjectKey::new(KeyKind::DebugInfo, id.0), NO_DEBUG_INFO).await?;
        let bytes = usize::try_from(object.bytes()).ok().filter(|bytes| *bytes <= DEBUG_INFO_BYTES_MAX);
        let mut file = Vec::with_capacity(bytes.ok_or_else(absent)?);
        let whole = 0..object.bytes();
        let (mut stream, _place) = self.begin(&object, whole, None, Use::LookedAt, client).await?;
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
    pub(crate) async fn listing(self: &Arc<Self>, hash: [u8; 20]) -> Result<Bytes, ServeError> {
        let found = self.find(ObjectKey::store_path(hash), NOT_ARCHIVED).await?;
        let nar_hash = found.narinfos()?.info.nar_hash;
        let nar = self.nar(hash, nar_hash).await?;
        let key = (ObjectKey::store_path(hash), nar_hash);
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

    /// Ends what goes on behind the answers.
    pub(crate) fn end(&self) {
        self.ahead.end();
        self.refreshes.end();
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
        self.known_governance().governance
    }
}
