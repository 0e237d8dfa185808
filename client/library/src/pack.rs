//! Packing verified objects into bundles whose payloads lie in the spool.
//!
//! Owns: where one bundle ends and the next begins, and objects that need several. Always holds: memory is
//! `threads` + 3 frames and the tables of one bundle, whatever the size of an object; equal objects in equal order give
//! equal bundles, whatever is compressed at the same time; an object is begun where it probably has room, and what does not fit
//! after all is taken back, so that nothing lies in a bundle that none of its records names, but a mark.
//! Leaves to others: the order of objects (`packing_order`), what a bundle is (`firn-bundle`), sending.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::sync::Arc;

use firn_base::{BundleId, Digest};
use firn_bundle::{
    BuildError, BuilderOptions, BundleBuilder, CompressedFrame, Encoding, NewRecord, ObjectSize, PartChunk,
    PartChunks, PendingFrame, PushedChunk, compress_frame,
};
use firn_client_logic::{DependencyChoice, DependencyPlan, MARK_BYTES};
use firn_nix_format::Compression;
use firn_transport::Environment;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesOrdered;

use crate::background::begin;
use crate::content::ContentReader;
use crate::earlier::EarlierChunk;
use crate::spool::{SpoolDir, SpoolError};
use crate::spooled_bundle::{BundleSet, Foreign, OfferedChunk, PackedObject, SpooledBundle};
use crate::verify::VerifiedObject;

// The choice knows no formats.
const _: () = assert!(
    firn_client_logic::DEPENDENCIES_MAX == firn_bundle::DEPENDENCIES_MAX
        && firn_client_logic::QUARTER_BYTES == firn_bundle::QUARTER_BYTES
);

const BUFFER_BYTES: usize = 256 << 10;

// What frames take beside the published file: zstd a quarter more than xz, LZMA hardly more. An object that takes more than is
// expected costs the work of packing it twice, one that takes less leaves room that nobody fills.
const MORE_THAN_FILE_SHARE: u64 = 4;

// Of a NAR whose file is not compressed nothing is known: most of them become a third or a quarter.
pub(crate) const LESS_THAN_NAR_SHARE: u64 = 2;

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
    // Frames on their way, in their order, also beyond the end of an object: small ones would else be compressed one by one.
    compressing: FuturesOrdered<BoxFuture<'static, io::Result<CompressedFrame>>>,
}

/// An object before it is in a bundle.
struct Candidate {
    record: NewRecord,
    chunks: Vec<(Digest, u32)>,
    content_bytes: u64,
    // What all of it is expected to take.
    expected_bytes: u64,
    earlier: Vec<EarlierChunk>,
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
        let expected_bytes = expected_bytes(&object);
        self.push_expecting(object, expected_bytes).await
    }

    /// Packs one object that probably takes so many bytes if all of it is stored.
    pub(crate) async fn push_expecting(
        &mut self,
        object: VerifiedObject,
        expected_bytes: u64,
    ) -> Result<Pushed, PackError> {
        let VerifiedObject { record, content, source_bytes, recipe_tried, earlier } = object;
        let content_bytes = content.bytes();
        let has_recipe = !record.recipe.is_none();
        let packed = PackedObject { key: record.key, content_bytes, source_bytes, recipe_tried, has_recipe };
        let chunks = content.chunks().collect();
        let mut candidate = Candidate { record, chunks, content_bytes, expected_bytes, earlier };
        let mut content = content.into_reader(&self.spool)?;
        let mut sealed = Vec::new();
        // At most three times: beside others, alone with chunks of earlier bundles, and without.
        loop {
            let choice = self.choice.clone();
            let mut open = self.open_for(&candidate, &mut sealed).await?;
            let foreign_bytes = open.foreign_bytes;
            open.builder.begin_object();
            let passage = Passage {
                open,
                content,
                frames: Vec::new(),
                unpushed: None,
                spool: self.spool.clone(),
                touched: false,
                parts: Vec::new(),
                part_bundles: Vec::new(),
            };
            let (mut passage, outcome) = self.carry(passage, &candidate.record).await?;
            let Err(error) = outcome else {
                self.objects.push(packed);
                let (open, is_full) = self.settle_if_full(passage.open).await?;
                self.open = Some(open);
                if (is_full || !passage.parts.is_empty())
                    && let Some(mut last) = self.finish().await?
                {
                    passage.part_bundles.append(&mut last.bundles);
                    sealed.push(BundleSet { bundles: passage.part_bundles, objects: last.objects });
                }
                return Ok(Pushed { sealed, refused: None });
            };
            let (open, spool) = (passage.open, self.spool.clone());
            let uses_earlier = !open.builder.dependencies().is_empty();
            let has_others = open.builder.record_count() > 0;
            let open = self.environment.blocking(move || open.without_object(foreign_bytes, &spool)).await?;
            self.open = Some(open).filter(|_| has_others);
            // What was found of it counts no more, and in a bundle that is begun again nothing does.
            self.choice = choice;
            if !has_others {
                self.choice.begin_bundle();
            }
            match error {
                BuildError::Full if has_others => sealed.extend(self.finish().await?),
                // What needs several bundles all the same stores all of it: a head depends on its parts alone.
                BuildError::Full if uses_earlier => candidate.earlier.clear(),
                error => return Ok(Pushed { sealed, refused: Some(error) }),
            }
            content = passage.content;
            content.begin_again()?;
        }
    }

    /// The bundle that an object goes into: the open one if it has room, else a new one.
    async fn open_for(
        &mut self,
        candidate: &Candidate,
        sealed: &mut Vec<BundleSet>,
    ) -> Result<OpenBundle, PackError> {
        if self.choice.asks_for_payload()
            && let Some(open) = self.open.take()
        {
            // What is on its way counts once it is there. Where a bundle ends must not depend on how much that is.
            let (open, _) = self.settle(open, 0).await?;
            self.choice.note_payload(open.builder.appended_bytes());
            self.open = Some(open);
        }
        let mut usable = self.usable(&candidate.earlier);
        if let Some(mut open) = self.open.take() {
            let mut has_room = self.has_room(&open, candidate, usable.as_deref());
            if !has_room && usable.is_some() && !open.compressing.is_empty() {
                // Frames on their way count as they are. Where a bundle ends must not depend on how many there are.
                (open, _) = self.settle(open, 0).await?;
                has_room = self.has_room(&open, candidate, usable.as_deref());
            }
            self.open = Some(open);
            if !has_room {
                sealed.extend(self.finish().await?);
                usable = self.usable(&candidate.earlier);
            }
        }
        let mut open = match self.open.take() {
            Some(open) => open,
            None => OpenBundle::new(self.options, self.mark, &self.spool)?,
        };
        // What was used of other objects' offers is known; the rest was a refused one's, and is worth no dependency by itself.
        open.builder.forget_offers();
        // In an empty bundle what is too large for one.
        let usable = usable.filter(|usable| self.has_room(&open, candidate, Some(usable)));
        for (bundle, chunk) in usable.unwrap_or_default() {
            open.offer(bundle, chunk);
        }
        Ok(open)
    }

    /// Whether an object probably fits, with these chunks of earlier bundles; not if the bundle is to be sealed for them.
    fn has_room(&self, open: &OpenBundle, candidate: &Candidate, usable: Option<&[EarlierChunk]>) -> bool {
        let Some(usable) = usable else { return false };
        let (size, foreign_bytes) = candidate.size_in(&open.builder, usable);
        let fits = open.foreign_bytes == 0
            || open.foreign_bytes.saturating_add(foreign_bytes) <= self.foreign_bytes_max;
        fits && !open.builder.would_exceed(&size, &candidate.record)
    }

    /// Whether hardly any object fits any more.
    async fn settle_if_full(&self, mut open: OpenBundle) -> Result<(OpenBundle, bool), PackError> {
        if open.builder.is_full() {
            (open, _) = self.settle(open, 0).await?;
        }
        let is_full = open.builder.is_full();
        Ok((open, is_full))
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
        let (open, _) = self.settle(open, 0).await?;
        let spool = self.spool.clone();
        let bundle = self.environment.blocking(move || open.seal(&spool)).await?;
        let objects = std::mem::take(&mut self.objects);
        Ok(Some(BundleSet { bundles: vec![Arc::new(bundle)], objects }))
    }

    /// Pushes the content and the record, through as many bundles as it takes. The inner result is the
    /// object's own; behind an error of it nothing is on its way.
    async fn carry(
        &self,
        mut passage: Passage,
        record: &NewRecord,
    ) -> Result<(Passage, Result<(), BuildError>), PackError> {
        loop {
            let push = move || {
                let progress = passage.push_chunks();
                (passage, progress)
            };
            let progress;
            (passage, progress) = self.environment.blocking(push).await;
            for frame in std::mem::take(&mut passage.frames) {
                passage.open.compressing.push_back(Box::pin(begin(self.compress(frame))));
            }
            // One more than threads, so that each finds the next frame where it ends one.
            (passage.open, _) = self.settle(passage.open, self.threads.max(1)).await?;
            let outcome = match progress {
                Ok(Progress::Frames) => continue,
                Ok(Progress::Full) => Err(BuildError::Full),
                Ok(Progress::Whole) => passage.finish(record.clone()),
                Err(PackError::Build(error)) => Err(error),
                Err(error) => return Err(error),
            };
            let Err(error) = outcome else { return Ok((passage, Ok(()))) };
            // Frames on their way were counted as if nothing could be compressed: where a bundle ends must not depend on
            // how many there are, so the same is tried again.
            let counted_raw;
            (passage.open, counted_raw) = self.settle(passage.open, 0).await?;
            match error {
                BuildError::Full if counted_raw => {}
                BuildError::Full if passage.may_leave_a_part() => passage = self.next_part(passage).await?,
                error => return Ok((passage, Err(error))),
            }
        }
    }

    /// Appends frames that are on their way until so many are left; whether there were more.
    async fn settle(&self, mut open: OpenBundle, left: usize) -> Result<(OpenBundle, bool), PackError> {
        let mut appended = false;
        while open.compressing.len() > left
            && let Some(frame) = open.compressing.next().await
        {
            let frame = frame.map_err(BuildError::Compress)?;
            let append = move || open.builder.append_frame(&frame, &mut open.payload).map(|()| open);
            open = self.environment.blocking(append).await?;
            appended = true;
        }
        Ok((open, appended))
    }

    fn compress(
        &self,
        frame: PendingFrame,
    ) -> impl Future<Output = io::Result<CompressedFrame>> + Send + use<> {
        let (environment, compression) = (self.environment.clone(), self.options.frame_compression);
        async move { environment.blocking(move || compress_frame(frame, compression)).await }
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
            builder.push_mark(&mark)?;
        }
        let compressing = FuturesOrdered::new();
        Ok(Self { builder, payload, foreign: None, foreign_bytes: 0, offered, compressing })
    }

    /// Lets the objects that follow use a chunk of an earlier bundle.
    fn offer(&mut self, bundle: BundleId, chunk: PartChunk) {
        self.builder.offer_foreign_chunk(bundle, chunk);
        self.offered.insert((bundle, chunk.number, chunk.hash));
    }

    /// As it was before the open object, of which nothing is on its way. `foreign_bytes` are those of then.
    fn without_object(mut self, foreign_bytes: u64, spool: &SpoolDir) -> Result<Self, SpoolError> {
        let payload_bytes = self.builder.abandon_object();
        cut_off(&mut self.payload, payload_bytes).map_err(|error| spool.failed(error))?;
        self.foreign = self.foreign.filter(|_| foreign_bytes > 0);
        if let Some(foreign) = &mut self.foreign {
            cut_off(foreign, foreign_bytes).map_err(|error| spool.failed(error))?;
        }
        self.foreign_bytes = foreign_bytes;
        Ok(self)
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

impl Candidate {
    /// How much it takes of a bundle that may use these chunks of earlier ones, and how many bytes those have.
    fn size_in(&self, builder: &BundleBuilder, usable: &[EarlierChunk]) -> (ObjectSize, u64) {
        let usable: BTreeSet<Digest> = usable.iter().map(|(_, chunk)| chunk.hash).collect();
        let mut size = ObjectSize { chunks: self.chunks.len() as u64, ..ObjectSize::default() };
        let (mut seen, mut foreign_bytes) = (BTreeSet::new(), 0_u64);
        for (hash, length) in &self.chunks {
            if builder.knows_chunk(hash) || !seen.insert(hash) {
                continue;
            }
            if usable.contains(hash) {
                size.foreign_chunks += 1;
                foreign_bytes += u64::from(*length);
            } else {
                size.new_chunks += 1;
                size.new_bytes += u64::from(*length);
            }
        }
        let expected = u128::from(self.expected_bytes) * u128::from(size.new_bytes);
        let expected = expected / u128::from(self.content_bytes.max(1));
        size.packed_bytes = u64::try_from(expected).unwrap_or(u64::MAX);
        (size, foreign_bytes)
    }
}

/// What an object that was just read from its source is expected to take.
fn expected_bytes(object: &VerifiedObject) -> u64 {
    let (content_bytes, file_bytes) = (object.content.bytes(), object.source_bytes);
    match (object.record.body.path_info(), object.record.encoding) {
        (Some(info), Encoding::Chunked) if info.compression == Compression::None => {
            content_bytes / LESS_THAN_NAR_SHARE
        }
        (Some(_), Encoding::Chunked) => {
            content_bytes.min(file_bytes.saturating_add(file_bytes / MORE_THAN_FILE_SHARE))
        }
        // It is as its file is, compressed or not.
        _ => content_bytes,
    }
}

fn cut_off(file: &mut BufWriter<File>, bytes: u64) -> io::Result<()> {
    file.seek(SeekFrom::Start(bytes))?;
    file.get_ref().set_len(bytes)
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

    /// What fills a bundle that holds other objects or uses earlier bundles is taken back, and begun in one of its own; and
    /// without a chunk of it a part would be no progress.
    fn may_leave_a_part(&self) -> bool {
        let builder = &self.open.builder;
        self.touched && builder.record_count() == 0 && builder.dependencies().is_empty()
    }
}

#[cfg(test)]
mod tests {
    use firn_bundle::{Blob, BundleRole, Manifest};
    use firn_nix_format::Sha256;

    use super::*;
    use crate::content::ContentWriter;
    use crate::restore::check_restores;

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
    async fn what_comes_together_and_uses_more_than_eight_others_parts_where_a_bundle_is_a_quarter_full() {
        let spool = SpoolDir::open(None).unwrap();
        let others: Vec<BundleId> = (0..10).map(|number| BundleId::from_bytes([number; 32])).collect();
        let mut packer = packer(&spool, 256 << 20)
            .counting_on(others.iter().copied().collect())
            .using_all_that_is_earlier();
        let mut sets = Vec::new();
        for (name, bundle) in (0..).zip(&others) {
            let mut object = object(&spool, &noise(10 << 20, name), name);
            let chunk = |(number, (hash, length))| (*bundle, PartChunk { number, length, hash });
            object.earlier = (0..).zip(object.content.chunks()).map(chunk).take(8).collect();
            let pushed = packer.push_expecting(object, 10 << 20).await.unwrap();
            assert!(pushed.refused.is_none(), "{pushed:?}");
            sets.extend(pushed.sealed);
        }
        sets.extend(packer.finish().await.unwrap());
        let used: Vec<&[BundleId]> = sets
            .iter()
            .flat_map(|set| &set.bundles)
            .map(|bundle| bundle.sealed.content.dependencies())
            .collect();
        assert_eq!(used, [&others[..8], &others[8..]], "nothing of the ninth is stored again");
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

    /// Whether the objects of a set can be restored, and whether each chunk in its bundles is named by some record.
    fn check_whole(set: &BundleSet) {
        check_restores(set).unwrap();
        for bundle in &set.bundles {
            let content = &bundle.sealed.content;
            let manifest = Manifest::parse_whole(content, bundle.sealed.manifest.clone()).unwrap();
            let mut named = BTreeSet::new();
            for located in manifest.records() {
                let list = manifest.chunk_list(&located.unwrap().record).unwrap();
                named.extend(list.chunks().map(|chunk| format!("{chunk:?}")));
            }
            // What lies in a part is named by its head.
            if content.role() != BundleRole::Part {
                let header = manifest.header();
                assert_eq!(named.len(), (header.chunk_count() + header.foreign_count()) as usize);
            }
        }
    }

    /// Packs objects that are expected to take so many bytes each.
    async fn pack(
        mut packer: Packer,
        spool: &SpoolDir,
        objects: &[Vec<u8>],
        expected: u64,
    ) -> Vec<BundleSet> {
        let mut sets = Vec::new();
        for (name, bytes) in (0..).zip(objects) {
            let pushed = packer.push_expecting(object(spool, bytes, name), expected).await.unwrap();
            assert!(pushed.refused.is_none(), "{pushed:?}");
            sets.extend(pushed.sealed);
        }
        sets.extend(packer.finish().await.unwrap());
        sets.iter().for_each(check_whole);
        sets
    }

    #[tokio::test]
    async fn objects_that_compress_share_a_bundle_that_has_no_room_for_all_of_their_bytes() {
        let spool = SpoolDir::open(None).unwrap();
        // Each is different, and hardly any of it is new.
        let texts =
            [1_u8, 2, 3, 4].map(|name| [noise(20_000, name), noise(2_000, name).repeat(1_700)].concat());
        assert_eq!(pack(packer(&spool, 4 << 20), &spool, &texts, 200_000).await.len(), 1);
        let badly = pack(packer(&spool, 4 << 20), &spool, &texts, u64::MAX).await;
        assert!(badly.len() > 1, "however badly they compress");
    }

    #[tokio::test]
    async fn an_object_that_takes_more_than_was_expected_is_taken_back_and_begun_in_the_next_bundle() {
        let spool = SpoolDir::open(None).unwrap();
        for (second, bundles) in [(3 << 20, 1), (9 << 20, 3)] {
            let objects = [noise(3 << 20, 1), noise(second, 2)];
            let sets = pack(packer(&spool, 4 << 20), &spool, &objects, 10).await;
            let [one, other] = &sets[..] else { panic!("{sets:?}") };
            assert_eq!((one.objects.len(), other.objects.len()), (1, 1));
            assert!(other.bundles.len() >= bundles, "{}", other.bundles.len());
        }
    }

    #[tokio::test]
    async fn an_object_that_does_not_fit_with_chunks_of_earlier_bundles_is_packed_without() {
        let spool = SpoolDir::open(None).unwrap();
        let earlier = BundleId::from_bytes([8; 32]);
        let mut packer = packer(&spool, 4 << 20).counting_on([earlier].into());
        let mut large = object(&spool, &noise(9 << 20, 2), 2);
        let chunk = |(number, (hash, length))| (earlier, PartChunk { number, length, hash });
        large.earlier = (0..).zip(large.content.chunks()).take(3).map(chunk).collect();
        let pushed = packer.push_expecting(large, 10).await.unwrap();
        let [set] = &pushed.sealed[..] else { panic!("{pushed:?}") };
        assert!(set.bundles.len() >= 3);
        check_whole(set);
    }

    #[tokio::test]
    async fn a_refused_object_leaves_nothing_in_the_bundle_of_others() {
        let spool = SpoolDir::open(None).unwrap();
        let mut packer = packer(&spool, 16 << 20);
        packer.push(object(&spool, &noise(100_000, 1), 1)).await.unwrap();
        let mut wrong = object(&spool, &noise(3 << 20, 2), 2);
        if let firn_bundle::RecordBody::Blob(blob) = &mut wrong.record.body {
            blob.bytes = 7;
        }
        assert!(packer.push(wrong).await.unwrap().refused.is_some());
        packer.push(object(&spool, &noise(100_000, 3), 3)).await.unwrap();
        let set = packer.finish().await.unwrap().unwrap();
        assert_eq!(set.objects.len(), 2);
        check_whole(&set);
        assert!(set.bundles[0].sealed.content.payload_bytes() < 300_000);
    }

    #[tokio::test]
    async fn what_was_found_of_a_refused_object_makes_no_dependency_for_the_next() {
        let spool = SpoolDir::open(None).unwrap();
        let earlier = BundleId::from_bytes([8; 32]);
        let mut packer = packer(&spool, 16 << 20);
        packer.push(object(&spool, &noise(100_000, 1), 1)).await.unwrap();
        let bytes = noise(1 << 20, 2);
        let mut wrong = object(&spool, &bytes, 2);
        let chunk = |(number, (hash, length))| (earlier, PartChunk { number, length, hash });
        wrong.earlier = (0..).zip(wrong.content.chunks()).map(chunk).collect();
        let first = wrong.earlier[0];
        if let firn_bundle::RecordBody::Blob(blob) = &mut wrong.record.body {
            blob.bytes = 7;
        }
        assert!(packer.push(wrong).await.unwrap().refused.is_some());
        // A single chunk of it, which alone is not worth one.
        let mut next = object(&spool, &bytes[..first.1.length as usize], 3);
        assert_eq!(next.content.chunks().collect::<Vec<_>>(), [(first.1.hash, first.1.length)]);
        next.earlier = vec![first];
        packer.push(next).await.unwrap();
        let set = packer.finish().await.unwrap().unwrap();
        assert_eq!(set.objects.len(), 2);
        check_whole(&set);
        assert!(set.bundles[0].sealed.content.dependencies().is_empty());
    }

    #[tokio::test]
    async fn bundles_are_alike_however_many_frames_are_compressed_at_once() {
        let spool = SpoolDir::open(None).unwrap();
        let objects: Vec<Vec<u8>> =
            (0..40).map(|name| [noise(300_000, name), noise(1_000, name).repeat(700)].concat()).collect();
        let ids = async |threads| {
            let packer = Packer { threads, ..packer(&spool, 4 << 20) };
            let sets = pack(packer, &spool, &objects, 320_000).await;
            let bundles = sets.iter().flat_map(|set| &set.bundles);
            bundles.map(|bundle| bundle.sealed.content.bundle_id()).collect::<Vec<_>>()
        };
        let alone = ids(1).await;
        assert!(alone.len() > 2);
        assert_eq!(ids(7).await, alone);
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
