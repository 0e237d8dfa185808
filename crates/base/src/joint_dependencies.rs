//! The bundles whose chunks a group of bundles uses that come together.
//!
//! Owns: counting them, and which of several groups a bundle comes to by them. Always holds: what comes together needs no
//! dependency on what came before it.
//! Leaves to others: every other limit of a group, and what is worth packing anew (the logic crates).

use std::collections::BTreeSet;

use crate::BundleId;

/// Bundles that come together, and the others whose chunks they use.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct JointDependencies<'a> {
    members: BTreeSet<&'a BundleId>,
    others: BTreeSet<&'a BundleId>,
}

impl<'a> JointDependencies<'a> {
    /// Takes one more, which uses chunks of these.
    pub fn take(&mut self, bundle: &'a BundleId, dependencies: &'a [BundleId]) {
        for id in dependencies {
            if self.is_new(id) {
                self.others.insert(id);
            }
        }
        self.members.insert(bundle);
    }

    /// Which of these groups a bundle comes to that uses chunks of `dependencies`: the one that it adds the fewest
    /// others to, the first of several; none where each would use more than `others_max` then.
    pub fn likest<'b>(
        groups: impl IntoIterator<Item = &'b Self>,
        dependencies: &[BundleId],
        others_max: usize,
    ) -> Option<usize>
    where
        'a: 'b,
    {
        let added = |group: &Self| {
            let added = dependencies.iter().filter(|id| group.is_new(id)).count();
            (group.others.len() + added <= others_max).then_some(added)
        };
        let with_room = (0..).zip(groups).filter_map(|(at, group)| Some((added(group)?, at)));
        with_room.min().map(|(_, at): (usize, usize)| at)
    }

    fn is_new(&self, id: &BundleId) -> bool {
        !self.members.contains(id) && !self.others.contains(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(numbers: impl IntoIterator<Item = u8>) -> Vec<BundleId> {
        numbers.into_iter().map(|number| BundleId::from_bytes([number; 32])).collect()
    }

    #[test]
    fn a_bundle_comes_to_the_first_group_of_those_that_it_adds_the_fewest_others_to() {
        let (own, used, more) = (ids(0..3), ids(10..14), ids([10, 12, 20]));
        let mut groups =
            [JointDependencies::default(), JointDependencies::default(), JointDependencies::default()];
        groups[0].take(&own[0], &used[..1]);
        groups[1].take(&own[1], &used);
        groups[2].take(&own[2], &used);
        assert_eq!(JointDependencies::likest(&groups, &more, 8), Some(1));
        assert_eq!(JointDependencies::likest(&groups, &more, 4), Some(0), "the others would use five");
        assert_eq!(JointDependencies::likest(&groups, &more, 2), None);
        assert_eq!(JointDependencies::likest(&[], &more, 8), None);
    }

    #[test]
    fn what_came_before_into_the_group_is_no_dependency() {
        let (own, above) = (ids([1, 2]), ids([1, 9]));
        let mut group = JointDependencies::default();
        group.take(&own[0], &[]);
        group.take(&own[1], &above);
        let alone = ids([9]);
        let mut expected = JointDependencies::default();
        expected.take(&own[0], &[]);
        expected.take(&own[1], &alone);
        assert_eq!(group, expected);
        assert_eq!(JointDependencies::likest([&group], &ids([1, 2, 9]), 1), Some(0));
    }
}
