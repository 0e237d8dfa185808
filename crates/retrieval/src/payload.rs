//! What everything above reads through: payloads of bundles by byte range, wherever they lie.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use firn_base::BundleId;
use firn_bundle::ContentHeader;
use futures::future::BoxFuture;

use crate::ReadError;

/// Reads ranges of payloads. Implemented by the swarm, by shard files and by a publisher's spool.
///
/// Bytes are proved as far as the source can (shard roots); whoever uses them checks chunk and object hashes.
/// Dropping a future cancels its read.
pub trait PayloadReader: Send + Sync + fmt::Debug {
    /// What the bundle holds: where its manifest lies and what it depends on.
    fn content(&self, bundle: BundleId) -> BoxFuture<'_, Result<Arc<ContentHeader>, ReadError>>;

    /// The bytes `range` of the payload, exactly; [`ReadError::OutOfRange`] if it reaches behind the end.
    fn read(&self, bundle: BundleId, range: Range<u64>) -> BoxFuture<'_, Result<Bytes, ReadError>>;

    /// What was read of `range` does not fit its own hashes: whoever remembers bytes forgets these.
    fn doubt(&self, bundle: BundleId, range: Range<u64>) {
        let _ = (bundle, range);
    }
}

/// Refuses a range that is turned round or reaches behind `bytes`.
pub(crate) const fn check_range(range: &Range<u64>, bytes: u64) -> Result<(), ReadError> {
    if range.start > range.end || range.end > bytes {
        return Err(ReadError::OutOfRange { start: range.start, end: range.end, bytes });
    }
    Ok(())
}
