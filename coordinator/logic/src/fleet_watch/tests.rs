use firn_base::{ByteCount, CodingId, ShardIndex};
use firn_wire::{INVENTORY_SHARDS_MAX, InventoryComparison, InventoryRange};

use super::inventory_stage::BEGINNINGS_MOST;
use super::*;
use crate::inventory_comparison::{StepOutcome, TakenStep};

const NODE: NodeNumber = NodeNumber(3);

fn at(seconds: u64) -> Timestamp {
    Timestamp::from_millis(seconds * 1000)
}

fn status(run: u64) -> NodeStatus {
    NodeStatus {
        address: "[::1]:4433".into(),
        quota: ByteCount(1 << 30),
        used: ByteCount(0),
        young_trash: ByteCount(0),
        deletion_room: firn_wire::DeletionRoom::default(),
        refused_deletions: 0,
        shards: 0,
        max_upload: None,
        rest: None,
        leaving: false,
        run,
        erased_through: 0,
    }
}

fn compare(
    watch: &mut FleetWatch,
    step: &InventoryComparison,
    expected: Vec<(CodingId, ShardIndex)>,
) -> ComparisonProgress {
    match watch.begin_step(NODE, step, at(1)) {
        Some(begun) => watch.end_step(NODE, begun.take(step, expected)),
        None => ComparisonProgress::Unwanted,
    }
}

fn proved_watch() -> FleetWatch {
    let mut watch = FleetWatch::new(at(0));
    assert_eq!(watch.heard(NODE, status(1), at(1)), Heard { came_online: true, inventory_wanted: true });
    assert!(matches!(watch.inventory_page(NODE, vec![], false), InventoryProgress::Complete(_)));
    watch.prove(NODE);
    watch
}

#[test]
fn a_node_that_is_silent_for_ten_seconds_is_offline_and_named_once() {
    let mut watch = proved_watch();
    assert!(watch.is_online(NODE, at(11)));
    assert_eq!(watch.newly_offline(at(11)), []);
    assert!(!watch.is_online(NODE, at(12)));
    assert_eq!(watch.newly_offline(at(12)), [NODE]);
    assert_eq!(watch.newly_offline(at(13)), []);
}

#[test]
fn a_short_silence_of_the_same_run_keeps_the_proof_and_a_new_run_loses_it() {
    let mut watch = proved_watch();
    let heard = watch.heard(NODE, status(1), at(60));
    assert_eq!(heard, Heard { came_online: true, inventory_wanted: false });
    assert!(watch.is_proved(NODE));
    assert!(watch.heard(NODE, status(2), at(61)).inventory_wanted);
    assert!(!watch.is_proved(NODE));
    let mut watch = proved_watch();
    assert!(watch.heard(NODE, status(1), at(700)).inventory_wanted);
}

#[test]
fn an_inventory_is_found_by_comparing_and_one_that_was_broken_off_is_wanted_again() {
    let shard = |byte| (CodingId::from_bytes([byte; 32]), ShardIndex(0));
    let (held, expected) = (vec![shard(1), shard(2)], vec![shard(2), shard(3)]);
    let begin = |watch: &mut FleetWatch, salt| {
        let step = InventoryComparison::beginning([salt; 32], &held);
        compare(watch, &step, expected.clone())
    };
    let all = vec![InventoryRange::ALL];
    let mut watch = FleetWatch::new(at(0));
    assert_eq!(begin(&mut watch, 1), ComparisonProgress::Unwanted);
    watch.heard(NODE, status(1), at(1));
    assert_eq!(begin(&mut watch, 1), ComparisonProgress::Differing(all.clone()));
    // The connection broke; another salt is another comparison.
    assert!(watch.heard(NODE, status(1), at(2)).inventory_wanted);
    assert_eq!(begin(&mut watch, 2), ComparisonProgress::Differing(all));
    let listed = vec![(InventoryRange::ALL, InventoryRange::ALL.refined(&[2; 32], &held))];
    let stale = InventoryComparison { salt: [1; 32], ranges: listed.clone() };
    assert_eq!(compare(&mut watch, &stale, vec![]), ComparisonProgress::Unwanted);
    assert!(watch.heard(NODE, status(1), at(3)).inventory_wanted);
    let last = InventoryComparison { salt: [2; 32], ranges: listed };
    let whole = Inventory { shards: held.clone(), wanted_since: at(1) };
    assert_eq!(compare(&mut watch, &last, vec![]), ComparisonProgress::Complete(whole));
    assert!(!watch.heard(NODE, status(1), at(4)).inventory_wanted);
    assert_eq!(begin(&mut watch, 3), ComparisonProgress::Unwanted);
    watch.prove(NODE);
    assert_eq!(begin(&mut watch, 3), ComparisonProgress::Unwanted);
    assert!(watch.is_proved(NODE));
    // Pages go on where both are not of one version.
    watch.want_inventory(NODE, at(5));
    assert!(matches!(watch.inventory_page(NODE, vec![], false), InventoryProgress::Complete(_)));
}

#[test]
fn a_node_with_a_lowered_quota_may_hold_what_the_books_say() {
    let coding = |number: u32| CodingId::from_bytes(*blake3::hash(&number.to_le_bytes()).as_bytes());
    let count = u32::try_from(INVENTORY_SHARDS_MAX).unwrap() + 1_000;
    let mut held: Vec<_> = (0..count).map(|number| (coding(number), ShardIndex(0))).collect();
    held.sort_unstable();
    let mut watch = FleetWatch::new(at(0));
    watch.heard(NODE, NodeStatus { quota: ByteCount(0), ..status(1) }, at(1));
    let begin = InventoryComparison::beginning([1; 32], &held);
    let progress = compare(&mut watch, &begin, held.clone());
    assert_eq!(progress, ComparisonProgress::Complete(Inventory { shards: held, wanted_since: at(1) }));
}

#[test]
fn one_step_of_a_node_is_taken_at_a_time_and_lost_if_the_inventory_begins_again() {
    let shard = |byte| (CodingId::from_bytes([byte; 32]), ShardIndex(0));
    let held = vec![shard(1), shard(2)];
    let mut watch = FleetWatch::new(at(0));
    watch.heard(NODE, status(1), at(1));
    let begin = InventoryComparison::beginning([1; 32], &held);
    let other = InventoryComparison::beginning([2; 32], &held);
    let begun = watch.begin_step(NODE, &begin, at(1)).unwrap();
    assert!(watch.begin_step(NODE, &begin, at(1)).is_none());
    assert!(watch.begin_step(NODE, &other, at(1)).is_none());
    assert_eq!(watch.inventory_page(NODE, vec![], false), InventoryProgress::Unwanted);
    assert!(watch.heard(NODE, status(1), at(2)).inventory_wanted);
    let taken = begun.take(&begin, vec![]);
    let all = ComparisonProgress::Differing(vec![InventoryRange::ALL]);
    assert_eq!(watch.end_step(NODE, taken), all);
    // It was to begin again meanwhile: with nothing, with another comparison, and with another run.
    for meanwhile in 0..3 {
        let late = watch.begin_step(NODE, &begin, at(1)).unwrap().take(&begin, held.clone());
        watch.want_inventory(NODE, at(3));
        let next = (meanwhile == 1).then(|| watch.begin_step(NODE, &other, at(1)).unwrap());
        if meanwhile == 2 {
            watch.heard(NODE, status(9), at(4));
        }
        assert_eq!(watch.end_step(NODE, late), ComparisonProgress::Unwanted);
        if let Some(next) = next {
            assert_eq!(watch.end_step(NODE, next.take(&other, vec![])), all);
        }
        assert!(!watch.is_proved(NODE) && watch.begin_step(NODE, &other, at(1)).is_some());
        watch.want_inventory(NODE, at(5));
    }
}

#[test]
fn a_node_that_begins_again_and_again_has_nothing_looked_up_for_it() {
    let shard = |byte| (CodingId::from_bytes([byte; 32]), ShardIndex(0));
    let held = vec![shard(1), shard(2)];
    let mut watch = FleetWatch::new(at(0));
    watch.heard(NODE, status(1), at(100));
    let begin = InventoryComparison::beginning([1; 32], &held);
    let differing = |taken: &TakenStep| matches!(taken.outcome, StepOutcome::Differing(..));
    let mut last = None;
    // Also as another run each time, and by breaking off what it has begun.
    for run in 0..u64::from(BEGINNINGS_MOST) {
        watch.heard(NODE, status(run), at(100 + run));
        let begun = watch.begin_step(NODE, &begin, at(100 + run)).unwrap();
        let taken = begun.take(&begin, vec![]);
        assert!(differing(&taken));
        last = Some(watch.end_step(NODE, taken));
    }
    assert_eq!(last, Some(ComparisonProgress::Differing(vec![InventoryRange::ALL])));
    assert!(watch.begin_step(NODE, &begin, at(159)).is_none());
    let other = InventoryComparison::beginning([2; 32], &held);
    assert!(watch.begin_step(NODE, &other, at(159)).is_none());
    // What is under way goes on, and what is wanted is taken a while later.
    let ranges = vec![(InventoryRange::ALL, InventoryRange::ALL.refined(&[1; 32], &held))];
    let next = InventoryComparison { salt: [1; 32], ranges };
    assert!(watch.begin_step(NODE, &next, at(159)).is_some());
    watch.want_inventory(NODE, at(159));
    assert!(watch.begin_step(NODE, &begin, at(159)).is_none());
    assert!(watch.heard(NODE, status(99), at(160)).inventory_wanted);
    assert!(watch.begin_step(NODE, &begin, at(160)).is_some());
}

#[test]
fn pages_of_one_conversation_do_not_end_the_comparison_of_another() {
    let shard = |byte| (CodingId::from_bytes([byte; 32]), ShardIndex(0));
    let held = vec![shard(1), shard(2)];
    let mut watch = FleetWatch::new(at(0));
    watch.heard(NODE, status(1), at(1));
    assert_eq!(watch.inventory_page(NODE, vec![shard(1)], true), InventoryProgress::More);
    let begin = InventoryComparison::beginning([1; 32], &held);
    let all = ComparisonProgress::Differing(vec![InventoryRange::ALL]);
    assert_eq!(compare(&mut watch, &begin, vec![]), all);
    // The last page: the one before it is forgotten, and this one alone is not all.
    assert_eq!(watch.inventory_page(NODE, vec![shard(2)], false), InventoryProgress::Unwanted);
    let ranges = vec![(InventoryRange::ALL, InventoryRange::ALL.refined(&[1; 32], &held))];
    let last = InventoryComparison { salt: [1; 32], ranges };
    let whole = Inventory { shards: held, wanted_since: at(1) };
    assert_eq!(compare(&mut watch, &last, vec![]), ComparisonProgress::Complete(whole));
}

#[test]
fn a_page_after_pages_that_were_dropped_does_not_pass_for_the_first_one() {
    let shard = |byte| (CodingId::from_bytes([byte; 32]), ShardIndex(0));
    let mut watch = FleetWatch::new(at(0));
    watch.heard(NODE, status(1), at(1));
    assert_eq!(watch.inventory_page(NODE, vec![shard(1)], true), InventoryProgress::More);
    watch.want_inventory(NODE, at(2));
    watch.want_inventory(NODE, at(3));
    assert_eq!(watch.inventory_page(NODE, vec![shard(2)], false), InventoryProgress::Malformed);
    assert!(watch.heard(NODE, status(1), at(4)).inventory_wanted);
    // It begins again.
    assert_eq!(watch.inventory_page(NODE, vec![shard(1)], true), InventoryProgress::More);
    let whole = Inventory { shards: vec![shard(1), shard(2)], wanted_since: at(3) };
    assert_eq!(watch.inventory_page(NODE, vec![shard(2)], false), InventoryProgress::Complete(whole));
    // Nor after a comparison that had followed pages.
    watch.want_inventory(NODE, at(5));
    watch.inventory_page(NODE, vec![shard(1)], true);
    let begin = InventoryComparison::beginning([1; 32], &[shard(1), shard(2)]);
    compare(&mut watch, &begin, vec![]);
    watch.want_inventory(NODE, at(6));
    assert_eq!(watch.inventory_page(NODE, vec![shard(2)], false), InventoryProgress::Malformed);
}

#[test]
fn an_inventory_out_of_order_has_to_begin_again() {
    let shard = |byte| (CodingId::from_bytes([byte; 32]), ShardIndex(0));
    let mut watch = FleetWatch::new(at(0));
    watch.heard(NODE, status(1), at(1));
    assert_eq!(watch.inventory_since(NODE), None);
    assert_eq!(watch.inventory_page(NODE, vec![shard(2)], true), InventoryProgress::More);
    assert_eq!(watch.inventory_page(NODE, vec![shard(2)], false), InventoryProgress::Malformed);
    let whole = Inventory { shards: vec![shard(1), shard(2)], wanted_since: at(1) };
    assert_eq!(watch.inventory_page(NODE, vec![shard(1)], true), InventoryProgress::More);
    assert_eq!(watch.inventory_page(NODE, vec![shard(2)], false), InventoryProgress::Complete(whole));
    assert_eq!(watch.inventory_page(NODE, vec![], false), InventoryProgress::Unwanted);
    watch.prove(NODE);
    assert_eq!(watch.inventory_since(NODE), Some(at(1)));
    watch.want_inventory(NODE, at(5));
    assert_eq!(watch.inventory_since(NODE), None);
    assert_eq!(watch.inventory_page(NodeNumber(9), vec![], false), InventoryProgress::Unwanted);
}
