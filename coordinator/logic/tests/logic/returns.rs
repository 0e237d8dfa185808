//! Nodes that come back: inventories, proofs, copies that were replaced meanwhile.

use std::time::Duration;

use firn_base::{ArchiveId, CodingId, ReservationId, ShardIndex, Timestamp};
use firn_coordinator_logic::{
    CHALLENGED_SHARDS, Catalogue, DeletionEnd, ExpectedReceipts, Inventory, InventoryFindings, NodeNumber,
    ReceiptError, TidyingPlan, choose_challenges, compare_inventory, plan_tidying,
};
use firn_wire::{Command, Identity, NodeState, OrderRank, PlacementChange, Receipt, Signed};

use crate::support::{Archive, coding_id, node_id, reservation_id, root, status};

const FOUR: [u32; 4] = [0, 1, 2, 3];

fn compare(
    archive: &Archive,
    node: u32,
    shards: &[(CodingId, u8)],
    wanted_since: Timestamp,
) -> InventoryFindings {
    let mut shards: Vec<_> = shards.iter().map(|(coding, index)| (*coding, ShardIndex(*index))).collect();
    shards.sort_unstable();
    let inventory = Inventory { shards, wanted_since };
    archive.planning(|view| compare_inventory(view, NodeNumber(node), &inventory, |_| None))
}

#[test]
fn what_a_node_lacks_is_missing_unless_it_was_placed_meanwhile() {
    let mut archive = Archive::of(4);
    archive.publish(1, (2, 4), &FOUR);
    let coding = coding_id(1, 2);
    let asked_before = archive.now;
    let findings = compare(&archive, 0, &[], asked_before);
    assert!(findings.missing.is_empty() && findings.unsettled);
    archive.wait(1);
    let findings = compare(&archive, 0, &[], archive.now);
    let missing = PlacementChange::Missing { coding, index: ShardIndex(0), node: node_id(0) };
    assert_eq!(findings.missing, [missing]);
    assert_eq!(compare(&archive, 0, &[(coding, 0)], archive.now), InventoryFindings::default());
}

#[test]
fn an_unknown_bundle_is_kept_and_a_shard_that_counts_elsewhere_is_surplus() {
    let mut archive = Archive::of(5);
    archive.publish(1, (2, 4), &FOUR);
    let coding = coding_id(1, 2);
    let findings = compare(&archive, 4, &[(coding, 0), (coding_id(9, 2), 0)], archive.now);
    let stray = PlacementChange::Stray { coding, index: ShardIndex(0), node: node_id(4) };
    assert_eq!((&findings.surplus, findings.unknown), (&vec![stray], 1));
    assert!(findings.adopt.is_empty());
    archive.run(Command::RecordPlacements(findings.surplus));
    assert_eq!(archive.surplus(), [(4, 0)]);
    let later = archive.now.after(Duration::from_secs(1));
    assert_eq!(compare(&archive, 4, &[(coding, 0)], later), InventoryFindings::default());
}

#[test]
fn a_stray_whose_other_holder_is_not_proved_yet_is_surplus_and_counts_again_if_that_one_has_it_not() {
    let mut archive = Archive::of(5);
    archive.publish(1, (2, 4), &FOUR);
    let coding = coding_id(1, 2);
    // The other holder has just begun another run.
    archive.watch.heard(NodeNumber(0), status(2), archive.now);
    let findings = compare(&archive, 4, &[(coding, 0)], archive.now);
    assert!(findings.unsettled, "it is asked again");
    archive.run(Command::RecordPlacements(findings.surplus));
    assert_eq!(archive.surplus(), [(4, 0)]);
    archive.wait(1);
    assert_eq!(compare(&archive, 4, &[(coding, 0)], archive.now), InventoryFindings::default());
    archive.show_inventory(4);
    assert_eq!(archive.planning(|view| plan_tidying(view, 10)), TidyingPlan::default());
    let missing = PlacementChange::Missing { coding, index: ShardIndex(0), node: node_id(0) };
    archive.run(Command::RecordPlacements(vec![missing]));
    let again = PlacementChange::Placed { coding, index: ShardIndex(0), node: node_id(4) };
    let tidying = archive.planning(|view| plan_tidying(view, 10));
    assert_eq!(tidying.changes, [again]);
    archive.run(Command::RecordPlacements(tidying.changes));
    assert_eq!((archive.surplus(), archive.placements(1).contains(&(0, 4))), (vec![], true));
}

#[test]
fn surplus_that_is_not_there_leaves_the_books_unless_it_came_meanwhile() {
    let mut archive = Archive::of(5);
    archive.publish(1, (2, 4), &FOUR);
    let coding = coding_id(1, 2);
    let stray = PlacementChange::Stray { coding, index: ShardIndex(0), node: node_id(4) };
    archive.run(Command::RecordPlacements(vec![stray]));
    // So does what an abandoned upload was to bring and did not.
    archive.reserve(2, (2, 4), &[4, 1, 2, 3]);
    archive.run(Command::ExpireReservations(vec![reservation_id(2)]));
    assert_eq!(compare(&archive, 4, &[], archive.now).surplus, []);
    archive.wait(1);
    let findings = compare(&archive, 4, &[], archive.now);
    archive.run(Command::RecordPlacements(findings.surplus));
    assert_eq!((archive.surplus().len(), archive.node(4).assigned_bytes), (3, 0));
}

#[test]
fn what_was_deleted_while_an_inventory_was_taken_does_not_come_back_by_it() {
    let mut archive = Archive::of(5);
    archive.publish(1, (2, 4), &FOUR);
    let coding = coding_id(1, 2);
    let (wanted_since, copy) = (archive.now, (NodeNumber(4), coding, ShardIndex(0)));
    archive.wait(1);
    archive.orders.begin_trash(copy, archive.now.after(Duration::from_secs(60)));
    archive.orders.finish_trash(copy, DeletionEnd::Done, archive.now);
    let findings = compare(&archive, 4, &[(coding, 0)], wanted_since);
    assert!(findings.unsettled && findings.surplus.is_empty());
}

#[test]
fn a_node_that_claims_more_than_its_quota_holds_is_not_believed() {
    let mut archive = Archive::of(4);
    let file_bytes = {
        archive.publish(1, (2, 4), &FOUR);
        archive.node(0).assigned_bytes
    };
    archive.join_with(4, "domain-4", 2 * file_bytes);
    archive.hear(4);
    let claimed: Vec<_> = (0..4).chain([200]).map(|index| (coding_id(1, 2), index)).collect();
    let findings = compare(&archive, 4, &claimed, archive.now);
    assert_eq!((findings.surplus.len(), findings.unknown), (2, 3));
}

#[test]
fn a_shard_that_is_missing_everywhere_is_adopted() {
    let mut archive = Archive::of(5);
    archive.publish(1, (2, 4), &FOUR);
    let coding = coding_id(1, 2);
    archive.set_state(0, NodeState::Lost);
    let findings = compare(&archive, 4, &[(coding, 0)], archive.now);
    assert_eq!(findings.adopt, [(coding, ShardIndex(0))]);
}

#[test]
fn shards_of_an_upload_under_way_are_left_alone() {
    let mut archive = Archive::of(5);
    archive.reserve(1, (2, 4), &FOUR);
    let coding = coding_id(1, 2);
    assert_eq!(compare(&archive, 0, &[(coding, 0)], archive.now), InventoryFindings::default());
    archive.commit(1, &FOUR[..3], vec![]);
    assert_eq!(compare(&archive, 3, &[(coding, 3)], archive.now), InventoryFindings::default());
}

#[test]
fn a_returning_nodes_copy_that_was_replaced_becomes_surplus() {
    let mut archive = Archive::of(5);
    archive.publish(1, (2, 4), &FOUR);
    archive.wait(73 * 3_600_000);
    archive.hear_all_but(&[0]);
    for node in 1..5 {
        let number = archive.number(node);
        archive.watch.inventory_page(number, Vec::new(), false);
        archive.watch.prove(number);
    }
    let coding = coding_id(1, 2);
    let placed = PlacementChange::Placed { coding, index: ShardIndex(0), node: node_id(4) };
    archive.run(Command::RecordPlacements(vec![placed]));
    let tidying = archive.planning(|view| plan_tidying(view, 10));
    let retired = PlacementChange::Retired { coding, index: ShardIndex(0), node: node_id(0) };
    assert_eq!(tidying.changes, [retired]);
}

#[test]
fn a_catalogue_that_absorbs_changes_equals_one_loaded_afresh() {
    let mut archive = Archive::of(5);
    let Ok(mut catalogue) = Catalogue::load(&archive.state);
    let first = archive.log.len();
    archive.publish(1, (2, 4), &FOUR);
    archive.reserve(2, (2, 4), &FOUR);
    archive.run(Command::ExpireReservations(vec![reservation_id(2)]));
    let mut replay = Archive::of(5).state;
    for command in &archive.log[first..] {
        let Ok(applied) = firn_coordinator_logic::apply(&replay, command);
        catalogue.absorb(&applied.changes, archive.now);
        replay.absorb(applied.changes);
    }
    let Ok(fresh) = Catalogue::load(&archive.state);
    assert_eq!(format!("{catalogue:?}"), format!("{fresh:?}"));
}

#[test]
fn challenges_are_distinct_whole_groups_and_follow_from_the_seed() {
    let mut archive = Archive::of(4);
    for tag in 1..40 {
        archive.publish(tag, (2, 4), &FOUR);
    }
    archive.planning(|view| {
        let placed = view.catalogue.placed_on(NodeNumber(2));
        assert_eq!(placed.len(), 39);
        let chosen = choose_challenges(view, &placed, [7; 32]);
        assert_eq!(chosen.len(), CHALLENGED_SHARDS);
        assert!(chosen.is_sorted_by(|one, next| (one.coding, one.index) < (next.coding, next.index)));
        assert!(chosen.iter().all(|one| one.offset % (16 << 10) == 0 && one.offset < 64 << 10));
        assert_eq!(chosen, choose_challenges(view, &placed, [7; 32]));
        assert_ne!(chosen, choose_challenges(view, &placed, [8; 32]));
        assert_eq!(choose_challenges(view, &placed[..3], [7; 32]).len(), 3);
        assert_eq!(choose_challenges(view, &[], [7; 32]), []);
    });
}

#[test]
fn only_the_receipt_of_the_assigned_node_for_the_right_root_counts() {
    let (node, other) = (Identity::from_seed(&[1; 32]), Identity::from_seed(&[2; 32]));
    let archive = ArchiveId::from_bytes([9; 32]);
    let coding = coding_id(1, 2);
    let order = ReservationId::from_bytes([3; 32]);
    let expected = ExpectedReceipts {
        archive,
        order,
        coding,
        roots: (0..6).map(root).collect(),
        assigned: [(ShardIndex(1), node.public().into())].into(),
    };
    let good = Receipt {
        node: node.public().into(),
        reservation: order,
        coding,
        index: ShardIndex(1),
        root: root(1),
        rank: OrderRank { generation: 1, epoch: 1 },
    };
    let seal = |by: &Identity, receipt: &Receipt| Signed::seal(by, archive, receipt);
    let counted = (ShardIndex(1), node.public().into());
    assert_eq!(expected.check_all(&[seal(&node, &good)]), Ok(vec![counted]));
    let foreign = expected.check(&seal(&other, &good));
    assert!(matches!(foreign, Err(ReceiptError::ForeignSigner { .. })));
    let elsewhere = Receipt { reservation: ReservationId::from_bytes([4; 32]), ..good.clone() };
    assert_eq!(expected.check(&seal(&node, &elsewhere)), Err(ReceiptError::OtherOrder));
    let unasked = Receipt { index: ShardIndex(2), root: root(2), ..good.clone() };
    assert!(matches!(expected.check(&seal(&node, &unasked)), Err(ReceiptError::NotAssigned { .. })));
    let wrong = Receipt { root: root(5), ..good.clone() };
    assert!(matches!(expected.check(&seal(&node, &wrong)), Err(ReceiptError::OtherRoot { .. })));
    let two = [seal(&node, &good), seal(&node, &good)];
    assert!(matches!(expected.check_all(&two), Err(ReceiptError::TooMany { .. })));
    let of_another_archive = Signed::seal(&node, ArchiveId::from_bytes([8; 32]), &good);
    assert!(matches!(expected.check(&of_another_archive), Err(ReceiptError::Open(_))));
}
