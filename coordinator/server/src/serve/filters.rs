//! Filters over the feed, as any replica has them.
//!
//! Always holds: a list names nothing that is not here; a piece is of a filter of the list, and no longer than a piece is.

use std::sync::Arc;

use firn_base::FilterId;
use firn_coordinator_logic::Facts;
use firn_wire::{CoordinatorReply, FILTER_PIECE_BYTES_MAX, FilterList, RefusalKind, RefusedRequest, Signed};

use crate::shared::{Shared, disk};

type Reply = Result<CoordinatorReply, RefusedRequest>;

/// The filters that are here. Fewer than there could be while one is made: the feed has what they lack.
pub(super) fn list(shared: &Shared) -> Reply {
    let head = shared.facts()?.counters().map_err(|error| disk(&error))?.feed_head;
    let served = shared.filters.served();
    let filters = served.iter().take_while(|filter| filter.range.end <= head).copied();
    let list = FilterList { filters: filters.collect(), head };
    Ok(CoordinatorReply::Filters(Signed::seal(&shared.identity, shared.archive, &list)))
}

pub(super) async fn piece(shared: &Arc<Shared>, filter: FilterId, offset: u64) -> Reply {
    let gone = || {
        RefusedRequest::new(
            RefusalKind::NotFound,
            "this coordinator has no such filter, or has it no more: ask for its list again",
        )
    };
    if !shared.filters.served().iter().any(|served| served.id == filter) {
        return Err(gone());
    }
    let store = shared.filters.store();
    let read = shared.environment.blocking(move || store.read(filter, offset, FILTER_PIECE_BYTES_MAX)).await;
    read.map_err(|error| disk(&error))?.map(CoordinatorReply::FilterPiece).ok_or_else(gone)
}
