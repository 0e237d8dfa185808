//! A node's inventory, found by comparing: what is alike is known without being sent.
//!
//! Owns: which ranges are still to be told of. Always holds: when nothing is, every range was found alike, empty or listed, and
//! what was found together is all that the node holds; a node that leaves something out, says it twice or goes on for ever
//! is refused; ranges that are pending do not overlap, so that a step costs at most one hash of each shard.
//! Leaves to others: what may be said of a range (`wire`), what a difference means (`inventory`).

use std::collections::BTreeSet;

use firn_wire::{
    INVENTORY_SHARDS_MAX, InventoryComparison, InventoryDigest, InventoryRange, InventoryShard, RangeContent,
};

/// A comparison under way.
#[derive(Debug, Clone)]
pub(crate) struct ComparedInventory {
    salt: [u8; 32],
    // What the node is counted for, in order, as it was when the comparison began.
    expected: Vec<InventoryShard>,
    // Ranges that differ and of which the node has to say more.
    pending: BTreeSet<InventoryRange>,
    held: Vec<InventoryShard>,
    // As many as fit on the node; more ranges than shards do not differ either.
    shards_most: u64,
}

/// A step that is being taken, away from the watch: it hashes up to all that the books say is on the node, which takes a
/// second for a few million shards.
#[derive(Debug)]
pub struct ComparisonStep {
    salt: [u8; 32],
    stands: Standing,
}

#[derive(Debug)]
enum Standing {
    Begins { shards_most: u64 },
    GoesOn(ComparedInventory),
}

/// A step that was taken, to be told to the watch.
#[derive(Debug)]
pub struct TakenStep {
    pub(crate) salt: [u8; 32],
    pub(crate) outcome: StepOutcome,
}

/// What a step came to.
#[derive(Debug)]
pub(crate) enum StepOutcome {
    Differing(ComparedInventory, Vec<InventoryRange>),
    Finished(Vec<InventoryShard>),
    Malformed,
}

/// A step does not go on from the one before, or claims more than can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MalformedComparison;

impl ComparedInventory {
    /// Begins: everything is to be told of.
    pub(crate) fn new(salt: [u8; 32], expected: Vec<InventoryShard>, shards_most: u64) -> Self {
        Self { salt, expected, pending: [InventoryRange::ALL].into(), held: Vec::new(), shards_most }
    }

    /// Whether steps of it have this salt.
    pub(crate) fn is_under(&self, salt: [u8; 32]) -> bool {
        self.salt == salt
    }

    /// Takes a step of the node. Gives what still differs of what it told of.
    pub(crate) fn take(
        &mut self,
        step: &InventoryComparison,
    ) -> Result<Vec<InventoryRange>, MalformedComparison> {
        if step.salt != self.salt {
            return Err(MalformedComparison);
        }
        // All at once, before any that differs is pending again: nothing is looked at twice in one step.
        if !step.ranges.iter().all(|(range, _)| self.pending.remove(range)) {
            return Err(MalformedComparison);
        }
        let mut differing = Vec::new();
        for (range, content) in &step.ranges {
            match content {
                RangeContent::Whole(digest) if step.begins() => {
                    self.compare(*range, *digest, &mut differing);
                }
                // It says no more of the range than was known: that could go on for ever.
                RangeContent::Whole(_) => return Err(MalformedComparison),
                RangeContent::Parts(digests) => {
                    let parts = range.parts().filter(|parts| parts.len() == digests.len());
                    for (part, digest) in parts.ok_or(MalformedComparison)?.into_iter().zip(digests) {
                        self.compare(part, *digest, &mut differing);
                    }
                }
                RangeContent::Listed(shards) => {
                    let is_in_order = shards.is_sorted_by(|one, next| one < next);
                    if !is_in_order || !shards.iter().all(|shard| range.contains(shard)) {
                        return Err(MalformedComparison);
                    }
                    self.held.extend(shards);
                }
            }
            if self.held.len() as u64 > self.shards_most || self.pending.len() as u64 > self.shards_most {
                return Err(MalformedComparison);
            }
        }
        Ok(differing)
    }

    /// All that the node holds, in order, once nothing is to be told of any more.
    pub(crate) fn finished(&mut self) -> Option<Vec<InventoryShard>> {
        self.pending.is_empty().then(|| {
            let mut held = std::mem::take(&mut self.held);
            // Of ranges that do not overlap, each in order.
            held.sort_unstable();
            held
        })
    }

    fn compare(
        &mut self,
        range: InventoryRange,
        digest: InventoryDigest,
        differing: &mut Vec<InventoryRange>,
    ) {
        let expected = range.of(&self.expected);
        if digest == InventoryDigest::of(&self.salt, expected) {
            self.held.extend(expected);
        } else if digest.shards > 0 {
            self.pending.insert(range);
            differing.push(range);
        }
    }
}

impl ComparisonStep {
    /// The first step, of a node that has room for so many shards.
    pub(crate) const fn first(salt: [u8; 32], shards_most: u64) -> Self {
        Self { salt, stands: Standing::Begins { shards_most } }
    }

    /// A later one.
    pub(crate) const fn next(salt: [u8; 32], comparison: ComparedInventory) -> Self {
        Self { salt, stands: Standing::GoesOn(comparison) }
    }

    /// Takes the step. `expected` is what the books say is on the node, in order; only a first step needs it.
    pub fn take(self, step: &InventoryComparison, expected: Vec<InventoryShard>) -> TakenStep {
        let mut comparison = match self.stands {
            Standing::GoesOn(comparison) => comparison,
            Standing::Begins { shards_most } => {
                // Whose owner has lowered the quota holds more than fits until it is moved away: what the books say is
                // never too much.
                let shards_most = shards_most.max((expected.len() + INVENTORY_SHARDS_MAX) as u64);
                ComparedInventory::new(self.salt, expected, shards_most)
            }
        };
        let outcome = match comparison.take(step) {
            Err(MalformedComparison) => StepOutcome::Malformed,
            Ok(differing) => match comparison.finished() {
                Some(held) => StepOutcome::Finished(held),
                None => StepOutcome::Differing(comparison, differing),
            },
        };
        TakenStep { salt: self.salt, outcome }
    }
}

#[cfg(test)]
mod tests {
    use firn_base::{CodingId, ShardIndex};

    use super::*;

    const SALT: [u8; 32] = [5; 32];

    fn shards(numbers: std::ops::Range<u32>) -> Vec<InventoryShard> {
        let coding = |number: u32| CodingId::from_bytes(*blake3::hash(&number.to_le_bytes()).as_bytes());
        let mut shards: Vec<_> = numbers.map(|number| (coding(number), ShardIndex(1))).collect();
        shards.sort_unstable();
        shards
    }

    fn step(ranges: Vec<(InventoryRange, RangeContent)>) -> InventoryComparison {
        InventoryComparison { salt: SALT, ranges }
    }

    fn begun(expected: Vec<InventoryShard>, held: &[InventoryShard]) -> ComparedInventory {
        let mut comparison = ComparedInventory::new(SALT, expected, 1_000);
        let differing = comparison.take(&InventoryComparison::beginning(SALT, held)).unwrap();
        assert_eq!(differing, [InventoryRange::ALL]);
        comparison
    }

    #[test]
    fn a_node_that_holds_nothing_is_known_to_at_once() {
        let mut comparison = ComparedInventory::new(SALT, shards(0..50), 1_000);
        let differing = comparison.take(&InventoryComparison::beginning(SALT, &[])).unwrap();
        assert_eq!((differing, comparison.finished()), (vec![], Some(vec![])));
    }

    #[test]
    fn what_is_left_out_or_told_twice_or_elsewhere_is_refused() {
        let held = shards(0..40);
        let refined = InventoryRange::ALL.refined(&SALT, &held);
        let mut comparison = begun(shards(20..60), &held);
        assert_eq!(comparison.finished(), None);
        let differing = comparison.take(&step(vec![(InventoryRange::ALL, refined.clone())])).unwrap();
        assert!(differing.len() > 8 && comparison.finished().is_none());
        // The range was told of already, and this one was never asked for.
        let mut again = comparison.clone();
        assert!(again.take(&step(vec![(InventoryRange::ALL, refined)])).is_err());
        let listed = |range: InventoryRange| (range, RangeContent::Listed(range.of(&held).to_vec()));
        let foreign = differing[0].parts().unwrap()[0];
        assert!(comparison.clone().take(&step(vec![listed(foreign)])).is_err());
        // Shards of another range, out of order, with another salt, or too few parts.
        let elsewhere = (differing[0], RangeContent::Listed(differing[1].of(&held).to_vec()));
        assert!(comparison.clone().take(&step(vec![elsewhere])).is_err());
        let mut reversed = InventoryRange::ALL.of(&held).to_vec();
        reversed.reverse();
        let reversed = step(vec![(InventoryRange::ALL, RangeContent::Listed(reversed))]);
        assert!(begun(vec![], &held).take(&reversed).is_err());
        let salted = InventoryComparison { salt: [6; 32], ranges: vec![listed(differing[0])] };
        assert!(comparison.clone().take(&salted).is_err());
        let few = step(vec![(InventoryRange::ALL, RangeContent::Parts(vec![InventoryDigest::EMPTY; 15]))]);
        assert!(begun(vec![], &held).take(&few).is_err());
        // All of it, and it ends.
        let rest = step(differing.into_iter().map(listed).collect());
        assert_eq!(comparison.take(&rest), Ok(vec![]));
        assert_eq!(comparison.finished(), Some(held));
    }

    #[test]
    fn a_digest_of_the_whole_is_taken_at_the_beginning_only_and_no_range_twice_in_a_step() {
        let whole = RangeContent::Whole(InventoryDigest { shards: 1, sum: [9; 16] });
        let all = (InventoryRange::ALL, whole.clone());
        let differing = [InventoryRange::ALL];
        let mut comparison = begun(shards(0..50), &shards(0..40));
        // As many times as a step has room for: each would hash all that is expected.
        assert!(comparison.clone().take(&step(vec![all.clone(); 1_024])).is_err());
        assert!(comparison.clone().take(&step(vec![all.clone(); 2])).is_err());
        let mut fresh = ComparedInventory::new(SALT, shards(0..50), 1_000);
        assert!(fresh.clone().take(&step(vec![all.clone(); 2])).is_err());
        assert_eq!(fresh.take(&step(vec![all])).unwrap(), differing);
        // Nor of a part that differs.
        let refined = InventoryRange::ALL.refined(&SALT, &shards(20..60));
        let parts = comparison.take(&step(vec![(InventoryRange::ALL, refined)])).unwrap();
        assert!(comparison.clone().take(&step(vec![(parts[0], whole)])).is_err());
        let listed = |range: InventoryRange| (range, RangeContent::Listed(vec![]));
        let twice = step(vec![listed(parts[0]), listed(parts[0])]);
        assert!(comparison.take(&twice).is_err());
    }

    #[test]
    fn a_node_that_claims_differences_without_end_is_refused() {
        let lie = InventoryDigest { shards: 1, sum: [9; 16] };
        let mut comparison = begun(vec![], &shards(0..40));
        let mut differing = vec![InventoryRange::ALL];
        let refused = loop {
            let parts = |range: &InventoryRange| (*range, RangeContent::Parts(vec![lie; 16]));
            match comparison.take(&step(differing.iter().map(parts).collect())) {
                Ok(more) => differing = more,
                Err(refused) => break refused,
            }
        };
        assert_eq!(refused, MalformedComparison);
        let many = step(vec![(InventoryRange::ALL, RangeContent::Listed(shards(0..1_001)))]);
        assert!(begun(vec![], &shards(0..1_001)).take(&many).is_err());
    }
}
