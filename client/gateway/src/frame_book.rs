//! How long frames of compressed NARs were, when they were made.
//!
//! Always holds: memory is bounded; what is lost is found out anew by making the frames. Leaves to others: making them
//! (`compressed_nar`), the disk (`disk_cache`).

use std::sync::{Arc, Mutex, PoisonError};

use firn_nix_format::Sha256;
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::bounded_cache::BoundedCache;
use crate::disk_cache::{CacheKey, DiskCache};
use crate::frame_lengths::{FRAME_BYTES, FrameDiffers, FrameLengths};

// Some 20,000 NARs: the lengths of a median one are 4 bytes, and the entry around them 200.
const MEMORY_BYTES: usize = 4 << 20;

// Each takes a core. Whoever reads a NAR from its beginning does not wait for these.
const MEASURED_AT_ONCE: usize = 4;

/// What is known of the NARs that were compressed.
#[derive(Debug)]
pub(crate) struct FrameBook {
    known: BoundedCache<Sha256, Arc<FrameLengths>>,
    /// What is learnt is added to what is known.
    learning: Mutex<()>,
    measuring: Semaphore,
}

impl Default for FrameBook {
    fn default() -> Self {
        Self {
            known: BoundedCache::new(MEMORY_BYTES),
            learning: Mutex::new(()),
            measuring: Semaphore::new(MEASURED_AT_ONCE),
        }
    }
}

impl FrameBook {
    /// What is known of the NAR of this hash and of `nar_bytes`; `disk` may know it from an earlier life.
    pub(crate) async fn lengths(
        &self,
        nar_hash: Sha256,
        nar_bytes: u64,
        disk: Option<&DiskCache>,
    ) -> Arc<FrameLengths> {
        if let Some(known) = self.known.get(&nar_hash) {
            return known;
        }
        let Some(disk) = disk.filter(|_| is_kept_on_disk(nar_bytes)) else { return Arc::default() };
        let saved = disk.get(&CacheKey::Frames(nar_hash)).await;
        let Some(saved) = saved.and_then(|bytes| FrameLengths::from_bytes(&bytes)) else {
            return Arc::default();
        };
        let _learning = self.learning();
        // More may have been learnt meanwhile.
        self.known.get(&nar_hash).unwrap_or_else(|| {
            let saved = Arc::new(saved);
            self.keep(nar_hash, Arc::clone(&saved));
            saved
        })
    }

    /// Frame number `frame` of the NAR has `length` bytes.
    ///
    /// # Errors
    /// It had another length before: nothing is known of this NAR any more.
    pub(crate) fn learn(
        &self,
        nar_hash: Sha256,
        nar_bytes: u64,
        (frame, length): (usize, u32),
        disk: Option<&DiskCache>,
    ) -> Result<(), FrameDiffers> {
        let _learning = self.learning();
        let disk = disk.filter(|_| is_kept_on_disk(nar_bytes));
        let mut lengths = self.known.get(&nar_hash).map(|known| (*known).clone()).unwrap_or_default();
        match lengths.learn(frame, length) {
            Ok(true) => {
                if let Some(disk) = disk {
                    disk.replace(&CacheKey::Frames(nar_hash), lengths.to_bytes().into());
                }
                self.keep(nar_hash, Arc::new(lengths));
                Ok(())
            }
            Ok(false) => Ok(()),
            Err(error) => {
                self.known.remove(&nar_hash);
                if let Some(disk) = disk {
                    disk.forget(&CacheKey::Frames(nar_hash));
                }
                Err(error)
            }
        }
    }

    /// Waits until it is one's turn to make frames only for their lengths.
    pub(crate) async fn turn(&self) -> Option<SemaphorePermit<'_>> {
        // It is never closed.
        self.measuring.acquire().await.ok()
    }

    fn keep(&self, nar_hash: Sha256, lengths: Arc<FrameLengths>) {
        let bytes = lengths.known() * 4;
        self.known.insert(nar_hash, lengths, bytes);
    }

    fn learning(&self) -> std::sync::MutexGuard<'_, ()> {
        self.learning.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether lengths are worth a file: those of one frame cost less to make anew.
const fn is_kept_on_disk(nar_bytes: u64) -> bool {
    nar_bytes > FRAME_BYTES
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use firn_base::ArchiveId;
    use firn_transport::Environment;
    use tokio::sync::watch;

    use super::*;

    const LARGE: u64 = 2 * FRAME_BYTES + 1;

    #[tokio::test]
    async fn lengths_of_several_frames_outlive_a_gateway_until_one_differs() {
        let place = tempfile::tempdir().unwrap();
        let archive = ArchiveId::from_bytes([1; 32]);
        let (disk, writer) = DiskCache::new(Environment::real(), archive, place.path().to_owned(), 1 << 20);
        let (_stop, stopped) = watch::channel(false);
        tokio::spawn(writer.run(stopped));
        let (small, large) = (Sha256::of(b"small"), Sha256::of(b"large"));
        let disk = Some(&disk);
        let known = async |book: &FrameBook, nar, bytes| book.lengths(nar, bytes, disk).await.known();

        let book = FrameBook::default();
        book.learn(small, 1, (0, 9), disk).unwrap();
        for frame in 0..3 {
            book.learn(large, LARGE, (frame, 9), disk).unwrap();
        }
        assert_eq!((known(&book, small, 1).await, known(&book, large, LARGE).await), (1, 3));
        let total = book.lengths(large, LARGE, disk).await.total(LARGE);
        assert_eq!(total, Some(27));

        let later = FrameBook::default();
        while later.lengths(large, LARGE, disk).await.total(LARGE) != total {
            later.known.clear();
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(known(&later, small, 1).await, 0, "one frame is not worth a file");
        later.learn(large, LARGE, (1, 8), disk).unwrap_err();
        assert_eq!(known(&later, large, LARGE).await, 0);
        assert_eq!(known(&FrameBook::default(), large, LARGE).await, 0);
    }
}
