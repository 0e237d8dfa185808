//! Packing verified objects into bundles whose payloads lie in the spool.
//!
//! Owns: where one bundle ends and the next begins, and objects that need several. Always holds: memory is `threads` +
//! 3 frames and the tables of one bundle, whatever the size of an object; equal objects in equal order give equal
//! bundles, whatever is compressed at the same time; an object is begun where it probably has room, and what does not
//! fit after all is taken back, so that nothing lies in a bundle that none of its records names, but a mark.
//! Leaves to others: the order of objects (`packing_order`), what a bundle is (`firn-bundle`), sending.

mod candidate;
mod open_bundle;
mod passage;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

use firn_base::BundleId;
use firn_bundle::{
    BuildError, BuilderOptions, CompressedFrame, NewRecord, PartChunk, PendingFrame, compress_frame,
};
use firn_client_logic::{DependencyChoice, DependencyPlan, MARK_BYTES};
use firn_transport::Environment;
use futures::StreamExt;

pub(crate) use self::candidate::LESS_THAN_NAR_SHARE;
use self::candidate::{Candidate, expected_bytes};
use self::open_bundle::OpenBundle;
use self::passage::{Passage, Progress};
use crate::background::begin;
use crate::earlier::EarlierChunk;
use crate::spool::{SpoolDir, SpoolError};
use crate::spooled_bundle::{BundleSet, PackedObject};
use crate::verify::VerifiedObject;

// The choice knows no formats.
const _: () = assert!(
    firn_client_logic::DEPENDENCIES_MAX == firn_bundle::DEPENDENCIES_MAX
        && firn_client_logic::QUARTER_BYTES == firn_bundle::QUARTER_BYTES
);

// What is used of earlier bundles lies in the spool until the restore check, with up to four bundles at once. Of pure
// rebuilds this many bytes leave a bundle that takes 2.6 MB in 40 shards, a hundredth of them; only an object that is
// larger by itself has more, and lies in the spool itself. Not so where all bundles belong to one commit: what came
// together, or lay in one bundle, must not come apart for it.
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
        // What was used of other objects' offers is known; the rest was a refused one's, and is worth no dependency by
        // itself.
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
