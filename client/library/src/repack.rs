//! Packing a bundle anew without some of its objects, or without chunks of some bundles: what a purge needs where others
//! share a bundle with its path, or use chunks of that bundle.
//!
//! Owns: reading what stays out of the swarm, and putting new bundles in the old one's place by one commit. Always holds:
//! records stay as they were published; each object was read whole, with its hash, and restored from what is sent, before
//! anything is sent; whatever is interrupted, the old bundle is as it was, and running again begins anew.
//! Leaves to others: which bundles, and when the old one is erased (coordinators); reading and packing
//! (`archived_objects`).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;

use firn_base::{BundleId, ByteCount, Digest, ObjectKey};
use firn_bundle::{BundleRole, ChunkRef, FrameCompression, Manifest, ManifestError, PAYLOAD_BYTES_MAX};
use firn_client_logic::{UploadError, UploadOutcome, UploadPolicy};
use firn_retrieval::{ObjectReader, ReadError};
use firn_transport::Environment;
use firn_wire::{BUNDLES_PER_REQUEST_MAX, RecordPlace, Replaced};
use tokio::sync::Semaphore;

use crate::archive::Archive;
use crate::archive_destination::ArchiveDestination;
use crate::archived_objects::{
    ArchivedObjects, ArchivedRecord, KeepError, PackedAgain, archived_records, frame_compression, with_parts,
};
use crate::destination::Destination;
use crate::events::PublishEvents;
use crate::ship::{ShipError, Shipping, TakesPlaceOf};
use crate::spool::{SpoolDir, SpoolError};
use crate::spooled_bundle::SpooledBundle;

/// A bundle to pack anew.
#[derive(Debug, Clone)]
pub struct RepackOptions {
    /// The bundle.
    pub bundle: BundleId,
    /// Whose records are left out; none where the bundle has to go for the sake of one whose chunks it uses.
    pub left_out: BTreeSet<ObjectKey>,
    /// Bundles that are going, besides this one: no chunk of theirs is used.
    pub going: BTreeSet<BundleId>,
    /// Largest payload of a bundle: 256 MiB at most.
    pub bundle_bytes: u64,
    /// What frames are compressed with; if not given, LZMA where the bundle or a part of it has it, else zstd, each of its
    /// usual level.
    pub frame_compression: Option<FrameCompression>,
    /// Where spool files lie; the system's directory for temporary files if not given.
    pub spool_dir: Option<PathBuf>,
    /// How patient uploads are.
    pub policy: UploadPolicy,
}

impl RepackOptions {
    /// How to pack `bundle` anew without the records of `left_out`, and without chunks of what is `going`.
    pub fn new(bundle: BundleId, left_out: BTreeSet<ObjectKey>, going: BTreeSet<BundleId>) -> Self {
        let policy = UploadPolicy::default();
        Self {
            bundle,
            left_out,
            going,
            bundle_bytes: PAYLOAD_BYTES_MAX,
            frame_compression: None,
            spool_dir: None,
            policy,
        }
    }
}

/// What became of a bundle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Repacked {
    /// Objects that lie in a new bundle now.
    pub kept: u64,
    /// Objects that lie in none now.
    pub left_out: u64,
    /// Bytes of chunks of these that others hold too: they stay.
    pub shared: ByteCount,
    /// New bundles.
    pub bundles: u64,
    /// Bytes of their payloads.
    pub payload: ByteCount,
}

/// Why a bundle was not packed anew. It is as it was.
#[derive(Debug, thiserror::Error)]
pub enum RepackError {
    /// Some of it cannot be read.
    #[error("the bundle cannot be read: {0}")]
    Read(#[from] ReadError),
    /// The spool failed.
    #[error(transparent)]
    Spool(#[from] SpoolError),
    /// Something in it cannot be kept.
    #[error(transparent)]
    Keep(#[from] KeepError),
    /// What it has becomes more bundles than one commit takes.
    #[error(
        "without the chunks of bundles that are going it becomes {0} bundles, and one commit takes {BUNDLES_PER_REQUEST_MAX}"
    )]
    TooMany(usize),
    /// What was packed has a bad manifest.
    #[error("a new bundle has a bad manifest: {0}")]
    Manifest(#[from] ManifestError),
    /// The new bundles did not get into the archive.
    #[error(transparent)]
    Ship(#[from] ShipError),
    /// They are in the archive, and in nobody's place.
    #[error("a bundle of exactly these objects is archived already, and does not take the place of this one")]
    AlreadyArchived,
}

/// Packs a bundle anew. `objects` reads it.
pub async fn repack(
    archive: &Archive,
    objects: &ObjectReader,
    options: &RepackOptions,
    events: PublishEvents,
) -> Result<Repacked, RepackError> {
    let destination = Arc::new(ArchiveDestination(archive.clone()));
    repack_in(destination, objects, archive.environment(), options, events).await
}

/// Packs a bundle of any destination anew.
pub(crate) async fn repack_in(
    destination: Arc<dyn Destination>,
    objects: &ObjectReader,
    environment: &Environment,
    options: &RepackOptions,
    events: PublishEvents,
) -> Result<Repacked, RepackError> {
    let spool = SpoolDir::open(options.spool_dir.as_deref())?;
    let mut going = with_parts(objects, options.bundle).await?;
    let compression = match options.frame_compression {
        Some(compression) => compression,
        None => frame_compression(objects, &going).await?,
    };
    going.extend(&options.going);
    // One that was packed anew may stay for others that use its chunks: nothing new can.
    let named = objects.manifests().head(options.bundle).await?.content.dependencies().to_vec();
    match destination.replaced(named).await {
        Ok(replaced) => going.extend(replaced),
        // If it matters, the commit is refused.
        Err(error) => tracing::debug!(%error, "nobody says which bundles were replaced"),
    }
    let records = archived_records(objects, options.bundle).await?;
    let is_left_out = |own: &ArchivedRecord| options.left_out.contains(&own.record.key);
    let (left_out, kept): (Vec<_>, Vec<_>) = records.into_iter().partition(is_left_out);
    let archived = ArchivedObjects::new(
        Arc::clone(&destination),
        objects.clone(),
        environment.clone(),
        spool.clone(),
        going,
    );
    let shipping = Shipping {
        environment: environment.clone(),
        destination: Arc::clone(&destination),
        spool,
        policy: options.policy,
        events: events.clone(),
        sends: Arc::new(Semaphore::new(options.policy.sends_in_flight_max.max(1))),
    };
    let mut again = PackedAgain::default();
    loop {
        let set = archived.pack(&kept, compression, options.bundle_bytes, again, &events).await?;
        if set.bundles.len() > BUNDLES_PER_REQUEST_MAX {
            return Err(RepackError::TooMany(set.bundles.len()));
        }
        let manifests =
            set.bundles.iter().map(|bundle| manifest_of(bundle)).collect::<Result<Vec<_>, _>>()?;
        let shared = shared_bytes(objects, &left_out, &manifests).await?;
        let replaced = Replaced { bundle: options.bundle, from: places_of(&kept, &manifests)? };
        let bundles = set.bundles.len() as u64;
        let uses_others = set.bundles.iter().any(|bundle| uses_others(bundle));
        let (kept, left_out) = (kept.len() as u64, left_out.len() as u64);
        let payloads = set.bundles.iter().map(|bundle| bundle.sealed.content.payload_bytes());
        let smallest = payloads.min().unwrap_or(0);
        let shipped = match shipping.ship(Arc::new(set), TakesPlaceOf::Bundle(replaced)).await {
            Ok(shipped) => shipped,
            // Whose chunks it uses may have been replaced meanwhile, and what needs nobody can always come.
            Err(ShipError::Upload(UploadError::Refused(why))) if uses_others && !again.alone => {
                tracing::debug!(%why, "packing once more without chunks of other bundles");
                again.alone = true;
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        let repacked = Repacked { kept, left_out, shared, bundles, payload: ByteCount(shipped.payload) };
        if shipped.outcome != UploadOutcome::AlreadyArchived {
            return Ok(repacked);
        }
        // By a commit whose answer was lost, or by one of which a rebuild knew nothing but what it brought.
        let replaced = destination.replaced(vec![options.bundle]).await;
        if replaced.is_ok_and(|replaced| !replaced.is_empty()) {
            return Ok(repacked);
        }
        if again.other_than.is_some() {
            return Err(RepackError::AlreadyArchived);
        }
        again.other_than = Some(smallest);
    }
}

/// Whether a bundle uses chunks of others than its own parts.
fn uses_others(bundle: &SpooledBundle) -> bool {
    let content = &bundle.sealed.content;
    content.role() == BundleRole::Ordinary && !content.dependencies().is_empty()
}

fn manifest_of(bundle: &SpooledBundle) -> Result<Manifest, ManifestError> {
    Manifest::parse_whole(&bundle.sealed.content, bundle.sealed.manifest.clone())
}

/// Where each record of the new bundles, in the order of their manifests, lay in the old one.
fn places_of(
    records: &[ArchivedRecord],
    manifests: &[Manifest],
) -> Result<Vec<Vec<RecordPlace>>, ManifestError> {
    // Records of one key stay in their order.
    let mut places: BTreeMap<ObjectKey, VecDeque<RecordPlace>> = BTreeMap::new();
    for own in records {
        places.entry(own.record.key).or_default().push_back(own.place);
    }
    let mut all = Vec::with_capacity(manifests.len());
    for manifest in manifests {
        let mut own = Vec::new();
        for located in manifest.records() {
            let key = located?.record.key;
            own.extend(places.get_mut(&key).and_then(VecDeque::pop_front));
        }
        all.push(own);
    }
    Ok(all)
}

/// Bytes of chunks of what is left out that the new bundles hold all the same.
async fn shared_bytes(
    objects: &ObjectReader,
    left_out: &[ArchivedRecord],
    manifests: &[Manifest],
) -> Result<ByteCount, ReadError> {
    let stay: BTreeSet<Digest> =
        manifests.iter().flat_map(Manifest::chunks).map(|chunk| chunk.hash).collect();
    let reader = objects.manifests();
    let mut shared: BTreeMap<Digest, u64> = BTreeMap::new();
    for ArchivedRecord { bundle, record, .. } in left_out {
        let list = reader.chunk_list(*bundle, record).await?;
        for chunk in list.chunks() {
            // Chunks of other bundles are none of this one's.
            let ChunkRef::Own(number) = chunk else { continue };
            let entries = reader.chunk_entries(*bundle, number..number + 1).await?;
            let both = entries.iter().filter(|entry| stay.contains(&entry.hash));
            shared.extend(both.map(|entry| (entry.hash, u64::from(entry.length))));
        }
    }
    Ok(ByteCount(shared.values().fold(0, |sum, bytes| sum.saturating_add(*bytes))))
}
