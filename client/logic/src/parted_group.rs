//! How small bundles are parted that are no gain when all of them come together.
//!
//! Owns: the parts. Always holds: what comes together in a part uses no more others than one bundle may, but for what
//! stays behind after all, and fills a quarter of a bundle; each part is less than all of it; what is used by others
//! that do not come along stays.
//! Leaves to others: when they are parted (the client library), which bundles come together first (coordinators).

use std::collections::BTreeSet;

use firn_base::{BundleId, ByteCount, JointDependencies};
use firn_wire::CompactionGroup;

use crate::dependency_choice::{DEPENDENCIES_MAX, QUARTER_BYTES};

/// A small bundle of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupMember {
    /// Which.
    pub bundle: BundleId,
    /// Bytes of its payload.
    pub payload_bytes: u64,
    /// How many it has.
    pub records: u64,
    /// The bundles whose chunks it uses.
    pub dependencies: Vec<BundleId>,
}

/// Parts of a group that may come together by themselves, each in the group's order; none if it is not to be parted.
pub fn parted(members: &[GroupMember]) -> Vec<CompactionGroup> {
    let mut parts: Vec<Part<'_>> = Vec::new();
    for member in members {
        let used = parts.iter().map(|part| &part.used);
        let found = JointDependencies::likest(used, &member.dependencies, DEPENDENCIES_MAX);
        match found.and_then(|at| parts.get_mut(at)) {
            Some(part) => part.take(member),
            None => {
                let mut part = Part::default();
                part.take(member);
                parts.push(part);
            }
        }
    }
    if parts.len() < 2 {
        return Vec::new();
    }
    parts.into_iter().filter_map(|part| told(&part.free(members))).collect()
}

/// Bundles that come together, and the others that they use.
#[derive(Default)]
struct Part<'a> {
    members: Vec<&'a GroupMember>,
    used: JointDependencies<'a>,
}

impl<'a> Part<'a> {
    fn take(&mut self, member: &'a GroupMember) {
        self.used.take(&member.bundle, &member.dependencies);
        self.members.push(member);
    }

    /// Those that none of the other bundles of the group uses.
    fn free(self, group: &'a [GroupMember]) -> Vec<&'a GroupMember> {
        let mut free = self.members;
        loop {
            let ids: BTreeSet<BundleId> = free.iter().map(|member| member.bundle).collect();
            let others = group.iter().filter(|member| !ids.contains(&member.bundle));
            let used: BTreeSet<BundleId> =
                others.flat_map(|member| member.dependencies.iter().copied()).collect();
            let before = free.len();
            free.retain(|member| !used.contains(&member.bundle));
            // One that stays may be what uses another one.
            if free.len() == before {
                return free;
            }
        }
    }
}

/// A part, if it is worth being packed anew: what has less than a quarter of a bundle would be small again.
fn told(part: &[&GroupMember]) -> Option<CompactionGroup> {
    let payload = part.iter().fold(0_u64, |sum, member| sum.saturating_add(member.payload_bytes));
    let records = part.iter().fold(0_u64, |sum, member| sum.saturating_add(member.records));
    (part.len() > 1 && payload >= QUARTER_BYTES).then(|| CompactionGroup {
        bundles: part.iter().map(|member| member.bundle).collect(),
        payload: ByteCount(payload),
        records,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn id(number: u8) -> BundleId {
        BundleId::from_bytes([number; 32])
    }

    fn member(number: u8, used: impl IntoIterator<Item = u8>) -> GroupMember {
        let dependencies = used.into_iter().map(id).collect();
        GroupMember { bundle: id(number), payload_bytes: 10 * MIB, records: 2, dependencies }
    }

    fn parts(members: &[GroupMember]) -> Vec<Vec<BundleId>> {
        parted(members).into_iter().map(|part| part.bundles).collect()
    }

    fn ids(numbers: impl IntoIterator<Item = u8>) -> Vec<BundleId> {
        numbers.into_iter().map(id).collect()
    }

    #[test]
    fn what_uses_the_same_others_comes_together_and_less_than_a_quarter_of_a_bundle_stays() {
        // In turns they use eight others each; of the second kind there are too few.
        let members: Vec<GroupMember> = (0..12)
            .map(|number| if number % 3 == 0 { member(number, 110..118) } else { member(number, 100..108) })
            .collect();
        let all = parted(&members);
        assert_eq!(parts(&members), [ids([1, 2, 4, 5, 7, 8, 10, 11])]);
        assert_eq!((all[0].payload, all[0].records), (ByteCount(80 * MIB), 16));
    }

    #[test]
    fn a_group_whose_others_one_bundle_may_use_is_not_parted() {
        let members: Vec<GroupMember> = (0..12).map(|number| member(number, [100 + number % 8])).collect();
        assert_eq!(parts(&members), Vec::<Vec<BundleId>>::new());
        assert_eq!(parts(&[]), Vec::<Vec<BundleId>>::new());
    }

    #[test]
    fn what_a_bundle_of_another_part_uses_stays_and_so_does_what_that_uses() {
        let mut members: Vec<GroupMember> = (0..9).map(|number| member(number, 100..108)).collect();
        members.extend((20..29).map(|number| member(number, 110..118)));
        assert_eq!(parts(&members), [ids(0..9), ids(20..29)]);
        // In their part this would be a ninth: it begins one of its own.
        members.push(member(30, (110..118).chain([3])));
        members[3].dependencies.push(id(2));
        let left = ids([0, 1, 4, 5, 6, 7, 8]);
        assert_eq!(parts(&members), [left, ids(20..29)]);
    }
}
