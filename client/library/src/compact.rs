//! Packing the objects of small bundles together into full ones.
//!
//! Owns: putting new bundles in the place of several old ones by one commit. Always holds: records stay as they were published,
//! in their order; each object was read whole, with its hash, and restored from what is sent, before anything is sent; there
//! are fewer bundles behind it than before; whatever is interrupted, the old bundles are as they were, and running again
//! begins anew.
//! Leaves to others: which bundles, and when they are erased (coordinators); reading and packing (`archived_objects`).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;

use firn_base::{BundleId, ByteCount, ObjectKey};
use firn_bundle::{BundleRole, FrameCompression, Manifest, ManifestError, PAYLOAD_BYTES_MAX};
use firn_client_logic::{UploadError, UploadOutcome, UploadPolicy};
use firn_retrieval::{ObjectReader, ReadError};
use firn_transport::Environment;
use firn_wire::{Gathered, GatheredPlace};
use tokio::sync::Semaphore;

use crate::archive::Archive;
use crate::archive_destination::ArchiveDestination;
use crate::archived_objects::{
    ArchivedObjects, ArchivedRecord, KeepError, PackedAgain, archived_records, frame_compression,
};
use crate::destination::Destination;
use crate::events::PublishEvents;
use crate::ship::{ShipError, Shipping, TakesPlaceOf};
use crate::spool::{SpoolDir, SpoolError};
use crate::spooled_bundle::{BundleSet, SpooledBundle};

/// Small bundles that come together.
#[derive(Debug, Clone)]
pub struct CompactOptions {
    /// The bundles, in the order in which their objects are packed.
    pub bundles: Vec<BundleId>,
    /// What frames are compressed with; if not given, LZMA where one of the bundles has it, else zstd, each of its usual
    /// level.
    pub frame_compression: Option<FrameCompression>,
    /// Where spool files lie; the system's directory for temporary files if not given.
    pub spool_dir: Option<PathBuf>,
    /// How patient uploads are.
    pub policy: UploadPolicy,
}

/// What became of small bundles.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Compacted {
    /// Objects that were moved.
    pub objects: u64,
    /// New bundles.
    pub bundles: u64,
    /// Bytes of their payloads.
    pub payload: ByteCount,
}

/// Why bundles were not packed together. They are as they were.
#[derive(Debug, thiserror::Error)]
pub enum CompactError {
    /// Some of them cannot be read.
    #[error("a bundle cannot be read: {0}")]
    Read(#[from] ReadError),
    /// The spool failed.
    #[error(transparent)]
    Spool(#[from] SpoolError),
    /// Something in them cannot be kept.
    #[error(transparent)]
    Keep(#[from] KeepError),
    /// What was packed has a bad manifest.
    #[error("a new bundle has a bad manifest: {0}")]
    Manifest(#[from] ManifestError),
    /// Packed together, they would be as many as before, or small ones still.
    #[error("packed together, {before} bundles would be {behind}, and no fuller: they stay as they are")]
    NoFewer {
        /// How many there are.
        before: usize,
        /// How many there would be.
        behind: usize,
    },
    /// An object takes several bundles, as none did before.
    #[error(
        "an object fits into one bundle only with chunks of others, which cannot be read now: compact again later"
    )]
    TooLarge,
    /// The new bundles did not get into the archive.
    #[error(transparent)]
    Ship(#[from] ShipError),
    /// They are in the archive: an answer was lost, or they do not take the place of these.
    #[error(
        "a bundle of exactly these objects is archived already: if compacting again names these once more, it is not in their place"
    )]
    AlreadyArchived,
}

impl CompactError {
    /// Whether other bundles would fare alike: it says nothing of these.
    pub const fn is_general(&self) -> bool {
        matches!(
            self,
            Self::Spool(_)
                | Self::Keep(KeepError::Spool(_))
                | Self::Ship(ShipError::Upload(
                    UploadError::Full(_) | UploadError::NotAllowed(_) | UploadError::Unavailable(_)
                ))
        )
    }
}

/// Packs the objects of small bundles together. `objects` reads them.
pub async fn compact(
    archive: &Archive,
    objects: &ObjectReader,
    options: &CompactOptions,
    events: PublishEvents,
) -> Result<Compacted, CompactError> {
    let destination = Arc::new(ArchiveDestination(archive.clone()));
    compact_in(destination, objects, archive.environment(), options, events).await
}

/// Packs the objects of small bundles of any destination together.
pub(crate) async fn compact_in(
    destination: Arc<dyn Destination>,
    objects: &ObjectReader,
    environment: &Environment,
    options: &CompactOptions,
    events: PublishEvents,
) -> Result<Compacted, CompactError> {
    let spool = SpoolDir::open(options.spool_dir.as_deref())?;
    let mut records = Vec::new();
    for bundle in &options.bundles {
        records.extend(archived_records(objects, *bundle).await?);
    }
    let going: BTreeSet<BundleId> = options.bundles.iter().copied().collect();
    let compression = match options.frame_compression {
        Some(compression) => compression,
        None => frame_compression(objects, &going).await?,
    };
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
        let set = archived.pack(&records, compression, PAYLOAD_BYTES_MAX, again, &events).await?;
        let (before, behind) = (options.bundles.len(), set.bundles.len());
        // The coordinators take no small one but the last.
        let payload = |bundle: &Arc<SpooledBundle>| bundle.sealed.content.payload_bytes();
        let mut all_but_last = set.bundles.iter().rev().skip(1);
        if behind >= before || all_but_last.any(|bundle| payload(bundle) < PAYLOAD_BYTES_MAX / 4) {
            return Err(CompactError::NoFewer { before, behind });
        }
        if set.bundles.iter().any(|bundle| bundle.sealed.content.role() != BundleRole::Ordinary) {
            return Err(CompactError::TooLarge);
        }
        let gathered =
            Gathered { bundles: options.bundles.clone(), from: places_of(&options.bundles, &records, &set)? };
        let payloads = set.bundles.iter().map(|bundle| bundle.sealed.content.payload_bytes());
        let smallest = payloads.min().unwrap_or(0);
        let shipped = shipping.ship(Arc::new(set), TakesPlaceOf::Bundles(gathered)).await?;
        let payload = ByteCount(shipped.payload);
        let compacted = Compacted { objects: records.len() as u64, bundles: behind as u64, payload };
        if shipped.outcome != UploadOutcome::AlreadyArchived {
            return Ok(compacted);
        }
        // By a commit whose answer was lost, or by one of which a rebuild knew nothing but what it brought.
        let replaced = destination.replaced(options.bundles.clone()).await;
        if replaced.is_ok_and(|replaced| replaced.len() == before) {
            return Ok(compacted);
        }
        if again.other_than.is_some() {
            return Err(CompactError::AlreadyArchived);
        }
        again.other_than = Some(smallest);
    }
}

/// Where each record of the new bundles, in the order of their manifests, lies in the old ones.
fn places_of(
    bundles: &[BundleId],
    records: &[ArchivedRecord],
    set: &BundleSet,
) -> Result<Vec<Vec<GatheredPlace>>, ManifestError> {
    let numbers: BTreeMap<&BundleId, u16> = bundles.iter().zip(0..).collect();
    // Records of one key stay in their order.
    let mut places: BTreeMap<ObjectKey, VecDeque<GatheredPlace>> = BTreeMap::new();
    for ArchivedRecord { bundle, place, record } in records {
        if let Some(number) = numbers.get(bundle) {
            let place = GatheredPlace { bundle: *number, place: *place };
            places.entry(record.key).or_default().push_back(place);
        }
    }
    let mut all = Vec::with_capacity(set.bundles.len());
    for bundle in &set.bundles {
        let manifest = Manifest::parse_whole(&bundle.sealed.content, bundle.sealed.manifest.clone())?;
        let mut own = Vec::new();
        for located in manifest.records() {
            let key = located?.record.key;
            own.extend(places.get_mut(&key).and_then(VecDeque::pop_front));
        }
        all.push(own);
    }
    Ok(all)
}
