//! Packing a bundle anew without some of its objects: what a purge needs where others share a bundle with its path.
//!
//! Owns: reading what stays out of the swarm, and putting new bundles in the old one's place by one commit. Always holds:
//! records stay as they were published; each object was read whole, with its hash, and restored from what is sent, before
//! anything is sent; whatever is interrupted, the old bundle is as it was, and running again begins anew.
//! Leaves to others: which bundles, and when the old one is erased (coordinators); reading (`firn-retrieval`).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;

use firn_base::{BundleId, ByteCount, Digest, ObjectKey};
use firn_bundle::{
    BuildError, BuilderOptions, BundleRole, ChunkRef, Encoding, FrameCompression, Manifest, ManifestError,
    NewRecord, Record,
};
use firn_client_logic::{UploadOutcome, UploadPolicy};
use firn_retrieval::{ObjectReader, ReadError};
use firn_wire::{RecordPlace, Replaced};
use futures::StreamExt;
use tokio::sync::Semaphore;

use crate::archive::Archive;
use crate::archive_destination::ArchiveDestination;
use crate::content::{Content, ContentWriter};
use crate::events::{PublishEvent, PublishEvents};
use crate::nar_writer::NarWriter;
use crate::pack::{PackError, Packer};
use crate::ship::{ShipError, Shipping};
use crate::spool::{SpoolDir, SpoolError};
use crate::spooled_bundle::{BundleSet, SpooledBundle};
use crate::verify::{VerifiedObject, VerifyError};

/// A bundle to pack anew.
#[derive(Debug, Clone)]
pub struct RepackOptions {
    /// The bundle.
    pub bundle: BundleId,
    /// Whose records are left out.
    pub left_out: BTreeSet<ObjectKey>,
    /// What frames are compressed with; if not given, LZMA where the bundle has it, else zstd, each of its usual level.
    pub frame_compression: Option<FrameCompression>,
    /// Where spool files lie; the system's directory for temporary files if not given.
    pub spool_dir: Option<PathBuf>,
    /// How patient uploads are.
    pub policy: UploadPolicy,
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
    /// An object cannot be kept.
    #[error(transparent)]
    Keep(#[from] VerifyError),
    /// Packing failed.
    #[error(transparent)]
    Pack(#[from] PackError),
    /// An object does not fit into a bundle.
    #[error("{key} cannot be packed: {cause}")]
    Object {
        /// The object.
        key: ObjectKey,
        /// Why.
        cause: BuildError,
    },
    /// Its head would have parts, as no object of a bundle with several has.
    #[error("{0} does not fit into one bundle any more")]
    TooLarge(ObjectKey),
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
    let spool = SpoolDir::open(options.spool_dir.as_deref())?;
    let records = read_records(objects, options.bundle).await?;
    let repack = Repack { archive, objects, options, events, spool };
    let set = repack.pack(&records).await?;
    let manifests = set.bundles.iter().map(|bundle| manifest_of(bundle)).collect::<Result<Vec<_>, _>>()?;
    let shared = repack.shared_bytes(&records, &manifests).await?;
    let from = places_of(&records, &manifests)?;
    let replaced = Replaced { bundle: options.bundle, from };
    let (kept, bundles) = (set.objects.len() as u64, set.bundles.len() as u64);
    let shipping = Shipping {
        environment: archive.environment().clone(),
        destination: Arc::new(ArchiveDestination(archive.clone())),
        spool: repack.spool.clone(),
        policy: options.policy,
        events: repack.events.clone(),
        sends: Arc::new(Semaphore::new(options.policy.sends_in_flight_max.max(1))),
    };
    let shipped = shipping.ship(Arc::new(set), Vec::new(), Some(replaced)).await?;
    if shipped.outcome == UploadOutcome::AlreadyArchived {
        return Err(RepackError::AlreadyArchived);
    }
    let left_out = records.len() as u64 - kept;
    Ok(Repacked { kept, left_out, shared, bundles, payload: ByteCount(shipped.payload) })
}

/// The records of a bundle with their places, in order.
async fn read_records(
    objects: &ObjectReader,
    bundle: BundleId,
) -> Result<Vec<(RecordPlace, Arc<Record>)>, ReadError> {
    let manifests = objects.manifests();
    let blocks = manifests.head(bundle).await?.directory.entries().len();
    let mut records = Vec::new();
    for block in (0..=u16::MAX).take(blocks) {
        let own = manifests.block(bundle, block).await?;
        let places = (0..=u16::MAX).map(|entry| RecordPlace { block, entry });
        records.extend(places.zip(own.iter().cloned()));
    }
    Ok(records)
}

fn manifest_of(bundle: &SpooledBundle) -> Result<Manifest, ManifestError> {
    Manifest::parse_whole(&bundle.sealed.content, bundle.sealed.manifest.clone())
}

/// Where each record of the new bundles, in the order of their manifests, lay in the old one.
fn places_of(
    records: &[(RecordPlace, Arc<Record>)],
    manifests: &[Manifest],
) -> Result<Vec<Vec<RecordPlace>>, ManifestError> {
    // Records of one key stay in their order.
    let mut places: BTreeMap<ObjectKey, VecDeque<RecordPlace>> = BTreeMap::new();
    for (place, record) in records {
        places.entry(record.key).or_default().push_back(*place);
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

struct Repack<'a> {
    archive: &'a Archive,
    objects: &'a ObjectReader,
    options: &'a RepackOptions,
    events: PublishEvents,
    spool: SpoolDir,
}

impl Repack<'_> {
    /// Packs what stays, nearly always into one bundle: all of it lay in one.
    async fn pack(&self, records: &[(RecordPlace, Arc<Record>)]) -> Result<BundleSet, RepackError> {
        let environment = self.archive.environment().clone();
        let head = self.objects.manifests().head(self.options.bundle).await?;
        let kept = if head.header.may_have_lzma() { FrameCompression::LZMA } else { FrameCompression::ZSTD };
        let compression = self.options.frame_compression.unwrap_or(kept);
        let options = BuilderOptions::with(compression);
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let mut packer = Packer::new(environment, self.spool.clone(), options, threads);
        let mut all = BundleSet { bundles: Vec::new(), objects: Vec::new() };
        let kept = records.iter().filter(|(_, record)| !self.options.left_out.contains(&record.key));
        for (_, record) in kept {
            let pushed = packer.push(self.read(record).await?).await?;
            if let Some(cause) = pushed.refused {
                return Err(RepackError::Object { key: record.key, cause });
            }
            pushed.sealed.into_iter().for_each(|set| join(&mut all, set));
            if all.bundles.iter().any(|bundle| bundle.sealed.content.role() != BundleRole::Ordinary) {
                return Err(RepackError::TooLarge(record.key));
            }
            let content = ByteCount(record.content_bytes);
            self.events.tell(&PublishEvent::Packed { name: record.key.to_string(), content });
        }
        packer.finish().await?.into_iter().for_each(|set| join(&mut all, set));
        Ok(all)
    }

    /// Reads an object as it is archived: what comes whole has the hash that was published.
    async fn read(&self, record: &Arc<Record>) -> Result<VerifiedObject, RepackError> {
        let environment = self.archive.environment();
        let plan = self.objects.open(self.options.bundle, Arc::clone(record)).await?;
        let mut stream = plan.stream_file(None)?;
        let mut content = match record.path_info().filter(|_| record.encoding == Encoding::Chunked) {
            Some(info) => ObjectWriter::Nar(Box::new(NarWriter::new(&self.spool, info)?)),
            None => ObjectWriter::File(Box::new(ContentWriter::new(&self.spool, record.content_bytes)?)),
        };
        while let Some(piece) = stream.next().await {
            let piece = piece?;
            content = environment.blocking(move || content.push(&piece).map(|()| content)).await?;
        }
        let mut content = content.finish()?;
        let record = NewRecord {
            key: record.key,
            encoding: record.encoding,
            recipe: record.recipe,
            // The content is read with its patches written out: they are found anew.
            patches: content.take_patches(),
            body: record.body.clone(),
        };
        Ok(VerifiedObject { record, content, source_bytes: 0, earlier: Vec::new() })
    }

    /// Bytes of chunks of what is left out that the new bundles hold all the same.
    async fn shared_bytes(
        &self,
        records: &[(RecordPlace, Arc<Record>)],
        manifests: &[Manifest],
    ) -> Result<ByteCount, ReadError> {
        let stay: BTreeSet<Digest> =
            manifests.iter().flat_map(Manifest::chunks).map(|chunk| chunk.hash).collect();
        let (bundle, reader) = (self.options.bundle, self.objects.manifests());
        let mut shared: BTreeMap<Digest, u64> = BTreeMap::new();
        for (_, record) in records.iter().filter(|(_, record)| self.options.left_out.contains(&record.key)) {
            let list = reader.chunk_list(bundle, record).await?;
            for chunk in list.chunks() {
                // Chunks of other bundles are none of this one's.
                let ChunkRef::Own(number) = chunk else { continue };
                let entries = reader.chunk_entries(bundle, number..number + 1).await?;
                let both = entries.iter().filter(|entry| stay.contains(&entry.hash));
                shared.extend(both.map(|entry| (entry.hash, u64::from(entry.length))));
            }
        }
        Ok(ByteCount(shared.values().fold(0, |sum, bytes| sum.saturating_add(*bytes))))
    }
}

/// Takes the bytes of an object as it is archived, and cuts them as they were cut when it was published.
enum ObjectWriter {
    Nar(Box<NarWriter>),
    File(Box<ContentWriter>),
}

impl ObjectWriter {
    fn push(&mut self, bytes: &[u8]) -> Result<(), VerifyError> {
        match self {
            Self::Nar(writer) => writer.push(bytes),
            Self::File(writer) => Ok(writer.push(bytes)?),
        }
    }

    fn finish(self) -> Result<Content, VerifyError> {
        match self {
            Self::Nar(writer) => writer.finish(),
            Self::File(writer) => Ok(writer.finish()?),
        }
    }
}

fn join(all: &mut BundleSet, set: BundleSet) {
    all.bundles.extend(set.bundles);
    all.objects.extend(set.objects);
}
