//! Frames, fetched and decompressed once for all who want a chunk of them.
//!
//! Owns: the cache of decompressed frames. Always holds: memory is bounded; a frame under way is fetched once,
//! so neighbouring small objects cost one read. Leaves to others: chunk hashes (`checked_frame`).

use std::sync::Arc;

use bytes::Bytes;
use firn_base::BundleId;
use firn_bundle::{ChunkEntry, FrameError, decompress_frame};
use firn_transport::Environment;
use futures::FutureExt;

use crate::checked_frame::CheckedFrame;
use crate::single_flight::SingleFlight;
use crate::weighted_cache::WeightedCache;
use crate::{ManifestReader, ReadError};

type FrameName = (BundleId, u32);

/// Decompressed frames by bundle and number.
#[derive(Debug)]
pub(crate) struct FrameReader {
    manifests: ManifestReader,
    environment: Environment,
    frames: WeightedCache<FrameName, Arc<CheckedFrame>>,
    flights: SingleFlight<FrameName, Result<Arc<CheckedFrame>, ReadError>>,
}

impl FrameReader {
    pub(crate) fn new(manifests: ManifestReader, environment: Environment, cache_bytes: usize) -> Self {
        Self { manifests, environment, frames: WeightedCache::new(cache_bytes), flights: SingleFlight::new() }
    }

    /// Bytes that a frame takes while it is decompressed.
    pub(crate) async fn weight(&self, bundle: BundleId, number: u32) -> Result<u32, ReadError> {
        let entry = self.manifests.frame_entry(bundle, number).await?;
        Ok(entry.stored_bytes.saturating_add(entry.raw_bytes))
    }

    /// The raw frame, if it is in memory.
    pub(crate) fn remembered(&self, bundle: BundleId, number: u32) -> Option<Arc<CheckedFrame>> {
        self.frames.get(&(bundle, number))
    }

    /// The raw frame. Chunks cut out of it are not all checked yet; if it has to be fetched, `wanted` are looked at where it
    /// is decompressed, so that nobody changes threads for them once more.
    pub(crate) async fn frame(
        self: &Arc<Self>,
        bundle: BundleId,
        number: u32,
        wanted: Vec<ChunkEntry>,
    ) -> Result<Arc<CheckedFrame>, ReadError> {
        if let Some(frame) = self.remembered(bundle, number) {
            return Ok(frame);
        }
        let own = Arc::clone(self);
        let fetch = move || async move { own.fetch(bundle, number, wanted).await }.boxed();
        self.flights.run((bundle, number), fetch).await
    }

    /// A chunk of the frame is not what its hash says: what is remembered of the frame is forgotten.
    pub(crate) async fn doubt(&self, bundle: BundleId, number: u32) {
        self.frames.remove(&(bundle, number));
        if let Ok(entry) = self.manifests.frame_entry(bundle, number).await {
            self.manifests.payloads().doubt(bundle, entry.payload_extent());
        }
    }

    async fn fetch(
        &self,
        bundle: BundleId,
        number: u32,
        wanted: Vec<ChunkEntry>,
    ) -> Result<Arc<CheckedFrame>, ReadError> {
        let entry = self.manifests.frame_entry(bundle, number).await?;
        let stored = self.manifests.payloads().read(bundle, entry.payload_extent()).await?;
        let open = move || {
            let frame = CheckedFrame::new(Bytes::from(decompress_frame(&stored, &entry)?));
            // Whoever cuts one that is wrong finds it out.
            wanted.iter().for_each(|chunk| drop(frame.place(chunk)));
            Ok(Arc::new(frame))
        };
        let frame = self.environment.blocking(open).await.map_err(|error: FrameError| {
            self.manifests.payloads().doubt(bundle, entry.payload_extent());
            ReadError::damaged(bundle, error)
        })?;
        self.frames.insert((bundle, number), Arc::clone(&frame), frame.weight());
        Ok(frame)
    }
}
