//! Reservations and the account of bytes.

use firn_base::ShardIndex;
use firn_bundle::{SHARD_FILE_PAGE_BYTES, ShardFileHeader};
use firn_coordinator_logic::{CodedBundle, Facts};
use firn_wire::{Command, CommandOutcome, NodeState, PlacementChange, RejectReason};

use crate::support::{Archive, QUOTA_BYTES, coding_id, entry, headers, node_id, reservation_id};

const FOUR: [u32; 4] = [0, 1, 2, 3];

fn file_bytes() -> u64 {
    let (content, coding) = headers(1, 2, vec![]);
    ShardFileHeader::new(content, coding, ShardIndex(0)).unwrap().layout().file_bytes
}

fn expire(archive: &mut Archive, tag: u8) -> CommandOutcome {
    archive.run(Command::ExpireReservations(vec![reservation_id(tag)]))
}

fn is_malformed(outcome: &CommandOutcome) -> bool {
    matches!(outcome, CommandOutcome::Rejected(RejectReason::Malformed(_)))
}

#[test]
fn a_reservation_counts_whole_shard_files_against_the_quota() {
    let mut archive = Archive::of(4);
    assert_eq!(archive.reserve(1, (2, 4), &FOUR), CommandOutcome::Applied);
    assert_eq!(archive.node(3).assigned_bytes, file_bytes());
    assert!(file_bytes() > 64 * 1024 + SHARD_FILE_PAGE_BYTES as u64);
    assert_eq!(archive.commit(1, &FOUR, vec![]), archive_committed(0));
    assert_eq!(archive.node(3).assigned_bytes, file_bytes());
    let Ok(counters) = archive.state.counters();
    assert_eq!(counters.stored_bytes, 4 * file_bytes());
}

fn archive_committed(visible: u64) -> CommandOutcome {
    CommandOutcome::Committed { bundles: vec![firn_base::BundleNumber(0)], visible, held: vec![] }
}

#[test]
fn a_full_node_refuses_its_share_and_nothing_is_reserved() {
    let mut archive = Archive::of(4);
    let quota = file_bytes() - 1;
    archive.run(Command::JoinNode {
        node: node_id(2),
        operator: "o".into(),
        failure_domain: "domain-2".into(),
        vouched: false,
        seen_at: None,
        address: "a".into(),
        quota_bytes: quota,
        token: None,
    });
    let no_room = RejectReason::NoRoom(node_id(2).short());
    assert_eq!(archive.reserve(1, (2, 4), &FOUR), CommandOutcome::Rejected(no_room));
    assert_eq!(archive.node(0).assigned_bytes, 0);
}

#[test]
fn assignments_that_break_the_caps_or_the_scheme_are_refused() {
    let mut archive = Archive::of(5);
    archive.join(4, "domain-0");
    assert!(is_malformed(&archive.reserve(1, (2, 4), &[0, 1, 2, 4])));
    assert!(is_malformed(&archive.reserve(1, (2, 4), &[0, 1, 2, 0])));
    assert!(is_malformed(&archive.reserve(1, (2, 3), &FOUR)));
    assert!(is_malformed(&archive.reserve(1, (2, 4), &FOUR[..2])));
    assert!(is_malformed(&archive.reserve(1, (2, 7), &FOUR)));
    archive.set_state(3, NodeState::Suspended);
    assert!(is_malformed(&archive.reserve(1, (2, 4), &FOUR)));
    assert!(CodedBundle::read(&[1, 2], &[3], 4).is_err());
}

#[test]
fn an_abandoned_upload_becomes_surplus_until_it_is_trashed() {
    let mut archive = Archive::of(4);
    archive.reserve(1, (2, 4), &FOUR);
    assert_eq!(expire(&mut archive, 1), CommandOutcome::Applied);
    assert_eq!(expire(&mut archive, 1), CommandOutcome::Applied);
    assert_eq!(archive.surplus(), [(0, 0), (1, 1), (2, 2), (3, 3)]);
    assert_eq!(archive.node(0).assigned_bytes, file_bytes());
    let outcome = archive.commit(1, &FOUR, vec![]);
    assert_eq!(outcome, CommandOutcome::Rejected(RejectReason::UnknownReservation));
    let coding = coding_id(1, 2);
    let trashed = PlacementChange::Trashed { coding, index: ShardIndex(0), node: node_id(0) };
    archive.run(Command::RecordPlacements(vec![trashed]));
    assert_eq!(archive.node(0).assigned_bytes, 0);
    // Reserved again, what is left over is wanted again.
    archive.reserve(2, (2, 4), &FOUR);
    archive.reserve_as(3, &headers(1, 2, vec![]), 4, &FOUR);
    assert_eq!(archive.surplus(), []);
    assert_eq!(archive.node(3).assigned_bytes, 2 * file_bytes());
}

#[test]
fn late_receipts_land_and_what_never_came_is_surplus_when_the_reservation_ends() {
    let mut archive = Archive::of(4);
    archive.reserve(1, (2, 4), &FOUR);
    archive.commit(1, &FOUR[..3], vec![entry(1, &[])]);
    let coding = coding_id(1, 2);
    let late = PlacementChange::Placed { coding, index: ShardIndex(3), node: node_id(3) };
    archive.run(Command::RecordPlacements(vec![late.clone(), late]));
    assert_eq!(archive.placements(1).len(), 4);
    assert_eq!(archive.node(3).assigned_bytes, file_bytes());
    let Ok(reservation) = archive.state.reservation(reservation_id(1));
    assert_eq!(reservation, None, "with its last receipt a reservation ends");

    archive.reserve(2, (2, 4), &FOUR);
    archive.commit(2, &FOUR[..3], vec![]);
    expire(&mut archive, 2);
    assert_eq!(archive.surplus(), [(3, 3)]);
    assert_eq!(archive.node(3).assigned_bytes, 2 * file_bytes());
    assert!(archive.node(0).free_bytes() < QUOTA_BYTES);
}

#[test]
fn two_uploads_of_one_bundle_leave_no_surplus_where_the_shard_counts() {
    let mut archive = Archive::of(5);
    archive.reserve(1, (2, 4), &FOUR);
    archive.reserve_as(2, &headers(1, 2, vec![]), 4, &[0, 1, 2, 4]);
    archive.commit(1, &FOUR, vec![]);
    expire(&mut archive, 2);
    assert_eq!(archive.surplus(), [(4, 3)]);
    assert_eq!(archive.node(0).assigned_bytes, file_bytes());
}
