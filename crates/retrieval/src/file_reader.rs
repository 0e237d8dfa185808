//! Payloads from bare shard files: any k of a bundle are enough, and nothing else is needed.
//!
//! Always holds: only shards that have their root are used; a damaged file is named and read around; memory is
//! the range asked for, k times. Leaves to others: what is restored from the payloads.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use firn_base::{BundleId, ShardIndex};
use firn_bundle::ContentHeader;
use firn_erasure::Coder;
use firn_transport::Environment;
use futures::FutureExt;
use futures::future::BoxFuture;

use crate::payload::check_range;
use crate::shard_collection::{CollectedBundle, CollectedCoding, DamagedShardFile, ShardCollection};
use crate::{PayloadReader, ReadError};

// Ranges are put together in columns of this many bytes per shard, so that k ranges of a large one are never
// in memory together.
const COLUMN_BYTES: u64 = 4 << 20;

/// How much of a bundle is at hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FoundShards {
    /// Distinct shards with a file, checked or not.
    pub have: usize,
    /// Shards that are enough.
    pub need: usize,
}

/// Reads payloads from shard files. Clones share what is known of the files.
#[derive(Debug, Clone)]
pub struct FileReader {
    environment: Environment,
    collection: Arc<ShardCollection>,
}

impl FileReader {
    /// Finds all shard files under `places`, which are files or directories.
    ///
    /// # Errors
    /// A directory cannot be listed. Damaged files are no error: see [`Self::damaged_files`].
    pub async fn scan(environment: Environment, places: Vec<PathBuf>) -> Result<Self, ReadError> {
        let collection = environment.blocking(move || ShardCollection::scan(&places)).await?;
        Ok(Self { environment, collection: Arc::new(collection) })
    }

    /// The bundles that have at least one file, with what they hold and how many shards there are.
    pub fn bundles(&self) -> Vec<(BundleId, Arc<ContentHeader>, FoundShards)> {
        let bundles = self.collection.bundles.iter();
        bundles
            .map(|(id, bundle)| {
                let best = bundle.codings.first();
                let found = FoundShards {
                    have: best.map_or(0, |coding| coding.files.len()),
                    need: best.map_or(0, |coding| usize::from(coding.header.k())),
                };
                (*id, Arc::clone(&bundle.content), found)
            })
            .collect()
    }

    /// Files found damaged so far. A file is checked when it is first needed, so this is complete for the files
    /// that were, after everything was read.
    pub fn damaged_files(&self) -> Vec<DamagedShardFile> {
        self.collection.damaged()
    }
}

impl PayloadReader for FileReader {
    fn content(&self, bundle: BundleId) -> BoxFuture<'_, Result<Arc<ContentHeader>, ReadError>> {
        let found = self.collection.bundles.get(&bundle).map(|own| Arc::clone(&own.content));
        async move { found.ok_or(ReadError::UnknownBundle { bundle }) }.boxed()
    }

    fn read(&self, bundle: BundleId, range: Range<u64>) -> BoxFuture<'_, Result<Bytes, ReadError>> {
        let collection = Arc::clone(&self.collection);
        let read = move || match collection.bundles.get(&bundle) {
            Some(own) => read_payload(&collection, bundle, own, &range),
            None => Err(ReadError::UnknownBundle { bundle }),
        };
        async move { self.environment.blocking(read).await }.boxed()
    }
}

fn read_payload(
    collection: &ShardCollection,
    bundle: BundleId,
    own: &CollectedBundle,
    range: &Range<u64>,
) -> Result<Bytes, ReadError> {
    check_range(range, own.content.payload_bytes())?;
    let mut failure = ReadError::Unreadable { bundle, have: 0, need: 1 };
    for coding in &own.codings {
        match read_coding(collection, bundle, coding, range) {
            Ok(bytes) => return Ok(bytes.into()),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

fn read_coding(
    collection: &ShardCollection,
    bundle: BundleId,
    coding: &CollectedCoding,
    range: &Range<u64>,
) -> Result<Vec<u8>, ReadError> {
    let mut bytes = Vec::new();
    for (index, piece) in coding.header.locate(range.clone()) {
        let direct = collection.good_file(coding, index).and_then(|file| file.read(&piece).ok());
        if let Some(direct) = direct {
            bytes.extend_from_slice(&direct);
            continue;
        }
        let mut from = piece.start;
        while from < piece.end {
            let to = from.saturating_add(COLUMN_BYTES).min(piece.end);
            bytes.extend_from_slice(&rebuild(collection, bundle, coding, index, &(from..to))?);
            from = to;
        }
    }
    Ok(bytes)
}

/// A range of a data shard from k others.
fn rebuild(
    collection: &ShardCollection,
    bundle: BundleId,
    coding: &CollectedCoding,
    wanted: ShardIndex,
    range: &Range<u64>,
) -> Result<Vec<u8>, ReadError> {
    let coder = Coder::new(coding.header.k()).map_err(|error| ReadError::damaged(bundle, error))?;
    let mut present = Vec::new();
    for index in coding.files.keys().copied().filter(|index| *index != wanted) {
        if present.len() == coder.k() {
            break;
        }
        // A file that was good and cannot be read now is as good as missing.
        if let Some(bytes) = collection.good_file(coding, index).and_then(|file| file.read(range).ok()) {
            present.push((index, bytes));
        }
    }
    if present.len() < coder.k() {
        return Err(ReadError::Unreadable { bundle, have: present.len(), need: coder.k() });
    }
    let sources: Vec<(ShardIndex, &[u8])> =
        present.iter().map(|(index, bytes)| (*index, &bytes[..])).collect();
    let mut bytes = vec![0; sources.first().map_or(0, |(_, bytes)| bytes.len())];
    coder
        .rebuild(&sources, &mut [(wanted, &mut bytes)])
        .map_err(|error| ReadError::damaged(bundle, error))?;
    Ok(bytes)
}
