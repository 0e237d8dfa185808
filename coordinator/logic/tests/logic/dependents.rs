//! Purges of bundles whose chunks others use: those are packed anew, nothing more is, and every purge ends.

use std::time::Duration;

use firn_base::{BundleId, Timestamp};
use firn_bundle::{BundleRole, CodingHeader, ContentHeader};
use firn_coordinator_logic::{
    ABSENCE_MOST, COUNT_LOST_AFTER_MILLIS, Catalogue, Facts, MemoryState, PurgeBook, PurgesWanted,
    RefusedSteps, apply, leaving_with, plan_purging, plan_restored, purge_progress, purge_summary,
    replaced_among,
};
use firn_wire::{
    Command, CommandOutcome, KeptBundle, LedgerAct, NodeStatus, PurgeProgress, RejectReason,
    ReplacementBundle, TimedCommand,
};

use crate::rebuild_support::{codings, evidence, heads, in_order, show};
use crate::support::{
    Archive, bundle_id, commit_of, entry, headers, headers_as, key, moved, node_id, status,
};

const FOUR: [u32; 4] = [0, 1, 2, 3];
const GRACE: Duration = Duration::from_secs(600);

fn absence_millis() -> u64 {
    u64::try_from(ABSENCE_MOST.as_millis()).unwrap()
}

/// Headers of an ordinary bundle that uses chunks of these.
fn using(tag: u8, bundles: &[BundleId]) -> (ContentHeader, CodingHeader) {
    headers_as(BundleRole::Ordinary, tag, 2, bundles.to_vec())
}

impl Archive {
    /// Commits a bundle of these headers, which holds the key of its tag, and gives its id.
    fn add(&mut self, tag: u8, headers: &(ContentHeader, CodingHeader)) -> BundleId {
        self.add_with(tag, headers, vec![entry(tag, &[])])
    }

    fn add_with(
        &mut self,
        tag: u8,
        headers: &(ContentHeader, CodingHeader),
        entries: Vec<firn_wire::IndexEntry>,
    ) -> BundleId {
        assert_eq!(self.reserve_as(tag, headers, 4, &FOUR), CommandOutcome::Applied);
        let outcome = self.commit(tag, &FOUR, entries);
        assert!(matches!(outcome, CommandOutcome::Committed { .. }), "{outcome:?}");
        headers.0.bundle_id()
    }

    /// Lets a bundle of these headers take the place of `old`, which holds the key `name` alone.
    fn pack_anew(
        &mut self,
        old: BundleId,
        name: u8,
        (tag, headers): (u8, &(ContentHeader, CodingHeader)),
    ) -> CommandOutcome {
        assert_eq!(self.reserve_as(tag, headers, 4, &FOUR), CommandOutcome::Applied);
        let commit = commit_of(tag, &FOUR, Vec::new());
        let (reservation, receipts) = (commit.reservation, commit.receipts);
        let replacement = ReplacementBundle { reservation, receipts, records: vec![moved(&name)] };
        self.run(Command::ReplaceBundle {
            bundle: old,
            left_out: Vec::new(),
            replacements: vec![replacement],
        })
    }

    fn purge_away(&mut self, name: u8) {
        let (reason, key) = ("court".to_owned(), key(name));
        for act in [LedgerAct::Withdraw { key, reason: reason.clone() }, LedgerAct::Purge { key, reason }] {
            assert_eq!(self.run(Command::Govern(act)), CommandOutcome::Applied);
        }
    }

    fn planned(&self) -> Vec<Command> {
        self.planning(|view| {
            let Ok(book) = PurgeBook::read(&self.state, view.catalogue);
            plan_purging(&book, view, GRACE, &RefusedSteps::default())
        })
    }

    /// Carries out what follows from purges, once readers know of all that was replaced; gives what was erased.
    fn carry_on(&mut self) -> Vec<BundleId> {
        self.wait(600_000);
        self.hear_all_but(&[]);
        let planned = self.planned();
        for command in planned.clone() {
            assert_eq!(self.run(command), CommandOutcome::Applied);
        }
        let erased = planned.into_iter().filter_map(|command| match command {
            Command::EraseBundle { bundle, .. } => Some(bundle),
            _ => None,
        });
        erased.collect()
    }

    /// All nodes have carried the ledger out.
    fn confirm_all(&mut self) {
        for node in FOUR {
            let Ok(counters) = self.state.counters();
            let erased_through = counters.ledger.entries;
            self.hear_status(node, NodeStatus { erased_through, ..status(1) });
        }
        for command in self.planned() {
            assert_eq!(self.run(command), CommandOutcome::Applied);
        }
    }

    fn progress_of_all(&self) -> Vec<PurgeProgress> {
        let wanted = PurgesWanted { since: Timestamp::default(), after: None, limit: usize::MAX };
        self.planning(|view| {
            let Ok(book) = PurgeBook::read(&self.state, view.catalogue);
            purge_progress(&book, view, &wanted)
        })
    }

    fn the_progress(&self) -> PurgeProgress {
        let progress = self.progress_of_all().remove(0);
        let summary = self.planning(|view| {
            let Ok(book) = PurgeBook::read(&self.state, view.catalogue);
            purge_summary(&book, view)
        });
        let waiting: u64 = progress.kept.iter().map(|kept| u64::from(kept.dependents)).sum();
        assert_eq!(summary.to_repack, progress.to_repack.len() as u64 + waiting);
        assert_eq!(summary.under_way == 0, progress.is_done());
        progress
    }

    fn is_erased(&self, bundle: BundleId) -> bool {
        let Ok(record) = self.state.bundle_by_id(bundle);
        record.unwrap().codings.is_empty()
    }
}

/// Bundle 1 is all purged; bundle 60 uses chunks of it.
fn kept() -> (Archive, BundleId) {
    let mut archive = Archive::of(4);
    archive.publish(1, (2, 4), &FOUR);
    let dependent = archive.add(60, &using(60, &[bundle_id(1)]));
    archive.purge_away(1);
    assert_eq!(archive.carry_on(), []);
    (archive, dependent)
}

#[test]
fn what_uses_chunks_of_a_purged_bundle_is_named_and_once_it_is_packed_anew_both_go() {
    let (mut archive, dependent) = kept();
    assert_eq!(archive.carry_on(), [], "as long as a path is read by it");
    let progress = archive.the_progress();
    let [needed] = &progress.kept[..] else { panic!("{progress:?}") };
    assert_eq!(
        (needed.bundle, needed.dependents, &needed.to_repack[..]),
        (bundle_id(1), 1, &[dependent][..])
    );
    let new = headers(70, 2, Vec::new());
    assert_eq!(archive.pack_anew(dependent, 60, (70, &new)), CommandOutcome::Applied);
    assert!(archive.is_visible(60));
    let progress = archive.the_progress();
    assert_eq!((&progress.passing[..], &progress.kept[..]), (&[bundle_id(1)][..], &[][..]));
    assert_eq!(archive.planned(), [], "readers may still be at it");
    assert_eq!(archive.carry_on(), [dependent], "what needs the chunks goes first");
    assert_eq!(archive.carry_on(), [bundle_id(1)]);
    archive.confirm_all();
    assert!(archive.the_progress().is_done());
}

#[test]
fn a_commit_or_replacement_that_comes_too_late_does_not_come_to_depend_on_what_goes() {
    let (mut archive, dependent) = kept();
    let late = using(61, &[bundle_id(1)]);
    archive.reserve_as(61, &late, 4, &FOUR);
    let refused = CommandOutcome::Rejected(RejectReason::UnknownDependency);
    assert_eq!(archive.commit(61, &FOUR, vec![entry(61, &[])]), refused);
    let again = using(62, &[bundle_id(1)]);
    assert_eq!(archive.pack_anew(dependent, 60, (62, &again)), refused);
    assert!(archive.is_visible(60));
}

#[test]
fn what_uses_chunks_of_what_was_packed_anew_stays_as_it_is_and_holds_up_no_purge() {
    let mut archive = Archive::of(4);
    archive.publish(1, (2, 4), &FOUR);
    let dependent = archive.add(60, &using(60, &[bundle_id(1)]));
    let further = archive.add(61, &using(61, &[dependent]));
    archive.purge_away(1);
    archive.carry_on();
    assert_eq!(archive.the_progress().kept[0].to_repack, [dependent], "the other needs nothing of it");
    archive.pack_anew(dependent, 60, (70, &headers(70, 2, Vec::new())));
    assert_eq!(archive.carry_on(), [bundle_id(1)]);
    assert_eq!(archive.carry_on(), []);
    assert!(!archive.is_erased(dependent));
    // Who asks is told that nothing new may use it.
    let Ok(replaced) = replaced_among(&archive.state, &[further, dependent, bundle_id(1), bundle_id(99)]);
    assert_eq!(replaced, [dependent, bundle_id(1)]);
    // Nothing is said of it, for nothing is left to do.
    assert!(archive.the_progress().kept.is_empty() && archive.the_progress().passing.is_empty());
    // Whenever the last one that uses it goes, so does it.
    archive.pack_anew(further, 61, (71, &headers(71, 2, Vec::new())));
    assert_eq!(archive.carry_on(), [further]);
    assert_eq!(archive.carry_on(), [dependent]);
}

#[test]
fn a_bundle_is_not_erased_while_what_took_the_place_of_its_dependent_is_weak() {
    use firn_base::ShardIndex;
    use firn_wire::PlacementChange;
    let mut archive = Archive::of(4);
    archive.publish(1, (2, 4), &FOUR);
    let dependent = archive.add(60, &using(60, &[bundle_id(1)]));
    archive.add(61, &using(61, &[dependent]));
    archive.purge_away(1);
    archive.carry_on();
    let new = headers(70, 2, Vec::new());
    archive.pack_anew(dependent, 60, (70, &new));
    let lost = |index| PlacementChange::Missing {
        coding: new.1.coding_id(),
        index: ShardIndex(index),
        node: node_id(u32::from(index)),
    };
    archive.run(Command::RecordPlacements(vec![lost(0), lost(1)]));
    assert_eq!(archive.carry_on(), []);
}

#[test]
fn an_answer_names_some_of_many_dependents_and_counts_all() {
    let mut archive = Archive::of(4);
    archive.publish(1, (2, 4), &FOUR);
    let all: Vec<BundleId> = (100..170).map(|tag| archive.add(tag, &using(tag, &[bundle_id(1)]))).collect();
    archive.purge_away(1);
    archive.carry_on();
    let progress = archive.the_progress();
    assert_eq!((progress.kept[0].dependents, &progress.kept[0].to_repack[..]), (70, &all[..64]));
}

/// Bundle 60 is as a rebuild brings one back that had stayed for its chunks: without a record, and used by bundle 61.
fn emptied() -> (Archive, BundleId, BundleId) {
    let mut archive = Archive::of(4);
    archive.publish(1, (2, 4), &FOUR);
    let empty = archive.add_with(60, &using(60, &[]), Vec::new());
    let further = archive.add(61, &using(61, &[empty]));
    (archive, empty, further)
}

#[test]
fn what_came_back_without_its_records_counts_for_every_purge_until_it_is_gone() {
    let (mut archive, empty, further) = emptied();
    archive.publish(2, (2, 4), &FOUR);
    assert_eq!(archive.planned(), [], "without a purge it stays");
    archive.purge_away(1);
    archive.purge_away(2);
    let stays_for_others = |archive: &Archive| {
        for purge in archive.progress_of_all() {
            let [needed] = &purge.kept[..] else { panic!("{purge:?}") };
            assert_eq!((needed.bundle, needed.dependents, &needed.to_repack[..]), (empty, 1, &[further][..]));
        }
    };
    stays_for_others(&archive);
    assert_eq!(archive.carry_on(), []);
    stays_for_others(&archive);
    assert_eq!(archive.carry_on(), [bundle_id(1), bundle_id(2)]);
    archive.confirm_all();
    stays_for_others(&archive);
    let summary = |archive: &Archive| {
        archive.planning(|view| {
            let Ok(book) = PurgeBook::read(&archive.state, view.catalogue);
            purge_summary(&book, view)
        })
    };
    assert_eq!((summary(&archive).under_way, summary(&archive).to_repack), (2, 1));
    // Nothing new comes to use it.
    let Ok(replaced) = replaced_among(&archive.state, &[empty, further]);
    assert_eq!(replaced, [empty]);
    archive.pack_anew(further, 61, (71, &headers(71, 2, Vec::new())));
    assert_eq!(archive.carry_on(), [further]);
    assert_eq!(archive.carry_on(), [], "nodes that are away may have another one that uses it");
    archive.wait(COUNT_LOST_AFTER_MILLIS);
    assert_eq!(
        archive.carry_on(),
        [],
        "one that is away may have said so beforehand: a rebuild forgets that"
    );
    archive.wait(absence_millis());
    assert_eq!(archive.carry_on(), [empty]);
    assert_eq!(summary(&archive).under_way, 2, "nobody has said that it is gone");
    assert!(archive.progress_of_all().iter().all(|purge| !purge.is_done()));
    archive.confirm_all();
    assert!(archive.progress_of_all().iter().all(PurgeProgress::is_done));
    assert_eq!(summary(&archive), firn_wire::PurgeSummary::default());
}

#[test]
fn what_came_back_without_its_records_and_nobody_is_known_to_use_waits_for_nodes_that_are_away() {
    let mut archive = Archive::of(4);
    archive.publish(1, (2, 4), &FOUR);
    let empty = archive.add_with(60, &using(60, &[bundle_id(1)]), Vec::new());
    archive.purge_away(1);
    assert_eq!(archive.carry_on(), []);
    assert_eq!(archive.carry_on(), [], "it needs the chunks of the other one");
    let progress = archive.the_progress();
    assert_eq!((&progress.passing[..], &progress.kept[..]), (&[bundle_id(1), empty][..], &[][..]));
    archive.wait(absence_millis());
    assert_eq!(archive.carry_on(), [empty]);
    assert_eq!(archive.carry_on(), [bundle_id(1)]);
    archive.confirm_all();
    assert!(archive.the_progress().is_done());
}

#[test]
fn what_came_back_without_its_records_is_no_small_bundle() {
    let (archive, ..) = emptied();
    let fill = archive.planning(|view| view.catalogue.fill());
    assert_eq!((fill.bundles, fill.small_bundles), (2, 2));
}

#[test]
fn a_step_that_was_refused_waits_and_holds_up_no_other() {
    let mut archive = Archive::of(4);
    let mut refused = RefusedSteps::default();
    for tag in [1, 2] {
        archive.publish(tag, (2, 4), &FOUR);
        archive.purge_away(tag);
    }
    refused.refused(bundle_id(1), archive.now);
    let planned = |archive: &Archive| {
        let commands = archive.planning(|view| {
            let Ok(book) = PurgeBook::read(&archive.state, view.catalogue);
            plan_purging(&book, view, GRACE, &refused)
        });
        commands
            .iter()
            .map(|command| match command {
                Command::ReplaceBundle { bundle, .. } => *bundle,
                other => panic!("{other:?}"),
            })
            .collect::<Vec<_>>()
    };
    assert_eq!(planned(&archive), [bundle_id(2)]);
    archive.wait(1_000);
    assert_eq!(planned(&archive), [bundle_id(1), bundle_id(2)]);
}

#[test]
fn a_later_purge_of_what_was_packed_anew_reaches_the_bundle_that_stayed_for_its_chunks() {
    let mut archive = Archive::of(4);
    archive.publish(1, (2, 4), &FOUR);
    let dependent = archive.add(60, &using(60, &[bundle_id(1)]));
    let further = archive.add(61, &using(61, &[dependent]));
    archive.purge_away(1);
    archive.carry_on();
    archive.pack_anew(dependent, 60, (70, &headers(70, 2, Vec::new())));
    assert_eq!(archive.carry_on(), [bundle_id(1)]);
    archive.confirm_all();
    let of = |archive: &Archive, name| {
        let all = archive.progress_of_all();
        all.into_iter().find(|purge| purge.key == key(name)).unwrap()
    };
    assert!(of(&archive, 1).is_done());
    // The path lies in the new bundle alone, its bytes in the old one as well.
    archive.purge_away(60);
    let stays_for_others = |archive: &Archive| {
        let progress = of(archive, 60);
        let [needed] = &progress.kept[..] else { panic!("{progress:?}") };
        assert_eq!((needed.bundle, &needed.to_repack[..]), (dependent, &[further][..]));
    };
    stays_for_others(&archive);
    archive.carry_on();
    stays_for_others(&archive);
    assert_eq!(archive.carry_on().len(), 1, "what took its place goes");
    archive.confirm_all();
    stays_for_others(&archive);
    assert!(of(&archive, 1).is_done());
    archive.pack_anew(further, 61, (71, &headers(71, 2, Vec::new())));
    assert!(!of(&archive, 60).is_done());
    assert_eq!(archive.carry_on(), [further]);
    assert_eq!(archive.carry_on(), [dependent]);
    assert!(!of(&archive, 60).is_done(), "nobody has said that it is gone");
    archive.confirm_all();
    assert!(of(&archive, 60).is_done());
}

#[test]
fn parts_stay_as_long_as_their_head_whatever_uses_its_chunks() {
    let mut archive = Archive::of(4);
    let part_of = |tag| headers_as(BundleRole::Part, tag, 2, Vec::new());
    let (old_part, new_part) = (part_of(50), part_of(52));
    let (bundle, part) = (headers(51, 2, vec![old_part.0.bundle_id()]), old_part.0.bundle_id());
    let new = headers(53, 2, vec![new_part.0.bundle_id()]);
    for (tag, headers) in [(50, &old_part), (51, &bundle), (52, &new_part), (53, &new)] {
        archive.reserve_as(tag, headers, 4, &FOUR);
    }
    let bundle = bundle.0.bundle_id();
    let bundles = vec![commit_of(50, &FOUR, Vec::new()), commit_of(51, &FOUR, vec![entry(1, &[])])];
    archive.run(Command::Commit { bundles, externals: Vec::new() });
    let further = archive.add(61, &using(61, &[bundle]));
    let replacement = |tag, records| {
        let commit = commit_of(tag, &FOUR, Vec::new());
        ReplacementBundle { reservation: commit.reservation, receipts: commit.receipts, records }
    };
    let replacements = vec![replacement(52, Vec::new()), replacement(53, vec![moved(&1)])];
    let command = Command::ReplaceBundle { bundle, left_out: Vec::new(), replacements };
    assert_eq!(archive.run(command), CommandOutcome::Applied);
    assert_eq!(archive.carry_on(), []);
    archive.pack_anew(further, 61, (71, &headers(71, 2, Vec::new())));
    assert_eq!(archive.carry_on(), [further]);
    assert_eq!(archive.carry_on(), [bundle]);
    assert_eq!(archive.carry_on(), [part]);
}

#[test]
fn many_bundles_that_hold_nothing_but_purged_paths_keep_no_erasure_waiting() {
    let mut archive = Archive::of(4);
    archive.publish(1, (2, 4), &FOUR);
    archive.purge_away(1);
    archive.carry_on();
    for tag in 100..170 {
        archive.publish(tag, (2, 4), &FOUR);
        archive.purge_away(tag);
    }
    assert_eq!(archive.carry_on(), [bundle_id(1)]);
}

#[test]
fn an_object_of_several_bundles_is_packed_anew_with_its_parts() {
    let mut archive = Archive::of(4);
    let part_of = |tag| headers_as(BundleRole::Part, tag, 2, Vec::new());
    let (old_part, new_part) = (part_of(50), part_of(52));
    let (old, new) =
        (headers(51, 2, vec![old_part.0.bundle_id()]), headers(53, 2, vec![new_part.0.bundle_id()]));
    for (tag, headers) in [(50, &old_part), (51, &old), (52, &new_part), (53, &new)] {
        archive.reserve_as(tag, headers, 4, &FOUR);
    }
    let bundles = vec![commit_of(50, &FOUR, Vec::new()), commit_of(51, &FOUR, vec![entry(1, &[])])];
    archive.run(Command::Commit { bundles, externals: Vec::new() });
    let (bundle, part) = (old.0.bundle_id(), old_part.0.bundle_id());
    let Ok(leaving) = leaving_with(&archive.state, bundle);
    assert_eq!(leaving, [bundle, part].into());
    let replacement = |tag, records| {
        let commit = commit_of(tag, &FOUR, Vec::new());
        ReplacementBundle { reservation: commit.reservation, receipts: commit.receipts, records }
    };
    let replacements = vec![replacement(52, Vec::new()), replacement(53, vec![moved(&1)])];
    let command = Command::ReplaceBundle { bundle, left_out: Vec::new(), replacements };
    assert_eq!(archive.run(command), CommandOutcome::Applied);
    let Ok(location) = archive.state.location(key(1));
    let Ok(number) = archive.state.bundle_number(new.0.bundle_id());
    assert_eq!(location.map(|location| Some(location.bundle)), Some(number));
    assert_eq!(archive.carry_on(), [bundle]);
    assert_eq!(archive.carry_on(), [part]);
}

/// What an honest node shows of a bundle of these headers.
fn shown(archive: &Archive, bundle: BundleId) -> KeptBundle {
    let Ok(record) = archive.state.bundle_by_id(bundle);
    archive.kept_of(&record.unwrap(), &[0, 1])
}

#[test]
fn what_stayed_for_its_chunks_alone_comes_back_without_its_records_and_digests_are_the_same() {
    let mut old = Archive::of(4);
    old.publish(1, (2, 4), &FOUR);
    let dependent = old.add(60, &using(60, &[bundle_id(1)]));
    let further = old.add(61, &using(61, &[dependent]));
    old.purge_away(1);
    old.carry_on();
    let new = headers(70, 2, Vec::new());
    old.pack_anew(dependent, 60, (70, &new));
    assert_eq!(old.carry_on(), [bundle_id(1)]);

    let (mut evidence, ledger) = (evidence(), old.ledger());
    for node in [1, 2] {
        evidence.show_governance(node_id(node), &[], &heads(&[1, 2], &ledger), ledger.clone());
        for bundle in [dependent, further, new.0.bundle_id()] {
            show(&mut evidence, node_id(node), shown(&old, bundle));
        }
    }
    let mut again = Archive::beginning(MemoryState::new(), old.now);
    for id in in_order(&evidence) {
        let record = |name: u8, entry: u8| firn_coordinator_logic::RecordSummary {
            key: key(name),
            block: 0,
            entry: entry.into(),
            references: Vec::new(),
            features: Vec::new(),
        };
        let records = match id {
            id if id == dependent => record(60, 60),
            id if id == further => record(61, 61),
            _ => record(60, 70),
        };
        let bundle = codings(&evidence, id).remove(0);
        let Ok(plan) = plan_restored(&again.state, bundle, &[records], &evidence.erased());
        assert_eq!(again.run(plan.restore), CommandOutcome::Applied);
    }
    let entries = Command::RestoreLedger(evidence.ledger_page(0, u64::MAX));
    assert_eq!(again.run(entries), CommandOutcome::Applied);
    let Ok(places) = again.state.locations(key(60));
    let Ok(number) = again.state.bundle_number(new.0.bundle_id());
    assert_eq!(places.iter().map(|place| place.bundle).collect::<Vec<_>>(), [number.unwrap()]);
    assert_eq!(again.digests(), old.digests());
}

#[test]
fn the_index_of_purges_that_follows_changes_is_the_one_that_is_read() {
    let (mut archive, _, further) = emptied();
    archive.add(63, &using(63, &[bundle_id(1)]));
    let mut followed = archive.planning(|view| view.catalogue.clone());
    let govern = |act| Command::Govern(act);
    let (reason, key) = ("court".to_owned(), key(1));
    let withdraw = govern(LedgerAct::Withdraw { key, reason: reason.clone() });
    let mut due = vec![withdraw, govern(LedgerAct::Purge { key, reason })];
    let mut kinds = 0;
    for round in 0..6 {
        for command in std::mem::take(&mut due) {
            let Ok(applied) =
                apply(&archive.state, &TimedCommand::of_coordinators(archive.now, command.clone()));
            followed.absorb(applied.changes.iter().filter(|change| Catalogue::concerns(change)), archive.now);
            assert_eq!(archive.run(command), CommandOutcome::Applied);
            archive.planning(|view| assert_eq!(view.catalogue.purges(), followed.purges()));
            archive.planning(|view| assert_eq!(view.catalogue.is_purged(), followed.is_purged()));
        }
        if round == 3 {
            for (old, name, new) in [(further, 61, 71), (using(63, &[bundle_id(1)]).0.bundle_id(), 63, 73)] {
                archive.pack_anew(old, name, (new, &headers(new, 2, Vec::new())));
            }
            followed = archive.planning(|view| view.catalogue.clone());
        }
        archive.wait(600_000);
        archive.hear_all_but(&[]);
        let Ok(counters) = archive.state.counters();
        for node in FOUR {
            let erased_through = counters.ledger.entries;
            archive.hear_status(node, NodeStatus { erased_through, ..status(1) });
        }
        due = archive.planned();
        kinds += due.len();
    }
    assert!(kinds >= 6, "bundles are replaced and erased, and nodes confirm it");
}
