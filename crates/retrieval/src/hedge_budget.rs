//! How many hedges there may be.
//!
//! Reading around a slow holder asks k and some more nodes instead of one. Where everything is slow, because our own
//! line or the whole fleet is at its limit, that would make it slower still. Always holds: over any stretch there are at
//! most a tenth as many hedges as ranges, and [`STOCK`] more.

// In tenths of a hedge.
const HEDGE: u32 = 10;

/// Hedges that may come at once: what one node that stalls has under way.
pub(crate) const STOCK: u32 = 64;

/// Hedges left.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HedgeBudget {
    tenths: u32,
}

impl Default for HedgeBudget {
    fn default() -> Self {
        Self { tenths: STOCK * HEDGE }
    }
}

impl HedgeBudget {
    /// A range is wanted.
    pub(crate) fn earn(&mut self) {
        self.tenths = (self.tenths + 1).min(STOCK * HEDGE);
    }

    /// Takes one hedge, if there is one left.
    pub(crate) const fn spend(&mut self) -> bool {
        if self.tenths < HEDGE {
            return false;
        }
        self.tenths -= HEDGE;
        true
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn there_are_at_most_a_tenth_as_many_hedges_as_ranges_and_the_stock(wants in prop::collection::vec(any::<bool>(), 0..3000)) {
            let mut budget = HedgeBudget::default();
            let mut hedges = 0;
            for (ranges, wants) in (1u32..).zip(wants) {
                budget.earn();
                hedges += u32::from(wants && budget.spend());
                prop_assert!(hedges <= STOCK + ranges / 10);
            }
        }
    }

    #[test]
    fn one_slow_range_in_ten_is_always_hedged() {
        let mut budget = HedgeBudget::default();
        while budget.spend() {}
        for range in 1..1000 {
            budget.earn();
            assert_eq!(budget.spend(), range % 10 == 0);
        }
    }
}
