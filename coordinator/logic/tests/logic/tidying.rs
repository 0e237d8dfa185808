//! Which surplus is trashed, when, and for which reason.

use std::time::Duration;

use firn_base::{ByteCount, ShardIndex};
use firn_coordinator_logic::{Deletion, DeletionEnd, NodeNumber, TidyingPlan, plan_tidying};
use firn_wire::{Command, DeleteReason, DeletionRoom, NodeState, NodeStatus, PlacementChange};

use crate::support::{Archive, QUOTA_BYTES, coding_id, node_id, reservation_id, status, trashed};

const FOUR: [u32; 4] = [0, 1, 2, 3];

/// Five nodes, and the first shard of a bundle on node 4 too.
fn with_surplus() -> Archive {
    let mut archive = Archive::of(5);
    archive.publish(1, (2, 4), &FOUR);
    let stray = PlacementChange::Stray { coding: coding_id(1, 2), index: ShardIndex(0), node: node_id(4) };
    archive.run(Command::RecordPlacements(vec![stray]));
    archive
}

/// Node 4 has no room for surplus.
fn make_tight(archive: &mut Archive) {
    archive.hear_status(4, NodeStatus { used: ByteCount(QUOTA_BYTES - 1), ..status(1) });
}

fn tidying(archive: &Archive) -> TidyingPlan {
    archive.planning(|view| plan_tidying(view, 10))
}

fn surplus_on_4() -> Deletion {
    let copy = (NodeNumber(4), coding_id(1, 2), ShardIndex(0));
    Deletion { copy, reason: DeleteReason::Surplus }
}

/// A bundle that was never committed has left its shards on nodes 0 to 3.
fn abandon_upload(archive: &mut Archive) -> u64 {
    let before = archive.node(0).assigned_bytes;
    archive.reserve(2, (2, 4), &FOUR);
    archive.run(Command::ExpireReservations(vec![reservation_id(2)]));
    archive.node(0).assigned_bytes - before
}

#[test]
fn a_copy_beside_a_good_one_is_retired_and_stays_as_surplus_while_there_is_room() {
    let mut archive = Archive::of(5);
    archive.publish(1, (2, 4), &FOUR);
    let coding = coding_id(1, 2);
    let placed = PlacementChange::Placed { coding, index: ShardIndex(0), node: node_id(4) };
    archive.run(Command::RecordPlacements(vec![placed]));
    let retired = PlacementChange::Retired { coding, index: ShardIndex(0), node: node_id(4) };
    assert_eq!(tidying(&archive).changes, [retired]);
    archive.run(Command::RecordPlacements(tidying(&archive).changes));
    assert_eq!(tidying(&archive), TidyingPlan::default());
    make_tight(&mut archive);
    assert_eq!(tidying(&archive).trash, [surplus_on_4()]);
}

#[test]
fn trash_that_will_make_room_within_a_day_makes_no_surplus_go() {
    let mut archive = with_surplus();
    let full =
        NodeStatus { used: ByteCount(QUOTA_BYTES), young_trash: ByteCount(QUOTA_BYTES / 2), ..status(1) };
    archive.hear_status(4, full);
    assert_eq!(tidying(&archive).trash, []);
}

#[test]
fn the_last_good_copy_is_not_trashed_whatever_the_books_call_it() {
    let mut archive = with_surplus();
    make_tight(&mut archive);
    // The holder is away, or begins another run: it may have lost the shard.
    archive.watch.heard(NodeNumber(0), status(2), archive.now);
    assert_eq!(tidying(&archive), TidyingPlan::default());
    archive.wait(11_000);
    archive.hear_all_but(&[0, 4]);
    make_tight(&mut archive);
    assert_eq!(tidying(&archive), TidyingPlan::default());
}

#[test]
fn surplus_counts_again_when_its_shard_counts_nowhere_else_and_caps_allow_it() {
    let mut archive = with_surplus();
    archive.set_state(0, NodeState::Lost);
    archive.wait(1);
    archive.show_inventory(4);
    let again = PlacementChange::Placed { coding: coding_id(1, 2), index: ShardIndex(0), node: node_id(4) };
    assert!(tidying(&archive).changes.contains(&again));
    archive.join(4, "domain-3");
    assert!(!tidying(&archive).changes.contains(&again));
}

#[test]
fn what_an_upload_may_have_left_does_not_count_before_the_node_has_shown_it() {
    let mut archive = Archive::of(4);
    archive.reserve(1, (2, 4), &FOUR);
    archive.commit(1, &FOUR[..3], vec![]);
    archive.wait(1);
    archive.run(Command::ExpireReservations(vec![reservation_id(1)]));
    assert_eq!((archive.surplus(), archive.placements(1).len()), (vec![(3, 3)], 3));
    archive.hear_all_but(&[]);
    assert_eq!(tidying(&archive), TidyingPlan::default());
    archive.wait(1);
    archive.show_inventory(3);
    let shown = PlacementChange::Placed { coding: coding_id(1, 2), index: ShardIndex(3), node: node_id(3) };
    assert_eq!(tidying(&archive).changes, [shown]);
}

#[test]
fn what_an_upload_abandoned_goes_at_once_and_is_called_so() {
    let mut archive = Archive::of(5);
    abandon_upload(&mut archive);
    let trash = tidying(&archive).trash;
    assert_eq!(trash.len(), 4);
    assert!(trash.iter().all(|deletion| deletion.reason == DeleteReason::AbandonedUpload));
    archive.run(Command::RecordPlacements(trashed(&trash)));
    assert_eq!(archive.surplus(), []);
}

#[test]
fn a_draining_node_is_asked_to_delete_nothing() {
    let mut archive = with_surplus();
    make_tight(&mut archive);
    archive.set_state(4, NodeState::Draining);
    assert_eq!(tidying(&archive).trash, []);
    archive.set_state(4, NodeState::Active);
    assert_eq!(tidying(&archive).trash, [surplus_on_4()]);
}

#[test]
fn no_node_is_asked_for_more_than_it_would_delete() {
    let mut archive = Archive::of(4);
    let bytes = abandon_upload(&mut archive);
    archive.hear_room(0, 10 * bytes, bytes);
    archive.hear_room(1, 10 * bytes, bytes - 1);
    archive.hear_room(2, bytes - 1, 10 * bytes);
    archive.hear_status(3, NodeStatus { deletion_room: DeletionRoom::default(), ..status(1) });
    let asked: Vec<u32> = tidying(&archive).trash.iter().map(|deletion| deletion.copy.0.0).collect();
    assert_eq!(asked, [0]);
    // What stays is surplus as before.
    assert_eq!(archive.surplus().len(), 4);
}

#[test]
fn a_plan_shares_one_room_among_all_that_it_asks_of_a_node() {
    let mut archive = Archive::of(4);
    let bytes = abandon_upload(&mut archive);
    archive.reserve(3, (2, 4), &FOUR);
    archive.run(Command::ExpireReservations(vec![reservation_id(3)]));
    for node in FOUR {
        archive.hear_room(node, 2 * bytes - 1, 2 * bytes - 1);
    }
    assert_eq!((archive.surplus().len(), tidying(&archive).trash.len()), (8, 4));
}

#[test]
fn a_node_is_asked_again_only_when_what_it_says_knows_of_its_last_deletion() {
    let mut archive = Archive::of(4);
    let bytes = abandon_upload(&mut archive);
    archive.reserve(3, (2, 4), &FOUR);
    archive.run(Command::ExpireReservations(vec![reservation_id(3)]));
    let of_0 = |archive: &Archive| {
        tidying(archive)
            .trash
            .into_iter()
            .filter(|deletion| deletion.copy.0 == NodeNumber(0))
            .collect::<Vec<_>>()
    };
    archive.hear_room(0, bytes, bytes);
    let first = of_0(&archive);
    assert_eq!(first.len(), 1);
    archive.orders.begin_trash(first[0].copy, archive.now.after(Duration::from_secs(60)));
    assert_eq!(of_0(&archive), [], "one is under way");
    archive.orders.finish_trash(first[0].copy, DeletionEnd::Done, archive.now);
    archive.run(Command::RecordPlacements(trashed(&first)));
    archive.wait(1_000);
    archive.hear_room(0, bytes, bytes);
    assert_eq!(of_0(&archive), [], "that heartbeat may be older than the deletion");
    archive.wait(4_000);
    assert_eq!(of_0(&archive), []);
    archive.hear_room(0, bytes, bytes);
    assert_eq!(of_0(&archive).len(), 1);
}
