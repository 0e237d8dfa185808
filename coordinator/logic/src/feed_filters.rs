//! Which filters there are over the feed.
//!
//! Always holds: at one length of the feed every replica wants the same filters, and each of them is of a range that
//! only its own position decides; what is served follows each other from the beginning of the feed, by the digests too;
//! nothing is dropped before what takes its place is there. Leaves to others: making one (`filter_build`), files.
//!
//! The feed is divided into units of 2^20 events. What is complete of them is covered as a number is written in binary:
//! 300 million events are 286 units, 256 + 16 + 8 + 4 + 2, hence five filters, and what is behind them, less than a unit,
//! is read from the feed itself. When a unit is complete, ranges of equal length join. So a key that was not archived is
//! wrongly held by one of at most 9 filters (below 536 million events; 4.5 on average) with a chance of 1 in 256 each;
//! each event goes into a filter once for each binary digit, and readers fetch it as often, 10 bytes in all.
//!
//! A range of 2^j units has 2^j parts of about 2^20 keys, which are made one by one: memory does not depend on the
//! range. Filters of fewer keys would need less memory as well, but 300 filters would hold two thirds of all strangers.

use firn_base::{Digest, FeedRange, FilterId};
use firn_wire::FilterEntry;

use crate::Counters;

/// Events of a unit. Smaller ones make more filters and so more strangers; of larger ones readers hold a longer end of
/// the feed, which is 21 bytes for each key instead of 1.13.
pub const FILTER_UNIT_EVENTS: u64 = 1 << 20;

/// A filter that a replica has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeldFilter {
    /// What it tells others of it.
    pub entry: FilterEntry,
    /// The digest of the feed before its range.
    pub digest_before: Digest,
}

/// A filter to make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FilterOrder {
    /// Of which range.
    pub range: FeedRange,
    /// The digest of the feed before it.
    pub digest_before: Digest,
    /// The binary logarithm of its parts.
    pub parts_log2: u8,
}

/// What to do about filters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilterPlan {
    /// Those to serve, in order.
    pub serve: Vec<FilterEntry>,
    /// Those that are in the way of nothing any more: others have taken their places, or they are of another feed.
    pub drop: Vec<FilterId>,
    /// The next to make.
    pub build: Option<FilterOrder>,
}

/// The ranges that filters shall have when the feed has `head` events, in order.
pub fn filter_ranges(head: u64, unit: u64) -> Vec<FeedRange> {
    let mut left = head.checked_div(unit).unwrap_or(0);
    let mut first = 0;
    let mut ranges = Vec::new();
    while let Some(digit) = left.checked_ilog2() {
        // No product is larger than `head`.
        let end = first + (unit << digit);
        ranges.push(FeedRange { first, end });
        first = end;
        left -= 1 << digit;
    }
    ranges
}

/// What to do when the feed has `head` events and this replica has the filters `held`.
pub fn plan_filters(head: u64, unit: u64, held: &[HeldFilter]) -> FilterPlan {
    let (mut covered, mut digest) = (0, Counters::default().feed_digest);
    let mut served: Vec<HeldFilter> = Vec::new();
    let follows = |filter: &&HeldFilter, covered: u64, digest: Digest| {
        let range = filter.entry.range;
        range.first == covered && covered < range.end && range.end <= head && filter.digest_before == digest
    };
    // The longest that goes on: ties are equal filters.
    while let Some(next) = held
        .iter()
        .filter(|filter| follows(filter, covered, digest))
        .max_by_key(|filter| (filter.entry.range.end, filter.entry.id))
    {
        served.push(*next);
        (covered, digest) = (next.entry.range.end, next.entry.feed_digest);
    }
    let in_the_way = |filter: &&HeldFilter| {
        let range = filter.entry.range;
        (range.first < covered || range.end > head) && !served.contains(filter)
    };
    let drop = held.iter().filter(in_the_way).map(|filter| filter.entry.id).collect();
    let mut digest_before = Counters::default().feed_digest;
    let mut build = None;
    for range in filter_ranges(head, unit) {
        match served.iter().find(|filter| filter.entry.range == range) {
            Some(filter) => digest_before = filter.entry.feed_digest,
            None => {
                build = Some(FilterOrder { range, digest_before, parts_log2: parts_log2(range, unit) });
                break;
            }
        }
    }
    FilterPlan { serve: served.iter().map(|filter| filter.entry).collect(), drop, build }
}

/// A part for each unit of the range.
fn parts_log2(range: FeedRange, unit: u64) -> u8 {
    let units = range.events().checked_div(unit).and_then(u64::checked_ilog2).unwrap_or(0);
    u8::try_from(units).expect("a logarithm of 64 bits is below 64")
}
