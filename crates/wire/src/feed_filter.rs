//! Filters over the feed: what a coordinator has of them.
//!
//! Always holds: a list that passed [`FilterList::check`] names ranges that follow each other from the beginning of the
//! feed, and sizes that such ranges can have. The bytes of a filter are described in `docs/formats.md`.

use firn_base::{Digest, FeedRange, FilterId};
use serde::{Deserialize, Serialize};

use crate::{FILTER_BYTES_BASE, FILTER_BYTES_PER_EVENT_MAX, FILTERS_MAX, Statement};

/// A filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilterEntry {
    /// The keys that became visible here are in it.
    pub range: FeedRange,
    /// Its name: BLAKE3 of its bytes.
    pub id: FilterId,
    /// How many bytes it has.
    pub bytes: u64,
    /// How many keys are in it.
    pub keys: u64,
    /// The digest of the feed behind the range: equal on all coordinators, and so is then the filter.
    pub feed_digest: Digest,
}

/// The filters that a coordinator has, which it signs. What became visible or was withdrawn behind the last of them is
/// read from the feed itself; what was withdrawn before that is still in a filter, and is settled by an index range.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilterList {
    /// The filters, in order of the feed.
    pub filters: Vec<FilterEntry>,
    /// The position after the last event known to the coordinator.
    pub head: u64,
}

impl Statement for FilterList {
    const KIND: &'static str = "filters";
}

/// Why a list of filters is not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FilterListError {
    /// There are more than any feed needs.
    #[error("its list has too many filters")]
    TooMany,
    /// Events lie between two filters, or in both of them, or behind the feed.
    #[error("its filters do not follow each other from the beginning of the feed")]
    Gap,
    /// A filter has more keys than events, or more bytes than keys need.
    #[error("one of its filters is of a size that no filter has")]
    Size,
}

impl FilterList {
    /// The position behind the last filter: the feed is read from there.
    pub fn covered(&self) -> u64 {
        self.filters.last().map_or(0, |last| last.range.end)
    }

    /// Whether it can be one.
    pub fn check(&self) -> Result<(), FilterListError> {
        if self.filters.len() > FILTERS_MAX {
            return Err(FilterListError::TooMany);
        }
        let mut at = 0;
        for filter in &self.filters {
            let events = filter.range.events();
            if filter.range.first != at || events == 0 {
                return Err(FilterListError::Gap);
            }
            let bytes_max =
                events.saturating_mul(FILTER_BYTES_PER_EVENT_MAX).saturating_add(FILTER_BYTES_BASE);
            if filter.keys > events || filter.bytes > bytes_max {
                return Err(FilterListError::Size);
            }
            at = filter.range.end;
        }
        if at > self.head { Err(FilterListError::Gap) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(first: u64, end: u64) -> FilterEntry {
        FilterEntry {
            range: FeedRange { first, end },
            id: FilterId::from_bytes([1; 32]),
            bytes: 1000,
            keys: end.saturating_sub(first),
            feed_digest: Digest::from_bytes([2; 32]),
        }
    }

    fn check(filters: Vec<FilterEntry>, head: u64) -> Result<(), FilterListError> {
        FilterList { filters, head }.check()
    }

    #[test]
    fn a_list_has_no_gaps_and_ends_within_the_feed() {
        assert_eq!(check(vec![], 0), Ok(()));
        assert_eq!(check(vec![entry(0, 8), entry(8, 12)], 12), Ok(()));
        assert_eq!(check(vec![entry(0, 8), entry(9, 12)], 12), Err(FilterListError::Gap));
        assert_eq!(check(vec![entry(4, 8)], 12), Err(FilterListError::Gap));
        assert_eq!(check(vec![entry(0, 8), entry(8, 8)], 12), Err(FilterListError::Gap));
        assert_eq!(check(vec![entry(0, 8), entry(8, 4)], 12), Err(FilterListError::Gap));
        assert_eq!(check(vec![entry(0, 8)], 7), Err(FilterListError::Gap));
    }

    #[test]
    fn sizes_that_no_filter_has_are_refused_before_anything_is_fetched() {
        let bytes_max = 8 * FILTER_BYTES_PER_EVENT_MAX + FILTER_BYTES_BASE;
        assert_eq!(check(vec![FilterEntry { bytes: bytes_max, ..entry(0, 8) }], 8), Ok(()));
        let larger = FilterEntry { bytes: bytes_max + 1, ..entry(0, 8) };
        assert_eq!(check(vec![larger], 8), Err(FilterListError::Size));
        assert_eq!(check(vec![FilterEntry { keys: 9, ..entry(0, 8) }], 8), Err(FilterListError::Size));
        let many = (0..=FILTERS_MAX as u64).map(|at| entry(at, at + 1)).collect();
        assert_eq!(check(many, 1000), Err(FilterListError::TooMany));
    }
}
