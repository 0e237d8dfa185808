//! Which frames an object's content is cut from, in order and a stretch at a time.
//!
//! Owns: following runs through chunk tables, also into the bundles that an object's bundle depends on.
//! Always holds: the tables are read as far as needed, not whole; a visit is at most 4 MiB of content; chunks
//! add up to the object, or the plan ends in an error. Leaves to others: reading frames (`content_stream`).

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use firn_base::BundleId;
use firn_bundle::{ChunkEntry, ChunkRef, ChunkRun, ForeignChunk};

use crate::ReadError;
use crate::content_stream::ContentSource;
use crate::proven_compositions::CompositionWriter;

// The first look is short, for small objects; later ones read several pages at once, so that a range at the end
// of a large object is found in few round trips.
const LOOK_AHEAD_FIRST: u32 = 256;
const LOOK_AHEAD_MOST: u32 = 8192;

// As much as one frame of the largest kind.
const VISIT_BYTES_MAX: u64 = 4 << 20;

/// Chunks of one frame that lie one behind the other in the object.
#[derive(Debug)]
pub(crate) struct Visit {
    pub(crate) bundle: BundleId,
    pub(crate) frame: u32,
    /// Where in the object the first wanted byte lies.
    pub(crate) position: u64,
    pub(crate) cuts: Vec<Cut>,
}

impl Visit {
    /// Its chunks.
    pub(crate) fn chunks(&self) -> impl Iterator<Item = &ChunkEntry> {
        self.cuts.iter().map(|cut| &cut.entry)
    }

    /// Bytes of its chunks, whole ones.
    pub(crate) fn chunk_bytes(&self) -> u64 {
        self.chunks().map(|chunk| u64::from(chunk.length)).sum()
    }
}

/// One chunk and which of its bytes are wanted.
#[derive(Debug)]
pub(crate) struct Cut {
    pub(crate) entry: ChunkEntry,
    pub(crate) wanted: Range<u32>,
}

#[derive(Debug)]
pub(crate) struct VisitPlanner {
    source: Arc<ContentSource>,
    range: Range<u64>,
    // The next run, and how many of its chunks were looked up.
    run: usize,
    run_done: u32,
    look_ahead: u32,
    found: VecDeque<(BundleId, ChunkEntry)>,
    // Where in the object the first of `found` begins.
    position: u64,
    composition: Option<CompositionWriter>,
}

impl VisitPlanner {
    /// `composition` is told of every chunk, up to the end of the range.
    pub(crate) const fn new(
        source: Arc<ContentSource>,
        range: Range<u64>,
        composition: Option<CompositionWriter>,
    ) -> Self {
        Self {
            source,
            range,
            run: 0,
            run_done: 0,
            look_ahead: LOOK_AHEAD_FIRST,
            found: VecDeque::new(),
            position: 0,
            composition,
        }
    }

    /// What it plans.
    pub(crate) const fn source(&self) -> &Arc<ContentSource> {
        &self.source
    }

    /// The next visit; none when the range is covered.
    pub(crate) async fn next(&mut self) -> Result<Option<Visit>, ReadError> {
        let mut visit: Option<Visit> = None;
        let mut bytes = 0;
        while self.position < self.range.end {
            let Some((bundle, entry)) = self.found.front().copied() else {
                // What is planned can be fetched while tables are read.
                if visit.is_some() {
                    return Ok(visit);
                }
                self.look_up().await?;
                continue;
            };
            let end = self.position.saturating_add(entry.length.into());
            if end > self.source.bytes {
                return Err(self.wrong("its chunks have more bytes than it should"));
            }
            if end <= self.range.start {
                self.pass(&entry, end);
                continue;
            }
            let fits = visit.as_ref().is_none_or(|visit| {
                (visit.bundle, visit.frame) == (bundle, entry.frame) && bytes < VISIT_BYTES_MAX
            });
            if !fits {
                return Ok(visit);
            }
            let from = self.range.start.max(self.position);
            let to = self.range.end.min(end);
            // Both are within the chunk, whose length is 32 bits.
            let within = |offset: u64| u32::try_from(offset - self.position).expect("within a chunk");
            let wanted = within(from)..within(to);
            bytes += to - from;
            let frame = entry.frame;
            visit
                .get_or_insert_with(|| Visit { bundle, frame, position: from, cuts: Vec::new() })
                .cuts
                .push(Cut { entry, wanted });
            self.pass(&entry, end);
        }
        if let Some(composition) = &self.composition {
            composition.end();
        }
        Ok(visit)
    }

    /// The first of those found is done with; the next one begins at `end`.
    fn pass(&mut self, entry: &ChunkEntry, end: u64) {
        if let Some(composition) = &mut self.composition {
            composition.chunk(entry);
        }
        self.found.pop_front();
        self.position = end;
    }

    /// Looks up more chunks of the next run.
    async fn look_up(&mut self) -> Result<(), ReadError> {
        let Some(run) = self.source.list.runs().get(self.run).copied() else {
            return Err(self.wrong("its chunks have fewer bytes than it should"));
        };
        let count = (run.count - self.run_done).min(self.look_ahead);
        self.look_ahead = self.look_ahead.saturating_mul(2).min(LOOK_AHEAD_MOST);
        let part = skipped(run, self.run_done, count);
        self.run_done += count;
        if self.run_done == run.count {
            self.run += 1;
            self.run_done = 0;
        }
        let (own, manifests) = (self.source.bundle, &self.source.manifests);
        match part.first {
            ChunkRef::Own(first) => {
                let entries = manifests.chunk_entries(own, first..first.saturating_add(count)).await?;
                self.found.extend(entries.into_iter().map(|entry| (own, entry)));
            }
            ChunkRef::Foreign(first) => {
                let foreign = manifests.foreign_entries(own, first..first.saturating_add(count)).await?;
                let content = Arc::clone(&manifests.head(own).await?.content);
                for stretch in foreign.chunk_by(follows) {
                    let found = look_up_foreign(&self.source, content.dependencies(), stretch).await?;
                    self.found.extend(found);
                }
            }
        }
        Ok(())
    }

    fn wrong(&self, what: &str) -> ReadError {
        ReadError::WrongObject { key: self.source.key, what: what.to_owned() }
    }
}

/// `count` chunks of the run behind the first `done`.
const fn skipped(run: ChunkRun, done: u32, count: u32) -> ChunkRun {
    let first = match run.first {
        ChunkRef::Own(first) => ChunkRef::Own(first.saturating_add(done)),
        ChunkRef::Foreign(first) => ChunkRef::Foreign(first.saturating_add(done)),
    };
    ChunkRun { first, count }
}

/// Whether two foreign chunks lie one behind the other in the other bundle's table.
fn follows(one: &ForeignChunk, next: &ForeignChunk) -> bool {
    one.dependency == next.dependency && one.number.checked_add(1) == Some(next.number)
}

/// The entries of foreign chunks in the table of the bundle that holds them.
async fn look_up_foreign(
    source: &ContentSource,
    dependencies: &[BundleId],
    stretch: &[ForeignChunk],
) -> Result<Vec<(BundleId, ChunkEntry)>, ReadError> {
    let own = source.bundle;
    let Some(first) = stretch.first() else { return Ok(Vec::new()) };
    let other = dependencies.get(usize::from(first.dependency)).copied();
    let other = other.ok_or_else(|| ReadError::damaged(own, "a chunk lies in a bundle it does not name"))?;
    let count = u32::try_from(stretch.len()).unwrap_or(u32::MAX);
    let numbers = first.number..first.number.saturating_add(count);
    let entries = source.manifests.chunk_entries(other, numbers).await?;
    let pairs = entries.into_iter().zip(stretch);
    pairs
        .map(|(entry, foreign)| {
            // The hash that is checked later is then the one that our own bundle names.
            if (entry.length, entry.hash) == (foreign.length, foreign.hash) {
                Ok((other, entry))
            } else {
                Err(ReadError::damaged(own, "a chunk of another bundle is not the one it names"))
            }
        })
        .collect()
}
