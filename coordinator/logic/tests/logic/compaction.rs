//! Compaction: small bundles come together, every record with them, and an archive that is told again comes out the same.

use std::time::Duration;

use firn_base::{BundleId, BundleNumber, ByteCount, Location, Timestamp};
use firn_bundle::BundleRole;
use firn_coordinator_logic::{
    BundleRecord, Catalogue, CertifiedBundle, Change, Counters, Facts, GoingContent, MemoryState, PurgeBook,
    PurgesWanted, RecordSummary, RefusedSteps, Scan, UsedByOthers, advance, apply, check_compaction,
    check_unused, full_digest, order_of, plan_compaction, plan_gathered_features, plan_gathering,
    plan_purging, purge_progress, read_small, small_bundles,
};
use firn_wire::{
    Actor, BundleFill, COMPACTION_GROUPS_MAX, Command, CommandOutcome, CompactedBundle, CompactionPlan,
    FeedEvent, Gathered, GatheredPlace, GatheredRecord, LedgerAct, NodeStatus, OperatorRole, RecordPlace,
    RejectReason, ReplacementBundle, SurplusCopy, TimedCommand,
};

use crate::rebuild_support::{evidence, heads, in_order, show, withdraw};
use crate::support::{
    Archive, PAYLOAD_BYTES, at, bundle_id, commit_of, entry, feature, headers_as, key, moved, node_id,
    status, uploader,
};

const FOUR: [u32; 4] = [0, 1, 2, 3];
const GRACE: Duration = Duration::from_secs(600);

/// Runs a command, and checks the kept digest against one made anew.
fn run(archive: &mut Archive, command: Command) -> CommandOutcome {
    let Ok(mut digest) = full_digest(&archive.state);
    let timed = TimedCommand::of_coordinators(archive.now, command.clone());
    let Ok(applied) = apply(&archive.state, &timed);
    let Ok(()) = advance(&mut digest, &archive.state, &applied.changes);
    let outcome = archive.run(command);
    assert_eq!(Ok(digest), full_digest(&archive.state));
    outcome
}

/// A record of the bundle that is named so many-th comes ten entries behind where it lay.
fn gathered((bundle, name): &(u16, u8)) -> GatheredRecord {
    GatheredRecord {
        key: key(*name),
        from: GatheredPlace { bundle: *bundle, place: at(*name) },
        to: RecordPlace { block: *bundle, entry: at(*name + 10).entry },
    }
}

fn into(tag: u8, records: &[(u16, u8)]) -> CompactedBundle {
    let commit = commit_of(tag, &FOUR, Vec::new());
    let (reservation, receipts) = (commit.reservation, commit.receipts);
    CompactedBundle { reservation, receipts, records: records.iter().map(gathered).collect() }
}

fn compact(tags: &[u8], into: Vec<CompactedBundle>) -> Command {
    Command::CompactBundles { bundles: tags.iter().copied().map(bundle_id).collect(), into }
}

fn compact_unused(tags: &[u8], into: Vec<CompactedBundle>, looked_to: BundleNumber) -> Command {
    let bundles = tags.iter().copied().map(bundle_id).collect();
    Command::CompactUnused { bundles, into, looked_to }
}

fn next_bundle(archive: &Archive) -> BundleNumber {
    let Ok(counters) = archive.state.counters();
    BundleNumber(counters.next_bundle)
}

fn changed(outcome: &CommandOutcome, why: &str) -> bool {
    matches!(outcome, CommandOutcome::Rejected(RejectReason::BundleChanged(said)) if said.contains(why))
}

fn location(archive: &Archive, name: u8) -> Option<Location> {
    let Ok(location) = archive.state.location(key(name));
    location
}

/// Bundle 1 has the keys 1 and 2, bundle 2 has 3, which refers to 1, and 4, which waits for 90; bundle 3 has 5. Bundle 7 is
/// uploaded.
fn three_bundles() -> Archive {
    let mut archive = Archive::of(4);
    archive.commit_with(1, vec![entry(1, &[]), entry(2, &[])], vec![key(50)]);
    archive.wait(5);
    archive.commit_with(2, vec![entry(3, &[]), entry(4, &[90])], Vec::new());
    archive.wait(5);
    archive.commit_with(3, vec![entry(5, &[])], vec![key(60)]);
    archive.wait(5);
    assert_eq!(archive.reserve(7, (2, 4), &FOUR), CommandOutcome::Applied);
    archive
}

const ALL: [(u16, u8); 5] = [(0, 1), (0, 2), (1, 3), (1, 4), (2, 5)];

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
    let command =
        Command::CompactBundles { bundles: vec![bundle_id(1), part], into: vec![into(7, &ALL[..2])] };
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

fn fill(archive: &Archive) -> BundleFill {
    let Ok(catalogue) = Catalogue::load(&archive.state);
    catalogue.fill()
}

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
fn what_was_compacted_counts_no_more_and_is_erased_once_readers_know_and_the_new_one_is_safe() {
    let mut archive = three_bundles();
    assert_eq!(run(&mut archive, compact(&[1, 2, 3], vec![into(7, &ALL)])), CommandOutcome::Applied);
    assert_eq!(fill(&archive).bundles, 1, "what others took the place of is not counted");
    let commands = |archive: &Archive| {
        archive.planning(|view| {
            let Ok(book) = PurgeBook::read(&archive.state, view.catalogue);
            plan_purging(&book, view, GRACE, &RefusedSteps::default())
        })
    };
    assert_eq!(commands(&archive), []);
    archive.wait(600_000);
    archive.hear_all_but(&[]);
    let erase = |tag| Command::EraseBundle { bundle: bundle_id(tag), surplus: Vec::<SurplusCopy>::new() };
    assert_eq!(commands(&archive), [1, 2, 3].map(erase));
    for tag in [1, 2, 3] {
        assert_eq!(run(&mut archive, erase(tag)), CommandOutcome::Applied);
    }
    let Ok(counters) = archive.state.counters();
    assert_eq!(counters.payload_bytes, PAYLOAD_BYTES);
    for node in FOUR {
        let erased_through = counters.ledger.entries;
        archive.hear_status(node, NodeStatus { erased_through, ..status(1) });
    }
    for command in commands(&archive) {
        assert_eq!(run(&mut archive, command), CommandOutcome::Applied);
    }
    assert!(archive.planning(|view| view.catalogue.is_purged()));
    assert_eq!(fill(&archive).bundles, 1);
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

/// Bundles 1 and 2 come together, and 4 with 5; in between there are a withdrawal of what 2 refers to, and records that refer
/// to what is compacted, wait for it, and are external to it.
fn compacted() -> Archive {
    let mut archive = Archive::of(4);
    archive.govern(LedgerAct::AddUploader { key: uploader(), name: "hydra".into() });
    archive.commit_with(1, vec![entry(1, &[]), entry(2, &[])], vec![key(50)]);
    archive.wait(5);
    archive.commit_with(3, vec![entry(5, &[]), entry(6, &[4])], Vec::new());
    archive.wait(5);
    archive.commit_with(2, vec![entry(3, &[]), entry(4, &[90])], vec![key(60)]);
    archive.wait(5);
    archive.govern(withdraw(1));
    archive.commit_with(4, vec![entry(7, &[1])], Vec::new());
    archive.commit_with(5, vec![entry(8, &[])], Vec::new());
    archive.wait(5);
    for (tag, olds, records) in
        [(21, [1, 2], &[(0, 1), (0, 2), (1, 3), (1, 4)][..]), (22, [4, 5], &[(0, 7), (1, 8)][..])]
    {
        assert_eq!(archive.reserve(tag, (2, 4), &FOUR), CommandOutcome::Applied);
        assert_eq!(run(&mut archive, compact(&olds, vec![into(tag, records)])), CommandOutcome::Applied);
    }
    archive.wait(5);
    archive.commit_with(6, vec![entry(9, &[3])], Vec::new());
    archive
}

fn manifests(bundle: &CertifiedBundle) -> Vec<RecordSummary> {
    let record = |(block, name): (u16, u8), behind: u8, references: &[u8]| RecordSummary {
        key: key(name),
        block,
        entry: at(name + behind).entry,
        references: references.iter().copied().map(key).collect(),
        features: Vec::new(),
    };
    let tags = [1, 2, 3, 4, 5, 6, 21, 22].into_iter();
    let tag = tags.into_iter().find(|tag| bundle_id(*tag) == bundle.certificate.bundle).unwrap();
    let small = |name: u8| match name {
        2 => vec![50],
        3 => vec![1, 60],
        4 => vec![90],
        6 => vec![4],
        7 => vec![1],
        9 => vec![3],
        _ => Vec::new(),
    };
    let all = |records: &[(u16, u8)], behind| {
        records.iter().map(|place| record(*place, behind, &small(place.1))).collect()
    };
    match tag {
        1 => all(&[(0, 1), (0, 2)], 0),
        2 => all(&[(0, 3), (0, 4)], 0),
        3 => all(&[(0, 5), (0, 6)], 0),
        4 => all(&[(0, 7)], 0),
        5 => all(&[(0, 8)], 0),
        6 => all(&[(0, 9)], 0),
        21 => all(&[(0, 1), (0, 2), (1, 3), (1, 4)], 10),
        _ => all(&[(0, 7), (1, 8)], 10),
    }
}

fn told_again(old: &Archive, tags: &[u8]) -> Archive {
    let mut evidence = evidence();
    let ledger = old.ledger();
    for node in [1, 2] {
        evidence.show_governance(node_id(node), &[], &heads(&[1, 2], &ledger), ledger.clone());
        for tag in tags {
            show(&mut evidence, node_id(node), old.kept(*tag, &[0, 1]));
        }
    }
    let mut new = Archive::beginning(MemoryState::new(), old.now);
    let _ = in_order(&evidence);
    new.restore(&evidence, manifests);
    new
}

fn visible(archive: &Archive) -> Vec<u8> {
    (1..=99).filter(|name| archive.is_visible(*name)).collect()
}

#[test]
fn an_archive_that_was_compacted_and_is_told_again_has_the_same_digests() {
    let mut old = compacted();
    assert_eq!(visible(&old), [2, 3, 5, 8, 9], "4 and 6 wait, 1 is withdrawn, and 7 came later than that");
    for tag in [1, 2, 4, 5] {
        let erase = Command::EraseBundle { bundle: bundle_id(tag), surplus: Vec::new() };
        assert_eq!(run(&mut old, erase), CommandOutcome::Applied);
    }
    let new = told_again(&old, &[22, 6, 21, 3]);
    assert_eq!(visible(&new), visible(&old));
    assert_eq!(new.digests(), old.digests());
    let (Ok(before), Ok(after)) = (old.state.counters(), new.state.counters());
    assert_eq!(
        (after.visible_keys, after.held_records, after.withdrawn, after.externals),
        (before.visible_keys, before.held_records, before.withdrawn, before.externals)
    );
}

#[test]
fn an_archive_that_is_lost_between_compaction_and_erasure_comes_back_with_both_and_counts_no_path_twice() {
    let old = compacted();
    let new = told_again(&old, &[1, 2, 3, 4, 5, 6, 21, 22]);
    assert_eq!(visible(&new), visible(&old));
    let (Ok(before), Ok(after)) = (old.state.counters(), new.state.counters());
    assert_eq!((after.visible_keys, after.withdrawn), (before.visible_keys, before.withdrawn));
    let Ok(places) = new.state.locations(key(3));
    assert_eq!(places.len(), 2, "by the old bundle and by the new one");
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
    let hints = plan_gathered_features(&gathered, std::slice::from_ref(&checked));
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
fn a_purge_goes_on_behind_a_compaction() {
    let mut archive = three_bundles();
    assert_eq!(run(&mut archive, compact(&[1, 2, 3], vec![into(7, &ALL)])), CommandOutcome::Applied);
    archive.govern(withdraw(1));
    archive.govern(LedgerAct::Purge { key: key(1), reason: "court".into() });
    // Its bytes lie in a bundle that was replaced before, and nobody asks which.
    let old = [1, 2, 3].map(bundle_id);
    let progress = |archive: &Archive| {
        let wanted = PurgesWanted { since: Timestamp::default(), after: None, limit: usize::MAX };
        let mut all = archive.planning(|view| {
            let Ok(book) = PurgeBook::read(&archive.state, view.catalogue);
            purge_progress(&book, view, &wanted)
        });
        all.remove(0)
    };
    let before = progress(&archive);
    assert_eq!((&before.to_repack[..], &before.passing[..]), (&[bundle_id(7)][..], &old[..]));
    assert_eq!(archive.reserve(8, (2, 4), &FOUR), CommandOutcome::Applied);
    let commit = commit_of(8, &FOUR, Vec::new());
    let stays =
        ALL[1..].iter().map(gathered).map(|record| firn_wire::MovedRecord { from: record.to, ..moved(&0) });
    let stays = stays.zip(&ALL[1..]).map(|(record, (_, name))| firn_wire::MovedRecord {
        key: key(*name),
        to: at(*name),
        ..record
    });
    let replacement = ReplacementBundle {
        reservation: commit.reservation,
        receipts: commit.receipts,
        records: stays.collect(),
    };
    let replace = Command::ReplaceBundle {
        bundle: bundle_id(7),
        left_out: vec![(key(1), RecordPlace { block: 0, entry: 11 })],
        replacements: vec![replacement],
    };
    assert_eq!(run(&mut archive, replace), CommandOutcome::Applied);
    assert_eq!(visible(&archive), [2, 3, 5]);
    assert_eq!(progress(&archive).passing, [&old[..], &[bundle_id(7)]].concat());
    let erase = |bundle| Command::EraseBundle { bundle, surplus: Vec::new() };
    assert_eq!(run(&mut archive, erase(bundle_id(7))), CommandOutcome::Applied);
    assert_eq!(progress(&archive).passing, old);
    for bundle in old {
        assert_eq!(run(&mut archive, erase(bundle)), CommandOutcome::Applied);
    }
    let after = progress(&archive);
    assert!(after.passing.is_empty() && !after.is_done(), "no node has said that it is gone");
}

#[test]
fn of_what_was_committed_at_one_time_a_compacted_bundle_is_told_before_what_came_after_an_act() {
    let mut archive = Archive::of(4);
    archive.commit_with(1, vec![entry(1, &[])], Vec::new());
    archive.commit_with(2, vec![entry(2, &[])], Vec::new());
    archive.govern(LedgerAct::AddUploader { key: uploader(), name: "hydra".into() });
    archive.commit_with(3, vec![entry(3, &[])], Vec::new());
    assert_eq!(archive.reserve(7, (2, 4), &FOUR), CommandOutcome::Applied);
    let both = into(7, &[(0, 1), (1, 2)]);
    assert_eq!(run(&mut archive, compact(&[1, 2], vec![both])), CommandOutcome::Applied);
    assert_eq!(archive.bundle(7).committed_at, archive.bundle(3).committed_at);
    let (mut evidence, ledger) = (evidence(), archive.ledger());
    for node in [1, 2] {
        evidence.show_governance(node_id(node), &[], &heads(&[1, 2], &ledger), ledger.clone());
        for tag in [3, 7] {
            show(&mut evidence, node_id(node), archive.kept(tag, &[0, 1]));
        }
    }
    assert_eq!(in_order(&evidence), [bundle_id(7), bundle_id(3)]);
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
