//! Objects of the archive, read back to be packed once more.
//!
//! Owns: reading objects whole, and which of their chunks need not be stored again. Always holds: an object that is packed
//! was read whole, with the hash that was published, and its record stays as it was published; of other bundles those chunks
//! are used that it used before, or that were found and read now, and none of a bundle that is going; what comes together uses
//! no bundle anew that comes together itself one day; memory is that of one object, of the packer, and of the records of all
//! bundles that are packed together.
//! Leaves to others: which bundles go (coordinators), the bundles that come of it (`pack`), sending them (`ship`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use firn_base::{BundleId, ByteCount, Digest, ObjectKey};
use firn_bundle::{
    BuildError, BuilderOptions, BundleRole, ChunkRef, ChunkRun, Encoding, FrameCompression, FrameEntry,
    NewRecord, PartChunk, Record,
};
use firn_client_logic::{MARK_BYTES, UsedBytes, order_by_use};
use firn_nix_format::PathInfo;
use firn_retrieval::{ObjectPlan, ObjectReader, ReadError};
use firn_transport::Environment;
use firn_wire::{RecordPlace, SimilarRecord};
use futures::StreamExt;

use crate::content::{Content, ContentWriter};
use crate::destination::Destination;
use crate::earlier::{EarlierChunk, EarlierChunks, NAMES_PER_REQUEST, steps};
use crate::events::{PublishEvent, PublishEvents};
use crate::nar_writer::NarWriter;
use crate::pack::{LESS_THAN_NAR_SHARE, PackError, Packer};
use crate::spool::{SpoolDir, SpoolError};
use crate::spooled_bundle::BundleSet;
use crate::verify::{VerifiedObject, VerifyError};

// Of the bytes that a chunk took, what it may take more among others or at another level.
const EXPECTED_MORE_SHARE: u64 = 8;

/// Why archived objects were not packed once more.
#[derive(Debug, thiserror::Error)]
pub enum KeepError {
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
}

/// A record of an archived bundle.
#[derive(Debug, Clone)]
pub(crate) struct ArchivedRecord {
    /// The bundle.
    pub(crate) bundle: BundleId,
    /// Where in it the record lies.
    pub(crate) place: RecordPlace,
    pub(crate) record: Arc<Record>,
}

/// Which chunks of objects are looked for in other bundles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sought {
    /// Those that lay in a bundle which goes, in whatever bundle: a purge does not undo what using chunks saved.
    Lost,
    /// All that are not used from a bundle which stays, in bundles that stay as they are: what small publishes stored once more,
    /// because it lay in small bundles then, is saved now.
    All,
}

/// Reads archived objects and packs them once more.
#[derive(Debug)]
pub(crate) struct ArchivedObjects {
    environment: Environment,
    objects: ObjectReader,
    spool: SpoolDir,
    earlier: EarlierChunks,
    going: Arc<BTreeSet<BundleId>>,
    sought: Sought,
}

impl ArchivedObjects {
    /// Reads through `objects` what the archive `destination` has. Of `going` bundles nothing is used.
    pub(crate) fn new(
        destination: Arc<dyn Destination>,
        objects: ObjectReader,
        environment: Environment,
        spool: SpoolDir,
        going: BTreeSet<BundleId>,
        sought: Sought,
    ) -> Self {
        let going = Arc::new(going);
        let earlier = EarlierChunks::new(destination, objects.clone())
            .without(Arc::clone(&going))
            .in_small_bundles_too(sought == Sought::Lost);
        Self { environment, objects, spool, earlier, going, sought }
    }

    /// Packs these objects in their order, into as few bundles of at most that many bytes as they need: all of these belong
    /// to one commit. Each of them has `mark` besides, if there is one.
    pub(crate) async fn pack(
        &self,
        records: &[ArchivedRecord],
        compression: FrameCompression,
        bundle_bytes: u64,
        mark: Option<[u8; MARK_BYTES]>,
        events: &PublishEvents,
    ) -> Result<BundleSet, KeepError> {
        let options = BuilderOptions { payload_bytes_max: bundle_bytes, ..BuilderOptions::with(compression) };
        let (staying, losing) = self.dependencies(records).await?;
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        // They were worth their price when the objects were packed first.
        let mut packer = Packer::new(self.environment.clone(), self.spool.clone(), options, threads)
            .counting_on(staying)
            .using_all_that_is_earlier()
            .marking(mark);
        let mut all = BundleSet { bundles: Vec::new(), objects: Vec::new() };
        for batch in records.chunks(NAMES_PER_REQUEST) {
            let is_sought =
                |own: &&ArchivedRecord| self.sought == Sought::All || losing.contains(&own.bundle);
            let paths: Vec<(&ObjectKey, &PathInfo)> = batch
                .iter()
                .filter(is_sought)
                .filter_map(|own| Some((&own.record.key, own.record.path_info()?)))
                .collect();
            let mut named = match paths.is_empty() {
                true => BTreeMap::new(),
                false => self.earlier.by_name(paths.into_iter()).await,
            };
            for own in batch {
                let key = own.record.key;
                let named = named.remove(&key).unwrap_or_default();
                let (object, expected_bytes) = self.read(own, &named).await?;
                let content = ByteCount(object.content.bytes());
                let pushed = packer.push_expecting(object, expected_bytes).await?;
                if let Some(cause) = pushed.refused {
                    return Err(KeepError::Object { key, cause });
                }
                pushed.sealed.into_iter().for_each(|set| join(&mut all, set));
                events.tell(&PublishEvent::Packed { name: key.to_string(), content });
            }
        }
        packer.finish().await?.into_iter().for_each(|set| join(&mut all, set));
        Ok(all)
    }

    /// The bundles that those of `records` use chunks of and that stay, and those of them that use a going one.
    async fn dependencies(
        &self,
        records: &[ArchivedRecord],
    ) -> Result<(BTreeSet<BundleId>, BTreeSet<BundleId>), ReadError> {
        let bundles: BTreeSet<BundleId> = records.iter().map(|own| own.bundle).collect();
        let (mut staying, mut losing) = (BTreeSet::new(), BTreeSet::new());
        for bundle in bundles {
            let content = Arc::clone(&self.objects.manifests().head(bundle).await?.content);
            let (gone, left): (Vec<BundleId>, Vec<BundleId>) =
                content.dependencies().iter().partition(|other| self.going.contains(other));
            staying.extend(left);
            if !gone.is_empty() {
                losing.insert(bundle);
            }
        }
        Ok((staying, losing))
    }

    /// Reads an object as it is archived: what comes whole has the hash that was published. `named` are the archived
    /// objects of its name. With how many bytes all of it takes, if it compresses as what its bundle has of it did.
    async fn read(
        &self,
        own: &ArchivedRecord,
        named: &[SimilarRecord],
    ) -> Result<(VerifiedObject, u64), KeepError> {
        let ArchivedRecord { bundle, record, .. } = own;
        let plan = self.objects.open(*bundle, Arc::clone(record)).await?;
        let mut content = match record.path_info().filter(|_| record.encoding == Encoding::Chunked) {
            None => {
                let writer = ContentWriter::new(&self.spool, record.content_bytes)?;
                self.copy(&plan, ObjectWriter::File(Box::new(writer))).await?
            }
            Some(info) => {
                let writer = NarWriter::new(&self.spool, info)?;
                match self.copy(&plan, ObjectWriter::Nar(Box::new(writer))).await {
                    // It has its hash and was taken when it was published: it stays, only cut without regard to its files.
                    Err(KeepError::Keep(VerifyError::Nar(error))) => {
                        tracing::debug!(key = %record.key, %error, "an archived object is no NAR to us");
                        let writer = ContentWriter::patched(&self.spool, info)?;
                        self.copy(&plan, ObjectWriter::File(Box::new(writer))).await?
                    }
                    copied => copied?,
                }
            }
        };
        let record = NewRecord {
            key: record.key,
            encoding: record.encoding,
            recipe: record.recipe,
            // The content is read with its patches written out: they are found anew.
            patches: content.take_patches(),
            body: record.body.clone(),
        };
        let earlier = self.chunks_elsewhere(&plan, &content, named).await?;
        let expected_bytes = self.expected_bytes(&plan, content.bytes()).await?;
        let object = VerifiedObject { record, content, source_bytes: 0, recipe_tried: false, earlier };
        Ok((object, expected_bytes))
    }

    /// What so many bytes of an object probably take, by what its own chunks took.
    async fn expected_bytes(&self, plan: &ObjectPlan, content_bytes: u64) -> Result<u64, ReadError> {
        let (bundle, manifests) = (plan.bundle(), self.objects.manifests());
        let (mut raw, mut stored) = (0_u64, 0_u64);
        let mut last: Option<(u32, FrameEntry)> = None;
        for ChunkRun { first, count } in plan.chunk_list().runs().iter().flat_map(steps) {
            let ChunkRef::Own(first) = first else { continue };
            for chunk in manifests.chunk_entries(bundle, first..first.saturating_add(count)).await? {
                let frame = match last.filter(|(number, _)| *number == chunk.frame) {
                    Some((_, frame)) => frame,
                    None => manifests.frame_entry(bundle, chunk.frame).await?,
                };
                last = Some((chunk.frame, frame));
                let length = u64::from(chunk.length);
                raw = raw.saturating_add(length);
                let share = length * u64::from(frame.stored_bytes) / u64::from(frame.raw_bytes.max(1));
                stored = stored.saturating_add(share);
            }
        }
        Ok(expected_by(content_bytes, raw, stored))
    }

    /// Reads all of an object into `writer`.
    async fn copy(&self, plan: &ObjectPlan, mut writer: ObjectWriter) -> Result<Content, KeepError> {
        let mut stream = plan.stream_file(None)?;
        while let Some(piece) = stream.next().await {
            let piece = piece?;
            writer = self.environment.blocking(move || writer.push(&piece).map(|()| writer)).await?;
        }
        Ok(writer.finish()?)
    }

    /// The chunks of an object that was just read which need not be stored again: those that lie in bundles which stay, and
    /// what is found there of those that are sought.
    async fn chunks_elsewhere(
        &self,
        plan: &ObjectPlan,
        content: &Content,
        named: &[SimilarRecord],
    ) -> Result<Vec<EarlierChunk>, ReadError> {
        let (bundle, manifests) = (plan.bundle(), self.objects.manifests());
        let owners = Arc::clone(&manifests.head(bundle).await?.content);
        if owners.dependencies().is_empty() && self.sought == Sought::Lost {
            return Ok(Vec::new());
        }
        // It may have been cut otherwise when it was published.
        let mut wanted: BTreeMap<Digest, u32> = content.chunks().collect();
        let (mut earlier, mut lost) = (Vec::new(), BTreeMap::new());
        for ChunkRun { first, count } in plan.chunk_list().runs().iter().flat_map(steps) {
            let ChunkRef::Foreign(first) = first else { continue };
            for foreign in manifests.foreign_entries(bundle, first..first.saturating_add(count)).await? {
                let (number, length, hash) = (foreign.number, foreign.length, foreign.hash);
                if wanted.get(&hash) != Some(&length) {
                    continue;
                }
                let Some(owner) = owners.dependencies().get(usize::from(foreign.dependency)) else {
                    let what = "a chunk lies in a bundle it does not name".to_owned();
                    return Err(ReadError::Damaged { bundle, what });
                };
                wanted.remove(&hash);
                if self.going.contains(owner) {
                    lost.insert(hash, length);
                } else {
                    earlier.push((*owner, PartChunk { number, length, hash }));
                }
            }
        }
        let sought = match self.sought {
            Sought::Lost => lost,
            Sought::All => {
                wanted.append(&mut lost);
                wanted
            }
        };
        if !sought.is_empty() {
            earlier.extend(self.earlier.find_among(sought, content, named).await);
        }
        Ok(earlier)
    }
}

/// What so many bytes take if they compress as `raw` bytes did that took `stored`, and a little more.
fn expected_by(content_bytes: u64, raw: u64, stored: u64) -> u64 {
    // All of its chunks lie in other bundles. What goes with one of those is stored now, and nothing tells how it compresses.
    if raw == 0 {
        return content_bytes / LESS_THAN_NAR_SHARE;
    }
    let stored = stored.saturating_add(stored / EXPECTED_MORE_SHARE);
    let expected = u128::from(content_bytes) * u128::from(stored) / u128::from(raw);
    u64::try_from(expected).map_or(content_bytes, |expected| expected.min(content_bytes))
}

/// What frames of `bundles` are compressed with: LZMA where one of them has any, else zstd, each of its usual level.
pub(crate) async fn frame_compression(
    objects: &ObjectReader,
    bundles: &BTreeSet<BundleId>,
) -> Result<FrameCompression, ReadError> {
    for bundle in bundles {
        if objects.manifests().head(*bundle).await?.header.may_have_lzma() {
            return Ok(FrameCompression::LZMA);
        }
    }
    Ok(FrameCompression::ZSTD)
}

/// The records of a bundle, in order.
pub(crate) async fn archived_records(
    objects: &ObjectReader,
    bundle: BundleId,
) -> Result<Vec<ArchivedRecord>, ReadError> {
    let manifests = objects.manifests();
    let blocks = manifests.head(bundle).await?.directory.entries().len();
    let mut records = Vec::new();
    for block in (0..=u16::MAX).take(blocks) {
        let own = manifests.block(bundle, block).await?;
        let places = (0..=u16::MAX).map(|entry| RecordPlace { block, entry });
        let located = places.zip(own.iter().cloned());
        records.extend(located.map(|(place, record)| ArchivedRecord { bundle, place, record }));
    }
    Ok(records)
}

/// These records in the order in which as much as possible is used of the bundles that stay, if they are too many for one.
pub(crate) async fn ordered_by_use(
    objects: &ObjectReader,
    records: Vec<ArchivedRecord>,
    going: &BTreeSet<BundleId>,
) -> Result<Vec<ArchivedRecord>, ReadError> {
    let manifests = objects.manifests();
    let mut uses = Vec::with_capacity(records.len());
    for ArchivedRecord { bundle, record, .. } in &records {
        let owners = Arc::clone(&manifests.head(*bundle).await?.content);
        let mut used = UsedBytes::new();
        if !owners.dependencies().is_empty() {
            for run in manifests.chunk_list(*bundle, record).await?.runs().iter().flat_map(steps) {
                let ChunkRef::Foreign(first) = run.first else { continue };
                let numbers = first..first.saturating_add(run.count);
                for foreign in manifests.foreign_entries(*bundle, numbers).await? {
                    let owner = owners.dependencies().get(usize::from(foreign.dependency));
                    if let Some(owner) = owner.filter(|owner| !going.contains(owner)) {
                        *used.entry(*owner).or_default() += u64::from(foreign.length);
                    }
                }
            }
        }
        uses.push((record.key, used));
    }
    let order = order_by_use(&uses);
    Ok(order.into_iter().filter_map(|position| records.get(position)).cloned().collect())
}

/// The bundle, and its parts if it has some: nothing else needs those, and they go with it.
pub(crate) async fn with_parts(
    objects: &ObjectReader,
    bundle: BundleId,
) -> Result<BTreeSet<BundleId>, ReadError> {
    let head = objects.manifests().head(bundle).await?;
    let parts = match head.content.role() {
        BundleRole::Head => head.content.dependencies(),
        BundleRole::Ordinary | BundleRole::Part => &[],
    };
    Ok(parts.iter().copied().chain([bundle]).collect())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_takes_what_its_own_chunks_let_expect_and_half_of_itself_where_it_has_none() {
        assert_eq!(expected_by(1000, 100, 40), 450);
        assert_eq!(expected_by(1000, 100, 100), 1000, "not more than itself");
        assert_eq!(expected_by(1000, 0, 0), 500);
        assert_eq!(expected_by(0, 0, 0), 0);
        assert_eq!(expected_by(u64::MAX, u64::MAX, u64::MAX), u64::MAX);
    }
}
