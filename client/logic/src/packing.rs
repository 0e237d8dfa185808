//! The order in which paths are packed into bundles.
//!
//! Owns: which path comes behind which. Always holds: every path comes once; a path comes behind what it references,
//! whatever their ranks, unless they reference each other in a circle; a build log comes right behind the first path
//! that its derivation made; the same input gives the same order; nothing recurses. Memory is eight bytes for each
//! reference.
//! Leaves to others: where one bundle ends and the next begins (`pack` of the client library).

use std::cmp::Reverse;
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
    /// Its package: versions of one come near each other.
    pub package: u32,
}

// A closure of so many paths is a large one: what whole systems need, and few packages. All others come by name, for
// neighbours by name are alike and so compress better together.
const LARGE_CLOSURE_PATHS: usize = 512;

// How much of a closure is looked at to tell how large it is.
const CLOSURE_PATHS_MAX: usize = 4096;

/// The keys of all paths and logs, closures together and dependencies before dependents.
///
/// Rank by rank, a walk begins at each path that no other one of the rank references: what is fetched together then
/// mostly lies in one bundle, and a bundle that commits rarely has paths that wait for a later one. What two closures
/// share lies with the one that comes first, so packages of large closures come first, the largest of them before the
/// others: a system of a thousand paths would else be strewn among the many small packages before it that need some of
/// them. What lies in the archive already is not among `paths`, and counts for no closure. All others come in the order
/// of their packages' numbers, versions of one in the order of `paths`.
pub fn packing_order(paths: &[PackingPath]) -> Vec<ObjectKey> {
    packing_order_from(paths, LARGE_CLOSURE_PATHS)
}

fn packing_order_from(paths: &[PackingPath], large_closure_paths: usize) -> Vec<ObjectKey> {
    let mut ranks: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
    for (position, path) in paths.iter().enumerate() {
        ranks.entry(path.rank).or_default().push(position);
    }
    let references = packed_references(paths);
    let mut measure = ClosureMeasure { references: &references, seen_from: vec![None; paths.len()] };
    let mut walk = Walk {
        paths,
        references: &references,
        entered: vec![false; paths.len()],
        logs: BTreeSet::new(),
        order: Vec::new(),
    };
    for rank in ranks.values() {
        let referenced: BTreeSet<usize> = rank
            .iter()
            .flat_map(|position| references[*position].iter().filter(move |reference| *reference != position))
            .copied()
            .collect();
        let mut roots: Vec<usize> =
            rank.iter().copied().filter(|position| !referenced.contains(position)).collect();
        let mut largest: BTreeMap<u32, usize> = BTreeMap::new();
        for root in &roots {
            let known = largest.entry(paths[*root].package).or_default();
            *known = measure.closure_paths(*root).max(*known);
        }
        largest.values_mut().filter(|paths| **paths < large_closure_paths).for_each(|paths| *paths = 0);
        roots.sort_by_key(|root| (Reverse(largest[&paths[*root].package]), paths[*root].package));
        // What no root leads to lies in a circle; those begin at their first path.
        for position in roots.iter().chain(rank) {
            walk.visit(*position);
        }
    }
    walk.order
}

/// Of each path the positions of those that it references and that are packed, in its order.
fn packed_references(paths: &[PackingPath]) -> Vec<Vec<usize>> {
    let positions: BTreeMap<ObjectKey, usize> =
        paths.iter().enumerate().map(|(position, path)| (path.key, position)).collect();
    let packed =
        |path: &PackingPath| path.references.iter().filter_map(|key| positions.get(key)).copied().collect();
    paths.iter().map(packed).collect()
}

/// Tells how many paths one leads to.
struct ClosureMeasure<'a> {
    references: &'a [Vec<usize>],
    // From which path each was seen last.
    seen_from: Vec<Option<usize>>,
}

impl ClosureMeasure<'_> {
    /// How many paths `root` leads to, itself included; [`CLOSURE_PATHS_MAX`] where there are more.
    fn closure_paths(&mut self, root: usize) -> usize {
        self.seen_from[root] = Some(root);
        let (mut closure, mut looked_at) = (vec![root], 0);
        while let Some(position) = closure.get(looked_at) {
            looked_at += 1;
            for reference in &self.references[*position] {
                if self.seen_from[*reference].replace(root) != Some(root) {
                    closure.push(*reference);
                }
                if closure.len() == CLOSURE_PATHS_MAX {
                    return CLOSURE_PATHS_MAX;
                }
            }
        }
        closure.len()
    }
}

struct Walk<'a> {
    paths: &'a [PackingPath],
    references: &'a [Vec<usize>],
    entered: Vec<bool>,
    logs: BTreeSet<ObjectKey>,
    order: Vec<ObjectKey>,
}

impl Walk<'_> {
    /// Emits `root` behind everything that it leads to and that was not emitted yet.
    fn visit(&mut self, root: usize) {
        // Each open path with the number of its references that were looked at.
        let mut open: Vec<(usize, usize)> = self.enter(root).into_iter().collect();
        while let Some((position, looked_at)) = open.last_mut() {
            let position = *position;
            let next = self.references[position].get(*looked_at).copied();
            *looked_at += 1;
            match next {
                Some(reference) => open.extend(self.enter(reference)),
                None => {
                    open.pop();
                    self.emit(position);
                }
            }
        }
    }

    /// A path that was not entered before, with nothing of it looked at.
    fn enter(&mut self, position: usize) -> Option<(usize, usize)> {
        let entered = std::mem::replace(&mut self.entered[position], true);
        (!entered).then_some((position, 0))
    }

    fn emit(&mut self, position: usize) {
        let path = &self.paths[position];
        self.order.push(path.key);
        if let Some(log) = path.log.filter(|log| self.logs.insert(*log)) {
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
        PackingPath { key: key(number), references, log: None, rank: 0, package: 0 }
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
    fn a_large_closure_lies_together_whatever_comes_before_it_by_name() {
        // The system 90 needs 1 to 4 through 80, and each of two programs before it one of these and a library of its own.
        let program = |number, references: &[usize]| PackingPath {
            package: u32::try_from(number).unwrap(),
            ..path(number, references)
        };
        let paths = [
            program(10, &[1, 11]),
            program(20, &[2, 21]),
            program(80, &[1, 2, 3, 4]),
            program(90, &[80]),
            program(1, &[]),
            program(2, &[]),
            program(3, &[]),
            program(4, &[]),
            program(11, &[]),
            program(21, &[]),
        ];
        assert_eq!(packing_order_from(&paths, 4), [1, 2, 3, 4, 80, 90, 11, 10, 21, 20].map(key));
        assert_eq!(packing_order_from(&paths, 7), [1, 11, 10, 2, 21, 20, 3, 4, 80, 90].map(key));
    }

    #[test]
    fn versions_of_a_package_come_behind_each_other_also_where_their_closures_differ() {
        let version =
            |package, number, references: &[usize]| PackingPath { package, ..path(number, references) };
        let library = |number| version(9, number, &[]);
        let paths = [
            version(0, 10, &[1]),
            version(1, 20, &[1, 2, 3]),
            version(1, 21, &[]),
            version(2, 30, &[1, 2]),
            library(1),
            library(2),
            library(3),
        ];
        assert_eq!(packing_order_from(&paths, 3), [1, 2, 3, 20, 21, 30, 10].map(key));
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
