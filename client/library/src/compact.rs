//! Packing the objects of small bundles together into full ones.
//!
//! Owns: which packed set may take the place of several old bundles. Always holds: there are fewer bundles behind it
//! than before, one of them small at most, and not much more bytes in them; what is no gain is told with its parts that
//! may be one; whatever is interrupted, the old bundles are as they were, and running again begins anew.
//! Leaves to others: which bundles, and when they are erased (coordinators); getting new bundles into their place
//! (`replacement`).

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use firn_base::{BundleId, ByteCount};
use firn_bundle::{BundleRole, FrameCompression, PAYLOAD_BYTES_MAX, is_small};
use firn_client_logic::{GroupMember, UploadPolicy, parted};
use firn_retrieval::ObjectReader;
use firn_transport::Environment;
use firn_wire::{CompactionGroup, Gathered};

use crate::archive::Archive;
use crate::archive_destination::ArchiveDestination;
use crate::archived_objects::{Sought, archived_records, frame_compression, ordered_by_use};
use crate::destination::Destination;
use crate::events::PublishEvents;
use crate::replacement::{ReplaceError, Replacement};
use crate::ship::TakesPlaceOf;
use crate::spool::SpoolDir;
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
    /// Packed together, they would be as many as before, or small ones still.
    #[error("packed together, {before} bundles would be {behind}, and no fuller: they stay as they are")]
    NoFewer {
        /// How many there are.
        before: usize,
        /// How many there would be.
        behind: usize,
    },
    /// Packed together, they would take many more bytes.
    #[error(
        "packed together, {before} of payload would be {behind}, for they use chunks of too many others: they stay as they are"
    )]
    NoGain {
        /// Bytes that they have.
        before: ByteCount,
        /// Bytes that they would have.
        behind: ByteCount,
    },
    /// An object takes several bundles, as none did before.
    #[error(
        "an object fits into one bundle only with chunks of others, which cannot be read now: compact again later"
    )]
    TooLarge,
    /// All of them together are no gain, and parts of them may be.
    #[error("{why}, unless those come together that use the same others")]
    InParts {
        /// What all of them would have come to.
        why: Box<Self>,
        /// What may be packed together instead.
        parts: Vec<CompactionGroup>,
    },
    /// No new bundles took their place.
    #[error(transparent)]
    Replace(#[from] ReplaceError),
}

impl CompactError {
    /// Whether other bundles would fare alike: it says nothing of these.
    pub fn is_general(&self) -> bool {
        matches!(self, Self::Replace(error) if error.is_general())
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
    let spool = SpoolDir::open(options.spool_dir.as_deref()).map_err(ReplaceError::from)?;
    let (mut records, mut members) = (Vec::new(), Vec::new());
    for bundle in &options.bundles {
        let own = archived_records(objects, *bundle).await.map_err(ReplaceError::from)?;
        let head = objects.manifests().head(*bundle).await.map_err(ReplaceError::from)?;
        members.push(GroupMember {
            bundle: *bundle,
            payload_bytes: head.content.payload_bytes(),
            records: own.len() as u64,
            dependencies: head.content.dependencies().to_vec(),
        });
        records.extend(own);
    }
    let going: BTreeSet<BundleId> = options.bundles.iter().copied().collect();
    let records = ordered_by_use(objects, records, &going).await.map_err(ReplaceError::from)?;
    let compression = match options.frame_compression {
        Some(compression) => compression,
        None => frame_compression(objects, &going).await.map_err(ReplaceError::from)?,
    };
    let replacement = Replacement {
        destination,
        objects,
        environment,
        spool,
        policy: options.policy,
        events,
        compression,
        bundle_bytes: PAYLOAD_BYTES_MAX,
        old: &options.bundles,
        records: &records,
        sought: Sought::All,
    };
    let takes_place = |from| TakesPlaceOf::Bundles(Gathered { bundles: options.bundles.clone(), from });
    let payload = members.iter().fold(0_u64, |sum, member| sum.saturating_add(member.payload_bytes));
    let fits = |set: &BundleSet| {
        check_fewer(options.bundles.len(), set)
            .and_then(|()| check_bytes(payload, set))
            .map_err(|why| in_parts(why, &members))
    };
    let new = replacement.carry_out(going, fits, takes_place).await?;
    Ok(Compacted { objects: records.len() as u64, bundles: new.manifests.len() as u64, payload: new.payload })
}

/// Why a set is refused, with what may come together in its place.
fn in_parts(why: CompactError, members: &[GroupMember]) -> CompactError {
    let parts = parted(members);
    if parts.is_empty() { why } else { CompactError::InParts { why: Box::new(why), parts } }
}

/// Refuses a set that takes much more than so many bytes: what uses more bundles than one may is stored again where it
/// has no place.
fn check_bytes(before: u64, set: &BundleSet) -> Result<(), CompactError> {
    let payloads = set.bundles.iter().map(|bundle| bundle.sealed.content.payload_bytes());
    let behind = payloads.fold(0, u64::saturating_add);
    if behind > before.saturating_add(before / MORE_SHARE) {
        return Err(CompactError::NoGain { before: ByteCount(before), behind: ByteCount(behind) });
    }
    Ok(())
}

// Of the bytes that small bundles had, what full ones may take more: the shards of a small one are larger than what is
// in them, and other frames or another level take a little more or less.
const MORE_SHARE: u64 = 2;

/// Refuses a set that is no gain over so many bundles: coordinators take no small one but the last.
fn check_fewer(before: usize, set: &BundleSet) -> Result<(), CompactError> {
    let is_small = |bundle: &Arc<SpooledBundle>| {
        let sealed = &bundle.sealed;
        is_small(sealed.content.payload_bytes(), sealed.positions.len() as u64)
    };
    let mut all_but_last = set.bundles.iter().rev().skip(1);
    let behind = set.bundles.len();
    if behind >= before || all_but_last.any(is_small) {
        return Err(CompactError::NoFewer { before, behind });
    }
    if set.bundles.iter().any(|bundle| bundle.sealed.content.role() != BundleRole::Ordinary) {
        return Err(CompactError::TooLarge);
    }
    Ok(())
}
