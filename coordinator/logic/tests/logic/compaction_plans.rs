//! Which small bundles are planned to come together, and how full an archive's bundles are said to be.

use std::time::Duration;

use firn_base::{BundleId, BundleNumber, ByteCount};
use firn_bundle::BundleRole;
use firn_coordinator_logic::{
    BundleRecord, Catalogue, Change, GoingContent, Scan, UsedByOthers, apply, check_compaction, check_unused,
    order_of, plan_compaction, read_small, small_bundles,
};
use firn_wire::{
    BundleFill, COMPACTION_GROUPS_MAX, Command, CommandOutcome, CompactionPlan, LedgerAct, TimedCommand,
};

use crate::compaction_support::{ALL, FOUR, compact, fill, into, three_bundles};
use crate::rebuild_support::withdraw;
use crate::support::{Archive, PAYLOAD_BYTES, bundle_id, commit_of, entry, headers_as, key};

fn plan(archive: &Archive, older_than: Duration) -> CompactionPlan {
    let (used, fill) = archive.planning(|view| {
        assert_eq!(check_compaction(view), Ok(()));
        (small_bundles(view, None), view.catalogue.fill())
    });
    let Ok(going) = GoingContent::read(&archive.state);
    let Ok(small) = read_small(&archive.state, used, &going, older_than);
    let Ok(plan) = plan_compaction(&archive.state, &small, fill);
    plan
}

fn groups(archive: &Archive) -> Vec<Vec<u8>> {
    let tag = |id| (1..=99).find(|tag| bundle_id(*tag) == id).unwrap();
    let groups = plan(archive, Duration::ZERO).groups.into_iter();
    groups.map(|group| group.bundles.into_iter().map(tag).collect()).collect()
}

/// No upload is under way any more.
fn release(archive: &mut Archive) {
    archive.wait(4_000_000);
    let Ok(reservations) = archive.state.reservations_after(None, usize::MAX);
    archive.run(Command::ExpireReservations(reservations.iter().map(|own| own.id).collect()));
    archive.hear_all_but(&[]);
}

#[test]
fn small_neighbours_are_planned_together_unless_something_keeps_them() {
    let mut archive = three_bundles();
    release(&mut archive);
    let small = PAYLOAD_BYTES;
    let counted = |bundles: u64| BundleFill {
        bundles,
        payload: ByteCount(bundles * small),
        small_bundles: bundles,
        small_payload: ByteCount(bundles * small),
    };
    assert_eq!(fill(&archive), counted(3));
    let told = plan(&archive, Duration::ZERO);
    assert_eq!((told.fill, told.groups.len()), (counted(3), 1));
    assert_eq!((told.groups[0].payload, told.groups[0].records), (ByteCount(3 * small), 5));
    assert_eq!(groups(&archive), [[1, 2, 3]]);
    assert_eq!(
        plan(&archive, Duration::from_secs(86_400)).groups,
        [],
        "whoever uploaded them may still be at it"
    );
    // A withdrawal parts them.
    archive.govern(withdraw(77));
    for tag in [11, 12] {
        archive.commit_with(tag, vec![entry(tag, &[])], Vec::new());
    }
    release(&mut archive);
    assert_eq!(groups(&archive), [vec![1, 2, 3], vec![11, 12]]);
    // Who has tried the first group asks for what stands behind it.
    let behind = |tag| {
        let Ok(place) = order_of(&archive.state, bundle_id(tag));
        let used = archive.planning(|view| small_bundles(view, Some(place.unwrap())));
        let looked_at = used.len();
        let Ok(going) = GoingContent::read(&archive.state);
        let Ok(small) = read_small(&archive.state, used, &going, Duration::ZERO);
        let Ok(plan) = plan_compaction(&archive.state, &small, fill(&archive));
        (looked_at, plan.groups.into_iter().map(|group| group.bundles).collect::<Vec<_>>())
    };
    assert_eq!(behind(3), (2, vec![[11, 12].map(bundle_id).to_vec()]), "no other is looked at");
    assert_eq!(behind(12), (0, Vec::new()));
    assert_eq!(order_of(&archive.state, bundle_id(99)), Ok(None), "nobody knows that one");
    // One of which others use chunks stays.
    let dependent = headers_as(BundleRole::Ordinary, 13, 2, vec![bundle_id(2)]);
    assert_eq!(archive.reserve_as(13, &dependent, 4, &FOUR), CommandOutcome::Applied);
    archive.commit(13, &FOUR, vec![entry(13, &[])]);
    release(&mut archive);
    let first = plan(&archive, Duration::ZERO).groups.remove(0);
    assert_eq!(first.bundles, [1, 3].map(bundle_id), "bundle 2 stays");
    let used = [bundle_id(1), bundle_id(2)];
    assert_eq!(archive.planning(|view| check_unused(view, &used)), Err(UsedByOthers(bundle_id(2))));
    assert!(archive.planning(|view| check_unused(view, &used[..1])).is_ok());
    // What the first one called external is archived by now: it is the last of its group, and has no other.
    archive.commit_with(14, vec![entry(50, &[])], Vec::new());
    release(&mut archive);
    let all = plan(&archive, Duration::ZERO).groups;
    assert!(all.iter().all(|group| !group.bundles.contains(&bundle_id(1))), "{all:?}");
    // So is one that holds what a purge wants gone.
    archive.govern(withdraw(11));
    archive.govern(LedgerAct::Purge { key: key(11), reason: "court".into() });
    let all = plan(&archive, Duration::ZERO).groups;
    assert!(all.iter().all(|group| !group.bundles.contains(&bundle_id(11))), "{all:?}");
}

#[test]
fn of_more_small_bundles_than_one_plan_is_made_of_the_first_that_may_go_are_planned() {
    let mut archive = three_bundles();
    let (stays, goes) = (1_000, 65_536);
    let example = archive.bundle(3);
    let dependent = headers_as(BundleRole::Ordinary, 3, 2, vec![bundle_id(99)]).0.to_bytes();
    let numbers = 100..100 + stays + goes + 5_000;
    let record = |number: u32| {
        let mut id = [0xff; 32];
        id[..4].copy_from_slice(&number.to_be_bytes());
        // The first of them use chunks of one that is not there.
        let header = if number < 100 + stays { &dependent } else { &example.content_header };
        BundleRecord {
            number: BundleNumber(number),
            id: BundleId::from_bytes(id),
            content_header: header.clone(),
            externals: Vec::new(),
            codings: Vec::new(),
            ..example.clone()
        }
    };
    archive.state.absorb(numbers.clone().map(record).map(Change::PutBundle));
    let used = || {
        let order = |number| (example.ledger_entries, example.committed_at, BundleNumber(number));
        numbers.clone().rev().map(move |number| (order(number), Vec::new())).collect::<Vec<_>>()
    };
    let Ok(going) = GoingContent::read(&archive.state);
    let Ok(small) = read_small(&archive.state, used(), &going, Duration::ZERO);
    assert_eq!(small.len(), goes as usize, "neither more, nor fewer for what stays before them");
    let Ok(plan) = plan_compaction(&archive.state, &small, fill(&archive));
    assert!((1..=COMPACTION_GROUPS_MAX).contains(&plan.groups.len()));
    let first = plan.groups.iter().flat_map(|group| &group.bundles).next();
    assert_eq!(first, Some(&record(100 + stays).id));
}

#[test]
fn the_picture_that_follows_changes_counts_as_one_that_is_read() {
    let mut archive = three_bundles();
    let Ok(mut followed) = Catalogue::load(&archive.state);
    archive.wait(600_000);
    let erase = |tag| Command::EraseBundle { bundle: bundle_id(tag), surplus: Vec::new() };
    for command in [compact(&[1, 2, 3], vec![into(7, &ALL)]), erase(2), erase(1), erase(3)] {
        let timed = TimedCommand::of_coordinators(archive.now, command.clone());
        let Ok(applied) = apply(&archive.state, &timed);
        assert_eq!(applied.outcome, CommandOutcome::Applied);
        followed.absorb(applied.changes.iter().filter(|change| Catalogue::concerns(change)), archive.now);
        archive.run(command);
        assert_eq!(followed.fill(), fill(&archive));
    }
}

#[test]
fn heads_and_parts_of_large_objects_count_as_no_small_bundles() {
    let mut archive = Archive::of(4);
    let part = headers_as(BundleRole::Part, 50, 2, Vec::new());
    let head = headers_as(BundleRole::Head, 51, 2, vec![part.0.bundle_id()]);
    for (tag, headers) in [(50, &part), (51, &head)] {
        archive.reserve_as(tag, headers, 4, &FOUR);
    }
    let bundles = vec![commit_of(50, &FOUR, Vec::new()), commit_of(51, &FOUR, vec![entry(1, &[])])];
    archive.run(Command::Commit { bundles, externals: Vec::new() });
    archive.commit_with(1, vec![entry(2, &[])], Vec::new());
    let Ok(catalogue) = Catalogue::load(&archive.state);
    let fill = catalogue.fill();
    assert_eq!((fill.bundles, fill.payload), (3, ByteCount(3 * PAYLOAD_BYTES)));
    assert_eq!((fill.small_bundles, fill.small_payload), (1, ByteCount(PAYLOAD_BYTES)));
}
