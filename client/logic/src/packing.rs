//! The order in which paths are packed into bundles.
//!
//! Owns: which path comes behind which. Always holds: every path comes once; a path comes behind what it
//! references, whatever their ranks, unless they reference each other in a circle; a build log comes right behind the first path that
//! its derivation made; the same input gives the same order; nothing recurses.
//! Leaves to others: where one bundle ends and the next begins (`pack` of the client library).

use std::collections::{BTreeMap, BTreeSet};

use firn_base::ObjectKey;

/// A path that is to be packed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackingPath {
    /// The path.
    pub key: ObjectKey,
    /// What it references; itself and paths that are not packed may be among them.
    pub references: Vec<ObjectKey>,
    /// The build log of its derivation, if that is packed too.
    pub log: Option<ObjectKey>,
    /// Paths of a smaller rank come first, with all that they need.
    pub rank: u32,
}

/// The keys of all paths and logs, closures together and dependencies before dependents.
///
/// Rank by rank, a walk begins at each path that no other one of the rank references, in the order of `paths`: what is
/// fetched together then mostly lies in one bundle, and a bundle that commits rarely has paths that wait for a later one.
pub fn packing_order(paths: &[PackingPath]) -> Vec<ObjectKey> {
    let positions: BTreeMap<ObjectKey, usize> =
        paths.iter().enumerate().map(|(position, path)| (path.key, position)).collect();
    let mut ranks: BTreeMap<u32, Vec<&PackingPath>> = BTreeMap::new();
    for path in paths {
        ranks.entry(path.rank).or_default().push(path);
    }
    let mut walk = Walk { paths, positions, seen: BTreeSet::new(), order: Vec::new() };
    for paths in ranks.values() {
        let referenced: BTreeSet<ObjectKey> = paths
            .iter()
            .flat_map(|path| path.references.iter().filter(|reference| **reference != path.key))
            .copied()
            .collect();
        let roots = paths.iter().filter(|path| !referenced.contains(&path.key));
        // What no root leads to lies in a circle; those begin at their first path.
        for path in roots.chain(paths) {
            walk.visit(path.key);
        }
    }
    walk.order
}

struct Walk<'a> {
    paths: &'a [PackingPath],
    positions: BTreeMap<ObjectKey, usize>,
    seen: BTreeSet<ObjectKey>,
    order: Vec<ObjectKey>,
}

impl Walk<'_> {
    /// Emits `root` behind everything that it leads to and that was not emitted yet.
    fn visit(&mut self, root: ObjectKey) {
        // Each open path with the number of its references that were looked at.
        let mut open: Vec<(usize, usize)> = self.enter(root).into_iter().collect();
        while let Some((position, looked_at)) = open.last_mut() {
            let path = &self.paths[*position];
            let next = path.references.get(*looked_at).copied();
            *looked_at += 1;
            match next {
                Some(reference) => open.extend(self.enter(reference)),
                None => {
                    open.pop();
                    self.emit(path);
                }
            }
        }
    }

    /// The place of a path that is packed and was not entered before.
    fn enter(&mut self, key: ObjectKey) -> Option<(usize, usize)> {
        let position = *self.positions.get(&key)?;
        self.seen.insert(key).then_some((position, 0))
    }

    fn emit(&mut self, path: &PackingPath) {
        self.order.push(path.key);
        if let Some(log) = path.log.filter(|log| self.seen.insert(*log)) {
            self.order.push(log);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(number: usize) -> ObjectKey {
        let mut name = [0; 20];
        name[..8].copy_from_slice(&(number as u64).to_be_bytes());
        ObjectKey::store_path(name)
    }

    fn path(number: usize, references: &[usize]) -> PackingPath {
        let references = references.iter().map(|r| key(*r)).collect();
        PackingPath { key: key(number), references, log: None, rank: 0 }
    }

    fn places(order: &[ObjectKey]) -> BTreeMap<ObjectKey, usize> {
        order.iter().enumerate().map(|(place, key)| (*key, place)).collect()
    }

    #[test]
    fn closures_stay_together_and_dependencies_come_first() {
        // Two programs, each with a library of its own, share 0.
        let paths = [path(1, &[0]), path(2, &[0]), path(10, &[1, 0]), path(20, &[2, 20]), path(0, &[])];
        let order = packing_order(&paths);
        assert_eq!(order, [0, 1, 10, 2, 20].map(key));
    }

    #[test]
    fn a_circle_is_packed_once_and_references_elsewhere_are_ignored() {
        let paths = [path(1, &[2, 99]), path(2, &[3]), path(3, &[1])];
        assert_eq!(packing_order(&paths), [3, 2, 1].map(key));
    }

    #[test]
    fn a_smaller_rank_comes_first_with_all_that_it_needs() {
        let ranked = |rank, path| PackingPath { rank, ..path };
        let paths = [
            ranked(1, path(1, &[0])),
            ranked(0, path(2, &[3])),
            path(3, &[2]),
            ranked(1, path(4, &[3])),
            path(5, &[0]),
        ];
        let paths = [&paths[..], &[ranked(2, path(0, &[]))]].concat();
        assert_eq!(packing_order(&paths), [0, 5, 3, 2, 1, 4].map(key));
    }

    #[test]
    fn a_log_comes_once_behind_the_first_output_of_its_derivation() {
        let log = ObjectKey::build_log([7; 20]);
        let with_log = |number| PackingPath { log: Some(log), ..path(number, &[]) };
        assert_eq!(packing_order(&[with_log(1), with_log(2)]), [key(1), log, key(2)]);
    }

    #[test]
    fn a_chain_of_a_million_paths_needs_no_stack() {
        let paths: Vec<_> = (0..1_000_000).map(|number| path(number, &[number + 1])).collect();
        let order = packing_order(&paths);
        assert_eq!((order.len(), order[0]), (1_000_000, key(999_999)));
    }

    proptest! {
        #[test]
        fn every_path_comes_once_and_behind_what_it_references_where_there_is_no_circle(
            edges in prop::collection::vec((prop::collection::vec(0usize..40, 0..6), 0u32..3), 0..40),
        ) {
            // Edges to smaller numbers only: no circles.
            let paths: Vec<_> = edges
                .iter()
                .enumerate()
                .map(|(n, (to, rank))| {
                    let below = to.iter().copied().filter(|r| *r <= n).collect::<Vec<_>>();
                    PackingPath { rank: *rank, ..path(n, &below) }
                })
                .collect();
            let order = packing_order(&paths);
            let places = places(&order);
            prop_assert_eq!(order.len(), paths.len());
            prop_assert_eq!(places.len(), paths.len());
            for path in &paths {
                for reference in path.references.iter().filter(|r| **r != path.key) {
                    prop_assert!(places[reference] < places[&path.key]);
                }
            }
        }

        #[test]
        fn every_path_comes_once_whatever_the_circles(
            edges in prop::collection::vec((prop::collection::vec(0usize..50, 0..6), 0u32..3), 0..40),
        ) {
            let paths: Vec<_> =
                edges.iter().enumerate().map(|(n, (to, rank))| PackingPath { rank: *rank, ..path(n, to) }).collect();
            let order = packing_order(&paths);
            prop_assert_eq!(order.len(), paths.len());
            prop_assert_eq!(places(&order).len(), paths.len());
            prop_assert_eq!(packing_order(&paths), order);
        }
    }
}
