//! Commits: all or none, receipts, visibility.

use firn_base::BundleNumber;
use firn_bundle::BundleRole;
use firn_coordinator_logic::{
    CheckedBundle, Facts, RecordSummary, Scan, WithoutRecords, check_has_records, plan_commit,
};
use firn_wire::{Command, CommandOutcome, FeedEvent, NodeState, RejectReason};

use crate::support::{Archive, bundle_id, commit_of, entry, feature, headers, key, reservation_id};

const FOUR: [u32; 4] = [0, 1, 2, 3];

fn committed(visible: u64, held: &[u8], outcome: &CommandOutcome) {
    let CommandOutcome::Committed { visible: seen, held: waiting, .. } = outcome else {
        panic!("{outcome:?}")
    };
    assert_eq!((*seen, waiting.clone()), (visible, held.iter().copied().map(key).collect()));
}

#[test]
fn a_commit_needs_receipts_for_the_threshold_of_distinct_shards() {
    let mut archive = Archive::of(4);
    archive.reserve(1, (2, 4), &FOUR);
    let outcome = archive.commit(1, &FOUR[..2], vec![]);
    let too_few = RejectReason::TooFewReceipts { found: 2, needed: 3 };
    assert_eq!(outcome, CommandOutcome::Rejected(too_few.clone()));
    let mut twice = commit_of(1, &FOUR[..2], vec![]);
    twice.receipts.extend(twice.receipts.clone());
    let outcome = archive.run(Command::Commit { bundles: vec![twice], externals: vec![] });
    assert_eq!(outcome, CommandOutcome::Rejected(too_few));
    committed(1, &[], &archive.commit(1, &FOUR[..3], vec![entry(1, &[])]));
    assert_eq!(archive.placements(1), [(0, 0), (1, 1), (2, 2)]);
}

#[test]
fn receipts_of_nodes_that_were_not_asked_or_are_lost_count_nothing() {
    let mut archive = Archive::of(6);
    archive.reserve(1, (2, 4), &FOUR);
    let foreign = archive.commit(1, &[5, 4, 2, 3], vec![]);
    let too_few = |found| CommandOutcome::Rejected(RejectReason::TooFewReceipts { found, needed: 3 });
    assert_eq!(foreign, too_few(2));
    archive.set_state(0, NodeState::Lost);
    archive.set_state(1, NodeState::Lost);
    assert_eq!(archive.commit(1, &FOUR, vec![]), too_few(2));
}

#[test]
fn the_same_bundle_is_committed_once() {
    let mut archive = Archive::of(4);
    archive.reserve(1, (2, 4), &FOUR);
    archive.reserve_as(2, &headers(1, 2, vec![]), 4, &FOUR);
    committed(1, &[], &archive.commit(1, &FOUR[..3], vec![entry(1, &[])]));
    let exists = CommandOutcome::Rejected(RejectReason::BundleExists);
    assert_eq!(archive.commit(1, &FOUR[..3], vec![entry(1, &[])]), exists);
    assert_eq!(archive.commit(2, &FOUR, vec![entry(1, &[])]), exists);
    assert_eq!(archive.reserve_as(3, &headers(1, 2, vec![]), 4, &FOUR), exists);
}

#[test]
fn two_keys_in_one_place_are_refused() {
    let mut archive = Archive::of(4);
    archive.reserve(1, (2, 4), &FOUR);
    let outcome = archive.commit(1, &FOUR, vec![entry(1, &[]), entry(1, &[9])]);
    assert!(matches!(outcome, CommandOutcome::Rejected(RejectReason::Malformed(_))));
}

#[test]
fn a_head_and_its_parts_are_committed_all_or_none() {
    let mut archive = Archive::of(4);
    let part = headers(1, 2, vec![]);
    let head = headers(2, 2, vec![part.0.bundle_id()]);
    archive.reserve_as(1, &part, 4, &FOUR);
    archive.reserve_as(2, &head, 4, &FOUR);
    let unknown = CommandOutcome::Rejected(RejectReason::UnknownDependency);
    assert_eq!(archive.commit(2, &FOUR, vec![entry(2, &[])]), unknown);
    let before = archive.state.clone();
    let both = |head_nodes: &[u32]| Command::Commit {
        bundles: vec![commit_of(1, &FOUR, vec![]), commit_of(2, head_nodes, vec![entry(2, &[])])],
        externals: vec![],
    };
    assert!(matches!(archive.run(both(&FOUR[..2])), CommandOutcome::Rejected(_)));
    assert_eq!(archive.state, before);
    let outcome = archive.run(both(&FOUR));
    let numbers = vec![BundleNumber(0), BundleNumber(1)];
    assert_eq!(outcome, CommandOutcome::Committed { bundles: numbers, visible: 1, held: vec![] });
}

#[test]
fn a_path_appears_with_the_last_of_its_references() {
    let mut archive = Archive::of(4);
    for tag in 1..=4 {
        archive.reserve(tag, (2, 4), &FOUR);
    }
    // 10 waits for 20 and 30, 11 for 10; 12 waits for nobody.
    let entries = vec![entry(10, &[20, 30]), entry(11, &[10]), entry(12, &[])];
    committed(1, &[10, 11], &archive.commit(1, &FOUR, entries));
    committed(1, &[], &archive.commit(2, &FOUR, vec![entry(20, &[])]));
    assert!(!archive.is_visible(10) && !archive.is_visible(11));
    let Ok(held) = archive.state.held(key(10));
    assert_eq!(held[0].waits, [key(30)]);
    committed(3, &[], &archive.commit(3, &FOUR, vec![entry(30, &[])]));
    assert!(archive.is_visible(10) && archive.is_visible(11));
    let Ok(feed) = archive.state.feed_from(0, 100);
    assert_eq!(feed, [12, 20, 30, 10, 11].map(|name| FeedEvent::Visible(key(name))));
    let Ok(counters) = archive.state.counters();
    assert_eq!((counters.visible_keys, counters.held_records, counters.feed_head), (5, 0, 5));
}

#[test]
fn what_became_visible_since_the_leader_looked_holds_nothing_back() {
    let mut archive = Archive::of(4);
    archive.reserve(1, (2, 4), &FOUR);
    archive.reserve(2, (2, 4), &FOUR);
    archive.commit(1, &FOUR, vec![entry(1, &[])]);
    committed(1, &[], &archive.commit(2, &FOUR, vec![entry(2, &[1])]));
}

#[test]
fn an_external_reference_releases_those_that_waited_for_it() {
    let mut archive = Archive::of(4);
    archive.reserve(1, (2, 4), &FOUR);
    archive.reserve(2, (2, 4), &FOUR);
    committed(0, &[1], &archive.commit(1, &FOUR, vec![entry(1, &[9])]));
    let outcome = archive.run(Command::Commit {
        bundles: vec![commit_of(2, &FOUR, vec![entry(2, &[9])])],
        externals: vec![key(9)],
    });
    committed(2, &[], &outcome);
    let Ok(externals) = archive.state.externals_after(None, 10);
    assert_eq!(externals, [key(9)]);
    assert!(!archive.is_visible(9));
}

#[test]
fn no_publisher_delays_anothers_path() {
    let mut archive = Archive::of(4);
    archive.reserve(1, (2, 4), &FOUR);
    archive.reserve(2, (2, 4), &FOUR);
    archive.reserve(3, (2, 4), &FOUR);
    committed(0, &[7], &archive.commit(1, &FOUR, vec![entry(7, &[9])]));
    committed(1, &[], &archive.commit(2, &FOUR, vec![entry(7, &[])]));
    let Ok(places) = archive.state.locations(key(7));
    assert_eq!(places.iter().map(|place| place.bundle.0).collect::<Vec<_>>(), [1]);
    // The first record is released later and stands beside the other as a variant.
    committed(1, &[], &archive.commit(3, &FOUR, vec![entry(9, &[])]));
    let Ok(places) = archive.state.locations(key(7));
    assert_eq!(places.iter().map(|place| place.bundle.0).collect::<Vec<_>>(), [1, 0]);
}

#[test]
fn an_ordinary_bundle_without_records_is_refused_and_a_part_has_none() {
    let refused = check_has_records(bundle_id(1), BundleRole::Ordinary, 0);
    assert_eq!(refused, Err(WithoutRecords(bundle_id(1))));
    let sentence = WithoutRecords(bundle_id(1)).to_string();
    assert!(sentence.contains("holds no path") && sentence.contains("publish again"), "{sentence}");
    assert_eq!(check_has_records(bundle_id(1), BundleRole::Ordinary, 1), Ok(()));
    assert_eq!(check_has_records(bundle_id(1), BundleRole::Part, 0), Ok(()));
}

fn record(name: u8, references: &[u8]) -> RecordSummary {
    let references = references.iter().copied().map(key).collect();
    RecordSummary {
        key: key(name),
        block: 0,
        entry: u16::from(name),
        references,
        features: vec![feature(name)],
    }
}

fn waits_planned(archive: &Archive, records: Vec<RecordSummary>, externals: &[u8]) -> Vec<Vec<u8>> {
    let bundle =
        CheckedBundle { reservation: reservation_id(1), bundle: bundle_id(1), receipts: vec![], records };
    let externals: Vec<_> = externals.iter().copied().map(key).collect();
    let Ok(Command::Commit { bundles, .. }) = plan_commit(&archive.state, &[bundle], &externals) else {
        panic!("a commit plan is a commit")
    };
    let entries = &bundles[0].entries;
    entries.iter().map(|entry| entry.waits.iter().map(|wait| wait.name()[0]).collect()).collect()
}

#[test]
fn the_leader_lets_entries_wait_for_open_references_and_for_entries_that_wait() {
    let mut archive = Archive::of(4);
    archive.publish(1, (2, 4), &FOUR);
    let records = vec![
        record(10, &[10, 1, 11]), // itself, a visible one, one of the commit
        record(11, &[]),
        record(12, &[90, 1]), // an open one
        record(13, &[12, 10]),
        record(14, &[13, 80]), // a waiting one, an external one
    ];
    let waits = waits_planned(&archive, records, &[80, 81, 1, 11]);
    assert_eq!(waits, [vec![], vec![], vec![90], vec![12], vec![13]]);
}

#[test]
fn only_open_references_of_the_commit_are_taken_as_external() {
    let mut archive = Archive::of(4);
    archive.publish(1, (2, 4), &FOUR);
    let records = vec![record(10, &[1, 11, 80]), record(11, &[])];
    let bundle =
        CheckedBundle { reservation: reservation_id(2), bundle: bundle_id(2), receipts: vec![], records };
    let given = [key(80), key(81), key(1), key(11)];
    let Ok(command) = plan_commit(&archive.state, &[bundle], &given);
    assert!(matches!(command, Command::Commit { externals, .. } if externals == [key(80)]));
}
