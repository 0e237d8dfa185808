//! Making one filter, in steps, whoever reads the feed and writes the file.
//!
//! Always holds: each step is bounded, so that it can be given up between two; memory holds the hashes of 16 parts and
//! what making one part takes: 16 times 8 MiB and 25 MiB at 2^20 keys for each part, 150 MiB measured, however long the
//! range; the bytes depend on the feed only. Leaves to others: the parts' bytes (`firn_filter`), files, when steps are
//! taken.
//!
//! The feed is read once for the digest behind the range, without which no key can be hashed, and once for every 16
//! parts. The filter of the first 2^28 events, the longest that 300 million have, reads its range 17 times.

use std::collections::VecDeque;
use std::mem;

use firn_base::{ArchiveId, Digest, FeedRange, FilterId};
use firn_filter::{DraftError, FilterDraft, FilterHeader, KeyHasher};
use firn_wire::{FeedEvent, FilterEntry};

use crate::{FilterOrder, feed_digest_behind};

/// Parts whose keys are gathered at a time.
const PARTS_AT_A_TIME: u32 = 16;
/// Events of one step: about 10 ms.
const EVENTS_AT_A_TIME: u64 = 1 << 15;

/// What a build needs next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BuildStep {
    /// The events of these positions, by [`FilterBuild::take`].
    Read(FeedRange),
    /// These bytes written behind those before them.
    Write(Vec<u8>),
    /// Nothing: what was written is this filter.
    Finished(FilterEntry),
}

/// Why a filter is not made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FilterBuildError {
    /// The bytes cannot be made.
    #[error(transparent)]
    Draft(#[from] DraftError),
    /// The feed does not have the events of the range.
    #[error("the feed gave {found} events of the {wanted} at positions {range}")]
    Gap {
        /// Where.
        range: FeedRange,
        /// How many it gave.
        found: u64,
        /// How many there should be.
        wanted: u64,
    },
}

/// A filter that is being made.
#[derive(Debug)]
pub struct FilterBuild {
    archive: ArchiveId,
    order: FilterOrder,
    /// The next position to be read.
    position: u64,
    stage: Stage,
    written: blake3::Hasher,
    bytes: u64,
    keys: u64,
}

#[derive(Debug)]
enum Stage {
    /// What comes behind the events read so far.
    Chaining(Digest),
    Gathering(Gathering),
    /// Of the parts gathered, those that are not made yet.
    Making(Gathering),
    Ended {
        digest_behind: Digest,
    },
}

#[derive(Debug)]
struct Gathering {
    draft: FilterDraft,
    hasher: KeyHasher,
    header: FilterHeader,
    /// The part of the first hashes.
    first_part: u32,
    /// Hashes of that part and those that follow it.
    hashes: VecDeque<Vec<u64>>,
}

impl Gathering {
    /// Ready for the hashes of the parts from `first_part` on.
    fn begin(mut self, first_part: u32) -> Self {
        let parts = self.header.parts().saturating_sub(first_part).min(PARTS_AT_A_TIME);
        self.first_part = first_part;
        // Spread evenly a part has hardly more than its share of the events.
        let share = self.header.range.events() >> self.header.parts_log2;
        let room = usize::try_from(share.saturating_add(share / 64)).unwrap_or(0);
        self.hashes = (0..parts).map(|_| Vec::with_capacity(room)).collect();
        self
    }

    fn gather(&mut self, events: &[FeedEvent]) {
        for event in events {
            // One that is withdrawn stays in the filters of where it became visible: they say maybe.
            let FeedEvent::Visible(key) = event else { continue };
            let hash = self.hasher.hash(key);
            let slot = hash.part.checked_sub(self.first_part).and_then(|slot| usize::try_from(slot).ok());
            if let Some(hashes) = slot.and_then(|slot| self.hashes.get_mut(slot)) {
                hashes.push(hash.value);
            }
        }
    }
}

impl FilterBuild {
    /// Begins to make what `order` asks for.
    pub fn new(archive: ArchiveId, order: FilterOrder) -> Self {
        Self {
            archive,
            order,
            position: order.range.first,
            stage: Stage::Chaining(order.digest_before),
            written: blake3::Hasher::new(),
            bytes: 0,
            keys: 0,
        }
    }

    /// What it needs next. After an error, and before what it asked to read was given, nothing useful.
    pub fn step(&mut self) -> Result<BuildStep, FilterBuildError> {
        let range = self.order.range;
        let reads = matches!(self.stage, Stage::Chaining(_) | Stage::Gathering(_));
        if reads && self.position < range.end {
            let end = self.position.saturating_add(EVENTS_AT_A_TIME).min(range.end);
            return Ok(BuildStep::Read(FeedRange { first: self.position, end }));
        }
        let ended = Stage::Ended { digest_behind: self.order.digest_before };
        match mem::replace(&mut self.stage, ended) {
            Stage::Chaining(digest_behind) => {
                let header = FilterHeader {
                    archive: self.archive,
                    range,
                    digest_before: self.order.digest_before,
                    digest_behind,
                    parts_log2: self.order.parts_log2,
                };
                let draft = FilterDraft::new(header)?;
                let head = draft.head();
                let hasher = draft.hasher();
                let gathering = Gathering { draft, hasher, header, first_part: 0, hashes: VecDeque::new() };
                self.stage = Stage::Gathering(gathering.begin(0));
                self.position = range.first;
                Ok(self.write(head))
            }
            Stage::Gathering(gathering) => {
                self.stage = Stage::Making(gathering);
                self.step()
            }
            Stage::Making(mut gathering) => {
                if let Some(mut hashes) = gathering.hashes.pop_front() {
                    let part = gathering.draft.part(&mut hashes)?;
                    gathering.first_part += 1;
                    self.keys += u64::from(part.keys);
                    self.stage = Stage::Making(gathering);
                    return Ok(self.write(part.bytes));
                }
                if gathering.first_part < gathering.header.parts() {
                    let next = gathering.first_part;
                    self.stage = Stage::Gathering(gathering.begin(next));
                    self.position = range.first;
                    return self.step();
                }
                self.stage = Stage::Ended { digest_behind: gathering.header.digest_behind };
                let tail = gathering.draft.tail(self.keys);
                Ok(self.write(tail))
            }
            Stage::Ended { digest_behind } => {
                self.stage = Stage::Ended { digest_behind };
                Ok(BuildStep::Finished(FilterEntry {
                    range,
                    id: FilterId::from_bytes(*self.written.finalize().as_bytes()),
                    bytes: self.bytes,
                    keys: self.keys,
                    feed_digest: digest_behind,
                }))
            }
        }
    }

    /// Takes the events that it asked for.
    pub fn take(&mut self, events: &[FeedEvent]) -> Result<(), FilterBuildError> {
        let first = self.position;
        let end = first.saturating_add(EVENTS_AT_A_TIME).min(self.order.range.end);
        let (found, wanted) = (events.len() as u64, end.saturating_sub(first));
        if found != wanted {
            return Err(FilterBuildError::Gap { range: FeedRange { first, end }, found, wanted });
        }
        match &mut self.stage {
            Stage::Chaining(digest) => *digest = feed_digest_behind(*digest, events),
            Stage::Gathering(gathering) => gathering.gather(events),
            Stage::Making(_) | Stage::Ended { .. } => {}
        }
        self.position = end;
        Ok(())
    }

    fn write(&mut self, bytes: Vec<u8>) -> BuildStep {
        self.written.update(&bytes);
        self.bytes += bytes.len() as u64;
        BuildStep::Write(bytes)
    }
}
