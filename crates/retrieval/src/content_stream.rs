//! The content of an object as a stream: frames fetched ahead, chunks cut and checked, hash parts restored.
//!
//! Always holds: pieces come in order; frames fetched ahead take no more memory than the budget gives, each in a
//! task that ends with the stream. Leaves to others: which chunks lie where (`visit_planner`), their hashes
//! (`checked_frame`), the object's own hash (`verified_stream`).

use std::future::Future;
use std::iter;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use firn_base::{BundleId, ObjectKey};
use firn_bundle::{ChunkList, PATCH_BYTES, PATCH_PLACEHOLDER, Patch};
use firn_transport::Environment;
use futures::TryFutureExt;
use futures::future::{Either, ready};
use futures::stream::{self, StreamExt, TryStreamExt};
use tokio::task::JoinHandle;

use crate::ahead_budget::StreamBudget;
use crate::checked_frame::CheckedFrame;
use crate::frame_reader::FrameReader;
use crate::visit_planner::{Visit, VisitPlanner};
use crate::{ByteStream, ManifestReader, ReadError};

// Pieces cut out of a frame keep all of it in memory; below this share of it they are copied.
const SLICE_SHARE: usize = 4;

// What is no longer than this is copied in any case, unless it is the whole frame: that takes 10 µs, and who takes its
// time with a short answer keeps no more than that.
const COPIED_BYTES_MAX: usize = 64 << 10;

// What lies between two hash parts is not copied with them if it is longer: then the copy costs more than the piece.
const COPY_BYTES_MAX: u64 = 16 << 10;

// As long as it takes to hash so many bytes, 20 µs, anybody may be kept waiting.
const HASHED_HERE_BYTES_MAX: u64 = 64 << 10;

// A chunk may have a byte, and a hash of it takes as long as one of 1 KiB. Honest chunks of a frame of 4 MiB are fewer.
const CUTS_HERE_MAX: usize = 256;

// Tasks of one stream, where frames are tiny.
const VISITS_AHEAD_MAX: usize = 32;

/// Where the content of one object comes from.
#[derive(Debug)]
pub(crate) struct ContentSource {
    pub(crate) bundle: BundleId,
    pub(crate) key: ObjectKey,
    pub(crate) bytes: u64,
    pub(crate) list: ChunkList,
    pub(crate) hash_parts: Vec<[u8; 32]>,
    pub(crate) manifests: ManifestReader,
    pub(crate) frames: Arc<FrameReader>,
    pub(crate) environment: Environment,
}

/// The bytes that `planner` plans; the caller has checked their range. Frames fetched ahead, stored and decompressed,
/// take what `budget` gives.
pub(crate) fn content_stream(planner: VisitPlanner, budget: StreamBudget) -> ByteStream {
    let visits = stream::try_unfold(planner, move |mut planner| {
        let budget = budget.clone();
        async move {
            let Some(visit) = planner.next().await? else { return Ok(None) };
            let source = Arc::clone(planner.source());
            // Shares are given out in the order of the object, so that the first one waited for has its own.
            let share = budget.share(source.frames.weight(visit.bundle, visit.frame).await?).await;
            let remembered = Remembered::look(&source, &visit);
            let pieces = match cut_here(&source, &visit, remembered.as_ref()) {
                Some(pieces) => Either::Left(ready(Ok(pieces))),
                None => Either::Right(Task::spawn(read_visit(source, visit, remembered))),
            };
            Ok(Some((pieces.map_ok(move |pieces| (pieces, share)), planner)))
        }
    });
    visits
        .try_buffered(VISITS_AHEAD_MAX)
        .map_ok(|(pieces, share)| {
            // The share is kept until the last piece was taken.
            let mut share = Some(share);
            let last = pieces.len().saturating_sub(1);
            stream::iter(pieces.into_iter().enumerate().map(move |(number, piece)| {
                if number == last {
                    share.take();
                }
                Ok(piece)
            }))
        })
        .try_flatten()
        .boxed()
}

/// A frame that nobody has to fetch.
struct Remembered {
    frame: Arc<CheckedFrame>,
    /// What [`is_little`] says of the visit. Asked once: it counts as a reading of the frame.
    is_little: bool,
}

impl Remembered {
    fn look(source: &ContentSource, visit: &Visit) -> Option<Self> {
        let frame = source.frames.remembered(visit.bundle, visit.frame)?;
        let is_little = is_little(visit, &frame);
        Some(Self { frame, is_little })
    }
}

/// The visit, if there is nothing to fetch and little to do. What is wrong with it is found once more by whoever sees to it.
fn cut_here(source: &ContentSource, visit: &Visit, remembered: Option<&Remembered>) -> Option<Vec<Bytes>> {
    let remembered = remembered.filter(|remembered| remembered.is_little)?;
    cut_visit(source, visit, &remembered.frame).ok()
}

/// Whether to cut it costs less than to change threads for it: nothing has to be hashed, or little.
fn is_little(visit: &Visit, frame: &CheckedFrame) -> bool {
    let are_right = frame.are_right(visit.chunks());
    visit.cuts.len() <= CUTS_HERE_MAX && (are_right || visit.chunk_bytes() <= HASHED_HERE_BYTES_MAX)
}

async fn read_visit(
    source: Arc<ContentSource>,
    visit: Visit,
    remembered: Option<Remembered>,
) -> Result<Vec<Bytes>, ReadError> {
    let (frame, is_little) = match remembered {
        Some(Remembered { frame, is_little }) => (frame, is_little),
        None => {
            let wanted = visit.chunks().copied().collect();
            let frame = source.frames.frame(visit.bundle, visit.frame, wanted).await?;
            let is_little = is_little(&visit, &frame);
            (frame, is_little)
        }
    };
    let (environment, frames) = (source.environment.clone(), Arc::clone(&source.frames));
    let (bundle, number) = (visit.bundle, visit.frame);
    let cut = if is_little {
        cut_visit(&source, &visit, &frame)
    } else {
        environment.blocking(move || cut_visit(&source, &visit, &frame)).await
    };
    if let Err(ReadError::Damaged { .. }) = cut {
        frames.doubt(bundle, number).await;
    }
    cut
}

/// Cuts the wanted bytes of a visit out of its frame; chunks that nobody has checked yet are.
fn cut_visit(source: &ContentSource, visit: &Visit, frame: &CheckedFrame) -> Result<Vec<Bytes>, ReadError> {
    // Stretches of the frame that lie one behind the other in the object too.
    let mut stretches: Vec<Range<usize>> = Vec::new();
    for cut in &visit.cuts {
        let chunk = frame.place(&cut.entry).map_err(|error| ReadError::damaged(visit.bundle, error))?;
        // Within the chunk, which lies within the frame.
        let place = |offset: u32| usize::try_from(offset).expect("a chunk fits in memory");
        let wanted =
            chunk.start + place(cut.wanted.start)..(chunk.start + place(cut.wanted.end)).min(chunk.end);
        match stretches.last_mut() {
            Some(last) if last.end == wanted.start => last.end = wanted.end,
            _ => stretches.push(wanted),
        }
    }
    let frame = frame.bytes();
    let wanted: usize = stretches.iter().map(ExactSizeIterator::len).sum();
    let copy_all = wanted.saturating_mul(SLICE_SHARE) < frame.len()
        || (wanted <= COPIED_BYTES_MAX && wanted < frame.len());
    let mut position = visit.position;
    let mut pieces = Vec::with_capacity(stretches.len());
    for stretch in stretches {
        let end = position.saturating_add(stretch.len() as u64);
        let patches = overlapping(source.list.patches(), position..end);
        let copied =
            if copy_all { iter::once(position..end).collect() } else { around(patches, position..end) };
        let mut rest = frame.slice(stretch);
        // Both are within the stretch.
        let index = |value: u64| usize::try_from(value).expect("a piece fits in memory");
        for copied in copied {
            let before = rest.split_to(index(copied.start - position));
            let mut piece = rest.split_to(index(copied.end - copied.start)).to_vec();
            restore(overlapping(patches, copied.clone()), &source.hash_parts, copied.start, &mut piece)
                .map_err(|what| ReadError::WrongObject { key: source.key, what })?;
            pieces.extend([before, Bytes::from(piece)].into_iter().filter(|piece| !piece.is_empty()));
            position = copied.end;
        }
        if !rest.is_empty() {
            pieces.push(rest);
        }
        position = end;
    }
    Ok(pieces)
}

/// What of `range` has to be copied, so that these patches can be written into it.
fn around(patches: &[Patch], range: Range<u64>) -> Vec<Range<u64>> {
    let mut copied: Vec<Range<u64>> = Vec::new();
    for patch in patches {
        let start = patch.offset.max(range.start);
        let end = patch.offset.saturating_add(PATCH_BYTES).min(range.end);
        match copied.last_mut() {
            Some(last) if start.saturating_sub(last.end) <= COPY_BYTES_MAX => last.end = end,
            _ => copied.push(start..end),
        }
    }
    copied
}

/// The patches that touch `range`.
fn overlapping(patches: &[Patch], range: Range<u64>) -> &[Patch] {
    let from = patches.partition_point(|patch| patch.offset.saturating_add(PATCH_BYTES) <= range.start);
    let to = patches.partition_point(|patch| patch.offset < range.end);
    &patches[from..to.max(from)]
}

/// Writes hash parts, or those bytes of them that lie in `piece`, which begins at `position` of the object.
fn restore(
    patches: &[Patch],
    hash_parts: &[[u8; 32]],
    position: u64,
    piece: &mut [u8],
) -> Result<(), String> {
    let end = position.saturating_add(piece.len() as u64);
    for patch in patches {
        let text = usize::try_from(patch.reference).ok().and_then(|number| hash_parts.get(number));
        let text = text.ok_or("a patch names a reference that it does not have")?;
        let from = patch.offset.max(position);
        let to = patch.offset.saturating_add(PATCH_BYTES).min(end);
        // Both are within the piece and the text.
        let index = |value: u64| usize::try_from(value).expect("a piece fits in memory");
        let target = &mut piece[index(from - position)..index(to - position)];
        let part = index(from - patch.offset)..index(to - patch.offset);
        if *target != PATCH_PLACEHOLDER[part.clone()] {
            return Err(format!("byte {from} is no placeholder, where a hash part belongs"));
        }
        target.copy_from_slice(&text[part]);
    }
    Ok(())
}

/// A task that goes on while its owner does something else, and ends with its owner.
struct Task<T>(JoinHandle<T>);

impl<T: Send + 'static> Task<T> {
    fn spawn(work: impl Future<Output = T> + Send + 'static) -> Self {
        Self(tokio::spawn(work))
    }
}

impl<T> Future for Task<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        match Pin::new(&mut self.0).poll(context) {
            Poll::Ready(Ok(value)) => Poll::Ready(value),
            Poll::Ready(Err(error)) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // The runtime is being shut down and drops this future next.
                Err(_) => Poll::Pending,
            },
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_part_is_restored_from_either_side_of_a_border() {
        let patches = [Patch { offset: 10, reference: 1 }];
        let hash_parts = [[b'a'; 32], *b"0123456789abcdfghijklmnpqrsvwxyz"];
        let mut whole = [b'.'; 60];
        whole[10..42].fill(b'e');
        let mut expected = [b'.'; 60];
        expected[10..42].copy_from_slice(&hash_parts[1]);
        for border in 0..=60 {
            let mut restored = Vec::new();
            for (from, to) in [(0, border), (border, 60)] {
                let mut piece = whole[from..to].to_vec();
                let touching = overlapping(&patches, from as u64..to as u64);
                restore(touching, &hash_parts, from as u64, &mut piece).unwrap();
                restored.extend_from_slice(&piece);
            }
            assert_eq!(restored, expected);
        }
        let mut wrong = [b'x'; 60];
        assert!(restore(&patches, &hash_parts, 0, &mut wrong).is_err());
    }
}
