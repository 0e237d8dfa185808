//! In which order objects are packed together that use chunks of more bundles than one may.
//!
//! Owns: the order. Always holds: objects that have most from the same bundle lie side by side, and behind all of them
//! those that have nothing from any, but for later records of a key, which lie where its first one does; objects of one
//! key keep their order, and all objects do where the bundles have their places in one.
//! Leaves to others: who uses what, and where one bundle ends (`dependency_choice`).

use std::collections::{BTreeMap, BTreeSet};

use firn_base::{BundleId, ObjectKey};

use crate::dependency_choice::DEPENDENCIES_MAX;

/// How many bytes an object has from each of other bundles.
pub type UsedBytes = BTreeMap<BundleId, u64>;

/// The order for these objects, by their positions.
pub fn order_by_use(objects: &[(ObjectKey, UsedBytes)]) -> Vec<usize> {
    let used: BTreeSet<&BundleId> = objects.iter().flat_map(|(_, used)| used.keys()).collect();
    if used.len() <= DEPENDENCIES_MAX {
        return (0..objects.len()).collect();
    }
    let mut turns: BTreeMap<&BundleId, usize> = BTreeMap::new();
    let mut turns_of_keys: BTreeMap<&ObjectKey, usize> = BTreeMap::new();
    let mut order: Vec<(usize, usize)> = Vec::with_capacity(objects.len());
    for (position, (key, used)) in objects.iter().enumerate() {
        let most = used.iter().max_by_key(|(bundle, bytes)| (**bytes, **bundle));
        let next = turns.len();
        let own = most.map_or(usize::MAX, |(bundle, _)| *turns.entry(bundle).or_insert(next));
        // Which of several records of a key comes first decides what it shows.
        order.push((*turns_of_keys.entry(key).or_insert(own), position));
    }
    order.sort_unstable();
    order.into_iter().map(|(_, position)| position).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(key: u8, used: &[(u8, u64)]) -> (ObjectKey, UsedBytes) {
        let used = used.iter().map(|(number, bytes)| (BundleId::from_bytes([*number; 32]), *bytes));
        (ObjectKey::store_path([key; 20]), used.collect())
    }

    #[test]
    fn what_has_most_from_the_same_bundle_lies_side_by_side_and_what_has_nothing_is_last() {
        let mut objects = vec![object(1, &[]), object(2, &[(9, 5), (1, 4)]), object(3, &[(1, 9)])];
        objects.extend((20..=26).map(|number| object(number, &[(number, 1)])));
        objects.extend([object(10, &[(9, 1)]), object(11, &[(1, 2), (9, 1)]), object(3, &[(9, 7)])]);
        let keys: Vec<u8> =
            order_by_use(&objects).into_iter().map(|position| objects[position].0.name()[0]).collect();
        assert_eq!(keys, [2, 10, 3, 11, 3, 20, 21, 22, 23, 24, 25, 26, 1]);
    }

    #[test]
    fn what_uses_no_more_than_one_bundle_may_keeps_its_order() {
        let objects: Vec<_> = (0..40).map(|number| object(number, &[(number % 8, 1)])).collect();
        assert_eq!(order_by_use(&objects), (0..40).collect::<Vec<_>>());
    }
}
