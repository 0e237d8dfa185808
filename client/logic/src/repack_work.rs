//! Which bundles purges want packed anew, as coordinators say.
//!
//! Owns: the order, and what no new bundle may use chunks of. Always holds: what holds purged paths comes before what uses
//! chunks of it, so that the latter finds these chunks in what took the place of the former; a bundle is named once.
//! Leaves to others: asking coordinators, packing (`firn-client`).

use std::collections::{BTreeMap, BTreeSet};

use firn_base::{BundleId, ObjectKey};
use firn_wire::PurgeProgress;

/// What is left to pack anew.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RepackWork {
    holding: BTreeMap<BundleId, BTreeSet<ObjectKey>>,
    using: BTreeSet<BundleId>,
    going: BTreeSet<BundleId>,
}

impl RepackWork {
    /// Adds what purges say. If `only` names bundles, nothing is packed anew but for the sake of these.
    pub fn add(&mut self, purges: &[PurgeProgress], only: &BTreeSet<BundleId>) {
        let is_meant = |bundle: &BundleId| only.is_empty() || only.contains(bundle);
        for purge in purges {
            self.going.extend(purge.to_repack.iter().chain(&purge.passing));
            for bundle in purge.to_repack.iter().filter(|bundle| is_meant(bundle)) {
                self.holding.entry(*bundle).or_default().insert(purge.key);
            }
            for kept in &purge.kept {
                self.going.insert(kept.bundle);
                self.going.extend(&kept.to_repack);
                let all = is_meant(&kept.bundle);
                self.using.extend(kept.to_repack.iter().filter(|bundle| all || is_meant(bundle)));
            }
        }
    }

    /// The bundles to pack anew, the first first, each with the keys to leave out: all that are purged of one that
    /// holds such, none of one that uses its chunks.
    pub fn bundles(&self) -> Vec<(BundleId, BTreeSet<ObjectKey>)> {
        let holding = self.holding.iter().map(|(bundle, keys)| (*bundle, keys.clone()));
        let using = self.using.iter().filter(|bundle| !self.holding.contains_key(bundle));
        holding.chain(using.map(|bundle| (*bundle, BTreeSet::new()))).collect()
    }

    /// Bundles that are on their way out: none that is packed now may come to need one of them.
    pub const fn going(&self) -> &BTreeSet<BundleId> {
        &self.going
    }
}

#[cfg(test)]
mod tests {
    use firn_base::Timestamp;
    use firn_wire::NeededBundle;

    use super::*;

    fn bundle(number: u8) -> BundleId {
        BundleId::from_bytes([number; 32])
    }

    fn key(number: u8) -> ObjectKey {
        ObjectKey::store_path([number; 20])
    }

    fn purge(name: u8, to_repack: &[u8], passing: &[u8], kept: &[(u8, &[u8])]) -> PurgeProgress {
        let bundles = |numbers: &[u8]| numbers.iter().copied().map(bundle).collect::<Vec<_>>();
        let needed = |(number, using): &(u8, &[u8])| NeededBundle {
            bundle: bundle(*number),
            dependents: u32::MAX,
            to_repack: bundles(using),
        };
        PurgeProgress {
            key: key(name),
            since: Timestamp::default(),
            to_repack: bundles(to_repack),
            passing: bundles(passing),
            kept: kept.iter().map(needed).collect(),
            holders: 0,
            waiting: Vec::new(),
        }
    }

    fn work(only: &[u8]) -> RepackWork {
        let purges = [purge(1, &[5], &[6], &[(7, &[1, 5])]), purge(2, &[5, 9], &[], &[(8, &[1, 2])])];
        let mut work = RepackWork::default();
        let only = only.iter().copied().map(bundle).collect();
        purges.iter().for_each(|page| work.add(std::slice::from_ref(page), &only));
        work
    }

    #[test]
    fn what_holds_purged_paths_comes_first_with_all_of_them_and_what_uses_it_follows_whole() {
        let keys = |names: &[u8]| names.iter().copied().map(key).collect::<BTreeSet<_>>();
        let all = work(&[]);
        let expected = [(5, keys(&[1, 2])), (9, keys(&[2])), (1, keys(&[])), (2, keys(&[]))];
        assert_eq!(all.bundles(), expected.map(|(number, keys)| (bundle(number), keys)));
        assert_eq!(all.going(), &[1, 2, 5, 6, 7, 8, 9].map(bundle).into());
    }

    #[test]
    fn who_names_a_bundle_has_it_packed_anew_or_what_uses_it_and_nothing_going_is_used_all_the_same() {
        let numbers = |only: &[u8]| -> Vec<BundleId> {
            work(only).bundles().into_iter().map(|(bundle, _)| bundle).collect()
        };
        assert_eq!(numbers(&[9]), [bundle(9)]);
        assert_eq!(numbers(&[8]), [bundle(1), bundle(2)]);
        assert_eq!(numbers(&[2]), [bundle(2)]);
        assert_eq!(work(&[9]).going(), work(&[]).going());
    }
}
