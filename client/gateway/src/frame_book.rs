//! How long frames of compressed NARs were, when they were made.
//!
//! Always holds: what is kept of a NAR was made by reading it whole, which ended right; two path infos share nothing, even
//! if they name the same NarHash: one of them may be wrong; memory is bounded; what is lost is found out anew by making the
//! frames, once for all who wait for it. Leaves to others: making them (`compressed_nar`), the disk (`disk_cache`).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use firn_nix_format::Sha256;
use futures::FutureExt;
use futures::future::{BoxFuture, WeakShared};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::bounded_cache::BoundedCache;
use crate::disk_cache::{CacheKey, DiskCache};
use crate::frame_lengths::{FRAME_BYTES, FrameLengths};
use crate::serve_error::ServeError;

// Some 20,000 NARs: the frame of a median one takes 20 bytes, and the entry around it 200.
const MEMORY_BYTES: usize = 4 << 20;

// Each takes a core. Whoever reads a NAR from its beginning does not wait for these.
const MEASURED_AT_ONCE: usize = 4;

// Who is told to come again after that has lost little: a large NAR takes longer than this to be measured.
const PLACE_WAIT: Duration = Duration::from_secs(10);

/// One NAR as one path info promises it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct NarName {
    /// Hash of the store path.
    pub(crate) path: [u8; 20],
    /// NarHash.
    pub(crate) sha256: Sha256,
    /// NarSize.
    pub(crate) bytes: u64,
}

/// Why frames were not made for their lengths.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unmeasured {
    /// Others are being measured.
    #[error("as many large files as may be are prepared for their parts now: ask again")]
    Busy,
    /// The NAR cannot be read.
    #[error(transparent)]
    Unread(#[from] ServeError),
}

type Measured = Result<Arc<FrameLengths>, Unmeasured>;

/// What is known of the NARs that were compressed.
#[derive(Debug)]
pub(crate) struct FrameBook {
    /// None of what turned out otherwise, whatever the disk says.
    known: BoundedCache<NarName, Option<Arc<FrameLengths>>>,
    /// Memory and the disk's queue change together.
    changing: Mutex<()>,
    places: Arc<Semaphore>,
    /// What is being measured, for as long as somebody waits for it.
    measuring: Mutex<HashMap<NarName, WeakShared<BoxFuture<'static, Measured>>>>,
}

impl Default for FrameBook {
    fn default() -> Self {
        Self {
            known: BoundedCache::new(MEMORY_BYTES),
            changing: Mutex::new(()),
            places: Arc::new(Semaphore::new(MEASURED_AT_ONCE)),
            measuring: Mutex::default(),
        }
    }
}

impl FrameBook {
    /// What is known of the NAR; `disk` may know it from an earlier life.
    pub(crate) async fn lengths(&self, nar: NarName, disk: Option<&DiskCache>) -> Option<Arc<FrameLengths>> {
        if let Some(known) = self.known.get(&nar) {
            return known;
        }
        let saved = disk.filter(|_| is_kept_on_disk(nar))?.get(&CacheKey::Frames(nar)).await;
        let saved = Arc::new(FrameLengths::from_bytes(&saved?, nar.bytes)?);
        self.take_saved(nar, saved)
    }

    /// Keeps what the disk had, unless something was learnt or forgotten since it was read.
    fn take_saved(&self, nar: NarName, saved: Arc<FrameLengths>) -> Option<Arc<FrameLengths>> {
        let _changing = self.changing();
        if let Some(known) = self.known.get(&nar) {
            return known;
        }
        self.keep(nar, Some(Arc::clone(&saved)));
        Some(saved)
    }

    /// The whole NAR was read, was the right one, and gave these frames.
    pub(crate) fn learn(&self, nar: NarName, lengths: FrameLengths, disk: Option<&DiskCache>) {
        let _changing = self.changing();
        if self.known.get(&nar).flatten().is_some_and(|known| *known == lengths) {
            return;
        }
        if let Some(disk) = disk.filter(|_| is_kept_on_disk(nar)) {
            disk.replace(&CacheKey::Frames(nar), lengths.to_bytes().into());
        }
        self.keep(nar, Some(Arc::new(lengths)));
    }

    /// A frame had other bytes than are known.
    pub(crate) fn forget(&self, nar: NarName, disk: Option<&DiskCache>) {
        let _changing = self.changing();
        if let Some(disk) = disk.filter(|_| is_kept_on_disk(nar)) {
            // Nothing in its place, which goes through the same queue: an older write still in there comes before it.
            disk.replace(&CacheKey::Frames(nar), Bytes::new());
        }
        self.keep(nar, None);
    }

    /// The lengths that `measure` finds out, once for all who ask for them meanwhile. It is given up when nobody waits for
    /// it any more.
    ///
    /// # Errors
    /// Nobody made room for it in time, or it failed.
    pub(crate) async fn measured(
        &self,
        nar: NarName,
        measure: impl Future<Output = Result<Arc<FrameLengths>, ServeError>> + Send + 'static,
    ) -> Measured {
        let shared = {
            let mut measuring = self.measuring.lock().unwrap_or_else(PoisonError::into_inner);
            let begun = measuring.get(&nar).and_then(WeakShared::upgrade);
            begun.unwrap_or_else(|| {
                let places = is_kept_on_disk(nar).then(|| Arc::clone(&self.places));
                let measured = async move {
                    let _place = match places {
                        Some(places) => {
                            let place = timeout(PLACE_WAIT, places.acquire_owned()).await;
                            Some(place.map_err(|_| Unmeasured::Busy)?)
                        }
                        None => None,
                    };
                    Ok(measure.await?)
                };
                let measured = measured.boxed().shared();
                measuring.retain(|_, one| one.upgrade().is_some());
                measuring.extend(measured.downgrade().map(|one| (nar, one)));
                measured
            })
        };
        shared.await
    }

    fn keep(&self, nar: NarName, lengths: Option<Arc<FrameLengths>>) {
        let bytes = lengths.as_ref().map_or(0, |lengths| lengths.weight());
        self.known.insert(nar, lengths, bytes);
    }

    fn changing(&self) -> MutexGuard<'_, ()> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether lengths are worth a file, and making them a place: one frame costs less to make anew.
const fn is_kept_on_disk(nar: NarName) -> bool {
    nar.bytes > FRAME_BYTES
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use firn_base::ArchiveId;
    use firn_transport::Environment;
    use futures::future::join_all;
    use futures::poll;
    use tempfile::TempDir;
    use tokio::sync::{oneshot, watch};

    use super::*;
    use crate::disk_cache::DiskCacheWriter;
    use crate::frame_lengths::tests::frames;

    fn nar(number: u8, bytes: u64) -> NarName {
        NarName { path: [number; 20], sha256: Sha256::of(b"nar"), bytes }
    }

    fn small(number: u8) -> NarName {
        nar(number, 1)
    }

    fn large(number: u8) -> NarName {
        nar(number, 2 * FRAME_BYTES + 1)
    }

    fn lengths(nar: NarName, length: u32) -> FrameLengths {
        let count = if nar.bytes == 1 { 1 } else { 3 };
        FrameLengths::new(frames(&[length; 3][..count]), nar.bytes).unwrap()
    }

    /// A cache in a directory, and what writes it.
    struct Disk {
        cache: DiskCache,
        writer: DiskCacheWriter,
        place: TempDir,
    }

    impl Disk {
        fn new() -> Self {
            Self::of(tempfile::tempdir().unwrap())
        }

        fn of(place: TempDir) -> Self {
            let (archive, data) = (ArchiveId::from_bytes([1; 32]), place.path().to_owned());
            let (cache, writer) = DiskCache::new(Environment::real(), archive, data, 1 << 20);
            Self { cache, writer, place }
        }

        /// Writes all that waits, then gives a cache of the same directory, as a later life has it.
        async fn restarted(self) -> Self {
            let (stop, stopped) = watch::channel(true);
            self.writer.run(stopped).await;
            drop(stop);
            Self::of(self.place)
        }
    }

    #[tokio::test]
    async fn lengths_of_several_frames_outlive_a_gateway_and_those_of_one_do_not() {
        let disk = Disk::new();
        let book = FrameBook::default();
        for nar in [small(1), large(1)] {
            book.learn(nar, lengths(nar, 9), Some(&disk.cache));
            assert_eq!(book.lengths(nar, None).await.as_deref(), Some(&lengths(nar, 9)));
        }
        let disk = disk.restarted().await;
        let later = FrameBook::default();
        assert_eq!(later.lengths(large(1), Some(&disk.cache)).await.as_deref(), Some(&lengths(large(1), 9)));
        assert_eq!(later.lengths(small(1), Some(&disk.cache)).await, None, "one frame is not worth a file");
    }

    #[tokio::test]
    async fn of_one_nar_hash_each_path_and_each_size_has_its_own() {
        let disk = Disk::new();
        let book = FrameBook::default();
        book.learn(large(1), lengths(large(1), 9), Some(&disk.cache));
        let disk = disk.restarted().await;
        for book in [book, FrameBook::default()] {
            for other in [large(2), nar(1, FRAME_BYTES + 1), nar(1, 9 * FRAME_BYTES)] {
                assert_eq!(book.lengths(other, Some(&disk.cache)).await, None, "{other:?}");
            }
        }
    }

    #[tokio::test]
    async fn what_was_forgotten_is_not_known_again_from_a_write_that_waited_or_a_file_that_was_read_before() {
        let disk = Disk::new();
        let book = FrameBook::default();
        book.learn(large(1), lengths(large(1), 9), Some(&disk.cache));
        book.forget(large(1), Some(&disk.cache));
        assert_eq!(book.take_saved(large(1), Arc::new(lengths(large(1), 9))), None);
        assert_eq!(book.lengths(large(1), Some(&disk.cache)).await, None);
        let disk = disk.restarted().await;
        assert_eq!(FrameBook::default().lengths(large(1), Some(&disk.cache)).await, None);
        book.learn(large(1), lengths(large(1), 8), Some(&disk.cache));
        assert_eq!(book.lengths(large(1), None).await.as_deref(), Some(&lengths(large(1), 8)));
        let disk = disk.restarted().await;
        let later = FrameBook::default().lengths(large(1), Some(&disk.cache)).await;
        assert_eq!(later.as_deref(), Some(&lengths(large(1), 8)));
    }

    #[tokio::test]
    async fn all_who_wait_for_a_nar_have_it_measured_once_also_if_the_first_one_leaves() {
        let book = FrameBook::default();
        let (send, found) = oneshot::channel();
        let mut first = Box::pin(book.measured(large(1), async { Ok(found.await.unwrap()) }));
        assert!(poll!(&mut first).is_pending());
        let others = (0..9).map(|_| book.measured(large(1), async { panic!("it is measured already") }));
        let mut others = Box::pin(join_all(others));
        assert!(poll!(&mut others).is_pending());
        drop(first);
        send.send(Arc::new(lengths(large(1), 9))).unwrap();
        for measured in others.await {
            assert_eq!(*measured.unwrap(), lengths(large(1), 9));
        }
        // Nobody waits any more: the next one begins anew, and is given up with the last who waits.
        let failed = book.measured(large(1), ready(Err(ServeError::unreadable(&"it is away")))).await;
        assert!(matches!(failed, Err(Unmeasured::Unread(_))));
        assert!(book.measured(large(1), ready(Ok(Arc::new(lengths(large(1), 9))))).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn who_finds_no_place_is_told_to_come_again_and_one_frame_needs_none() {
        let book = FrameBook::default();
        let mut under_way = Box::pin(join_all((0..4).map(|number| book.measured(large(number), pending()))));
        assert!(poll!(&mut under_way).is_pending());
        let found = |nar| ready(Ok(Arc::new(lengths(nar, 9))));
        assert_eq!(book.measured(large(4), found(large(4))).await, Err(Unmeasured::Busy));
        assert!(book.measured(small(4), found(small(4))).await.is_ok());
        drop(under_way);
        assert!(book.measured(large(4), found(large(4))).await.is_ok());
        assert!(book.measuring.lock().unwrap().len() < 3, "what has ended is not kept");
    }
}
