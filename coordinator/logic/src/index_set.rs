//! Sets of shard indexes in one word.

use firn_base::ShardIndex;

/// A set of shard indexes, for the ladder of schemes ends at 40: planners count millions of bundles.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct IndexSet(u64);

impl IndexSet {
    /// Adds an index; none of a scheme is beyond 63, and such a one is left out.
    pub(crate) fn insert(&mut self, index: ShardIndex) {
        self.put(index, true);
    }

    /// Adds an index or takes it out.
    pub(crate) fn put(&mut self, index: ShardIndex, belongs: bool) {
        self.0 = if belongs { self.0 | Self::bit(index) } else { self.0 & !Self::bit(index) };
    }

    pub(crate) fn contains(self, index: ShardIndex) -> bool {
        self.0 & Self::bit(index) != 0
    }

    pub(crate) fn len(self) -> u8 {
        u8::try_from(self.0.count_ones()).expect("a word has 64 bits")
    }

    /// Indexes below `n` that are not in the set, in order.
    pub(crate) fn missing_below(self, n: u8) -> impl Iterator<Item = ShardIndex> {
        (0..n).map(ShardIndex).filter(move |index| !self.contains(*index))
    }

    /// How many indexes below `n` are not in the set.
    pub(crate) fn lacks_below(self, n: u8) -> u8 {
        let below = 1_u64.checked_shl(n.into()).map_or(u64::MAX, |next| next - 1);
        u8::try_from((below & !self.0).count_ones()).expect("a word has 64 bits")
    }

    fn bit(index: ShardIndex) -> u64 {
        1_u64.checked_shl(u32::from(index.0)).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_counted_as_it_is_listed() {
        let mut set = IndexSet::default();
        [0, 3, 17, 39, 63].into_iter().map(ShardIndex).for_each(|index| set.insert(index));
        set.insert(ShardIndex(200));
        assert_eq!(set.len(), 5);
        for n in 0..=64 {
            assert_eq!(usize::from(set.lacks_below(n)), set.missing_below(n).count(), "{n}");
        }
        assert!(set.contains(ShardIndex(63)) && !set.contains(ShardIndex(200)));
    }
}
