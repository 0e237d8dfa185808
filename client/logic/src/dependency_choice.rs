//! Which earlier bundles a bundle that is being packed depends on.
//!
//! Owns: the at most eight dependencies, and when a new bundle is begun for the sake of others. Always holds: the choice
//! looks at what was pushed so far and at nothing ahead, and costs at most twice what a choice that knew all to come would:
//! a new bundle is begun once what had to be stored again weighs as much as beginning it.
//! Leaves to others: what is found in which bundle, and reading it.

use std::collections::{BTreeMap, BTreeSet};

use firn_base::BundleId;

/// As many dependencies as the format gives a bundle.
const DEPENDENCIES_MAX: usize = 8;

// Raw bytes that had to be stored again because their bundles were one too many. A bundle of 40 shards of 64 KiB takes
// 2.6 MB with nothing in it; 8 MiB raw take about as much: a third when compressed, two and a half times that when coded.
const MISSED_BYTES_MAX: u64 = 8 << 20;

/// What to do with an object of which earlier bundles hold chunks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DependencyPlan {
    /// Use the chunks of these bundles.
    Use(BTreeSet<BundleId>),
    /// Seal what is open, and ask again for an empty bundle.
    SealFirst,
}

/// Chooses dependencies, from one object to the next.
#[derive(Debug, Clone, Default)]
pub struct DependencyChoice {
    missed_bytes: u64,
}

impl DependencyChoice {
    /// A choice before the first object.
    pub const fn new() -> Self {
        Self { missed_bytes: 0 }
    }

    /// Chooses for the next object of the open bundle, which depends on `used` so far, if `found` says how many raw bytes
    /// of the object each bundle holds: those it depends on already, then those that hold most.
    pub fn choose(&mut self, used: &[BundleId], found: &BTreeMap<BundleId, u64>) -> DependencyPlan {
        let known = |bundle: &BundleId| used.contains(bundle);
        let mut others: Vec<(&BundleId, &u64)> = found.iter().filter(|(bundle, _)| !known(bundle)).collect();
        others.sort_by_key(|(bundle, bytes)| (std::cmp::Reverse(**bytes), **bundle));
        let free = DEPENDENCIES_MAX.saturating_sub(used.len());
        let missed = others.iter().skip(free).map(|(_, bytes)| **bytes).fold(0, u64::saturating_add);
        self.missed_bytes = if used.is_empty() { 0 } else { self.missed_bytes.saturating_add(missed) };
        if self.missed_bytes >= MISSED_BYTES_MAX {
            self.missed_bytes = 0;
            return DependencyPlan::SealFirst;
        }
        let chosen = others.into_iter().take(free).map(|(bundle, _)| *bundle);
        DependencyPlan::Use(chosen.chain(found.keys().copied().filter(known)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn bundle(number: u8) -> BundleId {
        BundleId::from_bytes([number; 32])
    }

    fn found(bundles: &[(u8, u64)]) -> BTreeMap<BundleId, u64> {
        bundles.iter().map(|(number, bytes)| (bundle(*number), *bytes)).collect()
    }

    fn using(numbers: &[u8]) -> DependencyPlan {
        DependencyPlan::Use(numbers.iter().copied().map(bundle).collect())
    }

    #[test]
    fn what_is_used_already_costs_nothing_and_of_the_rest_the_largest_are_taken() {
        let mut choice = DependencyChoice::default();
        let all: Vec<(u8, u64)> = (1..=10).map(|number| (number, u64::from(number))).collect();
        assert_eq!(choice.choose(&[], &found(&all)), using(&[3, 4, 5, 6, 7, 8, 9, 10]));
        let used: Vec<_> = (1..=7).map(bundle).collect();
        assert_eq!(choice.choose(&used, &found(&[(2, 1), (8, 5), (9, 6)])), using(&[2, 9]));
        assert_eq!(choice.choose(&used, &found(&[])), using(&[]));
    }

    #[test]
    fn a_new_bundle_is_begun_once_enough_was_stored_again() {
        let mut choice = DependencyChoice::default();
        let used: Vec<_> = (1..=8).map(bundle).collect();
        for _ in 0..7 {
            assert_eq!(choice.choose(&used, &found(&[(1, 9 * MIB), (9, MIB)])), using(&[1]));
        }
        assert_eq!(choice.choose(&used, &found(&[(9, MIB)])), DependencyPlan::SealFirst);
        assert_eq!(choice.choose(&[], &found(&[(9, MIB)])), using(&[9]));
        assert_eq!(choice.choose(&used, &found(&[(10, MIB)])), using(&[]));
    }

    #[test]
    fn an_empty_bundle_is_never_sealed_for_an_object_of_too_many_bundles() {
        let all: Vec<(u8, u64)> = (1..=20).map(|number| (number, 100 * MIB)).collect();
        let plan = DependencyChoice::default().choose(&[], &found(&all));
        assert!(matches!(plan, DependencyPlan::Use(bundles) if bundles.len() == DEPENDENCIES_MAX));
    }
}
