//! Packing a bundle anew without some of its objects, or without chunks of some bundles: what a purge needs where others
//! share a bundle with its path, or use chunks of that bundle.
//!
//! Owns: what of a bundle is kept, and without which chunks. Always holds: records stay as they were published; whatever is
//! interrupted, the old bundle is as it was, and running again begins anew.
//! Leaves to others: which bundles, and when the old one is erased (coordinators); getting new bundles into its place
//! (`replacement`).

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use firn_base::{BundleId, ByteCount, Digest, ObjectKey};
use firn_bundle::{ChunkRef, FrameCompression, Manifest, PAYLOAD_BYTES_MAX};
use firn_client_logic::UploadPolicy;
use firn_retrieval::{ObjectReader, ReadError};
use firn_transport::Environment;
use firn_wire::{BUNDLES_PER_REQUEST_MAX, GatheredPlace, Replaced};

use crate::archive::Archive;
use crate::archive_destination::ArchiveDestination;
use crate::archived_objects::{ArchivedRecord, Sought, archived_records, frame_compression, with_parts};
use crate::destination::Destination;
use crate::earlier::steps;
use crate::events::PublishEvents;
use crate::replacement::{ReplaceError, Replacement};
use crate::ship::TakesPlaceOf;
use crate::spool::SpoolDir;
use crate::spooled_bundle::BundleSet;

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
    /// What it has becomes more bundles than one commit takes.
    #[error(
        "without the chunks of bundles that are going it becomes {0} bundles, and one commit takes {BUNDLES_PER_REQUEST_MAX}"
    )]
    TooMany(usize),
    /// No new bundles took its place.
    #[error(transparent)]
    Replace(#[from] ReplaceError),
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
    let spool = SpoolDir::open(options.spool_dir.as_deref()).map_err(ReplaceError::from)?;
    let mut going = with_parts(objects, options.bundle).await.map_err(ReplaceError::from)?;
    let compression = match options.frame_compression {
        Some(compression) => compression,
        None => frame_compression(objects, &going).await.map_err(ReplaceError::from)?,
    };
    going.extend(&options.going);
    // One that was packed anew may stay for others that use its chunks: nothing new can.
    let head = objects.manifests().head(options.bundle).await.map_err(ReplaceError::from)?;
    match destination.replaced(head.content.dependencies().to_vec()).await {
        Ok(replaced) => going.extend(replaced),
        // If it matters, the commit is refused.
        Err(error) => tracing::debug!(%error, "nobody says which bundles were replaced"),
    }
    let records = archived_records(objects, options.bundle).await.map_err(ReplaceError::from)?;
    let is_left_out = |own: &ArchivedRecord| options.left_out.contains(&own.record.key);
    let (left_out, kept): (Vec<_>, Vec<_>) = records.into_iter().partition(is_left_out);
    let leaving = own_chunks(objects, &left_out).await.map_err(ReplaceError::from)?;
    let replacement = Replacement {
        destination,
        objects,
        environment,
        spool,
        policy: options.policy,
        events,
        compression,
        bundle_bytes: options.bundle_bytes,
        old: &[options.bundle],
        records: &kept,
        sought: Sought::Lost,
    };
    let fits = |set: &BundleSet| match set.bundles.len() {
        many if many > BUNDLES_PER_REQUEST_MAX => Err(RepackError::TooMany(many)),
        _ => Ok(()),
    };
    let takes_place = |places: Vec<Vec<GatheredPlace>>| {
        let from = places.into_iter().map(|own| own.into_iter().map(|record| record.place).collect());
        TakesPlaceOf::Bundle(Replaced { bundle: options.bundle, from: from.collect() })
    };
    let new = replacement.carry_out(going, fits, takes_place).await?;
    let stay: BTreeSet<Digest> =
        new.manifests.iter().flat_map(Manifest::chunks).map(|chunk| chunk.hash).collect();
    let shared = leaving.iter().filter(|(hash, _)| stay.contains(hash)).map(|(_, bytes)| *bytes);
    Ok(Repacked {
        kept: kept.len() as u64,
        left_out: left_out.len() as u64,
        shared: ByteCount(shared.fold(0, u64::saturating_add)),
        bundles: new.manifests.len() as u64,
        payload: new.payload,
    })
}

/// The chunks of these records that lie in their own bundle, with their bytes.
async fn own_chunks(
    objects: &ObjectReader,
    records: &[ArchivedRecord],
) -> Result<BTreeMap<Digest, u64>, ReadError> {
    let reader = objects.manifests();
    let mut own: BTreeMap<Digest, u64> = BTreeMap::new();
    for ArchivedRecord { bundle, record, .. } in records {
        let list = reader.chunk_list(*bundle, record).await?;
        for run in list.runs().iter().flat_map(steps) {
            // Chunks of other bundles are none of this one's.
            let ChunkRef::Own(first) = run.first else { continue };
            let entries = reader.chunk_entries(*bundle, first..first.saturating_add(run.count)).await?;
            own.extend(entries.iter().map(|entry| (entry.hash, u64::from(entry.length))));
        }
    }
    Ok(own)
}
