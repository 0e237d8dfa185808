//! Where keys lie, for programs that look some up and follow no feed.
//!
//! Always holds: of a key no more leaves than a gateway tells of it (`key_ranges`), so of one that is not archived
//! nobody learns; what is found is as new as the archive was when it was looked for; what is not found is called absent
//! only where a coordinator that hears a majority said how far the archive is. Leaves to others: keys that are known to
//! be visible (`CoordinatorClient::lookup` tells of many at once), records.

use std::sync::Arc;
use std::time::Duration;

use firn_base::{Location, ObjectKey};
use firn_retrieval::Directory;
use firn_transport::{AskError, CoordinatorClient};
use futures::stream::{self, StreamExt, TryStreamExt};
use tokio::time::sleep;

use crate::coordinators::{KeyIndex, NetworkCoordinators};
use crate::key_ranges::{KeyRanges, Settled};

/// Looks keys up by ranges of the index. Clones share what was heard.
#[derive(Debug, Clone)]
pub struct KeyLookup {
    coordinators: CoordinatorClient,
    ranges: Arc<KeyRanges>,
}

/// Where keys lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Located {
    /// For each key its places, in the order of the index: none for one that is not visible, as far as is known.
    pub places: Vec<Vec<Location>>,
    /// Why what has no place may be archived all the same, in a sentence; none if it is not.
    pub doubt: Option<String>,
}

/// Why it is not known where keys lie.
#[derive(Debug, thiserror::Error)]
pub enum LocateError {
    /// Nobody tells how far the archive is.
    #[error(transparent)]
    Ask(#[from] AskError),
    /// The coordinators do not settle it together.
    #[error("the coordinators do not settle what is archived: {cause}; try again later")]
    Unsettled {
        /// What stands in the way.
        cause: String,
    },
}

// A closure's layer: each is a round trip, and several where the key is not archived.
const KEYS_AT_ONCE: usize = 64;

// Ranges overlap where keys are looked for again: by layers of closures.
const RANGE_CACHE_BYTES: usize = 16 << 20;

// Nobody waits for one path at a time here, as Nix does for a gateway: coordinators that are away are tried for longer
// than an election takes. Each try waits for some seconds itself.
const TRIES: usize = 4;
const TRY_PAUSE: Duration = Duration::from_secs(1);

impl KeyLookup {
    /// Asks `coordinators`; `directory` knows bundles.
    pub fn new(coordinators: CoordinatorClient, directory: Arc<dyn Directory>) -> Self {
        let index = Arc::new(NetworkCoordinators::new(coordinators.clone(), directory));
        Self { coordinators, ranges: ranges(index) }
    }

    /// Where each key lies, in the order of the index.
    ///
    /// # Errors
    /// Not enough coordinators answer.
    pub async fn locate(&self, keys: &[ObjectKey]) -> Result<Located, LocateError> {
        let (head, stale) = self.coordinators.head().await?;
        let places = locate_as_of(&self.ranges, keys, head).await?;
        Ok(Located { places, doubt: stale.map(doubt) })
    }
}

fn doubt(stale: Duration) -> String {
    format!("the coordinators that answer have heard no majority of them for {} s", stale.as_secs())
}

fn ranges(index: Arc<dyn KeyIndex>) -> Arc<KeyRanges> {
    Arc::new(KeyRanges::new(index, None, RANGE_CACHE_BYTES))
}

async fn locate_as_of(
    ranges: &Arc<KeyRanges>,
    keys: &[ObjectKey],
    as_of: u64,
) -> Result<Vec<Vec<Location>>, LocateError> {
    let located = keys.iter().map(|key| settle(ranges, key, as_of));
    stream::iter(located).buffered(KEYS_AT_ONCE).try_collect().await
}

async fn settle(ranges: &Arc<KeyRanges>, key: &ObjectKey, as_of: u64) -> Result<Vec<Location>, LocateError> {
    let mut failures = 0;
    loop {
        match ranges.settle(key, as_of).await {
            Ok(Settled::Here { locations, .. }) => return Ok(locations),
            Ok(Settled::Absent) => return Ok(Vec::new()),
            Err(error) if failures == TRIES => {
                return Err(LocateError::Unsettled { cause: error.to_string() });
            }
            Err(_) => failures += 1,
        }
        sleep(TRY_PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_archive::TestArchive;

    fn archive() -> Arc<TestArchive> {
        let archive = Arc::new(TestArchive::new(100));
        (0..200).for_each(|number| archive.show(number));
        archive
    }

    fn key(number: u8) -> ObjectKey {
        ObjectKey::store_path([number; 20])
    }

    #[tokio::test(start_paused = true)]
    async fn keys_are_found_in_their_order_and_none_is_named() {
        let archive = archive();
        let keys: Vec<_> = (150..250).map(key).collect();
        let ranges = ranges(Arc::clone(&archive) as Arc<dyn KeyIndex>);
        let places = locate_as_of(&ranges, &keys, archive.head()).await.unwrap();
        let found: Vec<_> = places.iter().map(|places| !places.is_empty()).collect();
        assert_eq!(found, (150..250).map(|number| number < 200).collect::<Vec<_>>());
        let asked = archive.asked.lock().unwrap();
        // One for each that is there, and two more for each that is not.
        assert_eq!(asked.len(), 50 + 50 * 3);
        assert!(asked.iter().all(|request| request.prefix.bits() == 20 && request.after.is_none()));
    }

    #[tokio::test(start_paused = true)]
    async fn coordinators_that_are_away_for_a_moment_are_asked_again() {
        let archive = archive();
        archive.all_away(true);
        let ranges = ranges(Arc::clone(&archive) as Arc<dyn KeyIndex>);
        let later = Arc::clone(&archive);
        tokio::spawn(async move {
            sleep(TRY_PAUSE * 3).await;
            later.all_away(false);
        });
        let places = locate_as_of(&ranges, &[key(3), key(220)], archive.head()).await.unwrap();
        assert_eq!(places.iter().map(Vec::len).collect::<Vec<_>>(), [1, 0]);
        archive.all_away(true);
        let error = locate_as_of(&ranges, &[key(4)], archive.head()).await.unwrap_err();
        assert!(error.to_string().contains("settle"), "{error}");
    }
}
