//! Payloads as nodes give them, or as they were given before.
//!
//! Always holds: what comes from the cache was proved when it was read and is what was written then. Leaves to others:
//! reading from nodes (`firn-retrieval`), the disk (`disk_cache`).

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use firn_base::BundleId;
use firn_bundle::ContentHeader;
use firn_retrieval::{PayloadReader, ReadError};
use futures::FutureExt;
use futures::future::BoxFuture;

use crate::disk_cache::{CacheKey, DiskCache};

/// Reads `inner` and remembers. Manifests and frames are read by the same ranges each time, so a range is an entry.
#[derive(Debug)]
pub(crate) struct CachedPayloads {
    pub(crate) inner: Arc<dyn PayloadReader>,
    pub(crate) cache: DiskCache,
}

impl PayloadReader for CachedPayloads {
    fn content(&self, bundle: BundleId) -> BoxFuture<'_, Result<Arc<ContentHeader>, ReadError>> {
        self.inner.content(bundle)
    }

    fn read(&self, bundle: BundleId, range: Range<u64>) -> BoxFuture<'_, Result<Bytes, ReadError>> {
        async move {
            let key = CacheKey::Payload { bundle, start: range.start, end: range.end };
            let wanted = range.end.saturating_sub(range.start);
            if let Some(bytes) = self.cache.get(&key).await.filter(|bytes| bytes.len() as u64 == wanted) {
                return Ok(bytes);
            }
            let bytes = self.inner.read(bundle, range).await?;
            self.cache.put(&key, bytes.clone());
            Ok(bytes)
        }
        .boxed()
    }

    fn doubt(&self, bundle: BundleId, range: Range<u64>) {
        self.cache.forget(&CacheKey::Payload { bundle, start: range.start, end: range.end });
    }
}
