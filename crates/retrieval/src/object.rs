//! Objects: NARs, published files and logs, as streams of checked bytes.
//!
//! Owns: what of an object is checked against what. Always holds: every byte handed out lies in a chunk whose
//! hash was checked; a whole read ends cleanly only if length and SHA-256 are those of the path info, or its chunks
//! those that gave this SHA-256 before, and withholds its last piece until they are; memory is bounded whatever the
//! object's size.
//! Leaves to others: chunks and frames (`content_stream`), signatures (publisher, coordinator, gateway).

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use firn_base::BundleId;
use firn_bundle::{ChunkEntry, ChunkList, Encoding, PATCH_BYTES, Record, RecordBody};
use firn_nix_format::{Compression, Sha256};
use firn_transport::Environment;
use futures::StreamExt;
use futures::stream::BoxStream;

use crate::ahead_budget::AheadBudget;
use crate::content_stream::{ContentSource, content_stream};
use crate::decoded_stream::decoded_stream;
use crate::frame_reader::FrameReader;
use crate::payload::check_range;
use crate::proven_compositions::ProvenCompositions;
use crate::verified_stream::{Expected, cut_stream, verified_stream};
use crate::visit_planner::VisitPlanner;
use crate::{ManifestReader, ReadError};

/// Checked bytes in order. After an error nothing follows; a stream without an error is complete.
pub type ByteStream = BoxStream<'static, Result<Bytes, ReadError>>;

/// How much an object reader takes.
#[derive(Debug, Clone, Copy)]
pub struct ObjectOptions {
    /// Bytes of frames that one stream fetches ahead, stored and decompressed: at least one frame, which takes
    /// at most 8 MiB, and 1.5 MiB as our publisher makes them.
    pub bytes_ahead: u32,
    /// Bytes that all streams together fetch ahead, but for one frame each.
    pub all_bytes_ahead: u32,
    /// Bytes of decompressed frames that are remembered, over all streams.
    pub frame_cache_bytes: usize,
}

impl Default for ObjectOptions {
    fn default() -> Self {
        Self { bytes_ahead: 12 << 20, all_bytes_ahead: 256 << 20, frame_cache_bytes: 16 << 20 }
    }
}

/// Reads objects. Clones share caches.
#[derive(Debug, Clone)]
pub struct ObjectReader {
    manifests: ManifestReader,
    environment: Environment,
    frames: Arc<FrameReader>,
    ahead: AheadBudget,
    proven: Arc<ProvenCompositions>,
}

/// An object that can be read: its record and its chunk list.
#[derive(Debug, Clone)]
pub struct ObjectPlan {
    reader: ObjectReader,
    bundle: BundleId,
    record: Arc<Record>,
    content: Arc<ContentSource>,
}

impl ObjectReader {
    /// A reader of the objects that `manifests` describes.
    pub fn new(manifests: ManifestReader, environment: Environment, options: ObjectOptions) -> Self {
        let frames = FrameReader::new(manifests.clone(), environment.clone(), options.frame_cache_bytes);
        let ahead = AheadBudget::new(options.bytes_ahead, options.all_bytes_ahead);
        Self { manifests, environment, frames: Arc::new(frames), ahead, proven: Arc::default() }
    }

    /// The manifests it reads.
    pub const fn manifests(&self) -> &ManifestReader {
        &self.manifests
    }

    /// Reads a frame of a bundle, and checks that these chunks lie there as their entries say.
    ///
    /// # Errors
    /// It cannot be read, or one of them is another.
    pub async fn check_chunks(
        &self,
        bundle: BundleId,
        frame: u32,
        chunks: Vec<ChunkEntry>,
    ) -> Result<(), ReadError> {
        let read = self.frames.frame(bundle, frame, Vec::new()).await?;
        let check = move || chunks.iter().try_for_each(|chunk| read.place(chunk).map(|_| ()));
        if let Err(error) = self.environment.blocking(check).await {
            self.frames.doubt(bundle, frame).await;
            return Err(ReadError::damaged(bundle, error));
        }
        Ok(())
    }

    /// Makes ready to read the object of `record`, a record of `bundle`: fetches its chunk list.
    pub async fn open(&self, bundle: BundleId, record: Arc<Record>) -> Result<ObjectPlan, ReadError> {
        let wrong = |what: &str| ReadError::WrongObject { key: record.key, what: what.to_owned() };
        if record.encoding == Encoding::Chunked && published(&record).0 != record.content_bytes {
            return Err(wrong("its chunks do not add up to the size that was published"));
        }
        let list = self.manifests.chunk_list(bundle, &record).await?;
        let hash_parts = if record.encoding == Encoding::Chunked { record.hash_parts() } else { Vec::new() };
        check_patches(&list, record.content_bytes, hash_parts.len()).map_err(wrong)?;
        let content = ContentSource {
            bundle,
            key: record.key,
            bytes: record.content_bytes,
            list,
            hash_parts,
            manifests: self.manifests.clone(),
            frames: Arc::clone(&self.frames),
            environment: self.environment.clone(),
        };
        Ok(ObjectPlan { reader: self.clone(), bundle, record, content: Arc::new(content) })
    }
}

impl ObjectPlan {
    /// The record.
    pub const fn record(&self) -> &Arc<Record> {
        &self.record
    }

    /// The bundle that holds the record.
    pub const fn bundle(&self) -> BundleId {
        self.bundle
    }

    /// Its chunks, in order, and its patches.
    pub fn chunk_list(&self) -> &ChunkList {
        &self.content.list
    }

    /// Bytes of the object, decompressed: NarSize for a store path.
    pub fn bytes(&self) -> u64 {
        published(&self.record).0
    }

    /// Bytes of the content as archived: those of the published file for verbatim objects, else
    /// [`Self::bytes`].
    pub fn file_bytes(&self) -> u64 {
        self.record.content_bytes
    }

    /// How the content as archived is compressed: as published for verbatim objects, else not at all.
    pub fn file_compression(&self) -> Compression {
        match self.record.encoding {
            Encoding::Chunked => Compression::None,
            Encoding::Verbatim => published(&self.record).2,
        }
    }

    /// The object, decompressed: the NAR of a store path. A whole read ends cleanly only if NarSize and NarHash
    /// are right; a range (of bytes of the NAR) is checked by chunks.
    ///
    /// A range of a compressed verbatim object decompresses everything before it.
    ///
    /// # Errors
    /// At once: [`ReadError::OutOfRange`]. All others come from the stream.
    pub fn stream(&self, range: Option<Range<u64>>) -> Result<ByteStream, ReadError> {
        let (bytes, sha256, compression) = published(&self.record);
        let range = range.unwrap_or(0..bytes);
        check_range(&range, bytes)?;
        if self.file_compression() == Compression::None {
            return Ok(self.checked_content(range, bytes, Some(sha256)));
        }
        let file = self.checked_content(0..self.file_bytes(), self.file_bytes(), self.file_sha256());
        let decoded = decoded_stream(file, compression, self.record.key, self.reader.environment.clone());
        let expected = Expected { key: self.record.key, bytes, sha256: Some(sha256), composition: None };
        if range == (0..bytes) {
            Ok(verified_stream(decoded, expected, self.reader.environment.clone()))
        } else {
            Ok(cut_stream(decoded, range, self.record.key))
        }
    }

    /// The content as archived: the published file of a verbatim object, byte for byte. A whole read ends
    /// cleanly only if FileHash is right, where one was published.
    ///
    /// # Errors
    /// At once: [`ReadError::OutOfRange`]. All others come from the stream.
    pub fn stream_file(&self, range: Option<Range<u64>>) -> Result<ByteStream, ReadError> {
        let range = range.unwrap_or(0..self.file_bytes());
        check_range(&range, self.file_bytes())?;
        Ok(self.checked_content(range, self.file_bytes(), self.file_sha256()))
    }

    /// The whole object, decompressed, in memory.
    ///
    /// # Errors
    /// [`ReadError::OutOfRange`] if it has more than `bytes_max` bytes, else those of the stream.
    pub async fn read_all(&self, bytes_max: usize) -> Result<Bytes, ReadError> {
        let bytes = usize::try_from(self.bytes()).ok().filter(|bytes| *bytes <= bytes_max);
        let bytes =
            bytes.ok_or(ReadError::OutOfRange { start: 0, end: self.bytes(), bytes: bytes_max as u64 })?;
        let mut stream = self.stream(None)?;
        let mut whole = Vec::with_capacity(bytes);
        while let Some(piece) = stream.next().await {
            whole.extend_from_slice(&piece?);
        }
        Ok(whole.into())
    }

    /// The SHA-256 of the content as archived, where it is known.
    fn file_sha256(&self) -> Option<Sha256> {
        match (self.record.encoding, &self.record.body) {
            (Encoding::Chunked, _) => Some(published(&self.record).1),
            (Encoding::Verbatim, RecordBody::StorePath(info)) => info.file_hash,
            (Encoding::Verbatim, RecordBody::Blob(_)) => None,
        }
    }

    fn checked_content(&self, range: Range<u64>, bytes: u64, sha256: Option<Sha256>) -> ByteStream {
        let (source, ahead) = (Arc::clone(&self.content), self.reader.ahead.stream());
        if range != (0..bytes) {
            return content_stream(VisitPlanner::new(source, range, None), ahead);
        }
        let composition = sha256.map(|sha256| self.reader.proven.begin(&source, sha256));
        let (composition, writer) = composition.unzip();
        let content = content_stream(VisitPlanner::new(source, range, writer), ahead);
        let expected = Expected { key: self.record.key, bytes, sha256, composition };
        verified_stream(content, expected, self.reader.environment.clone())
    }
}

/// Decompressed bytes, their SHA-256, and the compression of the published file.
fn published(record: &Record) -> (u64, Sha256, Compression) {
    match &record.body {
        RecordBody::StorePath(info) => (info.nar_size, info.nar_hash, info.compression),
        RecordBody::Blob(blob) => (blob.bytes, blob.sha256, blob.compression),
    }
}

fn check_patches(list: &ChunkList, bytes: u64, hash_parts: usize) -> Result<(), &'static str> {
    let Some(last) = list.patches().last() else { return Ok(()) };
    if last.offset.saturating_add(PATCH_BYTES) > bytes {
        return Err("a patch lies behind its end");
    }
    let known = |reference: u32| usize::try_from(reference).is_ok_and(|number| number < hash_parts);
    if list.patches().iter().all(|patch| known(patch.reference)) {
        Ok(())
    } else {
        Err("a patch names a reference that it does not have")
    }
}

#[cfg(test)]
mod tests {
    use firn_base::ObjectKey;
    use firn_bundle::{Blob, BuilderOptions, BundleBuilder, NewRecord};
    use futures::TryStreamExt;

    use super::*;
    use crate::{ManifestOptions, SpoolReader};

    #[tokio::test]
    async fn a_reading_of_a_frame_in_memory_counts_once_also_where_it_takes_long() {
        // More chunks in one visit than are cut where they are; the first visit has 256.
        let log: Vec<u8> = (0..768_u32).flat_map(u32::to_le_bytes).collect();
        let second_visit = 1024..3072;
        let mut builder = BundleBuilder::new(BuilderOptions::default());
        builder.begin_object();
        for chunk in log.chunks(4) {
            builder.push_chunk(chunk).unwrap();
        }
        let (url, sha256) = ("log/1".to_owned(), Sha256::of(&log));
        let blob = Blob { url, compression: Compression::None, bytes: log.len() as u64, sha256 };
        let record = NewRecord::blob(ObjectKey::build_log([1; 20]), blob, Encoding::Chunked);
        builder.finish_object(record).unwrap();
        let mut payload = Vec::new();
        let sealed = builder.seal(&mut payload).unwrap();
        let (bundle, position) = (sealed.content.bundle_id(), sealed.positions[0]);
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("payload");
        std::fs::write(&file, &payload).unwrap();
        let spool = SpoolReader::new(Environment::real(), None).with_payload(sealed.content, &file);
        let manifests = ManifestReader::new(Arc::new(spool), ManifestOptions::default());
        let reader = ObjectReader::new(manifests, Environment::real(), ObjectOptions::default());
        let record = reader.manifests().record(bundle, position.block, position.entry, &position.key).await;
        let plan = reader.open(bundle, record.unwrap()).await.unwrap();
        let readings = async || {
            let pieces: Vec<Bytes> =
                plan.stream(Some(second_visit.clone())).unwrap().try_collect().await.unwrap();
            assert!(pieces.concat() == log[1024..3072]);
            plan.content.frames.remembered(bundle, 0).unwrap().readings()
        };
        let first = readings().await;
        for later in 1..4 {
            assert_eq!(readings().await, first + later);
        }
    }
}
