//! A stretch of the feed.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Positions of the feed from `first` up to, without, `end`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct FeedRange {
    /// The first position.
    pub first: u64,
    /// The position behind the last one.
    pub end: u64,
}

impl FeedRange {
    /// How many positions it has: none if it ends before it begins.
    pub const fn events(&self) -> u64 {
        self.end.saturating_sub(self.first)
    }

    /// Whether every position of `other` is one of this.
    pub const fn covers(&self, other: &Self) -> bool {
        self.first <= other.first && other.end <= self.end
    }
}

impl fmt::Display for FeedRange {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}-{}", self.first, self.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_covers_itself_and_its_parts_only() {
        let range = FeedRange { first: 4, end: 8 };
        assert_eq!((range.events(), FeedRange { first: 8, end: 4 }.events()), (4, 0));
        assert!(range.covers(&range) && range.covers(&FeedRange { first: 5, end: 8 }));
        assert!(!range.covers(&FeedRange { first: 3, end: 5 }));
        assert!(!range.covers(&FeedRange { first: 7, end: 9 }));
    }
}
