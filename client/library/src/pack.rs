//! Packing verified objects into bundles whose payloads lie in the spool.
//!
//! Owns: where one bundle ends and the next begins, and objects that need several. Always holds: memory is
//! `threads` + 2 frames and the tables of one bundle, whatever the size of an object; equal objects in equal order give
//! equal bundles.
//! Leaves to others: the order of objects (`packing_order`), what a bundle is (`firn-bundle`), sending.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::sync::Arc;

use firn_base::BundleId;
use firn_bundle::{
    BuildError, BuilderOptions, BundleBuilder, CompressedFrame, NewRecord, PartChunk, PartChunks,
    PendingFrame, PushedChunk, compress_frame,
};
use firn_client_logic::{DependencyChoice, DependencyPlan, MARK_BYTES};
use firn_transport::Environment;
use futures::StreamExt;
use futures::stream::FuturesOrdered;

use crate::background::begin;
use crate::content::ContentReader;
use crate::earlier::EarlierChunk;
use crate::spool::{SpoolDir, SpoolError};
use crate::spooled_bundle::{BundleSet, Foreign, OfferedChunk, PackedObject, SpooledBundle};
use crate::verify::VerifiedObject;

const BUFFER_BYTES: usize = 256 << 10;

// What is used of earlier bundles lies in the spool until the restore check, with up to four bundles at once. Of pure rebuilds
// this many bytes leave a bundle that takes 2.6 MB in 40 shards, a hundredth of them; only an object that is larger by itself
// has more, and lies in the spool itself. Not so where all bundles belong to one commit: what came together, or lay in one bundle,
// must not come apart for it.
const FOREIGN_BYTES_MAX: u64 = 256 << 20;

/// What became of an object.
#[derive(Debug)]
pub(crate) struct Pushed {
    /// Bundles that were sealed meanwhile.
    pub(crate) sealed: Vec<BundleSet>,
    /// Why the object is in none, if it is not.
    pub(crate) refused: Option<BuildError>,
}

/// Why packing cannot go on at all.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// The spool failed.
    #[error(transparent)]
    Spool(#[from] SpoolError),
    /// A bundle could not be made of what was packed.
    #[error("packing failed: {0}")]
    Build(#[from] BuildError),
}

/// Packs objects one after the other.
#[derive(Debug)]
pub(crate) struct Packer {
    environment: Environment,
    spool: SpoolDir,
    options: BuilderOptions,
    threads: usize,
    // A bundle with at least one record.
    open: Option<OpenBundle>,
    choice: DependencyChoice,
    // A chunk that each bundle begins with and no object has.
    mark: Option<[u8; MARK_BYTES]>,
    // Of earlier bundles, in one; an object that is larger by itself may have more.
    foreign_bytes_max: u64,
    objects: Vec<PackedObject>,
}

#[derive(Debug)]
struct OpenBundle {
    builder: BundleBuilder,
    payload: BufWriter<File>,
    // What is used of earlier bundles, in the order of the foreign chunk table.
    foreign: Option<BufWriter<File>>,
    foreign_bytes: u64,
    // What the objects of the bundle may use of earlier ones.
    offered: BTreeSet<OfferedChunk>,
}

/// An object on its way into bundles.
struct Passage {
    open: OpenBundle,
    content: ContentReader,
    // Complete, to be compressed.
    frames: Vec<PendingFrame>,
    // A chunk that the bundle before had no room for.
    unpushed: Option<Vec<u8>>,
    spool: SpoolDir,
    // Whether the open bundle holds any of the object.
    touched: bool,
    parts: Vec<PartChunks>,
    part_bundles: Vec<Arc<SpooledBundle>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    /// Frames are complete: compress them.
    Frames,
    /// The bundle is full.
    Full,
    /// The whole content is pushed.
    Whole,
}

impl Packer {
    /// A packer of bundles as `options` say; `threads` frames are compressed at once while chunks for the next are pushed.
    pub(crate) const fn new(
        environment: Environment,
        spool: SpoolDir,
        options: BuilderOptions,
        threads: usize,
    ) -> Self {
        Self {
            environment,
            spool,
            options,
            threads,
            open: None,
            choice: DependencyChoice::new(),
            mark: None,
            foreign_bytes_max: FOREIGN_BYTES_MAX,
            objects: Vec::new(),
        }
    }

    /// One whose bundles use as much of earlier ones as there is: all of it lies in the spool until the set is sent.
    pub(crate) const fn using_all_that_is_earlier(mut self) -> Self {
        self.foreign_bytes_max = u64::MAX;
        self
    }

    /// One to which each of these bundles is worth depending on, however little of it is found.
    pub(crate) fn counting_on(mut self, bundles: BTreeSet<BundleId>) -> Self {
        self.choice = DependencyChoice::counting_on(bundles);
        self
    }

    /// One each of whose bundles has this chunk besides, if there is one: it is another bundle than without it.
    pub(crate) const fn marking(mut self, mark: Option<[u8; MARK_BYTES]>) -> Self {
        self.mark = mark;
        self
    }

    /// Packs one object.
    pub(crate) async fn push(&mut self, object: VerifiedObject) -> Result<Pushed, PackError> {
        let VerifiedObject { record, content, source_bytes, recipe_tried, earlier } = object;
        let content_bytes = content.bytes();
        let has_recipe = !record.recipe.is_none();
        let packed = PackedObject { key: record.key, content_bytes, source_bytes, recipe_tried, has_recipe };
        let mut sealed = Vec::new();
        let mut usable = self.usable(&earlier);
        let foreign_bytes_max = self.foreign_bytes_max;
        let is_full = |open: &OpenBundle, usable: &Option<Vec<EarlierChunk>>| match usable {
            None => true,
            Some(usable) => !open.has_room(content_bytes, usable, foreign_bytes_max, &record),
        };
        if self.open.as_ref().is_some_and(|open| is_full(open, &usable)) {
            sealed.extend(self.finish().await?);
            usable = self.usable(&earlier);
        }
        let mut open = match self.open.take() {
            Some(open) => open,
            None => OpenBundle::new(self.options, self.mark, &self.spool)?,
        };
        // What needs several bundles all the same stores all of it: a head depends on its parts alone.
        let usable = usable.filter(|usable| open.has_room(content_bytes, usable, foreign_bytes_max, &record));
        for (bundle, chunk) in usable.unwrap_or_default() {
            open.offer(bundle, chunk);
        }
        open.builder.begin_object();
        let passage = Passage {
            open,
            content: content.into_reader(&self.spool)?,
            frames: Vec::new(),
            unpushed: None,
            spool: self.spool.clone(),
            touched: false,
            parts: Vec::new(),
            part_bundles: Vec::new(),
        };
        let (mut passage, outcome) = self.carry(passage, record).await?;
        if let Err(error) = outcome {
            passage.open.builder.abandon_object();
            self.open = Some(passage.open).filter(|open| open.builder.record_count() > 0);
            return Ok(Pushed { sealed, refused: Some(error) });
        }
        self.objects.push(packed);
        let ends = !passage.parts.is_empty() || passage.open.builder.is_full();
        self.open = Some(passage.open);
        if ends && let Some(mut last) = self.finish().await? {
            passage.part_bundles.append(&mut last.bundles);
            sealed.push(BundleSet { bundles: passage.part_bundles, objects: last.objects });
        }
        Ok(Pushed { sealed, refused: None })
    }

    /// Which of an object's chunks that lie in earlier bundles the open bundle may use; none if it is to be sealed first.
    fn usable(&mut self, earlier: &[EarlierChunk]) -> Option<Vec<EarlierChunk>> {
        let mut found: BTreeMap<BundleId, u64> = BTreeMap::new();
        let builder = self.open.as_ref().map(|open| &open.builder);
        // What the open bundle has is not stored again, whatever is chosen.
        let saves = |chunk: &PartChunk| !builder.is_some_and(|builder| builder.knows_chunk(&chunk.hash));
        for (bundle, chunk) in earlier.iter().filter(|(_, chunk)| saves(chunk)) {
            *found.entry(*bundle).or_default() += u64::from(chunk.length);
        }
        let used = self.open.as_ref().map_or(&[][..], |open| open.builder.dependencies());
        match self.choice.choose(used, &found) {
            DependencyPlan::SealFirst => None,
            DependencyPlan::Use(bundles) => {
                Some(earlier.iter().filter(|(bundle, _)| bundles.contains(bundle)).copied().collect())
            }
        }
    }

    /// Seals what is open, if there is anything in it.
    pub(crate) async fn finish(&mut self) -> Result<Option<BundleSet>, PackError> {
        self.choice.begin_bundle();
        let Some(open) = self.open.take() else { return Ok(None) };
        let spool = self.spool.clone();
        let bundle = self.environment.blocking(move || open.seal(&spool)).await?;
        let objects = std::mem::take(&mut self.objects);
        Ok(Some(BundleSet { bundles: vec![Arc::new(bundle)], objects }))
    }

    /// Pushes the content and the record, through as many bundles as it takes. The inner result is the
    /// object's own.
    async fn carry(
        &self,
        mut passage: Passage,
        record: NewRecord,
    ) -> Result<(Passage, Result<(), BuildError>), PackError> {
        let mut compressing = FuturesOrdered::new();
        loop {
            let push = move || {
                let progress = passage.push_chunks();
                (passage, progress)
            };
            let progress;
            (passage, progress) = self.environment.blocking(push).await;
            for frame in std::mem::take(&mut passage.frames) {
                compressing.push_back(begin(self.compress(frame)));
            }
            // One more than threads, so that each finds the next frame where it ends one.
            let left = if matches!(progress, Ok(Progress::Frames)) { self.threads.max(1) } else { 0 };
            let mut appended = false;
            while compressing.len() > left
                && let Some(frame) = compressing.next().await
            {
                passage = self.append(passage, frame.map_err(BuildError::Compress)?).await?;
                appended = true;
            }
            let outcome = match progress {
                Ok(Progress::Frames) => continue,
                // Frames on their way were counted as if nothing could be compressed: where a bundle ends must not depend on
                // how many there are, so the same chunk is tried again.
                Ok(Progress::Full) if appended => continue,
                Ok(Progress::Full) => Err(BuildError::Full),
                Ok(Progress::Whole) => passage.finish(record.clone()),
                Err(PackError::Build(error)) => Err(error),
                Err(error) => return Err(error),
            };
            match outcome {
                Err(BuildError::Full) if passage.may_leave_a_part() => {
                    passage = self.next_part(passage).await?;
                }
                outcome => return Ok((passage, outcome)),
            }
        }
    }

    fn compress(
        &self,
        frame: PendingFrame,
    ) -> impl Future<Output = io::Result<CompressedFrame>> + Send + use<> {
        let (environment, compression) = (self.environment.clone(), self.options.frame_compression);
        async move { environment.blocking(move || compress_frame(frame, compression)).await }
    }

    /// Appends the next frame of the open bundle.
    async fn append(&self, mut passage: Passage, frame: CompressedFrame) -> Result<Passage, PackError> {
        let append = move || {
            passage.open.builder.append_frame(&frame, &mut passage.open.payload)?;
            Ok(passage)
        };
        self.environment.blocking(append).await
    }

    /// Seals what is pushed so far as a part and goes on in a new bundle.
    async fn next_part(&self, mut passage: Passage) -> Result<Passage, PackError> {
        let (spool, options, mark) = (self.spool.clone(), self.options, self.mark);
        let seal = move || {
            let mut next = OpenBundle::new(options, mark, &spool)?;
            next.builder.begin_object();
            let full = std::mem::replace(&mut passage.open, next);
            let (part, chunks) = full.seal_as_part(&spool)?;
            passage.parts.push(chunks);
            passage.part_bundles.push(Arc::new(part));
            passage.touched = false;
            Ok(passage)
        };
        self.environment.blocking(seal).await
    }
}

impl OpenBundle {
    fn new(
        options: BuilderOptions,
        mark: Option<[u8; MARK_BYTES]>,
        spool: &SpoolDir,
    ) -> Result<Self, PackError> {
        let payload = BufWriter::with_capacity(BUFFER_BYTES, spool.file()?);
        let (mut builder, offered) = (BundleBuilder::new(options), BTreeSet::new());
        if let Some(mark) = mark {
            builder.begin_object();
            builder.push_chunk(&mark)?;
            builder.abandon_object();
        }
        Ok(Self { builder, payload, foreign: None, foreign_bytes: 0, offered })
    }

    /// Lets the objects that follow use a chunk of an earlier bundle.
    fn offer(&mut self, bundle: BundleId, chunk: PartChunk) {
        self.builder.offer_foreign_chunk(bundle, chunk);
        self.offered.insert((bundle, chunk.number, chunk.hash));
    }

    /// Whether an object fits, however badly what is new of it compresses.
    fn has_room(
        &self,
        content_bytes: u64,
        usable: &[EarlierChunk],
        foreign_bytes_max: u64,
        record: &NewRecord,
    ) -> bool {
        let foreign: u64 = usable.iter().map(|(_, chunk)| u64::from(chunk.length)).sum();
        let fits = self.foreign_bytes == 0 || self.foreign_bytes.saturating_add(foreign) <= foreign_bytes_max;
        fits && !self.builder.would_exceed(content_bytes, usable.iter().map(|(_, chunk)| *chunk), record)
    }

    /// Takes the next chunk of the open object.
    fn push_chunk(&mut self, chunk: &[u8], spool: &SpoolDir) -> Result<(), PackError> {
        match self.builder.push_chunk(chunk)? {
            PushedChunk::Foreign => Ok(self.keep_foreign(chunk, spool)?),
            PushedChunk::Stored | PushedChunk::Known => Ok(()),
        }
    }

    /// Keeps a chunk that lies in an earlier bundle for the restore check.
    fn keep_foreign(&mut self, chunk: &[u8], spool: &SpoolDir) -> Result<(), SpoolError> {
        let file = match &mut self.foreign {
            Some(file) => file,
            None => self.foreign.insert(BufWriter::with_capacity(BUFFER_BYTES, spool.file()?)),
        };
        self.foreign_bytes += chunk.len() as u64;
        file.write_all(chunk).map_err(|error| spool.failed(error))
    }

    fn seal(mut self, spool: &SpoolDir) -> Result<SpooledBundle, PackError> {
        let sealed = self.builder.seal(&mut self.payload)?;
        let foreign = Foreign { chunks: self.foreign, bytes: self.foreign_bytes, offered: self.offered };
        Ok(SpooledBundle::new(sealed, self.payload, foreign, spool)?)
    }

    fn seal_as_part(mut self, spool: &SpoolDir) -> Result<(SpooledBundle, PartChunks), PackError> {
        let (sealed, chunks) = self.builder.seal_as_part(&mut self.payload)?;
        let foreign = Foreign { chunks: self.foreign, bytes: self.foreign_bytes, offered: self.offered };
        Ok((SpooledBundle::new(sealed, self.payload, foreign, spool)?, chunks))
    }
}

impl Passage {
    /// Pushes chunks until a frame is complete, the bundle is full, or the content ends.
    fn push_chunks(&mut self) -> Result<Progress, PackError> {
        let open = &mut self.open;
        if let Some(chunk) = self.unpushed.take() {
            match open.push_chunk(&chunk, &self.spool) {
                Ok(()) => self.touched = true,
                Err(PackError::Build(BuildError::Full)) => {
                    self.unpushed = Some(chunk);
                    return Ok(Progress::Full);
                }
                Err(error) => return Err(error),
            }
        }
        loop {
            while let Some(frame) = open.builder.take_frame() {
                self.frames.push(frame);
            }
            if !self.frames.is_empty() {
                return Ok(Progress::Frames);
            }
            let Some(chunk) = self.content.next_chunk()? else { return Ok(Progress::Whole) };
            match open.push_chunk(chunk, &self.spool) {
                Ok(()) => self.touched = true,
                Err(PackError::Build(BuildError::Full)) => {
                    self.unpushed = Some(chunk.to_vec());
                    return Ok(Progress::Full);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Ends the object with its record.
    fn finish(&mut self, record: NewRecord) -> Result<(), BuildError> {
        let builder = &mut self.open.builder;
        let finished = if self.parts.is_empty() {
            builder.finish_object(record)
        } else {
            builder.finish_spanning_object(record, &self.parts)
        };
        finished.map(|_| ())
    }

    /// A bundle that holds other objects or uses earlier bundles was found to have room, so only an object of its own
    /// fills one; and without a chunk of it a part would be no progress.
    fn may_leave_a_part(&self) -> bool {
        let builder = &self.open.builder;
        self.touched && builder.record_count() == 0 && builder.dependencies().is_empty()
    }
}

#[cfg(test)]
mod tests {
    use firn_bundle::{Blob, BundleRole, Encoding};
    use firn_nix_format::{Compression, Sha256};

    use super::*;
    use crate::content::ContentWriter;

    fn noise(bytes: usize, seed: u8) -> Vec<u8> {
        let mut noise = vec![0; bytes];
        blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut noise);
        noise
    }

    fn object(spool: &SpoolDir, bytes: &[u8], name: u8) -> VerifiedObject {
        let mut content = ContentWriter::new(spool, bytes.len() as u64).unwrap();
        content.push(bytes).unwrap();
        let blob = Blob {
            url: format!("log/{name}"),
            compression: Compression::None,
            bytes: bytes.len() as u64,
            sha256: Sha256::of(bytes),
        };
        let key = firn_base::ObjectKey::build_log([name; 20]);
        let record = NewRecord::blob(key, blob, Encoding::Chunked);
        VerifiedObject {
            record,
            content: content.finish().unwrap(),
            source_bytes: 1,
            recipe_tried: false,
            earlier: Vec::new(),
        }
    }

    fn packer(spool: &SpoolDir, bundle_bytes: u64) -> Packer {
        let options = BuilderOptions { payload_bytes_max: bundle_bytes, ..BuilderOptions::default() };
        Packer::new(Environment::real(), spool.clone(), options, 2)
    }

    #[tokio::test]
    async fn small_objects_share_a_bundle_until_it_is_full() {
        let spool = SpoolDir::open(None).unwrap();
        let mut packer = packer(&spool, 8 << 20);
        let mut sets = Vec::new();
        for name in 0..8 {
            let pushed = packer.push(object(&spool, &noise(1 << 20, name), name)).await.unwrap();
            assert!(pushed.refused.is_none());
            sets.extend(pushed.sealed);
        }
        sets.extend(packer.finish().await.unwrap());
        assert!(sets.len() > 1 && sets.len() < 5, "{}", sets.len());
        let keys: Vec<_> =
            sets.iter().flat_map(|set| &set.objects).map(|object| object.key.name()[0]).collect();
        assert_eq!(keys, [0, 1, 2, 3, 4, 5, 6, 7]);
        for set in &sets {
            assert_eq!(set.bundles.len(), 1);
            assert_eq!(set.bundles[0].sealed.content.role(), BundleRole::Ordinary);
        }
    }

    #[tokio::test]
    async fn what_is_used_of_earlier_bundles_parts_objects_at_the_limit_and_not_where_there_is_none() {
        let spool = SpoolDir::open(None).unwrap();
        let earlier = [8, 9].map(|number| BundleId::from_bytes([number; 32]));
        for (bounded, bundles) in [(true, 2), (false, 1)] {
            let packer = packer(&spool, 64 << 20).counting_on(earlier.into());
            let mut packer = match bounded {
                true => Packer { foreign_bytes_max: 3 << 19, ..packer },
                false => packer.using_all_that_is_earlier(),
            };
            let mut sets = Vec::new();
            for (name, bundle) in (0..).zip(earlier) {
                let mut object = object(&spool, &noise(1 << 20, name), name);
                let chunk = |(number, (hash, length))| (bundle, PartChunk { number, length, hash });
                object.earlier = (0..).zip(object.content.chunks()).map(chunk).collect();
                let pushed = packer.push(object).await.unwrap();
                assert!(pushed.refused.is_none(), "{pushed:?}");
                sets.extend(pushed.sealed);
            }
            sets.extend(packer.finish().await.unwrap());
            assert_eq!(sets.len(), bundles, "bounded: {bounded}");
            let foreign: u64 = sets.iter().flat_map(|set| &set.bundles).map(|own| own.foreign_bytes()).sum();
            assert_eq!(foreign, 2 << 20, "all of it lies in earlier ones");
        }
    }

    #[tokio::test]
    async fn a_large_object_becomes_parts_and_a_head_and_leaves_others_alone() {
        let spool = SpoolDir::open(None).unwrap();
        let mut packer = packer(&spool, 4 << 20);
        assert!(packer.push(object(&spool, &noise(1000, 1), 1)).await.unwrap().sealed.is_empty());
        let pushed = packer.push(object(&spool, &noise(10 << 20, 2), 2)).await.unwrap();
        assert!(pushed.refused.is_none());
        let [small, large] = &pushed.sealed[..] else { panic!("{pushed:?}") };
        assert_eq!(small.objects.len(), 1);
        let (head, parts) = large.bundles.split_last().unwrap();
        assert_eq!(head.sealed.content.role(), BundleRole::Head);
        assert!(parts.len() >= 2);
        let part_ids: Vec<_> = parts.iter().map(|part| part.sealed.content.bundle_id()).collect();
        assert_eq!(head.sealed.content.dependencies(), part_ids);
        assert!(packer.finish().await.unwrap().is_none());
    }

    #[tokio::test]
    async fn an_object_that_does_not_fit_its_record_is_refused_and_the_next_is_packed() {
        let spool = SpoolDir::open(None).unwrap();
        let mut packer = packer(&spool, 8 << 20);
        let mut wrong = object(&spool, &noise(1000, 1), 1);
        if let firn_bundle::RecordBody::Blob(blob) = &mut wrong.record.body {
            blob.bytes = 7;
        }
        let pushed = packer.push(wrong).await.unwrap();
        assert!(matches!(pushed.refused, Some(BuildError::Contradiction(_))));
        packer.push(object(&spool, &noise(1000, 2), 2)).await.unwrap();
        let set = packer.finish().await.unwrap().unwrap();
        assert_eq!(set.objects.len(), 1);
        assert_eq!(set.objects[0].key.name()[0], 2);
    }
}
