//! Features: the records that had each of them last are remembered, in bundles that stay, and told again by a rebuild.

use firn_base::{BundleNumber, Feature, Location};
use firn_coordinator_logic::{
    CertifiedBundle, Facts, GoingContent, MemoryState, RecordSummary, advance, apply, find_similar,
    full_digest, plan_features,
};
use firn_wire::{
    Command, CommandOutcome, LedgerAct, RecordPlace, ReplacementBundle, SIMILAR_RECORDS_MAX, SimilarRecord,
    TimedCommand,
};

use crate::rebuild_support::{evidence, heads, in_order, show};
use crate::support::{Archive, at, bundle_id, commit_of, entry, headers, key, moved, node_id, uploader};

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
