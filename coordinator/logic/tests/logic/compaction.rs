//! Compaction: small bundles come together, every record with them, and what has to stay where it is stays.

use firn_base::{BundleId, BundleNumber, Location};
use firn_bundle::BundleRole;
use firn_coordinator_logic::{
    Change, Counters, Facts, RecordSummary, Scan, apply, check_unused, full_digest, plan_gathered_features,
    plan_gathering,
};
use firn_wire::{
    Actor, Command, CommandOutcome, CompactedBundle, FeedEvent, Gathered, GatheredPlace, LedgerAct,
    OperatorRole, RejectReason, ReplacementBundle, TimedCommand,
};

use crate::compaction_support::{
    ALL, FOUR, changed, compact, compact_unused, into, location, next_bundle, run, three_bundles,
};
use crate::rebuild_support::withdraw;
use crate::support::{Archive, at, bundle_id, commit_of, entry, feature, headers_as, key, moved, uploader};

#[test]
fn every_record_of_small_bundles_lies_in_the_full_one_from_one_command_on() {
    let mut archive = three_bundles();
    archive.govern(LedgerAct::Withdraw { key: key(2), reason: "asked to".into() });
    let Ok(before) = archive.state.counters();
    let last = archive.bundle(3);
    assert_eq!(run(&mut archive, compact(&[1, 2, 3], vec![into(7, &ALL)])), CommandOutcome::Applied);
    let new = archive.bundle(7);
    let lies = |bundle: BundleNumber, block, entry| Location { bundle, block, entry };
    assert_eq!(location(&archive, 1), Some(lies(new.number, 0, 11)));
    assert_eq!(location(&archive, 3), Some(lies(new.number, 1, 13)));
    assert_eq!(location(&archive, 5), Some(lies(new.number, 2, 15)));
    let Ok(held) = archive.state.held(key(4));
    assert_eq!((held[0].location, held[0].waits.as_slice()), (lies(new.number, 1, 14), &[key(90)][..]));
    let Ok(withdrawn) = archive.state.withdrawn(key(2));
    assert_eq!(withdrawn.unwrap().places, [lies(new.number, 0, 12)]);
    let Ok(after) = archive.state.counters();
    assert_eq!((after.visible_keys, after.held_records), (before.visible_keys, before.held_records));
    let Ok(feed) = archive.state.feed_from(before.feed_head, 10);
    let again = [1, 3, 5].map(|name| FeedEvent::Visible(key(name)));
    assert_eq!(feed, again, "whoever knows where they lay looks again");
    // It stands where the last of them stood, and brings what they called external.
    assert_eq!((new.committed_at, new.ledger_entries), (last.committed_at, last.ledger_entries));
    assert_eq!((new.keys, new.externals), (5, vec![key(50), key(60)]));
    // Each of them is entered in the ledger, and stays whole until it is erased.
    let ledger = archive.ledger();
    let acts: Vec<_> = ledger.iter().rev().take(3).map(|entry| entry.act.clone()).collect();
    assert_eq!(acts, [3, 2, 1].map(|tag| LedgerAct::Repack { bundle: bundle_id(tag) }));
    assert_eq!(archive.placements(1).len(), 4);
    // What waits goes on waiting, and appears where it lies now.
    archive.commit_with(9, vec![entry(90, &[])], Vec::new());
    assert_eq!(location(&archive, 4), Some(lies(new.number, 1, 14)));
}

#[test]
fn a_path_of_two_small_bundles_keeps_both_records_and_is_counted_once() {
    let mut archive = Archive::of(4);
    archive.commit_with(1, vec![entry(1, &[])], Vec::new());
    archive.commit_with(2, vec![entry(1, &[]), entry(2, &[])], Vec::new());
    archive.reserve(7, (2, 4), &FOUR);
    let records = [(0, 1), (1, 1), (1, 2)];
    assert_eq!(run(&mut archive, compact(&[1, 2], vec![into(7, &records)])), CommandOutcome::Applied);
    let (new, Ok(places)) = (archive.bundle(7).number, archive.state.locations(key(1)));
    assert_eq!(
        places,
        [0, 1].map(|block| Location { bundle: new, block, entry: 11 }),
        "the first stays the first"
    );
    let Ok(counters) = archive.state.counters();
    assert_eq!(counters.visible_keys, 2);
}

#[test]
fn what_is_not_all_of_small_bundles_is_refused_and_changes_nothing() {
    let mut archive = three_bundles();
    let Ok(before) = full_digest(&archive.state);
    let rest = |outcome: &CommandOutcome| changed(outcome, "not every record");
    let without = |left: usize| ALL.iter().copied().filter(|record| *record != ALL[left]).collect::<Vec<_>>();
    for left in 0..ALL.len() {
        let outcome = run(&mut archive, compact(&[1, 2, 3], vec![into(7, &without(left))]));
        assert!(rest(&outcome), "{left}: {outcome:?}");
    }
    let mut twice = without(4);
    twice.push((0, 1));
    assert!(rest(&run(&mut archive, compact(&[1, 2, 3], vec![into(7, &twice)]))));
    let beyond = [(0, 1), (0, 2), (1, 3), (1, 4), (3, 5)];
    assert!(rest(&run(&mut archive, compact(&[1, 2, 3], vec![into(7, &beyond)]))));
    let elsewhere = [(0, 1), (0, 2), (1, 3), (1, 5), (2, 4)];
    assert!(changed(&run(&mut archive, compact(&[1, 2, 3], vec![into(7, &elsewhere)])), "elsewhere"));
    let malformed = |outcome| matches!(outcome, CommandOutcome::Rejected(RejectReason::Malformed(_)));
    assert!(malformed(run(&mut archive, compact(&[1, 1], vec![into(7, &ALL[..2])]))));
    assert!(
        malformed(run(&mut archive, compact(&[1], vec![into(7, &ALL[..2])]))),
        "one for one is none fewer"
    );
    assert!(malformed(run(&mut archive, compact(&[1, 2, 3], Vec::new()))));
    let unknown = run(&mut archive, compact(&[1, 99], vec![into(7, &ALL[..2])]));
    assert_eq!(unknown, CommandOutcome::Rejected(RejectReason::UnknownBundle));
    let mut few = into(7, &ALL);
    few.receipts.truncate(2);
    let few = run(&mut archive, compact(&[1, 2, 3], vec![few]));
    assert!(matches!(few, CommandOutcome::Rejected(RejectReason::TooFewReceipts { .. })), "{few:?}");
    let Ok(after) = full_digest(&archive.state);
    assert_eq!(after.at(0), before.at(0), "but for the time, which stood still");
    // And what is whole goes through, once.
    assert_eq!(run(&mut archive, compact(&[1, 2, 3], vec![into(7, &ALL)])), CommandOutcome::Applied);
    archive.reserve(8, (2, 4), &FOUR);
    assert!(changed(&run(&mut archive, compact(&[1, 2, 3], vec![into(8, &ALL)])), "others have taken"));
}

#[test]
fn bundles_between_which_an_act_lies_that_changes_what_is_shown_stay_apart() {
    let acts = [
        LedgerAct::Withdraw { key: key(77), reason: "law".into() },
        LedgerAct::Reinstate { key: key(76), reason: "error".into() },
        LedgerAct::Purge { key: key(76), reason: "court".into() },
    ];
    for act in acts {
        let mut archive = Archive::of(4);
        archive.govern(withdraw(76));
        archive.commit_with(1, vec![entry(1, &[])], Vec::new());
        archive.govern(act);
        archive.commit_with(2, vec![entry(2, &[])], Vec::new());
        archive.commit_with(3, vec![entry(3, &[])], Vec::new());
        archive.reserve(7, (2, 4), &FOUR);
        let apart = run(&mut archive, compact(&[1, 2], vec![into(7, &[(0, 1), (1, 2)])]));
        assert!(changed(&apart, "lies between them"), "{apart:?}");
        // An act that says who may publish changes nothing of the sort.
        let together = compact(&[2, 3], vec![into(7, &[(0, 2), (1, 3)])]);
        assert_eq!(run(&mut archive, together), CommandOutcome::Applied);
    }
    let mut archive = Archive::of(4);
    archive.commit_with(1, vec![entry(1, &[])], Vec::new());
    archive.govern(LedgerAct::AddUploader { key: uploader(), name: "hydra".into() });
    archive.commit_with(2, vec![entry(2, &[])], Vec::new());
    archive.reserve(7, (2, 4), &FOUR);
    let together = compact(&[1, 2], vec![into(7, &[(0, 1), (1, 2)])]);
    assert_eq!(run(&mut archive, together), CommandOutcome::Applied);
}

#[test]
fn a_record_that_a_purge_wants_gone_and_a_reference_that_was_answered_keep_bundles_where_they_are() {
    let mut archive = three_bundles();
    archive.govern(withdraw(5));
    archive.govern(LedgerAct::Purge { key: key(5), reason: "court".into() });
    assert!(changed(&run(&mut archive, compact(&[1, 2, 3], vec![into(7, &ALL)])), "firn repack"));
    let mut archive = three_bundles();
    // What the first of them called external comes into the archive.
    archive.commit_with(8, vec![entry(50, &[])], Vec::new());
    assert!(changed(&run(&mut archive, compact(&[1, 2, 3], vec![into(7, &ALL)])), "external"));
    // Of the last one it may: nothing is told again between it and its new place.
    let mut archive = three_bundles();
    archive.commit_with(8, vec![entry(60, &[])], Vec::new());
    assert_eq!(run(&mut archive, compact(&[1, 2, 3], vec![into(7, &ALL)])), CommandOutcome::Applied);
}

#[test]
fn heads_parts_and_what_uses_chunks_of_a_small_bundle_do_not_take_its_place() {
    let mut archive = three_bundles();
    let dependent = headers_as(BundleRole::Ordinary, 8, 2, vec![bundle_id(1)]);
    assert_eq!(archive.reserve_as(8, &dependent, 4, &FOUR), CommandOutcome::Applied);
    assert!(changed(&run(&mut archive, compact(&[1, 2, 3], vec![into(8, &ALL)])), "uses chunks"));
    let part = headers_as(BundleRole::Part, 9, 2, Vec::new());
    assert_eq!(archive.reserve_as(9, &part, 4, &FOUR), CommandOutcome::Applied);
    assert!(changed(&run(&mut archive, compact(&[1, 2, 3], vec![into(9, &ALL)])), "head or a part"));
    let bundle = commit_of(9, &FOUR, Vec::new());
    archive.run(Command::Commit { bundles: vec![bundle], externals: Vec::new() });
    let part = part.0.bundle_id();
    let (bundles, into) = (vec![bundle_id(1), part], vec![into(7, &ALL[..2])]);
    let command = Command::CompactUnused { bundles, into, looked_to: next_bundle(&archive) };
    assert!(changed(&run(&mut archive, command), "head or a part"));
}

/// As [`three_bundles`], looked at; then bundle 8 comes, which uses chunks of bundle 2. Up to where was looked, and the id of 8.
fn used_since() -> (Archive, BundleNumber, BundleId) {
    let mut archive = three_bundles();
    let all = [1, 2, 3].map(bundle_id);
    let looked_to = archive.planning(|view| check_unused(view, &all)).unwrap();
    assert_eq!(looked_to, next_bundle(&archive), "the picture has all that there is");
    let dependent = headers_as(BundleRole::Ordinary, 8, 2, vec![bundle_id(2)]);
    assert_eq!(archive.reserve_as(8, &dependent, 4, &FOUR), CommandOutcome::Applied);
    archive.commit(8, &FOUR, vec![entry(8, &[])]);
    (archive, looked_to, dependent.0.bundle_id())
}

#[test]
fn a_bundle_that_came_to_use_chunks_of_a_small_one_since_somebody_looked_keeps_it_where_it_is() {
    let (mut archive, looked_to, _) = used_since();
    let Ok(before) = full_digest(&archive.state);
    let late = run(&mut archive, compact_unused(&[1, 2, 3], vec![into(7, &ALL)], looked_to));
    assert!(changed(&late, "has come to use chunks"), "{late:?}");
    assert_eq!(full_digest(&archive.state), Ok(before));
    // Those that it does not use may go.
    let others = [(0, 1), (0, 2), (1, 5)];
    let without = run(&mut archive, compact_unused(&[1, 3], vec![into(7, &others)], looked_to));
    assert_eq!(without, CommandOutcome::Applied);
}

#[test]
fn what_came_to_use_chunks_of_small_bundles_may_go_along_with_them() {
    let (mut archive, looked_to, user) = used_since();
    let bundles = [bundle_id(1), bundle_id(2), bundle_id(3), user].to_vec();
    let into = vec![into(7, &[&ALL[..], &[(3, 8)]].concat())];
    let along = run(&mut archive, Command::CompactUnused { bundles, into, looked_to });
    assert_eq!(along, CommandOutcome::Applied);
}

#[test]
fn what_came_to_use_chunks_of_a_small_bundle_and_was_replaced_since_keeps_it_no_more() {
    let (mut archive, looked_to, user) = used_since();
    assert_eq!(archive.reserve(9, (2, 4), &FOUR), CommandOutcome::Applied);
    let commit = commit_of(9, &FOUR, Vec::new());
    let (reservation, receipts) = (commit.reservation, commit.receipts);
    let without = ReplacementBundle { reservation, receipts, records: vec![moved(&8)] };
    let replace = Command::ReplaceBundle { bundle: user, left_out: Vec::new(), replacements: vec![without] };
    assert_eq!(run(&mut archive, replace), CommandOutcome::Applied);
    let late = run(&mut archive, compact_unused(&[1, 2, 3], vec![into(7, &ALL)], looked_to));
    assert_eq!(late, CommandOutcome::Applied);
}

#[test]
fn a_bundle_whose_dependency_was_compacted_before_it_came_is_not_committed() {
    let mut archive = three_bundles();
    let dependent = headers_as(BundleRole::Ordinary, 8, 2, vec![bundle_id(2)]);
    assert_eq!(archive.reserve_as(8, &dependent, 4, &FOUR), CommandOutcome::Applied);
    let looked_to = next_bundle(&archive);
    let command = compact_unused(&[1, 2, 3], vec![into(7, &ALL)], looked_to);
    assert_eq!(run(&mut archive, command), CommandOutcome::Applied);
    let commit = commit_of(8, &FOUR, vec![entry(8, &[])]);
    let late = archive.run(Command::Commit { bundles: vec![commit], externals: Vec::new() });
    assert_eq!(late, CommandOutcome::Rejected(RejectReason::UnknownDependency));
}

#[test]
fn who_looked_too_long_ago_looks_again() {
    let mut archive = three_bundles();
    let (looked_to, Ok(counters)) = (next_bundle(&archive), archive.state.counters());
    let later = |more| Counters { next_bundle: counters.next_bundle + more, ..counters };
    archive.state.absorb([Change::PutCounters(later(4_097))]);
    let late = run(&mut archive, compact_unused(&[1, 2, 3], vec![into(7, &ALL)], looked_to));
    assert!(changed(&late, "too many bundles came"), "{late:?}");
    archive.state.absorb([Change::PutCounters(later(4_096))]);
    let command = compact_unused(&[1, 2, 3], vec![into(7, &ALL)], looked_to);
    assert_eq!(run(&mut archive, command), CommandOutcome::Applied);
}

#[test]
fn bundles_that_were_erased_count_as_looked_at_also_where_they_are_the_last() {
    let mut archive = three_bundles();
    archive.commit_with(8, vec![entry(8, &[])], Vec::new());
    archive.govern(withdraw(8));
    archive.govern(LedgerAct::Purge { key: key(8), reason: "court".into() });
    let bundle = bundle_id(8);
    let emptied =
        Command::ReplaceBundle { bundle, left_out: vec![(key(8), at(8))], replacements: Vec::new() };
    assert_eq!(run(&mut archive, emptied), CommandOutcome::Applied);
    let erase = Command::EraseBundle { bundle, surplus: Vec::new() };
    assert_eq!(run(&mut archive, erase), CommandOutcome::Applied);
    let all = [1, 2, 3].map(bundle_id);
    let looked_to = archive.planning(|view| check_unused(view, &all)).unwrap();
    assert_eq!(looked_to, next_bundle(&archive));
}

#[test]
fn only_an_operator_for_content_has_it_done() {
    let mut archive = three_bundles();
    let name = "ada".to_owned();
    archive.govern(LedgerAct::AddOperator { key: uploader(), name: name.clone(), role: OperatorRole::Nodes });
    let by = Actor::Operator { key: uploader(), name };
    let command = compact(&[1, 2, 3], vec![into(7, &ALL)]);
    let Ok(applied) = apply(&archive.state, &TimedCommand { at: archive.now, by, command });
    let needed = OperatorRole::Content;
    assert_eq!(applied.outcome, CommandOutcome::Rejected(RejectReason::NeedsRole(needed)));
    assert_eq!(archive.run(Command::BeginRebuild), CommandOutcome::Applied);
    let rebuilding = archive.run(compact(&[1, 2, 3], vec![into(7, &ALL)]));
    assert_eq!(rebuilding, CommandOutcome::Rejected(RejectReason::Rebuilding));
}

#[test]
fn what_is_like_something_of_a_small_bundle_finds_it_in_the_full_one() {
    let mut archive = three_bundles();
    let record = |name: u8| (at(name), vec![feature(name)]);
    for (tag, names) in [(1, &[1, 2][..]), (2, &[3, 4]), (3, &[5])] {
        let records = names.iter().copied().map(record).collect();
        archive.run(Command::RememberFeatures { bundle: bundle_id(tag), replaces: None, records });
    }
    let from = ALL.map(|(bundle, name)| GatheredPlace { bundle, place: at(name) }).to_vec();
    let gathered = Gathered { bundles: [1, 2, 3].map(bundle_id).to_vec(), from: vec![from] };
    let CompactedBundle { reservation, receipts, records } = into(7, &ALL);
    let summaries = records.iter().zip(ALL).map(|(record, (_, name))| RecordSummary {
        key: record.key,
        block: record.to.block,
        entry: record.to.entry,
        references: Vec::new(),
        features: vec![feature(name)],
    });
    let checked = firn_coordinator_logic::CheckedBundle {
        reservation,
        bundle: bundle_id(7),
        receipts,
        records: summaries.collect(),
    };
    let Ok(hints) = plan_gathered_features(&archive.state, &gathered, std::slice::from_ref(&checked));
    let command = plan_gathering(&gathered, vec![checked], next_bundle(&archive)).unwrap();
    assert_eq!(command, compact_unused(&[1, 2, 3], vec![into(7, &ALL)], next_bundle(&archive)));
    assert_eq!(run(&mut archive, command), CommandOutcome::Applied);
    for hint in hints {
        assert_eq!(run(&mut archive, hint), CommandOutcome::Applied);
    }
    let new = archive.bundle(7).number;
    for name in [1, 2] {
        let Ok(places) = archive.state.similar(feature(name));
        assert!(!places.is_empty() && places.iter().all(|place| place.bundle == new), "{name}: {places:?}");
    }
}

#[test]
fn a_compaction_in_the_log_of_a_version_before_is_applied_as_ever() {
    let (mut before, mut now) = (three_bundles(), three_bundles());
    let (bundles, full) = ([1, 2, 3].map(bundle_id).to_vec(), vec![into(7, &ALL)]);
    let command = Command::CompactBundles { bundles, into: full.clone() };
    assert_eq!(run(&mut before, command), CommandOutcome::Applied);
    assert_eq!(run(&mut now, compact(&[1, 2, 3], full)), CommandOutcome::Applied);
    assert_eq!(full_digest(&before.state), full_digest(&now.state));
}
