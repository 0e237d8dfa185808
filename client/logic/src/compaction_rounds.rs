//! Which small bundles a run of `firn compact` asks for next.
//!
//! Owns: going through the history page by page, and beginning anew. Always holds: a group is tried once; groups that
//! cannot be packed hide none behind them; it ends, for a round follows only one in which something was packed, and
//! that leaves fewer bundles.
//! Leaves to others: which bundles form a group (coordinators), packing them.

use std::collections::BTreeSet;

use firn_base::BundleId;
use firn_wire::{COMPACTION_GROUPS_MAX, CompactionGroup};

/// How far a run has come.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CompactionRounds {
    behind: Option<BundleId>,
    tried: BTreeSet<Vec<BundleId>>,
    has_packed: bool,
}

impl CompactionRounds {
    /// The bundle behind which small ones are asked for; all are if there is none.
    pub const fn behind(&self) -> Option<BundleId> {
        self.behind
    }

    /// Those of a page's groups that were not tried yet: from now on they were.
    pub fn take(&mut self, groups: &[CompactionGroup]) -> Vec<CompactionGroup> {
        groups.iter().filter(|group| self.tried.insert(group.bundles.clone())).cloned().collect()
    }

    /// A group was packed: others may fit together now.
    pub const fn note_packed(&mut self) {
        self.has_packed = true;
    }

    /// A page is done. Says whether there is another to ask for.
    pub fn go_on(&mut self, groups: &[CompactionGroup]) -> bool {
        let last = groups.last().and_then(|group| group.bundles.last());
        self.behind = last.copied().filter(|_| groups.len() >= COMPACTION_GROUPS_MAX);
        self.behind.is_some() || std::mem::take(&mut self.has_packed)
    }
}

#[cfg(test)]
mod tests {
    use firn_base::ByteCount;

    use super::*;

    fn bundle(number: u16) -> BundleId {
        let mut id = [0; 32];
        id[..2].copy_from_slice(&number.to_be_bytes());
        BundleId::from_bytes(id)
    }

    fn group(number: u16) -> CompactionGroup {
        let bundles = [2 * number, 2 * number + 1].map(bundle).to_vec();
        CompactionGroup { bundles, payload: ByteCount(2), records: 2 }
    }

    /// Coordinators who always name these groups, of which those that `packs` says can be packed: the groups that were
    /// tried, in order.
    fn run(all: &mut Vec<u16>, packs: impl Fn(u16) -> bool) -> Vec<u16> {
        let (mut rounds, mut tried) = (CompactionRounds::default(), Vec::new());
        for _ in 0..1_000 {
            let behind = rounds.behind();
            let is_behind = |number: &&u16| behind.is_none_or(|bundle| group(**number).bundles[1] > bundle);
            let page: Vec<CompactionGroup> = all
                .iter()
                .filter(is_behind)
                .take(COMPACTION_GROUPS_MAX)
                .map(|number| group(*number))
                .collect();
            for taken in rounds.take(&page) {
                let number = *all.iter().find(|number| group(**number) == taken).unwrap();
                tried.push(number);
                if packs(number) {
                    all.retain(|other| *other != number);
                    rounds.note_packed();
                }
            }
            if !rounds.go_on(&page) {
                return tried;
            }
        }
        panic!("it does not end");
    }

    #[test]
    fn what_cannot_be_packed_hides_nothing_behind_it_and_is_tried_once() {
        let mut all: Vec<u16> = (0..200).collect();
        let tried = run(&mut all, |number| number >= 150);
        assert_eq!(tried, (0..200).collect::<Vec<_>>());
        assert_eq!(all, (0..150).collect::<Vec<_>>());
        assert_eq!(run(&mut (0..200).collect(), |_| false), (0..200).collect::<Vec<_>>());
    }

    #[test]
    fn what_fits_together_once_something_was_packed_is_asked_for_in_another_round() {
        let mut rounds = CompactionRounds::default();
        assert_eq!(rounds.take(&[group(1), group(2)]), [group(1), group(2)]);
        rounds.note_packed();
        assert!(rounds.go_on(&[group(1), group(2)]));
        assert_eq!((rounds.behind(), rounds.take(&[group(2), group(3)])), (None, vec![group(3)]));
        assert!(!rounds.go_on(&[group(2), group(3)]), "nothing was packed in this round");
        assert!(!CompactionRounds::default().go_on(&[]));
    }
}
