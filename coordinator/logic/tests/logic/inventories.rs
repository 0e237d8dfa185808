//! Inventories that are found by comparing: what is found, and how many bytes that takes.

use firn_base::{CodingId, ShardIndex, Timestamp};
use firn_coordinator_logic::{ComparisonProgress, FleetWatch, NodeNumber};
use firn_wire::{
    CoordinatorReply, CoordinatorRequest, InventoryComparison, InventoryShard, NodeStatus, encode,
};
use proptest::prelude::*;

use crate::support::status;

const NODE: NodeNumber = NodeNumber(0);
const SALT: [u8; 32] = [3; 32];

fn shard(number: u32) -> InventoryShard {
    (CodingId::from_bytes(*blake3::hash(&number.to_le_bytes()).as_bytes()), ShardIndex(1))
}

fn shards(numbers: impl IntoIterator<Item = u32>) -> Vec<InventoryShard> {
    let mut shards: Vec<_> = numbers.into_iter().map(shard).collect();
    shards.sort_unstable();
    shards.dedup();
    shards
}

/// What a comparison came to.
struct Compared {
    found: Vec<InventoryShard>,
    steps: usize,
    bytes: usize,
}

/// A node with `held` and a coordinator whose books say `expected` compare, as their session does.
fn compare(held: &[InventoryShard], expected: &[InventoryShard]) -> Compared {
    let mut watch = FleetWatch::new(Timestamp::from_millis(0));
    let quota = firn_base::ByteCount(1 << 40);
    watch.heard(NODE, NodeStatus { quota, ..status(1) }, Timestamp::from_millis(1));
    let mut step = InventoryComparison::beginning(SALT, held);
    let (mut pending, mut steps, mut bytes) = (Vec::new(), 0, 0);
    loop {
        steps += 1;
        let begun = watch.begin_step(NODE, &step, Timestamp::from_millis(1)).unwrap();
        let progress = watch.end_step(NODE, begun.take(&step, expected.to_vec()));
        let differing = match &progress {
            ComparisonProgress::Differing(differing) => differing.clone(),
            _ => Vec::new(),
        };
        let refined = if step.begins() { 0 } else { step.ranges.len() };
        pending.drain(..refined);
        pending.extend(differing.iter().copied());
        bytes += encode(&CoordinatorRequest::CompareInventory(step)).len();
        bytes += encode(&CoordinatorReply::InventoryCompared { differing }).len();
        match progress {
            ComparisonProgress::Differing(_) => {}
            ComparisonProgress::Complete(inventory) => {
                return Compared { found: inventory.shards, steps, bytes };
            }
            other => panic!("{other:?}"),
        }
        step = InventoryComparison::refining(SALT, &pending, held);
    }
}

#[test]
fn ten_thousand_shards_are_agreed_on_in_traffic_that_follows_the_difference() {
    let expected = shards(0..10_000);
    let whole = encode(&CoordinatorRequest::Inventory { shards: expected.clone(), more: false }).len();
    for (what, held, bytes_most, steps_most) in [
        ("none", shards(0..10_000), 100, 1),
        ("one lost", shards(1..10_000), 1_500, 5),
        ("one more", shards(0..10_001), 1_500, 5),
        ("50 lost and 50 more", shards(50..10_050), 60_000, 6),
        ("all others", shards(20_000..30_000), whole * 3 / 2, 10),
    ] {
        let Compared { found, steps, bytes } = compare(&held, &expected);
        println!("{what} of 10,000 shards: {bytes} bytes both ways in {steps} steps; a list has {whole}");
        assert_eq!(found, held, "{what}");
        assert!(bytes <= bytes_most && steps <= steps_most, "{what}: {bytes} bytes, {steps} steps");
    }
}

#[test]
fn a_node_whose_every_shard_is_unknown_is_heard_out_however_many_there_are() {
    let held = shards(0..100_000);
    let Compared { found, .. } = compare(&held, &[]);
    assert!(found == held);
}

proptest! {
    #[test]
    fn a_comparison_finds_what_the_node_holds_whatever_was_expected(
        held in prop::collection::btree_set(0u32..400, 0..300),
        expected in prop::collection::btree_set(0u32..400, 0..300),
        // Shards of one coding.
        crowd in 0u8..40,
    ) {
        let crowded = (0..crowd).map(|index| (shard(1_000).0, ShardIndex(index)));
        let mut held: Vec<_> = shards(held).into_iter().chain(crowded).collect();
        held.sort_unstable();
        prop_assert_eq!(compare(&held, &shards(expected)).found, held);
    }
}
