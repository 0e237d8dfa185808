//! Visible keys that begin alike, from any replica, for readers who will not name the one they look for.
//!
//! Always holds: what the feed tells before the position of an answer is in it; a page has a bounded number of keys and
//! places, and costs no more than reading about as many.

use firn_coordinator_logic::Facts;
use firn_wire::{
    CoordinatorReply, INDEX_RANGE_KEYS_MAX, IndexRangePage, IndexRangeRequest, IndexedKey, RefusedRequest,
};

use crate::raft::StateFacts;
use crate::shared::{Shared, disk, malformed};
use crate::storage::StorageError;

/// Places in one page: a key has one, or one for each of its variants.
const PLACES_MAX: usize = 4 * INDEX_RANGE_KEYS_MAX;

pub(super) async fn answer(
    shared: &Shared,
    request: IndexRangeRequest,
) -> Result<CoordinatorReply, RefusedRequest> {
    if request.after.is_some_and(|after| !request.prefix.covers(&after)) {
        return Err(malformed("the key to go on from does not begin with the prefix"));
    }
    let facts = shared.facts()?;
    let page = shared.environment.blocking(move || page(&facts, request)).await;
    page.map(CoordinatorReply::IndexRange).map_err(|error| disk(&error))
}

fn page(facts: &StateFacts, request: IndexRangeRequest) -> Result<IndexRangePage, StorageError> {
    // Before the index: what is applied in between is in the answer too.
    let position = facts.counters()?.feed_head;
    // One more than a page has says whether there is more.
    let mut names = facts.keys_with(request.prefix, request.after, INDEX_RANGE_KEYS_MAX + 1)?;
    let mut more = names.len() > INDEX_RANGE_KEYS_MAX;
    names.truncate(INDEX_RANGE_KEYS_MAX);
    let places = facts.lookup(&names)?;
    let (mut keys, mut count) = (Vec::with_capacity(names.len()), 0);
    for (key, mut locations) in names.into_iter().zip(places) {
        if count >= PLACES_MAX {
            more = true;
            break;
        }
        // It may have been withdrawn between the two reads.
        if !locations.is_empty() {
            locations.truncate(PLACES_MAX);
            count += locations.len();
            keys.push(IndexedKey { key, locations });
        }
    }
    Ok(IndexRangePage { position, keys, more })
}
