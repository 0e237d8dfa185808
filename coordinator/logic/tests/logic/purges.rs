//! Purges: what is purged leaves the archive, and nothing else does.

use std::time::Duration;

use firn_base::{
    BundleId, BundleNumber, CodingId, Location, ManifestRoot, PayloadRoot, ShardIndex, Timestamp,
};
use firn_bundle::{BundleRole, CodingHeader, ContentHeader};
use firn_coordinator_logic::{
    BundleRecord, Catalogue, Facts, FleetView, HealthIndex, PurgeBook, PurgesWanted, RefusedSteps, Scan,
    advance, apply, bundles_since, full_digest, plan_purging, plan_replacement, purge_progress,
    purge_summary, unwanted_of,
};
use firn_wire::{
    Command, CommandOutcome, FeedEvent, LedgerAct, NodeStatus, PlacementChange, PurgeProgress, PurgeSummary,
    RecordPlace, RejectReason, Replaced, ReplacementBundle, SurplusCopy, TimedCommand,
};

use crate::support::{
    Archive, PAYLOAD_BYTES, at, bundle_id, coding_id, commit_of, entry, feature, headers, key, moved,
    node_id, reservation_id, root, status,
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
    let assigned = archive.assigned_by_records();
    for node in archive.nodes() {
        assert_eq!(node.assigned_bytes, assigned.get(&node.number).copied().unwrap_or_default());
    }
    outcome
}

fn withdraw(archive: &mut Archive, name: u8) {
    let act = LedgerAct::Withdraw { key: key(name), reason: "asked to".into() };
    assert_eq!(run(archive, Command::Govern(act)), CommandOutcome::Applied);
}

fn purge(archive: &mut Archive, name: u8) -> CommandOutcome {
    run(archive, Command::Govern(LedgerAct::Purge { key: key(name), reason: "court".into() }))
}

fn reinstate(archive: &mut Archive, name: u8) -> CommandOutcome {
    run(archive, Command::Govern(LedgerAct::Reinstate { key: key(name), reason: "all is well".into() }))
}

/// Records of `names` come into bundle `tag`, in which each lies ten entries behind where it lay.
fn replacement(tag: u8, names: &[u8]) -> ReplacementBundle {
    let commit = commit_of(tag, &FOUR, Vec::new());
    let (reservation, receipts) = (commit.reservation, commit.receipts);
    ReplacementBundle { reservation, receipts, records: names.iter().map(moved).collect() }
}

fn replace(left_out: &[u8], replacements: Vec<ReplacementBundle>) -> Command {
    let left_out = left_out.iter().map(|name| (key(*name), at(*name))).collect();
    Command::ReplaceBundle { bundle: bundle_id(1), left_out, replacements }
}

fn changed(outcome: &CommandOutcome) -> bool {
    matches!(outcome, CommandOutcome::Rejected(RejectReason::BundleChanged(_)))
}

/// Bundle 1 with the keys 1, 2 and 3, of which 3 waits for 9; key 2 is being purged. Bundle 7 is uploaded.
fn shared_bundle() -> Archive {
    let mut archive = Archive::of(4);
    archive.reserve(1, (2, 4), &FOUR);
    archive.commit(1, &FOUR, vec![entry(1, &[]), entry(2, &[]), entry(3, &[9])]);
    withdraw(&mut archive, 2);
    assert_eq!(purge(&mut archive, 2), CommandOutcome::Applied);
    assert_eq!(archive.reserve(7, (2, 4), &FOUR), CommandOutcome::Applied);
    archive
}

fn commands(archive: &Archive) -> Vec<Command> {
    archive.planning(|view| {
        let Ok(book) = PurgeBook::read(&archive.state, view.catalogue);
        plan_purging(&book, view, GRACE, &RefusedSteps::default())
    })
}

const ALL: PurgesWanted = PurgesWanted { since: Timestamp::from_millis(0), after: None, limit: usize::MAX };

fn page(archive: &Archive, wanted: &PurgesWanted) -> Vec<PurgeProgress> {
    archive.planning(|view| {
        let Ok(book) = PurgeBook::read(&archive.state, view.catalogue);
        purge_progress(&book, view, wanted)
    })
}

fn summary(archive: &Archive) -> PurgeSummary {
    let summary = archive.planning(|view| {
        let Ok(book) = PurgeBook::read(&archive.state, view.catalogue);
        purge_summary(&book, view)
    });
    let all = page(archive, &ALL);
    assert_eq!(summary.under_way, all.iter().filter(|purge| !purge.is_done()).count() as u64);
    summary
}

/// The only purge; the summary says of it what it says itself.
fn progress(archive: &Archive) -> PurgeProgress {
    let progress = page(archive, &ALL).remove(0);
    let summary = summary(archive);
    if progress.is_done() {
        assert_eq!(summary, PurgeSummary::default());
    } else {
        let dependents: u64 = progress.kept.iter().map(|kept| u64::from(kept.dependents)).sum();
        let to_repack = progress.to_repack.len() as u64 + dependents;
        let counted = (to_repack, progress.holders, progress.waiting.len() as u64);
        assert_eq!((summary.to_repack, summary.holders, summary.waiting), counted);
    }
    progress
}

#[test]
fn purges_are_listed_a_page_at_a_time_and_from_a_time_on() {
    let mut archive = shared_bundle();
    withdraw(&mut archive, 1);
    assert_eq!(purge(&mut archive, 1), CommandOutcome::Applied);
    let keys =
        |wanted: PurgesWanted| page(&archive, &wanted).iter().map(|purge| purge.key).collect::<Vec<_>>();
    assert_eq!(keys(ALL), [key(1), key(2)]);
    assert_eq!(keys(PurgesWanted { limit: 1, ..ALL }), [key(1)]);
    assert_eq!(keys(PurgesWanted { after: Some(key(1)), ..ALL }), [key(2)]);
    assert!(keys(PurgesWanted { after: Some(key(2)), ..ALL }).is_empty());
    let asked = page(&archive, &ALL).iter().map(|purge| purge.since).max().unwrap();
    assert!(keys(PurgesWanted { since: asked, ..ALL }).contains(&key(1)));
    let later = Timestamp::from_millis(asked.as_millis() + 1);
    assert!(keys(PurgesWanted { since: later, ..ALL }).is_empty());
    assert_eq!(summary(&archive), PurgeSummary { under_way: 2, to_repack: 1, ..PurgeSummary::default() });
}

fn carry_out_all(archive: &mut Archive) {
    for command in commands(archive) {
        assert_eq!(run(archive, command), CommandOutcome::Applied);
    }
}

/// A heartbeat by which a node has carried the ledger out to its end.
fn confirm(archive: &mut Archive, node: u32) {
    let Ok(counters) = archive.state.counters();
    let erased_through = counters.ledger.entries;
    archive.hear_status(node, NodeStatus { erased_through, ..status(1) });
}

fn location(archive: &Archive, name: u8) -> Option<Location> {
    let Ok(location) = archive.state.location(key(name));
    location
}

#[test]
fn only_what_is_withdrawn_is_purged_and_asking_twice_says_it_once() {
    let mut archive = Archive::of(4);
    archive.publish(1, (2, 4), &FOUR);
    assert_eq!(purge(&mut archive, 1), CommandOutcome::Rejected(RejectReason::NotWithdrawn));
    withdraw(&mut archive, 1);
    assert_eq!(purge(&mut archive, 1), CommandOutcome::Applied);
    let Ok(before) = archive.state.counters();
    assert_eq!(purge(&mut archive, 1), CommandOutcome::Applied);
    let Ok(after) = archive.state.counters();
    assert_eq!(before.ledger, after.ledger);
}

#[test]
fn everything_but_what_is_purged_lies_in_the_new_bundle_from_one_command_on() {
    let mut archive = shared_bundle();
    let old = location(&archive, 1).unwrap();
    let Ok(before) = archive.state.counters();
    assert_eq!(run(&mut archive, replace(&[2], vec![replacement(7, &[1, 3])])), CommandOutcome::Applied);
    let new = archive.bundle(7).number;
    assert_ne!(old.bundle, new);
    assert_eq!(location(&archive, 1), Some(Location { bundle: new, block: 0, entry: 11 }));
    let Ok(held) = archive.state.held(key(3));
    assert_eq!((held[0].location.bundle, held[0].location.entry), (new, 13));
    let Ok(withdrawn) = archive.state.withdrawn(key(2));
    assert_eq!(withdrawn.unwrap().places, []);
    let Ok(after) = archive.state.counters();
    assert_eq!(after.visible_keys, before.visible_keys);
    let Ok(feed) = archive.state.feed_from(before.feed_head, 10);
    assert_eq!(feed, [FeedEvent::Visible(key(1))], "whoever knows where it lay looks again");
    // What waits goes on waiting, and appears where it lies now.
    archive.reserve(9, (2, 4), &FOUR);
    archive.commit(9, &FOUR, vec![entry(9, &[])]);
    assert_eq!(location(&archive, 3), Some(Location { bundle: new, block: 0, entry: 13 }));
    // The old bundle is as it was, for readers who know of it only.
    assert_eq!(archive.placements(1).len(), 4);
}

#[test]
fn a_replacement_that_is_asked_for_again_is_refused_and_changes_nothing_also_of_what_is_erased() {
    let mut archive = shared_bundle();
    // As of an operator's program whose answer was lost.
    let command = replace(&[2], vec![replacement(7, &[1, 3])]);
    assert_eq!(run(&mut archive, command.clone()), CommandOutcome::Applied);
    let again = |archive: &mut Archive| {
        let (before, place) = (full_digest(&archive.state), location(archive, 1));
        let outcome = run(archive, command.clone());
        assert!(changed(&outcome), "{outcome:?}");
        assert_eq!((full_digest(&archive.state), location(archive, 1)), (before, place));
    };
    again(&mut archive);
    let erase = Command::EraseBundle { bundle: bundle_id(1), surplus: Vec::new() };
    assert_eq!(run(&mut archive, erase), CommandOutcome::Applied);
    again(&mut archive);
}

#[test]
fn variants_and_withdrawn_records_move_with_their_bundle_and_can_be_reinstated_there() {
    let mut archive = Archive::of(4);
    archive.publish(5, (2, 4), &FOUR);
    archive.reserve(1, (2, 4), &FOUR);
    archive.commit(1, &FOUR, vec![entry(5, &[]), entry(4, &[]), entry(2, &[])]);
    withdraw(&mut archive, 4);
    withdraw(&mut archive, 2);
    purge(&mut archive, 2);
    archive.reserve(7, (2, 4), &FOUR);
    assert_eq!(run(&mut archive, replace(&[2], vec![replacement(7, &[5, 4])])), CommandOutcome::Applied);
    let new = archive.bundle(7).number;
    let Ok(places) = archive.state.locations(key(5));
    assert_eq!(places[1], Location { bundle: new, block: 0, entry: 15 });
    assert_eq!(reinstate(&mut archive, 4), CommandOutcome::Applied);
    assert_eq!(location(&archive, 4), Some(Location { bundle: new, block: 0, entry: 14 }));
}

#[test]
fn a_bundle_of_which_a_record_is_forgotten_moved_twice_or_left_out_unasked_is_not_replaced() {
    let mut archive = shared_bundle();
    for (left_out, moved) in [
        (&[2][..], &[1][..]),
        (&[2], &[1, 1]),
        (&[2, 1], &[3]),
        (&[], &[1, 2]),
        (&[2], &[1, 4]),
        (&[2, 3], &[1]),
    ] {
        let outcome = run(&mut archive, replace(left_out, vec![replacement(7, moved)]));
        assert!(changed(&outcome), "{left_out:?} {moved:?}: {outcome:?}");
    }
    // Also with a place that is another's.
    let mut wrong = replacement(7, &[1, 3]);
    wrong.records.swap(0, 1);
    (wrong.records[0].key, wrong.records[1].key) = (wrong.records[1].key, wrong.records[0].key);
    assert!(changed(&run(&mut archive, replace(&[2], vec![wrong]))));
    assert!(archive.is_visible(1));
}

#[test]
fn replacements_need_receipts_as_any_commit_does() {
    let mut archive = shared_bundle();
    let mut few = replacement(7, &[1, 3]);
    few.receipts.truncate(2);
    let outcome = run(&mut archive, replace(&[2], vec![few]));
    let needed = RejectReason::TooFewReceipts { found: 2, needed: 3 };
    assert_eq!(outcome, CommandOutcome::Rejected(needed));
}

#[test]
fn what_is_purged_while_it_is_packed_anew_has_to_be_packed_once_more() {
    let mut archive = shared_bundle();
    withdraw(&mut archive, 1);
    purge(&mut archive, 1);
    assert_eq!(run(&mut archive, replace(&[2], vec![replacement(7, &[1, 3])])), CommandOutcome::Applied);
    let number = archive.bundle(7).number;
    assert_eq!(archive.planning(|view| unwanted_of(view.catalogue, number)), [(key(1), at(11))]);
}

#[test]
fn a_plan_of_replacement_names_every_record_and_none_that_is_unwanted() {
    use firn_coordinator_logic::{CheckedBundle, RecordSummary, ReplacementError};
    let record = RecordSummary {
        key: key(1),
        block: 0,
        entry: 11,
        references: Vec::new(),
        features: vec![feature(1)],
    };
    let checked = || {
        vec![CheckedBundle {
            reservation: reservation_id(7),
            bundle: bundle_id(7),
            receipts: Vec::new(),
            records: vec![record.clone()],
        }]
    };
    let replaced = |from: Vec<Vec<RecordPlace>>| Replaced { bundle: bundle_id(1), from };
    let unwanted = || vec![(key(2), at(2))];
    let plan = plan_replacement(&replaced(vec![vec![at(1)]]), unwanted(), checked());
    let Ok(Command::ReplaceBundle { left_out, replacements, .. }) = plan else { panic!("{plan:?}") };
    assert_eq!(left_out, unwanted());
    assert_eq!(replacements[0].records, [moved(&1)]);
    for (from, error) in [
        (vec![], ReplacementError::Places),
        (vec![vec![]], ReplacementError::Places),
        (vec![vec![at(2)]], ReplacementError::Unwanted),
    ] {
        assert_eq!(plan_replacement(&replaced(from), unwanted(), checked()), Err(error));
    }
}

#[test]
fn a_bundle_is_erased_once_readers_know_and_only_if_others_took_its_place() {
    let mut archive = shared_bundle();
    let erase = Command::EraseBundle { bundle: bundle_id(1), surplus: Vec::new() };
    assert!(changed(&run(&mut archive, erase.clone())));
    let by_hand = Command::Govern(LedgerAct::Erase { bundle: bundle_id(1) });
    assert!(matches!(run(&mut archive, by_hand), CommandOutcome::Rejected(RejectReason::Malformed(_))));
    assert_eq!(commands(&archive), []);
    assert_eq!(progress(&archive).to_repack, [bundle_id(1)]);
    run(&mut archive, replace(&[2], vec![replacement(7, &[1, 3])]));
    archive.wait(599_999);
    archive.hear_all_but(&[]);
    assert_eq!(commands(&archive), []);
    assert_eq!(progress(&archive).passing, [bundle_id(1)]);
    archive.wait(1);
    assert_eq!(commands(&archive), std::slice::from_ref(&erase));
    let Ok(before) = archive.state.counters();
    carry_out_all(&mut archive);
    let Ok(after) = archive.state.counters();
    assert_eq!(before.payload_bytes - after.payload_bytes, PAYLOAD_BYTES);
    let Ok(ledger) = archive.state.ledger_from(before.ledger.entries, 2);
    assert_eq!(ledger[0].act, LedgerAct::Erase { bundle: bundle_id(1) });
    assert_eq!(archive.bundle(1).codings, []);
    assert!(archive.is_visible(1));
    assert!(changed(&run(&mut archive, erase)), "once");
}

#[test]
fn a_bundle_is_not_erased_while_its_replacement_is_weaker_than_a_commit_allows() {
    let mut archive = shared_bundle();
    run(&mut archive, replace(&[2], vec![replacement(7, &[1, 3])]));
    let lost = |index| PlacementChange::Missing {
        coding: coding_id(7, 2),
        index: ShardIndex(index),
        node: node_id(u32::from(index)),
    };
    archive.run(Command::RecordPlacements(vec![lost(0), lost(1)]));
    archive.wait(600_000);
    archive.hear_all_but(&[]);
    assert_eq!(commands(&archive), []);
}

#[test]
fn each_holder_counts_as_waiting_until_it_says_that_it_has_carried_the_ledger_out() {
    let mut archive = Archive::of(5);
    archive.publish(1, (2, 4), &FOUR);
    // Another copy of a shard, in the books as surplus only.
    let (coding, index, node) = (coding_id(1, 2), ShardIndex(0), node_id(4));
    archive.run(Command::RecordPlacements(vec![PlacementChange::Stray { coding, index, node }]));
    withdraw(&mut archive, 1);
    purge(&mut archive, 1);
    // It shares its bundle with nothing: nobody need pack anything.
    assert_eq!(progress(&archive).passing, [bundle_id(1)]);
    carry_out_all(&mut archive);
    archive.wait(600_000);
    archive.hear_all_but(&[]);
    let surplus = vec![SurplusCopy { node, coding, index }];
    assert_eq!(commands(&archive), [Command::EraseBundle { bundle: bundle_id(1), surplus }]);
    carry_out_all(&mut archive);
    assert_eq!(archive.surplus(), []);
    let waiting = progress(&archive);
    assert_eq!((waiting.holders, waiting.waiting.len()), (5, 5));
    for node in [0, 1, 3, 4] {
        confirm(&mut archive, node);
    }
    carry_out_all(&mut archive);
    let waiting = progress(&archive);
    assert_eq!((waiting.holders, waiting.waiting.len()), (5, 1));
    assert_eq!(waiting.waiting[0].node, node_id(2));
    assert!(!waiting.is_done());
    // What was confirmed is committed: a leader that has heard nobody knows it too.
    archive.watch = firn_coordinator_logic::FleetWatch::new(archive.now);
    assert_eq!(progress(&archive).waiting.len(), 1);
    archive.hear(2);
    assert_eq!(commands(&archive), [], "a heartbeat is no confirmation");
    confirm(&mut archive, 2);
    carry_out_all(&mut archive);
    assert!(progress(&archive).is_done());
}

#[test]
fn a_purged_key_can_be_published_again_once_no_bundle_holds_it_but_not_in_the_same_bundle() {
    let mut archive = Archive::of(4);
    archive.publish(1, (2, 4), &FOUR);
    withdraw(&mut archive, 1);
    purge(&mut archive, 1);
    assert_eq!(reinstate(&mut archive, 1), CommandOutcome::Rejected(RejectReason::BeingPurged));
    carry_out_all(&mut archive);
    assert_eq!(reinstate(&mut archive, 1), CommandOutcome::Applied);
    assert!(!archive.is_visible(1));
    archive.wait(600_000);
    archive.hear_all_but(&[]);
    carry_out_all(&mut archive);
    assert_eq!(archive.reserve(1, (2, 4), &FOUR), CommandOutcome::Rejected(RejectReason::BundleErased));
    archive.reserve(2, (2, 4), &FOUR);
    archive.commit(2, &FOUR, vec![entry(1, &[]), entry(2, &[])]);
    assert!(archive.is_visible(1));
}

/// Headers of a part: what a head's parts are.
fn part(tag: u8) -> (ContentHeader, CodingHeader) {
    let payload = (PAYLOAD_BYTES, PayloadRoot::from_bytes([tag; 32]));
    let manifest = (200, ManifestRoot::from_bytes([tag; 32]));
    let content = ContentHeader::new(BundleRole::Part, payload, manifest, Vec::new()).unwrap();
    let roots = (0..6).map(root).collect();
    let shard = firn_base::shard_bytes(PAYLOAD_BYTES, 2);
    let coding = CodingHeader::new(content.bundle_id(), 2, shard, roots).unwrap();
    (content, coding)
}

#[test]
fn the_parts_of_a_purged_object_go_behind_its_head() {
    let mut archive = Archive::of(4);
    let part = part(50);
    let head = headers(51, 2, vec![part.0.bundle_id()]);
    archive.reserve_as(50, &part, 4, &FOUR);
    archive.reserve_as(51, &head, 4, &FOUR);
    let bundles = vec![commit_of(50, &FOUR, Vec::new()), commit_of(51, &FOUR, vec![entry(1, &[])])];
    archive.run(Command::Commit { bundles, externals: Vec::new() });
    withdraw(&mut archive, 1);
    purge(&mut archive, 1);
    carry_out_all(&mut archive);
    archive.wait(600_000);
    archive.hear_all_but(&[]);
    let erased = |commands: &[Command]| -> Vec<BundleId> {
        let bundle = |command: &Command| match command {
            Command::EraseBundle { bundle, .. } => Some(*bundle),
            _ => None,
        };
        commands.iter().filter_map(bundle).collect()
    };
    assert_eq!(erased(&commands(&archive)), [head.0.bundle_id()], "the head needs its part");
    carry_out_all(&mut archive);
    assert_eq!(erased(&commands(&archive)), [part.0.bundle_id()]);
    carry_out_all(&mut archive);
    let Ok(bundles) = archive.state.bundles_from(BundleNumber(0), 9);
    assert!(bundles.iter().all(|bundle: &BundleRecord| bundle.codings.is_empty()));
}

#[test]
fn an_erased_bundle_is_neither_repaired_nor_counted_by_a_leader_that_saw_it_go() {
    let mut archive = Archive::of(4);
    archive.publish(1, (2, 4), &FOUR);
    archive.publish(2, (2, 4), &FOUR);
    let Ok(mut catalogue) = Catalogue::load(&archive.state);
    let mut health = HealthIndex::new();
    let fleet = FleetView::new(&catalogue, &archive.watch, &archive.orders, archive.now);
    let all = catalogue.bundles().map(|bundle| bundle.number).collect();
    health.update(&catalogue, &fleet, &all, archive.now);
    withdraw(&mut archive, 1);
    purge(&mut archive, 1);
    carry_out_all(&mut archive);
    archive.wait(600_000);
    archive.hear_all_but(&[]);
    for command in commands(&archive) {
        let timed = TimedCommand::of_coordinators(archive.now, command.clone());
        let Ok(applied) = apply(&archive.state, &timed);
        let changed = catalogue.absorb(applied.changes.iter(), archive.now);
        let fleet = FleetView::new(&catalogue, &archive.watch, &archive.orders, archive.now);
        health.update(&catalogue, &fleet, &changed, archive.now);
        archive.run(command);
    }
    assert_eq!(catalogue.bundles().map(|bundle| bundle.id).collect::<Vec<_>>(), [bundle_id(2)]);
    assert!(catalogue.held_by(archive.number(0)).len() == 1);
    assert_eq!(health.by_spare().iter().map(|count| count.bundles).sum::<u64>(), 1);
    let gone: CodingId = coding_id(1, 2);
    assert!(catalogue.bundle_of(gone).is_none());
}

#[test]
fn what_was_only_packed_anew_is_not_taken_for_newer_than_it_is() {
    let mut archive = shared_bundle();
    let begun = archive.now;
    archive.wait(1_000);
    archive.publish(5, (2, 4), &FOUR);
    run(&mut archive, replace(&[2], vec![replacement(7, &[1, 3])]));
    let numbers =
        |tags: &[u8]| -> Vec<BundleNumber> { tags.iter().map(|tag| archive.bundle(*tag).number).collect() };
    let since = |time, from| {
        let Ok(page) = bundles_since(&archive.state, time, from);
        page
    };
    let first = BundleNumber(0);
    assert_eq!(since(begun, first), (numbers(&[1, 5, 7]), None));
    assert_eq!(since(archive.now, first), (numbers(&[5]), None));
    assert_eq!(since(begun, archive.bundle(7).number), (numbers(&[7]), None));
}

#[test]
fn several_acts_of_governance_are_recorded_together_or_not_at_all() {
    let mut archive = Archive::of(4);
    archive.publish(1, (2, 4), &FOUR);
    let withdrawn = LedgerAct::Withdraw { key: key(1), reason: "asked to".into() };
    let wrong = LedgerAct::Purge { key: key(9), reason: "asked to".into() };
    let outcome = run(&mut archive, Command::GovernAll(vec![withdrawn.clone(), wrong]));
    assert_eq!(outcome, CommandOutcome::Rejected(RejectReason::NotWithdrawn));
    assert!(archive.is_visible(1));
    let purged = LedgerAct::Purge { key: key(1), reason: "asked to".into() };
    assert_eq!(run(&mut archive, Command::GovernAll(vec![withdrawn, purged])), CommandOutcome::Applied);
    let Ok(purge) = archive.state.purge(key(1));
    assert_eq!(purge.unwrap().places.len(), 1);
}
