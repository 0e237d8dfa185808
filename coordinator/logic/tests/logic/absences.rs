//! Nodes whose owners have said that they will be away.

use firn_base::{BundleNumber, ByteCount, ShardIndex, Timestamp};
use firn_coordinator_logic::{
    ABSENCE_MOST, COUNT_LOST_AFTER_MILLIS, Facts, HealthIndex, NodeRecord, OFFLINE_AFTER, classify,
    plan_repairs, resting_node,
};
use firn_wire::{
    Command, CommandOutcome, NodeRest, NodeState, NodeStatus, NodeTerms, RejectReason, RestCause,
};

use crate::moves::moves;
use crate::support::{Archive, BUDGET, entry, node_id, status};

const DAY: u64 = 86_400_000;
const HOUR: u64 = 3_600_000;

fn declare(archive: &mut Archive, node: u32, millis: u64) -> CommandOutcome {
    let until = Timestamp::from_millis(archive.now.as_millis() + millis);
    archive.run(Command::DeclareAbsence { node: node_id(node), until })
}

fn record(archive: &Archive, node: u32) -> NodeRecord {
    let Ok(record) = archive.state.node_by_id(node_id(node));
    record.unwrap()
}

/// Whether anything is built within `hours` in which the first `away` nodes are silent, and when first.
fn first_build(archive: &mut Archive, away: u32, hours: u64) -> Option<u64> {
    let mut health = HealthIndex::new();
    let silent: Vec<u32> = (0..away).collect();
    (1..=hours).find(|_| {
        archive.wait(HOUR);
        archive.hear_all_but(&silent);
        archive.planning_with(&mut health, |view| !plan_repairs(view, &BUDGET, [1; 32]).builds.is_empty())
    })
}

fn archive() -> Archive {
    let mut archive = Archive::of(24);
    archive.publish(1, (4, 12), &(0..12).collect::<Vec<_>>());
    archive.hear_all_but(&[]);
    archive
}

#[test]
fn fourteen_declared_days_cost_nothing_and_what_follows_is_a_loss_as_ever() {
    let mut undeclared = archive();
    assert_eq!(first_build(&mut undeclared, 3, 14 * 24), Some(COUNT_LOST_AFTER_MILLIS / HOUR + 1));
    let mut declared = archive();
    for node in 0..3 {
        assert_eq!(declare(&mut declared, node, 14 * DAY), CommandOutcome::Applied);
    }
    assert_eq!(first_build(&mut declared, 3, 14 * 24 - 1), None);
    declared.planning(|view| {
        let health = classify(view.catalogue.bundle(BundleNumber(0)).unwrap(), view.fleet);
        assert_eq!((health.durable, health.online), (12, 9));
        assert_eq!(view.fleet.departures(view.now), []);
        // A new leader does not wait for them.
        let (members, online, _) = view.fleet.members();
        assert_eq!((members, online), (21, 21));
    });
    assert_eq!(first_build(&mut declared, 3, 3), Some(1), "they are not back");
}

#[test]
fn whoever_is_back_has_lost_nothing_also_later_than_others_may() {
    let mut archive = archive();
    assert_eq!(declare(&mut archive, 0, 10 * DAY), CommandOutcome::Applied);
    assert_eq!(first_build(&mut archive, 1, 9 * 24), None);
    archive.hear_all_but(&[]);
    archive.planning(|view| {
        let health = classify(view.catalogue.bundle(BundleNumber(0)).unwrap(), view.fleet);
        assert_eq!((health.durable, record(&archive, 0).state), (12, NodeState::Active));
    });
}

#[test]
fn a_node_that_may_be_away_is_given_nothing_and_named_with_the_end() {
    let mut archive = archive();
    let free = |archive: &Archive| {
        archive.planning(|view| view.fleet.node(record(archive, 0).number).unwrap().free_bytes)
    };
    assert!(free(&archive) > 0);
    declare(&mut archive, 0, DAY);
    assert_eq!(free(&archive), 0);
    let until = Some(Timestamp::from_millis(archive.now.as_millis() + DAY));
    let resting = |archive: &Archive, node| {
        let resting = resting_node(&record(archive, node), &archive.watch, archive.now);
        resting.map(|resting| (resting.cause, resting.until))
    };
    assert_eq!(resting(&archive, 0), Some((RestCause::Absent, until)));
    assert_eq!(resting(&archive, 1), None);
    // Ended, it is as others are.
    assert_eq!(declare(&mut archive, 0, 0), CommandOutcome::Applied);
    assert!(free(&archive) > 0);
    assert_eq!(resting(&archive, 0), None);
    // One that is there says itself why it rests, and until when.
    let number = archive.number(1);
    let rest = Some(NodeRest::OutsideHours);
    archive.watch.heard(number, NodeStatus { rest, ..status(1) }, archive.now);
    assert_eq!(resting(&archive, 1), Some((RestCause::OutsideHours, None)));
    let terms = NodeTerms { rest_until: until, month_left: None };
    archive.watch.tell_terms(&archive.node(1), terms, archive.now);
    assert_eq!(resting(&archive, 1), Some((RestCause::OutsideHours, until)));
    archive.wait(u64::try_from(OFFLINE_AFTER.as_millis()).unwrap() + 1);
    assert_eq!(resting(&archive, 1), None, "nobody knows whether it still does");
}

#[test]
fn a_node_that_leaves_before_it_is_away_gives_what_it_holds_while_it_is_here() {
    let mut archive = archive();
    declare(&mut archive, 0, 14 * DAY);
    archive.set_state(0, NodeState::Draining);
    let own = (ShardIndex(0), archive.number(0));
    let planned = |archive: &Archive| {
        let build = moves(archive).builds.into_iter().find(|build| build.retire == [own]);
        build.map(|build| build.sources[0])
    };
    assert_eq!(planned(&archive), Some(own));
    // Paused, it does so later.
    let rest = Some(NodeRest::Paused);
    archive.watch.heard(own.1, NodeStatus { rest, ..status(1) }, archive.now);
    assert_eq!(planned(&archive), None);
}

#[test]
fn a_declared_absence_takes_nothing_of_how_much_a_node_is_there() {
    let mut archive = archive();
    declare(&mut archive, 0, DAY);
    archive.watch.measure_from(archive.now);
    archive.wait(HOUR);
    archive.hear_all_but(&[0, 1]);
    let records = [0, 1, 2].map(|node| record(&archive, node));
    let summary = archive.watch.summary(records.iter(), None, archive.now);
    let [declared, silent, _] = &summary[..] else { panic!("three were asked for") };
    assert_eq!(declared.availability, records[0].availability);
    assert!(silent.availability < records[1].availability);
}

#[test]
fn a_node_is_given_no_more_at_once_than_it_says_goes_over_its_line_this_month() {
    let mut archive = archive();
    let number = archive.number(0);
    let free = |archive: &Archive| archive.planning(|view| view.fleet.node(number).unwrap().free_bytes);
    let before = free(&archive);
    let terms = NodeTerms { rest_until: None, month_left: Some(ByteCount(1000)) };
    archive.watch.tell_terms(&archive.node(0), terms, archive.now);
    assert!(before > 1000);
    assert_eq!(free(&archive), 1000);
    // A node that says so no more, as one of an older program, is not held to it.
    archive.wait(300_001);
    archive.hear_all_but(&[]);
    assert_eq!(free(&archive), before);
}

#[test]
fn what_is_assigned_to_a_node_is_taken_off_its_month_until_it_counts_that_itself() {
    let mut archive = archive();
    let number = archive.number(0);
    let left = |archive: &Archive| archive.planning(|view| view.fleet.node(number).unwrap().month_left_bytes);
    let said = |bytes| NodeTerms { rest_until: None, month_left: Some(ByteCount(bytes)) };
    archive.watch.tell_terms(&archive.node(0), said(1 << 30), archive.now);
    assert_eq!(left(&archive), 1 << 30);
    let before = archive.node(0).assigned_bytes;
    assert_eq!(archive.reserve(2, (4, 12), &(0..12).collect::<Vec<_>>()), CommandOutcome::Applied);
    let assigned = archive.node(0).assigned_bytes - before;
    assert!(assigned > 0);
    assert_eq!(left(&archive), (1 << 30) - assigned);
    // Committed they are the same bytes.
    let outcome = archive.commit(2, &(0..12).collect::<Vec<_>>(), vec![entry(2, &[])]);
    assert!(matches!(outcome, CommandOutcome::Committed { .. }), "{outcome:?}");
    assert_eq!(left(&archive), (1 << 30) - assigned);
    // It has counted them by now.
    archive.watch.tell_terms(&archive.node(0), said(500), archive.now);
    assert_eq!(left(&archive), 500);
    assert_eq!(archive.reserve(3, (4, 12), &(0..12).collect::<Vec<_>>()), CommandOutcome::Applied);
    assert_eq!(left(&archive), 0);
}

#[test]
fn what_is_assigned_to_a_node_is_taken_off_the_room_that_it_says_until_it_was_heard_twice() {
    let mut archive = archive();
    let number = archive.number(0);
    let room = 1 << 20;
    let full = NodeStatus { used: ByteCount(status(1).quota.0 - room), ..status(1) };
    let hear = |archive: &mut Archive| {
        archive.watch.heard(number, full.clone(), archive.now);
        let record = archive.node(0);
        archive.watch.assigned_by_then(&record);
    };
    let free = |archive: &Archive| archive.planning(|view| view.fleet.node(number).unwrap().free_bytes);
    hear(&mut archive);
    assert_eq!(free(&archive), room);
    let before = archive.node(0).assigned_bytes;
    assert_eq!(archive.reserve(2, (4, 12), &(0..12).collect::<Vec<_>>()), CommandOutcome::Applied);
    let assigned = archive.node(0).assigned_bytes - before;
    assert!(0 < assigned && assigned < room, "{assigned}");
    assert_eq!(free(&archive), room - assigned);
    // It may have been on its way when the node said this.
    hear(&mut archive);
    assert_eq!(free(&archive), room - assigned);
    hear(&mut archive);
    assert_eq!(free(&archive), room);
}

#[test]
fn too_much_absence_is_rejected_alike_by_all_and_changes_nothing() {
    let mut archive = archive();
    let most = u64::try_from(ABSENCE_MOST.as_millis()).unwrap();
    let rejected = |outcome| matches!(outcome, CommandOutcome::Rejected(RejectReason::Malformed(_)));
    assert!(rejected(declare(&mut archive, 0, most + 1)));
    assert!(!record(&archive, 0).absence.is_declared());
    assert_eq!(declare(&mut archive, 0, most), CommandOutcome::Applied);
    archive.wait(most);
    let before = record(&archive, 0);
    assert!(rejected(declare(&mut archive, 0, DAY)));
    assert_eq!(record(&archive, 0), before);
    archive.wait(365 * DAY);
    assert_eq!(declare(&mut archive, 0, most), CommandOutcome::Applied);
    // Nobody waits for one that is not of the archive, or never was.
    archive.set_state(1, NodeState::Lost);
    assert_eq!(declare(&mut archive, 1, DAY), CommandOutcome::Rejected(RejectReason::NodeRemoved));
    assert_eq!(declare(&mut archive, 99, DAY), CommandOutcome::Rejected(RejectReason::UnknownNode));
}
