//! Features: the records that had each of them last are remembered, in bundles that stay, and told again by a rebuild.

use firn_base::{BundleNumber, Feature, Location};
use firn_coordinator_logic::{
    CertifiedBundle, CheckedBundle, Facts, GoingContent, MemoryState, RecordSummary, advance, apply,
    find_similar, full_digest, plan_commit_features, plan_features, plan_gathered_features,
};
use firn_wire::{
    Command, CommandOutcome, Gathered, GatheredPlace, LedgerAct, RecordPlace, ReplacementBundle,
    SIMILAR_RECORDS_MAX, SimilarRecord, TimedCommand,
};
use proptest::prelude::*;

use crate::compaction_support::{compact, into};
use crate::rebuild_support::{evidence, heads, in_order, show};
use crate::support::{
    Archive, at, bundle_id, commit_of, entry, headers, key, moved, node_id, reservation_id, uploader,
};

const FOUR: [u32; 4] = [0, 1, 2, 3];

fn named(name: u8) -> Feature {
    Feature::from_bytes([name; 8])
}

/// What is told of a bundle: records and their features.
fn told(tag: u8, replaces: Option<u8>, records: &[(u8, &[u8])]) -> Command {
    let record = |(name, features): &(u8, &[u8])| (at(*name), features.iter().copied().map(named).collect());
    Command::RememberFeatures {
        bundle: bundle_id(tag),
        replaces: replaces.map(bundle_id),
        records: records.iter().map(record).collect(),
    }
}

/// Commits a bundle of these records, and tells their features.
fn committed(archive: &mut Archive, tag: u8, records: &[(u8, &[u8])]) {
    archive.reserve(tag, (2, 4), &FOUR);
    let outcome = archive.commit(tag, &FOUR, records.iter().map(|(name, _)| entry(*name, &[])).collect());
    assert!(matches!(outcome, CommandOutcome::Committed { .. }), "{outcome:?}");
    remember(archive, told(tag, None, records));
}

/// Remembers; the digest that goes with the change is that of the state after it.
fn remember(archive: &mut Archive, command: Command) {
    let timed = TimedCommand::of_coordinators(archive.now, command.clone());
    let (Ok(mut digest), Ok(applied)) = (full_digest(&archive.state), apply(&archive.state, &timed));
    let Ok(()) = advance(&mut digest, &archive.state, &applied.changes);
    assert_eq!(archive.run(command), CommandOutcome::Applied);
    assert_eq!(Ok(digest), full_digest(&archive.state));
}

/// Lets bundle `new` take the place of `old`: `kept` move ten entries on, `purged` is gone. Nothing is told of features.
fn replaced(archive: &mut Archive, (old, new): (u8, u8), kept: &[u8], purged: u8) {
    for act in [
        LedgerAct::Withdraw { key: key(purged), reason: "asked to".into() },
        LedgerAct::Purge { key: key(purged), reason: "court".into() },
    ] {
        assert_eq!(archive.run(Command::Govern(act)), CommandOutcome::Applied);
    }
    archive.reserve(new, (2, 4), &FOUR);
    let commit = commit_of(new, &FOUR, Vec::new());
    let replacement = ReplacementBundle {
        reservation: commit.reservation,
        receipts: commit.receipts,
        records: kept.iter().map(moved).collect(),
    };
    let replace = Command::ReplaceBundle {
        bundle: bundle_id(old),
        left_out: vec![(key(purged), at(purged))],
        replacements: vec![replacement],
    };
    assert_eq!(archive.run(replace), CommandOutcome::Applied);
}

/// What the table holds for a feature: bundle and entry of each place.
fn kept(archive: &Archive, name: u8) -> Vec<(u8, u8)> {
    let Ok(places) = archive.state.similar(named(name));
    let tag = |number: BundleNumber| {
        let Ok(Some(record)) = archive.state.bundle(number) else { panic!("{number:?}") };
        (1..=u8::MAX).find(|tag| bundle_id(*tag) == record.id).unwrap()
    };
    let place = |place: &Location| (tag(place.bundle), u8::try_from(place.entry).unwrap());
    places.iter().map(place).collect()
}

/// What is told of a feature.
fn found(archive: &Archive, name: u8) -> Vec<SimilarRecord> {
    let Ok(going) = GoingContent::read(&archive.state);
    let Ok(mut found) = find_similar(&archive.state, &going, &[named(200), named(name)]);
    assert!(found[0].is_empty(), "nothing has this feature");
    found.remove(1)
}

fn records(places: &[(u8, u8)]) -> Vec<SimilarRecord> {
    let record = |(tag, name): &(u8, u8)| SimilarRecord { bundle: bundle_id(*tag), place: at(*name) };
    places.iter().map(record).collect()
}

#[test]
fn the_records_that_had_a_feature_last_are_found_the_latest_first() {
    let mut archive = Archive::of(4);
    committed(&mut archive, 1, &[(1, &[1, 2])]);
    committed(&mut archive, 2, &[(2, &[2]), (3, &[1])]);
    assert_eq!(found(&archive, 1), records(&[(2, 3), (1, 1)]));
    assert_eq!(found(&archive, 2), records(&[(2, 2), (1, 1)]));
    for tag in 3..9 {
        committed(&mut archive, tag, &[(tag + 20, &[1])]);
    }
    let last: Vec<_> = (3..9).rev().map(|tag: u8| (tag, tag + 20)).take(SIMILAR_RECORDS_MAX).collect();
    assert_eq!(found(&archive, 1), records(&last));
    assert_eq!(kept(&archive, 1), last);
}

#[test]
fn a_feature_names_one_place_of_a_bundle_and_what_is_told_twice_changes_nothing() {
    let mut archive = Archive::of(4);
    committed(&mut archive, 1, &[(1, &[1, 1]), (2, &[1])]);
    committed(&mut archive, 2, &[(3, &[1])]);
    remember(&mut archive, told(1, None, &[(1, &[1]), (2, &[1])]));
    assert_eq!(kept(&archive, 1), [(2, 3), (1, 1)]);
}

#[test]
fn of_a_bundle_that_is_not_there_or_is_gone_nothing_is_remembered() {
    let mut archive = Archive::of(4);
    remember(&mut archive, told(1, None, &[(1, &[1])]));
    committed(&mut archive, 1, &[(1, &[]), (2, &[])]);
    replaced(&mut archive, (1, 7), &[1], 2);
    remember(&mut archive, told(1, None, &[(1, &[1])]));
    // Bundle 7 is there, but not in the place of 2 nor of one that is not there.
    committed(&mut archive, 2, &[(3, &[])]);
    remember(&mut archive, told(7, Some(2), &[(11, &[1])]));
    remember(&mut archive, told(7, Some(9), &[(11, &[1])]));
    assert!(kept(&archive, 1).is_empty());
}

#[test]
fn a_moved_record_takes_the_place_of_its_first_form_and_pushes_nobody_out() {
    let mut archive = Archive::of(4);
    committed(&mut archive, 1, &[(1, &[1]), (2, &[2]), (3, &[7])]);
    for tag in 2..5 {
        committed(&mut archive, tag, &[(tag + 20, &[1])]);
    }
    // A bundle that uses chunks of the first, and has a feature of its own.
    archive.reserve_as(60, &headers(60, 2, vec![bundle_id(1)]), 4, &FOUR);
    archive.commit(60, &FOUR, vec![entry(50, &[])]);
    let (dependent, _) = headers(60, 2, vec![bundle_id(1)]);
    remember(
        &mut archive,
        Command::RememberFeatures {
            bundle: dependent.bundle_id(),
            replaces: None,
            records: vec![(at(50), vec![named(90)])],
        },
    );
    assert_eq!(found(&archive, 90).len(), 1);
    replaced(&mut archive, (1, 9), &[1, 2], 3);
    assert_eq!(found(&archive, 90), records(&[]), "what it uses is about to go");
    // Until the new place is told nothing is lost, and nothing is found where it was.
    assert_eq!(kept(&archive, 1), [(4, 24), (3, 23), (2, 22), (1, 1)]);
    assert_eq!(found(&archive, 1), records(&[(4, 24), (3, 23), (2, 22)]));
    assert_eq!(found(&archive, 7), records(&[]));
    remember(&mut archive, told(9, Some(1), &[(11, &[1]), (12, &[2])]));
    assert_eq!(kept(&archive, 1), [(4, 24), (3, 23), (2, 22), (9, 11)]);
    assert_eq!(kept(&archive, 2), [(9, 12)]);
    // The next record that has it drops the place that leads nowhere.
    committed(&mut archive, 8, &[(30, &[7])]);
    assert_eq!(kept(&archive, 7), [(8, 30)]);
}

#[test]
fn what_was_forgotten_before_it_moved_comes_last_if_there_is_room() {
    let mut archive = Archive::of(4);
    committed(&mut archive, 1, &[(1, &[1, 2]), (3, &[])]);
    for tag in 2..6 {
        committed(&mut archive, tag, &[(tag + 20, &[1])]);
    }
    committed(&mut archive, 6, &[(40, &[3])]);
    replaced(&mut archive, (1, 9), &[1], 3);
    remember(&mut archive, told(9, Some(1), &[(11, &[1, 2, 3])]));
    assert_eq!(kept(&archive, 1), [(5, 25), (4, 24), (3, 23), (2, 22)]);
    assert_eq!(kept(&archive, 2), [(9, 11)]);
    assert_eq!(kept(&archive, 3), [(6, 40), (9, 11)]);
}

#[test]
fn neither_withdrawn_records_nor_bundles_with_a_purge_are_told_of() {
    let mut archive = Archive::of(4);
    committed(&mut archive, 1, &[(1, &[1]), (2, &[2])]);
    committed(&mut archive, 2, &[(3, &[1])]);
    let first_of = |archive: &Archive, tags: &[u8]| {
        let ids: Vec<_> = tags.iter().copied().map(bundle_id).collect();
        let Ok(going) = GoingContent::read(&archive.state);
        let Ok(first) = going.first_of(&archive.state, &ids);
        first
    };
    archive.govern(LedgerAct::Withdraw { key: key(2), reason: "asked to".into() });
    assert_eq!(found(&archive, 2), records(&[]));
    assert_eq!(found(&archive, 1), records(&[(2, 3), (1, 1)]), "what lies beside it stays");
    assert_eq!(first_of(&archive, &[1, 2]), None);
    archive.govern(LedgerAct::Purge { key: key(2), reason: "court".into() });
    assert_eq!(found(&archive, 1), records(&[(2, 3)]), "the bundle is about to go");
    assert_eq!(first_of(&archive, &[9, 2, 1]), Some(bundle_id(1)));
    assert_eq!(first_of(&archive, &[9, 2]), None);
    assert_eq!(kept(&archive, 2), [(1, 2)], "it is remembered: a path may be reinstated");
}

#[test]
fn a_withdrawn_record_that_waits_is_not_told_of() {
    let mut archive = Archive::of(4);
    archive.reserve(1, (2, 4), &FOUR);
    archive.commit(1, &FOUR, vec![entry(1, &[99])]);
    remember(&mut archive, told(1, None, &[(1, &[1])]));
    assert_eq!(found(&archive, 1), records(&[(1, 1)]));
    archive.govern(LedgerAct::Withdraw { key: key(1), reason: "asked to".into() });
    assert_eq!(found(&archive, 1), records(&[]));
}

/// The records of bundles 1 to 3, of which each has the key of its tag.
fn manifests(bundle: &CertifiedBundle) -> Vec<RecordSummary> {
    let tag = (1..=3).find(|tag| bundle_id(*tag) == bundle.certificate.bundle).unwrap();
    let features = vec![named(50), named(60 + tag)];
    vec![RecordSummary { key: key(tag), block: 0, entry: tag.into(), references: Vec::new(), features }]
}

#[test]
fn a_rebuild_remembers_what_commits_remembered() {
    let mut old = Archive::of(4);
    old.govern(LedgerAct::AddUploader { key: uploader(), name: "hydra".into() });
    for tag in 1..=3 {
        committed(&mut old, tag, &[(tag, &[50, 60 + tag])]);
        old.wait(5);
    }
    assert_eq!(kept(&old, 50), [(3, 3), (2, 2), (1, 1)]);
    let mut evidence = evidence();
    let ledger = old.ledger();
    for node in [1, 2] {
        evidence.show_governance(node_id(node), &[], &heads(&[1, 2], &ledger), ledger.clone());
        for tag in [2, 3, 1] {
            show(&mut evidence, node_id(node), old.kept(tag, &[0, 1]));
        }
    }
    assert_eq!(in_order(&evidence).len(), 3);
    let mut new = Archive::beginning(MemoryState::new(), old.now);
    new.restore(&evidence, manifests);
    for name in [50, 61, 62, 63] {
        assert_eq!((kept(&new, name), kept(&new, name).is_empty()), (kept(&old, name), false));
    }
}

/// A record of this name with these features, as a manifest says.
fn summary(name: u8, place: RecordPlace, features: &[u8]) -> RecordSummary {
    let features = features.iter().copied().map(named).collect();
    RecordSummary { key: key(name), block: place.block, entry: place.entry, references: Vec::new(), features }
}

/// A bundle with records of these names, in their order and where they lie, each with these features.
fn checked(tag: u8, records: Vec<RecordSummary>) -> CheckedBundle {
    CheckedBundle { reservation: reservation_id(tag), bundle: bundle_id(tag), receipts: Vec::new(), records }
}

#[test]
fn of_several_versions_in_a_bundle_the_last_one_is_found() {
    let mut archive = Archive::of(4);
    for tag in 1..=2 {
        archive.reserve(tag, (2, 4), &FOUR);
        archive.commit(tag, &FOUR, (1..=3).map(|version| entry(10 * tag + version, &[])).collect());
    }
    // All of them are called so, and the first two of each have a chunk in common.
    let bundles = [1, 2].map(|tag| {
        let versions = [(1, &[1, 2][..]), (2, &[1, 2]), (3, &[1])];
        let records = versions.map(|(version, features)| {
            let name = 10 * tag + version;
            summary(name, at(name), features)
        });
        checked(tag, records.to_vec())
    });
    for command in plan_commit_features(&bundles, None) {
        remember(&mut archive, command);
    }
    assert_eq!(kept(&archive, 1), [(2, 23), (1, 13)]);
    assert_eq!(kept(&archive, 2), [(2, 22), (1, 12)]);
}

#[test]
fn of_versions_that_one_bundle_leaves_to_several_the_last_one_takes_its_place() {
    let mut archive = Archive::of(4);
    committed(&mut archive, 1, &[(1, &[1]), (2, &[1]), (9, &[])]);
    committed(&mut archive, 2, &[(3, &[1])]);
    for act in [
        LedgerAct::Withdraw { key: key(9), reason: "asked to".into() },
        LedgerAct::Purge { key: key(9), reason: "court".into() },
    ] {
        archive.govern(act);
    }
    let replacement = |tag: u8, name: u8| {
        let commit = commit_of(tag, &FOUR, Vec::new());
        let (reservation, receipts) = (commit.reservation, commit.receipts);
        ReplacementBundle { reservation, receipts, records: vec![moved(&name)] }
    };
    for tag in [7, 8] {
        archive.reserve(tag, (2, 4), &FOUR);
    }
    let replace = Command::ReplaceBundle {
        bundle: bundle_id(1),
        left_out: vec![(key(9), at(9))],
        replacements: vec![replacement(7, 1), replacement(8, 2)],
    };
    assert_eq!(archive.run(replace), CommandOutcome::Applied);
    let bundles = [(7, 1), (8, 2)].map(|(tag, name)| checked(tag, vec![summary(name, at(name + 10), &[1])]));
    for command in plan_commit_features(&bundles, Some(bundle_id(1))) {
        remember(&mut archive, command);
    }
    assert_eq!(kept(&archive, 1), [(2, 3), (8, 12), (7, 11)]);
}

/// Versions of a package in bundles 1 to 6, each with a feature that all have and one of its own; then those of `order`, which
/// are named so, come together in bundle 7. What is told of that.
fn versions_come_together(order: &[u8]) -> (Archive, Vec<Command>) {
    let mut archive = Archive::of(4);
    for tag in 1..=6 {
        committed(&mut archive, tag, &[(tag, &[1, 10 + tag])]);
        archive.wait(5);
    }
    archive.reserve(7, (2, 4), &FOUR);
    let named: Vec<(u16, u8)> = (0..).zip(order.iter().copied()).collect();
    let together = into(7, &named);
    let records = together.records.iter().zip(order);
    let records = records.map(|(record, version)| summary(*version, record.to, &[1, 10 + version]));
    let new = checked(7, records.collect());
    let from = named.iter().map(|(bundle, version)| GatheredPlace { bundle: *bundle, place: at(*version) });
    let gathered =
        Gathered { bundles: order.iter().copied().map(bundle_id).collect(), from: vec![from.collect()] };
    let Ok(commands) = plan_gathered_features(&archive.state, &gathered, &[new]);
    assert_eq!(archive.run(compact(order, vec![together])), CommandOutcome::Applied);
    (archive, commands)
}

proptest! {
    #[test]
    fn of_versions_that_come_together_the_latest_is_found_whatever_their_order_and_whoever_leads_meanwhile(
        order in Just(vec![1_u8, 2, 3, 4, 6]).prop_shuffle(),
        told_before in 0_usize..=5,
    ) {
        let (mut archive, commands) = versions_come_together(&order);
        prop_assert_eq!(commands.len(), 5);
        // Told in part by one leader, and from the beginning by the next. One command is enough for what all have.
        for command in commands[..told_before].iter().chain(&commands) {
            remember(&mut archive, command.clone());
            prop_assert_eq!(kept(&archive, 1), [(7, 16), (5, 5)]);
        }
        for version in order {
            prop_assert_eq!(kept(&archive, 10 + version), [(7, version + 10)]);
        }
    }
}

#[test]
fn of_what_comes_together_in_several_bundles_the_last_in_the_history_is_told_first() {
    let mut archive = Archive::of(4);
    for tag in 1..=3 {
        committed(&mut archive, tag, &[(tag, &[]), (tag + 10, &[])]);
        archive.wait(5);
    }
    let place = |bundle: u16, name: u8| GatheredPlace { bundle, place: at(name) };
    let gathered = Gathered {
        bundles: [2, 1, 3].map(bundle_id).to_vec(),
        from: vec![
            vec![place(1, 1), place(2, 3), place(1, 11), place(9, 1)],
            vec![place(2, 13), place(0, 2), place(0, 12)],
        ],
    };
    let of = |names: &[u8]| names.iter().map(|name| summary(*name, at(name + 20), &[1])).collect();
    let new = [checked(7, of(&[1, 3, 11, 99])), checked(8, of(&[13, 2, 12]))];
    let Ok(commands) = plan_gathered_features(&archive.state, &gathered, &new);
    let expected = [
        told(8, Some(3), &[(33, &[1])]),
        told(7, Some(3), &[(23, &[1])]),
        told(8, Some(2), &[(32, &[1]), (22, &[1])]),
        told(7, Some(1), &[(31, &[1]), (21, &[1])]),
    ];
    assert_eq!(commands, expected);
}

#[test]
fn records_without_features_are_not_told_of() {
    let record = |entry: u16, features: &[u8]| RecordSummary {
        key: key(1),
        block: 300,
        entry,
        references: Vec::new(),
        features: features.iter().copied().map(named).collect(),
    };
    assert_eq!(plan_features(bundle_id(1), None, &[record(1, &[])]), None);
    let command = plan_features(bundle_id(1), Some(bundle_id(2)), &[record(1, &[]), record(2, &[9, 8])]);
    let place = RecordPlace { block: 300, entry: 2 };
    let records = vec![(place, vec![named(9), named(8)])];
    let (bundle, replaces) = (bundle_id(1), Some(bundle_id(2)));
    assert_eq!(command, Some(Command::RememberFeatures { bundle, replaces, records }));
}
